/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * Saving and loading one vCPU. The order of KVM's calls is part of the meaning.
 *
 * Saving: KVM_GET_MP_STATE first, for it takes INIT and SIPI signals that wait in. The MSRs before the local APIC: a
 * deadline timer that goes off between the two is then saved both as armed and as delivered, and the guest gets one
 * interrupt too many, which it bears; the other way round it would get none, and stand still. KVM_GET_VCPU_EVENTS last.
 *
 * Loading: CPUID before all, since it decides which registers and bits there are (hazard C4). SREGS before the local
 * APIC (the APIC's base and mode), that before the MSRs (a deadline is ignored unless the APIC's timer is in that
 * mode), the TSC before its deadline (hazard C3; vcpu_msr.c). What is pending comes after what it is pending for, and the
 * multiprocessor state last: SREGS may set it.
 *
 * What an immediate save after a load does not give back byte for byte (hazard C9): the TSC, the local APIC's count
 * when its timer runs, and the VM's clock. All else is the same.
 *
 * Section 'CPUI': TSC kHz u32, entries u32, then for each: function, index, flags, EAX, EBX, ECX, EDX, all u32.
 * Section 'VCPU': MP state u32; struct kvm_regs; struct kvm_sregs; extended control registers: count u32, each number
 * u32 and value u64; debug registers DB0 to DB3, DR6, DR7 u64; the local APIC's 1024 bytes; events (below); size u32 and
 * bytes of the XSAVE area. KVM's structures are the kernel's ABI on this processor (asm/kvm.h) and have no padding
 * that is not a field.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/assert.h"
#include "vmm/x86_64/vcpu.h"

#define TAG_CPUID STATE_TAG('C', 'P', 'U', 'I')
#define TAG_VCPU STATE_TAG('V', 'C', 'P', 'U')
#define VERSION 1

#define EVENT_FLAGS                                                                                \
    (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                           \
     KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |          \
     KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
#define SHADOW_MAX (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI)
#define EXCEPTION_MAX 31
#define CPUID_FLAGS_MAX 7u
#define PPM 1000000ull
#define DR6_RESET 0xffff0ff0ull /* Intel SDM volume 3, table 10-1 */
#define DR7_RESET 0x400ull

static_assert(sizeof(struct kvm_regs) == 18 * sizeof(uint64_t), "no padding");
static_assert(sizeof(struct kvm_sregs) == 312, "the layout that is saved");
static_assert(sizeof(struct kvm_lapic_state) == 1024, "the layout that is saved");

struct registers {
    struct kvm_mp_state mp_state;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    uint32_t xsave_size;
    uint8_t xsave[VCPU_XSAVE_SIZE_MAX] __attribute__((aligned(64)));
};

/* ---- save --------------------------------------------------------------------------------------- */

static enum kelpie_status get(struct vcpu *vcpu, unsigned long request, void *ret, const char *what,
                              struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(ret && what);
    int result = kvm_ioctl(vcpu->fd, request, ret);
    if (result < 0) {
        error_set_os(err, -result, "cannot read the %s of vCPU %u", what, vcpu->index);
        return error_wrap(err, KELPIE_SNAPSHOT_FAILED, "cannot save the state");
    }
    return KELPIE_OK;
}

static enum kelpie_status save_cpuid(struct vcpu *vcpu, struct state_writer *state,
                                     struct kelpie_error *err) {
    ASSERT(state);
    ASSERT(vcpu->cpuid.count <= CPUID_ENTRY_COUNT_MAX);
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    if (khz <= 0) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "KVM does not say how fast the TSC counts");
    }
    struct cursor_writer *writer = state_begin(state, TAG_CPUID, VERSION, (uint16_t)vcpu->index);
    cursor_write_u32(writer, (uint32_t)khz);
    cursor_write_u32(writer, vcpu->cpuid.count);
    for (uint32_t i = 0; i < vcpu->cpuid.count; i++) {
        const struct kvm_cpuid_entry2 *entry = &vcpu->cpuid.entries[i];
        const uint32_t words[] = {entry->function, entry->index, entry->flags, entry->eax,
                                  entry->ebx,      entry->ecx,   entry->edx};
        for (size_t word = 0; word < ARRAY_SIZE(words); word++) {
            cursor_write_u32(writer, words[word]);
        }
    }
    state_end(state);
    return KELPIE_OK;
}

