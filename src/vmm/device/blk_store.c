/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/blk_store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/device/iovec.h"

#define ZEROES_SIZE (64u << 10)

/* What is written where the file system cannot zero a range. */
static const uint8_t zeroes[ZEROES_SIZE];

/* Bytes between one file and memory. */
struct movement {
    int fd;
    bool is_write;
    uint64_t position;
    uint64_t size;
    uint64_t done;
    size_t part_count;
    struct iovec parts[VMM_CHAIN_LENGTH_MAX];
};

/* ---- Moving bytes ----------------------------------------------------------------------------- */

/* Goes on until all bytes are moved, from where the last call stopped: what was moved is not moved again, for
 * the guest may have changed its memory. */
static bool move(struct movement *movement) {
    size_t first = 0;
    ASSERT(movement->done == 0);
    ASSERT(movement->size == 0 || movement->part_count > 0);
    for (unsigned calls = 0; movement->done < movement->size; calls++) {
        if (calls == BLK_STORE_CALL_COUNT_MAX) {
            return false;
        }
        struct iovec *parts = movement->parts + first;
        int count = (int)(movement->part_count - first);
        off_t position = (off_t)(movement->position + movement->done);
        ssize_t moved = movement->is_write ? pwritev(movement->fd, parts, count, position)
                                           : preadv(movement->fd, parts, count, position);
        if (moved < 0 && errno == EINTR) {
            continue;
        }
        if (moved <= 0) {
            return false; /* or the file became shorter */
        }
        movement->done += (uint64_t)moved;
        ASSERT(movement->done <= movement->size);
        first += iovec_advance(parts, (size_t)count, (uint64_t)moved);
    }
    return true;
}

static bool move_buffer(int fd, bool is_write, uint64_t position, void *buffer, uint64_t size) {
    struct movement movement;
    ASSERT(fd >= 0);
    ASSERT(buffer && size > 0);
    movement.fd = fd;
    movement.is_write = is_write;
    movement.position = position;
    movement.size = size;
    movement.done = 0;
    movement.part_count = 1;
    movement.parts[0] = (struct iovec){.iov_base = buffer, .iov_len = size};
    return move(&movement);
}

/* Moves the next `size` bytes of the transfer, whose parts up to *first are used up. */
static bool move_run(struct blk_transfer *transfer, int fd, bool is_write, uint64_t size,
                     size_t *first) {
    struct movement movement;
    ASSERT(size <= transfer->size - transfer->done);
    ASSERT(*first <= transfer->part_count);
    struct iovec *parts = transfer->parts + *first;
    size_t count = transfer->part_count - *first;
    movement.fd = fd;
    movement.is_write = is_write;
    movement.position = transfer->position + transfer->done;
    movement.size = size;
    movement.done = 0;
    movement.part_count = iovec_slice(parts, count, 0, size, movement.parts);
    bool all = move(&movement);
    transfer->done += movement.done;
    *first += iovec_advance(parts, count, movement.done);
    return all;
}

/* ---- The overlay ------------------------------------------------------------------------------ */

static bool is_on_disk(const struct blk_store *store, uint64_t position, uint64_t size) {
    return position <= store->size && size <= store->size - position;
}

/* The bytes [position, end), which lie in one block, come from the base. */
static bool copy_up(struct blk_store *store, uint64_t position, uint64_t end) {
    ASSERT(position < end && end <= store->size);
    ASSERT(position / OVERLAY_BLOCK_SIZE == (end - 1) / OVERLAY_BLOCK_SIZE);
    return move_buffer(store->base_fd, false, position, store->rest, end - position) &&
           move_buffer(store->fd, true, position, store->rest, end - position);
}

/* Before bytes of [position, end) change: what else lies in the blocks at both ends is brought up, unless those are in
 * the overlay. */
