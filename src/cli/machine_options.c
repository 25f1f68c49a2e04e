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
    OPTION(0, "hypervisor", "FILE", option_set_text, hypervisor, "hypervisor",
           "with --backend: its program (qemu, firecracker) or library (libkrun)"),
    OPTION(0, "cpus", "N", option_set_count, cpus, "vcpu_count", "virtual processors (1)"),
    OPTION(0, "memory", "SIZE", option_set_memory, memory_mib, "memory_mib",
           "memory: 512M, 2G or MiB (256)"),
    OPTION(0, "disk", "F[:ro][:/DIR]", machine_add_disk, disks, "disks",
           "a raw image or a folder as a disk, mounted at DIR; may be repeated"),
    OPTION(0, "disk-size", "SIZE", option_set_memory, disk_mib, "image_disk_mib",
           "room for what is written over the image (8G, which takes no space until it is)"),
    OPTION(0, "net", "KIND", machine_set_network, network, "network",
           "none (the default), user, user,loopback or tap:NAME"),
    OPTION('p', "publish", "HOST:GUEST[/udp]", machine_add_forward, network, NULL,
           "a port of 127.0.0.1 that leads to one of the guest; may be repeated"),
    OPTION(
        'v', "volume", "HOST:GUEST[:ro][:live|:copy]", given_add_share, given, "shares",
        "a folder of this host in the guest: live where that can be, else copied; may be repeated"),
    OPTION(0, "secret", "NAME=PATH|NAME=fd:N", given_add_secret, given, "secrets",
           "a file's or descriptor's bytes at /run/secrets/NAME, in memory; may be repeated"),
    OPTION(0, "kernel", "FILE", option_set_text, kernel, "kernel",
           "the guest's kernel: a bzImage or libkrunfw.so"),
    OPTION('e', "env", "KEY=VALUE", option_add_text, env, "env",
           "an environment variable; may be repeated"),
    OPTION('w', "workdir", "DIR", option_set_text, working_dir, "working_dir",
           "the working folder in the guest (the image's, or /)"),
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

/* ---- Disks ------------------------------------------------------------------------------------ */

static enum kelpie_status disk_suffix(struct kelpie_disk *disk, const char *suffix,
                                      bool *mode_given, bool *ret_taken, struct kelpie_error *err) {
    ASSERT(suffix);
    ASSERT(ret_taken);
    bool is_mode = strcmp(suffix, "ro") == 0 || strcmp(suffix, "rw") == 0;
    *ret_taken = is_mode || suffix[0] == '/';
    if (is_mode && *mode_given) {
        return error_set(err, KELPIE_BAD_CONFIG, "ro or rw is given twice");
    }
    if (is_mode) {
        *mode_given = true;
        disk->read_only = suffix[1] == 'o';
    } else if (*ret_taken && disk->mount) {
        return error_set(err, KELPIE_BAD_CONFIG, "two folders to mount at: %.100s and %.100s",
                         suffix, disk->mount);
    } else if (*ret_taken) {
        disk->mount = suffix;
    }
    return KELPIE_OK;
}

/* Cuts the suffixes off from the end, in either order; what is left is the path, colons and all. */
static enum kelpie_status parse_disk(char *text, struct kelpie_disk *ret_disk,
                                     struct kelpie_error *err) {
    ASSERT(text);
    ASSERT(ret_disk);
    struct kelpie_disk disk = {.path = text};
    bool mode_given = false;
    bool taken = true;
    while (taken) {
        char *colon = strrchr(text, ':');
        if (!colon) {
            break;
        }
        TRY(disk_suffix(&disk, colon + 1, &mode_given, &taken, err));
        if (taken) {
            *colon = 0;
        }
    }
    if (text[0] == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path is empty");
    }
    *ret_disk = disk;
    return KELPIE_OK;
}

enum kelpie_status machine_add_disk(void *field, const char *value, struct kelpie_error *err) {
    struct machine_disks *disks = field;
    ASSERT(disks);
    ASSERT(disks->count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(value);
    if (disks->count == KELPIE_DISK_COUNT_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "given more than %d times", KELPIE_DISK_COUNT_MAX);
    }
    char *text = strdup(value);
    if (!text) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    enum kelpie_status status = parse_disk(text, &disks->disks[disks->count], err);
    if (status != KELPIE_OK) {
        free(text);
        return status;
    }
    disks->texts[disks->count++] = text;
    return KELPIE_OK;
}

/* ---- The network ------------------------------------------------------------------------------ */

