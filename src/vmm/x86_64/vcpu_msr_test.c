/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Loading model-specific registers, with a KVM of our own: what others refuse, or take in a way of their own. */
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/assert.h"
#include "vmm/x86_64/vcpu.h"

#define TAG_MSRS STATE_TAG('M', 'S', 'R', 'S')
#define TSC 0x10u
#define MICROCODE 0x8bu /* read-only, and no guest's concern */
#define STAR 0xc0000081u
#define LSTAR 0xc0000082u
#define SECOND 1000000000ull /* of a TSC that counts nanoseconds */
#define REGISTER_COUNT_MAX 8

/* One vCPU's registers, as KVM has them. */
struct fake_kvm {
    struct kvm_msr_entry registers[REGISTER_COUNT_MAX];
    size_t count;
    uint32_t refused;  /* an index that cannot be set; 0: all can */
    bool tsc_is_ours;  /* the TSC cannot be set, and nobody says so */
    bool synchronises; /* before Linux 6.7: a TSC that is less than a second from here is not set */
};

static struct fake_kvm fake;

static struct kvm_msr_entry *register_of(uint32_t index) {
    for (size_t i = 0; i < fake.count; i++) {
        if (fake.registers[i].index == index) {
            return &fake.registers[i];
        }
    }
    return NULL;
}

static bool set_register(const struct kvm_msr_entry *entry) {
    struct kvm_msr_entry *mine = register_of(entry->index);
    if (!mine || entry->index == fake.refused) {
        return false;
    }
    if (entry->index == TSC) {
        uint64_t now = mine->data;
        uint64_t distance = entry->data > now ? entry->data - now : now - entry->data;
        if (fake.tsc_is_ours || (fake.synchronises && distance < SECOND)) {
            return true;
        }
    }
    mine->data = entry->data;
    return true;
}

/* Instead of kvm.c's. */
int kvm_ioctl(int fd, unsigned long request, void *argument) {
    struct kvm_msrs *msrs = argument;
    struct kvm_msr_entry *entries = msrs->entries;
    uint32_t done = 0;
    assert_true(fd >= 0);
    for (; done < msrs->nmsrs; done++) {
        if (request == KVM_SET_MSRS) {
            if (!set_register(&entries[done])) {
                break;
            }
        } else {
            assert_int_equal(request, KVM_GET_MSRS);
            const struct kvm_msr_entry *mine = register_of(entries[done].index);
            if (!mine) {
                break;
            }
            entries[done].data = mine->data;
        }
    }
    return (int)done;
}

/* The registers of the snapshot, ascending. */
static const struct kvm_msr_entry saved_registers[] = {
    {.index = TSC, .data = 300 * SECOND},
    {.index = MICROCODE, .data = 7},
    {.index = STAR, .data = 0x1234},
    {.index = LSTAR, .data = 0x5678},
};

/* A vCPU that has them all, at zero, loads the saved ones. */
static enum kelpie_status load(uint32_t vcpu_index, uint64_t tsc_here, struct kelpie_error *err) {
    static struct state_reader reader;
    static struct kvm kvm;
    uint8_t bytes[1024];
    size_t size = 0;
    struct state_writer writer;
    struct vcpu vcpu = {.kvm = &kvm, .fd = 0, .index = vcpu_index, .vcpu_count = 2};
    kvm.msrs.count = ARRAY_SIZE(saved_registers);
    fake.count = ARRAY_SIZE(saved_registers);
    state_writer_init(&writer, bytes, sizeof(bytes));
    struct cursor_writer *section = state_begin(&writer, TAG_MSRS, 1, (uint16_t)vcpu_index);
    cursor_write_u32(section, ARRAY_SIZE(saved_registers));
    for (size_t i = 0; i < ARRAY_SIZE(saved_registers); i++) {
        cursor_write_u32(section, saved_registers[i].index);
        cursor_write_u64(section, saved_registers[i].data);
        kvm.msrs.indices[i] = saved_registers[i].index;
        fake.registers[i] = (struct kvm_msr_entry){.index = saved_registers[i].index};
    }
    fake.registers[0].data = tsc_here;
    state_end(&writer);
    assert_int_equal(state_writer_finish(&writer, &size, err), KELPIE_OK);
    assert_int_equal(state_reader_init(&reader, bytes, size, err), KELPIE_OK);
    return vcpu_msrs_load(&vcpu, &reader, err);
}

/* But for one: it has another value. */
static void expect_loaded(uint32_t but_for) {
    for (size_t i = 0; i < ARRAY_SIZE(saved_registers); i++) {
        bool differs = saved_registers[i].index == but_for;
        assert_int_equal(fake.registers[i].data == saved_registers[i].data, !differs);
    }
}

static void all_are_set(void **state) {
    struct kelpie_error err = {0};
    (void)state;
    fake = (struct fake_kvm){0};
    assert_int_equal(load(0, 0, &err), KELPIE_OK);
    expect_loaded(0);
    assert_int_equal(load(1, 0, &err), KELPIE_OK);
    expect_loaded(0);
}

/* What is behind a register that is refused is set all the same. */
static void refused_register_is_named_or_does_not_matter(void **state) {
    struct kelpie_error err = {0};
    (void)state;
    fake = (struct fake_kvm){.refused = MICROCODE};
    assert_int_equal(load(0, 0, &err), KELPIE_OK);
    expect_loaded(MICROCODE);
    fake = (struct fake_kvm){.refused = STAR};
    assert_int_equal(load(0, 0, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "msr.0xc0000081");
}

/* Hazard C3: a machine that is restored in the second in which it was saved. The second vCPU is to be synchronised. */
static void hazard_c3_tsc_is_set_where_it_is_near(void **state) {
    const uint64_t saved = saved_registers[0].data;
    const uint64_t here[] = {saved - SECOND / 2, saved + SECOND / 2, saved, 0, UINT64_MAX / 2};
    struct kelpie_error err = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(here); i++) {
        fake = (struct fake_kvm){.synchronises = true};
        assert_int_equal(load(0, here[i], &err), KELPIE_OK);
        expect_loaded(0);
    }
    fake = (struct fake_kvm){.synchronises = true};
    assert_int_equal(load(1, here[0], &err), KELPIE_OK);
    expect_loaded(TSC);
    assert_int_equal(fake.registers[0].data, here[0]);
}

static void hazard_c3_tsc_that_cannot_be_set_is_ahead_or_refused(void **state) {
    const uint64_t saved = saved_registers[0].data;
    struct kelpie_error err = {0};
    (void)state;
    fake = (struct fake_kvm){.tsc_is_ours = true};
    assert_int_equal(load(0, saved + 1, &err), KELPIE_OK);
    assert_int_equal(load(0, saved, &err), KELPIE_OK);
    assert_int_equal(load(0, saved - 1, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "tsc");
    assert_int_equal(load(1, saved - 1, &err), KELPIE_OK); /* the first tells */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_are_set),
        cmocka_unit_test(refused_register_is_named_or_does_not_matter),
        cmocka_unit_test(hazard_c3_tsc_is_set_where_it_is_near),
        cmocka_unit_test(hazard_c3_tsc_that_cannot_be_set_is_ahead_or_refused),
    };
    return cmocka_run_group_tests_name("vcpu_msr", tests, NULL, NULL);
}
