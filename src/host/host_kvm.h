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

/*
 * Runs a loop of HOST_KVM_INSTRUCTION_COUNT instructions in ring 0 of a throw-away VM, for budget_ns at most.
 * *ret_ns is what it took; budget_ns or more means that it did not end in time.
 * Errors: NOT_FOUND (no /dev/kvm), IO_FAILED (it cannot be opened or used: os_error), UNSUPPORTED (this
 * processor has no payload).
 */
KELPIE_CHECKED enum kelpie_status host_kvm_probe(struct host *host, uint64_t budget_ns,
                                                 uint64_t *ret_ns, struct kelpie_error *err);

#endif
