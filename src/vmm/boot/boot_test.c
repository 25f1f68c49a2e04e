/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/boot/boot.h"

#include <elf.h>
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vmm/boot/boot_internal.h"

#define MIB (1ull << 20)
#define IMAGE_SIZE 8192u
#define LOAD 0x1000000ull
#define CODE_OFFSET 1024u /* one sector of setup behind the boot sector */

struct fixture {
    struct memory memory;
    uint8_t image[IMAGE_SIZE];
    struct boot_image boot;
    struct boot_entry entry;
    struct kelpie_error err;
};

static void put(uint8_t *bytes, size_t offset, uint64_t value, size_t width) {
    assert_true(offset + width <= IMAGE_SIZE);
    memcpy(bytes + offset, &value, width);
}

static struct fixture fixture_new(uint64_t memory_size) {
    struct fixture fixture = {.entry = {1, 1}};
    void *host = mmap(NULL, memory_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    memory_init(&fixture.memory, host, memory_size);
    return fixture;
}

static void fixture_free(struct fixture *fixture) {
    munmap(fixture->memory.host, fixture->memory.size);
}

/* A bzImage of 7 KiB that is loaded at 16 MiB and wants 2 MiB there. */
static void make_bzimage(uint8_t *image) {
    memset(image, 0, IMAGE_SIZE);
    put(image, 0x1f1, CODE_OFFSET / 512 - 1, 1);
    put(image, 0x1f4, (IMAGE_SIZE - CODE_OFFSET) / 16, 4);
    put(image, 0x1fe, 0xaa55, 2);
    put(image, 0x201, 0x6a, 1); /* the header ends at 0x26c */
    memcpy(image + 0x202, "HdrS", 4);
    put(image, 0x206, 0x020f, 2);
    put(image, 0x211, 0x01, 1);
    put(image, 0x22c, 0x7fffffff, 4);
    put(image, 0x236, 0x0003, 2);
    put(image, 0x238, 2047, 4);
    put(image, 0x258, LOAD, 8);
    put(image, 0x260, 2 * MIB, 4);
    memset(image + 0x26c, 0xee, CODE_OFFSET - 0x26c); /* behind the header: not to be copied */
    for (size_t i = CODE_OFFSET; i < IMAGE_SIZE; i++) {
        image[i] = (uint8_t)(i * 7);
    }
}

static void program_header(uint8_t *image, size_t index, const Elf64_Phdr *program) {
    memcpy(image + sizeof(Elf64_Ehdr) + index * sizeof(*program), program, sizeof(*program));
}

/* A vmlinux of two segments, 3 KiB at 16 MiB, and 1 KiB with a .bss behind it at 18 MiB. */
static void make_elf(uint8_t *image) {
    Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_entry = LOAD + 0x100,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 3,
    };
    for (size_t i = 0; i < IMAGE_SIZE; i++) {
        image[i] = (uint8_t)(i * 5);
    }
    memcpy(image, &header, sizeof(header));
    program_header(image, 0,
                   &(Elf64_Phdr){.p_type = PT_LOAD,
                                 .p_offset = 4096,
                                 .p_vaddr = 0xffffffff81000000ull,
                                 .p_paddr = LOAD,
                                 .p_filesz = 3072,
                                 .p_memsz = 3072});
    program_header(image, 1, &(Elf64_Phdr){.p_type = PT_NOTE, .p_offset = UINT64_MAX});
    program_header(image, 2,
                   &(Elf64_Phdr){.p_type = PT_LOAD,
                                 .p_offset = 7168,
                                 .p_paddr = LOAD + 2 * MIB,
                                 .p_filesz = 1024,
                                 .p_memsz = 2 * MIB});
}

static void use_image(struct fixture *fixture, size_t size) {
    fixture->boot.kernel = (struct boot_bytes){fixture->image, size};
}

static enum kelpie_status load(struct fixture *fixture) {
    return boot_load(&fixture->memory, &fixture->boot, &fixture->entry, &fixture->err);
}

static void assert_refused(struct fixture *fixture, const char *field) {
    fixture->entry = (struct boot_entry){1, 1};
    assert_int_equal(load(fixture), KELPIE_BAD_CONFIG);
    assert_string_equal(fixture->err.field, field);
    assert_true(fixture->entry.rip == 1);
}

