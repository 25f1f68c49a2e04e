/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/report.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/assert.h"

#define NS_PER_S 1e9
#define NS_PER_MS 1000000u

static double ratio(double value, double of) {
    ASSERT(value >= 0);
    ASSERT(of >= 0);
    return of > 0 ? value / of : 0;
}

void report_run(FILE *out, uint64_t seed, const struct run_result *result, uint64_t elapsed_ns) {
    ASSERT(out);
    ASSERT(result);
    fprintf(out, "seed %" PRIu64 ": %s\n", seed, result->failed ? "FAILED" : "ok");
    fprintf(out, "  hash %016" PRIx64 ", %" PRIu64 " events, %u steps, %zu faults\n", result->hash,
            result->event_count, result->step_count, result->event_fault_count);
    fprintf(out, "  simulated %.3f s in %.3f s: %.0f times as fast\n",
            (double)result->simulated_ns / NS_PER_S, (double)elapsed_ns / NS_PER_S,
            ratio((double)result->simulated_ns, (double)elapsed_ns));
}

static void report_faults(FILE *out, const struct batch_summary *summary) {
    ASSERT(out);
    ASSERT(summary);
    fprintf(out, "  %-26s %14s %12s %10s\n", "fault", "asked", "fired", "in seeds");
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        fprintf(out, "  %-26s %14" PRIu64 " %12" PRIu64 " %10" PRIu64 "\n",
                sim_fault_info((enum sim_fault)i)->name, summary->asked[i], summary->fired[i],
                summary->fired_runs[i]);
    }
}

void report_summary(FILE *out, const struct batch_summary *summary, bool with_faults) {
    ASSERT(out);
    ASSERT(summary->failure_count <= BATCH_FAILURE_COUNT_MAX);
    if (with_faults) {
        report_faults(out, summary);
    }
    for (size_t i = 0; i < summary->failure_count; i++) {
        fprintf(out, "seed %" PRIu64 ": FAILED: %s\n", summary->failures[i].seed,
                summary->failures[i].reason);
    }
    if (summary->failed_count > summary->failure_count) {
        fprintf(out, "… and %" PRIu64 " more\n", summary->failed_count - summary->failure_count);
    }
    double elapsed_s = (double)summary->elapsed_ns / NS_PER_S;
    double simulated_s = (double)summary->simulated_ns / NS_PER_S;
    double cpu_s = (double)summary->cpu_ns / NS_PER_S;
    fprintf(out, "%" PRIu64 " runs in %.1f s with %u jobs, %" PRIu64 " failed\n",
            summary->run_count, elapsed_s, summary->job_count, summary->failed_count);
    fprintf(out, "%" PRIu64 " events in %.1f s of CPU time: %.0f a second\n", summary->event_count,
            cpu_s, ratio((double)summary->event_count, cpu_s));
    fprintf(out, "simulated %.1f h: %.0f times as fast as real time\n", simulated_s / 3600,
            ratio(simulated_s, elapsed_s));
}

size_t report_missing_faults(FILE *out, const struct batch_summary *summary) {
    size_t count = 0;
    ASSERT(out);
    ASSERT(summary);
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        if (summary->fired[i] == 0) {
            fprintf(out, "FAILED: %s never fired\n", sim_fault_info((enum sim_fault)i)->name);
            count++;
        }
    }
    ASSERT(count <= SIM_FAULT_COUNT);
    return count;
}

/* "peer-dies#4.17": question 17 of step 4; "peer-dies#17": before the first step. options.c reads that. */
static void report_fault(FILE *out, const struct sim_fault_event *event) {
    ASSERT(out);
    ASSERT(event->fault < SIM_FAULT_COUNT);
    fprintf(out, "%s#", sim_fault_info((enum sim_fault)event->fault)->name);
    if (SIM_FAULT_IN_STEP(event->number)) {
        fprintf(out, "%u.", SIM_FAULT_STEP(event->number));
    }
    fprintf(out, "%u", SIM_FAULT_QUESTION(event->number));
}

