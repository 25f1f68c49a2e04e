/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Whose turn it is, and what time. The theory of operation is in world.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/world.h"

/* ---- Deadlines: a heap ------------------------------------------------------------------------ */

static bool earlier(const struct sim_fiber *a, const struct sim_fiber *b) {
    ASSERT(a && b);
    return a->wake_ns != b->wake_ns ? a->wake_ns < b->wake_ns : a->id < b->id;
}

static void heap_put(struct sim_world *world, size_t index, struct sim_fiber *fiber) {
    ASSERT(index < world->heap_count);
    world->heap[index] = fiber;
    fiber->index = index;
}

static void heap_up(struct sim_world *world, size_t index) {
    struct sim_fiber *fiber = world->heap[index];
    ASSERT(index < world->heap_count);
    while (index > 0 && earlier(fiber, world->heap[(index - 1) / 2])) {
        heap_put(world, index, world->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    heap_put(world, index, fiber);
}

static void heap_down(struct sim_world *world, size_t index) {
    struct sim_fiber *fiber = world->heap[index];
    ASSERT(index < world->heap_count);
    for (size_t child = 2 * index + 1; child < world->heap_count; child = 2 * index + 1) {
        if (child + 1 < world->heap_count && earlier(world->heap[child + 1], world->heap[child])) {
            child++;
        }
        if (!earlier(world->heap[child], fiber)) {
            break;
        }
        heap_put(world, index, world->heap[child]);
        index = child;
    }
    heap_put(world, index, fiber);
}

static void heap_add(struct sim_world *world, struct sim_fiber *fiber, uint64_t wake_ns) {
    ASSERT(!fiber->in_heap);
    ASSERT(world->heap_count < SIM_FIBER_COUNT_MAX);
    fiber->wake_ns = wake_ns;
    fiber->in_heap = true;
    world->heap[world->heap_count++] = fiber;
    heap_up(world, world->heap_count - 1);
}

static void heap_remove(struct sim_world *world, struct sim_fiber *fiber) {
    ASSERT(fiber->in_heap);
    ASSERT(world->heap[fiber->index] == fiber);
    size_t index = fiber->index;
    struct sim_fiber *moved = world->heap[--world->heap_count];
    fiber->in_heap = false;
    if (moved != fiber) {
        heap_put(world, index, moved);
        heap_up(world, index);
        heap_down(world, moved->index);
    }
}

/* ---- Those who can run ------------------------------------------------------------------------ */

static void runnable_add(struct sim_world *world, struct sim_fiber *fiber) {
    ASSERT(world->runnable_count < SIM_FIBER_COUNT_MAX);
    ASSERT(!fiber->in_heap && fiber->link_count == 0);
    fiber->state = SIM_FIBER_READY;
    fiber->index = world->runnable_count;
    world->runnable[world->runnable_count++] = fiber;
}

/* The order of the others stays: it is part of what a seed decides. */
static void runnable_remove(struct sim_world *world, size_t index) {
    ASSERT(index < world->runnable_count);
    world->runnable_count--;
    for (size_t i = index; i < world->runnable_count; i++) {
        world->runnable[i] = world->runnable[i + 1];
        world->runnable[i]->index = i;
    }
    ASSERT(world->runnable_count < SIM_FIBER_COUNT_MAX);
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

static void unlink_all(struct sim_fiber *fiber) {
    ASSERT(fiber->link_count <= SIM_LINK_COUNT_MAX);
    for (size_t i = 0; i < fiber->link_count; i++) {
        struct sim_link *link = &fiber->links[i];
        ASSERT(link->waiters);
        if (link->previous) {
            link->previous->next = link->next;
        } else {
            link->waiters->first = link->next;
        }
        if (link->next) {
            link->next->previous = link->previous;
        }
        link->waiters = NULL;
    }
    fiber->link_count = 0;
}

void sim_wait_add(struct sim_world *world, struct sim_waiters *waiters) {
    struct sim_fiber *fiber = world->current;
    ASSERT(fiber);
    ASSERT(fiber->link_count < SIM_LINK_COUNT_MAX);
    struct sim_link *link = &fiber->links[fiber->link_count++];
    *link = (struct sim_link){.fiber = fiber, .waiters = waiters, .next = waiters->first};
    if (link->next) {
        link->next->previous = link;
    }
    waiters->first = link;
}

/* It can go on: by a change, or because its time has come. Not one that stands still for good. */
static void make_ready(struct sim_fiber *fiber, bool woken) {
    struct sim_world *world = fiber->process->world;
    ASSERT(fiber->state == SIM_FIBER_WAITING);
    unlink_all(fiber);
    if (fiber->in_heap) {
        heap_remove(world, fiber);
    }
    if (!fiber->process->hung) {
        fiber->woken = woken;
        runnable_add(world, fiber);
    }
    ASSERT(fiber->link_count == 0);
}

void sim_wake(struct sim_waiters *waiters) {
    ASSERT(waiters);
    /* Bounded: each turn takes a link off. */
    while (waiters->first) {
        struct sim_fiber *fiber = waiters->first->fiber;
        make_ready(fiber, true);
        ASSERT(!waiters->first || waiters->first->fiber != fiber);
    }
}

/* Leaves the current fiber for whoever sim_world_run() picks. */
static void leave(struct sim_world *world, bool last) {
    struct sim_fiber *fiber = world->current;
    ASSERT(fiber);
    ASSERT(fiber->context.stack);
    sim_context_switch(&fiber->context, &world->thread, last);
    ASSERT(!last);
    ASSERT(world->current == fiber);
}

bool sim_wait(struct sim_world *world, uint64_t wake_ns, const char *what) {
    struct sim_fiber *fiber = world->current;
    ASSERT(fiber && what);
    ASSERT(fiber->state == SIM_FIBER_READY);
    fiber->state = SIM_FIBER_WAITING;
    fiber->woken = false;
    fiber->waits_for = what;
    if (wake_ns != UINT64_MAX) {
        heap_add(world, fiber, wake_ns);
    }
    leave(world, false);
    return fiber->woken;
}

void sim_yield(struct sim_world *world) {
    ASSERT(world->current);
    ASSERT(world->current->state == SIM_FIBER_READY);
    bool over = world->event_count >= world->event_count_max; /* then the loop ends the run */
    if (world->runnable_count > 0 || over) {
        runnable_add(world, world->current);
        leave(world, false);
    }
}

_Noreturn void sim_fiber_leave(struct sim_world *world) {
    ASSERT(world->current);
    ASSERT(world->zombie == world->current);
    leave(world, true);
    UNREACHABLE();
}

/* ---- Fibers ----------------------------------------------------------------------------------- */

static void fiber_entry(void *argument) {
    struct sim_fiber *fiber = argument;
    struct sim_world *world = fiber->process->world;
    ASSERT(world->current == fiber);
    fiber->entry(fiber->argument);
    ASSERT(world->current == fiber);
    sim_fiber_drop(fiber);
    sim_fiber_leave(world);
}

struct sim_fiber *sim_fiber_create(struct sim_process *process, const char *name,
                                   void (*entry)(void *argument), void *argument) {
    struct sim_world *world = process->world;
    ASSERT(name && entry);
    ASSERT(!process->ended);
    if (world->fiber_count == SIM_FIBER_COUNT_MAX) {
        return NULL;
    }
    struct sim_fiber *fiber = calloc(1, sizeof(*fiber));
    void *stack =
        world->stack_count > 0 ? world->stacks[--world->stack_count] : malloc(SIM_STACK_SIZE);
    if (!fiber || !stack) {
        free(fiber);
        free(stack);
        return NULL;
    }
    fiber->process = process;
    fiber->id = ++world->fiber_id_last;
    fiber->entry = entry;
    fiber->argument = argument;
    snprintf(fiber->name, sizeof(fiber->name), "%s", name);
    sim_context_init(&fiber->context, stack, SIM_STACK_SIZE, fiber_entry, fiber);
    fiber->next = process->fibers;
    process->fibers = fiber;
    process->fiber_count++;
    world->fiber_count++;
    runnable_add(world, fiber);
    return fiber;
}

static void fiber_free(struct sim_world *world, struct sim_fiber *fiber) {
    ASSERT(fiber->state == SIM_FIBER_DONE);
    ASSERT(world->fiber_count > 0);
    world->fiber_count--;
    if (world->stack_count < SIM_STACK_CACHE_COUNT_MAX) {
        world->stacks[world->stack_count++] = fiber->context.stack;
    } else {
        free(fiber->context.stack);
    }
    free(fiber);
}

void sim_fiber_drop(struct sim_fiber *fiber) {
    struct sim_process *process = fiber->process;
    struct sim_world *world = process->world;
    ASSERT(fiber->state != SIM_FIBER_DONE);
    unlink_all(fiber);
    if (fiber->in_heap) {
        heap_remove(world, fiber);
    } else if (fiber->state == SIM_FIBER_READY && fiber != world->current) {
        runnable_remove(world, fiber->index);
    }
    fiber->state = SIM_FIBER_DONE;
    sim_wake(&fiber->ended);
    struct sim_fiber **place = &process->fibers;
    while (*place != fiber) {
        ASSERT(*place);
        place = &(*place)->next;
    }
    *place = fiber->next;
    process->fiber_count--;
    if (fiber == world->current) {
        ASSERT(!world->zombie);
        world->zombie = fiber;
    } else {
        fiber_free(world, fiber);
    }
}

/* ---- The loop --------------------------------------------------------------------------------- */

static void wake_due(struct sim_world *world) {
    ASSERT(!world->current);
    ASSERT(world->heap_count <= SIM_FIBER_COUNT_MAX);
    while (world->heap_count > 0 && world->heap[0]->wake_ns <= world->now_ns) {
        make_ready(world->heap[0], false);
    }
}

/* Nobody can run: to the next deadline. False: there is none. */
static bool leap(struct sim_world *world) {
    ASSERT(world->runnable_count == 0);
    ASSERT(!world->current);
    if (world->heap_count == 0) {
        return false;
    }
    if (world->heap[0]->wake_ns > world->now_ns) {
        world->now_ns = world->heap[0]->wake_ns;
    }
    wake_due(world);
    return true;
}

static void tell_turn(struct sim_world *world, int process_id) {
    ASSERT(process_id >= 0);
    ASSERT(process_id <= world->process_id_last);
    if (world->turn) {
        world->turn(world->turn_argument, process_id);
    }
}

static void run_one(struct sim_world *world) {
    ASSERT(world->runnable_count > 0);
    size_t index = world->in_order ? 0 : sim_choose(&world->choices, world->runnable_count);
    struct sim_fiber *fiber = world->runnable[index];
    runnable_remove(world, index);
    ASSERT(fiber->state == SIM_FIBER_READY);
    if (sim_fault(fiber->process, SIM_FAULT_THREAD_STARVES)) {
        fiber->state = SIM_FIBER_WAITING;
        heap_add(world, fiber, world->now_ns + 1 + sim_choose(&world->choices, SIM_STARVE_NS_MAX));
        return;
    }
    world->current = fiber;
    tell_turn(world, fiber->process->id);
    sim_context_switch(&world->thread, &fiber->context, false);
    world->current = NULL;
    tell_turn(world, 0);
    if (world->zombie) {
        fiber_free(world, world->zombie);
        world->zombie = NULL;
    }
}

enum sim_end sim_world_run(struct sim_world *world) {
    ASSERT(!world->current);
    ASSERT(!world->zombie);
    for (;;) {
        if (world->event_count >= world->event_count_max) {
            return SIM_END_LIMIT;
        }
        wake_due(world);
        if (world->now_ns >= world->next_step_ns) {
            world->next_step_ns = world->now_ns + SIM_STEP_NS;
            sim_world_step(world);
        }
        sim_processes_collect(world);
        if (world->runnable_count > 0) {
            run_one(world);
        } else if (!leap(world)) {
            return world->fiber_count == 0 ? SIM_END_QUIET : SIM_END_STUCK;
        }
    }
}
