/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The socket device between a guest over fake memory (vsock_guest.h) and real sockets: for its tests. */
#ifndef KELPIE_TESTS_SUPPORT_VSOCK_FIXTURE_H
#define KELPIE_TESTS_SUPPORT_VSOCK_FIXTURE_H

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

#include "support/vsock_guest.h"

#define PORT 1024u  /* prepared */
#define SERVICE 52u /* a port of the guest */
#define TURNS_MAX 10000
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

struct fixture {
    struct io io;
    struct virtio_vsock *vsock;
    struct vsock_guest guest;
    int channel; /* the host's end of port PORT */
    int prepared;
    int listen_fd;
    char path[64];
    char folder[32];
    uint8_t bytes[VSOCK_BUFFER_SIZE + 64];
};

static inline void pair(int *ret_ours, int *ret_theirs) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    *ret_ours = fds[0];
    *ret_theirs = fds[1];
}

static inline void make(struct fixture *fixture) {
    struct virtio_vsock_config config = {
        .memory = &fixture->guest.memory,
        .io = &fixture->io,
        .irq = {.trigger = vsock_guest_interrupt, .context = &fixture->guest},
        .guest_cid = VSOCK_GUEST_CID,
        .listen_fd = fixture->listen_fd};
    assert_int_equal(virtio_vsock_init(fixture->vsock, &config, NULL), KELPIE_OK);
    assert_int_equal(virtio_vsock_port_add(fixture->vsock, PORT, fixture->prepared, NULL),
                     KELPIE_OK);
}

static inline void activate(struct fixture *fixture) {
    vsock_guest_enable(&fixture->guest);
    fixture->vsock->device.ops->activate(&fixture->vsock->device);
}

static inline int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(io_init(&fixture->io, NULL), KELPIE_OK);
    fixture->vsock = calloc(1, sizeof(*fixture->vsock));
    fixture->guest.bytes = calloc(1, VSOCK_GUEST_MEMORY_SIZE);
    assert_non_null(fixture->vsock);
    assert_non_null(fixture->guest.bytes);
    memory_init(&fixture->guest.memory, fixture->guest.bytes, VSOCK_GUEST_MEMORY_SIZE);
    fixture->guest.vsock = fixture->vsock;
    pair(&fixture->channel, &fixture->prepared);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-vsock-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->path, sizeof(fixture->path), "%s/socket", fixture->folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", fixture->path);
    fixture->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fixture->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fixture->listen_fd, 64), 0);
    for (size_t i = 0; i < sizeof(fixture->bytes); i++) {
        fixture->bytes[i] = (uint8_t)(i * 167 + (i >> 8));
    }
    make(fixture);
    activate(fixture);
    *state = fixture;
    return 0;
}

static inline int teardown(void **state) {
    struct fixture *fixture = *state;
    virtio_vsock_deinit(fixture->vsock);
    io_deinit(&fixture->io);
    unlink(fixture->path);
    rmdir(fixture->folder);
    close(fixture->listen_fd);
    close(fixture->channel);
    close(fixture->prepared);
    free(fixture->guest.bytes);
    free(fixture->vsock);
    free(fixture);
    return 0;
}

/* The loop until nothing happens. More turns than any of these tests needs: it spins. */
static inline void settle(struct fixture *fixture) {
    int turns = 0;
    while (io_turn(&fixture->io, 0) > 0) {
        assert_true(++turns < TURNS_MAX);
    }
}

static inline void give_rx(struct fixture *fixture, uint32_t count, uint32_t size) {
    for (uint32_t i = 0; i < count; i++) {
        assert_true(vsock_guest_offer(&fixture->guest, 0, size, true));
    }
    vsock_guest_kick(&fixture->guest, 0);
    settle(fixture);
}

static inline void say(struct fixture *fixture, struct vsock_packet packet, const void *data,
                       uint32_t size) {
    packet.size = size;
    assert_true(vsock_guest_put(&fixture->guest, &packet, data, size));
    vsock_guest_kick(&fixture->guest, 1);
    settle(fixture);
}

static inline void say_op(struct fixture *fixture, enum vsock_op op, uint32_t guest_port,
                          uint32_t host_port) {
    say(fixture, vsock_guest_packet(op, guest_port, host_port), NULL, 0);
}

/* The next packet to the guest is `op`, of the connection. */
static inline struct vsock_packet hear(struct fixture *fixture, enum vsock_op op,
                                       uint32_t guest_port, uint32_t host_port) {
    struct vsock_packet packet;
    const uint8_t *data = NULL;
    assert_true(vsock_guest_get(&fixture->guest, &packet, &data));
    assert_int_equal(packet.op, op);
    assert_int_equal(packet.src_cid, VSOCK_CID_HOST);
    assert_int_equal(packet.dst_cid, VSOCK_GUEST_CID);
    assert_int_equal(packet.src_port, host_port);
    assert_int_equal(packet.dst_port, guest_port);
    assert_int_equal(packet.type, VSOCK_TYPE_STREAM);
    return packet;
}

static inline void hear_data(struct fixture *fixture, const void *expected, uint32_t size) {
    struct vsock_packet packet;
    const uint8_t *data = NULL;
    assert_true(vsock_guest_get(&fixture->guest, &packet, &data));
    assert_int_equal(packet.op, VSOCK_OP_RW);
    assert_int_equal(packet.size, size);
    assert_memory_equal(data, expected, size);
}

static inline void hear_nothing(struct fixture *fixture) {
    struct vsock_packet packet;
    const uint8_t *data = NULL;
    assert_false(vsock_guest_get(&fixture->guest, &packet, &data));
}

static inline void expect_bytes(int fd, const void *expected, size_t size) {
    uint8_t *bytes = malloc(size);
    size_t used = 0;
    assert_non_null(bytes);
    while (used < size) {
        ssize_t count = recv(fd, bytes + used, size - used, MSG_DONTWAIT);
        assert_true(count > 0);
        used += (size_t)count;
    }
    assert_memory_equal(bytes, expected, size);
    free(bytes);
}

static inline void expect_silence(int fd) {
    char byte = 0;
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

static inline void expect_end(int fd) {
    char byte = 0;
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

static inline void send_bytes(int fd, const void *bytes, size_t size) {
    assert_int_equal(send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL), size);
}

/* The guest connects from guest_port to the prepared port. */
static inline void connect_guest(struct fixture *fixture, uint32_t guest_port) {
    say_op(fixture, VSOCK_OP_REQUEST, guest_port, PORT);
    hear(fixture, VSOCK_OP_RESPONSE, guest_port, PORT);
}

static inline int client_open(struct fixture *fixture) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", fixture->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    settle(fixture);
    return fd;
}

static inline void client_say(struct fixture *fixture, int fd, const char *text) {
    send_bytes(fd, text, strlen(text));
    settle(fixture);
}

/* A client that is connected to SERVICE, at host_port. */
static inline int client_connect(struct fixture *fixture, uint32_t host_port) {
    char line[32];
    int fd = client_open(fixture);
    client_say(fixture, fd, "CONNECT 52\n");
    hear(fixture, VSOCK_OP_REQUEST, SERVICE, host_port);
    expect_silence(fd);
    say_op(fixture, VSOCK_OP_RESPONSE, SERVICE, host_port);
    int size = snprintf(line, sizeof(line), "OK %u\n", host_port);
    expect_bytes(fd, line, (size_t)size);
    return fd;
}

#endif
