/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's own copy of its config: one block of memory, measured first and then filled. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "vm/populate.h"
#include "vm/vm.h"

/* Hands out pieces of one block. With data NULL it only measures. */
struct arena {
    uint8_t *data;
    size_t size;
};

static void *arena_take(struct arena *arena, const void *source, size_t size) {
    ASSERT(arena);
    ASSERT(source || size == 0);
    size_t start = (arena->size + 15) & ~(size_t)15;
    arena->size = start + size;
    if (!arena->data) {
        return NULL;
    }
    memcpy(arena->data + start, source, size);
    return arena->data + start;
}

static const char *arena_text(struct arena *arena, const char *text) {
    ASSERT(arena);
    ASSERT(!text || strlen(text) < KELPIE_COMMAND_BYTES_MAX);
    return text ? arena_take(arena, text, strlen(text) + 1) : NULL;
}

static uint32_t or_default(uint32_t value, uint32_t fallback) {
    ASSERT(fallback != 0);
    return value != 0 ? value : fallback;
}

static void copy_disks(struct arena *arena, const struct kelpie_config *config,
                       struct kelpie_config *copy) {
    ASSERT(config->disk_count > 0);
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    struct kelpie_disk *disks =
        arena_take(arena, config->disks, config->disk_count * sizeof(*config->disks));
    for (size_t i = 0; i < config->disk_count; i++) {
        const char *path = arena_text(arena, config->disks[i].path);
        const char *mount = arena_text(arena, config->disks[i].mount);
        if (disks) {
            disks[i].path = path;
            disks[i].mount = mount;
        }
    }
    copy->disks = disks;
}

static void copy_env(struct arena *arena, const struct kelpie_config *config,
                     struct kelpie_config *copy) {
    ASSERT(config->env);
    size_t count = 0;
    while (config->env[count]) {
        count++;
    }
    ASSERT(count <= KELPIE_ENV_COUNT_MAX);
    const char **env = arena_take(arena, config->env, (count + 1) * sizeof(*env));
    for (size_t i = 0; i < count; i++) {
        const char *variable = arena_text(arena, config->env[i]);
        if (env) {
            env[i] = variable;
        }
    }
    copy->env = env;
}

static bool has_network(const struct kelpie_config *config) {
    ASSERT(config);
    ASSERT(!config->network || config->network->kind < KELPIE_NETWORK_KIND_COUNT);
    return config->network && config->network->kind != KELPIE_NETWORK_NONE;
}

static void copy_mock(struct arena *arena, const struct kelpie_mock_config *mock,
                      struct kelpie_config *copy) {
    ASSERT(mock);
    ASSERT(copy);
    struct kelpie_mock_config *own = arena_take(arena, mock, sizeof(*mock));
    const char *architecture = arena_text(arena, mock->architecture);
    if (own) {
        own->architecture = architecture;
    }
    copy->mock = own;
}

static void copy_network(struct arena *arena, const struct kelpie_network *network,
                         const char *drawn_mac, struct kelpie_config *copy) {
    ASSERT(network->kind != KELPIE_NETWORK_NONE);
    ASSERT(network->forward_count <= KELPIE_FORWARD_COUNT_MAX);
    struct kelpie_network *own = arena_take(arena, network, sizeof(*network));
    const char *tap = arena_text(arena, network->tap);
    const char *mac = arena_text(arena, network->mac ? network->mac : drawn_mac);
    size_t size = network->forward_count * sizeof(*network->forwards);
    const struct kelpie_forward *forwards =
        size > 0 ? arena_take(arena, network->forwards, size) : NULL;
    if (own) {
        own->tap = tap;
        own->mac = mac;
        own->forwards = forwards;
    }
    copy->network = own;
}

static void copy_shares(struct arena *arena, const struct kelpie_config *config,
                        struct kelpie_config *copy) {
    ASSERT(config->share_count <= KELPIE_SHARE_COUNT_MAX);
    ASSERT(config->shares);
    struct kelpie_share *shares =
        arena_take(arena, config->shares, config->share_count * sizeof(*config->shares));
    for (size_t i = 0; i < config->share_count; i++) {
        const char *path = arena_text(arena, config->shares[i].path);
        const char *mount = arena_text(arena, config->shares[i].mount);
        if (shares) {
            shares[i].path = path;
            shares[i].mount = mount;
        }
    }
    copy->shares = shares;
}

