/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's TCP sockets, each test over IPv4 and over IPv6. */
#include "host/host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define SHORT_MS 50
#define LONG_MS 20000
#define LATE_MS 5000
#define BULK_SIZE (16 << 20) /* bytes: more than the buffers of both ends hold */
#define PIECE_SIZE 60007     /* bytes that a reader asks for */
#define CLIENT_COUNT_MAX 8

struct fixture {
    struct host *host;
    const char *address;
    uint16_t port;
    int listener;
    int client;
    int server;
};

/* A test's first state is its address. */
static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->address = *state;
    fixture->listener = fixture->client = fixture->server = HOST_FD_NONE;
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    host_close(fixture->host, fixture->listener);
    host_close(fixture->host, fixture->client);
    host_close(fixture->host, fixture->server);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static uint64_t elapsed_ms(struct host *host, uint64_t since_ns) {
    return (host_monotonic_ns(host) - since_ns) / HOST_NS_PER_MS;
}

/* Listens at the test's address. Machines without IPv6 skip its tests. */
static void listen_here(struct fixture *fixture) {
    struct kelpie_error err = {0};
    enum kelpie_status status = host_socket_listen_tcp(fixture->host, fixture->address, 0,
                                                       &fixture->listener, &fixture->port, &err);
    if (status != KELPIE_OK && (err.os_error == EAFNOSUPPORT || err.os_error == EADDRNOTAVAIL) &&
        strchr(fixture->address, ':')) {
        printf("no IPv6 on this machine: %s\n", err.message);
        skip();
    }
    assert_int_equal(status, KELPIE_OK);
    assert_int_not_equal(fixture->port, 0);
}

static void connect_here(struct fixture *fixture) {
    struct host_wait wait = host_wait_ms(fixture->host, LONG_MS, HOST_FD_NONE);
    listen_here(fixture);
    assert_int_equal(host_socket_connect_tcp(fixture->host, fixture->address, fixture->port, &wait,
                                             &fixture->client, NULL),
                     KELPIE_OK);
    assert_int_equal(
        host_socket_accept(fixture->host, fixture->listener, &wait, &fixture->server, NULL),
        KELPIE_OK);
}

static void assert_small_writes_go_at_once(int fd) {
    int on = 0;
    socklen_t size = sizeof(on);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
    assert_int_not_equal(on, 0);
}

static void listen_connect_accept(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    listen_here(fixture);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_socket_accept(host, fixture->listener, &wait, &fixture->server, &err),
                     KELPIE_TIMED_OUT);
    wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_socket_connect_tcp(host, fixture->address, fixture->port, &wait,
                                             &fixture->client, &err),
                     KELPIE_OK);
    struct host_poll_item item = {.fd = fixture->listener, .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(host, &item, 1, &wait, &err), KELPIE_OK);
    assert_int_equal(item.ready, HOST_POLL_READ);
    assert_int_equal(host_socket_accept(host, fixture->listener, &wait, &fixture->server, &err),
                     KELPIE_OK);
    char text[8] = {0};
    size_t count = 0;
    assert_int_equal(host_write_all(host, fixture->client, "hello", 5, &wait, &err), KELPIE_OK);
    assert_int_equal(host_read(host, fixture->server, text, sizeof(text), &wait, &count, &err),
                     KELPIE_OK);
    assert_string_equal(text, "hello");
    host_close(host, fixture->client);
    fixture->client = HOST_FD_NONE;
    assert_int_equal(host_read(host, fixture->server, text, sizeof(text), &wait, &count, &err),
                     KELPIE_OK);
    assert_int_equal(count, 0);
}

static void sockets_are_private_and_prompt(void **state) {
    struct fixture *fixture = *state;
    connect_here(fixture);
    assert_true(fcntl(fixture->listener, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fixture->client, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fixture->server, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fixture->listener, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fixture->client, F_GETFL) & O_NONBLOCK);
    assert_small_writes_go_at_once(fixture->client);
    assert_small_writes_go_at_once(fixture->server);
}

static void nobody_there_is_a_refusal(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    listen_here(fixture);
    host_close(host, fixture->listener);
    fixture->listener = HOST_FD_NONE;
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    uint64_t start_ns = host_monotonic_ns(host);
    assert_int_equal(host_socket_connect_tcp(host, fixture->address, fixture->port, &wait,
                                             &fixture->client, &err),
                     KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ECONNREFUSED);
    assert_non_null(strstr(err.message, fixture->address));
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    assert_int_equal(fixture->client, HOST_FD_NONE);
}

