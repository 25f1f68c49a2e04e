/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A stretch of a chain's parts, as preadv() and its like take them. */
#ifndef KELPIE_VMM_DEVICE_IOVEC_H
#define KELPIE_VMM_DEVICE_IOVEC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/assert.h"
#include "base/checked.h"

/* The bytes [skip, skip + size) of the parts, or as many of them as there are. ret_parts has room for count. Returns how
 * many parts they are. */
static inline size_t iovec_slice(const struct iovec *parts, size_t count, uint64_t skip,
                                 uint64_t size, struct iovec *ret_parts) {
    size_t used = 0;
    ASSERT(ret_parts);
    ASSERT(parts || count == 0);
    for (size_t i = 0; i < count && size > 0; i++) {
        uint64_t length = parts[i].iov_len;
        if (skip >= length) {
            skip -= length;
            continue;
        }
        length = min_u64(length - skip, size);
        ret_parts[used].iov_base = (uint8_t *)parts[i].iov_base + skip;
        ret_parts[used].iov_len = length;
        used++;
        skip = 0;
        size -= length;
    }
    return used;
}

/* Drops the first `bytes` bytes in place; returns how many parts at the front are used up. The part behind them begins
 * where the rest does. */
static inline size_t iovec_advance(struct iovec *parts, size_t count, uint64_t bytes) {
    size_t used = 0;
    ASSERT(parts);
    while (used < count && bytes >= parts[used].iov_len) {
        bytes -= parts[used].iov_len;
        used++;
    }
    ASSERT(used < count || bytes == 0);
    if (bytes > 0) {
        parts[used].iov_base = (uint8_t *)parts[used].iov_base + bytes;
        parts[used].iov_len -= bytes;
    }
    return used;
}

#endif
