/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_blk.h"

#include <string.h>

#include "vmm/device/iovec.h"

#define BLK_SECTION STATE_TAG('V', 'B', 'L', 'K')
#define BLK_SECTION_VERSION 1
#define BLK_QUEUE 0
struct blk_header {
    uint32_t type;
    uint64_t sector;
};

/* What a request does beside its status. */
struct blk_result {
    uint64_t data_written; /* bytes of the writable parts, from the first on */
    uint64_t cost;         /* bytes that were moved */
};

struct blk_range {
    uint64_t sector;
    uint32_t sector_count;
    uint32_t flags;
};

struct blk_ranges {
    size_t count;
    struct blk_range ranges[VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX];
};
static_assert(VIRTIO_BLK_ZEROES_RANGE_COUNT_MAX <= VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX,
              "ranges of both kinds have room");

/* True when all of [sector, sector + sector_count) is on the disk. */
static bool blk_has(const struct virtio_blk *blk, uint64_t sector, uint64_t sector_count) {
    ASSERT(blk->capacity <= INT64_MAX / VIRTIO_BLK_SECTOR_SIZE);
    return sector <= blk->capacity && sector_count <= blk->capacity - sector;
}

static uint8_t blk_status(enum blk_store_result result) {
    static_assert((int)BLK_STORE_DONE == VIRTIO_BLK_S_OK, "one number");
    static_assert((int)BLK_STORE_FAILED == VIRTIO_BLK_S_IOERR, "one number");
    static_assert((int)BLK_STORE_UNSUPPORTED == VIRTIO_BLK_S_UNSUPP, "one number");
    return (uint8_t)result;
}

static uint8_t blk_flush(const struct virtio_blk *blk) {
    ASSERT(blk->store.fd >= 0);
    ASSERT(!blk->options.read_only);
    return blk_status(blk_store_flush(&blk->store));
}

/* After a change of the disk: a driver that cannot flush is told only when it is stable (5.2.6.2). */
static uint8_t blk_settle(const struct virtio_blk *blk, uint8_t status) {
    ASSERT(!blk->options.read_only);
    ASSERT(status <= VIRTIO_BLK_S_UNSUPP);
    if (status != VIRTIO_BLK_S_OK || virtio_device_has(&blk->device, VIRTIO_BLK_F_FLUSH)) {
        return status;
    }
    return blk_flush(blk);
}

static uint8_t blk_in(const struct virtio_blk *blk, const struct virtqueue_chain *chain,
                      uint64_t sector, struct blk_result *result) {
    struct blk_transfer transfer;
    uint64_t size = chain->writable_size - 1;
    ASSERT(chain->writable_size > 0);
    ASSERT(result->data_written == 0);
    if (size % VIRTIO_BLK_SECTOR_SIZE != 0 || size > VIRTIO_BLK_REQUEST_SIZE_MAX ||
        !blk_has(blk, sector, size / VIRTIO_BLK_SECTOR_SIZE)) {
        return VIRTIO_BLK_S_IOERR;
    }
    transfer.position = sector * VIRTIO_BLK_SECTOR_SIZE;
    transfer.size = size;
    transfer.done = 0;
    transfer.part_count = iovec_slice(chain->parts + chain->readable_count, chain->writable_count,
                                      0, size, transfer.parts);
    uint8_t status = blk_status(blk_store_read(&blk->store, &transfer));
    result->data_written = transfer.done;
    result->cost = transfer.done;
    return status;
}

static uint8_t blk_out(struct virtio_blk *blk, const struct virtqueue_chain *chain, uint64_t sector,
                       struct blk_result *result) {
    struct blk_transfer transfer;
    uint64_t size = chain->readable_size - VIRTIO_BLK_HEADER_SIZE;
    ASSERT(chain->readable_size >= VIRTIO_BLK_HEADER_SIZE);
    ASSERT(result->data_written == 0);
    if (blk->options.read_only || size % VIRTIO_BLK_SECTOR_SIZE != 0 ||
        size > VIRTIO_BLK_REQUEST_SIZE_MAX ||
        !blk_has(blk, sector, size / VIRTIO_BLK_SECTOR_SIZE)) {
        return VIRTIO_BLK_S_IOERR;
    }
    transfer.position = sector * VIRTIO_BLK_SECTOR_SIZE;
    transfer.size = size;
    transfer.done = 0;
    transfer.part_count = iovec_slice(chain->parts, chain->readable_count, VIRTIO_BLK_HEADER_SIZE,
                                      size, transfer.parts);
    uint8_t status = blk_status(blk_store_write(&blk->store, &transfer));
    result->cost = transfer.done;
    return blk_settle(blk, status);
}

