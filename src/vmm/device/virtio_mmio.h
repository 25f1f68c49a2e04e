/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The memory-mapped transport, version 2 (virtio 1.2, section 4.2).
 *
 * THEORY OF OPERATION
 *
 * The driver climbs ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK in that order, and each register can be written where
 * the climb has a use for it only:
 *
 *     driver features     between DRIVER and FEATURES_OK
 *     queue registers     between FEATURES_OK and DRIVER_OK, of a queue that is not ready (hazard A4)
 *     queue ready = 0     the same: a queue of a device that runs is stopped by a reset
 *     queue notify        after DRIVER_OK, of a ready queue
 *
 * Any other write has no effect; a bit of the status that is refused is not set, and the driver reads that. Only a
 * reset (status 0) goes back, and it does so at any time. A queue that cannot be (hazard A5) or that the driver broke
 * gives NEEDS_RESET, and after DRIVER_OK a config interrupt, once; other queues of the device go on.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_MMIO_H
#define KELPIE_VMM_DEVICE_VIRTIO_MMIO_H

#include "vmm/device/virtio.h"

#define VIRTIO_MMIO_QUEUE_NOTIFY 0x50 /* where an ioeventfd listens */

struct virtio_mmio {
    struct virtio_device *device;
    uint32_t device_features_select;
    uint32_t driver_features_select;
    uint64_t driver_features;     /* as written so far */
    bool driver_features_unknown; /* and some beyond what 64 bits hold */
    uint32_t queue_select;
    bool busy; /* in a write or a kick */
};

extern const struct device_ops virtio_mmio_ops; /* its device is a struct virtio_mmio */

void virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *device);

/* A kick that came another way (ioeventfd). An index out of range is ignored, as a write of it is; and so is each kick and
 * write that comes from within another. */
void virtio_mmio_notify(struct virtio_mmio *mmio, uint32_t queue_index);

/* Transport, device and queues: section 'VMIO' with the instance, then the device's own. Load is called on a device that
 * is as after init, after the interrupt controller's: an interrupt that the driver has not acknowledged comes again.
 * What the transport refuses changes nothing. */
void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *state, uint16_t instance);
KELPIE_CHECKED enum kelpie_status virtio_mmio_load(struct virtio_mmio *mmio,
                                                   struct state_reader *state, uint16_t instance,
                                                   struct kelpie_error *err);

#endif
