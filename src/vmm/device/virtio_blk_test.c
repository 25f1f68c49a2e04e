/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A disk on a real file, driven by a driver that breaks every rule. The calls that reach the file pass through this
 * file, which can cut them short, let them fail, and act as a guest that changes its memory meanwhile. All of it runs
 * twice: on one file, and on an overlay over a base, with some blocks in the one and some in the other. */
#include "vmm/device/virtio_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/fake_driver.h"

#define SECTORS 64
#define FILE_SIZE (SECTORS * 512 + 100)
#define OVERLAID_BLOCKS 0x2au /* 1, 3 and 5 */
#define HEADER_GPA FAKE_DATA_GPA
#define DATA_GPA (FAKE_DATA_GPA + 0x1000)
#define STATUS_GPA (FAKE_DATA_GPA + 0x40000)
#define STATUS_NONE 0xaa
#define BLK_TAG STATE_TAG('V', 'B', 'L', 'K')

/* ---- the file's calls ---------------------------------------------------------------------------- */

static struct {
    size_t chunk; /* bytes that one preadv or pwritev moves at most; 0: all */
    unsigned moves;
    unsigned syncs;
    unsigned allocates;
    int sync_error;
    int refused_mode;                 /* fallocate with one of these bits fails */
    int refused_error;                /* with that */
    void (*meanwhile)(void *context); /* after the first call */
    void *context;
} calls;

static void happen(unsigned *count) {
    if ((*count)++ == 0 && calls.meanwhile) {
        calls.meanwhile(calls.context);
    }
}