static void write_events(struct cursor_writer *writer, const struct kvm_vcpu_events *events) {
    const uint8_t bytes[] = {
        events->exception.injected,
        events->exception.nr,
        events->exception.has_error_code,
        events->exception.pending,
        events->interrupt.injected,
        events->interrupt.nr,
        events->interrupt.soft,
        events->interrupt.shadow,
        events->nmi.injected,
        events->nmi.pending,
        events->nmi.masked,
        events->smi.smm,
        events->smi.pending,
        events->smi.smm_inside_nmi,
        events->smi.latched_init,
        events->triple_fault.pending,
        events->exception_has_payload,
    };
    ASSERT(writer);
    ASSERT(events);
    cursor_write_u32(writer, events->flags);
    cursor_write_u32(writer, events->exception.error_code);
    cursor_write_u32(writer, events->sipi_vector);
    cursor_write_u64(writer, events->exception_payload);
    cursor_write_bytes(writer, bytes, sizeof(bytes));
}

static void write_registers(struct cursor_writer *writer, const struct registers *registers) {
    ASSERT(writer);
    ASSERT(registers->xcrs.nr_xcrs <= KVM_MAX_XCRS);
    cursor_write_u32(writer, registers->mp_state.mp_state);
    cursor_write_bytes(writer, &registers->regs, sizeof(registers->regs));
    cursor_write_bytes(writer, &registers->sregs, sizeof(registers->sregs));
    cursor_write_u32(writer, registers->xcrs.nr_xcrs);
    for (uint32_t i = 0; i < registers->xcrs.nr_xcrs; i++) {
        cursor_write_u32(writer, registers->xcrs.xcrs[i].xcr);
        cursor_write_u64(writer, registers->xcrs.xcrs[i].value);
    }
    for (size_t i = 0; i < ARRAY_SIZE(registers->debugregs.db); i++) {
        cursor_write_u64(writer, registers->debugregs.db[i]);
    }
    cursor_write_u64(writer, registers->debugregs.dr6);
    cursor_write_u64(writer, registers->debugregs.dr7);
    cursor_write_bytes(writer, registers->lapic.regs, sizeof(registers->lapic.regs));
    write_events(writer, &registers->events);
    cursor_write_u32(writer, registers->xsave_size);
    cursor_write_bytes(writer, registers->xsave, registers->xsave_size);
}

enum kelpie_status vcpu_state_save(struct vcpu *vcpu, struct state_writer *state,
                                   struct kelpie_error *err) {
    ASSERT(vcpu && vcpu->fd >= 0);
    ASSERT(state);
    struct registers registers;
    memset(&registers, 0, sizeof(registers));
    registers.xsave_size = (uint32_t)vcpu->kvm->xsave_size;
    ASSERT(registers.xsave_size <= VCPU_XSAVE_SIZE_MAX);
    TRY(get(vcpu, KVM_GET_MP_STATE, &registers.mp_state, "multiprocessor state", err));
    TRY(get(vcpu, KVM_GET_REGS, &registers.regs, "registers", err));
    TRY(get(vcpu, KVM_GET_SREGS, &registers.sregs, "system registers", err));
    TRY(get(vcpu, KVM_GET_XCRS, &registers.xcrs, "extended control registers", err));
    TRY(get(vcpu, vcpu->kvm->has_xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, registers.xsave,
            "extended registers", err));
    TRY(get(vcpu, KVM_GET_DEBUGREGS, &registers.debugregs, "debug registers", err));
    TRY(save_cpuid(vcpu, state, err));
    TRY(vcpu_msrs_save(vcpu, state, err));
    TRY(get(vcpu, KVM_GET_LAPIC, &registers.lapic, "local APIC", err));
    TRY(get(vcpu, KVM_GET_VCPU_EVENTS, &registers.events, "pending events", err));
    if (registers.xcrs.nr_xcrs > KVM_MAX_XCRS) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "KVM has %u extended control registers",
                         registers.xcrs.nr_xcrs);
    }
    write_registers(state_begin(state, TAG_VCPU, VERSION, (uint16_t)vcpu->index), &registers);
    state_end(state);
    return KELPIE_OK;
}

/* ---- load: reading and checking ----------------------------------------------------------------- */

static void read_into(struct cursor_reader *reader, void *ret, size_t size) {
    ASSERT(ret);
    ASSERT(size > 0);
    const uint8_t *bytes = cursor_read_bytes(reader, size);
    if (bytes) {
        memcpy(ret, bytes, size);
    }
}

