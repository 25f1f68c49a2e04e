/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Files that appear at their place whole or not at all. See host.h. */
#include "host/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

/* "<path>.<16 digits>.tmp". Drawn at random, so that two who write one file at once do not write into each
 * other's; the last to publish wins. */
static enum kelpie_status draw_name(struct host_draft *draft, struct kelpie_error *err) {
    ASSERT(draft->host);
    ASSERT(draft->name[0] == '\0');
    uint64_t suffix = 0;
    TRY(host_random(draft->host, &suffix, sizeof(suffix), err));
    int length = snprintf(draft->name, sizeof(draft->name), "%s.%016llx.tmp", draft->path,
                          (unsigned long long)suffix);
    ASSERT(length > 0);
    if ((size_t)length >= sizeof(draft->name)) {
        draft->name[0] = '\0';
        return error_set_os(err, ENAMETOOLONG, "cannot write '%.200s...'", draft->path);
    }
    return KELPIE_OK;
}

/* The folder that the path lies in. */
static void folder_of(const char *path, char folder[HOST_PATH_SIZE_MAX + 1]) {
    ASSERT(path[0] != '\0');
    ASSERT(folder);
    const char *slash = strrchr(path, '/');
    size_t size = slash == path ? 1 : slash ? (size_t)(slash - path) : 1;
    ASSERT(size <= HOST_PATH_SIZE_MAX);
    memcpy(folder, slash ? path : ".", size);
    folder[size] = '\0';
}

enum kelpie_status host_draft_open(struct host *host, const char *path, uint32_t mode,
                                   struct host_draft *ret_draft, struct kelpie_error *err) {
    ASSERT(host && path);
    ASSERT(ret_draft);
    ASSERT(ret_draft->fd == HOST_FD_NONE);
    char folder[HOST_PATH_SIZE_MAX + 1];
    struct host_draft *draft = ret_draft;
    if (path[0] == '\0' || strlen(path) > HOST_PATH_SIZE_MAX) {
        return error_set_os(err, path[0] ? ENAMETOOLONG : ENOENT, "cannot write '%.200s'", path);
    }
    draft->host = host;
    draft->path = path;
    draft->name[0] = '\0';
    folder_of(path, folder);
    struct kelpie_error unnamed = {0};
    enum kelpie_status status = host_file_open(host, folder, HOST_OPEN_WRITE | HOST_OPEN_UNNAMED,
                                               mode, &draft->fd, &unnamed);
    if (status == KELPIE_OK) {
        return KELPIE_OK;
    }
    if (unnamed.os_error != EOPNOTSUPP && unnamed.os_error != EISDIR) {
        if (err) {
            *err = unnamed;
        }
        return status;
    }
    /* A file system without files that have no name. */
    uint32_t flags = HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE | HOST_OPEN_NO_FOLLOW;
    TRY(draw_name(draft, err));
    status = host_file_open(host, draft->name, flags, mode, &draft->fd, err);
    if (status != KELPIE_OK) {
        draft->name[0] = '\0';
    }
    return status;
}

/* Gives it a name. Its own place at once, where that is free: *ret_done. */
static enum kelpie_status link_draft(struct host_draft *draft, bool *ret_done,
                                     struct kelpie_error *err) {
    ASSERT(draft->fd != HOST_FD_NONE);
    ASSERT(draft->name[0] == '\0');
    struct kelpie_error failure = {0};
    enum kelpie_status status = host_file_link(draft->host, draft->fd, draft->path, &failure);
    *ret_done = status == KELPIE_OK;
    if (failure.os_error == EEXIST) {
        TRY(draw_name(draft, err));
        status = host_file_link(draft->host, draft->fd, draft->name, err);
        if (status != KELPIE_OK) {
            draft->name[0] = '\0';
        }
    } else if (status != KELPIE_OK && err) {
        *err = failure;
    }
    return status;
}

enum kelpie_status host_draft_publish(struct host_draft *draft, struct kelpie_error *err) {
    ASSERT(draft->host && draft->path);
    ASSERT(draft->fd != HOST_FD_NONE);
    bool done = false;
    if (draft->name[0] == '\0') {
        TRY(link_draft(draft, &done, err));
    }
    if (!done) {
        TRY(host_path_rename(draft->host, draft->name, draft->path, true, err));
    }
    draft->name[0] = '\0';
    return KELPIE_OK;
}

void host_draft_close(struct host_draft *draft) {
    if (draft->fd == HOST_FD_NONE) {
        return;
    }
    ASSERT(draft->host);
    ASSERT(draft->path);
    host_close(draft->host, draft->fd);
    draft->fd = HOST_FD_NONE;
    if (draft->name[0] != '\0') {
        (void)!host_path_unlink(draft->host, draft->name, NULL);
        draft->name[0] = '\0';
    }
}
