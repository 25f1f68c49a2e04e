/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Notes beside a bundle, on the real file system: taken back as they were put there, and ignored when they do not fit. */
#include "snapshot/working_set.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define MEMORY_SIZE                                                                                \
    (100u * SNAPSHOT_PAGE_SIZE + 1u) /* the last page is a byte: 101 bits, in 13 bytes */
#define NOTE_SIZE (SNAPSHOT_WORKING_SET_HEADER_SIZE + 13u)

static struct host *host;
static struct host_wait forever;
static char folder[64];

static const char *path_of(const char *name) {
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-working-set-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    (void)!host_path_remove_folder(host, path_of("one"), NULL);
    (void)!host_path_remove_folder(host, path_of("two"), NULL);
    int result = rmdir(folder);
    host_destroy(host);
    return result;
}

/* A bundle of nothing but memory; name NULL: in memory. */
static struct snapshot_reader *make_bundle(const char *name) {
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    struct kelpie_snapshot snapshot;
    int fd = HOST_FD_NONE;
    const char *path = name ? path_of(name) : NULL;
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, NULL), KELPIE_OK);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, "state", 5, 0, NULL), KELPIE_OK);
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_truncate(host, fd, MEMORY_SIZE, NULL), KELPIE_OK);
    if (name) {
        assert_int_equal(snapshot_writer_publish(writer, &forever, &snapshot, NULL), KELPIE_OK);
        assert_int_equal(snapshot_reader_open(host, path_of(name), &reader, NULL), KELPIE_OK);
    } else {
        assert_int_equal(snapshot_writer_read(writer, &reader, NULL), KELPIE_OK);
    }
    snapshot_writer_destroy(writer);
    return reader;
}

/* A file of so many bytes behind a header that nobody looks at. */
static int make_bitmap(size_t size, uint8_t byte) {
    int fd = HOST_FD_NONE;
    uint8_t bytes[2 * NOTE_SIZE];
    ASSERT(size <= sizeof(bytes));
    memset(bytes, byte, sizeof(bytes));
    assert_int_equal(host_memory_file(host, "bitmap", size, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, bytes, size, 0, NULL), KELPIE_OK);
    return fd;
}

static void store(const struct snapshot_reader *reader, uint8_t byte) {
    int fd = make_bitmap(NOTE_SIZE, byte);
    assert_int_equal(snapshot_working_set_store(host, reader, fd, NULL), KELPIE_OK);
    host_close(host, fd);
}

static bool is_there(const struct snapshot_reader *reader) {
    int fd = snapshot_working_set_open(host, reader);
    bool there = fd != HOST_FD_NONE;
    host_close(host, fd);
    return there;
}

static void read_note(const struct snapshot_reader *reader, uint8_t bytes[NOTE_SIZE]) {
    size_t count = 0;
    int fd = snapshot_working_set_open(host, reader);
    assert_int_not_equal(fd, HOST_FD_NONE);
    assert_int_equal(host_file_read_at(host, fd, bytes, NOTE_SIZE, 0, &count, NULL), KELPIE_OK);
    assert_int_equal(count, NOTE_SIZE);
    host_close(host, fd);
}

static void write_note(const char *bundle, const uint8_t *bytes, size_t size) {
    char path[512];
    snprintf(path, sizeof(path), "%s/" SNAPSHOT_WORKING_SET_NAME, path_of(bundle));
    assert_int_equal(host_file_store(host, path, bytes, size, 0600, NULL), KELPIE_OK);
}

static void test_a_note_is_read_as_it_was_put(void **state) {
    (void)state;
    uint8_t bytes[NOTE_SIZE];
    struct snapshot_reader *reader = make_bundle("one");
    assert_int_equal(snapshot_working_set_size(MEMORY_SIZE), NOTE_SIZE);
    assert_false(is_there(reader));
    store(reader, 0x5a);
    read_note(reader, bytes);
    assert_memory_equal(bytes, "KLPWSET1", 8);
    assert_memory_equal(bytes + 8, snapshot_reader_manifest(reader)->info.id, 32);
    assert_int_equal(bytes[40], 101);
    for (size_t i = SNAPSHOT_WORKING_SET_HEADER_SIZE; i < NOTE_SIZE; i++) {
        assert_int_equal(bytes[i], 0x5a);
    }
    store(reader, 0xa5); /* the next one replaces it */
    read_note(reader, bytes);
    assert_int_equal(bytes[NOTE_SIZE - 1], 0xa5);
    /* The bundle is what it was. */
    struct snapshot_reader *again = NULL;
    assert_int_equal(snapshot_reader_open(host, path_of("one"), &again, NULL), KELPIE_OK);
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        assert_int_equal(snapshot_reader_verify(again, i, &forever, NULL), KELPIE_OK);
    }
    snapshot_reader_close(again);
    snapshot_reader_close(reader);
}

static void test_any_damage_makes_it_none(void **state) {
    (void)state;
    uint8_t bytes[NOTE_SIZE + 1] = {0};
    struct snapshot_reader *reader = make_bundle("one");
    store(reader, 0x5a);
    read_note(reader, bytes);
    for (size_t i = 0; i < NOTE_SIZE; i++) {
        bytes[i] ^= 0x10;
        write_note("one", bytes, NOTE_SIZE);
        assert_false(is_there(reader));
        bytes[i] ^= 0x10;
    }
    for (size_t size = 0; size <= NOTE_SIZE + 1; size++) {
        write_note("one", bytes, size);
        assert_int_equal(is_there(reader), size == NOTE_SIZE);
    }
    snapshot_reader_close(reader);
}

