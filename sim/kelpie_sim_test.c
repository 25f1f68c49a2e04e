/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulator as others see it, by include/kelpie_sim.h and kelpie.h alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie_sim.h"

/* For a leak checker: what a killed process had is lost. Monitors are killed, as they always are; and a program that
 * leaks a VM. A killed QEMU loses JSON, whose library keeps no frames to tell by. */
KELPIE_API const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\nleak:leak_a_vm\nleak:libjansson\n";
}

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define HOUR_MS 3600000u

struct test {
    struct kelpie_sim *sim;
    const char *backend;
    void *host;
    struct kelpie_sim_mutex *mutexes[2];
    struct kelpie_sim_condition *condition;
    struct kelpie_sim_thread *thread;
    struct kelpie_error err;
    enum kelpie_status status;
    uint64_t count;
    uint64_t lines;
    char found[512];
    bool done;
};

static void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static void wrong(enum kelpie_status status, const struct kelpie_error *err) {
    assert_int_equal(status, KELPIE_WRONG_STATE);
    assert_true(strlen(err->message) > 10);
}

static void open_sim(struct test *test, const struct kelpie_sim_options *options) {
    *test = (struct test){.backend = "mock"};
    ok(kelpie_sim_create(options, &test->sim, &test->err), &test->err);
}

static enum kelpie_status run(struct test *test, kelpie_sim_entry entry) {
    return kelpie_sim_run(test->sim, entry, test, &test->err);
}

/* Runs it on a new simulator without faults, and expects that end. */
static void expect(kelpie_sim_entry entry, enum kelpie_status status, const char *field,
                   const char *says) {
    struct test test;
    open_sim(&test, &(struct kelpie_sim_options){.seed = 5, .event_count_max = 20000});
    assert_int_equal(run(&test, entry), status);
    assert_string_equal(test.err.field, field);
    if (!strstr(test.err.message, says)) {
        fail_msg("\"%s\" does not say \"%s\"", test.err.message, says);
    }
    assert_false(test.err.retriable);
    kelpie_sim_destroy(test.sim);
}

/* ---- A program that uses a VM ----------------------------------------------------------------- */

/* Any step may fail under faults: what is used is given back. */
static void use_vm(void *argument) {
    struct test *test = argument;
    struct kelpie_config config = {.backend = test->backend};
    struct kelpie_vm *vm = NULL;
    struct kelpie_output output = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_error *err = &test->err;
    ok(kelpie_sim_host(test->sim, &config.host, err), err);
    const struct kelpie_command write = {.argv = ARGV("sh", "-c", "echo hello > /tmp/x")};
    const struct kelpie_command read = {.argv = ARGV("cat", "/tmp/x"), .timeout_ms = 10000};
    test->status = kelpie_vm_create(&config, &vm, err);
    test->status = test->status ? test->status : kelpie_vm_start(vm, err);
    test->status = test->status ? test->status : kelpie_vm_exec(vm, &write, &output, err);
    kelpie_output_free(&output);
    test->status = test->status
                       ? test->status
                       : kelpie_vm_snapshot(vm, "/tmp/simulated-bundle", NULL, &snapshot, err);
    kelpie_vm_destroy(vm);
    vm = NULL;
    test->status = test->status ? test->status
                                : kelpie_vm_create_from_snapshot("/tmp/simulated-bundle", &config,
                                                                 NULL, &vm, err);
    test->status = test->status ? test->status : kelpie_vm_exec(vm, &read, &output, err);
    if (test->status == KELPIE_OK) {
        snprintf(test->found, sizeof(test->found), "%s", output.stdout_data);
    }
    kelpie_output_free(&output);
    kelpie_vm_destroy(vm);
    test->done = true;
}

static void test_a_vm_lives_in_it(void **state) {
    (void)state;
    static const char *const backends[] = {"mock", "kvm", "qemu"};
    for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
        struct test test;
        open_sim(&test, NULL);
        test.backend = backends[i];
        ok(run(&test, use_vm), &test.err);
        ok(test.status, &test.err);
        assert_true(test.done);
        if (strcmp(backends[i], "mock") == 0) {
            assert_string_equal(test.found, "hello\n");
        }
        kelpie_sim_destroy(test.sim);
    }
}

