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

void kvm_manifest_fill(const struct backend_instance *instance,
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

/* For a fork: memory's file is handed over as it is, or, when memory is private to the monitor, is written first. */
static enum kelpie_status seal(struct backend_instance *instance, struct snapshot_writer *writer,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(snapshot_writer_is_in_memory(writer));
    if (instance->memory_fd == HOST_FD_NONE) {
        int memory_fd = HOST_FD_NONE;
        TRY(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &memory_fd, err));
        TRY(kvm_pass(instance, CONTROL_ROLE_MEMORY, memory_fd, err));
        return kvm_order_plain(instance, CONTROL_SEAL, wait, err);
    }
    TRY(kvm_order_plain(instance, CONTROL_SEAL, wait, err));
    snapshot_writer_adopt(writer, SNAPSHOT_PART_MEMORY, instance->memory_fd);
    instance->memory_fd = HOST_FD_NONE;
    return KELPIE_OK;
}

/* The file that memory goes into, for the next order. */
static enum kelpie_status pass_memory(struct backend_instance *instance,
                                      struct snapshot_writer *writer, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(writer);
    int memory_fd = HOST_FD_NONE;
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &memory_fd, err));
    return kvm_pass(instance, CONTROL_ROLE_MEMORY, memory_fd, err);
}

static enum kelpie_status check_base(const struct backend_instance *instance,
                                     const struct snapshot_manifest *manifest,
                                     struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(manifest->parent_path[0] != '\0');
    if (!instance->tracked || strcmp(instance->base_id, manifest->info.parent_id) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                               "a diff to %.512s cannot be made: it is not the VM's last snapshot, "
                               "nor what it was restored from, or was made without `track`",
                               manifest->parent_path);
    }
    return KELPIE_OK;
}

/* The files that memory goes into, for the SAVE that follows. */
static enum kelpie_status pass_files(struct backend_instance *instance,
                                     struct snapshot_writer *writer, bool diff, bool presaved,
                                     struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(diff || !presaved);
    if (diff) {
        int pages_fd = HOST_FD_NONE;
        TRY(snapshot_writer_part(writer, SNAPSHOT_PART_PAGES, &pages_fd, err));
        TRY(kvm_pass(instance, CONTROL_ROLE_PAGES_0, pages_fd, err));
    }
    return presaved ? KELPIE_OK : pass_memory(instance, writer, err);
}

