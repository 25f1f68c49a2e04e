/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The guest's side of the protocol, a frame at a time. */
#include <errno.h>

#include "backend/mock/mock_harness_test.h"
#include "base/assert.h"

static struct protocol_identity identity_of(uint8_t seed) {
    struct protocol_identity identity = {
        .realtime_ns = 1000000000000ull,
        .hostname = "tested",
        .machine_id = "0123456789abcdef0123456789abcdef",
    };
    memset(identity.entropy, seed, sizeof(identity.entropy));
    memset(identity.generation, seed, sizeof(identity.generation));
    return identity;
}

static void set_up(struct mock_guest *guest, uint8_t seed) {
    static struct protocol_setup setup;
    setup = (struct protocol_setup){.identity = identity_of(seed)};
    struct cursor_writer writer = harness_writer();
    protocol_encode_setup(&writer, &setup);
    harness_receive(guest, writer.data, writer.size);
    struct protocol_frame frame = harness_next(guest);
    struct protocol_done done;
    assert_true(protocol_decode_done(&frame, &done));
    assert_int_equal(done.os_error, 0);
}

static struct protocol_thawed thaw(struct mock_guest *guest, uint32_t flags, uint8_t seed) {
    struct protocol_thaw thaw = {.flags = flags, .identity = identity_of(seed)};
    struct cursor_writer writer = harness_writer();
    protocol_encode_thaw(&writer, &thaw);
    harness_receive(guest, writer.data, writer.size);
    struct protocol_frame frame = harness_next(guest);
    struct protocol_thawed thawed = {0};
    assert_true(protocol_decode_thawed(&frame, &thawed));
    return thawed;
}

static void test_hello_is_found_in_the_middle_of_anything(void **state) {
    (void)state;
    struct harness harness = harness_start();
    uint8_t noise[5000];
    memset(noise, 0xff, sizeof(noise));
    harness_receive(harness.guest, noise, sizeof(noise));
    assert_int_equal(harness.guest->send.size, 0);
    assert_false(harness_hello(harness.guest).set_up);
    harness_receive(harness.guest, noise, sizeof(noise)); /* malformed: it scans again */
    harness_hello(harness.guest);
    set_up(harness.guest, 1);
    struct protocol_hello_ack ack = harness_hello(harness.guest);
    assert_true(ack.set_up);
    assert_int_equal(ack.generation[0], 1);
    assert_true(ack.memory_available_bytes <= ack.memory_total_bytes);
    harness_stop(&harness);
}

static void test_what_is_said_of_a_network_is_taken(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    struct cursor_writer writer = harness_writer();
    const struct protocol_network network = {.mac = {2, 0, 0, 0, 0, 1}};
    protocol_encode_network(&writer, &network);
    assert_false(writer.failed);
    harness_receive(harness.guest, writer.data, writer.size);
    set_up(harness.guest, 1); /* it is not behind a frame that breaks the protocol */
    harness_stop(&harness);
}

static void test_a_new_hello_detaches_every_session(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, 0, ARGV("count", "1000", "0.001"));
    harness_run(harness.guest, 10);
    assert_true(harness.guest->send.size > 0);
    harness_hello(harness.guest); /* what was queued is gone: its answer comes first */
    harness_run(harness.guest, 10);
    assert_int_equal(harness.guest->send.size, 0);
    harness_say(harness.guest, PROTOCOL_LIST, 0);
    struct protocol_frame frame = harness_next(harness.guest);
    static struct protocol_sessions sessions;
    assert_true(protocol_decode_sessions(&frame, &sessions));
    assert_int_equal(sessions.count, 1);
    assert_int_equal(sessions.ids[0], 1);
    struct cursor_writer writer = harness_writer();
    protocol_encode_attach(&writer, 1, &(struct protocol_attach){.stdout_offset = 4});
    harness_receive(harness.guest, writer.data, writer.size);
    frame = harness_next(harness.guest);
    struct protocol_attached attached;
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.stdout_offset, 4);
    frame = harness_next(harness.guest); /* ACK: stdin is closed */
    frame = harness_next(harness.guest);
    struct protocol_data data;
    assert_true(protocol_decode_data(&frame, &data));
    assert_int_equal(data.offset, 4);
    assert_memory_equal(data.bytes, "3\n4\n", 4);
    harness_stop(&harness);
}

static void expect_attach_error(struct mock_guest *guest, uint32_t id, uint64_t offset,
                                uint32_t os_error) {
    struct cursor_writer writer = harness_writer();
    protocol_encode_attach(&writer, id, &(struct protocol_attach){.stdout_offset = offset});
    harness_receive(guest, writer.data, writer.size);
    struct protocol_frame frame = harness_next(guest);
    struct protocol_attached attached;
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, os_error);
}

