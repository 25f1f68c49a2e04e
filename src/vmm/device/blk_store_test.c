/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A disk's bytes against an array, which is the truth. The calls that reach the files pass through this file, which cuts
 * them short, lets them fail, and looks at the bitmap at each: a monitor can be killed there. */
#include "vmm/device/blk_store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCK OVERLAY_BLOCK_SIZE
#define DISK_SIZE (70u * BLOCK + 1536u) /* the bitmap has two words, and the last block is cut */
#define BITMAP_SIZE 16u
#define OPERATIONS 6000
#define PART_COUNT_MAX 5

/* ---- the files' calls ------------------------------------------------------------------------- */

static struct {
    size_t chunk;          /* bytes that one call moves at most; 0: all */
    unsigned count;        /* calls so far */
    unsigned fail_from;    /* the call, from 1, from which on all fail; 0: none */
    int fail_error;        /* with that; 0: they move nothing */
    int refused_mode;      /* fallocate with one of these bits is not supported */
    int base_fd;           /* never written */
    const uint8_t *bitmap; /* as it must be at each call; NULL: not looked at */
    int bitmap_fd;
} calls;

static bool call_fails(void) {
    if (calls.bitmap) {
        uint8_t now[BITMAP_SIZE];
        assert_int_equal(pread(calls.bitmap_fd, now, sizeof(now), 0), sizeof(now));
        assert_memory_equal(now, calls.bitmap, sizeof(now));
    }
    calls.count++;
    errno = calls.fail_error;
    return calls.fail_from != 0 && calls.count >= calls.fail_from;
}

