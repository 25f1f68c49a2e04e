/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/machine_options.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define OPTION(letter, long_name, value, setter, member, config_field, text)                       \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct machine_options, member),                       \
        .field = (config_field)                                                                    \
    }

static const struct option_spec specs[] = {
    OPTION(0, "name", "NAME", option_set_text, name, "name", "the VM's name; else one is made up"),
    OPTION(0, "backend", "NAME", option_set_text, backend, "backend",
           "which hypervisor; 'auto' (the default) takes the first that works here"),
    OPTION(0, "cpus", "N", option_set_count, cpus, "vcpu_count", "virtual processors (1)"),
    OPTION(0, "memory", "SIZE", option_set_memory, memory_mib, "memory_mib",
           "memory: 512M, 2G or MiB (256)"),
    OPTION(0, "disk", "F[:ro][:/DIR]", run_add_disk, disks, "disks",
           "a raw image or a folder as a disk, mounted at DIR; may be repeated"),
    OPTION(0, "disk-size", "SIZE", option_set_memory, disk_mib, "image_disk_mib",
           "room for what is written over the image (8G, which takes no space until it is)"),
    OPTION(0, "net", "KIND", run_set_network, network, "network",
           "none (the default), user, user,loopback or tap:NAME"),
    OPTION('p', "publish", "HOST:GUEST[/udp]", run_add_forward, network, NULL,
           "a port of 127.0.0.1 that leads to one of the guest; may be repeated"),
    OPTION(0, "kernel", "FILE", option_set_text, kernel, "kernel",
           "the guest's kernel: a bzImage or libkrunfw.so"),
    OPTION('e', "env", "KEY=VALUE", option_add_text, env, "env",
           "an environment variable of every command; may be repeated"),
    OPTION('w', "workdir", "DIR", option_set_text, working_dir, "working_dir",
           "the working folder of every command (the image's, or /)"),
    OPTION(0, "hostname", "NAME", option_set_text, hostname, "hostname", "the guest's host name"),
    OPTION(0, "console", "FILE", option_set_text, console, "console_log",
           "write the guest's console to FILE"),
    OPTION(0, "label", "KEY=VALUE", option_add_text, labels, "owner.labels",
           "a label of the VM; may be repeated"),
    OPTION(0, "cold", NULL, option_set_flag, cold, NULL,
           "boot, although a template of this very machine could be restored"),
};
const struct option_table machine_option_table = {specs, ARRAY_SIZE(specs)};

static void options_check(const struct machine_options *options) {
    ASSERT(options);
    ASSERT(options->env.count < ARRAY_SIZE(options->env.values));
    ASSERT(options->labels.count < ARRAY_SIZE(options->labels.values));
}

/* ---- The environment -------------------------------------------------------------------------- */

static bool same_key(const char *a, const char *b) {
    ASSERT(a);
    ASSERT(b);
    size_t size = strcspn(a, "=");
    return strcspn(b, "=") == size && strncmp(a, b, size) == 0;
}

static bool overridden(const struct option_list *env, const char *pair) {
    ASSERT(env);
    ASSERT(pair);
    for (size_t i = 0; i < env->count; i++) {
        if (same_key(env->values[i], pair)) {
            return true;
        }
    }
    return false;
}

/* A config's environment stands instead of the image's: so that the user's is beside it, the two are put together. */
static enum kelpie_status join_env(struct machine_options *options,
                                   const struct kelpie_image *image, struct kelpie_error *err) {
    options_check(options);
    ASSERT(!options->joined_env);
    size_t image_count = 0;
    while (image->env && image->env[image_count]) {
        image_count++;
    }
    /* The strings are copied behind the array: the image is let go of. */
    size_t size = (image_count + options->env.count + 1) * sizeof(char *);
    size_t text_offset = size;
    for (size_t i = 0; i < image_count; i++) {
        size += strlen(image->env[i]) + 1;
    }
    char *block = malloc(size);
    if (!block) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for the environment");
    }
    char *text = block + text_offset;
    options->joined_env = (const char **)(void *)block;
    size_t count = 0;
    for (size_t i = 0; i < image_count; i++) {
        if (!overridden(&options->env, image->env[i])) {
            size_t length = strlen(image->env[i]) + 1;
            memcpy(text, image->env[i], length);
            options->joined_env[count++] = text;
            text += length;
        }
    }
    for (size_t i = 0; i < options->env.count; i++) {
        options->joined_env[count++] = options->env.values[i];
    }
    options->joined_env[count] = NULL;
    return KELPIE_OK;
}

/* ---- What fits together ----------------------------------------------------------------------- */

static enum kelpie_status check_pairs(const struct option_list *list, const char *option,
                                      struct kelpie_error *err) {
    ASSERT(list);
    ASSERT(option);
    for (size_t i = 0; i < list->count; i++) {
        const char *equals = strchr(list->values[i], '=');
        if (!equals || equals == list->values[i]) {
            return error_set_field(err, KELPIE_BAD_CONFIG, option,
                                   "%s: \"%.100s\" is not KEY=VALUE", option, list->values[i]);
        }
    }
    return KELPIE_OK;
}

enum kelpie_status machine_options_complete(struct machine_options *options,
                                            struct kelpie_error *err) {
    options_check(options);
    ASSERT(err);
    TRY(check_pairs(&options->env, "--env", err));
    TRY(check_pairs(&options->labels, "--label", err));
    options->network.network.forwards = options->network.forwards;
    options->network.network.forward_count = options->network.forward_count;
    if (options->network.forward_count > 0 &&
        options->network.network.kind != KELPIE_NETWORK_USER) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "--publish",
                               "--publish: there is no network of kind user: add --net user");
    }
    if (!options->image) {
        return KELPIE_OK;
    }
    struct kelpie_image *image = NULL;
    TRY(kelpie_image_find(NULL, options->image, &image, err));
    enum kelpie_status status = options->env.count > 0 ? join_env(options, image, err) : KELPIE_OK;
    kelpie_list_free(image);
    return status;
}

struct kelpie_config machine_options_config(const struct machine_options *options) {
    options_check(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    const struct kelpie_network *network = &options->network.network;
    const char *const *env = options->env.count > 0 ? options->env.values : NULL;
    return (struct kelpie_config){
        .name = options->name,
        .backend = options->backend,
        .vcpu_count = options->cpus,
        .memory_mib = options->memory_mib,
        .kernel = options->kernel,
        .disks = options->disks.disks,
        .disk_count = options->disks.count,
        .env = options->joined_env ? options->joined_env : env,
        .working_dir = options->working_dir,
        .hostname = options->hostname,
        .console_log = options->console,
        .network = network->kind == KELPIE_NETWORK_NONE ? NULL : network,
        .image = options->image,
        .image_disk_mib = options->disk_mib,
        .warm = options->image && !options->cold,
    };
}

void machine_options_deinit(struct machine_options *options) {
    options_check(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < options->disks.count; i++) {
        free(options->disks.texts[i]);
    }
    options->disks.count = 0;
    free(TAKE(options->joined_env));
}
