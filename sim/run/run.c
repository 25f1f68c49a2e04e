/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One run: its world, its owner, started anew as often as it is killed, and what is left in the end. */
#include "sim/run/run.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/heap.h"
#include "sim/run/scenario.h"

#define EVENT_COUNT_MAX 3000000ull
#define INTENSITIES_COUNT 4

/* The operator: nothing happens to it. It starts the owner, and starts it again. */
static int operator_main(void *argument) {
    struct scenario *scenario = argument;
    struct sim_world *world = scenario->world;
    ASSERT(scenario->machine);
    do {
        if (scenario->owner_count == SCENARIO_OWNER_COUNT_MAX) {
            sim_world_quiet(world);
        }
        scenario->owner_count++;
        const struct sim_process_options options = {
            .name = "owner", .main = owner_main, .argument = scenario, .owner = true};
        scenario->owner = sim_process_start(scenario->machine, &options);
        ASSERT(scenario->owner);
        ASSERT(scenario->owner_count <= SCENARIO_OWNER_COUNT_MAX + 1);
        sim_process_await(scenario->owner);
        bool killed = scenario->owner->killed;
        sim_process_forget(scenario->owner);
        if (!killed) {
            break;
        }
    } while (scenario->owner_count <= SCENARIO_OWNER_COUNT_MAX);
    rest_check_machine(scenario);
    return 0;
}

/* Some runs have no fault at all: what happens there happens by turns alone. */
static void draw_faults(struct scenario *scenario) {
    static const uint32_t intensities_ppm[INTENSITIES_COUNT] = {0, 100000, 500000, SIM_PPM};
    struct sim_faults *faults = &scenario->world->faults;
    uint64_t which = sim_choose(&scenario->world->choices, INTENSITIES_COUNT);
    ASSERT(which < INTENSITIES_COUNT);
    ASSERT(!faults->quiet);
    sim_faults_draw(faults, intensities_ppm[which]);
    run_options_limit_faults(scenario->options, faults);
}

static void write_line(void *argument, const char *text) {
    struct scenario *scenario = argument;
    ASSERT(scenario->options->timeline);
    ASSERT(text);
    fputs(text, scenario->options->timeline);
    fputc('\n', scenario->options->timeline);
}

static void say_who_waits(struct scenario *scenario, const char *what) {
    const struct sim_world *world = scenario->world;
    char text[256] = "";
    size_t used = 0;
    for (const struct sim_process *p = world->processes; p; p = p->next) {
        for (const struct sim_fiber *f = p->fibers; f && !p->hung; f = f->next) {
            int size = snprintf(text + used, sizeof(text) - used, "; %s/%s for %s", p->program,
                                f->name, f->waits_for ? f->waits_for : "nothing");
            used += size > 0 && (size_t)size < sizeof(text) - used ? (size_t)size : 0;
            ASSERT(used < sizeof(text));
        }
    }
    ASSERT(world->fiber_count > 0);
    ASSERT(what);
    sim_world_fail(scenario->world, "%s%s", what, text);
}

static void report(struct scenario *scenario) {
    const struct sim_world *world = scenario->world;
    struct run_result *result = scenario->result;
    static_assert(sizeof(result->reason) > sizeof(world->failure), "it fits");
    result->failed = world->failure[0] != '\0';
    memcpy(result->reason, world->failure, sizeof(world->failure));
    result->hash = world->log.hash;
    result->event_count = world->event_count;
    result->simulated_ns = world->now_ns;
    memcpy(result->asked, world->faults.asked, sizeof(result->asked));
    memcpy(result->fired, world->faults.fired, sizeof(result->fired));
    ASSERT(world->event_count > 0);
    ASSERT(result->step_count <= STEPS_COUNT_MAX);
}

static bool set_up(struct scenario *scenario) {
    const struct run_options *options = scenario->options;
    const struct sim_options world_options = {
        .seed = options->seed,
        .bytes = options->bytes,
        .byte_count = options->byte_count,
        .event_count_max = EVENT_COUNT_MAX,
        .line = options->timeline ? write_line : NULL,
        .line_argument = scenario,
    };
    ASSERT(!scenario->world);
    ASSERT(!scenario->machine);
    scenario->world = sim_world_create(&world_options);
    if (!scenario->world) {
        return false;
    }
    steps_plan_init(&scenario->plan, &scenario->world->choices);
    if (options->step_count_max > 0 && scenario->plan.step_count > options->step_count_max) {
        scenario->plan.step_count = options->step_count_max;
    }
    scenario->result->step_count = scenario->plan.step_count;
    draw_faults(scenario);
    sim_faults_copy(&scenario->world->faults, scenario->result->events,
                    &scenario->result->event_fault_count);
    scenario->machine = sim_machine_create(scenario->world, "host");
    struct sim_machine *control = sim_machine_create(scenario->world, "control");
    if (!scenario->machine || !control || !sim_machine_furnish(scenario->machine)) {
        return false;
    }
    model_shelf_init(&scenario->shelf);
    const struct sim_process_options operator_options = {
        .name = "operator", .main = operator_main, .argument = scenario, .immune = true};
    scenario->operator_ = sim_process_start(control, &operator_options);
    return scenario->operator_ != NULL;
}

static void run_once(const struct run_options *options, struct run_result *ret_result) {
    struct scenario *scenario = calloc(1, sizeof(*scenario));
    ASSERT(options);
    ASSERT(ret_result);
    *ret_result = (struct run_result){0};
    if (!scenario) {
        return;
    }
    scenario->options = options;
    scenario->result = ret_result;
    if (set_up(scenario)) {
        enum sim_end end = sim_world_run(scenario->world);
        if (end == SIM_END_STUCK) {
            say_who_waits(scenario, "stuck: everybody waits");
        } else if (end == SIM_END_LIMIT) {
            say_who_waits(scenario, "no rest: events without end");
        }
        report(scenario);
        sim_process_forget(scenario->operator_);
    }
    ret_result->lost_memory = scenario->world && scenario->world->lost_memory;
    if (scenario->world) {
        sim_world_destroy(scenario->world);
    }
    free(scenario);
}

/* What is made once and kept (by libraries) is no leak: a run that seems to have one is made again. */
void run_seed(const struct run_options *options, struct run_result *ret_result) {
    int64_t before = heap_block_count();
    ASSERT(options);
    run_once(options, ret_result);
    if (!ret_result->failed && !ret_result->lost_memory && !heap_check()) {
        ret_result->failed = true;
        snprintf(ret_result->reason, sizeof(ret_result->reason), "leak: of memory");
    }
    if (ret_result->failed || ret_result->lost_memory || heap_block_count() <= before ||
        options->timeline) {
        return;
    }
    before = heap_block_count();
    run_once(options, ret_result);
    int64_t more = heap_block_count() - before;
    if (!ret_result->failed && more > 0) {
        ret_result->failed = true;
        snprintf(ret_result->reason, sizeof(ret_result->reason), "leak: %lld blocks of memory",
                 (long long)more);
    }
    ASSERT(ret_result->event_count > 0);
    ASSERT(!ret_result->failed || ret_result->reason[0] != 0);
}
