/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* `kelpie exec` and `attach` from outside, on VMs of the mock backend that other processes own. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../support/command.h"
#include "base/assert.h"

#define EXEC "kelpie", "exec"
#define SH(script) "--", "sh", "-c", script
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define ONE_LINE "^kelpie: [^\n]*"
#define SLOW_COUNTER "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; done"

static const char *home(void) {
    static char path[COMMAND_PATH_SIZE];
    if (path[0] == 0) {
        command_scratch("home", path);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    return path;
}

static struct command_result run_words(const char *const *argv) {
    return command_run(&(struct command_spec){.argv = argv, .home = home()});
}

static struct command *start_words(const char *const *argv) {
    return command_start(&(struct command_spec){.argv = argv, .home = home()});
}

static void check(const char *const *argv, int code, const char *out, const char *err) {
    struct command_result result = run_words(argv);
    if (result.code != code || !command_matches(result.out, out) ||
        !command_matches(result.err, err)) {
        fail_msg("code %d, wanted %d; out: %s; err: %s", result.code, code, result.out, result.err);
    }
    assert_string_equal(result.files_left, "");
    command_result_free(&result);
}

static void finish_with(struct command *command, int code) {
    struct command_result result = command_finish(command);
    if (result.code != code) {
        fail_msg("code %d, wanted %d; err: %s", result.code, code, result.err);
    }
    command_result_free(&result);
}

/* ---- What comes back -------------------------------------------------------------------------- */

static void test_exit_codes(void **state) {
    (void)state;
    check(WORDS(EXEC, "box", "--", "echo", "x"), 0, "^x\n$", "^$");
    check(WORDS(EXEC, "box", "echo", "-n", "x"), 0, "^x$", "^$"); /* no -- */
    check(WORDS(EXEC, "box", SH("exit 7")), 7, "^$", "^$");
    check(WORDS(EXEC, "box", SH("kill -9 $$")), 137, "^$", "^$");
    check(WORDS(EXEC, "box", "--", "nosuch"), 127, "^$", ONE_LINE "nosuch[^\n]*\n$");
    check(WORDS(EXEC, "box", "--", "/tmp"), 126, "^$", ONE_LINE "/tmp[^\n]*\n$");
    check(WORDS(EXEC, "--timeout", "200ms", "box", SH("echo on; sleep 60")), 124, "^on\n$",
          ONE_LINE "200 ms[^\n]*\n$");
}

static void test_what_the_command_gets(void **state) {
    (void)state;
    check(WORDS(EXEC, "-e", "A=b c", "-w", "/tmp", "-u", "7:8", "box", SH("echo $A; pwd; id")), 0,
          "^b c\n/tmp\nuid=7 gid=8", "^$");
    check(WORDS(EXEC, "box", SH("echo out; echo err >&2")), 0, "^out\n$", "^err\n$");
}

static void test_mistakes(void **state) {
    (void)state;
    check(WORDS(EXEC), 125, "^$", ONE_LINE "no VM is named");
    check(WORDS(EXEC, "box"), 125, "^$", ONE_LINE "there is no command");
    check(WORDS(EXEC, "box", "-it", "sh"), 125, "^$", ONE_LINE "options stand before it");
    check(WORDS(EXEC, "nosuch", "ls"), 125, "^$", ONE_LINE "no VM nosuch\nhint: ");
    check(WORDS(EXEC, "-t", "box", "ls"), 125, "^$", ONE_LINE "--tty: .*terminal");
    check(WORDS(EXEC, "--detach-keys", "ctrl-?", "box", "ls"), 125, "^$",
          ONE_LINE "--detach-keys: \"ctrl-\\?\" is not keys");
    check(WORDS("kelpie", "shell", "box"), 125, "^$", ONE_LINE "--tty: .*terminal");
    check(WORDS("kelpie", "attach", "box", "x"), 125, "^$", ONE_LINE "\"x\" is not a session");
    check(WORDS("kelpie", "attach", "box", "12345"), 125, "^$", ONE_LINE "no session 12345");
    check(WORDS("kelpie", "attach", "box"), 125, "^$", ONE_LINE "no session in the VM box");
}

static void test_json(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS(EXEC, "--json", "box", SH("echo out; echo err >&2; exit 3")));
    assert_int_equal(result.code, 3);
    json_error_t error;
    json_t *object = json_loads(result.out, 0, &error);
    assert_non_null(object);
    const char *out = NULL;
    const char *err = NULL;
    json_int_t code = 0;
    json_int_t exec_id = 0;
    assert_int_equal(json_unpack(object, "{s:I, s:I, s:{s:s}, s:{s:s}, s:n}", "exit_code", &code,
                                 "exec_id", &exec_id, "stdout", "data", &out, "stderr", "data",
                                 &err, "error"),
                     0);
    assert_int_equal(code, 3);
    assert_true(exec_id > 0);
    assert_string_equal(out, "out\n");
    assert_string_equal(err, "err\n");
    json_decref(object);
    command_result_free(&result);
}

