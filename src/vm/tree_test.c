/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a guest may send as a folder (hazard D4): each attack is refused or harmless, and nothing outside is touched. */
#include "vm/tree.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define PATH_SIZE 512
#define STREAM_SIZE 65536

struct fixture {
    struct host *host;
    char folder[64];
    uint8_t bytes[STREAM_SIZE]; /* what the guest sends */
    size_t size;
    size_t at;
    struct vm_tree_limits limits;
    struct kelpie_tree_report report;
    struct kelpie_error err;
};

static const char *at(const struct fixture *fixture, const char *name) {
    static char paths[4][PATH_SIZE];
    static size_t turn;
    char *path = paths[turn++ % 4];
    snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    return path;
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    strcpy(fixture->folder, "/tmp/kelpie-tree-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    assert_int_equal(mkdir(at(fixture, "tree"), 0700), 0);
    assert_int_equal(mkdir(at(fixture, "outside"), 0700), 0);
    assert_int_equal(
        host_file_store(fixture->host, at(fixture, "outside/file"), "kept", 4, 0600, NULL),
        KELPIE_OK);
    fixture->limits = (struct vm_tree_limits){1000, 100};
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    struct stat info;
    struct host_dir_entry entries[4];
    size_t count = 0;
    /* Whatever came: outside nothing was made or changed. */
    assert_int_equal(stat(at(fixture, "outside/file"), &info), 0);
    assert_int_equal(info.st_size, 4);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(info.st_nlink, 1);
    assert_int_equal(host_dir_list(fixture->host, at(fixture, "outside"), entries, 4, &count, NULL),
                     KELPIE_OK);
    assert_int_equal(count, 1);
    assert_int_equal(host_path_remove_tree(fixture->host, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

/* An entry as a hostile guest writes it: nothing is checked. */
static void say(struct fixture *fixture, unsigned kind, const char *name, uint32_t mode,
                const char *content) {
    struct cursor_writer writer =
        cursor_writer_init(fixture->bytes + fixture->size, sizeof(fixture->bytes) - fixture->size);
    cursor_write_u8(&writer, (uint8_t)kind);
    cursor_write_u8(&writer, 0);
    cursor_write_u16(&writer, (uint16_t)strlen(name));
    cursor_write_u32(&writer, mode);
    cursor_write_u64(&writer, strlen(content));
    cursor_write_u64(&writer, 0);
    cursor_write_bytes(&writer, name, strlen(name));
    cursor_write_bytes(&writer, content, strlen(content));
    assert_false(writer.failed);
    fixture->size += writer.size;
}

static enum kelpie_status hear(void *argument, void *buffer, size_t size, size_t *ret_size,
                               struct kelpie_error *err) {
    struct fixture *fixture = argument;
    size_t left = fixture->size - fixture->at;
    *ret_size = left < size ? left : size;
    memcpy(buffer, fixture->bytes + fixture->at, *ret_size);
    fixture->at += *ret_size;
    (void)err;
    return KELPIE_OK;
}

static enum kelpie_status unpack(struct fixture *fixture) {
    const struct vm_tree_source source = {hear, fixture};
    fixture->at = 0;
    fixture->report = (struct kelpie_tree_report){0};
    fixture->err = (struct kelpie_error){0};
    return vm_tree_unpack(fixture->host, &source, at(fixture, "tree"), &fixture->limits,
                          &fixture->report, &fixture->err);
}

static mode_t mode_of(const struct fixture *fixture, const char *name) {
    struct stat info;
    assert_int_equal(lstat(at(fixture, name), &info), 0);
    return info.st_mode & 07777;
}

static void hazard_D4_absolute_names_and_dots(void **state) {
    struct fixture *fixture = *state;
    char absolute[PATH_SIZE];
    snprintf(absolute, sizeof(absolute), "%s", at(fixture, "outside/made"));
    const char *const names[] = {
        absolute, "../outside/made", "a/../../outside/made", "..", "/", "./made", "a//made", ""};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        for (unsigned kind = PROTOCOL_TREE_FILE; kind <= PROTOCOL_TREE_LINK; kind++) {
            fixture->size = 0;
            say(fixture, kind, names[i], 0, kind == PROTOCOL_TREE_FOLDER ? "" : "x");
            assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
        }
    }
}

/* Through a link that came before, which is made when it stays inside, and left out when it does not. */
static void hazard_D4_a_link_swapped_in(void **state) {
    struct fixture *fixture = *state;
    static const char *const targets[] = {"/etc", "../outside", "a/../../outside", "a"};
    for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
        char link[32];
        char below[64];
        snprintf(link, sizeof(link), "link%zu", i);
        snprintf(below, sizeof(below), "%s/file", link);
        fixture->size = 0;
        say(fixture, PROTOCOL_TREE_LINK, link, 0, targets[i]);
        say(fixture, PROTOCOL_TREE_FILE, below, 0600, "overwritten");
        say(fixture, PROTOCOL_TREE_END, "", 0, "");
        enum kelpie_status status = unpack(fixture);
        assert_true(status == KELPIE_IO_FAILED || status == KELPIE_NOT_FOUND);
        assert_int_equal(fixture->report.skipped_count, i < 3 ? 1 : 0);
    }
}

/* The name of a file that is a link already: it is not opened. */
static void hazard_D4_a_name_twice(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_LINK, "a", 0, "b");
    say(fixture, PROTOCOL_TREE_FILE, "b", 0600, "first");
    say(fixture, PROTOCOL_TREE_FILE, "a", 0600, "second");
    assert_int_equal(unpack(fixture), KELPIE_IO_FAILED);
    assert_int_equal(fixture->err.os_error, EEXIST);
    char text[16] = {0};
    FILE *file = fopen(at(fixture, "tree/b"), "re");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, sizeof(text), file), 5);
    fclose(file);
    assert_string_equal(text, "first");
    fixture->size = 0;
    say(fixture, PROTOCOL_TREE_FOLDER, "c", 0700, "");
    say(fixture, PROTOCOL_TREE_FOLDER, "c", 0700, "");
    assert_int_equal(unpack(fixture), KELPIE_IO_FAILED);
}

