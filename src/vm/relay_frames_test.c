/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One frame at a time through a relay, with the VM locked: what a far end or a guest may say in which state of a session, and a
 * far end that reads so little that there is no room for its answers. */
#include "support/relay_harness.h"

#define PAYLOAD_SIZE 256

/* A frame, made by an encoder or by hand. */
struct made {
    uint8_t bytes[PAYLOAD_SIZE];
    struct cursor_writer writer;
};

static struct cursor_writer *begin(struct made *made) {
    made->writer = cursor_writer_init(made->bytes, sizeof(made->bytes));
    return &made->writer;
}

static struct protocol_frame frame_of(const struct made *made, enum protocol_type type,
                                      uint32_t session) {
    assert_false(made->writer.failed);
    return (struct protocol_frame){.type = type,
                                   .session = session,
                                   .payload = made->bytes + PROTOCOL_HEADER_SIZE,
                                   .payload_size = made->writer.size - PROTOCOL_HEADER_SIZE};
}

/* What a decoder takes for no such message: one byte. */
static struct protocol_frame spoilt(enum protocol_type type, uint32_t session) {
    static const uint8_t byte = 0xff;
    return (struct protocol_frame){
        .type = type, .session = session, .payload = &byte, .payload_size = 1};
}

/* What the relay makes of a frame of its far end now. VM locked. */
static enum relay_step pass(struct fixture *fixture, struct protocol_frame frame) {
    struct vm_relay *relay = fixture->relay;
    assert_false(relay->has_frame);
    relay->has_frame = true;
    relay->frame = frame;
    enum relay_step step = relay_pass(relay);
    relay->has_frame = false;
    return step;
}

static struct protocol_frame attach_frame(struct made *made, uint32_t id, bool acknowledged) {
    const struct protocol_attach attach = {.from_acknowledged = acknowledged};
    protocol_encode_attach(begin(made), id, &attach);
    return frame_of(made, PROTOCOL_ATTACH, id);
}

/* ---- The far end ------------------------------------------------------------------------------ */

static void hazard_d1_frames_of_a_far_end_that_are_none(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    const uint32_t id = fixture->first;
    static const enum protocol_type types[] = {
        PROTOCOL_ATTACH, PROTOCOL_DETACH, PROTOCOL_RELEASE, PROTOCOL_DATA,     PROTOCOL_ACK,
        PROTOCOL_SIGNAL, PROTOCOL_RESIZE, PROTOCOL_EXEC,    PROTOCOL_FILE_PUT, PROTOCOL_FILE_GET,
    };
    start_cat(fixture, id);
    vm_lock(fixture->vm);
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        assert_int_equal(pass(fixture, spoilt(types[i], id)), RELAY_BROKEN);
    }
    assert_int_equal(pass(fixture, spoilt(PROTOCOL_PING, 0)), RELAY_BROKEN);
    assert_int_equal(pass(fixture, spoilt(PROTOCOL_LIST, 0)), RELAY_BROKEN);
    struct made made;
    const struct protocol_ack closed = {.stream = PROTOCOL_STDOUT, .flags = PROTOCOL_ACK_CLOSED};
    protocol_encode_ack(begin(&made), id, &closed);
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_ACK, id)), RELAY_BROKEN);
    vm_unlock(fixture->vm);
    expect_vm_works(fixture->vm);
    close_fixture(fixture);
}

static void test_a_number_that_the_guest_still_knows(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct protocol_ended ended;
    vm_lock(fixture->vm);
    vm_guest_session_opened(fixture->vm, fixture->first);
    vm_guest_session_opened(fixture->vm, fixture->first); /* it is the same one */
    assert_true(vm_guest_session_is_known(fixture->vm, fixture->first));
    vm_unlock(fixture->vm);
    write_exec(fixture, fixture->first, "true", NULL);
    write_exec(fixture, fixture->first + 1, "true", NULL);
    say(fixture);
    struct protocol_frame frame = expect(fixture, PROTOCOL_ENDED, fixture->first);
    assert_true(protocol_decode_ended(&frame, &ended));
    assert_int_equal(ended.end, PROTOCOL_END_FAILED);
    assert_int_equal(ended.value, EAGAIN);
    expect(fixture, PROTOCOL_STARTED, fixture->first + 1);
    close_fixture(fixture);
}

