/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The backend's operations, over a real channel. */
#include "backend/mock/mock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/mock/mock_limits.h"
#include "base/assert.h"
#include "protocol/protocol.h"

#define WAIT_MS 10000

struct fixture {
    struct host *host;
    struct kelpie_mock_config levers;
    struct kelpie_config config;
    struct backend_instance *instance;
};

static struct fixture *fixture_start(struct fixture *fixture) {
    struct kelpie_error err;
    assert_int_equal(host_linux_create(&fixture->host, &err), KELPIE_OK);
    fixture->config.memory_mib = 64;
    fixture->config.mock = &fixture->levers;
    const struct backend_launch launch = {
        .host = fixture->host, .config = &fixture->config, .id = "test", .cancel_fd = HOST_FD_NONE};
    assert_int_equal(backend_mock_ops.create(&launch, &fixture->instance, &err), KELPIE_OK);
    assert_int_equal(backend_mock_ops.channel_fd(fixture->instance), HOST_FD_NONE);
    return fixture;
}

static void fixture_stop(struct fixture *fixture) {
    backend_mock_ops.destroy(fixture->instance);
    host_destroy(fixture->host);
}

static struct host_wait wait_of(struct fixture *fixture) {
    return host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
}

static enum kelpie_status start(struct fixture *fixture) {
    struct kelpie_error err;
    struct host_wait wait = wait_of(fixture);
    return backend_mock_ops.start(fixture->instance, &wait, &err);
}

static void say_hello(struct fixture *fixture) {
    uint8_t bytes[256];
    struct kelpie_error err;
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct host_wait wait = wait_of(fixture);
    protocol_encode_hello(&writer, &(struct protocol_hello){.nonce = {9}});
    int fd = backend_mock_ops.channel_fd(fixture->instance);
    assert_int_equal(host_write_all(fixture->host, fd, bytes, writer.size, &wait, &err), KELPIE_OK);
}

static void expect_answer(struct fixture *fixture) {
    uint8_t bytes[256];
    size_t size = 0;
    struct kelpie_error err;
    struct host_wait wait = wait_of(fixture);
    int fd = backend_mock_ops.channel_fd(fixture->instance);
    assert_int_equal(host_read(fixture->host, fd, bytes, sizeof(bytes), &wait, &size, &err),
                     KELPIE_OK);
    assert_true(size > PROTOCOL_SYNC_SIZE);
    assert_memory_equal(bytes, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
}

/* The exit event is set, the channel has ended, and the reason is said. */
static void expect_end(struct fixture *fixture, const char *reason) {
    struct kelpie_error err;
    struct host_wait wait = wait_of(fixture);
    struct host_poll_item item = {.fd = backend_mock_ops.exit_fd(fixture->instance),
                                  .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(fixture->host, &item, 1, &wait, &err), KELPIE_OK);
    size_t size = 1;
    uint8_t bytes[256];
    int fd = backend_mock_ops.channel_fd(fixture->instance);
    while (size > 0) {
        assert_int_equal(host_read(fixture->host, fd, bytes, sizeof(bytes), &wait, &size, &err),
                         KELPIE_OK);
    }
    char text[128];
    backend_mock_ops.exit_text(fixture->instance, text, sizeof(text));
    assert_non_null(strstr(text, reason));
}

static void stop(struct fixture *fixture) {
    struct kelpie_error err;
    struct host_wait wait = host_wait_none();
    assert_int_equal(backend_mock_ops.stop(fixture->instance, &wait, &err), KELPIE_OK);
    assert_int_equal(backend_mock_ops.channel_fd(fixture->instance), HOST_FD_NONE);
    assert_int_equal(backend_mock_ops.exit_fd(fixture->instance), HOST_FD_NONE);
}

static void test_starts_again_and_again(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){0});
    stop(fixture); /* nothing runs: fine */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(start(fixture), KELPIE_OK);
        say_hello(fixture);
        expect_answer(fixture);
        stop(fixture);
    }
    assert_int_equal(start(fixture), KELPIE_OK);
    fixture_stop(fixture); /* destroyed while it runs */
}

