/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/acpi/acpi.h"

#include <string.h>

#include "base/assert.h"
#include "vmm/acpi/aml.h"

#define OEM_ID "KELPIE"         /* 6 bytes */
#define OEM_TABLE_ID "KELPIEVM" /* 8 bytes */
#define OEM_REVISION 1
#define CREATOR_ID "KLPI" /* 4 bytes */

#define TABLE_ALIGNMENT 64
#define HEADER_SIZE 36
#define HEADER_LENGTH_OFFSET 4
#define HEADER_CHECKSUM_OFFSET 9
#define RSDP_SIZE 36
#define RSDP_V1_SIZE 20 /* what the first checksum covers */
#define RSDP_CHECKSUM_OFFSET 8
#define RSDP_EXTENDED_CHECKSUM_OFFSET 32

/* FADT (5.2.9). */
#define FADT_SIZE 276
#define FADT_REVISION 6
#define FADT_MINOR 4
#define FADT_BOOT_FLAGS                                                                            \
    0x2cu /* no VGA, no MSI, no CMOS clock; nor an 8042, nor other legacy devices */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_POWER_BUTTON (1u << 4)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HEADLESS (1u << 12)
#define FADT_HW_REDUCED (1u << 20)
#define ADDRESS_SPACE_IO 1 /* of a Generic Address Structure (5.2.3.2) */
#define ADDRESS_ACCESS_BYTE 1

/* MADT (5.2.12). */
#define MADT_REVISION 5
#define MADT_LOCAL_APIC 0
#define MADT_IO_APIC 1
#define MADT_LOCAL_APIC_NMI 4
#define MADT_ENABLED 1u
#define MADT_ALL_PROCESSORS 0xff
#define MADT_LINT1 1

#define DSDT_REVISION 2 /* integers of 64 bits */
#define NOTIFY_CHANGED 0x80

struct tables {
    struct cursor_writer out; /* of the whole area */
    size_t start;             /* of the table that is open */
};

static uint64_t gpa_of(size_t offset) {
    ASSERT(offset < VMM_ACPI_SIZE);
    static_assert(VMM_ACPI_BASE + VMM_ACPI_SIZE <= UINT32_MAX, "also as 32 bits");
    return VMM_ACPI_BASE + offset;
}

static void zeros(struct cursor_writer *out, size_t count) {
    ASSERT(out);
    ASSERT(count <= FADT_SIZE);
    for (size_t i = 0; i < count; i++) {
        cursor_write_u8(out, 0);
    }
}

/* The byte that makes the sum of all of them 0. */
static uint8_t checksum(const uint8_t *bytes, size_t size) {
    uint8_t sum = 0;
    ASSERT(bytes);
    ASSERT(size > 0);
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return (uint8_t)-sum;
}

/* A table's header (5.2.6); length and checksum come at its end. */
static void table_begin(struct tables *tables, const char *signature, uint8_t revision) {
    struct cursor_writer *out = &tables->out;
    ASSERT(strlen(signature) == 4);
    ASSERT(out->size > 0); /* the RSDP is before it */
    zeros(out, (TABLE_ALIGNMENT - out->size % TABLE_ALIGNMENT) % TABLE_ALIGNMENT);
    tables->start = out->size;
    cursor_write_bytes(out, signature, 4);
    cursor_write_u32(out, 0); /* length */
    cursor_write_u8(out, revision);
    cursor_write_u8(out, 0); /* checksum */
    cursor_write_bytes(out, OEM_ID, 6);
    cursor_write_bytes(out, OEM_TABLE_ID, 8);
    cursor_write_u32(out, OEM_REVISION);
    cursor_write_bytes(out, CREATOR_ID, 4);
    cursor_write_u32(out, OEM_REVISION);
}

/* Returns where the table is. */
static uint64_t table_end(struct tables *tables) {
    uint8_t *table = tables->out.data + tables->start;
    ASSERT(!tables->out.failed); /* the area is made for the most that there can be */
    uint32_t length = (uint32_t)(tables->out.size - tables->start);
    ASSERT(length >= HEADER_SIZE);
    memcpy(table + HEADER_LENGTH_OFFSET, &length, sizeof(length));
    table[HEADER_CHECKSUM_OFFSET] = checksum(table, length);
    return gpa_of(tables->start);
}

static void serial_device(struct aml *aml) {
    ASSERT(aml);
    ASSERT(VMM_SERIAL_GSI < VMM_GSI_COUNT);
    aml_device_begin(aml, "COM1");
    aml_name_eisa_id(aml, "_HID", "PNP0501");
    aml_name_integer(aml, "_UID", 1);
    aml_resources_begin(aml);
    aml_resource_ports(aml, VMM_SERIAL_PORT, 8);
    aml_resource_interrupt(aml, VMM_SERIAL_GSI);
    aml_resources_end(aml);
    aml_end(aml);
}

