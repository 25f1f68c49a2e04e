/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * overlay.h: which blocks of a disk are in its overlay. The disk is a base, which is never written, and a sparse file of
 * the same size over it. A bitmap has one bit for each block of 4 KiB: set, the block is the overlay's, all of it; clear,
 * the base's. Whoever runs the disk writes the bitmap, a block's bit after its bytes; whoever owns the disk reads it.
 * Words are of this machine: a bitmap lives in memory, and no longer than its disk's monitor.
 */
#ifndef KELPIE_BASE_OVERLAY_H
#define KELPIE_BASE_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/checked.h"

#define OVERLAY_BLOCK_SIZE 4096u
#define OVERLAY_WORD_BLOCKS 64u
#define OVERLAY_DISK_SIZE_MAX (4ull << 40) /* of a disk with an overlay: its bitmap has 128 MiB */

/* The last block may be cut by the disk's end. */
static inline uint64_t overlay_block_count(uint64_t disk_size) {
    uint64_t count = disk_size / OVERLAY_BLOCK_SIZE + (disk_size % OVERLAY_BLOCK_SIZE != 0);
    ASSERT(count >= disk_size / OVERLAY_BLOCK_SIZE);
    ASSERT(count <= disk_size);
    return count;
}

/* In bytes: whole words. */
static inline size_t overlay_bitmap_size(uint64_t disk_size) {
    ASSERT(disk_size <= OVERLAY_DISK_SIZE_MAX);
    static_assert(OVERLAY_WORD_BLOCKS == 8 * sizeof(uint64_t), "a bit for each block");
    uint64_t count = overlay_block_count(disk_size);
    return (size_t)((count + OVERLAY_WORD_BLOCKS - 1) / OVERLAY_WORD_BLOCKS * sizeof(uint64_t));
}

static inline bool overlay_has(const uint64_t *bitmap, uint64_t block) {
    ASSERT(bitmap);
    ASSERT(block <= OVERLAY_DISK_SIZE_MAX / OVERLAY_BLOCK_SIZE);
    return (bitmap[block / OVERLAY_WORD_BLOCKS] >> block % OVERLAY_WORD_BLOCKS & 1) != 0;
}

/* The end of the run of blocks from `first` on that are all in the overlay, or all not; at most `end`. */
static inline uint64_t overlay_run_end(const uint64_t *bitmap, uint64_t first, uint64_t end) {
    ASSERT(first < end);
    ASSERT(end <= OVERLAY_DISK_SIZE_MAX / OVERLAY_BLOCK_SIZE);
    const uint64_t flip = overlay_has(bitmap, first) ? UINT64_MAX : 0;
    for (uint64_t block = first; block < end;) {
        uint64_t shift = block % OVERLAY_WORD_BLOCKS;
        uint64_t others = (bitmap[block / OVERLAY_WORD_BLOCKS] ^ flip) >> shift;
        if (others != 0) {
            return min_u64(block + (uint64_t)__builtin_ctzll(others), end);
        }
        block += OVERLAY_WORD_BLOCKS - shift;
    }
    return end;
}

/* The blocks [first, end) are the overlay's from now on: what was written to it before is seen by whoever sees the bits. */
static inline void overlay_mark(uint64_t *bitmap, uint64_t first, uint64_t end) {
    ASSERT(bitmap);
    ASSERT(first <= end);
    for (uint64_t block = first; block < end;) {
        uint64_t shift = block % OVERLAY_WORD_BLOCKS;
        uint64_t count = min_u64(OVERLAY_WORD_BLOCKS - shift, end - block);
        uint64_t mask = UINT64_MAX >> (OVERLAY_WORD_BLOCKS - count) << shift;
        (void)__atomic_fetch_or(&bitmap[block / OVERLAY_WORD_BLOCKS], mask, __ATOMIC_RELEASE);
        block += count;
    }
}

#endif
