/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Pause, snapshot, restore: here and in a new process. Each case has its own VM. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

#define CLOCK_OFF_MAX_NS 100000000ll
#define DAY_S 86400
#define GO_ON_SIZE                                                                                 \
    200 /* bytes of a counter, some sixty lines and a second, that a session must go on with */

/* ---- Help ------------------------------------------------------------------------------------- */

static struct kelpie_snapshot take(struct kelpie_vm *vm, const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    OK(kelpie_vm_snapshot(vm, path, NULL, &snapshot, &err));
    return snapshot;
}

static struct kelpie_vm *restore(const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create_from_snapshot(path, NULL, NULL, &vm, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    return vm;
}

static int64_t host_now_ns(void) {
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &now), 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The guest's clock, by the one busybox applet that says microseconds, lies within our time of asking. */
static void expect_clock(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    int64_t before = host_now_ns();
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("adjtimex")}, &output, &err));
    int64_t after = host_now_ns();
    const char *seconds = strstr(output.stdout_data, "time.tv_sec:");
    const char *micros = strstr(output.stdout_data, "time.tv_usec:");
    assert_non_null(seconds);
    assert_non_null(micros);
    int64_t guest = strtoll(seconds + strlen("time.tv_sec:"), NULL, 10) * 1000000000 +
                    strtoll(micros + strlen("time.tv_usec:"), NULL, 10) * 1000;
    if (guest < before - CLOCK_OFF_MAX_NS || guest > after + CLOCK_OFF_MAX_NS) {
        print_error("the guest's clock is off: %" PRId64 " ns before, %" PRId64 " ns after\n",
                    before - guest, guest - after);
        fail();
    }
    kelpie_output_free(&output);
}

/* ---- Pause ------------------------------------------------------------------------------------ */

static void test_pause_neither_skips_nor_repeats(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "pause: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = counter_start(vm);
    uint64_t offset = counter_check(exec, 0, 50);
    for (int i = 0; i < 3; i++) {
        OK(kelpie_vm_pause(vm, &err));
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
        struct timespec pause = {.tv_nsec = 300000000};
        nanosleep(&pause, NULL);
        OK(kelpie_vm_resume(vm, &err));
        expect_clock(vm);
        offset = counter_check(exec, offset, 100);
    }
    struct kelpie_restore_report report;
    FAILS(kelpie_vm_restore_report(vm, &report, &err), KELPIE_WRONG_STATE);
    kelpie_exec_close(exec);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
}

#define TIMEOUT_MS 2000
#define STILL_S 6 /* longer than the timeout, and than what the host adds to it */

/* Neither the guest nor the host counts it against a command's timeout. */
static void hazard_c2_time_that_stood_still_does_not_count(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "pause: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exit ended = {0};
    struct kelpie_vm *vm = start_vm();
    OK(kelpie_exec_start(
        vm, &(struct kelpie_command){.argv = ARGV("sleep", "1"), .timeout_ms = TIMEOUT_MS}, &exec,
        &err));
    OK(kelpie_vm_pause(vm, &err));
    const struct timespec pause = {.tv_sec = STILL_S};
    nanosleep(&pause, NULL);
    OK(kelpie_vm_resume(vm, &err));
    OK(kelpie_exec_wait(exec, WAIT_MS, &ended, &err));
    assert_false(ended.timed_out);
    assert_int_equal(ended.code, 0);
    kelpie_exec_close(exec);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
}

/* ---- Snapshot --------------------------------------------------------------------------------- */