static void test_attach_beyond_what_was_written(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, 0, ARGV("echo", "five"));
    harness_run(harness.guest, 2);
    harness_hello(harness.guest);
    expect_attach_error(harness.guest, 1, 6, EINVAL);
    expect_attach_error(harness.guest, 1, 0x7fffffffffffffff, EINVAL);
    expect_attach_error(harness.guest, 2, 0, ENOENT);
    expect_attach_error(harness.guest, 1, 5, 0);
    harness_stop(&harness);
}

static void test_a_frozen_guest_stands_still_and_answers(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_guest *guest = harness.guest;
    harness_hello(guest);
    set_up(guest, 1);
    harness_exec(guest, 1, 0, ARGV("count", "1000", "0.01"));
    harness_run(guest, 25);
    harness_say(guest, PROTOCOL_FREEZE, 0);
    uint64_t uptime_ns = guest->uptime_ns;
    guest->send.size = 0;
    harness_run(guest, 100);
    assert_int_equal(guest->uptime_ns, uptime_ns);
    assert_int_equal(guest->send.size, 0); /* FROZEN was its last frame */
    assert_int_equal(mock_guest_next_ns(guest), UINT64_MAX);
    struct cursor_writer writer = harness_writer();
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 77});
    harness_receive(guest, writer.data, writer.size);
    struct protocol_frame frame = harness_next(guest);
    assert_int_equal(frame.type, PROTOCOL_PONG);
    assert_true(harness_hello(guest).frozen);
    struct protocol_thawed thawed = thaw(guest, 0, 1);
    assert_int_equal(thawed.clock, PROTOCOL_OUTCOME_DONE);
    assert_int_equal(thawed.clock_skew_ns, 25 * (int64_t)MS_NS);
    harness_run(guest, 10);
    assert_true(guest->uptime_ns > uptime_ns);
    harness_stop(&harness);
}

static void test_hazard_C1_entropy_decides_what_is_drawn(void **state) {
    (void)state;
    struct harness a = harness_start();
    struct harness b = harness_start();
    uint8_t first[33];
    uint8_t second[33];
    harness_hello(a.guest);
    harness_hello(b.guest);
    set_up(a.guest, 7);
    set_up(b.guest, 7);
    mock_guest_random(a.guest, first, sizeof(first));
    mock_guest_random(b.guest, second, sizeof(second));
    assert_memory_equal(first, second, sizeof(first)); /* the same: it is deterministic */
    struct protocol_thawed thawed = thaw(a.guest, PROTOCOL_THAW_RESTORED, 1);
    assert_int_equal(thawed.entropy, PROTOCOL_OUTCOME_DONE);
    assert_int_equal(thawed.generation, PROTOCOL_OUTCOME_DONE);
    assert_int_equal(thawed.hostname, PROTOCOL_OUTCOME_DONE);
    assert_int_equal(thawed.machine_id, PROTOCOL_OUTCOME_DONE);
    assert_int_equal(thawed.network, PROTOCOL_OUTCOME_UNSUPPORTED);
    thaw(b.guest, PROTOCOL_THAW_RESTORED, 2);
    mock_guest_random(a.guest, first, sizeof(first));
    mock_guest_random(b.guest, second, sizeof(second));
    assert_memory_not_equal(first, second, sizeof(first));
    assert_string_equal(a.guest->hostname, "tested");
    harness_stop(&a);
    harness_stop(&b);
}

static void test_stdin_beyond_the_window_breaks_the_connection_only(void **state) {
    (void)state;
    struct harness harness = harness_start();
    static const uint8_t bytes[PROTOCOL_DATA_SIZE_MAX];
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_STDIN, ARGV("sleep", "1000"));
    for (uint64_t offset = 0; offset <= PROTOCOL_WINDOW_SIZE; offset += sizeof(bytes)) {
        struct cursor_writer writer = harness_writer();
        const struct protocol_data data = {
            .stream = PROTOCOL_STDIN, .offset = offset, .bytes = bytes, .size = sizeof(bytes)};
        protocol_encode_data(&writer, 1, &data);
        harness_receive(harness.guest, writer.data, writer.size);
    }
    harness.guest->send.size = 0;
    harness_say(harness.guest, PROTOCOL_LIST, 0);
    assert_int_equal(harness.guest->send.size, 0); /* it scans for the next HELLO */
    harness_hello(harness.guest);
    assert_int_equal(harness.guest->sessions[0]->input_ring.size, PROTOCOL_WINDOW_SIZE);
    harness_stop(&harness);
}

static void test_a_flood_of_pings_is_answered_within_bounds(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    for (uint64_t i = 0; i < 1000; i++) {
        struct cursor_writer writer = harness_writer();
        protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = i});
        harness_receive(harness.guest, writer.data, writer.size);
    }
    for (uint64_t i = 0; i < 1000; i++) {
        struct protocol_frame frame = harness_next(harness.guest);
        struct protocol_ping pong;
        assert_int_equal(frame.type, PROTOCOL_PONG);
        assert_true(protocol_decode_ping(&frame, &pong));
        assert_int_equal(pong.token, i);
    }
    harness_stop(&harness);
}

