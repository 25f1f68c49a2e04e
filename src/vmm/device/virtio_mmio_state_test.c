/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The transport, saved and loaded. */
#include "vmm/device/virtio_mmio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/virtio_echo.h"

#define INSTANCE 3
#define STATE_SIZE 4096

static size_t save(struct echo *echo, uint8_t *buffer) {
    struct state_writer state;
    size_t size = 0;
    memset(buffer, 0, STATE_SIZE);
    state_writer_init(&state, buffer, STATE_SIZE);
    virtio_mmio_save(&echo->mmio, &state, INSTANCE);
    assert_int_equal(state_writer_finish(&state, &size, NULL), KELPIE_OK);
    return size;
}

/* What a loaded machine has for its memory when it is not `bytes`. */
static void *high_memory;
static size_t high_memory_size;

static enum kelpie_status load_with_error(struct echo *echo, const uint8_t *buffer, size_t size,
                                          struct kelpie_error *err) {
    struct state_reader state;
    power_on(echo);
    if (high_memory) {
        memory_init(&memory, high_memory, high_memory_size);
    }
    assert_int_equal(state_reader_init(&state, buffer, size, NULL), KELPIE_OK);
    TRY(virtio_mmio_load(&echo->mmio, &state, INSTANCE, err));
    return state_reader_finish(&state, err);
}

static enum kelpie_status load(struct echo *echo, const uint8_t *buffer, size_t size) {
    return load_with_error(echo, buffer, size, NULL);
}

static void assert_comes_back(struct echo *echo) {
    static struct echo other;
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    echo->state = 42;
    size_t size = save(echo, first);
    assert_int_equal(load(&other, first, size), KELPIE_OK);
    assert_int_equal(save(&other, second), size);
    assert_memory_equal(first, second, STATE_SIZE);
    assert_int_equal(other.state, 42);
    assert_int_equal(other.activations, 0);
    assert_int_equal(other.mmio.device_features_select, echo->mmio.device_features_select);
    assert_int_equal(other.mmio.driver_features_select, echo->mmio.driver_features_select);
    assert_int_equal(other.mmio.driver_features, echo->mmio.driver_features);
    assert_int_equal(other.mmio.driver_features_unknown, echo->mmio.driver_features_unknown);
    assert_int_equal(other.mmio.queue_select, echo->mmio.queue_select);
    assert_int_equal(other.device.status, echo->device.status);
    assert_int_equal(other.device.interrupt_status, echo->device.interrupt_status);
    assert_int_equal(other.device.config_generation, echo->device.config_generation);
    assert_int_equal(other.device.active, echo->device.active);
    assert_int_equal(other.device.driver_features, echo->device.driver_features);
    assert_memory_equal(other.device.queues, echo->device.queues, sizeof(other.device.queues));
}

/* At every step of a device's life. */
static void hazard_c9_a_device_is_saved_and_loaded(void **state) {
    (void)state;
    struct echo *echo = fresh();
    assert_comes_back(echo);
    set(echo, DEVICE_FEATURES_SELECT, 77);
    set(echo, DRIVER_FEATURES_SELECT, 0xffffffff);
    set(echo, QUEUE_SELECT, 0x12345678);
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    set(echo, DRIVER_FEATURES, 1);
    assert_comes_back(echo);
    set(echo, STATUS, 0);
    (void)climb(echo, 1ull << 63);
    assert_comes_back(echo); /* with features that were refused */
    set(echo, DRIVER_FEATURES_SELECT, 5);
    set(echo, DRIVER_FEATURES, 1);
    assert_comes_back(echo);
    set(echo, STATUS, 0);
    (void)climb(echo, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | FEATURE_HIGH);
    set_address(echo, QUEUE_DESC, UINT64_MAX);
    set(echo, QUEUE_NUM, 12345);
    assert_comes_back(echo);
    set_up_queue(echo, 0);
    set_up_queue(echo, 1);
    assert_comes_back(echo);
    set(echo, STATUS, RUNNING);
    offer(0, 1);
    set(echo, QUEUE_NOTIFY, 0);
    virtio_device_config_changed(&echo->device);
    offer(0, 2);
    assert_comes_back(echo);
    break_queue(echo, 1);
    assert_comes_back(echo);
    set(echo, STATUS, RUNNING | FAILED);
    assert_comes_back(echo);
}

