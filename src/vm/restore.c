/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Restoring a VM from a bundle, and looking at bundles. A restore fails closed: what could not be made fresh before
 * user code runs ends it, unless the caller allows it.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "snapshot/working_set.h"
#include "vm/checkpoint.h"

/* ---- Restore ---------------------------------------------------------------------------------- */

static enum kelpie_status differs(const char *field, const char *bundle, const char *here,
                                  struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(bundle && here);
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, field,
                           "the bundle's %s is %s, and this VM's is %s", field, bundle, here);
}

static enum kelpie_status differs_number(const char *field, uint32_t bundle, uint32_t here,
                                         struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(bundle != here);
    char bundle_text[16];
    char here_text[16];
    snprintf(bundle_text, sizeof(bundle_text), "%u", bundle);
    snprintf(here_text, sizeof(here_text), "%u", here);
    return differs(field, bundle_text, here_text, err);
}

static enum kelpie_status check_fits(struct kelpie_vm *vm, const struct snapshot_manifest *manifest,
                                     const struct kelpie_restore_options *options,
                                     struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(manifest);
    if (strcmp(manifest->info.backend, vm_backend_name(vm)) != 0) {
        return differs("backend", manifest->info.backend, vm_backend_name(vm), err);
    }
    if (manifest->vcpu_count != vm->config->vcpu_count) {
        return differs_number("vcpu_count", manifest->vcpu_count, vm->config->vcpu_count, err);
    }
    if (manifest->memory_mib != vm->config->memory_mib) {
        return differs_number("memory_mib", manifest->memory_mib, vm->config->memory_mib, err);
    }
    TRY(vm_network_fits(vm->config, manifest, err));
    TRY(vm_image_fits(vm, manifest, err));
    if (!manifest->info.quiesced && !options->allow_incomplete) {
        return error_set_field(err, KELPIE_RESTORE_FAILED, "quiesced",
                               "the guest's commands did not stand still when the bundle was made, "
                               "so they would run before entropy and clock are made fresh; allow "
                               "an incomplete restore to go on all the same");
    }
    return KELPIE_OK;
}

/* The state's checksum is always checked; memory's and disks' only when asked, so that a restore stays lazy. */
static enum kelpie_status verify_parts(struct snapshot_reader *reader, bool all,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(wait);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        if (manifest->parts[i].present &&
            (all || i == SNAPSHOT_PART_STATE || i == SNAPSHOT_PART_PAGES)) {
            TRY(snapshot_reader_verify(reader, (enum snapshot_part)i, wait, err));
        }
    }
    return KELPIE_OK;
}

