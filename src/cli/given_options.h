/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a VM is given as it starts: shared folders (-v) and secrets (--secret), for the commands that make one.
 *
 * A secret's bytes are read here, from a file or from a descriptor that we were started with, and are on no command line. They
 * are overwritten when the library has its copy of them (given_options_deinit()).
 */
#ifndef KELPIE_CLI_GIVEN_OPTIONS_H
#define KELPIE_CLI_GIVEN_OPTIONS_H

#include "cli/options.h"
#include "kelpie_store.h"

struct given_options {
    struct kelpie_share shares[KELPIE_SHARE_COUNT_MAX];
    char *share_texts[KELPIE_SHARE_COUNT_MAX]; /* ours: what paths and mounts point into */
    size_t share_count;
    struct kelpie_secret secrets[KELPIE_SECRET_COUNT_MAX];
    char *secret_names[KELPIE_SECRET_COUNT_MAX]; /* ours */
    void *secret_data[KELPIE_SECRET_COUNT_MAX];  /* ours; KELPIE_SECRET_BYTES_MAX of each */
    size_t secret_count;
};

option_setter given_add_share;  /* struct given_options: HOST:GUEST[:ro|:rw][:live|:copy] */
option_setter given_add_secret; /* struct given_options: NAME=PATH or NAME=fd:N */

/* Puts them into a config. They live as long as the options. */
void given_options_fill(const struct given_options *options, struct kelpie_config *config);
void given_options_deinit(struct given_options *options);

#endif
