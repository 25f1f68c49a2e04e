/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of the libkrun backend. The theory of operation is in libkrun_instance.h. */
#include "backend/libkrun/libkrun.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/libkrun/libkrun_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "host/host_kvm.h"

/* ---- Probe ------------------------------------------------------------------------------------ */

/* Whether KVM, which libkrun is for, runs a kernel here. */
static void probe_kvm(struct host *host, struct kelpie_probe *ret_probe) {
    struct kelpie_error error = {0};
    ASSERT(host);
    ASSERT(!ret_probe->usable);
    enum kelpie_status status =
        host_kvm_probe(host, HOST_KVM_BUDGET_NS, &ret_probe->ring0_ns, &error);
    if (status != KELPIE_OK) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 "libkrun is here, KVM is not: %.400s", error.message);
        snprintf(ret_probe->install, sizeof(ret_probe->install),
                 "load the module kvm-intel or kvm-amd, and make /dev/kvm accessible to this user");
    } else if (!host_kvm_is_native(ret_probe->ring0_ns)) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 "libkrun is here, but /dev/kvm interprets kernel-mode code (%u instructions take "
                 "more than %llu ms), so Linux does not boot on it",
                 HOST_KVM_INSTRUCTION_COUNT,
                 (unsigned long long)(HOST_KVM_NATIVE_NS_MAX / HOST_NS_PER_MS));
    } else {
        ret_probe->usable = true;
    }
}

static void libkrun_probe(struct host *host, struct kelpie_probe *ret_probe) {
    struct kelpie_error error = {0};
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){.accelerator = "kvm"};
    AUTO_MEM struct libkrun_probe *probe = host_allocate(host, sizeof(*probe), &error);
    enum kelpie_status status =
        probe ? libkrun_probe_run(host, NULL, HOST_FD_NONE, probe, &error) : KELPIE_NO_MEMORY;
    if (status != KELPIE_OK) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason), "%.511s", error.message);
        snprintf(ret_probe->install, sizeof(ret_probe->install), LIBKRUN_INSTALL_HINT);
        return;
    }
    snprintf(ret_probe->version, sizeof(ret_probe->version), "%s", probe->version);
    probe_kvm(host, ret_probe);
    if (ret_probe->usable) {
        snprintf(ret_probe->reason, sizeof(ret_probe->reason),
                 "%.200s, with %.200s; it can%s pause, and has %s", probe->library, probe->kernel,
                 probe->can & KRUN_CAN_PAUSE ? "" : "not",
                 probe->can & KRUN_CAN_STREAM ? "networks" : "no network");
    }
}

/* ---- Create and destroy ----------------------------------------------------------------------- */

static void libkrun_destroy(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->host);
    if (instance->monitor.lock) {
        libkrun_process_take_down(instance);
    }
    monitor_disks_deinit(&instance->disks);
    monitor_deinit(&instance->monitor);
    free(instance);
}

/* What this library was built without, or what its version has not. */
static enum kelpie_status check_network(const struct backend_instance *instance,
                                        struct kelpie_error *err) {
    const struct kelpie_network *network = instance->config->network;
    const struct libkrun_probe *probe = &instance->probe;
    libkrun_instance_check(instance);
    ASSERT(probe->abi > 0);
    if (!network) {
        return KELPIE_OK;
    }
    bool tap = network->kind == KELPIE_NETWORK_TAP;
    if (!(probe->can & (tap ? KRUN_CAN_TAP : KRUN_CAN_STREAM))) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "network",
                               "libkrun %s has no network of kind %s: %s", probe->version,
                               tap ? "tap" : "user",
                               tap && probe->abi == 2 ? "use kind user, or another backend"
                                                      : "it takes one that was built with NET=1");
    }
    return KELPIE_OK;
}

/* A kernel that is named is looked at first: a bzImage is no library that could be loaded. */
static enum kelpie_status find_images(struct backend_instance *instance, int cancel_fd,
                                      struct kelpie_error *err) {
    struct host *host = instance->host;
    const char *kernel = instance->config->kernel;
    libkrun_instance_check(instance);
    ASSERT(!instance->monitor.process);
    const struct host_wait wait = host_wait_ms(host, IMAGE_FETCH_TIMEOUT_MS, cancel_fd);
    if (kernel) {
        TRY(image_boot_prepare(host, kernel, &wait, &instance->boot, err));
        if (instance->boot.kernel.form != IMAGE_KERNEL_KRUNFW) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                                   "the libkrun backend boots libkrunfw's kernel, and no bzImage "
                                   "(%.512s): name a libkrunfw.so.5, or none",
                                   kernel);
        }
    }
    TRY(libkrun_probe_run(host, instance->config, cancel_fd, &instance->probe, err));
    TRY(check_network(instance, err));
    return kernel ? KELPIE_OK
                  : image_boot_prepare(host, instance->probe.kernel, &wait, &instance->boot, err);
}

