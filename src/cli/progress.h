/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Progress: one line on standard error, on a terminal only, gone when the step is over. It never wraps: a line that
 * did could not be erased. It is cut to the terminal's width, and drawn anew when that changes.
 */
#ifndef KELPIE_CLI_PROGRESS_H
#define KELPIE_CLI_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/cli_limits.h"

struct progress {
    pthread_mutex_t lock; /* the signal thread draws too */
    bool enabled;
    bool colour;
    bool shown;
    size_t columns; /* that the line takes, as it was drawn */
    char text[CLI_PROGRESS_SIZE_MAX];
};

/* Quiet unless standard error is a terminal that can erase a line. */
void progress_init(struct progress *progress, bool wanted);
void progress_deinit(struct progress *progress);
void progress_show(struct progress *progress, const char *format, ...) ERROR_PRINTF(2, 3);
void progress_clear(struct progress *progress);

/* The terminal has another size now. */
void progress_resize(struct progress *progress);

/* Cuts the text so that it takes fewer columns than there are (0: nobody knows, 80), and returns how many it takes.
 * A character beyond ASCII is counted as two columns, which is the most that one takes. */
size_t progress_fit(char *text, size_t columns);

#endif
