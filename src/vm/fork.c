/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Forks: a snapshot of the parent in memory, which is never written to a disk, restored once for each child. How much the
 * children share is the backend's business: ours maps one memory file privately in each of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/populate.h"
#include "vm/vm.h"

/* What the threads that make children share. Read-only but for `next`, which the mutex guards. */
struct nursery {
    struct host *host;
    struct snapshot_reader *reader;
    struct kelpie_config config;   /* the children's, but for the name */
    struct kelpie_network network; /* of that config, if it has one */
    struct kelpie_restore_options restore;
    const char *name_prefix;
    struct kelpie_fork_child *children;
    size_t count;
    struct host_mutex *mutex;
    size_t next;
};

void vm_child_config(struct kelpie_config *config, struct kelpie_network *network) {
    ASSERT(config);
    ASSERT(network);
    config->console_log = NULL;
    config->disk_folder = NULL;
    if (config->network) {
        *network = *config->network;
        network->mac = NULL;
        network->forwards = NULL;
        network->forward_count = 0;
        config->network = network;
    }
}

/* "<prefix>-<number>". BAD_CONFIG, field name_prefix: it is too long. */
static enum kelpie_status child_name(const struct vm_child *child,
                                     char ret_name[KELPIE_NAME_SIZE_MAX + 1],
                                     struct kelpie_error *err) {
    ASSERT(child->name_prefix);
    ASSERT(child->number > 0);
    char name[KELPIE_NAME_SIZE_MAX + 32];
    int size = snprintf(name, sizeof(name), "%.*s-%zu", KELPIE_NAME_SIZE_MAX, child->name_prefix,
                        child->number);
    ASSERT(size > 0);
    if (size > KELPIE_NAME_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name_prefix",
                               "with its number, the name %s is longer than %d characters", name,
                               KELPIE_NAME_SIZE_MAX);
    }
    memcpy(ret_name, name, (size_t)size + 1);
    return KELPIE_OK;
}

enum kelpie_status vm_create_child(const struct snapshot_reader *reader,
                                   const struct kelpie_config *siblings, struct host *host,
                                   const struct vm_child *child, struct kelpie_vm **ret_vm,
                                   struct kelpie_error *err) {
    ASSERT(reader && host);
    ASSERT(siblings && ret_vm);
    char name[KELPIE_NAME_SIZE_MAX + 1];
    struct kelpie_config config = *siblings;
    TRY(child_name(child, name, err));
    config.name = name;
    config.hostname = NULL; /* the name */
    config.host = host;
    TRY(vm_create_of_bundle(host, reader, &config, ret_vm, err));
    vm_share_host(*ret_vm);
    return KELPIE_OK;
}

static enum kelpie_status make_child(struct nursery *nursery, size_t index,
                                     struct kelpie_vm **ret_vm, struct kelpie_error *err) {
    ASSERT(index < nursery->count);
    ASSERT(!*ret_vm);
    struct kelpie_vm *vm = NULL;
    const struct vm_child child = {nursery->name_prefix, index + 1};
    TRY(vm_create_child(nursery->reader, &nursery->config, nursery->host, &child, &vm, err));
    enum kelpie_status status = vm_restore_from(vm, nursery->reader, &nursery->restore, err);
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

static void make_children(void *argument) {
    struct nursery *nursery = argument;
    ASSERT(nursery->reader);
    ASSERT(nursery->count > 0);
    for (;;) {
        host_mutex_lock(nursery->mutex);
        size_t index = nursery->next < nursery->count ? nursery->next++ : nursery->count;
        host_mutex_unlock(nursery->mutex);
        if (index == nursery->count) {
            return;
        }
        struct kelpie_fork_child *child = &nursery->children[index];
        enum kelpie_status status = make_child(nursery, index, &child->vm, &child->error);
        ASSERT((status == KELPIE_OK) == (child->vm != NULL));
    }
}

/* The caller's thread makes children too, so that they are made even if no other thread can be had. */
static void run_nursery(struct nursery *nursery) {
    struct host_thread *threads[VM_FORK_THREAD_COUNT_MAX - 1];
    size_t thread_count = 0;
    struct kelpie_error ignored;
    ASSERT(nursery->mutex);
    ASSERT(nursery->next == 0);
    while (thread_count < ARRAY_SIZE(threads) && thread_count + 1 < nursery->count &&
           host_thread_start(nursery->host, "kelpie-fork", make_children, nursery,
                             &threads[thread_count], &ignored) == KELPIE_OK) {
        thread_count++;
    }
    make_children(nursery);
    for (size_t i = 0; i < thread_count; i++) {
        host_thread_join(threads[i]);
    }
}

/* Every child of an open bundle. The results go to children[] only when it is sure that there will be some. */
static enum kelpie_status bear(struct host *host, struct snapshot_reader *reader,
                               const struct kelpie_fork_options *options, size_t count,
                               struct kelpie_fork_child *children, struct kelpie_error *err) {
    ASSERT(count > 0 && count <= KELPIE_FORK_COUNT_MAX);
    ASSERT(children);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    struct nursery nursery = {
        .host = host,
        .reader = reader,
        .restore = {.paused = options->paused,
                    .allow_incomplete = options->allow_incomplete,
                    .timeout_ms = options->timeout_ms},
        .name_prefix = options->name_prefix ? options->name_prefix : manifest->vm_name,
        .children = children,
        .count = count,
    };
    if (options->config) {
        nursery.config = *options->config;
        vm_child_config(&nursery.config, &nursery.network);
    }
    char last_name[KELPIE_NAME_SIZE_MAX + 1];
    const struct vm_child last = {nursery.name_prefix, count};
    TRY(child_name(&last, last_name, err));
    TRY(host_mutex_create(host, &nursery.mutex, err));
    memset(children, 0, count * sizeof(*children));
    run_nursery(&nursery);
    host_mutex_destroy(nursery.mutex);
    return KELPIE_OK;
}

static enum kelpie_status check_options(const struct kelpie_fork_options *options, size_t count,
                                        struct kelpie_error *err) {
    ASSERT(options);
    ASSERT(KELPIE_FORK_COUNT_MAX > 0);
    if (count < 1 || count > KELPIE_FORK_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "count", "count is %zu, not 1 to %d", count,
                               KELPIE_FORK_COUNT_MAX);
    }
    if (options->name_prefix) {
        TRY(vm_check_name("name_prefix", options->name_prefix, "_.-", err));
    }
    if (options->config) {
        TRY(vm_check_config(options->config, err));
    }
    TRY(vm_check_timeout("timeout_ms", options->timeout_ms, err));
    return vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err);
}

