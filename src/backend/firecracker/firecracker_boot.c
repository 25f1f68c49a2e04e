/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A machine that boots, as requests to the API (Firecracker's specification: src/firecracker/swagger/firecracker.yaml). */
#include <stdio.h>
#include <string.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "base/mac.h"

#define FD_PATH_SIZE 32
#define GUEST_CID 3
#define INTERFACE_ID "net"

enum kelpie_status firecracker_find_images(struct backend_instance *instance,
                                           const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    struct image_boot *boot = &instance->boot;
    TRY(image_boot_prepare(instance->host, instance->config->kernel, wait, boot, err));
    if (boot->kernel.form != IMAGE_KERNEL_BZIMAGE) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                               "the firecracker backend does not boot libkrunfw's kernel (%.512s): "
                               "name a bzImage, or use the backend kvm",
                               boot->kernel.path);
    }
    return image_kernel_unpack(instance->host, &boot->kernel, wait, instance->kernel_path,
                               sizeof(instance->kernel_path), err);
}

static const char *fd_path(int number, char path[FD_PATH_SIZE]) {
    ASSERT(number >= MONITOR_CHILD_NEXT);
    ASSERT(number < FIRECRACKER_CHILD_END);
    snprintf(path, FD_PATH_SIZE, "/proc/self/fd/%d", number);
    return path;
}

/*
 * The kernel's command line. The machine has no power switch and resets by the keyboard controller, which ends Firecracker; panic=-1 is such
 * a reset, at once, and its text is on the console. There is no keyboard to look for, and no PCI bus.
 */
static enum kelpie_status put_boot_source(struct backend_instance *instance,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    const char *more = instance->config->kernel_args ? instance->config->kernel_args : "";
    char args[FIRECRACKER_BOOT_ARGS_SIZE_MAX + 1];
    char kernel[FD_PATH_SIZE];
    char initrd[FD_PATH_SIZE];
    firecracker_instance_check(instance);
    int size =
        snprintf(args, sizeof(args),
                 "console=ttyS0 reboot=k panic=-1 pci=off i8042.noaux i8042.nomux i8042.dumbkbd "
                 "kelpie.poweroff=reboot quiet%s%s",
                 more[0] ? " " : "", more);
    ASSERT(size > 0);
    if ((size_t)size >= sizeof(args)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                               "kernel_args are too long: with ours they make %d bytes of at most "
                               "%d",
                               size, FIRECRACKER_BOOT_ARGS_SIZE_MAX);
    }
    json_t *body =
        json_pack("{s:s, s:s, s:s}", "kernel_image_path", fd_path(FIRECRACKER_CHILD_KERNEL, kernel),
                  "initrd_path", fd_path(FIRECRACKER_CHILD_INITRAMFS, initrd), "boot_args", args);
    return firecracker_ask(instance, "PUT", "/boot-source", body, wait, err);
}

static enum kelpie_status put_machine(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    const struct kelpie_config *config = instance->config;
    firecracker_instance_check(instance);
    ASSERT(config->vcpu_count >= KELPIE_VCPU_COUNT_MIN);
    return firecracker_ask(instance, "PUT", "/machine-config",
                           json_pack("{s:I, s:I}", "vcpu_count", (json_int_t)config->vcpu_count,
                                     "mem_size_mib", (json_int_t)config->memory_mib),
                           wait, err);
}

/* Writeback: the guest's flush is one, so that what it has synced is on the disk. */
static enum kelpie_status put_drive(struct backend_instance *instance, size_t index,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    char id[32];
    char path[48];
    char file[FD_PATH_SIZE];
    bool read_only = instance->disks.disks[index].read_only;
    firecracker_instance_check(instance);
    ASSERT(index < instance->config->disk_count);
    snprintf(id, sizeof(id), "disk%zu", index);
    snprintf(path, sizeof(path), "/drives/%s", id);
    json_t *body = json_pack("{s:s, s:b, s:b, s:s, s:s}", "drive_id", id, "is_root_device", 0,
                             "is_read_only", (int)read_only, "path_on_host",
                             fd_path(FIRECRACKER_CHILD_DISK_0 + (int)index, file), "cache_type",
                             read_only ? "Unsafe" : "Writeback");
    return firecracker_ask(instance, "PUT", path, body, wait, err);
}

static enum kelpie_status put_network(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    const struct kelpie_network *network = instance->config->network;
    firecracker_instance_check(instance);
    if (!network) {
        return KELPIE_OK;
    }
    ASSERT(network->kind == KELPIE_NETWORK_TAP);
    ASSERT(network->tap && network->mac);
    return firecracker_ask(instance, "PUT", "/network-interfaces/" INTERFACE_ID,
                           json_pack("{s:s, s:s, s:s}", "iface_id", INTERFACE_ID, "host_dev_name",
                                     network->tap, "guest_mac", network->mac),
                           wait, err);
}

/*
 * What the guest has freed goes back to the host by itself: a balloon that is never filled, whose driver reports free pages. There is
 * nothing for an older version: a balloon would have to be filled by somebody, and nobody asks for its statistics.
 */
static enum kelpie_status put_balloon(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    if (!firecracker_probe_has(&instance->probe, FIRECRACKER_MINOR_REPORTING)) {
        return KELPIE_OK;
    }
    return firecracker_ask(instance, "PUT", "/balloon",
                           json_pack("{s:i, s:b, s:b}", "amount_mib", 0, "deflate_on_oom", 1,
                                     "free_page_reporting", 1),
                           wait, err);
}

static enum kelpie_status configure(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    TRY(put_machine(instance, wait, err));
    TRY(put_boot_source(instance, wait, err));
    for (size_t i = 0; i < instance->config->disk_count; i++) {
        TRY(put_drive(instance, i, wait, err));
    }
    TRY(put_network(instance, wait, err));
    TRY(firecracker_ask(instance, "PUT", "/vsock",
                        json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path", "v"), wait,
                        err));
    TRY(put_balloon(instance, wait, err));
    TRY(firecracker_ask(instance, "PUT", "/entropy", json_object(), wait, err));
    return firecracker_ask(instance, "PUT", "/actions",
                           json_pack("{s:s}", "action_type", "InstanceStart"), wait, err);
}

enum kelpie_status firecracker_boot(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    struct host *host = instance->host;
    AUTO_FD struct host_fd kernel = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd initramfs = {host, HOST_FD_NONE};
    firecracker_instance_check(instance);
    ASSERT(!instance->monitor.process);
    if (!instance->kernel_path[0]) {
        TRY(firecracker_find_images(instance, wait, err)); /* it was made for a bundle */
    }
    TRY(host_file_open(host, instance->kernel_path, HOST_OPEN_READ, 0, &kernel.fd, err));
    TRY(host_file_open(host, instance->boot.initramfs_path, HOST_OPEN_READ, 0, &initramfs.fd, err));
    TRY(monitor_disks_open(&instance->disks, wait, err));
    const int fds[2] = {kernel.fd, initramfs.fd};
    TRY(firecracker_process_start(instance, fds, wait, err));
    return configure(instance, wait, err);
}
