/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_console.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "support/fake_driver.h"

#define DATA_GPA FAKE_DATA_GPA
#define CONSOLE_TAG STATE_TAG('V', 'C', 'O', 'N')
#define RECEIVE 0
#define TRANSMIT 1
#define HEARD_SIZE 131072u

struct machine {
    struct fake_driver driver;
    struct virtio_console console;
    uint8_t heard[HEARD_SIZE];
    size_t heard_size;
    size_t piece_size_max;
};

static void hear(void *context, const void *data, size_t size) {
    struct machine *machine = context;
    assert_true(size > 0 && size <= HEARD_SIZE - machine->heard_size);
    memcpy(machine->heard + machine->heard_size, data, size);
    machine->heard_size += size;
    machine->piece_size_max = size > machine->piece_size_max ? size : machine->piece_size_max;
}

static struct machine machine;

static void machine_open(void) {
    machine.heard_size = 0;
    machine.piece_size_max = 0;
    fake_driver_open(&machine.driver, false);
    const struct virtio_console_line line = {.output = hear, .context = &machine};
    assert_int_equal(virtio_console_init(&machine.console, line, &machine.driver.memory,
                                         fake_driver_irq(&machine.driver), &machine.driver.io,
                                         NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine.driver, &machine.console.device, VIRTIO_F_EVENT_IDX);
}

static void machine_close(void) {
    virtio_device_reset(&machine.console.device);
    virtio_console_deinit(&machine.console);
    fake_driver_close(&machine.driver);
}

/* Bytes that tell where they come from. */
static void lay_out(uint64_t gpa, size_t size) {
    uint8_t *bytes = fake_driver_at(&machine.driver, gpa);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(i * 7 + 1);
    }
}

static void transmit(const struct fake_part *parts, size_t count) {
    struct fake_used used;
    uint16_t head = fake_driver_add(&machine.driver, TRANSMIT, parts, count);
    fake_driver_kick(&machine.driver, TRANSMIT);
    assert_true(fake_driver_used(&machine.driver, TRANSMIT, &used));
    assert_int_equal(used.head, head);
    assert_int_equal(used.written, 0);
    assert_int_equal(fake_driver_used_count(&machine.driver, TRANSMIT), 0);
}

static void test_what_is_transmitted_is_heard(void **state) {
    (void)state;
    const struct fake_part parts[] = {
        {DATA_GPA, 5, false}, {DATA_GPA + 5, 6000, false}, {DATA_GPA + 9000, 100, true}};
    machine_open();
    lay_out(DATA_GPA, 6005);
    transmit(parts, 3);
    assert_int_equal(machine.heard_size, 6005);
    assert_memory_equal(machine.heard, fake_driver_at(&machine.driver, DATA_GPA), 6005);
    assert_int_equal(machine.piece_size_max, VIRTIO_CONSOLE_PIECE_SIZE_MAX);
    assert_int_equal(machine.driver.interrupts, 1);
    machine_close();
}

static void hazard_a13_output_is_bounded(void **state) {
    (void)state;
    const struct fake_part long_parts[] = {{DATA_GPA, 60000, false}, {DATA_GPA, 60000, false}};
    const struct fake_part part = {DATA_GPA, 16, false};
    machine_open();
    transmit(long_parts, 2);
    assert_int_equal(machine.heard_size, VIRTIO_CONSOLE_CHAIN_BYTES_MAX);
    machine.heard_size = 0;
    for (int i = 0; i < 50; i++) {
        fake_driver_add(&machine.driver, TRANSMIT, &part, 1);
    }
    fake_driver_kick(&machine.driver, TRANSMIT);
    assert_int_equal(machine.heard_size, 16 * VIRTIO_CONSOLE_BURST_COUNT_MAX);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(machine.heard_size, 16 * 50);
    assert_int_equal(fake_driver_used_count(&machine.driver, TRANSMIT), 50);
    machine_close();
}

static void hazard_a7_every_chain_comes_back_once(void **state) {
    (void)state;
    const struct fake_part writable = {DATA_GPA, 64, true};
    machine_open();
    transmit(&writable, 1);
    assert_int_equal(machine.heard_size, 0);
    machine_close();
}

/* Buffers to receive into are kept by the driver: there is nothing to receive. */
static void test_nothing_is_received(void **state) {
    (void)state;
    const struct fake_part writable = {DATA_GPA, 64, true};
    machine_open();
    fake_driver_add(&machine.driver, RECEIVE, &writable, 1);
    fake_driver_kick(&machine.driver, RECEIVE);
    assert_int_equal(fake_driver_used_count(&machine.driver, RECEIVE), 0);
    assert_int_equal(machine.driver.interrupts, 0);
    assert_int_equal(machine.heard_size, 0);
    machine_close();
}

static void hazard_b1_saved_state_is_checked(void **state) {
    (void)state;
    uint8_t buffer[FAKE_STATE_SIZE_MAX];
    machine_open();
    size_t size = fake_driver_forge(CONSOLE_TAG, "x", 1, buffer);
    assert_int_equal(fake_driver_load(&machine.console.device, buffer, size),
                     KELPIE_SNAPSHOT_CORRUPT);
    size = fake_driver_forge(CONSOLE_TAG + 1, "", 0, buffer);
    assert_int_equal(fake_driver_load(&machine.console.device, buffer, size),
                     KELPIE_SNAPSHOT_CORRUPT);
    machine_close();
}

static void hazard_c9_save_load_save(void **state) {
    (void)state;
    uint8_t first[FAKE_STATE_SIZE_MAX];
    uint8_t second[FAKE_STATE_SIZE_MAX];
    const struct fake_part part = {DATA_GPA, 16, false};
    machine_open();
    size_t size = fake_driver_save(&machine.console.device, first);
    fake_driver_add(&machine.driver, TRANSMIT, &part, 1);
    assert_int_equal(fake_driver_load(&machine.console.device, first, size), KELPIE_OK);
    assert_int_equal(fake_driver_save(&machine.console.device, second), size);
    assert_memory_equal(first, second, size);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(machine.heard_size, 16); /* what stood in the queue */
    machine_close();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_transmitted_is_heard),
        cmocka_unit_test(hazard_a13_output_is_bounded),
        cmocka_unit_test(hazard_a7_every_chain_comes_back_once),
        cmocka_unit_test(test_nothing_is_received),
        cmocka_unit_test(hazard_b1_saved_state_is_checked),
        cmocka_unit_test(hazard_c9_save_load_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
