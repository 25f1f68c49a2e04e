/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Commands that run to their end, and what they were given. The cases share a VM. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

#define MIB ((size_t)1 << 20)

static struct kelpie_output run(const struct kelpie_command *command) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    OK(kelpie_vm_exec(suite()->vm, command, &output, &err));
    return output;
}

static void test_exit_codes(void **state) {
    (void)state;
    expect_shell(suite()->vm, "exit 0", 0, "");
    expect_shell(suite()->vm, "exit 7", 7, "");
    expect_shell(suite()->vm, "exit 255", 255, "");
    expect_shell(suite()->vm, "false || true && echo both", 0, "both\n");
    struct kelpie_output output = run(&(struct kelpie_command){.argv = ARGV("false")});
    assert_int_equal(output.exit.code, 1);
    assert_int_equal(output.exit.signal, 0);
    assert_false(output.exit.timed_out);
    assert_int_equal(output.stdout_size, 0);
    assert_true(output.duration_ns > 0);
    kelpie_output_free(&output);
}

static void expect_failure(const struct kelpie_command *command, int os_error) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    FAILS(kelpie_vm_exec(suite()->vm, command, &output, &err), KELPIE_EXEC_FAILED);
    assert_int_equal(err.os_error, os_error);
    assert_null(output.stdout_data);
}

static void test_commands_that_cannot_be_run(void **state) {
    (void)state;
    expect_failure(&(struct kelpie_command){.argv = ARGV("no-such-command")}, ENOENT);
    expect_failure(&(struct kelpie_command){.argv = ARGV("/no/such/command")}, ENOENT);
    expect_failure(&(struct kelpie_command){.argv = ARGV("/etc/hostname")}, EACCES);
    expect_failure(&(struct kelpie_command){.argv = ARGV("true"), .working_dir = "/no/such"},
                   ENOENT);
    expect_shell(suite()->vm, "no-such-command", 127, "");
    expect_shell(suite()->vm, "/etc/hostname", 126, "");
}

static void test_stdout_and_stderr_are_apart(void **state) {
    (void)state;
    struct kelpie_output output =
        run(&(struct kelpie_command){.argv = SHELL("echo out; echo err >&2; echo out2")});
    assert_string_equal(output.stdout_data, "out\nout2\n");
    assert_string_equal(output.stderr_data, "err\n");
    assert_int_equal(output.exit.stdout_bytes, 9);
    assert_int_equal(output.exit.stderr_bytes, 4);
    kelpie_output_free(&output);
}

static void test_env_and_working_dir(void **state) {
    (void)state;
    struct kelpie_output output = run(&(struct kelpie_command){
        .argv = SHELL("echo \"$FIRST-$SECOND\"; pwd"),
        .env = ARGV("FIRST=a b", "SECOND=$x'\""),
        .working_dir = "/tmp",
    });
    assert_string_equal(output.stdout_data, "a b-$x'\"\n/tmp\n");
    kelpie_output_free(&output);
    expect_shell(suite()->vm, "pwd", 0, "/\n");
}

static void test_uid_and_gid(void **state) {
    (void)state;
    struct kelpie_output output =
        run(&(struct kelpie_command){.argv = SHELL("id -u; id -g"), .uid = 1234, .gid = 5678});
    assert_string_equal(output.stdout_data, "1234\n5678\n");
    kelpie_output_free(&output);
    expect_shell(suite()->vm, "id -u", 0, "0\n");
}

static void test_rlimits(void **state) {
    (void)state;
    const struct kelpie_rlimit files = {.resource = 7, .soft = 77, .hard = 99};
    struct kelpie_output output = run(
        &(struct kelpie_command){.argv = SHELL("ulimit -n"), .rlimits = &files, .rlimit_count = 1});
    assert_string_equal(output.stdout_data, "77\n");
    kelpie_output_free(&output);
}

/* ---- Standard input --------------------------------------------------------------------------- */