static ssize_t move(bool is_write, int fd, const struct iovec *parts, int count, off_t offset) {
    size_t left = calls.chunk ? calls.chunk : SIZE_MAX;
    ssize_t done = 0;
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
    happen(&calls.moves);
    return done;
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset) {
    return move(false, fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return move(true, fd, parts, count, offset);
}

int fdatasync(int fd) {
    (void)fd;
    happen(&calls.syncs);
    errno = calls.sync_error;
    return calls.sync_error ? -1 : 0;
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
    if (mode & calls.refused_mode) {
        errno = calls.refused_error;
        return -1;
    }
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    happen(&calls.allocates);
    return result;
}

/* ---- the machine --------------------------------------------------------------------------------- */

struct machine {
    struct fake_driver driver;
    struct virtio_blk blk;
    int fd;         /* of the one file, or the base */
    int overlay_fd; /* -1: there is none */
    int bitmap_fd;
    uint16_t head;
    struct fake_used used;
};

static bool overlaid; /* the kind of disk that this run is about */

static uint8_t byte_of(size_t offset) {
    return (uint8_t)(offset * 31 + offset / 512);
}

/* Base and overlay hold garbage where the other one counts. */
static void lay_over(struct machine *machine, const uint8_t *bytes,
                     struct virtio_blk_options *options) {
    static const uint8_t garbage[OVERLAY_BLOCK_SIZE] = {0xbd, 0xbd};
    uint64_t bitmap = OVERLAID_BLOCKS;
    char path[32];
    machine->overlay_fd = memfd_create("overlay", MFD_CLOEXEC);
    machine->bitmap_fd = memfd_create("bitmap", MFD_CLOEXEC);
    assert_int_equal(write(machine->bitmap_fd, &bitmap, sizeof(bitmap)), sizeof(bitmap));
    for (size_t at = 0; at < FILE_SIZE; at += OVERLAY_BLOCK_SIZE) {
        bool over = overlay_has(&bitmap, at / OVERLAY_BLOCK_SIZE);
        size_t size = min_size(OVERLAY_BLOCK_SIZE, FILE_SIZE - at);
        const uint8_t *block = over ? bytes + at : garbage;
        assert_int_equal(pwrite(machine->overlay_fd, block, size, (off_t)at), size);
        if (over) {
            assert_int_equal(pwrite(machine->fd, garbage, size, (off_t)at), size);
        }
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", machine->fd);
    options->fd = open(path, O_RDONLY | O_CLOEXEC);
    options->overlaid = true;
    options->overlay_fd = machine->overlay_fd;
    options->bitmap_fd = machine->bitmap_fd;
}

static void machine_open(struct machine *machine, bool read_only, uint64_t features) {
    static uint8_t bytes[FILE_SIZE];
    struct virtio_blk_options options = {.read_only = read_only, .id = "kelpie-disk-00000001"};
    memset(&calls, 0, sizeof(calls));
    machine->fd = memfd_create("disk", MFD_CLOEXEC);
    assert_true(machine->fd >= 0);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = byte_of(i);
    }
    assert_int_equal(write(machine->fd, bytes, sizeof(bytes)), sizeof(bytes));
    machine->overlay_fd = machine->bitmap_fd = -1;
    options.fd = machine->fd;
    if (overlaid && !read_only) {
        lay_over(machine, bytes, &options);
    }
    fake_driver_open(&machine->driver, false);
    assert_int_equal(virtio_blk_init(&machine->blk, &options, &machine->driver.memory,
                                     fake_driver_irq(&machine->driver), &machine->driver.io, NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine->driver, &machine->blk.device, features);
}

static void machine_close(struct machine *machine) {
    virtio_device_reset(&machine->blk.device);
    virtio_blk_deinit(&machine->blk);
    fake_driver_close(&machine->driver);
    if (machine->overlay_fd >= 0) {
        close(machine->blk.options.fd);
        close(machine->overlay_fd);
        close(machine->bitmap_fd);
    }
    close(machine->fd);
}

#define ALL_FEATURES (VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES)

static void set_header(struct machine *machine, uint32_t type, uint64_t sector) {
    uint8_t *header = fake_driver_at(&machine->driver, HEADER_GPA);
    memset(header, 0, 16);
    memcpy(header, &type, sizeof(type));
    memcpy(header + 8, &sector, sizeof(sector));
}

static uint8_t *data_of(struct machine *machine) {
    return fake_driver_at(&machine->driver, DATA_GPA);
}

/* Sends a chain, and takes it back: it must come back exactly once, and alone. Returns the status byte. */
static uint8_t send(struct machine *machine, const struct fake_part *parts, size_t count) {
    uint8_t *status = fake_driver_at(&machine->driver, STATUS_GPA);
    *status = STATUS_NONE;
    machine->head = fake_driver_add(&machine->driver, 0, parts, count);
    fake_driver_kick(&machine->driver, 0);
    assert_true(fake_driver_used(&machine->driver, 0, &machine->used));
    assert_int_equal(machine->used.head, machine->head);
    assert_int_equal(fake_driver_used_count(&machine->driver, 0), 0);
    assert_int_equal(machine->blk.device.queues[0].in_flight, 0);
    return *status;
}

static uint8_t request(struct machine *machine, uint32_t type, uint64_t sector, uint32_t size) {
    const struct fake_part parts[] = {
        {HEADER_GPA, 16, false}, {DATA_GPA, size, type == 0 || type == 8}, {STATUS_GPA, 1, true}};
    const struct fake_part bare[] = {parts[0], parts[2]};
    set_header(machine, type, sector);
    return size > 0 ? send(machine, parts, 3) : send(machine, bare, 2);
}

static void assert_file(struct machine *machine, uint64_t offset, const void *bytes, size_t size) {
    static uint8_t found[SECTORS * 512];
    uint64_t bitmap = 0;
    assert_true(size <= sizeof(found));
    if (machine->overlay_fd >= 0) {
        assert_int_equal(pread(machine->bitmap_fd, &bitmap, sizeof(bitmap), 0), sizeof(bitmap));
    }
    for (size_t done = 0; done < size;) {
        size_t at = (size_t)offset + done;
        size_t piece = min_size(OVERLAY_BLOCK_SIZE - at % OVERLAY_BLOCK_SIZE, size - done);
        bool over = overlay_has(&bitmap, at / OVERLAY_BLOCK_SIZE);
        int fd = over ? machine->overlay_fd : machine->fd;
        assert_int_equal(pread(fd, found + done, piece, (off_t)at), piece);
        done += piece;
    }
    assert_memory_equal(found, bytes, size);
}

static void assert_sizes(struct machine *machine) {
    assert_int_equal(lseek(machine->fd, 0, SEEK_END), FILE_SIZE);
    if (machine->overlay_fd >= 0) {
        assert_int_equal(lseek(machine->overlay_fd, 0, SEEK_END), FILE_SIZE);
    }
}

static void assert_file_untouched(struct machine *machine) {
    static uint8_t expected[SECTORS * 512];
    for (size_t i = 0; i < sizeof(expected); i++) {
        expected[i] = byte_of(i);
    }
    assert_file(machine, 0, expected, sizeof(expected));
}

/* ---- requests ------------------------------------------------------------------------------------ */

static void test_config_says_what_the_disk_is(void **state) {
    (void)state;
    struct machine machine;
    uint8_t config[VIRTIO_BLK_CONFIG_SIZE];
    uint64_t capacity = 0;
    machine_open(&machine, false, 0);
    const struct virtio_ops *ops = machine.blk.device.ops;
    ops->config_read(&machine.blk.device, 0, config, sizeof(config));
    memcpy(&capacity, config, sizeof(capacity));
    assert_int_equal(capacity, SECTORS); /* the 100 bytes behind are no sector */
    assert_int_equal(config[12], VIRTIO_BLK_SEGMENT_COUNT_MAX);
    assert_int_equal(config[21], 512 >> 8);
    assert_int_equal(config[40], VIRTIO_BLK_DISCARD_RANGE_COUNT_MAX);
    assert_int_equal(config[56], 1);
    memset(config, 0xff, sizeof(config));
    ops->config_write(&machine.blk.device, 0, config, 8);
    ops->config_read(&machine.blk.device, 0, &capacity, sizeof(capacity));
    assert_int_equal(capacity, SECTORS);
    assert_int_equal(machine.blk.device.device_features & VIRTIO_BLK_F_RO, 0);
    machine_close(&machine);
}

static void test_a_directory_or_pipe_is_no_disk(void **state) {
    (void)state;
    struct machine machine;
    struct virtio_blk blk;
    int ends[2];
    machine_open(&machine, false, 0);
    assert_int_equal(pipe(ends), 0);
    struct virtio_blk_options options = {.fd = ends[0]};
    assert_int_equal(virtio_blk_init(&blk, &options, &machine.driver.memory,
                                     fake_driver_irq(&machine.driver), &machine.driver.io, NULL),
                     KELPIE_BAD_CONFIG);
    virtio_blk_deinit(&blk);
    close(ends[0]);
    close(ends[1]);
    machine_close(&machine);
}

static void test_reads_and_writes_across_any_split(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    uint8_t *data = data_of(&machine);
    for (size_t i = 0; i < 1024; i++) {
        data[i] = (uint8_t)(i * 7 + 1);
    }
    set_header(&machine, VIRTIO_BLK_T_OUT, 5);
    const struct fake_part out[] = {
        {HEADER_GPA, 3, false}, {HEADER_GPA + 3, 12, false}, {HEADER_GPA + 15, 1, false},
        {DATA_GPA, 1, false},   {DATA_GPA + 1, 700, false},  {DATA_GPA + 701, 323, false},
        {STATUS_GPA, 1, true},
    };
    assert_int_equal(send(&machine, out, ARRAY_SIZE(out)), VIRTIO_BLK_S_OK);
    assert_int_equal(machine.used.written, 1);
    assert_file(&machine, 5 * 512, data, 1024);
    /* Header and data in one descriptor; data and status in one. */
    set_header(&machine, VIRTIO_BLK_T_IN, 5);
    memset(data + 0x2000, 0, 1025);
    const struct fake_part in[] = {{HEADER_GPA, 16, false},
                                   {DATA_GPA + 0x2000, 13, true},
                                   {DATA_GPA + 0x2000 + 13, 1012, true}};
    data[0x2000 + 1024] = STATUS_NONE;
    assert_int_equal(send(&machine, in, ARRAY_SIZE(in)), STATUS_NONE);
    assert_int_equal(data[0x2000 + 1024], VIRTIO_BLK_S_OK);
    assert_int_equal(machine.used.written, 1025);
    assert_memory_equal(data, data + 0x2000, 1024);
    assert_int_equal(machine.driver.interrupts, 2);
    machine_close(&machine);
}

static void test_the_end_of_the_disk_is_its_end(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, SECTORS - 2, 1024), VIRTIO_BLK_S_OK);
    static const struct {
        uint64_t sector;
        uint32_t size;
    } beyond[] = {{SECTORS - 1, 1024},         {SECTORS, 512},     {SECTORS + 1, 512},
                  {UINT64_MAX, 512},           {UINT64_MAX, 1024}, {UINT64_MAX / 512, 512},
                  {UINT64_MAX / 512 + 1, 512}, {1ull << 55, 512},  {0, (SECTORS + 1) * 512}};
    for (size_t i = 0; i < ARRAY_SIZE(beyond); i++) {
        for (uint32_t type = VIRTIO_BLK_T_IN; type <= VIRTIO_BLK_T_OUT; type++) {
            assert_int_equal(request(&machine, type, beyond[i].sector, beyond[i].size),
                             VIRTIO_BLK_S_IOERR);
            assert_int_equal(machine.used.written, type == VIRTIO_BLK_T_IN ? 0 : 1);
        }
    }
    assert_file_untouched(&machine);
    assert_sizes(&machine);
    machine_close(&machine);
}

