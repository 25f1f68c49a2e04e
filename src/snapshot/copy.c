/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * copy.c: copies files sparsely and computes checksums.
 *
 * THEORY OF OPERATION
 *
 * A checksum is over a file's logical content: a hole counts as the zeros that reading it gives, so that it is
 * the same whether or not a file system keeps holes. Holes are skipped by asking the host for the next
 * run of data, and hashed from a block of zeros. Data is read in large chunks; of each, runs of
 * blocks that are not all zeros are written, and the rest becomes holes of the target.
 *
 * A disk with an overlay is read as runs of blocks, each from the base or from the overlay, as the bitmap has them. The
 * bitmap is read through a window, so that memory is bounded, and each window once: what a run is does not change
 * while it is copied. So is the memory of a chain of bundles (diff.c), from the bundle that has each page.
 */
#include "snapshot/snapshot_internal.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same functions, with the vectors that this processor has: twice as fast */
#endif

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/overlay.h"

#define BLOCK_SIZE 4096
#define ZEROS_SIZE 65536
#define WINDOW_SIZE 4096 /* bytes of a bitmap: 128 MiB of the disk */
#define WINDOW_BLOCKS (WINDOW_SIZE * 8ull)
_Static_assert(SNAPSHOT_COPY_CHUNK_SIZE % BLOCK_SIZE == 0, "a chunk is a whole number of blocks");

_Static_assert(OVERLAY_BLOCK_SIZE % BLOCK_SIZE == 0, "a run is a whole number of blocks");

static const uint8_t zeros[ZEROS_SIZE];

struct copying {
    struct host *host;
    const struct snapshot_copy *copy;
    const struct host_wait *wait;
    XXH3_state_t *hash; /* NULL: no checksum is wanted */
    uint8_t *chunk;
    uint64_t written;
    uint64_t window_start; /* the first block that the window tells of */
    uint64_t window_end;   /* the same as the start: nothing was read yet */
    uint64_t window[WINDOW_SIZE / sizeof(uint64_t)];
};

/* Bytes that are all in one file. */
struct source_run {
    int fd;
    uint64_t end;
};

static void checksum_text(XXH128_hash_t hash, char ret_checksum[SNAPSHOT_CHECKSUM_SIZE]) {
    XXH128_canonical_t canonical;
    ASSERT(ret_checksum);
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof(canonical.digest); i++) {
        snprintf(ret_checksum + 2 * i, SNAPSHOT_CHECKSUM_SIZE - 2 * i, "%02x", canonical.digest[i]);
    }
    ASSERT(snapshot_is_hexadecimal(ret_checksum, SNAPSHOT_CHECKSUM_SIZE - 1));
}

void snapshot_checksum_bytes(const void *data, size_t size,
                             char ret_checksum[SNAPSHOT_CHECKSUM_SIZE]) {
    ASSERT(ret_checksum);
    ASSERT(data || size == 0);
    checksum_text(XXH3_128bits(data, size), ret_checksum);
}

/* The work never waits, so it asks now and then whether its time is over. */
enum kelpie_status snapshot_check_wait(struct host *host, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(wait);
    if (wait->cancel_fd != HOST_FD_NONE) {
        struct host_poll_item item = {.fd = wait->cancel_fd, .asked = HOST_POLL_READ};
        struct host_wait none = host_wait_none();
        if (host_poll(host, &item, 1, &none, NULL) == KELPIE_OK) {
            return error_set(err, KELPIE_CANCELLED, "reading or copying a bundle was cancelled");
        }
    }
    if (host_monotonic_ns(host) >= wait->deadline_ns) {
        return error_set(err, KELPIE_TIMED_OUT, "reading or copying a bundle took too long");
    }
    return KELPIE_OK;
}

static enum kelpie_status check_wait(const struct copying *work, struct kelpie_error *err) {
    return snapshot_check_wait(work->host, work->wait, err);
}

static void hash_bytes(const struct copying *work, const void *data, size_t size) {
    ASSERT(data);
    if (work->hash) {
        XXH_errorcode result = XXH3_128bits_update(work->hash, data, size);
        ASSERT(result == XXH_OK);
    }
}

static enum kelpie_status skip_hole(const struct copying *work, uint64_t size,
                                    struct kelpie_error *err) {
    ASSERT(work->wait);
    ASSERT(size <= work->copy->size);
    uint64_t checked = 0;
    while (work->hash && size > 0) {
        size_t piece = (size_t)min_u64(size, ZEROS_SIZE);
        hash_bytes(work, zeros, piece);
        size -= piece;
        checked += piece;
        if (checked >= SNAPSHOT_HOLE_CHUNK_SIZE) {
            TRY(check_wait(work, err));
            checked = 0;
        }
    }
    return KELPIE_OK;
}

