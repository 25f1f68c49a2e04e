/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/run_report.h"

#include "base/assert.h"
#include "cli/cli.h"

static json_t *json_or_null(bool present, json_t *value) {
    if (present) {
        return value;
    }
    json_decref(value);
    return json_null();
}

static const char *fresh_name(enum kelpie_outcome outcome) {
    static const char *const names[] = {
        [KELPIE_OUTCOME_PENDING] = "pending",
        [KELPIE_OUTCOME_DONE] = "done",
        [KELPIE_OUTCOME_FAILED] = "failed",
        [KELPIE_OUTCOME_UNSUPPORTED] = "unsupported",
    };
    static_assert(ARRAY_SIZE(names) == KELPIE_OUTCOME_COUNT, "each outcome has a name");
    ASSERT((unsigned)outcome < KELPIE_OUTCOME_COUNT);
    return names[outcome];
}

static json_t *json_restore(const struct kelpie_restore_report *restore) {
    ASSERT(restore);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "entropy", fresh_name(restore->entropy),
                     "generation", fresh_name(restore->generation), "clock",
                     fresh_name(restore->clock), "network", fresh_name(restore->network),
                     "hostname", fresh_name(restore->hostname), "machine_id",
                     fresh_name(restore->machine_id), "clock_skew_ns",
                     (json_int_t)restore->clock_skew_ns);
}

static json_t *json_snapshot(const struct kelpie_snapshot *snapshot) {
    ASSERT(snapshot);
    return json_pack("{s:s, s:s, s:b, s:I, s:I}", "id", snapshot->id, "parent_id",
                     snapshot->parent_id, "quiesced", snapshot->quiesced, "bytes",
                     (json_int_t)snapshot->bytes, "created_unix_ms",
                     (json_int_t)snapshot->created_unix_ms);
}

static json_t *json_timings(const struct run_report *report, const struct outcome *outcome) {
    ASSERT(report->start_ns <= cli_clock_ns());
    ASSERT(outcome);
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "boot_ms",
                     outcome_json_ms(report->restored ? 0 : report->ready_ns), "restore_ms",
                     outcome_json_ms(report->restored ? report->ready_ns : 0), "exec_ms",
                     outcome_json_ms(outcome->exec_ns), "snapshot_ms",
                     outcome_json_ms(report->snapshot_ns), "total_ms",
                     outcome_json_ms(cli_clock_ns() - report->start_ns));
}

json_t *run_report_json(const struct run_report *report, const struct outcome *outcome) {
    ASSERT(report);
    ASSERT(outcome);
    json_t *object = json_pack("{s:s, s:s}", "id", report->id, "backend", report->backend);
    if (!object || !outcome_json(outcome, object)) {
        json_decref(object);
        return NULL;
    }
    json_object_set_new(object, "timings", json_timings(report, outcome));
    json_object_set_new(object, "restore",
                        json_or_null(report->report_known, json_restore(&report->restore)));
    json_object_set_new(object, "snapshot",
                        json_or_null(report->snapshotted, json_snapshot(&report->snapshot)));
    return object;
}