/* A taken port is refused; a listener that ended can come back to its port, though a connection of its lives on. */
static void a_port_is_one_listeners(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    int second = HOST_FD_NONE;
    uint16_t port = 0;
    connect_here(fixture);
    assert_int_equal(
        host_socket_listen_tcp(host, fixture->address, fixture->port, &second, &port, &err),
        KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EADDRINUSE);
    assert_int_equal(second, HOST_FD_NONE);
    host_close(host, fixture->listener);
    fixture->listener = HOST_FD_NONE;
    assert_int_equal(host_socket_listen_tcp(host, fixture->address, fixture->port,
                                            &fixture->listener, &port, &err),
                     KELPIE_OK);
    assert_int_equal(port, fixture->port);
}

/* A listener of ours with no room for connections, which the host's listener would have. */
static void listen_without_backlog(struct fixture *fixture) {
    listen_here(fixture);
    assert_int_equal(listen(fixture->listener, 0), 0);
}

/* Connects until nobody answers, which is what a full backlog does. Returns how many were answered. */
static int fill_backlog(struct fixture *fixture, int clients[CLIENT_COUNT_MAX]) {
    struct host *host = fixture->host;
    for (int i = 0; i < CLIENT_COUNT_MAX; i++) {
        uint64_t start_ns = host_monotonic_ns(host);
        struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
        enum kelpie_status status = host_socket_connect_tcp(host, fixture->address, fixture->port,
                                                            &wait, &clients[i], NULL);
        if (status != KELPIE_OK) {
            assert_int_equal(status, KELPIE_TIMED_OUT);
            assert_true(elapsed_ms(host, start_ns) >= SHORT_MS);
            assert_true(elapsed_ms(host, start_ns) < LATE_MS);
            return i;
        }
    }
    fail_msg("the backlog was never full");
    return 0;
}

static void set_later(void *argument) {
    struct host_fd *event = argument;
    struct host_wait pause = host_wait_ms(event->host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(event->host, &pause, NULL), KELPIE_OK);
    host_event_set(event->host, event->fd);
}

static void connect_waits_no_longer_than_told(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    int clients[CLIENT_COUNT_MAX];
    listen_without_backlog(fixture);
    int count = fill_backlog(fixture, clients);

    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    struct host_thread *thread = NULL;
    assert_int_equal(host_event_create(host, &event.fd, NULL), KELPIE_OK);
    assert_int_equal(host_thread_start(host, "later", set_later, &event, &thread, NULL), KELPIE_OK);
    uint64_t start_ns = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, LONG_MS, event.fd);
    assert_int_equal(host_socket_connect_tcp(host, fixture->address, fixture->port, &wait,
                                             &fixture->client, &err),
                     KELPIE_CANCELLED);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    assert_int_equal(fixture->client, HOST_FD_NONE);
    host_thread_join(thread);
    for (int i = 0; i < count; i++) {
        host_close(host, clients[i]);
    }
}

/* A peer that closes with our bytes unread resets the connection: to a reader that is its end, to a writer an error that
 * is no signal. */
static void a_reset_is_an_end(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    char byte = 0;
    size_t count = 0;
    connect_here(fixture);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fixture->client, "unread", 6, &wait, NULL), KELPIE_OK);
    struct host_poll_item item = {.fd = fixture->server, .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_OK);
    host_close(host, fixture->server);
    fixture->server = HOST_FD_NONE;
    count = 99;
    assert_int_equal(host_read(host, fixture->client, &byte, 1, &wait, &count, &err), KELPIE_OK);
    assert_int_equal(count, 0);
    assert_int_equal(host_write(host, fixture->client, "x", 1, &wait, &count, &err),
                     KELPIE_IO_FAILED);
    assert_true(err.os_error == EPIPE || err.os_error == ECONNRESET);
}

/* The waits of reading and writing hold for these sockets too. */
static void reading_and_writing_wait_no_longer_than_told(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char *data = calloc(1, BULK_SIZE);
    size_t count = 99;
    assert_non_null(data);
    connect_here(fixture);
    uint64_t start_ns = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_read(host, fixture->client, data, 1, &wait, &count, NULL),
                     KELPIE_TIMED_OUT);
    assert_int_equal(count, 99);
    wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fixture->client, data, BULK_SIZE, &wait, NULL),
                     KELPIE_TIMED_OUT);
    assert_true(elapsed_ms(host, start_ns) >= 2 * SHORT_MS);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    free(data);
}

/* What one end writes, and what it reads of the other. */
struct bulk {
    struct host *host;
    int fd;
    uint8_t seed;
    uint8_t peer_seed;
    size_t wrong_count; /* bytes that are not the peer's */
    size_t size;
};

static uint8_t bulk_byte(uint8_t seed, size_t index) {
    return (uint8_t)(index * 7 + (index >> 9) + seed);
}

