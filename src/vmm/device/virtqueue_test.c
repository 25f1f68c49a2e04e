/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtqueue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/virtqueue_guest.h"

#define MEMORY_SIZE (64 * VMM_PAGE_SIZE)
#define QUEUE_SIZE 8
#define DESCRIPTORS 0x1000ull
#define AVAILABLE 0x2000ull
#define USED 0x3000ull
#define TABLE 0x4000ull /* indirect */
#define DATA 0x8000ull
#define NEXT GUEST_NEXT
#define WRITE GUEST_WRITE
#define INDIRECT GUEST_INDIRECT

/* A driver's side of one queue, over its memory. */
struct guest {
    struct memory memory;
    struct virtqueue queue;
    struct virtqueue_chain chain;
    uint64_t dirty[MEMORY_SIZE / VMM_PAGE_SIZE / 64];
    uint16_t size;
};

static uint8_t *bytes; /* the guest's memory, with nothing behind it */

static int set_up(void **state) {
    struct guest *guest = calloc(1, sizeof(*guest));
    bytes = aligned_alloc(VMM_PAGE_SIZE, MEMORY_SIZE);
    if (!guest || !bytes) {
        return -1;
    }
    memset(bytes, 0, MEMORY_SIZE);
    memory_init(&guest->memory, bytes, MEMORY_SIZE);
    guest->memory.dirty = guest->dirty;
    *state = guest;
    return 0;
}

static int tear_down(void **state) {
    free(*state);
    free(bytes);
    return 0;
}

static void poke(uint64_t gpa, uint64_t value, size_t size) {
    guest_poke(bytes, gpa, value, size);
}

static uint64_t peek(uint64_t gpa, size_t size) {
    return guest_peek(bytes, gpa, size);
}

static void place(struct guest *guest, uint16_t size, uint16_t size_max) {
    virtqueue_init(&guest->queue, &guest->memory, size_max);
    guest->size = size;
    guest->queue.size = size;
    guest->queue.descriptors_gpa = DESCRIPTORS;
    guest->queue.available_gpa = AVAILABLE;
    guest->queue.used_gpa = USED;
    guest->queue.indirect = true;
}

static struct guest *begin(void **state) {
    struct guest *guest = *state;
    place(guest, QUEUE_SIZE, VMM_QUEUE_SIZE_MAX);
    assert_true(virtqueue_enable(&guest->queue));
    return guest;
}

static void describe_at(uint64_t gpa, uint64_t address, uint64_t size, uint64_t flags,
                        uint64_t next) {
    guest_describe(bytes, gpa, 0, (struct guest_descriptor){address, size, flags, next});
}

static void describe(uint32_t index, uint64_t address, uint64_t size, uint64_t flags,
                     uint64_t next) {
    guest_describe(bytes, DESCRIPTORS, index,
                   (struct guest_descriptor){address, size, flags, next});
}

static void offer(const struct guest *guest, uint32_t head) {
    guest_offer(bytes, AVAILABLE, guest->size, head);
}

static bool pop(struct guest *guest) {
    return virtqueue_pop(&guest->queue, &guest->chain);
}

static void assert_breaks(struct guest *guest) {
    uint16_t before = guest->queue.next_available;
    assert_false(pop(guest));
    assert_true(guest->queue.broken);
    assert_int_equal(guest->queue.next_available, before);
    assert_false(virtqueue_has_available(&guest->queue));
    assert_false(virtqueue_wants_interrupt(&guest->queue));
}

/* ---- What works ------------------------------------------------------------------------------- */

