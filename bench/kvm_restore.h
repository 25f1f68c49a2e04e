/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How fast kelpie-vmm restores a machine, beside a program of nothing but the KVM calls that a machine takes.
 *
 * The guest is a payload of five instructions that writes to the serial port without end, so that this works on any
 * /dev/kvm. A run is timed in the owner, from the call to the first byte of the guest's console: process, set-up, state,
 * first guest exit, and the way back.
 */
#ifndef KELPIE_BENCH_KVM_RESTORE_H
#define KELPIE_BENCH_KVM_RESTORE_H

#include <stddef.h>

#include "series.h"

struct host;

/* Adds kvm.restore_byte and floor.restore_byte. Says on stderr why not, where there is no usable /dev/kvm.
 * floor_program: the other program's path. */
void kvm_restore_measure(struct host *host, const char *floor_program, struct report *report,
                         size_t runs);

#endif
