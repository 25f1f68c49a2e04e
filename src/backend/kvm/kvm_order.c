/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Orders to kelpie-vmm and its answers. What is said: vmm/control.h. */
#include <errno.h>
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

/* What the monitor answered. */
struct answer {
    enum kelpie_status status;
    struct kelpie_error failure; /* when the status is not OK */
    struct control_stamps stamps;
};

/* About the machine's life and the caller's wait the monitor knows nothing, and is not believed. */
static bool is_ours_to_say(enum kelpie_status status) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    return status == KELPIE_CRASHED || status == KELPIE_CANCELLED || status == KELPIE_TIMED_OUT ||
           status == KELPIE_BUSY;
}

/* False: it is none, or that to another kind of order. */
static bool decode_answer(enum control_type ordered, const struct control_header *header,
                          const uint8_t *payload, struct answer *ret) {
    ASSERT(header && payload);
    ASSERT(ret);
    *ret = (struct answer){.status = KELPIE_OK};
    if (header->type == CONTROL_FAILED) {
        bool understood = control_decode_failed(payload, header->size, &ret->failure);
        ret->status = ret->failure.status;
        if (understood && is_ours_to_say(ret->status)) {
            ret->status = error_wrap(&ret->failure, KELPIE_INTERNAL, "kelpie-vmm says %s",
                                     kelpie_status_name(ret->status));
        }
        return understood;
    }
    if (ordered == CONTROL_TELL) {
        return header->type == CONTROL_TOLD &&
               control_decode_stamps(payload, header->size, &ret->stamps);
    }
    return header->type == CONTROL_DONE && header->size == 0;
}

/* The next answer. TIMED_OUT and CANCELLED: it is still to come. */
static enum kelpie_status read_answer(struct backend_instance *instance,
                                      const struct host_wait *wait, struct answer *ret_answer,
                                      struct kelpie_error *err) {
    ASSERT(ret_answer);
    ASSERT(instance->answers_owed > 0);
    struct control_header header = {0};
    TRY(read_to(instance, CONTROL_HEADER_SIZE, wait, err));
    bool understood = control_decode_header(instance->in, &header);
    if (understood) {
        TRY(read_to(instance, CONTROL_HEADER_SIZE + header.size, wait, err));
    }
    if (!understood || !decode_answer(instance->orders[0], &header,
                                      instance->in + CONTROL_HEADER_SIZE, ret_answer)) {
        /* A monitor that speaks nonsense may have been taken over: it is not listened to any more. */
        monitor_kill(&instance->monitor);
        return error_set(err, KELPIE_INTERNAL, "kelpie-vmm sent an answer that is none");
    }
    instance->in_size = 0;
    instance->answers_owed--;
    memmove(instance->orders, instance->orders + 1,
            instance->answers_owed * sizeof(instance->orders[0]));
    return KELPIE_OK;
}

/* Sends a whole message, with a descriptor or HOST_FD_NONE. */
static enum kelpie_status send_message(struct backend_instance *instance,
                                       const struct cursor_writer *message, int passed_fd,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(message->size >= CONTROL_HEADER_SIZE);
    ASSERT(!message->failed);
    struct kelpie_error failure = {0};
    enum kelpie_status sent = KELPIE_OK;
    if (instance->control_fd == HOST_FD_NONE) {
        return error_set(err, KELPIE_WRONG_STATE, "kelpie-vmm is not running");
    }
    if (passed_fd != HOST_FD_NONE) {
        sent = host_socket_send_fd(instance->host, instance->control_fd, message->data,
                                   message->size, passed_fd, &failure);
    } else {
        sent = host_write_all(instance->host, instance->control_fd, message->data, message->size,
                              wait, &failure);
    }
    if (sent == KELPIE_IO_FAILED && (failure.os_error == EPIPE || failure.os_error == ECONNRESET)) {
        return gone(instance, err); /* nobody is there to read it */
    }
    if (sent != KELPIE_OK) {
        /* A part of it may be on its way: what follows could not be told from it. Of one with a descriptor there is none. */
        if (passed_fd == HOST_FD_NONE || sent != KELPIE_IO_FAILED) {
            monitor_kill(&instance->monitor);
        }
        if (err) {
            *err = failure;
        }
    }
    return sent;
}

static enum kelpie_status order(struct backend_instance *instance,
                                const struct cursor_writer *message, const struct host_wait *wait,
                                struct answer *ret_answer, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    if (instance->answers_owed == KVM_ANSWERS_OWED_MAX) {
        return error_set(err, KELPIE_BUSY, "kelpie-vmm does not answer");
    }
    struct control_header header = {0};
    bool understood = control_decode_header(message->data, &header);
    ASSERT(understood);
    TRY(send_message(instance, message, HOST_FD_NONE, wait, err));
    instance->orders[instance->answers_owed++] = header.type;
    while (instance->answers_owed > 0) {
        TRY(read_answer(instance, wait, ret_answer, err));
    }
    if (ret_answer->status != KELPIE_OK && err) {
        *err = ret_answer->failure;
    }
    return ret_answer->status;
}

