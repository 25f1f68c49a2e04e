/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A driver's hand in its memory, for tests and fuzzers: memory is one array that begins at address 0, and what is written lies
 * within it. */
#ifndef KELPIE_TESTS_SUPPORT_VIRTQUEUE_GUEST_H
#define KELPIE_TESTS_SUPPORT_VIRTQUEUE_GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"

#define GUEST_NEXT 1u /* a descriptor's flags */
#define GUEST_WRITE 2u
#define GUEST_INDIRECT 4u

static inline void guest_poke(uint8_t *memory, uint64_t gpa, uint64_t value, size_t size) {
    ASSERT(memory);
    ASSERT(size <= sizeof(value));
    memcpy(memory + gpa, &value, size);
}

static inline uint64_t guest_peek(const uint8_t *memory, uint64_t gpa, size_t size) {
    uint64_t value = 0;
    ASSERT(memory);
    ASSERT(size <= sizeof(value));
    memcpy(&value, memory + gpa, size);
    return value;
}

struct guest_descriptor {
    uint64_t gpa;
    uint64_t size;
    uint64_t flags;
    uint64_t next;
};

static inline void guest_describe(uint8_t *memory, uint64_t table, uint32_t index,
                                  struct guest_descriptor descriptor) {
    ASSERT(memory);
    uint64_t gpa = table + 16ull * index;
    guest_poke(memory, gpa, descriptor.gpa, 8);
    guest_poke(memory, gpa + 8, descriptor.size, 4);
    guest_poke(memory, gpa + 12, descriptor.flags, 2);
    guest_poke(memory, gpa + 14, descriptor.next, 2);
}

/* Makes a head available in the ring at `available`. */
static inline void guest_offer(uint8_t *memory, uint64_t available, uint32_t queue_size,
                               uint32_t head) {
    ASSERT(memory);
    ASSERT(queue_size > 0);
    uint64_t index = guest_peek(memory, available + 2, 2);
    guest_poke(memory, available + 4 + 2 * (index % queue_size), head, 2);
    guest_poke(memory, available + 2, index + 1, 2);
}

#endif
