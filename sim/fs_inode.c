/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Simulated files: bytes, holes, length, and what a sync makes of them. fs_internal.h says how it works. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

/* The piece of a page that a range begins with. */
struct piece {
    uint64_t page;
    size_t start; /* in the page */
    size_t size;
};

static struct piece piece_at(uint64_t offset, size_t size) {
    ASSERT(size > 0);
    struct piece piece = {.page = offset / SIM_FS_PAGE_SIZE,
                          .start = (size_t)(offset % SIM_FS_PAGE_SIZE)};
    piece.size = min_size(size, SIM_FS_PAGE_SIZE - piece.start);
    ASSERT(piece.size > 0);
    return piece;
}

static bool is_bad(const struct sim_inode *inode, uint64_t page) {
    ASSERT(inode);
    const struct sim_chunk *chunk = sim_chunk_find(inode, page);
    return chunk && (chunk->bad >> (page % SIM_CHUNK_PAGE_COUNT) & 1);
}

static void set_size(struct sim_inode *inode, uint64_t size) {
    ASSERT(size <= SIM_FS_FILE_SIZE_MAX);
    ASSERT(inode->size_min <= inode->size_max || inode->in_memory);
    inode->size = size;
    inode->size_min = min_u64(inode->size_min, size);
    inode->size_max = inode->size_max > size ? inode->size_max : size;
    inode->size_dirty = true;
}

int sim_inode_read(struct sim_inode *inode, void *buffer, size_t size, uint64_t offset,
                   size_t *ret_size) {
    ASSERT(inode && ret_size);
    ASSERT(buffer || size == 0);
    if (inode->type != HOST_FILE_REGULAR) {
        return EISDIR;
    }
    size_t count = offset < inode->size ? (size_t)min_u64(size, inode->size - offset) : 0;
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(offset + done, count - done);
        if (is_bad(inode, piece.page)) {
            return EIO;
        }
        const uint8_t *bytes = sim_page_look(inode, piece.page);
        if (bytes) {
            memcpy((uint8_t *)buffer + done, bytes + piece.start, piece.size);
        } else {
            memset((uint8_t *)buffer + done, 0, piece.size);
        }
        done += piece.size;
    }
    *ret_size = count;
    return 0;
}

/* A page that cannot be read is good again when all that the file has of it is written. */
static int write_piece(struct sim_inode *inode, const uint8_t *data, struct piece piece) {
    uint64_t start = piece.page * SIM_FS_PAGE_SIZE;
    bool bad = is_bad(inode, piece.page);
    uint64_t needed = start < inode->size ? min_u64(inode->size - start, SIM_FS_PAGE_SIZE) : 0;
    ASSERT(piece.start + piece.size <= SIM_FS_PAGE_SIZE);
    if (bad && (piece.start > 0 || piece.size < needed)) {
        return EIO;
    }
    uint8_t *bytes = NULL;
    int error = sim_page_touch(inode, piece.page, &bytes);
    if (error) {
        return error;
    }
    ASSERT(bytes);
    memcpy(bytes + piece.start, data, piece.size);
    if (bad) {
        sim_chunk_find(inode, piece.page)->bad &= ~(1ull << (piece.page % SIM_CHUNK_PAGE_COUNT));
    }
    return 0;
}

int sim_inode_write(struct sim_inode *inode, const void *data, size_t size, uint64_t offset) {
    ASSERT(inode);
    ASSERT(data || size == 0);
    if (inode->type != HOST_FILE_REGULAR) {
        return EISDIR;
    }
    if (offset > SIM_FS_FILE_SIZE_MAX || size > SIM_FS_FILE_SIZE_MAX - offset) {
        return EFBIG;
    }
    int error = 0;
    size_t done = 0;
    while (done < size) {
        struct piece piece = piece_at(offset + done, size - done);
        error = write_piece(inode, (const uint8_t *)data + done, piece);
        if (error) {
            break;
        }
        done += piece.size;
    }
    if (done > 0) {
        inode->modified_ns = inode->fs->now_ns;
    }
    if (done > 0 && offset + done > inode->size) {
        set_size(inode, offset + done);
    }
    return error;
}

/* A page's bytes behind the file's new end are zeros, if the file grows again. */
static int zero_tail(struct sim_inode *inode, uint64_t size) {
    uint64_t page = size / SIM_FS_PAGE_SIZE;
    size_t start = (size_t)(size % SIM_FS_PAGE_SIZE);
    ASSERT(size < inode->size);
    if (start == 0 || !sim_page_look(inode, page)) {
        return 0;
    }
    uint8_t *bytes = NULL;
    int error = sim_page_touch(inode, page, &bytes);
    if (error) {
        return error;
    }
    ASSERT(bytes);
    memset(bytes + start, 0, SIM_FS_PAGE_SIZE - start);
    return 0;
}

int sim_inode_truncate(struct sim_inode *inode, uint64_t size) {
    ASSERT(inode);
    if (inode->type != HOST_FILE_REGULAR) {
        return EISDIR;
    }
    if (size > SIM_FS_FILE_SIZE_MAX) {
        return EFBIG;
    }
    if (size < inode->size) {
        int error = zero_tail(inode, size);
        uint64_t page = size / SIM_FS_PAGE_SIZE + (size % SIM_FS_PAGE_SIZE > 0);
        error = error ? error : sim_pages_drop(inode, page);
        if (error) {
            return error;
        }
    }
    if (size != inode->size) {
        set_size(inode, size);
    }
    ASSERT(inode->size == size);
    inode->modified_ns = inode->fs->now_ns;
    return 0;
}

