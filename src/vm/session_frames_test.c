/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One frame of a guest at a time, with the VM locked: what it may say to a handle in which state of its session, and what the
 * numbers and the notes of sessions are worth then. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define FRAME_SIZE 256

static struct kelpie_vm *vm;
static struct kelpie_exec *cat; /* runs */

static int set_up(void **state) {
    (void)state;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_vm_create(&config, &vm, NULL));
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_exec_start(vm, &command, &cat, NULL));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    kelpie_exec_close(cat);
    kelpie_vm_destroy(vm);
    return 0;
}

static void again(void) {
    (void)tear_down(NULL);
    (void)set_up(NULL);
}

/* Hears what the encoder makes, or, without one, one byte that is no such message. */
static bool hear(enum protocol_type type, uint32_t session,
                 void (*encode)(struct cursor_writer *writer)) {
    uint8_t bytes[FRAME_SIZE] = {[PROTOCOL_HEADER_SIZE] = 0xff};
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    size_t size = PROTOCOL_HEADER_SIZE + 1;
    if (encode) {
        encode(&writer);
        assert_false(writer.failed);
        size = writer.size;
    }
    const size_t start =
        PROTOCOL_HEADER_SIZE +
        (encode && memcmp(bytes, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE) == 0 ? PROTOCOL_SYNC_SIZE : 0);
    const struct protocol_frame frame = {
        .type = type, .session = session, .payload = bytes + start, .payload_size = size - start};
    return vm_channel_handle(vm, &frame);
}

static void started(struct cursor_writer *writer) {
    protocol_encode_started(writer, cat->id, &(struct protocol_started){0});
}
static void output(struct cursor_writer *writer) {
    const struct protocol_data data = {
        .stream = PROTOCOL_STDOUT, .bytes = (const uint8_t *)"x", .size = 1};
    protocol_encode_data(writer, cat->id, &data);
}
static void input(struct cursor_writer *writer) {
    const struct protocol_data data = {
        .stream = PROTOCOL_STDIN, .bytes = (const uint8_t *)"x", .size = 1};
    protocol_encode_data(writer, cat->id, &data);
}
static void ack(struct cursor_writer *writer) {
    protocol_encode_ack(writer, cat->id, &(struct protocol_ack){.stream = PROTOCOL_STDIN});
}
static void ack_of_output(struct cursor_writer *writer) {
    protocol_encode_ack(writer, cat->id, &(struct protocol_ack){.stream = PROTOCOL_STDOUT});
}
static void attached(struct cursor_writer *writer) {
    protocol_encode_attached(writer, cat->id, &(struct protocol_attached){.os_error = ENOENT});
}
static void ended_with_more(struct cursor_writer *writer) {
    const struct protocol_ended ended = {
        .end = PROTOCOL_END_EXITED, .stderr_bytes = 1, .message = ""};
    protocol_encode_ended(writer, cat->id, &ended);
}
static void hello_of_another(struct cursor_writer *writer) {
    struct protocol_hello_ack hello = vm->channel.answers.hello;
    hello.nonce[0] ^= 1;
    protocol_encode_hello_ack(writer, &hello);
}

