/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Writing, publishing, reading and verifying whole bundles, on the real file system. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "snapshot/bundle_harness_test.h"
#include "support/fault_host.h"

#define PLACES 1000

static void test_bundle_is_read_as_written(void **state) {
    (void)state;
    char path[128];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    struct snapshot_reader *reader = NULL;
    struct host_file_info info;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
    assert_int_equal(entry_count(folder), 1);
    assert_int_equal(entry_count(path), 4);
    assert_int_equal(snapshot_reader_open(host, path, &reader, &err), KELPIE_OK);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    assert_string_equal(manifest->info.id, snapshot.id);
    assert_int_equal(manifest->info.bytes, snapshot.bytes);
    int fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY);
    assert_int_equal(host_file_stat(host, fd, &info, NULL), KELPIE_OK);
    assert_int_equal(info.size, MEMORY_SIZE);
    assert_true(info.allocated_size < 100000); /* It is sparse. */
    assert_int_equal(snapshot_reader_part(reader, SNAPSHOT_PART_DISK_0 + 1), HOST_FD_NONE);
    char *ours = malloc(MEMORY_SIZE);
    char *theirs = malloc(MEMORY_SIZE);
    size_t size = 0;
    assert_int_equal(host_file_read_at(host, memory_fd, ours, MEMORY_SIZE, 0, &size, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_read_at(host, fd, theirs, MEMORY_SIZE, 0, &size, NULL), KELPIE_OK);
    assert_memory_equal(ours, theirs, MEMORY_SIZE);
    free(ours);
    free(theirs);
    snapshot_reader_close(reader);
    assert_int_equal(check_bundle(path, &err), KELPIE_OK);
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_BAD_CONFIG);
    assert_non_null(strstr(err.message, "exists already"));
    remove_bundle(path);
    host_close(host, memory_fd);
}

static void test_checksum_is_of_the_logical_content(void **state) {
    (void)state;
    char sparse[SNAPSHOT_CHECKSUM_SIZE];
    char dense[SNAPSHOT_CHECKSUM_SIZE];
    char bytes[SNAPSHOT_CHECKSUM_SIZE];
    int fd = HOST_FD_NONE;
    size_t size = 0;
    int memory_fd = make_memory();
    char *data = malloc(MEMORY_SIZE);
    assert_int_equal(host_file_read_at(host, memory_fd, data, MEMORY_SIZE, 0, &size, NULL),
                     KELPIE_OK);
    assert_int_equal(host_memory_file(host, "dense", MEMORY_SIZE, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, data, MEMORY_SIZE, 0, NULL), KELPIE_OK);
    assert_int_equal(snapshot_checksum_file(host, memory_fd, MEMORY_SIZE, &forever, sparse, NULL),
                     KELPIE_OK);
    assert_int_equal(snapshot_checksum_file(host, fd, MEMORY_SIZE, &forever, dense, NULL),
                     KELPIE_OK);
    snapshot_checksum_bytes(data, MEMORY_SIZE, bytes);
    assert_string_equal(sparse, dense);
    assert_string_equal(sparse, bytes);
    /* Known answer: XXH3-128 of nothing, in canonical order. */
    snapshot_checksum_bytes("", 0, bytes);
    assert_string_equal(bytes, "99aa06d3014798d86001c324468d497f");
    free(data);
    host_close(host, fd);
    host_close(host, memory_fd);
}

