/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* `kelpie run` from outside, on the mock backend: exit codes, streams, signals, JSON, bundles. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "../support/command.h"
#include "base/assert.h"

#define RUN "kelpie", "run", "--backend", "mock"
#define SH(script) "--", "sh", "-c", script
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Prints 1, 2, 3, … for ever, ten a second. */
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"

static struct command_result run_words(const char *const *argv) {
    return command_run(&(struct command_spec){.argv = argv});
}

static void check_clean(const struct command_result *result) {
    assert_false(result->signaled);
    assert_string_equal(result->files_left, "");
    assert_int_equal(result->processes_left, 0);
}

/* Ends a started command, checks its code and that nothing is left. */
static void finish_with(struct command *command, int code) {
    struct command_result result = command_finish(command);
    if (result.code != code) {
        fail_msg("code %d, wanted %d; err: %s", result.code, code, result.err);
    }
    check_clean(&result);
    command_result_free(&result);
}

/* ---- Exit codes ------------------------------------------------------------------------------- */

static void test_exit_codes(void **state) {
    (void)state;
    static const struct {
        const char *script;
        int code;
        const char *err;
    } rows[] = {
        {"exit 0", 0, "^$"},
        {"exit 1", 1, "^$"},
        {"exit 255", 255, "^$"},
        {"exit 125", 125, "^$"}, /* the command's own */
        {"kill -9 $$", 128 + SIGKILL, "^$"},
        {"kill -15 $$", 128 + SIGTERM, "^$"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct command_result result = run_words(WORDS(RUN, SH(rows[i].script)));
        assert_int_equal(result.code, rows[i].code);
        assert_true(command_matches(result.err, rows[i].err));
        check_clean(&result);
        command_result_free(&result);
    }
}

static void test_command_that_is_not_there_is_127(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(RUN, "--", "nosuch"));
    assert_int_equal(result.code, 127);
    assert_true(command_matches(result.err, "^kelpie: .*nosuch[^\n]*\n$"));
    check_clean(&result);
    command_result_free(&result);
}

static void test_command_that_cannot_be_executed_is_126(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(RUN, "--", "/tmp"));
    assert_int_equal(result.code, 126);
    assert_true(command_matches(result.err, "^kelpie: .*/tmp[^\n]*\n$"));
    check_clean(&result);
    command_result_free(&result);
}

static void test_timeout_is_124_and_soon(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(RUN, "--timeout", "200ms", SH("echo begun; sleep 60")));
    assert_int_equal(result.code, 124);
    assert_string_equal(result.out, "begun\n");
    assert_true(command_matches(result.err, "^kelpie: .*200 ms[^\n]*\n$"));
    assert_in_range(result.milliseconds, 200, 5000);
    check_clean(&result);
    command_result_free(&result);
}

/* ---- Streams ---------------------------------------------------------------------------------- */

static void test_streams_stay_apart(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(RUN, SH("echo out; echo err >&2; exit 3")));
    assert_int_equal(result.code, 3);
    assert_string_equal(result.out, "out\n");
    assert_string_equal(result.err, "err\n");
    check_clean(&result);
    command_result_free(&result);
}

static void test_input_is_passed_on_byte_by_byte(void **state) {
    (void)state;
    size_t size = 3u << 20;
    char *input = malloc(size);
    assert_non_null(input);
    for (size_t i = 0; i < size; i++) {
        input[i] = (char)(i * 7 + i / 256);
    }
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS(RUN, "-i", "--", "cat"), .input = input, .input_size = size});
    assert_int_equal(result.code, 0);
    assert_int_equal(result.out_size, size);
    assert_memory_equal(result.out, input, size);
    check_clean(&result);
    command_result_free(&result);
    free(input);
}

static void test_without_i_our_stdin_is_neither_read_nor_awaited(void **state) {
    (void)state;
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS(RUN, "--", "cat"), .input = "not for you", .input_open = true});
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "");
    assert_in_range(result.milliseconds, 0, 5000);
    check_clean(&result);
    command_result_free(&result);
}

