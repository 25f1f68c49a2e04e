/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_KVM_KVM_LIMITS_H
#define KELPIE_BACKEND_KVM_KVM_LIMITS_H

#define KVM_DEVICE "/dev/kvm"
#define KVM_RING0_BUDGET_NS 20000000ull /* for the ring-0 payload: DESIGN's 20 ms */
#define KVM_ANSWERS_OWED_MAX 16         /* late answers that are still awaited */

#endif
