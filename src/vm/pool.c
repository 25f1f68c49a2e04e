/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Pools: VMs that are prepared for a restore of one bundle.
 *
 * THEORY OF OPERATION
 *
 * `ready` holds VMs in state created whose backend has done what it can ahead. The pool's thread fills it up; take()
 * takes the one that was prepared last, for its pages are warm, and restores it in the caller's thread, or makes one
 * there when none is ready. A VM that could not be prepared is given up, and the thread waits a while before the next,
 * so that a host that is out of something is not asked for it all the time; take() then says what is wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/vm.h"

struct kelpie_pool {
    struct host *host;
    bool host_owned;
    struct snapshot_reader *reader;
    struct kelpie_config config;   /* the VMs', but for the name; its strings are `config_copy`'s */
    struct kelpie_network network; /* of that config, if it has one */
    struct kelpie_config *config_copy; /* NULL: there is none */
    char name_prefix[KELPIE_NAME_SIZE_MAX + 1];
    size_t size;
    struct host_thread *thread;
    struct host_mutex *mutex; /* guards what follows */
    struct host_condition *changed;
    struct kelpie_vm *ready[KELPIE_POOL_SIZE_MAX];
    size_t ready_count;
    size_t named_count;
    bool ending;
};

static enum kelpie_status make_vm(struct kelpie_pool *pool, struct kelpie_vm **ret_vm,
                                  struct kelpie_error *err) {
    ASSERT(pool->reader);
    ASSERT(ret_vm);
    struct vm_child child = {.name_prefix = pool->name_prefix};
    host_mutex_lock(pool->mutex);
    child.number = ++pool->named_count;
    host_mutex_unlock(pool->mutex);
    return vm_create_child(pool->reader, &pool->config, pool->host, &child, ret_vm, err);
}

static enum kelpie_status prepare_vm(struct kelpie_pool *pool, struct kelpie_vm **ret_vm,
                                     struct kelpie_error *err) {
    ASSERT(pool->reader);
    ASSERT(ret_vm);
    struct kelpie_vm *vm = NULL;
    TRY(make_vm(pool, &vm, err));
    enum kelpie_status status = vm_prepare(vm, pool->reader, err);
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

/* Puts one more into `ready`. */
static enum kelpie_status add_one(struct kelpie_pool *pool, struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(pool->size <= KELPIE_POOL_SIZE_MAX);
    TRY(prepare_vm(pool, &vm, err));
    host_mutex_lock(pool->mutex);
    ASSERT(pool->ready_count < pool->size);
    pool->ready[pool->ready_count++] = vm;
    host_mutex_unlock(pool->mutex);
    return KELPIE_OK;
}

static void fill(void *argument) {
    struct kelpie_pool *pool = argument;
    ASSERT(pool->size > 0);
    ASSERT(pool->mutex && pool->changed);
    host_mutex_lock(pool->mutex);
    while (!pool->ending) {
        uint64_t deadline_ns = UINT64_MAX;
        if (pool->ready_count < pool->size) {
            struct kelpie_error ignored;
            host_mutex_unlock(pool->mutex);
            enum kelpie_status status = add_one(pool, &ignored);
            host_mutex_lock(pool->mutex);
            if (status == KELPIE_OK) {
                continue;
            }
            deadline_ns = host_monotonic_ns(pool->host) + VM_POOL_RETRY_PERIOD_MS * HOST_NS_PER_MS;
        }
        if (!pool->ending) {
            (void)host_condition_wait(pool->changed, pool->mutex, deadline_ns);
        }
    }
    host_mutex_unlock(pool->mutex);
}

static enum kelpie_status init(struct kelpie_pool *pool, const char *directory,
                               const struct kelpie_pool_options *options,
                               struct kelpie_error *err) {
    ASSERT(pool->host);
    ASSERT(directory);
    TRY(snapshot_reader_open(pool->host, directory, &pool->reader, err));
    TRY(vm_refuse_checkpoint(pool->reader, err));
    const char *prefix = options->name_prefix;
    snprintf(pool->name_prefix, sizeof(pool->name_prefix), "%s",
             prefix ? prefix : snapshot_reader_manifest(pool->reader)->vm_name);
    if (options->config) {
        TRY(vm_config_copy(pool->host, options->config, "pool", &pool->config_copy, err));
        pool->config = *pool->config_copy;
        vm_child_config(&pool->config, &pool->network);
    }
    TRY(host_mutex_create(pool->host, &pool->mutex, err));
    TRY(host_condition_create(pool->host, &pool->changed, err));
    TRY(add_one(pool, err));
    return host_thread_start(pool->host, "kelpie-pool", fill, pool, &pool->thread, err);
}

static enum kelpie_status check_options(const struct kelpie_pool_options *options,
                                        struct kelpie_error *err) {
    ASSERT(options);
    ASSERT(KELPIE_POOL_SIZE_DEFAULT <= KELPIE_POOL_SIZE_MAX);
    if (options->size > KELPIE_POOL_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "size", "size is %zu, more than %d",
                               options->size, KELPIE_POOL_SIZE_MAX);
    }
    if (options->name_prefix) {
        TRY(vm_check_name("name_prefix", options->name_prefix, "_.-", err));
    }
    if (options->config) {
        TRY(vm_check_config(options->config, err));
        if (options->config->owner) {
            return error_set_field(err, KELPIE_UNSUPPORTED, "owner",
                                   "VMs of a pool are of the process that has the pool");
        }
    }
    return vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err);
}

