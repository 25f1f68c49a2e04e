/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A network interface: virtio network device (virtio 1.2, section 5.1), one queue each way, no offloads.
 *
 * THEORY OF OPERATION
 *
 * Behind the device is a descriptor that carries Ethernet frames: a tap (one read or write is one frame; IFF_NO_PI
 * and no IFF_VNET_HDR), or a UNIX stream socket as passt speaks it, in which each frame follows its length, 4 bytes,
 * big-endian. The guest's 12 bytes of struct virtio_net_hdr are taken off and put on here.
 *
 *     guest -> host   A chain is sent straight from the guest's memory. A stream may take a part of it: the rest is copied,
 *                     the chain is given back, and nothing else is sent before the rest is. What takes nothing at all
 *                     makes the device put the chain back and wait until it does.
 *     host -> guest   Read only while the driver has buffers; else the device does not even look, and the kernel or the
 *                     peer holds the frames back. A stream's bytes are gathered in a buffer, whose frames wait.
 *
 * So no chain is in flight between two calls. Both directions are bounded in frames for each turn of the I/O loop. A frame
 * that is shorter than an Ethernet header or longer than VIRTIO_NET_FRAME_SIZE_MAX, or does not fit in the driver's
 * buffer, is dropped and counted; networks do that. A stream that announces a frame of more than the maximum is a stream
 * whose beginning of frames is lost, and ends.
 *
 * A peer that is gone takes the link down: the driver is told (STATUS), what it sends is dropped. Bytes of a stream that
 * are on their way when the state is saved are not a part of it: a restored device has a new peer.
 *
 * A driver that resets the device leaves the stream in the middle of a frame, where the next goes on: its bytes stay.
 *
 * Threads: as in device.h.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_NET_H
#define KELPIE_VMM_DEVICE_VIRTIO_NET_H

#include "vmm/device/io_again.h"
#include "vmm/device/virtio.h"

#define VIRTIO_NET_QUEUE_RX 0
#define VIRTIO_NET_QUEUE_TX 1
#define VIRTIO_NET_QUEUE_SIZE 256
#define VIRTIO_NET_HEADER_SIZE 12 /* struct virtio_net_hdr (5.1.6) */
#define VIRTIO_NET_FRAME_SIZE_MIN 14u
#define VIRTIO_NET_FRAME_SIZE_MAX 65550u
#define VIRTIO_NET_STREAM_HEADER_SIZE 4
#define VIRTIO_NET_TURN_FRAMES_MAX 64 /* in one direction, in one piece of work */
#define VIRTIO_NET_MAC_SIZE 6
#define VIRTIO_NET_MTU_MIN 68u /* 5.1.4.1 */
#define VIRTIO_NET_CONFIG_SIZE 12

/* Features (5.1.3) and the link's bit in the config's status (5.1.4). */
#define VIRTIO_NET_F_MTU (1ull << 3)
#define VIRTIO_NET_F_MAC (1ull << 5)
#define VIRTIO_NET_F_STATUS (1ull << 16)
#define VIRTIO_NET_S_LINK_UP 1u

enum virtio_net_backend { VIRTIO_NET_TAP, VIRTIO_NET_STREAM };

struct virtio_net_options {
    enum virtio_net_backend backend;
    int fd; /* the caller's, non-blocking; it outlives the device */
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    uint16_t mtu; /* 0: the driver is not told */
};

struct virtio_net {
    struct virtio_device device;
    struct virtio_net_options options;
    struct io *io;
    struct io_source source; /* in the loop while the device is active and the link is up */
    bool started;            /* the source is in the loop */
    uint32_t watched;        /* the events that it waits for */
    struct io_again again;
    bool link_up;
    bool link_told;  /* what the driver was told last */
    bool tx_blocked; /* the descriptor takes no more at present */
    uint64_t rx_frames;
    uint64_t rx_dropped;
    uint64_t tx_frames;
    uint64_t tx_dropped;
    size_t
        rx_start; /* of a stream: rx_bytes[rx_start … rx_end) were read and not given to the driver */
    size_t rx_end;
    size_t
        tx_start; /* of a stream: tx_bytes[tx_start … tx_end) are the rest of a frame that was begun */
    size_t tx_end;
    uint8_t rx_bytes[VIRTIO_NET_STREAM_HEADER_SIZE + VIRTIO_NET_FRAME_SIZE_MAX];
    uint8_t tx_bytes[VIRTIO_NET_STREAM_HEADER_SIZE + VIRTIO_NET_FRAME_SIZE_MAX];
};

/* BAD_CONFIG, field "net": a MAC that is not one host's, an MTU below the least, a descriptor that blocks. IO_FAILED,
 * NO_SPACE. */
KELPIE_CHECKED enum kelpie_status virtio_net_init(struct virtio_net *net,
                                                  const struct virtio_net_options *options,
                                                  const struct memory *memory,
                                                  struct device_irq irq, struct io *io,
                                                  struct kelpie_error *err);
void virtio_net_deinit(struct virtio_net *net); /* a zeroed one too */

#endif
