/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * boot_params.c: the zero page and what it points to. Offsets are those of the Linux documentation, "Zero Page" and "The
 * Linux/x86 Boot Protocol"; the types of memory are those of the ACPI specification, section 15, "System Address
 * Map Interfaces".
 */
#include <string.h>

#include "base/assert.h"
#include "vmm/boot/boot_internal.h"

#define OFFSET_ACPI_RSDP 0x070
#define OFFSET_E820_COUNT 0x1e8
#define OFFSET_BOOT_FLAG 0x1fe
#define OFFSET_HEADER_MAGIC 0x202
#define OFFSET_LOADER_TYPE 0x210
#define OFFSET_INITRAMFS_GPA 0x218
#define OFFSET_INITRAMFS_SIZE 0x21c
#define OFFSET_COMMAND_LINE_GPA 0x228
#define OFFSET_COMMAND_LINE_SIZE 0x238
#define OFFSET_E820 0x2d0

#define BOOT_FLAG 0xaa55
#define HEADER_MAGIC 0x53726448u
#define LOADER_TYPE_OTHER 0xff /* a boot loader without a number */

#define E820_ENTRY_SIZE 20
#define E820_COUNT_MAX 8 /* of ours; the zero page has room for 128 */
#define E820_MEMORY 1u
#define E820_RESERVED 2u
#define E820_ACPI 3u

#define BIOS_AREA_END 0x100000ull

/* The monitor runs on little-endian processors only: numbers are copied as they are. */
static void put(uint8_t *page, size_t offset, const void *number, size_t size) {
    ASSERT(page && number);
    ASSERT(size <= sizeof(uint64_t));
    ASSERT(offset <= VMM_PAGE_SIZE - size);
    memcpy(page + offset, number, size);
}

static void put_u8(uint8_t *page, size_t offset, uint8_t value) {
    put(page, offset, &value, sizeof(value));
}

static void put_u32(uint8_t *page, size_t offset, uint32_t value) {
    put(page, offset, &value, sizeof(value));
}

static void e820_add(uint8_t *page, uint64_t start, uint64_t end, uint32_t type) {
    uint8_t index = page[OFFSET_E820_COUNT];
    uint64_t size = end - start;
    ASSERT(start < end);
    ASSERT(index < E820_COUNT_MAX);
    size_t offset = OFFSET_E820 + (size_t)index * E820_ENTRY_SIZE;
    put(page, offset, &start, sizeof(start));
    put(page, offset + 8, &size, sizeof(size));
    put_u32(page, offset + 16, type);
    page[OFFSET_E820_COUNT] = (uint8_t)(index + 1);
}

static void e820_write(uint8_t *page, const struct memory *memory) {
    ASSERT(memory->regions[0].size > BOOT_KERNEL_GPA_MIN);
    static_assert(VMM_ACPI_BASE + VMM_ACPI_SIZE == VMM_GENERATION_GPA, "both pieces are reserved");
    static_assert(BIOS_AREA_END == BOOT_KERNEL_GPA_MIN, "memory goes on at 1 MiB");
    e820_add(page, 0, BOOT_LOW_MEMORY_END, E820_MEMORY);
    e820_add(page, VMM_ACPI_BASE, VMM_ACPI_BASE + VMM_ACPI_SIZE, E820_ACPI);
    e820_add(page, VMM_GENERATION_GPA, BIOS_AREA_END, E820_RESERVED);
    e820_add(page, BIOS_AREA_END, memory->regions[0].size, E820_MEMORY);
    for (size_t i = 1; i < memory->region_count; i++) {
        const struct memory_region *region = &memory->regions[i];
        e820_add(page, region->gpa, region->gpa + region->size, E820_MEMORY);
    }
}

void boot_params_write(const struct memory *memory, const struct boot_kernel *kernel,
                       struct boot_initramfs initramfs) {
    ASSERT(kernel->setup_header.size <= BOOT_HEADER_OFFSET_MAX - BOOT_HEADER_OFFSET);
    ASSERT(initramfs.gpa + initramfs.size <= VMM_MEMORY_LOW_END);
    uint8_t *page = memory_writable(memory, BOOT_PARAMS_GPA, VMM_PAGE_SIZE);
    const uint64_t rsdp = VMM_RSDP_GPA;
    const uint16_t boot_flag = BOOT_FLAG;
    ASSERT(page);
    memset(page, 0, VMM_PAGE_SIZE);
    if (kernel->setup_header.size > 0) {
        memcpy(page + BOOT_HEADER_OFFSET, kernel->setup_header.data, kernel->setup_header.size);
    } else {
        put(page, OFFSET_BOOT_FLAG, &boot_flag, sizeof(boot_flag));
        put_u32(page, OFFSET_HEADER_MAGIC, HEADER_MAGIC);
        put_u32(page, OFFSET_COMMAND_LINE_SIZE, (uint32_t)kernel->command_line_size_max);
    }
    put(page, OFFSET_ACPI_RSDP, &rsdp, sizeof(rsdp));
    put_u8(page, OFFSET_LOADER_TYPE, LOADER_TYPE_OTHER);
    put_u32(page, OFFSET_INITRAMFS_GPA, initramfs.size > 0 ? (uint32_t)initramfs.gpa : 0);
    put_u32(page, OFFSET_INITRAMFS_SIZE, (uint32_t)initramfs.size);
    put_u32(page, OFFSET_COMMAND_LINE_GPA, (uint32_t)BOOT_COMMAND_LINE_GPA);
    e820_write(page, memory);
}

void boot_command_line_write(const struct memory *memory, const char *command_line) {
    ASSERT(command_line);
    size_t size = strnlen(command_line, BOOT_COMMAND_LINE_SIZE_MAX) + 1;
    ASSERT(size <= BOOT_COMMAND_LINE_SIZE_MAX);
    static_assert(BOOT_COMMAND_LINE_GPA + BOOT_COMMAND_LINE_SIZE_MAX <= BOOT_LOW_MEMORY_END,
                  "the command line is in memory that the kernel keeps");
    bool written = memory_write(memory, BOOT_COMMAND_LINE_GPA, command_line, size);
    ASSERT(written);
}
