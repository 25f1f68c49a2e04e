/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Series of measurements: medians, ratios, a table and JSON. */
#ifndef KELPIE_BENCH_SERIES_H
#define KELPIE_BENCH_SERIES_H

#include <stddef.h>

#define SERIES_COUNT_MAX 48
#define SERIES_VALUE_COUNT_MAX 1000

struct series {
    const char *name;
    const char *unit;
    const char *against; /* another series' name; NULL: none */
    double values[SERIES_VALUE_COUNT_MAX];
    size_t count;
    double limit; /* what p50 (or the ratio, with `against`) should not exceed; 0: none */
};

struct report {
    struct series series[SERIES_COUNT_MAX];
    size_t count;
};

/* A new, empty series; the report keeps it. */
struct series *report_add(struct report *report, const char *name, const char *unit,
                          const char *against, double limit);
void series_put(struct series *series, double value);

/* The table on stdout, and the file. Returns 0, or -1 when the file cannot be written. */
int report_print(struct report *report, const char *json_path);

#endif
