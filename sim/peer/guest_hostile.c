/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a guest says whose owner wants to break the host: bytes that are no frames, frames that are malformed, and frames that
 * are well-formed and lies. Each kind is as likely as any other.
 */
#include <string.h>

#include "base/assert.h"
#include "sim/peer/guest.h"

#define SESSION_INVENTED 0x7ffffff0u
#define OFFSET_LEAP 1048576u
#define TEXT_SIZE 64

enum lie {
    /* no frames */
    LIE_GARBAGE = 0,
    LIE_FLIPPED, /* bits of what an honest guest would have said */
    LIE_ZEROS,
    /* malformed */
    LIE_SIZE_TOO_LARGE,
    LIE_SIZE_TOO_SMALL,
    LIE_TYPE_UNKNOWN,
    LIE_VERSION_UNKNOWN,
    LIE_RESERVED_USED,
    LIE_SESSION_OF_CHANNEL,
    LIE_PAYLOAD_RANDOM,
    LIE_HOSTS_FRAME,
    /* well-formed */
    LIE_SESSION_UNKNOWN,
    LIE_OFFSET_BACK,
    LIE_OFFSET_AHEAD,
    LIE_DATA_INVENTED,
    LIE_DATA_END_EARLY,
    LIE_ACK_AHEAD,
    LIE_ACK_BACK,
    LIE_PONGS,
    LIE_PONG_FUTURE,
    LIE_STARTED,
    LIE_ENDED_TWICE,
    LIE_ENDED_EARLY,
    LIE_ATTACHED,
    LIE_HELLO_ACK,
    LIE_SETUP_DONE,
    LIE_SESSIONS,
    LIE_FROZEN,
    LIE_THAWED,
    LIE_COUNT
};

/* Who lies, where it goes, and about which session. */
struct liar {
    const struct sim_peer *peer;
    struct mock_guest *mock;
    struct cursor_writer *writer;
    uint32_t id;
    struct mock_session *session; /* NULL: the guest has none, and the id is invented */
};

static void liar_check(const struct liar *liar) {
    ASSERT(liar->peer && liar->mock);
    ASSERT(liar->writer);
    ASSERT(liar->id != 0);
}

static uint64_t choose(const struct liar *liar, uint64_t count) {
    liar_check(liar);
    ASSERT(count > 0);
    return sim_peer_choose(liar->peer, count);
}

static void random_bytes(const struct liar *liar, size_t size) {
    liar_check(liar);
    ASSERT(size <= PEER_GUEST_GARBAGE_SIZE_MAX);
    for (size_t i = 0; i < size; i++) {
        cursor_write_u8(liar->writer, (uint8_t)choose(liar, 256));
    }
}

/* A frame as it is said to be, whatever sense that makes (protocol.h has its fields). */
static void raw_frame(const struct liar *liar, uint32_t size, uint8_t version, uint32_t type,
                      uint32_t session) {
    liar_check(liar);
    ASSERT(type <= UINT8_MAX);
    struct cursor_writer *writer = liar->writer;
    cursor_write_u32(writer, size);
    cursor_write_u8(writer, version);
    cursor_write_u8(writer, (uint8_t)type);
    cursor_write_u16(writer, 0);
    cursor_write_u32(writer, session);
    cursor_write_u32(writer, 0);
}

/* ---- No frames, and malformed ones ------------------------------------------------------------ */

/* In what is to be sent already. */
static void flip_bits(const struct liar *liar, size_t fresh_size) {
    liar_check(liar);
    struct ring *send = &liar->mock->send;
    ASSERT(fresh_size <= send->size);
    uint64_t count = 1 + choose(liar, PEER_GUEST_FLIP_COUNT_MAX);
    for (uint64_t i = 0; fresh_size > 0 && i < count; i++) {
        size_t place = send->size - fresh_size + (size_t)choose(liar, fresh_size);
        send->data[(send->head + place) % send->capacity] ^= (uint8_t)(1u << choose(liar, 8));
    }
}

