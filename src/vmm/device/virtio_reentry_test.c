/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Hazard A10: a device that is made to work on its own registers, or is entered again while it works. All devices
 * stand behind their transports at their places in the real map, with so much memory that the hole lies within it.
 * First a driver gives each of them addresses in the windows and across the hole's ends; then a kick
 * comes from within a completion.
 */
#include "vmm/device/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/fake_driver.h"
#include "vmm/device/virtio_balloon.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_mmio.h"
#include "vmm/device/virtio_net.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/device/virtio_vsock.h"

#define MEMORY_SIZE (VMM_MEMORY_LOW_END + 2 * VMM_PAGE_SIZE)
#define TABLE_GPA FAKE_DATA_GPA
#define DATA_GPA (FAKE_DATA_GPA + 0x1000)
#define DISK_SIZE 4096
#define VSOCK_RX 0
#define VSOCK_TX 1
#define VSOCK_EVENT 2
#define GUEST_CID 3

enum { VSOCK, RNG, BALLOON, BLK, NET, DEVICE_COUNT };

struct machine {
    struct fake_driver driver;
    struct bus bus;
    struct virtio_vsock vsock;
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_blk blk;
    struct virtio_net net;
    struct virtio_device *devices[DEVICE_COUNT];
    struct virtio_mmio transports[DEVICE_COUNT];
    int disk_fd;
    int net_fds[2]; /* ours, the peer's */
};

static uint64_t window_of(size_t device) {
    return VMM_MMIO_BASE + device * VMM_MMIO_WINDOW_SIZE;
}

static void open_memory(struct machine *machine) {
    fake_driver_open(&machine->driver, false);
    munmap(machine->driver.memory.host, FAKE_MEMORY_SIZE);
    void *host = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    memory_init(&machine->driver.memory, host, MEMORY_SIZE);
    assert_int_equal(machine->driver.memory.region_count, 2);
}

static void open_devices(struct machine *machine, struct device_irq irq) {
    struct fake_driver *driver = &machine->driver;
    const struct virtio_vsock_config vsock = {.memory = &driver->memory,
                                              .io = &driver->io,
                                              .irq = irq,
                                              .guest_cid = GUEST_CID,
                                              .listen_fd = -1};
    const struct virtio_balloon_options balloon = {.memory_is_shared = false};
    const struct virtio_blk_options blk = {.fd = machine->disk_fd};
    const struct virtio_net_options net = {.backend = VIRTIO_NET_TAP,
                                           .fd = machine->net_fds[0],
                                           .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
    assert_int_equal(virtio_vsock_init(&machine->vsock, &vsock, NULL), KELPIE_OK);
    assert_int_equal(virtio_rng_init(&machine->rng, &driver->memory, irq, &driver->io, NULL),
                     KELPIE_OK);
    assert_int_equal(
        virtio_balloon_init(&machine->balloon, &balloon, &driver->memory, irq, &driver->io, NULL),
        KELPIE_OK);
    assert_int_equal(virtio_blk_init(&machine->blk, &blk, &driver->memory, irq, &driver->io, NULL),
                     KELPIE_OK);
    assert_int_equal(virtio_net_init(&machine->net, &net, &driver->memory, irq, &driver->io, NULL),
                     KELPIE_OK);
}

static struct machine *machine_open(struct device_irq irq) {
    static struct machine machine;
    memset(&machine, 0, sizeof(machine));
    open_memory(&machine);
    machine.disk_fd = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(machine.disk_fd, DISK_SIZE), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, machine.net_fds), 0);
    open_devices(&machine, irq.trigger ? irq : fake_driver_irq(&machine.driver));
    struct virtio_device *devices[DEVICE_COUNT] = {&machine.vsock.device, &machine.rng.device,
                                                   &machine.balloon.device, &machine.blk.device,
                                                   &machine.net.device};
    memcpy(machine.devices, devices, sizeof(devices));
    bus_init(&machine.bus);
    for (size_t i = 0; i < DEVICE_COUNT; i++) {
        virtio_mmio_init(&machine.transports[i], machine.devices[i]);
        bus_add(&machine.bus, window_of(i), VMM_MMIO_WINDOW_SIZE, &virtio_mmio_ops,
                &machine.transports[i]);
    }
    return &machine;
}

static void machine_close(struct machine *machine) {
    for (size_t i = 0; i < DEVICE_COUNT; i++) {
        virtio_device_reset(machine->devices[i]);
    }
    virtio_vsock_deinit(&machine->vsock);
    virtio_rng_deinit(&machine->rng);
    virtio_balloon_deinit(&machine->balloon);
    virtio_blk_deinit(&machine->blk);
    virtio_net_deinit(&machine->net);
    io_deinit(&machine->driver.io);
    munmap(machine->driver.memory.host, MEMORY_SIZE);
    close(machine->disk_fd);
    close(machine->net_fds[0]);
    close(machine->net_fds[1]);
}

