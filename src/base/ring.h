/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A byte queue in a fixed buffer. Bytes go in at the end and out at the front, in order.
 * The memory is the caller's; not safe for several threads by itself.
 */
#ifndef KELPIE_BASE_RING_H
#define KELPIE_BASE_RING_H

#include <stddef.h>
#include <stdint.h>

struct ring {
    uint8_t *data;
    size_t capacity;
    size_t head; /* place of the first byte */
    size_t size; /* bytes held */
};

/* `data` has `capacity` (> 0) bytes and outlives the ring. */
void ring_init(struct ring *ring, void *data, size_t capacity);
size_t ring_room(const struct ring *ring);

/* Puts in as many of `size` bytes as there is room for; returns how many. */
size_t ring_write(struct ring *ring, const void *data, size_t size);

/* Copies out and removes up to `size` bytes; returns how many. */
size_t ring_read(struct ring *ring, void *buffer, size_t size);

/* Copies up to `size` bytes that start `offset` behind the front, removing none; returns how many. */
size_t ring_peek(const struct ring *ring, size_t offset, void *buffer, size_t size);

/* The longest run of bytes at the front that lies in one piece: its size, and where it is. */
size_t ring_front(const struct ring *ring, const uint8_t **ret_data);

/* Removes `size` bytes (at most ring->size) at the front. */
void ring_drop(struct ring *ring, size_t size);

#endif
