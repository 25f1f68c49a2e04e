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
    const char *const *command; /* argv; NULL: none was given */
};

extern const struct option_table run_option_table;

/* Whether the options fit together, and words->index at the command, which is taken. The options are
 * given back by run_options_deinit() whether or not this succeeds. */
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
