/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * host_below.h: names below an open folder, for trees that somebody else may change meanwhile.
 *
 * root_fd is a folder that was opened with host_file_open() for reading. `name` is a relative path in it, without "." and ".." and
 * without empty parts; "." alone is the folder itself. No part of it is followed if it is a link (IO_FAILED with ELOOP, ENOTDIR
 * or EXDEV), also when it becomes one while it is looked up: what is found or made is in that folder. It may be on another
 * file system that is mounted there.
 *
 *     AUTO_FD struct host_fd root = {host, HOST_FD_NONE};
 *     TRY(host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &root.fd, err))
 *     TRY(host_below_open(host, root.fd, "a/file", HOST_OPEN_READ, 0, &file.fd, err))
 */
#ifndef KELPIE_HOST_HOST_BELOW_H
#define KELPIE_HOST_HOST_BELOW_H

#include "host/host.h"

/* As host_file_open(); never UNNAMED. */
KELPIE_CHECKED enum kelpie_status host_below_open(struct host *host, int root_fd, const char *name,
                                                  uint32_t flags, uint32_t mode, int *ret_fd,
                                                  struct kelpie_error *err);

/* As host_path_stat(): the name itself. */
KELPIE_CHECKED enum kelpie_status host_below_stat(struct host *host, int root_fd, const char *name,
                                                  struct host_file_info *ret_info,
                                                  struct kelpie_error *err);

/* As host_dir_list(). */
KELPIE_CHECKED enum kelpie_status host_below_list(struct host *host, int root_fd, const char *name,
                                                  struct host_dir_entry *entries, size_t capacity,
                                                  size_t *ret_count, struct kelpie_error *err);

/* As host_path_readlink(), host_path_mkdir(), host_path_symlink(). */
KELPIE_CHECKED enum kelpie_status host_below_readlink(struct host *host, int root_fd,
                                                      const char *name, char *buffer, size_t size,
                                                      struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_below_mkdir(struct host *host, int root_fd, const char *name,
                                                   uint32_t mode, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_below_symlink(struct host *host, int root_fd,
                                                     const char *target, const char *name,
                                                     struct kelpie_error *err);

/* ---- For implementations ---------------------------------------------------------------------- */

enum host_below_action {
    HOST_BELOW_OPEN = 0,
    HOST_BELOW_STAT,
    HOST_BELOW_LIST,
    HOST_BELOW_READLINK,
    HOST_BELOW_MKDIR,
    HOST_BELOW_SYMLINK,
};

/* One of the calls above: those of its arguments that it has. */
struct host_below {
    enum host_below_action action;
    int root_fd;
    const char *name;
    uint32_t flags;
    uint32_t mode;
    const char *target;
    char *buffer;
    size_t size;
    struct host_dir_entry *entries;
    size_t capacity;

    /* Out. */
    int fd;
    size_t count;
    struct host_file_info info;
};

#endif