static uint8_t blk_get_id(const struct virtio_blk *blk, const struct virtqueue_chain *chain,
                          struct blk_result *result) {
    size_t room = min_size(chain->writable_size - 1, VIRTIO_BLK_ID_SIZE);
    ASSERT(chain->writable_size > 0);
    result->data_written = virtqueue_chain_write(chain, 0, blk->options.id, room);
    ASSERT(result->data_written == room);
    return VIRTIO_BLK_S_OK;
}

/* The ranges of DISCARD and WRITE_ZEROES (5.2.6), all copied and checked before the first is carried out. */
static uint8_t blk_read_ranges(const struct virtio_blk *blk, const struct virtqueue_chain *chain,
                               bool is_discard, struct blk_ranges *ret_ranges) {
    uint8_t bytes[VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX * VIRTIO_BLK_RANGE_SIZE];
    uint64_t size = chain->readable_size - VIRTIO_BLK_HEADER_SIZE;
    uint64_t count = size / VIRTIO_BLK_RANGE_SIZE;
    uint64_t count_max =
        is_discard ? VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX : VIRTIO_BLK_ZEROES_RANGE_COUNT_MAX;
    uint32_t sectors_max =
        is_discard ? VIRTIO_BLK_DISCARD_SECTORS_MAX : VIRTIO_BLK_ZEROES_SECTORS_MAX;
    ASSERT(chain->readable_size >= VIRTIO_BLK_HEADER_SIZE);
    if (size % VIRTIO_BLK_RANGE_SIZE != 0 || count == 0 || count > count_max) {
        return VIRTIO_BLK_S_IOERR;
    }
    size_t copied = virtqueue_chain_read(chain, VIRTIO_BLK_HEADER_SIZE, bytes, (size_t)size);
    ASSERT(copied == size);
    struct cursor_reader reader = cursor_reader_init(bytes, copied);
    ret_ranges->count = (size_t)count;
    for (size_t i = 0; i < count; i++) {
        struct blk_range *range = &ret_ranges->ranges[i];
        range->sector = cursor_read_u64(&reader);
        range->sector_count = cursor_read_u32(&reader);
        range->flags = cursor_read_u32(&reader);
        if ((range->flags & ~(is_discard ? 0u : VIRTIO_BLK_RANGE_UNMAP)) != 0) {
            return VIRTIO_BLK_S_UNSUPP;
        }
        if (range->sector_count > sectors_max ||
            !blk_has(blk, range->sector, range->sector_count)) {
            return VIRTIO_BLK_S_IOERR;
        }
    }
    ASSERT(cursor_reader_finished(&reader));
    return VIRTIO_BLK_S_OK;
}

static uint8_t blk_clear(struct virtio_blk *blk, const struct virtqueue_chain *chain,
                         bool is_discard, struct blk_result *result) {
    struct blk_ranges ranges;
    uint64_t feature = is_discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
    ASSERT(result->cost == 0);
    if (blk->options.read_only) {
        return VIRTIO_BLK_S_IOERR;
    }
    if (!virtio_device_has(&blk->device, feature)) {
        return VIRTIO_BLK_S_UNSUPP;
    }
    uint8_t status = blk_read_ranges(blk, chain, is_discard, &ranges);
    if (status != VIRTIO_BLK_S_OK) {
        return status;
    }
    ASSERT(ranges.count <= VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX);
    for (size_t i = 0; i < ranges.count && status == VIRTIO_BLK_S_OK; i++) {
        const struct blk_range *range = &ranges.ranges[i];
        uint64_t position = range->sector * VIRTIO_BLK_SECTOR_SIZE;
        uint64_t size = (uint64_t)range->sector_count * VIRTIO_BLK_SECTOR_SIZE;
        bool unmap = (range->flags & VIRTIO_BLK_RANGE_UNMAP) != 0;
        status = blk_status(
            is_discard ? blk_store_discard(&blk->store, position, size)
                       : blk_store_zero(&blk->store, position, size, unmap, &result->cost));
    }
    return blk_settle(blk, status);
}

