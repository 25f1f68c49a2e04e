/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Exec sessions, the host's side: frames in, frames out, and the bytes between the guest and the reader.
 *
 * A session never queues a frame when something happens to it; it notes what it wants to say, and
 * vm_session_speak() says it when the channel has room and the guest does not stand still.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/vm.h"

/* The next number of our block that no session has. */
static uint32_t next_id(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count < KELPIE_EXEC_COUNT_MAX);
    static_assert(VM_RELAY_IDS_COUNT > KELPIE_EXEC_COUNT_MAX + PROTOCOL_SESSION_COUNT_MAX + 1,
                  "one is free");
    do {
        vm->session_id_last++;
        if (vm->session_id_last < vm->ids_first ||
            vm->session_id_last - vm->ids_first >= vm->ids_count) {
            vm->session_id_last = vm->ids_first;
        }
    } while (vm_session_find(vm, vm->session_id_last) ||
             vm_guest_session_is_known(vm, vm->session_id_last));
    return vm->session_id_last;
}

/* An element of the table, with nothing in it. */
static enum kelpie_status session_add(struct kelpie_vm *vm, enum vm_session_kind kind, uint32_t id,
                                      struct kelpie_exec **ret_exec, struct kelpie_error *err) {
    ASSERT(ret_exec);
    ASSERT(vm->locked);
    if (vm->session_count == KELPIE_EXEC_COUNT_MAX) {
        return error_set(err, KELPIE_BUSY, "the VM has %d sessions already: close some",
                         KELPIE_EXEC_COUNT_MAX);
    }
    struct kelpie_exec *exec = host_allocate(vm->host, sizeof(*exec), err);
    if (!exec) {
        return KELPIE_NO_MEMORY;
    }
    exec->magic = EXEC_MAGIC;
    exec->vm = vm;
    exec->cancel_count = vm->cancel_count;
    exec->kind = kind;
    exec->id = id != 0 ? id : next_id(vm);
    vm->sessions[vm->session_count++] = exec;
    *ret_exec = exec;
    return KELPIE_OK;
}

enum kelpie_status vm_session_create(struct kelpie_vm *vm, enum vm_session_kind kind, uint32_t id,
                                     struct kelpie_exec **ret_exec, struct kelpie_error *err) {
    ASSERT(ret_exec);
    ASSERT(vm->locked);
    ASSERT(id == 0 || !vm_session_find(vm, id));
    uint8_t *buffer = host_allocate(vm->host, 3 * PROTOCOL_WINDOW_SIZE, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    struct kelpie_exec *exec = NULL;
    enum kelpie_status status = session_add(vm, kind, id, &exec, err);
    if (status != KELPIE_OK) {
        free(buffer);
        return status;
    }
    exec->buffer = buffer;
    protocol_sender_init(&exec->input, exec->buffer, PROTOCOL_WINDOW_SIZE);
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        protocol_receiver_init(&exec->outputs[i].receiver, 0);
        ring_init(&exec->outputs[i].ring, exec->buffer + (i + 1) * PROTOCOL_WINDOW_SIZE,
                  PROTOCOL_WINDOW_SIZE);
    }
    vm->reference_count++;
    *ret_exec = exec;
    return KELPIE_OK;
}

enum kelpie_status vm_session_create_relayed(struct vm_relay *relay, struct kelpie_vm *vm,
                                             enum vm_session_kind kind, uint32_t id,
                                             struct kelpie_exec **ret_exec,
                                             struct kelpie_error *err) {
    ASSERT(relay && ret_exec);
    ASSERT(vm->locked);
    ASSERT(id != 0 && !vm_session_find(vm, id));
    TRY(session_add(vm, kind, id, ret_exec, err));
    (*ret_exec)->relay = relay;
    return KELPIE_OK;
}

struct kelpie_exec *vm_session_find(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < vm->session_count; i++) {
        if (vm->sessions[i]->id == id && !vm->sessions[i]->yielded) {
            return vm->sessions[i];
        }
    }
    return NULL;
}

struct kelpie_exec *vm_session_find_yielded(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    for (size_t i = 0; i < vm->session_count; i++) {
        if (vm->sessions[i]->id == id && vm->sessions[i]->yielded) {
            return vm->sessions[i];
        }
    }
    return NULL;
}

/* A handle that was given up keeps what its user wrote until it is said: a detached command goes on reading. */
static bool has_last_words(const struct kelpie_exec *exec) {
    ASSERT(exec->closed);
    ASSERT(exec->magic == EXEC_MAGIC);
    bool input_waits = exec->started && !exec->yielded && !exec->ended && !exec->input_refused &&
                       protocol_sender_waits(&exec->input);
    return !exec->lost && (exec->release_wanted || exec->detach_wanted || input_waits);
}

