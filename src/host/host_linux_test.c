/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's clocks, waits, random bytes and environment. */
#include "host/host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SHORT_MS 50
#define LONG_MS 20000
#define LATE_MS 5000 /* how late a wait may be on a busy machine; far below LONG_MS */

static int setup(void **state) {
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    *state = host;
    return 0;
}

static int teardown(void **state) {
    host_destroy(*state);
    return 0;
}

static uint64_t elapsed_ms(struct host *host, uint64_t since_ns) {
    return (host_monotonic_ns(host) - since_ns) / HOST_NS_PER_MS;
}

static void clocks_advance(void **state) {
    struct host *host = *state;
    uint64_t before = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, 2, HOST_FD_NONE);
    assert_int_equal(host_sleep(host, &wait, NULL), KELPIE_OK);
    assert_true(host_monotonic_ns(host) >= before + 2 * HOST_NS_PER_MS);
    assert_true(host_realtime_ns(host) > 1600000000ull * HOST_NS_PER_S);
}

static void ticks_advance_with_the_processor(void **state) {
    struct host *host = *state;
    uint64_t before = host_ticks(host);
    struct host_wait wait = host_wait_ms(host, 2, HOST_FD_NONE);
    assert_int_equal(host_sleep(host, &wait, NULL), KELPIE_OK);
#if defined(__x86_64__)
    assert_true(before > 0);
    assert_true(host_ticks(host) > before);
#else
    assert_true(before == 0 && host_ticks(host) == 0);
#endif
}

static void wait_ms_saturates(void **state) {
    struct host *host = *state;
    assert_true(host_wait_ms(host, UINT64_MAX, HOST_FD_NONE).deadline_ns == UINT64_MAX);
    uint64_t nearly_all = UINT64_MAX / HOST_NS_PER_MS;
    assert_true(host_wait_ms(host, nearly_all, HOST_FD_NONE).deadline_ns == UINT64_MAX);
    assert_true(host_wait_none().deadline_ns == 0);
    assert_int_equal(host_wait_none().cancel_fd, HOST_FD_NONE);
}

static void sleep_ends_at_its_deadline(void **state) {
    struct host *host = *state;
    uint64_t start = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(host, &wait, NULL), KELPIE_OK);
    assert_true(elapsed_ms(host, start) >= SHORT_MS);
    assert_true(elapsed_ms(host, start) < LATE_MS);
}

struct later {
    struct host *host;
    int event;
};

static void set_event_later(void *argument) {
    struct later *later = argument;
    struct host_wait wait = host_wait_ms(later->host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(later->host, &wait, NULL), KELPIE_OK);
    host_event_set(later->host, later->event);
}

static void sleep_is_cancelled(void **state) {
    struct host *host = *state;
    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    assert_int_equal(host_event_create(host, &event.fd, NULL), KELPIE_OK);
    struct later later = {host, event.fd};
    struct host_thread *thread = NULL;
    assert_int_equal(host_thread_start(host, "later", set_event_later, &later, &thread, NULL),
                     KELPIE_OK);
    uint64_t start = host_monotonic_ns(host);
    struct kelpie_error err = {0};
    struct host_wait wait = host_wait_ms(host, LONG_MS, event.fd);
    assert_int_equal(host_sleep(host, &wait, &err), KELPIE_CANCELLED);
    assert_int_equal(err.status, KELPIE_CANCELLED);
    assert_true(elapsed_ms(host, start) < LATE_MS);
    host_thread_join(thread);

    /* It stays set until it is cleared. */
    assert_int_equal(host_sleep(host, &wait, &err), KELPIE_CANCELLED);
    host_event_clear(host, event.fd);
    wait = host_wait_ms(host, 1, event.fd);
    assert_int_equal(host_sleep(host, &wait, &err), KELPIE_OK);
}

static void random_bytes_differ(void **state) {
    struct host *host = *state;
    static unsigned char first[HOST_RANDOM_SIZE_MAX];
    static unsigned char second[HOST_RANDOM_SIZE_MAX];
    assert_int_equal(host_random(host, first, sizeof(first), NULL), KELPIE_OK);
    assert_int_equal(host_random(host, second, sizeof(second), NULL), KELPIE_OK);
    assert_memory_not_equal(first, second, sizeof(first));
    unsigned char zeros[64] = {0};
    assert_memory_not_equal(first + sizeof(first) - 64, zeros, 64);
}

static void environment_takes_empty_for_unset(void **state) {
    struct host *host = *state;
    setenv("KELPIE_HOST_TEST", "value", 1);
    assert_string_equal(host_environment(host, "KELPIE_HOST_TEST"), "value");
    setenv("KELPIE_HOST_TEST", "", 1);
    assert_null(host_environment(host, "KELPIE_HOST_TEST"));
    unsetenv("KELPIE_HOST_TEST");
    assert_null(host_environment(host, "KELPIE_HOST_TEST"));
}

static void allocate_is_zeroed_and_says_no(void **state) {
    struct host *host = *state;
    struct kelpie_error err = {0};
    unsigned char *memory = host_allocate(host, 4096, &err);
    assert_non_null(memory);
    unsigned char zeros[4096] = {0};
    assert_memory_equal(memory, zeros, sizeof(zeros));
    free(memory);
    char *copy = host_duplicate(host, "kelpie", &err);
    assert_string_equal(copy, "kelpie");
    free(copy);
}

static void who_and_where_we_are_is_told(void **state) {
    struct host *host = *state;
    char path[HOST_PATH_SIZE_MAX + 1];
    char expected[HOST_PATH_SIZE_MAX + 1];
    assert_int_equal(host_user_id(host), geteuid());
    assert_non_null(getcwd(expected, sizeof(expected)));
    assert_int_equal(host_working_dir(host, path, sizeof(path), NULL), KELPIE_OK);
    assert_string_equal(path, expected);
    assert_int_equal(host_working_dir(host, path, strlen(expected), NULL), KELPIE_NO_SPACE);
    assert_int_equal(host_working_dir(host, path, strlen(expected) + 1, NULL), KELPIE_OK);

    /* A folder that is gone has no path. */
    char gone[] = "/tmp/kelpie-gone-XXXXXX";
    assert_non_null(mkdtemp(gone));
    assert_int_equal(chdir(gone), 0);
    assert_int_equal(rmdir(gone), 0);
    assert_int_equal(host_working_dir(host, path, sizeof(path), NULL), KELPIE_NOT_FOUND);
    assert_int_equal(chdir(expected), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_advance),
        cmocka_unit_test(ticks_advance_with_the_processor),
        cmocka_unit_test(wait_ms_saturates),
        cmocka_unit_test(sleep_ends_at_its_deadline),
        cmocka_unit_test(sleep_is_cancelled),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(environment_takes_empty_for_unset),
        cmocka_unit_test(allocate_is_zeroed_and_says_no),
        cmocka_unit_test(who_and_where_we_are_is_told),
    };
    return cmocka_run_group_tests_name("host_linux", tests, setup, teardown);
}