static void test_the_vm_goes_on_after_a_snapshot(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "snapshot: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = counter_start(vm);
    uint64_t offset = counter_check(exec, 0, 50);
    struct kelpie_snapshot snapshot = take(vm, path);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    assert_string_equal(snapshot.backend, suite()->backend);
    assert_true(snapshot.quiesced);
    assert_true(snapshot.bytes > 0);
    assert_int_equal(snapshot.kind, KELPIE_SNAPSHOT_SUSPEND);
    struct kelpie_snapshot again = {0};
    OK(kelpie_snapshot_inspect(path, &again, &err));
    assert_string_equal(again.id, snapshot.id);
    OK(kelpie_snapshot_verify(path, &err));
    offset = counter_check(exec, offset, 200);
    expect_clock(vm);
    kelpie_exec_close(exec);
    assert_int_not_equal(kelpie_vm_snapshot(vm, path, NULL, &again, &err), KELPIE_OK);
    assert_true(strlen(err.message) > 0); /* it exists */
    OK(kelpie_snapshot_verify(path, &err));
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

/* Hazards C1 and C5: two VMs of one bundle, alive at once. */
static void hazard_c1_c5_restores_differ_where_they_must(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo kept > /tmp/kept; head -c 64 /dev/urandom > /tmp/drawn", 0, "");
    struct kelpie_snapshot snapshot = take(vm, path);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    struct kelpie_vm *a = restore(path);
    struct kelpie_vm *b = restore(path);
    expect_clock(a);
    expect_clock(b);
    expect_shell(a, "cat /tmp/kept", 0, "kept\n");
    expect_shell(b, "cat /tmp/kept", 0, "kept\n");
    expect_different(a, b, "head -c 32 /dev/urandom"); /* hazard C1 */
    if (strcmp(suite()->backend, "mock") != 0) {       /* which has no such file */
        expect_different(a, b, "cat /proc/sys/kernel/random/uuid");
    }
    expect_different(a, b, "cat /etc/machine-id"); /* hazard C5 */
    expect_different(a, b, "hostname");
    assert_string_not_equal(kelpie_vm_id(a), kelpie_vm_id(b));
    expect_fresh(a);
    expect_fresh(b);
    const char *second = host_path("second"); /* hazard C8: again from a restored one */
    struct kelpie_snapshot child = take(a, second);
    assert_string_equal(child.parent_id, snapshot.id);
    kelpie_vm_destroy(a);
    kelpie_vm_destroy(b);
    a = restore(second);
    expect_shell(a, "cat /tmp/kept", 0, "kept\n");
    expect_clock(a);
    kelpie_vm_destroy(a);
    bundle_remove(path);
    bundle_remove(second);
}

#define DISK_SIZE 1048576
#define WRITE_DISK(text) "printf " text " | dd of=/dev/vda bs=16 conv=notrunc,fsync 2> /dev/null"
/* From the disk, and not from what the guest remembers of it. */
#define READ_DISK "echo 3 > /proc/sys/vm/drop_caches; head -c 6 /dev/vda"

/* What each writes to its disk is seen neither by the others, nor in the file of the first, nor in the bundle. */
static void hazard_c7_restores_have_disks_of_their_own(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore with a disk: it has no snapshots");
    need(KELPIE_CAN_DISKS, "restore with a disk: it has none");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    const char *outside = host_path("disk");
    static const uint8_t zeros[DISK_SIZE];
    host_file_write(outside, zeros, sizeof(zeros), 0600);
    const struct kelpie_disk disk = {.path = outside};
    const struct kelpie_config config = {.backend = suite()->backend,
                                         .vcpu_count = suite()->vcpu_count,
                                         .disks = &disk,
                                         .disk_count = 1};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    expect_shell(vm, "test -b /dev/vda", 0, "");
    expect_shell(vm, WRITE_DISK("before"), 0, "");
    take(vm, path);
    struct kelpie_vm *a = restore(path);
    struct kelpie_vm *b = restore(path);
    expect_shell(a, WRITE_DISK("from-a"), 0, "");
    expect_shell(b, READ_DISK, 0, "before");
    expect_shell(b, WRITE_DISK("from-b"), 0, "");
    expect_shell(a, READ_DISK, 0, "from-a");
    expect_shell(vm, READ_DISK, 0, "before"); /* the first one goes on with its own */
    OK(kelpie_snapshot_verify(path, &err));
    kelpie_vm_destroy(a);
    kelpie_vm_destroy(b);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    size_t size = 0;
    char *content = host_file_read(outside, &size);
    assert_int_equal(size, DISK_SIZE);
    assert_memory_equal(content, "before", 6);
    free(content);
    bundle_remove(path);
}

/* The first VM is gone, and the place where the bundle was written too: no socket, file or folder of it is
 * looked for. While it lives, a restore does not find its channel. */
static void hazard_c7_a_restore_needs_nothing_of_the_first_vm(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore elsewhere: it has no snapshots");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    const char *elsewhere = host_path("elsewhere");
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo first > /tmp/name", 0, "");
    take(vm, path);
    struct kelpie_vm *a = restore(path); /* while the first lives */
    expect_shell(a, "echo second > /tmp/name", 0, "");
    expect_shell(vm, "cat /tmp/name", 0, "first\n");
    expect_shell(a, "cat /tmp/name", 0, "second\n");
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    expect_shell(a, "cat /tmp/name", 0, "second\n");
    kelpie_vm_destroy(a);
    assert_int_equal(rename(path, elsewhere), 0);
    a = restore(elsewhere);
    expect_shell(a, "cat /tmp/name", 0, "first\n");
    kelpie_vm_destroy(a);
    bundle_remove(elsewhere);
}

/* Hazard C2: the snapshot is a day old, or from the future: its guest's clock is off by as much. */
static void expect_clock_set_by(int64_t offset_s) {
    struct kelpie_error err = {0};
    struct kelpie_restore_report report = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    char line[64];
    snprintf(line, sizeof(line), "date -s @$(($(date +%%s) + %" PRId64 ")) > /dev/null", offset_s);
    expect_shell(vm, line, 0, "");
    take(vm, path);
    kelpie_vm_destroy(vm);
    vm = restore(path);
    expect_clock(vm);
    expect_fresh(vm);
    OK(kelpie_vm_restore_report(vm, &report, &err));
    int64_t skew_s = report.clock_skew_ns / 1000000000;
    assert_in_range(skew_s + 2 * DAY_S, offset_s + 2 * DAY_S - 60, offset_s + 2 * DAY_S + 2);
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static void hazard_c2_a_restored_clock_is_right(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore: it cannot");
    if (strcmp(suite()->backend, "mock") == 0) {
        skip_aloud("a clock that is a day off: its guest cannot set its own");
    }
    expect_clock_set_by(-DAY_S);
    expect_clock_set_by(DAY_S);
}

static void test_a_paused_vm_is_saved_and_stays_paused(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "snapshot while paused: it cannot pause");
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "snapshot while paused: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo kept > /tmp/kept", 0, "");
    OK(kelpie_vm_pause(vm, &err));
    take(vm, path);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, &err));
    expect_shell(vm, "cat /tmp/kept", 0, "kept\n");
    OK(kelpie_vm_stop(vm, 0, &err));
    const struct kelpie_restore_options paused = {.paused = true};
    OK(kelpie_vm_restore(vm, path, &paused, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    struct kelpie_restore_report report = {0};
    OK(kelpie_vm_restore_report(vm, &report, &err));
    assert_int_equal(report.entropy, KELPIE_OUTCOME_PENDING);
    OK(kelpie_vm_resume(vm, &err));
    expect_fresh(vm);
    expect_shell(vm, "cat /tmp/kept", 0, "kept\n");
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static void test_a_limit_leaves_nothing_behind(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "bytes_max: it has no snapshots");
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = start_vm();
    struct kelpie_snapshot snapshot = {0};
    const struct kelpie_snapshot_options options = {.bytes_max = 100};
    FAILS(kelpie_vm_snapshot(vm, host_path("bundle"), &options, &snapshot, &err),
          KELPIE_SNAPSHOT_TOO_LARGE);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    assert_int_not_equal(kelpie_vm_snapshot(vm, host_path("no/such/bundle"), NULL, &snapshot, &err),
                         KELPIE_OK);
    assert_int_equal(rmdir(suite()->folder), 0); /* it is empty */
    assert_int_equal(mkdir(suite()->folder, 0700), 0);
    expect_shell(vm, "echo on", 0, "on\n");
    kelpie_vm_destroy(vm);
}

/* ---- Damage ----------------------------------------------------------------------------------- */

static void expect_corrupt(const char *path, const char *part) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    if (strcmp(part, "memory") != 0) { /* which is not read unless asked for */
        FAILS(kelpie_vm_create_from_snapshot(path, NULL, NULL, &vm, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, part);
        assert_non_null(strstr(err.message, "of the bundle")); /* before a backend looks at it */
    }
    const struct kelpie_restore_options options = {.verify_memory = true};
    FAILS(kelpie_vm_create_from_snapshot(path, NULL, &options, &vm, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, part);
    assert_null(vm);
    FAILS(kelpie_snapshot_verify(path, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, part);
}

/* Flips a byte in the middle, then cuts the last byte off, and undoes each. */
static void damage_part(const char *path, const char *part) {
    char file[600];
    snprintf(file, sizeof(file), "%s/%s", path, part);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        print_message("this bundle has no %s\n", part);
        return;
    }
    off_t size = lseek(fd, 0, SEEK_END);
    assert_true(size > 2);
    uint8_t byte = 0;
    assert_int_equal(pread(fd, &byte, 1, size / 2), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, size / 2), 1);
    expect_corrupt(path, part);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, size / 2), 1);
    assert_int_equal(pread(fd, &byte, 1, size - 1), 1);
    assert_int_equal(ftruncate(fd, size - 1), 0);
    expect_corrupt(path, part);
    assert_int_equal(pwrite(fd, &byte, 1, size - 1), 1);
    close(fd);
}

