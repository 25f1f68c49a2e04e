/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void sums_that_fit(void **state) {
    (void)state;
    uint64_t wide = 0;
    size_t size = 0;
    assert_true(checked_add_u64(UINT64_MAX - 5, 5, &wide));
    assert_true(wide == UINT64_MAX);
    assert_true(checked_add_u64(0, 0, &wide));
    assert_true(wide == 0);
    assert_true(checked_add_size(SIZE_MAX - 1, 1, &size));
    assert_true(size == SIZE_MAX);
}

static void sums_that_do_not_fit_change_nothing(void **state) {
    (void)state;
    uint64_t wide = 42;
    size_t size = 42;
    assert_false(checked_add_u64(UINT64_MAX, 1, &wide));
    assert_false(checked_add_u64(UINT64_MAX, UINT64_MAX, &wide));
    assert_true(wide == 42);
    assert_false(checked_add_size(1, SIZE_MAX, &size));
    assert_true(size == 42);
}

static void products(void **state) {
    (void)state;
    uint64_t wide = 42;
    assert_false(checked_mul_u64(1ull << 32, 1ull << 32, &wide));
    assert_true(wide == 42);
    assert_true(checked_mul_u64(1ull << 32, (1ull << 32) - 1, &wide));
    assert_true(wide == 0xffffffff00000000ull);
    assert_true(checked_mul_u64(UINT64_MAX, 0, &wide));
    assert_true(wide == 0);
}

static void smaller_of_two(void **state) {
    (void)state;
    assert_true(min_u64(1, UINT64_MAX) == 1);
    assert_true(min_u64(UINT64_MAX, 1) == 1);
    assert_true(min_size(7, 7) == 7);
    assert_true(min_size(SIZE_MAX, 0) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_that_fit),
        cmocka_unit_test(sums_that_do_not_fit_change_nothing),
        cmocka_unit_test(products),
        cmocka_unit_test(smaller_of_two),
    };
    return cmocka_run_group_tests_name("checked", tests, NULL, NULL);
}
