/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A split virtqueue, the device's side (virtio 1.2, section 2.7).
 *
 * THEORY OF OPERATION
 *
 * The driver configures size and ring addresses through the transport while the queue is not ready, then sets
 * ready; from then on they are locked (hazard A4). The device pops chains: the available ring gives a head, the
 * descriptors from it are copied once, checked and translated (hazards A1, A2, A6, A11, A12), and stand in a
 * struct virtqueue_chain of the caller, readable parts first, as virtio demands. The device works on it, at once or
 * later, and pushes it back with the number of bytes that it wrote.
 *
 * A driver that breaks the rules (a loop, an index out of range, a head that is in flight, a ring that runs ahead
 * by more than its size, a writable part before a readable one, a part of no bytes, memory that does not exist) makes the queue
 * `broken`: pop gives nothing any more, the transport sets DEVICE_NEEDS_RESET, and only a reset helps.
 *
 * Indirect descriptors (VIRTIO_F_INDIRECT_DESC) and EVENT_IDX (VIRTIO_F_EVENT_IDX) are honoured when negotiated.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTQUEUE_H
#define KELPIE_VMM_DEVICE_VIRTQUEUE_H

#include <sys/uio.h>

#include "vmm/memory/memory.h"
#include "vmm/state/state.h"

struct virtqueue {
    const struct memory *memory;
    uint16_t size_max; /* what the device offers */
    uint16_t size;     /* what the driver chose: a power of two up to size_max */
    bool ready;
    bool broken;
    bool event_index; /* negotiated */
    bool indirect;    /* negotiated */
    uint64_t descriptors_gpa;
    uint64_t available_gpa;
    uint64_t used_gpa;
    uint16_t next_available; /* free-running: the next entry of the available ring to pop */
    uint16_t
        next_used; /* free-running, in_flight behind: the next entry of the used ring to write */
    uint16_t signalled_used; /* next_used when an interrupt was last decided on */
    uint16_t in_flight;      /* popped and not pushed */
    uint64_t in_flight_heads[VMM_QUEUE_SIZE_MAX / 64];
};

/* One request: what the device may read, then what it may write. */
struct virtqueue_chain {
    uint16_t head;
    uint16_t readable_count; /* parts[0 … readable_count) */
    uint16_t writable_count; /* parts[readable_count … readable_count + writable_count) */
    uint64_t readable_size;  /* bytes, below 2^32 */
    uint64_t writable_size;
    struct iovec
        parts[VMM_CHAIN_LENGTH_MAX]; /* through the gate; not for longer than the queue is live */
};

void virtqueue_init(struct virtqueue *queue, const struct memory *memory, uint16_t size_max);

/* As after init. */
void virtqueue_reset(struct virtqueue *queue);

/* The driver says ready. False, and broken: size or addresses are impossible (hazard A5). */
bool virtqueue_enable(struct virtqueue *queue);

/* The next chain. False: there is none (or the queue is broken, or not ready), and *ret_chain holds nothing. */
bool virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain);

/* Takes back the last pop, as if it had not been. */
void virtqueue_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain);

/* Gives a chain back, in any order: the first `written` bytes of its writable parts hold data (at most writable_size). A
 * broken queue takes back what was popped before. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written);

/* True when the driver wants an interrupt for what was pushed since the last call. Call once after a burst of pushes,
 * which is shorter than 2^16. */
bool virtqueue_wants_interrupt(struct virtqueue *queue);

/* True when there is something to pop; asks the driver to kick for what comes later (EVENT_IDX) when not. Without this
 * call after the last pop, the driver may never kick again:
 *     do { while (virtqueue_pop(queue, chain)) { … } } while (virtqueue_has_available(queue)); */
bool virtqueue_has_available(struct virtqueue *queue);

/* Copies between a chain and a buffer, from byte `offset` of its readable (or writable) bytes on. Returns how many bytes
 * there were to copy, at most size. */
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset, void *buffer,
                            size_t size);
size_t virtqueue_chain_write(const struct virtqueue_chain *chain, uint64_t offset, const void *data,
                             size_t size);

/* In the transport's section. A queue with chains in flight cannot be saved: devices finish or unpop first
 * (asserted). Load checks everything that the driver could have set, and the rest against it; false: nothing was
 * loaded. What is negotiated (event_index, indirect) is not saved: the transport knows it from the features. */
void virtqueue_save(const struct virtqueue *queue, struct cursor_writer *writer);
bool virtqueue_load(struct virtqueue *queue, struct cursor_reader *reader);

#endif
