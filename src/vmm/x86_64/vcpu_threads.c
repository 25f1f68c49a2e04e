/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * Each thread waits for `going`, counts itself as running, runs its vCPU without the lock, and comes back. A pause
 * takes `going` away, kicks those that run and waits until none does. A thread that was woken but has not counted
 * itself yet sees that `going` is gone and stays. A kick (immediate_exit, then the signal) is given under the lock and
 * is taken back only by a resume, under the lock and with no vCPU running: none is lost, and none is left over. A
 * signal that comes late stays blocked and ends nothing: vcpu_run takes it off and goes on.
 *
 * Threads whose vCPUs stand still may be lent: each takes part once in a round of work, whose end the lender awaits.
 */
#include "vmm/x86_64/vcpu_threads.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

static void lock(struct vcpu_threads *threads) {
    ASSERT(threads);
    int result = pthread_mutex_lock(&threads->lock);
    ASSERT(result == 0);
}

static void unlock(struct vcpu_threads *threads) {
    ASSERT(threads);
    int result = pthread_mutex_unlock(&threads->lock);
    ASSERT(result == 0);
}

/* With the lock. */
static void kick_all(struct vcpu_threads *threads) {
    ASSERT(threads->count <= VMM_VCPU_COUNT_MAX);
    ASSERT(!threads->going || threads->ending);
    for (size_t i = 0; i < threads->count; i++) {
        struct vcpu_thread *thread = &threads->threads[i];
        vcpu_kick(thread->vcpu);
        if (thread->running) {
            int result = pthread_kill(thread->thread, VCPU_KICK_SIGNAL);
            ASSERT(result == 0 || result == EAGAIN); /* EAGAIN: enough of them wait already */
        }
    }
}

/* With the lock. */
static void note_stop(struct vcpu_threads *threads, const struct vcpu_result *result) {
    ASSERT(result->stop != VCPU_STOP_PAUSED);
    ASSERT(threads->event_fd >= 0);
    if (threads->stopped) {
        return;
    }
    threads->stopped = true;
    threads->going = false;
    threads->result = *result;
    kick_all(threads);
    eventfd_t one = 1;
    ssize_t written = write(threads->event_fd, &one, sizeof(one));
    ASSERT(written == (ssize_t)sizeof(one));
}

/* With the lock, which is let go meanwhile. */
static void take_part(struct vcpu_thread *thread) {
    struct vcpu_threads *threads = thread->owner;
    ASSERT(threads->work);
    ASSERT(threads->work_left > 0);
    thread->work_done = threads->work_round;
    unlock(threads);
    threads->work(threads->work_context);
    lock(threads);
    threads->work_left--;
    pthread_cond_broadcast(&threads->changed);
}

static void *thread_main(void *argument) {
    struct vcpu_thread *thread = argument;
    struct vcpu_threads *threads = thread->owner;
    ASSERT(thread->vcpu);
    ASSERT(threads->ops);
    bool confined = !threads->ops->confine || threads->ops->confine();
    lock(threads);
    if (!confined) {
        note_stop(threads, &(struct vcpu_result){VCPU_STOP_ERROR, "a vCPU cannot be confined"});
    }
    while (!threads->ending) {
        if (!threads->going) {
            if (threads->work && thread->work_done != threads->work_round) {
                take_part(thread);
            } else {
                pthread_cond_wait(&threads->changed, &threads->lock);
            }
            continue;
        }
        thread->running = true;
        threads->running_count++;
        unlock(threads);
        struct vcpu_result result = {.stop = VCPU_STOP_PAUSED};
        vcpu_run(thread->vcpu, threads->ops, &result);
        lock(threads);
        thread->running = false;
        threads->running_count--;
        if (result.stop != VCPU_STOP_PAUSED) {
            note_stop(threads, &result);
        }
        pthread_cond_broadcast(&threads->changed);
    }
    unlock(threads);
    return NULL;
}

static enum kelpie_status start_all(struct vcpu_threads *threads, struct vcpu *vcpus, size_t count,
                                    struct kelpie_error *err) {
    ASSERT(threads->count == 0);
    ASSERT(threads->event_fd >= 0);
    for (size_t i = 0; i < count; i++) {
        struct vcpu_thread *thread = &threads->threads[i];
        *thread = (struct vcpu_thread){.owner = threads, .vcpu = &vcpus[i]};
        TRY(vcpu_mask_signals(thread->vcpu,
                              err)); /* and this thread's, which the new one inherits */
        int result = pthread_create(&thread->thread, NULL, thread_main, thread);
        if (result != 0) {
            return error_set_os(err, result, "cannot start a thread for vCPU %zu", i);
        }
        char name[16];
        snprintf(name, sizeof(name), "vcpu-%u", (unsigned)i);
        pthread_setname_np(thread->thread, name);
        threads->count++;
    }
    return KELPIE_OK;
}

