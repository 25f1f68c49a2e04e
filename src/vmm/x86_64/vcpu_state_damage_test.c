/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A machine's state that does not fit this host, or is damaged: refused, and named. */
#include "support/vmm_saved.h"

static void hazard_c4_feature_that_is_not_here_is_named(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    size_t size = 0;
    const uint8_t *cpuid = section_of(&saved, TAG_CPUID, 0, &size);
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    uint64_t count = guest_value(cpuid + CPUID_COUNT, 4);
    size_t tried = 0;
    for (size_t i = 0; i < count; i++) {
        size_t entry = CPUID_ENTRIES + i * CPUID_ENTRY_SIZE;
        if (guest_value(cpuid + entry, 4) == 7 && guest_value(cpuid + entry + 4, 4) == 0) {
            uint64_t ebx = guest_value(cpuid + entry + 16, 4);
            assert_int_equal(load_with(&guest, &saved,
                                       (struct change){TAG_CPUID, entry + 16, ebx | (ebx + 1), 4},
                                       &err),
                             KELPIE_SNAPSHOT_INCOMPATIBLE);
            assert_string_equal(err.field, "cpuid.7.0.ebx");
            tried++;
        }
    }
    assert_int_equal(tried, 1);
    guest_check(load(&guest, &saved, &err), &err);
    guest_destroy(&guest);
}

static void register_that_is_not_here_is_named(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    size_t size = 0;
    const uint8_t *msrs = section_of(&saved, TAG_MSRS, 0, &size);
    size_t last = (size_t)guest_value(msrs, 4) - 1;
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    assert_int_equal(
        load_with(&guest, &saved, (struct change){TAG_MSRS, 4 + last * 12, 0xdeadbeef, 4}, &err),
        KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "msr.0xdeadbeef");
    /* One that is here, with a value that it cannot have: an address that is none. */
    for (size_t i = 0; i <= last; i++) {
        if (guest_value(msrs + 4 + i * 12, 4) == 0xc0000082) {
            assert_int_equal(load_with(&guest, &saved,
                                       (struct change){TAG_MSRS, 8 + i * 12, 1ull << 62, 8}, &err),
                             KELPIE_SNAPSHOT_INCOMPATIBLE);
            assert_string_equal(err.field, "msr.0xc0000082");
        }
    }
    /* Twice the same, and more than there can be. */
    assert_int_equal(load_with(&guest, &saved,
                               (struct change){TAG_MSRS, 4 + 12, guest_value(msrs + 4, 4), 4},
                               &err),
                     KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(load_with(&guest, &saved, (struct change){TAG_MSRS, 0, 0xffffffff, 4}, &err),
                     KELPIE_SNAPSHOT_CORRUPT);
    guest_destroy(&guest);
}

static void hazard_b1_values_out_of_range_are_refused(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    const struct change changes[] = {
        {TAG_CPUID, CPUID_COUNT, 257, 4},
        {TAG_CPUID, CPUID_COUNT, 0xffffffff, 4},
        {TAG_CPUID, CPUID_ENTRIES + 8, 8, 4}, /* flags */
        {TAG_VCPU, 0, 5, 4},                  /* multiprocessor states */
        {TAG_VCPU, 0, 0xffffffff, 4},
        {TAG_VCPU, 4 + 17 * 8, 0, 8},                   /* rflags without its fixed bit */
        {TAG_VCPU, 4 + 144 + 14, 16, 1},                /* the code segment's type */
        {TAG_VCPU, 4 + 144 + 23, 1, 1},                 /* its padding */
        {TAG_VCPU, 4 + 144 + 312 - 32, 0x300000000, 8}, /* two interrupts at once */
        {TAG_VCPU, 4 + 144 + 312, 17, 4},               /* extended control registers */
        {TAG_VCPU, VCPU_LAPIC + 1024, 0x80, 4},         /* events: unknown flags */
        {TAG_VCPU, VCPU_LAPIC + 1024 + 8, 0x100, 4},    /* SIPI's vector */
        {TAG_VCPU, VCPU_LAPIC + 1024 + 21, 32, 1},      /* an exception's number */
        {TAG_VCPU, VCPU_LAPIC + 1024 + 27, 4, 1},       /* the interrupt shadow */
        {TAG_VCPU, VCPU_LAPIC + 1024 + 37, 0, 4},       /* the size of the XSAVE area */
        {TAG_VCPU, VCPU_LAPIC + 1024 + 37, 0x7fffffff, 4},
        {TAG_VM, 4, 8, 1},               /* the first controller's priority */
        {TAG_VM, 9, 4, 1},               /* its state of initialisation */
        {TAG_VM, 16 + 13, 2, 1},         /* a flag of the second */
        {TAG_VM, VM_IOAPIC, 0, 8},       /* the I/O APIC's base */
        {TAG_VM, VM_IOAPIC + 12, 16, 4}, /* its id */
        {TAG_VM, VM_IOAPIC + 16, 1u << 24, 4},
        {TAG_VM, VM_PIT, 0, 4}, /* a count of 0, by which KVM divided once */
        {TAG_VM, VM_PIT, 0x10001, 4},
        {TAG_VM, VM_PIT + 6 + 3, 5, 1},  /* read state */
        {TAG_VM, VM_PIT + 6 + 7, 8, 1},  /* mode */
        {TAG_VM, VM_PIT + 3 * 16, 4, 4}, /* flags */
        {TAG_VM, VM_CLOCK, UINT64_MAX, 8},
        {TAG_VM, VM_CLOCK + 8, 2, 4},
        {TAG_VM, VM_CLOCK + 12, UINT64_MAX, 8},
    };
    static const uint8_t flags[] = {20, 22, 23, 24, 26, 28, 29, 30, 31, 32, 33, 34, 35, 36};
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) { /* of the events: 0 or 1 */
        const struct change change = {TAG_VCPU, VCPU_LAPIC + 1024 + flags[i], 2, 1};
        assert_int_equal(load_with(&guest, &saved, change, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "state");
    }
    static struct saved longer; /* one leaf more than there may be, and room for it */
    rewrite(&saved, TAG_CPUID, CPUID_ENTRIES + (CPUID_ENTRY_COUNT_MAX + 1) * 28, &longer);
    assert_int_equal(
        load_with(&guest, &longer,
                  (struct change){TAG_CPUID, CPUID_COUNT, CPUID_ENTRY_COUNT_MAX + 1, 4}, &err),
        KELPIE_SNAPSHOT_CORRUPT);
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        enum kelpie_status status = load_with(&guest, &saved, changes[i], &err);
        if (status != KELPIE_SNAPSHOT_CORRUPT) {
            print_error("change %zu: %s\n", i, kelpie_status_name(status));
        }
        assert_int_equal(status, KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "state");
    }
    guest_check(load(&guest, &saved, &err), &err);
    guest_destroy(&guest);
}

