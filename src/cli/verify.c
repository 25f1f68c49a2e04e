/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie verify: whether a snapshot is whole. */
#include "base/assert.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "cli/vm_json.h"

static enum kelpie_status verify_apply(const char *name, const struct verb_options *options,
                                       struct verb_note *note, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_snapshot snapshot = {0};
    ASSERT(options);
    ASSERT(note);
    TRY(kelpie_snapshot_path(NULL, name, path, sizeof(path), err));
    TRY(kelpie_snapshot_inspect(path, &snapshot, err));
    TRY(kelpie_snapshot_verify(path, err));
    note->json = vm_json_snapshot(&snapshot);
    return KELPIE_OK;
}

static int verify_run(const struct cli_table *table, struct option_words *words) {
    static const struct verb verb = {.apply = verify_apply,
                                     .not_found_hint = "'kelpie snapshots' lists the snapshots"};
    ASSERT(table);
    ASSERT(words);
    return verb_run(&cli_verify, &verb, words);
}

const struct cli_command cli_verify = {
    .name = "verify",
    .summary = "Reads snapshots from end to end and checks every checksum",
    .synopsis = "[OPTIONS] SNAP...",
    .notes = "Of a diff, the parents too. A name with a '/' is a path. The names of those that are "
             "whole are\n"
             "printed; of one that is not, standard error says which part is damaged, and the exit "
             "code is 125.\n",
    .options = &verb_option_table,
    .run = verify_run,
    .group = CLI_GROUP_SNAPSHOTS,
    .operands = {CLI_OPERAND_SNAPSHOT},
    .operands_repeat = true,
    .rule = {1, CLI_OPERAND_COUNT_MAX, "a snapshot's name"},
    .json =
        "name   as it was given\n"
        "error  null, or an object with status, field (the damaged part), message and os_error\n"
        "id, parent_id, kind, backend, backend_version, architecture, quiesced, created_unix_ms, "
        "bytes\n"
        "       of one that is whole, as kelpie-snapshot(1) has them\n",
};
