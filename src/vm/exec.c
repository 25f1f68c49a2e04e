/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The public face of exec sessions: run and collect, stream, attach. What a session is: session.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "vm/vm.h"

static void check_exec(const struct kelpie_exec *exec) {
    ASSERT(exec);
    ASSERT(exec->magic == EXEC_MAGIC);
}

/* ---- Start, attach, list ---------------------------------------------------------------------- */

/* Opens a session and says EXEC; mutex held. On failure *ret_exec may be set: the caller closes it. */
static enum kelpie_status open_session(struct kelpie_vm *vm, const struct kelpie_command *command,
                                       bool with_stdin, struct kelpie_exec **ret_exec,
                                       struct kelpie_error *err) {
    ASSERT(ret_exec);
    ASSERT(vm->locked);
    ASSERT(!*ret_exec);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (!vm_state_allows(VM_OPERATION_EXEC, vm->state)) {
        return vm_state_error(VM_OPERATION_EXEC, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    TRY(vm_session_create(vm, VM_SESSION_COMMAND, 0, ret_exec, err));
    (*ret_exec)->input_refused = !with_stdin;
    (*ret_exec)->tty = command->tty;
    TRY(vm_command_send(*ret_exec, command, &wait, err));
    return vm_session_await_start(*ret_exec, &wait, err);
}

static enum kelpie_status start_session(struct kelpie_vm *vm, const struct kelpie_command *command,
                                        bool with_stdin, struct kelpie_exec **ret_exec,
                                        struct kelpie_error *err) {
    ASSERT(command);
    ASSERT(ret_exec);
    TRY(vm_command_check(vm->config, command, err));
    if (!(vm_capabilities(vm) & KELPIE_CAN_EXEC)) {
        return error_set(err, KELPIE_UNSUPPORTED, "backend %s cannot run commands",
                         vm_backend_name(vm));
    }
    if (command->tty && !(vm_capabilities(vm) & KELPIE_CAN_TTY)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "tty", "backend %s has no terminals",
                               vm_backend_name(vm));
    }
    struct kelpie_exec *exec = NULL;
    vm_lock(vm);
    enum kelpie_status status = open_session(vm, command, with_stdin, &exec, err);
    vm_unlock(vm);
    if (status != KELPIE_OK) {
        if (exec) {
            vm_session_close(exec, true);
        }
        return status;
    }
    *ret_exec = exec;
    return KELPIE_OK;
}

enum kelpie_status kelpie_exec_start(struct kelpie_vm *vm, const struct kelpie_command *command,
                                     struct kelpie_exec **ret_exec, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(command);
    ASSERT(ret_exec);
    if (command->stdin_size > 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "stdin_size",
                               "stdin_data is for kelpie_vm_exec: set stdin_open and write");
    }
    return start_session(vm, command, command->stdin_open || command->tty, ret_exec, err);
}

/* What the guest, or a relay, made of an ATTACH. */
static enum kelpie_status attach_status(const struct kelpie_exec *exec, struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(!exec->attaching);
    enum kelpie_status status = KELPIE_OK;
    switch (exec->attached.os_error) {
    case 0:
        return KELPIE_OK;
    case EBUSY:
        return error_set(err, KELPIE_BUSY, "session %u has a reader already", exec->id);
    case EAGAIN:
        status = error_set(err, KELPIE_BUSY, "there is no room for session %u for now", exec->id);
        if (err) {
            err->retriable = true;
        }
        return status;
    default:
        return error_set(err, KELPIE_NOT_FOUND, "there is no session %u in the guest", exec->id);
    }
}

/* Whoever has let go of the session has said all, and has been heard. mutex held. */
static enum kelpie_status await_holder(struct kelpie_vm *vm, uint32_t exec_id,
                                       const struct vm_wait *wait, struct kelpie_error *err) {
    const struct kelpie_exec *holder = vm_session_find(vm, exec_id);
    struct vm_relay_look look = {0};
    ASSERT(vm->locked);
    ASSERT(wait);
    while (holder &&
           (holder->closed || (holder->relay && !vm_relay_has_looked(holder->relay, &look)))) {
        struct vm_wait step = *wait;
        bool bounded = !holder->closed && look.deadline_ns < step.deadline_ns;
        step.deadline_ns = bounded ? look.deadline_ns : step.deadline_ns;
        enum kelpie_status status =
            vm_wait_step(vm, &step, "the session's last holder to have said all", err);
        if (status != KELPIE_OK && !(status == KELPIE_TIMED_OUT && bounded)) {
            return status;
        }
        holder = vm_session_find(vm, exec_id);
    }
    return KELPIE_OK;
}