/* The options that name what is left. */
static void report_command(FILE *out, uint64_t seed, const struct shrink_result *result) {
    ASSERT(result->fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    ASSERT(result->step_count <= RUN_STEP_COUNT_MAX);
    fprintf(out, "  build/kelpie-sim --seed %" PRIu64, seed);
    if (result->faults_named) {
        fprintf(out, " --only-faults %s", result->fault_count == 0 ? "none" : "");
        for (size_t i = 0; i < result->fault_count; i++) {
            fputs(i > 0 ? "," : "", out);
            report_fault(out, &result->faults[i]);
        }
    }
    if (result->steps_named) {
        fprintf(out, " --only-steps %s", result->step_count == 0 ? "none" : "");
        for (size_t i = 0; i < result->step_count; i++) {
            fprintf(out, "%s%u", i > 0 ? "," : "", result->steps[i]);
        }
    }
    fprintf(out, "\n");
}

static void report_events(FILE *out, const struct shrink_result *result) {
    size_t left = REPORT_EVENT_COUNT_MAX;
    ASSERT(result->fault_count <= result->fault_count_all);
    ASSERT(result->step_count <= result->step_count_all);
    for (size_t i = 0; result->faults_named && i < result->fault_count && left > 0; i++, left--) {
        const struct sim_fault_event *event = &result->faults[i];
        const struct sim_fault_info *info = sim_fault_info((enum sim_fault)event->fault);
        fputs("  fault ", out);
        report_fault(out, event);
        fprintf(out, " (%s: %s)\n", info->where, info->what);
    }
    for (size_t i = 0; result->steps_named && i < result->step_count && left > 0; i++, left--) {
        fprintf(out, "  step %u\n", result->steps[i]);
    }
    if (left == 0) {
        fprintf(out, "  (no more than %d are listed)\n", REPORT_EVENT_COUNT_MAX);
    }
}

/* Where the last lines begin. */
static const char *last_lines(const struct tail *timeline, size_t count) {
    size_t at = timeline->size;
    ASSERT(count > 0);
    ASSERT(at <= TAIL_SIZE);
    while (at > 0 && (count > 0 || timeline->text[at - 1] != '\n')) {
        at--;
        count -= timeline->text[at] == '\n' && count > 0;
    }
    return timeline->text + at;
}

void report_shrunk(FILE *out, uint64_t seed, const struct shrink_result *result,
                   const struct tail *timeline) {
    ASSERT(out && result);
    ASSERT(timeline);
    if (!result->fails) {
        fprintf(out, "\nseed %" PRIu64 " did not fail again: the run is not deterministic\n", seed);
        return;
    }
    fprintf(out, "\nseed %" PRIu64 ": %s\n", seed, result->reason);
    fprintf(out, "made small in %zu runs: %zu of %zu faults, %zu of %zu steps are left%s\n",
            result->trial_count, result->fault_count, result->fault_count_all, result->step_count,
            result->step_count_all,
            result->stopped ? " (stopped at a bound: maybe not minimal)" : "");
    if (!result->faults_named) {
        fprintf(out, "the faults that are known do not make it fail: all of them stay\n");
    }
    if (!result->steps_named) {
        fprintf(out, "the steps that are known do not make it fail: all of them stay\n");
    }
    report_events(out, result);
    fprintf(out, "again:\n");
    report_command(out, seed, result);
    if (timeline->size > 0) {
        fprintf(out, "its timeline, at most the last %d lines:\n%s", REPORT_TIMELINE_LINES,
                last_lines(timeline, REPORT_TIMELINE_LINES));
    }
}

static json_t *json_faults(const struct batch_summary *summary) {
    json_t *faults = json_array();
    ASSERT(summary);
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        json_t *fault =
            json_pack("{s:s, s:I, s:I, s:I}", "name", sim_fault_info((enum sim_fault)i)->name,
                      "asked", (json_int_t)summary->asked[i], "fired",
                      (json_int_t)summary->fired[i], "seeds", (json_int_t)summary->fired_runs[i]);
        json_array_append_new(faults, fault);
    }
    ASSERT(!faults || json_array_size(faults) <= SIM_FAULT_COUNT);
    return faults;
}

/* A reason may hold bytes that are no UTF-8: they become '?'. A seed may not fit a JSON number: it is a text. */
static json_t *json_failures(const struct batch_summary *summary) {
    json_t *failures = json_array();
    char seed[24];
    char reason[RUN_REASON_SIZE];
    ASSERT(summary->failure_count <= BATCH_FAILURE_COUNT_MAX);
    for (size_t i = 0; i < summary->failure_count; i++) {
        const struct batch_failure *failure = &summary->failures[i];
        snprintf(seed, sizeof(seed), "%" PRIu64, failure->seed);
        snprintf(reason, sizeof(reason), "%s", failure->reason);
        for (char *at = reason; *at; at++) {
            *at = (unsigned char)*at < 0x80 ? *at : '?';
        }
        json_array_append_new(failures, json_pack("{s:s, s:s}", "seed", seed, "reason", reason));
    }
    ASSERT(!failures || json_array_size(failures) <= BATCH_FAILURE_COUNT_MAX);
    return failures;
}

bool report_json(const char *path, const struct batch_summary *summary) {
    ASSERT(path);
    ASSERT(summary);
    double elapsed_s = (double)summary->elapsed_ns / NS_PER_S;
    double cpu_s = (double)summary->cpu_ns / NS_PER_S;
    double simulated_s = (double)summary->simulated_ns / NS_PER_S;
    json_t *root =
        json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:o, s:o}", "seeds",
                  (json_int_t)summary->run_count, "failed", (json_int_t)summary->failed_count,
                  "events", (json_int_t)summary->event_count, "simulated_s", simulated_s, "cpu_s",
                  cpu_s, "elapsed_s", elapsed_s, "events_per_cpu_s",
                  ratio((double)summary->event_count, cpu_s), "simulated_per_elapsed",
                  ratio(simulated_s, elapsed_s), "jobs", (json_int_t)summary->job_count, "failures",
                  json_failures(summary), "faults", json_faults(summary));
    if (!root) {
        errno = ENOMEM;
        return false;
    }
    bool written = json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0;
    json_decref(root);
    return written;
}

void report_progress(FILE *out, uint64_t *last_ns, uint64_t done_count, uint64_t failed_count,
                     uint64_t run_count) {
    ASSERT(out && last_ns);
    ASSERT(done_count <= run_count);
    uint64_t now_ns = child_clock_ns();
    /* The last line stands: it is written once. */
    if (*last_ns == UINT64_MAX) {
        return;
    }
    if (done_count < run_count && now_ns - *last_ns < (uint64_t)REPORT_PROGRESS_MS * NS_PER_MS) {
        return;
    }
    *last_ns = done_count == run_count ? UINT64_MAX : now_ns;
    fprintf(out, "\r%" PRIu64 " of %" PRIu64 " runs, %" PRIu64 " failed%s", done_count, run_count,
            failed_count, done_count == run_count ? "\n" : "");
    fflush(out);
}
