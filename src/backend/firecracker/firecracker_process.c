/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Firecracker as a process: its folder, its sockets, its descriptors. */
#include <stdio.h>
#include <string.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "protocol/protocol_limits.h"

static_assert(FIRECRACKER_CHILD_END - MONITOR_CHILD_STDERR <= HOST_PROCESS_FD_COUNT_MAX,
              "the host passes so many");

#define SOCKET_PATH_SIZE (FIRECRACKER_FOLDER_SIZE_MAX + 32)

void firecracker_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->monitor.lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(instance->client.host == instance->host);
}

/* A guest that resets or panics resets its machine, and Firecracker then ends with code 0; one that powers off leaves a machine
 * that does nothing any more (lost). Which it was, its kernel has said on the console; a guest that says something else there only
 * gets another sentence about its own end. */
const char *firecracker_reason(struct backend_instance *instance) {
    const struct host_wait no_wait = host_wait_none();
    char line[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    struct monitor *monitor = &instance->monitor;
    struct host_process_exit end = {0};
    firecracker_instance_check(instance);
    if (!monitor->process ||
        host_process_wait(monitor->process, &no_wait, &end, NULL) != KELPIE_OK) {
        return NULL;
    }
    if (monitor->console_fd != HOST_FD_NONE) {
        (void)monitor_console_drain(&monitor->console, monitor->console_fd);
    }
    monitor_console_last_line(&monitor->console, line, sizeof(line));
    if (instance->lost) {
        /* Linux that finds no power switch halts instead, and says either. */
        bool is_off = strstr(line, "reboot: Power down") || strstr(line, "System halted");
        return is_off ? "the guest powered off" : "the guest let go of its channel";
    }
    if (end.signal != 0 || end.code != 0) {
        return NULL;
    }
    return strstr(line, "Kernel panic - not syncing") ? "the guest's kernel panicked"
                                                      : "the guest reset its machine";
}

static const char *reason_locked(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    host_mutex_lock(instance->monitor.lock);
    const char *reason = firecracker_reason(instance);
    host_mutex_unlock(instance->monitor.lock);
    ASSERT(!reason || reason[0]);
    return reason;
}

/* The guest is gone, and its machine is not. By the link's thread. */
static void on_lost(void *argument) {
    struct backend_instance *instance = argument;
    firecracker_instance_check(instance);
    host_mutex_lock(instance->monitor.lock);
    instance->lost = true;
    host_mutex_unlock(instance->monitor.lock);
    monitor_kill(&instance->monitor);
}

/* Its connection has ended: how it did. */
static enum kelpie_status explain(struct backend_instance *instance, enum kelpie_status status,
                                  struct kelpie_error *err) {
    const struct host_wait wait =
        host_wait_ms(instance->host, MONITOR_CRASH_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    firecracker_instance_check(instance);
    ASSERT(status != KELPIE_OK);
    if (instance->monitor.process) {
        (void)!host_process_wait(instance->monitor.process, &wait, &end, NULL); /* asked again */
    }
    return monitor_explain(&instance->monitor, reason_locked(instance), status, err);
}

/* ---- Start ------------------------------------------------------------------------------------ */

/* The channel is there before the process that dials it. */
static enum kelpie_status open_link(struct backend_instance *instance, struct kelpie_error *err) {
    char path[SOCKET_PATH_SIZE];
    int channel_fd = HOST_FD_NONE;
    firecracker_instance_check(instance);
    ASSERT(!instance->link);
    snprintf(path, sizeof(path), "%s/v_%u", instance->folder.path, (unsigned)PROTOCOL_VSOCK_PORT);
    TRY(firecracker_link_open(instance->host, path, &instance->link, &channel_fd, err));
    host_mutex_lock(instance->monitor.lock);
    instance->channel_fd = channel_fd;
    host_mutex_unlock(instance->monitor.lock);
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct backend_instance *instance, const int files[2],
                                struct kelpie_error *err) {
    const char *const argv[] = {
        instance->probe.binary, "--api-sock", "api", "--id", "kelpie", "--level", "Error", NULL};
    struct host_process_fd fds[FIRECRACKER_CHILD_END - MONITOR_CHILD_NEXT] = {
        {.child_fd = FIRECRACKER_CHILD_KERNEL, .fd = files[0]},
        {.child_fd = FIRECRACKER_CHILD_INITRAMFS, .fd = files[1]},
    };
    size_t fd_count = FIRECRACKER_CHILD_DISK_0 - FIRECRACKER_CHILD_KERNEL;
    firecracker_instance_check(instance);
    ASSERT(files[0] != HOST_FD_NONE && files[1] != HOST_FD_NONE);
    for (size_t i = 0; i < instance->config->disk_count; i++) {
        ASSERT(instance->disks.disks[i].fd != HOST_FD_NONE);
        fds[fd_count].child_fd = FIRECRACKER_CHILD_DISK_0 + (int)i;
        fds[fd_count].fd = instance->disks.disks[i].fd;
        fd_count++;
    }
    const struct monitor_launch launch = {
        .argv = argv,
        .fds = fds,
        .fd_count = fd_count,
        .working_dir = instance->folder.path,
        .console_is_stdout = true,
    };
    enum kelpie_status status = monitor_launch(&instance->monitor, &launch, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING,
                          "Firecracker is gone; " FIRECRACKER_INSTALL_HINT);
    }
    return status;
}

/* Firecracker opens its tap by name. When that is missing and its user is root, it makes one, which leads nowhere. */
static enum kelpie_status check_tap(struct backend_instance *instance, struct kelpie_error *err) {
    const struct kelpie_network *network = instance->config->network;
    firecracker_instance_check(instance);
    if (!network) {
        return KELPIE_OK;
    }
    ASSERT(network->kind == KELPIE_NETWORK_TAP);
    AUTO_FD struct host_fd tap = {instance->host, HOST_FD_NONE};
    return host_tap_open(instance->host, network->tap, &tap.fd, err);
}

enum kelpie_status firecracker_process_start(struct backend_instance *instance, const int fds[2],
                                             const struct host_wait *wait,
                                             struct kelpie_error *err) {
    char path[SOCKET_PATH_SIZE];
    firecracker_instance_check(instance);
    ASSERT(!instance->monitor.process);
    TRY(check_tap(instance, err));
    TRY(firecracker_folder_make(&instance->folder, instance->host, err));
    TRY(open_link(instance, err));
    TRY(spawn(instance, fds, err));
    const int exit_fd = monitor_exit_fd(&instance->monitor);
    instance->lost = false;
    firecracker_link_watch(instance->link, exit_fd, on_lost, instance);
    snprintf(path, sizeof(path), "%s/api", instance->folder.path);
    enum kelpie_status status =
        firecracker_client_connect(&instance->client, path, exit_fd, wait, err);
    return status == KELPIE_CRASHED ? explain(instance, KELPIE_BOOT_FAILED, err) : status;
}

/* ---- Its end ---------------------------------------------------------------------------------- */

void firecracker_process_take_down(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    firecracker_link_close(TAKE(instance->link));
    firecracker_client_close(&instance->client);
    monitor_take_down(&instance->monitor, reason_locked(instance));
    ASSERT(!instance->monitor.process);
    host_mutex_lock(instance->monitor.lock);
    int channel_fd = instance->channel_fd;
    instance->channel_fd = HOST_FD_NONE;
    host_mutex_unlock(instance->monitor.lock);
    host_close(instance->host, channel_fd);
    firecracker_folder_remove(&instance->folder, instance->host);
    firecracker_memory_close(instance);
    monitor_disks_close(&instance->disks);
}

/* ---- Requests --------------------------------------------------------------------------------- */

enum kelpie_status firecracker_ask(struct backend_instance *instance, const char *method,
                                   const char *path, json_t *body, const struct host_wait *wait,
                                   struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    enum kelpie_status status =
        firecracker_client_ask(&instance->client, method, path, body, wait, err);
    if (status == KELPIE_CRASHED) {
        return explain(instance, status, err);
    }
    if (instance->client.broken) {
        monitor_kill(
            &instance->monitor); /* it may have been taken over: it is not listened to any more */
    }
    return status;
}
