/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What went wrong in other socket devices. */
#include "vmm/device/virtio_vsock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/vsock_fixture.h"

/* Says more bytes than the packet has, in a connection and out of one. */
static void hazard_a9_size_beyond_the_packet(void **state) {
    struct fixture *fixture = *state;
    const uint32_t sizes[] = {4, 65536, 0x7fffffff, UINT32_MAX - 43, UINT32_MAX};
    give_rx(fixture, 16, 4096);
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        connect_guest(fixture, 5000 + i);
        struct vsock_packet packet = vsock_guest_packet(VSOCK_OP_RW, 5000 + i, PORT);
        packet.size = sizes[i];
        assert_true(vsock_guest_put(&fixture->guest, &packet, "abc", 3));
        vsock_guest_kick(&fixture->guest, 1);
        settle(fixture);
        hear(fixture, VSOCK_OP_RST, 5000 + i, PORT);
        expect_silence(fixture->channel);
    }
}

static void hazard_a9_packet_without_a_whole_header(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    struct vsock_packet packet = vsock_guest_packet(VSOCK_OP_RW, 5000, PORT);
    uint32_t slot = fixture->guest.offered[1] % VSOCK_GUEST_SLOTS;
    vsock_packet_encode(&packet, fixture->guest.bytes + vsock_guest_buffer(1, slot));
    uint32_t used = 0;
    uint32_t size = 1;
    assert_true(vsock_guest_take(&fixture->guest, 1, &used, &size));
    assert_true(vsock_guest_offer(&fixture->guest, 1, VSOCK_HEADER_SIZE - 1, false));
    vsock_guest_kick(&fixture->guest, 1);
    settle(fixture);
    assert_true(vsock_guest_take(&fixture->guest, 1, &used, &size)); /* given back all the same */
    assert_int_equal(size, 0);
    hear_nothing(fixture);
}

/* What the host does not read is bounded by the credit that the guest was given. */
static void hazard_a9_guest_beyond_its_credit_is_reset(void **state) {
    struct fixture *fixture = *state;
    const uint32_t step = 16384;
    int small = 4608;
    assert_int_equal(setsockopt(fixture->prepared, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
                     0);
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    struct vsock_packet data = vsock_guest_packet(VSOCK_OP_RW, 5000, PORT);
    uint32_t told = 0;
    uint32_t sent = 0;
    struct vsock_packet packet;
    const uint8_t *bytes = NULL;
    for (int i = 0; i < 64; i++) { /* as long as there is credit */
        say(fixture, data, fixture->bytes, step);
        sent += step;
        while (vsock_guest_get(&fixture->guest, &packet, &bytes)) {
            assert_int_equal(packet.op, VSOCK_OP_CREDIT_UPDATE);
            assert_int_equal(packet.buffer_size, VSOCK_BUFFER_SIZE);
            told = packet.forwarded;
        }
        if (sent - told + step > VSOCK_BUFFER_SIZE) {
            break;
        }
    }
    const struct vsock_connection *connection = &fixture->vsock->connections[0];
    assert_true(connection->ring.size > 0);
    assert_false(virtio_vsock_quiet(fixture->vsock));
    uint32_t room = (uint32_t)ring_room(&connection->ring);
    say(fixture, data, fixture->bytes, room); /* what it may still send */
    hear_nothing(fixture);
    say(fixture, data, "x", 1); /* and one more */
    hear(fixture, VSOCK_OP_RST, 5000, PORT);
}

/* A guest that claims to have taken more than it was sent has no more credit for it. */
static void hazard_a9_credit_does_not_underflow(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 16, 4096);
    struct vsock_packet request = vsock_guest_packet(VSOCK_OP_REQUEST, 5000, PORT);
    request.buffer_size = 10;
    request.forwarded = 1000; /* before anything was sent */
    say(fixture, request, NULL, 0);
    hear(fixture, VSOCK_OP_RESPONSE, 5000, PORT);
    send_bytes(fixture->channel, "0123456789abcdef", 16);
    settle(fixture);
    hear_data(fixture, "0123456789", 10);
    hear(fixture, VSOCK_OP_CREDIT_REQUEST, 5000, PORT);
    hear_nothing(fixture);
    struct vsock_packet update = vsock_guest_packet(VSOCK_OP_CREDIT_UPDATE, 5000, PORT);
    const uint32_t lies[] = {11, 1000, 0x80000009, UINT32_MAX};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        update.buffer_size = 10;
        update.forwarded = lies[i];
        say(fixture, update, NULL, 0);
        hear_nothing(fixture);
    }
    update.buffer_size = 4; /* less than is in flight: no credit, and not 2^32 of it */
    update.forwarded = 0;
    say(fixture, update, NULL, 0);
    hear_nothing(fixture);
    update.forwarded = 10;
    say(fixture, update, NULL, 0);
    hear_data(fixture, "abcd", 4);
    hear(fixture, VSOCK_OP_CREDIT_REQUEST, 5000, PORT);
    update.forwarded = 0; /* an old packet, late */
    update.buffer_size = 10;
    say(fixture, update, NULL, 0);
    hear_data(fixture, "ef", 2);
}

