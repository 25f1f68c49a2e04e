/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/event.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/assert.h"

static const char *const names[] = {
#define SIM_EVENT_NAME(name, text) text,
    SIM_EVENTS(SIM_EVENT_NAME)
#undef SIM_EVENT_NAME
};
static_assert(ARRAY_SIZE(names) == SIM_EVENT_COUNT, "each has a name");

const char *sim_event_name(enum sim_event event) {
    ASSERT((unsigned)event < SIM_EVENT_COUNT);
    ASSERT(names[event]);
    return names[event];
}

/* A multiplication each, as in FNV, over words instead of bytes; the rotation brings high bits down. */
void sim_log_add(struct sim_log *log, uint32_t who, enum sim_event event, uint64_t value) {
    ASSERT(log);
    ASSERT((unsigned)event < SIM_EVENT_COUNT);
    uint64_t hash = (log->hash ^ ((uint64_t)who << 32 | (uint64_t)event)) * 0x9e3779b97f4a7c15ull;
    hash = (hash << 29 | hash >> 35) ^ value;
    log->hash = hash * 0xd6e8feb86659fd93ull ^ hash >> 32;
}

void sim_log_print(const struct sim_log *log, const char *format, ...) {
    char text[SIM_LINE_SIZE];
    va_list args;
    ASSERT(log->line);
    ASSERT(format);
    va_start(args, format);
    int size = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ASSERT(size >= 0);
    log->line(log->line_argument, text);
}
