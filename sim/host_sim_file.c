/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated host's open files, memory files and mappings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/world.h"

#define PATH_SIZE (HOST_PATH_SIZE_MAX + 16)
#define FIRST_FD 3

/* What a mapping is undone with. */
struct mapping {
    struct sim_object object; /* first */
    struct sim_inode *inode;
    void *data;
    size_t size;
};

static struct sim_handle *file_of(struct host *host, int fd) {
    struct sim_handle *handle = sim_fd_get(sim_process_of(host), fd);
    ASSERT(handle->kind == SIM_HANDLE_FILE);
    ASSERT(handle->inode);
    return handle;
}

static enum kelpie_status file_end(struct host *host, enum sim_event event, int os_error,
                                   const char *what, struct kelpie_error *err) {
    ASSERT(what);
    ASSERT(os_error >= 0);
    return sim_leave(host, event, os_error == 0 ? KELPIE_OK : sim_error(err, os_error, what));
}

/* ---- Opening ---------------------------------------------------------------------------------- */

/* A new handle of the inode, whose reference it takes over. */
static int open_inode(struct sim_process *process, struct sim_inode *inode, uint32_t flags,
                      int *ret_fd) {
    struct sim_handle *handle = sim_handle_create(process->world, SIM_HANDLE_FILE);
    ASSERT(inode);
    if (!handle) {
        sim_inode_release(inode);
        return ENOMEM;
    }
    handle->inode = inode;
    handle->flags = flags;
    int fd = sim_fd_add(process, handle, FIRST_FD);
    if (fd < 0) {
        sim_handle_release(handle);
        return EMFILE;
    }
    *ret_fd = fd;
    ASSERT(process->handles[fd] == handle);
    return 0;
}

static struct sim_process *process_of_id(struct sim_process *process, int id) {
    struct sim_process *other = process->world->processes;
    ASSERT(process->machine);
    while (other && (other->id != id || other->machine != process->machine || other->ended)) {
        other = other->next;
    }
    ASSERT(!other || other->id == id);
    return other;
}

/* /proc/self/fd/N and /proc/<process>/fd/N are the file that the descriptor leads to. NULL: it is no such path. */
static struct sim_handle *descriptor_at(struct sim_process *process, const char *path) {
    char own[8] = "";
    int id = process->id;
    int fd = -1;
    ASSERT(path);
    ASSERT(process->handles);
    if (sscanf(path, "/proc/%7[self]/fd/%d", own, &fd) != 2 &&
        sscanf(path, "/proc/%d/fd/%d", &id, &fd) != 2) {
        return NULL;
    }
    struct sim_process *owner = process_of_id(process, id);
    bool open = owner && fd >= 0 && fd < (int)SIM_FD_COUNT_MAX && owner->handles[fd];
    return open && owner->handles[fd]->kind == SIM_HANDLE_FILE ? owner->handles[fd] : NULL;
}

static int open_path(struct sim_process *process, const char *path, uint32_t flags, uint32_t mode,
                     int *ret_fd) {
    char full[PATH_SIZE];
    struct sim_inode *inode = NULL;
    struct sim_handle *own = descriptor_at(process, path);
    ASSERT(ret_fd);
    if (sim_fault(process, SIM_FAULT_FILE_OPEN_FAILS)) {
        return sim_choose(&process->world->choices, 2) == 0 ? EMFILE : EIO;
    }
    if (own) {
        sim_inode_share(own->inode);
        return open_inode(process, own->inode, flags, ret_fd);
    }
    if ((flags & HOST_OPEN_UNNAMED) && !process->machine->unnamed_files) {
        return EOPNOTSUPP;
    }
    if (path[0] == '\0' || !sim_path_absolute(process, path, full, sizeof(full))) {
        return path[0] == '\0' ? ENOENT : ENAMETOOLONG;
    }
    sim_fs_set_time(process->machine->fs, sim_machine_realtime_ns(process->machine));
    int os_error = sim_fs_open(process->machine->fs, full, flags, mode, &inode);
    ASSERT((os_error == 0) == (inode != NULL));
    return os_error == 0 ? open_inode(process, inode, flags, ret_fd) : os_error;
}

enum kelpie_status sim_host_file_open(struct host *host, const char *path, uint32_t flags,
                                      uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_FILE_OPEN, strlen(path) << 16 | flags);
    int os_error = open_path(sim_process_of(host), path, flags, mode, ret_fd);
    return sim_leave(host, SIM_EVENT_FILE_OPEN,
                     os_error == 0 ? KELPIE_OK
                                   : error_set_os(err, os_error, "cannot open '%s'", path));
}