/* Counters run over 2^32 as they should. */
static void hazard_a9_counters_wrap(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 16, 4096);
    connect_guest(fixture, 5000);
    struct vsock_connection *connection = &fixture->vsock->connections[0];
    connection->sent = UINT32_MAX - 1;
    connection->guest_forwarded = UINT32_MAX - 1;
    connection->forwarded = UINT32_MAX - 1;
    connection->forwarded_told = UINT32_MAX - 1;
    struct vsock_packet data = vsock_guest_packet(VSOCK_OP_RW, 5000, PORT);
    data.forwarded = UINT32_MAX - 1;
    data.buffer_size = 4;
    say(fixture, data, "12345", 5);
    expect_bytes(fixture->channel, "12345", 5);
    assert_int_equal(connection->forwarded, 3);
    hear_nothing(fixture);
    send_bytes(fixture->channel, "abcdef", 6);
    settle(fixture);
    hear_data(fixture, "abcd", 4);
    hear(fixture, VSOCK_OP_CREDIT_REQUEST, 5000, PORT);
    data.op = VSOCK_OP_CREDIT_UPDATE;
    data.forwarded = 2;
    say(fixture, data, NULL, 0);
    hear_data(fixture, "ef", 2);
}

/* The peer's sizes are its own: nothing is allocated or sent for them. */
static void hazard_a9_buffer_size_of_the_peer_is_only_a_bound(void **state) {
    struct fixture *fixture = *state;
    struct vsock_packet request = vsock_guest_packet(VSOCK_OP_REQUEST, 5000, PORT);
    request.buffer_size = UINT32_MAX;
    give_rx(fixture, 1, VSOCK_HEADER_SIZE);
    say(fixture, request, NULL, 0);
    hear(fixture, VSOCK_OP_RESPONSE, 5000, PORT);
    int large = 1 << 20;
    assert_int_equal(setsockopt(fixture->channel, SOL_SOCKET, SO_SNDBUF, &large, sizeof(large)), 0);
    send_bytes(fixture->channel, fixture->bytes, sizeof(fixture->bytes));
    settle(fixture);
    give_rx(fixture, 1, VSOCK_GUEST_SLOT_SIZE);
    hear_data(fixture, fixture->bytes, VSOCK_DATA_SIZE_MAX);
    give_rx(fixture, 1, VSOCK_HEADER_SIZE + 7); /* as much as the buffer holds */
    hear_data(fixture, fixture->bytes + VSOCK_DATA_SIZE_MAX, 7);
}

