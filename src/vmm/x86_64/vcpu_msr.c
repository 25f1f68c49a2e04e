/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * The model-specific registers that are saved are those that KVM lists (section 4.3), and the memory types, which
 * it keeps and does not list; less those of features that no guest of ours has (VMX, Hyper-V), some of which tell of the
 * host or of its time. One that cannot be read here is not there, and is left out.
 *
 * Section 'MSRS': count u32, then index u32 and value u64 for each, in ascending order of index. That order puts the TSC
 * (0x10) before its deadline (0x6e0), which KVM compares with it at once (hazard C3).
 *
 * A load knows each index from the list that this host gives, and sets all in one call. KVM stops at the first that it
 * refuses: an error that names it, unless the register has that value already, or is one of read_only[].
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/assert.h"
#include "vmm/x86_64/vcpu.h"

#define TAG_MSRS STATE_TAG('M', 'S', 'R', 'S')
#define VERSION 1

#define MSR_TSC 0x10
#define TSC_FAR (1ull << 44) /* more than half an hour, at 8 GHz */
#define MSR_TSC_DEADLINE 0x6e0
static_assert(MSR_TSC < MSR_TSC_DEADLINE, "ascending order sets the TSC first");

/* As struct kvm_msrs, with room. */
struct msr_table {
    uint32_t count;
    uint32_t padding;
    struct kvm_msr_entry entries[VCPU_MSR_COUNT_MAX];
};

static_assert(offsetof(struct msr_list, indices) == offsetof(struct kvm_msr_list, indices),
              "KVM's");
static_assert(offsetof(struct vcpu_msr, entry) == offsetof(struct kvm_msrs, entries), "KVM's");
static_assert(offsetof(struct msr_table, entries) == offsetof(struct kvm_msrs, entries), "KVM's");

struct msr_range {
    uint32_t first;
    uint32_t last;
};

/* Memory types (Intel SDM volume 3, 12.11.2). */
static const struct msr_range unlisted[] = {
    {0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff},
};

static const struct msr_range hidden[] = {
    {0x480, 0x4ff},           /* what VMX can do */
    {0x40000000, 0x400001ff}, /* Hyper-V's */
};

/* Tell of the host's processor, and decide nothing for a guest of ours: another value here is no other machine. */
static const uint32_t read_only[] = {
    0x8b,  /* the microcode's revision */
    0x345, /* what the performance counters can do: hidden */
};

static bool is_in(const struct msr_range *ranges, size_t count, uint32_t index) {
    ASSERT(ranges);
    ASSERT(count > 0);
    bool found = false;
    for (size_t i = 0; i < count; i++) {
        found = found || (index >= ranges[i].first && index <= ranges[i].last);
    }
    return found;
}

static int compare_indices(const void *one, const void *other) {
    ASSERT(one);
    ASSERT(other);
    uint32_t a = *(const uint32_t *)one;
    uint32_t b = *(const uint32_t *)other;
    return a < b ? -1 : a > b;
}

enum kelpie_status kvm_list_msrs(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm->kvm_fd >= 0);
    struct msr_list *ret = &kvm->msrs;
    struct msr_list listed = {.count = VCPU_MSR_COUNT_MAX - VCPU_MSR_UNLISTED_COUNT_MAX};
    int result = kvm_ioctl(kvm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &listed);
    if (result < 0) {
        return error_set_os(err, -result, "KVM does not list its model-specific registers");
    }
    ASSERT(listed.count <= VCPU_MSR_COUNT_MAX - VCPU_MSR_UNLISTED_COUNT_MAX);
    for (size_t range = 0; range < ARRAY_SIZE(unlisted); range++) {
        for (uint32_t msr = unlisted[range].first; msr <= unlisted[range].last; msr++) {
            ASSERT(listed.count < VCPU_MSR_COUNT_MAX);
            listed.indices[listed.count++] = msr;
        }
    }
    qsort(listed.indices, listed.count, sizeof(listed.indices[0]), compare_indices);
    ret->count = 0;
    for (uint32_t i = 0; i < listed.count; i++) {
        uint32_t index = listed.indices[i];
        bool again = ret->count > 0 && ret->indices[ret->count - 1] == index;
        if (!again && !is_in(hidden, ARRAY_SIZE(hidden), index)) {
            ret->indices[ret->count++] = index;
        }
    }
    ASSERT(ret->count <= listed.count);
    return KELPIE_OK;
}

