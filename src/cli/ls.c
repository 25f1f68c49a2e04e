/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie ls: the VMs that have owners of their own. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/vm_json.h"

struct ls_options {
    bool all;
    bool quiet;
    bool json;
    const char *format;
    struct option_list labels;
};

#define OPTION(letter, long_name, value, setter, member, text)                                     \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct ls_options, member)                             \
    }

static const struct option_spec ls_specs[] = {
    OPTION('a', "all", NULL, option_set_flag, all, "those that do not run too"),
    OPTION('q', "quiet", NULL, option_set_flag, quiet, "print names only"),
    OPTION(0, "label", "KEY[=VALUE]", option_add_text, labels,
           "only those that have this label; may be repeated"),
    OPTION(0, "format", "TEXT", option_set_text, format,
           "print TEXT for each, with {name}, {state} and other fields of --json in it"),
    OPTION(0, "json", NULL, option_set_flag, json, "print one JSON array"),
};
static const struct option_table ls_table = {ls_specs, ARRAY_SIZE(ls_specs)};

/* ---- Which ------------------------------------------------------------------------------------ */

/* Whether "KEY=VALUE" lines have the line, or, for a wanted text without '=', the key. */
static bool has_label(const char *labels, const char *wanted) {
    ASSERT(labels);
    ASSERT(wanted);
    bool key_only = !strchr(wanted, '=');
    size_t wanted_size = strlen(wanted);
    while (*labels != 0) {
        size_t size = strcspn(labels, "\n");
        size_t compared = key_only ? strcspn(labels, "=\n") : size;
        if (compared == wanted_size && strncmp(labels, wanted, compared) == 0) {
            return true;
        }
        labels += labels[size] == '\n' ? size + 1 : size;
    }
    return false;
}

static bool is_wanted(const struct ls_options *options, const struct kelpie_vm_info *info) {
    ASSERT(options);
    ASSERT(info);
    bool runs = info->state == KELPIE_STATE_STARTING || info->state == KELPIE_STATE_RUNNING ||
                info->state == KELPIE_STATE_PAUSED;
    bool wanted = options->all || runs || info->status != KELPIE_OK; /* it may run */
    for (size_t i = 0; i < options->labels.count; i++) {
        wanted &= has_label(info->labels, options->labels.values[i]);
    }
    return wanted;
}

/* ---- How -------------------------------------------------------------------------------------- */

static const char *dashed(const char *text) {
    ASSERT(text);
    return text[0] != 0 ? text : "-";
}

/* "running", "stopped (3)": with the exit code of the detached command when it has ended. */
static void print_state(struct table *table, const struct kelpie_vm_info *info) {
    ASSERT(table);
    ASSERT(info);
    if (info->status != KELPIE_OK) {
        table_cell(table, "unreadable");
    } else if (info->command_known && info->command_ended) {
        table_cell(table, "%s (%d)", kelpie_state_name(info->state), info->command_exit.code);
    } else {
        table_cell(table, "%s", kelpie_state_name(info->state));
    }
}

static void print_machine(struct table *table, const struct kelpie_vm_info *info) {
    char age[HUMAN_SIZE];
    char memory[HUMAN_SIZE];
    bool known = info->status == KELPIE_OK;
    ASSERT(table);
    ASSERT(info->name[0] != 0);
    table_cell(table, "%s", dashed(info->backend));
    table_cell(table, "%s", dashed(info->image));
    table_cell(table, "%s", known ? human_age(info->created_unix_ms, age) : "-");
    if (known) {
        table_cell(table, "%u", info->vcpu_count);
    } else {
        table_cell(table, "-");
    }
    table_cell(table, "%s", known ? human_bytes((uint64_t)info->memory_mib << 20, memory) : "-");
}

/* What is wrong with a record stands in no column. */
static void warn_of_unreadable(const struct kelpie_vm_info *list, size_t count) {
    ASSERT(list || count == 0);
    ASSERT(count <= KELPIE_VM_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        if (list[i].status != KELPIE_OK) {
            output_hint("%s: %s; 'kelpie rm -f %s' removes it", list[i].name, list[i].reason,
                        list[i].name);
        }
    }
}

static void print_table(const struct ls_options *options, const struct kelpie_vm_info *list,
                        size_t count) {
    static const struct table_column columns[] = {
        {"NAME", 12, false}, {"STATE", 0, false}, {"BACKEND", 0, false}, {"IMAGE", 8, false},
        {"AGE", 0, true},    {"CPUS", 0, true},   {"MEMORY", 0, true},
    };
    ASSERT(options);
    struct table *table = table_create(columns, ARRAY_SIZE(columns));
    ASSERT(list || count == 0);
    if (!table) {
        (void)output_no_memory();
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct kelpie_vm_info *info = &list[i];
        if (is_wanted(options, info)) {
            table_cell(table, "%s", info->name);
            print_state(table, info);
            print_machine(table, info);
        }
    }
    table_print(table, stdout, table_terminal_width());
    table_destroy(table);
}