static void test_a_chain_goes_there_and_back(void **state) {
    struct guest *guest = begin(state);
    assert_false(pop(guest));
    assert_false(guest->queue.broken);
    describe(3, DATA, 16, NEXT, 5);
    describe(5, DATA + 0x1000, 100, NEXT | WRITE, 0);
    describe(0, DATA + 0x3000, 28, WRITE, 0);
    offer(guest, 3);
    assert_true(virtqueue_has_available(&guest->queue));
    assert_true(pop(guest));
    assert_int_equal(guest->chain.head, 3);
    assert_int_equal(guest->chain.readable_count, 1);
    assert_int_equal(guest->chain.writable_count, 2);
    assert_int_equal(guest->chain.readable_size, 16);
    assert_int_equal(guest->chain.writable_size, 128);
    assert_ptr_equal(guest->chain.parts[0].iov_base, bytes + DATA);
    assert_ptr_equal(guest->chain.parts[2].iov_base, bytes + DATA + 0x3000);
    assert_int_equal(guest->chain.parts[2].iov_len, 28);
    assert_false(virtqueue_has_available(&guest->queue));
    assert_int_equal(peek(USED + 2, 2), 0);
    virtqueue_push(&guest->queue, 3, 77);
    assert_int_equal(peek(USED + 2, 2), 1);
    assert_int_equal(peek(USED + 4, 4), 3);
    assert_int_equal(peek(USED + 8, 4), 77);
}

static void test_chains_go_back_in_any_order_and_the_rings_wrap(void **state) {
    struct guest *guest = begin(state);
    for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
        describe(i, DATA + i, 1, 0, 0);
    }
    for (uint32_t round = 0; round < 3 * 65536 / QUEUE_SIZE; round++) {
        for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
            offer(guest, i);
        }
        for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
            assert_true(pop(guest));
            assert_int_equal(guest->chain.head, i);
        }
        for (uint16_t i = QUEUE_SIZE; i-- > 0;) {
            virtqueue_push(&guest->queue, i, i);
            uint64_t slot = QUEUE_SIZE - 1u - i;
            assert_int_equal(peek(USED + 4 + 8 * slot, 4), i);
        }
        assert_int_equal(peek(USED + 2, 2), (uint16_t)((round + 1) * QUEUE_SIZE));
    }
    assert_int_equal(guest->queue.in_flight, 0);
}

static void test_a_pop_is_taken_back(void **state) {
    struct guest *guest = begin(state);
    describe(1, DATA, 4, 0, 0);
    describe(2, DATA + 8, 4, 0, 0);
    offer(guest, 1);
    offer(guest, 2);
    assert_true(pop(guest));
    assert_true(pop(guest));
    assert_int_equal(guest->chain.head, 2);
    virtqueue_unpop(&guest->queue, &guest->chain);
    assert_true(virtqueue_has_available(&guest->queue));
    assert_true(pop(guest));
    assert_int_equal(guest->chain.head, 2);
    assert_false(pop(guest));
    assert_false(guest->queue.broken);
}

static void test_bytes_are_copied_across_parts(void **state) {
    struct guest *guest = begin(state);
    uint8_t buffer[32] = {0};
    describe(0, DATA, 3, NEXT, 1);
    describe(1, DATA + 0x100, 4, NEXT, 2);
    describe(2, DATA + 0x200, 2, NEXT | WRITE, 3);
    describe(3, DATA + 0x300, 5, WRITE, 0);
    memcpy(bytes + DATA, "abc", 3);
    memcpy(bytes + DATA + 0x100, "defg", 4);
    offer(guest, 0);
    assert_true(pop(guest));
    assert_int_equal(virtqueue_chain_read(&guest->chain, 0, buffer, sizeof(buffer)), 7);
    assert_memory_equal(buffer, "abcdefg\0", 8);
    assert_int_equal(virtqueue_chain_read(&guest->chain, 2, buffer, 3), 3);
    assert_memory_equal(buffer, "cde", 3);
    assert_int_equal(virtqueue_chain_read(&guest->chain, 3, buffer, 1), 1);
    assert_memory_equal(buffer, "d", 1);
    assert_int_equal(virtqueue_chain_read(&guest->chain, 7, buffer, 9), 0);
    assert_int_equal(virtqueue_chain_read(&guest->chain, UINT64_MAX, buffer, 9), 0);
    assert_int_equal(virtqueue_chain_write(&guest->chain, 1, "01234567", 8), 6);
    assert_memory_equal(bytes + DATA + 0x200,
                        "\0"
                        "0\0",
                        3);
    assert_memory_equal(bytes + DATA + 0x300, "12345\0", 6);
    assert_int_equal(virtqueue_chain_write(&guest->chain, 0, NULL, 0), 0);
    assert_int_equal(virtqueue_chain_write(&guest->chain, 7, "x", 1), 0);
}

