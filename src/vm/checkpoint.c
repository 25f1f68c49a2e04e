/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vm/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/populate.h"
#include "vm/warm.h"

/* ---- The workspace ---------------------------------------------------------------------------- */

/* Whether `path` is the folder, or lies in it. */
static bool is_within(const char *path, const char *folder) {
    size_t size = strlen(folder);
    ASSERT(path[0] == '/');
    ASSERT(size > 1 && folder[size - 1] != '/');
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

/* The path without slashes that say nothing. */
static void tidy(const char *path, char ret_path[KELPIE_PATH_SIZE_MAX + 1]) {
    size_t size = 0;
    ASSERT(path[0] == '/');
    ASSERT(strlen(path) <= KELPIE_PATH_SIZE_MAX);
    for (const char *c = path; *c; c++) {
        if (*c != '/' || (c[1] != '/' && c[1] != '\0')) {
            ret_path[size++] = *c;
        }
    }
    ret_path[size] = '\0';
}

enum kelpie_status vm_checkpoint_workspace(const char *wanted, const char *working_dir,
                                           char ret_path[KELPIE_PATH_SIZE_MAX + 1],
                                           struct kelpie_error *err) {
    static const char *const refused[] = {"/dev", "/proc", "/run", "/sys"};
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(working_dir && working_dir[0] == '/');
    TRY(vm_check_path("workspace", wanted ? wanted : working_dir, true, err));
    tidy(wanted ? wanted : working_dir, path);
    if (path[0] == '\0') {
        return error_set_field(err, KELPIE_BAD_CONFIG, "workspace",
                               "a checkpoint is of a folder, and %s: name one",
                               wanted ? "workspace is \"/\"" : "working_dir is \"/\"");
    }
    if (!snapshot_workspace_is_plain(path)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "workspace",
                               "workspace is \"%.300s\": it may have no \".\" and no \"..\"", path);
    }
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        if (is_within(path, refused[i])) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "workspace",
                                   "workspace is \"%.300s\", and what is in %s is the machine's: "
                                   "secrets, and no files",
                                   path, refused[i]);
        }
    }
    ASSERT(strlen(path) > 1);
    memcpy(ret_path, path, strlen(path) + 1);
    return KELPIE_OK;
}

static enum kelpie_status mounted(const char *what, const char *mount, const char *workspace,
                                  struct kelpie_error *err) {
    ASSERT(what);
    ASSERT(mount && workspace);
    return error_set_field(err, KELPIE_BAD_CONFIG, "workspace",
                           "the workspace \"%.200s\" has %s \"%.200s\" in it, or lies there: a "
                           "checkpoint is of files of the guest's own",
                           workspace, what, mount);
}

