/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The world as a whole: making and unmaking it, its events, what happens to it by itself. */
#include "sim/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

#define START_NS 1000000000ull /* a clock that begins at 0 hides mistakes with it */

/* How turns are dealt in this world: seeds differ in that too. */
static void draw_policy(struct sim_world *world) {
    static const uint32_t yields_ppm[] = {0, 20000, 100000, 300000, 1000000};
    ASSERT(world);
    ASSERT(ARRAY_SIZE(yields_ppm) > 0);
    world->yield_ppm = yields_ppm[sim_choose(&world->choices, ARRAY_SIZE(yields_ppm))];
    world->in_order = sim_choose(&world->choices, 8) == 7;
}

struct sim_world *sim_world_create(const struct sim_options *options) {
    ASSERT(options);
    struct sim_world *world = calloc(1, sizeof(*world));
    if (!world) {
        return NULL;
    }
    world->runnable = calloc(SIM_FIBER_COUNT_MAX, sizeof(struct sim_fiber *));
    world->heap = calloc(SIM_FIBER_COUNT_MAX, sizeof(struct sim_fiber *));
    if (!world->runnable || !world->heap) {
        sim_world_destroy(world);
        return NULL;
    }
    sim_faults_init(&world->faults, options->seed);
    if (options->bytes) {
        sim_choices_init_bytes(&world->choices, options->bytes, options->byte_count);
        world->faults.choices = &world->choices;
    } else {
        sim_choices_init(&world->choices, options->seed);
    }
    sim_context_init_thread(&world->thread);
    world->now_ns = START_NS;
    world->next_step_ns = START_NS + SIM_STEP_NS;
    world->event_count_max =
        options->event_count_max ? options->event_count_max : SIM_EVENT_COUNT_DEFAULT;
    world->turn = options->turn;
    world->turn_argument = options->turn_argument;
    world->log.line = options->line;
    world->log.line_argument = options->line_argument;
    draw_policy(world);
    return world;
}

void sim_world_destroy(struct sim_world *world) {
    ASSERT(world);
    ASSERT(!world->current);
    for (struct sim_process *process = world->processes; process; process = process->next) {
        sim_process_kill(process, 9);
    }
    for (struct sim_process *process = world->processes; process; process = process->next) {
        ASSERT(process->ended);
        process->holder_count = 0;
    }
    world->collect_wanted = true;
    sim_processes_collect(world);
    ASSERT(!world->processes);
    for (size_t i = 0; i < world->machine_count; i++) {
        sim_machine_destroy(world->machines[i]);
    }
    for (size_t i = 0; i < world->stack_count; i++) {
        free(world->stacks[i]);
    }
    free(world->runnable);
    free(world->heap);
    free(world);
}

void sim_world_fail(struct sim_world *world, const char *format, ...) {
    ASSERT(world);
    ASSERT(format);
    va_list args;
    va_start(args, format);
    if (world->failure[0] == '\0') {
        vsnprintf(world->failure, sizeof(world->failure), format, args);
    }
    va_end(args);
}

void sim_world_quiet(struct sim_world *world) {
    ASSERT(world);
    ASSERT(world->machine_count <= SIM_MACHINE_COUNT_MAX);
    world->faults.quiet = true;
    memset(world->cut_until_ns, 0, sizeof(world->cut_until_ns));
    sim_wake(&world->cut_changed);
}

/* ---- Events ----------------------------------------------------------------------------------- */

/* When, where and who; then what. */
static void tell(const struct sim_process *process, const char *what, const char *more) {
    const struct sim_world *world = process->world;
    ASSERT(world->log.line);
    ASSERT(what && more);
    sim_log_print(&world->log, "%14.6f ms  %s/%s[%d] %-15s %s%s%s", (double)world->now_ns / 1e6,
                  process->machine->name, process->program, process->id,
                  world->current ? world->current->name : "-", what, more[0] ? ": " : "", more);
}

bool sim_fault(struct sim_process *process, enum sim_fault fault) {
    struct sim_world *world = process->world;
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    ASSERT(world);
    if (process->immune || !sim_faults_ask(&world->faults, fault)) {
        return false;
    }
    sim_log_add(&world->log, world->current ? world->current->id : 0, SIM_EVENT_FAULT,
                (uint64_t)fault);
    if (world->log.line) {
        char name[SIM_LINE_SIZE / 2];
        snprintf(name, sizeof(name), "FAULT %s#%u", sim_fault_info(fault)->name,
                 world->faults.asked[fault] - 1);
        tell(process, name, sim_fault_info(fault)->what);
    }
    return true;
}

/* What may happen to the process whose fiber makes a call. May not return. */
static void strike(struct sim_process *process) {
    ASSERT(!process->ended);
    ASSERT(!process->immune);
    if (process->owner) {
        if (sim_fault(process, SIM_FAULT_OWNER_KILLED)) {
            sim_process_kill(process, 9);
        }
        if (sim_fault(process, SIM_FAULT_MACHINE_CRASHES)) {
            sim_machine_crash(process->machine);
        }
        return;
    }
    if (sim_fault(process, process->death)) {
        sim_process_kill(process, 9);
    }
    if (process->death == SIM_FAULT_VM_OWNER_KILLED) {
        return; /* the library's own code, which neither crashes nor hangs */
    }
    bool client = process->death == SIM_FAULT_CLIENT_KILLED; /* whose user may have stopped it */
    if (!client && sim_fault(process, SIM_FAULT_PROCESS_CRASHES)) {
        sim_process_kill(process, 11);
    }
    if (sim_fault(process, client ? SIM_FAULT_CLIENT_HANGS : SIM_FAULT_PROCESS_HANGS)) {
        process->hung = true;
    }
    if (process->hung) {
        sim_wait(process->world, UINT64_MAX, "nothing any more: it hangs");
    }
}

void sim_enter(struct host *host, enum sim_event event, uint64_t value) {
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    ASSERT(world->current);
    ASSERT(world->current->process == process);
    world->event_count++;
    uint64_t taken_ns = 1 + (sim_mix(world->event_count, 0, 0) & (SIM_EVENT_NS_MAX - 1));
    world->now_ns += taken_ns;
    process->cpu_ns += taken_ns;
    sim_log_add(&world->log, world->current->id, event, value);
    if (!process->immune) {
        strike(process);
    }
    if (world->event_count >= world->event_count_max ||
        (world->yield_ppm > 0 && sim_chance(&world->choices, world->yield_ppm))) {
        sim_yield(world);
    }
}

enum kelpie_status sim_leave(struct host *host, enum sim_event event, enum kelpie_status status) {
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    ASSERT(world->current);
    ASSERT((unsigned)event < SIM_EVENT_COUNT);
    sim_log_add(&world->log, world->current->id, event, (uint64_t)status);
    if (world->log.line) {
        tell(process, sim_event_name(event), status == KELPIE_OK ? "" : kelpie_status_name(status));
    }
    return status;
}

enum kelpie_status sim_error(struct kelpie_error *err, int os_error, const char *what) {
    ASSERT(os_error != 0);
    ASSERT(what);
    return error_set_os(err, os_error, "cannot %s", what);
}