enum kelpie_status machine_set_network(void *field, const char *value, struct kelpie_error *err) {
    struct machine_network *run = field;
    static const char tap_prefix[] = "tap:";
    ASSERT(run);
    ASSERT(value);
    struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    if (strcmp(value, "none") == 0) {
        network.kind = KELPIE_NETWORK_NONE;
    } else if (strcmp(value, "user,loopback") == 0) {
        network.host_loopback = true;
    } else if (strncmp(value, tap_prefix, sizeof(tap_prefix) - 1) == 0) {
        network.kind = KELPIE_NETWORK_TAP;
        network.tap = value + sizeof(tap_prefix) - 1;
    } else if (strcmp(value, "user") != 0) {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "\"%.100s\" is not none, user, user,loopback or tap:NAME", value);
    }
    run->network = network;
    return KELPIE_OK;
}

/* HOST:GUEST, perhaps with /tcp or /udp behind it. */
static bool parse_forward(const char *text, struct kelpie_forward *ret_forward) {
    ASSERT(text);
    ASSERT(ret_forward);
    size_t host_size = strcspn(text, ":");
    const char *guest = text[host_size] == ':' ? text + host_size + 1 : "";
    size_t guest_size = strcspn(guest, "/");
    const char *suffix = guest + guest_size;
    uint64_t host_port = 0;
    uint64_t guest_port = 0;
    bool udp = strcmp(suffix, "/udp") == 0;
    if (!option_number_parse(text, host_size, UINT16_MAX, &host_port) ||
        !option_number_parse(guest, guest_size, UINT16_MAX, &guest_port) || host_port == 0 ||
        guest_port == 0 || (suffix[0] != 0 && !udp && strcmp(suffix, "/tcp") != 0)) {
        return false;
    }
    *ret_forward = (struct kelpie_forward){
        .host_port = (uint16_t)host_port, .guest_port = (uint16_t)guest_port, .udp = udp};
    return true;
}

enum kelpie_status machine_add_forward(void *field, const char *value, struct kelpie_error *err) {
    struct machine_network *run = field;
    ASSERT(run->forward_count <= KELPIE_FORWARD_COUNT_MAX);
    ASSERT(value);
    if (run->forward_count == KELPIE_FORWARD_COUNT_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "given more than %d times",
                         KELPIE_FORWARD_COUNT_MAX);
    }
    if (!parse_forward(value, &run->forwards[run->forward_count])) {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "\"%.100s\" is not HOST:GUEST, two ports, with /udp or not", value);
    }
    run->forward_count++;
    return KELPIE_OK;
}

const struct kelpie_network *machine_options_network(const struct machine_options *options) {
    const struct kelpie_network *network = &options->network.network;
    options_check(options);
    ASSERT(network->forward_count == options->network.forward_count);
    return network->kind == KELPIE_NETWORK_NONE ? NULL : network;
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
enum kelpie_status machine_options_join_env(struct machine_options *options,
                                            const struct kelpie_image *image,
                                            struct kelpie_error *err) {
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

enum kelpie_status machine_options_check(struct machine_options *options,
                                         struct kelpie_error *err) {
    options_check(options);
    ASSERT(err);
    TRY(option_check_pairs(&options->env, "env", err));
    TRY(option_check_pairs(&options->labels, "label", err));
    options->network.network.forwards = options->network.forwards;
    options->network.network.forward_count = options->network.forward_count;
    if (options->network.forward_count > 0 &&
        options->network.network.kind != KELPIE_NETWORK_USER) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "--publish",
                               "--publish: there is no network of kind user: add --net user");
    }
    return KELPIE_OK;
}

struct kelpie_config machine_options_config(const struct machine_options *options) {
    options_check(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    const char *const *env = options->env.count > 0 ? options->env.values : NULL;
    struct kelpie_config config = {
        .name = options->name,
        .backend = options->backend,
        .hypervisor = options->hypervisor,
        .vcpu_count = options->cpus,
        .memory_mib = options->memory_mib,
        .kernel = options->kernel,
        .disks = options->disks.disks,
        .disk_count = options->disks.count,
        .env = options->joined_env ? options->joined_env : env,
        .working_dir = options->working_dir,
        .hostname = options->hostname,
        .console_log = options->console,
        .network = machine_options_network(options),
        .image = options->image,
        .image_disk_mib = options->disk_mib,
        .warm = options->image && !options->cold,
    };
    given_options_fill(&options->given, &config);
    return config;
}

void machine_options_deinit(struct machine_options *options) {
    options_check(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < options->disks.count; i++) {
        free(options->disks.texts[i]);
    }
    options->disks.count = 0;
    given_options_deinit(&options->given);
    free(TAKE(options->joined_env));
}
