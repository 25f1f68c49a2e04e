/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include "base/assert.h"

enum kelpie_status image_wait_check(struct host *host, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(wait);
    if (wait->cancel_fd != HOST_FD_NONE) {
        struct host_poll_item item = {.fd = wait->cancel_fd, .asked = HOST_POLL_READ};
        struct host_wait none = host_wait_none();
        if (host_poll(host, &item, 1, &none, NULL) == KELPIE_OK) {
            return error_set(err, KELPIE_CANCELLED, "preparing the guest's files was cancelled");
        }
    }
    if (host_monotonic_ns(host) >= wait->deadline_ns) {
        return error_set(err, KELPIE_TIMED_OUT, "preparing the guest's files took too long");
    }
    return KELPIE_OK;
}
