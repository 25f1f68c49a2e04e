/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * host_krunfw.h: the kernel that libkrunfw carries. It is a shared library whose one function tells where the kernel's
 * bytes lie, where they go in a guest's memory, and where the kernel begins. It is loaded, asked, and unloaded; loading
 * it runs what it brings along, in this process: whoever names it trusts it.
 */
#ifndef KELPIE_HOST_HOST_KRUNFW_H
#define KELPIE_HOST_HOST_KRUNFW_H

#include "host/host.h"

struct host_krunfw {
    int fd; /* a memory file with the kernel's bytes and no more; the caller's */
    uint64_t size;
    uint64_t load_gpa;
    uint64_t entry_gpa;
};

/* The library is the file at `path`, looked for nowhere else. What it says is checked as far as bytes are concerned (not
 * NULL, 1 … HOST_KRUNFW_SIZE_MAX of them); the addresses are the boot loader's to judge.
 * Errors: BAD_CONFIG field "kernel"; NO_MEMORY, NO_SPACE, IO_FAILED of the memory file. */
KELPIE_CHECKED enum kelpie_status host_krunfw_load(struct host *host, const char *path,
                                                   struct host_krunfw *ret_kernel,
                                                   struct kelpie_error *err);

#endif
