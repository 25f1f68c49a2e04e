/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a hundred forks of one snapshot cost: time, from the first request until each of them has made its guest's first
 * exit; and memory, as the processes' PSS tells it, and as the host's free memory does. The latter has what the kernel keeps for
 * a VM too, most of it for the memory slot, in proportion to the guest's memory: as much for a hundred of the floor program, which is
 * measured beside it.
 */
#ifndef KELPIE_BENCH_KVM_FORK_H
#define KELPIE_BENCH_KVM_FORK_H

#include "kvm_rig.h"
#include "series.h"

/* Adds kvm.fork_100, kvm.fork_pss, kvm.fork_memory and floor.fork_memory. Says on stderr why not, where there is no usable
 * /dev/kvm. floor_program: the other program's path. */
void kvm_fork_measure(struct host *host, const char *floor_program, struct report *report,
                      size_t runs);

/* Adds kvm.monitor_pss: a booted monitor with a disk and a network, without its guest's memory. */
void kvm_monitor_measure(struct host *host, const char *folder, struct report *report);

#endif
