/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host removes whole folders, and nothing that is outside of them. */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_SIZE 256
#define MANY_COUNT 3000

struct fixture {
    struct host *host;
    char folder[64];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    strcpy(fixture->folder, "/tmp/kelpie-tree-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(host_path_remove_tree(fixture->host, fixture->folder, NULL), KELPIE_OK);
    assert_int_not_equal(access(fixture->folder, F_OK), 0);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static const char *at(const struct fixture *fixture, const char *name, char path[PATH_SIZE]) {
    snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    return path;
}

static void make_folder(const struct fixture *fixture, const char *name) {
    char path[PATH_SIZE];
    assert_int_equal(host_path_mkdir_all(fixture->host, at(fixture, name, path), 0700, NULL),
                     KELPIE_OK);
}

static void make_file(const struct fixture *fixture, const char *name) {
    char path[PATH_SIZE];
    int fd = open(at(fixture, name, path), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool there_is(const struct fixture *fixture, const char *name) {
    char path[PATH_SIZE];
    struct stat stat;
    return lstat(at(fixture, name, path), &stat) == 0;
}

static enum kelpie_status remove_tree(const struct fixture *fixture, const char *name,
                                      struct kelpie_error *err) {
    char path[PATH_SIZE];
    return host_path_remove_tree(fixture->host, at(fixture, name, path), err);
}

/* ---- What goes -------------------------------------------------------------------------------- */

static void all_of_it_goes(void **state) {
    const struct fixture *fixture = *state;
    char path[PATH_SIZE];
    make_folder(fixture, "tree/a/b/c");
    make_folder(fixture, "tree/empty");
    make_file(fixture, "tree/a/b/c/file");
    assert_int_equal(mkfifo(at(fixture, "tree/a/fifo", path), 0600), 0);
    for (int i = 0; i < MANY_COUNT; i++) {
        char name[32];
        snprintf(name, sizeof(name), "tree/a/%d", i);
        make_file(fixture, name);
    }
    assert_int_equal(remove_tree(fixture, "tree", NULL), KELPIE_OK);
    assert_false(there_is(fixture, "tree"));
    assert_int_equal(remove_tree(fixture, "tree", NULL), KELPIE_OK); /* it is gone already */
}

/* Not root, who may write anywhere. */
static void folders_that_deny_their_owner_go_too(void **state) {
    const struct fixture *fixture = *state;
    char path[PATH_SIZE];
    int status = 0;
    make_folder(fixture, "tree/denies");
    make_file(fixture, "tree/denies/file");
    assert_int_equal(chmod(at(fixture, "tree/denies", path), 0500), 0);
    assert_int_equal(chmod(fixture->folder, 0777), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool ready = geteuid() != 0 ||
                     (chown(at(fixture, "tree", path), 65534, 65534) == 0 &&
                      chown(at(fixture, "tree/denies", path), 65534, 65534) == 0 &&
                      setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
        _exit(ready && remove_tree(fixture, "tree", NULL) == KELPIE_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(there_is(fixture, "tree/denies"));
}

/* ---- What stays ------------------------------------------------------------------------------- */

static void hazard_E5_links_are_not_followed(void **state) {
    const struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    char target[PATH_SIZE];
    char path[PATH_SIZE];
    make_folder(fixture, "kept");
    make_file(fixture, "kept/file");
    make_folder(fixture, "tree");
    assert_int_equal(symlink(at(fixture, "kept", target), at(fixture, "tree/link", path)), 0);
    assert_int_equal(symlink("..", at(fixture, "tree/up", path)), 0);
    assert_int_equal(symlink("tree", at(fixture, "link", path)), 0);
    assert_int_equal(link(at(fixture, "kept/file", target), at(fixture, "tree/hard", path)), 0);

    assert_int_equal(remove_tree(fixture, "link", &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    assert_int_equal(remove_tree(fixture, "kept/file", &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    assert_true(there_is(fixture, "tree/link"));
    assert_int_equal(remove_tree(fixture, "tree", NULL), KELPIE_OK);
    assert_true(there_is(fixture, "kept/file"));
}

/* Between the look at an entry and its opening, somebody exchanges it for something else: the system call that looks is ours. */
static char swap_folder[PATH_SIZE];
static char swap_link[PATH_SIZE];
static int swap_count;

int unlinkat(int fd, const char *name, int flags) {
    int result = (int)syscall(SYS_unlinkat, fd, name, flags);
    if (result < 0 && errno == EISDIR && strcmp(name, "swapped") == 0) {
        swap_count++;
        (void)renameat2(AT_FDCWD, swap_folder, AT_FDCWD, swap_link, RENAME_EXCHANGE);
        errno = EISDIR;
    }
    return result;
}

static void hazard_E5_a_link_swapped_in_is_not_followed(void **state) {
    const struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    char target[PATH_SIZE];
    make_folder(fixture, "kept");
    make_file(fixture, "kept/file");
    make_folder(fixture, "tree/a/swapped/inner");
    at(fixture, "tree/a/swapped", swap_folder);
    at(fixture, "link", swap_link);
    assert_int_equal(symlink(at(fixture, "kept", target), swap_link), 0);
    swap_count = 0;
    assert_int_equal(remove_tree(fixture, "tree", &err), KELPIE_IO_FAILED);
    assert_int_equal(swap_count, 1);
    assert_true(there_is(fixture, "kept/file"));
    assert_int_equal(remove_tree(fixture, "tree", NULL),
                     KELPIE_OK); /* of the link, and what was there */
    assert_true(there_is(fixture, "kept/file"));
    assert_true(there_is(fixture, "link/inner")); /* moved away, it is not ours any more */
}

static void another_file_system_is_not_entered(void **state) {
    const struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    char path[PATH_SIZE];
    int status = 0;
    make_folder(fixture, "kept");
    make_file(fixture, "kept/file");
    make_folder(fixture, "tree/mount");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char source[PATH_SIZE];
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount(at(fixture, "kept", source), at(fixture, "tree/mount", path), NULL, MS_BIND,
                  NULL) < 0) {
            _exit(77); /* not root: no mounts */
        }
        enum kelpie_status result = remove_tree(fixture, "tree", &err);
        _exit(result == KELPIE_IO_FAILED && there_is(fixture, "kept/file") ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void depth_has_a_limit(void **state) {
    const struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    char name[PATH_SIZE] = "deep";
    char path[PATH_SIZE];
    for (int i = 1; i < HOST_TREE_DEPTH_MAX; i++) {
        strcat(name, "/d");
    }
    make_folder(fixture, name);
    assert_int_equal(remove_tree(fixture, "deep", NULL), KELPIE_OK);
    make_folder(fixture, strcat(name, "/d"));
    assert_int_equal(remove_tree(fixture, "deep", &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ELOOP);
    assert_non_null(strstr(err.message, "more than 64 folders"));
    assert_int_equal(rmdir(at(fixture, name, path)), 0);
    assert_int_equal(remove_tree(fixture, "deep", NULL), KELPIE_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_of_it_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_that_deny_their_owner_go_too, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E5_links_are_not_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E5_a_link_swapped_in_is_not_followed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(another_file_system_is_not_entered, setup, teardown),
        cmocka_unit_test_setup_teardown(depth_has_a_limit, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_tree", tests, NULL, NULL);
}
