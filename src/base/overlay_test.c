/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The bitmap of an overlay against a plain array. */
#include "base/overlay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BLOCKS 300
#define ROUNDS 2000

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(overlay_block_count(0), 0);
    assert_int_equal(overlay_block_count(1), 1);
    assert_int_equal(overlay_block_count(4096), 1);
    assert_int_equal(overlay_block_count(4097), 2);
    assert_int_equal(overlay_bitmap_size(1), 8);
    assert_int_equal(overlay_bitmap_size(64 * 4096), 8);
    assert_int_equal(overlay_bitmap_size(64 * 4096 + 1), 16);
    assert_int_equal(overlay_bitmap_size(OVERLAY_DISK_SIZE_MAX), 128 << 20);
}

static uint32_t draw(uint32_t *seed, uint32_t limit) {
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % limit;
}

/* What lies behind the run's end is never looked at, and what lies outside of a mark stays. */
static void test_marks_and_runs(void **state) {
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t bitmap[(BLOCKS + 63) / 64] = {0};
        uint8_t truth[BLOCKS] = {0};
        for (uint32_t i = draw(&seed, 6); i > 0; i--) {
            uint32_t first = draw(&seed, BLOCKS);
            uint32_t end = first + draw(&seed, BLOCKS - first + 1);
            overlay_mark(bitmap, first, end);
            memset(truth + first, 1, end - first);
        }
        for (uint32_t block = 0; block < BLOCKS; block++) {
            assert_int_equal(overlay_has(bitmap, block), truth[block]);
        }
        for (uint32_t first = 0; first < BLOCKS; first++) {
            uint32_t limit = first + 1 + draw(&seed, BLOCKS - first);
            uint32_t end = first + 1;
            while (end < limit && truth[end] == truth[first]) {
                end++;
            }
            assert_int_equal(overlay_run_end(bitmap, first, limit), end);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_marks_and_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
