/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders that appear and go whole. See store_folder.h. */
#include "store/store_folder.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "snapshot/snapshot.h"

#define FOLDER_MODE 0700u
#define LOCK_MODE 0600u
#define OTHERS_MASK 0077u
#define DIGITS_SIZE 17

/* ---- Names ------------------------------------------------------------------------------------ */

enum kelpie_status store_folder_file(const char *folder, const char *name,
                                     char path[KELPIE_PATH_SIZE_MAX + 1],
                                     struct kelpie_error *err) {
    ASSERT(folder[0] == '/');
    ASSERT(name[0]);
    int length = snprintf(path, KELPIE_PATH_SIZE_MAX + 1, "%s/%s", folder, name);
    if (length < 0 || length > KELPIE_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "folder",
                               "the path %.80s…/%.80s is too long", folder, name);
    }
    return KELPIE_OK;
}

enum kelpie_status store_folder_path(const struct store *store, enum store_room room,
                                     const char *name, char path[KELPIE_PATH_SIZE_MAX + 1],
                                     struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(room < STORE_ROOM_COUNT);
    return store_folder_file(store->folders[room], name, path, err);
}

enum kelpie_status store_draw_digits(struct host *host, char *ret_digits, size_t size,
                                     struct kelpie_error *err) {
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[KELPIE_ID_SIZE];
    ASSERT(size > 1);
    ASSERT(size <= sizeof(bytes));
    TRY(host_random(host, bytes, size - 1, err));
    for (size_t i = 0; i < size - 1; i++) {
        ret_digits[i] = digits[bytes[i] & 15];
    }
    ret_digits[size - 1] = '\0';
    return KELPIE_OK;
}

enum kelpie_status store_folder_check(struct host *host, const char *path,
                                      struct kelpie_error *err) {
    struct kelpie_error why = {0};
    struct host_file_info info;
    ASSERT(host);
    ASSERT(path[0] == '/');
    enum kelpie_status status = host_path_mkdir(host, path, FOLDER_MODE, &why);
    if (status != KELPIE_OK && why.os_error != EEXIST) {
        return store_error_pass(err, &why);
    }
    TRY(host_path_stat(host, path, &info, err));
    const char *what = info.type == HOST_FILE_LINK      ? "is a link, which Kelpie does not follow"
                       : info.type != HOST_FILE_FOLDER  ? "is no folder"
                       : info.uid != host_user_id(host) ? "belongs to another user"
                       : (info.mode & OTHERS_MASK)
                           ? "is open to other users: look at what is in it, then chmod it to 0700"
                           : NULL;
    if (what) {
        return error_set_field(err, KELPIE_IO_FAILED, "folder", "%s %s", path, what);
    }
    return KELPIE_OK;
}

/* ---- Locks ------------------------------------------------------------------------------------ */

/* The file that is open is the one of that name still. */
static enum kelpie_status check_same(struct host *host, int fd, const char *path, bool *ret_same,
                                     struct kelpie_error *err) {
    struct host_file_info ours;
    struct host_file_info there;
    ASSERT(fd >= 0);
    ASSERT(ret_same);
    TRY(host_file_stat(host, fd, &ours, err));
    enum kelpie_status status = host_path_stat(host, path, &there, err);
    if (status != KELPIE_NOT_FOUND) {
        TRY(status);
    }
    *ret_same = status == KELPIE_OK && ours.inode == there.inode && ours.device == there.device;
    return KELPIE_OK;
}

/* Whoever only looks whether there is an owner holds the lock too, shared, for a moment: so one that wants it waits a little. */
static enum kelpie_status lock_wait(struct host *host, int fd, bool exclusive, uint64_t wait_ms,
                                    struct kelpie_error *err) {
    const struct host_wait end = host_wait_ms(host, wait_ms, HOST_FD_NONE);
    ASSERT(fd >= 0);
    ASSERT(wait_ms <= STORE_LOCK_WAIT_MS);
    enum kelpie_status status = host_file_lock(host, fd, exclusive, err);
    while (status == KELPIE_BUSY && host_monotonic_ns(host) < end.deadline_ns) {
        struct host_wait pause = host_wait_ms(host, STORE_LOCK_PERIOD_MS, HOST_FD_NONE);
        TRY(host_sleep(host, &pause, err));
        status = host_file_lock(host, fd, exclusive, err);
    }
    return status;
}

