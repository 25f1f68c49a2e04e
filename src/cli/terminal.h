/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The user's terminal: raw while a command with a terminal of its own runs, and as it was afterwards. Every
 * signal that would end us is taken by a thread (signals.h), so that there is one way out, and it comes
 * by terminal_restore().
 */
#ifndef KELPIE_CLI_TERMINAL_H
#define KELPIE_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

#include "base/error.h"

struct terminal {
    int fd;
    bool raw;
    struct termios saved;
};

struct terminal terminal_init(int fd);
bool terminal_present(const struct terminal *terminal);

/* Raw: each key goes to the command at once, Ctrl-C too. Errors: IO_FAILED. */
KELPIE_CHECKED enum kelpie_status terminal_make_raw(struct terminal *terminal,
                                                    struct kelpie_error *err);
/* Raw again, if it is to be and somebody changed it: a shell does when we were stopped. */
void terminal_renew(struct terminal *terminal);
void terminal_restore(struct terminal *terminal);

/* False when it has no size, such as a serial line; then the outputs stay as they are. */
bool terminal_size(const struct terminal *terminal, uint16_t *ret_rows, uint16_t *ret_columns);

#endif
