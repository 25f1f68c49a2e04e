/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie help [--json] [COMMAND] */
#include "base/assert.h"
#include "cli/cli.h"

struct help_options {
    bool json;
};

static const struct option_spec help_specs[] = {
    {
        .name = "json",
        .help = "print the tables of all commands and options as one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct help_options, json),
    },
};

static int help_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct help_options options = {0};
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_help, words, &options, 1, &code)) {
        return code;
    }
    if (options.json) {
        return cli_help_json(table);
    }
    if (words->index == words->count) {
        return cli_help_all(table);
    }
    const char *name = words->words[words->index];
    const struct cli_command *command = cli_find(table, name);
    return command ? cli_help_command(command) : cli_unknown(table, name);
}

static const struct option_table help_table = {help_specs, ARRAY_SIZE(help_specs)};

const struct cli_command cli_help = {
    .name = "help",
    .summary = "Lists the commands, or explains one",
    .synopsis = "[--json] [COMMAND]",
    .options = &help_table,
    .run = help_run,
    .group = CLI_GROUP_HOST,
    .operands = {CLI_OPERAND_COMMAND},
    .json = "version   of kelpie\n"
            "commands  each with name, alias, group, hidden, summary, synopsis, notes, json, "
            "examples and options, of "
            "which each has name, short, value and help\n",
};
