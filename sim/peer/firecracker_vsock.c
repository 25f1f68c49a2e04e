/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/firecracker_vsock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "protocol/protocol_limits.h"

#define PORT_DIGITS_MAX 10
#define SUFFIX_SIZE_MAX 11 /* "_<port>" */

static void vsock_check(const struct firecracker_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->host);
    ASSERT(vsock->line_size <= FIRECRACKER_VSOCK_LINE_SIZE_MAX);
}

static void drop(struct firecracker_vsock *vsock, int *fd) {
    vsock_check(vsock);
    ASSERT(fd);
    host_close(vsock->host, *fd);
    *fd = HOST_FD_NONE;
}

void firecracker_vsock_init(struct firecracker_vsock *vsock, struct host *host) {
    ASSERT(vsock && host);
    memset(vsock, 0, sizeof(*vsock));
    vsock->host = host;
    vsock->listen_fd = vsock->client_fd = vsock->stream_fd = HOST_FD_NONE;
    vsock->guest_fd = vsock->channel_fd = HOST_FD_NONE;
    vsock->next_port = FIRECRACKER_VSOCK_PORT_FIRST;
    ring_init(&vsock->to_guest, vsock->to_guest_bytes, sizeof(vsock->to_guest_bytes));
    ring_init(&vsock->to_host, vsock->to_host_bytes, sizeof(vsock->to_host_bytes));
    vsock_check(vsock);
}

void firecracker_vsock_deinit(struct firecracker_vsock *vsock) {
    vsock_check(vsock);
    drop(vsock, &vsock->listen_fd);
    drop(vsock, &vsock->client_fd);
    drop(vsock, &vsock->stream_fd);
    drop(vsock, &vsock->guest_fd);
    drop(vsock, &vsock->channel_fd);
    ASSERT(vsock->listen_fd == HOST_FD_NONE);
}

enum kelpie_status firecracker_vsock_listen(struct firecracker_vsock *vsock, const char *path,
                                            struct kelpie_error *err) {
    vsock_check(vsock);
    ASSERT(path);
    size_t size = strlen(path);
    if (size == 0 || size > FIRECRACKER_PATH_SIZE_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "no socket can be called so");
    }
    if (vsock->listen_fd != HOST_FD_NONE) {
        drop(vsock, &vsock->listen_fd);
        (void)!host_path_unlink(vsock->host, vsock->path, err);
    }
    TRY(host_socket_listen(vsock->host, path, &vsock->listen_fd, err));
    memcpy(vsock->path, path, size + 1);
    return KELPIE_OK;
}

enum kelpie_status firecracker_vsock_plug(struct firecracker_vsock *vsock,
                                          struct kelpie_error *err) {
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    vsock_check(vsock);
    TRY(host_socket_pair(vsock->host, fds, err));
    drop(vsock, &vsock->guest_fd);
    drop(vsock, &vsock->channel_fd);
    vsock->guest_fd = fds[0];
    vsock->channel_fd = fds[1];
    vsock->used = vsock->stream_fd != HOST_FD_NONE;
    vsock->changed = false;
    ring_drop(&vsock->to_guest, vsock->to_guest.size);
    ring_drop(&vsock->to_host, vsock->to_host.size);
    ASSERT(vsock->guest_fd != HOST_FD_NONE);
    return KELPIE_OK;
}

void firecracker_vsock_reset(struct firecracker_vsock *vsock) {
    vsock_check(vsock);
    drop(vsock, &vsock->client_fd);
    drop(vsock, &vsock->stream_fd);
    vsock->dial_ns = 0;
    ASSERT(vsock->stream_fd == HOST_FD_NONE);
}

/* ---- Connections ------------------------------------------------------------------------------ */

/* Takes the descriptor. */
static void connected(struct firecracker_vsock *vsock, int fd) {
    vsock_check(vsock);
    ASSERT(fd != HOST_FD_NONE);
    drop(vsock, &vsock->stream_fd);
    vsock->stream_fd = fd;
    vsock->changed = vsock->used;
    vsock->used = true;
}

static void dial(struct firecracker_vsock *vsock) {
    vsock_check(vsock);
    ASSERT(vsock->stream_fd == HOST_FD_NONE);
    const struct host_wait no_wait = host_wait_none();
    char path[FIRECRACKER_PATH_SIZE_MAX + SUFFIX_SIZE_MAX + 1];
    struct kelpie_error ignored;
    int fd = HOST_FD_NONE;
    uint64_t now_ns = host_monotonic_ns(vsock->host);
    if (now_ns < vsock->dial_ns || vsock->path[0] == '\0') {
        return;
    }
    vsock->dial_ns = now_ns + FIRECRACKER_DIAL_MS * HOST_NS_PER_MS;
    snprintf(path, sizeof(path), "%s_%u", vsock->path, (unsigned)PROTOCOL_VSOCK_PORT);
    if (host_socket_connect(vsock->host, path, &no_wait, &fd, &ignored) == KELPIE_OK) {
        connected(vsock, fd);
    }
}

