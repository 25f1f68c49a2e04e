/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Checked arithmetic: true and the result, or false when it does not fit (and *ret is untouched). */
#ifndef KELPIE_BASE_CHECKED_H
#define KELPIE_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"

static inline bool checked_add_u64(uint64_t a, uint64_t b, uint64_t *ret) {
    ASSERT(ret);
    uint64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *ret = sum;
    return true;
}

static inline bool checked_mul_u64(uint64_t a, uint64_t b, uint64_t *ret) {
    ASSERT(ret);
    uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *ret = product;
    return true;
}

static inline bool checked_add_size(size_t a, size_t b, size_t *ret) {
    ASSERT(ret);
    size_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *ret = sum;
    return true;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif
