/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The calls of host_below.h as one operation of a host. */
#include "host/host_below.h"

#include <string.h>

#include "base/assert.h"
#include "base/error.h"

/* Relative, and made of plain parts only: what the caller sees to. */
static bool name_is_plain(const char *name) {
    ASSERT(name);
    if (strcmp(name, ".") == 0) {
        return true;
    }
    const char *part = name;
    for (;;) {
        size_t size = strcspn(part, "/");
        bool dots = (size == 1 && part[0] == '.') || (size == 2 && memcmp(part, "..", 2) == 0);
        if (size == 0 || dots) {
            return false;
        }
        if (part[size] == '\0') {
            return true;
        }
        part += size + 1;
    }
}

static enum kelpie_status below(struct host *host, struct host_below *call,
                                struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(call->root_fd >= 0);
    ASSERT(name_is_plain(call->name));
    return host->ops->below(host, call, err);
}

enum kelpie_status host_below_open(struct host *host, int root_fd, const char *name, uint32_t flags,
                                   uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    ASSERT(ret_fd);
    ASSERT(flags & (HOST_OPEN_READ | HOST_OPEN_WRITE));
    ASSERT(!(flags & HOST_OPEN_UNNAMED));
    struct host_below call = {.action = HOST_BELOW_OPEN,
                              .root_fd = root_fd,
                              .name = name,
                              .flags = flags,
                              .mode = mode,
                              .fd = HOST_FD_NONE};
    TRY(below(host, &call, err));
    ASSERT(call.fd >= 0);
    *ret_fd = call.fd;
    return KELPIE_OK;
}

enum kelpie_status host_below_stat(struct host *host, int root_fd, const char *name,
                                   struct host_file_info *ret_info, struct kelpie_error *err) {
    ASSERT(ret_info);
    struct host_below call = {.action = HOST_BELOW_STAT, .root_fd = root_fd, .name = name};
    TRY(below(host, &call, err));
    *ret_info = call.info;
    return KELPIE_OK;
}

enum kelpie_status host_below_list(struct host *host, int root_fd, const char *name,
                                   struct host_dir_entry *entries, size_t capacity,
                                   size_t *ret_count, struct kelpie_error *err) {
    ASSERT(entries || capacity == 0);
    ASSERT(ret_count);
    struct host_below call = {.action = HOST_BELOW_LIST,
                              .root_fd = root_fd,
                              .name = name,
                              .entries = entries,
                              .capacity = capacity};
    TRY(below(host, &call, err));
    ASSERT(call.count <= capacity);
    *ret_count = call.count;
    return KELPIE_OK;
}

enum kelpie_status host_below_readlink(struct host *host, int root_fd, const char *name,
                                       char *buffer, size_t size, struct kelpie_error *err) {
    ASSERT(buffer);
    ASSERT(size > 0);
    struct host_below call = {.action = HOST_BELOW_READLINK,
                              .root_fd = root_fd,
                              .name = name,
                              .buffer = buffer,
                              .size = size};
    return below(host, &call, err);
}

enum kelpie_status host_below_mkdir(struct host *host, int root_fd, const char *name, uint32_t mode,
                                    struct kelpie_error *err) {
    ASSERT(mode <= 07777);
    ASSERT(strcmp(name, ".") != 0);
    struct host_below call = {
        .action = HOST_BELOW_MKDIR, .root_fd = root_fd, .name = name, .mode = mode};
    return below(host, &call, err);
}

enum kelpie_status host_below_symlink(struct host *host, int root_fd, const char *target,
                                      const char *name, struct kelpie_error *err) {
    ASSERT(target);
    ASSERT(strcmp(name, ".") != 0);
    struct host_below call = {
        .action = HOST_BELOW_SYMLINK, .root_fd = root_fd, .name = name, .target = target};
    return below(host, &call, err);
}
