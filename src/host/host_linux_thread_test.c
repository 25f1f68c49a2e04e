/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's threads, mutexes and conditions. */
#include "host/host.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SHORT_MS 50
#define LONG_MS 20000
#define LATE_MS 5000
#define THREAD_COUNT 4
#define ADD_COUNT 5000

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

struct shared {
    struct host *host;
    struct host_mutex *mutex;
    struct host_condition *condition;
    long sum;
    bool ready;
};

static struct shared shared_init(struct host *host) {
    struct shared shared = {.host = host};
    assert_int_equal(host_mutex_create(host, &shared.mutex, NULL), KELPIE_OK);
    assert_int_equal(host_condition_create(host, &shared.condition, NULL), KELPIE_OK);
    return shared;
}

static void shared_deinit(struct shared *shared) {
    host_condition_destroy(shared->condition);
    host_mutex_destroy(shared->mutex);
}

static void add(void *argument) {
    struct shared *shared = argument;
    for (int i = 0; i < ADD_COUNT; i++) {
        host_mutex_lock(shared->mutex);
        shared->sum++;
        host_mutex_unlock(shared->mutex);
    }
}

static void a_mutex_excludes(void **state) {
    struct shared shared = shared_init(*state);
    struct host_thread *threads[THREAD_COUNT];
    for (int i = 0; i < THREAD_COUNT; i++) {
        assert_int_equal(host_thread_start(shared.host, "adder", add, &shared, &threads[i], NULL),
                         KELPIE_OK);
    }
    for (int i = 0; i < THREAD_COUNT; i++) {
        host_thread_join(threads[i]);
    }
    assert_int_equal(shared.sum, THREAD_COUNT * ADD_COUNT);
    shared_deinit(&shared);
}

struct description {
    char name[32];
    sigset_t blocked;
};

static void describe(void *argument) {
    struct description *description = argument;
    pthread_getname_np(pthread_self(), description->name, sizeof(description->name));
    pthread_sigmask(SIG_SETMASK, NULL, &description->blocked);
}

static void a_thread_has_its_name_and_no_signals(void **state) {
    struct description description = {0};
    struct host_thread *thread = NULL;
    assert_int_equal(
        host_thread_start(*state, "fifteen-letters", describe, &description, &thread, NULL),
        KELPIE_OK);
    host_thread_join(thread);
    assert_string_equal(description.name, "fifteen-letters");
    const int signals[] = {SIGINT, SIGTERM, SIGCHLD, SIGPIPE, SIGALRM, SIGUSR1};
    sigset_t ours;
    pthread_sigmask(SIG_SETMASK, NULL, &ours);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        assert_true(sigismember(&description.blocked, signals[i]));
        assert_false(sigismember(&ours, signals[i]));
    }
    host_thread_join(NULL);
}

static void a_condition_ends_at_its_deadline(void **state) {
    struct host *host = *state;
    struct shared shared = shared_init(host);
    uint64_t start_ns = host_monotonic_ns(host);
    uint64_t deadline_ns = host_wait_ms(host, SHORT_MS, HOST_FD_NONE).deadline_ns;
    host_mutex_lock(shared.mutex);
    while (host_condition_wait(shared.condition, shared.mutex, deadline_ns)) {
        /* A wake-up without a broadcast is allowed. */
    }
    host_mutex_unlock(shared.mutex);
    uint64_t elapsed_ms = (host_monotonic_ns(host) - start_ns) / HOST_NS_PER_MS;
    assert_true(elapsed_ms >= SHORT_MS);
    assert_true(elapsed_ms < LATE_MS);
    host_mutex_lock(shared.mutex);
    assert_false(host_condition_wait(shared.condition, shared.mutex, 0));
    host_mutex_unlock(shared.mutex);
    shared_deinit(&shared);
}

static void wait_until_ready(void *argument) {
    struct shared *shared = argument;
    host_mutex_lock(shared->mutex);
    bool in_time = true;
    while (!shared->ready && in_time) {
        in_time = host_condition_wait(shared->condition, shared->mutex, UINT64_MAX);
    }
    shared->sum += in_time;
    host_mutex_unlock(shared->mutex);
}

static void a_broadcast_wakes_all(void **state) {
    struct host *host = *state;
    struct shared shared = shared_init(host);
    struct host_thread *threads[THREAD_COUNT];
    for (int i = 0; i < THREAD_COUNT; i++) {
        assert_int_equal(
            host_thread_start(host, "waiter", wait_until_ready, &shared, &threads[i], NULL),
            KELPIE_OK);
    }
    struct host_wait pause = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(host, &pause, NULL), KELPIE_OK);
    host_mutex_lock(shared.mutex);
    assert_int_equal(shared.sum, 0);
    shared.ready = true;
    host_condition_broadcast(shared.condition);
    host_mutex_unlock(shared.mutex);
    for (int i = 0; i < THREAD_COUNT; i++) {
        host_thread_join(threads[i]);
    }
    assert_int_equal(shared.sum, THREAD_COUNT);
    shared_deinit(&shared);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_mutex_excludes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_thread_has_its_name_and_no_signals, setup, teardown),
        cmocka_unit_test_setup_teardown(a_condition_ends_at_its_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(a_broadcast_wakes_all, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_thread", tests, NULL, NULL);
}
