/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A host that wraps another and lets the n-th fallible call fail, once or from then on. It counts
 * the calls, remembers which one failed, and knows what was opened and not closed, so that a test
 * can run an operation again and again, with the 1st, 2nd, 3rd ... call failing, until none fires:
 *
 *     for (uint64_t nth = 1;; nth++) {
 *         fault_host_arm(host, &(struct fault_plan){.nth = nth});
 *         ... the operation, with `host`, and everything that it made destroyed again ...
 *         const char *fired = fault_host_fired(host);
 *         fault_host_disarm(host);
 *         assert_int_equal(fault_host_leaks(host, text, sizeof(text)), 0);
 *         if (!fired) {
 *             break;
 *         }
 *     }
 *
 * Fallible are the operations that return a status, and allocate. Operations that free, set or ask
 * (close, event_set, mutex_lock, condition_wait, ...) never fail and are not counted.
 *
 * Ownership: the inner host stays the caller's and outlives the wrapper; host_destroy() on the
 * wrapper frees the wrapper only. Threads: from several at once, as any host.
 */
#ifndef KELPIE_TESTS_SUPPORT_FAULT_HOST_H
#define KELPIE_TESTS_SUPPORT_FAULT_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/host.h"

#define FAULT_HOST_FD_MAX 4096     /* descriptors that can be told apart */
#define FAULT_HOST_OBJECT_MAX 4096 /* processes, threads, mutexes, conditions, mappings at once */

struct fault_plan {
    uint64_t nth;     /* the call that fails, from 1; 0: none */
    bool sticky;      /* and all behind it */
    const char *only; /* count (and fail) only this operation, named as in struct host_ops */
    enum kelpie_status status; /* zero: what os_error means (error_set_os) */
    int os_error;              /* zero: EIO, or none beside a status */
    bool kills; /* that call does not fail: the process is killed before it does anything */
};

KELPIE_CHECKED enum kelpie_status fault_host_create(struct host *inner, struct host **ret_host,
                                                    struct kelpie_error *err);

/* Starts counting from zero again. plan->only must outlive the plan. */
void fault_host_arm(struct host *host, const struct fault_plan *plan);

/* No call fails any more; the count and what fired stay. */
void fault_host_disarm(struct host *host);

/* The operation that failed first since arming, named as in struct host_ops; or NULL. */
const char *fault_host_fired(struct host *host);

/* Fallible calls since arming (or creation), the failed ones too. */
uint64_t fault_host_calls(struct host *host);

/* How many things are open, and how many closes were wrong (a descriptor that was not open); `text`
 * says which, cut to its size. */
size_t fault_host_leaks(struct host *host, char *text, size_t size);

#endif