static void accept_client(struct firecracker_vsock *vsock) {
    vsock_check(vsock);
    ASSERT(vsock->client_fd == HOST_FD_NONE);
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    int fd = HOST_FD_NONE;
    if (host_socket_accept(vsock->host, vsock->listen_fd, &no_wait, &fd, &ignored) == KELPIE_OK) {
        vsock->client_fd = fd;
        vsock->line_size = 0;
    }
}

/* "CONNECT <port>", without its end. */
static bool parse_connect(const char *line, uint32_t *ret_port) {
    static const char word[] = "CONNECT ";
    size_t size = sizeof(word) - 1;
    uint64_t port = 0;
    ASSERT(line);
    if (strncmp(line, word, size) != 0 || line[size] == '\0' ||
        strlen(line + size) > PORT_DIGITS_MAX) {
        return false;
    }
    for (const char *c = line + size; *c; c++) {
        if (*c < '0' || *c > '9') {
            return false;
        }
        port = port * 10 + (uint64_t)(*c - '0');
    }
    *ret_port = (uint32_t)port;
    ASSERT(size > 0);
    return port <= UINT32_MAX;
}

/* A whole line came from the client. */
static void take_connect(struct firecracker_vsock *vsock) {
    char answer[FIRECRACKER_VSOCK_LINE_SIZE_MAX + 1];
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    uint32_t port = 0;
    vsock_check(vsock);
    ASSERT(vsock->client_fd != HOST_FD_NONE);
    if (!parse_connect(vsock->line, &port) || port != PROTOCOL_VSOCK_PORT) {
        drop(vsock, &vsock->client_fd);
        return;
    }
    snprintf(answer, sizeof(answer), "OK %u\n", vsock->next_port++);
    if (host_write_all(vsock->host, vsock->client_fd, answer, strlen(answer), &no_wait, &ignored) !=
        KELPIE_OK) {
        drop(vsock, &vsock->client_fd);
        return;
    }
    int fd = vsock->client_fd;
    vsock->client_fd = HOST_FD_NONE;
    connected(vsock, fd);
}