static bool complete_ends(struct blk_store *store, uint64_t position, uint64_t end) {
    ASSERT(position < end);
    ASSERT(is_on_disk(store, position, end - position));
    if (!store->bitmap) {
        return true;
    }
    uint64_t head = position - position % OVERLAY_BLOCK_SIZE;
    uint64_t tail = end - end % OVERLAY_BLOCK_SIZE;
    uint64_t tail_end = min_u64(tail + OVERLAY_BLOCK_SIZE, store->size);
    if (head < position && !overlay_has(store->bitmap, head / OVERLAY_BLOCK_SIZE) &&
        !copy_up(store, head, position)) {
        return false;
    }
    return tail == end || end == tail_end ||
           overlay_has(store->bitmap, tail / OVERLAY_BLOCK_SIZE) || copy_up(store, end, tail_end);
}

/* The blocks that [position, end) touches are in the overlay now. */
static void publish(struct blk_store *store, uint64_t position, uint64_t end) {
    ASSERT(position < end);
    ASSERT(is_on_disk(store, position, end - position));
    if (store->bitmap) {
        overlay_mark(store->bitmap, position / OVERLAY_BLOCK_SIZE, overlay_block_count(end));
    }
}

/* ---- Calls ------------------------------------------------------------------------------------ */

enum blk_store_result blk_store_read(const struct blk_store *store, struct blk_transfer *transfer) {
    const uint64_t end = transfer->position + transfer->size;
    size_t first = 0;
    ASSERT(is_on_disk(store, transfer->position, transfer->size));
    ASSERT(transfer->done == 0);
    while (transfer->done < transfer->size) {
        uint64_t position = transfer->position + transfer->done;
        uint64_t run_end = end;
        int fd = store->fd;
        if (store->bitmap) {
            uint64_t block = position / OVERLAY_BLOCK_SIZE;
            fd = overlay_has(store->bitmap, block) ? store->fd : store->base_fd;
            run_end = overlay_run_end(store->bitmap, block, overlay_block_count(end));
            run_end = min_u64(run_end * OVERLAY_BLOCK_SIZE, end);
        }
        if (!move_run(transfer, fd, false, run_end - position, &first)) {
            return BLK_STORE_FAILED;
        }
    }
    return BLK_STORE_DONE;
}

enum blk_store_result blk_store_write(struct blk_store *store, struct blk_transfer *transfer) {
    const uint64_t end = transfer->position + transfer->size;
    size_t first = 0;
    ASSERT(is_on_disk(store, transfer->position, transfer->size));
    ASSERT(transfer->done == 0);
    if (transfer->size == 0) {
        return BLK_STORE_DONE;
    }
    if (!complete_ends(store, transfer->position, end) ||
        !move_run(transfer, store->fd, true, transfer->size, &first)) {
        return BLK_STORE_FAILED;
    }
    publish(store, transfer->position, end);
    return BLK_STORE_DONE;
}

static enum blk_store_result allocate(const struct blk_store *store, int mode, uint64_t position,
                                      uint64_t size) {
    ASSERT(size > 0);
    ASSERT(mode & FALLOC_FL_KEEP_SIZE);
    if (fallocate(store->fd, mode, (off_t)position, (off_t)size) == 0) {
        return BLK_STORE_DONE;
    }
    return errno == EOPNOTSUPP ? BLK_STORE_UNSUPPORTED : BLK_STORE_FAILED;
}

enum blk_store_result blk_store_discard(struct blk_store *store, uint64_t position, uint64_t size) {
    ASSERT(is_on_disk(store, position, size));
    ASSERT(store->fd >= 0);
    if (size == 0) {
        return BLK_STORE_DONE;
    }
    if (!complete_ends(store, position, position + size)) {
        return BLK_STORE_FAILED;
    }
    enum blk_store_result result =
        allocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, position, size);
    if (result == BLK_STORE_DONE) {
        publish(store, position, position + size);
    }
    return result;
}

/* Zeros that stay allocated, where the file system has no call for that. */
static enum blk_store_result write_zeroes(const struct blk_store *store, uint64_t position,
                                          uint64_t size) {
    ASSERT(is_on_disk(store, position, size));
    ASSERT(size > 0);
    for (uint64_t done = 0; done < size;) {
        uint64_t piece = min_u64(size - done, sizeof(zeroes));
        if (!move_buffer(store->fd, true, position + done, (void *)(uintptr_t)zeroes, piece)) {
            return BLK_STORE_FAILED;
        }
        done += piece;
    }
    return BLK_STORE_DONE;
}

