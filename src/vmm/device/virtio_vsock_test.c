/* SPDX-License-Identifier: Apache-2.0 OR MIT */
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

/* ---- The device --------------------------------------------------------------------------------- */

static void config_has_the_cid(void **state) {
    struct fixture *fixture = *state;
    uint64_t cid = 0;
    uint8_t tail[8];
    const struct virtio_ops *ops = fixture->vsock->device.ops;
    ops->config_read(&fixture->vsock->device, 0, &cid, 8);
    assert_int_equal(cid, VSOCK_GUEST_CID);
    memset(tail, 0xff, sizeof(tail));
    ops->config_read(&fixture->vsock->device, 6, tail, 4); /* hazard A3: over the end */
    assert_memory_equal(tail, "\0\0\0\0\xff\xff\xff\xff", 8);
    ops->config_read(&fixture->vsock->device, UINT64_MAX - 1, tail, 8);
    assert_memory_equal(tail, "\0\0\0\0\0\0\0\0", 8);
    ops->config_write(&fixture->vsock->device, 0, tail, 8);
    ops->config_read(&fixture->vsock->device, 0, &cid, 8);
    assert_int_equal(cid, VSOCK_GUEST_CID);
}

static void reserved_cids_are_refused(void **state) {
    struct fixture *fixture = *state;
    const uint64_t cids[] = {0, 1, 2, 0xffffffff, 0x100000007};
    for (size_t i = 0; i < sizeof(cids) / sizeof(cids[0]); i++) {
        struct kelpie_error err;
        struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
        struct virtio_vsock_config config = {
            .memory = &fixture->guest.memory,
            .io = &fixture->io,
            .irq = {.trigger = vsock_guest_interrupt, .context = &fixture->guest},
            .guest_cid = cids[i],
            .listen_fd = -1};
        assert_non_null(vsock);
        assert_int_equal(virtio_vsock_init(vsock, &config, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "guest_cid");
        virtio_vsock_deinit(vsock);
        free(vsock);
    }
}

static void ports_are_bounded(void **state) {
    struct fixture *fixture = *state;
    for (uint32_t port = 1; port < VSOCK_PORT_COUNT_MAX; port++) {
        assert_int_equal(virtio_vsock_port_add(fixture->vsock, port, fixture->prepared, NULL),
                         KELPIE_OK);
    }
    assert_int_equal(virtio_vsock_port_add(fixture->vsock, 4000, fixture->prepared, NULL),
                     KELPIE_NO_SPACE);
}

/* ---- The prepared port -------------------------------------------------------------------------- */

static void bytes_flow_over_a_prepared_port(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    send_bytes(fixture->channel, "early", 5); /* waits in the socket */
    settle(fixture);
    hear_nothing(fixture);
    connect_guest(fixture, 5000);
    hear_data(fixture, "early", 5);
    struct vsock_packet data = vsock_guest_packet(VSOCK_OP_RW, 5000, PORT);
    data.forwarded = 5;
    say(fixture, data, "hello host", 10);
    expect_bytes(fixture->channel, "hello host", 10);
    int interrupts = fixture->guest.interrupts;
    assert_true(virtio_vsock_quiet(fixture->vsock));
    send_bytes(fixture->channel, "hello guest", 11);
    assert_false(virtio_vsock_quiet(fixture->vsock)); /* before the loop has heard of them */
    settle(fixture);
    hear_data(fixture, "hello guest", 11);
    assert_int_equal(fixture->guest.interrupts, interrupts + 1);
    hear_nothing(fixture);
    assert_true(virtio_vsock_quiet(fixture->vsock));
}

static void later_connection_takes_the_port_over(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    say_op(fixture, VSOCK_OP_REQUEST, 5001, PORT);
    bool reset = false;
    bool answered = false;
    for (int i = 0; i < 2; i++) {
        struct vsock_packet packet = {0};
        const uint8_t *data = NULL;
        assert_true(vsock_guest_get(&fixture->guest, &packet, &data));
        reset = reset || (packet.op == VSOCK_OP_RST && packet.dst_port == 5000);
        answered = answered || (packet.op == VSOCK_OP_RESPONSE && packet.dst_port == 5001);
    }
    assert_true(reset);
    assert_true(answered);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 5001, PORT), "new", 3);
    expect_bytes(fixture->channel, "new", 3);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 5000, PORT), "old", 3);
    hear(fixture, VSOCK_OP_RST, 5000, PORT);
    expect_silence(fixture->channel);
    send_bytes(fixture->channel, "x", 1);
    settle(fixture);
    hear_data(fixture, "x", 1);
}

