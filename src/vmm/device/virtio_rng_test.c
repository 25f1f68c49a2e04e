/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_rng.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/fake_driver.h"

#define DATA_GPA FAKE_DATA_GPA
#define RNG_TAG STATE_TAG('V', 'R', 'N', 'G')

/* The kernel's generator, which a test can keep short. */
static struct {
    size_t size_max; /* of one call; 0: all */
    int error;
} generator;

ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    if (generator.error) {
        errno = generator.error;
        return -1;
    }
    if (generator.size_max && size > generator.size_max) {
        size = generator.size_max;
    }
    return syscall(SYS_getrandom, buffer, size, flags);
}

struct machine {
    struct fake_driver driver;
    struct virtio_rng rng;
};

static void machine_open(struct machine *machine) {
    memset(&generator, 0, sizeof(generator));
    fake_driver_open(&machine->driver, false);
    assert_int_equal(virtio_rng_init(&machine->rng, &machine->driver.memory,
                                     fake_driver_irq(&machine->driver), &machine->driver.io, NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine->driver, &machine->rng.device, VIRTIO_F_EVENT_IDX);
}

static void machine_close(struct machine *machine) {
    virtio_device_reset(&machine->rng.device);
    virtio_rng_deinit(&machine->rng);
    fake_driver_close(&machine->driver);
}

static uint32_t fill(struct machine *machine, const struct fake_part *parts, size_t count) {
    struct fake_used used;
    uint16_t head = fake_driver_add(&machine->driver, 0, parts, count);
    fake_driver_kick(&machine->driver, 0);
    assert_true(fake_driver_used(&machine->driver, 0, &used));
    assert_int_equal(used.head, head);
    assert_int_equal(fake_driver_used_count(&machine->driver, 0), 0);
    assert_int_equal(machine->rng.device.queues[0].in_flight, 0);
    return used.written;
}

/* How many bytes of [start, start + size) are not zero. */
static size_t changed(struct machine *machine, uint64_t start, size_t size) {
    const uint8_t *bytes = fake_driver_at(&machine->driver, start);
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        count += bytes[i] != 0;
    }
    return count;
}

static void test_fills_what_is_writable(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part parts[] = {
        {DATA_GPA, 64, false}, {DATA_GPA + 100, 100, true}, {DATA_GPA + 300, 400, true}};
    machine_open(&machine);
    assert_int_equal(fill(&machine, parts, 3), 500);
    assert_int_equal(changed(&machine, DATA_GPA, 100), 0);
    assert_true(changed(&machine, DATA_GPA + 100, 100) > 80);
    assert_int_equal(changed(&machine, DATA_GPA + 200, 100), 0);
    assert_true(changed(&machine, DATA_GPA + 300, 400) > 350);
    assert_int_equal(changed(&machine, DATA_GPA + 700, 1000), 0);
    assert_int_equal(machine.driver.interrupts, 1);
    machine_close(&machine);
}

static void test_a_chain_gets_no_more_than_its_limit(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part parts[] = {{DATA_GPA, 4000, true}, {DATA_GPA + 4000, 60000, true}};
    machine_open(&machine);
    assert_int_equal(fill(&machine, parts, 2), VIRTIO_RNG_CHAIN_BYTES_MAX);
    assert_int_equal(changed(&machine, DATA_GPA + VIRTIO_RNG_CHAIN_BYTES_MAX, 50000), 0);
    machine_close(&machine);
}

static void test_a_burst_is_bounded_and_goes_on(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part part = {DATA_GPA, 16, true};
    machine_open(&machine);
    for (int i = 0; i < 50; i++) {
        fake_driver_add(&machine.driver, 0, &part, 1);
    }
    fake_driver_kick(&machine.driver, 0);
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), VIRTIO_RNG_BURST_COUNT_MAX);
    assert_int_equal(io_turn(&machine.driver.io, 0), 1);
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), 2 * VIRTIO_RNG_BURST_COUNT_MAX);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), 50);
    machine_close(&machine);
}

static void hazard_a7_every_chain_comes_back_once(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part readable = {DATA_GPA, 64, false};
    const struct fake_part two[] = {{DATA_GPA, 64, true}, {DATA_GPA + 64, 64, true}};
    machine_open(&machine);
    assert_int_equal(fill(&machine, &readable, 1), 0);
    generator.error = EAGAIN; /* it is not ready */
    assert_int_equal(fill(&machine, two, 2), 0);
    assert_int_equal(changed(&machine, DATA_GPA, 128), 0);
    machine_close(&machine);
}

/* A generator that stops early leaves no gap in what is said to be written. */
static void hazard_a8_fewer_bytes_than_asked_for(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part two[] = {{DATA_GPA, 64, true}, {DATA_GPA + 64, 64, true}};
    machine_open(&machine);
    generator.size_max = 40;
    assert_int_equal(fill(&machine, two, 2), 40);
    assert_int_equal(changed(&machine, DATA_GPA + 40, 88), 0);
    machine_close(&machine);
}

static void hazard_b1_saved_state_is_checked(void **state) {
    (void)state;
    struct machine machine;
    uint8_t buffer[FAKE_STATE_SIZE_MAX];
    machine_open(&machine);
    size_t size = fake_driver_forge(RNG_TAG, "x", 1, buffer);
    assert_int_equal(fake_driver_load(&machine.rng.device, buffer, size), KELPIE_SNAPSHOT_CORRUPT);
    size = fake_driver_forge(RNG_TAG + 1, "", 0, buffer);
    assert_int_equal(fake_driver_load(&machine.rng.device, buffer, size), KELPIE_SNAPSHOT_CORRUPT);
    machine_close(&machine);
}

static void hazard_c9_save_load_save(void **state) {
    (void)state;
    struct machine machine;
    uint8_t first[FAKE_STATE_SIZE_MAX];
    uint8_t second[FAKE_STATE_SIZE_MAX];
    const struct fake_part part = {DATA_GPA, 16, true};
    machine_open(&machine);
    size_t size = fake_driver_save(&machine.rng.device, first);
    fake_driver_add(&machine.driver, 0, &part, 1);
    assert_int_equal(fake_driver_load(&machine.rng.device, first, size), KELPIE_OK);
    assert_int_equal(fake_driver_save(&machine.rng.device, second), size);
    assert_memory_equal(first, second, size);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), 1);
    machine_close(&machine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fills_what_is_writable),
        cmocka_unit_test(test_a_chain_gets_no_more_than_its_limit),
        cmocka_unit_test(test_a_burst_is_bounded_and_goes_on),
        cmocka_unit_test(hazard_a7_every_chain_comes_back_once),
        cmocka_unit_test(hazard_a8_fewer_bytes_than_asked_for),
        cmocka_unit_test(hazard_b1_saved_state_is_checked),
        cmocka_unit_test(hazard_c9_save_load_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
