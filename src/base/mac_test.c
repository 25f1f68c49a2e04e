/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/mac.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void test_text_and_bytes(void **state) {
    (void)state;
    static const uint8_t bytes[MAC_SIZE] = {0x02, 0xa9, 0x0f, 0xf0, 0x10, 0xbc};
    uint8_t mac[MAC_SIZE] = {0};
    char text[MAC_TEXT_SIZE];
    assert_true(mac_parse("02:a9:0f:F0:10:Bc", mac));
    assert_memory_equal(mac, bytes, MAC_SIZE);
    mac_format(mac, text);
    assert_string_equal(text, "02:a9:0f:f0:10:bc");
}

static void test_what_is_no_address(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        "02",
                                        "02:a9:0f:f0:10",
                                        "02:a9:0f:f0:10:b",
                                        "02:a9:0f:f0:10:bc:",
                                        "02:a9:0f:f0:10:bcd",
                                        "02-a9-0f-f0-10-bc",
                                        "02:a9:0f:f0:10:bg",
                                        "2::a9:0f:f0:10:bc",
                                        "02:a9:0f:f0:10 bc",
                                        " 2:a9:0f:f0:10:bc",
                                        "+2:a9:0f:f0:10:bc"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        uint8_t mac[MAC_SIZE] = {7, 7, 7, 7, 7, 7};
        assert_false(mac_parse(texts[i], mac));
        assert_int_equal(mac[0], 7);
        assert_int_equal(mac[5], 7);
    }
}

static void test_hosts_and_groups(void **state) {
    (void)state;
    static const uint8_t none[MAC_SIZE];
    static const uint8_t group[MAC_SIZE] = {0x01, 0, 0x5e, 0, 0, 1};
    static const uint8_t host[MAC_SIZE] = {0, 0, 0, 0, 0, 1};
    assert_false(mac_is_host(none));
    assert_false(mac_is_host(group));
    assert_true(mac_is_host(host));
}

static void test_made_up_ones_are_local_and_keep_their_bytes(void **state) {
    (void)state;
    uint8_t zeros[MAC_SIZE] = {0};
    uint8_t ones[MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    mac_make_local(zeros);
    mac_make_local(ones);
    assert_memory_equal(zeros, ((const uint8_t[]){2, 0, 0, 0, 0, 0}), MAC_SIZE);
    assert_memory_equal(ones, ((const uint8_t[]){0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}), MAC_SIZE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_and_bytes),
        cmocka_unit_test(test_what_is_no_address),
        cmocka_unit_test(test_hosts_and_groups),
        cmocka_unit_test(test_made_up_ones_are_local_and_keep_their_bytes),
    };
    return cmocka_run_group_tests_name("mac", tests, NULL, NULL);
}
