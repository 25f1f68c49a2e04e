/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * disk.c: what a VM's disks are made of. A raw image's bytes are never looked at, so that nothing a guest writes into one
 * can change what it is taken for. A folder becomes an ext4 image without a name: it goes with its
 * last descriptor, however the VM ends.
 */
#include "image/image_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define SCRATCH_MODE 0600
#define BLOCK_SIZE 4096
#define KIB 1024
#define INODE_COUNT_MIN 1024
#define NUMBER_SIZE 24

enum kelpie_status image_scratch_file(struct host *host, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_fd);
    struct image_path path;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(image_cache_temporary(host, "scratch", &path, err));
    TRY(host_file_open(host, path.text,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                       SCRATCH_MODE, &fd.fd, err));
    TRY(host_path_unlink(host, path.text, err));
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

static enum kelpie_status disk_wrong(struct kelpie_error *err, size_t index, const char *path,
                                     const char *why) {
    char field[32];
    ASSERT(path);
    ASSERT(why);
    snprintf(field, sizeof(field), "disks[%zu].path", index);
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "the disk %.512s %s", path, why);
}

/* One number that du prints about the folder. */
static enum kelpie_status measure(struct host *host, const char *path, const char *option,
                                  const struct host_wait *wait, uint64_t *ret_number,
                                  struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(option[0] == '-');
    ASSERT(ret_number);
    const char *const argv[] = {"du", "-s", option, "-k", "--", path, NULL};
    const struct image_program program = {.argv = argv, .passed_fd = HOST_FD_NONE};
    AUTO_MEM char *output = NULL;
    TRY(image_program_run(host, &program, wait, &output, err));
    uint64_t number = 0;
    size_t digits = strspn(output, "0123456789");
    if (digits == 0 || digits > 15) {
        return error_set(err, KELPIE_IO_FAILED, "du prints no size for %s", path);
    }
    for (size_t i = 0; i < digits; i++) {
        number = number * 10 + (uint64_t)(output[i] - '0');
    }
    *ret_number = number;
    return KELPIE_OK;
}

struct folder_size {
    uint64_t bytes; /* of the image */
    uint64_t inodes;
};

/* Content, a block for each file's last piece and each folder, and a half again. */
static enum kelpie_status folder_measure(struct host *host, const char *path,
                                         const struct host_wait *wait, struct folder_size *ret_size,
                                         struct kelpie_error *err) {
    uint64_t apparent = 0;
    uint64_t allocated = 0;
    uint64_t inodes = 0;
    ASSERT(wait);
    ASSERT(path);
    ASSERT(ret_size);
    TRY(measure(host, path, "--apparent-size", wait, &apparent, err));
    TRY(measure(host, path, "--total", wait, &allocated, err));
    TRY(measure(host, path, "--inodes", wait, &inodes, err));
    uint64_t content_kib = apparent > allocated ? apparent : allocated;
    uint64_t bytes = 0;
    uint64_t blocks = 0;
    if (!checked_mul_u64(content_kib, KIB, &bytes) ||
        !checked_mul_u64(inodes, BLOCK_SIZE, &blocks) || !checked_add_u64(bytes, blocks, &bytes) ||
        bytes > IMAGE_DISK_SIZE_MAX / 2) {
        return error_set(err, KELPIE_NO_SPACE, "%s is too large for a disk", path);
    }
    bytes += bytes / 2;
    bytes = bytes < IMAGE_DISK_SIZE_MIN ? IMAGE_DISK_SIZE_MIN : bytes;
    ret_size->bytes = (bytes + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
    ret_size->inodes = INODE_COUNT_MIN + inodes + inodes / 2;
    return KELPIE_OK;
}

/* The image is the child's descriptor 3, so that it needs no name. No journal: it does not outlive a crash. */
static enum kelpie_status make_file_system(struct host *host, const char *path, int fd,
                                           uint64_t inode_count, const struct host_wait *wait,
                                           struct kelpie_error *err) {
    char inodes[NUMBER_SIZE];
    AUTO_MEM char *output = NULL;
    ASSERT(path);
    ASSERT(inode_count > 0);
    ASSERT(fd != HOST_FD_NONE);
    snprintf(inodes, sizeof(inodes), "%llu", (unsigned long long)inode_count);
    const char *const argv[] = {"mkfs.ext4",
                                "-q",
                                "-F",
                                "-O",
                                "^has_journal",
                                "-m",
                                "0",
                                "-E",
                                "lazy_itable_init=1,nodiscard",
                                "-N",
                                inodes,
                                "-d",
                                path,
                                "/proc/self/fd/3",
                                NULL};
    const struct image_program program = {.argv = argv, .passed_fd = fd};
    enum kelpie_status status = image_program_run(host, &program, wait, &output, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING,
                          "a folder as a disk takes mkfs.ext4: install e2fsprogs");
    }
    return status;
}

static enum kelpie_status folder_open(struct host *host, const char *path,
                                      const struct host_wait *wait, struct image_disk *ret_disk,
                                      struct kelpie_error *err) {
    struct folder_size size = {0};
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(ret_disk);
    ASSERT(path);
    TRY(folder_measure(host, path, wait, &size, err));
    ASSERT(size.bytes >= IMAGE_DISK_SIZE_MIN);
    TRY(image_scratch_file(host, &fd.fd, err));
    TRY(host_file_truncate(host, fd.fd, size.bytes, err));
    TRY(make_file_system(host, path, fd.fd, size.inodes, wait, err));
    ret_disk->fd = host_fd_take(&fd);
    ret_disk->size = size.bytes;
    return KELPIE_OK;
}

enum kelpie_status image_disk_open(struct host *host, const char *path, bool read_only,
                                   size_t index, const struct host_wait *wait,
                                   struct image_disk *ret_disk, struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(host);
    ASSERT(path);
    ASSERT(ret_disk);
    struct host_file_info info;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    enum kelpie_status status = host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err);
    if (status == KELPIE_NOT_FOUND || status == KELPIE_IO_FAILED) {
        return disk_wrong(err, index, path, "cannot be opened for reading");
    }
    TRY(status);
    TRY(host_file_stat(host, fd.fd, &info, err));
    if (info.type == HOST_FILE_FOLDER) {
        return folder_open(host, path, wait, ret_disk, err);
    }
    if (!read_only) {
        host_close(host, host_fd_take(&fd));
        if (host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd.fd, err) !=
            KELPIE_OK) {
            return disk_wrong(err, index, path, "cannot be opened for writing");
        }
        TRY(host_file_stat(host, fd.fd, &info, err));
    }
    if (info.type != HOST_FILE_REGULAR) {
        return disk_wrong(err, index, path, "is neither a regular file nor a folder");
    }
    if (info.size == 0 || info.size % IMAGE_DISK_SECTOR_SIZE != 0) {
        return disk_wrong(err, index, path, "is not a whole number of 512-byte sectors");
    }
    ret_disk->fd = host_fd_take(&fd);
    ret_disk->size = info.size;
    return KELPIE_OK;
}
