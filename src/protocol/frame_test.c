/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "protocol/protocol.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static uint8_t decoder_buffer[PROTOCOL_FRAME_SIZE_MAX];

/* A small reproducible generator: splitmix64. */
static uint64_t random_next(uint64_t *seed) {
    uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void put_ping(struct cursor_writer *writer, uint64_t token) {
    protocol_encode_ping(writer, PROTOCOL_PING, &(struct protocol_ping){.token = token});
    assert_false(writer->failed);
}

static void put_hello(struct cursor_writer *writer, uint8_t nonce) {
    protocol_encode_hello(writer, &(struct protocol_hello){.nonce = {nonce}});
    assert_false(writer->failed);
}

static void feed(struct protocol_decoder *decoder, const uint8_t *bytes, size_t size) {
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(decoder, &room);
    assert_true(room >= size);
    memcpy(space, bytes, size);
    protocol_decoder_filled(decoder, size);
}

static void expect_ping(struct protocol_decoder *decoder, uint64_t token) {
    struct protocol_frame frame;
    struct protocol_ping ping;
    assert_int_equal(protocol_decoder_next(decoder, &frame), PROTOCOL_RESULT_FRAME);
    assert_true(protocol_decode_ping(&frame, &ping));
    assert_int_equal(ping.token, token);
}

static void expect_hello(struct protocol_decoder *decoder, uint8_t nonce) {
    struct protocol_frame frame;
    struct protocol_hello hello;
    assert_int_equal(protocol_decoder_next(decoder, &frame), PROTOCOL_RESULT_FRAME);
    assert_true(protocol_decode_hello(&frame, &hello));
    assert_int_equal(hello.nonce[0], nonce);
}

static void expect(struct protocol_decoder *decoder, enum protocol_result result) {
    struct protocol_frame frame;
    assert_int_equal(protocol_decoder_next(decoder, &frame), result);
}

static void test_a_new_decoder_drops_all_before_sync(void **state) {
    (void)state;
    uint8_t bytes[256];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    put_ping(&writer, 1);
    cursor_write_bytes(&writer, PROTOCOL_SYNC, 7); /* a SYNC that breaks off */
    put_hello(&writer, 5);
    put_ping(&writer, 2);
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
    feed(&decoder, bytes, writer.size);
    expect_hello(&decoder, 5);
    expect_ping(&decoder, 2);
    expect(&decoder, PROTOCOL_RESULT_MORE);
}

static void test_byte_by_byte(void **state) {
    (void)state;
    uint8_t bytes[256];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    put_hello(&writer, 5);
    size_t first = writer.size;
    put_hello(&writer, 6); /* SYNC at a frame's start in normal mode */
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
    for (size_t i = 0; i < writer.size; i++) {
        feed(&decoder, bytes + i, 1);
        if (i + 1 == first) {
            expect_hello(&decoder, 5);
        }
        if (i + 1 == writer.size) {
            expect_hello(&decoder, 6);
        }
        expect(&decoder, PROTOCOL_RESULT_MORE);
    }
}

/* C6: a host that died in the middle of a frame; the next one pads, and is understood. */
static void hazard_C6_hello_in_the_middle_of_a_frame(void **state) {
    (void)state;
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX + 65536];
    static uint8_t data_bytes[PROTOCOL_DATA_SIZE_MAX];
    struct protocol_data data = {.bytes = data_bytes, .size = sizeof(data_bytes)};
    size_t whole = PROTOCOL_HEADER_SIZE + 16 + sizeof(data_bytes);
    for (size_t cut = 1; cut < whole; cut += 1 + cut / 8) {
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        put_hello(&writer, 1);
        size_t start = writer.size;
        protocol_encode_data(&writer, 3, &data);
        writer.size = start + cut;
        memset(bytes + writer.size, 0, PROTOCOL_FRAME_SIZE_MAX);
        writer.size += PROTOCOL_FRAME_SIZE_MAX;
        put_hello(&writer, 2);
        struct protocol_decoder decoder;
        protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
        struct protocol_frame frame;
        bool greeted = false;
        for (size_t at = 0; at < writer.size; at++) {
            feed(&decoder, bytes + at, 1);
            enum protocol_result result = protocol_decoder_next(&decoder, &frame);
            if (result == PROTOCOL_RESULT_MALFORMED) {
                protocol_decoder_scan(&decoder);
            }
            struct protocol_hello hello;
            greeted = greeted || (result == PROTOCOL_RESULT_FRAME &&
                                  protocol_decode_hello(&frame, &hello) && hello.nonce[0] == 2);
        }
        assert_true(greeted);
    }
}

