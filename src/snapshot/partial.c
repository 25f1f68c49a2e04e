/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * partial.c: the folder "<directory>.partial-<id>" that a bundle is written in.
 *
 * Its manifest file is made first and locked at once. A writer that finds another's folder takes the lock on
 * trial: getting it means that the owner is gone. A folder without a manifest file is removed only while it is
 * empty. Either may hit an owner that is just starting, between two of its steps; the owner notices that
 * its folder is gone and starts again with another id.
 */
#include "snapshot/snapshot_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define FOLDER_MODE 0700
#define FILE_MODE 0600
#define ATTEMPT_COUNT_MAX 16

void snapshot_parent(const struct snapshot_path *directory, struct snapshot_path *ret_parent) {
    ASSERT(directory->text[0] != '\0');
    ASSERT(ret_parent);
    const char *slash = strrchr(directory->text, '/');
    size_t size = !slash ? 0 : slash == directory->text ? 1 : (size_t)(slash - directory->text);
    ASSERT(size < sizeof(ret_parent->text));
    memmove(ret_parent->text, directory->text, size); /* they may be the same */
    ret_parent->text[size] = '\0';
    if (!slash) {
        memcpy(ret_parent->text, ".", 2);
    }
}

static void unlink_in(struct host *host, const char *folder, const char *name) {
    struct snapshot_path path;
    ASSERT(folder);
    ASSERT(name);
    if (snapshot_path_format(&path, NULL, "%s/%s", folder, name) == KELPIE_OK) {
        enum kelpie_status ignored = host_path_unlink(host, path.text, NULL);
        (void)ignored;
    }
}

void snapshot_partial_remove(struct host *host, const char *folder) {
    ASSERT(host);
    ASSERT(strstr(folder, SNAPSHOT_PARTIAL_MARK));
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        unlink_in(host, folder, snapshot_part_name(i));
    }
    /* Last, so that a removal that was cut short can still be told from an empty folder. */
    unlink_in(host, folder, SNAPSHOT_MANIFEST_NAME);
    enum kelpie_status ignored = host_path_rmdir(host, folder, NULL);
    (void)ignored;
}

bool snapshot_is_partial(const char *name) {
    size_t size = strlen(name);
    size_t ending = strlen(SNAPSHOT_PARTIAL_MARK) + KELPIE_ID_SIZE - 1;
    ASSERT(ending > 0);
    if (size <= ending) {
        return false;
    }
    const char *mark = name + size - ending;
    return strncmp(mark, SNAPSHOT_PARTIAL_MARK, strlen(SNAPSHOT_PARTIAL_MARK)) == 0 &&
           snapshot_is_hexadecimal(mark + strlen(SNAPSHOT_PARTIAL_MARK), KELPIE_ID_SIZE - 1);
}

bool snapshot_partial_sweep_one(struct host *host, const char *folder, bool dry_run) {
    struct snapshot_path path;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(host);
    ASSERT(snapshot_is_partial(folder));
    if (snapshot_path_format(&path, NULL, "%s/" SNAPSHOT_MANIFEST_NAME, folder) != KELPIE_OK) {
        return false;
    }
    enum kelpie_status status = host_file_open(
        host, path.text, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, NULL);
    if (status == KELPIE_NOT_FOUND) {
        /* Fails when it is not empty. */
        return dry_run || host_path_rmdir(host, folder, NULL) == KELPIE_OK;
    }
    if (status != KELPIE_OK || host_file_lock(host, fd.fd, true, NULL) != KELPIE_OK) {
        return false;
    }
    if (!dry_run) {
        snapshot_partial_remove(host, folder);
    }
    return true;
}

void snapshot_partial_sweep(struct host *host, const char *parent) {
    size_t count = 0;
    size_t seen = 0;
    ASSERT(host);
    ASSERT(parent[0] != '\0');
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), NULL);
    if (!entries ||
        host_dir_list(host, parent, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, NULL) != KELPIE_OK) {
        return;
    }
    for (size_t i = 0; i < count && seen < SNAPSHOT_STALE_COUNT_MAX; i++) {
        struct snapshot_path path;
        if (snapshot_is_partial(entries[i].name) &&
            snapshot_path_format(&path, NULL, "%s/%s", parent, entries[i].name) == KELPIE_OK) {
            (void)snapshot_partial_sweep_one(host, path.text, false);
            seen++;
        }
    }
}

static enum kelpie_status make_id(struct host *host, char ret_id[KELPIE_ID_SIZE],
                                  struct kelpie_error *err) {
    uint64_t words[2] = {0};
    ASSERT(ret_id);
    TRY(host_random(host, words, sizeof(words), err));
    snprintf(ret_id, KELPIE_ID_SIZE, "%016llx%016llx", (unsigned long long)words[0],
             (unsigned long long)words[1]);
    ASSERT(snapshot_is_hexadecimal(ret_id, KELPIE_ID_SIZE - 1));
    return KELPIE_OK;
}

/* The folder's manifest file, made and locked. `ret_lost`: somebody swept the folder meanwhile. */
static enum kelpie_status lock_manifest(struct host *host, const char *folder, int *ret_fd,
                                        bool *ret_lost, struct kelpie_error *err) {
    struct snapshot_path path;
    struct host_file_info ours;
    struct host_file_info there;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(ret_fd);
    ASSERT(ret_lost);
    *ret_lost = false;
    TRY(snapshot_path_format(&path, err, "%s/" SNAPSHOT_MANIFEST_NAME, folder));
    enum kelpie_status status = host_file_open(
        host, path.text, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
        FILE_MODE, &fd.fd, err);
    if (status == KELPIE_OK) {
        status = host_file_lock(host, fd.fd, true, err);
    }
    if (status == KELPIE_OK) {
        status = host_file_stat(host, fd.fd, &ours, err);
    }
    if (status == KELPIE_OK) {
        status = host_path_stat(host, path.text, &there, err);
    }
    *ret_lost = status == KELPIE_NOT_FOUND || status == KELPIE_BUSY ||
                (status == KELPIE_OK && there.inode != ours.inode);
    TRY(status);
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

enum kelpie_status snapshot_partial_create(struct host *host, const char *directory,
                                           struct snapshot_partial *ret_partial,
                                           struct kelpie_error *err) {
    bool lost = true;
    enum kelpie_status status = KELPIE_OK;
    ASSERT(directory[0] != '\0');
    ASSERT(ret_partial);
    for (size_t i = 0; lost && i < ATTEMPT_COUNT_MAX; i++) {
        TRY(make_id(host, ret_partial->id, err));
        TRY(snapshot_path_format(&ret_partial->folder, err, "%s" SNAPSHOT_PARTIAL_MARK "%s",
                                 directory, ret_partial->id));
        TRY(host_path_mkdir(host, ret_partial->folder.text, FOLDER_MODE, err));
        status =
            lock_manifest(host, ret_partial->folder.text, &ret_partial->manifest_fd, &lost, err);
        if (status != KELPIE_OK) {
            snapshot_partial_remove(host, ret_partial->folder.text);
        }
    }
    return status;
}
