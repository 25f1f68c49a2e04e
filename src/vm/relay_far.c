/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a relay's far end says. Each frame is decoded whole and held against what passed before: to the guest goes only what
 * it takes from a host that keeps to the protocol, for at what it does not take it drops everything up to the next HELLO.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "vm/relay_internal.h"

#define ANSWER_SIZE 1024 /* room for every answer of our own but SESSIONS */

/* ---- Passing on --------------------------------------------------------------------------------- */

/* Appends the frame to the channel as it came. There is room: relay_pass() looked. */
static void forward(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    struct cursor_writer writer;
    bool room =
        vm_channel_try_reserve(vm, PROTOCOL_HEADER_SIZE + relay->frame.payload_size, &writer);
    ASSERT(room);
    protocol_encode_frame(&writer, &relay->frame);
    vm_channel_commit(vm, &writer);
}

/* The session of this frame that the far end holds, or NULL. */
static struct kelpie_exec *held_session(struct vm_relay *relay) {
    ASSERT(relay->vm->locked);
    ASSERT(relay->frame.session != 0);
    struct kelpie_exec *exec = vm_session_find(relay->vm, relay->frame.session);
    return exec && exec->relay == relay && !exec->closed ? exec : NULL;
}

/* ---- New sessions ------------------------------------------------------------------------------- */

static void refuse_opening(struct vm_relay *relay, const char *why) {
    ASSERT(relay->vm->locked);
    ASSERT(why);
    const struct protocol_ended ended = {
        .end = PROTOCOL_END_FAILED, .value = EAGAIN, .message = why};
    struct cursor_writer writer = relay_writer(relay, ANSWER_SIZE);
    if (!writer.failed) {
        protocol_encode_ended(&writer, relay->frame.session, &ended);
        relay_commit(relay, &writer);
    }
}

/* A number of its block that it has not used for long: frames of the session that had it are no longer under way. */
static bool may_open(const struct vm_relay *relay, uint32_t id) {
    const struct vm_relay_options *options = &relay->options;
    ASSERT(options->ids_count > 1);
    ASSERT(relay->id_last >= options->ids_first - 1);
    if (id < options->ids_first || id - options->ids_first >= options->ids_count) {
        return false;
    }
    uint32_t distance =
        id > relay->id_last ? id - relay->id_last : options->ids_count - (relay->id_last - id);
    return distance <= options->ids_count / 2;
}

static enum relay_step pass_opening(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    const struct protocol_frame *frame = &relay->frame;
    ASSERT(vm->locked);
    ASSERT(frame->session != 0);
    struct protocol_exec exec;
    struct protocol_file_put put;
    struct protocol_file_get get;
    bool is_command = frame->type == PROTOCOL_EXEC;
    bool valid = is_command                         ? protocol_decode_exec(frame, &exec)
                 : frame->type == PROTOCOL_FILE_PUT ? protocol_decode_file_put(frame, &put)
                                                    : protocol_decode_file_get(frame, &get);
    if (!valid || !may_open(relay, frame->session)) {
        return RELAY_BROKEN;
    }
    relay->id_last = frame->session;
    if (vm_session_find(vm, frame->session) || vm_guest_session_is_known(vm, frame->session)) {
        refuse_opening(relay, "the guest has a session of that number still");
        return RELAY_PASSED;
    }
    struct kelpie_exec *session = NULL;
    struct kelpie_error ignored;
    if (vm_session_create_relayed(relay, vm, is_command ? VM_SESSION_COMMAND : VM_SESSION_FILE,
                                  frame->session, &session, &ignored) != KELPIE_OK) {
        refuse_opening(relay, "the VM has no room for more sessions: close some");
        return RELAY_PASSED;
    }
    session->input_refused =
        is_command ? (exec.flags & PROTOCOL_EXEC_STDIN) == 0 : frame->type != PROTOCOL_FILE_PUT;
    protocol_receiver_init(&session->input_said, 0);
    vm_guest_session_opened(vm, frame->session);
    forward(relay);
    return RELAY_PASSED;
}

/* ---- Taking up and letting go ------------------------------------------------------------------- */

static void refuse_attach(struct vm_relay *relay, uint32_t os_error) {
    ASSERT(relay->vm->locked);
    ASSERT(os_error != 0);
    const struct protocol_attached attached = {.os_error = os_error};
    struct cursor_writer writer = relay_writer(relay, ANSWER_SIZE);
    if (!writer.failed) {
        protocol_encode_attached(&writer, relay->frame.session, &attached);
        relay_commit(relay, &writer);
    }
}