static void read_bulk(void *argument) {
    struct bulk *bulk = argument;
    struct host_wait wait = host_wait_ms(bulk->host, LONG_MS, HOST_FD_NONE);
    uint8_t *piece = malloc(PIECE_SIZE);
    assert_non_null(piece);
    size_t count = 1;
    while (count > 0 && bulk->size < BULK_SIZE) {
        assert_int_equal(host_read(bulk->host, bulk->fd, piece, PIECE_SIZE, &wait, &count, NULL),
                         KELPIE_OK);
        for (size_t i = 0; i < count; i++) {
            bulk->wrong_count += piece[i] != bulk_byte(bulk->peer_seed, bulk->size + i);
        }
        bulk->size += count;
    }
    free(piece);
}

static void write_bulk(void *argument) {
    struct bulk *bulk = argument;
    struct host_wait wait = host_wait_ms(bulk->host, LONG_MS, HOST_FD_NONE);
    uint8_t *data = malloc(BULK_SIZE);
    assert_non_null(data);
    for (size_t i = 0; i < BULK_SIZE; i++) {
        data[i] = bulk_byte(bulk->seed, i);
    }
    assert_int_equal(host_write_all(bulk->host, bulk->fd, data, BULK_SIZE, &wait, NULL), KELPIE_OK);
    free(data);
}

static void much_goes_both_ways_at_once(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    connect_here(fixture);
    struct bulk ends[2] = {
        {.host = host, .fd = fixture->client, .seed = 1, .peer_seed = 2},
        {.host = host, .fd = fixture->server, .seed = 2, .peer_seed = 1},
    };
    struct host_thread *threads[4] = {NULL};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(host_thread_start(host, "read", read_bulk, &ends[i], &threads[i], NULL),
                         KELPIE_OK);
        assert_int_equal(
            host_thread_start(host, "write", write_bulk, &ends[i], &threads[2 + i], NULL),
            KELPIE_OK);
    }
    for (size_t i = 0; i < 4; i++) {
        host_thread_join(threads[i]);
    }
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ends[i].size, BULK_SIZE);
        assert_int_equal(ends[i].wrong_count, 0);
    }
}

/* ---- Addresses -------------------------------------------------------------------------------- */

static void only_numbers_are_addresses(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    const char *const wrong[] = {"",      "localhost", "127.1",     "127.0.0.1 ",
                                 "[::1]", "::1%lo",    "1.2.3.4:5", "300.0.0.1"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct kelpie_error err = {0};
        struct host_wait wait = host_wait_none();
        int fd = HOST_FD_NONE;
        uint16_t port = 0;
        assert_int_equal(host_socket_listen_tcp(host, wrong[i], 0, &fd, &port, &err),
                         KELPIE_BAD_CONFIG);
        assert_non_null(strstr(err.message, wrong[i]));
        assert_int_equal(host_socket_connect_tcp(host, wrong[i], 1, &wait, &fd, &err),
                         KELPIE_BAD_CONFIG);
        assert_int_equal(fd, HOST_FD_NONE);
    }
    struct host_wait wait = host_wait_none();
    assert_int_equal(
        host_socket_connect_tcp(host, fixture->address, 0, &wait, &fixture->client, NULL),
        KELPIE_BAD_CONFIG);
}

static void an_address_elsewhere_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    uint16_t port = 0;
    /* TEST-NET-1 of RFC 5737: nobody's. */
    assert_int_equal(
        host_socket_listen_tcp(fixture->host, "192.0.2.1", 0, &fixture->listener, &port, &err),
        KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EADDRNOTAVAIL);
    assert_int_equal(port, 0);
}

/* "::" is not the IPv4 addresses as well. */
static void any_ipv6_address_is_not_ipv4(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct kelpie_error err = {0};
    fixture->address = "::";
    listen_here(fixture);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(
        host_socket_connect_tcp(host, "127.0.0.1", fixture->port, &wait, &fixture->client, &err),
        KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ECONNREFUSED);
}

static char ipv4[] = "127.0.0.1";
static char ipv6[] = "::1";
#define OVER(suffix, function, address)                                                            \
    { #function suffix, function, setup, teardown, address }
#define OVER_BOTH(function) OVER("_v4", function, ipv4), OVER("_v6", function, ipv6)

int main(void) {
    const struct CMUnitTest tests[] = {
        OVER_BOTH(listen_connect_accept),
        OVER_BOTH(sockets_are_private_and_prompt),
        OVER_BOTH(nobody_there_is_a_refusal),
        OVER_BOTH(a_port_is_one_listeners),
        OVER_BOTH(connect_waits_no_longer_than_told),
        OVER_BOTH(a_reset_is_an_end),
        OVER_BOTH(reading_and_writing_wait_no_longer_than_told),
        OVER_BOTH(much_goes_both_ways_at_once),
        OVER("", only_numbers_are_addresses, ipv4),
        OVER("", an_address_elsewhere_is_refused, ipv4),
        OVER("", any_ipv6_address_is_not_ipv4, ipv6),
    };
    return cmocka_run_group_tests_name("host_linux_tcp", tests, NULL, NULL);
}