/* A queue that broke, and the device has not said so yet. */
static void hazard_c9_a_queue_that_just_broke_is_reported(void **state) {
    (void)state;
    struct echo *echo = running(0);
    struct virtqueue_chain chain;
    offer(0, QUEUE_SIZE);
    assert_false(virtqueue_pop(&echo->device.queues[0], &chain));
    assert_int_equal(get(echo, STATUS), RUNNING);
    assert_comes_back(echo);
    assert_int_equal(get(echo, STATUS), RUNNING | NEEDS_RESET);
}

static void test_an_interrupt_that_was_not_acknowledged_comes_again(void **state) {
    (void)state;
    static struct echo other;
    uint8_t buffer[STATE_SIZE];
    struct echo *echo = running(0);
    offer(0, 1);
    set(echo, QUEUE_NOTIFY, 0);
    size_t size = save(echo, buffer);
    assert_int_equal(load(&other, buffer, size), KELPIE_OK);
    assert_int_equal(other.interrupts, 1);
    set(echo, INTERRUPT_ACK, 1);
    size = save(echo, buffer);
    assert_int_equal(load(&other, buffer, size), KELPIE_OK);
    assert_int_equal(other.interrupts, 0);
}

/* The device goes on after a load where it was. */
static void test_a_loaded_device_goes_on(void **state) {
    (void)state;
    static struct echo other;
    uint8_t buffer[STATE_SIZE];
    struct echo *echo = running(VIRTIO_F_EVENT_IDX);
    offer(0, 1);
    set(echo, QUEUE_NOTIFY, 0);
    size_t size = save(echo, buffer);
    assert_int_equal(load(&other, buffer, size), KELPIE_OK);
    other.interrupts = 0;
    offer(0, 2);
    guest_poke(bytes, AVAILABLE + 4 + 2 * QUEUE_SIZE, 1, 2); /* an interrupt for the second */
    set(&other, QUEUE_NOTIFY, 0);
    assert_int_equal(other.interrupts, 1);
    assert_int_equal(guest_peek(bytes, USED + 2, 2), 2);
    assert_int_equal(guest_peek(bytes, USED + 12, 4), 2);
}

/* The section's fields, and where they begin. */
#define AT_ID 0
#define AT_QUEUE_COUNT 4
#define AT_DRIVER_FEATURES 14
#define AT_UNKNOWN 22
#define AT_STATUS 27
#define AT_INTERRUPT_STATUS 31
#define AT_QUEUES 39
#define SAVED_QUEUE_SIZE 32
#define SECTION_SIZE (AT_QUEUES + QUEUE_COUNT * SAVED_QUEUE_SIZE)
#define FRAME_SIZE 24 /* magic and the section's header, before it */

/* Puts a changed section into a state whose frame and checksum are right. */
static enum kelpie_status load_payload(struct echo *echo, const uint8_t *payload, size_t size,
                                       struct kelpie_error *err) {
    uint8_t buffer[STATE_SIZE];
    struct state_writer state;
    size_t total = 0;
    state_writer_init(&state, buffer, sizeof(buffer));
    cursor_write_bytes(state_begin(&state, STATE_TAG('V', 'M', 'I', 'O'), 1, INSTANCE), payload,
                       size);
    state_end(&state);
    echo_save(&echo->device, &state, INSTANCE);
    assert_int_equal(state_writer_finish(&state, &total, NULL), KELPIE_OK);
    return load_with_error(echo, buffer, total, err);
}

