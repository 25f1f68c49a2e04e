/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The fault host's processes, threads, mutexes and conditions: wrappers around the inner host's. */
#include "fault_host_internal.h"

#include <stdlib.h>

#include "base/error.h"

struct host_process {
    struct host *host;
    struct host_process *inner;
};

struct host_thread {
    struct host *host;
    struct host_thread *inner;
};

struct host_mutex {
    struct host *host;
    struct host_mutex *inner;
};

struct host_condition {
    struct host *host;
    struct host_condition *inner;
};

/* The wrapper around an inner object: two pointers, whatever it is. Not a call of the host's. */
static void *allocate_wrapper(struct kelpie_error *err) {
    static_assert(sizeof(struct host_process) == 2 * sizeof(void *), "two pointers");
    static_assert(sizeof(struct host_condition) == 2 * sizeof(void *), "two pointers");
    void *wrapper = calloc(1, 2 * sizeof(void *));
    if (!wrapper) {
        error_set(err, KELPIE_NO_MEMORY, "cannot allocate a wrapper");
    }
    return wrapper;
}

enum kelpie_status fault_process_spawn(struct host *host, const struct host_process_spec *spec,
                                       struct host_process **ret_process,
                                       struct kelpie_error *err) {
    TRY(fault_enter(host, "process_spawn", err));
    struct host_process *process = allocate_wrapper(err);
    if (!process) {
        return KELPIE_NO_MEMORY;
    }
    process->host = host;
    enum kelpie_status status = host_process_spawn(inner_of(host), spec, &process->inner, err);
    if (status != KELPIE_OK) {
        free(process);
        return status;
    }
    fault_note_thing(host, "process_spawn", process);
    *ret_process = process;
    return KELPIE_OK;
}

int fault_process_fd(struct host_process *process) {
    return host_process_fd(process->inner);
}

int fault_process_id(struct host_process *process) {
    return host_process_id(process->inner);
}

enum kelpie_status fault_process_usage(struct host *host, int process_id,
                                       struct host_process_usage *ret_usage,
                                       struct kelpie_error *err) {
    TRY(fault_enter(host, "process_usage", err));
    return host_process_usage(inner_of(host), process_id, ret_usage, err);
}

enum kelpie_status fault_process_signal(struct host_process *process, int signal_number,
                                        struct kelpie_error *err) {
    TRY(fault_enter(process->host, "process_signal", err));
    return host_process_signal(process->inner, signal_number, err);
}

enum kelpie_status fault_process_wait(struct host_process *process, const struct host_wait *wait,
                                      struct host_process_exit *ret_exit,
                                      struct kelpie_error *err) {
    TRY(fault_enter(process->host, "process_wait", err));
    return host_process_wait(process->inner, wait, ret_exit, err);
}

void fault_process_destroy(struct host_process *process) {
    fault_forget_thing(process->host, process);
    host_process_destroy(process->inner);
    free(process);
}

enum kelpie_status fault_thread_start(struct host *host, const char *name, host_thread_entry entry,
                                      void *argument, struct host_thread **ret_thread,
                                      struct kelpie_error *err) {
    TRY(fault_enter(host, "thread_start", err));
    struct host_thread *thread = allocate_wrapper(err);
    if (!thread) {
        return KELPIE_NO_MEMORY;
    }
    thread->host = host;
    enum kelpie_status status =
        host_thread_start(inner_of(host), name, entry, argument, &thread->inner, err);
    if (status != KELPIE_OK) {
        free(thread);
        return status;
    }
    fault_note_thing(host, "thread_start", thread);
    *ret_thread = thread;
    return KELPIE_OK;
}

void fault_thread_join(struct host_thread *thread) {
    fault_forget_thing(thread->host, thread);
    host_thread_join(thread->inner);
    free(thread);
}

enum kelpie_status fault_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                      struct kelpie_error *err) {
    TRY(fault_enter(host, "mutex_create", err));
    struct host_mutex *mutex = allocate_wrapper(err);
    if (!mutex) {
        return KELPIE_NO_MEMORY;
    }
    mutex->host = host;
    enum kelpie_status status = host_mutex_create(inner_of(host), &mutex->inner, err);
    if (status != KELPIE_OK) {
        free(mutex);
        return status;
    }
    fault_note_thing(host, "mutex_create", mutex);
    *ret_mutex = mutex;
    return KELPIE_OK;
}

void fault_mutex_lock(struct host_mutex *mutex) {
    host_mutex_lock(mutex->inner);
}

void fault_mutex_unlock(struct host_mutex *mutex) {
    host_mutex_unlock(mutex->inner);
}

void fault_mutex_destroy(struct host_mutex *mutex) {
    fault_forget_thing(mutex->host, mutex);
    host_mutex_destroy(mutex->inner);
    free(mutex);
}

enum kelpie_status fault_condition_create(struct host *host, struct host_condition **ret_condition,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "condition_create", err));
    struct host_condition *condition = allocate_wrapper(err);
    if (!condition) {
        return KELPIE_NO_MEMORY;
    }
    condition->host = host;
    enum kelpie_status status = host_condition_create(inner_of(host), &condition->inner, err);
    if (status != KELPIE_OK) {
        free(condition);
        return status;
    }
    fault_note_thing(host, "condition_create", condition);
    *ret_condition = condition;
    return KELPIE_OK;
}

bool fault_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                          uint64_t deadline_ns) {
    return host_condition_wait(condition->inner, mutex->inner, deadline_ns);
}

void fault_condition_broadcast(struct host_condition *condition) {
    host_condition_broadcast(condition->inner);
}

void fault_condition_destroy(struct host_condition *condition) {
    fault_forget_thing(condition->host, condition);
    host_condition_destroy(condition->inner);
    free(condition);
}
