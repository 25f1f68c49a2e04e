/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Saving a machine to a bundle and loading it. Which names files go by: firecracker_instance.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"

#define ARCHITECTURE "x86_64"
#define FEATURE_CPU "cpu"
#define FEATURE_TAP "tap"
#define FD_PATH_SIZE 48

static uint64_t memory_size(const struct backend_instance *instance) {
    firecracker_instance_check(instance);
    ASSERT(instance->config->memory_mib <= KELPIE_MEMORY_MIB_MAX);
    return (uint64_t)instance->config->memory_mib << 20;
}

/* ---- Save ------------------------------------------------------------------------------------- */

enum kelpie_status firecracker_identify(struct backend_instance *instance,
                                        struct snapshot_manifest *manifest,
                                        struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(manifest);
    if (!instance->kernel_path[0] && !instance->monitor.process) { /* it was made for a bundle */
        const struct host_wait wait =
            host_wait_ms(instance->host, IMAGE_FETCH_TIMEOUT_MS, HOST_FD_NONE);
        TRY(firecracker_find_images(instance, &wait, err));
    }
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
             instance->probe.version);
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), ARCHITECTURE);
    snprintf(manifest->kernel_digest, sizeof(manifest->kernel_digest), "%s",
             instance->boot.kernel.digest);
    snprintf(manifest->initramfs_digest, sizeof(manifest->initramfs_digest), "%s",
             instance->boot.initramfs_digest);
    manifest->vcpu_count = instance->config->vcpu_count;
    manifest->memory_mib = instance->config->memory_mib;
    manifest->memory_in_state = false;
    if (instance->config->network) {
        TRY(snapshot_manifest_add_feature(manifest, FEATURE_TAP, instance->config->network->tap,
                                          err));
    }
    return snapshot_manifest_add_feature(manifest, FEATURE_CPU, instance->probe.cpu, err);
}

/* A file of ours, as another process of this user's opens it. */
static const char *our_path(struct host *host, int fd, char path[FD_PATH_SIZE]) {
    ASSERT(host);
    ASSERT(fd != HOST_FD_NONE);
    snprintf(path, FD_PATH_SIZE, "/proc/%d/fd/%d", host_own_process_id(host), fd);
    return path;
}

enum kelpie_status firecracker_write(struct backend_instance *instance, const char *type,
                                     const int fds[2], const struct host_wait *wait,
                                     struct kelpie_error *err) {
    char state[FD_PATH_SIZE];
    char memory[FD_PATH_SIZE];
    firecracker_instance_check(instance);
    ASSERT(instance->link);
    json_t *body = json_pack("{s:s, s:s, s:s}", "snapshot_type", type, "snapshot_path",
                             our_path(instance->host, fds[0], state), "mem_file_path",
                             our_path(instance->host, fds[1], memory));
    firecracker_link_expect(instance->link);
    enum kelpie_status status =
        firecracker_ask(instance, "PUT", "/snapshot/create", body, wait, err);
    firecracker_link_drop(instance->link);
    return status;
}

enum kelpie_status firecracker_save(struct backend_instance *instance,
                                    enum kelpie_snapshot_kind kind, struct snapshot_writer *writer,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(writer && wait);
    if (!instance->monitor.process) {
        return error_set(err, KELPIE_WRONG_STATE, "Firecracker is not running");
    }
    if (kind != KELPIE_SNAPSHOT_SUSPEND && kind != KELPIE_SNAPSHOT_TELEPORT) {
        return error_set(err, KELPIE_UNSUPPORTED, "the firecracker backend cannot write this kind");
    }
    TRY(firecracker_identify(instance, snapshot_writer_manifest(writer), err));
    enum kelpie_status status = firecracker_memory_save(instance, writer, wait, err);
    if (status == KELPIE_INTERNAL) {
        return error_wrap(err, KELPIE_SNAPSHOT_FAILED, "cannot save the machine");
    }
    TRY(status);
    /* Firecracker leaves the disks out. It has drained and flushed them. */
    return monitor_disks_save(&instance->disks, kind, writer, wait, err);
}

/* ---- Load ------------------------------------------------------------------------------------- */

static enum kelpie_status check_text(const char *field, const char *saved, const char *here,
                                     struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(here);
    if (saved && strcmp(saved, here) == 0) {
        return KELPIE_OK;
    }
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, field,
                           "the snapshot was made with another %s: %s there, %s here", field,
                           saved && saved[0] ? saved : "none", here[0] ? here : "none");
}

static enum kelpie_status check_manifest(struct backend_instance *instance,
                                         const struct snapshot_manifest *manifest,
                                         struct kelpie_error *err) {
    const struct kelpie_network *network = instance->config->network;
    const struct snapshot_part_info *memory = &manifest->parts[SNAPSHOT_PART_MEMORY];
    firecracker_instance_check(instance);
    TRY(check_text("architecture", manifest->info.architecture, ARCHITECTURE, err));
    /* Firecracker itself only warns of another vendor's. */
    TRY(check_text(FEATURE_CPU, snapshot_manifest_feature(manifest, FEATURE_CPU),
                   instance->probe.cpu, err));
    if (network && !firecracker_probe_has(&instance->probe, FIRECRACKER_MINOR_OVERRIDES)) {
        TRY(check_text(FEATURE_TAP, snapshot_manifest_feature(manifest, FEATURE_TAP), network->tap,
                       err));
    }
    if (manifest->memory_in_state || memory->size != memory_size(instance)) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                               "the bundle's memory is not that of a machine with %" PRIu32 " MiB",
                               instance->config->memory_mib);
    }
    return KELPIE_OK;
}

