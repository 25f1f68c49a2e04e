/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Names below a folder lead nowhere else. */
#include "host/host_below.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_SIZE 256

struct fixture {
    struct host *host;
    char folder[64];
    int root_fd; /* of folder/root */
};

static const char *at(const struct fixture *fixture, const char *name, char path[PATH_SIZE]) {
    snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    return path;
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    char path[PATH_SIZE];
    assert_non_null(fixture);
    strcpy(fixture->folder, "/tmp/kelpie-below-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    struct host *host = fixture->host;
    assert_int_equal(host_path_mkdir(host, at(fixture, "root", path), 0700, NULL), KELPIE_OK);
    assert_int_equal(host_path_mkdir(host, at(fixture, "other", path), 0700, NULL), KELPIE_OK);
    assert_int_equal(host_file_store(host, at(fixture, "other/secret", path), "s", 1, 0600, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_open(host, at(fixture, "root", path),
                                    HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fixture->root_fd,
                                    NULL),
                     KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    host_close(fixture->host, fixture->root_fd);
    assert_int_equal(host_path_remove_tree(fixture->host, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static void what_is_made_is_found(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct host_dir_entry entries[4];
    struct host_file_info info;
    char text[16];
    size_t count = 0;
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    assert_int_equal(host_below_mkdir(host, fixture->root_fd, "a", 0750, NULL), KELPIE_OK);
    assert_int_equal(host_below_open(host, fixture->root_fd, "a/file",
                                     HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE, 0640,
                                     &file.fd, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_write_at(host, file.fd, "hello", 5, 0, NULL), KELPIE_OK);
    assert_int_equal(host_below_symlink(host, fixture->root_fd, "file", "a/link", NULL), KELPIE_OK);
    assert_int_equal(host_below_stat(host, fixture->root_fd, "a/file", &info, NULL), KELPIE_OK);
    assert_int_equal(info.type, HOST_FILE_REGULAR);
    assert_int_equal(info.size, 5);
    assert_int_equal(host_below_stat(host, fixture->root_fd, "a/link", &info, NULL), KELPIE_OK);
    assert_int_equal(info.type, HOST_FILE_LINK);
    assert_int_equal(
        host_below_readlink(host, fixture->root_fd, "a/link", text, sizeof(text), NULL), KELPIE_OK);
    assert_string_equal(text, "file");
    assert_int_equal(host_below_readlink(host, fixture->root_fd, "a/link", text, 4, NULL),
                     KELPIE_NO_SPACE);
    assert_int_equal(host_below_list(host, fixture->root_fd, "a", entries, 4, &count, NULL),
                     KELPIE_OK);
    assert_int_equal(count, 2);
    assert_string_equal(entries[0].name, "file");
    assert_int_equal(host_below_list(host, fixture->root_fd, ".", entries, 4, &count, NULL),
                     KELPIE_OK);
    assert_int_equal(count, 1);
    assert_int_equal(host_below_list(host, fixture->root_fd, "a", entries, 1, &count, NULL),
                     KELPIE_NO_SPACE);
    assert_int_equal(host_below_stat(host, fixture->root_fd, "none", &info, NULL),
                     KELPIE_NOT_FOUND);
}

/* As the first part, in the middle, and as the last. */
static void hazard_D4_no_link_is_followed(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct host_dir_entry entries[4];
    struct host_file_info info;
    char other[PATH_SIZE];
    size_t count = 0;
    int fd = HOST_FD_NONE;
    int root_fd = fixture->root_fd;
    at(fixture, "other", other);
    assert_int_equal(host_below_mkdir(host, root_fd, "a", 0700, NULL), KELPIE_OK);
    assert_int_equal(host_below_symlink(host, root_fd, other, "out", NULL), KELPIE_OK);
    assert_int_equal(host_below_symlink(host, root_fd, "../other", "up", NULL), KELPIE_OK);
    assert_int_equal(host_below_symlink(host, root_fd, "../up", "a/twice", NULL), KELPIE_OK);
    assert_int_equal(host_below_symlink(host, root_fd, "a", "inside", NULL), KELPIE_OK);

    static const char *const folders[] = {"out", "up", "a/twice", "inside"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "%s/secret", folders[i]);
        struct kelpie_error err = {0};
        assert_int_equal(host_below_open(host, root_fd, name, HOST_OPEN_READ, 0, &fd, &err),
                         KELPIE_IO_FAILED);
        assert_int_equal(err.os_error, ELOOP);
        assert_int_equal(host_below_open(host, root_fd, name, HOST_OPEN_WRITE | HOST_OPEN_CREATE,
                                         0600, &fd, NULL),
                         KELPIE_IO_FAILED);
        assert_int_equal(host_below_open(host, root_fd, folders[i], HOST_OPEN_READ, 0, &fd, NULL),
                         KELPIE_IO_FAILED);
        assert_int_equal(host_below_list(host, root_fd, folders[i], entries, 4, &count, NULL),
                         KELPIE_IO_FAILED);
        assert_int_equal(host_below_stat(host, root_fd, name, &info, NULL), KELPIE_IO_FAILED);
        assert_int_equal(host_below_mkdir(host, root_fd, name, 0700, NULL), KELPIE_IO_FAILED);
        assert_int_equal(host_below_symlink(host, root_fd, "x", name, NULL), KELPIE_IO_FAILED);
        char text[16];
        assert_int_equal(host_below_readlink(host, root_fd, name, text, sizeof(text), NULL),
                         KELPIE_IO_FAILED);
    }
    char path[PATH_SIZE];
    assert_int_equal(host_dir_list(host, at(fixture, "other", path), entries, 4, &count, NULL),
                     KELPIE_OK);
    assert_int_equal(count, 1);
}

/* The folder is the one that was opened, wherever it is now. */
static void a_folder_that_was_moved_is_still_the_root(void **state) {
    const struct fixture *fixture = *state;
    struct host *host = fixture->host;
    struct host_file_info info;
    char path[PATH_SIZE];
    char moved[PATH_SIZE];
    char other[PATH_SIZE];
    at(fixture, "root", path);
    assert_int_equal(host_path_rename(host, path, at(fixture, "moved", moved), false, NULL),
                     KELPIE_OK);
    assert_int_equal(host_path_symlink(host, at(fixture, "other", other), path, NULL), KELPIE_OK);
    assert_int_equal(host_below_mkdir(host, fixture->root_fd, "made", 0700, NULL), KELPIE_OK);
    assert_int_equal(host_path_stat(host, at(fixture, "moved/made", path), &info, NULL), KELPIE_OK);
    assert_int_equal(host_path_stat(host, at(fixture, "other/made", path), &info, NULL),
                     KELPIE_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_made_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_D4_no_link_is_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_folder_that_was_moved_is_still_the_root, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_below", tests, NULL, NULL);
}
