/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A driver for tests of virtio devices: memory of its own, an I/O loop, queues that are set up as a transport would set
 * them up, chains of whatever parts a test wants. It checks nothing of what it is told to do: it can be a bad driver.
 *
 *     fake_driver_open(&driver, false);
 *     virtio_x_init(&x, &driver.memory, fake_driver_irq(&driver), &driver.io, NULL);
 *     fake_driver_attach(&driver, &x.device, features);
 *     fake_driver_add(&driver, 0, parts, 2);
 *     fake_driver_kick(&driver, 0);
 *     fake_driver_used(&driver, 0, &used);
 */
#ifndef KELPIE_TESTS_SUPPORT_FAKE_DRIVER_H
#define KELPIE_TESTS_SUPPORT_FAKE_DRIVER_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/device/io.h"
#include "vmm/device/virtio.h"

#define FAKE_MEMORY_SIZE (1ull << 20)
#define FAKE_QUEUE_SPACE 0x3000ull /* descriptors, available and used ring, a page each */
#define FAKE_DATA_GPA 0x20000ull   /* what is behind it is the test's */
#define FAKE_TURN_COUNT_MAX 10000
#define FAKE_STATE_SIZE_MAX 4096

struct fake_queue {
    uint16_t next_descriptor;
    uint16_t available;
    uint16_t seen;
};

struct fake_driver {
    struct memory memory;
    struct io io;
    struct virtio_device *device;
    unsigned interrupts;
    struct fake_queue queues[VMM_QUEUE_COUNT_MAX];
};

struct fake_part {
    uint64_t gpa;
    uint32_t size;
    bool writable;
};

struct fake_used {
    uint32_t head;
    uint32_t written;
};

static inline void fake_driver_on_interrupt(void *context) {
    struct fake_driver *driver = context;
    driver->interrupts++;
}

static inline struct device_irq fake_driver_irq(struct fake_driver *driver) {
    return (struct device_irq){fake_driver_on_interrupt, driver};
}

/* shared: a mapping of a file; else a private one. */
static inline void fake_driver_open(struct fake_driver *driver, bool shared) {
    memset(driver, 0, sizeof(*driver));
    int fd = memfd_create("memory", MFD_CLOEXEC);
    ASSERT(fd >= 0);
    int resized = ftruncate(fd, (off_t)FAKE_MEMORY_SIZE);
    ASSERT(resized == 0);
    void *host = mmap(NULL, FAKE_MEMORY_SIZE, PROT_READ | PROT_WRITE,
                      shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    ASSERT(host != MAP_FAILED);
    close(fd);
    memory_init(&driver->memory, host, FAKE_MEMORY_SIZE);
    enum kelpie_status status = io_init(&driver->io, NULL);
    ASSERT(status == KELPIE_OK);
}

static inline void fake_driver_close(struct fake_driver *driver) {
    io_deinit(&driver->io);
    munmap(driver->memory.host, FAKE_MEMORY_SIZE);
}

static inline void *fake_driver_at(struct fake_driver *driver, uint64_t gpa) {
    ASSERT(gpa < FAKE_MEMORY_SIZE);
    return driver->memory.host + gpa;
}

static inline uint16_t fake_driver_queue_size(const struct fake_driver *driver) {
    return driver->device->ops->queue_size_max;
}

/* Resets the device, sets all its queues up and says DRIVER_OK. */
static inline void fake_driver_attach(struct fake_driver *driver, struct virtio_device *device,
                                      uint64_t features) {
    driver->device = device;
    driver->interrupts = 0;
    virtio_device_reset(device);
    memset(driver->queues, 0, sizeof(driver->queues));
    memset(driver->memory.host, 0, FAKE_DATA_GPA);
    device->driver_features = features | VIRTIO_F_VERSION_1;
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        struct virtqueue *queue = &device->queues[i];
        queue->size = device->ops->queue_size_max;
        queue->descriptors_gpa = FAKE_QUEUE_SPACE * i;
        queue->available_gpa = queue->descriptors_gpa + 0x1000;
        queue->used_gpa = queue->descriptors_gpa + 0x2000;
        queue->event_index = (features & VIRTIO_F_EVENT_IDX) != 0;
        bool enabled = virtqueue_enable(queue);
        ASSERT(enabled);
    }
    device->status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
                     VIRTIO_STATUS_DRIVER_OK;
    device->active = true;
    device->ops->activate(device);
}

