/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Orders and answers, with this test in the monitor's place: one that is slow, cut short, hostile or gone. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"
#include "support/fault_host.h"

#define WAIT_MS 20000
#define MEDIUM_BYTES 1048576

struct fixture {
    struct host *inner;
    struct host *host;
    struct kelpie_config config;
    struct backend_launch launch;
    struct backend_instance instance;
    struct host_wait wait;
    int peer_fd; /* what the monitor reads from and writes to */
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct backend_instance *instance = &fixture->instance;
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    fixture->config = (struct kelpie_config){.vcpu_count = 1, .memory_mib = 64};
    fixture->launch = (struct backend_launch){.host = fixture->host,
                                              .config = &fixture->config,
                                              .id = "order",
                                              .cancel_fd = HOST_FD_NONE};
    fixture->wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    assert_int_equal(kvm_instance_init(instance, &fixture->launch, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(fixture->host, fds, NULL), KELPIE_OK);
    instance->control_fd = fds[0];
    fixture->peer_fd = fds[1];
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    char text[256];
    kvm_instance_deinit(&fixture->instance);
    host_close(fixture->host, fixture->peer_fd);
    if (fault_host_leaks(fixture->host, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

/* ---- What the monitor says -------------------------------------------------------------------- */

static void say_bytes(struct fixture *fixture, const void *bytes, size_t size) {
    assert_int_equal(
        host_write_all(fixture->host, fixture->peer_fd, bytes, size, &fixture->wait, NULL),
        KELPIE_OK);
}

static void say_plain(struct fixture *fixture, enum control_type type) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_plain(&writer, type);
    say_bytes(fixture, bytes, writer.size);
}

static void say_failed(struct fixture *fixture, enum kelpie_status status, const char *text) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct kelpie_error failure;
    (void)error_set(&failure, status, "%s", text);
    control_encode_failed(&writer, &failure);
    say_bytes(fixture, bytes, writer.size);
}

static void say_stamps(struct fixture *fixture, uint64_t started_ns) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_stamps(&writer, &(struct control_stamps){.started_ns = started_ns});
    say_bytes(fixture, bytes, writer.size);
}

static enum kelpie_status pause_within(struct fixture *fixture, uint32_t timeout_ms,
                                       struct kelpie_error *err) {
    const struct host_wait wait = host_wait_ms(fixture->host, timeout_ms, HOST_FD_NONE);
    return kvm_order_plain(&fixture->instance, CONTROL_PAUSE, &wait, err);
}

/* ---- Answers ---------------------------------------------------------------------------------- */

static void each_order_gets_its_answer(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    struct control_stamps stamps = {0};
    say_plain(fixture, CONTROL_DONE);
    assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_OK);
    say_stamps(fixture, 77);
    assert_int_equal(kvm_order_tell(&fixture->instance, &stamps, &fixture->wait, &err), KELPIE_OK);
    assert_int_equal(stamps.started_ns, 77);
    say_failed(fixture, KELPIE_SNAPSHOT_FAILED, "the disk is full");
    assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_SNAPSHOT_FAILED);
    assert_string_equal(err.message, "the disk is full");
    say_failed(fixture, KELPIE_SNAPSHOT_FAILED, "the disk is full");
    assert_int_equal(pause_within(fixture, WAIT_MS, NULL), KELPIE_SNAPSHOT_FAILED);
}

/* Whether the machine lives and the time is over, the owner sees for itself. */
static void hazard_d1_what_only_the_owner_knows_is_not_believed(void **state) {
    static const enum kelpie_status lies[] = {KELPIE_CRASHED, KELPIE_CANCELLED, KELPIE_TIMED_OUT,
                                              KELPIE_BUSY, KELPIE_WRONG_STATE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        struct kelpie_error err;
        say_failed(fixture, lies[i], "believe me");
        assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_INTERNAL);
        assert_non_null(strstr(err.message, "believe me"));
    }
}

