/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* VMs with an owner, as their handles see them: the owner is one of this process (support/owner_vm.h), the machine a mock. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/owner_vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define WAIT_MS 10000

static const struct kelpie_config config = {.name = "a", .backend = "mock", .memory_mib = 64};

static struct kelpie_vm *create(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = owner_vm_create(&config, &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static struct kelpie_vm *open_again(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = owner_vm_open("a", &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static int forget(void **state) {
    (void)state;
    owner_vm_forget();
    return 0;
}

static void expect_echo(struct kelpie_vm *vm) {
    struct kelpie_output output = {0};
    struct kelpie_error err = {0};
    if (kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("echo", "hello")}, &output,
                       &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_string_equal(output.stdout_data, "hello\n");
    kelpie_output_free(&output);
}

static enum kelpie_status read_all(struct kelpie_exec *exec, char *text, size_t size,
                                   size_t stop_at) {
    size_t used = 0;
    for (;;) {
        struct kelpie_chunk chunk = {.buffer = text + used, .size = size - 1 - used};
        enum kelpie_status status = kelpie_exec_read(exec, &chunk, WAIT_MS, NULL);
        if (status != KELPIE_OK || chunk.stream == KELPIE_STREAM_NONE) {
            text[used] = '\0';
            return status;
        }
        used += chunk.size;
        if (used >= stop_at) {
            text[used] = '\0';
            return KELPIE_OK;
        }
    }
}

/* ---- Life --------------------------------------------------------------------------------------- */

static void test_a_life(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    uint64_t ns = 0;
    char console[64];
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    assert_string_equal(kelpie_vm_backend(vm), "mock");
    assert_string_equal(kelpie_vm_id(vm), kelpie_vm_id(owner_vm_served("a")));
    assert_string_equal(kelpie_vm_config(vm)->name, "a");
    assert_true(kelpie_vm_capabilities(vm) & KELPIE_CAN_FORK);
    assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_WRONG_STATE);
    assert_string_equal(err.field, "created");
    OK(kelpie_vm_start(vm, NULL));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_echo(vm);
    OK(kelpie_vm_ping(vm, &ns, NULL));
    assert_int_equal(kelpie_vm_process_id(vm), 4711);
    assert_true(kelpie_vm_console(vm, console, sizeof(console)) > 0);
    OK(kelpie_vm_pause(vm, NULL));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    assert_int_equal(kelpie_vm_ping(vm, &ns, NULL), KELPIE_WRONG_STATE);
    OK(kelpie_vm_resume(vm, NULL));
    expect_echo(vm);
    OK(kelpie_vm_stop(vm, 0, NULL));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    assert_int_equal(kelpie_vm_ping(vm, &ns, NULL), KELPIE_WRONG_STATE);
    OK(kelpie_vm_start(vm, NULL)); /* another machine, another channel */
    expect_echo(vm);
    kelpie_vm_destroy(vm);
    assert_int_equal(kelpie_vm_state(owner_vm_served("a")), KELPIE_STATE_STOPPED);
}

static void test_a_handle_leaves_the_vm_and_another_finds_it(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    OK(kelpie_vm_start(vm, NULL));
    kelpie_vm_close(vm);
    vm = open_again();
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_echo(vm);
    struct kelpie_vm *third = open_again();
    OK(kelpie_vm_stop(third, 0, NULL));
    enum kelpie_state now;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_STOPPED, WAIT_MS, &now, NULL)); /* it is told */
    kelpie_vm_close(third);
    kelpie_vm_close(vm);
    assert_null(owner_vm_open("nobody", &err));
    assert_int_equal(err.status, KELPIE_NOT_FOUND);
}

static void test_two_handles_run_commands_at_once(void **state) {
    (void)state;
    struct kelpie_vm *a = create();
    OK(kelpie_vm_start(a, NULL));
    struct kelpie_vm *b = open_again();
    struct kelpie_exec *execs[8];
    for (size_t i = 0; i < ARRAY_SIZE(execs); i++) {
        OK(kelpie_exec_start(i % 2 ? a : b,
                             &(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true},
                             &execs[i], NULL));
    }
    for (size_t i = 0; i < ARRAY_SIZE(execs); i++) {
        char text[64];
        char word[32];
        size_t written = 0;
        int size = snprintf(word, sizeof(word), "number %zu\n", i);
        OK(kelpie_exec_write(execs[i], word, (size_t)size, &written, NULL));
        OK(kelpie_exec_close_stdin(execs[i], NULL));
        OK(read_all(execs[i], text, sizeof(text), SIZE_MAX));
        assert_string_equal(text, word);
        kelpie_exec_close(execs[i]);
    }
    size_t count = 1;
    for (size_t i = 0; count > 0 && i < WAIT_MS;
         i++) { /* what b let go of is said over another channel */
        usleep(1000);
        OK(kelpie_exec_list(a, NULL, 0, &count, NULL));
    }
    assert_int_equal(count, 0);
    kelpie_vm_close(b);
    kelpie_vm_destroy(a);
}

static void test_files_go_in_and_out(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    char from[] = "/tmp/kelpie-owned-XXXXXX";
    char to[64];
    static char bytes[300000];
    int fd = mkstemp(from);
    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (char)(i * 31 >> 3);
    }
    assert_int_equal(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    snprintf(to, sizeof(to), "%s.out", from);
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_copy_in(vm, from, "/tmp/file", NULL, NULL));
    OK(kelpie_copy_out(vm, "/tmp/file", to, NULL, NULL));
    FILE *file = fopen(to, "rb");
    assert_non_null(file);
    static char back[sizeof(bytes) + 1];
    assert_int_equal(fread(back, 1, sizeof(back), file), sizeof(bytes));
    assert_memory_equal(back, bytes, sizeof(bytes));
    fclose(file);
    unlink(from);
    unlink(to);
    kelpie_vm_destroy(vm);
}