enum kelpie_status vcpu_threads_start(struct vcpu_threads *threads, struct vcpu *vcpus,
                                      size_t count, const struct vcpu_ops *ops,
                                      struct kelpie_error *err) {
    ASSERT(threads && vcpus && ops);
    ASSERT(count > 0 && count <= VMM_VCPU_COUNT_MAX);
    *threads = (struct vcpu_threads){.ops = ops, .event_fd = -1};
    threads->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (threads->event_fd < 0) {
        return error_set_os(err, errno, "cannot make an event descriptor for the vCPUs");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int lock_error = pthread_mutex_init(&threads->lock, NULL);
    int cond_error = pthread_cond_init(&threads->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    ASSERT(lock_error == 0 && cond_error == 0);
    sigset_t before;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    enum kelpie_status status = start_all(threads, vcpus, count, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != KELPIE_OK) {
        vcpu_threads_join(threads);
    }
    return status;
}

enum kelpie_status vcpu_threads_pause(struct vcpu_threads *threads, struct kelpie_error *err) {
    ASSERT(threads && threads->count > 0);
    ASSERT(!threads->ending);
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += VCPU_PAUSE_TIMEOUT_MS / 1000;
    lock(threads);
    threads->going = false;
    kick_all(threads);
    int result = 0;
    while (threads->running_count > 0 && result == 0) {
        result = pthread_cond_timedwait(&threads->changed, &threads->lock, &deadline);
    }
    size_t left = threads->running_count;
    unlock(threads);
    if (left > 0) {
        return error_set(err, KELPIE_TIMED_OUT, "%zu vCPUs did not stop within %d ms", left,
                         VCPU_PAUSE_TIMEOUT_MS);
    }
    return KELPIE_OK;
}

/* With the lock, and no vCPU running. */
static enum kelpie_status let_go(struct vcpu_threads *threads, struct kelpie_error *err) {
    ASSERT(!threads->going);
    ASSERT(threads->running_count == 0);
    if (threads->stopped) {
        return error_set(err, KELPIE_WRONG_STATE, "the machine has stopped (%s: %s)",
                         vcpu_stop_name(threads->result.stop), threads->result.text);
    }
    for (size_t i = 0; i < threads->count; i++) {
        TRY(vcpu_clock_stopped(threads->threads[i].vcpu, err));
    }
    for (size_t i = 0; i < threads->count; i++) {
        vcpu_unkick(threads->threads[i].vcpu);
    }
    threads->going = true;
    pthread_cond_broadcast(&threads->changed);
    return KELPIE_OK;
}

enum kelpie_status vcpu_threads_resume(struct vcpu_threads *threads, struct kelpie_error *err) {
    ASSERT(threads && threads->count > 0);
    ASSERT(!threads->ending);
    enum kelpie_status status = KELPIE_OK;
    lock(threads);
    if (!threads->going && threads->running_count > 0) {
        status =
            error_set(err, KELPIE_BUSY, "%zu vCPUs have not stopped yet", threads->running_count);
    } else if (!threads->going) {
        status = let_go(threads, err);
    }
    unlock(threads);
    return status;
}

void vcpu_threads_lend(struct vcpu_threads *threads, void (*work)(void *context), void *context) {
    ASSERT(threads && work);
    lock(threads);
    ASSERT(!threads->going && threads->running_count == 0);
    ASSERT(!threads->work && !threads->ending);
    threads->work = work;
    threads->work_context = context;
    threads->work_round++;
    threads->work_left = threads->count;
    pthread_cond_broadcast(&threads->changed);
    unlock(threads);
    work(context);
    lock(threads);
    while (threads->work_left > 0) {
        pthread_cond_wait(&threads->changed, &threads->lock);
    }
    threads->work = NULL;
    unlock(threads);
}

void vcpu_threads_stop(struct vcpu_threads *threads, enum vcpu_stop stop, const char *text) {
    ASSERT(threads && text);
    ASSERT(stop != VCPU_STOP_PAUSED);
    struct vcpu_result result = {.stop = stop};
    snprintf(result.text, sizeof(result.text), "%s", text);
    lock(threads);
    note_stop(threads, &result);
    unlock(threads);
}

bool vcpu_threads_result(struct vcpu_threads *threads, struct vcpu_result *ret) {
    ASSERT(threads);
    ASSERT(ret);
    lock(threads);
    bool stopped = threads->stopped;
    if (stopped) {
        *ret = threads->result;
    }
    unlock(threads);
    return stopped;
}

void vcpu_threads_join(struct vcpu_threads *threads) {
    ASSERT(threads);
    ASSERT(threads->event_fd >= 0);
    lock(threads);
    threads->ending = true;
    kick_all(threads);
    pthread_cond_broadcast(&threads->changed);
    unlock(threads);
    for (size_t i = 0; i < threads->count; i++) {
        int result = pthread_join(threads->threads[i].thread, NULL);
        ASSERT(result == 0);
    }
    pthread_cond_destroy(&threads->changed);
    pthread_mutex_destroy(&threads->lock);
    close(threads->event_fd);
    *threads = (struct vcpu_threads){.event_fd = -1};
}
