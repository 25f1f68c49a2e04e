/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What host.h offers beyond the operations of an implementation: composed of them, and so the same
 * on every host.
 */
#include "host/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

/* ---- Waits ------------------------------------------------------------------------------------ */

struct host_wait host_wait_ms(struct host *host, uint64_t timeout_ms, int cancel_fd) {
    ASSERT(host);
    ASSERT(cancel_fd >= 0 || cancel_fd == HOST_FD_NONE);
    struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = cancel_fd};
    uint64_t timeout_ns = 0;
    if (checked_mul_u64(timeout_ms, HOST_NS_PER_MS, &timeout_ns)) {
        (void)checked_add_u64(host_monotonic_ns(host), timeout_ns, &wait.deadline_ns);
    }
    return wait;
}

struct host_wait host_wait_none(void) {
    return (struct host_wait){.deadline_ns = 0, .cancel_fd = HOST_FD_NONE};
}

/* ---- Memory ----------------------------------------------------------------------------------- */

void *host_allocate(struct host *host, size_t size, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(size > 0);
    void *memory = host->ops->allocate(host, size);
    if (!memory) {
        error_set(err, KELPIE_NO_MEMORY, "cannot allocate %zu bytes", size);
    }
    return memory;
}

char *host_duplicate(struct host *host, const char *text, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(text);
    size_t size = strlen(text) + 1;
    char *copy = host_allocate(host, size, err);
    if (copy) {
        memcpy(copy, text, size);
    }
    return copy;
}

/* ---- Descriptors ------------------------------------------------------------------------------ */

enum kelpie_status host_file_reopen(struct host *host, int fd, int *ret_fd,
                                    struct kelpie_error *err) {
    char path[64];
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(ret_fd);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return host_file_open(host, path, HOST_OPEN_READ, 0, ret_fd, err);
}

/* ---- Guards ----------------------------------------------------------------------------------- */

void host_fd_cleanup(struct host_fd *fd) {
    ASSERT(fd);
    ASSERT(fd->host || fd->fd == HOST_FD_NONE);
    host_close(fd->host, fd->fd);
    fd->fd = HOST_FD_NONE;
}

int host_fd_take(struct host_fd *fd) {
    ASSERT(fd);
    ASSERT(fd->fd >= 0);
    int taken = fd->fd;
    fd->fd = HOST_FD_NONE;
    return taken;
}

void host_map_cleanup(struct host_map *map) {
    ASSERT(map);
    ASSERT(map->host || !map->map.data);
    host_file_unmap(map->host, &map->map);
}

/* ---- Whole files ------------------------------------------------------------------------------ */

/* Files such as those of /proc say that their size is 0 and grow as they are read, so the size is
 * only where the buffer starts; it doubles until a read comes back short. */
#define LOAD_CAPACITY_MIN 4096

static enum kelpie_status load_grow(struct host *host, char **data, size_t used, size_t capacity,
                                    struct kelpie_error *err) {
    ASSERT(used <= capacity);
    ASSERT(capacity < SIZE_MAX);
    char *grown = host_allocate(host, capacity + 1, err);
    if (!grown) {
        return KELPIE_NO_MEMORY;
    }
    if (used > 0) {
        memcpy(grown, *data, used);
    }
    free(*data);
    *data = grown;
    return KELPIE_OK;
}

enum kelpie_status host_file_load(struct host *host, const char *path, size_t size_max,
                                  char **ret_data, size_t *ret_size, struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_data && ret_size);
    ASSERT(size_max > 0 && size_max < SIZE_MAX / 4);
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    AUTO_MEM char *data = NULL;
    struct host_file_info info = {0};
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &file.fd, err));
    TRY(host_file_stat(host, file.fd, &info, err));

    size_t used = 0;
    size_t capacity = info.size < LOAD_CAPACITY_MIN ? LOAD_CAPACITY_MIN
                                                    : (size_t)min_u64(info.size, size_max) + 1;
    for (;;) {
        TRY(load_grow(host, &data, used, capacity, err));
        size_t count = 0;
        TRY(host_file_read_at(host, file.fd, data + used, capacity - used, used, &count, err));
        used += count;
        if (used > size_max) {
            return error_set(err, KELPIE_NO_SPACE, "'%s' is longer than %zu bytes", path, size_max);
        }
        if (used < capacity) {
            break;
        }
        capacity = min_size(capacity * 2, size_max + 1);
    }
    data[used] = '\0';
    *ret_data = TAKE(data);
    *ret_size = used;
    return KELPIE_OK;
}

