/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * run.h: one run of the simulator: a seed, its faults, its workloads, and what came of it.
 *
 * THEORY OF OPERATION
 *
 * A run makes a world from a seed, lets owners use VMs in it while faults happen, then ends the faults and lets everything
 * come to rest, and looks at what is left. What the owners do is a list of steps, which the seed alone makes: step n is the
 * same whatever became of those before it. So a failing run is made small by leaving out steps and faults (minimise.h): both
 * are named by numbers that stay the same. For that a step tells the faults that it begins (sim_faults_begin_step).
 */
#ifndef KELPIE_SIM_RUN_RUN_H
#define KELPIE_SIM_RUN_RUN_H

#include <stdio.h>

#include "sim/fault.h"

#define RUN_REASON_SIZE 1024
#define RUN_STEP_COUNT_MAX SIM_FAULT_STEP_COUNT_MAX /* of one run */

struct run_options {
    uint64_t seed;
    const uint8_t
        *bytes; /* of a fuzzer: they make the choices instead of the seed; NULL: they do not */
    size_t byte_count;
    const struct sim_fault_event *suppressed; /* faults left out; sorted by fault, then number */
    size_t suppressed_count;
    bool suppress_others;    /* the other way round: all faults but `suppressed` are left out */
    const uint32_t *skipped; /* steps left out; sorted */
    size_t skipped_count;
    bool skip_others;        /* the other way round: all steps but `skipped` are left out */
    uint32_t step_count_max; /* no more than so many steps; 0: as many as the seed makes */
    FILE *timeline;          /* one line for each event; NULL: none */
};

struct run_result {
    bool failed;
    char reason[RUN_REASON_SIZE]; /* what did not hold; or empty */
    uint64_t hash;                /* of the event log: equal for equal options */
    uint64_t event_count;
    uint64_t simulated_ns;
    uint32_t step_count; /* steps that were made, left out or not */
    uint32_t asked[SIM_FAULT_COUNT];
    uint32_t fired[SIM_FAULT_COUNT];
    struct sim_fault_event events[SIM_FAULT_FIRED_COUNT_MAX]; /* the faults that fired, in order */
    size_t event_fault_count;
};

/*
 * Runs it. A failed assertion of production code aborts the process: the caller forks, and has ret_result in memory that
 * both processes share. So step_count is set before the first step, and events and event_fault_count are written when
 * a fault fires (sim_faults_copy): without them the caller cannot make a run small that aborts.
 */
void run_seed(const struct run_options *options, struct run_result *ret_result);

/* What has run_seed's shape: tests have their own. */
typedef void run_function(const struct run_options *options, struct run_result *ret_result);

/* Hands the options' lists of faults to faults. Nothing may have been asked yet. */
void run_options_limit_faults(const struct run_options *options, struct sim_faults *faults);

/* True: step n is left out. */
bool run_options_skip(const struct run_options *options, uint32_t step);

#endif
