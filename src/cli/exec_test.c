/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * exec, shell and attach: a child has a VM with an owner, each talk of it a handle of its own as another process would, and the
 * terminal's lower end; we type and look on at the other end.
 */
#include "cli/exec.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "support/owner_vm.h"

#define SHOWN_SIZE_MAX (1u << 20)
#define AWAIT_MS_MAX 10000
#define SCENARIO_OVER 42 /* the child's exit code when its assertions held */

/* Counts up from 1, a line each, as fast as somebody reads. */
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; done"

struct fixture {
    pid_t pid;
    int fd; /* our end of the terminal */
    char *shown;
    size_t shown_size;
    char terminal[64];
};

/* ---- The child's side --------------------------------------------------------------------------- */

static void start_vm(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm =
        owner_vm_create(&(struct kelpie_config){.backend = "mock", .name = "box"}, &err);
    if (!vm || kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fprintf(stderr, "%s\n", err.message);
        _exit(1);
    }
    kelpie_vm_close(vm);
}

static struct kelpie_vm *open_vm(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = owner_vm_open("box", &err);
    ASSERT(vm);
    return vm;
}

static struct exec *make_exec(exec_open *open, const char *const *command, bool tty) {
    struct exec *exec = calloc(1, sizeof(*exec));
    ASSERT(exec);
    exec->open = open;
    exec->options.vm = "box";
    exec->options.command = command;
    exec->options.tty = tty;
    exec->options.interactive = tty;
    exec->options.detach_keys = detach_keys_default();
    return exec;
}

/* Says how it went, as "<CODE 7>", and for a session that was let go of "<LEFT>". */
static uint32_t talk_and_tell(struct exec *exec) {
    struct kelpie_vm *vm = open_vm();
    exec_perform(exec, vm);
    kelpie_vm_close(vm);
    uint32_t id = exec->exec_id;
    if (exec->talk.outcome.err.status != KELPIE_OK) {
        printf("<ERROR %s>", exec->talk.outcome.err.message);
    }
    printf(exec->talk.outcome.let_go ? "<LEFT %d>\n" : "<CODE %d>\n",
           outcome_exit_code(&exec->talk.outcome));
    fflush(stdout);
    outcome_deinit(&exec->talk.outcome);
    free(exec);
    return id;
}

#define SH(script) ((const char *const[]){"sh", "-c", script, NULL})

static void let_go_and_attach(void) {
    uint32_t id = talk_and_tell(make_exec(exec_open_command, SH(COUNTER), true));
    struct exec *again = make_exec(exec_open_session, NULL, false);
    again->options.exec_id = id;
    talk_and_tell(again);
    talk_and_tell(make_exec(exec_open_session, NULL, false)); /* the only one */
}

static void shell(void) {
    talk_and_tell(make_exec(exec_open_shell, NULL, true));
}

static void hang_up(void) {
    uint32_t id = talk_and_tell(make_exec(exec_open_command, SH("sleep 1; exit 5"), true));
    /* The end of the terminal's input may have been heard before the signal. */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigtimedwait(&set, NULL, &(struct timespec){.tv_nsec = 100000000});
    struct exec *again = make_exec(exec_open_session, NULL, false);
    again->options.exec_id = id;
    exec_perform(again, open_vm()); /* without a terminal: it is gone */
    _exit(again->talk.outcome.exit.code == 5 ? SCENARIO_OVER : 1);
}

static void several_sessions(void) {
    for (int i = 0; i < 3; i++) {
        struct exec *exec = make_exec(exec_open_command, SH("sleep 60"), false);
        exec->options.detach = true;
        talk_and_tell(exec);
    }
    talk_and_tell(make_exec(exec_open_session, NULL, false));
    struct exec *named = make_exec(exec_open_session, NULL, false);
    named->options.exec_id = 77;
    talk_and_tell(named);
}

