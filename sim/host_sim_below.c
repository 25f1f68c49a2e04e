/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated host's names below a folder: its path, and each part looked at before the next. Nothing changes meanwhile. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "host/host_below.h"
#include "sim/world.h"

#define PATH_SIZE (2 * HOST_PATH_SIZE_MAX + 2)

/* No part but the last may be a link; the last may for what asks after the link itself. */
static int check_parts(struct sim_fs *fs, char *path, size_t root_size, bool last_may_be_link) {
    struct host_file_info info;
    ASSERT(root_size <= strlen(path));
    ASSERT(path[0] == '/');
    for (char *c = path + root_size + 1; *c; c++) {
        if (*c != '/') {
            continue;
        }
        *c = '\0';
        int os_error = sim_fs_stat(fs, path, &info);
        *c = '/';
        if (os_error != 0 || info.type == HOST_FILE_LINK) {
            return os_error ? os_error : ELOOP;
        }
    }
    bool is_link = sim_fs_stat(fs, path, &info) == 0 && info.type == HOST_FILE_LINK;
    return is_link && !last_may_be_link ? ELOOP : 0;
}

static int below_path(struct sim_process *process, const struct host_below *call,
                      char path[PATH_SIZE]) {
    const struct sim_handle *root = sim_fd_get(process, call->root_fd);
    ASSERT(root->kind == SIM_HANDLE_FILE);
    ASSERT(root->inode);
    struct host_file_info info;
    sim_inode_stat(root->inode, &info);
    if (info.type != HOST_FILE_FOLDER) {
        return ENOTDIR;
    }
    int os_error = sim_fs_path_of(root->inode, path, HOST_PATH_SIZE_MAX + 1);
    if (os_error != 0) {
        return os_error;
    }
    size_t root_size = strcmp(path, "/") == 0 ? 0 : strlen(path);
    int length = snprintf(path + root_size, PATH_SIZE - root_size, "/%s", call->name);
    if (length < 0 || root_size + (size_t)length > HOST_PATH_SIZE_MAX) {
        return ENAMETOOLONG;
    }
    bool last_may_be_link = call->action != HOST_BELOW_OPEN && call->action != HOST_BELOW_LIST;
    return check_parts(process->machine->fs, path, root_size, last_may_be_link);
}

/* The calls of the host that take a path do the rest, each an event of its own. */
static enum kelpie_status act(struct host *host, struct host_below *call, const char *path,
                              struct kelpie_error *err) {
    switch (call->action) {
    case HOST_BELOW_OPEN:
        return sim_host_file_open(host, path, call->flags | HOST_OPEN_NO_FOLLOW, call->mode,
                                  &call->fd, err);
    case HOST_BELOW_STAT:
        return sim_host_path_stat(host, path, &call->info, err);
    case HOST_BELOW_LIST:
        return sim_host_dir_list(host, path, call->entries, call->capacity, &call->count, err);
    case HOST_BELOW_READLINK:
        return sim_host_path_readlink(host, path, call->buffer, call->size, err);
    case HOST_BELOW_MKDIR:
        return sim_host_path_mkdir(host, path, call->mode, err);
    case HOST_BELOW_SYMLINK:
        return sim_host_path_symlink(host, call->target, path, err);
    }
    UNREACHABLE();
}

enum kelpie_status sim_host_below(struct host *host, struct host_below *call,
                                  struct kelpie_error *err) {
    char path[PATH_SIZE];
    ASSERT(call->name);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_BELOW, (uint64_t)call->action);
    int os_error = below_path(sim_process_of(host), call, path);
    enum kelpie_status status = os_error == 0
                                    ? act(host, call, path, err)
                                    : error_set_os(err, os_error, "cannot find '%s'", call->name);
    return sim_leave(host, SIM_EVENT_BELOW, status);
}
