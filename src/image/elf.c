/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * elf.c: questions to an ELF file (System V ABI, chapter 4 "Object Files", and chapter 5 for program headers and
 * dynamic linking): does a program need a dynamic loader, does a library know a symbol, and where is a module's section of a
 * given name. The file is
 * untrusted: each offset is checked against the bytes that are there.
 */
#include "image/image_internal.h"

#include <elf.h>
#include <string.h>

#include "base/assert.h"

/* Copies a header out of the bytes; false when it does not lie within them. */
static bool copy_at(struct image_slice file, uint64_t offset, void *ret_header, size_t size) {
    ASSERT(ret_header);
    ASSERT(size > 0);
    if (offset > file.size || size > file.size - offset) {
        return false;
    }
    memcpy(ret_header, file.data + offset, size);
    return true;
}

static bool elf_header(struct image_slice file, Elf64_Ehdr *ret_header) {
    ASSERT(file.data || file.size == 0);
    ASSERT(ret_header);
    if (!copy_at(file, 0, ret_header, sizeof(*ret_header))) {
        return false;
    }
    return memcmp(ret_header->e_ident, ELFMAG, SELFMAG) == 0 &&
           ret_header->e_ident[EI_CLASS] == ELFCLASS64 &&
           ret_header->e_ident[EI_DATA] == ELFDATA2LSB;
}

static bool program_header(struct image_slice file, const Elf64_Ehdr *header, uint64_t index,
                           Elf64_Phdr *ret_program) {
    ASSERT(ret_program);
    ASSERT(index < 65536);
    uint64_t offset = 0;
    return !__builtin_add_overflow(header->e_phoff, index * sizeof(*ret_program), &offset) &&
           copy_at(file, offset, ret_program, sizeof(*ret_program));
}

bool image_elf_is_static(const void *data, size_t size) {
    ASSERT(size <= PTRDIFF_MAX);
    ASSERT(data || size == 0);
    struct image_slice file = {data, size};
    Elf64_Ehdr header;
    if (!elf_header(file, &header) || header.e_phentsize != sizeof(Elf64_Phdr)) {
        return false;
    }
    if (header.e_machine != EM_X86_64 || (header.e_type != ET_EXEC && header.e_type != ET_DYN)) {
        return false;
    }
    for (uint64_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr program;
        if (!program_header(file, &header, i, &program) || program.p_type == PT_INTERP) {
            return false;
        }
    }
    return header.e_phnum > 0;
}

/* The bytes of the file that a loaded library has at an address: as many as its piece has from there on. */
static bool loaded_at(struct image_slice file, const Elf64_Ehdr *header, uint64_t address,
                      struct image_slice *ret_bytes) {
    ASSERT(header->e_phentsize == sizeof(Elf64_Phdr));
    ASSERT(ret_bytes);
    for (uint64_t i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr program;
        if (!program_header(file, header, i, &program)) {
            return false;
        }
        if (program.p_type != PT_LOAD || address < program.p_vaddr ||
            address - program.p_vaddr >= program.p_filesz) {
            continue;
        }
        uint64_t skip = address - program.p_vaddr;
        if (program.p_offset > file.size || skip >= file.size - program.p_offset) {
            return false;
        }
        uint64_t start = program.p_offset + skip;
        uint64_t size = program.p_filesz - skip;
        size = size < file.size - start ? size : file.size - start;
        *ret_bytes = (struct image_slice){file.data + start, (size_t)size};
        return true;
    }
    return false;
}

/* The names of the dynamic symbols: zero-terminated strings, one behind the other. */
static bool dynamic_names(struct image_slice file, const Elf64_Ehdr *header,
                          const Elf64_Phdr *dynamic, struct image_slice *ret_names) {
    uint64_t address = 0;
    uint64_t size = 0;
    ASSERT(dynamic->p_type == PT_DYNAMIC);
    ASSERT(ret_names);
    for (uint64_t i = 0; i < IMAGE_DYNAMIC_COUNT_MAX; i++) {
        Elf64_Dyn entry;
        uint64_t offset = 0;
        if (i >= dynamic->p_filesz / sizeof(entry) ||
            __builtin_add_overflow(dynamic->p_offset, i * sizeof(entry), &offset) ||
            !copy_at(file, offset, &entry, sizeof(entry)) || entry.d_tag == DT_NULL) {
            break;
        }
        address = entry.d_tag == DT_STRTAB ? entry.d_un.d_ptr : address;
        size = entry.d_tag == DT_STRSZ ? entry.d_un.d_val : size;
    }
    if (!loaded_at(file, header, address, ret_names) || size > ret_names->size) {
        return false;
    }
    ret_names->size = (size_t)size;
    return true;
}

bool image_elf_is_library_with(const void *data, size_t size, const char *symbol) {
    ASSERT(data || size == 0);
    ASSERT(symbol && symbol[0] != '\0');
    struct image_slice file = {data, size};
    struct image_slice names;
    Elf64_Ehdr header;
    if (!elf_header(file, &header) || header.e_phentsize != sizeof(Elf64_Phdr) ||
        header.e_machine != EM_X86_64 || header.e_type != ET_DYN) {
        return false;
    }
    for (uint64_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr program;
        if (!program_header(file, &header, i, &program)) {
            return false;
        }
        if (program.p_type == PT_DYNAMIC) {
            /* With its zero; what is before it does not matter, for a name may be the end of another. */
            return dynamic_names(file, &header, &program, &names) &&
                   memmem(names.data, names.size, symbol, strlen(symbol) + 1) != NULL;
        }
    }
    return false;
}

static bool section_header(struct image_slice file, const Elf64_Ehdr *header, uint64_t index,
                           Elf64_Shdr *ret_section) {
    ASSERT(ret_section);
    ASSERT(index < 65536);
    uint64_t offset = 0;
    return !__builtin_add_overflow(header->e_shoff, index * sizeof(*ret_section), &offset) &&
           copy_at(file, offset, ret_section, sizeof(*ret_section));
}

static bool section_content(struct image_slice file, const Elf64_Shdr *section,
                            struct image_slice *ret_content) {
    ASSERT(ret_content);
    ASSERT(section);
    if (section->sh_type == SHT_NOBITS || section->sh_offset > file.size ||
        section->sh_size > file.size - section->sh_offset) {
        return false;
    }
    *ret_content = (struct image_slice){file.data + section->sh_offset, section->sh_size};
    return true;
}

bool image_elf_section(const void *data, size_t size, const char *name, const char **ret_data,
                       size_t *ret_size) {
    ASSERT(name);
    ASSERT(data || size == 0);
    struct image_slice file = {data, size};
    struct image_slice names;
    struct image_slice content;
    Elf64_Ehdr header;
    Elf64_Shdr section;
    if (!elf_header(file, &header) || header.e_shentsize != sizeof(section) ||
        header.e_shstrndx >= header.e_shnum ||
        !section_header(file, &header, header.e_shstrndx, &section) ||
        !section_content(file, &section, &names)) {
        return false;
    }
    size_t name_size = strlen(name) + 1;
    for (uint64_t i = 0; i < header.e_shnum; i++) {
        if (!section_header(file, &header, i, &section)) {
            return false;
        }
        bool same = section.sh_name < names.size && name_size <= names.size - section.sh_name &&
                    memcmp(names.data + section.sh_name, name, name_size) == 0;
        if (same && section_content(file, &section, &content)) {
            *ret_data = content.data;
            *ret_size = content.size;
            return true;
        }
    }
    return false;
}
