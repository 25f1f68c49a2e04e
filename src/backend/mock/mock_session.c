/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_session.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_tree.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define RLIMIT_NOFILE_NUMBER 7 /* Linux's RLIMIT_NOFILE, whatever machine we run on */
#define NS_PER_MS 1000000ull
#define TTY_ROWS_DEFAULT 24
#define TTY_COLUMNS_DEFAULT 80

void mock_session_check(const struct mock_session *session) {
    ASSERT(session);
    ASSERT(session->guest);
    ASSERT(session->id > 0);
    ASSERT(session->kind < MOCK_SESSION_KIND_COUNT);
    ASSERT(session->memory);
    ASSERT(session->input_debt <= MOCK_STDIN_SIZE);
}

struct mock_session *mock_session_create(struct mock_guest *guest, uint32_t id,
                                         enum mock_session_kind kind) {
    mock_guest_check(guest);
    ASSERT(id > 0);
    ASSERT(kind < MOCK_SESSION_KIND_COUNT);
    struct mock_session *session = host_allocate(guest->host, sizeof(*session), NULL);
    uint8_t *memory = host_allocate(guest->host, MOCK_STDIN_SIZE + 2 * MOCK_OUTPUT_SIZE, NULL);
    if (!session || !memory) {
        free(session);
        free(memory);
        return NULL;
    }
    *session = (struct mock_session){
        .guest = guest,
        .id = id,
        .kind = kind,
        .attached = true,
        .memory = memory,
        .rlimit_nofile = MOCK_RLIMIT_NOFILE_DEFAULT,
        .tty_line = mock_bytes_init(guest->host),
        .tty_ready = mock_bytes_init(guest->host),
        .content = mock_bytes_init(guest->host),
    };
    ring_init(&session->input_ring, memory, MOCK_STDIN_SIZE);
    protocol_receiver_init(&session->input, 0);
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        protocol_sender_init(&session->outputs[i], memory + MOCK_STDIN_SIZE + i * MOCK_OUTPUT_SIZE,
                             MOCK_OUTPUT_SIZE);
    }
    return session;
}

static void processes_free(struct mock_session *session) {
    mock_session_check(session);
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (session->processes[i]) {
            mock_process_free(session, i);
        }
    }
}

void mock_session_destroy(struct mock_session *session) {
    mock_session_check(session);
    ASSERT(session);
    processes_free(session);
    mock_bytes_deinit(&session->tty_line);
    mock_bytes_deinit(&session->tty_ready);
    mock_bytes_deinit(&session->content);
    free(session->path);
    free(session->memory);
    free(session);
}

/* ---- The end ---------------------------------------------------------------------------------- */

void mock_session_consumed(struct mock_session *session, size_t size) {
    mock_session_check(session);
    size_t paid = min_size(size, session->input_debt);
    session->input_debt -= paid;
    protocol_receiver_consumed(&session->input, size - paid);
}

/* Nobody reads what comes in from now on. */
static void input_close(struct mock_session *session) {
    mock_session_check(session);
    size_t left = session->input_ring.size;
    ring_drop(&session->input_ring, left);
    mock_session_consumed(session, left);
    session->input_close_due = !session->input_closed;
    session->input_closed = true;
}

static void session_end(struct mock_session *session, enum protocol_end end, uint32_t value) {
    mock_session_check(session);
    ASSERT(!session->ended);
    session->ended = true;
    session->end = end;
    session->end_value = value;
    processes_free(session);
    mock_bytes_deinit(&session->content);
    input_close(session);
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        if (!session->outputs[i].ended) {
            protocol_sender_end(&session->outputs[i]);
        }
    }
}

void mock_session_fail(struct mock_session *session, int os_error, const char *what) {
    mock_session_check(session);
    ASSERT(what);
    ASSERT(os_error > 0);
    session->started_due = false;
    /* As the guest words it. */
    snprintf(session->end_message, sizeof(session->end_message), "%.180s: %s", what,
             strerror(os_error));
    session_end(session, PROTOCOL_END_FAILED, (uint32_t)os_error);
}