enum blk_store_result blk_store_zero(struct blk_store *store, uint64_t position, uint64_t size,
                                     bool unmap, uint64_t *add_cost) {
    enum blk_store_result result = BLK_STORE_UNSUPPORTED;
    ASSERT(is_on_disk(store, position, size));
    ASSERT(add_cost);
    if (size == 0) {
        return BLK_STORE_DONE;
    }
    if (!complete_ends(store, position, position + size)) {
        return BLK_STORE_FAILED;
    }
    if (unmap) {
        result = allocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, position, size);
    }
    if (result == BLK_STORE_UNSUPPORTED) {
        result = allocate(store, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, position, size);
    }
    if (result == BLK_STORE_UNSUPPORTED) {
        *add_cost += size;
        result = write_zeroes(store, position, size);
    }
    if (result == BLK_STORE_DONE) {
        publish(store, position, position + size);
    }
    return result;
}

enum blk_store_result blk_store_flush(const struct blk_store *store) {
    ASSERT(store);
    ASSERT(store->fd >= 0);
    return fdatasync(store->fd) == 0 ? BLK_STORE_DONE : BLK_STORE_FAILED;
}

/* ---- Making ----------------------------------------------------------------------------------- */

/* The file's size in bytes. */
static enum kelpie_status measure(int fd, uint64_t *ret_size, struct kelpie_error *err) {
    struct stat info;
    ASSERT(fd >= 0);
    ASSERT(ret_size);
    if (fstat(fd, &info) != 0) {
        return error_set_os(err, errno, "asking for a disk's size");
    }
    if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk",
                               "a disk must be a regular file or a block device");
    }
    off_t size = S_ISREG(info.st_mode) ? info.st_size : lseek(fd, 0, SEEK_END);
    if (size < 0) {
        return error_set_os(err, errno, "asking for a block device's size");
    }
    *ret_size = (uint64_t)size;
    return KELPIE_OK;
}

static enum kelpie_status lay_over(struct blk_store *store, const struct blk_store_files *files,
                                   struct kelpie_error *err) {
    uint64_t overlay_size = 0;
    uint64_t bitmap_size = 0;
    ASSERT(files->overlaid);
    ASSERT(!store->bitmap);
    if (store->size == 0 || store->size > OVERLAY_DISK_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk",
                               "a disk of %llu bytes cannot have an overlay",
                               (unsigned long long)store->size);
    }
    if ((fcntl(files->fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk", "a disk's base is open for writing");
    }
    TRY(measure(files->overlay_fd, &overlay_size, err));
    TRY(measure(files->bitmap_fd, &bitmap_size, err));
    store->bitmap_size = overlay_bitmap_size(store->size);
    if (overlay_size != store->size || bitmap_size != store->bitmap_size) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk",
                               "a disk's overlay or bitmap has another size than its base wants");
    }
    void *bitmap =
        mmap(NULL, store->bitmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, files->bitmap_fd, 0);
    if (bitmap == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map the bitmap of a disk's overlay");
    }
    store->bitmap = bitmap;
    store->base_fd = files->fd;
    store->fd = files->overlay_fd;
    return KELPIE_OK;
}

enum kelpie_status blk_store_init(struct blk_store *store, const struct blk_store_files *files,
                                  struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(files);
    *store = (struct blk_store){.fd = files->fd, .base_fd = -1};
    TRY(measure(files->fd, &store->size, err));
    return files->overlaid ? lay_over(store, files, err) : KELPIE_OK;
}

void blk_store_deinit(struct blk_store *store) {
    ASSERT(store);
    ASSERT(!store->bitmap || store->bitmap_size > 0);
    if (store->bitmap) {
        munmap(store->bitmap, store->bitmap_size);
        store->bitmap = NULL;
    }
}
