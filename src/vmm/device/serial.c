/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/serial.h"

#include <string.h>

#include "base/assert.h"

/* Registers. With DLAB set the first two are the divisor. */
#define REGISTER_DATA 0
#define REGISTER_INTERRUPT_ENABLE 1
#define REGISTER_INTERRUPT_IDENTITY 2 /* read */
#define REGISTER_FIFO_CONTROL 2       /* write */
#define REGISTER_LINE_CONTROL 3
#define REGISTER_MODEM_CONTROL 4
#define REGISTER_LINE_STATUS 5
#define REGISTER_MODEM_STATUS 6
#define REGISTER_SCRATCH 7

#define ENABLE_RECEIVED 0x01u
#define ENABLE_TRANSMITTER_EMPTY 0x02u
#define ENABLE_LINE_STATUS 0x04u
#define ENABLE_ALL 0x0fu

#define IDENTITY_NONE 0x01u
#define IDENTITY_TRANSMITTER_EMPTY 0x02u
#define IDENTITY_RECEIVED 0x04u
#define IDENTITY_LINE_STATUS 0x06u
#define IDENTITY_FIFO_ENABLED 0xc0u

#define FIFO_ENABLE 0x01u
#define FIFO_CLEAR_RECEIVER 0x02u

#define LINE_CONTROL_DLAB 0x80u

#define MODEM_DTR 0x01u
#define MODEM_RTS 0x02u
#define MODEM_OUT1 0x04u
#define MODEM_OUT2 0x08u
#define MODEM_LOOPBACK 0x10u
#define MODEM_ALL 0x1fu

#define STATUS_DATA_READY 0x01u
#define STATUS_OVERRUN 0x02u
#define STATUS_TRANSMITTER_EMPTY 0x60u /* the holding register, and the whole transmitter */

#define MODEM_STATUS_CTS 0x10u
#define MODEM_STATUS_DSR 0x20u
#define MODEM_STATUS_RI 0x40u
#define MODEM_STATUS_DCD 0x80u

#define DIVISOR_RESET 12u /* 9600 baud */

#define STATE_SERIAL STATE_TAG('S', 'E', 'R', 'L')
#define STATE_VERSION 1

void serial_init(struct serial *serial, struct device_irq irq, struct serial_line line) {
    ASSERT(serial);
    ASSERT(irq.trigger);
    ASSERT(line.output);
    *serial = (struct serial){.irq = irq, .line = line, .divisor = DIVISOR_RESET};
}

static bool is_loopback(const struct serial *serial) {
    ASSERT(serial);
    ASSERT((serial->modem_control & ~MODEM_ALL) == 0);
    return (serial->modem_control & MODEM_LOOPBACK) != 0;
}

/* The cause of highest priority that is enabled (data sheet, table IV). */
static uint8_t identity(const struct serial *serial) {
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    ASSERT((serial->interrupt_enable & ~ENABLE_ALL) == 0);
    if (serial->overrun && (serial->interrupt_enable & ENABLE_LINE_STATUS)) {
        return IDENTITY_LINE_STATUS;
    }
    if (serial->received_count > 0 && (serial->interrupt_enable & ENABLE_RECEIVED)) {
        return IDENTITY_RECEIVED;
    }
    if (serial->transmitter_empty && (serial->interrupt_enable & ENABLE_TRANSMITTER_EMPTY)) {
        return IDENTITY_TRANSMITTER_EMPTY;
    }
    return IDENTITY_NONE;
}

/* After something happened that may be a cause. */
static void raise(const struct serial *serial) {
    ASSERT(serial);
    ASSERT(serial->irq.trigger);
    if (identity(serial) != IDENTITY_NONE) {
        device_irq_trigger(&serial->irq);
    }
}

static size_t receive_room(const struct serial *serial) {
    ASSERT(serial);
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    return is_loopback(serial) ? 0 : (size_t)(SERIAL_FIFO_SIZE - serial->received_count);
}

/* After something happened that may have made room. The flag goes first: the callee may be refused again. */
static void offer_room(struct serial *serial) {
    ASSERT(serial);
    ASSERT(serial->line.output);
    if (serial->input_refused && receive_room(serial) > 0) {
        serial->input_refused = false;
        if (serial->line.input_ready) {
            serial->line.input_ready(serial->line.context);
        }
    }
}

size_t serial_receive(struct serial *serial, const uint8_t *data, size_t size) {
    ASSERT(serial);
    ASSERT(data || size == 0);
    size_t room = receive_room(serial);
    size_t taken = size < room ? size : room;
    if (taken > 0) {
        memcpy(serial->received + serial->received_count, data, taken);
        serial->received_count = (uint8_t)(serial->received_count + taken);
    }
    if (size > 0) {
        raise(serial); /* also when nothing was taken: an edge that the driver lost comes again */
    }
    serial->input_refused = taken < size;
    return taken;
}