static enum kelpie_status attach_locked(struct kelpie_vm *vm, uint32_t exec_id,
                                        struct kelpie_exec **ret_exec, struct kelpie_error *err) {
    ASSERT(ret_exec);
    ASSERT(vm->locked);
    ASSERT(exec_id != 0);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (!vm_state_allows(VM_OPERATION_EXEC, vm->state)) {
        return vm_state_error(VM_OPERATION_EXEC, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    TRY(await_holder(vm, exec_id, &wait, err));
    const struct kelpie_exec *holder = vm_session_find(vm, exec_id);
    if (holder) {
        return error_set(err, KELPIE_BUSY, "session %u has a handle already", exec_id);
    }
    TRY(vm_session_create(vm, VM_SESSION_COMMAND, exec_id, ret_exec, err));
    struct protocol_attach attach = {.from_acknowledged = true};
    (void)vm_session_recall_offsets(vm, exec_id, &attach);
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, PROTOCOL_HEADER_SIZE + 64, &wait, &writer, err));
    protocol_encode_attach(&writer, exec_id, &attach);
    struct kelpie_exec *exec = *ret_exec;
    exec->attaching = true;
    vm_channel_commit(vm, &writer);
    while (exec->attaching) {
        TRY(vm_session_wait_step(exec, &wait, "the guest to find the session", err));
    }
    return attach_status(exec, err);
}

enum kelpie_status kelpie_exec_attach(struct kelpie_vm *vm, uint32_t exec_id,
                                      struct kelpie_exec **ret_exec, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_exec);
    if (exec_id == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "exec_id", "a session's id is not 0");
    }
    struct kelpie_exec *exec = NULL;
    vm_lock(vm);
    enum kelpie_status status = attach_locked(vm, exec_id, &exec, err);
    vm_unlock(vm);
    if (status != KELPIE_OK) {
        if (exec) {
            vm_session_close(exec, false);
        }
        return status;
    }
    *ret_exec = exec;
    return KELPIE_OK;
}

static enum kelpie_status list_locked(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->ops);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (!vm_state_allows(VM_OPERATION_EXEC, vm->state)) {
        return vm_state_error(VM_OPERATION_EXEC, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    return vm_say_list(vm, &wait, err);
}

enum kelpie_status kelpie_exec_list(struct kelpie_vm *vm, uint32_t *ids, size_t capacity,
                                    size_t *ret_count, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ids || capacity == 0);
    ASSERT(ret_count);
    vm_lock(vm);
    enum kelpie_status status = list_locked(vm, err);
    if (status == KELPIE_OK) {
        const struct protocol_sessions *sessions = &vm->channel.answers.sessions;
        for (size_t i = 0; i < min_size(capacity, sessions->count); i++) {
            ids[i] = sessions->ids[i];
        }
        *ret_count = sessions->count;
    }
    vm_unlock(vm);
    return status;
}

uint32_t kelpie_exec_id(const struct kelpie_exec *exec) {
    check_exec(exec);
    ASSERT(exec->id != 0);
    return exec->id;
}

bool kelpie_exec_has_tty(const struct kelpie_exec *exec) {
    check_exec(exec);
    ASSERT(exec->vm);
    ASSERT(!exec->closed);
    return exec->tty;
}

void kelpie_exec_close(struct kelpie_exec *exec) {
    if (exec) {
        vm_session_close(exec, true);
    }
}

void kelpie_exec_detach(struct kelpie_exec *exec) {
    if (!exec) {
        return;
    }
    check_exec(exec);
    ASSERT(!exec->closed);
    struct kelpie_vm *vm = exec->vm;
    vm_lock(vm);
    if (vm_is_owned(vm)) {
        vm_session_want_acks(exec); /* whoever attaches, there or here, goes on behind them */
    } else {
        vm_session_note_offsets(exec);
    }
    vm_unlock(vm);
    vm_session_close(exec, false);
}

/* ---- Streams ---------------------------------------------------------------------------------- */