/* Nobody holds the session after this, or its handle has yielded: PASSED. BROKEN: somebody does. */
static enum relay_step free_session(struct vm_relay *relay) {
    ASSERT(relay->vm->locked);
    struct kelpie_exec *holder = vm_session_find(relay->vm, relay->frame.session);
    ASSERT(!holder || !holder->yielded);
    if (!holder) {
        return RELAY_PASSED;
    }
    if (holder->closed || (holder->yields && holder->attaching)) {
        return RELAY_WAITS; /* its last words are not said, or it is not yet told that it has the session back */
    }
    if (holder->relay && holder->relay != relay &&
        !vm_relay_has_looked(holder->relay, &relay->look)) {
        return RELAY_WAITS;
    }
    bool speaks =
        holder->started && !holder->input_refused && protocol_sender_waits(&holder->input);
    bool settled = holder->started || holder->attach_wanted;
    if (!holder->yields || holder->reclaimed || speaks || !settled) {
        return RELAY_BROKEN;
    }
    vm_session_yield(holder);
    return RELAY_PASSED;
}

static enum relay_step pass_attach(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    const uint32_t id = relay->frame.session;
    ASSERT(vm->locked);
    ASSERT(id != 0);
    struct protocol_attach attach;
    if (!protocol_decode_attach(&relay->frame, &attach)) {
        return RELAY_BROKEN;
    }
    enum relay_step step = free_session(relay);
    if (step == RELAY_WAITS) {
        return step;
    }
    relay->look = (struct vm_relay_look){0};
    if (step == RELAY_BROKEN) {
        refuse_attach(relay, EBUSY);
        return RELAY_PASSED;
    }
    struct kelpie_exec *exec = NULL;
    struct kelpie_error ignored;
    if (vm_session_create_relayed(relay, vm, VM_SESSION_COMMAND, id, &exec, &ignored) !=
        KELPIE_OK) {
        struct kelpie_exec *handle = vm_session_find_yielded(vm, id);
        if (handle) {
            vm_session_take_back(handle);
            vm_channel_flush(vm); /* it attaches again, whether anybody else speaks or not */
        }
        refuse_attach(relay, EAGAIN);
        return RELAY_PASSED;
    }
    struct protocol_attach noted = attach;
    if (vm_session_recall_offsets(vm, id, &noted)) {
        exec->offsets_known = true;
        protocol_receiver_init(&exec->outputs[0].receiver, noted.stdout_offset);
        protocol_receiver_init(&exec->outputs[1].receiver, noted.stderr_offset);
    }
    exec->attaching = true;
    struct cursor_writer writer;
    bool room = vm_channel_try_reserve(vm, ANSWER_SIZE, &writer);
    ASSERT(room);
    protocol_encode_attach(&writer, id, attach.from_acknowledged ? &noted : &attach);
    vm_channel_commit(vm, &writer);
    return RELAY_PASSED;
}

static enum relay_step pass_detach(struct vm_relay *relay) {
    struct kelpie_exec *exec = held_session(relay);
    ASSERT(relay->frame.type == PROTOCOL_DETACH);
    ASSERT(!exec || exec->relay == relay);
    if (!protocol_decode_empty(&relay->frame)) {
        return RELAY_BROKEN;
    }
    if (exec) { /* else it crossed an ATTACHED that said no */
        bool attaching = exec->attaching;
        relay_let_go(exec);
        if (attaching) {
            refuse_attach(relay, ECANCELED); /* the guest's own answer is nobody's any more */
        }
        vm_channel_flush(relay->vm);
    }
    return RELAY_PASSED;
}

/* Of a session that a handle here has yielded, the command is killed, and the handle hears how it ended. */
static enum relay_step pass_release(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    struct kelpie_exec *exec = held_session(relay);
    ASSERT(vm->locked);
    if (!protocol_decode_empty(&relay->frame)) {
        return RELAY_BROKEN;
    }
    if (!exec) {
        return RELAY_PASSED; /* it was never opened: too many, say; or it is another's */
    }
    struct kelpie_exec *handle = vm_session_find_yielded(vm, exec->id);
    if (handle) {
        ASSERT(handle != exec);
        if (!exec->ended) {
            const struct protocol_signal kill = {.number = VM_SIGNAL_KILL};
            struct cursor_writer writer;
            bool room = vm_channel_try_reserve(vm, ANSWER_SIZE, &writer);
            ASSERT(room);
            protocol_encode_signal(&writer, exec->id, &kill);
            vm_channel_commit(vm, &writer);
        }
        relay_let_go(exec);
        vm_channel_flush(vm);
        return RELAY_PASSED;
    }
    exec->closed = true;
    exec->relay = NULL;
    vm_guest_session_released(vm, exec->id);
    forward(relay);
    return RELAY_PASSED;
}

/* ---- Sessions that it holds --------------------------------------------------------------------- */

static bool data_fits(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct protocol_data data;
    ASSERT(exec->vm->locked);
    ASSERT(exec->started);
    if (!protocol_decode_data(frame, &data) || data.stream != PROTOCOL_STDIN ||
        exec->input_refused) {
        return false;
    }
    return protocol_receiver_accept(&exec->input_said, &data);
}

