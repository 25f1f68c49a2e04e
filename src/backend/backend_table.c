/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <string.h>

#include "backend/backend.h"
#include "backend/firecracker/firecracker.h"
#include "backend/kvm/kvm_backend.h"
#include "backend/libkrun/libkrun.h"
#include "backend/mock/mock.h"
#include "backend/qemu/qemu.h"
#include "backend/remote/remote.h"
#include "backend/vz/vz.h"
#include "base/assert.h"

/* "auto" takes the first that is usable and says that it may be chosen so. */
static const struct backend_ops *const backends[] = {
    &backend_kvm_ops, &backend_qemu_ops, &backend_firecracker_ops, &backend_libkrun_ops,
    &backend_vz_ops,  &backend_mock_ops, &backend_remote_ops,
};

const struct backend_ops *const *backend_table(size_t *ret_count) {
    ASSERT(ret_count);
    static_assert(ARRAY_SIZE(backends) <= KELPIE_BACKEND_COUNT_MAX,
                  "kelpie_backend_list() shows all");
    *ret_count = ARRAY_SIZE(backends);
    return backends;
}

const struct backend_ops *backend_find(const char *name) {
    ASSERT(name);
    for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
        ASSERT(backends[i]->name);
        if (strcmp(backends[i]->name, name) == 0) {
            return backends[i];
        }
    }
    return NULL;
}
