/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu_command.h: QEMU's command line, built from a description of the machine. Pure.
 *
 * The machine has what a sandbox needs and nothing else: a serial console, a virtio-serial channel, a random
 * number device and disks. No path, socket or port of the host is named where a guest or another process could reach it:
 * everything but the kernel is an inherited descriptor.
 */
#ifndef KELPIE_BACKEND_QEMU_QEMU_COMMAND_H
#define KELPIE_BACKEND_QEMU_QEMU_COMMAND_H

#include "backend/backend.h"
#include "backend/qemu/qemu_limits.h"
#include "base/error.h"
#include "base/mac.h"

enum qemu_machine {
    QEMU_MACHINE_MICROVM = 0, /* virtio-mmio, no PCI, no firmware to speak of */
    QEMU_MACHINE_Q35,         /* where QEMU was built without microvm: virtio-pci */
    QEMU_MACHINE_COUNT
};

enum qemu_accelerator {
    QEMU_ACCELERATOR_TCG = 0,
    QEMU_ACCELERATOR_KVM,
    QEMU_ACCELERATOR_HVF,
    QEMU_ACCELERATOR_COUNT
};

const char *qemu_machine_name(enum qemu_machine machine);
const char *qemu_accelerator_name(enum qemu_accelerator accelerator);

/* The CPU model that goes with it: "max" or "host". */
const char *qemu_cpu_model(enum qemu_accelerator accelerator);

struct qemu_command_disk {
    int fd;
    bool read_only;
};

/* Descriptors are numbers in QEMU's process. */
struct qemu_description {
    const char *binary;
    enum qemu_machine machine;
    enum qemu_accelerator accelerator;
    uint32_t vcpu_count;
    uint32_t memory_mib;
    const char *kernel;
    const char *initramfs;
    const char *kernel_args; /* of the config, appended; may be NULL */
    uint64_t tsc_khz;        /* what the guest's TSC counts at; 0: let the guest find out */
    int qmp_fd;
    int channel_fd;
    int console_fd;
    int memory_fd;
    bool memory_private; /* the file is a bundle's: writes stay in QEMU */
    bool incoming;       /* wait for a saved state instead of booting */
    int network_fd;      /* 0: it has none */
    bool network_is_tap;
    char mac[MAC_TEXT_SIZE];
    int share_fds[KELPIE_SHARE_COUNT_MAX]; /* of virtiofsd; 0: none */
    struct qemu_command_disk disks[KELPIE_DISK_COUNT_MAX];
    size_t disk_count;
};

struct qemu_command {
    const char *argv[QEMU_ARGV_COUNT_MAX + 1]; /* NULL-terminated; into text */
    size_t argc;
    char text[QEMU_COMMAND_SIZE_MAX];
    size_t text_size;
    bool overflow;
};

/* Errors: BAD_CONFIG field "kernel_args" or "kernel" when something is too long. */
KELPIE_CHECKED enum kelpie_status qemu_command_build(struct qemu_command *command,
                                                     const struct qemu_description *description,
                                                     struct kelpie_error *err);

#endif
