/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Progress: one line on standard error, on a terminal only, gone when the step is over. */
#ifndef KELPIE_CLI_PROGRESS_H
#define KELPIE_CLI_PROGRESS_H

#include <stdbool.h>

#include "base/error.h"

struct progress {
    bool enabled;
    bool shown;
};

/* Quiet unless standard error is a terminal that can erase a line. */
struct progress progress_init(bool wanted);
void progress_show(struct progress *progress, const char *format, ...) ERROR_PRINTF(2, 3);
void progress_clear(struct progress *progress);

#endif
