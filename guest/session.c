/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "base/checked.h"
#include "command.h"
#include "file.h"

#define TTY_END_OF_FILE 0x04 /* what a terminal takes for the end of its input (VEOF) */

static uint64_t watch_data(const struct session *session, enum session_source source) {
    ASSERT(session->id != 0);
    ASSERT(source >= SESSION_SOURCE_STDIN);
    return ((uint64_t)session->id << 8) | (uint64_t)source;
}

/* ---- The table ---------------------------------------------------------------------------------- */

static struct session *memory_take(struct agent *agent) {
    ASSERT(agent->spare_count <= GUEST_SPARE_SESSION_COUNT_MAX);
    if (agent->spare_count > 0) {
        return agent->spare_sessions[--agent->spare_count];
    }
    void *memory = mmap(NULL, sizeof(struct session), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(memory);
    return memory == MAP_FAILED ? NULL : memory;
}

static void memory_give_back(struct agent *agent, struct session *session) {
    ASSERT(session);
    ASSERT(agent->spare_count <= GUEST_SPARE_SESSION_COUNT_MAX);
    if (agent->spare_count < GUEST_SPARE_SESSION_COUNT_MAX) {
        agent->spare_sessions[agent->spare_count++] = session;
    } else {
        munmap(session, sizeof(*session));
    }
}

static void session_init(struct session *session, uint32_t id, enum session_kind kind) {
    ASSERT(session);
    ASSERT(id != 0);
    memset(session, 0, offsetof(struct session, output_bytes));
    session->id = id;
    session->kind = kind;
    session->attached = true;
    session->started_owed = true;
    session->ended.message = session->message;
    session->tty_fd = -1;
    session->file_fd = -1;
    session->dir_fd = -1;
    session->cgroup.fd = -1;
    session->input.fd = -1;
    session->input.closed = kind == SESSION_FILE_GET;
    ring_init(&session->input.ring, session->input_bytes, sizeof(session->input_bytes));
    protocol_receiver_init(&session->input.receiver, 0);
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        session->outputs[i].fd = -1;
        protocol_sender_init(&session->outputs[i].sender, session->output_bytes[i],
                             sizeof(session->output_bytes[i]));
    }
    if (kind == SESSION_FILE_PUT) {
        protocol_sender_end(&session->outputs[0].sender);
        protocol_sender_end(&session->outputs[1].sender);
    }
}

/* The host may have one session too many: it is told so, and the table stays as it is. */
static void refuse(struct agent *agent, uint32_t id, int os_error, const char *message) {
    ASSERT(os_error > 0);
    ASSERT(outbox_room(&agent->outbox) >= PROTOCOL_MESSAGE_SIZE_MAX + 256);
    struct protocol_ended ended = {
        .end = PROTOCOL_END_FAILED, .value = (uint32_t)os_error, .message = message};
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_ended(&writer, id, &ended);
    outbox_commit(&agent->outbox, &writer, true);
}

struct session *session_open(struct agent *agent, uint32_t id, enum session_kind kind) {
    ASSERT(id != 0);
    ASSERT(!session_find(agent, id)); /* the dispatcher looked */
    if (agent->frozen && !(agent->holding && kind != SESSION_COMMAND)) {
        refuse(agent, id, EBUSY, "the guest stands still");
        return NULL;
    }
    if (agent->session_count == PROTOCOL_SESSION_COUNT_MAX) {
        refuse(agent, id, EAGAIN, "too many sessions are open");
        return NULL;
    }
    struct session *session = memory_take(agent);
    if (!session) {
        refuse(agent, id, ENOMEM, "there is no memory for a session");
        return NULL;
    }
    session_init(session, id, kind);
    session->exact = agent->holding;
    agent->sessions[agent->session_count++] = session;
    return session;
}

struct session *session_find(struct agent *agent, uint32_t id) {
    ASSERT(agent->session_count <= PROTOCOL_SESSION_COUNT_MAX);
    for (uint32_t i = 0; i < agent->session_count; i++) {
        ASSERT(agent->sessions[i]);
        if (agent->sessions[i]->id == id) {
            return agent->sessions[i];
        }
    }
    return NULL;
}

static void output_close(struct session_output *output) {
    ASSERT(output);
    if (output->fd >= 0) {
        close(output->fd);
    }
    output->fd = -1;
    output->watched = false;
    protocol_sender_end(&output->sender);
    ASSERT(output->sender.ended);
}

