/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How a guest ends: the ports that reboot it, power it off, or say that its kernel panicked.
 *
 *     VMM_RESET_PORT          the FADT's reset register: VMM_RESET_VALUE reboots
 *     VMM_SLEEP_CONTROL_PORT  the FADT's sleep control register (ACPI 6.4, section 4.8.3.7): SLP_EN with _S5's type
 *                             powers off
 *     VMM_SLEEP_STATUS_PORT   the FADT's sleep status register: never woken, reads as 0
 *     VMM_PANIC_PORT          pvpanic (QEMU, "PVPANIC DEVICE"): reads as the events that are known, bit 0: the kernel
 *                             panicked. It may reboot or halt later, or never
 *     VMM_CF9_PORT            reset control register: bit 2 rising reboots (Intel ICH data sheets, "RST_CNT")
 *     VMM_I8042_PORT          the keyboard controller's status and command: 0xfe pulses the reset line
 *
 * The first request counts: what comes later, until the machine has stopped its vCPUs, changes nothing. A
 * panic is no request to end, and is told beside it.
 */
#ifndef KELPIE_VMM_DEVICE_RESET_H
#define KELPIE_VMM_DEVICE_RESET_H

#include <stdbool.h>

#include "vmm/device/bus.h"
#include "vmm/state/state.h"

enum reset_kind {
    RESET_NONE,
    RESET_REBOOT,
    RESET_POWER_OFF,
};

struct reset {
    enum reset_kind kind;
    bool panicked;
    uint8_t cf9;
    void (*changed)(void *context); /* kind or panicked is set now */
    void *context;
};

/* changed: called within the guest's access, once for each of the two. */
void reset_init(struct reset *reset, void (*changed)(void *context), void *context);

/* Puts its ports on the port bus. */
void reset_attach(struct reset *reset, struct bus *ports);

/* Section 'RSET'. A machine that is about to end is not saved: asserted. */
void reset_save(const struct reset *reset, struct state_writer *state);
KELPIE_CHECKED enum kelpie_status reset_load(struct reset *reset, struct state_reader *state,
                                             struct kelpie_error *err);

#endif
