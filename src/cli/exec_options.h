/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What `kelpie exec`, `shell` and `attach` are asked to do. */
#ifndef KELPIE_CLI_EXEC_OPTIONS_H
#define KELPIE_CLI_EXEC_OPTIONS_H

#include "cli/detach_keys.h"
#include "cli/options.h"
#include "cli/run_options.h"

struct exec_options {
    struct option_list env;
    const char *working_dir;
    struct run_user user;
    bool interactive;
    bool tty;
    bool detach;
    bool json;
    bool no_stdin;
    bool no_signals;
    uint32_t timeout_ms;
    struct detach_keys detach_keys;
    const char *vm;             /* name, or the beginning of an id */
    uint32_t exec_id;           /* attach: which session; 0: was not said */
    const char *const *command; /* exec: argv */
    char term[CLI_TERM_SIZE_MAX];
};

extern const struct option_table exec_option_table;
extern const struct option_table shell_option_table;
extern const struct option_table attach_option_table;

/* Takes the VM and what follows it from words->index on, and says whether everything fits together. */
KELPIE_CHECKED enum kelpie_status exec_options_complete(struct exec_options *options,
                                                        const struct option_words *words,
                                                        struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status shell_options_complete(struct exec_options *options,
                                                         const struct option_words *words,
                                                         struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status attach_options_complete(struct exec_options *options,
                                                          const struct option_words *words,
                                                          struct kelpie_error *err);

#endif
