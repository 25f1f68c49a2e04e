/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a test can do to a mock: the only place where src/vm/ knows one backend by name. */
#include <string.h>

#include "backend/mock/mock.h"
#include "base/assert.h"
#include "vm/vm.h"

static enum kelpie_status check_mock(const struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->ops);
    vm_check(vm);
    bool mock = vm->ops == &backend_mock_ops ||
                (vm_is_owned(vm) && strcmp(vm_backend_name(vm), backend_mock_ops.name) == 0);
    if (!mock) {
        return error_set(err, KELPIE_UNSUPPORTED, "the VM's backend is %s, not mock",
                         vm_backend_name(vm));
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_mock_fail(struct kelpie_vm *vm, enum kelpie_mock_operation operation,
                                    uint32_t count, struct kelpie_error *err) {
    TRY(check_mock(vm, err));
    ASSERT(vm->instance);
    if ((unsigned)operation >= KELPIE_MOCK_OPERATION_COUNT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "operation", "there is no operation %d",
                               (int)operation);
    }
    if (vm_is_owned(vm)) {
        return vm_owned_mock_lever(vm, (int)operation, count, err);
    }
    backend_mock_fail(vm->instance, operation, count);
    return KELPIE_OK;
}

enum kelpie_status kelpie_mock_crash(struct kelpie_vm *vm, struct kelpie_error *err) {
    TRY(check_mock(vm, err));
    ASSERT(vm->instance);
    if (vm_is_owned(vm)) {
        return vm_owned_mock_lever(vm, -1, 0, err);
    }
    vm_lock(vm);
    bool alive = vm->machine_alive;
    enum kelpie_state state = vm->state;
    vm_unlock(vm);
    if (!alive) {
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(state),
                               "cannot crash a VM that is %s", kelpie_state_name(state));
    }
    backend_mock_crash(vm->instance);
    return KELPIE_OK;
}
