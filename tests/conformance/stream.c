/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Exec sessions: output as it comes, input as it is wanted, terminals, many at once. The cases share a VM. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

static struct kelpie_exec *start(const struct kelpie_command *command) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    OK(kelpie_exec_start(suite()->vm, command, &exec, &err));
    assert_true(kelpie_exec_id(exec) > 0);
    return exec;
}

static void write_all(struct kelpie_exec *exec, const char *data, size_t size) {
    struct kelpie_error err = {0};
    while (size > 0) {
        size_t count = 0;
        OK(kelpie_exec_write(exec, data, size, &count, &err));
        assert_true(count > 0 && count <= size);
        data += count;
        size -= count;
    }
}

static struct kelpie_exit wait_end(struct kelpie_exec *exec) {
    struct kelpie_error err = {0};
    struct kelpie_exit ended = {0};
    OK(kelpie_exec_wait(exec, WAIT_MS, &ended, &err));
    return ended;
}

static void expect_read(struct kelpie_exec *exec, const char *text) {
    char buffer[256] = "";
    size_t size = read_stdout(exec, buffer, strlen(text));
    assert_int_equal(size, strlen(text));
    assert_string_equal(buffer, text);
}

static void test_output_comes_while_the_command_runs(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true});
    char buffer[16];
    struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
    FAILS(kelpie_exec_read(exec, &chunk, 20, &err), KELPIE_TIMED_OUT);
    assert_true(err.retriable);
    write_all(exec, "one\n", 4);
    expect_read(exec, "one\n");
    write_all(exec, "two\n", 4);
    chunk = (struct kelpie_chunk){.buffer = buffer, .size = sizeof(buffer)};
    OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
    assert_int_equal(chunk.stream, KELPIE_STREAM_STDOUT);
    assert_int_equal(chunk.offset, 4);
    OK(kelpie_exec_close_stdin(exec, &err));
    chunk = (struct kelpie_chunk){.buffer = buffer, .size = sizeof(buffer)};
    OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
    assert_int_equal(chunk.stream, KELPIE_STREAM_NONE);
    assert_int_equal(chunk.size, 0);
    assert_int_equal(wait_end(exec).code, 0);
    size_t count = 0;
    FAILS(kelpie_exec_write(exec, "x", 1, &count, &err), KELPIE_EXEC_FAILED);
    assert_int_equal(err.os_error, EPIPE);
    kelpie_exec_close(exec);
}

static void test_stdin_never_closed(void **state) {
    (void)state;
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true, .timeout_ms = 300});
    struct kelpie_exit ended = wait_end(exec);
    assert_true(ended.timed_out);
    assert_int_equal(ended.code, 137);
    kelpie_exec_close(exec);
}

static void test_output_that_nobody_reads_does_not_stop_others(void **state) {
    (void)state;
    struct kelpie_exec *exec = start(&(struct kelpie_command){.argv = ARGV("yes")});
    expect_shell(suite()->vm, "echo free", 0, "free\n");
    expect_read(exec, "y\ny\ny\n");
    kelpie_exec_close(exec); /* kills it */
}

static void test_unread_output_outlives_the_command(void **state) {
    (void)state;
    struct kelpie_exec *exec = start(&(struct kelpie_command){.argv = ARGV("seq", "1000")});
    assert_int_equal(wait_end(exec).stdout_bytes, 3893);
    char buffer[4096];
    size_t size = read_stdout(exec, buffer, sizeof(buffer));
    assert_int_equal(size, 3893);
    assert_memory_equal(buffer, counter_text(), size);
    kelpie_exec_close(exec);
}

static void test_signals(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = SHELL("echo up; sleep 1000; echo never")});
    expect_read(exec, "up\n");
    FAILS(kelpie_exec_signal(exec, 65, &err), KELPIE_BAD_CONFIG);
    OK(kelpie_exec_signal(exec, 15, &err));
    struct kelpie_exit ended = wait_end(exec);
    assert_int_equal(ended.signal, 15);
    assert_int_equal(ended.code, 143);
    assert_int_equal(ended.stdout_bytes, 3);
    kelpie_exec_close(exec);
}

/* ---- Terminals -------------------------------------------------------------------------------- */

static void test_tty_has_a_size(void **state) {
    (void)state;
    need(KELPIE_CAN_TTY, "tty: it has none");
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = start(&(struct kelpie_command){
        .argv = SHELL("stty size; cat > /dev/null; stty size; echo err >&2"), .tty = true});
    expect_read(exec, "24 80\r\n");
    OK(kelpie_exec_resize(exec, 40, 100, &err));
    write_all(exec, "\x04", 1);
    expect_read(exec, "40 100\r\nerr\r\n");
    struct kelpie_exit ended = wait_end(exec);
    assert_int_equal(ended.code, 0);
    assert_int_equal(ended.stderr_bytes, 0);
    kelpie_exec_close(exec);
    exec = start(&(struct kelpie_command){
        .argv = SHELL("stty size"), .tty = true, .rows = 11, .columns = 22});
    expect_read(exec, "11 22\r\n");
    kelpie_exec_close(exec);
    expect_shell(suite()->vm, "tty", 1, "not a tty\n");
}