/* A flag is 0 or 1 (hazard B1). */
static uint8_t read_flag(struct cursor_reader *reader, bool *valid) {
    ASSERT(reader);
    ASSERT(valid);
    uint8_t flag = cursor_read_u8(reader);
    *valid = *valid && flag <= 1;
    return flag;
}

static bool read_events(struct cursor_reader *reader, struct kvm_vcpu_events *events) {
    ASSERT(reader);
    ASSERT(events);
    bool valid = true;
    events->flags = cursor_read_u32(reader);
    events->exception.error_code = cursor_read_u32(reader);
    events->sipi_vector = cursor_read_u32(reader);
    events->exception_payload = cursor_read_u64(reader);
    events->exception.injected = read_flag(reader, &valid);
    events->exception.nr = cursor_read_u8(reader);
    events->exception.has_error_code = read_flag(reader, &valid);
    events->exception.pending = read_flag(reader, &valid);
    events->interrupt.injected = read_flag(reader, &valid);
    events->interrupt.nr = cursor_read_u8(reader);
    events->interrupt.soft = read_flag(reader, &valid);
    events->interrupt.shadow = cursor_read_u8(reader);
    events->nmi.injected = read_flag(reader, &valid);
    events->nmi.pending = read_flag(reader, &valid);
    events->nmi.masked = read_flag(reader, &valid);
    events->smi.smm = read_flag(reader, &valid);
    events->smi.pending = read_flag(reader, &valid);
    events->smi.smm_inside_nmi = read_flag(reader, &valid);
    events->smi.latched_init = read_flag(reader, &valid);
    events->triple_fault.pending = read_flag(reader, &valid);
    events->exception_has_payload = read_flag(reader, &valid);
    return valid && (events->flags & ~(uint32_t)EVENT_FLAGS) == 0 &&
           events->exception.nr <= EXCEPTION_MAX && events->interrupt.shadow <= SHADOW_MAX &&
           events->sipi_vector <= 0xff;
}

static bool segment_is_valid(const struct kvm_segment *segment) {
    ASSERT(segment);
    const uint8_t flags[] = {segment->present, segment->db,  segment->s,       segment->l,
                             segment->g,       segment->avl, segment->unusable};
    bool valid = segment->type <= 15 && segment->dpl <= 3 && segment->padding == 0;
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        valid = valid && flags[i] <= 1;
    }
    static_assert(sizeof(*segment) == 24, "each field is looked at");
    return valid;
}

/* KVM checks the control registers against each other. */
static bool sregs_are_valid(const struct kvm_sregs *sregs) {
    ASSERT(sregs);
    const struct kvm_segment *segments[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
                                            &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt};
    bool valid = true;
    for (size_t i = 0; i < ARRAY_SIZE(segments); i++) {
        valid = valid && segment_is_valid(segments[i]);
    }
    int pending = 0;
    for (size_t i = 0; i < ARRAY_SIZE(sregs->interrupt_bitmap); i++) {
        pending += __builtin_popcountll(sregs->interrupt_bitmap[i]);
    }
    ASSERT(pending >= 0);
    return valid && pending <= 1;
}

/* False: a value that no vCPU has. */
static bool read_registers(struct cursor_reader *reader, struct registers *registers) {
    ASSERT(reader);
    ASSERT(registers);
    bool valid = true;
    registers->mp_state.mp_state = cursor_read_u32(reader);
    read_into(reader, &registers->regs, sizeof(registers->regs));
    read_into(reader, &registers->sregs, sizeof(registers->sregs));
    registers->xcrs.nr_xcrs = cursor_read_u32(reader);
    valid = valid && registers->xcrs.nr_xcrs <= KVM_MAX_XCRS;
    for (uint32_t i = 0; valid && i < registers->xcrs.nr_xcrs; i++) {
        registers->xcrs.xcrs[i].xcr = cursor_read_u32(reader);
        registers->xcrs.xcrs[i].value = cursor_read_u64(reader);
    }
    for (size_t i = 0; i < ARRAY_SIZE(registers->debugregs.db); i++) {
        registers->debugregs.db[i] = cursor_read_u64(reader);
    }
    registers->debugregs.dr6 = cursor_read_u64(reader);
    registers->debugregs.dr7 = cursor_read_u64(reader);
    read_into(reader, registers->lapic.regs, sizeof(registers->lapic.regs));
    valid = read_events(reader, &registers->events) && valid;
    registers->xsave_size = cursor_read_u32(reader);
    valid = valid && registers->xsave_size >= VCPU_XSAVE_SIZE_MIN &&
            registers->xsave_size <= VCPU_XSAVE_SIZE_MAX;
    if (valid) {
        read_into(reader, registers->xsave, registers->xsave_size);
    }
    return valid && registers->mp_state.mp_state <= KVM_MP_STATE_SIPI_RECEIVED &&
           (registers->regs.rflags & 2) != 0 && sregs_are_valid(&registers->sregs);
}

