/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The pages of simulated files. fs_internal.h says how they are kept. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

#define CHUNK_COUNT_FIRST 4u
#define PAGE_COUNT_MAX (SIM_FS_FILE_SIZE_MAX / SIM_FS_PAGE_SIZE)

static uint64_t bit_of(uint64_t page) {
    return 1ull << (page % SIM_CHUNK_PAGE_COUNT);
}

struct sim_chunk *sim_chunk_find(const struct sim_inode *inode, uint64_t page) {
    ASSERT(inode);
    uint64_t index = page / SIM_CHUNK_PAGE_COUNT;
    return index < inode->chunk_count ? inode->chunks[index] : NULL;
}

struct sim_chunk *sim_chunk_need(struct sim_inode *inode, uint64_t page) {
    ASSERT(page < PAGE_COUNT_MAX);
    ASSERT(inode->type == HOST_FILE_REGULAR);
    size_t index = (size_t)(page / SIM_CHUNK_PAGE_COUNT);
    if (index >= inode->chunk_count) {
        size_t count = inode->chunk_count ? inode->chunk_count * 2 : CHUNK_COUNT_FIRST;
        count = count > index ? count : index + 1;
        struct sim_chunk **chunks = calloc(count, sizeof(struct sim_chunk *));
        if (!chunks) {
            return NULL;
        }
        if (inode->chunk_count > 0) {
            memcpy(chunks, inode->chunks, inode->chunk_count * sizeof(struct sim_chunk *));
        }
        free(inode->chunks);
        inode->chunks = chunks;
        inode->chunk_count = count;
    }
    if (!inode->chunks[index]) {
        inode->chunks[index] = calloc(1, sizeof(struct sim_chunk));
    }
    return inode->chunks[index];
}

/* The page's place in the arena; NULL: it lies outside. */
static uint8_t *arena_place(const struct sim_inode *inode, uint64_t page) {
    ASSERT(inode->arena_size % SIM_FS_PAGE_SIZE == 0);
    ASSERT(!inode->arena == (inode->arena_size == 0));
    bool inside = page < inode->arena_size / SIM_FS_PAGE_SIZE;
    return inside ? inode->arena + page * SIM_FS_PAGE_SIZE : NULL;
}

const uint8_t *sim_page_look(const struct sim_inode *inode, uint64_t page) {
    ASSERT(inode);
    const struct sim_chunk *chunk = sim_chunk_find(inode, page);
    const uint8_t *bytes = chunk ? chunk->pages[page % SIM_CHUNK_PAGE_COUNT] : NULL;
    /* A hole that is mapped for writing may have bytes. */
    return !bytes && page < inode->exposed_size / SIM_FS_PAGE_SIZE ? arena_place(inode, page)
                                                                   : bytes;
}

bool sim_page_is_zero(const uint8_t *bytes) {
    ASSERT(bytes);
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, SIM_FS_PAGE_SIZE - 1) == 0;
}

bool sim_page_has_data(const struct sim_inode *inode, uint64_t page) {
    ASSERT(inode);
    const struct sim_chunk *chunk = sim_chunk_find(inode, page);
    if (chunk && (chunk->data & bit_of(page))) {
        return true;
    }
    const uint8_t *bytes = sim_page_look(inode, page);
    return bytes && !sim_page_is_zero(bytes);
}

static void count_pages(struct sim_inode *inode, bool more) {
    struct sim_fs *fs = inode->fs;
    uint64_t used = inode->counted ? sim_inode_used(inode) : 0;
    ASSERT(more || inode->page_count > 0);
    ASSERT(fs->used >= used);
    inode->page_count += more ? 1 : -1ull;
    fs->used += (inode->counted ? sim_inode_used(inode) : 0) - used;
}

void sim_page_put(struct sim_inode *inode, struct sim_chunk *chunk, uint64_t page, uint8_t *bytes) {
    ASSERT(chunk);
    uint8_t **slot = &chunk->pages[page % SIM_CHUNK_PAGE_COUNT];
    uint8_t *place = arena_place(inode, page);
    bool had_data = *slot;
    ASSERT(!had_data || bytes != *slot);
    if (place && bytes) {
        memcpy(place, bytes, SIM_FS_PAGE_SIZE);
        free(bytes);
        *slot = place;
    } else if (place) {
        /* A hole that nobody touched stays untouched. */
        if (had_data || page < inode->exposed_size / SIM_FS_PAGE_SIZE) {
            memset(place, 0, SIM_FS_PAGE_SIZE);
        }
        *slot = NULL;
    } else {
        free(*slot);
        *slot = bytes;
    }
    chunk->data = *slot ? chunk->data | bit_of(page) : chunk->data & ~bit_of(page);
    if (had_data != (*slot != NULL)) {
        count_pages(inode, *slot != NULL);
    }
}

/* What is on the disk is put aside, and the next sync writes the page. `takes`: the caller drops the page, whose
 * bytes need not be copied then. */