/* The channel has no room: the far end waits, and nothing of what it said is lost. */
static void test_a_far_end_waits_for_room(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct made made;
    struct vm_channel *channel = &fixture->vm->channel;
    vm_lock(fixture->vm);
    const size_t start = channel->out_start;
    const size_t end = channel->out_end;
    channel->out_start = 0;
    channel->out_end = VM_OUT_CAPACITY;
    protocol_encode_ping(begin(&made), PROTOCOL_PING, &(struct protocol_ping){.token = 1});
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_PING, 0)), RELAY_WAITS);
    channel->held = true;
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_PING, 0)), RELAY_WAITS);
    channel->held = false;
    channel->out_start = start;
    channel->out_end = end;
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_PING, 0)), RELAY_PASSED);
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_PING, 0)), RELAY_WAITS); /* one each */
    vm_unlock(fixture->vm);
    expect(fixture, PROTOCOL_PONG, 0);
    close_fixture(fixture);
}

/* ---- Taking a session from a handle ------------------------------------------------------------ */

static void test_when_a_handle_yields(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *local = NULL;
    struct made made;
    size_t written = 0;
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(fixture->vm, &command, &local, NULL));
    const uint32_t id = kelpie_exec_id(local);
    vm_lock(fixture->vm);
    assert_int_equal(pass(fixture, attach_frame(&made, id, true)), RELAY_PASSED);
    vm_unlock(fixture->vm);
    assert_int_equal(attached_error(fixture, id), EBUSY); /* a handle as others */
    vm_lock(fixture->vm);
    fixture->vm->channel.held = true;
    vm_unlock(fixture->vm);
    OK(kelpie_exec_write(local, "mine", 4, &written, NULL));
    vm_lock(fixture->vm);
    fixture->vm->channel.held = false;
    local->yields = true;
    assert_int_equal(pass(fixture, attach_frame(&made, id, true)), RELAY_PASSED);
    vm_channel_flush(fixture->vm);
    vm_unlock(fixture->vm);
    assert_int_equal(attached_error(fixture, id), EBUSY); /* it has something to say */
    char text[8];
    struct kelpie_chunk chunk = {.buffer = text, .size = sizeof(text)};
    OK(kelpie_exec_read(local, &chunk, WAIT_MS, NULL));
    assert_int_equal(chunk.size, 4);
    vm_lock(fixture->vm);
    local->attaching = true; /* it is not yet told that it has the session back */
    assert_int_equal(pass(fixture, attach_frame(&made, id, true)), RELAY_WAITS);
    local->attaching = false;
    local->started = false; /* nobody knows yet whether there is a command */
    assert_int_equal(pass(fixture, attach_frame(&made, id, true)), RELAY_PASSED);
    local->started = true;
    assert_false(local->yielded);
    vm_unlock(fixture->vm);
    assert_int_equal(attached_error(fixture, id), EBUSY);
    vm_lock(fixture->vm);
    assert_int_equal(pass(fixture, attach_frame(&made, id, false)), RELAY_PASSED);
    assert_true(local->yielded);
    vm_unlock(fixture->vm);
    assert_int_equal(attached_error(fixture, id), 0);
    write_data(fixture, id, 4, 5);
    say(fixture);
    struct protocol_frame frame;
    assert_true(hear(fixture, &frame));
    assert_int_equal(frame.session, id); /* the guest's words are the far end's now */
    close_relay(fixture);
    kelpie_exec_close(local);
    expect_vm_works(fixture->vm);
    open_relay(fixture);
    close_fixture(fixture);
}

/* ---- No room for answers ------------------------------------------------------------------------ */

/* As if the far end had read nothing for long. VM locked. */
static void fill(struct vm_relay *relay) {
    uint8_t *out = calloc(1, VM_RELAY_OUT_SIZE_MAX);
    assert_non_null(out);
    free(relay->out);
    relay->out = out;
    relay->out_capacity = VM_RELAY_OUT_SIZE_MAX;
    relay->out_start = 0;
    relay->out_end = VM_RELAY_OUT_SIZE_MAX - 1;
}

static void answer_of_ping(struct fixture *fixture) {
    fixture->relay->ping_mine = ++fixture->vm->channel.ping_token;
    fixture->vm->channel.answers.pong_token = fixture->relay->ping_mine;
    vm_relays_answer(fixture->vm);
}

