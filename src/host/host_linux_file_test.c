/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's files and names, and what host.h composes of them. */
#include "host/host.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1ull << 20)
#define PATH_SIZE 128
#define RENAME_COUNT 50

struct fixture {
    struct host *host;
    char folder[32];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-file-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    *state = fixture;
    return 0;
}

/* Tests remove the folders that they make, so that this also finds what was left behind. */
static int teardown(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    if (host_path_remove_folder(fixture->host, fixture->folder, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static const char *in_folder(const struct fixture *fixture, const char *name,
                             char path[PATH_SIZE]) {
    int length = snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    assert_true(length > 0 && length < PATH_SIZE);
    return path;
}

static void store(const struct fixture *fixture, const char *name, const char *text) {
    char path[PATH_SIZE];
    assert_int_equal(host_file_store(fixture->host, in_folder(fixture, name, path), text,
                                     strlen(text), 0600, NULL),
                     KELPIE_OK);
}

static void assert_holds(const struct fixture *fixture, const char *name, const char *text) {
    char path[PATH_SIZE];
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(
        host_file_load(fixture->host, in_folder(fixture, name, path), 4096, &data, &size, NULL),
        KELPIE_OK);
    assert_int_equal(size, strlen(text));
    assert_string_equal(data, text);
    free(data);
}

/* A new file of the folder, open for reading and writing. */
static int create(const struct fixture *fixture, const char *name) {
    char path[PATH_SIZE];
    int fd = HOST_FD_NONE;
    assert_int_equal(
        host_file_open(fixture->host, in_folder(fixture, name, path),
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                       0600, &fd, NULL),
        KELPIE_OK);
    return fd;
}

/* ---- Open files ------------------------------------------------------------------------------- */

static void open_flags_mean_what_they_say(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    char link[PATH_SIZE];
    int fd = HOST_FD_NONE;
    struct kelpie_error err = {0};
    in_folder(fixture, "file", path);
    assert_int_equal(host_file_open(host, path, HOST_OPEN_READ, 0, &fd, &err), KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    uint32_t flags = HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE;
    assert_int_equal(host_file_open(host, path, flags, 0640, &fd, &err), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, "text", 4, 0, NULL), KELPIE_OK);
    struct host_file_info info = {0};
    assert_int_equal(host_file_stat(host, fd, &info, NULL), KELPIE_OK);
    assert_int_equal(info.mode, 0640);
    assert_int_equal(info.size, 4);
    assert_int_equal(info.type, HOST_FILE_REGULAR);
    assert_int_equal(info.uid, getuid());
    host_close(host, fd);
    assert_int_equal(host_file_open(host, path, flags, 0640, &fd, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EEXIST);

    assert_int_equal(host_path_symlink(host, path, in_folder(fixture, "link", link), NULL),
                     KELPIE_OK);
    flags = HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW;
    assert_int_equal(host_file_open(host, link, flags, 0, &fd, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ELOOP);
    flags = HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_TRUNCATE;
    assert_int_equal(host_file_open(host, link, flags, 0, &fd, &err), KELPIE_OK);
    assert_int_equal(host_file_stat(host, fd, &info, NULL), KELPIE_OK);
    assert_int_equal(info.size, 0);
    host_close(host, fd);
}

static void a_fifo_does_not_block(void **state) {
    const struct fixture *fixture = *state;
    char path[PATH_SIZE];
    int fd = HOST_FD_NONE;
    assert_int_equal(mkfifo(in_folder(fixture, "fifo", path), 0600), 0);
    assert_int_equal(host_file_open(fixture->host, path, HOST_OPEN_READ, 0, &fd, NULL), KELPIE_OK);
    host_close(fixture->host, fd);
}

static void reads_and_writes_at_offsets(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    AUTO_FD struct host_fd file = {host, create(fixture, "file")};
    char text[16] = {0};
    size_t count = 0;
    assert_int_equal(host_file_write_at(host, file.fd, "world", 5, 6, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, file.fd, "hello ", 6, 0, NULL), KELPIE_OK);
    assert_int_equal(host_file_read_at(host, file.fd, text, 15, 0, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 11);
    assert_string_equal(text, "hello world");
    assert_int_equal(host_file_read_at(host, file.fd, text, 15, 11, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 0);
    struct kelpie_error err = {0};
    assert_int_equal(host_file_write_at(host, file.fd, "x", 1, UINT64_MAX, &err), KELPIE_NO_SPACE);
    assert_int_equal(host_file_read_at(host, file.fd, text, 1, UINT64_MAX, &count, &err),
                     KELPIE_IO_FAILED);
    assert_int_equal(host_file_truncate(host, file.fd, 5, NULL), KELPIE_OK);
    assert_int_equal(host_file_read_at(host, file.fd, text, 15, 0, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 5);
    assert_int_equal(host_file_truncate(host, file.fd, UINT64_MAX, &err), KELPIE_NO_SPACE);
    assert_int_equal(host_file_sync(host, file.fd, NULL), KELPIE_OK);
}

static void assert_next_data(struct host *host, int fd, uint64_t offset, uint64_t start,
                             uint64_t end) {
    uint64_t found_start = 0;
    uint64_t found_end = 0;
    assert_int_equal(host_file_next_data(host, fd, offset, &found_start, &found_end, NULL),
                     KELPIE_OK);
    assert_int_equal(found_start, start);
    assert_int_equal(found_end, end);
}

/* Data at 4 MiB and at 8 MiB, one page each, and a hole at the end. A memory file has holes on any
 * machine; a file of the folder may be on a file system that has none. */
static void next_data_skips_holes(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    char page[4096];
    memset(page, 'd', sizeof(page));
    assert_int_equal(host_memory_file(host, "sparse", 12 * MIB, &file.fd, NULL), KELPIE_OK);
    assert_next_data(host, file.fd, 0, 12 * MIB, 12 * MIB);
    assert_int_equal(host_file_write_at(host, file.fd, page, 4096, 4 * MIB, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, file.fd, page, 4096, 8 * MIB, NULL), KELPIE_OK);
    assert_next_data(host, file.fd, 0, 4 * MIB, 4 * MIB + 4096);
    assert_next_data(host, file.fd, 4 * MIB + 100, 4 * MIB + 100, 4 * MIB + 4096);
    assert_next_data(host, file.fd, 4 * MIB + 4096, 8 * MIB, 8 * MIB + 4096);
    assert_next_data(host, file.fd, 8 * MIB + 4096, 12 * MIB, 12 * MIB);
    assert_next_data(host, file.fd, 12 * MIB, 12 * MIB, 12 * MIB);
    assert_next_data(host, file.fd, UINT64_MAX, 12 * MIB, 12 * MIB);
    struct host_file_info info = {0};
    assert_int_equal(host_file_stat(host, file.fd, &info, NULL), KELPIE_OK);
    assert_true(info.allocated_size < MIB);
}

static void maps_share_or_keep_their_writes(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    AUTO_FD struct host_fd file = {host, create(fixture, "file")};
    AUTO_MAP struct host_map shared = {.host = host};
    AUTO_MAP struct host_map own = {.host = host};
    AUTO_MAP struct host_map reading = {.host = host};
    assert_int_equal(host_file_truncate(host, file.fd, 4096, NULL), KELPIE_OK);
    assert_int_equal(host_file_map(host, file.fd, 4096, HOST_MAP_SHARED_WRITE, &shared.map, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_map(host, file.fd, 4096, HOST_MAP_PRIVATE_WRITE, &own.map, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_map(host, file.fd, 4096, HOST_MAP_READ, &reading.map, NULL),
                     KELPIE_OK);
    memcpy(own.map.data, "own", 4);
    assert_string_equal(reading.map.data, "");
    memcpy((char *)shared.map.data + 100, "shared", 7);
    assert_string_equal((char *)reading.map.data + 100, "shared");
    char text[8] = {0};
    size_t count = 0;
    assert_int_equal(host_file_read_at(host, file.fd, text, 7, 100, &count, NULL), KELPIE_OK);
    assert_string_equal(text, "shared");
    host_file_unmap(host, &own.map);
    host_file_unmap(host, &own.map); /* a zero map is fine */
    assert_null(own.map.data);
}

/* ---- Locks ------------------------------------------------------------------------------------ */

static int open_again(const struct fixture *fixture, const char *name) {
    char path[PATH_SIZE];
    int fd = HOST_FD_NONE;
    assert_int_equal(host_file_open(fixture->host, in_folder(fixture, name, path),
                                    HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd, NULL),
                     KELPIE_OK);
    return fd;
}

static void hazard_E3_a_lock_has_one_holder(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    int first = create(fixture, "lock");
    int second = open_again(fixture, "lock");
    struct kelpie_error err = {0};
    assert_int_equal(host_file_lock(host, first, true, NULL), KELPIE_OK);
    assert_int_equal(host_file_lock(host, second, true, &err), KELPIE_BUSY);
    assert_int_equal(host_file_lock(host, second, false, &err), KELPIE_BUSY);
    assert_true(err.retriable);
    host_close(host, first);
    assert_int_equal(host_file_lock(host, second, false, NULL), KELPIE_OK);
    first = open_again(fixture, "lock");
    assert_int_equal(host_file_lock(host, first, false, NULL), KELPIE_OK);
    host_close(host, first);
    host_close(host, second);
}

/* Neither a program that was started meanwhile, nor a copy of this process that never calls exec,
 * keeps a lock that its owner let go. */
static void hazard_E3_a_lock_does_not_leak_into_children(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    int first = create(fixture, "lock");
    assert_int_equal(host_file_lock(host, first, true, NULL), KELPIE_OK);
    const char *argv[] = {"sleep", "1000", NULL};
    struct host_process *program = NULL;
    assert_int_equal(
        host_process_spawn(host, &(struct host_process_spec){.argv = argv}, &program, NULL),
        KELPIE_OK);
    pid_t copy = fork();
    if (copy == 0) {
        pause();
        _exit(0);
    }
    host_close(host, first);
    int second = open_again(fixture, "lock");
    assert_int_equal(host_file_lock(host, second, true, NULL), KELPIE_OK);
    host_close(host, second);
    kill(copy, SIGKILL);
    waitpid(copy, NULL, 0);
    host_process_destroy(program);
}

/* ---- Whole files ------------------------------------------------------------------------------ */

static void store_replaces_and_load_reads(void **state) {
    const struct fixture *fixture = *state;
    char path[PATH_SIZE];
    store(fixture, "file", "first");
    store(fixture, "file", "second, longer");
    assert_holds(fixture, "file", "second, longer");
    store(fixture, "file", "");
    assert_holds(fixture, "file", "");
    struct host_dir_entry entries[4];
    size_t count = 0;
    assert_int_equal(host_dir_list(fixture->host, fixture->folder, entries, 4, &count, NULL),
                     KELPIE_OK);
    assert_int_equal(count, 1); /* no temporary file is left */
    struct host_file_info info = {0};
    assert_int_equal(host_path_stat(fixture->host, in_folder(fixture, "file", path), &info, NULL),
                     KELPIE_OK);
    assert_int_equal(info.mode, 0600);
}

static void a_failed_store_leaves_what_was(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    in_folder(fixture, "folder", path);
    assert_int_equal(host_path_mkdir(host, path, 0700, NULL), KELPIE_OK);
    assert_int_equal(host_file_store(host, path, "x", 1, 0600, NULL), KELPIE_IO_FAILED);
    struct host_dir_entry entries[4];
    size_t count = 0;
    assert_int_equal(host_dir_list(host, fixture->folder, entries, 4, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 1);
    assert_int_equal(host_path_rmdir(host, path, NULL), KELPIE_OK);
}

/* A reader sees one whole version or another, never part of one. */
static void store_is_atomic(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    static char text[65536];
    in_folder(fixture, "file", path);
    store(fixture, "file", "");
    pid_t reader = fork();
    if (reader == 0) {
        for (int i = 0; i < 2000; i++) {
            FILE *file = fopen(path, "r");
            size_t count = file ? fread(text, 1, sizeof(text), file) : 1;
            bool whole = count == 0 || (count == sizeof(text) && text[0] == text[count - 1]);
            if (!file || !whole) {
                _exit(1);
            }
            fclose(file);
        }
        _exit(0);
    }
    int status = -1;
    for (int i = 0; waitpid(reader, &status, WNOHANG) == 0; i++) {
        memset(text, 'a' + i % 26, sizeof(text));
        assert_int_equal(host_file_store(host, path, text, sizeof(text), 0600, NULL), KELPIE_OK);
    }
    assert_int_equal(status, 0);
}

static void load_has_a_limit(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    char *data = NULL;
    size_t size = 0;
    in_folder(fixture, "file", path);
    store(fixture, "file", "12345");
    assert_int_equal(host_file_load(host, path, 4, &data, &size, NULL), KELPIE_NO_SPACE);
    assert_null(data);
    assert_int_equal(host_file_load(host, path, 5, &data, &size, NULL), KELPIE_OK);
    assert_int_equal(size, 5);
    assert_int_equal(data[5], '\0');
    free(data);

    /* Longer than the first buffer, and by its size nothing at all. */
    assert_int_equal(host_file_load(host, "/proc/kallsyms", 64 * MIB, &data, &size, NULL),
                     KELPIE_OK);
    assert_true(size > 10000);
    free(data);
    assert_int_equal(host_file_load(host, "/proc/kallsyms", 10000, &data, &size, NULL),
                     KELPIE_NO_SPACE);
}

/* ---- Names ------------------------------------------------------------------------------------ */

static void rename_replaces_only_when_asked(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char from[PATH_SIZE];
    char to[PATH_SIZE];
    struct kelpie_error err = {0};
    store(fixture, "from", "new");
    store(fixture, "to", "old");
    in_folder(fixture, "from", from);
    in_folder(fixture, "to", to);
    assert_int_equal(host_path_rename(host, from, to, false, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EEXIST);
    assert_holds(fixture, "from", "new");
    assert_holds(fixture, "to", "old");
    assert_int_equal(host_path_rename(host, from, to, true, &err), KELPIE_OK);
    assert_holds(fixture, "to", "new");
    assert_int_equal(host_path_rename(host, from, to, true, &err), KELPIE_NOT_FOUND);
}

struct racer {
    const struct fixture *fixture;
    char name[16];
    int won;
};

static void race(void *argument) {
    struct racer *racer = argument;
    char from[PATH_SIZE];
    char to[PATH_SIZE];
    char target[16];
    for (int i = 0; i < RENAME_COUNT; i++) {
        store(racer->fixture, racer->name, racer->name);
        snprintf(target, sizeof(target), "target-%d", i);
        in_folder(racer->fixture, racer->name, from);
        in_folder(racer->fixture, target, to);
        racer->won += host_path_rename(racer->fixture->host, from, to, false, NULL) == KELPIE_OK;
    }
}

static void rename_without_replace_has_one_winner(void **state) {
    const struct fixture *fixture = *state;
    struct racer racers[2] = {{.fixture = fixture, .name = "a"}, {.fixture = fixture, .name = "b"}};
    struct host_thread *threads[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            host_thread_start(fixture->host, "racer", race, &racers[i], &threads[i], NULL),
            KELPIE_OK);
    }
    host_thread_join(threads[0]);
    host_thread_join(threads[1]);
    assert_int_equal(racers[0].won + racers[1].won, RENAME_COUNT);
}

static void links_are_looked_at_not_followed(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    char text[16];
    struct host_file_info info = {0};
    in_folder(fixture, "link", path);
    assert_int_equal(host_path_symlink(host, "elsewhere", path, NULL), KELPIE_OK);
    assert_int_equal(host_path_stat(host, path, &info, NULL), KELPIE_OK);
    assert_int_equal(info.type, HOST_FILE_LINK);
    assert_int_equal(host_path_readlink(host, path, text, sizeof(text), NULL), KELPIE_OK);
    assert_string_equal(text, "elsewhere");
    assert_int_equal(host_path_readlink(host, path, text, 10, NULL), KELPIE_OK);
    assert_int_equal(host_path_readlink(host, path, text, 9, NULL), KELPIE_NO_SPACE);
    assert_int_equal(host_path_unlink(host, path, NULL), KELPIE_OK);
    assert_int_equal(host_path_unlink(host, path, NULL), KELPIE_NOT_FOUND);
}

static void folders_are_listed_in_order(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct host_dir_entry entries[3];
    size_t count = 99;
    assert_int_equal(host_dir_list(host, fixture->folder, entries, 3, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 0);
    store(fixture, "c", "");
    store(fixture, "a", "");
    store(fixture, ".b", "");
    assert_int_equal(host_dir_list(host, fixture->folder, entries, 3, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 3);
    assert_string_equal(entries[0].name, ".b");
    assert_string_equal(entries[1].name, "a");
    assert_string_equal(entries[2].name, "c");
    count = 99;
    assert_int_equal(host_dir_list(host, fixture->folder, entries, 2, &count, NULL),
                     KELPIE_NO_SPACE);
    assert_int_equal(count, 99);
    assert_int_equal(host_dir_list(host, "/nowhere", entries, 2, &count, NULL), KELPIE_NOT_FOUND);
}

static void mkdir_all_makes_what_is_missing(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    char link[PATH_SIZE];
    struct kelpie_error err = {0};
    in_folder(fixture, "a//b/c/", path);
    assert_int_equal(host_path_mkdir_all(host, path, 0700, &err), KELPIE_OK);
    assert_int_equal(host_path_mkdir_all(host, path, 0700, &err), KELPIE_OK);
    assert_int_equal(host_path_sync(host, path, NULL), KELPIE_OK);
    in_folder(fixture, "a/b", path);
    in_folder(fixture, "link", link);
    assert_int_equal(host_path_symlink(host, path, link, NULL), KELPIE_OK);
    assert_int_equal(host_path_mkdir_all(host, link, 0700, &err), KELPIE_OK);
    store(fixture, "file", "");
    in_folder(fixture, "file", path);
    assert_int_equal(host_path_mkdir_all(host, path, 0700, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    in_folder(fixture, "file/below", path);
    assert_int_equal(host_path_mkdir_all(host, path, 0700, &err), KELPIE_IO_FAILED);
    assert_int_equal(host_path_mkdir_all(host, "", 0700, &err), KELPIE_NOT_FOUND);

    const char *const folders[] = {"a/b/c", "a/b", "a"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        assert_int_equal(host_path_rmdir(host, in_folder(fixture, folders[i], path), NULL),
                         KELPIE_OK);
    }
}

static void remove_folder_removes_files_only(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    char path[PATH_SIZE];
    char inner[PATH_SIZE];
    char link[PATH_SIZE];
    struct host_file_info info = {0};
    in_folder(fixture, "folder", path);
    assert_int_equal(host_path_remove_folder(host, path, NULL), KELPIE_OK); /* it is gone already */
    in_folder(fixture, "folder/inner", inner);
    assert_int_equal(host_path_mkdir_all(host, inner, 0700, NULL), KELPIE_OK);
    assert_int_equal(host_path_remove_folder(host, path, NULL), KELPIE_IO_FAILED);
    assert_int_equal(host_path_rmdir(host, inner, NULL), KELPIE_OK);
    store(fixture, "folder/one", "1");
    store(fixture, "folder/two", "2");

    /* A link to a folder does not reach the files in it. */
    assert_int_equal(host_path_symlink(host, path, in_folder(fixture, "link", link), NULL),
                     KELPIE_OK);
    assert_int_equal(host_path_remove_folder(host, link, NULL), KELPIE_IO_FAILED);
    assert_holds(fixture, "folder/one", "1");
    assert_int_equal(host_path_remove_folder(host, path, NULL), KELPIE_OK);
    assert_int_equal(host_path_stat(host, path, &info, NULL), KELPIE_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(open_flags_mean_what_they_say, setup, teardown),
        cmocka_unit_test_setup_teardown(a_fifo_does_not_block, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_and_writes_at_offsets, setup, teardown),
        cmocka_unit_test_setup_teardown(next_data_skips_holes, setup, teardown),
        cmocka_unit_test_setup_teardown(maps_share_or_keep_their_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E3_a_lock_has_one_holder, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E3_a_lock_does_not_leak_into_children, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(store_replaces_and_load_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_store_leaves_what_was, setup, teardown),
        cmocka_unit_test_setup_teardown(store_is_atomic, setup, teardown),
        cmocka_unit_test_setup_teardown(load_has_a_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(rename_replaces_only_when_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(rename_without_replace_has_one_winner, setup, teardown),
        cmocka_unit_test_setup_teardown(links_are_looked_at_not_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_are_listed_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(mkdir_all_makes_what_is_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(remove_folder_removes_files_only, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_file", tests, NULL, NULL);
}