/* A bundle goes into a machine of its own size only. */
static void expect_no_fit(const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_config config = {.backend = suite()->backend, .vcpu_count = suite()->vcpu_count};
    struct kelpie_vm *vm = NULL;
    config.memory_mib = KELPIE_MEMORY_MIB_DEFAULT + 1;
    OK(kelpie_vm_create(&config, &vm, &err));
    FAILS(kelpie_vm_restore(vm, path, NULL, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "memory_mib");
    kelpie_vm_destroy(vm);
    config.memory_mib = 0;
    config.vcpu_count = suite()->vcpu_count + 2;
    OK(kelpie_vm_create(&config, &vm, &err));
    FAILS(kelpie_vm_restore(vm, path, NULL, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "vcpu_count");
    kelpie_vm_destroy(vm);
}

static void test_damage_is_named(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "damaged bundles: it has no snapshots");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    expect_shell(vm, "echo kept > /tmp/kept", 0, "");
    take(vm, path);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    damage_part(path, "state");
    damage_part(path, "memory");
    expect_no_fit(path);
    OK(kelpie_snapshot_verify(path, &err));
    vm = restore(path);
    expect_shell(vm, "cat /tmp/kept", 0, "kept\n");
    kelpie_vm_destroy(vm);
    bundle_remove(path);
    vm = NULL;
    FAILS(kelpie_vm_create_from_snapshot(host_path("no-bundle"), NULL, NULL, &vm, &err),
          KELPIE_NOT_FOUND);
    assert_null(vm);
}

static void test_another_architecture_is_refused(void **state) {
    (void)state;
    if (strcmp(suite()->backend, "mock") != 0) {
        skip_aloud("another architecture: only the mock can pretend to have one");
    }
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    const struct kelpie_mock_config levers = {.architecture = "riscv64"};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create(&(struct kelpie_config){.backend = "mock", .mock = &levers}, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    struct kelpie_snapshot snapshot = take(vm, path);
    assert_string_equal(snapshot.architecture, "riscv64");
    kelpie_vm_destroy(vm);
    vm = make_vm();
    FAILS(kelpie_vm_restore(vm, path, NULL, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "architecture");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static void test_injected_failures_change_nothing(void **state) {
    (void)state;
    if (strcmp(suite()->backend, "mock") != 0) {
        skip_aloud("injected failures: only the mock fails on request");
    }
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = make_vm();
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_START, 1, &err));
    FAILS(kelpie_vm_start(vm, &err), KELPIE_BOOT_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    OK(kelpie_vm_start(vm, &err));
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_PAUSE, 1, &err));
    assert_int_not_equal(kelpie_vm_pause(vm, &err), KELPIE_OK);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_shell(vm, "echo on", 0, "on\n");
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_SNAPSHOT, 1, &err));
    FAILS(kelpie_vm_snapshot(vm, host_path("bundle"), NULL, &snapshot, &err),
          KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    assert_int_not_equal(access(host_path("bundle"), F_OK), 0);
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_RESUME, 1, &err));
    assert_int_not_equal(kelpie_vm_resume(vm, &err), KELPIE_OK);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, &err));
    take(vm, host_path("bundle"));
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_mock_fail(vm, KELPIE_MOCK_RESTORE, 1, &err));
    FAILS(kelpie_vm_restore(vm, host_path("bundle"), NULL, &err), KELPIE_RESTORE_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    OK(kelpie_vm_restore(vm, host_path("bundle"), NULL, &err));
    expect_shell(vm, "echo on", 0, "on\n");
    kelpie_vm_destroy(vm);
    bundle_remove(host_path("bundle"));
}

