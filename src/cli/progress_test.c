/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/assert.h"

static void test_a_line_stays_below_the_width(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t columns;
        const char *fitted;
        size_t taken;
    } rows[] = {
        {"booting", 80, "booting", 7},
        {"booting", 8, "booting", 7}, /* the last column is left free: a terminal would wrap */
        {"booting", 7, "bootin", 6},
        {"booting", 1, "", 0},
        {"booting", 0, "booting", 7},
        {"", 20, "", 0},
        {"\xc3\xa9t\xc3\xa9", 80, "\xc3\xa9t\xc3\xa9", 5},
        {"\xc3\xa9t\xc3\xa9", 5, "\xc3\xa9t", 3}, /* never half of a character */
        {"\xe6\x97\xa5\xe6\x9c\xac", 4, "\xe6\x97\xa5", 2},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s", rows[i].text);
        assert_int_equal(progress_fit(text, rows[i].columns), rows[i].taken);
        assert_string_equal(text, rows[i].fitted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_stays_below_the_width),
    };
    return cmocka_run_group_tests_name("cli/progress", tests, NULL, NULL);
}
