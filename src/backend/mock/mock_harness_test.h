/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A simulated guest without a thread, for the tests of this folder: time is what the test says it is. */
#ifndef KELPIE_BACKEND_MOCK_MOCK_HARNESS_TEST_H
#define KELPIE_BACKEND_MOCK_MOCK_HARNESS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/mock/mock_guest.h"

#define HARNESS_TURN_COUNT_MAX 100000
#define HARNESS_MEMORY_BYTES 268435456u
#define HARNESS_OUTPUT_SIZE 4096
#define MS_NS 1000000ull

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SHELL(line) ARGV("sh", "-c", line)

struct harness {
    struct host *host;
    struct mock_guest *guest;
};

static inline struct harness harness_start(void) {
    struct harness harness = {0};
    struct kelpie_error err;
    assert_int_equal(host_linux_create(&harness.host, &err), KELPIE_OK);
    assert_int_equal(mock_guest_create(harness.host, HARNESS_MEMORY_BYTES, &harness.guest, &err),
                     KELPIE_OK);
    assert_int_equal(mock_guest_boot(harness.guest, &err), KELPIE_OK);
    return harness;
}

static inline void harness_stop(struct harness *harness) {
    mock_guest_destroy(harness->guest);
    host_destroy(harness->host);
}

/* Lets `ms` pass in the guest, in steps of one, with a turn in each. */
static inline void harness_run(struct mock_guest *guest, uint64_t ms) {
    mock_guest_turn(guest);
    for (uint64_t i = 0; i < ms; i++) {
        mock_guest_advance(guest, guest->clock_ns + MS_NS);
        mock_guest_turn(guest);
    }
}

/* What the host would write into the channel. */
static inline void harness_receive(struct mock_guest *guest, const void *data, size_t size) {
    const uint8_t *bytes = data;
    while (size > 0) {
        size_t room = 0;
        uint8_t *space = protocol_decoder_space(&guest->decoder, &room);
        assert_true(room > 0);
        size_t part = size < room ? size : room;
        memcpy(space, bytes, part);
        protocol_decoder_filled(&guest->decoder, part);
        mock_guest_turn(guest);
        bytes += part;
        size -= part;
    }
}

/* The next frame that the guest sent; asserts that there is one. The payload lives until the next call. */
static inline struct protocol_frame harness_next(struct mock_guest *guest) {
    static uint8_t frame[PROTOCOL_FRAME_SIZE_MAX];
    struct protocol_frame found = {0};
    size_t size = ring_peek(&guest->send, 0, frame, PROTOCOL_SYNC_SIZE);
    assert_int_equal(size, PROTOCOL_SYNC_SIZE);
    if (memcmp(frame, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE) == 0) {
        ring_drop(&guest->send, PROTOCOL_SYNC_SIZE);
        ring_peek(&guest->send, 0, frame, PROTOCOL_HEADER_SIZE);
    }
    found.payload_size =
        (size_t)frame[0] | (size_t)frame[1] << 8 | (size_t)frame[2] << 16 | (size_t)frame[3] << 24;
    assert_true(found.payload_size <= PROTOCOL_PAYLOAD_SIZE_MAX);
    found.type = (enum protocol_type)frame[5];
    found.session = (uint32_t)frame[8] | (uint32_t)frame[9] << 8;
    found.payload = frame + PROTOCOL_HEADER_SIZE;
    size = ring_read(&guest->send, frame, PROTOCOL_HEADER_SIZE + found.payload_size);
    assert_int_equal(size, PROTOCOL_HEADER_SIZE + found.payload_size);
    return found;
}

static inline struct cursor_writer harness_writer(void) {
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX + PROTOCOL_SYNC_SIZE];
    return cursor_writer_init(bytes, sizeof(bytes));
}

/* Says HELLO and takes the answer. */
static inline struct protocol_hello_ack harness_hello(struct mock_guest *guest) {
    struct protocol_hello hello = {.nonce = {1, 2, 3}};
    struct protocol_hello_ack ack;
    struct cursor_writer writer = harness_writer();
    protocol_encode_hello(&writer, &hello);
    harness_receive(guest, writer.data, writer.size);
    struct protocol_frame frame = harness_next(guest);
    assert_int_equal(frame.type, PROTOCOL_HELLO_ACK);
    assert_true(protocol_decode_hello_ack(&frame, &ack));
    assert_memory_equal(ack.nonce, hello.nonce, sizeof(hello.nonce));
    return ack;
}

static inline void harness_say(struct mock_guest *guest, enum protocol_type type,
                               uint32_t session) {
    struct cursor_writer writer = harness_writer();
    protocol_encode_empty(&writer, type, session);
    harness_receive(guest, writer.data, writer.size);
}

static inline void harness_exec(struct mock_guest *guest, uint32_t id, uint32_t flags,
                                const char *const *argv) {
    char strings[4096];
    size_t size = 0;
    struct protocol_exec exec = {.flags = flags, .working_dir = "/", .argv = strings, .env = ""};
    for (; argv[exec.argv_count]; exec.argv_count++) {
        size_t length = strlen(argv[exec.argv_count]) + 1;
        assert_true(size + length <= sizeof(strings));
        memcpy(strings + size, argv[exec.argv_count], length);
        size += length;
    }
    exec.argv_size = size;
    struct cursor_writer writer = harness_writer();
    protocol_encode_exec(&writer, id, &exec);
    assert_false(writer.failed);
    harness_receive(guest, writer.data, writer.size);
}

/* The session's output so far, as a text in `buffer`; at most size - 1 bytes. */
static inline const char *harness_output(struct mock_guest *guest, size_t index,
                                         enum mock_stream stream, char *buffer, size_t size) {
    assert_true(index < guest->session_count);
    const struct ring *ring = &guest->sessions[index]->outputs[stream].ring;
    buffer[ring_peek(ring, 0, buffer, size - 1)] = '\0';
    return buffer;
}

/* A line for the shell, and what it does. */
struct harness_line {
    const char *text;
    uint32_t code;
    const char *out;
    const char *error; /* NULL: any */
};

/* Runs the line in a guest of its own, for 100 ms at most. */
static inline void harness_expect(const struct harness_line *line) {
    struct harness harness = harness_start();
    char out[HARNESS_OUTPUT_SIZE];
    char error[HARNESS_OUTPUT_SIZE];
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, 0, SHELL(line->text));
    harness_run(harness.guest, 100);
    const struct mock_session *session = harness.guest->sessions[0];
    harness_output(harness.guest, 0, MOCK_OUT, out, sizeof(out));
    harness_output(harness.guest, 0, MOCK_ERR, error, sizeof(error));
    bool right = session->ended && session->end == PROTOCOL_END_EXITED &&
                 session->end_value == line->code && strcmp(out, line->out) == 0 &&
                 (!line->error || strcmp(error, line->error) == 0);
    if (!right) {
        print_error("%s\n  ended %d, code %u, out '%s', error '%s'\n", line->text, session->ended,
                    session->end_value, out, error);
    }
    harness_stop(&harness);
    assert_true(right);
}

#endif
