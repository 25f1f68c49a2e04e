/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a guest may not say, frame by frame, to a VM that runs on the mock: the channel is given up, whatever waits for it
 * ends with an error that says so, and the owner goes on. And what a backend with less than all of it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NOBODY 4711 /* a session that nobody has */

struct fixture {
    struct kelpie_vm *vm;     /* running */
    struct kelpie_exec *exec; /* `cat`, started, with an open stdin */
    uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX + PROTOCOL_SYNC_SIZE];
};

static struct fixture *open_fixture(void) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    assert_int_equal(kelpie_vm_create(&config, &fixture->vm, NULL), KELPIE_OK);
    assert_int_equal(kelpie_vm_start(fixture->vm, NULL), KELPIE_OK);
    assert_int_equal(kelpie_exec_start(fixture->vm, &command, &fixture->exec, NULL), KELPIE_OK);
    return fixture;
}

static void close_fixture(struct fixture *fixture) {
    kelpie_exec_close(fixture->exec);
    kelpie_vm_destroy(fixture->vm);
    free(fixture);
}

/* ---- Frames ----------------------------------------------------------------------------------- */

/* One message of a guest. Which fields count depends on the type; session: 1 ours, else as it is. */
struct said {
    const char *name;
    enum protocol_type type;
    uint32_t session;
    enum protocol_stream stream;
    uint64_t offset;
    uint32_t value; /* of an end, a size, a count */
    bool spoilt;    /* its payload is cut to what no message is */
    bool allowed;
};

static void encode_of_channel(struct cursor_writer *writer, const struct kelpie_vm *vm,
                              const struct said *said) {
    struct protocol_hello_ack hello = {.memory_total_bytes = 1};
    memcpy(hello.nonce, vm->channel.nonce, sizeof(hello.nonce));
    const struct protocol_ping pong = {.token = vm->channel.ping_token + said->value};
    const struct protocol_done done = {.os_error = said->value, .message = "x"};
    const struct protocol_sessions sessions = {.count = 1, .ids = {1}};
    const struct protocol_frozen frozen = {.os_error = said->value};
    const struct protocol_figures figures = {.memory_total_bytes = 1, .memory_available_bytes = 2};
    const struct protocol_thawed thawed = {.clock = PROTOCOL_OUTCOME_DONE};
    switch ((int)said->type) {
    case PROTOCOL_HELLO_ACK:
        return protocol_encode_hello_ack(writer, &hello);
    case PROTOCOL_PONG:
        return protocol_encode_ping(writer, PROTOCOL_PONG, &pong);
    case PROTOCOL_SETUP_DONE:
        return protocol_encode_done(writer, &done);
    case PROTOCOL_SHARED:
        return protocol_encode_shared(writer, &done);
    case PROTOCOL_SESSIONS:
        return protocol_encode_sessions(writer, &sessions);
    case PROTOCOL_FROZEN:
        return protocol_encode_frozen(writer, &frozen);
    case PROTOCOL_THAWED:
        return protocol_encode_thawed(writer, &thawed);
    case PROTOCOL_FIGURES:
        return protocol_encode_figures(writer, &figures);
    default:
        return protocol_encode_empty(writer, said->type, 0);
    }
}

static void encode_of_session(struct cursor_writer *writer, uint32_t session,
                              const struct said *said) {
    static const uint8_t bytes[PROTOCOL_DATA_SIZE_MAX];
    const struct protocol_data data = {.stream = said->stream,
                                       .offset = said->offset,
                                       .flags = said->value == 0 ? PROTOCOL_DATA_END : 0,
                                       .bytes = bytes,
                                       .size = said->value};
    const struct protocol_ack ack = {.stream = said->stream, .offset = said->offset};
    const struct protocol_started started = {.pid = 1};
    const struct protocol_ended ended = {
        .end = PROTOCOL_END_EXITED, .stdout_bytes = said->value, .message = ""};
    const struct protocol_attached attached = {.stdout_offset = said->offset};
    switch ((int)said->type) {
    case PROTOCOL_DATA:
        return protocol_encode_data(writer, session, &data);
    case PROTOCOL_ACK:
        return protocol_encode_ack(writer, session, &ack);
    case PROTOCOL_STARTED:
        return protocol_encode_started(writer, session, &started);
    case PROTOCOL_ENDED:
        return protocol_encode_ended(writer, session, &ended);
    default:
        return protocol_encode_attached(writer, session, &attached);
    }
}

