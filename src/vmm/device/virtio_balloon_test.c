/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_balloon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "support/fake_driver.h"

#define LIST_GPA FAKE_DATA_GPA
#define PAGES_GPA 0x40000ull
#define PAGE_COUNT (FAKE_MEMORY_SIZE / VMM_PAGE_SIZE)
#define BALLOON_TAG STATE_TAG('V', 'B', 'L', 'N')
#define CONFIG_TARGET 0
#define CONFIG_ACTUAL 4

struct machine {
    struct fake_driver driver;
    struct virtio_balloon balloon;
};

static void machine_open(struct machine *machine, bool shared) {
    struct virtio_balloon_options options = {.memory_is_shared = shared};
    fake_driver_open(&machine->driver, shared);
    assert_int_equal(virtio_balloon_init(&machine->balloon, &options, &machine->driver.memory,
                                         fake_driver_irq(&machine->driver), &machine->driver.io,
                                         NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine->driver, &machine->balloon.device,
                       VIRTIO_BALLOON_F_REPORTING | VIRTIO_F_EVENT_IDX);
}

static void machine_close(struct machine *machine) {
    virtio_device_reset(&machine->balloon.device);
    virtio_balloon_deinit(&machine->balloon);
    fake_driver_close(&machine->driver);
}

static void send(struct machine *machine, uint16_t queue_index, const struct fake_part *parts,
                 size_t count) {
    struct fake_used used;
    uint16_t head = fake_driver_add(&machine->driver, queue_index, parts, count);
    fake_driver_kick(&machine->driver, queue_index);
    assert_true(fake_driver_used(&machine->driver, queue_index, &used));
    assert_int_equal(used.head, head);
    assert_int_equal(used.written, 0);
    assert_int_equal(fake_driver_used_count(&machine->driver, queue_index), 0);
    assert_int_equal(machine->balloon.device.queues[queue_index].in_flight, 0);
}

static void send_pfns(struct machine *machine, uint16_t queue_index, const uint32_t *pfns,
                      uint32_t count) {
    const struct fake_part part = {LIST_GPA, count * 4, false};
    memcpy(fake_driver_at(&machine->driver, LIST_GPA), pfns, count * sizeof(*pfns));
    send(machine, queue_index, &part, 1);
}

static bool page_is(struct machine *machine, uint64_t gpa, uint8_t value) {
    const uint8_t *bytes = fake_driver_at(&machine->driver, gpa);
    return bytes[0] == value && bytes[VMM_PAGE_SIZE - 1] == value;
}

static void fill(struct machine *machine) {
    memset(fake_driver_at(&machine->driver, PAGES_GPA), 0x77, FAKE_MEMORY_SIZE - PAGES_GPA);
}

static uint32_t config_read(struct machine *machine, uint64_t offset) {
    uint32_t value = UINT32_MAX;
    machine->balloon.device.ops->config_read(&machine->balloon.device, offset, &value, 4);
    return value;
}

static void test_inflating_gives_pages_back(void **state) {
    (void)state;
    struct machine machine;
    for (int shared = 0; shared < 2; shared++) {
        uint64_t dirty[PAGE_COUNT / 64] = {0};
        const uint32_t pfns[] = {PAGES_GPA >> 12, (PAGES_GPA >> 12) + 2, PAGE_COUNT - 1};
        machine_open(&machine, shared);
        fill(&machine);
        machine.driver.memory.dirty = dirty;
        send_pfns(&machine, VIRTIO_BALLOON_QUEUE_INFLATE, pfns, 3);
        assert_true(page_is(&machine, PAGES_GPA, 0));
        assert_true(page_is(&machine, PAGES_GPA + 0x1000, 0x77));
        assert_true(page_is(&machine, PAGES_GPA + 0x2000, 0));
        assert_true(page_is(&machine, FAKE_MEMORY_SIZE - VMM_PAGE_SIZE, 0));
        assert_int_equal(machine.balloon.dropped_pages, 3);
        assert_int_equal(dirty[1] & 7, 5); /* their bytes changed */
        assert_int_equal(dirty[3] >> 63, 1);
        fill(&machine);
        send_pfns(&machine, VIRTIO_BALLOON_QUEUE_DEFLATE, pfns, 3);
        assert_true(page_is(&machine, PAGES_GPA, 0x77));
        machine_close(&machine);
    }
}

static void test_pages_that_do_not_exist_are_ignored(void **state) {
    (void)state;
    struct machine machine;
    const uint32_t pfns[] = {PAGE_COUNT, UINT32_MAX, 0x80000000u,
                             0xd0000u,   0x100000u,  PAGES_GPA >> 12};
    machine_open(&machine, false);
    fill(&machine);
    send_pfns(&machine, VIRTIO_BALLOON_QUEUE_INFLATE, pfns, 6);
    assert_int_equal(machine.balloon.dropped_pages, 1);
    assert_true(page_is(&machine, PAGES_GPA, 0));
    assert_true(page_is(&machine, PAGES_GPA + 0x1000, 0x77));
    machine_close(&machine);
}

static void test_a_chain_and_a_burst_are_bounded(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false);
    uint32_t *list = fake_driver_at(&machine.driver, LIST_GPA);
    for (size_t i = 0; i < VIRTIO_BALLOON_CHAIN_PAGES_MAX + 100; i++) {
        list[i] = PAGES_GPA >> 12;
    }
    const struct fake_part part = {LIST_GPA, (VIRTIO_BALLOON_CHAIN_PAGES_MAX + 100) * 4, false};
    send(&machine, VIRTIO_BALLOON_QUEUE_INFLATE, &part, 1);
    assert_int_equal(machine.balloon.dropped_pages, VIRTIO_BALLOON_CHAIN_PAGES_MAX);
    const struct fake_part small = {LIST_GPA, 4, false};
    for (int i = 0; i < 40; i++) {
        fake_driver_add(&machine.driver, VIRTIO_BALLOON_QUEUE_DEFLATE, &small, 1);
    }
    fake_driver_kick(&machine.driver, VIRTIO_BALLOON_QUEUE_DEFLATE);
    assert_int_equal(fake_driver_used_count(&machine.driver, VIRTIO_BALLOON_QUEUE_DEFLATE),
                     VIRTIO_BALLOON_BURST_COUNT_MAX);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, VIRTIO_BALLOON_QUEUE_DEFLATE), 40);
    machine_close(&machine);
}

