/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Mappings and locks of simulated files. fs_internal.h says how it works. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

#define LOCK_CAPACITY_FIRST 4u

/* What was allocated stands just before the page that is handed out. */
void *sim_arena_create(size_t size) {
    ASSERT(size > 0);
    if (size > SIZE_MAX - 2 * SIM_FS_PAGE_SIZE) {
        return NULL;
    }
    uint8_t *block = calloc(1, size + 2 * SIM_FS_PAGE_SIZE);
    if (!block) {
        return NULL;
    }
    uint8_t *arena = block + sizeof(block);
    arena += (SIM_FS_PAGE_SIZE - (uintptr_t)arena % SIM_FS_PAGE_SIZE) % SIM_FS_PAGE_SIZE;
    memcpy(arena - sizeof(block), &block, sizeof(block));
    ASSERT((uintptr_t)arena % SIM_FS_PAGE_SIZE == 0);
    return arena;
}

void sim_arena_destroy(void *arena) {
    if (!arena) {
        return;
    }
    ASSERT((uintptr_t)arena % SIM_FS_PAGE_SIZE == 0);
    uint8_t *block = NULL;
    memcpy(&block, (uint8_t *)arena - sizeof(block), sizeof(block));
    ASSERT(block && block < (uint8_t *)arena);
    free(block);
}

static size_t whole_pages(uint64_t size) {
    ASSERT(size <= SIM_FS_FILE_SIZE_MAX);
    return (size_t)((size + SIM_FS_PAGE_SIZE - 1) / SIM_FS_PAGE_SIZE * SIM_FS_PAGE_SIZE);
}

/* Moves the pages of one chunk into a new arena. */
static void move_pages(struct sim_inode *inode, uint64_t first, uint8_t *arena, size_t size) {
    struct sim_chunk *chunk = sim_chunk_find(inode, first);
    ASSERT(chunk);
    ASSERT(size % SIM_FS_PAGE_SIZE == 0);
    uint64_t end = size / SIM_FS_PAGE_SIZE;
    for (uint64_t left = chunk->data; left != 0; left &= left - 1) {
        uint64_t page = first + (uint64_t)__builtin_ctzll(left);
        if (page >= end) {
            break;
        }
        uint8_t **slot = &chunk->pages[page - first];
        memcpy(arena + page * SIM_FS_PAGE_SIZE, *slot, SIM_FS_PAGE_SIZE);
        if (page >= inode->arena_size / SIM_FS_PAGE_SIZE) {
            free(*slot);
        }
        *slot = arena + page * SIM_FS_PAGE_SIZE;
    }
}

/* The first `size` bytes lie in one piece from now on. ENOMEM: also if they do not and somebody has them mapped. */
static int gather(struct sim_inode *inode, uint64_t size) {
    ASSERT(size > 0);
    if (size <= inode->arena_size) {
        return 0;
    }
    size_t wanted = whole_pages(size > inode->size ? size : inode->size);
    uint8_t *arena = inode->map_count == 0 ? sim_arena_create(wanted) : NULL;
    if (!arena) {
        return ENOMEM;
    }
    sim_inode_notice(inode);
    for (uint64_t page = 0; page < inode->exposed_size / SIM_FS_PAGE_SIZE; page++) {
        /* A memory file's holes that were written through a mapping. */
        uint8_t *bytes = NULL;
        bool unseen = sim_page_look(inode, page) && sim_page_has_data(inode, page);
        int error = unseen ? sim_page_touch(inode, page, &bytes) : 0;
        if (error) {
            sim_arena_destroy(arena);
            return error;
        }
    }
    for (size_t i = 0; i < inode->chunk_count; i++) {
        if (inode->chunks[i]) {
            move_pages(inode, i * SIM_CHUNK_PAGE_COUNT, arena, wanted);
        }
    }
    sim_arena_destroy(inode->arena);
    inode->arena = arena;
    inode->arena_size = wanted;
    return 0;
}

void sim_inode_notice(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->exposed_size <= inode->arena_size);
    if (inode->in_memory) {
        return;
    }
    uint64_t end = whole_pages(min_u64(inode->exposed_size, inode->size)) / SIM_FS_PAGE_SIZE;
    uint64_t capacity = inode->fs->capacity;
    inode->fs->capacity = UINT64_MAX; /* it is written already */
    for (uint64_t page = 0; page < end; page++) {
        const struct sim_chunk *chunk = sim_chunk_find(inode, page);
        bool known = chunk && (chunk->data >> (page % SIM_CHUNK_PAGE_COUNT) & 1);
        uint8_t *bytes = NULL;
        if (!known && sim_page_has_data(inode, page)) {
            int error = sim_page_touch(inode, page, &bytes);
            ASSERT(error == 0);
        }
    }
    inode->fs->capacity = capacity;
}