/* The parent as a bundle in memory. */
static enum kelpie_status capture(struct kelpie_vm *vm, const struct host_wait *wait,
                                  struct snapshot_reader **ret_reader, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(ret_reader);
    struct snapshot_writer *writer = NULL;
    TRY(vm_check_shares_for_save(vm, err));
    TRY(snapshot_writer_create(vm->host, NULL, 0, &writer, err));
    enum kelpie_status status = vm_capture(vm, KELPIE_SNAPSHOT_SUSPEND, false, writer, wait, err);
    if (status == KELPIE_OK) {
        status = snapshot_writer_read(writer, ret_reader, err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

/* As the parent's, unless the caller says otherwise. */
static struct kelpie_config child_config(const struct kelpie_vm *vm) {
    const struct kelpie_config *parent = vm->config;
    ASSERT(parent);
    ASSERT(vm->ops);
    return (struct kelpie_config){
        .boot_timeout_ms = parent->boot_timeout_ms,
        .stop_timeout_ms = parent->stop_timeout_ms,
        .operation_timeout_ms = parent->operation_timeout_ms,
        .network = parent->network,
        .mock = parent->mock,
        .host = parent->host,
    };
}

enum kelpie_status kelpie_vm_fork(struct kelpie_vm *vm, const struct kelpie_fork_options *options,
                                  size_t count, struct kelpie_fork_child *children,
                                  struct kelpie_error *err) {
    static const struct kelpie_fork_options defaults = {0};
    vm_check(vm);
    ASSERT(children);
    struct kelpie_fork_options chosen = options ? *options : defaults;
    TRY(check_options(&chosen, count, err));
    if (vm_is_owned(vm)) {
        char last_name[KELPIE_NAME_SIZE_MAX + 1];
        const char *prefix = chosen.name_prefix ? chosen.name_prefix : vm->config->name;
        TRY(child_name(&(struct vm_child){prefix, count}, last_name, err));
        return vm_owned_fork(vm, &chosen, count, children, err);
    }
    if (chosen.config && chosen.config->owner) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "owner",
                               "a VM of this process cannot have children with owners of their "
                               "own: they share its memory");
    }
    const struct kelpie_config config = child_config(vm);
    chosen.config = chosen.config ? chosen.config : &config;
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_FORK, vm_snapshot_timeout(chosen.timeout_ms), &wait, err));
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = capture(vm, &wait, &reader, err);
    vm_end(vm, status);
    if (status != KELPIE_OK) {
        return vm_snapshot_status(vm, status, err);
    }
    status = bear(vm->host, reader, &chosen, count, children, err);
    snapshot_reader_close(reader);
    return status;
}

enum kelpie_status kelpie_snapshot_fork(const char *directory,
                                        const struct kelpie_fork_options *options, size_t count,
                                        struct kelpie_fork_child *children,
                                        struct kelpie_error *err) {
    static const struct kelpie_fork_options defaults = {0};
    ASSERT(children);
    options = options ? options : &defaults;
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    TRY(check_options(options, count, err));
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(options->config, &host, &owned, err));
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(host, directory, &reader, err);
    if (status == KELPIE_OK) {
        status = vm_refuse_checkpoint(reader, err);
    }
    if (status == KELPIE_OK) {
        status = bear(host, reader, options, count, children, err);
    }
    snapshot_reader_close(reader);
    if (owned) {
        host_destroy(host);
    }
    return status;
}
