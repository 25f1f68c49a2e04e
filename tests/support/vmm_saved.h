/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Saved state of the guests of vmm_guest.h: made, found its way in, damaged with a right checksum, loaded. */
#ifndef KELPIE_TESTS_SUPPORT_VMM_SAVED_H
#define KELPIE_TESTS_SUPPORT_VMM_SAVED_H

#include "base/checked.h"
#include "support/vmm_guest.h"
#include "vmm/state/state.h"

#define STATE_SIZE (256u << 10)
#define TAG_CPUID STATE_TAG('C', 'P', 'U', 'I')
#define TAG_VCPU STATE_TAG('V', 'C', 'P', 'U')
#define TAG_MSRS STATE_TAG('M', 'S', 'R', 'S')
#define TAG_VM STATE_TAG('K', 'V', 'M', 'V')

/* Where things lie in the sections. */
#define CPUID_KHZ 0
#define CPUID_COUNT 4
#define CPUID_ENTRIES 8
#define CPUID_ENTRY_SIZE 28
#define VCPU_LAPIC (4 + 144 + 312 + 4 + 12 + 48) /* with one extended control register */
#define VM_IOAPIC 32
#define VM_PIT (VM_IOAPIC + 20 + 24 * 8)
#define VM_CLOCK (VM_PIT + 3 * 16 + 4)

struct saved {
    uint8_t bytes[STATE_SIZE];
    size_t size;
};

static inline void save(struct guest *guest, struct saved *ret) {
    struct kelpie_error err;
    struct state_writer writer;
    memset(ret, 0, sizeof(*ret));
    state_writer_init(&writer, ret->bytes, sizeof(ret->bytes));
    for (uint32_t i = 0; i < guest->vcpu_count; i++) {
        guest_check(vcpu_state_save(&guest->vcpus[i], &writer, &err), &err);
    }
    guest_check(kvm_state_save(&guest->kvm, &writer, &err), &err);
    guest_check(state_writer_finish(&writer, &ret->size, &err), &err);
}

static inline enum kelpie_status load(struct guest *guest, const struct saved *saved,
                                      struct kelpie_error *err) {
    struct state_reader reader;
    TRY(state_reader_init(&reader, saved->bytes, saved->size, err));
    for (uint32_t i = 0; i < guest->vcpu_count; i++) {
        TRY(vcpu_state_load(&guest->vcpus[i], &reader, err));
    }
    TRY(kvm_state_load(&guest->kvm, &reader, err));
    return state_reader_finish(&reader, err);
}

/* The payload of the section of vCPU `instance`, in place. */
static inline uint8_t *section_of(struct saved *saved, uint32_t tag, uint16_t instance,
                                  size_t *ret_size) {
    struct state_reader reader;
    struct cursor_reader cursor;
    struct kelpie_error err;
    guest_check(state_reader_init(&reader, saved->bytes, saved->size, &err), &err);
    guest_check(state_find(&reader, tag, 1, instance, &cursor, &err), &err);
    *ret_size = cursor.size;
    return saved->bytes + (cursor.data - saved->bytes);
}

/* The same state with another size of one section, whose bytes are cut or filled with zeros; its checksum is right. */
static inline void rewrite(const struct saved *saved, uint32_t tag, size_t new_size,
                           struct saved *ret) {
    static uint8_t payload[STATE_SIZE];
    struct state_reader reader;
    struct state_writer writer;
    struct kelpie_error err;
    guest_check(state_reader_init(&reader, saved->bytes, saved->size, &err), &err);
    state_writer_init(&writer, ret->bytes, sizeof(ret->bytes));
    for (size_t i = 0; i < reader.section_count; i++) {
        const struct state_section *section = &reader.sections[i];
        size_t size = section->tag == tag ? new_size : section->size;
        memset(payload, 0, sizeof(payload));
        memcpy(payload, section->payload, min_size(size, section->size));
        cursor_write_bytes(state_begin(&writer, section->tag, section->version, section->instance),
                           payload, size);
        state_end(&writer);
    }
    guest_check(state_writer_finish(&writer, &ret->size, &err), &err);
}

/* After bytes were changed in place. */
static inline void reseal(struct saved *saved, const struct saved *original, uint32_t tag,
                          const uint8_t *payload, size_t size) {
    struct state_reader reader;
    struct state_writer writer;
    struct kelpie_error err;
    guest_check(state_reader_init(&reader, original->bytes, original->size, &err), &err);
    state_writer_init(&writer, saved->bytes, sizeof(saved->bytes));
    for (size_t i = 0; i < reader.section_count; i++) {
        const struct state_section *section = &reader.sections[i];
        bool other = section->tag == tag;
        cursor_write_bytes(state_begin(&writer, section->tag, section->version, section->instance),
                           other ? payload : section->payload, other ? size : section->size);
        state_end(&writer);
    }
    guest_check(state_writer_finish(&writer, &saved->size, &err), &err);
}

