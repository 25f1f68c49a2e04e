/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a far end may not say to a relay: nobody but itself suffers. */
#include "support/relay_harness.h"

/* ---- What a far end may not say ----------------------------------------------------------------- */

static void say_hello(struct fixture *fixture) {
    protocol_encode_hello(&fixture->writer, &(struct protocol_hello){0});
}
static void say_freeze(struct fixture *fixture) {
    protocol_encode_empty(&fixture->writer, PROTOCOL_FREEZE, 0);
}
static void say_power_off(struct fixture *fixture) {
    protocol_encode_empty(&fixture->writer, PROTOCOL_POWER_OFF, 0);
}
static void say_thaw(struct fixture *fixture) {
    const struct protocol_thaw thaw = {
        .identity = {.hostname = "x", .machine_id = "0123456789abcdef0123456789abcdef"}};
    protocol_encode_thaw(&fixture->writer, &thaw);
}
static void say_setup(struct fixture *fixture) {
    const struct protocol_setup setup = {
        .identity = {.hostname = "x", .machine_id = "0123456789abcdef0123456789abcdef"}};
    protocol_encode_setup(&fixture->writer, &setup);
}
static void say_network(struct fixture *fixture) {
    protocol_encode_network(&fixture->writer, &(struct protocol_network){.mac = {2}});
}
static void say_what_a_guest_says(struct fixture *fixture) {
    protocol_encode_started(&fixture->writer, fixture->first, &(struct protocol_started){0});
}
static void say_garbage(struct fixture *fixture) {
    cursor_write_bytes(&fixture->writer, "GET / HTTP/1.1\r\nHost: kelpie\r\n\r\n", 32);
}
static void say_a_huge_size(struct fixture *fixture) {
    cursor_write_u32(&fixture->writer, PROTOCOL_PAYLOAD_SIZE_MAX + 1);
    cursor_write_u32(&fixture->writer, PROTOCOL_VERSION | PROTOCOL_EXEC << 8);
    cursor_write_u64(&fixture->writer, fixture->first);
}
static void say_a_spoilt_exec(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "true", NULL);
    fixture->writer.data[PROTOCOL_SYNC_SIZE + PROTOCOL_HEADER_SIZE + 3] = 0xff; /* flags */
}
static void say_a_spoilt_put(struct fixture *fixture) {
    const struct protocol_file_put put = {.path = "/tmp/a", .mode = 0644};
    protocol_encode_file_put(&fixture->writer, fixture->first, &put);
    fixture->writer.data[PROTOCOL_SYNC_SIZE + PROTOCOL_HEADER_SIZE + 12] = 'x'; /* the path's '/' */
}
static void say_exec_below_the_block(struct fixture *fixture) {
    write_exec(fixture, fixture->first - 1, "true", NULL);
}
static void say_exec_above_the_block(struct fixture *fixture) {
    write_exec(fixture, fixture->first + VM_RELAY_IDS_COUNT / 2 - 1, "true", NULL);
    write_exec(fixture, fixture->first + VM_RELAY_IDS_COUNT - 1, "true", NULL);
    write_exec(fixture, fixture->first + VM_RELAY_IDS_COUNT, "true", NULL);
}
static void say_exec_far_ahead(struct fixture *fixture) {
    write_exec(fixture, fixture->first + VM_RELAY_IDS_COUNT - 1, "true", NULL);
}
static void say_exec_twice(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "true", NULL);
    write_exec(fixture, fixture->first, "true", NULL);
}
static void say_exec_again_after_release(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "true", NULL);
    protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, fixture->first);
    write_exec(fixture, fixture->first, "true", NULL);
}
static void say_data_of_nobody(struct fixture *fixture) {
    write_data(fixture, fixture->first, 0, 1);
}
static void say_data_before_the_start(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "cat", NULL);
    write_data(fixture, fixture->first, 0, 1);
}
static void say_signal_of_nobody(struct fixture *fixture) {
    protocol_encode_signal(&fixture->writer, fixture->first, &(struct protocol_signal){9});
}
static void say_data_of_another(struct fixture *fixture) {
    write_data(fixture, 1, 0, 1); /* a session of this process, see below */
}
static void say_resize_of_another(struct fixture *fixture) {
    protocol_encode_resize(&fixture->writer, 1, &(struct protocol_resize){1, 1});
}
static void say_data_with_a_gap(struct fixture *fixture) {
    start_cat(fixture, fixture->first);
    write_data(fixture, fixture->first, 1, 1);
}
static void say_data_beyond_the_window(struct fixture *fixture) {
    start_cat(fixture, fixture->first);
    protocol_encode_signal(&fixture->writer, fixture->first, &(struct protocol_signal){19});
    for (uint64_t at = 0; at <= 4 * PROTOCOL_WINDOW_SIZE; at += PROTOCOL_DATA_SIZE_MAX) {
        write_data(fixture, fixture->first, at, PROTOCOL_DATA_SIZE_MAX);
    }
}
static void say_data_to_no_stdin(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "sleep", "1000");
    say(fixture);
    expect(fixture, PROTOCOL_STARTED, fixture->first);
    write_data(fixture, fixture->first, 0, 1);
}
static void say_output(struct fixture *fixture) {
    start_cat(fixture, fixture->first);
    const struct protocol_data data = {.stream = PROTOCOL_STDOUT, .flags = PROTOCOL_DATA_END};
    protocol_encode_data(&fixture->writer, fixture->first, &data);
}
static void say_ack_of_what_never_came(struct fixture *fixture) {
    start_cat(fixture, fixture->first);
    write_ack(fixture, fixture->first, PROTOCOL_STDOUT, 1);
}
static void say_ack_of_stdin(struct fixture *fixture) {
    start_cat(fixture, fixture->first);
    write_ack(fixture, fixture->first, PROTOCOL_STDIN, 0);
}
static void say_ack_backwards(struct fixture *fixture) {
    write_exec(fixture, fixture->first, "echo", "five");
    say(fixture);
    expect(fixture, PROTOCOL_STARTED, fixture->first);
    struct protocol_frame frame;
    while (hear(fixture, &frame) && frame.type != PROTOCOL_DATA) {
    }
    write_ack(fixture, fixture->first, PROTOCOL_STDOUT, 5);
    write_ack(fixture, fixture->first, PROTOCOL_STDOUT, 4);
}

