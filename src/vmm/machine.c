/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/acpi/acpi.h"
#include "vmm/boot/boot.h"
#include "vmm/confine.h"

#define GUEST_CID 3 /* the first that is free for guests (virtio 1.2, 5.10.4) */

void machine_lock(void *context) {
    struct machine *machine = context;
    ASSERT(machine);
    int result = pthread_mutex_lock(&machine->lock);
    ASSERT(result == 0);
}

void machine_unlock(void *context) {
    struct machine *machine = context;
    ASSERT(machine);
    int result = pthread_mutex_unlock(&machine->lock);
    ASSERT(result == 0);
}

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

static enum kelpie_status add_disk(struct machine *machine, size_t index,
                                   struct kelpie_error *err) {
    ASSERT(index < VMM_DISK_COUNT_MAX);
    ASSERT(index < machine->config.disk_count);
    struct device_irq irq;
    struct virtio_blk_options options = {
        .fd = CONTROL_CHILD_DISK_0 + (int)index,
        .read_only = machine->config.disk_read_only[index],
        .id = "kelpie-disk-",
    };
    options.id[strlen(options.id)] = (char)('0' + index);
    TRY(next_line(machine, &irq, err));
    TRY(virtio_blk_init(&machine->disks[index], &options, &machine->memory, irq, &machine->io,
                        err));
    return add_virtio(machine, &machine->disks[index].device, err);
}

/* Behind all disks, so that theirs are the names that the caller counts on. */
static enum kelpie_status add_medium(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->config.has_medium);
    ASSERT(machine->memory.host);
    struct device_irq irq;
    const struct virtio_blk_options options = {
        .fd = CONTROL_CHILD_MEDIUM, .read_only = true, .id = "kelpie-medium"};
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

/* In the order of their windows. */
static enum kelpie_status add_devices(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->config.disk_count <= VMM_DISK_COUNT_MAX);
    ASSERT(machine->transport_count == 0);
    struct device_irq irq;
    TRY(add_vsock(machine, err));
    TRY(next_line(machine, &irq, err));
    TRY(virtio_rng_init(&machine->rng, &machine->memory, irq, &machine->io, err));
    TRY(add_virtio(machine, &machine->rng.device, err));
    const struct virtio_balloon_options balloon = {.memory_is_shared = false};
    TRY(next_line(machine, &irq, err));
    TRY(virtio_balloon_init(&machine->balloon, &balloon, &machine->memory, irq, &machine->io, err));
    TRY(add_virtio(machine, &machine->balloon.device, err));
    for (size_t i = 0; i < machine->config.disk_count; i++) {
        TRY(add_disk(machine, i, err));
    }
    if (machine->config.has_medium) {
        TRY(add_medium(machine, err));
    }
    TRY(line_of(machine, VMM_SERIAL_GSI, &irq, err));
    serial_init(&machine->serial, irq,
                (struct serial_line){.output = serial_out, .context = machine});
    bus_add(&machine->ports, VMM_SERIAL_PORT, SERIAL_PORT_COUNT, &serial_ops, &machine->serial);
    reset_init(&machine->reset, on_reset, machine);
    reset_attach(&machine->reset, &machine->ports);
    return line_of(machine, VMM_GENERATION_GSI, &irq, err);
}

/* ---- Making ----------------------------------------------------------------------------------- */

static void on_end(void *context, uint32_t events) {
    struct machine *machine = context;
    ASSERT(machine->threads_started);
    ASSERT(events != 0);
    io_stop(&machine->io);
}

static const struct vcpu_ops *ops_of(struct machine *machine) {
    struct vcpu_ops *ops = &machine->ops;
    ASSERT(machine);
    ASSERT(!machine->threads_started);
    *ops = (struct vcpu_ops){port_read,  port_write, mmio_read,
                             mmio_write, machine,    confine_vcpu_thread};
    return ops;
}

static enum kelpie_status map_memory(struct machine *machine, int memory_fd,
                                     struct kelpie_error *err) {
    ASSERT(!machine->host_memory);
    ASSERT(machine->config.memory_mib > 0);
    size_t size = (size_t)machine->config.memory_mib << 20;
    int flags = MAP_PRIVATE | MAP_NORESERVE | (memory_fd < 0 ? MAP_ANONYMOUS : 0);
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, memory_fd, 0);
    if (host == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map %u MiB of memory", machine->config.memory_mib);
    }
    machine->host_memory = host;
    memory_init(&machine->memory, host, size);
    return KELPIE_OK;
}