static void test_a_copy_ends_in_a_hole(void **state) {
    (void)state;
    struct host_file_info info;
    int source = HOST_FD_NONE;
    int target = HOST_FD_NONE;
    assert_int_equal(host_memory_file(host, "source", MEMORY_SIZE, &source, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, source, "x", 1, 5000, NULL), KELPIE_OK);
    assert_int_equal(host_memory_file(host, "target", 0, &target, NULL), KELPIE_OK);
    assert_int_equal(snapshot_copy_sparse(host, source, target, MEMORY_SIZE, &forever, NULL, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_stat(host, target, &info, NULL), KELPIE_OK);
    assert_int_equal(info.size, MEMORY_SIZE);
    host_close(host, source);
    host_close(host, target);
}

static void test_copy_respects_its_limits(void **state) {
    (void)state;
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err;
    char path[128];
    int event = HOST_FD_NONE;
    int memory_fd = make_memory();
    struct host_wait past = host_wait_none();
    path_of("limited", path, sizeof(path));
    for (uint64_t limit = 8192; limit <= 16384;
         limit *= 2) { /* less than the first piece; than both */
        assert_int_equal(snapshot_writer_create(host, path, limit, &writer, &err), KELPIE_OK);
        assert_int_equal(snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, memory_fd, MEMORY_SIZE,
                                              &forever, &err),
                         KELPIE_SNAPSHOT_TOO_LARGE);
        snapshot_writer_destroy(writer);
    }
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(
        snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, memory_fd, MEMORY_SIZE, &past, &err),
        KELPIE_TIMED_OUT);
    assert_int_equal(host_event_create(host, &event, NULL), KELPIE_OK);
    host_event_set(host, event);
    struct host_wait cancelled = {forever.deadline_ns, event};
    assert_int_equal(
        snapshot_writer_copy(writer, SNAPSHOT_PART_STATE, memory_fd, MEMORY_SIZE, &cancelled, &err),
        KELPIE_CANCELLED);
    assert_int_equal(snapshot_writer_copy(writer, SNAPSHOT_PART_DISK_0, memory_fd, MEMORY_SIZE + 1,
                                          &forever, &err),
                     KELPIE_SNAPSHOT_FAILED);
    snapshot_writer_destroy(writer);
    host_close(host, event);
    host_close(host, memory_fd);
    assert_int_equal(entry_count(folder), 0);
}

