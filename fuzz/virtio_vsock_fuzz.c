/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The socket device between a hostile guest and a host whose sockets do what the input says. Three bytes are one
 * operation and its arguments. The device's system calls (virtio_vsock_socket.h) and the I/O loop are replaced by those
 * below: they need no kernel, and know more: that a byte arrives once and in order, that each descriptor is closed once, and
 * that no source is told of what it does not wait for.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/checked.h"
#include "support/vsock_guest.h"
#include "vmm/device/virtio_vsock_socket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPERATION_COUNT_MAX 32
#define FD_COUNT_MAX 256 /* of one run: more than its operations open */
#define FD_PREPARED 1
#define FD_EVENT 2
#define FD_LISTEN 3
#define FD_FIRST 4
#define PREPARED_PORT 1024u
#define TURN_COUNT_MAX 64

struct fake_socket {
    bool open;
    bool ended;               /* the other end sends no more */
    bool hung_up;             /* it is closed */
    uint32_t readable;        /* bytes that wait */
    uint32_t room;            /* bytes that it takes */
    const char *line;         /* comes before the bytes; NULL: nothing (more) */
    struct io_source *source; /* NULL: the loop does not know it */
    uint32_t events;
};

static struct world {
    struct io io;
    struct virtio_vsock *vsock;
    struct vsock_guest guest;
    struct fake_socket sockets[FD_COUNT_MAX];
    int fd_count;
    int waiting;      /* clients in the listening socket */
    const char *line; /* of the next client */
    bool raised;
    bool spoiled; /* the guest wrote into its rings */
    uint8_t state[256];
    size_t state_size;
} world;

/* ---- The loop ------------------------------------------------------------------------------------ */

enum kelpie_status io_add(struct io *io, struct io_source *source, uint32_t events,
                          struct kelpie_error *err) {
    struct fake_socket *socket = &world.sockets[source->fd];
    ASSERT(io == &world.io);
    ASSERT(socket->open && !socket->source);
    (void)err;
    socket->source = source;
    socket->events = events;
    return KELPIE_OK;
}

void io_change(struct io *io, struct io_source *source, uint32_t events) {
    ASSERT(io == &world.io);
    ASSERT(world.sockets[source->fd].source == source);
    world.sockets[source->fd].events = events;
}

void io_remove(struct io *io, struct io_source *source) {
    ASSERT(io == &world.io);
    if (source->fd >= 0 && world.sockets[source->fd].source == source) {
        world.sockets[source->fd].source = NULL;
    }
}

static uint32_t socket_events(int fd) {
    const struct fake_socket *socket = &world.sockets[fd];
    if (fd == FD_EVENT) {
        return world.raised ? EPOLLIN : 0;
    }
    if (fd == FD_LISTEN) {
        return world.waiting > 0 ? EPOLLIN : 0;
    }
    uint32_t events = socket->readable > 0 || socket->line || socket->ended ? EPOLLIN : 0;
    events |= socket->room > 0 ? EPOLLOUT : 0;
    events |= socket->hung_up ? EPOLLHUP | EPOLLIN | EPOLLOUT : 0;
    return events;
}

/* Until nothing happens: a device that spins does not get there. */
static void loop_settle(void) {
    bool busy = true;
    for (int turn = 0; busy; turn++) {
        ASSERT(turn < TURN_COUNT_MAX);
        busy = false;
        for (int fd = FD_PREPARED; fd < world.fd_count; fd++) {
            struct fake_socket *socket = &world.sockets[fd];
            uint32_t events = socket_events(fd) & (socket->events | EPOLLHUP);
            if (socket->source && events != 0) {
                busy = true;
                socket->source->handler(socket->source->context, events);
            }
        }
    }
}

/* ---- The sockets --------------------------------------------------------------------------------- */

static size_t parts_size(const struct iovec *parts, size_t count) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        ASSERT(parts[i].iov_len > 0);
        size += parts[i].iov_len;
    }
    return size;
}

