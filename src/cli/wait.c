/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie wait: until detached commands have ended. */
#include "base/assert.h"
#include "cli/verb.h"
#include "cli/vm_json.h"

static const struct option_spec wait_specs[] = {
    {
        .name = "timeout",
        .value_name = "TIME",
        .help = "give up after 500ms, 30s, 2m; the exit code is then 125",
        .set = option_set_duration,
        .offset = offsetof(struct verb_options, timeout_ms),
    },
    {.include = &verb_option_table},
};
static const struct option_table wait_table = {wait_specs, ARRAY_SIZE(wait_specs)};

/* A VM that has ended needs no owner to say how. */
static enum kelpie_status wait_for(const char *name, uint32_t timeout_ms,
                                   struct kelpie_exit *ret_exit, struct kelpie_error *err) {
    struct kelpie_vm_info info = {0};
    struct kelpie_vm *vm = NULL;
    ASSERT(name);
    ASSERT(ret_exit);
    TRY(kelpie_vm_find(NULL, name, &info, err));
    if (info.command_known && info.command_ended) {
        *ret_exit = info.command_exit;
        return KELPIE_OK;
    }
    TRY(kelpie_vm_open(NULL, info.id, &vm, err));
    enum kelpie_status status = kelpie_vm_wait_detached(vm, timeout_ms, ret_exit, err);
    kelpie_vm_close(vm);
    return status;
}

static enum kelpie_status wait_apply(const char *name, const struct verb_options *options,
                                     struct verb_note *note, struct kelpie_error *err) {
    struct kelpie_exit exit = {0};
    ASSERT(name);
    ASSERT(note);
    TRY(wait_for(name, options->timeout_ms, &exit, err));
    snprintf(note->text, sizeof(note->text), "%d", exit.code);
    note->json = json_pack("{s:o}", "exit", vm_json_exit(&exit));
    return KELPIE_OK;
}

static int wait_run(const struct cli_table *table, struct option_words *words) {
    static const struct verb verb = {.apply = wait_apply};
    ASSERT(table);
    ASSERT(words);
    return verb_run(&cli_wait, &verb, words);
}

const struct cli_command cli_wait = {
    .name = "wait",
    .summary = "Waits until the detached commands of VMs have ended, and prints their exit codes",
    .synopsis = "[OPTIONS] VM...",
    .notes = "One line for each VM, in the order of the words. The exit code of `kelpie wait` is "
             "125 when a\n"
             "VM is not there, has no such command, or was stopped before it ended.\n",
    .options = &wait_table,
    .run = wait_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = "name   as it was given\n"
            "exit   code, signal, timed_out; not there when that failed\n"
            "error  null, or an object with status, field, message and os_error\n",
    .examples = "vm=$(kelpie run -d debian -- make -C /src check)\ncode=$(kelpie wait \"$vm\")\n",
};