static void assert_refused(const uint8_t *good, size_t offset, uint64_t value, size_t size) {
    static struct echo echo;
    static struct echo before;
    uint8_t bad[SECTION_SIZE];
    memcpy(bad, good, SECTION_SIZE);
    guest_poke(bad, offset, value, size);
    power_on(&echo);
    before = echo;
    assert_int_equal(load_payload(&echo, bad, SECTION_SIZE, NULL), KELPIE_SNAPSHOT_CORRUPT);
    assert_memory_equal(&echo, &before, sizeof(echo));
}

static void hazard_b1_a_saved_transport_is_out_of_range(void **state) {
    (void)state;
    static struct echo other;
    uint8_t buffer[STATE_SIZE];
    struct echo *echo = running(FEATURE_LOW);
    offer(0, 1);
    set(echo, QUEUE_NOTIFY, 0);
    (void)save(echo, buffer);
    const uint8_t *good = buffer + FRAME_SIZE;
    assert_int_equal(load_payload(&other, good, SECTION_SIZE, NULL), KELPIE_OK);
    for (size_t size = 0; size < SECTION_SIZE; size++) {
        assert_int_equal(load_payload(&other, good, size, NULL), KELPIE_SNAPSHOT_CORRUPT);
        assert_int_equal(other.device.status, 0);
    }
    assert_int_equal(load_payload(&other, good, SECTION_SIZE + 1, NULL), KELPIE_SNAPSHOT_CORRUPT);
    assert_refused(good, AT_ID, VIRTIO_ID_BLOCK, 4);
    assert_refused(good, AT_QUEUE_COUNT, 0, 2);
    assert_refused(good, AT_QUEUE_COUNT, QUEUE_COUNT + 1, 2);
    assert_refused(good, AT_QUEUE_COUNT, 0xffff, 2);
    assert_refused(good, AT_DRIVER_FEATURES, VIRTIO_F_VERSION_1 | 1, 8);
    assert_refused(good, AT_DRIVER_FEATURES, FEATURE_LOW, 8);
    assert_refused(good, AT_DRIVER_FEATURES, UINT64_MAX, 8);
    assert_refused(good, AT_UNKNOWN, 1, 1); /* FEATURES_OK, though some were unknown */
    assert_refused(good, AT_UNKNOWN, 2, 1);
    for (uint32_t status = 0; status < 512; status++) {
        if (status != RUNNING && status != (RUNNING | FAILED)) {
            assert_refused(good, AT_STATUS, status, 4);
        }
    }
    assert_refused(good, AT_STATUS, RUNNING | 1u << 31, 4);
    assert_refused(good, AT_INTERRUPT_STATUS, 4, 4);
    assert_refused(good, AT_INTERRUPT_STATUS, UINT32_MAX, 4);
    for (size_t at = AT_QUEUES; at < SECTION_SIZE; at += SAVED_QUEUE_SIZE) {
        assert_refused(good, at, 3, 2);                /* size */
        assert_refused(good, at, 32, 2);               /* above the maximum */
        assert_refused(good, at + 2, 2, 1);            /* ready */
        assert_refused(good, at + 3, 1, 1);            /* broken, without NEEDS_RESET */
        assert_refused(good, at + 4, MEMORY_SIZE, 8);  /* descriptors */
        assert_refused(good, at + 12, MEMORY_SIZE, 8); /* available */
        assert_refused(good, at + 20, MEMORY_SIZE, 8); /* used */
    }
    assert_refused(good, AT_QUEUES + 2, 0, 1); /* not ready, and yet used */
}