/* ---- Streams ---------------------------------------------------------------------------------- */

static void test_input_is_passed_on_byte_by_byte(void **state) {
    (void)state;
    size_t size = 3u << 20;
    char *input = malloc(size);
    assert_non_null(input);
    for (size_t i = 0; i < size; i++) {
        input[i] = (char)(i * 7 + i / 256);
    }
    struct command_result result =
        command_run(&(struct command_spec){.argv = WORDS(EXEC, "-i", "box", "--", "cat"),
                                           .home = home(),
                                           .input = input,
                                           .input_size = size});
    assert_int_equal(result.code, 0);
    assert_int_equal(result.out_size, size);
    assert_memory_equal(result.out, input, size);
    command_result_free(&result);
    free(input);
}

static void hazard_D3_an_open_stdin_is_not_awaited(void **state) {
    (void)state;
    static const char *const options[] = {"--json", "-i"};
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        struct command_result result = command_run(
            &(struct command_spec){.argv = WORDS(EXEC, options[i], "box", "--", "echo", "done"),
                                   .home = home(),
                                   .input = "x",
                                   .input_open = true});
        assert_int_equal(result.code, 0);
        assert_true(command_matches(result.out, "done"));
        assert_in_range(result.milliseconds, 0, 5000);
        command_result_free(&result);
    }
}

/* What a script reads next is not eaten by an exec in it. */
static void hazard_D3_without_i_our_stdin_is_left_alone(void **state) {
    (void)state;
    struct command_result result = command_run(&(struct command_spec){
        .argv = WORDS("sh", "-c", "\"$KELPIE_PROGRAM\" exec box -- sleep 0.2; cat"),
        .home = home(),
        .input = "left alone"});
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "left alone");
    command_result_free(&result);
}

/* Much output through little memory. */
static void test_much_output_in_little_memory(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    print_message("SKIPPED: a sanitizer's memory is not the command's\n");
    skip();
#endif
    struct command_result result =
        run_words(WORDS(EXEC, "box", "--", "dd", "if=/dev/zero", "bs=65536", "count=768"));
    assert_int_equal(result.code, 0);
    assert_int_equal(result.out_size, 65536 * 768);
    command_result_free(&result);
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
    assert_in_range(usage.ru_maxrss, 0, 32 << 10); /* KiB, of the largest child */
}

static void test_a_reader_that_goes_away_kills_the_command(void **state) {
    (void)state;
    struct command *command = start_words(WORDS(EXEC, "box", "--", "yes"));
    assert_true(command_await(command, "y\ny\n"));
    command_close_output(command);
    struct command_result result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGPIPE);
    assert_string_equal(result.err, "");
    command_result_free(&result);
    check(WORDS("kelpie", "attach", "box"), 125, "^$", ONE_LINE "no session in the VM box");
}

/* ---- Signals ---------------------------------------------------------------------------------- */

static void test_signals_are_the_commands(void **state) {
    (void)state;
    struct command *command = start_words(WORDS(EXEC, "box", SH("echo on; sleep 60")));
    assert_true(command_await(command, "on\n"));
    command_signal(command, SIGTERM);
    finish_with(command, 128 + SIGTERM);

    command = start_words(WORDS(EXEC, "box", SH("trap '' INT; echo on; " SLOW_COUNTER)));
    assert_true(command_await(command, "on\n"));
    command_signal(command, SIGINT);
    assert_true(command_await(command, "5\n"));
    command_signal(command, SIGINT);
    finish_with(command, 128 + SIGKILL);
}