static void test_an_indirect_table_ends_a_chain(void **state) {
    struct guest *guest = begin(state);
    describe(0, DATA, 4, NEXT, 1);
    describe(1, TABLE, 3 * 16, INDIRECT | WRITE, 0); /* WRITE means nothing there */
    describe_at(TABLE, DATA + 8, 1, NEXT, 2);
    describe_at(TABLE + 32, DATA + 16, 2, NEXT | WRITE, 1);
    describe_at(TABLE + 16, DATA + 24, 3, WRITE, 7);
    offer(guest, 0);
    assert_true(pop(guest));
    assert_int_equal(guest->chain.readable_size, 5);
    assert_int_equal(guest->chain.writable_size, 5);
    assert_ptr_equal(guest->chain.parts[3].iov_base, bytes + DATA + 24);
}

static void test_a_chain_may_have_as_many_parts_as_the_limit(void **state) {
    struct guest *guest = begin(state);
    for (uint16_t i = 0; i <= VMM_CHAIN_LENGTH_MAX; i++) {
        describe_at(TABLE + 16ull * i, DATA, 1, NEXT, i + 1u);
    }
    describe_at(TABLE + 16ull * (VMM_CHAIN_LENGTH_MAX - 1), DATA, 1, 0, 0);
    describe(0, TABLE, 16 * (VMM_CHAIN_LENGTH_MAX + 1), INDIRECT, 0);
    offer(guest, 0);
    assert_true(pop(guest));
    assert_int_equal(guest->chain.readable_count, VMM_CHAIN_LENGTH_MAX);
    virtqueue_push(&guest->queue, 0, 0);
    /* One more. */
    describe_at(TABLE + 16ull * (VMM_CHAIN_LENGTH_MAX - 1), DATA, 1, NEXT, VMM_CHAIN_LENGTH_MAX);
    describe_at(TABLE + 16ull * VMM_CHAIN_LENGTH_MAX, DATA, 1, 0, 0);
    offer(guest, 0);
    assert_breaks(guest);
}

/* Pages that a device may write, and the used ring's, are dirty; others are not. */
static void test_what_may_be_written_is_dirty(void **state) {
    struct guest *guest = begin(state);
    assert_int_equal(guest->dirty[0], 0);
    describe(0, DATA, 8, NEXT, 1);
    describe(1, DATA + 0x2000, 0x1001, WRITE, 0);
    offer(guest, 0);
    assert_true(pop(guest));
    assert_int_equal(guest->dirty[0], 3ull << ((DATA + 0x2000) / VMM_PAGE_SIZE));
    guest->dirty[0] = 0;
    virtqueue_push(&guest->queue, 0, 1);
    assert_int_equal(guest->dirty[0], 1ull << (USED / VMM_PAGE_SIZE));
    guest->dirty[0] = 0;
    guest->queue.event_index = true;
    assert_false(virtqueue_has_available(&guest->queue));
    assert_int_equal(guest->dirty[0], 1ull << (USED / VMM_PAGE_SIZE));
}

static void push_one(struct guest *guest) {
    describe(0, DATA, 8, 0, 0);
    offer(guest, 0);
    assert_true(pop(guest));
    virtqueue_push(&guest->queue, 0, 0);
}

static void test_an_interrupt_comes_once_for_a_burst(void **state) {
    struct guest *guest = begin(state);
    assert_false(virtqueue_wants_interrupt(&guest->queue));
    push_one(guest);
    push_one(guest);
    assert_true(virtqueue_wants_interrupt(&guest->queue));
    assert_false(virtqueue_wants_interrupt(&guest->queue));
    poke(AVAILABLE, 1, 2); /* no interrupt, please */
    push_one(guest);
    assert_false(virtqueue_wants_interrupt(&guest->queue));
    poke(AVAILABLE, 0, 2);
    push_one(guest);
    assert_true(virtqueue_wants_interrupt(&guest->queue));
}