void vm_sessions_collect(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    size_t kept = 0;
    for (size_t i = 0; i < vm->session_count; i++) {
        struct kelpie_exec *exec = vm->sessions[i];
        if (exec->closed && !has_last_words(exec)) {
            exec->magic = 0;
            free(exec->buffer);
            free(exec);
        } else {
            vm->sessions[kept++] = exec;
        }
    }
    vm->session_count = kept;
}

void vm_session_close(struct kelpie_exec *exec, bool release) {
    ASSERT(exec);
    ASSERT(exec->magic == EXEC_MAGIC);
    struct kelpie_vm *vm = exec->vm;
    vm_lock(vm);
    ASSERT(!exec->closed);
    if (!release) {
        vm_session_give_up_attach(exec);
    }
    exec->closed = true;
    exec->input_refused |= release; /* what it was written goes with it */
    exec->release_wanted = release && !exec->lost && !exec->yielded;
    exec->detach_wanted =
        !release && !exec->lost && vm_is_owned(vm) && (exec->started || exec->attaching);
    vm_channel_flush(vm);
    vm_unlock(vm);
    vm_release(vm);
}

void vm_session_want_acks(struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->magic == EXEC_MAGIC);
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        struct vm_output *output = &exec->outputs[i];
        protocol_receiver_consumed(&output->receiver, output->lent);
        output->lent = 0;
        output->ack_wanted |= protocol_receiver_due(&output->receiver, true);
    }
}

void vm_sessions_want_acks(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < vm->session_count; i++) {
        vm_session_want_acks(vm->sessions[i]);
    }
}

void vm_sessions_shift_deadlines(struct kelpie_vm *vm, uint64_t still_ns) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < vm->session_count; i++) {
        if (vm->sessions[i]->deadline_ns != 0) {
            vm->sessions[i]->deadline_ns += still_ns;
        }
    }
}

void vm_sessions_lose(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(!vm->channel.open);
    for (size_t i = 0; i < vm->session_count; i++) {
        vm->sessions[i]->lost = true;
    }
    vm_sessions_collect(vm);
}

struct snapshot_session vm_session_offsets(const struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->id != 0);
    return (struct snapshot_session){
        .id = exec->id,
        .stdin_offset = exec->relay ? exec->input_said.acked : exec->input.acked,
        .stdout_offset = exec->outputs[0].receiver.consumed,
        .stderr_offset = exec->outputs[1].receiver.consumed,
    };
}

void vm_session_note_offsets(struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(!exec->closed);
    struct kelpie_vm *vm = exec->vm;
    bool known = exec->yielded || exec->attach_wanted; /* whoever has, or had, the session */
    if (!known && !exec->lost && vm->saved_session_count < KELPIE_EXEC_COUNT_MAX) {
        vm->saved_sessions[vm->saved_session_count++] = vm_session_offsets(exec);
    }
}

bool vm_session_recall_offsets(struct kelpie_vm *vm, uint32_t id, struct protocol_attach *attach) {
    ASSERT(vm->locked);
    ASSERT(attach);
    for (size_t i = 0; i < vm->saved_session_count; i++) {
        if (vm->saved_sessions[i].id == id) {
            *attach = (struct protocol_attach){
                .stdout_offset = vm->saved_sessions[i].stdout_offset,
                .stderr_offset = vm->saved_sessions[i].stderr_offset,
            };
            vm->saved_sessions[i] = vm->saved_sessions[--vm->saved_session_count];
            return true;
        }
    }
    return false;
}

void vm_session_give_up_attach(struct kelpie_exec *exec) {
    struct kelpie_vm *vm = exec->vm;
    ASSERT(vm->locked);
    ASSERT(!exec->closed);
    if (exec->attaching && vm->stale_attach_count < ARRAY_SIZE(vm->stale_attaches)) {
        vm->stale_attaches[vm->stale_attach_count++] = exec->id;
    }
}

/* The guest answers in order: this is what the first of them is told, who waits no more. */
static bool is_stale_attached(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(vm->stale_attach_count <= ARRAY_SIZE(vm->stale_attaches));
    for (size_t i = 0; i < vm->stale_attach_count; i++) {
        if (vm->stale_attaches[i] == id) {
            vm->stale_attaches[i] = vm->stale_attaches[--vm->stale_attach_count];
            return true;
        }
    }
    return false;
}

/* ---- A handle that yields to relays ------------------------------------------------------------ */

