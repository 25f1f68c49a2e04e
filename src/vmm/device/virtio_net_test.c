/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A network whose other end is the test: a socket that keeps packets apart stands for a tap, a stream for passt. */
#include "vmm/device/virtio_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/fake_driver.h"
#include "vmm/device/virtio_mmio.h"

#define RX VIRTIO_NET_QUEUE_RX
#define TX VIRTIO_NET_QUEUE_TX
#define TX_GPA FAKE_DATA_GPA
#define RX_GPA 0x80000ull
#define NET_TAG STATE_TAG('V', 'N', 'E', 'T')
#define CONFIG_STATUS 6
#define STATE_SIZE 9

static const uint8_t mac[] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct machine {
    struct fake_driver driver;
    struct virtio_net net;
    int fd;
    int peer; /* -1: closed */
};

static void machine_open(struct machine *machine, enum virtio_net_backend backend) {
    int ends[2];
    struct virtio_net_options options = {.backend = backend, .mtu = 1500};
    int type = backend == VIRTIO_NET_TAP ? SOCK_SEQPACKET : SOCK_STREAM;
    assert_int_equal(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, ends), 0);
    machine->fd = options.fd = ends[0];
    machine->peer = ends[1];
    memcpy(options.mac, mac, sizeof(mac));
    fake_driver_open(&machine->driver, false);
    assert_int_equal(virtio_net_init(&machine->net, &options, &machine->driver.memory,
                                     fake_driver_irq(&machine->driver), &machine->driver.io, NULL),
                     KELPIE_OK);
    fake_driver_attach(&machine->driver, &machine->net.device,
                       VIRTIO_NET_F_STATUS | VIRTIO_F_EVENT_IDX);
    assert_true(fake_driver_turns(&machine->driver));
}

static void machine_hang_up(struct machine *machine) {
    close(machine->peer);
    machine->peer = -1;
}

static void machine_close(struct machine *machine) {
    virtio_device_reset(&machine->net.device);
    virtio_net_deinit(&machine->net);
    fake_driver_close(&machine->driver);
    close(machine->fd);
    if (machine->peer >= 0) {
        close(machine->peer);
    }
}

/* A frame whose bytes follow from its number. */
static void fill_frame(uint8_t *bytes, size_t size, unsigned number) {
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 256 + number * 13 + 1);
    }
}

static void put_length(uint8_t *bytes, uint32_t size) {
    bytes[0] = (uint8_t)(size >> 24);
    bytes[1] = (uint8_t)(size >> 16);
    bytes[2] = (uint8_t)(size >> 8);
    bytes[3] = (uint8_t)size;
}

/* The peer sends a frame. */
static void peer_send(struct machine *machine, size_t size, unsigned number) {
    static uint8_t bytes[VIRTIO_NET_FRAME_SIZE_MAX + 100];
    bool stream = machine->net.options.backend == VIRTIO_NET_STREAM;
    size_t start = stream ? 4 : 0;
    put_length(bytes, (uint32_t)size);
    fill_frame(bytes + start, size, number);
    assert_int_equal(write(machine->peer, bytes, start + size), start + size);
}

/* The driver gives a buffer for what comes; returns its address. */
static uint64_t give_buffer(struct machine *machine, uint32_t size, unsigned index) {
    uint64_t gpa = RX_GPA + index * 4096ull;
    const struct fake_part parts[] = {{gpa, 10, true}, {gpa + 10, size - 10, true}};
    fake_driver_add(&machine->driver, RX, parts, 2);
    fake_driver_kick(&machine->driver, RX);
    return gpa;
}

static void assert_received(struct machine *machine, uint64_t gpa, size_t size, unsigned number) {
    static const uint8_t header[VIRTIO_NET_HEADER_SIZE] = {[10] = 1};
    static uint8_t expected[VIRTIO_NET_FRAME_SIZE_MAX];
    struct fake_used used;
    assert_true(fake_driver_used(&machine->driver, RX, &used));
    assert_int_equal(used.written, sizeof(header) + size);
    fill_frame(expected, size, number);
    assert_memory_equal(fake_driver_at(&machine->driver, gpa), header, sizeof(header));
    assert_memory_equal(fake_driver_at(&machine->driver, gpa + sizeof(header)), expected, size);
}