static void look_at_bundle(void *argument) {
    struct test *test = argument;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_probe probe = {0};
    use_vm(test);
    ok(kelpie_sim_host(test->sim, &test->host, &test->err), &test->err);
    ok(kelpie_snapshot_inspect_on(test->host, "/tmp/simulated-bundle", &snapshot, &test->err),
       &test->err);
    assert_string_equal(snapshot.backend, "mock");
    ok(kelpie_snapshot_verify_on(test->host, "/tmp/simulated-bundle", &test->err), &test->err);
    assert_int_equal(kelpie_snapshot_verify("/tmp/simulated-bundle", &test->err), KELPIE_NOT_FOUND);
    ok(kelpie_backend_probe_on(test->host, "kvm", &probe, &test->err), &test->err);
    assert_true(probe.usable);
    assert_int_equal(probe.ring0_ns, 400000);
}

static void pull_levers(void *argument) {
    struct test *test = argument;
    struct kelpie_config config = {.backend = "mock"};
    struct kelpie_vm *vm = NULL;
    struct kelpie_error *err = &test->err;
    ok(kelpie_sim_host(test->sim, &config.host, err), err);
    ok(kelpie_vm_create(&config, &vm, err), err);
    ok(kelpie_mock_fail(vm, KELPIE_MOCK_START, 1, err), err);
    assert_int_equal(kelpie_vm_start(vm, err), KELPIE_BOOT_FAILED);
    kelpie_vm_destroy(vm);
    ok(kelpie_vm_create(&config, &vm, err), err);
    ok(kelpie_vm_start(vm, err), err);
    ok(kelpie_mock_crash(vm, err), err);
    assert_int_equal(kelpie_vm_pause(vm, err), KELPIE_CRASHED);
    kelpie_vm_destroy(vm);
    test->done = true;
}

static void test_the_mocks_levers_work_inside(void **state) {
    (void)state;
    struct test test;
    open_sim(&test, NULL);
    ok(run(&test, pull_levers), &test.err);
    assert_true(test.done);
    kelpie_sim_destroy(test.sim);
}

static void test_bundles_and_backends_are_looked_at_there(void **state) {
    (void)state;
    struct test test;
    char *data = NULL;
    size_t size = 0;
    open_sim(&test, NULL);
    ok(run(&test, look_at_bundle), &test.err);
    ok(kelpie_sim_file_read(test.sim, "/tmp/simulated-bundle/manifest.json", &data, &size,
                            &test.err),
       &test.err);
    assert_non_null(strstr(data, "\"mock\""));
    assert_int_equal(strlen(data), size);
    free(data);
    kelpie_sim_destroy(test.sim);
}

static void count_line(void *argument, const char *text) {
    struct test *test = argument;
    test->lines++;
    if (strstr(text, "NOTE:")) {
        snprintf(test->found, sizeof(test->found), "%s", text);
    }
    if (test->sim) {
        void *host = NULL;
        assert_int_equal(kelpie_sim_host(test->sim, &host, NULL), KELPIE_WRONG_STATE);
        assert_int_equal(kelpie_sim_run(test->sim, use_vm, test, NULL), KELPIE_WRONG_STATE);
        kelpie_sim_destroy(test->sim);
    }
}

static uint64_t hash_of(uint64_t seed, struct test *told) {
    struct test test;
    struct kelpie_sim_options options = {.seed = seed, .faults = KELPIE_SIM_FAULTS_DRAWN};
    options.line = told ? count_line : NULL;
    options.line_argument = told;
    open_sim(&test, &options);
    if (told) {
        told->sim = test.sim;
    }
    ok(run(&test, use_vm), &test.err);
    assert_true(test.done);
    uint64_t hash = kelpie_sim_hash(test.sim);
    if (told) {
        assert_true(told->lines * 4 > kelpie_sim_event_count(test.sim));
    }
    kelpie_sim_destroy(test.sim);
    return hash;
}

static void test_one_seed_is_one_run(void **state) {
    (void)state;
    struct test told = {0};
    uint64_t first = hash_of(7, NULL);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(hash_of(7, NULL), first);
    }
    assert_int_equal(hash_of(7, &told), first); /* telling changes nothing */
    assert_true(told.lines > 100);
    assert_int_not_equal(hash_of(8, NULL), first);
}