void vm_relay_yield(struct kelpie_exec *exec) {
    ASSERT(exec);
    ASSERT(exec->magic == EXEC_MAGIC);
    vm_lock(exec->vm);
    exec->yields = true;
    vm_unlock(exec->vm);
}

bool vm_relay_reclaim(struct kelpie_exec *exec, uint32_t timeout_ms) {
    ASSERT(exec);
    ASSERT(exec->magic == EXEC_MAGIC);
    struct kelpie_vm *vm = exec->vm;
    const uint64_t deadline_ns = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE).deadline_ns;
    vm_lock(vm);
    exec->reclaimed = true;
    while (exec->yielded && !exec->lost && vm_wait_changed(vm, deadline_ns)) {
    }
    bool back = !exec->yielded;
    vm_unlock(vm);
    return back;
}

void vm_session_yield(struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->yields && !exec->yielded);
    vm_session_note_offsets(exec);
    exec->yielded = true;
    exec->attach_wanted = false;
    ring_drop(&exec->input.ring, exec->input.ring.size);
    exec->input.acked = exec->input.sent; /* ATTACHED says where it goes on */
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        /* What was not read comes again, to the far end. */
        ring_drop(&exec->outputs[i].ring, exec->outputs[i].ring.size);
        exec->outputs[i].ack_wanted = false;
    }
}

void vm_session_take_back(struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->yielded);
    exec->yielded = false;
    exec->started = false; /* ATTACHED says it again */
    exec->attach_wanted = !exec->lost && !exec->closed;
    host_condition_broadcast(exec->vm->changed);
}

/* ---- What a session says ---------------------------------------------------------------------- */

static void speak_signals(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->signals_wanted != 0);
    ASSERT(exec->started);
    unsigned number = (unsigned)__builtin_ctzll(exec->signals_wanted) + 1;
    exec->signals_wanted &= exec->signals_wanted - 1;
    struct protocol_signal message = {.number = number};
    protocol_encode_signal(writer, exec->id, &message);
}

static void speak_acks(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->started);
    ASSERT(!exec->relay && !exec->yielded);
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        struct vm_output *output = &exec->outputs[i];
        if (output->ack_wanted) {
            output->ack_wanted = false;
            struct protocol_ack ack = {
                .stream = i == 0 ? PROTOCOL_STDOUT : PROTOCOL_STDERR,
                .offset = output->receiver.acked,
            };
            protocol_encode_ack(writer, exec->id, &ack);
        }
    }
}

static void speak_input(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->started);
    ASSERT(!exec->release_wanted);
    uint8_t piece[PROTOCOL_DATA_SIZE_MAX];
    struct protocol_data data;
    if (!exec->input_refused && protocol_sender_next(&exec->input, piece, sizeof(piece), &data)) {
        data.stream = PROTOCOL_STDIN;
        protocol_encode_data(writer, exec->id, &data);
    }
}

/* What a handle that was given up, but not its session, has still to say. */
static void speak_last_words(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->closed);
    ASSERT(!exec->release_wanted);
    bool input_waits = exec->started && !exec->ended && !exec->input_refused &&
                       protocol_sender_waits(&exec->input);
    if (exec->started) {
        speak_acks(exec, writer);
    }
    if (input_waits) {
        speak_input(exec, writer);
    } else if (exec->detach_wanted) {
        exec->detach_wanted = false;
        protocol_encode_empty(writer, PROTOCOL_DETACH, exec->id);
    }
}

static void speak_attach(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->attach_wanted);
    ASSERT(!exec->started);
    struct protocol_attach attach = {.from_acknowledged = true};
    (void)vm_session_recall_offsets(exec->vm, exec->id, &attach);
    protocol_encode_attach(writer, exec->id, &attach);
    exec->attach_wanted = false;
    exec->attaching = true;
}

bool vm_session_speak(struct kelpie_exec *exec, struct cursor_writer *writer) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->magic == EXEC_MAGIC);
    ASSERT(writer->capacity - writer->size >= PROTOCOL_DATA_SIZE_MAX + 8 * PROTOCOL_HEADER_SIZE);
    size_t before = writer->size;
    if (exec->closed) {
        if (exec->release_wanted) {
            exec->release_wanted = false;
            protocol_encode_empty(writer, PROTOCOL_RELEASE, exec->id);
            vm_guest_session_released(exec->vm, exec->id);
        } else if (has_last_words(exec)) {
            speak_last_words(exec, writer);
        }
        return writer->size > before;
    }
    if (exec->attach_wanted) {
        speak_attach(exec, writer);
        return true;
    }
    if (!exec->started || exec->relay) {
        return false; /* what a far end says is passed on as it comes */
    }
    if (exec->yielded) {
        if (exec->signals_wanted != 0) {
            speak_signals(exec, writer);
        }
        return writer->size > before;
    }
    if (exec->resize_wanted) {
        exec->resize_wanted = false;
        protocol_encode_resize(writer, exec->id, &exec->resize);
    }
    if (exec->signals_wanted != 0) {
        speak_signals(exec, writer);
    }
    speak_acks(exec, writer);
    speak_input(exec, writer);
    return writer->size > before;
}

