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
 * What the machine has, in the order of its windows: vsock, entropy, balloon, the network if there is one, disks. The order is
 * part of the saved state.
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
#include "vmm/device/virtio_net.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/device/virtio_vsock.h"
#include "vmm/state/state.h"
#include "vmm/x86_64/vcpu_threads.h"

/* A kick of one queue. */
struct machine_kick {
    struct virtio_mmio *transport;
    uint16_t queue_index;
    struct io_source source;
};

#define MACHINE_KICK_COUNT_MAX 64

/* The descriptors that came for an order, by role; -1: none. Whoever takes one owns it. */
struct machine_files {
    int fds[CONTROL_ROLE_COUNT];
};

/*
 * What was written since the last save or load, a bit for each page of memory. `pending` is what the diff that is
 * being written does not hold yet. Devices' writes are in memory.dirty from the start, for a load makes some; the
 * processors' are noted from machine_track on.
 */
struct machine_changes {
    void *bitmaps; /* all four, mapped */
    size_t word_count;
    uint64_t *changed;
    uint64_t *pending;
    uint64_t *fetched; /* the processors' since the last look */
    bool complete;     /* no vCPU ran since the last save or load, or they are tracked */
    bool tracked;
    int layer_fd; /* the diff's memory, owned; -1: none is being written */
};

struct machine {
    struct control_machine config;
    bool prepared;
    void *host_memory;   /* NULL: it has no place yet */
    bool memory_is_away; /* nothing is mapped in its place */
    int memory_fd;       /* the file that memory is a shared mapping of; owned; -1: it is private */
    int pagemap_fd; /* what of a private memory is in the process's page tables; owned; -1: unknown */
    int faults_fd; /* that keeps the kernel from mapping more than is touched; owned; -1: none */
    bool memory_was_read; /* whole, by a save: what the page tables have says nothing any more */
    struct memory memory;
    struct machine_changes changes;
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
    struct virtio_net network;
    struct virtio_blk disks[VMM_DISK_COUNT_MAX];
    struct virtio_blk medium;      /* if config.has_medium */
    struct virtio_console console; /* if config.has_medium */
    struct virtio_mmio transports[VMM_MMIO_DEVICE_COUNT_MAX];
    size_t transport_count;
    int irq_fds[VMM_GSI_COUNT]; /* by GSI; the VM's; -1: no such line */
    struct machine_kick kicks[MACHINE_KICK_COUNT_MAX];
    size_t kick_count;
    struct io_source end_source; /* a vCPU stopped by itself */
    uint64_t ready_ns;           /* see struct control_stamps */
    uint64_t resumed_ns;
};

/* What takes time and needs no file: memory's place, processors, devices, and what is slow only the first time
 * (machine_warm.c). A boot or a load of the same machine follows, and is the quicker for it. */
KELPIE_CHECKED enum kelpie_status machine_prepare(struct machine *machine,
                                                  const struct control_machine *config,
                                                  struct kelpie_error *err);

/* Makes a machine whose guest has not run, of KERNEL and INITRAMFS over the file MEMORY, which holds zeros. */
KELPIE_CHECKED enum kelpie_status machine_boot(struct machine *machine,
                                               const struct control_machine *config,
                                               struct machine_files *files,
                                               struct kelpie_error *err);

/* The same from a saved STATE over the file MEMORY, which is mapped privately. */
KELPIE_CHECKED enum kelpie_status machine_load(struct machine *machine,
                                               const struct control_machine *config,
                                               struct machine_files *files,
                                               struct kelpie_error *err);

