/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Memory that the guest gives back: virtio memory balloon (virtio 1.2, section 5.5).
 *
 * THEORY OF OPERATION
 *
 * Two ways lead back to the host. Inflating: virtio_balloon_set_target() says how many pages the driver should take
 * from its guest; it names them, as page frame numbers of 4 KiB, on the inflate queue, and the device drops each
 * one that the gate accepts. A number that is out of range is ignored. Deflating needs nothing: memory
 * comes back when it is touched. Reporting: the driver tells of free ranges by itself, as writable parts of a chain, and
 * gets the chain back when they are dropped; there is no policy in that, and no target.
 *
 * How a page is dropped depends on the mapping. Private: MADV_DONTNEED drops the copy (what a bundle's memory file
 * holds shows again: bytes of the same guest). Shared: MADV_REMOVE drops it from the file too. Either way the page's
 * bytes change, so the gate for writing is asked, and notes them as dirty.
 *
 * The queues' numbers. The specification numbers inflate 0, deflate 1, statistics 2, free page hints 3, reporting 4;
 * drivers are about that number from the features that there are, without gaps. This device offers neither
 * statistics nor hints, so that any queue from 2 on can only be the one for reporting, and each is taken for it.
 *
 * Threads: as in device.h.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_BALLOON_H
#define KELPIE_VMM_DEVICE_VIRTIO_BALLOON_H

#include "vmm/device/io_again.h"
#include "vmm/device/virtio.h"

#define VIRTIO_BALLOON_QUEUE_INFLATE 0
#define VIRTIO_BALLOON_QUEUE_DEFLATE 1
#define VIRTIO_BALLOON_QUEUE_REPORTING 2 /* or any one behind it */
#define VIRTIO_BALLOON_QUEUE_COUNT 5
#define VIRTIO_BALLOON_QUEUE_SIZE 128
#define VIRTIO_BALLOON_CONFIG_SIZE 16
#define VIRTIO_BALLOON_PAGE_SHIFT 12 /* of a page frame number, on every machine */
/* Page frame numbers that are looked at in one chain; Linux sends up to 256. */
#define VIRTIO_BALLOON_CHAIN_PAGES_MAX 1024
#define VIRTIO_BALLOON_BURST_COUNT_MAX 16 /* chains in one piece of work */

/* Features (5.5.3). */
#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM (1ull << 2)
#define VIRTIO_BALLOON_F_REPORTING (1ull << 5)

struct virtio_balloon_options {
    bool memory_is_shared; /* MAP_SHARED, such as a memfd; else MAP_PRIVATE */
};

struct virtio_balloon {
    struct virtio_device device;
    struct virtio_balloon_options options;
    uint32_t target;        /* num_pages: what the host asks for */
    uint32_t actual;        /* what the driver says that it gave: anything */
    uint64_t dropped_pages; /* that were given back, since init */
    struct io_again again;
};

/* The memory's mapping begins at a page. IO_FAILED, NO_SPACE. */
KELPIE_CHECKED enum kelpie_status virtio_balloon_init(struct virtio_balloon *balloon,
                                                      const struct virtio_balloon_options *options,
                                                      const struct memory *memory,
                                                      struct device_irq irq, struct io *io,
                                                      struct kelpie_error *err);
void virtio_balloon_deinit(struct virtio_balloon *balloon); /* a zeroed one too */

/* Asks the driver to hold that many pages of 4 KiB. False, and nothing changed: the guest does not have so many. */
bool virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t pages);

#endif
