/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "series.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/assert.h"

struct series *report_add(struct report *report, const char *name, const char *unit,
                          const char *against, double limit) {
    ASSERT(report->count < SERIES_COUNT_MAX);
    struct series *series = &report->series[report->count++];
    *series = (struct series){.name = name, .unit = unit, .against = against, .limit = limit};
    return series;
}

void series_put(struct series *series, double value) {
    ASSERT(series->count < SERIES_VALUE_COUNT_MAX);
    series->values[series->count++] = value;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest value that at least `part` of the (sorted) values do not exceed. */
static double quantile(const struct series *series, double part) {
    ASSERT(series->count > 0);
    double exact = part * (double)series->count;
    size_t rank = (size_t)exact;
    rank += (double)rank < exact ? 1 : 0;
    return series->values[rank > 0 ? rank - 1 : 0];
}

static const struct series *find(const struct report *report, const char *name) {
    for (size_t i = 0; i < report->count; i++) {
        if (strcmp(report->series[i].name, name) == 0) {
            return &report->series[i];
        }
    }
    return NULL;
}

static json_t *describe(const struct report *report, const struct series *series) {
    double p50 = quantile(series, 0.5);
    double p99 = quantile(series, 0.99);
    const struct series *against = series->against ? find(report, series->against) : NULL;
    double ratio = against ? p50 / quantile(against, 0.5) : 0;
    double held = against ? ratio : p50;
    const char *verdict = series->limit <= 0 ? "" : held <= series->limit ? "ok" : "OVER";
    printf("%-22s %5zu %12.3f %12.3f %-6s", series->name, series->count, p50, p99, series->unit);
    if (against) {
        printf(" %6.2f of %s", ratio, series->against);
    }
    if (series->limit > 0) {
        printf("  (at most %g: %s)", series->limit, verdict);
    }
    printf("\n");
    json_t *entry = json_pack("{s:s, s:s, s:i, s:f, s:f}", "name", series->name, "unit",
                              series->unit, "n", (int)series->count, "p50", p50, "p99", p99);
    json_object_set_new(entry, "against", against ? json_string(series->against) : json_null());
    json_object_set_new(entry, "ratio", against ? json_real(ratio) : json_null());
    return entry;
}

int report_print(struct report *report, const char *json_path) {
    for (size_t i = 0; i < report->count; i++) {
        struct series *series = &report->series[i];
        qsort(series->values, series->count, sizeof(series->values[0]), compare);
    }
    printf("%-22s %5s %12s %12s\n", "name", "n", "p50", "p99");
    json_t *list = json_array();
    for (size_t i = 0; i < report->count; i++) {
        if (report->series[i].count > 0) {
            json_array_append_new(list, describe(report, &report->series[i]));
        }
    }
    int result = json_dump_file(list, json_path, JSON_INDENT(2));
    json_decref(list);
    return result;
}
