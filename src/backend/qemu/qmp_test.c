/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The QMP client against a peer that follows a script: well-behaved, slow, broken and hostile. */
#include "backend/qemu/qmp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "support/fault_host.h"

#define WAIT_MS 20000
#define SHORT_MS 100
#define LATE_MS 5000 /* how late a wait may be on a busy machine */

static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

struct fixture {
    struct host *inner;
    struct host *host;
    struct qmp *qmp;
    int peer_fd;
    int stop_event;
    struct host_thread *thread;
    const char *const *script; /* the answer to each line that comes, NULL-terminated; "" is none */
    bool trickle;              /* one byte at a time */
    bool flood;                /* then events without end */
    bool close_at_end;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(fixture->host, fds, NULL), KELPIE_OK);
    assert_int_equal(host_event_create(fixture->host, &fixture->stop_event, NULL), KELPIE_OK);
    assert_int_equal(qmp_create(fixture->host, fds[0], &fixture->qmp, NULL), KELPIE_OK);
    fixture->peer_fd = fds[1];
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    host_event_set(fixture->host, fixture->stop_event);
    host_thread_join(fixture->thread);
    qmp_destroy(fixture->qmp);
    host_close(fixture->host, fixture->peer_fd);
    host_close(fixture->host, fixture->stop_event);
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

static struct host_wait peer_wait(struct fixture *fixture) {
    return host_wait_ms(fixture->host, WAIT_MS, fixture->stop_event);
}

static bool peer_send(struct fixture *fixture, const char *text, size_t size) {
    struct host_wait wait = peer_wait(fixture);
    size_t step = fixture->trickle ? 1 : size;
    for (size_t at = 0; at < size; at += step) {
        if (host_write_all(fixture->host, fixture->peer_fd, text + at, step, &wait, NULL) !=
            KELPIE_OK) {
            return false;
        }
    }
    return true;
}

/* Reads one line, which is thrown away. */
static bool peer_read_line(struct fixture *fixture) {
    char byte = 0;
    while (byte != '\n') {
        struct host_wait wait = peer_wait(fixture);
        size_t count = 0;
        enum kelpie_status status =
            host_read(fixture->host, fixture->peer_fd, &byte, 1, &wait, &count, NULL);
        if (status != KELPIE_OK || count == 0) {
            return false;
        }
    }
    return true;
}

static void peer_main(void *argument) {
    struct fixture *fixture = argument;
    for (const char *const *answer = fixture->script; *answer; answer++) {
        bool first = answer == fixture->script;
        if ((!first && !peer_read_line(fixture)) || !peer_send(fixture, *answer, strlen(*answer))) {
            return;
        }
    }
    /* Many at once: faster than they can be parsed, so that there is always something to read. */
    static const char event[] = "{\"event\": \"RTC_CHANGE\", \"data\": {}}\n";
    char events[1000 * (sizeof(event) - 1)];
    for (size_t i = 0; i < sizeof(events); i++) {
        events[i] = event[i % (sizeof(event) - 1)];
    }
    while (fixture->flood && peer_send(fixture, events, sizeof(events))) {
    }
    if (fixture->close_at_end) {
        peer_read_line(fixture);
        host_close(fixture->host, fixture->peer_fd);
        fixture->peer_fd = HOST_FD_NONE;
    }
}

/* script[0] is said at once. */
static void peer_start(struct fixture *fixture, const char *const *script) {
    fixture->script = script;
    assert_int_equal(
        host_thread_start(fixture->host, "peer", peer_main, fixture, &fixture->thread, NULL),
        KELPIE_OK);
}

static enum kelpie_status greet(struct fixture *fixture, struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    return qmp_greet(fixture->qmp, &wait, err);
}

static enum kelpie_status execute(struct fixture *fixture, uint64_t timeout_ms, json_t **ret_data,
                                  struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(fixture->host, timeout_ms, HOST_FD_NONE);
    const struct qmp_command command = {.name = "query-status", .passed_fd = HOST_FD_NONE};
    return qmp_execute(fixture->qmp, &command, &wait, ret_data, err);
}

/* ---- Good manners ----------------------------------------------------------------------------- */

static void command_gets_its_answer(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {
        greeting, "{\"return\": {}, \"id\": 1}\r\n",
        "{\"event\": \"STOP\"}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n", NULL};
    peer_start(fixture, script);
    json_t *data = NULL;
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, WAIT_MS, &data, NULL), KELPIE_OK);
    assert_string_equal(json_string_value(json_object_get(data, "status")), "paused");
    json_decref(data);
}

