/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Unpacking an archive into a folder of this machine. */
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ARCHIVE_SIZE_MAX 65536

struct archive {
    char bytes[ARCHIVE_SIZE_MAX];
    size_t size;
};

static char folder[] = "/tmp/kelpie-root-XXXXXX";
static char inside[64];
static int folder_fd = -1;

static void pad(struct archive *archive) {
    while (archive->size % 4 != 0) {
        archive->bytes[archive->size++] = 0;
    }
}

static void add(struct archive *archive, const char *name, unsigned mode, const void *data,
                size_t size) {
    char head[111];
    snprintf(head, sizeof(head), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1,
             mode, 0, 0, 1, 0, (unsigned)size, 0, 0, 0, 0, (unsigned)strlen(name) + 1, 0);
    memcpy(archive->bytes + archive->size, head, 110);
    memcpy(archive->bytes + archive->size + 110, name, strlen(name) + 1);
    archive->size += 110 + strlen(name) + 1;
    pad(archive);
    memcpy(archive->bytes + archive->size, data, size);
    archive->size += size;
    pad(archive);
}

static void add_end(struct archive *archive) {
    add(archive, "TRAILER!!!", 0, "", 0);
}

static void add_all(struct archive *archive) {
    add(archive, "bin", S_IFDIR | 0755, "", 0);
    add(archive, "root", S_IFDIR | 0700, "", 0);
    add(archive, "tmp", S_IFDIR | 01777, "", 0);
    add(archive, "bin/tool", S_IFREG | 0755, "#!tool", 6);
    add(archive, "bin/link", S_IFLNK | 0777, "tool", 4);
    add(archive, "empty", S_IFREG | 0600, "", 0);
    add_end(archive);
}

static bool unpack(const void *bytes, size_t size) {
    char command[256];
    snprintf(command, sizeof(command), "rm -rf %s && mkdir %s", inside, inside);
    assert_int_equal(system(command), 0);
    folder_fd = open(inside, O_RDONLY | O_DIRECTORY);
    assert_true(folder_fd >= 0);
    char *copy = malloc(size + 1); /* of just that size: a read behind it is seen */
    memcpy(copy, bytes, size);
    bool done = root_unpack(copy, size, folder_fd);
    free(copy);
    close(folder_fd);
    return done;
}

static mode_t mode_of(const char *name) {
    char path[128];
    struct stat info;
    snprintf(path, sizeof(path), "%s/%s", inside, name);
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode;
}

static void everything_is_unpacked_with_its_mode(void **state) {
    (void)state;
    static struct archive archive;
    char path[128];
    char text[16] = {0};
    archive.size = 0;
    add_all(&archive);
    umask(077);
    assert_true(unpack(archive.bytes, archive.size));
    umask(022);
    assert_int_equal(mode_of("bin"), S_IFDIR | 0755);
    assert_int_equal(mode_of("root"), S_IFDIR | 0700);
    assert_int_equal(mode_of("tmp"), S_IFDIR | 01777);
    assert_int_equal(mode_of("bin/tool"), S_IFREG | 0755);
    assert_int_equal(mode_of("empty"), S_IFREG | 0600);
    snprintf(path, sizeof(path), "%s/bin/link", inside);
    assert_int_equal(readlink(path, text, sizeof(text)), 4);
    assert_string_equal(text, "tool");
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    assert_memory_equal(text, "#!tool", 6);
    close(fd);
}

static void hazard_a17_an_archive_cut_anywhere(void **state) {
    (void)state;
    static struct archive archive;
    archive.size = 0;
    add_all(&archive);
    for (size_t size = 0; size < archive.size; size += size < 300 ? 1 : 7) {
        assert_false(unpack(archive.bytes, size));
    }
}

static void hazard_a17_header_fields_that_cannot_be(void **state) {
    static const struct {
        size_t offset;
        const char *field;
    } cases[] = {
        {0, "070702"},    {14, "0000x1a4"}, {54, "ffffffff"}, {54, "7fffffff"},
        {94, "00000000"}, {94, "ffffffff"}, {94, "00000401"}, {94, "00000003"},
    };
    (void)state;
    static struct archive archive;
    char path[128];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        archive.size = 0;
        add(&archive, "file", S_IFREG | 0644, "data", 4);
        add_end(&archive);
        assert_true(unpack(archive.bytes, archive.size));
        memcpy(archive.bytes + cases[i].offset, cases[i].field, strlen(cases[i].field));
        assert_false(unpack(archive.bytes, archive.size));
        snprintf(path, sizeof(path), "%s/file", inside);
        assert_int_equal(access(path, F_OK), -1); /* it was seen before anything was made */
    }
}

static void names_that_lead_elsewhere(void **state) {
    char outside[64];
    snprintf(outside, sizeof(outside), "%s/x", folder); /* where "../x" leads to, too */
    const char *const names[] = {outside, "../x", "a/../x", ".", "", "a//b", "a/", "./a"};
    (void)state;
    static struct archive archive;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        archive.size = 0;
        add(&archive, "a", S_IFDIR | 0755, "", 0);
        add(&archive, names[i], S_IFREG | 0644, "data", 4);
        add_end(&archive);
        assert_false(unpack(archive.bytes, archive.size));
        assert_int_equal(access(outside, F_OK), -1);
    }
}

static void what_is_there_or_is_a_device_is_refused(void **state) {
    (void)state;
    static struct archive archive;
    archive.size = 0;
    add(&archive, "a", S_IFREG | 0644, "data", 4);
    add(&archive, "a", S_IFREG | 0644, "data", 4);
    add_end(&archive);
    assert_false(unpack(archive.bytes, archive.size));
    archive.size = 0;
    add(&archive, "a", S_IFCHR | 0644, "", 0);
    add_end(&archive);
    assert_false(unpack(archive.bytes, archive.size));
}

static int setup(void **state) {
    (void)state;
    umask(022);
    assert_non_null(mkdtemp(folder));
    snprintf(inside, sizeof(inside), "%s/new", folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_unpacked_with_its_mode),
        cmocka_unit_test(hazard_a17_an_archive_cut_anywhere),
        cmocka_unit_test(hazard_a17_header_fields_that_cannot_be),
        cmocka_unit_test(names_that_lead_elsewhere),
        cmocka_unit_test(what_is_there_or_is_a_device_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