/* ---- load: telling KVM -------------------------------------------------------------------------- */

/* What KVM finds invalid is the snapshot's fault. */
static enum kelpie_status set(struct vcpu *vcpu, unsigned long request, void *value,
                              const char *what, struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(value && what);
    int result = kvm_ioctl(vcpu->fd, request, value);
    if (result == -EINVAL) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                               "KVM refused the saved %s of vCPU %u", what, vcpu->index);
    }
    if (result < 0) {
        error_set_os(err, -result, "cannot set the %s of vCPU %u", what, vcpu->index);
        return error_wrap(err, KELPIE_RESTORE_FAILED, "cannot load the state");
    }
    return KELPIE_OK;
}

/* Hazard C3. A guest measures its TSC once: it must go on as fast as it was. */
static enum kelpie_status load_tsc_khz(struct vcpu *vcpu, uint32_t saved_khz,
                                       struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    int khz = vcpu->is_fresh ? (int)vcpu->tsc_khz : ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    uint64_t here_khz = khz > 0 ? (uint64_t)khz : 0;
    uint64_t difference = here_khz > saved_khz ? here_khz - saved_khz : saved_khz - here_khz;
    if (difference * PPM <= (uint64_t)saved_khz * VCPU_TSC_TOLERANCE_PPM) {
        return KELPIE_OK;
    }
    ASSERT(saved_khz > 0);
    if (vcpu->kvm->has_tsc_scaling &&
        ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)saved_khz) == 0) {
        return KELPIE_OK;
    }
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "tsc_khz",
                           "the snapshot's TSC counts at %u kHz, this host's at %llu kHz, and it "
                           "cannot be scaled here",
                           saved_khz, (unsigned long long)here_khz);
}

static bool tables_are_equal(const struct cpuid_table *one, const struct cpuid_table *other) {
    ASSERT(one->count <= CPUID_ENTRY_COUNT_MAX);
    ASSERT(other->count <= CPUID_ENTRY_COUNT_MAX);
    return one->count == other->count &&
           memcmp(one->entries, other->entries, one->count * sizeof(one->entries[0])) == 0;
}

static enum kelpie_status load_cpuid(struct vcpu *vcpu, struct state_reader *state,
                                     struct kelpie_error *err) {
    struct cursor_reader reader;
    struct cpuid_table saved;
    struct cpuid_table here;
    ASSERT(vcpu->cpuid.count > 0);
    TRY(state_find(state, TAG_CPUID, VERSION, (uint16_t)vcpu->index, &reader, err));
    uint32_t khz = cursor_read_u32(&reader);
    uint32_t count = cursor_read_u32(&reader);
    bool valid = khz > 0 && count <= CPUID_ENTRY_COUNT_MAX;
    for (uint32_t i = 0; valid && i < count; i++) {
        uint32_t words[7];
        for (size_t word = 0; word < ARRAY_SIZE(words); word++) {
            words[word] = cursor_read_u32(&reader);
        }
        saved.entries[i] = (struct kvm_cpuid_entry2){.function = words[0],
                                                     .index = words[1],
                                                     .flags = words[2],
                                                     .eax = words[3],
                                                     .ebx = words[4],
                                                     .ecx = words[5],
                                                     .edx = words[6]};
        valid = words[2] <= CPUID_FLAGS_MAX;
    }
    TRY(state_check(&reader, valid, "a vCPU's CPUID", err));
    ASSERT(count <= CPUID_ENTRY_COUNT_MAX);
    saved.count = count;
    saved.padding = 0;
    TRY(load_tsc_khz(vcpu, khz, err));
    if (vcpu->is_fresh && tables_are_equal(&saved, &vcpu->cpuid)) {
        return KELPIE_OK; /* the call takes 60 microseconds */
    }
    vcpu->is_fresh = false;
    cpuid_for_vcpu(&here, &vcpu->kvm->supported, vcpu->index, vcpu->vcpu_count,
                   vcpu->kvm->has_tsc_deadline);
    TRY(cpuid_check(&saved, &here, err));
    TRY(set(vcpu, KVM_SET_CPUID2, &saved, "CPUID", err));
    vcpu->cpuid = saved;
    return KELPIE_OK;
}