/* Whole pages of each range, on whichever queue the driver takes for reporting. */
static void test_reported_ranges_are_given_back(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part parts[] = {
        {LIST_GPA, 64, false},              /* nothing that a report has */
        {PAGES_GPA, 0x2000, true},          /* two pages */
        {PAGES_GPA + 0x3001, 0x2fff, true}, /* a page and a piece before it */
        {PAGES_GPA + 0x8000, 0x1fff, true}, /* a page and a piece behind it */
        {PAGES_GPA + 0xb800, 0x1000, true}, /* two halves: none */
        {PAGES_GPA + 0xe010, 16, true},     /* less */
        {FAKE_MEMORY_SIZE - 0x1000, 0x1000, true},
    };
    for (uint16_t i = VIRTIO_BALLOON_QUEUE_REPORTING; i < VIRTIO_BALLOON_QUEUE_COUNT; i++) {
        machine_open(&machine, i % 2 == 0);
        fill(&machine);
        send(&machine, i, parts, ARRAY_SIZE(parts));
        static const uint8_t dropped[16] = {[0] = 1, [1] = 1, [4] = 1, [5] = 1, [8] = 1};
        for (size_t j = 0; j < ARRAY_SIZE(dropped); j++) {
            assert_true(page_is(&machine, PAGES_GPA + j * VMM_PAGE_SIZE, dropped[j] ? 0 : 0x77));
        }
        assert_true(page_is(&machine, FAKE_MEMORY_SIZE - 0x1000, 0));
        assert_int_equal(machine.balloon.dropped_pages, 6);
        /* Not negotiated: it comes back, and that is all. */
        fake_driver_attach(&machine.driver, &machine.balloon.device, 0);
        send(&machine, i, parts, ARRAY_SIZE(parts));
        assert_int_equal(machine.balloon.dropped_pages, 6);
        machine_close(&machine);
    }
}

