/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Kernel images as anybody may make them, over a guest's memory of 64 MiB (hazard A17). The first byte says what
 * is done with the rest: bit 0: as a raw kernel, whose addresses are the next 16 bytes; bit 1: the last half is an
 * initramfs; bit 2: with a command line. What is accepted must begin within memory, and its initramfs must lie behind
 * the kernel.
 *
 * The memory is not cleared between inputs: a loader writes it and never reads it.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/cursor.h"
#include "vmm/boot/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_SIZE (64ull << 20)
#define MODE_RAW 0x01
#define MODE_INITRAMFS 0x02
#define MODE_COMMAND_LINE 0x04
#define OFFSET_INITRAMFS_GPA 0x218
#define OFFSET_INITRAMFS_SIZE 0x21c

static void check(const struct memory *memory, const struct boot_image *image,
                  struct boot_entry entry) {
    uint32_t initramfs_gpa = 0;
    uint32_t initramfs_size = 0;
    ASSERT(memory_readable(memory, entry.rip, 1));
    ASSERT(entry.rip >= BOOT_KERNEL_GPA_MIN);
    ASSERT(entry.rsi == BOOT_PARAMS_GPA);
    bool read = memory_read_u32(memory, BOOT_PARAMS_GPA + OFFSET_INITRAMFS_GPA, &initramfs_gpa) &&
                memory_read_u32(memory, BOOT_PARAMS_GPA + OFFSET_INITRAMFS_SIZE, &initramfs_size);
    ASSERT(read);
    ASSERT(initramfs_size == image->initramfs.size);
    if (initramfs_size > 0) {
        const void *bytes = memory_readable(memory, initramfs_gpa, initramfs_size);
        ASSERT(bytes);
        ASSERT(initramfs_gpa > entry.rip);
        ASSERT(memcmp(bytes, image->initramfs.data, initramfs_size) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct memory memory;
    struct boot_entry entry;
    struct boot_image image = {.command_line = NULL};
    struct cursor_reader reader = cursor_reader_init(data, size);
    if (!memory.host) {
        void *host = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ASSERT(host != MAP_FAILED);
        memory_init(&memory, host, MEMORY_SIZE);
    }
    uint8_t mode = cursor_read_u8(&reader);
    if (mode & MODE_RAW) {
        image.raw_load_gpa = cursor_read_u64(&reader);
        image.raw_entry_gpa = cursor_read_u64(&reader);
    }
    size_t left = cursor_reader_left(&reader);
    size_t kernel_size = (mode & MODE_INITRAMFS) ? left / 2 : left;
    image.kernel = (struct boot_bytes){data + reader.offset, kernel_size};
    image.initramfs = (struct boot_bytes){data + reader.offset + kernel_size, left - kernel_size};
    image.command_line = (mode & MODE_COMMAND_LINE) ? "console=ttyS0" : NULL;
    if (boot_load(&memory, &image, &entry, NULL) == KELPIE_OK) {
        check(&memory, &image, entry);
    }
    return 0;
}
