/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What src/vm/ does with a backend that can what the mock cannot: machines that show folders themselves, that have disks for an
 * image, that cannot be stopped, or copy nothing. Each is the mock with other words.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define OPERATION_MS 2000
#define NOT_ANSWERED UINT32_MAX

static struct backend_ops ops; /* the mock's, but for what a test says */
static struct kelpie_vm *vm;
static pthread_t tester;
static uint32_t
    answer; /* of a guest that is asked to mount a folder; NOT_ANSWERED: the mock's own */
static atomic_bool asked; /* the machine was asked whether it shows the folder: the guest is next */

static const struct backend_ops *mocks(void) {
    return backend_find("mock");
}

/* The guest's answer comes when the question is being written: whoever asks has the VM locked. */
static int channel_fd(struct backend_instance *instance) {
    if (asked && pthread_equal(pthread_self(), tester)) {
        uint8_t bytes[256];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        const struct protocol_done done = {answer, answer == 0 ? "" : "the guest's words"};
        protocol_encode_shared(&writer, &done);
        const struct protocol_frame frame = {.type = PROTOCOL_SHARED,
                                             .payload = bytes + PROTOCOL_HEADER_SIZE,
                                             .payload_size = writer.size - PROTOCOL_HEADER_SIZE};
        asked = false;
        assert_true(vm_channel_handle(vm, &frame));
    }
    return mocks()->channel_fd(instance);
}

static bool cancels; /* of the tester's thread */

/* A cancel comes while the guest is told to stand still. */
static int channel_fd_and_cancel(struct backend_instance *instance) {
    if (pthread_equal(pthread_self(), tester) && cancels) {
        vm->cancel_count++;
        cancels = false;
    }
    return mocks()->channel_fd(instance);
}

static bool shows_share(struct backend_instance *instance, size_t index) {
    assert_non_null(instance);
    assert_int_equal(index, 0);
    asked = answer != NOT_ANSWERED;
    return true;
}

static bool shows_none(struct backend_instance *instance, size_t index) {
    assert_non_null(instance);
    assert_int_equal(index, 0);
    return false;
}

static enum kelpie_status create(const struct kelpie_config *wanted, struct kelpie_error *err) {
    struct kelpie_config config = *wanted;
    config.backend = "mock";
    config.memory_mib = 64;
    config.operation_timeout_ms = OPERATION_MS;
    return vm_create(&(struct vm_origin){.config = &config, .ops = &ops}, &vm, err);
}

static int set_up(void **state) {
    (void)state;
    ops = *mocks();
    ops.channel_fd = channel_fd;
    tester = pthread_self();
    answer = NOT_ANSWERED;
    asked = false;
    vm = NULL;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    asked = false;
    kelpie_vm_destroy(vm);
    return 0;
}

static void expect_output(const char *command, const char *text) {
    struct kelpie_output output = {0};
    const struct kelpie_command shell = {.argv = ARGV("sh", "-c", command)};
    OK(kelpie_vm_exec(vm, &shell, &output, NULL));
    assert_string_equal(output.stdout_data, text);
    kelpie_output_free(&output);
}

/* ---- Folders that the machine shows ------------------------------------------------------------- */

static const struct kelpie_share if_possible = {.path = "/proc/self/attr", .mount = "/mnt"};
static const struct kelpie_share must = {.path = "/proc/self/attr", .mount = "/mnt", .live = true};