ssize_t vsock_socket_receive(int fd, struct iovec *parts, size_t count) {
    struct fake_socket *socket = &world.sockets[fd];
    size_t size = min_size(parts_size(parts, count), socket->readable);
    ASSERT(socket->open);
    if (socket->readable == 0) {
        return socket->ended || socket->hung_up ? 0 : -EAGAIN;
    }
    ((uint8_t *)parts[0].iov_base)[0] = 0x55; /* the guest's memory, as far as the device says */
    ((uint8_t *)parts[count - 1].iov_base)[parts[count - 1].iov_len - 1] = 0x55;
    socket->readable -= (uint32_t)size;
    return (ssize_t)size;
}

ssize_t vsock_socket_send(int fd, struct iovec *parts, size_t count) {
    struct fake_socket *socket = &world.sockets[fd];
    size_t size = min_size(parts_size(parts, count), socket->room);
    ASSERT(socket->open);
    if (socket->hung_up) {
        return -EPIPE;
    }
    socket->room -= (uint32_t)size;
    return size > 0 ? (ssize_t)size : -EAGAIN;
}

ssize_t vsock_socket_receive_line(int fd, char *buffer, size_t size) {
    struct fake_socket *socket = &world.sockets[fd];
    ASSERT(socket->open);
    if (!socket->line || !*socket->line) {
        socket->line = NULL;
        if (socket->readable > 0) { /* bytes that are no line */
            size_t count = min_size(size, socket->readable);
            memset(buffer, 'x', count);
            socket->readable -= (uint32_t)count;
            return (ssize_t)count;
        }
        return socket->ended || socket->hung_up ? 0 : -EAGAIN;
    }
    size_t step = min_size(size, 1 + (size_t)world.fd_count % 8);
    size_t count = 0;
    while (count < step && socket->line[count] && (count == 0 || buffer[count - 1] != '\n')) {
        buffer[count] = socket->line[count];
        count++;
    }
    socket->line += count;
    if (count > 0 && buffer[count - 1] == '\n') { /* what follows is not for this function */
        socket->readable += (uint32_t)strlen(socket->line);
        socket->line = NULL;
    } else if (!*socket->line) {
        socket->line = NULL;
    }
    return (ssize_t)count;
}

bool vsock_socket_readable(int fd) {
    ASSERT(world.sockets[fd].open);
    return (socket_events(fd) & EPOLLIN) != 0;
}

void vsock_socket_shutdown(int fd, int how) {
    ASSERT(world.sockets[fd].open);
    ASSERT(fd != FD_PREPARED); /* it is the caller's */
    (void)how;
}

void vsock_socket_close(int fd) {
    struct fake_socket *socket = &world.sockets[fd];
    ASSERT(socket->open && !socket->source);
    ASSERT(fd != FD_PREPARED && fd != FD_LISTEN);
    socket->open = false;
}

int vsock_socket_accept(int listen_fd) {
    ASSERT(listen_fd == FD_LISTEN);
    if (world.waiting == 0 || world.fd_count == FD_COUNT_MAX) {
        world.waiting = 0;
        return -EAGAIN;
    }
    world.waiting--;
    int fd = world.fd_count++;
    world.sockets[fd] = (struct fake_socket){.open = true, .line = world.line, .room = 4096};
    return fd;
}

int vsock_event_open(void) {
    world.sockets[FD_EVENT].open = true;
    return FD_EVENT;
}

void vsock_event_raise(int fd) {
    ASSERT(fd == FD_EVENT);
    world.raised = true;
}

void vsock_event_clear(int fd) {
    ASSERT(fd == FD_EVENT);
    world.raised = false;
}

/* ---- Operations ---------------------------------------------------------------------------------- */

static void check(void) {
    const struct virtio_vsock *vsock = world.vsock;
    for (size_t i = 0; i < vsock->connection_limit; i++) {
        if (vsock->keys[i] == 0) {
            continue;
        }
        const struct vsock_connection *connection = &vsock->connections[i];
        ASSERT(connection->state != VSOCK_FREE);
        ASSERT(connection->ring.size <= VSOCK_BUFFER_SIZE);
        ASSERT((connection->state == VSOCK_RESETTING) == (connection->source.fd < 0));
        ASSERT(connection->sent - connection->guest_forwarded <= connection->sent);
    }
    for (uint32_t i = 0; i < VSOCK_GUEST_QUEUE_COUNT; i++) {
        ASSERT(vsock->device.queues[i].in_flight == 0);
    }
}

