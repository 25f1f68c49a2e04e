/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The port bus with the serial port and the ports that end a machine, as a guest may use them. Two bytes are an operation and
 * its argument, further ones its values: an access of any size at any port, input for the serial port, a state that is saved,
 * perhaps changed in a byte, and loaded.
 *
 * What is checked besides what the sanitizers see: a read fills its size and no more, and gives ones where nothing is;
 * a byte is put out by a write to the transmitter alone; input that was refused is asked for again as soon as there is room, and
 * only then (hazard A13); a machine ends once and panics once; what was saved loads and is saved the same, and what was
 * changed is refused or saved the same (hazards B1, C9).
 */
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/device/reset.h"
#include "vmm/device/serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPERATION_COUNT_MAX 64
#define STATE_SIZE 256
#define FRAME_SIZE 24 /* before a section's payload: magic and its head */
#define END_SIZE 24
#define LINE_CONTROL_DIVISOR 0x80u
#define MODEM_CONTROL_LOOPBACK 0x10u

struct machine {
    struct bus ports;
    struct serial serial;
    struct reset reset;
    bool transmits; /* within a write to the transmitter */
    bool refused;   /* the serial port owes us a call */
    unsigned change_count;
};

static struct machine machine;
static struct machine twin;

static void trigger(void *context) {
    ASSERT(context);
}

static void output(void *context, uint8_t byte) {
    const struct machine *self = context;
    (void)byte;
    ASSERT(self->transmits);
}

static size_t room(const struct serial *serial) {
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    return (serial->modem_control & MODEM_CONTROL_LOOPBACK) != 0
               ? 0
               : (size_t)(SERIAL_FIFO_SIZE - serial->received_count);
}

static void input_ready(void *context) {
    struct machine *self = context;
    ASSERT(self->refused);
    ASSERT(room(&self->serial) > 0);
    self->refused = false;
}

static void changed(void *context) {
    struct machine *self = context;
    self->change_count++;
    ASSERT(self->change_count == (self->reset.kind != RESET_NONE) + (unsigned)self->reset.panicked);
}

static void power_on(struct machine *self) {
    memset(self, 0, sizeof(*self));
    bus_init(&self->ports);
    serial_init(&self->serial, (struct device_irq){trigger, self},
                (struct serial_line){output, input_ready, self});
    bus_add(&self->ports, VMM_SERIAL_PORT, SERIAL_PORT_COUNT, &serial_ops, &self->serial);
    reset_init(&self->reset, changed, self);
    reset_attach(&self->reset, &self->ports);
}

/* ---- Accesses --------------------------------------------------------------------------------- */

static bool is_a_port(uint64_t port, uint32_t size) {
    static const struct {
        uint64_t base;
        uint64_t size;
    } windows[] = {{VMM_SERIAL_PORT, SERIAL_PORT_COUNT},
                   {VMM_RESET_PORT, 3},
                   {VMM_PANIC_PORT, 1},
                   {VMM_CF9_PORT, 1},
                   {VMM_I8042_PORT, 1}};
    for (size_t i = 0; i < ARRAY_SIZE(windows); i++) {
        if (port >= windows[i].base && port + size <= windows[i].base + windows[i].size) {
            return true;
        }
    }
    return false;
}

static void do_read(uint64_t port, uint32_t size) {
    uint8_t data[9];
    memset(data, 0x5a, sizeof(data));
    bool found = bus_read(&machine.ports, port, data, size);
    ASSERT(data[size] == 0x5a);
    ASSERT(found == is_a_port(port, size));
    for (uint32_t i = 0; i < size && !found; i++) {
        ASSERT(data[i] == 0xff);
    }
}

static void do_write(uint64_t port, uint64_t value, uint32_t size) {
    const struct serial *serial = &machine.serial;
    uint8_t data[8];
    memcpy(data, &value, sizeof(data));
    machine.transmits = port == VMM_SERIAL_PORT && size == 1 &&
                        (serial->line_control & LINE_CONTROL_DIVISOR) == 0 &&
                        (serial->modem_control & MODEM_CONTROL_LOOPBACK) == 0;
    ASSERT(bus_write(&machine.ports, port, data, size) == is_a_port(port, size));
    machine.transmits = false;
}

static void do_receive(uint8_t first, size_t size) {
    uint8_t data[32];
    size_t expected = min_size(room(&machine.serial), size);
    memset(data, first, sizeof(data));
    size_t taken = serial_receive(&machine.serial, data, size);
    ASSERT(taken == expected);
    machine.refused = taken < size; /* the last offer counts */
}

