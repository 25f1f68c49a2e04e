/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The pure parsers of src/image/: kernel header, ELF, module texts, names. */
#include "image/image_internal.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/assert.h"

/* ---- The kernel's header ---------------------------------------------------------------------- */

#define KERNEL_SIZE 8192

static void put(uint8_t *data, size_t offset, size_t width, uint64_t value) {
    for (size_t i = 0; i < width; i++) {
        data[offset + i] = (uint8_t)(value >> (8 * i));
    }
}

static void make_kernel(uint8_t data[KERNEL_SIZE]) {
    memset(data, 0, KERNEL_SIZE);
    put(data, 0x1f1, 1, 3);                         /* setup_sects: 2048 bytes of setup */
    put(data, 0x1f4, 4, (KERNEL_SIZE - 2048) / 16); /* syssize */
    put(data, 0x1fe, 2, 0xaa55);
    memcpy(data + 0x202, "HdrS", 4);
    put(data, 0x206, 2, 0x20f);
    put(data, 0x20e, 2, 0x300 - 0x200);
    put(data, 0x211, 1, 1);
    memcpy(data + 0x300, "6.1.0-9-cloud-amd64 (debian@x) #1 SMP", 38);
}

static enum kelpie_status parse(const uint8_t *data, size_t size, uint64_t file_size,
                                char release[IMAGE_RELEASE_SIZE_MAX + 1]) {
    struct kelpie_error err = {0};
    /* A copy of just this size, so that a read beyond it is seen. */
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, data, size);
    enum kelpie_status status = image_kernel_header_parse(copy, size, file_size, release, &err);
    free(copy);
    if (status != KELPIE_OK) {
        assert_int_equal(status, KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "kernel");
    }
    return status;
}

static void test_kernel_header_gives_the_release(void **state) {
    (void)state;
    uint8_t data[KERNEL_SIZE];
    char release[IMAGE_RELEASE_SIZE_MAX + 1];
    make_kernel(data);
    assert_int_equal(parse(data, KERNEL_SIZE, KERNEL_SIZE, release), KELPIE_OK);
    assert_string_equal(release, "6.1.0-9-cloud-amd64");
}

static void hazard_A17_kernel_header_cut_anywhere(void **state) {
    (void)state;
    uint8_t data[KERNEL_SIZE];
    char release[IMAGE_RELEASE_SIZE_MAX + 1];
    make_kernel(data);
    for (size_t size = 0; size < KERNEL_SIZE; size++) {
        assert_int_equal(parse(data, size, size, release), KELPIE_BAD_CONFIG);
    }
}

static void hazard_A17_kernel_header_every_byte_changed(void **state) {
    static const uint8_t values[] = {0x00, 0x01, 0x2e, 0x2f, 0x7f, 0x80, 0xff};
    (void)state;
    uint8_t data[KERNEL_SIZE];
    char release[IMAGE_RELEASE_SIZE_MAX + 1];
    make_kernel(data);
    for (size_t i = 0x1f0; i < 0x340; i++) {
        uint8_t saved = data[i];
        for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
            data[i] = values[j];
            if (parse(data, KERNEL_SIZE, KERNEL_SIZE, release) == KELPIE_OK) {
                assert_true(image_path_is_plain(release));
                assert_null(strchr(release, '/'));
            }
        }
        data[i] = saved;
    }
}

static void hazard_A17_kernel_release_that_leads_elsewhere(void **state) {
    static const char *const releases[] = {"../../etc", "..", ".", "a/b", "", " x", "a\nb"};
    (void)state;
    uint8_t data[KERNEL_SIZE];
    char release[IMAGE_RELEASE_SIZE_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(releases); i++) {
        make_kernel(data);
        memset(data + 0x300, 0, 64);
        memcpy(data + 0x300, releases[i], strlen(releases[i]));
        assert_int_equal(parse(data, KERNEL_SIZE, KERNEL_SIZE, release), KELPIE_BAD_CONFIG);
    }
    make_kernel(data);
    memset(data + 0x300, 'a', IMAGE_RELEASE_SIZE_MAX + 1); /* One too long. */
    data[0x300 + IMAGE_RELEASE_SIZE_MAX + 1] = 0;
    assert_int_equal(parse(data, KERNEL_SIZE, KERNEL_SIZE, release), KELPIE_BAD_CONFIG);
    data[0x300 + IMAGE_RELEASE_SIZE_MAX] = 0;
    assert_int_equal(parse(data, KERNEL_SIZE, KERNEL_SIZE, release), KELPIE_OK);
    memset(data + 0x300, 'a', KERNEL_SIZE - 0x300); /* No end. */
    assert_int_equal(parse(data, KERNEL_SIZE, KERNEL_SIZE, release), KELPIE_BAD_CONFIG);
}