/* Gives the VM the frame as its thread would have read it. */
static bool hear(struct fixture *fixture, const struct said *said) {
    struct cursor_writer writer = cursor_writer_init(fixture->bytes, sizeof(fixture->bytes));
    uint32_t session = said->session == 1 ? kelpie_exec_id(fixture->exec) : said->session;
    if (session != 0) {
        encode_of_session(&writer, session, said);
    } else {
        encode_of_channel(&writer, fixture->vm, said);
    }
    assert_false(writer.failed);
    bool synced = memcmp(writer.data, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE) == 0;
    size_t header = (synced ? PROTOCOL_SYNC_SIZE : 0) + PROTOCOL_HEADER_SIZE;
    const struct protocol_frame frame = {
        .type = said->type,
        .session = session,
        .payload = writer.data + header,
        .payload_size = said->spoilt ? 1 : writer.size - header,
    };
    vm_lock(fixture->vm);
    bool taken = vm_channel_handle(fixture->vm, &frame);
    vm_unlock(fixture->vm);
    return taken;
}

#define CHANNEL(kind) .type = PROTOCOL_##kind
#define OURS(kind) .type = PROTOCOL_##kind, .session = 1
#define NOBODYS(kind) .type = PROTOCOL_##kind, .session = NOBODY

static const struct said frames[] = {
    {"an answer to our HELLO", CHANNEL(HELLO_ACK), .allowed = true},
    {"a spoilt HELLO_ACK", CHANNEL(HELLO_ACK), .spoilt = true},
    {"a late PONG", CHANNEL(PONG), .allowed = true},
    {"a PONG before its PING", CHANNEL(PONG), .value = 1},
    {"a spoilt PONG", CHANNEL(PONG), .spoilt = true},
    {"a spoilt SETUP_DONE", CHANNEL(SETUP_DONE), .spoilt = true},
    {"a spoilt SHARED", CHANNEL(SHARED), .spoilt = true},
    {"a spoilt SESSIONS", CHANNEL(SESSIONS), .spoilt = true},
    {"a spoilt FROZEN", CHANNEL(FROZEN), .spoilt = true},
    {"a spoilt FIGURES", CHANNEL(FIGURES), .spoilt = true},
    {"FIGURES that nobody asked for", CHANNEL(FIGURES), .allowed = true},
    {"a host's STATUS", CHANNEL(STATUS)},
    {"a relay's DETACH", OURS(DETACH)},
    {"a spoilt THAWED", CHANNEL(THAWED), .spoilt = true},
    {"a host's LIST", CHANNEL(LIST)},
    {"a host's POWER_OFF", CHANNEL(POWER_OFF)},
    {"output", OURS(DATA), .stream = PROTOCOL_STDOUT, .value = 1, .allowed = true},
    {"errors", OURS(DATA), .stream = PROTOCOL_STDERR, .value = 1, .allowed = true},
    {"input of its own", OURS(DATA), .stream = PROTOCOL_STDIN, .value = 1},
    {"output with a gap", OURS(DATA), .stream = PROTOCOL_STDOUT, .offset = 1, .value = 1},
    {"output of nobody", NOBODYS(DATA), .stream = PROTOCOL_STDOUT, .value = 1, .allowed = true},
    {"spoilt output", OURS(DATA), .stream = PROTOCOL_STDOUT, .value = 1, .spoilt = true},
    {"an ACK of nothing", OURS(ACK), .stream = PROTOCOL_STDIN, .allowed = true},
    {"an ACK of what was not sent", OURS(ACK), .stream = PROTOCOL_STDIN, .offset = 1},
    {"an ACK of output", OURS(ACK), .stream = PROTOCOL_STDOUT},
    {"a spoilt ACK", OURS(ACK), .stream = PROTOCOL_STDIN, .spoilt = true},
    {"a second start", OURS(STARTED)},
    {"an end before the streams'", OURS(ENDED)},
    {"a spoilt end", OURS(ENDED), .spoilt = true},
    {"an end of nobody", NOBODYS(ENDED), .allowed = true},
    {"an ATTACHED that nobody asked for", OURS(ATTACHED)},
};

static void hazard_d1_frames_that_break_the_protocol(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        struct kelpie_error err = {0};
        uint64_t ns = 0;
        struct fixture *fixture = open_fixture();
        if (hear(fixture, &frames[i]) != frames[i].allowed) {
            fail_msg("%s was%s taken", frames[i].name, frames[i].allowed ? " not" : "");
        }
        enum kelpie_status status = kelpie_vm_ping(fixture->vm, &ns, &err);
        if (frames[i].allowed && frames[i].type != PROTOCOL_HELLO_ACK) {
            assert_int_equal(status, KELPIE_OK);
        } else if (!frames[i].allowed) {
            assert_int_equal(status, KELPIE_INTERNAL);
            assert_true(err.requires_recreate);
            assert_non_null(strstr(err.message, "breaks the protocol"));
            assert_int_equal(kelpie_vm_ping(fixture->vm, &ns, NULL), KELPIE_INTERNAL);
        }
        close_fixture(fixture);
    }
}

