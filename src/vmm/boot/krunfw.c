/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * krunfw.c: the kernel that libkrunfw carries: the loadable bytes of a vmlinux as they lie in memory, in one piece,
 * without a header. Where it goes and begins stands beside it (krunfw_library.h).
 */
#include "base/assert.h"
#include "base/checked.h"
#include "vmm/boot/boot_internal.h"

#define FORM "raw kernel"

/* The image ends before what the kernel wants zeroed (.bss, .brk), and nothing says how much that is. */
#define BSS_SIZE_MAX (16ull << 20)

enum kelpie_status boot_krunfw_parse(const struct boot_image *image, struct boot_kernel *ret_kernel,
                                     struct kelpie_error *err) {
    ASSERT(image);
    ASSERT(ret_kernel);
    uint64_t load = image->raw_load_gpa;
    uint64_t size = image->kernel.size;
    uint64_t end = 0;
    if (size == 0) {
        return boot_kernel_wrong(err, FORM, "it is empty");
    }
    if (load < BOOT_KERNEL_GPA_MIN || load % VMM_PAGE_SIZE != 0 ||
        !checked_add_u64(load, size, &end) || end > VMM_MEMORY_LOW_END - BSS_SIZE_MAX) {
        return boot_kernel_wrong(err, FORM, "it wants to be loaded where there is no memory");
    }
    if (image->raw_entry_gpa < load || image->raw_entry_gpa - load >= size) {
        return boot_kernel_wrong(err, FORM, "its entry is not in it");
    }
    *ret_kernel = (struct boot_kernel){
        .start = load,
        .end = end + BSS_SIZE_MAX,
        .entry = image->raw_entry_gpa,
        .initramfs_gpa_max = UINT32_MAX,
        .command_line_size_max = BOOT_COMMAND_LINE_SIZE_MAX - 1,
        .segments = {{load, image->kernel}},
        .segment_count = 1,
    };
    return KELPIE_OK;
}