/* ---- Sessions that outlive their reader ---------------------------------------------------------- */

static void test_a_session_goes_on_at_the_byte_in_another_handle(void **state) {
    (void)state;
    struct kelpie_vm *a = create();
    struct kelpie_exec *exec = NULL;
    struct kelpie_error err = {0};
    char text[256];
    OK(kelpie_vm_start(a, NULL));
    struct kelpie_vm *b = open_again();
    OK(kelpie_exec_start(a, &(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true},
                         &exec, NULL));
    uint32_t id = kelpie_exec_id(exec);
    size_t written = 0;
    OK(kelpie_exec_write(exec, "abcdef", 6, &written, NULL));
    OK(read_all(exec, text, 4, 3)); /* "abc", though all of it came */
    assert_string_equal(text, "abc");
    struct kelpie_exec *other = NULL;
    assert_int_equal(kelpie_exec_attach(b, id, &other, &err), KELPIE_BUSY);
    assert_int_equal(kelpie_exec_attach(owner_vm_served("a"), id, &other, &err), KELPIE_BUSY);
    kelpie_exec_detach(exec);
    OK(kelpie_exec_attach(b, id, &other, &err));
    assert_int_equal(kelpie_exec_attach(a, id, &exec, &err), KELPIE_BUSY);
    OK(kelpie_exec_write(other, "ghi", 3, &written, NULL));
    OK(read_all(other, text, sizeof(text), 6));
    assert_string_equal(text, "defghi");
    kelpie_vm_cancel(b);
    kelpie_exec_detach(other);
    kelpie_vm_close(b);                                             /* its relay ends */
    OK(kelpie_exec_attach(owner_vm_served("a"), id, &other, &err)); /* a local one takes it up */
    OK(kelpie_exec_write(other, "j", 1, &written, NULL));
    OK(read_all(other, text, sizeof(text), 1));
    assert_string_equal(text, "j");
    assert_int_equal(kelpie_exec_attach(a, id, &exec, &err), KELPIE_BUSY);
    kelpie_exec_close(other);
    assert_int_equal(kelpie_exec_attach(a, id, &exec, &err), KELPIE_NOT_FOUND);
    kelpie_vm_destroy(a);
}

/* Whoever attaches to a command whose stdin was closed cannot write to it, and harms nobody in trying. */
static void test_an_attach_after_the_end_of_stdin(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_exec *exec = NULL;
    size_t written = 0;
    OK(kelpie_vm_start(vm, NULL));
    const struct kelpie_command command = {.argv = ARGV("sleep", "1000"), .stdin_open = true};
    OK(kelpie_exec_start(vm, &command, &exec, NULL));
    uint32_t id = kelpie_exec_id(exec);
    OK(kelpie_exec_close_stdin(exec, NULL));
    kelpie_exec_detach(exec);
    OK(kelpie_exec_attach(vm, id, &exec, NULL));
    assert_int_equal(kelpie_exec_write(exec, "x", 1, &written, NULL), KELPIE_EXEC_FAILED);
    OK(kelpie_exec_close_stdin(exec, NULL));
    expect_echo(vm);
    kelpie_exec_close(exec);
    expect_echo(vm);
    kelpie_vm_destroy(vm);
}