static uint8_t read_data(struct serial *serial) {
    ASSERT(serial);
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    if (serial->received_count == 0) {
        return 0;
    }
    uint8_t byte = serial->received[0];
    serial->received_count--;
    memmove(serial->received, serial->received + 1, serial->received_count);
    if (serial->received_count > 0) {
        raise(serial);
    }
    offer_room(serial);
    return byte;
}

/* Reading which cause it is takes the transmitter's back, if it is that one. */
static uint8_t read_identity(struct serial *serial) {
    uint8_t value = identity(serial);
    ASSERT(value <= IDENTITY_LINE_STATUS);
    if (value == IDENTITY_TRANSMITTER_EMPTY) {
        serial->transmitter_empty = false;
    }
    ASSERT(value == IDENTITY_NONE || (value & IDENTITY_NONE) == 0);
    return (uint8_t)(value | (serial->fifo_enabled ? IDENTITY_FIFO_ENABLED : 0u));
}

static uint8_t read_line_status(struct serial *serial) {
    ASSERT(serial);
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    uint8_t value = STATUS_TRANSMITTER_EMPTY;
    value |= serial->received_count > 0 ? STATUS_DATA_READY : 0;
    value |= serial->overrun ? STATUS_OVERRUN : 0;
    serial->overrun = false;
    return value;
}

/* The other end is always there; in loopback, our own outputs are the inputs. */
static uint8_t read_modem_status(const struct serial *serial) {
    uint8_t control = serial->modem_control;
    uint8_t value = 0;
    ASSERT((control & ~MODEM_ALL) == 0);
    if (!is_loopback(serial)) {
        return MODEM_STATUS_CTS | MODEM_STATUS_DSR | MODEM_STATUS_DCD;
    }
    value |= (control & MODEM_RTS) ? MODEM_STATUS_CTS : 0;
    value |= (control & MODEM_DTR) ? MODEM_STATUS_DSR : 0;
    value |= (control & MODEM_OUT1) ? MODEM_STATUS_RI : 0;
    value |= (control & MODEM_OUT2) ? MODEM_STATUS_DCD : 0;
    ASSERT((value & 0x0f) == 0); /* no changes are reported */
    return value;
}

/* A driver that fills the FIFO gets one interrupt for it, not one for each byte. */
static void write_data(struct serial *serial, uint8_t byte) {
    ASSERT(serial);
    bool raised = identity(serial) != IDENTITY_NONE;
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    if (!is_loopback(serial)) {
        serial->line.output(serial->line.context, byte);
    } else if (serial->received_count < SERIAL_FIFO_SIZE) {
        serial->received[serial->received_count++] = byte;
    } else {
        serial->overrun = true;
    }
    serial->transmitter_empty = true;
    if (!raised) {
        raise(serial);
    }
}

static void write_interrupt_enable(struct serial *serial, uint8_t value) {
    ASSERT(serial);
    uint8_t enabled = (uint8_t)(value & ENABLE_ALL & ~serial->interrupt_enable);
    serial->interrupt_enable = value & ENABLE_ALL;
    ASSERT((enabled & ~serial->interrupt_enable) == 0);
    if (enabled & ENABLE_TRANSMITTER_EMPTY) {
        serial->transmitter_empty = true;
    }
    if (enabled != 0) {
        raise(serial);
    }
}

/* A change of the FIFO's mode clears it, too. The levels at which it interrupts are not kept: each byte does. */
static void write_fifo_control(struct serial *serial, uint8_t value) {
    bool enable = (value & FIFO_ENABLE) != 0;
    ASSERT(serial);
    if (enable != serial->fifo_enabled || (enable && (value & FIFO_CLEAR_RECEIVER))) {
        serial->received_count = 0;
    }
    serial->fifo_enabled = enable;
    offer_room(serial);
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
}

static void write_modem_control(struct serial *serial, uint8_t value) {
    ASSERT(serial);
    serial->modem_control = value & MODEM_ALL;
    offer_room(serial);
    ASSERT((serial->modem_control & ~MODEM_ALL) == 0);
}

static uint8_t read_register(struct serial *serial, uint64_t offset) {
    bool divisor = (serial->line_control & LINE_CONTROL_DLAB) != 0;
    ASSERT(offset < SERIAL_PORT_COUNT);
    switch (offset) {
    case REGISTER_DATA:
        return divisor ? (uint8_t)serial->divisor : read_data(serial);
    case REGISTER_INTERRUPT_ENABLE:
        return divisor ? (uint8_t)(serial->divisor >> 8) : serial->interrupt_enable;
    case REGISTER_INTERRUPT_IDENTITY:
        return read_identity(serial);
    case REGISTER_LINE_CONTROL:
        return serial->line_control;
    case REGISTER_MODEM_CONTROL:
        return serial->modem_control;
    case REGISTER_LINE_STATUS:
        return read_line_status(serial);
    case REGISTER_MODEM_STATUS:
        return read_modem_status(serial);
    case REGISTER_SCRATCH:
        return serial->scratch;
    default:
        UNREACHABLE();
    }
}

