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
    } else if (!host_kvm_is_native(taken_ns)) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 KVM_DEVICE " interprets kernel-mode code (%u instructions take more than %llu ms),"
                            " so Linux does not boot on it",
                 HOST_KVM_INSTRUCTION_COUNT,
                 (unsigned long long)(HOST_KVM_NATIVE_NS_MAX / HOST_NS_PER_MS));
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
    kvm_instance_deinit(instance);
    free(instance);
}

/* A kernel that is unpacked here, once, and not by each guest anew: a third of a boot. It is then where it was linked to be, as with
 * Firecracker: Linux moves itself to a random place only as it unpacks itself. */
static enum kelpie_status find_images(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    struct image_kernel *kernel = &instance->boot.kernel;
    TRY(image_boot_prepare(instance->host, instance->config->kernel, wait, &instance->boot, err));
    if (kernel->form != IMAGE_KERNEL_BZIMAGE) {
        return KELPIE_OK;
    }
    enum kelpie_status status =
        image_kernel_unpack(instance->host, kernel, wait, instance->unpacked_path,
                            sizeof(instance->unpacked_path), err);
    /* One that is packed in a way we do not know unpacks itself. */
    return status == KELPIE_BAD_CONFIG ? KELPIE_OK : status;
}

static enum kelpie_status init(struct backend_instance *instance,
                               const struct backend_launch *launch, struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(launch->host);
    TRY(kvm_instance_init(instance, launch, err));
    if (launch->for_bundle) {
        return KELPIE_OK;
    }
    const struct host_wait wait =
        host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, launch->cancel_fd);
    return find_images(instance, &wait, err);
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
    enum kelpie_status status = init(instance, launch, err);
    if (status != KELPIE_OK) {
        kvm_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

/* ---- Run -------------------------------------------------------------------------------------- */

/* Kernel and initramfs, or a raw kernel and its boot disk. */
static enum kelpie_status open_images(struct backend_instance *instance, int *ret_kernel_fd,
                                      int *ret_initramfs_fd, struct kelpie_error *err) {
    struct host *host = instance->host;
    const struct image_boot *images = &instance->boot;
    ASSERT(ret_kernel_fd && ret_initramfs_fd);
    ASSERT(instance->medium.size == 0);
    if (images->kernel.form != IMAGE_KERNEL_KRUNFW) {
        const char *path =
            instance->unpacked_path[0] ? instance->unpacked_path : images->kernel.path;
        TRY(host_file_open(host, path, HOST_OPEN_READ, 0, ret_kernel_fd, err));
        return host_file_open(host, images->initramfs_path, HOST_OPEN_READ, 0, ret_initramfs_fd,
                              err);
    }
    struct kvm_medium *medium = &instance->medium;
    struct host_krunfw krunfw = {.fd = HOST_FD_NONE};
    TRY(host_krunfw_load(host, images->kernel.path, &krunfw, err));
    *ret_kernel_fd = krunfw.fd;
    medium->kernel_load = krunfw.load_gpa;
    medium->kernel_entry = krunfw.entry_gpa;
    return image_medium_build(host, images, &medium->fd, &medium->size, err);
}

static enum kelpie_status boot(struct backend_instance *instance, const struct host_wait *wait,
                               struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(!instance->monitor.process);
    struct host *host = instance->host;
    AUTO_FD struct host_fd kernel = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd initramfs = {host, HOST_FD_NONE};
    const uint64_t memory_size = (uint64_t)instance->config->memory_mib << 20;
    if (!instance->boot.kernel.path[0]) {
        TRY(find_images(instance, wait, err)); /* it was made for a bundle */
    }
    TRY(open_images(instance, &kernel.fd, &initramfs.fd, err));
    TRY(monitor_disks_open(&instance->disks, wait, err));
    TRY(kvm_process_start(instance, err));
    TRY(host_memory_file(host, "kelpie-memory", memory_size, &instance->memory_fd, err));
    TRY(kvm_pass(instance, CONTROL_ROLE_KERNEL, kernel.fd, err));
    if (initramfs.fd != HOST_FD_NONE) {
        TRY(kvm_pass(instance, CONTROL_ROLE_INITRAMFS, initramfs.fd, err));
    }
    TRY(kvm_pass(instance, CONTROL_ROLE_MEMORY, instance->memory_fd, err));
    return kvm_order_machine(instance, CONTROL_BOOT, true, wait, err);
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
    kvm_instance_check(instance);
    ASSERT(wait);
    return kvm_order_plain(instance, CONTROL_PAUSE, wait, err);
}

static enum kelpie_status kvm_resume(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    return kvm_order_plain(instance, CONTROL_RESUME, wait, err);
}

static enum kelpie_status kvm_identify(struct backend_instance *instance,
                                       struct snapshot_manifest *manifest,
                                       struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(manifest);
    if (!instance->boot.kernel.path[0]) { /* it was made for a bundle */
        const struct host_wait wait =
            host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, HOST_FD_NONE);
        TRY(find_images(instance, &wait, err));
    }
    kvm_manifest_fill(instance, manifest);
    return KELPIE_OK;
}

static enum kelpie_status kvm_settle(struct backend_instance *instance, struct kelpie_error *err) {
    kvm_instance_check(instance);
    return monitor_disks_settle(&instance->disks, err);
}

static uint64_t kvm_disk_bytes(struct backend_instance *instance) {
    kvm_instance_check(instance);
    return monitor_disks_bytes(&instance->disks);
}

static bool kvm_has_disks(struct backend_instance *instance) {
    kvm_instance_check(instance);
    return monitor_disks_are_kept(&instance->disks);
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

const struct backend_ops backend_kvm_ops = {
    .name = "kvm",
    .description = "Kelpie's own monitor on KVM",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY | KELPIE_CAN_FORK | KELPIE_CAN_NETWORK |
                    KELPIE_CAN_DIFF_SNAPSHOT,
    .in_auto = true,
    .probe = kvm_probe,
    .create = kvm_create,
    .destroy = kvm_destroy,
    .start = kvm_start,
    .prepare = kvm_prepare,
    .load = kvm_load,
    .load_running = kvm_load_running,
    .settle = kvm_settle,
    .has_disks = kvm_has_disks,
    .identify = kvm_identify,
    .pause = kvm_pause,
    .resume = kvm_resume,
    .track = kvm_track,
    .presave = kvm_presave,
    .touched = kvm_touched,
    .expect = kvm_expect,
    .save = kvm_save,
    .stop = kvm_stop,
    .kill = monitor_op_kill,
    .channel_fd = monitor_op_channel_fd,
    .exit_fd = monitor_op_exit_fd,
    .process_id = monitor_op_process_id,
    .exit_text = monitor_op_exit_text,
    .service_fds = monitor_op_service_fds,
    .service = monitor_op_service,
    .disk_bytes = kvm_disk_bytes,
    .console = monitor_op_console,
};
