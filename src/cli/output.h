/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the command writes: bytes of the guest, error lines, JSON. */
#ifndef KELPIE_CLI_OUTPUT_H
#define KELPIE_CLI_OUTPUT_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "cli/options.h"

/* Makes sure that descriptors 0, 1 and 2 are open, so that nothing else gets these numbers. */
void output_init(void);

/*
 * Writes all of it, however slowly the other side reads. Ends with CANCELLED as soon as `stop_fd` is
 * readable. Errors: IO_FAILED with os_error EPIPE when nobody reads, NO_SPACE, CANCELLED.
 */
KELPIE_CHECKED enum kelpie_status output_write(int fd, const void *data, size_t size, int stop_fd,
                                               struct kelpie_error *err);

/* "kelpie: message" in one line on standard error, and a hint where there is one. The message may quote
 * the guest: control characters are not passed on. `table` (may be NULL) names the option whose field is
 * wrong. */
void output_error(const struct option_table *table, const struct kelpie_error *err);

/* Says that there is no memory. Returns CLI_EXIT_FAILED. */
int output_no_memory(void);

/* "hint: text" on standard error. */
void output_hint(const char *format, ...) ERROR_PRINTF(1, 2);

/* Whether colour is welcome there: a terminal, not a dumb one, and NO_COLOR is not set (no-color.org). */
bool output_has_colour(int fd);

/* What of a message is safe on a terminal and fits one line: control characters become spaces. */
void output_clean(char *text);

/* Writes one JSON object and a newline to standard output and lets go of it (NULL: no memory).
 * Returns the exit code: `code`, or CLI_EXIT_FAILED when it could not be written. */
int output_json(json_t *object, int code);

/* Bytes as {"encoding": …, "data": …, "bytes": …}: "utf-8" when they are that and have no zero, else
 * "base64". NULL: no memory. */
json_t *output_json_bytes(const void *data, size_t size);

/* An error as {"status": …, "field": …, "message": …, "os_error": …}; NULL: no memory. */
json_t *output_json_error(const struct kelpie_error *err);

#endif
