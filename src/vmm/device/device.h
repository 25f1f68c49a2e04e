/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a device is, to the bus: something that is read and written at offsets of its window. A device is a
 * plain struct; its file has init, the two functions below, save and load, and nothing that needs KVM: tests drive
 * it over fake memory with an interrupt line that counts.
 *
 * Threads: the machine's lock is held in every call of a device, whether a vCPU's exit or the I/O thread
 * makes it. A device holds no lock of its own and never waits.
 *
 * Re-entry (hazard A10): a device never touches a bus, and its DMA goes through the memory gate, which knows no
 * device windows. So no access of a device reaches a register.
 */
#ifndef KELPIE_VMM_DEVICE_DEVICE_H
#define KELPIE_VMM_DEVICE_DEVICE_H

#include <stdint.h>

#include "base/assert.h"

/* size is 1, 2, 4 or 8; offset + size lies within the window. data is little-endian. A register that does not
 * exist reads as zeros, and takes what is written without effect. */
struct device_ops {
    const char *name;
    void (*read)(void *device, uint64_t offset, void *data, uint32_t size);
    void (*write)(void *device, uint64_t offset, const void *data, uint32_t size);
};

/* An edge-triggered interrupt line: an irqfd, or a counter in tests. */
struct device_irq {
    void (*trigger)(void *context);
    void *context;
};

static inline void device_irq_trigger(const struct device_irq *irq) {
    ASSERT(irq);
    ASSERT(irq->trigger);
    irq->trigger(irq->context);
}

#endif