static void test_a_file_that_became_shorter_is_an_error(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    assert_int_equal(ftruncate(machine.fd, 512 * 3 + 10), 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 2, 2048), VIRTIO_BLK_S_IOERR);
    assert_int_equal(machine.used.written, 522); /* what came */
    machine_close(&machine);
}

static void test_flush_and_disks_without_a_cache(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(calls.syncs, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(calls.syncs, 1);
    calls.sync_error = EIO;
    assert_int_equal(request(&machine, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_IOERR);
    /* Not negotiated: a write is stable before it is said to be done. */
    fake_driver_attach(&machine.driver, &machine.blk.device, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    calls.sync_error = 0;
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(calls.syncs, 4);
    machine_close(&machine);
}

static void set_range(struct machine *machine, size_t index, uint64_t sector, uint32_t count,
                      uint32_t flags) {
    uint8_t *range = data_of(machine) + index * 16;
    memcpy(range, &sector, 8);
    memcpy(range + 8, &count, 4);
    memcpy(range + 12, &flags, 4);
}

static void test_discard_and_write_zeroes(void **state) {
    (void)state;
    struct machine machine;
    static const uint8_t zeroes[8 * 512];
    machine_open(&machine, false, ALL_FEATURES);
    set_range(&machine, 0, 1, 2, 0);
    set_range(&machine, 1, 8, 8, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_OK);
    assert_int_equal(machine.used.written, 1);
    assert_file(&machine, 512, zeroes, 1024);
    assert_file(&machine, 8 * 512, zeroes, 8 * 512);
    /* With and without unmapping; and where the file system can do less. */
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t sector = 20 + i * 8;
        calls.refused_mode = i < 2 ? 0 : FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE;
        calls.refused_error = EOPNOTSUPP;
        set_range(&machine, 0, sector, 8, i % 2);
        assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
        assert_file(&machine, sector * 512, zeroes, sizeof(zeroes));
    }
    set_range(&machine, 0, 1, 1, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    calls.refused_error = ENOSPC;
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    assert_sizes(&machine);
    machine_close(&machine);
}

static void test_ranges_are_checked_before_the_first_is_carried_out(void **state) {
    (void)state;
    struct machine machine;
    static const struct {
        uint64_t sector;
        uint32_t count;
        uint32_t flags;
        uint32_t type;
        uint8_t status;
    } bad[] = {
        {SECTORS, 1, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {SECTORS - 1, 2, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, 1, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {0, UINT32_MAX, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {0, 1, VIRTIO_BLK_RANGE_UNMAP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP},
        {0, 1, 2, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP},
        {0, 1, 2, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP},
        {0, SECTORS + 1, 1, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR},
    };
    machine_open(&machine, false, ALL_FEATURES);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        bool two = bad[i].type == VIRTIO_BLK_T_DISCARD;
        set_range(&machine, 0, 3, 3, 0);
        set_range(&machine, two ? 1 : 0, bad[i].sector, bad[i].count, bad[i].flags);
        assert_int_equal(request(&machine, bad[i].type, 0, two ? 32 : 16), bad[i].status);
    }
    assert_int_equal(calls.allocates, 0);
    assert_file_untouched(&machine);
    fake_driver_attach(&machine.driver, &machine.blk.device, VIRTIO_BLK_F_FLUSH);
    set_range(&machine, 0, 3, 3, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_UNSUPP);
    machine_close(&machine);
}

static void test_limits_are_enforced(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    machine.blk.capacity = 1u << 30; /* so that only the limits refuse */
    set_range(&machine, 0, 0, VIRTIO_BLK_DISCARD_SECTORS_MAX + 1, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
    set_range(&machine, 0, 0, VIRTIO_BLK_ZEROES_SECTORS_MAX + 1, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    memset(data_of(&machine), 0, 4096);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 32 * 16), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 33 * 16), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), VIRTIO_BLK_S_IOERR);
    /* The same 256 KiB again and again: more than a request may have. */
    struct fake_part parts[VIRTIO_BLK_QUEUE_SIZE] = {{HEADER_GPA, 16, false}};
    for (size_t i = 1; i < ARRAY_SIZE(parts); i++) {
        parts[i] = (struct fake_part){DATA_GPA, VIRTIO_BLK_SEGMENT_SIZE_MAX + 512, true};
    }
    parts[ARRAY_SIZE(parts) - 1] = (struct fake_part){STATUS_GPA, 1, true};
    parts[0].gpa = HEADER_GPA;
    set_header(&machine, VIRTIO_BLK_T_IN, 0);
    assert_int_equal(send(&machine, parts, ARRAY_SIZE(parts)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(calls.moves, 0);
    machine_close(&machine);
}

static void test_a_burst_is_bounded_and_goes_on(void **state) {
    (void)state;
    struct machine machine;
    const struct fake_part parts[] = {{HEADER_GPA, 16, false}, {STATUS_GPA, 1, true}};
    machine_open(&machine, false, ALL_FEATURES | VIRTIO_F_EVENT_IDX);
    set_header(&machine, VIRTIO_BLK_T_FLUSH, 0);
    for (int i = 0; i < 100; i++) {
        fake_driver_add(&machine.driver, 0, parts, 2);
    }
    fake_driver_kick(&machine.driver, 0);
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), VIRTIO_BLK_BURST_COUNT_MAX);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, 0), 100);
    machine_close(&machine);
}

/* ---- hazards ------------------------------------------------------------------------------------- */

static void hazard_a3_config_space_ends(void **state) {
    (void)state;
    struct machine machine;
    static const uint64_t offsets[] = {VIRTIO_BLK_CONFIG_SIZE, VIRTIO_BLK_CONFIG_SIZE + 1, 0xf00,
                                       UINT64_MAX - 7, UINT64_MAX};
    static const uint8_t zeroes[8];
    machine_open(&machine, false, 0);
    const struct virtio_ops *ops = machine.blk.device.ops;
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        ops->config_write(&machine.blk.device, offsets[i], bytes, 8);
        ops->config_read(&machine.blk.device, offsets[i], bytes, 8);
        assert_memory_equal(bytes, zeroes, 8);
    }
    machine_close(&machine);
}

