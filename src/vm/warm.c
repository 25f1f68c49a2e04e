/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Warm starts: see warm.h. */
#include "vm/warm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "store/template.h"

/* A template that is used or made. */
struct vm_template {
    struct host *host;
    struct store *store;
    struct store_template *entry;   /* or NULL */
    struct snapshot_writer *writer; /* of one that is made */
    struct host_thread *thread;     /* NULL: it was not started */
};

/* ---- Whether ---------------------------------------------------------------------------------- */

static bool disks_allow(const struct kelpie_vm *vm) {
    ASSERT(vm->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(vm->ops);
    for (size_t i = 0; i < vm->config->disk_count; i++) {
        struct host_file_info info;
        const struct kelpie_disk *disk = &vm->config->disks[i];
        if (!disk->read_only || host_path_stat(vm->host, disk->path, &info, NULL) != KELPIE_OK ||
            info.type != HOST_FILE_REGULAR) {
            return false; /* a folder's image is made anew for each start */
        }
    }
    return !vm->ops->has_disks || !vm->ops->has_disks(vm->instance);
}

/* A machine that shows a folder itself cannot be saved. Others are no reason against it: they are copied into the guest when it
 * is up (vm/populate.h). */
static bool shares_allow(const struct kelpie_vm *vm) {
    ASSERT(vm->config->share_count <= KELPIE_SHARE_COUNT_MAX);
    ASSERT(vm->ops);
    for (size_t i = 0; i < vm->config->share_count; i++) {
        if (vm->config->shares[i].live) {
            return false;
        }
    }
    return true;
}

bool vm_warm_is_possible(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm->config);
    const struct kelpie_network *network = vm->config->network;
    return vm->config->warm && (vm->ops->capabilities & KELPIE_CAN_SUSPEND_SNAPSHOT) &&
           (!network || network->kind == KELPIE_NETWORK_USER) && disks_allow(vm) &&
           shares_allow(vm);
}

/* ---- Making ----------------------------------------------------------------------------------- */

/* One that was not published is thrown away. */
static void template_destroy(struct vm_template *template) {
    if (!template) {
        return;
    }
    ASSERT(!template->thread);
    ASSERT(template->host);
    snapshot_writer_destroy(template->writer);
    store_template_close(template->entry);
    store_close(template->store);
    free(template);
}

static void discard(struct vm_template *template) {
    ASSERT(template->entry);
    ASSERT(!template->writer);
    store_template_discard(TAKE(template->entry));
}

/* Reads what was written, but for disks: what publish() computed of a file says nothing new about it. */
static enum kelpie_status verify(struct vm_template *template, const struct host_wait *wait,
                                 struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    ASSERT(template->entry);
    ASSERT(wait);
    const char *bundle = store_template_bundle(template->entry);
    TRY(snapshot_reader_open(template->host, bundle, &reader, err));
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    enum kelpie_status status = KELPIE_OK;
    for (unsigned i = 0; status == KELPIE_OK && i < SNAPSHOT_PART_COUNT; i++) {
        if (manifest->parts[i].present && i < SNAPSHOT_PART_DISK_0) {
            status = snapshot_reader_verify(reader, (enum snapshot_part)i, wait, err);
        }
    }
    snapshot_reader_close(reader);
    return status;
}

/* The thread: the VM is used meanwhile. What fails leaves no template. */
static void publish(void *argument) {
    struct vm_template *template = argument;
    struct kelpie_snapshot snapshot;
    struct kelpie_error ignored;
    ASSERT(template->writer);
    ASSERT(template->entry);
    const struct host_wait wait =
        host_wait_ms(template->host, VM_WARM_PUBLISH_TIMEOUT_MS, HOST_FD_NONE);
    if (snapshot_writer_publish(template->writer, &wait, &snapshot, &ignored) == KELPIE_OK &&
        verify(template, &wait, &ignored) == KELPIE_OK) {
        (void)!store_template_publish(TAKE(template->entry), &ignored);
    }
}

void vm_warm_finish(struct kelpie_vm *vm) {
    struct vm_template *template = TAKE(vm->template);
    ASSERT(!vm->template);
    if (template) {
        ASSERT(template->thread); /* boot_and_save() keeps no other */
        host_thread_join(TAKE(template->thread));
    }
    template_destroy(template);
}

