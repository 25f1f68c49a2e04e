/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_KVM_KVM_LIMITS_H
#define KELPIE_BACKEND_KVM_KVM_LIMITS_H

#define KVM_DEVICE "/dev/kvm"
#define KVM_PRESAVE_COUNT 2     /* the second takes what was written during the first */
#define KVM_FORGET_MS 1000      /* until files of a save that failed are given up */
#define KVM_ANSWERS_OWED_MAX 16 /* late answers that are still awaited */

/* Bytes of a boot disk: an initramfs and a program. */
#define KVM_MEDIUM_SIZE_MAX 536870912ull

#endif