static void hazard_D4_links_out_are_left_out_and_told(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_LINK, "passwd", 0, "/etc/passwd");
    say(fixture, PROTOCOL_TREE_LINK, "up", 0, "../outside/file");
    say(fixture, PROTOCOL_TREE_LINK, "fine", 0, "file");
    say(fixture, PROTOCOL_TREE_END, "", 0, "");
    assert_int_equal(unpack(fixture), KELPIE_OK);
    assert_int_equal(fixture->report.link_count, 1);
    assert_int_equal(fixture->report.skipped_count, 2);
    assert_string_equal(fixture->report.skipped, "passwd");
    struct stat info;
    assert_int_not_equal(lstat(at(fixture, "tree/passwd"), &info), 0);
    assert_int_not_equal(lstat(at(fixture, "tree/up"), &info), 0);
    assert_int_equal(lstat(at(fixture, "tree/fine"), &info), 0);
}

/* Hard links, devices, sockets, whatever an archive may have: no such thing is in a tree. */
static void hazard_D4_no_devices_and_hard_links(void **state) {
    struct fixture *fixture = *state;
    for (unsigned kind = PROTOCOL_TREE_END + 1; kind < 256; kind++) {
        fixture->size = 0;
        say(fixture, kind, "a", 0600, "b");
        assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
    }
    fixture->size = 0;
    say(fixture, PROTOCOL_TREE_FILE, "a", 020600, ""); /* a character device's mode */
    assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
}

static void hazard_D4_modes_are_tamed(void **state) {
    struct fixture *fixture = *state;
    mode_t before = umask(0);
    say(fixture, PROTOCOL_TREE_FILE, "setuid", 06777, "x");
    say(fixture, PROTOCOL_TREE_FOLDER, "closed", 01000, "");
    say(fixture, PROTOCOL_TREE_FILE, "closed/file", 0, "x");
    say(fixture, PROTOCOL_TREE_END, "", 0, "");
    assert_int_equal(unpack(fixture), KELPIE_OK);
    umask(before);
    assert_int_equal(mode_of(fixture, "tree/setuid"), 0777);
    assert_int_equal(mode_of(fixture, "tree/closed"), 0700);
    assert_int_equal(mode_of(fixture, "tree/closed/file"), 0600);
}

/* A size is believed before a byte of it comes: it counts at once. */
static void hazard_D4_sparse_giants(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_FILE, "giant", 0600, "x");
    const uint64_t giant = UINT64_C(1) << 62;
    for (size_t i = 0; i < 8; i++) {
        fixture->bytes[8 + i] = (uint8_t)(giant >> (8 * i));
    }
    assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
    assert_string_equal(fixture->err.field, "bytes_max");
    struct stat info;
    assert_int_not_equal(lstat(at(fixture, "tree/giant"), &info), 0);
}

static void hazard_D4_many_and_deep(void **state) {
    struct fixture *fixture = *state;
    char name[1024] = "";
    for (int i = 0; i < 101; i++) {
        snprintf(name, sizeof(name), "%d", i);
        say(fixture, PROTOCOL_TREE_FILE, name, 0600, "");
    }
    assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
    assert_string_equal(fixture->err.field, "count_max");

    fixture->size = 0;
    name[0] = '\0';
    for (int i = 0; i <= PROTOCOL_TREE_DEPTH_MAX; i++) {
        strcat(name, i == 0 ? "d" : "/d");
        say(fixture, PROTOCOL_TREE_FOLDER, name, 0700, "");
    }
    assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
    assert_int_equal(fixture->report.folder_count, PROTOCOL_TREE_DEPTH_MAX);
}

static void what_is_cut_or_goes_on_is_refused(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_FILE, "a", 0600, "content");
    say(fixture, PROTOCOL_TREE_END, "", 0, "");
    size_t whole = fixture->size;
    for (size_t size = 0; size < whole; size++) {
        char name[16];
        fixture->size = size;
        (void)unlink(at(fixture, "tree/a"));
        assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
        snprintf(name, sizeof(name), "tree/a");
    }
    (void)unlink(at(fixture, "tree/a"));
    fixture->size = whole;
    assert_int_equal(unpack(fixture), KELPIE_OK);
    (void)unlink(at(fixture, "tree/a"));
    fixture->bytes[fixture->size++] = 0;
    assert_int_equal(unpack(fixture), KELPIE_COPY_FAILED);
}

#define TREE_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TREE_TEST(hazard_D4_absolute_names_and_dots),
        TREE_TEST(hazard_D4_a_link_swapped_in),
        TREE_TEST(hazard_D4_a_name_twice),
        TREE_TEST(hazard_D4_links_out_are_left_out_and_told),
        TREE_TEST(hazard_D4_no_devices_and_hard_links),
        TREE_TEST(hazard_D4_modes_are_tamed),
        TREE_TEST(hazard_D4_sparse_giants),
        TREE_TEST(hazard_D4_many_and_deep),
        TREE_TEST(what_is_cut_or_goes_on_is_refused),
    };
    return cmocka_run_group_tests_name("vm_tree", tests, NULL, NULL);
}
