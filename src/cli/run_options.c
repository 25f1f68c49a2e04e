/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/run_options.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define OPTION(letter, long_name, value, setter, member, config_field, text)                       \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct run_options, member), .field = (config_field)   \
    }

static const struct option_spec specs[] = {
    OPTION('d', "detach", NULL, option_set_flag, detach, NULL,
           "in a VM that goes on without us: print its name and return"),
    OPTION(0, "rm", NULL, option_set_flag, remove, NULL,
           "remove the VM when it has ended; without --detach it always is"),
    OPTION(0, "label", "KEY=VALUE", option_add_text, labels, "owner.labels",
           "with --detach: a label of the VM; may be repeated"),
    OPTION(0, "cold", NULL, option_set_flag, cold, NULL,
           "boot, although a template of this very machine could be restored"),
    OPTION(0, "disk-size", "SIZE", option_set_memory, disk_mib, "image_disk_mib",
           "room for what is written over the image (8G, which takes no space until it is)"),
    OPTION(0, "backend", "NAME", option_set_text, backend, "backend",
           "which hypervisor; 'auto' (the default) takes the first that works here"),
    OPTION(0, "cpus", "N", option_set_count, cpus, "vcpu_count", "virtual processors (1)"),
    OPTION(0, "memory", "SIZE", option_set_memory, memory_mib, "memory_mib",
           "memory: 512M, 2G or MiB (256)"),
    OPTION(0, "disk", "F[:ro][:/DIR]", run_add_disk, disks, "disks",
           "a raw image or a folder as a disk, mounted at DIR; may be repeated"),
    OPTION(0, "net", "KIND", run_set_network, network, "network",
           "none (the default), user, user,loopback or tap:NAME"),
    OPTION('p', "publish", "HOST:GUEST[/udp]", run_add_forward, network, NULL,
           "a port of 127.0.0.1 that leads to one of the guest; may be repeated"),
    OPTION(0, "kernel", "FILE", option_set_text, kernel, "kernel",
           "the guest's kernel: a bzImage or libkrunfw.so"),
    OPTION('e', "env", "KEY=VALUE", option_add_text, env, "env",
           "an environment variable; may be repeated"),
    OPTION('w', "workdir", "DIR", option_set_text, working_dir, "working_dir",
           "the command's working folder in the guest (the image's, or /)"),
    OPTION('u', "user", "UID[:GID]", run_set_user, user, NULL,
           "whom the command runs as, by number (the image's user, or 0:0)"),
    OPTION('i', "interactive", NULL, option_set_flag, interactive, NULL,
           "pass our standard input to the command"),
    OPTION('t', "tty", NULL, option_set_flag, tty, "tty",
           "give the command a terminal; ours must be one"),
    OPTION(0, "timeout", "TIME", option_set_duration, timeout_ms, "timeout_ms",
           "kill the command after 500ms, 30s, 2m, 1h"),
    OPTION(0, "snapshot", "DIR", option_set_text, snapshot, NULL,
           "write the VM to the new folder DIR when the command has ended"),
    OPTION(0, "snapshot-after", "TIME", option_set_duration, snapshot_after_ms, NULL,
           "write it this long after the command began, still running, and end"),
    OPTION(0, "from", "DIR", option_set_text, from, NULL,
           "restore the VM of such a folder instead of booting one"),
    OPTION(0, "verify", NULL, option_set_flag, verify, NULL,
           "with --from: check checksums of memory and disks"),
    OPTION(0, "allow-incomplete", NULL, option_set_flag, allow_incomplete, NULL,
           "with --from: go on although something could not be made fresh"),
    OPTION(0, "name", "NAME", option_set_text, name, "name", "the VM's name"),
    OPTION(0, "hostname", "NAME", option_set_text, hostname, "hostname", "the guest's host name"),
    OPTION(0, "console", "FILE", option_set_text, console, "console_log",
           "write the guest's console to FILE"),
    OPTION(0, "json", NULL, option_set_flag, json, NULL,
           "print one JSON object at the end, and nothing else"),
};