static enum kelpie_status make(const struct backend_launch *launch,
                               struct backend_instance **ret_instance, struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(launch->config);
    struct backend_instance *instance = host_allocate(launch->host, sizeof(*instance), err);
    if (!instance) {
        return KELPIE_NO_MEMORY;
    }
    instance->host = launch->host;
    instance->config = launch->config;
    monitor_disks_init(&instance->disks, launch, false);
    enum kelpie_status status =
        monitor_init(&instance->monitor, launch->host, launch->config, "libkrun", err);
    if (status == KELPIE_OK) {
        status = find_images(instance, launch->cancel_fd, err);
    }
    if (status != KELPIE_OK) {
        libkrun_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

static enum kelpie_status libkrun_create(const struct backend_launch *launch,
                                         struct backend_instance **ret_instance,
                                         struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(launch->config);
    enum kelpie_status status = make(launch, ret_instance, err);
    return status == KELPIE_BACKEND_MISSING ? error_wrap(err, status, LIBKRUN_INSTALL_HINT)
                                            : status;
}

static uint32_t libkrun_capabilities(struct backend_instance *instance) {
    libkrun_instance_check(instance);
    ASSERT(instance->probe.abi > 0);
    uint32_t cannot = instance->probe.can & KRUN_CAN_PAUSE ? 0 : KELPIE_CAN_PAUSE;
    cannot |= instance->probe.can & (KRUN_CAN_STREAM | KRUN_CAN_TAP) ? 0 : KELPIE_CAN_NETWORK;
    return ~cannot;
}

/* ---- Run -------------------------------------------------------------------------------------- */

static enum kelpie_status libkrun_start(struct backend_instance *instance,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(wait);
    enum kelpie_status status = monitor_disks_open(&instance->disks, wait, err);
    if (status == KELPIE_OK) {
        status = libkrun_process_start(instance, wait, err);
    }
    if (status != KELPIE_OK) {
        libkrun_process_take_down(instance);
    }
    if (status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_BOOT_TIMED_OUT, "libkrun was not ready in time");
    }
    return status;
}

static enum kelpie_status libkrun_pause(struct backend_instance *instance,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(wait);
    return libkrun_process_order(instance, "pause", wait, err);
}

static enum kelpie_status libkrun_resume(struct backend_instance *instance,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(wait);
    return libkrun_process_order(instance, "resume", wait, err);
}

/* No release of libkrun can write a machine out, or take one in. */
static enum kelpie_status libkrun_save(struct backend_instance *instance,
                                       enum kelpie_snapshot_kind kind,
                                       struct snapshot_writer *writer, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(writer && wait);
    (void)kind;
    return error_set(err, KELPIE_UNSUPPORTED,
                     "libkrun cannot save a machine: use the backend kvm or qemu for snapshots");
}

static enum kelpie_status libkrun_load(struct backend_instance *instance,
                                       struct snapshot_reader *reader, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(reader && wait);
    return error_set(err, KELPIE_UNSUPPORTED,
                     "libkrun cannot load a machine: use the backend that the snapshot is of");
}

static bool libkrun_has_disks(struct backend_instance *instance) {
    libkrun_instance_check(instance);
    return monitor_disks_are_kept(&instance->disks);
}

static uint64_t libkrun_disk_bytes(struct backend_instance *instance) {
    libkrun_instance_check(instance);
    return monitor_disks_bytes(&instance->disks);
}

static enum kelpie_status libkrun_stop(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    libkrun_instance_check(instance);
    ASSERT(wait);
    (void)err;
    monitor_await_end(&instance->monitor, wait);
    libkrun_process_take_down(instance);
    return KELPIE_OK;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static void libkrun_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    libkrun_instance_check(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(instance->monitor.lock);
    monitor_exit_text(&instance->monitor, libkrun_process_reason(instance), buffer, size);
    host_mutex_unlock(instance->monitor.lock);
}

const struct backend_ops backend_libkrun_ops = {
    .name = "libkrun",
    .description = "libkrun, a monitor that is a library, on KVM",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE | KELPIE_CAN_DISKS |
                    KELPIE_CAN_TTY | KELPIE_CAN_NETWORK,
    .in_auto = false,
    .has_hypervisor = true,
    .probe = libkrun_probe,
    .create = libkrun_create,
    .destroy = libkrun_destroy,
    .instance_capabilities = libkrun_capabilities,
    .start = libkrun_start,
    .load = libkrun_load,
    .has_disks = libkrun_has_disks,
    .pause = libkrun_pause,
    .resume = libkrun_resume,
    .save = libkrun_save,
    .stop = libkrun_stop,
    .kill = monitor_op_kill,
    .channel_fd = monitor_op_channel_fd,
    .exit_fd = monitor_op_exit_fd,
    .process_id = monitor_op_process_id,
    .exit_text = libkrun_exit_text,
    .service_fds = monitor_op_service_fds,
    .service = monitor_op_service,
    .disk_bytes = libkrun_disk_bytes,
    .console = monitor_op_console,
};