static void test_two_writers_beside_each_other(void **state) {
    (void)state;
    struct snapshot_writer *first = NULL;
    struct snapshot_writer *second = NULL;
    char path[128];
    int fd = HOST_FD_NONE;
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    path_of("same", path, sizeof(path));
    assert_int_equal(snapshot_writer_create(host, path, 0, &first, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_create(host, path, 0, &second, &err), KELPIE_OK);
    assert_int_equal(entry_count(folder), 2); /* The second left the living first alone. */
    struct snapshot_writer *writers[] = {first, second};
    for (size_t i = 0; i < 2; i++) {
        struct snapshot_manifest *manifest = snapshot_writer_manifest(writers[i]);
        fill_manifest(manifest);
        manifest->disk_count = 0;
        manifest->disks[0] = (struct snapshot_disk){0};
        assert_int_equal(snapshot_writer_part(writers[i], SNAPSHOT_PART_STATE, &fd, &err),
                         KELPIE_OK);
    }
    assert_int_equal(snapshot_writer_publish(first, &forever, &snapshot, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_publish(second, &forever, &snapshot, &err),
                     KELPIE_SNAPSHOT_FAILED);
    snapshot_writer_destroy(first);
    snapshot_writer_destroy(second);
    assert_int_equal(entry_count(folder), 1);
    assert_int_equal(check_bundle(path, &err), KELPIE_OK);
    remove_bundle(path);
}

/* ---- Damage ----------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *seed) {
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static void flip(const char *path, uint64_t offset) {
    int fd = open(path, O_RDWR);
    uint8_t byte = 0;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void expect_damaged(const char *path, const char *part) {
    struct kelpie_error err = {0};
    assert_int_equal(check_bundle(path, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, part);
    assert_non_null(strstr(err.message, part));
}

/* A wrong length is seen when the bundle is opened, without a checksum. */
static void expect_lengths_refused(const char *path, const char *part, uint64_t size) {
    char file[160];
    struct kelpie_error err;
    uint64_t seed = size;
    snprintf(file, sizeof(file), "%s/%s", path, part);
    for (size_t i = 0; i < PLACES; i++) {
        struct snapshot_reader *reader = NULL;
        uint64_t length = i % 2 ? next_random(&seed) % size : size + 1 + next_random(&seed);
        assert_int_equal(truncate(file, (off_t)length), 0);
        assert_int_equal(snapshot_reader_open(host, path, &reader, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, part);
    }
}

/* The part's own bytes, but by a link: it could be another VM's disk tomorrow. */
static void expect_link_refused(const char *path, const char *part, int memory_fd) {
    struct kelpie_snapshot snapshot;
    char good[128];
    char file[160];
    char there[160];
    path_of("good", good, sizeof(good));
    assert_int_equal(write_bundle(host, good, memory_fd, &snapshot, NULL), KELPIE_OK);
    snprintf(file, sizeof(file), "%s/%s", path, part);
    snprintf(there, sizeof(there), "%s/%s", good, part);
    assert_int_equal(symlink(there, file), 0);
    expect_damaged(path, part);
    assert_int_equal(unlink(file), 0);
    remove_bundle(good);
}

static void hazard_B3_every_part_flipped_truncated_extended(void **state) {
    static const char *const parts[] = {"state", "memory", "disk-0"};
    (void)state;
    char path[128];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    uint64_t seed = 42;
    int memory_fd = make_memory();
    path_of("damaged", path, sizeof(path));
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        char file[160];
        struct stat info;
        snprintf(file, sizeof(file), "%s/%s", path, parts[i]);
        assert_int_equal(stat(file, &info), 0);
        uint64_t size = (uint64_t)info.st_size;
        for (size_t j = 0; j < PLACES / 10; j++) {
            uint64_t place = j == 0 ? 0 : j == 1 ? size - 1 : next_random(&seed) % size;
            flip(file, place);
            expect_damaged(path, parts[i]);
            flip(file, place);
        }
        expect_lengths_refused(path, parts[i], size);
        remove_bundle(path);
        assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
        assert_int_equal(unlink(file), 0);
        expect_damaged(path, parts[i]);
        assert_int_equal(symlink("/etc/passwd", file), 0);
        expect_damaged(path, parts[i]);
        assert_int_equal(unlink(file), 0);
        expect_link_refused(path, parts[i], memory_fd);
        assert_int_equal(mkfifo(file, 0600), 0);
        expect_damaged(path, parts[i]);
        remove_bundle(path);
        assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
    }
    remove_bundle(path);
    host_close(host, memory_fd);
}

static void hazard_B5_files_without_a_manifest_are_no_bundle(void **state) {
    (void)state;
    char path[128];
    char file[160];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    assert_int_equal(check_bundle(path, &err), KELPIE_NOT_FOUND);
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
    snprintf(file, sizeof(file), "%s/manifest.json", path);
    assert_int_equal(truncate(file, 0), 0);
    expect_damaged(path, "manifest");
    assert_int_equal(truncate(file, SNAPSHOT_MANIFEST_SIZE_MAX + 1), 0);
    expect_damaged(path, "manifest");
    assert_int_equal(unlink(file), 0);
    expect_damaged(path, "manifest");
    remove_bundle(path);
    host_close(host, memory_fd);
}

static void copy_file(const char *from, const char *to) {
    static char bytes[65536];
    int source = open(from, O_RDONLY | O_CLOEXEC);
    int target = open(to, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(source >= 0 && target >= 0);
    ssize_t size = read(source, bytes, sizeof(bytes));
    assert_true(size > 0 && (size_t)size < sizeof(bytes));
    assert_int_equal(write(target, bytes, (size_t)size), size);
    close(source);
    close(target);
}

/* All files are there, and each by itself is good: but they do not belong together. */
static void hazard_B5_a_manifest_of_another_bundle(void **state) {
    (void)state;
    char paths[2][128];
    char files[2][320];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    int memory_fds[2] = {make_memory(), make_memory()};
    assert_int_equal(host_file_write_at(host, memory_fds[1], "other", 5, 1000000, NULL), KELPIE_OK);
    for (size_t i = 0; i < 2; i++) {
        path_of(i == 0 ? "first" : "second", paths[i], sizeof(paths[i]));
        assert_int_equal(write_bundle(host, paths[i], memory_fds[i], &snapshot, &err), KELPIE_OK);
        snprintf(files[i], sizeof(files[i]), "%s/manifest.json", paths[i]);
    }
    copy_file(files[0], files[1]);
    expect_damaged(paths[1], "memory");
    assert_int_equal(check_bundle(paths[0], &err), KELPIE_OK);
    for (size_t i = 0; i < 2; i++) {
        remove_bundle(paths[i]);
        host_close(host, memory_fds[i]);
    }
}

/* Files of the right names, as a writer that never synced them leaves them after a power failure. */
static void hazard_B5_empty_files_are_no_bundle(void **state) {
    static const char *const parts[] = {"state", "memory", "disk-0", "manifest.json"};
    (void)state;
    char path[128];
    char file[160];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    struct snapshot_reader *reader = NULL;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
        snprintf(file, sizeof(file), "%s/%s", path, parts[i]);
        assert_int_equal(truncate(file, 0), 0);
        assert_int_equal(snapshot_reader_open(host, path, &reader, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, i == 3 ? "manifest" : parts[i]);
        remove_bundle(path);
    }
    host_close(host, memory_fd);
}

/* A good bundle that cannot be read now is not damaged. */
static void test_what_fails_while_reading_keeps_its_kind(void **state) {
    static const struct {
        int os_error;
        enum kelpie_status status;
    } kinds[] = {{EIO, KELPIE_IO_FAILED},
                 {EMFILE, KELPIE_IO_FAILED},
                 {EACCES, KELPIE_IO_FAILED},
                 {ENOMEM, KELPIE_NO_MEMORY}};
    (void)state;
    struct host *faulty = NULL;
    struct kelpie_snapshot snapshot;
    struct kelpie_error err = {0};
    char path[128];
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        const char *fired = "";
        for (uint64_t nth = 1; fired; nth++) {
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .os_error = kinds[i].os_error});
            enum kelpie_status status = check_bundle_on(faulty, path, &err);
            fired = fault_host_fired(faulty);
            fault_host_disarm(faulty);
            assert_true(fired || nth > 10);
            enum kelpie_status expected = !fired                           ? KELPIE_OK
                                          : strcmp(fired, "allocate") == 0 ? KELPIE_NO_MEMORY
                                                                           : kinds[i].status;
            assert_int_equal(status, expected);
        }
    }
    host_destroy(faulty);
    host_close(host, memory_fd);
    remove_bundle(path);
}