enum kelpie_status store_folder_lock(struct store *store, const char *path, bool exclusive,
                                     uint64_t wait_ms, int *ret_lock, struct kelpie_error *err) {
    char name[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(store);
    ASSERT(ret_lock);
    TRY(store_folder_file(path, STORE_LOCK_NAME, name, err));
    for (size_t i = 0; i < STORE_LOCK_ATTEMPT_COUNT_MAX; i++) {
        bool same = false;
        AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
        TRY(host_file_open(store->host, name,
                           HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW, 0, &lock.fd,
                           err));
        TRY(lock_wait(store->host, lock.fd, exclusive, wait_ms, err));
        TRY(check_same(store->host, lock.fd, name, &same, err));
        if (same) {
            *ret_lock = host_fd_take(&lock);
            return KELPIE_OK;
        }
    }
    return error_set(err, KELPIE_BUSY, "'%s' is removed and made all the time", path);
}

bool store_folder_is(struct store *store, const char *path, int lock_fd) {
    char name[KELPIE_PATH_SIZE_MAX + 1];
    bool same = false;
    ASSERT(store);
    ASSERT(lock_fd >= 0);
    return store_folder_file(path, STORE_LOCK_NAME, name, NULL) == KELPIE_OK &&
           check_same(store->host, lock_fd, name, &same, NULL) == KELPIE_OK && same;
}

/* ---- Making ----------------------------------------------------------------------------------- */

static bool has_prefix(const char *path, const char *prefix) {
    const char *slash = strrchr(path, '/');
    ASSERT(slash);
    ASSERT(prefix[0] == '.');
    return strncmp(slash + 1, prefix, strlen(prefix)) == 0;
}

/* The lock of a folder that was just made. Who sweeps may have come before: then it is lost. */
static enum kelpie_status lock_new(struct store *store, const char *path, int *ret_lock,
                                   struct kelpie_error *err) {
    char name[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_error why = {0};
    bool same = false;
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(has_prefix(path, STORE_FOLDER_NEW));
    ASSERT(ret_lock);
    TRY(store_folder_file(path, STORE_LOCK_NAME, name, err));
    enum kelpie_status status =
        host_file_open(store->host, name,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                       LOCK_MODE, &lock.fd, &why);
    bool lost = status == KELPIE_NOT_FOUND || why.os_error == EEXIST;
    if (status != KELPIE_OK && !lost) {
        return store_error_pass(err, &why);
    }
    if (!lost) {
        TRY(host_file_lock(store->host, lock.fd, true, err));
        TRY(check_same(store->host, lock.fd, name, &same, err));
    }
    if (!same) {
        return error_set(err, KELPIE_BUSY, "'%s' was taken for a leftover", path);
    }
    *ret_lock = host_fd_take(&lock);
    return KELPIE_OK;
}

enum kelpie_status store_folder_make(struct store *store, const char *path, int *ret_lock,
                                     struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(has_prefix(path, STORE_FOLDER_NEW));
    ASSERT(ret_lock);
    TRY(host_path_mkdir(store->host, path, FOLDER_MODE, err));
    enum kelpie_status status = lock_new(store, path, ret_lock, err);
    if (status != KELPIE_OK && status != KELPIE_BUSY) {
        (void)!host_path_remove_tree(store->host, path, NULL); /* else it is a leftover */
    }
    return status;
}

enum kelpie_status store_folder_publish(struct store *store, enum store_room room, const char *path,
                                        const char *name, struct kelpie_error *err) {
    char target[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_error why = {0};
    ASSERT(has_prefix(path, STORE_FOLDER_NEW));
    ASSERT(store_name_is_good(name));
    TRY(host_path_sync(store->host, path, err));
    TRY(store_folder_path(store, room, name, target, err));
    enum kelpie_status status = host_path_rename(store->host, path, target, false, &why);
    if (status != KELPIE_OK) {
        why.os_error = why.os_error == ENOTEMPTY ? EEXIST : why.os_error;
        return store_error_pass(err, &why);
    }
    status = host_path_sync(store->host, store->folders[room], err);
    if (status != KELPIE_OK) {
        (void)!host_path_rename(store->host, target, path, false, NULL);
    }
    return status;
}

/* ---- Removing --------------------------------------------------------------------------------- */

enum kelpie_status store_folder_remove(struct store *store, enum store_room room, const char *path,
                                       struct kelpie_error *err) {
    char digits[DIGITS_SIZE];
    char name[sizeof(STORE_FOLDER_OLD) + sizeof(digits)];
    char away[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(store);
    ASSERT(path[0] == '/');
    TRY(store_draw_digits(store->host, digits, sizeof(digits), err));
    snprintf(name, sizeof(name), STORE_FOLDER_OLD "%s", digits);
    TRY(store_folder_path(store, room, name, away, err));
    TRY(host_path_rename(store->host, path, away, false, err));
    /* Else a power loss could bring the name back with only some of its files. */
    TRY(host_path_sync(store->host, store->folders[room], err));
    return host_path_remove_tree(store->host, away, err);
}

/* ---- How much --------------------------------------------------------------------------------- */

struct walk {
    struct host_dir_entry entries[STORE_FOLDER_ENTRY_COUNT_MAX];
    char folders[STORE_WALK_FOLDER_COUNT_MAX][KELPIE_PATH_SIZE_MAX + 1]; /* to be looked at */
    size_t folder_count;
    uint64_t bytes;
};

static void walk_folder(struct store *store, struct walk *walk, const char *folder) {
    size_t count = 0;
    ASSERT(folder[0] == '/');
    ASSERT(walk->folder_count < STORE_WALK_FOLDER_COUNT_MAX);
    if (host_dir_list(store->host, folder, walk->entries, STORE_FOLDER_ENTRY_COUNT_MAX, &count,
                      NULL) != KELPIE_OK) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        struct host_file_info info;
        if (store_folder_file(folder, walk->entries[i].name, path, NULL) != KELPIE_OK ||
            host_path_stat(store->host, path, &info, NULL) != KELPIE_OK) {
            continue;
        }
        walk->bytes += info.allocated_size;
        if (info.type == HOST_FILE_FOLDER && walk->folder_count < STORE_WALK_FOLDER_COUNT_MAX) {
            memcpy(walk->folders[walk->folder_count++], path, strlen(path) + 1);
        }
    }
}

uint64_t store_folder_bytes(struct store *store, const char *path) {
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(store);
    ASSERT(strlen(path) <= KELPIE_PATH_SIZE_MAX);
    AUTO_MEM struct walk *walk = host_allocate(store->host, sizeof(*walk), NULL);
    if (!walk) {
        return 0;
    }
    memcpy(walk->folders[walk->folder_count++], path, strlen(path) + 1);
    while (walk->folder_count > 0) {
        memcpy(folder, walk->folders[--walk->folder_count], sizeof(folder));
        walk_folder(store, walk, folder);
    }
    return walk->bytes;
}

/* ---- Leftovers -------------------------------------------------------------------------------- */

/* Whether nobody is making this folder. The lock is held then, so that nobody can be, and it has one in any case. */
static bool is_left(struct store *store, const char *path, bool dry_run, struct host_fd *lock) {
    char name[KELPIE_PATH_SIZE_MAX + 1];
    bool same = false;
    ASSERT(lock->fd == HOST_FD_NONE);
    ASSERT(has_prefix(path, STORE_FOLDER_NEW));
    /* Its maker may be about to make the lock: then it will find this one, and know. */
    uint32_t flags =
        HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW | (dry_run ? 0 : HOST_OPEN_CREATE);
    return store_folder_file(path, STORE_LOCK_NAME, name, NULL) == KELPIE_OK &&
           host_file_open(store->host, name, flags, LOCK_MODE, &lock->fd, NULL) == KELPIE_OK &&
           host_file_lock(store->host, lock->fd, true, NULL) == KELPIE_OK &&
           check_same(store->host, lock->fd, name, &same, NULL) == KELPIE_OK && same;
}

bool store_folder_reclaim(struct store *store, enum store_room room, const char *path) {
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(room < STORE_ROOM_COUNT);
    ASSERT(has_prefix(path, STORE_FOLDER_NEW));
    return is_left(store, path, false, &lock) &&
           store_folder_remove(store, room, path, NULL) == KELPIE_OK;
}

/* True: it was a leftover, and is gone, or would be. */
static bool sweep_one(struct store *store, enum store_room room, const char *name, bool dry_run,
                      uint64_t *ret_bytes) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(room < STORE_ROOM_COUNT);
    ASSERT(ret_bytes);
    if (store_folder_path(store, room, name, path, NULL) != KELPIE_OK) {
        return false;
    }
    *ret_bytes = store_folder_bytes(store, path);
    if (has_prefix(path, STORE_FOLDER_OLD)) {
        return dry_run || host_path_remove_tree(store->host, path, NULL) == KELPIE_OK;
    }
    if (has_prefix(path, STORE_FOLDER_NEW)) {
        return dry_run ? is_left(store, path, true, &lock)
                       : store_folder_reclaim(store, room, path);
    }
    return snapshot_is_partial(name) && snapshot_partial_sweep_one(store->host, path, dry_run);
}

enum kelpie_status store_folder_sweep(struct store *store, enum store_room room, bool dry_run,
                                      struct kelpie_prune_report *report,
                                      struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    ASSERT(store);
    ASSERT(report);
    TRY(store_list(store, room, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        if ((entries[i].name[0] == '.' || snapshot_is_partial(entries[i].name)) &&
            sweep_one(store, room, entries[i].name, dry_run, &bytes)) {
            report->leftovers++;
            report->bytes += bytes;
        }
    }
    return KELPIE_OK;
}
