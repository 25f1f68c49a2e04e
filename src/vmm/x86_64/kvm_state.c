/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * The parts of a machine that KVM keeps for all vCPUs: two 8259 interrupt controllers, the I/O APIC, the 8254 timer
 * and the paravirtual clock.
 *
 * The clock (hazard C2): saved with the wall clock's time where the host can tell both of one moment; a load then sets it
 * forward by the time that passed, and never back. Elsewhere it goes on from where it stood. It is the last thing set, so that
 * little passes between it and the vCPUs' first instruction.
 *
 * The times at which the timer's counts were loaded are of the host's own clock and mean nothing elsewhere: they are
 * saved as zeros; KVM starts the counts anew at a load.
 *
 * Section 'KVMV': twice the 16 bytes of struct kvm_pic_state; I/O APIC: base u64, select, id, irr u32, 24 entries u64;
 * timer: three times 18 bytes of a channel, flags u32; clock u64 in ns, its flag u32 (1: with a wall time), wall time u64.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/assert.h"
#include "vmm/x86_64/kvm.h"

#define TAG_VM STATE_TAG('K', 'V', 'M', 'V')
#define VERSION 1

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_ID_MAX 15
#define PIC_INIT_STATE_MAX 3
#define PIC_PRIORITY_MAX 7
#define PIT_CHANNEL_COUNT 3
#define PIT_COUNT_MAX 0x10000u
#define PIT_MODE_MAX 7
#define PIT_MODE_UNSET 0xff /* until the guest sets one */
#define PIT_STATE_MAX 4     /* of the two bytes of a count: which comes next */
#define PIT_FLAGS (KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON)
#define CLOCK_NS_MAX (1ull << 62) /* a century and a half */

static_assert(sizeof(struct kvm_pic_state) == 16, "the layout that is saved");
static_assert(KVM_IOAPIC_NUM_PINS == VMM_GSI_COUNT, "the map's");

struct chips {
    struct kvm_pic_state pics[2];
    struct kvm_ioapic_state ioapic;
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
};

/* ---- save --------------------------------------------------------------------------------------- */

static enum kelpie_status get(struct kvm *kvm, unsigned long request, void *ret, const char *what,
                              struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(ret && what);
    int result = kvm_ioctl(kvm->vm_fd, request, ret);
    if (result < 0) {
        error_set_os(err, -result, "cannot read the %s", what);
        return error_wrap(err, KELPIE_SNAPSHOT_FAILED, "cannot save the state");
    }
    return KELPIE_OK;
}

static void write_chips(struct cursor_writer *writer, const struct chips *chips) {
    ASSERT(writer);
    ASSERT(chips);
    cursor_write_bytes(writer, chips->pics, sizeof(chips->pics));
    cursor_write_u64(writer, chips->ioapic.base_address);
    cursor_write_u32(writer, chips->ioapic.ioregsel);
    cursor_write_u32(writer, chips->ioapic.id);
    cursor_write_u32(writer, chips->ioapic.irr);
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        cursor_write_u64(writer, chips->ioapic.redirtbl[i].bits);
    }
    for (size_t i = 0; i < PIT_CHANNEL_COUNT; i++) {
        const struct kvm_pit_channel_state *channel = &chips->pit.channels[i];
        const uint8_t bytes[] = {channel->count_latched, channel->status_latched,
                                 channel->status,        channel->read_state,
                                 channel->write_state,   channel->write_latch,
                                 channel->rw_mode,       channel->mode,
                                 channel->bcd,           channel->gate};
        cursor_write_u32(writer, channel->count);
        cursor_write_u16(writer, channel->latched_count);
        cursor_write_bytes(writer, bytes, sizeof(bytes));
    }
    cursor_write_u32(writer, chips->pit.flags);
    cursor_write_u64(writer, chips->clock.clock);
    cursor_write_u32(writer, (chips->clock.flags & KVM_CLOCK_REALTIME) != 0);
    cursor_write_u64(writer, chips->clock.realtime);
}

enum kelpie_status kvm_state_save(struct kvm *kvm, struct state_writer *state,
                                  struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(state);
    struct chips chips;
    memset(&chips, 0, sizeof(chips));
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip = {.chip_id = i};
        TRY(get(kvm, KVM_GET_IRQCHIP, &chip, "interrupt controllers", err));
        chips.pics[i] = chip.chip.pic;
    }
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    TRY(get(kvm, KVM_GET_IRQCHIP, &chip, "I/O APIC", err));
    chips.ioapic = chip.chip.ioapic;
    TRY(get(kvm, KVM_GET_PIT2, &chips.pit, "timer", err));
    TRY(get(kvm, KVM_GET_CLOCK, &chips.clock, "clock", err));
    if ((chips.clock.flags & KVM_CLOCK_REALTIME) == 0) {
        chips.clock.realtime = 0;
    }
    write_chips(state_begin(state, TAG_VM, VERSION, 0), &chips);
    state_end(state);
    return KELPIE_OK;
}

/* ---- load --------------------------------------------------------------------------------------- */

/* Each value against what the chip could have (hazard B1). */
static bool pic_is_valid(const struct kvm_pic_state *pic) {
    ASSERT(pic);
    const uint8_t flags[] = {pic->read_reg_select,
                             pic->poll,
                             pic->special_mask,
                             pic->auto_eoi,
                             pic->rotate_on_auto_eoi,
                             pic->init4,
                             pic->special_fully_nested_mode};
    bool valid = pic->priority_add <= PIC_PRIORITY_MAX && pic->init_state <= PIC_INIT_STATE_MAX;
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        valid = valid && flags[i] <= 1;
    }
    ASSERT(ARRAY_SIZE(flags) == 7);
    return valid;
}

