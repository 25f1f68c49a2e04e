/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The serial port: a 16550A (National Semiconductor PC16550D data sheet, sections 8.1 to 8.9), at eight ports.
 *
 * THEORY OF OPERATION
 *
 * Output: each byte goes to the sink in the write that carried it. The port keeps none, so that nothing grows with
 * what a guest says (hazard A13), and its transmitter is always empty: the interrupt for that comes with
 * each byte. What the sink does with a byte that nobody takes is the sink's affair; it must not wait.
 *
 * Input: bytes wait in the receiver's FIFO of 16, and no more are taken: serial_receive() says how many went in,
 * and the caller keeps the rest. When there is room again after it took less than it was offered, it calls
 * input_ready, once: the caller offers the rest then. Whatever makes room does this (a read, a FIFO that is cleared, the
 * end of a loopback), so that input never stalls for ever (CVE-2020-16843).
 *
 * The interrupt line is edge-triggered: it is triggered whenever a cause comes up that is enabled, and again when the
 * driver read a byte and others wait, for it may look at one byte in each interrupt; and when input is offered
 * while there is no room, for it may have lost the edge before.
 *
 * Loopback (MCR bit 4) leads what is sent to the receiver; the sink gets nothing, and no input is taken.
 *
 * Only accesses of one byte do anything.
 */
#ifndef KELPIE_VMM_DEVICE_SERIAL_H
#define KELPIE_VMM_DEVICE_SERIAL_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/device/device.h"
#include "vmm/state/state.h"

#define SERIAL_PORT_COUNT 8
#define SERIAL_FIFO_SIZE 16

/* The other end of the line. Called with the machine's lock held. */
struct serial_line {
    void (*output)(void *context, uint8_t byte);
    void (*input_ready)(void *context); /* may call serial_receive(); may be NULL */
    void *context;
};

struct serial {
    struct device_irq irq;
    struct serial_line line;
    uint8_t interrupt_enable;
    uint8_t line_control;
    uint8_t modem_control;
    uint8_t scratch;
    uint16_t divisor;
    bool fifo_enabled;
    bool transmitter_empty; /* the interrupt's cause; the transmitter itself always is */
    bool overrun;           /* a byte was lost, in loopback */
    bool input_refused;     /* serial_receive() took less than it was offered */
    uint8_t received[SERIAL_FIFO_SIZE];
    uint8_t received_count;
};

extern const struct device_ops serial_ops; /* its device is a struct serial */

void serial_init(struct serial *serial, struct device_irq irq, struct serial_line line);

/* Input. Returns how many bytes were taken; input_ready comes when that were not all. */
size_t serial_receive(struct serial *serial, const uint8_t *data, size_t size);

/* Section 'SERL'. A load triggers no interrupt (one that is pending is in the interrupt controller's state), and
 * takes the line as one that was refused: input_ready comes with the first room, or call serial_receive() at once. */
void serial_save(const struct serial *serial, struct state_writer *state, uint16_t instance);
KELPIE_CHECKED enum kelpie_status serial_load(struct serial *serial, struct state_reader *state,
                                              uint16_t instance, struct kelpie_error *err);

#endif