/* An end says how much was written: all of it must have come. */
static void hazard_d1_an_end_that_does_not_fit_the_streams(void **state) {
    (void)state;
    static const struct {
        uint32_t out;   /* bytes that came */
        bool out_ended; /* and their end */
        bool error_ended;
        uint32_t said; /* bytes of output, as the end has it */
        bool allowed;
    } cases[] = {
        {1, true, true, 1, true},  {1, false, true, 1, false}, {1, true, false, 1, false},
        {1, true, true, 2, false}, {1, true, true, 0, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct fixture *fixture = open_fixture();
        const struct said out = {
            .type = PROTOCOL_DATA, .session = 1, .stream = PROTOCOL_STDOUT, .value = cases[i].out};
        assert_true(hear(fixture, &out));
        const struct said out_end = {
            .type = PROTOCOL_DATA, .session = 1, .stream = PROTOCOL_STDOUT, .offset = cases[i].out};
        const struct said error_end = {
            .type = PROTOCOL_DATA, .session = 1, .stream = PROTOCOL_STDERR};
        assert_true(!cases[i].out_ended || hear(fixture, &out_end));
        assert_true(!cases[i].error_ended || hear(fixture, &error_end));
        const struct said ended = {.type = PROTOCOL_ENDED, .session = 1, .value = cases[i].said};
        assert_int_equal(hear(fixture, &ended), cases[i].allowed);
        close_fixture(fixture);
    }
}

/* More output than a window, which nobody has read. */
static void hazard_d1_output_beyond_the_window(void **state) {
    (void)state;
    struct fixture *fixture = open_fixture();
    struct said out = {.type = PROTOCOL_DATA,
                       .session = 1,
                       .stream = PROTOCOL_STDOUT,
                       .value = PROTOCOL_DATA_SIZE_MAX};
    for (; out.offset + out.value <= PROTOCOL_WINDOW_SIZE; out.offset += out.value) {
        assert_true(hear(fixture, &out));
    }
    assert_false(hear(fixture, &out));
    close_fixture(fixture);
}

/* ---- Capabilities ----------------------------------------------------------------------------- */

static enum kelpie_status try_exec(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("true")};
    enum kelpie_status status = kelpie_vm_exec(vm, &command, &output, err);
    kelpie_output_free(&output);
    return status;
}

static enum kelpie_status try_tty(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_exec *exec = NULL;
    const struct kelpie_command command = {.argv = ARGV("true"), .tty = true};
    enum kelpie_status status = kelpie_exec_start(vm, &command, &exec, err);
    kelpie_exec_close(exec);
    return status;
}

static enum kelpie_status try_copy(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_copy_in(vm, "/dev/null", "/tmp/a", NULL, err);
}

static enum kelpie_status try_pause(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_vm_pause(vm, err);
}

static enum kelpie_status try_suspend(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot;
    return kelpie_vm_snapshot(vm, "/tmp/kelpie-hostile-none", NULL, &snapshot, err);
}

static enum kelpie_status try_teleport(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot;
    const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_TELEPORT};
    return kelpie_vm_snapshot(vm, "/tmp/kelpie-hostile-none", &options, &snapshot, err);
}

static enum kelpie_status try_fork(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_fork_child child = {0};
    return kelpie_vm_fork(vm, NULL, 1, &child, err);
}

/* Nothing is begun that the backend cannot do: the backend here is the mock without that one bit. */
static void test_what_a_backend_cannot_do(void **state) {
    (void)state;
    static const struct {
        uint32_t missing;
        enum kelpie_status (*try_it)(struct kelpie_vm *vm, struct kelpie_error *err);
    } cases[] = {
        {KELPIE_CAN_EXEC, try_exec},
        {KELPIE_CAN_TTY, try_tty},
        {KELPIE_CAN_COPY, try_copy},
        {KELPIE_CAN_PAUSE, try_pause},
        {KELPIE_CAN_SUSPEND_SNAPSHOT, try_suspend},
        {KELPIE_CAN_TELEPORT_SNAPSHOT, try_teleport},
        {KELPIE_CAN_FORK, try_fork},
    };
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        struct kelpie_vm *vm = NULL;
        assert_int_equal(kelpie_vm_create(&config, &vm, NULL), KELPIE_OK);
        struct backend_ops less = *vm->ops;
        assert_true(less.capabilities & cases[i].missing);
        less.capabilities &= ~cases[i].missing;
        vm->ops = &less; /* before its thread looks */
        assert_int_equal(kelpie_vm_start(vm, NULL), KELPIE_OK);
        assert_int_equal(cases[i].try_it(vm, &err), KELPIE_UNSUPPORTED);
        assert_non_null(strstr(err.message, "mock"));
        assert_int_equal(kelpie_mock_crash(vm, &err), KELPIE_UNSUPPORTED);
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
        kelpie_vm_destroy(vm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_d1_frames_that_break_the_protocol),
        cmocka_unit_test(hazard_d1_an_end_that_does_not_fit_the_streams),
        cmocka_unit_test(hazard_d1_output_beyond_the_window),
        cmocka_unit_test(test_what_a_backend_cannot_do),
    };
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
