/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/x86_64/cpuid.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vmm/vmm_limits.h"

/* KVM reads and writes the table as a struct kvm_cpuid2. */
static_assert(offsetof(struct cpuid_table, count) == offsetof(struct kvm_cpuid2, nent), "as KVM's");
static_assert(offsetof(struct cpuid_table, entries) == offsetof(struct kvm_cpuid2, entries),
              "as KVM's");

#define FEATURES_ECX_VMX (1u << 5)
#define FEATURES_ECX_PERF_CAPABILITIES (1u << 15)
#define FEATURES_ECX_TSC_DEADLINE (1u << 24)
#define FEATURES_ECX_OSXSAVE (1u << 27)
#define FEATURES_ECX_HYPERVISOR (1u << 31)
#define FEATURES_EDX_APIC (1u << 9)
#define FEATURES_EDX_HTT (1u << 28) /* more than one logical processor in the package */
#define AMD_ECX_CMP_LEGACY (1u << 1)
#define AMD_ECX_SVM (1u << 2)
#define AMD_ECX_PERFCTR_CORE (1u << 23)
#define AMD_ECX_PERFCTR_NB (1u << 24)

#define LEVEL_SMT 1u /* leaf 0xb: ECX bits 15:8 */
#define LEVEL_CORE 2u

/* How many bits number `count` cores. */
static uint32_t bits_for(uint32_t count) {
    ASSERT(count > 0);
    ASSERT(count <= VMM_VCPU_COUNT_MAX);
    uint32_t bits = 0;
    while ((1u << bits) < count) {
        bits++;
    }
    return bits;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct cpuid_table *table, uint32_t function,
                                          uint32_t index) {
    ASSERT(table);
    ASSERT(table->count <= CPUID_ENTRY_COUNT_MAX);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        bool indexed = (entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        if (entry->function == function && (indexed ? entry->index : 0) == index) {
            return entry;
        }
    }
    return NULL;
}

static void clear(struct kvm_cpuid_entry2 *entry) {
    ASSERT(entry);
    entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
}

static void set_bits(uint32_t *word, uint32_t bits, bool on) {
    ASSERT(word);
    ASSERT(bits != 0);
    *word = on ? *word | bits : *word & ~bits;
}

/* A cache's sharing, Intel leaf 4 and AMD leaf 0x8000001d: EAX bits 14 to 25 are the threads that share it, less
 * one. The third level is the package's, the others are a core's. */
static void set_cache(struct kvm_cpuid_entry2 *entry, uint32_t vcpu_count) {
    ASSERT(entry);
    ASSERT(vcpu_count > 0);
    uint32_t type = entry->eax & 0x1f;
    uint32_t level = entry->eax >> 5 & 7;
    if (type == 0) {
        return;
    }
    uint32_t sharing = level >= 3 ? vcpu_count - 1 : 0;
    entry->eax = (entry->eax & 0x3fff) | sharing << 14;
    if (entry->function == 4) {
        entry->eax |= ((1u << bits_for(vcpu_count)) - 1) << 26; /* cores in the package, less one */
    }
}

static void set_features(struct kvm_cpuid_entry2 *entry, uint32_t index, uint32_t vcpu_count,
                         bool tsc_deadline) {
    ASSERT(entry);
    ASSERT(entry->function == 1);
    entry->ebx = (entry->ebx & 0xffff) | index << 24 | vcpu_count << 16;
    set_bits(&entry->ecx, FEATURES_ECX_VMX | FEATURES_ECX_PERF_CAPABILITIES, false);
    set_bits(&entry->ecx, FEATURES_ECX_HYPERVISOR, true);
    set_bits(&entry->ecx, FEATURES_ECX_TSC_DEADLINE, tsc_deadline);
    set_bits(&entry->edx, FEATURES_EDX_HTT, vcpu_count > 1);
}

