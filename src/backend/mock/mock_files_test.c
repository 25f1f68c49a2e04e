/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <errno.h>
#include <stdio.h>

#include "backend/mock/mock_harness_test.h"

static void expect_path(const char *folder, const char *path, const char *expected) {
    char found[MOCK_PATH_SIZE_MAX + 1];
    assert_true(mock_path_resolve(folder, path, found));
    assert_string_equal(found, expected);
}

static void test_paths_are_normalised(void **state) {
    (void)state;
    expect_path("/a/b", "c", "/a/b/c");
    expect_path("/a/b", "/c", "/c");
    expect_path("/a/b", "../c", "/a/c");
    expect_path("/", "../../..", "/");
    expect_path("/a", "./b//c/.", "/a/b/c");
    expect_path("/", "", "/");
    expect_path("/a", "..b", "/a/..b");
    char longest[MOCK_PATH_SIZE_MAX + 2];
    char found[MOCK_PATH_SIZE_MAX + 1];
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[MOCK_PATH_SIZE_MAX] = '\0';
    assert_true(mock_path_resolve("/", longest, found));
    assert_string_equal(found, longest);
    longest[MOCK_PATH_SIZE_MAX] = 'x';
    longest[MOCK_PATH_SIZE_MAX + 1] = '\0';
    assert_false(mock_path_resolve("/", longest, found));
}

static void test_what_lies_in_a_folder(void **state) {
    (void)state;
    assert_true(mock_path_is_in("/a", "/"));
    assert_true(mock_path_is_in("/a/b", "/a"));
    assert_false(mock_path_is_in("/a/b", "/"));
    assert_false(mock_path_is_in("/ab", "/a"));
    assert_false(mock_path_is_in("/", "/"));
    assert_false(mock_path_is_in("/a", "/a"));
    assert_string_equal(mock_path_name("/bin/sh"), "sh");
    assert_string_equal(mock_path_name("sh"), "sh");
}

static void test_errors_are_those_of_linux(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    struct mock_file *file = NULL;
    assert_int_equal(mock_files_lookup(files, "/no", &file), ENOENT);
    assert_int_equal(mock_files_lookup(files, "/no/such", &file), ENOENT);
    assert_int_equal(mock_files_lookup(files, "/bin/sh/x", &file), ENOTDIR);
    assert_int_equal(mock_files_lookup(files, "/bin/sh/x/y", &file), ENOTDIR);
    assert_null(file);
    assert_int_equal(mock_files_add(files, "/tmp", MOCK_FILE_FOLDER, 0755, NULL), EEXIST);
    assert_int_equal(mock_files_add(files, "/no/x", MOCK_FILE_REGULAR, 0644, NULL), ENOENT);
    assert_int_equal(mock_files_open(files, "/tmp", false), EISDIR);
    assert_int_equal(mock_files_remove(files, "/etc/no"), ENOENT);
    assert_int_equal(mock_files_remove(files, "/bin"), ENOTEMPTY);
    char name[MOCK_NAME_SIZE_MAX + 3] = "/";
    memset(name + 1, 'n', MOCK_NAME_SIZE_MAX + 1);
    assert_int_equal(mock_files_add(files, name, MOCK_FILE_REGULAR, 0644, NULL), ENAMETOOLONG);
    harness_stop(&harness);
}

static void test_bytes_are_counted_and_bounded(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    static const uint8_t piece[1 << 20];
    uint64_t before = files->bytes;
    assert_int_equal(mock_files_open(files, "/tmp/f", false), 0);
    size_t count = 0;
    while (mock_files_append(files, mock_files_find(files, "/tmp/f"), piece, sizeof(piece)) == 0) {
        count++;
    }
    assert_int_equal(count, (MOCK_FILE_BYTES_MAX - before) / sizeof(piece));
    assert_int_equal(files->bytes, before + count * sizeof(piece));
    struct mock_bytes content = mock_bytes_init(harness.host);
    assert_true(mock_bytes_append(&content, "new", 3));
    assert_int_equal(mock_files_replace(files, "/tmp/f", 0600, &content), 0);
    assert_int_equal(content.size, 0); /* it was taken */
    assert_int_equal(files->bytes, before + 3);
    assert_int_equal(mock_files_remove(files, "/tmp/f"), 0);
    assert_int_equal(files->bytes, before);
    assert_null(mock_files_find(files, "/tmp/f"));
    harness_stop(&harness);
}

static void test_links_and_contents_take_the_place_of_files(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    static uint8_t piece[1 << 20];
    assert_int_equal(mock_files_open(files, "/tmp/f", false), 0);
    uint64_t before = files->bytes;
    assert_int_equal(mock_files_append(files, mock_files_find(files, "/tmp/f"), "1234567", 7), 0);
    assert_int_equal(mock_files_link(files, "/tmp/f", "to", 2), 0); /* in the file's place */
    assert_int_equal(mock_files_find(files, "/tmp/f")->type, MOCK_FILE_LINK);
    assert_int_equal(files->bytes, before + 2);
    assert_int_equal(mock_files_link(files, "/tmp", "to", 2), EEXIST);
    assert_int_equal(mock_files_link(files, "/no/link", "to", 2), ENOENT);
    struct mock_bytes content = mock_bytes_init(harness.host);
    assert_int_equal(mock_files_replace(files, "/tmp", 0600, &content), EISDIR);
    assert_int_equal(mock_files_replace(files, "/no/file", 0600, &content), ENOENT);
    while (mock_bytes_append(&content, piece, sizeof(piece)) &&
           content.size <= MOCK_FILE_BYTES_MAX) {
    }
    assert_int_equal(mock_files_replace(files, "/tmp/f", 0600, &content), ENOSPC);
    assert_int_equal(mock_files_find(files, "/tmp/f")->type, MOCK_FILE_LINK); /* it stays */
    mock_bytes_deinit(&content);
    harness_stop(&harness);
}

static void test_growing_bytes_are_bounded(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_bytes bytes = mock_bytes_init(harness.host);
    assert_true(mock_bytes_append(&bytes, "abc", 3));
    assert_false(mock_bytes_append(&bytes, "", MOCK_BYTES_SIZE_MAX)); /* nothing of it is read */
    assert_true(bytes.failed);
    assert_false(mock_bytes_append(&bytes, "d", 1)); /* it stays so */
    mock_bytes_deinit(&bytes);
    assert_true(mock_bytes_append(&bytes, "abc", 3));
    assert_false(mock_bytes_append(&bytes, "", SIZE_MAX));
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

static void test_files_are_bounded_in_number(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    char path[32];
    int failure = 0;
    for (int i = 0; failure == 0; i++) {
        snprintf(path, sizeof(path), "/tmp/%d", i);
        failure = mock_files_add(files, path, MOCK_FILE_REGULAR, 0644, NULL);
    }
    assert_int_equal(failure, ENOSPC);
    assert_int_equal(files->count, MOCK_FILE_COUNT_MAX);
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths_are_normalised),
        cmocka_unit_test(test_what_lies_in_a_folder),
        cmocka_unit_test(test_errors_are_those_of_linux),
        cmocka_unit_test(test_bytes_are_counted_and_bounded),
        cmocka_unit_test(test_links_and_contents_take_the_place_of_files),
        cmocka_unit_test(test_growing_bytes_are_bounded),
        cmocka_unit_test(test_files_are_bounded_in_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
