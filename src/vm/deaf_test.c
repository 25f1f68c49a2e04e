/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A guest that takes nothing any more, with the queue to it full: whatever wants to say something waits for room, ends in time
 * or by a cancel, and says why; and when the guest listens again, everything works. And files whose guest gives up half-way.
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
#include "vm/transfer.h"
#include "vm/vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define OPERATION_MS 30
#define WAIT_MS 10000
#define SKIP_MS 2500

static struct host *host;
static struct host_ops host_ops; /* the host's, but for waits */
static const struct host_ops *own_host_ops;
static struct backend_ops ops; /* the mock's, but for the channel */
static atomic_bool deaf;
static atomic_bool
    impatient; /* the test's own waits are over at once, as if their time had gone by */
static uint64_t skipped_ns; /* by them */
static pthread_t tester;

static bool condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                           uint64_t deadline_ns) {
    if (impatient && pthread_equal(pthread_self(), tester)) {
        skipped_ns += SKIP_MS * HOST_NS_PER_MS;
        return false;
    }
    return own_host_ops->condition_wait(condition, mutex, deadline_ns);
}

static uint64_t monotonic_ns(struct host *self) {
    uint64_t ns = own_host_ops->monotonic_ns(self);
    return impatient && pthread_equal(pthread_self(), tester) ? ns + skipped_ns : ns;
}

static int set_up(void **state) {
    (void)state;
    OK(host_linux_create(&host, NULL));
    own_host_ops = host->ops;
    host_ops = *host->ops;
    host_ops.condition_wait = condition_wait;
    host_ops.monotonic_ns = monotonic_ns;
    host->ops = &host_ops;
    tester = pthread_self();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    host_destroy(host);
    return 0;
}

static int channel_fd(struct backend_instance *instance) {
    return deaf ? HOST_FD_NONE : backend_find("mock")->channel_fd(instance);
}

static struct kelpie_vm *start(void) {
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {
        .backend = "mock", .memory_mib = 64, .operation_timeout_ms = OPERATION_MS, .host = host};
    ops = *backend_find("mock");
    ops.channel_fd = channel_fd;
    deaf = false;
    OK(vm_create(&(struct vm_origin){.config = &config, .ops = &ops}, &vm, NULL));
    OK(kelpie_vm_start(vm, NULL));
    return vm;
}

/* Nothing is written, and there is no room for more: as after many writes, with some at the front that were taken. */
static void fill(struct kelpie_vm *vm) {
    vm_lock(vm);
    deaf = true;
    vm->channel.out_start = 16;
    vm->channel.out_end = VM_OUT_CAPACITY;
    vm_unlock(vm);
}

/* It listens again; what was queued is nothing that it should hear. */
static void drain(struct kelpie_vm *vm) {
    vm_lock(vm);
    vm->channel.out_start = 0;
    vm->channel.out_end = 0;
    deaf = false;
    host_event_set(vm->host, vm->wake_event);
    vm_unlock(vm);
}

static void expect_works(struct kelpie_vm *vm) {
    struct kelpie_output output = {0};
    struct kelpie_error err = {0};
    if (kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("echo", "hello")}, &output,
                       &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_string_equal(output.stdout_data, "hello\n");
    kelpie_output_free(&output);
}

/* ---- Operations ------------------------------------------------------------------------------- */

typedef enum kelpie_status work(struct kelpie_vm *vm, struct kelpie_error *err);

static enum kelpie_status ping(struct kelpie_vm *vm, struct kelpie_error *err) {
    uint64_t ns = 0;
    return kelpie_vm_ping(vm, &ns, err);
}

static enum kelpie_status list(struct kelpie_vm *vm, struct kelpie_error *err) {
    size_t count = 0;
    return kelpie_exec_list(vm, NULL, 0, &count, err);
}

static enum kelpie_status run(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_exec *exec = NULL;
    const struct kelpie_command command = {.argv = ARGV("true")};
    enum kelpie_status status = kelpie_exec_start(vm, &command, &exec, err);
    assert_null(exec);
    return status;
}

static enum kelpie_status attach(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_exec *exec = NULL;
    return kelpie_exec_attach(vm, 77, &exec, err);
}

static enum kelpie_status copy_in(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_copy_in(vm, "/proc/self/exe", "/tmp/file", NULL, err);
}

static enum kelpie_status copy_out(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_copy_out(vm, "/etc/hostname", "/nowhere/at/all", NULL, err);
}

