/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Kelpie on a terminal as a user has it, on the mock backend and once with QEMU. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../support/command.h"
#include "../support/tmux.h"
#include "base/assert.h"

#define SHELL "kelpie run --backend mock -it -- sh\r"

static void pause_ms(long ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* The terminal is as a shell wants it: lines, echo, signals, and newlines that return. */
static void check_terminal(struct tmux *tmux) {
    tmux_type(tmux, "clear; stty -a | tr ' ;' '\\n\\n' | grep -cxE 'icanon|echo|isig|opost'\r");
    assert_true(tmux_await(tmux, "^4\n|\n4\n"));
}

static void test_a_shell_is_typed_to(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, SHELL);
    assert_true(tmux_await(tmux, "\n\\$\n"));
    tmux_type(tmux, "echo sum $((6*7))\r");
    assert_true(tmux_await(tmux, "\nsum 42\n"));
    tmux_type(tmux, "echo typx\177ed\r"); /* a key that erases */
    assert_true(tmux_await(tmux, "\ntyped\n"));
    tmux_type(tmux, "\004");
    assert_true(tmux_await(tmux, "\n(\\$ )?" TMUX_PROMPT));
    check_terminal(tmux);
    tmux_end(tmux);
}

static void test_the_window_grows_and_shrinks(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, SHELL);
    tmux_type(tmux, "stty size\r");
    assert_true(tmux_await(tmux, "\n24 80\n"));
    tmux_resize(tmux, 40, 132);
    pause_ms(200);
    tmux_type(tmux, "stty size\r");
    assert_true(tmux_await(tmux, "\n40 132\n"));
    tmux_resize(tmux, 10, 30);
    pause_ms(200);
    tmux_type(tmux, "stty size\r");
    assert_true(tmux_await(tmux, "\n10 30\n"));
    tmux_type(tmux, "exit 3\r");
    assert_true(tmux_await(tmux, "\n" TMUX_PROMPT));
    tmux_type(tmux, "echo code $?\r");
    assert_true(tmux_await(tmux, "\ncode 3\n"));
    tmux_end(tmux);
}

static void test_ctrl_c_is_the_guests(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, SHELL);
    tmux_type(tmux, "sleep 60\r");
    assert_true(tmux_await(tmux, "sleep 60\n"));
    pause_ms(200);
    tmux_type(tmux, "\003");
    assert_true(tmux_await(tmux, "\\^C"));
    tmux_type(tmux, "echo still $?\r");
    assert_true(tmux_await(tmux, "\nstill 130\n"));
    tmux_type(tmux, "exit\r");
    assert_true(tmux_await(tmux, "\n" TMUX_PROMPT));
    check_terminal(tmux);
    tmux_end(tmux);
}

static void test_a_terminal_is_restored_when_we_are_told_to_end(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, "sh -c 'echo $$ > $TMPDIR/pid; exec \"$0\" \"$@\"' " SHELL);
    assert_true(tmux_await(tmux, "\n\\$\n"));
    tmux_type(tmux, "sleep 60\r");
    char path[128];
    snprintf(path, sizeof(path), "%s/pid", tmux->folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    int pid = 0;
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    /* The shell ignores the first, as a shell does; the second kills it. */
    assert_int_equal(kill(pid, SIGTERM), 0);
    pause_ms(200);
    assert_false(command_matches(tmux_look(tmux, false), "sleep 60\n(.*\n)*" TMUX_PROMPT));
    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_true(tmux_await(tmux, "\n(\\$ )*" TMUX_PROMPT));
    check_terminal(tmux);
    tmux_end(tmux);
}

static struct tmux *start_box(void) {
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, "clear; kelpie run -d --name box --backend mock\r");
    assert_true(tmux_await(tmux, "^box\n" TMUX_PROMPT));
    return tmux;
}

static void end_box(struct tmux *tmux) {
    tmux_type(tmux, "clear; kelpie rm -f box\r");
    assert_true(tmux_await(tmux, "^box\n" TMUX_PROMPT));
    tmux_end(tmux);
}

static void test_a_shell_in_a_vm_that_goes_on(void **state) {
    (void)state;
    struct tmux *tmux = start_box();
    tmux_type(tmux, "kelpie shell -e MARK=m1 box\r");
    assert_true(tmux_await(tmux, "\n\\$\n"));
    tmux_type(tmux, "here=7; echo $MARK-$((here*6))\r");
    assert_true(tmux_await(tmux, "\nm1-42\n"));
    tmux_type(tmux, "\020\021");
    assert_true(tmux_await(tmux, "\nkelpie: session [0-9]+ goes on: 'kelpie attach box [0-9]+'"));
    assert_true(tmux_await(tmux, "\n" TMUX_PROMPT "\n+$"));
    check_terminal(tmux);
    tmux_resize(tmux, 20, 60);
    tmux_type(tmux, "clear; kelpie attach box\r");
    pause_ms(200);
    tmux_type(tmux, "echo again $here; stty size\r");
    assert_true(tmux_await(tmux, "\nagain 7\n20 60\n"));
    /* The window is closed: the shell in the guest goes on as well. */
    tmux_hang_up(tmux);
    tmux_type(tmux, "clear; kelpie attach box\r");
    pause_ms(200);
    tmux_type(tmux, "echo third $here\r");
    assert_true(tmux_await(tmux, "\nthird 7\n"));
    tmux_type(tmux, "exit 4\r");
    assert_true(tmux_await(tmux, "\n" TMUX_PROMPT));
    tmux_type(tmux, "echo code $?\r");
    assert_true(tmux_await(tmux, "\ncode 4\n"));
    end_box(tmux);
}