static void test_ends_although_stdin_stays_open(void **state) {
    (void)state;
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS(RUN, "-i", "--", "echo", "done"), .input = "x", .input_open = true});
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "done\n");
    assert_in_range(result.milliseconds, 0, 5000);
    check_clean(&result);
    command_result_free(&result);
}

static void test_more_input_than_the_command_reads(void **state) {
    (void)state;
    size_t size = 2u << 20;
    char *input = calloc(1, size);
    assert_non_null(input);
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS(RUN, "-i", "--", "head", "-c", "10"), .input = input, .input_size = size});
    assert_int_equal(result.code, 0);
    assert_int_equal(result.out_size, 10);
    check_clean(&result);
    command_result_free(&result);
    free(input);
}

static void test_much_output_passes(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(RUN, "--", "dd", "if=/dev/zero", "bs=65536", "count=512"));
    assert_int_equal(result.code, 0);
    assert_int_equal(result.out_size, 65536 * 512);
    check_clean(&result);
    command_result_free(&result);
}

static void test_output_comes_as_it_is_made(void **state) {
    (void)state;
    struct command *command =
        command_start(&(struct command_spec){.argv = WORDS(RUN, SH("echo early; sleep 60"))});
    assert_true(command_await(command, "early\n"));
    command_signal(command, SIGTERM);
    finish_with(command, 128 + SIGTERM);
}

static void test_a_reader_that_goes_away_ends_the_run(void **state) {
    (void)state;
    struct command *command =
        command_start(&(struct command_spec){.argv = WORDS(RUN, "--", "yes")});
    assert_true(command_await(command, "y\ny\n"));
    command_close_output(command);
    struct command_result result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGPIPE);
    assert_string_equal(result.err, "");
    assert_in_range(result.milliseconds, 0, 10000);
    check_clean(&result);
    command_result_free(&result);
}

/* ---- Signals ---------------------------------------------------------------------------------- */

static void test_the_first_signal_is_the_commands(void **state) {
    (void)state;
    static const int numbers[] = {SIGINT, SIGTERM, SIGQUIT};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct command *command =
            command_start(&(struct command_spec){.argv = WORDS(RUN, SH("echo on; sleep 60"))});
        assert_true(command_await(command, "on\n"));
        command_signal(command, numbers[i]);
        finish_with(command, 128 + numbers[i]);
    }
}

static void test_a_command_may_ignore_the_signal(void **state) {
    (void)state;
    struct command *command = command_start(
        &(struct command_spec){.argv = WORDS(RUN, SH("trap '' INT; echo on; sleep 1; exit 9"))});
    assert_true(command_await(command, "on\n"));
    command_signal(command, SIGINT);
    finish_with(command, 9);
}

static void test_the_second_signal_kills(void **state) {
    (void)state;
    struct command *command = command_start(
        &(struct command_spec){.argv = WORDS(RUN, SH("trap '' INT; echo on; " COUNTER))});
    assert_true(command_await(command, "on\n"));
    command_signal(command, SIGINT);
    assert_true(command_await(command, "5\n"));
    command_signal(command, SIGINT);
    finish_with(command, 128 + SIGKILL);
}

/* So long does the mock take to write more than a pipe holds. */
#if defined(__SANITIZE_ADDRESS__)
#define PIPE_FULL_MS 6000
#else
#define PIPE_FULL_MS 600
#endif

static void test_the_third_signal_ends_although_nobody_reads(void **state) {
    (void)state;
    struct command *command = command_start(&(struct command_spec){
        .argv = WORDS(RUN, SH("trap '' TERM; while true; do echo y; done"))});
    assert_true(command_await(command, "y\ny\n"));
    assert_false(command_await_end(command, PIPE_FULL_MS)); /* nobody reads: the pipe is full now */
    for (int i = 0; i < 2; i++) {
        command_signal(command, SIGTERM);
        assert_false(command_await_end(command, 200));
    }
    command_signal(command, SIGTERM);
    assert_true(command_await_end(command, 30000));
    finish_with(command, 128 + SIGTERM);
}

