/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_mmio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/virtio_echo.h"

/* ---- What works ------------------------------------------------------------------------------- */

static void test_a_driver_finds_the_device(void **state) {
    (void)state;
    struct echo *echo = fresh();
    assert_int_equal(get(echo, MAGIC), 0x74726976);
    assert_int_equal(get(echo, VERSION), 2);
    assert_int_equal(get(echo, DEVICE_ID), VIRTIO_ID_ENTROPY);
    assert_int_equal(get(echo, VENDOR_ID), 0x504c454b);
    assert_int_equal(get(echo, STATUS), 0);
    assert_int_equal(get(echo, DEVICE_FEATURES), FEATURE_LOW | 1u << 28 | 1u << 29);
    set(echo, DEVICE_FEATURES_SELECT, 1);
    assert_int_equal(get(echo, DEVICE_FEATURES), FEATURE_HIGH >> 32 | 1);
    for (uint32_t select = 2; select != 0; select <<= 1) {
        set(echo, DEVICE_FEATURES_SELECT, select);
        assert_int_equal(get(echo, DEVICE_FEATURES), 0);
    }
    for (uint64_t offset = 0xb0; offset < 0xc0; offset += 4) {
        assert_int_equal(get(echo, offset), UINT32_MAX); /* shared memory: there is none */
    }
}

static void test_a_request_goes_through(void **state) {
    (void)state;
    struct echo *echo = running(FEATURE_LOW);
    assert_int_equal(echo->activations, 1);
    assert_true(virtio_device_has(&echo->device, FEATURE_LOW));
    assert_false(virtio_device_has(&echo->device, FEATURE_HIGH));
    assert_false(echo->device.queues[0].event_index);
    assert_false(echo->device.queues[0].indirect);
    offer(1, 2);
    set(echo, QUEUE_NOTIFY, 1);
    assert_int_equal(echo->notifications, 1);
    assert_int_equal(guest_peek(bytes, USED + QUEUE_STRIDE + 2, 2), 1);
    assert_int_equal(guest_peek(bytes, USED + QUEUE_STRIDE + 4, 4), 2);
    assert_int_equal(echo->interrupts, 1);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 1);
    set(echo, INTERRUPT_ACK, 2);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 1);
    set(echo, INTERRUPT_ACK, UINT32_MAX);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 0);
    set(echo, QUEUE_NOTIFY, 1); /* nothing to do, nothing to say */
    assert_int_equal(echo->interrupts, 1);
    virtio_mmio_notify(&echo->mmio, 1);
    assert_int_equal(echo->notifications, 3);
}

