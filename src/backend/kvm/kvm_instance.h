/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kvm_instance.h: one VM of the kvm backend, shared by the files of this folder.
 *
 * THEORY OF OPERATION
 *
 * A machine is one kelpie-vmm process (monitor.h), whose program travels inside this library (vmm_embed.S) and is
 * started from a memory file: the two always fit, and nothing is looked up. It is given open descriptors, /dev/kvm,
 * kernel, initramfs, disks, and opens nothing itself, so that it can be confined before a guest runs. Orders go over a
 * socket (vmm/control.h), one at a time, each answered.
 *
 * An order whose answer did not come in time, or whose wait was cancelled, is still carried out; its answer is owed,
 * and is read and dropped before that of the next.
 *
 * A kernel of libkrunfw takes neither initramfs nor ACPI: its machine has one more disk, the medium (image.h), which
 * the guest lets go of before it answers for the first time. So a snapshot does not hold it: a restored machine has one of the same
 * size in its place, of zeros.
 *
 * A boot's memory is the monitor's own. A load maps the bundle's memory file privately: pages come lazily and writes
 * never reach the bundle.
 */
#ifndef KELPIE_BACKEND_KVM_KVM_INSTANCE_H
#define KELPIE_BACKEND_KVM_KVM_INSTANCE_H

#include "backend/kvm/kvm_limits.h"
#include "backend/monitor/monitor.h"
#include "backend/monitor/monitor_disks.h"
#include "vmm/control.h"

struct backend_instance {
    struct host *host;
    const struct kelpie_config *config;
    struct image_boot boot;
    struct monitor monitor;
    struct monitor_disks disks;
    uint64_t medium_size; /* bytes; 0: the machine has none */
    int program_fd;       /* a memory file with kelpie-vmm; HOST_FD_NONE: not made yet */

    /* Of the running machine. */
    int control_fd; /* HOST_FD_NONE: none runs */
    size_t answers_owed;
    size_t in_size;
    uint8_t in[CONTROL_MESSAGE_SIZE_MAX];
};

/* What holds from create to destroy. */
void kvm_instance_check(const struct backend_instance *instance);

/* ---- kvm_process.c ---------------------------------------------------------------------------- */

/* What a start or a load gives the monitor beside /dev/kvm and the disks: kernel and initramfs, or state and memory;
 * and the medium, if the machine has one: then a start has no initramfs. HOST_FD_NONE: none. */
struct kvm_sources {
    int first_fd;
    int second_fd;
    int medium_fd;
    uint64_t kernel_load; /* of a raw kernel (control.h) */
    uint64_t kernel_entry;
};

/* Starts kelpie-vmm, which waits for its first order. On failure nothing runs. */
KELPIE_CHECKED enum kelpie_status kvm_process_start(struct backend_instance *instance,
                                                    const struct kvm_sources *sources,
                                                    struct kelpie_error *err);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void kvm_process_take_down(struct backend_instance *instance);

/* ---- kvm_order.c ------------------------------------------------------------------------------ */

/* Sends a whole message, with a descriptor or HOST_FD_NONE, and waits for its answer: OK, or the monitor's error.
 * CRASHED, with how it ended, when it is gone. */
KELPIE_CHECKED enum kelpie_status kvm_order(struct backend_instance *instance,
                                            const struct cursor_writer *message, int passed_fd,
                                            const struct host_wait *wait, struct kelpie_error *err);

/* An order without a payload. */
KELPIE_CHECKED enum kelpie_status kvm_order_plain(struct backend_instance *instance,
                                                  enum control_type type,
                                                  const struct host_wait *wait,
                                                  struct kelpie_error *err);

/* BOOT or LOAD of the config's machine. */
KELPIE_CHECKED enum kelpie_status kvm_order_machine(struct backend_instance *instance,
                                                    enum control_type type,
                                                    const struct kvm_sources *sources,
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err);

/* ---- kvm_medium.c ----------------------------------------------------------------------------- */

/* A decimal number of bytes, of whole sectors, 1 … KVM_MEDIUM_SIZE_MAX. False: it is none. Pure. */
bool kvm_medium_size_parse(const char *text, uint64_t *ret_size);

/* ---- kvm_snapshot.c --------------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status kvm_save(struct backend_instance *instance,
                                           enum kelpie_snapshot_kind kind,
                                           struct snapshot_writer *writer,
                                           const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_load(struct backend_instance *instance,
                                           struct snapshot_reader *reader,
                                           const struct host_wait *wait, struct kelpie_error *err);

#endif
