/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/qemu/qemu_command.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

static const char *const machine_names[] = {
    [QEMU_MACHINE_MICROVM] = "microvm",
    [QEMU_MACHINE_Q35] = "q35",
};
static const char *const accelerator_names[] = {
    [QEMU_ACCELERATOR_TCG] = "tcg",
    [QEMU_ACCELERATOR_KVM] = "kvm",
    [QEMU_ACCELERATOR_HVF] = "hvf",
};
const char *qemu_machine_name(enum qemu_machine machine) {
    static_assert(ARRAY_SIZE(machine_names) == QEMU_MACHINE_COUNT, "each machine has a name");
    ASSERT((unsigned)machine < QEMU_MACHINE_COUNT);
    return machine_names[machine];
}

const char *qemu_accelerator_name(enum qemu_accelerator accelerator) {
    static_assert(ARRAY_SIZE(accelerator_names) == QEMU_ACCELERATOR_COUNT, "each has one");
    ASSERT((unsigned)accelerator < QEMU_ACCELERATOR_COUNT);
    return accelerator_names[accelerator];
}

const char *qemu_cpu_model(enum qemu_accelerator accelerator) {
    ASSERT((unsigned)accelerator < QEMU_ACCELERATOR_COUNT);
    return accelerator == QEMU_ACCELERATOR_TCG ? "max" : "host";
}

/* One more argument. */
static void add(struct qemu_command *command, const char *format, ...) ERROR_PRINTF(2, 3);
static void add(struct qemu_command *command, const char *format, ...) {
    ASSERT(command->text_size <= sizeof(command->text));
    ASSERT(command->argc < QEMU_ARGV_COUNT_MAX); /* with all disks, which the tests have */
    size_t room = sizeof(command->text) - command->text_size;
    char *start = command->text + command->text_size;
    va_list args;
    va_start(args, format);
    int size = vsnprintf(start, room, format, args);
    va_end(args);
    ASSERT(size >= 0);
    if ((size_t)size >= room) {
        command->overflow = true;
        return;
    }
    command->argv[command->argc++] = start;
    command->text_size += (size_t)size + 1;
}

static void add_machine(struct qemu_command *command, const struct qemu_description *description) {
    ASSERT(description->vcpu_count >= KELPIE_VCPU_COUNT_MIN);
    ASSERT(description->memory_mib >= KELPIE_MEMORY_MIB_MIN);
    ASSERT(description->memory_fd > 2);
    /* ACPI is how Debian's kernel finds virtio-mmio devices (it is built without the command line's way) and
     * how the guest powers off. The legacy timer and interrupt controller cost nothing measurable, and are the
     * only clock reference of a kernel that does not know tsc_early_khz. */
    add(command, "-machine");
    add(command, "%s,memory-backend=ram",
        description->machine == QEMU_MACHINE_MICROVM
            ? "microvm,acpi=on,rtc=on,x-option-roms=off,auto-kernel-cmdline=off"
            : "q35,vmport=off,sata=off,smbus=off,graphics=off");
    add(command, "-accel");
    if (description->accelerator == QEMU_ACCELERATOR_TCG) {
        add(command, "tcg,thread=multi,tb-size=%d", QEMU_TB_SIZE_MIB);
    } else {
        add(command, "%s", qemu_accelerator_name(description->accelerator));
    }
    add(command, "-cpu");
    add(command, "%s", qemu_cpu_model(description->accelerator));
    add(command, "-smp");
    add(command, "%" PRIu32, description->vcpu_count);
    add(command, "-m");
    add(command, "%" PRIu32 "M", description->memory_mib);
    /* A file by its path makes this a named block: x-ignore-shared leaves it out of the saved state. */
    add(command, "-object");
    add(command, "memory-backend-file,id=ram,mem-path=/proc/self/fd/%d,size=%" PRIu32 "M,share=%s",
        description->memory_fd, description->memory_mib,
        description->memory_private ? "off" : "on");
}

/* A PCI card's boot ROM is left out: nobody boots from it. */
static void add_network(struct qemu_command *command, const struct qemu_description *description,
                        const char *bus) {
    ASSERT(description->network_fd > 2);
    ASSERT(description->mac[0] != 0);
    add(command, "-netdev");
    add(command, "%s,id=net,fd=%d%s", description->network_is_tap ? "tap" : "socket",
        description->network_fd, description->network_is_tap ? ",vhost=off" : "");
    add(command, "-device");
    add(command, "virtio-net-%s,netdev=net,mac=%s%s", bus, description->mac,
        description->machine == QEMU_MACHINE_MICROVM ? "" : ",romfile=");
}

/*
 * The memory is a file that others may map (add_machine): a daemon can reach it. It speaks virtio 1 only, which a microvm's
 * devices do only when told to (daemons hang up at the first request of any other); all of them are then of another
 * kind than a saved machine's, which has no such folder.
 */
static void add_shares(struct qemu_command *command, const struct qemu_description *description,
                       const char *bus) {
    bool is_modern = description->machine != QEMU_MACHINE_MICROVM;
    ASSERT(bus);
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        if (description->share_fds[i] == 0) {
            continue;
        }
        ASSERT(!description->memory_private);
        ASSERT(description->share_fds[i] > 2);
        if (!is_modern) {
            add(command, "-global");
            add(command, "virtio-mmio.force-legacy=off");
            is_modern = true;
        }
        add(command, "-chardev");
        add(command, "socket,id=share%zu,fd=%d", i, description->share_fds[i]);
        add(command, "-device");
        add(command, "vhost-user-fs-%s,chardev=share%zu,tag=kelpie%zu", bus, i, i);
    }
}

