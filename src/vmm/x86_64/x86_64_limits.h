/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_VMM_X86_64_X86_64_LIMITS_H
#define KELPIE_VMM_X86_64_X86_64_LIMITS_H

#define KVM_IRQ_COUNT_MAX 24 /* lines that are irqfds */
#define KVM_IOEVENTFD_COUNT_MAX 160
#define KVM_RUN_SIZE_MAX (64u << 10)

/* Two pieces of the guest-physical map that Intel processors without unrestricted guests need, in the hole. */
#define KVM_IDENTITY_MAP_GPA 0xfffbc000ull /* one page */
#define KVM_TSS_GPA 0xfffbd000ull          /* three */

#define VCPU_MSR_COUNT_MAX 512
#define VCPU_XSAVE_SIZE_MIN 4096u
#define VCPU_XSAVE_SIZE_MAX (32u << 10)
#define VCPU_TSC_TOLERANCE_PPM 250 /* what NTP can correct, and KVM's own default */

#define VCPU_PAUSE_TIMEOUT_MS 10000 /* until each vCPU has left the guest and its device */

#endif