/* The driver sends a frame in three parts, the first of which ends within the header. */
static void add_frame(struct machine *machine, uint32_t size, unsigned number) {
    const struct fake_part parts[] = {
        {TX_GPA, 5, false}, {TX_GPA + 5, 10, false}, {TX_GPA + 15, size - 3, false}};
    memset(fake_driver_at(&machine->driver, TX_GPA), 0xff, VIRTIO_NET_HEADER_SIZE);
    fill_frame(fake_driver_at(&machine->driver, TX_GPA + VIRTIO_NET_HEADER_SIZE), size, number);
    fake_driver_add(&machine->driver, TX, parts, 3);
}

static bool chain_comes_back(struct machine *machine, uint16_t queue_index) {
    struct fake_used used;
    return fake_driver_used(&machine->driver, queue_index, &used);
}

static void peer_expect(struct machine *machine, size_t size, unsigned number) {
    static uint8_t expected[VIRTIO_NET_FRAME_SIZE_MAX + 4];
    static uint8_t found[VIRTIO_NET_FRAME_SIZE_MAX + 5];
    bool stream = machine->net.options.backend == VIRTIO_NET_STREAM;
    size_t start = stream ? 4 : 0;
    put_length(expected, (uint32_t)size);
    fill_frame(expected + start, size, number);
    size_t got = 0;
    for (int i = 0; i < 100000 && got < start + size; i++) {
        ssize_t result =
            read(machine->peer, found + got, stream ? start + size - got : sizeof(found));
        got += result > 0 ? (size_t)result : 0;
        (void)io_turn(&machine->driver.io, 0);
    }
    assert_int_equal(got, start + size);
    assert_memory_equal(found, expected, got);
}

static uint16_t link_status(struct machine *machine) {
    uint16_t status = 0;
    machine->net.device.ops->config_read(&machine->net.device, CONFIG_STATUS, &status, 2);
    return status;
}

/* ---- what it does -------------------------------------------------------------------------------- */

static void test_frames_go_both_ways(void **state) {
    (void)state;
    struct machine machine;
    static const uint32_t sizes[] = {14, 60, 1514, VIRTIO_NET_FRAME_SIZE_MAX};
    for (int backend = VIRTIO_NET_TAP; backend <= VIRTIO_NET_STREAM; backend++) {
        machine_open(&machine, (enum virtio_net_backend)backend);
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            uint64_t gpa = give_buffer(&machine, VIRTIO_NET_HEADER_SIZE + sizes[i], 0);
            peer_send(&machine, sizes[i], i);
            assert_true(fake_driver_turns(&machine.driver));
            assert_received(&machine, gpa, sizes[i], i);
            add_frame(&machine, sizes[i], i + 100);
            fake_driver_kick(&machine.driver, TX);
            assert_true(chain_comes_back(&machine, TX));
            peer_expect(&machine, sizes[i], i + 100);
        }
        assert_int_equal(machine.net.rx_frames, 4);
        assert_int_equal(machine.net.tx_frames, 4);
        assert_int_equal(machine.net.rx_dropped + machine.net.tx_dropped, 0);
        machine_close(&machine);
    }
}

static void test_nothing_is_read_while_the_driver_has_no_buffer(void **state) {
    (void)state;
    struct machine machine;
    for (int backend = VIRTIO_NET_TAP; backend <= VIRTIO_NET_STREAM; backend++) {
        machine_open(&machine, (enum virtio_net_backend)backend);
        for (unsigned i = 0; i < 5; i++) {
            peer_send(&machine, 100, i);
        }
        assert_true(fake_driver_turns(&machine.driver)); /* the loop does not spin */
        assert_int_equal(machine.net.watched, 0);
        for (unsigned i = 0; i < 5; i++) {
            uint64_t gpa = give_buffer(&machine, 2048, i);
            assert_true(fake_driver_turns(&machine.driver));
            assert_received(&machine, gpa, 100, i);
            assert_int_equal(fake_driver_used_count(&machine.driver, RX), 0);
        }
        assert_int_equal(machine.net.rx_dropped, 0);
        machine_close(&machine);
    }
}