static void test_another_bundles_is_none(void **state) {
    (void)state;
    uint8_t bytes[NOTE_SIZE];
    struct snapshot_reader *one = make_bundle("one");
    struct snapshot_reader *two = make_bundle("two");
    store(one, 0x5a);
    read_note(one, bytes);
    write_note("two", bytes, NOTE_SIZE);
    assert_true(is_there(one));
    assert_false(is_there(two));
    snapshot_reader_close(one);
    snapshot_reader_close(two);
}

static void test_what_is_no_file_is_none(void **state) {
    (void)state;
    char path[512];
    char place[512];
    uint8_t bytes[NOTE_SIZE];
    struct snapshot_reader *reader = make_bundle("one");
    store(reader, 0x5a);
    read_note(reader, bytes);
    snprintf(path, sizeof(path), "%s/" SNAPSHOT_WORKING_SET_NAME, path_of("one"));
    snprintf(place, sizeof(place), "%s/elsewhere", path_of("one"));
    assert_int_equal(rename(path, place), 0);
    assert_int_equal(symlink(place, path), 0);
    assert_false(is_there(reader));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(is_there(reader));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(is_there(reader));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(place, path), 0);
    assert_true(is_there(reader));
    snapshot_reader_close(reader);
}

static void test_what_does_not_fit_is_not_put_there(void **state) {
    (void)state;
    static const size_t sizes[] = {0, SNAPSHOT_WORKING_SET_HEADER_SIZE, NOTE_SIZE - 1,
                                   NOTE_SIZE + 1};
    struct kelpie_error err;
    struct snapshot_reader *reader = make_bundle("one");
    struct snapshot_reader *in_memory = make_bundle(NULL);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        int fd = make_bitmap(sizes[i], 1);
        assert_int_equal(snapshot_working_set_store(host, reader, fd, &err),
                         KELPIE_SNAPSHOT_FAILED);
        assert_false(is_there(reader));
        host_close(host, fd);
    }
    int fd = make_bitmap(NOTE_SIZE, 1);
    assert_int_equal(snapshot_working_set_store(host, in_memory, fd, &err), KELPIE_SNAPSHOT_FAILED);
    assert_false(is_there(in_memory));
    host_close(host, fd);
    snapshot_reader_close(reader);
    snapshot_reader_close(in_memory);
}

/* Of a machine whose memory is in its state, there are no pages to tell of. */
static void test_a_bundle_without_memory_has_none(void **state) {
    (void)state;
    struct kelpie_error err;
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    struct kelpie_snapshot snapshot;
    int fd = HOST_FD_NONE;
    assert_int_equal(snapshot_writer_create(host, path_of("one"), 0, &writer, NULL), KELPIE_OK);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "qemu");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    manifest->memory_in_state = true;
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, NULL), KELPIE_OK);
    assert_int_equal(snapshot_writer_publish(writer, &forever, &snapshot, NULL), KELPIE_OK);
    snapshot_writer_destroy(writer);
    assert_int_equal(snapshot_reader_open(host, path_of("one"), &reader, NULL), KELPIE_OK);
    fd = make_bitmap(NOTE_SIZE, 1);
    assert_int_equal(snapshot_working_set_store(host, reader, fd, &err), KELPIE_SNAPSHOT_FAILED);
    assert_non_null(strstr(err.message, "no memory on a disk"));
    assert_false(is_there(reader));
    host_close(host, fd);
    snapshot_reader_close(reader);
}

/* The nth host call fails: a note that is not read is none, and one that is not written is an error. */
static void test_any_call_may_fail(void **state) {
    (void)state;
    struct host *faulty = NULL;
    char text[256];
    struct snapshot_reader *reader = make_bundle("one");
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    for (int storing = 0; storing < 2; storing++) {
        const char *fired = "";
        for (uint64_t nth = 1; fired; nth++) {
            store(reader, 7);
            int fd = storing ? make_bitmap(NOTE_SIZE, 8) : HOST_FD_NONE;
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
            bool done = storing ? snapshot_working_set_store(faulty, reader, fd, NULL) == KELPIE_OK
                                : (fd = snapshot_working_set_open(faulty, reader)) != HOST_FD_NONE;
            fired = fault_host_fired(faulty);
            fault_host_disarm(faulty);
            assert_int_equal(done, !fired);
            host_close(storing ? host : faulty, fd);
            assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
            assert_true(is_there(reader)); /* the old one, or the new one */
            assert_true(fired || nth > 4);
        }
    }
    host_destroy(faulty);
    snapshot_reader_close(reader);
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(test_a_note_is_read_as_it_was_put),
        FOLDER_TEST(test_any_damage_makes_it_none),
        FOLDER_TEST(test_another_bundles_is_none),
        FOLDER_TEST(test_what_is_no_file_is_none),
        FOLDER_TEST(test_what_does_not_fit_is_not_put_there),
        FOLDER_TEST(test_a_bundle_without_memory_has_none),
        FOLDER_TEST(test_any_call_may_fail),
    };
    return cmocka_run_group_tests_name("working_set", tests, NULL, NULL);
}