/* What is held by a relay goes into a bundle, and is taken up where its far reader was. */
static void test_hazard_c6_a_far_session_survives_a_snapshot(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_exec *exec = NULL;
    char text[256];
    char folder[] = "/tmp/kelpie-owned-XXXXXX";
    char bundle[64];
    size_t written = 0;
    assert_non_null(mkdtemp(folder));
    snprintf(bundle, sizeof(bundle), "%s/b", folder);
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true},
                         &exec, NULL));
    uint32_t id = kelpie_exec_id(exec);
    OK(kelpie_exec_write(exec, "12345678", 8, &written, NULL));
    OK(read_all(exec, text, sizeof(text), 8));
    struct kelpie_snapshot snapshot = {0};
    OK(kelpie_vm_snapshot(vm, bundle, NULL, &snapshot, NULL));
    OK(kelpie_exec_write(exec, "9", 1, &written,
                         NULL)); /* the VM went on, and so did the session */
    OK(read_all(exec, text, sizeof(text), 1));
    OK(kelpie_vm_stop(vm, 0, NULL));
    assert_int_equal(kelpie_exec_wait(exec, WAIT_MS, &(struct kelpie_exit){0}, NULL),
                     KELPIE_WRONG_STATE);
    kelpie_exec_close(exec);
    OK(kelpie_vm_restore(vm, bundle, NULL, NULL));
    struct kelpie_restore_report report = {0};
    OK(kelpie_vm_restore_report(vm, &report, NULL));
    assert_int_equal(report.entropy, KELPIE_OUTCOME_DONE);
    OK(kelpie_exec_attach(vm, id, &exec, NULL));
    OK(kelpie_exec_write(exec, "x", 1, &written, NULL));
    OK(kelpie_exec_close_stdin(exec, NULL));
    OK(read_all(exec, text, sizeof(text), SIZE_MAX));
    assert_string_equal(text,
                        "x"); /* what was read before the snapshot was acknowledged before it */
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* A client that is killed: its relay is closed with the session held. */
static void test_a_killed_client_leaves_its_commands(void **state) {
    (void)state;
    struct kelpie_vm *a = create();
    struct kelpie_exec *exec = NULL;
    char text[256];
    size_t written = 0;
    OK(kelpie_vm_start(a, NULL));
    struct kelpie_vm *b = open_again();
    OK(kelpie_exec_start(b, &(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true},
                         &exec, NULL));
    uint32_t id = kelpie_exec_id(exec);
    OK(kelpie_exec_write(exec, "lost?", 5, &written, NULL));
    assert_int_equal(vm_relay_session_count(owner_vm_relay(b)), 1);
    vm_lock(b); /* it says nothing any more */
    vm_channel_break(b, "killed");
    vm_unlock(b);
    kelpie_exec_detach(exec);
    kelpie_vm_close(b);
    OK(kelpie_exec_attach(a, id, &exec, NULL));
    OK(read_all(exec, text, sizeof(text), 5));
    assert_string_equal(text, "lost?");
    kelpie_exec_close(exec);
    kelpie_vm_destroy(a);
}

/* ---- Ends --------------------------------------------------------------------------------------- */

struct waiter {
    struct kelpie_exec *exec;
    pthread_t thread;
    enum kelpie_status status;
    struct kelpie_error err;
};

static void *wait_for_the_end(void *data) {
    struct waiter *waiter = data;
    struct kelpie_exit exit;
    waiter->status = kelpie_exec_wait(waiter->exec, 60000, &exit, &waiter->err);
    return NULL;
}

static void begin_waiting(struct waiter *waiter, struct kelpie_vm *vm) {
    *waiter = (struct waiter){0};
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sleep", "1000")}, &waiter->exec,
                         NULL));
    assert_int_equal(pthread_create(&waiter->thread, NULL, wait_for_the_end, waiter), 0);
}

static void end_waiting(struct waiter *waiter) {
    assert_int_equal(pthread_join(waiter->thread, NULL), 0);
    kelpie_exec_close(waiter->exec);
}

static void test_hazard_e1_a_dead_owner_ends_every_wait(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct waiter waiter;
    struct kelpie_error err = {0};
    OK(kelpie_vm_start(vm, NULL));
    begin_waiting(&waiter, vm);
    owner_vm_die("a");
    end_waiting(&waiter);
    assert_int_equal(waiter.status, KELPIE_CRASHED);
    assert_non_null(strstr(waiter.err.message, "owner is gone"));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED);
    assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
    struct kelpie_output output = {0};
    assert_int_equal(
        kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, NULL),
        KELPIE_WRONG_STATE);
    kelpie_vm_close(vm);
}