static void faulty_runs_leave_nothing(const char *backend, uint64_t seed_count) {
    size_t failed = 0;
    for (uint64_t seed = 1; seed <= seed_count; seed++) {
        struct test test;
        open_sim(&test,
                 &(struct kelpie_sim_options){.seed = seed, .faults = KELPIE_SIM_FAULTS_DRAWN});
        test.backend = backend;
        if (run(&test, use_vm) != KELPIE_OK) {
            fail_msg("seed %llu: %s", (unsigned long long)seed, test.err.message);
        }
        failed += test.status != KELPIE_OK;
        kelpie_sim_destroy(test.sim);
    }
    assert_true(failed > seed_count / 10 && failed < seed_count);
}

static void test_faulty_runs_leave_nothing(void **state) {
    (void)state;
    faulty_runs_leave_nothing("mock", 200);
    faulty_runs_leave_nothing("kvm", 200);
    faulty_runs_leave_nothing("qemu", 200);
}

/* ---- Time, choices, files --------------------------------------------------------------------- */

static void sleep_an_hour(void *argument) {
    struct test *test = argument;
    uint64_t before_ms = kelpie_sim_now_ms(test->sim);
    ok(kelpie_sim_sleep_ms(test->sim, HOUR_MS, &test->err), &test->err);
    test->count = kelpie_sim_now_ms(test->sim) - before_ms;
    kelpie_sim_note(test->sim, "slept");
    assert_int_equal(kelpie_sim_sleep_ms(test->sim, UINT64_MAX, &test->err), KELPIE_BAD_CONFIG);
}

static void test_an_hour_costs_nothing(void **state) {
    (void)state;
    struct test test;
    struct test told = {0};
    open_sim(&test, &(struct kelpie_sim_options){.line = count_line, .line_argument = &told});
    ok(run(&test, sleep_an_hour), &test.err);
    assert_true(test.count >= HOUR_MS && test.count < HOUR_MS + 100);
    assert_true(kelpie_sim_now_ns(test.sim) / 1000000 == kelpie_sim_now_ms(test.sim));
    assert_non_null(strstr(told.found, "NOTE: slept"));
    kelpie_sim_destroy(test.sim);
}

static void test_choices_come_of_the_seed(void **state) {
    (void)state;
    size_t same = 0;
    size_t counts[4] = {0};
    struct test a;
    struct test b;
    struct test other;
    open_sim(&a, &(struct kelpie_sim_options){.seed = 1});
    open_sim(&b, &(struct kelpie_sim_options){.seed = 1, .faults = KELPIE_SIM_FAULTS_DRAWN});
    open_sim(&other, &(struct kelpie_sim_options){.seed = 2});
    ok(run(&b, use_vm), &b.err); /* what else is chosen meanwhile is another matter */
    for (size_t i = 0; i < 400; i++) {
        uint64_t chosen = kelpie_sim_choose(a.sim, 4);
        assert_true(chosen < 4);
        assert_int_equal(kelpie_sim_choose(b.sim, 4), chosen);
        same += kelpie_sim_choose(other.sim, 4) == chosen;
        counts[chosen]++;
    }
    assert_true(same < 200);
    for (size_t i = 0; i < 4; i++) {
        assert_true(counts[i] > 50);
    }
    assert_int_equal(kelpie_sim_choose(a.sim, 0), 0);
    kelpie_sim_destroy(a.sim);
    kelpie_sim_destroy(b.sim);
    kelpie_sim_destroy(other.sim);
}

static void copy_a_file(void *argument) {
    struct test *test = argument;
    struct kelpie_config config = {.backend = "mock"};
    struct kelpie_vm *vm = NULL;
    ok(kelpie_sim_host(test->sim, &config.host, &test->err), &test->err);
    ok(kelpie_vm_create(&config, &vm, &test->err), &test->err);
    ok(kelpie_vm_start(vm, &test->err), &test->err);
    ok(kelpie_copy_in(vm, "/data/in/file", "/tmp/file", NULL, &test->err), &test->err);
    ok(kelpie_copy_out(vm, "/tmp/file", "/data/out", NULL, &test->err), &test->err);
    kelpie_vm_destroy(vm);
}

