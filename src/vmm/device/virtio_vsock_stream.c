/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The bytes of a connection, both ways, and the credit for them. */
#include <errno.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "vmm/device/virtio_vsock_internal.h"
#include "vmm/device/virtio_vsock_socket.h"

/* ---- Credit ------------------------------------------------------------------------------------- */

uint32_t vsock_stream_credit(const struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->state == VSOCK_CONNECTED);
    uint32_t in_flight = connection->sent - connection->guest_forwarded;
    return in_flight < connection->guest_buffer_size ? connection->guest_buffer_size - in_flight
                                                     : 0;
}

/* A guest can have taken no more than was sent, and no less than it said before (packets that its threads wrote at once
 * may come in any order). Of two counts the true and newer one leaves less in flight; one that ran ahead of what was sent
 * would leave nearly 2^32 (hazard A9). */
void vsock_stream_take_credit(struct vsock_connection *connection,
                              const struct vsock_packet *packet) {
    ASSERT(connection);
    ASSERT(packet);
    uint32_t in_flight = connection->sent - connection->guest_forwarded;
    if (connection->sent - packet->forwarded <= in_flight) {
        connection->guest_forwarded = packet->forwarded;
    }
    connection->guest_buffer_size = packet->buffer_size;
    if (connection->starved && vsock_stream_credit(connection) > 0) {
        connection->starved = false;
        vsock_bit_set(connection->vsock->data_pending, vsock_connection_index(connection));
    }
}

static void tell_credit(struct vsock_connection *connection) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    ASSERT(connection->ring.size <= VSOCK_BUFFER_SIZE);
    if (connection->forwarded - connection->forwarded_told >= VSOCK_CREDIT_STEP) {
        vsock_connection_owe(connection, VSOCK_OP_CREDIT_UPDATE);
    }
}

/* ---- Bytes -------------------------------------------------------------------------------------- */

void vsock_stream_discard(struct vsock_connection *connection) {
    ASSERT(connection->ring.size <= VSOCK_BUFFER_SIZE);
    connection->forwarded += (uint32_t)connection->ring.size;
    ring_drop(&connection->ring, connection->ring.size);
    ASSERT(connection->ring.size == 0);
}

static void send_failed(struct vsock_connection *connection) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    vsock_stream_discard(connection);
    vsock_connection_host_shutdown(connection, VSOCK_SHUTDOWN_RECEIVE);
    ASSERT(connection->ring.size == 0);
}

/* The guest has said what it will not do any more, and nothing of it waits. */
static void guest_shuts_down(struct vsock_connection *connection) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    ASSERT(connection->ring.size == 0);
    if (connection->guest_shutdown == VSOCK_SHUTDOWN_BOTH) {
        vsock_connection_reset(connection); /* as 5.10.6.5 wants a clean end */
    } else if ((connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) != 0 && !connection->port) {
        vsock_socket_shutdown(connection->source.fd, SHUT_WR);
    }
}

void vsock_stream_flush(struct vsock_connection *connection) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    struct ring *ring = &connection->ring;
    for (int piece = 0; piece < 2 && ring->size > 0; piece++) { /* a ring is one piece or two */
        const uint8_t *front = NULL;
        size_t size = ring_front(ring, &front);
        struct iovec part = {.iov_base = (void *)(uintptr_t)front, .iov_len = size};
        ssize_t count = vsock_socket_send(connection->source.fd, &part, 1);
        if (count == -EAGAIN) {
            break;
        }
        if (count < 0) {
            send_failed(connection);
            break;
        }
        ASSERT((size_t)count <= size);
        ring_drop(ring, (size_t)count);
        connection->forwarded += (uint32_t)count;
    }
    tell_credit(connection);
    if (ring->size == 0) {
        guest_shuts_down(connection);
    }
}

/* The bytes [skip, skip + size) of parts, as parts. Returns how many parts. */
static size_t slice(const struct iovec *parts, size_t count, size_t skip, size_t size,
                    struct iovec *ret_parts) {
    ASSERT(count <= VMM_CHAIN_LENGTH_MAX);
    ASSERT(ret_parts);
    size_t used = 0;
    for (size_t i = 0; i < count && size > 0; i++) {
        size_t skipped = min_size(skip, parts[i].iov_len);
        size_t taken = min_size(size, parts[i].iov_len - skipped);
        skip -= skipped;
        if (taken > 0) {
            ret_parts[used++] = (struct iovec){.iov_base = (uint8_t *)parts[i].iov_base + skipped,
                                               .iov_len = taken};
            size -= taken;
        }
    }
    ASSERT(size == 0); /* the caller has checked that there are so many */
    return used;
}

