/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The messages of a session: opening one, its streams, its end. */
#include "protocol/message.h"

#include <string.h>

#include "base/assert.h"

#define EXEC_FLAGS ((uint32_t)(PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN))

/* ---- EXEC ------------------------------------------------------------------------------------- */

/* `bytes` are `count` strings, each with its zero. */
static bool strings_are_valid(const char *bytes, size_t size, uint32_t count) {
    ASSERT(bytes || size == 0);
    ASSERT(count <= PROTOCOL_ARGV_COUNT_MAX);
    uint32_t found = 0;
    for (size_t i = 0; i < size; i++) {
        found += bytes[i] == 0;
    }
    return found == count && (size == 0 || bytes[size - 1] == 0);
}

/* Each is "KEY=VALUE" with a key. */
static bool env_is_valid(const char *env, size_t size) {
    ASSERT(env || size == 0);
    ASSERT(size == 0 || env[size - 1] == 0);
    const char *cursor = env;
    const char *text = size > 0 ? protocol_strings_next(&cursor, env + size) : NULL;
    while (text) {
        const char *equals = strchr(text, '=');
        if (!equals || equals == text) {
            return false;
        }
        text = protocol_strings_next(&cursor, env + size);
    }
    return true;
}

static bool exec_is_valid(const struct protocol_exec *exec) {
    ASSERT(exec->rlimit_count <= PROTOCOL_RLIMIT_COUNT_MAX);
    if ((exec->flags & ~EXEC_FLAGS) != 0 || !message_path_is_valid(exec->working_dir)) {
        return false;
    }
    for (uint32_t i = 0; i < exec->rlimit_count; i++) {
        const struct protocol_rlimit *rlimit = &exec->rlimits[i];
        if (rlimit->resource > MESSAGE_RLIMIT_RESOURCE_MAX || rlimit->soft > rlimit->hard) {
            return false;
        }
    }
    if (exec->argv_count < 1 || exec->argv_count > PROTOCOL_ARGV_COUNT_MAX ||
        exec->env_count > PROTOCOL_ENV_COUNT_MAX) {
        return false;
    }
    return strings_are_valid(exec->argv, exec->argv_size, exec->argv_count) &&
           strings_are_valid(exec->env, exec->env_size, exec->env_count) &&
           env_is_valid(exec->env, exec->env_size);
}

void protocol_encode_exec(struct cursor_writer *writer, uint32_t session,
                          const struct protocol_exec *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->rlimit_count <= PROTOCOL_RLIMIT_COUNT_MAX);
    ASSERT(message->working_dir);
    size_t header = message_begin(writer, PROTOCOL_EXEC, session);
    message_require(writer, message->argv_size <= PROTOCOL_PAYLOAD_SIZE_MAX &&
                                message->env_size <= PROTOCOL_PAYLOAD_SIZE_MAX &&
                                exec_is_valid(message));
    cursor_write_u32(writer, message->flags);
    cursor_write_u32(writer, message->uid);
    cursor_write_u32(writer, message->gid);
    cursor_write_u32(writer, message->timeout_ms);
    cursor_write_u16(writer, message->rows);
    cursor_write_u16(writer, message->columns);
    cursor_write_u32(writer, message->rlimit_count);
    for (uint32_t i = 0; i < message->rlimit_count; i++) {
        cursor_write_u32(writer, message->rlimits[i].resource);
        cursor_write_u64(writer, message->rlimits[i].soft);
        cursor_write_u64(writer, message->rlimits[i].hard);
    }
    message_write_string(writer, message->working_dir, PROTOCOL_PATH_SIZE_MAX);
    cursor_write_u32(writer, message->argv_count);
    cursor_write_u32(writer, (uint32_t)message->argv_size);
    cursor_write_bytes(writer, message->argv, message->argv_size);
    cursor_write_u32(writer, message->env_count);
    cursor_write_u32(writer, (uint32_t)message->env_size);
    cursor_write_bytes(writer, message->env, message->env_size);
    message_end(writer, header, header);
}

static const char *read_strings(struct cursor_reader *reader, uint32_t *ret_count,
                                size_t *ret_size) {
    *ret_count = cursor_read_u32(reader);
    *ret_size = cursor_read_u32(reader);
    const char *bytes = (const char *)cursor_read_bytes(reader, *ret_size);
    ASSERT(bytes || reader->failed || *ret_size == 0);
    return bytes;
}