static void test_a_folder_that_the_guest_mounts(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_fork_child child = {0};
    ops.shows_share = shows_share;
    answer = 0;
    OK(create(&(struct kelpie_config){.shares = &must, .share_count = 1}, &err));
    assert_int_equal(kelpie_vm_live_shares(vm), 0); /* nothing is up */
    OK(kelpie_vm_start(vm, &err));
    assert_int_equal(kelpie_vm_live_shares(vm), 1);
    expect_output("test -e /mnt || echo none", "none\n"); /* nothing was copied */
    answer = NOT_ANSWERED;
    assert_int_equal(kelpie_vm_snapshot(vm, "/tmp/never", NULL, NULL, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "shares");
    assert_int_equal(kelpie_vm_fork(vm, NULL, 1, &child, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "shares");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
}

/* The guest's kernel has no virtio-fs: copied, where that will do. */
static void test_a_folder_that_the_guest_cannot_mount(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    ops.shows_share = shows_share;
    OK(create(&(struct kelpie_config){.shares = &if_possible, .share_count = 1}, &err));
    OK(kelpie_vm_start(vm, &err));
    assert_int_equal(kelpie_vm_live_shares(vm), 0);
    expect_output("test -d /mnt && echo there", "there\n");
    kelpie_vm_destroy(vm);
    OK(create(&(struct kelpie_config){.shares = &must, .share_count = 1}, &err));
    assert_int_equal(kelpie_vm_start(vm, &err), KELPIE_UNSUPPORTED);
    assert_non_null(strstr(err.message, "virtio-fs"));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
}

/* Another failure is one, also where a copy would do: the folder is there, and something is wrong with it. */
static void test_a_mount_that_fails(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    ops.shows_share = shows_share;
    answer = EACCES;
    OK(create(&(struct kelpie_config){.shares = &if_possible, .share_count = 1}, &err));
    assert_int_not_equal(kelpie_vm_start(vm, &err), KELPIE_OK);
    assert_non_null(strstr(err.message, "the guest's words"));
    assert_int_equal(kelpie_vm_live_shares(vm), 0);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
}

static void test_a_machine_that_shows_no_folder_this_time(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    ops.shows_share = shows_none;
    OK(create(&(struct kelpie_config){.shares = &if_possible, .share_count = 1}, &err));
    OK(kelpie_vm_start(vm, &err));
    assert_int_equal(kelpie_vm_live_shares(vm), 0);
    expect_output("test -d /mnt && echo there", "there\n");
    struct kelpie_fork_child child = {0};
    OK(kelpie_vm_fork(vm, NULL, 1, &child, &err)); /* nothing is live */
    kelpie_vm_destroy(child.vm);
}

/* ---- Secrets ------------------------------------------------------------------------------------ */

static void test_secrets_need_a_guest_that_takes_files(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const struct kelpie_secret secret = {.name = "token", .data = "secret", .size = 6};
    ops.capabilities &= ~(uint32_t)KELPIE_CAN_COPY;
    OK(create(&(struct kelpie_config){.secrets = &secret, .secret_count = 1}, &err));
    assert_int_equal(kelpie_vm_start(vm, &err), KELPIE_UNSUPPORTED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    kelpie_vm_destroy(vm);
    vm = NULL;
    assert_int_equal(create(&(struct kelpie_config){.secret_count = 1}, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "secrets");
    const struct kelpie_config many = {.secrets = &secret,
                                       .secret_count = KELPIE_SECRET_COUNT_MAX + 1};
    assert_int_equal(create(&many, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "secrets");
}

/* ---- Operations that somebody ends --------------------------------------------------------------- */

static void test_a_cancel_while_the_guest_is_to_stand_still(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    ops.channel_fd = channel_fd_and_cancel;
    OK(create(&(struct kelpie_config){0}, &err));
    OK(kelpie_vm_start(vm, &err));
    cancels = true;
    assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CANCELLED);
    assert_int_equal(err.status, KELPIE_CANCELLED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_output("echo works", "works\n");
    cancels = true;
    assert_int_equal(kelpie_vm_pause(vm, NULL), KELPIE_CANCELLED);
    expect_output("echo works", "works\n");
}

static atomic_bool saves;
static atomic_bool killed;

/* Takes for ever, but for a kill. */
static enum kelpie_status save_slowly(struct backend_instance *instance,
                                      enum kelpie_snapshot_kind kind,
                                      struct snapshot_writer *writer, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    assert_true(instance && writer && wait);
    assert_int_equal(kind, KELPIE_SNAPSHOT_SUSPEND);
    saves = true;
    while (!killed) {
        usleep(100);
    }
    return error_set(err, KELPIE_CRASHED, "the machine was killed");
}

static void kill_it(struct backend_instance *instance) {
    mocks()->kill(instance);
    killed = true;
}

static void *take_snapshot(void *argument) {
    struct kelpie_error err = {0};
    const char *path = argument;
    return kelpie_vm_snapshot(vm, path, NULL, NULL, &err) == KELPIE_OK ? argument : NULL;
}

/* A stop at once does not wait for an operation that holds the VM, running or paused. */
static void hazard_e2_a_stop_at_once_ends_what_holds_the_vm(void **state) {
    (void)state;
    static char path[] = "/tmp/kelpie-machine-never";
    struct kelpie_error err = {0};
    ops.save = save_slowly;
    ops.kill = kill_it;
    OK(create(&(struct kelpie_config){0}, &err));
    for (int paused = 0; paused < 2; paused++) {
        pthread_t thread;
        void *made = path;
        OK(kelpie_vm_start(vm, &err));
        if (paused) {
            OK(kelpie_vm_pause(vm, &err));
        }
        saves = killed = false;
        assert_int_equal(pthread_create(&thread, NULL, take_snapshot, path), 0);
        while (!saves) {
            usleep(100);
        }
        OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, &err));
        assert_int_equal(pthread_join(thread, &made), 0);
        assert_null(made);
        assert_int_not_equal(access(path, F_OK), 0);
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    }
    OK(kelpie_vm_start(vm, &err));
    expect_output("echo works", "works\n");
    OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, &err)); /* nothing holds it */
}

/* ---- Ends --------------------------------------------------------------------------------------- */

static enum kelpie_status stop_badly(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    TRY(mocks()->stop(instance, wait, err));
    return error_set(err, KELPIE_TIMED_OUT, "its process is still there");
}

/* It is said, and the VM can be started again. */
static void test_a_machine_that_cannot_be_reaped(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    ops.stop = stop_badly;
    OK(create(&(struct kelpie_config){0}, &err));
    OK(kelpie_vm_start(vm, &err));
    OK(kelpie_vm_stop(vm, 100, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    assert_non_null(strstr(vm->exit_text, "could not be reaped: its process is still there"));
    OK(kelpie_vm_start(vm, &err));
    expect_output("echo works", "works\n");
}

static void silent(struct backend_instance *instance, char *buffer, size_t size) {
    assert_non_null(instance);
    snprintf(buffer, size, "%s", "");
}

static void test_a_machine_that_ends_without_a_word(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    uint64_t ns = 0;
    ops.exit_text = silent;
    OK(create(&(struct kelpie_config){0}, &err));
    OK(kelpie_vm_start(vm, &err));
    ops.kill(vm->instance); /* by nobody who wanted its end */
    while (kelpie_vm_state(vm) != KELPIE_STATE_CRASHED) {
        (void)!kelpie_vm_ping(vm, &ns, &err);
    }
    assert_int_equal(kelpie_vm_ping(vm, &ns, &err), KELPIE_WRONG_STATE);
    vm_lock(vm);
    assert_int_equal(vm_check_alive(vm, "try it", &err), KELPIE_CRASHED);
    assert_string_equal(err.message, "cannot try it: the VM crashed");
    vm_unlock(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_folder_that_the_guest_mounts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_folder_that_the_guest_cannot_mount, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_mount_that_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_machine_that_shows_no_folder_this_time, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_secrets_need_a_guest_that_takes_files, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_cancel_while_the_guest_is_to_stand_still, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_e2_a_stop_at_once_ends_what_holds_the_vm, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_machine_that_cannot_be_reaped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_machine_that_ends_without_a_word, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("machines", tests, NULL, NULL);
}
