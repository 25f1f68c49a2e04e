/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The channel: the queue of bytes to the guest, and where its frames go. See vm.h for who may call
 * what, and protocol.h for what is said.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/vm.h"

void vm_channel_open(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    struct vm_channel *channel = &vm->channel;
    ASSERT(!channel->open);
    ASSERT(channel->in && channel->out);
    protocol_decoder_init(&channel->decoder, channel->in, PROTOCOL_FRAME_SIZE_MAX);
    channel->out_start = 0;
    channel->out_end = 0;
    channel->open = true;
    channel->connected = false;
    channel->held = false;
    channel->holding = false;
    channel->ended = false;
    channel->broken[0] = 0;
    channel->answers = (struct vm_answers){0};
    channel->list_count = 0;
    channel->ping_token = 0;
    vm->guest_session_count = 0;
    vm->stale_attach_count = 0;
}

void vm_channel_close(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->channel.open);
    vm->channel.open = false;
    vm->channel.connected = false;
    vm->channel.held = false;
    vm->channel.holding = false;
    vm_relays_lose(vm);
    vm_sessions_lose(vm);
    host_condition_broadcast(vm->changed);
}

void vm_channel_break(struct kelpie_vm *vm, const char *why) {
    ASSERT(vm->locked);
    ASSERT(why);
    if (vm->channel.broken[0] == 0) {
        snprintf(vm->channel.broken, sizeof(vm->channel.broken), "%s", why);
    }
    host_condition_broadcast(vm->changed);
}

/* A writer at the queue's end with room for size bytes, or one without any. */
static struct cursor_writer out_writer(struct vm_channel *channel, size_t size) {
    ASSERT(channel->out_start <= channel->out_end);
    ASSERT(channel->out_end <= VM_OUT_CAPACITY);
    if (channel->out_start == channel->out_end) {
        channel->out_start = 0;
        channel->out_end = 0;
    }
    if (size > VM_OUT_CAPACITY - channel->out_end && channel->out_start > 0) {
        memmove(channel->out, channel->out + channel->out_start,
                channel->out_end - channel->out_start);
        channel->out_end -= channel->out_start;
        channel->out_start = 0;
    }
    size_t room = VM_OUT_CAPACITY - channel->out_end;
    return cursor_writer_init(channel->out + channel->out_end, room < size ? 0 : room);
}

bool vm_channel_try_reserve(struct kelpie_vm *vm, size_t size, struct cursor_writer *ret_writer) {
    ASSERT(vm->locked);
    ASSERT(size > 0 && size <= VM_OUT_CAPACITY);
    struct cursor_writer writer = out_writer(&vm->channel, size);
    if (writer.capacity < size) {
        return false;
    }
    *ret_writer = writer;
    return true;
}

bool vm_channel_is_heard(const struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->channel.open || !vm->channel.held);
    const struct vm_channel *channel = &vm->channel;
    return channel->open && channel->connected && !channel->held && channel->broken[0] == 0;
}

enum kelpie_status vm_channel_reserve(struct kelpie_vm *vm, size_t size, const struct vm_wait *wait,
                                      struct cursor_writer *ret_writer, struct kelpie_error *err) {
    ASSERT(ret_writer);
    ASSERT(vm->locked);
    ASSERT(size > 0 && size <= VM_OUT_CAPACITY);
    struct cursor_writer writer = out_writer(&vm->channel, size);
    while (writer.capacity < size) {
        TRY(vm_wait_step(vm, wait, "room in the channel to the guest", err));
        writer = out_writer(&vm->channel, size);
    }
    TRY(vm_check_alive(vm, "talk to the guest", err));
    *ret_writer = writer;
    return KELPIE_OK;
}

