/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A restore fails closed: whatever could not be made fresh ends it, unless the caller allows it. */
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void hazard_c1_what_is_not_fresh_fails_the_restore(void **state) {
    static struct kelpie_vm vm; /* as much of one as is looked at */
    static const char *const names[] = {"entropy", "generation", "clock",
                                        "network", "hostname",   "machine_id"};
    enum kelpie_outcome *const outcomes[] = {&vm.report.entropy,  &vm.report.generation,
                                             &vm.report.clock,    &vm.report.network,
                                             &vm.report.hostname, &vm.report.machine_id};
    static const enum kelpie_outcome bad[] = {KELPIE_OUTCOME_FAILED, KELPIE_OUTCOME_PENDING};
    (void)state;
    static_assert(ARRAY_SIZE(outcomes) == ARRAY_SIZE(names), "each has a name");
    vm.locked = true;
    vm.restored = true;
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        *outcomes[i] = i % 2 == 0 ? KELPIE_OUTCOME_DONE : KELPIE_OUTCOME_UNSUPPORTED;
    }
    assert_int_equal(vm_check_report(&vm, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        enum kelpie_outcome good = *outcomes[i];
        for (size_t j = 0; j < ARRAY_SIZE(bad); j++) {
            struct kelpie_error err = {0};
            *outcomes[i] = bad[j];
            assert_int_equal(vm_check_report(&vm, &err), KELPIE_RESTORE_FAILED);
            assert_string_equal(err.field, names[i]);
            vm.allow_incomplete = true;
            assert_int_equal(vm_check_report(&vm, &err), KELPIE_OK);
            vm.allow_incomplete = false;
        }
        *outcomes[i] = good;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c1_what_is_not_fresh_fails_the_restore),
    };
    return cmocka_run_group_tests_name("vm snapshot", tests, NULL, NULL);
}