/* Makes a chain available; the device is not told. Returns its head. */
static inline uint16_t fake_driver_add(struct fake_driver *driver, uint16_t queue_index,
                                       const struct fake_part *parts, size_t count) {
    struct fake_queue *queue = &driver->queues[queue_index];
    uint16_t size = fake_driver_queue_size(driver);
    uint8_t *base = driver->memory.host + FAKE_QUEUE_SPACE * queue_index;
    uint16_t head = queue->next_descriptor;
    for (size_t i = 0; i < count; i++) {
        bool more = i + 1 < count;
        uint16_t next = (uint16_t)((queue->next_descriptor + 1) % size);
        uint16_t flags = (uint16_t)((more ? 1 : 0) | (parts[i].writable ? 2 : 0));
        uint8_t *descriptor = base + (size_t)queue->next_descriptor * 16;
        memcpy(descriptor, &parts[i].gpa, 8);
        memcpy(descriptor + 8, &parts[i].size, 4);
        memcpy(descriptor + 12, &flags, 2);
        memcpy(descriptor + 14, &next, 2);
        queue->next_descriptor = next;
    }
    memcpy(base + 0x1000 + 4 + (size_t)(queue->available % size) * 2, &head, 2);
    queue->available++;
    memcpy(base + 0x1000 + 2, &queue->available, 2);
    return head;
}

static inline void fake_driver_kick(struct fake_driver *driver, uint16_t queue_index) {
    driver->device->ops->notify(driver->device, queue_index);
}

static inline uint16_t fake_driver_used_count(struct fake_driver *driver, uint16_t queue_index) {
    uint16_t index = 0;
    memcpy(&index, driver->memory.host + FAKE_QUEUE_SPACE * queue_index + 0x2000 + 2, 2);
    return (uint16_t)(index - driver->queues[queue_index].seen);
}

/* The next chain that came back. */
static inline bool fake_driver_used(struct fake_driver *driver, uint16_t queue_index,
                                    struct fake_used *ret_used) {
    struct fake_queue *queue = &driver->queues[queue_index];
    uint16_t size = fake_driver_queue_size(driver);
    if (fake_driver_used_count(driver, queue_index) == 0) {
        return false;
    }
    memcpy(ret_used,
           driver->memory.host + FAKE_QUEUE_SPACE * queue_index + 0x2000 + 4 +
               (size_t)(queue->seen % size) * 8,
           8);
    queue->seen++;
    return true;
}

/* Turns of the loop until nothing happens. False: something happens all the time. */
static inline bool fake_driver_turns(struct fake_driver *driver) {
    for (int i = 0; i < FAKE_TURN_COUNT_MAX; i++) {
        if (io_turn(&driver->io, 0) == 0) {
            return true;
        }
    }
    return false;
}

/* The device's own section. Returns the size of the state. */
static inline size_t fake_driver_save(struct virtio_device *device, uint8_t *buffer) {
    struct state_writer state;
    size_t size = 0;
    state_writer_init(&state, buffer, FAKE_STATE_SIZE_MAX);
    device->ops->save(device, &state, 0);
    enum kelpie_status status = state_writer_finish(&state, &size, NULL);
    ASSERT(status == KELPIE_OK);
    return size;
}

static inline enum kelpie_status fake_driver_load(struct virtio_device *device,
                                                  const uint8_t *buffer, size_t size) {
    static struct state_reader state;
    enum kelpie_status status = state_reader_init(&state, buffer, size, NULL);
    ASSERT(status == KELPIE_OK);
    return device->ops->load(device, &state, 0, NULL);
}

/* A state with one section of that payload. */
static inline size_t fake_driver_forge(uint32_t tag, const void *payload, size_t payload_size,
                                       uint8_t *buffer) {
    struct state_writer state;
    size_t size = 0;
    state_writer_init(&state, buffer, FAKE_STATE_SIZE_MAX);
    cursor_write_bytes(state_begin(&state, tag, 1, 0), payload, payload_size);
    state_end(&state);
    enum kelpie_status status = state_writer_finish(&state, &size, NULL);
    ASSERT(status == KELPIE_OK);
    return size;
}

#endif
