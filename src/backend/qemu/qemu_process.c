/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/qemu/qemu_instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

void qemu_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->monitor.lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT((unsigned)instance->probe.accelerator < QEMU_ACCELERATOR_COUNT);
}

/* The numbers of the descriptors in QEMU's process, behind the monitor's. */
enum child_fd {
    CHILD_QMP = MONITOR_CHILD_NEXT,
    CHILD_MEMORY,
    CHILD_NETWORK,
    CHILD_DISK_0,
    CHILD_SHARE_0 = CHILD_DISK_0 + KELPIE_DISK_COUNT_MAX,
    CHILD_END = CHILD_SHARE_0 + KELPIE_SHARE_COUNT_MAX
};
static_assert(CHILD_END - MONITOR_CHILD_STDERR <= HOST_PROCESS_FD_COUNT_MAX,
              "the host passes so many");

/* ---- Its end ---------------------------------------------------------------------------------- */

/* QEMU's names (QAPI, "ShutdownCause") of what a guest does, in the words of our own monitor. A triple fault is
 * a reset for QEMU. */
static const char *reason_sentence(const char *reason) {
    static const struct {
        const char *reason;
        const char *sentence;
    } sentences[] = {
        {"guest-shutdown", "the guest powered off"},
        {"guest-reset", "the guest reset its machine"},
        {"guest-panic", "the guest's kernel panicked"},
    };
    ASSERT(reason);
    ASSERT(ARRAY_SIZE(sentences) > 0);
    for (size_t i = 0; i < ARRAY_SIZE(sentences); i++) {
        if (strcmp(reason, sentences[i].reason) == 0) {
            return sentences[i].sentence;
        }
    }
    return reason;
}

const char *qemu_process_reason(struct backend_instance *instance, char *buffer, size_t size) {
    qemu_instance_check(instance);
    ASSERT(buffer && size > 0);
    struct qmp_events events = {0};
    host_mutex_lock(instance->monitor.lock);
    if (instance->qmp) {
        qmp_service(instance->qmp);
        qmp_events_get(instance->qmp, &events);
    }
    host_mutex_unlock(instance->monitor.lock);
    snprintf(buffer, size, "%s", reason_sentence(events.shutdown_reason));
    return events.shutdown ? buffer : NULL;
}

enum kelpie_status qemu_process_explain(struct backend_instance *instance,
                                        enum kelpie_status status, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(status != KELPIE_OK);
    char reason[QEMU_QMP_NAME_SIZE_MAX + 1];
    return monitor_explain(&instance->monitor,
                           qemu_process_reason(instance, reason, sizeof(reason)), status, err);
}

enum kelpie_status qemu_execute(struct backend_instance *instance, const char *name,
                                json_t *arguments, const struct host_wait *wait,
                                struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(name);
    if (!instance->qmp) {
        json_decref(arguments);
        return error_set(err, KELPIE_WRONG_STATE, "QEMU is not running");
    }
    const struct qmp_command command = {
        .name = name, .arguments = arguments, .passed_fd = HOST_FD_NONE};
    enum kelpie_status status = qmp_execute(instance->qmp, &command, wait, NULL, err);
    return status == KELPIE_CRASHED ? qemu_process_explain(instance, status, err) : status;
}

enum kelpie_status qemu_cont(struct backend_instance *instance, const struct host_wait *wait,
                             struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(wait);
    TRY(qemu_execute(instance, "cont", NULL, wait, err));
    instance->migrated = false;
    return KELPIE_OK;
}

/* ---- Start ------------------------------------------------------------------------------------ */

static struct qemu_description describe(const struct backend_instance *instance,
                                        const struct qemu_process_spec *spec) {
    qemu_instance_check(instance);
    ASSERT(instance->probe.binary[0]);
    const struct kelpie_config *config = instance->config;
    struct qemu_description description = {
        .binary = instance->probe.binary,
        .machine = instance->machine,
        .accelerator = instance->probe.accelerator,
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .kernel = instance->boot.kernel.path,
        .initramfs = instance->boot.initramfs_path,
        .kernel_args = config->kernel_args,
        .tsc_khz = instance->tsc_khz,
        .qmp_fd = CHILD_QMP,
        .channel_fd = MONITOR_CHILD_CHANNEL,
        .console_fd = MONITOR_CHILD_CONSOLE,
        .memory_fd = CHILD_MEMORY,
        .memory_private = spec->memory_private,
        .incoming = spec->incoming,
        .disk_count = config->disk_count,
    };
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    if (config->network) {
        description.network_fd = CHILD_NETWORK;
        description.network_is_tap = config->network->kind == KELPIE_NETWORK_TAP;
        snprintf(description.mac, sizeof(description.mac), "%s", config->network->mac);
    }
    for (size_t i = 0; i < config->share_count; i++) {
        bool shown = monitor_shares_has(&instance->shares, i);
        description.share_fds[i] = shown ? CHILD_SHARE_0 + (int)i : 0;
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        description.disks[i].fd = CHILD_DISK_0 + (int)i;
        description.disks[i].read_only = instance->disks.disks[i].read_only;
    }
    return description;
}

