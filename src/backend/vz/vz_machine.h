/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * vz_machine.h: what the backend asks of the Virtualization framework, as calls in C. Each waits for the framework's answer, no
 * longer than timeout_ms (TIMED_OUT, and then nobody knows). A machine is used by one thread at a time, but for stop().
 */
#ifndef KELPIE_BACKEND_VZ_VZ_MACHINE_H
#define KELPIE_BACKEND_VZ_VZ_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/vz/vz_limits.h"
#include "kelpie.h"

struct vz_machine;

struct vz_disk {
    const char *path; /* a raw image */
    bool read_only;   /* by the framework */
};

struct vz_description {
    uint32_t vcpu_count;
    uint32_t memory_mib;
    const char *kernel;
    const char *initramfs;
    const char *command_line;
    const char *channel_port; /* the name of the channel's port in the guest */
    int channel_fd; /* the machine's ends; they stay the caller's, and open as long as it lives */
    int console_fd;
    const struct vz_disk *disks;
    size_t disk_count;
    const char *identifier; /* of the machine that was saved; NULL: a new one */
    /* Called once, on a thread of the framework's, when the machine has ended by itself; text is empty: as it should. */
    void (*ended)(void *context, const char *text);
    void *context;
};

struct vz_machine_calls {
    /* Why there is no machine here; false: there is one. */
    bool (*missing)(char text[VZ_TEXT_SIZE]);

    /* BAD_CONFIG: the framework refuses the description, and says why. */
    enum kelpie_status (*create)(const struct vz_description *description,
                                 struct vz_machine **ret_machine, struct kelpie_error *err);

    /* Also of a machine that runs: it ends. No more callbacks come. */
    void (*destroy)(struct vz_machine *machine);

    enum kelpie_status (*start)(struct vz_machine *machine, uint32_t timeout_ms,
                                struct kelpie_error *err);
    enum kelpie_status (*pause)(struct vz_machine *machine, uint32_t timeout_ms,
                                struct kelpie_error *err);
    enum kelpie_status (*resume)(struct vz_machine *machine, uint32_t timeout_ms,
                                 struct kelpie_error *err);

    /* Of a paused machine, to a file that is made; and into a machine that was not started, which is then paused. */
    enum kelpie_status (*save)(struct vz_machine *machine, const char *path, uint32_t timeout_ms,
                               struct kelpie_error *err);
    enum kelpie_status (*load)(struct vz_machine *machine, const char *path, uint32_t timeout_ms,
                               struct kelpie_error *err);

    /* Ends it, as a power loss does. Waits for nothing: `ended` is called later, on another thread. */
    void (*stop)(struct vz_machine *machine);

    /* Its identifier as text, zero-terminated; empty when it does not fit. */
    void (*identifier)(struct vz_machine *machine, char *buffer, size_t size);
};

#if defined(__APPLE__)
extern const struct vz_machine_calls vz_machine_calls; /* vz_machine.m */
#endif

#endif