static void test_a_turn_is_bounded_in_both_directions(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    for (unsigned i = 0; i < 70; i++) {
        peer_send(&machine, 14, i);
        const struct fake_part part = {RX_GPA + i * 64, 64, true};
        fake_driver_add(&machine.driver, RX, &part, 1);
    }
    fake_driver_kick(&machine.driver, RX);
    assert_int_equal(fake_driver_used_count(&machine.driver, RX), VIRTIO_NET_TURN_FRAMES_MAX);
    /* The rest is in the buffer already: the descriptor says nothing any more. */
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, RX), 70);
    const struct fake_part part = {TX_GPA, VIRTIO_NET_HEADER_SIZE + 14, false};
    for (unsigned i = 0; i < 70; i++) {
        fake_driver_add(&machine.driver, TX, &part, 1);
    }
    fake_driver_kick(&machine.driver, TX);
    assert_int_equal(fake_driver_used_count(&machine.driver, TX), VIRTIO_NET_TURN_FRAMES_MAX);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, TX), 70);
    machine_close(&machine);
}

static void test_a_stream_in_pieces_is_put_together(void **state) {
    (void)state;
    struct machine machine;
    uint8_t bytes[3 * (4 + 300)];
    machine_open(&machine, VIRTIO_NET_STREAM);
    for (unsigned i = 0; i < 3; i++) {
        put_length(bytes + i * 304, 300);
        fill_frame(bytes + i * 304 + 4, 300, i);
        give_buffer(&machine, 1000, i);
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(write(machine.peer, bytes + i, 1), 1);
        assert_true(fake_driver_turns(&machine.driver));
        assert_int_equal(fake_driver_used_count(&machine.driver, RX), (i + 1) / 304);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_received(&machine, RX_GPA + i * 4096, 300, i);
    }
    machine_close(&machine);
}

static void test_a_peer_that_does_not_read_stops_only_the_sender(void **state) {
    (void)state;
    struct machine machine;
    for (int backend = VIRTIO_NET_TAP; backend <= VIRTIO_NET_STREAM; backend++) {
        machine_open(&machine, (enum virtio_net_backend)backend);
        unsigned sent = 0;
        while (sent < 60 && !machine.net.tx_blocked) {
            add_frame(&machine, 60000, 0);
            fake_driver_kick(&machine.driver, TX);
            sent++;
        }
        assert_true(machine.net.tx_blocked);
        assert_int_equal(machine.net.device.queues[TX].in_flight, 0);
        assert_true(fake_driver_turns(&machine.driver)); /* the loop does not spin */
        /* What comes is not held up. */
        uint64_t gpa = give_buffer(&machine, 2048, 0);
        peer_send(&machine, 100, 1);
        assert_true(fake_driver_turns(&machine.driver));
        assert_received(&machine, gpa, 100, 1);
        for (unsigned i = 0; i < sent; i++) {
            peer_expect(&machine, 60000, 0);
        }
        assert_true(fake_driver_turns(&machine.driver));
        assert_false(machine.net.tx_blocked);
        assert_int_equal(fake_driver_used_count(&machine.driver, TX), sent);
        assert_int_equal(machine.net.tx_frames, sent);
        machine_close(&machine);
    }
}

static void test_a_reset_leaves_the_stream_whole(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    unsigned sent = 0;
    while (machine.net.tx_start == machine.net.tx_end) {
        assert_true(sent++ < 60);
        add_frame(&machine, 60000, 0);
        fake_driver_kick(&machine.driver, TX);
    }
    /* The rest of the last frame is ours to send, whatever becomes of the driver. */
    fake_driver_attach(&machine.driver, &machine.net.device, 0);
    add_frame(&machine, 100, 9);
    fake_driver_kick(&machine.driver, TX);
    for (unsigned i = 0; i < sent; i++) {
        peer_expect(&machine, 60000, 0);
    }
    peer_expect(&machine, 100, 9);
    machine_close(&machine);
}

