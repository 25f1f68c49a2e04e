/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Saving a machine to a bundle and loading it. How memory travels: qemu_instance.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/qemu/qemu_instance.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define ARCHITECTURE "x86_64" /* of the guest: what qemu-system-x86_64 emulates, on any host */
#define CANCEL_TIMEOUT_MS 2000

static uint64_t memory_size(const struct backend_instance *instance) {
    qemu_instance_check(instance);
    ASSERT(instance->config->memory_mib <= KELPIE_MEMORY_MIB_MAX);
    return (uint64_t)instance->config->memory_mib << 20;
}

/* ---- Migration, QEMU's word for both ---------------------------------------------------------- */

enum migration { MIGRATION_ACTIVE, MIGRATION_COMPLETED, MIGRATION_FAILED };

/* Asks how far it is. A failure's reason goes to `reason`. */
static enum kelpie_status migration_query(struct backend_instance *instance,
                                          const struct host_wait *wait, enum migration *ret,
                                          char *reason, size_t reason_size,
                                          struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(reason_size > 0);
    const struct qmp_command command = {.name = "query-migrate", .passed_fd = HOST_FD_NONE};
    json_t *answer = NULL;
    TRY(qmp_execute(instance->qmp, &command, wait, &answer, err));
    const char *text = json_string_value(json_object_get(answer, "error-desc"));
    snprintf(reason, reason_size, "%s", text ? text : "no reason given");
    const char *state = json_string_value(json_object_get(answer, "status"));
    *ret = MIGRATION_ACTIVE;
    if (state && strcmp(state, "completed") == 0) {
        *ret = MIGRATION_COMPLETED;
    } else if (state && (strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0)) {
        *ret = MIGRATION_FAILED;
    }
    json_decref(answer);
    return KELPIE_OK;
}

/* INTERNAL: QEMU reports a failure. */
static enum kelpie_status migration_await(struct backend_instance *instance,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(wait);
    for (;;) {
        enum migration state = MIGRATION_ACTIVE;
        char reason[QEMU_QMP_TEXT_SIZE_MAX + 1];
        TRY(migration_query(instance, wait, &state, reason, sizeof(reason), err));
        if (state == MIGRATION_COMPLETED) {
            return KELPIE_OK;
        }
        if (state == MIGRATION_FAILED) {
            return error_set(err, KELPIE_INTERNAL, "QEMU cannot move the machine's state: %s",
                             reason);
        }
        uint64_t now_ns = host_monotonic_ns(instance->host);
        if (now_ns >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "the machine's state took too long to move");
        }
        const struct host_wait nap = {
            .deadline_ns = min_u64(now_ns + QEMU_MIGRATION_POLL_NS, wait->deadline_ns),
            .cancel_fd = wait->cancel_fd,
        };
        TRY(host_sleep(instance->host, &nap, err));
    }
}

/* Sets up what both directions need: whether shared memory is left out, and the file under the name "state". Each
 * request is a turn of QEMU's main loop, which a warm start waits for. */
static enum kelpie_status migration_prepare(struct backend_instance *instance, int state_fd,
                                            bool ignore_shared, const struct host_wait *wait,
                                            struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(state_fd != HOST_FD_NONE);
    ASSERT(instance->qmp);
    TRY(qemu_execute(instance, "migrate-set-capabilities",
                     json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "x-ignore-shared",
                               "state", (int)ignore_shared),
                     wait, err));
    const struct qmp_command getfd = {
        .name = "getfd",
        .arguments = json_pack("{s:s}", "fdname", "state"),
        .passed_fd = state_fd,
    };
    return qmp_execute(instance->qmp, &getfd, wait, NULL, err);
}

/* ---- Save ------------------------------------------------------------------------------------- */

