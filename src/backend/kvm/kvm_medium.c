/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a manifest says of the boot disk that its machine had. */
#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"

bool kvm_medium_size_parse(const char *text, uint64_t *ret_size) {
    ASSERT(text);
    ASSERT(ret_size);
    uint64_t size = 0;
    static_assert(KVM_MEDIUM_SIZE_MAX < UINT64_MAX / 10 - 1, "one digit more does not overflow");
    for (const char *digit = text; *digit; digit++) {
        if (*digit < '0' || *digit > '9') {
            return false;
        }
        size = size * 10 + (uint64_t)(*digit - '0');
        if (size > KVM_MEDIUM_SIZE_MAX) {
            return false;
        }
    }
    *ret_size = size;
    return size > 0 && size % IMAGE_DISK_SECTOR_SIZE == 0;
}