/* The guest has no buffers: nothing spins, nothing is lost, and all goes on with the first ones. */
static void hazard_a13_receive_goes_on_after_starvation(void **state) {
    struct fixture *fixture = *state;
    say_op(fixture, VSOCK_OP_REQUEST, 5000, PORT);
    send_bytes(fixture->channel, "one", 3);
    settle(fixture);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    hear_nothing(fixture);
    assert_false(virtio_vsock_quiet(fixture->vsock));
    say_op(fixture, VSOCK_OP_CREDIT_REQUEST, 5000, PORT);
    say_op(fixture, VSOCK_OP_RW, 7777, 99);
    give_rx(fixture, 1, 4096);
    hear(fixture, VSOCK_OP_RST, 7777, 99);
    give_rx(fixture, 1, 4096);
    hear(fixture, VSOCK_OP_RESPONSE, 5000, PORT);
    give_rx(fixture, 1, VSOCK_HEADER_SIZE - 1); /* of no use, and given back */
    struct vsock_packet packet;
    const uint8_t *data = NULL;
    assert_true(vsock_guest_get(&fixture->guest, &packet, &data));
    assert_int_equal(packet.src_cid, 0);
    give_rx(fixture, 1, 4096);
    hear_data(fixture, "one", 3);
    send_bytes(fixture->channel, "two", 3);
    settle(fixture);
    give_rx(fixture, 2, 4096);
    hear_data(fixture, "two", 3);
    hear_nothing(fixture);
    assert_true(virtio_vsock_quiet(fixture->vsock));
}

/* A host that does not read stops its own connection, and is heard and served when it does again. */
static void hazard_a13_slow_host_stops_its_connection_alone(void **state) {
    struct fixture *fixture = *state;
    const uint32_t host_port = VSOCK_HOST_PORT_MIN;
    give_rx(fixture, 16, 4096);
    int fd = client_connect(fixture, host_port);
    connect_guest(fixture, 5000);
    struct vsock_packet data = vsock_guest_packet(VSOCK_OP_RW, SERVICE, host_port);
    size_t sent = 0;
    struct vsock_packet packet;
    const uint8_t *bytes = NULL;
    while (fixture->vsock->connections[0].ring.size == 0) {
        say(fixture, data, fixture->bytes, 32768);
        sent += 32768;
        assert_true(sent < 64u << 20);
        while (vsock_guest_get(&fixture->guest, &packet, &bytes)) {
            assert_int_equal(packet.op, VSOCK_OP_CREDIT_UPDATE);
        }
        give_rx(fixture,
                (uint32_t)(VSOCK_GUEST_SLOTS -
                           (uint16_t)(fixture->guest.offered[0] - fixture->guest.taken[0])),
                4096);
    }
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 5000, PORT), "other", 5);
    expect_bytes(fixture->channel, "other", 5);
    for (size_t offset = 0; offset < sent; offset += 32768) {
        expect_bytes(fd, fixture->bytes, 32768);
        settle(fixture);
    }
    assert_int_equal(fixture->vsock->connections[0].ring.size, 0);
    assert_int_equal(fixture->vsock->connections[0].forwarded, sent);
    close(fd);
    settle(fixture);
}

/* More RSTs than there is room for, and no buffers to give them: the guest's packets wait. None is lost. */
static void hazard_a1_flood_of_unknown_packets_is_bounded(void **state) {
    struct fixture *fixture = *state;
    uint32_t put = 0;
    uint32_t heard = 0;
    for (int i = 0; i < 1000; i++) {
        struct vsock_packet packet = vsock_guest_packet(VSOCK_OP_RW, put, 99);
        put += vsock_guest_put(&fixture->guest, &packet, NULL, 0) ? 1 : 0;
        vsock_guest_kick(&fixture->guest, 1);
        settle(fixture);
    }
    assert_int_equal(put, VSOCK_REPLY_COUNT_MAX + VSOCK_GUEST_SLOTS);
    assert_int_equal(fixture->vsock->reply_count, VSOCK_REPLY_COUNT_MAX);
    give_rx(fixture, 8, VSOCK_HEADER_SIZE);
    assert_int_equal(fixture->vsock->reply_count, VSOCK_REPLY_COUNT_MAX); /* others came after */
    while (heard < put) {
        give_rx(fixture, 8, VSOCK_HEADER_SIZE);
        for (int i = 0; i < 8; i++) {
            hear(fixture, VSOCK_OP_RST, heard++, 99);
        }
    }
    hear_nothing(fixture);
}

