/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Copies whose time is over in their middle, of files that change under them, and of files that are mostly holes. */
#include "snapshot/snapshot_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define HOLE_SIZE (3ull * SNAPSHOT_HOLE_CHUNK_SIZE)
#define DATA_SIZE (3 * SNAPSHOT_COPY_CHUNK_SIZE)
#define LOOKS_MAX 100

/* A host of this test's: what some of its calls say is up to the test. */
static struct host *machine;
static const struct host_ops *own_ops;
static struct host_ops ops;
static uint64_t looks;       /* at the clock */
static uint64_t looks_until; /* so many of them, and the time is over */
static uint64_t allocated_size;
static struct host_wait forever;
static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-copy-XXXXXX");
    if (host_linux_create(&machine, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    own_ops = machine->ops;
    ops = *own_ops;
    forever = host_wait_ms(machine, 600000, HOST_FD_NONE);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    int result = rmdir(folder); /* fails, and with it the test, when something is left */
    machine->ops = own_ops;
    host_destroy(machine);
    return result;
}

static int memory_file(uint64_t size) {
    int fd = HOST_FD_NONE;
    assert_int_equal(host_memory_file(machine, "file", size, &fd, NULL), KELPIE_OK);
    return fd;
}

/* Data, and then a hole. */
static int make_source(void) {
    static char data[DATA_SIZE];
    int fd = memory_file(DATA_SIZE + HOLE_SIZE);
    memset(data, 'd', sizeof(data));
    assert_int_equal(host_file_write_at(machine, fd, data, sizeof(data), 0, NULL), KELPIE_OK);
    return fd;
}

/* ---- Time ------------------------------------------------------------------------------------- */

static uint64_t clock_of_a_test(struct host *host) {
    (void)host;
    return ++looks < looks_until ? 1 : UINT64_MAX;
}

/* A copy looks at the clock in data and in holes, and ends when its time is over, wherever that is. */
static void hazard_D1_a_copy_ends_with_its_time(void **state) {
    (void)state;
    struct kelpie_error err;
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    char expected[SNAPSHOT_CHECKSUM_SIZE];
    const struct host_wait wait = {.deadline_ns = UINT64_MAX - 1, .cancel_fd = HOST_FD_NONE};
    int source_fd = make_source();
    assert_int_equal(
        snapshot_checksum_file(machine, source_fd, DATA_SIZE + HOLE_SIZE, &forever, expected, &err),
        KELPIE_OK);
    ops.monotonic_ns = clock_of_a_test;
    machine->ops = &ops;
    enum kelpie_status status = KELPIE_TIMED_OUT;
    for (looks_until = 1; status != KELPIE_OK && looks_until < LOOKS_MAX; looks_until++) {
        int target_fd = memory_file(0);
        looks = 0;
        status = snapshot_copy_sparse(machine, source_fd, target_fd, DATA_SIZE + HOLE_SIZE, &wait,
                                      checksum, &err);
        assert_true(status == KELPIE_OK || status == KELPIE_TIMED_OUT);
        /* It does not go on; and when it comes through, no look said that the time was over. */
        assert_true(status == KELPIE_OK ? looks < looks_until : looks == looks_until);
        close(target_fd);
    }
    assert_int_equal(status, KELPIE_OK);
    assert_string_equal(checksum, expected);
    assert_true(looks >=
                DATA_SIZE / SNAPSHOT_COPY_CHUNK_SIZE + HOLE_SIZE / SNAPSHOT_HOLE_CHUNK_SIZE);
    close(source_fd);
}

/* ---- Files that change ------------------------------------------------------------------------ */

static enum kelpie_status short_read(struct host *host, int fd, void *buffer, size_t size,
                                     uint64_t offset, size_t *ret_size, struct kelpie_error *err) {
    enum kelpie_status status =
        own_ops->file_read_at(host, fd, buffer, size, offset, ret_size, err);
    *ret_size -= *ret_size > 0;
    return status;
}

static enum kelpie_status no_data(struct host *host, int fd, uint64_t offset, uint64_t *ret_start,
                                  uint64_t *ret_end, struct kelpie_error *err) {
    (void)host;
    (void)fd;
    (void)err;
    *ret_start = *ret_end = offset; /* as of a file that ends here */
    return KELPIE_OK;
}

static enum kelpie_status data_behind(struct host *host, int fd, uint64_t offset,
                                      uint64_t *ret_start, uint64_t *ret_end,
                                      struct kelpie_error *err) {
    (void)host;
    (void)fd;
    (void)err;
    *ret_start = *ret_end = offset > 0 ? offset - 1 : 0;
    return KELPIE_OK;
}

static void expect_shorter(int source_fd) {
    struct kelpie_error err;
    int target_fd = memory_file(0);
    machine->ops = &ops;
    assert_int_equal(snapshot_copy_sparse(machine, source_fd, target_fd, DATA_SIZE + HOLE_SIZE,
                                          &forever, NULL, &err),
                     KELPIE_IO_FAILED);
    machine->ops = own_ops;
    assert_non_null(strstr(err.message, "became shorter"));
    close(target_fd);
}

/* Somebody cuts the file while it is copied: an error, and no copy that goes on for ever. */
static void a_file_that_is_cut_meanwhile_is_no_copy(void **state) {
    (void)state;
    struct kelpie_error err;
    int source_fd = make_source();
    ops.file_read_at = short_read;
    expect_shorter(source_fd);
    ops = *own_ops;
    ops.file_next_data = no_data;
    expect_shorter(source_fd);
    ops.file_next_data = data_behind;
    expect_shorter(source_fd);
    int target_fd = memory_file(0);
    assert_int_equal(snapshot_copy_sparse(machine, source_fd, target_fd, DATA_SIZE + HOLE_SIZE + 1,
                                          &forever, NULL, &err),
                     KELPIE_IO_FAILED); /* it was too short before */
    assert_non_null(strstr(err.message, "were expected"));
    close(target_fd);
    close(source_fd);
}

/* ---- Holes ------------------------------------------------------------------------------------ */

static enum kelpie_status stat_of_a_test(struct host *host, int fd, struct host_file_info *ret_info,
                                         struct kelpie_error *err) {
    enum kelpie_status status = own_ops->file_stat(host, fd, ret_info, err);
    ret_info->allocated_size = allocated_size;
    return status;
}

static void a_file_is_mostly_holes_or_not(void **state) {
    (void)state;
    struct host *faulty = NULL;
    const uint64_t size = SNAPSHOT_HOLES_SIZE_MIN;
    int fd = memory_file(size);
    assert_true(snapshot_is_mostly_holes(machine, fd, size));
    assert_false(snapshot_is_mostly_holes(machine, fd, size - 1));
    ops.file_stat = stat_of_a_test;
    machine->ops = &ops;
    allocated_size = size / SNAPSHOT_HOLES_RATIO - 1;
    assert_true(snapshot_is_mostly_holes(machine, fd, size));
    allocated_size++;
    assert_false(snapshot_is_mostly_holes(machine, fd, size));
    machine->ops = own_ops;
    assert_int_equal(fault_host_create(machine, &faulty, NULL), KELPIE_OK);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .only = "file_stat"});
    assert_false(snapshot_is_mostly_holes(faulty, fd, size)); /* unknown: it is hashed on the way */
    host_destroy(faulty);
    close(fd);
}

