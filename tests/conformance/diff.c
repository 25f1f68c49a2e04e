/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Diffs: snapshots of what was written since another. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "conformance.h"

static struct kelpie_snapshot take(struct kelpie_vm *vm, const char *path, const char *parent) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    const struct kelpie_snapshot_options options = {.parent = parent, .track = true};
    OK(kelpie_vm_snapshot(vm, path, &options, &snapshot, &err));
    OK(kelpie_snapshot_verify(path, &err));
    return snapshot;
}

static struct kelpie_vm *restore(const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_restore_options options = {.track = true, .verify_memory = true};
    OK(kelpie_vm_create_from_snapshot(path, NULL, &options, &vm, &err));
    return vm;
}

/* The files that were written before this moment, and no later one. */
static void expect_files(struct kelpie_vm *vm, const char *names) {
    char text[64];
    snprintf(text, sizeof(text), "%s\n", names);
    expect_shell(vm, "cd /tmp/kept && echo *", 0, text);
    expect_shell(vm, "cd /tmp/kept && for i in *; do cmp $i /tmp/data || echo $i; done", 0, "");
}

static void write_file(struct kelpie_vm *vm, const char *name) {
    char line[128];
    snprintf(line, sizeof(line), "cat /tmp/data > /tmp/kept/%s", name);
    expect_shell(vm, line, 0, "");
}

static void expect_parent_error(const char *path, enum kelpie_status status) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    FAILS(kelpie_snapshot_verify(path, &err), status);
    assert_string_equal(err.field, "parent");
    FAILS(kelpie_vm_create_from_snapshot(path, NULL, NULL, &vm, &err), status);
    assert_string_equal(err.field, "parent");
    assert_null(vm);
}

/* Hazard C8: base, two diffs, a full one of what was restored from them, and each is as it was. Hazard E5: a parent that
 * is gone is named. */
static void test_a_chain_of_diffs_is_each_of_its_moments(void **state) {
    (void)state;
    need(KELPIE_CAN_DIFF_SNAPSHOT, "diffs: it cannot");
    struct kelpie_error err = {0};
    const char *paths[] = {host_path("base"), host_path("one"), host_path("two"),
                           host_path("three"), host_path("full")};
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "mkdir /tmp/kept && head -c 300000 /dev/urandom > /tmp/data", 0, "");
    struct kelpie_snapshot base = take(vm, paths[0], NULL);
    write_file(vm, "a");
    struct kelpie_snapshot one = take(vm, paths[1], paths[0]);
    assert_string_equal(one.parent_id, base.id);
    assert_true(one.bytes < base.bytes / 2);
    write_file(vm, "b");
    OK(kelpie_vm_pause(vm, &err)); /* nothing can be written ahead */
    take(vm, paths[2], paths[1]);
    kelpie_vm_destroy(vm);

    vm = restore(paths[2]);
    expect_files(vm, "a b");
    write_file(vm, "c");
    struct kelpie_snapshot three = take(vm, paths[3], paths[2]);
    take(vm, paths[4], NULL);
    kelpie_vm_destroy(vm);
    vm = restore(paths[1]);
    expect_files(vm, "a");
    kelpie_vm_destroy(vm);
    vm = restore(paths[3]);
    expect_files(vm, "a b c");
    kelpie_vm_destroy(vm);
    vm = restore(paths[4]);
    expect_files(vm, "a b c");
    kelpie_vm_destroy(vm);

    assert_true(three.bytes < base.bytes / 2);
    assert_int_equal(rename(paths[1], host_path("away")), 0);
    expect_parent_error(paths[3], KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(rename(paths[0], paths[1]), 0);
    expect_parent_error(paths[2], KELPIE_SNAPSHOT_INCOMPATIBLE);
}

static void test_a_diff_is_to_the_last_snapshot_alone(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const char *first = host_path("first");
    const char *second = host_path("second");
    const char *third = host_path("third");
    struct kelpie_vm *vm = start_vm();
    const struct kelpie_snapshot_options to_first = {.parent = first, .track = true};
    const struct kelpie_snapshot_options track = {.track = true};
    if (!(suite()->capabilities & KELPIE_CAN_DIFF_SNAPSHOT)) {
        FAILS(kelpie_vm_snapshot(vm, first, &track, NULL, &err), KELPIE_UNSUPPORTED);
        assert_string_equal(err.field, "track");
        FAILS(kelpie_vm_snapshot(vm, second, &to_first, NULL, &err), KELPIE_UNSUPPORTED);
        assert_string_equal(err.field, "parent");
        kelpie_vm_destroy(vm);
        return;
    }
    OK(kelpie_vm_snapshot(vm, first, NULL, NULL, &err));
    FAILS(kelpie_vm_snapshot(vm, third, &to_first, NULL, &err), KELPIE_BAD_CONFIG); /* no `track` */
    assert_string_equal(err.field, "parent");
    OK(kelpie_vm_snapshot(vm, second, &track, NULL, &err));
    FAILS(kelpie_vm_snapshot(vm, third, &to_first, NULL, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "parent");
    const struct kelpie_snapshot_options to_none = {.parent = host_path("none")};
    assert_int_not_equal(kelpie_vm_snapshot(vm, third, &to_none, NULL, &err), KELPIE_OK);
    assert_string_equal(err.field, "parent");
    const struct kelpie_snapshot_options too_large = {.parent = second, .bytes_max = 1};
    FAILS(kelpie_vm_snapshot(vm, third, &too_large, NULL, &err), KELPIE_SNAPSHOT_TOO_LARGE);
    const struct kelpie_snapshot_options to_second = {.parent = second};
    FAILS(kelpie_vm_snapshot(vm, third, &to_second, NULL, &err), KELPIE_BAD_CONFIG);
    struct stat info;
    assert_int_not_equal(stat(third, &info), 0);
    expect_shell(vm, "echo on", 0, "on\n");
    kelpie_vm_destroy(vm);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_a_chain_of_diffs_is_each_of_its_moments),
    cmocka_unit_test(test_a_diff_is_to_the_last_snapshot_alone),
};
const struct group group_diff = {
    .name = "diff", .tests = tests, .count = sizeof(tests) / sizeof(tests[0])};
