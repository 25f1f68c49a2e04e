/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie fork: VMs that go on from where one is. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "kelpie_store.h"

struct fork_options {
    uint32_t count; /* 0: not given, 1 */
    const char *name;
    bool paused;
    bool allow_incomplete;
    uint32_t timeout_ms;
    bool json;
};

#define OPTION(letter, long_name, value, setter, member, text)                                     \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct fork_options, member)                           \
    }

static const struct option_spec fork_specs[] = {
    OPTION('n', "count", "N", option_set_count, count, "how many (1)"),
    OPTION(0, "name", "PREFIX", option_set_text, name,
           "they are called PREFIX-1, PREFIX-2, … (the VM's name)"),
    OPTION(0, "paused", NULL, option_set_flag, paused, "leave them paused"),
    OPTION(0, "allow-incomplete", NULL, option_set_flag, allow_incomplete,
           "go on although something could not be made fresh"),
    OPTION(0, "timeout", "TIME", option_set_duration, timeout_ms,
           "give up on one after 30s, 2m (1m)"),
    OPTION(0, "json", NULL, option_set_flag, json, "print one JSON array, an object for each"),
};
static const struct option_table fork_table = {fork_specs, ARRAY_SIZE(fork_specs)};

static json_t *json_of_child(const struct kelpie_fork_child *child, const char *name) {
    ASSERT(child);
    ASSERT(child->vm || child->error.status != KELPIE_OK);
    if (child->vm) {
        return json_pack("{s:s, s:s, s:s, s:n}", "name", name, "id", kelpie_vm_id(child->vm),
                         "state", kelpie_state_name(kelpie_vm_state(child->vm)), "error");
    }
    return json_pack("{s:s, s:n, s:n, s:o}", "name", name, "id", "state", "error",
                     output_json_error(&child->error));
}

/* The child's name, or what it would have been called. */
static void name_of(const struct kelpie_fork_child *child, const char *prefix, size_t index,
                    char *name, size_t size) {
    ASSERT(child);
    ASSERT(prefix);
    const char *own = child->vm ? kelpie_vm_config(child->vm)->name : NULL;
    if (own) {
        snprintf(name, size, "%s", own);
    } else {
        snprintf(name, size, "%s-%zu", prefix, index + 1);
    }
}

/* One line for each child: its name, or, on standard error, why it is not there. */
static int tell(const struct kelpie_fork_child *children, size_t count, const char *prefix,
                bool json) {
    ASSERT(children);
    ASSERT(count > 0);
    int code = CLI_EXIT_OK;
    json_t *array = json ? json_array() : NULL;
    for (size_t i = 0; i < count; i++) {
        char name[KELPIE_NAME_SIZE_MAX + 32];
        name_of(&children[i], prefix, i, name, sizeof(name));
        if (json) {
            json_array_append_new(array, json_of_child(&children[i], name));
        } else if (children[i].vm) {
            puts(name);
        }
        if (!children[i].vm) {
            code = CLI_EXIT_FAILED;
            fflush(stdout);
            verb_say_error(name, &children[i].error);
        }
    }
    if (json) {
        return output_json(array, code);
    }
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static enum kelpie_status fork_vm(const char *name, const struct fork_options *options,
                                  struct kelpie_fork_child *children, char *prefix, size_t size,
                                  struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(name);
    ASSERT(prefix && size > 0);
    ASSERT(children);
    ASSERT(options->count > 0);
    TRY(kelpie_vm_open(NULL, name, &vm, err));
    const char *own = kelpie_vm_config(vm)->name;
    snprintf(prefix, size, "%s", options->name ? options->name : own ? own : name);
    struct kelpie_fork_options how = {
        .name_prefix = options->name,
        .paused = options->paused,
        .allow_incomplete = options->allow_incomplete,
        .timeout_ms = options->timeout_ms,
    };
    enum kelpie_status status = kelpie_vm_fork(vm, &how, options->count, children, err);
    kelpie_vm_close(vm);
    return status;
}

static int fork_with(struct fork_options *options, const char *name) {
    struct kelpie_error err;
    char prefix[KELPIE_NAME_SIZE_MAX + 1];
    ASSERT(options->count <= KELPIE_FORK_COUNT_MAX);
    ASSERT(name);
    AUTO_MEM struct kelpie_fork_child *children = calloc(options->count, sizeof(*children));
    if (!children) {
        return output_no_memory();
    }
    if (fork_vm(name, options, children, prefix, sizeof(prefix), &err) != KELPIE_OK) {
        verb_say_error(name, &err);
        if (err.status == KELPIE_WRONG_STATE) {
            output_hint("a VM that runs or is paused can be forked: 'kelpie start' starts one");
        }
        return CLI_EXIT_FAILED;
    }
    int code = tell(children, options->count, prefix, options->json);
    for (size_t i = 0; i < options->count; i++) {
        kelpie_vm_close(children[i].vm);
    }
    return code;
}

static int fork_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct fork_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_fork, words, &options, operands, &code)) {
        return code;
    }
    options.count = options.count == 0 ? 1 : options.count;
    if (options.count > KELPIE_FORK_COUNT_MAX) {
        struct kelpie_error err;
        error_set(&err, KELPIE_BAD_CONFIG, "--count: %u are more than %d", options.count,
                  KELPIE_FORK_COUNT_MAX);
        output_error(NULL, &err);
        return CLI_EXIT_FAILED;
    }
    return fork_with(&options, operands->words[0]);
}

const struct cli_command cli_fork = {
    .name = "fork",
    .alias = "branch",
    .summary = "Makes VMs that go on from where one is, its commands and memory included",
    .synopsis = "[OPTIONS] VM",
    .notes = "The VM stands still for a moment and goes on. Each child is a VM of its own, with an "
             "owner, with a\n"
             "clock, random numbers, a host name and a machine id of its own. One line for each: "
             "its name on\n"
             "standard output, or on standard error why it is not there; the exit code is then "
             "125, and the\n"
             "others are there.\n",
    .options = &fork_table,
    .run = fork_run,
    .group = CLI_GROUP_SNAPSHOTS,
    .operands = {CLI_OPERAND_VM},
    .json = "name   of the child, or what it would have been called\n"
            "id     32 hexadecimal digits; null: it is not there\n"
            "state  running or paused; or null\n"
            "error  null, or an object with status, field, message and os_error\n",
    .examples = "# try four ways from one point\nkelpie fork web --count 4 --name try\n"
                "for i in 1 2 3 4; do kelpie exec try-$i -- ./variant $i & done; wait\n",
    .rule = {1, 1, "a VM's name"},
};
