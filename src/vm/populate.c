/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vm/populate.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/tree.h"

#define SECRETS_FOLDER "/run/secrets"
#define SECRETS_FOLDER_MODE 0500
#define SECRET_MODE 0400

/* ---- What a config may say -------------------------------------------------------------------- */

/* A place is taken by one disk or share. */
static enum kelpie_status check_mount(const struct kelpie_config *config, size_t index,
                                      const char *field, struct kelpie_error *err) {
    const char *mount = config->shares[index].mount;
    ASSERT(mount);
    ASSERT(field);
    if (strspn(mount, "/") == strlen(mount)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field,
                               "%s is \"/\": a root is an image or a disk", field);
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        if (config->disks[i].mount && strcmp(config->disks[i].mount, mount) == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s is \"%.100s\", where disks[%zu] is mounted", field, mount,
                                   i);
        }
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(config->shares[i].mount, mount) == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s is \"%.100s\", where shares[%zu] is already", field, mount,
                                   i);
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status check_share(const struct kelpie_config *config, size_t index,
                                      struct kelpie_error *err) {
    const struct kelpie_share *share = &config->shares[index];
    char field[64];
    ASSERT(index < config->share_count);
    snprintf(field, sizeof(field), "shares[%zu].path", index);
    TRY(vm_check_path(field, share->path ? share->path : "", false, err));
    snprintf(field, sizeof(field), "shares[%zu].mount", index);
    TRY(vm_check_path(field, share->mount ? share->mount : "", true, err));
    TRY(check_mount(config, index, field, err));
    if (share->copy && share->live) {
        snprintf(field, sizeof(field), "shares[%zu].live", index);
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s is set, and copy too", field);
    }
    snprintf(field, sizeof(field), "shares[%zu].reserved", index);
    ASSERT(share->path && share->mount);
    return vm_check_reserved(field, share->reserved, ARRAY_SIZE(share->reserved), err);
}

static enum kelpie_status check_secret(const struct kelpie_config *config, size_t index,
                                       struct kelpie_error *err) {
    const struct kelpie_secret *secret = &config->secrets[index];
    char field[64];
    ASSERT(index < config->secret_count);
    snprintf(field, sizeof(field), "secrets[%zu].name", index);
    TRY(vm_check_name(field, secret->name ? secret->name : "", "_.-", err));
    for (size_t i = 0; i < index; i++) {
        if (strcmp(config->secrets[i].name, secret->name) == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s is \"%s\", as secrets[%zu] is", field, secret->name, i);
        }
    }
    snprintf(field, sizeof(field), "secrets[%zu].data", index);
    if (!secret->data && secret->size > 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s is missing", field);
    }
    if (secret->size > KELPIE_SECRET_BYTES_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s has %zu bytes, and may have %d",
                               field, secret->size, KELPIE_SECRET_BYTES_MAX);
    }
    snprintf(field, sizeof(field), "secrets[%zu].reserved", index);
    return vm_check_reserved(field, secret->reserved, ARRAY_SIZE(secret->reserved), err);
}

enum kelpie_status vm_check_populate(const struct kelpie_config *config, struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    if (config->share_count > KELPIE_SHARE_COUNT_MAX ||
        (config->share_count > 0 && !config->shares)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "shares",
                               "shares are missing, or more than the %d allowed",
                               KELPIE_SHARE_COUNT_MAX);
    }
    if (config->secret_count > KELPIE_SECRET_COUNT_MAX ||
        (config->secret_count > 0 && !config->secrets)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "secrets",
                               "secrets are missing, or more than the %d allowed",
                               KELPIE_SECRET_COUNT_MAX);
    }
    for (size_t i = 0; i < config->share_count; i++) {
        TRY(check_share(config, i, err));
    }
    for (size_t i = 0; i < config->secret_count; i++) {
        TRY(check_secret(config, i, err));
    }
    return KELPIE_OK;
}

void vm_populate_wipe(struct kelpie_config *config) {
    ASSERT(config);
    ASSERT(config->secrets || config->secret_count == 0);
    for (size_t i = 0; i < config->secret_count; i++) {
        /* Ours to write: the config is a VM's own copy. */
        if (config->secrets[i].size > 0) {
            explicit_bzero((void *)(uintptr_t)config->secrets[i].data, config->secrets[i].size);
        }
    }
}

/* ---- Shared folders --------------------------------------------------------------------------- */

static enum kelpie_status prepare_share(struct kelpie_vm *vm, size_t index,
                                        struct kelpie_error *err) {
    const struct kelpie_share *share = &vm->config->shares[index];
    char field[64];
    struct host_file_info info;
    struct kelpie_error failure = {0};
    ASSERT(share->path);
    snprintf(field, sizeof(field), "shares[%zu].path", index);
    enum kelpie_status status = host_path_stat(vm->host, share->path, &info, &failure);
    if (status != KELPIE_OK || info.type != HOST_FILE_FOLDER) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s: %.300s is no folder%s%.300s",
                               field, share->path, status == KELPIE_OK ? "" : ": ",
                               failure.message);
    }
    if (share->live && !vm->ops->shows_share) {
        snprintf(field, sizeof(field), "shares[%zu].live", index);
        return error_set_field(err, KELPIE_UNSUPPORTED, field,
                               "%s: backend %s shows guests no folder itself, qemu does", field,
                               vm_backend_name(vm));
    }
    return KELPIE_OK;
}

enum kelpie_status vm_populate_prepare(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->config->share_count <= KELPIE_SHARE_COUNT_MAX);
    for (size_t i = 0; i < vm->config->share_count; i++) {
        TRY(prepare_share(vm, i, err));
    }
    return KELPIE_OK;
}

