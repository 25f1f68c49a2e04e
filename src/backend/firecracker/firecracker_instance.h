/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_instance.h: one VM of the firecracker backend, shared by the files of this folder.
 *
 * THEORY OF OPERATION
 *
 * A machine is one Firecracker process (monitor.h) in a working folder of its own, which only we can enter and which has nothing in
 * it but sockets: "api" (firecracker_client.h), "v", the socket device's, and "v_<port>", where the guest's channel arrives
 * (firecracker_link.h). Their names are relative, so that the one which a snapshot's state holds means another socket in each
 * process, and a restore finds nothing in its way (hazard C7); no version of Firecracker has to be told another one.
 *
 * Files go by /proc/self/fd/N: kernel, initramfs and disks, or state and memory and disks, are descriptors that the process is
 * started with, under numbers that never change. So a file needs no name, a restored machine opens its own disks under the
 * names that the state has, and no other VM's. A disk that is read-only is opened for reading only, by Firecracker too (hazard A15). What a
 * snapshot writes are descriptors of ours that come later: Firecracker opens them by /proc/<our process>/fd/N.
 *
 * Kernel messages and Firecracker's own errors come on its stdout, which is the console.
 *
 * Memory of a booted machine is anonymous, that of a restored one the bundle's file, mapped privately by Firecracker: pages come
 * lazily, and writes never reach the bundle. How it is saved, whole or as a diff, says firecracker_memory.c.
 *
 * A folder of an owner that was killed is removed by the next who makes one beside it: its lock is free.
 *
 * Threads: as in monitor.h. channel_fd is under the monitor's lock; link, client and folder are the operations'.
 */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_INSTANCE_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_INSTANCE_H

#include "backend/firecracker/firecracker_client.h"
#include "backend/firecracker/firecracker_folder.h"
#include "backend/firecracker/firecracker_link.h"
#include "backend/firecracker/firecracker_probe.h"
#include "backend/monitor/monitor_disks.h"
#include "backend/monitor/monitor_ops.h"

/* What snapshots are made from. */
struct firecracker_memory {
    int fd; /* the file that a restored machine maps privately; HOST_FD_NONE: it booted */
    char base_id[KELPIE_ID_SIZE]; /* the last bundle that was written or loaded; or empty */
    bool tracked;                 /* diffs to it were asked for */
};

struct backend_instance {
    struct monitor monitor;
    struct host *host;
    const struct kelpie_config *config;
    struct firecracker_probe probe;
    struct image_boot boot;
    char kernel_path[HOST_PATH_SIZE_MAX + 1]; /* an ELF file; empty: not looked for yet */
    struct monitor_disks disks;

    /* Of the running machine; none of them outlives it. */
    struct firecracker_memory memory;
    struct firecracker_folder folder;
    struct firecracker_client client;
    struct firecracker_link *link;
    int channel_fd;
    bool
        lost; /* the guest let go of its channel, and the process was killed for it; under the lock */
};
MONITOR_IS_FIRST(struct backend_instance);

/* What Firecracker is started with: descriptors that it opens again by number. */
enum firecracker_child_fd {
    FIRECRACKER_CHILD_KERNEL = MONITOR_CHILD_NEXT, /* of a load: the state */
    FIRECRACKER_CHILD_INITRAMFS,                   /* of a load: the memory */
    FIRECRACKER_CHILD_DISK_0,                      /* a snapshot's state has these numbers */
    FIRECRACKER_CHILD_END = FIRECRACKER_CHILD_DISK_0 + KELPIE_DISK_COUNT_MAX
};

/* What holds from create to destroy. */
void firecracker_instance_check(const struct backend_instance *instance);

/* ---- firecracker_process.c -------------------------------------------------------------------- */

/* Starts Firecracker with instance->disks and these two files, and connects to its API. After a failure too,
 * firecracker_process_take_down() gives everything back. BOOT_FAILED (with its last words), BACKEND_MISSING, … */
KELPIE_CHECKED enum kelpie_status firecracker_process_start(struct backend_instance *instance,
                                                            const int fds[2],
                                                            const struct host_wait *wait,
                                                            struct kelpie_error *err);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void firecracker_process_take_down(struct backend_instance *instance);

/* What ended it, for messages; NULL: nothing that is known. Under the lock. */
const char *firecracker_reason(struct backend_instance *instance);

/* A request of the API. A Firecracker that is gone, or says what is no answer, is CRASHED, with how it ended. */
KELPIE_CHECKED enum kelpie_status firecracker_ask(struct backend_instance *instance,
                                                  const char *method, const char *path,
                                                  json_t *body, const struct host_wait *wait,
                                                  struct kelpie_error *err);

/* ---- firecracker_boot.c ----------------------------------------------------------------------- */

/* Configures a machine that is to boot, and starts it. */
KELPIE_CHECKED enum kelpie_status firecracker_boot(struct backend_instance *instance,
                                                   const struct host_wait *wait,
                                                   struct kelpie_error *err);

/* Finds kernel and initramfs. */
KELPIE_CHECKED enum kelpie_status firecracker_find_images(struct backend_instance *instance,
                                                          const struct host_wait *wait,
                                                          struct kelpie_error *err);

/* ---- firecracker_memory.c --------------------------------------------------------------------- */

/* Whether that version's diffs of a machine that does not log what is written can be trusted. Pure. */
bool firecracker_diffs_are_right(const struct firecracker_probe *probe, uint32_t memory_mib);

/* Whether no page can be in swap now. */
bool firecracker_swap_is_off(struct host *host);

/* The bundle's memory, in one file, for the machine that is to be loaded from it. */
KELPIE_CHECKED enum kelpie_status firecracker_memory_open(struct backend_instance *instance,
                                                          struct snapshot_reader *reader,
                                                          const struct host_wait *wait,
                                                          struct kelpie_error *err);
void firecracker_memory_close(struct backend_instance *instance); /* twice is allowed */

/* The state and the memory, or, when the writer's bundle has a parent, what of it is another. The vCPUs stand. */
KELPIE_CHECKED enum kelpie_status firecracker_memory_save(struct backend_instance *instance,
                                                          struct snapshot_writer *writer,
                                                          const struct host_wait *wait,
                                                          struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status firecracker_track(struct backend_instance *instance,
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status firecracker_presave(struct backend_instance *instance,
                                                      struct snapshot_writer *writer,
                                                      const struct host_wait *wait,
                                                      struct kelpie_error *err);

/* ---- firecracker_snapshot.c ------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status firecracker_identify(struct backend_instance *instance,
                                                       struct snapshot_manifest *manifest,
                                                       struct kelpie_error *err);
/* Has Firecracker write its state and its memory into these files of ours. Whatever comes of it, the guest's connection has
 * ended. */
KELPIE_CHECKED enum kelpie_status firecracker_write(struct backend_instance *instance,
                                                    const char *type, const int fds[2],
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status firecracker_save(struct backend_instance *instance,
                                                   enum kelpie_snapshot_kind kind,
                                                   struct snapshot_writer *writer,
                                                   const struct host_wait *wait,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status firecracker_load(struct backend_instance *instance,
                                                   struct snapshot_reader *reader,
                                                   const struct host_wait *wait,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status firecracker_load_running(struct backend_instance *instance,
                                                           struct snapshot_reader *reader,
                                                           const struct host_wait *wait,
                                                           struct kelpie_error *err);

#endif
