/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/batch.h"

#define NAME_SIZE_MAX 64 /* of a fault */

static bool parse_number(const char *text, size_t size, uint64_t max, uint64_t *ret_value) {
    uint64_t value = 0;
    ASSERT(text);
    ASSERT(ret_value);
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    if (size == 0 || value > max) {
        return false;
    }
    *ret_value = value;
    return true;
}

/* "3..17" */
static bool parse_range(const char *text, struct options *options) {
    const char *dots = strstr(text, "..");
    ASSERT(text);
    ASSERT(options);
    return dots && parse_number(text, (size_t)(dots - text), UINT64_MAX, &options->seed_first) &&
           parse_number(dots + 2, strlen(dots + 2), UINT64_MAX, &options->seed_last) &&
           options->seed_first <= options->seed_last &&
           options->seed_last - options->seed_first < OPTIONS_RUN_COUNT_MAX;
}

static int compare_steps(const void *left, const void *right) {
    const uint32_t *a = left;
    const uint32_t *b = right;
    ASSERT(a);
    ASSERT(b);
    return *a == *b ? 0 : *a < *b ? -1 : 1;
}

/* "4.17": question 17 of step 4; "17": before the first step */
static bool parse_fault_number(const char *text, size_t size, uint32_t *ret_number) {
    uint64_t step = 0;
    uint64_t question = 0;
    ASSERT(text);
    ASSERT(ret_number);
    const char *dot = memchr(text, '.', size);
    size_t step_size = dot ? (size_t)(dot - text) + 1 : 0;
    if (!parse_number(text + step_size, size - step_size, SIM_FAULT_QUESTION(UINT32_MAX),
                      &question) ||
        (dot && !parse_number(text, step_size - 1, SIM_FAULT_STEP_COUNT_MAX - 1, &step))) {
        return false;
    }
    *ret_number = dot ? SIM_FAULT_NUMBER(step, question) : (uint32_t)question;
    return true;
}

/* "file-sync-fails#4.17" */
static bool parse_fault(const char *word, size_t size, struct options *options) {
    char name[NAME_SIZE_MAX + 1];
    uint32_t number = 0;
    const char *hash = memchr(word, '#', size);
    ASSERT(options->fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    if (!hash || hash - word > NAME_SIZE_MAX || options->fault_count == SIM_FAULT_FIRED_COUNT_MAX ||
        !parse_fault_number(hash + 1, (size_t)(word + size - hash) - 1, &number)) {
        return false;
    }
    memcpy(name, word, (size_t)(hash - word));
    name[hash - word] = '\0';
    enum sim_fault fault = sim_fault_find(name);
    if (fault == SIM_FAULT_COUNT) {
        return false;
    }
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    options->faults[options->fault_count++] =
        (struct sim_fault_event){.fault = (uint32_t)fault, .number = number};
    return true;
}

static bool parse_step(const char *word, size_t size, struct options *options) {
    uint64_t step = 0;
    ASSERT(word);
    ASSERT(options->step_count <= RUN_STEP_COUNT_MAX);
    if (options->step_count == RUN_STEP_COUNT_MAX ||
        !parse_number(word, size, RUN_STEP_COUNT_MAX - 1, &step)) {
        return false;
    }
    options->steps[options->step_count++] = (uint32_t)step;
    return true;
}

/* Words between commas; "none": there is none. */
static bool parse_list(const char *text, struct options *options,
                       bool (*parse)(const char *word, size_t size, struct options *options)) {
    ASSERT(text);
    ASSERT(parse);
    if (strcmp(text, "none") == 0) {
        return true;
    }
    while (true) {
        size_t size = strcspn(text, ",");
        if (!parse(text, size, options)) {
            return false;
        }
        if (!text[size]) {
            return true;
        }
        text += size + 1;
    }
}

/* What is named twice is no mistake. */
static void sort_lists(struct options *options) {
    size_t count = 0;
    ASSERT(options->fault_count <= SIM_FAULT_FIRED_COUNT_MAX);
    ASSERT(options->step_count <= RUN_STEP_COUNT_MAX);
    qsort(options->faults, options->fault_count, sizeof(options->faults[0]),
          sim_fault_event_compare);
    for (size_t i = 0; i < options->fault_count; i++) {
        if (i == 0 ||
            sim_fault_event_compare(&options->faults[count - 1], &options->faults[i]) != 0) {
            options->faults[count++] = options->faults[i];
        }
    }
    options->fault_count = count;
    count = 0;
    qsort(options->steps, options->step_count, sizeof(options->steps[0]), compare_steps);
    for (size_t i = 0; i < options->step_count; i++) {
        if (i == 0 || options->steps[count - 1] != options->steps[i]) {
            options->steps[count++] = options->steps[i];
        }
    }
    options->step_count = count;
}

/* An option without a value. False: it is none of these. */
static bool parse_flag(const char *name, struct options *options) {
    struct {
        const char *name;
        bool *flag;
    } const flags[] = {
        {"--timeline", &options->timeline},
        {"--expect-all-faults", &options->expect_all_faults},
        {"--no-minimise", &options->no_minimise},
        {"--stop-at-failure", &options->stop_at_failure},
        {"--help", &options->help},
    };
    ASSERT(name);
    ASSERT(options);
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        if (strcmp(name, flags[i].name) == 0) {
            *flags[i].flag = true;
            return true;
        }
    }
    return false;
}

