/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu_instance.h: one VM of the qemu backend, shared by the files of this folder.
 *
 * THEORY OF OPERATION
 *
 * A machine is one QEMU process (monitor.h), with a socket for QMP, a file that holds the guest's memory, and the disks.
 *
 * The machine's memory is a memfd, mapped shared, after a boot: a snapshot is the device state (QEMU's
 * migration stream, with x-ignore-shared: without that memory) and a sparse copy of the memfd. After a load
 * it is the bundle's memory file, mapped private: pages come lazily and writes never reach the bundle. Such memory cannot
 * be read from outside, so that a snapshot of a restored VM has its memory in the stream (`memory_in_state`);
 * a load of that one fills a new memfd, and the cycle begins again.
 *
 * Threads: the control channel's pointer is under the monitor's lock.
 */
#ifndef KELPIE_BACKEND_QEMU_QEMU_INSTANCE_H
#define KELPIE_BACKEND_QEMU_QEMU_INSTANCE_H

#include "backend/monitor/monitor_disks.h"
#include "backend/monitor/monitor_ops.h"
#include "backend/monitor/monitor_shares.h"
#include "backend/qemu/qemu_limits.h"
#include "backend/qemu/qemu_probe.h"
#include "backend/qemu/qmp.h"

struct backend_instance {
    struct monitor monitor;
    struct host *host;
    const struct kelpie_config *config;
    struct qemu_probe probe;
    struct qemu_tsc_sample tsc_start; /* taken at create */
    struct image_boot boot;
    enum qemu_machine machine;
    struct monitor_disks disks;
    struct monitor_shares shares;

    /* Of the running machine; none of them outlives it. */
    struct qmp *qmp;
    int memory_fd; /* the memfd; HOST_FD_NONE: the memory is private to QEMU */
    bool migrated; /* saved, and the vCPUs did not run since: QEMU will not save twice in a row */
    uint64_t tsc_khz;
};
MONITOR_IS_FIRST(struct backend_instance);

/* What qemu_process_start() starts. */
struct qemu_process_spec {
    int memory_fd;       /* to be mapped */
    bool memory_private; /* without ever changing the file */
    bool incoming;
};

/* What holds from create to destroy. */
void qemu_instance_check(const struct backend_instance *instance);

/* ---- qemu_process.c --------------------------------------------------------------------------- */

/* Starts QEMU with instance->disks and waits until it takes commands; no vCPU runs. On failure
 * no QEMU runs, and qemu_process_take_down() gives back the rest. Errors: BOOT_FAILED (with QEMU's last words), BACKEND_MISSING, TIMED_OUT, CANCELLED, … */
KELPIE_CHECKED enum kelpie_status qemu_process_start(struct backend_instance *instance,
                                                     const struct qemu_process_spec *spec,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void qemu_process_take_down(struct backend_instance *instance);

/* What QEMU said of its end by QMP, such as "the guest reset its machine"; NULL: nothing. Takes and gives back the lock. */
const char *qemu_process_reason(struct backend_instance *instance, char *buffer, size_t size);

/* If err came of QEMU's end, waits a moment for the process and puts how it ended into err, as `status`. */
enum kelpie_status qemu_process_explain(struct backend_instance *instance,
                                        enum kelpie_status status, struct kelpie_error *err);

/* Executes a command without arguments that matter to the caller. Takes over arguments (may be NULL). */
KELPIE_CHECKED enum kelpie_status qemu_execute(struct backend_instance *instance, const char *name,
                                               json_t *arguments, const struct host_wait *wait,
                                               struct kelpie_error *err);

/* The vCPUs run. */
KELPIE_CHECKED enum kelpie_status qemu_cont(struct backend_instance *instance,
                                            const struct host_wait *wait, struct kelpie_error *err);

/* ---- qemu_snapshot.c -------------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status qemu_save(struct backend_instance *instance,
                                            enum kelpie_snapshot_kind kind,
                                            struct snapshot_writer *writer,
                                            const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status qemu_identify(struct backend_instance *instance,
                                                struct snapshot_manifest *manifest,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status qemu_load(struct backend_instance *instance,
                                            struct snapshot_reader *reader,
                                            const struct host_wait *wait, struct kelpie_error *err);

#endif
