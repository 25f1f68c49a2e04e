/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Far ends that go, or let go, at the worst moment; and relays for which the host has nothing left. */
#include "support/fault_host.h"
#include "support/relay_harness.h"

static struct kelpie_exec *start_local(struct fixture *fixture) {
    struct kelpie_exec *exec = NULL;
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(fixture->vm, &command, &exec, NULL));
    return exec;
}

/* What was written comes back, and nothing before it. */
static void expect_next(struct kelpie_exec *exec, const char *text) {
    char buffer[64];
    size_t used = 0;
    size_t written = 0;
    OK(kelpie_exec_write(exec, text, strlen(text), &written, NULL));
    while (used < strlen(text)) {
        struct kelpie_chunk chunk = {.buffer = buffer + used, .size = sizeof(buffer) - used};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, NULL));
        used += chunk.size;
    }
    assert_int_equal(used, strlen(text));
    assert_memory_equal(buffer, text, used);
}

static void await_end(struct fixture *fixture) {
    for (int i = 0; i < WAIT_MS && !vm_relay_has_ended(fixture->relay); i++) {
        usleep(1000);
    }
    assert_true(vm_relay_has_ended(fixture->relay));
}

/* It goes with data unread, having just said ACK and DETACH; that it hears nothing more is seen before they are read. */
static void hazard_c6_last_words_of_who_no_longer_listens(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    const uint32_t id = fixture->first;
    struct protocol_frame frame = {0};
    start_cat(fixture, id);
    write_data(fixture, id, 0, 5);
    say(fixture);
    while (frame.type != PROTOCOL_DATA) {
        assert_true(hear(fixture, &frame));
    }
    vm_lock(fixture->vm);
    write_ack(fixture, id, PROTOCOL_STDOUT, 5);
    protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
    say(fixture);
    host_close(fixture->vm->host, fixture->fd);
    const struct protocol_ping pong = {.token = 1};
    struct cursor_writer writer = relay_writer(fixture->relay, 2 * PROTOCOL_HEADER_SIZE);
    assert_false(writer.failed);
    protocol_encode_ping(&writer, PROTOCOL_PONG, &pong);
    relay_commit(fixture->relay, &writer);
    assert_true(fixture->relay->deaf);
    assert_false(fixture->relay->ended);
    vm_unlock(fixture->vm);
    await_end(fixture);
    struct kelpie_exec *exec = NULL;
    OK(kelpie_exec_attach(fixture->vm, id, &exec, NULL));
    expect_next(exec, "next");
    kelpie_exec_close(exec);
    vm_relay_close(fixture->relay);
    fixture->relay = NULL;
    close_fixture(fixture);
}

/* The answer to an ATTACH that was given up is not that of the next one. */
static void hazard_e4_an_attach_that_is_given_up(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_local(fixture);
    const uint32_t id = kelpie_exec_id(exec);
    expect_next(exec, "one");
    kelpie_exec_detach(exec);
    for (int i = 0; i < 5; i++) {
        write_attach(fixture, id);
        protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
    }
    write_attach(fixture, id);
    say(fixture);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(attached_error(fixture, id), ECANCELED);
    }
    assert_int_equal(attached_error(fixture, id), 0);
    write_data(fixture, id, 3, 5);
    say(fixture);
    struct protocol_frame frame = {0};
    struct protocol_data data;
    while (frame.type != PROTOCOL_DATA) {
        assert_true(hear(fixture, &frame));
    }
    assert_true(protocol_decode_data(&frame, &data));
    assert_int_equal(data.offset, 3);
    expect_vm_works(fixture->vm);
    close_fixture(fixture);
}

static void await_back(struct kelpie_exec *exec) {
    bool back = false;
    for (int i = 0; i < WAIT_MS && !back; i++) {
        vm_lock(exec->vm);
        back = !exec->yielded && !exec->attach_wanted && !exec->attaching;
        vm_unlock(exec->vm);
        usleep(back ? 0 : 1000);
    }
    assert_true(back);
}

/* A handle that yielded has its session back before the guest has answered who took it: by a word, or by an end. */
static void hazard_e4_a_session_comes_back_at_once(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct kelpie_exec *exec = start_local(fixture);
    const uint32_t id = kelpie_exec_id(exec);
    vm_relay_yield(exec);
    expect_next(exec, "one");
    for (int i = 0; i < 10; i++) {
        write_attach(fixture, id);
        if (i % 2 == 0) {
            protocol_encode_empty(&fixture->writer, PROTOCOL_DETACH, id);
        } else { /* nobody may say that */
            protocol_encode_empty(&fixture->writer, PROTOCOL_POWER_OFF, 0);
        }
        say(fixture);
        if (i % 2 == 0) {
            assert_int_equal(attached_error(fixture, id), ECANCELED);
        } else {
            await_end(fixture);
            close_relay(fixture);
            open_relay(fixture);
        }
        await_back(exec);
        expect_next(exec, "more");
    }
    expect_vm_works(fixture->vm);
    kelpie_exec_close(exec);
    close_fixture(fixture);
}