static void test_features_reach_the_queues(void **state) {
    (void)state;
    struct echo *echo = running(VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
    for (uint32_t i = 0; i < QUEUE_COUNT; i++) {
        assert_true(echo->device.queues[i].event_index);
        assert_true(echo->device.queues[i].indirect);
    }
    set(echo, STATUS, 0);
    assert_false(echo->device.queues[0].event_index);
    assert_false(echo->device.queues[0].indirect);
}

static void test_a_reset_forgets_everything(void **state) {
    (void)state;
    struct echo *echo = running(FEATURE_HIGH);
    offer(0, 0);
    set(echo, QUEUE_NOTIFY, 0);
    set(echo, QUEUE_SELECT, 1);
    set(echo, STATUS, 0);
    assert_int_equal(echo->resets, 1);
    assert_int_equal(get(echo, STATUS), 0);
    assert_int_equal(get(echo, INTERRUPT_STATUS), 0);
    assert_false(echo->device.active);
    assert_int_equal(echo->device.driver_features, 0);
    for (uint32_t i = 0; i < QUEUE_COUNT; i++) {
        set(echo, QUEUE_SELECT, i);
        assert_int_equal(get(echo, QUEUE_READY), 0);
        assert_int_equal(echo->device.queues[i].used_gpa, 0);
    }
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(echo->notifications, 1);
    /* And it begins anew: with features that were not written again, it is refused. */
    set(echo, STATUS, ACKNOWLEDGE);
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set(echo, STATUS, NEGOTIATED);
    assert_int_equal(get(echo, STATUS), ACKNOWLEDGE | DRIVER);
    set(echo, STATUS, 0);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(climb(echo, VIRTIO_F_VERSION_1), NEGOTIATED);
    set_up_queue(echo, 0);
    set(echo, STATUS, RUNNING);
    offer(0, 5);
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(guest_peek(bytes, USED + 4, 4), 5);
}

static void test_features_that_are_not_offered_are_refused(void **state) {
    (void)state;
    const uint64_t offered = FEATURE_LOW | FEATURE_HIGH | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX |
                             VIRTIO_F_INDIRECT_DESC;
    assert_int_equal(climb(fresh(), offered), NEGOTIATED);
    assert_int_equal(climb(fresh(), VIRTIO_F_VERSION_1), NEGOTIATED);
    assert_int_equal(climb(fresh(), offered & ~VIRTIO_F_VERSION_1), ACKNOWLEDGE | DRIVER);
    assert_int_equal(climb(fresh(), 0), ACKNOWLEDGE | DRIVER);
    for (uint64_t bit = 1; bit != 0; bit <<= 1) {
        uint32_t status = (offered & bit) != 0 ? NEGOTIATED : ACKNOWLEDGE | DRIVER;
        assert_int_equal(climb(fresh(), VIRTIO_F_VERSION_1 | bit), status);
    }
    struct echo *echo = fresh(); /* beyond 64 bits */
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set(echo, DRIVER_FEATURES_SELECT, 2);
    set(echo, DRIVER_FEATURES, 0);
    assert_int_equal(climb(echo, VIRTIO_F_VERSION_1), NEGOTIATED);
    echo = fresh();
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set(echo, DRIVER_FEATURES_SELECT, UINT32_MAX);
    set(echo, DRIVER_FEATURES, 1);
    assert_int_equal(climb(echo, VIRTIO_F_VERSION_1), ACKNOWLEDGE | DRIVER);
    /* Whoever was refused may ask for less. */
    echo = fresh();
    assert_int_equal(climb(echo, 1 | VIRTIO_F_VERSION_1), ACKNOWLEDGE | DRIVER);
    set_features(echo, VIRTIO_F_VERSION_1);
    set(echo, STATUS, NEGOTIATED);
    assert_int_equal(get(echo, STATUS), NEGOTIATED);
}

static const uint32_t steps[] = {0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, NEGOTIATED, RUNNING};

/* What comes of a write of `value` at steps[from]: as many steps up as it has bits for. */
static uint32_t status_after(size_t from, uint32_t value) {
    if ((steps[from] & ~value) != 0) {
        return steps[from];
    }
    /* Features are written at DRIVER: nobody gets past it in one stride. */
    size_t last = from < 2 ? 2 : 4;
    last = from < 4 && last == 4 && (value & FAILED) != 0 ? 3 : last;
    size_t reached = from;
    while (reached < last && (steps[reached + 1] & ~value) == 0) {
        reached++;
    }
    return steps[reached] | (value & FAILED);
}

/* Each status that a driver could write, from each that it could have reached. */
static void test_the_status_is_climbed_in_order(void **state) {
    (void)state;
    for (size_t from = 0; from < ARRAY_SIZE(steps); from++) {
        for (uint32_t value = 1; value < 512; value++) {
            struct echo *echo = fresh();
            for (size_t i = 1; i <= from; i++) {
                set(echo, STATUS, steps[i]);
                set_features(echo, VIRTIO_F_VERSION_1);
            }
            assert_int_equal(get(echo, STATUS), steps[from]);
            set(echo, STATUS, value);
            uint32_t expected = status_after(from, value);
            assert_int_equal(get(echo, STATUS), expected);
            assert_int_equal(echo->device.active, (expected & DRIVER_OK) != 0);
            assert_int_equal(echo->activations, (expected & DRIVER_OK) != 0);
        }
    }
}

static void test_nothing_happens_before_its_time(void **state) {
    (void)state;
    struct echo *echo = fresh();
    set_up_queue(echo, 0); /* no features yet */
    assert_false(echo->device.queues[0].ready);
    assert_int_equal(echo->device.queues[0].size, 0);
    set_features(echo, VIRTIO_F_VERSION_1); /* no driver yet */
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set(echo, STATUS, NEGOTIATED);
    assert_int_equal(get(echo, STATUS), ACKNOWLEDGE | DRIVER);
    set_features(echo, VIRTIO_F_VERSION_1);
    set(echo, STATUS, NEGOTIATED);
    assert_int_equal(get(echo, STATUS), NEGOTIATED);
    set_features(echo, VIRTIO_F_VERSION_1 | FEATURE_LOW); /* too late */
    assert_int_equal(echo->mmio.driver_features, VIRTIO_F_VERSION_1);
    set_up_queue(echo, 0);
    offer(0, 0);
    set(echo, QUEUE_NOTIFY, 0); /* not yet */
    assert_int_equal(echo->notifications, 0);
    set(echo, STATUS, RUNNING);
    set_features(echo, VIRTIO_F_VERSION_1 | FEATURE_LOW);
    assert_false(virtio_device_has(&echo->device, FEATURE_LOW));
    set_up_queue(echo, 1); /* too late */
    assert_false(echo->device.queues[1].ready);
    set(echo, QUEUE_NOTIFY, 1);
    assert_int_equal(echo->notifications, 0);
    set(echo, QUEUE_NOTIFY, 0);
    assert_int_equal(echo->notifications, 1);
}

/* Of every size and at every place: registers are 32 bits, aligned, and those that are none read as zeros. */
static void test_only_whole_registers_are_accessed(void **state) {
    (void)state;
    struct echo *echo = running(FEATURE_LOW);
    struct echo before = *echo;
    const uint32_t sizes[] = {1, 2, 4, 8};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (uint64_t offset = 0; offset < CONFIG; offset++) {
            if (sizes[i] == 4 && offset % 4 == 0) {
                continue;
            }
            assert_int_equal(read_size(echo, offset, sizes[i]), 0);
            write_size(echo, offset, 0, sizes[i]);
            write_size(echo, offset, UINT64_MAX, sizes[i]);
        }
    }
    assert_memory_equal(&before, echo, sizeof(before));
    /* Read-only registers, and none. */
    const uint64_t readonly[] = {MAGIC,
                                 VERSION,
                                 DEVICE_ID,
                                 VENDOR_ID,
                                 DEVICE_FEATURES,
                                 QUEUE_NUM_MAX,
                                 INTERRUPT_STATUS,
                                 CONFIG_GENERATION,
                                 0x018,
                                 0x028,
                                 0x0ac,
                                 0x0b0,
                                 0x0c0};
    for (size_t i = 0; i < ARRAY_SIZE(readonly); i++) {
        set(echo, readonly[i], UINT32_MAX);
        set(echo, readonly[i], 0);
    }
    assert_memory_equal(&before, echo, sizeof(before));
    assert_int_equal(get(echo, 0x0c0), 0);
    assert_int_equal(get(echo, QUEUE_NUM), 0);
}

