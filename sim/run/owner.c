/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The owner: threads that do the plan's steps, and what it does when they are done. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define WATCH_PERIOD_MS 600000
#define KILL_SIGNAL 9

/* What a thread is told. */
struct worker {
    struct scenario *scenario;
    uint32_t thread;
    struct host_thread *handle;
};

/* Its steps, in order. One that was begun is not begun again: the owner may have been killed in it. */
static void work(void *argument) {
    const struct worker *worker = argument;
    struct scenario *scenario = worker->scenario;
    uint32_t *next = &scenario->step_next[worker->thread];
    ASSERT(worker->thread < STEPS_THREAD_COUNT_MAX);
    while (*next < scenario->plan.step_count) {
        uint32_t number = (*next)++;
        const struct steps_step *step = &scenario->plan.steps[number];
        if (step->thread == worker->thread && !run_options_skip(scenario->options, number)) {
            sim_faults_begin_step(&scenario->world->faults, number);
            actions_do(scenario, step);
        }
    }
    ASSERT(*next == scenario->plan.step_count);
}

/* What an owner before this one had is gone with it. What it was doing may have happened, or not. */
static void forget_before(struct scenario *scenario) {
    ASSERT(scenario->plan.vm_count <= STEPS_VM_COUNT_MAX);
    for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
        struct scenario_vm *slot = &scenario->vms[i];
        if (slot->vm) {
            actions_check_history(scenario, i);
        }
        slot->vm = NULL;
        slot->users = 0;
        slot->interrupting = 0;
        slot->starting = 0;
        slot->closing = false;
    }
    for (uint32_t i = 0; i < scenario->bundle_count; i++) {
        ASSERT(scenario->bundles[i].path[0] == '/');
        if (scenario->bundles[i].state == SCENARIO_BUNDLE_PENDING) {
            scenario->bundles[i].state = SCENARIO_BUNDLE_FAILED;
        }
    }
}

/* Whoever waits for a command of a VM that somebody else paused waits until this ends it. */
static void watch(void *argument) {
    struct scenario *scenario = argument;
    struct kelpie_error ignored;
    ASSERT(scenario->host);
    while (!scenario->steps_done) {
        struct host_wait wait =
            host_wait_ms(scenario->host, WATCH_PERIOD_MS, scenario->steps_done_event);
        (void)!host_sleep(scenario->host, &wait, &ignored);
        for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
            struct scenario_vm *slot = &scenario->vms[i];
            ASSERT(slot->vm || slot->users == 0);
            if (slot->users > 0 && !slot->closing) {
                slot->users++;
                actions_interrupt_begin(scenario, slot);
                actions_interrupt_end(scenario, slot);
                kelpie_vm_cancel(slot->vm);
                slot->users--;
            }
        }
    }
}

int owner_main(void *argument) {
    struct scenario *scenario = argument;
    struct worker workers[STEPS_THREAD_COUNT_MAX];
    struct kelpie_error ignored;
    ASSERT(scenario->owner);
    ASSERT(scenario->plan.thread_count <= STEPS_THREAD_COUNT_MAX);
    scenario->host = &scenario->owner->host;
    forget_before(scenario);
    scenario->steps_done = false;
    struct host_thread *watchdog = NULL;
    if (host_event_create(scenario->host, &scenario->steps_done_event, &ignored) != KELPIE_OK ||
        host_thread_start(scenario->host, "watchdog", watch, scenario, &watchdog, &ignored) !=
            KELPIE_OK) {
        sim_process_kill(scenario->owner,
                         KILL_SIGNAL); /* an owner that cannot begin is started anew */
    }
    owned_revisit(scenario);
    for (uint32_t i = 0; i < scenario->plan.thread_count; i++) {
        workers[i] = (struct worker){.scenario = scenario, .thread = i};
        if (i > 0 && host_thread_start(scenario->host, "worker", work, &workers[i],
                                       &workers[i].handle, &ignored) != KELPIE_OK) {
            work(&workers[i]);
        }
    }
    work(&workers[0]);
    for (uint32_t i = 0; i < scenario->plan.thread_count; i++) {
        host_thread_join(workers[i].handle);
    }
    scenario->steps_done = true;
    host_event_set(scenario->host, scenario->steps_done_event);
    sim_world_quiet(scenario->world);
    host_thread_join(watchdog);
    host_close(scenario->host, scenario->steps_done_event);
    rest_check(scenario);
    return 0;
}
