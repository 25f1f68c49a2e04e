/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie snapshot: a VM, written down under a name. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "cli/vm_json.h"

struct snapshot_options {
    enum kelpie_snapshot_kind kind;
    const char *parent;
    const char *workspace;
    uint32_t size_max_mib;
    uint32_t timeout_ms;
    bool track;
    bool json;
};

static option_setter set_kind;

static enum kelpie_status set_kind(void *field, const char *value, struct kelpie_error *err) {
    static const enum kelpie_snapshot_kind kinds[] = {
        KELPIE_SNAPSHOT_SUSPEND, KELPIE_SNAPSHOT_TELEPORT, KELPIE_SNAPSHOT_CHECKPOINT};
    static_assert(ARRAY_SIZE(kinds) == KELPIE_SNAPSHOT_KIND_COUNT, "each can be asked for");
    ASSERT(field);
    ASSERT(value);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (strcmp(value, vm_json_kind(kinds[i])) == 0) {
            *(enum kelpie_snapshot_kind *)field = kinds[i];
            return KELPIE_OK;
        }
    }
    return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\" is not suspend, teleport or checkpoint",
                     value);
}

#define OPTION(long_name, value, setter, member, config_field, text)                               \
    {                                                                                              \
        .name = (long_name), .value_name = (value), .help = (text), .set = (setter),               \
        .offset = offsetof(struct snapshot_options, member), .field = (config_field)               \
    }

static const struct option_spec snapshot_specs[] = {
    OPTION(
        "kind", "KIND", set_kind, kind, "kind",
        "suspend (for this host, the default), teleport (with every disk) or checkpoint (files)"),
    OPTION("workspace", "DIR", option_set_text, workspace, "workspace",
           "of a checkpoint: the guest's folder that is kept (the VM's working directory)"),
    OPTION("parent", "SNAP", option_set_text, parent, "parent",
           "a diff: only what was written since that snapshot"),
    OPTION("track", NULL, option_set_flag, track, NULL,
           "note from now on what is written, for diffs to this snapshot"),
    OPTION("size-max", "SIZE", option_set_memory, size_max_mib, "bytes_max",
           "fail if it would take more: 512M, 2G"),
    OPTION("timeout", "TIME", option_set_duration, timeout_ms, "timeout_ms",
           "give up after 30s, 2m (1m)"),
    OPTION("json", NULL, option_set_flag, json, NULL, "print one JSON object"),
};
static const struct option_table snapshot_table = {snapshot_specs, ARRAY_SIZE(snapshot_specs)};

/* Paths of the bundle and of its parent; empty: none. */
struct paths {
    char bundle[KELPIE_PATH_SIZE_MAX + 1];
    char parent[KELPIE_PATH_SIZE_MAX + 1];
};

static enum kelpie_status take(const char *vm_name, const char *name,
                               const struct snapshot_options *options,
                               struct kelpie_snapshot *ret_snapshot, struct kelpie_error *err) {
    ASSERT(vm_name);
    ASSERT(name);
    AUTO_MEM struct paths *paths = calloc(1, sizeof(*paths));
    if (!paths) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    TRY(kelpie_snapshot_path(NULL, name, paths->bundle, sizeof(paths->bundle), err));
    if (options->parent) {
        TRY(kelpie_snapshot_path(NULL, options->parent, paths->parent, sizeof(paths->parent), err));
    }
    struct kelpie_vm *vm = NULL;
    TRY(kelpie_vm_open(NULL, vm_name, &vm, err));
    struct kelpie_snapshot_options wanted = {
        .kind = options->kind,
        .bytes_max = (uint64_t)options->size_max_mib << 20,
        .timeout_ms = options->timeout_ms,
        .track = options->track,
        .parent = options->parent ? paths->parent : NULL,
        .workspace = options->workspace,
    };
    enum kelpie_status status = kelpie_vm_snapshot(vm, paths->bundle, &wanted, ret_snapshot, err);
    kelpie_vm_close(vm);
    return status;
}

static int tell(const char *name, const struct kelpie_snapshot *snapshot, bool json) {
    ASSERT(name);
    ASSERT(snapshot);
    if (json) {
        json_t *object = vm_json_snapshot(snapshot);
        if (object) {
            json_object_set_new(object, "name", json_string(name));
        }
        return output_json(object, CLI_EXIT_OK);
    }
    puts(name);
    return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

static int snapshot_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct snapshot_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_snapshot, words, &options, operands, &code)) {
        return code;
    }
    struct kelpie_error err;
    struct kelpie_snapshot snapshot = {0};
    const char *vm_name = operands->words[0];
    const char *name = operands->words[1];
    enum kelpie_status status = take(vm_name, name, &options, &snapshot, &err);
    if (status == KELPIE_OK) {
        return tell(name, &snapshot, options.json);
    }
    if (options_by_field(&snapshot_table, err.field)) {
        output_error(&snapshot_table, &err);
    } else {
        verb_say_error(vm_name, &err);
    }
    if (status == KELPIE_WRONG_STATE) {
        output_hint("a VM that runs or is paused can be written down: 'kelpie start' starts one");
    }
    return CLI_EXIT_FAILED;
}

const struct cli_command cli_snapshot = {
    .name = "snapshot",
    .summary =
        "Writes a VM down: memory, devices and disks, or the files of a folder, under a name",
    .synopsis = "[OPTIONS] VM SNAP",
    .notes =
        "A VM that runs stands still meanwhile and then goes on; one that is paused stays so. The "
        "snapshot\n"
        "is there whole or not at all. A name with a '/' is a path: the folder that is written.\n"
        "A checkpoint is the files of one folder, and can be restored on any backend and "
        "architecture.\n",
    .options = &snapshot_table,
    .run = snapshot_run,
    .group = CLI_GROUP_SNAPSHOTS,
    .operands = {CLI_OPERAND_VM, CLI_OPERAND_SNAPSHOT},
    .json = "name             as it was given\n"
            "id, parent_id    of the bundle, and of the one that it is a diff to or that its VM "
            "came from; or null\n"
            "kind             suspend, teleport or checkpoint\n"
            "backend, backend_version, architecture\n"
            "                 what it can be restored on\n"
            "quiesced         user code stood still in the guest\n"
            "created_unix_ms  when\n"
            "bytes            on disk\n",
    .examples = "kelpie snapshot web before-upgrade\nkelpie restore -f before-upgrade web\n"
                "kelpie snapshot --kind checkpoint --workspace /job web files\n",
    .rule = {2, 2, "a VM's name, or the snapshot's,"},
};
