/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Steps that run commands. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define SEQUENCE_COUNT_MAX 20000u
#define SEQUENCE_SIZE_MAX (SEQUENCE_COUNT_MAX * 6u)
#define READ_COUNT_MAX 100000u
#define LARGE_SIZE_MAX 200000u
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- A file in the guest ---------------------------------------------------------------------- */

/* A small one, so that the guest's shell writes it at once. */
static void exec_write(struct scenario *scenario, struct scenario_vm *slot,
                       const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    char script[SCENARIO_PATH_SIZE];
    uint32_t id = ++scenario->content_id_last;
    ASSERT(step->file < STEPS_FILE_COUNT);
    snprintf(script, sizeof(script), "echo %u > /tmp/e%u", id, step->file);
    const struct kelpie_command command = {.argv = ARGV("sh", "-c", script),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    const struct model_op op = {
        .kind = MODEL_EXEC_WRITE, .file = (uint8_t)(step->file + STEPS_FILE_COUNT), .id = id};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_vm_exec(slot->vm, &command, &output, &err);
    bool done = status == KELPIE_OK && output.exit.code == 0 && !output.exit.timed_out;
    actions_end(scenario, slot, index, status == KELPIE_OK && !done ? KELPIE_EXEC_FAILED : status,
                0);
    actions_expect_clear(scenario, "exec write", status, &err);
    kelpie_output_free(&output);
}

static void exec_read(struct scenario *scenario, struct scenario_vm *slot,
                      const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    char path[SCENARIO_PATH_SIZE];
    uint32_t id = MODEL_ABSENT;
    ASSERT(step->file < STEPS_FILE_COUNT);
    snprintf(path, sizeof(path), "/tmp/e%u", step->file);
    const struct kelpie_command command = {.argv = ARGV("cat", path),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    const struct model_op op = {.kind = MODEL_EXEC_READ,
                                .file = (uint8_t)(step->file + STEPS_FILE_COUNT)};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_vm_exec(slot->vm, &command, &output, &err);
    actions_expect_clear(scenario, "exec read", status, &err);
    bool absent = output.exit.code == 1;
    if (status == KELPIE_OK && (output.exit.timed_out || (output.exit.code != 0 && !absent))) {
        status = KELPIE_EXEC_FAILED; /* it was killed: it says nothing */
    } else if (status == KELPIE_OK && !absent) {
        id = (uint32_t)strtoul(output.stdout_data, NULL, 10);
        if (output.stdout_size == 0 && scenario->world->faults.fired[SIM_FAULT_MEMORY_NONE] > 0) {
            status = KELPIE_EXEC_FAILED; /* the guest's shell ran out of memory as it wrote */
        } else if (id == 0 || id > scenario->content_id_last) {
            actions_fail_bytes(scenario, "wrong bytes: %s holds \"%.40s\"", path,
                               output.stdout_data);
        }
    }
    actions_end(scenario, slot, index, status, id);
    kelpie_output_free(&output);
}

/* ---- Bytes there and back --------------------------------------------------------------------- */

static void exec_echo(struct scenario *scenario, struct scenario_vm *slot) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    uint32_t id = ++scenario->content_id_last;
    uint8_t *data = malloc(SCENARIO_CONTENT_SIZE_MAX);
    ASSERT(slot->vm);
    ASSERT(id != MODEL_ABSENT);
    if (!data) {
        return;
    }
    const struct kelpie_command command = {.argv = ARGV("cat"),
                                           .stdin_data = data,
                                           .stdin_size = contents_make(id, data),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    const struct model_op op = {.kind = MODEL_EXEC_ECHO, .id = id};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_vm_exec(slot->vm, &command, &output, &err);
    actions_expect_clear(scenario, "exec echo", status, &err);
    uint32_t came = 0;
    if (status == KELPIE_OK && output.exit.code == 0) {
        came = contents_recognize(output.stdout_data, output.stdout_size);
    } else if (status == KELPIE_OK) {
        status = KELPIE_EXEC_FAILED;
    }
    actions_end(scenario, slot, index, status, came);
    kelpie_output_free(&output);
    free(data);
}

/* A command line that fills the channel's queue, beside others: what it says comes back whole. */
static void exec_large(struct scenario *scenario, struct scenario_vm *slot,
                       const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    size_t size = 1 + step->value % LARGE_SIZE_MAX;
    char *text = malloc(size + 1);
    ASSERT(slot->vm);
    if (!text) {
        return;
    }
    memset(text, 'x', size);
    text[size] = '\0';
    const struct kelpie_command command = {.argv = ARGV("echo", text),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    enum kelpie_status status = kelpie_vm_exec(slot->vm, &command, &output, &err);
    actions_expect_clear(scenario, "exec of a long line", status, &err);
    if (status == KELPIE_OK && output.exit.code == 0 &&
        (output.stdout_size != size + 1 || memcmp(output.stdout_data, text, size) != 0)) {
        actions_fail_bytes(scenario, "wrong bytes: a long line of %zu came back as %zu", size,
                           output.stdout_size);
    }
    kelpie_output_free(&output);
    free(text);
    ASSERT(size <= LARGE_SIZE_MAX);
}

/* A timeout always fires, however the command behaves. */
static void exec_timeout(struct scenario *scenario, struct scenario_vm *slot,
                         const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("sleep", "100000"),
                                           .timeout_ms = 1 + step->value % 5000};
    ASSERT(slot->vm);
    enum kelpie_status status = kelpie_vm_exec(slot->vm, &command, &output, &err);
    if (status == KELPIE_OK && !output.exit.timed_out && output.exit.signal == 0 &&
        output.exit.code == 0) {
        actions_fail_bytes(scenario, "a sleep of a day ended by itself");
    }
    actions_expect_clear(scenario, "exec with a timeout", status, &err);
    kelpie_output_free(&output);
    ASSERT(command.timeout_ms > 0);
    ASSERT(slot->users > 0);
}

/* ---- Sessions --------------------------------------------------------------------------------- */

/* "1\n2\n…", as much as size. */
static size_t sequence_make(char *buffer, size_t size, uint32_t count) {
    size_t used = 0;
    ASSERT(buffer && size > 0);
    ASSERT(count <= SEQUENCE_COUNT_MAX);
    for (uint32_t i = 1; i <= count && used + 8 < size; i++) {
        used += (size_t)snprintf(buffer + used, size - used, "%u\n", i);
    }
    return used;
}

/* Reads on from offset until the end, an error, or a number of pieces. Each byte must be the one at its offset, and none may
 * be missing. Returns where it stopped. */
static uint64_t read_sequence(struct scenario *scenario, struct kelpie_exec *exec, uint64_t offset,
                              uint32_t piece_max) {
    struct kelpie_error err = {0};
    char *expected = malloc(SEQUENCE_SIZE_MAX + 1);
    char piece[5000];
    size_t size = expected ? sequence_make(expected, SEQUENCE_SIZE_MAX, SEQUENCE_COUNT_MAX) : 0;
    ASSERT(exec);
    ASSERT(size <= SEQUENCE_SIZE_MAX);
    for (uint32_t i = 0; expected && i < piece_max && i < READ_COUNT_MAX; i++) {
        struct kelpie_chunk chunk = {.buffer = piece, .size = sizeof(piece)};
        enum kelpie_status status = kelpie_exec_read(exec, &chunk, SCENARIO_TIMEOUT_MS, &err);
        actions_expect_clear(scenario, "read", status, &err);
        if (status != KELPIE_OK || chunk.stream == KELPIE_STREAM_NONE) {
            break;
        }
        if (chunk.stream == KELPIE_STREAM_STDOUT &&
            (chunk.offset + chunk.size > size ||
             memcmp(expected + chunk.offset, piece, chunk.size) != 0)) {
            actions_fail_bytes(scenario, "wrong bytes: %zu of a stream at %llu", chunk.size,
                               (unsigned long long)chunk.offset);
            break;
        }
        if (chunk.stream == KELPIE_STREAM_STDOUT) {
            if (offset != SCENARIO_OFFSET_UNKNOWN && chunk.offset != offset) {
                actions_fail_bytes(scenario, "wrong bytes: a stream goes on at %llu and not %llu",
                                   (unsigned long long)chunk.offset, (unsigned long long)offset);
            }
            offset = chunk.offset + chunk.size;
        }
    }
    ASSERT(offset == SCENARIO_OFFSET_UNKNOWN || offset <= SEQUENCE_SIZE_MAX);
    free(expected);
    return offset;
}

static void stream(struct scenario *scenario, struct scenario_vm *slot,
                   const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exit ended = {0};
    char count[16];
    snprintf(count, sizeof(count), "%u", 1 + step->value % SEQUENCE_COUNT_MAX);
    const struct kelpie_command command = {.argv = ARGV("seq", count)};
    ASSERT(slot->vm);
    enum kelpie_status status = kelpie_exec_start(slot->vm, &command, &exec, &err);
    actions_expect_clear(scenario, "exec start", status, &err);
    if (status != KELPIE_OK) {
        return;
    }
    ASSERT(exec);
    ASSERT(step->action == STEPS_STREAM);
    (void)read_sequence(scenario, exec, 0, UINT32_MAX);
    err = (struct kelpie_error){0};
    status = kelpie_exec_wait(exec, SCENARIO_TIMEOUT_MS, &ended, &err);
    actions_expect_clear(scenario, "exec wait", status, &err);
    kelpie_exec_close(exec);
}

static void terminal(struct scenario *scenario, struct scenario_vm *slot) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exit ended = {0};
    size_t written = 0;
    const struct kelpie_command command = {.argv = ARGV("cat"), .tty = true, .stdin_open = true};
    ASSERT(slot->vm);
    enum kelpie_status status = kelpie_exec_start(slot->vm, &command, &exec, &err);
    actions_expect_clear(scenario, "exec start", status, &err);
    if (status != KELPIE_OK) {
        return;
    }
    enum kelpie_status statuses[] = {
        kelpie_exec_resize(exec, 30, 100, &err),
        kelpie_exec_write(exec, "words\n", 6, &written, &err),
        kelpie_exec_signal(exec, 2, &err),
        kelpie_exec_close_stdin(exec, &err),
        kelpie_exec_wait(exec, SCENARIO_TIMEOUT_MS, &ended, &err),
    };
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        ASSERT((unsigned)statuses[i] < KELPIE_STATUS_COUNT);
    }
    kelpie_exec_close(exec);
}

