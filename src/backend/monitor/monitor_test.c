/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A child's life: a shell stands in for the hypervisor. And each host call of it failing in turn. */
#include "backend/monitor/monitor.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define WAIT_MS 10000
#define NTH_MAX 200

struct fixture {
    struct host *inner;
    struct host *host; /* fails as told */
    struct kelpie_config config;
    struct monitor monitor;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    assert_int_equal(
        monitor_init(&fixture->monitor, fixture->host, &fixture->config, "the shell", NULL),
        KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    char text[256] = "";
    monitor_take_down(&fixture->monitor, NULL);
    monitor_deinit(&fixture->monitor);
    if (fault_host_leaks(fixture->host, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

static enum kelpie_status launch(struct fixture *fixture, const char *script,
                                 struct kelpie_error *err) {
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    const struct monitor_launch what = {.argv = argv};
    return monitor_launch(&fixture->monitor, &what, err);
}

static void await_end(struct fixture *fixture) {
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    monitor_await_end(&fixture->monitor, &wait);
}

static const char *exit_text(struct fixture *fixture, const char *reason) {
    static char text[MONITOR_EXIT_TEXT_SIZE];
    host_mutex_lock(fixture->monitor.lock);
    monitor_exit_text(&fixture->monitor, reason, text, sizeof(text));
    host_mutex_unlock(fixture->monitor.lock);
    return text;
}

/* ---- How it ends ------------------------------------------------------------------------------ */

static void test_how_an_end_is_told(void **state) {
    struct fixture *fixture = *state;
    static const struct {
        const char *script;
        const char *reason;
        const char *text;
    } cases[] = {
        {"exit 0", NULL, "the shell exited with code 0; it said nothing"},
        {"exit 3", "a reset", "the shell exited with code 3 after a reset; it said nothing"},
        {"echo first >&2; echo last >&2; exit 1", NULL,
         "the shell exited with code 1; its last words: last"},
        {"echo panic >&4; exit 1", NULL,
         "the shell exited with code 1; the console's last line: panic"},
        {"echo panic >&4; echo words >&2; kill -9 $$", NULL,
         "the shell was killed by signal 9; its last words: words; the console's last line: "
         "panic"},
    };
    assert_string_equal(exit_text(fixture, NULL), "the shell is not running");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(launch(fixture, cases[i].script, NULL), KELPIE_OK);
        await_end(fixture);
        monitor_take_down(&fixture->monitor, cases[i].reason);
        assert_string_equal(exit_text(fixture, "it is remembered"), cases[i].text);
        monitor_console_deinit(&fixture->monitor.console); /* a new one for the next */
        assert_int_equal(
            monitor_console_init(&fixture->monitor.console, fixture->host, NULL, 0, NULL),
            KELPIE_OK);
    }
}

static void test_the_end_of_a_channel_is_explained(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    assert_int_equal(monitor_explain(&fixture->monitor, NULL, KELPIE_CRASHED, &err),
                     KELPIE_CRASHED); /* nothing runs: what was said stays */
    assert_string_equal(err.message, "");
    assert_int_equal(launch(fixture, "echo why >&2; exit 7", NULL), KELPIE_OK);
    assert_int_equal(monitor_explain(&fixture->monitor, "a test", KELPIE_BOOT_FAILED, &err),
                     KELPIE_BOOT_FAILED);
    assert_string_equal(err.message,
                        "the shell exited with code 7 after a test; its last words: why");
    monitor_take_down(&fixture->monitor, NULL);
    /* It let go of the channel, and lives on. */
    assert_int_equal(launch(fixture, "exec sleep 1000", NULL), KELPIE_OK);
    (void)error_set(&err, KELPIE_CRASHED, "the channel ended");
    assert_int_equal(monitor_explain(&fixture->monitor, NULL, KELPIE_CRASHED, &err),
                     KELPIE_CRASHED);
    assert_non_null(strstr(err.message, "the shell let go of its control channel"));
    /* It is said to have crashed, so it must not live on. */
    await_end(fixture);
    const struct host_wait no_wait = host_wait_none();
    struct host_process_exit end = {0};
    assert_int_equal(host_process_wait(fixture->monitor.process, &no_wait, &end, &err), KELPIE_OK);
    assert_int_equal(end.signal, SIGKILL);
}

static void test_kill_and_take_down(void **state) {
    struct fixture *fixture = *state;
    monitor_kill(&fixture->monitor); /* nothing runs */
    await_end(fixture);
    assert_int_equal(monitor_process_id(&fixture->monitor), 0);
    assert_int_equal(monitor_exit_fd(&fixture->monitor), HOST_FD_NONE);
    assert_int_equal(launch(fixture, "trap '' TERM INT; exec sleep 1000", NULL), KELPIE_OK);
    int id = monitor_process_id(&fixture->monitor);
    assert_int_equal(kill(id, 0), 0);
    assert_int_not_equal(monitor_exit_fd(&fixture->monitor), HOST_FD_NONE);
    assert_int_not_equal(monitor_channel_fd(&fixture->monitor), HOST_FD_NONE);
    monitor_kill(&fixture->monitor);
    await_end(fixture);
    monitor_kill(&fixture->monitor); /* it has ended already */
    assert_string_equal(exit_text(fixture, NULL),
                        "the shell was killed by signal 9; it said nothing");
    monitor_take_down(&fixture->monitor, NULL);
    assert_int_equal(monitor_channel_fd(&fixture->monitor), HOST_FD_NONE);
    assert_int_equal(kill(id, 0), -1);
    /* One that runs is killed. */
    assert_int_equal(launch(fixture, "exec sleep 1000", NULL), KELPIE_OK);
    monitor_take_down(&fixture->monitor, "its time");
    assert_string_equal(exit_text(fixture, NULL),
                        "the shell was killed by signal 9 after its time; it said nothing");
}

/* ---- Service ---------------------------------------------------------------------------------- */

static void wait_readable(struct fixture *fixture, int fd) {
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    struct host_poll_item item = {.fd = fd, .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(fixture->host, &item, 1, &wait, NULL), KELPIE_OK);
}

static void test_service_reads_until_each_end(void **state) {
    struct fixture *fixture = *state;
    struct monitor *monitor = &fixture->monitor;
    int fds[8];
    char tail[16];
    assert_int_equal(monitor_service_fds(monitor, fds, ARRAY_SIZE(fds)), 0);
    assert_int_equal(
        launch(fixture, "echo console >&4; echo words >&2; exec 2>&- 4>&-; exec sleep 1000", NULL),
        KELPIE_OK);
    assert_int_equal(monitor_service_fds(monitor, fds, 0), 0);
    assert_int_equal(monitor_service_fds(monitor, fds, 1), 1);
    assert_int_equal(monitor_service_fds(monitor, fds, ARRAY_SIZE(fds)), 2);
    assert_false(monitor_service(monitor, monitor_channel_fd(monitor)));
    size_t left = 2;
    for (int i = 0; i < 100 && left > 0; i++) {
        wait_readable(fixture, fds[0]);
        assert_true(monitor_service(monitor, fds[0]));
        left = monitor_service_fds(monitor, fds, ARRAY_SIZE(fds));
    }
    assert_int_equal(left, 0);
    assert_int_equal(monitor_console(monitor, tail, sizeof(tail)), 8);
    assert_memory_equal(tail, "console\n", 8);
    assert_memory_equal(monitor->words.text, "words\n", 6);
}

/* ---- Failures --------------------------------------------------------------------------------- */

static void test_a_program_that_is_not_there(void **state) {
    struct fixture *fixture = *state;
    const char *const argv[] = {"/nope/nope", NULL};
    const struct monitor_launch what = {.argv = argv};
    assert_int_equal(monitor_launch(&fixture->monitor, &what, NULL), KELPIE_NOT_FOUND);
    assert_int_equal(monitor_process_id(&fixture->monitor), 0);
}

static void test_a_log_that_cannot_be_opened(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    struct monitor other = {0};
    const struct kelpie_config config = {.console_log = "/nope/log"};
    assert_int_equal(monitor_init(&other, fixture->host, &config, "other", &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "console_log");
    monitor_deinit(&other);
    assert_int_equal(monitor_init(&other, fixture->host, &config, "other", NULL),
                     KELPIE_BAD_CONFIG);
    monitor_deinit(&other);
}

static void run_life(struct host *host) {
    const char *const argv[] = {"/bin/sh", "-c", "echo a >&4; echo b >&2; exit 1", NULL};
    const struct monitor_launch what = {.argv = argv};
    const struct kelpie_config config = {.console_log = "/dev/null", .console_bytes_max = 1000};
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err = {0};
    struct monitor monitor = {0};
    char text[MONITOR_EXIT_TEXT_SIZE] = "";
    if (monitor_init(&monitor, host, &config, "the shell", &err) == KELPIE_OK &&
        monitor_launch(&monitor, &what, &err) == KELPIE_OK) {
        monitor_await_end(&monitor, &wait);
        (void)!monitor_explain(&monitor, NULL, KELPIE_CRASHED, &err);
        monitor_take_down(&monitor, NULL);
        host_mutex_lock(monitor.lock);
        monitor_exit_text(&monitor, NULL, text, sizeof(text));
        host_mutex_unlock(monitor.lock);
        assert_non_null(strstr(text, "the shell"));
    }
    monitor_deinit(&monitor);
}

static void each_host_call_fails(void **state) {
    struct fixture *fixture = *state;
    for (int sticky = 0; sticky < 2; sticky++) {
        const char *fired = "";
        for (uint64_t nth = 1; fired; nth++) {
            char text[256] = "";
            assert_true(nth < NTH_MAX);
            size_t open = fault_host_leaks(fixture->host, text, sizeof(text));
            fault_host_arm(fixture->host, &(struct fault_plan){.nth = nth, .sticky = sticky});
            run_life(fixture->host);
            fired = fault_host_fired(fixture->host);
            fault_host_disarm(fixture->host);
            assert_int_equal(fault_host_leaks(fixture->host, text, sizeof(text)), open);
        }
    }
}

#define MONITOR_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        MONITOR_TEST(test_how_an_end_is_told),
        MONITOR_TEST(test_the_end_of_a_channel_is_explained),
        MONITOR_TEST(test_kill_and_take_down),
        MONITOR_TEST(test_service_reads_until_each_end),
        MONITOR_TEST(test_a_program_that_is_not_there),
        MONITOR_TEST(test_a_log_that_cannot_be_opened),
        MONITOR_TEST(each_host_call_fails),
    };
    return cmocka_run_group_tests_name("monitor", tests, NULL, NULL);
}
