/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of the firecracker backend. The theory of operation is in firecracker_instance.h. */
#include "backend/firecracker/firecracker.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "host/host_kvm.h"

/* ---- Probe ------------------------------------------------------------------------------------ */

/* Whether /dev/kvm runs Linux at all: the rules of the kvm backend. */
static void look_at_kvm(struct host *host, struct kelpie_probe *probe) {
    struct kelpie_error error = {0};
    ASSERT(host);
    ASSERT(probe->version[0] != '\0');
    if (host_kvm_probe(host, HOST_KVM_BUDGET_NS, &probe->ring0_ns, &error) != KELPIE_OK) {
        snprintf(probe->reason, sizeof(probe->reason),
                 "Firecracker %s is here, but not KVM: %.400s", probe->version, error.message);
        snprintf(probe->install, sizeof(probe->install),
                 "load the module kvm-intel or kvm-amd, and make /dev/kvm accessible to this user, "
                 "such as by the group kvm");
    } else if (!host_kvm_is_native(probe->ring0_ns)) {
        snprintf(probe->reason, sizeof(probe->reason),
                 "Firecracker %s is here, but /dev/kvm interprets kernel-mode code, so Linux does "
                 "not boot on it",
                 probe->version);
    } else {
        probe->usable = true;
        snprintf(probe->reason, sizeof(probe->reason),
                 "Firecracker %s%s; /dev/kvm runs kernel-mode code natively", probe->version,
                 host_user_id(host) == 0 ? ", as root and without its jailer" : "");
    }
}

static void firecracker_probe(struct host *host, struct kelpie_probe *ret_probe) {
    struct kelpie_error error;
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){.accelerator = "kvm"};
    AUTO_MEM struct firecracker_probe *probe = host_allocate(host, sizeof(*probe), &error);
    enum kelpie_status status =
        probe ? firecracker_probe_run(host, NULL, HOST_FD_NONE, probe, &error) : KELPIE_NO_MEMORY;
    if (status != KELPIE_OK) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason), "%.511s", error.message);
        snprintf(ret_probe->install, sizeof(ret_probe->install), "%s",
                 status == KELPIE_UNSUPPORTED ? "unset KELPIE_JAILER" : FIRECRACKER_INSTALL_HINT);
        return;
    }
    snprintf(ret_probe->version, sizeof(ret_probe->version), "%s", probe->version);
    look_at_kvm(host, ret_probe);
}

/* ---- Create and destroy ----------------------------------------------------------------------- */

static void firecracker_destroy(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->host);
    if (instance->monitor.lock) {
        firecracker_process_take_down(instance);
    }
    monitor_disks_deinit(&instance->disks);
    monitor_deinit(&instance->monitor);
    free(instance);
}

/* What is missing is said here, and not at the start. */
static enum kelpie_status prepare(struct backend_instance *instance,
                                  const struct backend_launch *launch, struct kelpie_error *err) {
    struct host *host = launch->host;
    ASSERT(!instance->monitor.lock);
    ASSERT(instance->config);
    TRY(monitor_init(&instance->monitor, host, instance->config, "Firecracker", err));
    if (instance->config->network && instance->config->network->kind != KELPIE_NETWORK_TAP) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "network",
                               "the firecracker backend connects a guest to a tap, and to nothing "
                               "else: make one, and name it in network.tap");
    }
    TRY(firecracker_probe_run(host, instance->config->hypervisor, launch->cancel_fd,
                              &instance->probe, err));
    if (launch->for_bundle) {
        return KELPIE_OK;
    }
    const struct host_wait wait = host_wait_ms(host, IMAGE_FETCH_TIMEOUT_MS, launch->cancel_fd);
    return firecracker_find_images(instance, &wait, err);
}