static void hazard_a7_every_chain_comes_back_once(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    set_header(&machine, VIRTIO_BLK_T_OUT, 0);
    static const struct {
        struct fake_part parts[3];
        size_t count;
        uint8_t status;
        uint32_t written;
    } chains[] = {
        /* No byte for the status. */
        {{{HEADER_GPA, 16, false}}, 1, STATUS_NONE, 0},
        {{{HEADER_GPA, 16, false}, {DATA_GPA, 512, false}}, 2, STATUS_NONE, 0},
        /* A header that is too short, or missing. */
        {{{STATUS_GPA, 1, true}}, 1, VIRTIO_BLK_S_IOERR, 1},
        {{{HEADER_GPA, 15, false}, {STATUS_GPA, 1, true}}, 2, VIRTIO_BLK_S_IOERR, 1},
        {{{HEADER_GPA, 1, false}, {HEADER_GPA, 14, false}, {STATUS_GPA, 1, true}},
         3,
         VIRTIO_BLK_S_IOERR,
         1},
        /* Half a sector. */
        {{{HEADER_GPA, 16, false}, {DATA_GPA, 256, false}, {STATUS_GPA, 1, true}},
         3,
         VIRTIO_BLK_S_IOERR,
         1},
        /* No data, which is no error. */
        {{{HEADER_GPA, 16, false}, {STATUS_GPA, 1, true}}, 2, VIRTIO_BLK_S_OK, 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
        assert_int_equal(send(&machine, chains[i].parts, chains[i].count), chains[i].status);
        assert_int_equal(machine.used.written, chains[i].written);
    }
    for (uint32_t type = 0; type < 40; type++) {
        bool known = type <= 1 || type == VIRTIO_BLK_T_FLUSH || type == VIRTIO_BLK_T_GET_ID ||
                     type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
        memset(data_of(&machine), 0, 512); /* as ranges: nothing wrong with them */
        uint8_t status = request(&machine, type, 1ull << 40, 512);
        assert_int_equal(status == VIRTIO_BLK_S_UNSUPP, !known);
    }
    assert_int_equal(request(&machine, UINT32_MAX, 0, 512), VIRTIO_BLK_S_UNSUPP);
    assert_file_untouched(&machine);
    machine_close(&machine);
}

static void hazard_a8_lengths_that_differ(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    uint8_t *data = data_of(&machine);
    static const uint32_t rooms[] = {1, 5, 19, 20, 21, 100};
    for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
        uint32_t given = rooms[i] < 20 ? rooms[i] : 20;
        memset(data, 0x55, 128);
        assert_int_equal(request(&machine, VIRTIO_BLK_T_GET_ID, 0, rooms[i]), VIRTIO_BLK_S_OK);
        assert_memory_equal(data, "kelpie-disk-00000001", given);
        for (size_t j = given; j < 128; j++) {
            assert_int_equal(data[j], 0x55);
        }
        assert_int_equal(machine.used.written, rooms[i] <= 20 ? rooms[i] + 1 : 20);
    }
    /* A read into what is not whole sectors. */
    memset(data, 0x55, 1024);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 0, 513), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 0, 511), VIRTIO_BLK_S_IOERR);
    assert_int_equal(data[0], 0x55);
    /* Lists of ranges that are cut. */
    memset(data, 0, 1024);
    static const uint32_t sizes[] = {0, 1, 15, 17, 31};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, sizes[i]), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizes[i]),
                         VIRTIO_BLK_S_IOERR);
    }
    assert_file_untouched(&machine);
    machine_close(&machine);
}