/* Each is one byte or word away from an answer. */
static void hazard_d1_what_is_no_answer_is_refused(void **state) {
    static const struct {
        bool tell; /* the order is TELL; else it is PAUSE */
        uint8_t bytes[12];
        size_t size;
    } cases[] = {
        {false, {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 8},   /* of no type */
        {false, {0xff, 0xff, 0, 0, CONTROL_DONE}, 8},       /* too long */
        {false, {1, 0, 0, 0, CONTROL_DONE, 0, 0, 0, 1}, 9}, /* with a payload */
        {false, {0, 0, 0, 0, CONTROL_TOLD}, 8},
        {false, {0, 0, 0, 0, CONTROL_PAUSE}, 8},
        {false, {1, 0, 0, 0, CONTROL_FAILED, 0, 0, 0, 1}, 9},
        {true, {0, 0, 0, 0, CONTROL_DONE}, 8},
        {true, {1, 0, 0, 0, CONTROL_TOLD, 0, 0, 0, 1}, 9}, /* too short */
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct fixture *fixture = NULL;
        struct kelpie_error err;
        struct control_stamps stamps = {.started_ns = 5};
        assert_int_equal(setup((void **)&fixture), 0);
        say_bytes(fixture, cases[i].bytes, cases[i].size);
        enum kelpie_status status =
            cases[i].tell ? kvm_order_tell(&fixture->instance, &stamps, &fixture->wait, &err)
                          : pause_within(fixture, WAIT_MS, &err);
        if (status != KELPIE_INTERNAL || !strstr(err.message, "an answer that is none")) {
            fail_msg("case %zu: %s: %s", i, kelpie_status_name(status), err.message);
        }
        assert_int_equal(stamps.started_ns, 5);
        assert_int_equal(teardown((void **)&fixture), 0);
    }
    (void)state;
}

/* The first half of an answer comes before the deadline, the rest before that of the next order. */
static void an_answer_in_two_parts_is_one(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct kelpie_error failure;
    (void)error_set(&failure, KELPIE_NO_SPACE, "no room");
    control_encode_failed(&writer, &failure);
    const size_t cuts[] = {3, CONTROL_HEADER_SIZE + 2};
    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
        say_bytes(fixture, bytes, cuts[i]);
        assert_int_equal(pause_within(fixture, 0, &err), KELPIE_TIMED_OUT);
        say_bytes(fixture, bytes + cuts[i], writer.size - cuts[i]);
        say_plain(fixture, CONTROL_DONE); /* to the second order; the first one's is dropped */
        assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_OK);
        assert_int_equal(fixture->instance.answers_owed, 0);
    }
    say_bytes(fixture, bytes, CONTROL_HEADER_SIZE + 2);
    host_close(fixture->host, fixture->peer_fd);
    fixture->peer_fd = HOST_FD_NONE;
    assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_CRASHED);
}

/* What is asked of a monitor that does not answer is bounded; when it answers, all is well. */
static void hazard_d1_answers_that_are_owed_have_a_limit(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    for (size_t i = 0; i < KVM_ANSWERS_OWED_MAX; i++) {
        assert_int_equal(pause_within(fixture, 0, &err), KELPIE_TIMED_OUT);
    }
    assert_int_equal(pause_within(fixture, WAIT_MS, &err), KELPIE_BUSY);
    for (size_t i = 0; i < KVM_ANSWERS_OWED_MAX; i++) {
        say_plain(fixture, CONTROL_DONE);
    }
    assert_int_equal(pause_within(fixture, 0, &err), KELPIE_BUSY); /* nobody looked */
}

/* ---- Sending ---------------------------------------------------------------------------------- */

static void what_a_failed_send_means(void **state) {
    static const struct {
        const char *operation;
        enum kelpie_status status; /* of the host's call, or … */
        int os_error;
        enum kelpie_status expected;
    } cases[] = {
        {"write", 0, EPIPE, KELPIE_CRASHED},
        {"write", 0, ECONNRESET, KELPIE_CRASHED},
        {"write", 0, EIO, KELPIE_IO_FAILED},
        {"socket_send_fd", 0, EPIPE, KELPIE_CRASHED},
        {"socket_send_fd", 0, ETOOMANYREFS, KELPIE_IO_FAILED},
        {"socket_send_fd", KELPIE_NO_MEMORY, 0, KELPIE_NO_MEMORY},
    };
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int told = 0; told < 2; told++) {
            struct kelpie_error err = {0};
            fault_host_arm(fixture->host, &(struct fault_plan){.nth = 1,
                                                               .only = cases[i].operation,
                                                               .status = cases[i].status,
                                                               .os_error = cases[i].os_error});
            enum kelpie_status status = strcmp(cases[i].operation, "write") == 0
                                            ? pause_within(fixture, WAIT_MS, told ? &err : NULL)
                                            : kvm_pass(&fixture->instance, CONTROL_ROLE_STATE,
                                                       fixture->peer_fd, told ? &err : NULL);
            fault_host_disarm(fixture->host);
            assert_int_equal(status, cases[i].expected);
            assert_int_equal(err.status, told ? status : KELPIE_OK);
        }
    }
}

static void without_a_monitor_nothing_is_ordered(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    host_close(fixture->host, fixture->instance.control_fd);
    fixture->instance.control_fd = HOST_FD_NONE;
    assert_int_equal(kvm_pass(&fixture->instance, CONTROL_ROLE_STATE, fixture->peer_fd, &err),
                     KELPIE_WRONG_STATE);
    assert_non_null(strstr(err.message, "not running"));
}

