/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/serial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define DATA 0
#define IER 1
#define IIR 2
#define FCR 2
#define LCR 3
#define MCR 4
#define LSR 5
#define MSR 6
#define SCR 7

#define STATE_SIZE 512
#define OUTPUT_MAX 64

struct world {
    struct serial serial;
    unsigned interrupts;
    uint64_t output_count;
    uint8_t output[OUTPUT_MAX]; /* the first of it */
    unsigned ready_count;
    uint8_t waiting[64]; /* what input_ready offers */
    size_t waiting_size;
};

static void on_interrupt(void *context) {
    ((struct world *)context)->interrupts++;
}

static void on_output(void *context, uint8_t byte) {
    struct world *world = context;
    if (world->output_count < OUTPUT_MAX) {
        world->output[world->output_count] = byte;
    }
    world->output_count++;
}

static void on_ready(void *context) {
    struct world *world = context;
    world->ready_count++;
    if (world->waiting_size > 0) {
        size_t taken = serial_receive(&world->serial, world->waiting, world->waiting_size);
        world->waiting_size -= taken;
        memmove(world->waiting, world->waiting + taken, world->waiting_size);
    }
}

static void world_init(struct world *world) {
    *world = (struct world){.interrupts = 0};
    serial_init(&world->serial, (struct device_irq){on_interrupt, world},
                (struct serial_line){on_output, on_ready, world});
}

static uint8_t in(struct world *world, uint64_t offset) {
    uint8_t value = 0xa5;
    serial_ops.read(&world->serial, offset, &value, 1);
    return value;
}

static void out(struct world *world, uint64_t offset, uint8_t value) {
    serial_ops.write(&world->serial, offset, &value, 1);
}

static void registers_keep_what_they_can_hold(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    for (unsigned value = 0; value < 256; value++) {
        out(&world, IER, (uint8_t)value);
        assert_int_equal(in(&world, IER), value & 0x0f);
        out(&world, MCR, (uint8_t)value);
        assert_int_equal(in(&world, MCR), value & 0x1f);
        out(&world, SCR, (uint8_t)value);
        assert_int_equal(in(&world, SCR), value);
        out(&world, LSR, (uint8_t)value);
        out(&world, MSR, (uint8_t)value);
        assert_int_equal(in(&world, LSR) & 0x60, 0x60);
    }
    out(&world, MCR, 0);
    assert_int_equal(in(&world, MSR), 0xb0);
    out(&world, LCR, 0x83);
    out(&world, DATA, 0x34);
    out(&world, IER, 0x12);
    assert_int_equal(in(&world, DATA), 0x34);
    assert_int_equal(in(&world, IER), 0x12);
    assert_int_equal(in(&world, LCR), 0x83);
    out(&world, LCR, 0x03);
    assert_int_equal(in(&world, IER), 0x0f); /* not what went to the divisor */
    assert_int_equal(world.output_count, 0);
}

static void only_bytes_are_answered(void **state) {
    (void)state;
    struct world world;
    uint32_t value = 0xffffffff;
    world_init(&world);
    serial_ops.write(&world.serial, DATA, &value, 4);
    assert_int_equal(world.output_count, 0);
    serial_ops.read(&world.serial, LSR - 1, &value, 4);
    assert_int_equal(value, 0);
}

static void output_goes_straight_to_the_sink(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    for (const char *at = "hello"; *at; at++) {
        assert_int_equal(in(&world, LSR), 0x60);
        out(&world, DATA, (uint8_t)*at);
    }
    assert_int_equal(world.output_count, 5);
    assert_memory_equal(world.output, "hello", 5);
    assert_int_equal(world.interrupts, 0); /* none was enabled */
}