/* Each byte in turn is another: refused, or harmless; and the monitor lives. */
static void hazard_b1_any_byte_may_be_wrong(void **state) {
    (void)state;
    static struct saved saved, cut;
    struct guest guest;
    struct kelpie_error err;
    const uint32_t tags[] = {TAG_CPUID, TAG_VCPU, TAG_MSRS, TAG_VM};
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    size_t refused = 0;
    size_t count = 0;
    for (size_t tag = 0; tag < ARRAY_SIZE(tags); tag++) {
        size_t size = 0;
        uint8_t *section = section_of(&saved, tags[tag], 0, &size);
        size_t step = 1 + size / 1000;
        for (size_t i = 0; i < size; i += step, count++) {
            uint64_t value = section[i] ^ (i % 2 == 0 ? 0xffu : 0x80u);
            enum kelpie_status status =
                load_with(&guest, &saved, (struct change){tags[tag], i, value, 1}, &err);
            assert_true(status == KELPIE_OK || status == KELPIE_SNAPSHOT_CORRUPT ||
                        status == KELPIE_SNAPSHOT_INCOMPATIBLE);
            refused += status != KELPIE_OK;
        }
        for (size_t i = 0; i < size; i += 1 + size / 50) {
            rewrite(&saved, tags[tag], i, &cut);
            assert_int_equal(load(&guest, &cut, &err), KELPIE_SNAPSHOT_CORRUPT);
        }
        rewrite(&saved, tags[tag], size + 1, &cut);
        assert_int_equal(load(&guest, &cut, &err), KELPIE_SNAPSHOT_CORRUPT);
    }
    print_message("%zu of %zu changed bytes are refused\n", refused, count);
    guest_destroy(&guest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c4_feature_that_is_not_here_is_named),
        cmocka_unit_test(register_that_is_not_here_is_named),
        cmocka_unit_test(hazard_b1_values_out_of_range_are_refused),
        cmocka_unit_test(hazard_b1_any_byte_may_be_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
