/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Two threads and one VM, on a mock that takes long to boot: who waits for whom, and who ends whose wait. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie.h"

#define BOOT_MS 60000 /* longer than any test takes */
#define OPERATION_MS 100
#define FAST_MS 10000 /* what is at once, on a busy machine */

struct starter {
    struct kelpie_vm *vm;
    pthread_t thread;
    enum kelpie_status status;
    struct kelpie_error err;
};

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void *run_start(void *data) {
    struct starter *starter = data;
    starter->status = kelpie_vm_start(starter->vm, &starter->err);
    return NULL;
}

/* A VM that another thread is starting. */
static void begin(struct starter *starter, struct kelpie_mock_config *mock) {
    const struct kelpie_config config = {.backend = "mock",
                                         .memory_mib = 64,
                                         .mock = mock,
                                         .boot_timeout_ms = 2 * BOOT_MS,
                                         .operation_timeout_ms = OPERATION_MS};
    enum kelpie_state state;
    *starter = (struct starter){0};
    assert_int_equal(kelpie_vm_create(&config, &starter->vm, NULL), KELPIE_OK);
    assert_int_equal(pthread_create(&starter->thread, NULL, run_start, starter), 0);
    assert_int_equal(
        kelpie_vm_wait(starter->vm, 1u << KELPIE_STATE_STARTING, FAST_MS, &state, NULL), KELPIE_OK);
}

static void join(struct starter *starter) {
    assert_int_equal(pthread_join(starter->thread, NULL), 0);
}

static void test_a_stop_ends_a_start(void **state) {
    (void)state;
    struct kelpie_mock_config mock = {.boot_delay_ms = BOOT_MS};
    struct starter starter;
    uint64_t before = now_ms();
    begin(&starter, &mock);
    assert_int_equal(kelpie_vm_stop(starter.vm, 0, NULL), KELPIE_OK);
    join(&starter);
    assert_int_not_equal(starter.status, KELPIE_OK);
    assert_int_equal(starter.err.status, starter.status);
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_STOPPED);
    assert_true(now_ms() - before < FAST_MS);
    kelpie_vm_destroy(starter.vm);
}

/* A start that is ended leaves a VM that starts. */
static void test_a_start_after_one_that_was_ended(void **state) {
    (void)state;
    struct kelpie_mock_config mock = {.boot_delay_ms = 300};
    struct starter starter;
    begin(&starter, &mock);
    assert_int_equal(kelpie_vm_stop(starter.vm, 0, NULL), KELPIE_OK);
    join(&starter);
    assert_int_equal(kelpie_vm_start(starter.vm, &starter.err), KELPIE_OK);
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_RUNNING);
    assert_int_equal(kelpie_vm_stop(starter.vm, 0, NULL), KELPIE_OK);
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_STOPPED);
    kelpie_vm_destroy(starter.vm);
}

static void test_an_operation_waits_its_time_for_another(void **state) {
    (void)state;
    struct kelpie_mock_config mock = {.boot_delay_ms = BOOT_MS};
    struct starter starter;
    struct kelpie_error err = {0};
    begin(&starter, &mock);
    uint64_t before = now_ms();
    assert_int_equal(kelpie_vm_pause(starter.vm, &err), KELPIE_BUSY);
    assert_true(now_ms() - before >= OPERATION_MS);
    assert_non_null(strstr(err.message, "another operation"));
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_STARTING);
    kelpie_vm_cancel(starter.vm);
    join(&starter);
    assert_int_equal(starter.status, KELPIE_CANCELLED);
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_CREATED);
    kelpie_vm_destroy(starter.vm);
}

/* One that comes after the start goes on when that has ended. */
static void test_an_operation_waits_for_the_end_of_another(void **state) {
    (void)state;
    struct kelpie_mock_config mock = {.boot_delay_ms = 20};
    struct starter starter;
    uint64_t ns = 0;
    begin(&starter, &mock);
    enum kelpie_status status = KELPIE_BUSY;
    for (int i = 0; i < 100 && status == KELPIE_BUSY; i++) {
        status = kelpie_vm_pause(starter.vm, NULL);
    }
    assert_int_equal(status, KELPIE_OK);
    join(&starter);
    assert_int_equal(starter.status, KELPIE_OK);
    assert_int_equal(kelpie_vm_state(starter.vm), KELPIE_STATE_PAUSED);
    assert_int_equal(kelpie_vm_resume(starter.vm, NULL), KELPIE_OK);
    assert_int_equal(kelpie_vm_ping(starter.vm, &ns, NULL), KELPIE_OK);
    kelpie_vm_destroy(starter.vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stop_ends_a_start),
        cmocka_unit_test(test_a_start_after_one_that_was_ended),
        cmocka_unit_test(test_an_operation_waits_its_time_for_another),
        cmocka_unit_test(test_an_operation_waits_for_the_end_of_another),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
