/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* To be replaced. */
#include "base/assert.h"
#include "base/error.h"
#include "kelpie_store.h"

enum kelpie_status kelpie_prune(void *host, const struct kelpie_prune_options *options,
                                struct kelpie_prune_report *ret_report, struct kelpie_error *err) {
    (void)host;
    ASSERT(options);
    ASSERT(ret_report);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}