enum kelpie_status sim_host_memory_file(struct host *host, const char *name, uint64_t size,
                                        int *ret_fd, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(name && ret_fd);
    sim_enter(host, SIM_EVENT_MEMORY_FILE, size);
    struct sim_inode *inode = sim_fault(process, SIM_FAULT_MEMORY_FILE_FAILS)
                                  ? NULL
                                  : sim_inode_create_memory(process->machine->fs, size);
    int os_error =
        inode ? open_inode(process, inode, HOST_OPEN_READ | HOST_OPEN_WRITE, ret_fd) : ENOMEM;
    if (os_error == 0) {
        struct sim_handle *handle = file_of(host, *ret_fd);
        snprintf(handle->name, sizeof(handle->name), "%s", name);
    }
    ASSERT(os_error != 0 || *ret_fd >= 0);
    return file_end(host, SIM_EVENT_MEMORY_FILE, os_error, "make a memory file", err);
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

enum kelpie_status sim_host_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                         uint64_t offset, size_t *ret_size,
                                         struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(buffer || size == 0);
    sim_enter(host, SIM_EVENT_FILE_READ, offset << 24 ^ size);
    struct sim_handle *handle = file_of(host, fd);
    ASSERT(handle->flags & HOST_OPEN_READ);
    if (size > 0 && sim_fault(process, SIM_FAULT_FILE_BAD_SECTOR)) {
        sim_inode_spoil(handle->inode, offset);
    }
    int os_error = sim_fault(process, SIM_FAULT_FILE_READ_FAILS)
                       ? EIO
                       : sim_inode_read(handle->inode, buffer, size, offset, ret_size);
    return file_end(host, SIM_EVENT_FILE_READ, os_error, "read a file", err);
}

static int write_at(struct sim_process *process, struct sim_inode *inode, const void *data,
                    size_t size, uint64_t offset) {
    ASSERT(inode);
    ASSERT(data || size == 0);
    sim_fs_set_time(process->machine->fs, sim_machine_realtime_ns(process->machine));
    if (sim_fault(process, SIM_FAULT_FILE_WRITE_FAILS)) {
        return EIO;
    }
    if (sim_fault(process, SIM_FAULT_FILE_DISK_FULL)) {
        size_t part = size > 0 ? (size_t)sim_choose(&process->world->choices, size) : 0;
        int os_error = part > 0 ? sim_inode_write(inode, data, part, offset) : 0;
        return os_error == 0 ? ENOSPC : os_error;
    }
    return sim_inode_write(inode, data, size, offset);
}

enum kelpie_status sim_host_file_write_at(struct host *host, int fd, const void *data, size_t size,
                                          uint64_t offset, struct kelpie_error *err) {
    ASSERT(data || size == 0);
    sim_enter(host, SIM_EVENT_FILE_WRITE, offset << 24 ^ size);
    struct sim_handle *handle = file_of(host, fd);
    ASSERT(handle->flags & HOST_OPEN_WRITE);
    int os_error = write_at(sim_process_of(host), handle->inode, data, size, offset);
    return file_end(host, SIM_EVENT_FILE_WRITE, os_error, "write a file", err);
}

enum kelpie_status sim_host_file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                      struct kelpie_error *err) {
    ASSERT(ret_info);
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_FILE_STAT, 0);
    struct sim_handle *handle = file_of(host, fd);
    int os_error = sim_fault(sim_process_of(host), SIM_FAULT_FILE_STAT_FAILS) ? EIO : 0;
    if (os_error == 0) {
        sim_inode_stat(handle->inode, ret_info);
    }
    return file_end(host, SIM_EVENT_FILE_STAT, os_error, "look at a file", err);
}

enum kelpie_status sim_host_file_truncate(struct host *host, int fd, uint64_t size,
                                          struct kelpie_error *err) {
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_FILE_TRUNCATE, size);
    struct sim_handle *handle = file_of(host, fd);
    ASSERT(handle->flags & HOST_OPEN_WRITE);
    int os_error = sim_fault(sim_process_of(host), SIM_FAULT_FILE_TRUNCATE_FAILS)
                       ? EIO
                       : sim_inode_truncate(handle->inode, size);
    return file_end(host, SIM_EVENT_FILE_TRUNCATE, os_error, "set a file's length", err);
}