static void test_stdin_reaches_the_command(void **state) {
    (void)state;
    struct kelpie_output output =
        run(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_data = "in\n", .stdin_size = 3});
    assert_string_equal(output.stdout_data, "in\n");
    kelpie_output_free(&output);
    output = run(&(struct kelpie_command){.argv = ARGV("cat")}); /* none: it ends at once */
    assert_int_equal(output.stdout_size, 0);
    kelpie_output_free(&output);
}

static void test_every_byte_value_both_ways(void **state) {
    (void)state;
    uint8_t *data = malloc(MIB);
    assert_non_null(data);
    pattern_fill(data, MIB, 1);
    for (size_t i = 0; i < 256; i++) {
        data[i] = (uint8_t)i;
    }
    struct kelpie_output output =
        run(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_data = data, .stdin_size = MIB});
    assert_int_equal(output.stdout_size, MIB);
    assert_int_equal(memcmp(output.stdout_data, data, MIB), 0);
    assert_false(output.stdout_truncated);
    kelpie_output_free(&output);
    free(data);
}

static void test_hazard_D3_stdin_that_nobody_reads(void **state) {
    (void)state;
    uint8_t *data = calloc(1, MIB);
    assert_non_null(data);
    struct kelpie_output output = run(&(struct kelpie_command){
        .argv = SHELL("echo done"), .stdin_data = data, .stdin_size = MIB});
    assert_string_equal(output.stdout_data, "done\n");
    kelpie_output_free(&output);
    free(data);
}

/* ---- Limits ----------------------------------------------------------------------------------- */

static void test_output_is_cut_at_its_limit(void **state) {
    (void)state;
    struct kelpie_output output = run(&(struct kelpie_command){
        .argv = SHELL("head -c 300000 /dev/zero; echo error >&2"), .output_bytes_max = 1000});
    assert_int_equal(output.stdout_size, 1000);
    assert_true(output.stdout_truncated);
    assert_false(output.stderr_truncated);
    assert_string_equal(output.stderr_data, "error\n");
    assert_int_equal(output.exit.stdout_bytes, 300000);
    kelpie_output_free(&output);
    output = run(&(struct kelpie_command){.argv = SHELL("echo -n 1234"), .output_bytes_max = 4});
    assert_int_equal(output.stdout_size, 4);
    assert_false(output.stdout_truncated);
    kelpie_output_free(&output);
}

#define ARGUMENT_COUNT 1024
#define ARGUMENT_SIZE 127

static void test_hazard_D2_arguments_up_to_the_limit(void **state) {
    (void)state;
    static char texts[ARGUMENT_COUNT][ARGUMENT_SIZE + 1];
    static const char *argv[ARGUMENT_COUNT + 2];
    argv[0] = "echo";
    for (size_t i = 0; i < ARGUMENT_COUNT; i++) {
        memset(texts[i], 'a' + (int)(i % 26), ARGUMENT_SIZE);
        argv[i + 1] = texts[i];
    }
    struct kelpie_output output = run(&(struct kelpie_command){.argv = argv});
    assert_int_equal(output.stdout_size, ARGUMENT_COUNT * (ARGUMENT_SIZE + 1));
    assert_memory_equal(output.stdout_data + ARGUMENT_SIZE + 1, texts[1], ARGUMENT_SIZE);
    kelpie_output_free(&output);
}

static void test_hazard_D2_arguments_over_the_limit(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    static char huge[KELPIE_COMMAND_BYTES_MAX + 1];
    memset(huge, 'x', KELPIE_COMMAND_BYTES_MAX);
    FAILS(kelpie_vm_exec(suite()->vm, &(struct kelpie_command){.argv = ARGV("echo", huge)}, &output,
                         &err),
          KELPIE_BAD_CONFIG);
    huge[200000] = '\0'; /* within our limit, and more than Linux takes in one argument */
    expect_failure(&(struct kelpie_command){.argv = ARGV("echo", huge)}, E2BIG);
    expect_shell(suite()->vm, "echo alive", 0, "alive\n");
    FAILS(kelpie_vm_exec(suite()->vm, &(struct kelpie_command){.argv = (const char *const[]){NULL}},
                         &output, &err),
          KELPIE_BAD_CONFIG);
}