/* Takes what there is. True: something came, or both streams have ended. */
static bool read_locked(struct kelpie_exec *exec, struct kelpie_chunk *chunk) {
    ASSERT(exec->vm->locked);
    ASSERT(chunk->size > 0);
    static const enum kelpie_stream streams[VM_OUTPUT_COUNT] = {KELPIE_STREAM_STDOUT,
                                                                KELPIE_STREAM_STDERR};
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        uint64_t offset = exec->outputs[i].receiver.consumed;
        size_t count = vm_is_owned(exec->vm) ? vm_session_lend(exec, i, chunk->buffer, chunk->size)
                                             : vm_session_take(exec, i, chunk->buffer, chunk->size);
        if (count > 0) {
            chunk->size = count;
            chunk->offset = offset;
            chunk->stream = streams[i];
            return true;
        }
    }
    if (vm_session_drained(exec, 0) && vm_session_drained(exec, 1)) {
        chunk->size = 0;
        chunk->offset = 0;
        chunk->stream = KELPIE_STREAM_NONE;
        return true;
    }
    return false;
}

enum kelpie_status kelpie_exec_read(struct kelpie_exec *exec, struct kelpie_chunk *chunk,
                                    uint32_t timeout_ms, struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(chunk);
    if (!chunk->buffer || chunk->size == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "chunk", "the chunk has no buffer");
    }
    TRY(vm_check_timeout("timeout_ms", timeout_ms, err));
    struct kelpie_vm *vm = exec->vm;
    vm_lock(vm);
    vm_session_settle(exec);
    struct vm_wait wait = vm_wait_start(vm, timeout_ms);
    enum kelpie_status status = KELPIE_OK;
    while (status == KELPIE_OK && !read_locked(exec, chunk)) {
        status = vm_session_wait_step(exec, &wait, "output of the command", err);
    }
    vm_unlock(vm);
    return status;
}

/* Why nothing can be written any more, or OK. */
static enum kelpie_status check_input(struct kelpie_exec *exec, struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(!exec->closed);
    if (exec->input_refused || exec->input.ended) {
        error_set_os(err, EPIPE, "the command's stdin is closed");
        if (err) {
            err->status = KELPIE_EXEC_FAILED;
        }
        return KELPIE_EXEC_FAILED;
    }
    return KELPIE_OK;
}

enum kelpie_status vm_session_write(struct kelpie_exec *exec, const void *data, size_t size,
                                    const struct vm_wait *wait, size_t *ret_size,
                                    struct kelpie_error *err) {
    ASSERT(ret_size);
    ASSERT(exec->vm->locked);
    ASSERT(data && size > 0);
    TRY(check_input(exec, err));
    while (protocol_sender_room(&exec->input) == 0) {
        TRY(vm_session_wait_step(exec, wait, "the command to read its stdin", err));
        TRY(check_input(exec, err));
    }
    if (exec->lost) {
        TRY(vm_session_wait_step(exec, wait, "the command to read its stdin", err));
    }
    *ret_size = protocol_sender_write(&exec->input, data, size);
    vm_channel_flush(exec->vm);
    return KELPIE_OK;
}

enum kelpie_status kelpie_exec_write(struct kelpie_exec *exec, const void *data, size_t size,
                                     size_t *ret_size, struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(ret_size);
    if (!data || size == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "data", "there is nothing to write");
    }
    vm_lock(exec->vm);
    struct vm_wait wait = vm_wait_start(exec->vm, exec->vm->config->operation_timeout_ms);
    enum kelpie_status status = vm_session_write(exec, data, size, &wait, ret_size, err);
    vm_unlock(exec->vm);
    return status;
}

/* Runs `change` on a session that still has a machine. */
static enum kelpie_status change_session(struct kelpie_exec *exec,
                                         void (*change)(struct kelpie_exec *exec, uint32_t value),
                                         uint32_t value, struct kelpie_error *err) {
    ASSERT(exec);
    ASSERT(change);
    struct kelpie_vm *vm = exec->vm;
    vm_lock(vm);
    enum kelpie_status status = KELPIE_OK;
    if (exec->lost) {
        status = vm_check_alive(vm, "change the session", err);
        if (status == KELPIE_OK) {
            status = error_set(err, KELPIE_WRONG_STATE, "the session's machine is gone");
        }
    } else {
        change(exec, value);
        vm_channel_flush(vm);
    }
    vm_unlock(vm);
    return status;
}