bool protocol_decode_exec(const struct protocol_frame *frame, struct protocol_exec *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_EXEC, &reader)) {
        return false;
    }
    struct protocol_exec message = {0};
    message.flags = cursor_read_u32(&reader);
    message.uid = cursor_read_u32(&reader);
    message.gid = cursor_read_u32(&reader);
    message.timeout_ms = cursor_read_u32(&reader);
    message.rows = cursor_read_u16(&reader);
    message.columns = cursor_read_u16(&reader);
    message.rlimit_count = cursor_read_u32(&reader);
    if (message.rlimit_count > PROTOCOL_RLIMIT_COUNT_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < message.rlimit_count; i++) {
        message.rlimits[i].resource = cursor_read_u32(&reader);
        message.rlimits[i].soft = cursor_read_u64(&reader);
        message.rlimits[i].hard = cursor_read_u64(&reader);
    }
    message.working_dir = message_read_path(&reader);
    message.argv = read_strings(&reader, &message.argv_count, &message.argv_size);
    message.env = read_strings(&reader, &message.env_count, &message.env_size);
    if (!cursor_reader_finished(&reader) || !exec_is_valid(&message)) {
        return false;
    }
    *ret = message;
    return true;
}

/* ---- FILE_PUT, FILE_GET ----------------------------------------------------------------------- */

/* A file of that size, or a folder, whose tree has no size. */
static bool content_is_valid(uint32_t mode, uint64_t size) {
    static_assert((MESSAGE_FILE_MODE_MAX & PROTOCOL_MODE_FOLDER) == 0, "a bit of its own");
    ASSERT(PROTOCOL_MODE_FOLDER != 0);
    if ((mode & ~PROTOCOL_MODE_FOLDER) > MESSAGE_FILE_MODE_MAX) {
        return false;
    }
    return (mode & PROTOCOL_MODE_FOLDER) ? size == 0 : size <= MESSAGE_FILE_SIZE_MAX;
}

void protocol_encode_file_put(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_file_put *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->path);
    size_t header = message_begin(writer, PROTOCOL_FILE_PUT, session);
    message_require(writer, message_path_is_valid(message->path));
    message_require(writer, content_is_valid(message->mode, message->size));
    cursor_write_u32(writer, message->mode);
    cursor_write_u64(writer, message->size);
    message_write_string(writer, message->path, PROTOCOL_PATH_SIZE_MAX);
    message_end(writer, header, header);
}

bool protocol_decode_file_put(const struct protocol_frame *frame, struct protocol_file_put *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_FILE_PUT, &reader)) {
        return false;
    }
    struct protocol_file_put message = {0};
    message.mode = cursor_read_u32(&reader);
    message.size = cursor_read_u64(&reader);
    message.path = message_read_path(&reader);
    if (!cursor_reader_finished(&reader) || !content_is_valid(message.mode, message.size)) {
        return false;
    }
    *ret = message;
    return true;
}

void protocol_encode_file_get(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_file_get *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->path);
    size_t header = message_begin(writer, PROTOCOL_FILE_GET, session);
    message_require(writer, message_path_is_valid(message->path));
    message_write_string(writer, message->path, PROTOCOL_PATH_SIZE_MAX);
    message_end(writer, header, header);
}

bool protocol_decode_file_get(const struct protocol_frame *frame, struct protocol_file_get *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_FILE_GET, &reader)) {
        return false;
    }
    const char *path = message_read_path(&reader);
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    ret->path = path;
    return true;
}

/* ---- ATTACH, ATTACHED ------------------------------------------------------------------------- */

void protocol_encode_attach(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_attach *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_ATTACH, session);
    message_require(writer, message->stdout_offset <= MESSAGE_OFFSET_MAX);
    message_require(writer, message->stderr_offset <= MESSAGE_OFFSET_MAX);
    cursor_write_u8(writer, message->from_acknowledged);
    cursor_write_u64(writer, message->stdout_offset);
    cursor_write_u64(writer, message->stderr_offset);
    message_end(writer, header, header);
}

bool protocol_decode_attach(const struct protocol_frame *frame, struct protocol_attach *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_ATTACH, &reader)) {
        return false;
    }
    struct protocol_attach message = {0};
    message.from_acknowledged = message_read_bool(&reader);
    message.stdout_offset = cursor_read_u64(&reader);
    message.stderr_offset = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || message.stdout_offset > MESSAGE_OFFSET_MAX ||
        message.stderr_offset > MESSAGE_OFFSET_MAX) {
        return false;
    }
    *ret = message;
    return true;
}

