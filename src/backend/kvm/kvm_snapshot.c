/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Saving a machine to a bundle and loading it. */
#include <stdio.h>
#include <string.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"

#define ARCHITECTURE "x86_64"
#define MEDIUM_FEATURE "medium_bytes"
#define MEDIUM_VALUE_SIZE 24

/* ---- Save ------------------------------------------------------------------------------------- */

static enum kelpie_status pass(struct backend_instance *instance, enum control_role role, int fd,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_fd(&writer, role);
    return kvm_order(instance, &writer, fd, wait, err);
}

static void save_manifest(const struct backend_instance *instance,
                          struct snapshot_manifest *manifest) {
    kvm_instance_check(instance);
    ASSERT(manifest);
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
             kelpie_version());
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), ARCHITECTURE);
    snprintf(manifest->kernel_digest, sizeof(manifest->kernel_digest), "%s",
             instance->boot.kernel.digest);
    snprintf(manifest->initramfs_digest, sizeof(manifest->initramfs_digest), "%s",
             instance->boot.initramfs_digest);
    manifest->vcpu_count = instance->config->vcpu_count;
    manifest->memory_mib = instance->config->memory_mib;
    manifest->memory_in_state = false;
}

enum kelpie_status kvm_save(struct backend_instance *instance, enum kelpie_snapshot_kind kind,
                            struct snapshot_writer *writer, const struct host_wait *wait,
                            struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(writer && wait);
    if (kind != KELPIE_SNAPSHOT_SUSPEND && kind != KELPIE_SNAPSHOT_TELEPORT) {
        return error_set(err, KELPIE_UNSUPPORTED, "the kvm backend cannot write this kind");
    }
    save_manifest(instance, snapshot_writer_manifest(writer));
    if (instance->medium_size > 0) {
        char size[MEDIUM_VALUE_SIZE];
        snprintf(size, sizeof(size), "%llu", (unsigned long long)instance->medium_size);
        TRY(snapshot_manifest_add_feature(snapshot_writer_manifest(writer), MEDIUM_FEATURE, size,
                                          err));
    }
    int state_fd = HOST_FD_NONE;
    int memory_fd = HOST_FD_NONE;
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &state_fd, err));
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &memory_fd, err));
    TRY(pass(instance, CONTROL_ROLE_STATE, state_fd, wait, err));
    TRY(pass(instance, CONTROL_ROLE_MEMORY, memory_fd, wait, err));
    TRY(kvm_order_plain(instance, CONTROL_SAVE, wait, err));
    return monitor_disks_save(&instance->disks, kind, writer, wait, err);
}

/* ---- Load ------------------------------------------------------------------------------------- */

/* What the monitor itself does not see; processor features and TSC are in its state, and checked there. */
static enum kelpie_status check_manifest(const struct backend_instance *instance,
                                         const struct snapshot_manifest *manifest,
                                         struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(manifest);
    if (strcmp(manifest->info.architecture, ARCHITECTURE) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "architecture",
                               "the snapshot is of a machine of architecture %s",
                               manifest->info.architecture);
    }
    if (manifest->memory_in_state) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                               "the bundle has no memory of its own");
    }
    uint64_t size = (uint64_t)manifest->memory_mib << 20;
    if (manifest->parts[SNAPSHOT_PART_MEMORY].size != size) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                               "the bundle's memory has %llu bytes and not %llu",
                               (unsigned long long)manifest->parts[SNAPSHOT_PART_MEMORY].size,
                               (unsigned long long)size);
    }
    return KELPIE_OK;
}

/* Of a machine with a medium, the medium's size: it says what the machine is, whatever kernel this host would boot. */
static enum kelpie_status load_medium(struct backend_instance *instance,
                                      const struct snapshot_manifest *manifest, int *ret_fd,
                                      struct kelpie_error *err) {
    const char *text = snapshot_manifest_feature(manifest, MEDIUM_FEATURE);
    uint64_t size = 0;
    ASSERT(*ret_fd == HOST_FD_NONE);
    kvm_instance_check(instance);
    instance->medium_size = 0;
    if (!text) {
        return KELPIE_OK;
    }
    if (!kvm_medium_size_parse(text, &size)) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, MEDIUM_FEATURE,
                               "no boot disk has the size that the snapshot says");
    }
    TRY(host_memory_file(instance->host, "kelpie-medium", size, ret_fd, err));
    instance->medium_size = size;
    return KELPIE_OK;
}

static enum kelpie_status load(struct backend_instance *instance, struct snapshot_reader *reader,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(!instance->monitor.process);
    TRY(check_manifest(instance, snapshot_reader_manifest(reader), err));
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, wait, err));
    AUTO_FD struct host_fd medium = {instance->host, HOST_FD_NONE};
    TRY(load_medium(instance, snapshot_reader_manifest(reader), &medium.fd, err));
    TRY(monitor_disks_load(&instance->disks, reader, wait, err));
    const struct kvm_sources sources = {
        .first_fd = snapshot_reader_part(reader, SNAPSHOT_PART_STATE),
        .second_fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY),
        .medium_fd = medium.fd,
    };
    TRY(kvm_process_start(instance, &sources, err));
    return kvm_order_machine(instance, CONTROL_LOAD, &sources, wait, err);
}

enum kelpie_status kvm_load(struct backend_instance *instance, struct snapshot_reader *reader,
                            const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(reader && wait);
    enum kelpie_status status = load(instance, reader, wait, err);
    if (status != KELPIE_OK) {
        kvm_process_take_down(instance);
    }
    if (status == KELPIE_CRASHED || status == KELPIE_INTERNAL) {
        return error_wrap(err, KELPIE_RESTORE_FAILED, "the monitor does not take the bundle");
    }
    return status;
}