static void set_entry(struct kvm_cpuid_entry2 *entry, uint32_t index, uint32_t vcpu_count) {
    ASSERT(entry);
    ASSERT(index < vcpu_count);
    switch (entry->function) {
    case 4:          /* Intel's caches */
    case 0x8000001d: /* AMD's */
        set_cache(entry, vcpu_count);
        break;
    case 0xa:        /* performance counters */
    case 0x12:       /* SGX */
    case 0x14:       /* processor trace */
    case 0x8000000a: /* SVM */
    case 0x8000001f: /* memory encryption */
    case 0x80000022: /* performance counters */
        clear(entry);
        break;
    case 0x80000001:
        set_bits(&entry->ecx, AMD_ECX_SVM | AMD_ECX_PERFCTR_CORE | AMD_ECX_PERFCTR_NB, false);
        if (vcpu_count == 1) {
            set_bits(&entry->ecx, AMD_ECX_CMP_LEGACY, false);
        }
        break;
    case 0x80000008: /* ECX: cores less one, and the bits of an APIC id that number them */
        entry->ecx = (vcpu_count - 1) | bits_for(vcpu_count) << 12;
        break;
    case 0x8000001e: /* APIC id; core and threads of a core less one; node and nodes less one */
        entry->eax = index;
        entry->ebx = index;
        entry->ecx = 0;
        break;
    default:
        break;
    }
}

