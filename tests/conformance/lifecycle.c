/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The state machine: every operation in every state, and the ways into each. Each case has its own VM. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

#define FREED_MIB "64"
#define FREED_BYTES (64ull << 20)
#define FREED_SECONDS_MAX 60 /* Linux tells of free pages every other second or so */
#define KILL_SECONDS_MAX 8   /* of a machine that is killed: less than any operation may take */

enum operation {
    START,
    STOP,
    PAUSE,
    RESUME,
    EXEC,
    COPY_IN,
    COPY_OUT,
    SNAPSHOT,
    RESTORE,
    PING,
    LIST,
    OPERATION_COUNT
};

static enum kelpie_status operate(struct kelpie_vm *vm, enum operation operation,
                                  struct kelpie_error *err) {
    struct kelpie_output output = {0};
    struct kelpie_snapshot snapshot;
    uint64_t ns = 0;
    size_t count = 0;
    switch (operation) {
    case START:
        return kelpie_vm_start(vm, err);
    case STOP:
        return kelpie_vm_stop(vm, 0, err);
    case PAUSE:
        return kelpie_vm_pause(vm, err);
    case RESUME:
        return kelpie_vm_resume(vm, err);
    case EXEC:
        return kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, err);
    case COPY_IN:
        return kelpie_copy_in(vm, "/etc/passwd", "/tmp/x", NULL, err);
    case COPY_OUT:
        return kelpie_copy_out(vm, "/etc/passwd", host_path("never"), NULL, err);
    case SNAPSHOT:
        return kelpie_vm_snapshot(vm, host_path("never"), NULL, &snapshot, err);
    case RESTORE:
        return kelpie_vm_restore(vm, host_path("never"), NULL, err);
    case PING:
        return kelpie_vm_ping(vm, &ns, err);
    case LIST:
        return kelpie_exec_list(vm, NULL, 0, &count, err);
    case OPERATION_COUNT:
        break;
    }
    fail();
    return KELPIE_INTERNAL;
}

#define BIT(operation) (1u << (operation))

/* What the backend cannot do is refused for that, whatever the state. */
static bool can(enum operation operation) {
    if (operation == PAUSE || operation == RESUME) {
        return suite()->capabilities & KELPIE_CAN_PAUSE;
    }
    return (operation != SNAPSHOT && operation != RESTORE) ||
           suite()->capabilities & KELPIE_CAN_SUSPEND_SNAPSHOT;
}

/* Every operation that is not allowed is refused, names the state, and changes nothing. */
static void expect_refusals(struct kelpie_vm *vm, enum kelpie_state state, uint32_t allowed) {
    for (int i = 0; i < OPERATION_COUNT; i++) {
        struct kelpie_error err = {0};
        if (allowed & BIT(i)) {
            continue;
        }
        enum kelpie_status status = operate(vm, (enum operation)i, &err);
        bool told = status == KELPIE_WRONG_STATE && strstr(err.message, kelpie_state_name(state));
        if (!told && (can((enum operation)i) || status != KELPIE_UNSUPPORTED)) {
            print_error("operation %d in state %s: %s: %s\n", i, kelpie_state_name(state),
                        kelpie_status_name(status), err.message);
            fail();
        }
        assert_int_equal(kelpie_vm_state(vm), state);
    }
    assert_int_not_equal(access(host_path("never"), F_OK), 0);
}

static void test_every_operation_in_every_state(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make_vm();
    expect_refusals(vm, KELPIE_STATE_CREATED, BIT(START) | BIT(RESTORE));
    OK(kelpie_vm_start(vm, &err));
    expect_refusals(vm, KELPIE_STATE_RUNNING,
                    (uint32_t) ~(BIT(START) | BIT(RESUME) | BIT(RESTORE)));
    expect_shell(vm, "echo still here", 0, "still here\n");
    if (suite()->capabilities & KELPIE_CAN_PAUSE) {
        OK(kelpie_vm_pause(vm, &err));
        expect_refusals(vm, KELPIE_STATE_PAUSED, BIT(RESUME) | BIT(SNAPSHOT) | BIT(STOP));
        OK(kelpie_vm_resume(vm, &err));
        expect_shell(vm, "echo still here", 0, "still here\n");
    }
    OK(kelpie_vm_stop(vm, 0, &err));
    expect_refusals(vm, KELPIE_STATE_STOPPED, BIT(START) | BIT(RESTORE));
    kelpie_vm_destroy(vm);
}

