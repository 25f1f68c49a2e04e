/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A device of two queues that gives every chain back at once, and a driver's accesses to its transport: what the tests of
 * virtio share. One program has one guest, in `bytes`. */
#ifndef KELPIE_TESTS_SUPPORT_VIRTIO_ECHO_H
#define KELPIE_TESTS_SUPPORT_VIRTIO_ECHO_H

#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "support/virtqueue_guest.h"
#include "vmm/device/virtio_mmio.h"

#define MEMORY_SIZE (16 * VMM_PAGE_SIZE)
#define QUEUE_COUNT 2u
#define QUEUE_SIZE 8u
#define DESCRIPTORS 0x1000ull /* of queue 0; queue 1 has its own a page set further */
#define AVAILABLE 0x2000ull
#define USED 0x3000ull
#define QUEUE_STRIDE 0x3000ull
#define DATA 0x8000ull
#define FEATURE_LOW (1ull << 5)
#define FEATURE_HIGH (1ull << 40)

/* Registers (virtio 1.2, 4.2.2). */
#define MAGIC 0x000
#define VERSION 0x004
#define DEVICE_ID 0x008
#define VENDOR_ID 0x00c
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SELECT 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SELECT 0x024
#define QUEUE_SELECT 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define INTERRUPT_STATUS 0x060
#define INTERRUPT_ACK 0x064
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define CONFIG_GENERATION 0x0fc
#define CONFIG 0x100

#define ACKNOWLEDGE VIRTIO_STATUS_ACKNOWLEDGE
#define DRIVER VIRTIO_STATUS_DRIVER
#define FEATURES_OK VIRTIO_STATUS_FEATURES_OK
#define DRIVER_OK VIRTIO_STATUS_DRIVER_OK
#define NEEDS_RESET VIRTIO_STATUS_NEEDS_RESET
#define FAILED VIRTIO_STATUS_FAILED
#define NEGOTIATED (ACKNOWLEDGE | DRIVER | FEATURES_OK)
#define RUNNING (NEGOTIATED | DRIVER_OK)

/* ---- The device --------------------------------------------------------------------------------- */

struct echo {
    struct virtio_device device;
    struct virtio_mmio mmio;
    uint32_t interrupts;
    uint32_t activations;
    uint32_t resets;
    uint32_t notifications;
    uint8_t config[12];
    uint8_t state; /* what its own section holds */
};

static _Alignas(4096) uint8_t bytes[MEMORY_SIZE]; /* the guest's */
static struct memory memory;

static inline void echo_config_read(struct virtio_device *device, uint64_t offset, void *data,
                                    uint32_t size) {
    struct echo *echo = (struct echo *)device;
    virtio_config_read(echo->config, sizeof(echo->config), offset, data, size);
}

static inline void echo_config_write(struct virtio_device *device, uint64_t offset,
                                     const void *data, uint32_t size) {
    struct echo *echo = (struct echo *)device;
    if (offset < sizeof(echo->config) && size <= sizeof(echo->config) - offset) {
        memcpy(echo->config + offset, data, size);
    }
}

static inline void echo_activate(struct virtio_device *device) {
    struct echo *echo = (struct echo *)device;
    ASSERT(device->active);
    echo->activations++;
}

static inline void echo_reset(struct virtio_device *device) {
    ((struct echo *)device)->resets++;
}

/* Gives every chain back at once. */
static inline void echo_notify(struct virtio_device *device, uint16_t queue_index) {
    struct echo *echo = (struct echo *)device;
    struct virtqueue *queue = &device->queues[queue_index];
    struct virtqueue_chain chain;
    echo->notifications++;
    while (virtqueue_pop(queue, &chain)) {
        virtqueue_push(queue, chain.head, 0);
    }
    (void)virtqueue_has_available(queue);
    if (!queue->broken) { /* one that is, the transport finds itself */
        virtio_device_signal(device, queue_index);
    }
}

static inline void echo_save(struct virtio_device *device, struct state_writer *state,
                             uint16_t instance) {
    cursor_write_u8(state_begin(state, STATE_TAG('E', 'C', 'H', 'O'), 1, instance),
                    ((struct echo *)device)->state);
    state_end(state);
}

static inline enum kelpie_status echo_load(struct virtio_device *device, struct state_reader *state,
                                           uint16_t instance, struct kelpie_error *err) {
    struct cursor_reader reader;
    TRY(state_find(state, STATE_TAG('E', 'C', 'H', 'O'), 1, instance, &reader, err));
    ((struct echo *)device)->state = cursor_read_u8(&reader);
    return state_check(&reader, true, "echo", err);
}