/* ---- The working set -------------------------------------------------------------------------- */

static void restore_with(const struct kelpie_restore_options *options, struct kelpie_vm **ret_vm) {
    struct kelpie_error err = {0};
    OK(kelpie_vm_create_from_snapshot(host_path("bundle"), NULL, options, ret_vm, &err));
    expect_shell(*ret_vm, "cat /tmp/word", 0, "word\n");
}

static void test_a_working_set_is_noted(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make_vm();
    if (strcmp(suite()->backend, "kvm") != 0) {
        FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_UNSUPPORTED);
        kelpie_vm_destroy(vm);
        return;
    }
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    OK(kelpie_vm_start(vm, &err));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    expect_shell(vm, "echo word > /tmp/word", 0, "");
    take(vm, host_path("bundle"));
    kelpie_vm_destroy(vm);
    restore_with(&(struct kelpie_restore_options){.note_working_set = true}, &vm);
    OK(kelpie_vm_record_working_set(vm, &err));
    kelpie_vm_destroy(vm);
    assert_int_equal(access(host_path("bundle/working-set"), F_OK), 0);
    OK(kelpie_snapshot_verify(host_path("bundle"), &err));
    restore_with(NULL, &vm);
    take(vm, host_path("second"));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
    restore_with(&(struct kelpie_restore_options){.no_prefetch = true}, &vm);
    bundle_remove(host_path("bundle"));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_NOT_FOUND);
    assert_int_equal(rename(host_path("second"), host_path("bundle")), 0);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    kelpie_vm_destroy(vm);
    bundle_remove(host_path("bundle"));
}

