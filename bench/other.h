/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Another of Kelpie's backends, measured in the same run as a pair (pair.h): with a monitor that others have made, which
 * an environment variable names. Without it nothing is measured, and that is said.
 */
#ifndef KELPIE_BENCH_OTHER_H
#define KELPIE_BENCH_OTHER_H

#include "pair.h"

struct other_spec {
    const char *backend;
    const char *variable; /* of the environment; where it is not set, the backend is left out */
    const char *install;  /* what to set it to */
    const char *boot;     /* the names of what is measured, which live as long as the report … */
    const char *restore;  /* … or NULL: it is not */
    const char *memory;
};

struct other {
    const struct other_spec *spec;
    bool used;
    char bundle[300];
    struct series *boot;
    struct series *restore;
    struct series *memory;
};

/* Looks for it. One that is named and does not work ends the program. */
void other_open(struct other *other, const struct other_spec *spec, struct pair *pair,
                struct report *report);

/* One run of each, if it is used. */
void other_run(struct other *other, struct pair *pair);

/* Says that it was left out, if it was; and removes what was saved. */
void other_close(struct other *other, struct pair *pair);

#endif
