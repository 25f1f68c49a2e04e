/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * batch.h: many runs, in several processes at once, and their sum.
 *
 * THEORY OF OPERATION
 *
 * Runs are numbered from 0; run n has the seed seed_first + n. A worker is a process (child.h) that makes some of them one
 * after the other. It tells the parent which one it begins, then what came of it, in messages of one size that a pipe keeps
 * whole. A worker that dies, or has begun a run too long ago and is killed, is a failure of the run that it had begun,
 * and a new worker goes on behind that one. So nothing that a run can do to its process loses another run.
 */
#ifndef KELPIE_SIM_RUN_BATCH_H
#define KELPIE_SIM_RUN_BATCH_H

#include "sim/run/run.h"

#define BATCH_WORKER_RUN_COUNT_MAX 100 /* runs of one worker, then there is a new one */
#define BATCH_JOB_COUNT_MAX 256
#define BATCH_FAILURE_COUNT_MAX 10 /* that are told, those with the smallest numbers */

struct batch_options {
    run_function *run;
    struct run_options base; /* of each run, but for its seed */
    uint64_t seed_first;
    uint64_t run_count;
    bool same_seed; /* each run has seed_first, and one with another hash than run 0's fails */
    bool stop_at_failure; /* no more runs when one has failed: those under way are not waited for */
    uint32_t job_count;
    uint32_t run_ms_max; /* of real time; a run that takes longer hangs */
    void (*progress)(void *context, uint64_t done_count, uint64_t failed_count); /* or NULL */
    void *progress_context;
};

struct batch_failure {
    uint64_t index; /* of the run */
    uint64_t seed;
    char reason[RUN_REASON_SIZE];
};

struct batch_summary {
    uint64_t run_count; /* that ended, well or badly */
    uint64_t failed_count;
    struct batch_failure failures[BATCH_FAILURE_COUNT_MAX]; /* by number */
    size_t failure_count;
    uint64_t hash; /* of run 0; 0 when it did not come to its end */
    /* Of the runs that came to their end: */
    uint64_t ended_count;
    uint64_t event_count;
    uint64_t simulated_ns;
    uint64_t cpu_ns;
    uint64_t asked[SIM_FAULT_COUNT];
    uint64_t fired[SIM_FAULT_COUNT];
    uint64_t fired_runs[SIM_FAULT_COUNT]; /* in which it fired */
    uint64_t elapsed_ns;                  /* real time of all of it */
    uint32_t job_count;
};

/* False: processes could not be started, errno says why, and the summary has what was done until then. */
bool batch_run(const struct batch_options *options, struct batch_summary *ret_summary);

#endif
