/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

#define INTERRUPT_USED 1u   /* virtio 1.2, 4.2.2: bit 0 of the interrupt status */
#define INTERRUPT_CONFIG 2u /* bit 1 */

void virtio_device_init(struct virtio_device *device, const struct virtio_ops *ops,
                        const struct memory *memory, struct device_irq irq, uint64_t features) {
    ASSERT(device && ops && memory);
    ASSERT(ops->activate && ops->reset && ops->notify);
    ASSERT(ops->queue_count > 0);
    ASSERT(ops->queue_count <= VMM_QUEUE_COUNT_MAX);
    ASSERT(irq.trigger);
    *device = (struct virtio_device){
        .ops = ops, .memory = memory, .irq = irq, .device_features = features};
    for (uint16_t i = 0; i < ops->queue_count; i++) {
        virtqueue_init(&device->queues[i], memory, ops->queue_size_max);
    }
}

void virtio_device_reset(struct virtio_device *device) {
    ASSERT(device);
    ASSERT(device->ops);
    /* The device lets go of its chains while the queues still are what they were. */
    device->ops->reset(device);
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        virtqueue_reset(&device->queues[i]);
    }
    device->active = false;
    device->driver_features = 0;
    device->status = 0;
    device->interrupt_status = 0;
}

uint64_t virtio_device_offered(const struct virtio_device *device) {
    ASSERT(device);
    ASSERT(device->ops);
    return device->device_features | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX |
           VIRTIO_F_VERSION_1;
}

bool virtio_device_has(const struct virtio_device *device, uint64_t feature) {
    ASSERT(device);
    ASSERT(feature != 0);
    return (device->driver_features & feature) == feature;
}

/* Before DRIVER_OK a device is silent (virtio 1.2, 2.1.2 and 3.1.1). */
static void interrupt(struct virtio_device *device, uint32_t cause) {
    ASSERT(cause != 0);
    ASSERT((cause & ~(INTERRUPT_USED | INTERRUPT_CONFIG)) == 0);
    if (!device->active) {
        return;
    }
    device->interrupt_status |= cause;
    device_irq_trigger(&device->irq);
}

/* Once: the driver was told, and resets the device or does not. */
static void ask_for_reset(struct virtio_device *device) {
    ASSERT(device);
    ASSERT(device->ops);
    if ((device->status & VIRTIO_STATUS_NEEDS_RESET) != 0) {
        return;
    }
    device->status |= VIRTIO_STATUS_NEEDS_RESET;
    interrupt(device, INTERRUPT_CONFIG);
}

void virtio_device_signal(struct virtio_device *device, uint16_t queue_index) {
    ASSERT(device && device->ops);
    ASSERT(queue_index < device->ops->queue_count);
    struct virtqueue *queue = &device->queues[queue_index];
    if (queue->broken) {
        ask_for_reset(device);
    } else if (virtqueue_wants_interrupt(queue)) {
        interrupt(device, INTERRUPT_USED);
    }
}

void virtio_device_config_changed(struct virtio_device *device) {
    ASSERT(device);
    ASSERT(device->ops);
    device->config_generation++;
    interrupt(device, INTERRUPT_CONFIG);
}

void virtio_config_read(const void *config, size_t config_size, uint64_t offset, void *data,
                        uint32_t size) {
    ASSERT(config || config_size == 0);
    ASSERT(data);
    memset(data, 0, size);
    if (offset < config_size) {
        memcpy(data, (const uint8_t *)config + offset,
               min_size(size, config_size - (size_t)offset));
    }
}
