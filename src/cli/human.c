/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/human.h"

#include <stdio.h>
#include <time.h>

#include "base/assert.h"

#define MS_PER_S 1000ull
#define NS_PER_MS 1000000
#define YEAR_9999_S 253402300799ull /* the last that has four digits */

const char *human_bytes(uint64_t bytes, char text[HUMAN_SIZE]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    ASSERT(text);
    size_t unit = 0;
    double value = (double)bytes;
    /* 1023.96 would be printed as 1024.0. */
    for (; value >= 1023.95 && unit + 1 < ARRAY_SIZE(units); unit++) {
        value /= 1024;
    }
    ASSERT(unit < ARRAY_SIZE(units));
    snprintf(text, HUMAN_SIZE, "%.*f%s", unit == 0 || value >= 99.95 ? 0 : 1, value, units[unit]);
    return text;
}

const char *human_duration(uint64_t duration_ms, char text[HUMAN_SIZE]) {
    static const struct {
        uint64_t seconds;
        uint64_t from; /* seconds from which on it is used: 90 minutes say more than 1 hour */
        char letter;
    } units[] = {{86400, 2 * 86400, 'd'}, {3600, 2 * 3600, 'h'}, {60, 2 * 60, 'm'}, {1, 0, 's'}};
    ASSERT(text);
    uint64_t seconds = duration_ms / MS_PER_S;
    size_t unit = 0;
    while (seconds < units[unit].from) {
        unit++;
    }
    ASSERT(unit < ARRAY_SIZE(units));
    snprintf(text, HUMAN_SIZE, "%llu%c", (unsigned long long)(seconds / units[unit].seconds),
             units[unit].letter);
    return text;
}

uint64_t human_now_unix_ms(void) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_REALTIME, &now);
    ASSERT(result == 0);
    ASSERT(now.tv_nsec >= 0);
    return now.tv_sec < 0 ? 0
                          : (uint64_t)now.tv_sec * MS_PER_S + (uint64_t)(now.tv_nsec / NS_PER_MS);
}

const char *human_age(uint64_t unix_ms, char text[HUMAN_SIZE]) {
    ASSERT(text);
    if (unix_ms == 0) {
        snprintf(text, HUMAN_SIZE, "-");
        return text;
    }
    uint64_t now = human_now_unix_ms();
    return human_duration(now > unix_ms ? now - unix_ms : 0, text);
}

const char *human_time(uint64_t unix_ms, char text[HUMAN_TIME_SIZE]) {
    ASSERT(text);
    uint64_t seconds = unix_ms / MS_PER_S;
    time_t time_s = (time_t)(seconds < YEAR_9999_S ? seconds : YEAR_9999_S);
    struct tm parts = {0};
    const struct tm *converted = gmtime_r(&time_s, &parts);
    ASSERT(converted);
    size_t size = strftime(text, HUMAN_TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + size, HUMAN_TIME_SIZE - size, ".%03uZ", (unsigned)(unix_ms % MS_PER_S));
    return text;
}