/* ---- ELF -------------------------------------------------------------------------------------- */

#define ELF_SIZE 1024
#define MODINFO "license=GPL\0depends=virtio,virtio-ring\0name=x"

/* A module with a section .modinfo at 256, names at 384, section headers at 512. */
static void make_module(uint8_t data[ELF_SIZE]) {
    static const char names[] = "\0.shstrtab\0.modinfo";
    Elf64_Ehdr header = {.e_type = ET_REL,
                         .e_machine = EM_X86_64,
                         .e_shoff = 512,
                         .e_shentsize = sizeof(Elf64_Shdr),
                         .e_shnum = 3,
                         .e_shstrndx = 1};
    Elf64_Shdr sections[3] = {
        {.sh_type = SHT_NULL},
        {.sh_name = 1, .sh_type = SHT_STRTAB, .sh_offset = 384, .sh_size = sizeof(names)},
        {.sh_name = 11, .sh_type = SHT_PROGBITS, .sh_offset = 256, .sh_size = sizeof(MODINFO)},
    };
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    memset(data, 0, ELF_SIZE);
    memcpy(data, &header, sizeof(header));
    memcpy(data + 256, MODINFO, sizeof(MODINFO));
    memcpy(data + 384, names, sizeof(names));
    memcpy(data + 512, sections, sizeof(sections));
}

static void test_elf_section_is_found(void **state) {
    (void)state;
    uint8_t data[ELF_SIZE];
    struct image_slice section;
    struct image_slice value;
    make_module(data);
    assert_true(image_elf_section(data, ELF_SIZE, ".modinfo", &section.data, &section.size));
    assert_int_equal(section.size, sizeof(MODINFO));
    assert_true(image_module_info(section, "depends", &value));
    assert_int_equal(value.size, strlen("virtio,virtio-ring"));
    assert_false(image_module_info(section, "depend", &value));
    assert_false(image_elf_section(data, ELF_SIZE, ".modinf", &section.data, &section.size));
}

static void hazard_A17_elf_cut_and_changed_anywhere(void **state) {
    static const uint8_t values[] = {0x00, 0x01, 0x3f, 0x7f, 0x80, 0xff};
    (void)state;
    uint8_t original[ELF_SIZE];
    struct image_slice section;
    struct image_slice value;
    make_module(original);
    for (size_t size = 0; size <= ELF_SIZE; size++) {
        uint8_t *copy = malloc(size + 1);
        memcpy(copy, original, size);
        bool found = image_elf_section(copy, size, ".modinfo", &section.data, &section.size);
        assert_true(found == (size >= 512 + 3 * sizeof(Elf64_Shdr)));
        assert_false(image_elf_is_static(copy, size));
        free(copy);
    }
    uint8_t *copy = malloc(ELF_SIZE);
    for (size_t i = 0; i < ELF_SIZE; i++) {
        for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
            memcpy(copy, original, ELF_SIZE);
            copy[i] = values[j];
            if (image_elf_section(copy, ELF_SIZE, ".modinfo", &section.data, &section.size)) {
                assert_true((const uint8_t *)section.data >= copy);
                assert_true(section.size <= ELF_SIZE);
                (void)image_module_info(section, "depends", &value);
            }
        }
    }
    free(copy);
}

