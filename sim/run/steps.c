/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/steps.h"

#include "base/assert.h"

#define OWNED_ONE_IN 3 /* VMs */

static const char *const names[] = {
#define STEPS_NAME(name, text) text,
    STEPS_ACTIONS(STEPS_NAME)
#undef STEPS_NAME
};
static_assert(ARRAY_SIZE(names) == STEPS_ACTION_COUNT, "each has a name");

const char *steps_action_name(enum steps_action action) {
    ASSERT((unsigned)action < STEPS_ACTION_COUNT);
    ASSERT(names[action]);
    return names[action];
}

/* How often each comes, in parts of the sum. What makes a machine must be frequent, or the rest finds none. */
static const uint32_t weights[] = {
    [STEPS_CREATE] = 10,    [STEPS_START] = 14,      [STEPS_STOP] = 4,
    [STEPS_PAUSE] = 5,      [STEPS_RESUME] = 7,      [STEPS_SNAPSHOT] = 6,
    [STEPS_DIFF] = 5,       [STEPS_RESTORE] = 7,     [STEPS_RESTORE_PAUSED] = 2,
    [STEPS_FORK] = 3,       [STEPS_FORK_BUNDLE] = 2, [STEPS_POOL] = 2,
    [STEPS_COPY_IN] = 8,    [STEPS_COPY_OUT] = 8,    [STEPS_EXEC_WRITE] = 8,
    [STEPS_EXEC_READ] = 8,  [STEPS_EXEC_ECHO] = 8,   [STEPS_EXEC_TIMEOUT] = 2,
    [STEPS_EXEC_LARGE] = 4, [STEPS_STREAM] = 5,      [STEPS_TERMINAL] = 2,
    [STEPS_DETACH] = 4,     [STEPS_ATTACH] = 4,      [STEPS_PING] = 3,
    [STEPS_STATE] = 3,      [STEPS_WAIT] = 2,        [STEPS_CANCEL] = 3,
    [STEPS_CRASH] = 1,      [STEPS_FAIL_NEXT] = 1,   [STEPS_WORKING_SET] = 1,
    [STEPS_DETACHED] = 3,   [STEPS_CLIENT] = 5,      [STEPS_LOOK] = 2,
    [STEPS_HOST] = 3,       [STEPS_DESTROY] = 3,     [STEPS_SLEEP] = 3,
};
static_assert(ARRAY_SIZE(weights) == STEPS_ACTION_COUNT, "each has a weight");

static enum steps_action draw_action(struct sim_choices *choices) {
    uint64_t sum = 0;
    for (size_t i = 0; i < STEPS_ACTION_COUNT; i++) {
        ASSERT(weights[i] > 0);
        sum += weights[i];
    }
    uint64_t left = sim_choose(choices, sum);
    size_t action = 0;
    while (left >= weights[action]) {
        left -= weights[action++];
    }
    ASSERT(action < STEPS_ACTION_COUNT);
    return (enum steps_action)action;
}

static uint32_t draw_pause(struct sim_choices *choices) {
    static const uint32_t limits_ms[] = {1, 1, 1, 20, 500, STEPS_PAUSE_MS_MAX};
    ASSERT(choices);
    uint64_t limit_ms = limits_ms[sim_choose(choices, ARRAY_SIZE(limits_ms))];
    ASSERT(limit_ms > 0);
    return (uint32_t)sim_choose(choices, limit_ms);
}

static struct steps_step draw_step(struct sim_choices *choices, const struct steps_plan *plan) {
    ASSERT(plan->vm_count > 0);
    ASSERT(plan->thread_count > 0);
    return (struct steps_step){
        .action = draw_action(choices),
        .thread = (uint32_t)sim_choose(choices, plan->thread_count),
        .vm = (uint32_t)sim_choose(choices, plan->vm_count),
        .file = (uint32_t)sim_choose(choices, STEPS_FILE_COUNT),
        .bundle = (uint32_t)sim_choose(choices, STEPS_BUNDLE_COUNT),
        .value = (uint32_t)sim_choose(choices, UINT32_MAX),
        .pause_ms = draw_pause(choices),
    };
}

void steps_plan_init(struct steps_plan *plan, struct sim_choices *choices) {
    static const char *const backends[] = {"mock", "kvm",     "qemu",        "kvm",
                                           "mock", "libkrun", "firecracker", "auto"};
    ASSERT(plan && choices);
    *plan = (struct steps_plan){
        .vm_count = 1 + (uint32_t)sim_choose(choices, STEPS_VM_COUNT_MAX),
        .thread_count = 1 + (uint32_t)sim_choose(choices, STEPS_THREAD_COUNT_MAX),
        .step_count = 4 + (uint32_t)sim_choose(choices, STEPS_COUNT_MAX - 4),
    };
    for (size_t i = 0; i < plan->vm_count; i++) {
        plan->backends[i] = backends[sim_choose(choices, ARRAY_SIZE(backends))];
        plan->features[i] = (uint32_t)sim_choose(choices, STEPS_FEATURE_END);
        if (sim_choose(choices, OWNED_ONE_IN) == 0) {
            plan->features[i] |= STEPS_FEATURE_OWNED;
        }
    }
    for (size_t i = 0; i < plan->step_count; i++) {
        plan->steps[i] = draw_step(choices, plan);
    }
    /* Nothing happens without a machine: each VM's comes first, in a thread of its own if there is one. */
    for (uint32_t i = 0; i < plan->vm_count && 2 * i + 1 < plan->step_count; i++) {
        for (uint32_t j = 0; j < 2; j++) {
            struct steps_step *step = &plan->steps[2 * i + j];
            step->action = j == 0 ? STEPS_CREATE : STEPS_START;
            step->thread = i % plan->thread_count;
            step->vm = i;
            step->pause_ms = 0;
        }
    }
    ASSERT(plan->step_count <= STEPS_COUNT_MAX);
}
