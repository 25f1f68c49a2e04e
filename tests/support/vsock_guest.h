/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The driver's side of the socket device over fake memory: for its test and its fuzzer. Each queue has VSOCK_GUEST_SLOTS
 * descriptors, and descriptor i has buffer i.
 */
#ifndef KELPIE_TESTS_SUPPORT_VSOCK_GUEST_H
#define KELPIE_TESTS_SUPPORT_VSOCK_GUEST_H

#include <string.h>

#include "base/assert.h"
#include "vmm/device/virtio_vsock.h"

#define VSOCK_GUEST_CID 7u
#define VSOCK_GUEST_SLOTS 16u
#define VSOCK_GUEST_SLOT_SIZE 0x11000u /* bytes: a header and 64 KiB, and some */
#define VSOCK_GUEST_RINGS_SIZE 0x3000u
#define VSOCK_GUEST_BUFFERS 0x10000u
#define VSOCK_GUEST_MEMORY_SIZE 0x400000u
#define VSOCK_GUEST_QUEUE_COUNT 3u

struct vsock_guest {
    struct virtio_vsock *vsock;
    struct memory memory;
    uint8_t *bytes;                            /* VSOCK_GUEST_MEMORY_SIZE of them */
    uint16_t offered[VSOCK_GUEST_QUEUE_COUNT]; /* chains made available so far */
    uint16_t taken[VSOCK_GUEST_QUEUE_COUNT];   /* used chains seen so far */
    int interrupts;
};

static inline void vsock_guest_interrupt(void *context) {
    struct vsock_guest *guest = context;
    guest->interrupts++;
}

static inline uint64_t vsock_guest_buffer(uint32_t queue, uint32_t slot) {
    ASSERT(queue < VSOCK_GUEST_QUEUE_COUNT);
    ASSERT(slot < VSOCK_GUEST_SLOTS);
    return VSOCK_GUEST_BUFFERS +
           ((uint64_t)queue * VSOCK_GUEST_SLOTS + slot) * VSOCK_GUEST_SLOT_SIZE;
}

/* As a driver that starts: fresh rings, queues ready, the device active (without its activate). */
static inline void vsock_guest_enable(struct vsock_guest *guest) {
    struct virtio_device *device = &guest->vsock->device;
    memset(guest->bytes, 0, VSOCK_GUEST_RINGS_SIZE * VSOCK_GUEST_QUEUE_COUNT);
    memset(guest->offered, 0, sizeof(guest->offered));
    memset(guest->taken, 0, sizeof(guest->taken));
    for (uint32_t i = 0; i < VSOCK_GUEST_QUEUE_COUNT; i++) {
        struct virtqueue *queue = &device->queues[i];
        virtqueue_reset(queue);
        queue->size = VSOCK_GUEST_SLOTS;
        queue->descriptors_gpa = (uint64_t)i * VSOCK_GUEST_RINGS_SIZE;
        queue->available_gpa = queue->descriptors_gpa + 0x1000;
        queue->used_gpa = queue->descriptors_gpa + 0x2000;
        bool enabled = virtqueue_enable(queue);
        ASSERT(enabled);
    }
    device->active = true;
}

/* Makes the next descriptor of a queue available, with `size` bytes of its buffer. False: all are. */
static inline bool vsock_guest_offer(struct vsock_guest *guest, uint32_t queue, uint32_t size,
                                     bool writable) {
    if ((uint16_t)(guest->offered[queue] - guest->taken[queue]) >= VSOCK_GUEST_SLOTS) {
        return false;
    }
    uint8_t *rings = guest->bytes + queue * VSOCK_GUEST_RINGS_SIZE;
    uint16_t slot = guest->offered[queue] % VSOCK_GUEST_SLOTS;
    uint64_t gpa = vsock_guest_buffer(queue, slot);
    uint16_t flags = writable ? 2 : 0;
    memcpy(rings + slot * 16u, &gpa, 8);
    memcpy(rings + slot * 16u + 8, &size, 4);
    memcpy(rings + slot * 16u + 12, &flags, 2);
    memset(rings + slot * 16u + 14, 0, 2);
    memcpy(rings + 0x1000 + 4 + slot * 2u, &slot, 2);
    guest->offered[queue]++;
    memcpy(rings + 0x1000 + 2, &guest->offered[queue], 2);
    return true;
}