/* ---- A new process ---------------------------------------------------------------------------- */

/* Restores, takes the session up, and checks that it goes on at the byte where the other process stopped. */
int snapshot_go_on(const char *directory, const char *exec_id, const char *offset_text) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_exec *exec = NULL;
    uint64_t offset = strtoull(offset_text, NULL, 10);
    uint64_t end = offset + GO_ON_SIZE;
    uint32_t id = (uint32_t)strtoul(exec_id, NULL, 10);
    enum kelpie_status status = kelpie_vm_create_from_snapshot(directory, NULL, NULL, &vm, &err);
    if (status == KELPIE_OK) {
        status = kelpie_exec_attach(vm, id, &exec, &err);
    }
    while (status == KELPIE_OK && offset < end) {
        char buffer[256];
        struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
        status = kelpie_exec_read(exec, &chunk, WAIT_MS, &err);
        if (status == KELPIE_OK && (chunk.offset != offset || chunk.size == 0 ||
                                    memcmp(buffer, counter_text() + offset, chunk.size) != 0)) {
            fprintf(stderr, "at offset %" PRIu64 " instead of %" PRIu64 ", or other bytes\n",
                    chunk.offset, offset);
            return 2;
        }
        offset += chunk.size;
    }
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    if (status != KELPIE_OK) {
        fprintf(stderr, "the new process: %s: %s\n", kelpie_status_name(status), err.message);
        return 3;
    }
    return 0;
}

