/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The boot disk, read back as EROFS lays it down (Linux, fs/erofs/erofs_fs.h), by a reader that knows nothing of the
 * writer's places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "image/image_internal.h"

#define BLOCK 4096u

struct disk {
    uint8_t *bytes;
    size_t size;
};

static struct host *host;

static uint64_t number(struct disk disk, uint64_t offset, size_t width) {
    uint64_t value = 0;
    assert_true(offset <= disk.size && width <= disk.size - offset);
    memcpy(&value, disk.bytes + offset, width);
    return value;
}

/* A disk over an archive of these bytes. */
static struct disk disk_new(const void *archive, size_t size) {
    struct image_boot *boot = calloc(1, sizeof(*boot));
    struct kelpie_error err;
    uint64_t disk_size = 0;
    int fd = -1;
    assert_non_null(boot);
    snprintf(boot->initramfs_path, sizeof(boot->initramfs_path), "/tmp/kelpie-medium-XXXXXX");
    int archive_fd = mkstemp(boot->initramfs_path);
    assert_true(archive_fd >= 0);
    assert_int_equal(write(archive_fd, archive, size), size);
    assert_int_equal(image_medium_build(host, boot, &fd, &disk_size, &err), KELPIE_OK);
    assert_int_equal(unlink(boot->initramfs_path), 0);
    close(archive_fd);
    free(boot);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_size, disk_size);
    struct disk disk = {malloc(disk_size), disk_size};
    assert_non_null(disk.bytes);
    assert_int_equal(pread(fd, disk.bytes, disk_size, 0), disk_size);
    close(fd);
    return disk;
}

static uint64_t inode_at(struct disk disk, uint64_t nid) {
    return number(disk, 1024 + 40, 4) * BLOCK + nid * 32;
}

/* The inode of a name in the root folder; 0: there is none. */
static uint64_t find(struct disk disk, const char *wanted, uint8_t *ret_type) {
    uint64_t root = inode_at(disk, number(disk, 1024 + 14, 2));
    uint64_t start = number(disk, root + 16, 4) * BLOCK;
    uint64_t size = number(disk, root + 8, 4);
    size_t count = number(disk, start + 8, 2) / 12;
    assert_true(size <= BLOCK);
    for (size_t i = 0; i < count; i++) {
        uint64_t entry = start + i * 12;
        uint64_t name = number(disk, entry + 8, 2);
        uint64_t end = i + 1 < count ? number(disk, entry + 12 + 8, 2) : size;
        assert_true(name < end && end <= size);
        if (end - name == strlen(wanted) &&
            memcmp(disk.bytes + start + name, wanted, end - name) == 0) {
            *ret_type = disk.bytes[entry + 10];
            return inode_at(disk, number(disk, entry, 8));
        }
    }
    return 0;
}

static void check_file(struct disk disk, const char *name, uint16_t mode, const void *data,
                       size_t size) {
    uint8_t type = 0;
    uint64_t inode = find(disk, name, &type);
    assert_true(inode > 0);
    assert_int_equal(type, 1);
    assert_int_equal(number(disk, inode, 2), 0); /* compact, flat */
    assert_int_equal(number(disk, inode + 4, 2), S_IFREG | mode);
    assert_int_equal(number(disk, inode + 6, 2), 1);
    assert_int_equal(number(disk, inode + 8, 4), size);
    uint64_t start = number(disk, inode + 16, 4) * BLOCK;
    assert_true(start <= disk.size && size <= disk.size - start);
    assert_memory_equal(disk.bytes + start, data, size);
}

static void check_disk(size_t archive_size) {
    static uint8_t archive[3 * BLOCK];
    uint8_t type = 0;
    for (size_t i = 0; i < sizeof(archive); i++) {
        archive[i] = (uint8_t)(i * 11 + 3);
    }
    struct disk disk = disk_new(archive, archive_size);
    assert_int_equal(number(disk, 1024, 4), 0xe0f5e1e2);
    assert_int_equal(number(disk, 1024 + 12, 1), 12); /* blocks of 4 KiB */
    assert_int_equal(number(disk, 1024 + 36, 4) * BLOCK, disk.size);
    assert_int_equal(number(disk, 1024 + 80, 4), 0); /* no incompatible feature */
    size_t init_size = (size_t)(image_guest_data_end - image_guest_data);
    /* Superblock and inodes, three folders, two files: no block more. */
    size_t blocks = 4 + (init_size + BLOCK - 1) / BLOCK + (archive_size + BLOCK - 1) / BLOCK;
    assert_int_equal(disk.size, blocks * BLOCK);
    check_file(disk, "init", 0755, image_guest_data, init_size);
    check_file(disk, "kelpie.cpio", 0600, archive, archive_size);
    static const char *const folders[] = {".", "..", "dev", "new"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        uint64_t inode = find(disk, folders[i], &type);
        assert_true(inode > 0);
        assert_int_equal(type, 2);
        assert_int_equal(number(disk, inode + 4, 2), S_IFDIR | 0755);
    }
    assert_int_equal(find(disk, "ini", &type), 0);
    free(disk.bytes);
}

static void the_disk_has_what_it_must(void **state) {
    static const size_t sizes[] = {1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        check_disk(sizes[i]);
    }
}

/* Names are looked for by halving: they must be in order. */
static void names_are_in_order(void **state) {
    (void)state;
    struct disk disk = disk_new("x", 1);
    uint64_t root = inode_at(disk, number(disk, 1024 + 14, 2));
    const char *start = (const char *)disk.bytes + number(disk, root + 16, 4) * BLOCK;
    uint64_t names = number(disk, (uint64_t)(start - (const char *)disk.bytes) + 8, 2);
    assert_int_equal(names / 12, 6);
    assert_memory_equal(start + names, "...devinitkelpie.cpionew", 24);
    free(disk.bytes);
}

static void equal_inputs_give_equal_bytes(void **state) {
    (void)state;
    struct disk first = disk_new("archive", 7);
    struct disk second = disk_new("archive", 7);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.bytes, second.bytes, first.size);
    free(first.bytes);
    free(second.bytes);
}

static int setup(void **state) {
    (void)state;
    return host_linux_create(&host, NULL) == KELPIE_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    host_destroy(host);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_disk_has_what_it_must),
        cmocka_unit_test(names_are_in_order),
        cmocka_unit_test(equal_inputs_give_equal_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
