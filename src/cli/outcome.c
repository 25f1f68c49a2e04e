/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/outcome.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "cli/cli.h"
#include "cli/output.h"

#define COLLECT_SIZE_MIN 4096

static void collected_check(const struct outcome_collected *collected) {
    ASSERT(collected);
    ASSERT(collected->size <= collected->capacity);
    ASSERT(collected->size <= CLI_COLLECT_SIZE_MAX);
}

static void outcome_check(const struct outcome *outcome) {
    ASSERT(outcome);
    ASSERT(outcome->signal >= 0);
    ASSERT((unsigned)outcome->err.status < KELPIE_STATUS_COUNT);
}

/* A command that could not be started: the codes of a shell. */
static int exit_code_of_exec(int os_error) {
    ASSERT(os_error >= 0);
    switch (os_error) {
    case ENOENT:
        return CLI_EXIT_NOT_FOUND;
    case EACCES:
    case EPERM:
    case ENOEXEC:
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ETXTBSY:
        return CLI_EXIT_NOT_EXECUTABLE;
    default:
        return CLI_EXIT_FAILED;
    }
}

int outcome_exit_code(const struct outcome *outcome) {
    outcome_check(outcome);
    ASSERT(outcome->signal >= 0);
    if (outcome->reader_gone) {
        return CLI_EXIT_SIGNAL + SIGPIPE;
    }
    if (outcome->signal != 0) {
        return CLI_EXIT_SIGNAL + outcome->signal;
    }
    if (outcome->err.status == KELPIE_EXEC_TIMED_OUT) {
        return CLI_EXIT_TIMED_OUT;
    }
    if (outcome->err.status == KELPIE_EXEC_FAILED) {
        return exit_code_of_exec(outcome->err.os_error);
    }
    if (outcome->err.status != KELPIE_OK) {
        return CLI_EXIT_FAILED;
    }
    return outcome->exit.timed_out ? CLI_EXIT_TIMED_OUT : outcome->exit.code;
}

void outcome_say(const struct outcome *outcome, const struct option_table *table,
                 uint32_t timeout_ms) {
    outcome_check(outcome);
    ASSERT(table);
    ASSERT(timeout_ms <= KELPIE_TIMEOUT_MS_MAX);
    bool told_to_end = outcome->reader_gone || outcome->signal != 0;
    if (told_to_end) {
        return;
    }
    if (outcome->err.status != KELPIE_OK) {
        output_error(table, &outcome->err);
    } else if (outcome->exit.timed_out && timeout_ms != 0) {
        fprintf(stderr, "kelpie: the command ran longer than %u ms and was killed\n", timeout_ms);
    } else if (outcome->exit.timed_out) {
        fputs("kelpie: the command ran longer than its timeout and was killed\n", stderr);
    }
}

/* ---- Collecting ------------------------------------------------------------------------------- */

static enum kelpie_status grow(struct outcome_collected *collected, size_t needed,
                               struct kelpie_error *err) {
    collected_check(collected);
    ASSERT(needed <= CLI_COLLECT_SIZE_MAX);
    if (needed <= collected->capacity) {
        return KELPIE_OK;
    }
    size_t capacity = collected->capacity == 0 ? COLLECT_SIZE_MIN : collected->capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    char *data = realloc(collected->data, capacity);
    if (!data) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for %zu bytes of output", capacity);
    }
    collected->data = data;
    collected->capacity = capacity;
    return KELPIE_OK;
}

enum kelpie_status outcome_collect(struct outcome_collected *collected, const void *data,
                                   size_t size, struct kelpie_error *err) {
    collected_check(collected);
    ASSERT(data || size == 0);
    ASSERT(collected->size <= CLI_COLLECT_SIZE_MAX);
    size_t kept = min_size(size, CLI_COLLECT_SIZE_MAX - collected->size);
    collected->truncated |= kept < size;
    if (kept == 0) {
        return KELPIE_OK;
    }
    TRY(grow(collected, collected->size + kept, err));
    memcpy(collected->data + collected->size, data, kept);
    collected->size += kept;
    return KELPIE_OK;
}

void outcome_deinit(struct outcome *outcome) {
    outcome_check(outcome);
    free(outcome->stdout_bytes.data);
    free(outcome->stderr_bytes.data);
    outcome->stdout_bytes = (struct outcome_collected){0};
    outcome->stderr_bytes = (struct outcome_collected){0};
}

/* ---- JSON ------------------------------------------------------------------------------------- */

json_t *outcome_json_ms(uint64_t ns) {
    ASSERT(ns <= INT64_MAX);
    return ns == 0 ? json_null() : json_real((double)ns / 1e6);
}

static json_t *json_stream(const struct outcome_collected *collected) {
    collected_check(collected);
    ASSERT(collected->size <= collected->capacity);
    json_t *stream = output_json_bytes(collected->data, collected->size);
    if (stream) {
        json_object_set_new(stream, "truncated", json_boolean(collected->truncated));
    }
    return stream;
}

bool outcome_json(const struct outcome *outcome, json_t *object) {
    outcome_check(outcome);
    ASSERT(object);
    bool failed = outcome->err.status != KELPIE_OK;
    json_t *fields = json_pack(
        "{s:i, s:i, s:b, s:o, s:o, s:o}", "exit_code", outcome_exit_code(outcome), "signal",
        outcome->exit.signal, "timed_out",
        outcome->exit.timed_out || outcome->err.status == KELPIE_EXEC_TIMED_OUT, "stdout",
        json_stream(&outcome->stdout_bytes), "stderr", json_stream(&outcome->stderr_bytes), "error",
        failed ? output_json_error(&outcome->err) : json_null());
    ASSERT(json_is_object(object));
    bool whole = fields && json_object_update(object, fields) == 0;
    json_decref(fields);
    return whole;
}