/* Writes what the descriptor takes without waiting. False: nothing more can be written now. */
static bool out_write(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->channel.out_start <= vm->channel.out_end);
    struct vm_channel *channel = &vm->channel;
    if (!channel->open || channel->ended || channel->broken[0] ||
        channel->out_start == channel->out_end) {
        return false;
    }
    int fd = vm->ops->channel_fd(vm->instance);
    if (fd == HOST_FD_NONE) {
        return false;
    }
    struct host_wait none = host_wait_none();
    size_t written = 0;
    struct kelpie_error failure = {0};
    enum kelpie_status status =
        host_write(vm->host, fd, channel->out + channel->out_start,
                   channel->out_end - channel->out_start, &none, &written, &failure);
    if (status == KELPIE_OK) {
        channel->out_start += written;
        ASSERT(channel->out_start <= channel->out_end);
        host_condition_broadcast(vm->changed);
        vm_relays_wake(vm);
        return true;
    }
    if (status == KELPIE_TIMED_OUT || failure.os_error == EPIPE) {
        /* The I/O thread writes on when it can. A closed channel it reads as ended, and it then says
         * whether the machine is gone too. */
        host_event_set(vm->host, vm->wake_event);
    } else {
        vm_channel_break(vm, "the channel to the guest cannot be written");
    }
    return false;
}

/* Sessions speak in turn, one piece each, so that none is starved. True: something was said. */
static bool sessions_speak(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    ASSERT(vm->channel.connected && (!vm->channel.held || vm->channel.holding));
    struct vm_channel *channel = &vm->channel;
    bool said = false;
    for (size_t i = 0; i < vm->session_count; i++) {
        size_t need = PROTOCOL_HEADER_SIZE * 8 + PROTOCOL_DATA_SIZE_MAX;
        struct cursor_writer writer = out_writer(channel, need);
        if (writer.capacity < need) {
            return said;
        }
        struct kelpie_exec *exec = vm->sessions[(vm->session_turn + i) % vm->session_count];
        if (vm->channel.held && !exec->still) {
            continue;
        }
        if (vm_session_speak(exec, &writer)) {
            ASSERT(!writer.failed);
            channel->out_end += writer.size;
            said = true;
        }
    }
    vm->session_turn++;
    return said;
}

void vm_channel_flush(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->channel.out_end <= VM_OUT_CAPACITY);
    struct vm_channel *channel = &vm->channel;
    bool again = true;
    /* Each round either queues a piece of a bounded window or writes bytes of a bounded queue. */
    while (again) {
        again = false;
        if (channel->open && channel->connected && (!channel->held || channel->holding)) {
            again = sessions_speak(vm);
        }
        again = out_write(vm) ||
                (again && channel->out_end - channel->out_start < PROTOCOL_FRAME_SIZE_MAX);
    }
    vm_sessions_collect(vm);
}

void vm_channel_commit(struct kelpie_vm *vm, const struct cursor_writer *writer) {
    ASSERT(vm->locked);
    struct vm_channel *channel = &vm->channel;
    ASSERT(!writer->failed);
    ASSERT(writer->data == channel->out + channel->out_end);
    channel->out_end += writer->size;
    ASSERT(channel->out_end <= VM_OUT_CAPACITY);
    vm_channel_flush(vm);
}

enum kelpie_status vm_channel_await_unheld(struct kelpie_vm *vm, const struct vm_wait *wait,
                                           struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    if (vm_is_owned(vm)) {
        TRY(vm_owned_await_channel(vm, wait, err));
    }
    while (vm->channel.held) {
        TRY(vm_wait_step(vm, wait, "the VM to run", err));
    }
    return vm_check_alive(vm, "talk to the guest", err);
}

static bool handle_hello_ack(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    struct vm_channel *channel = &vm->channel;
    struct protocol_hello_ack hello;
    if (!protocol_decode_hello_ack(frame, &hello)) {
        return false;
    }
    if (memcmp(hello.nonce, channel->nonce, sizeof(hello.nonce)) != 0) {
        /* An answer to somebody before us: ours is still to come. */
        protocol_decoder_scan(&channel->decoder);
        return true;
    }
    channel->connected = true;
    channel->answers.hello = hello;
    channel->answers.hello_count++;
    return true;
}

