/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What kelpie_store.h says of VMs and of snapshots by name. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "snapshot/snapshot.h"
#include "store/store_internal.h"

#define REMOVE_MS_MAX 10000 /* until an owner that was told to end has ended */
#define REMOVE_PERIOD_MS 10

enum kelpie_status store_session_open(void *host, struct store_session *ret_session,
                                      struct kelpie_error *err) {
    ASSERT(ret_session);
    struct store_session session = {.host = host, .host_owned = !host};
    if (!host) {
        TRY(host_linux_create(&session.host, err));
    }
    enum kelpie_status status = store_open(session.host, &session.store, err);
    if (status != KELPIE_OK) {
        store_session_close(&session);
        return status;
    }
    *ret_session = session;
    return KELPIE_OK;
}

void store_session_close(struct store_session *session) {
    store_close(session->store);
    session->store = NULL;
    if (session->host_owned) {
        host_destroy(session->host);
        session->host_owned = false;
    }
}

void kelpie_list_free(void *list) {
    free(list);
}

/* ---- VMs --------------------------------------------------------------------------------------- */

/* What a folder's files take on the disk; 0 when it cannot be looked at. */
static uint64_t folder_bytes(struct store *store, const char *folder) {
    ASSERT(store);
    ASSERT(folder[0] == '/');
    struct kelpie_error ignored;
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(store->host, STORE_VM_FILE_COUNT_MAX * sizeof(*entries), &ignored);
    size_t count = 0;
    if (!entries || host_dir_list(store->host, folder, entries, STORE_VM_FILE_COUNT_MAX, &count,
                                  &ignored) != KELPIE_OK) {
        return 0;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        struct host_file_info info;
        if (snprintf(path, sizeof(path), "%s/%s", folder, entries[i].name) < (int)sizeof(path) &&
            host_path_stat(store->host, path, &info, &ignored) == KELPIE_OK) {
            bytes += info.allocated_size;
        }
    }
    return bytes;
}

/* Of a VM that is gone meanwhile: NOT_FOUND. */
static enum kelpie_status read_info(struct store *store, const char *name,
                                    struct kelpie_vm_info *ret_info, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_info);
    struct store_record *record = NULL;
    bool owned = false;
    TRY(store_vm_read(store, name, &record, &owned, err));
    *ret_info = record->info;
    store_record_destroy(record);
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_path(store, STORE_VMS, ret_info->name, folder, sizeof(folder), err));
    ret_info->disk_bytes = folder_bytes(store, folder);
    return KELPIE_OK;
}