/* ---- A host with nothing left ------------------------------------------------------------------- */

static struct host *real;
static struct host *faulty;

static struct fixture *open_faulty(void) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    OK(host_linux_create(&real, NULL));
    OK(fault_host_create(real, &faulty, NULL));
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .host = faulty};
    fixture->said = malloc(SAID_SIZE);
    fixture->heard = malloc(PROTOCOL_FRAME_SIZE_MAX);
    assert_true(fixture->said && fixture->heard);
    OK(kelpie_vm_create(&config, &fixture->vm, NULL));
    OK(kelpie_vm_start(fixture->vm, NULL));
    return fixture;
}

static void close_faulty(struct fixture *fixture) {
    char text[256];
    fault_host_disarm(faulty);
    close_fixture(fixture);
    if (fault_host_leaks(faulty, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
    host_destroy(faulty);
    host_destroy(real);
}

static void test_a_relay_that_cannot_be_opened(void **state) {
    (void)state;
    struct fixture *fixture = open_faulty();
    static const struct fault_plan plans[] = {
        {.nth = 1, .only = "allocate"},     {.nth = 2, .only = "allocate"},
        {.nth = 3, .only = "allocate"},     {.nth = 1, .only = "event_create"},
        {.nth = 1, .only = "thread_start"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
        int fds[2];
        struct vm_relay *relay = NULL;
        struct kelpie_error err = {0};
        const struct vm_relay_options options = {.ids_first = vm_relay_ids(fixture->vm),
                                                 .ids_count = VM_RELAY_IDS_COUNT};
        OK(host_socket_pair(faulty, fds, NULL));
        fault_host_arm(faulty, &plans[i]);
        enum kelpie_status status = vm_relay_open(fixture->vm, fds[0], &options, &relay, &err);
        fault_host_disarm(faulty);
        assert_int_not_equal(status, KELPIE_OK);
        assert_int_equal(err.status, status);
        assert_null(relay);
        assert_int_equal(fixture->vm->relay_count, 0);
        host_close(faulty, fds[1]); /* the other one has been closed */
    }
    expect_vm_works(fixture->vm);
    close_faulty(fixture);
}

static void test_as_many_relays_as_there_may_be(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    size_t before = fixture->vm->relay_count;
    vm_lock(fixture->vm); /* so many that no more fit */
    for (size_t i = before; i < VM_RELAY_COUNT_MAX; i++) {
        fixture->vm->relays[i] = fixture->relay;
    }
    fixture->vm->relay_count = VM_RELAY_COUNT_MAX;
    vm_unlock(fixture->vm);
    int fds[2];
    struct vm_relay *relay = NULL;
    const struct vm_relay_options options = {.ids_first = 1u << 30,
                                             .ids_count = VM_RELAY_IDS_COUNT};
    OK(host_socket_pair(fixture->vm->host, fds, NULL));
    assert_int_equal(vm_relay_open(fixture->vm, fds[0], &options, &relay, NULL), KELPIE_BUSY);
    host_close(fixture->vm->host, fds[1]);
    vm_lock(fixture->vm);
    fixture->vm->relay_count = before;
    vm_unlock(fixture->vm);
    close_fixture(fixture);
}

/* No memory for a session: the far end is told, and is served again later. */
static void test_a_session_for_which_there_is_no_memory(void **state) {
    (void)state;
    struct fixture *fixture = open_faulty();
    struct protocol_ended ended;
    open_relay(fixture);
    struct kelpie_exec *exec = start_local(fixture);
    const uint32_t id = kelpie_exec_id(exec);
    kelpie_exec_detach(exec);
    exec = start_local(fixture);
    vm_relay_yield(exec);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .sticky = true, .only = "allocate"});
    write_exec(fixture, fixture->first, "cat", NULL);
    write_attach(fixture, id);
    write_attach(fixture, kelpie_exec_id(exec));
    say(fixture);
    struct protocol_frame frame = expect(fixture, PROTOCOL_ENDED, fixture->first);
    assert_true(protocol_decode_ended(&frame, &ended));
    assert_int_equal(ended.value, EAGAIN);
    assert_int_equal(attached_error(fixture, id), EAGAIN);
    assert_int_equal(attached_error(fixture, kelpie_exec_id(exec)), EAGAIN);
    fault_host_disarm(faulty);
    await_back(exec);
    expect_next(exec, "still here");
    write_attach(fixture, id);
    say(fixture);
    assert_int_equal(attached_error(fixture, id), 0);
    start_cat(fixture, fixture->first + 1);
    kelpie_exec_close(exec);
    close_faulty(fixture);
}

/* What cannot be queued for it ends a relay and no more. */
static void test_a_queue_for_which_there_is_no_memory(void **state) {
    (void)state;
    struct fixture *fixture = open_faulty();
    open_relay(fixture);
    vm_lock(fixture->vm);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .sticky = true, .only = "allocate"});
    struct cursor_writer writer = relay_writer(fixture->relay, 2 * VM_RELAY_OUT_SIZE_MIN);
    assert_true(writer.failed);
    relay_commit(fixture->relay, &writer); /* nothing */
    fault_host_disarm(faulty);
    vm_unlock(fixture->vm);
    await_end(fixture);
    expect_vm_works(fixture->vm);
    close_faulty(fixture);
}