/* ---- What it hears ---------------------------------------------------------------------------- */

static bool handle_data(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->vm->locked);
    ASSERT(frame->type == PROTOCOL_DATA);
    struct protocol_data data;
    if (!protocol_decode_data(frame, &data) || data.stream == PROTOCOL_STDIN || !exec->started) {
        return false;
    }
    struct vm_output *output = &exec->outputs[data.stream == PROTOCOL_STDOUT ? 0 : 1];
    if (!protocol_receiver_accept(&output->receiver, &data)) {
        return false;
    }
    size_t written = ring_write(&output->ring, data.bytes, data.size);
    ASSERT(written == data.size); /* the receiver accepted no more than a window */
    return true;
}

static bool handle_ack(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->vm->locked);
    ASSERT(frame->type == PROTOCOL_ACK);
    struct protocol_ack ack;
    if (!protocol_decode_ack(frame, &ack) || ack.stream != PROTOCOL_STDIN || !exec->started) {
        return false;
    }
    exec->input_refused |= (ack.flags & PROTOCOL_ACK_CLOSED) != 0;
    return exec->input_refused || protocol_sender_ack(&exec->input, ack.offset);
}

static bool handle_ended(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->vm->locked);
    ASSERT(frame->type == PROTOCOL_ENDED);
    struct protocol_ended ended;
    if (!protocol_decode_ended(frame, &ended)) {
        return false;
    }
    /* What the command wrote was sent before. */
    bool complete = ended.end == PROTOCOL_END_FAILED ||
                    (exec->outputs[0].receiver.ended && exec->outputs[1].receiver.ended &&
                     ended.stdout_bytes == exec->outputs[0].receiver.received &&
                     ended.stderr_bytes == exec->outputs[1].receiver.received);
    if (!complete) {
        return false;
    }
    snprintf(exec->ended_message, sizeof(exec->ended_message), "%s", ended.message);
    ended.message = exec->ended_message;
    exec->ended_info = ended;
    exec->ended = true;
    exec->input_refused = true;
    return true;
}

static bool handle_attached(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->vm->locked);
    ASSERT(frame->type == PROTOCOL_ATTACHED);
    struct protocol_attached attached;
    if (!exec->attaching || !protocol_decode_attached(frame, &attached)) {
        return false;
    }
    exec->attaching = false;
    exec->attached = attached;
    if (attached.os_error != 0) {
        exec->lost |= exec->yields; /* it was given back, and nobody waits for this answer */
        return true;
    }
    exec->started = true;
    exec->input_refused = (attached.flags & PROTOCOL_EXEC_STDIN) == 0;
    exec->tty = (attached.flags & PROTOCOL_EXEC_TTY) != 0;
    exec->input.acked = attached.stdin_offset;
    exec->input.sent = attached.stdin_offset;
    protocol_receiver_init(&exec->outputs[0].receiver, attached.stdout_offset);
    protocol_receiver_init(&exec->outputs[1].receiver, attached.stderr_offset);
    return true;
}

bool vm_session_handle(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session != 0);
    if (frame->type == PROTOCOL_ENDED) {
        vm_guest_session_ended(vm, frame->session); /* whoever holds it */
    }
    if (frame->type == PROTOCOL_ATTACHED && is_stale_attached(vm, frame->session)) {
        return true;
    }
    struct kelpie_exec *exec = vm_session_find(vm, frame->session);
    if (!exec || exec->closed) {
        return true; /* it was said before the guest heard that the session is no more */
    }
    if (exec->attach_wanted || (exec->attaching && frame->type != PROTOCOL_ATTACHED)) {
        return true; /* it was said to the handle before this one */
    }
    if (exec->relay) {
        vm_relay_hear(exec, frame);
        return true; /* what breaks the protocol ends the relay */
    }
    switch ((int)frame->type) {
    case PROTOCOL_STARTED:
        if (exec->started || !protocol_decode_started(frame, &exec->started_info)) {
            return false;
        }
        exec->started = true;
        return true;
    case PROTOCOL_DATA:
        return handle_data(exec, frame);
    case PROTOCOL_ACK:
        return handle_ack(exec, frame);
    case PROTOCOL_ENDED:
        return handle_ended(exec, frame);
    case PROTOCOL_ATTACHED:
        return handle_attached(exec, frame);
    default:
        UNREACHABLE();
    }
}