/* What a diff needs of its parents: which pages they hold, and, when asked, those. */
static enum kelpie_status verify_parents(const struct snapshot_reader *reader, bool with_memory,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(wait);
    struct snapshot_reader *parent = snapshot_reader_parent(reader);
    for (; parent; parent = snapshot_reader_parent(parent)) {
        enum kelpie_status status = snapshot_reader_verify(parent, SNAPSHOT_PART_PAGES, wait, err);
        if (status == KELPIE_OK && with_memory) {
            status = snapshot_reader_verify(parent, SNAPSHOT_PART_MEMORY, wait, err);
        }
        if (status == KELPIE_SNAPSHOT_CORRUPT && err) {
            snprintf(err->field, sizeof(err->field), "parent");
        }
        TRY(status);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_report(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->restored);
    if (vm->allow_incomplete) {
        return KELPIE_OK;
    }
    const struct kelpie_restore_report *report = &vm->report;
    const struct {
        const char *name;
        enum kelpie_outcome outcome;
    } lines[] = {
        {"entropy", report->entropy},   {"generation", report->generation},
        {"clock", report->clock},       {"network", report->network},
        {"hostname", report->hostname}, {"machine_id", report->machine_id},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (lines[i].outcome != KELPIE_OUTCOME_DONE &&
            lines[i].outcome != KELPIE_OUTCOME_UNSUPPORTED) {
            return error_set_field(err, KELPIE_RESTORE_FAILED, lines[i].name,
                                   "the restored guest's %s could not be made fresh",
                                   lines[i].name);
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status load_bundle(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                      const struct kelpie_restore_options *options,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(reader);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    TRY(check_fits(vm, manifest, options, err));
    if (options->track && !(vm_capabilities(vm) & KELPIE_CAN_DIFF_SNAPSHOT)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "track", "backend %s cannot make diffs",
                               vm_backend_name(vm));
    }
    TRY(verify_parts(reader, options->verify_memory, wait, err));
    TRY(verify_parents(reader, options->verify_memory, wait, err));
    if (vm->ops->expect) {
        int fd = options->no_prefetch ? HOST_FD_NONE : snapshot_working_set_open(vm->host, reader);
        vm->ops->expect(vm->instance, fd, options->note_working_set);
    }
    bool run = !options->paused && !options->track && vm->ops->load_running;
    TRY((run ? vm->ops->load_running : vm->ops->load)(vm->instance, reader, wait, err));
    if (options->track) {
        TRY(vm->ops->track(vm->instance, wait, err));
    }
    vm_lock(vm);
    vm->restored = true;
    vm->fresh_wanted = true;
    vm->quiesced = manifest->info.quiesced;
    vm->paused_ns = host_monotonic_ns(vm->host);
    vm->report = (struct kelpie_restore_report){0};
    memcpy(vm->parent_id, manifest->info.id, sizeof(vm->parent_id));
    snprintf(vm->bundle_directory, sizeof(vm->bundle_directory), "%s",
             snapshot_reader_directory(reader));
    vm->saved_session_count = manifest->session_count;
    memcpy(vm->saved_sessions, manifest->sessions, sizeof(vm->saved_sessions));
    vm_unlock(vm);
    return KELPIE_OK;
}

enum kelpie_status vm_restore_machine(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                      const struct kelpie_restore_options *options,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    TRY(load_bundle(vm, reader, options, wait, err));
    TRY(vm_io_start(vm, err));
    vm_lock(vm);
    vm->channel.held = true;
    vm->allow_incomplete = options->allow_incomplete;
    vm_unlock(vm);
    if (!options->paused) {
        TRY(vm_go_on(vm, wait, err));
    }
    return vm->ops->settle ? vm->ops->settle(vm->instance, err) : KELPIE_OK;
}

static enum kelpie_status restore_status(enum kelpie_status status, struct kelpie_error *err) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    bool other = status == KELPIE_BOOT_TIMED_OUT || status == KELPIE_COPY_FAILED ||
                 status == KELPIE_IO_FAILED || status == KELPIE_INTERNAL ||
                 status == KELPIE_TIMED_OUT || status == KELPIE_CRASHED ||
                 status == KELPIE_BOOT_FAILED;
    return other ? error_wrap(err, KELPIE_RESTORE_FAILED, "the VM was not restored") : status;
}

enum kelpie_status vm_check_restore_options(const struct kelpie_restore_options **options,
                                            struct kelpie_error *err) {
    static const struct kelpie_restore_options defaults = {0};
    ASSERT(options);
    *options = *options ? *options : &defaults;
    ASSERT(*options);
    TRY(vm_check_timeout("timeout_ms", (*options)->timeout_ms, err));
    return vm_check_reserved("reserved", (*options)->reserved, ARRAY_SIZE((*options)->reserved),
                             err);
}

static bool is_checkpoint(const struct snapshot_reader *reader) {
    ASSERT(reader);
    ASSERT(snapshot_reader_manifest(reader));
    return snapshot_reader_manifest(reader)->info.kind == KELPIE_SNAPSHOT_CHECKPOINT;
}

enum kelpie_status vm_refuse_checkpoint(const struct snapshot_reader *reader,
                                        struct kelpie_error *err) {
    ASSERT(reader);
    if (!is_checkpoint(reader)) {
        return KELPIE_OK;
    }
    return error_set_field(err, KELPIE_UNSUPPORTED, "kind",
                           "a checkpoint has files and no machine: forks, pools and diffs are of "
                           "other kinds");
}

enum kelpie_status vm_prepare(struct kelpie_vm *vm, struct snapshot_reader *reader,
                              struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(reader);
    ASSERT(!is_checkpoint(reader)); /* of pools, which have none */
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_RESTORE, vm->config->boot_timeout_ms, &wait, err));
    enum kelpie_status status = KELPIE_OK;
    if (vm->ops->prepare) {
        status = vm->ops->prepare(vm->instance, reader, &wait, err);
    }
    vm_end(vm, status);
    return status;
}

