/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the files of the fault host share: its books, and the operations of fault_host_objects.c. */
#ifndef KELPIE_TESTS_FAULT_HOST_INTERNAL_H
#define KELPIE_TESTS_FAULT_HOST_INTERNAL_H

#include <pthread.h>

#include "base/assert.h"
#include "fault_host.h"

/* Something that is open: what made it, in which call. */
struct open_thing {
    const void *thing; /* NULL: a free place */
    const char *kind;
    uint64_t call;
};

struct fault_host {
    struct host host;
    struct host *inner;
    pthread_mutex_t lock;
    struct fault_plan plan;
    uint64_t calls;
    const char *fired;
    const char *fd_kinds[FAULT_HOST_FD_MAX]; /* what opened it; NULL: not open */
    uint64_t fd_calls[FAULT_HOST_FD_MAX];
    struct open_thing things[FAULT_HOST_OBJECT_MAX];
    size_t wrong_closes;
    int wrong_fd; /* the last of them */
};

static inline struct fault_host *fault_of(struct host *host) {
    ASSERT(host);
    return (struct fault_host *)host;
}

static inline struct host *inner_of(struct host *host) {
    return fault_of(host)->inner;
}

/* Counts a call of the operation `name`, which fails when the plan says so. */
enum kelpie_status fault_enter(struct host *host, const char *name, struct kelpie_error *err);

/* Something of this kind is open from now on, or no more. */
void fault_note_thing(struct host *host, const char *kind, const void *thing);
void fault_forget_thing(struct host *host, const void *thing);

/* fault_host_objects.c */
enum kelpie_status fault_process_spawn(struct host *host, const struct host_process_spec *spec,
                                       struct host_process **ret_process, struct kelpie_error *err);
int fault_process_fd(struct host_process *process);
int fault_process_id(struct host_process *process);
enum kelpie_status fault_process_usage(struct host *host, int process_id,
                                       struct host_process_usage *ret_usage,
                                       struct kelpie_error *err);
enum kelpie_status fault_process_signal(struct host_process *process, int signal_number,
                                        struct kelpie_error *err);
enum kelpie_status fault_process_wait(struct host_process *process, const struct host_wait *wait,
                                      struct host_process_exit *ret_exit, struct kelpie_error *err);
void fault_process_destroy(struct host_process *process);
enum kelpie_status fault_thread_start(struct host *host, const char *name, host_thread_entry entry,
                                      void *argument, struct host_thread **ret_thread,
                                      struct kelpie_error *err);
void fault_thread_join(struct host_thread *thread);
enum kelpie_status fault_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                      struct kelpie_error *err);
void fault_mutex_lock(struct host_mutex *mutex);
void fault_mutex_unlock(struct host_mutex *mutex);
void fault_mutex_destroy(struct host_mutex *mutex);
enum kelpie_status fault_condition_create(struct host *host, struct host_condition **ret_condition,
                                          struct kelpie_error *err);
bool fault_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                          uint64_t deadline_ns);
void fault_condition_broadcast(struct host_condition *condition);
void fault_condition_destroy(struct host_condition *condition);

#endif