/* ---- What breaks the protocol -------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum protocol_type type;
    void (*encode)(struct cursor_writer *writer);
    bool not_started;
    bool streams_ended;
} broken[] = {
    {"a spoilt STARTED", PROTOCOL_STARTED, NULL, true, false},
    {"STARTED twice", PROTOCOL_STARTED, started, false, false},
    {"a spoilt DATA", PROTOCOL_DATA, NULL, false, false},
    {"DATA on stdin", PROTOCOL_DATA, input, false, false},
    {"DATA before the start", PROTOCOL_DATA, output, true, false},
    {"a spoilt ACK", PROTOCOL_ACK, NULL, false, false},
    {"an ACK of its own output", PROTOCOL_ACK, ack_of_output, false, false},
    {"an ACK before the start", PROTOCOL_ACK, ack, true, false},
    {"a spoilt ENDED", PROTOCOL_ENDED, NULL, false, false},
    {"ENDED before its output", PROTOCOL_ENDED, ended_with_more, false, false},
    {"ENDED with more than came", PROTOCOL_ENDED, ended_with_more, false, true},
    {"ATTACHED unasked", PROTOCOL_ATTACHED, attached, false, false},
};

static void hazard_d1_a_guest_that_breaks_the_protocol_to_a_handle(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        struct kelpie_error err = {0};
        uint64_t ns = 0;
        vm_lock(vm);
        cat->started = !broken[i].not_started;
        cat->outputs[0].receiver.ended = broken[i].streams_ended;
        cat->outputs[1].receiver.ended = broken[i].streams_ended;
        bool heard = hear(broken[i].type, cat->id, broken[i].encode);
        bool is_broken = vm->channel.broken[0] != '\0';
        vm_unlock(vm);
        if (heard || !is_broken) {
            fail_msg("%s is taken", broken[i].name);
        }
        assert_int_not_equal(kelpie_vm_ping(vm, &ns, &err), KELPIE_OK);
        assert_non_null(strstr(err.message, "breaks the protocol"));
        again();
    }
}

static void hazard_d1_a_spoilt_answer(void **state) {
    (void)state;
    static const enum protocol_type types[] = {
        PROTOCOL_HELLO_ACK, PROTOCOL_SETUP_DONE, PROTOCOL_SHARED,  PROTOCOL_FROZEN,
        PROTOCOL_THAWED,    PROTOCOL_SESSIONS,   PROTOCOL_FIGURES, PROTOCOL_PONG,
    };
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        vm_lock(vm);
        assert_false(hear(types[i], 0, NULL));
        assert_true(vm->channel.broken[0] != '\0');
        vm_unlock(vm);
        again();
    }
}

/* ---- What was said to somebody before ------------------------------------------------------------- */

static void hazard_c6_answers_to_somebody_before(void **state) {
    (void)state;
    vm_lock(vm);
    const uint64_t count = vm->channel.answers.hello_count;
    assert_true(hear(PROTOCOL_HELLO_ACK, 0, hello_of_another));
    assert_int_equal(vm->channel.answers.hello_count, count);
    vm->channel.connected = false;
    assert_true(hear(PROTOCOL_DATA, cat->id, output)); /* nothing counts before our own HELLO_ACK */
    vm->channel.connected = true;
    cat->attach_wanted = true;
    assert_true(hear(PROTOCOL_DATA, cat->id, output)); /* of whoever had the session */
    cat->attach_wanted = false;
    cat->attaching = true;
    assert_true(hear(PROTOCOL_DATA, cat->id, output));
    cat->attaching = false;
    assert_int_equal(cat->outputs[0].receiver.received, 0);
    assert_int_equal(vm->channel.broken[0], '\0');
    vm_unlock(vm);
}

/* An ATTACH that was given up is answered all the same: that answer is nobody's, and each once. */
static void hazard_c6_an_answer_that_nobody_waits_for(void **state) {
    (void)state;
    vm_lock(vm);
    vm_session_give_up_attach(cat); /* it asked for nothing */
    assert_int_equal(vm->stale_attach_count, 0);
    vm->stale_attaches[vm->stale_attach_count++] = cat->id + 1;
    cat->attaching = true;
    vm_session_give_up_attach(cat);
    cat->attaching = false;
    assert_int_equal(vm->stale_attach_count, 2);
    assert_true(hear(PROTOCOL_ATTACHED, cat->id, attached));
    assert_int_equal(vm->stale_attach_count, 1);
    assert_int_equal(vm->stale_attaches[0], cat->id + 1);
    vm->stale_attach_count = ARRAY_SIZE(vm->stale_attaches);
    cat->attaching = true;
    vm_session_give_up_attach(
        cat); /* there is no place for it: the answer would break the channel */
    assert_int_equal(vm->stale_attach_count, ARRAY_SIZE(vm->stale_attaches));
    cat->attaching = false;
    vm->stale_attach_count = 0;
    vm_unlock(vm);
}

/* ---- Numbers and notes ----------------------------------------------------------------------------- */

static uint32_t new_number(void) {
    struct kelpie_exec *exec = NULL;
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("true")}, &exec, NULL));
    uint32_t id = kelpie_exec_id(exec);
    kelpie_exec_close(exec);
    return id;
}

