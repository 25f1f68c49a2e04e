/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Snapshots of a VM: what src/snapshot/ (the bundle), the backend (machine) and the guest do, in order. The VM stands
 * still only while memory and devices are written into the page cache; syncing and publishing happens when it
 * goes on.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/checkpoint.h"
#include "vm/populate.h"

uint64_t vm_snapshot_timeout(uint32_t timeout_ms) {
    ASSERT(timeout_ms <= KELPIE_TIMEOUT_MS_MAX);
    return timeout_ms != 0 ? timeout_ms : KELPIE_BOOT_TIMEOUT_MS_DEFAULT;
}

/* ---- Snapshot --------------------------------------------------------------------------------- */

/* The two that are about diffs. */
static enum kelpie_status check_diff_options(struct kelpie_vm *vm,
                                             const struct kelpie_snapshot_options *options,
                                             struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    const char *field = options->parent ? "parent" : "track";
    if (!options->parent && !options->track) {
        return KELPIE_OK;
    }
    if (options->kind == KELPIE_SNAPSHOT_CHECKPOINT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field,
                               "a checkpoint has no memory, and so no diffs");
    }
    if (!(vm_capabilities(vm) & KELPIE_CAN_DIFF_SNAPSHOT)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, field,
                               "backend %s cannot make diffs of this kind", vm_backend_name(vm));
    }
    return options->parent ? vm_check_path("parent", options->parent, false, err) : KELPIE_OK;
}

static enum kelpie_status check_snapshot_options(struct kelpie_vm *vm, const char *directory,
                                                 const struct kelpie_snapshot_options *options,
                                                 struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    static const uint32_t capabilities[] = {
        [KELPIE_SNAPSHOT_SUSPEND] = KELPIE_CAN_SUSPEND_SNAPSHOT,
        [KELPIE_SNAPSHOT_TELEPORT] = KELPIE_CAN_TELEPORT_SNAPSHOT,
        [KELPIE_SNAPSHOT_CHECKPOINT] = KELPIE_CAN_CHECKPOINT,
    };
    static_assert(ARRAY_SIZE(capabilities) == KELPIE_SNAPSHOT_KIND_COUNT, "each kind has one");
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    TRY(vm_check_timeout("timeout_ms", options->timeout_ms, err));
    TRY(vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err));
    if ((unsigned)options->kind >= KELPIE_SNAPSHOT_KIND_COUNT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kind", "there is no snapshot kind %d",
                               (int)options->kind);
    }
    if (!(vm_capabilities(vm) & capabilities[options->kind])) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "kind",
                               "backend %s cannot make snapshots of this kind",
                               vm_backend_name(vm));
    }
    if (options->kind == KELPIE_SNAPSHOT_CHECKPOINT) {
        char workspace[KELPIE_PATH_SIZE_MAX + 1];
        TRY(vm_checkpoint_workspace(options->workspace, vm->config->working_dir, workspace, err));
    } else if (options->workspace) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "workspace",
                               "a workspace is of a checkpoint, and of no other kind");
    }
    return check_diff_options(vm, options, err);
}

/* Where each reader goes on, for a restore. mutex held. */
static void describe_sessions(struct kelpie_vm *vm, struct snapshot_manifest *manifest) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    manifest->session_count = 0;
    for (size_t i = 0; i < vm->session_count; i++) {
        const struct kelpie_exec *exec = vm->sessions[i];
        if (!exec->started || exec->closed || exec->yielded || exec->kind != VM_SESSION_COMMAND) {
            continue;
        }
        ASSERT(manifest->session_count < KELPIE_EXEC_COUNT_MAX);
        manifest->sessions[manifest->session_count++] = vm_session_offsets(exec);
    }
    /* Those that nobody has taken up since they were detached, or since the restore. */
    for (size_t i = 0; i < vm->saved_session_count; i++) {
        if (manifest->session_count < KELPIE_EXEC_COUNT_MAX) {
            manifest->sessions[manifest->session_count++] = vm->saved_sessions[i];
        }
    }
}

