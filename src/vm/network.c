/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's network as its config, a bundle and the guest see it. The backend makes it. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/vm.h"

static const char *const kind_names[] = {
    [KELPIE_NETWORK_NONE] = "none",
    [KELPIE_NETWORK_USER] = "user",
    [KELPIE_NETWORK_TAP] = "tap",
};

/* ---- What a config may say -------------------------------------------------------------------- */

static enum kelpie_status check_forward(const struct kelpie_network *network, size_t index,
                                        struct kelpie_error *err) {
    ASSERT(index < network->forward_count);
    ASSERT(network->forwards);
    const struct kelpie_forward *forward = &network->forwards[index];
    char field[64];
    snprintf(field, sizeof(field), "network.forwards[%zu].host_port", index);
    if (forward->host_port == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s must be 1 to 65535", field);
    }
    for (size_t i = 0; i < index; i++) {
        if (network->forwards[i].host_port == forward->host_port &&
            network->forwards[i].udp == forward->udp) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s is %u, which forwards[%zu] has already", field,
                                   forward->host_port, i);
        }
    }
    if (forward->guest_port == 0) {
        snprintf(field, sizeof(field), "network.forwards[%zu].guest_port", index);
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s must be 1 to 65535", field);
    }
    snprintf(field, sizeof(field), "network.forwards[%zu].reserved", index);
    return vm_check_reserved(field, forward->reserved, ARRAY_SIZE(forward->reserved), err);
}

static enum kelpie_status check_user(const struct kelpie_network *network,
                                     struct kelpie_error *err) {
    ASSERT(network);
    ASSERT(network->kind == KELPIE_NETWORK_USER);
    if (network->tap) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.tap",
                               "network.tap is for a network of kind tap");
    }
    if (network->forward_count > KELPIE_FORWARD_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.forward_count",
                               "network.forward_count is %zu, and must be at most %d",
                               network->forward_count, KELPIE_FORWARD_COUNT_MAX);
    }
    if (network->forward_count > 0 && !network->forwards) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.forwards",
                               "network.forwards is missing");
    }
    for (size_t i = 0; i < network->forward_count; i++) {
        TRY(check_forward(network, i, err));
    }
    return KELPIE_OK;
}

/* A name of an interface goes to the kernel only, but a slash or a space is none's. */
static bool tap_name_is_good(const char *name) {
    ASSERT(name);
    size_t size = strnlen(name, KELPIE_TAP_NAME_SIZE_MAX + 1);
    bool good = size >= 1 && size <= KELPIE_TAP_NAME_SIZE_MAX && isalnum((unsigned char)name[0]);
    for (size_t i = 0; good && i < size; i++) {
        good = isalnum((unsigned char)name[i]) || strchr("_.-", name[i]);
    }
    ASSERT(!good || size > 0);
    return good;
}

static enum kelpie_status check_tap(const struct kelpie_network *network,
                                    struct kelpie_error *err) {
    ASSERT(network);
    ASSERT(network->kind == KELPIE_NETWORK_TAP);
    if (!network->tap || !tap_name_is_good(network->tap)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.tap",
                               "network.tap must name an interface by 1 to %d letters, digits, "
                               "\"_\", \".\" or \"-\"",
                               KELPIE_TAP_NAME_SIZE_MAX);
    }
    if (network->forward_count > 0 || network->host_loopback) {
        const char *field = network->forward_count > 0 ? "forwards" : "host_loopback";
        return error_set_field(err, KELPIE_BAD_CONFIG,
                               network->forward_count > 0 ? "network.forwards"
                                                          : "network.host_loopback",
                               "network.%s is for a network of kind user", field);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_network(const struct kelpie_network *network,
                                    struct kelpie_error *err) {
    ASSERT(network);
    static_assert(ARRAY_SIZE(kind_names) == KELPIE_NETWORK_KIND_COUNT, "each kind has a name");
    uint8_t mac[MAC_SIZE];
    if ((unsigned)network->kind >= KELPIE_NETWORK_KIND_COUNT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.kind",
                               "network.kind is %d, and there is no such kind", (int)network->kind);
    }
    TRY(vm_check_reserved("network.reserved", network->reserved, ARRAY_SIZE(network->reserved),
                          err));
    if (network->mac && (!mac_parse(network->mac, mac) || !mac_is_host(mac))) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "network.mac",
                               "network.mac must be one host's address, such as "
                               "02:00:00:00:00:01, and is \"%.40s\"",
                               network->mac);
    }
    return network->kind == KELPIE_NETWORK_USER  ? check_user(network, err)
           : network->kind == KELPIE_NETWORK_TAP ? check_tap(network, err)
                                                 : KELPIE_OK;
}

enum kelpie_status vm_network_draw_mac(struct host *host, char ret_text[MAC_TEXT_SIZE],
                                       struct kelpie_error *err) {
    uint8_t mac[MAC_SIZE];
    ASSERT(host);
    ASSERT(ret_text);
    TRY(host_random(host, mac, sizeof(mac), err));
    mac_make_local(mac);
    mac_format(mac, ret_text);
    return KELPIE_OK;
}

/* ---- The guest -------------------------------------------------------------------------------- */

struct protocol_network vm_network_message(const struct kelpie_network *network) {
    ASSERT(network->kind == KELPIE_NETWORK_USER || network->kind == KELPIE_NETWORK_TAP);
    struct protocol_network message = {0};
    if (network->kind == KELPIE_NETWORK_USER) {
        message = (struct protocol_network){
            .address = {BACKEND_NETWORK_ADDRESS},
            .prefix_size = BACKEND_NETWORK_PREFIX_SIZE,
            .gateway = {BACKEND_NETWORK_GATEWAY},
            .dns = {BACKEND_NETWORK_DNS},
        };
    }
    bool parsed = mac_parse(network->mac, message.mac);
    ASSERT(parsed);
    return message;
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

enum kelpie_status vm_network_describe(const struct kelpie_config *config,
                                       struct snapshot_manifest *manifest,
                                       struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(manifest);
    if (!config->network) {
        return KELPIE_OK;
    }
    return snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_NETWORK,
                                         kind_names[config->network->kind], err);
}

enum kelpie_status vm_network_fits(const struct kelpie_config *config,
                                   const struct snapshot_manifest *manifest,
                                   struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(manifest);
    const char *bundle = snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_NETWORK);
    if (!bundle != !config->network) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "network",
                               "the bundle's VM has %s network, and this VM has %s",
                               bundle ? "a" : "no", config->network ? "one" : "none");
    }
    return KELPIE_OK;
}

enum kelpie_status vm_network_of_bundle(const struct snapshot_manifest *manifest,
                                        const struct kelpie_config *wanted,
                                        struct kelpie_network *storage,
                                        const struct kelpie_network **ret_network,
                                        struct kelpie_error *err) {
    ASSERT(manifest && storage);
    ASSERT(ret_network);
    const char *bundle = snapshot_manifest_feature(manifest, SNAPSHOT_FEATURE_NETWORK);
    const struct kelpie_network *wish = wanted ? wanted->network : NULL;
    bool given = wish && wish->kind != KELPIE_NETWORK_NONE;
    if (!bundle && given) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "network",
                               "the bundle's VM has no network");
    }
    if (bundle && !given && strcmp(bundle, kind_names[KELPIE_NETWORK_USER]) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "network",
                               "the bundle's VM has a network of kind %.40s: say which one it gets "
                               "here",
                               bundle);
    }
    *storage = (struct kelpie_network){.kind = KELPIE_NETWORK_USER};
    *ret_network = given ? wish : bundle ? storage : NULL;
    return KELPIE_OK;
}
