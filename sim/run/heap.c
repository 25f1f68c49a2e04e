/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/heap.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/assert.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_SANITIZER 1
#endif
#endif

#if defined(WITH_SANITIZER)
#include <sanitizer/lsan_interface.h>

int64_t heap_block_count(void) {
    return 0;
}

bool heap_check(void) {
    return __lsan_do_recoverable_leak_check() == 0;
}

#else

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

/* Of the whole process, as the heap is. Its threads may be many: a fuzzer's are. */
static int64_t block_count;

static void *counted(void *block) {
    if (block) {
        __atomic_add_fetch(&block_count, 1, __ATOMIC_RELAXED);
    }
    return block;
}

void *malloc(size_t size) {
    static_assert(sizeof(block_count) == 8, "it does not wrap");
    return counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    static_assert(sizeof(size_t) == 8, "sizes do not wrap");
    return counted(__libc_calloc(count, size));
}

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) {
    return counted(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size) {
    return counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **ret_block, size_t alignment, size_t size) {
    *ret_block = counted(__libc_memalign(alignment, size));
    return *ret_block ? 0 : 12; /* ENOMEM */
}

void free(void *block) {
    if (block) {
        __atomic_sub_fetch(&block_count, 1, __ATOMIC_RELAXED);
    }
    __libc_free(block);
}

void *realloc(void *block, size_t size) {
    if (block && size == 0) {
        free(block);
        return NULL;
    }
    void *moved = __libc_realloc(block, size);
    return block ? moved : counted(moved);
}

int64_t heap_block_count(void) {
    int64_t count = __atomic_load_n(&block_count, __ATOMIC_RELAXED);
    ASSERT(count > -1000000);
    return count;
}

bool heap_check(void) {
    ASSERT(heap_block_count() > -1000000);
    return true;
}
#endif