static void the_transmitter_interrupts_for_what_was_written(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    out(&world, FCR, 0x01);
    assert_int_equal(in(&world, IIR), 0xc1);
    out(&world, IER, 0x02); /* it is empty: at once */
    assert_int_equal(world.interrupts, 1);
    assert_int_equal(in(&world, IIR), 0xc2);
    assert_int_equal(in(&world, IIR), 0xc1); /* reading it took it back */
    for (unsigned i = 0; i < 16; i++) {
        out(&world, DATA, 'x');
    }
    assert_int_equal(world.interrupts, 2); /* one for the burst */
    assert_int_equal(in(&world, IIR), 0xc2);
    out(&world, DATA, 'x');
    assert_int_equal(world.interrupts, 3);
    out(&world, IER, 0);
    assert_int_equal(in(&world, IIR), 0xc1);
}

static void input_is_read_in_order_with_interrupts(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    out(&world, IER, 0x01);
    assert_int_equal(serial_receive(&world.serial, (const uint8_t *)"abc", 3), 3);
    assert_int_equal(world.interrupts, 1);
    assert_int_equal(in(&world, IIR), 0x04);
    assert_int_equal(in(&world, LSR), 0x61);
    assert_int_equal(in(&world, DATA), 'a');
    assert_int_equal(world.interrupts, 2); /* for a driver that takes one byte at a time */
    assert_int_equal(in(&world, DATA), 'b');
    assert_int_equal(in(&world, DATA), 'c');
    assert_int_equal(world.interrupts, 3);
    assert_int_equal(in(&world, LSR), 0x60);
    assert_int_equal(in(&world, IIR), 0x01);
    assert_int_equal(in(&world, DATA), 0);
    assert_int_equal(world.ready_count, 0); /* everything was taken */
}

static void enabling_an_interrupt_tells_of_what_waits(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    assert_int_equal(serial_receive(&world.serial, (const uint8_t *)"a", 1), 1);
    assert_int_equal(world.interrupts, 0);
    out(&world, IER, 0x01);
    assert_int_equal(world.interrupts, 1);
}

static void hazard_a13_output_is_never_kept(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    out(&world, IER, 0x0f);
    struct serial before = world.serial;
    for (uint32_t i = 0; i < 1000000; i++) {
        out(&world, DATA, (uint8_t)i);
    }
    assert_int_equal(world.output_count, 1000000);
    assert_int_equal(world.interrupts, 1);
    assert_memory_equal(&before, &world.serial, sizeof(before)); /* not a byte of it stays */
}

static void hazard_a13_receive_goes_on_after_a_full_fifo(void **state) {
    (void)state;
    struct world world;
    uint8_t text[48];
    world_init(&world);
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (uint8_t)('A' + i);
    }
    out(&world, IER, 0x01);
    size_t taken = serial_receive(&world.serial, text, sizeof(text));
    assert_int_equal(taken, SERIAL_FIFO_SIZE);
    unsigned interrupts = world.interrupts;
    assert_int_equal(serial_receive(&world.serial, text + taken, 1), 0);
    assert_int_equal(world.interrupts, interrupts + 1); /* an edge that was lost comes again */
    world.waiting_size = sizeof(text) - taken;
    memcpy(world.waiting, text + taken, world.waiting_size);
    for (size_t i = 0; i < sizeof(text); i++) {
        assert_int_equal(in(&world, LSR) & 0x01, 0x01);
        assert_int_equal(in(&world, DATA), text[i]);
    }
    assert_int_equal(in(&world, LSR), 0x60); /* nothing was lost, nothing came twice */
    assert_int_equal(world.waiting_size, 0);
    assert_int_equal(world.ready_count, sizeof(text) - SERIAL_FIFO_SIZE);
}