/* What waits for a SAVE that does not come would be the next one's: any order uses it up, and the vCPUs stand already. */
static void forget_files(struct backend_instance *instance) {
    kvm_instance_check(instance);
    ASSERT(instance->host);
    const struct host_wait wait = host_wait_ms(instance->host, KVM_FORGET_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    (void)!kvm_order_plain(instance, CONTROL_PAUSE, &wait, &ignored);
}

/* Memory, or what of it was written, and the id from which it is counted from now on. */
static enum kelpie_status save_memory(struct backend_instance *instance,
                                      struct snapshot_writer *writer, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    kvm_instance_check(instance);
    const struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    bool diff = manifest->parent_path[0] != '\0';
    bool presaved = diff && strcmp(instance->presaved_id, manifest->info.id) == 0;
    ASSERT(manifest->info.id[0] != '\0');
    if (diff) {
        TRY(check_base(instance, manifest, err));
    }
    enum kelpie_status status = pass_files(instance, writer, diff, presaved, err);
    if (status != KELPIE_OK) {
        forget_files(instance);
        return status;
    }
    instance->base_id[0] = '\0';
    instance->presaved_id[0] = '\0';
    TRY(kvm_order_plain(instance, CONTROL_SAVE, wait, err));
    memcpy(instance->base_id, manifest->info.id, sizeof(instance->base_id));
    return KELPIE_OK;
}

enum kelpie_status kvm_presave(struct backend_instance *instance, struct snapshot_writer *writer,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(writer && wait);
    const struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    TRY(check_base(instance, manifest, err));
    TRY(pass_memory(instance, writer, err));
    for (int i = 0; i < KVM_PRESAVE_COUNT; i++) {
        TRY(kvm_order_plain(instance, CONTROL_PRESAVE, wait, err));
    }
    memcpy(instance->presaved_id, manifest->info.id, sizeof(instance->presaved_id));
    return KELPIE_OK;
}

enum kelpie_status kvm_track(struct backend_instance *instance, const struct host_wait *wait,
                             struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(wait);
    TRY(kvm_order_plain(instance, CONTROL_TRACK, wait, err));
    instance->tracked = true;
    return KELPIE_OK;
}

enum kelpie_status kvm_save(struct backend_instance *instance, enum kelpie_snapshot_kind kind,
                            struct snapshot_writer *writer, const struct host_wait *wait,
                            struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(writer && wait);
    if (kind != KELPIE_SNAPSHOT_SUSPEND && kind != KELPIE_SNAPSHOT_TELEPORT) {
        return error_set(err, KELPIE_UNSUPPORTED, "the kvm backend cannot write this kind");
    }
    kvm_manifest_fill(instance, snapshot_writer_manifest(writer));
    if (instance->medium.size > 0) {
        char size[MEDIUM_VALUE_SIZE];
        snprintf(size, sizeof(size), "%llu", (unsigned long long)instance->medium.size);
        TRY(snapshot_manifest_add_feature(snapshot_writer_manifest(writer), MEDIUM_FEATURE, size,
                                          err));
    }
    int state_fd = HOST_FD_NONE;
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &state_fd, err));
    TRY(kvm_pass(instance, CONTROL_ROLE_STATE, state_fd, err));
    if (snapshot_writer_is_in_memory(writer)) {
        TRY(kvm_order_plain(instance, CONTROL_SAVE, wait, err));
        TRY(seal(instance, writer, wait, err));
    } else {
        TRY(save_memory(instance, writer, wait, err));
    }
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

/* The next snapshot of the machine is one of the same kernel and initramfs. */
static void take_digests(struct backend_instance *instance,
                         const struct snapshot_manifest *manifest) {
    kvm_instance_check(instance);
    ASSERT(manifest);
    snprintf(instance->boot.kernel.digest, sizeof(instance->boot.kernel.digest), "%s",
             manifest->kernel_digest);
    snprintf(instance->boot.initramfs_digest, sizeof(instance->boot.initramfs_digest), "%s",
             manifest->initramfs_digest);
}

/* The memory of a bundle: of its oldest parent, and the diffs over it. */
static enum kelpie_status pass_layers(struct backend_instance *instance,
                                      const struct snapshot_reader *reader,
                                      struct kelpie_error *err) {
    kvm_instance_check(instance);
    static_assert(SNAPSHOT_CHAIN_LENGTH_MAX <= CONTROL_LAYER_COUNT_MAX + 1, "a chain fits");
    size_t layer = snapshot_reader_chain_length(reader) - 1;
    ASSERT(layer <= CONTROL_LAYER_COUNT_MAX);
    for (; layer > 0; layer--, reader = snapshot_reader_parent(reader)) {
        TRY(kvm_pass(instance, CONTROL_ROLE_LAYER_0 + (unsigned)layer - 1,
                     snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY), err));
        TRY(kvm_pass(instance, CONTROL_ROLE_PAGES_0 + (unsigned)layer - 1,
                     snapshot_reader_part(reader, SNAPSHOT_PART_PAGES), err));
    }
    return kvm_pass(instance, CONTROL_ROLE_MEMORY,
                    snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY), err);
}

/* Of a machine with a medium, the medium's size: it says what the machine is, whatever kernel this host would boot. */
static enum kelpie_status load_medium(struct backend_instance *instance,
                                      const struct snapshot_manifest *manifest,
                                      struct kelpie_error *err) {
    const char *text = snapshot_manifest_feature(manifest, MEDIUM_FEATURE);
    struct kvm_medium *medium = &instance->medium;
    uint64_t size = 0;
    ASSERT(medium->fd == HOST_FD_NONE);
    ASSERT(medium->size == 0);
    if (!text) {
        return KELPIE_OK;
    }
    if (!kvm_medium_size_parse(text, &size)) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, MEDIUM_FEATURE,
                               "no boot disk has the size that the snapshot says");
    }
    TRY(host_memory_file(instance->host, "kelpie-medium", size, &medium->fd, err));
    medium->size = size;
    return KELPIE_OK;
}