static void answer_of_list(struct fixture *fixture) {
    fixture->relay->list_mine = ++fixture->vm->channel.list_count;
    fixture->vm->channel.answers.sessions_count = fixture->relay->list_mine;
    vm_relays_answer(fixture->vm);
}

static void word_of_a_session(struct fixture *fixture) {
    struct made made;
    struct kelpie_exec *exec = vm_session_find(fixture->vm, fixture->first);
    const struct protocol_data data = {.stream = PROTOCOL_STDOUT, .bytes = made.bytes, .size = 1};
    protocol_encode_data(begin(&made), fixture->first, &data);
    const struct protocol_frame frame = frame_of(&made, PROTOCOL_DATA, fixture->first);
    vm_relay_hear(exec, &frame);
}

static void refused_opening(struct fixture *fixture) {
    const struct protocol_file_get get = {.path = "/etc/hostname"};
    struct made made;
    vm_guest_session_opened(fixture->vm, fixture->first + 1);
    protocol_encode_file_get(begin(&made), fixture->first + 1, &get);
    assert_int_equal(pass(fixture, frame_of(&made, PROTOCOL_FILE_GET, fixture->first + 1)),
                     RELAY_PASSED);
    vm_guest_session_released(fixture->vm, fixture->first + 1);
}

static void refused_attach(struct fixture *fixture) {
    struct made made;
    assert_int_equal(pass(fixture, attach_frame(&made, fixture->first, true)), RELAY_PASSED);
}

/* It cannot be told, and so it is given up: nothing that it holds is anybody else's loss. */
static void hazard_d1_a_far_end_that_reads_nothing(void **state) {
    (void)state;
    static void (*const words[])(struct fixture *) = {
        answer_of_ping, answer_of_list, word_of_a_session, refused_opening, refused_attach,
    };
    struct fixture *fixture = open_fixture();
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        start_cat(fixture, fixture->first);
        vm_lock(fixture->vm);
        fill(fixture->relay);
        words[i](fixture);
        assert_true(fixture->relay->ended);
        vm_unlock(fixture->vm);
        assert_true(vm_relay_has_ended(fixture->relay));
        assert_int_equal(vm_relay_session_count(fixture->relay), 0);
        close_relay(fixture);
        expect_vm_works(fixture->vm);
        open_relay(fixture);
    }
    close_fixture(fixture);
}

/* ---- The guest ---------------------------------------------------------------------------------- */

struct guest_case {
    const char *name;
    bool not_started;
    enum protocol_type type; /* spoilt, without an encoder */
    void (*encode)(struct cursor_writer *writer, uint32_t id);
};

static void encode_stdin(struct cursor_writer *writer, uint32_t id) {
    static const uint8_t byte = 'x';
    const struct protocol_data data = {.stream = PROTOCOL_STDIN, .bytes = &byte, .size = 1};
    protocol_encode_data(writer, id, &data);
}

static void encode_stdout(struct cursor_writer *writer, uint32_t id) {
    static const uint8_t byte = 'x';
    const struct protocol_data data = {.stream = PROTOCOL_STDOUT, .bytes = &byte, .size = 1};
    protocol_encode_data(writer, id, &data);
}

static void encode_ack_of_output(struct cursor_writer *writer, uint32_t id) {
    protocol_encode_ack(writer, id, &(struct protocol_ack){.stream = PROTOCOL_STDERR});
}

static void encode_ack(struct cursor_writer *writer, uint32_t id) {
    protocol_encode_ack(writer, id, &(struct protocol_ack){.stream = PROTOCOL_STDIN});
}

static void encode_attached(struct cursor_writer *writer, uint32_t id) {
    protocol_encode_attached(writer, id, &(struct protocol_attached){.os_error = ENOENT});
}

static void encode_started(struct cursor_writer *writer, uint32_t id) {
    protocol_encode_started(writer, id, &(struct protocol_started){0});
}

