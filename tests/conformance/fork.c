/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Forks and pools: VMs that go on from where another is. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "conformance.h"

#define CHILD_COUNT 3

/* VMs with owners have names that no other has. */
static void fork_vm_as(struct kelpie_vm *vm, const char *name_prefix,
                       struct kelpie_fork_child children[CHILD_COUNT]) {
    struct kelpie_error err = {0};
    const struct kelpie_fork_options options = {.name_prefix = name_prefix};
    OK(kelpie_vm_fork(vm, name_prefix ? &options : NULL, CHILD_COUNT, children, &err));
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        if (!children[i].vm) {
            print_error("child %zu: %s\n", i, children[i].error.message);
            fail();
        }
        assert_int_equal(kelpie_vm_state(children[i].vm), KELPIE_STATE_RUNNING);
        expect_fresh(children[i].vm);
    }
}

static void fork_vm(struct kelpie_vm *vm, struct kelpie_fork_child children[CHILD_COUNT]) {
    fork_vm_as(vm, NULL, children);
}

static void destroy_all(struct kelpie_fork_child children[CHILD_COUNT]) {
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        kelpie_vm_destroy(children[i].vm);
    }
}

static void test_children_share_a_past_and_no_future(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo before >/tmp/past", 0, "");
    fork_vm(vm, children);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_shell(vm, "echo parent >/tmp/future", 0, "");
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        char line[64];
        expect_shell(children[i].vm, "cat /tmp/past", 0, "before\n");
        expect_shell(children[i].vm, "test -e /tmp/future", 1, "");
        snprintf(line, sizeof(line), "echo child %zu >/tmp/future", i);
        expect_shell(children[i].vm, line, 0, "");
    }
    expect_shell(vm, "cat /tmp/future", 0, "parent\n");
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        char text[64];
        snprintf(text, sizeof(text), "child %zu\n", i);
        expect_shell(children[i].vm, "cat /tmp/future", 0, text);
    }
    /* Neither the parent's end nor a sibling's touches the others. */
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    kelpie_vm_destroy(children[0].vm);
    children[0].vm = NULL;
    expect_shell(children[1].vm, "cat /tmp/past", 0, "before\n");
    destroy_all(children);
}

static void hazard_c1_c5_children_differ(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    struct kelpie_vm *vm = start_vm();
    fork_vm(vm, children);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        struct kelpie_vm *other = i == 0 ? vm : children[i - 1].vm;
        assert_string_not_equal(kelpie_vm_id(children[i].vm), kelpie_vm_id(other));
        assert_string_not_equal(kelpie_vm_config(children[i].vm)->name,
                                kelpie_vm_config(other)->name);
        expect_different(children[i].vm, other, "head -c 32 /dev/urandom");
        expect_different(children[i].vm, other, "cat /etc/machine-id");
    }
    for (size_t i = 1; i < CHILD_COUNT; i++) {
        expect_different(children[i].vm, children[i - 1].vm, "hostname");
    }
    destroy_all(children);
    kelpie_vm_destroy(vm);
}

static void test_a_fork_can_be_forked_again(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    struct kelpie_fork_child again[CHILD_COUNT] = {0};
    struct kelpie_fork_child grandchildren[CHILD_COUNT] = {0};
    struct kelpie_vm *vm = start_vm();
    fork_vm(vm, children);
    expect_shell(vm, "echo second >/tmp/when", 0, "");
    expect_shell(children[1].vm, "echo child >/tmp/when", 0, "");
    fork_vm_as(vm, "again", again);
    fork_vm(children[1].vm, grandchildren);
    expect_shell(children[0].vm, "test -e /tmp/when", 1, "");
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        expect_shell(again[i].vm, "cat /tmp/when", 0, "second\n");
        expect_shell(grandchildren[i].vm, "cat /tmp/when", 0, "child\n");
    }
    destroy_all(grandchildren);
    destroy_all(again);
    destroy_all(children);
    expect_shell(vm, "cat /tmp/when", 0, "second\n");
    kelpie_vm_destroy(vm);
}

static void test_a_paused_parent_stays_paused(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_fork_child child = {0};
    struct kelpie_vm *vm = start_vm();
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_fork(vm, &(struct kelpie_fork_options){.name_prefix = "twin", .paused = true}, 1,
                      &child, &err));
    assert_non_null(child.vm);
    assert_string_equal(kelpie_vm_config(child.vm)->name, "twin-1");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    assert_int_equal(kelpie_vm_state(child.vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, &err));
    OK(kelpie_vm_resume(child.vm, &err));
    expect_shell(vm, "true", 0, "");
    expect_shell(child.vm, "hostname", 0, "twin-1\n");
    kelpie_vm_destroy(child.vm);
    kelpie_vm_destroy(vm);
}

