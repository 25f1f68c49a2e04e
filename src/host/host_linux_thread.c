/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's threads, mutexes and conditions: POSIX ones, timed by the monotonic clock. */
#include "host/host_linux.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

struct host_thread {
    struct host *host;
    pthread_t thread;
    host_thread_entry entry;
    void *argument;
    char name[HOST_THREAD_NAME_SIZE_MAX + 1];
};

struct host_mutex {
    struct host *host;
    pthread_mutex_t mutex;
};

struct host_condition {
    struct host *host;
    pthread_cond_t condition;
};

/* A thread inherits the mask of the one that makes it: signals stay the embedding program's. */
int linux_thread_create(pthread_t *ret_thread, void *(*entry)(void *), void *argument) {
    ASSERT(ret_thread && entry);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    int result = pthread_sigmask(SIG_SETMASK, &all, &before);
    ASSERT(result == 0);
    int failure = pthread_create(ret_thread, NULL, entry, argument);
    result = pthread_sigmask(SIG_SETMASK, &before, NULL);
    ASSERT(result == 0);
    return failure;
}

static void *thread_main(void *argument) {
    struct host_thread *thread = argument;
    ASSERT(thread->entry);
    (void)pthread_setname_np(pthread_self(), thread->name);
    thread->entry(thread->argument);
    return NULL;
}

enum kelpie_status linux_thread_start(struct host *host, const char *name, host_thread_entry entry,
                                      void *argument, struct host_thread **ret_thread,
                                      struct kelpie_error *err) {
    ASSERT(entry);
    ASSERT(ret_thread);
    ASSERT(strlen(name) <= HOST_THREAD_NAME_SIZE_MAX);
    struct host_thread *thread = calloc(1, sizeof(*thread));
    if (!thread) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate the thread '%s'", name);
    }
    thread->host = host;
    thread->entry = entry;
    thread->argument = argument;
    snprintf(thread->name, sizeof(thread->name), "%s", name);
    int os_error = linux_thread_create(&thread->thread, thread_main, thread);
    if (os_error != 0) {
        free(thread);
        return error_set_os(err, os_error, "cannot start the thread '%s'", name);
    }
    *ret_thread = thread;
    return KELPIE_OK;
}

void linux_thread_join(struct host_thread *thread) {
    ASSERT(thread);
    ASSERT(thread->host);
    int result = pthread_join(thread->thread, NULL);
    ASSERT(result == 0);
    free(thread);
}

/* ---- Mutexes ---------------------------------------------------------------------------------- */

/* The error-checking kind, so that a lock by its holder or an unlock by another is asserted. */
enum kelpie_status linux_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_mutex);
    struct host_mutex *mutex = calloc(1, sizeof(*mutex));
    if (!mutex) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate a mutex");
    }
    mutex->host = host;
    pthread_mutexattr_t attributes;
    int result = pthread_mutexattr_init(&attributes);
    ASSERT(result == 0);
    result = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    ASSERT(result == 0);
    result = pthread_mutex_init(&mutex->mutex, &attributes);
    ASSERT(result == 0);
    pthread_mutexattr_destroy(&attributes);
    *ret_mutex = mutex;
    return KELPIE_OK;
}

void linux_mutex_destroy(struct host_mutex *mutex) {
    ASSERT(mutex);
    int result = pthread_mutex_destroy(&mutex->mutex);
    ASSERT(result == 0);
    free(mutex);
}

void linux_mutex_lock(struct host_mutex *mutex) {
    ASSERT(mutex);
    ASSERT(mutex->host);
    int result = pthread_mutex_lock(&mutex->mutex);
    ASSERT(result == 0);
}

void linux_mutex_unlock(struct host_mutex *mutex) {
    ASSERT(mutex);
    ASSERT(mutex->host);
    int result = pthread_mutex_unlock(&mutex->mutex);
    ASSERT(result == 0);
}

/* ---- Conditions ------------------------------------------------------------------------------- */

enum kelpie_status linux_condition_create(struct host *host, struct host_condition **ret_condition,
                                          struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_condition);
    struct host_condition *condition = calloc(1, sizeof(*condition));
    if (!condition) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate a condition");
    }
    condition->host = host;
    pthread_condattr_t attributes;
    int result = pthread_condattr_init(&attributes);
    ASSERT(result == 0);
    result = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    ASSERT(result == 0);
    result = pthread_cond_init(&condition->condition, &attributes);
    ASSERT(result == 0);
    pthread_condattr_destroy(&attributes);
    *ret_condition = condition;
    return KELPIE_OK;
}

void linux_condition_destroy(struct host_condition *condition) {
    ASSERT(condition);
    int result = pthread_cond_destroy(&condition->condition);
    ASSERT(result == 0);
    free(condition);
}

bool linux_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                          uint64_t deadline_ns) {
    ASSERT(condition && mutex);
    struct timespec deadline = linux_timespec(deadline_ns);
    int result = pthread_cond_timedwait(&condition->condition, &mutex->mutex, &deadline);
    ASSERT(result == 0 || result == ETIMEDOUT);
    return result == 0;
}

void linux_condition_broadcast(struct host_condition *condition) {
    ASSERT(condition);
    ASSERT(condition->host);
    int result = pthread_cond_broadcast(&condition->condition);
    ASSERT(result == 0);
}
