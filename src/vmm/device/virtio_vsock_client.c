/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Clients of the listening socket, until they have said "CONNECT <port>\n" and become a connection. There is room for
 * VSOCK_CLIENT_COUNT_MAX: one more takes the place of the oldest, so that those who say nothing cannot keep
 * others out, and no clock is needed.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#include "vmm/device/virtio_vsock_internal.h"
#include "vmm/device/virtio_vsock_socket.h"

#define WORD "CONNECT "
#define PORT_NONE UINT32_MAX /* VMADDR_PORT_ANY: no port */

static void client_forget(struct vsock_client *client) {
    ASSERT(client);
    ASSERT(client->source.fd >= 0);
    io_remove(client->vsock->io, &client->source);
    client->source.fd = -1;
    client->line_size = 0;
}

static void client_close(struct vsock_client *client) {
    ASSERT(client);
    int fd = client->source.fd;
    client_forget(client);
    ASSERT(fd >= 0);
    vsock_socket_close(fd);
}

void vsock_client_init(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    for (size_t i = 0; i < VSOCK_CLIENT_COUNT_MAX; i++) {
        vsock->clients[i].source.fd = -1;
    }
    ASSERT(vsock->client_number == 0);
}

void vsock_client_close_all(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->io);
    for (size_t i = 0; i < VSOCK_CLIENT_COUNT_MAX; i++) {
        if (vsock->clients[i].source.fd >= 0) {
            client_close(&vsock->clients[i]);
        }
    }
}

uint32_t vsock_host_port_take(struct virtio_vsock *vsock) {
    ASSERT(vsock->next_host_port >= VSOCK_HOST_PORT_MIN);
    ASSERT(vsock->next_host_port <= VSOCK_HOST_PORT_MAX);
    for (uint32_t tries = 0; tries <= VSOCK_CONNECTION_COUNT_MAX; tries++) {
        uint32_t port = vsock->next_host_port;
        vsock->next_host_port = port == VSOCK_HOST_PORT_MAX ? VSOCK_HOST_PORT_MIN : port + 1;
        bool used = false;
        for (size_t i = 0; i < vsock->connection_limit; i++) {
            used = used || (uint32_t)vsock->keys[i] == port;
        }
        if (!used) {
            return port;
        }
    }
    UNREACHABLE(); /* there are more ports than connections */
}

/* False: the line is not what it has to be. */
static bool line_port(const struct vsock_client *client, uint32_t *ret_port) {
    const size_t word_size = sizeof(WORD) - 1;
    ASSERT(client->line_size > 0);
    ASSERT(client->line[client->line_size - 1] == '\n');
    if (client->line_size < word_size + 2 || strncasecmp(client->line, WORD, word_size) != 0) {
        return false;
    }
    uint64_t port = 0;
    for (size_t i = word_size; i < client->line_size - 1; i++) {
        char digit = client->line[i];
        if (digit < '0' || digit > '9') {
            return false;
        }
        port = port * 10 + (uint64_t)(digit - '0');
        if (port >= PORT_NONE) {
            return false;
        }
    }
    *ret_port = (uint32_t)port;
    return true;
}

static void client_connect(struct vsock_client *client) {
    struct virtio_vsock *vsock = client->vsock;
    uint32_t port = 0;
    ASSERT(vsock->device.active); /* there are no clients otherwise */
    if (!line_port(client, &port)) {
        client_close(client);
        return;
    }
    int fd = client->source.fd;
    ASSERT(fd >= 0);
    client_forget(client);
    struct vsock_connection *connection =
        vsock_connection_create(vsock, port, vsock_host_port_take(vsock), NULL, fd);
    if (!connection) {
        vsock_socket_close(fd);
        return;
    }
    vsock_connection_owe(connection, VSOCK_OP_REQUEST);
}

static void client_event(void *context, uint32_t events) {
    struct vsock_client *client = context;
    ASSERT(client);
    ASSERT(client->line_size < VSOCK_LINE_SIZE_MAX);
    struct virtio_vsock *vsock = client->vsock;
    ssize_t count = vsock_socket_receive_line(client->source.fd, client->line + client->line_size,
                                              VSOCK_LINE_SIZE_MAX - client->line_size);
    if (count == -EAGAIN && (events & (EPOLLHUP | EPOLLERR)) == 0) {
        return;
    }
    if (count <= 0) {
        client_close(client);
        return;
    }
    client->line_size += (size_t)count;
    ASSERT(client->line_size <= VSOCK_LINE_SIZE_MAX);
    if (client->line[client->line_size - 1] == '\n') {
        client_connect(client);
        vsock_run(vsock);
    } else if (client->line_size == VSOCK_LINE_SIZE_MAX) {
        client_close(client);
    }
}

/* A free place, or the oldest client's. */
static struct vsock_client *client_place(struct virtio_vsock *vsock) {
    struct vsock_client *oldest = NULL;
    for (size_t i = 0; i < VSOCK_CLIENT_COUNT_MAX; i++) {
        struct vsock_client *client = &vsock->clients[i];
        if (client->source.fd < 0) {
            return client;
        }
        if (!oldest || client->number < oldest->number) {
            oldest = client;
        }
    }
    ASSERT(oldest);
    client_close(oldest);
    ASSERT(oldest->source.fd < 0);
    return oldest;
}

void vsock_listener_event(void *context, uint32_t events) {
    struct virtio_vsock *vsock = context;
    ASSERT(vsock);
    ASSERT(vsock->listener.fd >= 0);
    (void)events;
    int fd = vsock_socket_accept(vsock->listener.fd);
    if (fd < 0) {
        /* Descriptors or memory are used up, and the loop would tell of the client again and again. */
        if (fd != -EAGAIN && fd != -ECONNABORTED) {
            io_change(vsock->io, &vsock->listener, 0);
            vsock->listener_paused = true;
        }
        return;
    }
    struct vsock_client *client = client_place(vsock);
    *client = (struct vsock_client){
        .vsock = vsock,
        .source = {.fd = fd, .handler = client_event, .context = client},
        .number = ++vsock->client_number,
    };
    if (io_add(vsock->io, &client->source, EPOLLIN, NULL) != KELPIE_OK) {
        client->source.fd = -1;
        vsock_socket_close(fd);
    }
}

void vsock_client_accepted(struct vsock_connection *connection, const struct vsock_packet *packet) {
    ASSERT(connection->state == VSOCK_CONNECTING);
    ASSERT(packet->op == VSOCK_OP_RESPONSE);
    char line[VSOCK_LINE_SIZE_MAX];
    int size = snprintf(line, sizeof(line), "OK %u\n", connection->host_port);
    ASSERT(size > 0 && (size_t)size < sizeof(line));
    struct iovec part = {.iov_base = line, .iov_len = (size_t)size};
    /* The first bytes of a socket: one that does not take them at once is gone. */
    if (vsock_socket_send(connection->source.fd, &part, 1) != size) {
        vsock_connection_reset(connection);
        return;
    }
    connection->guest_buffer_size = packet->buffer_size;
    connection->guest_forwarded = 0;
    vsock_connection_connected(connection);
}
