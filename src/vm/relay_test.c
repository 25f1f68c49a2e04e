/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A relay at work: what it holds back, who holds which session, and what is left of it. What handles see of it: owned_test.c. */
#include "support/relay_harness.h"

#define MOCK_OUTPUT_SIZE 65536 /* what the mock's guest sends before it wants an ACK */

/* ---- Flow --------------------------------------------------------------------------------------- */

/* A far end that does not read: its command is stopped by its window, and nobody else is. */
static void hazard_d1_a_far_end_that_does_not_read(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (uint32_t i = 0; i < 4; i++) {
        write_exec(fixture, fixture->first + i, "yes", NULL);
    }
    say(fixture);
    size_t queued = 0;
    for (size_t i = 0; i < 50 || (queued == 0 && i < 5000); i++) {
        expect_vm_works(fixture->vm);
        vm_lock(fixture->vm);
        queued = fixture->relay->out_end - fixture->relay->out_start;
        vm_unlock(fixture->vm);
    }
    assert_true(queued > 0);
    assert_true(queued <= 4 * (PROTOCOL_WINDOW_SIZE + PROTOCOL_WINDOW_SIZE / 8));
    uint64_t received[4] = {0};
    struct protocol_frame frame;
    while (received[0] + received[1] + received[2] + received[3] < 4 * MOCK_OUTPUT_SIZE) {
        struct protocol_data data;
        assert_true(hear(fixture, &frame));
        if (frame.type != PROTOCOL_DATA) {
            continue;
        }
        assert_true(protocol_decode_data(&frame, &data));
        size_t index = frame.session - fixture->first;
        assert_int_equal(data.offset, received[index]);
        assert_memory_equal(data.bytes, data.offset % 2 ? "\n" : "y", 1);
        received[index] += data.size;
    }
    write_ack(fixture, fixture->first, PROTOCOL_STDOUT, received[0]); /* and it goes on */
    say(fixture);
    while (frame.type != PROTOCOL_DATA || frame.session != fixture->first) {
        assert_true(hear(fixture, &frame));
    }
    vm_lock(fixture->vm);
    assert_true(fixture->relay->out_capacity == VM_RELAY_OUT_SIZE_MIN || fixture->relay->out_end);
    vm_unlock(fixture->vm);
    close_fixture(fixture);
}

/* Nothing goes to a guest that stands still, and nothing of it is lost. */
static void test_a_pause_holds_what_the_far_end_says(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    start_cat(fixture, fixture->first);
    OK(kelpie_vm_pause(fixture->vm, NULL));
    write_exec(fixture, fixture->first + 1, "echo", "late");
    write_data(fixture, fixture->first, 0, 5);
    say(fixture);
    struct host_wait wait = host_wait_ms(fixture->vm->host, 50, HOST_FD_NONE);
    struct host_poll_item item = {.fd = fixture->fd, .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(fixture->vm->host, &item, 1, &wait, NULL), KELPIE_TIMED_OUT);
    assert_int_equal(vm_relay_session_count(fixture->relay), 1);
    OK(kelpie_vm_resume(fixture->vm, NULL));
    bool started = false;
    bool echoed = false;
    while (!started || !echoed) {
        struct protocol_frame frame;
        assert_true(hear(fixture, &frame));
        started |= frame.type == PROTOCOL_STARTED && frame.session == fixture->first + 1;
        echoed |= frame.type == PROTOCOL_DATA && frame.session == fixture->first;
    }
    close_fixture(fixture);
}

/* What a far end has said when the VM is told to stand still gets there first: it is in the snapshot. */
static void test_a_pause_comes_behind_what_was_said(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    const uint32_t id = fixture->first;
    struct protocol_frame frame = {0};
    write_exec(fixture, id, "echo", "five");
    say(fixture);
    while (frame.type != PROTOCOL_ENDED) {
        assert_true(hear(fixture, &frame));
    }
    vm_lock(fixture->vm); /* nobody hears it now */
    write_ack(fixture, id, PROTOCOL_STDOUT, 5);
    say(fixture);
    vm_unlock(fixture->vm);
    OK(kelpie_vm_pause(fixture->vm, NULL));
    vm_lock(fixture->vm);
    const struct kelpie_exec *exec = vm_session_find(fixture->vm, id);
    assert_non_null(exec);
    assert_int_equal(vm_session_offsets(exec).stdout_offset, 5);
    vm_unlock(fixture->vm);
    close_fixture(fixture);
}

