/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Diffs that are made by comparing, and chains that are put together, on the real file system. */
#include "snapshot/snapshot_internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define PAGE SNAPSHOT_PAGE_SIZE
#define PAGE_COUNT 200u /* more than a chunk of them, and no whole number of chunks */
#define MEMORY_SIZE (PAGE_COUNT * PAGE)
#define ROUND_COUNT 6
#define NAME_SIZE 96

static struct host *host;
static struct host_wait forever;
static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-diff-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    int result = host_path_remove_folder(host, folder, NULL) == KELPIE_OK ? 0 : -1;
    host_destroy(host);
    return result;
}

static const char *bundle_path(unsigned number, char path[NAME_SIZE]) {
    snprintf(path, NAME_SIZE, "%s/bundle-%u", folder, number);
    return path;
}

static void remove_bundle(unsigned number) {
    char path[NAME_SIZE];
    assert_int_equal(host_path_remove_folder(host, bundle_path(number, path), NULL), KELPIE_OK);
}

/* A memory in a file, whose zero pages are holes, or are not. */
static int make_memory(const uint8_t *bytes, bool sparse) {
    int fd = HOST_FD_NONE;
    assert_int_equal(host_memory_file(host, "memory", MEMORY_SIZE, &fd, NULL), KELPIE_OK);
    for (size_t at = 0; at < MEMORY_SIZE; at += PAGE) {
        bool zero = bytes[at] == 0 && memcmp(bytes + at, bytes + at + 1, PAGE - 1) == 0;
        if (!zero || !sparse) {
            assert_int_equal(host_file_write_at(host, fd, bytes + at, PAGE, at, NULL), KELPIE_OK);
        }
    }
    return fd;
}

static void fill_manifest(struct snapshot_manifest *manifest) {
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "firecracker");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
}

/* A writer of the bundle of that number; number > 0: of a diff to the one before. */
static struct snapshot_writer *open_writer(unsigned number, uint64_t bytes_max) {
    char path[NAME_SIZE];
    int fd = HOST_FD_NONE;
    struct snapshot_writer *writer = NULL;
    assert_int_equal(
        snapshot_writer_create(host, bundle_path(number, path), bytes_max, &writer, NULL),
        KELPIE_OK);
    fill_manifest(snapshot_writer_manifest(writer));
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, NULL), KELPIE_OK);
    if (number > 0) {
        struct snapshot_reader *parent = NULL;
        bundle_path(number - 1, path);
        assert_int_equal(snapshot_reader_open(host, path, &parent, NULL), KELPIE_OK);
        assert_int_equal(snapshot_writer_set_parent(writer, path, parent, NULL), KELPIE_OK);
        snapshot_reader_close(parent);
    }
    return writer;
}