static enum kelpie_status firecracker_create(const struct backend_launch *launch,
                                             struct backend_instance **ret_instance,
                                             struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(launch->config);
    struct backend_instance *instance = host_allocate(launch->host, sizeof(*instance), err);
    if (!instance) {
        return KELPIE_NO_MEMORY;
    }
    instance->host = launch->host;
    instance->config = launch->config;
    instance->channel_fd = HOST_FD_NONE;
    instance->memory.fd = HOST_FD_NONE;
    instance->folder.lock_fd = HOST_FD_NONE;
    firecracker_client_init(&instance->client, launch->host);
    monitor_disks_init(&instance->disks, launch, false);
    enum kelpie_status status = prepare(instance, launch, err);
    if (status != KELPIE_OK) {
        firecracker_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

/* ---- Run -------------------------------------------------------------------------------------- */

static enum kelpie_status firecracker_start(struct backend_instance *instance,
                                            const struct host_wait *wait,
                                            struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    enum kelpie_status status = firecracker_boot(instance, wait, err);
    if (status != KELPIE_OK) {
        firecracker_process_take_down(instance);
    }
    if (status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_BOOT_TIMED_OUT, "Firecracker was not ready in time");
    }
    if (status == KELPIE_CRASHED || status == KELPIE_INTERNAL) {
        return error_wrap(err, KELPIE_BOOT_FAILED, "the machine was not made");
    }
    return status;
}

static enum kelpie_status set_state(struct backend_instance *instance, const char *state,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(state);
    return firecracker_ask(instance, "PATCH", "/vm", json_pack("{s:s}", "state", state), wait, err);
}

static enum kelpie_status firecracker_pause(struct backend_instance *instance,
                                            const struct host_wait *wait,
                                            struct kelpie_error *err) {
    ASSERT(instance && wait);
    ASSERT(instance->host);
    return set_state(instance, "Paused", wait, err);
}

static enum kelpie_status firecracker_resume(struct backend_instance *instance,
                                             const struct host_wait *wait,
                                             struct kelpie_error *err) {
    ASSERT(instance && wait);
    ASSERT(instance->host);
    return set_state(instance, "Resumed", wait, err);
}

static enum kelpie_status firecracker_settle(struct backend_instance *instance,
                                             struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(instance->disks.config == instance->config);
    return monitor_disks_settle(&instance->disks, err);
}

static uint64_t firecracker_disk_bytes(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    ASSERT(instance->disks.config == instance->config);
    return monitor_disks_bytes(&instance->disks);
}

static bool firecracker_has_disks(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    ASSERT(instance->disks.config == instance->config);
    return monitor_disks_are_kept(&instance->disks);
}

static enum kelpie_status firecracker_stop(struct backend_instance *instance,
                                           const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    (void)err;
    monitor_await_end(&instance->monitor, wait);
    firecracker_process_take_down(instance);
    return KELPIE_OK;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static int firecracker_channel_fd(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    host_mutex_lock(instance->monitor.lock);
    int fd = instance->channel_fd;
    host_mutex_unlock(instance->monitor.lock);
    return fd;
}

static void firecracker_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    firecracker_instance_check(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(instance->monitor.lock);
    monitor_exit_text(&instance->monitor, firecracker_reason(instance), buffer, size);
    host_mutex_unlock(instance->monitor.lock);
}

const struct backend_ops backend_firecracker_ops = {
    .name = "firecracker",
    .description = "Firecracker, on KVM",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY | KELPIE_CAN_FORK | KELPIE_CAN_NETWORK_TAP |
                    KELPIE_CAN_DIFF_SNAPSHOT,
    .in_auto = true,
    .has_hypervisor = true,
    .probe = firecracker_probe,
    .create = firecracker_create,
    .destroy = firecracker_destroy,
    .start = firecracker_start,
    .load = firecracker_load,
    .load_running = firecracker_load_running,
    .settle = firecracker_settle,
    .has_disks = firecracker_has_disks,
    .identify = firecracker_identify,
    .track = firecracker_track,
    .presave = firecracker_presave,
    .pause = firecracker_pause,
    .resume = firecracker_resume,
    .save = firecracker_save,
    .stop = firecracker_stop,
    .kill = monitor_op_kill,
    .channel_fd = firecracker_channel_fd,
    .exit_fd = monitor_op_exit_fd,
    .process_id = monitor_op_process_id,
    .exit_text = firecracker_exit_text,
    .service_fds = monitor_op_service_fds,
    .service = monitor_op_service,
    .disk_bytes = firecracker_disk_bytes,
    .console = monitor_op_console,
};
