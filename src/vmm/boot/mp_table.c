/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * mp_table.c: what a kernel without ACPI learns of processors and interrupts: the tables of the Intel MultiProcessor
 * Specification, version 1.4, chapter 4. One bus, ISA, whose interrupt N is the I/O APIC's pin N: edge-triggered,
 * active high, as every line of this machine is. And how it learns of virtio-mmio devices: by its command line (Linux
 * documentation, "The kernel's command-line parameters", virtio_mmio.device=).
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cursor.h"
#include "vmm/boot/boot.h"

#define SPECIFICATION 4 /* version 1.4 */
#define POINTER_SIZE 16
#define POINTER_CHECKSUM_OFFSET 10
#define HEADER_SIZE 44
#define HEADER_LENGTH_OFFSET 4
#define HEADER_CHECKSUM_OFFSET 7
#define HEADER_COUNT_OFFSET 34

#define ENTRY_PROCESSOR 0 /* 20 bytes; the others have 8 */
#define ENTRY_BUS 1
#define ENTRY_IO_APIC 2
#define ENTRY_IO_INTERRUPT 3
#define ENTRY_LOCAL_INTERRUPT 4

#define LAPIC_VERSION 0x14
#define IO_APIC_VERSION 0x11
#define ENABLED 1u
#define BOOT_PROCESSOR 2u
#define PROCESSOR_SIGNATURE 0x600u /* family 6 */
#define PROCESSOR_FEATURES 0x201u  /* FPU and APIC; CPUID says the rest */
#define BUS_ISA 0
#define TYPE_INT 0
#define TYPE_NMI 1
#define TYPE_EXTINT 3
#define FLAGS_EDGE_HIGH 0x05u /* polarity: active high; trigger: edge */
#define ALL_LAPICS 0xff

struct mp_table {
    struct cursor_writer out;
    uint16_t entry_count;
};

static uint8_t checksum(const uint8_t *bytes, size_t size) {
    uint8_t sum = 0;
    ASSERT(bytes);
    ASSERT(size <= BOOT_MP_TABLE_SIZE);
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return (uint8_t)(0 - sum);
}

static void zeros(struct cursor_writer *out, size_t count) {
    ASSERT(out);
    ASSERT(count <= HEADER_SIZE);
    for (size_t i = 0; i < count; i++) {
        cursor_write_u8(out, 0);
    }
}

/* 4.3.1 */
static void add_processors(struct mp_table *table, uint32_t count) {
    struct cursor_writer *out = &table->out;
    ASSERT(count > 0);
    ASSERT(count <= VMM_VCPU_COUNT_MAX);
    for (uint32_t i = 0; i < count; i++) {
        cursor_write_u8(out, ENTRY_PROCESSOR);
        cursor_write_u8(out, (uint8_t)i); /* its APIC's id */
        cursor_write_u8(out, LAPIC_VERSION);
        cursor_write_u8(out, ENABLED | (i == 0 ? BOOT_PROCESSOR : 0));
        cursor_write_u32(out, PROCESSOR_SIGNATURE);
        cursor_write_u32(out, PROCESSOR_FEATURES);
        zeros(out, 8);
        table->entry_count++;
    }
}

/* 4.3.4 and 4.3.5: they are laid out alike. */
static void add_interrupt(struct mp_table *table, uint8_t entry, uint8_t type, uint8_t apic_id,
                          uint8_t pin) {
    struct cursor_writer *out = &table->out;
    ASSERT(entry == ENTRY_IO_INTERRUPT || entry == ENTRY_LOCAL_INTERRUPT);
    ASSERT(pin < VMM_GSI_COUNT);
    bool is_line = entry == ENTRY_IO_INTERRUPT;
    cursor_write_u8(out, entry);
    cursor_write_u8(out, type);
    cursor_write_u16(out, is_line ? FLAGS_EDGE_HIGH : 0);
    cursor_write_u8(out, BUS_ISA);
    cursor_write_u8(out, is_line ? pin : 0); /* the bus's number for it */
    cursor_write_u8(out, apic_id);
    cursor_write_u8(out, pin);
    table->entry_count++;
}

static void add_interrupts(struct mp_table *table, uint8_t io_apic_id) {
    struct cursor_writer *out = &table->out;
    ASSERT(io_apic_id > 0);
    static_assert(VMM_GSI_COUNT <= UINT8_MAX, "a pin is one byte");
    cursor_write_u8(out, ENTRY_BUS); /* 4.3.2 */
    cursor_write_u8(out, BUS_ISA);
    cursor_write_bytes(out, "ISA   ", 6);
    cursor_write_u8(out, ENTRY_IO_APIC); /* 4.3.3 */
    cursor_write_u8(out, io_apic_id);
    cursor_write_u8(out, IO_APIC_VERSION);
    cursor_write_u8(out, ENABLED);
    cursor_write_u32(out, (uint32_t)VMM_IOAPIC_GPA);
    table->entry_count = (uint16_t)(table->entry_count + 2);
    for (uint8_t pin = 0; pin < VMM_GSI_COUNT; pin++) {
        add_interrupt(table, ENTRY_IO_INTERRUPT, TYPE_INT, io_apic_id, pin);
    }
    add_interrupt(table, ENTRY_LOCAL_INTERRUPT, TYPE_EXTINT, ALL_LAPICS, 0);
    add_interrupt(table, ENTRY_LOCAL_INTERRUPT, TYPE_NMI, ALL_LAPICS, 1);
}

