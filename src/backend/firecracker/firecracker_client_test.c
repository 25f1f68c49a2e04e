/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The client of Firecracker's API, against a socket whose answers lie ready before they are asked for. */
#include "backend/firecracker/firecracker_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define WAIT_MS 20000
#define SHORT_MS 20
#define LONG_SIZE 40000

static struct host *host;
static char scratch[64];
static char path[128];
static struct firecracker_client client;
static int listen_fd;
static int server_fd;
static int event;

static int setup(void **state) {
    (void)state;
    struct kelpie_error err;
    snprintf(scratch, sizeof(scratch), "/tmp/kelpie-test-XXXXXX");
    bool made = mkdtemp(scratch) && host_linux_create(&host, &err) == KELPIE_OK &&
                host_event_create(host, &event, &err) == KELPIE_OK;
    snprintf(path, sizeof(path), "%s/api", scratch);
    return made && host_socket_listen(host, path, &listen_fd, &err) == KELPIE_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    struct kelpie_error err;
    host_close(host, listen_fd);
    host_close(host, event);
    enum kelpie_status status = host_path_remove_tree(host, scratch, &err);
    host_destroy(host);
    return status == KELPIE_OK ? 0 : -1;
}

static struct host_wait wait_ms(uint64_t ms) {
    return host_wait_ms(host, ms, HOST_FD_NONE);
}

static void link_up(void) {
    const struct host_wait wait = wait_ms(WAIT_MS);
    struct kelpie_error err;
    firecracker_client_init(&client, host);
    assert_int_equal(firecracker_client_connect(&client, path, event, &wait, &err), KELPIE_OK);
    assert_int_equal(host_socket_accept(host, listen_fd, &wait, &server_fd, &err), KELPIE_OK);
}

static void link_down(void) {
    firecracker_client_close(&client);
    firecracker_client_close(&client);
    host_close(host, server_fd);
    server_fd = HOST_FD_NONE;
}

static void say(const char *text) {
    const struct host_wait wait = wait_ms(WAIT_MS);
    struct kelpie_error err;
    assert_int_equal(host_write_all(host, server_fd, text, strlen(text), &wait, &err), KELPIE_OK);
}

static enum kelpie_status ask_for(uint64_t ms, struct kelpie_error *err) {
    const struct host_wait wait = wait_ms(ms);
    return firecracker_client_ask(&client, "PUT", "/x", json_object(), &wait, err);
}

static void test_answers_are_told_apart(void **state) {
    (void)state;
    static const struct {
        const char *answer;
        enum kelpie_status status;
        const char *text;
    } cases[] = {
        {"HTTP/1.1 204 \r\n\r\n", KELPIE_OK, ""},
        {"HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n{}", KELPIE_INTERNAL, "no reason given"},
        {"HTTP/1.1 400 \r\nContent-Length: 43\r\n\r\n{\"fault_message\":\"a\\tb\\u007fc\\u0001 and "
         "d\"}",
         KELPIE_INTERNAL, "(status 400): a b c  and d"},
        {"HTTP/1.1 500 \r\nContent-Length: 41\r\n\r\n{\"fault_message\":\"No space left on disk\"}",
         KELPIE_NO_SPACE, "No space left"},
        {"HTTP/1.1 400 \r\nContent-Length: 4\r\n\r\nnone", KELPIE_INTERNAL, "no reason given"},
    };
    struct kelpie_error err = {0};
    link_up();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        say(cases[i].answer);
        assert_int_equal(ask_for(WAIT_MS, &err), cases[i].status);
        if (!strstr(err.message, cases[i].text)) {
            fail_msg("%zu: %s", i, err.message);
        }
    }
    assert_false(client.broken);
    link_down();
}

/* What is no answer breaks the connection: from then on nothing is believed. */
static void test_a_connection_breaks_for_good(void **state) {
    (void)state;
    static const struct {
        const char *answer;
        const char *text;
    } cases[] = {
        {"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "with a status that no order has"},
        {"HTTP/1.1 204 \r\n\r\nHTTP/1.1 204 \r\n\r\n", "said more than it was asked"},
        {"nonsense\r\n", "Firecracker's answer is none"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        link_up();
        say(cases[i].answer);
        assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_INTERNAL);
        assert_non_null(strstr(err.message, cases[i].text));
        assert_true(client.broken);
        assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_CRASHED);
        assert_non_null(strstr(err.message, "broken"));
        link_down();
    }
}

static void test_a_connection_that_ends_is_a_crash(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_ms(WAIT_MS);
    char bytes[512];
    size_t count = 0;
    link_up();
    assert_int_equal(ask_for(SHORT_MS, &err), KELPIE_TIMED_OUT);
    assert_int_equal(host_read(host, server_fd, bytes, sizeof(bytes), &wait, &count, &err),
                     KELPIE_OK);
    bytes[count < sizeof(bytes) ? count : sizeof(bytes) - 1] = '\0';
    assert_non_null(strstr(bytes, "PUT /x HTTP/1.1\r\n"));
    assert_non_null(strstr(bytes, "Content-Length: 2\r\n\r\n{}"));
    host_close(host, server_fd);
    server_fd = HOST_FD_NONE;
    assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_CRASHED); /* it cannot be written */
    assert_non_null(strstr(err.message, "closed the connection"));
    link_down();
    link_up();
    say("HTTP/1.1 204");
    host_close(host, server_fd);
    server_fd = HOST_FD_NONE;
    assert_int_equal(ask_for(WAIT_MS, NULL), KELPIE_CRASHED);
    link_down();
}

