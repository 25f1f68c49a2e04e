/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/boot/boot.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/boot/boot_internal.h"

#define MIB (1ull << 20)

enum kelpie_status boot_kernel_wrong(struct kelpie_error *err, const char *form, const char *why) {
    ASSERT(form);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "this is no usable %s: %s", form, why);
}

static uint64_t page_up(uint64_t value) {
    ASSERT(value <= UINT64_MAX - VMM_PAGE_SIZE);
    ASSERT((VMM_PAGE_SIZE & (VMM_PAGE_SIZE - 1)) == 0);
    return (value + VMM_PAGE_SIZE - 1) & ~(VMM_PAGE_SIZE - 1);
}

static enum kelpie_status parse(const struct boot_image *image, struct boot_kernel *ret_kernel,
                                struct kelpie_error *err) {
    ASSERT(image);
    ASSERT(ret_kernel);
    if (image->raw_load_gpa != 0 || image->raw_entry_gpa != 0) {
        return boot_krunfw_parse(image, ret_kernel, err);
    }
    if (boot_elf_matches(image->kernel)) {
        return boot_elf_parse(image->kernel, ret_kernel, err);
    }
    if (boot_bzimage_matches(image->kernel)) {
        return boot_bzimage_parse(image->kernel, ret_kernel, err);
    }
    return boot_kernel_wrong(err, "kernel", "it is neither a bzImage nor an ELF file");
}

/* What every parser promises, and the rest of this room relies on. */
static void assert_kernel(const struct boot_kernel *kernel) {
    ASSERT(kernel->start >= BOOT_KERNEL_GPA_MIN);
    ASSERT(kernel->start < kernel->end);
    ASSERT(kernel->end <= VMM_MEMORY_LOW_END);
    ASSERT(kernel->entry >= kernel->start && kernel->entry < kernel->end);
    ASSERT(kernel->segment_count > 0);
    ASSERT(kernel->segment_count <= BOOT_SEGMENT_COUNT_MAX);
    ASSERT(kernel->setup_header.size <= BOOT_HEADER_OFFSET_MAX - BOOT_HEADER_OFFSET);
}

/* Where the initramfs goes, if kernel and initramfs fit into the memory below the hole. */
static enum kelpie_status place(const struct memory *memory, const struct boot_kernel *kernel,
                                size_t initramfs_size, struct boot_initramfs *ret_initramfs,
                                struct kelpie_error *err) {
    assert_kernel(kernel);
    ASSERT(memory->regions[0].gpa == 0);
    uint64_t memory_end = memory->regions[0].size;
    uint64_t end_max = VMM_MEMORY_LOW_END;
    uint64_t needed = page_up(kernel->end);
    if (initramfs_size > 0) {
        end_max = min_u64(end_max, kernel->initramfs_gpa_max + 1) & ~(VMM_PAGE_SIZE - 1);
        if (needed >= end_max || initramfs_size > end_max - needed) {
            return error_set_field(
                err, KELPIE_BAD_CONFIG, "initramfs",
                "its %zu bytes do not fit between the kernel's end and %#llx, the "
                "highest end that this kernel allows",
                initramfs_size, (unsigned long long)end_max);
        }
        needed += page_up(initramfs_size);
    }
    if (needed > memory_end) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "memory_mib",
                               "this kernel and initramfs need at least %llu MiB of memory; there "
                               "are %llu",
                               (unsigned long long)((needed + MIB - 1) / MIB),
                               (unsigned long long)(memory->size / MIB));
    }
    uint64_t end = min_u64(memory_end, end_max);
    *ret_initramfs = (struct boot_initramfs){end - page_up(initramfs_size), initramfs_size};
    return KELPIE_OK;
}

static void copy(const struct memory *memory, uint64_t gpa, struct boot_bytes bytes) {
    ASSERT(bytes.data || bytes.size == 0);
    bool copied = bytes.size == 0 || memory_write(memory, gpa, bytes.data, bytes.size);
    ASSERT(copied); /* place() found that there is memory */
}

enum kelpie_status boot_load(const struct memory *memory, const struct boot_image *image,
                             struct boot_entry *ret_entry, struct kelpie_error *err) {
    struct boot_kernel kernel = {.start = 0};
    struct boot_initramfs initramfs = {0, 0};
    ASSERT(memory && image);
    ASSERT(ret_entry);
    ASSERT(image->kernel.data || image->kernel.size == 0);
    ASSERT(image->initramfs.data || image->initramfs.size == 0);
    const char *command_line = image->command_line ? image->command_line : "";
    TRY(parse(image, &kernel, err));
    size_t command_line_size = strnlen(command_line, BOOT_COMMAND_LINE_SIZE_MAX);
    if (command_line_size > kernel.command_line_size_max ||
        command_line_size >= BOOT_COMMAND_LINE_SIZE_MAX) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, "command_line",
            "this kernel takes a command line of at most %zu bytes",
            min_size(kernel.command_line_size_max, BOOT_COMMAND_LINE_SIZE_MAX - 1));
    }
    TRY(place(memory, &kernel, image->initramfs.size, &initramfs, err));
    for (size_t i = 0; i < kernel.segment_count; i++) {
        copy(memory, kernel.segments[i].gpa, kernel.segments[i].bytes);
    }
    copy(memory, initramfs.gpa, image->initramfs);
    boot_tables_write(memory);
    boot_command_line_write(memory, command_line);
    boot_params_write(memory, &kernel, initramfs);
    *ret_entry = (struct boot_entry){.rip = kernel.entry, .rsi = BOOT_PARAMS_GPA};
    return KELPIE_OK;
}
