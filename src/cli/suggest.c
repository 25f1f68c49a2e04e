/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/suggest.h"

#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

struct suggestion suggestion_init(const char *word, size_t size) {
    ASSERT(word);
    return (struct suggestion){.word = word, .word_size = size, .best_distance = SIZE_MAX};
}

/* How many letters must be put in, left out, replaced or swapped with their neighbour (optimal string
 * alignment). Both words are short. */
static size_t edit_distance(const char *a, size_t a_size, const char *b, size_t b_size) {
    ASSERT(a_size <= CLI_NAME_SIZE_MAX);
    ASSERT(b_size <= CLI_NAME_SIZE_MAX);
    size_t rows[3][CLI_NAME_SIZE_MAX + 1]; /* of the table: the current one and the two above it */
    for (size_t j = 0; j <= b_size; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= a_size; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i - 1) % 3];
        const size_t *above_two = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = min_size(replaced, min_size(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = min_size(row[j], above_two[j - 2] + 1);
            }
        }
    }
    return rows[a_size % 3][b_size];
}

void suggestion_offer(struct suggestion *suggestion, const char *candidate) {
    ASSERT(suggestion);
    ASSERT(candidate);
    size_t size = strlen(candidate);
    if (suggestion->word_size > CLI_NAME_SIZE_MAX || size > CLI_NAME_SIZE_MAX) {
        return;
    }
    size_t distance = edit_distance(suggestion->word, suggestion->word_size, candidate, size);
    /* A short word is near to everything: half of it must be right. */
    if (distance <= CLI_SUGGESTION_DISTANCE_MAX && 2 * distance <= size &&
        distance < suggestion->best_distance) {
        suggestion->best = candidate;
        suggestion->best_distance = distance;
    }
}