/* What the machine said before it ended still comes; then the far end sees the end. */
static void test_the_machine_ends(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_error err = {0};
    start_cat(fixture, fixture->first);
    OK(kelpie_mock_crash(fixture->vm, NULL));
    struct protocol_frame frame;
    while (hear(fixture, &frame)) {
    }
    assert_true(vm_relay_has_ended(fixture->relay));
    assert_int_equal(vm_relay_session_count(fixture->relay), 0);
    int fds[2];
    const struct vm_relay_options options = {.ids_first = vm_relay_ids(fixture->vm),
                                             .ids_count = VM_RELAY_IDS_COUNT};
    struct vm_relay *relay = NULL;
    OK(host_socket_pair(fixture->vm->host, fds, NULL));
    assert_int_equal(vm_relay_open(fixture->vm, fds[0], &options, &relay, &err),
                     KELPIE_WRONG_STATE);
    host_close(fixture->vm->host, fds[1]);
    close_fixture(fixture);
}

/* A far end that says its last words and goes, and an owner that closes the relay at once. */
static void test_last_words_are_passed_on(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (size_t i = 0; i < 20; i++) {
        start_cat(fixture, fixture->first);
        write_data(fixture, fixture->first, 0, 5);
        protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, fixture->first);
        say(fixture);
        host_close(fixture->vm->host, fixture->fd);
        vm_relay_close(fixture->relay);
        open_relay(fixture);
    }
    size_t count = 1;
    OK(kelpie_exec_list(fixture->vm, NULL, 0, &count, NULL));
    assert_int_equal(count, 0);
    close_fixture(fixture);
}

/* ---- Who holds what ----------------------------------------------------------------------------- */

static void test_a_session_has_one_reader(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *local = NULL;
    struct kelpie_error err = {0};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(fixture->vm, &command, &local, NULL));
    uint32_t id = kelpie_exec_id(local);
    write_attach(fixture, id);
    write_attach(fixture, id + 1);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), EBUSY);
    assert_int_equal(attached_error(fixture, id + 1), ENOENT);
    kelpie_exec_detach(local);
    write_attach(fixture, id);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), 0);
    write_attach(fixture, id); /* its own */
    say(fixture);
    struct protocol_frame frame;
    do {
        assert_true(hear(fixture, &frame));
    } while (frame.type != PROTOCOL_ATTACHED);
    assert_int_equal(kelpie_exec_attach(fixture->vm, id, &local, &err), KELPIE_BUSY);
    protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
    protocol_encode_empty(&fixture->writer, PROTOCOL_LIST, 0);
    say(fixture);
    expect(fixture, PROTOCOL_SESSIONS, 0);
    OK(kelpie_exec_attach(fixture->vm, id, &local, NULL));
    kelpie_exec_close(local);
    close_fixture(fixture);
}

/* Two far ends, each of which wants what the other has, and neither of which lets go: both are refused in a while. */
static void test_two_that_want_each_others_sessions(void **state) {
    (void)state;
    struct fixture *a = open_fixture();
    struct fixture second = *a;
    struct fixture *b = &second;
    b->said = malloc(SAID_SIZE);
    b->heard = malloc(PROTOCOL_FRAME_SIZE_MAX);
    assert_true(b->said && b->heard);
    open_relay(b);
    for (uint32_t round = 0; round < 2; round++) {
        const uint32_t of_a = a->first + round;
        const uint32_t of_b = b->first + round;
        start_cat(a, of_a);
        start_cat(b, of_b);
        write_attach(a, of_b);
        write_attach(b, of_a);
        if (round == 1) { /* and both let go, but behind it */
            protocol_encode_empty(&a->writer, PROTOCOL_DETACH, of_a);
            protocol_encode_empty(&b->writer, PROTOCOL_DETACH, of_b);
        }
        say(a);
        say(b);
        uint32_t first = attached_error(a, of_b);
        uint32_t other = attached_error(b, of_a);
        assert_true(first == EBUSY || other == EBUSY);
        assert_true(round == 1 || (first == EBUSY && other == EBUSY));
    }
    close_relay(b);
    free(b->said);
    free(b->heard);
    close_fixture(a);
}

