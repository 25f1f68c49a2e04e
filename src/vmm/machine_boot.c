/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A machine that begins with a kernel. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "vmm/acpi/acpi.h"
#include "vmm/boot/boot.h"
#include "vmm/machine.h"

/* A whole file, for reading. */
static enum kelpie_status map_file(const struct machine_files *files, enum control_role role,
                                   struct boot_bytes *ret, struct kelpie_error *err) {
    struct stat info;
    ASSERT(ret);
    ASSERT(files);
    TRY(machine_file_check(files, role, err));
    if (fstat(files->fds[role], &info) < 0) {
        return error_set_os(err, errno, "cannot look at the machine's %s", control_role_name(role));
    }
    if (info.st_size <= 0) {
        return error_set(err, KELPIE_BOOT_FAILED, "the %s is empty", control_role_name(role));
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, files->fds[role], 0);
    if (data == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map the machine's %s", control_role_name(role));
    }
    *ret = (struct boot_bytes){data, (size_t)info.st_size};
    return KELPIE_OK;
}

static void unmap(const struct boot_bytes *bytes) {
    ASSERT(bytes->data || bytes->size == 0);
    if (bytes->data) {
        int result = munmap((void *)(uintptr_t)bytes->data, bytes->size);
        ASSERT(result == 0);
    }
}

static enum kelpie_status load_images(struct machine *machine, const struct machine_files *files,
                                      struct boot_entry *ret_entry, struct kelpie_error *err) {
    const struct control_machine *config = &machine->config;
    ASSERT(machine->prepared);
    ASSERT(ret_entry);
    char line[BOOT_COMMAND_LINE_SIZE_MAX];
    struct boot_image image = {
        .command_line = config->has_medium ? line : config->command_line,
        .raw_load_gpa = config->kernel_load,
        .raw_entry_gpa = config->kernel_entry,
    };
    TRY(boot_command_line_devices(line, sizeof(line), machine->transport_count,
                                  config->command_line, err));
    enum kelpie_status status = map_file(files, CONTROL_ROLE_KERNEL, &image.kernel, err);
    if (status == KELPIE_OK && !config->has_medium) {
        status = map_file(files, CONTROL_ROLE_INITRAMFS, &image.initramfs, err);
    }
    if (status == KELPIE_OK) {
        status = boot_load(&machine->memory, &image, ret_entry, err);
    }
    unmap(&image.kernel);
    unmap(&image.initramfs);
    return status;
}

/* The tables by which a kernel finds the machine. Those of ACPI do no harm to one that does not look for them. */
static enum kelpie_status write_tables(struct machine *machine, struct kelpie_error *err) {
    const struct control_machine *config = &machine->config;
    const struct acpi_description description = {
        .vcpu_count = config->vcpu_count,
        .mmio_device_count = (uint32_t)machine->transport_count,
        .has_serial = true,
    };
    ASSERT(machine->transport_count > 0);
    ASSERT(machine->memory.host);
    TRY(acpi_build(&machine->memory, &description, err));
    if (config->has_medium) {
        boot_mp_table_write(&machine->memory, config->vcpu_count);
    }
    if (!memory_write(&machine->memory, VMM_GENERATION_GPA, config->generation,
                      sizeof(config->generation))) {
        return error_set(err, KELPIE_INTERNAL, "cannot write the machine's generation");
    }
    return KELPIE_OK;
}

enum kelpie_status machine_boot(struct machine *machine, const struct control_machine *config,
                                struct machine_files *files, struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(files);
    struct boot_entry entry = {0};
    TRY(machine_build(machine, config, files, MAP_SHARED, err));
    TRY(load_images(machine, files, &entry, err));
    TRY(write_tables(machine, err));
    const struct vcpu_boot registers = {
        .rip = entry.rip, .rsi = entry.rsi, .cr3 = BOOT_PML4_GPA, .gdt = BOOT_GDT_GPA};
    TRY(vcpu_boot(&machine->vcpus[0], &registers, err));
    TRY(kvm_connect(&machine->kvm, err));
    machine->ready_ns = machine_now_ns();
    return KELPIE_OK;
}