static enum kelpie_status save_state(struct backend_instance *instance, int state_fd,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(state_fd != HOST_FD_NONE);
    bool ignore_shared = instance->memory_fd != HOST_FD_NONE;
    if (instance->migrated) {
        /* QEMU refuses a machine that it has saved already and that has not run since. So it runs, for less than a
         * millisecond; the guest's processes are frozen meanwhile. */
        TRY(qemu_cont(instance, wait, err));
        TRY(qemu_execute(instance, "stop", NULL, wait, err));
    }
    TRY(migration_prepare(instance, state_fd, ignore_shared, wait, err));
    /* The limit of speed is the writer's alone. */
    TRY(qemu_execute(instance, "migrate-set-parameters",
                     json_pack("{s:I}", "max-bandwidth", (json_int_t)QEMU_MIGRATION_BANDWIDTH),
                     wait, err));
    enum kelpie_status status =
        qemu_execute(instance, "migrate", json_pack("{s:s}", "uri", "fd:state"), wait, err);
    if (status == KELPIE_OK) {
        status = migration_await(instance, wait, err);
    }
    if (status != KELPIE_OK && status != KELPIE_CRASHED) {
        /* Unless it has failed by itself it goes on, and would stop the guest again when it is done. */
        const struct host_wait grace =
            host_wait_ms(instance->host, CANCEL_TIMEOUT_MS, HOST_FD_NONE);
        enum kelpie_status ignored = qemu_execute(instance, "migrate_cancel", NULL, &grace, NULL);
        (void)ignored; /* the first error is the one to tell */
    }
    instance->migrated = status == KELPIE_OK;
    return status;
}

enum kelpie_status qemu_identify(struct backend_instance *instance,
                                 struct snapshot_manifest *manifest, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(manifest);
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
             instance->probe.version);
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), ARCHITECTURE);
    snprintf(manifest->kernel_digest, sizeof(manifest->kernel_digest), "%s",
             instance->boot.kernel.digest);
    snprintf(manifest->initramfs_digest, sizeof(manifest->initramfs_digest), "%s",
             instance->boot.initramfs_digest);
    manifest->vcpu_count = instance->config->vcpu_count;
    manifest->memory_mib = instance->config->memory_mib;
    manifest->memory_in_state = instance->memory_fd == HOST_FD_NONE;
    enum qemu_accelerator accelerator = instance->probe.accelerator;
    TRY(snapshot_manifest_add_feature(manifest, "machine", qemu_machine_name(instance->machine),
                                      err));
    TRY(snapshot_manifest_add_feature(manifest, "cpu", qemu_cpu_model(accelerator), err));
    TRY(snapshot_manifest_add_feature(manifest, "accelerator", qemu_accelerator_name(accelerator),
                                      err));
    char tsc_khz[24];
    snprintf(tsc_khz, sizeof(tsc_khz), "%" PRIu64, instance->tsc_khz);
    return snapshot_manifest_add_feature(manifest, "tsc_khz", tsc_khz, err);
}

static enum kelpie_status save_parts(struct backend_instance *instance,
                                     enum kelpie_snapshot_kind kind, struct snapshot_writer *writer,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance->monitor.process);
    int state_fd = HOST_FD_NONE;
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &state_fd, err));
    TRY(save_state(instance, state_fd, wait, err));
    /* QEMU has flushed the disks by now. */
    if (instance->memory_fd != HOST_FD_NONE) {
        TRY(snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, instance->memory_fd,
                                 memory_size(instance), wait, err));
    }
    return monitor_disks_save(&instance->disks, kind, writer, wait, err);
}

enum kelpie_status qemu_save(struct backend_instance *instance, enum kelpie_snapshot_kind kind,
                             struct snapshot_writer *writer, const struct host_wait *wait,
                             struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(writer && wait);
    if (!instance->monitor.process) {
        return error_set(err, KELPIE_WRONG_STATE, "QEMU is not running");
    }
    if (kind != KELPIE_SNAPSHOT_SUSPEND && kind != KELPIE_SNAPSHOT_TELEPORT) {
        return error_set(err, KELPIE_UNSUPPORTED, "the qemu backend cannot write this kind");
    }
    TRY(qemu_identify(instance, snapshot_writer_manifest(writer), err));
    struct kelpie_error inner;
    enum kelpie_status status = save_parts(instance, kind, writer, wait, &inner);
    if (status == KELPIE_CRASHED) {
        return qemu_process_explain(instance, status, err);
    }
    if (err && status != KELPIE_OK) {
        *err = inner;
    }
    if (status == KELPIE_INTERNAL) {
        /* QEMU passes the text of errno on and not its number. */
        bool full = strstr(inner.message, "No space left") != NULL;
        return error_wrap(err, full ? KELPIE_NO_SPACE : KELPIE_SNAPSHOT_FAILED,
                          "cannot save the machine");
    }
    return status;
}

