/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The memory-mapped transport, version 2 (virtio 1.2, section 4.2). */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_MMIO_H
#define KELPIE_VMM_DEVICE_VIRTIO_MMIO_H

#include "vmm/device/virtio.h"

#define VIRTIO_MMIO_QUEUE_NOTIFY 0x50 /* where an ioeventfd listens */

struct virtio_mmio {
    struct virtio_device *device;
    uint32_t device_features_select;
    uint32_t driver_features_select;
    uint64_t driver_features; /* as written so far */
    uint32_t queue_select;
};

extern const struct device_ops virtio_mmio_ops; /* its device is a struct virtio_mmio */

void virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *device);

/* A kick that came another way (ioeventfd). An index out of range is ignored, as a write of it is. */
void virtio_mmio_notify(struct virtio_mmio *mmio, uint32_t queue_index);

/* Transport, device and queues: section 'VMIO' with the instance, then the device's own. */
void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *state, uint16_t instance);
KELPIE_CHECKED enum kelpie_status virtio_mmio_load(struct virtio_mmio *mmio,
                                                   struct state_reader *state, uint16_t instance,
                                                   struct kelpie_error *err);

#endif
