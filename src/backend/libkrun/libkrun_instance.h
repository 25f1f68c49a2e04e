/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * libkrun_instance.h: one VM of the libkrun backend, shared by the files of this folder.
 *
 * THEORY OF OPERATION
 *
 * libkrun takes over the process that calls it, and ends it. So a machine is a process: kelpie-krun (src/krun/), whose program
 * travels inside this library and is started from a memory file, like our own monitor. libkrun is loaded there alone. One that
 * is missing, of another version, or broken ends such a process at create (libkrun_probe.h), and is an error that says what to
 * install.
 *
 * The machine boots libkrunfw's kernel, from a small disk with the agent (image.h), which is the last one; the agent is the
 * first process, and libkrun's own init has no part. The channel is a port of the console device. There is neither vsock nor
 * a shared folder, and so nothing on this host's disk (krun/machine.h).
 *
 * libkrun 1 can neither pause nor save a machine, libkrun 2 can pause. What cannot be done is UNSUPPORTED.
 *
 * An order (pause, resume) whose answer did not come in time is still carried out; its answer is owed, and is read and
 * dropped before that of the next.
 */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_INSTANCE_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_INSTANCE_H

#include "backend/libkrun/libkrun_limits.h"
#include "backend/libkrun/libkrun_probe.h"
#include "backend/libkrun/libkrun_talk.h"
#include "backend/monitor/monitor.h"
#include "backend/monitor/monitor_disks.h"

struct backend_instance {
    struct host *host;
    const struct kelpie_config *config;
    struct libkrun_probe probe;
    struct image_boot boot;
    struct monitor monitor;
    struct monitor_disks disks;

    /* Of the running machine. */
    struct libkrun_talk talk;
    size_t answers_owed;
};

/* What holds from create to destroy. */
void libkrun_instance_check(const struct backend_instance *instance);

/* Starts the machine's process and hands it over to libkrun. After a failure, take_down gives back what is left. The disks
 * are open. BACKEND_MISSING, BOOT_FAILED, TIMED_OUT. */
KELPIE_CHECKED enum kelpie_status libkrun_process_start(struct backend_instance *instance,
                                                        const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* What its end means, when it has ended; NULL: nothing that is known. */
const char *libkrun_process_reason(struct backend_instance *instance);

/* Kills what still runs and gives back everything of the running machine, disks included. */
void libkrun_process_take_down(struct backend_instance *instance);

/* "pause" or "resume", and its answer. */
KELPIE_CHECKED enum kelpie_status libkrun_process_order(struct backend_instance *instance,
                                                        const char *order,
                                                        const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* The kernel's command line. BAD_CONFIG, field "kernel_args": it is too long. */
KELPIE_CHECKED enum kelpie_status libkrun_command_line(const struct kelpie_config *config,
                                                       char line[KRUN_COMMAND_LINE_SIZE_MAX],
                                                       struct kelpie_error *err);

#endif
