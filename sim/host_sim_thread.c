/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated host's threads, mutexes and conditions. Destroying one that is in use is an assertion. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/world.h"

struct host_thread {
    struct sim_object object; /* first */
    struct sim_fiber *fiber;  /* NULL: it has ended */
    host_thread_entry entry;
    void *argument;
    struct sim_waiters ended;
    bool done;
};

struct host_mutex {
    struct sim_object object;
    struct sim_fiber *owner; /* NULL: free */
    struct sim_waiters freed;
};

struct host_condition {
    struct sim_object object;
    size_t waiting;
    struct sim_waiters changed;
};

static void object_free(struct sim_object *object) {
    ASSERT(object);
    ASSERT(!object->next);
    free(object);
}

static struct host *host_of(const struct sim_object *object) {
    ASSERT(object->process);
    ASSERT(!object->process->ended);
    return &object->process->host;
}

/* ---- Threads ---------------------------------------------------------------------------------- */

static void thread_entry(void *argument) {
    struct host_thread *thread = argument;
    ASSERT(!thread->done);
    ASSERT(thread->entry);
    thread->entry(thread->argument);
    thread->done = true;
    thread->fiber = NULL;
    sim_wake(&thread->ended);
}

static enum kelpie_status start(struct sim_process *process, struct host_thread *thread,
                                const char *name, struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(strlen(name) <= HOST_THREAD_NAME_SIZE_MAX);
    if (!thread) {
        return sim_error(err, ENOMEM, "start a thread");
    }
    if (!sim_fault(process, SIM_FAULT_THREAD_FAILS)) {
        thread->fiber = sim_fiber_create(process, name, thread_entry, thread);
    }
    if (!thread->fiber) {
        free(thread);
        return sim_error(err, EAGAIN, "start a thread");
    }
    return KELPIE_OK;
}

enum kelpie_status sim_host_thread_start(struct host *host, const char *name,
                                         host_thread_entry entry, void *argument,
                                         struct host_thread **ret_thread,
                                         struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(entry);
    ASSERT(ret_thread);
    sim_enter(host, SIM_EVENT_THREAD_START, 0);
    struct host_thread *thread = calloc(1, sizeof(*thread));
    if (thread) {
        thread->entry = entry;
        thread->argument = argument;
        thread->object.release = object_free;
    }
    enum kelpie_status status = start(process, thread, name, err);
    if (status == KELPIE_OK) {
        sim_object_add(process, &thread->object);
        *ret_thread = thread;
    }
    return sim_leave(host, SIM_EVENT_THREAD_START, status);
}

void sim_host_thread_join(struct host_thread *thread) {
    struct host *host = host_of(&thread->object);
    struct sim_world *world = sim_process_of(host)->world;
    sim_enter(host, SIM_EVENT_THREAD_JOIN, 0);
    ASSERT(thread->fiber != world->current);
    while (!thread->done) {
        sim_wait_add(world, &thread->ended);
        (void)sim_wait(world, UINT64_MAX, "a thread to end");
    }
    ASSERT(!thread->fiber);
    sim_object_remove(&thread->object);
    free(thread);
    (void)sim_leave(host, SIM_EVENT_THREAD_JOIN, KELPIE_OK);
}

/* ---- Mutexes ---------------------------------------------------------------------------------- */

enum kelpie_status sim_host_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                         struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(ret_mutex);
    sim_enter(host, SIM_EVENT_MUTEX_CREATE, 0);
    struct host_mutex *mutex =
        sim_fault(process, SIM_FAULT_MUTEX_FAILS) ? NULL : calloc(1, sizeof(*mutex));
    if (!mutex) {
        return sim_leave(host, SIM_EVENT_MUTEX_CREATE, sim_error(err, ENOMEM, "make a mutex"));
    }
    mutex->object.release = object_free;
    sim_object_add(process, &mutex->object);
    *ret_mutex = mutex;
    ASSERT(!mutex->owner);
    return sim_leave(host, SIM_EVENT_MUTEX_CREATE, KELPIE_OK);
}

