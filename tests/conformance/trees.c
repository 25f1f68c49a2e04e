/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders in and out. The cases share a VM. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

#define MANY_COUNT 300
#define LARGE_SIZE 300000u

static void make_folder(const char *name) {
    assert_int_equal(mkdir(host_path(name), 0755), 0);
}

static void make_link(const char *target, const char *name) {
    assert_int_equal(symlink(target, host_path(name)), 0);
}

static void expect_file(const char *name, const char *content, unsigned mode) {
    size_t size = 0;
    struct stat info;
    char *found = host_file_read(host_path(name), &size);
    assert_int_equal(size, strlen(content));
    assert_memory_equal(found, content, size);
    free(found);
    assert_int_equal(lstat(host_path(name), &info), 0);
    assert_true(S_ISREG(info.st_mode));
    assert_int_equal(info.st_mode & 07777, mode);
}

static bool there_is(const char *name) {
    struct stat info;
    return lstat(host_path(name), &info) == 0;
}

static size_t entry_count(const char *path) {
    size_t count = 0;
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count - 2;
}

static void remove_host_tree(const char *name) {
    char command[512];
    snprintf(command, sizeof(command), "rm -rf '%s'", host_path(name));
    assert_int_equal(system(command), 0);
}

/* A folder with one of each. */
static void make_tree(void) {
    uint8_t *large = malloc(LARGE_SIZE);
    assert_non_null(large);
    pattern_fill(large, LARGE_SIZE, 9);
    make_folder("tree");
    make_folder("tree/a");
    make_folder("tree/a/deeper");
    make_folder("tree/empty");
    host_file_write(host_path("tree/one"), "1", 1, 0640);
    host_file_write(host_path("tree/a/nothing"), "", 0, 0600);
    host_file_write(host_path("tree/a/deeper/large"), large, LARGE_SIZE, 0644);
    host_file_write(host_path("tree/script"), "#!/bin/sh\necho ran\n", 19, 0755);
    assert_int_equal(link(host_path("tree/one"), host_path("tree/hard")), 0);
    make_link("../one", "tree/a/link");
    make_link("/etc/hostname", "tree/out");
    free(large);
}