static uint64_t number_at(const struct fixture *fixture, uint64_t gpa, size_t width) {
    uint64_t value = 0;
    assert_true(memory_read(&fixture->memory, gpa, &value, width));
    return value;
}

static uint64_t params(const struct fixture *fixture, uint64_t offset, size_t width) {
    return number_at(fixture, BOOT_PARAMS_GPA + offset, width);
}

static void assert_e820(const struct fixture *fixture, size_t index, uint64_t start, uint64_t end,
                        uint32_t type) {
    uint64_t offset = 0x2d0 + 20 * index;
    assert_true(params(fixture, offset, 8) == start);
    assert_true(params(fixture, offset + 8, 8) == end - start);
    assert_int_equal(params(fixture, offset + 16, 4), type);
}

static void a_bzimage_is_loaded_with_its_header(void **state) {
    (void)state;
    uint8_t initramfs[5000];
    struct fixture fixture = fixture_new(64 * MIB);
    memset(initramfs, 0x5a, sizeof(initramfs));
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.initramfs = (struct boot_bytes){initramfs, sizeof(initramfs)};
    fixture.boot.command_line = "console=ttyS0 quiet";
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_true(fixture.entry.rip == LOAD + 0x200);
    assert_true(fixture.entry.rsi == BOOT_PARAMS_GPA);
    assert_memory_equal(fixture.memory.host + LOAD, fixture.image + CODE_OFFSET,
                        IMAGE_SIZE - CODE_OFFSET);
    assert_int_equal(number_at(&fixture, LOAD + IMAGE_SIZE - CODE_OFFSET, 8), 0);

    /* The setup header, up to its end and no further. */
    assert_int_equal(params(&fixture, 0x1f1, 1), 1);
    assert_int_equal(params(&fixture, 0x202, 4), 0x53726448);
    assert_int_equal(params(&fixture, 0x206, 2), 0x020f);
    assert_int_equal(params(&fixture, 0x260, 4), 2 * MIB);
    assert_int_equal(params(&fixture, 0x26c, 4), 0);
    assert_int_equal(params(&fixture, 0x1ef, 1),
                     0); /* the sentinel: the page was filled field by field */

    /* What we set. */
    assert_int_equal(params(&fixture, 0x210, 1), 0xff);
    assert_int_equal(params(&fixture, 0x070, 8), VMM_RSDP_GPA);
    assert_int_equal(params(&fixture, 0x228, 4), BOOT_COMMAND_LINE_GPA);
    assert_string_equal((char *)fixture.memory.host + BOOT_COMMAND_LINE_GPA, "console=ttyS0 quiet");
    uint64_t gpa = 64 * MIB - 2 * VMM_PAGE_SIZE; /* as high as it can be */
    assert_int_equal(params(&fixture, 0x218, 4), gpa);
    assert_int_equal(params(&fixture, 0x21c, 4), sizeof(initramfs));
    assert_memory_equal(fixture.memory.host + gpa, initramfs, sizeof(initramfs));

    assert_int_equal(params(&fixture, 0x1e8, 1), 4);
    assert_e820(&fixture, 0, 0, BOOT_LOW_MEMORY_END, 1);
    assert_e820(&fixture, 1, 0xe0000, 0xf0000, 3);
    assert_e820(&fixture, 2, 0xf0000, 0x100000, 2);
    assert_e820(&fixture, 3, 0x100000, 64 * MIB, 1);
    fixture_free(&fixture);
}

static void memory_above_the_hole_is_in_the_map(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(VMM_MEMORY_LOW_END + 512 * MIB);
    uint8_t initramfs[1] = {1};
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.initramfs = (struct boot_bytes){initramfs, sizeof(initramfs)};
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_int_equal(params(&fixture, 0x1e8, 1), 5);
    assert_e820(&fixture, 3, 0x100000, VMM_MEMORY_LOW_END, 1);
    assert_e820(&fixture, 4, VMM_MEMORY_HIGH_START, VMM_MEMORY_HIGH_START + 512 * MIB, 1);
    assert_int_equal(params(&fixture, 0x218, 4), 0x7ffff000); /* the kernel's own maximum */
    fixture.boot.initramfs.size = 0;
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_int_equal(params(&fixture, 0x218, 8), 0);
    fixture_free(&fixture);
}