/* ---- Commands --------------------------------------------------------------------------------- */

static bool strings_fill(struct mock_strings *strings, const char *text, size_t size) {
    mock_strings_check(strings);
    ASSERT(text);
    const char *cursor = text;
    const char *next = protocol_strings_next(&cursor, text + size);
    bool added = true;
    while (next && added) {
        added = mock_strings_add(strings, next);
        next = protocol_strings_next(&cursor, text + size);
    }
    return added;
}

/* A command's environment: what it was given, and PATH and HOME where those are missing. */
static bool env_fill(struct mock_strings *env, const struct protocol_exec *message) {
    mock_strings_check(env);
    ASSERT(message);
    const char *cursor = message->env;
    const char *end = message->env + message->env_size;
    const char *next = message->env_count > 0 ? protocol_strings_next(&cursor, end) : NULL;
    bool added = mock_strings_add(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/"
                                       "sbin:/bin") &&
                 mock_strings_add(env, "HOME=/root");
    while (next && added) {
        added = mock_strings_put(env, next);
        next = protocol_strings_next(&cursor, end);
    }
    return added;
}

static void exec_fields(struct mock_session *session, const struct protocol_exec *message) {
    mock_session_check(session);
    ASSERT(message);
    session->flags = message->flags;
    session->uid = message->uid;
    session->gid = message->gid;
    session->rows = message->rows ? message->rows : TTY_ROWS_DEFAULT;
    session->columns = message->columns ? message->columns : TTY_COLUMNS_DEFAULT;
    for (uint32_t i = 0; i < message->rlimit_count; i++) {
        if (message->rlimits[i].resource == RLIMIT_NOFILE_NUMBER) {
            session->rlimit_nofile = message->rlimits[i].soft;
        }
    }
    if (message->timeout_ms > 0) {
        session->timeout_ns =
            session->guest->uptime_ns + (uint64_t)message->timeout_ms * NS_PER_MS + 1;
    }
    if (mock_session_is_tty(session)) {
        protocol_sender_end(&session->outputs[MOCK_ERR]);
    }
    session->input_closed = !(message->flags & PROTOCOL_EXEC_STDIN);
}

/* Normalises a path of a message: absolute, and no longer than ours may be. */
static void path_of(const char *path, char *buffer) {
    static_assert(PROTOCOL_PATH_SIZE_MAX <= MOCK_PATH_SIZE_MAX, "a message's path fits");
    ASSERT(path[0] == '/'); /* the decoder saw to it */
    bool resolved = mock_path_resolve("/", path, buffer);
    ASSERT(resolved);
}

void mock_session_exec(struct mock_session *session, const struct protocol_exec *message) {
    mock_session_check(session);
    ASSERT(message);
    ASSERT(session->kind == MOCK_SESSION_EXEC);
    struct mock_guest *guest = session->guest;
    exec_fields(session, message);
    if (guest->fail_exec_count > 0) {
        guest->fail_exec_count--;
        mock_session_fail(session, EIO, "the mock was told to fail this command");
        return;
    }
    struct mock_strings argv = mock_strings_init(guest->host);
    struct mock_strings env = mock_strings_init(guest->host);
    char folder[MOCK_PATH_SIZE_MAX + 1];
    int failure = 0;
    path_of(message->working_dir, folder);
    if (!strings_fill(&argv, message->argv, message->argv_size) || !env_fill(&env, message)) {
        failure = ENOMEM;
    } else {
        const struct mock_spawn spawn = {
            .parent = MOCK_PROCESS_NONE, .argv = &argv, .env = &env, .folder = folder};
        uint32_t slot = MOCK_PROCESS_NONE;
        failure = mock_process_spawn(session, &spawn, &slot);
        ASSERT(failure != 0 || slot == 0);
    }
    if (failure != 0) {
        const char *name = mock_strings_at(&argv, 0);
        char what[KELPIE_NAME_SIZE_MAX + 32];
        snprintf(what, sizeof(what), "run the command: %.64s", name ? name : "");
        mock_session_fail(session, failure, what);
    } else {
        session->started_due = true;
    }
    mock_strings_deinit(&argv);
    mock_strings_deinit(&env);
}

