/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_balloon.h"

#include <string.h>
#include <sys/mman.h>

#define BALLOON_SECTION STATE_TAG('V', 'B', 'L', 'N')
#define BALLOON_SECTION_VERSION 1
#define BALLOON_PFN_SIZE 4
/* `actual` in the config space (5.5.4), the one field that is the driver's to write. */
#define BALLOON_CONFIG_ACTUAL 4
#define BALLOON_CONFIG_ACTUAL_SIZE 4

static uint64_t balloon_page_count(const struct virtio_balloon *balloon) {
    ASSERT(balloon->device.memory);
    ASSERT(balloon->device.memory->size % VMM_PAGE_SIZE == 0);
    return balloon->device.memory->size / VMM_PAGE_SIZE;
}

/* Whole pages of the mapping. */
static void balloon_drop(struct virtio_balloon *balloon, void *start, size_t size) {
    int advice = balloon->options.memory_is_shared ? MADV_REMOVE : MADV_DONTNEED;
    ASSERT((uintptr_t)start % VMM_PAGE_SIZE == 0);
    ASSERT(size > 0 && size % VMM_PAGE_SIZE == 0);
    /* Nothing hangs on it: memory that could not be given back is still the guest's. */
    if (madvise(start, size, advice) == 0) {
        balloon->dropped_pages += size / VMM_PAGE_SIZE;
    }
}

static void balloon_inflate(struct virtio_balloon *balloon, const struct virtqueue_chain *chain) {
    uint8_t bytes[VIRTIO_BALLOON_CHAIN_PAGES_MAX * BALLOON_PFN_SIZE];
    size_t size = virtqueue_chain_read(chain, 0, bytes, sizeof(bytes));
    size_t count = size / BALLOON_PFN_SIZE; /* the rest, less than a number, is nothing */
    struct cursor_reader reader = cursor_reader_init(bytes, size);
    ASSERT(size <= sizeof(bytes));
    for (size_t i = 0; i < count; i++) {
        uint64_t gpa = (uint64_t)cursor_read_u32(&reader) << VIRTIO_BALLOON_PAGE_SHIFT;
        void *page = memory_writable(balloon->device.memory, gpa, VMM_PAGE_SIZE);
        if (page) {
            balloon_drop(balloon, page, VMM_PAGE_SIZE);
        }
    }
    ASSERT(!reader.failed);
}

/* Each part is a range that is free (5.5.6.7): the whole pages in it. */
static void balloon_report(struct virtio_balloon *balloon, const struct virtqueue_chain *chain) {
    const struct iovec *parts = chain->parts + chain->readable_count;
    ASSERT(chain->readable_count + chain->writable_count <= VMM_CHAIN_LENGTH_MAX);
    for (size_t i = 0; i < chain->writable_count; i++) {
        uintptr_t start = (uintptr_t)parts[i].iov_base;
        uintptr_t end = start + parts[i].iov_len;
        size_t before = (size_t)(-start % VMM_PAGE_SIZE);
        ASSERT(end >= start);
        end -= end % VMM_PAGE_SIZE;
        if (start + before < end) {
            balloon_drop(balloon, (uint8_t *)parts[i].iov_base + before, end - (start + before));
        }
    }
}

/* A bounded piece of work on one queue. True when there is more. */
static bool balloon_work_queue(struct virtio_balloon *balloon, uint16_t queue_index) {
    struct virtqueue *queue = &balloon->device.queues[queue_index];
    struct virtqueue_chain chain;
    bool reports = virtio_device_has(&balloon->device, VIRTIO_BALLOON_F_REPORTING);
    ASSERT(queue_index < VIRTIO_BALLOON_QUEUE_COUNT);
    ASSERT(queue->in_flight == 0);
    for (unsigned i = 0; i < VIRTIO_BALLOON_BURST_COUNT_MAX; i++) {
        if (!virtqueue_pop(queue, &chain)) {
            break;
        }
        if (queue_index == VIRTIO_BALLOON_QUEUE_INFLATE) {
            balloon_inflate(balloon, &chain);
        } else if (queue_index >= VIRTIO_BALLOON_QUEUE_REPORTING && reports) {
            balloon_report(balloon, &chain);
        }
        virtqueue_push(queue, chain.head, 0);
    }
    bool more = virtqueue_has_available(queue);
    virtio_device_signal(&balloon->device, queue_index);
    return more;
}

static void balloon_work(void *context) {
    struct virtio_balloon *balloon = context;
    bool more = false;
    ASSERT(balloon->device.ops);
    ASSERT(balloon->device.ops->queue_count == VIRTIO_BALLOON_QUEUE_COUNT);
    for (uint16_t i = 0; i < VIRTIO_BALLOON_QUEUE_COUNT && balloon->device.active; i++) {
        if (balloon->device.queues[i].ready) {
            more |= balloon_work_queue(balloon, i);
        }
    }
    if (more) {
        io_again_ask(&balloon->again);
    }
}

static struct virtio_balloon *balloon_of(struct virtio_device *device) {
    static_assert(offsetof(struct virtio_balloon, device) == 0, "a virtio_device comes first");
    ASSERT(device);
    return (struct virtio_balloon *)device;
}

static void balloon_notify(struct virtio_device *device, uint16_t queue_index) {
    struct virtio_balloon *balloon = balloon_of(device);
    ASSERT(queue_index < device->ops->queue_count);
    if (device->active && balloon_work_queue(balloon, queue_index)) {
        io_again_ask(&balloon->again);
    }
}

