/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/detach_keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void test_keys_as_they_are_written(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *bytes; /* NULL: refused */
    } rows[] = {
        {"ctrl-p,ctrl-q", "\x10\x11"},
        {"ctrl-]", "\x1d"},
        {"ctrl-A,d", "\001d"},
        {"a,b,c", "abc"},
        {"none", ""},
        {"", NULL},
        {",", NULL},
        {"ctrl-", NULL},
        {"ctrl-1", NULL},
        {"ctrl-pp", NULL},
        {"ab", NULL},
        {"a,", NULL},
        {"a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct detach_keys keys = {.bytes = "z", .count = 1};
        struct kelpie_error err;
        enum kelpie_status status = detach_keys_set(&keys, rows[i].text, &err);
        const char *bytes = rows[i].bytes ? rows[i].bytes : "z"; /* untouched */
        assert_int_equal(status, rows[i].bytes ? KELPIE_OK : KELPIE_BAD_CONFIG);
        assert_int_equal(keys.count, strlen(bytes));
        assert_memory_equal(keys.bytes, bytes, keys.count);
    }
}

/* What is passed of `typed`, one key at a time or all at once, until the keys came. */
static bool pass(const char *keys, const char *typed, size_t at_once, char *passed) {
    struct detach_match match = {.matched = 0};
    struct kelpie_error err;
    assert_int_equal(detach_keys_set(&match.keys, keys, &err), KELPIE_OK);
    bool detached = false;
    size_t total = 0;
    size_t size = strlen(typed);
    for (size_t done = 0; done < size && !detached; done += at_once) {
        size_t part = size - done < at_once ? size - done : at_once;
        total += detach_match_pass(&match, typed + done, part, passed + total, &detached);
    }
    passed[total] = 0;
    return detached;
}

static void test_what_is_passed_on(void **state) {
    (void)state;
    static const struct {
        const char *keys;
        const char *typed;
        const char *passed;
        bool detached;
    } rows[] = {
        {"ctrl-p,ctrl-q", "ls\r", "ls\r", false},
        {"ctrl-p,ctrl-q", "ls\x10\x11more", "ls", true},
        {"ctrl-p,ctrl-q", "a\x10z", "a\x10z", false},
        {"ctrl-p,ctrl-q", "a\x10", "a", false}, /* held */
        {"ctrl-p,ctrl-q", "\x10\x10\x11", "\x10", true},
        {"ctrl-p,ctrl-q", "\x11\x10", "\x11", false},
        {"a,a,b", "aaab", "a", true},
        {"a,a,b", "aacaab", "aac", true},
        {"a,b,a,c", "ababac", "ab", true},
        {"ctrl-]", "x\x1d", "x", true},
        {"none", "\x10\x11", "\x10\x11", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        for (size_t at_once = 1; at_once <= 16; at_once += 15) {
            char passed[64];
            assert_int_equal(pass(rows[i].keys, rows[i].typed, at_once, passed), rows[i].detached);
            assert_string_equal(passed, rows[i].passed);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_as_they_are_written),
        cmocka_unit_test(test_what_is_passed_on),
    };
    return cmocka_run_group_tests_name("cli/detach_keys", tests, NULL, NULL);
}
