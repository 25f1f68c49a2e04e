/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Tables on a terminal: cut to its width, and, of kelpie stats, drawn over themselves without scrolling. */
#include <setjmp.h>
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

#define CREATE "kelpie create --backend mock --name box --label about=tables >/dev/null; "

/* How often the text stands there. */
static size_t count_of(const char *screen, const char *text) {
    size_t count = 0;
    for (const char *at = strstr(screen, text); at; at = strstr(at + 1, text)) {
        count++;
    }
    return count;
}

static void pause_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void test_a_list_is_cut_to_the_terminal(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(24, 80);
    tmux_type(tmux, "clear; " CREATE "kelpie ls -a\r");
    assert_true(tmux_await(
        tmux, "NAME +STATE +BACKEND +IMAGE +AGE +CPUS +MEMORY\nbox +created +mock +- +[0-9]+s"));
    tmux_resize(tmux, 24, 28);
    pause_ms(200);
    tmux_type(tmux, "clear; kelpie ls -a\r");
    /* What has no room is left out, and the row is one line still. */
    assert_true(tmux_await(tmux, "NAME +STATE +BACKEND\nbox +created +mock\n" TMUX_PROMPT));
    tmux_type(tmux, "clear; kelpie ls -a | cat\r");
    assert_true(tmux_await(tmux, "MEMORY"));
    tmux_type(tmux, "clear; kelpie rm -f box\r");
    assert_true(tmux_await(tmux, "(^|\n)box\n"));
    tmux_end(tmux);
}

static void test_stats_are_drawn_over_themselves(void **state) {
    (void)state;
    struct tmux *tmux = tmux_start(12, 80);
    tmux_type(tmux, CREATE "kelpie start box >/dev/null; clear; kelpie stats\r");
    assert_true(tmux_await(tmux, "NAME +CPU +MEMORY.*\nbox +.* 2s\n"));
    assert_int_equal(count_of(tmux_look(tmux, true), "CPU"), 1);
    /* Narrower than the table, while it runs: still one line each, once. */
    tmux_resize(tmux, 12, 28);
    pause_ms(2300);
    const char *screen = tmux_look(tmux, false);
    assert_true(command_matches(screen, "NAME +CPU +MEMORY\nbox +[0-9.]+% +[^\n]*MiB\n"));
    assert_null(strstr(screen, "RESIDENT"));
    /* Ctrl-C leaves a terminal that is as it was, and the prompt below the table. */
    tmux_resize(tmux, 12, 80);
    tmux_type(tmux, "\003");
    assert_true(tmux_await(tmux, "\n(\\^C)?" TMUX_PROMPT));
    tmux_type(tmux, "clear; kelpie rm -f box\r");
    assert_true(tmux_await(tmux, "(^|\n)box\n"));
    tmux_end(tmux);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_is_cut_to_the_terminal),
        cmocka_unit_test(test_stats_are_drawn_over_themselves),
    };
    return cmocka_run_group_tests_name("terminal/tables", tests, NULL, NULL);
}