static void test_the_target_reaches_the_driver(void **state) {
    (void)state;
    struct machine machine;
    const uint8_t actual[] = {0x34, 0x12, 0, 0};
    machine_open(&machine, false);
    const struct virtio_ops *ops = machine.balloon.device.ops;
    uint32_t generation = machine.balloon.device.config_generation;
    assert_true(virtio_balloon_set_target(&machine.balloon, 100));
    assert_int_equal(config_read(&machine, CONFIG_TARGET), 100);
    assert_int_equal(machine.driver.interrupts, 1);
    assert_int_equal(machine.balloon.device.interrupt_status, 2);
    assert_int_not_equal(machine.balloon.device.config_generation, generation);
    assert_true(virtio_balloon_set_target(&machine.balloon, 100));
    assert_int_equal(machine.driver.interrupts, 1);
    assert_false(virtio_balloon_set_target(&machine.balloon, PAGE_COUNT + 1));
    assert_false(virtio_balloon_set_target(&machine.balloon, UINT64_MAX));
    assert_int_equal(config_read(&machine, CONFIG_TARGET), 100);
    assert_true(virtio_balloon_set_target(&machine.balloon, PAGE_COUNT));
    ops->config_write(&machine.balloon.device, CONFIG_ACTUAL, actual, 4);
    assert_int_equal(machine.balloon.actual, 0x1234);
    assert_int_equal(config_read(&machine, CONFIG_ACTUAL), 0x1234);
    ops->config_write(&machine.balloon.device, CONFIG_ACTUAL + 1, "\x56", 1);
    assert_int_equal(machine.balloon.actual, 0x5634);
    /* A new driver holds nothing, and is told the target. */
    fake_driver_attach(&machine.driver, &machine.balloon.device, 0);
    assert_int_equal(config_read(&machine, CONFIG_ACTUAL), 0);
    assert_int_equal(config_read(&machine, CONFIG_TARGET), PAGE_COUNT);
    machine_close(&machine);
}

/* Writes that begin before `actual`, end behind it, or are far off. */
static void hazard_a3_config_space_ends(void **state) {
    (void)state;
    struct machine machine;
    static const uint64_t offsets[] = {8, 12, 15, 16, 17, 0x100, UINT64_MAX - 7};
    static const uint8_t zeroes[8];
    machine_open(&machine, false);
    const struct virtio_ops *ops = machine.balloon.device.ops;
    struct virtio_device *device = &machine.balloon.device;
    assert_true(virtio_balloon_set_target(&machine.balloon, 7));
    uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        uint8_t found[8] = {9, 9, 9, 9, 9, 9, 9, 9};
        ops->config_write(device, offsets[i], bytes, 8);
        assert_int_equal(machine.balloon.actual, 0);
        ops->config_read(device, offsets[i], found, 8);
        assert_memory_equal(found, zeroes, 8);
    }
    ops->config_write(device, 0, bytes, 8);
    assert_int_equal(machine.balloon.actual, 0x08070605);
    ops->config_write(device, 6, bytes, 8);
    assert_int_equal(machine.balloon.actual, 0x02010605);
    ops->config_write(device, UINT64_MAX, bytes, 8); /* its last bytes are not those at 4 … 6 */
    assert_int_equal(machine.balloon.actual, 0x02010605);
    assert_int_equal(machine.balloon.target, 7);
    machine_close(&machine);
}

static void hazard_a7_every_chain_comes_back_once(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false);
    const struct fake_part kinds[] = {
        {LIST_GPA, 1, false}, {LIST_GPA, 3, false}, {LIST_GPA, 5, false}, {LIST_GPA, 64, true}};
    for (uint16_t queue = 0; queue < VIRTIO_BALLOON_QUEUE_COUNT; queue++) {
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
            send(&machine, queue, &kinds[i], 1);
        }
    }
    assert_int_equal(machine.balloon.dropped_pages, 1); /* page 0, of the 5 bytes */
    machine_close(&machine);
}