static void test_every_end_says_why(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){0});
    backend_mock_ops.kill(fixture->instance); /* nothing runs: fine */
    backend_mock_crash(fixture->instance);
    assert_int_equal(start(fixture), KELPIE_OK);
    backend_mock_crash(fixture->instance);
    backend_mock_ops.kill(fixture->instance); /* the first reason counts */
    expect_end(fixture, "crashed");
    stop(fixture);
    assert_int_equal(start(fixture), KELPIE_OK);
    backend_mock_ops.kill(fixture->instance);
    expect_end(fixture, "killed");
    stop(fixture);
    assert_int_equal(start(fixture), KELPIE_OK);
    uint8_t bytes[64];
    struct kelpie_error err;
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct host_wait wait = wait_of(fixture);
    say_hello(fixture);
    protocol_encode_empty(&writer, PROTOCOL_POWER_OFF, 0);
    int fd = backend_mock_ops.channel_fd(fixture->instance);
    assert_int_equal(host_write_all(fixture->host, fd, bytes, writer.size, &wait, &err), KELPIE_OK);
    expect_end(fixture, "powered off");
    fixture_stop(fixture);
}

static void test_a_boot_takes_its_time(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){.levers.boot_delay_ms = 100});
    char console[64];
    uint64_t before_ns = host_monotonic_ns(fixture->host);
    assert_int_equal(start(fixture), KELPIE_OK);
    assert_int_equal(backend_mock_ops.console(fixture->instance, console, sizeof(console)), 0);
    say_hello(fixture);
    expect_answer(fixture);
    assert_true(host_monotonic_ns(fixture->host) - before_ns >= 100 * HOST_NS_PER_MS);
    assert_true(backend_mock_ops.console(fixture->instance, console, sizeof(console)) > 0);
    fixture_stop(fixture);
}

static void test_a_paused_machine_is_silent(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){0});
    struct kelpie_error err;
    struct host_wait wait = wait_of(fixture);
    assert_int_equal(start(fixture), KELPIE_OK);
    assert_int_equal(backend_mock_ops.pause(fixture->instance, &wait, &err), KELPIE_OK);
    say_hello(fixture);
    struct host_wait shortly = host_wait_ms(fixture->host, 50, HOST_FD_NONE);
    struct host_poll_item item = {.fd = backend_mock_ops.channel_fd(fixture->instance),
                                  .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(fixture->host, &item, 1, &shortly, &err), KELPIE_TIMED_OUT);
    assert_int_equal(backend_mock_ops.resume(fixture->instance, &wait, &err), KELPIE_OK);
    expect_answer(fixture);
    fixture_stop(fixture);
}

static void test_levers_fail_as_often_as_told(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){.levers.fail_boot = true});
    struct kelpie_error err;
    struct host_wait wait = wait_of(fixture);
    assert_int_equal(start(fixture), KELPIE_BOOT_FAILED);
    assert_int_equal(start(fixture), KELPIE_OK); /* only the first */
    backend_mock_fail(fixture->instance, KELPIE_MOCK_PAUSE, 2);
    assert_int_not_equal(backend_mock_ops.pause(fixture->instance, &wait, &err), KELPIE_OK);
    assert_int_not_equal(backend_mock_ops.pause(fixture->instance, &wait, &err), KELPIE_OK);
    assert_int_equal(backend_mock_ops.pause(fixture->instance, &wait, &err), KELPIE_OK);
    backend_mock_crash(fixture->instance);
    assert_int_equal(backend_mock_ops.resume(fixture->instance, &wait, &err), KELPIE_CRASHED);
    fixture_stop(fixture);
}