/* Not read, its answers wait for room; read, all of them come, in order. */
static void test_answers_wait_for_room(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_guest *guest = harness.guest;
    const uint64_t count = 4 * guest->send.capacity / PROTOCOL_HEADER_SIZE;
    uint64_t answered = 0;
    harness_hello(guest);
    for (uint64_t sent = 0; sent < count; sent++) {
        struct cursor_writer writer = harness_writer();
        size_t room = 0;
        protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = sent});
        protocol_decoder_space(&guest->decoder, &room);
        while (room < writer.size) { /* it takes no more until somebody reads */
            assert_true(ring_room(&guest->send) < guest->send.capacity / 2);
            struct protocol_frame frame = harness_next(guest);
            struct protocol_ping pong;
            assert_true(protocol_decode_ping(&frame, &pong));
            assert_int_equal(pong.token, answered++);
            mock_guest_turn(guest);
            protocol_decoder_space(&guest->decoder, &room);
        }
        harness_receive(guest, writer.data, writer.size);
    }
    assert_true(answered > 0);
    while (answered < count) {
        struct protocol_frame frame = harness_next(guest);
        struct protocol_ping pong;
        assert_true(protocol_decode_ping(&frame, &pong));
        assert_int_equal(pong.token, answered++);
        mock_guest_turn(guest);
    }
    harness_stop(&harness);
}

/* What is asked without anything to it has no payload: with one it is no frame of ours. */
static void test_questions_have_no_payload(void **state) {
    static const enum protocol_type types[] = {PROTOCOL_STATUS, PROTOCOL_LIST, PROTOCOL_POWER_OFF};
    (void)state;
    struct harness harness = harness_start();
    struct protocol_figures figures;
    harness_hello(harness.guest);
    harness_say(harness.guest, PROTOCOL_STATUS, 0);
    struct protocol_frame frame = harness_next(harness.guest);
    assert_int_equal(frame.type, PROTOCOL_FIGURES);
    assert_true(protocol_decode_figures(&frame, &figures));
    assert_int_equal(figures.memory_total_bytes, HARNESS_MEMORY_BYTES);
    assert_true(figures.memory_available_bytes > 0);
    assert_true(figures.memory_available_bytes <= figures.memory_total_bytes);
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        struct cursor_writer writer = harness_writer();
        protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 1});
        writer.data[5] = (uint8_t)types[i];
        harness_receive(harness.guest, writer.data, writer.size);
        assert_int_equal(harness.guest->send.size, 0);
        assert_false(harness.guest->powered_off);
        harness_hello(harness.guest); /* from here on it understands again */
    }
    harness_stop(&harness);
}

static void test_release_kills_and_power_off_ends(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 5, 0, ARGV("yes"));
    assert_int_equal(harness.guest->session_count, 1);
    harness_say(harness.guest, PROTOCOL_RELEASE, 6); /* crossed: no error */
    harness_say(harness.guest, PROTOCOL_RELEASE, 5);
    assert_int_equal(harness.guest->session_count, 0);
    assert_false(harness.guest->powered_off);
    harness_say(harness.guest, PROTOCOL_POWER_OFF, 0);
    assert_true(harness.guest->powered_off);
    harness_stop(&harness);
}

static void test_a_terminal_edits_lines(void **state) {
    (void)state;
    struct harness harness = harness_start();
    char out[256];
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("cat"));
    struct cursor_writer writer = harness_writer();
    const struct protocol_data data = {
        .stream = PROTOCOL_STDIN, .bytes = (const uint8_t *)"ax\x7f\r\x04", .size = 5};
    protocol_encode_data(&writer, 1, &data);
    harness_receive(harness.guest, writer.data, writer.size);
    harness_run(harness.guest, 2);
    assert_string_equal(harness_output(harness.guest, 0, MOCK_OUT, out, sizeof(out)),
                        "ax\b \b\r\na\r\n");
    assert_true(harness.guest->sessions[0]->ended);
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_is_found_in_the_middle_of_anything),
        cmocka_unit_test(test_what_is_said_of_a_network_is_taken),
        cmocka_unit_test(test_a_new_hello_detaches_every_session),
        cmocka_unit_test(test_attach_beyond_what_was_written),
        cmocka_unit_test(test_a_frozen_guest_stands_still_and_answers),
        cmocka_unit_test(test_hazard_C1_entropy_decides_what_is_drawn),
        cmocka_unit_test(test_stdin_beyond_the_window_breaks_the_connection_only),
        cmocka_unit_test(test_a_flood_of_pings_is_answered_within_bounds),
        cmocka_unit_test(test_answers_wait_for_room),
        cmocka_unit_test(test_questions_have_no_payload),
        cmocka_unit_test(test_release_kills_and_power_off_ends),
        cmocka_unit_test(test_a_terminal_edits_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