/* Each other way in which a full FIFO gets room. */
static void hazard_a13_whatever_makes_room_asks_for_input(void **state) {
    (void)state;
    struct world world;
    uint8_t text[SERIAL_FIFO_SIZE + 1] = {0};
    world_init(&world);
    out(&world, FCR, 0x01);
    assert_int_equal(serial_receive(&world.serial, text, sizeof(text)), SERIAL_FIFO_SIZE);
    out(&world, FCR, 0x03); /* cleared */
    assert_int_equal(world.ready_count, 1);
    assert_int_equal(serial_receive(&world.serial, text, sizeof(text)), SERIAL_FIFO_SIZE);
    out(&world, FCR, 0x00); /* another mode */
    assert_int_equal(world.ready_count, 2);
    out(&world, MCR, 0x10);
    assert_int_equal(serial_receive(&world.serial, text, 1), 0); /* a loopback has no other end */
    assert_int_equal(world.ready_count, 2);
    out(&world, MCR, 0x00);
    assert_int_equal(world.ready_count, 3);
    assert_int_equal(serial_receive(&world.serial, text, 1), 1);
}

static void loopback_leads_output_and_modem_lines_back(void **state) {
    (void)state;
    struct world world;
    world_init(&world);
    out(&world, MCR, 0x1a); /* RTS, OUT2 */
    assert_int_equal(in(&world, MSR), 0x90);
    out(&world, MCR, 0x15); /* DTR, OUT1 */
    assert_int_equal(in(&world, MSR), 0x60);
    for (unsigned i = 0; i < SERIAL_FIFO_SIZE; i++) {
        out(&world, DATA, (uint8_t)i);
    }
    assert_int_equal(in(&world, LSR), 0x61);
    out(&world, IER, 0x04);
    out(&world, DATA, 0xff); /* one too many */
    assert_int_equal(in(&world, IIR), 0x06);
    assert_int_equal(in(&world, LSR), 0x63);
    assert_int_equal(in(&world, LSR), 0x61);
    for (unsigned i = 0; i < SERIAL_FIFO_SIZE; i++) {
        assert_int_equal(in(&world, DATA), i);
    }
    assert_int_equal(in(&world, LSR), 0x60);
    assert_int_equal(world.output_count, 0);
}

static size_t save(const struct world *world, uint8_t *bytes) {
    struct state_writer writer;
    size_t size = 0;
    state_writer_init(&writer, bytes, STATE_SIZE);
    serial_save(&world->serial, &writer, 0);
    assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
    return size;
}

static enum kelpie_status load(struct world *world, const uint8_t *bytes, size_t size) {
    struct state_reader reader;
    assert_int_equal(state_reader_init(&reader, bytes, size, NULL), KELPIE_OK);
    enum kelpie_status status = serial_load(&world->serial, &reader, 0, NULL);
    return status == KELPIE_OK ? state_reader_finish(&reader, NULL) : status;
}

static void hazard_c9_save_load_save_is_identical(void **state) {
    (void)state;
    struct world world;
    struct world other;
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    world_init(&world);
    out(&world, LCR, 0x80);
    out(&world, DATA, 0x78);
    out(&world, IER, 0x56);
    out(&world, LCR, 0x1b);
    out(&world, FCR, 0x01);
    out(&world, IER, 0x07);
    out(&world, SCR, 0x99);
    out(&world, MCR, 0x10);
    for (unsigned i = 0; i < SERIAL_FIFO_SIZE + 1; i++) {
        out(&world, DATA, (uint8_t)(0xf0 + i));
    }
    assert_int_equal(in(&world, DATA), 0xf0);
    out(&world, MCR, 0x0b);
    size_t size = save(&world, first);
    world_init(&other);
    assert_int_equal(load(&other, first, size), KELPIE_OK);
    assert_int_equal(other.interrupts, 0);
    assert_int_equal(save(&other, second), size);
    assert_memory_equal(first, second, size);
    /* And the copy goes on where the first was. */
    assert_int_equal(in(&other, IIR), 0xc6);
    assert_int_equal(in(&other, LSR), 0x63);
    assert_int_equal(in(&other, DATA), 0xf1);
    assert_int_equal(in(&other, SCR), 0x99);
    assert_int_equal(in(&other, MCR), 0x0b);
    assert_int_equal(other.serial.divisor, 0x5678);
    assert_int_equal(other.ready_count, 1); /* the line is asked at the first room */
}

