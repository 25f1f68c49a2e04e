/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * diff.c: the memory of a chain of bundles, and what of another memory differs from it.
 *
 * THEORY OF OPERATION
 *
 * A page of a chain is in the newest bundle whose bitmap has it, or else in the oldest, which is no diff. Runs of pages that
 * are in one bundle are read at once, and what is a hole on both sides is not looked at.
 *
 * A monitor that does not say what its guest wrote hands over all of its memory, or more than was written; a page is in
 * the diff if its bytes are others than the chain's. So a diff depends on nobody's notes, and has not even the pages
 * that were written and are as before.
 */
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/overlay.h"
#include "snapshot/snapshot_internal.h"

#define PAGE_SIZE SNAPSHOT_PAGE_SIZE
#define CHUNK_SIZE SNAPSHOT_COPY_CHUNK_SIZE

static_assert(PAGE_SIZE == OVERLAY_BLOCK_SIZE, "a bitmap of pages is read as one of blocks");
static_assert(CHUNK_SIZE % PAGE_SIZE == 0, "a chunk is a whole number of pages");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a file's bitmap is one of words");

static const uint8_t zero_page[PAGE_SIZE];

/* ---- Layers ----------------------------------------------------------------------------------- */

static enum kelpie_status became_shorter(struct kelpie_error *err) {
    return error_set(err, KELPIE_IO_FAILED, "a memory file became shorter while it was read");
}

/* Exactly that many bytes. */
static enum kelpie_status read_all(struct host *host, int fd, void *buffer, size_t size,
                                   uint64_t offset, struct kelpie_error *err) {
    size_t read_size = 0;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(buffer);
    TRY(host_file_read_at(host, fd, buffer, size, offset, &read_size, err));
    return read_size == size ? KELPIE_OK : became_shorter(err);
}

static enum kelpie_status load_bitmap(struct snapshot_layers *layers, struct host *host,
                                      const struct snapshot_reader *reader,
                                      struct kelpie_error *err) {
    const size_t size = (size_t)((layers->page_count + 7) / 8);
    const int fd = snapshot_reader_part(reader, SNAPSHOT_PART_PAGES);
    ASSERT(layers->count < SNAPSHOT_CHAIN_LENGTH_MAX);
    ASSERT(layers->page_count > 0);
    if (fd == HOST_FD_NONE ||
        snapshot_reader_manifest(reader)->parts[SNAPSHOT_PART_PAGES].size != size) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "pages",
                               "a diff does not say which pages it has");
    }
    AUTO_MEM uint64_t *bitmap =
        host_allocate(host, overlay_bitmap_size(layers->page_count * PAGE_SIZE), err);
    if (!bitmap) {
        return KELPIE_NO_MEMORY;
    }
    TRY(read_all(host, fd, bitmap, size, 0, err));
    layers->bitmaps[layers->count - 1] = TAKE(bitmap);
    return KELPIE_OK;
}

static enum kelpie_status load_layers(struct snapshot_layers *layers, struct host *host,
                                      const struct snapshot_reader *reader, uint64_t size,
                                      struct kelpie_error *err) {
    ASSERT(layers->count == 0);
    ASSERT(snapshot_reader_chain_length(reader) <= SNAPSHOT_CHAIN_LENGTH_MAX);
    for (; reader; reader = snapshot_reader_parent(reader)) {
        const int fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY);
        if (fd == HOST_FD_NONE ||
            snapshot_reader_manifest(reader)->parts[SNAPSHOT_PART_MEMORY].size != size) {
            return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                                   "a bundle's memory has not the %llu bytes that it must have",
                                   (unsigned long long)size);
        }
        layers->fds[layers->count++] = fd;
        if (snapshot_reader_parent(reader)) {
            TRY(load_bitmap(layers, host, reader, err));
        }
    }
    return KELPIE_OK;
}

enum kelpie_status snapshot_layers_init(struct snapshot_layers *layers, struct host *host,
                                        const struct snapshot_reader *reader, uint64_t size,
                                        struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(layers);
    *layers = (struct snapshot_layers){.page_count = size / PAGE_SIZE};
    if (size == 0 || size % PAGE_SIZE != 0 || size > OVERLAY_DISK_SIZE_MAX) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory", "no memory has %llu bytes",
                               (unsigned long long)size);
    }
    enum kelpie_status status = load_layers(layers, host, reader, size, err);
    if (status != KELPIE_OK) {
        snapshot_layers_deinit(layers);
    }
    return status;
}

