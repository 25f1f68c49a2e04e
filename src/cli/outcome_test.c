/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/outcome.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/suggest.h"

static void test_exit_codes(void **state) {
    (void)state;
    static const struct {
        struct outcome outcome;
        int code;
    } rows[] = {
        {{.ended = true}, 0},
        {{.ended = true, .exit = {.code = 7}}, 7},
        {{.ended = true, .exit = {.code = 137, .signal = 9}}, 137},
        {{.ended = true, .exit = {.code = 137, .signal = 9, .timed_out = true}}, 124},
        {{.err = {.status = KELPIE_EXEC_TIMED_OUT}}, 124},
        {{.err = {.status = KELPIE_EXEC_FAILED, .os_error = ENOENT}}, 127},
        {{.err = {.status = KELPIE_EXEC_FAILED, .os_error = EACCES}}, 126},
        {{.err = {.status = KELPIE_EXEC_FAILED, .os_error = ENOEXEC}}, 126},
        {{.err = {.status = KELPIE_EXEC_FAILED, .os_error = EAGAIN}}, 125},
        {{.err = {.status = KELPIE_EXEC_FAILED}}, 125},
        {{.err = {.status = KELPIE_NOT_FOUND, .os_error = ENOENT}}, 125},
        {{.err = {.status = KELPIE_BOOT_FAILED}}, 125},
        {{.err = {.status = KELPIE_CANCELLED}, .signal = SIGINT}, 130},
        {{.err = {.status = KELPIE_CANCELLED}, .signal = SIGTERM}, 143},
        {{.err = {.status = KELPIE_IO_FAILED}, .reader_gone = true}, 141},
        {{.let_go = true}, 0},
        {{.let_go = true, .signal = SIGHUP}, 129},
        /* The command had ended well, but its bundle could not be written. */
        {{.ended = true, .err = {.status = KELPIE_NO_SPACE}}, 125},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(outcome_exit_code(&rows[i].outcome), rows[i].code);
    }
}

static void test_collecting_stops_at_its_limit(void **state) {
    (void)state;
    struct outcome outcome = {0};
    struct kelpie_error err;
    char *data = calloc(1, CLI_COLLECT_SIZE_MAX);
    assert_non_null(data);
    assert_int_equal(outcome_collect(&outcome.stdout_bytes, "ab", 2, &err), KELPIE_OK);
    assert_int_equal(outcome_collect(&outcome.stdout_bytes, data, CLI_COLLECT_SIZE_MAX - 2, &err),
                     KELPIE_OK);
    assert_false(outcome.stdout_bytes.truncated);
    assert_int_equal(outcome.stdout_bytes.size, CLI_COLLECT_SIZE_MAX);
    assert_int_equal(outcome_collect(&outcome.stdout_bytes, "x", 1, &err), KELPIE_OK);
    assert_true(outcome.stdout_bytes.truncated);
    assert_int_equal(outcome.stdout_bytes.size, CLI_COLLECT_SIZE_MAX);
    assert_memory_equal(outcome.stdout_bytes.data, "ab", 2);
    outcome_deinit(&outcome);
    free(data);
}

static void check_bytes(const char *data, size_t size, const char *encoding, const char *text) {
    json_t *object = output_json_bytes(data, size);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "encoding")), encoding);
    assert_string_equal(json_string_value(json_object_get(object, "data")), text);
    assert_int_equal(json_integer_value(json_object_get(object, "bytes")), size);
    json_decref(object);
}

static void test_bytes_as_json(void **state) {
    (void)state;
    check_bytes(NULL, 0, "utf-8", "");
    check_bytes("plain\n", 6, "utf-8", "plain\n");
    check_bytes("\xc3\xa9", 2, "utf-8", "\xc3\xa9");
    check_bytes("\xc3", 1, "base64", "ww==");         /* cut */
    check_bytes("\xc0\x80", 2, "base64", "wIA=");     /* overlong */
    check_bytes("\xed\xa0\x80", 3, "base64", "7aCA"); /* a surrogate */
    check_bytes("a\0b", 3, "base64", "YQBi");
}

static void test_an_error_that_is_no_text_is_json_all_the_same(void **state) {
    (void)state;
    struct kelpie_error err;
    error_set(&err, KELPIE_BOOT_FAILED, "the console said \"%s\"", "\xff\xfe");
    json_t *object = output_json_error(&err);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "status")), "boot-failed");
    assert_string_equal(json_string_value(json_object_get(object, "message")),
                        "the console said \"??\"");
    json_decref(object);
}

static void test_messages_are_safe_on_a_terminal(void **state) {
    (void)state;
    char text[] = "a\nb\033[2Jc\td\x7f\xc3\xa9";
    output_clean(text);
    assert_string_equal(text, "a b [2Jc d \xc3\xa9");
}

static const char *suggest(const char *word) {
    static const char *const names[] = {"run", "doctor", "version", "help"};
    struct suggestion suggestion = suggestion_init(word, strlen(word));
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        suggestion_offer(&suggestion, names[i]);
    }
    return suggestion.best ? suggestion.best : "nothing";
}

static void test_suggestions(void **state) {
    (void)state;
    assert_string_equal(suggest("rnu"), "run");
    assert_string_equal(suggest("ru"), "run");
    assert_string_equal(suggest("dcotor"), "doctor");
    assert_string_equal(suggest("docter"), "doctor");
    assert_string_equal(suggest("versoin"), "version");
    assert_string_equal(suggest("halp"), "help");
    assert_string_equal(suggest(""), "nothing");
    assert_string_equal(suggest("x"), "nothing");
    assert_string_equal(suggest("start"), "nothing");
    char word[CLI_NAME_SIZE_MAX + 2];
    memset(word, 'r', sizeof(word) - 1);
    word[sizeof(word) - 1] = 0;
    assert_string_equal(suggest(word), "nothing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_collecting_stops_at_its_limit),
        cmocka_unit_test(test_bytes_as_json),
        cmocka_unit_test(test_an_error_that_is_no_text_is_json_all_the_same),
        cmocka_unit_test(test_messages_are_safe_on_a_terminal),
        cmocka_unit_test(test_suggestions),
    };
    return cmocka_run_group_tests_name("cli/outcome", tests, NULL, NULL);
}