static void malformed(const struct liar *liar, enum lie lie) {
    static const uint8_t unknown[] = {0, 16, 31, 63, 73, 128, 255};
    static const uint8_t of_hosts[] = {PROTOCOL_PING, PROTOCOL_LIST, PROTOCOL_FREEZE,
                                       PROTOCOL_POWER_OFF};
    static const uint8_t of_channel[] = {PROTOCOL_PONG, PROTOCOL_FROZEN, PROTOCOL_SESSIONS};
    static const uint8_t any[] = {PROTOCOL_DATA, PROTOCOL_ENDED, PROTOCOL_STARTED,
                                  PROTOCOL_ATTACHED, PROTOCOL_ACK};
    liar_check(liar);
    ASSERT(lie >= LIE_SIZE_TOO_LARGE && lie <= LIE_HOSTS_FRAME);
    uint32_t some = (uint32_t)choose(liar, PEER_GUEST_GARBAGE_SIZE_MAX);
    switch ((int)lie) {
    case LIE_SIZE_TOO_LARGE:
        raw_frame(liar, PROTOCOL_PAYLOAD_SIZE_MAX + 1 + some, PROTOCOL_VERSION, PROTOCOL_DATA,
                  liar->id);
        return;
    case LIE_SIZE_TOO_SMALL: /* what follows is then read as a frame */
        raw_frame(liar, 8, PROTOCOL_VERSION, PROTOCOL_PONG, 0);
        random_bytes(liar, 24);
        return;
    case LIE_TYPE_UNKNOWN:
        raw_frame(liar, 0, PROTOCOL_VERSION, unknown[choose(liar, sizeof(unknown))], 0);
        return;
    case LIE_VERSION_UNKNOWN:
        raw_frame(liar, 0, PROTOCOL_VERSION + 1, PROTOCOL_PONG, 0);
        return;
    case LIE_RESERVED_USED:
        raw_frame(liar, 0, PROTOCOL_VERSION, PROTOCOL_FROZEN, 0);
        liar->writer->data[liar->writer->size - 1 - choose(liar, 4)] = 1;
        return;
    case LIE_SESSION_OF_CHANNEL:
        raw_frame(liar, 4, PROTOCOL_VERSION, of_channel[choose(liar, sizeof(of_channel))],
                  liar->id);
        random_bytes(liar, 4);
        return;
    case LIE_PAYLOAD_RANDOM:
        raw_frame(liar, some, PROTOCOL_VERSION, any[choose(liar, sizeof(any))], liar->id);
        random_bytes(liar, some);
        return;
    case LIE_HOSTS_FRAME:
        raw_frame(liar, 0, PROTOCOL_VERSION, of_hosts[choose(liar, sizeof(of_hosts))], 0);
        return;
    default:
        UNREACHABLE();
    }
}

/* ---- Well-formed lies about a session --------------------------------------------------------- */

static void say_data(const struct liar *liar, uint64_t offset, uint32_t flags) {
    liar_check(liar);
    uint8_t text[TEXT_SIZE];
    memset(text, 'x', sizeof(text));
    const struct protocol_data data = {
        .stream = choose(liar, 2) == 0 ? PROTOCOL_STDOUT : PROTOCOL_STDERR,
        .flags = flags,
        .offset = offset,
        .bytes = text,
        .size = 1 + (size_t)choose(liar, sizeof(text)),
    };
    ASSERT(data.size <= sizeof(text));
    protocol_encode_data(liar->writer, liar->id, &data);
}

static void say_ended(const struct liar *liar) {
    liar_check(liar);
    const struct protocol_ended ended = {
        .end = PROTOCOL_END_EXITED,
        .value = (uint32_t)choose(liar, 256),
        .stdout_bytes = choose(liar, 4),
        .stderr_bytes = choose(liar, 4),
        .message = "",
    };
    ASSERT(ended.value <= UINT8_MAX);
    protocol_encode_ended(liar->writer, liar->id, &ended);
}