static void expect_timeout(const char *line) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    FAILS(kelpie_vm_exec(suite()->vm,
                         &(struct kelpie_command){.argv = SHELL(line), .timeout_ms = 300}, &output,
                         &err),
          KELPIE_EXEC_TIMED_OUT);
    assert_null(output.stdout_data);
}

static void test_timeouts(void **state) {
    (void)state;
    expect_timeout("sleep 1000");
    expect_timeout("trap '' TERM INT HUP; sleep 1000; sleep 1000");
    expect_timeout("sleep 1000 & sleep 1000");
    expect_timeout("while true; do true; done");
    expect_shell(suite()->vm, "echo alive", 0, "alive\n");
}

static void test_hazard_D3_grandchild_that_keeps_the_pipe(void **state) {
    (void)state;
    struct kelpie_output output = run(&(struct kelpie_command){
        .argv = SHELL("sleep 1000 & echo started"), .timeout_ms = WAIT_MS});
    assert_string_equal(output.stdout_data, "started\n");
    assert_int_equal(output.exit.code, 0);
    assert_true(output.duration_ns < (uint64_t)WAIT_MS / 2 * 1000000);
    kelpie_output_free(&output);
}

static void test_death_by_signal(void **state) {
    (void)state;
    struct kelpie_output output = run(&(struct kelpie_command){.argv = SHELL("kill -TERM $$")});
    assert_int_equal(output.exit.signal, 15);
    assert_int_equal(output.exit.code, 143);
    kelpie_output_free(&output);
    output = run(&(struct kelpie_command){.argv = SHELL("kill -KILL $$")});
    assert_int_equal(output.exit.signal, 9);
    assert_int_equal(output.exit.code, 137);
    kelpie_output_free(&output);
    expect_shell(suite()->vm, "sh -c 'kill -TERM $$'; echo $?", 0, "143\n");
}

static void test_ping(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    uint64_t ns = 0;
    OK(kelpie_vm_ping(suite()->vm, &ns, &err));
    assert_true(ns > 0);
}

static void test_injected_failure(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    if (strcmp(suite()->backend, "mock") != 0) {
        FAILS(kelpie_mock_fail(suite()->vm, KELPIE_MOCK_EXEC, 1, &err), KELPIE_UNSUPPORTED);
        FAILS(kelpie_mock_crash(suite()->vm, &err), KELPIE_UNSUPPORTED);
        return;
    }
    struct kelpie_output output = {0};
    OK(kelpie_mock_fail(suite()->vm, KELPIE_MOCK_EXEC, 1, &err));
    FAILS(
        kelpie_vm_exec(suite()->vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, &err),
        KELPIE_EXEC_FAILED);
    expect_shell(suite()->vm, "true", 0, "");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_exit_codes),
    cmocka_unit_test(test_commands_that_cannot_be_run),
    cmocka_unit_test(test_stdout_and_stderr_are_apart),
    cmocka_unit_test(test_env_and_working_dir),
    cmocka_unit_test(test_uid_and_gid),
    cmocka_unit_test(test_rlimits),
    cmocka_unit_test(test_stdin_reaches_the_command),
    cmocka_unit_test(test_every_byte_value_both_ways),
    cmocka_unit_test(test_hazard_D3_stdin_that_nobody_reads),
    cmocka_unit_test(test_output_is_cut_at_its_limit),
    cmocka_unit_test(test_hazard_D2_arguments_up_to_the_limit),
    cmocka_unit_test(test_hazard_D2_arguments_over_the_limit),
    cmocka_unit_test(test_timeouts),
    cmocka_unit_test(test_hazard_D3_grandchild_that_keeps_the_pipe),
    cmocka_unit_test(test_death_by_signal),
    cmocka_unit_test(test_ping),
    cmocka_unit_test(test_injected_failure),
};
const struct group group_exec = {
    .name = "exec", .tests = tests, .count = sizeof(tests) / sizeof(tests[0]), .has_vm = 1};
