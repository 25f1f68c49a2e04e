/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated host's names: links, folders, renaming. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/world.h"

#define WORKING_DIR "/root"
#define PATH_SIZE (HOST_PATH_SIZE_MAX + sizeof(WORKING_DIR) + 1)

static const char *folder_of(const struct sim_process *process) {
    ASSERT(process);
    ASSERT(!process->working_dir || process->working_dir[0] == '/');
    return process->working_dir ? process->working_dir : WORKING_DIR;
}

bool sim_path_absolute(const struct sim_process *process, const char *path, char *buffer,
                       size_t size) {
    ASSERT(path && buffer);
    ASSERT(size > 0);
    int length = snprintf(buffer, size, "%s%s%s", path[0] == '/' ? "" : folder_of(process),
                          path[0] == '/' ? "" : "/", path);
    return length >= 0 && (size_t)length < size;
}

/* An operation on one path begins: its file system's clock is set, and the fault asked for. */
static int path_begin(struct sim_process *process, enum sim_fault fault, const char *path,
                      char buffer[PATH_SIZE]) {
    ASSERT(process->machine);
    ASSERT(fault <= SIM_FAULT_COUNT);
    sim_fs_set_time(process->machine->fs, sim_machine_realtime_ns(process->machine));
    if (path[0] == '\0') {
        return ENOENT;
    }
    if (!sim_path_absolute(process, path, buffer, PATH_SIZE)) {
        return ENAMETOOLONG;
    }
    return fault != SIM_FAULT_COUNT && sim_fault(process, fault) ? EIO : 0;
}

static enum kelpie_status path_end(struct host *host, enum sim_event event, int os_error,
                                   const char *what, const char *path, struct kelpie_error *err) {
    ASSERT(what && path);
    ASSERT(os_error >= 0);
    return sim_leave(host, event,
                     os_error == 0 ? KELPIE_OK
                                   : error_set_os(err, os_error, "cannot %s '%s'", what, path));
}

enum kelpie_status sim_host_path_stat(struct host *host, const char *path,
                                      struct host_file_info *ret_info, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(ret_info);
    ASSERT(path);
    sim_enter(host, SIM_EVENT_PATH_STAT, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_STAT_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_stat(process->machine->fs, full, ret_info);
    }
    return path_end(host, SIM_EVENT_PATH_STAT, os_error, "look at", path, err);
}

enum kelpie_status sim_host_path_rename(struct host *host, const char *from, const char *to,
                                        bool replace, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full_from[PATH_SIZE];
    char full_to[PATH_SIZE];
    ASSERT(from && to);
    sim_enter(host, SIM_EVENT_PATH_RENAME, strlen(from) << 16 | strlen(to));
    int os_error = path_begin(process, SIM_FAULT_PATH_RENAME_FAILS, from, full_from);
    if (os_error == 0) {
        os_error = path_begin(process, SIM_FAULT_COUNT, to, full_to);
    }
    if (os_error == 0) {
        os_error = sim_fs_rename(process->machine->fs, full_from, full_to, replace);
    }
    return path_end(host, SIM_EVENT_PATH_RENAME, os_error, "rename", from, err);
}

enum kelpie_status sim_host_path_unlink(struct host *host, const char *path,
                                        struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(path);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_PATH_UNLINK, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_UNLINK_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_unlink(process->machine->fs, full);
    }
    return path_end(host, SIM_EVENT_PATH_UNLINK, os_error, "remove", path, err);
}

enum kelpie_status sim_host_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                       struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(mode <= 07777);
    ASSERT(path);
    sim_enter(host, SIM_EVENT_PATH_MKDIR, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_MKDIR_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_mkdir(process->machine->fs, full, mode);
    }
    return path_end(host, SIM_EVENT_PATH_MKDIR, os_error, "make the folder", path, err);
}

enum kelpie_status sim_host_path_rmdir(struct host *host, const char *path,
                                       struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(path);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_PATH_RMDIR, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_UNLINK_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_rmdir(process->machine->fs, full);
    }
    return path_end(host, SIM_EVENT_PATH_RMDIR, os_error, "remove the folder", path, err);
}

/* Removes the first entry of the folder `path` that is no folder, or makes that folder `path`; an empty one is removed, and
 * the one above becomes `path`. Returns an errno. */