enum kelpie_status vm_checkpoint_check_mounts(struct kelpie_vm *vm, const char *workspace,
                                              struct kelpie_error *err) {
    const struct kelpie_config *config = vm->config;
    char mount[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(workspace[0] == '/');
    for (size_t i = 0; i < config->disk_count; i++) {
        if (!config->disks[i].mount) {
            continue;
        }
        tidy(config->disks[i].mount, mount);
        if (strcmp(mount, workspace) != 0 && mount[0] != '\0' && is_within(mount, workspace)) {
            return mounted("a disk at", mount, workspace, err);
        }
    }
    vm_lock(vm);
    uint32_t live = vm->live_shares;
    vm_unlock(vm);
    for (size_t i = 0; i < config->share_count; i++) {
        tidy(config->shares[i].mount, mount);
        ASSERT(mount[0] != '\0'); /* vm_check_populate() */
        if ((live >> i & 1) != 0 && (is_within(mount, workspace) || is_within(workspace, mount))) {
            return mounted("a folder of the host, live, at", mount, workspace, err);
        }
    }
    return KELPIE_OK;
}

/* ---- Taking one ------------------------------------------------------------------------------- */

struct source {
    struct vm_transfer *transfer;
    const struct host_wait *wait;
};

static enum kelpie_status read_source(void *argument, void *buffer, size_t size, size_t *ret_size,
                                      struct kelpie_error *err) {
    struct source *source = argument;
    ASSERT(source->transfer);
    ASSERT(ret_size);
    if (host_monotonic_ns(source->transfer->vm->host) > source->wait->deadline_ns) {
        return error_set(err, KELPIE_TIMED_OUT, "reading the workspace took too long");
    }
    return vm_transfer_read(source->transfer, buffer, size, ret_size, err);
}

/* What is said of the folder itself is of the caller's choice. */
static enum kelpie_status workspace_status(enum kelpie_status status, struct kelpie_error *failure,
                                           struct kelpie_error *err) {
    static const int of_choice[] = {ENOENT, ENOTDIR, ELOOP, EBUSY, EINVAL};
    ASSERT(status != KELPIE_OK);
    ASSERT(failure->status == status);
    for (size_t i = 0; i < ARRAY_SIZE(of_choice); i++) {
        if (failure->os_error == of_choice[i]) {
            status = error_wrap(failure, KELPIE_BAD_CONFIG, "the workspace cannot be kept");
            snprintf(failure->field, sizeof(failure->field), "workspace");
        }
    }
    if (err) {
        *err = *failure;
    }
    return status;
}

/* The guest's folder, into the file. Commands stand still. */
static enum kelpie_status read_workspace(struct kelpie_vm *vm, const char *workspace, int fd,
                                         const struct vm_checkpoint_limits *limits,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    struct vm_transfer *transfer = NULL;
    uint32_t mode = 0;
    uint64_t size = 0;
    ASSERT(vm->busy);
    TRY(vm_transfer_create(vm, "the bundle", workspace, &transfer, err));
    transfer->still = true;
    transfer->deadline_ns = wait->deadline_ns;
    struct kelpie_error failure = {0};
    enum kelpie_status status = vm_transfer_get(transfer, &mode, &size, &failure);
    if (status == KELPIE_OK && !(mode & PROTOCOL_MODE_FOLDER)) {
        status = error_set_os(&failure, ENOTDIR, "cannot list %.300s", workspace);
    }
    if (status == KELPIE_OK) {
        struct source argument = {transfer, wait};
        const struct vm_tree_source source = {read_source, &argument};
        status = vm_checkpoint_pack(vm->host, &source, fd, limits, &failure);
    }
    vm_transfer_destroy(transfer);
    return status == KELPIE_OK ? KELPIE_OK : workspace_status(status, &failure, err);
}

enum kelpie_status vm_checkpoint_capture(struct kelpie_vm *vm, const char *workspace,
                                         uint64_t bytes_max, struct snapshot_writer *writer,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    const struct vm_checkpoint_limits limits = {
        .stored_max = bytes_max ? bytes_max : UINT64_MAX,
        .tree = {KELPIE_TREE_BYTES_DEFAULT, KELPIE_TREE_COUNT_DEFAULT},
    };
    int fd = HOST_FD_NONE;
    ASSERT(vm->busy);
    ASSERT(snapshot_workspace_is_plain(workspace));
    TRY(vm_checkpoint_check_mounts(vm, workspace, err));
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_FILES, &fd, err));
    snprintf(manifest->workspace, sizeof(manifest->workspace), "%s", workspace);
    TRY(vm_hold(vm, wait, err));
    enum kelpie_status status = read_workspace(vm, workspace, fd, &limits, wait, err);
    /* Whatever became of it, the VM is as it was: its own time, and no cancel. */
    struct host_wait again = host_wait_ms(vm->host, vm->config->operation_timeout_ms, HOST_FD_NONE);
    struct kelpie_error end_error = {0};
    enum kelpie_status ended = vm_hold_end(vm, &again, &end_error);
    if (status == KELPIE_OK && ended != KELPIE_OK) {
        if (err) {
            *err = end_error;
        }
        return error_wrap(err, ended == KELPIE_CRASHED ? ended : KELPIE_SNAPSHOT_FAILED,
                          "the VM did not go on after the checkpoint");
    }
    return status;
}

/* ---- Restoring one ---------------------------------------------------------------------------- */

enum kelpie_status vm_checkpoint_verify(struct host *host, const struct snapshot_reader *reader,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    int fd = snapshot_reader_part(reader, SNAPSHOT_PART_FILES);
    ASSERT(manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT);
    ASSERT(fd != HOST_FD_NONE);
    return vm_checkpoint_unpack(host, fd, manifest->parts[SNAPSHOT_PART_FILES].size, NULL, wait,
                                err);
}

/* The bundle's files, into the guest, whose commands stand still. */
static enum kelpie_status write_workspace(struct kelpie_vm *vm,
                                          const struct snapshot_reader *reader,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    struct vm_transfer *transfer = NULL;
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    TRY(vm_transfer_create(vm, "the bundle", manifest->workspace, &transfer, err));
    transfer->still = true;
    transfer->deadline_ns = wait->deadline_ns;
    enum kelpie_status status = vm_transfer_put(transfer, 0755 | PROTOCOL_MODE_FOLDER, 0, err);
    if (status == KELPIE_OK) {
        status =
            vm_checkpoint_unpack(vm->host, snapshot_reader_part(reader, SNAPSHOT_PART_FILES),
                                 manifest->parts[SNAPSHOT_PART_FILES].size, transfer, wait, err);
    }
    if (status == KELPIE_OK) {
        status = vm_transfer_finish(transfer, err);
    }
    vm_transfer_destroy(transfer);
    return status == KELPIE_NOT_FOUND
               ? error_wrap(err, KELPIE_RESTORE_FAILED, "the workspace cannot be made")
               : status;
}