/* ---- State ------------------------------------------------------------------------------------ */

static size_t save(struct machine *self, bool of_serial, uint8_t *buffer) {
    struct state_writer writer;
    size_t size = 0;
    state_writer_init(&writer, buffer, STATE_SIZE);
    if (of_serial) {
        serial_save(&self->serial, &writer, 0);
    } else {
        reset_save(&self->reset, &writer);
    }
    enum kelpie_status status = state_writer_finish(&writer, &size, NULL);
    ASSERT(status == KELPIE_OK);
    return size;
}

/* A section with this payload, right in all but that. */
static bool load(struct machine *self, bool of_serial, const uint8_t *payload, size_t size) {
    static struct state_reader reader;
    struct state_writer writer;
    uint8_t buffer[STATE_SIZE];
    size_t total = 0;
    state_writer_init(&writer, buffer, sizeof(buffer));
    uint32_t tag = of_serial ? STATE_TAG('S', 'E', 'R', 'L') : STATE_TAG('R', 'S', 'E', 'T');
    cursor_write_bytes(state_begin(&writer, tag, 1, 0), payload, size);
    state_end(&writer);
    enum kelpie_status status = state_writer_finish(&writer, &total, NULL);
    ASSERT(status == KELPIE_OK);
    status = state_reader_init(&reader, buffer, total, NULL);
    ASSERT(status == KELPIE_OK);
    power_on(self);
    return (of_serial ? serial_load(&self->serial, &reader, 0, NULL)
                      : reset_load(&self->reset, &reader, NULL)) == KELPIE_OK;
}

static void do_state(bool of_serial, uint8_t place, uint8_t change) {
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    if (!of_serial && machine.reset.kind != RESET_NONE) {
        return; /* it is about to end */
    }
    size_t size = save(&machine, of_serial, first);
    ASSERT(size > FRAME_SIZE + END_SIZE);
    size_t payload = size - FRAME_SIZE - END_SIZE;
    first[FRAME_SIZE + place % payload] ^= change;
    bool loaded = load(&twin, of_serial, first + FRAME_SIZE, payload);
    ASSERT(loaded || change != 0);
    if (loaded) {
        ASSERT(save(&twin, of_serial, second) == size);
        ASSERT(memcmp(first + FRAME_SIZE, second + FRAME_SIZE, payload) == 0);
    }
}

/* ---- Operations ------------------------------------------------------------------------------- */

static void operate(uint8_t operation, uint8_t argument, struct cursor_reader *reader) {
    static const uint16_t others[] = {VMM_RESET_PORT, VMM_SLEEP_CONTROL_PORT, VMM_SLEEP_STATUS_PORT,
                                      VMM_PANIC_PORT, VMM_CF9_PORT,           VMM_I8042_PORT};
    switch (operation % 8) {
    case 0:
    case 1:
        do_write(VMM_SERIAL_PORT + argument % SERIAL_PORT_COUNT, cursor_read_u8(reader), 1);
        break;
    case 2:
        do_read(VMM_SERIAL_PORT + argument % SERIAL_PORT_COUNT, 1);
        break;
    case 3:
        do_write(others[argument % ARRAY_SIZE(others)], cursor_read_u8(reader), 1);
        break;
    case 4:
        do_read(others[argument % ARRAY_SIZE(others)], 1);
        break;
    case 5:
        do_receive(cursor_read_u8(reader), argument % 32);
        break;
    case 6:
        do_state(argument % 2 == 0, argument / 2, cursor_read_u8(reader));
        break;
    default:
        if (argument % 2 == 0) {
            do_read(cursor_read_u16(reader), 1u << argument / 2 % 4);
        } else {
            do_write(cursor_read_u16(reader), cursor_read_u32(reader), 1u << argument / 2 % 4);
        }
        break;
    }
    /* What was refused is not forgotten, and is not owed any longer once there is room. */
    ASSERT(!machine.refused || room(&machine.serial) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct cursor_reader reader = cursor_reader_init(data, size);
    power_on(&machine);
    for (int i = 0; i < OPERATION_COUNT_MAX && cursor_reader_left(&reader) >= 2; i++) {
        uint8_t operation = cursor_read_u8(&reader);
        uint8_t argument = cursor_read_u8(&reader);
        operate(operation, argument, &reader);
    }
    return 0;
}
