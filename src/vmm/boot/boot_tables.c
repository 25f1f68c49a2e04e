/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * boot_tables.c: descriptors and page tables for the first instructions in long mode (Intel SDM volume 3, sections
 * 3.4.5 "Segment Descriptors", 7.2.3 "TSS Descriptor in 64-bit mode", 4.5 "4-Level Paging"). The kernel
 * makes its own before long. Pages of 2 MiB, for not every processor has those of 1 GiB.
 *
 * And what stands where a PC's BIOS begins: on a machine without the fixed ACPI hardware Linux wants to reboot through
 * EFI, and where there is none, enters real mode and jumps to the BIOS. Without code there it would never end.
 */
#include <string.h>

#include "base/assert.h"
#include "vmm/boot/boot_internal.h"

#define DESCRIPTOR_CODE_64                                                                         \
    0x00af9b000000ffffull                     /* present, ring 0, execute and read, L, accessed */
#define DESCRIPTOR_DATA 0x00cf93000000ffffull /* present, ring 0, read and write, accessed */
#define DESCRIPTOR_TASK 0x00008b0000000067ull /* present, busy 64-bit TSS at 0 */

#define ENTRY_COUNT (VMM_PAGE_SIZE / sizeof(uint64_t))
#define ENTRY_TABLE 0x03ull /* present, writable */
#define ENTRY_PAGE 0x83ull  /* present, writable, a page of 2 MiB */
#define LARGE_PAGE_SIZE 0x200000ull

static_assert(BOOT_PDPT_GPA == BOOT_PML4_GPA + VMM_PAGE_SIZE, "the tables lie in one piece");
static_assert(BOOT_PD_GPA == BOOT_PDPT_GPA + VMM_PAGE_SIZE, "the tables lie in one piece");
static_assert(BOOT_PML4_GPA >= BOOT_PARAMS_GPA + VMM_PAGE_SIZE, "behind the zero page");
static_assert(BOOT_PD_GPA + BOOT_PD_COUNT * VMM_PAGE_SIZE <= BOOT_COMMAND_LINE_GPA, "before it");
static_assert(BOOT_PD_COUNT * ENTRY_COUNT * LARGE_PAGE_SIZE == VMM_MEMORY_HIGH_START, "4 GiB");

static void write_gdt(const struct memory *memory) {
    uint64_t descriptors[BOOT_GDT_SIZE / sizeof(uint64_t)] = {
        [BOOT_CODE_SELECTOR / 8] = DESCRIPTOR_CODE_64,
        [BOOT_DATA_SELECTOR / 8] = DESCRIPTOR_DATA,
        [BOOT_TASK_SELECTOR / 8] = DESCRIPTOR_TASK,
    };
    static_assert(sizeof(descriptors) == BOOT_GDT_SIZE, "as documented");
    bool written = memory_write(memory, BOOT_GDT_GPA, descriptors, sizeof(descriptors));
    ASSERT(written);
}

static void write_pages(const struct memory *memory) {
    const size_t page_count = 2 + BOOT_PD_COUNT;
    uint64_t *tables = memory_writable(memory, BOOT_PML4_GPA, page_count * VMM_PAGE_SIZE);
    ASSERT(tables);
    ASSERT((uintptr_t)tables % sizeof(uint64_t) == 0);
    uint64_t *pdpt = tables + ENTRY_COUNT;
    uint64_t *directories = pdpt + ENTRY_COUNT;
    memset(tables, 0, 2 * VMM_PAGE_SIZE);
    tables[0] = BOOT_PDPT_GPA | ENTRY_TABLE;
    for (uint64_t i = 0; i < BOOT_PD_COUNT; i++) {
        pdpt[i] = (BOOT_PD_GPA + i * VMM_PAGE_SIZE) | ENTRY_TABLE;
    }
    for (uint64_t i = 0; i < BOOT_PD_COUNT * ENTRY_COUNT; i++) {
        directories[i] = (i * LARGE_PAGE_SIZE) | ENTRY_PAGE;
    }
}

static void write_reset_vector(const struct memory *memory) {
    static const uint8_t code[] = {
        0xfa, /* cli */
        0xba,
        VMM_RESET_PORT & 0xff,
        VMM_RESET_PORT >> 8, /* mov $VMM_RESET_PORT, %dx */
        0xb0,
        VMM_RESET_VALUE, /* mov $VMM_RESET_VALUE, %al */
        0xee,            /* out %al, %dx */
        0xf4,            /* hlt */
        0xeb,
        0xfd, /* jmp to the hlt */
    };
    static_assert(sizeof(code) <= BOOT_RESET_VECTOR_SIZE, "up to 1 MiB");
    static_assert(BOOT_RESET_VECTOR_GPA + BOOT_RESET_VECTOR_SIZE == BOOT_KERNEL_GPA_MIN,
                  "and no more");
    bool written = memory_write(memory, BOOT_RESET_VECTOR_GPA, code, sizeof(code));
    ASSERT(written);
}

void boot_tables_write(const struct memory *memory) {
    ASSERT(memory);
    ASSERT(memory->regions[0].size >= BOOT_KERNEL_GPA_MIN);
    write_gdt(memory);
    write_pages(memory);
    write_reset_vector(memory);
}
