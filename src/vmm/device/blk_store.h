/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A disk's bytes: one file, or a base and an overlay over it (base/overlay.h).
 *
 * THEORY OF OPERATION
 *
 * One file: byte n of the disk is byte n of the file.
 *
 * Base and overlay: the base is open for reading alone, so that no fault of ours can write it (hazard A15). A read is cut
 * into runs of blocks that are all in the one or all in the other. A write, and zeros, go to the overlay; where they
 * cover a part of a block that is not there yet, the rest of the block is copied up first; and when all of it is in the
 * overlay, and only then, the blocks' bits are set. So a call that fails has changed no block that was the base's:
 * what it left in the overlay is not looked at. The same holds for a monitor that is killed at any moment, and for an
 * owner who reads the bitmap first and the overlay then. Zeros and discarded bytes are the overlay's too, as a hole
 * of it: they hide the base.
 *
 * The kernel may move less than it was asked to: the rest is asked for from where it stopped (hazard A14).
 *
 * Threads: none of its own; one call at a time.
 */
#ifndef KELPIE_VMM_DEVICE_BLK_STORE_H
#define KELPIE_VMM_DEVICE_BLK_STORE_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/overlay.h"
#include "vmm/vmm_limits.h"

#define BLK_STORE_CALL_COUNT_MAX 4096 /* of preadv or pwritev for one run of bytes */

struct blk_store_files {
    int fd;         /* the disk; or, overlaid, its base */
    bool overlaid;  /* false: the other two say nothing */
    int overlay_fd; /* as large as the base */
    int bitmap_fd;  /* overlay_bitmap_size() bytes; it may be closed after init */
};

/* The descriptors are the caller's, and outlive the store. */
struct blk_store {
    int fd; /* what is written: the disk, or its overlay */
    uint64_t size;
    int base_fd;                      /* -1: not overlaid */
    uint64_t *bitmap;                 /* mapped; NULL: not overlaid */
    size_t bitmap_size;               /* in bytes */
    uint8_t rest[OVERLAY_BLOCK_SIZE]; /* of a block, on its way up */
};

enum blk_store_result {
    BLK_STORE_DONE = 0,
    BLK_STORE_FAILED,
    BLK_STORE_UNSUPPORTED,
};

/* Bytes between the disk and memory. The parts are used up. */
struct blk_transfer {
    uint64_t position;
    uint64_t size; /* of the parts together; all of it is on the disk */
    uint64_t done; /* 0 before */
    size_t part_count;
    struct iovec parts[VMM_CHAIN_LENGTH_MAX];
};

/* BAD_CONFIG: not a regular file or a block device; or base, overlay and bitmap do not fit together. IO_FAILED. */
KELPIE_CHECKED enum kelpie_status blk_store_init(struct blk_store *store,
                                                 const struct blk_store_files *files,
                                                 struct kelpie_error *err);
void blk_store_deinit(struct blk_store *store); /* a zeroed or half-made one too */

/* Move transfer->size bytes; `done` says how many came when they fail. */
enum blk_store_result blk_store_read(const struct blk_store *store, struct blk_transfer *transfer);
enum blk_store_result blk_store_write(struct blk_store *store, struct blk_transfer *transfer);

/* [position, position + size), which is on the disk, reads as zeros, and takes no room. UNSUPPORTED: the file system
 * cannot. */
enum blk_store_result blk_store_discard(struct blk_store *store, uint64_t position, uint64_t size);

/* The same on every file system; without unmap the zeros stay allocated. Adds the bytes that had to be written. */
enum blk_store_result blk_store_zero(struct blk_store *store, uint64_t position, uint64_t size,
                                     bool unmap, uint64_t *add_cost);

/* What was written is on the disk. */
enum blk_store_result blk_store_flush(const struct blk_store *store);

#endif
