/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How fast kelpie-vmm restores a machine, beside a program of nothing but the KVM calls that a machine takes.
 *
 * The guest is a payload of five instructions that writes to the serial port without end, so that this works on any
 * /dev/kvm. Each run has five stamps, told in milliseconds from the first: the request, which here is opening the bundle;
 * `process`, the monitor runs; `ready`, the last call that sets the machine up has returned; `exit`, the guest has made
 * its first exit; `byte`, its first byte has reached the owner.
 */
#ifndef KELPIE_BENCH_KVM_RESTORE_H
#define KELPIE_BENCH_KVM_RESTORE_H

#include <stddef.h>

#include "series.h"

struct host;

/* Adds kvm.restore_*, the same from a prepared machine as kvm.pool_*, and floor.restore_*. Says on stderr why not, where
 * there is no usable /dev/kvm. folder: to work in. floor_program: the other program's path. */
void kvm_restore_measure(struct host *host, const char *folder, const char *floor_program,
                         struct report *report, size_t runs);

#endif
