/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Threads and locks of a simulated program. What would be an assertion of the host's is an error here. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/kelpie_sim_internal.h"

#define NS_PER_MS 1000000ull

struct kelpie_sim_thread {
    struct sim_api_tool tool; /* first */
    struct host_thread *host;
    kelpie_sim_entry entry;
    void *argument;
    const struct sim_fiber *fiber; /* NULL: it has not begun */
    bool joined;                   /* somebody does */
};

struct kelpie_sim_mutex {
    struct sim_api_tool tool;
    struct host_mutex *host;
    const struct sim_fiber *owner; /* NULL: nobody */
    size_t user_count;             /* threads in the midst of a call with it */
};

struct kelpie_sim_condition {
    struct sim_api_tool tool;
    struct host_condition *host;
    size_t user_count;
};

static struct host *host_of(const struct sim_api_tool *tool) {
    ASSERT(tool->sim);
    ASSERT(tool->sim->process);
    return &tool->sim->process->host;
}

/* ---- Threads ---------------------------------------------------------------------------------- */

static void thread_entry(void *argument) {
    struct kelpie_sim_thread *thread = argument;
    ASSERT(thread->entry);
    thread->fiber = thread->tool.sim->world->current;
    ASSERT(thread->fiber);
    thread->entry(thread->argument);
}

enum kelpie_status kelpie_sim_thread_start(struct kelpie_sim *sim, const char *name,
                                           kelpie_sim_entry entry, void *argument,
                                           struct kelpie_sim_thread **ret_thread,
                                           struct kelpie_error *err) {
    ASSERT(entry);
    ASSERT(ret_thread);
    name = name ? name : "thread";
    TRY(sim_api_inside(sim, "start a thread", err));
    if (strlen(name) > HOST_THREAD_NAME_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name",
                               "a thread's name is longer than %d characters",
                               HOST_THREAD_NAME_SIZE_MAX);
    }
    struct kelpie_sim_thread *thread = sim_api_tool_create(sim, sizeof(*thread), err);
    if (!thread) {
        return KELPIE_NO_MEMORY;
    }
    thread->entry = entry;
    thread->argument = argument;
    enum kelpie_status status =
        host_thread_start(host_of(&thread->tool), name, thread_entry, thread, &thread->host, err);
    if (status != KELPIE_OK) {
        sim_api_tool_destroy(&thread->tool);
        return status;
    }
    *ret_thread = thread;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_thread_join(struct kelpie_sim_thread *thread,
                                          struct kelpie_error *err) {
    ASSERT(thread);
    TRY(sim_api_inside(thread->tool.sim, "join a thread", err));
    if (thread->joined || thread->fiber == thread->tool.sim->world->current) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot join a thread: %s",
                         thread->joined ? "another does already" : "it would wait for itself");
    }
    thread->joined = true;
    ASSERT(thread->host);
    host_thread_join(thread->host);
    sim_api_tool_destroy(&thread->tool);
    return KELPIE_OK;
}

/* ---- Mutexes ---------------------------------------------------------------------------------- */

enum kelpie_status kelpie_sim_mutex_create(struct kelpie_sim *sim,
                                           struct kelpie_sim_mutex **ret_mutex,
                                           struct kelpie_error *err) {
    ASSERT(ret_mutex);
    TRY(sim_api_inside(sim, "make a mutex", err));
    struct kelpie_sim_mutex *mutex = sim_api_tool_create(sim, sizeof(*mutex), err);
    if (!mutex) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status = host_mutex_create(host_of(&mutex->tool), &mutex->host, err);
    if (status != KELPIE_OK) {
        sim_api_tool_destroy(&mutex->tool);
        return status;
    }
    ASSERT(mutex->host);
    *ret_mutex = mutex;
    return KELPIE_OK;
}

static bool has_mutex(const struct kelpie_sim_mutex *mutex) {
    ASSERT(mutex->tool.sim->world->current);
    ASSERT(mutex->host);
    return mutex->owner == mutex->tool.sim->world->current;
}

