/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Any bytes, in pieces, through the decoder; each frame through its message's decoder; what was taken must be
 * encoded to the same bytes. The first byte says how large the pieces are. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "protocol_reencode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_frame(const struct protocol_frame *frame) {
    static uint8_t again[PROTOCOL_SYNC_SIZE + PROTOCOL_FRAME_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(again, sizeof(again));
    if (!reencode(frame, &writer)) {
        return;
    }
    ASSERT(!writer.failed);
    ASSERT(writer.size >= PROTOCOL_HEADER_SIZE + frame->payload_size);
    const uint8_t *payload = again + writer.size - frame->payload_size;
    ASSERT(frame->payload_size == 0 || memcmp(payload, frame->payload, frame->payload_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t buffer[PROTOCOL_FRAME_SIZE_MAX];
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, buffer, sizeof(buffer));
    size_t piece_max = size > 0 ? (size_t)data[0] + 1 : 1;
    for (size_t at = 1; at < size;) {
        size_t room = 0;
        uint8_t *space = protocol_decoder_space(&decoder, &room);
        ASSERT(room > 0);
        size_t piece = min_size(min_size(piece_max, room), size - at);
        memcpy(space, data + at, piece);
        protocol_decoder_filled(&decoder, piece);
        at += piece;
        struct protocol_frame frame;
        enum protocol_result result = protocol_decoder_next(&decoder, &frame);
        while (result != PROTOCOL_RESULT_MORE) {
            if (result == PROTOCOL_RESULT_MALFORMED) {
                protocol_decoder_scan(&decoder);
            } else {
                check_frame(&frame);
            }
            result = protocol_decoder_next(&decoder, &frame);
        }
    }
    return 0;
}
