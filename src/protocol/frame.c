/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Frames: the header around every message, and the decoder that finds frames in a byte stream.
 *
 * The decoder's buffer holds the bytes [start, end) that were not given out. A frame is given out in
 * place. Bytes are moved to the front of the buffer only when there is little room behind them, so that
 * a stream of small frames is not copied; since at most one unfinished frame is ever moved, that costs
 * less than reading it.
 */
#include "protocol/message.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

/* The first byte is nowhere else in it, so a search never has to go back; the first four, as a size, are
 * far above the limit; the line ends show a channel that is not 8-bit clean. */
const uint8_t PROTOCOL_SYNC[PROTOCOL_SYNC_SIZE] = {
    0xff, 'K', 'E', 'L', 'P', 'I', 'E', '-', 'S', 'Y', 'N', 'C', '\r', '\n', 0x1a, 0xfe,
};

/* ---- Header ----------------------------------------------------------------------------------- */

bool message_header_is_valid(uint8_t type, uint32_t session) {
    switch (type) {
    case PROTOCOL_HELLO:
    case PROTOCOL_PING:
    case PROTOCOL_SETUP:
    case PROTOCOL_LIST:
    case PROTOCOL_STATUS:
    case PROTOCOL_FIGURES:
    case PROTOCOL_FREEZE:
    case PROTOCOL_HOLD:
    case PROTOCOL_THAW:
    case PROTOCOL_POWER_OFF:
    case PROTOCOL_NETWORK:
    case PROTOCOL_SHARE:
    case PROTOCOL_HELLO_ACK:
    case PROTOCOL_PONG:
    case PROTOCOL_SETUP_DONE:
    case PROTOCOL_SHARED:
    case PROTOCOL_SESSIONS:
    case PROTOCOL_FROZEN:
    case PROTOCOL_THAWED:
        return session == 0;
    case PROTOCOL_EXEC:
    case PROTOCOL_FILE_PUT:
    case PROTOCOL_FILE_GET:
    case PROTOCOL_ATTACH:
    case PROTOCOL_RELEASE:
    case PROTOCOL_DETACH:
    case PROTOCOL_SIGNAL:
    case PROTOCOL_RESIZE:
    case PROTOCOL_DATA:
    case PROTOCOL_ACK:
    case PROTOCOL_STARTED:
    case PROTOCOL_ENDED:
    case PROTOCOL_ATTACHED:
        return session != 0;
    default:
        return false;
    }
}

size_t message_begin(struct cursor_writer *writer, enum protocol_type type, uint32_t session) {
    ASSERT(message_header_is_valid((uint8_t)type, session));
    size_t header = writer->size;
    cursor_write_u32(writer, 0);
    cursor_write_u8(writer, PROTOCOL_VERSION);
    cursor_write_u8(writer, (uint8_t)type);
    cursor_write_u16(writer, 0);
    cursor_write_u32(writer, session);
    cursor_write_u32(writer, 0);
    return header;
}

void message_end(struct cursor_writer *writer, size_t start, size_t header) {
    ASSERT(start <= header);
    ASSERT(header <= writer->size);
    if (!writer->failed && writer->size - header > PROTOCOL_FRAME_SIZE_MAX) {
        writer->failed = true;
    }
    if (writer->failed) {
        writer->size = start;
        return;
    }
    size_t payload_size = writer->size - header - PROTOCOL_HEADER_SIZE;
    struct cursor_writer patch = cursor_writer_init(writer->data + header, sizeof(uint32_t));
    cursor_write_u32(&patch, (uint32_t)payload_size);
    ASSERT(!patch.failed);
}

void protocol_encode_frame(struct cursor_writer *writer, const struct protocol_frame *frame) {
    ASSERT(frame->payload_size <= PROTOCOL_PAYLOAD_SIZE_MAX);
    size_t header = message_begin(writer, frame->type, frame->session);
    cursor_write_bytes(writer, frame->payload, frame->payload_size);
    message_end(writer, header, header);
}

/* Fills *ret_frame but for the payload's address. False: this is no header. */
static bool header_decode(const uint8_t *bytes, struct protocol_frame *ret_frame) {
    struct cursor_reader reader = cursor_reader_init(bytes, PROTOCOL_HEADER_SIZE);
    uint32_t payload_size = cursor_read_u32(&reader);
    uint8_t version = cursor_read_u8(&reader);
    uint8_t type = cursor_read_u8(&reader);
    uint16_t zero_first = cursor_read_u16(&reader);
    uint32_t session = cursor_read_u32(&reader);
    uint32_t zero_second = cursor_read_u32(&reader);
    ASSERT(cursor_reader_finished(&reader));
    if (payload_size > PROTOCOL_PAYLOAD_SIZE_MAX || version != PROTOCOL_VERSION ||
        zero_first != 0 || zero_second != 0 || !message_header_is_valid(type, session)) {
        return false;
    }
    *ret_frame = (struct protocol_frame){
        .type = (enum protocol_type)type,
        .session = session,
        .payload_size = payload_size,
    };
    return true;
}

