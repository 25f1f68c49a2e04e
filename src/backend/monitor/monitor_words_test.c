/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a child says last, of much, of little, and after its end. */
#include "backend/monitor/monitor_words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/fault_host.h"

#define CHUNK_SIZE 1024

struct fixture {
    struct host *inner;
    struct host *host; /* knows what is open */
    struct monitor_words words;
    int theirs;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    monitor_words_init(&fixture->words);
    fixture->theirs = HOST_FD_NONE;
    *state = fixture;
    return 0;
}

static void stop_speaking(struct fixture *fixture) {
    host_close(fixture->host, fixture->theirs);
    fixture->theirs = HOST_FD_NONE;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    char text[256] = "";
    stop_speaking(fixture);
    monitor_words_close(&fixture->words, fixture->host);
    assert_int_equal(fault_host_leaks(fixture->host, text, sizeof(text)), 0);
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

static void open_words(struct fixture *fixture) {
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    assert_int_equal(host_socket_pair(fixture->host, fds, NULL), KELPIE_OK);
    monitor_words_open(&fixture->words, fds[0]);
    fixture->theirs = fds[1];
}

static void speak(struct fixture *fixture, const void *data, size_t size) {
    const struct host_wait wait = host_wait_ms(fixture->host, 10000, HOST_FD_NONE);
    assert_int_equal(host_write_all(fixture->host, fixture->theirs, data, size, &wait, NULL),
                     KELPIE_OK);
}

static void expect_words(const struct fixture *fixture, const char *text) {
    assert_int_equal(fixture->words.size, strlen(text));
    assert_memory_equal(fixture->words.text, text, strlen(text));
}

static void what_is_said_is_kept_until_the_end(void **state) {
    struct fixture *fixture = *state;
    monitor_words_drain(&fixture->words, fixture->host); /* no child yet */
    open_words(fixture);
    monitor_words_drain(&fixture->words, fixture->host);
    expect_words(fixture, "");
    assert_int_not_equal(monitor_words_fd(&fixture->words), HOST_FD_NONE);
    speak(fixture, "first ", 6);
    monitor_words_drain(&fixture->words, fixture->host);
    speak(fixture, "last", 4);
    stop_speaking(fixture);
    monitor_words_drain(&fixture->words, fixture->host);
    expect_words(fixture, "first last");
    assert_int_equal(monitor_words_fd(&fixture->words), HOST_FD_NONE);
    /* Still open: another thread may be waiting on it. */
    assert_int_not_equal(fixture->words.fd, HOST_FD_NONE);
    char text[256] = "";
    assert_int_equal(fault_host_leaks(fixture->host, text, sizeof(text)), 1);
}

static void another_childs_words_begin_anew(void **state) {
    struct fixture *fixture = *state;
    open_words(fixture);
    speak(fixture, "old", 3);
    monitor_words_drain(&fixture->words, fixture->host);
    monitor_words_close(&fixture->words, fixture->host);
    expect_words(fixture, "old"); /* a closed descriptor leaves them */
    stop_speaking(fixture);
    open_words(fixture);
    expect_words(fixture, "");
    speak(fixture, "new", 3);
    monitor_words_drain(&fixture->words, fixture->host);
    expect_words(fixture, "new");
}

/* Said in pieces of a size that does not divide the tail's. */
static void the_last_bytes_of_much_are_kept(void **state) {
    struct fixture *fixture = *state;
    static uint8_t said[20 * 777];
    for (size_t i = 0; i < sizeof(said); i++) {
        said[i] = (uint8_t)(i * 31 + i / 256);
    }
    open_words(fixture);
    for (size_t at = 0; at < sizeof(said); at += 777) {
        speak(fixture, said + at, 777);
        monitor_words_drain(&fixture->words, fixture->host);
        size_t kept =
            at + 777 < MONITOR_STDERR_TAIL_SIZE ? at + 777 : (size_t)MONITOR_STDERR_TAIL_SIZE;
        assert_int_equal(fixture->words.size, kept);
        assert_memory_equal(fixture->words.text, said + at + 777 - kept, kept);
    }
}

/* A child that never stops cannot keep its owner in one call. */
static void hazard_d1_a_drain_is_bounded(void **state) {
    struct fixture *fixture = *state;
    static char flood[(MONITOR_STDERR_READ_COUNT_MAX + 2) * CHUNK_SIZE];
    memset(flood, 'x', sizeof(flood));
    memset(flood + sizeof(flood) - 2 * CHUNK_SIZE, 'y', 2 * CHUNK_SIZE);
    open_words(fixture);
    speak(fixture, flood, sizeof(flood));
    monitor_words_drain(&fixture->words, fixture->host);
    assert_int_equal(fixture->words.size, MONITOR_STDERR_TAIL_SIZE);
    assert_null(memchr(fixture->words.text, 'y', fixture->words.size));
    monitor_words_drain(&fixture->words, fixture->host);
    assert_non_null(memchr(fixture->words.text, 'y', fixture->words.size));
}

static void a_read_that_fails_is_an_end(void **state) {
    struct fixture *fixture = *state;
    open_words(fixture);
    speak(fixture, "lost", 4);
    fault_host_arm(fixture->host, &(struct fault_plan){.nth = 1, .only = "read"});
    monitor_words_drain(&fixture->words, fixture->host);
    assert_string_equal(fault_host_fired(fixture->host), "read");
    fault_host_disarm(fixture->host);
    expect_words(fixture, "");
    assert_int_equal(monitor_words_fd(&fixture->words), HOST_FD_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_said_is_kept_until_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(another_childs_words_begin_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(the_last_bytes_of_much_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_d1_a_drain_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_read_that_fails_is_an_end, setup, teardown),
    };
    return cmocka_run_group_tests_name("monitor_words", tests, NULL, NULL);
}
