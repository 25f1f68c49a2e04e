/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * bzimage.c: a bzImage. Offsets and meanings are those of the Linux documentation, "The Linux/x86 Boot
 * Protocol", sections "Details of Header Fields" and "64-bit Boot Protocol".
 *
 * The file is (setup_sects + 1) sectors of real-mode code, which hold the setup header and are not run, and
 * then the protected-mode code, which is loaded at pref_address, is entered 0x200 bytes in, and unpacks the kernel
 * within the init_size bytes from there on.
 */
#include "base/assert.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "vmm/boot/boot_internal.h"

#define FORM "bzImage"
#define SECTOR_SIZE 512u
#define SETUP_SECTS_DEFAULT 4 /* what 0 stands for */
#define BOOT_FLAG 0xaa55
#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define VERSION_MIN 0x020c       /* Linux 3.8: xloadflags */
#define LOADED_HIGH 0x01
#define XLF_KERNEL_64 0x0001
#define ENTRY_64_OFFSET 0x200
#define SYSSIZE_UNIT 16
#define HEADER_SIZE_FIELD 0x201 /* the header ends this byte's value behind HEADER_SIZE_BASE */
#define HEADER_SIZE_BASE 0x202
#define HEADER_END_MIN 0x264 /* behind init_size */

struct header {
    uint64_t code_offset; /* in the file */
    uint64_t code_size;
    uint64_t end; /* of the setup header */
    uint16_t version;
    uint8_t load_flags;
    uint16_t extended_load_flags;
    uint32_t initramfs_gpa_max;
    uint32_t command_line_size_max;
    uint64_t load_gpa;
    uint32_t init_size;
};

/* The field at an offset below BOOT_HEADER_OFFSET_MAX, of which the caller checked that the image has so much. */
static struct cursor_reader at(struct boot_bytes image, size_t offset) {
    ASSERT(image.size >= BOOT_HEADER_OFFSET_MAX);
    ASSERT(offset < BOOT_HEADER_OFFSET_MAX);
    return cursor_reader_init(image.data + offset, BOOT_HEADER_OFFSET_MAX - offset);
}

static uint8_t u8_at(struct boot_bytes image, size_t offset) {
    struct cursor_reader reader = at(image, offset);
    uint8_t value = cursor_read_u8(&reader);
    ASSERT(!reader.failed);
    return value;
}

static uint16_t u16_at(struct boot_bytes image, size_t offset) {
    struct cursor_reader reader = at(image, offset);
    uint16_t value = cursor_read_u16(&reader);
    ASSERT(!reader.failed);
    return value;
}

static uint32_t u32_at(struct boot_bytes image, size_t offset) {
    struct cursor_reader reader = at(image, offset);
    uint32_t value = cursor_read_u32(&reader);
    ASSERT(!reader.failed);
    return value;
}

static uint64_t u64_at(struct boot_bytes image, size_t offset) {
    struct cursor_reader reader = at(image, offset);
    uint64_t value = cursor_read_u64(&reader);
    ASSERT(!reader.failed);
    return value;
}

bool boot_bzimage_matches(struct boot_bytes image) {
    ASSERT(image.data || image.size == 0);
    static_assert(BOOT_HEADER_OFFSET_MAX <= 2 * SECTOR_SIZE, "the setup header is in two sectors");
    return image.size >= BOOT_HEADER_OFFSET_MAX && u16_at(image, 0x1fe) == BOOT_FLAG &&
           u32_at(image, 0x202) == HEADER_MAGIC;
}

static struct header read_header(struct boot_bytes image) {
    uint8_t setup_sects = u8_at(image, 0x1f1);
    struct header header = {
        .code_offset =
            (uint64_t)((setup_sects == 0 ? SETUP_SECTS_DEFAULT : setup_sects) + 1) * SECTOR_SIZE,
        .code_size = (uint64_t)u32_at(image, 0x1f4) * SYSSIZE_UNIT,
        .end = HEADER_SIZE_BASE + (uint64_t)u8_at(image, HEADER_SIZE_FIELD),
        .version = u16_at(image, 0x206),
        .load_flags = u8_at(image, 0x211),
        .extended_load_flags = u16_at(image, 0x236),
        .initramfs_gpa_max = u32_at(image, 0x22c),
        .command_line_size_max = u32_at(image, 0x238),
        .load_gpa = u64_at(image, 0x258),
        .init_size = u32_at(image, 0x260),
    };
    ASSERT(header.code_offset >= 2 * SECTOR_SIZE);
    ASSERT(header.code_offset <= 256 * SECTOR_SIZE);
    return header;
}

/* What is wrong with it; NULL: nothing. */
static const char *header_complaint(const struct header *header, size_t image_size) {
    ASSERT(header);
    ASSERT(image_size >= BOOT_HEADER_OFFSET_MAX);
    if (header->version < VERSION_MIN) {
        return "its boot protocol is older than 2.12";
    }
    if (header->end < HEADER_END_MIN) {
        return "its setup header ends too soon";
    }
    if (!(header->load_flags & LOADED_HIGH) || !(header->extended_load_flags & XLF_KERNEL_64)) {
        return "it has no 64-bit entry";
    }
    if (header->code_offset > image_size || header->code_size > image_size - header->code_offset) {
        return "it is cut off";
    }
    if (header->code_size <= ENTRY_64_OFFSET || header->code_size > header->init_size) {
        return "its sizes contradict each other";
    }
    if (header->load_gpa < BOOT_KERNEL_GPA_MIN || header->load_gpa % VMM_PAGE_SIZE != 0 ||
        header->load_gpa > VMM_MEMORY_LOW_END ||
        header->init_size > VMM_MEMORY_LOW_END - header->load_gpa) {
        return "it wants to be loaded where there is no memory";
    }
    return NULL;
}

enum kelpie_status boot_bzimage_parse(struct boot_bytes image, struct boot_kernel *ret_kernel,
                                      struct kelpie_error *err) {
    ASSERT(ret_kernel);
    ASSERT(boot_bzimage_matches(image));
    struct header header = read_header(image);
    const char *complaint = header_complaint(&header, image.size);
    if (complaint) {
        return boot_kernel_wrong(err, FORM, complaint);
    }
    size_t header_end = (size_t)min_u64(header.end, BOOT_HEADER_OFFSET_MAX);
    *ret_kernel = (struct boot_kernel){
        .start = header.load_gpa,
        .end = header.load_gpa + header.init_size,
        .entry = header.load_gpa + ENTRY_64_OFFSET,
        .initramfs_gpa_max = header.initramfs_gpa_max,
        .command_line_size_max = header.command_line_size_max,
        .setup_header = {image.data + BOOT_HEADER_OFFSET, header_end - BOOT_HEADER_OFFSET},
        .segments = {{header.load_gpa,
                      {image.data + header.code_offset, (size_t)header.code_size}}},
        .segment_count = 1,
    };
    return KELPIE_OK;
}
