/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a guest's processor says of itself: KVM's table of what it can do, filtered, with the topology of our
 * machine written in. Pure: no ioctl is made here.
 *
 * A vCPU's table is what KVM supports on this host without: nested virtualisation (VMX, SVM), performance
 * counters and memory encryption, whose state a snapshot could not carry. KVM's own leaves (0x40000000) stay, for
 * the guest's clock. The topology is one package of vcpu_count cores with one thread each; vCPU i has APIC id i.
 *
 * Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the kernel's KVM documentation, "KVM CPUID bits".
 */
#ifndef KELPIE_VMM_X86_64_CPUID_H
#define KELPIE_VMM_X86_64_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define CPUID_ENTRY_COUNT_MAX 256

/* As KVM wants it (struct kvm_cpuid2), with room for the entries. */
struct cpuid_table {
    uint32_t count;
    uint32_t padding;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRY_COUNT_MAX];
};

/* The entry, or NULL. A leaf without subleaves has index 0. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct cpuid_table *table, uint32_t function,
                                          uint32_t index);

/* What vCPU `index` of `vcpu_count` is told. tsc_deadline: KVM's local APIC has that timer mode. */
void cpuid_for_vcpu(struct cpuid_table *ret_table, const struct cpuid_table *supported,
                    uint32_t index, uint32_t vcpu_count, bool tsc_deadline);

/* Hazard C4: does a vCPU of this host, which would be told `here`, have all that one that was told `saved` relies
 * on? SNAPSHOT_INCOMPATIBLE names the leaf and register as the field, such as "cpuid.7.0.ebx". */
KELPIE_CHECKED enum kelpie_status cpuid_check(const struct cpuid_table *saved,
                                              const struct cpuid_table *here,
                                              struct kelpie_error *err);

#endif
