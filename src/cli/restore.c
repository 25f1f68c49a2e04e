/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie restore: a VM of a snapshot, new or in place of what an existing one was. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/names.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/verb.h"
#include "cli/vm_json.h"

struct restore_options {
    bool force;
    bool paused;
    bool verify;
    bool allow_incomplete;
    bool track;
    uint32_t timeout_ms;
    const char *backend;
    const char *hypervisor;
    struct option_list labels;
    bool json;
};

#define OPTION(letter, long_name, value, setter, member, text)                                     \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct restore_options, member)                        \
    }

static const struct option_spec restore_specs[] = {
    OPTION('f', "force", NULL, option_set_flag, force, "stop an existing VM that runs first"),
    OPTION(0, "paused", NULL, option_set_flag, paused, "leave it paused"),
    OPTION(0, "verify", NULL, option_set_flag, verify, "check checksums of memory and disks too"),
    OPTION(0, "allow-incomplete", NULL, option_set_flag, allow_incomplete,
           "go on although something could not be made fresh"),
    OPTION(0, "track", NULL, option_set_flag, track,
           "note from now on what is written, for diffs to this snapshot"),
    OPTION(0, "timeout", "TIME", option_set_duration, timeout_ms, "give up after 30s, 2m (1m)"),
    OPTION(0, "backend", "NAME", option_set_text, backend,
           "which hypervisor a new VM has; another than the snapshot's only for a checkpoint"),
    OPTION(0, "hypervisor", "FILE", option_set_text, hypervisor,
           "its program (qemu, firecracker) or library (libkrun)"),
    OPTION(0, "label", "KEY=VALUE", option_add_text, labels,
           "a label of a new VM; may be repeated"),
    OPTION(0, "json", NULL, option_set_flag, json, "print one JSON object"),
};
static const struct option_table restore_table = {restore_specs, ARRAY_SIZE(restore_specs)};

struct restoring {
    const struct restore_options *options;
    struct kelpie_restore_options how;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_vm *vm;
};

static enum kelpie_status restore_new(void *context, const char *name, struct kelpie_error *err) {
    struct restoring *restoring = context;
    ASSERT(!restoring->vm);
    ASSERT(name);
    const struct option_list *labels = &restoring->options->labels;
    struct kelpie_owner owner = {.labels = labels->count > 0 ? labels->values : NULL};
    struct kelpie_config config = {.name = name,
                                   .backend = restoring->options->backend,
                                   .hypervisor = restoring->options->hypervisor,
                                   .owner = &owner};
    return kelpie_vm_create_from_snapshot(restoring->path, &config, &restoring->how, &restoring->vm,
                                          err);
}

/* The VM becomes what the snapshot says; what it was is gone. */
static enum kelpie_status restore_in_place(struct restoring *restoring, struct kelpie_error *err) {
    struct kelpie_vm *vm = restoring->vm;
    ASSERT(vm);
    ASSERT(restoring->path[0] != 0);
    enum kelpie_state state = kelpie_vm_state(vm);
    bool runs = state == KELPIE_STATE_STARTING || state == KELPIE_STATE_RUNNING ||
                state == KELPIE_STATE_PAUSED;
    if (runs && restoring->options->force) {
        /* Nothing of it is kept: there is nothing to wait for. */
        TRY(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err));
    }
    return kelpie_vm_restore(vm, restoring->path, &restoring->how, err);
}

/* A VM that there is has its hypervisor. */
static enum kelpie_status check_in_place(const struct restore_options *options,
                                         struct kelpie_error *err) {
    const char *option = options->backend      ? "--backend"
                         : options->hypervisor ? "--hypervisor"
                                               : NULL;
    ASSERT(options);
    return option ? error_set_field(err, KELPIE_BAD_CONFIG, option,
                                    "%s: it is for a new VM, and there is one of this name", option)
                  : KELPIE_OK;
}