/* Bytes of the guest straight from its memory to the socket, if nothing is before them. */
static size_t send_direct(struct vsock_connection *connection, size_t part_count) {
    ASSERT(part_count > 0);
    if (connection->ring.size > 0) {
        return 0;
    }
    ssize_t sent = vsock_socket_send(connection->source.fd, connection->vsock->parts, part_count);
    if (sent < 0 && sent != -EAGAIN) {
        send_failed(connection);
    }
    return sent > 0 ? (size_t)sent : 0;
}

void vsock_stream_take_data(struct vsock_connection *connection, uint32_t size) {
    struct virtio_vsock *vsock = connection->vsock;
    const struct virtqueue_chain *chain = &vsock->chain;
    ASSERT(connection->state == VSOCK_CONNECTED);
    ASSERT(chain->readable_size >= (uint64_t)VSOCK_HEADER_SIZE + size);
    if ((connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) != 0 ||
        size > ring_room(&connection->ring)) {
        vsock_connection_reset(connection); /* beyond what it said, or its credit */
        return;
    }
    size_t done = 0;
    if (size > 0 && (connection->host_shutdown & VSOCK_SHUTDOWN_RECEIVE) == 0 &&
        !connection->hung_up) {
        done = send_direct(connection, slice(chain->parts, chain->readable_count, VSOCK_HEADER_SIZE,
                                             size, vsock->parts));
    }
    if ((connection->host_shutdown & VSOCK_SHUTDOWN_RECEIVE) != 0 || connection->hung_up) {
        done = size; /* nobody will take them */
    }
    size_t count = slice(chain->parts, chain->readable_count, VSOCK_HEADER_SIZE + done, size - done,
                         vsock->parts);
    for (size_t i = 0; i < count; i++) {
        size_t written =
            ring_write(&connection->ring, vsock->parts[i].iov_base, vsock->parts[i].iov_len);
        ASSERT(written == vsock->parts[i].iov_len);
    }
    connection->forwarded += (uint32_t)done;
    tell_credit(connection);
    vsock_connection_watch(connection);
}

void vsock_stream_take_shutdown(struct vsock_connection *connection, uint32_t flags) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    uint32_t fresh = flags & VSOCK_SHUTDOWN_BOTH & ~connection->guest_shutdown;
    connection->guest_shutdown |= fresh;
    if ((fresh & VSOCK_SHUTDOWN_RECEIVE) != 0) {
        vsock_bit_clear(connection->vsock->data_pending, vsock_connection_index(connection));
        connection->starved = false;
        if (!connection->port) {
            vsock_socket_shutdown(connection->source.fd, SHUT_RD);
        }
        if (connection->hung_up) {
            vsock_connection_host_shutdown(connection, VSOCK_SHUTDOWN_BOTH);
        }
    }
    if (fresh != 0 && connection->ring.size == 0) {
        guest_shuts_down(connection);
    }
    vsock_connection_watch(connection);
    ASSERT(connection->guest_shutdown <= VSOCK_SHUTDOWN_BOTH);
}

uint32_t vsock_stream_receive(struct vsock_connection *connection, uint32_t size) {
    struct virtio_vsock *vsock = connection->vsock;
    const struct virtqueue_chain *chain = &vsock->chain;
    ASSERT(vsock_connection_receives(connection));
    ASSERT(size > 0);
    size_t count = slice(chain->parts + chain->readable_count, chain->writable_count,
                         VSOCK_HEADER_SIZE, size, vsock->parts);
    ssize_t received = vsock_socket_receive(connection->source.fd, vsock->parts, count);
    ASSERT(received <= (ssize_t)size);
    if (received > 0) {
        connection->sent += (uint32_t)received;
        if ((uint32_t)received == size || connection->hung_up) {
            return (uint32_t)received; /* there may be more, and no event may say so */
        }
    }
    vsock_bit_clear(vsock->data_pending, vsock_connection_index(connection));
    if (received == 0 || (received == -EAGAIN && connection->hung_up)) {
        vsock_connection_host_shutdown(connection, connection->hung_up ? VSOCK_SHUTDOWN_BOTH
                                                                       : VSOCK_SHUTDOWN_SEND);
    } else if (received < 0 && received != -EAGAIN) {
        vsock_connection_reset(connection);
    }
    vsock_connection_watch(connection);
    return received > 0 ? (uint32_t)received : 0;
}
