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
 * first process, and libkrun's own init has no part.
 *
 * The channel is a port of the console device, and there is no vsock. Since 1.17 libkrun can be given a vsock device that does not
 * make the guest's connections on this host (krun_add_vsock() without TSI), and each of its ports is then a UNIX socket; the
 * port of a console is the better channel still:
 *   - it is a descriptor. A vsock port is a path: a folder and a socket for each VM, to be made, guarded and removed, and
 *     another program could connect to it;
 *   - its process never makes a socket or a connection, and may not (krun/confine.h);
 *   - with the device, the code that makes a guest's connections on the host is in reach of its packets, behind one flag. A
 *     machine without the device has none of it: the lab's suite network-libkrun shows that such a guest has no network;
 *   - any kernel that has a console has it. What vsock has beyond it, many streams and a peer that dials again, is for
 *     machines that are restored, which libkrun has none of.
 *
 * There is no shared folder either: shares are copied in. libkrun serves virtio-fs in its own process, and hands the names that
 * a guest sends to openat(2) as they are, ".." and absolute ones too; its README leaves the protection of the host to who
 * runs it. Landlock would keep such a guest from opening what is outside, but not from stat, chmod, chown or setxattr there,
 * and as root libkrun makes files for whatever user the guest names. A mount namespace would do, which needs root, or the
 * right to make user namespaces, in a process that is to lose both.
 *
 * A network of kind user is a passt of ours (monitor_network.h), whose socket libkrun is given; a tap it opens by its name, after
 * we saw that there is one. A library without these calls, which is built without NET=1, has no network, and create says so.
 *
 * libkrun 1 can neither pause nor save a machine, libkrun 2 can pause. What cannot be done is UNSUPPORTED. Nothing of a VM is on
 * this host's disk but its disks.
 *
 * An order (pause, resume) whose answer did not come in time is still carried out; its answer is owed, and is read and
 * dropped before that of the next.
 */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_INSTANCE_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_INSTANCE_H

#include "backend/libkrun/libkrun_limits.h"
#include "backend/libkrun/libkrun_probe.h"
#include "backend/libkrun/libkrun_talk.h"
#include "backend/monitor/monitor_disks.h"
#include "backend/monitor/monitor_ops.h"

struct backend_instance {
    struct monitor monitor;
    struct host *host;
    const struct kelpie_config *config;
    struct libkrun_probe probe;
    struct image_boot boot;
    struct monitor_disks disks;

    /* Of the running machine. */
    struct libkrun_talk talk;
    size_t answers_owed;
};
MONITOR_IS_FIRST(struct backend_instance);

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
