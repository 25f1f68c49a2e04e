/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Loading a kernel into a guest's memory, up to the state in which the first vCPU enters it.
 *
 * THEORY OF OPERATION
 *
 * A kernel comes in one of three forms: a bzImage, an ELF vmlinux, or the raw image of libkrunfw. A parser for each
 * turns the bytes into a struct boot_kernel: which bytes go where, how much memory the kernel needs before it
 * can look at its memory map, where it begins. It touches no memory of the guest. boot_load() checks the whole
 * against the memory that there is, so that one number says how many MiB are needed, and only then
 * copies and writes the tables below. All three forms are entered alike, by the 64-bit entry of "The Linux/x86 Boot
 * Protocol" (section "64-bit Boot Protocol"): long mode, paging on with memory mapped to itself, CS BOOT_CODE_SELECTOR,
 * DS, ES and SS BOOT_DATA_SELECTOR, interrupts off, RSI at the zero page.
 *
 * Where things lie, in guest-physical addresses:
 *
 *     0x00500  BOOT_GDT_GPA            descriptors: BOOT_GDT_SIZE bytes
 *     0x07000  BOOT_PARAMS_GPA         the zero page (struct boot_params), one page
 *     0x09000  BOOT_PML4_GPA           CR3: one page; 0xa000: PDPT, one page; 0xb000: four page directories of
 *                                      2 MiB pages, which map the first 4 GiB to themselves
 *     0x20000  BOOT_COMMAND_LINE_GPA   at most BOOT_COMMAND_LINE_SIZE_MAX bytes with their zero
 *     0x9fc00  BOOT_LOW_MEMORY_END     end of the memory map's first piece of memory
 *     0xe0000  VMM_ACPI_BASE           ACPI tables (acpi.h), "ACPI data" in the memory map
 *     0xf0000  VMM_GENERATION_GPA      VMGenID and the rest of the BIOS area, "reserved" in the memory map
 *     0xf1000  BOOT_MP_TABLE_GPA       the MP table of a kernel without ACPI (libkrunfw's): boot_mp_table_write()
 *     0xffff0  BOOT_RESET_VECTOR_GPA   16 bytes of real-mode code that reboot: a Linux on a hardware-reduced machine (acpi.h)
 *                                      jumps there when it is told no other way ("reboot=a" tells one)
 *     1 MiB    BOOT_KERNEL_GPA_MIN     the kernel, where it wants to be: nothing below this
 *     ...      the initramfs: as high as it can be below the hole and the kernel's own maximum, page-aligned
 *
 * The memory map (e820) has the memory up to BOOT_LOW_MEMORY_END, the two pieces of the BIOS area, the memory from
 * 1 MiB up to the hole, and the memory from 4 GiB on. The hole is what it does not name.
 *
 * The image is untrusted (hazard A17: GHSA-52h2-m2cf-9jh6 was a loader that did not end): every number in it is
 * checked against the bytes that are there, loops have named limits, and what is copied in all is at most the
 * file's size.
 *
 * The guest's memory must be fresh, that is, zeros: what a kernel wants zeroed (.bss) is not written.
 *
 * Example:
 *     struct boot_image image = {.kernel = {bytes, size}, .command_line = "console=ttyS0"};
 *     struct boot_entry entry;
 *     TRY(boot_load(&memory, &image, &entry, err));
 */
#ifndef KELPIE_VMM_BOOT_BOOT_H
#define KELPIE_VMM_BOOT_BOOT_H

#include "base/error.h"
#include "vmm/memory/memory.h"

#define BOOT_GDT_GPA 0x500ull
#define BOOT_GDT_SIZE 48u       /* null, null, code, data, and a TSS of two */
#define BOOT_CODE_SELECTOR 0x10 /* 64-bit code, ring 0: the protocol's __BOOT_CS */
#define BOOT_DATA_SELECTOR 0x18 /* flat data: __BOOT_DS */
#define BOOT_TASK_SELECTOR 0x20 /* a busy 64-bit TSS at 0, limit 0x67, for TR */
#define BOOT_PARAMS_GPA 0x7000ull
#define BOOT_PML4_GPA 0x9000ull
#define BOOT_PDPT_GPA 0xa000ull
#define BOOT_PD_GPA 0xb000ull
#define BOOT_PD_COUNT 4
#define BOOT_COMMAND_LINE_GPA 0x20000ull
#define BOOT_COMMAND_LINE_SIZE_MAX 2048 /* Linux's COMMAND_LINE_SIZE on x86 */
#define BOOT_LOW_MEMORY_END 0x9fc00ull
#define BOOT_RESET_VECTOR_GPA 0xffff0ull
#define BOOT_RESET_VECTOR_SIZE 16
#define BOOT_KERNEL_GPA_MIN 0x100000ull
#define BOOT_MP_TABLE_GPA 0xf1000ull /* a kernel looks for it in 0xf0000 … 0xfffff */
#define BOOT_MP_TABLE_SIZE 0x1000ull

/* The caller's bytes: a file that it read or mapped. */
struct boot_bytes {
    const uint8_t *data; /* may be NULL when size is 0 */
    size_t size;
};

struct boot_image {
    struct boot_bytes kernel;
    struct boot_bytes initramfs; /* size 0: none */
    const char *command_line;    /* NULL: empty */
    /* A raw kernel (libkrunfw): where its first byte goes, and where it begins. Both 0: the form is told by
     * the kernel's first bytes. */
    uint64_t raw_load_gpa;
    uint64_t raw_entry_gpa;
};

/* What the first vCPU's registers begin with; the rest is constant (above). */
struct boot_entry {
    uint64_t rip;
    uint64_t rsi; /* the zero page */
};

/* Writes kernel, initramfs, command line and tables. The ACPI tables are acpi_build()'s.
 * Errors: BAD_CONFIG with field "kernel" (malformed, or of a form that cannot be booted), "initramfs" (never fits),
 * "command_line" (too long for this kernel) or "memory_mib" (the message says how many are needed). On failure the
 * guest's memory is as it was. */
KELPIE_CHECKED enum kelpie_status boot_load(const struct memory *memory,
                                            const struct boot_image *image,
                                            struct boot_entry *ret_entry, struct kelpie_error *err);

/* For a kernel without ACPI: the processors 0 … vcpu_count - 1, and a line for each GSI (mp_table.c). The memory has
 * BOOT_KERNEL_GPA_MIN bytes and more. */
void boot_mp_table_write(const struct memory *memory, uint32_t vcpu_count);

/* The virtio-mmio devices from window 0 on as the kernel's parameters, and `rest` behind them. BAD_CONFIG, field
 * "kernel_args": too long. */
KELPIE_CHECKED enum kelpie_status boot_command_line_devices(char *line, size_t line_size,
                                                            size_t device_count, const char *rest,
                                                            struct kelpie_error *err);

#endif