static void test_a_crash_is_told_at_once(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct waiter waiter;
    OK(kelpie_vm_start(vm, NULL));
    begin_waiting(&waiter, vm);
    OK(kelpie_mock_crash(vm, NULL));
    end_waiting(&waiter);
    assert_int_equal(waiter.status, KELPIE_CRASHED);
    assert_non_null(strstr(waiter.err.message, "as it was told to"));
    enum kelpie_state now;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, NULL));
    kelpie_vm_destroy(vm);
}

static void test_a_stop_ends_sessions(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct waiter waiter;
    OK(kelpie_vm_start(vm, NULL));
    begin_waiting(&waiter, vm);
    OK(kelpie_vm_stop(vm, 0, NULL));
    end_waiting(&waiter);
    assert_int_equal(waiter.status, KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
}

/* The owner ends a relay: the handle's channel is broken, and the VM is not. */
static void test_a_channel_that_ends_without_a_word(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct waiter waiter;
    OK(kelpie_vm_start(vm, NULL));
    begin_waiting(&waiter, vm);
    vm_lock(vm);
    struct cursor_writer writer;
    assert_true(vm_channel_try_reserve(vm, PROTOCOL_HEADER_SIZE, &writer));
    protocol_encode_empty(&writer, PROTOCOL_POWER_OFF, 0); /* which a far end may not say */
    vm_channel_commit(vm, &writer);
    vm_unlock(vm);
    end_waiting(&waiter);
    assert_int_equal(waiter.status, KELPIE_INTERNAL);
    assert_false(waiter.err.requires_recreate);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    struct kelpie_vm *other = open_again();
    expect_echo(other);
    kelpie_vm_close(other);
    kelpie_vm_destroy(vm);
}

/* ---- Requests ----------------------------------------------------------------------------------- */

static void *wait_detached(void *data) {
    struct waiter *waiter = data;
    struct kelpie_exit exit;
    waiter->status =
        kelpie_vm_wait_detached((struct kelpie_vm *)waiter->exec, 0, &exit, &waiter->err);
    return NULL;
}

static void test_a_cancel_ends_requests_and_none_that_come_later(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    OK(kelpie_vm_start(vm, NULL));
    struct waiter waiter = {.exec = (struct kelpie_exec *)vm};
    assert_int_equal(pthread_create(&waiter.thread, NULL, wait_detached, &waiter), 0);
    vm_lock(vm);
    while (vm->owner_request_count == 0) {
        vm_wait_changed(vm, host_monotonic_ns(vm->host) + HOST_NS_PER_MS);
    }
    vm_unlock(vm);
    OK(kelpie_vm_pause(vm, NULL)); /* beside it */
    kelpie_vm_cancel(vm);
    OK(kelpie_vm_resume(vm, NULL));
    assert_int_equal(pthread_join(waiter.thread, NULL), 0);
    assert_int_equal(waiter.status, KELPIE_CANCELLED);
    struct kelpie_exit exit;
    assert_int_equal(kelpie_vm_wait_detached(vm, 20, &exit, NULL), KELPIE_TIMED_OUT);
    kelpie_vm_destroy(vm);
}

static void test_what_is_refused_here(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_error err = {0};
    uint32_t id = 0;
    struct kelpie_exit exit;
    OK(kelpie_vm_start(vm, NULL));
    const struct kelpie_command with_stdin = {
        .argv = ARGV("cat"), .stdin_data = "x", .stdin_size = 1};
    assert_int_equal(kelpie_vm_run_detached(vm, &with_stdin, &id, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "stdin_size");
    assert_int_equal(kelpie_vm_wait_detached(vm, KELPIE_TIMEOUT_MS_MAX + 1, &exit, &err),
                     KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_vm_stop(vm, KELPIE_TIMEOUT_MS_MAX + 1, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_vm_snapshot(vm, "", NULL, NULL, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_vm_restore(vm, "", NULL, &err), KELPIE_BAD_CONFIG);
    struct kelpie_fork_child child;
    assert_int_equal(kelpie_vm_fork(vm, NULL, 0, &child, &err), KELPIE_BAD_CONFIG);
    /* And of a VM that has no owner. */
    struct kelpie_vm *own = owner_vm_served("a");
    const struct kelpie_command command = {.argv = ARGV("true")};
    assert_int_equal(kelpie_vm_run_detached(own, &command, &id, &err), KELPIE_UNSUPPORTED);
    assert_int_equal(kelpie_vm_wait_detached(own, 1, &exit, &err), KELPIE_UNSUPPORTED);
    const struct kelpie_owner owner = {0};
    const struct kelpie_config owned = {.owner = &owner};
    const struct kelpie_fork_options options = {.config = &owned};
    assert_int_equal(kelpie_vm_fork(own, &options, 1, &child, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "owner");
    kelpie_vm_destroy(vm);
}

static void test_a_detached_command_is_taken_up(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    uint32_t id = 0;
    char text[64];
    struct kelpie_exec *exec = NULL;
    OK(kelpie_vm_start(vm, NULL));
    const struct kelpie_command command = {.argv = ARGV("echo", "detached")};
    OK(kelpie_vm_run_detached(vm, &command, &id, NULL));
    OK(kelpie_exec_attach(vm, id, &exec, NULL));
    OK(read_all(exec, text, sizeof(text), SIZE_MAX));
    assert_string_equal(text, "detached\n");
    assert_non_null(strstr(owner_vm_passed(), "detached\n"));
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
}

static void test_children_have_owners_too(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_fork_child children[2] = {0};
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_vm_fork(vm, NULL, 2, children, NULL));
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(children[i].vm);
        assert_true(vm_is_owned(children[i].vm));
        expect_echo(children[i].vm);
        kelpie_vm_close(children[i].vm);
    }
    struct kelpie_vm *child = owner_vm_open("a-2", NULL);
    assert_non_null(child);
    assert_int_equal(kelpie_vm_state(child), KELPIE_STATE_RUNNING);
    kelpie_vm_destroy(child);
    kelpie_vm_destroy(vm);
}

static void test_levers_reach_the_mock(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_START, 1, NULL));
    assert_int_equal(kelpie_vm_start(vm, NULL), KELPIE_BOOT_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    OK(kelpie_vm_start(vm, NULL));
    kelpie_vm_destroy(vm);
}

/* Time that a VM is paused does not count against its commands. */
static void test_a_pause_shifts_deadlines(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_exec *exec = NULL;
    OK(kelpie_vm_start(vm, NULL));
    const struct kelpie_command command = {.argv = ARGV("sleep", "1000"), .timeout_ms = 1000};
    OK(kelpie_exec_start(vm, &command, &exec, NULL));
    uint64_t before_ns = exec->deadline_ns;
    OK(kelpie_vm_pause(vm, NULL));
    usleep(50000);
    OK(kelpie_vm_resume(vm, NULL));
    assert_true(exec->deadline_ns >= before_ns + 50 * HOST_NS_PER_MS);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_life, forget),
        cmocka_unit_test_teardown(test_a_handle_leaves_the_vm_and_another_finds_it, forget),
        cmocka_unit_test_teardown(test_two_handles_run_commands_at_once, forget),
        cmocka_unit_test_teardown(test_files_go_in_and_out, forget),
        cmocka_unit_test_teardown(test_a_session_goes_on_at_the_byte_in_another_handle, forget),
        cmocka_unit_test_teardown(test_an_attach_after_the_end_of_stdin, forget),
        cmocka_unit_test_teardown(test_hazard_c6_a_far_session_survives_a_snapshot, forget),
        cmocka_unit_test_teardown(test_a_killed_client_leaves_its_commands, forget),
        cmocka_unit_test_teardown(test_hazard_e1_a_dead_owner_ends_every_wait, forget),
        cmocka_unit_test_teardown(test_a_crash_is_told_at_once, forget),
        cmocka_unit_test_teardown(test_a_stop_ends_sessions, forget),
        cmocka_unit_test_teardown(test_a_channel_that_ends_without_a_word, forget),
        cmocka_unit_test_teardown(test_a_cancel_ends_requests_and_none_that_come_later, forget),
        cmocka_unit_test_teardown(test_what_is_refused_here, forget),
        cmocka_unit_test_teardown(test_a_detached_command_is_taken_up, forget),
        cmocka_unit_test_teardown(test_children_have_owners_too, forget),
        cmocka_unit_test_teardown(test_levers_reach_the_mock, forget),
        cmocka_unit_test_teardown(test_a_pause_shifts_deadlines, forget),
    };
    return cmocka_run_group_tests_name("owned", tests, NULL, NULL);
}
