/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_net.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm/device/iovec.h"

#define NET_SECTION STATE_TAG('V', 'N', 'E', 'T')
#define NET_SECTION_VERSION 1
#define NET_HEADER_NUM_BUFFERS 10 /* where in the header it stands; always 1 here (5.1.6.4) */

/* What came of trying to get or to send a frame. */
enum net_result {
    NET_DONE,
    NET_LATER,  /* nothing now: the descriptor will say when */
    NET_FAILED, /* this frame is lost */
    NET_ENDED,  /* the peer is gone, or makes no sense */
};

static struct virtio_net *net_of(struct virtio_device *device) {
    static_assert(offsetof(struct virtio_net, device) == 0, "a struct virtio_device comes first");
    ASSERT(device);
    return (struct virtio_net *)device;
}

static bool net_size_is_legal(uint64_t size) {
    return size >= VIRTIO_NET_FRAME_SIZE_MIN && size <= VIRTIO_NET_FRAME_SIZE_MAX;
}

static enum net_result net_result_of_errno(void) {
    ASSERT(errno > 0);
    static_assert(EAGAIN == EWOULDBLOCK, "one check is enough");
    return errno == EAGAIN || errno == EINTR ? NET_LATER : NET_ENDED;
}

/* ---- the link ------------------------------------------------------------------------------------ */

static void net_link_tell(struct virtio_net *net) {
    ASSERT(net->device.ops);
    ASSERT(net->io);
    if (net->link_told != net->link_up) {
        net->link_told = net->link_up;
        virtio_device_config_changed(&net->device);
    }
}

static void net_link_down(struct virtio_net *net) {
    ASSERT(net->link_up);
    ASSERT(net->rx_start <= net->rx_end && net->tx_start <= net->tx_end);
    net->link_up = false;
    net->started = false;
    net->tx_blocked = false;
    net->watched = 0;
    net->rx_start = net->rx_end = 0;
    net->tx_start = net->tx_end = 0;
    io_remove(net->io, &net->source);
    net_link_tell(net);
    io_again_ask(&net->again); /* what the driver wants to send is to be given back */
}

/* Waits for what there is use for, and for nothing else: the loop tells of it as long as it lasts. */
static void net_watch(struct virtio_net *net) {
    uint32_t events = 0;
    if (!net->started) {
        return;
    }
    ASSERT(net->link_up);
    ASSERT(net->tx_blocked || net->tx_start == net->tx_end);
    events |= virtqueue_has_available(&net->device.queues[VIRTIO_NET_QUEUE_RX]) ? EPOLLIN : 0u;
    events |= net->tx_blocked ? EPOLLOUT : 0u;
    if (events != net->watched) {
        io_change(net->io, &net->source, events);
        net->watched = events;
    }
}

/* ---- host to guest ------------------------------------------------------------------------------- */

/* A frame in the device's buffer. */
struct net_frame {
    const uint8_t *bytes;
    size_t size;
};

static enum net_result net_tap_read(struct virtio_net *net, struct net_frame *ret_frame) {
    static_assert(sizeof(net->rx_bytes) > VIRTIO_NET_FRAME_SIZE_MAX, "one too long is seen");
    ASSERT(net->options.backend == VIRTIO_NET_TAP);
    ASSERT(net->rx_end == 0);
    ssize_t size = read(net->options.fd, net->rx_bytes, sizeof(net->rx_bytes));
    if (size <= 0) {
        return size < 0 ? net_result_of_errno() : NET_ENDED;
    }
    *ret_frame = (struct net_frame){net->rx_bytes, (size_t)size};
    return NET_DONE;
}