/* The guest takes what it was sent. With rings that it has spoiled, only how many. */
static void guest_takes(void) {
    struct vsock_packet packet;
    const uint8_t *bytes = NULL;
    uint32_t slot = 0;
    uint32_t used = 0;
    while (!world.spoiled && vsock_guest_get(&world.guest, &packet, &bytes)) {
        ASSERT(packet.size <= VSOCK_DATA_SIZE_MAX);
        ASSERT(packet.op <= VSOCK_OP_CREDIT_REQUEST);
    }
    while (!world.spoiled && vsock_guest_take(&world.guest, 2, &slot, &used)) {
        ASSERT(used == 0 || used == 4);
    }
    for (uint32_t i = 0; world.spoiled && i < VSOCK_GUEST_QUEUE_COUNT; i++) {
        world.guest.taken[i] = world.guest.offered[i];
    }
}

static void guest_says(uint8_t a, uint8_t b) {
    static const uint32_t sizes[] = {0, 1, 100, 4096, 16384, 65535, 65536, 65537};
    static const uint32_t credits[] = {65536, 0, 1, 100, UINT32_MAX, 0x80000000, 65536, 10};
    static const uint32_t lies[] = {0, 1, UINT32_MAX, 0x7fffffff};
    static const uint8_t zeros[VSOCK_GUEST_SLOT_SIZE];
    uint32_t guest_port = a >> 4 & 3;
    uint32_t host_port = PREPARED_PORT;
    if ((a & 0x80) != 0) { /* one of the ports that the device assigned */
        guest_port = 52;
        host_port = VSOCK_HOST_PORT_MIN + guest_port % 2 + (a >> 4 & 3);
    }
    struct vsock_packet packet = vsock_guest_packet((enum vsock_op)(a & 7), guest_port, host_port);
    uint32_t size = packet.op == VSOCK_OP_RW ? sizes[b & 7] : 0;
    packet.size = size;
    packet.flags = b & 3;
    packet.buffer_size = credits[b >> 3 & 7];
    packet.forwarded = lies[b >> 6];
    if (a == 0x48) {
        packet.size = UINT32_MAX - b;
    } else if (a == 0x49) {
        packet.dst_cid = b;
    } else if (a == 0x4a) {
        packet.src_cid = b;
    } else if (a == 0x4b) {
        packet.type = b;
    } else if (a == 0x4c) {
        packet.op = (uint16_t)(b * 257u);
    } else if (a == 0x4d) {
        packet.dst_port = b;
    }
    (void)vsock_guest_put(&world.guest, &packet, zeros,
                          size < VSOCK_BUFFER_SIZE ? size : VSOCK_BUFFER_SIZE);
}

static void host_does(uint8_t a, uint8_t b) {
    struct fake_socket *socket = &world.sockets[FD_PREPARED];
    if ((a & 0x80) != 0 && world.fd_count > FD_FIRST) {
        socket = &world.sockets[FD_FIRST + a % (world.fd_count - FD_FIRST)];
    }
    switch (a >> 3 & 7) {
    case 0:
    case 1:
        socket->readable += b * 300u;
        break;
    case 2:
    case 3:
        socket->room += b * 300u;
        break;
    case 4:
        socket->room = 0;
        break;
    case 5:
        socket->ended = true;
        break;
    default:
        socket->hung_up = b > 128;
        break;
    }
}

static void client_comes(uint8_t a) {
    static const char *const lines[] = {"CONNECT 52\n",
                                        "",
                                        "CONNECT 4294967294\n",
                                        "CONNECT 4294967296\n",
                                        "CONNECT 00000000000000000000000000000000",
                                        "connect 52\nmore",
                                        "CONNECT\n",
                                        "CONN"};
    world.waiting = 1 + (a >> 6);
    world.line = lines[a & 7];
}

static void state_moves(uint8_t a) {
    struct virtio_device *device = &world.vsock->device;
    if (a % 3 == 0) {
        struct state_writer writer;
        state_writer_init(&writer, world.state, sizeof(world.state));
        device->ops->save(device, &writer, 0);
        enum kelpie_status status = state_writer_finish(&writer, &world.state_size, NULL);
        ASSERT(status == KELPIE_OK);
    } else if (a % 3 == 1 && world.state_size > 0) {
        static struct state_reader reader;
        enum kelpie_status status = state_reader_init(&reader, world.state, world.state_size, NULL);
        ASSERT(status == KELPIE_OK);
        status = device->ops->load(device, &reader, 0, NULL);
        ASSERT(status == KELPIE_OK);
    } else if (a % 3 == 2) {
        device->ops->reset(device);
        vsock_guest_enable(&world.guest);
        device->ops->activate(device);
    }
}

