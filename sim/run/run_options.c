/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/assert.h"
#include "sim/run/run.h"

void run_options_limit_faults(const struct run_options *options, struct sim_faults *faults) {
    ASSERT(options);
    ASSERT(faults);
    ASSERT(faults->event_count == 0);
    if (options->suppress_others) {
        sim_faults_allow(faults, options->suppressed, options->suppressed_count);
    } else {
        sim_faults_suppress(faults, options->suppressed, options->suppressed_count);
    }
}

bool run_options_skip(const struct run_options *options, uint32_t step) {
    size_t low = 0;
    ASSERT(options);
    ASSERT(options->skipped || options->skipped_count == 0);
    size_t high = options->skipped_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (options->skipped[middle] < step) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low <= options->skipped_count);
    bool listed = low < options->skipped_count && options->skipped[low] == step;
    return listed != options->skip_others;
}