static bool block_is_zero(const uint8_t *block, size_t size) {
    ASSERT(block);
    ASSERT(size > 0 && size <= BLOCK_SIZE);
    return memcmp(block, zeros, size) == 0;
}

static enum kelpie_status write_run(struct copying *work, size_t start, size_t end,
                                    uint64_t chunk_offset, struct kelpie_error *err) {
    ASSERT(start <= end);
    ASSERT(end <= SNAPSHOT_COPY_CHUNK_SIZE);
    if (start == end) {
        return KELPIE_OK;
    }
    if (end - start > work->copy->bytes_max - work->written) {
        return error_set(err, KELPIE_SNAPSHOT_TOO_LARGE,
                         "the bundle would take more room on disk than it may");
    }
    work->written += end - start;
    return host_file_write_at(work->host, work->copy->target_fd, work->chunk + start, end - start,
                              chunk_offset + start, err);
}

/* Writes what is not zero of the chunk, which lies at `offset`. */
static enum kelpie_status write_chunk(struct copying *work, size_t size, uint64_t offset,
                                      struct kelpie_error *err) {
    size_t run = 0; /* where the run of blocks to write began */
    ASSERT(size <= SNAPSHOT_COPY_CHUNK_SIZE);
    ASSERT(work->copy->target_fd != HOST_FD_NONE);
    for (size_t at = 0; at < size; at += BLOCK_SIZE) {
        size_t block = min_size(BLOCK_SIZE, size - at);
        if (block_is_zero(work->chunk + at, block)) {
            TRY(write_run(work, run, at, offset, err));
            run = at + block;
        }
    }
    return write_run(work, run, size, offset, err);
}

static enum kelpie_status became_shorter(struct kelpie_error *err) {
    return error_set(err, KELPIE_IO_FAILED, "a file became shorter while it was read");
}

/* The part of the bitmap that tells of this block. */
static enum kelpie_status read_window(struct copying *work, uint64_t block,
                                      struct kelpie_error *err) {
    const struct snapshot_source *source = &work->copy->source;
    const uint64_t count = overlay_block_count(work->copy->size);
    uint64_t start = block - block % WINDOW_BLOCKS;
    uint64_t offset = start / 8;
    ASSERT(block < count);
    ASSERT(source->bitmap_fd != HOST_FD_NONE);
    size_t wanted =
        (size_t)min_u64(overlay_bitmap_size(work->copy->size) - offset, sizeof(work->window));
    size_t size = 0;
    TRY(host_file_read_at(work->host, source->bitmap_fd, work->window, wanted, offset, &size, err));
    if (size != wanted) {
        return became_shorter(err);
    }
    work->window_start = start;
    work->window_end = min_u64(start + WINDOW_BLOCKS, count);
    return KELPIE_OK;
}

/* The run of the source that begins at `at`. */
static enum kelpie_status run_at(struct copying *work, uint64_t at, struct source_run *ret_run,
                                 struct kelpie_error *err) {
    const struct snapshot_source *source = &work->copy->source;
    ASSERT(at < work->copy->size);
    *ret_run = (struct source_run){source->fd, work->copy->size};
    if (work->copy->layers) {
        uint64_t end = snapshot_layers_run(work->copy->layers, at, &ret_run->fd);
        ret_run->end = min_u64(end, work->copy->size);
        return KELPIE_OK;
    }
    if (source->overlay_fd == HOST_FD_NONE) {
        return KELPIE_OK;
    }
    uint64_t block = at / OVERLAY_BLOCK_SIZE;
    if (block < work->window_start || block >= work->window_end) {
        TRY(read_window(work, block, err));
    }
    ASSERT(block >= work->window_start && block < work->window_end);
    uint64_t index = block - work->window_start;
    uint64_t end = overlay_run_end(work->window, index, work->window_end - work->window_start);
    ret_run->fd = overlay_has(work->window, index) ? source->overlay_fd : source->fd;
    ret_run->end = min_u64((work->window_start + end) * OVERLAY_BLOCK_SIZE, work->copy->size);
    return KELPIE_OK;
}

static enum kelpie_status copy_data(struct copying *work, int fd, uint64_t start, uint64_t end,
                                    struct kelpie_error *err) {
    ASSERT(start < end);
    ASSERT(end <= work->copy->size);
    for (uint64_t at = start; at < end;) {
        /* Chunks end where blocks do, so that a block of zeros is seen whole. */
        uint64_t room = SNAPSHOT_COPY_CHUNK_SIZE - at % BLOCK_SIZE;
        size_t wanted = (size_t)min_u64(room, end - at);
        size_t size = 0;
        TRY(check_wait(work, err));
        TRY(host_file_read_at(work->host, fd, work->chunk, wanted, at, &size, err));
        if (size != wanted) {
            return became_shorter(err);
        }
        hash_bytes(work, work->chunk, size);
        if (work->copy->target_fd != HOST_FD_NONE) {
            TRY(write_chunk(work, size, at, err));
        }
        at += size;
    }
    return KELPIE_OK;
}

