/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The keys that let go of a session: found in what is typed, and kept from the command.
 *
 *     struct detach_match match = {.keys = keys};
 *     size_t size = detach_match_pass(&match, typed, typed_size, passed, &detached);
 *
 * A key that may be the first of them is held back until the next one decides.
 */
#ifndef KELPIE_CLI_DETACH_KEYS_H
#define KELPIE_CLI_DETACH_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "cli/cli_limits.h"
#include "cli/options.h"

#define DETACH_KEYS_DEFAULT "ctrl-p,ctrl-q"

struct detach_keys {
    char bytes[CLI_DETACH_KEY_COUNT_MAX];
    size_t count; /* 0: nothing lets go */
};

struct detach_match {
    struct detach_keys keys;
    size_t matched; /* keys that are held back */
};

/* Keys with commas between: `ctrl-` and one of a-z @ [ \ ] ^ _, or one character; or `none`. */
option_setter detach_keys_set; /* struct detach_keys */

/* ctrl-p,ctrl-q. */
struct detach_keys detach_keys_default(void);

/* Writes what of data[size] is the command's to out[size + CLI_DETACH_KEY_COUNT_MAX], and returns how many bytes that
 * are. *ret_detached: the keys came; what was typed behind them is dropped. */
size_t detach_match_pass(struct detach_match *match, const char *data, size_t size, char *out,
                         bool *ret_detached);

#endif
