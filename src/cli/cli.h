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

/* Where `kelpie help` lists a command. */
enum cli_group {
    CLI_GROUP_COMMANDS = 0,
    CLI_GROUP_VMS,
    CLI_GROUP_SNAPSHOTS,
    CLI_GROUP_IMAGES,
    CLI_GROUP_HOST,
    CLI_GROUP_COUNT
};

/* What a word of a command is, for completion. */
enum cli_operand {
    CLI_OPERAND_NONE = 0,
    CLI_OPERAND_VM,
    CLI_OPERAND_IMAGE,
    CLI_OPERAND_SNAPSHOT,
    CLI_OPERAND_COPY, /* a file here, or VM:path */
    CLI_OPERAND_FILE,
    CLI_OPERAND_COMMAND, /* of ours */
    CLI_OPERAND_SHELL,   /* that completion knows */
    CLI_OPERAND_RM,      /* "rm" and then snapshots */
    CLI_OPERAND_COUNT
};

/* How many words a command takes. */
struct cli_operand_rule {
    size_t count_min;
    size_t count_max;
    const char *missing; /* what to call one that is not there, such as "a VM's name" */
};

struct cli_command {
    const char *name;
    const char *summary;  /* one line of `kelpie help` */
    const char *synopsis; /* what follows the name */
    const char *notes;    /* paragraphs below the options; or NULL */
    const struct option_table *options;
    int (*run)(const struct cli_table *table, struct option_words *words);
    const char *alias; /* another name; or NULL */
    const struct cli_command *const *
        subcommands; /* each with a name of two words, this one's first; NULL-terminated; or NULL */
    enum cli_group group;
    bool hidden; /* not for people: neither help nor completion lists it */
    enum cli_operand operands[CLI_OPERAND_KIND_MAX]; /* its words in their order */
    bool operands_repeat;                            /* the last of them may be given often */
    struct cli_operand_rule rule;                    /* of cli_parse_all() */
    const char *
        json; /* of its manual page: the fields that --json prints, one a line, "name  meaning"; or NULL */
    const char
        *examples; /* of its manual page: command lines, and `# why` lines before them; or NULL */
};

struct cli_table {
    const struct cli_command *const *commands;
    size_t count;
};

extern const struct cli_command cli_run;
extern const struct cli_command cli_exec;
extern const struct cli_command cli_shell;
extern const struct cli_command cli_attach;
extern const struct cli_command cli_doctor;
extern const struct cli_command cli_version;
extern const struct cli_command cli_help;
extern const struct cli_command cli_supervise; /* not shown */

/* VMs with an owner of their own. */
extern const struct cli_command cli_create;
extern const struct cli_command cli_start;
extern const struct cli_command cli_stop;
extern const struct cli_command cli_kill;
extern const struct cli_command cli_restart;
extern const struct cli_command cli_pause;
extern const struct cli_command cli_resume;
extern const struct cli_command cli_rm;
extern const struct cli_command cli_ls;
extern const struct cli_command cli_inspect;
extern const struct cli_command cli_logs;
extern const struct cli_command cli_cp;
extern const struct cli_command cli_stats;
extern const struct cli_command cli_wait;

extern const struct cli_command cli_snapshot;
extern const struct cli_command cli_restore;
extern const struct cli_command cli_snapshots;
extern const struct cli_command cli_fork;
extern const struct cli_command cli_verify;

extern const struct cli_command cli_prune;
extern const struct cli_command cli_completion;

/* The command of that name or alias, or NULL. */
const struct cli_command *cli_find(const struct cli_table *table, const char *name);

/* The command's own subcommand of that second word, or NULL. */
const struct cli_command *cli_find_subcommand(const struct cli_command *command, const char *word);

/* The second word of a subcommand's name. */
const char *cli_subcommand_word(const struct cli_command *subcommand);

/* Says that there is no such command, and the nearest that there is. Returns the exit code. */
int cli_unknown(const struct cli_table *table, const char *name);

/* Writes a command's help, or everything's, to standard output. Returns the exit code. */
int cli_help_command(const struct cli_command *command);
int cli_help_all(const struct cli_table *table);

/* All of the table as one JSON object: what manual pages are made of. Returns the exit code. */
int cli_help_json(const struct cli_table *table);

/* "Commands in VMs", …: how help calls a group. */
const char *cli_group_title(enum cli_group group);

/* Nanoseconds of the monotonic clock. */
uint64_t cli_clock_ns(void);

/* The whole of main() behind the command's own name: finds the command and runs it. */
int cli_main(const struct cli_table *table, struct option_words *words);

/*
 * Parses a command's options into `target`. True: go on. False: the command is over with *ret_code,
 * because help was asked for, or because the words were wrong, which was said. `operand_count_max`: how
 * many words may follow the options.
 */
bool cli_parse(const struct cli_command *command, struct option_words *words, void *target,
               size_t operand_count_max, int *ret_code);

/* The words of a command line that are no options. */
struct cli_operands {
    const char *words[CLI_OPERAND_COUNT_MAX];
    size_t count;
};

/* The same for a command whose options may stand behind its words too (up to `--`): `kelpie rm web -f`. How many words there
 * may be is the command's `rule`. */
bool cli_parse_all(const struct cli_command *command, struct option_words *words, void *target,
                   struct cli_operands *ret_operands, int *ret_code);

#endif