/*
 * What a fresh vCPU has already is not set again: each call takes 5 microseconds where KVM is nested, and few guests are
 * being debugged, or are caught just when an interrupt is on its way.
 */
static bool debugregs_are_reset(const struct kvm_debugregs *debugregs) {
    uint64_t addresses = 0;
    ASSERT(debugregs);
    static_assert(ARRAY_SIZE(debugregs->db) == 4, "DR0 to DR3");
    for (size_t i = 0; i < ARRAY_SIZE(debugregs->db); i++) {
        addresses |= debugregs->db[i];
    }
    return addresses == 0 && debugregs->dr6 == DR6_RESET && debugregs->dr7 == DR7_RESET;
}

static bool events_are_reset(const struct kvm_vcpu_events *events) {
    struct kvm_vcpu_events nothing;
    ASSERT(events);
    memset(&nothing, 0, sizeof(nothing));
    nothing.flags = events->flags; /* says which fields count */
    static_assert(sizeof(nothing) == 64, "no padding");
    return memcmp(&nothing, events, sizeof(nothing)) == 0;
}

static enum kelpie_status load_registers(struct vcpu *vcpu, struct registers *registers,
                                         struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(registers->xsave_size <= VCPU_XSAVE_SIZE_MAX);
    if (registers->xsave_size > vcpu->kvm->xsave_size) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "xsave",
                               "the snapshot has %u bytes of extended registers, this host %zu",
                               registers->xsave_size, vcpu->kvm->xsave_size);
    }
    const size_t saved_size = registers->xsave_size;
    memset(registers->xsave + saved_size, 0, vcpu->kvm->xsave_size - saved_size);
    TRY(set(vcpu, KVM_SET_SREGS, &registers->sregs, "system registers", err));
    TRY(set(vcpu, KVM_SET_REGS, &registers->regs, "registers", err));
    TRY(set(vcpu, KVM_SET_XSAVE, registers->xsave, "extended registers", err));
    if (registers->xcrs.nr_xcrs > 0) {
        TRY(set(vcpu, KVM_SET_XCRS, &registers->xcrs, "extended control registers", err));
    }
    if (!vcpu->is_fresh || !debugregs_are_reset(&registers->debugregs)) {
        TRY(set(vcpu, KVM_SET_DEBUGREGS, &registers->debugregs, "debug registers", err));
    }
    return set(vcpu, KVM_SET_LAPIC, &registers->lapic, "local APIC", err);
}

enum kelpie_status vcpu_state_load(struct vcpu *vcpu, struct state_reader *state,
                                   struct kelpie_error *err) {
    ASSERT(vcpu && vcpu->fd >= 0);
    ASSERT(state);
    struct cursor_reader reader;
    struct registers registers;
    memset(&registers, 0, offsetof(struct registers, xsave));
    TRY(load_cpuid(vcpu, state, err));
    TRY(state_find(state, TAG_VCPU, VERSION, (uint16_t)vcpu->index, &reader, err));
    bool valid = read_registers(&reader, &registers);
    TRY(state_check(&reader, valid, "a vCPU", err));
    bool fresh = vcpu->is_fresh;
    enum kelpie_status status = load_registers(vcpu, &registers, err);
    vcpu->is_fresh = false;
    TRY(status);
    TRY(vcpu_msrs_load(vcpu, state, err));
    if (!fresh || !events_are_reset(&registers.events)) {
        TRY(set(vcpu, KVM_SET_VCPU_EVENTS, &registers.events, "pending events", err));
    }
    if (fresh && vcpu->index == 0 && registers.mp_state.mp_state == KVM_MP_STATE_RUNNABLE) {
        return KELPIE_OK; /* so it was made */
    }
    return set(vcpu, KVM_SET_MP_STATE, &registers.mp_state, "multiprocessor state", err);
}
