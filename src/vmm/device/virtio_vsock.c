/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "vmm/device/virtio_vsock_internal.h"
#include "vmm/device/virtio_vsock_socket.h"

#define STATE_VSOCK STATE_TAG('V', 'S', 'O', 'K')
#define STATE_VERSION 1
#define EVENT_SIZE                                                                                 \
    4 /* struct virtio_vsock_event (5.10.6.7); 0: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */
#define BUFFERS_SIZE ((size_t)VSOCK_CONNECTION_COUNT_MAX * VSOCK_BUFFER_SIZE)

static struct virtio_vsock *from_device(struct virtio_device *device) {
    ASSERT(device);
    static_assert(offsetof(struct virtio_vsock, device) == 0, "a vsock begins with its device");
    return (struct virtio_vsock *)device;
}

/* ---- Runs --------------------------------------------------------------------------------------- */

static void event_run(struct virtio_vsock *vsock) {
    struct virtqueue *queue = &vsock->device.queues[VSOCK_QUEUE_EVENT];
    static const uint8_t event[EVENT_SIZE] = {0};
    ASSERT(vsock->device.active);
    if (!vsock->reset_owed) {
        return;
    }
    for (uint32_t tries = 0; vsock->reset_owed && tries < VMM_QUEUE_SIZE_MAX; tries++) {
        if (virtqueue_pop(queue, &vsock->chain)) {
            size_t written = virtqueue_chain_write(&vsock->chain, 0, event, sizeof(event));
            vsock->reset_owed =
                written < sizeof(event); /* a buffer that is too small says nothing */
            virtqueue_push(queue, vsock->chain.head, vsock->reset_owed ? 0 : (uint32_t)written);
        } else if (!virtqueue_has_available(queue)) {
            break;
        }
    }
    virtio_device_signal(&vsock->device, VSOCK_QUEUE_EVENT);
    ASSERT(queue->in_flight == 0);
}

void vsock_run(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->io);
    if (!vsock->device.active) {
        return;
    }
    event_run(vsock);
    bool more = vsock_tx_run(vsock);
    more = vsock_rx_run(vsock) || more;
    more = more || (vsock->tx_stalled && vsock->reply_count < VSOCK_REPLY_COUNT_MAX);
    if (more) {
        vsock_run_again(vsock);
    }
    if (vsock->listener_paused) {
        vsock->listener_paused = false;
        io_change(vsock->io, &vsock->listener, EPOLLIN);
    }
}

void vsock_run_again(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->again.fd >= 0);
    vsock_event_raise(vsock->again.fd);
}

static void again_event(void *context, uint32_t events) {
    struct virtio_vsock *vsock = context;
    ASSERT(vsock);
    ASSERT(events != 0);
    vsock_event_clear(vsock->again.fd);
    vsock_run(vsock);
}

/* ---- The device --------------------------------------------------------------------------------- */

static void config_read(struct virtio_device *device, uint64_t offset, void *data, uint32_t size) {
    const struct virtio_vsock *vsock = from_device(device);
    uint8_t config[8];
    struct cursor_writer writer = cursor_writer_init(config, sizeof(config));
    cursor_write_u64(&writer, vsock->guest_cid);
    ASSERT(!writer.failed);
    virtio_config_read(config, sizeof(config), offset, data, size);
}

static void config_write(struct virtio_device *device, uint64_t offset, const void *data,
                         uint32_t size) {
    ASSERT(device); /* there is nothing that a driver could write */
    ASSERT(data);
    (void)offset;
    (void)size;
}

static void listener_wait(struct virtio_vsock *vsock, bool on) {
    ASSERT(vsock->io);
    ASSERT(!vsock->listener_paused || on);
    if (vsock->listener.fd >= 0) {
        io_change(vsock->io, &vsock->listener, on ? EPOLLIN : 0);
    }
}