static void kick(struct machine *machine, size_t device, uint32_t queue_index) {
    uint64_t gpa = window_of(device) + VIRTIO_MMIO_QUEUE_NOTIFY;
    assert_true(bus_write(&machine->bus, gpa, &queue_index, sizeof(queue_index)));
}

/* ---- Addresses that are no memory -------------------------------------------------------------- */

struct place {
    uint64_t gpa;
    uint32_t size;
};

static const struct place places[] = {
    {VMM_MMIO_BASE + 0 * VMM_MMIO_WINDOW_SIZE + VIRTIO_MMIO_QUEUE_NOTIFY, 4},
    {VMM_MMIO_BASE + 1 * VMM_MMIO_WINDOW_SIZE + VIRTIO_MMIO_QUEUE_NOTIFY, 4},
    {VMM_MMIO_BASE + 2 * VMM_MMIO_WINDOW_SIZE + VIRTIO_MMIO_QUEUE_NOTIFY, 4},
    {VMM_MMIO_BASE + 3 * VMM_MMIO_WINDOW_SIZE + VIRTIO_MMIO_QUEUE_NOTIFY, 4},
    {VMM_MMIO_BASE + 4 * VMM_MMIO_WINDOW_SIZE + VIRTIO_MMIO_QUEUE_NOTIFY, 4},
    {VMM_MMIO_BASE, VMM_MMIO_WINDOW_SIZE},
    {VMM_IOAPIC_GPA, 16},
    {VMM_LAPIC_GPA, VMM_PAGE_SIZE},
    {VMM_MEMORY_LOW_END, 16},
    {VMM_MEMORY_LOW_END + 16, 16},
    {VMM_MEMORY_LOW_END - 8, 16},    /* into the hole */
    {VMM_MEMORY_HIGH_START - 8, 16}, /* out of it */
    {VMM_MEMORY_HIGH_START - 1, 1},
    {VMM_MEMORY_LOW_END - VMM_PAGE_SIZE, 0x40000000u + 2 * VMM_PAGE_SIZE}, /* over all of it */
};
static_assert(DEVICE_COUNT == 5, "the places have a window of each");

/* What makes the device pop from the queue, beside a kick of it. */
static void provoke(struct machine *machine, size_t device, uint16_t queue_index) {
    static const uint8_t frame[64] = {0x52, 0x54};
    struct fake_driver *driver = &machine->driver;
    if (device == NET && queue_index == VIRTIO_NET_QUEUE_RX) {
        assert_int_equal(write(machine->net_fds[1], frame, sizeof(frame)), sizeof(frame));
    } else if (device == VSOCK && queue_index == VSOCK_RX) {
        const struct vsock_packet packet = {.src_cid = GUEST_CID,
                                            .dst_cid = VSOCK_CID_HOST,
                                            .src_port = 7,
                                            .dst_port = 8,
                                            .type = VSOCK_TYPE_STREAM,
                                            .op = VSOCK_OP_REQUEST};
        const struct fake_part part = {DATA_GPA, VSOCK_HEADER_SIZE, false};
        vsock_packet_encode(&packet, fake_driver_at(driver, DATA_GPA));
        fake_driver_add(driver, VSOCK_TX, &part, 1);
    } else if (device == VSOCK && queue_index == VSOCK_EVENT) {
        machine->vsock.reset_owed = true;
    }
}

/* The part is offered, straight or by an indirect table: the queue breaks, nothing comes back, and no other device
 * has changed. */
static void expect_refused(struct machine *machine, size_t device, uint16_t queue_index,
                           const struct fake_part *part) {
    static struct virtio_device others[DEVICE_COUNT];
    struct virtio_device *target = machine->devices[device];
    struct fake_driver *driver = &machine->driver;
    provoke(machine, device, queue_index);
    fake_driver_add(driver, queue_index, part, 1);
    for (size_t i = 0; i < DEVICE_COUNT; i++) {
        others[i] = *machine->devices[i];
    }
    kick(machine, device, queue_index);
    assert_true(fake_driver_turns(driver));
    assert_true(target->queues[queue_index].broken);
    assert_true((target->status & VIRTIO_STATUS_NEEDS_RESET) != 0);
    assert_int_equal(target->queues[queue_index].in_flight, 0);
    assert_int_equal(fake_driver_used_count(driver, queue_index), 0);
    for (size_t i = 0; i < DEVICE_COUNT; i++) {
        if (i != device) {
            assert_memory_equal(&others[i], machine->devices[i], sizeof(others[i]));
        }
    }
}