static void test_restart_after_stop_is_a_new_boot(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo old > /tmp/left", 0, NULL);
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_vm_start(vm, &err));
    expect_shell(vm, "test -e /tmp/left", 1, NULL);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
}

static void test_destroy_in_any_state(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    kelpie_vm_destroy(NULL);
    kelpie_vm_destroy(make_vm());
    struct kelpie_vm *vm = start_vm();
    if (suite()->capabilities & KELPIE_CAN_PAUSE) {
        OK(kelpie_vm_pause(vm, &err));
    }
    kelpie_vm_destroy(vm);
    kelpie_vm_destroy(start_vm());
}

static void test_names_and_config(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {
        .backend = suite()->backend, .name = "conform-1", .env = ARGV("CONFORM=yes")};
    OK(kelpie_vm_create(&config, &vm, &err));
    assert_int_equal(strlen(kelpie_vm_id(vm)), KELPIE_ID_SIZE - 1);
    assert_string_equal(kelpie_vm_backend(vm), suite()->backend);
    assert_int_equal(kelpie_vm_capabilities(vm), suite()->capabilities);
    assert_string_equal(kelpie_vm_config(vm)->hostname, "conform-1");
    assert_int_equal(kelpie_vm_config(vm)->memory_mib, KELPIE_MEMORY_MIB_DEFAULT);
    assert_int_equal(kelpie_vm_process_id(vm), 0);
    OK(kelpie_vm_start(vm, &err));
    expect_shell(vm, "hostname; echo $CONFORM", 0, "conform-1\nyes\n");
    char console[256];
    assert_true(kelpie_vm_console(vm, console, sizeof(console)) > 0);
    kelpie_vm_destroy(vm);
    vm = NULL;
    FAILS(kelpie_vm_create(&(struct kelpie_config){.backend = "no-such"}, &vm, &err),
          KELPIE_NOT_FOUND);
    assert_null(vm);
    FAILS(kelpie_vm_create(&(struct kelpie_config){.backend = suite()->backend, .vcpu_count = 33},
                           &vm, &err),
          KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "vcpu_count");
    assert_null(vm);
}

/* ---- Crashes ---------------------------------------------------------------------------------- */

struct waiter {
    struct kelpie_vm *vm;
    struct kelpie_exec *exec;
    enum kelpie_status status;
};

static void *wait_for_command(void *argument) {
    struct waiter *waiter = argument;
    struct kelpie_output output = {0};
    waiter->status = kelpie_vm_exec(
        waiter->vm, &(struct kelpie_command){.argv = ARGV("sleep", "1000")}, &output, NULL);
    return NULL;
}

static void *wait_for_output(void *argument) {
    struct waiter *waiter = argument;
    char buffer[16];
    struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
    waiter->status = kelpie_exec_read(waiter->exec, &chunk, 0, NULL);
    return NULL;
}

static void sleep_ms(unsigned ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

static void start_waiters(struct kelpie_vm *vm, struct waiter waiters[2], pthread_t threads[2]) {
    struct kelpie_error err = {0};
    waiters[0] = (struct waiter){.vm = vm};
    waiters[1] = (struct waiter){.vm = vm};
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sleep", "1000")},
                         &waiters[1].exec, &err));
    assert_int_equal(pthread_create(&threads[0], NULL, wait_for_command, &waiters[0]), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, wait_for_output, &waiters[1]), 0);
    size_t count = 0;
    while (count < 2) { /* both commands are there */
        OK(kelpie_exec_list(vm, NULL, 0, &count, &err));
    }
    sleep_ms(50);
}

