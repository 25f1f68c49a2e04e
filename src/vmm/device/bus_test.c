/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct register_file {
    uint64_t offset;
    uint32_t size;
    uint8_t written[8];
};

static void read_register(void *device, uint64_t offset, void *data, uint32_t size) {
    struct register_file *file = device;
    file->offset = offset;
    file->size = size;
    memset(data, 0x5a, size);
}

static void write_register(void *device, uint64_t offset, const void *data, uint32_t size) {
    struct register_file *file = device;
    file->offset = offset;
    file->size = size;
    memcpy(file->written, data, size);
}

static const struct device_ops ops = {"test", read_register, write_register};

static void test_an_access_finds_its_device(void **state) {
    (void)state;
    struct bus bus;
    struct register_file first = {0};
    struct register_file second = {0};
    uint32_t value = 0;
    bus_init(&bus);
    bus_add(&bus, 0x2000, 0x1000, &ops, &second);
    bus_add(&bus, 0x1000, 0x1000, &ops, &first); /* sorted all the same */
    assert_true(bus_read(&bus, 0x1ffc, &value, 4));
    assert_int_equal(value, 0x5a5a5a5a);
    assert_int_equal(first.offset, 0xffc);
    assert_true(bus_write(&bus, 0x2000, "ab", 2));
    assert_int_equal(second.offset, 0);
    assert_int_equal(second.size, 2);
    assert_memory_equal(second.written, "ab", 2);
}

static void test_what_no_device_has_reads_as_ones(void **state) {
    (void)state;
    struct bus bus;
    struct register_file file = {.offset = 99};
    uint32_t value = 0;
    bus_init(&bus);
    assert_false(bus_read(&bus, 0, &value, 4));
    assert_int_equal(value, 0xffffffff);
    bus_add(&bus, 0x1000, 0x1000, &ops, &file);
    static const uint64_t addresses[] = {0, 0xfff, 0x1ffd, 0x2000, UINT64_MAX, UINT64_MAX - 3};
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        value = 0;
        assert_false(bus_read(&bus, addresses[i], &value, 4));
        assert_int_equal(value, 0xffffffff);
        assert_false(bus_write(&bus, addresses[i], &value, 4));
    }
    assert_int_equal(file.offset, 99);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_access_finds_its_device),
        cmocka_unit_test(test_what_no_device_has_reads_as_ones),
    };
    return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
