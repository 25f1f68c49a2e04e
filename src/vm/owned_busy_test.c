/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Requests of an owner that another request holds up, and a machine to which no channel comes: on a host where every wait of
 * the test's own is over at once, so that what takes seconds takes none.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/owner_vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)

static struct host *host;
static struct host_ops ops; /* the host's, but for what follows */
static const struct host_ops *own_ops;
static pthread_t tester;
static atomic_bool impatient;
static atomic_size_t allocations_left; /* of the tester's; then they fail */

static bool condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                           uint64_t deadline_ns) {
    bool over = impatient && pthread_equal(pthread_self(), tester);
    return !over && own_ops->condition_wait(condition, mutex, deadline_ns);
}

static void *allocate(struct host *self, size_t size) {
    if (pthread_equal(pthread_self(), tester) && allocations_left-- == 0) {
        return NULL;
    }
    return own_ops->allocate(self, size);
}

static int set_up(void **state) {
    (void)state;
    OK(host_linux_create(&host, NULL));
    own_ops = host->ops;
    ops = *host->ops;
    ops.condition_wait = condition_wait;
    ops.allocate = allocate;
    host->ops = &ops;
    tester = pthread_self();
    impatient = false;
    allocations_left = SIZE_MAX;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    owner_vm_forget();
    host_destroy(host);
    return 0;
}

static struct kelpie_vm *create(void) {
    struct kelpie_error err = {0};
    const struct kelpie_config config = {
        .name = "a", .backend = "mock", .memory_mib = 64, .host = host};
    struct kelpie_vm *vm = owner_vm_create(&config, &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
    OK(kelpie_vm_start(vm, NULL));
    return vm;
}

/* ---- Requests ----------------------------------------------------------------------------------- */

typedef enum kelpie_status work(struct kelpie_vm *vm, struct kelpie_error *err);

static enum kelpie_status stop(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err);
}
static enum kelpie_status snapshot(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_vm_snapshot(vm, "/nowhere/at/all", NULL, NULL, err);
}
static enum kelpie_status restore(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_vm_restore(vm, "/nowhere/at/all", NULL, err);
}
static enum kelpie_status report(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_restore_report ignored;
    return kelpie_vm_restore_report(vm, &ignored, err);
}
static enum kelpie_status stats(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_stats ignored;
    return kelpie_vm_stats(vm, &ignored, err);
}
static enum kelpie_status fork_two(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_fork_child children[2] = {0};
    return kelpie_vm_fork(vm, NULL, 2, children, err);
}
static enum kelpie_status lever(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_mock_crash(vm, err);
}
static enum kelpie_status run_detached(struct kelpie_vm *vm, struct kelpie_error *err) {
    uint32_t id = 0;
    const struct kelpie_command command = {.argv = ARGV("true")};
    return kelpie_vm_run_detached(vm, &command, &id, err);
}
static enum kelpie_status wait_detached(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_exit ignored;
    return kelpie_vm_wait_detached(vm, 0, &ignored, err);
}

static work *const requests[] = {
    kelpie_vm_start, stop,     kelpie_vm_pause, kelpie_vm_resume,
    snapshot,        restore,  report,          kelpie_vm_record_working_set,
    stats,           fork_two, lever,           run_detached,
    wait_detached,
};

/* One that was cancelled and does not come to its end: whoever comes next waits for it, and then says so. */
static void hazard_e1_a_request_that_does_not_end(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        struct kelpie_error err = {0};
        vm_lock(vm);
        assert_int_equal(vm->owner_request_count, 0);
        vm->owner_request_count = 1;
        vm->cancel_count = vm->begun_cancel_count + 1;
        vm_unlock(vm);
        impatient = true;
        assert_int_equal(requests[i](vm, &err), KELPIE_BUSY);
        impatient = false;
        assert_non_null(strstr(err.message, "another operation"));
        vm_lock(vm);
        assert_int_equal(vm->owner_request_count, 1);
        vm->owner_request_count = 0;
        vm_unlock(vm);
    }
    struct kelpie_output output = {0};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, NULL));
    kelpie_output_free(&output);
    kelpie_vm_destroy(vm);
}

/* A request beside another that was not cancelled waits for nobody. */
static void test_requests_go_side_by_side(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    vm_lock(vm);
    vm->owner_request_count = 1;
    vm->begun_cancel_count = vm->cancel_count;
    vm_unlock(vm);
    OK(stats(vm, &err));
    vm_lock(vm);
    assert_int_equal(vm->owner_request_count, 1);
    vm->owner_request_count = 0;
    vm_unlock(vm);
    OK(kelpie_vm_stop(vm, 500, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    kelpie_vm_destroy(vm);
}

/* ---- The channel -------------------------------------------------------------------------------- */

/* The owner has said that the machine runs, and gives no channel to it. */
static void hazard_e1_a_channel_that_does_not_come(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    vm_lock(vm);
    const struct vm_wait wait = vm_wait_start(vm, 10000);
    OK(vm_owned_await_channel(vm, &wait, &err)); /* it is there */
    vm->channel.open = false;
    impatient = true;
    assert_int_equal(vm_owned_await_channel(vm, &wait, &err), KELPIE_BUSY);
    assert_true(err.retriable);
    assert_int_equal(vm_owned_await_channel(vm, &wait, NULL), KELPIE_BUSY);
    vm->cancel_count++;
    assert_int_equal(vm_owned_await_channel(vm, &wait, &err), KELPIE_CANCELLED);
    impatient = false;
    vm->channel.open = true;
    vm_unlock(vm);
    kelpie_vm_destroy(vm);
}

/* What nobody takes in time is not waited for. */
static void test_last_words_that_nobody_takes(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    vm_lock(vm);
    vm->channel.ended = true; /* there is nothing to write to */
    vm->channel.out_end = vm->channel.out_start + 1;
    vm_unlock(vm);
    kelpie_vm_close(vm);
    struct kelpie_error err = {0};
    vm = owner_vm_open("a", &err);
    assert_non_null(vm);
    OK(stats(vm, &err));
    kelpie_vm_destroy(vm);
}

/* ---- Arguments ---------------------------------------------------------------------------------- */

static void test_what_needs_no_owner_to_be_refused(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    uint32_t id = 77;
    const struct kelpie_command nothing = {.argv = (const char *const[]){NULL}};
    assert_int_equal(kelpie_vm_run_detached(vm, &nothing, &id, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "argv");
    assert_int_equal(id, 77);
    for (size_t left = 0; left < 2; left++) {
        allocations_left = left;
        assert_int_equal(fork_two(vm, &err), KELPIE_NO_MEMORY);
        allocations_left = SIZE_MAX;
    }
    kelpie_vm_destroy(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_e1_a_request_that_does_not_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_requests_go_side_by_side, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_e1_a_channel_that_does_not_come, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last_words_that_nobody_takes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_needs_no_owner_to_be_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("owned, busy", tests, NULL, NULL);
}