/* The owner stands still, so that nobody answers. */
static void test_the_second_signal_ends_at_once_when_nobody_answers(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS("kelpie", "inspect", "box"));
    json_error_t error;
    json_t *list = json_loads(result.out, 0, &error);
    assert_non_null(list);
    pid_t owner = (pid_t)json_integer_value(json_object_get(json_array_get(list, 0), "owner_pid"));
    json_decref(list);
    command_result_free(&result);
    assert_true(owner > 1);
    assert_int_equal(kill(owner, SIGSTOP), 0);
    struct command *command = start_words(WORDS(EXEC, "box", "--", "true"));
    bool ended_early = command_await_end(command, 500);
    command_signal(command, SIGINT);
    ended_early |= command_await_end(command, 200);
    command_signal(command, SIGINT);
    bool ended = command_await_end(command, 2000);
    assert_int_equal(kill(owner, SIGCONT), 0);
    assert_false(ended_early);
    assert_true(ended);
    finish_with(command, 128 + SIGINT);
    check(WORDS(EXEC, "box", "--", "echo", "well"), 0, "^well\n$", "^$");
}

static void test_ctrl_c_during_a_detached_boot_leaves_nothing(void **state) {
    (void)state;
    struct command *command = start_words(
        WORDS("kelpie", "run", "-d", "--name", "early", "--backend", "qemu", "--", "sleep", "60"));
    struct command_result result = {.code = 1};
    for (int i = 0; i < 200 && result.code != 0; i++) {
        command_result_free(&result);
        result = run_words(WORDS("kelpie", "inspect", "early"));
    }
    assert_true(command_matches(result.out, "\"state\":\"(created|starting)\""));
    command_result_free(&result);
    command_signal(command, SIGINT);
    assert_true(command_await_end(command, 5000));
    finish_with(command, 128 + SIGINT);
    check(WORDS("kelpie", "ls", "-a"), 0, "^NAME[^\n]*\nbox[^\n]*\n$", "^$");
}

/* What cannot be read, as on a bad sector: a folder is where the record was. */
static void test_an_unreadable_record_hides_no_other_vm(void **state) {
    char path[2 * COMMAND_PATH_SIZE];
    (void)state;
    snprintf(path, sizeof(path), "%s/kelpie/vms/lost", home());
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/kelpie/vms/lost/record.json", home());
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/kelpie/vms/lost/lock", home());
    int lock = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(lock >= 0);
    close(lock);
    check(WORDS("kelpie", "ls"), 0, "\nlost +unreadable +- +- +- +- +-\n",
          "^hint: lost: .*record.*'kelpie rm -f lost'[^\n]*\n$");
    check(WORDS("kelpie", "ls", "-q"), 0, "(^|\n)box\n", "^$");
    check(WORDS("kelpie", "ls", "--format", "{name} {status}"), 0, "(^|\n)lost internal\n", "^$");
    check(WORDS("kelpie", "rm", "-f", "lost"), 0, "^", "^");
    check(WORDS("kelpie", "ls", "-a"), 0, "^NAME[^\n]*\nbox[^\n]*\n$", "^$");
}

/* ---- Sessions --------------------------------------------------------------------------------- */

static void test_a_detached_session_is_taken_up(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS(EXEC, "-d", "box", SH("echo kept; exit 5")));
    assert_int_equal(result.code, 0);
    assert_true(command_matches(result.out, "^[1-9][0-9]*\n$"));
    char id[32];
    snprintf(id, sizeof(id), "%.*s", (int)strcspn(result.out, "\n"), result.out);
    command_result_free(&result);
    check(WORDS("kelpie", "attach", "box", id), 5, "^kept\n$", "^$");
    check(WORDS("kelpie", "attach", "box", id), 125, "^$", ONE_LINE "no session");
}

/* Where the line of `number` begins in COUNTER's output, in bytes. */
static size_t counter_offset(long number) {
    size_t offset = 0;
    for (long line = 1; line < number; line++) {
        offset += (size_t)snprintf(NULL, 0, "%ld\n", line);
    }
    return offset;
}

