/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The state machine against the table in docs/ARCHITECTURE.md, written out once more by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vm/vm.h"

static void test_operations_are_allowed_where_the_table_says(void **state) {
    (void)state;
    /* columns: created starting running paused stopped crashed */
    static const char *const rows[VM_OPERATION_COUNT] = {
        [VM_OPERATION_START] = "y...y.",    [VM_OPERATION_STOP] = ".yyy..",
        [VM_OPERATION_PAUSE] = "..y...",    [VM_OPERATION_RESUME] = "...y..",
        [VM_OPERATION_EXEC] = "..y...",     [VM_OPERATION_COPY] = "..y...",
        [VM_OPERATION_SNAPSHOT] = "..yy..", [VM_OPERATION_RESTORE] = "y...y.",
        [VM_OPERATION_FORK] = "..yy..",     [VM_OPERATION_RECORD] = "..yy..",
        [VM_OPERATION_MEASURE] = "..yy..",
    };
    for (unsigned i = 0; i < VM_OPERATION_COUNT; i++) {
        for (unsigned j = 0; j < KELPIE_STATE_COUNT; j++) {
            bool allowed = vm_state_allows((enum vm_operation)i, (enum kelpie_state)j);
            assert_int_equal(allowed, rows[i][j] == 'y');
        }
    }
}

static void test_a_crashed_vm_never_changes(void **state) {
    (void)state;
    for (unsigned j = 0; j < KELPIE_STATE_COUNT; j++) {
        assert_false(vm_state_may_follow(KELPIE_STATE_CRASHED, (enum kelpie_state)j));
    }
    assert_true(vm_state_may_follow(KELPIE_STATE_STARTING, KELPIE_STATE_CRASHED));
    assert_true(vm_state_may_follow(KELPIE_STATE_RUNNING, KELPIE_STATE_CRASHED));
    assert_true(vm_state_may_follow(KELPIE_STATE_PAUSED, KELPIE_STATE_CRASHED));
    assert_false(vm_state_may_follow(KELPIE_STATE_STOPPED, KELPIE_STATE_RUNNING));
}

static void test_the_error_names_operation_state_and_what_is_right(void **state) {
    (void)state;
    struct kelpie_error err;
    assert_int_equal(vm_state_error(VM_OPERATION_SNAPSHOT, KELPIE_STATE_STOPPED, &err),
                     KELPIE_WRONG_STATE);
    assert_string_equal(err.message,
                        "cannot snapshot a VM that is stopped; it must be running or paused");
    assert_string_equal(err.field, "stopped");
    assert_false(err.requires_recreate);
    assert_int_equal(vm_state_error(VM_OPERATION_EXEC, KELPIE_STATE_CRASHED, &err),
                     KELPIE_WRONG_STATE);
    assert_true(err.requires_recreate);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_are_allowed_where_the_table_says),
        cmocka_unit_test(test_a_crashed_vm_never_changes),
        cmocka_unit_test(test_the_error_names_operation_state_and_what_is_right),
    };
    return cmocka_run_group_tests_name("vm_state", tests, NULL, NULL);
}
