/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * heap.h: whose the blocks of memory are that are in use, of the program and of every library in it. The C library's own
 * figures count what it keeps for later as in use, and know no simulated processes; so the program has its own malloc() and
 * free(), which count and call the C library's (glibc manual, "Replacing malloc"; it exports its own as __libc_malloc and
 * so on). Each block has a note before it of who was running when it was made.
 */
#ifndef KELPIE_SIM_RUN_HEAP_H
#define KELPIE_SIM_RUN_HEAP_H

#include <stdint.h>

#define HEAP_OWNER_COUNT_MAX 4096u /* owners with a higher number share one count */

/* What is made from now on is owner's; 0: nobody's in particular. */
void heap_owner_set(uint32_t owner);

/* Blocks in use; always 0 where they are not counted: under a sanitizer, which has an allocator of its own. */
int64_t heap_block_count(uint32_t owner);

/* Forgets what the owners but 0 have. */
void heap_owners_reset(void);

#endif
