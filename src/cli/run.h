/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * run.h: one `kelpie run`, from its options to its exit code.
 *
 * THEORY OF OPERATION
 *
 * In the foreground the VM is of this process, and gone with it: the main thread brings it up (boot or restore), starts a
 * command or takes up the sessions of the bundle, lets talk.h move their bytes, writes a bundle, ends the VM. With
 * --detach the VM gets an owner of its own, which runs the command; we print its name and are done (run_detached.c).
 *
 * An image says what is run, where and as whom, as far as the options do not (run_image.c).
 */
#ifndef KELPIE_CLI_RUN_H
#define KELPIE_CLI_RUN_H

#include "cli/run_options.h"
#include "cli/run_report.h"
#include "cli/talk.h"
#include "kelpie_store.h"

struct run {
    const struct run_options *options;
    struct talk talk;
    struct run_report report;
    struct kelpie_image *image; /* ours; NULL: none */
    const char **argv;          /* ours: the image's words and the user's; NULL: the user's alone */
    struct option_list env;     /* of the command */
    char term[CLI_TERM_SIZE_MAX];
};

/* Runs what the options say, fills run->report and run->talk.outcome. `run` is zeroed but for options. */
void run_perform(struct run *run);
void run_deinit(struct run *run);

/* ---- run_image.c ------------------------------------------------------------------------------ */

/* Finds the image and puts the command's words together. Errors: NOT_FOUND; BAD_CONFIG (there is nothing to run). */
KELPIE_CHECKED enum kelpie_status run_image_load(struct run *run, struct kelpie_error *err);

/* The command: words, environment, folder, user, terminal. argv NULL: there is none. */
struct kelpie_command run_command(struct run *run);

/* The VM: what the options and the image say. Lives as long as `run`. */
struct kelpie_config run_config(const struct run *run);

/* ---- run_detached.c --------------------------------------------------------------------------- */

/* Makes a VM with an owner, starts the command in it and prints the VM's name. */
KELPIE_CHECKED enum kelpie_status run_detached(struct run *run, struct kelpie_error *err);

/* From here on signals cancel what waits on this VM. */
void run_publish_vm(struct run *run, struct kelpie_vm *vm);

#endif
