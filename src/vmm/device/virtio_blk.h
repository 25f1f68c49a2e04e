/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A disk: virtio block device (virtio 1.2, section 5.2).
 *
 * THEORY OF OPERATION
 *
 * The disk is a raw file, or a block device, perhaps with an overlay of ours over it (blk_store.h): sector n of the one
 * is bytes 512n … 512n + 511 of the other, and nothing that the file holds is ever looked at. There are no formats, so
 * there is none to guess (hazard A16).
 *
 * A request is a chain: a header of 16 bytes that the device reads, data, and one byte for the status, the last
 * that the device may write. How the driver cuts them into descriptors means nothing. The header is copied once
 * (hazard A11), checked, carried out at once, and given back: between two calls no request is under way,
 * so that there is nothing of them to save. A piece of work is bounded in requests and in bytes; what is
 * left is done in the next turn of the I/O loop.
 *
 * Reads and writes go straight between the file and the guest's memory.
 *
 * Read-only is enforced here, whatever the driver negotiated (hazard A15). A driver that does not negotiate FLUSH
 * sees a disk without a cache: what it writes is on the disk before it is told.
 *
 * The length that is said to be written counts from the first writable byte, as the specification has it (2.7.8.2):
 * data and status byte when all data came, else no more than the data that came.
 *
 * Threads: as in device.h.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_BLK_H
#define KELPIE_VMM_DEVICE_VIRTIO_BLK_H

#include "vmm/device/blk_store.h"
#include "vmm/device/io_again.h"
#include "vmm/device/virtio.h"

#define VIRTIO_BLK_SECTOR_SIZE 512u
#define VIRTIO_BLK_ID_SIZE 20
#define VIRTIO_BLK_QUEUE_SIZE 256
/* A header and a status byte beside the data. */
#define VIRTIO_BLK_SEGMENT_COUNT_MAX (VIRTIO_BLK_QUEUE_SIZE - 2)
#define VIRTIO_BLK_SEGMENT_SIZE_MAX (256u << 10)
#define VIRTIO_BLK_REQUEST_SIZE_MAX                                                                \
    ((uint64_t)VIRTIO_BLK_SEGMENT_COUNT_MAX * VIRTIO_BLK_SEGMENT_SIZE_MAX)
#define VIRTIO_BLK_DISCARD_SECTORS_MAX (1u << 21) /* 1 GiB for each range */
#define VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX 32
#define VIRTIO_BLK_ZEROES_SECTORS_MAX (1u << 16) /* 32 MiB: it may have to be written */
#define VIRTIO_BLK_ZEROES_RANGE_COUNT_MAX 1
/* One piece of work. */
#define VIRTIO_BLK_BURST_COUNT_MAX 64
#define VIRTIO_BLK_BURST_SIZE_MAX (64u << 20)

/* Features (5.2.3). */
#define VIRTIO_BLK_F_SIZE_MAX (1ull << 1)
#define VIRTIO_BLK_F_SEG_MAX (1ull << 2)
#define VIRTIO_BLK_F_RO (1ull << 5)
#define VIRTIO_BLK_F_BLK_SIZE (1ull << 6)
#define VIRTIO_BLK_F_FLUSH (1ull << 9)
#define VIRTIO_BLK_F_DISCARD (1ull << 13)
#define VIRTIO_BLK_F_WRITE_ZEROES (1ull << 14)

/* Request types and statuses (5.2.6). */
#define VIRTIO_BLK_T_IN 0u
#define VIRTIO_BLK_T_OUT 1u
#define VIRTIO_BLK_T_FLUSH 4u
#define VIRTIO_BLK_T_GET_ID 8u
#define VIRTIO_BLK_T_DISCARD 11u
#define VIRTIO_BLK_T_WRITE_ZEROES 13u
#define VIRTIO_BLK_HEADER_SIZE 16
#define VIRTIO_BLK_RANGE_SIZE 16
#define VIRTIO_BLK_RANGE_UNMAP 1u /* in a range's flags */
#define VIRTIO_BLK_S_OK 0
#define VIRTIO_BLK_S_IOERR 1
#define VIRTIO_BLK_S_UNSUPP 2

#define VIRTIO_BLK_CONFIG_SIZE 60 /* up to write_zeroes_may_unmap and its padding */

struct virtio_blk_options {
    int fd;        /* the caller's; it outlives the device. Opened for what read_only says */
    bool overlaid; /* fd is the base, open for reading, under the next two; never with read_only */
    int overlay_fd;
    int bitmap_fd; /* may be closed after init */
    bool read_only;
    char id[VIRTIO_BLK_ID_SIZE]; /* what GET_ID says: text, zeros behind it */
};

struct virtio_blk {
    struct virtio_device device;
    struct virtio_blk_options options;
    struct blk_store store;
    uint64_t capacity; /* in sectors; a part of one at the file's end is not offered */
    struct io_again again;
};

/* BAD_CONFIG: fd is neither a regular file nor a block device. IO_FAILED, NO_SPACE. */
KELPIE_CHECKED enum kelpie_status virtio_blk_init(struct virtio_blk *blk,
                                                  const struct virtio_blk_options *options,
                                                  const struct memory *memory,
                                                  struct device_irq irq, struct io *io,
                                                  struct kelpie_error *err);
void virtio_blk_deinit(struct virtio_blk *blk); /* a zeroed one too */

#endif
