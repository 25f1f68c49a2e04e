/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/shrink.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "sim/run/options.h"
#include "sim/run/report.h"

#define STEP_COUNT 30
#define TEXT_SIZE 65536

/* What the run of a seed does when it fails. */
enum {
    SEED_SAYS_SO =
        1,         /* question 3 before the steps, question 2 of one, and another step are needed */
    SEED_ABORTS,   /* the same, by an assertion */
    SEED_TWO_WAYS, /* with less than that it fails in another way */
    SEED_FORGETS,  /* aborts, and does not say which faults fired */
    SEED_NEEDS_NONE, /* fails whatever is left out */
    SEED_HANGS,      /* when the step is made */
    SEED_PASSES,
    SEED_CHANGES, /* passes as soon as faults are named */
};

#define WANTED_STEP 17

#define FAULT_STEP 25
#define QUESTIONS_PER_STEP 3

static void begin(const struct run_options *options, struct sim_faults *faults,
                  struct run_result *result) {
    sim_faults_init(faults, options->seed);
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        faults->ppm[i] = SIM_PPM;
    }
    run_options_limit_faults(options, faults);
    if (options->seed != SEED_FORGETS) {
        sim_faults_copy(faults, result->events, &result->event_fault_count);
    }
    result->step_count = STEP_COUNT;
}

static void end(const struct run_options *options, struct run_result *result, bool all, bool some) {
    const char *reason = all ? "model: two copies run, after 3 s" : NULL;
    switch (options->seed) {
    case SEED_ABORTS:
    case SEED_FORGETS:
        ASSERT(!all);
        break;
    case SEED_TWO_WAYS:
        reason = all ? reason : some ? "leak: 3 descriptors" : NULL;
        break;
    case SEED_NEEDS_NONE:
        reason = "model: nothing runs";
        break;
    case SEED_CHANGES:
        reason = options->suppress_others ? NULL : "model: two copies run";
        break;
    default:
        break;
    }
    if (options->seed != SEED_PASSES && reason) {
        result->failed = true;
        snprintf(result->reason, sizeof(result->reason), "%s", reason);
    }
}

static void run_stub(const struct run_options *options, struct run_result *result) {
    static struct sim_faults faults;
    bool first = false;
    bool second = false;
    bool made = false;
    begin(options, &faults, result);
    for (uint32_t i = 0; i < STEP_COUNT; i++) {
        first = (sim_faults_ask(&faults, SIM_FAULT_PATH_SYNC_FAILS) && i == 3) || first;
    }
    for (uint32_t i = 0; i < STEP_COUNT; i++) {
        if (run_options_skip(options, i)) {
            continue;
        }
        sim_faults_begin_step(&faults, i);
        made = made || i == WANTED_STEP;
        if (options->timeline) {
            fprintf(options->timeline, "step %u\n", i);
        }
        if (options->seed == SEED_HANGS && i == WANTED_STEP) {
            pause();
        }
        for (uint32_t n = 0; n < QUESTIONS_PER_STEP; n++) {
            bool now = sim_faults_ask(&faults, SIM_FAULT_PEER_DIES);
            second = (now && i == FAULT_STEP && n == 2) || second;
        }
    }
    end(options, result, first && second && made, first || second);
}

struct rig {
    struct trial trial;
    struct shrink_result result;
    struct options options;
};

static int setup(void **state) {
    struct rig *rig = calloc(1, sizeof(*rig));
    *state = rig;
    return rig && trial_init(&rig->trial, run_stub) ? 0 : -1;
}

static int teardown(void **state) {
    struct rig *rig = *state;
    trial_deinit(&rig->trial);
    free(rig);
    return 0;
}

static void shrink_seed(struct rig *rig, uint64_t seed) {
    struct run_options options = {.seed = seed};
    assert_true(shrink_run(&rig->trial, &options, &rig->result));
    assert_int_equal(rig->trial.ms_max, TRIAL_MS_MAX);
}

static void assert_two_faults_and_two_steps(const struct rig *rig) {
    const struct shrink_result *result = &rig->result;
    assert_true(result->fails);
    assert_true(result->faults_named);
    assert_true(result->steps_named);
    assert_false(result->stopped);
    assert_int_equal(result->fault_count_all, (1 + QUESTIONS_PER_STEP) * STEP_COUNT);
    assert_int_equal(result->step_count_all, STEP_COUNT);
    assert_int_equal(result->fault_count, 2);
    assert_int_equal(result->faults[0].fault, SIM_FAULT_PATH_SYNC_FAILS);
    assert_int_equal(result->faults[0].number, 3);
    assert_int_equal(result->faults[1].fault, SIM_FAULT_PEER_DIES);
    assert_int_equal(result->faults[1].number, SIM_FAULT_NUMBER(FAULT_STEP, 2));
    assert_int_equal(result->step_count, 2);
    assert_int_equal(result->steps[0], WANTED_STEP);
    assert_int_equal(result->steps[1], FAULT_STEP);
    /* The last run was the small one. */
    assert_true(trial_result(&rig->trial)->failed);
    assert_string_equal(rig->trial.timeline.text, "step 17\nstep 25\n");
}

