/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of the qemu backend. The theory of operation is in qemu_instance.h. */
#include "backend/qemu/qemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/qemu/qemu_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"

static void qemu_probe(struct host *host, struct kelpie_probe *ret_probe) {
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){0};
    struct kelpie_error error;
    AUTO_MEM struct qemu_probe *probe = host_allocate(host, sizeof(*probe), &error);
    enum kelpie_status status =
        probe ? qemu_probe_run(host, NULL, HOST_FD_NONE, probe, &error) : KELPIE_NO_MEMORY;
    if (status != KELPIE_OK) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason), "%.511s", error.message);
        snprintf(ret_probe->install, sizeof(ret_probe->install), QEMU_INSTALL_HINT);
        return;
    }
    ret_probe->usable = true;
    ret_probe->ring0_ns = probe->ring0_ns;
    snprintf(ret_probe->reason, sizeof(ret_probe->reason), "QEMU %s; %s", probe->version,
             probe->acceleration);
    snprintf(ret_probe->version, sizeof(ret_probe->version), "%s", probe->version);
    snprintf(ret_probe->accelerator, sizeof(ret_probe->accelerator), "%s",
             qemu_accelerator_name(probe->accelerator));
}

static void qemu_probe_shares(struct host *host, char *text, size_t size) {
    struct monitor_virtiofsd virtiofsd;
    const struct host_wait wait = host_wait_ms(host, MONITOR_SHARES_LOOK_TIMEOUT_MS, HOST_FD_NONE);
    ASSERT(host);
    ASSERT(text && size > 0);
    monitor_virtiofsd_find(host, &wait, &virtiofsd);
    monitor_virtiofsd_describe(&virtiofsd, host_user_id(host), text, size);
}

static void qemu_destroy(struct backend_instance *instance) {
    ASSERT(instance->host);
    ASSERT(instance);
    if (instance->monitor.lock) {
        qemu_process_take_down(instance);
    }
    monitor_disks_deinit(&instance->disks);
    monitor_deinit(&instance->monitor);
    free(instance);
}

/* The boot image is prepared here and not in start: the kernel may have to be fetched, which takes as long as
 * it takes, while a start has the boot's deadline. */
static enum kelpie_status qemu_prepare(struct backend_instance *instance, int cancel_fd,
                                       struct kelpie_error *err) {
    ASSERT(!instance->monitor.lock);
    ASSERT(instance->host && instance->config);
    TRY(monitor_init(&instance->monitor, instance->host, instance->config, "QEMU", err));
    instance->tsc_start = qemu_tsc_sample(instance->host);
    TRY(qemu_probe_run(instance->host, instance->config->hypervisor, cancel_fd, &instance->probe,
                       err));
    const struct host_wait wait = host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, cancel_fd);
    TRY(image_boot_prepare(instance->host, instance->config->kernel, &wait, &instance->boot, err));
    if (instance->boot.kernel.form != IMAGE_KERNEL_BZIMAGE) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                               "the qemu backend does not boot libkrunfw's kernel (%.512s): name a "
                               "bzImage, or use the backend kvm",
                               instance->boot.kernel.path);
    }
    return KELPIE_OK;
}

static enum kelpie_status qemu_create(const struct backend_launch *launch,
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
    instance->machine = QEMU_MACHINE_MICROVM;
    instance->memory_fd = HOST_FD_NONE;
    monitor_disks_init(&instance->disks, launch, false);
    monitor_shares_init(&instance->shares, launch->host, launch->config);
    enum kelpie_status status = qemu_prepare(instance, launch->cancel_fd, err);
    if (status != KELPIE_OK) {
        qemu_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

static enum kelpie_status boot(struct backend_instance *instance, const struct host_wait *wait,
                               struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance->memory_fd == HOST_FD_NONE);
    /* The guest calibrates against nothing (qemu_command.c): it is told what the TSC counts at. Create was long
     * enough ago: it ran a process. */
    struct qemu_tsc_sample now = qemu_tsc_sample(instance->host);
    instance->tsc_khz = instance->probe.accelerator == QEMU_ACCELERATOR_TCG
                            ? qemu_tsc_khz(&instance->tsc_start, &now)
                            : 0;
    TRY(monitor_disks_open(&instance->disks, wait, err));
    TRY(host_memory_file(instance->host, "kelpie-memory",
                         (uint64_t)instance->config->memory_mib << 20, &instance->memory_fd, err));
    const struct qemu_process_spec spec = {.memory_fd = instance->memory_fd};
    TRY(qemu_process_start(instance, &spec, wait, err));
    return qemu_cont(instance, wait, err);
}

static enum kelpie_status qemu_start(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    ASSERT(wait);
    enum kelpie_status status = boot(instance, wait, err);
    if (status != KELPIE_OK) {
        qemu_process_take_down(instance);
    }
    if (status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_BOOT_TIMED_OUT, "QEMU was not ready in time");
    }
    return status;
}