static void test_frames_of_no_legal_size_are_dropped(void **state) {
    (void)state;
    struct machine machine;
    static const uint32_t chains[] = {1,     11, 12, 13, 25, 12 + VIRTIO_NET_FRAME_SIZE_MAX + 1,
                                      400000};
    for (int backend = VIRTIO_NET_TAP; backend <= VIRTIO_NET_STREAM; backend++) {
        machine_open(&machine, (enum virtio_net_backend)backend);
        for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
            const struct fake_part part = {TX_GPA, chains[i], false};
            fake_driver_add(&machine.driver, TX, &part, 1);
            fake_driver_kick(&machine.driver, TX);
            assert_true(chain_comes_back(&machine, TX));
            assert_int_equal(machine.net.tx_dropped, i + 1);
        }
        uint8_t byte = 0;
        assert_int_equal(read(machine.peer, &byte, 1), -1);
        uint64_t gpa = give_buffer(&machine, 12 + 100, 0);
        peer_send(&machine, 13, 0);
        peer_send(&machine, 101, 0); /* does not fit the driver's buffer */
        assert_true(fake_driver_turns(&machine.driver));
        assert_int_equal(machine.net.rx_dropped, 2);
        assert_int_equal(fake_driver_used_count(&machine.driver, RX), 0);
        peer_send(&machine, 100, 7);
        assert_true(fake_driver_turns(&machine.driver));
        assert_received(&machine, gpa, 100, 7);
        assert_true(machine.net.link_up);
        machine_close(&machine);
    }
}

static void test_a_frame_too_long_from_a_tap_is_dropped(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_TAP);
    give_buffer(&machine, 400000, 0);
    peer_send(&machine, VIRTIO_NET_FRAME_SIZE_MAX + 1, 0);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(machine.net.rx_dropped, 1);
    assert_true(machine.net.link_up);
    machine_close(&machine);
}

static void test_a_stream_that_lost_its_framing_ends(void **state) {
    (void)state;
    struct machine machine;
    static const uint32_t lengths[] = {VIRTIO_NET_FRAME_SIZE_MAX + 1, 0x01000000, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        uint8_t bytes[4];
        machine_open(&machine, VIRTIO_NET_STREAM);
        give_buffer(&machine, 2048, 0);
        put_length(bytes, lengths[i]);
        assert_int_equal(write(machine.peer, bytes, 4), 4);
        assert_true(fake_driver_turns(&machine.driver));
        assert_false(machine.net.link_up);
        assert_int_equal(machine.driver.interrupts, 1);
        machine_close(&machine);
    }
}

static void test_a_peer_that_is_gone_takes_the_link_down(void **state) {
    (void)state;
    struct machine machine;
    for (int i = 0; i < 4; i++) {
        machine_open(&machine, i % 2 == 0 ? VIRTIO_NET_TAP : VIRTIO_NET_STREAM);
        assert_int_equal(link_status(&machine), VIRTIO_NET_S_LINK_UP);
        if (i < 2) {
            give_buffer(&machine, 2048, 0);
        }
        machine_hang_up(&machine);
        assert_true(fake_driver_turns(&machine.driver)); /* the loop does not spin */
        assert_int_equal(link_status(&machine), 0);
        assert_int_equal(machine.driver.interrupts, 1);
        assert_int_equal(machine.net.device.interrupt_status, 2);
        add_frame(&machine, 100, 0);
        fake_driver_kick(&machine.driver, TX);
        assert_true(chain_comes_back(&machine, TX));
        assert_int_equal(machine.net.tx_dropped, 1);
        give_buffer(&machine, 2048, 1);
        /* It stays down for a driver that comes anew. */
        fake_driver_attach(&machine.driver, &machine.net.device, 0);
        assert_true(fake_driver_turns(&machine.driver));
        assert_int_equal(link_status(&machine), 0);
        machine_close(&machine);
    }
}

/* Found while sending, with chains that wait: they all come back. */
static void hazard_a7_a_peer_gone_while_chains_wait(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    for (unsigned i = 0; i < 20; i++) {
        add_frame(&machine, 60000, 0);
    }
    fake_driver_kick(&machine.driver, TX);
    assert_true(machine.net.tx_blocked);
    assert_true(fake_driver_used_count(&machine.driver, TX) < 20);
    machine_hang_up(&machine);
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(fake_driver_used_count(&machine.driver, TX), 20);
    assert_int_equal(machine.net.device.queues[TX].in_flight, 0);
    for (uint32_t i = 0; i < 20; i++) {
        struct fake_used used;
        assert_true(fake_driver_used(&machine.driver, TX, &used));
        assert_int_equal(used.head, i * 3);
        assert_int_equal(used.written, 0);
    }
    assert_int_equal(machine.net.tx_frames + machine.net.tx_dropped, 20);
    machine_close(&machine);
}