static enum kelpie_status load_once(struct backend_instance *instance,
                                    struct snapshot_reader *reader, bool run,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(instance->prepared || !instance->monitor.process);
    TRY(check_manifest(instance, snapshot_reader_manifest(reader), err));
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, wait, err));
    TRY(load_medium(instance, snapshot_reader_manifest(reader), err));
    TRY(monitor_disks_load(&instance->disks, reader, wait, err));
    TRY(kvm_process_start(instance, err));
    TRY(kvm_pass(instance, CONTROL_ROLE_STATE, snapshot_reader_part(reader, SNAPSHOT_PART_STATE),
                 err));
    TRY(pass_layers(instance, reader, err));
    if (instance->working_set_fd != HOST_FD_NONE) {
        TRY(kvm_pass(instance, CONTROL_ROLE_WORKING_SET, instance->working_set_fd, err));
    }
    TRY(kvm_order_machine(instance, CONTROL_LOAD, run, wait, err));
    take_digests(instance, snapshot_reader_manifest(reader));
    memcpy(instance->base_id, snapshot_reader_manifest(reader)->info.id, sizeof(instance->base_id));
    return KELPIE_OK;
}

/* ---- The working set -------------------------------------------------------------------------- */

enum kelpie_status kvm_touched(struct backend_instance *instance, int fd,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    TRY(kvm_pass(instance, CONTROL_ROLE_WORKING_SET, fd, err));
    return kvm_order_plain(instance, CONTROL_TOUCHED, wait, err);
}

void kvm_expect(struct backend_instance *instance, int fd, bool note) {
    kvm_instance_check(instance);
    ASSERT(fd == HOST_FD_NONE || fd != instance->working_set_fd);
    host_close(instance->host, instance->working_set_fd);
    instance->working_set_fd = fd;
    instance->note = note;
}

/* ---- Load, ahead and in one go ---------------------------------------------------------------- */

enum kelpie_status kvm_prepare(struct backend_instance *instance, struct snapshot_reader *reader,
                               const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(!instance->prepared);
    TRY(check_manifest(instance, snapshot_reader_manifest(reader), err));
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, wait, err));
    TRY(kvm_process_start(instance, err));
    enum kelpie_status status = kvm_order_machine(instance, CONTROL_PREPARE, false, wait, err);
    if (status != KELPIE_OK) {
        kvm_process_take_down(instance);
        return status;
    }
    instance->prepared = true;
    return KELPIE_OK;
}

static enum kelpie_status load(struct backend_instance *instance, struct snapshot_reader *reader,
                               bool run, const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(reader && wait);
    bool prepared = instance->prepared;
    enum kelpie_status status = load_once(instance, reader, run, wait, err);
    if (status != KELPIE_OK && prepared && status != KELPIE_CANCELLED &&
        status != KELPIE_TIMED_OUT) {
        /* It died while it waited, or has run already and takes no other CPUID: that says nothing about the bundle. */
        kvm_process_take_down(instance);
        status = load_once(instance, reader, run, wait, err);
    }
    kvm_expect(instance, HOST_FD_NONE, false);
    if (status != KELPIE_OK) {
        kvm_process_take_down(instance);
    }
    if (status == KELPIE_CRASHED || status == KELPIE_INTERNAL) {
        return error_wrap(err, KELPIE_RESTORE_FAILED, "the monitor does not take the bundle");
    }
    return status;
}

enum kelpie_status kvm_load(struct backend_instance *instance, struct snapshot_reader *reader,
                            const struct host_wait *wait, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(reader);
    return load(instance, reader, false, wait, err);
}

enum kelpie_status kvm_load_running(struct backend_instance *instance,
                                    struct snapshot_reader *reader, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    return load(instance, reader, true, wait, err);
}
