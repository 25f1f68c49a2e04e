/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie help [COMMAND] */
#include "base/assert.h"
#include "cli/cli.h"

static int help_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_help, words, NULL, 1, &code)) {
        return code;
    }
    if (words->index == words->count) {
        return cli_help_all(table);
    }
    const char *name = words->words[words->index];
    const struct cli_command *command = cli_find(table, name);
    return command ? cli_help_command(command) : cli_unknown(table, name);
}

static const struct option_table help_table = {NULL, 0};

const struct cli_command cli_help = {
    .name = "help",
    .summary = "Lists the commands, or explains one",
    .synopsis = "[COMMAND]",
    .options = &help_table,
    .run = help_run,
};