/* More connections than there are: RST, and no more than the table holds. */
static void hazard_a1_flood_of_connections_is_bounded(void **state) {
    struct fixture *fixture = *state;
    for (uint32_t i = 0; i < VSOCK_CONNECTION_COUNT_MAX + 20; i++) {
        say_op(fixture, VSOCK_OP_REQUEST, 5000 + i, PORT); /* each resets the one before */
    }
    assert_int_equal(fixture->vsock->reply_count, 20);
    uint32_t resets = 0;
    struct vsock_packet packet;
    const uint8_t *data = NULL;
    for (uint32_t i = 0; i < 300; i++) {
        give_rx(fixture, 1, VSOCK_HEADER_SIZE);
        if (vsock_guest_get(&fixture->guest, &packet, &data)) {
            resets += packet.op == VSOCK_OP_RST ? 1 : 0;
            continue;
        }
        break;
    }
    assert_int_equal(resets, VSOCK_CONNECTION_COUNT_MAX + 20);
    for (size_t i = 0; i < VSOCK_CONNECTION_COUNT_MAX; i++) {
        assert_int_equal(fixture->vsock->keys[i], 0);
    }
}

/* One run gives a bounded number of packets, and the loop goes on with the next. */
static void hazard_a1_run_is_bounded(void **state) {
    struct fixture *fixture = *state;
    const uint64_t rings = 0x380000;
    const uint32_t size = VSOCK_HEADER_SIZE + 20;
    give_rx(fixture, 1, 4096);
    connect_guest(fixture, 5000);
    struct virtqueue *queue = &fixture->vsock->device.queues[0];
    virtqueue_reset(queue);
    queue->size = VMM_QUEUE_SIZE_MAX;
    queue->descriptors_gpa = rings;
    queue->available_gpa = rings + 0x2000;
    queue->used_gpa = rings + 0x3000;
    assert_true(virtqueue_enable(queue));
    send_bytes(fixture->channel, fixture->bytes, 200 * 20);
    settle(fixture);
    for (uint16_t i = 0; i < VMM_QUEUE_SIZE_MAX; i++) {
        uint64_t gpa = rings + 0x10000 + i * 64u;
        uint8_t *descriptor = fixture->guest.bytes + rings + i * 16u;
        memcpy(descriptor, &gpa, 8);
        memcpy(descriptor + 8, &size, 4);
        memcpy(descriptor + 12, "\2\0\0\0", 4);
        memcpy(fixture->guest.bytes + rings + 0x2004 + i * 2u, &i, 2);
    }
    memcpy(fixture->guest.bytes + rings + 0x2002, "\0\1", 2);
    vsock_guest_kick(&fixture->guest, 0);
    assert_int_equal(queue->next_used, VSOCK_RX_BURST);
    settle(fixture);
    assert_int_equal(queue->next_used, 200);
}

static enum kelpie_status load_from(struct virtio_vsock *vsock, const void *bytes, size_t size,
                                    struct kelpie_error *err) {
    struct state_reader *reader = calloc(1, sizeof(*reader));
    assert_non_null(reader);
    enum kelpie_status status = state_reader_init(reader, bytes, size, err);
    if (status == KELPIE_OK) {
        status = vsock->device.ops->load(&vsock->device, reader, 3, err);
    }
    if (status == KELPIE_OK) {
        status = state_reader_finish(reader, err);
    }
    free(reader);
    return status;
}

static size_t save_to(struct virtio_vsock *vsock, void *buffer, size_t capacity) {
    struct state_writer writer;
    size_t size = 0;
    state_writer_init(&writer, buffer, capacity);
    vsock->device.ops->save(&vsock->device, &writer, 3);
    assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
    return size;
}

static void restored_guest_hears_a_transport_reset(struct fixture *fixture) {
    uint32_t slot = 0;
    uint32_t size = 0;
    assert_true(vsock_guest_take(&fixture->guest, 2, &slot, &size));
    assert_int_equal(size, 4);
    assert_memory_equal(fixture->guest.bytes + vsock_guest_buffer(2, slot), "\0\0\0\0", 4);
    assert_false(vsock_guest_take(&fixture->guest, 2, &slot, &size));
}

