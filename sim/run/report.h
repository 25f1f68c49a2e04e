/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* report.h: what kelpie-sim says of runs. Everything goes to a stream that the caller has. */
#ifndef KELPIE_SIM_RUN_REPORT_H
#define KELPIE_SIM_RUN_REPORT_H

#include "sim/run/batch.h"
#include "sim/run/shrink.h"

#define REPORT_EVENT_COUNT_MAX 20 /* of a small run, that are listed */
#define REPORT_TIMELINE_LINES 200 /* of a small run, the last ones */
#define REPORT_PROGRESS_MS 200    /* between two lines of progress */

/* One run that came to its end. */
void report_run(FILE *out, uint64_t seed, const struct run_result *result, uint64_t elapsed_ns);

/* Many runs: their sum, the first failures, and, of different seeds, the table of faults. */
void report_summary(FILE *out, const struct batch_summary *summary, bool with_faults);

/* Names each fault that never fired, and returns how many there are. */
size_t report_missing_faults(FILE *out, const struct batch_summary *summary);

/* A failing run made small, and how to see it again. timeline: its end. */
void report_shrunk(FILE *out, uint64_t seed, const struct shrink_result *result,
                   const struct tail *timeline);

/* The figures as JSON. False: errno says why. */
bool report_json(const char *path, const struct batch_summary *summary);

/* One line that is written over again: for a terminal. last_ns is the caller's, 0 at first. */
void report_progress(FILE *out, uint64_t *last_ns, uint64_t done_count, uint64_t failed_count,
                     uint64_t run_count);

#endif