static void test_tty_echoes_and_interrupts(void **state) {
    (void)state;
    need(KELPIE_CAN_TTY, "tty: it has none");
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = SHELL("echo up; exec cat"), .tty = true});
    expect_read(exec, "up\r\n");
    write_all(exec, "hello\n", 6);
    expect_read(exec, "hello\r\nhello\r\n");
    write_all(exec, "\x03", 1);
    struct kelpie_exit ended = wait_end(exec);
    assert_int_equal(ended.signal, 2);
    assert_int_equal(ended.code, 130);
    kelpie_exec_close(exec);
}

/* ---- Detach and attach ------------------------------------------------------------------------ */

static void test_attach_goes_on_at_the_next_byte(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = counter_start(suite()->vm);
    uint64_t offset = counter_check(exec, 0, 20);
    for (int i = 0; i < 5; i++) {
        uint32_t id = kelpie_exec_id(exec);
        kelpie_exec_detach(exec);
        uint32_t ids[4] = {0};
        size_t count = 0;
        OK(kelpie_exec_list(suite()->vm, ids, 4, &count, &err));
        assert_int_equal(count, 1);
        assert_int_equal(ids[0], id);
        OK(kelpie_exec_attach(suite()->vm, id, &exec, &err));
        assert_int_equal(kelpie_exec_id(exec), id);
        offset = counter_check(exec, offset, 30);
    }
    struct kelpie_exec *second = NULL;
    assert_int_not_equal(kelpie_exec_attach(suite()->vm, kelpie_exec_id(exec), &second, &err),
                         KELPIE_OK); /* another handle holds it */
    assert_null(second);
    kelpie_exec_close(exec);
    FAILS(kelpie_exec_attach(suite()->vm, 0x7fffffff, &exec, &err), KELPIE_NOT_FOUND);
}

static void test_attach_after_the_end(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = SHELL("cat; exit 9"), .stdin_open = true});
    write_all(exec, "all of it", 9);
    OK(kelpie_exec_close_stdin(exec, &err));
    assert_int_equal(wait_end(exec).code, 9);
    uint32_t id = kelpie_exec_id(exec);
    kelpie_exec_detach(exec);
    OK(kelpie_exec_attach(suite()->vm, id, &exec, &err));
    expect_read(exec, "all of it");
    assert_int_equal(wait_end(exec).code, 9);
    kelpie_exec_close(exec);
}

static void test_attach_keeps_stdin(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true});
    write_all(exec, "first\n", 6);
    expect_read(exec, "first\n");
    uint32_t id = kelpie_exec_id(exec);
    kelpie_exec_detach(exec);
    OK(kelpie_exec_attach(suite()->vm, id, &exec, &err));
    write_all(exec, "second\n", 7);
    expect_read(exec, "second\n");
    OK(kelpie_exec_close_stdin(exec, &err));
    assert_int_equal(wait_end(exec).code, 0);
    kelpie_exec_close(exec);
}

/* The guest stands still, so that what is written cannot have left before the handle is given up. */
static void test_what_was_written_outlives_the_handle(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "pause: it has none");
    struct kelpie_error err = {0};
    struct kelpie_exec *exec =
        start(&(struct kelpie_command){.argv = ARGV("cat"), .stdin_open = true});
    uint32_t id = kelpie_exec_id(exec);
    OK(kelpie_vm_pause(suite()->vm, &err));
    write_all(exec, "written while paused\n", 21);
    OK(kelpie_exec_close_stdin(exec, &err));
    kelpie_exec_detach(exec);
    OK(kelpie_vm_resume(suite()->vm, &err));
    OK(kelpie_exec_attach(suite()->vm, id, &exec, &err));
    expect_read(exec, "written while paused\n");
    assert_int_equal(wait_end(exec).code, 0);
    kelpie_exec_close(exec);
}

/* ---- Many ------------------------------------------------------------------------------------- */

#define THREAD_COUNT 8
#define SESSION_COUNT 8 /* of each thread */
#define ECHO_SIZE 20000

struct crowd {
    pthread_barrier_t *barrier;
    uint32_t seed;
    bool failed;
};

