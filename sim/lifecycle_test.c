/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Lives of a VM in which two things happen at once, on the mock in a simulated world: each seed is another order of what
 * its threads do. Each case is the body of a process that uses the library.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie.h"
#include "sim/world_harness_test.h"

#define WAIT_MS 20000
#define SEED_COUNT 150
#define BUNDLE "/root/bundle"

static void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static struct kelpie_vm *vm_create(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .host = host};
    ok(kelpie_vm_create(&config, &vm, &err), &err);
    return vm;
}

static struct kelpie_vm *vm_start(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = vm_create();
    ok(kelpie_vm_start(vm, &err), &err);
    return vm;
}

static enum kelpie_status run_true(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const char *const argv[] = {"true", NULL};
    enum kelpie_status status =
        kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, err);
    kelpie_output_free(&output);
    return status;
}

static void sleep_for(uint64_t us) {
    struct kelpie_error err = {0};
    const struct host_wait wait = {.deadline_ns = host_monotonic_ns(host) + us * 1000,
                                   .cancel_fd = HOST_FD_NONE};
    ok(host_sleep(host, &wait, &err), &err);
}

/* ---- A crash just before ---------------------------------------------------------------------- */

/* Whether an operation may say this of a VM that crashes. */
static void expect_end(struct kelpie_vm *vm, enum kelpie_status status) {
    struct kelpie_error err = {0};
    enum kelpie_state now = KELPIE_STATE_RUNNING;
    if (status == KELPIE_CRASHED) { /* then the state says so too, at once */
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED);
    }
    ok(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, &err), &err);
    kelpie_vm_destroy(vm);
}

static void body_snapshot_after_a_crash(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = vm_start();
    ok(kelpie_mock_crash(vm, &err), &err);
    sleep_for(sim_choose(&world->choices, 10));
    enum kelpie_status status = kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err);
    assert_true(status == KELPIE_CRASHED || status == KELPIE_WRONG_STATE);
    expect_end(vm, status);
}

static void body_fork_after_a_crash(void) {
    struct kelpie_error err = {0};
    struct kelpie_fork_child child = {0};
    struct kelpie_vm *vm = vm_start();
    ok(kelpie_mock_crash(vm, &err), &err);
    sleep_for(sim_choose(&world->choices, 10));
    enum kelpie_status status = kelpie_vm_fork(vm, NULL, 1, &child, &err);
    assert_true(status == KELPIE_CRASHED || status == KELPIE_WRONG_STATE);
    expect_end(vm, status);
}

static void body_pause_after_a_crash(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = vm_start();
    ok(kelpie_mock_crash(vm, &err), &err);
    sleep_for(sim_choose(&world->choices, 10));
    enum kelpie_status status = kelpie_vm_pause(vm, &err);
    assert_true(status == KELPIE_CRASHED || status == KELPIE_WRONG_STATE);
    expect_end(vm, status);
}

/* ---- A stop of what comes up ------------------------------------------------------------------ */

struct race {
    struct kelpie_vm *vm;
    bool restores;
    enum kelpie_status status;
};

static void come_up(void *argument) {
    struct race *race = argument;
    struct kelpie_error err = {0};
    race->status = race->restores ? kelpie_vm_restore(race->vm, BUNDLE, NULL, &err)
                                  : kelpie_vm_start(race->vm, &err);
}

/* Whoever was first, a VM that was stopped is stopped. */
static void race_to_stop(struct race *race, uint64_t us) {
    struct kelpie_error err = {0};
    struct host_thread *thread = NULL;
    ok(host_thread_start(host, "starter", come_up, race, &thread, &err), &err);
    sleep_for(us);
    enum kelpie_status stopped = kelpie_vm_stop(race->vm, WAIT_MS, &err);
    enum kelpie_state state = kelpie_vm_state(race->vm);
    host_thread_join(thread);
    assert_true(stopped == KELPIE_OK || stopped == KELPIE_WRONG_STATE);
    if (stopped == KELPIE_OK) {
        assert_int_equal(state, KELPIE_STATE_STOPPED);
        assert_int_equal(kelpie_vm_state(race->vm), KELPIE_STATE_STOPPED);
    } else { /* it had not begun */
        assert_int_equal(race->status, KELPIE_OK);
        ok(run_true(race->vm, &err), &err);
    }
    kelpie_vm_destroy(race->vm);
}

static void body_stop_a_start(void) {
    struct race race = {.vm = vm_create()};
    race_to_stop(&race, sim_choose(&world->choices, 150));
}