static const struct {
    const char *name;
    void (*say)(struct fixture *fixture);
} hostile[] = {
    {"HELLO", say_hello},
    {"FREEZE", say_freeze},
    {"POWER_OFF", say_power_off},
    {"THAW", say_thaw},
    {"SETUP", say_setup},
    {"NETWORK", say_network},
    {"STARTED", say_what_a_guest_says},
    {"garbage", say_garbage},
    {"a huge size", say_a_huge_size},
    {"a spoilt EXEC", say_a_spoilt_exec},
    {"a spoilt FILE_PUT", say_a_spoilt_put},
    {"a number below the block", say_exec_below_the_block},
    {"a number above the block", say_exec_above_the_block},
    {"a number far ahead", say_exec_far_ahead},
    {"EXEC twice", say_exec_twice},
    {"EXEC of a number just released", say_exec_again_after_release},
    {"DATA of nobody", say_data_of_nobody},
    {"DATA before the start", say_data_before_the_start},
    {"SIGNAL of nobody", say_signal_of_nobody},
    {"DATA of another", say_data_of_another},
    {"RESIZE of another", say_resize_of_another},
    {"DATA with a gap", say_data_with_a_gap},
    {"DATA beyond the window", say_data_beyond_the_window},
    {"DATA without a stdin", say_data_to_no_stdin},
    {"output of its own", say_output},
    {"an ACK of what never came", say_ack_of_what_never_came},
    {"an ACK of stdin", say_ack_of_stdin},
    {"an ACK that goes back", say_ack_backwards},
};