static json_t *json_of_list(const struct ls_options *options, const struct kelpie_vm_info *list,
                            size_t count) {
    ASSERT(options);
    ASSERT(list || count == 0);
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        if (is_wanted(options, &list[i])) {
            json_array_append_new(array, vm_json_info(&list[i]));
        }
    }
    return array;
}

/* A field of an info's JSON, as text. */
static void print_field(const json_t *value) {
    if (json_is_string(value)) {
        fputs(json_string_value(value), stdout);
    } else if (value && !json_is_null(value)) {
        ASSERT(!json_is_string(value));
        (void)json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    }
}

/* {name} is a field, {{ and }} are braces, and \t and \n what they are in C. Errors: BAD_CONFIG. */
static enum kelpie_status print_format(const char *format, const json_t *info,
                                       struct kelpie_error *err) {
    ASSERT(format);
    ASSERT(json_is_object(info));
    while (*format != 0) {
        size_t size = *format == '{' ? strcspn(format, "}") : 0;
        char name[CLI_NAME_SIZE_MAX];
        if ((format[0] == '{' || format[0] == '}') && format[1] == format[0]) {
            putchar(*format);
            format += 2;
        } else if (format[0] == '\\' && (format[1] == 't' || format[1] == 'n')) {
            putchar(format[1] == 't' ? '\t' : '\n');
            format += 2;
        } else if (*format != '{') {
            putchar(*format++);
        } else {
            snprintf(name, sizeof(name), "%.*s", (int)(size - 1), format + 1);
            const json_t *value = json_object_get(info, name);
            if (format[size] != '}' || !value) {
                return error_set_field(err, KELPIE_BAD_CONFIG, "--format",
                                       "--format: there is no field {%s}", name);
            }
            print_field(value);
            format += size + 1;
        }
    }
    putchar('\n');
    return KELPIE_OK;
}

static enum kelpie_status print_formatted(const struct ls_options *options,
                                          const struct kelpie_vm_info *list, size_t count,
                                          struct kelpie_error *err) {
    ASSERT(options->format);
    ASSERT(list || count == 0);
    enum kelpie_status status = KELPIE_OK;
    for (size_t i = 0; status == KELPIE_OK && i < count; i++) {
        if (is_wanted(options, &list[i])) {
            json_t *info = vm_json_info(&list[i]);
            status = info ? print_format(options->format, info, err)
                          : error_set(err, KELPIE_NO_MEMORY, "no memory");
            json_decref(info);
        }
    }
    return status;
}

static void print_names(const struct ls_options *options, const struct kelpie_vm_info *list,
                        size_t count) {
    ASSERT(options->quiet);
    ASSERT(list || count == 0);
    for (size_t i = 0; i < count; i++) {
        if (is_wanted(options, &list[i])) {
            puts(list[i].name);
        }
    }
}

static int ls_with(const struct ls_options *options) {
    struct kelpie_error err;
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    ASSERT(options);
    enum kelpie_status status = kelpie_vm_list(NULL, &list, &count, &err);
    ASSERT(list || count == 0);
    int code = CLI_EXIT_OK;
    if (status == KELPIE_OK && options->json) {
        code = output_json(json_of_list(options, list, count), CLI_EXIT_OK);
    } else if (status == KELPIE_OK && options->format) {
        status = print_formatted(options, list, count, &err);
    } else if (status == KELPIE_OK && options->quiet) {
        print_names(options, list, count);
    } else if (status == KELPIE_OK) {
        print_table(options, list, count);
        warn_of_unreadable(list, count);
    }
    kelpie_list_free(list);
    if (status != KELPIE_OK) {
        output_error(NULL, &err);
        return CLI_EXIT_FAILED;
    }
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static int ls_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    AUTO_MEM struct ls_options *options = calloc(1, sizeof(*options));
    if (!options) {
        return output_no_memory();
    }
    return cli_parse(&cli_ls, words, options, 0, &code) ? ls_with(options) : code;
}

const struct cli_command cli_ls = {
    .name = "ls",
    .alias = "ps",
    .summary = "Lists the VMs that run, or all of them",
    .synopsis = "[OPTIONS]",
    .notes = "Those of `kelpie run` without -d are not listed: they are gone with it. A number in "
             "brackets is\n"
             "the exit code of the VM's command. The table is cut to the terminal's width; what a "
             "pipe gets\n"
             "is whole.\n",
    .options = &ls_table,
    .run = ls_run,
    .group = CLI_GROUP_VMS,
    .json = VM_JSON_INFO_FIELDS,
    .examples = "kelpie ls -a --format '{name}\\t{state}'\n# which have ended with an error\n"
                "kelpie ls -a --json | jq -r '.[] | select(.command.exit.code > 0) | .name'\n",
};