static void attack_queue(struct machine *machine, size_t device, uint16_t queue_index) {
    struct virtio_device *target = machine->devices[device];
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        for (int writable = 0; writable < 2; writable++) {
            const struct fake_part part = {places[i].gpa, places[i].size, writable != 0};
            fake_driver_attach(&machine->driver, target, VIRTIO_BALLOON_F_REPORTING);
            expect_refused(machine, device, queue_index, &part);
        }
    }
}

static void hazard_a10_no_device_reaches_a_register(void **state) {
    (void)state;
    struct machine *machine = machine_open((struct device_irq){0});
    for (size_t device = 0; device < DEVICE_COUNT; device++) {
        for (uint16_t i = 0; i < machine->devices[device]->ops->queue_count; i++) {
            attack_queue(machine, device, i);
        }
    }
    machine_close(machine);
}

/* The last bytes below the hole, the one place of the list where memory begins and goes on for a while. */
static bool begins_in_memory(size_t place) {
    return places[place].gpa == VMM_MEMORY_LOW_END - VMM_PAGE_SIZE;
}

/* An indirect table that is a device's window, or ends in the hole. What the mapping has on both sides of the hole would
 * be a good one. */
static void hazard_a10_no_table_is_a_register(void **state) {
    (void)state;
    struct machine *machine = machine_open((struct device_irq){0});
    struct fake_driver *driver = &machine->driver;
    for (uint64_t offset = VMM_MEMORY_LOW_END - VMM_PAGE_SIZE; offset < MEMORY_SIZE; offset += 16) {
        static const struct fake_part part = {DATA_GPA, 16, true};
        memcpy(driver->memory.host + offset, &part.gpa, 8);
        memcpy(driver->memory.host + offset + 8, &part.size, 4);
        driver->memory.host[offset + 12] = 2; /* WRITE */
    }
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        uint64_t gpa = places[i].gpa & ~0xfull;
        fake_driver_attach(driver, &machine->rng.device, VIRTIO_F_INDIRECT_DESC);
        machine->rng.device.queues[0].indirect = true;
        fake_driver_add(driver, 0, &(struct fake_part){gpa, 32, false}, 1);
        *(uint8_t *)fake_driver_at(driver, 12) = 4; /* INDIRECT, of the first descriptor */
        kick(machine, RNG, 0);
        assert_int_equal(machine->rng.device.queues[0].broken, !begins_in_memory(i));
    }
    machine_close(machine);
}

/* The rings themselves. */
static void hazard_a10_no_ring_is_a_register(void **state) {
    (void)state;
    struct machine *machine = machine_open((struct device_irq){0});
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        for (int which = 0; which < 3; which++) {
            struct virtqueue queue;
            uint64_t gpa = places[i].gpa & ~0xfull;
            virtqueue_init(&queue, &machine->driver.memory, 16);
            queue.size = 16;
            queue.descriptors_gpa = which == 0 ? gpa : 0;
            queue.available_gpa = which == 1 ? gpa : 0x1000;
            queue.used_gpa = which == 2 ? gpa : 0x2000;
            assert_int_equal(virtqueue_enable(&queue), begins_in_memory(i));
        }
    }
    machine_close(machine);
}

/* Page numbers that a driver puts into the balloon: nothing is dropped at a register's. */
static void hazard_a10_the_balloon_drops_memory_only(void **state) {
    (void)state;
    struct machine *machine = machine_open((struct device_irq){0});
    struct fake_driver *driver = &machine->driver;
    uint32_t pages[ARRAY_SIZE(places)];
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (places[i].gpa >= VMM_MEMORY_LOW_END && places[i].gpa < VMM_MEMORY_HIGH_START) {
            pages[count++] = (uint32_t)(places[i].gpa >> VIRTIO_BALLOON_PAGE_SHIFT);
        }
    }
    assert_true(count > DEVICE_COUNT);
    fake_driver_attach(driver, &machine->balloon.device, 0);
    memcpy(fake_driver_at(driver, DATA_GPA), pages, count * sizeof(pages[0]));
    const struct fake_part part = {DATA_GPA, (uint32_t)(count * sizeof(pages[0])), false};
    fake_driver_add(driver, VIRTIO_BALLOON_QUEUE_INFLATE, &part, 1);
    kick(machine, BALLOON, VIRTIO_BALLOON_QUEUE_INFLATE);
    assert_int_equal(fake_driver_used_count(driver, VIRTIO_BALLOON_QUEUE_INFLATE), 1);
    assert_int_equal(machine->balloon.dropped_pages, 0);
    machine_close(machine);
}

/* ---- A kick from within a completion ------------------------------------------------------------ */

#define DEPTH_GIVEN_UP 64u
#define DEPTH_MAX 2u /* the loop's handler, and one kick in its completion */

/* A line whose end is a driver that is never content: at each interrupt it offers one more chain and kicks. */
static struct {
    struct machine *machine; /* NULL: it is content */
    size_t device;
    unsigned depth;
    unsigned depth_max;
    unsigned interrupts;
    bool resets;
    int kick_fd; /* -1: it kicks by a write */
} line;

