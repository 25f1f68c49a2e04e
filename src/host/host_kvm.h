/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * host_kvm.h: does /dev/kvm really run kernel-mode code? Some virtual machines offer a /dev/kvm that interprets it at
 * about a million instructions a second: every ioctl succeeds, and Linux never boots. So a short payload is
 * run and timed.
 */
#ifndef KELPIE_HOST_HOST_KVM_H
#define KELPIE_HOST_HOST_KVM_H

#include "host/host.h"

#define HOST_KVM_INSTRUCTION_COUNT                                                                 \
    200000u /* of the payload: far below 1 ms when they run natively */

#define HOST_KVM_BUDGET_NS 10000000ull /* who asks with this one shares the answer */
#define HOST_KVM_ATTEMPT_COUNT 3       /* the first may find caches cold, or a busy processor */
/* What takes longer is interpreted, at 80 ms or more. */
#define HOST_KVM_NATIVE_NS_MAX 25000000ull

/*
 * Runs a loop of HOST_KVM_INSTRUCTION_COUNT instructions in ring 0 of a throw-away VM, for budget_ns at most, and up to
 * HOST_KVM_ATTEMPT_COUNT times until it proves to be native. *ret_ns is the shortest time that the loop takes: what it
 * took, or, of one that was cut off, what the whole would have taken as far as it had come, budget_ns or more. A host
 * remembers what it found for a budget.
 * Errors: NOT_FOUND (no /dev/kvm), IO_FAILED (it cannot be opened or used: os_error), UNSUPPORTED (this
 * processor has no payload).
 */
KELPIE_CHECKED enum kelpie_status host_kvm_probe(struct host *host, uint64_t budget_ns,
                                                 uint64_t *ret_ns, struct kelpie_error *err);

/* Whether what took so long was run, and not interpreted. */
static inline bool host_kvm_is_native(uint64_t taken_ns) {
    return taken_ns < HOST_KVM_NATIVE_NS_MAX;
}

#endif
