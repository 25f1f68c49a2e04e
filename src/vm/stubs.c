/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* To be replaced, one by one. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/error.h"
#include "kelpie_store.h"

enum kelpie_status kelpie_image_build(void *host, const char *name,
                                      const struct kelpie_image_options *options,
                                      struct kelpie_image **ret_image, struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(options);
    ASSERT(ret_image);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_image_list(void *host, struct kelpie_image **ret_list, size_t *ret_count,
                                     struct kelpie_error *err) {
    (void)host;
    ASSERT(ret_list);
    ASSERT(ret_count);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_image_find(void *host, const char *name, struct kelpie_image **ret_image,
                                     struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(ret_image);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_image_remove(void *host, const char *name, struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_prune(void *host, const struct kelpie_prune_options *options,
                                struct kelpie_prune_report *ret_report, struct kelpie_error *err) {
    (void)host;
    ASSERT(options);
    ASSERT(ret_report);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}