/* Where a guest's kernel says that it panicked. */
static void panic_device(struct aml *aml) {
    ASSERT(aml);
    static_assert(VMM_PANIC_PORT <= UINT16_MAX, "a port");
    aml_device_begin(aml, "PEVT");
    aml_name_string(aml, "_HID", "QEMU0001");
    aml_resources_begin(aml);
    aml_resource_ports(aml, VMM_PANIC_PORT, 1);
    aml_resources_end(aml);
    aml_end(aml);
}

static void mmio_device(struct aml *aml, uint32_t index) {
    char name[] = "VR00";
    ASSERT(index < VMM_MMIO_DEVICE_COUNT_MAX);
    static_assert(VMM_MMIO_GSI_BASE + VMM_MMIO_DEVICE_COUNT_MAX <= VMM_GSI_COUNT, "each has one");
    name[2] = (char)('0' + index / 10);
    name[3] = (char)('0' + index % 10);
    aml_device_begin(aml, name);
    aml_name_string(aml, "_HID", "LNRO0005");
    aml_name_integer(aml, "_UID", index);
    aml_name_integer(aml, "_CCA", 1); /* its DMA is coherent */
    aml_resources_begin(aml);
    aml_resource_memory(aml, (uint32_t)(VMM_MMIO_BASE + index * VMM_MMIO_WINDOW_SIZE),
                        (uint32_t)VMM_MMIO_WINDOW_SIZE);
    aml_resource_interrupt(aml, VMM_MMIO_GSI_BASE + index);
    aml_resources_end(aml);
    aml_end(aml);
}

/* VMGenID ("Virtual Machine Generation ID", Microsoft), and the event device (5.6.9) that has its interrupt. The
 * compatible ids are those of Hyper-V: the specification's, and one of a length that ACPI allows. */
static void generation_devices(struct aml *aml) {
    static const char *const compatible[] = {"VM_Gen_Counter", "VMGENCTR"};
    const uint32_t address[] = {(uint32_t)VMM_GENERATION_GPA, (uint32_t)(VMM_GENERATION_GPA >> 32)};
    ASSERT(aml);
    static_assert(VMM_GENERATION_GSI < VMM_MMIO_GSI_BASE, "not a virtio device's");
    static_assert(VMM_GENERATION_GSI != VMM_SERIAL_GSI, "not the serial port's");
    aml_device_begin(aml, "VGEN");
    aml_name_string(aml, "_HID", "KLPI0001");
    aml_name_strings(aml, "_CID", compatible, 2);
    aml_name_string(aml, "_DDN", "VM_Gen_Counter");
    aml_name_integers(aml, "ADDR", address, 2);
    aml_end(aml);
    aml_device_begin(aml, "GED0");
    aml_name_string(aml, "_HID", "ACPI0013");
    aml_name_integer(aml, "_UID", 0);
    aml_resources_begin(aml);
    aml_resource_interrupt(aml, VMM_GENERATION_GSI);
    aml_resources_end(aml);
    aml_method_begin(aml, "_EVT", 1);
    aml_if_argument_begin(aml, 0, VMM_GENERATION_GSI);
    aml_notify(aml, "VGEN", NOTIFY_CHANGED);
    aml_end(aml);
    aml_end(aml);
    aml_end(aml);
}

static uint64_t dsdt_write(struct tables *tables, const struct acpi_description *description) {
    const uint32_t off[] = {VMM_SLEEP_TYPE_OFF, 0, 0, 0};
    struct aml aml;
    table_begin(tables, "DSDT", DSDT_REVISION);
    struct cursor_writer *out = &tables->out;
    ASSERT(!out->failed);
    aml_init(&aml, out->data + out->size, out->capacity - out->size);
    aml_scope_begin(&aml, "_SB_");
    if (description->has_serial) {
        serial_device(&aml);
    }
    panic_device(&aml);
    for (uint32_t i = 0; i < description->mmio_device_count; i++) {
        mmio_device(&aml, i);
    }
    generation_devices(&aml);
    aml_end(&aml);
    aml_name_integers(&aml, "_S5_", off, 4);
    ASSERT(aml.depth == 0);
    out->size += aml.out.size;
    out->failed = aml.out.failed;
    return table_end(tables);
}

static void port_register(struct cursor_writer *out, uint16_t port) {
    ASSERT(out);
    ASSERT(port != 0);
    cursor_write_u8(out, ADDRESS_SPACE_IO);
    cursor_write_u8(out, 8); /* bits */
    cursor_write_u8(out, 0); /* from bit 0 on */
    cursor_write_u8(out, ADDRESS_ACCESS_BYTE);
    cursor_write_u64(out, port);
}