static void test_crash_is_seen_at_once(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    struct waiter waiters[2];
    pthread_t threads[2];
    start_waiters(vm, waiters, threads);
    crash_vm(vm);
    enum kelpie_state reached = KELPIE_STATE_CREATED;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, 5000, &reached, &err));
    assert_int_equal(reached, KELPIE_STATE_CRASHED);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(waiters[i].status, KELPIE_CRASHED);
    }
    struct kelpie_output output = {0};
    enum kelpie_status status =
        kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, &err);
    assert_true(status == KELPIE_WRONG_STATE || status == KELPIE_CRASHED);
    kelpie_exec_close(waiters[1].exec);
    kelpie_vm_destroy(vm);
}

static void test_crash_while_paused(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "crash while paused: it cannot pause");
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    OK(kelpie_vm_pause(vm, &err));
    crash_vm(vm);
    enum kelpie_state reached = KELPIE_STATE_CREATED;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, 5000, &reached, &err));
    expect_refusals(vm, KELPIE_STATE_CRASHED, 0);
    kelpie_vm_destroy(vm);
}

static void test_cancel_ends_waits_of_other_threads(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    struct waiter waiters[2];
    pthread_t threads[2];
    start_waiters(vm, waiters, threads);
    kelpie_vm_cancel(vm);
    for (int i = 0; i < 2; i++) {
        /* A thread that has not come to its wait yet is not one that waits: it is cancelled again. */
        while (pthread_tryjoin_np(threads[i], NULL) == EBUSY) {
            sleep_ms(100);
            kelpie_vm_cancel(vm);
        }
        assert_int_equal(waiters[i].status, KELPIE_CANCELLED);
    }
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    kelpie_exec_close(waiters[1].exec);
    expect_shell(vm, "echo on", 0, "on\n");
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
}

/* A guest that ends by itself has crashed, however it did it: nobody asked for it. The command that ended it fails
 * with the words for how. A backend without a process of its own has no kernel that could do it, and a kernel can lack
 * the means (libkrunfw's has neither SysRq nor ACPI): means is a file that says that it has them. */
static void expect_end(const char *means, const char *line, const char *first, const char *second) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    struct kelpie_vm *vm = start_vm();
    const struct kelpie_command look = {.argv = ARGV("test", "-e", means)};
    if (kelpie_vm_process_id(vm) == 0) {
        kelpie_vm_destroy(vm);
        skip_aloud("the guest's own end: it has no kernel");
    }
    OK(kelpie_vm_exec(vm, &look, &output, &err));
    bool has_means = output.exit.code == 0;
    kelpie_output_free(&output);
    if (!has_means) {
        kelpie_vm_destroy(vm);
        skip_aloud("the guest's own end: its kernel has not the means");
    }
    const struct kelpie_command command = {.argv = SHELL(line), .timeout_ms = WAIT_MS};
    FAILS(kelpie_vm_exec(vm, &command, &output, &err), KELPIE_CRASHED);
    if (!strstr(err.message, first) || !strstr(err.message, second)) {
        print_error("%s: '%s' has no '%s' or no '%s'\n", line, err.message, first, second);
        fail();
    }
    enum kelpie_state reached = KELPIE_STATE_CREATED;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &reached, &err));
    kelpie_vm_destroy(vm);
}

static void test_panic_is_told(void **state) {
    (void)state;
    expect_end("/proc/sysrq-trigger", "echo c > /proc/sysrq-trigger; sleep 1000",
               "the guest's kernel panicked", "Kernel panic - not syncing: sysrq triggered crash");
}

static void test_power_off_from_within_is_told(void **state) {
    (void)state;
    expect_end("/sys/firmware/acpi", "poweroff -f; sleep 1000", "the guest powered off", "");
}

static void test_reset_from_within_is_told(void **state) {
    (void)state;
    expect_end("/proc/version", "reboot -f; sleep 1000", "the guest reset its machine", "");
}

static void test_wait_times_out(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make_vm();
    enum kelpie_state reached = KELPIE_STATE_COUNT;
    FAILS(kelpie_vm_wait(vm, 1u << KELPIE_STATE_RUNNING, 20, &reached, &err), KELPIE_TIMED_OUT);
    assert_int_equal(reached, KELPIE_STATE_COUNT);
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CREATED, 20, &reached, &err));
    assert_int_equal(reached, KELPIE_STATE_CREATED);
    kelpie_vm_destroy(vm);
}