static void detach(struct scenario *scenario, struct scenario_vm *slot,
                   const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    char count[16];
    snprintf(count, sizeof(count), "%u", SEQUENCE_COUNT_MAX);
    const struct kelpie_command command = {.argv = ARGV("seq", count)};
    ASSERT(slot->vm);
    enum kelpie_status status = kelpie_exec_start(slot->vm, &command, &exec, &err);
    actions_expect_clear(scenario, "exec start", status, &err);
    if (status == KELPIE_OK) {
        slot->session_offset = read_sequence(scenario, exec, 0, step->value % 8);
        slot->session_id = kelpie_exec_id(exec);
        kelpie_exec_detach(exec);
    }
    ASSERT((status == KELPIE_OK) == (exec != NULL));
}

/* Whatever became of the machine meanwhile: what it still says is right. */
static void attach(struct scenario *scenario, struct scenario_vm *slot,
                   const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    uint32_t id = slot->session_id;
    uint64_t offset = slot->session_offset;
    ASSERT(slot->vm);
    if (id == 0) {
        return;
    }
    slot->session_id = 0; /* nobody else attaches to it */
    enum kelpie_status status = kelpie_exec_attach(slot->vm, id, &exec, &err);
    actions_expect_clear(scenario, "attach", status, &err);
    if (status == KELPIE_OK) {
        (void)read_sequence(scenario, exec, offset,
                            step->value % 4 == 0 ? step->value % 5 : UINT32_MAX);
        kelpie_exec_close(exec);
    }
    ASSERT((status == KELPIE_OK) == (exec != NULL));
}

void actions_exec(struct scenario *scenario, struct scenario_vm *slot,
                  const struct steps_step *step) {
    ASSERT(slot->vm);
    ASSERT(step->action >= STEPS_EXEC_WRITE && step->action <= STEPS_ATTACH);
    switch ((int)step->action) {
    case STEPS_EXEC_WRITE:
        exec_write(scenario, slot, step);
        break;
    case STEPS_EXEC_READ:
        exec_read(scenario, slot, step);
        break;
    case STEPS_EXEC_ECHO:
        exec_echo(scenario, slot);
        break;
    case STEPS_EXEC_LARGE:
        exec_large(scenario, slot, step);
        break;
    case STEPS_EXEC_TIMEOUT:
        exec_timeout(scenario, slot, step);
        break;
    case STEPS_STREAM:
        stream(scenario, slot, step);
        break;
    case STEPS_TERMINAL:
        terminal(scenario, slot);
        break;
    case STEPS_DETACH:
        detach(scenario, slot, step);
        break;
    default:
        attach(scenario, slot, step);
        break;
    }
}