static enum kelpie_status tree_in(struct kelpie_vm *vm, struct kelpie_error *err) {
    return kelpie_copy_tree_in(vm, "/tmp", "/tmp/tree", NULL, NULL, err);
}

static enum kelpie_status say_status(struct kelpie_vm *vm, struct kelpie_error *err) {
    bool known = false;
    vm_lock(vm);
    struct vm_wait wait = vm_wait_start(vm, OPERATION_MS);
    enum kelpie_status status = vm_say_status(vm, &wait, &known, err);
    vm_unlock(vm);
    return status;
}

static enum kelpie_status say_share(struct kelpie_vm *vm, struct kelpie_error *err) {
    const struct protocol_share share = {.path = "/mnt"};
    vm_lock(vm);
    vm->busy = true;
    struct vm_wait wait = vm_wait_start(vm, OPERATION_MS);
    enum kelpie_status status = vm_say_share(vm, &share, &wait, err);
    vm->busy = false;
    vm_unlock(vm);
    return status;
}

static const struct {
    const char *name;
    work *run;
    enum kelpie_status status;
} cases[] = {
    {"ping", ping, KELPIE_TIMED_OUT},
    {"list", list, KELPIE_TIMED_OUT},
    {"exec", run, KELPIE_TIMED_OUT},
    {"attach", attach, KELPIE_TIMED_OUT},
    {"copy in", copy_in, KELPIE_COPY_FAILED},
    {"copy out", copy_out, KELPIE_COPY_FAILED},
    {"a folder in", tree_in, KELPIE_COPY_FAILED},
    {"the question for its figures", say_status, KELPIE_TIMED_OUT},
    {"a shared folder", say_share, KELPIE_TIMED_OUT},
};

static void hazard_e1_a_full_queue_ends_in_time(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        fill(vm);
        enum kelpie_status status = cases[i].run(vm, &err);
        drain(vm);
        if (status != cases[i].status) {
            fail_msg("%s: %s: %s", cases[i].name, kelpie_status_name(status), err.message);
        }
        assert_non_null(strstr(err.message, "room in the channel"));
        expect_works(vm);
    }
    kelpie_vm_destroy(vm);
}

/* It says where room is wanted when there is some again. */
static void test_room_comes_back(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct cursor_writer writer;
    fill(vm);
    vm_lock(vm);
    assert_false(vm_channel_try_reserve(vm, 17, &writer));
    assert_int_equal(vm->channel.out_start, 0); /* what waits was moved to the front */
    assert_true(vm_channel_try_reserve(vm, 16, &writer));
    vm_unlock(vm);
    drain(vm);
    expect_works(vm);
    kelpie_vm_destroy(vm);
}

/* Its commands may not stand still, and yet the machine is paused; it goes on when it listens. */
static void test_a_pause_of_a_deaf_guest(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    fill(vm);
    OK(kelpie_vm_pause(vm, &err));
    assert_false(vm->quiesced);
    drain(vm);
    OK(kelpie_vm_resume(vm, &err));
    expect_works(vm);
    fill(vm);
    OK(kelpie_vm_stop(vm, 1, &err)); /* POWER_OFF is not heard: it is killed */
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    deaf = false;
    OK(kelpie_vm_start(vm, &err));
    expect_works(vm);
    kelpie_vm_destroy(vm);
}

static void test_a_write_to_a_command(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    static char bytes[4 * PROTOCOL_WINDOW_SIZE];
    size_t written = 0;
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    OK(kelpie_exec_start(vm, &command, &exec, NULL));
    fill(vm);
    enum kelpie_status status = KELPIE_OK;
    for (size_t i = 0; status == KELPIE_OK && i < 8; i++) {
        status = kelpie_exec_write(exec, bytes, sizeof(bytes), &written, &err);
    }
    assert_int_equal(status, KELPIE_TIMED_OUT);
    assert_non_null(strstr(err.message, "to read its stdin"));
    drain(vm);
    kelpie_exec_close(exec);
    expect_works(vm);
    kelpie_vm_destroy(vm);
}

/* ---- Questions that are not answered ------------------------------------------------------------- */

static void hazard_e1_a_question_that_is_not_answered(void **state) {
    (void)state;
    static work *const questions[] = {say_status, say_share};
    struct kelpie_vm *vm = start();
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++) {
        struct kelpie_error err = {0};
        deaf = true;
        assert_int_equal(questions[i](vm, &err), KELPIE_TIMED_OUT);
        assert_non_null(strstr(err.message, "the guest to"));
        drain(vm);
        expect_works(vm);
    }
    kelpie_vm_destroy(vm);
}

