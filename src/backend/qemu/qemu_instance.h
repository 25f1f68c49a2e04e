/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu_instance.h: one VM of the qemu backend, shared by the files of this folder.
 *
 * THEORY OF OPERATION
 *
 * A machine is one QEMU process. It is given descriptors and nothing else: socket pairs for QMP, the guest's channel, the
 * console and stderr; a file that holds the guest's memory; the disks. So there is nothing on disk to clean up, nothing to
 * connect to from outside, and each of our ends reads as ended when QEMU is gone.
 *
 * The machine's memory is a memfd, mapped shared, after a boot: a snapshot is the device state (QEMU's
 * migration stream, with x-ignore-shared: without that memory) and a sparse copy of the memfd. After a load
 * it is the bundle's memory file, mapped private: pages come lazily and writes never reach the bundle. Such memory cannot
 * be read from outside, so that a snapshot of a restored VM has its memory in the stream (`memory_in_state`);
 * a load of that one fills a new memfd, and the cycle begins again.
 *
 * Threads: `lock` guards what kill(), service() and the getters touch: the process, the descriptors, the control
 * channel's pointer, the console. It is held for short work only. The operations come one at a time, and only they set or
 * clear these fields; they may therefore read them without the lock.
 */
#ifndef KELPIE_BACKEND_QEMU_QEMU_INSTANCE_H
#define KELPIE_BACKEND_QEMU_QEMU_INSTANCE_H

#include "backend/backend.h"
#include "backend/qemu/qemu_console.h"
#include "backend/qemu/qemu_probe.h"
#include "backend/qemu/qmp.h"

/* A disk as it is given to QEMU. */
struct qemu_disk {
    int fd; /* HOST_FD_NONE: not open */
    uint64_t size;
    bool read_only;
    char *outside_path; /* it is this file as it stands, read-only; NULL: it is ours alone */
};

struct backend_instance {
    struct host *host;
    const struct kelpie_config *config;
    struct qemu_probe probe;
    struct qemu_tsc_sample tsc_start; /* taken at create */
    struct image_boot boot;
    enum qemu_machine machine;
    struct host_mutex *lock;
    struct qemu_console console;
    char last_exit[1024]; /* how the machine ended that was taken down last; or empty */

    /* Of the running machine; none of them outlives it. */
    struct host_process *process;
    struct qmp *qmp;
    int channel_fd;
    int console_fd;
    int stderr_fd;
    char stderr_tail[QEMU_STDERR_TAIL_SIZE];
    size_t stderr_size;
    int memory_fd; /* the memfd; HOST_FD_NONE: the memory is private to QEMU */
    bool migrated; /* saved, and the vCPUs did not run since: QEMU will not save twice in a row */
    uint64_t tsc_khz;
    struct qemu_disk disks[KELPIE_DISK_COUNT_MAX];
};

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
 * nothing runs. Errors: BOOT_FAILED (with QEMU's last words), BACKEND_MISSING, TIMED_OUT, CANCELLED, … */
KELPIE_CHECKED enum kelpie_status qemu_process_start(struct backend_instance *instance,
                                                     const struct qemu_process_spec *spec,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void qemu_process_take_down(struct backend_instance *instance);

/* Describes how the machine ended. Under the lock. */
void qemu_process_exit_text(struct backend_instance *instance, char *buffer, size_t size);

/* If err came of QEMU's end, waits a moment for the process and puts how it ended into err, as `status`. */
enum kelpie_status qemu_process_explain(struct backend_instance *instance,
                                        enum kelpie_status status, struct kelpie_error *err);

/* Reads stderr; closes it at its end. Under the lock. */
void qemu_process_drain_stderr(struct backend_instance *instance);

/* Executes a command without arguments that matter to the caller. Takes over arguments (may be NULL). */
KELPIE_CHECKED enum kelpie_status qemu_execute(struct backend_instance *instance, const char *name,
                                               json_t *arguments, const struct host_wait *wait,
                                               struct kelpie_error *err);

/* The vCPUs run. */
KELPIE_CHECKED enum kelpie_status qemu_cont(struct backend_instance *instance,
                                            const struct host_wait *wait, struct kelpie_error *err);

/* ---- qemu_disk.c ------------------------------------------------------------------------------ */

/* Opens the config's disks. */
KELPIE_CHECKED enum kelpie_status qemu_disks_open(struct backend_instance *instance,
                                                  const struct host_wait *wait,
                                                  struct kelpie_error *err);
void qemu_disks_close(struct backend_instance *instance);

/* Writes what the bundle needs of the disks into the writer and its manifest. */
KELPIE_CHECKED enum kelpie_status qemu_disks_save(struct backend_instance *instance,
                                                  enum kelpie_snapshot_kind kind,
                                                  struct snapshot_writer *writer,
                                                  const struct host_wait *wait,
                                                  struct kelpie_error *err);

/* Opens a bundle's disks: private copies, or the outside files, which must be unchanged. */
KELPIE_CHECKED enum kelpie_status qemu_disks_load(struct backend_instance *instance,
                                                  struct snapshot_reader *reader,
                                                  const struct host_wait *wait,
                                                  struct kelpie_error *err);

/* ---- qemu_snapshot.c -------------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status qemu_save(struct backend_instance *instance,
                                            enum kelpie_snapshot_kind kind,
                                            struct snapshot_writer *writer,
                                            const struct host_wait *wait, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status qemu_load(struct backend_instance *instance,
                                            struct snapshot_reader *reader,
                                            const struct host_wait *wait, struct kelpie_error *err);

#endif