/* Leaf 0xb: two levels, and a third entry that ends the list. */
static void add_topology(struct cpuid_table *table, uint32_t index, uint32_t vcpu_count) {
    ASSERT(table);
    ASSERT(index < vcpu_count);
    const struct kvm_cpuid_entry2 levels[] = {
        {.eax = 0, .ebx = 1, .ecx = LEVEL_SMT << 8, .edx = index},
        {.eax = bits_for(vcpu_count), .ebx = vcpu_count, .ecx = 1 | LEVEL_CORE << 8, .edx = index},
        {.ecx = 2, .edx = index},
    };
    for (uint32_t i = 0; i < ARRAY_SIZE(levels) && table->count < CPUID_ENTRY_COUNT_MAX; i++) {
        struct kvm_cpuid_entry2 *entry = &table->entries[table->count++];
        *entry = levels[i];
        entry->function = 0xb;
        entry->index = i;
        entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
}

void cpuid_for_vcpu(struct cpuid_table *ret_table, const struct cpuid_table *supported,
                    uint32_t index, uint32_t vcpu_count, bool tsc_deadline) {
    ASSERT(ret_table);
    ASSERT(supported && supported->count <= CPUID_ENTRY_COUNT_MAX);
    ASSERT(vcpu_count > 0 && vcpu_count <= VMM_VCPU_COUNT_MAX);
    ASSERT(index < vcpu_count);
    *ret_table = (struct cpuid_table){0};
    for (uint32_t i = 0; i < supported->count; i++) {
        const struct kvm_cpuid_entry2 *source = &supported->entries[i];
        if (source->function == 0xb || source->function == 0x1f) {
            continue; /* the host's topology */
        }
        struct kvm_cpuid_entry2 *entry = &ret_table->entries[ret_table->count++];
        *entry = *source;
        memset(entry->padding, 0, sizeof(entry->padding));
        if (entry->function == 1) {
            set_features(entry, index, vcpu_count, tsc_deadline);
        }
        set_entry(entry, index, vcpu_count);
    }
    const struct kvm_cpuid_entry2 *first = cpuid_find(ret_table, 0, 0);
    if (first && first->eax >= 0xb) {
        add_topology(ret_table, index, vcpu_count);
    }
}

/* ---- what a snapshot relies on ------------------------------------------------------------------ */

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* Words in which each bit is a feature. */
struct feature_word {
    uint32_t function;
    uint32_t index;
    enum cpuid_register where;
    uint32_t ignored; /* bits that are the guest's own doing, or say no feature */
};

static const struct feature_word feature_words[] = {
    {1, 0, CPUID_ECX, FEATURES_ECX_OSXSAVE},
    {1, 0, CPUID_EDX, FEATURES_EDX_APIC | FEATURES_EDX_HTT},
    {6, 0, CPUID_EAX, 0},
    {7, 0, CPUID_EBX, 0},
    {7, 0, CPUID_ECX, 1u << 4 /* protection keys are switched on */},
    {7, 0, CPUID_EDX, 0},
    {7, 1, CPUID_EAX, 0},
    {7, 1, CPUID_EDX, 0},
    {7, 2, CPUID_EDX, 0},
    {0xd, 0, CPUID_EAX, 0}, /* the parts of XCR0 */
    {0xd, 0, CPUID_EDX, 0},
    {0xd, 1, CPUID_EAX, 0},
    {0xd, 1, CPUID_ECX, 0},
    {0x40000001, 0, CPUID_EAX, 0}, /* KVM's own */
    {0x80000001, 0, CPUID_ECX, 0},
    {0x80000001, 0, CPUID_EDX, 0},
    {0x80000007, 0, CPUID_EDX, 0},
    {0x80000008, 0, CPUID_EBX, 0},
    {0x80000021, 0, CPUID_EAX, 0},
};

static uint32_t register_of(const struct cpuid_table *table, const struct feature_word *word) {
    ASSERT(table);
    ASSERT(word);
    const struct kvm_cpuid_entry2 *entry = cpuid_find(table, word->function, word->index);
    if (!entry) {
        return 0;
    }
    const uint32_t registers[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};
    return registers[word->where];
}

static enum kelpie_status check_word(const struct cpuid_table *saved,
                                     const struct cpuid_table *here,
                                     const struct feature_word *word, struct kelpie_error *err) {
    static const char *const names[] = {"eax", "ebx", "ecx", "edx"};
    ASSERT(word);
    ASSERT(word->where < ARRAY_SIZE(names));
    uint32_t missing = register_of(saved, word) & ~register_of(here, word) & ~word->ignored;
    if (missing == 0) {
        return KELPIE_OK;
    }
    enum kelpie_status status = error_set_field(
        err, KELPIE_SNAPSHOT_INCOMPATIBLE, "cpuid",
        "the snapshot's processor has features that this host's has not: CPUID leaf %#x, "
        "subleaf %u, %s, bits %#010x; restore it on a host that has them",
        word->function, word->index, names[word->where], missing);
    if (err) {
        snprintf(err->field, sizeof(err->field), "cpuid.%x.%u.%s", word->function, word->index,
                 names[word->where]);
    }
    return status;
}

/* The same vendor: its features and its errata are the other's no more than by chance. */
static bool vendor_is_same(const struct cpuid_table *saved, const struct cpuid_table *here) {
    ASSERT(saved);
    ASSERT(here);
    const struct kvm_cpuid_entry2 *one = cpuid_find(saved, 0, 0);
    const struct kvm_cpuid_entry2 *other = cpuid_find(here, 0, 0);
    return one && other && one->ebx == other->ebx && one->ecx == other->ecx &&
           one->edx == other->edx;
}

static uint32_t physical_bits(const struct cpuid_table *table) {
    ASSERT(table);
    const struct kvm_cpuid_entry2 *entry = cpuid_find(table, 0x80000008, 0);
    ASSERT(table->count <= CPUID_ENTRY_COUNT_MAX);
    return entry ? entry->eax & 0xff : 36;
}

enum kelpie_status cpuid_check(const struct cpuid_table *saved, const struct cpuid_table *here,
                               struct kelpie_error *err) {
    ASSERT(saved && saved->count <= CPUID_ENTRY_COUNT_MAX);
    ASSERT(here && here->count <= CPUID_ENTRY_COUNT_MAX);
    if (!vendor_is_same(saved, here)) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "cpuid.0",
                               "the snapshot's processor is of another vendor than this host's");
    }
    if (physical_bits(saved) > physical_bits(here)) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "cpuid.80000008.0.eax",
                               "the snapshot's processor has physical addresses of %u bits, this "
                               "host's of %u",
                               physical_bits(saved), physical_bits(here));
    }
    for (size_t i = 0; i < ARRAY_SIZE(feature_words); i++) {
        TRY(check_word(saved, here, &feature_words[i], err));
    }
    return KELPIE_OK;
}