/* Nothing of the command was sent: QEMU lives, and the connection is as good as before. */
static void a_descriptor_that_cannot_be_passed_is_no_crash(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\r\n",
                                         "{\"return\": {}, \"id\": 3}\r\n", NULL};
    struct kelpie_error err = {0};
    json_t *data = NULL;
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    const struct qmp_command command = {.name = "getfd", .passed_fd = fixture->stop_event};
    fault_host_arm(
        fixture->host,
        &(struct fault_plan){.nth = 1, .only = "socket_send_fd", .os_error = ETOOMANYREFS});
    assert_int_equal(qmp_execute(fixture->qmp, &command, &wait, NULL, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ETOOMANYREFS);
    assert_int_equal(execute(fixture, WAIT_MS, &data, &err), KELPIE_OK);
    json_decref(data);
    /* Nobody is there. */
    fault_host_arm(fixture->host,
                   &(struct fault_plan){.nth = 1, .only = "socket_send_fd", .os_error = EPIPE});
    assert_int_equal(qmp_execute(fixture->qmp, &command, &wait, NULL, &err), KELPIE_CRASHED);
    fault_host_disarm(fixture->host);
    assert_int_equal(execute(fixture, WAIT_MS, &data, &err), KELPIE_CRASHED);
}

/* What cannot be written may have been written in part: nothing more can be said, whatever the reason. */
static void a_command_that_is_cut_short_ends_the_connection(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\r\n", NULL};
    struct kelpie_error err = {0};
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    fault_host_arm(fixture->host, &(struct fault_plan){.nth = 1, .only = "write"});
    assert_int_equal(execute(fixture, WAIT_MS, NULL, &err), KELPIE_CRASHED);
    assert_non_null(strstr(err.message, "cannot speak to QEMU"));
    fault_host_disarm(fixture->host);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), KELPIE_CRASHED);
    assert_int_equal(qmp_fd(fixture->qmp), HOST_FD_NONE);
}

static void a_reset_while_a_descriptor_is_passed_is_a_crash(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\r\n", NULL};
    struct kelpie_error err = {0};
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    const struct qmp_command command = {.name = "getfd", .passed_fd = fixture->stop_event};
    fault_host_arm(fixture->host, &(struct fault_plan){
                                      .nth = 1, .only = "socket_send_fd", .os_error = ECONNRESET});
    assert_int_equal(qmp_execute(fixture->qmp, &command, &wait, NULL, &err), KELPIE_CRASHED);
    assert_int_equal(qmp_fd(fixture->qmp), HOST_FD_NONE);
}

static void *no_bytes(size_t size) {
    (void)size;
    return NULL;
}

/* Nothing was said, and the next command has the number that this one would have had. */
static void a_command_without_memory_is_not_sent(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\r\n",
                                         "{\"return\": {}, \"id\": 2}\r\n", NULL};
    struct kelpie_error err = {0};
    json_malloc_t allocate = NULL;
    json_free_t release = NULL;
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    json_get_alloc_funcs(&allocate, &release);
    json_set_alloc_funcs(no_bytes, release);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, &err), KELPIE_NO_MEMORY);
    json_set_alloc_funcs(allocate, release);
    assert_non_null(strstr(err.message, "query-status"));
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), KELPIE_OK);
}

static void trickled_bytes_make_a_message(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\r\n", "\r\n", NULL};
    fixture->trickle = true;
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
}

static void refusal_is_told_in_its_words(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {
        greeting, "{\"return\": {}, \"id\": 1}\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 2}\n",
        "{\"return\": {}, \"id\": 3}\n", NULL};
    peer_start(fixture, script);
    struct kelpie_error err;
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, &err), KELPIE_INTERNAL);
    assert_non_null(strstr(err.message, "no such thing"));
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), KELPIE_OK);
}

static void shutdown_event_is_remembered(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {
        greeting,
        "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n"
        "{\"return\": {}, \"id\": 1}\n",
        NULL};
    peer_start(fixture, script);
    struct qmp_events events = {0};
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    qmp_events_get(fixture->qmp, &events);
    assert_true(events.shutdown);
    assert_string_equal(events.shutdown_reason, "guest-reset");
}

/* ---- Time ------------------------------------------------------------------------------------- */

static void late_answer_is_dropped(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {
        greeting, "{\"return\": {}, \"id\": 1}\n", "",
        "{\"return\": {\"which\": 2}, \"id\": 2}\n{\"return\": {\"which\": 3}, \"id\": 3}\n", NULL};
    peer_start(fixture, script);
    json_t *data = NULL;
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, SHORT_MS, NULL, NULL), KELPIE_TIMED_OUT);
    assert_int_equal(execute(fixture, WAIT_MS, &data, NULL), KELPIE_OK);
    assert_int_equal(json_integer_value(json_object_get(data, "which")), 3);
    json_decref(data);
}

