/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Hazard A11: a guest that changes its memory between two reads. This program has a memory gate of its own in the place of
 * memory.c: what was read through it turns into rubbish at once and is counted, and a pointer to the rings that the
 * gate gave out leads to memory that nobody may touch. So a field that is read twice cannot come out right.
 */
#include "vmm/device/virtqueue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "support/virtqueue_guest.h"

#define MEMORY_SIZE (16 * VMM_PAGE_SIZE)
#define QUEUE_SIZE 8u
#define DESCRIPTORS 0x1000ull
#define AVAILABLE 0x2000ull
#define USED 0x3000ull
#define TABLE 0x4000ull
#define DATA 0x8000ull /* from here on the gate gives out pointers */
#define RUBBISH 0xff

static uint8_t bytes[MEMORY_SIZE];
static uint8_t *forbidden; /* as large, and not to be touched */
static uint32_t reads_of[MEMORY_SIZE];
static bool offers_late; /* the driver makes a chain available as soon as the index was read */

/* ---- The gate --------------------------------------------------------------------------------- */

static bool is_memory(uint64_t gpa, uint64_t size) {
    return size > 0 && size <= MEMORY_SIZE && gpa <= MEMORY_SIZE - size;
}

const void *memory_readable(const struct memory *memory, uint64_t gpa, uint64_t size) {
    (void)memory;
    if (!is_memory(gpa, size)) {
        return NULL;
    }
    return (gpa >= DATA ? bytes : forbidden) + gpa;
}

void *memory_writable(const struct memory *memory, uint64_t gpa, uint64_t size) {
    return (void *)memory_readable(memory, gpa, size);
}

bool memory_read(const struct memory *memory, uint64_t gpa, void *buffer, size_t size) {
    (void)memory;
    if (!is_memory(gpa, size)) {
        return false;
    }
    memcpy(buffer, bytes + gpa, size);
    memset(bytes + gpa, RUBBISH, size);
    if (offers_late && gpa == AVAILABLE + 2) {
        guest_poke(bytes, gpa, 1, 2);
    }
    for (size_t i = 0; i < size; i++) {
        reads_of[gpa + i]++;
    }
    return true;
}

bool memory_write(const struct memory *memory, uint64_t gpa, const void *data, size_t size) {
    (void)memory;
    if (!is_memory(gpa, size)) {
        return false;
    }
    memcpy(bytes + gpa, data, size);
    return true;
}

bool memory_read_u16(const struct memory *memory, uint64_t gpa, uint16_t *ret) {
    return memory_read(memory, gpa, ret, sizeof(*ret));
}

bool memory_write_u16(const struct memory *memory, uint64_t gpa, uint16_t value) {
    return memory_write(memory, gpa, &value, sizeof(value));
}

/* ---- Tests ------------------------------------------------------------------------------------ */

static struct memory memory; /* the gate above asks it nothing */

static struct virtqueue begin(void) {
    struct virtqueue queue;
    memset(bytes, 0, sizeof(bytes));
    memset(reads_of, 0, sizeof(reads_of));
    virtqueue_init(&queue, &memory, QUEUE_SIZE);
    queue.size = QUEUE_SIZE;
    queue.descriptors_gpa = DESCRIPTORS;
    queue.available_gpa = AVAILABLE;
    queue.used_gpa = USED;
    queue.indirect = true;
    queue.event_index = true;
    assert_true(virtqueue_enable(&queue));
    return queue;
}

static void assert_read_once_at_most(void) {
    for (size_t i = 0; i < MEMORY_SIZE; i++) {
        assert_in_range(reads_of[i], 0, 1);
    }
}

static void describe(uint64_t at, uint64_t gpa, uint64_t size, uint64_t flags, uint64_t next) {
    guest_describe(bytes, at, 0, (struct guest_descriptor){gpa, size, flags, next});
}