const struct option_table run_option_table = {specs, ARRAY_SIZE(specs)};

static void options_check(const struct run_options *options) {
    ASSERT(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(options->env.count < ARRAY_SIZE(options->env.values));
}

/* ---- Disks and users -------------------------------------------------------------------------- */

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

enum kelpie_status run_add_disk(void *field, const char *value, struct kelpie_error *err) {
    struct run_disks *disks = field;
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

enum kelpie_status run_set_user(void *field, const char *value, struct kelpie_error *err) {
    struct run_user *user = field;
    ASSERT(user);
    ASSERT(value);
    size_t uid_size = strcspn(value, ":");
    const char *gid_text = value[uid_size] == ':' ? value + uid_size + 1 : NULL;
    uint64_t uid = 0;
    uint64_t gid = 0;
    /* The highest number is no user: it means "leave it as it is" to setuid(2)'s relatives. */
    if (!option_number_parse(value, uid_size, UINT32_MAX - 1, &uid)) {
        return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\" is not UID or UID:GID, in numbers",
                         value);
    }
    gid = uid;
    if (gid_text && !option_number_parse(gid_text, strlen(gid_text), UINT32_MAX - 1, &gid)) {
        return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\" is not UID or UID:GID, in numbers",
                         value);
    }
    *user = (struct run_user){.uid = (uint32_t)uid, .gid = (uint32_t)gid, .given = true};
    return KELPIE_OK;
}

/* ---- The network ------------------------------------------------------------------------------ */

enum kelpie_status run_set_network(void *field, const char *value, struct kelpie_error *err) {
    struct run_network *run = field;
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

enum kelpie_status run_add_forward(void *field, const char *value, struct kelpie_error *err) {
    struct run_network *run = field;
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

const struct kelpie_network *run_options_network(const struct run_options *options) {
    const struct kelpie_network *network = &options->network.network;
    options_check(options);
    ASSERT(network->forward_count == options->network.forward_count);
    return network->kind == KELPIE_NETWORK_NONE ? NULL : network;
}

/* ---- What fits together ----------------------------------------------------------------------- */

static enum kelpie_status refuse(const char *option, const char *why, struct kelpie_error *err) {
    ASSERT(option);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, option, "%s: %s", option, why);
}

/* What a bundle brings itself. */
static enum kelpie_status check_from(const struct run_options *options, struct kelpie_error *err) {
    options_check(options);
    ASSERT(options->from);
    const char *option = options->cpus != 0         ? "--cpus"
                         : options->memory_mib != 0 ? "--memory"
                         : options->disks.count > 0 ? "--disk"
                         : options->kernel          ? "--kernel"
                                                    : NULL;
    if (option) {
        return refuse(option, "the bundle brings its own: leave it out with --from", err);
    }
    return KELPIE_OK;
}

static enum kelpie_status check_boot(const struct run_options *options, struct kelpie_error *err) {
    options_check(options);
    ASSERT(!options->from);
    if (options->verify) {
        return refuse("--verify", "there is nothing to verify without --from", err);
    }
    if (options->allow_incomplete) {
        return refuse("--allow-incomplete", "there is nothing to restore without --from", err);
    }
    if (!options->command && !options->image && !options->snapshot && !options->detach) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "there is no command: try 'kelpie run -- uname -a'");
    }
    return KELPIE_OK;
}

static enum kelpie_status check_no_command(const struct run_options *options,
                                           struct kelpie_error *err) {
    options_check(options);
    ASSERT(!options->command);
    if (options->timeout_ms != 0) {
        return refuse("--timeout", "there is no command that it could end", err);
    }
    if (options->user.given) {
        return refuse("--user", "there is no command that would run so", err);
    }
    if (!options->from && (options->interactive || options->tty)) {
        return refuse(options->tty ? "--tty" : "--interactive", "there is no command to talk to",
                      err);
    }
    if (!options->from && options->snapshot_after_ms != 0) {
        return refuse("--snapshot-after", "there is no command to wait for", err);
    }
    return KELPIE_OK;
}

