/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/memory/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/assert.h"

#define SIZE (4 * VMM_PAGE_SIZE)
#define HIGH_SIZE (VMM_MEMORY_LOW_END + 2 * VMM_PAGE_SIZE) /* two pages behind the hole */

static uint8_t bytes[SIZE];

static struct memory small(void) {
    struct memory memory;
    memset(bytes, 0, sizeof(bytes));
    memory_init(&memory, bytes, SIZE);
    return memory;
}

static void hazard_a12_the_gate_refuses_what_is_not_memory(void **state) {
    (void)state;
    struct memory memory = small();
    assert_ptr_equal(memory_readable(&memory, 0, 1), bytes);
    assert_ptr_equal(memory_readable(&memory, 0, SIZE), bytes);
    /* Ending exactly at the end is legal; one byte more is not. */
    assert_ptr_equal(memory_writable(&memory, SIZE - 8, 8), bytes + SIZE - 8);
    assert_null(memory_writable(&memory, SIZE - 8, 9));
    assert_null(memory_readable(&memory, SIZE, 1));
    assert_null(memory_readable(&memory, 0, SIZE + 1));
    assert_null(memory_readable(&memory, 8, 0));
    /* Sums that overflow. */
    assert_null(memory_readable(&memory, 8, UINT64_MAX));
    assert_null(memory_readable(&memory, UINT64_MAX, 1));
    assert_null(memory_readable(&memory, UINT64_MAX, UINT64_MAX));
    assert_null(memory_readable(&memory, UINT64_MAX - 3, 8));
    assert_null(memory_writable(&memory, 1ull << 63, 1ull << 63));
}

static void hazard_a12_the_gate_does_not_span_the_hole(void **state) {
    (void)state;
    struct memory memory;
    uint8_t *host = mmap(NULL, HIGH_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    memory_init(&memory, host, HIGH_SIZE);
    assert_int_equal(memory.region_count, 2);
    assert_non_null(memory_readable(&memory, VMM_MEMORY_LOW_END - 1, 1));
    assert_null(memory_readable(&memory, VMM_MEMORY_LOW_END - 1, 2));
    assert_null(memory_readable(&memory, VMM_MEMORY_LOW_END, 1));
    assert_null(memory_readable(&memory, VMM_MEMORY_HIGH_START - 1, 1));
    assert_ptr_equal(memory_readable(&memory, VMM_MEMORY_HIGH_START, 2 * VMM_PAGE_SIZE),
                     host + VMM_MEMORY_LOW_END);
    assert_null(memory_readable(&memory, VMM_MEMORY_HIGH_START, 2 * VMM_PAGE_SIZE + 1));
    /* An address that is right as an offset in the mapping, and wrong as a guest's. */
    assert_null(memory_readable(&memory, HIGH_SIZE - 1, 1));
    munmap(host, HIGH_SIZE);
}

static void test_numbers(void **state) {
    (void)state;
    struct memory memory = small();
    uint16_t two = 0;
    uint32_t four = 0;
    assert_true(memory_write(&memory, 4, "\x01\x02\x03\x04", 4));
    assert_true(memory_read_u16(&memory, 4, &two));
    assert_int_equal(two, 0x0201);
    assert_true(memory_read_u32(&memory, 4, &four));
    assert_int_equal(four, 0x04030201);
    assert_true(memory_write_u16(&memory, 6, 0xbeef));
    assert_int_equal(bytes[6], 0xef);
    assert_false(memory_read_u16(&memory, 5, &two));
    assert_false(memory_read_u32(&memory, 6, &four));
    assert_false(memory_write_u16(&memory, 7, 1));
    assert_false(memory_read_u32(&memory, SIZE, &four));
    assert_int_equal(four, 0x04030201);
    char buffer[4] = "abc";
    assert_false(memory_read(&memory, SIZE - 2, buffer, 4));
    assert_string_equal(buffer, "abc");
    assert_false(memory_write(&memory, SIZE - 2, buffer, 4));
    assert_int_equal(bytes[SIZE - 2], 0);
}

static void test_what_devices_write_is_noted(void **state) {
    (void)state;
    struct memory memory = small();
    uint64_t dirty[1] = {0};
    memory.dirty = dirty;
    assert_non_null(memory_readable(&memory, 0, SIZE));
    assert_true(dirty[0] == 0);
    assert_true(memory_write(&memory, VMM_PAGE_SIZE, "x", 1));
    assert_true(dirty[0] == 2);
    assert_non_null(memory_writable(&memory, 3 * VMM_PAGE_SIZE - 1, 2));
    assert_true(dirty[0] == (2 | 4 | 8));
    assert_null(memory_writable(&memory, 0, SIZE + 1));
    assert_true(dirty[0] == (2 | 4 | 8));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_a12_the_gate_refuses_what_is_not_memory),
        cmocka_unit_test(hazard_a12_the_gate_does_not_span_the_hole),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_what_devices_write_is_noted),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