static void hazard_d1_flood_of_events_does_not_stretch_a_deadline(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\n", NULL};
    fixture->flood = true;
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    uint64_t start_ns = host_monotonic_ns(fixture->host);
    assert_int_equal(execute(fixture, SHORT_MS, NULL, NULL), KELPIE_TIMED_OUT);
    uint64_t took_ms = (host_monotonic_ns(fixture->host) - start_ns) / HOST_NS_PER_MS;
    assert_true(took_ms >= SHORT_MS);
    assert_true(took_ms < LATE_MS);
}

static void cancel_ends_the_wait(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {"", NULL};
    peer_start(fixture, script);
    int event = HOST_FD_NONE;
    assert_int_equal(host_event_create(fixture->host, &event, NULL), KELPIE_OK);
    host_event_set(fixture->host, event);
    struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, event);
    assert_int_equal(qmp_greet(fixture->qmp, &wait, NULL), KELPIE_CANCELLED);
    host_close(fixture->host, event);
}

/* ---- Bad manners ------------------------------------------------------------------------------ */

static void assert_breaks(struct fixture *fixture, const char *answer, enum kelpie_status status) {
    const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\n", answer, NULL};
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), status);
    /* For good: what comes later is not believed either, and is not polled for. */
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), status);
    assert_int_equal(qmp_fd(fixture->qmp), HOST_FD_NONE);
    host_event_set(fixture->host, fixture->stop_event);
    host_thread_join(TAKE(fixture->thread));
}

static void garbage_ends_the_connection(void **state) {
    assert_breaks(*state, "garbage\n{\"return\": {}, \"id\": 2}\n", KELPIE_INTERNAL);
}

static void another_id_ends_the_connection(void **state) {
    assert_breaks(*state, "{\"return\": {}, \"id\": 7}\n", KELPIE_INTERNAL);
}

static void a_line_of_nothing_ends_the_connection(void **state) {
    assert_breaks(*state, "\n", KELPIE_INTERNAL);
}

/* The first is taken; the second is to no question. */
static void a_second_answer_ends_the_connection(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\n",
                                         "{\"return\": 1, \"id\": 2}\n{\"return\": 2, \"id\": 2}\n",
                                         NULL};
    json_t *data = NULL;
    peer_start(fixture, script);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, WAIT_MS, &data, NULL), KELPIE_OK);
    assert_int_equal(json_integer_value(data), 1);
    json_decref(data);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), KELPIE_INTERNAL);
}

static void answer_without_id_ends_the_connection(void **state) {
    assert_breaks(*state, "{\"return\": {}}\n", KELPIE_INTERNAL);
}

static void second_greeting_ends_the_connection(void **state) {
    assert_breaks(*state, greeting, KELPIE_INTERNAL);
}

static void hazard_d1_line_without_end_is_refused(void **state) {
    char *line = malloc(QEMU_QMP_LINE_SIZE_MAX + 2);
    assert_non_null(line);
    memset(line, ' ', QEMU_QMP_LINE_SIZE_MAX + 1);
    line[QEMU_QMP_LINE_SIZE_MAX + 1] = 0;
    assert_breaks(*state, line, KELPIE_INTERNAL);
    free(line);
}

static void hazard_e1_end_within_a_message_is_a_crash(void **state) {
    struct fixture *fixture = *state;
    static const char *const script[] = {greeting, "{\"return\": {}, \"id\": 1}\n{\"ret", NULL};
    fixture->close_at_end = true;
    peer_start(fixture, script);
    struct kelpie_error err;
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, &err), KELPIE_CRASHED);
    assert_int_equal(execute(fixture, WAIT_MS, NULL, NULL), KELPIE_CRASHED);
}

/* ---- Two threads ------------------------------------------------------------------------------ */

#define RACE_COUNT 200

static void service_main(void *argument) {
    struct fixture *fixture = argument;
    for (;;) {
        struct host_poll_item item = {.fd = qmp_fd(fixture->qmp), .asked = HOST_POLL_READ};
        struct host_wait wait = peer_wait(fixture);
        if (host_poll(fixture->host, &item, 1, &wait, NULL) != KELPIE_OK) {
            return;
        }
        qmp_service(fixture->qmp);
    }
}

