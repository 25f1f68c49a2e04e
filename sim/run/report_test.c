/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/report.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define TEXT_SIZE 262144

struct rig {
    char text[TEXT_SIZE];
    FILE *out;
    struct tail timeline;
    struct shrink_result small;
    struct batch_summary summary;
};

static int setup(void **state) {
    struct rig *rig = calloc(1, sizeof(*rig));
    *state = rig;
    rig->out = fmemopen(rig->text, sizeof(rig->text), "w");
    return rig->out ? 0 : -1;
}

static int teardown(void **state) {
    struct rig *rig = *state;
    fclose(rig->out);
    free(rig);
    return 0;
}

static void assert_says(struct rig *rig, const char *words) {
    fflush(rig->out);
    if (!strstr(rig->text, words)) {
        fail_msg("\"%s\" is not in:\n%s", words, rig->text);
    }
}

static void assert_silent_on(struct rig *rig, const char *words) {
    fflush(rig->out);
    assert_null(strstr(rig->text, words));
}

static void add_lines(struct tail *timeline, size_t count, const char *last_end) {
    char line[32];
    for (size_t i = 1; i <= count; i++) {
        int size = snprintf(line, sizeof(line), "line %zu%s", i, i == count ? last_end : "\n");
        tail_add(timeline, line, (size_t)size);
    }
}

static void the_last_lines_of_the_timeline_are_printed(void **state) {
    struct rig *rig = *state;
    rig->small.fails = true;
    add_lines(&rig->timeline, 300, "\n");
    report_shrunk(rig->out, 1, &rig->small, &rig->timeline);
    assert_silent_on(rig, "line 100\n");
    assert_says(rig, ":\nline 101\nline 102\n");
    assert_says(rig, "line 299\nline 300\n");
}

static void a_short_timeline_is_printed_as_a_whole(void **state) {
    struct rig *rig = *state;
    rig->small.fails = true;
    add_lines(&rig->timeline, 3, "\n");
    report_shrunk(rig->out, 1, &rig->small, &rig->timeline);
    assert_says(rig, ":\nline 1\nline 2\nline 3\n");
}

static void a_long_tail_keeps_its_end(void **state) {
    struct rig *rig = *state;
    add_lines(&rig->timeline, 20000, "\n");
    assert_true(rig->timeline.size >= TAIL_SIZE / 2 && rig->timeline.size <= TAIL_SIZE);
    assert_int_equal(strlen(rig->timeline.text), rig->timeline.size);
    assert_string_equal(rig->timeline.text + rig->timeline.size - 22, "line 19999\nline 20000\n");
    memset(rig->text, 'x', sizeof(rig->text));
    tail_add(&rig->timeline, rig->text, sizeof(rig->text));
    assert_int_equal(rig->timeline.size, TAIL_SIZE);
    assert_null(strchr(rig->timeline.text, '\n'));
    tail_add(&rig->timeline, "a\0b", 3);
    assert_string_equal(rig->timeline.text + rig->timeline.size - 3, "a?b");
}

static void no_more_than_twenty_events_are_listed(void **state) {
    struct rig *rig = *state;
    struct shrink_result *small = &rig->small;
    small->fails = small->faults_named = small->steps_named = true;
    small->fault_count = small->fault_count_all = 15;
    small->step_count = small->step_count_all = 15;
    for (uint32_t i = 0; i < 15; i++) {
        small->faults[i] = (struct sim_fault_event){SIM_FAULT_PEER_DIES, i};
        small->steps[i] = i;
    }
    report_shrunk(rig->out, 1, small, &rig->timeline);
    assert_says(rig, "fault peer-dies#14 (");
    assert_says(rig, "  step 4\n");
    assert_silent_on(rig, "  step 5\n");
    /* The command has them all. */
    assert_says(rig, "--only-steps 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n");
}

static void what_is_not_known_is_not_in_the_command(void **state) {
    struct rig *rig = *state;
    rig->small.fails = rig->small.steps_named = true;
    report_shrunk(rig->out, 12, &rig->small, &rig->timeline);
    assert_says(rig, "  build/kelpie-sim --seed 12 --only-steps none\n");
    assert_says(rig, "faults that are known do not make it fail");
    assert_silent_on(rig, "steps that are known");
}

