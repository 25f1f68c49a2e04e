/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_console.h"

#include "base/assert.h"
#include "base/checked.h"

#define CONSOLE_SECTION STATE_TAG('V', 'C', 'O', 'N')
#define CONSOLE_SECTION_VERSION 1
#define RECEIVE_QUEUE 0
#define TRANSMIT_QUEUE 1
#define QUEUE_COUNT 2

/* The bytes are copied out before they are passed on: the guest may change them meanwhile. */
static void console_write(struct virtio_console *console, const struct virtqueue_chain *chain) {
    uint8_t piece[VIRTIO_CONSOLE_PIECE_SIZE_MAX];
    uint64_t size = min_u64(chain->readable_size, VIRTIO_CONSOLE_CHAIN_BYTES_MAX);
    ASSERT(console->line.output);
    static_assert(VIRTIO_CONSOLE_CHAIN_BYTES_MAX % VIRTIO_CONSOLE_PIECE_SIZE_MAX == 0,
                  "the last piece is cut at the limit too");
    for (uint64_t done = 0; done < size;) {
        size_t wanted = (size_t)min_u64(size - done, sizeof(piece));
        size_t count = virtqueue_chain_read(chain, done, piece, wanted);
        ASSERT(count == wanted);
        console->line.output(console->line.context, piece, count);
        done += count;
    }
}

static void console_work(void *context) {
    struct virtio_console *console = context;
    struct virtqueue *queue = &console->device.queues[TRANSMIT_QUEUE];
    struct virtqueue_chain chain;
    if (!console->device.active) {
        return;
    }
    ASSERT(queue->in_flight == 0);
    for (unsigned i = 0; i < VIRTIO_CONSOLE_BURST_COUNT_MAX; i++) {
        if (!virtqueue_pop(queue, &chain)) {
            break;
        }
        console_write(console, &chain);
        virtqueue_push(queue, chain.head, 0);
    }
    ASSERT(queue->in_flight == 0);
    if (virtqueue_has_available(queue)) {
        io_again_ask(&console->again);
    }
    virtio_device_signal(&console->device, TRANSMIT_QUEUE);
}

static struct virtio_console *console_of(struct virtio_device *device) {
    static_assert(offsetof(struct virtio_console, device) == 0, "a struct virtio_device is first");
    ASSERT(device);
    return (struct virtio_console *)device;
}

static void console_notify(struct virtio_device *device, uint16_t queue_index) {
    ASSERT(device->ops->id == VIRTIO_ID_CONSOLE);
    ASSERT(queue_index < QUEUE_COUNT);
    if (queue_index == TRANSMIT_QUEUE) {
        console_work(console_of(device));
    }
}

static void console_nothing(struct virtio_device *device) {
    ASSERT(device->ops->id == VIRTIO_ID_CONSOLE);
    ASSERT(device->queues[TRANSMIT_QUEUE].in_flight == 0);
}

/* An empty section: that it is there says that the machine had this device. */
static void console_save(struct virtio_device *device, struct state_writer *state,
                         uint16_t instance) {
    struct cursor_writer *writer =
        state_begin(state, CONSOLE_SECTION, CONSOLE_SECTION_VERSION, instance);
    ASSERT(writer);
    ASSERT(device->queues[RECEIVE_QUEUE].in_flight == 0);
    state_end(state);
}

static enum kelpie_status console_load(struct virtio_device *device, struct state_reader *state,
                                       uint16_t instance, struct kelpie_error *err) {
    struct virtio_console *console = console_of(device);
    struct cursor_reader reader;
    ASSERT(state);
    TRY(state_find(state, CONSOLE_SECTION, CONSOLE_SECTION_VERSION, instance, &reader, err));
    TRY(state_check(&reader, true, "console", err));
    if (device->active) {
        io_again_ask(&console->again); /* what stood in the queue, its kick lost */
    }
    return KELPIE_OK;
}

/* No feature is offered, so no field of the config space is there (5.3.4). */
static const struct virtio_ops console_ops = {
    .name = "console",
    .id = VIRTIO_ID_CONSOLE,
    .queue_count = QUEUE_COUNT,
    .queue_size_max = VIRTIO_CONSOLE_QUEUE_SIZE,
    .activate = console_nothing,
    .reset = console_nothing,
    .notify = console_notify,
    .save = console_save,
    .load = console_load,
};
static_assert(VIRTIO_CONSOLE_QUEUE_SIZE <= VMM_QUEUE_SIZE_MAX, "the queues have room");

enum kelpie_status virtio_console_init(struct virtio_console *console,
                                       struct virtio_console_line line, const struct memory *memory,
                                       struct device_irq irq, struct io *io,
                                       struct kelpie_error *err) {
    ASSERT(console && line.output);
    ASSERT(memory && io);
    *console = (struct virtio_console){.line = line};
    virtio_device_init(&console->device, &console_ops, memory, irq, 0);
    return io_again_init(&console->again, io, console_work, console, err);
}

void virtio_console_deinit(struct virtio_console *console) {
    ASSERT(console);
    ASSERT(console->device.queues[TRANSMIT_QUEUE].in_flight == 0);
    io_again_deinit(&console->again);
}
