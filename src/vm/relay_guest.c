/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What the guest says to a relay's far end. The offsets that pass by are counted: they say what the far end may acknowledge, and
 * where the next reader goes on. A frame that does not fit ends the relay (relay.h).
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/relay_internal.h"

static bool hear_started(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->relay);
    if (exec->started || !protocol_decode_started(frame, &exec->started_info)) {
        return false;
    }
    exec->started = true;
    ASSERT(!exec->attaching);
    return true;
}

static bool hear_data(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    const struct vm_relay_options *options = &exec->relay->options;
    struct protocol_data data;
    ASSERT(exec->vm->locked);
    if (!protocol_decode_data(frame, &data) || data.stream == PROTOCOL_STDIN || !exec->started) {
        return false;
    }
    bool is_stdout = data.stream == PROTOCOL_STDOUT;
    if (!protocol_receiver_accept(&exec->outputs[is_stdout ? 0 : 1].receiver, &data)) {
        return false;
    }
    if (options->on_output && data.size > 0 && exec->kind == VM_SESSION_COMMAND) {
        const struct vm_relay_piece piece = {
            .exec_id = exec->id,
            .stream = is_stdout ? KELPIE_STREAM_STDOUT : KELPIE_STREAM_STDERR,
            .offset = data.offset,
            .data = data.bytes,
            .size = data.size,
        };
        options->on_output(options->context, &piece);
    }
    return true;
}

static bool hear_ack(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct protocol_receiver *said = &exec->input_said;
    struct protocol_ack ack;
    ASSERT(exec->vm->locked);
    if (!protocol_decode_ack(frame, &ack) || ack.stream != PROTOCOL_STDIN || !exec->started) {
        return false;
    }
    bool fits = ack.offset >= said->acked && ack.offset <= said->received;
    if (fits) {
        said->consumed = ack.offset;
        said->acked = ack.offset;
    }
    return fits || (ack.flags & PROTOCOL_ACK_CLOSED) != 0;
}

/* A handle that yielded hears of the end too. */
static bool hear_ended(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct protocol_ended ended;
    ASSERT(exec->vm->locked);
    ASSERT(exec->relay);
    if (!protocol_decode_ended(frame, &ended)) {
        return false;
    }
    exec->ended = true;
    struct kelpie_exec *handle = vm_session_find_yielded(exec->vm, exec->id);
    if (handle && !handle->ended) {
        snprintf(handle->ended_message, sizeof(handle->ended_message), "%s", ended.message);
        ended.message = handle->ended_message;
        handle->ended_info = ended;
        handle->ended = true;
        handle->input_refused = true;
        host_condition_broadcast(exec->vm->changed);
    }
    return true;
}

static bool hear_attached(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct protocol_attached attached;
    ASSERT(exec->vm->locked);
    if (!exec->attaching || !protocol_decode_attached(frame, &attached)) {
        return false;
    }
    exec->attaching = false;
    ASSERT(!exec->started);
    if (attached.os_error != 0) {
        exec->offsets_known = false; /* the guest does not know them */
        return true;
    }
    exec->started = true;
    exec->input_refused = (attached.flags & PROTOCOL_EXEC_STDIN) == 0;
    protocol_receiver_init(&exec->input_said, attached.stdin_offset);
    protocol_receiver_init(&exec->outputs[0].receiver, attached.stdout_offset);
    protocol_receiver_init(&exec->outputs[1].receiver, attached.stderr_offset);
    return true;
}

static bool hear(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    ASSERT(exec->relay);
    ASSERT(!exec->closed);
    switch ((int)frame->type) {
    case PROTOCOL_STARTED:
        return hear_started(exec, frame);
    case PROTOCOL_DATA:
        return hear_data(exec, frame);
    case PROTOCOL_ACK:
        return hear_ack(exec, frame);
    case PROTOCOL_ENDED:
        return hear_ended(exec, frame);
    case PROTOCOL_ATTACHED:
        return hear_attached(exec, frame);
    default:
        UNREACHABLE();
    }
}

void vm_relay_hear(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct vm_relay *relay = exec->relay;
    ASSERT(exec->vm->locked);
    ASSERT(relay && !relay->ended);
    if (!hear(exec, frame)) {
        relay_end(relay);
        return;
    }
    bool refused = frame->type == PROTOCOL_ATTACHED && !exec->started;
    if (refused) {
        relay_let_go(exec);
    }
    struct cursor_writer writer = relay_writer(relay, PROTOCOL_HEADER_SIZE + frame->payload_size);
    if (!writer.failed) {
        protocol_encode_frame(&writer, frame);
        relay_commit(relay, &writer);
    }
}

/* The far end's PING and LIST have their answers. */
static void answer(struct vm_relay *relay) {
    const struct vm_answers *answers = &relay->vm->channel.answers;
    ASSERT(relay->vm->locked);
    ASSERT(!relay->ended);
    if (relay->ping_mine != 0 && answers->pong_token >= relay->ping_mine) {
        const struct protocol_ping pong = {.token = relay->ping_token};
        relay->ping_mine = 0;
        struct cursor_writer writer = relay_writer(relay, 2 * PROTOCOL_HEADER_SIZE);
        if (!writer.failed) {
            protocol_encode_ping(&writer, PROTOCOL_PONG, &pong);
            relay_commit(relay, &writer);
        }
    }
    if (!relay->ended && relay->list_mine != 0 && answers->sessions_count >= relay->list_mine) {
        relay->list_mine = 0;
        struct cursor_writer writer = relay_writer(
            relay, 2 * PROTOCOL_HEADER_SIZE + sizeof(uint32_t) * PROTOCOL_SESSION_COUNT_MAX);
        if (!writer.failed) {
            protocol_encode_sessions(&writer, &answers->sessions);
            relay_commit(relay, &writer);
        }
    }
}

void vm_relays_answer(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->relay_count <= VM_RELAY_COUNT_MAX);
    for (size_t i = 0; i < vm->relay_count; i++) {
        if (!vm->relays[i]->ended) {
            answer(vm->relays[i]);
        }
    }
}