static void test_sweep_leaves_what_is_not_ours(void **state) {
    static const char *const names[] = {
        "notes.partial-12",                           /* no id */
        "x.partial-0123456789abcdef0123456789abcdef", /* holds a foreign file */
        ".partial-0123456789abcdef0123456789abcdef",  /* belongs to no bundle */
    };
    (void)state;
    char path[128];
    char file[192];
    struct snapshot_writer *writer = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        path_of(names[i], path, sizeof(path));
        snprintf(file, sizeof(file), "%s/keep", path);
        assert_int_equal(mkdir(path, 0700), 0);
        close(open(file, O_CREAT | O_WRONLY, 0600));
    }
    path_of("bundle", path, sizeof(path));
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, NULL), KELPIE_OK);
    snapshot_writer_destroy(writer);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        path_of(names[i], path, sizeof(path));
        snprintf(file, sizeof(file), "%s/keep", path);
        assert_int_equal(unlink(file), 0);
        assert_int_equal(rmdir(path), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bundle_is_read_as_written),
        cmocka_unit_test(test_checksum_is_of_the_logical_content),
        cmocka_unit_test(test_a_copy_ends_in_a_hole),
        cmocka_unit_test(test_copy_respects_its_limits),
        cmocka_unit_test(test_two_writers_beside_each_other),
        cmocka_unit_test(test_sweep_leaves_what_is_not_ours),
        cmocka_unit_test(hazard_B3_every_part_flipped_truncated_extended),
        cmocka_unit_test(hazard_B5_files_without_a_manifest_are_no_bundle),
        cmocka_unit_test(hazard_B5_a_manifest_of_another_bundle),
        cmocka_unit_test(hazard_B5_empty_files_are_no_bundle),
        cmocka_unit_test(test_what_fails_while_reading_keeps_its_kind),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
