/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/assert.h"
#include "vm/vm.h"

enum kelpie_status kelpie_copy_tree_in(struct kelpie_vm *vm, const char *host_path,
                                       const char *guest_path,
                                       const struct kelpie_tree_options *options,
                                       struct kelpie_tree_report *ret_report,
                                       struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(host_path && guest_path);
    (void)options;
    (void)ret_report;
    return error_set(err, KELPIE_UNSUPPORTED, "folders cannot be copied yet");
}

enum kelpie_status kelpie_copy_tree_out(struct kelpie_vm *vm, const char *guest_path,
                                        const char *host_path,
                                        const struct kelpie_tree_options *options,
                                        struct kelpie_tree_report *ret_report,
                                        struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(host_path && guest_path);
    (void)options;
    (void)ret_report;
    return error_set(err, KELPIE_UNSUPPORTED, "folders cannot be copied yet");
}