/* Reads one. False: it is not there. */
static bool read_msr(const struct vcpu *vcpu, uint32_t index, uint64_t *ret) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(ret);
    struct vcpu_msr msr = {.count = 1, .entry = {.index = index}};
    if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msr) != 1) {
        return false;
    }
    *ret = msr.entry.data;
    return true;
}

/* Reads all that are there, with few calls: KVM stops at the first that is not. */
static void read_msrs(const struct vcpu *vcpu, const struct msr_list *list, struct msr_table *ret) {
    ASSERT(list->count <= VCPU_MSR_COUNT_MAX);
    ASSERT(ret);
    ret->count = 0;
    uint32_t next = 0;
    while (next < list->count) {
        struct msr_table part;
        part.count = list->count - next;
        part.padding = 0;
        for (uint32_t i = 0; i < part.count; i++) {
            part.entries[i] = (struct kvm_msr_entry){.index = list->indices[next + i]};
        }
        int result = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &part);
        uint32_t count = result > 0 ? (uint32_t)result : 0;
        ASSERT(count <= part.count);
        for (uint32_t i = 0; i < count; i++) {
            ret->entries[ret->count++] = part.entries[i];
        }
        next += count + 1; /* beyond the one that is not there */
    }
}

enum kelpie_status vcpu_msrs_save(struct vcpu *vcpu, struct state_writer *state,
                                  struct kelpie_error *err) {
    ASSERT(vcpu && state);
    struct msr_table table;
    read_msrs(vcpu, &vcpu->kvm->msrs, &table);
    if (table.count == 0) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED,
                         "KVM gives no model-specific register of vCPU %u", vcpu->index);
    }
    ASSERT(table.count <= vcpu->kvm->msrs.count);
    struct cursor_writer *writer = state_begin(state, TAG_MSRS, VERSION, (uint16_t)vcpu->index);
    cursor_write_u32(writer, table.count);
    for (uint32_t i = 0; i < table.count; i++) {
        cursor_write_u32(writer, table.entries[i].index);
        cursor_write_u64(writer, table.entries[i].data);
    }
    state_end(state);
    return KELPIE_OK;
}

static bool is_read_only(uint32_t index) {
    bool found = false;
    for (size_t i = 0; i < ARRAY_SIZE(read_only); i++) {
        found = found || read_only[i] == index;
    }
    ASSERT(ARRAY_SIZE(read_only) > 0);
    ASSERT(!found || index != MSR_TSC);
    return found;
}

static enum kelpie_status incompatible(const struct kvm_msr_entry *entry, const char *why,
                                       struct kelpie_error *err) {
    ASSERT(entry);
    ASSERT(why);
    char field[32];
    snprintf(field, sizeof(field), "msr.%#x", entry->index);
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, field,
                           "the snapshot has the value %#llx in the model-specific register %#x, "
                           "which this host's KVM %s",
                           (unsigned long long)entry->data, entry->index, why);
}

/* Both are ascending. Those that this host does not know leave the table, when that does no harm. */
static enum kelpie_status keep_known(struct msr_table *table, const struct msr_list *list,
                                     struct kelpie_error *err) {
    ASSERT(table->count <= VCPU_MSR_COUNT_MAX);
    ASSERT(list->count <= VCPU_MSR_COUNT_MAX);
    uint32_t kept = 0;
    uint32_t next = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct kvm_msr_entry entry = table->entries[i];
        while (next < list->count && list->indices[next] < entry.index) {
            next++;
        }
        if (next < list->count && list->indices[next] == entry.index) {
            table->entries[kept++] = entry;
        } else if (!is_read_only(entry.index)) {
            return incompatible(&entry, "does not have", err);
        }
    }
    table->count = kept;
    return KELPIE_OK;
}

