/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The object that `kelpie run --json` prints. */
#ifndef KELPIE_CLI_RUN_REPORT_H
#define KELPIE_CLI_RUN_REPORT_H

#include <jansson.h>

#include "cli/outcome.h"
#include "kelpie.h"

struct run_report {
    char id[KELPIE_ID_SIZE];
    char backend[16];
    bool restored;
    bool report_known;
    struct kelpie_restore_report restore;
    bool snapshotted;
    struct kelpie_snapshot snapshot;
    uint64_t start_ns; /* of the whole run, on the monotonic clock */
    uint64_t ready_ns; /* how long it took until the VM ran; 0: never */
    uint64_t snapshot_ns;
};

/* NULL: no memory. */
json_t *run_report_json(const struct run_report *report, const struct outcome *outcome);

#endif