/* The list is in the page that the first number drops: the numbers behind it are the ones that were there. */
static void hazard_a11_the_list_is_read_once(void **state) {
    (void)state;
    struct machine machine;
    const uint32_t pfns[] = {LIST_GPA >> 12, (PAGES_GPA >> 12) + 1, (PAGES_GPA >> 12) + 2};
    machine_open(&machine, false);
    fill(&machine);
    send_pfns(&machine, VIRTIO_BALLOON_QUEUE_INFLATE, pfns, 3);
    assert_true(page_is(&machine, LIST_GPA, 0));
    assert_true(page_is(&machine, PAGES_GPA + 0x1000, 0));
    assert_true(page_is(&machine, PAGES_GPA + 0x2000, 0));
    machine_close(&machine);
}

static void hazard_b1_saved_state_is_checked(void **state) {
    (void)state;
    struct machine machine;
    uint8_t buffer[FAKE_STATE_SIZE_MAX];
    machine_open(&machine, false);
    static const struct {
        uint32_t target;
        uint32_t actual;
        size_t size;
        enum kelpie_status status;
    } cases[] = {
        {PAGE_COUNT + 1, 0, 8, KELPIE_SNAPSHOT_CORRUPT},
        {UINT32_MAX, 0, 8, KELPIE_SNAPSHOT_CORRUPT},
        {1, 0, 7, KELPIE_SNAPSHOT_CORRUPT},
        {1, 0, 0, KELPIE_SNAPSHOT_CORRUPT},
        {PAGE_COUNT, UINT32_MAX, 8, KELPIE_OK},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t size = fake_driver_forge(BALLOON_TAG, &cases[i], cases[i].size, buffer);
        assert_int_equal(machine.balloon.target, 0);
        assert_int_equal(fake_driver_load(&machine.balloon.device, buffer, size), cases[i].status);
    }
    assert_int_equal(machine.balloon.target, PAGE_COUNT);
    assert_int_equal(machine.balloon.actual, UINT32_MAX);
    machine_close(&machine);
}

static void hazard_c9_save_load_save(void **state) {
    (void)state;
    struct machine machine;
    struct machine other;
    uint8_t first[FAKE_STATE_SIZE_MAX];
    uint8_t second[FAKE_STATE_SIZE_MAX];
    const struct fake_part part = {LIST_GPA, 4, false};
    machine_open(&machine, false);
    machine_open(&other, false);
    assert_true(virtio_balloon_set_target(&machine.balloon, 17));
    machine.balloon.device.ops->config_write(&machine.balloon.device, CONFIG_ACTUAL, "\x09", 1);
    size_t size = fake_driver_save(&machine.balloon.device, first);
    fake_driver_add(&other.driver, VIRTIO_BALLOON_QUEUE_INFLATE, &part, 1);
    assert_int_equal(fake_driver_load(&other.balloon.device, first, size), KELPIE_OK);
    assert_int_equal(fake_driver_save(&other.balloon.device, second), size);
    assert_memory_equal(first, second, size);
    assert_true(fake_driver_turns(&other.driver));
    assert_int_equal(fake_driver_used_count(&other.driver, VIRTIO_BALLOON_QUEUE_INFLATE), 1);
    machine_close(&machine);
    machine_close(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inflating_gives_pages_back),
        cmocka_unit_test(test_pages_that_do_not_exist_are_ignored),
        cmocka_unit_test(test_a_chain_and_a_burst_are_bounded),
        cmocka_unit_test(test_reported_ranges_are_given_back),
        cmocka_unit_test(test_the_target_reaches_the_driver),
        cmocka_unit_test(hazard_a3_config_space_ends),
        cmocka_unit_test(hazard_a7_every_chain_comes_back_once),
        cmocka_unit_test(hazard_a11_the_list_is_read_once),
        cmocka_unit_test(hazard_b1_saved_state_is_checked),
        cmocka_unit_test(hazard_c9_save_load_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
