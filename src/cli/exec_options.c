/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/exec_options.h"

#include <string.h>

#include "base/assert.h"

#define OPTION(letter, long_name, value, setter, member, config_field, text)                       \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct exec_options, member), .field = (config_field)  \
    }

#define OPTION_ENV                                                                                 \
    OPTION('e', "env", "KEY=VALUE", option_add_text, env, "env",                                   \
           "an environment variable; may be repeated")
#define OPTION_WORKDIR                                                                             \
    OPTION('w', "workdir", "DIR", option_set_text, working_dir, "working_dir",                     \
           "its working folder in the guest (the VM's)")
#define OPTION_USER                                                                                \
    OPTION('u', "user", "UID[:GID]", run_set_user, user, NULL, "whom it runs as, by number (0:0)")
#define OPTION_DETACH_KEYS                                                                         \
    OPTION(0, "detach-keys", "KEYS", detach_keys_set, detach_keys, NULL,                           \
           "on a terminal, what lets go of it (" DETACH_KEYS_DEFAULT "); none: nothing")

static const struct option_spec exec_specs[] = {
    OPTION('i', "interactive", NULL, option_set_flag, interactive, NULL,
           "pass our standard input to the command"),
    OPTION('t', "tty", NULL, option_set_flag, tty, "tty",
           "give the command a terminal; ours must be one"),
    OPTION('d', "detach", NULL, option_set_flag, detach, NULL,
           "start it, print its session's number and return"),
    OPTION_ENV,
    OPTION_WORKDIR,
    OPTION_USER,
    OPTION(0, "timeout", "TIME", option_set_duration, timeout_ms, "timeout_ms",
           "kill the command after 500ms, 30s, 2m, 1h"),
    OPTION_DETACH_KEYS,
    OPTION(0, "json", NULL, option_set_flag, json, NULL,
           "print one JSON object at the end, and nothing else"),
};

static const struct option_spec shell_specs[] = {
    OPTION_ENV,
    OPTION_WORKDIR,
    OPTION_USER,
    OPTION_DETACH_KEYS,
};

static const struct option_spec attach_specs[] = {
    OPTION('i', "interactive", NULL, option_set_flag, interactive, NULL,
           "pass our standard input on although it is no terminal"),
    OPTION(0, "no-stdin", NULL, option_set_flag, no_stdin, NULL,
           "pass nothing on although it is one"),
    OPTION(0, "no-signals", NULL, option_set_flag, no_signals, NULL,
           "SIGINT and SIGTERM end only our looking on"),
    OPTION_DETACH_KEYS,
};

const struct option_table exec_option_table = {exec_specs, ARRAY_SIZE(exec_specs)};
const struct option_table shell_option_table = {shell_specs, ARRAY_SIZE(shell_specs)};
const struct option_table attach_option_table = {attach_specs, ARRAY_SIZE(attach_specs)};

static enum kelpie_status refuse(const char *field, const char *why, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s", why);
}

/* The VM's name, and how many words stand behind it. */
static enum kelpie_status take_vm(struct exec_options *options, const struct option_words *words,
                                  const char *example, size_t *ret_left, struct kelpie_error *err) {
    ASSERT(words->index <= words->count);
    ASSERT(!options->vm);
    if (words->index == words->count || words->words[words->index][0] == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "vm", "no VM is named: try '%s'", example);
    }
    options->vm = words->words[words->index];
    *ret_left = words->count - words->index - 1;
    return KELPIE_OK;
}

enum kelpie_status exec_options_complete(struct exec_options *options,
                                         const struct option_words *words,
                                         struct kelpie_error *err) {
    size_t left = 0;
    ASSERT(options);
    ASSERT(!options->command);
    TRY(take_vm(options, words, "kelpie exec VM -- COMMAND", &left, err));
    const char *const *rest = words->words + words->index + 1;
    if (left > 0 && strcmp(rest[0], "--") == 0) {
        rest++;
        left--;
    }
    if (left == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "there is no command: try 'kelpie exec %.64s -- COMMAND', or "
                               "'kelpie shell %.64s'",
                               options->vm, options->vm);
    }
    if (rest[0][0] == 0) {
        return refuse("command", "the command's name is empty", err);
    }
    if (rest[0][0] == '-') {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "\"%.60s\" stands behind the VM: options stand before it", rest[0]);
    }
    if (options->detach && options->json) {
        return refuse("--json", "--json: nothing is known yet of a command that goes on", err);
    }
    options->command = rest;
    return option_check_pairs(&options->env, "env", err);
}

enum kelpie_status shell_options_complete(struct exec_options *options,
                                          const struct option_words *words,
                                          struct kelpie_error *err) {
    size_t left = 0;
    ASSERT(options);
    ASSERT(!options->tty);
    TRY(take_vm(options, words, "kelpie shell VM", &left, err));
    if (left > 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "there is a word too many: \"%.60s\"; 'kelpie exec' runs a command",
                               words->words[words->index + 1]);
    }
    options->interactive = true;
    options->tty = true;
    return option_check_pairs(&options->env, "env", err);
}

enum kelpie_status attach_options_complete(struct exec_options *options,
                                           const struct option_words *words,
                                           struct kelpie_error *err) {
    size_t left = 0;
    ASSERT(options);
    ASSERT(options->exec_id == 0);
    TRY(take_vm(options, words, "kelpie attach VM [SESSION]", &left, err));
    const char *const *rest = words->words + words->index + 1;
    if (left > 1) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "session",
                               "there is a word too many: \"%.60s\"", rest[1]);
    }
    uint64_t id = 0;
    if (left == 1 && (!option_number_parse(rest[0], strlen(rest[0]), UINT32_MAX, &id) || id == 0)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "session",
                               "\"%.60s\" is not a session's number", rest[0]);
    }
    if (options->interactive && options->no_stdin) {
        return refuse("--no-stdin", "--no-stdin: --interactive says the opposite", err);
    }
    options->exec_id = (uint32_t)id;
    return KELPIE_OK;
}