/* ---- Machines --------------------------------------------------------------------------------- */

static void read_all(struct fixture *fixture, uint8_t *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        size_t count = 0;
        assert_int_equal(host_read(fixture->host, fixture->peer_fd, bytes + done, size - done,
                                   &fixture->wait, &count, NULL),
                         KELPIE_OK);
        assert_true(count > 0);
        done += count;
    }
}

/* The next order's machine, as the monitor reads it; descriptors before it are counted. */
static enum control_type read_machine(struct fixture *fixture, struct control_machine *ret_machine,
                                      size_t *ret_fd_count) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct control_header header = {.type = CONTROL_FD};
    for (*ret_fd_count = 0; header.type == CONTROL_FD; *ret_fd_count += header.type == CONTROL_FD) {
        read_all(fixture, bytes, CONTROL_HEADER_SIZE);
        assert_true(control_decode_header(bytes, &header));
        read_all(fixture, bytes, header.size);
    }
    assert_true(control_decode_machine(bytes, header.size, ret_machine));
    return header.type;
}

static void order_machine(struct fixture *fixture, enum control_type type,
                          struct control_machine *ret_machine, size_t fd_count) {
    struct kelpie_error err;
    size_t count = 0;
    say_plain(fixture, CONTROL_DONE);
    assert_int_equal(kvm_order_machine(&fixture->instance, type, false, &fixture->wait, &err),
                     KELPIE_OK);
    assert_int_equal(read_machine(fixture, ret_machine, &count), type);
    assert_int_equal(count, fd_count);
}

/* Only a load notes what is touched; a machine that is prepared gets its files later. */
static void a_machine_is_what_the_order_needs(void **state) {
    struct fixture *fixture = *state;
    struct backend_instance *instance = &fixture->instance;
    struct control_machine machine;
    fixture->config.kernel_args = "an.argument=1";
    order_machine(fixture, CONTROL_BOOT, &machine, 0);
    assert_string_equal(machine.command_line,
                        "console=ttyS0 reboot=a quiet panic=-1 an.argument=1");
    assert_false(machine.has_medium);
    fixture->config.kernel_args = NULL;
    instance->note = true;
    order_machine(fixture, CONTROL_LOAD, &machine, 0);
    assert_true(machine.note);
    assert_string_equal(machine.command_line, "console=ttyS0 reboot=a quiet panic=-1");
    assert_int_equal(
        host_memory_file(fixture->host, "medium", MEDIUM_BYTES, &instance->medium.fd, NULL),
        KELPIE_OK);
    instance->medium.size = MEDIUM_BYTES;
    order_machine(fixture, CONTROL_BOOT, &machine, 1);
    assert_false(machine.note);
    assert_true(machine.has_medium);
    assert_non_null(strstr(machine.command_line, "root=/dev/vda "));
    order_machine(fixture, CONTROL_PREPARE, &machine, 0);
    assert_true(machine.has_medium);
}

static void kernel_args_that_linux_would_cut_are_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    char args[CONTROL_COMMAND_LINE_SIZE_MAX];
    memset(args, 'a', sizeof(args) - 1);
    args[sizeof(args) - 1] = '\0';
    fixture->config.kernel_args = args;
    assert_int_equal(
        kvm_order_machine(&fixture->instance, CONTROL_BOOT, true, &fixture->wait, &err),
        KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel_args");
    assert_int_equal(fixture->instance.answers_owed, 0);
}

/* ---- Saves and loads -------------------------------------------------------------------------- */

/* The nth host call of a fork's save of a machine whose memory is private: an error; with none, a bundle with memory. */
static void any_call_of_a_save_in_memory_may_fail(void **state) {
    uint64_t nth = 1;
    for (const char *fired = ""; fired; nth++) {
        struct fixture *fixture = NULL;
        struct snapshot_writer *writer = NULL;
        struct kelpie_error err = {0};
        assert_int_equal(setup((void **)&fixture), 0);
        assert_int_equal(snapshot_writer_create(fixture->host, NULL, 0, &writer, &err), KELPIE_OK);
        say_plain(fixture, CONTROL_DONE); /* to SAVE */
        say_plain(fixture, CONTROL_DONE); /* to SEAL */
        fault_host_arm(fixture->host, &(struct fault_plan){.nth = nth});
        enum kelpie_status status =
            kvm_save(&fixture->instance, KELPIE_SNAPSHOT_SUSPEND, writer, &fixture->wait, &err);
        fired = fault_host_fired(fixture->host);
        fault_host_disarm(fixture->host);
        assert_int_equal(status == KELPIE_OK, !fired);
        assert_int_equal(err.status, status);
        snapshot_writer_destroy(writer);
        assert_int_equal(teardown((void **)&fixture), 0);
    }
    assert_true(nth > 8);
    (void)state;
}