/* True when the session gives back what it gets. No cmocka call: this is not cmocka's thread. */
static bool echoes(struct kelpie_exec *exec, uint32_t seed) {
    uint8_t data[ECHO_SIZE];
    uint8_t back[ECHO_SIZE];
    pattern_fill(data, sizeof(data), seed);
    for (size_t sent = 0; sent < sizeof(data);) {
        size_t count = 0;
        if (kelpie_exec_write(exec, data + sent, sizeof(data) - sent, &count, NULL) != KELPIE_OK) {
            return false;
        }
        sent += count;
    }
    for (size_t done = 0; done < sizeof(back);) {
        struct kelpie_chunk chunk = {.buffer = back + done, .size = sizeof(back) - done};
        if (kelpie_exec_read(exec, &chunk, WAIT_MS, NULL) != KELPIE_OK || chunk.size == 0) {
            return false;
        }
        done += chunk.size;
    }
    return memcmp(data, back, sizeof(data)) == 0;
}

/* Starts sessions, waits until all threads have, then talks to each. */
static void *crowd_run(void *argument) {
    struct crowd *crowd = argument;
    struct kelpie_exec *execs[SESSION_COUNT] = {NULL};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    for (int i = 0; i < SESSION_COUNT && !crowd->failed; i++) {
        crowd->failed = kelpie_exec_start(suite()->vm, &command, &execs[i], NULL) != KELPIE_OK;
    }
    pthread_barrier_wait(crowd->barrier);
    for (uint32_t i = 0; i < SESSION_COUNT && !crowd->failed; i++) {
        crowd->failed = !echoes(execs[i], crowd->seed * SESSION_COUNT + i);
    }
    for (int i = 0; i < SESSION_COUNT; i++) {
        kelpie_exec_close(execs[i]);
    }
    return NULL;
}

static void test_64_sessions_from_several_threads(void **state) {
    (void)state;
    pthread_barrier_t barrier;
    pthread_t threads[THREAD_COUNT];
    struct crowd crowds[THREAD_COUNT];
    assert_int_equal(pthread_barrier_init(&barrier, NULL, THREAD_COUNT), 0);
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        crowds[i] = (struct crowd){.barrier = &barrier, .seed = i};
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_run, &crowds[i]), 0);
    }
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        pthread_join(threads[i], NULL);
        assert_false(crowds[i].failed);
    }
    pthread_barrier_destroy(&barrier);
}

static void test_too_many_sessions(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    if (strcmp(suite()->backend, "mock") != 0) {
        skip_aloud("256 sessions: as many real processes take minutes under emulation");
    }
    struct kelpie_exec *execs[KELPIE_EXEC_COUNT_MAX];
    for (size_t i = 0; i < KELPIE_EXEC_COUNT_MAX; i++) {
        execs[i] = start(&(struct kelpie_command){.argv = ARGV("sleep", "1000")});
    }
    struct kelpie_exec *one_more = NULL;
    FAILS(kelpie_exec_start(suite()->vm, &(struct kelpie_command){.argv = ARGV("true")}, &one_more,
                            &err),
          KELPIE_BUSY);
    assert_null(one_more);
    for (size_t i = 0; i < KELPIE_EXEC_COUNT_MAX; i++) {
        kelpie_exec_close(execs[i]);
    }
    expect_shell(suite()->vm, "echo room", 0, "room\n");
}

static void test_100000_small_writes(void **state) {
    (void)state;
    struct kelpie_exec *exec = start(&(struct kelpie_command){
        .argv = SHELL("dd if=/dev/zero bs=1 count=100000 2>/dev/null; seq 100000")});
    static char buffer[100000 + COUNTER_SIZE];
    size_t size = read_stdout(exec, buffer, sizeof(buffer));
    assert_int_equal(size, 100000 + 588895);
    for (size_t i = 0; i < 100000; i++) {
        assert_int_equal(buffer[i], 0);
    }
    assert_int_equal(memcmp(buffer + 100000, counter_text(), 588895), 0);
    assert_int_equal(wait_end(exec).code, 0);
    kelpie_exec_close(exec);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_output_comes_while_the_command_runs),
    cmocka_unit_test(test_stdin_never_closed),
    cmocka_unit_test(test_output_that_nobody_reads_does_not_stop_others),
    cmocka_unit_test(test_unread_output_outlives_the_command),
    cmocka_unit_test(test_signals),
    cmocka_unit_test(test_tty_has_a_size),
    cmocka_unit_test(test_tty_echoes_and_interrupts),
    cmocka_unit_test(test_attach_goes_on_at_the_next_byte),
    cmocka_unit_test(test_attach_after_the_end),
    cmocka_unit_test(test_attach_keeps_stdin),
    cmocka_unit_test(test_what_was_written_outlives_the_handle),
    cmocka_unit_test(test_64_sessions_from_several_threads),
    cmocka_unit_test(test_too_many_sessions),
    cmocka_unit_test(test_100000_small_writes),
};
const struct group group_stream = {
    .name = "stream", .tests = tests, .count = sizeof(tests) / sizeof(tests[0]), .has_vm = 1};
