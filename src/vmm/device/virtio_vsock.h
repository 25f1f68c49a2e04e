/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The socket device (virtio 1.2, section 5.10): streams between the guest's AF_VSOCK sockets and the host's sockets.
 *
 * THEORY OF OPERATION
 *
 * Two ways lead over the device. A *prepared port* is a connected stream socket of the caller: the guest that connects to
 * the host's port of that number is connected to it; a later connection takes it over, and the one before gets RST. The
 * other way begins at the host: a client of the *listening socket* writes "CONNECT <port>\n", the device asks the
 * guest's port, and when that accepts, "OK <host port>\n" comes back and bytes flow. Everything else gets RST.
 *
 *     connection:  free -> connecting -> connected -> resetting -> free
 *     connecting:  REQUEST is owed or sent; the client's socket is not read. Leads to connected on RESPONSE
 *     connected:   bytes flow; each half may be shut down
 *     resetting:   the socket is gone, RST is owed to the guest
 *
 * Guest to host: what the socket does not take at once lies in the connection's ring, whose size is the
 * credit that the guest was given; who sends beyond it gets RST (hazard A9). A socket that takes nothing stops its connection
 * alone, for the guest has no credit there. Host to guest: nothing is buffered. Bytes are received into the guest's
 * buffer itself, when there is one and the guest has credit left; otherwise the socket is not waited for.
 *
 * What the device owes the guest is bounded without a queue: control packets are bits of their connection, and
 * data is a bit that says "look at the socket". Only RSTs for connections that do not exist are queued, and when that queue
 * is full, the guest's packets wait (as 5.10.6.1 wants it). Each run does a bounded amount of work and makes
 * itself run again by an eventfd, so that a guest that never stops sending cannot keep the machine's lock.
 *
 * Connections are not saved. A restored guest is told that the transport was reset, which ends its side of them; the
 * ports that are assigned go on where they were, so that no late packet meets a new connection (hazard C6).
 *
 * Threads: as device.h says.
 *
 *     struct virtio_vsock_config config = {.memory = &memory, .io = &io, .irq = irq, .guest_cid = 3, .listen_fd = -1};
 *     TRY(virtio_vsock_init(vsock, &config, err));
 *     TRY(virtio_vsock_port_add(vsock, 1024, channel_fd, err));
 *     virtio_mmio_init(&mmio, &vsock->device);
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_VSOCK_H
#define KELPIE_VMM_DEVICE_VIRTIO_VSOCK_H

#include "base/ring.h"
#include "vmm/device/io.h"
#include "vmm/device/virtio.h"
#include "vmm/device/virtio_vsock_limits.h"
#include "vmm/device/virtio_vsock_packet.h"

#define VSOCK_BITMAP_SIZE (VSOCK_CONNECTION_COUNT_MAX / 64)

struct virtio_vsock;

enum vsock_state { VSOCK_FREE, VSOCK_CONNECTING, VSOCK_CONNECTED, VSOCK_RESETTING };

struct vsock_port {
    uint32_t number;
    int fd;                              /* the caller's */
    bool ended;                          /* the other end of fd is closed */
    struct vsock_connection *connection; /* that has it now */
};

struct vsock_connection {
    struct virtio_vsock *vsock;
    enum vsock_state state;
    struct io_source source;
    uint32_t events;         /* what the source waits for */
    struct vsock_port *port; /* NULL: the descriptor is the connection's own */
    uint32_t guest_port;
    uint32_t host_port;
    uint32_t control;        /* bits 1 << VSOCK_OP_…: packets that are owed to the guest */
    struct ring ring;        /* from the guest */
    uint32_t forwarded;      /* bytes of the guest that left the ring: fwd_cnt; free-running */
    uint32_t forwarded_told; /* as the guest knows it */
    uint32_t sent;           /* bytes to the guest; free-running */
    uint32_t
        guest_forwarded; /* of those, what the guest said it took; sent - guest_forwarded is in flight */
    uint32_t guest_buffer_size;
    uint32_t guest_shutdown; /* bits VSOCK_SHUTDOWN_…: what the guest will not do any more */
    uint32_t host_shutdown;  /* what the host will not do any more */
    bool starved;            /* bytes wait, and the guest has no room for them */
    bool hung_up;            /* the other end of the socket is closed; the source is removed */
};

struct vsock_client {
    struct virtio_vsock *vsock;
    struct io_source source; /* fd -1: free */
    uint64_t number;         /* in order of arrival */
    size_t line_size;
    char line[VSOCK_LINE_SIZE_MAX];
};

struct virtio_vsock {
    struct virtio_device device;
    struct io *io;
    uint64_t guest_cid;
    uint32_t next_host_port;
    bool reset_owed; /* the guest is to hear that the transport was reset */
    bool tx_stalled; /* until there is room for replies */
    struct io_source again;
    struct io_source listener; /* fd -1: there is none */
    bool listener_paused;      /* no descriptors are left */
    uint8_t *buffers;          /* of the rings */
    size_t port_count;
    struct vsock_port ports[VSOCK_PORT_COUNT_MAX];
    uint64_t keys[VSOCK_CONNECTION_COUNT_MAX]; /* guest port << 32 | host port; 0: free */
    struct vsock_connection connections[VSOCK_CONNECTION_COUNT_MAX];
    uint32_t connection_limit; /* behind the last that is not free */
    uint64_t
        control_pending[VSOCK_BITMAP_SIZE];   /* connections that owe the guest a control packet */
    uint64_t data_pending[VSOCK_BITMAP_SIZE]; /* connections whose sockets have bytes, or an end */
    uint32_t next_control;                    /* whose turn it is */
    uint32_t next_data;
    struct vsock_packet replies[VSOCK_REPLY_COUNT_MAX]; /* a ring */
    uint32_t reply_first;
    uint32_t reply_count;
    uint64_t client_number;
    struct vsock_client clients[VSOCK_CLIENT_COUNT_MAX];
    struct virtqueue_chain chain; /* the one that is worked on */
    struct iovec parts[VMM_CHAIN_LENGTH_MAX];
};

struct virtio_vsock_config {
    const struct memory *memory;
    struct device_irq irq;
    struct io *io;
    uint64_t guest_cid;
    int listen_fd; /* a listening UNIX stream socket, which stays the caller's; -1: none */
};

/* NO_MEMORY, NO_SPACE, IO_FAILED; BAD_CONFIG (field "guest_cid") for a reserved one. */
KELPIE_CHECKED enum kelpie_status virtio_vsock_init(struct virtio_vsock *vsock,
                                                    const struct virtio_vsock_config *config,
                                                    struct kelpie_error *err);

/* A zeroed or half-made one too. Prepared descriptors stay open. */
void virtio_vsock_deinit(struct virtio_vsock *vsock);

/* port is above 0 and below VSOCK_HOST_PORT_MIN, and not prepared yet (asserted). fd: a connected stream socket, which
 * stays the caller's and lives longer than the device. NO_SPACE: VSOCK_PORT_COUNT_MAX are prepared. */
KELPIE_CHECKED enum kelpie_status virtio_vsock_port_add(struct virtio_vsock *vsock, uint32_t port,
                                                        int fd, struct kelpie_error *err);

/* True when no bytes and no packets are on their way, in either direction. */
bool virtio_vsock_quiet(struct virtio_vsock *vsock);

#endif