static void copy_secrets(struct arena *arena, const struct kelpie_config *config,
                         struct kelpie_config *copy) {
    ASSERT(config->secret_count <= KELPIE_SECRET_COUNT_MAX);
    ASSERT(config->secrets);
    struct kelpie_secret *secrets =
        arena_take(arena, config->secrets, config->secret_count * sizeof(*config->secrets));
    for (size_t i = 0; i < config->secret_count; i++) {
        const char *name = arena_text(arena, config->secrets[i].name);
        size_t size = config->secrets[i].size;
        const void *data = size > 0 ? arena_take(arena, config->secrets[i].data, size) : NULL;
        if (secrets) {
            secrets[i].name = name;
            secrets[i].data = data;
        }
    }
    copy->secrets = secrets;
}

/* What a VM has for itself when its config does not say. */
struct drawn {
    const char *id;
    char mac[MAC_TEXT_SIZE];
};

/* Fills *copy, and the arena with what it points to. */
static void config_fill(struct arena *arena, const struct kelpie_config *config,
                        const struct drawn *drawn, struct kelpie_config *copy) {
    const char *id = drawn->id;
    ASSERT(config != copy);
    ASSERT(id);
    *copy = *config;
    copy->name = arena_text(arena, config->name ? config->name : id);
    copy->backend = arena_text(arena, config->backend ? config->backend : "auto");
    copy->kernel = arena_text(arena, config->kernel);
    copy->kernel_args = arena_text(arena, config->kernel_args ? config->kernel_args : "");
    copy->working_dir = arena_text(arena, config->working_dir ? config->working_dir : "/");
    copy->hostname = arena_text(arena, config->hostname ? config->hostname
                                       : config->name   ? config->name
                                                        : id);
    copy->console_log = arena_text(arena, config->console_log);
    copy->image = arena_text(arena, config->image);
    copy->disk_folder = arena_text(arena, config->disk_folder);
    copy->hypervisor = arena_text(arena, config->hypervisor);
    if (config->disk_count > 0) {
        copy_disks(arena, config, copy);
    }
    if (config->env) {
        copy_env(arena, config, copy);
    }
    if (config->mock) {
        copy_mock(arena, config->mock, copy);
    }
    if (config->share_count > 0) {
        copy_shares(arena, config, copy);
    }
    if (config->secret_count > 0) {
        copy_secrets(arena, config, copy);
    }
    copy->network = NULL;
    if (has_network(config)) {
        copy_network(arena, config->network, drawn->mac, copy);
    }
    copy->vcpu_count = or_default(config->vcpu_count, KELPIE_VCPU_COUNT_DEFAULT);
    copy->memory_mib = or_default(config->memory_mib, KELPIE_MEMORY_MIB_DEFAULT);
    copy->image_disk_mib = or_default(config->image_disk_mib, KELPIE_IMAGE_DISK_MIB_DEFAULT);
    copy->console_bytes_max =
        config->console_bytes_max ? config->console_bytes_max : KELPIE_CONSOLE_BYTES_DEFAULT;
    copy->boot_timeout_ms = or_default(config->boot_timeout_ms, KELPIE_BOOT_TIMEOUT_MS_DEFAULT);
    copy->stop_timeout_ms = or_default(config->stop_timeout_ms, KELPIE_STOP_TIMEOUT_MS_DEFAULT);
    copy->operation_timeout_ms =
        or_default(config->operation_timeout_ms, KELPIE_OPERATION_TIMEOUT_MS_DEFAULT);
}

enum kelpie_status vm_config_copy(struct host *host, const struct kelpie_config *config,
                                  const char *id, struct kelpie_config **ret_config,
                                  struct kelpie_error *err) {
    ASSERT(ret_config);
    ASSERT(config);
    ASSERT(id);
    TRY(vm_check_config(config, err));
    struct kelpie_config measured;
    struct drawn drawn = {.id = id};
    if (has_network(config)) {
        TRY(vm_network_draw_mac(host, drawn.mac, err));
    }
    struct arena arena = {.data = NULL, .size = sizeof(measured)};
    config_fill(&arena, config, &drawn, &measured);
    size_t size = arena.size;

    uint8_t *block = host_allocate(host, size, err);
    if (!block) {
        return KELPIE_NO_MEMORY;
    }
    arena = (struct arena){.data = block, .size = sizeof(measured)};
    struct kelpie_config *copy = (struct kelpie_config *)(void *)block;
    config_fill(&arena, config, &drawn, copy);
    ASSERT(arena.size == size);
    /* A name may hold an underscore, which a host name may not. */
    for (char *c = (char *)(uintptr_t)copy->hostname; *c; c++) {
        *c = *c == '_' ? '-' : *c;
    }
    *ret_config = copy;
    return KELPIE_OK;
}

void vm_config_destroy(struct kelpie_config *config) {
    if (config) {
        vm_populate_wipe(config);
    }
    free(config);
}
