/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Where things are: the folders of a user, found, checked and made. */
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_folder.h"
#include "store/store_internal.h"

#define FOLDER_MODE 0700u
#define WRITABLE_BY_ALL 0002u
#define STICKY 01000u

/* Where a room's folder is: below which variable, or what stands for it; and the names of our own below that. */
static const struct {
    const char *variable;
    const char *below_home; /* without the variable; NULL: the runtime folder has its own rule */
    const char *name;       /* below ".../kelpie"; empty: that folder itself */
} rooms[] = {
    [STORE_VMS] = {"XDG_STATE_HOME", ".local/state", "vms"},
    [STORE_SNAPSHOTS] = {"XDG_STATE_HOME", ".local/state", "snapshots"},
    [STORE_TEMPLATES] = {"XDG_STATE_HOME", ".local/state", "templates"},
    [STORE_IMAGES] = {"XDG_DATA_HOME", ".local/share", "images"},
    [STORE_SOCKETS] = {"XDG_RUNTIME_DIR", NULL, ""},
};
static_assert(ARRAY_SIZE(rooms) == STORE_ROOM_COUNT, "each room has a place");

static enum kelpie_status format_path(char *path, size_t size, struct kelpie_error *err,
                                      const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static enum kelpie_status format_path(char *path, size_t size, struct kelpie_error *err,
                                      const char *format, ...) {
    ASSERT(path);
    ASSERT(size > 0);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path, size, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= size) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "folder", "the path %.80s... is too long",
                               path);
    }
    return KELPIE_OK;
}

/* The place for sockets when no variable says one. */
static enum kelpie_status runtime_base(struct host *host, char *path, size_t size,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    struct host_file_info info;
    struct kelpie_error ignored;
    TRY(format_path(path, size, err, "/run/user/%u", host_user_id(host)));
    if (host_path_stat(host, path, &info, &ignored) == KELPIE_OK && info.type == HOST_FILE_FOLDER &&
        info.uid == host_user_id(host)) {
        return format_path(path, size, err, "/run/user/%u/kelpie", host_user_id(host));
    }
    return format_path(path, size, err, "/tmp/kelpie-%u", host_user_id(host));
}

/* "<base>/kelpie", without its parents' being there. */
static enum kelpie_status room_base(struct host *host, enum store_room room, char *path,
                                    size_t size, struct kelpie_error *err) {
    ASSERT(room < STORE_ROOM_COUNT);
    ASSERT(path);
    const char *base = host_environment(host, rooms[room].variable);
    if (base && base[0] == '/') {
        return format_path(path, size, err, "%s/kelpie", base);
    }
    if (!rooms[room].below_home) {
        return runtime_base(host, path, size, err);
    }
    const char *home = host_environment(host, "HOME");
    if (!home || home[0] != '/') {
        return error_set_field(err, KELPIE_BAD_CONFIG, "HOME",
                               "neither %s nor HOME says where to keep things",
                               rooms[room].variable);
    }
    return format_path(path, size, err, "%s/%s/kelpie", home, rooms[room].below_home);
}

/* A folder of ours can be swapped for another by whoever may write to the one that it is in. A sticky one (/tmp) is no danger. */
static enum kelpie_status check_parent(struct host *host, const char *path,
                                       struct kelpie_error *err) {
    struct host_file_info info;
    ASSERT(host);
    ASSERT(path[0] == '/');
    TRY(host_path_stat(host, path, &info, err));
    if (info.type == HOST_FILE_FOLDER && (info.mode & WRITABLE_BY_ALL) && !(info.mode & STICKY)) {
        return error_set_field(err, KELPIE_IO_FAILED, "folder",
                               "everybody may write to %s, and so swap what Kelpie keeps in it",
                               path);
    }
    return KELPIE_OK;
}

static enum kelpie_status open_room(struct store *store, enum store_room room,
                                    struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(room < STORE_ROOM_COUNT);
    char base[KELPIE_PATH_SIZE_MAX + 1];
    TRY(room_base(store->host, room, base, sizeof(base), err));
    char *slash = strrchr(base, '/');
    ASSERT(slash && slash > base);
    *slash = 0;
    TRY(host_path_mkdir_all(store->host, base, FOLDER_MODE, err));
    TRY(check_parent(store->host, base, err));
    *slash = '/';
    TRY(store_folder_check(store->host, base, err));
    char *folder = store->folders[room];
    TRY(format_path(folder, sizeof(store->folders[room]), err, "%s%s%s", base,
                    rooms[room].name[0] ? "/" : "", rooms[room].name));
    return rooms[room].name[0] ? store_folder_check(store->host, folder, err) : KELPIE_OK;
}

enum kelpie_status store_open(struct host *host, struct store **ret_store,
                              struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_store);
    struct store *store = host_allocate(host, sizeof(*store), err);
    if (!store) {
        return KELPIE_NO_MEMORY;
    }
    store->host = host;
    for (unsigned i = 0; i < STORE_ROOM_COUNT; i++) {
        enum kelpie_status status = open_room(store, (enum store_room)i, err);
        if (status != KELPIE_OK) {
            free(store);
            return status;
        }
    }
    *ret_store = store;
    return KELPIE_OK;
}

void store_close(struct store *store) {
    ASSERT(!store || store->host);
    ASSERT(!store || store->folders[STORE_VMS][0] == '/');
    free(store);
}

bool store_name_is_good(const char *name) {
    ASSERT(name);
    static const char others[] = "_.-";
    ASSERT(!strchr(others, '/'));
    size_t size = strlen(name);
    if (size == 0 || size > KELPIE_NAME_SIZE_MAX) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        bool alphanumeric =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alphanumeric && (i == 0 || !strchr(others, c))) {
            return false;
        }
    }
    return true;
}

enum kelpie_status store_path(const struct store *store, enum store_room room, const char *name,
                              char *path, size_t size, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(room < STORE_ROOM_COUNT);
    if (!name) {
        return format_path(path, size, err, "%s", store->folders[room]);
    }
    if (!store_name_is_good(name)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name",
                               "\"%.80s\" is no name: up to %d letters, digits, and _ . - not in "
                               "front",
                               name, KELPIE_NAME_SIZE_MAX);
    }
    return format_path(path, size, err, "%s/%s", store->folders[room], name);
}

enum kelpie_status store_vm_path(const struct store *store, const char *name, const char *file,
                                 char *path, size_t size, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(name && file);
    return format_path(path, size, err, "%s/%s/%s", store->folders[STORE_VMS], name, file);
}

enum kelpie_status store_socket_path(const struct store *store, const char *id, char *path,
                                     size_t size, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(id);
    TRY(format_path(path, size, err, "%s/%.16s.sock", store->folders[STORE_SOCKETS], id));
    if (strlen(path) > STORE_SOCKET_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "XDG_RUNTIME_DIR",
                               "the socket %s has a longer name than a socket can have (%d bytes): "
                               "let XDG_RUNTIME_DIR be a shorter path",
                               path, STORE_SOCKET_PATH_SIZE_MAX);
    }
    return KELPIE_OK;
}

enum kelpie_status store_list(struct store *store, enum store_room room,
                              struct host_dir_entry **ret_entries, size_t *ret_count,
                              struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_entries && ret_count);
    struct host_dir_entry *entries =
        host_allocate(store->host, STORE_ENTRY_COUNT_MAX * sizeof(*entries), err);
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status = host_dir_list(store->host, store->folders[room], entries,
                                              STORE_ENTRY_COUNT_MAX, ret_count, err);
    if (status != KELPIE_OK) {
        free(entries);
        return status;
    }
    *ret_entries = entries;
    return KELPIE_OK;
}
