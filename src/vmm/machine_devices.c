/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The machine's lines and devices, and what the guest does with them. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/confine.h"
#include "vmm/machine.h"

#define GUEST_CID 3 /* the first that is free for guests (virtio 1.2, 5.10.4) */

/* ---- What the guest does ---------------------------------------------------------------------- */

/* The guest wrote to a port that ends machines. Within its access. */
static void on_reset(void *context) {
    struct machine *machine = context;
    ASSERT(machine->threads_started);
    struct vcpu_threads *threads = &machine->threads;
    if (machine->reset.panicked) {
        vcpu_threads_stop(threads, VCPU_STOP_CRASHED, "the guest's kernel panicked");
    } else if (machine->reset.kind == RESET_REBOOT) {
        vcpu_threads_stop(threads, VCPU_STOP_RESET, "the guest reset its machine");
    } else {
        ASSERT(machine->reset.kind == RESET_POWER_OFF);
        vcpu_threads_stop(threads, VCPU_STOP_SHUTDOWN, "the guest powered off");
    }
}

static void port_read(void *context, uint16_t port, void *data, uint32_t size) {
    struct machine *machine = context;
    ASSERT(machine);
    ASSERT(data);
    machine_lock(machine);
    (void)bus_read(&machine->ports, port, data, size);
    machine_unlock(machine);
}

static void port_write(void *context, uint16_t port, const void *data, uint32_t size) {
    struct machine *machine = context;
    ASSERT(machine);
    ASSERT(data);
    machine_lock(machine);
    (void)bus_write(&machine->ports, port, data, size);
    machine_unlock(machine);
}

static void mmio_read(void *context, uint64_t gpa, void *data, uint32_t size) {
    struct machine *machine = context;
    ASSERT(machine);
    ASSERT(data);
    machine_lock(machine);
    (void)bus_read(&machine->mmio, gpa, data, size);
    machine_unlock(machine);
}

static void mmio_write(void *context, uint64_t gpa, const void *data, uint32_t size) {
    struct machine *machine = context;
    ASSERT(machine);
    ASSERT(data);
    machine_lock(machine);
    (void)bus_write(&machine->mmio, gpa, data, size);
    machine_unlock(machine);
}

