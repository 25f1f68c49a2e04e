/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A terminal as a user has it: tmux, with a plain shell in it that finds the kelpie that was built. We type, make the window
 * larger and smaller, and look at the screen.
 *
 *     struct tmux *tmux = tmux_start(24, 80);
 *     tmux_type(tmux, "kelpie version\r");
 *     assert_true(tmux_await(tmux, "kelpie 1."));
 *     tmux_end(tmux);
 *
 * Each has a server of its own, whose socket lies in a temporary folder, as does all that kelpie keeps
 * (XDG_STATE_HOME, XDG_DATA_HOME, XDG_RUNTIME_DIR). The server is ended by its process's number.
 */
#ifndef KELPIE_TESTS_SUPPORT_TMUX_H
#define KELPIE_TESTS_SUPPORT_TMUX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define TMUX_SCREEN_SIZE_MAX 262144
#define TMUX_AWAIT_MS 20000
#define TMUX_PROMPT "here>" /* of the shell in it; the screen ends rows at their last character */

struct tmux {
    char folder[64];
    pid_t server;
    char screen[TMUX_SCREEN_SIZE_MAX]; /* as it was looked at last */
};

struct tmux *tmux_start(int rows, int columns);
/* Removes the VM `box`, if a test that failed left it, too. */
void tmux_end(struct tmux *tmux);

/* Keys as bytes: "\r" is Enter, "\003" Ctrl-C. */
void tmux_type(struct tmux *tmux, const char *keys);
void tmux_resize(struct tmux *tmux, int rows, int columns);

/* The window is closed, what ran in it is hung up, and another is opened. */
void tmux_hang_up(struct tmux *tmux);

/* What is on the screen, rows apart by newlines, and, with `history`, what has left it at the top. */
const char *tmux_look(struct tmux *tmux, bool history);

/* Waits until the extended regular expression is found on the screen; false after TMUX_AWAIT_MS. */
bool tmux_await(struct tmux *tmux, const char *pattern);

#endif