/* Every line of digits is one more than the line before. Returns the last. */
static long check_counting(const char *screen) {
    long last = 0;
    for (const char *line = screen; *line; line += strcspn(line, "\n") + 1) {
        char *end = NULL;
        long number = strtol(line, &end, 10);
        if (end != line && (*end == '\n' || *end == '^')) { /* ^C or ^P may be echoed behind */
            assert_int_equal(number, last + 1);
            last = number;
        }
    }
    return last;
}

static void test_no_line_is_lost_or_doubled_over_detach_keys(void **state) {
    (void)state;
    struct tmux *tmux = start_box();
    tmux_type(tmux, "clear; kelpie exec -it --detach-keys ctrl-],q box -- sh -c "
                    "'i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done'\r");
    assert_true(tmux_await(tmux, "\n[0-9]+[05]\n"));
    for (int i = 0; i < 3; i++) {
        tmux_type(tmux, "\035q");
        assert_true(tmux_await(tmux, " takes it up again\n" TMUX_PROMPT "\n*$"));
        char keys[96];
        snprintf(keys, sizeof(keys), "echo round-%d; kelpie attach --detach-keys ctrl-],q box\r",
                 i);
        tmux_type(tmux, keys);
        char pattern[96];
        snprintf(pattern, sizeof(pattern), "\nround-%d\n([0-9]+\n)+[0-9]+[05]\n", i);
        assert_true(tmux_await(tmux, pattern));
    }
    tmux_type(tmux, "\003");
    assert_true(tmux_await(tmux, "\n(\\^C)?" TMUX_PROMPT "\n*$"));
    tmux_type(tmux, "echo code $?\r");
    assert_true(tmux_await(tmux, "\ncode 130\n"));
    assert_true(check_counting(tmux_look(tmux, true)) > 20);
    end_box(tmux);
}

/* The progress is one row, cut to the width, and nothing of it is left above: there stands what was there before. */
static void check_progress(struct tmux *tmux, int rows, int columns, const char *line) {
    tmux_resize(tmux, rows, columns);
    char pattern[128];
    snprintf(pattern, sizeof(pattern), "(^|\n)5\n%s\n+$", line);
    assert_true(tmux_await(tmux, pattern));
}

/* A real boot takes long enough to look at: the line, and Ctrl-C, and then a shell in Linux. */
static void test_progress_never_wraps_and_a_boot_is_cancelled(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 20);
    tmux_type(tmux, "clear; seq 5; kelpie run --backend qemu -- true\r");
    assert_true(tmux_await(tmux, "\n5\nkelpie: booting a V\n+$"));
    check_progress(tmux, 24, 12, "kelpie: boo");
    check_progress(tmux, 24, 6, "kelpi");
    check_progress(tmux, 24, 40, "kelpie: booting a VM \\.\\.\\.");
    tmux_type(tmux, "\003");
    assert_true(tmux_await(tmux, "5\n(\\^C)?" TMUX_PROMPT "\n+$"));
    tmux_type(tmux, "echo code $?\r");
    assert_true(tmux_await(tmux, "\ncode 130\n"));

    tmux_type(tmux, "clear; kelpie run --backend qemu -it -- sh\r");
    assert_true(tmux_await(tmux, "/ #\n+$"));
    tmux_type(tmux, "stty size; uname -s; echo $TERM\r");
    assert_true(tmux_await(tmux, "\n24 40\nLinux\n(screen|tmux)[-a-z0-9]*\n"));
    tmux_resize(tmux, 30, 70);
    pause_ms(300);
    tmux_type(tmux, "clear; stty size\r");
    assert_true(tmux_await(tmux, "30 70\n"));
    tmux_type(tmux, "sleep 60\r");
    pause_ms(300);
    tmux_type(tmux, "\003");
    tmux_type(tmux, "echo still $?\r");
    assert_true(tmux_await(tmux, "\nstill 130\n"));
    tmux_type(tmux, "exit 9\r");
    assert_true(tmux_await(tmux, "\n" TMUX_PROMPT));
    tmux_type(tmux, "echo code $?\r");
    assert_true(tmux_await(tmux, "\ncode 9\n"));
    check_terminal(tmux);
    tmux_end(tmux);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_shell_is_typed_to),
        cmocka_unit_test(test_the_window_grows_and_shrinks),
        cmocka_unit_test(test_ctrl_c_is_the_guests),
        cmocka_unit_test(test_a_terminal_is_restored_when_we_are_told_to_end),
        cmocka_unit_test(test_a_shell_in_a_vm_that_goes_on),
        cmocka_unit_test(test_no_line_is_lost_or_doubled_over_detach_keys),
        cmocka_unit_test(test_progress_never_wraps_and_a_boot_is_cancelled),
    };
    return cmocka_run_group_tests_name("kelpie in tmux", tests, NULL, NULL);
}