/* A bundle in memory as of this machine. */
static struct snapshot_reader *make_bundle(struct fixture *fixture) {
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    assert_int_equal(snapshot_writer_create(fixture->host, NULL, 0, &writer, &err), KELPIE_OK);
    kvm_manifest_fill(&fixture->instance, snapshot_writer_manifest(writer));
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &fd, &err), KELPIE_OK);
    assert_int_equal(host_file_truncate(fixture->host, fd, 64ull << 20, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_read(writer, &reader, &err), KELPIE_OK);
    snapshot_writer_destroy(writer);
    return reader;
}

/* A machine that was prepared and refuses is replaced by a new one; not when the caller does not wait any longer. */
static void a_prepared_machine_that_refuses_is_replaced(void **state) {
    static const struct {
        enum kelpie_status status;
        bool replaced;
    } cases[] = {
        {KELPIE_TIMED_OUT, false}, {KELPIE_CANCELLED, false}, {KELPIE_SNAPSHOT_INCOMPATIBLE, true}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct fixture *fixture = NULL;
        struct kelpie_error err;
        int event = HOST_FD_NONE;
        assert_int_equal(setup((void **)&fixture), 0);
        struct snapshot_reader *reader = make_bundle(fixture);
        assert_int_equal(host_event_create(fixture->host, &event, NULL), KELPIE_OK);
        struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, event);
        if (cases[i].status == KELPIE_TIMED_OUT) {
            wait = host_wait_none();
        } else if (cases[i].status == KELPIE_CANCELLED) {
            host_event_set(fixture->host, event);
        } else {
            say_failed(fixture, cases[i].status, "another processor");
        }
        fixture->instance.prepared = true;
        fault_host_arm(fixture->host, &(struct fault_plan){.nth = 1, .only = "socket_pair"});
        enum kelpie_status status = kvm_load(&fixture->instance, reader, &wait, &err);
        const bool tried = fault_host_calls(fixture->host) > 0 || status == KELPIE_NOT_FOUND;
        fault_host_disarm(fixture->host);
        assert_int_equal(tried, cases[i].replaced);
        assert_true(tried || status == cases[i].status);
        assert_int_not_equal(status, KELPIE_OK);
        assert_int_equal(fixture->instance.control_fd, HOST_FD_NONE);
        snapshot_reader_close(reader);
        host_close(fixture->host, event);
        assert_int_equal(teardown((void **)&fixture), 0);
    }
    (void)state;
}

static void what_cannot_be_saved_is_said_before_anything_is(void **state) {
    struct fixture *fixture = *state;
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err;
    assert_int_equal(snapshot_writer_create(fixture->host, NULL, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(
        kvm_save(&fixture->instance, KELPIE_SNAPSHOT_CHECKPOINT, writer, &fixture->wait, &err),
        KELPIE_UNSUPPORTED);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    for (size_t i = 0; i < SNAPSHOT_FEATURE_COUNT_MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "name%zu", i);
        assert_int_equal(snapshot_manifest_add_feature(manifest, name, "value", &err), KELPIE_OK);
    }
    fixture->instance.medium.size = MEDIUM_BYTES; /* one feature more */
    assert_int_not_equal(
        kvm_save(&fixture->instance, KELPIE_SNAPSHOT_SUSPEND, writer, &fixture->wait, &err),
        KELPIE_OK);
    assert_int_equal(fixture->instance.answers_owed, 0);
    snapshot_writer_destroy(writer);
}

#define ORDER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        ORDER_TEST(each_order_gets_its_answer),
        ORDER_TEST(hazard_d1_what_only_the_owner_knows_is_not_believed),
        cmocka_unit_test(hazard_d1_what_is_no_answer_is_refused),
        ORDER_TEST(an_answer_in_two_parts_is_one),
        ORDER_TEST(hazard_d1_answers_that_are_owed_have_a_limit),
        ORDER_TEST(what_a_failed_send_means),
        ORDER_TEST(without_a_monitor_nothing_is_ordered),
        ORDER_TEST(a_machine_is_what_the_order_needs),
        ORDER_TEST(kernel_args_that_linux_would_cut_are_refused),
        cmocka_unit_test(any_call_of_a_save_in_memory_may_fail),
        cmocka_unit_test(a_prepared_machine_that_refuses_is_replaced),
        ORDER_TEST(what_cannot_be_saved_is_said_before_anything_is),
    };
    return cmocka_run_group_tests_name("kvm orders", tests, NULL, NULL);
}
