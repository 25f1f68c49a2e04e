/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/batch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define HANG_MS 2000
#define PIPE_FD_MAX 64

/* What a seed does. */
enum {
    SEED_FAILS = 1003,
    SEED_ABORTS = 1019,
    SEED_CRASHES = 1020, /* right behind */
    SEED_EXITS = 1077,
    SEED_HANGS = 1101,
    SEED_BABBLES = 1150,
    SEED_LAST = 1200,
};

/* Nonsense to the pipe that the parent reads: it is close-on-exec, what the test was started with is not. */
static void babble(void) {
    char nonsense[4096];
    struct stat stat;
    const uint32_t kind = 2; /* a run ended: as a message begins */
    memset(nonsense, 0x5a, sizeof(nonsense));
    memcpy(nonsense, &kind, sizeof(kind));
    for (int fd = 3; fd < PIPE_FD_MAX; fd++) {
        int flags = fcntl(fd, F_GETFD);
        int mode = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & FD_CLOEXEC) && (mode & O_ACCMODE) == O_WRONLY &&
            fstat(fd, &stat) == 0 && S_ISFIFO(stat.st_mode)) {
            (void)!write(fd, nonsense, sizeof(nonsense));
        }
    }
}

static void numbers(uint64_t seed, struct run_result *result) {
    result->hash = seed * 7;
    result->event_count = seed;
    result->simulated_ns = seed * 1000;
    result->asked[SIM_FAULT_FILE_SYNC_FAILS] = 10;
    result->fired[SIM_FAULT_FILE_SYNC_FAILS] = seed % 3 == 0 ? 2 : 0;
}

static void run_of_any_kind(const struct run_options *options, struct run_result *result) {
    numbers(options->seed, result);
    switch (options->seed) {
    case SEED_FAILS:
        result->failed = true;
        snprintf(result->reason, sizeof(result->reason), "model: two copies");
        break;
    case SEED_ABORTS:
        ASSERT(options->seed != SEED_ABORTS);
        break;
    case SEED_CRASHES:
        /* The test program's own handler would report it. */
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        break;
    case SEED_EXITS:
        exit(3);
    case SEED_HANGS:
        while (true) {
            pause();
        }
    case SEED_BABBLES:
        babble();
        pause();
        break;
    default:
        break;
    }
}

static struct batch_summary *summary_of(const struct batch_options *options) {
    struct batch_summary *summary = test_malloc(sizeof(*summary));
    assert_true(batch_run(options, summary));
    return summary;
}

static const struct batch_failure *failure_of(const struct batch_summary *summary, uint64_t seed) {
    for (size_t i = 0; i < summary->failure_count; i++) {
        if (summary->failures[i].seed == seed) {
            return &summary->failures[i];
        }
    }
    fail_msg("seed %llu is not told", (unsigned long long)seed);
    return NULL;
}

static void assert_reason(const struct batch_summary *summary, uint64_t seed, const char *words) {
    const char *reason = failure_of(summary, seed)->reason;
    if (!strstr(reason, words)) {
        fail_msg("seed %llu: \"%s\" says nothing of \"%s\"", (unsigned long long)seed, reason,
                 words);
    }
}

/* The sums over the seeds that came to their end. */
static void assert_sums(const struct batch_summary *summary, uint64_t first, uint64_t last) {
    static const uint64_t lost[] = {SEED_ABORTS, SEED_CRASHES, SEED_EXITS, SEED_HANGS,
                                    SEED_BABBLES};
    uint64_t count = 0;
    uint64_t events = 0;
    uint64_t fired = 0;
    for (uint64_t seed = first; seed <= last; seed++) {
        bool ended = true;
        for (size_t i = 0; i < ARRAY_SIZE(lost); i++) {
            ended = ended && lost[i] != seed;
        }
        count += ended;
        events += ended ? seed : 0;
        fired += ended && seed % 3 == 0;
    }
    assert_int_equal(summary->run_count, last - first + 1);
    assert_int_equal(summary->ended_count, count);
    assert_int_equal(summary->event_count, events);
    assert_int_equal(summary->simulated_ns, events * 1000);
    assert_int_equal(summary->asked[SIM_FAULT_FILE_SYNC_FAILS], count * 10);
    assert_int_equal(summary->fired[SIM_FAULT_FILE_SYNC_FAILS], fired * 2);
    assert_int_equal(summary->fired_runs[SIM_FAULT_FILE_SYNC_FAILS], fired);
    assert_int_equal(summary->fired[SIM_FAULT_GUEST_DIES], 0);
}