struct edit {
    size_t offset;
    uint8_t value;
};

static void hazard_b1_a_state_out_of_range_is_refused(void **state) {
    (void)state;
    const uint8_t good[] = {0x0f, 0xff, 0x1f, 0xff, 0xff, 0xff, 1, 1, 1, 2, 'a', 'b'};
    const struct edit edits[] = {{0, 0x10}, {2, 0x20}, {6, 2},  {7, 0xff}, {8, 2},
                                 {9, 1},    {9, 3},    {9, 17}, {9, 255}};
    for (size_t i = 0; i <= ARRAY_SIZE(edits) + sizeof(good); i++) {
        struct world world;
        struct state_writer writer;
        uint8_t payload[sizeof(good)];
        uint8_t bytes[STATE_SIZE];
        size_t payload_size = sizeof(good);
        size_t size = 0;
        memcpy(payload, good, sizeof(good));
        if (i < ARRAY_SIZE(edits)) {
            payload[edits[i].offset] = edits[i].value;
        } else {
            payload_size = i - ARRAY_SIZE(edits); /* each truncation, and at last the good one */
        }
        state_writer_init(&writer, bytes, sizeof(bytes));
        cursor_write_bytes(state_begin(&writer, STATE_TAG('S', 'E', 'R', 'L'), 1, 0), payload,
                           payload_size);
        state_end(&writer);
        assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
        world_init(&world);
        struct serial before = world.serial;
        bool is_good = i == ARRAY_SIZE(edits) + sizeof(good);
        assert_int_equal(load(&world, bytes, size), is_good ? KELPIE_OK : KELPIE_SNAPSHOT_CORRUPT);
        if (!is_good) {
            assert_memory_equal(&before, &world.serial, sizeof(before));
        }
    }
}

/* The bytes are all there: only the count is more than the FIFO has. */
static void hazard_b1_more_bytes_than_the_fifo_has_are_refused(void **state) {
    (void)state;
    for (uint8_t count = SERIAL_FIFO_SIZE; count <= SERIAL_FIFO_SIZE + 1; count++) {
        struct world world;
        struct state_writer writer;
        uint8_t payload[10 + SERIAL_FIFO_SIZE + 1] = {[9] = count};
        uint8_t bytes[STATE_SIZE];
        size_t size = 0;
        state_writer_init(&writer, bytes, sizeof(bytes));
        cursor_write_bytes(state_begin(&writer, STATE_TAG('S', 'E', 'R', 'L'), 1, 0), payload,
                           10u + count);
        state_end(&writer);
        assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_OK);
        world_init(&world);
        assert_int_equal(load(&world, bytes, size),
                         count <= SERIAL_FIFO_SIZE ? KELPIE_OK : KELPIE_SNAPSHOT_CORRUPT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_keep_what_they_can_hold),
        cmocka_unit_test(only_bytes_are_answered),
        cmocka_unit_test(output_goes_straight_to_the_sink),
        cmocka_unit_test(the_transmitter_interrupts_for_what_was_written),
        cmocka_unit_test(input_is_read_in_order_with_interrupts),
        cmocka_unit_test(enabling_an_interrupt_tells_of_what_waits),
        cmocka_unit_test(hazard_a13_output_is_never_kept),
        cmocka_unit_test(hazard_a13_receive_goes_on_after_a_full_fifo),
        cmocka_unit_test(hazard_a13_whatever_makes_room_asks_for_input),
        cmocka_unit_test(loopback_leads_output_and_modem_lines_back),
        cmocka_unit_test(hazard_c9_save_load_save_is_identical),
        cmocka_unit_test(hazard_b1_a_state_out_of_range_is_refused),
        cmocka_unit_test(hazard_b1_more_bytes_than_the_fifo_has_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