static void test_a_queue_is_put_down_again_before_the_device_begins(void **state) {
    (void)state;
    struct echo *echo = fresh();
    (void)climb(echo, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
    set_up_queue(echo, 0);
    assert_int_equal(get(echo, QUEUE_READY), 1);
    set(echo, QUEUE_READY, 2); /* neither 0 nor 1 */
    assert_int_equal(get(echo, QUEUE_READY), 1);
    set(echo, QUEUE_READY, 0);
    assert_int_equal(get(echo, QUEUE_READY), 0);
    assert_true(echo->device.queues[0].event_index);
    set(echo, QUEUE_READY, 3);
    assert_int_equal(get(echo, QUEUE_READY), 0);
    set_up_queue(echo, 0);
    assert_int_equal(get(echo, QUEUE_READY), 1);
    assert_int_equal(get(echo, STATUS), NEGOTIATED);
}

/* ---- Hazards ---------------------------------------------------------------------------------- */

static void hazard_a2_a_queue_or_register_index_is_out_of_range(void **state) {
    (void)state;
    struct echo *echo = fresh();
    (void)climb(echo, VIRTIO_F_VERSION_1);
    const uint32_t indices[] = {QUEUE_COUNT, QUEUE_COUNT + 1, VMM_QUEUE_COUNT_MAX, 0xffff,
                                0x10000,     0x10001,         0x80000000,          UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(indices); i++) {
        set_up_queue(echo, indices[i]);
        assert_int_equal(get(echo, QUEUE_NUM_MAX), 0);
        assert_int_equal(get(echo, QUEUE_READY), 0);
    }
    for (uint32_t i = 0; i < VMM_QUEUE_COUNT_MAX; i++) {
        assert_false(echo->device.queues[i].ready);
        assert_int_equal(echo->device.queues[i].size, 0);
    }
    set(echo, QUEUE_SELECT, QUEUE_COUNT - 1);
    assert_int_equal(get(echo, QUEUE_NUM_MAX), 16);
    echo = running(0);
    offer(0, 0);
    offer(1, 0);
    for (size_t i = 0; i < ARRAY_SIZE(indices); i++) {
        set(echo, QUEUE_NOTIFY, indices[i]);
        virtio_mmio_notify(&echo->mmio, indices[i]);
    }
    assert_int_equal(echo->notifications, 0);
}

static void hazard_a3_a_config_access_is_out_of_range(void **state) {
    (void)state;
    struct echo *echo = fresh();
    const uint32_t sizes[] = {1, 2, 4, 8};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (uint64_t offset = 0; offset + sizes[i] <= VMM_MMIO_WINDOW_SIZE - CONFIG; offset++) {
            uint64_t expected = 0;
            for (uint32_t j = 0; j < sizes[i]; j++) {
                uint64_t byte = offset + j < sizeof(echo->config) ? offset + j + 1 : 0;
                expected |= byte << (8 * j);
            }
            assert_true(read_size(echo, CONFIG + offset, sizes[i]) == expected);
        }
    }
    /* Writes reach the device as they are. */
    write_size(echo, CONFIG + 10, 0xbbaa, 2);
    write_size(echo, CONFIG + 11, 0xffff, 2);
    assert_int_equal(read_size(echo, CONFIG + 8, 8), 0xbbaa0a09);
    /* A device without a config space. */
    struct virtio_ops none = echo_ops;
    none.config_read = NULL;
    none.config_write = NULL;
    echo->device.ops = &none;
    write_size(echo, CONFIG, 1, 4);
    assert_int_equal(read_size(echo, CONFIG, 8), 0);
    echo->device.ops = &echo_ops;
}