/* Before anything starts. */
static enum kelpie_status check_restore(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                        const struct kelpie_restore_options *options,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    char workspace[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(vm->busy);
    ASSERT(options);
    if (options->track) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "track",
                               "a checkpoint has no memory, and so no diffs");
    }
    if (options->paused && !(vm_capabilities(vm) & KELPIE_CAN_PAUSE)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "paused", "backend %s cannot pause",
                               vm_backend_name(vm));
    }
    /* What a config may not name a bundle may not either. */
    enum kelpie_status status =
        vm_checkpoint_workspace(snapshot_reader_manifest(reader)->workspace, "/", workspace, err);
    if (status != KELPIE_OK) {
        return error_wrap(err, KELPIE_SNAPSHOT_CORRUPT, "the bundle's manifest");
    }
    TRY(snapshot_reader_verify(reader, SNAPSHOT_PART_FILES, wait, err));
    return vm_checkpoint_verify(vm->host, reader, wait, err);
}

/* A machine that has booted, or was restored from a template, is new. */
static void note_restored(struct kelpie_vm *vm, const struct snapshot_reader *reader) {
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    ASSERT(vm->busy);
    vm_lock(vm);
    if (!vm->restored) {
        vm->report = (struct kelpie_restore_report){
            .entropy = KELPIE_OUTCOME_DONE,
            .generation = KELPIE_OUTCOME_DONE,
            .clock = KELPIE_OUTCOME_DONE,
            .network = vm->config->network ? KELPIE_OUTCOME_DONE : KELPIE_OUTCOME_UNSUPPORTED,
            .hostname = KELPIE_OUTCOME_DONE,
            .machine_id = KELPIE_OUTCOME_DONE,
        };
    }
    vm->restored = true;
    memcpy(vm->parent_id, manifest->info.id, sizeof(vm->parent_id));
    ASSERT(vm->bundle_directory[0] == '\0'); /* there is no memory to note a working set of */
    vm_unlock(vm);
}

static enum kelpie_status bring_files(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    TRY(vm_checkpoint_check_mounts(vm, snapshot_reader_manifest(reader)->workspace, err));
    TRY(vm_hold(vm, wait, err));
    enum kelpie_status status = write_workspace(vm, reader, wait, err);
    struct kelpie_error end_error = {0};
    enum kelpie_status ended = vm_hold_end(vm, wait, &end_error);
    if (status == KELPIE_OK && ended != KELPIE_OK && err) {
        *err = end_error;
    }
    return status == KELPIE_OK ? ended : status;
}

enum kelpie_status vm_checkpoint_restore(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                         const struct kelpie_restore_options *options,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    TRY(check_restore(vm, reader, options, wait, err));
    TRY(vm_populate_prepare(vm, err));
    TRY(vm->config->warm ? vm_warm_start(vm, wait, err) : vm_boot(vm, wait, err));
    TRY(vm_populate(vm, err));
    TRY(bring_files(vm, reader, wait, err));
    note_restored(vm, reader);
    return options->paused ? vm_stand_still(vm, wait, err) : KELPIE_OK;
}

/* ---- A VM for one ----------------------------------------------------------------------------- */

/* The bundle's backend, if it can run a guest here. */
static const char *usable_backend(struct host *host, const struct snapshot_manifest *manifest) {
    const struct backend_ops *ops = backend_find(manifest->info.backend);
    struct kelpie_probe probe = {0};
    ASSERT(host);
    if (ops && !ops->owner) {
        ops->probe(host, &probe);
    }
    ASSERT(!probe.usable || ops);
    return probe.usable ? ops->name : "auto";
}

enum kelpie_status vm_checkpoint_config(struct host *host, const struct snapshot_manifest *manifest,
                                        const struct kelpie_config *wanted,
                                        struct kelpie_network *network,
                                        struct kelpie_config *ret_config,
                                        struct kelpie_error *err) {
    struct kelpie_config config = {0};
    ASSERT(manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT);
    ASSERT(ret_config);
    if (wanted) {
        config = *wanted;
    }
    config.backend = config.backend ? config.backend : usable_backend(host, manifest);
    config.vcpu_count = config.vcpu_count ? config.vcpu_count : manifest->vcpu_count;
    config.memory_mib = config.memory_mib ? config.memory_mib : manifest->memory_mib;
    config.kernel_args = config.kernel_args ? config.kernel_args : manifest->kernel_args;
    config.env = config.env ? config.env : (const char *const *)manifest->env;
    if (!config.working_dir && manifest->working_dir[0] != '\0') {
        config.working_dir = manifest->working_dir;
    }
    if (!config.image) {
        config.image = snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_IMAGE);
    }
    if (!config.network && snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_NETWORK)) {
        TRY(vm_network_of_bundle(manifest, wanted, network, &config.network, err));
    }
    *ret_config = config;
    return KELPIE_OK;
}
