/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A virtio device behind its transport (virtio 1.2, chapter 2). The transport (virtio_mmio.h) owns the negotiation:
 * status, features, queues, interrupt status; a device type gives the table below, and a struct that begins with
 * struct virtio_device.
 *
 * The transport calls activate when the driver sets DRIVER_OK with features that were accepted, and reset when it
 * writes status 0, or before it is freed; notify when the driver kicks a queue. Between activate and reset the device
 * may pop from its ready queues, also in handlers of the I/O loop.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_H
#define KELPIE_VMM_DEVICE_VIRTIO_H

#include "vmm/device/device.h"
#include "vmm/device/virtqueue.h"

/* Device types (virtio 1.2, chapter 5). */
#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_ENTROPY 4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_VSOCK 19

/* Feature bits that every device offers: the transport adds them. */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

/* Device status (2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER 2u
#define VIRTIO_STATUS_DRIVER_OK 4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED 128u

struct virtio_device;

struct virtio_ops {
    const char *name; /* "blk", … */
    uint32_t id;      /* VIRTIO_ID_… */
    uint16_t queue_count;
    uint16_t queue_size_max;
    /* Reads the device's config space: offset + size is within it or not; what is not reads as zeros. NULL, both
     * of them: there is none. */
    void (*config_read)(struct virtio_device *device, uint64_t offset, void *data, uint32_t size);
    void (*config_write)(struct virtio_device *device, uint64_t offset, const void *data,
                         uint32_t size);
    void (*activate)(struct virtio_device *device);
    void (*reset)(struct virtio_device *device);
    void (*notify)(struct virtio_device *device, uint16_t queue_index);
    /* The device's own state, in its own section, beside the transport's. Before save nothing is in flight.
     * Load comes after the transport's: queues and features are in place, activate is not called. */
    void (*save)(struct virtio_device *device, struct state_writer *state, uint16_t instance);
    enum kelpie_status (*load)(struct virtio_device *device, struct state_reader *state,
                               uint16_t instance, struct kelpie_error *err);
};

struct virtio_device {
    const struct virtio_ops *ops;
    const struct memory *memory;
    struct device_irq irq;
    uint64_t device_features; /* of the type; the transport adds its own */
    uint64_t driver_features; /* accepted */
    uint32_t status;
    uint32_t interrupt_status; /* bit 0: used buffers, bit 1: the config changed */
    uint32_t config_generation;
    bool active;
    struct virtqueue queues[VMM_QUEUE_COUNT_MAX];
};

/* For device types. */
void virtio_device_init(struct virtio_device *device, const struct virtio_ops *ops,
                        const struct memory *memory, struct device_irq irq, uint64_t features);
bool virtio_device_has(const struct virtio_device *device, uint64_t feature); /* negotiated */

/* After a burst of pops and pushes: the interrupt, if the driver wants one. A broken queue: NEEDS_RESET and a config
 * interrupt, once; so a handler of the I/O loop that popped calls this even if it pushed nothing (after notify and
 * activate the transport does). */
void virtio_device_signal(struct virtio_device *device, uint16_t queue_index);
void virtio_device_config_changed(struct virtio_device *device);

/* For the transport, and for whoever frees a device: the device's reset, then queues, features and status as after
 * init. The config generation goes on. */
void virtio_device_reset(struct virtio_device *device);
uint64_t virtio_device_offered(const struct virtio_device *device); /* features, ours included */

/* A config space that is a plain struct: reads what lies within it, and zeros (hazard A3). */
void virtio_config_read(const void *config, size_t config_size, uint64_t offset, void *data,
                        uint32_t size);

#endif
