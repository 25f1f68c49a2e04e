/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Empty disks, with the real mkfs and fsck; and notes about files. */
#include "image/image_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define DISK_SIZE (8192ull << 20)
#define COPY_BYTES_MAX (32u << 20)
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct host *host;
static struct host_wait forever;
static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-empty-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return setenv("XDG_CACHE_HOME", folder, 1);
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    host_destroy(host);
    return system(command);
}

static int make_disk(const char *name, char path[128], enum kelpie_status wanted) {
    struct kelpie_error err = {0};
    snprintf(path, 128, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    enum kelpie_status status = image_disk_format(host, fd, DISK_SIZE, &forever, &err);
    if (status != wanted) {
        fail_msg("%s: %s", kelpie_status_name(status), err.message);
    }
    return fd;
}

static void expect_file_system(const char *path) {
    char command[256];
    snprintf(command, sizeof(command), "fsck.ext4 -fn %s >/dev/null 2>&1", path);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command),
             "dumpe2fs -h %s 2>/dev/null | grep -q '^Filesystem features:.*has_journal'", path);
    assert_int_equal(system(command), 0);
}

static void a_disk_is_whole_and_mostly_holes(void **state) {
    (void)state;
    char path[2][128];
    struct stat info;
    for (size_t i = 0; i < 2; i++) { /* the second is a copy of what the first left in the cache */
        char *search = strdup(getenv("PATH"));
        if (i == 1) {
            assert_int_equal(setenv("PATH", "/nowhere", 1), 0);
        }
        int fd = make_disk(i == 0 ? "first" : "second", path[i], KELPIE_OK);
        assert_int_equal(setenv("PATH", search, 1), 0);
        free(search);
        assert_int_equal(fstat(fd, &info), 0);
        assert_int_equal(info.st_size, DISK_SIZE);
        assert_in_range(info.st_blocks * 512, 4096, COPY_BYTES_MAX);
        close(fd);
        expect_file_system(path[i]);
    }
    assert_int_equal(unlink(path[0]), 0);
    assert_int_equal(unlink(path[1]), 0);
}

/* What is in the cache under the disk's name, and is none, is made anew. */
static void a_cut_disk_of_the_cache_is_replaced(void **state) {
    (void)state;
    char path[128];
    char command[256];
    close(make_disk("third", path, KELPIE_OK));
    assert_int_equal(unlink(path), 0);
    snprintf(command, sizeof(command), "truncate -s 4096 %s/kelpie/disks/ext4-*", folder);
    assert_int_equal(system(command), 0);
    close(make_disk("fourth", path, KELPIE_OK));
    expect_file_system(path);
    assert_int_equal(unlink(path), 0);
}

static void without_mkfs_it_is_said_what_to_install(void **state) {
    (void)state;
    char path[128];
    char command[256];
    char *search = strdup(getenv("PATH"));
    snprintf(command, sizeof(command), "rm -rf %s/kelpie/disks", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(setenv("PATH", "/nowhere", 1), 0);
    close(make_disk("fifth", path, KELPIE_BACKEND_MISSING));
    assert_int_equal(setenv("PATH", search, 1), 0);
    free(search);
    assert_int_equal(unlink(path), 0);
}

static void set_time(const char *path, time_t seconds) {
    const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void a_note_is_of_one_file_as_it_was(void **state) {
    (void)state;
    char path[128];
    char digest[IMAGE_DIGEST_SIZE];
    struct kelpie_error err = {0};
    snprintf(path, sizeof(path), "%s/noted", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "content", 7), 7);
    /* Just written: it may be written again within the clock's grain. */
    assert_int_equal(image_note_store(host, "test", path, DIGEST, &err), KELPIE_OK);
    assert_false(image_note_find(host, "test", path, digest));
    set_time(path, 1000000000);
    assert_int_equal(image_note_store(host, "test", path, DIGEST, &err), KELPIE_OK);
    assert_true(image_note_find(host, "test", path, digest));
    assert_string_equal(digest, DIGEST);
    assert_false(image_note_find(host, "other", path, digest));
    set_time(path, 1000000001);
    assert_false(image_note_find(host, "test", path, digest));
    set_time(path, 1000000000);
    assert_true(image_note_find(host, "test", path, digest));
    assert_int_equal(write(fd, "more", 4), 4);
    set_time(path, 1000000000);
    assert_false(image_note_find(host, "test", path, digest));
    close(fd);
    assert_int_equal(unlink(path), 0);
    assert_false(image_note_find(host, "test", path, digest));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_is_whole_and_mostly_holes),
        cmocka_unit_test(a_cut_disk_of_the_cache_is_replaced),
        cmocka_unit_test(without_mkfs_it_is_said_what_to_install),
        cmocka_unit_test(a_note_is_of_one_file_as_it_was),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