static enum kelpie_status qemu_pause(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance && wait);
    return qemu_execute(instance, "stop", NULL, wait, err);
}

static enum kelpie_status qemu_resume(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance && wait);
    return qemu_cont(instance, wait, err);
}

static enum kelpie_status qemu_settle(struct backend_instance *instance, struct kelpie_error *err) {
    qemu_instance_check(instance);
    return monitor_disks_settle(&instance->disks, err);
}

static uint64_t qemu_disk_bytes(struct backend_instance *instance) {
    qemu_instance_check(instance);
    return monitor_disks_bytes(&instance->disks);
}

static bool qemu_has_disks(struct backend_instance *instance) {
    qemu_instance_check(instance);
    return monitor_disks_are_kept(&instance->disks);
}

static bool qemu_shows_share(struct backend_instance *instance, size_t index) {
    qemu_instance_check(instance);
    ASSERT(index < instance->config->share_count);
    return monitor_shares_has(&instance->shares, index);
}

static enum kelpie_status qemu_stop(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance && wait);
    (void)err;
    monitor_await_end(&instance->monitor, wait);
    qemu_process_take_down(instance);
    return KELPIE_OK;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static void qemu_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    qemu_instance_check(instance);
    ASSERT(buffer && size > 0);
    char text[QEMU_QMP_NAME_SIZE_MAX + 1];
    const char *reason = qemu_process_reason(instance, text, sizeof(text));
    host_mutex_lock(instance->monitor.lock);
    monitor_exit_text(&instance->monitor, reason, buffer, size);
    host_mutex_unlock(instance->monitor.lock);
}

static size_t qemu_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    qemu_instance_check(instance);
    ASSERT(fds || capacity == 0);
    size_t count = monitor_service_fds(&instance->monitor, fds, capacity);
    host_mutex_lock(instance->monitor.lock);
    if (instance->qmp && count < capacity && qmp_fd(instance->qmp) != HOST_FD_NONE) {
        fds[count++] = qmp_fd(instance->qmp);
    }
    host_mutex_unlock(instance->monitor.lock);
    return count;
}

static void qemu_service(struct backend_instance *instance, int fd) {
    qemu_instance_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    if (monitor_service(&instance->monitor, fd)) {
        return;
    }
    host_mutex_lock(instance->monitor.lock);
    if (instance->qmp) {
        qmp_service(instance->qmp);
    }
    host_mutex_unlock(instance->monitor.lock);
}

const struct backend_ops backend_qemu_ops = {
    .name = "qemu",
    .description = "QEMU, with whatever acceleration really runs (KVM, HVF, or emulation)",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY | KELPIE_CAN_FORK | KELPIE_CAN_NETWORK,
    .in_auto = true,
    .has_hypervisor = true,
    .probe = qemu_probe,
    .probe_shares = qemu_probe_shares,
    .create = qemu_create,
    .destroy = qemu_destroy,
    .start = qemu_start,
    .load = qemu_load,
    .settle = qemu_settle,
    .has_disks = qemu_has_disks,
    .shows_share = qemu_shows_share,
    .identify = qemu_identify,
    .pause = qemu_pause,
    .resume = qemu_resume,
    .save = qemu_save,
    .stop = qemu_stop,
    .kill = monitor_op_kill,
    .channel_fd = monitor_op_channel_fd,
    .exit_fd = monitor_op_exit_fd,
    .process_id = monitor_op_process_id,
    .exit_text = qemu_exit_text,
    .service_fds = qemu_service_fds,
    .service = qemu_service,
    .disk_bytes = qemu_disk_bytes,
    .console = monitor_op_console,
};