/* A console that nobody reads at present loses what comes; it never stops the guest (hazard A13). */
static void serial_out(void *context, uint8_t byte) {
    ASSERT(context);
    (void)!send(CONTROL_CHILD_CONSOLE, &byte, sizeof(byte), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The same for a piece; what does not fit is lost. */
static void console_out(void *context, const void *data, size_t size) {
    ASSERT(context);
    ASSERT(data && size > 0);
    (void)!send(CONTROL_CHILD_CONSOLE, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- Lines ------------------------------------------------------------------------------------ */

static void raise_line(void *context) {
    ASSERT(context);
    int fd = *(int *)context;
    const uint64_t one = 1;
    ASSERT(fd >= 0);
    (void)!write(fd, &one, sizeof(one)); /* a full counter is a raised line */
}

/* The line of a GSI; made at its first use. */
static enum kelpie_status line_of(struct machine *machine, uint32_t gsi, struct device_irq *ret,
                                  struct kelpie_error *err) {
    ASSERT(gsi < VMM_GSI_COUNT);
    ASSERT(ret);
    if (machine->irq_fds[gsi] < 0) {
        TRY(kvm_irq_add(&machine->kvm, gsi, &machine->irq_fds[gsi], err));
    }
    *ret = (struct device_irq){.trigger = raise_line, .context = &machine->irq_fds[gsi]};
    return KELPIE_OK;
}

static void on_kick(void *context, uint32_t events) {
    struct machine_kick *kick = context;
    uint64_t count = 0;
    (void)events;
    ASSERT(kick->transport);
    ASSERT(kick->source.fd >= 0);
    (void)!read(kick->source.fd, &count, sizeof(count));
    virtio_mmio_notify(kick->transport, kick->queue_index);
}

static enum kelpie_status add_kick(struct machine *machine, struct virtio_mmio *transport,
                                   uint64_t base, uint16_t queue_index, struct kelpie_error *err) {
    ASSERT(machine->kick_count < MACHINE_KICK_COUNT_MAX);
    ASSERT(base % VMM_MMIO_WINDOW_SIZE == 0);
    struct machine_kick *kick = &machine->kicks[machine->kick_count];
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot make an event");
    }
    *kick = (struct machine_kick){
        .transport = transport,
        .queue_index = queue_index,
        .source = {.fd = fd, .handler = on_kick, .context = kick},
    };
    machine->kick_count++;
    const uint32_t match = queue_index;
    TRY(kvm_ioeventfd_add(&machine->kvm, base + VIRTIO_MMIO_QUEUE_NOTIFY, &match, fd, err));
    return io_add(&machine->io, &kick->source, EPOLLIN, err);
}

/* ---- Devices ---------------------------------------------------------------------------------- */

/* The line that the next device will have. */
static enum kelpie_status next_line(struct machine *machine, struct device_irq *ret,
                                    struct kelpie_error *err) {
    ASSERT(machine->transport_count < VMM_MMIO_DEVICE_COUNT_MAX);
    ASSERT(ret);
    return line_of(machine, (uint32_t)(VMM_MMIO_GSI_BASE + machine->transport_count), ret, err);
}

static enum kelpie_status add_virtio(struct machine *machine, struct virtio_device *device,
                                     struct kelpie_error *err) {
    ASSERT(machine->transport_count < VMM_MMIO_DEVICE_COUNT_MAX);
    ASSERT(device->ops);
    size_t index = machine->transport_count++;
    uint64_t base = VMM_MMIO_BASE + index * VMM_MMIO_WINDOW_SIZE;
    struct virtio_mmio *transport = &machine->transports[index];
    virtio_mmio_init(transport, device);
    bus_add(&machine->mmio, base, VMM_MMIO_WINDOW_SIZE, &virtio_mmio_ops, transport);
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        TRY(add_kick(machine, transport, base, i, err));
    }
    return KELPIE_OK;
}

/* The disk's descriptors, which are the machine's from now on. */
static enum kelpie_status take_disk(struct machine_files *files, size_t index,
                                    struct virtio_blk_options *options, struct kelpie_error *err) {
    const enum control_role role = control_role_of_disk(CONTROL_ROLE_DISK_0, index);
    ASSERT(index < VMM_DISK_COUNT_MAX);
    ASSERT(!options->overlaid);
    TRY(machine_file_check(files, role, err));
    options->fd = machine_file_take(files, role);
    options->overlay_fd =
        machine_file_take(files, control_role_of_disk(CONTROL_ROLE_OVERLAY_0, index));
    options->bitmap_fd =
        machine_file_take(files, control_role_of_disk(CONTROL_ROLE_BITMAP_0, index));
    options->overlaid = options->overlay_fd >= 0 || options->bitmap_fd >= 0;
    if (options->overlaid &&
        (options->read_only || options->overlay_fd < 0 || options->bitmap_fd < 0)) {
        return error_set(err, KELPIE_INTERNAL, "disk %zu has a half of an overlay, or wants none",
                         index);
    }
    return KELPIE_OK;
}

/* The device and the loop never wait for the descriptor. */
static enum kelpie_status add_network(struct machine *machine, struct machine_files *files,
                                      struct kelpie_error *err) {
    const struct control_machine *config = &machine->config;
    ASSERT(config->network != CONTROL_NETWORK_NONE);
    static_assert(VIRTIO_NET_MAC_SIZE == MAC_SIZE, "one size");
    struct device_irq irq;
    TRY(machine_file_check(files, CONTROL_ROLE_NETWORK, err));
    struct virtio_net_options options = {
        .backend = config->network == CONTROL_NETWORK_TAP ? VIRTIO_NET_TAP : VIRTIO_NET_STREAM,
        .fd = machine_file_take(files, CONTROL_ROLE_NETWORK),
    };
    memcpy(options.mac, config->mac, sizeof(options.mac));
    int flags = fcntl(options.fd, F_GETFL);
    if (flags < 0 || fcntl(options.fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return error_set_os(err, errno, "cannot use the network's descriptor");
    }
    TRY(next_line(machine, &irq, err));
    TRY(virtio_net_init(&machine->network, &options, &machine->memory, irq, &machine->io, err));
    ASSERT(machine->network.link_up);
    return add_virtio(machine, &machine->network.device, err);
}

static enum kelpie_status add_disk(struct machine *machine, size_t index,
                                   struct machine_files *files, struct kelpie_error *err) {
    ASSERT(index < VMM_DISK_COUNT_MAX);
    ASSERT(index < machine->config.disk_count);
    struct device_irq irq;
    struct virtio_blk_options options = {
        .read_only = machine->config.disk_read_only[index],
        .id = "kelpie-disk-",
    };
    options.id[strlen(options.id)] = (char)('0' + index);
    TRY(take_disk(files, index, &options, err));
    TRY(next_line(machine, &irq, err));
    TRY(virtio_blk_init(&machine->disks[index], &options, &machine->memory, irq, &machine->io,
                        err));
    return add_virtio(machine, &machine->disks[index].device, err);
}

/* Behind all disks, so that theirs are the names that the caller counts on. */
static enum kelpie_status add_medium(struct machine *machine, struct machine_files *files,
                                     struct kelpie_error *err) {
    ASSERT(machine->config.has_medium);
    ASSERT(machine->memory.host);
    struct device_irq irq;
    TRY(machine_file_check(files, CONTROL_ROLE_MEDIUM, err));
    const struct virtio_blk_options options = {.fd = machine_file_take(files, CONTROL_ROLE_MEDIUM),
                                               .read_only = true,
                                               .id = "kelpie-medium"};
    TRY(next_line(machine, &irq, err));
    TRY(virtio_blk_init(&machine->medium, &options, &machine->memory, irq, &machine->io, err));
    TRY(add_virtio(machine, &machine->medium.device, err));
    const struct virtio_console_line line = {.output = console_out, .context = machine};
    TRY(next_line(machine, &irq, err));
    TRY(virtio_console_init(&machine->console, line, &machine->memory, irq, &machine->io, err));
    return add_virtio(machine, &machine->console.device, err);
}

static enum kelpie_status add_vsock(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->transport_count == 0);
    ASSERT(machine->memory.host);
    struct virtio_vsock_config config = {
        .memory = &machine->memory, .io = &machine->io, .guest_cid = GUEST_CID, .listen_fd = -1};
    TRY(next_line(machine, &config.irq, err));
    TRY(virtio_vsock_init(&machine->vsock, &config, err));
    TRY(virtio_vsock_port_add(&machine->vsock, machine->config.channel_port, CONTROL_CHILD_CHANNEL,
                              err));
    return add_virtio(machine, &machine->vsock.device, err);
}

enum kelpie_status machine_add_fixed_devices(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->transport_count == 0);
    ASSERT(machine->memory.host);
    struct device_irq irq;
    TRY(add_vsock(machine, err));
    TRY(next_line(machine, &irq, err));
    TRY(virtio_rng_init(&machine->rng, &machine->memory, irq, &machine->io, err));
    TRY(add_virtio(machine, &machine->rng.device, err));
    const struct virtio_balloon_options balloon = {.memory_is_shared = false};
    TRY(next_line(machine, &irq, err));
    TRY(virtio_balloon_init(&machine->balloon, &balloon, &machine->memory, irq, &machine->io, err));
    TRY(add_virtio(machine, &machine->balloon.device, err));
    TRY(line_of(machine, VMM_SERIAL_GSI, &irq, err));
    serial_init(&machine->serial, irq,
                (struct serial_line){.output = serial_out, .context = machine});
    bus_add(&machine->ports, VMM_SERIAL_PORT, SERIAL_PORT_COUNT, &serial_ops, &machine->serial);
    reset_init(&machine->reset, on_reset, machine);
    reset_attach(&machine->reset, &machine->ports);
    return line_of(machine, VMM_GENERATION_GSI, &irq, err);
}

enum kelpie_status machine_add_files(struct machine *machine, struct machine_files *files,
                                     struct kelpie_error *err) {
    ASSERT(machine->config.disk_count <= VMM_DISK_COUNT_MAX);
    ASSERT(machine->transport_count > 0);
    if (machine->config.network != CONTROL_NETWORK_NONE) {
        TRY(add_network(machine, files, err));
    }
    for (size_t i = 0; i < machine->config.disk_count; i++) {
        TRY(add_disk(machine, i, files, err));
    }
    if (machine->config.has_medium) {
        TRY(add_medium(machine, files, err));
    }
    return KELPIE_OK;
}

struct vcpu_ops machine_vcpu_ops(struct machine *machine) {
    ASSERT(machine);
    ASSERT(!machine->threads_started);
    return (struct vcpu_ops){port_read,  port_write, mmio_read,
                             mmio_write, machine,    confine_vcpu_thread};
}
