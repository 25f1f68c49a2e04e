/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Noting what a restored guest touches, for the next restores of its bundle. */
#include "snapshot/working_set.h"

#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/vm.h"

/* The bundle must still be the one that the VM was restored from. */
static enum kelpie_status check_bundle(const struct kelpie_vm *vm,
                                       const struct snapshot_reader *reader,
                                       struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    ASSERT(vm->busy);
    ASSERT(vm->restored);
    if (strcmp(manifest->info.id, vm->parent_id) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "id",
                               "%.512s is the bundle %s, and the VM was restored from %s",
                               vm->bundle_directory, manifest->info.id, vm->parent_id);
    }
    return KELPIE_OK;
}

static enum kelpie_status note(struct kelpie_vm *vm, const struct snapshot_reader *reader,
                               const struct host_wait *wait, struct kelpie_error *err) {
    AUTO_FD struct host_fd fd = {vm->host, HOST_FD_NONE};
    ASSERT(reader);
    ASSERT(wait);
    TRY(check_bundle(vm, reader, err));
    const uint64_t memory_size = snapshot_reader_manifest(reader)->parts[SNAPSHOT_PART_MEMORY].size;
    TRY(host_memory_file(vm->host, "kelpie-working-set", snapshot_working_set_size(memory_size),
                         &fd.fd, err));
    TRY(vm->ops->touched(vm->instance, fd.fd, wait, err));
    return snapshot_working_set_store(vm->host, reader, fd.fd, err);
}

static enum kelpie_status record(struct kelpie_vm *vm, const struct host_wait *wait,
                                 struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    ASSERT(vm->busy);
    ASSERT(vm->instance);
    if (!vm->restored || vm->bundle_directory[0] == '\0') {
        return error_set(err, KELPIE_WRONG_STATE, "the VM was not restored from a bundle on disk");
    }
    TRY(snapshot_reader_open(vm->host, vm->bundle_directory, &reader, err));
    enum kelpie_status status = note(vm, reader, wait, err);
    snapshot_reader_close(reader);
    return status;
}

enum kelpie_status kelpie_vm_record_working_set(struct kelpie_vm *vm, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    if (vm_is_owned(vm)) {
        return vm_owned_record_working_set(vm, err);
    }
    struct host_wait wait;
    if (!vm->ops->touched) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "backend %s does not know which pages a guest touches",
                         vm_backend_name(vm));
    }
    TRY(vm_begin(vm, VM_OPERATION_RECORD, vm->config->operation_timeout_ms, &wait, err));
    enum kelpie_status status = record(vm, &wait, err);
    vm_end(vm, status);
    return status;
}
