/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One connection and its socket. */
#include <sys/epoll.h>

#include "vmm/device/virtio_vsock_internal.h"
#include "vmm/device/virtio_vsock_socket.h"

/* ---- Life --------------------------------------------------------------------------------------- */

size_t vsock_connection_index(const struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->vsock);
    size_t index = (size_t)(connection - connection->vsock->connections);
    ASSERT(index < VSOCK_CONNECTION_COUNT_MAX);
    return index;
}

static uint64_t connection_key(uint32_t guest_port, uint32_t host_port) {
    return (uint64_t)guest_port << 32 | host_port;
}

static struct vsock_connection *key_find(struct virtio_vsock *vsock, uint64_t key) {
    ASSERT(vsock);
    ASSERT(vsock->connection_limit <= VSOCK_CONNECTION_COUNT_MAX);
    for (size_t index = 0; index < vsock->connection_limit; index++) {
        if (vsock->keys[index] == key) {
            return &vsock->connections[index];
        }
    }
    return NULL;
}

static struct vsock_connection *free_find(struct virtio_vsock *vsock) {
    struct vsock_connection *connection = key_find(vsock, 0);
    if (!connection && vsock->connection_limit < VSOCK_CONNECTION_COUNT_MAX) {
        connection = &vsock->connections[vsock->connection_limit];
    }
    ASSERT(!connection || connection->state == VSOCK_FREE);
    return connection;
}

struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock, uint32_t guest_port,
                                               uint32_t host_port) {
    ASSERT(vsock);
    if (host_port == 0) { /* never a connection's: a key of 0 is a free one's */
        return NULL;
    }
    struct vsock_connection *connection = key_find(vsock, connection_key(guest_port, host_port));
    ASSERT(!connection || connection->state != VSOCK_FREE);
    return connection;
}

static void connection_event(void *context, uint32_t events);

struct vsock_connection *vsock_connection_create(struct virtio_vsock *vsock, uint32_t guest_port,
                                                 uint32_t host_port, struct vsock_port *port,
                                                 int fd) {
    ASSERT(host_port != 0);
    ASSERT(!vsock_connection_find(vsock, guest_port, host_port));
    ASSERT(!port || (port->fd == fd && !port->connection));
    struct vsock_connection *connection = free_find(vsock);
    if (!connection) {
        return NULL;
    }
    *connection = (struct vsock_connection){
        .vsock = vsock,
        .source = {.fd = fd, .handler = connection_event, .context = connection},
        .port = port,
        .guest_port = guest_port,
        .host_port = host_port,
    };
    if (io_add(vsock->io, &connection->source, 0, NULL) != KELPIE_OK) {
        return NULL;
    }
    size_t index = vsock_connection_index(connection);
    ring_init(&connection->ring, vsock->buffers + index * VSOCK_BUFFER_SIZE, VSOCK_BUFFER_SIZE);
    vsock->keys[index] = connection_key(guest_port, host_port);
    if (index == vsock->connection_limit) {
        vsock->connection_limit++;
    }
    connection->state = VSOCK_CONNECTING;
    if (port) {
        port->connection = connection;
    }
    return connection;
}

/* Nothing is heard of the socket any more. */
static void socket_release(struct vsock_connection *connection) {
    struct virtio_vsock *vsock = connection->vsock;
    ASSERT(vsock);
    if (connection->source.fd < 0) {
        return;
    }
    io_remove(vsock->io, &connection->source);
    if (connection->port) {
        ASSERT(connection->port->connection == connection);
        connection->port->connection = NULL;
    } else {
        vsock_socket_close(connection->source.fd);
    }
    connection->source.fd = -1;
    connection->port = NULL;
    vsock_stream_discard(connection);
}

static void forget_pending(struct vsock_connection *connection) {
    ASSERT(connection->state != VSOCK_FREE);
    size_t index = vsock_connection_index(connection);
    connection->control = 0;
    connection->starved = false;
    vsock_bit_clear(connection->vsock->control_pending, index);
    vsock_bit_clear(connection->vsock->data_pending, index);
}

void vsock_connection_free(struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->state != VSOCK_FREE);
    struct virtio_vsock *vsock = connection->vsock;
    socket_release(connection);
    forget_pending(connection);
    vsock->keys[vsock_connection_index(connection)] = 0;
    connection->state = VSOCK_FREE;
    while (vsock->connection_limit > 0 && vsock->keys[vsock->connection_limit - 1] == 0) {
        vsock->connection_limit--;
    }
}

