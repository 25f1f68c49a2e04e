/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a VM uses. */
#include "base/assert.h"
#include "vm/vm.h"

enum kelpie_status kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats,
                                   struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_stats);
    if (vm_is_owned(vm)) {
        return vm_owned_stats(vm, ret_stats, err);
    }
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}