/* ---- Holes ------------------------------------------------------------------------------------ */

/* The first page from `page` on that is data or a hole, as asked, or `end`. */
static uint64_t find_page(const struct sim_inode *inode, uint64_t page, uint64_t end, bool data) {
    ASSERT(inode->type == HOST_FILE_REGULAR);
    uint64_t exposed = inode->exposed_size / SIM_FS_PAGE_SIZE;
    while (page < end) {
        if (page < exposed) {
            if (sim_page_has_data(inode, page) == data) {
                return page;
            }
            page++;
            continue;
        }
        const struct sim_chunk *chunk = sim_chunk_find(inode, page);
        uint64_t mask = chunk ? chunk->data : 0;
        uint64_t left = (data ? mask : ~mask) >> (page % SIM_CHUNK_PAGE_COUNT);
        if (left != 0) {
            page += (uint64_t)__builtin_ctzll(left);
            break;
        }
        page = (page / SIM_CHUNK_PAGE_COUNT + 1) * SIM_CHUNK_PAGE_COUNT;
    }
    return min_u64(page, end);
}

void sim_inode_next_data(const struct sim_inode *inode, uint64_t offset, uint64_t *ret_start,
                         uint64_t *ret_end) {
    ASSERT(inode);
    ASSERT(ret_start && ret_end);
    *ret_start = inode->size;
    *ret_end = inode->size;
    if (inode->type != HOST_FILE_REGULAR || offset >= inode->size) {
        return;
    }
    uint64_t end = (inode->size - 1) / SIM_FS_PAGE_SIZE + 1;
    uint64_t first = find_page(inode, offset / SIM_FS_PAGE_SIZE, end, true);
    if (first == end) {
        return;
    }
    uint64_t behind = find_page(inode, first, end, false);
    uint64_t start = first * SIM_FS_PAGE_SIZE;
    ASSERT(behind > first);
    *ret_start = start > offset ? start : offset;
    *ret_end = min_u64(behind * SIM_FS_PAGE_SIZE, inode->size);
}

/* ---- The disk --------------------------------------------------------------------------------- */

/* Its dirty pages are on the disk. Returns the page behind the last of them. */
static uint64_t sync_chunk(struct sim_inode *inode, struct sim_chunk *chunk, uint64_t first) {
    ASSERT((chunk->dirty & ~chunk->saved) == 0);
    if (chunk->dirty == 0) {
        return 0;
    }
    for (uint64_t left = chunk->dirty; left != 0; left &= left - 1) {
        size_t index = (size_t)__builtin_ctzll(left);
        free(chunk->old[index]);
        chunk->old[index] = NULL;
        ASSERT(inode->saved_count > 0);
        inode->saved_count--;
    }
    uint64_t end = first + 64 - (uint64_t)__builtin_clzll(chunk->dirty);
    chunk->saved &= ~chunk->dirty;
    chunk->old_bad &= ~chunk->dirty;
    chunk->dirty = 0;
    return end;
}

void sim_inode_sync(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->counted);
    if (inode->type == HOST_FILE_FOLDER) {
        sim_folder_sync(inode);
        return;
    }
    if (inode->in_memory) {
        return;
    }
    sim_inode_notice(inode);
    uint64_t end = 0;
    for (size_t i = inode->dirty_start; i < inode->dirty_end; i++) {
        struct sim_chunk *chunk = inode->chunks[i];
        uint64_t found = chunk ? sync_chunk(inode, chunk, i * SIM_CHUNK_PAGE_COUNT) : 0;
        end = found ? found : end;
    }
    /* A page that is written takes the length along as far as it reaches, whatever a sync before lost. */
    uint64_t reached = min_u64(end * SIM_FS_PAGE_SIZE, inode->size);
    if (inode->size_dirty) {
        inode->durable_size = inode->size;
    } else if (reached > inode->durable_size) {
        inode->durable_size = reached;
    }
    inode->size_min = min_u64(inode->size, inode->durable_size);
    inode->size_max = inode->size + inode->durable_size - inode->size_min;
    inode->size_dirty = false;
    inode->dirty_start = 0;
    inode->dirty_end = 0;
    sim_inode_expose(inode);
}

void sim_inode_sync_failed(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->counted);
    if (inode->type != HOST_FILE_REGULAR || inode->in_memory) {
        return;
    }
    sim_inode_notice(inode);
    for (size_t i = inode->dirty_start; i < inode->dirty_end; i++) {
        if (inode->chunks[i]) {
            inode->chunks[i]->dirty = 0;
        }
    }
    inode->size_dirty = false;
    inode->dirty_start = 0;
    inode->dirty_end = 0;
    sim_inode_expose(inode);
}

void sim_inode_spoil(struct sim_inode *inode, uint64_t offset) {
    ASSERT(inode);
    ASSERT(inode->fs);
    if (inode->type != HOST_FILE_REGULAR || offset >= inode->size) {
        return;
    }
    struct sim_chunk *chunk = sim_chunk_need(inode, offset / SIM_FS_PAGE_SIZE);
    if (!chunk) {
        return;
    }
    uint64_t bit = 1ull << (offset / SIM_FS_PAGE_SIZE % SIM_CHUNK_PAGE_COUNT);
    chunk->bad |= bit;
    chunk->old_bad |= chunk->saved & bit;
}