static void test_files_go_in_and_come_out(void **state) {
    (void)state;
    struct test test;
    char *data = NULL;
    size_t size = 0;
    static char large[KELPIE_SIM_FILE_SIZE_MAX + 1];
    open_sim(&test, NULL);
    ok(kelpie_sim_file_write(test.sim, "/data/in/file", "longer than that", 16, &test.err),
       &test.err);
    ok(kelpie_sim_file_write(test.sim, "/data/in/file", "a\0b", 3, &test.err), &test.err);
    ok(run(&test, copy_a_file), &test.err);
    ok(kelpie_sim_file_read(test.sim, "/data/out", &data, &size, &test.err), &test.err);
    assert_int_equal(size, 3);
    assert_memory_equal(data, "a\0b", 4);
    free(data);
    struct kelpie_error *err = &test.err;
    assert_int_equal(kelpie_sim_file_read(test.sim, "/no", &data, &size, err), KELPIE_NOT_FOUND);
    assert_int_equal(kelpie_sim_file_read(test.sim, "/data", &data, &size, err), KELPIE_IO_FAILED);
    assert_int_equal(kelpie_sim_file_read(test.sim, "data", &data, &size, err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_sim_file_write(test.sim, NULL, "", 0, err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_sim_file_write(test.sim, "/l", large, sizeof(large), err),
                     KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_sim_file_write(test.sim, "/data/out/x", "", 0, err), KELPIE_IO_FAILED);
    kelpie_sim_destroy(test.sim);
}

/* ---- How a run may end ------------------------------------------------------------------------ */

static void make_mutexes(struct test *test) {
    for (size_t i = 0; i < 2; i++) {
        ok(kelpie_sim_mutex_create(test->sim, &test->mutexes[i], &test->err), &test->err);
    }
}

static void lock_both(struct test *test, size_t first) {
    ok(kelpie_sim_mutex_lock(test->mutexes[first], &test->err), &test->err);
    ok(kelpie_sim_sleep_ms(test->sim, 10, &test->err), &test->err);
    ok(kelpie_sim_mutex_lock(test->mutexes[1 - first], &test->err), &test->err);
}

static void lock_backward(void *argument) {
    lock_both(argument, 1);
}

static void deadlock(void *argument) {
    struct test *test = argument;
    make_mutexes(test);
    ok(kelpie_sim_thread_start(test->sim, "backward", lock_backward, test, &test->thread,
                               &test->err),
       &test->err);
    lock_both(test, 0);
}

static void wait_for_nothing(void *argument) {
    struct test *test = argument;
    make_mutexes(test);
    ok(kelpie_sim_condition_create(test->sim, &test->condition, &test->err), &test->err);
    ok(kelpie_sim_mutex_lock(test->mutexes[0], &test->err), &test->err);
    (void)kelpie_sim_condition_wait(test->condition, test->mutexes[0], 0, &test->err);
}

static void never_end(void *argument) {
    struct test *test = argument;
    while (test->sim) {
        ok(kelpie_sim_sleep_ms(test->sim, 1, &test->err), &test->err);
    }
}

static void leak_a_vm(void *argument) {
    struct test *test = argument;
    struct kelpie_config config = {.backend = "mock"};
    struct kelpie_vm *vm = NULL;
    ok(kelpie_sim_host(test->sim, &config.host, &test->err), &test->err);
    ok(kelpie_vm_create(&config, &vm, &test->err), &test->err);
}

static void leak_a_mutex(void *argument) {
    make_mutexes(argument);
}

static void kill_itself(void *argument) {
    struct test *test = argument;
    (void)kelpie_sim_kill(test->sim, &test->err);
    fail_msg("it lives");
}

static void lose_power(void *argument) {
    struct test *test = argument;
    (void)kelpie_sim_power_loss(test->sim, &test->err);
    fail_msg("it lives");
}

static void test_a_run_says_how_it_ended(void **state) {
    (void)state;
    expect(deadlock, KELPIE_TIMED_OUT, "stuck", "program/backward waits for a mutex");
    expect(deadlock, KELPIE_TIMED_OUT, "stuck", "program/main waits for a mutex");
    expect(wait_for_nothing, KELPIE_TIMED_OUT, "stuck", "program/main waits for a condition");
    expect(never_end, KELPIE_BUSY, "events", "events without end");
    expect(leak_a_mutex, KELPIE_INTERNAL, "leak", "2 objects");
    expect(leak_a_vm, KELPIE_INTERNAL, "leak", "descriptors");
    expect(kill_itself, KELPIE_CRASHED, "killed", "killed");
    expect(lose_power, KELPIE_CRASHED, "power", "power");
}

/* What one run left on the disk is there in the next; a run that failed spoils none. */
static void test_a_machine_outlives_its_programs(void **state) {
    (void)state;
    static const kelpie_sim_entry entries[] = {deadlock,    never_end,  leak_a_mutex, leak_a_vm,
                                               kill_itself, lose_power, sleep_an_hour};
    struct test test;
    char *data = NULL;
    size_t size = 0;
    open_sim(&test, &(struct kelpie_sim_options){.seed = 3, .event_count_max = 30000});
    ok(kelpie_sim_file_write(test.sim, "/data/kept", "kept", 4, &test.err), &test.err);
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        enum kelpie_status status = run(&test, entries[i]);
        assert_true((status == KELPIE_OK) == (entries[i] == sleep_an_hour));
    }
    ok(run(&test, use_vm), &test.err);
    ok(test.status, &test.err);
    ok(kelpie_sim_file_read(test.sim, "/data/kept", &data, &size, &test.err), &test.err);
    assert_string_equal(data, "kept");
    free(data);
    kelpie_sim_destroy(test.sim);
}

/* ---- Locks ------------------------------------------------------------------------------------ */

static void add(void *argument) {
    struct test *test = argument;
    for (size_t i = 0; i < 20; i++) {
        ok(kelpie_sim_mutex_lock(test->mutexes[0], &test->err), &test->err);
        uint64_t seen = test->count;
        ok(kelpie_sim_sleep_ms(test->sim, 1, &test->err), &test->err);
        test->count = seen + 1;
        ok(kelpie_sim_condition_broadcast(test->condition, &test->err), &test->err);
        ok(kelpie_sim_mutex_unlock(test->mutexes[0], &test->err), &test->err);
    }
}

static void use_locks(void *argument) {
    struct test *test = argument;
    struct kelpie_sim_thread *threads[2];
    struct kelpie_error *err = &test->err;
    make_mutexes(test);
    ok(kelpie_sim_condition_create(test->sim, &test->condition, err), err);
    for (size_t i = 0; i < 2; i++) {
        ok(kelpie_sim_thread_start(test->sim, NULL, add, test, &threads[i], err), err);
    }
    ok(kelpie_sim_mutex_lock(test->mutexes[0], err), err);
    while (test->count < 40) {
        ok(kelpie_sim_condition_wait(test->condition, test->mutexes[0], 0, err), err);
    }
    assert_int_equal(kelpie_sim_condition_wait(test->condition, test->mutexes[0], 5, err),
                     KELPIE_TIMED_OUT);
    ok(kelpie_sim_mutex_unlock(test->mutexes[0], err), err);
    for (size_t i = 0; i < 2; i++) {
        ok(kelpie_sim_thread_join(threads[i], err), err);
        ok(kelpie_sim_mutex_destroy(test->mutexes[i], err), err);
    }
    ok(kelpie_sim_condition_destroy(test->condition, err), err);
}

static void test_locks_exclude(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct test test;
        open_sim(&test, &(struct kelpie_sim_options){.seed = seed});
        ok(run(&test, use_locks), &test.err);
        assert_int_equal(test.count, 40);
        kelpie_sim_destroy(test.sim);
    }
}

