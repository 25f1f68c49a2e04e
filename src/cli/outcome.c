/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/run_report.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/checked.h"
#include "cli/cli.h"
#include "cli/output.h"

#define NS_PER_S 1000000000ull
#define COLLECT_SIZE_MIN 4096

static void collected_check(const struct run_collected *collected) {
    ASSERT(collected);
    ASSERT(collected->size <= collected->capacity);
    ASSERT(collected->size <= CLI_COLLECT_SIZE_MAX);
}

static void report_check(const struct run_report *report) {
    ASSERT(report);
    ASSERT(report->signal >= 0);
    ASSERT((unsigned)report->err.status < KELPIE_STATUS_COUNT);
}

uint64_t run_clock_ns(void) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* A command that could not be started: the codes of a shell. */
static int exit_code_of_exec(int os_error) {
    ASSERT(os_error >= 0);
    switch (os_error) {
    case ENOENT:
        return CLI_EXIT_NOT_FOUND;
    case EACCES:
    case EPERM:
    case ENOEXEC:
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ETXTBSY:
        return CLI_EXIT_NOT_EXECUTABLE;
    default:
        return CLI_EXIT_FAILED;
    }
}

int run_report_exit_code(const struct run_report *report) {
    report_check(report);
    ASSERT(report->signal >= 0);
    if (report->reader_gone) {
        return CLI_EXIT_SIGNAL + SIGPIPE;
    }
    if (report->signal != 0) {
        return CLI_EXIT_SIGNAL + report->signal;
    }
    if (report->err.status == KELPIE_EXEC_TIMED_OUT) {
        return CLI_EXIT_TIMED_OUT;
    }
    if (report->err.status == KELPIE_EXEC_FAILED) {
        return exit_code_of_exec(report->err.os_error);
    }
    if (report->err.status != KELPIE_OK) {
        return CLI_EXIT_FAILED;
    }
    return report->exit.timed_out ? CLI_EXIT_TIMED_OUT : report->exit.code;
}

/* ---- Collecting ------------------------------------------------------------------------------- */

static enum kelpie_status grow(struct run_collected *collected, size_t needed,
                               struct kelpie_error *err) {
    collected_check(collected);
    ASSERT(needed <= CLI_COLLECT_SIZE_MAX);
    if (needed <= collected->capacity) {
        return KELPIE_OK;
    }
    size_t capacity = collected->capacity == 0 ? COLLECT_SIZE_MIN : collected->capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    char *data = realloc(collected->data, capacity);
    if (!data) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for %zu bytes of output", capacity);
    }
    collected->data = data;
    collected->capacity = capacity;
    return KELPIE_OK;
}

enum kelpie_status run_collect(struct run_collected *collected, const void *data, size_t size,
                               struct kelpie_error *err) {
    collected_check(collected);
    ASSERT(data || size == 0);
    ASSERT(collected->size <= CLI_COLLECT_SIZE_MAX);
    size_t kept = min_size(size, CLI_COLLECT_SIZE_MAX - collected->size);
    collected->truncated |= kept < size;
    if (kept == 0) {
        return KELPIE_OK;
    }
    TRY(grow(collected, collected->size + kept, err));
    memcpy(collected->data + collected->size, data, kept);
    collected->size += kept;
    return KELPIE_OK;
}

void run_report_deinit(struct run_report *report) {
    report_check(report);
    free(report->stdout_bytes.data);
    free(report->stderr_bytes.data);
    report->stdout_bytes = (struct run_collected){0};
    report->stderr_bytes = (struct run_collected){0};
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static json_t *json_or_null(bool present, json_t *value) {
    if (present) {
        return value;
    }
    json_decref(value);
    return json_null();
}

static json_t *json_ms(uint64_t ns) {
    return ns == 0 ? json_null() : json_real((double)ns / 1e6);
}

static json_t *json_stream(const struct run_collected *collected) {
    collected_check(collected);
    ASSERT(collected->size <= collected->capacity);
    json_t *stream = output_json_bytes(collected->data, collected->size);
    if (stream) {
        json_object_set_new(stream, "truncated", json_boolean(collected->truncated));
    }
    return stream;
}

static const char *outcome_name(enum kelpie_outcome outcome) {
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
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "entropy", outcome_name(restore->entropy),
        "generation", outcome_name(restore->generation), "clock", outcome_name(restore->clock),
        "network", outcome_name(restore->network), "hostname", outcome_name(restore->hostname),
        "machine_id", outcome_name(restore->machine_id), "clock_skew_ns",
        (json_int_t)restore->clock_skew_ns);
}

static json_t *json_snapshot(const struct kelpie_snapshot *snapshot) {
    ASSERT(snapshot);
    return json_pack("{s:s, s:s, s:b, s:I, s:I}", "id", snapshot->id, "parent_id",
                     snapshot->parent_id, "quiesced", snapshot->quiesced, "bytes",
                     (json_int_t)snapshot->bytes, "created_unix_ms",
                     (json_int_t)snapshot->created_unix_ms);
}

static json_t *json_timings(const struct run_report *report) {
    report_check(report);
    ASSERT(report->start_ns <= run_clock_ns());
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "boot_ms",
                     json_ms(report->restored ? 0 : report->ready_ns), "restore_ms",
                     json_ms(report->restored ? report->ready_ns : 0), "exec_ms",
                     json_ms(report->exec_ns), "snapshot_ms", json_ms(report->snapshot_ns),
                     "total_ms", json_ms(run_clock_ns() - report->start_ns));
}

json_t *run_report_json(const struct run_report *report) {
    report_check(report);
    bool failed = report->err.status != KELPIE_OK;
    json_t *object = json_pack(
        "{s:s, s:s, s:i, s:i, s:b, s:o, s:o, s:o}", "id", report->id, "backend", report->backend,
        "exit_code", run_report_exit_code(report), "signal", report->exit.signal, "timed_out",
        report->exit.timed_out || report->err.status == KELPIE_EXEC_TIMED_OUT, "stdout",
        json_stream(&report->stdout_bytes), "stderr", json_stream(&report->stderr_bytes), "timings",
        json_timings(report));
    if (!object) {
        return NULL;
    }
    json_object_set_new(object, "restore",
                        json_or_null(report->report_known, json_restore(&report->restore)));
    json_object_set_new(object, "snapshot",
                        json_or_null(report->snapshotted, json_snapshot(&report->snapshot)));
    json_object_set_new(object, "error", failed ? output_json_error(&report->err) : json_null());
    return object;
}
