/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * machine.h: a machine of either version of libkrun, as an order wants it.
 *
 * THEORY OF OPERATION
 *
 * The machine has a console device with two ports, a terminal for the kernel and one for the agent's channel; the disks; and
 * last a small boot disk (image/image.h), whose /init is the agent. It has no vsock and no shared folder: by the one, libkrun
 * gives guests this host's network, by the other its files, whatever else they are told (its README, "Security model";
 * backend/libkrun/libkrun_instance.h).
 *
 * Everything is given as descriptors that the owner opened, and named to libkrun as /proc/self/fd/N.
 */
#ifndef KELPIE_KRUN_MACHINE_H
#define KELPIE_KRUN_MACHINE_H

#include "krun/control.h"
#include "krun/library.h"

/* What runs; of libkrun 2, what pauses it. */
struct krun_machine {
    const struct krun_library *library;
    uint32_t context;   /* 1.x */
    krun_object vmm;    /* 2.x */
    krun_object handle; /* 2.x; NULL: it cannot pause */
};

/* The library's own log goes to stderr from now on. To be called once. */
void krun_machine_log(const struct krun_library *library);

/* Whether it has a kernel and makes a machine at all: nothing runs. BACKEND_MISSING: it does not. */
KELPIE_CHECKED enum kelpie_status krun_machine_try(const struct krun_library *library,
                                                   struct kelpie_error *err);

/* terminal_fd: of the kernel's console. BOOT_FAILED names the function that refused. */
KELPIE_CHECKED enum kelpie_status krun_machine_make(struct krun_machine *machine,
                                                    const struct krun_library *library,
                                                    const struct krun_order *order, int terminal_fd,
                                                    struct kelpie_error *err);

/* Hands this process over. Returns only when it could not start: BOOT_FAILED; or, of libkrun 2, when the guest has ended: OK. */
enum kelpie_status krun_machine_enter(struct krun_machine *machine, struct kelpie_error *err);

/* From another thread than the one that entered. UNSUPPORTED: it cannot, or does not want to. */
KELPIE_CHECKED enum kelpie_status krun_machine_pause(struct krun_machine *machine, bool pause,
                                                     struct kelpie_error *err);

#endif