static bool attached_is_valid(const struct protocol_attached *message) {
    ASSERT(message);
    return message->os_error <= MESSAGE_OS_ERROR_MAX && (message->flags & ~EXEC_FLAGS) == 0 &&
           message->stdin_offset <= MESSAGE_OFFSET_MAX &&
           message->stdout_offset <= MESSAGE_OFFSET_MAX &&
           message->stderr_offset <= MESSAGE_OFFSET_MAX;
}

void protocol_encode_attached(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_attached *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(attached_is_valid(message));
    size_t header = message_begin(writer, PROTOCOL_ATTACHED, session);
    cursor_write_u32(writer, message->os_error);
    cursor_write_u32(writer, message->flags);
    cursor_write_u64(writer, message->stdin_offset);
    cursor_write_u64(writer, message->stdout_offset);
    cursor_write_u64(writer, message->stderr_offset);
    message_end(writer, header, header);
}

bool protocol_decode_attached(const struct protocol_frame *frame, struct protocol_attached *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_ATTACHED, &reader)) {
        return false;
    }
    struct protocol_attached message = {0};
    message.os_error = cursor_read_u32(&reader);
    message.flags = cursor_read_u32(&reader);
    message.stdin_offset = cursor_read_u64(&reader);
    message.stdout_offset = cursor_read_u64(&reader);
    message.stderr_offset = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || !attached_is_valid(&message)) {
        return false;
    }
    *ret = message;
    return true;
}

/* ---- SIGNAL, RESIZE --------------------------------------------------------------------------- */

void protocol_encode_signal(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_signal *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_SIGNAL, session);
    message_require(writer, message->number >= 1 && message->number <= MESSAGE_SIGNAL_MAX);
    cursor_write_u32(writer, message->number);
    message_end(writer, header, header);
}

bool protocol_decode_signal(const struct protocol_frame *frame, struct protocol_signal *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_SIGNAL, &reader)) {
        return false;
    }
    uint32_t number = cursor_read_u32(&reader);
    if (!cursor_reader_finished(&reader) || number < 1 || number > MESSAGE_SIGNAL_MAX) {
        return false;
    }
    ret->number = number;
    return true;
}

void protocol_encode_resize(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_resize *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_RESIZE, session);
    cursor_write_u16(writer, message->rows);
    cursor_write_u16(writer, message->columns);
    message_end(writer, header, header);
}

bool protocol_decode_resize(const struct protocol_frame *frame, struct protocol_resize *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_RESIZE, &reader)) {
        return false;
    }
    struct protocol_resize message = {0};
    message.rows = cursor_read_u16(&reader);
    message.columns = cursor_read_u16(&reader);
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

/* ---- DATA, ACK -------------------------------------------------------------------------------- */

void protocol_encode_data(struct cursor_writer *writer, uint32_t session,
                          const struct protocol_data *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT((unsigned)message->stream < PROTOCOL_STREAM_COUNT);
    ASSERT(message->size <= PROTOCOL_DATA_SIZE_MAX);
    ASSERT(message->offset <= MESSAGE_OFFSET_MAX - message->size);
    size_t header = message_begin(writer, PROTOCOL_DATA, session);
    cursor_write_u32(writer, (uint32_t)message->stream);
    cursor_write_u32(writer, message->flags);
    cursor_write_u64(writer, message->offset);
    cursor_write_bytes(writer, message->bytes, message->size);
    message_end(writer, header, header);
}

bool protocol_decode_data(const struct protocol_frame *frame, struct protocol_data *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_DATA, &reader)) {
        return false;
    }
    struct protocol_data message = {0};
    uint32_t stream = cursor_read_u32(&reader);
    message.flags = cursor_read_u32(&reader);
    message.offset = cursor_read_u64(&reader);
    message.size = cursor_reader_left(&reader);
    message.bytes = cursor_read_bytes(&reader, message.size);
    if (!cursor_reader_finished(&reader) || stream >= PROTOCOL_STREAM_COUNT ||
        (message.flags & ~(uint32_t)PROTOCOL_DATA_END) != 0 ||
        message.size > PROTOCOL_DATA_SIZE_MAX ||
        message.offset > MESSAGE_OFFSET_MAX - message.size) {
        return false;
    }
    message.stream = (enum protocol_stream)stream;
    *ret = message;
    return true;
}