static void add_devices(struct qemu_command *command, const struct qemu_description *description) {
    ASSERT(description->qmp_fd > 2 && description->channel_fd > 2 && description->console_fd > 2);
    ASSERT(description->qmp_fd != description->channel_fd);
    ASSERT(description->disk_count <= KELPIE_DISK_COUNT_MAX);
    const char *bus = description->machine == QEMU_MACHINE_MICROVM ? "device" : "pci";
    add(command, "-chardev");
    add(command, "socket,id=qmp,fd=%d", description->qmp_fd);
    add(command, "-mon");
    add(command, "chardev=qmp,mode=control");
    add(command, "-chardev");
    add(command, "socket,id=console,fd=%d", description->console_fd);
    add(command, "-serial");
    add(command, "chardev:console");
    add(command, "-chardev");
    add(command, "socket,id=channel,fd=%d", description->channel_fd);
    add(command, "-device");
    add(command, "virtio-serial-%s", bus);
    add(command, "-device");
    add(command, "virtserialport,chardev=channel,name=org.kelpie.channel");
    add(command, "-object");
    add(command, "rng-builtin,id=rng");
    add(command, "-device");
    add(command, "virtio-rng-%s,rng=rng", bus);
    if (description->network_fd != 0) {
        add_network(command, description, bus);
    }
    add_shares(command, description, bus);
    add(command, "-device");
    add(command,
        "pvpanic"); /* else a guest whose kernel panicked looks like one that was rebooted */
    for (size_t i = 0; i < description->disk_count; i++) {
        const struct qemu_command_disk *disk = &description->disks[i];
        /* Always raw: a format is never guessed from bytes that a guest wrote. */
        add(command, "-add-fd");
        add(command, "fd=%d,set=%zu", disk->fd, i + 1);
        add(command, "-blockdev");
        add(command,
            "driver=raw,node-name=disk%zu,read-only=%s,file.driver=file,"
            "file.filename=/dev/fdset/%zu",
            i, disk->read_only ? "on" : "off", i + 1);
        add(command, "-device");
        add(command, "virtio-blk-%s,drive=disk%zu", bus, i);
    }
}

/*
 * The kernel's command line. panic=-1 reboots at once, which ends QEMU (-no-reboot), so that a panic is
 * noticed also before the guest has a driver for pvpanic, and its text is on the console. no_timer_check: the check counts timer ticks against delay loops, which an
 * emulated, preempted CPU fails by chance.
 * tsc_early_khz: microvm has no HPET and no ACPI timer; a guest that calibrates its TSC against the PIT while the
 * host is busy gives up, and then waits for ever for its first tick. Measured under emulation: 9 of 16 boots.
 * mitigations=off is for emulation only, where there is no speculation to fence and each fence costs; when the
 * processor is real, that choice is the guest's.
 */
static enum kelpie_status add_kernel(struct qemu_command *command,
                                     const struct qemu_description *description,
                                     struct kelpie_error *err) {
    ASSERT(description->kernel[0] && description->initramfs[0]);
    char append[QEMU_APPEND_SIZE_MAX + 1];
    char tsc[64] = "";
    if (description->tsc_khz > 0) {
        snprintf(tsc, sizeof(tsc), " tsc_early_khz=%" PRIu64 " tsc=reliable", description->tsc_khz);
    }
    bool emulated = description->accelerator == QEMU_ACCELERATOR_TCG;
    const char *more = description->kernel_args ? description->kernel_args : "";
    int size = snprintf(append, sizeof(append),
                        "console=ttyS0 quiet panic=-1 reboot=t no_timer_check%s%s%s%s", tsc,
                        emulated ? " mitigations=off" : "", more[0] ? " " : "", more);
    ASSERT(size > 0);
    if ((size_t)size >= sizeof(append)) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, "kernel_args",
            "kernel_args are too long: with ours they make %d bytes of at most %d", size,
            QEMU_APPEND_SIZE_MAX);
    }
    add(command, "-kernel");
    add(command, "%s", description->kernel);
    add(command, "-initrd");
    add(command, "%s", description->initramfs);
    add(command, "-append");
    add(command, "%s", append);
    return KELPIE_OK;
}

enum kelpie_status qemu_command_build(struct qemu_command *command,
                                      const struct qemu_description *description,
                                      struct kelpie_error *err) {
    ASSERT(description->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(description->kernel && description->initramfs);
    command->argc = 0;
    command->text_size = 0;
    command->overflow = false;
    add(command, "%s", description->binary);
    add(command, "-nodefaults");
    add(command, "-no-user-config");
    add(command, "-no-reboot");
    add(command, "-display");
    add(command, "none");
    add(command, "-S");
    add(command, "-sandbox");
    add(command, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add_machine(command, description);
    add_devices(command, description);
    TRY(add_kernel(command, description, err));
    if (description->incoming) {
        add(command, "-incoming");
        add(command, "defer");
    }
    if (command->overflow) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                               "QEMU's command line is too long: more than %d bytes",
                               QEMU_COMMAND_SIZE_MAX);
    }
    command->argv[command->argc] = NULL;
    return KELPIE_OK;
}
