/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Runs a program as a user would: words, standard input, what came out, how it ended, what it left behind.
 *
 *     struct command_result result = command_run(&(struct command_spec){.argv = argv, .input = "a"});
 *     assert_int_equal(result.code, 0);
 *     command_result_free(&result);
 *
 * The program runs in an empty folder of its own, which is also where its temporary and runtime files go
 * (TMPDIR, XDG_RUNTIME_DIR). Whatever it leaves there but what the test asked for, and every process that
 * outlives it, is counted; not with a `home`, where VMs outlive commands. A program that takes longer than COMMAND_SECONDS_MAX is killed.
 */
#ifndef KELPIE_TESTS_SUPPORT_COMMAND_H
#define KELPIE_TESTS_SUPPORT_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define COMMAND_PATH_SIZE 256
#define COMMAND_SECONDS_MAX 120
#define COMMAND_OUTPUT_BYTES_MAX (64u << 20)

struct command_spec {
    const char *const *argv; /* argv[0] "kelpie": the one that was built with this test */
    const char *input;       /* to standard input; NULL: none, and it ends at once */
    size_t input_size;       /* 0: strlen(input) */
    bool input_open;         /* the input never ends */
    bool on_terminal;        /* 0, 1 and 2 are a terminal of 24 x 80 */
    const char *environment; /* one "KEY=VALUE" more; or NULL */
    const char
        *home; /* where kelpie keeps what several commands share; NULL: where the machine does */
};

struct command_result {
    int code;      /* exit code, or 128 + the signal that killed it */
    bool signaled; /* a signal killed it */
    char *out;     /* zero-terminated; on a terminal: all that was shown */
    size_t out_size;
    char *err;
    size_t err_size;
    unsigned milliseconds;
    unsigned processes_left; /* that outlived it */
    char files_left[256];    /* the name of a file that it left behind, or empty */
    bool modes_checked;      /* on a terminal: */
    unsigned modes;          /* its local modes (c_lflag) afterwards */
};

struct command; /* one that is running */

struct command *command_start(const struct command_spec *spec);
void command_signal(struct command *command, int number);
void command_type(struct command *command, const char *keys); /* on its terminal */
void command_resize(struct command *command, unsigned short rows, unsigned short columns);

/* Waits until standard output holds `text`; false when it ended or ten seconds passed without. */
bool command_await(struct command *command, const char *text);

/* Waits for its end and reads nothing meanwhile; false when it still runs after so long. */
bool command_await_end(struct command *command, unsigned milliseconds);

/* Closes our end of its standard output, as `head` does. */
void command_close_output(struct command *command);

/* The terminal's local modes (c_lflag), as they are now. */
unsigned command_terminal_modes(struct command *command);

/* The folder in which it runs. */
const char *command_folder(const struct command *command);

struct command_result command_finish(struct command *command);
struct command_result command_run(const struct command_spec *spec);
void command_result_free(struct command_result *result);

/* Whether the extended regular expression is found in the text; an invalid one ends the test program. */
bool command_matches(const char *text, const char *pattern);

/* A path in a scratch folder that is removed when the test program ends, written to `path`. */
const char *command_scratch(const char *name, char path[COMMAND_PATH_SIZE]);

#endif
