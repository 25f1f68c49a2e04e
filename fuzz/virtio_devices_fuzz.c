/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Four virtio devices with one driver, which is the input. Its first byte chooses the device and its variant; from then on
 * each byte is an operation, whose arguments are the bytes behind it: write into memory, add a descriptor, make a chain
 * available, damage a queue, kick, let the loop turn, act as the network's peer, read and write the config, save and
 * load, reset. Memory, file and sockets are kept between inputs and put back to what they were: an input that is run again
 * does the same.
 *
 * What is checked besides what the sanitizers see: no chain is in flight between two calls, no page outside the guest's
 * memory is touched, a disk's file keeps its size, and a read-only one and a base their bytes; saving, loading and saving
 * again gives the same bytes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "support/fake_driver.h"
#include "vmm/device/virtio_balloon.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_net.h"
#include "vmm/device/virtio_rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_SIZE (16u << 10)
#define OPERATION_COUNT_MAX 24
#define TURN_COUNT_MAX 4
#define PART_COUNT_MAX 8
#define PAGE_SPAN 16 /* where parts begin */
#define PAGE_COUNT (FAKE_MEMORY_SIZE / VMM_PAGE_SIZE)
#define DRAIN_COUNT_MAX 1000
#define STATE_FRAME_SIZE 48 /* magic, a section's head, the end section */
#define STATE_PAYLOAD_MAX 64

enum kind {
    KIND_BLK,
    KIND_BLK_READ_ONLY,
    KIND_RNG,
    KIND_BALLOON,
    KIND_NET_TAP,
    KIND_NET_STREAM,
    KIND_BLK_OVERLAID,
    KIND_COUNT
};

enum operation {
    OPERATION_WRITE,
    OPERATION_REQUEST,
    OPERATION_CHAIN,
    OPERATION_KICK,
    OPERATION_TURN,
    OPERATION_PEER_SEND,
    OPERATION_PEER_READ,
    OPERATION_CONFIG,
    OPERATION_DAMAGE,
    OPERATION_SAVE,
    OPERATION_RESET,
    OPERATION_COUNT
};

/* Made once. */
static struct {
    bool made;
    struct fake_driver driver;
    uint64_t dirty[PAGE_COUNT / 64]; /* what the last input wrote to, but for the queues */
    int disk_fd;
    int base_fd; /* the same, open for reading */
    int overlay_fd;
    int bitmap_fd;
    int net_fds[2];  /* tap and stream: the device's */
    int peer_fds[2]; /* and the other end */
    bool peer_is_gone;
    union {
        struct virtio_device device;
        struct virtio_blk blk;
        struct virtio_rng rng;
        struct virtio_balloon balloon;
        struct virtio_net net;
    } unit;
} world;

struct run {
    struct cursor_reader reader;
    enum kind kind;
};

