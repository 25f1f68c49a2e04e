/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A thread for each vCPU, paused and resumed together.
 *
 *     struct vcpu_threads threads;
 *     TRY(vcpu_threads_start(&threads, vcpus, count, &ops, err));   all are paused
 *     TRY(vcpu_threads_resume(&threads, err));
 *     ... threads.event_fd becomes readable: vcpu_threads_result() says what stopped the machine
 *     TRY(vcpu_threads_pause(&threads, err));                       nothing of the guest runs; its state may be saved
 *     vcpu_threads_join(&threads);
 *
 * States: paused <-> running -> stopped. The first vCPU that stops by itself (or vcpu_threads_stop) stops them
 * all, for good; pausing a stopped machine succeeds, resuming it is WRONG_STATE.
 *
 * Threads: pause and resume from one thread at a time, which holds no lock that `ops` takes: they wait for vCPUs
 * that may be in a device. stop and result from any thread, also within `ops`.
 */
#ifndef KELPIE_VMM_X86_64_VCPU_THREADS_H
#define KELPIE_VMM_X86_64_VCPU_THREADS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "vmm/vmm_limits.h"
#include "vmm/x86_64/vcpu.h"

struct vcpu_threads;

struct vcpu_thread {
    struct vcpu_threads *owner;
    struct vcpu *vcpu;
    pthread_t thread;
    bool running;       /* is in vcpu_run, or on its way there */
    uint64_t work_done; /* the last round of lent work that it took part in */
};

struct vcpu_threads {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    const struct vcpu_ops *ops;
    struct vcpu_thread threads[VMM_VCPU_COUNT_MAX];
    size_t count;
    size_t running_count;
    bool going;  /* vCPUs are to run */
    bool ending; /* threads are to end */
    bool stopped;
    struct vcpu_result result;   /* of what stopped them */
    void (*work)(void *context); /* lent; NULL: none */
    void *work_context;
    uint64_t work_round;
    size_t work_left; /* threads that have not finished this round */
    int event_fd;     /* readable once stopped; owned */
};

/* vcpus[count] and ops outlive the threads; the vCPUs may still be booted or loaded while they are paused. */
KELPIE_CHECKED enum kelpie_status vcpu_threads_start(struct vcpu_threads *threads,
                                                     struct vcpu *vcpus, size_t count,
                                                     const struct vcpu_ops *ops,
                                                     struct kelpie_error *err);

/* Returns when no vCPU runs, and each one's last access is finished; at once when that is so already. TIMED_OUT after
 * VCPU_PAUSE_TIMEOUT_MS: a device does not return; it may be called again. */
KELPIE_CHECKED enum kelpie_status vcpu_threads_pause(struct vcpu_threads *threads,
                                                     struct kelpie_error *err);

/* Tells the guest's clock that it stood still, then runs. Does nothing to vCPUs that run. */
KELPIE_CHECKED enum kelpie_status vcpu_threads_resume(struct vcpu_threads *threads,
                                                      struct kelpie_error *err);

/* Runs work(context) in every vCPU's thread and in the caller's at once, and returns when all have returned. While they are
 * paused. What work may do is what the threads' filters let through (vmm/confine_calls.h). */
void vcpu_threads_lend(struct vcpu_threads *threads, void (*work)(void *context), void *context);

/* For devices that end the machine (a reset port, ACPI's sleep register): as if a vCPU had stopped. text names the
 * device. Only the first stop counts. */
void vcpu_threads_stop(struct vcpu_threads *threads, enum vcpu_stop stop, const char *text);

/* True and what stopped the machine, or false. */
bool vcpu_threads_result(struct vcpu_threads *threads, struct vcpu_result *ret);

/* Ends the threads, whatever the vCPUs do. */
void vcpu_threads_join(struct vcpu_threads *threads);

#endif
