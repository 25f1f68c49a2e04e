/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * run.h: one run of the simulator: a seed, its faults, its workloads, and what came of it.
 *
 * THEORY OF OPERATION
 *
 * A run makes a world from a seed, lets owners use VMs in it while faults happen, then ends the faults and lets everything
 * come to rest, and looks at what is left. What the owners do is a list of steps, which the seed alone makes: step n is the
 * same whatever became of those before it. So a failing run is made small by leaving out steps and faults (minimise.h): both
 * are named by numbers that stay the same.
 */
#ifndef KELPIE_SIM_RUN_RUN_H
#define KELPIE_SIM_RUN_RUN_H

#include <stdio.h>

#include "sim/fault.h"

#define RUN_REASON_SIZE 1024
#define RUN_STEP_COUNT_MAX 4096 /* of one run */

struct run_options {
    uint64_t seed;
    const uint8_t
        *bytes; /* of a fuzzer: they make the choices instead of the seed; NULL: they do not */
    size_t byte_count;
    const struct sim_fault_event *suppressed; /* faults left out; sorted by fault, then number */
    size_t suppressed_count;
    const uint32_t *skipped; /* steps left out; sorted */
    size_t skipped_count;
    FILE *timeline; /* one line for each event; NULL: none */
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

/* Runs it. A failed assertion of production code aborts the process: the caller forks. */
void run_seed(const struct run_options *options, struct run_result *ret_result);

#endif
