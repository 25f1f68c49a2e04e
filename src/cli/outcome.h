/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* How it went with a command in a guest: the exit code, and what --json tells of it. */
#ifndef KELPIE_CLI_OUTCOME_H
#define KELPIE_CLI_OUTCOME_H

#include <jansson.h>

#include "cli/cli_limits.h"
#include "cli/options.h"
#include "kelpie.h"

/* One stream's bytes, kept for --json; the rest is counted and dropped. */
struct outcome_collected {
    char *data;
    size_t size;
    size_t capacity;
    bool truncated;
};

struct outcome {
    /* How it ended. The first of these that is true decides the exit code. */
    bool reader_gone;        /* nobody reads our output any more */
    int signal;              /* we were told to end by this one; 0: we were not */
    struct kelpie_error err; /* status OK: nothing went wrong on our side */
    bool ended;              /* the command did, like this: */
    struct kelpie_exit exit;

    bool let_go; /* the command goes on without us */
    struct outcome_collected stdout_bytes;
    struct outcome_collected stderr_bytes;
    uint64_t exec_ns; /* how long the commands ran; 0: none */
};

int outcome_exit_code(const struct outcome *outcome);

/* Says on standard error what went wrong, in one line; nothing if nothing did, or if we were told to end. `table` as in
 * output_error(); timeout_ms: the command's. */
void outcome_say(const struct outcome *outcome, const struct option_table *table,
                 uint32_t timeout_ms);

/* Puts exit_code, signal, timed_out, stdout, stderr and error into the object. False: no memory. */
bool outcome_json(const struct outcome *outcome, json_t *object);

/* Nanoseconds as milliseconds; 0, which is "never", as null. */
json_t *outcome_json_ms(uint64_t ns);

KELPIE_CHECKED enum kelpie_status outcome_collect(struct outcome_collected *collected,
                                                  const void *data, size_t size,
                                                  struct kelpie_error *err);

void outcome_deinit(struct outcome *outcome);

#endif