static void no_terminal_in_the_guest(void) {
    struct exec *exec = make_exec(exec_open_command, SH("trap '' INT; echo on; " COUNTER), false);
    exec->options.detach = true;
    talk_and_tell(exec);
    struct exec *attached = make_exec(exec_open_session, NULL, false);
    attached->options.no_signals = true;
    talk_and_tell(attached);
    size_t count = 0;
    struct kelpie_error err;
    if (kelpie_exec_list(owner_vm_served("box"), NULL, 0, &count, &err) == KELPIE_OK) {
        printf("<SESSIONS %zu>\n", count);
        fflush(stdout);
    }
}

/* ---- Our side ----------------------------------------------------------------------------------- */

static void run_child(const char *terminal, void (*scenario)(void)) {
    setsid();
    int fd = open(terminal, O_RDWR);
    if (fd < 0) {
        _exit(1);
    }
    for (int i = 0; i < 3; i++) {
        dup2(fd, i);
    }
    setenv("TERM", "dumb", 1); /* no progress */
    start_vm();
    scenario();
    owner_vm_forget();
    _exit(SCENARIO_OVER);
}

static struct fixture start(void (*scenario)(void)) {
    struct fixture fixture = {.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    assert_true(fixture.fd >= 0);
    assert_int_equal(grantpt(fixture.fd), 0);
    assert_int_equal(unlockpt(fixture.fd), 0);
    assert_int_equal(ptsname_r(fixture.fd, fixture.terminal, sizeof(fixture.terminal)), 0);
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    assert_int_equal(ioctl(fixture.fd, TIOCSWINSZ, &size), 0);
    fixture.shown = calloc(1, SHOWN_SIZE_MAX + 1);
    assert_non_null(fixture.shown);
    fixture.pid = fork();
    assert_true(fixture.pid >= 0);
    if (fixture.pid == 0) {
        close(fixture.fd);
        run_child(fixture.terminal, scenario);
    }
    return fixture;
}

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* Reads for a moment. False: the other end is closed. */
static bool look(struct fixture *fixture) {
    struct pollfd item = {.fd = fixture->fd, .events = POLLIN};
    if (poll(&item, 1, 20) <= 0) {
        return true;
    }
    size_t room = SHOWN_SIZE_MAX - fixture->shown_size;
    ssize_t count = read(fixture->fd, fixture->shown + fixture->shown_size, room);
    if (count <= 0) {
        return false;
    }
    fixture->shown_size += (size_t)count;
    return true;
}

/* Waits until `text` is shown at or behind `from`; where it ends. */
static size_t await(struct fixture *fixture, size_t from, const char *text) {
    long long deadline_ms = now_ms() + AWAIT_MS_MAX;
    for (;;) {
        const char *found =
            memmem(fixture->shown + from, fixture->shown_size - from, text, strlen(text));
        if (found) {
            return (size_t)(found - fixture->shown) + strlen(text);
        }
        if (now_ms() > deadline_ms || !look(fixture)) {
            fail_msg("\"%s\" was not shown: %s", text, fixture->shown + from);
        }
    }
}

static void type(struct fixture *fixture, const char *keys) {
    assert_int_equal(write(fixture->fd, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static void finish(struct fixture *fixture) {
    long long deadline_ms = now_ms() + AWAIT_MS_MAX;
    int status = 0;
    while (waitpid(fixture->pid, &status, WNOHANG) == 0) {
        if (now_ms() > deadline_ms) {
            kill(fixture->pid, SIGKILL);
        }
        if (fixture->fd >= 0) {
            look(fixture);
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != SCENARIO_OVER) {
        fail_msg("status %#x; shown: %s", status, fixture->shown);
    }
    if (fixture->fd >= 0) {
        close(fixture->fd);
    }
    free(fixture->shown);
}

/* The numbers that were shown follow one another, from wherever, over what we say ourselves. */
static void check_counting(const char *shown) {
    long last = 0;
    for (const char *line = shown; *line; line += strcspn(line, "\n") + 1) {
        char *end = NULL;
        long number = strtol(line, &end, 10);
        /* Only whole lines of digits: the last may be cut by what we printed. */
        if (end != line && *end == '\r') {
            assert_int_equal(number, last + 1);
            last = number;
        }
        if (!strchr(line, '\n')) {
            break;
        }
    }
    assert_true(last > 100);
}

static void test_no_byte_is_lost_or_doubled_over_detach_keys(void **state) {
    (void)state;
    struct fixture fixture = start(let_go_and_attach);
    size_t at = await(&fixture, 0, "\n200\r");
    type(&fixture, "\x10\x11");
    at = await(&fixture, at, "<LEFT 0>");
    at = await(&fixture, at, "00\r");
    type(&fixture, "\x10"); /* half of it, and then the rest */
    at = await(&fixture, at, "00\r");
    type(&fixture, "\x11");
    at = await(&fixture, at, "<LEFT 0>");
    await(&fixture, at, "00\r");
    type(&fixture, "\x03");
    await(&fixture, at, "<CODE 130>");
    /* What we printed in between is taken out: a line may be cut there, and goes on behind it. */
    for (char *mark = strstr(fixture.shown, "<LEFT"); mark; mark = strstr(mark, "<LEFT")) {
        char *behind = strchr(mark, '\n') + 1;
        memmove(mark, behind, strlen(behind) + 1);
    }
    check_counting(fixture.shown);
    finish(&fixture);
}

static void test_a_shell_is_talked_to(void **state) {
    (void)state;
    struct fixture fixture = start(shell);
    size_t at = await(&fixture, 0, "$ ");
    type(&fixture, "echo $TERM-$((6*7))\r");
    at = await(&fixture, at, "dumb-42\r\n$ ");
    type(&fixture, "sleep 60\r");
    at = await(&fixture, at, "sleep 60\r\n");
    type(&fixture, "\x03");
    at = await(&fixture, at, "$ ");
    struct winsize size = {.ws_row = 33, .ws_col = 101};
    assert_int_equal(ioctl(fixture.fd, TIOCSWINSZ, &size), 0);
    kill(fixture.pid, SIGWINCH);
    type(&fixture, "sleep 0.2; stty size\r");
    at = await(&fixture, at, "33 101\r\n");
    type(&fixture, "exit 7\r");
    await(&fixture, at, "<CODE 7>");
    finish(&fixture);
}

static void test_a_terminal_that_goes_away_lets_go(void **state) {
    (void)state;
    struct fixture fixture = start(hang_up);
    look(&fixture);
    struct timespec pause = {.tv_nsec = 300000000};
    nanosleep(&pause, NULL);
    close(fixture.fd);
    fixture.fd = -1;
    finish(&fixture);
}

static void test_which_session_is_meant(void **state) {
    (void)state;
    struct fixture fixture = start(several_sessions);
    size_t at = await(&fixture, 0, "has 3 sessions, ");
    at = await(&fixture, at, ": say which>");
    at = await(&fixture, at, "no session 77");
    await(&fixture, at, "<CODE 125>");
    finish(&fixture);
}

static void test_looking_on_ends_by_ctrl_c(void **state) {
    (void)state;
    struct fixture fixture = start(no_terminal_in_the_guest);
    size_t at = await(&fixture, 0, "00\r\n");
    kill(fixture.pid, SIGINT);
    at = await(&fixture, at, "<LEFT 130>");
    await(&fixture, at, "<SESSIONS 1>");
    finish(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_byte_is_lost_or_doubled_over_detach_keys),
        cmocka_unit_test(test_a_shell_is_talked_to),
        cmocka_unit_test(test_a_terminal_that_goes_away_lets_go),
        cmocka_unit_test(test_which_session_is_meant),
        cmocka_unit_test(test_looking_on_ends_by_ctrl_c),
    };
    return cmocka_run_group_tests_name("cli/exec", tests, NULL, NULL);
}