/* False: the value is wrong, or there is no such option (then *ret_known is false). */
static bool parse_value(const char *name, const char *value, struct options *options,
                        bool *ret_known) {
    uint64_t number = 0;
    ASSERT(name && value);
    ASSERT(options && ret_known);
    *ret_known = true;
    if (strcmp(name, "--seed") == 0) {
        options->one_seed = true;
        bool right = parse_number(value, strlen(value), UINT64_MAX, &options->seed_first);
        options->seed_last = options->seed_first;
        return right;
    }
    if (strcmp(name, "--seeds") == 0) {
        options->one_seed = false;
        return parse_range(value, options);
    }
    if (strcmp(name, "--jobs") == 0) {
        bool right = parse_number(value, strlen(value), BATCH_JOB_COUNT_MAX, &number) && number > 0;
        options->job_count = (uint32_t)number;
        return right;
    }
    if (strcmp(name, "--repeat") == 0) {
        bool right = parse_number(value, strlen(value), UINT32_MAX, &number) && number > 0;
        options->repeat_count = (uint32_t)number;
        return right;
    }
    if (strcmp(name, "--only-faults") == 0) {
        options->only_faults = true;
        return parse_list(value, options, parse_fault);
    }
    if (strcmp(name, "--only-steps") == 0) {
        options->only_steps = true;
        return parse_list(value, options, parse_step);
    }
    if (strcmp(name, "--json") == 0) {
        options->json_path = value;
        return true;
    }
    *ret_known = false;
    return false;
}

/* Options that make no sense together. NULL: all is well. */
static const char *contradiction(const struct options *options) {
    ASSERT(options);
    ASSERT(options->seed_first <= options->seed_last);
    if (!options->one_seed && (options->timeline || options->repeat_count > 1 ||
                               options->only_faults || options->only_steps)) {
        return "--timeline, --repeat, --only-faults and --only-steps need --seed";
    }
    if (options->timeline && options->repeat_count > 1) {
        return "--timeline is of one run: without --repeat";
    }
    return NULL;
}

bool options_parse(int argc, char **argv, uint32_t cpu_count, struct options *ret_options,
                   char ret_message[static OPTIONS_MESSAGE_SIZE]) {
    ASSERT(argv && ret_options);
    ASSERT(cpu_count > 0);
    memset(ret_options, 0, sizeof(*ret_options));
    ret_options->repeat_count = 1;
    ret_options->job_count = cpu_count < BATCH_JOB_COUNT_MAX ? cpu_count : BATCH_JOB_COUNT_MAX;
    ret_options->seed_first = 1;
    ret_options->seed_last = 1000;
    for (int i = 1; i < argc; i++) {
        bool known = true;
        if (parse_flag(argv[i], ret_options)) {
            continue;
        }
        if (i + 1 < argc && parse_value(argv[i], argv[i + 1], ret_options, &known)) {
            i++;
            continue;
        }
        if (known && i + 1 < argc) {
            snprintf(ret_message, OPTIONS_MESSAGE_SIZE, "%s: %.100s is no value for it", argv[i],
                     argv[i + 1]);
        } else {
            snprintf(ret_message, OPTIONS_MESSAGE_SIZE,
                     "%.100s: there is no such option, or its value is missing; see --help",
                     argv[i]);
        }
        return false;
    }
    const char *wrong = contradiction(ret_options);
    if (wrong) {
        snprintf(ret_message, OPTIONS_MESSAGE_SIZE, "%s", wrong);
        return false;
    }
    sort_lists(ret_options);
    return true;
}

struct run_options options_of_run(const struct options *options) {
    ASSERT(options);
    ASSERT(options->fault_count == 0 || options->only_faults);
    return (struct run_options){
        .seed = options->seed_first,
        .suppressed = options->only_faults ? options->faults : NULL,
        .suppressed_count = options->fault_count,
        .suppress_others = options->only_faults,
        .skipped = options->only_steps ? options->steps : NULL,
        .skipped_count = options->step_count,
        .skip_others = options->only_steps,
    };
}

const char *options_help(void) {
    return "kelpie-sim: runs of the simulator. The same seed gives the same run.\n"
           "\n"
           "  --seed N               one run\n"
           "  --seeds A..B           all runs from A to B (1..1000 when neither is given)\n"
           "  --jobs J               so many at once (as many as there are processors)\n"
           "  --repeat K             the run of --seed K times: each must have the same hash\n"
           "  --timeline             print what happens in it\n"
           "  --only-faults A#3,B#4.17  no other faults than these (or: none): question 3 before "
           "the\n"
           "                         first step, question 17 of step 4\n"
           "  --only-steps 4,9       no other steps than these (or: none)\n"
           "  --no-minimise          do not make a failing run small\n"
           "  --stop-at-failure      begin no more runs when one has failed\n"
           "  --expect-all-faults    fail when a fault never fired\n"
           "  --json FILE            write the figures to a file\n"
           "\n"
           "Exit code 0: all is well; 1: a run failed; 2: it could not be tried.\n";
}
