/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a guest's processor says of itself, and whether a host has what a snapshot relies on. */
#include "vmm/x86_64/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void add(struct cpuid_table *table, struct kvm_cpuid_entry2 entry, bool indexed) {
    entry.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    table->entries[table->count++] = entry;
}

/* Something of both makers, with everything that is to be hidden. */
static struct cpuid_table host_table(void) {
    struct cpuid_table table = {0};
    const struct kvm_cpuid_entry2 plain[] = {
        {.function = 0, .eax = 0x1f, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
        {.function = 1, .eax = 0xa20f10, .ebx = 0x07080800, .ecx = 0x7eda8223, .edx = 0x1f8bfbff},
        {.function = 0xa, .eax = 0x07300404, .edx = 0x603},
        {.function = 0x80000001, .ecx = 0x01c001f7, .edx = 0x2fd3fbff},
        {.function = 0x80000007, .edx = 0x100},
        {.function = 0x80000008, .eax = 0x3030, .ebx = 0x1007, .ecx = 0x700f},
        {.function = 0x8000000a, .eax = 1, .ebx = 8, .edx = 0xff},
        {.function = 0x8000001e, .eax = 7, .ebx = 0x103, .ecx = 0x100},
        {.function = 0x8000001f, .eax = 3},
        {.function = 0x40000001, .eax = 0x01007efb},
    };
    const struct kvm_cpuid_entry2 indexed[] = {
        {.function = 4, .index = 0, .eax = 0x1c004121},
        {.function = 4, .index = 3, .eax = 0x1c03c163},
        {.function = 7, .index = 0, .ebx = 0x219c97a9, .ecx = 0x0040069c, .edx = 0x10},
        {.function = 0xb, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 7},
        {.function = 0xd, .index = 0, .eax = 0x207},
        {.function = 0x1f, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 7},
    };
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        add(&table, plain[i], false);
    }
    for (size_t i = 0; i < ARRAY_SIZE(indexed); i++) {
        add(&table, indexed[i], true);
    }
    return table;
}

static struct kvm_cpuid_entry2 entry_of(const struct cpuid_table *table, uint32_t function,
                                        uint32_t index) {
    const struct kvm_cpuid_entry2 *entry = cpuid_find(table, function, index);
    assert_non_null(entry);
    return *entry;
}

static void topology_is_ours(void **state) {
    (void)state;
    const struct cpuid_table host = host_table();
    struct cpuid_table table;
    cpuid_for_vcpu(&table, &host, 2, 6, true);
    assert_int_equal(entry_of(&table, 1, 0).ebx >> 24, 2);
    assert_int_equal(entry_of(&table, 1, 0).ebx >> 16 & 0xff, 6);
    assert_int_equal(entry_of(&table, 0xb, 0).ebx, 1);
    assert_int_equal(entry_of(&table, 0xb, 0).edx, 2);
    assert_int_equal(entry_of(&table, 0xb, 1).eax, 3); /* six cores take three bits */
    assert_int_equal(entry_of(&table, 0xb, 1).ebx, 6);
    assert_int_equal(entry_of(&table, 0xb, 1).ecx, 0x201);
    assert_null(cpuid_find(&table, 0x1f, 0));
    assert_int_equal(entry_of(&table, 4, 0).eax >> 14 & 0xfff, 0);
    assert_int_equal(entry_of(&table, 4, 0).eax >> 26, 7);
    assert_int_equal(entry_of(&table, 4, 3).eax >> 14 & 0xfff, 5);
    assert_int_equal(entry_of(&table, 0x80000008, 0).ecx, 0x3005);
    assert_int_equal(entry_of(&table, 0x8000001e, 0).eax, 2);
    cpuid_for_vcpu(&table, &host, 0, 1, true);
    assert_int_equal(entry_of(&table, 1, 0).edx & 1u << 28, 0);
    assert_int_equal(entry_of(&table, 0x80000001, 0).ecx & 2, 0);
}