static void test_sessions_are_counted_together(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (uint32_t i = 0; i < KELPIE_EXEC_COUNT_MAX; i++) {
        write_exec(fixture, fixture->first + i, "cat", NULL);
        if (i % 64 == 63) {
            say(fixture);
        }
    }
    for (uint32_t i = 0; i < KELPIE_EXEC_COUNT_MAX; i++) {
        struct protocol_frame started;
        assert_true(hear(fixture, &started));
        assert_int_equal(started.type, PROTOCOL_STARTED);
    }
    struct kelpie_exec *local = NULL;
    const struct kelpie_command command = {.argv = ARGV("true")};
    assert_int_equal(kelpie_exec_start(fixture->vm, &command, &local, NULL), KELPIE_BUSY);
    write_exec(fixture, fixture->first + KELPIE_EXEC_COUNT_MAX, "cat", NULL);
    say(fixture);
    struct protocol_frame frame =
        expect(fixture, PROTOCOL_ENDED, fixture->first + KELPIE_EXEC_COUNT_MAX);
    struct protocol_ended ended;
    assert_true(protocol_decode_ended(&frame, &ended));
    assert_int_equal(ended.end, PROTOCOL_END_FAILED);
    assert_int_equal(ended.value, EAGAIN);
    close_fixture(fixture);
}

/* Files that a far end was sending are given up with it; commands are not. */
static void test_what_a_far_end_leaves(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    const uint32_t first = fixture->first;
    const struct protocol_file_put put = {.path = "/tmp/a", .mode = 0644, .size = 10};
    start_cat(fixture, first);
    protocol_encode_file_put(&fixture->writer, first + 1, &put);
    say(fixture);
    expect(fixture, PROTOCOL_STARTED, first + 1);
    assert_int_equal(vm_relay_session_count(fixture->relay), 2);
    close_relay(fixture);
    open_relay(fixture);
    assert_int_not_equal(fixture->first, first);
    uint32_t ids[4];
    size_t count = 0;
    OK(kelpie_exec_list(fixture->vm, ids, ARRAY_SIZE(ids), &count, NULL));
    assert_int_equal(count, 1);
    assert_int_equal(ids[0], first);
    struct kelpie_exec *local = NULL;
    OK(kelpie_exec_attach(fixture->vm, first, &local, NULL));
    kelpie_exec_close(local);
    close_fixture(fixture);
}

/* The oldest ended sessions that nobody holds go when there is little room, and no other does. */
static void test_ended_sessions_are_forgotten(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *held = NULL;
    const struct kelpie_command command = {.argv = ARGV("true")};
    OK(kelpie_exec_start(fixture->vm, &command, &held, NULL)); /* ended first, and held */
    uint32_t running = fixture->first;
    start_cat(fixture, running); /* the oldest, but it runs */
    uint32_t ids[400];
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        if (i % 40 == 0) { /* another client that is killed */
            close_relay(fixture);
            open_relay(fixture);
        }
        ids[i] = fixture->first + (uint32_t)(i % 40);
        write_exec(fixture, ids[i], "true", NULL);
        say(fixture);
        struct protocol_frame frame;
        do {
            assert_true(hear(fixture, &frame));
            struct protocol_ended ended;
            if (frame.type == PROTOCOL_ENDED) {
                assert_true(protocol_decode_ended(&frame, &ended));
                assert_int_equal(ended.end, PROTOCOL_END_EXITED);
            }
        } while (frame.type != PROTOCOL_ENDED);
    }
    size_t count = 0;
    uint32_t left[PROTOCOL_SESSION_COUNT_MAX];
    OK(kelpie_exec_list(fixture->vm, left, ARRAY_SIZE(left), &count, NULL));
    bool held_is_there = false;
    for (size_t i = 0; i < count; i++) {
        held_is_there |= left[i] == kelpie_exec_id(held);
    }
    assert_true(held_is_there);
    assert_true(count <= VM_GUEST_SESSION_KEEP_MAX);
    assert_true(count >= VM_GUEST_SESSION_KEEP_MAX - 1);
    struct kelpie_exec *exec = NULL;
    assert_int_equal(kelpie_exec_attach(fixture->vm, ids[0], &exec, NULL), KELPIE_NOT_FOUND);
    OK(kelpie_exec_attach(fixture->vm, ids[359], &exec, NULL));
    kelpie_exec_close(exec);
    OK(kelpie_exec_attach(fixture->vm, running, &exec, NULL));
    kelpie_exec_close(exec);
    struct kelpie_exit exit;
    OK(kelpie_exec_wait(held, WAIT_MS, &exit, NULL));
    kelpie_exec_close(held);
    close_fixture(fixture);
}

