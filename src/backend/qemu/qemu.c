/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of the qemu backend. The theory of operation is in qemu_instance.h. */
#include "backend/qemu/qemu.h"

#include <signal.h>
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
        probe ? qemu_probe_run(host, HOST_FD_NONE, probe, &error) : KELPIE_NO_MEMORY;
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

static void qemu_destroy(struct backend_instance *instance) {
    ASSERT(instance->host);
    ASSERT(instance);
    if (instance->lock) {
        qemu_process_take_down(instance);
    }
    qemu_console_deinit(&instance->console);
    host_mutex_destroy(instance->lock);
    free(instance);
}

/* The boot image is prepared here and not in start: the kernel may have to be fetched, which takes as long as
 * it takes, while a start has the boot's deadline. */
static enum kelpie_status qemu_prepare(struct backend_instance *instance, int cancel_fd,
                                       struct kelpie_error *err) {
    ASSERT(!instance->lock);
    ASSERT(instance->host && instance->config);
    TRY(host_mutex_create(instance->host, &instance->lock, err));
    instance->tsc_start = qemu_tsc_sample(instance->host);
    TRY(qemu_probe_run(instance->host, cancel_fd, &instance->probe, err));
    TRY(qemu_console_init(&instance->console, instance->host, instance->config->console_log,
                          instance->config->console_bytes_max, err));
    const struct host_wait wait = host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, cancel_fd);
    return image_boot_prepare(instance->host, instance->config->kernel, &wait, &instance->boot,
                              err);
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
    instance->channel_fd = instance->console_fd = instance->stderr_fd = HOST_FD_NONE;
    instance->memory_fd = HOST_FD_NONE;
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        instance->disks[i].fd = HOST_FD_NONE;
    }
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
    TRY(qemu_disks_open(instance, wait, err));
    TRY(host_memory_file(instance->host, "kelpie-memory",
                         (uint64_t)instance->config->memory_mib << 20, &instance->memory_fd, err));
    const struct qemu_process_spec spec = {.memory_fd = instance->memory_fd};
    TRY(qemu_process_start(instance, &spec, wait, err));
    return qemu_cont(instance, wait, err);
}

static enum kelpie_status qemu_start(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->process);
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

static void qemu_kill(struct backend_instance *instance) {
    qemu_instance_check(instance);
    ASSERT(instance);
    host_mutex_lock(instance->lock);
    if (instance->process) {
        enum kelpie_status ignored = host_process_signal(instance->process, SIGKILL, NULL);
        (void)ignored; /* it has ended already */
    }
    host_mutex_unlock(instance->lock);
}

static enum kelpie_status qemu_stop(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance && wait);
    if (instance->process) {
        struct host_process_exit end = {0};
        enum kelpie_status ignored = host_process_wait(instance->process, wait, &end, err);
        (void)ignored; /* one that fails ends like one that is over: the machine is killed */
    }
    qemu_process_take_down(instance);
    return KELPIE_OK;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static int qemu_channel_fd(struct backend_instance *instance) {
    qemu_instance_check(instance);
    host_mutex_lock(instance->lock);
    int fd = instance->channel_fd;
    host_mutex_unlock(instance->lock);
    return fd;
}

static int qemu_exit_fd(struct backend_instance *instance) {
    qemu_instance_check(instance);
    host_mutex_lock(instance->lock);
    int fd = instance->process ? host_process_fd(instance->process) : HOST_FD_NONE;
    host_mutex_unlock(instance->lock);
    return fd;
}

static int qemu_process_id(struct backend_instance *instance) {
    qemu_instance_check(instance);
    host_mutex_lock(instance->lock);
    int id = instance->process ? host_process_id(instance->process) : 0;
    host_mutex_unlock(instance->lock);
    return id;
}

static void qemu_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    qemu_instance_check(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(instance->lock);
    qemu_process_exit_text(instance, buffer, size);
    host_mutex_unlock(instance->lock);
}

static size_t qemu_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    qemu_instance_check(instance);
    ASSERT(fds || capacity == 0);
    host_mutex_lock(instance->lock);
    const int wanted[] = {
        instance->console_fd,
        instance->stderr_fd,
        instance->qmp ? qmp_fd(instance->qmp) : HOST_FD_NONE,
    };
    host_mutex_unlock(instance->lock);
    static_assert(ARRAY_SIZE(wanted) <= BACKEND_SERVICE_FD_COUNT_MAX, "there is room for each");
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(wanted) && count < capacity; i++) {
        if (wanted[i] != HOST_FD_NONE) {
            fds[count++] = wanted[i];
        }
    }
    return count;
}

static void qemu_service(struct backend_instance *instance, int fd) {
    qemu_instance_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    host_mutex_lock(instance->lock);
    if (fd == instance->console_fd) {
        if (!qemu_console_drain(&instance->console, fd)) {
            host_close(instance->host, instance->console_fd);
            instance->console_fd = HOST_FD_NONE;
        }
    } else if (fd == instance->stderr_fd) {
        qemu_process_drain_stderr(instance);
    } else if (instance->qmp) {
        qmp_service(instance->qmp);
    }
    host_mutex_unlock(instance->lock);
}

static size_t qemu_console(struct backend_instance *instance, void *buffer, size_t size) {
    qemu_instance_check(instance);
    ASSERT(buffer || size == 0);
    host_mutex_lock(instance->lock);
    size_t count = qemu_console_tail(&instance->console, buffer, size);
    host_mutex_unlock(instance->lock);
    return count;
}

const struct backend_ops backend_qemu_ops = {
    .name = "qemu",
    .description = "QEMU, with whatever acceleration really runs (KVM, HVF, or emulation)",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY,
    .in_auto = true,
    .probe = qemu_probe,
    .create = qemu_create,
    .destroy = qemu_destroy,
    .start = qemu_start,
    .load = qemu_load,
    .pause = qemu_pause,
    .resume = qemu_resume,
    .save = qemu_save,
    .stop = qemu_stop,
    .kill = qemu_kill,
    .channel_fd = qemu_channel_fd,
    .exit_fd = qemu_exit_fd,
    .process_id = qemu_process_id,
    .exit_text = qemu_exit_text,
    .service_fds = qemu_service_fds,
    .service = qemu_service,
    .console = qemu_console,
};