/* At every place of the 16-bit numbers: an interrupt when entry `event` is written, and at no other. */
static void test_event_index_asks_for_one_entry(void **state) {
    struct guest *guest = begin(state);
    guest->queue.event_index = true;
    poke(AVAILABLE, 1, 2); /* means nothing now */
    for (uint32_t i = 0; i < 65536 + 300; i += 3) {
        poke(AVAILABLE + 4 + 2 * QUEUE_SIZE, i + 1, 2);
        push_one(guest);
        assert_false(virtqueue_wants_interrupt(&guest->queue));
        push_one(guest);
        assert_true(virtqueue_wants_interrupt(&guest->queue));
        push_one(guest);
        assert_false(virtqueue_wants_interrupt(&guest->queue));
    }
    poke(AVAILABLE + 4 + 2 * QUEUE_SIZE, guest->queue.next_used + 1u, 2);
    push_one(guest);
    push_one(guest);
    push_one(guest);
    assert_true(virtqueue_wants_interrupt(&guest->queue));
}

/* A driver that never hears, for more than 2^16 entries, and then does. */
static void test_event_index_survives_a_long_silence(void **state) {
    struct guest *guest = begin(state);
    guest->queue.event_index = true;
    poke(AVAILABLE + 4 + 2 * QUEUE_SIZE, 0xffff, 2);
    uint32_t interrupts = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        push_one(guest);
        interrupts += virtqueue_wants_interrupt(&guest->queue);
    }
    assert_int_equal(interrupts, 1);
    poke(AVAILABLE + 4 + 2 * QUEUE_SIZE, guest->queue.next_used, 2);
    push_one(guest);
    assert_true(virtqueue_wants_interrupt(&guest->queue));
}

static void test_event_index_asks_for_the_next_kick(void **state) {
    struct guest *guest = begin(state);
    const uint64_t event = USED + 4 + 8 * QUEUE_SIZE;
    push_one(guest);
    assert_false(virtqueue_has_available(&guest->queue));
    assert_int_equal(peek(event, 2), 0); /* not negotiated: not touched */
    guest->queue.event_index = true;
    assert_false(virtqueue_has_available(&guest->queue));
    assert_int_equal(peek(event, 2), 1);
    offer(guest, 0);
    assert_true(virtqueue_has_available(&guest->queue));
    assert_int_equal(peek(event, 2), 1);
}

static void test_a_queue_that_is_not_ready_gives_nothing(void **state) {
    struct guest *guest = *state;
    place(guest, QUEUE_SIZE, QUEUE_SIZE);
    describe(0, DATA, 8, 0, 0);
    offer(guest, 0);
    assert_false(pop(guest));
    assert_false(virtqueue_has_available(&guest->queue));
    assert_false(virtqueue_wants_interrupt(&guest->queue));
    assert_false(guest->queue.broken);
    assert_true(virtqueue_enable(&guest->queue));
    assert_true(pop(guest));
    virtqueue_reset(&guest->queue);
    assert_false(guest->queue.ready);
    assert_int_equal(guest->queue.size, 0);
    assert_int_equal(guest->queue.in_flight, 0);
    assert_int_equal(guest->queue.size_max, QUEUE_SIZE);
    assert_false(pop(guest));
}

/* ---- Hazards ---------------------------------------------------------------------------------- */

static void hazard_a1_a_chain_that_loops_breaks_the_queue(void **state) {
    struct guest *guest = begin(state);
    describe(0, DATA, 1, NEXT, 1);
    describe(1, DATA, 1, NEXT, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* to itself, at the index that is next */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, DATA, 1, NEXT, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* within an indirect table */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, TABLE, 32, INDIRECT, 0);
    describe_at(TABLE, DATA, 1, NEXT, 1);
    describe_at(TABLE + 16, DATA, 1, NEXT, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* an indirect table that is in itself */
    poke(AVAILABLE + 2, 0, 2);
    describe_at(TABLE, TABLE, 16, INDIRECT, 0);
    describe(0, TABLE, 16, INDIRECT, 0);
    offer(guest, 0);
    assert_breaks(guest);
}

static void hazard_a1_the_ring_runs_ahead_by_more_than_its_size(void **state) {
    struct guest *guest = begin(state);
    for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
        describe(i, DATA, 1, 0, 0);
    }
    poke(AVAILABLE + 2, QUEUE_SIZE + 1, 2);
    assert_breaks(guest);
    guest = begin(state);
    poke(AVAILABLE + 2, 0xffff, 2); /* backwards */
    assert_breaks(guest);
    guest = begin(state);
    for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
        poke(AVAILABLE + 4 + 2ull * i, i, 2);
    }
    poke(AVAILABLE + 2, QUEUE_SIZE, 2); /* full: legal */
    for (uint16_t i = 0; i < QUEUE_SIZE; i++) {
        assert_true(pop(guest));
    }
    assert_false(pop(guest));
    assert_false(guest->queue.broken);
}

