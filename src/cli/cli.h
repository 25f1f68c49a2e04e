/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * cli.h: what a command of `kelpie` is. main.c holds the table of them; each has a file of its own.
 *
 * THEORY OF OPERATION
 *
 * A command is a row: a name, a summary, a table of options, and a function that returns the exit code.
 * The table of options is both the parser's and the help's, so that the two never differ. The command
 * line is a `struct option_words`, which a command reads from where main.c left it.
 */
#ifndef KELPIE_CLI_CLI_H
#define KELPIE_CLI_CLI_H

#include "cli/cli_limits.h"
#include "cli/options.h"

enum cli_exit {
    CLI_EXIT_OK = 0,
    CLI_EXIT_NOT_USABLE = 1, /* doctor: no backend can run a guest here */
    CLI_EXIT_TIMED_OUT = 124,
    CLI_EXIT_FAILED = 125, /* ours, a wrong command line included */
    CLI_EXIT_NOT_EXECUTABLE = 126,
    CLI_EXIT_NOT_FOUND = 127,
    CLI_EXIT_SIGNAL = 128, /* and the signal's number */
};

struct cli_table;

struct cli_command {
    const char *name;
    const char *summary;  /* one line of `kelpie help` */
    const char *synopsis; /* what follows the name */
    const char *notes;    /* paragraphs below the options; or NULL */
    const struct option_table *options;
    int (*run)(const struct cli_table *table, struct option_words *words);
};

struct cli_table {
    const struct cli_command *const *commands;
    size_t count;
};

extern const struct cli_command cli_run;
extern const struct cli_command cli_doctor;
extern const struct cli_command cli_version;
extern const struct cli_command cli_help;
extern const struct cli_command cli_supervise; /* not shown */

/* The command of that name, or NULL. */
const struct cli_command *cli_find(const struct cli_table *table, const char *name);

/* Says that there is no such command, and the nearest that there is. Returns the exit code. */
int cli_unknown(const struct cli_table *table, const char *name);

/* Writes a command's help, or everything's, to standard output. Returns the exit code. */
int cli_help_command(const struct cli_command *command);
int cli_help_all(const struct cli_table *table);

/* The whole of main() behind the command's own name: finds the command and runs it. */
int cli_main(const struct cli_table *table, struct option_words *words);

/*
 * Parses a command's options into `target`. True: go on. False: the command is over with *ret_code,
 * because help was asked for, or because the words were wrong, which was said. `operand_count_max`: how
 * many words may follow the options.
 */
bool cli_parse(const struct cli_command *command, struct option_words *words, void *target,
               size_t operand_count_max, int *ret_code);

#endif