bool mock_session_is_tty(const struct mock_session *session) {
    mock_session_check(session);
    return session->flags & PROTOCOL_EXEC_TTY;
}

void mock_session_signal(struct mock_session *session, uint32_t number) {
    mock_session_check(session);
    ASSERT(number >= 1);
    if (session->ended) {
        return;
    }
    if (number == SIGSTOP || number == SIGTSTP) {
        session->stopped = true;
    } else if (number == SIGCONT || number == SIGKILL) {
        session->stopped = false;
    }
    for (size_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (session->processes[i]) {
            mock_process_signal(session->processes[i], number);
        }
    }
}

/* A process that ended: nobody may be left to ask how. */
static void process_reap(struct mock_session *session, uint32_t slot) {
    mock_session_check(session);
    const struct mock_process *process = session->processes[slot];
    ASSERT(process->ended);
    bool is_orphan = process->parent != MOCK_PROCESS_NONE &&
                     (process->background || !session->processes[process->parent] ||
                      session->processes[process->parent]->ended);
    if (is_orphan) {
        mock_process_free(session, slot);
    }
}

static bool processes_turn(struct mock_session *session) {
    mock_session_check(session);
    bool moved = false;
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        struct mock_process *process = session->processes[i];
        if (process && !process->ended) {
            moved = mock_process_turn(process) || moved;
        }
        if (process && process->ended) {
            process_reap(session, i);
        }
    }
    return moved;
}

static void command_end(struct mock_session *session) {
    mock_session_check(session);
    const struct mock_process *first = session->processes[0];
    ASSERT(first->ended);
    if (session->timed_out) {
        session_end(session, PROTOCOL_END_TIMED_OUT, SIGKILL);
    } else if (first->signal) {
        session_end(session, PROTOCOL_END_SIGNALED, first->signal);
    } else {
        session_end(session, PROTOCOL_END_EXITED, first->exit_code);
    }
}

static bool command_run(struct mock_session *session) {
    mock_session_check(session);
    if (session->timeout_ns != 0 && !session->timed_out &&
        session->timeout_ns <= session->guest->uptime_ns) {
        session->timed_out = true;
        mock_session_signal(session, SIGKILL);
    }
    if (mock_session_is_tty(session)) {
        mock_tty_run(session);
    }
    bool moved = !session->stopped;
    for (int i = 0; i < MOCK_STEP_COUNT_MAX && moved; i++) {
        moved = processes_turn(session);
        if (session->processes[0]->ended) {
            command_end(session);
            return false;
        }
    }
    return moved;
}

/* ---- Files ------------------------------------------------------------------------------------ */