/* Nothing more can be delivered: what waits is dropped, and what still comes will be. */
static void input_close(struct session_input *input) {
    ASSERT(input);
    if (input->fd >= 0) {
        close(input->fd);
    }
    input->fd = -1;
    input->watched = false;
    input->closed = true;
    input->ack_owed = true;
    size_t fresh = input->ring.size - min_size(input->backlog, input->ring.size);
    protocol_receiver_consumed(&input->receiver, fresh);
    input->backlog = 0;
    ring_drop(&input->ring, input->ring.size);
    ASSERT(input->ring.size == 0);
}

void session_release(struct agent *agent, struct session *session) {
    ASSERT(session);
    ASSERT(agent->session_count > 0);
    if (session->kind == SESSION_COMMAND && !session->over) {
        command_kill(session);
    }
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        output_close(&session->outputs[i]);
    }
    input_close(&session->input);
    if (session->tty_fd >= 0) {
        close(session->tty_fd);
    }
    file_close(session);
    cgroup_give_back(&agent->cgroups, &session->cgroup);
    for (uint32_t i = 0; i < agent->session_count; i++) {
        if (agent->sessions[i] == session) {
            agent->sessions[i] = agent->sessions[--agent->session_count];
            break;
        }
    }
    memory_give_back(agent, session);
}

void session_release_all(struct agent *agent) {
    ASSERT(agent->session_count <= PROTOCOL_SESSION_COUNT_MAX);
    while (agent->session_count > 0) {
        session_release(agent, agent->sessions[agent->session_count - 1]);
    }
    ASSERT(agent->session_count == 0);
}

void session_fail(struct session *session, const struct kelpie_error *err) {
    ASSERT(!session->over);
    ASSERT(err->os_error > 0);
    session->over = true;
    session->started_owed = false;
    session->ended.end = PROTOCOL_END_FAILED;
    session->ended.value = (uint32_t)err->os_error;
    snprintf(session->message, sizeof(session->message), "%.255s", err->message);
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        output_close(&session->outputs[i]);
    }
    input_close(&session->input);
    file_close(session);
}

/* ---- Output ------------------------------------------------------------------------------------- */

static void output_watch(struct agent *agent, struct session *session, size_t index) {
    ASSERT(index < SESSION_OUTPUT_COUNT);
    struct session_output *output = &session->outputs[index];
    bool wanted = output->fd >= 0 && protocol_sender_room(&output->sender) > 0;
    if (wanted && !output->watched) {
        enum session_source source = index == 0 ? SESSION_SOURCE_STDOUT : SESSION_SOURCE_STDERR;
        agent_watch(agent, output->fd, watch_data(session, source), EPOLLIN);
    } else if (!wanted && output->watched) {
        agent_unwatch(agent, output->fd);
    }
    output->watched = wanted;
    ASSERT(!output->watched || output->fd >= 0);
}

/* One read. False: nothing more is there now. */
static bool output_read(struct agent *agent, struct session_output *output) {
    ASSERT(output->fd >= 0);
    size_t room = min_size(protocol_sender_room(&output->sender), sizeof(agent->scratch));
    if (output->draining) {
        room = min_size(room, output->drain_left);
    }
    if (room == 0) {
        if (output->draining && output->drain_left == 0) {
            output_close(output);
        }
        return false;
    }
    ssize_t count = read(output->fd, agent->scratch, room);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (output->draining) {
            output_close(output);
        }
        return false;
    }
    if (count <= 0) { /* a terminal says EIO when nobody has it open any more */
        output_close(output);
        return false;
    }
    size_t taken = protocol_sender_write(&output->sender, agent->scratch, (size_t)count);
    ASSERT(taken == (size_t)count);
    output->drain_left -= output->draining ? taken : 0;
    if (output->draining && output->drain_left == 0) {
        output_close(output);
    }
    return output->fd >= 0;
}

/* Reads all that is there and fits. */
static void output_drain(struct agent *agent, struct session *session, size_t index) {
    ASSERT(index < SESSION_OUTPUT_COUNT);
    ASSERT(session->kind == SESSION_COMMAND);
    struct session_output *output = &session->outputs[index];
    while (output->fd >= 0 && output_read(agent, output)) {
    }
    output_watch(agent, session, index);
}

/* ---- Input -------------------------------------------------------------------------------------- */

