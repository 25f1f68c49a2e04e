/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* names.h: what a folder is listed as, by getdents64(2). */
#ifndef KELPIE_GUEST_NAMES_H
#define KELPIE_GUEST_NAMES_H

#include <stdint.h>

/* One name; the next one is `size` bytes on. */
struct dirent64 {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

#endif