static void hazard_a7_every_chain_comes_back_once(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    const struct fake_part wrong_way = {TX_GPA, 200, true};
    fake_driver_add(&machine.driver, TX, &wrong_way, 1);
    fake_driver_kick(&machine.driver, TX);
    assert_true(chain_comes_back(&machine, TX));
    assert_int_equal(machine.net.tx_dropped, 1);
    /* A buffer that nothing can be put into stays until a frame comes that is shorter: none is. */
    const struct fake_part readable = {RX_GPA, 200, false};
    fake_driver_add(&machine.driver, RX, &readable, 1);
    fake_driver_kick(&machine.driver, RX);
    for (unsigned i = 0; i < 3; i++) {
        peer_send(&machine, 60, i);
    }
    assert_true(fake_driver_turns(&machine.driver));
    assert_int_equal(machine.net.rx_dropped, 3);
    assert_int_equal(fake_driver_used_count(&machine.driver, RX), 0);
    assert_int_equal(machine.net.device.queues[RX].in_flight, 0);
    machine_close(&machine);
}

/* A queue that the driver broke is told of, and does not make the loop spin. */
static void test_a_broken_queue_asks_for_a_reset(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    const struct fake_part nowhere = {FAKE_MEMORY_SIZE, 2000, true};
    fake_driver_add(&machine.driver, RX, &nowhere, 1);
    fake_driver_kick(&machine.driver, RX);
    peer_send(&machine, 60, 0);
    peer_send(&machine, 60, 0);
    assert_true(fake_driver_turns(&machine.driver));
    assert_true(machine.net.device.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(machine.driver.interrupts, 1);
    assert_int_equal(machine.net.rx_frames, 0);
    machine_close(&machine);
}

/* ---- hazards ------------------------------------------------------------------------------------- */

static void hazard_a3_config_space_ends(void **state) {
    (void)state;
    struct machine machine;
    static const uint64_t offsets[] = {VIRTIO_NET_CONFIG_SIZE, 100, UINT64_MAX - 7, UINT64_MAX};
    static const uint8_t zeroes[8];
    uint8_t config[VIRTIO_NET_CONFIG_SIZE];
    static const uint8_t expected[] = {0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0xdc, 5};
    machine_open(&machine, VIRTIO_NET_TAP);
    const struct virtio_ops *ops = machine.net.device.ops;
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        ops->config_write(&machine.net.device, offsets[i], bytes, 8);
        ops->config_read(&machine.net.device, offsets[i], bytes, 8);
        assert_memory_equal(bytes, zeroes, 8);
    }
    ops->config_write(&machine.net.device, 0, zeroes, 8);
    ops->config_read(&machine.net.device, 0, config, sizeof(config));
    assert_memory_equal(config, expected, sizeof(expected));
    machine_close(&machine);
}

/* A frame is as long as its chain was when it was sent, and the buffer is as long as the driver said: frames around the
 * size of the buffer, whose neighbour stays what it was. */
static void hazard_a8_a_frame_longer_than_the_buffer(void **state) {
    (void)state;
    struct machine machine;
    for (uint32_t size = 98; size < 103; size++) {
        machine_open(&machine, VIRTIO_NET_STREAM);
        uint64_t gpa = give_buffer(&machine, 12 + 100, 0);
        uint8_t *behind = fake_driver_at(&machine.driver, gpa + 12 + 100);
        *behind = 0x99;
        peer_send(&machine, size, 3);
        assert_true(fake_driver_turns(&machine.driver));
        assert_int_equal(fake_driver_used_count(&machine.driver, RX), size <= 100);
        assert_int_equal(machine.net.rx_dropped, size > 100);
        assert_int_equal(*behind, 0x99);
        machine_close(&machine);
    }
}

