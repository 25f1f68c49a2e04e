/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which QEMU is here. Programs that pretend to be one stand in for those that this machine does not have. */
#include "backend/qemu/qemu_probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

struct fixture {
    struct host *host;
    struct qemu_probe probe;
    char path[64];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->path, sizeof(fixture->path), "/tmp/kelpie-qemu-%d", getpid());
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    unsetenv("KELPIE_QEMU");
    unlink(fixture->path);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

/* KELPIE_QEMU is now a shell script. */
static void pretend(struct fixture *fixture, const char *script) {
    char text[512];
    int size = snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", script);
    assert_int_equal(host_file_store(fixture->host, fixture->path, text, (size_t)size, 0700, NULL),
                     KELPIE_OK);
    assert_int_equal(setenv("KELPIE_QEMU", fixture->path, 1), 0);
}

static enum kelpie_status probe(struct fixture *fixture, struct kelpie_error *err) {
    return qemu_probe_run(fixture->host, NULL, HOST_FD_NONE, &fixture->probe, err);
}

static void version_is_found_in_the_output(void **state) {
    struct fixture *fixture = *state;
    pretend(fixture, "echo 'QEMU emulator version 9.1.2 (Debian 1:9.1.2+ds-1)'; echo Copyright");
    assert_int_equal(probe(fixture, NULL), KELPIE_OK);
    assert_string_equal(fixture->probe.version, "9.1.2");
    assert_string_equal(fixture->probe.binary, fixture->path);
    assert_true(fixture->probe.acceleration[0] != 0);
}

static void old_qemu_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    pretend(fixture, "echo 'QEMU emulator version 6.1.50'");
    assert_int_equal(probe(fixture, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "6.1.50 is too old"));
    pretend(fixture, "echo 'QEMU emulator version 5.9.0'");
    assert_int_equal(probe(fixture, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "5.9.0 is too old"));
    pretend(fixture, "echo 'QEMU emulator version 6.2.0'");
    assert_int_equal(probe(fixture, NULL), KELPIE_OK);
}

static void missing_qemu_says_what_to_install(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    assert_int_equal(setenv("KELPIE_QEMU", "/nowhere/qemu", 1), 0);
    assert_int_equal(probe(fixture, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "apt-get install qemu-system-x86"));
    assert_non_null(strstr(err.message, "/nowhere/qemu"));
}

static void a_path_that_is_too_long_is_no_qemu(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    char path[2 * sizeof(fixture->probe.binary)];
    memset(path, 'q', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    setenv("KELPIE_QEMU", path, 1);
    assert_int_equal(probe(fixture, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "longer than a path"));
}

static void something_else_is_not_qemu(void **state) {
    struct fixture *fixture = *state;
    static const char *const scripts[] = {"true",
                                          "echo hello",
                                          "yes",
                                          "echo version x.y",
                                          "exit 1",
                                          "echo version 1",
                                          "echo version 7.2.33333333333333333333333333333"};
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        pretend(fixture, scripts[i]);
        assert_int_equal(probe(fixture, NULL), KELPIE_BACKEND_MISSING);
    }
}

static void cancel_ends_the_probe(void **state) {
    struct fixture *fixture = *state;
    pretend(fixture, "exec sleep 60");
    int event = HOST_FD_NONE;
    assert_int_equal(host_event_create(fixture->host, &event, NULL), KELPIE_OK);
    host_event_set(fixture->host, event);
    assert_int_equal(qemu_probe_run(fixture->host, NULL, event, &fixture->probe, NULL),
                     KELPIE_CANCELLED);
    host_close(fixture->host, event);
}

static void tsc_rate_needs_time(void **state) {
    (void)state;
    const struct qemu_tsc_sample start = {.ticks = 1000, .ns = 5000};
    struct qemu_tsc_sample soon = {.ticks = 2000, .ns = 5000 + QEMU_TSC_SAMPLE_NS_MIN - 1};
    assert_int_equal(qemu_tsc_khz(&start, &soon), 0);
    struct qemu_tsc_sample later = {.ticks = 1000 + 2500000000ull, .ns = 5000 + 1000000000ull};
    assert_int_equal(qemu_tsc_khz(&start, &later), 2500000);
    struct qemu_tsc_sample back = {.ticks = 10, .ns = 5000 + 1000000000ull};
    assert_int_equal(qemu_tsc_khz(&start, &back), 0);
    struct qemu_tsc_sample wild = {.ticks = UINT64_MAX, .ns = 5000 + 1000000000ull};
    assert_int_equal(qemu_tsc_khz(&start, &wild), 0); /* no processor counts so fast */
}

static uint64_t ticks_of_a_test(struct host *host) {
    (void)host;
    return 424242;
}

/* A sample is of the host that is handed down, which need not be this machine. */
static void tsc_is_read_through_the_host(void **state) {
    struct fixture *fixture = *state;
    struct host_ops ops = *fixture->host->ops;
    const struct host_ops *own_ops = fixture->host->ops;
    ops.ticks = ticks_of_a_test;
    fixture->host->ops = &ops;
    struct qemu_tsc_sample sample = qemu_tsc_sample(fixture->host);
    fixture->host->ops = own_ops;
    assert_true(sample.ticks == 424242);
    assert_true(sample.ns > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(version_is_found_in_the_output, setup, teardown),
        cmocka_unit_test_setup_teardown(old_qemu_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_qemu_says_what_to_install, setup, teardown),
        cmocka_unit_test_setup_teardown(a_path_that_is_too_long_is_no_qemu, setup, teardown),
        cmocka_unit_test_setup_teardown(something_else_is_not_qemu, setup, teardown),
        cmocka_unit_test_setup_teardown(cancel_ends_the_probe, setup, teardown),
        cmocka_unit_test(tsc_rate_needs_time),
        cmocka_unit_test_setup_teardown(tsc_is_read_through_the_host, setup, teardown),
    };
    return cmocka_run_group_tests_name("qemu_probe", tests, NULL, NULL);
}