/* What only a VM with an owner of its own can do, and what it cannot. */
static enum kelpie_status check_detach(const struct run_options *options,
                                       struct kelpie_error *err) {
    options_check(options);
    if (!options->detach) {
        return options->labels.count > 0
                   ? refuse("--label", "a VM has labels only with --detach", err)
                   : KELPIE_OK;
    }
    if (options->from) {
        return refuse("--detach", "'kelpie restore' makes a VM of a bundle that goes on", err);
    }
    if (options->snapshot) {
        return refuse("--detach", "'kelpie snapshot' makes a bundle of a VM that goes on", err);
    }
    return KELPIE_OK;
}

static enum kelpie_status check_image(const struct run_options *options, struct kelpie_error *err) {
    options_check(options);
    if (options->image && options->from) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "image",
                               "the bundle brings its own image: a command stands behind --");
    }
    if (!options->image && options->cold) {
        return refuse("--cold", "only a VM with an image starts from a template", err);
    }
    if (!options->image && options->disk_mib != 0) {
        return refuse("--disk-size", "there is no image that something is written over", err);
    }
    return KELPIE_OK;
}

/* kelpie run debian ls: is it an image and a command, or a command? Neither is guessed. */
static enum kelpie_status two_words(const char *first, const char *second,
                                    struct kelpie_error *err) {
    ASSERT(first);
    ASSERT(second);
    if (second[0] == '-') {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "\"%.60s\" stands behind \"%.60s\": options stand before the image, "
                               "and a command behind --",
                               second, first);
    }
    return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                           "a command stands behind --: 'kelpie run %.60s -- %.60s' in that image, "
                           "or 'kelpie run -- %.60s %.60s' without one",
                           first, second, first, second);
}

static enum kelpie_status take_operands(struct run_options *options,
                                        const struct option_words *words,
                                        struct kelpie_error *err) {
    options_check(options);
    ASSERT(words->index <= words->count);
    const char *const *operands = words->words + words->index;
    size_t count = words->count - words->index;
    bool has_image = !words->ended && count > 0 &&
                     (!options->from || (count > 1 && strcmp(operands[1], "--") == 0));
    if (has_image) {
        if (operands[0][0] == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "image", "the image's name is empty");
        }
        options->image = operands[0];
        if (count > 1 && strcmp(operands[1], "--") != 0) {
            return two_words(operands[0], operands[1], err);
        }
        size_t taken = count > 1 ? 2 : 1;
        operands += taken;
        count -= taken;
    }
    if (count == 0) {
        return KELPIE_OK;
    }
    if (operands[0][0] == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command", "the command's name is empty");
    }
    options->command = operands;
    return KELPIE_OK;
}

enum kelpie_status run_options_complete(struct run_options *options,
                                        const struct option_words *words,
                                        struct kelpie_error *err) {
    options_check(options);
    ASSERT(words->index <= words->count);
    ASSERT(!options->command);
    TRY(take_operands(options, words, err));
    TRY(check_detach(options, err));
    TRY(check_image(options, err));
    if (!options->command && !options->image) {
        TRY(check_no_command(options, err));
    }
    TRY(option_check_pairs(&options->env, "env", err));
    TRY(option_check_pairs(&options->labels, "label", err));
    if (options->network.forward_count > 0 &&
        options->network.network.kind != KELPIE_NETWORK_USER) {
        return refuse("--publish", "there is no network of kind user: add --net user", err);
    }
    options->network.network.forwards = options->network.forwards;
    options->network.network.forward_count = options->network.forward_count;
    if (options->snapshot_after_ms != 0 && !options->snapshot) {
        return refuse("--snapshot-after", "--snapshot says where to", err);
    }
    return options->from ? check_from(options, err) : check_boot(options, err);
}

void run_options_deinit(struct run_options *options) {
    options_check(options);
    ASSERT(options->disks.count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < options->disks.count; i++) {
        free(options->disks.texts[i]);
    }
    options->disks = (struct run_disks){0};
}
