/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* To be replaced, one by one. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/error.h"
#include "kelpie_store.h"

int kelpie_supervise(void *host, int fd) {
    (void)host;
    (void)fd;
    return 125;
}

enum kelpie_status kelpie_vm_run_detached(struct kelpie_vm *vm,
                                          const struct kelpie_command *command,
                                          uint32_t *ret_exec_id, struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(command);
    ASSERT(ret_exec_id);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_vm_wait_detached(struct kelpie_vm *vm, uint32_t timeout_ms,
                                           struct kelpie_exit *ret_exit, struct kelpie_error *err) {
    ASSERT(vm);
    (void)timeout_ms;
    ASSERT(ret_exit);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats,
                                   struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(ret_stats);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

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

enum kelpie_status kelpie_vm_open(void *host, const char *name, struct kelpie_vm **ret_vm,
                                  struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(ret_vm);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

void kelpie_vm_close(struct kelpie_vm *vm) {
    kelpie_vm_destroy(vm);
}
