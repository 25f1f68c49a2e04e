/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * confine.h: what is left of a monitor that its guest has taken over.
 *
 * THEORY OF OPERATION
 *
 * The monitor is given every descriptor that it works with. Once the machine is made and before its guest runs, it gives
 * up the rest: it gains no privileges any more (no_new_privs) and keeps none (no capabilities, an empty root), opens no
 * file (Landlock, where the kernel has it, and a system call filter everywhere), starts no process, leaves no core. Each vCPU's thread has a filter of its own,
 * narrower than that of the I/O thread.
 *
 * The filters are lists of system calls: confine_calls.h. They are made into programs when Kelpie is built
 * (tools/make-filters.c, with libseccomp), because making them takes longer than a restore. What is not on a list kills
 * the process, which its owner sees as a crash.
 */
#ifndef KELPIE_VMM_CONFINE_H
#define KELPIE_VMM_CONFINE_H

#include "base/error.h"

/* For the whole process, by the I/O thread, when the vCPUs' threads exist. UNSUPPORTED: this kernel has no filters. */
KELPIE_CHECKED enum kelpie_status confine_process(struct kelpie_error *err);

/* For the calling vCPU's thread. False: the kernel refused; the thread must not run a guest. */
bool confine_vcpu_thread(void);

#endif
