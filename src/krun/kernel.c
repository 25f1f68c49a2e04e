/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "krun/kernel.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "krun/krun_limits.h"

void krun_elf_header(uint64_t load, uint64_t entry, uint64_t size,
                     uint8_t ret_header[KRUN_ELF_HEADER_SIZE]) {
    ASSERT(size > 0);
    ASSERT(ret_header);
    const Elf64_Ehdr file = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = entry,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 1,
    };
    const Elf64_Phdr segment = {
        .p_type = PT_LOAD,
        .p_flags = PF_R | PF_W | PF_X,
        .p_offset = KRUN_ELF_HEADER_SIZE,
        .p_vaddr = load,
        .p_paddr = load,
        .p_filesz = size,
        .p_memsz = size,
        .p_align = KRUN_ELF_HEADER_SIZE,
    };
    static_assert(sizeof(file) + sizeof(segment) <= KRUN_ELF_HEADER_SIZE, "there is room");
    memset(ret_header, 0, KRUN_ELF_HEADER_SIZE);
    memcpy(ret_header, &file, sizeof(file));
    memcpy(ret_header + sizeof(file), &segment, sizeof(segment));
}

static enum kelpie_status write_all(int fd, const void *data, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(data && size > 0);
    for (size_t done = 0; done < size;) {
        ssize_t count = write(fd, (const uint8_t *)data + done, size - done);
        if (count < 0 && errno != EINTR) {
            return error_set_os(err, errno, "cannot write the kernel into memory");
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return KELPIE_OK;
}

static bool is_kernel(const char *bytes, size_t size) {
    return bytes && size > 0 && size <= KRUN_KERNEL_SIZE_MAX;
}

bool krun_kernel_is_there(char *(*get_kernel)(uint64_t *, uint64_t *, size_t *)) {
    uint64_t load = 0;
    uint64_t entry = 0;
    size_t size = 0;
    ASSERT(get_kernel);
    const char *bytes = get_kernel(&load, &entry, &size);
    return is_kernel(bytes, size);
}

enum kelpie_status krun_kernel_file(char *(*get_kernel)(uint64_t *, uint64_t *, size_t *),
                                    int *ret_fd, struct kelpie_error *err) {
    uint8_t header[KRUN_ELF_HEADER_SIZE];
    uint64_t load = 0;
    uint64_t entry = 0;
    size_t size = 0;
    ASSERT(get_kernel);
    ASSERT(ret_fd);
    const char *bytes = get_kernel(&load, &entry, &size);
    if (!is_kernel(bytes, size)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                               "libkrunfw gives no kernel of at most %llu bytes",
                               KRUN_KERNEL_SIZE_MAX);
    }
    int fd = memfd_create("kelpie-kernel", MFD_CLOEXEC);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot make a file in memory");
    }
    krun_elf_header(load, entry, size, header);
    enum kelpie_status status = write_all(fd, header, sizeof(header), err);
    if (status == KELPIE_OK) {
        status = write_all(fd, bytes, size, err);
    }
    if (status != KELPIE_OK) {
        close(fd);
        return status;
    }
    *ret_fd = fd;
    return KELPIE_OK;
}