static void input_watch(struct agent *agent, struct session *session) {
    ASSERT(session->kind == SESSION_COMMAND);
    struct session_input *input = &session->input;
    if (input->fd < 0) {
        return;
    }
    bool wanted = input->ring.size > 0;
    if (wanted != input->watched) {
        /* Without EPOLLOUT the pipe still tells us when its reader is gone. */
        agent_watch(agent, input->fd, watch_data(session, SESSION_SOURCE_STDIN),
                    wanted ? EPOLLOUT : 0);
        input->watched = wanted;
    }
    ASSERT(input->watched == wanted);
}

static void input_taken(struct session_input *input, size_t size) {
    ASSERT(size <= input->ring.size);
    ring_drop(&input->ring, size);
    size_t old = min_size(size, input->backlog);
    input->backlog -= old;
    protocol_receiver_consumed(&input->receiver, size - old);
    input->ack_owed = true;
    ASSERT(input->backlog <= input->ring.size);
}

/* The stream's end reaches the command: a pipe is closed, a terminal is told. */
static void input_end(struct session *session) {
    ASSERT(session->kind == SESSION_COMMAND);
    struct session_input *input = &session->input;
    ASSERT(input->receiver.ended);
    ASSERT(input->ring.size == 0);
    if ((session->flags & PROTOCOL_EXEC_TTY) != 0) {
        const char end = TTY_END_OF_FILE;
        (void)!write(input->fd, &end, 1); /* a full terminal has a reader that is busy: it loses */
    }
    input_close(input);
    input->closed_told = true; /* the host ended it: it knows */
}

static void input_flush(struct agent *agent, struct session *session) {
    ASSERT(agent);
    struct session_input *input = &session->input;
    ASSERT(session->kind == SESSION_COMMAND);
    while (input->fd >= 0 && input->ring.size > 0) {
        const uint8_t *bytes = NULL;
        size_t size = ring_front(&input->ring, &bytes);
        ssize_t count = write(input->fd, bytes, size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno == EAGAIN) {
            break;
        }
        if (count <= 0) {
            input_close(input);
            return;
        }
        input_taken(input, (size_t)count);
    }
    if (input->fd >= 0 && input->receiver.ended && input->ring.size == 0) {
        input_end(session);
    }
    input_watch(agent, session);
}

static bool input_accept(struct session_input *input, const struct protocol_data *data) {
    ASSERT(data->stream == PROTOCOL_STDIN);
    struct protocol_receiver *receiver = &input->receiver;
    if (receiver->ended) {
        /* A host that attached anew cannot know that the end was said before. */
        return data->size == 0 && data->offset == receiver->received;
    }
    size_t room = input->closed ? data->size : ring_room(&input->ring);
    if (data->size > room || !protocol_receiver_accept(receiver, data)) {
        return false;
    }
    ASSERT(receiver->consumed <= receiver->received);
    return true;
}

bool session_data(struct agent *agent, struct session *session, const struct protocol_data *data) {
    ASSERT(session->attached);
    struct session_input *input = &session->input;
    if (data->stream != PROTOCOL_STDIN || !input_accept(input, data)) {
        return false;
    }
    if (session->kind == SESSION_FILE_PUT) {
        protocol_receiver_consumed(&input->receiver, data->size);
        input->ack_owed = true;
        file_put_write(session, data);
    } else if (input->closed) {
        protocol_receiver_consumed(&input->receiver, data->size);
        input->ack_owed = true;
    } else {
        size_t taken = ring_write(&input->ring, data->bytes, data->size);
        ASSERT(taken == data->size);
        input_flush(agent, session);
    }
    return true;
}

bool session_ack(struct agent *agent, struct session *session, const struct protocol_ack *ack) {
    ASSERT(session->attached);
    if (ack->stream == PROTOCOL_STDIN || ack->flags != 0) {
        return false;
    }
    size_t index = ack->stream == PROTOCOL_STDOUT ? 0 : 1;
    ASSERT(index < SESSION_OUTPUT_COUNT);
    if (!protocol_sender_ack(&session->outputs[index].sender, ack->offset)) {
        return false;
    }
    if (session->kind == SESSION_COMMAND) {
        output_drain(agent, session, index);
        command_settle(agent, session);
    }
    return true;
}

/* ---- Connections -------------------------------------------------------------------------------- */

void session_detach(struct session *session) {
    ASSERT(session);
    session->attached = false;
    session->started_owed = false;
    session->ended_sent = false;
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        protocol_sender_pause(&session->outputs[i].sender);
    }
    ASSERT(session->outputs[0].sender.paused);
}