static uint8_t blk_execute(struct virtio_blk *blk, const struct virtqueue_chain *chain,
                           const struct blk_header *header, struct blk_result *result) {
    ASSERT(chain->writable_size > 0);
    ASSERT(result->data_written == 0);
    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        return blk_in(blk, chain, header->sector, result);
    case VIRTIO_BLK_T_OUT:
        return blk_out(blk, chain, header->sector, result);
    case VIRTIO_BLK_T_FLUSH:
        return blk->options.read_only ? VIRTIO_BLK_S_OK : blk_flush(blk);
    case VIRTIO_BLK_T_GET_ID:
        return blk_get_id(blk, chain, result);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return blk_clear(blk, chain, header->type == VIRTIO_BLK_T_DISCARD, result);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* One request, from its header to its place in the used ring. Returns what it cost, in bytes. */
static uint64_t blk_handle(struct virtio_blk *blk, const struct virtqueue_chain *chain) {
    struct virtqueue *queue = &blk->device.queues[BLK_QUEUE];
    struct blk_result result = {0};
    uint8_t bytes[VIRTIO_BLK_HEADER_SIZE];
    uint8_t status = VIRTIO_BLK_S_IOERR;
    ASSERT(queue->in_flight == 1);
    if (chain->writable_size == 0) {
        virtqueue_push(queue, chain->head, 0); /* there is no byte to say it in */
        return 0;
    }
    if (virtqueue_chain_read(chain, 0, bytes, sizeof(bytes)) == sizeof(bytes)) {
        struct cursor_reader reader = cursor_reader_init(bytes, sizeof(bytes));
        struct blk_header header = {.type = cursor_read_u32(&reader)};
        (void)cursor_read_u32(&reader); /* reserved */
        header.sector = cursor_read_u64(&reader);
        ASSERT(cursor_reader_finished(&reader));
        status = blk_execute(blk, chain, &header, &result);
    }
    uint64_t data_size = chain->writable_size - 1;
    ASSERT(result.data_written <= data_size);
    (void)virtqueue_chain_write(chain, data_size, &status, sizeof(status));
    uint64_t written = result.data_written == data_size ? data_size + 1 : result.data_written;
    virtqueue_push(queue, chain->head, (uint32_t)written);
    return result.cost;
}

static void blk_work(void *context) {
    struct virtio_blk *blk = context;
    struct virtqueue *queue = &blk->device.queues[BLK_QUEUE];
    struct virtqueue_chain chain;
    uint64_t cost = 0;
    if (!blk->device.active) {
        return;
    }
    ASSERT(queue->in_flight == 0);
    for (unsigned i = 0; i < VIRTIO_BLK_BURST_COUNT_MAX && cost < VIRTIO_BLK_BURST_SIZE_MAX; i++) {
        if (!virtqueue_pop(queue, &chain)) {
            break;
        }
        cost += blk_handle(blk, &chain);
    }
    ASSERT(queue->in_flight == 0);
    if (virtqueue_has_available(queue)) {
        io_again_ask(&blk->again);
    }
    virtio_device_signal(&blk->device, BLK_QUEUE);
}

static struct virtio_blk *blk_of(struct virtio_device *device) {
    static_assert(offsetof(struct virtio_blk, device) == 0, "a struct virtio_device comes first");
    ASSERT(device);
    return (struct virtio_blk *)device;
}

static void blk_notify(struct virtio_device *device, uint16_t queue_index) {
    ASSERT(device->ops->id == VIRTIO_ID_BLOCK);
    ASSERT(queue_index < device->ops->queue_count);
    blk_work(blk_of(device));
}

/* struct virtio_blk_config (5.2.4). */
static void blk_config_read(struct virtio_device *device, uint64_t offset, void *data,
                            uint32_t size) {
    const struct virtio_blk *blk = blk_of(device);
    uint8_t config[VIRTIO_BLK_CONFIG_SIZE];
    struct cursor_writer writer = cursor_writer_init(config, sizeof(config));
    bool writable = !blk->options.read_only;
    ASSERT(data);
    cursor_write_u64(&writer, blk->capacity);
    cursor_write_u32(&writer, VIRTIO_BLK_SEGMENT_SIZE_MAX);
    cursor_write_u32(&writer, VIRTIO_BLK_SEGMENT_COUNT_MAX);
    cursor_write_u32(&writer, 0); /* geometry */
    cursor_write_u32(&writer, VIRTIO_BLK_SECTOR_SIZE);
    cursor_write_u64(&writer, 0); /* topology */
    cursor_write_u32(&writer, 0); /* writeback, num_queues */
    cursor_write_u32(&writer, writable ? VIRTIO_BLK_DISCARD_SECTORS_MAX : 0);
    cursor_write_u32(&writer, writable ? VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX : 0);
    cursor_write_u32(&writer, writable ? VMM_PAGE_SIZE / VIRTIO_BLK_SECTOR_SIZE : 0);
    cursor_write_u32(&writer, writable ? VIRTIO_BLK_ZEROES_SECTORS_MAX : 0);
    cursor_write_u32(&writer, writable ? VIRTIO_BLK_ZEROES_RANGE_COUNT_MAX : 0);
    cursor_write_u32(&writer, writable ? 1 : 0); /* write_zeroes_may_unmap, padding */
    ASSERT(!writer.failed && writer.size == sizeof(config));
    virtio_config_read(config, sizeof(config), offset, data, size);
}

/* Nothing of it is the driver's to write. */
static void blk_config_write(struct virtio_device *device, uint64_t offset, const void *data,
                             uint32_t size) {
    ASSERT(device);
    ASSERT(data);
    (void)offset;
    (void)size;
}

static void blk_nothing(struct virtio_device *device) {
    ASSERT(device->ops->id == VIRTIO_ID_BLOCK);
    ASSERT(device->queues[BLK_QUEUE].in_flight == 0);
}

static void blk_save(struct virtio_device *device, struct state_writer *state, uint16_t instance) {
    const struct virtio_blk *blk = blk_of(device);
    struct cursor_writer *writer = state_begin(state, BLK_SECTION, BLK_SECTION_VERSION, instance);
    ASSERT(device->queues[BLK_QUEUE].in_flight == 0);
    cursor_write_u64(writer, blk->capacity);
    cursor_write_u8(writer, blk->options.read_only);
    cursor_write_bytes(writer, blk->options.id, sizeof(blk->options.id));
    state_end(state);
}

/* A guest that goes on must find the disk that it left: as large, as writable, and called the same. */
static enum kelpie_status blk_load(struct virtio_device *device, struct state_reader *state,
                                   uint16_t instance, struct kelpie_error *err) {
    struct virtio_blk *blk = blk_of(device);
    struct cursor_reader reader;
    TRY(state_find(state, BLK_SECTION, BLK_SECTION_VERSION, instance, &reader, err));
    uint64_t capacity = cursor_read_u64(&reader);
    uint8_t read_only = cursor_read_u8(&reader);
    const uint8_t *id = cursor_read_bytes(&reader, VIRTIO_BLK_ID_SIZE);
    TRY(state_check(&reader, read_only <= 1, "blk", err));
    ASSERT(id);
    if (capacity != blk->capacity) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "disk",
                               "disk %u has %llu sectors; when the state was saved it had %llu",
                               instance, (unsigned long long)blk->capacity,
                               (unsigned long long)capacity);
    }
    if (read_only != blk->options.read_only) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "disk",
                               "disk %u was %s when the state was saved, and now it is not",
                               instance, read_only ? "read-only" : "writable");
    }
    memcpy(blk->options.id, id, VIRTIO_BLK_ID_SIZE);
    if (device->active) {
        io_again_ask(&blk->again); /* what stood in the queue, its kick lost */
    }
    return KELPIE_OK;
}