/* A chain of 2^32 bytes and more, of parts that overlap. */
static void hazard_a1_a_chain_has_too_many_bytes(void **state) {
    struct guest *guest = *state;
    const uint64_t size = 32ull << 20;
    const uint32_t count = 128; /* 4 GiB */
    uint8_t *large = calloc(1, size);
    assert_non_null(large);
    memory_init(&guest->memory, large, size);
    for (int more = 0; more < 2; more++) {
        place(guest, 1, 1);
        assert_true(virtqueue_enable(&guest->queue));
        for (uint32_t i = 0; i < count; i++) {
            uint64_t part = size - (i == 0 && !more);
            guest_describe(large, DATA, i,
                           (struct guest_descriptor){0, part, i + 1 < count ? NEXT : 0, i + 1});
        }
        guest_describe(large, DESCRIPTORS, 0,
                       (struct guest_descriptor){DATA, 16 * count, INDIRECT, 0});
        guest_poke(large, AVAILABLE + 2, 1, 2);
        assert_int_equal(pop(guest), !more);
        assert_int_equal(guest->queue.broken, more);
    }
    free(large);
}

static void hazard_a2_an_index_is_out_of_range(void **state) {
    struct guest *guest = begin(state);
    offer(guest, QUEUE_SIZE); /* a head: though there are bytes of a good descriptor */
    describe(QUEUE_SIZE, DATA, 1, 0, 0);
    assert_breaks(guest);
    guest = begin(state);
    poke(AVAILABLE + 2, 0, 2);
    offer(guest, 0xffff);
    assert_breaks(guest);
    guest = begin(state); /* a next */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, DATA, 1, NEXT, QUEUE_SIZE);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* a next within an indirect table */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, TABLE, 32, INDIRECT, 0);
    describe_at(TABLE, DATA, 1, NEXT, 2);
    describe_at(TABLE + 32, DATA, 1, 0, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* a direct index is none within a table, and the reverse */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, TABLE, 16, INDIRECT, 0);
    describe(1, DATA, 1, 0, 0);
    describe_at(TABLE, DATA, 1, NEXT, 1);
    offer(guest, 0);
    assert_breaks(guest);
}

static void assert_not_enabled(struct guest *guest) {
    assert_false(virtqueue_enable(&guest->queue));
    assert_true(guest->queue.broken);
    assert_false(guest->queue.ready);
    assert_false(pop(guest));
    /* And for good: right values come too late. */
    guest->queue.size = QUEUE_SIZE;
    guest->queue.descriptors_gpa = DESCRIPTORS;
    guest->queue.available_gpa = AVAILABLE;
    guest->queue.used_gpa = USED;
    assert_false(virtqueue_enable(&guest->queue));
}

static void hazard_a5_a_queue_size_is_impossible(void **state) {
    struct guest *guest = *state;
    for (uint32_t size = 0; size <= 65535; size++) {
        bool possible = size == 1 || size == 2 || size == 4 || size == 8 || size == 16;
        place(guest, (uint16_t)size, 16);
        if (!possible) {
            assert_not_enabled(guest);
        } else {
            assert_true(virtqueue_enable(&guest->queue));
        }
    }
}

