/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated guest's sh: simple commands, ; newline && || &, quotes, variables, $((arithmetic)),
 * redirections to files, if and while. No pipes, functions, subshells or command substitution: those are
 * a syntax error, with status 2.
 *
 * THEORY OF OPERATION
 *
 * There is no syntax tree. The shell holds its script and the place of the next command in it; a step reads
 * one command there, expands its words and runs it: in the shell itself (mock_shell_builtin.c), or as a
 * child, for which it then waits. `if` and `while` are frames on a small stack: `done` goes back to where its loop's
 * condition begins, and a branch not taken is skipped by reading its commands without running them. So
 * everything a shell is, is a few numbers and strings, which a snapshot holds.
 *
 * On a terminal, without a script, it shows a prompt and runs line by line, and signals from the keyboard are not its own.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_SHELL_H
#define KELPIE_BACKEND_MOCK_MOCK_SHELL_H

#include "backend/mock/mock_process.h"

enum mock_shell_kind {
    MOCK_SHELL_IF = 0,
    MOCK_SHELL_WHILE,
    MOCK_SHELL_UNTIL,
    MOCK_SHELL_KIND_COUNT
};

struct mock_shell_frame {
    enum mock_shell_kind kind;
    size_t start; /* of the condition */
};

/* What stands behind a command. */
enum mock_shell_operator {
    MOCK_SHELL_THEN = 0, /* ; or newline */
    MOCK_SHELL_AND,
    MOCK_SHELL_OR,
    MOCK_SHELL_BACKGROUND,
    MOCK_SHELL_END,
    MOCK_SHELL_OPERATOR_COUNT
};

struct mock_shell {
    struct mock_bytes script; /* with a zero at its end */
    bool interactive;         /* sh [-l] on a terminal: each line is a script */
    bool prompted;            /* interactive: the prompt for this line was shown */
    bool ready;               /* the script is complete */
    size_t position;
    uint32_t status;               /* $? */
    uint32_t child;                /* slot that it waits for, or MOCK_PROCESS_NONE */
    bool replaced;                 /* `exec`: it ends as its child does */
    bool waits;                    /* `wait`: for every child in the background */
    enum mock_shell_operator last; /* behind the last command */
    uint32_t argument_index;       /* of $0 in argv */
    uint32_t background_pid;       /* $! */
    struct mock_strings variables; /* that are not exported */
    struct mock_shell_frame frames[MOCK_SHELL_DEPTH_MAX];
    uint32_t depth;
};

/* What always holds. */
void mock_shell_check(const struct mock_shell *shell);

struct mock_shell *mock_shell_create(struct host *host); /* NULL: no memory */
void mock_shell_destroy(struct mock_shell *shell);       /* NULL is allowed */

/* The program's step. */
bool mock_shell_step(struct mock_process *process);

/* ---- mock_shell_words.c: reading -------------------------------------------------------------- */

enum mock_shell_keyword {
    MOCK_KEYWORD_NONE = 0,
    MOCK_KEYWORD_IF,
    MOCK_KEYWORD_THEN,
    MOCK_KEYWORD_ELIF,
    MOCK_KEYWORD_ELSE,
    MOCK_KEYWORD_FI,
    MOCK_KEYWORD_WHILE,
    MOCK_KEYWORD_UNTIL,
    MOCK_KEYWORD_DO,
    MOCK_KEYWORD_DONE,
    MOCK_KEYWORD_COUNT
};

/* One simple command as it was read, expanded. */
struct mock_command {
    struct mock_strings assignments;
    struct mock_strings words;
    char *input_path;
    struct mock_target targets[MOCK_STREAM_COUNT];
    uint32_t truncates; /* bit: enum mock_stream, of targets that are files */
    enum mock_shell_operator behind;
    enum mock_shell_keyword keyword; /* not NONE: then nothing else is filled */
    const char *error;               /* NULL, or what is wrong */
};

/* Reads the command, or the keyword, at the shell's position, and moves behind it. */
void mock_shell_read(struct mock_process *process, struct mock_command *ret_command);
void mock_command_deinit(struct mock_command *command);

/* Expands the word at the position into fields; split: unquoted values are split at blanks. Returns
 * what is wrong, or NULL. */
const char *mock_shell_expand(struct mock_process *process, struct mock_strings *fields,
                              bool split);

/* ---- Between mock_shell.c and mock_shell_builtin.c --------------------------------------------------------------------- */

/* Runs the command if it is one of the shell's own. False: it is not. */
bool mock_shell_builtin(struct mock_process *process, const struct mock_command *command);

/* Starts the command's words as a child, and waits for it unless it is in the background. */
void mock_shell_run_child(struct mock_process *process, const struct mock_command *command);

/* Leaves the innermost loop, or goes on with its next round. False: the loop has no end. */
bool mock_shell_break(struct mock_process *process, bool go_on);

/* Takes assignments into the shell's variables, or into the environment where they are exported. */
void mock_shell_assign(struct mock_process *process, const char *variable);

#endif
