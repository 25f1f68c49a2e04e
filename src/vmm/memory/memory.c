/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/memory/memory.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

void memory_init(struct memory *memory, void *host, uint64_t size) {
    ASSERT(memory && host);
    ASSERT(size > 0);
    ASSERT(size % VMM_PAGE_SIZE == 0);
    uint64_t low = min_u64(size, VMM_MEMORY_LOW_END);
    *memory = (struct memory){.host = host, .size = size, .region_count = 1};
    memory->regions[0] = (struct memory_region){.gpa = 0, .size = low, .offset = 0};
    if (size > low) {
        memory->regions[1] =
            (struct memory_region){.gpa = VMM_MEMORY_HIGH_START, .size = size - low, .offset = low};
        memory->region_count = 2;
    }
}

/* The place in the host mapping of [gpa, gpa + size). False: not in one region. */
static bool find(const struct memory *memory, uint64_t gpa, uint64_t size, uint64_t *ret_offset) {
    ASSERT(memory->region_count <= VMM_MEMORY_REGION_COUNT_MAX);
    ASSERT(ret_offset);
    for (size_t i = 0; i < memory->region_count && size > 0; i++) {
        const struct memory_region *region = &memory->regions[i];
        /* No sum of the guest's numbers: neither can overflow (hazard A12). */
        if (gpa >= region->gpa && gpa - region->gpa < region->size &&
            size <= region->size - (gpa - region->gpa)) {
            *ret_offset = region->offset + (gpa - region->gpa);
            return true;
        }
    }
    return false;
}

const void *memory_readable(const struct memory *memory, uint64_t gpa, uint64_t size) {
    ASSERT(memory);
    ASSERT(memory->host);
    uint64_t offset = 0;
    return find(memory, gpa, size, &offset) ? memory->host + offset : NULL;
}

static void note_dirty(const struct memory *memory, uint64_t offset, uint64_t size) {
    ASSERT(size > 0);
    ASSERT(offset + size <= memory->size);
    uint64_t last = (offset + size - 1) / VMM_PAGE_SIZE;
    for (uint64_t page = offset / VMM_PAGE_SIZE; page <= last; page++) {
        __atomic_fetch_or(&memory->dirty[page / 64], 1ull << (page % 64), __ATOMIC_RELAXED);
    }
}

void *memory_writable(const struct memory *memory, uint64_t gpa, uint64_t size) {
    ASSERT(memory);
    ASSERT(memory->host);
    uint64_t offset = 0;
    if (!find(memory, gpa, size, &offset)) {
        return NULL;
    }
    if (memory->dirty) {
        note_dirty(memory, offset, size);
    }
    return memory->host + offset;
}

bool memory_read(const struct memory *memory, uint64_t gpa, void *buffer, size_t size) {
    ASSERT(memory);
    ASSERT(buffer);
    const void *bytes = memory_readable(memory, gpa, size);
    if (bytes) {
        memcpy(buffer, bytes, size);
    }
    return bytes != NULL;
}

bool memory_write(const struct memory *memory, uint64_t gpa, const void *data, size_t size) {
    ASSERT(memory);
    ASSERT(data);
    void *bytes = memory_writable(memory, gpa, size);
    if (bytes) {
        memcpy(bytes, data, size);
    }
    return bytes != NULL;
}

/* The monitor runs on little-endian processors only: it is one with its guest's. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are as the guest has them");

bool memory_read_u16(const struct memory *memory, uint64_t gpa, uint16_t *ret) {
    ASSERT(memory);
    ASSERT(ret);
    const void *bytes = gpa % sizeof(*ret) == 0 ? memory_readable(memory, gpa, sizeof(*ret)) : NULL;
    if (bytes) {
        *ret = __atomic_load_n((const uint16_t *)bytes, __ATOMIC_RELAXED);
    }
    return bytes != NULL;
}

bool memory_read_u32(const struct memory *memory, uint64_t gpa, uint32_t *ret) {
    ASSERT(memory);
    ASSERT(ret);
    const void *bytes = gpa % sizeof(*ret) == 0 ? memory_readable(memory, gpa, sizeof(*ret)) : NULL;
    if (bytes) {
        *ret = __atomic_load_n((const uint32_t *)bytes, __ATOMIC_RELAXED);
    }
    return bytes != NULL;
}

bool memory_write_u16(const struct memory *memory, uint64_t gpa, uint16_t value) {
    ASSERT(memory);
    ASSERT(memory->host);
    void *bytes = gpa % sizeof(value) == 0 ? memory_writable(memory, gpa, sizeof(value)) : NULL;
    if (bytes) {
        __atomic_store_n((uint16_t *)bytes, value, __ATOMIC_RELAXED);
    }
    return bytes != NULL;
}