static ssize_t move_parts(bool is_write, int fd, const struct iovec *parts, int count,
                          off_t offset) {
    size_t left = calls.chunk ? calls.chunk : SIZE_MAX;
    ssize_t done = 0;
    assert_true(count > 0 && count <= VMM_CHAIN_LENGTH_MAX);
    assert_true(!is_write || fd != calls.base_fd);
    if (call_fails()) {
        return calls.fail_error ? -1 : 0;
    }
    for (int i = 0; i < count && left > 0; i++) {
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        ssize_t moved = is_write ? pwrite(fd, parts[i].iov_base, size, offset + done)
                                 : pread(fd, parts[i].iov_base, size, offset + done);
        if (moved < 0) {
            return -1;
        }
        done += moved;
        left -= size;
        if ((size_t)moved < size) {
            break;
        }
    }
    return done;
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset) {
    return move_parts(false, fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return move_parts(true, fd, parts, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
    assert_true(fd != calls.base_fd);
    if (mode & calls.refused_mode) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (call_fails()) {
        errno = calls.fail_error ? calls.fail_error : EIO;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

/* ---- the disk --------------------------------------------------------------------------------- */

struct disk {
    struct blk_store store;
    struct blk_store_files files;
    int base_write_fd;
    uint32_t seed;
    uint8_t truth[DISK_SIZE];
    uint8_t bitmap[BITMAP_SIZE]; /* before the operation */
};

static uint32_t draw(struct disk *disk, uint32_t limit) {
    disk->seed = disk->seed * 1664525u + 1013904223u;
    return (disk->seed >> 8) % limit;
}

static void fill(struct disk *disk, uint8_t *bytes, size_t size) {
    uint32_t start = draw(disk, 1u << 24);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)((start + i) * 2654435761u >> 24);
    }
}

static int open_again(int fd) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(again >= 0);
    return again;
}

static int make_file(off_t size) {
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    return fd;
}

static void disk_open(struct disk *disk, bool overlaid, uint32_t seed) {
    memset(&calls, 0, sizeof(calls));
    memset(disk, 0, sizeof(*disk));
    disk->seed = seed;
    disk->base_write_fd = make_file(DISK_SIZE);
    fill(disk, disk->truth, DISK_SIZE);
    assert_int_equal(pwrite(disk->base_write_fd, disk->truth, DISK_SIZE, 0), DISK_SIZE);
    disk->files.fd = overlaid ? open_again(disk->base_write_fd) : dup(disk->base_write_fd);
    disk->files.overlaid = overlaid;
    disk->files.overlay_fd = make_file(DISK_SIZE);
    disk->files.bitmap_fd = make_file(BITMAP_SIZE);
    calls.base_fd = overlaid ? disk->files.fd : -1;
    calls.bitmap_fd = disk->files.bitmap_fd;
    assert_int_equal(blk_store_init(&disk->store, &disk->files, NULL), KELPIE_OK);
    assert_int_equal(disk->store.size, DISK_SIZE);
}

static void disk_close(struct disk *disk) {
    blk_store_deinit(&disk->store);
    close(disk->files.fd);
    close(disk->files.overlay_fd);
    close(disk->files.bitmap_fd);
    close(disk->base_write_fd);
}

static bool had(const struct disk *disk, size_t block) {
    return (disk->bitmap[block / 8] >> (block % 8) & 1) != 0;
}

/* What an owner sees: by its own reading of files and bitmap. */
static void see(const struct disk *disk, uint8_t *bytes) {
    uint8_t bitmap[BITMAP_SIZE];
    assert_int_equal(pread(disk->files.bitmap_fd, bitmap, BITMAP_SIZE, 0), BITMAP_SIZE);
    for (size_t at = 0; at < DISK_SIZE; at += BLOCK) {
        size_t size = DISK_SIZE - at < BLOCK ? DISK_SIZE - at : BLOCK;
        bool over = disk->files.overlaid && (bitmap[at / BLOCK / 8] >> (at / BLOCK % 8) & 1);
        int fd = over ? disk->files.overlay_fd : disk->files.fd;
        assert_int_equal(pread(fd, bytes + at, size, (off_t)at), size);
    }
}

static void remember_bitmap(struct disk *disk) {
    assert_int_equal(pread(disk->files.bitmap_fd, disk->bitmap, BITMAP_SIZE, 0), BITMAP_SIZE);
    calls.bitmap = disk->bitmap;
}

static struct blk_transfer transfer_of(struct disk *disk, uint8_t *bytes, uint64_t position,
                                       size_t size) {
    struct blk_transfer transfer = {.position = position, .size = size};
    size_t done = 0;
    for (size_t i = 1; i < PART_COUNT_MAX && done < size; i++) {
        size_t piece = draw(disk, (uint32_t)(size - done) + 1);
        transfer.parts[transfer.part_count++] = (struct iovec){bytes + done, piece};
        done += piece;
    }
    transfer.parts[transfer.part_count++] = (struct iovec){bytes + done, size - done};
    return transfer;
}

enum kind { READ, WRITE, DISCARD, ZERO, ZERO_UNMAP, KIND_COUNT };

static uint8_t moved[DISK_SIZE];
static uint8_t seen[DISK_SIZE];

/* One call; its bytes are in `moved`. */
static enum blk_store_result act(struct disk *disk, enum kind kind, uint64_t position,
                                 uint64_t size) {
    uint64_t cost = 0;
    struct blk_transfer transfer = transfer_of(disk, moved, position, (size_t)size);
    enum blk_store_result result = BLK_STORE_FAILED;
    switch (kind) {
    case READ:
        memset(moved, 0x5a, sizeof(moved));
        result = blk_store_read(&disk->store, &transfer);
        break;
    case WRITE:
        fill(disk, moved, (size_t)size);
        result = blk_store_write(&disk->store, &transfer);
        break;
    case DISCARD:
        memset(moved, 0, (size_t)size);
        result = blk_store_discard(&disk->store, position, size);
        break;
    case ZERO:
    case ZERO_UNMAP:
        memset(moved, 0, (size_t)size);
        result = blk_store_zero(&disk->store, position, size, kind == ZERO_UNMAP, &cost);
        break;
    case KIND_COUNT:
    default:
        fail();
    }
    calls.bitmap = NULL;
    return result;
}

/* Nothing but the asked-for bytes of blocks that were in the overlay before can differ; what they hold now is the truth. */
static void check_failed(struct disk *disk, uint64_t position, uint64_t size) {
    see(disk, seen);
    for (size_t i = 0; i < DISK_SIZE; i++) {
        bool may =
            i >= position && i < position + size && (!disk->files.overlaid || had(disk, i / BLOCK));
        if (!may && seen[i] != disk->truth[i]) {
            fail_msg("byte %zu changed by a call that failed", i);
        }
    }
    memcpy(disk->truth, seen, DISK_SIZE);
}

static void check_done(struct disk *disk, enum kind kind, uint64_t position, uint64_t size) {
    if (kind == READ) {
        assert_memory_equal(moved, disk->truth + position, size);
    } else {
        memcpy(disk->truth + position, moved, (size_t)size);
    }
    see(disk, seen);
    assert_memory_equal(seen, disk->truth, DISK_SIZE);
}

static void operate(struct disk *disk) {
    enum kind kind = draw(disk, KIND_COUNT);
    /* Places and sizes around blocks' ends, small and large, and the disk's end. */
    uint64_t position = draw(disk, 2) ? draw(disk, DISK_SIZE) : draw(disk, 71) * BLOCK;
    uint64_t size_max = DISK_SIZE - position;
    uint64_t size = draw(disk, 3) ? draw(disk, 3 * BLOCK) : draw(disk, DISK_SIZE);
    size = draw(disk, 4) == 0 || size > size_max ? size_max - draw(disk, 2) * (size_max / 2) : size;
    calls.chunk = draw(disk, 2) ? 0 : 100 + draw(disk, 3 * BLOCK);
    calls.refused_mode = draw(disk, 3) ? 0 : (int)draw(disk, 64) & ~FALLOC_FL_KEEP_SIZE;
    calls.count = 0;
    calls.fail_from = draw(disk, 4) ? 0 : 1 + draw(disk, 4);
    calls.fail_error = draw(disk, 2) ? EIO : 0;
    remember_bitmap(disk);
    enum blk_store_result result = act(disk, kind, position, size);
    bool fired = calls.fail_from != 0 && calls.count >= calls.fail_from;
    calls.fail_from = 0;
    if (result == BLK_STORE_DONE) {
        assert_false(fired);
        check_done(disk, kind, position, size);
    } else {
        assert_true(fired || (result == BLK_STORE_UNSUPPORTED && kind == DISCARD &&
                              calls.refused_mode != 0));
        check_failed(disk, position, size);
    }
}

/* ---- tests ------------------------------------------------------------------------------------ */

static void run_random(bool overlaid) {
    static struct disk disk;
    for (uint32_t seed = 1; seed <= 12; seed++) {
        disk_open(&disk, overlaid, seed);
        for (int i = 0; i < OPERATIONS / 12; i++) {
            operate(&disk);
            /* A new life over the same files, as after a restart. */
            if (draw(&disk, 50) == 0) {
                blk_store_deinit(&disk.store);
                assert_int_equal(blk_store_init(&disk.store, &disk.files, NULL), KELPIE_OK);
            }
        }
        assert_int_equal(lseek(disk.files.overlay_fd, 0, SEEK_END), DISK_SIZE);
        disk_close(&disk);
    }
}

static void test_one_file_is_what_it_says(void **state) {
    (void)state;
    run_random(false);
}

static void test_an_overlay_is_what_it_says(void **state) {
    (void)state;
    run_random(true);
}

static void hazard_a15_the_base_is_never_written(void **state) {
    (void)state;
    static struct disk disk;
    static uint8_t before[DISK_SIZE];
    disk_open(&disk, true, 3);
    memcpy(before, disk.truth, DISK_SIZE);
    for (int i = 0; i < 100; i++) {
        operate(&disk);
    }
    assert_int_equal(pread(disk.base_write_fd, seen, DISK_SIZE, 0), DISK_SIZE);
    assert_memory_equal(seen, before, DISK_SIZE);
    assert_int_equal(pwrite(disk.files.fd, "x", 1, 0), -1); /* by the descriptor's mode */
    struct blk_store_files writable = disk.files;
    struct blk_store store;
    writable.fd = disk.base_write_fd;
    assert_int_equal(blk_store_init(&store, &writable, NULL), KELPIE_BAD_CONFIG);
    blk_store_deinit(&store);
    disk_close(&disk);
}

static void test_only_what_is_needed_is_moved(void **state) {
    (void)state;
    static struct disk disk;
    disk_open(&disk, true, 4);
    assert_int_equal(act(&disk, WRITE, 3 * BLOCK, 4 * BLOCK), BLK_STORE_DONE);
    assert_int_equal(calls.count, 1); /* whole blocks: nothing is copied up */
    calls.count = 0;
    assert_int_equal(act(&disk, WRITE, 3 * BLOCK + 512, 2 * BLOCK), BLK_STORE_DONE);
    assert_int_equal(calls.count, 1); /* they are there already */
    calls.count = 0;
    assert_int_equal(act(&disk, WRITE, 20 * BLOCK + 512, 512), BLK_STORE_DONE);
    assert_int_equal(calls.count, 5); /* both sides of it */
    calls.count = 0;
    assert_int_equal(act(&disk, WRITE, 70 * BLOCK, 1536), BLK_STORE_DONE);
    assert_int_equal(calls.count, 1); /* all that there is of the last block */
    calls.count = 0;
    assert_int_equal(act(&disk, READ, 0, DISK_SIZE), BLK_STORE_DONE);
    assert_int_equal(calls.count, 6); /* base and overlay in turn, and the end */
    calls.count = 0;
    assert_int_equal(act(&disk, DISCARD, 30 * BLOCK, 10 * BLOCK), BLK_STORE_DONE);
    assert_int_equal(calls.count, 1);
    /* The overlay takes the room of what is in it: 4 blocks, one, and one. */
    assert_int_equal(lseek(disk.files.overlay_fd, 21 * BLOCK, SEEK_DATA), 70 * BLOCK);
    disk_close(&disk);
}

static void hazard_a14_a_file_that_gives_next_to_nothing(void **state) {
    (void)state;
    static struct disk disk;
    disk_open(&disk, true, 5);
    calls.chunk = 1;
    remember_bitmap(&disk);
    assert_int_equal(act(&disk, WRITE, 0, 2 * BLOCK), BLK_STORE_FAILED);
    assert_int_equal(calls.count, BLK_STORE_CALL_COUNT_MAX);
    check_failed(&disk, 0, 2 * BLOCK);
    calls.chunk = 0;
    /* A base that became shorter. */
    assert_int_equal(ftruncate(disk.base_write_fd, 10 * BLOCK), 0);
    remember_bitmap(&disk);
    assert_int_equal(act(&disk, READ, 9 * BLOCK, 2 * BLOCK), BLK_STORE_FAILED);
    remember_bitmap(&disk);
    assert_int_equal(act(&disk, WRITE, 12 * BLOCK, 512), BLK_STORE_FAILED);
    assert_int_equal(act(&disk, WRITE, 12 * BLOCK, BLOCK), BLK_STORE_DONE);
    disk_close(&disk);
}

static void test_files_must_fit(void **state) {
    (void)state;
    static struct disk disk;
    struct blk_store store;
    disk_open(&disk, true, 6);
    struct blk_store_files files = disk.files;
    static const struct {
        off_t overlay_size;
        off_t bitmap_size;
    } bad[] = {
        {DISK_SIZE - 1, 16}, {DISK_SIZE + 1, 16}, {DISK_SIZE, 8}, {DISK_SIZE, 24}, {DISK_SIZE, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        files.overlay_fd = make_file(bad[i].overlay_size);
        files.bitmap_fd = make_file(bad[i].bitmap_size);
        assert_int_equal(blk_store_init(&store, &files, NULL), KELPIE_BAD_CONFIG);
        blk_store_deinit(&store);
        close(files.overlay_fd);
        close(files.bitmap_fd);
    }
    files = disk.files;
    int empty = make_file(0);
    files.fd = open_again(empty);
    assert_int_equal(blk_store_init(&store, &files, NULL), KELPIE_BAD_CONFIG);
    blk_store_deinit(&store);
    close(files.fd);
    close(empty);
    int huge = make_file((off_t)OVERLAY_DISK_SIZE_MAX + 1);
    files.fd = open_again(huge);
    assert_int_equal(blk_store_init(&store, &files, NULL), KELPIE_BAD_CONFIG);
    blk_store_deinit(&store);
    close(files.fd);
    close(huge);
    disk_close(&disk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_file_is_what_it_says),
        cmocka_unit_test(test_an_overlay_is_what_it_says),
        cmocka_unit_test(hazard_a15_the_base_is_never_written),
        cmocka_unit_test(test_only_what_is_needed_is_moved),
        cmocka_unit_test(hazard_a14_a_file_that_gives_next_to_nothing),
        cmocka_unit_test(test_files_must_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