enum kelpie_status kelpie_sim_mutex_lock(struct kelpie_sim_mutex *mutex, struct kelpie_error *err) {
    ASSERT(mutex);
    ASSERT(mutex->host);
    TRY(sim_api_inside(mutex->tool.sim, "lock", err));
    if (has_mutex(mutex)) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot lock: this thread has the lock already");
    }
    mutex->user_count++;
    host_mutex_lock(mutex->host);
    mutex->user_count--;
    ASSERT(!mutex->owner);
    mutex->owner = mutex->tool.sim->world->current;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_mutex_unlock(struct kelpie_sim_mutex *mutex,
                                           struct kelpie_error *err) {
    ASSERT(mutex);
    ASSERT(mutex->host);
    TRY(sim_api_inside(mutex->tool.sim, "unlock", err));
    if (!has_mutex(mutex)) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot unlock: this thread has no such lock");
    }
    /* The host's call may end a turn before the lock is free, and not behind that. */
    mutex->user_count++;
    mutex->owner = NULL;
    host_mutex_unlock(mutex->host);
    mutex->user_count--;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_mutex_destroy(struct kelpie_sim_mutex *mutex,
                                            struct kelpie_error *err) {
    ASSERT(mutex);
    TRY(sim_api_inside(mutex->tool.sim, "destroy a mutex", err));
    if (mutex->owner || mutex->user_count > 0) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot destroy a mutex that is in use");
    }
    host_mutex_destroy(mutex->host);
    sim_api_tool_destroy(&mutex->tool);
    return KELPIE_OK;
}

/* ---- Conditions ------------------------------------------------------------------------------- */

enum kelpie_status kelpie_sim_condition_create(struct kelpie_sim *sim,
                                               struct kelpie_sim_condition **ret_condition,
                                               struct kelpie_error *err) {
    ASSERT(ret_condition);
    TRY(sim_api_inside(sim, "make a condition", err));
    struct kelpie_sim_condition *condition = sim_api_tool_create(sim, sizeof(*condition), err);
    if (!condition) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status =
        host_condition_create(host_of(&condition->tool), &condition->host, err);
    if (status != KELPIE_OK) {
        sim_api_tool_destroy(&condition->tool);
        return status;
    }
    ASSERT(condition->host);
    *ret_condition = condition;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_condition_wait(struct kelpie_sim_condition *condition,
                                             struct kelpie_sim_mutex *mutex, uint32_t timeout_ms,
                                             struct kelpie_error *err) {
    ASSERT(condition && mutex);
    TRY(sim_api_inside(condition->tool.sim, "wait for a condition", err));
    if (!has_mutex(mutex)) {
        return error_set(err, KELPIE_WRONG_STATE,
                         "cannot wait for a condition: this thread does not have the mutex");
    }
    uint64_t deadline_ns =
        timeout_ms == 0 ? UINT64_MAX
                        : host_monotonic_ns(host_of(&condition->tool)) + timeout_ms * NS_PER_MS;
    condition->user_count++;
    mutex->user_count++;
    mutex->owner = NULL;
    bool woken = host_condition_wait(condition->host, mutex->host, deadline_ns);
    condition->user_count--;
    mutex->user_count--;
    ASSERT(!mutex->owner);
    mutex->owner = mutex->tool.sim->world->current;
    return woken ? KELPIE_OK
                 : error_set(err, KELPIE_TIMED_OUT, "nobody signalled the condition within %u ms",
                             timeout_ms);
}

enum kelpie_status kelpie_sim_condition_broadcast(struct kelpie_sim_condition *condition,
                                                  struct kelpie_error *err) {
    ASSERT(condition);
    TRY(sim_api_inside(condition->tool.sim, "signal a condition", err));
    ASSERT(condition->host);
    condition->user_count++;
    host_condition_broadcast(condition->host);
    condition->user_count--;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_condition_destroy(struct kelpie_sim_condition *condition,
                                                struct kelpie_error *err) {
    ASSERT(condition);
    ASSERT(condition->host);
    TRY(sim_api_inside(condition->tool.sim, "destroy a condition", err));
    if (condition->user_count > 0) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot destroy a condition that is in use");
    }
    host_condition_destroy(condition->host);
    sim_api_tool_destroy(&condition->tool);
    return KELPIE_OK;
}
