/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/shrink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/minimise.h"
#include "sim/run/reason.h"

#define NS_PER_MS 1000000u

static_assert(SIM_FAULT_FIRED_COUNT_MAX <= MINIMISE_COUNT_MAX, "they can be made few");
static_assert(RUN_STEP_COUNT_MAX <= MINIMISE_COUNT_MAX, "they can be made few");

struct shrink {
    struct trial *trial;
    const struct run_options *options;
    struct shrink_result *result;
    struct minimise minimise;
    uint64_t deadline_ns;
    int os_error; /* of a process that could not be started, or 0 */
    struct sim_fault_event faults[SIM_FAULT_FIRED_COUNT_MAX]; /* of a trial */
    uint32_t indexes[MINIMISE_COUNT_MAX];                     /* of faults, for minimise_set() */
};

struct run_options shrink_options(const struct run_options *options,
                                  const struct shrink_result *result) {
    struct run_options small = *options;
    ASSERT(result->fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    ASSERT(result->step_count <= RUN_STEP_COUNT_MAX);
    if (result->faults_named) {
        small.suppressed = result->faults;
        small.suppressed_count = result->fault_count;
        small.suppress_others = true;
    }
    if (result->steps_named) {
        small.skipped = result->steps;
        small.skipped_count = result->step_count;
        small.skip_others = true;
    }
    return small;
}

/* Does it fail in the same way with these options? */
static enum minimise_verdict try_options(struct shrink *shrink, const struct run_options *options) {
    ASSERT(shrink->trial);
    ASSERT(options->seed == shrink->options->seed);
    if (child_clock_ns() >= shrink->deadline_ns) {
        return MINIMISE_STOP;
    }
    if (!trial_run(shrink->trial, options)) {
        shrink->os_error = errno;
        return MINIMISE_STOP;
    }
    const struct run_result *result = trial_result(shrink->trial);
    return result->failed && reason_same(result->reason, shrink->result->reason) ? MINIMISE_FAILS
                                                                                 : MINIMISE_PASSES;
}

static enum minimise_verdict test_faults(void *context, const uint32_t *kept, size_t count) {
    struct shrink *shrink = context;
    struct run_options options = shrink_options(shrink->options, shrink->result);
    ASSERT(shrink->result->faults_named);
    ASSERT(count <= shrink->result->fault_count);
    for (size_t i = 0; i < count; i++) {
        shrink->faults[i] = shrink->result->faults[kept[i]];
    }
    options.suppressed = shrink->faults;
    options.suppressed_count = count;
    return try_options(shrink, &options);
}

static enum minimise_verdict test_steps(void *context, const uint32_t *kept, size_t count) {
    struct shrink *shrink = context;
    struct run_options options = shrink_options(shrink->options, shrink->result);
    ASSERT(shrink->result->steps_named);
    ASSERT(count <= shrink->result->step_count);
    options.skipped = kept;
    options.skipped_count = count;
    return try_options(shrink, &options);
}

static void shrink_faults(struct shrink *shrink) {
    struct shrink_result *result = shrink->result;
    ASSERT(result->fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    ASSERT(shrink->minimise.trial_count <= shrink->minimise.trial_count_max);
    if (!result->faults_named) {
        return;
    }
    for (size_t i = 0; i < result->fault_count; i++) {
        shrink->indexes[i] = (uint32_t)i;
    }
    shrink->minimise.test = test_faults;
    size_t count = minimise_set(&shrink->minimise, shrink->indexes, result->fault_count);
    /* The indexes ascend, so nothing is overwritten that is needed yet. */
    for (size_t i = 0; i < count; i++) {
        ASSERT(shrink->indexes[i] >= i);
        result->faults[i] = result->faults[shrink->indexes[i]];
    }
    result->fault_count = count;
}

static void shrink_steps(struct shrink *shrink) {
    struct shrink_result *result = shrink->result;
    ASSERT(result->step_count <= RUN_STEP_COUNT_MAX);
    ASSERT(shrink->minimise.trial_count <= shrink->minimise.trial_count_max);
    if (!result->steps_named) {
        return;
    }
    shrink->minimise.test = test_steps;
    result->step_count = minimise_set(&shrink->minimise, result->steps, result->step_count);
}

/* The faults that fired, sorted, each once. */
static void name_faults(struct shrink *shrink, const struct run_result *run) {
    struct shrink_result *result = shrink->result;
    size_t count = 0;
    ASSERT(run->event_fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    memcpy(result->faults, run->events, run->event_fault_count * sizeof(result->faults[0]));
    qsort(result->faults, run->event_fault_count, sizeof(result->faults[0]),
          sim_fault_event_compare);
    for (size_t i = 0; i < run->event_fault_count; i++) {
        if (count == 0 ||
            sim_fault_event_compare(&result->faults[count - 1], &result->faults[i]) != 0) {
            result->faults[count++] = result->faults[i];
        }
    }
    ASSERT(count <= run->event_fault_count);
    result->fault_count = count;
    result->fault_count_all = count;
}

static void name_steps(struct shrink *shrink, const struct run_result *run) {
    struct shrink_result *result = shrink->result;
    ASSERT(run->step_count <= RUN_STEP_COUNT_MAX);
    ASSERT(result->step_count == 0);
    for (uint32_t i = 0; i < run->step_count; i++) {
        if (!run_options_skip(shrink->options, i)) {
            result->steps[result->step_count++] = i;
        }
    }
    result->step_count_all = result->step_count;
}

/* Are the names all that there is? */
static void check_names(struct shrink *shrink) {
    struct shrink_result *result = shrink->result;
    ASSERT(!result->faults_named);
    ASSERT(!result->steps_named);
    result->faults_named = true;
    struct run_options options = shrink_options(shrink->options, result);
    result->faults_named = try_options(shrink, &options) == MINIMISE_FAILS;
    result->steps_named = true;
    options = shrink_options(shrink->options, result);
    result->steps_named = try_options(shrink, &options) == MINIMISE_FAILS;
    shrink->minimise.trial_count += 2;
}

/* The first run, and what it says of itself. */
static bool begin(struct shrink *shrink) {
    struct trial *trial = shrink->trial;
    struct shrink_result *result = shrink->result;
    ASSERT(shrink->options);
    ASSERT(!result->fails);
    if (!trial_run(trial, shrink->options)) {
        shrink->os_error = errno;
        return false;
    }
    const struct run_result *run = trial_result(trial);
    result->fails = run->failed;
    if (!run->failed) {
        return false;
    }
    memcpy(result->reason, run->reason, sizeof(result->reason));
    name_faults(shrink, run);
    name_steps(shrink, run);
    /* A run that hangs took all the time that there was: how long one takes that does not is not known. */
    bool hangs = trial->elapsed_ns >= (uint64_t)trial->ms_max * NS_PER_MS;
    uint64_t ms = hangs ? 0 : trial->elapsed_ns / NS_PER_MS * SHRINK_TRIAL_TIMES_LONGER;
    ms = ms > SHRINK_TRIAL_MS_MIN ? ms : SHRINK_TRIAL_MS_MIN;
    trial->ms_max = ms < trial->ms_max ? (uint32_t)ms : trial->ms_max;
    return true;
}

bool shrink_run(struct trial *trial, const struct run_options *options,
                struct shrink_result *ret_result) {
    ASSERT(trial && options);
    ASSERT(ret_result);
    uint32_t ms_max = trial->ms_max;
    memset(ret_result, 0, sizeof(*ret_result));
    struct shrink *shrink = calloc(1, sizeof(*shrink));
    if (!shrink) {
        return false;
    }
    shrink->trial = trial;
    shrink->options = options;
    shrink->result = ret_result;
    shrink->deadline_ns = child_clock_ns() + (uint64_t)SHRINK_MS_MAX * NS_PER_MS;
    shrink->minimise =
        (struct minimise){.context = shrink, .trial_count_max = SHRINK_TRIAL_COUNT_MAX};
    if (begin(shrink)) {
        check_names(shrink);
        shrink_faults(shrink);
        shrink_steps(shrink);
        shrink_faults(shrink);
        ret_result->stopped = shrink->minimise.stopped;
        ret_result->trial_count = shrink->minimise.trial_count;
        /* Once more, for its timeline: what was found so. */
        struct run_options small = shrink_options(options, ret_result);
        trial->keep_timeline = true;
        if (!trial_run(trial, &small)) {
            shrink->os_error = errno;
        }
        trial->keep_timeline = false;
    }
    trial->ms_max = ms_max;
    int os_error = shrink->os_error;
    free(shrink);
    errno = os_error;
    return os_error == 0;
}