/* The driver's accesses follow it. */
static const struct virtio_ops echo_ops = {.name = "echo",
                                           .id = VIRTIO_ID_ENTROPY,
                                           .queue_count = QUEUE_COUNT,
                                           .queue_size_max = 16,
                                           .config_read = echo_config_read,
                                           .config_write = echo_config_write,
                                           .activate = echo_activate,
                                           .reset = echo_reset,
                                           .notify = echo_notify,
                                           .save = echo_save,
                                           .load = echo_load};

static inline void count_interrupt(void *context) {
    ((struct echo *)context)->interrupts++;
}

static inline void power_on(struct echo *echo) {
    memset(echo, 0, sizeof(*echo));
    memory_init(&memory, bytes, MEMORY_SIZE);
    virtio_device_init(&echo->device, &echo_ops, &memory,
                       (struct device_irq){count_interrupt, echo}, FEATURE_LOW | FEATURE_HIGH);
    virtio_mmio_init(&echo->mmio, &echo->device);
    memcpy(echo->config, "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c", 12);
}

static inline struct echo *fresh(void) {
    static struct echo echo;
    memset(bytes, 0, sizeof(bytes));
    power_on(&echo);
    return &echo;
}

static inline uint64_t read_size(struct echo *echo, uint64_t offset, uint32_t size) {
    uint8_t data[9] = {0};
    data[size] = 0x5a;
    virtio_mmio_ops.read(&echo->mmio, offset, data, size);
    ASSERT(data[size] == 0x5a);
    data[size] = 0;
    return guest_peek(data, 0, 8);
}

static inline uint32_t get(struct echo *echo, uint64_t offset) {
    return (uint32_t)read_size(echo, offset, 4);
}

static inline void write_size(struct echo *echo, uint64_t offset, uint64_t value, uint32_t size) {
    virtio_mmio_ops.write(&echo->mmio, offset, &value, size);
}

static inline void set(struct echo *echo, uint64_t offset, uint64_t value) {
    write_size(echo, offset, value, 4);
}

static inline void set_address(struct echo *echo, uint64_t offset, uint64_t value) {
    set(echo, offset, value & UINT32_MAX);
    set(echo, offset + 4, value >> 32);
}

static inline void set_features(struct echo *echo, uint64_t features) {
    set(echo, DRIVER_FEATURES_SELECT, 1);
    set(echo, DRIVER_FEATURES, features >> 32);
    set(echo, DRIVER_FEATURES_SELECT, 0);
    set(echo, DRIVER_FEATURES, features & UINT32_MAX);
}

static inline uint32_t climb(struct echo *echo, uint64_t features) {
    set(echo, STATUS, ACKNOWLEDGE);
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set_features(echo, features);
    set(echo, STATUS, NEGOTIATED);
    return get(echo, STATUS);
}

static inline void set_up_queue(struct echo *echo, uint32_t index) {
    set(echo, QUEUE_SELECT, index);
    set(echo, QUEUE_NUM, QUEUE_SIZE);
    set_address(echo, QUEUE_DESC, DESCRIPTORS + index * QUEUE_STRIDE);
    set_address(echo, QUEUE_DRIVER, AVAILABLE + index * QUEUE_STRIDE);
    set_address(echo, QUEUE_DEVICE, USED + index * QUEUE_STRIDE);
    set(echo, QUEUE_READY, 1);
}

static inline struct echo *running(uint64_t features) {
    struct echo *echo = fresh();
    ASSERT(climb(echo, VIRTIO_F_VERSION_1 | features) == NEGOTIATED);
    set_up_queue(echo, 0);
    set_up_queue(echo, 1);
    set(echo, STATUS, RUNNING);
    ASSERT(get(echo, STATUS) == RUNNING);
    return echo;
}

static inline void offer(uint32_t index, uint32_t head) {
    uint64_t base = index * QUEUE_STRIDE;
    guest_describe(bytes, DESCRIPTORS + base, head % QUEUE_SIZE,
                   (struct guest_descriptor){DATA, 8, 0, 0});
    guest_offer(bytes, AVAILABLE + base, QUEUE_SIZE, head);
}

static inline void break_queue(struct echo *echo, uint32_t index) {
    offer(index, QUEUE_SIZE);
    set(echo, QUEUE_NOTIFY, index);
    ASSERT(echo->device.queues[index].broken);
}

#endif
