/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/ring.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

void ring_init(struct ring *ring, void *data, size_t capacity) {
    ASSERT(ring);
    ASSERT(data);
    ASSERT(capacity > 0);
    *ring = (struct ring){.data = data, .capacity = capacity};
}

size_t ring_room(const struct ring *ring) {
    ASSERT(ring);
    ASSERT(ring->head < ring->capacity);
    ASSERT(ring->size <= ring->capacity);
    return ring->capacity - ring->size;
}

size_t ring_write(struct ring *ring, const void *data, size_t size) {
    ASSERT(ring);
    ASSERT(data || size == 0);
    size_t count = min_size(size, ring_room(ring));
    if (count == 0) {
        return 0;
    }
    size_t tail = (ring->head + ring->size) % ring->capacity;
    size_t first = min_size(count, ring->capacity - tail);
    ASSERT(tail < ring->capacity);
    ASSERT(first <= count);
    memcpy(ring->data + tail, data, first);
    memcpy(ring->data, (const uint8_t *)data + first, count - first);
    ring->size += count;
    ASSERT(ring->size <= ring->capacity);
    return count;
}

size_t ring_peek(const struct ring *ring, size_t offset, void *buffer, size_t size) {
    ASSERT(ring);
    ASSERT(ring->head < ring->capacity);
    ASSERT(ring->size <= ring->capacity);
    ASSERT(offset <= ring->size);
    ASSERT(buffer || size == 0);
    size_t count = min_size(size, ring->size - offset);
    if (count == 0) {
        return 0;
    }
    size_t start = (ring->head + offset) % ring->capacity;
    size_t first = min_size(count, ring->capacity - start);
    ASSERT(start < ring->capacity);
    ASSERT(first <= count);
    memcpy(buffer, ring->data + start, first);
    memcpy((uint8_t *)buffer + first, ring->data, count - first);
    return count;
}

size_t ring_read(struct ring *ring, void *buffer, size_t size) {
    ASSERT(ring);
    size_t count = ring_peek(ring, 0, buffer, size);
    ASSERT(count <= size);
    ring_drop(ring, count);
    return count;
}

size_t ring_front(const struct ring *ring, const uint8_t **ret_data) {
    ASSERT(ring);
    ASSERT(ring->head < ring->capacity);
    ASSERT(ring->size <= ring->capacity);
    ASSERT(ret_data);
    *ret_data = ring->data + ring->head;
    return min_size(ring->size, ring->capacity - ring->head);
}

void ring_drop(struct ring *ring, size_t size) {
    ASSERT(ring);
    ASSERT(ring->head < ring->capacity);
    ASSERT(size <= ring->size);
    ring->head = (ring->head + size) % ring->capacity;
    ring->size -= size;
    ASSERT(ring->head < ring->capacity);
    ASSERT(ring->size <= ring->capacity);
}
