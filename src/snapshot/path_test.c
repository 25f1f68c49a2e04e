/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The names of bundles: what a writer and a reader make of each, and what they say to one that is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "snapshot/snapshot_internal.h"

static struct host *host;
static char folder[64];
static char start[1024]; /* the working folder before */

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-path-XXXXXX");
    return host_linux_create(&host, NULL) == KELPIE_OK && mkdtemp(folder) &&
                   getcwd(start, sizeof(start)) && chdir(folder) == 0
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    int result = chdir(start) == 0 ? rmdir(folder) : -1; /* fails when a test leaves something */
    host_destroy(host);
    return result;
}

/* Opens a writer and gives it up again. */
static enum kelpie_status try_writer(const char *directory, struct kelpie_error *err) {
    struct snapshot_writer *writer = NULL;
    enum kelpie_status status = snapshot_writer_create(host, directory, 0, &writer, err);
    if (status == KELPIE_OK) {
        snapshot_writer_destroy(writer);
    }
    return status;
}

static enum kelpie_status try_reader(const char *directory, struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(host, directory, &reader, err);
    snapshot_reader_close(reader);
    return status;
}

/* A path of that many bytes, in names that are short enough. */
static const char *path_of(size_t size) {
    static char path[2 * HOST_PATH_SIZE_MAX];
    assert_true(size < sizeof(path));
    for (size_t i = 0; i < size; i++) {
        path[i] = i % 100 == 0 && i + 1 < size ? '/' : 'a';
    }
    path[size] = 0;
    return path;
}

static void test_where_a_bundle_may_be_written(void **state) {
    (void)state;
    static const struct {
        const char *directory;
        enum kelpie_status status;
    } cases[] = {
        {"new", KELPIE_OK},
        {"new//", KELPIE_OK},
        {"./new", KELPIE_OK},
        {"", KELPIE_BAD_CONFIG},
        {"/", KELPIE_BAD_CONFIG},
        {"///", KELPIE_BAD_CONFIG},
        {".", KELPIE_BAD_CONFIG},
        {"there", KELPIE_BAD_CONFIG},
        {"there/", KELPIE_BAD_CONFIG},
        {"there/below", KELPIE_BAD_CONFIG}, /* a file */
        {"nope/new", KELPIE_BAD_CONFIG},
        {"/kelpie-nope/new", KELPIE_BAD_CONFIG},
    };
    struct kelpie_error err = {0};
    assert_int_equal(host_file_store(host, "there", "x", 1, 0600, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        enum kelpie_status status = try_writer(cases[i].directory, &err);
        if (status != cases[i].status ||
            (status != KELPIE_OK && strcmp(err.field, "directory") != 0)) {
            fail_msg("\"%s\": %s: %s", cases[i].directory, kelpie_status_name(status), err.message);
        }
        assert_int_equal(try_writer(cases[i].directory, NULL), cases[i].status);
    }
    assert_int_equal(unlink("there"), 0);
}

/* At the limit of a path: the bundle's own, and those of what lies in it and beside it. */
static void test_paths_that_are_too_long(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct snapshot_path path;
    for (size_t size = HOST_PATH_SIZE_MAX - 60; size < HOST_PATH_SIZE_MAX + 20; size++) {
        assert_int_equal(try_writer(path_of(size), &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "directory");
        enum kelpie_status expected =
            size > HOST_PATH_SIZE_MAX ? KELPIE_BAD_CONFIG : KELPIE_NOT_FOUND;
        assert_int_equal(try_reader(path_of(size), &err), expected);
        assert_int_equal(snapshot_path_format(&path, &err, "%s", path_of(size)),
                         size > HOST_PATH_SIZE_MAX ? KELPIE_BAD_CONFIG : KELPIE_OK);
    }
}

/* A manifest that is something else than a file. */
static void test_what_is_no_manifest(void **state) {
    (void)state;
    static const char *const names[] = {"folder", "link", "pipe"};
    struct kelpie_error err = {0};
    assert_int_equal(mkdir("bundle", 0700), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *path = "bundle/" SNAPSHOT_MANIFEST_NAME;
        int made = i == 0   ? mkdir(path, 0700)
                   : i == 1 ? symlink("/etc/hostname", path)
                            : mkfifo(path, 0600);
        assert_int_equal(made, 0);
        enum kelpie_status status = try_reader("bundle", &err);
        if (status != KELPIE_SNAPSHOT_CORRUPT || strcmp(err.field, "manifest") != 0) {
            fail_msg("%s: %s: %s", names[i], kelpie_status_name(status), err.message);
        }
        assert_int_equal(try_reader("bundle", NULL), KELPIE_SNAPSHOT_CORRUPT);
        assert_int_equal(i == 0 ? rmdir(path) : unlink(path), 0);
    }
    assert_int_equal(rmdir("bundle"), 0);
}

/* Names that only look like those of a writer that died. */
static void test_what_a_sweep_leaves(void **state) {
    (void)state;
    static const char *const names[] = {
        "a" SNAPSHOT_PARTIAL_MARK "0123456789abcdef0123456789abcdeg",
        "a" SNAPSHOT_PARTIAL_MARK "0123456789ABCDEF0123456789ABCDEF",
        "a-partially-0123456789abcdef0123456789abcdef",
        SNAPSHOT_PARTIAL_MARK "0123456789abcdef0123456789abcdef",
        "a" SNAPSHOT_PARTIAL_MARK "0123456789abcdef0123456789abcde",
    };
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(mkdir(names[i], 0700), 0);
    }
    assert_int_equal(mkdir("a" SNAPSHOT_PARTIAL_MARK "0123456789abcdef0123456789abcdef", 0700), 0);
    snapshot_partial_sweep(host, ".");
    assert_int_equal(rmdir("a" SNAPSHOT_PARTIAL_MARK "0123456789abcdef0123456789abcdef"), -1);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(rmdir(names[i]), 0);
    }
    snapshot_partial_sweep(host, "/kelpie-nope"); /* nothing to sweep is fine */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_where_a_bundle_may_be_written),
        cmocka_unit_test(test_paths_that_are_too_long),
        cmocka_unit_test(test_what_is_no_manifest),
        cmocka_unit_test(test_what_a_sweep_leaves),
    };
    return cmocka_run_group_tests_name("path", tests, set_up, tear_down);
}
