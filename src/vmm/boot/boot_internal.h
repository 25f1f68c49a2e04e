/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the parsers of kernel images and the writers of boot tables say to each other. */
#ifndef KELPIE_VMM_BOOT_BOOT_INTERNAL_H
#define KELPIE_VMM_BOOT_BOOT_INTERNAL_H

#include "vmm/boot/boot.h"

#define BOOT_SEGMENT_COUNT_MAX 32 /* of one kernel; a vmlinux has 4 to 6 */

/* Offsets in the zero page, which are also a bzImage's file offsets where they belong to the setup header. */
#define BOOT_HEADER_OFFSET 0x1f1     /* setup_sects: the first byte of the setup header */
#define BOOT_HEADER_OFFSET_MAX 0x290 /* where struct boot_params goes on with something else */

/* Bytes of the image that go to an address. */
struct boot_segment {
    uint64_t gpa;
    struct boot_bytes bytes;
};

/* A parsed kernel. Its bytes are the image's. All segments and the entry lie within [start, end). */
struct boot_kernel {
    uint64_t start; /* at least BOOT_KERNEL_GPA_MIN */
    uint64_t end;   /* up to here there must be memory before the kernel knows its memory map */
    uint64_t entry;
    uint64_t initramfs_gpa_max;     /* the highest address that a byte of an initramfs may have */
    size_t command_line_size_max;   /* without its zero */
    struct boot_bytes setup_header; /* from BOOT_HEADER_OFFSET on; size 0: the image has none */
    struct boot_segment segments[BOOT_SEGMENT_COUNT_MAX];
    size_t segment_count;
};

/* Where the initramfs went; size 0: there is none. */
struct boot_initramfs {
    uint64_t gpa;
    uint64_t size;
};

/* BAD_CONFIG, field "kernel". */
enum kelpie_status boot_kernel_wrong(struct kelpie_error *err, const char *form, const char *why);

/* The parsers: whether the bytes are of their form, and what they say. */
bool boot_bzimage_matches(struct boot_bytes image);
KELPIE_CHECKED enum kelpie_status boot_bzimage_parse(struct boot_bytes image,
                                                     struct boot_kernel *ret_kernel,
                                                     struct kelpie_error *err);
bool boot_elf_matches(struct boot_bytes image);
KELPIE_CHECKED enum kelpie_status
boot_elf_parse(struct boot_bytes image, struct boot_kernel *ret_kernel, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status boot_krunfw_parse(const struct boot_image *image,
                                                    struct boot_kernel *ret_kernel,
                                                    struct kelpie_error *err);

/* The writers. The memory has BOOT_KERNEL_GPA_MIN bytes and more. */
void boot_tables_write(const struct memory *memory);
void boot_command_line_write(const struct memory *memory, const char *command_line);
void boot_params_write(const struct memory *memory, const struct boot_kernel *kernel,
                       struct boot_initramfs initramfs);

#endif
