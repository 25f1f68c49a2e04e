/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A bundle in memory: what is written or adopted is handed over to a reader, once, and nothing is lost on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "snapshot/snapshot.h"
#include "support/fault_host.h"

#define STATE_TEXT "state of a machine"
#define MEMORY_SIZE 8192u

struct fixture {
    struct host *inner;
    struct host *host;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

static void expect_nothing_open(struct fixture *fixture) {
    char text[512] = "";
    if (fault_host_leaks(fixture->host, text, sizeof(text)) != 0) {
        fail_msg("%s", text);
    }
}

/* A state that is written, and a memory that is adopted. The writer is gone when it returns. */
static enum kelpie_status make(struct fixture *fixture, struct snapshot_reader **ret_reader) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err = {0};
    int fd = HOST_FD_NONE;
    TRY(snapshot_writer_create(fixture->host, NULL, 0, &writer, &err));
    enum kelpie_status status = snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err);
    if (status == KELPIE_OK) {
        status = host_file_write_at(fixture->host, fd, STATE_TEXT, strlen(STATE_TEXT), 0, &err);
    }
    if (status == KELPIE_OK) {
        status = host_memory_file(fixture->host, "memory", MEMORY_SIZE, &fd, &err);
    }
    if (status == KELPIE_OK) {
        snapshot_writer_adopt(writer, SNAPSHOT_PART_MEMORY, fd);
        status = snapshot_writer_read(writer, ret_reader, &err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

static void a_reader_has_what_was_written(void **state) {
    struct fixture *fixture = *state;
    struct snapshot_reader *reader = NULL;
    struct kelpie_error err = {0};
    const struct host_wait wait = host_wait_ms(fixture->host, 60000, HOST_FD_NONE);
    char text[sizeof(STATE_TEXT)] = "";
    size_t size = 0;
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    assert_int_equal(make(fixture, &reader), KELPIE_OK);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    assert_true(manifest->parts[SNAPSHOT_PART_STATE].present);
    assert_int_equal(manifest->parts[SNAPSHOT_PART_STATE].size, strlen(STATE_TEXT));
    assert_true(manifest->parts[SNAPSHOT_PART_MEMORY].present);
    assert_int_equal(manifest->parts[SNAPSHOT_PART_MEMORY].size, MEMORY_SIZE);
    assert_false(manifest->parts[SNAPSHOT_PART_PAGES].present);
    assert_int_equal(snapshot_reader_part(reader, SNAPSHOT_PART_PAGES), HOST_FD_NONE);
    assert_int_equal(snapshot_reader_chain_length(reader), 1);
    /* It has no checksum: nobody has had it meanwhile. */
    assert_int_equal(snapshot_reader_verify(reader, SNAPSHOT_PART_STATE, &wait, &err), KELPIE_OK);
    for (size_t i = 0; i < 2; i++) { /* each has its own position */
        assert_int_equal(snapshot_reader_part_open(reader, SNAPSHOT_PART_STATE, &fds[i], &err),
                         KELPIE_OK);
        assert_int_equal(read(fds[i], text, sizeof(text)), strlen(STATE_TEXT));
        assert_memory_equal(text, STATE_TEXT, strlen(STATE_TEXT));
        assert_true(write(fds[i], "!", 1) < 0);
    }
    assert_int_equal(snapshot_reader_part_open(reader, SNAPSHOT_PART_PAGES, &fds[1], &err),
                     KELPIE_NOT_FOUND);
    host_close(fixture->host, fds[0]);
    host_close(fixture->host, fds[1]);
    assert_int_equal(host_file_read_at(fixture->host,
                                       snapshot_reader_part(reader, SNAPSHOT_PART_STATE), text,
                                       sizeof(text), 0, &size, &err),
                     KELPIE_OK);
    assert_int_equal(size, strlen(STATE_TEXT));
    snapshot_reader_close(reader);
    expect_nothing_open(fixture);
}

static void any_call_may_fail(void **state) {
    struct fixture *fixture = *state;
    size_t failures = 0;
    for (uint64_t nth = 1;; nth++) {
        struct snapshot_reader *reader = NULL;
        fault_host_arm(fixture->host, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = make(fixture, &reader);
        const char *fired = fault_host_fired(fixture->host);
        fault_host_disarm(fixture->host);
        assert_int_equal(status == KELPIE_OK, reader != NULL);
        snapshot_reader_close(reader);
        expect_nothing_open(fixture);
        if (!fired) {
            assert_int_equal(status, KELPIE_OK);
            break;
        }
        failures += status != KELPIE_OK;
    }
    assert_true(failures >= 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_reader_has_what_was_written, setup, teardown),
        cmocka_unit_test_setup_teardown(any_call_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests_name("bundle in memory", tests, NULL, NULL);
}