/* Every connection and client, without a word to the guest. */
static void forget_all(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    while (vsock->connection_limit > 0) { /* the last is in use */
        vsock_connection_free(&vsock->connections[vsock->connection_limit - 1]);
    }
    vsock_client_close_all(vsock);
    vsock->reply_first = 0;
    vsock->reply_count = 0;
    vsock->tx_stalled = false;
    vsock->reset_owed = false;
    vsock->listener_paused = false;
    ASSERT(!vsock_bitmap_any(vsock->control_pending));
    ASSERT(!vsock_bitmap_any(vsock->data_pending));
}

/* Clients wait in the listening socket until there is a driver. */
static void activate(struct virtio_device *device) {
    struct virtio_vsock *vsock = from_device(device);
    ASSERT(vsock->io);
    listener_wait(vsock, true);
    vsock_run_again(vsock);
}

static void reset(struct virtio_device *device) {
    struct virtio_vsock *vsock = from_device(device);
    ASSERT(vsock->io);
    forget_all(vsock);
    listener_wait(vsock, false);
}

static void notify(struct virtio_device *device, uint16_t queue_index) {
    struct virtio_vsock *vsock = from_device(device);
    ASSERT(queue_index < VSOCK_QUEUE_COUNT);
    vsock_run(vsock);
}

static void save(struct virtio_device *device, struct state_writer *state, uint16_t instance) {
    const struct virtio_vsock *vsock = from_device(device);
    ASSERT(state);
    struct cursor_writer *writer = state_begin(state, STATE_VSOCK, STATE_VERSION, instance);
    cursor_write_u64(writer, vsock->guest_cid);
    cursor_write_u32(writer, vsock->next_host_port);
    state_end(state);
}

static bool cid_is_possible(uint64_t cid) {
    return cid >= VSOCK_CID_MIN && cid <= VSOCK_CID_MAX;
}

static enum kelpie_status load(struct virtio_device *device, struct state_reader *state,
                               uint16_t instance, struct kelpie_error *err) {
    struct virtio_vsock *vsock = from_device(device);
    struct cursor_reader reader;
    ASSERT(state);
    TRY(state_find(state, STATE_VSOCK, STATE_VERSION, instance, &reader, err));
    uint64_t guest_cid = cursor_read_u64(&reader);
    uint32_t next_host_port = cursor_read_u32(&reader);
    bool valid = cid_is_possible(guest_cid) && next_host_port >= VSOCK_HOST_PORT_MIN &&
                 next_host_port <= VSOCK_HOST_PORT_MAX;
    TRY(state_check(&reader, valid, "vsock", err));
    forget_all(vsock);
    vsock->guest_cid = guest_cid;
    vsock->next_host_port = next_host_port;
    vsock->reset_owed = true;
    listener_wait(vsock, device->active);
    vsock_run_again(vsock); /* also for what the guest kicked before it was saved */
    return KELPIE_OK;
}

static const struct virtio_ops vsock_ops = {
    .name = "vsock",
    .id = VIRTIO_ID_VSOCK,
    .queue_count = VSOCK_QUEUE_COUNT,
    .queue_size_max = VMM_QUEUE_SIZE_MAX,
    .config_read = config_read,
    .config_write = config_write,
    .activate = activate,
    .reset = reset,
    .notify = notify,
    .save = save,
    .load = load,
};

/* ---- Life --------------------------------------------------------------------------------------- */

static enum kelpie_status open_all(struct virtio_vsock *vsock, int listen_fd,
                                   struct kelpie_error *err) {
    ASSERT(vsock->io);
    ASSERT(listen_fd >= -1);
    /* Address space: a page of it is memory when a connection first needs it. */
    void *buffers = mmap(NULL, BUFFERS_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buffers == MAP_FAILED) {
        return error_set_os(err, errno, "cannot allocate the buffers of the socket device");
    }
    vsock->buffers = buffers;
    int again_fd = vsock_event_open();
    if (again_fd < 0) {
        return error_set_os(err, -again_fd, "cannot make the socket device's event");
    }
    vsock->again = (struct io_source){.fd = again_fd, .handler = again_event, .context = vsock};
    TRY(io_add(vsock->io, &vsock->again, EPOLLIN, err));
    if (listen_fd >= 0) {
        struct io_source listener = {
            .fd = listen_fd, .handler = vsock_listener_event, .context = vsock};
        vsock->listener = listener;
        TRY(io_add(vsock->io, &vsock->listener, 0, err));
    }
    return KELPIE_OK;
}