/* `out` is a piece of COUNTER's output, cut anywhere at both ends. Returns where in that output it begins. */
static size_t check_counting(const char *out) {
    const char *line = strchr(out, '\n');
    assert_non_null(line);
    line++;
    long number = strtol(line, NULL, 10);
    char before[32];
    int size = snprintf(before, sizeof(before), "%ld\n", number - 1);
    size_t head = (size_t)(line - out);
    if (number > 1) {
        assert_true(head <= (size_t)size);
        assert_memory_equal(out, before + (size_t)size - head, head);
    }
    size_t start = counter_offset(number) - head;
    for (const char *end = strchr(line, '\n'); end; end = strchr(line, '\n')) {
        assert_int_equal(strtol(line, NULL, 10), number);
        number++;
        line = end + 1;
    }
    return start;
}

static void test_a_killed_client_leaves_its_session(void **state) {
    (void)state;
    struct command *command = start_words(WORDS(EXEC, "box", SH(COUNTER)));
    assert_true(command_await(command, "\n50000\n"));
    command_signal(command, SIGKILL);
    struct command_result result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGKILL);
    assert_int_equal(check_counting(result.out), 0);
    /* What was read and not yet acknowledged comes again; nothing is missing. */
    size_t read = strlen(result.out);
    command_result_free(&result);

    command = start_words(WORDS("kelpie", "attach", "--no-signals", "box"));
    assert_true(command_await(command, "0000\n"));
    command_signal(command, SIGINT);
    result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGINT);
    size_t start = check_counting(result.out);
    assert_true(start <= read);
    read = start + strlen(result.out);
    command_result_free(&result);

    /* Told to end, it let go at a chunk: the next byte is the next. */
    command = start_words(WORDS("kelpie", "attach", "box"));
    assert_true(command_await(command, "0000\n"));
    command_signal(command, SIGINT);
    result = command_finish(command);
    assert_int_equal(result.code, 128 + SIGINT);
    assert_int_equal(check_counting(result.out), read);
    command_result_free(&result);
    check(WORDS("kelpie", "attach", "box"), 125, "^$", ONE_LINE "no session in the VM box");
}

static void test_several_sessions_are_listed(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        check(WORDS(EXEC, "-d", "box", "--", "sleep", "2"), 0, "^[1-9][0-9]*\n$", "^$");
    }
    struct command_result result = run_words(WORDS("kelpie", "attach", "box"));
    assert_int_equal(result.code, 125);
    assert_true(
        command_matches(result.err, ONE_LINE "has 2 sessions, [0-9]+, [0-9]+: say which\n$"));
    unsigned ids[2];
    assert_int_equal(sscanf(strstr(result.err, "sessions, "), "sessions, %u, %u", &ids[0], &ids[1]),
                     2);
    command_result_free(&result);
    for (int i = 0; i < 2; i++) {
        char id[16];
        snprintf(id, sizeof(id), "%u", ids[i]);
        check(WORDS("kelpie", "attach", "box", id), 0, "^$", "^$");
    }
}

static void hazard_E3_a_session_has_one_reader(void **state) {
    (void)state;
    struct command *command = start_words(WORDS(EXEC, "box", SH("echo on; sleep 60")));
    assert_true(command_await(command, "on\n"));
    check(WORDS("kelpie", "attach", "box"), 125, "^$", ONE_LINE "[0-9]");
    command_signal(command, SIGTERM);
    finish_with(command, 128 + SIGTERM);
}

/* ---- run --detach ----------------------------------------------------------------------------- */

static void test_run_detached_goes_on_and_ends(void **state) {
    (void)state;
    check(WORDS("kelpie", "run", "-d", "--rm", "--name", "job", "--backend", "mock",
                SH("sleep 2; echo done; exit 6")),
          0, "^job\n$", "^$");
    check(WORDS(EXEC, "job", "--", "hostname"), 0, "^job\n$", "^$");
    check(WORDS("kelpie", "attach", "job"), 6, "^done\n$", "^$");
    /* --rm: the owner removes it when it has ended. */
    struct command_result result = {.code = 0};
    for (int i = 0; i < 100 && !command_matches(result.err ? result.err : "", "no VM"); i++) {
        command_result_free(&result);
        result = run_words(WORDS(EXEC, "job", "--", "true"));
    }
    assert_true(command_matches(result.err, ONE_LINE "no VM job\nhint: "));
    command_result_free(&result);
}

