/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of the kvm backend. The theory of operation is in kvm_instance.h. */
#include "backend/kvm/kvm_backend.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"
#include "host/host_krunfw.h"
#include "host/host_kvm.h"

/* ---- Probe ------------------------------------------------------------------------------------ */

static void kvm_probe(struct host *host, struct kelpie_probe *ret_probe) {
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){.accelerator = "kvm"};
    snprintf(ret_probe->version, sizeof(ret_probe->version), "%s", kelpie_version());
    struct kelpie_error error = {0};
    uint64_t taken_ns = 0;
    enum kelpie_status status = host_kvm_probe(host, HOST_KVM_BUDGET_NS, &taken_ns, &error);
    ret_probe->ring0_ns = taken_ns;
    if (status == KELPIE_NOT_FOUND) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason), "there is no " KVM_DEVICE);
        snprintf(ret_probe->install, sizeof(ret_probe->install),
                 "load the module kvm-intel or kvm-amd, or switch virtualisation on in the "
                 "firmware");
    } else if (status != KELPIE_OK) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason), "%.511s", error.message);
        snprintf(ret_probe->install, sizeof(ret_probe->install),
                 "make " KVM_DEVICE " accessible to this user, such as by the group kvm");
    } else if (taken_ns >= HOST_KVM_BUDGET_NS) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 KVM_DEVICE " interprets kernel-mode code (%u instructions take more than %llu ms),"
                            " so Linux does not boot on it",
                 HOST_KVM_INSTRUCTION_COUNT,
                 (unsigned long long)(HOST_KVM_BUDGET_NS / HOST_NS_PER_MS));
    } else {
        ret_probe->usable = true;
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 KVM_DEVICE " runs kernel-mode code natively");
    }
}

/* ---- Create and destroy ----------------------------------------------------------------------- */

static void kvm_destroy(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->host);
    if (instance->monitor.lock) {
        kvm_process_take_down(instance);
    }
    monitor_deinit(&instance->monitor);
    host_close(instance->host, instance->program_fd);
    free(instance);
}

static enum kelpie_status kvm_prepare(struct backend_instance *instance, int cancel_fd,
                                      struct kelpie_error *err) {
    ASSERT(instance->host);
    ASSERT(instance->config);
    TRY(monitor_init(&instance->monitor, instance->host, instance->config, "kelpie-vmm", err));
    const struct host_wait wait = host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, cancel_fd);
    return image_boot_prepare(instance->host, instance->config->kernel, &wait, &instance->boot,
                              err);
}

static enum kelpie_status kvm_create(const struct backend_launch *launch,
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
    instance->program_fd = HOST_FD_NONE;
    instance->control_fd = HOST_FD_NONE;
    monitor_disks_init(&instance->disks, launch->host, launch->config);
    enum kelpie_status status = kvm_prepare(instance, launch->cancel_fd, err);
    if (status != KELPIE_OK) {
        kvm_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

/* ---- Run -------------------------------------------------------------------------------------- */

static enum kelpie_status boot(struct backend_instance *instance, const struct host_wait *wait,
                               struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(!instance->monitor.process);
    struct host *host = instance->host;
    AUTO_FD struct host_fd kernel = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd initramfs = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd medium = {host, HOST_FD_NONE};
    struct host_krunfw krunfw = {.fd = HOST_FD_NONE};
    instance->medium_size = 0;
    if (instance->boot.kernel.form == IMAGE_KERNEL_KRUNFW) {
        TRY(host_krunfw_load(host, instance->boot.kernel.path, &krunfw, err));
        kernel.fd = krunfw.fd;
        TRY(image_medium_build(host, &instance->boot, &medium.fd, &instance->medium_size, err));
    } else {
        TRY(host_file_open(host, instance->boot.kernel.path, HOST_OPEN_READ, 0, &kernel.fd, err));
        TRY(host_file_open(host, instance->boot.initramfs_path, HOST_OPEN_READ, 0, &initramfs.fd,
                           err));
    }
    TRY(monitor_disks_open(&instance->disks, wait, err));
    const struct kvm_sources sources = {
        .first_fd = kernel.fd,
        .second_fd = initramfs.fd,
        .medium_fd = medium.fd,
        .kernel_load = krunfw.load_gpa,
        .kernel_entry = krunfw.entry_gpa,
    };
    TRY(kvm_process_start(instance, &sources, err));
    return kvm_order_machine(instance, CONTROL_BOOT, &sources, wait, err);
}

static enum kelpie_status kvm_start(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    enum kelpie_status status = boot(instance, wait, err);
    if (status != KELPIE_OK) {
        kvm_process_take_down(instance);
    }
    if (status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_BOOT_TIMED_OUT, "kelpie-vmm was not ready in time");
    }
    if (status == KELPIE_CRASHED || status == KELPIE_INTERNAL) {
        return error_wrap(err, KELPIE_BOOT_FAILED, "the machine was not made");
    }
    return status;
}

static enum kelpie_status kvm_pause(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    return kvm_order_plain(instance, CONTROL_PAUSE, wait, err);
}

static enum kelpie_status kvm_resume(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    return kvm_order_plain(instance, CONTROL_RESUME, wait, err);
}

static void kvm_kill(struct backend_instance *instance) {
    kvm_instance_check(instance);
    monitor_kill(&instance->monitor);
}

static enum kelpie_status kvm_stop(struct backend_instance *instance, const struct host_wait *wait,
                                   struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    (void)err;
    monitor_await_end(&instance->monitor, wait);
    kvm_process_take_down(instance);
    return KELPIE_OK;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static int kvm_channel_fd(struct backend_instance *instance) {
    kvm_instance_check(instance);
    ASSERT(instance);
    return monitor_channel_fd(&instance->monitor);
}

static int kvm_exit_fd(struct backend_instance *instance) {
    kvm_instance_check(instance);
    ASSERT(instance);
    return monitor_exit_fd(&instance->monitor);
}

static int kvm_process_id(struct backend_instance *instance) {
    kvm_instance_check(instance);
    ASSERT(instance);
    return monitor_process_id(&instance->monitor);
}

static void kvm_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    kvm_instance_check(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(instance->monitor.lock);
    monitor_exit_text(&instance->monitor, NULL, buffer, size);
    host_mutex_unlock(instance->monitor.lock);
}

static size_t kvm_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    return monitor_service_fds(&instance->monitor, fds, capacity);
}

static void kvm_service(struct backend_instance *instance, int fd) {
    kvm_instance_check(instance);
    bool known = monitor_service(&instance->monitor, fd);
    ASSERT(known || fd != HOST_FD_NONE); /* one that was closed meanwhile is nobody's any more */
}

static size_t kvm_console(struct backend_instance *instance, void *buffer, size_t size) {
    return monitor_console(&instance->monitor, buffer, size);
}

const struct backend_ops backend_kvm_ops = {
    .name = "kvm",
    .description = "Kelpie's own monitor on KVM",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY,
    .in_auto = true,
    .probe = kvm_probe,
    .create = kvm_create,
    .destroy = kvm_destroy,
    .start = kvm_start,
    .load = kvm_load,
    .pause = kvm_pause,
    .resume = kvm_resume,
    .save = kvm_save,
    .stop = kvm_stop,
    .kill = kvm_kill,
    .channel_fd = kvm_channel_fd,
    .exit_fd = kvm_exit_fd,
    .process_id = kvm_process_id,
    .exit_text = kvm_exit_text,
    .service_fds = kvm_service_fds,
    .service = kvm_service,
    .console = kvm_console,
};
