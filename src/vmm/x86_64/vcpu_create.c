/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A vCPU before it runs: what it says of itself, its first registers. */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/x86_64/vcpu.h"

#define MSR_MTRR_DEFAULT 0x2ff
#define MTRR_ENABLED (1u << 11)
#define MTRR_WRITE_BACK 6u

/* Local APIC registers and their fields (Intel SDM volume 3, 11.4.1 and 11.5.1). */
#define APIC_LINT0 0x350
#define APIC_LINT1 0x360
#define APIC_MODE_NMI (4u << 8)
#define APIC_MODE_EXTINT (7u << 8)

/* Intel SDM volume 3, 2.2.1 and 2.5. */
#define CR0_PROTECTION (1u << 0)
#define CR0_EXTENSION_TYPE (1u << 4)
#define CR0_NUMERIC_ERROR (1u << 5)
#define CR0_WRITE_PROTECT (1u << 16)
#define CR0_PAGING (1u << 31)
#define CR4_PHYSICAL_EXTENSION (1u << 5)
#define EFER_LONG_ENABLE (1u << 8)
#define EFER_LONG_ACTIVE (1u << 10)
#define RFLAGS_ALWAYS 2u

/* Descriptors (Intel SDM volume 3, 3.4.5): 64-bit code, flat data; present, accessed, privilege level 0. */
const uint64_t vcpu_gdt[VCPU_GDT_ENTRY_COUNT] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};

/* Section 4.20. */
static enum kelpie_status set_cpuid(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(vcpu->index < vcpu->vcpu_count);
    cpuid_for_vcpu(&vcpu->cpuid, &vcpu->kvm->supported, vcpu->index, vcpu->vcpu_count,
                   vcpu->kvm->has_tsc_deadline);
    int result = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, &vcpu->cpuid);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused to be the processor that it said it can be");
    }
    return KELPIE_OK;
}

/* As firmware leaves them: memory is write-back where no range says otherwise. */
static enum kelpie_status set_msrs(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(vcpu->cpuid.count > 0);
    struct vcpu_msr msr = {
        .count = 1,
        .entry = {.index = MSR_MTRR_DEFAULT, .data = MTRR_ENABLED | MTRR_WRITE_BACK},
    };
    int result = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msr);
    if (result != 1) {
        return error_set_os(err, result < 0 ? -result : EINVAL, "KVM refused the memory types");
    }
    return KELPIE_OK;
}

static void apic_set(struct kvm_lapic_state *lapic, size_t offset, uint32_t value) {
    ASSERT(lapic);
    ASSERT(offset + sizeof(value) <= sizeof(lapic->regs));
    memcpy(lapic->regs + offset, &value, sizeof(value));
}

/* The old interrupt controller's line goes to the first processor, as on a PC (MultiProcessor Specification 1.4, 3.6.2.2). */
static enum kelpie_status set_lines(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(vcpu->index == 0);
    struct kvm_lapic_state lapic;
    int result = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic);
    if (result == 0) {
        apic_set(&lapic, APIC_LINT0, APIC_MODE_EXTINT);
        apic_set(&lapic, APIC_LINT1, APIC_MODE_NMI);
        result = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic);
    }
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused the local APIC's lines");
    }
    return KELPIE_OK;
}

static enum kelpie_status create(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu->fd < 0);
    ASSERT(!vcpu->run);
    int fd = ioctl(vcpu->kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
    if (fd < 0) {
        return error_set_os(err, errno, "KVM cannot create vCPU %u", vcpu->index);
    }
    vcpu->fd = fd;
    void *run = mmap(NULL, vcpu->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map the run structure of vCPU %u", vcpu->index);
    }
    vcpu->run = run;
    int khz = ioctl(fd, KVM_GET_TSC_KHZ, 0);
    vcpu->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    vcpu->is_fresh = true;
    TRY(set_cpuid(vcpu, err)); /* first: it decides which MSRs there are */
    TRY(set_msrs(vcpu, err));
    return vcpu->index == 0 ? set_lines(vcpu, err) : KELPIE_OK;
}

enum kelpie_status vcpu_create(struct vcpu *vcpu, struct kvm *kvm, uint32_t index,
                               uint32_t vcpu_count, struct kelpie_error *err) {
    ASSERT(vcpu && kvm && kvm->vm_fd >= 0);
    ASSERT(vcpu_count <= VMM_VCPU_COUNT_MAX);
    ASSERT(index < vcpu_count);
    *vcpu = (struct vcpu){.kvm = kvm, .fd = -1, .index = index, .vcpu_count = vcpu_count};
    enum kelpie_status status = create(vcpu, err);
    if (status != KELPIE_OK) {
        vcpu_destroy(vcpu);
    }
    return status;
}

void vcpu_destroy(struct vcpu *vcpu) {
    ASSERT(vcpu);
    if (!vcpu->kvm) {
        return; /* zeroed, or destroyed already */
    }
    ASSERT(vcpu->kvm->run_size > 0);
    if (vcpu->run) {
        munmap(vcpu->run, vcpu->kvm->run_size);
    }
    if (vcpu->fd >= 0) {
        close(vcpu->fd);
    }
    *vcpu = (struct vcpu){.fd = -1};
}

/* Sections 4.4, 4.12 and the boot protocol. TR and LDTR stay as after a reset: usable, and never looked at. */
enum kelpie_status vcpu_boot(struct vcpu *vcpu, const struct vcpu_boot *boot,
                             struct kelpie_error *err) {
    ASSERT(vcpu && vcpu->fd >= 0);
    ASSERT(boot && boot->cr3 % VMM_PAGE_SIZE == 0);
    struct kvm_sregs sregs;
    int result = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
    if (result < 0) {
        return error_set_os(err, -result, "cannot read the registers of vCPU %u", vcpu->index);
    }
    const struct kvm_segment data = {.limit = 0xffffffff,
                                     .selector = VCPU_DATA_SELECTOR,
                                     .type = 3,
                                     .present = 1,
                                     .db = 1,
                                     .s = 1,
                                     .g = 1};
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cs = data;
    sregs.cs.selector = VCPU_CODE_SELECTOR;
    sregs.cs.type = 11;
    sregs.cs.db = 0;
    sregs.cs.l = 1;
    sregs.gdt = (struct kvm_dtable){.base = boot->gdt, .limit = sizeof(vcpu_gdt) - 1};
    sregs.idt = (struct kvm_dtable){0};
    sregs.cr0 =
        CR0_PROTECTION | CR0_EXTENSION_TYPE | CR0_NUMERIC_ERROR | CR0_WRITE_PROTECT | CR0_PAGING;
    sregs.cr3 = boot->cr3;
    sregs.cr4 = CR4_PHYSICAL_EXTENSION;
    sregs.efer = EFER_LONG_ENABLE | EFER_LONG_ACTIVE;
    struct kvm_regs regs = {.rip = boot->rip, .rsi = boot->rsi, .rflags = RFLAGS_ALWAYS};
    result = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
    if (result == 0) {
        result = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    }
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused the first registers of vCPU %u",
                            vcpu->index);
    }
    return KELPIE_OK;
}
