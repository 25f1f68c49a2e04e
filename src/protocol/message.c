/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the messages share: see message.h. */
#include "protocol/message.h"

#include <string.h>

#include "base/assert.h"

void message_require(struct cursor_writer *writer, bool holds) {
    ASSERT(writer->size <= writer->capacity);
    if (!holds) {
        writer->failed = true;
    }
}

void message_write_string(struct cursor_writer *writer, const char *text, size_t size_max) {
    ASSERT(text);
    ASSERT(size_max <= PROTOCOL_PATH_SIZE_MAX);
    message_require(writer, strnlen(text, size_max + 1) <= size_max);
    if (!writer->failed) {
        cursor_write_string(writer, text);
    }
}

bool message_open(const struct protocol_frame *frame, enum protocol_type type,
                  struct cursor_reader *ret_reader) {
    ASSERT(frame->payload || frame->payload_size == 0);
    ASSERT(frame->payload_size <= PROTOCOL_PAYLOAD_SIZE_MAX);
    if (frame->type != type) {
        return false;
    }
    *ret_reader = cursor_reader_init(frame->payload, frame->payload_size);
    return true;
}

bool message_read_bool(struct cursor_reader *reader) {
    uint8_t value = cursor_read_u8(reader);
    if (value > 1) {
        reader->failed = true;
    }
    ASSERT(reader->offset <= reader->size);
    return value == 1;
}

bool message_path_is_valid(const char *path) {
    ASSERT(path);
    return path[0] == '/' && strnlen(path, PROTOCOL_PATH_SIZE_MAX + 1) <= PROTOCOL_PATH_SIZE_MAX;
}

const char *message_read_path(struct cursor_reader *reader) {
    const char *path = cursor_read_string(reader, PROTOCOL_PATH_SIZE_MAX);
    if (path && !message_path_is_valid(path)) {
        reader->failed = true;
    }
    ASSERT(path || reader->failed);
    return path;
}

const char *protocol_strings_next(const char **cursor, const char *end) {
    ASSERT(cursor && *cursor);
    ASSERT(*cursor <= end);
    if (*cursor == end) {
        return NULL;
    }
    const char *text = *cursor;
    const char *zero = memchr(text, 0, (size_t)(end - text));
    ASSERT(zero); /* the decoder saw that the last string has its zero */
    *cursor = zero + 1;
    return text;
}

void protocol_encode_empty(struct cursor_writer *writer, enum protocol_type type,
                           uint32_t session) {
    ASSERT(type == PROTOCOL_LIST || type == PROTOCOL_FREEZE || type == PROTOCOL_POWER_OFF ||
           type == PROTOCOL_RELEASE || type == PROTOCOL_DETACH || type == PROTOCOL_STATUS ||
           type == PROTOCOL_HOLD);
    size_t header = message_begin(writer, type, session);
    message_end(writer, header, header);
    ASSERT(writer->failed || writer->size == header + PROTOCOL_HEADER_SIZE);
}

bool protocol_decode_empty(const struct protocol_frame *frame) {
    ASSERT(frame->payload || frame->payload_size == 0);
    ASSERT(message_header_is_valid((uint8_t)frame->type, frame->session));
    bool carries_nothing = frame->type == PROTOCOL_LIST || frame->type == PROTOCOL_FREEZE ||
                           frame->type == PROTOCOL_POWER_OFF || frame->type == PROTOCOL_RELEASE ||
                           frame->type == PROTOCOL_DETACH || frame->type == PROTOCOL_STATUS ||
                           frame->type == PROTOCOL_HOLD;
    return carries_nothing && frame->payload_size == 0;
}