static enum kelpie_status copy_all(struct copying *work, struct kelpie_error *err) {
    uint64_t size = work->copy->size;
    ASSERT(size <= SNAPSHOT_PART_SIZE_MAX);
    for (uint64_t at = 0; at < size;) {
        uint64_t start = 0;
        uint64_t end = 0;
        struct source_run run;
        TRY(check_wait(work, err));
        TRY(run_at(work, at, &run, err));
        TRY(host_file_next_data(work->host, run.fd, at, &start, &end, err));
        start = min_u64(start, run.end);
        end = min_u64(end, run.end);
        ASSERT(run.end > at && end >= start);
        if (start < at || (start == end && start < run.end)) {
            return became_shorter(err);
        }
        TRY(skip_hole(work, start - at, err));
        if (start < end) {
            TRY(copy_data(work, run.fd, start, end, err));
        }
        at = end;
    }
    if (work->copy->target_fd != HOST_FD_NONE) {
        return host_file_truncate(work->host, work->copy->target_fd, size, err);
    }
    return KELPIE_OK;
}

bool snapshot_is_mostly_holes(struct host *host, int fd, uint64_t size) {
    struct host_file_info info;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(size <= SNAPSHOT_PART_SIZE_MAX);
    return size >= SNAPSHOT_HOLES_SIZE_MIN && host_file_stat(host, fd, &info, NULL) == KELPIE_OK &&
           info.allocated_size < size / SNAPSHOT_HOLES_RATIO;
}

static void hash_cleanup(XXH3_state_t **state) {
    ASSERT(state);
    XXH3_freeState(*state); /* NULL is fine */
}

enum kelpie_status snapshot_copy_limited(struct host *host, const struct snapshot_copy *copy,
                                         const struct host_wait *wait,
                                         char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                         struct kelpie_error *err) {
    struct host_file_info info;
    ASSERT(copy->source.fd != copy->target_fd);
    ASSERT(copy->source.fd != HOST_FD_NONE);
    ASSERT(copy->size <= SNAPSHOT_PART_SIZE_MAX);
    ASSERT(wait);
    __attribute__((cleanup(hash_cleanup))) XXH3_state_t *hash = NULL;
    AUTO_MEM uint8_t *chunk = host_allocate(host, SNAPSHOT_COPY_CHUNK_SIZE, err);
    if (!chunk) {
        return KELPIE_NO_MEMORY;
    }
    if (ret_checksum) {
        hash = XXH3_createState();
        if (!hash || XXH3_128bits_reset(hash) != XXH_OK) {
            return error_set(err, KELPIE_NO_MEMORY, "no memory for a checksum");
        }
    }
    TRY(host_file_stat(host, copy->source.fd, &info, err));
    if (info.size < copy->size) {
        return error_set(err, KELPIE_IO_FAILED, "a file has %llu bytes where %llu were expected",
                         (unsigned long long)info.size, (unsigned long long)copy->size);
    }
    struct copying work = {.host = host, .copy = copy, .wait = wait, .hash = hash, .chunk = chunk};
    TRY(copy_all(&work, err));
    if (ret_checksum) {
        checksum_text(XXH3_128bits_digest(hash), ret_checksum);
    }
    return KELPIE_OK;
}

enum kelpie_status snapshot_copy_sparse(struct host *host, int source_fd, int target_fd,
                                        uint64_t size, const struct host_wait *wait,
                                        char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                        struct kelpie_error *err) {
    ASSERT(source_fd != HOST_FD_NONE);
    ASSERT(target_fd != HOST_FD_NONE);
    const struct snapshot_copy copy = {
        {source_fd, HOST_FD_NONE, HOST_FD_NONE}, target_fd, size, UINT64_MAX, NULL};
    return snapshot_copy_limited(host, &copy, wait, ret_checksum, err);
}

enum kelpie_status snapshot_copy_merged(struct host *host, const struct snapshot_source *source,
                                        int target_fd, uint64_t size, const struct host_wait *wait,
                                        struct kelpie_error *err) {
    ASSERT(source->fd != HOST_FD_NONE);
    ASSERT(target_fd != HOST_FD_NONE);
    const struct snapshot_copy copy = {*source, target_fd, size, UINT64_MAX, NULL};
    return snapshot_copy_limited(host, &copy, wait, NULL, err);
}

enum kelpie_status snapshot_checksum_file(struct host *host, int fd, uint64_t size,
                                          const struct host_wait *wait,
                                          char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                          struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(ret_checksum);
    const struct snapshot_copy copy = {
        {fd, HOST_FD_NONE, HOST_FD_NONE}, HOST_FD_NONE, size, UINT64_MAX, NULL};
    return snapshot_copy_limited(host, &copy, wait, ret_checksum, err);
}