static void hazard_a4_a_live_queue_is_locked(void **state) {
    (void)state;
    const uint64_t registers[] = {QUEUE_NUM,        QUEUE_DESC,   QUEUE_DESC + 4,  QUEUE_DRIVER,
                                  QUEUE_DRIVER + 4, QUEUE_DEVICE, QUEUE_DEVICE + 4};
    struct echo *echo = fresh();
    (void)climb(echo, VIRTIO_F_VERSION_1);
    set_up_queue(echo, 0);
    set_up_queue(echo, 1);
    for (int is_running = 0; is_running < 2; is_running++) {
        for (uint32_t queue = 0; queue < QUEUE_COUNT; queue++) {
            struct virtqueue before = echo->device.queues[queue];
            set(echo, QUEUE_SELECT, queue);
            for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
                set(echo, registers[i], 0);
                set(echo, registers[i], 4);
                set(echo, registers[i], 0x7000);
                set(echo, registers[i], UINT32_MAX);
            }
            set(echo, QUEUE_READY, 1);
            if (is_running) {
                set(echo, QUEUE_READY, 0); /* only a reset stops a queue of a device that runs */
                set(echo, QUEUE_NUM, 4);
            }
            assert_memory_equal(&before, &echo->device.queues[queue], sizeof(before));
        }
        set(echo, STATUS, RUNNING);
    }
}