static void offer(void) {
    static const struct fake_part parts[] = {{DATA_GPA, 16, false}, {TABLE_GPA, 16, true}};
    bool header = line.device == BLK;
    fake_driver_add(&line.machine->driver, 0, header ? parts : parts + 1, header ? 2 : 1);
}

static void on_interrupt(void *context) {
    (void)context;
    line.interrupts++;
    if (!line.machine || line.depth == DEPTH_GIVEN_UP) {
        return;
    }
    line.depth++;
    line.depth_max = line.depth > line.depth_max ? line.depth : line.depth_max;
    offer();
    if (line.kick_fd >= 0) {
        assert_int_equal(eventfd_write(line.kick_fd, 1), 0);
    } else {
        const uint32_t zero = 0;
        kick(line.machine, line.device, 0);
        virtio_mmio_notify(&line.machine->transports[line.device], 0);
        if (line.resets) { /* 0x70: the status */
            assert_true(
                bus_write(&line.machine->bus, window_of(line.device) + 0x70, &zero, sizeof(zero)));
        }
    }
    line.depth--;
}

static struct machine *begin(size_t device, bool resets) {
    struct machine *machine = machine_open((struct device_irq){on_interrupt, &line});
    memset(&line, 0, sizeof(line));
    line.machine = machine;
    line.device = device;
    line.resets = resets;
    line.kick_fd = -1;
    fake_driver_attach(&machine->driver, machine->devices[device], 0);
    return machine;
}

static void hazard_a10_a_kick_within_a_completion(void **state) {
    static const size_t devices[] = {RNG, BALLOON, BLK};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
        for (int resets = 0; resets < 2; resets++) {
            struct machine *machine = begin(devices[i], resets != 0);
            offer();
            kick(machine, devices[i], 0);
            assert_int_equal(line.depth_max, 1);
            assert_int_equal(line.interrupts, 1);
            assert_true(machine->devices[devices[i]]->active); /* it was not reset beneath itself */
            line.resets = false;
            kick(machine, devices[i], 0); /* what was offered meanwhile is not lost */
            assert_int_equal(fake_driver_used_count(&machine->driver, 0), 2);
            line.machine = NULL;
            machine_close(machine);
        }
    }
}

/* The same when the loop has called the device, which its transport knows nothing of. */
static void hazard_a10_a_kick_within_a_handler_of_the_loop(void **state) {
    (void)state;
    struct machine *machine = begin(RNG, false);
    for (int i = 0; i <= VIRTIO_RNG_BURST_COUNT_MAX; i++) {
        offer();
    }
    kick(machine, RNG, 0); /* one piece of work; the rest is the loop's */
    assert_true(io_turn(&machine->driver.io, 0) > 0);
    assert_in_range(line.depth_max, 1, DEPTH_MAX);
    line.machine = NULL;
    machine_close(machine);
}

static void on_kick(void *context, uint32_t events) {
    struct virtio_mmio *transport = context;
    eventfd_t count = 0;
    assert_true(events != 0);
    (void)!eventfd_read(line.kick_fd, &count);
    virtio_mmio_notify(transport, 0);
}

/* As the machine has it: kicks are events of the loop. However eager the driver, each turn is one piece of work. */
static void hazard_a10_kicks_by_events_take_turns(void **state) {
    (void)state;
    struct machine *machine = begin(RNG, false);
    line.kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(line.kick_fd >= 0);
    struct io_source source = {
        .fd = line.kick_fd, .handler = on_kick, .context = &machine->transports[RNG]};
    assert_int_equal(io_add(&machine->driver.io, &source, EPOLLIN, NULL), KELPIE_OK);
    offer();
    assert_int_equal(eventfd_write(line.kick_fd, 1), 0);
    for (unsigned i = 1; i <= 1000; i++) {
        assert_int_equal(io_turn(&machine->driver.io, 0), 1);
        assert_int_equal(line.interrupts, i);
        assert_int_equal(line.depth_max, 1);
    }
    io_remove(&machine->driver.io, &source);
    close(line.kick_fd);
    line.machine = NULL;
    machine_close(machine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_a10_no_device_reaches_a_register),
        cmocka_unit_test(hazard_a10_no_table_is_a_register),
        cmocka_unit_test(hazard_a10_no_ring_is_a_register),
        cmocka_unit_test(hazard_a10_the_balloon_drops_memory_only),
        cmocka_unit_test(hazard_a10_a_kick_within_a_completion),
        cmocka_unit_test(hazard_a10_a_kick_within_a_handler_of_the_loop),
        cmocka_unit_test(hazard_a10_kicks_by_events_take_turns),
    };
    return cmocka_run_group_tests_name("virtio re-entry", tests, NULL, NULL);
}
