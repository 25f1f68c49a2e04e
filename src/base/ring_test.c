/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"

#define CAPACITY 7
#define MODEL_STEPS 20000

static void bytes_come_out_in_order(void **state) {
    (void)state;
    uint8_t data[CAPACITY];
    uint8_t out[CAPACITY] = {0};
    struct ring ring;
    ring_init(&ring, data, sizeof(data));
    assert_int_equal(ring_room(&ring), CAPACITY);
    assert_int_equal(ring_read(&ring, out, sizeof(out)), 0);
    assert_int_equal(ring_write(&ring, "abcde", 5), 5);
    assert_int_equal(ring_read(&ring, out, 3), 3);
    assert_memory_equal(out, "abc", 3);
    assert_int_equal(ring_write(&ring, "fghijkl", 7), 5); /* over the end, and as much as fits */
    assert_int_equal(ring_room(&ring), 0);
    assert_int_equal(ring_write(&ring, "x", 1), 0);
    assert_int_equal(ring_read(&ring, out, sizeof(out)), 7);
    assert_memory_equal(out, "defghij", 7);
}

static void peek_removes_nothing(void **state) {
    (void)state;
    uint8_t data[CAPACITY];
    uint8_t out[CAPACITY] = {0};
    struct ring ring;
    ring_init(&ring, data, sizeof(data));
    ring_write(&ring, "12345", 5);
    ring_drop(&ring, 5);
    ring_write(&ring, "abcdef", 6); /* in two pieces */
    assert_int_equal(ring_peek(&ring, 1, out, 3), 3);
    assert_memory_equal(out, "bcd", 3);
    assert_int_equal(ring_peek(&ring, 4, out, 7), 2);
    assert_memory_equal(out, "ef", 2);
    assert_int_equal(ring_peek(&ring, 6, out, 7), 0);
    assert_int_equal(ring.size, 6);
}

static void front_is_one_piece(void **state) {
    (void)state;
    uint8_t data[CAPACITY];
    const uint8_t *front = NULL;
    struct ring ring;
    ring_init(&ring, data, sizeof(data));
    assert_int_equal(ring_front(&ring, &front), 0);
    ring_write(&ring, "12345", 5);
    ring_drop(&ring, 5);
    ring_write(&ring, "abcdef", 6);
    assert_int_equal(ring_front(&ring, &front), 2);
    assert_memory_equal(front, "ab", 2);
    ring_drop(&ring, 2);
    assert_int_equal(ring_front(&ring, &front), 4);
    assert_memory_equal(front, "cdef", 4);
}

/* Random steps beside a model: two counters, the n-th byte being n. */
static void it_behaves_like_its_model(void **state) {
    (void)state;
    uint8_t data[CAPACITY];
    uint8_t bytes[2 * CAPACITY];
    struct ring ring;
    ring_init(&ring, data, sizeof(data));
    uint64_t random = 12345;
    size_t written = 0;
    size_t removed = 0;
    for (int step = 0; step < MODEL_STEPS; step++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        size_t size = (size_t)(random >> 33) % sizeof(bytes);
        if ((random >> 60) & 1) {
            for (size_t i = 0; i < size; i++) {
                bytes[i] = (uint8_t)(written + i);
            }
            size_t room = CAPACITY - (written - removed);
            size_t count = ring_write(&ring, bytes, size);
            assert_int_equal(count, min_size(size, room));
            written += count;
        } else {
            size_t count = ring_read(&ring, bytes, size);
            assert_int_equal(count, min_size(size, written - removed));
            for (size_t i = 0; i < count; i++) {
                assert_int_equal(bytes[i], (uint8_t)(removed + i));
            }
            removed += count;
        }
        assert_int_equal(ring_room(&ring), CAPACITY - (written - removed));
    }
    assert_true(removed > MODEL_STEPS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_out_in_order),
        cmocka_unit_test(peek_removes_nothing),
        cmocka_unit_test(front_is_one_piece),
        cmocka_unit_test(it_behaves_like_its_model),
    };
    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
