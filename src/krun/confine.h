/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * confine.h: what is left of kelpie-krun once its machine may run.
 *
 * THEORY OF OPERATION
 *
 * libkrun is somebody else's code, with threads of its own, which we load in the version that is there. It says itself that
 * monitor and guest are one to it, and that whoever runs it limits both. So this process gives up, before libkrun makes
 * anything of a machine and for all threads that it will start:
 *
 *   - privileges that it could gain; capabilities, but for what it opens as root: the disks, which its owner could open
 *     (CAP_DAC_OVERRIDE), and a tap (CAP_NET_ADMIN); cores; descriptors beyond KRUN_FD_COUNT_MAX of them;
 *   - files, where the kernel has Landlock: it opens /dev/kvm, a tap's device, its disks, and no other. It starts with no
 *     other descriptors than those of control.h;
 *   - system calls. Not a list of what is allowed, as our own monitor has (vmm/confine_calls.h): which calls a libkrun
 *     makes we can measure in one version alone, and another one would die of the first call that is not on the list,
 *     perhaps hours after it started. It is a list of what no monitor that was given its descriptors has business
 *     with (confine_calls.h): programs, other processes, sockets, names of files, mounts, the kernel. Such a call fails with
 *     EPERM. libkrun 1.19 makes none of them.
 *
 * What stays is /dev/kvm, and with it the kernel's KVM, as for every monitor.
 */
#ifndef KELPIE_KRUN_CONFINE_H
#define KELPIE_KRUN_CONFINE_H

#include "base/error.h"
#include "krun/control.h"

/* By the only thread, before anything is made. BOOT_FAILED: this kernel has no filters. */
KELPIE_CHECKED enum kelpie_status krun_confine(const struct krun_order *order,
                                               struct kelpie_error *err);

#endif
