/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * trial.h: one run in a process of its own. An assertion that fails, a crash and a run that does not end are failed runs
 * like those that the run itself calls failed. Memory that both processes share has the result, so that the faults that
 * fired are known of a run that aborted too.
 */
#ifndef KELPIE_SIM_RUN_TRIAL_H
#define KELPIE_SIM_RUN_TRIAL_H

#include "sim/run/child.h"
#include "sim/run/run.h"

#define TRIAL_MS_MAX 20000 /* of real time: a run that takes longer hangs */

struct trial_shared {
    bool ended; /* the run came to its end and its result is whole */
    struct run_result result;
};

struct trial {
    run_function *run;
    struct trial_shared *shared;
    uint32_t ms_max;
    bool keep_timeline; /* the end of it, here; instead of where the options say */
    struct tail timeline;
    struct child child;
    const struct run_options *options; /* of the run that is under way */
    uint64_t elapsed_ns;               /* of the last run */
};

/* False: errno says why. */
bool trial_init(struct trial *trial, run_function *run);
void trial_deinit(struct trial *trial);

/* False: no process could be started, errno says why. Else trial_result() has what came of it. */
bool trial_run(struct trial *trial, const struct run_options *options);

/* Until the next run. Of a run that died only failed, reason, step_count and the fired faults. */
const struct run_result *trial_result(const struct trial *trial);

#endif