static void prepared_descriptor_outlives_connections(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 12, 4096);
    for (uint32_t port = 5000; port < 5003; port++) {
        connect_guest(fixture, port);
        struct vsock_packet end = vsock_guest_packet(VSOCK_OP_SHUTDOWN, port, PORT);
        end.flags = VSOCK_SHUTDOWN_BOTH;
        say(fixture, end, NULL, 0);
        hear(fixture, VSOCK_OP_RST, port, PORT);
        expect_silence(fixture->channel);
    }
    connect_guest(fixture, 6000);
    say_op(fixture, VSOCK_OP_RST, 6000, PORT);
    hear_nothing(fixture);
    connect_guest(fixture, 6001);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 6001, PORT), "alive", 5);
    expect_bytes(fixture->channel, "alive", 5);
}

static void closed_host_end_ends_the_connection_behind_its_bytes(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    send_bytes(fixture->channel, "last", 4);
    close(fixture->channel);
    settle(fixture);
    hear_data(fixture, "last", 4);
    assert_int_equal(hear(fixture, VSOCK_OP_SHUTDOWN, 5000, PORT).flags, VSOCK_SHUTDOWN_BOTH);
    say_op(fixture, VSOCK_OP_RST, 5000, PORT);
    say_op(fixture, VSOCK_OP_REQUEST, 5001, PORT); /* there is nobody to connect to */
    hear(fixture, VSOCK_OP_RST, 5001, PORT);
    fixture->channel = dup(fixture->prepared);
}

static void unknown_packets_get_rst(void **state) {
    struct fixture *fixture = *state;
    const enum vsock_op ops[] = {VSOCK_OP_INVALID,        VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE,
                                 VSOCK_OP_SHUTDOWN,       VSOCK_OP_RW,      VSOCK_OP_CREDIT_UPDATE,
                                 VSOCK_OP_CREDIT_REQUEST, (enum vsock_op)99};
    give_rx(fixture, 12, VSOCK_HEADER_SIZE);
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        say_op(fixture, ops[i], 5000, 99);
        hear(fixture, VSOCK_OP_RST, 5000, 99);
    }
    say_op(fixture, VSOCK_OP_RST, 5000, 99);
    say_op(fixture, VSOCK_OP_RST, 5000, 0);
    hear_nothing(fixture);
    say_op(fixture, VSOCK_OP_RW, 0, 0);
    hear(fixture, VSOCK_OP_RST, 0, 0);
}

static void other_socket_types_get_rst(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    struct vsock_packet packet = vsock_guest_packet(VSOCK_OP_REQUEST, 5000, PORT);
    packet.type = 2; /* seqpacket */
    say(fixture, packet, NULL, 0);
    struct vsock_packet answer;
    const uint8_t *data = NULL;
    assert_true(vsock_guest_get(&fixture->guest, &answer, &data));
    assert_int_equal(answer.op, VSOCK_OP_RST);
    assert_int_equal(answer.type, 2); /* or the guest would not know whom it is for */
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, 5000, PORT), "still", 5);
    expect_bytes(fixture->channel, "still", 5);
}

static void packets_to_other_machines_get_rst_and_forged_ones_nothing(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    struct vsock_packet packet = vsock_guest_packet(VSOCK_OP_REQUEST, 5000, PORT);
    packet.dst_cid = 9;
    say(fixture, packet, NULL, 0);
    struct vsock_packet answer;
    const uint8_t *data = NULL;
    assert_true(vsock_guest_get(&fixture->guest, &answer, &data));
    assert_int_equal(answer.op, VSOCK_OP_RST);
    assert_int_equal(answer.src_cid, 9);
    packet = vsock_guest_packet(VSOCK_OP_REQUEST, 5000, PORT);
    packet.src_cid = 8;
    say(fixture, packet, NULL, 0);
    hear_nothing(fixture);
}

