/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * completion.h: what shells complete, written from the tables of commands and options.
 *
 * THEORY OF OPERATION
 *
 * A script is printed once and sourced by the shell. Names of commands and options stand in it; names of VMs, images and
 * snapshots are asked of kelpie itself when somebody presses Tab, by the command line that completion_list() gives. What a word
 * is comes from the command's `operands`, what an option's value is from its name and its value's name
 * (completion_of_value). Where a script finds kelpie is its business: it calls it by the name that was typed.
 */
#ifndef KELPIE_CLI_COMPLETION_H
#define KELPIE_CLI_COMPLETION_H

#include <stdio.h>

#include "cli/cli.h"

/* What an option's value can be completed to. */
struct completion_value {
    bool taken;               /* the option takes a value */
    enum cli_operand operand; /* VM, IMAGE, SNAPSHOT, FILE or NONE */
    char words[256];          /* or one of these, separated by spaces; or empty */
};

struct completion_value completion_of_value(const struct option_spec *spec);

/* The words behind `kelpie` that list names of that kind; NULL: there are none, such as for files. */
const char *completion_list(enum cli_operand operand);

/* Calls it for each command and subcommand that is for people. */
typedef void completion_writer(const struct cli_table *table, const struct cli_command *command,
                               FILE *stream);
void completion_each(const struct cli_table *table, completion_writer *write, FILE *stream);

void completion_bash(const struct cli_table *table, FILE *stream);
void completion_zsh(const struct cli_table *table, FILE *stream);
void completion_fish(const struct cli_table *table, FILE *stream);

#endif