/* Walks the tables as the processor does. */
static uint64_t translate(const struct fixture *fixture, uint64_t address) {
    uint64_t pml4 = number_at(fixture, BOOT_PML4_GPA + 8 * (address >> 39 & 511), 8);
    assert_int_equal(pml4 & 0xfff, 0x03);
    uint64_t pdpt = number_at(fixture, (pml4 & ~0xfffull) + 8 * (address >> 30 & 511), 8);
    assert_int_equal(pdpt & 0xfff, 0x03);
    uint64_t page = number_at(fixture, (pdpt & ~0xfffull) + 8 * (address >> 21 & 511), 8);
    assert_int_equal(page & 0xfff, 0x83);
    return (page & ~0x1fffffull) | (address & 0x1fffff);
}

static void the_first_4_gib_are_mapped_to_themselves(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(64 * MIB);
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    assert_int_equal(load(&fixture), KELPIE_OK);
    const uint64_t addresses[] = {0,          0x7000,     LOAD + 0x200, 0x3fffffff,
                                  0x40000000, 0xd0000000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
        assert_true(translate(&fixture, addresses[i]) == addresses[i]);
    }
    assert_int_equal(number_at(&fixture, BOOT_PML4_GPA + 8, 8), 0);
    assert_int_equal(number_at(&fixture, BOOT_PDPT_GPA + 32, 8), 0);
    assert_int_equal(number_at(&fixture, BOOT_GDT_GPA, 8), 0);
    uint64_t code = number_at(&fixture, BOOT_GDT_GPA + BOOT_CODE_SELECTOR, 8);
    assert_true(code >> 53 & 1);               /* L */
    assert_int_equal(code >> 40 & 0xff, 0x9b); /* present, code */
    assert_int_equal(number_at(&fixture, BOOT_GDT_GPA + BOOT_DATA_SELECTOR + 5, 1), 0x93);
    fixture_free(&fixture);
}

static void the_bios_entry_reboots(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(64 * MIB);
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    assert_int_equal(load(&fixture), KELPIE_OK);
    /* cli; mov $0x604, %dx; mov $0x42, %al; out %al, %dx; hlt; jmp to it */
    assert_memory_equal(fixture.memory.host + 0xffff0, "\xfa\xba\x04\x06\xb0\x42\xee\xf4\xeb\xfd",
                        10);
    fixture_free(&fixture);
}