static void requests_out_of_place_reset(void **state) {
    struct fixture *fixture = *state;
    const enum vsock_op ops[] = {VSOCK_OP_INVALID, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE,
                                 (enum vsock_op)8, (enum vsock_op)0xffff};
    give_rx(fixture, 16, 4096);
    for (uint32_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        connect_guest(fixture, 5000 + i);
        say_op(fixture, ops[i], 5000 + i, PORT);
        hear(fixture, VSOCK_OP_RST, 5000 + i, PORT);
    }
    hear_nothing(fixture);
}

/* ---- Clients of the listening socket ------------------------------------------------------------ */

static void client_connects_to_the_guest(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    int fd = client_connect(fixture, VSOCK_HOST_PORT_MIN);
    send_bytes(fd, "question", 8);
    settle(fixture);
    hear_data(fixture, "question", 8);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, SERVICE, VSOCK_HOST_PORT_MIN), "answer", 6);
    expect_bytes(fd, "answer", 6);
    close(fd);
    settle(fixture);
    assert_int_equal(hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, VSOCK_HOST_PORT_MIN).flags,
                     VSOCK_SHUTDOWN_BOTH);
    assert_true(virtio_vsock_quiet(fixture->vsock));
    assert_int_equal(fixture->vsock->connection_limit, 0); /* nothing is kept of it */
}

static void slow_client_and_early_bytes_are_fine(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    int fd = client_open(fixture);
    const char *line = "connect 52\nearly";
    for (size_t i = 0; line[i] != '\n'; i++) {
        send_bytes(fd, line + i, 1);
        settle(fixture);
        hear_nothing(fixture);
    }
    client_say(fixture, fd, strchr(line, '\n'));
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, VSOCK_HOST_PORT_MIN);
    hear_nothing(fixture); /* not before it is accepted */
    say_op(fixture, VSOCK_OP_RESPONSE, SERVICE, VSOCK_HOST_PORT_MIN);
    hear_data(fixture, "early", 5);
    close(fd);
}

static void bad_lines_close_the_client(void **state) {
    struct fixture *fixture = *state;
    const char *lines[] = {"\n",
                           "CONNECT\n",
                           "CONNECT \n",
                           "CONNECT 5x\n",
                           "CONNECT -5\n",
                           "CONNECT 4294967295\n",
                           "CONNECT 99999999999999999999\n",
                           "GET / HTTP/1.1\n",
                           "CONNECT 000000000000000000000000000052\n"};
    give_rx(fixture, 8, 4096);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        int fd = client_open(fixture);
        client_say(fixture, fd, lines[i]);
        hear_nothing(fixture);
        char byte = 0; /* an end, or a reset when bytes were left */
        ssize_t count = recv(fd, &byte, 1, MSG_DONTWAIT);
        assert_true(count == 0 || (count < 0 && errno == ECONNRESET));
        close(fd);
    }
}

static void refused_client_is_closed(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    int fd = client_open(fixture);
    client_say(fixture, fd, "CONNECT 52\n");
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, VSOCK_HOST_PORT_MIN);
    say_op(fixture, VSOCK_OP_RST, SERVICE, VSOCK_HOST_PORT_MIN);
    expect_end(fd);
    hear_nothing(fixture);
    close(fd);
}

static void client_that_leaves_early_is_reset(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    int fd = client_open(fixture);
    client_say(fixture, fd, "CONNECT 52\n");
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, VSOCK_HOST_PORT_MIN);
    close(fd);
    settle(fixture);
    hear(fixture, VSOCK_OP_RST, SERVICE, VSOCK_HOST_PORT_MIN);
    say_op(fixture, VSOCK_OP_RESPONSE, SERVICE, VSOCK_HOST_PORT_MIN);
    hear(fixture, VSOCK_OP_RST, SERVICE, VSOCK_HOST_PORT_MIN);
}

static void halves_shut_down_one_by_one(void **state) {
    struct fixture *fixture = *state;
    const uint32_t host_port = VSOCK_HOST_PORT_MIN;
    give_rx(fixture, 8, 4096);
    int fd = client_connect(fixture, host_port);
    send_bytes(fd, "end", 3);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    settle(fixture);
    hear_data(fixture, "end", 3);
    assert_int_equal(hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, host_port).flags,
                     VSOCK_SHUTDOWN_SEND);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, SERVICE, host_port), "reply", 5);
    expect_bytes(fd, "reply", 5);
    struct vsock_packet end = vsock_guest_packet(VSOCK_OP_SHUTDOWN, SERVICE, host_port);
    end.flags = VSOCK_SHUTDOWN_SEND;
    say(fixture, end, NULL, 0);
    expect_end(fd);
    /* Neither half is left. */
    assert_int_equal(hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, host_port).flags,
                     VSOCK_SHUTDOWN_BOTH);
    close(fd);
}