/* The vCPUs go on (or begin); stop and stay so. Called by the I/O thread without the lock. */
KELPIE_CHECKED enum kelpie_status machine_resume(struct machine *machine, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status machine_pause(struct machine *machine, struct kelpie_error *err);

/* Writes STATE, and MEMORY if there is one, or with PAGES_0 a diff, while the vCPUs stand. The files are empty. */
KELPIE_CHECKED enum kelpie_status machine_save(struct machine *machine, struct machine_files *files,
                                               struct kelpie_error *err);

/* Notes from now on what the guest writes. WRONG_STATE: it ran since the last save or load. */
KELPIE_CHECKED enum kelpie_status machine_track(struct machine *machine, struct kelpie_error *err);

/* Writes what has changed into the next diff's MEMORY, which comes with the first call. WRONG_STATE: nobody tracks. */
KELPIE_CHECKED enum kelpie_status
machine_presave(struct machine *machine, struct machine_files *files, struct kelpie_error *err);

/* Leaves memory's file to others, as it is now, and goes on over a private mapping of it: the one that memory is
 * mapped from, or MEMORY, which is empty and is filled first. While the vCPUs stand. */
KELPIE_CHECKED enum kelpie_status machine_seal(struct machine *machine, struct machine_files *files,
                                               struct kelpie_error *err);

/* Writes the bitmap of WORKING_SET: the pages that were touched since the load, by whomever, and what the kernel mapped
 * around them. WRONG_STATE: a save has touched all. UNSUPPORTED: there was no load, or the kernel does not tell. */
KELPIE_CHECKED enum kelpie_status
machine_touched(struct machine *machine, struct machine_files *files, struct kelpie_error *err);

/* ---- For machine_*.c -------------------------------------------------------------------------- */

void machine_lock(void *context);
void machine_unlock(void *context);
uint64_t machine_now_ns(void); /* the monotonic clock */

/* INTERNAL, with the role's name, unless there is one. */
KELPIE_CHECKED enum kelpie_status machine_file_check(const struct machine_files *files,
                                                     enum control_role role,
                                                     struct kelpie_error *err);
int machine_file_take(struct machine_files *files, enum control_role role);

/* Maps a file (or nothing: -1, MAP_ANONYMOUS) as the machine's memory, in the place where memory is mapped already.
 * SNAPSHOT_CORRUPT, field "memory": the file has not memory's size. */
KELPIE_CHECKED enum kelpie_status machine_map_memory(struct machine *machine, int fd, int flags,
                                                     struct kelpie_error *err);

/* The bitmaps of memory, which is there; the processors' writes are not noted yet. */
KELPIE_CHECKED enum kelpie_status machine_changes_init(struct machine *machine,
                                                       struct kelpie_error *err);

/* What is changed from now on is a change to what was just saved or loaded. The vCPUs stand. */
KELPIE_CHECKED enum kelpie_status machine_changes_reset(struct machine *machine,
                                                        struct kelpie_error *err);

/* Writes the rest of the diff, and its PAGES_0. The vCPUs stand. */
KELPIE_CHECKED enum kelpie_status
machine_save_diff(struct machine *machine, struct machine_files *files, struct kelpie_error *err);

/* Puts the diffs LAYER_x over memory, which is mapped privately: the pages that PAGES_x says. SNAPSHOT_CORRUPT, field
 * "memory" or "pages": a file has another size. */
KELPIE_CHECKED enum kelpie_status machine_load_layers(struct machine *machine,
                                                      const struct machine_files *files,
                                                      struct kelpie_error *err);

/* machine_working_set.c: before the process is confined; then for a load, of WORKING_SET, if there is one. */
void machine_pagemap_open(struct machine *machine);
void machine_note_exactly(struct machine *machine);
void machine_prefetch(struct machine *machine, const struct machine_files *files);

/* A whole file or a piece of one. */
KELPIE_CHECKED enum kelpie_status machine_write_file(int fd, const void *data, size_t size,
                                                     uint64_t offset, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status machine_read_file(int fd, void *buffer, size_t size,
                                                    uint64_t offset, struct kelpie_error *err);

/* The run of pages that are all zero, or all not, from offset on: its end, at most `limit`. */
uint64_t machine_page_run(const struct machine *machine, uint64_t offset, uint64_t limit,
                          bool *ret_zero);

/* Every device and line of the config, over MEMORY, mapped with the flags MAP_SHARED or MAP_PRIVATE. */
KELPIE_CHECKED enum kelpie_status machine_build(struct machine *machine,
                                                const struct control_machine *config,
                                                struct machine_files *files, int memory_flags,
                                                struct kelpie_error *err);

/* machine_diff.c: the first set bit of a bitmap in [from, end); end: there is none. */
uint64_t machine_next_set(const uint64_t *bitmap, uint64_t from, uint64_t end);

/* machine_devices.c, in the order of their windows: what every machine has, and what files were given for. */
KELPIE_CHECKED enum kelpie_status machine_add_fixed_devices(struct machine *machine,
                                                            struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
machine_add_files(struct machine *machine, struct machine_files *files, struct kelpie_error *err);

/* machine_save.c and machine_load.c: everything but memory. */
KELPIE_CHECKED enum kelpie_status machine_save_sections(struct machine *machine,
                                                        struct state_writer *state,
                                                        struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status machine_load_sections(struct machine *machine,
                                                        struct state_reader *state,
                                                        struct kelpie_error *err);

/* machine_warm.c: a rehearsal over memory that holds nothing, for machine_prepare(). Afterwards the machine is as
 * before, but for memory. */
KELPIE_CHECKED enum kelpie_status machine_warm_up(struct machine *machine,
                                                  struct kelpie_error *err);

/* What answers the guest's accesses. */
struct vcpu_ops machine_vcpu_ops(struct machine *machine);

#endif