static void test_a_folder_goes_in_and_out(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    struct kelpie_vm *vm = suite()->vm;
    make_tree();
    OK(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/new/tree", NULL, &report, &err));
    assert_int_equal(report.file_count, 5);
    assert_int_equal(report.folder_count, 3);
    assert_int_equal(report.link_count, 2);
    assert_int_equal(report.bytes, LARGE_SIZE + 21);
    assert_int_equal(report.skipped_count, 0);
    expect_shell(vm, "/tmp/new/tree/script; cat /tmp/new/tree/one /tmp/new/tree/hard", 0,
                 "ran\n11");
    expect_shell(vm, "wc -c < /tmp/new/tree/a/deeper/large", 0, "300000\n");
    expect_shell(vm, "cd /tmp/new/tree && rm hard && echo more > a/made", 0, "");

    /* Out of the folder leads one link, which is left out. */
    report = (struct kelpie_tree_report){0};
    OK(kelpie_copy_tree_out(vm, "/tmp/new/tree", host_path("back"), NULL, &report, &err));
    assert_int_equal(report.file_count, 5);
    assert_int_equal(report.folder_count, 3);
    assert_int_equal(report.link_count, 1);
    assert_int_equal(report.skipped_count, 1);
    assert_string_equal(report.skipped, "out");
    expect_file("back/one", "1", 0640);
    expect_file("back/script", "#!/bin/sh\necho ran\n", 0755);
    expect_file("back/a/made", "more\n", 0644);
    assert_int_equal(entry_count(host_path("back/empty")), 0);
    assert_false(there_is("back/hard"));
    assert_false(there_is("back/out"));
    char target[64] = {0};
    assert_int_equal(readlink(host_path("back/a/link"), target, sizeof(target)), 6);
    assert_string_equal(target, "../one");
    char compare[512];
    snprintf(compare, sizeof(compare), "cmp '%s' '%s'", host_path("tree/a/deeper/large"),
             host_path("back/a/deeper/large"));
    assert_int_equal(system(compare), 0);
    remove_host_tree("tree");
    remove_host_tree("back");
}

static void test_what_is_there_stays(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    expect_shell(vm,
                 "mkdir /tmp/there; mkdir /tmp/there/a; echo old > /tmp/there/a/file; echo kept > "
                 "/tmp/there/kept",
                 0, "");
    make_folder("tree");
    make_folder("tree/a");
    host_file_write(host_path("tree/a/file"), "new\n", 4, 0600);
    OK(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/there/", NULL, NULL, &err));
    expect_shell(vm, "cat /tmp/there/a/file /tmp/there/kept", 0, "new\nkept\n");

    /* A folder is not replaced by a file, nor the other way round. */
    expect_shell(vm, "mkdir /tmp/there/x", 0, "");
    host_file_write(host_path("tree/x"), "", 0, 0600);
    FAILS(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/there", NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    expect_shell(vm, "test -d /tmp/there/x", 0, "");
    remove_host_tree("tree");
}

static void test_many_files(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    struct kelpie_vm *vm = suite()->vm;
    make_folder("tree");
    for (int i = 0; i < MANY_COUNT; i++) {
        char name[MANY_COUNT] = "";
        snprintf(name, sizeof(name), "tree/%d", i);
        host_file_write(host_path(name), name, (size_t)i, 0600);
    }
    OK(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/many", NULL, NULL, &err));
    OK(kelpie_copy_tree_out(vm, "/tmp/many", host_path("back"), NULL, &report, &err));
    assert_int_equal(report.file_count, MANY_COUNT);
    assert_int_equal(entry_count(host_path("back")), MANY_COUNT);
    remove_host_tree("tree");
    remove_host_tree("back");
}

static void test_bounds(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    make_folder("tree");
    host_file_write(host_path("tree/a"), "123", 3, 0600);
    host_file_write(host_path("tree/b"), "4567", 4, 0600);
    OK(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/bounds", NULL, NULL, &err));
    const struct kelpie_tree_options few_bytes = {.bytes_max = 6};
    const struct kelpie_tree_options few_entries = {.count_max = 1};
    const struct kelpie_tree_options enough = {.bytes_max = 7, .count_max = 2};
    FAILS(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/x", &few_bytes, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "bytes_max");
    FAILS(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/x", &few_entries, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "count_max");
    size_t before = entry_count(suite()->folder);
    FAILS(kelpie_copy_tree_out(vm, "/tmp/bounds", host_path("back"), &few_bytes, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "bytes_max");
    FAILS(kelpie_copy_tree_out(vm, "/tmp/bounds", host_path("back"), &few_entries, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_int_equal(entry_count(suite()->folder), before); /* not even a part of it */
    OK(kelpie_copy_tree_out(vm, "/tmp/bounds", host_path("back"), &enough, NULL, &err));
    remove_host_tree("tree");
    remove_host_tree("back");
}

static void test_what_is_no_folder(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    make_folder("tree");
    make_folder("other");
    host_file_write(host_path("file"), "x", 1, 0600);
    make_link("tree", "link");
    FAILS(kelpie_copy_tree_in(vm, host_path("missing"), "/tmp/x", NULL, NULL, &err),
          KELPIE_NOT_FOUND);
    FAILS(kelpie_copy_tree_in(vm, host_path("file"), "/tmp/x", NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    FAILS(kelpie_copy_tree_in(vm, host_path("link"), "/tmp/x", NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    FAILS(kelpie_copy_tree_out(vm, "/no/such", host_path("back"), NULL, NULL, &err),
          KELPIE_NOT_FOUND);
    expect_shell(vm, "echo x > /tmp/plain", 0, "");
    FAILS(kelpie_copy_tree_out(vm, "/tmp/plain", host_path("back"), NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    FAILS(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/plain/x", NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    FAILS(kelpie_copy_tree_out(vm, "/tmp", host_path("other"), NULL, NULL, &err),
          KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, EEXIST);
    assert_int_equal(entry_count(host_path("other")), 0);
    remove_host_tree("tree");
    remove_host_tree("other");
    unlink(host_path("file"));
    unlink(host_path("link"));
}

static void test_what_cannot_be_copied_is_told(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    make_folder("tree");
    make_folder("tree/a");
    assert_int_equal(mkfifo(host_path("tree/a/fifo"), 0600), 0);
    host_file_write(host_path("tree/a/file"), "x", 1, 0600);
    OK(kelpie_copy_tree_in(suite()->vm, host_path("tree"), "/tmp/fifo", NULL, &report, &err));
    assert_int_equal(report.skipped_count, 1);
    assert_string_equal(report.skipped, "a/fifo");
    assert_int_equal(report.file_count, 1);
    remove_host_tree("tree");
}

/* So that a case that failed does not fail the next. */
static int trees_clear(void **state) {
    remove_host_tree("tree");
    remove_host_tree("back");
    remove_host_tree("other");
    (void)state;
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_a_folder_goes_in_and_out, trees_clear),
    cmocka_unit_test_setup(test_what_is_there_stays, trees_clear),
    cmocka_unit_test_setup(test_many_files, trees_clear),
    cmocka_unit_test_setup(test_bounds, trees_clear),
    cmocka_unit_test_setup(test_what_is_no_folder, trees_clear),
    cmocka_unit_test_setup(test_what_cannot_be_copied_is_told, trees_clear),
};

const struct group group_trees = {
    .name = "trees", .tests = tests, .count = sizeof(tests) / sizeof(tests[0]), .has_vm = 1};