static enum kelpie_status spawn(struct backend_instance *instance,
                                const struct qemu_process_spec *spec, int qmp_fd,
                                struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(spec->memory_fd != HOST_FD_NONE);
    AUTO_MEM struct qemu_command *command = host_allocate(instance->host, sizeof(*command), err);
    if (!command) {
        return KELPIE_NO_MEMORY;
    }
    const struct qemu_description description = describe(instance, spec);
    TRY(qemu_command_build(command, &description, err));
    struct host_process_fd fds[CHILD_END - MONITOR_CHILD_NEXT] = {
        {.child_fd = CHILD_QMP, .fd = qmp_fd},
        {.child_fd = CHILD_MEMORY, .fd = spec->memory_fd},
    };
    size_t fd_count = CHILD_NETWORK - MONITOR_CHILD_NEXT;
    if (description.network_fd != 0) {
        fds[fd_count++] = (struct host_process_fd){.child_fd = description.network_fd,
                                                   .fd = instance->monitor.network.fd};
    }
    for (size_t i = 0; i < description.disk_count; i++) {
        ASSERT(instance->disks.disks[i].fd != HOST_FD_NONE);
        fds[fd_count].child_fd = description.disks[i].fd;
        fds[fd_count].fd = instance->disks.disks[i].fd;
        fd_count++;
    }
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        if (description.share_fds[i] != 0) {
            fds[fd_count++] = (struct host_process_fd){.child_fd = description.share_fds[i],
                                                       .fd = instance->shares.shares[i].fd};
        }
    }
    const struct monitor_launch launch = {.argv = command->argv, .fds = fds, .fd_count = fd_count};
    enum kelpie_status status = monitor_launch(&instance->monitor, &launch, err);
    if (status == KELPIE_OK) {
        monitor_network_handed_over(&instance->monitor.network);
        monitor_shares_handed_over(&instance->shares);
    }
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING,
                          "QEMU is gone; install it (" QEMU_INSTALL_HINT ")");
    }
    return status;
}

/* Spawns and shows the process to the other threads. */
static enum kelpie_status launch(struct backend_instance *instance,
                                 const struct qemu_process_spec *spec, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    ASSERT(!instance->qmp);
    int sockets[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_socket_pair(instance->host, sockets, err));
    AUTO_FD struct host_fd theirs = {instance->host, sockets[1]};
    struct qmp *qmp = NULL;
    TRY(qmp_create(instance->host, sockets[0], &qmp, err)); /* takes it over, whatever happens */
    enum kelpie_status status = spawn(instance, spec, theirs.fd, err);
    if (status != KELPIE_OK) {
        qmp_destroy(qmp);
        return status;
    }
    host_mutex_lock(instance->monitor.lock);
    instance->qmp = qmp;
    host_mutex_unlock(instance->monitor.lock);
    return KELPIE_OK;
}

/* Gives back the process and its descriptors, not the disks and the memory. */
static void process_take_down(struct backend_instance *instance) {
    qemu_instance_check(instance);
    char reason[QEMU_QMP_NAME_SIZE_MAX + 1];
    ASSERT(instance->monitor.process || !instance->qmp);
    monitor_take_down(&instance->monitor, qemu_process_reason(instance, reason, sizeof(reason)));
    host_mutex_lock(instance->monitor.lock);
    struct qmp *qmp = TAKE(instance->qmp);
    host_mutex_unlock(instance->monitor.lock);
    qmp_destroy(qmp);
    monitor_shares_close(&instance->shares);
}

void qemu_process_take_down(struct backend_instance *instance) {
    qemu_instance_check(instance);
    process_take_down(instance);
    ASSERT(!instance->monitor.process);
    instance->migrated = false;
    host_close(instance->host, instance->memory_fd);
    instance->memory_fd = HOST_FD_NONE;
    monitor_disks_close(&instance->disks);
}

/* Whether QEMU ended because it was built without this machine. */
static bool machine_is_missing(struct backend_instance *instance) {
    qemu_instance_check(instance);
    struct monitor *monitor = &instance->monitor;
    ASSERT(monitor->process);
    static const char words[] = "unsupported machine type";
    host_mutex_lock(monitor->lock);
    monitor_drain_stderr(monitor);
    bool missing =
        memmem(monitor->words.text, monitor->words.size, words, sizeof(words) - 1) != NULL;
    host_mutex_unlock(monitor->lock);
    return missing;
}

enum kelpie_status qemu_process_start(struct backend_instance *instance,
                                      const struct qemu_process_spec *spec,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    ASSERT(spec->memory_fd != HOST_FD_NONE);
    for (;;) {
        TRY(monitor_network_open(&instance->monitor.network, err));
        TRY(monitor_network_await(&instance->monitor.network, wait, err));
        if (!spec->memory_private && !spec->incoming) {
            TRY(monitor_shares_open(&instance->shares, wait, err));
        }
        TRY(launch(instance, spec, err));
        enum kelpie_status status = qmp_greet(instance->qmp, wait, err);
        if (status == KELPIE_OK) {
            return KELPIE_OK;
        }
        if (status == KELPIE_CRASHED) {
            status = qemu_process_explain(instance, KELPIE_BOOT_FAILED, err);
        }
        bool retry = instance->machine == QEMU_MACHINE_MICROVM && machine_is_missing(instance);
        process_take_down(instance);
        if (!retry) {
            return status;
        }
        instance->machine = QEMU_MACHINE_Q35;
    }
}
