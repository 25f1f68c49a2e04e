/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A VM of an image. The image's file system, which nobody writes, and a disk of the VM's own over it are the machine's last two
 * disks, so that the config's disks are /dev/vda and so on as ever; the guest makes its root of the two. The config that
 * callers see does not have them: the machine's does.
 *
 * A name may be given to another image, but a disk over an image is nothing over another one. So a VM whose disks are kept
 * in a folder keeps its image too: its digest is written there, and the next process that makes the VM looks for that.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/vm.h"

#define KEPT_FILE                                                                                  \
    "image" /* in the folder of the VM's disks: the digest of what the one over it is over */
#define KEPT_MODE 0600

/* The image's words where the caller has none of their own. */
static enum kelpie_status fill_config(struct kelpie_vm *vm, const struct kelpie_config *wanted,
                                      const struct kelpie_image *image, struct kelpie_error *err) {
    ASSERT(image);
    ASSERT(vm->config);
    struct kelpie_config filled = *wanted;
    struct kelpie_config *copy = NULL;
    bool has_env = !filled.env && image->env && image->env[0];
    bool has_working_dir = !filled.working_dir && image->working_dir[0];
    if (!has_env && !has_working_dir) {
        return KELPIE_OK;
    }
    filled.env = has_env ? image->env : filled.env;
    filled.working_dir = has_working_dir ? image->working_dir : filled.working_dir;
    TRY(vm_config_copy(vm->host, &filled, vm->id, &copy, err));
    vm_config_destroy(vm->config_copy);
    vm->config_copy = copy;
    vm->config = copy;
    return KELPIE_OK;
}

static enum kelpie_status kept_path(const struct kelpie_vm *vm, char path[HOST_PATH_SIZE_MAX + 1],
                                    struct kelpie_error *err) {
    ASSERT(vm->config->disk_folder);
    ASSERT(path);
    int size = snprintf(path, HOST_PATH_SIZE_MAX + 1, "%s/" KEPT_FILE, vm->config->disk_folder);
    ASSERT(size > 0);
    if (size > HOST_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk_folder", "disk_folder is too long");
    }
    return KELPIE_OK;
}

/* ret_digest: what the VM has had; empty: nothing yet. */
static enum kelpie_status read_kept(struct kelpie_vm *vm, char ret_digest[KELPIE_DIGEST_SIZE],
                                    struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 1];
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    ASSERT(ret_digest);
    ASSERT(vm->host);
    ret_digest[0] = '\0';
    TRY(kept_path(vm, path, err));
    enum kelpie_status status =
        host_file_load(vm->host, path, KELPIE_DIGEST_SIZE - 1, &text, &size, err);
    if (status == KELPIE_NOT_FOUND) {
        return KELPIE_OK;
    }
    TRY(status);
    if (size == 0 || strlen(text) != size) {
        return error_set(err, KELPIE_IO_FAILED, "%s is damaged", path);
    }
    snprintf(ret_digest, KELPIE_DIGEST_SIZE, "%s", text);
    return KELPIE_OK;
}

static enum kelpie_status write_kept(struct kelpie_vm *vm, struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 1];
    ASSERT(vm->image_digest[0]);
    ASSERT(vm->config->disk_folder);
    TRY(kept_path(vm, path, err));
    return host_file_store(vm->host, path, vm->image_digest, strlen(vm->image_digest), KEPT_MODE,
                           err);
}

static enum kelpie_status find_image(struct kelpie_vm *vm, const struct kelpie_config *wanted,
                                     bool for_bundle, struct kelpie_error *err) {
    struct kelpie_image *image = NULL;
    ASSERT(vm->config->image);
    ASSERT(vm->image_digest[0] == '\0');
    struct kelpie_error inner = {0};
    char kept[KELPIE_DIGEST_SIZE] = "";
    if (vm->config->disk_folder && !for_bundle) {
        TRY(read_kept(vm, kept, err));
    }
    const char *name = kept[0] ? kept : vm->config->image;
    enum kelpie_status status = kelpie_image_find(vm->host, name, &image, &inner);
    if (status == KELPIE_NOT_FOUND && for_bundle) {
        snprintf(vm->image_digest, sizeof(vm->image_digest), "%s", vm->config->image);
        return KELPIE_OK;
    }
    if (status != KELPIE_OK) {
        if (err) {
            *err = inner;
            snprintf(err->field, sizeof(err->field), "image");
        }
        return status;
    }
    snprintf(vm->image_digest, sizeof(vm->image_digest), "%s", image->digest);
    snprintf(vm->image_path, sizeof(vm->image_path), "%s", image->path);
    status = fill_config(vm, wanted, image, err);
    kelpie_list_free(image);
    TRY(status);
    bool keep = vm->config->disk_folder && strcmp(kept, vm->image_digest) != 0;
    return keep ? write_kept(vm, err) : KELPIE_OK;
}