void snapshot_layers_deinit(struct snapshot_layers *layers) {
    ASSERT(layers);
    ASSERT(layers->count <= SNAPSHOT_CHAIN_LENGTH_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(layers->bitmaps); i++) {
        free(layers->bitmaps[i]);
    }
    *layers = (struct snapshot_layers){0};
}

uint64_t snapshot_layers_run(const struct snapshot_layers *layers, uint64_t offset, int *ret_fd) {
    const uint64_t page = offset / PAGE_SIZE;
    uint64_t end = layers->page_count;
    size_t i = 0;
    ASSERT(layers->count > 0);
    ASSERT(page < layers->page_count);
    for (; i + 1 < layers->count; i++) { /* what a newer bundle has ends the run */
        end = overlay_run_end(layers->bitmaps[i], page, end);
        if (overlay_has(layers->bitmaps[i], page)) {
            break;
        }
    }
    *ret_fd = layers->fds[i];
    return end * PAGE_SIZE;
}

enum kelpie_status snapshot_reader_merge(struct host *host, const struct snapshot_reader *reader,
                                         int target_fd, const struct host_wait *wait,
                                         struct kelpie_error *err) {
    struct snapshot_layers layers;
    const uint64_t size = snapshot_reader_manifest(reader)->parts[SNAPSHOT_PART_MEMORY].size;
    ASSERT(host);
    ASSERT(target_fd != HOST_FD_NONE);
    TRY(snapshot_layers_init(&layers, host, reader, size, err));
    const struct snapshot_copy copy = {
        {layers.fds[0], HOST_FD_NONE, HOST_FD_NONE}, target_fd, size, UINT64_MAX, &layers};
    enum kelpie_status status = snapshot_copy_limited(host, &copy, wait, NULL, err);
    snapshot_layers_deinit(&layers);
    return status;
}

/* ---- Writing a diff ---------------------------------------------------------------------------- */

struct comparing {
    struct host *host;
    const struct snapshot_diff *diff;
    const struct host_wait *wait;
    struct snapshot_layers layers;
    uint64_t *bitmap; /* of the new bundle */
    uint8_t *is;
    uint8_t *was;
    uint64_t written;
};

/* The bytes of the chain. */
static enum kelpie_status read_chain(struct comparing *work, uint64_t offset, size_t size,
                                     struct kelpie_error *err) {
    const uint64_t end = offset + size;
    ASSERT(size <= CHUNK_SIZE);
    ASSERT(end <= work->diff->size);
    for (uint64_t at = offset; at < end;) {
        int fd = HOST_FD_NONE;
        uint64_t run_end = min_u64(snapshot_layers_run(&work->layers, at, &fd), end);
        ASSERT(run_end > at);
        TRY(read_all(work->host, fd, work->was + (at - offset), (size_t)(run_end - at), at, err));
        at = run_end;
    }
    return KELPIE_OK;
}

/* The first byte of the chain from `offset` on, up to the limit, that is no hole; the limit: there is none. */
static enum kelpie_status chain_next_data(struct comparing *work, uint64_t offset, uint64_t limit,
                                          uint64_t *ret_start, struct kelpie_error *err) {
    uint64_t at = offset;
    ASSERT(offset <= limit);
    ASSERT(limit <= work->diff->size);
    while (at < limit) {
        int fd = HOST_FD_NONE;
        uint64_t start = 0;
        uint64_t end = 0;
        uint64_t run_end = snapshot_layers_run(&work->layers, at, &fd);
        TRY(host_file_next_data(work->host, fd, at, &start, &end, err));
        if (start < run_end) {
            *ret_start = min_u64(start, limit);
            return start < at ? became_shorter(err) : KELPIE_OK;
        }
        at = run_end;
    }
    *ret_start = limit;
    return KELPIE_OK;
}