enum kelpie_status sim_host_file_sync(struct host *host, int fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_FILE_SYNC, 0);
    struct sim_handle *handle = file_of(host, fd);
    int os_error = sim_fault(sim_process_of(host), SIM_FAULT_FILE_SYNC_FAILS) ? EIO : 0;
    if (os_error == 0) {
        sim_inode_sync(handle->inode);
    } else {
        sim_inode_sync_failed(handle->inode);
    }
    return file_end(host, SIM_EVENT_FILE_SYNC, os_error, "sync a file", err);
}

enum kelpie_status sim_host_file_link(struct host *host, int fd, const char *path,
                                      struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(path);
    sim_enter(host, SIM_EVENT_FILE_LINK, strlen(path));
    struct sim_handle *handle = file_of(host, fd);
    int os_error = sim_fault(process, SIM_FAULT_FILE_LINK_FAILS) ? EIO : 0;
    if (os_error == 0 && !sim_path_absolute(process, path, full, sizeof(full))) {
        os_error = ENAMETOOLONG;
    }
    if (os_error == 0) {
        os_error = sim_fs_link(process->machine->fs, handle->inode, full);
    }
    ASSERT(os_error >= 0);
    return file_end(host, SIM_EVENT_FILE_LINK, os_error, "give a file its name", err);
}

enum kelpie_status sim_host_file_next_data(struct host *host, int fd, uint64_t offset,
                                           uint64_t *ret_start, uint64_t *ret_end,
                                           struct kelpie_error *err) {
    ASSERT(ret_start && ret_end);
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_FILE_NEXT_DATA, offset);
    struct sim_handle *handle = file_of(host, fd);
    int os_error = sim_fault(sim_process_of(host), SIM_FAULT_FILE_STAT_FAILS) ? EIO : 0;
    if (os_error == 0) {
        sim_inode_next_data(handle->inode, offset, ret_start, ret_end);
    }
    return file_end(host, SIM_EVENT_FILE_NEXT_DATA, os_error, "look for a file's holes", err);
}

enum kelpie_status sim_host_file_lock(struct host *host, int fd, bool exclusive,
                                      struct kelpie_error *err) {
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_FILE_LOCK, exclusive);
    struct sim_handle *handle = file_of(host, fd);
    int os_error = sim_inode_lock(handle->inode, handle, exclusive);
    ASSERT(os_error == 0 || os_error == EWOULDBLOCK);
    return sim_leave(host, SIM_EVENT_FILE_LOCK,
                     os_error == 0 ? KELPIE_OK
                                   : error_set(err, KELPIE_BUSY, "another has the file's lock"));
}

/* ---- Mappings --------------------------------------------------------------------------------- */

static void mapping_release(struct sim_object *object) {
    struct mapping *mapping = (struct mapping *)(void *)object;
    ASSERT(mapping->data);
    ASSERT(!object->next);
    sim_inode_unmap(mapping->inode, mapping->data, mapping->size);
    free(mapping);
}

enum kelpie_status sim_host_file_map(struct host *host, int fd, size_t size,
                                     enum host_map_flag flag, struct host_memory_map *ret_map,
                                     struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(size > 0);
    ASSERT(ret_map);
    sim_enter(host, SIM_EVENT_FILE_MAP, size);
    struct sim_handle *handle = file_of(host, fd);
    bool fails = sim_fault(process, SIM_FAULT_FILE_MAP_FAILS);
    struct mapping *mapping = fails ? NULL : calloc(1, sizeof(*mapping));
    void *data = mapping ? sim_inode_map(handle->inode, size, flag) : NULL;
    if (!data) {
        free(mapping);
        return file_end(host, SIM_EVENT_FILE_MAP, ENOMEM, "map a file", err);
    }
    mapping->object.release = mapping_release;
    mapping->inode = handle->inode;
    mapping->data = data;
    mapping->size = size;
    sim_object_add(process, &mapping->object);
    *ret_map = (struct host_memory_map){.data = data, .size = size};
    return sim_leave(host, SIM_EVENT_FILE_MAP, KELPIE_OK);
}

void sim_host_file_unmap(struct host *host, struct host_memory_map *map) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(map->data);
    sim_enter(host, SIM_EVENT_FILE_UNMAP, map->size);
    struct sim_object *object = process->objects.next;
    while (object != &process->objects && (object->release != mapping_release ||
                                           ((struct mapping *)(void *)object)->data != map->data)) {
        object = object->next;
    }
    ASSERT(object != &process->objects); /* else it is no mapping of this process */
    sim_object_remove(object);
    mapping_release(object);
    (void)sim_leave(host, SIM_EVENT_FILE_UNMAP, KELPIE_OK);
}