static int save(struct sim_inode *inode, struct sim_chunk *chunk, uint64_t page, bool takes) {
    ASSERT(!inode->in_memory);
    size_t index = (size_t)(page % SIM_CHUNK_PAGE_COUNT);
    uint64_t bit = bit_of(page);
    if (!(chunk->saved & bit)) {
        uint8_t *bytes = chunk->pages[index];
        bool moves = takes && bytes && !arena_place(inode, page);
        if (bytes && !moves) {
            chunk->old[index] = malloc(SIM_FS_PAGE_SIZE);
            if (!chunk->old[index]) {
                return ENOMEM;
            }
            memcpy(chunk->old[index], bytes, SIM_FS_PAGE_SIZE);
        } else if (moves) {
            chunk->old[index] = bytes;
            chunk->pages[index] = NULL;
            chunk->data &= ~bit;
            count_pages(inode, false);
        }
        chunk->saved |= bit;
        chunk->old_bad = (chunk->old_bad & ~bit) | (chunk->bad & bit);
        inode->saved_count++;
    }
    if (!(chunk->dirty & bit)) {
        size_t place = (size_t)(page / SIM_CHUNK_PAGE_COUNT);
        bool none = inode->dirty_end == 0;
        inode->dirty_start = none ? place : min_size(inode->dirty_start, place);
        inode->dirty_end = inode->dirty_end > place ? inode->dirty_end : place + 1;
        chunk->dirty |= bit;
    }
    return 0;
}

int sim_page_touch(struct sim_inode *inode, uint64_t page, uint8_t **ret_bytes) {
    ASSERT(inode->type == HOST_FILE_REGULAR);
    ASSERT(ret_bytes);
    struct sim_chunk *chunk = sim_chunk_need(inode, page);
    if (!chunk) {
        return ENOMEM;
    }
    size_t index = (size_t)(page % SIM_CHUNK_PAGE_COUNT);
    const struct sim_fs *fs = inode->fs;
    bool is_hole = !chunk->pages[index];
    if (is_hole && !inode->in_memory && fs->used + SIM_FS_PAGE_SIZE > fs->capacity) {
        return ENOSPC;
    }
    uint8_t *bytes = is_hole ? arena_place(inode, page) : chunk->pages[index];
    bool is_new = !bytes;
    if (is_new && !(bytes = calloc(1, SIM_FS_PAGE_SIZE))) {
        return ENOMEM;
    }
    int error = inode->in_memory ? 0 : save(inode, chunk, page, false);
    if (error) {
        free(is_new ? bytes : NULL);
        return error;
    }
    if (is_hole) {
        chunk->pages[index] = bytes;
        chunk->data |= bit_of(page);
        count_pages(inode, true);
    }
    *ret_bytes = bytes;
    return 0;
}

static int drop(struct sim_inode *inode, struct sim_chunk *chunk, uint64_t page) {
    ASSERT(chunk);
    bool has_data = chunk->data & bit_of(page);
    if (has_data && !inode->in_memory) {
        int error = save(inode, chunk, page, true);
        if (error) {
            return error;
        }
    }
    if (chunk->pages[page % SIM_CHUNK_PAGE_COUNT] || arena_place(inode, page)) {
        sim_page_put(inode, chunk, page, NULL);
    }
    chunk->bad &= ~bit_of(page);
    ASSERT(!(chunk->data & bit_of(page)));
    return 0;
}

int sim_pages_drop(struct sim_inode *inode, uint64_t page) {
    ASSERT(inode);
    ASSERT(page <= PAGE_COUNT_MAX);
    /* What was scribbled to a mapped hole behind the end must not come back with a longer file. */
    for (uint64_t i = page; i < inode->exposed_size / SIM_FS_PAGE_SIZE; i++) {
        if (!sim_chunk_find(inode, i) && !sim_page_is_zero(arena_place(inode, i))) {
            memset(arena_place(inode, i), 0, SIM_FS_PAGE_SIZE);
        }
    }
    uint64_t end = inode->chunk_count * SIM_CHUNK_PAGE_COUNT;
    while (page < end) {
        struct sim_chunk *chunk = sim_chunk_find(inode, page);
        uint64_t next = page + 1;
        if (!chunk) {
            next = (page / SIM_CHUNK_PAGE_COUNT + 1) * SIM_CHUNK_PAGE_COUNT;
        }
        int error = chunk ? drop(inode, chunk, page) : 0;
        if (error) {
            return error;
        }
        page = next;
    }
    return 0;
}

static void chunk_free(const struct sim_inode *inode, struct sim_chunk *chunk, uint64_t first) {
    ASSERT(chunk);
    ASSERT(first % SIM_CHUNK_PAGE_COUNT == 0);
    for (size_t i = 0; i < SIM_CHUNK_PAGE_COUNT; i++) {
        free(chunk->old[i]);
        free(arena_place(inode, first + i) ? NULL : chunk->pages[i]);
    }
    free(chunk);
}

void sim_pages_free(struct sim_inode *inode) {
    ASSERT(inode);
    for (size_t i = 0; i < inode->chunk_count; i++) {
        if (inode->chunks[i]) {
            chunk_free(inode, inode->chunks[i], i * SIM_CHUNK_PAGE_COUNT);
        }
    }
    free(inode->chunks);
    inode->chunks = NULL;
    inode->chunk_count = 0;
    ASSERT(inode->map_count == 0 || inode->open_count > 0);
    sim_arena_destroy(inode->arena);
    inode->arena = NULL;
    inode->arena_size = 0;
}
