/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* `kelpie run` on a terminal, on the mock backend: raw while the command runs, as it was afterwards. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>

#include <cmocka.h>

#include "../support/command.h"

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define RUN "kelpie", "run", "--backend", "mock"
#define SH(script) "--", "sh", "-c", script
#define SIZES "while true; do stty size; sleep 0.05; done"

static struct command *start_on_terminal(const char *const *argv) {
    return command_start(&(struct command_spec){.argv = argv, .on_terminal = true});
}

static bool is_cooked(struct command *command) {
    return (command_terminal_modes(command) & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG);
}

/* Ends it and looks at the terminal before and after. */
static void finish_cooked(struct command *command, int code) {
    struct command_result result = command_finish(command);
    if (result.code != code) {
        fail_msg("code %d, wanted %d; shown: %s", result.code, code, result.out);
    }
    assert_true(result.modes_checked);
    assert_int_equal(result.modes & (ICANON | ECHO | ISIG), ICANON | ECHO | ISIG);
    assert_string_equal(result.files_left, "");
    assert_int_equal(result.processes_left, 0);
    command_result_free(&result);
}

static void test_the_command_gets_a_terminal_of_our_size(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "-it", SH("tty; stty size")));
    assert_true(command_await(command, "/dev/pts"));
    assert_true(command_await(command, "24 80"));
    finish_cooked(command, 0);
}

static void test_the_terminal_is_raw_meanwhile(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "-it", SH("echo on; cat")));
    assert_true(command_await(command, "on"));
    assert_false(is_cooked(command));
    command_type(command, "typed\r");
    assert_true(command_await(command, "typed\r\ntyped"));
    command_type(command, "\x04"); /* Ctrl-D */
    finish_cooked(command, 0);
}

static void test_ctrl_c_is_the_commands(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "-it", SH("echo on; sleep 60")));
    assert_true(command_await(command, "on"));
    command_type(command, "\x03");
    finish_cooked(command, 128 + SIGINT);
}

static void test_resize_reaches_the_command(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "-it", SH(SIZES)));
    assert_true(command_await(command, "24 80"));
    command_resize(command, 33, 101);
    command_signal(command, SIGWINCH); /* the terminal itself tells only its foreground group */
    assert_true(command_await(command, "33 101"));
    command_type(command, "\x03");
    finish_cooked(command, 128 + SIGINT);
}

static void test_a_signal_restores_the_terminal(void **state) {
    (void)state;
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct command *command = start_on_terminal(WORDS(RUN, "-it", SH("echo on; sleep 60")));
        assert_true(command_await(command, "on"));
        command_signal(command, numbers[i]);
        finish_cooked(command, 128 + numbers[i]);
    }
}

static void test_a_failure_restores_the_terminal(void **state) {
    (void)state;
    finish_cooked(start_on_terminal(WORDS(RUN, "-it", "--", "nosuch")), 127);
    finish_cooked(start_on_terminal(WORDS(RUN, "-it", "--timeout", "100ms", "--", "sleep", "60")),
                  124);
}

static void test_a_terminal_sees_progress(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "--", "echo", "done"));
    assert_true(command_await(command, "kelpie: booting a VM ..."));
    assert_true(command_await(command, "\033[Kdone"));
    finish_cooked(command, 0);
}

/* Whatever the command shows, we show it in colour on a terminal alone, and not where NO_COLOR is set. */
static void test_progress_has_colour_unless_it_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *environment;
        bool coloured;
    } rows[] = {{"NO_COLOR=", true}, {"NO_COLOR=1", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct command_result result = command_run(&(struct command_spec){
            .argv = WORDS(RUN, "--", "true"),
            .on_terminal = true,
            .environment = rows[i].environment,
        });
        assert_int_equal(result.code, 0);
        assert_non_null(strstr(result.out, "kelpie: booting a VM ..."));
        assert_int_equal(strstr(result.out, "\033[2m") != NULL, rows[i].coloured);
        command_result_free(&result);
    }
}

static void test_json_shows_no_progress(void **state) {
    (void)state;
    struct command *command = start_on_terminal(WORDS(RUN, "--json", "--", "echo", "done"));
    struct command_result result = command_finish(command);
    assert_int_equal(result.code, 0);
    assert_true(command_matches(result.out, "^\\{.*\\}[\r\n]*$"));
    command_result_free(&result);
}

/* Each command that takes its time says on a terminal what it does, and leaves only what it prints there. */
static void test_what_takes_time_is_told_meanwhile(void **state) {
    (void)state;
    static const char script[] =
        "kelpie() { \"$KELPIE_PROGRAM\" \"$@\"; }; cd \"$TMPDIR\" && mkdir tree && "
        "kelpie create --backend mock --name web && kelpie start web && "
        "kelpie pause web && kelpie resume web && "
        "kelpie snapshot web point && kelpie restore point again && "
        "kelpie restart web && kelpie image build root --dir tree && "
        "kelpie stop web again && echo QUIET && "
        "kelpie start --json web && kelpie rm -f web again; rm -r tree";
    static const char *const told[] = {
        "creating a VM",         "starting web",    "pausing web",
        "resuming web",          "restoring point", "restarting web",
        "building root of tree", "stopping web",    "stopping again",
    };
    struct command_result result =
        command_run(&(struct command_spec){.argv = WORDS("sh", "-c", script), .on_terminal = true});
    if (result.code != 0) {
        fail_msg("code %d, shown: %s", result.code, result.out);
    }
    const char *at = result.out;
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        char line[128];
        snprintf(line, sizeof(line), "kelpie: %s ...", told[i]);
        at = strstr(at, line);
        if (!at || !(at = strstr(at, "\033[K"))) {
            fail_msg("%s is not told, or not taken away: %s", told[i], result.out);
        }
    }
    at = strstr(at, "QUIET");
    assert_non_null(at);
    assert_null(strstr(at, "kelpie: "));
    command_result_free(&result);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_command_gets_a_terminal_of_our_size),
        cmocka_unit_test(test_the_terminal_is_raw_meanwhile),
        cmocka_unit_test(test_ctrl_c_is_the_commands),
        cmocka_unit_test(test_resize_reaches_the_command),
        cmocka_unit_test(test_a_signal_restores_the_terminal),
        cmocka_unit_test(test_a_failure_restores_the_terminal),
        cmocka_unit_test(test_a_terminal_sees_progress),
        cmocka_unit_test(test_progress_has_colour_unless_it_is_refused),
        cmocka_unit_test(test_json_shows_no_progress),
        cmocka_unit_test(test_what_takes_time_is_told_meanwhile),
    };
    return cmocka_run_group_tests_name("kelpie run on a terminal", tests, NULL, NULL);
}
