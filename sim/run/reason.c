/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/reason.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/assert.h"

#define ASSERTION "assertion failed at "
#define UNDEFINED "undefined behaviour at "
#define WORDS_ASSERTION "assertion failed: "
#define WORDS_AT " at "
#define WORDS_UNDEFINED ": runtime error: "
#define WORDS_SANITIZER "Sanitizer: "

/* The last line with that in it, or NULL; and how long it is. */
static const char *line_with(const char *words, const char *mark, size_t *ret_size) {
    const char *found = NULL;
    ASSERT(words);
    ASSERT(mark && *mark);
    for (const char *at = strstr(words, mark); at; at = strstr(at + 1, mark)) {
        found = at;
    }
    if (!found) {
        return NULL;
    }
    while (found > words && found[-1] != '\n') {
        found--;
    }
    *ret_size = strcspn(found, "\n");
    return found;
}

/* "kelpie: assertion failed: CONDITION at FILE:LINE" */
static bool assertion(const char *words, char *reason, size_t size) {
    size_t line_size = 0;
    const char *line = line_with(words, WORDS_ASSERTION, &line_size);
    const char *place = NULL;
    ASSERT(size > 0);
    if (!line) {
        return false;
    }
    const char *condition = strstr(line, WORDS_ASSERTION) + strlen(WORDS_ASSERTION);
    for (const char *at = strstr(condition, WORDS_AT); at && at < line + line_size;
         at = strstr(at + 1, WORDS_AT)) {
        place = at;
    }
    if (!place) {
        return false;
    }
    const char *file = place + strlen(WORDS_AT);
    int file_size = (int)(line + line_size - file);
    ASSERT(file_size >= 0);
    snprintf(reason, size, ASSERTION "%.*s (%.*s)", file_size, file, (int)(place - condition),
             condition);
    return true;
}

/* "FILE:LINE:COLUMN: runtime error: WHAT" of UBSan; "==PID==ERROR: AddressSanitizer: WHAT on address …" of ASan */
static bool sanitizer(const char *words, char *reason, size_t size) {
    size_t line_size = 0;
    const char *line = line_with(words, WORDS_UNDEFINED, &line_size);
    ASSERT(size > 0);
    if (line) {
        const char *what = strstr(line, WORDS_UNDEFINED);
        int what_size = (int)(line + line_size - what) - (int)strlen(WORDS_UNDEFINED);
        ASSERT(what_size >= 0);
        snprintf(reason, size, UNDEFINED "%.*s (%.*s)", (int)(what - line), line, what_size,
                 what + strlen(WORDS_UNDEFINED));
        return true;
    }
    /* The report's last line repeats the first, with the place: "SUMMARY: AddressSanitizer: WHAT FILE:LINE". */
    line = line_with(words, WORDS_SANITIZER, &line_size);
    if (line) {
        const char *what = strstr(line, WORDS_SANITIZER) + strlen(WORDS_SANITIZER);
        snprintf(reason, size, "sanitizer says %.*s", (int)(line + line_size - what), what);
    }
    return line != NULL;
}

void reason_of_death(int wait_status, const char *words, char *ret_reason, size_t size) {
    ASSERT(words);
    ASSERT(ret_reason && size > 0);
    if (assertion(words, ret_reason, size) || sanitizer(words, ret_reason, size)) {
        return;
    }
    if (WIFSIGNALED(wait_status)) {
        const char *name = sigabbrev_np(WTERMSIG(wait_status));
        snprintf(ret_reason, size, "signal SIG%s", name ? name : "?");
        return;
    }
    ASSERT(WIFEXITED(wait_status));
    snprintf(ret_reason, size, "the process ended with code %d", WEXITSTATUS(wait_status));
}

/* How much of it says what kind it is. */
static size_t kind_size(const char *reason) {
    static const char *const placed[] = {ASSERTION, UNDEFINED};
    ASSERT(reason);
    for (size_t i = 0; i < ARRAY_SIZE(placed); i++) {
        size_t prefix_size = strlen(placed[i]);
        ASSERT(prefix_size > 0);
        if (strncmp(reason, placed[i], prefix_size) == 0) {
            return prefix_size + strcspn(reason + prefix_size, " ");
        }
    }
    size_t size = 0;
    while (reason[size] && reason[size] != ':' && !isdigit((unsigned char)reason[size])) {
        size++;
    }
    return size;
}

bool reason_same(const char *a, const char *b) {
    ASSERT(a);
    ASSERT(b);
    size_t size = kind_size(a);
    return size == kind_size(b) && strncmp(a, b, size) == 0;
}
