/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * world_harness_test.h: a simulated world with one furnished machine and one process of ours, in which a test's body runs: for
 * tests that include it.
 */
#ifndef KELPIE_SIM_WORLD_HARNESS_TEST_H
#define KELPIE_SIM_WORLD_HARNESS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sim/world.h"

#define HARNESS_EVENT_COUNT_MAX 3000000

/* What a process had allocated is nobody's when it is killed; jansson is built without frame pointers, so that it cannot be told whose
 * its objects are. Asked by the leak sanitizer. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\nleak:libjansson\n";
}

static struct sim_world *world;
static struct host *host; /* of the process that uses the library */

static int run_body(void *argument) {
    void (*const *body)(void) = argument;
    (*body)();
    return 0;
}

/* The body must come to its end, and the world to rest. Returns what all that happened is in one number. */
static uint64_t run_world(uint64_t seed, void (*body)(void)) {
    const struct sim_options options = {.seed = seed, .event_count_max = HARNESS_EVENT_COUNT_MAX};
    const struct sim_process_options process_options = {
        .name = "test", .main = run_body, .argument = &body, .owner = true};
    world = sim_world_create(&options);
    assert_non_null(world);
    struct sim_machine *machine = sim_machine_create(world, "host");
    assert_non_null(machine);
    assert_true(sim_machine_furnish(machine));
    struct sim_process *process = sim_process_start(machine, &process_options);
    assert_non_null(process);
    host = &process->host;
    enum sim_end end = sim_world_run(world);
    if (end != SIM_END_QUIET || world->failure[0] || !process->ended) {
        fail_msg("seed %llu: end %d, %s", (unsigned long long)seed, (int)end, world->failure);
    }
    const uint64_t hash = sim_mix(world->log.hash, world->event_count, world->now_ns);
    sim_process_forget(process);
    sim_world_destroy(world);
    return hash;
}

#endif
