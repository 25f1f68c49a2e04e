/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The options that make a machine, which `kelpie create` and others have in common. */
#ifndef KELPIE_CLI_MACHINE_OPTIONS_H
#define KELPIE_CLI_MACHINE_OPTIONS_H

#include "cli/options.h"
#include "cli/run_options.h"
#include "kelpie_store.h"

struct machine_options {
    const char *backend;
    uint32_t cpus;
    uint32_t memory_mib;
    struct run_disks disks;
    struct run_network network;
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

/* Whether the options fit together; with an image, finds out what it says of the environment. Errors: BAD_CONFIG,
 * NOT_FOUND (no such image). */
KELPIE_CHECKED enum kelpie_status machine_options_complete(struct machine_options *options,
                                                           struct kelpie_error *err);

/* The config, but for its owner. Lives as long as the options. */
struct kelpie_config machine_options_config(const struct machine_options *options);
void machine_options_deinit(struct machine_options *options);

#endif
