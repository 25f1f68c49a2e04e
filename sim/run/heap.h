/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * heap.h: how many blocks of memory are in use, of the program and of every library in it. The C library's own figures count
 * what it keeps for later as in use, so the program has its own malloc() and free(), which count and call the C library's
 * (glibc manual, "Replacing malloc"; it exports its own as __libc_malloc and so on).
 */
#ifndef KELPIE_SIM_RUN_HEAP_H
#define KELPIE_SIM_RUN_HEAP_H

#include <stdbool.h>
#include <stdint.h>

/* Blocks; always 0 where they are not counted: under a sanitizer, which looks for leaks itself (heap_check). */
int64_t heap_block_count(void);

/* What a sanitizer finds. True: no leak. */
bool heap_check(void);

#endif
