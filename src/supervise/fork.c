/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A fork of a VM with an owner: its children have an owner each. The VM is written into a bundle, each child is made of
 * that as any VM is, and the bundle goes when all have begun: what they need of it they have open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "supervise/owner.h"

#define BUNDLE_NAME "fork"

/* Children still to be made, by several threads. */
struct brood {
    struct owner *owner;
    const struct kelpie_fork_options *options;
    const char *bundle;
    const char *prefix;
    size_t count;
    size_t next;   /* guarded by the owner's mutex, as are the others */
    size_t number; /* the last that a child was to be called by */
    json_t *children;
};

static enum kelpie_status make_child(const struct brood *brood, const char *name,
                                     struct kelpie_error *err) {
    struct owner *owner = brood->owner;
    ASSERT(owner->record->config);
    ASSERT(name);
    const struct kelpie_config *own = &owner->record->config->config;
    const struct kelpie_config config = {
        .name = name,
        .boot_timeout_ms = own->boot_timeout_ms,
        .stop_timeout_ms = own->stop_timeout_ms,
        .operation_timeout_ms = own->operation_timeout_ms,
        .owner = own->owner,
        .host = owner->host,
    };
    const struct kelpie_restore_options options = {
        .paused = brood->options->paused,
        .allow_incomplete = brood->options->allow_incomplete,
        .timeout_ms = brood->options->timeout_ms,
    };
    struct kelpie_vm *vm = NULL;
    TRY(kelpie_vm_create_from_snapshot(brood->bundle, &config, &options, &vm, err));
    kelpie_vm_close(vm);
    return KELPIE_OK;
}

/* The next number whose name is free: another fork of the same VM has had some. */
static enum kelpie_status make_named_child(struct brood *brood, char *name, size_t size,
                                           struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(brood->prefix);
    enum kelpie_status status = KELPIE_OK;
    do {
        owner_lock(brood->owner);
        size_t number = ++brood->number;
        owner_unlock(brood->owner);
        error_clear(err);
        if (number > KELPIE_VM_COUNT_MAX + brood->count ||
            snprintf(name, size, "%s-%zu", brood->prefix, number) >= (int)size) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "name_prefix",
                                   "there is no free name that begins with %s", brood->prefix);
        }
        status = make_child(brood, name, err);
    } while (status == KELPIE_BAD_CONFIG && strcmp(err->field, "name") == 0);
    return status;
}

static void brood_main(void *argument) {
    struct brood *brood = argument;
    struct owner *owner = brood->owner;
    ASSERT(brood->count > 0);
    ASSERT(brood->children);
    for (;;) { /* until all have been taken */
        owner_lock(owner);
        size_t index = brood->next++;
        owner_unlock(owner);
        if (index >= brood->count) {
            return;
        }
        struct kelpie_error err = {0};
        char name[KELPIE_NAME_SIZE_MAX + 1];
        json_t *error = NULL;
        if (make_named_child(brood, name, sizeof(name), &err) == KELPIE_OK) {
            err = (struct kelpie_error){.status = KELPIE_OK};
        } else {
            name[0] = 0;
        }
        json_t *child = NULL;
        if (store_json_of(STORE_JSON_ERROR, &err, &error, NULL) == KELPIE_OK) {
            child = json_pack("{s:s, s:o}", "name", name, "error", error);
        }
        owner_lock(owner);
        (void)!json_array_set_new(brood->children, index, child);
        owner_unlock(owner);
    }
}

static void make_children(struct brood *brood) {
    struct host *host = brood->owner->host;
    struct host_thread *threads[SUPERVISE_FORK_THREAD_COUNT_MAX] = {NULL};
    ASSERT(host);
    ASSERT(brood->children);
    for (size_t i = 1; i < ARRAY_SIZE(threads) && i < brood->count; i++) {
        struct kelpie_error ignored;
        if (host_thread_start(host, "kelpie-fork", brood_main, brood, &threads[i], &ignored) !=
            KELPIE_OK) {
            break; /* the others do its work */
        }
    }
    brood_main(brood);
    for (size_t i = 1; i < ARRAY_SIZE(threads); i++) {
        host_thread_join(threads[i]);
    }
}

/* An array of so many nulls: of a child for which there is no memory nothing is said. */
static json_t *nulls(size_t count) {
    ASSERT(count > 0);
    ASSERT(count <= KELPIE_FORK_COUNT_MAX);
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++) {
        if (json_array_append_new(array, json_null()) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

enum kelpie_status owner_fork(struct owner *owner, const struct kelpie_fork_options *options,
                              size_t count, json_t **ret_children, struct kelpie_error *err) {
    ASSERT(count > 0 && count <= KELPIE_FORK_COUNT_MAX);
    ASSERT(ret_children);
    ASSERT(owner->record);
    ASSERT(options);
    if (!(kelpie_vm_capabilities(owner->vm) & KELPIE_CAN_FORK)) {
        return error_set(err, KELPIE_UNSUPPORTED, "backend %s cannot fork a VM",
                         kelpie_vm_backend(owner->vm));
    }
    /* In the VM's own folder: should the owner die here, it goes with the VM, or before the next fork. */
    char bundle[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_vm_path(owner->store, owner->place.name, BUNDLE_NAME, bundle, sizeof(bundle), err));
    struct kelpie_error ignored;
    (void)!host_path_remove_tree(owner->host, bundle, &ignored); /* of an owner that died here */
    const struct kelpie_snapshot_options how = {.kind = KELPIE_SNAPSHOT_SUSPEND,
                                                .timeout_ms = options->timeout_ms};
    TRY(kelpie_vm_snapshot(owner->vm, bundle, &how, NULL, err));
    struct brood brood = {
        .owner = owner,
        .options = options,
        .bundle = bundle,
        .prefix = options->name_prefix ? options->name_prefix : owner->record->info.name,
        .count = count,
        .children = nulls(count),
    };
    if (brood.children) {
        make_children(&brood);
    }
    (void)!host_path_remove_tree(owner->host, bundle, &ignored);
    if (!brood.children) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for %zu children", count);
    }
    *ret_children = brood.children;
    return KELPIE_OK;
}
