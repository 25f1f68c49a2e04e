/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A machine to KVM: the VM, its memory slots, interrupt controllers, timer, event descriptors and dirty log. vcpu.h
 * has the processors.
 *
 * The order of calls is worth milliseconds, for changes of memory slots and of the I/O buses wait for a grace period
 * of the kernel when somebody may be reading them:
 *
 *     kvm_create(&kvm, kvm_fd, &memory, err)    VM, memory slots, then the interrupt controllers and the timer
 *     vcpu_create(&vcpu, &kvm, index, count, err)
 *     kvm_irq_add, kvm_ioeventfd_add            descriptors only; cheap, at any time before
 *     kvm_connect(&kvm, err)                    irqfds and ioeventfds: the last thing before vCPUs run
 *     ...
 *     vcpu_destroy; kvm_destroy
 *
 * Beside that, a process should grow its descriptor table early (dup2 to a high number).
 *
 * Ownership: kvm_fd and the memory are the caller's and outlive the VM. Threads: one thread at a time, but for
 * what is written to the event descriptors.
 *
 * Sources: the kernel's documentation "The Definitive KVM API Documentation"; its sections are named at the calls.
 */
#ifndef KELPIE_VMM_X86_64_KVM_H
#define KELPIE_VMM_X86_64_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/memory/memory.h"
#include "vmm/state/state.h"
#include "vmm/x86_64/cpuid.h"
#include "vmm/x86_64/x86_64_limits.h"

/* As struct kvm_msr_list, with room: which model-specific registers are saved, ascending, each once (vcpu_msr.c). */
struct msr_list {
    uint32_t count;
    uint32_t indices[VCPU_MSR_COUNT_MAX];
};

struct kvm_irq {
    uint32_t gsi;
    int fd; /* owned */
    bool connected;
};

struct kvm_event {
    uint64_t gpa;
    bool has_match; /* only a 32-bit write of `match` */
    uint32_t match;
    int fd; /* the caller's */
    bool connected;
};

struct kvm {
    int kvm_fd; /* /dev/kvm, not owned */
    int vm_fd;
    const struct memory *memory;
    size_t run_size;   /* of a vCPU's run structure */
    size_t xsave_size; /* of KVM_GET_XSAVE2, or of KVM_GET_XSAVE */
    bool has_xsave2;
    bool has_tsc_scaling;
    bool has_tsc_deadline;
    bool has_clock_realtime;
    bool dirty_started;
    struct cpuid_table supported; /* fetched once: it takes 0.25 ms */
    struct msr_list msrs;         /* likewise */
    struct kvm_irq irqs[KVM_IRQ_COUNT_MAX];
    size_t irq_count;
    struct kvm_event events[KVM_IOEVENTFD_COUNT_MAX];
    size_t event_count;
};

/* Errors: BACKEND_MISSING: kvm_fd is no KVM of version 12; UNSUPPORTED: KVM lacks something, which is named. */
KELPIE_CHECKED enum kelpie_status kvm_create(struct kvm *kvm, int kvm_fd,
                                             const struct memory *memory, struct kelpie_error *err);

/* Closes everything; a half-made or zeroed VM too. Its vCPUs are destroyed before. */
void kvm_destroy(struct kvm *kvm);

/* An event descriptor that raises the line as an edge when 1 is written to it. It works from kvm_connect on; what was
 * written before is not lost. gsi < VMM_GSI_COUNT. *ret_fd is the VM's. */
KELPIE_CHECKED enum kelpie_status kvm_irq_add(struct kvm *kvm, uint32_t gsi, int *ret_fd,
                                              struct kelpie_error *err);

/* A 32-bit write of the guest at gpa (of *match alone, when match is not NULL) makes fd readable and is no exit, from
 * kvm_connect on. fd is the caller's, and outlives the VM. */
KELPIE_CHECKED enum kelpie_status kvm_ioeventfd_add(struct kvm *kvm, uint64_t gpa,
                                                    const uint32_t *match, int fd,
                                                    struct kelpie_error *err);

/* Tells KVM of all that were added since the last time. */
KELPIE_CHECKED enum kelpie_status kvm_connect(struct kvm *kvm, struct kelpie_error *err);

/* The dirty log: from start on, KVM notes the pages that vCPUs write. fetch gives what was written since start or
 * the last fetch, one bit for each page of the whole mapping, and replaces what stands in bitmap[word_count];
 * word_count = kvm_dirty_word_count(). Writes of devices are in struct memory's own `dirty`. */
size_t kvm_dirty_word_count(const struct kvm *kvm);
KELPIE_CHECKED enum kelpie_status kvm_dirty_start(struct kvm *kvm, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_dirty_fetch(struct kvm *kvm, uint64_t *bitmap,
                                                  size_t word_count, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_dirty_stop(struct kvm *kvm, struct kelpie_error *err);

/* Interrupt controllers, timer and clock, while no vCPU runs (kvm_state.c). Load after the vCPUs are loaded (their
 * TSC is what the clock counts with) and before the first of them runs (hazard C2).
 * Load: SNAPSHOT_CORRUPT for values that no such device has (hazard B1). */
KELPIE_CHECKED enum kelpie_status kvm_state_save(struct kvm *kvm, struct state_writer *state,
                                                 struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_state_load(struct kvm *kvm, struct state_reader *state,
                                                 struct kelpie_error *err);

/* vcpu_msr.c: fills in `msrs`. For kvm_create. */
KELPIE_CHECKED enum kelpie_status kvm_list_msrs(struct kvm *kvm, struct kelpie_error *err);

/* ioctl() without an interruption by a signal. Negative errno on failure. For this folder. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

#endif
