/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The factory: which backend, and a VM from a config or from a bundle. Also what the library is. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/checkpoint.h"

#define TEXT_(value) #value
#define TEXT(value) TEXT_(value)

const char *kelpie_version(void) {
    return TEXT(KELPIE_VERSION_MAJOR) "." TEXT(KELPIE_VERSION_MINOR) "." TEXT(KELPIE_VERSION_PATCH);
}

static enum kelpie_status find_backend(const char *name, const struct backend_ops **ret_ops,
                                       struct kelpie_error *err) {
    ASSERT(ret_ops);
    ASSERT(name);
    const struct backend_ops *ops = backend_find(name);
    if (!ops || ops->owner) {
        return error_set_field(err, KELPIE_NOT_FOUND, "backend", "there is no backend \"%.40s\"",
                               name);
    }
    *ret_ops = ops;
    return KELPIE_OK;
}

enum kelpie_status vm_backend_choose(struct host *host, const char *name,
                                     const struct backend_ops **ret_ops, struct kelpie_error *err) {
    ASSERT(ret_ops);
    ASSERT(name);
    if (strcmp(name, "auto") != 0) {
        return find_backend(name, ret_ops, err);
    }
    size_t count = 0;
    const struct backend_ops *const *table = backend_table(&count);
    char tried[512] = "";
    size_t used = 0;
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!table[i]->in_auto) {
            continue;
        }
        struct kelpie_probe probe = {0};
        table[i]->probe(host, &probe);
        if (probe.usable) {
            *ret_ops = table[i];
            return KELPIE_OK;
        }
        int length = snprintf(tried + used, sizeof(tried) - used, "%s%s: %.120s%s%.120s",
                              used > 0 ? "; " : "", table[i]->name, probe.reason,
                              probe.install[0] ? ", " : "", probe.install);
        ASSERT(length >= 0);
        used += (size_t)length;
        used = used < sizeof(tried) ? used : sizeof(tried) - 1;
    }
    return error_set_field(err, KELPIE_BACKEND_MISSING, "backend",
                           "no backend can run a guest here: %s", tried);
}

enum kelpie_status vm_backend_of_owners(const struct backend_ops **ret_ops,
                                        struct kelpie_error *err) {
    ASSERT(ret_ops);
    size_t count = 0;
    const struct backend_ops *const *table = backend_table(&count);
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        if (table[i]->owner) {
            *ret_ops = table[i];
            return KELPIE_OK;
        }
    }
    return error_set_field(err, KELPIE_UNSUPPORTED, "owner",
                           "this library was built without VMs that outlive their maker");
}

enum kelpie_status kelpie_vm_create(const struct kelpie_config *config, struct kelpie_vm **ret_vm,
                                    struct kelpie_error *err) {
    ASSERT(ret_vm);
    static const struct kelpie_config defaults = {0};
    const struct vm_origin origin = {.config = config ? config : &defaults};
    return vm_create(&origin, ret_vm, err);
}

enum kelpie_status kelpie_vm_open(void *host, const char *name, struct kelpie_vm **ret_vm,
                                  struct kelpie_error *err) {
    ASSERT(ret_vm);
    TRY(vm_check_name("name", name ? name : "", "_.-", err));
    const struct vm_origin origin = {.open_name = name, .host = host};
    return vm_create(&origin, ret_vm, err);
}

/* The bundle's config, with what the caller may choose anew. Strings stay theirs. */
static enum kelpie_status
config_of_bundle(const struct snapshot_manifest *manifest, const struct kelpie_config *wanted,
                 struct kelpie_disk *disks, struct kelpie_network *network,
                 struct kelpie_config *ret_config, struct kelpie_error *err) {
    ASSERT(ret_config);
    ASSERT(manifest->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(disks);
    struct kelpie_config config = {0};
    if (wanted) {
        if (wanted->backend && strcmp(wanted->backend, "auto") != 0 &&
            strcmp(wanted->backend, manifest->info.backend) != 0) {
            return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "backend",
                                   "the bundle was made by backend %s, not by %.40s",
                                   manifest->info.backend, wanted->backend);
        }
        config = *wanted;
    }
    for (size_t i = 0; i < manifest->disk_count; i++) {
        const struct snapshot_disk *disk = &manifest->disks[i];
        disks[i] = (struct kelpie_disk){
            .path = disk->path,
            .mount = disk->mount[0] ? disk->mount : NULL,
            .read_only = disk->read_only,
        };
    }
    config.backend = manifest->info.backend;
    config.vcpu_count = manifest->vcpu_count;
    config.memory_mib = manifest->memory_mib;
    config.kernel = NULL;
    config.kernel_args = manifest->kernel_args;
    config.working_dir = manifest->working_dir[0] ? manifest->working_dir : NULL;
    config.env = (const char *const *)manifest->env;
    config.disks = disks;
    config.disk_count = manifest->disk_count;
    TRY(vm_image_of_bundle(manifest, &config, err));
    TRY(vm_network_of_bundle(manifest, wanted, network, &config.network, err));
    *ret_config = config;
    return KELPIE_OK;
}