/* The mock's guest has a root of its own whatever the image: it is for trying out what is around a VM. */
static bool has_image_disks(const struct kelpie_vm *vm) {
    ASSERT(vm->ops);
    ASSERT(vm->config);
    return vm->config->image && vm->ops->capabilities & KELPIE_CAN_DISKS;
}

static void make_machine(struct kelpie_vm *vm) {
    const struct kelpie_config *config = vm->config;
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(!config->image || config->disk_count + VM_IMAGE_DISK_COUNT <= KELPIE_DISK_COUNT_MAX);
    vm->machine = *config;
    if (!has_image_disks(vm)) {
        return;
    }
    size_t count = config->disk_count;
    for (size_t i = 0; i < count; i++) {
        vm->machine_disks[i] = config->disks[i];
    }
    vm->machine_disks[count++] = (struct kelpie_disk){.path = vm->image_path, .read_only = true};
    vm->machine_disks[count++] = (struct kelpie_disk){.path = ""};
    vm->machine.disks = vm->machine_disks;
    vm->machine.disk_count = count;
}

enum kelpie_status vm_image_apply(struct kelpie_vm *vm, const struct kelpie_config *wanted,
                                  bool for_bundle, struct kelpie_error *err) {
    ASSERT(vm->config && vm->ops);
    ASSERT(wanted);
    if (vm->config->image && !vm->ops->owner) {
        if (!has_image_disks(vm) && strcmp(vm->ops->name, "mock") != 0) {
            return error_set_field(err, KELPIE_UNSUPPORTED, "image",
                                   "backend %s has no disks, and an image is one", vm->ops->name);
        }
        TRY(find_image(vm, wanted, for_bundle, err));
    }
    make_machine(vm);
    vm->launch = (struct backend_launch){
        .host = vm->host,
        .config = &vm->machine,
        .id = vm->id,
        .cancel_fd = vm->cancel_event,
        .for_bundle = for_bundle,
        .disk_folder = vm->config->disk_folder,
        .has_image = has_image_disks(vm),
    };
    return KELPIE_OK;
}

void vm_image_mounts(const struct kelpie_vm *vm, struct protocol_setup *setup) {
    const struct kelpie_config *machine = &vm->machine;
    ASSERT(setup->mount_count == 0);
    ASSERT(machine->disk_count <= PROTOCOL_MOUNT_COUNT_MAX);
    for (size_t i = 0; i < machine->disk_count; i++) {
        if (machine->disks[i].mount) {
            setup->mounts[setup->mount_count++] = (struct protocol_mount){
                .disk_index = (uint32_t)i,
                .read_only = machine->disks[i].read_only,
                .path = machine->disks[i].mount,
            };
        }
    }
    if (vm->launch.has_image) {
        setup->mounts[setup->mount_count++] = (struct protocol_mount){
            .disk_index = (uint32_t)machine->disk_count - 2,
            .read_only = true,
            .overlay = true,
            .upper_index = (uint32_t)machine->disk_count - 1,
            .path = "/",
        };
    }
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

enum kelpie_status vm_image_describe(const struct kelpie_vm *vm, struct snapshot_manifest *manifest,
                                     struct kelpie_error *err) {
    ASSERT(vm->ops);
    ASSERT(manifest);
    if (!vm->image_digest[0]) {
        return KELPIE_OK;
    }
    return snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_IMAGE, vm->image_digest, err);
}

enum kelpie_status vm_image_fits(const struct kelpie_vm *vm,
                                 const struct snapshot_manifest *manifest,
                                 struct kelpie_error *err) {
    ASSERT(vm->ops);
    ASSERT(manifest);
    const char *bundle = snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_IMAGE);
    bundle = bundle ? bundle : "";
    if (strcmp(bundle, vm->image_digest) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "image",
                               "the bundle's VM has %s as its image, and this VM %s",
                               bundle[0] ? bundle : "none",
                               vm->image_digest[0] ? vm->image_digest : "none");
    }
    return KELPIE_OK;
}

enum kelpie_status vm_image_of_bundle(const struct snapshot_manifest *manifest,
                                      struct kelpie_config *config, struct kelpie_error *err) {
    ASSERT(manifest);
    ASSERT(config->disk_count == manifest->disk_count);
    config->image = snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_IMAGE);
    config->image_disk_mib = 0;
    config->warm = false;
    if (!config->image || strcmp(manifest->info.backend, "mock") == 0) {
        return KELPIE_OK;
    }
    size_t count = manifest->disk_count;
    if (count < VM_IMAGE_DISK_COUNT || !manifest->disks[count - 2].read_only ||
        manifest->disks[count - 1].read_only || manifest->disks[count - 1].size >> 20 == 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "manifest",
                               "the bundle's last two disks are not those of an image");
    }
    config->disk_count = count - VM_IMAGE_DISK_COUNT;
    config->image_disk_mib = (uint32_t)(manifest->disks[count - 1].size >> 20);
    return KELPIE_OK;
}