/* Uses the table up: what KVM has taken leaves it. */
static enum kelpie_status set_msrs(struct vcpu *vcpu, struct msr_table *table,
                                   struct kelpie_error *err) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(table->count <= VCPU_MSR_COUNT_MAX);
    while (table->count > 0) {
        int result = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, table);
        if (result < 0) {
            error_set_os(err, -result, "cannot set the model-specific registers of vCPU %u",
                         vcpu->index);
            return error_wrap(err, KELPIE_RESTORE_FAILED, "cannot load the state");
        }
        uint32_t done = (uint32_t)result;
        ASSERT(done <= table->count);
        if (done < table->count) {
            const struct kvm_msr_entry *refused = &table->entries[done++];
            uint64_t value = 0;
            bool same = read_msr(vcpu, refused->index, &value) && value == refused->data;
            if (!same && !is_read_only(refused->index)) {
                return incompatible(refused, "refuses", err);
            }
        }
        table->count -= done;
        memmove(table->entries, table->entries + done, table->count * sizeof(table->entries[0]));
    }
    return KELPIE_OK;
}

/* Before Linux 6.7 KVM takes a TSC that is less than a second from what it expects for an attempt to synchronise vCPUs, and
 * does not set it: a machine saved in its first second would start again at the beginning. So the first vCPU's is set to
 * another value first, which is far from both. The other vCPUs are to be synchronised with it. A KVM that
 * refuses it refuses the right one too. */
static void move_tsc_away(const struct vcpu *vcpu, uint64_t tsc) {
    ASSERT(vcpu->fd >= 0);
    ASSERT(vcpu->index < vcpu->vcpu_count);
    if (vcpu->index == 0 && tsc != 0) {
        struct vcpu_msr msr = {.count = 1, .entry = {.index = MSR_TSC, .data = tsc ^ TSC_FAR}};
        (void)kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msr);
    }
}

/* Not every KVM can set the TSC: some (page-table KVM within a VM) let the guest see the host's, whatever they are told. That
 * does where the host's is ahead of the snapshot's, and would be a clock that jumps back where it is not. The first vCPU
 * tells: KVM sets the others to what it has, when they differ by less than a second, as their saved values do by the
 * time that saving took. */
static enum kelpie_status check_tsc(const struct vcpu *vcpu, uint64_t saved,
                                    struct kelpie_error *err) {
    uint64_t now = 0;
    ASSERT(vcpu->fd >= 0);
    ASSERT(vcpu->index < vcpu->vcpu_count);
    if (vcpu->index == 0 && read_msr(vcpu, MSR_TSC, &now) && now < saved) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "tsc",
                               "the snapshot's TSC stands at %llu, this host's at %llu, and its "
                               "KVM cannot set it",
                               (unsigned long long)saved, (unsigned long long)now);
    }
    return KELPIE_OK;
}

/* 0: there is none, and none is behind it. */
static uint64_t find_tsc(const struct msr_table *table) {
    uint64_t tsc = 0;
    ASSERT(table->count <= VCPU_MSR_COUNT_MAX);
    for (uint32_t i = 0; i < table->count; i++) {
        tsc = table->entries[i].index == MSR_TSC ? table->entries[i].data : tsc;
    }
    ASSERT(table->count > 0 || tsc == 0);
    return tsc;
}

enum kelpie_status vcpu_msrs_load(struct vcpu *vcpu, struct state_reader *state,
                                  struct kelpie_error *err) {
    ASSERT(vcpu && state);
    struct cursor_reader reader;
    struct msr_table table;
    TRY(state_find(state, TAG_MSRS, VERSION, (uint16_t)vcpu->index, &reader, err));
    uint32_t count = cursor_read_u32(&reader);
    bool valid = count <= VCPU_MSR_COUNT_MAX;
    for (uint32_t i = 0; valid && i < count; i++) {
        table.entries[i] = (struct kvm_msr_entry){.index = cursor_read_u32(&reader)};
        table.entries[i].data = cursor_read_u64(&reader);
        valid = i == 0 || table.entries[i].index > table.entries[i - 1].index;
    }
    TRY(state_check(&reader, valid, "a vCPU's model-specific registers", err));
    ASSERT(count <= VCPU_MSR_COUNT_MAX);
    table.count = count;
    table.padding = 0;
    TRY(keep_known(&table, &vcpu->kvm->msrs, err));
    uint64_t tsc = find_tsc(&table);
    move_tsc_away(vcpu, tsc);
    TRY(set_msrs(vcpu, &table, err));
    return check_tsc(vcpu, tsc, err);
}
