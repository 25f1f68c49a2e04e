/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie help --json: the tables of commands and options, for what makes the manual pages. */
#include <string.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/output.h"

static json_t *text_or_null(const char *text) {
    return text ? json_string(text) : json_null();
}

static json_t *json_of_option(const struct option_spec *spec) {
    ASSERT(spec);
    ASSERT(spec->name);
    const char letter[] = {spec->short_name, 0};
    return json_pack("{s:s, s:o, s:o, s:s}", "name", spec->name, "short",
                     spec->short_name ? json_string(letter) : json_null(), "value",
                     text_or_null(spec->value_name), "help", spec->help);
}

static json_t *json_of_command(const struct cli_command *command) {
    ASSERT(command);
    ASSERT(command->options);
    json_t *options = json_array();
    struct option_found found = options_at(command->options, 0);
    for (size_t i = 1; found.spec; i++) {
        json_array_append_new(options, json_of_option(found.spec));
        found = options_at(command->options, i);
    }
    return json_pack("{s:s, s:o, s:s, s:b, s:s, s:s, s:o, s:o, s:o, s:o}", "name", command->name,
                     "alias", text_or_null(command->alias), "group",
                     cli_group_title(command->group), "hidden", command->hidden, "summary",
                     command->summary, "synopsis", command->synopsis, "notes",
                     text_or_null(command->notes), "json", text_or_null(command->json), "examples",
                     text_or_null(command->examples), "options", options);
}

int cli_help_json(const struct cli_table *table) {
    ASSERT(table);
    ASSERT(table->count > 0);
    json_t *commands = json_array();
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *const *subcommands = table->commands[i]->subcommands;
        json_array_append_new(commands, json_of_command(table->commands[i]));
        for (size_t j = 0; subcommands && subcommands[j]; j++) {
            json_array_append_new(commands, json_of_command(subcommands[j]));
        }
    }
    return output_json(json_pack("{s:s, s:o}", "version", kelpie_version(), "commands", commands),
                       CLI_EXIT_OK);
}