static void change_header(void *context) {
    set_header(context, VIRTIO_BLK_T_IN, 40);
}

static void change_ranges(void *context) {
    set_range(context, 1, 40, 8, 0);
    set_header(context, VIRTIO_BLK_T_OUT, 40);
}

static void hazard_a11_header_and_ranges_are_read_once(void **state) {
    (void)state;
    struct machine machine;
    uint8_t expected[2048];
    machine_open(&machine, false, ALL_FEATURES);
    calls.chunk = 1000;
    calls.meanwhile = change_header;
    calls.context = &machine;
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 4, 2048), VIRTIO_BLK_S_OK);
    for (size_t i = 0; i < sizeof(expected); i++) {
        expected[i] = byte_of(4 * 512 + i);
    }
    assert_memory_equal(data_of(&machine), expected, sizeof(expected));
    assert_int_equal(calls.moves, 3);
    /* The second range is changed when the first is carried out. */
    calls.meanwhile = change_ranges;
    set_range(&machine, 0, 0, 1, 0);
    set_range(&machine, 1, 1, 1, 0);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_OK);
    for (size_t i = 0; i < sizeof(expected); i++) {
        expected[i] = byte_of(40 * 512 + i);
    }
    assert_file(&machine, 40 * 512, expected, sizeof(expected));
    memset(expected, 0, 1024);
    assert_file(&machine, 0, expected, 1024);
    machine_close(&machine);
}

