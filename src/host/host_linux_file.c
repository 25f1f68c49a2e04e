/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's open files, memory files and mappings. */
#include "host/host_linux.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"

#define IO_SIZE_MAX (1u << 30) /* bytes in one system call, which takes a little under 2 GiB */

static bool offset_fits(uint64_t offset, size_t size) {
    uint64_t end = 0;
    return checked_add_u64(offset, size, &end) && end <= INT64_MAX;
}

/* O_NONBLOCK: neither opening nor using a FIFO may block past a deadline; files do not care. */
enum kelpie_status linux_file_open(struct host *host, const char *path, uint32_t flags,
                                   uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host && path);
    ASSERT(flags & (HOST_OPEN_READ | HOST_OPEN_WRITE));
    int open_flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    if (flags & HOST_OPEN_WRITE) {
        open_flags |= (flags & HOST_OPEN_READ) ? O_RDWR : O_WRONLY;
    }
    open_flags |= (flags & HOST_OPEN_CREATE) ? O_CREAT : 0;
    open_flags |= (flags & HOST_OPEN_EXCLUSIVE) ? O_EXCL : 0;
    open_flags |= (flags & HOST_OPEN_TRUNCATE) ? O_TRUNC : 0;
    open_flags |= (flags & HOST_OPEN_NO_FOLLOW) ? O_NOFOLLOW : 0;
    open_flags |= (flags & HOST_OPEN_UNNAMED) ? O_TMPFILE : 0;
    int fd = RETRY_EINTR(open(path, open_flags, (mode_t)mode));
    if (fd < 0) {
        return error_set_os(err, errno, "cannot open '%s'", path);
    }
    *ret_fd = fd;
    return KELPIE_OK;
}

enum kelpie_status linux_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                      uint64_t offset, size_t *ret_size, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    if (!offset_fits(offset, size)) {
        return error_set_os(err, EOVERFLOW, "cannot read at byte %ju", (uintmax_t)offset);
    }
    size_t done = 0;
    while (done < size) {
        size_t piece = min_size(size - done, IO_SIZE_MAX);
        ssize_t count =
            RETRY_EINTR(pread(fd, (uint8_t *)buffer + done, piece, (off_t)(offset + done)));
        if (count < 0) {
            return error_set_os(err, errno, "cannot read %zu bytes at byte %ju", piece,
                                (uintmax_t)(offset + done));
        }
        if (count == 0) {
            break;
        }
        done += (size_t)count;
    }
    ASSERT(done <= size);
    *ret_size = done;
    return KELPIE_OK;
}

enum kelpie_status linux_file_write_at(struct host *host, int fd, const void *data, size_t size,
                                       uint64_t offset, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    if (!offset_fits(offset, size)) {
        return error_set_os(err, EFBIG, "cannot write at byte %ju", (uintmax_t)offset);
    }
    size_t done = 0;
    while (done < size) {
        size_t piece = min_size(size - done, IO_SIZE_MAX);
        ssize_t count =
            RETRY_EINTR(pwrite(fd, (const uint8_t *)data + done, piece, (off_t)(offset + done)));
        if (count <= 0) {
            return error_set_os(err, count < 0 ? errno : ENOSPC,
                                "cannot write %zu bytes at byte %ju", piece,
                                (uintmax_t)(offset + done));
        }
        done += (size_t)count;
    }
    ASSERT(done == size);
    return KELPIE_OK;
}

enum kelpie_status linux_file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                   struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    ASSERT(ret_info);
    struct stat stat = {0};
    if (fstat(fd, &stat) < 0) {
        return error_set_os(err, errno, "cannot look at an open file");
    }
    linux_file_info(&stat, ret_info);
    return KELPIE_OK;
}

enum kelpie_status linux_file_truncate(struct host *host, int fd, uint64_t size,
                                       struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    if (size > INT64_MAX) {
        return error_set_os(err, EFBIG, "cannot make a file %ju bytes long", (uintmax_t)size);
    }
    if (RETRY_EINTR(ftruncate(fd, (off_t)size)) < 0) {
        return error_set_os(err, errno, "cannot make a file %ju bytes long", (uintmax_t)size);
    }
    return KELPIE_OK;
}