static void say_ack(const struct liar *liar, uint64_t offset) {
    liar_check(liar);
    const struct protocol_ack ack = {.stream = PROTOCOL_STDIN,
                                     .flags = choose(liar, 2) == 0 ? PROTOCOL_ACK_CLOSED : 0,
                                     .offset = offset};
    ASSERT(ack.stream < PROTOCOL_STREAM_COUNT);
    protocol_encode_ack(liar->writer, liar->id, &ack);
}

static void lie_of_session(struct liar *liar, enum lie lie) {
    liar_check(liar);
    ASSERT(lie >= LIE_SESSION_UNKNOWN && lie < LIE_COUNT);
    uint64_t sent = liar->session ? liar->session->outputs[MOCK_OUT].sent : 0;
    uint64_t received = liar->session ? liar->session->input.received : 0;
    switch ((int)lie) {
    case LIE_SESSION_UNKNOWN:
        liar->id = SESSION_INVENTED + (uint32_t)choose(liar, 8);
        say_data(liar, 0, 0);
        return;
    case LIE_OFFSET_BACK:
        say_data(liar, sent > 0 ? choose(liar, sent) : 0, 0);
        return;
    case LIE_OFFSET_AHEAD:
        say_data(liar, sent + 1 + choose(liar, OFFSET_LEAP), 0);
        return;
    case LIE_DATA_INVENTED:
        say_data(liar, sent, 0);
        return;
    case LIE_DATA_END_EARLY:
        say_data(liar, sent, PROTOCOL_DATA_END);
        return;
    case LIE_ACK_AHEAD:
        say_ack(liar, received + 1 + choose(liar, OFFSET_LEAP));
        return;
    case LIE_ACK_BACK:
        say_ack(liar, received > 0 ? choose(liar, received) : 0);
        return;
    case LIE_STARTED:
        protocol_encode_started(liar->writer, liar->id, &(struct protocol_started){.pid = 7});
        return;
    case LIE_ENDED_TWICE:
        say_ended(liar);
        say_ended(liar);
        return;
    case LIE_ENDED_EARLY:
        say_ended(liar);
        return;
    case LIE_ATTACHED:
        protocol_encode_attached(
            liar->writer, liar->id,
            &(struct protocol_attached){.stdin_offset = received + choose(liar, 2) * OFFSET_LEAP,
                                        .stdout_offset = sent + choose(liar, 2) * OFFSET_LEAP});
        return;
    default:
        UNREACHABLE();
    }
}

/* ---- … and about the channel ------------------------------------------------------------------ */

static void say_pongs(const struct liar *liar, uint64_t count, uint64_t token) {
    liar_check(liar);
    ASSERT(count <= PEER_GUEST_PONG_COUNT_MAX);
    for (uint64_t i = 0; i < count; i++) {
        protocol_encode_ping(liar->writer, PROTOCOL_PONG, &(struct protocol_ping){.token = token});
    }
}

static void say_sessions(const struct liar *liar) {
    liar_check(liar);
    static const uint32_t first_id = 1;
    struct protocol_sessions sessions = {
        .count = (uint32_t)choose(liar, PROTOCOL_SESSION_COUNT_MAX + 1)};
    ASSERT(sessions.count <= PROTOCOL_SESSION_COUNT_MAX);
    for (uint32_t i = 0; i < sessions.count; i++) {
        sessions.ids[i] = first_id + i;
    }
    protocol_encode_sessions(liar->writer, &sessions);
}