/* 4.2 */
static void header_write(struct cursor_writer *out, uint16_t size, uint16_t entry_count) {
    ASSERT(out->size == 0);
    ASSERT(entry_count > 0 || size == 0);
    cursor_write_bytes(out, "PCMP", 4);
    cursor_write_u16(out, size);
    cursor_write_u8(out, SPECIFICATION);
    cursor_write_u8(out, 0); /* checksum */
    cursor_write_bytes(out, "KELPIE  ", 8);
    cursor_write_bytes(out, "KELPIE VM   ", 12);
    zeros(out, 6); /* no table of the maker's */
    cursor_write_u16(out, entry_count);
    cursor_write_u32(out, (uint32_t)VMM_LAPIC_GPA);
    zeros(out, 4); /* no extended entries */
    ASSERT(!out->failed && out->size == HEADER_SIZE);
}

/* 4.1; its five feature bytes are zero: the table is there, and the machine has no IMCR. */
static void pointer_write(uint8_t *area) {
    struct cursor_writer out = cursor_writer_init(area, POINTER_SIZE);
    ASSERT(area);
    cursor_write_bytes(&out, "_MP_", 4);
    cursor_write_u32(&out, (uint32_t)(BOOT_MP_TABLE_GPA + POINTER_SIZE));
    cursor_write_u8(&out, 1); /* its size, in 16 bytes */
    cursor_write_u8(&out, SPECIFICATION);
    zeros(&out, POINTER_SIZE - POINTER_CHECKSUM_OFFSET);
    ASSERT(!out.failed && out.size == POINTER_SIZE);
    area[POINTER_CHECKSUM_OFFSET] = checksum(area, POINTER_SIZE);
}

void boot_mp_table_write(const struct memory *memory, uint32_t vcpu_count) {
    uint8_t *area = memory_writable(memory, BOOT_MP_TABLE_GPA, BOOT_MP_TABLE_SIZE);
    ASSERT(area);
    ASSERT(vcpu_count > 0 && vcpu_count <= VMM_VCPU_COUNT_MAX);
    static_assert(BOOT_MP_TABLE_GPA >= VMM_GENERATION_GPA + 16, "behind the generation");
    static_assert(BOOT_MP_TABLE_GPA + BOOT_MP_TABLE_SIZE <= BOOT_RESET_VECTOR_GPA, "before that");
    memset(area, 0, BOOT_MP_TABLE_SIZE);
    uint8_t *start = area + POINTER_SIZE;
    struct mp_table table = {.out = cursor_writer_init(start, BOOT_MP_TABLE_SIZE - POINTER_SIZE)};
    zeros(&table.out, HEADER_SIZE);
    add_processors(&table, vcpu_count);
    add_interrupts(&table, (uint8_t)vcpu_count);
    ASSERT(!table.out.failed);
    struct cursor_writer header = cursor_writer_init(start, HEADER_SIZE);
    header_write(&header, (uint16_t)table.out.size, table.entry_count);
    start[HEADER_CHECKSUM_OFFSET] = checksum(start, table.out.size);
    pointer_write(area);
}

enum kelpie_status boot_command_line_devices(char *line, size_t line_size, size_t device_count,
                                             const char *rest, struct kelpie_error *err) {
    ASSERT(line && rest);
    ASSERT(line_size > 0 && device_count <= VMM_MMIO_DEVICE_COUNT_MAX);
    size_t size = 0;
    line[0] = '\0';
    for (size_t i = 0; i <= device_count && size < line_size; i++) {
        char *end = line + size;
        size_t room = line_size - size;
        int printed =
            i == device_count
                ? snprintf(end, room, "%s", rest)
                : snprintf(end, room, "virtio_mmio.device=%llu@%#llx:%zu ", VMM_MMIO_WINDOW_SIZE,
                           VMM_MMIO_BASE + i * VMM_MMIO_WINDOW_SIZE, VMM_MMIO_GSI_BASE + i);
        ASSERT(printed >= 0);
        size += (size_t)printed;
    }
    if (size >= line_size) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                               "kernel_args are too long: with the machine's devices the command "
                               "line has more than %zu bytes",
                               line_size - 1);
    }
    return KELPIE_OK;
}
