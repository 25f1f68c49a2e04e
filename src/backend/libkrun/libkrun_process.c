/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie-krun as a process. */
#include "backend/libkrun/libkrun_instance.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

static_assert((int)KRUN_CHILD_CHANNEL == (int)MONITOR_CHILD_CHANNEL, "one number");
static_assert((int)KRUN_CHILD_CONSOLE == (int)MONITOR_CHILD_CONSOLE, "one number");
static_assert((int)KRUN_CHILD_CONTROL == (int)MONITOR_CHILD_NEXT, "the first of ours");
static_assert(KRUN_CHILD_END - MONITOR_CHILD_STDERR <= HOST_PROCESS_FD_COUNT_MAX,
              "a child can be given them all");

void libkrun_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->monitor.lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(instance->answers_owed <= LIBKRUN_ANSWERS_OWED_MAX);
}

/*
 * As our own monitor's for this kernel, and for the same reasons (backend/kvm/kvm_order.c). libkrun adds what names its
 * devices. Linux takes the last of what is given twice: libkrun 2 has words of its own before these.
 */
enum kelpie_status libkrun_command_line(const struct kelpie_config *config,
                                        char line[KRUN_COMMAND_LINE_SIZE_MAX],
                                        struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(line);
    static_assert(KELPIE_DISK_COUNT_MAX < 26, "a disk's name is one letter");
    const char *more = config->kernel_args ? config->kernel_args : "";
    int size = snprintf(line, KRUN_COMMAND_LINE_SIZE_MAX,
                        "console=hvc0 reboot=k kelpie.poweroff=reboot root=/dev/vd%c "
                        "rootfstype=erofs ro init=/init initcall_blacklist=cmos_init quiet "
                        "panic=-1%s%s",
                        (char)('a' + config->disk_count), more[0] ? " " : "", more);
    ASSERT(size > 0);
    if (size >= KRUN_COMMAND_LINE_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                               "kernel_args are too long: with ours they make %d bytes of at most "
                               "%d",
                               size, KRUN_COMMAND_LINE_SIZE_MAX - 1);
    }
    return KELPIE_OK;
}

/* ---- Start ------------------------------------------------------------------------------------ */

static void describe_network(const struct kelpie_config *config, struct krun_order *order) {
    ASSERT(order->verb == KRUN_VERB_RUN);
    ASSERT(order->network == KRUN_NETWORK_NONE);
    if (config->network) {
        bool tap = config->network->kind == KELPIE_NETWORK_TAP;
        order->network = tap ? KRUN_NETWORK_TAP : KRUN_NETWORK_STREAM;
        order->tap = tap ? config->network->tap : NULL;
        monitor_network_mac(config, order->mac);
    }
}

static enum kelpie_status launch(struct backend_instance *instance, int control_fd, int program_fd,
                                 int medium_fd, struct kelpie_error *err) {
    const struct kelpie_config *config = instance->config;
    char line[KRUN_COMMAND_LINE_SIZE_MAX];
    struct krun_argv argv;
    struct monitor_network *network = &instance->monitor.network;
    libkrun_instance_check(instance);
    ASSERT(control_fd != HOST_FD_NONE && medium_fd != HOST_FD_NONE);
    TRY(libkrun_command_line(config, line, err));
    struct krun_order order = {
        .verb = KRUN_VERB_RUN,
        .library = instance->probe.library,
        .kernel = instance->probe.kernel,
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .disk_count = config->disk_count,
        .command_line = line,
    };
    describe_network(config, &order);
    struct host_process_fd fds[KRUN_CHILD_END - KRUN_CHILD_CONTROL] = {
        {.child_fd = KRUN_CHILD_CONTROL, .fd = control_fd},
        {.child_fd = KRUN_CHILD_PROGRAM, .fd = program_fd},
        {.child_fd = KRUN_CHILD_MEDIUM, .fd = medium_fd},
    };
    size_t fd_count = KRUN_CHILD_NETWORK - KRUN_CHILD_CONTROL;
    if (order.network == KRUN_NETWORK_STREAM) {
        fds[fd_count++] =
            (struct host_process_fd){.child_fd = KRUN_CHILD_NETWORK, .fd = network->fd};
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        ASSERT(instance->disks.disks[i].fd != HOST_FD_NONE);
        order.read_only[i] = instance->disks.disks[i].read_only;
        fds[fd_count++] = (struct host_process_fd){.child_fd = KRUN_CHILD_DISK_0 + (int)i,
                                                   .fd = instance->disks.disks[i].fd};
    }
    if (order.network != KRUN_NETWORK_STREAM) {
        monitor_network_handed_over(network); /* a tap is libkrun's to open */
    }
    krun_argv_build(&argv, libkrun_program_path, &order);
    const struct monitor_launch monitor = {.argv = argv.argv, .fds = fds, .fd_count = fd_count};
    TRY(monitor_launch(&instance->monitor, &monitor, err));
    monitor_network_handed_over(network);
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err) {
    struct host *host = instance->host;
    int sockets[2] = {HOST_FD_NONE, HOST_FD_NONE};
    uint64_t medium_size = 0;
    libkrun_instance_check(instance);
    ASSERT(!instance->monitor.process);
    TRY(monitor_network_open(&instance->monitor.network, err)); /* it comes up meanwhile */
    AUTO_FD struct host_fd medium = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd program = {host, HOST_FD_NONE};
    TRY(image_medium_build(host, &instance->boot, &medium.fd, &medium_size, err));
    TRY(libkrun_program_open(host, &program.fd, err));
    TRY(host_socket_pair(host, sockets, err));
    AUTO_FD struct host_fd ours = {host, sockets[0]};
    AUTO_FD struct host_fd theirs = {host, sockets[1]};
    TRY(monitor_network_await(&instance->monitor.network, wait, err));
    TRY(launch(instance, theirs.fd, program.fd, medium.fd, err));
    libkrun_talk_init(&instance->talk, host, host_fd_take(&ours));
    instance->answers_owed = 0;
    return KELPIE_OK;
}

