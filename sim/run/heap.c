/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/heap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/sim_limits.h"

#if defined(SIM_WITH_SANITIZER)
void heap_owner_set(uint32_t owner) {
    (void)owner;
}

int64_t heap_block_count(uint32_t owner) {
    (void)owner;
    return 0;
}

void heap_owners_reset(void) {
}

#else

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t item_count, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

#define NOTE_SIZE 16u
#define NOTE_MAGIC 0x6b68u
#define NO_MEMORY 12 /* ENOMEM */

struct note {
    uint64_t size;
    uint32_t owner;
    uint16_t magic;
    uint16_t offset; /* of the block in what the C library gave, in units of NOTE_SIZE */
};
static_assert(sizeof(struct note) == NOTE_SIZE, "a block behind it is aligned");

/* Of the whole process, as the heap is. Its threads may be many: a fuzzer's are. */
static int64_t counts[HEAP_OWNER_COUNT_MAX];
static uint32_t owner_now;

static void count(uint32_t owner, int64_t more) {
    static_assert(HEAP_OWNER_COUNT_MAX > 1, "owners are told apart");
    ASSERT(more == 1 || more == -1);
    uint32_t index = owner < HEAP_OWNER_COUNT_MAX ? owner : HEAP_OWNER_COUNT_MAX - 1;
    __atomic_add_fetch(&counts[index], more, __ATOMIC_RELAXED);
}

static void *give(uint8_t *start, size_t offset, size_t size) {
    if (!start) {
        return NULL;
    }
    ASSERT(offset >= NOTE_SIZE && offset % NOTE_SIZE == 0);
    const struct note note = {.size = size,
                              .owner = owner_now,
                              .magic = NOTE_MAGIC,
                              .offset = (uint16_t)(offset / NOTE_SIZE)};
    memcpy(start + offset - NOTE_SIZE, &note, sizeof(note));
    count(note.owner, 1);
    return start + offset;
}

/* What was made before the program was linked together has no note. */
static bool has_note(const void *block, struct note *ret_note) {
    memcpy(ret_note, (const uint8_t *)block - NOTE_SIZE, sizeof(*ret_note));
    return ret_note->magic == NOTE_MAGIC;
}

/* Libraries are to call these too. */
#pragma GCC visibility push(default)

void *malloc(size_t size) {
    static_assert(sizeof(size_t) == 8, "sizes and a note do not wrap");
    return size > PTRDIFF_MAX ? NULL : give(__libc_malloc(size + NOTE_SIZE), NOTE_SIZE, size);
}

void *calloc(size_t item_count, size_t size) {
    size_t whole = 0;
    if (__builtin_mul_overflow(item_count, size, &whole) || whole > PTRDIFF_MAX) {
        return NULL;
    }
    return give(__libc_calloc(1, whole + NOTE_SIZE), NOTE_SIZE, whole);
}

static void *aligned(size_t alignment, size_t size) {
    size_t offset = alignment > NOTE_SIZE ? alignment : NOTE_SIZE;
    ASSERT(offset / NOTE_SIZE <= UINT16_MAX);
    return size > PTRDIFF_MAX ? NULL : give(__libc_memalign(offset, size + offset), offset, size);
}

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) {
    return aligned(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return aligned(alignment, size);
}

int posix_memalign(void **ret_block, size_t alignment, size_t size) {
    void *block = aligned(alignment, size);
    if (block) {
        *ret_block = block;
    }
    return block ? 0 : NO_MEMORY;
}

void free(void *block) {
    struct note note;
    if (!block) {
        return;
    }
    if (!has_note(block, &note)) {
        __libc_free(block);
        return;
    }
    ASSERT(note.offset > 0);
    count(note.owner, -1);
    memset((uint8_t *)block - NOTE_SIZE, 0, sizeof(note)); /* a second free has no note */
    __libc_free((uint8_t *)block - (size_t)note.offset * NOTE_SIZE);
}

void *realloc(void *block, size_t size) {
    struct note note = {0};
    if (block && size == 0) {
        free(block);
        return NULL;
    }
    void *moved = malloc(size);
    if (!block || !moved) {
        return moved;
    }
    bool noted = has_note(block, &note);
    ASSERT(noted); /* whoever made it before cannot tell how large it is */
    memcpy(moved, block, note.size < size ? note.size : size);
    free(block);
    return moved;
}

#pragma GCC visibility pop

void heap_owner_set(uint32_t owner) {
    owner_now = owner;
}

int64_t heap_block_count(uint32_t owner) {
    ASSERT(owner < HEAP_OWNER_COUNT_MAX);
    static_assert(sizeof(counts[0]) == 8, "it does not wrap");
    return __atomic_load_n(&counts[owner], __ATOMIC_RELAXED);
}

void heap_owners_reset(void) {
    ASSERT(owner_now == 0);
    ASSERT(ARRAY_SIZE(counts) == HEAP_OWNER_COUNT_MAX);
    memset(counts + 1, 0, sizeof(counts) - sizeof(counts[0]));
}

#endif