/* ---- What its reader does --------------------------------------------------------------------- */

size_t vm_session_take(struct kelpie_exec *exec, size_t output, void *buffer, size_t size) {
    ASSERT(exec->vm->locked);
    ASSERT(output < VM_OUTPUT_COUNT);
    struct vm_output *out = &exec->outputs[output];
    ASSERT(out->lent == 0);
    size_t count = ring_read(&out->ring, buffer, size);
    protocol_receiver_consumed(&out->receiver, count);
    /* Whoever takes the session up from an owner, or from a bundle that it makes, goes on behind what was read. */
    bool all = vm_is_owned(exec->vm) && out->ring.size == 0;
    if (protocol_receiver_due(&out->receiver, all)) {
        out->ack_wanted = true;
        vm_channel_flush(exec->vm);
    }
    return count;
}

size_t vm_session_lend(struct kelpie_exec *exec, size_t output, void *buffer, size_t size) {
    ASSERT(exec->vm->locked);
    ASSERT(output < VM_OUTPUT_COUNT);
    struct vm_output *out = &exec->outputs[output];
    ASSERT(out->lent == 0);
    out->lent = ring_read(&out->ring, buffer, size);
    return out->lent;
}

void vm_session_settle(struct kelpie_exec *exec) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->magic == EXEC_MAGIC);
    for (size_t i = 0; i < VM_OUTPUT_COUNT; i++) {
        if (exec->outputs[i].lent > 0) {
            vm_session_want_acks(exec);
            vm_channel_flush(exec->vm);
            return;
        }
    }
}

bool vm_session_drained(const struct kelpie_exec *exec, size_t output) {
    ASSERT(exec->vm->locked);
    ASSERT(output < VM_OUTPUT_COUNT);
    const struct vm_output *out = &exec->outputs[output];
    return out->ring.size == 0 && (out->receiver.ended || exec->ended);
}

struct vm_wait vm_session_wait_start(const struct kelpie_exec *exec, uint64_t timeout_ms) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->cancel_count <= exec->vm->cancel_count);
    struct vm_wait wait = vm_wait_start(exec->vm, timeout_ms);
    wait.cancel_count = exec->cancel_count;
    return wait;
}

enum kelpie_status vm_session_wait_step(struct kelpie_exec *exec, const struct vm_wait *wait,
                                        const char *what, struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(exec->magic == EXEC_MAGIC);
    struct kelpie_vm *vm = exec->vm;
    if (exec->lost) {
        TRY(vm_check_awaited(vm, what, err));
        return error_set(err, KELPIE_WRONG_STATE, "session %u ended with the machine that ran it",
                         exec->id);
    }
    struct vm_wait step = *wait;
    bool running = vm->state == KELPIE_STATE_RUNNING && !vm->channel.held;
    bool bounded = running && exec->deadline_ns != 0 && exec->deadline_ns < step.deadline_ns;
    if (bounded) {
        step.deadline_ns = exec->deadline_ns;
    }
    enum kelpie_status status = vm_wait_step(vm, &step, what, err);
    if (status == KELPIE_TIMED_OUT && bounded) {
        return error_set(err, KELPIE_EXEC_TIMED_OUT,
                         "the command ran longer than its timeout, and the guest did not end it");
    }
    return status;
}

enum kelpie_status vm_session_await_start(struct kelpie_exec *exec, const struct vm_wait *wait,
                                          struct kelpie_error *err) {
    ASSERT(exec->vm->locked);
    ASSERT(wait);
    while (!exec->started && !exec->ended) {
        TRY(vm_session_wait_step(exec, wait, "the guest to start the command", err));
    }
    if (exec->ended && exec->ended_info.end == PROTOCOL_END_FAILED) {
        const int os_error = (int)exec->ended_info.value;
        ASSERT(os_error > 0); /* protocol_decode_ended() saw to it */
        enum kelpie_status status = error_set_os(err, os_error, "in the guest");
        if (err && exec->ended_message[0]) {
            /* The guest's own words, which end in the same text. */
            snprintf(err->message, sizeof(err->message), "%s", exec->ended_message);
        }
        if (exec->kind == VM_SESSION_COMMAND && err) {
            err->status = KELPIE_EXEC_FAILED;
            err->retriable = os_error == EAGAIN;
        }
        return exec->kind == VM_SESSION_COMMAND ? KELPIE_EXEC_FAILED : status;
    }
    return KELPIE_OK;
}
