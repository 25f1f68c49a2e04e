/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the guest is told: RSTs that belong to no connection, then control packets, then data, each in turn. */
#include "base/checked.h"
#include "vmm/device/virtio_vsock_internal.h"

bool vsock_bitmap_any(const uint64_t *bitmap) {
    ASSERT(bitmap);
    uint64_t any = 0;
    for (size_t word = 0; word < VSOCK_BITMAP_SIZE; word++) {
        any |= bitmap[word];
    }
    return any != 0;
}

uint32_t vsock_bitmap_next(const uint64_t *bitmap, uint32_t start) {
    ASSERT(bitmap);
    ASSERT(start < VSOCK_CONNECTION_COUNT_MAX);
    uint32_t word = start / 64;
    uint64_t bits = bitmap[word] >> (start % 64) << (start % 64);
    /* The first word comes twice: from `start` on, and at the end all of it. */
    for (uint32_t count = 0; count <= VSOCK_BITMAP_SIZE; count++) {
        if (bits != 0) {
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
        }
        word = (word + 1) % VSOCK_BITMAP_SIZE;
        bits = bitmap[word];
    }
    return VSOCK_CONNECTION_COUNT_MAX;
}

static uint32_t index_after(uint32_t index) {
    ASSERT(index < VSOCK_CONNECTION_COUNT_MAX);
    return (index + 1) % VSOCK_CONNECTION_COUNT_MAX;
}

/* A packet of a connection tells the credit too, so an update that was owed is paid with it. */
static void packet_begin(struct vsock_connection *connection, enum vsock_op op,
                         struct vsock_packet *ret_packet) {
    ASSERT(connection->state != VSOCK_FREE);
    ASSERT(ret_packet);
    *ret_packet = (struct vsock_packet){
        .src_cid = VSOCK_CID_HOST,
        .dst_cid = connection->vsock->guest_cid,
        .src_port = connection->host_port,
        .dst_port = connection->guest_port,
        .type = VSOCK_TYPE_STREAM,
        .op = (uint16_t)op,
        .buffer_size = VSOCK_BUFFER_SIZE,
        .forwarded = connection->forwarded,
    };
    connection->forwarded_told = connection->forwarded;
    vsock_connection_paid(connection, op);
    vsock_connection_paid(connection, VSOCK_OP_CREDIT_UPDATE);
}

static bool next_reply(struct virtio_vsock *vsock, struct vsock_packet *ret_packet) {
    ASSERT(vsock->reply_first < VSOCK_REPLY_COUNT_MAX);
    ASSERT(vsock->reply_count <= VSOCK_REPLY_COUNT_MAX);
    if (vsock->reply_count == 0) {
        return false;
    }
    *ret_packet = vsock->replies[vsock->reply_first];
    vsock->reply_first = (vsock->reply_first + 1) % VSOCK_REPLY_COUNT_MAX;
    vsock->reply_count--;
    return true;
}

/* In the order in which one connection must say them. */
static const enum vsock_op control_order[] = {
    VSOCK_OP_RST,           VSOCK_OP_REQUEST,        VSOCK_OP_RESPONSE,
    VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST, VSOCK_OP_SHUTDOWN,
};

static bool next_control(struct virtio_vsock *vsock, struct vsock_packet *ret_packet) {
    uint32_t index = vsock_bitmap_next(vsock->control_pending, vsock->next_control);
    if (index == VSOCK_CONNECTION_COUNT_MAX) {
        return false;
    }
    vsock->next_control = index_after(index);
    struct vsock_connection *connection = &vsock->connections[index];
    ASSERT(connection->control != 0);
    size_t place = 0;
    while ((connection->control & 1u << control_order[place]) == 0) {
        place++;
        ASSERT(place < ARRAY_SIZE(control_order));
    }
    enum vsock_op op = control_order[place];
    packet_begin(connection, op, ret_packet);
    bool last = op == VSOCK_OP_RST;
    if (op == VSOCK_OP_SHUTDOWN) {
        ret_packet->flags = connection->host_shutdown;
        last = connection->host_shutdown == VSOCK_SHUTDOWN_BOTH;
    }
    if (last) {
        vsock_connection_free(connection); /* what the guest says of it now, is answered with RST */
    }
    return true;
}

/* room: bytes of vsock->chain behind the header. */
static bool next_data(struct virtio_vsock *vsock, uint64_t room, struct vsock_packet *ret_packet) {
    ASSERT(room > 0);
    for (uint32_t count = 0; count < VSOCK_CONNECTION_COUNT_MAX; count++) {
        uint32_t index = vsock_bitmap_next(vsock->data_pending, vsock->next_data);
        if (index == VSOCK_CONNECTION_COUNT_MAX) {
            return false;
        }
        vsock->next_data = index_after(index);
        struct vsock_connection *connection = &vsock->connections[index];
        ASSERT(connection->state == VSOCK_CONNECTED);
        uint32_t credit = vsock_stream_credit(connection);
        if (credit == 0) {
            connection->starved = true;
            vsock_bit_clear(vsock->data_pending, index);
            vsock_connection_owe(connection, VSOCK_OP_CREDIT_REQUEST);
            vsock_connection_watch(connection);
            continue;
        }
        uint64_t limit = min_u64(min_u64(credit, room), VSOCK_DATA_SIZE_MAX);
        uint32_t size = vsock_stream_receive(connection, (uint32_t)limit);
        if (size > 0) {
            packet_begin(connection, VSOCK_OP_RW, ret_packet);
            ret_packet->size = size;
            return true;
        }
    }
    return false;
}

/* Fills vsock->chain and gives it back; false: it was not needed. */
static bool fill_chain(struct virtio_vsock *vsock) {
    struct virtqueue *queue = &vsock->device.queues[VSOCK_QUEUE_RX];
    const struct virtqueue_chain *chain = &vsock->chain;
    if (chain->writable_size < VSOCK_HEADER_SIZE) {
        virtqueue_push(queue, chain->head, 0); /* of no use */
        return true;
    }
    uint64_t room = chain->writable_size - VSOCK_HEADER_SIZE;
    struct vsock_packet packet;
    bool found = next_reply(vsock, &packet) || next_control(vsock, &packet);
    if (!found && room == 0) {
        virtqueue_push(queue, chain->head, 0);
        return true;
    }
    /* Looking at a socket may show its end, which is a control packet. */
    if (!found && !next_data(vsock, room, &packet) && !next_control(vsock, &packet)) {
        virtqueue_unpop(queue, chain);
        return false;
    }
    uint8_t header[VSOCK_HEADER_SIZE];
    vsock_packet_encode(&packet, header);
    size_t written = virtqueue_chain_write(chain, 0, header, sizeof(header));
    ASSERT(written == sizeof(header));
    ASSERT(packet.size <= room);
    virtqueue_push(queue, chain->head, VSOCK_HEADER_SIZE + packet.size);
    return true;
}

bool vsock_rx_run(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->device.active);
    struct virtqueue *queue = &vsock->device.queues[VSOCK_QUEUE_RX];
    uint32_t count = 0;
    while (count < VSOCK_RX_BURST &&
           (vsock->reply_count > 0 || vsock_bitmap_any(vsock->control_pending) ||
            vsock_bitmap_any(vsock->data_pending))) {
        count++;
        if (virtqueue_pop(queue, &vsock->chain)) {
            (void)fill_chain(vsock);
        } else if (!virtqueue_has_available(queue)) {
            break;
        }
    }
    virtio_device_signal(&vsock->device, VSOCK_QUEUE_RX);
    return count == VSOCK_RX_BURST;
}