/* Whether the machine has a device for it. */
static bool has_device(struct kelpie_vm *vm, size_t index) {
    ASSERT(vm->instance);
    ASSERT(index < vm->config->share_count);
    return vm->ops->shows_share && vm->ops->shows_share(vm->instance, index);
}

enum kelpie_status vm_check_shares_for_save(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->config);
    ASSERT(vm->busy);
    for (size_t i = 0; i < vm->config->share_count; i++) {
        if (has_device(vm, i)) {
            return error_set_field(err, KELPIE_UNSUPPORTED, "shares",
                                   "the guest has the shared folder %.300s open, live, which no "
                                   "snapshot and no fork can have: share it as a copy",
                                   vm->config->shares[i].path);
        }
    }
    return KELPIE_OK;
}

uint32_t kelpie_vm_live_shares(struct kelpie_vm *vm) {
    vm_check(vm);
    static_assert(KELPIE_SHARE_COUNT_MAX <= 32, "a bit for each");
    vm_lock(vm);
    bool up = vm->state == KELPIE_STATE_RUNNING || vm->state == KELPIE_STATE_PAUSED;
    uint32_t live = up ? vm->live_shares : 0;
    vm_unlock(vm);
    ASSERT(live >> KELPIE_SHARE_COUNT_MAX == 0);
    return live;
}

/* *ret_live: it is mounted; else it is to be copied: the guest's kernel has no virtio-fs. */
static enum kelpie_status show_share(struct kelpie_vm *vm, size_t index, bool *ret_live,
                                     struct kelpie_error *err) {
    const struct kelpie_share *share = &vm->config->shares[index];
    const struct protocol_share message = {
        .index = (uint32_t)index, .read_only = share->read_only, .path = share->mount};
    struct kelpie_error inner;
    ASSERT(has_device(vm, index));
    ASSERT(!share->copy);
    vm_lock(vm);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    enum kelpie_status status = vm_say_share(vm, &message, &wait, &inner);
    if (status == KELPIE_OK) {
        vm->live_shares |= (uint32_t)1 << index;
    }
    vm_unlock(vm);
    *ret_live = status == KELPIE_OK;
    if (status == KELPIE_OK || (status == KELPIE_UNSUPPORTED && !share->live)) {
        return KELPIE_OK;
    }
    *err = inner;
    return status;
}

/* What was not copied of it (sockets, devices) is nothing that a copy could have. */
static enum kelpie_status copy_share(struct kelpie_vm *vm, const struct kelpie_share *share,
                                     struct kelpie_error *err) {
    static const struct vm_tree_limits limits = {KELPIE_TREE_BYTES_DEFAULT,
                                                 KELPIE_TREE_COUNT_DEFAULT};
    struct vm_transfer *transfer = NULL;
    struct kelpie_tree_report report = {0};
    ASSERT(share->path && share->mount);
    TRY(vm_transfer_create(vm, share->path, share->mount, &transfer, err));
    transfer->at_start = true;
    enum kelpie_status status = vm_tree_in(transfer, &limits, &report, err);
    if (status != KELPIE_OK) {
        status = vm_transfer_status(transfer, status, err);
    }
    vm_transfer_destroy(transfer);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    return status;
}

/* ---- Secrets ---------------------------------------------------------------------------------- */

static enum kelpie_status send_entry(struct vm_transfer *transfer,
                                     const struct protocol_tree_entry *entry,
                                     struct kelpie_error *err) {
    struct cursor_writer writer = cursor_writer_init(transfer->chunk, sizeof(transfer->chunk));
    ASSERT(entry->name);
    protocol_encode_tree_entry(&writer, entry);
    ASSERT(!writer.failed);
    return vm_transfer_write(transfer, transfer->chunk, writer.size, err);
}

static enum kelpie_status send_secrets(struct vm_transfer *transfer, struct kelpie_error *err) {
    const struct kelpie_config *config = transfer->vm->config;
    ASSERT(config->secret_count > 0);
    TRY(vm_transfer_put(transfer, SECRETS_FOLDER_MODE | PROTOCOL_MODE_FOLDER, 0, err));
    for (size_t i = 0; i < config->secret_count; i++) {
        const struct kelpie_secret *secret = &config->secrets[i];
        const struct protocol_tree_entry entry = {.kind = PROTOCOL_TREE_FILE,
                                                  .name = secret->name,
                                                  .mode = SECRET_MODE,
                                                  .size = secret->size};
        ASSERT(secret->data || secret->size == 0);
        TRY(send_entry(transfer, &entry, err));
        TRY(vm_transfer_write(transfer, secret->data, secret->size, err));
    }
    TRY(send_entry(transfer, &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_END, .name = ""},
                   err));
    return vm_transfer_finish(transfer, err);
}

static enum kelpie_status put_secrets(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct vm_transfer *transfer = NULL;
    ASSERT(vm->config->secrets);
    ASSERT(vm->config->secret_count <= KELPIE_SECRET_COUNT_MAX);
    TRY(vm_transfer_create(vm, "the secrets", SECRETS_FOLDER, &transfer, err));
    transfer->at_start = true;
    enum kelpie_status status = send_secrets(transfer, err);
    if (status != KELPIE_OK) {
        status = vm_transfer_status(transfer, status, err);
    }
    vm_transfer_destroy(transfer);
    return status;
}

enum kelpie_status vm_populate(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    for (size_t i = 0; i < vm->config->share_count; i++) {
        bool live = false;
        if (has_device(vm, i)) {
            TRY(show_share(vm, i, &live, err));
        }
        if (!live) {
            TRY(copy_share(vm, &vm->config->shares[i], err));
        }
    }
    return vm->config->secret_count > 0 ? put_secrets(vm, err) : KELPIE_OK;
}
