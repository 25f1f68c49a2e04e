/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * machine.h: memory, processors, interrupt lines and devices, put together to one machine.
 *
 * THEORY OF OPERATION
 *
 * Threads: one for each vCPU, which run the guest and answer its accesses; and the I/O thread, which is the process's
 * first, runs the I/O loop and carries out the owner's orders. `lock` is held in every call of a device: by a
 * vCPU's thread for an access, by the I/O loop for a handler. Nobody waits while holding it.
 *
 * The guest's kicks of queues come as event descriptors (ioeventfd), so that a vCPU does not leave the guest for them;
 * interrupts go the other way (irqfd).
 *
 * What the machine has, in the order of its windows: vsock, entropy, balloon, disks. The order is part of the
 * saved state.
 *
 * The end. A guest that powers off, resets or crashes, and a vCPU that cannot go on, end the machine: the first
 * reason is kept (vcpu_threads_result), and the I/O loop stops.
 */
#ifndef KELPIE_VMM_MACHINE_H
#define KELPIE_VMM_MACHINE_H

#include <pthread.h>

#include "vmm/control.h"
#include "vmm/device/bus.h"
#include "vmm/device/io.h"
#include "vmm/device/reset.h"
#include "vmm/device/serial.h"
#include "vmm/device/virtio_balloon.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_console.h"
#include "vmm/device/virtio_mmio.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/device/virtio_vsock.h"
#include "vmm/x86_64/vcpu_threads.h"

/* A kick of one queue. */
struct machine_kick {
    struct virtio_mmio *transport;
    uint16_t queue_index;
    struct io_source source;
};

#define MACHINE_KICK_COUNT_MAX 64

struct machine {
    struct control_machine config;
    void *host_memory; /* NULL: not mapped */
    struct memory memory;
    struct kvm kvm;
    struct vcpu *vcpus; /* config.vcpu_count */
    size_t vcpu_count;  /* made so far */
    struct vcpu_ops ops;
    struct vcpu_threads threads;
    bool threads_started;
    pthread_mutex_t lock;
    struct io io;
    struct bus mmio;
    struct bus ports;
    struct serial serial;
    struct reset reset;
    struct virtio_vsock vsock;
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_blk disks[VMM_DISK_COUNT_MAX];
    struct virtio_blk medium;      /* if config.has_medium */
    struct virtio_console console; /* if config.has_medium */
    struct virtio_mmio transports[VMM_MMIO_DEVICE_COUNT_MAX];
    size_t transport_count;
    int irq_fds[VMM_GSI_COUNT]; /* by GSI; the VM's; -1: no such line */
    struct machine_kick kicks[MACHINE_KICK_COUNT_MAX];
    size_t kick_count;
    struct io_source end_source; /* a vCPU stopped by itself */
};

/* Makes a machine whose guest has not run: devices, processors, memory. image: what to boot. */
struct machine_image {
    const void *kernel;
    size_t kernel_size;
    const void *initramfs;
    size_t initramfs_size;
};
KELPIE_CHECKED enum kelpie_status machine_boot(struct machine *machine,
                                               const struct control_machine *config,
                                               const struct machine_image *image,
                                               struct kelpie_error *err);

/* The same from a saved state over a memory file, which is mapped privately. */
KELPIE_CHECKED enum kelpie_status machine_load(struct machine *machine,
                                               const struct control_machine *config, int state_fd,
                                               int memory_fd, struct kelpie_error *err);

/* The vCPUs go on (or begin); stop and stay so. Called by the I/O thread without the lock. */
KELPIE_CHECKED enum kelpie_status machine_resume(struct machine *machine, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status machine_pause(struct machine *machine, struct kelpie_error *err);

/* Writes state and memory (machine_save.c), while the vCPUs stand. The files are empty. */
KELPIE_CHECKED enum kelpie_status machine_save(struct machine *machine, int state_fd, int memory_fd,
                                               struct kelpie_error *err);

/* ---- For machine_*.c -------------------------------------------------------------------------- */

void machine_lock(void *context);
void machine_unlock(void *context);

/* Every device and line of the config, without a state. */
KELPIE_CHECKED enum kelpie_status machine_build(struct machine *machine,
                                                const struct control_machine *config, int memory_fd,
                                                struct kelpie_error *err);

#endif
