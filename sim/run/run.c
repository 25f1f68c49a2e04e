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
        scenario->owner_id = killed ? 0 : (uint32_t)scenario->owner->id;
        sim_process_forget(scenario->owner);
        if (!killed) {
            break;
        }
    } while (scenario->owner_count <= SCENARIO_OWNER_COUNT_MAX);
    sim_process_kill(scenario->echo, 9);
    sim_process_forget(scenario->echo);
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

/* What is counted of a run. */
struct scenario_memory {
    int64_t before; /* blocks that nobody in particular had */
    int64_t more;
    uint32_t owner_id; /* that ended by itself; 0: none did */
};

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

static void take_turn(void *argument, int process_id) {
    ASSERT(!argument);
    ASSERT(process_id >= 0);
    heap_owner_set((uint32_t)process_id);
}

static bool set_up(struct scenario *scenario) {
    const struct run_options *options = scenario->options;
    const struct sim_options world_options = {
        .seed = options->seed,
        .bytes = options->bytes,
        .byte_count = options->byte_count,
        .event_count_max = EVENT_COUNT_MAX,
        .turn = take_turn,
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
    for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
        if (!contents_put_disk(scenario, i)) {
            return false;
        }
    }
    const struct sim_process_options echo_options = {
        .name = "echo", .main = actions_echo_main, .argument = scenario};
    scenario->echo = sim_process_start(control, &echo_options);
    model_shelf_init(&scenario->shelf);
    const struct sim_process_options operator_options = {
        .name = "operator", .main = operator_main, .argument = scenario, .immune = true};
    scenario->operator_ = sim_process_start(control, &operator_options);
    return scenario->operator_ && scenario->echo;
}

static void run_once(const struct run_options *options, struct run_result *ret_result,
                     struct scenario_memory *memory) {
    ASSERT(memory);
    heap_owners_reset();
    *memory = (struct scenario_memory){.before = heap_block_count(0)};
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
        memory->owner_id = scenario->owner_id;
        sim_process_forget(scenario->operator_);
    }
    if (scenario->world) {
        sim_world_destroy(scenario->world);
    }
    free(scenario);
}

/*
 * Memory that nobody gave back. What a process that was killed had is lost, as it would be. What libraries make once and keep
 * is no leak: a run that seems to have one is made again.
 */
static bool leaks(struct scenario_memory *memory, const struct run_result *result) {
    int64_t more = heap_block_count(0) - memory->before;
    ASSERT(memory->owner_id < HEAP_OWNER_COUNT_MAX);
    if (memory->owner_id > 0) {
        more += heap_block_count(memory->owner_id);
    }
    ASSERT(memory->before > INT64_MIN / 2);
    memory->more = more;
    return !result->failed && memory->owner_id > 0 && more > 0;
}

void run_seed(const struct run_options *options, struct run_result *ret_result) {
    struct scenario_memory memory = {0};
    ASSERT(options);
    ASSERT(ret_result);
    run_once(options, ret_result, &memory);
    if (options->timeline || !leaks(&memory, ret_result)) {
        return;
    }
    run_once(options, ret_result, &memory);
    if (leaks(&memory, ret_result)) {
        ret_result->failed = true;
        snprintf(ret_result->reason, sizeof(ret_result->reason), "leak: %lld blocks of memory",
                 (long long)memory.more);
    }
}