static uint64_t fadt_write(struct tables *tables, uint64_t dsdt) {
    struct cursor_writer *out = &tables->out;
    table_begin(tables, "FACP", FADT_REVISION);
    ASSERT(dsdt <= UINT32_MAX);
    zeros(out, 4); /* no FACS: hardware-reduced */
    cursor_write_u32(out, (uint32_t)dsdt);
    zeros(out, 109 - 44); /* what a hardware-reduced machine does not have */
    cursor_write_u16(out, FADT_BOOT_FLAGS);
    zeros(out, 1);
    cursor_write_u32(out, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON |
                              FADT_RESET_REG_SUP | FADT_HEADLESS | FADT_HW_REDUCED);
    port_register(out, VMM_RESET_PORT);
    cursor_write_u8(out, VMM_RESET_VALUE);
    zeros(out, 2); /* ARM's boot flags */
    cursor_write_u8(out, FADT_MINOR);
    zeros(out, 8); /* no FACS */
    cursor_write_u64(out, dsdt);
    zeros(out, 244 - 148); /* PM1a … GPE1 */
    port_register(out, VMM_SLEEP_CONTROL_PORT);
    port_register(out, VMM_SLEEP_STATUS_PORT);
    zeros(out, 8); /* the hypervisor's identity: CPUID says it */
    ASSERT(out->failed || out->size - tables->start == FADT_SIZE);
    return table_end(tables);
}

static uint64_t madt_write(struct tables *tables, uint32_t vcpu_count) {
    struct cursor_writer *out = &tables->out;
    ASSERT(vcpu_count > 0);
    static_assert(VMM_VCPU_COUNT_MAX < 255, "xAPIC ids");
    table_begin(tables, "APIC", MADT_REVISION);
    cursor_write_u32(out, (uint32_t)VMM_LAPIC_GPA);
    zeros(out, 4); /* flags: no pair of 8259s to be looked for */
    for (uint32_t i = 0; i < vcpu_count; i++) {
        cursor_write_u8(out, MADT_LOCAL_APIC);
        cursor_write_u8(out, 8);
        cursor_write_u8(out, (uint8_t)i); /* the processor's uid */
        cursor_write_u8(out, (uint8_t)i); /* its APIC's id */
        cursor_write_u32(out, MADT_ENABLED);
    }
    cursor_write_u8(out, MADT_IO_APIC);
    cursor_write_u8(out, 12);
    zeros(out, 2); /* its id, as KVM's has it after a reset */
    cursor_write_u32(out, (uint32_t)VMM_IOAPIC_GPA);
    cursor_write_u32(out, 0); /* its first GSI */
    cursor_write_u8(out, MADT_LOCAL_APIC_NMI);
    cursor_write_u8(out, 6);
    cursor_write_u8(out, MADT_ALL_PROCESSORS);
    cursor_write_u16(out, 0); /* polarity and trigger as the bus has them */
    cursor_write_u8(out, MADT_LINT1);
    return table_end(tables);
}

static uint64_t xsdt_write(struct tables *tables, uint64_t fadt, uint64_t madt) {
    ASSERT(fadt != 0);
    ASSERT(madt != 0);
    table_begin(tables, "XSDT", 1);
    cursor_write_u64(&tables->out, fadt);
    cursor_write_u64(&tables->out, madt);
    return table_end(tables);
}

/* RSDP (5.2.5.3), at the area's start. */
static void rsdp_write(uint8_t *area, uint64_t xsdt) {
    struct cursor_writer out = cursor_writer_init(area, RSDP_SIZE);
    ASSERT(xsdt != 0);
    static_assert(VMM_RSDP_GPA == VMM_ACPI_BASE, "the RSDP comes first");
    cursor_write_bytes(&out, "RSD PTR ", 8);
    cursor_write_u8(&out, 0); /* checksum */
    cursor_write_bytes(&out, OEM_ID, 6);
    cursor_write_u8(&out, 2);  /* revision */
    cursor_write_u32(&out, 0); /* no RSDT */
    cursor_write_u32(&out, RSDP_SIZE);
    cursor_write_u64(&out, xsdt);
    zeros(&out, 4); /* extended checksum, reserved */
    ASSERT(!out.failed && out.size == RSDP_SIZE);
    area[RSDP_CHECKSUM_OFFSET] = checksum(area, RSDP_V1_SIZE);
    area[RSDP_EXTENDED_CHECKSUM_OFFSET] = checksum(area, RSDP_SIZE);
}

enum kelpie_status acpi_build(const struct memory *memory,
                              const struct acpi_description *description,
                              struct kelpie_error *err) {
    ASSERT(memory && description);
    ASSERT(description->vcpu_count >= 1 && description->vcpu_count <= VMM_VCPU_COUNT_MAX);
    ASSERT(description->mmio_device_count <= VMM_MMIO_DEVICE_COUNT_MAX);
    uint8_t *area = memory_writable(memory, VMM_ACPI_BASE, VMM_ACPI_SIZE);
    if (!area) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "memory_mib",
                               "the memory ends before the ACPI tables: 2 MiB are needed at least");
    }
    memset(area, 0, VMM_ACPI_SIZE);
    struct tables tables = {.out = cursor_writer_init(area, VMM_ACPI_SIZE)};
    zeros(&tables.out, RSDP_SIZE);
    uint64_t dsdt = dsdt_write(&tables, description);
    uint64_t fadt = fadt_write(&tables, dsdt);
    uint64_t madt = madt_write(&tables, description->vcpu_count);
    rsdp_write(area, xsdt_write(&tables, fadt, madt));
    return KELPIE_OK;
}
