/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How fast kelpie-vmm writes a machine, and how long a guest stands still for a diff, at the level of orders.
 *
 * kvm.snapshot_full: SAVE of a machine of 512 MiB, whose even halves of each 64 MiB are not zero; of the others every
 * second was written, with zeros. The target is a new file in `folder`, which is not synced. Beside it, in turns, memcpy
 * of the same memory: to memory that was not touched before, which is what a new file is too, and to memory that was.
 *
 * kvm.snapshot_diff: from the order PAUSE to the end of RESUME, for a guest that has just written to 2,000 pages, none
 * beside another. kvm.presave_diff is what went before, while the guest ran.
 */
#ifndef KELPIE_BENCH_KVM_SNAPSHOT_H
#define KELPIE_BENCH_KVM_SNAPSHOT_H

#include <stddef.h>

#include "series.h"

struct host;

/* Says on stderr why not, where there is no usable /dev/kvm. */
void kvm_snapshot_measure(struct host *host, const char *folder, struct report *report,
                          size_t runs);

#endif