void protocol_encode_ack(struct cursor_writer *writer, uint32_t session,
                         const struct protocol_ack *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT((unsigned)message->stream < PROTOCOL_STREAM_COUNT);
    ASSERT(message->offset <= MESSAGE_OFFSET_MAX);
    size_t header = message_begin(writer, PROTOCOL_ACK, session);
    cursor_write_u32(writer, (uint32_t)message->stream);
    cursor_write_u32(writer, message->flags);
    cursor_write_u64(writer, message->offset);
    message_end(writer, header, header);
}

bool protocol_decode_ack(const struct protocol_frame *frame, struct protocol_ack *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_ACK, &reader)) {
        return false;
    }
    struct protocol_ack message = {0};
    uint32_t stream = cursor_read_u32(&reader);
    message.flags = cursor_read_u32(&reader);
    message.offset = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || stream >= PROTOCOL_STREAM_COUNT ||
        (message.flags & ~(uint32_t)PROTOCOL_ACK_CLOSED) != 0 ||
        message.offset > MESSAGE_OFFSET_MAX) {
        return false;
    }
    message.stream = (enum protocol_stream)stream;
    *ret = message;
    return true;
}

/* ---- STARTED, ENDED --------------------------------------------------------------------------- */

void protocol_encode_started(struct cursor_writer *writer, uint32_t session,
                             const struct protocol_started *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(content_is_valid(message->mode, message->size));
    size_t header = message_begin(writer, PROTOCOL_STARTED, session);
    cursor_write_u32(writer, message->pid);
    cursor_write_u32(writer, message->mode);
    cursor_write_u64(writer, message->size);
    message_end(writer, header, header);
}

bool protocol_decode_started(const struct protocol_frame *frame, struct protocol_started *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_STARTED, &reader)) {
        return false;
    }
    struct protocol_started message = {0};
    message.pid = cursor_read_u32(&reader);
    message.mode = cursor_read_u32(&reader);
    message.size = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || message.pid > INT32_MAX ||
        !content_is_valid(message.mode, message.size)) {
        return false;
    }
    *ret = message;
    return true;
}

static bool ended_is_valid(const struct protocol_ended *message) {
    ASSERT(message->message);
    if (message->stdout_bytes > MESSAGE_OFFSET_MAX || message->stderr_bytes > MESSAGE_OFFSET_MAX ||
        (message->end != PROTOCOL_END_FAILED && message->message[0] != 0)) {
        return false;
    }
    switch (message->end) {
    case PROTOCOL_END_EXITED:
        return message->value <= MESSAGE_EXIT_CODE_MAX;
    case PROTOCOL_END_SIGNALED:
    case PROTOCOL_END_TIMED_OUT:
        return message->value >= 1 && message->value <= MESSAGE_SIGNAL_MAX;
    case PROTOCOL_END_FAILED:
        return message->value >= 1 && message->value <= MESSAGE_OS_ERROR_MAX;
    case PROTOCOL_END_COUNT:
    default:
        return false;
    }
}

void protocol_encode_ended(struct cursor_writer *writer, uint32_t session,
                           const struct protocol_ended *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(ended_is_valid(message));
    size_t header = message_begin(writer, PROTOCOL_ENDED, session);
    cursor_write_u32(writer, (uint32_t)message->end);
    cursor_write_u32(writer, message->value);
    cursor_write_u64(writer, message->stdout_bytes);
    cursor_write_u64(writer, message->stderr_bytes);
    message_write_string(writer, message->message, PROTOCOL_MESSAGE_SIZE_MAX);
    message_end(writer, header, header);
}

bool protocol_decode_ended(const struct protocol_frame *frame, struct protocol_ended *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_ENDED, &reader)) {
        return false;
    }
    struct protocol_ended message = {0};
    uint32_t end = cursor_read_u32(&reader);
    message.value = cursor_read_u32(&reader);
    message.stdout_bytes = cursor_read_u64(&reader);
    message.stderr_bytes = cursor_read_u64(&reader);
    message.message = cursor_read_string(&reader, PROTOCOL_MESSAGE_SIZE_MAX);
    if (!cursor_reader_finished(&reader) || end >= PROTOCOL_END_COUNT) {
        return false;
    }
    message.end = (enum protocol_end)end;
    if (!ended_is_valid(&message)) {
        return false;
    }
    *ret = message;
    return true;
}