static enum kelpie_status describe_config(struct kelpie_vm *vm, struct snapshot_manifest *manifest,
                                          struct kelpie_error *err) {
    ASSERT(manifest->env_count == 0);
    ASSERT(vm->config);
    const struct kelpie_config *config = vm->config;
    manifest->vcpu_count = config->vcpu_count;
    manifest->memory_mib = config->memory_mib;
    snprintf(manifest->vm_id, sizeof(manifest->vm_id), "%s", vm->id);
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "%s", config->name);
    snprintf(manifest->kernel_args, sizeof(manifest->kernel_args), "%s", config->kernel_args);
    snprintf(manifest->hostname, sizeof(manifest->hostname), "%s", config->hostname);
    snprintf(manifest->working_dir, sizeof(manifest->working_dir), "%s", config->working_dir);
    for (size_t i = 0; config->env && config->env[i]; i++) {
        TRY(snapshot_manifest_add_env(vm->host, manifest, config->env[i], err));
    }
    TRY(vm_image_describe(vm, manifest, err));
    return vm_network_describe(config, manifest, err);
}

static enum kelpie_status describe(struct kelpie_vm *vm, enum kelpie_snapshot_kind kind,
                                   struct snapshot_manifest *manifest, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT((unsigned)kind < KELPIE_SNAPSHOT_KIND_COUNT);
    struct kelpie_snapshot *info = &manifest->info;
    info->kind = kind;
    info->created_unix_ms = host_realtime_ns(vm->host) / HOST_NS_PER_MS;
    snprintf(info->backend, sizeof(info->backend), "%s", vm_backend_name(vm));
    if (manifest->parent_path[0] == '\0') { /* a diff says already what it is to */
        snprintf(info->parent_id, sizeof(info->parent_id), "%s", vm->parent_id);
    }
    vm_lock(vm);
    info->quiesced = vm->quiesced || kind == KELPIE_SNAPSHOT_CHECKPOINT;
    if (kind != KELPIE_SNAPSHOT_CHECKPOINT) {
        describe_sessions(vm, manifest);
    }
    vm_unlock(vm);
    return describe_config(vm, manifest, err);
}

/* The VM stands still: its bytes go into the writer. */
static enum kelpie_status save_machine(struct kelpie_vm *vm, enum kelpie_snapshot_kind kind,
                                       bool track, struct snapshot_writer *writer,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(writer);
    TRY(describe(vm, kind, snapshot_writer_manifest(writer), err));
    TRY(vm->ops->save(vm->instance, kind, writer, wait, err));
    return track ? vm->ops->track(vm->instance, wait, err) : KELPIE_OK;
}

/* Makes the new bundle a diff. The parent is looked at again when it is restored; now its id counts. */
static enum kelpie_status name_parent(struct kelpie_vm *vm, const char *parent,
                                      struct snapshot_writer *writer, struct kelpie_error *err) {
    ASSERT(vm->ops->presave);
    ASSERT(parent);
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(vm->host, parent, &reader, err);
    if (status != KELPIE_OK) {
        status = error_wrap(err, status, "the parent");
        if (err) {
            snprintf(err->field, sizeof(err->field), "parent");
        }
        return status;
    }
    if (vm_refuse_checkpoint(reader, NULL) != KELPIE_OK) {
        status =
            error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                            "%.512s is a checkpoint, and has no memory to make a diff to", parent);
    } else {
        status = snapshot_writer_set_parent(writer, parent, reader, err);
    }
    snapshot_reader_close(reader);
    return status;
}

enum kelpie_status vm_snapshot_status(struct kelpie_vm *vm, enum kelpie_status status,
                                      struct kelpie_error *err) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    bool kept = status == KELPIE_CRASHED || status == KELPIE_CANCELLED ||
                status == KELPIE_NO_SPACE || status == KELPIE_NO_MEMORY ||
                status == KELPIE_BAD_CONFIG || status == KELPIE_UNSUPPORTED ||
                status == KELPIE_SNAPSHOT_TOO_LARGE || status == KELPIE_SNAPSHOT_CORRUPT ||
                status == KELPIE_SNAPSHOT_INCOMPATIBLE || status == KELPIE_SNAPSHOT_FAILED;
    if (!kept) {
        status = error_wrap(err, KELPIE_SNAPSHOT_FAILED, "the snapshot was not made");
    }
    vm_lock(vm);
    if (vm->state == KELPIE_STATE_CRASHED) {
        status = error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    vm_unlock(vm);
    return status;
}

