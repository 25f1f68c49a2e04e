/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * One virtual processor: made, given its first registers, run, and stopped. vcpu_threads.h runs several, vcpu_state.c
 * saves and loads one.
 *
 *     struct vcpu vcpu;
 *     TRY(vcpu_create(&vcpu, &kvm, 0, 1, err));
 *     TRY(vcpu_boot(&vcpu, &(struct vcpu_boot){.rip = entry, .rsi = boot_params, .cr3 = tables, .gdt = gdt}, err));
 *     struct vcpu_result result;
 *     vcpu_run(&vcpu, &ops, &result);
 *
 * A vCPU other than the first needs no vcpu_boot: it waits until the guest sends INIT and SIPI.
 *
 * Threads: vcpu_run in one thread; vcpu_kick from any. The rest while vcpu_run is not running.
 */
#ifndef KELPIE_VMM_X86_64_VCPU_H
#define KELPIE_VMM_X86_64_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/state/state.h"
#include "vmm/x86_64/cpuid.h"
#include "vmm/x86_64/kvm.h"

/* As struct kvm_msrs, with one entry. */
struct vcpu_msr {
    uint32_t count;
    uint32_t padding;
    struct kvm_msr_entry entry;
};

struct vcpu {
    struct kvm *kvm; /* not owned; outlives it */
    int fd;
    uint32_t index;
    uint32_t vcpu_count; /* of the machine */
    struct kvm_run *run;
    struct cpuid_table cpuid; /* as KVM was told */
    uint32_t tsc_khz;         /* as it was made; 0: KVM does not say */
    bool is_fresh;            /* as it was made: a load has not touched it */
    uint64_t first_exit_ns;   /* see vcpu_first_exit_ns() */
};

/* Errors: as KVM gives them. index < vcpu_count <= VMM_VCPU_COUNT_MAX. */
KELPIE_CHECKED enum kelpie_status vcpu_create(struct vcpu *vcpu, struct kvm *kvm, uint32_t index,
                                              uint32_t vcpu_count, struct kelpie_error *err);

/* A half-made or zeroed one too. */
void vcpu_destroy(struct vcpu *vcpu);

/* Linux's 64-bit entry (the kernel's "The Linux/x86 Boot Protocol", 64-bit boot protocol): long mode, paging on,
 * interrupts off, flat segments. The tables themselves are the loader's, in guest memory. */
struct vcpu_boot {
    uint64_t rip;
    uint64_t rsi; /* the boot parameters */
    uint64_t cr3; /* the first page table */
    uint64_t gdt; /* VCPU_GDT_ENTRY_COUNT entries, vcpu_gdt[] */
};

#define VCPU_GDT_ENTRY_COUNT 4
#define VCPU_CODE_SELECTOR 0x10
#define VCPU_DATA_SELECTOR 0x18

/* What the loader writes to vcpu_boot.gdt, little-endian. */
extern const uint64_t vcpu_gdt[VCPU_GDT_ENTRY_COUNT];

KELPIE_CHECKED enum kelpie_status vcpu_boot(struct vcpu *vcpu, const struct vcpu_boot *boot,
                                            struct kelpie_error *err);

/* Who answers the guest. size is 1, 2, 4 or (memory) 8. What nobody answers is read as ones; the functions do that, as
 * bus_read() does. They are called in the vCPU's thread, for one access after the other. */
struct vcpu_ops {
    void (*io_read)(void *context, uint16_t port, void *data, uint32_t size);
    void (*io_write)(void *context, uint16_t port, const void *data, uint32_t size);
    void (*mmio_read)(void *context, uint64_t gpa, void *data, uint32_t size);
    void (*mmio_write)(void *context, uint64_t gpa, const void *data, uint32_t size);
    void *context;
    bool (*confine)(
        void); /* by each vCPU's thread before it runs; false ends the machine. NULL: none */
};

enum vcpu_stop {
    VCPU_STOP_PAUSED = 0,   /* kicked; its state is whole, and vcpu_run goes on from there */
    VCPU_STOP_SHUTDOWN,     /* the guest asked for it */
    VCPU_STOP_RESET,        /* likewise */
    VCPU_STOP_CRASHED,      /* the guest says that it crashed */
    VCPU_STOP_TRIPLE_FAULT, /* a fault in the handling of faults: a PC resets then */
    VCPU_STOP_HALTED,       /* HLT, seen only where KVM has no interrupt controller */
    VCPU_STOP_ERROR,        /* KVM cannot go on; the text has its numbers */
    VCPU_STOP_COUNT,
};

struct vcpu_result {
    enum vcpu_stop stop;
    char text[256]; /* one sentence without a full stop; "" when paused */
};

const char *vcpu_stop_name(enum vcpu_stop stop);

/* Runs until something stops it. A port or memory access that is under way when a kick comes is finished first: KVM
 * completes it in its next KVM_RUN, and until then the state must not be read. */
void vcpu_run(struct vcpu *vcpu, const struct vcpu_ops *ops, struct vcpu_result *ret);

/* When the guest first came back to us, on the monotonic clock; 0: not yet. From any thread. */
uint64_t vcpu_first_exit_ns(const struct vcpu *vcpu);

/* For rehearsals, while it does not run: the next exit is the first. And: it holds the state that it was made with, again. */
void vcpu_forget_first_exit(struct vcpu *vcpu);
void vcpu_refresh(struct vcpu *vcpu);

/* vcpu_run returns soon, or at once when it comes to KVM the next time. A vCPU that is in the guest leaves it only by
 * a signal to its thread (VCPU_KICK_SIGNAL), which vcpu_threads sends: a caller of its own kicks first and then
 * signals. Stays in force until vcpu_unkick, which is called while vcpu_run is not running. */
#define VCPU_KICK_SIGNAL (SIGRTMIN + 4)
void vcpu_kick(struct vcpu *vcpu);
void vcpu_unkick(struct vcpu *vcpu);

/* For a thread that will run vCPUs: blocks every signal, and has KVM let VCPU_KICK_SIGNAL alone through inside KVM_RUN. No
 * handler is installed, and devices are never interrupted. */
KELPIE_CHECKED enum kelpie_status vcpu_mask_signals(struct vcpu *vcpu, struct kelpie_error *err);

/* Tells the guest's clock that its processor stood still, so that no watchdog barks (hazard C2): before each resume. A
 * guest without that clock has nothing to be told. */
KELPIE_CHECKED enum kelpie_status vcpu_clock_stopped(struct vcpu *vcpu, struct kelpie_error *err);

/* vcpu_state.c and vcpu_msr.c: sections 'CPUI', 'VCPU' and 'MSRS' with instance = index. Not running, stopped by
 * VCPU_STOP_PAUSED or never run. A load needs a vCPU that never ran, or one that says the same in CPUID already; after
 * one that failed another may be tried.
 * Errors of load: SNAPSHOT_CORRUPT: values that no processor has (B1); SNAPSHOT_INCOMPATIBLE: field "tsc_khz" or "tsc" (C3),
 * "cpuid.…" (C4), "msr.…", "xsave". */
KELPIE_CHECKED enum kelpie_status vcpu_state_save(struct vcpu *vcpu, struct state_writer *state,
                                                  struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vcpu_state_load(struct vcpu *vcpu, struct state_reader *state,
                                                  struct kelpie_error *err);

/* For vcpu_state.c. */
KELPIE_CHECKED enum kelpie_status vcpu_msrs_save(struct vcpu *vcpu, struct state_writer *state,
                                                 struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vcpu_msrs_load(struct vcpu *vcpu, struct state_reader *state,
                                                 struct kelpie_error *err);

#endif