/* What a bundle of this mock says of itself. */
static void identify(struct fixture *fixture, struct snapshot_manifest *manifest) {
    struct kelpie_error err;
    struct snapshot_writer *writer = NULL;
    struct host_wait wait = wait_of(fixture);
    assert_int_equal(start(fixture), KELPIE_OK);
    assert_int_equal(backend_mock_ops.pause(fixture->instance, &wait, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_create(fixture->host, NULL, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(
        backend_mock_ops.save(fixture->instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err),
        KELPIE_OK);
    manifest->info = snapshot_writer_manifest(writer)->info;
    snapshot_writer_destroy(writer);
    stop(fixture);
}

/* A bundle in memory, with so many bytes of zeros for its state; SIZE_MAX: without. */
static enum kelpie_status load(struct fixture *fixture, const char *architecture,
                               const char *version, size_t state_size, struct kelpie_error *err) {
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    struct host_wait wait = wait_of(fixture);
    int fd = HOST_FD_NONE;
    assert_int_equal(snapshot_writer_create(fixture->host, NULL, 0, &writer, err), KELPIE_OK);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    identify(fixture, manifest);
    if (architecture) {
        snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "%s",
                 architecture);
    }
    if (version) {
        snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
                 version);
    }
    if (state_size != SIZE_MAX) {
        assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, err), KELPIE_OK);
        assert_int_equal(host_file_truncate(fixture->host, fd, state_size, err), KELPIE_OK);
    }
    assert_int_equal(snapshot_writer_read(writer, &reader, err), KELPIE_OK);
    snapshot_writer_destroy(writer);
    enum kelpie_status status = backend_mock_ops.load(fixture->instance, reader, &wait, err);
    snapshot_reader_close(reader);
    return status;
}

static void test_a_bundle_of_another_is_refused(void **state) {
    static const struct {
        const char *architecture;
        const char *version;
        size_t state_size;
        enum kelpie_status status;
        const char *field;
    } cases[] = {
        {"mips", NULL, 8, KELPIE_SNAPSHOT_INCOMPATIBLE, "architecture"},
        {NULL, "0", 8, KELPIE_SNAPSHOT_INCOMPATIBLE, "backend_version"},
        {NULL, NULL, SIZE_MAX, KELPIE_SNAPSHOT_CORRUPT, "state"},
        {NULL, NULL, 0, KELPIE_SNAPSHOT_CORRUPT, "state"},
        {NULL, NULL, 8, KELPIE_SNAPSHOT_CORRUPT, "state"},
        {NULL, NULL, (size_t)MOCK_STATE_SIZE_MAX + 1, KELPIE_SNAPSHOT_CORRUPT, "state"},
    };
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){0});
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        assert_int_equal(
            load(fixture, cases[i].architecture, cases[i].version, cases[i].state_size, &err),
            cases[i].status);
        assert_string_equal(err.field, cases[i].field);
    }
    assert_int_equal(start(fixture), KELPIE_OK); /* it is as it was */
    say_hello(fixture);
    expect_answer(fixture);
    fixture_stop(fixture);
}

static void test_it_never_comes_by_itself(void **state) {
    (void)state;
    struct fixture *fixture = fixture_start(&(struct fixture){0});
    struct kelpie_probe probe = {0};
    backend_mock_ops.probe(fixture->host, &probe);
    assert_true(probe.usable);
    assert_string_equal(probe.accelerator, "none");
    assert_false(backend_mock_ops.in_auto);
    assert_int_equal(backend_mock_ops.process_id(fixture->instance), 0);
    int fds[BACKEND_SERVICE_FD_COUNT_MAX];
    assert_int_equal(backend_mock_ops.service_fds(fixture->instance, fds, 4), 0);
    fixture_stop(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_again_and_again),
        cmocka_unit_test(test_every_end_says_why),
        cmocka_unit_test(test_a_boot_takes_its_time),
        cmocka_unit_test(test_a_paused_machine_is_silent),
        cmocka_unit_test(test_levers_fail_as_often_as_told),
        cmocka_unit_test(test_a_bundle_of_another_is_refused),
        cmocka_unit_test(test_it_never_comes_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