static bool ioapic_is_valid(const struct kvm_ioapic_state *ioapic) {
    ASSERT(ioapic);
    ASSERT(ioapic->pad == 0);
    return ioapic->base_address == IOAPIC_BASE && ioapic->id <= IOAPIC_ID_MAX &&
           ioapic->ioregsel <= 0xff && ioapic->irr < 1u << KVM_IOAPIC_NUM_PINS;
}

static bool channel_is_valid(const struct kvm_pit_channel_state *channel) {
    ASSERT(channel);
    bool mode = channel->mode <= PIT_MODE_MAX || channel->mode == PIT_MODE_UNSET;
    ASSERT(channel->count_load_time == 0);
    return mode && channel->count > 0 && channel->count <= PIT_COUNT_MAX && channel->bcd <= 1 &&
           channel->gate <= 1 && channel->status_latched <= 1 && channel->rw_mode <= 3 &&
           channel->count_latched <= 3 && channel->read_state <= PIT_STATE_MAX &&
           channel->write_state <= PIT_STATE_MAX;
}

static bool read_channel(struct cursor_reader *reader, struct kvm_pit_channel_state *channel) {
    ASSERT(reader);
    ASSERT(channel);
    channel->count = cursor_read_u32(reader);
    channel->latched_count = cursor_read_u16(reader);
    channel->count_latched = cursor_read_u8(reader);
    channel->status_latched = cursor_read_u8(reader);
    channel->status = cursor_read_u8(reader);
    channel->read_state = cursor_read_u8(reader);
    channel->write_state = cursor_read_u8(reader);
    channel->write_latch = cursor_read_u8(reader);
    channel->rw_mode = cursor_read_u8(reader);
    channel->mode = cursor_read_u8(reader);
    channel->bcd = cursor_read_u8(reader);
    channel->gate = cursor_read_u8(reader);
    return channel_is_valid(channel);
}

static bool read_chips(struct cursor_reader *reader, struct chips *chips) {
    ASSERT(reader);
    ASSERT(chips);
    bool valid = true;
    const uint8_t *pics = cursor_read_bytes(reader, sizeof(chips->pics));
    if (pics) {
        memcpy(chips->pics, pics, sizeof(chips->pics));
    }
    chips->ioapic.base_address = cursor_read_u64(reader);
    chips->ioapic.ioregsel = cursor_read_u32(reader);
    chips->ioapic.id = cursor_read_u32(reader);
    chips->ioapic.irr = cursor_read_u32(reader);
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        chips->ioapic.redirtbl[i].bits = cursor_read_u64(reader);
    }
    for (size_t i = 0; i < PIT_CHANNEL_COUNT; i++) {
        valid = read_channel(reader, &chips->pit.channels[i]) && valid;
    }
    chips->pit.flags = cursor_read_u32(reader);
    chips->clock.clock = cursor_read_u64(reader);
    uint32_t has_realtime = cursor_read_u32(reader);
    chips->clock.realtime = cursor_read_u64(reader);
    chips->clock.flags = has_realtime == 1 ? KVM_CLOCK_REALTIME : 0;
    bool clock = has_realtime == 1 ? chips->clock.realtime > 0 : chips->clock.realtime == 0;
    return valid && clock && has_realtime <= 1 && chips->clock.realtime <= CLOCK_NS_MAX &&
           chips->clock.clock <= CLOCK_NS_MAX && (chips->pit.flags & ~(uint32_t)PIT_FLAGS) == 0 &&
           pic_is_valid(&chips->pics[0]) && pic_is_valid(&chips->pics[1]) &&
           ioapic_is_valid(&chips->ioapic);
}

static enum kelpie_status set(struct kvm *kvm, unsigned long request, void *value, const char *what,
                              struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(value && what);
    int result = kvm_ioctl(kvm->vm_fd, request, value);
    if (result == -EINVAL) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state", "KVM refused the saved %s",
                               what);
    }
    if (result < 0) {
        error_set_os(err, -result, "cannot set the %s", what);
        return error_wrap(err, KELPIE_RESTORE_FAILED, "cannot load the state");
    }
    return KELPIE_OK;
}

enum kelpie_status kvm_state_load(struct kvm *kvm, struct state_reader *state,
                                  struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(state);
    struct cursor_reader reader;
    struct chips chips;
    memset(&chips, 0, sizeof(chips));
    TRY(state_find(state, TAG_VM, VERSION, 0, &reader, err));
    bool valid = read_chips(&reader, &chips);
    TRY(state_check(&reader, valid, "the interrupt controllers, the timer or the clock", err));
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip = {.chip_id = i, .chip.pic = chips.pics[i]};
        TRY(set(kvm, KVM_SET_IRQCHIP, &chip, "interrupt controllers", err));
    }
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic = chips.ioapic};
    TRY(set(kvm, KVM_SET_IRQCHIP, &chip, "I/O APIC", err));
    TRY(set(kvm, KVM_SET_PIT2, &chips.pit, "timer", err));
    if (!kvm->has_clock_realtime) {
        chips.clock.flags = 0;
        chips.clock.realtime = 0;
    }
    return set(kvm, KVM_SET_CLOCK, &chips.clock, "clock", err);
}
