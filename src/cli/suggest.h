/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The name that somebody probably meant: the nearest of those there are, by edit distance. */
#ifndef KELPIE_CLI_SUGGEST_H
#define KELPIE_CLI_SUGGEST_H

#include <stddef.h>

#include "cli/cli_limits.h"

struct suggestion {
    const char *word;
    size_t word_size;
    const char *best; /* NULL: nothing is near enough */
    size_t best_distance;
};

struct suggestion suggestion_init(const char *word, size_t size);
void suggestion_offer(struct suggestion *suggestion, const char *candidate);

#endif