static struct kelpie_snapshot save(unsigned number, const uint8_t *bytes, bool sparse) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct snapshot_writer *writer = open_writer(number, 0);
    int fd = make_memory(bytes, sparse);
    snapshot_writer_take_memory(writer, fd, MEMORY_SIZE);
    if (snapshot_writer_publish(writer, &forever, &snapshot, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    snapshot_writer_destroy(writer);
    return snapshot;
}

static struct snapshot_reader *open_bundle(unsigned number) {
    char path[NAME_SIZE];
    struct snapshot_reader *reader = NULL;
    assert_int_equal(snapshot_reader_open(host, bundle_path(number, path), &reader, NULL),
                     KELPIE_OK);
    return reader;
}

static void expect_merged(unsigned number, const uint8_t *bytes) {
    struct kelpie_error err = {0};
    static uint8_t merged[MEMORY_SIZE];
    size_t size = 0;
    int fd = HOST_FD_NONE;
    struct snapshot_reader *reader = open_bundle(number);
    assert_int_equal(host_memory_file(host, "merged", 0, &fd, NULL), KELPIE_OK);
    if (snapshot_reader_merge(host, reader, fd, &forever, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(host_file_read_at(host, fd, merged, sizeof(merged), 0, &size, NULL),
                     KELPIE_OK);
    assert_int_equal(size, MEMORY_SIZE);
    assert_memory_equal(merged, bytes, MEMORY_SIZE);
    host_close(host, fd);
    snapshot_reader_close(reader);
}

static bool has_page(const struct snapshot_reader *reader, uint64_t page) {
    uint8_t byte = 0;
    size_t size = 0;
    assert_int_equal(host_file_read_at(host, snapshot_reader_part(reader, SNAPSHOT_PART_PAGES),
                                       &byte, 1, page / 8, &size, NULL),
                     KELPIE_OK);
    return (byte >> page % 8 & 1) != 0;
}

/* ---- What is in a diff ------------------------------------------------------------------------- */

static void test_a_diff_has_what_differs_and_no_more(void **state) {
    (void)state;
    static uint8_t bytes[MEMORY_SIZE];
    static const uint64_t changed[] = {3, 4, 63, 64, 130, PAGE_COUNT - 1};
    memset(bytes, 0, sizeof(bytes));
    memset(bytes, 'a', 100 * PAGE);
    struct kelpie_snapshot base = save(0, bytes, true);
    bytes[3 * PAGE] = 'b';
    memset(bytes + 4 * PAGE, 0, PAGE); /* zero again */
    bytes[64 * PAGE - 1] = 'b';
    bytes[64 * PAGE] = 'b';
    bytes[130 * PAGE + 7] = 'c'; /* was a hole */
    bytes[MEMORY_SIZE - 1] = 'd';
    struct kelpie_snapshot diff = save(1, bytes, false); /* zeros of a hole are no change */
    assert_string_equal(diff.parent_id, base.id);
    assert_true(base.bytes >= 100 * PAGE && diff.bytes < 16 * PAGE);
    struct snapshot_reader *reader = open_bundle(1);
    size_t found = 0;
    for (uint64_t page = 0; page < PAGE_COUNT; page++) {
        bool expected = found < ARRAY_SIZE(changed) && changed[found] == page;
        assert_int_equal(has_page(reader, page), expected);
        found += expected;
    }
    struct host_file_info info;
    assert_int_equal(
        host_file_stat(host, snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY), &info, NULL),
        KELPIE_OK);
    assert_int_equal(info.size, MEMORY_SIZE);
    assert_true(info.allocated_size <= 5 * PAGE); /* the zero page is a hole */
    snapshot_reader_close(reader);
    expect_merged(1, bytes);
    remove_bundle(0);
    remove_bundle(1);
}

static uint32_t draw(uint32_t *seed, uint32_t end) {
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % end;
}

static void change(uint8_t *bytes, uint32_t *seed) {
    for (uint32_t i = draw(seed, 40); i > 0; i--) {
        size_t start = draw(seed, PAGE_COUNT);
        size_t count = 1 + draw(seed, 12);
        count = count < PAGE_COUNT - start ? count : PAGE_COUNT - start;
        memset(bytes + start * PAGE, draw(seed, 3) == 0 ? 0 : (int)draw(seed, 256), count * PAGE);
    }
}

/* Hazard C8: every bundle of a chain is the memory of its moment. */
static void hazard_C8_each_of_a_chain_is_its_moment(void **state) {
    (void)state;
    static uint8_t moments[SNAPSHOT_CHAIN_LENGTH_MAX][MEMORY_SIZE];
    for (uint32_t round = 1; round <= ROUND_COUNT; round++) {
        uint32_t seed = round;
        memset(moments[0], 0, MEMORY_SIZE);
        for (unsigned i = 0; i < SNAPSHOT_CHAIN_LENGTH_MAX; i++) {
            if (i > 0) {
                memcpy(moments[i], moments[i - 1], MEMORY_SIZE);
            }
            change(moments[i], &seed);
            save(i, moments[i], draw(&seed, 2) == 0);
        }
        for (unsigned i = 0; i < SNAPSHOT_CHAIN_LENGTH_MAX; i++) {
            expect_merged(i, moments[i]);
        }
        for (unsigned i = 0; i < SNAPSHOT_CHAIN_LENGTH_MAX; i++) {
            remove_bundle(i);
        }
    }
}

/* ---- What cannot be ----------------------------------------------------------------------------- */

static enum kelpie_status try_diff(struct snapshot_writer *writer, const uint8_t *bytes,
                                   uint64_t size, const struct host_wait *wait,
                                   struct kelpie_error *err) {
    struct kelpie_snapshot snapshot;
    snapshot_writer_take_memory(writer, make_memory(bytes, true), size);
    enum kelpie_status status = snapshot_writer_publish(writer, wait, &snapshot, err);
    snapshot_writer_destroy(writer);
    return status;
}

static void test_what_cannot_be_a_diff_is_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    static uint8_t bytes[MEMORY_SIZE];
    const struct host_wait over = host_wait_none();
    memset(bytes, 0, sizeof(bytes));
    save(0, bytes, true);
    assert_int_equal(try_diff(open_writer(1, 0), bytes, MEMORY_SIZE - PAGE, &forever, &err),
                     KELPIE_SNAPSHOT_FAILED);
    assert_non_null(strstr(err.message, "were expected"));
    assert_int_equal(try_diff(open_writer(1, 0), bytes, MEMORY_SIZE, &over, &err),
                     KELPIE_TIMED_OUT);
    memset(bytes, 'x', sizeof(bytes));
    assert_int_equal(try_diff(open_writer(1, 10 * PAGE), bytes, MEMORY_SIZE, &forever, &err),
                     KELPIE_SNAPSHOT_TOO_LARGE);
    struct snapshot_writer *writer = open_writer(1, 0);
    remove_bundle(0);
    save(0, bytes, true); /* another in its place */
    assert_int_equal(try_diff(writer, bytes, MEMORY_SIZE, &forever, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "parent");
    remove_bundle(0);
}

/* Hazard B3: a chain is what files say. */
static void hazard_B3_layers_of_another_size_are_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct snapshot_layers layers;
    static uint8_t bytes[MEMORY_SIZE];
    save(0, bytes, true);
    bytes[0] = 1;
    save(1, bytes, true);
    struct snapshot_reader *reader = open_bundle(1);
    static const uint64_t sizes[] = {0, MEMORY_SIZE - 1, MEMORY_SIZE + PAGE, UINT64_MAX - PAGE + 1};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_int_equal(snapshot_layers_init(&layers, host, reader, sizes[i], &err),
                         KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "memory");
        assert_int_equal(layers.count, 0);
    }
    struct snapshot_manifest *manifest =
        (struct snapshot_manifest *)(uintptr_t)snapshot_reader_manifest(reader);
    manifest->parts[SNAPSHOT_PART_PAGES].size++;
    assert_int_equal(snapshot_layers_init(&layers, host, reader, MEMORY_SIZE, &err),
                     KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "pages");
    snapshot_reader_close(reader);
    remove_bundle(0);
    remove_bundle(1);
}