enum kelpie_status kelpie_pool_create(const char *directory,
                                      const struct kelpie_pool_options *options,
                                      struct kelpie_pool **ret_pool, struct kelpie_error *err) {
    static const struct kelpie_pool_options defaults = {0};
    ASSERT(ret_pool);
    options = options ? options : &defaults;
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    TRY(check_options(options, err));
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(options->config, &host, &owned, err));
    struct kelpie_pool *pool = host_allocate(host, sizeof(*pool), err);
    if (!pool) {
        if (owned) {
            host_destroy(host);
        }
        return KELPIE_NO_MEMORY;
    }
    pool->host = host;
    pool->host_owned = owned;
    pool->size = options->size ? options->size : KELPIE_POOL_SIZE_DEFAULT;
    enum kelpie_status status = init(pool, directory, options, err);
    if (status != KELPIE_OK) {
        kelpie_pool_destroy(pool);
        return status;
    }
    *ret_pool = pool;
    return KELPIE_OK;
}

enum kelpie_status kelpie_pool_take(struct kelpie_pool *pool,
                                    const struct kelpie_restore_options *options,
                                    struct kelpie_vm **ret_vm, struct kelpie_error *err) {
    ASSERT(pool && pool->reader);
    ASSERT(ret_vm);
    struct kelpie_vm *vm = NULL;
    TRY(vm_check_restore_options(&options, err));
    host_mutex_lock(pool->mutex);
    if (pool->ready_count > 0) {
        vm = pool->ready[--pool->ready_count];
    }
    host_condition_broadcast(pool->changed);
    host_mutex_unlock(pool->mutex);
    if (!vm) {
        TRY(make_vm(pool, &vm, err));
    }
    enum kelpie_status status = vm_restore_from(vm, pool->reader, options, err);
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

void kelpie_pool_destroy(struct kelpie_pool *pool) {
    if (!pool) {
        return;
    }
    struct host *host = pool->host;
    bool owned = pool->host_owned;
    ASSERT(host);
    if (pool->thread) {
        host_mutex_lock(pool->mutex);
        pool->ending = true;
        host_condition_broadcast(pool->changed);
        host_mutex_unlock(pool->mutex);
        host_thread_join(pool->thread);
    }
    ASSERT(pool->ready_count <= pool->size);
    for (size_t i = 0; i < pool->ready_count; i++) {
        kelpie_vm_destroy(pool->ready[i]);
    }
    host_condition_destroy(pool->changed);
    host_mutex_destroy(pool->mutex);
    snapshot_reader_close(pool->reader);
    vm_config_destroy(pool->config_copy);
    free(pool);
    if (owned) {
        host_destroy(host);
    }
}
