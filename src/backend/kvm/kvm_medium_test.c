/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "backend/kvm/kvm_instance.h"

static void hazard_b1_a_boot_disk_of_an_impossible_size(void **state) {
    static const char *const wrong[] = {"",
                                        "0",
                                        "511",
                                        "513",
                                        "-512",
                                        "+512",
                                        " 512",
                                        "512 ",
                                        "0x200",
                                        "5l2",
                                        "536871424",
                                        "18446744073709552128", /* 512 beyond 64 bits */
                                        "99999999999999999999999999999999999999"};
    (void)state;
    uint64_t size = 0;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_false(kvm_medium_size_parse(wrong[i], &size));
    }
}

static void the_size_is_read(void **state) {
    (void)state;
    uint64_t size = 0;
    char text[32];
    assert_true(kvm_medium_size_parse("512", &size));
    assert_int_equal(size, 512);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)KVM_MEDIUM_SIZE_MAX);
    assert_true(kvm_medium_size_parse(text, &size));
    assert_int_equal(size, KVM_MEDIUM_SIZE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_b1_a_boot_disk_of_an_impossible_size),
        cmocka_unit_test(the_size_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