struct change {
    uint32_t tag;
    size_t offset;
    uint64_t value;
    size_t size; /* of the value */
};

/* Loads the state with some bytes of vCPU 0's section replaced. */
static inline enum kelpie_status load_with(struct guest *guest, struct saved *original,
                                           struct change change, struct kelpie_error *err) {
    static struct saved changed;
    static uint8_t payload[STATE_SIZE];
    size_t section_size = 0;
    const uint8_t *section = section_of(original, change.tag, 0, &section_size);
    assert_true(change.offset + change.size <= section_size);
    memcpy(payload, section, section_size);
    memcpy(payload + change.offset, &change.value, change.size);
    reseal(&changed, original, change.tag, payload, section_size);
    return load(guest, &changed, err);
}

static inline void set_msr(struct vcpu *vcpu, uint32_t index, uint64_t value) {
    struct vcpu_msr msr = {.count = 1, .entry = {.index = index, .data = value}};
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msr), 1);
}

static inline uint64_t get_msr(struct vcpu *vcpu, uint32_t index) {
    struct vcpu_msr msr = {.count = 1, .entry = {.index = index}};
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msr), 1);
    return msr.entry.data;
}

/* Sets up both controllers and the timer, and ends. */
PAYLOAD(chips, "mov $0xfee00000, %ebx\n"
               "movl $0x1ff, 0xf0(%rbx)\n"
               "movl $0x41, 0x370(%rbx)\n"
               "mov $0xfec00000, %ecx\n"
               "movl $0x1a, (%rcx)\n"
               "movl $0x30, 0x10(%rcx)\n"
               "movl $0x1c, (%rcx)\n"
               "movl $0x18031, 0x10(%rcx)\n"
               "mov $0x11, %al\n"
               "out %al, $0x20\n"
               "mov $0x30, %al\n"
               "out %al, $0x21\n"
               "mov $4, %al\n"
               "out %al, $0x21\n"
               "mov $1, %al\n"
               "out %al, $0x21\n"
               "mov $0xdf, %al\n"
               "out %al, $0x21\n"
               "mov $0xb6, %al\n"
               "out %al, $0x43\n"
               "mov $0x34, %al\n"
               "out %al, $0x42\n"
               "out %al, $0xf4\n"
               "hlt\n");

/* A guest whose every part differs from a new one's. */
static inline void create_used(struct guest *guest) {
    guest_create(guest, GUEST_MEMORY_SIZE, 2, PAYLOAD_OF(chips));
    assert_int_equal(guest_run(guest), VCPU_STOP_PAUSED);
    struct vcpu *vcpu = &guest->vcpus[0];
    struct kvm_regs regs;
    struct kvm_xsave xsave;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct kvm_clock_data clock = {.clock = 3600ull * 1000000000ull};
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_GET_XSAVE, &xsave), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debugregs), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events), 0);
    regs.r8 = 0x8888888888888888;
    regs.r15 = 0xffff123456789abc;
    regs.rflags |= 0xc1;
    xsave.region[40] = 0x11223344; /* XMM0 */
    xsave.region[41] = 0x55667788;
    xsave.region[128] |= 3; /* x87 and SSE are in use */
    debugregs.db[1] = 0x401000;
    events.nmi.masked = 1;
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, &xsave), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debugregs), 0);
    assert_int_equal(kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events), 0);
    assert_int_equal(kvm_ioctl(guest->kvm.vm_fd, KVM_SET_CLOCK, &clock), 0);
    set_msr(vcpu, 0xc0000082, 0xffffffff81000000); /* LSTAR */
    set_msr(vcpu, 0x277, 0x0007010600070106);      /* PAT */
    set_msr(vcpu, 0x10, 0x123456789abc);           /* TSC */
}

static inline size_t place_of_msr(struct saved *saved, uint32_t index) {
    size_t size = 0;
    const uint8_t *msrs = section_of(saved, TAG_MSRS, 0, &size);
    size_t place = 4;
    while (place + 12 <= size && guest_value(msrs + place, 4) != index) {
        place += 12;
    }
    assert_true(place + 12 <= size);
    return place;
}

#endif
