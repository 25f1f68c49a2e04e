/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The command `kelpie-sim`: one run of the simulator, or many. Its options: options.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "sim/run/batch.h"
#include "sim/run/options.h"
#include "sim/run/reason.h"
#include "sim/run/report.h"
#include "sim/run/shrink.h"

#define EXIT_FAILED 1      /* a run did, or a fault never fired */
#define EXIT_NOT_TRIED 2   /* wrong options, no process, no memory */
#define SHRUNK_COUNT_MAX 3 /* failures of many runs that are made small, each of another kind */

struct progress {
    uint64_t run_count;
    uint64_t last_ns;
};

static int cannot(const char *what) {
    ASSERT(what);
    ASSERT(errno >= 0);
    fprintf(stderr, "kelpie-sim: %s: %s\n", what, strerror(errno));
    return EXIT_NOT_TRIED;
}

/* Makes the run small and says so. */
static bool shrink(struct trial *trial, const struct run_options *run) {
    ASSERT(trial);
    ASSERT(run);
    struct shrink_result *result = calloc(1, sizeof(*result));
    if (!result) {
        return false;
    }
    bool done = shrink_run(trial, run, result);
    if (done) {
        report_shrunk(stdout, run->seed, result, &trial->timeline);
    }
    int os_error = errno;
    free(result);
    errno = os_error;
    return done;
}

static int run_one(struct trial *trial, const struct options *options) {
    struct run_options run = options_of_run(options);
    ASSERT(trial->shared);
    ASSERT(options->one_seed);
    run.timeline = options->timeline ? stdout : NULL;
    if (!trial_run(trial, &run)) {
        return cannot("starting a process");
    }
    const struct run_result *result = trial_result(trial);
    bool failed = result->failed;
    report_run(stdout, run.seed, result, trial->elapsed_ns);
    if (failed) {
        printf("FAILED: %s\n%s", result->reason, trial->child.words.text);
    }
    run.timeline = NULL;
    if (failed && !options->no_minimise && !shrink(trial, &run)) {
        return cannot("making the run small");
    }
    return failed ? EXIT_FAILED : 0;
}

/* The first failures, each of another kind, are made small. */
static bool shrink_failures(struct trial *trial, const struct batch_summary *summary,
                            struct run_options run) {
    size_t shrunk_count = 0;
    ASSERT(summary->failure_count <= BATCH_FAILURE_COUNT_MAX);
    ASSERT(trial->shared);
    for (size_t i = 0; i < summary->failure_count && shrunk_count < SHRUNK_COUNT_MAX; i++) {
        bool known = false;
        for (size_t j = 0; j < i; j++) {
            known = known || reason_same(summary->failures[i].reason, summary->failures[j].reason);
        }
        run.seed = summary->failures[i].seed;
        if (!known && !shrink(trial, &run)) {
            return false;
        }
        shrunk_count += !known;
    }
    return true;
}

static void show_progress(void *context, uint64_t done_count, uint64_t failed_count) {
    struct progress *progress = context;
    ASSERT(progress);
    ASSERT(done_count <= progress->run_count);
    report_progress(stderr, &progress->last_ns, done_count, failed_count, progress->run_count);
}

static int run_many(struct trial *trial, const struct options *options,
                    struct batch_summary *summary) {
    uint64_t seed_count = options->seed_last - options->seed_first + 1;
    bool same_seed = options->repeat_count > 1;
    struct progress progress = {.run_count = same_seed ? options->repeat_count : seed_count};
    struct batch_options batch = {
        .run = run_seed,
        .base = options_of_run(options),
        .seed_first = options->seed_first,
        .run_count = progress.run_count,
        .same_seed = same_seed,
        .stop_at_failure = options->stop_at_failure,
        .job_count = options->job_count,
        .run_ms_max = TRIAL_MS_MAX,
        .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
        .progress_context = &progress,
    };
    ASSERT(seed_count > 0);
    ASSERT(!same_seed || options->one_seed);
    if (!batch_run(&batch, summary)) {
        return cannot("starting processes");
    }
    report_summary(stdout, summary, !same_seed);
    bool failed = summary->failed_count > 0;
    if (options->expect_all_faults && report_missing_faults(stdout, summary) > 0) {
        failed = true;
    }
    if (options->json_path && !report_json(options->json_path, summary)) {
        return cannot(options->json_path);
    }
    if (same_seed && !failed) {
        printf("hash %016llx, %llu times\n", (unsigned long long)summary->hash,
               (unsigned long long)summary->run_count);
    }
    if (!options->no_minimise && !shrink_failures(trial, summary, batch.base)) {
        return cannot("making a run small");
    }
    return failed ? EXIT_FAILED : 0;
}

int main(int argc, char **argv) {
    char message[OPTIONS_MESSAGE_SIZE];
    struct options *options = calloc(1, sizeof(*options));
    struct batch_summary *summary = calloc(1, sizeof(*summary));
    struct trial *trial = calloc(1, sizeof(*trial));
    long cpu_count = sysconf(_SC_NPROCESSORS_ONLN);
    int code = EXIT_NOT_TRIED;
    ASSERT(argc > 0);
    ASSERT(argv);
    if (!options || !summary || !trial || !trial_init(trial, run_seed)) {
        code = cannot("getting memory");
    } else if (!options_parse(argc, argv, cpu_count > 0 ? (uint32_t)cpu_count : 1, options,
                              message)) {
        fprintf(stderr, "kelpie-sim: %s\n", message);
    } else if (options->help) {
        fputs(options_help(), stdout);
        code = 0;
    } else if (options->one_seed && options->repeat_count == 1 && !options->json_path &&
               !options->expect_all_faults) {
        code = run_one(trial, options);
    } else {
        code = run_many(trial, options, summary);
    }
    if (trial) {
        trial_deinit(trial);
    }
    free(trial);
    free(summary);
    free(options);
    return code;
}