void vsock_connection_reset(struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->state != VSOCK_FREE);
    bool unknown = (connection->control & 1u << VSOCK_OP_REQUEST) != 0;
    socket_release(connection);
    forget_pending(connection);
    connection->state = VSOCK_RESETTING;
    if (unknown) { /* the guest has not heard of it */
        vsock_connection_free(connection);
    } else {
        vsock_connection_owe(connection, VSOCK_OP_RST);
    }
}

void vsock_connection_owe(struct vsock_connection *connection, enum vsock_op op) {
    ASSERT(connection->state != VSOCK_FREE);
    ASSERT(connection->state != VSOCK_RESETTING || op == VSOCK_OP_RST);
    connection->control |= 1u << op;
    vsock_bit_set(connection->vsock->control_pending, vsock_connection_index(connection));
}

void vsock_connection_paid(struct vsock_connection *connection, enum vsock_op op) {
    ASSERT(connection->state != VSOCK_FREE);
    ASSERT(op != VSOCK_OP_INVALID);
    connection->control &= ~(1u << op);
    if (connection->control == 0) {
        vsock_bit_clear(connection->vsock->control_pending, vsock_connection_index(connection));
    }
}

void vsock_connection_connected(struct vsock_connection *connection) {
    ASSERT(connection->state == VSOCK_CONNECTING);
    ASSERT(connection->source.fd >= 0);
    connection->state = VSOCK_CONNECTED;
    vsock_connection_watch(connection);
}

/* ---- Events ------------------------------------------------------------------------------------- */

bool vsock_connection_receives(const struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->host_shutdown <= VSOCK_SHUTDOWN_BOTH);
    return connection->state == VSOCK_CONNECTED &&
           (connection->host_shutdown & VSOCK_SHUTDOWN_SEND) == 0 &&
           (connection->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE) == 0;
}

void vsock_connection_watch(struct vsock_connection *connection) {
    struct virtio_vsock *vsock = connection->vsock;
    ASSERT(vsock);
    if (connection->source.fd < 0 || connection->hung_up || connection->state == VSOCK_FREE) {
        return;
    }
    bool pending = vsock_bit_is_set(vsock->data_pending, vsock_connection_index(connection));
    uint32_t events = 0;
    if (vsock_connection_receives(connection) && !pending && !connection->starved) {
        events |= EPOLLIN;
    }
    if (connection->ring.size > 0) {
        events |= EPOLLOUT;
    }
    if (events != connection->events) {
        connection->events = events;
        io_change(vsock->io, &connection->source, events);
    }
    ASSERT(connection->events == events);
}

void vsock_connection_host_shutdown(struct vsock_connection *connection, uint32_t what) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    ASSERT(what != 0 && what <= VSOCK_SHUTDOWN_BOTH);
    if ((connection->host_shutdown & what) == what) {
        return;
    }
    connection->host_shutdown |= what;
    vsock_connection_owe(connection, VSOCK_OP_SHUTDOWN);
}

/* The loop tells this again and again: the source is removed. What was sent before is still to be received. */
static void hang_up(struct vsock_connection *connection) {
    ASSERT(!connection->hung_up);
    ASSERT(connection->source.fd >= 0);
    io_remove(connection->vsock->io, &connection->source);
    connection->hung_up = true;
    if (connection->port) {
        connection->port->ended = true;
    }
    if (connection->state == VSOCK_CONNECTING) {
        vsock_connection_reset(connection);
        return;
    }
    vsock_stream_discard(connection);
    if (connection->guest_shutdown == VSOCK_SHUTDOWN_BOTH) {
        vsock_connection_reset(connection); /* only the ring had kept it */
    } else if (!vsock_connection_receives(connection)) {
        vsock_connection_host_shutdown(connection, VSOCK_SHUTDOWN_BOTH);
    } else if (!connection->starved) {
        vsock_bit_set(connection->vsock->data_pending, vsock_connection_index(connection));
    }
}

static void connection_event(void *context, uint32_t events) {
    struct vsock_connection *connection = context;
    ASSERT(connection);
    ASSERT(connection->state == VSOCK_CONNECTING || connection->state == VSOCK_CONNECTED);
    struct virtio_vsock *vsock = connection->vsock;
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        hang_up(connection);
    } else {
        if ((events & EPOLLIN) != 0 && vsock_connection_receives(connection)) {
            vsock_bit_set(vsock->data_pending, vsock_connection_index(connection));
        }
        if ((events & EPOLLOUT) != 0 && connection->state == VSOCK_CONNECTED) {
            vsock_stream_flush(connection);
        }
    }
    vsock_run(vsock);
    vsock_connection_watch(connection);
}