static void answer_read_by_the_service_thread_arrives(void **state) {
    struct fixture *fixture = *state;
    char answers[RACE_COUNT + 1][40];
    const char *script[RACE_COUNT + 3] = {greeting};
    for (size_t i = 0; i <= RACE_COUNT; i++) {
        snprintf(answers[i], sizeof(answers[i]), "{\"return\": %zu, \"id\": %zu}\n", i, i + 1);
        script[i + 1] = answers[i];
    }
    peer_start(fixture, script);
    struct host_thread *service = NULL;
    assert_int_equal(
        host_thread_start(fixture->host, "service", service_main, fixture, &service, NULL),
        KELPIE_OK);
    assert_int_equal(greet(fixture, NULL), KELPIE_OK);
    for (size_t i = 1; i <= RACE_COUNT; i++) {
        json_t *data = NULL;
        assert_int_equal(execute(fixture, WAIT_MS, &data, NULL), KELPIE_OK);
        assert_int_equal(json_integer_value(data), i);
        json_decref(data);
    }
    host_event_set(fixture->host, fixture->stop_event);
    host_thread_join(service);
}

/* ---- One message ------------------------------------------------------------------------------ */

static void messages_are_told_apart(void **state) {
    (void)state;
    static const struct {
        const char *line;
        bool good;
        enum qmp_kind kind;
        uint64_t id;
    } cases[] = {
        {"{\"QMP\": {}}", true, QMP_GREETING, 0},
        {"{\"return\": null, \"id\": 9}", true, QMP_RETURN, 9},
        {"{\"return\": {}, \"id\": -1}", true, QMP_RETURN, 0},
        {"{\"return\": {}, \"id\": \"9\"}", true, QMP_RETURN, 0},
        {"{\"error\": {}, \"id\": 3}", true, QMP_ERROR, 3},
        {"{\"event\": \"STOP\"}", true, QMP_EVENT, 0},
        {"", false, 0, 0},
        {"[]", false, 0, 0},
        {"{}", false, 0, 0},
        {"{\"event\": 1}", false, 0, 0},
        {"{\"error\": \"text\"}", false, 0, 0},
        {"{\"QMP\": 1}", false, 0, 0},
        {"{\"return\": {}} {}", false, 0, 0},
        {"{\"id\": 1, \"id\": 2, \"return\": {}}", false, 0, 0},
        {"{\"return\": \"\xff\"}", false, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct qmp_message message = {0};
        assert_int_equal(qmp_parse(cases[i].line, strlen(cases[i].line), &message), cases[i].good);
        if (cases[i].good) {
            assert_int_equal(message.kind, cases[i].kind);
            assert_int_equal(message.id, cases[i].id);
            assert_int_equal(message.has_id, cases[i].id != 0);
        }
        qmp_message_deinit(&message);
    }
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    char *line = malloc(QEMU_QMP_LINE_SIZE_MAX);
    assert_non_null(line);
    memset(line, '[', QEMU_QMP_LINE_SIZE_MAX);
    struct qmp_message message = {0};
    assert_false(qmp_parse(line, QEMU_QMP_LINE_SIZE_MAX, &message));
    free(line);
}

static void long_names_are_cut(void **state) {
    (void)state;
    char line[1024];
    int size = snprintf(line, sizeof(line), "{\"event\": \"%0600d\"}", 0);
    struct qmp_message message = {0};
    assert_true(qmp_parse(line, (size_t)size, &message));
    assert_int_equal(strlen(message.name), QEMU_QMP_NAME_SIZE_MAX);
    qmp_message_deinit(&message);
}

#define FIXTURE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(command_gets_its_answer),
        FIXTURE_TEST(a_descriptor_that_cannot_be_passed_is_no_crash),
        FIXTURE_TEST(a_command_that_is_cut_short_ends_the_connection),
        FIXTURE_TEST(a_reset_while_a_descriptor_is_passed_is_a_crash),
        FIXTURE_TEST(a_command_without_memory_is_not_sent),
        FIXTURE_TEST(trickled_bytes_make_a_message),
        FIXTURE_TEST(refusal_is_told_in_its_words),
        FIXTURE_TEST(shutdown_event_is_remembered),
        FIXTURE_TEST(late_answer_is_dropped),
        FIXTURE_TEST(hazard_d1_flood_of_events_does_not_stretch_a_deadline),
        FIXTURE_TEST(cancel_ends_the_wait),
        FIXTURE_TEST(garbage_ends_the_connection),
        FIXTURE_TEST(another_id_ends_the_connection),
        FIXTURE_TEST(a_line_of_nothing_ends_the_connection),
        FIXTURE_TEST(a_second_answer_ends_the_connection),
        FIXTURE_TEST(answer_without_id_ends_the_connection),
        FIXTURE_TEST(second_greeting_ends_the_connection),
        FIXTURE_TEST(hazard_d1_line_without_end_is_refused),
        FIXTURE_TEST(hazard_e1_end_within_a_message_is_a_crash),
        FIXTURE_TEST(answer_read_by_the_service_thread_arrives),
        cmocka_unit_test(messages_are_told_apart),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(long_names_are_cut),
    };
    return cmocka_run_group_tests_name("qmp", tests, NULL, NULL);
}
