/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/reset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define STATE_SIZE 256

struct world {
    struct reset reset;
    struct bus ports;
    unsigned changes;
};

static void on_change(void *context) {
    ((struct world *)context)->changes++;
}

static void world_init(struct world *world) {
    *world = (struct world){.changes = 0};
    bus_init(&world->ports);
    reset_init(&world->reset, on_change, world);
    reset_attach(&world->reset, &world->ports);
}

static void out(struct world *world, uint16_t port, uint8_t value) {
    assert_true(bus_write(&world->ports, port, &value, 1));
}

static uint8_t in(struct world *world, uint16_t port) {
    uint8_t value = 0xa5;
    assert_true(bus_read(&world->ports, port, &value, 1));
    return value;
}

struct request {
    uint16_t port;
    uint8_t value;
    enum reset_kind kind;
};

static void each_port_ends_the_machine_in_its_way(void **state) {
    (void)state;
    const struct request requests[] = {
        {VMM_RESET_PORT, VMM_RESET_VALUE, RESET_REBOOT},
        {VMM_CF9_PORT, 0x06, RESET_REBOOT},
        {VMM_CF9_PORT, 0x0e, RESET_REBOOT},
        {VMM_I8042_PORT, 0xfe, RESET_REBOOT},
        {VMM_SLEEP_CONTROL_PORT, 5 << 2 | 0x20, RESET_POWER_OFF},
    };
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        struct world world;
        world_init(&world);
        out(&world, requests[i].port, requests[i].value);
        assert_int_equal(world.reset.kind, requests[i].kind);
        assert_false(world.reset.panicked);
        assert_int_equal(world.changes, 1);
    }
}

static void other_values_do_nothing(void **state) {
    (void)state;
    struct world world;
    uint32_t wide = VMM_RESET_VALUE;
    world_init(&world);
    for (unsigned value = 0; value < 256; value++) {
        out(&world, VMM_SLEEP_STATUS_PORT, (uint8_t)value);
        if (value != VMM_RESET_VALUE) {
            out(&world, VMM_RESET_PORT, (uint8_t)value);
        }
        if (value != 0xfe) {
            out(&world, VMM_I8042_PORT, (uint8_t)value);
        }
        if ((value & 0x3c) != 0x34) {
            out(&world, VMM_SLEEP_CONTROL_PORT, (uint8_t)value);
        }
        if (!(value & 0x04)) {
            out(&world, VMM_CF9_PORT, (uint8_t)value);
        }
        if (!(value & 0x03)) {
            out(&world, VMM_PANIC_PORT, (uint8_t)value);
        }
    }
    assert_true(bus_write(&world.ports, VMM_RESET_PORT, &wide, 2));
    assert_false(bus_write(&world.ports, VMM_RESET_PORT, &wide, 4)); /* over the window's end */
    assert_int_equal(world.reset.kind, RESET_NONE);
    assert_int_equal(world.changes, 0);
}

static void ports_read_as_a_driver_expects(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    assert_int_equal(in(&world, VMM_I8042_PORT), 0); /* ready for a command */
    assert_int_equal(in(&world, VMM_SLEEP_STATUS_PORT), 0);
    assert_int_equal(in(&world, VMM_PANIC_PORT) & 1, 1);
    out(&world, VMM_CF9_PORT, 0x02);
    assert_int_equal(in(&world, VMM_CF9_PORT), 0x02);
}

static void a_panic_is_told_beside_what_follows_and_the_first_end_counts(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    out(&world, VMM_PANIC_PORT, 0x01);
    assert_true(world.reset.panicked);
    assert_int_equal(world.reset.kind, RESET_NONE);
    assert_int_equal(world.changes, 1);
    out(&world, VMM_PANIC_PORT, 0x01);
    assert_int_equal(world.changes, 1);
    out(&world, VMM_RESET_PORT, VMM_RESET_VALUE);
    assert_int_equal(world.changes, 2);
    out(&world, VMM_SLEEP_CONTROL_PORT, 0x34);
    out(&world, VMM_I8042_PORT, 0xfe);
    assert_int_equal(world.reset.kind, RESET_REBOOT);
    assert_int_equal(world.changes, 2);
}

static size_t save(const struct world *world, uint8_t *bytes) {
    struct state_writer writer;
    size_t size = 0;
    state_writer_init(&writer, bytes, STATE_SIZE);
    reset_save(&world->reset, &writer);
    assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
    return size;
}

static enum kelpie_status load(struct world *world, const uint8_t *bytes, size_t size) {
    struct state_reader reader;
    assert_int_equal(state_reader_init(&reader, bytes, size, NULL), KELPIE_OK);
    enum kelpie_status status = reset_load(&world->reset, &reader, NULL);
    return status == KELPIE_OK ? state_reader_finish(&reader, NULL) : status;
}

static void hazard_c9_save_load_save_is_identical(void **state) {
    (void)state;
    struct world world;
    struct world other;
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    world_init(&world);
    out(&world, VMM_CF9_PORT, 0x0a);
    out(&world, VMM_PANIC_PORT, 0x01);
    size_t size = save(&world, first);
    world_init(&other);
    assert_int_equal(load(&other, first, size), KELPIE_OK);
    assert_int_equal(save(&other, second), size);
    assert_memory_equal(first, second, size);
    assert_true(other.reset.panicked);
    assert_int_equal(in(&other, VMM_CF9_PORT), 0x0a);
    assert_int_equal(other.changes, 0);
}

static void hazard_b1_a_state_out_of_range_is_refused(void **state) {
    (void)state;
    const uint8_t payloads[][3] = {{2, 0}, {0xff, 0}, {0, 0x04}, {0, 0x01}, {1, 0x10}, {0, 0, 0}};
    for (size_t i = 0; i <= ARRAY_SIZE(payloads); i++) {
        struct world world;
        struct state_writer writer;
        uint8_t bytes[STATE_SIZE];
        size_t size = 0;
        /* The last but one is too long, and one more too short. */
        size_t payload_size = i + 1 < ARRAY_SIZE(payloads)    ? 2
                              : i + 1 == ARRAY_SIZE(payloads) ? 3
                                                              : 1;
        state_writer_init(&writer, bytes, sizeof(bytes));
        cursor_write_bytes(state_begin(&writer, STATE_TAG('R', 'S', 'E', 'T'), 1, 0),
                           payloads[i % ARRAY_SIZE(payloads)], payload_size);
        state_end(&writer);
        assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
        world_init(&world);
        assert_int_equal(load(&world, bytes, size), KELPIE_SNAPSHOT_CORRUPT);
        assert_false(world.reset.panicked);
        assert_int_equal(world.reset.cf9, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_port_ends_the_machine_in_its_way),
        cmocka_unit_test(other_values_do_nothing),
        cmocka_unit_test(ports_read_as_a_driver_expects),
        cmocka_unit_test(a_panic_is_told_beside_what_follows_and_the_first_end_counts),
        cmocka_unit_test(hazard_c9_save_load_save_is_identical),
        cmocka_unit_test(hazard_b1_a_state_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