static void close_input(struct kelpie_exec *exec, uint32_t value) {
    ASSERT(exec->vm->locked);
    ASSERT(!exec->closed);
    (void)value;
    if (!exec->input.ended) {
        protocol_sender_end(&exec->input);
    }
}

enum kelpie_status kelpie_exec_close_stdin(struct kelpie_exec *exec, struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(!exec->closed);
    return change_session(exec, close_input, 0, err);
}

static void want_resize(struct kelpie_exec *exec, uint32_t value) {
    ASSERT(exec->vm->locked);
    ASSERT(value != 0);
    exec->resize = (struct protocol_resize){(uint16_t)(value >> 16), (uint16_t)value};
    exec->resize_wanted = true;
}

enum kelpie_status kelpie_exec_resize(struct kelpie_exec *exec, uint16_t rows, uint16_t columns,
                                      struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(!exec->closed);
    if (rows == 0 || columns == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "rows", "a terminal has rows and columns");
    }
    return change_session(exec, want_resize, (uint32_t)rows << 16 | columns, err);
}

static void want_signal(struct kelpie_exec *exec, uint32_t number) {
    ASSERT(exec->vm->locked);
    ASSERT(number >= 1 && number <= VM_SIGNAL_MAX);
    exec->signals_wanted |= 1ull << (number - 1);
}

enum kelpie_status kelpie_exec_signal(struct kelpie_exec *exec, int signal_number,
                                      struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(!exec->closed);
    if (signal_number < 1 || signal_number > VM_SIGNAL_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "signal_number",
                               "signal_number is %d, and must be 1 to %d", signal_number,
                               VM_SIGNAL_MAX);
    }
    return change_session(exec, want_signal, (uint32_t)signal_number, err);
}

/* ---- The end ---------------------------------------------------------------------------------- */

static struct kelpie_exit exit_of(const struct kelpie_exec *exec) {
    ASSERT(exec->ended);
    const struct protocol_ended *ended = &exec->ended_info;
    struct kelpie_exit result = {
        .stdout_bytes = ended->stdout_bytes,
        .stderr_bytes = ended->stderr_bytes,
    };
    int value = (int)(ended->value & 0xff);
    switch (ended->end) {
    case PROTOCOL_END_EXITED:
        result.code = value;
        break;
    case PROTOCOL_END_SIGNALED:
        result.code = 128 + value;
        result.signal = value;
        break;
    case PROTOCOL_END_TIMED_OUT:
        result.code = 128 + value;
        result.signal = value;
        result.timed_out = true;
        break;
    case PROTOCOL_END_FAILED:
        result.code = 127;
        break;
    case PROTOCOL_END_COUNT:
    default:
        UNREACHABLE();
    }
    return result;
}

enum kelpie_status kelpie_exec_wait(struct kelpie_exec *exec, uint32_t timeout_ms,
                                    struct kelpie_exit *ret_exit, struct kelpie_error *err) {
    check_exec(exec);
    ASSERT(ret_exit);
    TRY(vm_check_timeout("timeout_ms", timeout_ms, err));
    struct kelpie_vm *vm = exec->vm;
    vm_lock(vm);
    struct vm_wait wait = vm_wait_start(vm, timeout_ms);
    enum kelpie_status status = KELPIE_OK;
    while (status == KELPIE_OK && !exec->ended) {
        status = vm_session_wait_step(exec, &wait, "the command to end", err);
    }
    if (status == KELPIE_OK) {
        *ret_exit = exit_of(exec);
    }
    vm_unlock(vm);
    return status;
}

/* ---- Run and collect -------------------------------------------------------------------------- */

/* What one stream has said so far. Grows by doubling, up to a limit; the rest is counted out. */
struct collector {
    char *data;
    size_t size;
    size_t capacity;
    size_t limit;
    bool truncated;
};

