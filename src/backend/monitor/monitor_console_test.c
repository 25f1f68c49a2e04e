/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the guest writes to its console. */
#include "backend/monitor/monitor_console.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/monitor/monitor_limits.h"
#include "base/assert.h"
#include "support/fault_host.h"

#define LOG_SIZE_MAX 1000

struct fixture {
    struct host *host;
    struct monitor_console console;
    char log_path[64];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->log_path, sizeof(fixture->log_path), "/tmp/kelpie-console-%d", getpid());
    assert_int_equal(monitor_console_init(&fixture->console, fixture->host, fixture->log_path,
                                          LOG_SIZE_MAX, NULL),
                     KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    monitor_console_deinit(&fixture->console);
    assert_int_equal(host_path_unlink(fixture->host, fixture->log_path, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

/* The log's text, for free(). */
static char *log_text(struct fixture *fixture, size_t *ret_size) {
    char *text = NULL;
    assert_int_equal(
        host_file_load(fixture->host, fixture->log_path, 1048576, &text, ret_size, NULL),
        KELPIE_OK);
    return text;
}

static void output_goes_to_tail_and_log(void **state) {
    struct fixture *fixture = *state;
    monitor_console_write(&fixture->console, "one\n", 4);
    monitor_console_write(&fixture->console, "two\n", 4);
    char tail[16] = "";
    assert_int_equal(monitor_console_tail(&fixture->console, tail, sizeof(tail)), 8);
    assert_memory_equal(tail, "one\ntwo\n", 8);
    assert_int_equal(monitor_console_tail(&fixture->console, tail, 4), 4);
    assert_memory_equal(tail, "two\n", 4);
    size_t size = 0;
    char *text = log_text(fixture, &size);
    assert_string_equal(text, "one\ntwo\n");
    free(text);
}

static void hazard_d6_log_stops_at_its_limit_and_says_so(void **state) {
    struct fixture *fixture = *state;
    for (size_t i = 0; i < 1000; i++) {
        monitor_console_write(&fixture->console, "0123456789\n", 11);
    }
    size_t size = 0;
    char *text = log_text(fixture, &size);
    assert_true(size <= LOG_SIZE_MAX);
    assert_true(size > LOG_SIZE_MAX - 64);
    size_t notices = 0;
    for (const char *at = text; (at = strstr(at, "the console log is full")); at++) {
        notices++;
    }
    assert_int_equal(notices, 1);
    free(text);
}

/* Less room than what says that it is full: as much of that as fits. */
static void a_tiny_log_keeps_its_limit(void **state) {
    struct fixture *fixture = *state;
    size_t size = 0;
    monitor_console_deinit(&fixture->console);
    assert_int_equal(
        monitor_console_init(&fixture->console, fixture->host, fixture->log_path, 10, NULL),
        KELPIE_OK);
    monitor_console_write(&fixture->console, "0123456789\n", 11);
    monitor_console_write(&fixture->console, "0123456789\n", 11);
    char *text = log_text(fixture, &size);
    assert_string_equal(text, "\n[kelpie: ");
    free(text);
    char tail[32];
    assert_int_equal(monitor_console_tail(&fixture->console, tail, sizeof(tail)), 22);
}

/* Nothing is written behind a hole, and the guest's output is still in memory. */
static void a_log_that_cannot_be_written_is_given_up(void **state) {
    struct fixture *fixture = *state;
    struct host *faulty = NULL;
    size_t size = 0;
    char big[2 * LOG_SIZE_MAX];
    memset(big, 'b', sizeof(big));
    assert_int_equal(fault_host_create(fixture->host, &faulty, NULL), KELPIE_OK);
    monitor_console_deinit(&fixture->console);
    assert_int_equal(
        monitor_console_init(&fixture->console, faulty, fixture->log_path, LOG_SIZE_MAX, NULL),
        KELPIE_OK);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .os_error = ENOSPC});
    monitor_console_write(&fixture->console, big, sizeof(big));
    fault_host_disarm(faulty);
    monitor_console_write(&fixture->console, "last", 4);
    char *text = log_text(fixture, &size);
    assert_int_equal(size, 0);
    free(text);
    char tail[4];
    assert_int_equal(monitor_console_tail(&fixture->console, tail, sizeof(tail)), 4);
    assert_memory_equal(tail, "last", 4);
    assert_int_equal(fault_host_leaks(faulty, big, sizeof(big)), 0);
    monitor_console_deinit(&fixture->console);
    host_destroy(faulty);
}

static void hazard_a13_tail_keeps_the_last_bytes_only(void **state) {
    struct fixture *fixture = *state;
    char *big = malloc(3 * BACKEND_CONSOLE_TAIL_SIZE);
    assert_non_null(big);
    for (size_t i = 0; i < 3 * BACKEND_CONSOLE_TAIL_SIZE; i++) {
        big[i] = (char)(i % 251);
    }
    monitor_console_write(&fixture->console, "first", 5);
    monitor_console_write(&fixture->console, big, 3 * BACKEND_CONSOLE_TAIL_SIZE);
    monitor_console_write(&fixture->console, "last", 4);
    char *tail = malloc(2 * BACKEND_CONSOLE_TAIL_SIZE);
    assert_non_null(tail);
    size_t size = monitor_console_tail(&fixture->console, tail, 2 * BACKEND_CONSOLE_TAIL_SIZE);
    assert_int_equal(size, BACKEND_CONSOLE_TAIL_SIZE);
    assert_memory_equal(tail + size - 4, "last", 4);
    assert_memory_equal(tail, big + 2 * BACKEND_CONSOLE_TAIL_SIZE + 4, size - 4);
    free(tail);
    free(big);
}

/* One call reads a bounded amount, however much is there. */
static void hazard_a13_flood_does_not_hold_the_reader(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    static const char chunk[8192];
    const struct host_wait no_wait = host_wait_none();
    size_t sent = 0;
    size_t count = 0;
    while (host_write(host, fds[1], chunk, sizeof(chunk), &no_wait, &count, NULL) == KELPIE_OK) {
        sent += count;
    }
    const size_t bound = (size_t)MONITOR_CONSOLE_READ_COUNT_MAX * MONITOR_CONSOLE_CHUNK_SIZE;
    assert_true(sent > bound);
    assert_true(monitor_console_drain(&fixture->console, fds[0]));
    size_t left = 0;
    char buffer[8192];
    while (host_read(host, fds[0], buffer, sizeof(buffer), &no_wait, &count, NULL) == KELPIE_OK) {
        left += count;
    }
    assert_true(sent - left <= bound);
    assert_true(sent - left > 0);
    host_close(host, fds[1]);
    assert_false(monitor_console_drain(&fixture->console, fds[0]));
    host_close(host, fds[0]);
}

static void log_that_cannot_be_opened_is_a_config_error(void **state) {
    struct fixture *fixture = *state;
    struct monitor_console console = {0};
    struct kelpie_error err;
    assert_int_equal(
        monitor_console_init(&console, fixture->host, "/nowhere/at/all", LOG_SIZE_MAX, &err),
        KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "console_log");
    monitor_console_deinit(&console);
}

static void last_line_is_the_last_that_says_something(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *line;
    } cases[] = {
        {"", ""},
        {"\n\n", ""},
        {"one", "one"},
        {"one\ntwo\n\n", "two"},
        {"a\r\nb\r\n", "b"},
        {"x\n\033[0mred\n", "?[0mred"},
        {"0123456789abcdef", "0123456"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char line[8];
        monitor_last_line(cases[i].text, strlen(cases[i].text), line, sizeof(line));
        assert_int_equal(strncmp(line, cases[i].line, sizeof(line) - 1), 0);
    }
}

/* A panic says more than the stack trace that follows it; one that scrolled away is not looked for. */
static void last_line_is_the_panic(void **state) {
    struct fixture *fixture = *state;
    char line[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    static const char old[] = "Kernel panic - not syncing: old\nold trace\n";
    static const char panic[] =
        "[ 2.5] Kernel panic - not syncing: out of luck\r\n <TASK>\n </TASK>\n";
    monitor_console_write(&fixture->console, old, sizeof(old) - 1);
    monitor_console_write(&fixture->console, panic, sizeof(panic) - 1);
    monitor_console_last_line(&fixture->console, line, sizeof(line));
    assert_string_equal(line, "[ 2.5] Kernel panic - not syncing: out of luck");
    for (size_t i = 0; i < MONITOR_PANIC_TAIL_SIZE / 8; i++) {
        monitor_console_write(&fixture->console, "a line.\n", 8);
    }
    monitor_console_last_line(&fixture->console, line, sizeof(line));
    assert_string_equal(line, "a line.");
    monitor_console_write(&fixture->console, "Kernel panic - not syncing", 26);
    monitor_console_last_line(&fixture->console, line, sizeof(line));
    assert_string_equal(line, "Kernel panic - not syncing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(output_goes_to_tail_and_log, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_d6_log_stops_at_its_limit_and_says_so, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_tiny_log_keeps_its_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_that_cannot_be_written_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_a13_tail_keeps_the_last_bytes_only, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_a13_flood_does_not_hold_the_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(log_that_cannot_be_opened_is_a_config_error, setup,
                                        teardown),
        cmocka_unit_test(last_line_is_the_last_that_says_something),
        cmocka_unit_test_setup_teardown(last_line_is_the_panic, setup, teardown),
    };
    return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