static bool handle_setup_done(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    struct vm_answers *answers = &vm->channel.answers;
    struct protocol_done done;
    if (!protocol_decode_done(frame, &done)) {
        return false;
    }
    answers->setup_count++;
    answers->setup_os_error = done.os_error;
    snprintf(answers->setup_message, sizeof(answers->setup_message), "%s", done.message);
    return true;
}

static bool handle_shared(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    struct vm_answers *answers = &vm->channel.answers;
    struct protocol_done done;
    if (!protocol_decode_shared(frame, &done)) {
        return false;
    }
    answers->shared_count++;
    answers->shared_os_error = done.os_error;
    snprintf(answers->shared_message, sizeof(answers->shared_message), "%s", done.message);
    return true;
}

static bool handle_pong(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    struct protocol_ping pong;
    if (!protocol_decode_ping(frame, &pong) || pong.token > vm->channel.ping_token) {
        return false;
    }
    vm->channel.answers.pong_token = pong.token;
    vm_relays_answer(vm);
    return true;
}

static bool handle_thawed(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    if (!protocol_decode_thawed(frame, &vm->channel.answers.thawed)) {
        return false;
    }
    vm->channel.answers.thawed_count++;
    return true;
}

static bool handle_frozen(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    if (!protocol_decode_frozen(frame, &vm->channel.answers.frozen)) {
        return false;
    }
    vm->channel.answers.frozen_count++;
    return true;
}

static bool handle_sessions(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    if (!protocol_decode_sessions(frame, &vm->channel.answers.sessions)) {
        return false;
    }
    vm->channel.answers.sessions_count++;
    vm_relays_answer(vm);
    return true;
}

static bool handle_figures(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(frame->session == 0);
    if (!protocol_decode_figures(frame, &vm->channel.answers.figures)) {
        return false;
    }
    vm->channel.answers.figures_count++;
    return true;
}

static bool dispatch(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    ASSERT(vm->channel.connected || frame->type == PROTOCOL_HELLO_ACK);
    switch ((int)frame->type) {
    case PROTOCOL_HELLO_ACK:
        return handle_hello_ack(vm, frame);
    case PROTOCOL_SETUP_DONE:
        return handle_setup_done(vm, frame);
    case PROTOCOL_SHARED:
        return handle_shared(vm, frame);
    case PROTOCOL_PONG:
        return handle_pong(vm, frame);
    case PROTOCOL_SESSIONS:
        return handle_sessions(vm, frame);
    case PROTOCOL_FROZEN:
        return handle_frozen(vm, frame);
    case PROTOCOL_THAWED:
        return handle_thawed(vm, frame);
    case PROTOCOL_FIGURES:
        return handle_figures(vm, frame);
    case PROTOCOL_STARTED:
    case PROTOCOL_ENDED:
    case PROTOCOL_ATTACHED:
    case PROTOCOL_DATA:
    case PROTOCOL_ACK:
        return vm_session_handle(vm, frame);
    default:
        return false; /* what only a host says */
    }
}

bool vm_channel_handle(struct kelpie_vm *vm, const struct protocol_frame *frame) {
    ASSERT(vm->locked);
    struct vm_channel *channel = &vm->channel;
    ASSERT(channel->open);
    bool session_frame = frame->type == PROTOCOL_STARTED || frame->type == PROTOCOL_ENDED ||
                         frame->type == PROTOCOL_ATTACHED || frame->type == PROTOCOL_DATA ||
                         frame->type == PROTOCOL_ACK;
    if (!channel->connected && frame->type != PROTOCOL_HELLO_ACK) {
        /* The rest of what was said to somebody before us. */
        protocol_decoder_scan(&channel->decoder);
        return true;
    }
    if (session_frame != (frame->session != 0) || !dispatch(vm, frame)) {
        char why[96];
        snprintf(why, sizeof(why), "the guest sent a frame of type %d that breaks the protocol",
                 (int)frame->type);
        vm_channel_break(vm, why);
        return false;
    }
    return true;
}