/* ---- Load ------------------------------------------------------------------------------------- */

static enum kelpie_status differs(struct kelpie_error *err, const char *field, const char *saved,
                                  const char *here) {
    ASSERT(field);
    ASSERT(here[0]);
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, field,
                           "the snapshot was made with another %s: %s there, %s here", field,
                           saved && saved[0] ? saved : "none", here);
}

static enum kelpie_status check_text(const char *field, const char *saved, const char *here,
                                     struct kelpie_error *err) {
    ASSERT(field && here);
    return saved && strcmp(saved, here) == 0 ? KELPIE_OK : differs(err, field, saved, here);
}

static enum kelpie_status check_number(const char *field, uint64_t saved, uint64_t here,
                                       struct kelpie_error *err) {
    ASSERT(field);
    char saved_text[24];
    char here_text[24];
    snprintf(saved_text, sizeof(saved_text), "%" PRIu64, saved);
    snprintf(here_text, sizeof(here_text), "%" PRIu64, here);
    return saved == here ? KELPIE_OK : differs(err, field, saved_text, here_text);
}

/* An emulated guest counts time by this host's TSC, at the rate it was told when it booted. */
static enum kelpie_status check_tsc(struct backend_instance *instance, const char *saved,
                                    struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance->tsc_start.ns > 0);
    unsigned long long saved_khz = 0;
    struct qemu_tsc_sample now = qemu_tsc_sample(instance->host);
    uint64_t here_khz = qemu_tsc_khz(&instance->tsc_start, &now);
    if (!saved || sscanf(saved, "%20llu", &saved_khz) != 1) {
        return differs(err, "tsc_khz", saved, "a number");
    }
    instance->tsc_khz = saved_khz;
    if (instance->probe.accelerator != QEMU_ACCELERATOR_TCG || saved_khz == 0 || here_khz == 0) {
        return KELPIE_OK;
    }
    uint64_t difference = here_khz > saved_khz ? here_khz - saved_khz : saved_khz - here_khz;
    if (difference <= here_khz * QEMU_TSC_TOLERANCE_PPM / 1000000) {
        return KELPIE_OK;
    }
    return check_number("tsc_khz", saved_khz, here_khz, err);
}

static enum kelpie_status check_manifest(struct backend_instance *instance,
                                         const struct snapshot_manifest *manifest,
                                         struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(manifest);
    enum qemu_accelerator accelerator = instance->probe.accelerator;
    const struct kelpie_config *config = instance->config;
    TRY(check_text("backend", manifest->info.backend, "qemu", err));
    TRY(check_text("architecture", manifest->info.architecture, ARCHITECTURE, err));
    TRY(check_text("backend_version", manifest->info.backend_version, instance->probe.version,
                   err));
    TRY(check_text("accelerator", snapshot_manifest_feature(manifest, "accelerator"),
                   qemu_accelerator_name(accelerator), err));
    TRY(check_text("cpu", snapshot_manifest_feature(manifest, "cpu"), qemu_cpu_model(accelerator),
                   err));
    TRY(check_tsc(instance, snapshot_manifest_feature(manifest, "tsc_khz"), err));
    TRY(check_text("kernel", manifest->kernel_digest, instance->boot.kernel.digest, err));
    TRY(check_text("initramfs", manifest->initramfs_digest, instance->boot.initramfs_digest, err));
    TRY(check_number("vcpu_count", manifest->vcpu_count, config->vcpu_count, err));
    TRY(check_number("memory_mib", manifest->memory_mib, config->memory_mib, err));
    const struct snapshot_part_info *memory = &manifest->parts[SNAPSHOT_PART_MEMORY];
    if (memory->present == manifest->memory_in_state ||
        (memory->present && memory->size != memory_size(instance))) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                               "the bundle's memory is not that of a machine with %" PRIu32 " MiB",
                               config->memory_mib);
    }
    return KELPIE_OK;
}

