/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the guest says: each packet is copied once, judged, and given back at once. */
#include <string.h>

#include "vmm/device/virtio_vsock_internal.h"

/* RST for something that is no connection. The caller has seen that there is room. */
static void reply_reset(struct virtio_vsock *vsock, const struct vsock_packet *packet) {
    ASSERT(vsock->reply_count < VSOCK_REPLY_COUNT_MAX);
    ASSERT(packet->op != VSOCK_OP_RST);
    uint32_t place = (vsock->reply_first + vsock->reply_count) % VSOCK_REPLY_COUNT_MAX;
    vsock->replies[place] = (struct vsock_packet){
        .src_cid = packet->dst_cid,
        .dst_cid = packet->src_cid,
        .src_port = packet->dst_port,
        .dst_port = packet->src_port,
        .type = packet->type, /* of the socket that is meant */
        .op = VSOCK_OP_RST,
    };
    vsock->reply_count++;
}

static struct vsock_port *port_find(struct virtio_vsock *vsock, uint32_t number) {
    ASSERT(vsock->port_count <= VSOCK_PORT_COUNT_MAX);
    for (size_t index = 0; index < vsock->port_count; index++) {
        ASSERT(vsock->ports[index].number != 0);
        if (vsock->ports[index].number == number) {
            return &vsock->ports[index];
        }
    }
    return NULL;
}

/* The guest connects to a port of the host. */
static void take_request(struct virtio_vsock *vsock, const struct vsock_packet *packet) {
    ASSERT(packet->op == VSOCK_OP_REQUEST);
    struct vsock_port *port = port_find(vsock, packet->dst_port);
    struct vsock_connection *connection = NULL;
    if (port && !port->ended) {
        if (port->connection) {
            vsock_connection_reset(port->connection);
        }
        ASSERT(!port->connection);
        connection =
            vsock_connection_create(vsock, packet->src_port, packet->dst_port, port, port->fd);
    }
    if (!connection) {
        reply_reset(vsock, packet);
        return;
    }
    connection->guest_buffer_size = packet->buffer_size;
    connection->guest_forwarded = 0; /* nothing was sent, whatever the packet says */
    vsock_connection_owe(connection, VSOCK_OP_RESPONSE);
    vsock_connection_connected(connection);
}

static void take_in_connected(struct vsock_connection *connection,
                              const struct vsock_packet *packet) {
    ASSERT(connection->state == VSOCK_CONNECTED);
    ASSERT(packet->op != VSOCK_OP_RST);
    vsock_stream_take_credit(connection, packet);
    switch ((int)packet->op) {
    case VSOCK_OP_RW:
        vsock_stream_take_data(connection, packet->size);
        break;
    case VSOCK_OP_SHUTDOWN:
        vsock_stream_take_shutdown(connection, packet->flags);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        vsock_connection_owe(connection, VSOCK_OP_CREDIT_UPDATE);
        break;
    default: /* a second REQUEST or RESPONSE, or nothing that there is */
        vsock_connection_reset(connection);
        break;
    }
}

static void take_in_connection(struct vsock_connection *connection,
                               const struct vsock_packet *packet) {
    ASSERT(connection->state != VSOCK_FREE);
    ASSERT(packet->type == VSOCK_TYPE_STREAM);
    if (packet->op == VSOCK_OP_RST) {
        vsock_connection_free(connection);
    } else if (connection->state == VSOCK_CONNECTED) {
        take_in_connected(connection, packet);
    } else if (connection->state == VSOCK_CONNECTING) {
        /* Not when REQUEST is owed still: then the guest answers what it was not asked. */
        if (packet->op == VSOCK_OP_RESPONSE && connection->control == 0) {
            vsock_client_accepted(connection, packet);
        } else {
            vsock_connection_reset(connection);
        }
    }
    /* Resetting: RST is on its way. */
}

static void take_packet(struct virtio_vsock *vsock) {
    const struct virtqueue_chain *chain = &vsock->chain;
    uint8_t header[VSOCK_HEADER_SIZE];
    ASSERT(vsock->reply_count < VSOCK_REPLY_COUNT_MAX);
    if (virtqueue_chain_read(chain, 0, header, sizeof(header)) < sizeof(header)) {
        return; /* it names nobody who could be answered */
    }
    struct vsock_packet packet = vsock_packet_decode(header);
    if (packet.src_cid != vsock->guest_cid) {
        return; /* nor does it here */
    }
    struct vsock_connection *connection = NULL;
    bool reachable = packet.dst_cid == VSOCK_CID_HOST && packet.type == VSOCK_TYPE_STREAM;
    if (reachable) {
        connection = vsock_connection_find(vsock, packet.src_port, packet.dst_port);
    }
    if (connection && packet.size > chain->readable_size - VSOCK_HEADER_SIZE) {
        ASSERT(chain->readable_size >= VSOCK_HEADER_SIZE);
        vsock_connection_reset(connection); /* it says more than there is (hazard A9) */
    } else if (connection) {
        take_in_connection(connection, &packet);
    } else if (reachable && packet.op == VSOCK_OP_REQUEST) {
        take_request(vsock, &packet);
    } else if (packet.op != VSOCK_OP_RST) {
        reply_reset(vsock, &packet);
    }
}

bool vsock_tx_run(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->device.active);
    struct virtqueue *queue = &vsock->device.queues[VSOCK_QUEUE_TX];
    uint32_t count = 0;
    vsock->tx_stalled = false;
    while (count < VSOCK_TX_BURST) {
        if (vsock->reply_count == VSOCK_REPLY_COUNT_MAX) {
            vsock->tx_stalled = true;
            break;
        }
        count++;
        if (virtqueue_pop(queue, &vsock->chain)) {
            take_packet(vsock);
            virtqueue_push(queue, vsock->chain.head, 0);
        } else if (!virtqueue_has_available(queue)) {
            break;
        }
    }
    virtio_device_signal(&vsock->device, VSOCK_QUEUE_TX);
    return count == VSOCK_TX_BURST;
}