/* Takes the first frame out of the buffer. LATER: it is not whole. */
static enum net_result net_stream_take(struct virtio_net *net, struct net_frame *ret_frame) {
    const uint8_t *bytes = net->rx_bytes + net->rx_start;
    size_t held = net->rx_end - net->rx_start;
    ASSERT(net->rx_start <= net->rx_end);
    ASSERT(net->rx_end <= sizeof(net->rx_bytes));
    if (held < VIRTIO_NET_STREAM_HEADER_SIZE) {
        return NET_LATER;
    }
    size_t size =
        (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
    if (size > VIRTIO_NET_FRAME_SIZE_MAX) {
        return NET_ENDED;
    }
    if (size > held - VIRTIO_NET_STREAM_HEADER_SIZE) {
        return NET_LATER;
    }
    *ret_frame = (struct net_frame){bytes + VIRTIO_NET_STREAM_HEADER_SIZE, size};
    net->rx_start += VIRTIO_NET_STREAM_HEADER_SIZE + size;
    ASSERT(net->rx_start <= net->rx_end);
    return NET_DONE;
}

static enum net_result net_stream_read(struct virtio_net *net, struct net_frame *ret_frame) {
    enum net_result result = net_stream_take(net, ret_frame);
    ASSERT(net->options.backend == VIRTIO_NET_STREAM);
    if (result != NET_LATER) {
        return result;
    }
    memmove(net->rx_bytes, net->rx_bytes + net->rx_start, net->rx_end - net->rx_start);
    net->rx_end -= net->rx_start;
    net->rx_start = 0;
    ASSERT(net->rx_end < sizeof(net->rx_bytes)); /* a frame of any legal size would be whole */
    ssize_t size =
        read(net->options.fd, net->rx_bytes + net->rx_end, sizeof(net->rx_bytes) - net->rx_end);
    if (size <= 0) {
        return size < 0 ? net_result_of_errno() : NET_ENDED;
    }
    net->rx_end += (size_t)size;
    return net_stream_take(net, ret_frame);
}

/* Into the driver's next buffer. False: it goes nowhere. */
static bool net_deliver(struct virtio_net *net, const struct net_frame *frame) {
    struct virtqueue *queue = &net->device.queues[VIRTIO_NET_QUEUE_RX];
    struct virtqueue_chain chain;
    uint8_t header[VIRTIO_NET_HEADER_SIZE] = {[NET_HEADER_NUM_BUFFERS] = 1};
    uint64_t size = sizeof(header) + frame->size;
    ASSERT(frame->size <= sizeof(net->rx_bytes));
    if (!net_size_is_legal(frame->size) || !virtqueue_pop(queue, &chain)) {
        return false;
    }
    if (size > chain.writable_size) {
        virtqueue_unpop(queue, &chain); /* good for a shorter one */
        return false;
    }
    size_t copied = virtqueue_chain_write(&chain, 0, header, sizeof(header));
    copied += virtqueue_chain_write(&chain, sizeof(header), frame->bytes, frame->size);
    ASSERT(copied == size);
    virtqueue_push(queue, chain.head, (uint32_t)size);
    return true;
}

static void net_rx(struct virtio_net *net) {
    struct virtqueue *queue = &net->device.queues[VIRTIO_NET_QUEUE_RX];
    struct net_frame frame;
    enum net_result result = NET_DONE;
    unsigned count = 0;
    ASSERT(net->device.active);
    ASSERT(queue->in_flight == 0);
    while (net->link_up && result == NET_DONE && virtqueue_has_available(queue)) {
        if (count++ == VIRTIO_NET_TURN_FRAMES_MAX) {
            io_again_ask(&net->again);
            break;
        }
        result = net->options.backend == VIRTIO_NET_TAP ? net_tap_read(net, &frame)
                                                        : net_stream_read(net, &frame);
        if (result == NET_DONE) {
            *(net_deliver(net, &frame) ? &net->rx_frames : &net->rx_dropped) += 1;
        } else if (result == NET_ENDED) {
            net_link_down(net);
        }
    }
    ASSERT(queue->in_flight == 0);
    net_watch(net);
    virtio_device_signal(&net->device, VIRTIO_NET_QUEUE_RX);
}

/* ---- guest to host ------------------------------------------------------------------------------- */

/* Sends what is left of the frame that was begun. DONE: nothing is. */
static enum net_result net_stream_flush(struct virtio_net *net) {
    size_t left = net->tx_end - net->tx_start;
    ASSERT(net->tx_start <= net->tx_end);
    ASSERT(net->tx_end <= sizeof(net->tx_bytes));
    if (left == 0) {
        return NET_DONE;
    }
    ssize_t sent =
        send(net->options.fd, net->tx_bytes + net->tx_start, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        return net_result_of_errno();
    }
    net->tx_start += (size_t)sent;
    ASSERT(net->tx_start <= net->tx_end);
    return net->tx_start == net->tx_end ? NET_DONE : NET_LATER;
}

/* DONE: the stream has the frame, or a part of it and we the rest. LATER: it took nothing. */
static enum net_result net_stream_write(struct virtio_net *net, const struct virtqueue_chain *chain,
                                        size_t size) {
    struct iovec parts[VMM_CHAIN_LENGTH_MAX + 1];
    uint8_t length[VIRTIO_NET_STREAM_HEADER_SIZE] = {(uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                                     (uint8_t)(size >> 8), (uint8_t)size};
    struct msghdr message = {.msg_iov = parts};
    size_t total = sizeof(length) + size;
    ASSERT(net->tx_start == net->tx_end);
    ASSERT(total <= sizeof(net->tx_bytes));
    parts[0] = (struct iovec){length, sizeof(length)};
    message.msg_iovlen = 1 + iovec_slice(chain->parts, chain->readable_count,
                                         VIRTIO_NET_HEADER_SIZE, size, parts + 1);
    ssize_t result = sendmsg(net->options.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result < 0) {
        return net_result_of_errno();
    }
    size_t sent = (size_t)result;
    size_t length_sent = min_size(sent, sizeof(length));
    size_t length_left = sizeof(length) - length_sent;
    size_t frame_left = size - (sent - length_sent);
    ASSERT(sent <= total);
    memcpy(net->tx_bytes, length + length_sent, length_left);
    size_t copied = virtqueue_chain_read(chain, VIRTIO_NET_HEADER_SIZE + (size - frame_left),
                                         net->tx_bytes + length_left, frame_left);
    ASSERT(copied == frame_left);
    net->tx_start = 0;
    net->tx_end = length_left + frame_left;
    return NET_DONE;
}

static enum net_result net_tap_write(const struct virtio_net *net,
                                     const struct virtqueue_chain *chain, size_t size) {
    struct iovec parts[VMM_CHAIN_LENGTH_MAX];
    ASSERT(net_size_is_legal(size));
    size_t count =
        iovec_slice(chain->parts, chain->readable_count, VIRTIO_NET_HEADER_SIZE, size, parts);
    ASSERT(count > 0);
    ssize_t sent = writev(net->options.fd, parts, (int)count);
    if (sent < 0) {
        /* An interface that is down refuses frames; it may come up again. */
        return net_result_of_errno() == NET_LATER ? NET_LATER : NET_FAILED;
    }
    return NET_DONE;
}

static enum net_result net_send(struct virtio_net *net, const struct virtqueue_chain *chain) {
    ASSERT(!net->tx_blocked);
    ASSERT(net->tx_start == net->tx_end);
    if (!net->link_up || chain->readable_size < VIRTIO_NET_HEADER_SIZE ||
        !net_size_is_legal(chain->readable_size - VIRTIO_NET_HEADER_SIZE)) {
        return NET_FAILED;
    }
    size_t size = (size_t)chain->readable_size - VIRTIO_NET_HEADER_SIZE;
    return net->options.backend == VIRTIO_NET_TAP ? net_tap_write(net, chain, size)
                                                  : net_stream_write(net, chain, size);
}

/* Sends the next frame of the driver. False: there is none, or it cannot be sent now. */
static bool net_tx_next(struct virtio_net *net) {
    struct virtqueue *queue = &net->device.queues[VIRTIO_NET_QUEUE_TX];
    struct virtqueue_chain chain;
    ASSERT(!net->tx_blocked);
    if (!virtqueue_pop(queue, &chain)) {
        return false;
    }
    enum net_result result = net_send(net, &chain);
    if (result == NET_LATER) {
        virtqueue_unpop(queue, &chain);
        net->tx_blocked = true;
        return false;
    }
    if (result == NET_ENDED) {
        net_link_down(net);
    }
    *(result == NET_DONE ? &net->tx_frames : &net->tx_dropped) += 1;
    virtqueue_push(queue, chain.head, 0);
    net->tx_blocked = net->tx_start < net->tx_end;
    ASSERT(queue->in_flight == 0);
    return !net->tx_blocked;
}

static void net_tx(struct virtio_net *net) {
    struct virtqueue *queue = &net->device.queues[VIRTIO_NET_QUEUE_TX];
    ASSERT(net->device.active);
    ASSERT(queue->in_flight == 0);
    enum net_result result = net_stream_flush(net);
    if (result == NET_ENDED) {
        net_link_down(net);
    }
    net->tx_blocked = result == NET_LATER;
    for (unsigned i = 0; i < VIRTIO_NET_TURN_FRAMES_MAX && !net->tx_blocked; i++) {
        if (!net_tx_next(net)) {
            break;
        }
    }
    if (!net->tx_blocked && virtqueue_has_available(queue)) {
        io_again_ask(&net->again);
    }
    net_watch(net);
    virtio_device_signal(&net->device, VIRTIO_NET_QUEUE_TX);
}

/* ---- events -------------------------------------------------------------------------------------- */

static void net_on_event(void *context, uint32_t events) {
    struct virtio_net *net = context;
    ASSERT(net->device.active);
    ASSERT(net->link_up);
    if (events & EPOLLIN) {
        net_rx(net);
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        net_link_down(net); /* nothing more is to be read, or there is nowhere to put it */
    }
    if (events & EPOLLOUT && net->link_up) {
        net_tx(net);
    }
}

static void net_work(void *context) {
    struct virtio_net *net = context;
    ASSERT(net->io);
    ASSERT(net->device.ops);
    if (net->device.active) {
        net_link_tell(net);
        net_rx(net);
        net_tx(net);
    }
}

static void net_notify(struct virtio_device *device, uint16_t queue_index) {
    struct virtio_net *net = net_of(device);
    ASSERT(device->ops->id == VIRTIO_ID_NET);
    ASSERT(queue_index < device->ops->queue_count);
    if (!device->active) {
        return;
    }
    if (queue_index == VIRTIO_NET_QUEUE_RX) {
        net_rx(net);
    } else {
        net_tx(net);
    }
}

/* ---- life ---------------------------------------------------------------------------------------- */

/* Puts the descriptor into the loop, where it is watched as the queues allow. */
static void net_start(struct virtio_net *net) {
    ASSERT(net->io);
    ASSERT(net->source.fd == net->options.fd);
    io_remove(net->io, &net->source);
    net->watched = 0;
    net->started = net->link_up && io_add(net->io, &net->source, 0, NULL) == KELPIE_OK;
    if (net->link_up && !net->started) {
        net_link_down(net); /* a network that cannot be waited for is none */
    }
    io_again_ask(&net->again);
}

static void net_activate(struct virtio_device *device) {
    struct virtio_net *net = net_of(device);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_RX].in_flight == 0);
    net->link_told = net->link_up; /* it reads the config itself */
    net_start(net);
}