/* The machine as the snapshot has it; a QEMU without it is found out by qemu_process_start(), which then
 * starts another one: no use here. */
static enum kelpie_status check_machine(const struct backend_instance *instance,
                                        const struct snapshot_manifest *manifest,
                                        struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance->monitor.process);
    return check_text("machine", snapshot_manifest_feature(manifest, "machine"),
                      qemu_machine_name(instance->machine), err);
}

static enum kelpie_status choose_machine(struct backend_instance *instance,
                                         const struct snapshot_manifest *manifest,
                                         struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    const char *name = snapshot_manifest_feature(manifest, "machine");
    for (size_t i = 0; name && i < QEMU_MACHINE_COUNT; i++) {
        if (strcmp(name, qemu_machine_name((enum qemu_machine)i)) == 0) {
            instance->machine = (enum qemu_machine)i;
            return KELPIE_OK;
        }
    }
    return differs(err, "machine", name, "microvm or q35");
}

static enum kelpie_status load_state(struct backend_instance *instance,
                                     struct snapshot_reader *reader, const struct host_wait *wait,
                                     struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(instance->monitor.process);
    AUTO_FD struct host_fd state = {instance->host, HOST_FD_NONE};
    /* QEMU reads from the descriptor's own position, which looking for holes moves: it gets one of its own. */
    TRY(snapshot_reader_part_open(reader, SNAPSHOT_PART_STATE, &state.fd, err));
    bool ignore_shared = !snapshot_reader_manifest(reader)->memory_in_state;
    struct kelpie_error inner;
    enum kelpie_status status = migration_prepare(instance, state.fd, ignore_shared, wait, &inner);
    if (status == KELPIE_OK) {
        status = qemu_execute(instance, "migrate-incoming", json_pack("{s:s}", "uri", "fd:state"),
                              wait, &inner);
    }
    if (status == KELPIE_OK) {
        status = migration_await(instance, wait, &inner);
    }
    if (status == KELPIE_CRASHED) {
        (void)qemu_process_explain(instance, status, &inner);
    }
    if (err && status != KELPIE_OK) {
        *err = inner;
    }
    if (status == KELPIE_CRASHED || status == KELPIE_INTERNAL) {
        if (err) {
            snprintf(err->field, sizeof(err->field), "state");
        }
        return error_wrap(err, KELPIE_RESTORE_FAILED, "QEMU does not take the bundle's state");
    }
    return status;
}

static enum kelpie_status load(struct backend_instance *instance, struct snapshot_reader *reader,
                               const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    TRY(check_manifest(instance, manifest, err));
    TRY(choose_machine(instance, manifest, err));
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, wait, err));
    TRY(monitor_disks_load(&instance->disks, reader, wait, err));
    struct qemu_process_spec spec = {.incoming = true};
    if (manifest->memory_in_state) {
        TRY(host_memory_file(instance->host, "kelpie-memory", memory_size(instance),
                             &instance->memory_fd, err));
        spec.memory_fd = instance->memory_fd;
    } else {
        spec.memory_fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY);
        spec.memory_private = true;
    }
    TRY(qemu_process_start(instance, &spec, wait, err));
    TRY(check_machine(instance, manifest, err));
    return load_state(instance, reader, wait, err);
}

enum kelpie_status qemu_load(struct backend_instance *instance, struct snapshot_reader *reader,
                             const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->monitor.process);
    ASSERT(reader && wait);
    enum kelpie_status status = load(instance, reader, wait, err);
    if (status != KELPIE_OK) {
        qemu_process_take_down(instance);
        instance->machine = QEMU_MACHINE_MICROVM;
    }
    return status;
}
