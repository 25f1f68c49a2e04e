/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What `kelpie run` is asked to do. */
#ifndef KELPIE_CLI_RUN_OPTIONS_H
#define KELPIE_CLI_RUN_OPTIONS_H

#include "cli/machine_options.h"

struct run_user {
    uint32_t uid;
    uint32_t gid;
    bool given;
};

struct run_options {
    struct machine_options machine;
    bool interactive;
    bool tty;
    uint32_t timeout_ms;
    const char *snapshot;
    uint32_t snapshot_after_ms; /* 0: when the command has ended */
    const char *from;
    struct run_user user;
    bool allow_incomplete;
    bool verify;
    bool json;
    bool detach;
    bool remove;
    const char *const *command; /* argv; NULL: none was given */
};

extern const struct option_table run_option_table;

/*
 * Takes image and command from words->index on, and says whether everything fits together. The options are given back by
 * run_options_deinit() whether or not this succeeds.
 *
 * What stands before `--` is an image, what stands behind it a command. So a word alone is an image, and several words
 * without a `--` are a mistake, unless a bundle (--from) leaves no place for an image: then they are a command.
 */
KELPIE_CHECKED enum kelpie_status run_options_complete(struct run_options *options,
                                                       const struct option_words *words,
                                                       struct kelpie_error *err);
void run_options_deinit(struct run_options *options);

option_setter run_set_user; /* struct run_user: UID[:GID] */

#endif
