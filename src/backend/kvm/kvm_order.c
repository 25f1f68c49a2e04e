/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Orders to kelpie-vmm and its answers. What is said: vmm/control.h. */
#include <stdio.h>
#include <string.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"
#include "protocol/protocol_limits.h"

#define COMMAND_LINE_MACHINE_SIZE 192

static enum kelpie_status gone(struct backend_instance *instance, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(instance->control_fd != HOST_FD_NONE);
    error_set(err, KELPIE_CRASHED, "kelpie-vmm is gone");
    return monitor_explain(&instance->monitor, NULL, KELPIE_CRASHED, err);
}

/* Reads until `size` bytes of the current answer are there. */
static enum kelpie_status read_to(struct backend_instance *instance, size_t size,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(size <= sizeof(instance->in));
    ASSERT(instance->in_size <= sizeof(instance->in));
    while (instance->in_size < size) {
        size_t count = 0;
        TRY(host_read(instance->host, instance->control_fd, instance->in + instance->in_size,
                      size - instance->in_size, wait, &count, err));
        if (count == 0) {
            return gone(instance, err);
        }
        instance->in_size += count;
    }
    return KELPIE_OK;
}

/* The next answer. TIMED_OUT and CANCELLED: it is still to come. */
static enum kelpie_status read_answer(struct backend_instance *instance,
                                      const struct host_wait *wait, enum kelpie_status *ret_status,
                                      struct kelpie_error *ret_failure, struct kelpie_error *err) {
    ASSERT(ret_status && ret_failure);
    ASSERT(instance->answers_owed > 0);
    struct control_header header = {0};
    TRY(read_to(instance, CONTROL_HEADER_SIZE, wait, err));
    bool understood = control_decode_header(instance->in, &header);
    if (understood) {
        TRY(read_to(instance, CONTROL_HEADER_SIZE + header.size, wait, err));
    }
    const uint8_t *payload = instance->in + CONTROL_HEADER_SIZE;
    *ret_status = KELPIE_OK;
    if (understood && header.type == CONTROL_FAILED) {
        understood = control_decode_failed(payload, header.size, ret_failure);
        *ret_status = ret_failure->status;
    } else if (understood) {
        understood = header.type == CONTROL_DONE && header.size == 0;
    }
    if (!understood) {
        /* A monitor that speaks nonsense may have been taken over: it is not listened to any more. */
        monitor_kill(&instance->monitor);
        return error_set(err, KELPIE_INTERNAL, "kelpie-vmm sent an answer that is none");
    }
    instance->in_size = 0;
    instance->answers_owed--;
    return KELPIE_OK;
}

static enum kelpie_status send_order(struct backend_instance *instance,
                                     const struct cursor_writer *message, int passed_fd,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(message->size >= CONTROL_HEADER_SIZE);
    ASSERT(!message->failed);
    if (passed_fd != HOST_FD_NONE) {
        return host_socket_send_fd(instance->host, instance->control_fd, message->data,
                                   message->size, passed_fd, err);
    }
    return host_write_all(instance->host, instance->control_fd, message->data, message->size, wait,
                          err);
}

enum kelpie_status kvm_order(struct backend_instance *instance, const struct cursor_writer *message,
                             int passed_fd, const struct host_wait *wait,
                             struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    if (instance->control_fd == HOST_FD_NONE) {
        return error_set(err, KELPIE_WRONG_STATE, "kelpie-vmm is not running");
    }
    if (instance->answers_owed == KVM_ANSWERS_OWED_MAX) {
        return error_set(err, KELPIE_BUSY, "kelpie-vmm does not answer");
    }
    struct kelpie_error failure = {0};
    enum kelpie_status sent = send_order(instance, message, passed_fd, wait, &failure);
    if (sent == KELPIE_IO_FAILED) {
        return gone(instance, err); /* EPIPE: nobody is there to read it */
    }
    if (sent != KELPIE_OK) {
        /* A part of it may be on its way: what follows could not be told from it. */
        monitor_kill(&instance->monitor);
        if (err) {
            *err = failure;
        }
        return sent;
    }
    instance->answers_owed++;
    enum kelpie_status answer = KELPIE_OK;
    while (instance->answers_owed > 0) {
        TRY(read_answer(instance, wait, &answer, &failure, err));
    }
    if (answer != KELPIE_OK && err) {
        *err = failure;
    }
    return answer;
}

enum kelpie_status kvm_order_plain(struct backend_instance *instance, enum control_type type,
                                   const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_plain(&writer, type);
    return kvm_order(instance, &writer, HOST_FD_NONE, wait, err);
}

/*
 * The kernel's command line. panic=-1: a panic resets at once, which ends the monitor, and its text is on the console.
 * Devices are found through ACPI, or, where there is a medium, by parameters that the monitor adds. Such a kernel has no
 * driver for a serial port, resets by the keyboard controller (reboot=k), and has no way to power off: its guest
 * resets instead. It would also wait for a CMOS clock, which no table says is missing: measured, 4 s of its boot.
 */
static enum kelpie_status command_line(const struct backend_instance *instance, char *line,
                                       size_t line_size, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(line_size > 0);
    static_assert(KELPIE_DISK_COUNT_MAX < 26, "a disk's name is one letter");
    char machine[COMMAND_LINE_MACHINE_SIZE] = "console=ttyS0 reboot=a";
    if (instance->medium_size > 0) {
        snprintf(machine, sizeof(machine),
                 "console=hvc0 reboot=k kelpie.poweroff=reboot root=/dev/vd%c rootfstype=erofs ro "
                 "init=/init initcall_blacklist=cmos_init",
                 (char)('a' + instance->config->disk_count));
    }
    const char *more = instance->config->kernel_args ? instance->config->kernel_args : "";
    int size =
        snprintf(line, line_size, "%s quiet panic=-1%s%s", machine, more[0] ? " " : "", more);
    ASSERT(size > 0);
    if ((size_t)size >= line_size) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                               "kernel_args are too long: with ours they make %d bytes of at most "
                               "%zu",
                               size, line_size - 1);
    }
    return KELPIE_OK;
}

enum kelpie_status kvm_order_machine(struct backend_instance *instance, enum control_type type,
                                     const struct kvm_sources *sources,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(type == CONTROL_BOOT || type == CONTROL_LOAD);
    const struct kelpie_config *config = instance->config;
    struct control_machine machine = {
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .channel_port = PROTOCOL_VSOCK_PORT,
        .disk_count = (uint32_t)config->disk_count,
        .kernel_load = sources->kernel_load,
        .kernel_entry = sources->kernel_entry,
        .has_medium = instance->medium_size > 0,
    };
    for (size_t i = 0; i < config->disk_count; i++) {
        machine.disk_read_only[i] = instance->disks.disks[i].read_only;
    }
    TRY(host_random(instance->host, machine.generation, sizeof(machine.generation), err));
    TRY(command_line(instance, machine.command_line, sizeof(machine.command_line), err));
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_machine(&writer, type, &machine);
    return kvm_order(instance, &writer, HOST_FD_NONE, wait, err);
}