void mock_session_put(struct mock_session *session, const struct protocol_file_put *message) {
    mock_session_check(session);
    ASSERT(message);
    ASSERT(session->kind == MOCK_SESSION_PUT);
    struct mock_files *files = &session->guest->files;
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    path_of(message->path, path);
    int failure = mock_files_lookup(files, path, &file);
    char parent[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *folder = NULL;
    if (failure == ENOENT) {
        bool resolved = mock_path_resolve(path, "..", parent);
        ASSERT(resolved); /* it is shorter */
        failure = mock_files_lookup(files, parent, &folder);
    }
    bool is_tree = message->mode & PROTOCOL_MODE_FOLDER;
    if (is_tree) {
        failure = mock_tree_make_folder(files, path, message->mode & ~PROTOCOL_MODE_FOLDER);
    } else if (failure == 0 && file && file->type == MOCK_FILE_FOLDER) {
        failure = EISDIR;
    } else if (failure == 0 && message->size > MOCK_FILE_BYTES_MAX - files->bytes) {
        failure = ENOSPC;
    }
    if (failure == 0) {
        session->path = host_duplicate(session->guest->host, path, NULL);
        failure = session->path ? 0 : ENOMEM;
    }
    if (failure != 0) {
        mock_session_fail(session, failure, message->path);
        return;
    }
    session->mode = message->mode;
    session->file_size = message->size;
    session->started_due = true;
}

void mock_session_get(struct mock_session *session, const struct protocol_file_get *message) {
    mock_session_check(session);
    ASSERT(message);
    ASSERT(session->kind == MOCK_SESSION_GET);
    session->input_closed = true;
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    path_of(message->path, path);
    int failure = mock_files_lookup(&session->guest->files, path, &file);
    bool is_tree = failure == 0 && file->type == MOCK_FILE_FOLDER;
    if (failure == 0 && file->type != MOCK_FILE_REGULAR && !is_tree) {
        failure = EINVAL;
    }
    if (failure == 0) {
        session->path = host_duplicate(session->guest->host, path, NULL);
        if (is_tree) {
            mock_tree_pack(&session->guest->files, path, session->exact, &session->content);
        } else {
            mock_bytes_append(&session->content, file->content.data, file->content.size);
        }
        failure = session->path && !session->content.failed ? 0 : ENOMEM;
    }
    if (failure != 0) {
        mock_session_fail(session, failure, message->path);
        return;
    }
    session->mode = file->mode | (is_tree ? PROTOCOL_MODE_FOLDER : 0);
    session->file_size = session->content.size;
    session->started_due = true;
}

/* Takes what came of the file; its end puts it into place. */
static void put_run(struct mock_session *session) {
    mock_session_check(session);
    const uint8_t *data = NULL;
    size_t size = ring_front(&session->input_ring, &data);
    while (size > 0 && !session->content.failed) {
        mock_bytes_append(&session->content, data, size);
        ring_drop(&session->input_ring, size);
        mock_session_consumed(session, size);
        size = ring_front(&session->input_ring, &data);
    }
    bool is_tree = session->mode & PROTOCOL_MODE_FOLDER;
    bool too_much = session->content.size > (is_tree ? MOCK_FILE_BYTES_MAX : session->file_size);
    if (session->content.failed || too_much) {
        mock_session_fail(session, too_much ? EINVAL : ENOSPC, session->path);
        return;
    }
    if (!session->input.ended) {
        return;
    }
    int failure = is_tree || session->content.size == session->file_size ? 0 : EINVAL;
    if (is_tree) {
        failure = mock_tree_unpack(&session->guest->files, session->path, session->exact,
                                   &session->content);
    } else if (failure == 0) {
        failure = mock_files_replace(&session->guest->files, session->path, session->mode,
                                     &session->content);
    }
    if (failure != 0) {
        mock_session_fail(session, failure, session->path);
    } else {
        session_end(session, PROTOCOL_END_EXITED, 0);
    }
}

static void get_run(struct mock_session *session) {
    mock_session_check(session);
    struct protocol_sender *sender = &session->outputs[MOCK_OUT];
    ASSERT(session->content.size >= session->file_size);
    if (session->file_offset < session->file_size) {
        session->file_offset +=
            protocol_sender_write(sender, session->content.data + session->file_offset,
                                  (size_t)(session->file_size - session->file_offset));
    }
    if (session->file_offset >= session->file_size) {
        session_end(session, PROTOCOL_END_EXITED, 0);
    }
}

bool mock_session_run(struct mock_session *session) {
    mock_session_check(session);
    if (session->ended) {
        return false;
    }
    switch (session->kind) {
    case MOCK_SESSION_EXEC:
        return command_run(session);
    case MOCK_SESSION_PUT:
        put_run(session);
        return false;
    case MOCK_SESSION_GET:
        get_run(session);
        return false;
    case MOCK_SESSION_KIND_COUNT:
        break;
    }
    UNREACHABLE();
}

uint64_t mock_session_next_ns(const struct mock_session *session) {
    mock_session_check(session);
    uint64_t next = UINT64_MAX;
    if (session->ended || session->kind != MOCK_SESSION_EXEC) {
        return next;
    }
    if (session->timeout_ns != 0 && !session->timed_out) {
        next = session->timeout_ns;
    }
    for (size_t i = 0; i < MOCK_PROCESS_COUNT_MAX && !session->stopped; i++) {
        const struct mock_process *process = session->processes[i];
        if (process && !process->exited && process->wake_ns != 0) {
            next = min_u64(next, process->wake_ns);
        }
    }
    return next;
}

/* ---- Streams ---------------------------------------------------------------------------------- */

bool mock_session_data(struct mock_session *session, const struct protocol_data *message) {
    mock_session_check(session);
    ASSERT(message);
    if (message->stream != PROTOCOL_STDIN || !protocol_receiver_accept(&session->input, message)) {
        return false;
    }
    if (session->input_closed) {
        protocol_receiver_consumed(&session->input, message->size);
        session->input_close_due = true;
        return true;
    }
    if (ring_room(&session->input_ring) < message->size) {
        return false;
    }
    size_t written = ring_write(&session->input_ring, message->bytes, message->size);
    ASSERT(written == message->size);
    return true;
}

static struct protocol_sender *sender_of(struct mock_session *session,
                                         enum protocol_stream stream) {
    mock_session_check(session);
    if (stream == PROTOCOL_STDOUT) {
        return &session->outputs[MOCK_OUT];
    }
    return stream == PROTOCOL_STDERR ? &session->outputs[MOCK_ERR] : NULL;
}

bool mock_session_ack(struct mock_session *session, const struct protocol_ack *message) {
    mock_session_check(session);
    ASSERT(message);
    struct protocol_sender *sender = sender_of(session, message->stream);
    return sender && protocol_sender_ack(sender, message->offset);
}

/* As the terminal's ONLCR does. */
static size_t write_lines(struct protocol_sender *sender, const uint8_t *data, size_t size) {
    ASSERT(sender);
    size_t taken = 0;
    while (taken < size && protocol_sender_room(sender) >= 2) {
        const uint8_t *newline = memchr(data + taken, '\n', size - taken);
        size_t run = newline ? (size_t)(newline - data) - taken : size - taken;
        if (run > 0) {
            taken += protocol_sender_write(sender, data + taken, run);
        } else {
            taken++;
            size_t written = protocol_sender_write(sender, "\r\n", 2);
            ASSERT(written == 2);
        }
    }
    return taken;
}

size_t mock_session_write(struct mock_session *session, enum mock_stream stream, const void *data,
                          size_t size) {
    mock_session_check(session);
    ASSERT(stream < MOCK_STREAM_COUNT);
    if (mock_session_is_tty(session)) {
        return write_lines(&session->outputs[MOCK_OUT], data, size);
    }
    return protocol_sender_write(&session->outputs[stream], data, size);
}

enum mock_read mock_session_read(struct mock_session *session, void *buffer, size_t *size) {
    mock_session_check(session);
    ASSERT(buffer);
    ASSERT(size);
    if (mock_session_is_tty(session)) {
        return mock_tty_read(session, buffer, size);
    }
    if (session->input_ring.size > 0) {
        *size = ring_read(&session->input_ring, buffer, *size);
        mock_session_consumed(session, *size);
        return MOCK_READ_BYTES;
    }
    return session->input.ended || session->input_closed ? MOCK_READ_END : MOCK_READ_WAIT;
}

/* ---- The connection --------------------------------------------------------------------------- */

void mock_session_detach(struct mock_session *session) {
    mock_session_check(session);
    session->attached = false;
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        protocol_sender_pause(&session->outputs[i]);
    }
}

