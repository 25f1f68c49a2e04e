/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtqueue.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

/* The layout of the three parts (virtio 1.2, 2.7.5, 2.7.6, 2.7.8). */
#define DESCRIPTOR_SIZE 16u
#define DESCRIPTOR_ALIGNMENT 16u
#define DESCRIPTOR_NEXT 1u
#define DESCRIPTOR_WRITE 2u
#define DESCRIPTOR_INDIRECT 4u
#define AVAILABLE_ALIGNMENT 2u
#define AVAILABLE_INDEX 2u /* where the driver's index stands; its flags stand at 0 */
#define AVAILABLE_RING 4u
#define AVAILABLE_NO_INTERRUPT 1u
#define USED_ALIGNMENT 4u
#define USED_INDEX 2u
#define USED_RING 4u
#define USED_ENTRY_SIZE 8u
#define EVENT_SIZE 2u /* behind each ring: the index at which the other side wants to hear */

#define CHAIN_BYTES_MAX UINT32_MAX /* 2.7.5.3: no chain is longer than 2^32 bytes */

struct descriptor {
    uint64_t gpa;
    uint32_t size;
    uint16_t flags;
    uint16_t next;
};
static_assert(sizeof(struct descriptor) == DESCRIPTOR_SIZE, "as the guest lays it out");

/* Where a chain's descriptors stand: the queue's own table, or an indirect one. */
struct table {
    uint64_t gpa;
    uint32_t count;
};

/* ---- Barriers (2.7.13) ------------------------------------------------------------------------ */

/* gcc's thread sanitizer knows no fences and warns of it; what they order here is the guest's, which it does not see. */
#ifdef __SANITIZE_THREAD__
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* What is read from now on was written before the index that was read last. */
static void barrier_acquire(void) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