static void a_vmlinux_is_loaded_by_physical_address(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(64 * MIB);
    make_elf(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_true(fixture.entry.rip == LOAD + 0x100);
    assert_memory_equal(fixture.memory.host + LOAD, fixture.image + 4096, 3072);
    assert_memory_equal(fixture.memory.host + LOAD + 2 * MIB, fixture.image + 7168, 1024);
    assert_int_equal(params(&fixture, 0x202, 4), 0x53726448);
    assert_int_equal(params(&fixture, 0x1fe, 2), 0xaa55);
    fixture_free(&fixture);
}

static void a_raw_kernel_is_loaded_where_its_library_says(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(64 * MIB);
    memset(fixture.image, 0x90, IMAGE_SIZE);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.raw_load_gpa = LOAD;
    fixture.boot.raw_entry_gpa = LOAD + 0x123;
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_true(fixture.entry.rip == LOAD + 0x123);
    assert_memory_equal(fixture.memory.host + LOAD, fixture.image, IMAGE_SIZE);
    const uint64_t wrong[][2] = {{LOAD, LOAD - 1},
                                 {LOAD, LOAD + IMAGE_SIZE},
                                 {0, 0x123},
                                 {LOAD + 1, LOAD + 1},
                                 {UINT64_MAX & ~0xfffull, UINT64_MAX},
                                 {VMM_MEMORY_LOW_END, VMM_MEMORY_LOW_END},
                                 {LOAD, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        fixture.boot.raw_load_gpa = wrong[i][0];
        fixture.boot.raw_entry_gpa = wrong[i][1];
        assert_refused(&fixture, "kernel");
    }
    fixture_free(&fixture);
}

static void too_little_memory_says_how_much_is_needed(void **state) {
    (void)state;
    static uint8_t initramfs[3 * MIB + 1];
    struct fixture fixture = fixture_new(21 * MIB);
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.initramfs = (struct boot_bytes){initramfs, sizeof(initramfs)};
    assert_refused(&fixture, "memory_mib"); /* 16 + 2 + 3 and a page */
    assert_non_null(strstr(fixture.err.message, "at least 22 MiB"));
    assert_int_equal(number_at(&fixture, LOAD, 8), 0); /* nothing was written */
    assert_int_equal(number_at(&fixture, BOOT_PML4_GPA, 8), 0);
    fixture.boot.initramfs.size = 3 * MIB;
    assert_int_equal(load(&fixture), KELPIE_OK); /* to the last byte */
    assert_int_equal(params(&fixture, 0x218, 4), 18 * MIB);
    fixture_free(&fixture);
    struct fixture tiny = fixture_new(VMM_PAGE_SIZE);
    make_elf(tiny.image);
    use_image(&tiny, IMAGE_SIZE);
    assert_refused(&tiny, "memory_mib");
    fixture_free(&tiny);
}

static void an_initramfs_that_never_fits_is_its_own_error(void **state) {
    (void)state;
    static uint8_t initramfs[2 * MIB];
    struct fixture fixture = fixture_new(64 * MIB);
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.initramfs = (struct boot_bytes){initramfs, sizeof(initramfs)};
    const uint64_t wrong[] = {0, 0xfff, LOAD, LOAD + 4 * MIB - 2};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        put(fixture.image, 0x22c, wrong[i], 4);
        assert_refused(&fixture, "initramfs");
    }
    put(fixture.image, 0x22c, LOAD + 4 * MIB - 1, 4);
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_int_equal(params(&fixture, 0x218, 4), LOAD + 2 * MIB);
    put(fixture.image, 0x22c, UINT32_MAX, 4);
    assert_int_equal(load(&fixture), KELPIE_OK);
    assert_int_equal(params(&fixture, 0x218, 4), 62 * MIB);
    fixture_free(&fixture);
}

static void the_command_line_is_bounded_by_the_kernel_and_by_us(void **state) {
    (void)state;
    char text[BOOT_COMMAND_LINE_SIZE_MAX + 1];
    struct fixture fixture = fixture_new(64 * MIB);
    memset(text, 'x', sizeof(text));
    make_bzimage(fixture.image);
    use_image(&fixture, IMAGE_SIZE);
    fixture.boot.command_line = text;
    text[BOOT_COMMAND_LINE_SIZE_MAX] = '\0';
    put(fixture.image, 0x238, UINT32_MAX, 4);
    assert_refused(&fixture, "command_line");
    text[BOOT_COMMAND_LINE_SIZE_MAX - 1] = '\0';
    assert_int_equal(load(&fixture), KELPIE_OK);
    put(fixture.image, 0x238, 255, 4);
    assert_refused(&fixture, "command_line");
    text[255] = '\0';
    assert_int_equal(load(&fixture), KELPIE_OK);
    fixture_free(&fixture);
}

struct edit {
    size_t offset;
    uint64_t value;
    size_t width;
};

static void hazard_a17_a_hostile_bzimage_is_refused(void **state) {
    (void)state;
    struct fixture fixture = fixture_new(64 * MIB);
    const struct edit edits[] = {
        {0x1f1, 255, 1},                          /* the code begins behind the end */
        {0x1f1, 0, 1},                            /* four sectors of setup: the code is cut off */
        {0x1f4, UINT32_MAX, 4},                   /* a code size that no file has */
        {0x1f4, (IMAGE_SIZE - 1024) / 16 + 1, 4}, /* one unit too much */
        {0x1f4, 0, 4},                            /* no code */
        {0x1f4, 0x200 / 16, 4},                   /* it ends before the entry */
        {0x1fe, 0, 2},
        {0x201, 0, 1}, /* the header ends before init_size */
        {0x202, 0, 4},
        {0x206, 0x020b, 2},
        {0x211, 0, 1}, /* a zImage */
        {0x236, 2, 2}, /* 32-bit only */
        {0x258, 0, 8}, /* it would lie on the tables */
        {0x258, 0xff000, 8},
        {0x258, LOAD + 1, 8},
        {0x258, VMM_MEMORY_LOW_END - MIB, 8}, /* its end is in the hole */
        {0x258, VMM_MEMORY_HIGH_START, 8},
        {0x258, UINT64_MAX & ~0xfffull, 8}, /* its end overflows */
        {0x260, 0, 4},
        {0x260, IMAGE_SIZE - 1024 - 1, 4}, /* less than the code */
        {0x260, UINT32_MAX, 4},
    };
    for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
        make_bzimage(fixture.image);
        put(fixture.image, edits[i].offset, edits[i].value, edits[i].width);
        use_image(&fixture, IMAGE_SIZE);
        assert_refused(&fixture, "kernel");
    }
    fixture_free(&fixture);
}