enum kelpie_status vm_create_of_bundle(struct host *host, const struct snapshot_reader *reader,
                                       const struct kelpie_config *wanted,
                                       struct kelpie_vm **ret_vm, struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(ret_vm);
    struct kelpie_disk disks[KELPIE_DISK_COUNT_MAX] = {0};
    struct kelpie_network network = {0};
    struct kelpie_config config;
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    bool checkpoint = manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT;
    if (checkpoint) {
        TRY(vm_checkpoint_config(host, manifest, wanted, &network, &config, err));
    } else {
        TRY(config_of_bundle(manifest, wanted, disks, &network, &config, err));
    }
    const struct vm_origin origin = {.config = &config, .for_bundle = !checkpoint};
    return vm_create(&origin, ret_vm, err);
}

enum kelpie_status kelpie_vm_create_from_snapshot(const char *directory,
                                                  const struct kelpie_config *config,
                                                  const struct kelpie_restore_options *options,
                                                  struct kelpie_vm **ret_vm,
                                                  struct kelpie_error *err) {
    ASSERT(ret_vm);
    TRY(vm_check_path("directory", directory ? directory : "", false, err));
    TRY(vm_check_restore_options(&options, err));
    if (config) {
        TRY(vm_check_config(config, err));
    }
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(config, &host, &owned, err));
    struct snapshot_reader *reader = NULL;
    struct kelpie_vm *vm = NULL;
    enum kelpie_status status = snapshot_reader_open(host, directory, &reader, err);
    if (status == KELPIE_OK) {
        status = vm_create_of_bundle(host, reader, config, &vm, err);
    }
    if (status == KELPIE_OK) {
        status = vm_restore_from(vm, reader, options, err);
    }
    snapshot_reader_close(reader);
    if (owned) {
        host_destroy(host);
    }
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

size_t kelpie_backend_list(struct kelpie_backend *backends, size_t capacity) {
    ASSERT(backends || capacity == 0);
    size_t count = 0;
    const struct backend_ops *const *table = backend_table(&count);
    size_t shown = 0;
    for (size_t i = 0; i < count; i++) {
        if (table[i]->owner) {
            continue; /* not one that a config names */
        }
        if (shown < capacity) {
            struct kelpie_backend *backend = &backends[shown];
            *backend =
                (struct kelpie_backend){.capabilities = vm_capabilities_of(table[i]->capabilities)};
            snprintf(backend->name, sizeof(backend->name), "%s", table[i]->name);
            snprintf(backend->description, sizeof(backend->description), "%s",
                     table[i]->description);
        }
        shown++;
    }
    return shown;
}

enum kelpie_status kelpie_backend_probe_on(void *wanted_host, const char *name,
                                           struct kelpie_probe *ret_probe,
                                           struct kelpie_error *err) {
    ASSERT(ret_probe);
    const struct backend_ops *ops = NULL;
    TRY(find_backend(name ? name : "", &ops, err));
    const struct kelpie_config config = {.host = wanted_host};
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(&config, &host, &owned, err));
    struct kelpie_probe probe = {0};
    ops->probe(host, &probe);
    if (ops->probe_shares && probe.usable) {
        ops->probe_shares(host, probe.shares, sizeof(probe.shares));
    } else if (probe.usable) {
        snprintf(probe.shares, sizeof(probe.shares), "copied: only the backend qemu shows them");
    }
    if (owned) {
        host_destroy(host);
    }
    *ret_probe = probe;
    return KELPIE_OK;
}

enum kelpie_status kelpie_backend_probe(const char *name, struct kelpie_probe *ret_probe,
                                        struct kelpie_error *err) {
    ASSERT(ret_probe);
    return kelpie_backend_probe_on(NULL, name, ret_probe, err);
}