static const struct virtio_ops blk_ops = {
    .name = "blk",
    .id = VIRTIO_ID_BLOCK,
    .queue_count = 1,
    .queue_size_max = VIRTIO_BLK_QUEUE_SIZE,
    .config_read = blk_config_read,
    .config_write = blk_config_write,
    .activate = blk_nothing,
    .reset = blk_nothing,
    .notify = blk_notify,
    .save = blk_save,
    .load = blk_load,
};
static_assert(VIRTIO_BLK_QUEUE_SIZE <= VMM_QUEUE_SIZE_MAX, "the queue has room");

enum kelpie_status virtio_blk_init(struct virtio_blk *blk, const struct virtio_blk_options *options,
                                   const struct memory *memory, struct device_irq irq,
                                   struct io *io, struct kelpie_error *err) {
    const struct blk_store_files files = {options->fd, options->overlaid, options->overlay_fd,
                                          options->bitmap_fd};
    uint64_t features =
        VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH;
    ASSERT(blk && options);
    ASSERT(memory && io);
    ASSERT(!options->read_only || !options->overlaid);
    *blk = (struct virtio_blk){.options = *options};
    TRY(blk_store_init(&blk->store, &files, err));
    blk->capacity = blk->store.size / VIRTIO_BLK_SECTOR_SIZE;
    features |=
        options->read_only ? VIRTIO_BLK_F_RO : VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
    virtio_device_init(&blk->device, &blk_ops, memory, irq, features);
    return io_again_init(&blk->again, io, blk_work, blk, err);
}

void virtio_blk_deinit(struct virtio_blk *blk) {
    ASSERT(blk);
    ASSERT(blk->device.queues[BLK_QUEUE].in_flight == 0);
    io_again_deinit(&blk->again);
    blk_store_deinit(&blk->store);
}
