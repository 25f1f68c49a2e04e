/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * empty.c: the disk that a VM writes to over an image: an ext4 file system with nothing in it. Formatting one takes a
 * program's start, so that it is done once for each size and kept in the cache; a VM gets a copy of the few megabytes
 * that are not a hole. It has a journal: a VM that was killed comes up again with what it had synced.
 */
#include "image/image_internal.h"

#include <stdio.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define SHELF "disks"
#define DISK_MODE 0600
#define COPY_SIZE 262144
#define RECIPE "ext4-1" /* a change of the options below takes another name */

/* Inode tables and journal stay holes, which read as the zeros that a kernel expects there. */
static enum kelpie_status format(struct host *host, int fd, const struct host_wait *wait,
                                 struct kelpie_error *err) {
    AUTO_MEM char *output = NULL;
    ASSERT(host);
    ASSERT(fd != HOST_FD_NONE);
    const char *const argv[] = {"mkfs.ext4",
                                "-q",
                                "-F",
                                "-m",
                                "0",
                                "-E",
                                "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
                                "/proc/self/fd/3",
                                NULL};
    const struct image_program program = {.argv = argv, .passed_fd = fd};
    enum kelpie_status status = image_program_run(host, &program, wait, &output, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING,
                          "a disk over an image takes mkfs.ext4: install e2fsprogs");
    }
    return status;
}

/* What is not a hole of one file goes into another, which is empty and of the same size. */
static enum kelpie_status copy_data(struct host *host, int source_fd, int target_fd, uint64_t size,
                                    struct kelpie_error *err) {
    ASSERT(source_fd != target_fd);
    ASSERT(size > 0);
    AUTO_MEM uint8_t *buffer = host_allocate(host, COPY_SIZE, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    uint64_t offset = 0;
    while (offset < size) {
        uint64_t start = 0;
        uint64_t end = 0;
        TRY(host_file_next_data(host, source_fd, offset, &start, &end, err));
        end = min_u64(end, size);
        for (offset = start; offset < end;) {
            size_t piece = (size_t)min_u64(end - offset, COPY_SIZE);
            size_t read = 0;
            TRY(host_file_read_at(host, source_fd, buffer, piece, offset, &read, err));
            if (read == 0) {
                return error_set(err, KELPIE_IO_FAILED, "the cache's empty disk became shorter");
            }
            TRY(host_file_write_at(host, target_fd, buffer, read, offset, err));
            offset += read;
        }
        offset = end > start ? end : size;
    }
    return KELPIE_OK;
}

/* Makes the cache's disk of that size. Of two that do so at once, the last one's stays. */
static enum kelpie_status make(struct host *host, const char *path, uint64_t size,
                               const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(path[0] == '/');
    ASSERT(size > 0);
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    AUTO_FD struct host_fd scratch = {host, HOST_FD_NONE};
    TRY(image_scratch_file(host, &scratch.fd, err)); /* mkfs reads what it wrote */
    TRY(host_file_truncate(host, scratch.fd, size, err));
    TRY(format(host, scratch.fd, wait, err));
    TRY(host_draft_open(host, path, DISK_MODE, &draft, err));
    TRY(host_file_truncate(host, draft.fd, size, err));
    TRY(copy_data(host, scratch.fd, draft.fd, size, err));
    TRY(host_file_sync(host, draft.fd, err));
    return host_draft_publish(&draft, err);
}

/* The cache's disk of that size, open; HOST_FD_NONE: there is none, or it is not what it should be. */
static enum kelpie_status find(struct host *host, const char *path, uint64_t size, int *ret_fd,
                               struct kelpie_error *err) {
    struct host_file_info info = {0};
    ASSERT(path[0] == '/');
    ASSERT(ret_fd);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    enum kelpie_status status =
        host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, err);
    if (status == KELPIE_NOT_FOUND) {
        *ret_fd = HOST_FD_NONE;
        return KELPIE_OK;
    }
    TRY(status);
    TRY(host_file_stat(host, fd.fd, &info, err));
    bool good = info.type == HOST_FILE_REGULAR && info.size == size;
    *ret_fd = good ? host_fd_take(&fd) : HOST_FD_NONE;
    return KELPIE_OK;
}

enum kelpie_status image_disk_format(struct host *host, int fd, uint64_t size,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    struct image_path folder;
    struct image_path path;
    ASSERT(size >= IMAGE_DISK_SIZE_MIN && size % IMAGE_DISK_SECTOR_SIZE == 0);
    ASSERT(fd != HOST_FD_NONE);
    TRY(image_cache_folder(host, SHELF, &folder, err));
    TRY(image_path_format(&path, err, "%s/" RECIPE "-%llu", folder.text, (unsigned long long)size));
    AUTO_FD struct host_fd empty = {host, HOST_FD_NONE};
    TRY(find(host, path.text, size, &empty.fd, err));
    if (empty.fd == HOST_FD_NONE) {
        TRY(make(host, path.text, size, wait, err));
        TRY(host_file_open(host, path.text, HOST_OPEN_READ, 0, &empty.fd, err));
    }
    TRY(host_file_truncate(host, fd, size, err));
    return copy_data(host, empty.fd, fd, size, err);
}