/* A greeting after a restore, to a guest that may be in the middle of a frame, with so much room in the queue. What was queued. */
static size_t greet(struct kelpie_vm *vm, size_t room) {
    struct kelpie_error err = {0};
    vm_lock(vm);
    const uint64_t count = vm->channel.answers.hello_count;
    const size_t start = VM_OUT_CAPACITY - room;
    vm->busy = true;
    vm->channel.answers.hello_count = 0;
    vm->channel.out_start = room == VM_OUT_CAPACITY ? start : 0;
    vm->channel.out_end = start;
    skipped_ns = 0;
    impatient = true;
    struct vm_wait wait = vm_wait_start(vm, WAIT_MS);
    assert_int_equal(vm_say_hello(vm, true, &wait, &err), KELPIE_TIMED_OUT);
    impatient = false;
    const size_t queued = vm->channel.out_end - start;
    vm->channel.answers.hello_count = count;
    vm->busy = false;
    vm_unlock(vm);
    drain(vm);
    return queued;
}

static void hazard_c6_a_guest_that_waits_for_the_rest_of_a_frame(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    deaf = true;
    /* HELLO, enough to fill any frame, and HELLO again. */
    const size_t all = greet(vm, VM_OUT_CAPACITY);
    assert_true(all > PROTOCOL_FRAME_SIZE_MAX);
    const size_t hello = (all - PROTOCOL_FRAME_SIZE_MAX) / 2;
    assert_int_equal(all, PROTOCOL_FRAME_SIZE_MAX + 2 * hello);
    deaf = true;
    assert_int_equal(greet(vm, PROTOCOL_FRAME_SIZE_MAX - 1), hello);
    deaf = true;
    assert_int_equal(greet(vm, PROTOCOL_FRAME_SIZE_MAX + hello), PROTOCOL_FRAME_SIZE_MAX + hello);
    kelpie_vm_destroy(vm);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static struct vm_transfer *put(struct kelpie_vm *vm, const char *path, uint32_t mode,
                               uint64_t size) {
    struct vm_transfer *transfer = NULL;
    OK(vm_transfer_create(vm, "/here", path, &transfer, NULL));
    OK(vm_transfer_put(transfer, mode, size, NULL));
    return transfer;
}

static void test_a_cancel_between_two_writes(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    struct vm_transfer *transfer = put(vm, "/tmp/file", 0644, 8);
    OK(vm_transfer_write(transfer, "1234", 4, &err));
    kelpie_vm_cancel(vm);
    assert_int_equal(vm_transfer_write(transfer, "5678", 4, &err), KELPIE_CANCELLED);
    vm_transfer_destroy(transfer);
    expect_works(vm);
    kelpie_vm_destroy(vm);
}

static void await_ended(struct vm_transfer *transfer) {
    struct kelpie_vm *vm = transfer->vm;
    vm_lock(vm);
    const uint64_t deadline_ns = host_wait_ms(vm->host, WAIT_MS, HOST_FD_NONE).deadline_ns;
    while (!transfer->exec->ended && vm_wait_changed(vm, deadline_ns)) {
    }
    assert_true(transfer->exec->ended);
    vm_unlock(vm);
}

static void guest_says_ended(struct vm_transfer *transfer, const struct protocol_ended *ended) {
    uint8_t bytes[512];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_ended(&writer, transfer->exec->id, ended);
    assert_false(writer.failed);
    const struct protocol_frame frame = {.type = PROTOCOL_ENDED,
                                         .session = transfer->exec->id,
                                         .payload = bytes + PROTOCOL_HEADER_SIZE,
                                         .payload_size = writer.size - PROTOCOL_HEADER_SIZE};
    vm_lock(transfer->vm);
    assert_true(vm_channel_handle(transfer->vm, &frame));
    vm_unlock(transfer->vm);
}

/* What it says is why the copy failed, not that it reads no more. */
static void test_a_guest_that_gives_up_says_why(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    struct vm_transfer *transfer = put(vm, "/tmp/file", 0644, 8);
    OK(vm_transfer_write(transfer, "1234", 4, &err));
    guest_says_ended(transfer, &(struct protocol_ended){.end = PROTOCOL_END_FAILED,
                                                        .value = ENOSPC,
                                                        .message = "its disk is full"});
    assert_int_equal(vm_transfer_write(transfer, "5678", 4, &err), KELPIE_NO_SPACE);
    assert_int_equal(err.os_error, ENOSPC);
    assert_non_null(strstr(err.message, "its disk is full"));
    vm_transfer_destroy(transfer);
    kelpie_vm_destroy(vm);
}

/* An end that is a command's is none of a file: its value is no errno. */
static void hazard_d1_an_end_that_is_no_files(void **state) {
    (void)state;
    static const struct protocol_ended ends[] = {
        {.end = PROTOCOL_END_EXITED, .value = ENOSPC, .message = ""},
        {.end = PROTOCOL_END_SIGNALED, .value = EACCES, .message = ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        struct kelpie_vm *vm = start();
        struct kelpie_error err = {0};
        struct vm_transfer *transfer = put(vm, "/tmp/file", 0644, 8);
        deaf = true; /* it hears no end of stdin, and says no more of its own */
        vm_lock(vm);
        transfer->exec->ended_info = ends[i];
        transfer->exec->ended = true;
        vm_unlock(vm);
        assert_int_equal(vm_transfer_finish(transfer, &err), KELPIE_IO_FAILED);
        assert_int_equal(err.os_error, EIO);
        vm_transfer_destroy(transfer);
        deaf = false;
        kelpie_vm_destroy(vm);
    }
}

static void test_a_file_that_cannot_be_read_to_its_end(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    struct vm_transfer *transfer = NULL;
    static char bytes[4096];
    uint32_t mode = 0;
    uint64_t size = 0;
    size_t count = 0;
    const struct kelpie_command fill_file = {
        .argv = ARGV("sh", "-c", "cat > /tmp/f"), .stdin_data = "12345678", .stdin_size = 8};
    OK(kelpie_vm_exec(vm, &fill_file, &output, NULL));
    kelpie_output_free(&output);
    OK(vm_transfer_create(vm, "/here", "/tmp/f", &transfer, NULL));
    OK(vm_transfer_get(transfer, &mode, &size, NULL));
    assert_int_equal(size, 8);
    await_ended(transfer);
    transfer->exec->ended_info.end =
        PROTOCOL_END_FAILED; /* as if its disk had failed behind that */
    transfer->exec->ended_info.value = ENOSPC;
    OK(vm_transfer_read(transfer, bytes, sizeof(bytes), &count, &err));
    assert_int_equal(count, 8);
    assert_int_equal(vm_transfer_read(transfer, bytes, sizeof(bytes), &count, &err),
                     KELPIE_NO_SPACE);
    vm_transfer_destroy(transfer);
    kelpie_vm_destroy(vm);
}

/* ---- What a machine's own looks add ------------------------------------------------------------- */

static int nobody(struct backend_instance *instance) {
    (void)instance;
    return 0x7ffffffe; /* no process has this number */
}

static void test_figures_of_a_process_that_is_gone(void **state) {
    (void)state;
    struct kelpie_vm *vm = start();
    struct kelpie_error err = {0};
    struct kelpie_stats stats = {.exec_count = 77};
    ops.process_id = nobody;
    assert_int_not_equal(kelpie_vm_stats(vm, &stats, &err), KELPIE_OK);
    assert_true(strlen(err.message) > 10);
    assert_int_equal(stats.exec_count, 77);
    ops.process_id = backend_find("mock")->process_id;
    OK(kelpie_vm_stats(vm, &stats, NULL));
    fill(vm);
    vm_lock(vm);
    vm_channel_break(vm, "the guest went mad");
    vm_unlock(vm);
    OK(kelpie_vm_stats(vm, &stats, &err)); /* who cannot be asked has told nothing */
    assert_int_equal(stats.guest_memory_bytes, 64ull << 20);
    assert_int_equal(stats.guest_available_bytes, 0);
    kelpie_vm_destroy(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_e1_a_full_queue_ends_in_time),
        cmocka_unit_test(test_room_comes_back),
        cmocka_unit_test(test_a_pause_of_a_deaf_guest),
        cmocka_unit_test(test_a_write_to_a_command),
        cmocka_unit_test(hazard_e1_a_question_that_is_not_answered),
        cmocka_unit_test(hazard_c6_a_guest_that_waits_for_the_rest_of_a_frame),
        cmocka_unit_test(test_a_cancel_between_two_writes),
        cmocka_unit_test(test_a_guest_that_gives_up_says_why),
        cmocka_unit_test(hazard_d1_an_end_that_is_no_files),
        cmocka_unit_test(test_a_file_that_cannot_be_read_to_its_end),
        cmocka_unit_test(test_figures_of_a_process_that_is_gone),
    };
    return cmocka_run_group_tests_name("deaf guest", tests, set_up, tear_down);
}
