/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie help [--json] [COMMAND] */
#include "base/assert.h"
#include "cli/cli.h"
#include "cli/output.h"

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

static int help_subcommand(const struct cli_command *command, const char *word) {
    const struct cli_command *subcommand = cli_find_subcommand(command, word);
    struct kelpie_error err;
    ASSERT(word);
    if (subcommand) {
        return cli_help_command(subcommand);
    }
    error_set(&err, KELPIE_BAD_CONFIG, "there is no command %s %.60s", command->name, word);
    output_error(NULL, &err);
    return CLI_EXIT_FAILED;
}

static int help_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct help_options options = {0};
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_help, words, &options, 2, &code)) {
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
    if (command && words->index + 1 < words->count) {
        return help_subcommand(command, words->words[words->index + 1]);
    }
    return command ? cli_help_command(command) : cli_unknown(table, name);
}

static const struct option_table help_table = {help_specs, ARRAY_SIZE(help_specs)};

const struct cli_command cli_help = {
    .name = "help",
    .summary = "Lists the commands, or explains one",
    .synopsis = "[--json] [COMMAND [SUBCOMMAND]]",
    .options = &help_table,
    .run = help_run,
    .group = CLI_GROUP_HOST,
    .operands = {CLI_OPERAND_COMMAND},
    .json = "version   of kelpie\n"
            "commands  and their subcommands (\"image build\"), each with name, alias, group, "
            "hidden, summary, synopsis, notes, json, "
            "examples and options, of "
            "which each has name, short, value and help\n",
};
