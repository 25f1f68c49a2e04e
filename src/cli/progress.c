/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/output.h"
#include "cli/terminal.h"

/* ECMA-48: "erase in line" (8.3.41), "cursor up" (8.3.22), "select graphic rendition" (8.3.117), which every terminal but
 * a dumb one knows. */
#define ERASE_LINE "\r\033[K"
#define LINE_UP "\033[A"
#define FAINT "\033[2m"
#define NORMAL "\033[0m"
#define COLUMNS_DEFAULT 80
#define ROWS_ERASED_MAX 16

static void progress_check(const struct progress *progress) {
    ASSERT(progress);
    ASSERT(progress->enabled || !progress->shown);
}

static void progress_lock(struct progress *progress) {
    ASSERT(progress);
    int result = pthread_mutex_lock(&progress->lock);
    ASSERT(result == 0);
}

static void progress_unlock(struct progress *progress) {
    ASSERT(progress);
    int result = pthread_mutex_unlock(&progress->lock);
    ASSERT(result == 0);
}

void progress_init(struct progress *progress, bool wanted) {
    ASSERT(progress);
    const char *term = getenv("TERM");
    bool able = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    *progress =
        (struct progress){.enabled = wanted && able, .colour = output_has_colour(STDERR_FILENO)};
    int result = pthread_mutex_init(&progress->lock, NULL);
    ASSERT(result == 0);
}

void progress_deinit(struct progress *progress) {
    progress_check(progress);
    ASSERT(!progress->shown);
    (void)pthread_mutex_destroy(&progress->lock);
}

size_t progress_fit(char *text, size_t columns) {
    ASSERT(text);
    size_t room = (columns == 0 ? COLUMNS_DEFAULT : columns) - 1;
    size_t taken = 0;
    for (char *at = text; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        bool begins = (byte & 0xc0) != 0x80; /* a character: not a later byte of one in UTF-8 */
        size_t width = !begins ? 0 : byte < 0x80 ? 1 : 2;
        if (taken + width > room) {
            *at = 0;
            break;
        }
        taken += width;
    }
    ASSERT(taken <= room);
    return taken;
}

static size_t terminal_columns(void) {
    struct terminal terminal = terminal_init(STDERR_FILENO);
    uint16_t rows = 0;
    uint16_t columns = 0;
    ASSERT(terminal.fd == STDERR_FILENO);
    return terminal_size(&terminal, &rows, &columns) ? columns : COLUMNS_DEFAULT;
}

static void draw(struct progress *progress) {
    progress_check(progress);
    char line[CLI_PROGRESS_SIZE_MAX + 16];
    snprintf(line, sizeof(line), "kelpie: %s ...", progress->text);
    progress->columns = progress_fit(line, terminal_columns());
    fprintf(stderr, "%s%s%s%s", ERASE_LINE, progress->colour ? FAINT : "", line,
            progress->colour ? NORMAL : "");
    fflush(stderr);
    progress->shown = true;
}

/* A terminal that became narrower has wrapped the line: each row of it goes. */
static void erase(struct progress *progress) {
    progress_check(progress);
    ASSERT(progress->shown);
    size_t columns = terminal_columns();
    size_t rows = progress->columns > 0 ? (progress->columns - 1) / columns : 0;
    fputs(ERASE_LINE, stderr);
    for (size_t i = 0; i < rows && i < ROWS_ERASED_MAX; i++) {
        fputs(LINE_UP ERASE_LINE, stderr);
    }
    fflush(stderr);
    progress->shown = false;
}

void progress_show(struct progress *progress, const char *format, ...) {
    progress_check(progress);
    ASSERT(format);
    if (!progress->enabled) {
        return;
    }
    progress_lock(progress);
    if (progress->shown) {
        erase(progress);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(progress->text, sizeof(progress->text), format, args);
    va_end(args);
    output_clean(progress->text);
    draw(progress);
    progress_unlock(progress);
}

void progress_clear(struct progress *progress) {
    progress_check(progress);
    ASSERT(progress->columns <= UINT16_MAX);
    progress_lock(progress);
    if (progress->shown) {
        erase(progress);
    }
    progress_unlock(progress);
}

void progress_resize(struct progress *progress) {
    progress_check(progress);
    ASSERT(progress->columns <= UINT16_MAX);
    progress_lock(progress);
    if (progress->shown) {
        erase(progress);
        draw(progress);
    }
    progress_unlock(progress);
}
