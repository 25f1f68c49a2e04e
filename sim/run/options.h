/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* options.h: what the command line of kelpie-sim asks for. */
#ifndef KELPIE_SIM_RUN_OPTIONS_H
#define KELPIE_SIM_RUN_OPTIONS_H

#include "sim/run/run.h"

#define OPTIONS_MESSAGE_SIZE 256
#define OPTIONS_RUN_COUNT_MAX 1000000000000ull

struct options {
    uint64_t seed_first;
    uint64_t seed_last;
    bool one_seed; /* --seed, not --seeds */
    uint32_t repeat_count;
    uint32_t job_count;
    bool timeline;
    bool expect_all_faults;
    bool no_minimise;
    bool stop_at_failure;
    bool help;
    const char *json_path;                                    /* NULL: none */
    bool only_faults;                                         /* those in `faults` */
    struct sim_fault_event faults[SIM_FAULT_FIRED_COUNT_MAX]; /* sorted, each once */
    size_t fault_count;
    bool only_steps; /* those in `steps` */
    uint32_t steps[RUN_STEP_COUNT_MAX];
    size_t step_count;
};

/* False: ret_message says what is wrong. cpu_count: how many jobs there are unless --jobs says so. */
bool options_parse(int argc, char **argv, uint32_t cpu_count, struct options *ret_options,
                   char ret_message[static OPTIONS_MESSAGE_SIZE]);

/* For a run with seed_first. It points into options. */
struct run_options options_of_run(const struct options *options);

/* The words of --help. */
const char *options_help(void);

#endif