/* Room for one more piece and a closing zero. */
static enum kelpie_status collector_grow(struct host *host, struct collector *collector,
                                         struct kelpie_error *err) {
    ASSERT(collector->size <= collector->limit);
    ASSERT(collector->limit <= KELPIE_OUTPUT_BYTES_MAX);
    ASSERT(collector->size == 0 || collector->size < collector->capacity);
    if (collector->size + 1 < collector->capacity) {
        return KELPIE_OK;
    }
    size_t capacity = collector->capacity == 0 ? VM_COLLECT_SIZE_MIN : 2 * collector->capacity;
    capacity = min_size(capacity, collector->limit + 1);
    char *data = host_allocate(host, capacity, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    if (collector->size > 0) {
        memcpy(data, collector->data, collector->size);
    }
    free(collector->data);
    collector->data = data;
    collector->capacity = capacity;
    return KELPIE_OK;
}

/* Takes all that is there. */
static enum kelpie_status collect(struct kelpie_exec *exec, size_t output,
                                  struct collector *collector, struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(output < VM_OUTPUT_COUNT);
    char dropped[4096];
    while (exec->outputs[output].ring.size > 0) {
        if (collector->size == collector->limit) {
            collector->truncated = true;
            vm_session_take(exec, output, dropped, sizeof(dropped));
            continue;
        }
        TRY(collector_grow(exec->vm->host, collector, err));
        size_t room = min_size(collector->capacity - 1, collector->limit) - collector->size;
        collector->size += vm_session_take(exec, output, collector->data + collector->size, room);
    }
    return KELPIE_OK;
}

/* Feeds stdin as far as it goes now. */
static void feed(struct kelpie_exec *exec, const struct kelpie_command *command, size_t *fed) {
    ASSERT(exec->vm->locked);
    ASSERT(*fed <= command->stdin_size);
    if (exec->input_refused || exec->input.ended) {
        return;
    }
    *fed += protocol_sender_write(&exec->input, (const uint8_t *)command->stdin_data + *fed,
                                  command->stdin_size - *fed);
    if (*fed == command->stdin_size) {
        protocol_sender_end(&exec->input);
    }
    vm_channel_flush(exec->vm);
}

static enum kelpie_status run_to_end(struct kelpie_exec *exec, const struct kelpie_command *command,
                                     struct collector collectors[VM_OUTPUT_COUNT],
                                     struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->started || exec->ended);
    struct vm_wait wait = vm_session_wait_start(exec, 0);
    size_t fed = 0;
    for (;;) {
        feed(exec, command, &fed);
        for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
            TRY(collect(exec, i, &collectors[i], err));
        }
        if (exec->ended) {
            break;
        }
        TRY(vm_session_wait_step(exec, &wait, "the command to end", err));
    }
    if (exec->ended_info.end == PROTOCOL_END_TIMED_OUT) {
        return error_set(err, KELPIE_EXEC_TIMED_OUT,
                         "%s ran longer than %u ms and was killed with all that it started",
                         command->argv[0], command->timeout_ms);
    }
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        TRY(collector_grow(exec->vm->host, &collectors[i], err));
        collectors[i].data[collectors[i].size] = 0;
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_vm_exec(struct kelpie_vm *vm, const struct kelpie_command *command,
                                  struct kelpie_output *ret_output, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(command);
    ASSERT(ret_output);
    uint64_t start_ns = host_monotonic_ns(vm->host);
    struct kelpie_exec *exec = NULL;
    TRY(start_session(vm, command, command->stdin_size > 0 || command->tty, &exec, err));
    size_t limit = command->output_bytes_max != 0 ? command->output_bytes_max
                                                  : (size_t)KELPIE_OUTPUT_BYTES_DEFAULT;
    struct collector collectors[VM_OUTPUT_COUNT] = {{.limit = limit}, {.limit = limit}};
    vm_lock(vm);
    enum kelpie_status status = run_to_end(exec, command, collectors, err);
    struct kelpie_exit exit = status == KELPIE_OK ? exit_of(exec) : (struct kelpie_exit){0};
    vm_unlock(vm);
    vm_session_close(exec, true);
    if (status != KELPIE_OK) {
        free(collectors[0].data);
        free(collectors[1].data);
        return status;
    }
    *ret_output = (struct kelpie_output){
        .exit = exit,
        .stdout_data = collectors[0].data,
        .stdout_size = collectors[0].size,
        .stderr_data = collectors[1].data,
        .stderr_size = collectors[1].size,
        .stdout_truncated = collectors[0].truncated,
        .stderr_truncated = collectors[1].truncated,
        .duration_ns = host_monotonic_ns(vm->host) - start_ns,
    };
    return KELPIE_OK;
}

void kelpie_output_free(struct kelpie_output *output) {
    if (output) {
        free(output->stdout_data);
        free(output->stderr_data);
        *output = (struct kelpie_output){0};
    }
}