/* Saved rings in the hole, across its ends, or beyond memory, of a machine that has memory on both sides of it. */
static void hazard_b2_a_saved_ring_is_no_memory(void **state) {
    static const struct {
        uint64_t gpa;
        bool is_memory;
    } places[] = {
        {VMM_MEMORY_LOW_END - VMM_PAGE_SIZE, true},
        {VMM_MEMORY_HIGH_START, true},
        {VMM_MEMORY_LOW_END - 16, false},
        {VMM_MEMORY_LOW_END, false},
        {VMM_MEMORY_LOW_END + VMM_PAGE_SIZE, false},
        {VMM_MMIO_BASE, false},
        {VMM_IOAPIC_GPA, false},
        {VMM_LAPIC_GPA, false},
        {VMM_MEMORY_HIGH_START - 16, false},
        {VMM_MEMORY_HIGH_START + VMM_PAGE_SIZE, false},
        {UINT64_MAX - 15, false},
    };
    static const size_t rings[] = {4, 12, 20}; /* descriptors, available, used */
    const size_t high_size = VMM_MEMORY_LOW_END + VMM_PAGE_SIZE;
    static struct echo other;
    uint8_t buffer[STATE_SIZE];
    (void)state;
    (void)save(running(FEATURE_LOW), buffer);
    void *host = mmap(NULL, high_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        for (size_t ring = 0; ring < ARRAY_SIZE(rings); ring++) {
            uint8_t bad[SECTION_SIZE];
            memcpy(bad, buffer + FRAME_SIZE, SECTION_SIZE);
            guest_poke(bad, AT_QUEUES + rings[ring], places[i].gpa, 8);
            struct kelpie_error err = {0};
            high_memory = host;
            high_memory_size = high_size;
            enum kelpie_status status = load_payload(&other, bad, SECTION_SIZE, &err);
            high_memory = NULL;
            assert_int_equal(status, places[i].is_memory ? KELPIE_OK : KELPIE_SNAPSHOT_CORRUPT);
            if (status != KELPIE_OK) {
                assert_string_equal(err.field, "state");
                assert_int_equal(other.device.status, 0);
                assert_false(other.device.queues[0].ready);
            }
        }
    }
    munmap(host, high_size);
}

/* What no device that has not come so far can have. */
static void hazard_b1_a_saved_transport_is_ahead_of_its_status(void **state) {
    (void)state;
    uint8_t buffer[STATE_SIZE];
    (void)save(fresh(), buffer);
    const uint8_t *good = buffer + FRAME_SIZE;
    assert_refused(good, AT_DRIVER_FEATURES, VIRTIO_F_VERSION_1, 8);
    assert_refused(good, AT_UNKNOWN, 1, 1);
    assert_refused(good, AT_INTERRUPT_STATUS, 1, 4);
    assert_refused(good, AT_QUEUES, 8, 2);
    assert_refused(good, AT_QUEUES + 3, 1, 1);
    assert_refused(good, AT_QUEUES + 4, 0x1000, 8);
    assert_refused(good, AT_QUEUES + SAVED_QUEUE_SIZE + 20, 0x1000, 8);
    assert_refused(good, AT_QUEUES + 28, 1, 2);
    assert_refused(good, AT_QUEUES + 30, 1, 2);
    for (uint32_t status = 1; status < 512; status++) {
        if (status != ACKNOWLEDGE && status != (ACKNOWLEDGE | DRIVER) && status != FAILED &&
            status != (ACKNOWLEDGE | FAILED) && status != (ACKNOWLEDGE | DRIVER | FAILED)) {
            assert_refused(good, AT_STATUS, status, 4);
        }
    }
    struct echo *echo = fresh();
    set(echo, STATUS, ACKNOWLEDGE | DRIVER);
    (void)save(echo, buffer);
    assert_refused(good, AT_UNKNOWN, 2, 1);
    struct state_reader empty = {.section_count = 0};
    static struct echo other;
    power_on(&other);
    assert_int_equal(virtio_mmio_load(&other.mmio, &empty, INSTANCE, NULL),
                     KELPIE_SNAPSHOT_CORRUPT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_interrupt_that_was_not_acknowledged_comes_again),
        cmocka_unit_test(test_a_loaded_device_goes_on),
        cmocka_unit_test(hazard_b1_a_saved_transport_is_out_of_range),
        cmocka_unit_test(hazard_b1_a_saved_transport_is_ahead_of_its_status),
        cmocka_unit_test(hazard_b2_a_saved_ring_is_no_memory),
        cmocka_unit_test(hazard_c9_a_device_is_saved_and_loaded),
        cmocka_unit_test(hazard_c9_a_queue_that_just_broke_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