void sim_inode_expose(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->exposed_size <= inode->arena_size);
    if (inode->in_memory) {
        return;
    }
    uint64_t end = inode->exposed_size / SIM_FS_PAGE_SIZE;
    for (uint64_t page = 0; page < end; page++) {
        const struct sim_chunk *chunk = sim_chunk_find(inode, page);
        uint8_t *bytes = NULL;
        if (chunk && (chunk->data >> (page % SIM_CHUNK_PAGE_COUNT) & 1)) {
            int error = sim_page_touch(inode, page, &bytes);
            ASSERT(error == 0);
        }
    }
}

static void *copy(const struct sim_inode *inode, size_t size) {
    uint8_t *data = sim_arena_create(size);
    if (!data) {
        return NULL;
    }
    uint64_t start = 0;
    uint64_t end = 0;
    for (uint64_t offset = 0; offset < size; offset = end) {
        sim_inode_next_data(inode, offset, &start, &end);
        if (start == end) {
            break;
        }
        for (uint64_t page = start / SIM_FS_PAGE_SIZE; page * SIM_FS_PAGE_SIZE < min_u64(end, size);
             page++) {
            uint64_t place = page * SIM_FS_PAGE_SIZE;
            size_t part = (size_t)min_u64(SIM_FS_PAGE_SIZE, min_u64(end, size) - place);
            memcpy(data + place, sim_page_look(inode, page), part);
        }
    }
    return data;
}

void *sim_inode_map(struct sim_inode *inode, size_t size, enum host_map_flag flag) {
    ASSERT(inode && size > 0);
    ASSERT(inode->type == HOST_FILE_REGULAR);
    if (size > SIM_FS_FILE_SIZE_MAX) {
        return NULL;
    }
    void *data = NULL;
    if (flag == HOST_MAP_PRIVATE_WRITE) {
        data = copy(inode, size);
    } else if (gather(inode, size) == 0) {
        data = inode->arena;
        inode->map_count++;
        if (flag == HOST_MAP_SHARED_WRITE) {
            size_t exposed = whole_pages(size);
            inode->exposed_size = inode->exposed_size > exposed ? inode->exposed_size : exposed;
            sim_inode_expose(inode);
        }
    }
    if (data) {
        sim_inode_open(inode);
    }
    return data;
}

void sim_inode_unmap(struct sim_inode *inode, void *data, size_t size) {
    ASSERT(inode && data);
    ASSERT(size > 0);
    if (data != inode->arena) {
        sim_arena_destroy(data);
        sim_inode_release(inode);
        return;
    }
    ASSERT(inode->map_count > 0);
    sim_inode_notice(inode);
    inode->map_count--;
    /* A memory file's holes are looked at when somebody asks. */
    if (inode->map_count == 0 && !inode->in_memory) {
        inode->exposed_size = 0;
    }
    sim_inode_release(inode);
}

/* ---- Locks ------------------------------------------------------------------------------------ */

void sim_inode_unlock(struct sim_inode *inode, const void *owner) {
    ASSERT(inode && owner);
    ASSERT(inode->lock_count <= inode->lock_capacity);
    size_t kept = 0;
    for (size_t i = 0; i < inode->lock_count; i++) {
        if (inode->locks[i].owner != owner) {
            inode->locks[kept++] = inode->locks[i];
        }
    }
    inode->lock_count = kept;
}

/* As flock(2) has it, an owner who asks for another kind and does not get it has lost what it had. */
int sim_inode_lock(struct sim_inode *inode, const void *owner, bool exclusive) {
    ASSERT(inode && owner);
    ASSERT(inode->open_count > 0);
    sim_inode_unlock(inode, owner);
    for (size_t i = 0; i < inode->lock_count; i++) {
        if (exclusive || inode->locks[i].exclusive) {
            return EWOULDBLOCK;
        }
    }
    if (inode->lock_count == SIM_FS_LOCK_COUNT_MAX) {
        return ENOLCK;
    }
    if (inode->lock_count == inode->lock_capacity) {
        size_t capacity = inode->lock_capacity ? inode->lock_capacity * 2 : LOCK_CAPACITY_FIRST;
        struct sim_lock *locks = realloc(inode->locks, capacity * sizeof(*locks));
        if (!locks) {
            return ENOMEM;
        }
        inode->locks = locks;
        inode->lock_capacity = capacity;
    }
    inode->locks[inode->lock_count++] = (struct sim_lock){owner, exclusive};
    return 0;
}