static void test_numbers_go_round(void **state) {
    (void)state;
    vm_lock(vm);
    const uint32_t first = vm->ids_first;
    const uint32_t last = first + (vm->ids_count - 1);
    vm->session_id_last = last - 1;
    vm_unlock(vm);
    assert_int_equal(new_number(), last);
    vm_lock(vm);
    assert_int_equal(cat->id, first);
    vm_guest_session_opened(vm, first + 1); /* the guest's still, and nobody's here */
    vm_unlock(vm);
    assert_int_equal(new_number(), first + 2);
    vm_lock(vm);
    vm->session_id_last = first - 2; /* below its block: as after another channel */
    vm_guest_session_released(vm, first + 1);
    vm_unlock(vm);
    assert_int_equal(new_number(), first + 1);
}

static void test_whose_offsets_are_noted(void **state) {
    (void)state;
    vm_lock(vm);
    struct protocol_attach attach = {0};
    cat->yielded = true; /* another has it */
    vm_session_note_offsets(cat);
    cat->yielded = false;
    cat->attach_wanted = true; /* another had it, and knows better */
    vm_session_note_offsets(cat);
    cat->attach_wanted = false;
    cat->lost = true;
    vm_session_note_offsets(cat);
    cat->lost = false;
    assert_false(vm_session_recall_offsets(vm, cat->id, &attach));
    vm_session_note_offsets(cat);
    assert_true(vm_session_recall_offsets(vm, cat->id, &attach));
    assert_false(vm_session_recall_offsets(vm, cat->id, &attach)); /* once */
    vm->saved_session_count = KELPIE_EXEC_COUNT_MAX;
    vm_session_note_offsets(cat); /* no more than there is room for */
    assert_int_equal(vm->saved_session_count, KELPIE_EXEC_COUNT_MAX);
    vm->saved_session_count = 0;
    vm_unlock(vm);
}

/* A handle that has yielded says only what its caller wants of the command itself. */
static void test_what_a_yielded_handle_says(void **state) {
    (void)state;
    static uint8_t bytes[2 * PROTOCOL_DATA_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    vm_lock(vm);
    cat->yielded = true;
    cat->resize_wanted = true;
    assert_false(vm_session_speak(cat, &writer));
    cat->signals_wanted = 1u << 14;
    assert_true(vm_session_speak(cat, &writer));
    assert_int_equal(cat->signals_wanted, 0);
    cat->lost = true;
    vm_session_take_back(cat);
    assert_false(cat->attach_wanted); /* there is nothing to take up any more */
    cat->lost = false;
    cat->started = true;
    cat->resize_wanted = false;
    vm_unlock(vm);
}

/* ---- Callers without an error --------------------------------------------------------------------- */

static void test_failures_that_nobody_asks_about(void **state) {
    (void)state;
    struct kelpie_exec *exec = NULL;
    const struct kelpie_command nothing = {.argv = ARGV("/no/such/program")};
    assert_int_equal(kelpie_exec_start(vm, &nothing, &exec, NULL), KELPIE_EXEC_FAILED);
    assert_null(exec);
    size_t written = 0;
    struct kelpie_error err = {0};
    OK(kelpie_exec_close_stdin(cat, NULL));
    assert_int_equal(kelpie_exec_write(cat, "x", 1, &written, NULL), KELPIE_EXEC_FAILED);
    assert_int_equal(kelpie_exec_write(cat, "x", 1, &written, &err), KELPIE_EXEC_FAILED);
    assert_int_equal(err.os_error, EPIPE);
    assert_int_equal(kelpie_exec_attach(vm, 4711, &exec, NULL), KELPIE_NOT_FOUND);
    kelpie_vm_close(NULL);
    struct kelpie_vm *none = NULL;
    assert_int_equal(kelpie_vm_open(NULL, NULL, &none, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_vm_open(NULL, "../x", &none, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "name");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_d1_a_guest_that_breaks_the_protocol_to_a_handle,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_d1_a_spoilt_answer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_c6_answers_to_somebody_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_c6_an_answer_that_nobody_waits_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_numbers_go_round, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_whose_offsets_are_noted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_a_yielded_handle_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures_that_nobody_asks_about, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("session frames", tests, NULL, NULL);
}
