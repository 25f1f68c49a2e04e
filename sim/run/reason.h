/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* reason.h: why a run failed, as one line, and whether two runs failed in the same way. Pure. */
#ifndef KELPIE_SIM_RUN_REASON_H
#define KELPIE_SIM_RUN_REASON_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Of a process that died: an assertion or a sanitizer's finding with its file and line, when its last words name one; else
 * the signal or the exit code. wait_status: as waitpid() gives it. Cut when it does not fit.
 */
void reason_of_death(int wait_status, const char *words, char *ret_reason, size_t size);

/* The same kind: equal up to the first digit or colon, or, when the reason names a place, up to its line. */
bool reason_same(const char *a, const char *b);

#endif