/* The VM's state is ours to know: an order that is given is one that can be done. */
static enum kelpie_status no_state(enum kelpie_status status, struct kelpie_error *err) {
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    static_assert(KELPIE_OK == 0, "a status that is none is an error");
    return status == KELPIE_WRONG_STATE
               ? error_wrap(err, KELPIE_INTERNAL, "kelpie-vmm does not do what it must")
               : status;
}

enum kelpie_status kvm_pass(struct backend_instance *instance, enum control_role role, int fd,
                            struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_fd(&writer, role);
    return send_message(instance, &writer, fd, NULL, err);
}

enum kelpie_status kvm_order_plain(struct backend_instance *instance, enum control_type type,
                                   const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    struct answer answer;
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_plain(&writer, type);
    enum kelpie_status status = order(instance, &writer, wait, &answer, err);
    return type == CONTROL_TOUCHED ? status : no_state(status, err);
}

enum kelpie_status kvm_order_tell(struct backend_instance *instance,
                                  struct control_stamps *ret_stamps, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(ret_stamps);
    struct answer answer;
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_plain(&writer, CONTROL_TELL);
    TRY(no_state(order(instance, &writer, wait, &answer, err), err));
    *ret_stamps = answer.stamps;
    return KELPIE_OK;
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
    if (instance->medium.size > 0) {
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

/* The disk of that number and, if it has one, its overlay. */
static enum kelpie_status pass_disk(struct backend_instance *instance, size_t index,
                                    struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(index < instance->config->disk_count);
    const struct monitor_disk *disk = &instance->disks.disks[index];
    ASSERT((disk->overlay_fd == HOST_FD_NONE) == (disk->bitmap_fd == HOST_FD_NONE));
    TRY(kvm_pass(instance, control_role_of_disk(CONTROL_ROLE_DISK_0, index), disk->fd, err));
    if (disk->overlay_fd != HOST_FD_NONE) {
        TRY(kvm_pass(instance, control_role_of_disk(CONTROL_ROLE_OVERLAY_0, index),
                     disk->overlay_fd, err));
        TRY(kvm_pass(instance, control_role_of_disk(CONTROL_ROLE_BITMAP_0, index), disk->bitmap_fd,
                     err));
    }
    return KELPIE_OK;
}

/* What was started when the machine was begun (kvm_process_start). */
static enum kelpie_status pass_network(struct backend_instance *instance,
                                       struct control_machine *machine,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    struct monitor_network *network = &instance->monitor.network;
    const struct kelpie_config *config = instance->config;
    kvm_instance_check(instance);
    ASSERT(config->network);
    machine->network =
        config->network->kind == KELPIE_NETWORK_TAP ? CONTROL_NETWORK_TAP : CONTROL_NETWORK_STREAM;
    monitor_network_mac(config, machine->mac);
    TRY(monitor_network_await(network, wait, err));
    TRY(kvm_pass(instance, CONTROL_ROLE_NETWORK, network->fd, err));
    monitor_network_handed_over(network);
    return KELPIE_OK;
}

enum kelpie_status kvm_order_machine(struct backend_instance *instance, enum control_type type,
                                     bool run, const struct host_wait *wait,
                                     struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(type == CONTROL_PREPARE || type == CONTROL_BOOT || type == CONTROL_LOAD);
    const struct kelpie_config *config = instance->config;
    struct control_machine machine = {
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .channel_port = PROTOCOL_VSOCK_PORT,
        .disk_count = (uint32_t)config->disk_count,
        .run = run,
        .note = instance->note && type == CONTROL_LOAD,
        .kernel_load = instance->medium.kernel_load,
        .kernel_entry = instance->medium.kernel_entry,
        .has_medium = instance->medium.size > 0,
    };
    if (config->network && type != CONTROL_PREPARE) {
        TRY(pass_network(instance, &machine, wait, err));
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        machine.disk_read_only[i] = instance->disks.disks[i].read_only;
        if (type != CONTROL_PREPARE) {
            TRY(pass_disk(instance, i, err));
        }
    }
    if (machine.has_medium && type != CONTROL_PREPARE) {
        TRY(kvm_pass(instance, CONTROL_ROLE_MEDIUM, instance->medium.fd, err));
    }
    TRY(host_random(instance->host, machine.generation, sizeof(machine.generation), err));
    TRY(command_line(instance, machine.command_line, sizeof(machine.command_line), err));
    struct answer answer;
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_machine(&writer, type, &machine);
    return no_state(order(instance, &writer, wait, &answer, err), err);
}