/* The process says what it found, sends its console, and enters. */
static enum kelpie_status await_entry(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    struct krun_message message = {0};
    libkrun_instance_check(instance);
    ASSERT(wait);
    for (size_t i = 0; i < LIBKRUN_LINE_COUNT_MAX; i++) {
        TRY(libkrun_talk_read(&instance->talk, wait, &message, err));
        int fd = message.word == KRUN_WORD_CONSOLE ? libkrun_talk_take_fd(&instance->talk)
                                                   : HOST_FD_NONE;
        if (fd != HOST_FD_NONE) {
            monitor_console_take(&instance->monitor, fd);
        }
        if (message.word == KRUN_WORD_ENTERING) {
            return KELPIE_OK;
        }
        if (message.word == KRUN_WORD_FAILED) {
            return libkrun_talk_failed(&message, err);
        }
    }
    return error_set(err, KELPIE_INTERNAL, "kelpie-krun does not come to its machine");
}

enum kelpie_status libkrun_process_start(struct backend_instance *instance,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(wait);
    TRY(spawn(instance, wait, err));
    enum kelpie_status status = await_entry(instance, wait, err);
    return status == KELPIE_CRASHED
               ? monitor_explain(&instance->monitor, NULL, KELPIE_BOOT_FAILED, err)
               : status;
}

/* libkrun ends its process with code 0 when its guest resets; the kernel that it boots can end a machine in no other way,
 * and after a panic does so too. */
const char *libkrun_process_reason(struct backend_instance *instance) {
    const struct host_wait no_wait = host_wait_none();
    struct host_process_exit end = {0};
    libkrun_instance_check(instance);
    ASSERT(instance->host);
    bool ended = instance->monitor.process &&
                 host_process_wait(instance->monitor.process, &no_wait, &end, NULL) == KELPIE_OK;
    return ended && end.signal == 0 && end.code == 0 ? "the guest reset its machine" : NULL;
}

void libkrun_process_take_down(struct backend_instance *instance) {
    libkrun_instance_check(instance);
    monitor_take_down(&instance->monitor, libkrun_process_reason(instance));
    ASSERT(!instance->monitor.process);
    libkrun_talk_close(&instance->talk);
    instance->answers_owed = 0;
    monitor_disks_close(&instance->disks);
}

/* ---- Orders ----------------------------------------------------------------------------------- */

/* The answer to the last order; those that are owed before it are dropped. */
static enum kelpie_status await_answer(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    struct krun_message message = {0};
    libkrun_instance_check(instance);
    ASSERT(instance->answers_owed > 0);
    while (instance->answers_owed > 0) {
        TRY(libkrun_talk_read(&instance->talk, wait, &message, err));
        if (message.word != KRUN_WORD_DONE && message.word != KRUN_WORD_FAILED) {
            return error_set(err, KELPIE_INTERNAL, "kelpie-krun answers what was not asked");
        }
        instance->answers_owed--;
    }
    return message.word == KRUN_WORD_DONE ? KELPIE_OK : libkrun_talk_failed(&message, err);
}

enum kelpie_status libkrun_process_order(struct backend_instance *instance, const char *order,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    char line[16];
    libkrun_instance_check(instance);
    ASSERT(order && strlen(order) + 2 <= sizeof(line));
    if (!instance->monitor.process) {
        return error_set(err, KELPIE_WRONG_STATE, "libkrun is not running");
    }
    if (!(instance->probe.can & KRUN_CAN_PAUSE)) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "libkrun %s has no %s: it takes libkrun 2, or another backend",
                         instance->probe.version, order);
    }
    if (instance->answers_owed == LIBKRUN_ANSWERS_OWED_MAX) {
        return error_set(err, KELPIE_BUSY, "libkrun has not answered the last %d orders",
                         LIBKRUN_ANSWERS_OWED_MAX);
    }
    snprintf(line, sizeof(line), "%s\n", order);
    enum kelpie_status status =
        host_write_all(instance->host, instance->talk.fd, line, strlen(line), wait, err);
    if (status == KELPIE_OK) {
        instance->answers_owed++;
        status = await_answer(instance, wait, err);
    }
    if (status == KELPIE_CRASHED || status == KELPIE_IO_FAILED) {
        return monitor_explain(&instance->monitor, NULL, KELPIE_CRASHED, err);
    }
    return status;
}