static void faults_that_never_fired_are_named(void **state) {
    struct rig *rig = *state;
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        rig->summary.fired[i] = i != SIM_FAULT_PEER_DIES && i != SIM_FAULT_COUNT - 1;
    }
    assert_int_equal(report_missing_faults(rig->out, &rig->summary), 2);
    assert_says(rig, "FAILED: peer-dies never fired\n");
    assert_says(rig, "FAILED: client-hangs never fired\n");
    assert_silent_on(rig, "peer-slow");
}

static void fill(struct batch_summary *summary) {
    *summary = (struct batch_summary){.run_count = 40,
                                      .failed_count = 12,
                                      .failure_count = 1,
                                      .event_count = 8000,
                                      .simulated_ns = 7200000000000,
                                      .cpu_ns = 2000000000,
                                      .elapsed_ns = 4000000000,
                                      .job_count = 3};
    summary->failures[0] =
        (struct batch_failure){.seed = UINT64_MAX, .reason = "model: \"two\" \xff"};
    summary->asked[SIM_FAULT_PEER_DIES] = 100;
    summary->fired[SIM_FAULT_PEER_DIES] = 30;
    summary->fired_runs[SIM_FAULT_PEER_DIES] = 20;
}

static void the_sum_is_told(void **state) {
    struct rig *rig = *state;
    fill(&rig->summary);
    report_summary(rig->out, &rig->summary, true);
    assert_says(rig, "seed 18446744073709551615: FAILED: model: \"two\"");
    assert_says(rig, "and 11 more\n");
    assert_says(rig, "40 runs in 4.0 s with 3 jobs, 12 failed\n");
    assert_says(rig, "8000 events in 2.0 s of CPU time: 4000 a second\n");
    assert_says(rig, "simulated 2.0 h: 1800 times as fast");
    assert_says(rig, "peer-dies                             100           30         20\n");
}

static void the_figures_are_written_as_json(void **state) {
    struct rig *rig = *state;
    char path[] = "/tmp/kelpie-sim-report-XXXXXX";
    const char *seed = NULL;
    const char *reason = NULL;
    double rate = 0;
    int failed = 0;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    fill(&rig->summary);
    assert_true(report_json(path, &rig->summary));
    json_t *root = json_load_file(path, 0, NULL);
    unlink(path);
    assert_non_null(root);
    assert_int_equal(json_unpack(root, "{s:i, s:f, s:[{s:s, s:s}]}", "failed", &failed,
                                 "events_per_cpu_s", &rate, "failures", "seed", &seed, "reason",
                                 &reason),
                     0);
    assert_int_equal(failed, 12);
    assert_true(rate > 3999 && rate < 4001);
    assert_string_equal(seed, "18446744073709551615");
    assert_string_equal(reason, "model: \"two\" ?");
    const json_t *fault = json_array_get(json_object_get(root, "faults"), SIM_FAULT_PEER_DIES);
    assert_string_equal(json_string_value(json_object_get(fault, "name")), "peer-dies");
    assert_int_equal(json_integer_value(json_object_get(fault, "fired")), 30);
    json_decref(root);
    assert_false(report_json("/nowhere/at/all", &rig->summary));
}

static void progress_ends_its_line_once(void **state) {
    struct rig *rig = *state;
    uint64_t last_ns = 0;
    report_progress(rig->out, &last_ns, 1, 0, 3);
    /* Too soon for another. */
    report_progress(rig->out, &last_ns, 2, 0, 3);
    report_progress(rig->out, &last_ns, 3, 1, 3);
    report_progress(rig->out, &last_ns, 3, 1, 3);
    fflush(rig->out);
    assert_string_equal(rig->text, "\r1 of 3 runs, 0 failed\r3 of 3 runs, 1 failed\n");
}

#define RIGGED(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        RIGGED(the_last_lines_of_the_timeline_are_printed),
        RIGGED(a_short_timeline_is_printed_as_a_whole),
        RIGGED(a_long_tail_keeps_its_end),
        RIGGED(no_more_than_twenty_events_are_listed),
        RIGGED(what_is_not_known_is_not_in_the_command),
        RIGGED(faults_that_never_fired_are_named),
        RIGGED(the_sum_is_told),
        RIGGED(progress_ends_its_line_once),
        RIGGED(the_figures_are_written_as_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