static void hazard_a5_a_queue_that_cannot_be_is_refused(void **state) {
    (void)state;
    const struct {
        uint64_t offset;
        uint64_t value;
    } cases[] = {{QUEUE_NUM, 0},
                 {QUEUE_NUM, 3},
                 {QUEUE_NUM, 32},
                 {QUEUE_NUM, 0x10000},
                 {QUEUE_NUM, 0x10008},
                 {QUEUE_NUM, UINT32_MAX},
                 {QUEUE_DESC, 0x1008},
                 {QUEUE_DESC + 4, 1},
                 {QUEUE_DESC, MEMORY_SIZE - 64},
                 {QUEUE_DRIVER, 0x2001},
                 {QUEUE_DRIVER + 4, 1},
                 {QUEUE_DRIVER, MEMORY_SIZE - 20},
                 {QUEUE_DEVICE, 0x3002},
                 {QUEUE_DEVICE + 4, 255},
                 {QUEUE_DEVICE, MEMORY_SIZE - 64},
                 {QUEUE_DESC, UINT32_MAX},
                 {QUEUE_DRIVER, MEMORY_SIZE}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct echo *echo = fresh();
        (void)climb(echo, VIRTIO_F_VERSION_1);
        set_up_queue(echo, 1);
        set_up_queue(echo, 0);
        set(echo, QUEUE_READY, 0);
        set(echo, QUEUE_NUM, QUEUE_SIZE);
        set_address(echo, QUEUE_DESC, DESCRIPTORS);
        set_address(echo, QUEUE_DRIVER, AVAILABLE);
        set_address(echo, QUEUE_DEVICE, USED);
        set(echo, cases[i].offset, cases[i].value);
        set(echo, QUEUE_READY, 1);
        assert_int_equal(get(echo, QUEUE_READY), 0);
        assert_int_equal(get(echo, STATUS), NEGOTIATED | NEEDS_RESET);
        assert_int_equal(echo->interrupts, 0); /* before DRIVER_OK the device is silent */
        set_up_queue(echo, 0);
        assert_int_equal(get(echo, QUEUE_READY), 0);
        set(echo, STATUS, RUNNING);
        assert_int_equal(get(echo, STATUS), NEGOTIATED | NEEDS_RESET);
        assert_int_equal(echo->activations, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_driver_finds_the_device),
        cmocka_unit_test(test_a_request_goes_through),
        cmocka_unit_test(test_features_reach_the_queues),
        cmocka_unit_test(test_a_reset_forgets_everything),
        cmocka_unit_test(test_features_that_are_not_offered_are_refused),
        cmocka_unit_test(test_the_status_is_climbed_in_order),
        cmocka_unit_test(test_nothing_happens_before_its_time),
        cmocka_unit_test(test_only_whole_registers_are_accessed),
        cmocka_unit_test(test_a_queue_is_put_down_again_before_the_device_begins),
        cmocka_unit_test(hazard_a2_a_queue_or_register_index_is_out_of_range),
        cmocka_unit_test(hazard_a3_a_config_access_is_out_of_range),
        cmocka_unit_test(hazard_a4_a_live_queue_is_locked),
        cmocka_unit_test(hazard_a5_a_queue_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
