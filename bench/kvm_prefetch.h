/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a bundle's working set is worth (snapshot/working_set.h): from the request of a restore to the byte that the guest
 * writes when it has read 2,000 pages, every eighth of 62 MiB, which have data in the bundle's file.
 *
 * kvm.prefetch_cold with the working set, kvm.faults_cold without, the file evicted from the page cache before each; and the
 * same with the file in it, where a working set must cost next to nothing. In turns. The working set is one that
 * the monitor itself noted.
 */
#ifndef KELPIE_BENCH_KVM_PREFETCH_H
#define KELPIE_BENCH_KVM_PREFETCH_H

#include <stddef.h>

#include "series.h"

struct host;

/* Says on stderr why not, where there is no usable /dev/kvm. folder: to work in, on a disk. */
void kvm_prefetch_measure(struct host *host, const char *folder, struct report *report,
                          size_t runs);

#endif