static void test_hang_up_ends_the_run(void **state) {
    (void)state;
    struct command *command = command_start(
        &(struct command_spec){.argv = WORDS(RUN, SH("trap '' HUP; echo on; sleep 60"))});
    assert_true(command_await(command, "on\n"));
    command_signal(command, SIGHUP);
    finish_with(command, 128 + SIGHUP);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static json_t *parse(const struct command_result *result) {
    json_error_t error;
    json_t *object = json_loadb(result->out, result->out_size, JSON_ALLOW_NUL, &error);
    if (!object) {
        fail_msg("no JSON: %s in %s", error.text, result->out);
    }
    return object;
}

static const char *text_at(const json_t *object, const char *first, const char *second) {
    const char *text = json_string_value(json_object_get(json_object_get(object, first), second));
    assert_non_null(text);
    return text;
}

static void test_json_tells_all(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(RUN, "--json", SH("echo out; echo err >&2; exit 3")));
    assert_int_equal(result.code, 3);
    assert_string_equal(result.err, "");
    json_t *object = parse(&result);
    assert_int_equal(strlen(json_string_value(json_object_get(object, "id"))), 32);
    assert_string_equal(json_string_value(json_object_get(object, "backend")), "mock");
    assert_int_equal(json_integer_value(json_object_get(object, "exit_code")), 3);
    assert_int_equal(json_integer_value(json_object_get(object, "signal")), 0);
    assert_true(json_is_false(json_object_get(object, "timed_out")));
    assert_string_equal(text_at(object, "stdout", "data"), "out\n");
    assert_string_equal(text_at(object, "stdout", "encoding"), "utf-8");
    assert_string_equal(text_at(object, "stderr", "data"), "err\n");
    assert_true(json_is_null(json_object_get(object, "error")));
    const json_t *timings = json_object_get(object, "timings");
    assert_true(json_real_value(json_object_get(timings, "boot_ms")) > 0);
    assert_true(json_real_value(json_object_get(timings, "exec_ms")) > 0);
    assert_true(json_is_null(json_object_get(timings, "restore_ms")));
    json_decref(object);
    check_clean(&result);
    command_result_free(&result);
}

static void test_json_of_bytes_that_are_no_text(void **state) {
    (void)state;
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS(RUN, "--json", "-i", "--", "cat"), .input = "\xff\xfe", .input_size = 3});
    assert_int_equal(result.code, 0);
    json_t *object = parse(&result);
    assert_string_equal(text_at(object, "stdout", "encoding"), "base64");
    assert_string_equal(text_at(object, "stdout", "data"), "//4A");
    json_decref(object);
    command_result_free(&result);
}

static void test_json_of_a_timeout(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(RUN, "--json", "--timeout", "100ms", "--", "sleep", "60"));
    assert_int_equal(result.code, 124);
    json_t *object = parse(&result);
    assert_int_equal(json_integer_value(json_object_get(object, "exit_code")), 124);
    assert_true(json_is_true(json_object_get(object, "timed_out")));
    json_decref(object);
    command_result_free(&result);
}

static void test_json_of_an_error(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(RUN, "--json", "--memory", "63", "--", "true"));
    assert_int_equal(result.code, 125);
    assert_true(command_matches(result.err, "^kelpie: --memory: "));
    json_t *object = parse(&result);
    assert_int_equal(json_integer_value(json_object_get(object, "exit_code")), 125);
    assert_string_equal(text_at(object, "error", "status"), "bad-config");
    assert_string_equal(text_at(object, "error", "field"), "memory_mib");
    json_decref(object);
    command_result_free(&result);
}

static void test_json_of_a_command_that_is_not_there(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(RUN, "--json", "--", "nosuch"));
    assert_int_equal(result.code, 127);
    json_t *object = parse(&result);
    assert_string_equal(text_at(object, "error", "status"), "exec-failed");
    json_decref(object);
    command_result_free(&result);
}