enum kelpie_status host_file_store(struct host *host, const char *path, const void *data,
                                   size_t size, uint32_t mode, struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(data || size == 0);
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    TRY(host_draft_open(host, path, mode, &draft, err));
    TRY(host_file_write_at(host, draft.fd, data, size, 0, err));
    TRY(host_file_sync(host, draft.fd, err));
    return host_draft_publish(&draft, err);
}

/* ---- Folders ---------------------------------------------------------------------------------- */

/* Makes one folder; what exists already is left to a later check. */
static enum kelpie_status mkdir_tolerant(struct host *host, const char *path, uint32_t mode,
                                         struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(path[0]);
    struct kelpie_error failure = {0};
    enum kelpie_status status = host_path_mkdir(host, path, mode, &failure);
    if (status == KELPIE_OK || failure.os_error == EEXIST) {
        return KELPIE_OK;
    }
    if (err) {
        *err = failure;
    }
    return status;
}

/* A folder, or a link to one: the dot makes the system follow it. */
static enum kelpie_status require_folder(struct host *host, const char *path,
                                         struct kelpie_error *err) {
    char inside[HOST_PATH_SIZE_MAX + 3];
    int length = snprintf(inside, sizeof(inside), "%s/.", path);
    ASSERT(length > 2 && (size_t)length < sizeof(inside));
    struct host_file_info info = {0};
    TRY(host_path_stat(host, inside, &info, err));
    ASSERT(info.type == HOST_FILE_FOLDER);
    return KELPIE_OK;
}

enum kelpie_status host_path_mkdir_all(struct host *host, const char *path, uint32_t mode,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    size_t length = strlen(path);
    if (length == 0 || length > HOST_PATH_SIZE_MAX) {
        return error_set_os(err, length == 0 ? ENOENT : ENAMETOOLONG, "cannot make the folder '%s'",
                            path);
    }
    char part[HOST_PATH_SIZE_MAX + 1];
    memcpy(part, path, length + 1);
    for (size_t i = 1; i < length; i++) {
        if (part[i] != '/' || part[i - 1] == '/') {
            continue;
        }
        part[i] = '\0';
        TRY(mkdir_tolerant(host, part, mode, err));
        part[i] = '/';
    }
    TRY(mkdir_tolerant(host, part, mode, err));
    return require_folder(host, path, err);
}

/* Removes one file of a folder, whose name is `name`. */
static enum kelpie_status remove_entry(struct host *host, const char *folder, const char *name,
                                       struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 1];
    int length = snprintf(path, sizeof(path), "%s/%s", folder, name);
    ASSERT(length > 0);
    if ((size_t)length >= sizeof(path)) {
        return error_set_os(err, ENAMETOOLONG, "cannot remove '%s' of '%s'", name, folder);
    }
    enum kelpie_status status = host_path_unlink(host, path, err);
    return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
}

enum kelpie_status host_path_remove_folder(struct host *host, const char *path,
                                           struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    struct host_file_info info = {0};
    enum kelpie_status status = host_path_stat(host, path, &info, err);
    if (status != KELPIE_OK) {
        return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
    }
    /* Files behind a link are somebody else's. */
    if (info.type != HOST_FILE_FOLDER) {
        return error_set_os(err, ENOTDIR, "cannot remove the folder '%s'", path);
    }
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), err);
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    size_t count = 0;
    status = host_dir_list(host, path, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, err);
    if (status != KELPIE_OK) {
        return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
    }
    for (size_t i = 0; i < count; i++) {
        TRY(remove_entry(host, path, entries[i].name, err));
    }
    status = host_path_rmdir(host, path, err);
    return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
}

/* ---- Streams ---------------------------------------------------------------------------------- */

/* A reader that keeps up would let every write through without a wait, so the deadline is looked at
 * here too. */
enum kelpie_status host_write_all(struct host *host, int fd, const void *data, size_t size,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(data || size == 0);
    ASSERT(wait);
    const uint8_t *bytes = data;
    size_t written = 0;
    while (written < size) {
        if (written > 0 && host_monotonic_ns(host) >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "only %zu of %zu bytes were written in time",
                             written, size);
        }
        size_t count = 0;
        TRY(host_write(host, fd, bytes + written, size - written, wait, &count, err));
        ASSERT(count > 0 && count <= size - written);
        written += count;
    }
    return KELPIE_OK;
}