/* struct virtio_balloon_config (5.5.4). */
static void balloon_config_read(struct virtio_device *device, uint64_t offset, void *data,
                                uint32_t size) {
    const struct virtio_balloon *balloon = balloon_of(device);
    uint8_t config[VIRTIO_BALLOON_CONFIG_SIZE];
    struct cursor_writer writer = cursor_writer_init(config, sizeof(config));
    ASSERT(data);
    cursor_write_u32(&writer, balloon->target);
    ASSERT(writer.size == BALLOON_CONFIG_ACTUAL);
    cursor_write_u32(&writer, balloon->actual);
    cursor_write_u32(&writer, 0); /* free_page_hint_cmd_id */
    cursor_write_u32(&writer, 0); /* poison_val */
    ASSERT(!writer.failed && writer.size == sizeof(config));
    virtio_config_read(config, sizeof(config), offset, data, size);
}

static void balloon_config_write(struct virtio_device *device, uint64_t offset, const void *data,
                                 uint32_t size) {
    struct virtio_balloon *balloon = balloon_of(device);
    const uint8_t *bytes = data;
    ASSERT(data);
    ASSERT(size <= 8);
    for (uint32_t i = 0; i < size && offset < VIRTIO_BALLOON_CONFIG_SIZE; i++) {
        /* Below `actual` this is a large number. */
        uint64_t index = offset + i - BALLOON_CONFIG_ACTUAL;
        if (index < BALLOON_CONFIG_ACTUAL_SIZE) {
            uint32_t shift = (uint32_t)index * 8;
            balloon->actual &= ~(0xffu << shift);
            balloon->actual |= (uint32_t)bytes[i] << shift;
        }
    }
}

static void balloon_activate(struct virtio_device *device) {
    ASSERT(device->queues[VIRTIO_BALLOON_QUEUE_INFLATE].in_flight == 0);
}

/* A driver that begins anew holds no page. The target is the host's wish and stays. */
static void balloon_reset(struct virtio_device *device) {
    struct virtio_balloon *balloon = balloon_of(device);
    ASSERT(balloon->target <= balloon_page_count(balloon));
    balloon->actual = 0;
}

static void balloon_save(struct virtio_device *device, struct state_writer *state,
                         uint16_t instance) {
    const struct virtio_balloon *balloon = balloon_of(device);
    struct cursor_writer *writer =
        state_begin(state, BALLOON_SECTION, BALLOON_SECTION_VERSION, instance);
    ASSERT(balloon->target <= balloon_page_count(balloon));
    cursor_write_u32(writer, balloon->target);
    cursor_write_u32(writer, balloon->actual);
    state_end(state);
}

static enum kelpie_status balloon_load(struct virtio_device *device, struct state_reader *state,
                                       uint16_t instance, struct kelpie_error *err) {
    struct virtio_balloon *balloon = balloon_of(device);
    struct cursor_reader reader;
    TRY(state_find(state, BALLOON_SECTION, BALLOON_SECTION_VERSION, instance, &reader, err));
    uint32_t target = cursor_read_u32(&reader);
    uint32_t actual = cursor_read_u32(&reader); /* the driver could have said anything */
    TRY(state_check(&reader, target <= balloon_page_count(balloon), "balloon", err));
    balloon->target = target;
    balloon->actual = actual;
    ASSERT(balloon->target <= balloon_page_count(balloon));
    if (device->active) {
        io_again_ask(&balloon->again); /* what stood in the queues, its kick lost */
    }
    return KELPIE_OK;
}

static const struct virtio_ops balloon_ops = {
    .name = "balloon",
    .id = VIRTIO_ID_BALLOON,
    .queue_count = VIRTIO_BALLOON_QUEUE_COUNT,
    .queue_size_max = VIRTIO_BALLOON_QUEUE_SIZE,
    .config_read = balloon_config_read,
    .config_write = balloon_config_write,
    .activate = balloon_activate,
    .reset = balloon_reset,
    .notify = balloon_notify,
    .save = balloon_save,
    .load = balloon_load,
};
static_assert(VIRTIO_BALLOON_QUEUE_COUNT <= VMM_QUEUE_COUNT_MAX, "the queues have room");

enum kelpie_status virtio_balloon_init(struct virtio_balloon *balloon,
                                       const struct virtio_balloon_options *options,
                                       const struct memory *memory, struct device_irq irq,
                                       struct io *io, struct kelpie_error *err) {
    ASSERT(balloon && options);
    ASSERT(memory && io);
    ASSERT((uintptr_t)memory->host % VMM_PAGE_SIZE == 0);
    *balloon = (struct virtio_balloon){.options = *options};
    virtio_device_init(&balloon->device, &balloon_ops, memory, irq,
                       VIRTIO_BALLOON_F_DEFLATE_ON_OOM | VIRTIO_BALLOON_F_REPORTING);
    return io_again_init(&balloon->again, io, balloon_work, balloon, err);
}

void virtio_balloon_deinit(struct virtio_balloon *balloon) {
    ASSERT(balloon);
    ASSERT(balloon->device.queues[VIRTIO_BALLOON_QUEUE_INFLATE].in_flight == 0);
    io_again_deinit(&balloon->again);
}

bool virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t pages) {
    ASSERT(balloon);
    ASSERT(balloon->device.ops);
    if (pages > balloon_page_count(balloon) || pages > UINT32_MAX) {
        return false;
    }
    if (pages != balloon->target) {
        balloon->target = (uint32_t)pages;
        virtio_device_config_changed(&balloon->device);
    }
    return true;
}