static void hazard_a17_a_hostile_elf_is_refused(void **state) {
    (void)state;
    const size_t first = sizeof(Elf64_Ehdr);
    const size_t last = first + 2 * sizeof(Elf64_Phdr);
    struct fixture fixture = fixture_new(64 * MIB);
    const struct edit edits[] = {
        {EI_CLASS, ELFCLASS32, 1},
        {EI_DATA, ELFDATA2MSB, 1},
        {offsetof(Elf64_Ehdr, e_machine), EM_AARCH64, 2},
        {offsetof(Elf64_Ehdr, e_type), ET_REL, 2},
        {offsetof(Elf64_Ehdr, e_phentsize), 0, 2}, /* a walk that stands still */
        {offsetof(Elf64_Ehdr, e_phentsize), UINT16_MAX, 2},
        {offsetof(Elf64_Ehdr, e_phnum), 0, 2},
        {offsetof(Elf64_Ehdr, e_phnum), UINT16_MAX, 2},
        {offsetof(Elf64_Ehdr, e_phnum), BOOT_SEGMENT_COUNT_MAX + 1, 2},
        {offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 8, 8}, /* overflows */
        {offsetof(Elf64_Ehdr, e_phoff), IMAGE_SIZE - 3 * sizeof(Elf64_Phdr) + 1, 8},
        {offsetof(Elf64_Ehdr, e_entry), 0, 8},
        {offsetof(Elf64_Ehdr, e_entry), LOAD + 3072, 8}, /* one byte behind the segment */
        {offsetof(Elf64_Ehdr, e_entry), LOAD - 1, 8},
        {first + offsetof(Elf64_Phdr, p_offset), UINT64_MAX, 8},
        {first + offsetof(Elf64_Phdr, p_offset), IMAGE_SIZE - 3071, 8},
        {first + offsetof(Elf64_Phdr, p_filesz), UINT64_MAX, 8},
        {first + offsetof(Elf64_Phdr, p_filesz), 3073, 8}, /* more than memsz */
        {first + offsetof(Elf64_Phdr, p_memsz), 0, 8},
        {last + offsetof(Elf64_Phdr, p_memsz), UINT64_MAX, 8},
        {last + offsetof(Elf64_Phdr, p_memsz), VMM_MEMORY_LOW_END, 8},
        {last + offsetof(Elf64_Phdr, p_paddr), 0x1000, 8}, /* over our tables */
        {last + offsetof(Elf64_Phdr, p_paddr), UINT64_MAX, 8},
        {last + offsetof(Elf64_Phdr, p_paddr), VMM_MEMORY_HIGH_START, 8},
    };
    for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
        make_elf(fixture.image);
        put(fixture.image, edits[i].offset, edits[i].value, edits[i].width);
        use_image(&fixture, IMAGE_SIZE);
        assert_refused(&fixture, "kernel");
    }
    /* Many segments of the same bytes: the copy would be longer than the file. */
    make_elf(fixture.image);
    put(fixture.image, last + offsetof(Elf64_Phdr, p_offset), 0, 8);
    put(fixture.image, last + offsetof(Elf64_Phdr, p_filesz), IMAGE_SIZE, 8);
    assert_refused(&fixture, "kernel");
    fixture_free(&fixture);
}

