/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/bus.h"

#include <string.h>

#include "base/assert.h"

void bus_init(struct bus *bus) {
    ASSERT(bus);
    *bus = (struct bus){0};
    ASSERT(bus->entry_count == 0);
}

void bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops,
             void *device) {
    ASSERT(size > 0 && size <= UINT64_MAX - base);
    ASSERT(ops && device);
    ASSERT(bus->entry_count < BUS_ENTRY_COUNT_MAX);
    size_t place = bus->entry_count;
    while (place > 0 && bus->entries[place - 1].base > base) {
        bus->entries[place] = bus->entries[place - 1];
        place--;
    }
    bus->entries[place] =
        (struct bus_entry){.base = base, .size = size, .ops = ops, .device = device};
    bus->entry_count++;
    for (size_t i = 1; i < bus->entry_count; i++) {
        ASSERT(bus->entries[i - 1].base + bus->entries[i - 1].size <= bus->entries[i].base);
    }
}

/* The entry that has all of [address, address + size); NULL: none. */
static const struct bus_entry *find(const struct bus *bus, uint64_t address, uint32_t size) {
    ASSERT(bus->entry_count <= BUS_ENTRY_COUNT_MAX);
    ASSERT(size == 1 || size == 2 || size == 4 || size == 8);
    for (size_t i = 0; i < bus->entry_count; i++) {
        const struct bus_entry *entry = &bus->entries[i];
        if (address >= entry->base && address - entry->base < entry->size) {
            return size <= entry->size - (address - entry->base) ? entry : NULL;
        }
    }
    return NULL;
}

bool bus_read(const struct bus *bus, uint64_t address, void *data, uint32_t size) {
    ASSERT(bus);
    ASSERT(data);
    const struct bus_entry *entry = find(bus, address, size);
    if (!entry) {
        memset(data, 0xff, size);
        return false;
    }
    memset(data, 0, size);
    entry->ops->read(entry->device, address - entry->base, data, size);
    return true;
}

bool bus_write(const struct bus *bus, uint64_t address, const void *data, uint32_t size) {
    ASSERT(bus);
    ASSERT(data);
    const struct bus_entry *entry = find(bus, address, size);
    if (entry) {
        entry->ops->write(entry->device, address - entry->base, data, size);
    }
    return entry != NULL;
}