static void test_json_of_much_output_is_cut(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(RUN, "--json", "--", "dd", "if=/dev/zero", "bs=65536", "count=257"));
    assert_int_equal(result.code, 0);
    json_t *object = parse(&result);
    const json_t *out = json_object_get(object, "stdout");
    assert_true(json_is_true(json_object_get(out, "truncated")));
    assert_int_equal(json_integer_value(json_object_get(out, "bytes")), 16777216);
    json_decref(object);
    command_result_free(&result);
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

static void test_snapshot_and_restore(void **state) {
    (void)state;
    char path[COMMAND_PATH_SIZE];
    command_scratch("files", path);
    struct command_result result =
        run_words(WORDS(RUN, "--snapshot", path, SH("echo kept > /tmp/note; exit 4")));
    assert_int_equal(result.code, 4);
    assert_string_equal(result.err, "");
    check_clean(&result);
    command_result_free(&result);

    result = run_words(WORDS(RUN, "--from", path, "--verify", "--", "cat", "/tmp/note"));
    assert_string_equal(result.err, "");
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "kept\n");
    check_clean(&result);
    command_result_free(&result);
}

static void test_snapshot_without_a_command(void **state) {
    (void)state;
    char path[COMMAND_PATH_SIZE];
    command_scratch("bare", path);
    struct command_result result = run_words(WORDS(RUN, "--snapshot", path));
    assert_int_equal(result.code, 0);
    command_result_free(&result);

    result = run_words(WORDS("kelpie", "run", "--from", path, "--", "echo", "again"));
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "again\n");
    command_result_free(&result);

    result = run_words(WORDS(RUN, "--from", path));
    assert_int_equal(result.code, 125);
    assert_true(command_matches(result.err, "^kelpie: [^\n]*no session[^\n]*\n$"));
    check_clean(&result);
    command_result_free(&result);
}

static void test_snapshot_never_overwrites(void **state) {
    (void)state;
    char path[COMMAND_PATH_SIZE];
    command_scratch("taken", path);
    struct command_result result = run_words(WORDS(RUN, "--snapshot", path));
    assert_int_equal(result.code, 0);
    command_result_free(&result);
    result = run_words(WORDS(RUN, "--snapshot", path, "--", "true"));
    assert_int_equal(result.code, 125);
    assert_true(command_matches(result.err, "^kelpie: [^\n]*taken[^\n]*\n"));
    check_clean(&result);
    command_result_free(&result);
}

/* The last number of the output, and that it counts on from `before` without gap or repeat. */
static long check_counting(const char *out, long before) {
    long last = before;
    for (const char *line = out; *line; line = strchr(line, '\n') + 1) {
        assert_non_null(strchr(line, '\n'));
        long number = strtol(line, NULL, 10);
        assert_int_equal(number, last + 1);
        last = number;
    }
    return last;
}

static void test_a_session_goes_on_in_another_process(void **state) {
    (void)state;
    char first[COMMAND_PATH_SIZE];
    command_scratch("counter", first);
    char second[COMMAND_PATH_SIZE];
    command_scratch("counter-2", second);
    struct command_result result =
        run_words(WORDS(RUN, "--snapshot", first, "--snapshot-after", "700ms", SH(COUNTER)));
    assert_string_equal(result.err, "");
    assert_int_equal(result.code, 0);
    long last = check_counting(result.out, 0);
    assert_true(last >= 2);
    check_clean(&result);
    command_result_free(&result);

    result =
        run_words(WORDS(RUN, "--from", first, "--snapshot", second, "--snapshot-after", "700ms"));
    assert_int_equal(result.code, 0);
    long later = check_counting(result.out, last);
    assert_true(later >= last + 2);
    command_result_free(&result);

    struct command *command =
        command_start(&(struct command_spec){.argv = WORDS(RUN, "--from", second)});
    char next[32];
    snprintf(next, sizeof(next), "%ld\n", later + 3);
    assert_true(command_await(command, next));
    command_signal(command, SIGINT);
    result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGINT);
    check_counting(result.out, later);
    check_clean(&result);
    command_result_free(&result);
}

