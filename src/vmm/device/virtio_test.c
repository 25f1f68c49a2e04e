/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/virtio_echo.h"

static void test_the_config_changes(void **state) {
    (void)state;
    struct echo *echo = fresh();
    virtio_device_config_changed(&echo->device);
    assert_int_equal(get(echo, CONFIG_GENERATION), 1);
    assert_int_equal(echo->interrupts, 0); /* nobody listens before DRIVER_OK */
    assert_int_equal(get(echo, INTERRUPT_STATUS), 0);
    echo = running(0);
    virtio_device_config_changed(&echo->device);
    assert_int_equal(echo->interrupts, 1);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 2);
    set(echo, STATUS, 0);
    assert_int_equal(get(echo, CONFIG_GENERATION), 1); /* never the same for two contents */
}

static void test_an_interrupt_is_for_a_driver_that_wants_it(void **state) {
    (void)state;
    struct echo *echo = running(0);
    guest_poke(bytes, AVAILABLE, 1, 2); /* not now */
    offer(0, 0);
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(echo->interrupts, 0);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 0);
    guest_poke(bytes, AVAILABLE, 0, 2);
    virtio_device_signal(&echo->device, 0); /* for nothing new */
    assert_int_equal(echo->interrupts, 0);
    offer(0, 1);
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(echo->interrupts, 1);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 1);
    offer(0, 2); /* the edge comes again, though the driver has not answered */
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(echo->interrupts, 2);
}

/* Every offset and size, also such as no bus gives. */
static void hazard_a3_config_offset_and_length_are_out_of_range(void **state) {
    (void)state;
    /* What lies behind it is not zeros. */
    const struct {
        uint8_t bytes[5];
        uint8_t behind[16];
    } config = {{1, 2, 3, 4, 5}, "behind behind b"};
    const uint64_t offsets[] = {
        0, 1, 2, 3, 4, 5, 6, 100, UINT32_MAX, 1ull << 32, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        for (uint32_t size = 1; size <= 8; size++) {
            uint8_t data[9];
            memset(data, 0xee, sizeof(data));
            virtio_config_read(config.bytes, sizeof(config.bytes), offsets[i], data, size);
            for (uint32_t j = 0; j < size; j++) {
                bool within =
                    offsets[i] < sizeof(config.bytes) && j < sizeof(config.bytes) - offsets[i];
                assert_int_equal(data[j], within ? offsets[i] + j + 1 : 0);
            }
            assert_int_equal(data[size], 0xee);
        }
    }
    uint64_t value = UINT64_MAX;
    virtio_config_read(NULL, 0, 0, &value, sizeof(value));
    assert_true(value == 0);
}

static void hazard_a1_a_broken_queue_asks_for_a_reset_once(void **state) {
    (void)state;
    struct echo *echo = running(0);
    break_queue(echo, 0);
    assert_int_equal(get(echo, STATUS), RUNNING | NEEDS_RESET);
    assert_int_equal(echo->interrupts, 1);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 2);
    set(echo, INTERRUPT_ACK, 2);
    for (int i = 0; i < 3; i++) {
        set(echo, QUEUE_NOTIFY, 0);
        virtio_device_signal(&echo->device, 0);
    }
    break_queue(echo, 1);
    assert_int_equal(echo->notifications, 2); /* a broken queue is not asked again */
    assert_int_equal(echo->interrupts, 1);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 0);
    set(echo, STATUS, RUNNING); /* the driver cannot take it back */
    assert_int_equal(get(echo, STATUS), RUNNING | NEEDS_RESET);
    set(echo, STATUS, 0);
    assert_int_equal(get(echo, STATUS), 0);
    assert_false(echo->device.queues[0].broken);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_config_changes),
        cmocka_unit_test(test_an_interrupt_is_for_a_driver_that_wants_it),
        cmocka_unit_test(hazard_a1_a_broken_queue_asks_for_a_reset_once),
        cmocka_unit_test(hazard_a3_config_offset_and_length_are_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