/* ---- Decoder ---------------------------------------------------------------------------------- */

void protocol_decoder_init(struct protocol_decoder *decoder, uint8_t *buffer, size_t capacity) {
    ASSERT(buffer);
    ASSERT(capacity >= PROTOCOL_FRAME_SIZE_MAX);
    *decoder = (struct protocol_decoder){.buffer = buffer, .capacity = capacity, .scanning = true};
}

uint8_t *protocol_decoder_space(struct protocol_decoder *decoder, size_t *ret_room) {
    ASSERT(decoder->start <= decoder->end);
    ASSERT(decoder->end <= decoder->capacity);
    size_t held = decoder->end - decoder->start;
    if (held == 0) {
        decoder->start = 0;
        decoder->end = 0;
    } else if (decoder->start > 0 && decoder->capacity - decoder->end < PROTOCOL_DATA_SIZE_MAX) {
        memmove(decoder->buffer, decoder->buffer + decoder->start, held);
        decoder->start = 0;
        decoder->end = held;
    }
    *ret_room = decoder->capacity - decoder->end;
    return decoder->buffer + decoder->end;
}

void protocol_decoder_filled(struct protocol_decoder *decoder, size_t size) {
    ASSERT(decoder->end <= decoder->capacity);
    ASSERT(size <= decoder->capacity - decoder->end);
    decoder->end += size;
}

void protocol_decoder_scan(struct protocol_decoder *decoder) {
    ASSERT(decoder->start <= decoder->end);
    decoder->scanning = true;
}

/* Drops bytes up to and with the next SYNC; false: it is not whole yet. */
static bool decoder_find_sync(struct protocol_decoder *decoder) {
    ASSERT(decoder->scanning);
    while (decoder->start < decoder->end) {
        const uint8_t *front = decoder->buffer + decoder->start;
        size_t held = decoder->end - decoder->start;
        const uint8_t *found = memchr(front, PROTOCOL_SYNC[0], held);
        if (!found) {
            decoder->start = decoder->end;
            return false;
        }
        decoder->start += (size_t)(found - front);
        held = decoder->end - decoder->start;
        if (memcmp(found, PROTOCOL_SYNC, min_size(held, PROTOCOL_SYNC_SIZE)) != 0) {
            decoder->start++;
            continue;
        }
        if (held < PROTOCOL_SYNC_SIZE) {
            return false;
        }
        decoder->start += PROTOCOL_SYNC_SIZE;
        decoder->scanning = false;
        return true;
    }
    return false;
}

static bool decoder_is_at_sync(const struct protocol_decoder *decoder) {
    ASSERT(!decoder->scanning);
    ASSERT(decoder->start <= decoder->end);
    return decoder->end - decoder->start >= PROTOCOL_SYNC_SIZE &&
           memcmp(decoder->buffer + decoder->start, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE) == 0;
}

enum protocol_result protocol_decoder_next(struct protocol_decoder *decoder,
                                           struct protocol_frame *ret_frame) {
    ASSERT(decoder->end <= decoder->capacity);
    ASSERT(ret_frame);
    if (decoder->scanning && !decoder_find_sync(decoder)) {
        return PROTOCOL_RESULT_MORE;
    }
    while (decoder_is_at_sync(decoder)) {
        decoder->start += PROTOCOL_SYNC_SIZE;
    }
    const uint8_t *front = decoder->buffer + decoder->start;
    size_t held = decoder->end - decoder->start;
    if (held < PROTOCOL_HEADER_SIZE) {
        return PROTOCOL_RESULT_MORE;
    }
    struct protocol_frame frame;
    if (!header_decode(front, &frame)) {
        return PROTOCOL_RESULT_MALFORMED;
    }
    if (held - PROTOCOL_HEADER_SIZE < frame.payload_size) {
        return PROTOCOL_RESULT_MORE;
    }
    frame.payload = front + PROTOCOL_HEADER_SIZE;
    decoder->start += PROTOCOL_HEADER_SIZE + frame.payload_size;
    *ret_frame = frame;
    return PROTOCOL_RESULT_FRAME;
}