/* Byte by byte: what follows the line belongs to the stream. */
static void read_client(struct firecracker_vsock *vsock) {
    const struct host_wait no_wait = host_wait_none();
    vsock_check(vsock);
    ASSERT(vsock->client_fd != HOST_FD_NONE);
    for (;;) {
        struct kelpie_error ignored;
        size_t size = 0;
        char byte = 0;
        enum kelpie_status status =
            host_read(vsock->host, vsock->client_fd, &byte, 1, &no_wait, &size, &ignored);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        if (status == KELPIE_OK && size == 1 && byte == '\n') {
            vsock->line[vsock->line_size] = '\0';
            take_connect(vsock);
            return;
        }
        if (status != KELPIE_OK || size == 0 || byte == '\0' ||
            vsock->line_size == FIRECRACKER_VSOCK_LINE_SIZE_MAX) {
            drop(vsock, &vsock->client_fd);
            return;
        }
        vsock->line[vsock->line_size++] = byte;
    }
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

/* Reads once into the ring. False: the other end is gone. */
static bool pull(struct firecracker_vsock *vsock, int fd, struct ring *ring) {
    uint8_t chunk[FIRECRACKER_READ_SIZE];
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    size_t room = ring_room(ring);
    size_t size = 0;
    vsock_check(vsock);
    ASSERT(room > 0);
    room = room < sizeof(chunk) ? room : sizeof(chunk);
    enum kelpie_status status = host_read(vsock->host, fd, chunk, room, &no_wait, &size, &ignored);
    if (status != KELPIE_OK) {
        return status == KELPIE_TIMED_OUT;
    }
    size_t written = ring_write(ring, chunk, size);
    ASSERT(written == size);
    return size > 0;
}

static bool push(struct firecracker_vsock *vsock, int fd, struct ring *ring) {
    const struct host_wait no_wait = host_wait_none();
    const uint8_t *data = NULL;
    struct kelpie_error ignored;
    size_t front = ring_front(ring, &data);
    size_t size = 0;
    vsock_check(vsock);
    ASSERT(front > 0);
    enum kelpie_status status = host_write(vsock->host, fd, data, front, &no_wait, &size, &ignored);
    if (status == KELPIE_OK) {
        ring_drop(ring, size);
    }
    return status == KELPIE_OK || status == KELPIE_TIMED_OUT;
}

static void service_stream(struct firecracker_vsock *vsock,
                           const struct host_poll_item items[FIRECRACKER_VSOCK_ITEM_COUNT]) {
    uint32_t stream = items[FIRECRACKER_VSOCK_STREAM].ready;
    uint32_t guest = items[FIRECRACKER_VSOCK_GUEST].ready;
    vsock_check(vsock);
    ASSERT(vsock->stream_fd != HOST_FD_NONE && vsock->guest_fd != HOST_FD_NONE);
    bool whole = true;
    if (stream & HOST_POLL_READ) {
        whole = pull(vsock, vsock->stream_fd, &vsock->to_guest);
    }
    if (whole && (stream & HOST_POLL_WRITE)) {
        whole = push(vsock, vsock->stream_fd, &vsock->to_host);
    }
    /* The pair ends with the guest; or it breaks, and then the guest calls anew. */
    if (whole && (guest & HOST_POLL_READ)) {
        whole = pull(vsock, vsock->guest_fd, &vsock->to_host);
    }
    if (whole && (guest & HOST_POLL_WRITE)) {
        whole = push(vsock, vsock->guest_fd, &vsock->to_guest);
    }
    if (!whole) {
        drop(vsock, &vsock->stream_fd);
        vsock->dial_ns = host_monotonic_ns(vsock->host) + FIRECRACKER_DIAL_MS * HOST_NS_PER_MS;
    }
}

/* ---- The loop's ------------------------------------------------------------------------------- */

static uint32_t asked_of(const struct ring *in, const struct ring *out) {
    ASSERT(in && out);
    ASSERT(in != out);
    return (ring_room(in) > 0 ? HOST_POLL_READ : 0u) | (out->size > 0 ? HOST_POLL_WRITE : 0u);
}

void firecracker_vsock_items(const struct firecracker_vsock *vsock,
                             struct host_poll_item items[FIRECRACKER_VSOCK_ITEM_COUNT]) {
    vsock_check(vsock);
    ASSERT(items);
    for (size_t i = 0; i < FIRECRACKER_VSOCK_ITEM_COUNT; i++) {
        items[i] = (struct host_poll_item){.fd = HOST_FD_NONE};
    }
    if (vsock->client_fd == HOST_FD_NONE) {
        items[FIRECRACKER_VSOCK_LISTEN].fd = vsock->listen_fd;
        items[FIRECRACKER_VSOCK_LISTEN].asked = HOST_POLL_READ;
    } else {
        items[FIRECRACKER_VSOCK_CLIENT].fd = vsock->client_fd;
        items[FIRECRACKER_VSOCK_CLIENT].asked = HOST_POLL_READ;
    }
    if (vsock->stream_fd == HOST_FD_NONE) {
        return;
    }
    uint32_t stream = asked_of(&vsock->to_guest, &vsock->to_host);
    uint32_t guest = asked_of(&vsock->to_host, &vsock->to_guest);
    if (stream) {
        items[FIRECRACKER_VSOCK_STREAM] =
            (struct host_poll_item){.fd = vsock->stream_fd, .asked = stream};
    }
    if (guest) {
        items[FIRECRACKER_VSOCK_GUEST] =
            (struct host_poll_item){.fd = vsock->guest_fd, .asked = guest};
    }
}

uint64_t firecracker_vsock_deadline_ns(const struct firecracker_vsock *vsock) {
    vsock_check(vsock);
    ASSERT(vsock->stream_fd == HOST_FD_NONE || vsock->used);
    bool idle = vsock->stream_fd == HOST_FD_NONE && vsock->path[0] != '\0';
    return idle ? vsock->dial_ns : UINT64_MAX;
}

void firecracker_vsock_service(struct firecracker_vsock *vsock,
                               const struct host_poll_item items[FIRECRACKER_VSOCK_ITEM_COUNT]) {
    vsock_check(vsock);
    ASSERT(items);
    if (vsock->stream_fd != HOST_FD_NONE) {
        service_stream(vsock, items);
    } else {
        dial(vsock);
    }
    if (items[FIRECRACKER_VSOCK_LISTEN].ready & HOST_POLL_READ) {
        accept_client(vsock);
    } else if (items[FIRECRACKER_VSOCK_CLIENT].ready & HOST_POLL_READ) {
        read_client(vsock);
    }
}
