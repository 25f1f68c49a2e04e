/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * TEMPORARY: no run at all, but something of a run's shape, until there is a world to run in. It asks for faults, and about
 * one seed in thirty "fails": when two chosen faults have fired and one chosen step was made. To be replaced as a whole.
 */
#include "sim/run/run.h"

#include <string.h>

#include "base/assert.h"

#define STEP_COUNT_MIN 8u
#define STEP_COUNT_MORE 32u
#define QUESTIONS_PER_STEP 64u
#define FAILING_ONE_IN 8u
#define ABORTING_ONE_IN 32u

/* One step's questions. Their answers are in the hash. */
static void step(const struct run_options *options, struct sim_faults *faults, uint32_t number,
                 struct run_result *result) {
    ASSERT(options && faults);
    ASSERT(number < result->step_count);
    sim_faults_begin_step(faults, number);
    for (uint32_t i = 0; i < QUESTIONS_PER_STEP; i++) {
        enum sim_fault fault =
            (enum sim_fault)(sim_mix(options->seed, number, i) % SIM_FAULT_COUNT);
        bool now = sim_faults_ask(faults, fault);
        result->hash = sim_mix(result->hash, (uint64_t)fault, now);
        result->event_count++;
        result->simulated_ns += 1000000;
        if (options->timeline && now) {
            fprintf(options->timeline, "step %u: %s\n", number, sim_fault_info(fault)->name);
        }
    }
}

void run_seed(const struct run_options *options, struct run_result *ret_result) {
    static const enum sim_fault wanted[2] = {SIM_FAULT_STREAM_SHORT_READ,
                                             SIM_FAULT_CONDITION_WAKES_EARLY};
    struct sim_choices choices;
    struct sim_faults faults;
    bool made = false;
    ASSERT(options && ret_result);
    memset(ret_result, 0, sizeof(*ret_result));
    sim_choices_init(&choices, options->seed);
    sim_faults_init(&faults, options->seed);
    sim_faults_draw(&faults, SIM_PPM);
    if (options->bytes) {
        sim_choices_init_bytes(&choices, options->bytes, options->byte_count);
        faults.choices = &choices;
    }
    run_options_limit_faults(options, &faults);
    sim_faults_copy(&faults, ret_result->events, &ret_result->event_fault_count);
    ret_result->step_count = STEP_COUNT_MIN + (uint32_t)sim_choose(&choices, STEP_COUNT_MORE);
    if (options->step_count_max > 0 && options->step_count_max < ret_result->step_count) {
        ret_result->step_count = options->step_count_max;
    }
    uint32_t chosen = (uint32_t)(options->seed % ret_result->step_count);
    for (uint32_t i = 0; i < ret_result->step_count; i++) {
        if (!run_options_skip(options, i)) {
            made = made || i == chosen;
            step(options, &faults, i, ret_result);
        }
    }
    bool fails = made && faults.fired[wanted[0]] > 0 && faults.fired[wanted[1]] > 0 &&
                 !options->bytes && options->seed % FAILING_ONE_IN == 0;
    ASSERT(!fails || options->seed % ABORTING_ONE_IN != 0);
    ret_result->failed = fails;
    snprintf(ret_result->reason, sizeof(ret_result->reason), "%s",
             fails ? "placeholder: two faults and a step" : "");
    memcpy(ret_result->asked, faults.asked, sizeof(ret_result->asked));
    memcpy(ret_result->fired, faults.fired, sizeof(ret_result->fired));
}
