/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * minimise.h: the few numbers of a set that matter. Pure.
 *
 * THEORY OF OPERATION
 *
 * Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002). The set is cut into
 * chunks. When one chunk alone still fails, or all chunks but one do, the search goes on with those; then the chunks get
 * half as large, until each is a single number. Then no number can be left out alone: the set is 1-minimal. A failure
 * that needs all of a few numbers is found in about twice their count times the logarithm of the set's size; the worst case
 * is quadratic, so there is a bound on the trials. What was found until then is given back: it fails, it may not be minimal.
 */
#ifndef KELPIE_SIM_RUN_MINIMISE_H
#define KELPIE_SIM_RUN_MINIMISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MINIMISE_COUNT_MAX 4096 /* numbers in a set */

enum minimise_verdict {
    MINIMISE_PASSES = 0,
    MINIMISE_FAILS,
    MINIMISE_STOP, /* the caller has no patience left: no more trials */
};

struct minimise {
    /* Does it fail with these alone? They are in the order that they were given in. */
    enum minimise_verdict (*test)(void *context, const uint32_t *kept, size_t count);
    void *context;
    size_t trial_count_max;
    size_t trial_count; /* so far; the caller may go on with it from set to set */
    bool stopped;       /* at the bound, or by the caller: the set may not be minimal */
};

/* Makes the set small in place and returns its new count. The whole set fails: that is not tried. */
size_t minimise_set(struct minimise *minimise, uint32_t *set, size_t count);

#endif
