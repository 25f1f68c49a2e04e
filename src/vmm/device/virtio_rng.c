/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_rng.h"

#include <sys/random.h>

#include "vmm/device/iovec.h"

#define RNG_SECTION STATE_TAG('V', 'R', 'N', 'G')
#define RNG_SECTION_VERSION 1
#define RNG_QUEUE 0

/* Fills a chain's writable bytes from the first on. Returns how many. */
static uint32_t rng_fill(const struct virtqueue_chain *chain) {
    struct iovec parts[VMM_CHAIN_LENGTH_MAX];
    size_t count = iovec_slice(chain->parts + chain->readable_count, chain->writable_count, 0,
                               VIRTIO_RNG_CHAIN_BYTES_MAX, parts);
    size_t written = 0;
    ASSERT(count <= chain->writable_count);
    for (size_t i = 0; i < count; i++) {
        /* Not to wait: a kernel whose generator is not ready has no bytes yet. */
        ssize_t got = getrandom(parts[i].iov_base, parts[i].iov_len, GRND_NONBLOCK);
        if (got < 0) {
            break;
        }
        written += (size_t)got;
        if ((size_t)got < parts[i].iov_len) {
            break; /* a signal came between: what there is comes without a gap */
        }
    }
    ASSERT(written <= VIRTIO_RNG_CHAIN_BYTES_MAX);
    return (uint32_t)written;
}

static void rng_work(void *context) {
    struct virtio_rng *rng = context;
    struct virtqueue *queue = &rng->device.queues[RNG_QUEUE];
    struct virtqueue_chain chain;
    if (!rng->device.active) {
        return;
    }
    ASSERT(queue->in_flight == 0);
    for (unsigned i = 0; i < VIRTIO_RNG_BURST_COUNT_MAX; i++) {
        if (!virtqueue_pop(queue, &chain)) {
            break;
        }
        virtqueue_push(queue, chain.head, rng_fill(&chain));
    }
    ASSERT(queue->in_flight == 0);
    if (virtqueue_has_available(queue)) {
        io_again_ask(&rng->again);
    }
    virtio_device_signal(&rng->device, RNG_QUEUE);
}

static struct virtio_rng *rng_of(struct virtio_device *device) {
    static_assert(offsetof(struct virtio_rng, device) == 0, "a struct virtio_device comes first");
    ASSERT(device);
    return (struct virtio_rng *)device;
}

static void rng_notify(struct virtio_device *device, uint16_t queue_index) {
    ASSERT(queue_index < device->ops->queue_count);
    rng_work(rng_of(device));
}

static void rng_nothing(struct virtio_device *device) {
    ASSERT(device->queues[RNG_QUEUE].in_flight == 0);
}

/* An empty section: that it is there says that the machine had this device. */
static void rng_save(struct virtio_device *device, struct state_writer *state, uint16_t instance) {
    struct cursor_writer *writer = state_begin(state, RNG_SECTION, RNG_SECTION_VERSION, instance);
    ASSERT(writer);
    ASSERT(device->queues[RNG_QUEUE].in_flight == 0);
    state_end(state);
}

static enum kelpie_status rng_load(struct virtio_device *device, struct state_reader *state,
                                   uint16_t instance, struct kelpie_error *err) {
    struct virtio_rng *rng = rng_of(device);
    struct cursor_reader reader;
    ASSERT(state);
    TRY(state_find(state, RNG_SECTION, RNG_SECTION_VERSION, instance, &reader, err));
    TRY(state_check(&reader, true, "rng", err));
    if (device->active) {
        io_again_ask(&rng->again); /* what stood in the queue, its kick lost */
    }
    return KELPIE_OK;
}

/* There is no config space (5.4.4). */
static const struct virtio_ops rng_ops = {
    .name = "rng",
    .id = VIRTIO_ID_ENTROPY,
    .queue_count = 1,
    .queue_size_max = VIRTIO_RNG_QUEUE_SIZE,
    .activate = rng_nothing,
    .reset = rng_nothing,
    .notify = rng_notify,
    .save = rng_save,
    .load = rng_load,
};
static_assert(VIRTIO_RNG_QUEUE_SIZE <= VMM_QUEUE_SIZE_MAX, "the queue has room");

enum kelpie_status virtio_rng_init(struct virtio_rng *rng, const struct memory *memory,
                                   struct device_irq irq, struct io *io, struct kelpie_error *err) {
    ASSERT(rng);
    ASSERT(memory && io);
    *rng = (struct virtio_rng){0};
    virtio_device_init(&rng->device, &rng_ops, memory, irq, 0);
    return io_again_init(&rng->again, io, rng_work, rng, err);
}

void virtio_rng_deinit(struct virtio_rng *rng) {
    ASSERT(rng);
    ASSERT(rng->device.queues[RNG_QUEUE].in_flight == 0);
    io_again_deinit(&rng->again);
}