static void assert_no_children(void) {
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void each_kind_of_failure_is_told_by_its_seed(void **state) {
    (void)state;
    static const uint32_t job_counts[] = {1, 2, 7};
    for (size_t i = 0; i < ARRAY_SIZE(job_counts); i++) {
        struct batch_options options = {.run = run_of_any_kind,
                                        .seed_first = 1000,
                                        .run_count = SEED_LAST - 1000 + 1,
                                        .job_count = job_counts[i],
                                        .run_ms_max = HANG_MS};
        struct batch_summary *summary = summary_of(&options);
        assert_int_equal(summary->failed_count, 6);
        assert_int_equal(summary->failure_count, 6);
        assert_reason(summary, SEED_FAILS, "model: two copies");
        assert_reason(summary, SEED_ABORTS, "assertion failed at sim/run/batch_test.c:");
        assert_reason(summary, SEED_ABORTS, "(options->seed != SEED_ABORTS)");
        assert_reason(summary, SEED_CRASHES, "signal SIGSEGV");
        assert_reason(summary, SEED_EXITS, "code 3");
        assert_reason(summary, SEED_HANGS, "hangs");
        assert_reason(summary, SEED_BABBLES, "signal SIGKILL");
        assert_sums(summary, 1000, SEED_LAST);
        assert_int_equal(summary->hash, 7000);
        assert_no_children();
        test_free(summary);
    }
}

static void fails_often(const struct run_options *options, struct run_result *result) {
    numbers(options->seed, result);
    result->failed = options->seed % 10 == 0;
    snprintf(result->reason, sizeof(result->reason), "seed %llu",
             (unsigned long long)options->seed);
    /* Later seeds are faster. */
    usleep(options->seed < 100 ? 500 : 0);
}

static void the_first_failures_are_told_whoever_was_faster(void **state) {
    (void)state;
    struct batch_options options = {
        .run = fails_often, .seed_first = 1, .run_count = 400, .job_count = 5, .run_ms_max = 10000};
    struct batch_summary *summary = summary_of(&options);
    assert_int_equal(summary->failed_count, 40);
    assert_int_equal(summary->failure_count, BATCH_FAILURE_COUNT_MAX);
    for (size_t i = 0; i < BATCH_FAILURE_COUNT_MAX; i++) {
        assert_int_equal(summary->failures[i].seed, (i + 1) * 10);
        assert_int_equal(summary->failures[i].index, (i + 1) * 10 - 1);
        assert_int_equal(strtoull(summary->failures[i].reason + 5, NULL, 10), (i + 1) * 10);
    }
    assert_int_equal(summary->ended_count, 400);
    test_free(summary);
}

static void nothing_is_begun_after_a_failure(void **state) {
    (void)state;
    struct batch_options options = {.run = fails_often,
                                    .seed_first = 1,
                                    .run_count = 1000000,
                                    .stop_at_failure = true,
                                    .job_count = 2,
                                    .run_ms_max = 10000};
    struct batch_summary *summary = summary_of(&options);
    assert_true(summary->failed_count > 0);
    assert_true(summary->run_count < options.run_count);
    assert_no_children();
    test_free(summary);
}

/* Every run dies: a new worker for each. */
static void always_dies(const struct run_options *options, struct run_result *result) {
    numbers(options->seed, result);
    _exit(9);
}

static void nothing_but_deaths(void **state) {
    (void)state;
    struct batch_options options = {
        .run = always_dies, .seed_first = 5, .run_count = 30, .job_count = 3, .run_ms_max = 10000};
    struct batch_summary *summary = summary_of(&options);
    assert_int_equal(summary->failed_count, 30);
    assert_int_equal(summary->run_count, 30);
    assert_int_equal(summary->ended_count, 0);
    assert_int_equal(summary->failures[0].seed, 5);
    assert_no_children();
    test_free(summary);
}

#define SHORT_MS 60
#define LIMIT_MS 800

static void takes_a_while(const struct run_options *options, struct run_result *result) {
    numbers(options->seed, result);
    usleep(SHORT_MS * 1000);
}

/* Sixteen runs of a worker take longer than one may: the limit is each one's. */
static void each_run_has_the_whole_time(void **state) {
    (void)state;
    struct batch_options options = {.run = takes_a_while,
                                    .seed_first = 1,
                                    .run_count = 60,
                                    .job_count = 1,
                                    .run_ms_max = LIMIT_MS};
    struct batch_summary *summary = summary_of(&options);
    assert_int_equal(summary->failed_count, 0);
    assert_int_equal(summary->ended_count, 60);
    test_free(summary);
}

#define SLEEP_MS (HANG_MS + 200)
#define SLEEP_COUNT 3

static void sleep_sometimes(void *context, uint64_t done_count, uint64_t failed_count) {
    size_t *count = context;
    (void)done_count;
    (void)failed_count;
    if ((*count)++ < SLEEP_COUNT) {
        usleep(SLEEP_MS * 1000);
    }
}

/* What has arrived while the parent slept is read before anyone is called late. */
static void a_slow_parent_makes_no_run_late(void **state) {
    (void)state;
    size_t count = 0;
    struct batch_options options = {.run = fails_often,
                                    .seed_first = 1,
                                    .run_count = 9,
                                    .job_count = 1,
                                    .run_ms_max = HANG_MS,
                                    .progress = sleep_sometimes,
                                    .progress_context = &count};
    struct batch_summary *summary = summary_of(&options);
    assert_int_equal(summary->failed_count, 0);
    assert_int_equal(summary->ended_count, 9);
    assert_true(count > SLEEP_COUNT);
    test_free(summary);
}

static void run_of_one_seed(const struct run_options *options, struct run_result *result) {
    ASSERT(options->seed == 77);
    numbers(options->seed, result);
}

/* Something of an earlier run in the same process is left. */
static void run_with_a_memory(const struct run_options *options, struct run_result *result) {
    static uint64_t run_count;
    numbers(options->seed, result);
    result->hash += run_count++ == 1;
}

static void a_repeated_seed_has_one_hash(void **state) {
    (void)state;
    struct batch_options options = {.run = run_of_one_seed,
                                    .seed_first = 77,
                                    .run_count = 300,
                                    .same_seed = true,
                                    .job_count = 2,
                                    .run_ms_max = 10000};
    struct batch_summary *summary = summary_of(&options);
    assert_int_equal(summary->failed_count, 0);
    assert_int_equal(summary->run_count, 300);
    assert_int_equal(summary->hash, 77 * 7);
    assert_int_equal(summary->event_count, 300 * 77);
    options.run = run_with_a_memory;
    assert_true(batch_run(&options, summary));
    /* The second run of each worker: 300 runs in portions of 38. */
    assert_int_equal(summary->failed_count, 8);
    assert_reason(summary, 77, "not deterministic");
    assert_int_equal(summary->failures[0].index, 1);
    test_free(summary);
}

static void note_progress(void *context, uint64_t done_count, uint64_t failed_count) {
    uint64_t *last = context;
    assert_true(done_count >= *last);
    assert_true(failed_count <= done_count);
    *last = done_count;
}

static void progress_comes_to_the_end(void **state) {
    (void)state;
    uint64_t last = 0;
    struct batch_options options = {.run = fails_often,
                                    .seed_first = 1,
                                    .run_count = 100,
                                    .job_count = 2,
                                    .run_ms_max = 10000,
                                    .progress = note_progress,
                                    .progress_context = &last};
    test_free(summary_of(&options));
    assert_int_equal(last, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_of_failure_is_told_by_its_seed),
        cmocka_unit_test(the_first_failures_are_told_whoever_was_faster),
        cmocka_unit_test(nothing_is_begun_after_a_failure),
        cmocka_unit_test(nothing_but_deaths),
        cmocka_unit_test(each_run_has_the_whole_time),
        cmocka_unit_test(a_slow_parent_makes_no_run_late),
        cmocka_unit_test(a_repeated_seed_has_one_hash),
        cmocka_unit_test(progress_comes_to_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