static void net_reset(struct virtio_device *device) {
    struct virtio_net *net = net_of(device);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_RX].in_flight == 0);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_TX].in_flight == 0);
    io_remove(net->io, &net->source);
    net->started = false;
    net->watched = 0;
}

/* struct virtio_net_config (5.1.4). */
static void net_config_read(struct virtio_device *device, uint64_t offset, void *data,
                            uint32_t size) {
    const struct virtio_net *net = net_of(device);
    uint8_t config[VIRTIO_NET_CONFIG_SIZE];
    struct cursor_writer writer = cursor_writer_init(config, sizeof(config));
    ASSERT(data);
    cursor_write_bytes(&writer, net->options.mac, VIRTIO_NET_MAC_SIZE);
    cursor_write_u16(&writer, net->link_up ? VIRTIO_NET_S_LINK_UP : 0);
    cursor_write_u16(&writer, 1); /* max_virtqueue_pairs */
    cursor_write_u16(&writer, net->options.mtu);
    ASSERT(!writer.failed && writer.size == sizeof(config));
    virtio_config_read(config, sizeof(config), offset, data, size);
}

/* Nothing of it is the driver's to write: with VERSION_1, not even the MAC. */
static void net_config_write(struct virtio_device *device, uint64_t offset, const void *data,
                             uint32_t size) {
    ASSERT(device);
    ASSERT(data);
    (void)offset;
    (void)size;
}

