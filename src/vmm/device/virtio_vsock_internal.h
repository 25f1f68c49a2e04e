/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What the files of the socket device share. virtio_vsock.c: the device, its runs, save and load; _tx.c: what the guest
 * says; _rx.c: what it is told; _connection.c: one connection and its socket; _stream.c: its bytes; _client.c: clients of the listening socket.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_VSOCK_INTERNAL_H
#define KELPIE_VMM_DEVICE_VIRTIO_VSOCK_INTERNAL_H

#include "base/assert.h"
#include "vmm/device/virtio_vsock.h"

#define VSOCK_QUEUE_RX 0
#define VSOCK_QUEUE_TX 1
#define VSOCK_QUEUE_EVENT 2
#define VSOCK_QUEUE_COUNT 3

/* Bitmaps of connections. */
static inline void vsock_bit_set(uint64_t *bitmap, size_t index) {
    ASSERT(bitmap);
    ASSERT(index < VSOCK_CONNECTION_COUNT_MAX);
    bitmap[index / 64] |= 1ull << (index % 64);
}

static inline void vsock_bit_clear(uint64_t *bitmap, size_t index) {
    ASSERT(bitmap);
    ASSERT(index < VSOCK_CONNECTION_COUNT_MAX);
    bitmap[index / 64] &= ~(1ull << (index % 64));
}

static inline bool vsock_bit_is_set(const uint64_t *bitmap, size_t index) {
    ASSERT(bitmap);
    ASSERT(index < VSOCK_CONNECTION_COUNT_MAX);
    return (bitmap[index / 64] >> (index % 64) & 1) != 0;
}

bool vsock_bitmap_any(const uint64_t *bitmap);

/* The first that is set from `start` on, around the end; VSOCK_CONNECTION_COUNT_MAX: none is. */
uint32_t vsock_bitmap_next(const uint64_t *bitmap, uint32_t start);

/* ---- virtio_vsock.c ---- */

/* Does what can be done now: after every event. It may end and begin connections. */
void vsock_run(struct virtio_vsock *vsock);

/* Makes vsock_run() be called in the loop's next turn. */
void vsock_run_again(struct virtio_vsock *vsock);

/* ---- virtio_vsock_connection.c ---- */

size_t vsock_connection_index(const struct vsock_connection *connection);
struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock, uint32_t guest_port,
                                               uint32_t host_port);

/* In state connecting, with nothing owed. port: the prepared port whose descriptor fd is; NULL: fd becomes
 * the connection's. NULL, and fd as it was: there is no room, or the loop cannot wait for it. */
struct vsock_connection *vsock_connection_create(struct virtio_vsock *vsock, uint32_t guest_port,
                                                 uint32_t host_port, struct vsock_port *port,
                                                 int fd);
void vsock_connection_free(struct vsock_connection *connection); /* says nothing to the guest */
void vsock_connection_reset(struct vsock_connection *connection);
void vsock_connection_owe(struct vsock_connection *connection, enum vsock_op op);
void vsock_connection_paid(struct vsock_connection *connection, enum vsock_op op);
void vsock_connection_connected(struct vsock_connection *connection);

/* Waits for what the connection can use now. */
void vsock_connection_watch(struct vsock_connection *connection);

/* Is anything of the host wanted any more? */
bool vsock_connection_receives(const struct vsock_connection *connection);

/* The host will not do `what` any more. When that is all there was, the connection ends with the packet that says so. */
void vsock_connection_host_shutdown(struct vsock_connection *connection, uint32_t what);

/* ---- virtio_vsock_stream.c ---- */

/* How many bytes the guest has room for. */
uint32_t vsock_stream_credit(const struct vsock_connection *connection);
void vsock_stream_take_credit(struct vsock_connection *connection,
                              const struct vsock_packet *packet);

/* Bytes that the host will never take count as taken: the guest has its credit back. */
void vsock_stream_discard(struct vsock_connection *connection);

/* The socket may take something again. */
void vsock_stream_flush(struct vsock_connection *connection);

/* `size` bytes of vsock->chain behind the header, which has so many. */
void vsock_stream_take_data(struct vsock_connection *connection, uint32_t size);
void vsock_stream_take_shutdown(struct vsock_connection *connection, uint32_t flags);

/* Receives up to `size` (> 0) bytes into vsock->chain behind the header. 0: there are none now; what follows of
 * that has happened, and the connection is not pending any more. */
uint32_t vsock_stream_receive(struct vsock_connection *connection, uint32_t size);

/* ---- virtio_vsock_tx.c, virtio_vsock_rx.c: true when there is more to do ---- */

bool vsock_tx_run(struct virtio_vsock *vsock);
bool vsock_rx_run(struct virtio_vsock *vsock);

/* ---- virtio_vsock_client.c ---- */

void vsock_client_init(struct virtio_vsock *vsock);
void vsock_client_close_all(struct virtio_vsock *vsock);
void vsock_listener_event(void *context, uint32_t events); /* context: the device */

/* The guest's port has accepted. */
void vsock_client_accepted(struct vsock_connection *connection, const struct vsock_packet *packet);

/* A port for a connection that begins at the host. */
uint32_t vsock_host_port_take(struct virtio_vsock *vsock);

#endif
