/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * shrink.h: a failing run made small: the fewest faults and steps with which it still fails in the same way.
 *
 * THEORY OF OPERATION
 *
 * Each trial is a run (trial.h) in which only some of the faults that fired, and only some of the steps, are allowed. Faults are
 * made few first (minimise.h), then steps, then faults again, for fewer steps often need fewer faults. A fault has the
 * same name and number in every trial, whatever else is left out; where in the run that question is then asked may change,
 * so a trial proves itself: it counts when it fails for the same kind of reason (reason.h).
 *
 * The first trials check that naming all faults and all steps changes nothing. When it does (more faults fired than are
 * remembered, or the run died before they were known), that kind is left alone, which the result says.
 */
#ifndef KELPIE_SIM_RUN_SHRINK_H
#define KELPIE_SIM_RUN_SHRINK_H

#include "sim/run/trial.h"

#define SHRINK_TRIAL_COUNT_MAX 2000
#define SHRINK_MS_MAX 120000         /* of real time */
#define SHRINK_TRIAL_MS_MIN 3000     /* what a trial may take at least */
#define SHRINK_TRIAL_TIMES_LONGER 4u /* and this much longer than the first run */

struct shrink_result {
    bool fails;             /* it failed again; if not, nothing else here is set */
    bool faults_named;      /* only the faults in `faults` fire; false: all that the seed says */
    bool steps_named;       /* likewise */
    bool stopped;           /* at a bound: it may not be minimal */
    size_t trial_count;     /* runs that it took */
    size_t fault_count_all; /* of the whole run */
    size_t step_count_all;
    struct sim_fault_event faults[SIM_FAULT_FIRED_COUNT_MAX]; /* sorted by fault, then number */
    size_t fault_count;
    uint32_t steps[RUN_STEP_COUNT_MAX]; /* sorted */
    size_t step_count;
    char reason[RUN_REASON_SIZE];
};

/*
 * options: of the run that failed. The trial then has the smallest run: its result and the end of its timeline.
 * False: processes could not be started, errno says why.
 */
bool shrink_run(struct trial *trial, const struct run_options *options,
                struct shrink_result *ret_result);

/* The options of the smallest run. They point into options and result. */
struct run_options shrink_options(const struct run_options *options,
                                  const struct shrink_result *result);

#endif