/* What a manifest says of a VM is left out: name, environment and folder are no template's. */
static enum kelpie_status describe(struct kelpie_vm *vm, struct snapshot_manifest *manifest,
                                   struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(manifest->env_count == 0);
    struct kelpie_snapshot *info = &manifest->info;
    info->kind = KELPIE_SNAPSHOT_SUSPEND;
    info->created_unix_ms = host_realtime_ns(vm->host) / HOST_NS_PER_MS;
    info->quiesced = true;
    snprintf(info->backend, sizeof(info->backend), "%s", vm->ops->name);
    manifest->vcpu_count = vm->config->vcpu_count;
    manifest->memory_mib = vm->config->memory_mib;
    snprintf(manifest->vm_id, sizeof(manifest->vm_id), "%s", info->id);
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "%s", VM_NEUTRAL_NAME);
    snprintf(manifest->hostname, sizeof(manifest->hostname), "%s", VM_NEUTRAL_NAME);
    snprintf(manifest->working_dir, sizeof(manifest->working_dir), "/");
    snprintf(manifest->kernel_args, sizeof(manifest->kernel_args), "%s", vm->config->kernel_args);
    TRY(vm_image_describe(vm, manifest, err));
    return vm_network_describe(vm->config, manifest, err);
}

/* The guest stands still, as its own neutral self, and is written. */
static enum kelpie_status save(struct kelpie_vm *vm, struct vm_template *template,
                               const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(!template->writer);
    TRY(snapshot_writer_create(vm->host, store_template_bundle(template->entry),
                               KELPIE_TEMPLATE_BYTES_DEFAULT, &template->writer, err));
    TRY(vm_stand_still(vm, wait, err));
    if (!vm->quiesced) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "the guest did not stand still");
    }
    TRY(describe(vm, snapshot_writer_manifest(template->writer), err));
    return vm->ops->save(vm->instance, KELPIE_SNAPSHOT_SUSPEND, template->writer, wait, err);
}

/* Whatever came of the template, the guest becomes this VM's: as a restored one does. */
static enum kelpie_status become_this_vm(struct kelpie_vm *vm, const struct host_wait *wait,
                                         struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->neutral);
    vm_lock(vm);
    vm->neutral = false;
    vm->restored = true;
    vm->fresh_wanted = true;
    vm->allow_incomplete = false;
    vm_unlock(vm);
    enum kelpie_status status = vm_go_on(vm, wait, err);
    vm_lock(vm);
    vm->restored = false;
    vm->report = (struct kelpie_restore_report){0};
    vm_unlock(vm);
    return status;
}

/* Boots the template's guest, saves it, and makes it this VM's. */
static enum kelpie_status boot_and_save(struct kelpie_vm *vm, struct vm_template *template,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    struct kelpie_error ignored;
    ASSERT(vm->busy);
    ASSERT(!vm->template);
    vm->neutral = true;
    enum kelpie_status status = vm_boot(vm, wait, err);
    if (status != KELPIE_OK) {
        vm->neutral = false;
        template_destroy(template);
        return status;
    }
    struct host_wait bounded = *wait;
    bounded.deadline_ns =
        min_u64(bounded.deadline_ns,
                host_wait_ms(vm->host, VM_WARM_SAVE_TIMEOUT_MS, HOST_FD_NONE).deadline_ns);
    bool saved = save(vm, template, &bounded, &ignored) == KELPIE_OK;
    status = become_this_vm(vm, wait, err);
    if (status == KELPIE_OK && saved &&
        host_thread_start(vm->host, "kelpie-template", publish, template, &template->thread,
                          &ignored) == KELPIE_OK) {
        vm->template = template;
        return KELPIE_OK;
    }
    template_destroy(template);
    return status;
}

/* ---- Using ------------------------------------------------------------------------------------ */

/* Nothing is left of the attempt, and the VM is starting as before. */
static void forget_attempt(struct kelpie_vm *vm) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    vm_machine_kill(vm);
    vm_lock(vm);
    vm->restored = false;
    vm->fresh_wanted = false;
    vm->quiesced = false;
    vm->machine_ended = false;
    vm->may_run = false;
    vm->report = (struct kelpie_restore_report){0};
    vm_unlock(vm);
}