static void lie_of_channel(const struct liar *liar, enum lie lie) {
    liar_check(liar);
    ASSERT(lie >= LIE_PONGS && lie < LIE_COUNT);
    struct cursor_writer *writer = liar->writer;
    switch ((int)lie) {
    case LIE_PONGS:
        say_pongs(liar, 1 + choose(liar, PEER_GUEST_PONG_COUNT_MAX), 0);
        return;
    case LIE_PONG_FUTURE:
        say_pongs(liar, 1, 1 + choose(liar, 1000));
        return;
    case LIE_HELLO_ACK: {
        struct protocol_hello_ack ack = {.frozen = choose(liar, 2) == 0,
                                         .set_up = choose(liar, 2) == 0};
        ack.nonce[0] = (uint8_t)choose(liar, 256);
        protocol_encode_hello_ack(writer, &ack);
        return;
    }
    case LIE_SETUP_DONE:
        protocol_encode_done(writer, &(struct protocol_done){.os_error = 5, .message = "a lie"});
        return;
    case LIE_SESSIONS:
        say_sessions(liar);
        return;
    case LIE_FROZEN:
        protocol_encode_frozen(
            writer, &(struct protocol_frozen){.os_error = (uint32_t)choose(liar, 2) * 5});
        return;
    case LIE_THAWED: {
        const struct protocol_thawed thawed = {.clock_skew_ns = INT64_MIN};
        protocol_encode_thawed(writer, &thawed);
        return;
    }
    default:
        UNREACHABLE();
    }
}

/* ---- Which ------------------------------------------------------------------------------------ */

static void invent(struct liar *liar, enum lie lie) {
    liar_check(liar);
    ASSERT((unsigned)lie < LIE_COUNT);
    switch (lie) {
    case LIE_GARBAGE:
        random_bytes(liar, 1 + (size_t)choose(liar, PEER_GUEST_GARBAGE_SIZE_MAX));
        return;
    case LIE_ZEROS:
        for (uint64_t i = 1 + choose(liar, PEER_GUEST_GARBAGE_SIZE_MAX); i > 0; i--) {
            cursor_write_u8(liar->writer, 0);
        }
        return;
    case LIE_SIZE_TOO_LARGE:
    case LIE_SIZE_TOO_SMALL:
    case LIE_TYPE_UNKNOWN:
    case LIE_VERSION_UNKNOWN:
    case LIE_RESERVED_USED:
    case LIE_SESSION_OF_CHANNEL:
    case LIE_PAYLOAD_RANDOM:
    case LIE_HOSTS_FRAME:
        malformed(liar, lie);
        return;
    case LIE_SESSION_UNKNOWN:
    case LIE_OFFSET_BACK:
    case LIE_OFFSET_AHEAD:
    case LIE_DATA_INVENTED:
    case LIE_DATA_END_EARLY:
    case LIE_ACK_AHEAD:
    case LIE_ACK_BACK:
    case LIE_STARTED:
    case LIE_ENDED_TWICE:
    case LIE_ENDED_EARLY:
    case LIE_ATTACHED:
        lie_of_session(liar, lie);
        return;
    case LIE_PONGS:
    case LIE_PONG_FUTURE:
    case LIE_HELLO_ACK:
    case LIE_SETUP_DONE:
    case LIE_SESSIONS:
    case LIE_FROZEN:
    case LIE_THAWED:
        lie_of_channel(liar, lie);
        return;
    case LIE_FLIPPED:
    case LIE_COUNT:
    default:
        UNREACHABLE();
    }
}

void peer_guest_hostile(const struct sim_peer *peer, struct mock_guest *mock, size_t fresh_size) {
    ASSERT(peer && mock);
    ASSERT(fresh_size <= mock->send.size);
    struct cursor_writer writer = cursor_writer_init(mock->frame, PROTOCOL_FRAME_SIZE_MAX);
    struct liar liar = {.peer = peer, .mock = mock, .writer = &writer, .id = 1};
    if (mock->session_count > 0) {
        liar.session = mock->sessions[sim_peer_choose(peer, mock->session_count)];
        liar.id = liar.session->id;
    }
    enum lie lie = (enum lie)sim_peer_choose(peer, LIE_COUNT);
    if (lie == LIE_FLIPPED && fresh_size > 0) {
        flip_bits(&liar, fresh_size);
        return;
    }
    invent(&liar, lie == LIE_FLIPPED ? LIE_GARBAGE : lie);
    /* One that may not be encoded, or finds no room, stays unsaid. */
    if (!writer.failed && writer.size <= ring_room(&mock->send)) {
        mock_guest_send(mock, &writer);
    }
}