static int go_on(const char *path, uint32_t id, uint64_t offset) {
    char id_text[16];
    char offset_text[32];
    snprintf(id_text, sizeof(id_text), "%" PRIu32, id);
    snprintf(offset_text, sizeof(offset_text), "%" PRIu64, offset);
    return run_new_process(ARGV("go-on", path, id_text, offset_text));
}

static void test_a_session_goes_on_in_a_new_process(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore in a new process: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = counter_start(vm);
    uint64_t offset = counter_check(exec, 0, 100);
    uint32_t id = kelpie_exec_id(exec);
    take(vm, path);
    kelpie_exec_close(exec);
    OK(kelpie_vm_stop(vm, 0, &err));
    assert_int_equal(go_on(path, id, offset), 0);
    assert_int_equal(go_on(path, id, offset), 0); /* a bundle may be restored again */
    OK(kelpie_vm_restore(vm, path, NULL, &err));  /* and here */
    OK(kelpie_exec_attach(vm, id, &exec, &err));
    offset = counter_check(exec, offset, GO_ON_SIZE);
    struct kelpie_output output = {0};
    OK(kelpie_vm_exec(
        vm, &(struct kelpie_command){.argv = ARGV("cat"), .stdin_data = "in", .stdin_size = 2},
        &output, &err));
    assert_string_equal(output.stdout_data, "in");
    kelpie_output_free(&output);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static void test_stdin_goes_on_after_a_restore(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore with open stdin: it cannot");
    struct kelpie_error err = {0};
    const char *path = host_path("bundle");
    struct kelpie_vm *vm = start_vm();
    struct kelpie_exec *exec = NULL;
    char buffer[32] = "";
    size_t count = 0;
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true},
                         &exec, &err));
    OK(kelpie_exec_write(exec, "before\n", 7, &count, &err));
    assert_int_equal(read_stdout(exec, buffer, 7), 7);
    uint32_t id = kelpie_exec_id(exec);
    take(vm, path);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    vm = restore(path);
    OK(kelpie_exec_attach(vm, id, &exec, &err));
    OK(kelpie_exec_write(exec, "after\n", 6, &count, &err));
    assert_int_equal(read_stdout(exec, buffer, 6), 6);
    assert_memory_equal(buffer, "after\n", 6);
    OK(kelpie_exec_close_stdin(exec, &err));
    struct kelpie_exit ended = {0};
    OK(kelpie_exec_wait(exec, WAIT_MS, &ended, &err));
    assert_int_equal(ended.code, 0);
    assert_int_equal(ended.stdout_bytes, 13);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_pause_neither_skips_nor_repeats),
    cmocka_unit_test(hazard_c2_time_that_stood_still_does_not_count),
    cmocka_unit_test(test_the_vm_goes_on_after_a_snapshot),
    cmocka_unit_test(hazard_c1_c5_restores_differ_where_they_must),
    cmocka_unit_test(hazard_c7_restores_have_disks_of_their_own),
    cmocka_unit_test(hazard_c7_a_restore_needs_nothing_of_the_first_vm),
    cmocka_unit_test(hazard_c2_a_restored_clock_is_right),
    cmocka_unit_test(test_a_paused_vm_is_saved_and_stays_paused),
    cmocka_unit_test(test_a_limit_leaves_nothing_behind),
    cmocka_unit_test(test_damage_is_named),
    cmocka_unit_test(test_another_architecture_is_refused),
    cmocka_unit_test(test_injected_failures_change_nothing),
    cmocka_unit_test(test_a_working_set_is_noted),
    cmocka_unit_test(test_a_session_goes_on_in_a_new_process),
    cmocka_unit_test(test_stdin_goes_on_after_a_restore),
};
const struct group group_snapshot = {
    .name = "snapshot", .tests = tests, .count = sizeof(tests) / sizeof(tests[0])};
