/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * elf.c: an ELF vmlinux (System V ABI, chapters 4 "Object Files" and 5 "Program Loading"). The PT_LOAD
 * segments go to their physical addresses; e_entry is physical too, as Linux links it (startup_64).
 */
#include <elf.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/boot/boot_internal.h"

#define FORM "ELF kernel"

/* Copies a header out of the bytes; false when it does not lie within them. */
static bool copy_at(struct boot_bytes image, uint64_t offset, void *ret_header, size_t size) {
    ASSERT(ret_header);
    ASSERT(size > 0);
    if (offset > image.size || size > image.size - offset) {
        return false;
    }
    memcpy(ret_header, image.data + offset, size);
    return true;
}

bool boot_elf_matches(struct boot_bytes image) {
    ASSERT(image.data || image.size == 0);
    static_assert(SELFMAG == 4, "0x7f, E, L, F");
    return image.size >= SELFMAG && memcmp(image.data, ELFMAG, SELFMAG) == 0;
}

/* What is wrong with the file's header; NULL: nothing. */
static const char *header_complaint(const Elf64_Ehdr *header) {
    ASSERT(header);
    ASSERT(memcmp(header->e_ident, ELFMAG, SELFMAG) == 0);
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != EM_X86_64) {
        return "it is not for 64-bit x86";
    }
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
        return "it is no program";
    }
    if (header->e_phentsize != sizeof(Elf64_Phdr)) {
        return "its program headers have the wrong size";
    }
    if (header->e_phnum == 0 || header->e_phnum > BOOT_SEGMENT_COUNT_MAX) {
        return "it has no segments, or too many";
    }
    return NULL;
}

/* Takes a PT_LOAD segment into the kernel; *bytes_left: of the file, that no segment has had. What is wrong with
 * it, or NULL. */
static const char *segment_add(struct boot_kernel *kernel, struct boot_bytes image,
                               const Elf64_Phdr *program, uint64_t *bytes_left) {
    ASSERT(kernel->segment_count < BOOT_SEGMENT_COUNT_MAX);
    ASSERT(*bytes_left <= image.size);
    if (program->p_memsz == 0) {
        return program->p_filesz == 0 ? NULL : "a segment's sizes contradict each other";
    }
    if (program->p_offset > image.size || program->p_filesz > image.size - program->p_offset) {
        return "it is cut off";
    }
    /* Segments that share bytes would make a small file a long copy. */
    if (program->p_filesz > program->p_memsz || program->p_filesz > *bytes_left) {
        return "a segment's sizes contradict each other";
    }
    if (program->p_paddr < BOOT_KERNEL_GPA_MIN || program->p_paddr > VMM_MEMORY_LOW_END ||
        program->p_memsz > VMM_MEMORY_LOW_END - program->p_paddr) {
        return "it wants to be loaded where there is no memory";
    }
    uint64_t end = program->p_paddr + program->p_memsz;
    *bytes_left -= program->p_filesz;
    kernel->segments[kernel->segment_count] = (struct boot_segment){
        program->p_paddr, {image.data + program->p_offset, (size_t)program->p_filesz}};
    kernel->start =
        kernel->segment_count == 0 ? program->p_paddr : min_u64(kernel->start, program->p_paddr);
    kernel->end = end > kernel->end ? end : kernel->end;
    kernel->segment_count++;
    return NULL;
}

static bool is_loaded(const struct boot_kernel *kernel, uint64_t gpa) {
    ASSERT(kernel);
    ASSERT(kernel->segment_count <= BOOT_SEGMENT_COUNT_MAX);
    for (size_t i = 0; i < kernel->segment_count; i++) {
        const struct boot_segment *segment = &kernel->segments[i];
        if (gpa >= segment->gpa && gpa - segment->gpa < segment->bytes.size) {
            return true;
        }
    }
    return false;
}

enum kelpie_status boot_elf_parse(struct boot_bytes image, struct boot_kernel *ret_kernel,
                                  struct kelpie_error *err) {
    Elf64_Ehdr header;
    uint64_t bytes_left = image.size;
    struct boot_kernel kernel = {
        .initramfs_gpa_max = UINT32_MAX,
        .command_line_size_max = BOOT_COMMAND_LINE_SIZE_MAX - 1,
    };
    ASSERT(ret_kernel);
    ASSERT(boot_elf_matches(image));
    const char *complaint =
        copy_at(image, 0, &header, sizeof(header)) ? header_complaint(&header) : "it is cut off";
    for (uint64_t i = 0; !complaint && i < header.e_phnum; i++) {
        Elf64_Phdr program;
        uint64_t offset = 0;
        if (!checked_add_u64(header.e_phoff, i * sizeof(program), &offset) ||
            !copy_at(image, offset, &program, sizeof(program))) {
            complaint = "its program headers are not in it";
        } else if (program.p_type == PT_LOAD) {
            complaint = segment_add(&kernel, image, &program, &bytes_left);
        }
    }
    if (!complaint && !is_loaded(&kernel, header.e_entry)) {
        complaint = "its entry is in no segment";
    }
    if (complaint) {
        return boot_kernel_wrong(err, FORM, complaint);
    }
    kernel.entry = header.e_entry;
    *ret_kernel = kernel;
    return KELPIE_OK;
}