static void hazard_a11_a_chain_is_read_once(void **state) {
    (void)state;
    struct virtqueue queue = begin();
    struct virtqueue_chain chain;
    describe(DESCRIPTORS + 3 * 16, DATA, 16, GUEST_NEXT, 4);
    describe(DESCRIPTORS + 4 * 16, DATA + 0x100, 32, GUEST_NEXT, 0);
    describe(DESCRIPTORS, DATA + 0x200, 64, GUEST_WRITE, 0);
    guest_offer(bytes, AVAILABLE, QUEUE_SIZE, 3);
    assert_true(virtqueue_pop(&queue, &chain));
    assert_int_equal(chain.head, 3);
    assert_int_equal(chain.readable_count, 2);
    assert_int_equal(chain.writable_count, 1);
    assert_int_equal(chain.readable_size, 48);
    assert_int_equal(chain.writable_size, 64);
    assert_ptr_equal(chain.parts[1].iov_base, bytes + DATA + 0x100);
    assert_int_equal(chain.parts[1].iov_len, 32);
    assert_ptr_equal(chain.parts[2].iov_base, bytes + DATA + 0x200);
    assert_read_once_at_most();
    /* Giving it back takes the head from the chain, not from the ring. */
    virtqueue_push(&queue, chain.head, 64);
    assert_int_equal(guest_peek(bytes, USED + 4, 4), 3);
    assert_read_once_at_most();
}

static void hazard_a11_an_indirect_table_is_read_once(void **state) {
    (void)state;
    struct virtqueue queue = begin();
    struct virtqueue_chain chain;
    describe(DESCRIPTORS, TABLE, 3 * 16, GUEST_INDIRECT, 0);
    describe(TABLE, DATA, 16, GUEST_NEXT, 2);
    describe(TABLE + 2 * 16, DATA + 0x100, 8, GUEST_NEXT, 1);
    describe(TABLE + 1 * 16, DATA + 0x200, 4, GUEST_WRITE, 0);
    guest_offer(bytes, AVAILABLE, QUEUE_SIZE, 0);
    assert_true(virtqueue_pop(&queue, &chain));
    assert_int_equal(chain.readable_size, 24);
    assert_int_equal(chain.writable_size, 4);
    assert_ptr_equal(chain.parts[2].iov_base, bytes + DATA + 0x200);
    assert_read_once_at_most();
}

static void hazard_a11_the_indices_are_read_once(void **state) {
    (void)state;
    struct virtqueue queue = begin();
    struct virtqueue_chain chain;
    describe(DESCRIPTORS, DATA, 16, 0, 0);
    guest_offer(bytes, AVAILABLE, QUEUE_SIZE, 0);
    assert_true(virtqueue_has_available(&queue));
    assert_int_equal(reads_of[AVAILABLE + 2], 1);
    guest_poke(bytes, AVAILABLE + 2, 1, 2);
    assert_true(virtqueue_pop(&queue, &chain));
    assert_int_equal(reads_of[AVAILABLE + 2], 2);
    virtqueue_push(&queue, chain.head, 0);
    guest_poke(bytes, AVAILABLE + 4 + 2 * QUEUE_SIZE, 0, 2);
    assert_true(virtqueue_wants_interrupt(&queue));
    assert_int_equal(reads_of[AVAILABLE + 4 + 2 * QUEUE_SIZE], 1);
}

static void hazard_a11_a_chain_that_comes_between_two_looks_is_seen(void **state) {
    (void)state;
    struct virtqueue queue = begin();
    offers_late = true;
    assert_true(virtqueue_has_available(&queue));
    assert_int_equal(reads_of[AVAILABLE + 2], 2);
    assert_int_equal(guest_peek(bytes, USED + 4 + 8 * QUEUE_SIZE, 2), 0);
    assert_false(queue.broken);
    offers_late = false;
}

static int set_up(void **state) {
    (void)state;
    forbidden = mmap(NULL, MEMORY_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return forbidden == MAP_FAILED ? -1 : 0;
}

static int tear_down(void **state) {
    (void)state;
    return munmap(forbidden, MEMORY_SIZE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_a11_a_chain_is_read_once),
        cmocka_unit_test(hazard_a11_an_indirect_table_is_read_once),
        cmocka_unit_test(hazard_a11_the_indices_are_read_once),
        cmocka_unit_test(hazard_a11_a_chain_that_comes_between_two_looks_is_seen),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
