/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The options that make a machine, which `kelpie run` and `kelpie create` have in common. */
#ifndef KELPIE_CLI_MACHINE_OPTIONS_H
#define KELPIE_CLI_MACHINE_OPTIONS_H

#include "cli/given_options.h"
#include "cli/options.h"
#include "kelpie_store.h"

struct machine_disks {
    struct kelpie_disk disks[KELPIE_DISK_COUNT_MAX];
    char *texts[KELPIE_DISK_COUNT_MAX]; /* ours: what the paths and mounts point into */
    size_t count;
};

struct machine_network {
    struct kelpie_network network;
    struct kelpie_forward forwards[KELPIE_FORWARD_COUNT_MAX];
    size_t forward_count;
};

struct machine_options {
    const char *backend;
    const char *hypervisor;
    uint32_t cpus;
    uint32_t memory_mib;
    struct machine_disks disks;
    struct machine_network network;
    struct given_options given;
    const char *kernel;
    struct option_list env;
    const char *working_dir;
    const char *name;
    const char *hostname;
    const char *console;
    struct option_list labels;
    uint32_t disk_mib;
    bool cold;
    const char *image;       /* NULL: none; of the command's words, not of an option */
    const char **joined_env; /* ours: the image's and `env` */
};

extern const struct option_table machine_option_table;

/* Whether the options fit together. Errors: BAD_CONFIG. */
KELPIE_CHECKED enum kelpie_status machine_options_check(struct machine_options *options,
                                                        struct kelpie_error *err);

/* Puts the environment of the options beside the image's (`image` is not NULL). Errors: NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status machine_options_join_env(struct machine_options *options,
                                                           const struct kelpie_image *image,
                                                           struct kelpie_error *err);

/* The network that they ask for; NULL: none. Lives as long as the options. */
const struct kelpie_network *machine_options_network(const struct machine_options *options);

/* The config, but for its owner. Lives as long as the options. */
struct kelpie_config machine_options_config(const struct machine_options *options);
void machine_options_deinit(struct machine_options *options);

option_setter machine_add_disk; /* struct machine_disks: PATH[:ro|:rw][:/MOUNT] */
option_setter
    machine_set_network; /* struct machine_network: none, user, user,loopback or tap:NAME */
option_setter machine_add_forward; /* struct machine_network: HOST:GUEST[/tcp|/udp] */

#endif