static void test_malformed_headers(void **state) {
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
    } changes[] = {
        {3, 1},                                               /* a size of 16 MiB */
        {4, 0},                                               /* version 0 */
        {4, 2},                                               /* a later version */
        {5, 0},                                               /* types that do not exist */
        {5, 20}, {5, 31}, {5, 34}, {5, 80}, {5, 255}, {5, 4}, /* EXEC without a session */
        {6, 1},  {7, 1},  {8, 1},                             /* a PING of a session */
        {12, 1}, {15, 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        uint8_t bytes[256];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        put_hello(&writer, 1);
        size_t start = writer.size;
        put_ping(&writer, 7);
        bytes[start + changes[i].at] = changes[i].value;
        put_hello(&writer, 2);
        struct protocol_decoder decoder;
        protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
        feed(&decoder, bytes, writer.size);
        expect_hello(&decoder, 1);
        expect(&decoder, PROTOCOL_RESULT_MALFORMED);
        expect(&decoder, PROTOCOL_RESULT_MALFORMED); /* until told to scan */
        protocol_decoder_scan(&decoder);
        expect_hello(&decoder, 2);
        expect(&decoder, PROTOCOL_RESULT_MORE);
    }
}

/* The longest payload that there may be is waited for; of one byte more the header is enough to refuse it. */
static void test_a_payload_is_limited_exactly(void **state) {
    (void)state;
    for (uint32_t over = 0; over < 2; over++) {
        uint8_t bytes[256];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        put_hello(&writer, 1);
        struct cursor_writer patch = cursor_writer_init(bytes + writer.size, sizeof(uint32_t));
        put_ping(&writer, 7);
        cursor_write_u32(&patch, PROTOCOL_PAYLOAD_SIZE_MAX + over);
        struct protocol_decoder decoder;
        protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
        feed(&decoder, bytes, writer.size);
        expect_hello(&decoder, 1);
        expect(&decoder, over == 0 ? PROTOCOL_RESULT_MORE : PROTOCOL_RESULT_MALFORMED);
    }
}

