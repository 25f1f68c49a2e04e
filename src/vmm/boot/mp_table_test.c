/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The MP table as a kernel reads it: Intel MultiProcessor Specification 1.4, chapter 4. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/boot/boot.h"

#define MEMORY_SIZE (2u << 20)

static const uint8_t *area_of(struct memory *memory, uint32_t vcpu_count) {
    void *host = aligned_alloc(4096, MEMORY_SIZE);
    assert_non_null(host);
    memset(host, 0xee, MEMORY_SIZE);
    memory_init(memory, host, MEMORY_SIZE);
    boot_mp_table_write(memory, vcpu_count);
    return memory->host + BOOT_MP_TABLE_GPA;
}

static uint64_t number(const uint8_t *bytes, size_t offset, size_t width) {
    uint64_t value = 0;
    memcpy(&value, bytes + offset, width);
    return value;
}

static uint8_t sum_of(const uint8_t *bytes, size_t size) {
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return sum;
}

/* As a kernel finds it: on a 16-byte boundary of the BIOS area. */
static void the_pointer_leads_to_the_table(void **state) {
    (void)state;
    struct memory memory;
    const uint8_t *area = area_of(&memory, 1);
    assert_true(BOOT_MP_TABLE_GPA % 16 == 0);
    assert_true(BOOT_MP_TABLE_GPA >= 0xf0000 && BOOT_MP_TABLE_GPA < 0x100000);
    assert_memory_equal(area, "_MP_", 4);
    assert_int_equal(number(area, 4, 4), BOOT_MP_TABLE_GPA + 16);
    assert_int_equal(area[8], 1); /* 16 bytes */
    assert_int_equal(area[9], 4); /* 1.4 */
    assert_int_equal(sum_of(area, 16), 0);
    assert_int_equal(number(area, 11, 4), 0); /* there is a table; no IMCR */
    assert_int_equal(area[15], 0);
    free(memory.host);
}

static void check_header(const uint8_t *table, uint32_t vcpu_count) {
    size_t size = 44 + vcpu_count * 20 + (2 + VMM_GSI_COUNT + 2) * 8;
    assert_memory_equal(table, "PCMP", 4);
    assert_int_equal(number(table, 4, 2), size);
    assert_int_equal(table[6], 4);
    assert_int_equal(sum_of(table, size), 0);
    assert_memory_equal(table + 8, "KELPIE  KELPIE VM   ", 20);
    assert_int_equal(number(table, 28, 4), 0);
    assert_int_equal(number(table, 32, 2), 0);
    assert_int_equal(number(table, 34, 2), vcpu_count + 2 + VMM_GSI_COUNT + 2);
    assert_int_equal(number(table, 36, 4), 0xfee00000);
    assert_int_equal(number(table, 40, 4), 0);
}

static const uint8_t *check_processors(const uint8_t *entry, uint32_t vcpu_count) {
    for (uint32_t i = 0; i < vcpu_count; i++, entry += 20) {
        assert_int_equal(entry[0], 0);
        assert_int_equal(entry[1], i);
        assert_int_equal(entry[2], 0x14);
        assert_int_equal(entry[3], i == 0 ? 3 : 1); /* enabled; the first one boots */
        assert_int_equal(number(entry, 4, 4), 0x600);
        assert_int_equal(number(entry, 8, 4), 0x201);
        assert_int_equal(number(entry, 12, 8), 0);
    }
    return entry;
}

static void check_rest(const uint8_t *entry, uint32_t vcpu_count) {
    assert_memory_equal(entry, "\1\0ISA   ", 8);
    entry += 8;
    assert_int_equal(entry[0], 2);
    assert_int_equal(entry[1], vcpu_count); /* no processor has this id */
    assert_int_equal(entry[2], 0x11);
    assert_int_equal(entry[3], 1);
    assert_int_equal(number(entry, 4, 4), 0xfec00000);
    entry += 8;
    for (uint32_t pin = 0; pin < VMM_GSI_COUNT; pin++, entry += 8) {
        const uint8_t line[] = {3, 0, 5, 0, 0, (uint8_t)pin, (uint8_t)vcpu_count, (uint8_t)pin};
        assert_memory_equal(entry, line, sizeof(line));
    }
    assert_memory_equal(entry, "\4\3\0\0\0\0\xff\0", 8); /* ExtINT at LINT0 */
    entry += 8;
    assert_memory_equal(entry, "\4\1\0\0\0\0\xff\1", 8); /* NMI at LINT1 */
}

static void every_field_is_as_the_specification_has_it(void **state) {
    (void)state;
    for (uint32_t count = 1; count <= VMM_VCPU_COUNT_MAX; count++) {
        struct memory memory;
        const uint8_t *table = area_of(&memory, count) + 16;
        check_header(table, count);
        check_rest(check_processors(table + 44, count), count);
        free(memory.host);
    }
}

/* It stays within its page: what the BIOS area has before and behind it is as it was. */
static void nothing_else_is_touched(void **state) {
    (void)state;
    struct memory memory;
    (void)area_of(&memory, VMM_VCPU_COUNT_MAX);
    for (uint64_t gpa = 0; gpa < MEMORY_SIZE; gpa++) {
        if (gpa < BOOT_MP_TABLE_GPA || gpa >= BOOT_MP_TABLE_GPA + BOOT_MP_TABLE_SIZE) {
            assert_int_equal(memory.host[gpa], 0xee);
        }
    }
    free(memory.host);
}

static void devices_are_parameters(void **state) {
    (void)state;
    char line[128];
    struct kelpie_error err = {.status = KELPIE_OK};
    assert_int_equal(boot_command_line_devices(line, sizeof(line), 2, "quiet -- x", &err),
                     KELPIE_OK);
    assert_string_equal(line, "virtio_mmio.device=4096@0xd0000000:5 "
                              "virtio_mmio.device=4096@0xd0001000:6 quiet -- x");
    assert_int_equal(boot_command_line_devices(line, sizeof(line), 0, "", &err), KELPIE_OK);
    assert_string_equal(line, "");
}

static void a_line_that_is_too_long_is_refused(void **state) {
    (void)state;
    struct kelpie_error err = {.status = KELPIE_OK};
    char whole[128];
    assert_int_equal(boot_command_line_devices(whole, sizeof(whole), 2, "abc", &err), KELPIE_OK);
    size_t size = strlen(whole);
    for (size_t room = 1; room <= size; room++) {
        char *line = malloc(room); /* of just that size: what is written behind it is seen */
        assert_non_null(line);
        assert_int_equal(boot_command_line_devices(line, room, 2, "abc", &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "kernel_args");
        free(line);
    }
    char line[128];
    assert_int_equal(boot_command_line_devices(line, size + 1, 2, "abc", &err), KELPIE_OK);
    assert_string_equal(line, whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pointer_leads_to_the_table),
        cmocka_unit_test(every_field_is_as_the_specification_has_it),
        cmocka_unit_test(nothing_else_is_touched),
        cmocka_unit_test(devices_are_parameters),
        cmocka_unit_test(a_line_that_is_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