void mock_session_attach(struct mock_session *session, const struct protocol_attach *message,
                         struct protocol_attached *ret_answer) {
    mock_session_check(session);
    ASSERT(message);
    ASSERT(ret_answer);
    struct protocol_sender *out = &session->outputs[MOCK_OUT];
    struct protocol_sender *error = &session->outputs[MOCK_ERR];
    uint64_t out_offset = message->from_acknowledged ? out->acked : message->stdout_offset;
    uint64_t error_offset = message->from_acknowledged ? error->acked : message->stderr_offset;
    *ret_answer = (struct protocol_attached){.os_error = EINVAL};
    if (session->input_ring.size > PROTOCOL_WINDOW_SIZE) {
        ret_answer->os_error = EAGAIN; /* it would not hold another window of input */
        return;
    }
    if (error_offset < error->acked || error_offset > protocol_sender_written(error) ||
        !protocol_sender_rewind(out, out_offset)) {
        return;
    }
    bool rewound = protocol_sender_rewind(error, error_offset);
    ASSERT(rewound);
    session->attached = true;
    session->started_due = false;
    session->ended_sent = false;
    session->input_close_due = session->input_closed;
    session->input_debt = session->input_ring.size;
    session->input.consumed = session->input.received;
    session->input.acked = session->input.received;
    bool ended = session->input.ended; /* bytes to it would break the protocol */
    *ret_answer = (struct protocol_attached){
        .flags = session->flags & ~(ended ? (uint32_t)PROTOCOL_EXEC_STDIN : 0u),
        .stdin_offset = session->input.received,
        .stdout_offset = out_offset,
        .stderr_offset = error_offset,
    };
}