static int tree_step(struct sim_fs *fs, char path[PATH_SIZE], size_t *depth) {
    struct host_dir_entry entry;
    struct host_file_info info;
    size_t length = strlen(path);
    ASSERT(length > 0 && *depth > 0);
    int os_error = sim_fs_first(fs, path, &entry);
    if (os_error == ENODATA) {
        os_error = sim_fs_rmdir(fs, path);
        *strrchr(path, '/') = '\0';
        *depth -= 1;
        return os_error;
    }
    if (os_error != 0) {
        return os_error;
    }
    if (length + 1 + strlen(entry.name) >= PATH_SIZE) {
        return ENAMETOOLONG;
    }
    snprintf(path + length, PATH_SIZE - length, "/%s", entry.name);
    os_error = sim_fs_stat(fs, path, &info);
    if (os_error == 0 && info.type == HOST_FILE_FOLDER) {
        *depth += 1;
        return *depth > HOST_TREE_DEPTH_MAX ? ELOOP : 0;
    }
    os_error = os_error ? os_error : sim_fs_unlink(fs, path);
    ASSERT(strlen(path) > length);
    path[length] = '\0';
    return os_error;
}

static int remove_tree(struct sim_process *process, const char *path) {
    struct sim_fs *fs = process->machine->fs;
    struct host_file_info info;
    char full[PATH_SIZE];
    size_t depth = 1;
    int os_error = path_begin(process, SIM_FAULT_PATH_UNLINK_FAILS, path, full);
    ASSERT(path[0] != '\0');
    os_error = os_error ? os_error : sim_fs_stat(fs, full, &info);
    if (os_error != 0) {
        return os_error == ENOENT ? 0 : os_error;
    }
    if (info.type != HOST_FILE_FOLDER) {
        return ENOTDIR;
    }
    ASSERT(full[0] == '/');
    while (os_error == 0 && depth > 0) {
        os_error = tree_step(fs, full, &depth);
    }
    return os_error;
}

enum kelpie_status sim_host_path_remove_tree(struct host *host, const char *path,
                                             struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_PATH_REMOVE_TREE, strlen(path));
    return path_end(host, SIM_EVENT_PATH_REMOVE_TREE, remove_tree(sim_process_of(host), path),
                    "remove the folder", path, err);
}

enum kelpie_status sim_host_working_dir(struct host *host, char *buffer, size_t size,
                                        struct kelpie_error *err) {
    ASSERT(buffer && size > 0);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_WORKING_DIR, 0);
    int length = snprintf(buffer, size, "%s", folder_of(sim_process_of(host)));
    return sim_leave(
        host, SIM_EVENT_WORKING_DIR,
        (size_t)length < size
            ? KELPIE_OK
            : error_set(err, KELPIE_NO_SPACE, "the working folder's path has %d bytes", length));
}

enum kelpie_status sim_host_path_symlink(struct host *host, const char *target, const char *path,
                                         struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(target);
    ASSERT(path);
    sim_enter(host, SIM_EVENT_PATH_SYMLINK, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_MKDIR_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_symlink(process->machine->fs, target, full);
    }
    return path_end(host, SIM_EVENT_PATH_SYMLINK, os_error, "make the link", path, err);
}

enum kelpie_status sim_host_path_readlink(struct host *host, const char *path, char *buffer,
                                          size_t size, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(buffer && size > 0);
    ASSERT(path);
    sim_enter(host, SIM_EVENT_PATH_READLINK, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_STAT_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_readlink(process->machine->fs, full, buffer, size);
    }
    /* As the Linux host has it: what does not fit is NO_SPACE. */
    return path_end(host, SIM_EVENT_PATH_READLINK, os_error == ERANGE ? EFBIG : os_error,
                    "read the link", path, err);
}

enum kelpie_status sim_host_path_sync(struct host *host, const char *path,
                                      struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(path);
    ASSERT(host);
    sim_enter(host, SIM_EVENT_PATH_SYNC, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_SYNC_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_sync_folder(process->machine->fs, full);
    }
    return path_end(host, SIM_EVENT_PATH_SYNC, os_error, "sync the folder", path, err);
}

enum kelpie_status sim_host_dir_list(struct host *host, const char *path,
                                     struct host_dir_entry *entries, size_t capacity,
                                     size_t *ret_count, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(ret_count);
    ASSERT(path);
    sim_enter(host, SIM_EVENT_DIR_LIST, strlen(path));
    int os_error = path_begin(process, SIM_FAULT_PATH_LIST_FAILS, path, full);
    if (os_error == 0) {
        os_error = sim_fs_list(process->machine->fs, full, entries, capacity, ret_count);
    }
    return path_end(host, SIM_EVENT_DIR_LIST, os_error == ERANGE ? EFBIG : os_error, "list", path,
                    err);
}