enum kelpie_status vm_capture(struct kelpie_vm *vm, enum kelpie_snapshot_kind kind, bool track,
                              struct snapshot_writer *writer, const struct host_wait *wait,
                              struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(writer);
    enum kelpie_state state = kelpie_vm_state(vm);
    bool running = state == KELPIE_STATE_RUNNING;
    if (state == KELPIE_STATE_CRASHED) {
        return error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    if (running && snapshot_writer_manifest(writer)->parent_path[0] != '\0') {
        TRY(vm->ops->presave(vm->instance, writer, wait, err));
    }
    if (running) {
        TRY(vm_stand_still(vm, wait, err));
    } else {
        TRY(vm_stay_still(vm, wait, err));
    }
    enum kelpie_status saved = save_machine(vm, kind, track, writer, wait, err);
    if (running) {
        /* Whatever became of the snapshot, the VM goes on: its own time, and no cancel. */
        struct host_wait again =
            host_wait_ms(vm->host, vm->config->operation_timeout_ms, HOST_FD_NONE);
        struct kelpie_error resume_error;
        enum kelpie_status resumed = vm_go_on(vm, &again, &resume_error);
        vm_lock(vm);
        if (resumed != KELPIE_OK && vm->machine_alive) {
            vm_set_state(vm, KELPIE_STATE_PAUSED);
        }
        vm_unlock(vm);
        if (saved == KELPIE_OK && resumed != KELPIE_OK) {
            if (err) {
                *err = resume_error;
            }
            return error_wrap(err, resumed == KELPIE_CRASHED ? resumed : KELPIE_SNAPSHOT_FAILED,
                              "the VM did not go on after the snapshot");
        }
    }
    return saved;
}

/* A folder of the VM's, which stands still meanwhile. */
static enum kelpie_status capture_workspace(struct kelpie_vm *vm,
                                            const struct kelpie_snapshot_options *options,
                                            struct snapshot_writer *writer,
                                            const struct host_wait *wait,
                                            struct kelpie_error *err) {
    char workspace[KELPIE_PATH_SIZE_MAX + 1];
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    ASSERT(options->kind == KELPIE_SNAPSHOT_CHECKPOINT);
    ASSERT(vm->busy);
    TRY(vm_checkpoint_workspace(options->workspace, vm->config->working_dir, workspace, err));
    TRY(vm_checkpoint_capture(vm, workspace, options->bytes_max, writer, wait, err));
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "any");
    return describe(vm, KELPIE_SNAPSHOT_CHECKPOINT, manifest, err);
}

enum kelpie_status kelpie_vm_snapshot(struct kelpie_vm *vm, const char *directory,
                                      const struct kelpie_snapshot_options *options,
                                      struct kelpie_snapshot *ret_snapshot,
                                      struct kelpie_error *err) {
    ASSERT(vm->instance);
    static const struct kelpie_snapshot_options defaults = {0};
    vm_check(vm);
    options = options ? options : &defaults;
    TRY(check_snapshot_options(vm, directory, options, err));
    if (vm_is_owned(vm)) {
        return vm_owned_snapshot(vm, directory, options, ret_snapshot, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_SNAPSHOT, vm_snapshot_timeout(options->timeout_ms), &wait, err));

    struct kelpie_snapshot snapshot = {0};
    struct snapshot_writer *writer = NULL;
    bool files = options->kind == KELPIE_SNAPSHOT_CHECKPOINT;
    enum kelpie_status status = files ? KELPIE_OK : vm_check_shares_for_save(vm, err);
    if (status == KELPIE_OK) {
        status = snapshot_writer_create(vm->host, directory, options->bytes_max, &writer, err);
    }
    if (status == KELPIE_OK && options->parent) {
        status = name_parent(vm, options->parent, writer, err);
    }
    if (status == KELPIE_OK) {
        status = files ? capture_workspace(vm, options, writer, &wait, err)
                       : vm_capture(vm, options->kind, options->track, writer, &wait, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_writer_publish(writer, &wait, &snapshot, err);
    }
    snapshot_writer_destroy(writer);
    if (status != KELPIE_OK) {
        status = vm_snapshot_status(vm, status, err);
    } else if (ret_snapshot) {
        *ret_snapshot = snapshot;
    }
    vm_end(vm, status);
    return status;
}
