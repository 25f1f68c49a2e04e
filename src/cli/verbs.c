/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie start, stop, kill, restart, pause, resume, rm: each one call of the library on a handle. */
#include "base/assert.h"
#include "cli/verb.h"
#include "kelpie_store.h"

typedef enum kelpie_status vm_call(struct kelpie_vm *vm, const struct verb_options *options,
                                   struct kelpie_error *err);

static enum kelpie_status with_vm(const char *name, const struct verb_options *options,
                                  vm_call *call, struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(name);
    ASSERT(call);
    TRY(kelpie_vm_open(NULL, name, &vm, err));
    enum kelpie_status status = call(vm, options, err);
    kelpie_vm_close(vm);
    return status;
}

/* A verb's function, its command's function and its row of `verb`, around one call. */
#define VERB(verb_name, call_name, doing_text)                                                     \
    static enum kelpie_status verb_name##_apply(                                                   \
        const char *name, const struct verb_options *options, struct verb_note *note,              \
        struct kelpie_error *err) {                                                                \
        ASSERT(name);                                                                              \
        ASSERT(note);                                                                              \
        return with_vm(name, options, call_name, err);                                             \
    }                                                                                              \
    static int verb_name##_run(const struct cli_table *table, struct option_words *words) {        \
        static const struct verb verb = {.apply = verb_name##_apply, .doing = doing_text};         \
        ASSERT(table);                                                                             \
        ASSERT(words);                                                                             \
        return verb_run(&cli_##verb_name, &verb, words);                                           \
    }

static enum kelpie_status start_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                   struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    return kelpie_vm_start(vm, err);
}

static enum kelpie_status stop_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                  struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    return kelpie_vm_stop(vm, options->timeout_ms, err);
}

static enum kelpie_status kill_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                  struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    return kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err);
}

static enum kelpie_status restart_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                     struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    enum kelpie_state state = kelpie_vm_state(vm);
    if (state != KELPIE_STATE_CREATED && state != KELPIE_STATE_STOPPED) {
        TRY(kelpie_vm_stop(vm, options->timeout_ms, err));
    }
    return kelpie_vm_start(vm, err);
}

static enum kelpie_status pause_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                   struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    return kelpie_vm_pause(vm, err);
}

static enum kelpie_status resume_vm(struct kelpie_vm *vm, const struct verb_options *options,
                                    struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(options);
    return kelpie_vm_resume(vm, err);
}

VERB(start, start_vm, "starting")
VERB(stop, stop_vm, "stopping")
VERB(kill, kill_vm, NULL)
VERB(restart, restart_vm, "restarting")
VERB(pause, pause_vm, "pausing")
VERB(resume, resume_vm, "resuming")

static enum kelpie_status rm_apply(const char *name, const struct verb_options *options,
                                   struct verb_note *note, struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(note);
    return kelpie_vm_remove(NULL, name, options->force, err);
}

static int rm_run(const struct cli_table *table, struct option_words *words) {
    static const struct verb verb = {.apply = rm_apply,
                                     .wrong_state_hint = "'kelpie rm -f' ends a VM that runs"};
    ASSERT(table);
    ASSERT(words);
    return verb_run(&cli_rm, &verb, words);
}

/* ---- Options ---------------------------------------------------------------------------------- */

static const struct option_spec stop_specs[] = {
    {
        .short_name = 't',
        .name = "timeout",
        .value_name = "TIME",
        .help = "how long the guest may take: 500ms, 30s, 2m (10s)",
        .set = option_set_duration,
        .offset = offsetof(struct verb_options, timeout_ms),
    },
    {.include = &verb_option_table},
};
static const struct option_table stop_table = {stop_specs, ARRAY_SIZE(stop_specs)};

static const struct option_spec rm_specs[] = {
    {
        .short_name = 'f',
        .name = "force",
        .help = "end a VM that runs first",
        .set = option_set_flag,
        .offset = offsetof(struct verb_options, force),
    },
    {.include = &verb_option_table},
};
static const struct option_table rm_table = {rm_specs, ARRAY_SIZE(rm_specs)};

/* ---- Commands --------------------------------------------------------------------------------- */

#define VERB_NOTES                                                                                 \
    "A VM is named by its name, or by the beginning of its id. Several are worked on at once, "    \
    "and\n"                                                                                        \
    "told in the order of the words: each VM's name, or one line on standard error. The exit "     \
    "code\n"                                                                                       \
    "is 125 when any failed.\n"
#define VERB_JSON                                                                                  \
    "name   as it was given\n"                                                                     \
    "error  null, or an object with status, field, message and os_error\n"

const struct cli_command cli_start = {
    .name = "start",
    .summary = "Starts VMs that were created or have stopped",
    .synopsis = "[OPTIONS] VM...",
    .notes = "Returns when each guest runs commands.\n\n" VERB_NOTES,
    .options = &verb_option_table,
    .run = start_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
    .examples = "# create a VM of an image, and start it\nkelpie create --name web debian\nkelpie "
                "start web\n",
};

const struct cli_command cli_stop = {
    .name = "stop",
    .summary = "Stops VMs: the guest powers off, or is ended when it takes too long",
    .synopsis = "[OPTIONS] VM...",
    .notes = "A paused VM is ended without being asked. What a VM has on its own disk stays, and\n"
             "'kelpie start' starts it again.\n\n" VERB_NOTES,
    .options = &stop_table,
    .run = stop_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
};

const struct cli_command cli_kill = {
    .name = "kill",
    .summary = "Ends VMs at once, without asking their guests",
    .synopsis = "[OPTIONS] VM...",
    .notes =
        "As pulling the plug is: what a guest had not yet written to its disk is lost. The VM is\n"
        "stopped then, and may be started again.\n\n" VERB_NOTES,
    .options = &verb_option_table,
    .run = kill_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
};

const struct cli_command cli_restart = {
    .name = "restart",
    .summary = "Stops VMs that run, and starts them",
    .synopsis = "[OPTIONS] VM...",
    .notes = VERB_NOTES,
    .options = &stop_table,
    .run = restart_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
};

const struct cli_command cli_pause = {
    .name = "pause",
    .summary = "Freezes VMs in memory: nothing in them runs until they are resumed",
    .synopsis = "[OPTIONS] VM...",
    .notes =
        "Commands that run stay, and go on at the instruction where they were. Nothing is written\n"
        "to a disk; 'kelpie snapshot' does that.\n\n" VERB_NOTES,
    .options = &verb_option_table,
    .run = pause_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
};

const struct cli_command cli_resume = {
    .name = "resume",
    .summary = "Lets paused VMs go on; their clocks are set first",
    .synopsis = "[OPTIONS] VM...",
    .notes = VERB_NOTES,
    .options = &verb_option_table,
    .run = resume_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
};

const struct cli_command cli_rm = {
    .name = "rm",
    .summary = "Removes VMs with all that they have: log, disk. Snapshots stay",
    .synopsis = "[OPTIONS] VM...",
    .notes = VERB_NOTES,
    .options = &rm_table,
    .run = rm_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .rule = VERB_RULE,
    .json = VERB_JSON,
    .examples = "# remove every VM, whatever it does\nkelpie rm -f $(kelpie ls -a -q)\n",
};
