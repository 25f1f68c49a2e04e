/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The virtqueue does what the model says, over many short lives of a driver that is mostly honest. */
#include "vmm/device/virtqueue_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/virtqueue_guest.h"
#include "vmm/device/virtqueue.h"

#define MEMORY_SIZE (16 * VMM_PAGE_SIZE)
#define QUEUE_SIZE 8u
#define DESCRIPTORS 0x1000ull
#define AVAILABLE 0x2000ull
#define USED 0x3000ull
#define TABLE 0x4000ull
#define DATA 0x8000ull
#define LIFE_COUNT 3000
#define STEP_COUNT 500

static _Alignas(4096) uint8_t bytes[MEMORY_SIZE];

struct life {
    struct memory memory;
    struct virtqueue queue;
    struct virtqueue_chain chain;
    struct model model;
    uint64_t seed;
    uint64_t popped;
};

static uint64_t below(struct life *life, uint64_t limit) {
    life->seed = life->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (life->seed >> 33) % limit;
}

/* Chains go forwards, readable parts in the table's first half: most of them end well. */
static struct guest_descriptor honest_descriptor(struct life *life, uint64_t table,
                                                 uint32_t index) {
    struct guest_descriptor descriptor = {.gpa = DATA + below(life, 0x1000),
                                          .size = below(life, 200) + 1,
                                          .flags = index < QUEUE_SIZE / 2 ? 0 : GUEST_WRITE,
                                          .next = index + 1};
    if (index + 1 < QUEUE_SIZE && below(life, 2) == 0) {
        descriptor.flags |= GUEST_NEXT;
    }
    if (table == DESCRIPTORS && index < QUEUE_SIZE / 2 && below(life, 4) == 0) {
        descriptor = (struct guest_descriptor){TABLE, 16 * QUEUE_SIZE, GUEST_INDIRECT, 0};
    }
    return descriptor;
}

static struct guest_descriptor wild_descriptor(struct life *life) {
    return (struct guest_descriptor){.gpa = below(life, MEMORY_SIZE + 0x1000),
                                     .size = below(life, 3) * 16 * below(life, 1u << 10),
                                     .flags = below(life, 8),
                                     .next = below(life, QUEUE_SIZE + 2)};
}

static void scribble(struct life *life) {
    uint64_t table = below(life, 3) == 0 ? TABLE : DESCRIPTORS;
    uint32_t index = (uint32_t)below(life, QUEUE_SIZE);
    bool wild = below(life, 150) == 0;
    guest_describe(bytes, table, index,
                   wild ? wild_descriptor(life) : honest_descriptor(life, table, index));
    if (below(life, 2) == 0) {
        guest_poke(bytes, AVAILABLE + 4 + 2 * QUEUE_SIZE, life->queue.next_used + below(life, 4),
                   2);
        guest_poke(bytes, AVAILABLE, below(life, 2), 2);
    }
    uint32_t head = (uint32_t)below(life, QUEUE_SIZE);
    bool honest = below(life, 200) != 0;
    if (!honest || !life->model.in_flight[head]) {
        guest_offer(bytes, AVAILABLE, QUEUE_SIZE, head);
    }
}

static void compare_pop(struct life *life) {
    struct model_chain expected;
    bool has = model_pop(&life->model, &expected);
    assert_int_equal(virtqueue_pop(&life->queue, &life->chain), has);
    assert_int_equal(life->queue.broken, life->model.broken);
    if (!has) {
        return;
    }
    const struct virtqueue_chain *chain = &life->chain;
    uint64_t total = 0;
    assert_int_equal(chain->head, expected.head);
    assert_int_equal(chain->readable_count + chain->writable_count, expected.part_count);
    for (uint32_t i = 0; i < expected.part_count; i++) {
        assert_ptr_equal(chain->parts[i].iov_base, bytes + expected.parts[i].gpa);
        assert_int_equal(chain->parts[i].iov_len, expected.parts[i].size);
        assert_int_equal(i >= chain->readable_count, expected.parts[i].writable);
        total += expected.parts[i].size;
    }
    assert_int_equal(chain->readable_size + chain->writable_size, total);
    life->popped++;
    if (below(life, 5) == 0) {
        virtqueue_unpop(&life->queue, chain);
        model_unpop(&life->model, expected.head);
    }
}

static void compare_push(struct life *life) {
    uint32_t head = (uint32_t)below(life, QUEUE_SIZE);
    if (!life->model.in_flight[head]) {
        return;
    }
    uint32_t written = (uint32_t)below(life, 1u << 31);
    uint64_t entry = model_push(&life->model, head);
    virtqueue_push(&life->queue, (uint16_t)head, written);
    assert_int_equal(guest_peek(bytes, entry, 4), head);
    assert_int_equal(guest_peek(bytes, entry + 4, 4), written);
    assert_int_equal(guest_peek(bytes, USED + 2, 2), life->model.pushed % 65536);
}

static void begin(struct life *life) {
    memset(bytes, 0, MEMORY_SIZE);
    memory_init(&life->memory, bytes, MEMORY_SIZE);
    virtqueue_init(&life->queue, &life->memory, QUEUE_SIZE);
    life->queue.size = QUEUE_SIZE;
    life->queue.descriptors_gpa = DESCRIPTORS;
    life->queue.available_gpa = AVAILABLE;
    life->queue.used_gpa = USED;
    life->queue.indirect = below(life, 8) != 0;
    life->queue.event_index = below(life, 2) == 0;
    assert_true(virtqueue_enable(&life->queue));
    life->model = (struct model){.memory = bytes,
                                 .memory_size = MEMORY_SIZE,
                                 .size = QUEUE_SIZE,
                                 .descriptors = DESCRIPTORS,
                                 .available = AVAILABLE,
                                 .used = USED,
                                 .event_index = life->queue.event_index,
                                 .indirect = life->queue.indirect};
    assert_true(model_is_possible(&life->model, QUEUE_SIZE));
    for (uint32_t i = 0; i < QUEUE_SIZE; i++) {
        guest_describe(bytes, DESCRIPTORS, i, honest_descriptor(life, DESCRIPTORS, i));
        guest_describe(bytes, TABLE, i, honest_descriptor(life, TABLE, i));
    }
}

static void test_a_queue_does_what_the_model_does(void **state) {
    (void)state;
    static struct life life = {.seed = 20240229};
    uint32_t broken = 0;
    uint32_t interrupts = 0;
    for (int i = 0; i < LIFE_COUNT; i++) {
        begin(&life);
        for (int step = 0; step < STEP_COUNT && !life.model.broken; step++) {
            scribble(&life);
            compare_pop(&life);
            compare_push(&life);
            if (below(&life, 4) == 0) {
                bool wanted = model_wants_interrupt(&life.model);
                assert_int_equal(virtqueue_wants_interrupt(&life.queue), wanted);
                interrupts += wanted;
            }
        }
        broken += life.model.broken;
    }
    /* The lives were worth something. */
    assert_in_range(life.popped, 20000, UINT64_MAX);
    assert_in_range(interrupts, 1000, UINT64_MAX);
    assert_in_range(broken, 500, LIFE_COUNT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_queue_does_what_the_model_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
