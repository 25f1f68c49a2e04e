/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A console for kernels that have no driver for a serial port: virtio console device (virtio 1.2, section 5.3).
 *
 * THEORY OF OPERATION
 *
 * One port, without VIRTIO_CONSOLE_F_MULTIPORT: a queue to receive, whose buffers are never filled, and one to
 * transmit. What the driver transmits goes to the line at once, in pieces of bounded size; the line takes what it can
 * and never waits, so that a console that nobody reads does not stop the guest (hazard A13). A burst is bounded; the rest
 * waits for the next turn of the I/O loop. The device keeps no bytes, and so has nothing to save but that it is there.
 *
 * Threads: as in device.h.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_CONSOLE_H
#define KELPIE_VMM_DEVICE_VIRTIO_CONSOLE_H

#include "vmm/device/io_again.h"
#include "vmm/device/virtio.h"

#define VIRTIO_CONSOLE_QUEUE_SIZE 64
#define VIRTIO_CONSOLE_PIECE_SIZE_MAX 4096u   /* bytes given to the line at once */
#define VIRTIO_CONSOLE_CHAIN_BYTES_MAX 65536u /* of one chain; what is longer loses its end */
#define VIRTIO_CONSOLE_BURST_COUNT_MAX 16     /* chains in one piece of work */

/* The other end. Called with the machine's lock held. */
struct virtio_console_line {
    void (*output)(void *context, const void *data, size_t size); /* size > 0 */
    void *context;
};

struct virtio_console {
    struct virtio_device device;
    struct virtio_console_line line;
    struct io_again again;
};

/* IO_FAILED, NO_SPACE. */
KELPIE_CHECKED enum kelpie_status virtio_console_init(struct virtio_console *console,
                                                      struct virtio_console_line line,
                                                      const struct memory *memory,
                                                      struct device_irq irq, struct io *io,
                                                      struct kelpie_error *err);
void virtio_console_deinit(struct virtio_console *console); /* a zeroed one too */

#endif
