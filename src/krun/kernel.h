/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kernel.h: libkrunfw's kernel as a file that libkrun 1.x boots with our command line. It boots a kernel of libkrunfw by
 * itself only with its own init as the first process. As an ELF file it takes any; and the bytes that libkrunfw has are those
 * of a vmlinux as they lie in memory, so that a header with one segment makes them one again (System V ABI, "Object Files";
 * the x86-64 supplement).
 */
#ifndef KELPIE_KRUN_KERNEL_H
#define KELPIE_KRUN_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kelpie.h"

#define KRUN_ELF_HEADER_SIZE 4096 /* what stands before the kernel's bytes */

/* The header of such a file. Pure. */
void krun_elf_header(uint64_t load, uint64_t entry, uint64_t size,
                     uint8_t ret_header[KRUN_ELF_HEADER_SIZE]);

/* Whether libkrunfw gives a kernel that can be one. */
bool krun_kernel_is_there(char *(*get_kernel)(uint64_t *, uint64_t *, size_t *));

/* Asks libkrunfw, and writes the file into memory. The descriptor is the caller's. BAD_CONFIG, field "kernel": it has none
 * that can be. */
KELPIE_CHECKED enum kelpie_status krun_kernel_file(char *(*get_kernel)(uint64_t *, uint64_t *,
                                                                       size_t *),
                                                   int *ret_fd, struct kelpie_error *err);

#endif