/* The diff 1 to the bundle 0, and the memory of both: through any host. */
static enum kelpie_status save_and_merge(struct host *through, int memory_fd, int merged_fd,
                                         struct kelpie_error *err) {
    char base[NAME_SIZE];
    char path[NAME_SIZE];
    int fd = HOST_FD_NONE;
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    bundle_path(0, base);
    enum kelpie_status status =
        snapshot_writer_create(through, bundle_path(1, path), 0, &writer, err);
    if (status == KELPIE_OK) {
        fill_manifest(snapshot_writer_manifest(writer));
        status = snapshot_reader_open(through, base, &reader, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_writer_set_parent(writer, base, reader, err);
    }
    snapshot_reader_close(reader);
    reader = NULL;
    if (status == KELPIE_OK) {
        status = snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, err);
    }
    if (status == KELPIE_OK) {
        status = host_file_reopen(through, memory_fd, &fd, err);
    }
    if (status == KELPIE_OK) {
        struct kelpie_snapshot snapshot;
        snapshot_writer_take_memory(writer, fd, MEMORY_SIZE);
        status = snapshot_writer_publish(writer, &forever, &snapshot, err);
    }
    snapshot_writer_destroy(writer);
    if (status == KELPIE_OK) {
        status = snapshot_reader_open(through, path, &reader, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_reader_merge(through, reader, merged_fd, &forever, err);
    }
    snapshot_reader_close(reader);
    return status;
}

static void hazard_B4_each_host_call_of_a_diff_fails(void **state) {
    (void)state;
    struct host *faulty = NULL;
    static uint8_t bytes[MEMORY_SIZE];
    char leaks[512];
    char path[NAME_SIZE];
    memset(bytes, 'a', sizeof(bytes) / 2);
    save(0, bytes, true);
    memset(bytes + 10 * PAGE, 'b', 7 * PAGE);
    int memory_fd = make_memory(bytes, true);
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    const char *fired = "";
    for (uint64_t nth = 1; fired; nth++) {
        struct kelpie_error err = {0};
        int merged_fd = HOST_FD_NONE;
        struct host_file_info info;
        assert_int_equal(host_memory_file(faulty, "merged", 0, &merged_fd, NULL), KELPIE_OK);
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .os_error = EIO});
        enum kelpie_status status = save_and_merge(faulty, memory_fd, merged_fd, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        host_close(faulty, merged_fd);
        assert_int_equal(fault_host_leaks(faulty, leaks, sizeof(leaks)), 0);
        assert_true(status == KELPIE_OK || (fired && err.message[0] != '\0'));
        if (host_path_stat(host, bundle_path(1, path), &info, NULL) == KELPIE_OK) {
            expect_merged(1, bytes); /* whole, or not there */
            remove_bundle(1);
        }
        assert_true(fired || (status == KELPIE_OK && nth > 40));
    }
    host_destroy(faulty);
    host_close(host, memory_fd);
    remove_bundle(0);
}

static void test_a_scratch_file_has_no_name(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    int fd = HOST_FD_NONE;
    struct host_file_info info;
    struct snapshot_writer *writer = open_writer(0, 0);
    assert_int_equal(snapshot_writer_scratch(writer, &fd, &err), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, "x", 1, 0, &err), KELPIE_OK);
    assert_int_equal(host_file_stat(host, fd, &info, &err), KELPIE_OK);
    assert_int_equal(info.size, 1);
    snapshot_writer_destroy(writer); /* removes its folder, which has nothing else in it */
    struct host_dir_entry entries[4];
    size_t count = 1;
    assert_int_equal(host_dir_list(host, folder, entries, ARRAY_SIZE(entries), &count, &err),
                     KELPIE_OK);
    assert_int_equal(count, 0);
    host_close(host, fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_diff_has_what_differs_and_no_more),
        cmocka_unit_test(hazard_C8_each_of_a_chain_is_its_moment),
        cmocka_unit_test(test_what_cannot_be_a_diff_is_refused),
        cmocka_unit_test(hazard_B3_layers_of_another_size_are_refused),
        cmocka_unit_test(hazard_B4_each_host_call_of_a_diff_fails),
        cmocka_unit_test(test_a_scratch_file_has_no_name),
    };
    return cmocka_run_group_tests_name("src/snapshot/diff", tests, set_up, tear_down);
}
