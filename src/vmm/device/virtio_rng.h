/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Random bytes for the guest: virtio entropy device (virtio 1.2, section 5.4).
 *
 * THEORY OF OPERATION
 *
 * Whatever the driver offers to be written is filled from the kernel's random number generator, at once, up to a bound for
 * each chain: the specification lets a device give fewer bytes than there is room for. A burst is bounded too; the
 * rest waits for the next turn of the I/O loop. The device keeps no bytes, so that none can be given twice, to two clones of
 * one machine least of all.
 *
 * Threads: as in device.h.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_RNG_H
#define KELPIE_VMM_DEVICE_VIRTIO_RNG_H

#include "vmm/device/io_again.h"
#include "vmm/device/virtio.h"

#define VIRTIO_RNG_QUEUE_SIZE 64
#define VIRTIO_RNG_CHAIN_BYTES_MAX 4096u /* what one chain gets */
#define VIRTIO_RNG_BURST_COUNT_MAX 16    /* chains in one piece of work */

struct virtio_rng {
    struct virtio_device device;
    struct io_again again;
};

/* IO_FAILED, NO_SPACE. */
KELPIE_CHECKED enum kelpie_status virtio_rng_init(struct virtio_rng *rng,
                                                  const struct memory *memory,
                                                  struct device_irq irq, struct io *io,
                                                  struct kelpie_error *err);
void virtio_rng_deinit(struct virtio_rng *rng); /* a zeroed one too */

#endif
