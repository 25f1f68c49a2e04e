/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/output.h"

/* "Erase in line" of ECMA-48 (section 8.3.41), which every terminal but a dumb one knows. */
#define ERASE_LINE "\r\033[K"

struct progress progress_init(bool wanted) {
    const char *term = getenv("TERM");
    bool able = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    return (struct progress){.enabled = wanted && able};
}

void progress_show(struct progress *progress, const char *format, ...) {
    ASSERT(progress->enabled || !progress->shown);
    ASSERT(progress);
    ASSERT(format);
    if (!progress->enabled) {
        return;
    }
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    output_clean(text);
    fprintf(stderr, ERASE_LINE "kelpie: %s ...", text);
    fflush(stderr);
    progress->shown = true;
}

void progress_clear(struct progress *progress) {
    ASSERT(progress);
    ASSERT(progress->enabled || !progress->shown);
    if (progress->shown) {
        fputs(ERASE_LINE, stderr);
        fflush(stderr);
        progress->shown = false;
    }
}
