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

void kelpie_list_free(void *list) {
    free(list);
}

enum kelpie_status kelpie_vm_list(void *host, struct kelpie_vm_info **ret_list, size_t *ret_count,
                                  struct kelpie_error *err) {
    (void)host;
    ASSERT(ret_list);
    ASSERT(ret_count);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_vm_find(void *host, const char *name, struct kelpie_vm_info *ret_info,
                                  struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(ret_info);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_vm_remove(void *host, const char *name, bool force,
                                    struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    (void)force;
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
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

enum kelpie_status kelpie_log_open(void *host, const char *name, struct kelpie_log **ret_log,
                                   struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(ret_log);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_log_read(struct kelpie_log *log, uint32_t timeout_ms,
                                   struct kelpie_log_entry *ret_entry, struct kelpie_error *err) {
    ASSERT(log);
    (void)timeout_ms;
    ASSERT(ret_entry);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

void kelpie_log_close(struct kelpie_log *log) {
    ASSERT(log);
}

enum kelpie_status kelpie_snapshot_path(void *host, const char *name, char *path, size_t size,
                                        struct kelpie_error *err) {
    (void)host;
    ASSERT(name);
    ASSERT(path);
    (void)size;
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_snapshot_list(void *host, struct kelpie_snapshot_info **ret_list,
                                        size_t *ret_count, struct kelpie_error *err) {
    (void)host;
    ASSERT(ret_list);
    ASSERT(ret_count);
    return error_set(err, KELPIE_UNSUPPORTED, "not there yet");
}

enum kelpie_status kelpie_snapshot_remove(void *host, const char *name, struct kelpie_error *err) {
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