static void hazard_c6_restore_resets_the_transport(void **state) {
    struct fixture *fixture = *state;
    uint8_t buffer[256];
    give_rx(fixture, 8, 4096);
    int fd = client_connect(fixture, VSOCK_HOST_PORT_MIN);
    connect_guest(fixture, 5000);
    /* In flight: a packet that the device has not taken. */
    struct vsock_packet data = vsock_guest_packet(VSOCK_OP_RW, 5000, PORT);
    data.size = 5;
    assert_true(vsock_guest_put(&fixture->guest, &data, "never", 5));
    assert_false(virtio_vsock_quiet(fixture->vsock));
    size_t size = save_to(fixture->vsock, buffer, sizeof(buffer));
    struct virtqueue queues[VMM_QUEUE_COUNT_MAX];
    memcpy(queues, fixture->vsock->device.queues, sizeof(queues));
    virtio_vsock_deinit(fixture->vsock);
    expect_end(fd);
    close(fd);

    make(fixture); /* another monitor */
    memcpy(fixture->vsock->device.queues, queues, sizeof(queues));
    fixture->vsock->device.active = true;
    assert_int_equal(load_from(fixture->vsock, buffer, size, NULL), KELPIE_OK);
    settle(fixture);
    memset(fixture->guest.bytes + vsock_guest_buffer(2, 0), 0xff, 8);
    assert_true(vsock_guest_offer(&fixture->guest, 2, 8, true));
    vsock_guest_kick(&fixture->guest, 2);
    restored_guest_hears_a_transport_reset(fixture);
    expect_silence(fixture->channel); /* it was not replayed */
    hear(fixture, VSOCK_OP_RST, 5000, PORT);
    connect_guest(fixture, 5001);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 5001, PORT), "again", 5);
    expect_bytes(fixture->channel, "again", 5);
    fd = client_connect(fixture, VSOCK_HOST_PORT_MIN + 1); /* a port that was not used before */
    close(fd);
}

static void hazard_c6_event_waits_for_its_buffer(void **state) {
    struct fixture *fixture = *state;
    uint8_t buffer[256];
    uint32_t slot = 0;
    uint32_t size = 0;
    size_t state_size = save_to(fixture->vsock, buffer, sizeof(buffer));
    assert_true(vsock_guest_offer(&fixture->guest, 2, 3, true)); /* too small for it */
    assert_int_equal(load_from(fixture->vsock, buffer, state_size, NULL), KELPIE_OK);
    settle(fixture);
    assert_true(vsock_guest_take(&fixture->guest, 2, &slot, &size));
    assert_int_equal(size, 0);
    settle(fixture);
    assert_true(vsock_guest_offer(&fixture->guest, 2, 4, true));
    vsock_guest_kick(&fixture->guest, 2);
    restored_guest_hears_a_transport_reset(fixture);
    /* A driver that starts afresh is owed nothing. */
    assert_int_equal(load_from(fixture->vsock, buffer, state_size, NULL), KELPIE_OK);
    virtio_device_reset(&fixture->vsock->device);
    activate(fixture);
    assert_true(vsock_guest_offer(&fixture->guest, 2, 4, true));
    vsock_guest_kick(&fixture->guest, 2);
    settle(fixture);
    assert_false(vsock_guest_take(&fixture->guest, 2, &slot, &size));
}

/* Ports go up, over the end to the start, and past those in use. */
static void hazard_c6_host_ports_are_not_reused_soon(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 16, 4096);
    fixture->vsock->next_host_port = VSOCK_HOST_PORT_MAX - 1;
    int last = client_connect(fixture, VSOCK_HOST_PORT_MAX - 1);
    close(client_connect(fixture, VSOCK_HOST_PORT_MAX));
    settle(fixture);
    hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, VSOCK_HOST_PORT_MAX);
    close(client_connect(fixture, VSOCK_HOST_PORT_MIN));
    settle(fixture);
    hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, VSOCK_HOST_PORT_MIN);
    fixture->vsock->next_host_port = VSOCK_HOST_PORT_MAX - 1;
    close(client_connect(fixture, VSOCK_HOST_PORT_MAX));
    close(last);
    settle(fixture);
}