static void write_register(struct serial *serial, uint64_t offset, uint8_t value) {
    bool divisor = (serial->line_control & LINE_CONTROL_DLAB) != 0;
    ASSERT(offset < SERIAL_PORT_COUNT);
    switch (offset) {
    case REGISTER_DATA:
        if (divisor) {
            serial->divisor = (uint16_t)((serial->divisor & 0xff00u) | value);
        } else {
            write_data(serial, value);
        }
        break;
    case REGISTER_INTERRUPT_ENABLE:
        if (divisor) {
            serial->divisor = (uint16_t)((serial->divisor & 0xffu) | (unsigned)value << 8);
        } else {
            write_interrupt_enable(serial, value);
        }
        break;
    case REGISTER_FIFO_CONTROL:
        write_fifo_control(serial, value);
        break;
    case REGISTER_LINE_CONTROL:
        serial->line_control = value;
        break;
    case REGISTER_MODEM_CONTROL:
        write_modem_control(serial, value);
        break;
    case REGISTER_SCRATCH:
        serial->scratch = value;
        break;
    default: /* the status registers */
        break;
    }
}

static void serial_read(void *device, uint64_t offset, void *data, uint32_t size) {
    struct serial *serial = device;
    ASSERT(serial && data);
    ASSERT(offset < SERIAL_PORT_COUNT && size <= SERIAL_PORT_COUNT - offset);
    memset(data, 0, size);
    if (size == 1) {
        *(uint8_t *)data = read_register(serial, offset);
    }
}

static void serial_write(void *device, uint64_t offset, const void *data, uint32_t size) {
    struct serial *serial = device;
    ASSERT(serial && data);
    ASSERT(offset < SERIAL_PORT_COUNT && size <= SERIAL_PORT_COUNT - offset);
    if (size == 1) {
        write_register(serial, offset, *(const uint8_t *)data);
    }
}

const struct device_ops serial_ops = {
    .name = "serial",
    .read = serial_read,
    .write = serial_write,
};

/* interrupt_enable u8, line_control u8, modem_control u8, scratch u8, divisor u16, fifo_enabled u8,
 * transmitter_empty u8, overrun u8, received_count u8, received u8[received_count] */
void serial_save(const struct serial *serial, struct state_writer *state, uint16_t instance) {
    ASSERT(serial);
    ASSERT(serial->received_count <= SERIAL_FIFO_SIZE);
    struct cursor_writer *writer = state_begin(state, STATE_SERIAL, STATE_VERSION, instance);
    cursor_write_u8(writer, serial->interrupt_enable);
    cursor_write_u8(writer, serial->line_control);
    cursor_write_u8(writer, serial->modem_control);
    cursor_write_u8(writer, serial->scratch);
    cursor_write_u16(writer, serial->divisor);
    cursor_write_u8(writer, serial->fifo_enabled);
    cursor_write_u8(writer, serial->transmitter_empty);
    cursor_write_u8(writer, serial->overrun);
    cursor_write_u8(writer, serial->received_count);
    cursor_write_bytes(writer, serial->received, serial->received_count);
    state_end(state);
}

static bool read_flag(struct cursor_reader *reader, bool *valid) {
    ASSERT(reader);
    ASSERT(valid);
    uint8_t value = cursor_read_u8(reader);
    *valid = *valid && value <= 1;
    return value == 1;
}

enum kelpie_status serial_load(struct serial *serial, struct state_reader *state, uint16_t instance,
                               struct kelpie_error *err) {
    struct cursor_reader reader;
    struct serial loaded = *serial;
    bool valid = true;
    ASSERT(serial->irq.trigger);
    ASSERT(serial->line.output);
    TRY(state_find(state, STATE_SERIAL, STATE_VERSION, instance, &reader, err));
    loaded.interrupt_enable = cursor_read_u8(&reader);
    loaded.line_control = cursor_read_u8(&reader);
    loaded.modem_control = cursor_read_u8(&reader);
    loaded.scratch = cursor_read_u8(&reader);
    loaded.divisor = cursor_read_u16(&reader);
    loaded.fifo_enabled = read_flag(&reader, &valid);
    loaded.transmitter_empty = read_flag(&reader, &valid);
    loaded.overrun = read_flag(&reader, &valid);
    loaded.received_count = cursor_read_u8(&reader);
    valid = valid && loaded.received_count <= SERIAL_FIFO_SIZE &&
            (loaded.interrupt_enable & ~ENABLE_ALL) == 0 &&
            (loaded.modem_control & ~MODEM_ALL) == 0;
    size_t count = valid ? loaded.received_count : 0;
    const uint8_t *received = cursor_read_bytes(&reader, count);
    TRY(state_check(&reader, valid, "serial", err));
    if (count > 0) {
        ASSERT(received); /* or state_check() had refused it */
        memcpy(loaded.received, received, count);
    }
    loaded.input_refused = true;
    *serial = loaded;
    return KELPIE_OK;
}