static void body_stop_a_restore(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = vm_start();
    ok(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err), &err);
    kelpie_vm_destroy(vm);
    struct race race = {.vm = vm_create(), .restores = true};
    race_to_stop(&race, sim_choose(&world->choices, 250));
}

/* ---- A pause that is not what it seems -------------------------------------------------------- */

/* A resume fails, and so does standing still again: the VM is paused, and yet its machine runs. */
static void body_snapshot_of_what_may_run(void) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = vm_start();
    world->faults.ppm[SIM_FAULT_STREAM_WRITE_FAILS] = SIM_PPM; /* the channel breaks */
    assert_int_not_equal(run_true(vm, &err), KELPIE_OK);
    world->faults.ppm[SIM_FAULT_STREAM_WRITE_FAILS] = 0;
    if (kelpie_vm_pause(vm, &err) == KELPIE_OK) { /* else the mock was it that could not write */
        ok(kelpie_mock_fail(vm, KELPIE_MOCK_PAUSE, 2, &err), &err);
        assert_int_not_equal(kelpie_vm_resume(vm, &err), KELPIE_OK);
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
        /* It cannot be stopped now either … */
        assert_int_equal(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err), KELPIE_SNAPSHOT_FAILED);
        /* … and now it can. */
        ok(kelpie_vm_snapshot(vm, BUNDLE, NULL, &snapshot, &err), &err);
        assert_false(snapshot.quiesced);
    }
    kelpie_vm_destroy(vm);
}

/* ---- A save that was not ordered -------------------------------------------------------------- */

/* A diff of a paused VM fails while its files are handed over: the next snapshot is whole all the same. */
static void body_snapshot_after_half_a_diff(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "kvm", .memory_mib = 64, .host = host};
    const struct kelpie_snapshot_options tracked = {.track = true};
    const struct kelpie_snapshot_options diff = {.parent = BUNDLE};
    const struct kelpie_restore_options verified = {.verify_memory = true};
    ok(kelpie_vm_create(&config, &vm, &err), &err);
    ok(kelpie_vm_start(vm, &err), &err);
    ok(kelpie_vm_pause(vm, &err), &err);
    ok(kelpie_vm_snapshot(vm, BUNDLE, &tracked, NULL, &err), &err);
    world->faults.ppm[SIM_FAULT_SOCKET_SEND_FD_FAILS] = SIM_PPM / 2;
    enum kelpie_status status = kelpie_vm_snapshot(vm, BUNDLE "-diff", &diff, NULL, &err);
    world->faults.ppm[SIM_FAULT_SOCKET_SEND_FD_FAILS] = 0;
    assert_true(status == KELPIE_OK || status == KELPIE_SNAPSHOT_FAILED);
    ok(kelpie_vm_snapshot(vm, BUNDLE "-full", NULL, NULL, &err), &err);
    kelpie_vm_destroy(vm);
    ok(kelpie_vm_create_from_snapshot(BUNDLE "-full", &(struct kelpie_config){.host = host},
                                      &verified, &vm, &err),
       &err);
    kelpie_vm_destroy(vm);
}

/* ---- All of them ------------------------------------------------------------------------------ */

static void run_all(void **state) {
    void (*const *body)(void) = *state;
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        run_world(seed, *body);
    }
}

int main(int argc, char **argv) {
    static void (*bodies[])(void) = {
        body_snapshot_after_a_crash,
        body_fork_after_a_crash,
        body_pause_after_a_crash,
        body_stop_a_start,
        body_stop_a_restore,
        body_snapshot_of_what_may_run,
        body_snapshot_after_half_a_diff,
    };
    const struct CMUnitTest tests[] = {
        {"test_a_snapshot_after_a_crash", run_all, NULL, NULL, &bodies[0]},
        {"test_a_fork_after_a_crash", run_all, NULL, NULL, &bodies[1]},
        {"test_a_pause_after_a_crash", run_all, NULL, NULL, &bodies[2]},
        {"test_a_stop_while_it_starts", run_all, NULL, NULL, &bodies[3]},
        {"test_a_stop_while_it_is_restored", run_all, NULL, NULL, &bodies[4]},
        {"test_a_snapshot_of_what_may_run", run_all, NULL, NULL, &bodies[5]},
        {"test_a_snapshot_after_half_a_diff", run_all, NULL, NULL, &bodies[6]},
    };
    static_assert(ARRAY_SIZE(tests) == ARRAY_SIZE(bodies), "each has a test");
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests_name("lifecycle", tests, NULL, NULL);
}