static void what_cannot_be_saved_is_hidden(void **state) {
    (void)state;
    const struct cpuid_table host = host_table();
    struct cpuid_table table;
    cpuid_for_vcpu(&table, &host, 0, 2, true);
    assert_int_equal(entry_of(&table, 1, 0).ecx & (1u << 5 | 1u << 15), 0);
    assert_int_equal(entry_of(&table, 1, 0).ecx >> 31, 1);
    assert_int_equal(entry_of(&table, 1, 0).ecx >> 24 & 1, 1);
    assert_int_equal(entry_of(&table, 0xa, 0).eax, 0);
    assert_int_equal(entry_of(&table, 0x80000001, 0).ecx & (1u << 2 | 3u << 23), 0);
    assert_int_equal(entry_of(&table, 0x8000000a, 0).edx, 0);
    assert_int_equal(entry_of(&table, 0x8000001f, 0).eax, 0);
    assert_int_equal(entry_of(&table, 0x40000001, 0).eax, 0x01007efb); /* the clock needs it */
    cpuid_for_vcpu(&table, &host, 0, 2, false);
    assert_int_equal(entry_of(&table, 1, 0).ecx >> 24 & 1, 0);
}

static void full_table_stays_in_bounds(void **state) {
    (void)state;
    struct cpuid_table host = host_table();
    while (host.count < CPUID_ENTRY_COUNT_MAX) {
        add(&host, (struct kvm_cpuid_entry2){.function = 0x1000 + host.count}, false);
    }
    struct cpuid_table table;
    cpuid_for_vcpu(&table, &host, 0, 1, true);
    assert_true(table.count <= CPUID_ENTRY_COUNT_MAX);
}

static void hazard_c4_missing_feature_is_named(void **state) {
    (void)state;
    const struct cpuid_table host = host_table();
    struct cpuid_table here;
    cpuid_for_vcpu(&here, &host, 0, 1, true);
    assert_int_equal(cpuid_check(&here, &here, NULL), KELPIE_OK);
    const struct {
        uint32_t function, index;
        size_t offset;
        const char *field;
    } words[] = {
        {1, 0, offsetof(struct kvm_cpuid_entry2, ecx), "cpuid.1.0.ecx"},
        {7, 0, offsetof(struct kvm_cpuid_entry2, ebx), "cpuid.7.0.ebx"},
        {0xd, 0, offsetof(struct kvm_cpuid_entry2, eax), "cpuid.d.0.eax"},
        {0x80000001, 0, offsetof(struct kvm_cpuid_entry2, edx), "cpuid.80000001.0.edx"},
        {0x80000007, 0, offsetof(struct kvm_cpuid_entry2, edx), "cpuid.80000007.0.edx"},
        {0x40000001, 0, offsetof(struct kvm_cpuid_entry2, eax), "cpuid.40000001.0.eax"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        struct cpuid_table saved = here;
        struct kelpie_error err;
        uint8_t *entry =
            (uint8_t *)(uintptr_t)cpuid_find(&saved, words[i].function, words[i].index);
        uint32_t word = 0;
        memcpy(&word, entry + words[i].offset, sizeof(word));
        word |= word + 1; /* a bit that was not set */
        memcpy(entry + words[i].offset, &word, sizeof(word));
        assert_int_equal(cpuid_check(&saved, &here, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
        assert_string_equal(err.field, words[i].field);
        /* A host that has more is no worse. */
        assert_int_equal(cpuid_check(&here, &saved, NULL), KELPIE_OK);
    }
}

static void hazard_c4_other_processor_is_refused(void **state) {
    (void)state;
    const struct cpuid_table host = host_table();
    struct cpuid_table here;
    struct kelpie_error err;
    cpuid_for_vcpu(&here, &host, 0, 1, true);
    struct cpuid_table saved = here;
    saved.entries[0].ebx ^= 1;
    assert_int_equal(cpuid_check(&saved, &here, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "cpuid.0");
    saved = (struct cpuid_table){0};
    assert_int_equal(cpuid_check(&saved, &here, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    saved = here;
    ((struct kvm_cpuid_entry2 *)(uintptr_t)cpuid_find(&saved, 0x80000008, 0))->eax = 0x3039;
    assert_int_equal(cpuid_check(&saved, &here, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "cpuid.80000008.0.eax");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topology_is_ours),
        cmocka_unit_test(what_cannot_be_saved_is_hidden),
        cmocka_unit_test(full_table_stays_in_bounds),
        cmocka_unit_test(hazard_c4_missing_feature_is_named),
        cmocka_unit_test(hazard_c4_other_processor_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