/* A stream that takes frames in pieces, of frames of many sizes: not a byte is lost or sent twice. */
static void hazard_a14_partial_frames_are_continued(void **state) {
    (void)state;
    struct machine machine;
    machine_open(&machine, VIRTIO_NET_STREAM);
    int size_small = 4096;
    assert_int_equal(setsockopt(machine.fd, SOL_SOCKET, SO_SNDBUF, &size_small, sizeof(size_small)),
                     0);
    unsigned blocked = 0;
    for (unsigned i = 0; i < 200; i++) {
        uint32_t size = 14 + (i * 1237) % 30000;
        add_frame(&machine, size, i);
        fake_driver_kick(&machine.driver, TX);
        blocked += machine.net.tx_start < machine.net.tx_end;
        /* What was given back is the driver's again. */
        if (fake_driver_used_count(&machine.driver, TX) > 0) {
            memset(fake_driver_at(&machine.driver, TX_GPA), 0xdd, 12 + size);
        }
        peer_expect(&machine, size, i);
        assert_true(chain_comes_back(&machine, TX));
    }
    assert_true(blocked > 50);
    assert_int_equal(machine.net.tx_frames, 200);
    machine_close(&machine);
}

static void hazard_b1_saved_state_is_checked(void **state) {
    (void)state;
    struct machine machine;
    uint8_t buffer[FAKE_STATE_SIZE_MAX];
    machine_open(&machine, VIRTIO_NET_TAP);
    static const struct {
        uint8_t payload[STATE_SIZE + 1];
        size_t size;
        enum kelpie_status status;
    } cases[] = {
        {{2, 1, 1, 1, 1, 1, 0xdc, 5, 2}, 9, KELPIE_SNAPSHOT_CORRUPT},
        {{3, 1, 1, 1, 1, 1, 0xdc, 5, 1}, 9, KELPIE_SNAPSHOT_CORRUPT}, /* a group's address */
        {{0, 0, 0, 0, 0, 0, 0xdc, 5, 1}, 9, KELPIE_SNAPSHOT_CORRUPT},
        {{2, 1, 1, 1, 1, 1, 0xdc, 5, 1}, 8, KELPIE_SNAPSHOT_CORRUPT},
        {{2, 1, 1, 1, 1, 1, 0xdc, 5, 1}, 10, KELPIE_SNAPSHOT_CORRUPT},
        {{2, 1, 1, 1, 1, 1, 0xdc, 5, 1}, 0, KELPIE_SNAPSHOT_CORRUPT},
        {{2, 1, 1, 1, 1, 1, 0xdd, 5, 1}, 9, KELPIE_SNAPSHOT_INCOMPATIBLE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t size = fake_driver_forge(NET_TAG, cases[i].payload, cases[i].size, buffer);
        assert_int_equal(fake_driver_load(&machine.net.device, buffer, size), cases[i].status);
        assert_memory_equal(machine.net.options.mac, mac, sizeof(mac));
        assert_true(machine.net.link_told);
    }
    machine_close(&machine);
}

/* Restored with chains that wait, a peer of its own, and a driver that thinks the link is down. */
static void hazard_c9_save_load_save(void **state) {
    (void)state;
    struct machine machine;
    struct machine other;
    uint8_t first[FAKE_STATE_SIZE_MAX];
    uint8_t second[FAKE_STATE_SIZE_MAX];
    machine_open(&machine, VIRTIO_NET_STREAM);
    machine_open(&other, VIRTIO_NET_STREAM);
    machine.net.options.mac[5] = 0x99;
    machine_hang_up(&machine);
    assert_true(fake_driver_turns(&machine.driver));
    size_t size = fake_driver_save(&machine.net.device, first);
    add_frame(&other, 100, 5);
    assert_int_equal(fake_driver_load(&other.net.device, first, size), KELPIE_OK);
    assert_int_equal(fake_driver_save(&other.net.device, second), size);
    assert_memory_equal(first, second, size);
    assert_int_equal(other.net.options.mac[5], 0x99);
    assert_int_equal(other.driver.interrupts, 0);
    assert_true(fake_driver_turns(&other.driver));
    assert_true(other.driver.interrupts > 0);
    assert_true(other.net.device.interrupt_status & 2); /* the link is up */
    assert_int_equal(link_status(&other), VIRTIO_NET_S_LINK_UP);
    peer_expect(&other, 100, 5);
    uint64_t gpa = give_buffer(&other, 2048, 0);
    peer_send(&other, 100, 6);
    assert_true(fake_driver_turns(&other.driver));
    assert_received(&other, gpa, 100, 6);
    machine_close(&machine);
    machine_close(&other);
}

/* All of it, as a monitor does it: the second machine is after init, and has the first one's memory. */
static void hazard_c9_save_load_save_with_the_transport(void **state) {
    (void)state;
    static struct machine machine;
    static struct machine other;
    static struct state_reader reader;
    static uint8_t saved[2][FAKE_STATE_SIZE_MAX];
    struct virtio_mmio mmio;
    size_t sizes[2] = {0};
    machine_open(&machine, VIRTIO_NET_TAP);
    machine_open(&other, VIRTIO_NET_TAP);
    virtio_device_reset(&other.net.device);
    give_buffer(&machine, 2048, 0);
    add_frame(&machine, 100, 5); /* its kick is lost */
    for (int i = 0; i < 2; i++) {
        struct state_writer writer;
        struct virtio_device *device = i == 0 ? &machine.net.device : &other.net.device;
        virtio_mmio_init(&mmio, device);
        if (i == 0) {
            mmio.driver_features = device->driver_features;
        } else {
            assert_int_equal(state_reader_init(&reader, saved[0], sizes[0], NULL), KELPIE_OK);
            assert_int_equal(virtio_mmio_load(&mmio, &reader, 3, NULL), KELPIE_OK);
            assert_int_equal(state_reader_finish(&reader, NULL), KELPIE_OK);
        }
        state_writer_init(&writer, saved[i], sizeof(saved[i]));
        virtio_mmio_save(&mmio, &writer, 3);
        assert_int_equal(state_writer_finish(&writer, &sizes[i], NULL), KELPIE_OK);
        memcpy(other.driver.memory.host, machine.driver.memory.host, FAKE_MEMORY_SIZE);
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(saved[0], saved[1], sizes[0]);
    memcpy(other.driver.queues, machine.driver.queues, sizeof(machine.driver.queues));
    peer_send(&other, 60, 8);
    peer_expect(&other, 100, 5);
    assert_true(fake_driver_turns(&other.driver));
    assert_received(&other, RX_GPA, 60, 8);
    assert_int_equal(fake_driver_used_count(&machine.driver, TX), 0);
    machine_close(&machine);
    machine_close(&other);
}

static void test_options_are_checked(void **state) {
    (void)state;
    struct machine machine;
    static struct virtio_net net;
    int ends[2];
    machine_open(&machine, VIRTIO_NET_TAP);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct virtio_net_options good = machine.net.options;
    struct virtio_net_options bad[4] = {good, good, good, good};
    bad[0].mac[0] |= 1;
    memset(bad[1].mac, 0, sizeof(bad[1].mac));
    bad[2].mtu = VIRTIO_NET_MTU_MIN - 1;
    bad[3].fd = ends[0];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(virtio_net_init(&net, &bad[i], &machine.driver.memory,
                                         fake_driver_irq(&machine.driver), &machine.driver.io,
                                         NULL),
                         KELPIE_BAD_CONFIG);
        virtio_net_deinit(&net);
    }
    close(ends[0]);
    close(ends[1]);
    machine_close(&machine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_go_both_ways),
        cmocka_unit_test(test_nothing_is_read_while_the_driver_has_no_buffer),
        cmocka_unit_test(test_a_turn_is_bounded_in_both_directions),
        cmocka_unit_test(test_a_stream_in_pieces_is_put_together),
        cmocka_unit_test(test_a_peer_that_does_not_read_stops_only_the_sender),
        cmocka_unit_test(test_a_reset_leaves_the_stream_whole),
        cmocka_unit_test(test_frames_of_no_legal_size_are_dropped),
        cmocka_unit_test(test_a_frame_too_long_from_a_tap_is_dropped),
        cmocka_unit_test(test_a_stream_that_lost_its_framing_ends),
        cmocka_unit_test(test_a_peer_that_is_gone_takes_the_link_down),
        cmocka_unit_test(test_a_broken_queue_asks_for_a_reset),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(hazard_a7_a_peer_gone_while_chains_wait),
        cmocka_unit_test(hazard_a7_every_chain_comes_back_once),
        cmocka_unit_test(hazard_a3_config_space_ends),
        cmocka_unit_test(hazard_a8_a_frame_longer_than_the_buffer),
        cmocka_unit_test(hazard_a14_partial_frames_are_continued),
        cmocka_unit_test(hazard_b1_saved_state_is_checked),
        cmocka_unit_test(hazard_c9_save_load_save),
        cmocka_unit_test(hazard_c9_save_load_save_with_the_transport),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
