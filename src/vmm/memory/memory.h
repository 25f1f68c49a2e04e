/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The guest's memory, and the one gate to it. Every address that a guest says becomes a pointer here, or is
 * refused: memory_readable() and memory_writable(). Nothing else in the monitor adds a guest's number to a pointer.
 *
 * Memory is one or two regions in guest-physical order (vmm_limits.h has the map), which lie one behind the other in
 * one host mapping, and in a bundle's memory file. The gate does not span regions: what is contiguous for the
 * guest across the hole is not contiguous at all.
 *
 * A guest may change its memory at any moment: what is read through the gate is copied once and then checked
 * (hazard A11).
 *
 * Writes of devices do not show in KVM's dirty log: memory_writable() notes them in `dirty`, when there is one.
 *
 * Threads: read-only after init, but for `dirty`, whose bits are set atomically.
 */
#ifndef KELPIE_VMM_MEMORY_MEMORY_H
#define KELPIE_VMM_MEMORY_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/vmm_limits.h"

struct memory_region {
    uint64_t gpa;
    uint64_t size;   /* bytes, a multiple of the page size */
    uint64_t offset; /* in the host mapping, and in a memory file */
};

struct memory {
    uint8_t *host; /* the mapping; not owned */
    uint64_t size; /* of all regions */
    struct memory_region regions[VMM_MEMORY_REGION_COUNT_MAX];
    size_t region_count;
    uint64_t *dirty; /* a bit for each page of the mapping; NULL: nobody counts. Not owned */
};

/* host: `size` bytes (> 0, a multiple of the page size). */
void memory_init(struct memory *memory, void *host, uint64_t size);

/* The gate: the bytes [gpa, gpa + size), or NULL unless all of them lie in one region. size > 0 (0: NULL). An
 * access that ends exactly at a region's end is legal. */
const void *memory_readable(const struct memory *memory, uint64_t gpa, uint64_t size);
void *memory_writable(const struct memory *memory, uint64_t gpa, uint64_t size);

/* Copies through the gate. False: refused, and nothing was copied. */
bool memory_read(const struct memory *memory, uint64_t gpa, void *buffer, size_t size);
bool memory_write(const struct memory *memory, uint64_t gpa, const void *data, size_t size);

/* Little-endian numbers, read or written in one access each (the guest may look at any moment). gpa is aligned to their
 * size, or it is refused. */
bool memory_read_u16(const struct memory *memory, uint64_t gpa, uint16_t *ret);
bool memory_read_u32(const struct memory *memory, uint64_t gpa, uint32_t *ret);
bool memory_write_u16(const struct memory *memory, uint64_t gpa, uint16_t value);

#endif