static void test_json_of_a_restore(void **state) {
    (void)state;
    char path[COMMAND_PATH_SIZE];
    command_scratch("json", path);
    struct command_result result = run_words(WORDS(RUN, "--json", "--snapshot", path));
    assert_int_equal(result.code, 0);
    json_t *object = parse(&result);
    assert_int_equal(strlen(text_at(object, "snapshot", "id")), 32);
    assert_true(json_is_null(json_object_get(object, "restore")));
    json_decref(object);
    command_result_free(&result);

    result = run_words(WORDS(RUN, "--json", "--from", path, "--", "true"));
    assert_int_equal(result.code, 0);
    object = parse(&result);
    assert_string_equal(text_at(object, "restore", "clock"), "done");
    assert_string_equal(text_at(object, "restore", "entropy"), "done");
    const json_t *timings = json_object_get(object, "timings");
    assert_true(json_real_value(json_object_get(timings, "restore_ms")) > 0);
    assert_true(json_is_null(json_object_get(timings, "boot_ms")));
    json_decref(object);
    command_result_free(&result);
}

static void test_a_damaged_bundle_is_refused(void **state) {
    (void)state;
    char path[COMMAND_PATH_SIZE];
    command_scratch("damaged", path);
    struct command_result result = run_words(WORDS(RUN, "--snapshot", path));
    assert_int_equal(result.code, 0);
    command_result_free(&result);
    char manifest[512];
    snprintf(manifest, sizeof(manifest), "%s/manifest.json", path);
    FILE *file = fopen(manifest, "w");
    assert_non_null(file);
    fputs("{}", file);
    fclose(file);
    result = run_words(WORDS(RUN, "--from", path, "--", "true"));
    assert_int_equal(result.code, 125);
    assert_true(command_matches(result.err, "^kelpie: [^\n]*manifest[^\n]*\n$"));
    check_clean(&result);
    command_result_free(&result);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_command_that_is_not_there_is_127),
        cmocka_unit_test(test_command_that_cannot_be_executed_is_126),
        cmocka_unit_test(test_timeout_is_124_and_soon),
        cmocka_unit_test(test_streams_stay_apart),
        cmocka_unit_test(test_input_is_passed_on_byte_by_byte),
        cmocka_unit_test(test_without_i_our_stdin_is_neither_read_nor_awaited),
        cmocka_unit_test(test_ends_although_stdin_stays_open),
        cmocka_unit_test(test_more_input_than_the_command_reads),
        cmocka_unit_test(test_much_output_passes),
        cmocka_unit_test(test_output_comes_as_it_is_made),
        cmocka_unit_test(test_a_reader_that_goes_away_ends_the_run),
        cmocka_unit_test(test_the_first_signal_is_the_commands),
        cmocka_unit_test(test_a_command_may_ignore_the_signal),
        cmocka_unit_test(test_the_second_signal_kills),
        cmocka_unit_test(test_the_third_signal_ends_although_nobody_reads),
        cmocka_unit_test(test_hang_up_ends_the_run),
        cmocka_unit_test(test_json_tells_all),
        cmocka_unit_test(test_json_of_bytes_that_are_no_text),
        cmocka_unit_test(test_json_of_a_timeout),
        cmocka_unit_test(test_json_of_an_error),
        cmocka_unit_test(test_json_of_a_command_that_is_not_there),
        cmocka_unit_test(test_json_of_much_output_is_cut),
        cmocka_unit_test(test_snapshot_and_restore),
        cmocka_unit_test(test_snapshot_without_a_command),
        cmocka_unit_test(test_snapshot_never_overwrites),
        cmocka_unit_test(test_a_session_goes_on_in_another_process),
        cmocka_unit_test(test_json_of_a_restore),
        cmocka_unit_test(test_a_damaged_bundle_is_refused),
    };
    return cmocka_run_group_tests_name("kelpie run", tests, NULL, NULL);
}