/* ---- Misuse ----------------------------------------------------------------------------------- */

static void misuse_thread(void *argument) {
    struct test *test = argument;
    struct kelpie_error *err = &test->err;
    wrong(kelpie_sim_mutex_unlock(test->mutexes[0], err), err); /* another has it */
    wrong(kelpie_sim_mutex_destroy(test->mutexes[0], err), err);
    wrong(kelpie_sim_condition_wait(test->condition, test->mutexes[0], 1, err), err);
    wrong(kelpie_sim_thread_join(test->thread, err), err); /* itself */
    test->done = true;
}

static void wait_on_condition(void *argument) {
    struct test *test = argument;
    struct kelpie_error *err = &test->err;
    ok(kelpie_sim_mutex_lock(test->mutexes[1], err), err);
    ok(kelpie_sim_condition_wait(test->condition, test->mutexes[1], 0, err), err);
    ok(kelpie_sim_mutex_unlock(test->mutexes[1], err), err);
}

static void misuse(void *argument) {
    struct test *test = argument;
    struct kelpie_error *err = &test->err;
    make_mutexes(test);
    ok(kelpie_sim_condition_create(test->sim, &test->condition, err), err);
    wrong(kelpie_sim_run(test->sim, misuse, test, err), err);
    kelpie_sim_destroy(test->sim); /* does nothing here */
    ok(kelpie_sim_mutex_lock(test->mutexes[0], err), err);
    wrong(kelpie_sim_mutex_lock(test->mutexes[0], err), err);
    assert_int_equal(kelpie_sim_thread_start(test->sim, "a name of 20 letters", misuse_thread, test,
                                             &test->thread, err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err->field, "name");
    ok(kelpie_sim_thread_start(test->sim, "misuse", misuse_thread, test, &test->thread, err), err);
    while (!test->done) {
        ok(kelpie_sim_sleep_ms(test->sim, 1, err), err);
    }
    ok(kelpie_sim_thread_join(test->thread, err), err);
    ok(kelpie_sim_mutex_unlock(test->mutexes[0], err), err);
    ok(kelpie_sim_thread_start(test->sim, "waits", wait_on_condition, test, &test->thread, err),
       err);
    ok(kelpie_sim_sleep_ms(test->sim, 10, err), err);
    wrong(kelpie_sim_condition_destroy(test->condition, err), err);
    ok(kelpie_sim_condition_broadcast(test->condition, err), err);
    ok(kelpie_sim_thread_join(test->thread, err), err);
    ok(kelpie_sim_condition_destroy(test->condition, err), err);
    ok(kelpie_sim_mutex_destroy(test->mutexes[0], err), err);
    ok(kelpie_sim_mutex_destroy(test->mutexes[1], err), err);
}

static void test_misuse_is_an_error(void **state) {
    (void)state;
    struct test test;
    open_sim(&test, &(struct kelpie_sim_options){.seed = 2});
    struct kelpie_sim *sim = test.sim;
    struct kelpie_error *err = &test.err;
    for (size_t i = 0; i < 2; i++) { /* before a run, and behind it */
        void *host = &test;
        wrong(kelpie_sim_host(sim, &host, err), err);
        assert_ptr_equal(host, &test);
        wrong(kelpie_sim_sleep_ms(sim, 1, err), err);
        wrong(kelpie_sim_kill(sim, err), err);
        wrong(kelpie_sim_power_loss(sim, err), err);
        wrong(kelpie_sim_mutex_create(sim, &test.mutexes[0], err), err);
        wrong(kelpie_sim_condition_create(sim, &test.condition, err), err);
        wrong(kelpie_sim_thread_start(sim, NULL, misuse, &test, &test.thread, err), err);
        test.done = false;
        ok(run(&test, misuse), err);
    }
    kelpie_sim_destroy(sim);
    kelpie_sim_destroy(NULL);
}

static void test_options_are_checked(void **state) {
    (void)state;
    const struct {
        const char *field;
        struct kelpie_sim_options options;
    } cases[] = {
        {"faults", {.faults = KELPIE_SIM_FAULTS_COUNT}},
        {"intensity_ppm", {.intensity_ppm = KELPIE_SIM_PPM + 1}},
        {"reserved", {.reserved = {[15] = 1}}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_sim *sim = NULL;
        struct kelpie_error err;
        assert_int_equal(kelpie_sim_create(&cases[i].options, &sim, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, cases[i].field);
        assert_null(sim);
    }
}

/* ---- Faults ----------------------------------------------------------------------------------- */

static uint64_t fired(const struct test *test, const char *name) {
    struct kelpie_sim_fault_counts counts = {0};
    ok(kelpie_sim_fault_counts(test->sim, name, &counts, NULL), &test->err);
    assert_true(counts.fired <= counts.asked);
    return counts.fired;
}

static void test_a_named_fault_fires_and_ends(void **state) {
    (void)state;
    struct test test;
    open_sim(&test, &(struct kelpie_sim_options){.seed = 4});
    ok(kelpie_sim_fault_set(test.sim, "file-sync-fails", KELPIE_SIM_PPM, &test.err), &test.err);
    ok(run(&test, use_vm), &test.err);
    assert_int_equal(test.status, KELPIE_SNAPSHOT_FAILED);
    assert_true(fired(&test, "file-sync-fails") > 0);
    assert_int_equal(fired(&test, "path-rename-fails"), 0);
    uint64_t before = fired(&test, "file-sync-fails");
    kelpie_sim_faults_quiet(test.sim);
    ok(run(&test, use_vm), &test.err);
    ok(test.status, &test.err);
    assert_int_equal(fired(&test, "file-sync-fails"), before);
    ok(kelpie_sim_fault_set(test.sim, "thread-fails", KELPIE_SIM_PPM, &test.err), &test.err);
    ok(run(&test, use_vm), &test.err);
    assert_true(fired(&test, "thread-fails") > 0); /* it can be set again after quiet */
    assert_int_not_equal(test.status, KELPIE_OK);
    assert_int_equal(kelpie_sim_fault_set(test.sim, "no-such", 1, &test.err), KELPIE_NOT_FOUND);
    assert_int_equal(kelpie_sim_fault_set(test.sim, NULL, 1, &test.err), KELPIE_NOT_FOUND);
    assert_int_equal(kelpie_sim_fault_set(test.sim, "thread-fails", KELPIE_SIM_PPM + 1, &test.err),
                     KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_sim_faults_draw(test.sim, KELPIE_SIM_PPM + 1, &test.err),
                     KELPIE_BAD_CONFIG);
    kelpie_sim_destroy(test.sim);
}

/* How many faults have a rate, and whether those of the owner are among them. */
static size_t count_rates(const struct kelpie_sim_options *options, bool *ret_owner) {
    struct kelpie_sim_fault faults[KELPIE_SIM_FAULT_COUNT_MAX];
    struct test test;
    size_t count = kelpie_sim_fault_list(faults, ARRAY_SIZE(faults));
    size_t on = 0;
    open_sim(&test, options);
    for (size_t i = 0; i < count; i++) {
        struct kelpie_sim_fault_counts counts = {0};
        assert_true(faults[i].where && faults[i].what && faults[i].expect);
        ok(kelpie_sim_fault_counts(test.sim, faults[i].name, &counts, &test.err), &test.err);
        on += counts.rate_ppm > 0;
        if (strcmp(faults[i].name, "owner-killed") == 0 ||
            strcmp(faults[i].name, "machine-crashes") == 0) {
            *ret_owner |= counts.rate_ppm > 0;
        }
    }
    kelpie_sim_destroy(test.sim);
    return on;
}

static void test_seeds_draw_different_faults(void **state) {
    (void)state;
    bool owner = false;
    size_t least = KELPIE_SIM_FAULT_COUNT_MAX;
    struct kelpie_sim_options options = {0};
    assert_int_equal(count_rates(&options, &owner), 0);
    options.faults = KELPIE_SIM_FAULTS_DRAWN;
    for (options.seed = 1; options.seed < 50; options.seed++) {
        size_t on = count_rates(&options, &owner);
        assert_true(on > 10 && on < kelpie_sim_fault_list(NULL, 0) - 10);
        least = on < least ? on : least;
    }
    assert_false(owner);
    options.owner_faults = true;
    for (options.seed = 1; options.seed < 20; options.seed++) {
        (void)count_rates(&options, &owner);
    }
    assert_true(owner);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_vm_lives_in_it),
        cmocka_unit_test(test_the_mocks_levers_work_inside),
        cmocka_unit_test(test_bundles_and_backends_are_looked_at_there),
        cmocka_unit_test(test_one_seed_is_one_run),
        cmocka_unit_test(test_faulty_runs_leave_nothing),
        cmocka_unit_test(test_an_hour_costs_nothing),
        cmocka_unit_test(test_choices_come_of_the_seed),
        cmocka_unit_test(test_files_go_in_and_come_out),
        cmocka_unit_test(test_a_run_says_how_it_ended),
        cmocka_unit_test(test_a_machine_outlives_its_programs),
        cmocka_unit_test(test_locks_exclude),
        cmocka_unit_test(test_misuse_is_an_error),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_a_named_fault_fires_and_ends),
        cmocka_unit_test(test_seeds_draw_different_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