/* By the descriptor's entry in /proc, which takes no privilege (open(2), O_TMPFILE). */
enum kelpie_status linux_file_link(struct host *host, int fd, const char *path,
                                   struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host && path);
    char source[64];
    snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, source, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0) {
        return error_set_os(err, errno, "cannot put a new file at '%s'", path);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_file_sync(struct host *host, int fd, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    if (RETRY_EINTR(fsync(fd)) < 0) {
        return error_set_os(err, errno, "cannot sync a file to its disk");
    }
    return KELPIE_OK;
}

/* The answer where there are no holes: one run to the end of the file. */
static enum kelpie_status whole_rest(int fd, uint64_t offset, uint64_t *ret_start,
                                     uint64_t *ret_end, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    struct stat stat = {0};
    if (fstat(fd, &stat) < 0) {
        return error_set_os(err, errno, "cannot look at an open file");
    }
    ASSERT(stat.st_size >= 0);
    *ret_end = (uint64_t)stat.st_size;
    *ret_start = min_u64(offset, *ret_end);
    return KELPIE_OK;
}

/* lseek(2), SEEK_DATA: ENXIO says that there is no data behind the offset, EINVAL that the file
 * system knows of no holes. The file's position, which this moves, is used by nobody. */
enum kelpie_status linux_file_next_data(struct host *host, int fd, uint64_t offset,
                                        uint64_t *ret_start, uint64_t *ret_end,
                                        struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    ASSERT(ret_start && ret_end);
    off_t start = offset <= INT64_MAX ? lseek(fd, (off_t)offset, SEEK_DATA) : -1;
    if (start < 0 && (offset > INT64_MAX || errno == ENXIO)) {
        return whole_rest(fd, UINT64_MAX, ret_start, ret_end, err);
    }
    if (start < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
        return whole_rest(fd, offset, ret_start, ret_end, err);
    }
    off_t end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
    if (end < 0) {
        return error_set_os(err, errno, "cannot look for data at byte %ju", (uintmax_t)offset);
    }
    ASSERT(end >= start);
    *ret_start = (uint64_t)start;
    *ret_end = (uint64_t)end;
    return KELPIE_OK;
}

enum kelpie_status linux_file_lock(struct host *host, int fd, bool exclusive,
                                   struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    if (RETRY_EINTR(flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)) == 0) {
        return KELPIE_OK;
    }
    if (errno == EWOULDBLOCK) {
        return error_set(err, KELPIE_BUSY, "another process holds the lock");
    }
    return error_set_os(err, errno, "cannot lock a file");
}

enum kelpie_status linux_file_map(struct host *host, int fd, size_t size, enum host_map_flag flag,
                                  struct host_memory_map *ret_map, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    ASSERT(size > 0);
    int protection = PROT_READ;
    int flags = MAP_SHARED;
    switch (flag) {
    case HOST_MAP_READ:
        break;
    case HOST_MAP_PRIVATE_WRITE:
        protection |= PROT_WRITE;
        /* Guest memory is mapped whole and touched in part: no swap is set aside for all of it. */
        flags = MAP_PRIVATE | MAP_NORESERVE;
        break;
    case HOST_MAP_SHARED_WRITE:
        protection |= PROT_WRITE;
        break;
    default:
        UNREACHABLE();
    }
    void *data = mmap(NULL, size, protection, flags, fd, 0);
    if (data == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map %zu bytes of a file", size);
    }
    *ret_map = (struct host_memory_map){.data = data, .size = size};
    return KELPIE_OK;
}

void linux_file_unmap(struct host *host, struct host_memory_map *map) {
    ASSERT(host);
    ASSERT(map->data && map->size > 0);
    int result = munmap(map->data, map->size);
    ASSERT(result == 0);
}

enum kelpie_status linux_memory_file(struct host *host, const char *name, uint64_t size,
                                     int *ret_fd, struct kelpie_error *err) {
    ASSERT(name && ret_fd);
    AUTO_FD struct host_fd file = {host, memfd_create(name, MFD_CLOEXEC)};
    if (file.fd < 0) {
        return error_set_os(err, errno, "cannot create the memory file '%s'", name);
    }
    TRY(linux_file_truncate(host, file.fd, size, err));
    *ret_fd = host_fd_take(&file);
    return KELPIE_OK;
}

/* A lock belongs to the open file, which a child between fork and exec still holds, as does a copy
 * that the embedding program forked. So a lock is let go by name, and not by the close. */
void linux_close(struct host *host, int fd) {
    ASSERT(host);
    ASSERT(fd >= 0);
    (void)flock(fd, LOCK_UN);
    int result = close(fd);
    ASSERT(result == 0 || errno != EBADF);
}