void sim_host_mutex_destroy(struct host_mutex *mutex) {
    ASSERT(!mutex->owner);
    ASSERT(!mutex->freed.first);
    sim_object_remove(&mutex->object);
    free(mutex);
}

static void take(struct sim_world *world, struct host_mutex *mutex) {
    ASSERT(mutex->owner != world->current); /* it has it already */
    while (mutex->owner) {
        sim_wait_add(world, &mutex->freed);
        (void)sim_wait(world, UINT64_MAX, "a mutex");
    }
    mutex->owner = world->current;
    ASSERT(mutex->owner);
}

static void give(struct sim_world *world, struct host_mutex *mutex) {
    ASSERT(mutex->owner == world->current);
    ASSERT(mutex->owner);
    mutex->owner = NULL;
    sim_wake(&mutex->freed);
}

void sim_host_mutex_lock(struct host_mutex *mutex) {
    struct host *host = host_of(&mutex->object);
    sim_enter(host, SIM_EVENT_MUTEX_LOCK, 0);
    take(sim_process_of(host)->world, mutex);
    (void)sim_leave(host, SIM_EVENT_MUTEX_LOCK, KELPIE_OK);
    ASSERT(mutex->owner);
}

/* The call is over before the lock is free: who has it next may destroy it. */
void sim_host_mutex_unlock(struct host_mutex *mutex) {
    struct host *host = host_of(&mutex->object);
    struct sim_world *world = sim_process_of(host)->world;
    ASSERT(mutex->owner == world->current);
    ASSERT(mutex->object.release == object_free);
    sim_enter(host, SIM_EVENT_MUTEX_UNLOCK, 0);
    give(world, mutex);
    (void)sim_leave(host, SIM_EVENT_MUTEX_UNLOCK, KELPIE_OK);
}

/* ---- Conditions ------------------------------------------------------------------------------- */

enum kelpie_status sim_host_condition_create(struct host *host,
                                             struct host_condition **ret_condition,
                                             struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(ret_condition);
    sim_enter(host, SIM_EVENT_CONDITION_CREATE, 0);
    struct host_condition *condition =
        sim_fault(process, SIM_FAULT_CONDITION_FAILS) ? NULL : calloc(1, sizeof(*condition));
    if (!condition) {
        return sim_leave(host, SIM_EVENT_CONDITION_CREATE,
                         sim_error(err, ENOMEM, "make a condition"));
    }
    condition->object.release = object_free;
    sim_object_add(process, &condition->object);
    *ret_condition = condition;
    ASSERT(!condition->changed.first);
    return sim_leave(host, SIM_EVENT_CONDITION_CREATE, KELPIE_OK);
}

void sim_host_condition_destroy(struct host_condition *condition) {
    ASSERT(condition->waiting == 0);
    ASSERT(!condition->changed.first);
    sim_object_remove(&condition->object);
    free(condition);
}

bool sim_host_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                             uint64_t deadline_ns) {
    struct host *host = host_of(&condition->object);
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    sim_enter(host, SIM_EVENT_CONDITION_WAIT, 0);
    ASSERT(mutex->owner == world->current);
    uint64_t wake_ns = sim_machine_true_ns(process->machine, deadline_ns);
    bool early = sim_fault(process, SIM_FAULT_CONDITION_WAKES_EARLY);
    condition->waiting++;
    /* From unlock to wait nothing comes in between: no broadcast is missed. */
    give(world, mutex);
    sim_wait_add(world, &condition->changed);
    ASSERT(mutex->owner != world->current);
    bool woken = sim_wait(world, early ? world->now_ns : wake_ns, "a condition") || early;
    ASSERT(condition->waiting > 0);
    condition->waiting--;
    take(world, mutex);
    (void)sim_leave(host, SIM_EVENT_CONDITION_WAIT, KELPIE_OK);
    return woken;
}

void sim_host_condition_broadcast(struct host_condition *condition) {
    struct host *host = host_of(&condition->object);
    ASSERT(condition->object.release == object_free);
    sim_enter(host, SIM_EVENT_CONDITION_BROADCAST, condition->waiting);
    sim_wake(&condition->changed);
    (void)sim_leave(host, SIM_EVENT_CONDITION_BROADCAST, KELPIE_OK);
}