static void hazard_b1_saved_values_are_checked(void **state) {
    struct fixture *fixture = *state;
    const struct {
        uint64_t cid;
        uint32_t port;
        uint32_t extra; /* bytes that are too many, or (-4) too few */
        enum kelpie_status expected;
    } cases[] = {
        {3, VSOCK_HOST_PORT_MIN, 0, KELPIE_OK},
        {0xfffffffe, VSOCK_HOST_PORT_MAX, 0, KELPIE_OK},
        {0, VSOCK_HOST_PORT_MIN, 0, KELPIE_SNAPSHOT_CORRUPT},
        {2, VSOCK_HOST_PORT_MIN, 0, KELPIE_SNAPSHOT_CORRUPT},
        {0xffffffff, VSOCK_HOST_PORT_MIN, 0, KELPIE_SNAPSHOT_CORRUPT},
        {0x100000003, VSOCK_HOST_PORT_MIN, 0, KELPIE_SNAPSHOT_CORRUPT},
        {3, VSOCK_HOST_PORT_MIN - 1, 0, KELPIE_SNAPSHOT_CORRUPT},
        {3, 0, 0, KELPIE_SNAPSHOT_CORRUPT},
        {3, VSOCK_HOST_PORT_MAX + 1u, 0, KELPIE_SNAPSHOT_CORRUPT},
        {3, VSOCK_HOST_PORT_MIN, 1, KELPIE_SNAPSHOT_CORRUPT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t buffer[256];
        size_t size = 0;
        struct state_writer writer;
        state_writer_init(&writer, buffer, sizeof(buffer));
        struct cursor_writer *section = state_begin(&writer, STATE_TAG('V', 'S', 'O', 'K'), 1, 3);
        cursor_write_u64(section, cases[i].cid);
        cursor_write_u32(section, cases[i].port);
        for (uint32_t extra = 0; extra < cases[i].extra; extra++) {
            cursor_write_u8(section, 0);
        }
        state_end(&writer);
        assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
        uint64_t before = fixture->vsock->guest_cid;
        assert_int_equal(load_from(fixture->vsock, buffer, size, NULL), cases[i].expected);
        assert_int_equal(fixture->vsock->guest_cid,
                         cases[i].expected == KELPIE_OK ? cases[i].cid : before);
    }
}

static void hazard_c9_save_load_save_is_the_same(void **state) {
    struct fixture *fixture = *state;
    uint8_t first[256];
    uint8_t second[256];
    give_rx(fixture, 8, 4096);
    close(client_connect(fixture, VSOCK_HOST_PORT_MIN));
    settle(fixture);
    size_t size = save_to(fixture->vsock, first, sizeof(first));
    virtio_vsock_deinit(fixture->vsock);
    make(fixture);
    assert_int_equal(load_from(fixture->vsock, first, size, NULL), KELPIE_OK);
    assert_int_equal(save_to(fixture->vsock, second, sizeof(second)), size);
    assert_memory_equal(first, second, size);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(hazard_a9_size_beyond_the_packet),
        TEST(hazard_a9_packet_without_a_whole_header),
        TEST(hazard_a9_guest_beyond_its_credit_is_reset),
        TEST(hazard_a9_credit_does_not_underflow),
        TEST(hazard_a9_counters_wrap),
        TEST(hazard_a9_buffer_size_of_the_peer_is_only_a_bound),
        TEST(hazard_a13_receive_goes_on_after_starvation),
        TEST(hazard_a13_slow_host_stops_its_connection_alone),
        TEST(hazard_a1_flood_of_unknown_packets_is_bounded),
        TEST(hazard_a1_flood_of_connections_is_bounded),
        TEST(hazard_a1_run_is_bounded),
        TEST(hazard_c6_restore_resets_the_transport),
        TEST(hazard_c6_event_waits_for_its_buffer),
        TEST(hazard_c6_host_ports_are_not_reused_soon),
        TEST(hazard_b1_saved_values_are_checked),
        TEST(hazard_c9_save_load_save_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