/* The index that is written next is seen after what was written before. */
static void barrier_release(void) {
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* What was written is seen before what is read next is read: both sides write, then look. */
static void barrier_full(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- Life ------------------------------------------------------------------------------------- */

static bool is_power_of_two(uint32_t value) {
    return value != 0 && (value & (value - 1)) == 0;
}

static uint64_t available_event_gpa(const struct virtqueue *queue) {
    ASSERT(queue->size > 0);
    return queue->used_gpa + USED_RING + (uint64_t)queue->size * USED_ENTRY_SIZE;
}

static uint64_t used_event_gpa(const struct virtqueue *queue) {
    ASSERT(queue->size > 0);
    return queue->available_gpa + AVAILABLE_RING + (uint64_t)queue->size * sizeof(uint16_t);
}

/* What holds at any time between two calls. */
static void assert_invariant(const struct virtqueue *queue) {
    ASSERT(queue && queue->memory);
    ASSERT(is_power_of_two(queue->size_max));
    ASSERT(queue->size_max <= VMM_QUEUE_SIZE_MAX);
    ASSERT(!queue->ready || is_power_of_two(queue->size));
    ASSERT(!queue->ready || queue->size <= queue->size_max);
    ASSERT(queue->ready || queue->in_flight == 0);
    ASSERT((uint16_t)(queue->next_available - queue->next_used) == queue->in_flight);
}

void virtqueue_init(struct virtqueue *queue, const struct memory *memory, uint16_t size_max) {
    ASSERT(queue && memory);
    *queue = (struct virtqueue){.memory = memory, .size_max = size_max};
    assert_invariant(queue);
}

void virtqueue_reset(struct virtqueue *queue) {
    assert_invariant(queue);
    virtqueue_init(queue, queue->memory, queue->size_max);
    ASSERT(!queue->ready);
}

static bool part_fits(const struct virtqueue *queue, uint64_t gpa, uint64_t size,
                      uint64_t alignment) {
    ASSERT(size > 0);
    ASSERT(is_power_of_two((uint32_t)alignment));
    return gpa % alignment == 0 && memory_readable(queue->memory, gpa, size) != NULL;
}

/* Whether the device can work with what the driver set (hazard A5). Both rings have room for the event at their end,
 * used or not. */
static bool rings_are_possible(const struct virtqueue *queue) {
    ASSERT(queue->memory);
    ASSERT(queue->size_max <= VMM_QUEUE_SIZE_MAX);
    uint64_t size = queue->size;
    if (!is_power_of_two(queue->size) || size > queue->size_max) {
        return false;
    }
    return part_fits(queue, queue->descriptors_gpa, size * DESCRIPTOR_SIZE, DESCRIPTOR_ALIGNMENT) &&
           part_fits(queue, queue->available_gpa,
                     AVAILABLE_RING + size * sizeof(uint16_t) + EVENT_SIZE, AVAILABLE_ALIGNMENT) &&
           part_fits(queue, queue->used_gpa, USED_RING + size * USED_ENTRY_SIZE + EVENT_SIZE,
                     USED_ALIGNMENT);
}

bool virtqueue_enable(struct virtqueue *queue) {
    assert_invariant(queue);
    ASSERT(!queue->ready);
    queue->ready = rings_are_possible(queue) && !queue->broken;
    queue->broken = !queue->ready;
    return queue->ready;
}

static bool is_live(const struct virtqueue *queue) {
    assert_invariant(queue);
    return queue->ready && !queue->broken;
}

/* ---- Chains in flight (hazard A6) ------------------------------------------------------------- */

static bool is_in_flight(const struct virtqueue *queue, uint16_t head) {
    ASSERT(head < queue->size);
    ASSERT(head < VMM_QUEUE_SIZE_MAX);
    return (queue->in_flight_heads[head / 64] >> (head % 64) & 1) != 0;
}

static void flight_begin(struct virtqueue *queue, uint16_t head) {
    ASSERT(!is_in_flight(queue, head));
    ASSERT(queue->in_flight < queue->size);
    queue->in_flight_heads[head / 64] |= 1ull << (head % 64);
    queue->in_flight++;
}

static void flight_end(struct virtqueue *queue, uint16_t head) {
    ASSERT(is_in_flight(queue, head));
    ASSERT(queue->in_flight > 0);
    queue->in_flight_heads[head / 64] &= ~(1ull << (head % 64));
    queue->in_flight--;
}

/* ---- Popping ---------------------------------------------------------------------------------- */

/* A u16 of a live ring: enabling has checked that it is memory. */
static uint16_t ring_read(const struct virtqueue *queue, uint64_t gpa) {
    ASSERT(queue->ready);
    uint16_t value = 0;
    bool was_read = memory_read_u16(queue->memory, gpa, &value);
    ASSERT(was_read);
    return value;
}

static void ring_write(const struct virtqueue *queue, uint64_t gpa, uint16_t value) {
    ASSERT(queue->ready);
    bool was_written = memory_write_u16(queue->memory, gpa, value);
    ASSERT(was_written);
}

/* How many chains wait. A ring that runs ahead by more than its size breaks the queue. */
static uint16_t available_count(struct virtqueue *queue) {
    ASSERT(is_live(queue));
    uint16_t index = ring_read(queue, queue->available_gpa + AVAILABLE_INDEX);
    barrier_acquire();
    uint16_t count = (uint16_t)(index - queue->next_available);
    if (count > queue->size) {
        queue->broken = true;
        return 0;
    }
    ASSERT(count <= VMM_QUEUE_SIZE_MAX);
    return count;
}

/* Copies a descriptor once; nothing is read again (hazard A11). */
static bool read_descriptor(const struct virtqueue *queue, const struct table *table,
                            uint32_t index, struct descriptor *ret) {
    ASSERT(table->count > 0);
    ASSERT(ret);
    if (index >= table->count) {
        return false;
    }
    return memory_read(queue->memory, table->gpa + (uint64_t)index * DESCRIPTOR_SIZE, ret,
                       sizeof(*ret));
}

/* 2.7.5.3: an indirect table ends a chain, is not within another one and holds whole descriptors. All of it is
 * memory, so that no entry's address overflows (hazard A12). */
static bool enter_indirect(const struct virtqueue *queue, const struct descriptor *descriptor,
                           struct table *table) {
    ASSERT((descriptor->flags & DESCRIPTOR_INDIRECT) != 0);
    ASSERT(table->gpa == queue->descriptors_gpa);
    if (!queue->indirect || (descriptor->flags & DESCRIPTOR_NEXT) != 0 ||
        descriptor->size % DESCRIPTOR_SIZE != 0 ||
        !memory_readable(queue->memory, descriptor->gpa, descriptor->size)) {
        return false;
    }
    *table = (struct table){.gpa = descriptor->gpa, .count = descriptor->size / DESCRIPTOR_SIZE};
    return true;
}

/* A part of no bytes is malformed: no driver needs one, and it would make chains longer for nothing. */
static bool add_part(const struct virtqueue *queue, const struct descriptor *descriptor,
                     struct virtqueue_chain *chain) {
    bool writable = (descriptor->flags & DESCRIPTOR_WRITE) != 0;
    size_t count = (size_t)chain->readable_count + chain->writable_count;
    ASSERT(count <= VMM_CHAIN_LENGTH_MAX);
    ASSERT(chain->readable_size + chain->writable_size <= CHAIN_BYTES_MAX);
    uint64_t total = chain->readable_size + chain->writable_size + descriptor->size;
    if (count == VMM_CHAIN_LENGTH_MAX || total > CHAIN_BYTES_MAX ||
        (!writable && chain->writable_count > 0)) {
        return false;
    }
    /* The gate refuses a size of 0. An iovec has no const. */
    void *bytes = writable
                      ? memory_writable(queue->memory, descriptor->gpa, descriptor->size)
                      : (void *)memory_readable(queue->memory, descriptor->gpa, descriptor->size);
    if (!bytes) {
        return false;
    }
    chain->parts[count] = (struct iovec){.iov_base = bytes, .iov_len = descriptor->size};
    chain->readable_count = (uint16_t)(chain->readable_count + !writable);
    chain->writable_count = (uint16_t)(chain->writable_count + writable);
    *(writable ? &chain->writable_size : &chain->readable_size) += descriptor->size;
    return true;
}

/* Gathers the parts of the chain that begins at its head. A loop is a chain that is too long: it does not end
 * (hazard A1). One step more than there can be parts, for the descriptor of an indirect table. */
static bool gather(const struct virtqueue *queue, struct virtqueue_chain *chain) {
    ASSERT(chain->head < queue->size);
    ASSERT(queue->ready);
    struct table table = {.gpa = queue->descriptors_gpa, .count = queue->size};
    bool indirect = false;
    uint32_t index = chain->head;
    for (uint32_t step = 0; step < VMM_CHAIN_LENGTH_MAX + 1; step++) {
        struct descriptor descriptor;
        if (!read_descriptor(queue, &table, index, &descriptor)) {
            return false;
        }
        if ((descriptor.flags & DESCRIPTOR_INDIRECT) != 0) {
            if (indirect || !enter_indirect(queue, &descriptor, &table)) {
                return false;
            }
            indirect = true;
            index = 0;
            continue;
        }
        if (!add_part(queue, &descriptor, chain)) {
            return false;
        }
        if ((descriptor.flags & DESCRIPTOR_NEXT) == 0) {
            return true;
        }
        index = descriptor.next;
    }
    return false;
}

bool virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain) {
    ASSERT(queue && ret_chain);
    if (!is_live(queue) || available_count(queue) == 0) {
        return false;
    }
    uint64_t slot = queue->next_available & (queue->size - 1u);
    uint16_t head =
        ring_read(queue, queue->available_gpa + AVAILABLE_RING + slot * sizeof(uint16_t));
    ret_chain->head = head;
    ret_chain->readable_count = 0;
    ret_chain->writable_count = 0;
    ret_chain->readable_size = 0;
    ret_chain->writable_size = 0;
    if (head >= queue->size || is_in_flight(queue, head) || !gather(queue, ret_chain)) {
        queue->broken = true;
        return false;
    }
    flight_begin(queue, head);
    queue->next_available++;
    assert_invariant(queue);
    return true;
}

void virtqueue_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain) {
    assert_invariant(queue);
    ASSERT(queue->ready);
    flight_end(queue, chain->head);
    queue->next_available--;
    assert_invariant(queue);
}