static void hazard_a5_a_ring_is_misaligned_or_no_memory(void **state) {
    struct guest *guest = *state;
    const uint64_t sizes[3] = {16 * QUEUE_SIZE, 6 + 2 * QUEUE_SIZE, 6 + 8 * QUEUE_SIZE};
    const uint64_t alignments[3] = {16, 2, 4};
    for (int i = 0; i < 3; i++) {
        for (uint64_t off = 0; off < 16; off++) {
            place(guest, QUEUE_SIZE, QUEUE_SIZE);
            uint64_t *const addresses[3] = {&guest->queue.descriptors_gpa,
                                            &guest->queue.available_gpa, &guest->queue.used_gpa};
            *addresses[i] = DATA + off;
            if (off % alignments[i] == 0) {
                assert_true(virtqueue_enable(&guest->queue));
            } else {
                assert_not_enabled(guest);
            }
        }
        uint64_t last = (MEMORY_SIZE - sizes[i]) / alignments[i] * alignments[i];
        const uint64_t beyond[] = {last + alignments[i],        MEMORY_SIZE, UINT64_MAX & ~15ull,
                                   (UINT64_MAX & ~15ull) - 240, 1ull << 63,  1ull << 32,
                                   MEMORY_SIZE - alignments[i]};
        for (size_t j = 0; j <= ARRAY_SIZE(beyond); j++) {
            place(guest, QUEUE_SIZE, QUEUE_SIZE);
            uint64_t *const addresses[3] = {&guest->queue.descriptors_gpa,
                                            &guest->queue.available_gpa, &guest->queue.used_gpa};
            if (j == ARRAY_SIZE(beyond)) {
                *addresses[i] = last; /* ends exactly at the end, or as near as can be */
                assert_true(virtqueue_enable(&guest->queue));
                continue;
            }
            *addresses[i] = beyond[j];
            assert_not_enabled(guest);
        }
    }
}

static void hazard_a6_a_head_in_flight_is_used_again(void **state) {
    struct guest *guest = begin(state);
    describe(2, DATA, 1, 0, 0);
    offer(guest, 2);
    assert_true(pop(guest));
    offer(guest, 2);
    assert_breaks(guest);
    /* What was popped before can still be given back. */
    virtqueue_push(&guest->queue, 2, 0);
    assert_int_equal(guest->queue.in_flight, 0);
    guest = begin(state); /* after the push it is the driver's again */
    poke(AVAILABLE + 2, 0, 2);
    for (int i = 0; i < 100; i++) {
        offer(guest, 2);
        assert_true(pop(guest));
        virtqueue_push(&guest->queue, 2, 0);
    }
    assert_false(guest->queue.broken);
}

static void hazard_a6_every_head_has_its_own_mark(void **state) {
    struct guest *guest = *state;
    place(guest, VMM_QUEUE_SIZE_MAX, VMM_QUEUE_SIZE_MAX);
    assert_true(virtqueue_enable(&guest->queue));
    for (uint16_t i = 0; i < VMM_QUEUE_SIZE_MAX; i++) {
        describe(i, DATA, 1, 0, 0);
        offer(guest, i);
        assert_true(pop(guest));
    }
    for (uint16_t i = 0; i < VMM_QUEUE_SIZE_MAX; i++) {
        virtqueue_push(&guest->queue, i, 0);
        offer(guest, i);
        assert_true(pop(guest));
    }
    assert_int_equal(guest->queue.in_flight, VMM_QUEUE_SIZE_MAX);
}

static void hazard_a12_a_buffer_is_no_memory(void **state) {
    const struct {
        uint64_t address;
        uint32_t size;
    } cases[] = {
        {MEMORY_SIZE, 1},         {MEMORY_SIZE - 8, 9},    {UINT64_MAX, 1}, {UINT64_MAX - 7, 16},
        {0, MEMORY_SIZE + 1},     {DATA, UINT32_MAX},      {1ull << 63, 8}, {1ull << 32, 8},
        {UINT64_MAX, UINT32_MAX}, {VMM_MEMORY_LOW_END, 1},
    };
    for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        struct guest *guest = begin(state);
        poke(AVAILABLE + 2, 0, 2);
        describe(0, cases[i / 2].address, cases[i / 2].size, i % 2 ? WRITE : 0, 0);
        offer(guest, 0);
        assert_breaks(guest);
    }
    struct guest *guest = begin(state); /* ending exactly at the end of memory */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, MEMORY_SIZE - 8, 8, NEXT, 1);
    describe(1, 0, MEMORY_SIZE, WRITE, 0);
    offer(guest, 0);
    assert_true(pop(guest));
}