static void queue_bytes_change(uint8_t a, uint8_t b) {
    /* Anything in the rings: lengths, addresses, indices. What breaks a queue is mended by a reset (state_moves). */
    static const uint32_t places[] = {0, 6, 8, 12, 14, 0x1002, 0x1004, 0x1006};
    uint32_t queue = a >> 3 & 3;
    if (queue < VSOCK_GUEST_QUEUE_COUNT) {
        world.spoiled = true;
        world.guest.bytes[queue * VSOCK_GUEST_RINGS_SIZE + places[a & 7] + (a >> 5) * 16u] = b;
    }
}

static void operate(uint8_t operation, uint8_t a, uint8_t b) {
    static const uint32_t sizes[] = {
        VSOCK_GUEST_SLOT_SIZE, VSOCK_HEADER_SIZE, 4096, 43, 45, 0x100, 1, VSOCK_HEADER_SIZE};
    switch (operation % 8) {
    case 0:
    case 1:
    case 2:
        guest_says(a, b);
        break;
    case 3:
        for (int i = 0; i <= a >> 5; i++) {
            (void)vsock_guest_offer(&world.guest, b >> 7 ? 2 : 0, sizes[a & 7], true);
        }
        break;
    case 4:
        host_does(a, b);
        break;
    case 5:
        client_comes(a);
        break;
    case 6:
        queue_bytes_change(a, b);
        break;
    default:
        state_moves(a);
        break;
    }
    if ((operation & 0x80) == 0) { /* else several come at once */
        vsock_guest_kick(&world.guest, operation >> 3 & 1);
        loop_settle();
        guest_takes();
    }
    check();
}

static void world_begin(void) {
    if (!world.vsock) { /* kept: only what a run uses is made anew */
        world.vsock = calloc(1, sizeof(*world.vsock));
        world.guest.bytes = calloc(1, VSOCK_GUEST_MEMORY_SIZE);
        ASSERT(world.vsock && world.guest.bytes);
        memory_init(&world.guest.memory, world.guest.bytes, VSOCK_GUEST_MEMORY_SIZE);
        world.guest.vsock = world.vsock;
        world.sockets[FD_PREPARED].open = true;
        world.sockets[FD_LISTEN].open = true;
        struct virtio_vsock_config config = {
            .memory = &world.guest.memory,
            .io = &world.io,
            .irq = {.trigger = vsock_guest_interrupt, .context = &world.guest},
            .guest_cid = VSOCK_GUEST_CID,
            .listen_fd = FD_LISTEN};
        enum kelpie_status status = virtio_vsock_init(world.vsock, &config, NULL);
        ASSERT(status == KELPIE_OK);
        status = virtio_vsock_port_add(world.vsock, PREPARED_PORT, FD_PREPARED, NULL);
        ASSERT(status == KELPIE_OK);
    }
    world.vsock->device.ops->reset(&world.vsock->device);
    world.vsock->device.status = 0;
    for (int fd = FD_FIRST; fd < world.fd_count; fd++) {
        ASSERT(!world.sockets[fd].open); /* the reset closed them all */
    }
    struct fake_socket *prepared = &world.sockets[FD_PREPARED];
    ASSERT(!prepared->source);
    *prepared = (struct fake_socket){.open = true, .room = 4096};
    world.vsock->ports[0].ended = false;
    world.vsock->next_host_port = VSOCK_HOST_PORT_MIN;
    world.fd_count = FD_FIRST;
    world.waiting = 0;
    world.state_size = 0;
    world.spoiled = false;
    vsock_guest_enable(&world.guest);
    world.vsock->device.ops->activate(&world.vsock->device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    world_begin();
    for (size_t i = 0; i + 2 < size && i < 3u * OPERATION_COUNT_MAX; i += 3) {
        operate(data[i], data[i + 1], data[i + 2]);
    }
    return 0;
}