/* The next page that may differ: the first that is no hole on one side. */
static enum kelpie_status next_page(struct comparing *work, uint64_t offset, uint64_t *ret_offset,
                                    struct kelpie_error *err) {
    const uint64_t size = work->diff->size;
    uint64_t start = 0;
    uint64_t end = 0;
    ASSERT(offset % PAGE_SIZE == 0);
    ASSERT(offset < size);
    TRY(host_file_next_data(work->host, work->diff->source_fd, offset, &start, &end, err));
    if (start < offset) {
        return became_shorter(err);
    }
    TRY(chain_next_data(work, offset, min_u64(start, size), &start, err));
    *ret_offset = start - start % PAGE_SIZE;
    return KELPIE_OK;
}

static enum kelpie_status write_run(struct comparing *work, uint64_t offset, size_t start,
                                    size_t end, struct kelpie_error *err) {
    const size_t size = end - start;
    ASSERT(start <= end);
    ASSERT(end <= CHUNK_SIZE);
    if (size == 0) {
        return KELPIE_OK;
    }
    if (size > work->diff->bytes_max - work->written) {
        return error_set(err, KELPIE_SNAPSHOT_TOO_LARGE,
                         "the bundle would take more room on disk than it may");
    }
    work->written += size;
    return host_file_write_at(work->host, work->diff->target_fd, work->is + start, size,
                              offset + start, err);
}

/* Pages that are zero now are holes: only their bits say that they count. */
static enum kelpie_status compare_chunk(struct comparing *work, uint64_t offset, size_t size,
                                        struct kelpie_error *err) {
    size_t run = 0; /* where the run of pages to write began */
    ASSERT(offset % PAGE_SIZE == 0);
    ASSERT(size % PAGE_SIZE == 0);
    TRY(read_all(work->host, work->diff->source_fd, work->is, size, offset, err));
    TRY(read_chain(work, offset, size, err));
    for (size_t at = 0; at < size; at += PAGE_SIZE) {
        const uint64_t page = (offset + at) / PAGE_SIZE;
        const bool same = memcmp(work->is + at, work->was + at, PAGE_SIZE) == 0;
        if (!same) {
            work->bitmap[page / OVERLAY_WORD_BLOCKS] |= 1ull << page % OVERLAY_WORD_BLOCKS;
        }
        if (same || memcmp(work->is + at, zero_page, PAGE_SIZE) == 0) {
            TRY(write_run(work, offset, run, at, err));
            run = at + PAGE_SIZE;
        }
    }
    return write_run(work, offset, run, size, err);
}

static enum kelpie_status compare_all(struct comparing *work, struct kelpie_error *err) {
    const uint64_t size = work->diff->size;
    uint64_t at = 0;
    ASSERT(size % PAGE_SIZE == 0);
    ASSERT(work->written == 0);
    while (at < size) {
        TRY(snapshot_check_wait(work->host, work->wait, err));
        TRY(next_page(work, at, &at, err));
        size_t chunk = (size_t)min_u64(CHUNK_SIZE, size - at);
        TRY(compare_chunk(work, at, chunk, err));
        at += chunk;
    }
    TRY(host_file_truncate(work->host, work->diff->target_fd, size, err));
    return host_file_write_at(work->host, work->diff->pages_fd, work->bitmap,
                              (size_t)((work->layers.page_count + 7) / 8), 0, err);
}

enum kelpie_status snapshot_diff_write(struct host *host, const struct snapshot_diff *diff,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    struct host_file_info info;
    struct comparing work = {.host = host, .diff = diff, .wait = wait};
    ASSERT(diff->parent);
    ASSERT(diff->source_fd != diff->target_fd);
    TRY(host_file_stat(host, diff->source_fd, &info, err));
    if (info.size != diff->size) {
        return error_set(err, KELPIE_IO_FAILED, "a memory has %llu bytes where %llu were expected",
                         (unsigned long long)info.size, (unsigned long long)diff->size);
    }
    TRY(snapshot_layers_init(&work.layers, host, diff->parent, diff->size, err));
    AUTO_MEM uint64_t *bitmap = host_allocate(host, overlay_bitmap_size(diff->size), err);
    AUTO_MEM uint8_t *is = host_allocate(host, CHUNK_SIZE, err);
    AUTO_MEM uint8_t *was = host_allocate(host, CHUNK_SIZE, err);
    work.bitmap = bitmap;
    work.is = is;
    work.was = was;
    enum kelpie_status status = bitmap && is && was ? compare_all(&work, err) : KELPIE_NO_MEMORY;
    snapshot_layers_deinit(&work.layers);
    return status;
}
