/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What `kelpie run` is asked to do. */
#ifndef KELPIE_CLI_RUN_OPTIONS_H
#define KELPIE_CLI_RUN_OPTIONS_H

#include "cli/options.h"
#include "kelpie.h"

struct run_disks {
    struct kelpie_disk disks[KELPIE_DISK_COUNT_MAX];
    char *texts[KELPIE_DISK_COUNT_MAX]; /* ours: what the paths and mounts point into */
    size_t count;
};

struct run_user {
    uint32_t uid;
    uint32_t gid;
    bool given;
};

struct run_network {
    struct kelpie_network network;
    struct kelpie_forward forwards[KELPIE_FORWARD_COUNT_MAX];
    size_t forward_count;
};

struct run_options {
    const char *backend;
    uint32_t cpus;
    uint32_t memory_mib;
    struct run_disks disks;
    struct run_network network;
    const char *kernel;
    struct option_list env;
    const char *working_dir;
    bool interactive;
    bool tty;
    uint32_t timeout_ms;
    const char *snapshot;
    uint32_t snapshot_after_ms; /* 0: when the command has ended */
    const char *from;
    const char *name;
    const char *hostname;
    struct run_user user;
    const char *console;
    bool allow_incomplete;
    bool verify;
    bool json;
    bool detach;
    bool remove;
    bool cold;
    struct option_list labels;
    uint32_t disk_mib;
    const char *image;          /* NULL: none */
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
/* The network that they ask for; NULL: none was asked for. Lives as long as the options. */
const struct kelpie_network *run_options_network(const struct run_options *options);
void run_options_deinit(struct run_options *options);

option_setter run_add_disk;    /* struct run_disks: PATH[:ro|:rw][:/MOUNT] */
option_setter run_set_network; /* struct run_network: none, user, user,loopback or tap:NAME */
option_setter run_add_forward; /* struct run_network: HOST:GUEST[/tcp|/udp] */
option_setter run_set_user;    /* struct run_user: UID[:GID] */

#endif