static void test_zeros_are_malformed(void **state) {
    (void)state;
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
    feed(&decoder, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    const uint8_t zeros[PROTOCOL_HEADER_SIZE] = {0};
    feed(&decoder, zeros, sizeof(zeros));
    expect(&decoder, PROTOCOL_RESULT_MALFORMED);
}

static uint8_t many_bytes[3 * PROTOCOL_FRAME_SIZE_MAX];

/* Fills many_bytes with DATA frames, each numbered by its offset; returns their number. */
static uint64_t many_frames(uint64_t *seed, size_t data_size_max, size_t *ret_size) {
    static uint8_t data_bytes[PROTOCOL_DATA_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(many_bytes, sizeof(many_bytes));
    cursor_write_bytes(&writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    uint64_t count = 0;
    while (!writer.failed) {
        struct protocol_data data = {.offset = count, .bytes = data_bytes};
        data.size = random_next(seed) % (data_size_max + 1);
        memset(data_bytes, (int)(count % 251), data.size);
        protocol_encode_data(&writer, 1, &data);
        count += !writer.failed;
    }
    *ret_size = writer.size;
    return count;
}

/* Takes every whole frame out, checks it, and returns the number of the next. */
static uint64_t take_frames(struct protocol_decoder *decoder, uint64_t seen) {
    struct protocol_frame frame;
    while (protocol_decoder_next(decoder, &frame) == PROTOCOL_RESULT_FRAME) {
        struct protocol_data data;
        assert_true(protocol_decode_data(&frame, &data));
        assert_int_equal(data.offset, seen);
        assert_true(data.size == 0 || data.bytes[data.size - 1] == seen % 251);
        seen++;
    }
    return seen;
}

/* Frames of all sizes, in pieces of all sizes: each comes out whole, in order. */
static void test_many_frames_in_random_pieces(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 40; round++) {
        uint64_t seed = round;
        size_t size = 0;
        uint64_t count = many_frames(&seed, round < 20 ? 64 : PROTOCOL_DATA_SIZE_MAX, &size);
        size_t piece_max = round % 2 == 0 ? 100000 : 3000;
        struct protocol_decoder decoder;
        protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
        uint64_t seen = 0;
        for (size_t at = 0; at < size;) {
            size_t room = 0;
            (void)protocol_decoder_space(&decoder, &room);
            assert_true(room > 0);
            size_t piece = 1 + random_next(&seed) % piece_max;
            piece = piece < room ? piece : room;
            piece = piece < size - at ? piece : size - at;
            feed(&decoder, many_bytes + at, piece);
            at += piece;
            seen = take_frames(&decoder, seen);
        }
        assert_int_equal(seen, count);
    }
}

/* The largest frame fits behind another, whatever its place. */
static void test_largest_frame(void **state) {
    (void)state;
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX + 4096];
    static char argument[PROTOCOL_PAYLOAD_SIZE_MAX];
    memset(argument, 'x', sizeof(argument));
    struct protocol_exec exec = {.working_dir = "/", .argv = argument, .argv_count = 1};
    struct cursor_writer probe = cursor_writer_init(bytes, sizeof(bytes));
    exec.argv_size = 1;
    argument[0] = 0;
    protocol_encode_exec(&probe, 1, &exec);
    exec.argv_size = PROTOCOL_FRAME_SIZE_MAX - probe.size + 1;
    argument[0] = 'x';
    argument[exec.argv_size - 1] = 0;
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    put_hello(&writer, 1);
    put_ping(&writer, 1);
    size_t before = writer.size;
    protocol_encode_exec(&writer, 1, &exec);
    assert_false(writer.failed);
    assert_int_equal(writer.size - before, PROTOCOL_FRAME_SIZE_MAX);
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
    struct protocol_frame frame = {0};
    for (size_t at = 0; at < writer.size;) {
        size_t room = 0;
        uint8_t *space = protocol_decoder_space(&decoder, &room);
        assert_true(room > 0);
        size_t piece = room < writer.size - at ? room : writer.size - at;
        memcpy(space, bytes + at, piece);
        protocol_decoder_filled(&decoder, piece);
        at += piece;
        while (protocol_decoder_next(&decoder, &frame) == PROTOCOL_RESULT_FRAME) {
        }
    }
    struct protocol_exec decoded;
    assert_int_equal(frame.type, PROTOCOL_EXEC);
    assert_true(protocol_decode_exec(&frame, &decoded));
    assert_int_equal(decoded.argv_size, exec.argv_size);
}

/* D1: noise of any kind never leads out of the buffer and never stops the decoder for good. */
static void hazard_D1_random_bytes_are_survived(void **state) {
    (void)state;
    struct protocol_decoder decoder;
    protocol_decoder_init(&decoder, decoder_buffer, sizeof(decoder_buffer));
    uint64_t seed = 42;
    for (size_t round = 0; round < 20000; round++) {
        size_t room = 0;
        uint8_t *space = protocol_decoder_space(&decoder, &room);
        assert_true(room > 0);
        size_t size = 1 + random_next(&seed) % 64;
        size = size < room ? size : room;
        for (size_t i = 0; i < size; i++) {
            uint64_t value = random_next(&seed);
            space[i] = (uint8_t)(value % 3 == 0 ? value >> 8 : PROTOCOL_SYNC[i % 16]);
        }
        protocol_decoder_filled(&decoder, size);
        struct protocol_frame frame;
        enum protocol_result result = protocol_decoder_next(&decoder, &frame);
        while (result != PROTOCOL_RESULT_MORE) {
            if (result == PROTOCOL_RESULT_MALFORMED) {
                protocol_decoder_scan(&decoder);
            }
            result = protocol_decoder_next(&decoder, &frame);
        }
    }
    uint8_t bytes[256];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    put_hello(&writer, 9);
    protocol_decoder_scan(&decoder);
    feed(&decoder, bytes, writer.size);
    expect_hello(&decoder, 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_decoder_drops_all_before_sync),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(hazard_C6_hello_in_the_middle_of_a_frame),
        cmocka_unit_test(test_malformed_headers),
        cmocka_unit_test(test_a_payload_is_limited_exactly),
        cmocka_unit_test(test_zeros_are_malformed),
        cmocka_unit_test(test_many_frames_in_random_pieces),
        cmocka_unit_test(test_largest_frame),
        cmocka_unit_test(hazard_D1_random_bytes_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