/* An answer that comes late is that of the request before; one that never comes makes it busy, at last. */
static void test_late_answers_are_waited_for(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    link_up();
    assert_int_equal(ask_for(SHORT_MS, &err), KELPIE_TIMED_OUT);
    assert_int_equal(ask_for(SHORT_MS, NULL), KELPIE_TIMED_OUT);
    say("HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n{}"
        "HTTP/1.1 204 \r\n\r\n");
    assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_OK);
    for (int i = 0; i < FIRECRACKER_ANSWERS_OWED_MAX; i++) {
        assert_int_equal(ask_for(SHORT_MS, &err), KELPIE_TIMED_OUT);
    }
    assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_BUSY);
    link_down();
}

/* Asks with what is left of the time already over, until the socket takes no more. */
static void test_a_request_that_is_half_sent_breaks_the_connection(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    static char junk[LONG_SIZE];
    const struct host_wait no_wait = host_wait_none();
    enum kelpie_status status = KELPIE_OK;
    for (int with_error = 0; with_error < 2; with_error++) {
        link_up();
        memset(junk, 'x', sizeof(junk));
        do {
            size_t count = 0;
            status = host_write(host, client.fd, junk, sizeof(junk), &no_wait, &count, &err);
        } while (status == KELPIE_OK);
        assert_int_equal(status, KELPIE_TIMED_OUT);
        assert_int_equal(ask_for(SHORT_MS, with_error ? &err : NULL), KELPIE_TIMED_OUT);
        assert_int_equal(ask_for(SHORT_MS, &err), KELPIE_CRASHED);
        link_down();
    }
}

static void test_what_cannot_be_asked_is_not(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_ms(WAIT_MS);
    static char text[LONG_SIZE];
    firecracker_client_init(&client, host);
    assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_WRONG_STATE);
    assert_int_equal(firecracker_client_ask(&client, "PUT", "/x", NULL, &wait, &err),
                     KELPIE_NO_MEMORY);
    link_up();
    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(
        firecracker_client_ask(&client, "PUT", "/x", json_pack("{s:s}", "x", text), &wait, &err),
        KELPIE_INTERNAL);
    assert_non_null(strstr(err.message, "longer than Firecracker takes"));
    assert_int_equal(client.answers_owed, 0);
    assert_false(client.broken);
    say("HTTP/1.1 204 \r\n\r\n");
    assert_int_equal(ask_for(WAIT_MS, &err), KELPIE_OK);
    link_down();
}

/* A process that is slow to listen is waited for: as long as it lives, and the caller wants. */
static void test_a_socket_that_does_not_come(void **state) {
    (void)state;
    char none[160];
    static char far[256];
    struct kelpie_error err = {0};
    snprintf(none, sizeof(none), "%s/none", scratch);
    firecracker_client_init(&client, host);
    const struct host_wait wait = wait_ms(SHORT_MS);
    assert_int_equal(firecracker_client_connect(&client, none, event, &wait, &err),
                     KELPIE_TIMED_OUT);
    /* A file that nobody listens at, as between bind and listen. */
    assert_int_equal(host_file_store(host, none, "", 0, 0600, &err), KELPIE_OK);
    const struct host_wait again = wait_ms(SHORT_MS);
    assert_int_equal(firecracker_client_connect(&client, none, event, &again, &err),
                     KELPIE_TIMED_OUT);
    host_event_set(host, event);
    const struct host_wait ended = wait_ms(WAIT_MS);
    assert_int_equal(firecracker_client_connect(&client, none, event, &ended, &err),
                     KELPIE_CRASHED);
    host_event_clear(host, event);
    /* What no waiting mends is told at once. */
    memset(far, 'x', sizeof(far) - 1);
    far[0] = '/';
    for (int with_error = 0; with_error < 2; with_error++) {
        const struct host_wait long_wait = wait_ms(WAIT_MS);
        enum kelpie_status status =
            firecracker_client_connect(&client, far, event, &long_wait, with_error ? &err : NULL);
        assert_int_not_equal(status, KELPIE_OK);
        assert_int_not_equal(status, KELPIE_TIMED_OUT);
    }
    int cancel = HOST_FD_NONE;
    assert_int_equal(host_event_create(host, &cancel, &err), KELPIE_OK);
    host_event_set(host, cancel);
    const struct host_wait cancelled = host_wait_ms(host, WAIT_MS, cancel);
    assert_int_equal(firecracker_client_connect(&client, none, event, &cancelled, &err),
                     KELPIE_CANCELLED);
    host_close(host, cancel);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_are_told_apart),
        cmocka_unit_test(test_a_connection_breaks_for_good),
        cmocka_unit_test(test_a_connection_that_ends_is_a_crash),
        cmocka_unit_test(test_late_answers_are_waited_for),
        cmocka_unit_test(test_a_request_that_is_half_sent_breaks_the_connection),
        cmocka_unit_test(test_what_cannot_be_asked_is_not),
        cmocka_unit_test(test_a_socket_that_does_not_come),
    };
    return cmocka_run_group_tests_name("backend/firecracker/client", tests, setup, teardown);
}