static void test_blocks_of_numbers(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    uint32_t a = vm_relay_ids(fixture->vm);
    uint32_t b = vm_relay_ids(fixture->vm);
    assert_int_not_equal(a, fixture->first);
    assert_int_not_equal(a, b);
    assert_int_equal(a % VM_RELAY_IDS_COUNT, 0);
    vm_lock(fixture->vm);
    fixture->vm->relay_block_last = fixture->first / VM_RELAY_IDS_COUNT - 1;
    vm_guest_session_opened(fixture->vm, a + 77); /* a leftover */
    vm_unlock(fixture->vm);
    assert_int_equal(vm_relay_ids(fixture->vm), b); /* the relay's own, and a, are taken */
    vm_lock(fixture->vm);
    fixture->vm->relay_block_last = UINT32_MAX / VM_RELAY_IDS_COUNT - 1;
    vm_unlock(fixture->vm);
    assert_int_equal(vm_relay_ids(fixture->vm), b); /* around the end, where 0 is not a block */
    close_fixture(fixture);
}

/* A number may come again when half the block has been used since. */
static void test_numbers_come_around(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    const uint32_t steps[] = {VM_RELAY_IDS_COUNT / 2 - 1, VM_RELAY_IDS_COUNT - 1, 0,
                              VM_RELAY_IDS_COUNT / 2};
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        uint32_t id = fixture->first + steps[i];
        start_cat(fixture, id);
        protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, id);
        say(fixture);
    }
    protocol_encode_empty(&fixture->writer, PROTOCOL_LIST, 0);
    say(fixture);
    expect(fixture, PROTOCOL_SESSIONS, 0);
    close_fixture(fixture);
}

/* ---- Handles that yield ------------------------------------------------------------------------- */

static void read_text(struct kelpie_exec *exec, const char *expected) {
    char text[64];
    size_t used = 0;
    while (used < strlen(expected)) {
        struct kelpie_chunk chunk = {.buffer = text + used, .size = sizeof(text) - used};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, NULL));
        assert_int_not_equal(chunk.stream, KELPIE_STREAM_NONE);
        used += chunk.size;
    }
    assert_int_equal(used, strlen(expected));
    assert_memory_equal(text, expected, used);
}

static struct kelpie_exec *start_yielding(struct fixture *fixture) {
    struct kelpie_exec *exec = NULL;
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    size_t written = 0;
    OK(kelpie_exec_start(fixture->vm, &command, &exec, NULL));
    vm_relay_yield(exec);
    OK(kelpie_exec_write(exec, "abc", 3, &written, NULL));
    read_text(exec, "abc");
    return exec;
}

static void test_a_handle_that_yields(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_yielding(fixture);
    uint32_t id = kelpie_exec_id(exec);
    for (uint64_t turn = 0; turn < 3; turn++) {
        write_attach(fixture, id);
        say(fixture);
        struct protocol_frame frame = expect(fixture, PROTOCOL_ATTACHED, id);
        struct protocol_attached attached;
        assert_true(protocol_decode_attached(&frame, &attached));
        assert_int_equal(attached.os_error, 0);
        assert_int_equal(attached.stdout_offset, 3 + turn * 6);
        write_data(fixture, id, attached.stdin_offset, 5);
        say(fixture);
        struct protocol_data data = {0};
        do {
            assert_true(hear(fixture, &frame));
        } while (frame.type != PROTOCOL_DATA);
        assert_true(protocol_decode_data(&frame, &data));
        assert_int_equal(data.offset, 3 + turn * 6);
        assert_memory_equal(data.bytes, "input", 5);
        char byte;
        struct kelpie_chunk chunk = {.buffer = &byte, .size = 1};
        assert_int_equal(kelpie_exec_read(exec, &chunk, 20, NULL), KELPIE_TIMED_OUT);
        write_ack(fixture, id, PROTOCOL_STDOUT, 8 + turn * 6);
        if (turn == 1) {
            say(fixture);
            close_relay(fixture); /* the client is killed instead */
            open_relay(fixture);
        } else {
            protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
            say(fixture);
        }
        size_t written = 0;
        char text[2] = {(char)('0' + turn), 0};
        enum kelpie_status status = KELPIE_EXEC_FAILED;
        for (size_t i = 0; status != KELPIE_OK && i < 1000; i++) { /* until it has it back */
            vm_lock(fixture->vm);
            bool back = !exec->yielded && !exec->attach_wanted && !exec->attaching;
            vm_unlock(fixture->vm);
            status = back ? kelpie_exec_write(exec, text, 1, &written, NULL) : status;
            usleep(status == KELPIE_OK ? 0 : 1000);
        }
        OK(status);
        read_text(exec, text);
    }
    kelpie_exec_close(exec);
    close_fixture(fixture);
}

