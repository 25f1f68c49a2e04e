/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Getting the kernel out of libkrunfw. This is for the process that prepares a VM and runs as its owner: it loads a
 * shared library, which the monitor, static and confined, never does. The monitor is handed the bytes.
 */
#ifndef KELPIE_VMM_BOOT_KRUNFW_LIBRARY_H
#define KELPIE_VMM_BOOT_KRUNFW_LIBRARY_H

#include "base/error.h"
#include "vmm/boot/boot.h"

#define KRUNFW_LIBRARY_DEFAULT "libkrunfw.so.5"

struct krunfw_library {
    void *handle;             /* NULL: not open */
    struct boot_bytes kernel; /* the library's: as long as it is open */
    uint64_t load_gpa;
    uint64_t entry_gpa;
};

/* path NULL: KRUNFW_LIBRARY_DEFAULT, as the dynamic loader finds it. BACKEND_MISSING: it is not there, or is not
 * libkrunfw. */
KELPIE_CHECKED enum kelpie_status
krunfw_library_open(const char *path, struct krunfw_library *ret_library, struct kelpie_error *err);
void krunfw_library_close(struct krunfw_library *library); /* a zeroed one too */

#endif
