/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which device answers at an address: one bus for memory-mapped devices, one for ports. */
#ifndef KELPIE_VMM_DEVICE_BUS_H
#define KELPIE_VMM_DEVICE_BUS_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/device/device.h"

#define BUS_ENTRY_COUNT_MAX 32

struct bus_entry {
    uint64_t base;
    uint64_t size;
    const struct device_ops *ops;
    void *device;
};

struct bus {
    struct bus_entry entries[BUS_ENTRY_COUNT_MAX]; /* sorted by base, not overlapping */
    size_t entry_count;
};

void bus_init(struct bus *bus);

/* The window [base, base + size) must be free: asserted, for the map is ours and not the guest's. */
void bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops,
             void *device);

/* An access of the guest. False: no device has all of it; a read then gives all ones, as an empty bus does. size is
 * 1, 2, 4 or 8. */
bool bus_read(const struct bus *bus, uint64_t address, void *data, uint32_t size);
bool bus_write(const struct bus *bus, uint64_t address, const void *data, uint32_t size);

#endif