/* ---- state --------------------------------------------------------------------------------------- */

/* One host's address: not a group's, and not all zeros. */
static bool net_mac_is_legal(const uint8_t *mac) {
    static const uint8_t none[VIRTIO_NET_MAC_SIZE];
    ASSERT(mac);
    return (mac[0] & 1) == 0 && memcmp(mac, none, sizeof(none)) != 0;
}

static void net_save(struct virtio_device *device, struct state_writer *state, uint16_t instance) {
    const struct virtio_net *net = net_of(device);
    struct cursor_writer *writer = state_begin(state, NET_SECTION, NET_SECTION_VERSION, instance);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_RX].in_flight == 0);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_TX].in_flight == 0);
    cursor_write_bytes(writer, net->options.mac, VIRTIO_NET_MAC_SIZE);
    cursor_write_u16(writer, net->options.mtu);
    cursor_write_u8(writer, net->link_told);
    state_end(state);
}

/* The MAC is the saved one, for the driver has it; whether the link is up is ours to say, and the driver is told when it
 * thinks otherwise. */
static enum kelpie_status net_load(struct virtio_device *device, struct state_reader *state,
                                   uint16_t instance, struct kelpie_error *err) {
    struct virtio_net *net = net_of(device);
    struct cursor_reader reader;
    TRY(state_find(state, NET_SECTION, NET_SECTION_VERSION, instance, &reader, err));
    const uint8_t *mac = cursor_read_bytes(&reader, VIRTIO_NET_MAC_SIZE);
    uint16_t mtu = cursor_read_u16(&reader);
    uint8_t link_told = cursor_read_u8(&reader);
    TRY(state_check(&reader, mac && net_mac_is_legal(mac) && link_told <= 1, "net", err));
    ASSERT(mac);
    ASSERT(device->queues[VIRTIO_NET_QUEUE_RX].in_flight == 0);
    if (mtu != net->options.mtu) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "net",
                               "network %u has an MTU of %u; when the state was saved it was %u",
                               instance, net->options.mtu, mtu);
    }
    memcpy(net->options.mac, mac, VIRTIO_NET_MAC_SIZE);
    net->link_told = link_told != 0;
    if (device->active) {
        net_start(net);
    }
    return KELPIE_OK;
}