/* Brings the machine up in an operation that has begun, and ends it. */
static enum kelpie_status restore(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                  const struct kelpie_restore_options *options,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(reader && options);
    enum kelpie_state before = vm->state;
    vm_starting(vm);
    enum kelpie_status status = KELPIE_OK;
    if (is_checkpoint(reader)) {
        vm_forget_machine(vm);
        status = vm_checkpoint_restore(vm, reader, options, wait, err);
    } else if (vm_capabilities(vm) & KELPIE_CAN_SUSPEND_SNAPSHOT) {
        status = vm_restore_machine(vm, reader, options, wait, err);
    } else {
        status = error_set_field(err, KELPIE_UNSUPPORTED, "kind",
                                 "backend %s cannot restore a machine, only checkpoints",
                                 vm_backend_name(vm));
    }
    if (status != KELPIE_OK) {
        status = restore_status(status, err);
    }
    return vm_started(vm, status, before,
                      options->paused ? KELPIE_STATE_PAUSED : KELPIE_STATE_RUNNING, err);
}

enum kelpie_status vm_restore_from(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                   const struct kelpie_restore_options *options,
                                   struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(reader && options);
    if (vm_is_owned(vm)) {
        return vm_owned_restore(vm, snapshot_reader_directory(reader), options, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_RESTORE, vm_snapshot_timeout(options->timeout_ms), &wait, err));
    return restore(vm, reader, options, &wait, err);
}

enum kelpie_status kelpie_vm_restore(struct kelpie_vm *vm, const char *directory,
                                     const struct kelpie_restore_options *options,
                                     struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    TRY(vm_check_restore_options(&options, err));
    if (vm_is_owned(vm)) {
        return vm_owned_restore(vm, directory, options, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_RESTORE, vm_snapshot_timeout(options->timeout_ms), &wait, err));
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(vm->host, directory, &reader, err);
    if (status != KELPIE_OK) {
        vm_end(vm, status);
        return restore_status(status, err);
    }
    status = restore(vm, reader, options, &wait, err);
    snapshot_reader_close(reader);
    return status;
}

enum kelpie_status kelpie_vm_restore_report(struct kelpie_vm *vm,
                                            struct kelpie_restore_report *ret_report,
                                            struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_report);
    if (vm_is_owned(vm)) {
        return vm_owned_restore_report(vm, ret_report, err);
    }
    vm_lock(vm);
    bool restored = vm->restored;
    struct kelpie_restore_report report = vm->report;
    vm_unlock(vm);
    if (!restored) {
        return error_set(err, KELPIE_WRONG_STATE, "the VM was not restored from a snapshot");
    }
    *ret_report = report;
    return KELPIE_OK;
}

/* ---- Bundles without a VM --------------------------------------------------------------------- */

static enum kelpie_status inspect(void *wanted_host, const char *directory, bool verify,
                                  struct kelpie_snapshot *ret_snapshot, struct kelpie_error *err) {
    ASSERT(verify || ret_snapshot);
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    const struct kelpie_config config = {.host = wanted_host};
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(&config, &host, &owned, err));
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(host, directory, &reader, err);
    if (status == KELPIE_OK && verify) {
        struct host_wait wait = host_wait_ms(host, KELPIE_TIMEOUT_MS_MAX, HOST_FD_NONE);
        status = verify_parts(reader, true, &wait, err);
        if (status == KELPIE_OK) {
            status = is_checkpoint(reader) ? vm_checkpoint_verify(host, reader, &wait, err)
                                           : verify_parents(reader, true, &wait, err);
        }
    }
    if (status == KELPIE_OK && ret_snapshot) {
        *ret_snapshot = snapshot_reader_manifest(reader)->info;
    }
    snapshot_reader_close(reader);
    if (owned) {
        host_destroy(host);
    }
    return status;
}

enum kelpie_status kelpie_snapshot_inspect_on(void *host, const char *directory,
                                              struct kelpie_snapshot *ret_snapshot,
                                              struct kelpie_error *err) {
    ASSERT(ret_snapshot);
    return inspect(host, directory, false, ret_snapshot, err);
}

enum kelpie_status kelpie_snapshot_inspect(const char *directory,
                                           struct kelpie_snapshot *ret_snapshot,
                                           struct kelpie_error *err) {
    ASSERT(ret_snapshot);
    return inspect(NULL, directory, false, ret_snapshot, err);
}

enum kelpie_status kelpie_snapshot_verify_on(void *host, const char *directory,
                                             struct kelpie_error *err) {
    return inspect(host, directory, true, NULL, err);
}

enum kelpie_status kelpie_snapshot_verify(const char *directory, struct kelpie_error *err) {
    return inspect(NULL, directory, true, NULL, err);
}