static enum kelpie_status make_vcpus(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->config.vcpu_count <= VMM_VCPU_COUNT_MAX);
    ASSERT(!machine->vcpus);
    uint32_t count = machine->config.vcpu_count;
    machine->vcpus = calloc(count, sizeof(*machine->vcpus));
    if (!machine->vcpus) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no memory for %u vCPUs", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        TRY(vcpu_create(&machine->vcpus[i], &machine->kvm, i, count, err));
        machine->vcpu_count++;
    }
    TRY(vcpu_threads_start(&machine->threads, machine->vcpus, count, ops_of(machine), err));
    machine->threads_started = true;
    machine->end_source =
        (struct io_source){.fd = machine->threads.event_fd, .handler = on_end, .context = machine};
    return io_add(&machine->io, &machine->end_source, EPOLLIN, err);
}

enum kelpie_status machine_build(struct machine *machine, const struct control_machine *config,
                                 int memory_fd, struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(!machine->host_memory);
    machine->config = *config;
    for (size_t i = 0; i < VMM_GSI_COUNT; i++) {
        machine->irq_fds[i] = -1;
    }
    int result = pthread_mutex_init(&machine->lock, NULL);
    ASSERT(result == 0);
    bus_init(&machine->mmio);
    bus_init(&machine->ports);
    TRY(io_init(&machine->io, err));
    machine->io.lock = machine_lock;
    machine->io.unlock = machine_unlock;
    machine->io.lock_context = machine;
    TRY(map_memory(machine, memory_fd, err));
    TRY(kvm_create(&machine->kvm, CONTROL_CHILD_KVM, &machine->memory, err));
    TRY(make_vcpus(machine, err));
    return add_devices(machine, err);
}

/* The tables by which a kernel finds the machine. Those of ACPI do no harm to one that does not look for them. */
static enum kelpie_status write_tables(struct machine *machine, struct kelpie_error *err) {
    const struct control_machine *config = &machine->config;
    const struct acpi_description description = {
        .vcpu_count = config->vcpu_count,
        .mmio_device_count = (uint32_t)machine->transport_count,
        .has_serial = true,
    };
    ASSERT(machine->transport_count > 0);
    ASSERT(machine->memory.host);
    TRY(acpi_build(&machine->memory, &description, err));
    if (config->has_medium) {
        boot_mp_table_write(&machine->memory, config->vcpu_count);
    }
    if (!memory_write(&machine->memory, VMM_GENERATION_GPA, config->generation,
                      sizeof(config->generation))) {
        return error_set(err, KELPIE_INTERNAL, "cannot write the machine's generation");
    }
    return KELPIE_OK;
}

enum kelpie_status machine_boot(struct machine *machine, const struct control_machine *config,
                                const struct machine_image *image, struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(image->kernel);
    struct boot_entry entry;
    char line[BOOT_COMMAND_LINE_SIZE_MAX];
    const struct boot_image boot = {
        .kernel = {image->kernel, image->kernel_size},
        .initramfs = {image->initramfs, image->initramfs_size},
        .command_line = config->has_medium ? line : config->command_line,
        .raw_load_gpa = config->kernel_load,
        .raw_entry_gpa = config->kernel_entry,
    };
    TRY(machine_build(machine, config, -1, err));
    TRY(boot_command_line_devices(line, sizeof(line), machine->transport_count,
                                  config->command_line, err));
    TRY(boot_load(&machine->memory, &boot, &entry, err));
    TRY(write_tables(machine, err));
    const struct vcpu_boot registers = {
        .rip = entry.rip, .rsi = entry.rsi, .cr3 = BOOT_PML4_GPA, .gdt = BOOT_GDT_GPA};
    TRY(vcpu_boot(&machine->vcpus[0], &registers, err));
    return kvm_connect(&machine->kvm, err);
}

enum kelpie_status machine_resume(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->threads_started);
    ASSERT(machine->vcpu_count > 0);
    return vcpu_threads_resume(&machine->threads, err);
}

enum kelpie_status machine_pause(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->threads_started);
    ASSERT(machine->vcpu_count > 0);
    return vcpu_threads_pause(&machine->threads, err);
}