static const struct virtio_ops net_ops = {
    .name = "net",
    .id = VIRTIO_ID_NET,
    .queue_count = 2,
    .queue_size_max = VIRTIO_NET_QUEUE_SIZE,
    .config_read = net_config_read,
    .config_write = net_config_write,
    .activate = net_activate,
    .reset = net_reset,
    .notify = net_notify,
    .save = net_save,
    .load = net_load,
};
static_assert(VIRTIO_NET_QUEUE_SIZE <= VMM_QUEUE_SIZE_MAX, "the queues have room");

static enum kelpie_status net_check(const struct virtio_net_options *options,
                                    struct kelpie_error *err) {
    ASSERT(options->backend == VIRTIO_NET_TAP || options->backend == VIRTIO_NET_STREAM);
    ASSERT(options->fd >= 0);
    int flags = fcntl(options->fd, F_GETFL);
    if (flags < 0) {
        return error_set_os(err, errno, "asking for the flags of a network's descriptor");
    }
    if ((flags & O_NONBLOCK) == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "net",
                               "a network's descriptor must be non-blocking");
    }
    if (!net_mac_is_legal(options->mac)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "net",
                               "a MAC address must be one host's: the lowest bit of its first byte "
                               "is 0, and not all of it is");
    }
    if (options->mtu != 0 && options->mtu < VIRTIO_NET_MTU_MIN) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "net", "an MTU must be 0 or at least %u",
                               VIRTIO_NET_MTU_MIN);
    }
    return KELPIE_OK;
}

enum kelpie_status virtio_net_init(struct virtio_net *net, const struct virtio_net_options *options,
                                   const struct memory *memory, struct device_irq irq,
                                   struct io *io, struct kelpie_error *err) {
    ASSERT(net && options);
    ASSERT(memory && io);
    /* All but the two buffers behind it, whose pages need not be touched yet. */
    memset(net, 0, offsetof(struct virtio_net, rx_bytes));
    TRY(net_check(options, err));
    net->options = *options;
    net->io = io;
    net->source = (struct io_source){.fd = options->fd, .handler = net_on_event, .context = net};
    net->link_up = true;
    net->link_told = true;
    uint64_t features = VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS;
    features |= options->mtu != 0 ? VIRTIO_NET_F_MTU : 0;
    virtio_device_init(&net->device, &net_ops, memory, irq, features);
    return io_again_init(&net->again, io, net_work, net, err);
}

void virtio_net_deinit(struct virtio_net *net) {
    ASSERT(net);
    if (net->io) {
        io_remove(net->io, &net->source);
    }
    io_again_deinit(&net->again);
    ASSERT(!net->again.io);
}