static void hazard_d1_a_far_end_that_breaks_the_protocol(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *local = NULL; /* session 1 */
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(fixture->vm, &command, &local, NULL));
    assert_int_equal(kelpie_exec_id(local), 1);
    for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
        hostile[i].say(fixture);
        say(fixture);
        expect_end(fixture, hostile[i].name);
        close_relay(fixture);
        open_relay(fixture);
    }
    size_t written = 0;
    char text[8];
    struct kelpie_chunk chunk = {.buffer = text, .size = sizeof(text)};
    OK(kelpie_exec_write(local, "mine", 4, &written, NULL)); /* nobody else wrote to it */
    OK(kelpie_exec_read(local, &chunk, WAIT_MS, NULL));
    assert_int_equal(chunk.size, 4);
    assert_memory_equal(text, "mine", 4);
    kelpie_exec_close(local);
    close_fixture(fixture);
}

/* A far end that goes away in the middle of a frame, at each byte of it. */
static void hazard_d1_half_a_frame(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    write_exec(fixture, fixture->first, "true", NULL);
    size_t size = fixture->writer.size;
    for (size_t cut = 0; cut < size; cut += 7) {
        write_exec(fixture, fixture->first, "true", NULL);
        fixture->writer.size = cut;
        say(fixture);
        host_close(fixture->vm->host, fixture->fd);
        vm_relay_close(fixture->relay);
        open_relay(fixture);
    }
    expect_vm_works(fixture->vm);
    size_t count = 1;
    OK(kelpie_exec_list(fixture->vm, NULL, 0, &count, NULL));
    assert_int_equal(count, 0);
    close_fixture(fixture);
}

/* RELEASE and DETACH may cross an answer, and are no harm: but they reach no session of others. */
static void hazard_d1_a_release_of_anothers_session(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *local = NULL;
    struct kelpie_exit exit;
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(fixture->vm, &command, &local, NULL));
    protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, kelpie_exec_id(local));
    protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, kelpie_exec_id(local));
    protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, fixture->first + 5);
    protocol_encode_empty(&fixture->writer, PROTOCOL_LIST, 0);
    say(fixture);
    struct protocol_frame frame = expect(fixture, PROTOCOL_SESSIONS, 0);
    struct protocol_sessions sessions;
    assert_true(protocol_decode_sessions(&frame, &sessions));
    assert_int_equal(sessions.count, 1);
    OK(kelpie_exec_close_stdin(local, NULL));
    OK(kelpie_exec_wait(local, WAIT_MS, &exit, NULL));
    assert_int_equal(exit.code, 0);
    kelpie_exec_close(local);
    close_fixture(fixture);
}

static void hazard_d1_a_flood_of_questions(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (uint64_t i = 0; i < 2000; i++) {
        const struct protocol_ping ping = {.token = UINT64_MAX - i};
        protocol_encode_empty(&fixture->writer, PROTOCOL_LIST, 0);
        protocol_encode_ping(&fixture->writer, PROTOCOL_PING, &ping);
    }
    say(fixture);
    expect_vm_works(fixture->vm);
    uint64_t ns = 0;
    OK(kelpie_vm_ping(fixture->vm, &ns, NULL)); /* the far end's tokens are not ours */
    uint64_t pongs = 0;
    for (size_t i = 0; i < 4000; i++) {
        struct protocol_frame frame;
        struct protocol_ping pong;
        assert_true(hear(fixture, &frame));
        if (frame.type == PROTOCOL_PONG) {
            assert_true(protocol_decode_ping(&frame, &pong));
            assert_int_equal(pong.token, UINT64_MAX - pongs);
            pongs++;
        }
    }
    assert_int_equal(pongs, 2000);
    close_fixture(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_d1_a_far_end_that_breaks_the_protocol),
        cmocka_unit_test(hazard_d1_half_a_frame),
        cmocka_unit_test(hazard_d1_a_release_of_anothers_session),
        cmocka_unit_test(hazard_d1_a_flood_of_questions),
    };
    return cmocka_run_group_tests_name("relay_hostile", tests, NULL, NULL);
}