static void change_data(void *context) {
    memset(data_of(context), 0xee, 700);
}

static void hazard_a14_partial_io_is_continued(void **state) {
    (void)state;
    struct machine machine;
    uint8_t expected[2048];
    static const size_t chunks[] = {1, 16, 511, 512, 700, 2047};
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        machine_open(&machine, false, ALL_FEATURES);
        uint8_t *data = data_of(&machine);
        const struct fake_part out[] = {{HEADER_GPA, 16, false},
                                        {DATA_GPA, 700, false},
                                        {DATA_GPA + 700, 1348, false},
                                        {STATUS_GPA, 1, true}};
        const struct fake_part in[] = {{HEADER_GPA, 16, false},
                                       {DATA_GPA + 0x4000, 100, true},
                                       {DATA_GPA + 0x4064, 1948, true},
                                       {STATUS_GPA, 1, true}};
        for (size_t j = 0; j < sizeof(expected); j++) {
            expected[j] = data[j] = (uint8_t)(j * 13 + 5);
        }
        /* What was written already is changed: it must not be written again. */
        calls.chunk = chunks[i];
        calls.meanwhile = change_data;
        calls.context = &machine;
        memset(expected + chunks[i], 0xee, chunks[i] < 700 ? 700 - chunks[i] : 0);
        set_header(&machine, VIRTIO_BLK_T_OUT, 9);
        assert_int_equal(send(&machine, out, 4), VIRTIO_BLK_S_OK);
        assert_file(&machine, 9 * 512, expected, sizeof(expected));
        assert_int_equal(calls.moves, (sizeof(expected) + chunks[i] - 1) / chunks[i]);
        set_header(&machine, VIRTIO_BLK_T_IN, 9);
        assert_int_equal(send(&machine, in, 4), VIRTIO_BLK_S_OK);
        assert_int_equal(machine.used.written, 2049);
        assert_memory_equal(data + 0x4000, expected, sizeof(expected));
        machine_close(&machine);
    }
}