/* The parent's reader reads on; a child's starts at the byte where the parent's was. */
static void test_a_session_goes_on_in_parent_and_child(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_fork_child child = {0};
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = counter_start(vm);
    uint64_t offset = counter_check(exec, 0, 50);
    OK(kelpie_vm_fork(vm, NULL, 1, &child, &err));
    assert_non_null(child.vm);
    (void)counter_check(exec, offset, 200);
    struct kelpie_exec *copy = NULL;
    OK(kelpie_exec_attach(child.vm, kelpie_exec_id(exec), &copy, &err));
    (void)counter_check(copy, offset, 200);
    kelpie_exec_close(copy);
    kelpie_vm_destroy(child.vm);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
}

static void test_a_stored_vm_is_forked(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo stored >/tmp/past", 0, "");
    OK(kelpie_vm_snapshot(vm, path, NULL, NULL, &err));
    kelpie_vm_destroy(vm);
    OK(kelpie_snapshot_fork(path, NULL, CHILD_COUNT, children, &err));
    bundle_remove(path); /* the children have it open */
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        assert_non_null(children[i].vm);
        expect_shell(children[i].vm, "cat /tmp/past", 0, "stored\n");
    }
    expect_different(children[0].vm, children[1].vm, "head -c 32 /dev/urandom");
    destroy_all(children);
}

static void test_a_pool_gives_vms(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *taken[CHILD_COUNT] = {NULL};
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo stored >/tmp/past", 0, "");
    OK(kelpie_vm_snapshot(vm, path, NULL, NULL, &err));
    kelpie_vm_destroy(vm);
    const struct kelpie_pool_options options = {.name_prefix = "pool", .size = 2};
    OK(kelpie_pool_create(path, &options, &pool, &err));
    for (size_t i = 0; i < CHILD_COUNT; i++) { /* one more than are kept ready */
        OK(kelpie_pool_take(pool, NULL, &taken[i], &err));
        assert_int_equal(kelpie_vm_state(taken[i]), KELPIE_STATE_RUNNING);
        expect_fresh(taken[i]);
    }
    kelpie_pool_destroy(pool);
    bundle_remove(path);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        expect_shell(taken[i], "cat /tmp/past", 0, "stored\n");
    }
    expect_different(taken[0], taken[1], "head -c 32 /dev/urandom");
    for (size_t i = 1; i < CHILD_COUNT; i++) {
        assert_string_not_equal(kelpie_vm_config(taken[i])->name,
                                kelpie_vm_config(taken[i - 1])->name);
        expect_different(taken[i], taken[i - 1], "hostname");
    }
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        kelpie_vm_destroy(taken[i]);
    }
}

static void test_bad_forks_change_nothing(void **state) {
    (void)state;
    need(KELPIE_CAN_FORK, "fork: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_fork_child child = {.error.os_error = 77};
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = make_vm();
    char prefix[KELPIE_NAME_SIZE_MAX + 1];
    memset(prefix, 'x', sizeof(prefix) - 1);
    prefix[sizeof(prefix) - 1] = '\0';
    FAILS(kelpie_vm_fork(vm, NULL, 1, &child, &err), KELPIE_WRONG_STATE);
    OK(kelpie_vm_start(vm, &err));
    FAILS(kelpie_vm_fork(vm, NULL, 0, &child, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "count");
    FAILS(kelpie_vm_fork(vm, NULL, KELPIE_FORK_COUNT_MAX + 1, &child, &err), KELPIE_BAD_CONFIG);
    FAILS(kelpie_vm_fork(vm, &(struct kelpie_fork_options){.name_prefix = prefix}, 1, &child, &err),
          KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "name_prefix");
    FAILS(kelpie_vm_fork(vm, &(struct kelpie_fork_options){.reserved = {1}}, 1, &child, &err),
          KELPIE_BAD_CONFIG);
    FAILS(kelpie_snapshot_fork(host_path("nothing"), NULL, 1, &child, &err), KELPIE_NOT_FOUND);
    FAILS(kelpie_pool_create(host_path("nothing"), NULL, &pool, &err), KELPIE_NOT_FOUND);
    assert_null(pool);
    assert_null(child.vm);
    assert_int_equal(child.error.os_error, 77);
    expect_shell(vm, "true", 0, "");
    kelpie_vm_destroy(vm);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_children_share_a_past_and_no_future),
    cmocka_unit_test(hazard_c1_c5_children_differ),
    cmocka_unit_test(test_a_fork_can_be_forked_again),
    cmocka_unit_test(test_a_paused_parent_stays_paused),
    cmocka_unit_test(test_a_session_goes_on_in_parent_and_child),
    cmocka_unit_test(test_a_stored_vm_is_forked),
    cmocka_unit_test(test_a_pool_gives_vms),
    cmocka_unit_test(test_bad_forks_change_nothing),
};
const struct group group_fork = {"fork", tests, sizeof(tests) / sizeof(tests[0]), 0};