static void hazard_a12_an_indirect_table_is_no_memory(void **state) {
    const struct {
        uint64_t address;
        uint32_t size;
    } cases[] = {
        {MEMORY_SIZE - 16, 32},
        {UINT64_MAX - 15, 32},
        {UINT64_MAX - 31, 64},
        {MEMORY_SIZE, 16},
        {TABLE, 0},
        {TABLE, 15},
        {TABLE, 17},
        {TABLE, 0xfffffff0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct guest *guest = begin(state);
        poke(AVAILABLE + 2, 0, 2);
        /* An address that overflows comes to these. */
        describe_at(0, DATA, 1, NEXT, 1);
        describe_at(16, DATA, 1, 0, 0);
        describe_at(TABLE, DATA, 1, 0, 0);
        describe_at(MEMORY_SIZE - 16, DATA, 1, 0, 0);
        describe(0, cases[i].address, cases[i].size, INDIRECT, 0);
        offer(guest, 0);
        assert_breaks(guest);
    }
    struct guest *guest = begin(state); /* at the very end of memory, and misaligned: both legal */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, MEMORY_SIZE - 16, 16, INDIRECT, 0);
    describe(1, TABLE + 1, 16, INDIRECT, 0);
    describe_at(TABLE + 1, DATA, 1, 0, 0);
    offer(guest, 0);
    offer(guest, 1);
    assert_true(pop(guest));
    assert_true(pop(guest));
}

