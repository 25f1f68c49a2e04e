/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * confine_self.h: what a process gives up for good, piece by piece: for the monitors that are processes of ours, kelpie-vmm
 * (vmm/confine.h) and kelpie-krun (krun/confine.h), which say how far each goes.
 *
 *     TRY(confine_privileges(err));
 *     confine_capabilities(0);
 *     (void)confine_files(NULL, 0);                         nothing can be opened any more
 *     if (!confine_calls(filter, ARRAY_SIZE(filter))) ...
 *
 * All of it is of the calling thread and of those that it starts later; what is said to be so is of the process.
 */
#ifndef KELPIE_CONFINE_CONFINE_SELF_H
#define KELPIE_CONFINE_CONFINE_SELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct sock_filter;

/* A file, or a folder and what is below it, that may still be opened, and how: LANDLOCK_ACCESS_FS_… (landlock(7)). */
struct confine_place {
    int fd;
    uint64_t access;
};

/* No privileges are gained any more; and of the process: it leaves no core, and nobody of its user's looks into it. */
KELPIE_CHECKED enum kelpie_status confine_privileges(struct kelpie_error *err);

/* Keeps those of its capabilities whose bits are set (1 << CAP_…). */
void confine_capabilities(uint64_t kept);

/* Landlock: no file is opened, made or removed but at these places. What has no name anywhere, such as a memory file, can
 * be opened again. False: this kernel has no Landlock, or refuses. */
bool confine_files(const struct confine_place *places, size_t count);

/* False: this kernel has no filters. In a build with sanitizers, which make calls of their own, nothing is filtered. */
bool confine_calls(const struct sock_filter *steps, size_t count);

#endif
