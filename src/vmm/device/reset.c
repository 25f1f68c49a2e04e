/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/reset.h"

#include <string.h>

#include "base/assert.h"

#define ACPI_PORT_COUNT 3
#define ACPI_RESET (VMM_RESET_PORT - VMM_RESET_PORT)
#define ACPI_SLEEP_CONTROL (VMM_SLEEP_CONTROL_PORT - VMM_RESET_PORT)

#define SLEEP_ENABLE 0x20u
#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE_MASK 0x07u

#define PANIC_PANICKED 0x01u
#define PANIC_CRASH_LOADED 0x02u /* it panicked, and goes on to a crash kernel */

#define CF9_RESET 0x04u
#define CF9_ALL 0x0eu /* system reset, reset, full reset */

#define I8042_PULSE_RESET 0xfe

#define STATE_RESET STATE_TAG('R', 'S', 'E', 'T')
#define STATE_VERSION 1

static_assert(VMM_SLEEP_STATUS_PORT == VMM_RESET_PORT + ACPI_PORT_COUNT - 1, "three in a row");

void reset_init(struct reset *reset, void (*changed)(void *context), void *context) {
    ASSERT(reset);
    ASSERT(changed);
    *reset = (struct reset){.changed = changed, .context = context};
}

static void request(struct reset *reset, enum reset_kind kind) {
    ASSERT(kind != RESET_NONE);
    ASSERT(reset->changed);
    if (reset->kind == RESET_NONE) {
        reset->kind = kind;
        reset->changed(reset->context);
    }
}

static void read_zeros(void *device, uint64_t offset, void *data, uint32_t size) {
    (void)offset;
    ASSERT(device);
    ASSERT(data);
    memset(data, 0, size);
}

static void acpi_write(void *device, uint64_t offset, const void *data, uint32_t size) {
    ASSERT(device && data);
    ASSERT(offset < ACPI_PORT_COUNT && size <= ACPI_PORT_COUNT - offset);
    uint8_t value = *(const uint8_t *)data;
    if (size != 1) {
        return;
    }
    if (offset == ACPI_RESET && value == VMM_RESET_VALUE) {
        request(device, RESET_REBOOT);
    }
    if (offset == ACPI_SLEEP_CONTROL && (value & SLEEP_ENABLE) &&
        (value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == VMM_SLEEP_TYPE_OFF) {
        request(device, RESET_POWER_OFF);
    }
}

static void panic_read(void *device, uint64_t offset, void *data, uint32_t size) {
    ASSERT(device && data);
    ASSERT(offset == 0 && size == 1);
    *(uint8_t *)data = PANIC_PANICKED | PANIC_CRASH_LOADED;
}

static void panic_write(void *device, uint64_t offset, const void *data, uint32_t size) {
    struct reset *reset = device;
    ASSERT(reset && data);
    ASSERT(offset == 0 && size == 1);
    uint8_t events = *(const uint8_t *)data;
    if (!reset->panicked && (events & (PANIC_PANICKED | PANIC_CRASH_LOADED))) {
        reset->panicked = true;
        reset->changed(reset->context);
    }
}

static void cf9_read(void *device, uint64_t offset, void *data, uint32_t size) {
    const struct reset *reset = device;
    ASSERT(reset && data);
    ASSERT(offset == 0 && size == 1);
    *(uint8_t *)data = reset->cf9;
}

static void cf9_write(void *device, uint64_t offset, const void *data, uint32_t size) {
    struct reset *reset = device;
    ASSERT(reset && data);
    ASSERT(offset == 0 && size == 1);
    uint8_t before = reset->cf9;
    reset->cf9 = *(const uint8_t *)data & CF9_ALL;
    if (!(before & CF9_RESET) && (reset->cf9 & CF9_RESET)) {
        request(reset, RESET_REBOOT);
    }
}

/* Its status reads as 0: nothing to fetch, and ready for a command. */
static void i8042_write(void *device, uint64_t offset, const void *data, uint32_t size) {
    ASSERT(device && data);
    ASSERT(offset == 0 && size == 1);
    if (*(const uint8_t *)data == I8042_PULSE_RESET) {
        request(device, RESET_REBOOT);
    }
}

static const struct device_ops acpi_ops = {"reset", read_zeros, acpi_write};
static const struct device_ops panic_ops = {"pvpanic", panic_read, panic_write};
static const struct device_ops cf9_ops = {"cf9", cf9_read, cf9_write};
static const struct device_ops i8042_ops = {"i8042", read_zeros, i8042_write};

void reset_attach(struct reset *reset, struct bus *ports) {
    ASSERT(reset);
    ASSERT(ports);
    bus_add(ports, VMM_RESET_PORT, ACPI_PORT_COUNT, &acpi_ops, reset);
    bus_add(ports, VMM_PANIC_PORT, 1, &panic_ops, reset);
    bus_add(ports, VMM_CF9_PORT, 1, &cf9_ops, reset);
    bus_add(ports, VMM_I8042_PORT, 1, &i8042_ops, reset);
}

/* panicked u8, cf9 u8 */
void reset_save(const struct reset *reset, struct state_writer *state) {
    ASSERT(reset->kind == RESET_NONE);
    ASSERT((reset->cf9 & ~CF9_ALL) == 0);
    struct cursor_writer *writer = state_begin(state, STATE_RESET, STATE_VERSION, 0);
    cursor_write_u8(writer, reset->panicked);
    cursor_write_u8(writer, reset->cf9);
    state_end(state);
}

enum kelpie_status reset_load(struct reset *reset, struct state_reader *state,
                              struct kelpie_error *err) {
    struct cursor_reader reader;
    ASSERT(reset->changed);
    ASSERT(state);
    TRY(state_find(state, STATE_RESET, STATE_VERSION, 0, &reader, err));
    uint8_t panicked = cursor_read_u8(&reader);
    uint8_t cf9 = cursor_read_u8(&reader);
    /* With CF9_RESET set the machine had ended. */
    TRY(state_check(&reader, panicked <= 1 && (cf9 & ~(CF9_ALL & ~CF9_RESET)) == 0, "reset", err));
    reset->kind = RESET_NONE;
    reset->panicked = panicked == 1;
    reset->cf9 = cf9;
    return KELPIE_OK;
}