enum kelpie_status virtio_vsock_init(struct virtio_vsock *vsock,
                                     const struct virtio_vsock_config *config,
                                     struct kelpie_error *err) {
    ASSERT(vsock);
    ASSERT(config && config->memory && config->io);
    memset(vsock, 0, sizeof(*vsock));
    if (!cid_is_possible(config->guest_cid)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "guest_cid",
                               "a guest's CID is at least %u and at most %u", VSOCK_CID_MIN,
                               VSOCK_CID_MAX);
    }
    /* No feature: without one a device has stream sockets alone (5.10.3). */
    virtio_device_init(&vsock->device, &vsock_ops, config->memory, config->irq, 0);
    vsock->io = config->io;
    vsock->guest_cid = config->guest_cid;
    vsock->next_host_port = VSOCK_HOST_PORT_MIN;
    vsock->again.fd = -1;
    vsock->listener.fd = -1;
    vsock_client_init(vsock);
    enum kelpie_status status = open_all(vsock, config->listen_fd, err);
    if (status != KELPIE_OK) {
        virtio_vsock_deinit(vsock);
    }
    return status;
}

void virtio_vsock_deinit(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    if (!vsock->io) {
        return;
    }
    forget_all(vsock);
    if (vsock->listener.fd >= 0) {
        io_remove(vsock->io, &vsock->listener);
    }
    if (vsock->again.fd >= 0) {
        io_remove(vsock->io, &vsock->again);
        vsock_socket_close(vsock->again.fd);
    }
    if (vsock->buffers) {
        int failed = munmap(vsock->buffers, BUFFERS_SIZE);
        ASSERT(failed == 0);
    }
    memset(vsock, 0, sizeof(*vsock));
}

enum kelpie_status virtio_vsock_port_add(struct virtio_vsock *vsock, uint32_t port, int fd,
                                         struct kelpie_error *err) {
    ASSERT(vsock && vsock->io);
    ASSERT(port > 0 && port < VSOCK_HOST_PORT_MIN);
    ASSERT(fd >= 0);
    if (vsock->port_count == VSOCK_PORT_COUNT_MAX) {
        return error_set(err, KELPIE_NO_SPACE, "the socket device has %d prepared ports already",
                         VSOCK_PORT_COUNT_MAX);
    }
    for (size_t index = 0; index < vsock->port_count; index++) {
        ASSERT(vsock->ports[index].number != port);
    }
    vsock->ports[vsock->port_count++] = (struct vsock_port){.number = port, .fd = fd};
    return KELPIE_OK;
}

static bool connection_is_quiet(const struct vsock_connection *connection) {
    ASSERT(connection);
    ASSERT(connection->state != VSOCK_FREE);
    return connection->ring.size == 0 && !connection->starved &&
           (connection->source.fd < 0 || (connection->host_shutdown & VSOCK_SHUTDOWN_SEND) != 0 ||
            !vsock_socket_readable(connection->source.fd));
}

bool virtio_vsock_quiet(struct virtio_vsock *vsock) {
    ASSERT(vsock);
    ASSERT(vsock->io);
    if (!vsock->device.active) {
        return true;
    }
    bool quiet = vsock->reply_count == 0 && !vsock_bitmap_any(vsock->control_pending) &&
                 !vsock_bitmap_any(vsock->data_pending) &&
                 !virtqueue_has_available(&vsock->device.queues[VSOCK_QUEUE_TX]);
    for (size_t index = 0; quiet && index < vsock->connection_limit; index++) {
        quiet = vsock->keys[index] == 0 || connection_is_quiet(&vsock->connections[index]);
    }
    return quiet;
}