static void test_elf_with_a_loader_is_not_static(void **state) {
    (void)state;
    uint8_t data[ELF_SIZE] = {0};
    Elf64_Ehdr header = {.e_type = ET_DYN,
                         .e_machine = EM_X86_64,
                         .e_phoff = 64,
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = 2};
    Elf64_Phdr programs[2] = {{.p_type = PT_LOAD}, {.p_type = PT_LOAD}};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(data, &header, sizeof(header));
    memcpy(data + 64, programs, sizeof(programs));
    assert_true(image_elf_is_static(data, ELF_SIZE));
    assert_false(image_elf_is_static(data, 64 + sizeof(programs) - 1));
    programs[1].p_type = PT_INTERP;
    memcpy(data + 64, programs, sizeof(programs));
    assert_false(image_elf_is_static(data, ELF_SIZE));
}

#define SYMBOL "krunfw_get_kernel"
#define NAMES "\0other\0krunfw_get_kernel\0libc.so.6"
#define NAMES_OFFSET 600
#define NAMES_ADDRESS 0x3600

/* A library of one piece, whose byte N is at 0x3600 - 600 + N: its dynamic section at 512, its names at 600. */
static void make_library(uint8_t data[ELF_SIZE], const char *names, size_t names_size) {
    Elf64_Ehdr header = {.e_type = ET_DYN,
                         .e_machine = EM_X86_64,
                         .e_phoff = 64,
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = 2};
    const Elf64_Phdr programs[2] = {
        {.p_type = PT_LOAD,
         .p_offset = 500,
         .p_vaddr = NAMES_ADDRESS - 100,
         .p_filesz = 400,
         .p_memsz = 400},
        {.p_type = PT_DYNAMIC, .p_offset = 512, .p_filesz = 3 * sizeof(Elf64_Dyn)},
    };
    const Elf64_Dyn dynamic[3] = {{DT_STRTAB, {NAMES_ADDRESS}}, {DT_STRSZ, {names_size}}};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    memset(data, 0, ELF_SIZE);
    memcpy(data, &header, sizeof(header));
    memcpy(data + 64, programs, sizeof(programs));
    memcpy(data + 512, dynamic, sizeof(dynamic));
    memcpy(data + NAMES_OFFSET, names, names_size);
}

static bool is_library(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1); /* of just that size, so that a read beyond it is seen */
    memcpy(copy, data, size);
    bool found = image_elf_is_library_with(copy, size, SYMBOL);
    free(copy);
    return found;
}

static void test_a_library_is_told_by_its_symbol(void **state) {
    (void)state;
    uint8_t data[ELF_SIZE];
    make_library(data, NAMES, sizeof(NAMES));
    assert_true(is_library(data, ELF_SIZE));
    data[16] = ET_EXEC;
    assert_false(is_library(data, ELF_SIZE));
    make_library(data, NAMES, 24); /* without its last zero */
    assert_false(is_library(data, ELF_SIZE));
    make_library(data, "\0xkrunfw_get_kernel", 20); /* linkers share the ends of names */
    assert_true(is_library(data, ELF_SIZE));
    make_library(data, "\0krunfw_get_kernel2", 20);
    assert_false(is_library(data, ELF_SIZE));
    make_module(data);
    assert_false(is_library(data, ELF_SIZE));
}

static void hazard_A17_a_library_cut_and_changed_anywhere(void **state) {
    static const uint8_t values[] = {0x00, 0x01, 0x3f, 0x7f, 0x80, 0xff};
    (void)state;
    uint8_t original[ELF_SIZE];
    make_library(original, NAMES, sizeof(NAMES));
    for (size_t size = 0; size <= ELF_SIZE; size++) {
        assert_true(is_library(original, size) == (size >= NAMES_OFFSET + sizeof(NAMES)));
    }
    for (size_t i = 0; i < NAMES_OFFSET; i++) {
        for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
            uint8_t data[ELF_SIZE];
            memcpy(data, original, sizeof(data));
            data[i] = values[j];
            (void)is_library(data, sizeof(data));
        }
    }
}

/* ---- Module texts and names ------------------------------------------------------------------- */

static struct image_slice slice(const char *text) {
    return (struct image_slice){text, strlen(text)};
}

