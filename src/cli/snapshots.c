/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie snapshots: lists snapshots, and removes them. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/vm_json.h"

struct snapshots_options {
    bool quiet;
    bool json;
};

static const struct option_spec snapshots_specs[] = {
    {
        .short_name = 'q',
        .name = "quiet",
        .help = "print names only",
        .set = option_set_flag,
        .offset = offsetof(struct snapshots_options, quiet),
    },
    {
        .name = "json",
        .help = "print one JSON array",
        .set = option_set_flag,
        .offset = offsetof(struct snapshots_options, json),
    },
};
static const struct option_table snapshots_table = {snapshots_specs, ARRAY_SIZE(snapshots_specs)};

static json_t *json_of_info(const struct kelpie_snapshot_info *info) {
    ASSERT(info);
    ASSERT((unsigned)info->status < KELPIE_STATUS_COUNT);
    json_t *object = vm_json_snapshot(&info->snapshot);
    if (object) {
        json_object_set_new(object, "name", json_string(info->name));
        json_object_set_new(object, "vm_name",
                            info->vm_name[0] != 0 ? json_string(info->vm_name) : json_null());
        json_object_set_new(object, "status", json_string(kelpie_status_name(info->status)));
    }
    return object;
}

static int print_json(const struct kelpie_snapshot_info *list, size_t count) {
    ASSERT(list || count == 0);
    json_t *array = json_array();
    ASSERT(count <= KELPIE_SNAPSHOT_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(array, json_of_info(&list[i]));
    }
    return output_json(array, CLI_EXIT_OK);
}

static const char *dashed(const char *text) {
    ASSERT(text);
    return text[0] != 0 ? text : "-";
}

static void print_table(const struct kelpie_snapshot_info *list, size_t count) {
    static const struct table_column columns[] = {
        {"NAME", 12, false},  {"VM", 8, false}, {"KIND", 0, false}, {"BACKEND", 0, false},
        {"PARENT", 8, false}, {"AGE", 0, true}, {"SIZE", 0, true},  {"STATUS", 0, false},
    };
    ASSERT(list || count == 0);
    struct table *table = table_create(columns, ARRAY_SIZE(columns));
    if (!table) {
        (void)output_no_memory();
        return;
    }
    ASSERT(count <= KELPIE_SNAPSHOT_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct kelpie_snapshot_info *info = &list[i];
        bool usable = info->status == KELPIE_OK;
        char text[HUMAN_SIZE];
        table_cell(table, "%s", info->name);
        table_cell(table, "%s", dashed(info->vm_name));
        table_cell(table, "%s", usable ? vm_json_kind(info->snapshot.kind) : "-");
        table_cell(table, "%s", dashed(info->snapshot.backend));
        table_cell(table, "%.12s", dashed(info->snapshot.parent_id));
        table_cell(table, "%s", human_age(info->snapshot.created_unix_ms, text));
        table_cell(table, "%s", human_bytes(info->snapshot.bytes, text));
        table_cell(table, "%s", usable ? "ok" : kelpie_status_name(info->status));
    }
    table_print(table, stdout, table_terminal_width());
    table_destroy(table);
}

static int list_snapshots(const struct snapshots_options *options) {
    struct kelpie_error err;
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    ASSERT(options);
    if (kelpie_snapshot_list(NULL, &list, &count, &err) != KELPIE_OK) {
        output_error(NULL, &err);
        return CLI_EXIT_FAILED;
    }
    ASSERT(list || count == 0);
    int code = CLI_EXIT_OK;
    if (options->json) {
        code = print_json(list, count);
    } else if (options->quiet) {
        for (size_t i = 0; i < count; i++) {
            puts(list[i].name);
        }
    } else {
        print_table(list, count);
    }
    kelpie_list_free(list);
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

/* kelpie snapshots rm SNAP... */
static int remove_snapshots(const char *const *names, size_t count) {
    int code = CLI_EXIT_OK;
    ASSERT(names);
    ASSERT(count > 0);
    for (size_t i = 0; i < count; i++) {
        struct kelpie_error err;
        if (kelpie_snapshot_remove(NULL, names[i], &err) == KELPIE_OK) {
            puts(names[i]);
            continue;
        }
        code = CLI_EXIT_FAILED;
        output_error(NULL, &err);
        if (err.status == KELPIE_NOT_FOUND) {
            output_hint("'kelpie snapshots' lists the snapshots");
        }
    }
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static int refuse(const char *message, const char *word) {
    ASSERT(message);
    ASSERT(word);
    struct kelpie_error err;
    error_set(&err, KELPIE_BAD_CONFIG, "%s%.60s", message, word);
    output_error(NULL, &err);
    output_hint("'kelpie snapshots --help' lists the options");
    return CLI_EXIT_FAILED;
}

static int snapshots_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct snapshots_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_snapshots, words, &options, operands, &code)) {
        return code;
    }
    if (operands->count == 0) {
        return list_snapshots(&options);
    }
    if (strcmp(operands->words[0], "rm") != 0) {
        return refuse("\"rm\" is the only word that can stand here, not ", operands->words[0]);
    }
    if (operands->count == 1) {
        return refuse("a snapshot's name is missing: kelpie snapshots rm SNAP...", "");
    }
    if (options.json || options.quiet) {
        return refuse("options are for the list, not for ", "rm");
    }
    return remove_snapshots(operands->words + 1, operands->count - 1);
}

const struct cli_command cli_snapshots = {
    .name = "snapshots",
    .summary = "Lists the snapshots, or removes some",
    .synopsis = "[OPTIONS] | rm SNAP...",
    .notes = "A snapshot that another is a diff to cannot be removed before that. STATUS says why "
             "one cannot be\n"
             "used; 'kelpie verify' reads all of it.\n",
    .options = &snapshots_table,
    .run = snapshots_run,
    .group = CLI_GROUP_SNAPSHOTS,
    .operands = {CLI_OPERAND_RM},
    .operands_repeat = true,
    .json = "name, vm_name    of the snapshot, and of the VM that it was made of, or null\n"
            "status           ok, or why it cannot be used, such as snapshot-corrupt\n"
            "id, parent_id, kind, backend, backend_version, architecture, quiesced, "
            "created_unix_ms, bytes\n"
            "                 as kelpie-snapshot(1) has them\n",
    .rule = {0, CLI_OPERAND_COUNT_MAX, NULL},
};