/* Rewinds both streams, or neither. */
static bool attach_outputs(struct session *session, const struct protocol_attach *attach) {
    struct protocol_sender *senders[] = {&session->outputs[0].sender, &session->outputs[1].sender};
    uint64_t offsets[] = {attach->stdout_offset, attach->stderr_offset};
    ASSERT(ARRAY_SIZE(senders) == SESSION_OUTPUT_COUNT);
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        if (attach->from_acknowledged) {
            offsets[i] = senders[i]->acked;
        }
        if (offsets[i] < senders[i]->acked || offsets[i] > protocol_sender_written(senders[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        bool rewound = protocol_sender_rewind(senders[i], offsets[i]);
        ASSERT(rewound);
    }
    return true;
}

/* What was received and not yet taken stays here as a backlog, beside a new, whole window: the new host has
 * none of it to send again. */
static bool attach_input(struct session_input *input) {
    ASSERT(input->ring.size <= SESSION_INPUT_SIZE);
    if (input->ring.size > PROTOCOL_WINDOW_SIZE) {
        return false;
    }
    bool ended = input->receiver.ended;
    input->backlog = input->ring.size;
    protocol_receiver_init(&input->receiver, input->receiver.received);
    input->receiver.ended = ended;
    input->ack_owed = input->closed || ended;
    input->closed_told = false;
    input->closed = input->closed || (ended && input->fd < 0);
    ASSERT(input->backlog <= PROTOCOL_WINDOW_SIZE);
    return true;
}

static int attach(struct session *session, const struct protocol_attach *message) {
    if (!session) {
        return ENOENT;
    }
    ASSERT(session->id != 0);
    if (session->input.ring.size > PROTOCOL_WINDOW_SIZE) {
        return EAGAIN;
    }
    if (!attach_outputs(session, message)) {
        return EINVAL;
    }
    bool input_fits = attach_input(&session->input);
    ASSERT(input_fits);
    session->attached = true;
    session->started_owed = false; /* ATTACHED says it */
    session->ended_sent = false;
    return 0;
}

void session_attach(struct agent *agent, uint32_t id, const struct protocol_attach *message) {
    ASSERT(id != 0);
    struct session *session = session_find(agent, id);
    struct protocol_attached attached = {.os_error = (uint32_t)attach(session, message)};
    if (attached.os_error == 0) {
        ASSERT(session);
        /* What has ended is no stream any more: bytes to it would break the protocol. */
        bool ended = session->input.receiver.ended;
        attached.flags = session->flags & ~(ended ? (uint32_t)PROTOCOL_EXEC_STDIN : 0u);
        attached.stdin_offset = session->input.receiver.received;
        attached.stdout_offset = session->outputs[0].sender.sent;
        attached.stderr_offset = session->outputs[1].sender.sent;
    }
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_attached(&writer, id, &attached);
    outbox_commit(&agent->outbox, &writer, true);
}

/* ---- Events ------------------------------------------------------------------------------------- */

void session_event(struct agent *agent, struct session *session, enum session_source source,
                   uint32_t events) {
    ASSERT(session->kind == SESSION_COMMAND);
    ASSERT(source >= SESSION_SOURCE_STDIN);
    if (source == SESSION_SOURCE_STDIN) {
        bool reader_is_gone = (events & (EPOLLERR | EPOLLHUP)) != 0;
        if (reader_is_gone && session->input.fd >= 0) {
            input_close(&session->input);
        } else if (session->input.fd >= 0) {
            input_flush(agent, session);
        }
        return;
    }
    size_t index = source == SESSION_SOURCE_STDOUT ? 0 : 1;
    struct session_output *output = &session->outputs[index];
    if (output->fd >= 0) {
        (void)output_read(agent, output);
        output_watch(agent, session, index);
    }
    command_settle(agent, session);
}

bool session_reaped(struct agent *agent, struct session *session, pid_t pid, int wait_status) {
    ASSERT(pid > 0);
    if (!session->running || session->pid != pid) {
        return false;
    }
    ASSERT(session->kind == SESSION_COMMAND);
    session->running = false;
    session->wait_status = wait_status;
    session->timeout_at_ns = 0;
    session->grace_at_ns = agent_now_ns() + GUEST_GRACE_MS * 1000000ull;
    if (!session->input.closed) {
        input_close(&session->input);
    }
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        if (session->outputs[i].fd >= 0) {
            output_drain(agent, session, i);
        }
    }
    command_settle(agent, session);
    return true;
}

uint64_t session_deadline(const struct session *session) {
    ASSERT(session);
    uint64_t deadline = UINT64_MAX;
    if (session->timeout_at_ns != 0) {
        deadline = session->timeout_at_ns;
    }
    if (session->grace_at_ns != 0) {
        deadline = min_u64(deadline, session->grace_at_ns);
    }
    ASSERT(deadline != 0);
    return deadline;
}

/* ---- Sending ------------------------------------------------------------------------------------ */

static bool pump_started(struct agent *agent, struct session *session) {
    ASSERT(session->attached);
    if (!session->started_owed) {
        return false;
    }
    ASSERT(!session->ended_sent);
    session->started_owed = false;
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_started(&writer, session->id, &session->started);
    outbox_commit(&agent->outbox, &writer, session->kind != SESSION_COMMAND);
    return true;
}

static bool pump_input_ack(struct agent *agent, struct session *session) {
    struct session_input *input = &session->input;
    ASSERT(session->attached);
    if (!input->ack_owed) {
        return false;
    }
    input->ack_owed = false;
    bool tells_close = input->closed && !input->closed_told;
    if (!protocol_receiver_due(&input->receiver, input->ring.size == 0) && !tells_close) {
        return false;
    }
    struct protocol_ack ack = {
        .stream = PROTOCOL_STDIN,
        .flags = tells_close ? PROTOCOL_ACK_CLOSED : 0,
        .offset = input->receiver.acked,
    };
    ASSERT(ack.offset <= input->receiver.received);
    input->closed_told = input->closed_told || tells_close;
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_ack(&writer, session->id, &ack);
    outbox_commit(&agent->outbox, &writer, session->kind != SESSION_COMMAND);
    return true;
}

static bool pump_output(struct agent *agent, struct session *session, size_t index) {
    ASSERT(index < SESSION_OUTPUT_COUNT);
    struct protocol_data data;
    struct protocol_sender *sender = &session->outputs[index].sender;
    static_assert(sizeof(agent->scratch) >= PROTOCOL_DATA_SIZE_MAX, "a DATA frame fits");
    if (!protocol_sender_next(sender, agent->scratch, PROTOCOL_DATA_SIZE_MAX, &data)) {
        return false;
    }
    ASSERT(data.size > 0 || (data.flags & PROTOCOL_DATA_END) != 0);
    data.stream = index == 0 ? PROTOCOL_STDOUT : PROTOCOL_STDERR;
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_data(&writer, session->id, &data);
    outbox_commit(&agent->outbox, &writer, data.size > 0);
    return true;
}

/* It says that it failed and nothing else: a session that never started has no streams. */
static bool has_failed(const struct session *session) {
    ASSERT(session->kind <= SESSION_FILE_GET);
    return session->over && session->ended.end == PROTOCOL_END_FAILED;
}

static bool pump_ended(struct agent *agent, struct session *session) {
    ASSERT(session->attached);
    if (!session->over || session->ended_sent) {
        return false;
    }
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        if (!has_failed(session) && !protocol_sender_finished(&session->outputs[i].sender)) {
            return false;
        }
    }
    ASSERT(!session->started_owed);
    session->ended_sent = true;
    session->ended.stdout_bytes = protocol_sender_written(&session->outputs[0].sender);
    session->ended.stderr_bytes = protocol_sender_written(&session->outputs[1].sender);
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_ended(&writer, session->id, &session->ended);
    outbox_commit(&agent->outbox, &writer, true);
    return true;
}

bool session_pump(struct agent *agent, struct session *session) {
    ASSERT(!agent->frozen || agent->holding);
    ASSERT(outbox_room(&agent->outbox) >= GUEST_FRAME_ROOM_MIN);
    if (!session->attached || (agent->frozen && !session->exact)) {
        return false;
    }
    if (session->kind == SESSION_FILE_GET && !session->over) {
        file_get_fill(agent, session);
    }
    if (has_failed(session)) {
        return pump_ended(agent, session);
    }
    if (pump_started(agent, session) || pump_input_ack(agent, session)) {
        return true;
    }
    /* The two outputs take turns as well. */
    size_t first = session->next_output;
    session->next_output = 1 - first;
    return pump_output(agent, session, first) || pump_output(agent, session, 1 - first) ||
           pump_ended(agent, session);
}
