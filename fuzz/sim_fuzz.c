/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Whole runs of the simulator, in which the input makes every choice instead of a seed: what the owners do, which thread
 * goes on, what goes wrong. A run that fails aborts, with its reason. Short runs, for there shall be many.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* For the leak checker: what a killed process had is lost, as it would be. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\nleak:own_main\nleak:thread_entry\n";
}

#define STEP_COUNT_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t none[1] = {0};
    struct run_options options = {
        .bytes = size > 0 ? data : none,
        .byte_count = size,
        .step_count_max = STEP_COUNT_MAX,
    };
    struct run_result *result = calloc(1, sizeof(*result));
    ASSERT(result);
    run_seed(&options, result);
    if (result->failed) {
        fprintf(stderr, "sim_fuzz: %s\n", result->reason);
        abort();
    }
    ASSERT(strlen(result->reason) == 0);
    free(result);
    return 0;
}