/* The end is heard while the far end has the session; and a far end that releases it kills, no more. */
static void test_a_handle_that_yielded_hears_the_end(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (int turn = 0; turn < 2; turn++) {
        struct kelpie_exec *exec = start_yielding(fixture);
        uint32_t id = kelpie_exec_id(exec);
        struct kelpie_exit exit;
        write_attach(fixture, id);
        say(fixture);
        struct protocol_frame frame = expect(fixture, PROTOCOL_ATTACHED, id);
        struct protocol_attached attached;
        assert_true(protocol_decode_attached(&frame, &attached));
        if (turn == 0) {
            const struct protocol_data end = {.stream = PROTOCOL_STDIN,
                                              .offset = attached.stdin_offset,
                                              .flags = PROTOCOL_DATA_END};
            protocol_encode_data(&fixture->writer, id, &end);
        } else {
            protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, id);
        }
        say(fixture);
        OK(kelpie_exec_wait(exec, WAIT_MS, &exit, NULL));
        assert_int_equal(exit.signal, turn == 0 ? 0 : 9);
        if (turn == 0) {
            do {
                assert_true(hear(fixture, &frame));
            } while (frame.type != PROTOCOL_ENDED);
            protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, id);
            say(fixture);
        }
        kelpie_exec_close(exec);
    }
    expect_vm_works(fixture->vm);
    close_fixture(fixture);
}

/* Who has the session keeps it as long as it wants, and then nobody gets it any more. */
static void test_a_handle_that_is_reclaimed(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_yielding(fixture);
    uint32_t id = kelpie_exec_id(exec);
    write_attach(fixture, id);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), 0);
    uint64_t before_ns = host_monotonic_ns(fixture->vm->host);
    assert_false(vm_relay_reclaim(exec, 20));
    assert_true(host_monotonic_ns(fixture->vm->host) - before_ns >= 20 * HOST_NS_PER_MS);
    protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
    say(fixture);
    assert_true(vm_relay_reclaim(exec, WAIT_MS));
    write_attach(fixture, id);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), EBUSY);
    assert_true(vm_relay_reclaim(exec, 0));
    kelpie_exec_close(exec);
    expect_vm_works(fixture->vm);
    close_fixture(fixture);
}

/* The machine's end is an end of the wait, too. */
static void test_a_handle_is_reclaimed_of_a_machine_that_ends(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_yielding(fixture);
    write_attach(fixture, kelpie_exec_id(exec));
    say(fixture);
    assert_int_equal(attached_error(fixture, kelpie_exec_id(exec)), 0);
    OK(kelpie_vm_stop(fixture->vm, 0, NULL));
    (void)vm_relay_reclaim(exec, UINT32_MAX);
    kelpie_exec_close(exec);
    close_fixture(fixture);
}

/* A handle that is closed while a far end has its session leaves it to that one. */
static void test_a_handle_that_yielded_is_closed(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_yielding(fixture);
    uint32_t id = kelpie_exec_id(exec);
    write_attach(fixture, id);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), 0);
    kelpie_exec_close(exec);
    write_data(fixture, id, 3, 5);
    say(fixture);
    struct protocol_frame frame;
    do {
        assert_true(hear(fixture, &frame));
    } while (frame.type != PROTOCOL_DATA);
    protocol_encode_empty(&fixture->writer, PROTOCOL_RELEASE, id);
    protocol_encode_empty(&fixture->writer, PROTOCOL_LIST, 0);
    say(fixture);
    do {
        assert_true(hear(fixture, &frame));
    } while (frame.type != PROTOCOL_SESSIONS);
    struct protocol_sessions sessions;
    assert_true(protocol_decode_sessions(&frame, &sessions));
    assert_int_equal(sessions.count, 0);
    close_fixture(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_d1_a_far_end_that_does_not_read),
        cmocka_unit_test(test_a_pause_holds_what_the_far_end_says),
        cmocka_unit_test(test_a_pause_comes_behind_what_was_said),
        cmocka_unit_test(test_the_machine_ends),
        cmocka_unit_test(test_last_words_are_passed_on),
        cmocka_unit_test(test_a_session_has_one_reader),
        cmocka_unit_test(test_two_that_want_each_others_sessions),
        cmocka_unit_test(test_sessions_are_counted_together),
        cmocka_unit_test(test_what_a_far_end_leaves),
        cmocka_unit_test(test_ended_sessions_are_forgotten),
        cmocka_unit_test(test_blocks_of_numbers),
        cmocka_unit_test(test_numbers_come_around),
        cmocka_unit_test(test_a_handle_that_yields),
        cmocka_unit_test(test_a_handle_that_yielded_hears_the_end),
        cmocka_unit_test(test_a_handle_that_is_reclaimed),
        cmocka_unit_test(test_a_handle_is_reclaimed_of_a_machine_that_ends),
        cmocka_unit_test(test_a_handle_that_yielded_is_closed),
    };
    return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