static void test_a_queue_has_a_limit(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    vm_lock(fixture->vm);
    struct cursor_writer writer = relay_writer(fixture->relay, VM_RELAY_OUT_SIZE_MAX + 1);
    assert_true(writer.failed);
    assert_true(fixture->relay->ended);
    vm_unlock(fixture->vm);
    expect_end(fixture, "too much");
    close_fixture(fixture);
}

/* ---- A guest that breaks the protocol ------------------------------------------------------------- */

enum wrong {
    STARTED_TWICE,
    STARTED_CUT,
    DATA_OF_STDIN,
    DATA_FROM_FAR,
    DATA_CUT,
    ACK_OF_STDOUT,
    ACK_FROM_FAR,
    ACK_CUT,
    ENDED_CUT,
    ATTACHED_UNASKED,
    WRONG_COUNT
};

static void write_wrong(struct cursor_writer *writer, uint32_t id, enum wrong wrong) {
    struct protocol_started started = {0};
    struct protocol_data data = {
        .stream = PROTOCOL_STDOUT, .bytes = (const uint8_t *)"x", .size = 1};
    struct protocol_ack ack = {.stream = PROTOCOL_STDIN};
    const struct protocol_attached attached = {0};
    switch (wrong) {
    case STARTED_TWICE:
    case STARTED_CUT:
        protocol_encode_started(writer, id, &started);
        break;
    case DATA_OF_STDIN:
    case DATA_FROM_FAR:
    case DATA_CUT:
        data.stream = wrong == DATA_OF_STDIN ? PROTOCOL_STDIN : PROTOCOL_STDOUT;
        data.offset = wrong == DATA_FROM_FAR ? 1000 : 0;
        protocol_encode_data(writer, id, &data);
        break;
    case ACK_OF_STDOUT:
    case ACK_FROM_FAR:
    case ACK_CUT:
        ack.stream = wrong == ACK_OF_STDOUT ? PROTOCOL_STDOUT : PROTOCOL_STDIN;
        ack.offset = wrong == ACK_FROM_FAR ? 1000 : 0;
        protocol_encode_ack(writer, id, &ack);
        break;
    case ENDED_CUT:
    case ATTACHED_UNASKED:
    case WRONG_COUNT:
    default:
        protocol_encode_attached(writer, id, &attached);
        break;
    }
}

/* Its relay ends, and nobody else suffers; a session that is not the far end's hears nothing of it. */
static void hazard_e4_a_guest_that_breaks_the_protocol(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    for (enum wrong wrong = STARTED_TWICE; wrong < WRONG_COUNT; wrong++) {
        uint8_t bytes[512];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        struct protocol_decoder decoder;
        uint8_t *buffer = malloc(PROTOCOL_FRAME_SIZE_MAX);
        size_t room = 0;
        struct protocol_frame frame;
        assert_non_null(buffer);
        start_cat(fixture, fixture->first);
        cursor_write_bytes(&writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
        write_wrong(&writer, fixture->first, wrong);
        assert_false(writer.failed);
        protocol_decoder_init(&decoder, buffer, PROTOCOL_FRAME_SIZE_MAX);
        uint8_t *space = protocol_decoder_space(&decoder, &room);
        memcpy(space, bytes, writer.size);
        protocol_decoder_filled(&decoder, writer.size);
        assert_int_equal(protocol_decoder_next(&decoder, &frame), PROTOCOL_RESULT_FRAME);
        if (wrong == ENDED_CUT) {
            frame.type = PROTOCOL_ENDED;
        }
        if (wrong == STARTED_CUT || wrong == DATA_CUT || wrong == ACK_CUT || wrong == ENDED_CUT) {
            frame.payload_size = 1;
        }
        vm_lock(fixture->vm);
        assert_true(vm_session_handle(fixture->vm, &frame)); /* the channel goes on */
        if (!fixture->relay->ended) {
            fail_msg("the relay goes on after %d", (int)wrong);
        }
        vm_unlock(fixture->vm);
        free(buffer);
        close_relay(fixture);
        open_relay(fixture);
        expect_vm_works(fixture->vm);
    }
    close_fixture(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c6_last_words_of_who_no_longer_listens),
        cmocka_unit_test(hazard_e4_an_attach_that_is_given_up),
        cmocka_unit_test(hazard_e4_a_session_comes_back_at_once),
        cmocka_unit_test(test_a_relay_that_cannot_be_opened),
        cmocka_unit_test(test_as_many_relays_as_there_may_be),
        cmocka_unit_test(test_a_session_for_which_there_is_no_memory),
        cmocka_unit_test(test_a_queue_for_which_there_is_no_memory),
        cmocka_unit_test(test_a_queue_has_a_limit),
        cmocka_unit_test(hazard_e4_a_guest_that_breaks_the_protocol),
    };
    return cmocka_run_group_tests_name("relay ends", tests, NULL, NULL);
}