static void guest_that_receives_no_more_is_sent_no_more(void **state) {
    struct fixture *fixture = *state;
    const uint32_t host_port = VSOCK_HOST_PORT_MIN;
    give_rx(fixture, 8, 4096);
    int fd = client_connect(fixture, host_port);
    struct vsock_packet end = vsock_guest_packet(VSOCK_OP_SHUTDOWN, SERVICE, host_port);
    end.flags = VSOCK_SHUTDOWN_RECEIVE;
    say(fixture, end, NULL, 0);
    assert_int_equal(send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL), -1);
    say(fixture, vsock_guest_packet(VSOCK_OP_RW, SERVICE, host_port), "more", 4);
    expect_bytes(fd, "more", 4);
    hear_nothing(fixture);
    close(fd);
    settle(fixture);
    assert_int_equal(hear(fixture, VSOCK_OP_SHUTDOWN, SERVICE, host_port).flags,
                     VSOCK_SHUTDOWN_BOTH);
}

static void clients_wait_until_there_is_a_driver(void **state) {
    struct fixture *fixture = *state;
    virtio_vsock_deinit(fixture->vsock);
    make(fixture);
    int fd = client_open(fixture);
    client_say(fixture, fd, "CONNECT 52\n");
    expect_silence(fd);
    activate(fixture);
    settle(fixture);
    give_rx(fixture, 4, 4096);
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, VSOCK_HOST_PORT_MIN);
    close(fd);
}

static void silent_clients_make_room_for_others(void **state) {
    struct fixture *fixture = *state;
    int fds[VSOCK_CLIENT_COUNT_MAX];
    for (size_t i = 0; i < VSOCK_CLIENT_COUNT_MAX; i++) {
        fds[i] = client_open(fixture);
    }
    give_rx(fixture, 4, 4096);
    expect_silence(fds[0]);
    int fd = client_open(fixture);
    expect_end(fds[0]);
    expect_silence(fds[1]);
    client_say(fixture, fd, "CONNECT 52\n");
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, VSOCK_HOST_PORT_MIN);
    for (size_t i = 0; i < VSOCK_CLIENT_COUNT_MAX; i++) {
        close(fds[i]);
    }
    close(fd);
    settle(fixture);
}

static void reset_of_the_device_closes_everything(void **state) {
    struct fixture *fixture = *state;
    give_rx(fixture, 8, 4096);
    int fd = client_connect(fixture, VSOCK_HOST_PORT_MIN);
    int silent = client_open(fixture);
    connect_guest(fixture, 5000);
    virtio_device_reset(&fixture->vsock->device);
    settle(fixture);
    expect_end(fd);
    expect_end(silent);
    expect_silence(fixture->channel);
    activate(fixture);
    give_rx(fixture, 8, 4096);
    connect_guest(fixture, 5000);
    close(fd);
    close(silent);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(config_has_the_cid),
        TEST(reserved_cids_are_refused),
        TEST(ports_are_bounded),
        TEST(bytes_flow_over_a_prepared_port),
        TEST(later_connection_takes_the_port_over),
        TEST(prepared_descriptor_outlives_connections),
        TEST(closed_host_end_ends_the_connection_behind_its_bytes),
        TEST(unknown_packets_get_rst),
        TEST(other_socket_types_get_rst),
        TEST(packets_to_other_machines_get_rst_and_forged_ones_nothing),
        TEST(requests_out_of_place_reset),
        TEST(client_connects_to_the_guest),
        TEST(slow_client_and_early_bytes_are_fine),
        TEST(bad_lines_close_the_client),
        TEST(refused_client_is_closed),
        TEST(client_that_leaves_early_is_reset),
        TEST(halves_shut_down_one_by_one),
        TEST(guest_that_receives_no_more_is_sent_no_more),
        TEST(clients_wait_until_there_is_a_driver),
        TEST(silent_clients_make_room_for_others),
        TEST(reset_of_the_device_closes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