static bool ack_fits(struct kelpie_exec *exec, const struct protocol_frame *frame) {
    struct protocol_ack ack;
    ASSERT(exec->vm->locked);
    ASSERT(exec->started);
    if (!protocol_decode_ack(frame, &ack) || ack.stream == PROTOCOL_STDIN || ack.flags != 0) {
        return false;
    }
    struct protocol_receiver *receiver =
        &exec->outputs[ack.stream == PROTOCOL_STDOUT ? 0 : 1].receiver;
    if (ack.offset < receiver->acked || ack.offset > receiver->received) {
        return false;
    }
    receiver->consumed = ack.offset;
    receiver->acked = ack.offset;
    return true;
}

/* DATA, ACK, SIGNAL, RESIZE. */
static enum relay_step pass_session(struct vm_relay *relay) {
    const struct protocol_frame *frame = &relay->frame;
    struct kelpie_exec *exec = held_session(relay);
    ASSERT(relay->vm->locked);
    if (!exec || !exec->started) {
        return RELAY_BROKEN;
    }
    struct protocol_signal signal;
    struct protocol_resize resize;
    bool fits = false;
    switch ((int)frame->type) {
    case PROTOCOL_DATA:
        fits = data_fits(exec, frame);
        break;
    case PROTOCOL_ACK:
        fits = ack_fits(exec, frame);
        break;
    case PROTOCOL_SIGNAL:
        fits = protocol_decode_signal(frame, &signal);
        break;
    case PROTOCOL_RESIZE:
        fits = protocol_decode_resize(frame, &resize);
        break;
    default:
        UNREACHABLE();
    }
    if (!fits) {
        return RELAY_BROKEN;
    }
    forward(relay);
    return RELAY_PASSED;
}

/* ---- The channel -------------------------------------------------------------------------------- */

/* A token of ours: the far end's may be anything. */
static enum relay_step pass_ping(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    struct protocol_ping ping;
    ASSERT(vm->locked);
    if (!protocol_decode_ping(&relay->frame, &ping)) {
        return RELAY_BROKEN;
    }
    if (relay->ping_mine != 0) {
        return RELAY_WAITS;
    }
    relay->ping_token = ping.token;
    relay->ping_mine = ++vm->channel.ping_token;
    ASSERT(relay->ping_mine != 0);
    const struct protocol_ping mine = {.token = relay->ping_mine};
    struct cursor_writer writer;
    bool room = vm_channel_try_reserve(vm, ANSWER_SIZE, &writer);
    ASSERT(room);
    protocol_encode_ping(&writer, PROTOCOL_PING, &mine);
    vm_channel_commit(vm, &writer);
    return RELAY_PASSED;
}

static enum relay_step pass_list(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    if (!protocol_decode_empty(&relay->frame)) {
        return RELAY_BROKEN;
    }
    if (relay->list_mine != 0) {
        return RELAY_WAITS;
    }
    relay->list_mine = ++vm->channel.list_count;
    ASSERT(relay->list_mine != 0);
    forward(relay);
    return RELAY_PASSED;
}

enum relay_step relay_pass(struct vm_relay *relay) {
    ASSERT(relay->vm->locked);
    ASSERT(relay->has_frame);
    struct cursor_writer room;
    size_t need = PROTOCOL_HEADER_SIZE + relay->frame.payload_size;
    need = need > ANSWER_SIZE ? need : ANSWER_SIZE;
    bool opens = relay->frame.type == PROTOCOL_EXEC || relay->frame.type == PROTOCOL_FILE_PUT ||
                 relay->frame.type == PROTOCOL_FILE_GET;
    if (opens && vm_channel_is_heard(relay->vm)) {
        vm_guest_sessions_make_room(relay->vm);
    }
    if (!vm_channel_is_heard(relay->vm) || !vm_channel_try_reserve(relay->vm, need, &room)) {
        return RELAY_WAITS;
    }
    switch ((int)relay->frame.type) {
    case PROTOCOL_EXEC:
    case PROTOCOL_FILE_PUT:
    case PROTOCOL_FILE_GET:
        return pass_opening(relay);
    case PROTOCOL_ATTACH:
        return pass_attach(relay);
    case PROTOCOL_DETACH:
        return pass_detach(relay);
    case PROTOCOL_RELEASE:
        return pass_release(relay);
    case PROTOCOL_DATA:
    case PROTOCOL_ACK:
    case PROTOCOL_SIGNAL:
    case PROTOCOL_RESIZE:
        return pass_session(relay);
    case PROTOCOL_PING:
        return pass_ping(relay);
    case PROTOCOL_LIST:
        return pass_list(relay);
    default:
        return RELAY_BROKEN; /* what only an owner says, or a guest */
    }
}