static void test_other_rules_that_a_chain_can_break(void **state) {
    struct guest *guest = begin(state);
    describe(0, DATA, 1, NEXT | WRITE, 1); /* writable before readable */
    describe(1, DATA, 1, 0, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* no bytes */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, DATA, 0, 0, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* indirect and next */
    poke(AVAILABLE + 2, 0, 2);
    describe(0, TABLE, 16, INDIRECT | NEXT, 1);
    describe_at(TABLE, DATA, 1, 0, 0);
    offer(guest, 0);
    assert_breaks(guest);
    guest = begin(state); /* indirect, though it was not negotiated */
    guest->queue.indirect = false;
    poke(AVAILABLE + 2, 0, 2);
    describe(0, TABLE, 16, INDIRECT, 0);
    offer(guest, 0);
    assert_breaks(guest);
}

/* ---- Saving ----------------------------------------------------------------------------------- */

#define STATE_SIZE 32

static void save(const struct virtqueue *queue, uint8_t *buffer) {
    struct cursor_writer writer = cursor_writer_init(buffer, STATE_SIZE);
    virtqueue_save(queue, &writer);
    assert_false(writer.failed);
    assert_int_equal(writer.size, STATE_SIZE);
}

static bool load(struct virtqueue *queue, const uint8_t *buffer, size_t size) {
    struct cursor_reader reader = cursor_reader_init(buffer, size);
    bool loaded = virtqueue_load(queue, &reader);
    return loaded && cursor_reader_finished(&reader);
}

static void hazard_c9_a_queue_is_saved_and_loaded(void **state) {
    struct guest *guest = begin(state);
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    push_one(guest);
    assert_true(virtqueue_wants_interrupt(&guest->queue));
    push_one(guest);
    offer(guest, 0);
    for (int broken = 0; broken < 2; broken++) {
        guest->queue.broken = broken;
        save(&guest->queue, first);
        struct virtqueue other;
        virtqueue_init(&other, &guest->memory, VMM_QUEUE_SIZE_MAX);
        other.indirect = true;
        assert_true(load(&other, first, STATE_SIZE));
        save(&other, second);
        assert_memory_equal(first, second, STATE_SIZE);
        assert_memory_equal(&other, &guest->queue, sizeof(other));
        assert_int_equal(virtqueue_pop(&other, &guest->chain), !broken);
    }
    /* One that the driver has half set up, with anything in it. */
    place(guest, 12345, 8);
    guest->queue.used_gpa = UINT64_MAX;
    save(&guest->queue, first);
    struct virtqueue other;
    virtqueue_init(&other, &guest->memory, 8);
    assert_true(load(&other, first, STATE_SIZE));
    save(&other, second);
    assert_memory_equal(first, second, STATE_SIZE);
}

static void assert_refused(const uint8_t *good, size_t offset, uint64_t value, size_t size) {
    uint8_t bad[STATE_SIZE];
    struct memory memory;
    struct virtqueue queue;
    struct virtqueue before;
    memory_init(&memory, bytes, MEMORY_SIZE);
    memcpy(bad, good, STATE_SIZE);
    memcpy(bad + offset, &value, size);
    virtqueue_init(&queue, &memory, 16);
    before = queue;
    assert_false(load(&queue, bad, STATE_SIZE));
    assert_memory_equal(&queue, &before, sizeof(queue));
}

static void hazard_b1_a_saved_queue_is_out_of_range(void **state) {
    struct guest *guest = begin(state);
    uint8_t good[STATE_SIZE];
    push_one(guest);
    save(&guest->queue, good);
    /* size u16, ready u8, broken u8, descriptors, available, used u64, next u16, signalled u16. */
    const uint16_t sizes[] = {0, 3, 17, 32, 0x108, 0xffff};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_refused(good, 0, sizes[i], 2);
    }
    for (uint32_t value = 2; value <= 255; value++) {
        assert_refused(good, 2, value, 1);
        assert_refused(good, 3, value, 1);
    }
    assert_refused(good, 2, 0, 1); /* not ready, and yet it was used */
    for (size_t offset = 4; offset < 28; offset += 8) {
        assert_refused(good, offset, 1, 8);
        assert_refused(good, offset, MEMORY_SIZE - 16, 8);
        assert_refused(good, offset, MEMORY_SIZE, 8);
        assert_refused(good, offset, UINT64_MAX - 15, 8);
    }
    struct virtqueue queue;
    for (size_t size = 0; size < STATE_SIZE; size++) {
        virtqueue_init(&queue, &guest->memory, 16);
        assert_false(load(&queue, good, size));
        assert_false(queue.ready);
    }
    virtqueue_init(&queue, &guest->memory, 16);
    assert_true(load(&queue, good, STATE_SIZE));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_a_chain_goes_there_and_back),
        TEST(test_chains_go_back_in_any_order_and_the_rings_wrap),
        TEST(test_a_pop_is_taken_back),
        TEST(test_bytes_are_copied_across_parts),
        TEST(test_an_indirect_table_ends_a_chain),
        TEST(test_a_chain_may_have_as_many_parts_as_the_limit),
        TEST(test_what_may_be_written_is_dirty),
        TEST(test_an_interrupt_comes_once_for_a_burst),
        TEST(test_event_index_asks_for_one_entry),
        TEST(test_event_index_survives_a_long_silence),
        TEST(test_event_index_asks_for_the_next_kick),
        TEST(test_a_queue_that_is_not_ready_gives_nothing),
        TEST(test_other_rules_that_a_chain_can_break),
        TEST(hazard_a1_a_chain_that_loops_breaks_the_queue),
        TEST(hazard_a1_the_ring_runs_ahead_by_more_than_its_size),
        TEST(hazard_a1_a_chain_has_too_many_bytes),
        TEST(hazard_a2_an_index_is_out_of_range),
        TEST(hazard_a5_a_queue_size_is_impossible),
        TEST(hazard_a5_a_ring_is_misaligned_or_no_memory),
        TEST(hazard_a6_a_head_in_flight_is_used_again),
        TEST(hazard_a6_every_head_has_its_own_mark),
        TEST(hazard_a12_a_buffer_is_no_memory),
        TEST(hazard_a12_an_indirect_table_is_no_memory),
        TEST(hazard_b1_a_saved_queue_is_out_of_range),
        TEST(hazard_c9_a_queue_is_saved_and_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