/* With little room in it, so that it is full soon. */
static void make_sockets(size_t index) {
    int ends[2];
    int room = 1;
    int type = (index == 0 ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_NONBLOCK;
    int result = socketpair(AF_UNIX, type, 0, ends);
    ASSERT(result == 0);
    result = setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    ASSERT(result == 0);
    world.net_fds[index] = ends[0];
    world.peer_fds[index] = ends[1];
}

static void make_world(void) {
    ASSERT(!world.made);
    (void)signal(SIGPIPE, SIG_IGN); /* a real tap sends none */
    fake_driver_open(&world.driver, false);
    world.driver.memory.dirty = world.dirty;
    world.disk_fd = memfd_create("disk", MFD_CLOEXEC);
    ASSERT(world.disk_fd >= 0);
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", world.disk_fd);
    world.base_fd = open(path, O_RDONLY | O_CLOEXEC);
    world.overlay_fd = memfd_create("overlay", MFD_CLOEXEC);
    world.bitmap_fd = memfd_create("bitmap", MFD_CLOEXEC);
    ASSERT(world.base_fd >= 0 && world.overlay_fd >= 0 && world.bitmap_fd >= 0);
    make_sockets(0);
    make_sockets(1);
    world.made = true;
}

static void drain(int fd) {
    static uint8_t bytes[1 << 17];
    for (int i = 0; i < DRAIN_COUNT_MAX && read(fd, bytes, sizeof(bytes)) > 0; i++) {
    }
}

static void clean_sockets(size_t index) {
    if (world.peer_is_gone) {
        close(world.net_fds[index]);
        close(world.peer_fds[index]);
        make_sockets(index);
        world.peer_is_gone = false;
    } else {
        drain(world.net_fds[index]);
        drain(world.peer_fds[index]);
    }
}

static void clean_file(int fd, size_t size) {
    int result = ftruncate(fd, 0);
    ASSERT(result == 0);
    result = ftruncate(fd, (off_t)size);
    ASSERT(result == 0);
}

static void clean_world(enum kind kind) {
    if (kind == KIND_BLK || kind == KIND_BLK_READ_ONLY || kind == KIND_BLK_OVERLAID) {
        clean_file(world.disk_fd, DISK_SIZE);
    }
    if (kind == KIND_BLK_OVERLAID) {
        clean_file(world.overlay_fd, DISK_SIZE);
        clean_file(world.bitmap_fd, overlay_bitmap_size(DISK_SIZE));
    }
    for (size_t word = 0; word < ARRAY_SIZE(world.dirty); word++) {
        for (uint64_t bits = world.dirty[word]; bits != 0; bits &= bits - 1) {
            size_t page = word * 64 + (size_t)__builtin_ctzll(bits);
            memset(world.driver.memory.host + page * VMM_PAGE_SIZE, 0, VMM_PAGE_SIZE);
        }
    }
    memset(world.dirty, 0, sizeof(world.dirty));
}

static enum kelpie_status init_unit(enum kind kind) {
    struct fake_driver *driver = &world.driver;
    struct device_irq irq = fake_driver_irq(driver);
    struct virtio_blk_options disk = {.fd =
                                          kind == KIND_BLK_OVERLAID ? world.base_fd : world.disk_fd,
                                      .read_only = kind == KIND_BLK_READ_ONLY,
                                      .overlaid = kind == KIND_BLK_OVERLAID,
                                      .overlay_fd = world.overlay_fd,
                                      .bitmap_fd = world.bitmap_fd,
                                      .id = "fuzz"};
    struct virtio_balloon_options balloon = {.memory_is_shared = false};
    struct virtio_net_options net = {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};
    net.backend = kind == KIND_NET_TAP ? VIRTIO_NET_TAP : VIRTIO_NET_STREAM;
    net.fd = world.net_fds[net.backend == VIRTIO_NET_STREAM];
    switch (kind) {
    case KIND_BLK:
    case KIND_BLK_READ_ONLY:
    case KIND_BLK_OVERLAID:
        return virtio_blk_init(&world.unit.blk, &disk, &driver->memory, irq, &driver->io, NULL);
    case KIND_RNG:
        return virtio_rng_init(&world.unit.rng, &driver->memory, irq, &driver->io, NULL);
    case KIND_BALLOON:
        return virtio_balloon_init(&world.unit.balloon, &balloon, &driver->memory, irq, &driver->io,
                                   NULL);
    case KIND_NET_TAP:
    case KIND_NET_STREAM:
        return virtio_net_init(&world.unit.net, &net, &driver->memory, irq, &driver->io, NULL);
    case KIND_COUNT:
    default:
        UNREACHABLE();
    }
}

static void deinit_unit(enum kind kind) {
    virtio_device_reset(&world.unit.device);
    switch (kind) {
    case KIND_BLK:
    case KIND_BLK_READ_ONLY:
    case KIND_BLK_OVERLAID:
        virtio_blk_deinit(&world.unit.blk);
        break;
    case KIND_RNG:
        virtio_rng_deinit(&world.unit.rng);
        break;
    case KIND_BALLOON:
        virtio_balloon_deinit(&world.unit.balloon);
        break;
    case KIND_NET_TAP:
    case KIND_NET_STREAM:
        virtio_net_deinit(&world.unit.net);
        clean_sockets(kind == KIND_NET_STREAM);
        break;
    case KIND_COUNT:
    default:
        UNREACHABLE();
    }
}

/* ---- operations ---------------------------------------------------------------------------------- */

static uint64_t some_gpa(struct run *run) {
    uint16_t number = cursor_read_u16(&run->reader);
    if (number >= 0xfff0) {
        return (uint64_t)number << 48; /* nowhere */
    }
    return FAKE_DATA_GPA + (uint64_t)(number % PAGE_SPAN) * VMM_PAGE_SIZE + (number >> 10) * 8;
}

static uint16_t some_queue(struct run *run) {
    return (uint16_t)(cursor_read_u8(&run->reader) % world.unit.device.ops->queue_count);
}

static void do_write(struct run *run) {
    uint64_t gpa = some_gpa(run);
    size_t count = min_size(cursor_read_u8(&run->reader) % 64, cursor_reader_left(&run->reader));
    const uint8_t *bytes = cursor_read_bytes(&run->reader, count);
    (void)memory_write(&world.driver.memory, gpa, bytes ? bytes : (const uint8_t *)"", count);
}

/* A chain of the form that a block device's requests have. */
static void do_request(struct run *run) {
    uint64_t gpa = some_gpa(run);
    uint8_t header[VIRTIO_BLK_HEADER_SIZE] = {0};
    header[0] = cursor_read_u8(&run->reader) % 16;
    header[8] = cursor_read_u8(&run->reader) % 40;
    uint32_t size = cursor_read_u8(&run->reader) * 16u;
    (void)memory_write(&world.driver.memory, FAKE_DATA_GPA, header, sizeof(header));
    const struct fake_part parts[] = {{FAKE_DATA_GPA, sizeof(header), false},
                                      {gpa, size > 0 ? size : 1, (header[0] & 1) == 0},
                                      {FAKE_DATA_GPA + 64, 1, true}};
    fake_driver_add(&world.driver, some_queue(run), parts, ARRAY_SIZE(parts));
}

static void do_chain(struct run *run) {
    struct fake_part parts[PART_COUNT_MAX];
    uint16_t queue_index = some_queue(run);
    uint16_t usual_max = run->kind == KIND_BALLOON ? 0xff : 0x1fff; /* each number costs a call */
    uint8_t shape = cursor_read_u8(&run->reader);
    size_t count = 1 + shape % PART_COUNT_MAX;
    size_t readable_count = (shape >> 4) % (count + 1);
    for (size_t i = 0; i < count; i++) {
        uint16_t part_size = cursor_read_u16(&run->reader);
        parts[i].gpa = some_gpa(run);
        parts[i].size = part_size >= 0xfff0 ? 70000u * (part_size & 15u) : part_size & usual_max;
        parts[i].writable = i >= readable_count;
    }
    fake_driver_add(&world.driver, queue_index, parts, count);
}

static void do_turn(void) {
    for (int i = 0; i < TURN_COUNT_MAX && io_turn(&world.driver.io, 0) > 0; i++) {
    }
}

static void do_peer_send(struct run *run) {
    static uint8_t bytes[1 << 14];
    uint16_t size = cursor_read_u16(&run->reader) % sizeof(bytes);
    bytes[0] = cursor_read_u8(&run->reader);
    bytes[1] = cursor_read_u8(&run->reader);
    bytes[2] = cursor_read_u8(&run->reader);
    bytes[3] = cursor_read_u8(&run->reader);
    if (run->kind == KIND_NET_TAP || run->kind == KIND_NET_STREAM) {
        (void)send(world.peer_fds[run->kind == KIND_NET_STREAM], bytes, size, MSG_NOSIGNAL);
    }
}

/* The size 65535 is the end of the peer. */
static void do_peer_read(struct run *run) {
    static uint8_t bytes[1 << 16];
    size_t size = cursor_read_u16(&run->reader);
    int fd = world.peer_fds[run->kind == KIND_NET_STREAM];
    if (run->kind != KIND_NET_TAP && run->kind != KIND_NET_STREAM) {
        return;
    }
    if (size == UINT16_MAX) {
        (void)shutdown(fd, SHUT_RDWR);
        world.peer_is_gone = true;
    } else {
        (void)!read(fd, bytes, size);
    }
}

static void do_config(struct run *run) {
    const struct virtio_ops *ops = world.unit.device.ops;
    uint8_t bytes[8];
    uint8_t where = cursor_read_u8(&run->reader);
    uint64_t offset = where < 0xf0 ? where : UINT64_MAX - (where & 15u);
    uint32_t size = 1u << (where % 4);
    uint64_t value = cursor_read_u32(&run->reader) * 0x100000001ull;
    memcpy(bytes, &value, sizeof(bytes));
    if (run->kind == KIND_BALLOON && where == 0xff) {
        (void)virtio_balloon_set_target(&world.unit.balloon, value & 0xffff);
    }
    if (ops->config_write) {
        ops->config_write(&world.unit.device, offset, bytes, size);
        ops->config_read(&world.unit.device, offset, bytes, size);
    }
}

/* Some byte of some queue. */
static void do_damage(struct run *run) {
    uint64_t gpa = FAKE_QUEUE_SPACE * some_queue(run);
    gpa += cursor_read_u16(&run->reader) % FAKE_QUEUE_SPACE;
    uint8_t value = cursor_read_u8(&run->reader);
    (void)memory_write(&world.driver.memory, gpa, &value, 1);
}

/* Makes a state of its own out of a saved section, one byte of whose payload is changed. Returns its size. */
static size_t change_state(uint8_t *buffer, size_t size, uint8_t where, uint8_t difference) {
    uint8_t payload[STATE_PAYLOAD_MAX];
    uint32_t tag = 0;
    size_t payload_size = size - STATE_FRAME_SIZE;
    ASSERT(size > STATE_FRAME_SIZE);
    ASSERT(payload_size <= sizeof(payload));
    memcpy(&tag, buffer + 8, sizeof(tag));
    memcpy(payload, buffer + 24, payload_size);
    payload[where % payload_size] ^= difference;
    return fake_driver_forge(tag, payload, payload_size, buffer);
}

/* What was saved, perhaps with a byte changed, is loaded; if it was taken, it is what is saved next. */
static void do_save(struct run *run) {
    static uint8_t first[FAKE_STATE_SIZE_MAX];
    static uint8_t second[FAKE_STATE_SIZE_MAX];
    struct virtio_device *device = &world.unit.device;
    size_t size = fake_driver_save(device, first);
    uint8_t where = cursor_read_u8(&run->reader);
    uint8_t difference = cursor_read_u8(&run->reader);
    bool changed = where % 2 == 0 && difference != 0 && size > STATE_FRAME_SIZE;
    if (changed) {
        size = change_state(first, size, where / 2, difference);
    }
    enum kelpie_status status = fake_driver_load(device, first, size);
    ASSERT(status == KELPIE_OK || changed);
    size_t again = fake_driver_save(device, second);
    if (status == KELPIE_OK) {
        ASSERT(again == size);
        ASSERT(memcmp(first, second, size) == 0);
    }
}

static void do_operation(struct run *run, enum operation operation) {
    switch (operation) {
    case OPERATION_WRITE:
        do_write(run);
        break;
    case OPERATION_REQUEST:
        do_request(run);
        break;
    case OPERATION_CHAIN:
        do_chain(run);
        break;
    case OPERATION_KICK:
        fake_driver_kick(&world.driver, some_queue(run));
        break;
    case OPERATION_TURN:
        do_turn();
        break;
    case OPERATION_PEER_SEND:
        do_peer_send(run);
        break;
    case OPERATION_PEER_READ:
        do_peer_read(run);
        break;
    case OPERATION_CONFIG:
        do_config(run);
        break;
    case OPERATION_DAMAGE:
        do_damage(run);
        break;
    case OPERATION_SAVE:
        do_save(run);
        break;
    case OPERATION_RESET:
        fake_driver_attach(&world.driver, &world.unit.device,
                           (uint64_t)cursor_read_u32(&run->reader));
        break;
    case OPERATION_COUNT:
    default:
        UNREACHABLE();
    }
}

static void check(enum kind kind) {
    for (uint16_t i = 0; i < world.unit.device.ops->queue_count; i++) {
        ASSERT(world.unit.device.queues[i].in_flight == 0);
    }
    if (kind == KIND_BLK || kind == KIND_BLK_READ_ONLY || kind == KIND_BLK_OVERLAID) {
        ASSERT(lseek(world.disk_fd, 0, SEEK_END) == DISK_SIZE);
    }
    if (kind == KIND_BLK_OVERLAID) {
        ASSERT(lseek(world.overlay_fd, 0, SEEK_END) == DISK_SIZE);
    }
    if (kind == KIND_BLK_READ_ONLY || kind == KIND_BLK_OVERLAID) {
        ASSERT(lseek(world.disk_fd, 0, SEEK_DATA) == -1); /* all of it is a hole, still */
        ASSERT(errno == ENXIO);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct run run = {.reader = cursor_reader_init(data, size)};
    uint8_t first = cursor_read_u8(&run.reader);
    if (!world.made) {
        make_world();
    }
    run.kind = first % KIND_COUNT;
    clean_world(run.kind);
    enum kelpie_status status = init_unit(run.kind);
    ASSERT(status == KELPIE_OK);
    fake_driver_attach(&world.driver, &world.unit.device, UINT32_MAX);
    for (int i = 0; i < OPERATION_COUNT_MAX && cursor_reader_left(&run.reader) > 0; i++) {
        do_operation(&run, cursor_read_u8(&run.reader) % OPERATION_COUNT);
    }
    do_turn();
    check(run.kind);
    deinit_unit(run.kind);
    return 0;
}
