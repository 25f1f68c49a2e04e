/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a simulated machine has on its disk when it is new: a home, /dev/kvm, a kernel and a busybox, each no more than
 * what the library looks at. All of it has been synced.
 */
#include <elf.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "sim/world.h"

#define BEFORE_NS 3600000000000ull /* files are old enough to be known by their times */
#define KERNEL_SETUP_SIZE 2560u    /* one boot sector and four of setup */
#define KERNEL_SIZE (KERNEL_SETUP_SIZE + 4096u)
#define KERNEL_RELEASE "6.1.0-sim-amd64"
#define KERNEL_RELEASE_OFFSET 0x300u

static void put16(uint8_t *bytes, size_t offset, uint32_t value) {
    ASSERT(offset + 2 <= KERNEL_SIZE);
    ASSERT(value <= UINT16_MAX);
    bytes[offset] = (uint8_t)value;
    bytes[offset + 1] = (uint8_t)(value >> 8);
}

/* The setup header of a bzImage ("The Linux/x86 Boot Protocol"), with nothing behind it that could run: an ELF file that
 * begins as one. */
static void kernel_fill(uint8_t bytes[KERNEL_SIZE]) {
    static const char release[] = KERNEL_RELEASE " (kelpie@sim) #1";
    static_assert(KERNEL_RELEASE_OFFSET + sizeof(release) < KERNEL_SETUP_SIZE, "it fits");
    memset(bytes, 0, KERNEL_SIZE);
    bytes[0x1f1] = (uint8_t)(KERNEL_SETUP_SIZE / 512 - 1);
    put16(bytes, 0x1f4, (KERNEL_SIZE - KERNEL_SETUP_SIZE) / 16);
    put16(bytes, 0x1fe, 0xaa55);
    memcpy(bytes + 0x202, "HdrS", 4);
    put16(bytes, 0x206, 0x020f);
    put16(bytes, 0x20e, KERNEL_RELEASE_OFFSET - 0x200);
    bytes[0x211] = 0x01;
    put16(bytes, 0x24c, KERNEL_SIZE - KERNEL_SETUP_SIZE);
    memcpy(bytes + KERNEL_SETUP_SIZE, ELFMAG, SELFMAG);
    bytes[KERNEL_SETUP_SIZE + EI_CLASS] = ELFCLASS64;
    memcpy(bytes + KERNEL_RELEASE_OFFSET, release, sizeof(release));
    ASSERT(bytes[0x1fe] == 0x55);
}

/* The head of a static program. */
struct program_file {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
};

static struct program_file busybox_make(void) {
    struct program_file file = {
        .header = {.e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_version = EV_CURRENT,
                   .e_phoff = sizeof(Elf64_Ehdr),
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 1},
        .segment = {.p_type = PT_LOAD, .p_filesz = sizeof(file), .p_memsz = sizeof(file)},
    };
    memcpy(file.header.e_ident, ELFMAG, SELFMAG);
    file.header.e_ident[EI_CLASS] = ELFCLASS64;
    file.header.e_ident[EI_DATA] = ELFDATA2LSB;
    file.header.e_ident[EI_VERSION] = EV_CURRENT;
    return file;
}

/* A library with a kernel, as far as it is told by: its dynamic section, and the name of its one symbol. */
struct library_file {
    Elf64_Ehdr header;
    Elf64_Phdr segments[2];
    Elf64_Dyn dynamic[3];
    char names[sizeof("\0" HOST_KRUNFW_SYMBOL)];
};

static struct library_file library_make(void) {
    const uint64_t names = offsetof(struct library_file, names);
    struct library_file file = {
        .header = {.e_type = ET_DYN,
                   .e_machine = EM_X86_64,
                   .e_version = EV_CURRENT,
                   .e_phoff = offsetof(struct library_file, segments),
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 2},
        .segments = {{.p_type = PT_LOAD, .p_filesz = sizeof(file), .p_memsz = sizeof(file)},
                     {.p_type = PT_DYNAMIC,
                      .p_offset = offsetof(struct library_file, dynamic),
                      .p_filesz = sizeof(file.dynamic)}},
        .dynamic = {{DT_STRTAB, {names}}, {DT_STRSZ, {sizeof(file.names)}}},
        .names = "\0" HOST_KRUNFW_SYMBOL,
    };
    static_assert(DT_NULL == 0, "the last entry of a dynamic section is zeros");
    memcpy(file.header.e_ident, ELFMAG, SELFMAG);
    file.header.e_ident[EI_CLASS] = ELFCLASS64;
    file.header.e_ident[EI_DATA] = ELFDATA2LSB;
    file.header.e_ident[EI_VERSION] = EV_CURRENT;
    ASSERT(names < sizeof(file));
    return file;
}

static bool add_file(struct sim_fs *fs, const char *path, const void *data, size_t size) {
    struct sim_inode *inode = NULL;
    ASSERT(path[0] == '/');
    int os_error =
        sim_fs_open(fs, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0755, &inode);
    if (os_error != 0) {
        return false;
    }
    os_error = size > 0 ? sim_inode_write(inode, data, size, 0) : 0;
    sim_inode_sync(inode);
    sim_inode_release(inode);
    ASSERT(os_error >= 0);
    return os_error == 0;
}

static bool add_files(struct sim_machine *machine) {
    uint8_t kernel[KERNEL_SIZE];
    const struct program_file busybox = busybox_make();
    const struct library_file library = library_make();
    ASSERT(machine->fs);
    kernel_fill(kernel);
    return add_file(machine->fs, "/dev/kvm", "", 0) &&
           add_file(machine->fs, SIM_KERNEL_PATH, kernel, sizeof(kernel)) &&
           add_file(machine->fs, SIM_KRUNFW_PATH, &library, sizeof(library)) &&
           add_file(machine->fs, "/bin/busybox", &busybox, sizeof(busybox));
}

bool sim_machine_repair(struct sim_machine *machine) {
    ASSERT(machine->up);
    ASSERT(machine->world);
    return add_files(machine);
}

bool sim_machine_furnish(struct sim_machine *machine) {
    static const char *const folders[] = {"/",    "/root", "/dev",      "/boot",         "/bin",
                                          "/tmp", "/run",  "/run/user", "/run/user/1000"};
    bool made = true;
    ASSERT(machine->fs);
    sim_fs_set_time(machine->fs, sim_machine_realtime_ns(machine) - BEFORE_NS);
    for (size_t i = 1; i < ARRAY_SIZE(folders); i++) {
        made = made && sim_fs_mkdir(machine->fs, folders[i], 0755) == 0;
    }
    made = made && add_files(machine);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        made = made && sim_fs_sync_folder(machine->fs, folders[i]) == 0;
    }
    ASSERT(ARRAY_SIZE(folders) > 1);
    return made;
}
