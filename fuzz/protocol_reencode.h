/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* For tests and fuzzers: decodes whatever a frame carries and encodes it again. A decoder is strict
 * exactly when what it takes comes out as it went in. */
#ifndef KELPIE_FUZZ_PROTOCOL_REENCODE_H
#define KELPIE_FUZZ_PROTOCOL_REENCODE_H

#include "base/assert.h"
#include "protocol/protocol.h"

union reencode_message {
    struct protocol_hello hello;
    struct protocol_hello_ack hello_ack;
    struct protocol_figures figures;
    struct protocol_ping ping;
    struct protocol_setup setup;
    struct protocol_done done;
    struct protocol_exec exec;
    struct protocol_file_put file_put;
    struct protocol_file_get file_get;
    struct protocol_attach attach;
    struct protocol_attached attached;
    struct protocol_signal signal;
    struct protocol_resize resize;
    struct protocol_data data;
    struct protocol_ack ack;
    struct protocol_started started;
    struct protocol_ended ended;
    struct protocol_sessions sessions;
    struct protocol_frozen frozen;
    struct protocol_network network;
    struct protocol_share share;
    struct protocol_thaw thaw;
    struct protocol_thawed thawed;
};

#define REENCODE_CHANNEL(kind, member)                                                             \
    if (!protocol_decode_##kind(frame, &message.member)) {                                         \
        return false;                                                                              \
    }                                                                                              \
    protocol_encode_##kind(writer, &message.member);                                               \
    return true

#define REENCODE_SESSION(kind)                                                                     \
    if (!protocol_decode_##kind(frame, &message.kind)) {                                           \
        return false;                                                                              \
    }                                                                                              \
    protocol_encode_##kind(writer, frame->session, &message.kind);                                 \
    return true

static inline bool reencode_channel(const struct protocol_frame *frame,
                                    struct cursor_writer *writer) {
    union reencode_message message;
    switch ((int)frame->type) {
    case PROTOCOL_HELLO:
        REENCODE_CHANNEL(hello, hello);
    case PROTOCOL_HELLO_ACK:
        REENCODE_CHANNEL(hello_ack, hello_ack);
    case PROTOCOL_PING:
    case PROTOCOL_PONG:
        if (!protocol_decode_ping(frame, &message.ping)) {
            return false;
        }
        protocol_encode_ping(writer, frame->type, &message.ping);
        return true;
    case PROTOCOL_SETUP:
        REENCODE_CHANNEL(setup, setup);
    case PROTOCOL_SETUP_DONE:
        REENCODE_CHANNEL(done, done);
    case PROTOCOL_FIGURES:
        REENCODE_CHANNEL(figures, figures);
    case PROTOCOL_SESSIONS:
        REENCODE_CHANNEL(sessions, sessions);
    case PROTOCOL_FROZEN:
        REENCODE_CHANNEL(frozen, frozen);
    case PROTOCOL_NETWORK:
        REENCODE_CHANNEL(network, network);
    case PROTOCOL_SHARE:
        REENCODE_CHANNEL(share, share);
    case PROTOCOL_SHARED:
        REENCODE_CHANNEL(shared, done);
    case PROTOCOL_THAW:
        REENCODE_CHANNEL(thaw, thaw);
    case PROTOCOL_THAWED:
        REENCODE_CHANNEL(thawed, thawed);
    default:
        UNREACHABLE();
    }
}

static inline bool reencode_session(const struct protocol_frame *frame,
                                    struct cursor_writer *writer) {
    union reencode_message message;
    switch ((int)frame->type) {
    case PROTOCOL_EXEC:
        REENCODE_SESSION(exec);
    case PROTOCOL_FILE_PUT:
        REENCODE_SESSION(file_put);
    case PROTOCOL_FILE_GET:
        REENCODE_SESSION(file_get);
    case PROTOCOL_ATTACH:
        REENCODE_SESSION(attach);
    case PROTOCOL_ATTACHED:
        REENCODE_SESSION(attached);
    case PROTOCOL_SIGNAL:
        REENCODE_SESSION(signal);
    case PROTOCOL_RESIZE:
        REENCODE_SESSION(resize);
    case PROTOCOL_DATA:
        REENCODE_SESSION(data);
    case PROTOCOL_ACK:
        REENCODE_SESSION(ack);
    case PROTOCOL_STARTED:
        REENCODE_SESSION(started);
    case PROTOCOL_ENDED:
        REENCODE_SESSION(ended);
    default:
        UNREACHABLE();
    }
}

/* True: the frame was a whole message, and the writer has it again. */
static inline bool reencode(const struct protocol_frame *frame, struct cursor_writer *writer) {
    switch ((int)frame->type) {
    case PROTOCOL_LIST:
    case PROTOCOL_FREEZE:
    case PROTOCOL_POWER_OFF:
    case PROTOCOL_RELEASE:
    case PROTOCOL_DETACH:
    case PROTOCOL_STATUS:
    case PROTOCOL_HOLD:
        if (!protocol_decode_empty(frame)) {
            return false;
        }
        protocol_encode_empty(writer, frame->type, frame->session);
        return true;
    default:
        return frame->session == 0 ? reencode_channel(frame, writer)
                                   : reencode_session(frame, writer);
    }
}

#endif