/* What says nothing of the template. */
static bool is_of_the_host(enum kelpie_status status) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    return status == KELPIE_CANCELLED || status == KELPIE_NO_MEMORY || status == KELPIE_NO_SPACE ||
           status == KELPIE_BUSY;
}

/* The VM is one that has started, and not the child of a bundle. */
static void forget_bundle(struct kelpie_vm *vm) {
    ASSERT(vm->restored);
    vm_lock(vm);
    vm->parent_id[0] = '\0';
    vm->bundle_directory[0] = '\0';
    vm->saved_session_count = 0;
    vm_unlock(vm);
}

/* OK: the VM is up. Otherwise no machine is left. */
static enum kelpie_status restore(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(reader);
    static const struct kelpie_restore_options options = {0};
    struct host_wait bounded = *wait;
    bounded.deadline_ns =
        min_u64(bounded.deadline_ns,
                host_wait_ms(vm->host, VM_WARM_RESTORE_TIMEOUT_MS, HOST_FD_NONE).deadline_ns);
    enum kelpie_status status = vm_restore_machine(vm, reader, &options, &bounded, err);
    if (status == KELPIE_OK) {
        forget_bundle(vm);
    } else {
        forget_attempt(vm);
    }
    return status;
}

/* Opens the template of that key, which then has an entry and *ret_reader, or begins one, which has an entry only; without an
 * entry there is none and none is to be made. */
static void find(struct vm_template *template, const char *key,
                 struct snapshot_reader **ret_reader) {
    struct kelpie_error err = {0};
    ASSERT(template->store);
    ASSERT(!template->entry);
    if (store_template_open(template->store, key, &template->entry, &err) == KELPIE_OK) {
        enum kelpie_status status = snapshot_reader_open(
            template->host, store_template_bundle(template->entry), ret_reader, &err);
        if (status == KELPIE_OK) {
            return;
        }
        if (is_of_the_host(status)) {
            store_template_close(TAKE(template->entry));
            return;
        }
        discard(template);
    }
    if (store_template_begin(template->store, key, &template->entry, &err) != KELPIE_OK) {
        template->entry = NULL; /* somebody else makes it, or there is no place for it */
    }
}

static enum kelpie_status prepare(struct kelpie_vm *vm, struct vm_template **ret_template,
                                  struct snapshot_reader **ret_reader, struct kelpie_error *err) {
    char key[WARM_KEY_SIZE];
    ASSERT(vm->instance);
    ASSERT(ret_template && ret_reader);
    TRY(vm_warm_key(vm, key, err));
    struct vm_template *template = host_allocate(vm->host, sizeof(*template), err);
    if (!template) {
        return KELPIE_NO_MEMORY;
    }
    template->host = vm->host;
    enum kelpie_status status = store_open(vm->host, &template->store, err);
    if (status != KELPIE_OK) {
        template_destroy(template);
        return status;
    }
    find(template, key, ret_reader);
    *ret_template = template;
    return KELPIE_OK;
}

/* Whether somebody has stopped or cancelled the start meanwhile. */
static bool is_given_up(struct kelpie_vm *vm, enum kelpie_status status) {
    ASSERT(vm->busy);
    vm_lock(vm);
    bool given_up = vm->stop_asked || status == KELPIE_CANCELLED;
    vm_unlock(vm);
    return given_up;
}

enum kelpie_status vm_warm_start(struct kelpie_vm *vm, const struct host_wait *wait,
                                 struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    struct vm_template *template = NULL;
    struct snapshot_reader *reader = NULL;
    struct kelpie_error ignored;
    vm_warm_finish(vm); /* of an earlier start */
    if (!vm_warm_is_possible(vm) || prepare(vm, &template, &reader, &ignored) != KELPIE_OK) {
        return vm_boot(vm, wait, err);
    }
    if (!reader && template->entry) {
        return boot_and_save(vm, template, wait, err);
    }
    enum kelpie_status status = KELPIE_NOT_FOUND;
    if (reader) {
        status = restore(vm, reader, wait, err);
        snapshot_reader_close(reader);
        if (status != KELPIE_OK && !is_given_up(vm, status) && !is_of_the_host(status)) {
            discard(template); /* the next start makes another */
        }
    }
    template_destroy(template);
    bool cold = status != KELPIE_OK && !is_given_up(vm, status);
    return cold ? vm_boot(vm, wait, err) : status;
}