static const struct guest_case guest_cases[] = {
    {"a spoilt STARTED", true, PROTOCOL_STARTED, NULL},
    {"STARTED twice", false, PROTOCOL_STARTED, encode_started},
    {"a spoilt DATA", false, PROTOCOL_DATA, NULL},
    {"DATA on stdin", false, PROTOCOL_DATA, encode_stdin},
    {"DATA before the start", true, PROTOCOL_DATA, encode_stdout},
    {"a spoilt ACK", false, PROTOCOL_ACK, NULL},
    {"an ACK of its own output", false, PROTOCOL_ACK, encode_ack_of_output},
    {"an ACK before the start", true, PROTOCOL_ACK, encode_ack},
    {"an ACK that goes back", false, PROTOCOL_ACK, encode_ack},
    {"ATTACHED unasked", false, PROTOCOL_ATTACHED, encode_attached},
    {"a spoilt ENDED", false, PROTOCOL_ENDED, NULL},
};

static void hazard_d1_a_guest_that_breaks_the_protocol_to_a_relay(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (size_t i = 0; i < ARRAY_SIZE(guest_cases); i++) {
        const struct guest_case *guest = &guest_cases[i];
        const uint32_t id = fixture->first;
        struct made made;
        start_cat(fixture, id);
        write_data(fixture, id, 0, 5);
        say(fixture);
        struct protocol_frame frame;
        bool acked = false;
        while (!acked) { /* the guest has taken it */
            assert_true(hear(fixture, &frame));
            acked = frame.type == PROTOCOL_DATA;
        }
        vm_lock(fixture->vm);
        struct kelpie_exec *exec = vm_session_find(fixture->vm, id);
        exec->input_said.acked = 5;
        exec->started = !guest->not_started;
        frame = spoilt(guest->type, id);
        if (guest->encode) {
            guest->encode(begin(&made), id);
            frame = frame_of(&made, guest->type, id);
        }
        vm_relay_hear(exec, &frame);
        bool ended = fixture->relay->ended;
        vm_unlock(fixture->vm);
        if (!ended) {
            fail_msg("the relay goes on after %s", guest->name);
        }
        close_relay(fixture);
        expect_vm_works(fixture->vm);
        open_relay(fixture);
    }
    close_fixture(fixture);
}

/* A guest whose command closed its stdin says so with whichever offset. */
static void test_an_ack_that_closes(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct made made;
    start_cat(fixture, fixture->first);
    vm_lock(fixture->vm);
    struct kelpie_exec *exec = vm_session_find(fixture->vm, fixture->first);
    const struct protocol_ack closed = {
        .stream = PROTOCOL_STDIN, .offset = 7, .flags = PROTOCOL_ACK_CLOSED};
    protocol_encode_ack(begin(&made), fixture->first, &closed);
    const struct protocol_frame frame = frame_of(&made, PROTOCOL_ACK, fixture->first);
    vm_relay_hear(exec, &frame);
    assert_false(fixture->relay->ended);
    vm_unlock(fixture->vm);
    expect(fixture, PROTOCOL_ACK, fixture->first);
    close_fixture(fixture);
}

static void test_a_vm_that_runs_has_no_last_words(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    char text[64] = "untouched";
    vm_relay_exit_text(fixture->vm, text, sizeof(text));
    assert_string_equal(text, "");
    OK(kelpie_mock_crash(fixture->vm, NULL));
    struct protocol_frame frame;
    while (hear(fixture, &frame)) { /* its far end hears the end */
    }
    assert_true(vm_relay_has_ended(fixture->relay));
    for (size_t i = 0; kelpie_vm_state(fixture->vm) != KELPIE_STATE_CRASHED; i++) {
        assert_true(i < WAIT_MS);
        usleep(1000);
    }
    vm_relay_exit_text(fixture->vm, text, sizeof(text));
    assert_true(strlen(text) > 5);
    close_fixture(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_d1_frames_of_a_far_end_that_are_none),
        cmocka_unit_test(test_a_number_that_the_guest_still_knows),
        cmocka_unit_test(test_a_far_end_waits_for_room),
        cmocka_unit_test(test_when_a_handle_yields),
        cmocka_unit_test(hazard_d1_a_far_end_that_reads_nothing),
        cmocka_unit_test(hazard_d1_a_guest_that_breaks_the_protocol_to_a_relay),
        cmocka_unit_test(test_an_ack_that_closes),
        cmocka_unit_test(test_a_vm_that_runs_has_no_last_words),
    };
    return cmocka_run_group_tests_name("relay frames", tests, NULL, NULL);
}
