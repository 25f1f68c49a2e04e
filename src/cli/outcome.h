/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* How a run went: the exit code, and the object that --json prints. */
#ifndef KELPIE_CLI_RUN_REPORT_H
#define KELPIE_CLI_RUN_REPORT_H

#include <jansson.h>

#include "cli/options.h"
#include "kelpie.h"

/* One stream's bytes, kept for --json; the rest is counted and dropped. */
struct run_collected {
    char *data;
    size_t size;
    size_t capacity;
    bool truncated;
};

struct run_report {
    /* How it ended. The first of these that is true decides the exit code. */
    bool reader_gone;        /* nobody reads our output any more */
    int signal;              /* we were told to end by this one; 0: we were not */
    struct kelpie_error err; /* status OK: nothing went wrong on our side */
    bool ended;              /* the command did, like this: */
    struct kelpie_exit exit;

    char id[KELPIE_ID_SIZE];
    char backend[16];
    struct run_collected stdout_bytes;
    struct run_collected stderr_bytes;
    bool restored;
    bool report_known;
    struct kelpie_restore_report restore;
    bool snapshotted;
    struct kelpie_snapshot snapshot;
    uint64_t start_ns; /* of the whole run, on the monotonic clock */
    uint64_t ready_ns; /* how long it took until the VM ran; 0: never */
    uint64_t exec_ns;  /* how long the commands ran; 0: none */
    uint64_t snapshot_ns;
};

/* Nanoseconds of the monotonic clock. */
uint64_t run_clock_ns(void);

int run_report_exit_code(const struct run_report *report);

/* NULL: no memory. */
json_t *run_report_json(const struct run_report *report);

KELPIE_CHECKED enum kelpie_status run_collect(struct run_collected *collected, const void *data,
                                              size_t size, struct kelpie_error *err);

void run_report_deinit(struct run_report *report);

#endif