/* The next used chain of a queue, in the order of the used ring. False: there is none. */
static inline bool vsock_guest_take(struct vsock_guest *guest, uint32_t queue, uint32_t *ret_slot,
                                    uint32_t *ret_size) {
    uint8_t *rings = guest->bytes + queue * VSOCK_GUEST_RINGS_SIZE;
    uint16_t used = 0;
    memcpy(&used, rings + 0x2000 + 2, 2);
    if (used == guest->taken[queue]) {
        return false;
    }
    uint32_t place = guest->taken[queue] % VSOCK_GUEST_SLOTS;
    memcpy(ret_slot, rings + 0x2000 + 4 + place * 8u, 4);
    memcpy(ret_size, rings + 0x2000 + 8 + place * 8u, 4);
    guest->taken[queue]++;
    return true;
}

/* A packet of the guest's connection from guest_port to host_port. */
static inline struct vsock_packet vsock_guest_packet(enum vsock_op op, uint32_t guest_port,
                                                     uint32_t host_port) {
    return (struct vsock_packet){.src_cid = VSOCK_GUEST_CID,
                                 .dst_cid = VSOCK_CID_HOST,
                                 .src_port = guest_port,
                                 .dst_port = host_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = (uint16_t)op,
                                 .buffer_size = 65536};
}

/* Puts a packet with `size` bytes behind the header into the tx queue, whatever packet->size says; does not kick. */
static inline bool vsock_guest_put(struct vsock_guest *guest, const struct vsock_packet *packet,
                                   const void *data, uint32_t size) {
    uint32_t slot = guest->offered[1] % VSOCK_GUEST_SLOTS;
    uint16_t used = 0;
    memcpy(&used, guest->bytes + VSOCK_GUEST_RINGS_SIZE + 0x2000 + 2, 2);
    guest->taken[1] = used; /* what was sent is of no interest any more */
    ASSERT(size <= VSOCK_GUEST_SLOT_SIZE - VSOCK_HEADER_SIZE);
    if (!vsock_guest_offer(guest, 1, VSOCK_HEADER_SIZE + size, false)) {
        return false;
    }
    uint8_t *buffer = guest->bytes + vsock_guest_buffer(1, slot);
    vsock_packet_encode(packet, buffer);
    if (size > 0) {
        memcpy(buffer + VSOCK_HEADER_SIZE, data, size);
    }
    return true;
}

/* The next packet to the guest; *ret_data lies in its buffer. False: there is none. */
static inline bool vsock_guest_get(struct vsock_guest *guest, struct vsock_packet *ret_packet,
                                   const uint8_t **ret_data) {
    uint32_t slot = 0;
    uint32_t size = 0;
    if (!vsock_guest_take(guest, 0, &slot, &size)) {
        return false;
    }
    const uint8_t *buffer = guest->bytes + vsock_guest_buffer(0, slot);
    *ret_packet = (struct vsock_packet){0};
    if (size > 0) {
        ASSERT(size >= VSOCK_HEADER_SIZE);
        *ret_packet = vsock_packet_decode(buffer);
        ASSERT(ret_packet->size == size - VSOCK_HEADER_SIZE);
    }
    *ret_data = buffer + VSOCK_HEADER_SIZE;
    return true;
}

static inline void vsock_guest_kick(struct vsock_guest *guest, uint16_t queue) {
    guest->vsock->device.ops->notify(&guest->vsock->device, queue);
}

#endif
