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
 * A booted machine's memory is a memory file that we hold too. A fork seals it (vmm/control.h): from then on the
 * children map it privately, and so does the machine itself, which therefore hands over nothing but the state of
 * its devices. A load maps the bundle's memory file privately: pages come lazily and writes never reach the
 * bundle.
 *
 * A kernel of libkrunfw takes neither initramfs nor ACPI: its machine has one more disk, the medium (image.h), which
 * the guest lets go of before it answers for the first time. So a snapshot does not hold it: a restored machine has one
 * of the same size in its place, of zeros.
 *
 * Diffs. The monitor counts changes from its last save or load; we keep the id of that bundle. While a save is under way
 * there is none, and so it stays when it fails, or is not answered in time: nobody knows then what was counted.
 */
#ifndef KELPIE_BACKEND_KVM_KVM_INSTANCE_H
#define KELPIE_BACKEND_KVM_KVM_INSTANCE_H

#include "backend/kvm/kvm_limits.h"
#include "backend/monitor/monitor_disks.h"
#include "backend/monitor/monitor_ops.h"
#include "vmm/control.h"

/* The boot disk of a machine whose kernel is libkrunfw's. */
struct kvm_medium {
    uint64_t size; /* bytes; 0: the machine has none */
    int fd;
    uint64_t kernel_load; /* of a boot (vmm/control.h) */
    uint64_t kernel_entry;
};

struct backend_instance {
    struct monitor monitor;
    struct host *host;
    const struct kelpie_config *config;
    struct image_boot boot;
    char unpacked_path[HOST_PATH_SIZE_MAX +
                       1]; /* the ELF file that was in boot.kernel; empty: there is none */
    struct monitor_disks disks;

    /* Of the running machine. */
    int control_fd; /* HOST_FD_NONE: none runs */
    bool prepared;  /* it waits for a boot or a load */
    struct kvm_medium medium;
    int memory_fd;      /* the file that is its memory; HOST_FD_NONE: memory is private to it */
    int working_set_fd; /* of the next load; HOST_FD_NONE: nothing is read ahead */
    bool note;          /* of the next load: what the guest touches will be asked for */
    bool tracked;       /* it notes what is written, since … */
    char base_id[KELPIE_ID_SIZE];     /* … this bundle; empty: since none that is known */
    char presaved_id[KELPIE_ID_SIZE]; /* the bundle whose diff is being written; or empty */
    size_t answers_owed;
    enum control_type orders[KVM_ANSWERS_OWED_MAX]; /* that they answer, in their order */
    size_t in_size;
    uint8_t in[CONTROL_MESSAGE_SIZE_MAX];
};
MONITOR_IS_FIRST(struct backend_instance);

/* An instance without a machine. After a failure too, deinit gives back what there is of a zeroed one. */
KELPIE_CHECKED enum kelpie_status kvm_instance_init(struct backend_instance *instance,
                                                    const struct backend_launch *launch,
                                                    struct kelpie_error *err);
void kvm_instance_deinit(struct backend_instance *instance);

/* What holds from create to destroy. */
void kvm_instance_check(const struct backend_instance *instance);

/* ---- kvm_process.c ---------------------------------------------------------------------------- */

/* Starts kelpie-vmm, which waits for its first order, and the config's network, unless they are prepared. After a failure,
 * kvm_process_take_down() gives back what is left. */
KELPIE_CHECKED enum kelpie_status kvm_process_start(struct backend_instance *instance,
                                                    struct kelpie_error *err);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void kvm_process_take_down(struct backend_instance *instance);

/* ---- kvm_order.c ------------------------------------------------------------------------------ */

/* Gives the monitor a descriptor for the next order. The caller's stays open. CRASHED: the monitor is gone. */
KELPIE_CHECKED enum kelpie_status kvm_pass(struct backend_instance *instance,
                                           enum control_role role, int fd,
                                           struct kelpie_error *err);

/* An order without a payload: its answer is awaited, which is OK, or the monitor's error. CRASHED, with how it ended,
 * when it is gone. */
KELPIE_CHECKED enum kelpie_status kvm_order_plain(struct backend_instance *instance,
                                                  enum control_type type,
                                                  const struct host_wait *wait,
                                                  struct kelpie_error *err);

/* PREPARE, BOOT or LOAD of the config's machine; the last two with its disks. run: see struct control_machine. */
KELPIE_CHECKED enum kelpie_status kvm_order_machine(struct backend_instance *instance,
                                                    enum control_type type, bool run,
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err);

/* When things happened in the monitor, as it says. */
KELPIE_CHECKED enum kelpie_status kvm_order_tell(struct backend_instance *instance,
                                                 struct control_stamps *ret_stamps,
                                                 const struct host_wait *wait,
                                                 struct kelpie_error *err);

/* ---- kvm_medium.c ----------------------------------------------------------------------------- */

/* A decimal number of bytes, of whole sectors, 1 … KVM_MEDIUM_SIZE_MAX. False: it is none. Pure. */
bool kvm_medium_size_parse(const char *text, uint64_t *ret_size);

/* ---- kvm_snapshot.c --------------------------------------------------------------------------- */

/* What a bundle says of what made the machine. */
void kvm_manifest_fill(const struct backend_instance *instance, struct snapshot_manifest *manifest);

KELPIE_CHECKED enum kelpie_status kvm_save(struct backend_instance *instance,
                                           enum kelpie_snapshot_kind kind,
                                           struct snapshot_writer *writer,
                                           const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_track(struct backend_instance *instance,
                                            const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_presave(struct backend_instance *instance,
                                              struct snapshot_writer *writer,
                                              const struct host_wait *wait,
                                              struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_touched(struct backend_instance *instance, int fd,
                                              const struct host_wait *wait,
                                              struct kelpie_error *err);
void kvm_expect(struct backend_instance *instance, int fd, bool note);
KELPIE_CHECKED enum kelpie_status kvm_prepare(struct backend_instance *instance,
                                              struct snapshot_reader *reader,
                                              const struct host_wait *wait,
                                              struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_load(struct backend_instance *instance,
                                           struct snapshot_reader *reader,
                                           const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status kvm_load_running(struct backend_instance *instance,
                                                   struct snapshot_reader *reader,
                                                   const struct host_wait *wait,
                                                   struct kelpie_error *err);

#endif
