/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a virtqueue does, said a second time and naively, for tests and the fuzzer: no tricks with free-running numbers,
 * no shared code, memory is one array that begins at address 0. Slow, and never a part of the monitor.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTQUEUE_MODEL_H
#define KELPIE_VMM_DEVICE_VIRTQUEUE_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"

#define MODEL_PART_COUNT_MAX 256u
#define MODEL_QUEUE_SIZE_MAX 256u

struct model {
    const uint8_t *memory;
    uint64_t memory_size;
    uint32_t size;
    uint64_t descriptors;
    uint64_t available;
    uint64_t used;
    bool event_index;
    bool indirect;
    bool broken;
    uint64_t popped;    /* since the beginning; the ring's numbers are these modulo 2^16 */
    uint64_t pushed;    /* the same */
    uint64_t signalled; /* `pushed` when an interrupt was last decided on */
    bool in_flight[MODEL_QUEUE_SIZE_MAX];
};

struct model_part {
    uint64_t gpa;
    uint64_t size;
    bool writable;
};

struct model_chain {
    uint32_t head;
    uint32_t part_count;
    struct model_part parts[MODEL_PART_COUNT_MAX];
};

/* A little-endian number of `size` bytes, which are memory. */
static inline uint64_t model_number(const struct model *model, uint64_t gpa, uint32_t size) {
    ASSERT(gpa + size <= model->memory_size);
    ASSERT(size <= sizeof(uint64_t));
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++) {
        value += (uint64_t)model->memory[gpa + i] << (8 * i);
    }
    return value;
}

static inline bool model_is_memory(const struct model *model, uint64_t gpa, uint64_t size) {
    ASSERT(model->memory);
    ASSERT(model->memory_size < 1ull << 40);
    return size > 0 && (unsigned __int128)gpa + size <= model->memory_size;
}

/* Whether the queue could be enabled. */
static inline bool model_is_possible(const struct model *model, uint32_t size_max) {
    ASSERT(model->memory);
    ASSERT(size_max <= MODEL_QUEUE_SIZE_MAX);
    bool power = false;
    for (uint32_t i = 0; i <= 8; i++) {
        power = power || model->size == 1u << i;
    }
    return power && model->size <= size_max && model->descriptors % 16 == 0 &&
           model->available % 2 == 0 && model->used % 4 == 0 &&
           model_is_memory(model, model->descriptors, 16ull * model->size) &&
           model_is_memory(model, model->available, 6 + 2ull * model->size) &&
           model_is_memory(model, model->used, 6 + 8ull * model->size);
}

static inline bool model_add(const struct model *model, struct model_chain *chain,
                             struct model_part part) {
    ASSERT(model->memory);
    ASSERT(chain->part_count <= MODEL_PART_COUNT_MAX);
    uint64_t total = part.size;
    bool written = false;
    for (uint32_t i = 0; i < chain->part_count; i++) {
        total += chain->parts[i].size;
        written = written || chain->parts[i].writable;
    }
    if (chain->part_count == MODEL_PART_COUNT_MAX || total > 0xffffffffull ||
        (written && !part.writable) || !model_is_memory(model, part.gpa, part.size)) {
        return false;
    }
    chain->parts[chain->part_count++] = part;
    return true;
}

/* The parts from the head on; false: the chain breaks a rule. */
static inline bool model_walk(const struct model *model, struct model_chain *chain) {
    static const uint16_t flag_next = 1, flag_write = 2, flag_indirect = 4;
    uint64_t table = model->descriptors;
    uint64_t count = model->size;
    uint64_t index = chain->head;
    bool within = false;
    ASSERT(index < count);
    ASSERT(chain->part_count == 0);
    for (uint32_t step = 0; step <= 2 * MODEL_PART_COUNT_MAX; step++) {
        if (index >= count) {
            return false;
        }
        uint64_t gpa = model_number(model, table + 16 * index, 8);
        uint64_t size = model_number(model, table + 16 * index + 8, 4);
        uint64_t flags = model_number(model, table + 16 * index + 12, 2);
        uint64_t next = model_number(model, table + 16 * index + 14, 2);
        if (flags & flag_indirect) {
            if (within || !model->indirect || (flags & flag_next) || size % 16 != 0 ||
                !model_is_memory(model, gpa, size)) {
                return false;
            }
            within = true;
            table = gpa;
            count = size / 16;
            index = 0;
            continue;
        }
        if (!model_add(model, chain, (struct model_part){gpa, size, (flags & flag_write) != 0})) {
            return false;
        }
        if (!(flags & flag_next)) {
            return true;
        }
        index = next;
    }
    return false;
}

/* How many chains wait; false: more than there can be. */
static inline bool model_waiting(const struct model *model, uint64_t *ret_count) {
    ASSERT(model->size > 0);
    ASSERT(ret_count);
    uint64_t index = model_number(model, model->available + 2, 2);
    for (uint64_t count = 0; count <= model->size; count++) {
        if ((model->popped + count) % 65536 == index) {
            *ret_count = count;
            return true;
        }
    }
    return false;
}

/* As virtqueue_pop(). */
static inline bool model_pop(struct model *model, struct model_chain *ret_chain) {
    ASSERT(model->size > 0);
    ASSERT(ret_chain);
    uint64_t waiting = 0;
    ret_chain->part_count = 0;
    if (model->broken) {
        return false;
    }
    if (!model_waiting(model, &waiting)) {
        model->broken = true;
        return false;
    }
    if (waiting == 0) {
        return false;
    }
    uint64_t slot = model->popped % 65536 % model->size;
    ret_chain->head = (uint32_t)model_number(model, model->available + 4 + 2 * slot, 2);
    if (ret_chain->head >= model->size || model->in_flight[ret_chain->head] ||
        !model_walk(model, ret_chain)) {
        model->broken = true;
        return false;
    }
    model->in_flight[ret_chain->head] = true;
    model->popped++;
    return true;
}

/* As virtqueue_unpop(). */
static inline void model_unpop(struct model *model, uint32_t head) {
    ASSERT(model->popped > 0);
    ASSERT(model->in_flight[head]);
    model->in_flight[head] = false;
    model->popped--;
}

/* As virtqueue_push(), and where the entry must stand then. */
static inline uint64_t model_push(struct model *model, uint32_t head) {
    ASSERT(model->in_flight[head]);
    ASSERT(model->pushed < model->popped);
    model->in_flight[head] = false;
    uint64_t slot = model->pushed++ % 65536 % model->size;
    return model->used + 4 + 8 * slot;
}

/* As virtqueue_wants_interrupt(). */
static inline bool model_wants_interrupt(struct model *model) {
    ASSERT(model->size > 0);
    ASSERT(model->signalled <= model->pushed);
    if (model->broken || model->signalled == model->pushed) {
        return false;
    }
    uint64_t event = model_number(model, model->available + 4 + 2ull * model->size, 2);
    bool wanted = !model->event_index && model_number(model, model->available, 2) % 2 == 0;
    for (; model->signalled < model->pushed; model->signalled++) {
        wanted = wanted || (model->event_index && model->signalled % 65536 == event);
    }
    return wanted;
}

#endif