/* Each in a piece of memory of just that size: the sanitizer sees what is read beyond. */
static void hazard_a17_every_truncation_is_refused(void **state) {
    (void)state;
    void (*const makers[])(uint8_t *) = {make_bzimage, make_elf};
    struct fixture fixture = fixture_new(64 * MIB);
    for (size_t i = 0; i < ARRAY_SIZE(makers); i++) {
        makers[i](fixture.image);
        for (size_t size = 0; size < IMAGE_SIZE; size++) {
            uint8_t *part = malloc(size + 1);
            assert_non_null(part);
            memcpy(part + 1, fixture.image, size); /* not aligned */
            fixture.boot.kernel = (struct boot_bytes){part + 1, size};
            assert_refused(&fixture, "kernel");
            free(part);
        }
    }
    fixture.boot.kernel = (struct boot_bytes){NULL, 0};
    fixture.boot.raw_load_gpa = LOAD;
    fixture.boot.raw_entry_gpa = LOAD;
    assert_refused(&fixture, "kernel");
    fixture_free(&fixture);
}

/* A kernel as distributions build them, where an earlier run left one. */
static void a_distributions_kernel_is_loaded(void **state) {
    (void)state;
    char pattern[512];
    glob_t found = {.gl_pathc = 0};
    const char *home = getenv("HOME");
    snprintf(pattern, sizeof(pattern), "%s/.cache/kelpie/kernels/*/boot/vmlinuz-*",
             home ? home : "");
    if (glob(pattern, 0, NULL, &found) != 0) {
        print_message("there is no kernel in the cache\n");
        skip();
    }
    struct fixture fixture = fixture_new(256 * MIB);
    static uint8_t bytes[32 * MIB];
    static uint8_t initramfs[5 * MIB];
    FILE *file = fopen(found.gl_pathv[0], "rb");
    assert_non_null(file);
    fixture.boot.kernel = (struct boot_bytes){bytes, fread(bytes, 1, sizeof(bytes), file)};
    fixture.boot.initramfs = (struct boot_bytes){initramfs, sizeof(initramfs)};
    fixture.boot.command_line = "console=ttyS0";
    (void)fclose(file);
    assert_int_equal(load(&fixture), KELPIE_OK);
    uint64_t start = fixture.entry.rip - 0x200;
    print_message(
        "%s: %zu bytes, at %#llx, init_size %#llx, protocol %#llx, entry %#llx, initramfs "
        "at %#llx and %#llx bytes, %llu pieces of memory\n",
        strrchr(found.gl_pathv[0], '/') + 1, fixture.boot.kernel.size, (unsigned long long)start,
        (unsigned long long)params(&fixture, 0x260, 4),
        (unsigned long long)params(&fixture, 0x206, 2), (unsigned long long)fixture.entry.rip,
        (unsigned long long)params(&fixture, 0x218, 4),
        (unsigned long long)params(&fixture, 0x21c, 4),
        (unsigned long long)params(&fixture, 0x1e8, 1));
    assert_true(params(&fixture, 0x258, 8) == start);
    assert_true(start + params(&fixture, 0x260, 4) <= params(&fixture, 0x218, 4));
    assert_int_equal(params(&fixture, 0x218, 4), 251 * MIB);
    assert_int_not_equal(number_at(&fixture, fixture.entry.rip, 8), 0); /* there is code */
    fixture_free(&fixture);
    globfree(&found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bzimage_is_loaded_with_its_header),
        cmocka_unit_test(memory_above_the_hole_is_in_the_map),
        cmocka_unit_test(the_first_4_gib_are_mapped_to_themselves),
        cmocka_unit_test(the_bios_entry_reboots),
        cmocka_unit_test(a_vmlinux_is_loaded_by_physical_address),
        cmocka_unit_test(a_raw_kernel_is_loaded_where_its_library_says),
        cmocka_unit_test(too_little_memory_says_how_much_is_needed),
        cmocka_unit_test(an_initramfs_that_never_fits_is_its_own_error),
        cmocka_unit_test(the_command_line_is_bounded_by_the_kernel_and_by_us),
        cmocka_unit_test(hazard_a17_a_hostile_bzimage_is_refused),
        cmocka_unit_test(hazard_a17_a_hostile_elf_is_refused),
        cmocka_unit_test(hazard_a17_every_truncation_is_refused),
        cmocka_unit_test(a_distributions_kernel_is_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