static void test_module_names_match(void **state) {
    static const struct {
        const char *path;
        const char *module;
        bool same;
    } cases[] = {
        {"kernel/drivers/virtio/virtio.ko", "virtio", true},
        {"kernel/drivers/virtio/virtio.ko.xz", "virtio", true},
        {"kernel/drivers/char/hw_random/virtio-rng.ko", "virtio_rng", true},
        {"kernel/drivers/virtio/virtio_ring.ko", "virtio", false},
        {"kernel/drivers/virtio/virtio.kobold", "virtio", false},
        {"virtio/x.ko", "virtio", false},
        {"virtio", "virtio", true},
        {"virtio.ko", "", false},
        {"", "virtio", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(image_module_matches(slice(cases[i].path), slice(cases[i].module)),
                         cases[i].same);
    }
}

static void test_modules_dep_lines(void **state) {
    (void)state;
    struct image_slice path;
    struct image_slice rest;
    struct image_slice word;
    struct image_slice text =
        slice("a/one.ko:\nb/two.ko.xz: a/one.ko  c/three.ko\nlast.ko: a/one.ko");
    assert_true(image_module_find(text, slice("one"), &path, &rest));
    assert_int_equal(rest.size, 0);
    assert_true(image_module_find(text, slice("two"), &path, &rest));
    assert_memory_equal(path.data, "b/two.ko.xz", path.size);
    assert_true(image_slice_word(&rest, " ", &word));
    assert_memory_equal(word.data, "a/one.ko", word.size);
    assert_true(image_slice_word(&rest, " ", &word));
    assert_memory_equal(word.data, "c/three.ko", word.size);
    assert_false(image_slice_word(&rest, " ", &word));
    assert_true(image_module_find(text, slice("last"), &path, &rest));
    assert_false(image_module_find(text, slice("three"), &path, &rest));
    assert_false(image_module_find(slice(""), slice("three"), &path, &rest));
}

static void test_plain_paths(void **state) {
    static const char *const bad[] = {"",     "/a",  "a/",  "a//b", "..",     "a/../b",
                                      "a/..", "./a", "a/.", ".",    "a\nb/c", "\x7f"};
    static const char *const good[] = {"a", "a/b", "...", "a/.b", "a..b/c", "\xc3\xbc"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_false(image_path_is_plain(bad[i]));
    }
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_true(image_path_is_plain(good[i]));
    }
}

static void test_package_names_that_are_kept(void **state) {
    static const struct {
        const char *entry;
        const char *kept;
    } cases[] = {
        {"./boot/vmlinuz-6.1", "boot/vmlinuz-6.1"},
        {"boot/vmlinuz-6.1", "boot/vmlinuz-6.1"},
        {"./boot/System.map-6.1", NULL},
        {"./boot/vmlinuz-6.1/x", NULL},
        {"./lib/modules/6.1/kernel/a.ko", "lib/modules/6.1/kernel/a.ko"},
        {"./usr/lib/modules/6.1/a.ko", "lib/modules/6.1/a.ko"},
        {"./lib/modules/../../etc/passwd", NULL},
        {"./lib/modules/./a", NULL},
        {"/lib/modules/a", NULL},
        {"././bin/busybox", NULL},
        {"./bin/busybox", "bin/busybox"},
        {"./usr/bin/busybox", "bin/busybox"},
        {"./bin/busybox2", NULL},
        {"../bin/busybox", NULL},
        {"", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *kept = image_package_kept_name(cases[i].entry);
        if (cases[i].kept) {
            assert_non_null(kept);
            assert_string_equal(kept, cases[i].kept);
        } else {
            assert_null(kept);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel_header_gives_the_release),
        cmocka_unit_test(hazard_A17_kernel_header_cut_anywhere),
        cmocka_unit_test(hazard_A17_kernel_header_every_byte_changed),
        cmocka_unit_test(hazard_A17_kernel_release_that_leads_elsewhere),
        cmocka_unit_test(test_elf_section_is_found),
        cmocka_unit_test(hazard_A17_elf_cut_and_changed_anywhere),
        cmocka_unit_test(test_elf_with_a_loader_is_not_static),
        cmocka_unit_test(test_a_library_is_told_by_its_symbol),
        cmocka_unit_test(hazard_A17_a_library_cut_and_changed_anywhere),
        cmocka_unit_test(test_module_names_match),
        cmocka_unit_test(test_modules_dep_lines),
        cmocka_unit_test(test_plain_paths),
        cmocka_unit_test(test_package_names_that_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