/* What is mostly holes is hashed when the bundle is published, and not while the VM may stand still. */
static void holes_are_hashed_late(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_snapshot snapshot;
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    char path[128];
    int fd = HOST_FD_NONE;
    int source_fd = memory_file(SNAPSHOT_HOLES_SIZE_MIN);
    snprintf(path, sizeof(path), "%s/bundle", folder);
    assert_int_equal(snapshot_writer_create(machine, path, 0, &writer, &err), KELPIE_OK);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 1024;
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, source_fd,
                                          SNAPSHOT_HOLES_SIZE_MIN, &forever, &err),
                     KELPIE_OK);
    assert_string_equal(manifest->parts[SNAPSHOT_PART_MEMORY].checksum, "");
    assert_int_equal(snapshot_writer_publish(writer, &forever, &snapshot, &err), KELPIE_OK);
    snapshot_writer_destroy(writer);
    assert_int_equal(snapshot_reader_open(machine, path, &reader, &err), KELPIE_OK);
    assert_int_equal(snapshot_reader_verify(reader, SNAPSHOT_PART_MEMORY, &forever, &err),
                     KELPIE_OK);
    assert_true(snapshot.bytes < SNAPSHOT_HOLES_SIZE_MIN / SNAPSHOT_HOLES_RATIO);
    snapshot_reader_close(reader);
    close(source_fd);
    assert_int_equal(host_path_remove_folder(machine, path, NULL), KELPIE_OK);
}

#define COPY_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        COPY_TEST(hazard_D1_a_copy_ends_with_its_time),
        COPY_TEST(a_file_that_is_cut_meanwhile_is_no_copy),
        COPY_TEST(a_file_is_mostly_holes_or_not),
        COPY_TEST(holes_are_hashed_late),
    };
    return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
