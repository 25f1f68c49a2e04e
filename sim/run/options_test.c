/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define WORD_COUNT_MAX 16
#define LINE_SIZE_MAX 256

/* The line's words are the arguments. */
static bool parse(const char *line, struct options *options) {
    static char copy[LINE_SIZE_MAX];
    char message[OPTIONS_MESSAGE_SIZE] = "";
    char *words[WORD_COUNT_MAX] = {(char *)"kelpie-sim"};
    int count = 1;
    assert_true(strlen(line) < sizeof(copy));
    memcpy(copy, line, strlen(line) + 1);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        words[count++] = word;
    }
    bool right = options_parse(count, words, 6, options, message);
    assert_int_equal(right, message[0] == '\0');
    return right;
}

static void defaults(void **state) {
    (void)state;
    static struct options options;
    assert_true(parse("", &options));
    assert_int_equal(options.seed_first, 1);
    assert_int_equal(options.seed_last, 1000);
    assert_int_equal(options.job_count, 6);
    assert_int_equal(options.repeat_count, 1);
    assert_false(options.one_seed || options.only_faults || options.only_steps);
    struct run_options run = options_of_run(&options);
    assert_false(run.suppress_others || run.skip_others);
}

static void every_option_arrives(void **state) {
    (void)state;
    static struct options options;
    assert_true(parse("--seeds 5..9 --jobs 3 --expect-all-faults --no-minimise --json x.json "
                      "--stop-at-failure",
                      &options));
    assert_true(options.stop_at_failure);
    assert_int_equal(options.seed_first, 5);
    assert_int_equal(options.seed_last, 9);
    assert_int_equal(options.job_count, 3);
    assert_true(options.expect_all_faults && options.no_minimise);
    assert_string_equal(options.json_path, "x.json");
    assert_true(parse("--seed 18446744073709551615 --repeat 1000", &options));
    assert_true(options.one_seed);
    assert_int_equal(options.seed_first, UINT64_MAX);
    assert_int_equal(options.seed_last, UINT64_MAX);
    assert_int_equal(options.repeat_count, 1000);
    assert_true(parse("--seed 4 --timeline", &options));
    assert_true(options.timeline);
    assert_true(parse("--help", &options));
    assert_true(options.help);
}

static void lists_are_sorted(void **state) {
    (void)state;
    static struct options options;
    assert_true(parse("--seed 4 --only-faults peer-dies#7,path-sync-fails#12,peer-dies#4095.524287,"
                      "peer-dies#7 --only-steps 9,4,9,4095",
                      &options));
    static const struct sim_fault_event faults[] = {
        {SIM_FAULT_PATH_SYNC_FAILS, 12},
        {SIM_FAULT_PEER_DIES, 7},
        {SIM_FAULT_PEER_DIES, SIM_FAULT_NUMBER(4095, 524287)}};
    static const uint32_t steps[] = {4, 9, 4095};
    struct run_options run = options_of_run(&options);
    assert_true(run.suppress_others && run.skip_others);
    assert_int_equal(run.suppressed_count, 3);
    assert_memory_equal(run.suppressed, faults, sizeof(faults));
    assert_int_equal(run.skipped_count, 3);
    assert_memory_equal(run.skipped, steps, sizeof(steps));
    assert_true(parse("--seed 4 --only-faults none --only-steps none", &options));
    run = options_of_run(&options);
    assert_true(run.suppress_others && run.skip_others);
    assert_int_equal(run.suppressed_count, 0);
    assert_int_equal(run.skipped_count, 0);
}

static void what_is_wrong_is_refused(void **state) {
    (void)state;
    static struct options options;
    static const char *const lines[] = {
        "--seed",
        "--seed x",
        "--seed -1",
        "--seed 18446744073709551616",
        "--seed 1x",
        "--seeds 5",
        "--seeds 9..5",
        "--seeds ..5",
        "--seeds 5..",
        "--seeds 0..18446744073709551615",
        "--jobs 0",
        "--jobs 257",
        "--seed 1 --repeat 0",
        "--unknown",
        "--unknown 5",
        "5",
        "--seed 1 --only-steps 4,,5",
        "--seed 1 --only-steps 4096",
        "--seed 1 --only-faults peer-dies",
        "--seed 1 --only-faults peer-dies#",
        "--seed 1 --only-faults peer-dies#524288",
        "--seed 1 --only-faults peer-dies#4096.0",
        "--seed 1 --only-faults peer-dies#.0",
        "--seed 1 --only-faults peer-dies#1.",
        "--seed 1 --only-faults peer-dies#1.2.3",
        "--seed 1 --only-faults no-such-fault#1",
        "--seed 1 --only-faults peer-dies#1,",
        "--seeds 1..2 --timeline",
        "--seeds 1..2 --repeat 2",
        "--seeds 1..2 --only-faults none",
        "--only-steps none",
        "--seed 1 --timeline --repeat 2",
    };
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (parse(lines[i], &options)) {
            fail_msg("it takes %s", lines[i]);
        }
    }
}

static void steps_are_left_out(void **state) {
    (void)state;
    static const uint32_t listed[] = {2, 5, 6};
    for (size_t count = 0; count <= ARRAY_SIZE(listed); count++) {
        struct run_options options = {.skipped = listed, .skipped_count = count};
        for (uint32_t step = 0; step < 9; step++) {
            bool found = false;
            for (size_t i = 0; i < count; i++) {
                found = found || listed[i] == step;
            }
            options.skip_others = false;
            assert_int_equal(run_options_skip(&options, step), found);
            options.skip_others = true;
            assert_int_equal(run_options_skip(&options, step), !found);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),           cmocka_unit_test(every_option_arrives),
        cmocka_unit_test(lists_are_sorted),   cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(steps_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