static void test_stop_ends_what_runs(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = NULL;
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sleep", "1000")}, &exec, &err));
    OK(kelpie_vm_stop(vm, 0, &err));
    struct kelpie_exit ended;
    FAILS(kelpie_exec_wait(exec, WAIT_MS, &ended, &err), KELPIE_WRONG_STATE);
    assert_string_equal(err.message, "cannot wait for the command to end: the VM is stopped");
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
}

static void *pause_main(void *argument) {
    struct kelpie_error err = {0};
    (void)!kelpie_vm_pause(argument, &err); /* how it ends is not what is asked here */
    return NULL;
}

/* A machine whose process stands still answers nothing, and neither does the operation that waits for it: a kill ends both. */
static void test_a_kill_waits_for_nobody(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct timespec begun;
    struct timespec ended;
    pthread_t thread;
    OK(kelpie_vm_create(&(struct kelpie_config){.backend = suite()->backend}, &vm, &err));
    FAILS(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, &err), KELPIE_WRONG_STATE);
    OK(kelpie_vm_start(vm, &err));
    int process_id = kelpie_vm_process_id(vm);
    if (process_id > 0) {
        assert_int_equal(kill(process_id, SIGSTOP), 0);
    }
    assert_int_equal(pthread_create(&thread, NULL, pause_main, vm), 0);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, &err));
    clock_gettime(CLOCK_MONOTONIC, &ended);
    assert_in_range(ended.tv_sec - begun.tv_sec, 0, KILL_SECONDS_MAX);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    assert_int_equal(kelpie_vm_process_id(vm), 0);
    OK(kelpie_vm_start(vm, &err));
    expect_shell(vm, "echo again", 0, "again\n");
    kelpie_vm_destroy(vm);
}

static uint64_t resident_bytes(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_stats stats = {0};
    OK(kelpie_vm_stats(vm, &stats, &err));
    return stats.memory_bytes;
}

/* What the guest has freed is this host's again: its balloon driver tells of pages that nobody has. */
static void test_freed_memory_goes_back(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    if (strcmp(suite()->backend, "kvm") != 0 && strcmp(suite()->backend, "firecracker") != 0) {
        skip_aloud("memory that goes back: it has no balloon");
    }
    struct kelpie_vm *vm = make_vm();
    OK(kelpie_vm_start(vm, &err));
    const uint64_t before = resident_bytes(vm);
    expect_shell(vm, "dd if=/dev/zero of=/tmp/x bs=1M count=" FREED_MIB " 2>/dev/null", 0, "");
    const uint64_t filled = resident_bytes(vm);
    assert_true(filled >= before + FREED_BYTES / 4 * 3);
    expect_shell(vm, "rm /tmp/x", 0, "");
    uint64_t freed = filled;
    for (int i = 0; i < FREED_SECONDS_MAX && freed > filled - FREED_BYTES / 2; i++) {
        sleep(1);
        freed = resident_bytes(vm);
    }
    assert_true(freed <= filled - FREED_BYTES / 2);
    kelpie_vm_destroy(vm);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_a_kill_waits_for_nobody),
    cmocka_unit_test(test_every_operation_in_every_state),
    cmocka_unit_test(test_restart_after_stop_is_a_new_boot),
    cmocka_unit_test(test_destroy_in_any_state),
    cmocka_unit_test(test_names_and_config),
    cmocka_unit_test(test_crash_is_seen_at_once),
    cmocka_unit_test(test_crash_while_paused),
    cmocka_unit_test(test_cancel_ends_waits_of_other_threads),
    cmocka_unit_test(test_panic_is_told),
    cmocka_unit_test(test_power_off_from_within_is_told),
    cmocka_unit_test(test_reset_from_within_is_told),
    cmocka_unit_test(test_wait_times_out),
    cmocka_unit_test(test_stop_ends_what_runs),
    cmocka_unit_test(test_freed_memory_goes_back),
};
const struct group group_lifecycle = {
    .name = "lifecycle", .tests = tests, .count = sizeof(tests) / sizeof(tests[0])};
