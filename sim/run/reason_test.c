/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/reason.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define EXITED(code) ((code) << 8)

static void a_death_has_a_reason(void **state) {
    (void)state;
    static const struct {
        int wait_status;
        const char *words;
        const char *reason;
    } cases[] = {
        {SIGABRT, "hello\nkelpie: assertion failed: a < b at src/vm/vm.c:12\n",
         "assertion failed at src/vm/vm.c:12 (a < b)"},
        {SIGABRT,
         "kelpie: assertion failed: first at src/a.c:1\nkelpie: assertion failed: x at y at "
         "src/b.c:2\nbye",
         "assertion failed at src/b.c:2 (x at y)"},
        /* Cut at its end: nothing to go by. */
        {SIGABRT, "kelpie: assertion failed: a < b", "signal SIGABRT"},
        {SIGABRT, "kelpie: assertion failed: a\n at b:1\n", "signal SIGABRT"},
        {SIGSEGV, "", "signal SIGSEGV"},
        {SIGKILL, "words\n", "signal SIGKILL"},
        {EXITED(3), "words\n", "the process ended with code 3"},
        {EXITED(1), "src/a.c:7:3: runtime error: signed overflow: 1 + 2\n",
         "undefined behaviour at src/a.c:7:3 (signed overflow: 1 + 2)"},
        {SIGABRT,
         "==1==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\nSUMMARY: "
         "AddressSanitizer: heap-use-after-free src/a.c:7 in f\n",
         "sanitizer says heap-use-after-free src/a.c:7 in f"},
    };
    char reason[256];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        reason_of_death(cases[i].wait_status, cases[i].words, reason, sizeof(reason));
        assert_string_equal(reason, cases[i].reason);
    }
}

static void a_reason_is_cut(void **state) {
    (void)state;
    char reason[12];
    reason_of_death(SIGABRT, "kelpie: assertion failed: a at b:1\n", reason, sizeof(reason));
    assert_string_equal(reason, "assertion f");
}

static void reasons_are_of_the_same_kind(void **state) {
    (void)state;
    static const struct {
        const char *a;
        const char *b;
        bool same;
    } cases[] = {
        {"model: two copies", "model: no copy", true},
        {"leak of 3 descriptors", "leak of 12 descriptors", true},
        {"leak of 3 descriptors", "leak of a process", false},
        {"model: x", "mode: x", false},
        {"model", "models", false},
        {"hangs: no end after 20000 ms", "hangs: no end after 3000 ms", true},
        {"signal SIGSEGV", "signal SIGABRT", false},
        {"signal SIGSEGV", "signal SIGSEGV", true},
        {"assertion failed at src/a.c:12 (x)", "assertion failed at src/a.c:12 (y)", true},
        {"assertion failed at src/a.c:12 (x)", "assertion failed at src/a.c:13 (x)", false},
        {"assertion failed at src/a.c:1 (x)", "assertion failed at src/a.c:12 (x)", false},
        {"undefined behaviour at src/a.c:7:3 (x)", "undefined behaviour at src/a.c:8:3 (x)", false},
        {"", "", true},
        {"", "x", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(reason_same(cases[i].a, cases[i].b), cases[i].same);
        assert_int_equal(reason_same(cases[i].b, cases[i].a), cases[i].same);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_death_has_a_reason),
        cmocka_unit_test(a_reason_is_cut),
        cmocka_unit_test(reasons_are_of_the_same_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