static enum kelpie_status restore_as(struct restoring *restoring, const char *name,
                                     struct kelpie_error *err) {
    ASSERT(restoring->path[0] != 0);
    if (name) {
        ASSERT(name[0] != 0);
        enum kelpie_status status = kelpie_vm_open(NULL, name, &restoring->vm, err);
        if (status != KELPIE_NOT_FOUND) {
            TRY(status);
            TRY(check_in_place(restoring->options, err));
            return restore_in_place(restoring, err);
        }
    }
    return names_try(name, restore_new, restoring, err);
}

static int tell(struct kelpie_vm *vm, bool json) {
    ASSERT(vm);
    const char *name = kelpie_vm_config(vm)->name;
    ASSERT(name);
    if (json) {
        struct kelpie_restore_report report = {0};
        bool known = kelpie_vm_restore_report(vm, &report, NULL) == KELPIE_OK;
        return output_json(json_pack("{s:s, s:s, s:s, s:o}", "id", kelpie_vm_id(vm), "name", name,
                                     "state", kelpie_state_name(kelpie_vm_state(vm)), "restore",
                                     vm_json_or_null(known, vm_json_restore_report(&report))),
                           CLI_EXIT_OK);
    }
    puts(name);
    return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

static int restore_with(const struct restore_options *options, const char *snapshot,
                        const char *name) {
    struct kelpie_error err;
    ASSERT(options);
    ASSERT(snapshot);
    AUTO_MEM struct restoring *restoring = calloc(1, sizeof(*restoring));
    if (!restoring) {
        return output_no_memory();
    }
    *restoring = (struct restoring){
        .options = options,
        .how = {.paused = options->paused,
                .allow_incomplete = options->allow_incomplete,
                .verify_memory = options->verify,
                .track = options->track,
                .timeout_ms = options->timeout_ms},
    };
    struct progress progress;
    progress_init(&progress, !options->json);
    progress_show(&progress, "restoring %s", snapshot);
    enum kelpie_status status =
        kelpie_snapshot_path(NULL, snapshot, restoring->path, sizeof(restoring->path), &err);
    if (status == KELPIE_OK) {
        status = restore_as(restoring, name, &err);
    }
    progress_clear(&progress);
    progress_deinit(&progress);
    int code = CLI_EXIT_FAILED;
    if (status == KELPIE_OK) {
        code = tell(restoring->vm, options->json);
    } else {
        output_error(&restore_table, &err);
        if (status == KELPIE_NOT_FOUND) {
            output_hint("'kelpie snapshots' lists the snapshots");
        } else if (status == KELPIE_WRONG_STATE) {
            output_hint("'kelpie restore -f' stops a VM that runs first");
        }
    }
    kelpie_vm_close(restoring->vm);
    return code;
}

static int restore_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    AUTO_MEM struct restore_options *options = calloc(1, sizeof(*options));
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!options || !operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_restore, words, options, operands, &code)) {
        return code;
    }
    return restore_with(options, operands->words[0],
                        operands->count > 1 ? operands->words[1] : NULL);
}

const struct cli_command cli_restore = {
    .name = "restore",
    .summary = "Makes a VM of a snapshot, which goes on where it was, and prints its name",
    .synopsis = "[OPTIONS] SNAP [VM]",
    .notes = "The name of a VM that is there and does not run: that VM becomes what the snapshot "
             "says. Any other\n"
             "name, or none: a new VM. Clock, random numbers, host name, machine id and network "
             "address are made\n"
             "fresh before anything in it runs; when that fails the restore does.\n",
    .options = &restore_table,
    .run = restore_run,
    .group = CLI_GROUP_SNAPSHOTS,
    .operands = {CLI_OPERAND_SNAPSHOT, CLI_OPERAND_VM},
    .json = "id, name  of the VM\n"
            "state     running or paused\n"
            "restore   null, or the report: entropy, generation, clock, network, hostname, "
            "machine_id, each done, "
            "failed, unsupported or pending, and clock_skew_ns\n",
    .rule = {1, 2, "a snapshot's name"},
};