static bool send_data(struct mock_session *session, struct cursor_writer *writer) {
    mock_session_check(session);
    ASSERT(writer);
    static const enum protocol_stream streams[] = {PROTOCOL_STDOUT, PROTOCOL_STDERR};
    uint8_t bytes[PROTOCOL_DATA_SIZE_MAX];
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        struct protocol_data data = {0};
        if (protocol_sender_next(&session->outputs[i], bytes, sizeof(bytes), &data)) {
            data.stream = streams[i];
            protocol_encode_data(writer, session->id, &data);
            return true;
        }
    }
    return false;
}

static void send_ended(struct mock_session *session, struct cursor_writer *writer) {
    mock_session_check(session);
    ASSERT(writer);
    const struct protocol_ended ended = {
        .end = session->end,
        .value = session->end_value,
        .stdout_bytes = protocol_sender_written(&session->outputs[MOCK_OUT]),
        .stderr_bytes = protocol_sender_written(&session->outputs[MOCK_ERR]),
        .message = session->end_message,
    };
    protocol_encode_ended(writer, session->id, &ended);
    session->ended_sent = true;
}

static void send_started(struct mock_session *session, struct cursor_writer *writer) {
    mock_session_check(session);
    ASSERT(writer);
    const struct mock_process *first = session->processes[0];
    bool is_get = session->kind == MOCK_SESSION_GET;
    const struct protocol_started started = {
        .pid = first ? first->pid : 0,
        .mode = is_get ? session->mode : 0,
        .size = is_get && !(session->mode & PROTOCOL_MODE_FOLDER) ? session->file_size : 0,
    };
    protocol_encode_started(writer, session->id, &started);
    session->started_due = false;
}

/* Acknowledges what was taken of stdin, or that nothing is taken any more. */
static bool send_ack(struct mock_session *session, struct cursor_writer *writer) {
    mock_session_check(session);
    ASSERT(writer);
    bool flush = session->input_ring.size == 0;
    bool due = protocol_receiver_due(&session->input, flush);
    if (!due && !session->input_close_due) {
        return false;
    }
    const struct protocol_ack ack = {
        .stream = PROTOCOL_STDIN,
        .flags = session->input_closed ? PROTOCOL_ACK_CLOSED : 0,
        .offset = session->input.consumed,
    };
    protocol_encode_ack(writer, session->id, &ack);
    session->input_close_due = false;
    return true;
}

bool mock_session_send(struct mock_session *session, struct cursor_writer *writer) {
    mock_session_check(session);
    ASSERT(writer);
    if (!session->attached) {
        return false;
    }
    if (session->started_due) {
        send_started(session, writer);
        return true;
    }
    if (session->ended && session->end == PROTOCOL_END_FAILED) { /* its streams are no more */
        bool due = !session->ended_sent;
        if (due) {
            send_ended(session, writer);
        }
        return due;
    }
    if (send_ack(session, writer)) {
        return true;
    }
    if (send_data(session, writer)) {
        return true;
    }
    bool sent = protocol_sender_finished(&session->outputs[MOCK_OUT]) &&
                protocol_sender_finished(&session->outputs[MOCK_ERR]);
    if (session->ended && !session->ended_sent && sent) {
        send_ended(session, writer);
        return true;
    }
    return false;
}