/* ---- Pushing ---------------------------------------------------------------------------------- */

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written) {
    assert_invariant(queue);
    ASSERT(queue->ready);
    flight_end(queue, head);
    uint64_t slot = queue->next_used & (queue->size - 1u);
    const uint32_t entry[2] = {head, written};
    static_assert(sizeof(entry) == USED_ENTRY_SIZE, "as the guest lays it out");
    bool was_written = memory_write(
        queue->memory, queue->used_gpa + USED_RING + slot * USED_ENTRY_SIZE, entry, sizeof(entry));
    ASSERT(was_written);
    barrier_release();
    queue->next_used++;
    ring_write(queue, queue->used_gpa + USED_INDEX, queue->next_used);
    assert_invariant(queue);
}

/* 2.7.7.2: whether `event` is one of the entries [before, now). All are free-running. */
static bool event_was_passed(uint16_t event, uint16_t before, uint16_t now) {
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

bool virtqueue_wants_interrupt(struct virtqueue *queue) {
    ASSERT(queue);
    if (!is_live(queue) || queue->signalled_used == queue->next_used) {
        return false;
    }
    uint16_t before = queue->signalled_used;
    queue->signalled_used = queue->next_used;
    /* The driver asks and looks for used buffers; we show them and look whether it asks. */
    barrier_full();
    if (!queue->event_index) {
        return (ring_read(queue, queue->available_gpa) & AVAILABLE_NO_INTERRUPT) == 0;
    }
    ASSERT(queue->signalled_used == queue->next_used);
    return event_was_passed(ring_read(queue, used_event_gpa(queue)), before, queue->next_used);
}

bool virtqueue_has_available(struct virtqueue *queue) {
    ASSERT(queue);
    if (!is_live(queue)) {
        return false;
    }
    if (available_count(queue) > 0) {
        return true;
    }
    if (queue->broken || !queue->event_index) {
        return false;
    }
    ring_write(queue, available_event_gpa(queue), queue->next_available);
    /* The driver shows a chain and looks whether we ask; we ask and look for chains. */
    barrier_full();
    return available_count(queue) > 0;
}

/* ---- Bytes of a chain ------------------------------------------------------------------------- */

/* The next piece of parts[*index …), `*skip` bytes behind the start: at most size. NULL: there is none. */
static uint8_t *next_piece(const struct iovec *parts, size_t count, size_t *index, uint64_t *skip,
                           size_t *size) {
    ASSERT(count <= VMM_CHAIN_LENGTH_MAX);
    ASSERT(*index <= count);
    while (*index < count && *skip >= parts[*index].iov_len) {
        *skip -= parts[*index].iov_len;
        (*index)++;
    }
    if (*index == count || *size == 0) {
        return NULL;
    }
    uint8_t *piece = (uint8_t *)parts[*index].iov_base + *skip;
    *size = min_size(*size, parts[*index].iov_len - (size_t)*skip);
    *skip += *size;
    return piece;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset, void *buffer,
                            size_t size) {
    ASSERT(chain);
    ASSERT(buffer || size == 0);
    size_t index = 0;
    size_t done = 0;
    for (;;) {
        size_t count = size - done;
        const uint8_t *piece =
            next_piece(chain->parts, chain->readable_count, &index, &offset, &count);
        if (!piece) {
            return done;
        }
        memcpy((uint8_t *)buffer + done, piece, count);
        done += count;
        ASSERT(done <= size);
    }
}

size_t virtqueue_chain_write(const struct virtqueue_chain *chain, uint64_t offset, const void *data,
                             size_t size) {
    ASSERT(chain);
    ASSERT(data || size == 0);
    const struct iovec *parts = chain->parts + chain->readable_count;
    size_t index = 0;
    size_t done = 0;
    for (;;) {
        size_t count = size - done;
        uint8_t *piece = next_piece(parts, chain->writable_count, &index, &offset, &count);
        if (!piece) {
            return done;
        }
        memcpy(piece, (const uint8_t *)data + done, count);
        done += count;
        ASSERT(done <= size);
    }
}

/* ---- Saving and loading ----------------------------------------------------------------------- */

/* What is negotiated is the transport's to save. With nothing in flight both rings stand at one index. */
void virtqueue_save(const struct virtqueue *queue, struct cursor_writer *writer) {
    assert_invariant(queue);
    ASSERT(queue->in_flight == 0);
    cursor_write_u16(writer, queue->size);
    cursor_write_u8(writer, queue->ready);
    cursor_write_u8(writer, queue->broken);
    cursor_write_u64(writer, queue->descriptors_gpa);
    cursor_write_u64(writer, queue->available_gpa);
    cursor_write_u64(writer, queue->used_gpa);
    cursor_write_u16(writer, queue->next_used);
    cursor_write_u16(writer, queue->signalled_used);
}

bool virtqueue_load(struct virtqueue *queue, struct cursor_reader *reader) {
    assert_invariant(queue);
    ASSERT(reader);
    struct virtqueue loaded = *queue;
    loaded.size = cursor_read_u16(reader);
    uint8_t ready = cursor_read_u8(reader);
    uint8_t broken = cursor_read_u8(reader);
    loaded.descriptors_gpa = cursor_read_u64(reader);
    loaded.available_gpa = cursor_read_u64(reader);
    loaded.used_gpa = cursor_read_u64(reader);
    loaded.next_used = cursor_read_u16(reader);
    loaded.signalled_used = cursor_read_u16(reader);
    loaded.next_available = loaded.next_used;
    loaded.in_flight = 0;
    memset(loaded.in_flight_heads, 0, sizeof(loaded.in_flight_heads));
    loaded.ready = ready != 0;
    loaded.broken = broken != 0;
    bool valid = !reader->failed && ready <= 1 && broken <= 1;
    if (loaded.ready) {
        valid = valid && rings_are_possible(&loaded);
    } else {
        valid = valid && loaded.next_used == 0 && loaded.signalled_used == 0;
    }
    if (valid) {
        *queue = loaded;
    }
    assert_invariant(queue);
    return valid;
}
