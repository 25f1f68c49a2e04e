/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * verb.h: one operation, applied to each of several VMs: what `kelpie stop web db` and its like have in common.
 *
 * THEORY OF OPERATION
 *
 * Up to CLI_VERB_THREADS_MAX VMs are worked on at once, since most of the time is waiting for guests. What came of each is
 * told in the order of the words: the VM's name on standard output, or one line on standard error that names it, and
 * the others are gone on with. The exit code is 125 when any failed. With --json it is one array instead, an object
 * for each, and the lines on standard error stay.
 *
 * A signal ends us and not the VM: its owner finishes what was asked of it.
 */
#ifndef KELPIE_CLI_VERB_H
#define KELPIE_CLI_VERB_H

#include <jansson.h>

#include "cli/cli.h"

/* Every verb's settings; each has options for some of them. */
struct verb_options {
    bool json;
    bool force;
    uint32_t timeout_ms;
};

#define VERB_TEXT_SIZE 64

/* What a verb may add to what is told of a VM that it succeeded on. */
struct verb_note {
    char text[VERB_TEXT_SIZE]; /* printed instead of the name, unless it is empty */
    json_t *json;              /* an object: its fields are added; NULL: none */
};

struct verb {
    enum kelpie_status (*apply)(const char *name, const struct verb_options *options,
                                struct verb_note *note, struct kelpie_error *err);
    const char *doing;            /* told of the VM that is waited for, on a terminal; or NULL */
    const char *wrong_state_hint; /* what to do about WRONG_STATE; or NULL */
    const char *not_found_hint;   /* about NOT_FOUND; NULL: how VMs are listed */
};

/* Parses the command line and applies the verb to the VMs that it names. Returns the exit code. */
int verb_run(const struct cli_command *command, const struct verb *verb,
             struct option_words *words);

/* How many words a verb's command takes. */
#define VERB_RULE                                                                                  \
    { 1, CLI_OPERAND_COUNT_MAX, "a VM's name" }

extern const struct option_table verb_option_table; /* --json */

/* A hint for whoever named a VM that is not there: the nearest that is, and how they are listed. */
void verb_hint_vms(const char *name);

/* "kelpie: web: message", with that hint when there is no such VM. */
void verb_say_error(const char *name, const struct kelpie_error *err);

#endif
