/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A shell at a terminal: it asks, does a line at a time, and outlives what the keyboard can say. */
#include <signal.h>

#include "backend/mock/mock_harness_test.h"

struct terminal {
    struct harness harness;
    uint64_t offset; /* of what was typed */
};

static struct terminal terminal_start(const char *const *argv) {
    struct terminal terminal = {.harness = harness_start()};
    harness_hello(terminal.harness.guest);
    harness_exec(terminal.harness.guest, 1, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, argv);
    harness_run(terminal.harness.guest, 10);
    return terminal;
}

static void type(struct terminal *terminal, const char *keys) {
    struct cursor_writer writer = harness_writer();
    const struct protocol_data data = {.stream = PROTOCOL_STDIN,
                                       .offset = terminal->offset,
                                       .bytes = (const uint8_t *)keys,
                                       .size = strlen(keys)};
    protocol_encode_data(&writer, 1, &data);
    harness_receive(terminal->harness.guest, writer.data, writer.size);
    terminal->offset += data.size;
    harness_run(terminal->harness.guest, 20);
}

static const struct mock_session *session_of(const struct terminal *terminal) {
    return terminal->harness.guest->sessions[0];
}

/* All that the terminal has shown. */
static void expect_screen(struct terminal *terminal, const char *expected) {
    char out[HARNESS_OUTPUT_SIZE];
    assert_string_equal(harness_output(terminal->harness.guest, 0, MOCK_OUT, out, sizeof(out)),
                        expected);
}

static void expect_end(struct terminal *terminal, uint32_t code) {
    assert_true(session_of(terminal)->ended);
    assert_int_equal(session_of(terminal)->end, PROTOCOL_END_EXITED);
    assert_int_equal(session_of(terminal)->end_value, code);
    harness_stop(&terminal->harness);
}

static void test_a_line_is_done_at_once(void **state) {
    (void)state;
    struct terminal terminal = terminal_start(ARGV("sh"));
    expect_screen(&terminal, "$ ");
    type(&terminal, "X=1; echo a");
    expect_screen(&terminal, "$ X=1; echo a"); /* it is not over */
    type(&terminal, "b\n");
    expect_screen(&terminal, "$ X=1; echo ab\r\nab\r\n$ ");
    type(&terminal, "\n");
    type(&terminal, "false\necho $X $?\n"); /* two at once, one after the other */
    expect_screen(&terminal, "$ X=1; echo ab\r\nab\r\n$ \r\n$ false\r\necho $X $?\r\n$ 1 1\r\n$ ");
    type(&terminal, "exit 3\n");
    expect_end(&terminal, 3);
}

static void test_the_end_of_input_ends_it(void **state) {
    (void)state;
    struct terminal terminal = terminal_start(ARGV("sh", "-l")); /* a login shell is one too */
    expect_screen(&terminal, "$ ");
    type(&terminal, "false\n");
    type(&terminal, "\x04");
    expect_end(&terminal, 1);
}

/* A line that was typed ahead is for whoever reads next, which is the command. */
static void test_a_line_ahead_is_the_commands(void **state) {
    (void)state;
    struct terminal terminal = terminal_start(ARGV("sh"));
    type(&terminal, "cat\nfor it\n\x04");
    expect_screen(&terminal, "$ cat\r\nfor it\r\nfor it\r\n$ ");
    harness_stop(&terminal.harness);
}

/* What ends a command at the keyboard does not end the shell; what is not ignored does. */
static void test_the_keyboard_does_not_kill_it(void **state) {
    (void)state;
    struct terminal terminal = terminal_start(ARGV("sh"));
    type(&terminal, "sleep 1000\n");
    type(&terminal, "\x03");
    assert_false(session_of(&terminal)->ended);
    type(&terminal, "echo $?\n");
    expect_screen(&terminal, "$ sleep 1000\r\n^C$ echo $?\r\n130\r\n$ ");
    type(&terminal, "\x03");
    type(&terminal, "\x1c");
    assert_false(session_of(&terminal)->ended);
    type(&terminal, "kill -9 $$\n");
    assert_true(session_of(&terminal)->ended);
    assert_int_equal(session_of(&terminal)->end_value, SIGKILL);
    harness_stop(&terminal.harness);
}

/* A script that a terminal runs is no interactive shell: nothing is asked, and the keyboard ends it. */
static void test_a_script_does_not_ask(void **state) {
    (void)state;
    struct terminal terminal = terminal_start(SHELL("echo a; sleep 1000"));
    expect_screen(&terminal, "a\r\n");
    type(&terminal, "\x03");
    assert_true(session_of(&terminal)->ended);
    assert_int_equal(session_of(&terminal)->end_value, SIGINT);
    harness_stop(&terminal.harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_done_at_once),
        cmocka_unit_test(test_a_line_ahead_is_the_commands),
        cmocka_unit_test(test_the_end_of_input_ends_it),
        cmocka_unit_test(test_the_keyboard_does_not_kill_it),
        cmocka_unit_test(test_a_script_does_not_ask),
    };
    return cmocka_run_group_tests_name("mock terminals", tests, NULL, NULL);
}