static void a_failure_is_made_as_small_as_it_can_be(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_SAYS_SO);
    assert_two_faults_and_two_steps(rig);
    assert_string_equal(rig->result.reason, "model: two copies run, after 3 s");
    assert_true(rig->result.trial_count < 100);
}

static void an_abort_is_made_small_too(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_ABORTS);
    assert_two_faults_and_two_steps(rig);
    assert_non_null(strstr(rig->result.reason, "assertion failed at sim/run/shrink_test.c:"));
}

static void another_failure_is_not_the_same(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_TWO_WAYS);
    assert_two_faults_and_two_steps(rig);
}

static void faults_that_are_not_known_all_stay(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_FORGETS);
    assert_true(rig->result.fails);
    assert_false(rig->result.faults_named);
    assert_true(rig->result.steps_named);
    assert_int_equal(rig->result.step_count, 2);
    assert_int_equal(rig->result.steps[0], WANTED_STEP);
}

static void nothing_may_be_needed(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_NEEDS_NONE);
    assert_true(rig->result.fails);
    assert_int_equal(rig->result.fault_count, 0);
    assert_int_equal(rig->result.step_count, 0);
}

static void a_hang_is_made_small(void **state) {
    struct rig *rig = *state;
    struct run_options options = {.seed = SEED_HANGS};
    rig->trial.ms_max = 100;
    assert_true(shrink_run(&rig->trial, &options, &rig->result));
    assert_int_equal(rig->trial.ms_max, 100);
    assert_non_null(strstr(rig->result.reason, "hangs"));
    assert_true(rig->result.faults_named);
    assert_int_equal(rig->result.fault_count, 0);
    assert_int_equal(rig->result.step_count, 1);
    assert_int_equal(rig->result.steps[0], WANTED_STEP);
}

static void what_passes_is_told(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_PASSES);
    assert_false(rig->result.fails);
}

static void names_that_change_the_run_are_not_used(void **state) {
    struct rig *rig = *state;
    shrink_seed(rig, SEED_CHANGES);
    assert_true(rig->result.fails);
    assert_false(rig->result.faults_named);
}

/* The command line that is printed, taken as words, gives the small run's options. */
static void the_printed_command_gives_the_small_run(void **state) {
    struct rig *rig = *state;
    char message[OPTIONS_MESSAGE_SIZE];
    char *words[8] = {NULL};
    int count = 0;
    char *text = calloc(1, TEXT_SIZE);
    FILE *out = fmemopen(text, TEXT_SIZE, "w");
    assert_non_null(out);
    shrink_seed(rig, SEED_ABORTS);
    report_shrunk(out, SEED_ABORTS, &rig->result, &rig->trial.timeline);
    fclose(out);
    assert_non_null(strstr(text, "fault path-sync-fails#3 ("));
    assert_non_null(strstr(text, "fault peer-dies#25.2 ("));
    assert_non_null(strstr(text, "step 17\n"));
    char *command = strstr(text, "build/kelpie-sim");
    assert_non_null(command);
    *strchr(command, '\n') = '\0';
    for (char *word = strtok(command, " "); word && count < 8; word = strtok(NULL, " ")) {
        words[count++] = word;
    }
    assert_int_equal(count, 7);
    assert_true(options_parse(count, words, 1, &rig->options, message));
    struct run_options options = options_of_run(&rig->options);
    assert_int_equal(options.seed, SEED_ABORTS);
    assert_true(options.suppress_others && options.skip_others);
    assert_int_equal(options.suppressed_count, 2);
    assert_memory_equal(options.suppressed, rig->result.faults, 2 * sizeof(*options.suppressed));
    assert_int_equal(options.skipped_count, 2);
    assert_int_equal(options.skipped[0], WANTED_STEP);
    assert_true(trial_run(&rig->trial, &options));
    assert_string_equal(trial_result(&rig->trial)->reason, rig->result.reason);
    free(text);
}

/* A run that is limited already stays within its limits. */
static void a_limited_run_is_made_small_within_its_limits(void **state) {
    struct rig *rig = *state;
    static const uint32_t steps[] = {2, WANTED_STEP, 20, FAULT_STEP};
    struct run_options options = {
        .seed = SEED_SAYS_SO, .skipped = steps, .skipped_count = 4, .skip_others = true};
    assert_true(shrink_run(&rig->trial, &options, &rig->result));
    assert_int_equal(rig->result.step_count_all, 4);
    assert_int_equal(rig->result.step_count, 2);
    assert_int_equal(rig->result.steps[0], WANTED_STEP);
}

#define RIGGED(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        RIGGED(a_failure_is_made_as_small_as_it_can_be),
        RIGGED(an_abort_is_made_small_too),
        RIGGED(another_failure_is_not_the_same),
        RIGGED(faults_that_are_not_known_all_stay),
        RIGGED(nothing_may_be_needed),
        RIGGED(a_hang_is_made_small),
        RIGGED(what_passes_is_told),
        RIGGED(names_that_change_the_run_are_not_used),
        RIGGED(the_printed_command_gives_the_small_run),
        RIGGED(a_limited_run_is_made_small_within_its_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
