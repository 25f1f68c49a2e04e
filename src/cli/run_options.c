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
    {.include = &machine_option_table, .offset = offsetof(struct run_options, machine)},
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
    OPTION(0, "json", NULL, option_set_flag, json, NULL,
           "print one JSON object at the end, and nothing else"),
};

const struct option_table run_option_table = {specs, ARRAY_SIZE(specs)};

static void options_check(const struct run_options *options) {
    ASSERT(options);
    ASSERT(options->machine.disks.count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(options->machine.env.count < ARRAY_SIZE(options->machine.env.values));
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
    const char *option = options->machine.cpus != 0                ? "--cpus"
                         : options->machine.memory_mib != 0        ? "--memory"
                         : options->machine.disks.count > 0        ? "--disk"
                         : options->machine.given.share_count > 0  ? "--volume"
                         : options->machine.given.secret_count > 0 ? "--secret"
                         : options->machine.kernel                 ? "--kernel"
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
    if (!options->command && !options->machine.image && !options->snapshot && !options->detach) {
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
        return options->machine.labels.count > 0
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
    if (options->machine.image && options->from) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "image",
                               "the bundle brings its own image: a command stands behind --");
    }
    if (!options->machine.image && options->machine.cold) {
        return refuse("--cold", "only a VM with an image starts from a template", err);
    }
    if (!options->machine.image && options->machine.disk_mib != 0) {
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
        options->machine.image = operands[0];
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
    if (!options->command && !options->machine.image) {
        TRY(check_no_command(options, err));
    }
    TRY(machine_options_check(&options->machine, err));
    if (options->snapshot_after_ms != 0 && !options->snapshot) {
        return refuse("--snapshot-after", "--snapshot says where to", err);
    }
    return options->from ? check_from(options, err) : check_boot(options, err);
}

void run_options_deinit(struct run_options *options) {
    options_check(options);
    ASSERT(options->machine.disks.count <= KELPIE_DISK_COUNT_MAX);
    machine_options_deinit(&options->machine);
}