static void test_a_file_that_gives_next_to_nothing_is_an_error(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, false, ALL_FEATURES);
    calls.chunk = 1;
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 48, 8192), VIRTIO_BLK_S_IOERR);
    assert_int_equal(calls.moves, BLK_STORE_CALL_COUNT_MAX);
    assert_int_equal(machine.used.written, BLK_STORE_CALL_COUNT_MAX);
    machine_close(&machine);
}

static void hazard_a15_read_only_is_enforced_by_the_device(void **state) {
    (void)state;
    struct machine machine;
    /* The file is open for writing, and the driver negotiated whatever it liked. */
    machine_open(&machine, true, ALL_FEATURES);
    assert_true(machine.blk.device.device_features & VIRTIO_BLK_F_RO);
    assert_false(machine.blk.device.device_features & VIRTIO_BLK_F_DISCARD);
    assert_false(machine.blk.device.device_features & VIRTIO_BLK_F_WRITE_ZEROES);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 0), VIRTIO_BLK_S_IOERR);
    for (uint32_t flags = 0; flags < 2; flags++) {
        set_range(&machine, 0, 0, 4, flags);
        assert_int_equal(request(&machine, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(&machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    }
    assert_int_equal(request(&machine, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(calls.allocates, 0);
    assert_file_untouched(&machine);
    machine_close(&machine);
}

/* The header of a qcow2 image of 1 GiB with a backing file, written by the guest: still a disk of the file's size
 * whose first bytes are that header. */
static void hazard_a16_no_format_is_guessed(void **state) {
    (void)state;
    struct machine machine;
    static const uint8_t header[512] = {'Q', 'F', 'I', 0xfb, 0,  0, 0, 2, 0,  0, 0, 0, 0, 0,   0,
                                        72,  0,   0,   0,    11, 0, 0, 0, 16, 0, 0, 0, 0, 0x40};
    machine_open(&machine, false, ALL_FEATURES);
    memcpy(data_of(&machine), header, sizeof(header));
    memcpy(data_of(&machine) + 72, "/etc/passwd", 11);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    struct virtio_blk_options options = machine.blk.options;
    virtio_blk_deinit(&machine.blk);
    assert_int_equal(virtio_blk_init(&machine.blk, &options, &machine.driver.memory,
                                     fake_driver_irq(&machine.driver), &machine.driver.io, NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine.driver, &machine.blk.device, ALL_FEATURES);
    assert_int_equal(machine.blk.capacity, SECTORS);
    memset(data_of(&machine), 0, 512);
    assert_int_equal(request(&machine, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    assert_memory_equal(data_of(&machine), header, 72);
    assert_memory_equal(data_of(&machine) + 72, "/etc/passwd", 11);
    machine_close(&machine);
}

static void hazard_b1_saved_state_is_checked(void **state) {
    (void)state;
    struct machine machine;
    uint8_t buffer[FAKE_STATE_SIZE_MAX];
    uint8_t payload[64] = {SECTORS};
    machine_open(&machine, false, ALL_FEATURES);
    memcpy(payload + 9, "another-disk-0000001", 20);
    static const struct {
        size_t offset;
        uint8_t value;
        size_t size;
        enum kelpie_status status;
    } cases[] = {
        {0, SECTORS, 28, KELPIE_SNAPSHOT_CORRUPT},
        {0, SECTORS, 30, KELPIE_SNAPSHOT_CORRUPT},
        {0, SECTORS, 0, KELPIE_SNAPSHOT_CORRUPT},
        {8, 2, 29, KELPIE_SNAPSHOT_CORRUPT},
        {8, 1, 29, KELPIE_SNAPSHOT_INCOMPATIBLE},
        {0, SECTORS + 1, 29, KELPIE_SNAPSHOT_INCOMPATIBLE},
        {7, 0xff, 29, KELPIE_SNAPSHOT_INCOMPATIBLE},
        {0, SECTORS, 29, KELPIE_OK},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t forged[64];
        memcpy(forged, payload, sizeof(forged));
        forged[cases[i].offset] = cases[i].value;
        size_t size = fake_driver_forge(BLK_TAG, forged, cases[i].size, buffer);
        assert_int_equal(machine.blk.options.id[0], 'k');
        assert_int_equal(fake_driver_load(&machine.blk.device, buffer, size), cases[i].status);
        assert_int_equal(machine.blk.capacity, SECTORS);
        assert_false(machine.blk.options.read_only);
    }
    assert_memory_equal(machine.blk.options.id, "another-disk-0000001", 20);
    machine_close(&machine);
}

static void hazard_c9_save_load_save(void **state) {
    (void)state;
    struct machine machine;
    struct machine other;
    uint8_t first[FAKE_STATE_SIZE_MAX];
    uint8_t second[FAKE_STATE_SIZE_MAX];
    const struct fake_part parts[] = {{HEADER_GPA, 16, false}, {STATUS_GPA, 1, true}};
    machine_open(&machine, false, ALL_FEATURES);
    machine_open(&other, false, ALL_FEATURES);
    memset(other.blk.options.id, 'x', VIRTIO_BLK_ID_SIZE);
    size_t size = fake_driver_save(&machine.blk.device, first);
    /* A request whose kick was lost with the machine that was saved. */
    set_header(&other, VIRTIO_BLK_T_FLUSH, 0);
    fake_driver_add(&other.driver, 0, parts, 2);
    assert_int_equal(fake_driver_load(&other.blk.device, first, size), KELPIE_OK);
    assert_memory_equal(other.blk.options.id, machine.blk.options.id, VIRTIO_BLK_ID_SIZE);
    assert_int_equal(fake_driver_save(&other.blk.device, second), size);
    assert_memory_equal(first, second, size);
    assert_true(fake_driver_turns(&other.driver));
    assert_int_equal(fake_driver_used_count(&other.driver, 0), 1);
    machine_close(&machine);
    machine_close(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_says_what_the_disk_is),
        cmocka_unit_test(test_a_directory_or_pipe_is_no_disk),
        cmocka_unit_test(test_reads_and_writes_across_any_split),
        cmocka_unit_test(test_the_end_of_the_disk_is_its_end),
        cmocka_unit_test(test_a_file_that_became_shorter_is_an_error),
        cmocka_unit_test(test_flush_and_disks_without_a_cache),
        cmocka_unit_test(test_discard_and_write_zeroes),
        cmocka_unit_test(test_ranges_are_checked_before_the_first_is_carried_out),
        cmocka_unit_test(test_limits_are_enforced),
        cmocka_unit_test(test_a_burst_is_bounded_and_goes_on),
        cmocka_unit_test(hazard_a3_config_space_ends),
        cmocka_unit_test(hazard_a7_every_chain_comes_back_once),
        cmocka_unit_test(hazard_a8_lengths_that_differ),
        cmocka_unit_test(hazard_a11_header_and_ranges_are_read_once),
        cmocka_unit_test(hazard_a14_partial_io_is_continued),
        cmocka_unit_test(test_a_file_that_gives_next_to_nothing_is_an_error),
        cmocka_unit_test(hazard_a15_read_only_is_enforced_by_the_device),
        cmocka_unit_test(hazard_a16_no_format_is_guessed),
        cmocka_unit_test(hazard_b1_saved_state_is_checked),
        cmocka_unit_test(hazard_c9_save_load_save),
    };
    int failed = cmocka_run_group_tests_name("one file", tests, NULL, NULL);
    overlaid = true;
    return failed + cmocka_run_group_tests_name("base and overlay", tests, NULL, NULL);
}