static int older_first(const void *a, const void *b) {
    const struct kelpie_vm_info *left = a;
    const struct kelpie_vm_info *right = b;
    if (left->created_unix_ms != right->created_unix_ms) {
        return left->created_unix_ms < right->created_unix_ms ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

enum kelpie_status kelpie_vm_list(void *host, struct kelpie_vm_info **ret_list, size_t *ret_count,
                                  struct kelpie_error *err) {
    ASSERT(ret_list);
    ASSERT(ret_count);
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    TRY(store_list(session.store, STORE_VMS, &entries, &entry_count, err));
    struct kelpie_vm_info *list =
        host_allocate(session.host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    size_t count = 0;
    for (size_t i = 0; i < entry_count; i++) {
        struct kelpie_error why;
        if (entries[i].name[0] == '.' || !store_name_is_good(entries[i].name)) {
            continue;
        }
        enum kelpie_status status = read_info(session.store, entries[i].name, &list[count], &why);
        if (status == KELPIE_INTERNAL) { /* damaged: to be seen, and to be removed */
            list[count] = (struct kelpie_vm_info){.state = KELPIE_STATE_CRASHED};
            snprintf(list[count].name, sizeof(list[count].name), "%.*s", KELPIE_NAME_SIZE_MAX,
                     entries[i].name);
            snprintf(list[count].reason, sizeof(list[count].reason), "%.255s", why.message);
        }
        count += status == KELPIE_OK || status == KELPIE_INTERNAL;
    }
    qsort(list, count, sizeof(*list), older_first);
    *ret_list = list;
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status kelpie_vm_find(void *host, const char *name, struct kelpie_vm_info *ret_info,
                                  struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(ret_info);
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    return read_info(session.store, name, ret_info, err);
}

/* Of a VM that has an owner: the owner does it. */
static enum kelpie_status remove_owned(struct store_session *session, const char *name, bool force,
                                       enum kelpie_state state, struct kelpie_error *err) {
    ASSERT(session->store);
    ASSERT(name);
    bool runs = state == KELPIE_STATE_STARTING || state == KELPIE_STATE_RUNNING ||
                state == KELPIE_STATE_PAUSED;
    if (runs && !force) {
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(state),
                               "the VM %s is %s: stop it before, or use force", name,
                               kelpie_state_name(state));
    }
    struct kelpie_vm *vm = NULL;
    TRY(kelpie_vm_open(session->host, name, &vm, err));
    kelpie_vm_destroy(vm);
    return KELPIE_OK;
}

/* A damaged record does not keep a VM from being removed. */
static enum kelpie_status remove_unowned(struct store_session *session, const char *name,
                                         struct kelpie_error *err) {
    ASSERT(session->store);
    ASSERT(name);
    struct store_vm vm = {0};
    TRY(store_vm_adopt(session->store, name, &vm, err));
    enum kelpie_status status = store_vm_remove(&vm, err);
    store_vm_release(&vm);
    return status;
}

enum kelpie_status kelpie_vm_remove(void *host, const char *name, bool force,
                                    struct kelpie_error *err) {
    ASSERT(name);
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    const uint64_t end_ns = host_monotonic_ns(session.host) + REMOVE_MS_MAX * HOST_NS_PER_MS;
    struct store_record *record = NULL;
    bool owned = false;
    TRY(store_vm_read(session.store, name, &record, &owned, err));
    char found[KELPIE_NAME_SIZE_MAX + 1];
    memcpy(found, record->info.name, sizeof(found));
    enum kelpie_state state = record->info.state;
    store_record_destroy(record);
    enum kelpie_status status = owned ? remove_owned(&session, found, force, state, err)
                                      : remove_unowned(&session, found, err);
    /* An owner that is just coming or going: until it has done so. */
    while ((status == KELPIE_BUSY || owned) && status != KELPIE_WRONG_STATE &&
           host_monotonic_ns(session.host) < end_ns) {
        struct host_wait wait = host_wait_ms(session.host, REMOVE_PERIOD_MS, HOST_FD_NONE);
        enum kelpie_status read = store_vm_read(session.store, found, &record, &owned, err);
        if (read == KELPIE_NOT_FOUND) {
            error_clear(err);
            return KELPIE_OK;
        }
        TRY(read);
        store_record_destroy(record);
        if (!owned) {
            status = remove_unowned(&session, found, err);
        }
        TRY(host_sleep(session.host, &wait, err));
    }
    return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
}

/* ---- Snapshots by name ------------------------------------------------------------------------- */

enum kelpie_status kelpie_snapshot_path(void *host, const char *name, char *path, size_t size,
                                        struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(path && size > 0);
    if (strchr(name, '/')) {
        if (strlen(name) >= size) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the path %.80s… is too long",
                                   name);
        }
        memcpy(path, name, strlen(name) + 1);
        return KELPIE_OK;
    }
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    return store_path(session.store, STORE_SNAPSHOTS, name, path, size, err);
}

static void describe_snapshot(struct store *store, const char *name,
                              struct kelpie_snapshot_info *info) {
    ASSERT(store);
    ASSERT(info);
    struct kelpie_error err;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    snprintf(info->name, sizeof(info->name), "%s", name);
    info->status = store_path(store, STORE_SNAPSHOTS, name, path, sizeof(path), &err);
    struct snapshot_reader *reader = NULL;
    if (info->status == KELPIE_OK) {
        info->status = snapshot_reader_open(store->host, path, &reader, &err);
    }
    if (info->status == KELPIE_OK) {
        const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
        info->snapshot = manifest->info;
        snprintf(info->vm_name, sizeof(info->vm_name), "%s", manifest->vm_name);
    }
    snapshot_reader_close(reader);
}

enum kelpie_status kelpie_snapshot_list(void *host, struct kelpie_snapshot_info **ret_list,
                                        size_t *ret_count, struct kelpie_error *err) {
    ASSERT(ret_list);
    ASSERT(ret_count);
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    TRY(store_list(session.store, STORE_SNAPSHOTS, &entries, &entry_count, err));
    struct kelpie_snapshot_info *list =
        host_allocate(session.host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    size_t count = 0;
    for (size_t i = 0; i < entry_count; i++) {
        /* A bundle in the making has a longer name: "<name>.partial-…". */
        if (store_name_is_good(entries[i].name) && !strstr(entries[i].name, ".partial-")) {
            describe_snapshot(session.store, entries[i].name, &list[count++]);
        }
    }
    *ret_list = list;
    *ret_count = count;
    return KELPIE_OK;
}

/* A diff is of no use without its parent (hazard E5). */
static enum kelpie_status check_no_child(struct store *store, const char *name,
                                         const struct kelpie_snapshot_info *parent,
                                         struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(parent);
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    TRY(store_list(store, STORE_SNAPSHOTS, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (strcmp(entries[i].name, name) == 0 || !store_name_is_good(entries[i].name)) {
            continue;
        }
        char path[KELPIE_PATH_SIZE_MAX + 1];
        struct kelpie_error ignored;
        struct snapshot_reader *reader = NULL;
        TRY(store_path(store, STORE_SNAPSHOTS, entries[i].name, path, sizeof(path), err));
        if (snapshot_reader_open(store->host, path, &reader, &ignored) != KELPIE_OK) {
            continue;
        }
        const struct snapshot_reader *above = snapshot_reader_parent(reader);
        bool child =
            above && strcmp(snapshot_reader_manifest(above)->info.id, parent->snapshot.id) == 0;
        snapshot_reader_close(reader);
        if (child) {
            return error_set(err, KELPIE_BUSY,
                             "the snapshot %s is a diff to %s: remove that before", entries[i].name,
                             name);
        }
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_snapshot_remove(void *host, const char *name, struct kelpie_error *err) {
    ASSERT(name);
    AUTO_SESSION struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char away[KELPIE_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    TRY(store_path(session.store, STORE_SNAPSHOTS, name, path, sizeof(path), err));
    if (host_path_stat(session.host, path, &info, err) != KELPIE_OK) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no snapshot %s", name);
    }
    struct kelpie_snapshot_info known = {0};
    describe_snapshot(session.store, name, &known);
    if (known.status == KELPIE_OK) {
        TRY(check_no_child(session.store, name, &known, err));
    }
    if (snprintf(away, sizeof(away), "%s/.old-%s", session.store->folders[STORE_SNAPSHOTS], name) >=
        (int)sizeof(away)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "the name is too long");
    }
    (void)!host_path_remove_tree(session.host, away, err); /* of somebody who was killed here */
    TRY(host_path_rename(session.host, path, away, false, err));
    return host_path_remove_tree(session.host, away, err);
}
