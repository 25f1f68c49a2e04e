/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a hundred forks of one snapshot cost: time, from the first request until each of them has made its guest's first
 * exit; and memory, as the host's free memory tells it (with what the kernel keeps for a VM) and as the processes' PSS does.
 */
#ifndef KELPIE_BENCH_KVM_FORK_H
#define KELPIE_BENCH_KVM_FORK_H

#include "kvm_rig.h"
#include "series.h"

/* Adds kvm.fork_100, kvm.fork_memory, kvm.fork_pss, and kvm.monitor_pss: a monitor without its guest's memory. Says on stderr
 * why not, where there is no usable /dev/kvm. */
void kvm_fork_measure(struct host *host, struct report *report, size_t runs);

#endif