/* The VM ends with its command, but not before who is attached has read all that it said, however slowly. */
static void test_run_detached_waits_for_its_reader(void **state) {
    (void)state;
    check(WORDS("kelpie", "run", "-d", "--rm", "--name", "job", "--backend", "mock",
                SH("sleep 2; seq 100001 160000; exit 6")),
          0, "^job\n$", "^$");
    check(WORDS("/bin/sh", "-c",
                "(\"$KELPIE_PROGRAM\" attach job; echo $?) | (sleep 3; cat) |"
                " awk 'NF { count++; last = $1 } END { print count, last }'"),
          0, "^60001 6\n$", "^$");
    /* Nor before who was stopped just then has heard how it ended. */
    check(WORDS("kelpie", "run", "-d", "--rm", "--name", "job", "--backend", "mock",
                SH("sleep 2; exit 6")),
          0, "^job\n$", "^$");
    check(WORDS("/bin/sh", "-c",
                "\"$KELPIE_PROGRAM\" attach job & sleep 1; kill -STOP $!; sleep 2; kill -CONT $!; "
                "wait $!"),
          6, "^$", "^$");
}

static void test_run_detached_that_cannot_start_leaves_nothing(void **state) {
    (void)state;
    check(WORDS("kelpie", "run", "-d", "--name", "bad", "--backend", "mock", "--", "nosuch"), 127,
          "^$", ONE_LINE "nosuch[^\n]*\n$");
    check(WORDS(EXEC, "bad", "--", "true"), 125, "^$", ONE_LINE "no VM bad\nhint: ");
}

static void test_run_detached_as_json(void **state) {
    (void)state;
    check(WORDS("kelpie", "run", "-d", "--rm", "--json", "--name", "told", "--backend", "mock",
                "--label", "a=b", "--", "sleep", "0.1"),
          0,
          "^\\{\"id\":\"[0-9a-f]{32}\",\"name\":\"told\",\"backend\":\"mock\",\"exec_id\":[0-9]+\\}"
          "\n$",
          "^$");
}

static int start_box(void **state) {
    (void)state;
    struct command_result result =
        run_words(WORDS("kelpie", "run", "-d", "--name", "box", "--backend", "mock"));
    int code = result.code;
    if (code != 0) {
        fprintf(stderr, "%s", result.err);
    }
    command_result_free(&result);
    return code;
}

static int end_box(void **state) {
    (void)state;
    struct command_result result = run_words(WORDS("kelpie", "rm", "-f", "box"));
    int code = result.code;
    command_result_free(&result);
    while (waitpid(-1, NULL, 0) > 0) { /* owners became our children, and end with their VMs */
    }
    return code;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_what_the_command_gets),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_input_is_passed_on_byte_by_byte),
        cmocka_unit_test(hazard_D3_an_open_stdin_is_not_awaited),
        cmocka_unit_test(hazard_D3_without_i_our_stdin_is_left_alone),
        cmocka_unit_test(test_much_output_in_little_memory),
        cmocka_unit_test(test_a_reader_that_goes_away_kills_the_command),
        cmocka_unit_test(test_signals_are_the_commands),
        cmocka_unit_test(test_the_second_signal_ends_at_once_when_nobody_answers),
        cmocka_unit_test(test_ctrl_c_during_a_detached_boot_leaves_nothing),
        cmocka_unit_test(test_an_unreadable_record_hides_no_other_vm),
        cmocka_unit_test(test_a_detached_session_is_taken_up),
        cmocka_unit_test(test_a_killed_client_leaves_its_session),
        cmocka_unit_test(test_several_sessions_are_listed),
        cmocka_unit_test(hazard_E3_a_session_has_one_reader),
        cmocka_unit_test(test_run_detached_goes_on_and_ends),
        cmocka_unit_test(test_run_detached_waits_for_its_reader),
        cmocka_unit_test(test_run_detached_that_cannot_start_leaves_nothing),
        cmocka_unit_test(test_run_detached_as_json),
    };
    return cmocka_run_group_tests_name("kelpie exec", tests, start_box, end_box);
}
