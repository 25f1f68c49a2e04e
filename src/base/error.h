/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Errors: how a fallible function says what went wrong. Each fills the caller's struct kelpie_error
 * (which may be NULL) and returns its status, so that one line does both:
 *
 *     return error_set(err, KELPIE_NOT_FOUND, "there is no session %u", id);
 *
 * Messages say what was attempted, on what, what the system answered and, where it helps, what to do.
 */
#ifndef KELPIE_BASE_ERROR_H
#define KELPIE_BASE_ERROR_H

#include "kelpie.h"

#define ERROR_PRINTF(format_index, first_index)                                                    \
    __attribute__((format(printf, format_index, first_index)))

/* Returns from the function when the expression is not KELPIE_OK. What the function holds is let go by
 * AUTO_MEM, AUTO_FD and AUTO_MAP. */
#define TRY(expression)                                                                            \
    do {                                                                                           \
        enum kelpie_status try_status_ = (expression);                                             \
        if (try_status_ != KELPIE_OK) {                                                            \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

/* Fills err (status, message; retriable and requires_recreate by status; os_error 0, field empty)
 * and returns status, which must not be KELPIE_OK. A message that is too long is cut. */
enum kelpie_status error_set(struct kelpie_error *err, enum kelpie_status status,
                             const char *format, ...) ERROR_PRINTF(3, 4);

/* The same, with the field, part or feature that is wrong. */
enum kelpie_status error_set_field(struct kelpie_error *err, enum kelpie_status status,
                                   const char *field, const char *format, ...) ERROR_PRINTF(4, 5);

/* The same for a failed system call: ": <text of os_error>" is appended. The status comes of os_error:
 * ENOENT NOT_FOUND; ENOSPC, EDQUOT, EFBIG NO_SPACE; ENOMEM NO_MEMORY; ETIMEDOUT TIMED_OUT;
 * ECANCELED CANCELLED; anything else IO_FAILED. */
enum kelpie_status error_set_os(struct kelpie_error *err, int os_error, const char *format, ...)
    ERROR_PRINTF(3, 4);

/* Changes the status of an error that is already set (kinds that a caller treats differently), and
 * puts "<prefix>: " before its message; os_error and field stay. Returns status. */
enum kelpie_status error_wrap(struct kelpie_error *err, enum kelpie_status status,
                              const char *format, ...) ERROR_PRINTF(3, 4);

/* err as it is before a call that may fail: no status, no text. NULL is allowed. */
void error_clear(struct kelpie_error *err);

#endif
