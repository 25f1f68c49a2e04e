/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Files in and out. The cases share a VM. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

#define BIG_SIZE (5u << 20)

static void expect_same(const char *path, const void *data, size_t size) {
    size_t found_size = 0;
    char *found = host_file_read(path, &found_size);
    assert_int_equal(found_size, size);
    assert_true(size == 0 || memcmp(found, data, size) == 0);
    free(found);
}

static unsigned mode_of(const char *path) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

/* In and out again: the bytes and the mode stay. */
static void expect_round_trip(const void *data, size_t size, unsigned mode) {
    struct kelpie_error err = {0};
    const char *in = host_path("in");
    const char *out = host_path("out");
    host_file_write(in, data, size, mode);
    OK(kelpie_copy_in(suite()->vm, in, "/tmp/file", NULL, &err));
    OK(kelpie_copy_out(suite()->vm, "/tmp/file", out, NULL, &err));
    expect_same(out, data, size);
    assert_int_equal(mode_of(out), mode);
    unlink(in);
    unlink(out);
}

static void test_round_trips(void **state) {
    (void)state;
    uint8_t *data = malloc(BIG_SIZE);
    assert_non_null(data);
    pattern_fill(data, BIG_SIZE, 5);
    expect_round_trip("", 0, 0600);
    expect_round_trip("x", 1, 0640);
    expect_round_trip(data, 65536, 0755);
    expect_round_trip(data, BIG_SIZE, 0400);
    free(data);
}

static void test_a_script_that_came_in_runs(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const char script[] = "#!/bin/sh\necho \"script $1\"\nexit 3\n";
    host_file_write(host_path("script"), script, strlen(script), 0600);
    const struct kelpie_copy_options options = {.mode = 0755};
    OK(kelpie_copy_in(suite()->vm, host_path("script"), "/tmp/script", &options, &err));
    expect_shell(suite()->vm, "/tmp/script here", 3, "script here\n");
    OK(kelpie_copy_in(suite()->vm, host_path("script"), "/tmp/script", NULL, &err));
    expect_shell(suite()->vm, "/tmp/script here", 126, "");
    unlink(host_path("script"));
}

static void test_what_a_command_wrote_comes_out(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    expect_shell(suite()->vm, "echo one > /tmp/made; echo two >> /tmp/made", 0, "");
    OK(kelpie_copy_out(suite()->vm, "/tmp/made", host_path("made"), NULL, &err));
    expect_same(host_path("made"), "one\ntwo\n", 8);
    unlink(host_path("made"));
}

static void test_what_is_missing(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    host_file_write(host_path("in"), "x", 1, 0600);
    FAILS(kelpie_copy_in(vm, host_path("missing"), "/tmp/x", NULL, &err), KELPIE_NOT_FOUND);
    enum kelpie_status status =
        kelpie_copy_in(vm, host_path("in"), "/no/such/folder/file", NULL, &err);
    assert_true(status == KELPIE_NOT_FOUND || status == KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENOENT);
    FAILS(kelpie_copy_out(vm, "/no/such", host_path("out"), NULL, &err), KELPIE_NOT_FOUND);
    assert_int_not_equal(kelpie_copy_out(vm, "/etc", host_path("out"), NULL, &err), KELPIE_OK);
    assert_int_not_equal(
        kelpie_copy_out(vm, "/etc/hostname", host_path("no/such/folder"), NULL, &err), KELPIE_OK);
    assert_int_not_equal(kelpie_copy_in(vm, suite()->folder, "/tmp/x", NULL, &err), KELPIE_OK);
    assert_int_not_equal(access(host_path("out"), F_OK), 0);
    unlink(host_path("in"));
    expect_shell(vm, "test -e /tmp/x", 1, "");
}

static void test_what_is_too_large(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    const struct kelpie_copy_options options = {.bytes_max = 4};
    host_file_write(host_path("in"), "12345", 5, 0600);
    expect_shell(vm, "echo -n 12345 > /tmp/large; echo old > /tmp/target", 0, "");
    host_file_write(host_path("out"), "old", 3, 0600);
    assert_int_not_equal(kelpie_copy_in(vm, host_path("in"), "/tmp/target", &options, &err),
                         KELPIE_OK);
    assert_int_not_equal(kelpie_copy_out(vm, "/tmp/large", host_path("out"), &options, &err),
                         KELPIE_OK);
    expect_shell(vm, "cat /tmp/target", 0, "old\n"); /* what was there stays */
    expect_same(host_path("out"), "old", 3);
    unlink(host_path("in"));
    unlink(host_path("out"));
}

static void test_an_existing_target_is_replaced(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = suite()->vm;
    host_file_write(host_path("in"), "new", 3, 0600);
    host_file_write(host_path("out"), "a longer old one", 16, 0600);
    expect_shell(vm, "echo a longer old one > /tmp/target", 0, "");
    OK(kelpie_copy_in(vm, host_path("in"), "/tmp/target", NULL, &err));
    OK(kelpie_copy_out(vm, "/tmp/target", host_path("out"), NULL, &err));
    expect_same(host_path("out"), "new", 3);
    unlink(host_path("in"));
    unlink(host_path("out"));
}

static void test_relative_guest_paths_are_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    FAILS(kelpie_copy_in(suite()->vm, "/etc/passwd", "relative", NULL, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "guest_path");
    FAILS(kelpie_copy_out(suite()->vm, "", host_path("out"), NULL, &err), KELPIE_BAD_CONFIG);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_round_trips),
    cmocka_unit_test(test_a_script_that_came_in_runs),
    cmocka_unit_test(test_what_a_command_wrote_comes_out),
    cmocka_unit_test(test_what_is_missing),
    cmocka_unit_test(test_what_is_too_large),
    cmocka_unit_test(test_an_existing_target_is_replaced),
    cmocka_unit_test(test_relative_guest_paths_are_refused),
};
const struct group group_files = {
    .name = "files", .tests = tests, .count = sizeof(tests) / sizeof(tests[0]), .has_vm = 1};