/* How a load is asked for. */
struct manner {
    bool run;   /* the vCPUs, as soon as they can */
    bool clock; /* the kernel's clock goes on where the host's is */
};

/* What the version knows of what can be said at a load. NULL: no memory. */
static json_t *load_body(struct backend_instance *instance, const struct manner *manner) {
    const struct kelpie_network *network = instance->config->network;
    const struct firecracker_probe *probe = &instance->probe;
    char state[FD_PATH_SIZE];
    char memory[FD_PATH_SIZE];
    firecracker_instance_check(instance);
    snprintf(state, sizeof(state), "/proc/self/fd/%d", FIRECRACKER_CHILD_KERNEL);
    snprintf(memory, sizeof(memory), "/proc/self/fd/%d", FIRECRACKER_CHILD_INITRAMFS);
    json_t *body =
        json_pack("{s:s, s:{s:s, s:s}, s:b}", "snapshot_path", state, "mem_backend", "backend_type",
                  "File", "backend_path", memory, "resume_vm", (int)manner->run);
    json_t *overrides = NULL;
    bool whole = body != NULL;
    if (whole && network && firecracker_probe_has(probe, FIRECRACKER_MINOR_OVERRIDES)) {
        overrides = json_pack("[{s:s, s:s}]", "iface_id", "net", "host_dev_name", network->tap);
        whole = json_object_set_new(body, "network_overrides", overrides) == 0;
    }
    if (whole && manner->clock) {
        whole = json_object_set_new(body, "clock_realtime", json_true()) == 0;
    }
    ASSERT(body || !whole);
    if (!whole) {
        json_decref(body);
        return NULL;
    }
    return body;
}

/* The next snapshot of the machine is one of the same kernel and initramfs. */
static void take_digests(struct backend_instance *instance,
                         const struct snapshot_manifest *manifest) {
    firecracker_instance_check(instance);
    ASSERT(manifest);
    struct image_boot *boot = &instance->boot;
    snprintf(boot->kernel.digest, sizeof(boot->kernel.digest), "%s", manifest->kernel_digest);
    snprintf(boot->initramfs_digest, sizeof(boot->initramfs_digest), "%s",
             manifest->initramfs_digest);
}

/* A state that another version wrote may be refused for that: Firecracker decides, and we say so. */
static enum kelpie_status refused(struct backend_instance *instance,
                                  const struct snapshot_manifest *manifest,
                                  struct kelpie_error *err) {
    const char *here = instance->probe.version;
    const char *there = manifest->info.backend_version;
    firecracker_instance_check(instance);
    if (strcmp(here, there) == 0) {
        return error_wrap(err, KELPIE_RESTORE_FAILED, "Firecracker does not take the bundle");
    }
    enum kelpie_status status =
        error_wrap(err, KELPIE_SNAPSHOT_INCOMPATIBLE,
                   "Firecracker %s does not take the bundle of a Firecracker %.31s", here, there);
    if (err) {
        snprintf(err->field, sizeof(err->field), "backend_version");
    }
    return status;
}

static enum kelpie_status load_once(struct backend_instance *instance,
                                    struct snapshot_reader *reader, const struct manner *manner,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(!instance->monitor.process);
    TRY(monitor_disks_load(&instance->disks, reader, wait, err));
    TRY(firecracker_memory_open(instance, reader, wait, err));
    const int fds[2] = {snapshot_reader_part(reader, SNAPSHOT_PART_STATE), instance->memory.fd};
    TRY(firecracker_process_start(instance, fds, wait, err));
    return firecracker_ask(instance, "PUT", "/snapshot/load", load_body(instance, manner), wait,
                           err);
}

/* A state that was saved, or is to be loaded, where KVM does not know the real time of its clock (before Linux 5.16, or without
 * a TSC that is stable) is refused with clock_realtime. What the clock is behind then, the guest's agent sets right. */
static enum kelpie_status load(struct backend_instance *instance, struct snapshot_reader *reader,
                               bool run, const struct host_wait *wait, struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    struct manner manner = {
        .run = run,
        .clock = firecracker_probe_has(&instance->probe, FIRECRACKER_MINOR_CLOCK_REALTIME)};
    firecracker_instance_check(instance);
    ASSERT(!instance->monitor.process);
    TRY(check_manifest(instance, manifest, err));
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, wait, err));
    enum kelpie_status status = load_once(instance, reader, &manner, wait, err);
    if (status == KELPIE_INTERNAL && manner.clock) {
        firecracker_process_take_down(instance); /* it ends after a load that failed */
        manner.clock = false;
        status = load_once(instance, reader, &manner, wait, err);
    }
    if (status == KELPIE_INTERNAL || status == KELPIE_CRASHED) {
        return refused(instance, manifest, err);
    }
    TRY(status);
    take_digests(instance, manifest);
    return KELPIE_OK;
}

static enum kelpie_status load_or_nothing(struct backend_instance *instance,
                                          struct snapshot_reader *reader, bool run,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(reader && wait);
    enum kelpie_status status = load(instance, reader, run, wait, err);
    if (status != KELPIE_OK) {
        firecracker_process_take_down(instance);
    }
    return status;
}

enum kelpie_status firecracker_load(struct backend_instance *instance,
                                    struct snapshot_reader *reader, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    ASSERT(instance && reader);
    ASSERT(!instance->monitor.process);
    return load_or_nothing(instance, reader, false, wait, err);
}

enum kelpie_status firecracker_load_running(struct backend_instance *instance,
                                            struct snapshot_reader *reader,
                                            const struct host_wait *wait,
                                            struct kelpie_error *err) {
    ASSERT(instance && reader);
    ASSERT(!instance->monitor.process);
    return load_or_nothing(instance, reader, true, wait, err);
}
