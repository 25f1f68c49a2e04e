/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/given_options.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

/* What each way to write a share means; a NULL path: refused. */
static void test_shares(void **state) {
    (void)state;
    static const struct {
        const char *value;
        const char *path;
        const char *mount;
        bool read_only;
        bool copy;
        bool live;
    } rows[] = {
        {".:/work", ".", "/work", false, false, false},
        {"/a b:/c d:ro", "/a b", "/c d", true, false, false},
        {"a:/b:rw", "a", "/b", false, false, false},
        {"a:/b:copy", "a", "/b", false, true, false},
        {"a:/b:live", "a", "/b", false, false, true},
        {"a:/b:ro:copy", "a", "/b", true, true, false},
        {"a:/b:copy:ro", "a", "/b", true, true, false},
        {"a:/b:live:ro", "a", "/b", true, false, true},
        {"a:b:/c", "a:b", "/c", false, false, false},
        {"ro:/c", "ro", "/c", false, false, false},
        {.value = "a"},
        {.value = "a:b"},
        {.value = "a:ro"},
        {.value = ":/b"},
        {.value = ""},
        {.value = "a:/b:ro:ro"},
        {.value = "a:/b:ro:rw"},
        {.value = "a:/b:copy:copy"},
        {.value = "a:/b:live:live"},
        {.value = "a:/b:live:ro:copy"},
        {.value = "a:/b:"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct given_options options = {0};
        struct kelpie_config config = {0};
        struct kelpie_error err = {0};
        enum kelpie_status status = given_add_share(&options, rows[i].value, &err);
        assert_int_equal(status, rows[i].path ? KELPIE_OK : KELPIE_BAD_CONFIG);
        given_options_fill(&options, &config);
        assert_int_equal(config.share_count, rows[i].path ? 1 : 0);
        if (rows[i].path) {
            assert_string_equal(config.shares[0].path, rows[i].path);
            assert_string_equal(config.shares[0].mount, rows[i].mount);
            assert_int_equal(config.shares[0].read_only, rows[i].read_only);
            assert_int_equal(config.shares[0].copy, rows[i].copy);
            assert_int_equal(config.shares[0].live, rows[i].live);
        }
        given_options_deinit(&options);
    }
}

static void test_shares_have_a_limit(void **state) {
    (void)state;
    struct given_options options = {0};
    struct kelpie_error err = {0};
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        assert_int_equal(given_add_share(&options, "a:/b", &err), KELPIE_OK);
    }
    assert_int_equal(given_add_share(&options, "a:/b", &err), KELPIE_BAD_CONFIG);
    given_options_deinit(&options);
}

static int fd_with(const void *data, size_t size) {
    char path[] = "/tmp/kelpie-given-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, data, size), size);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void test_a_secret_comes_from_a_descriptor(void **state) {
    (void)state;
    struct given_options options = {0};
    struct kelpie_config config = {0};
    struct kelpie_error err = {0};
    char value[64];
    int fd = fd_with("a\0secret\n", 9);
    snprintf(value, sizeof(value), "token=fd:%d", fd);
    assert_int_equal(given_add_secret(&options, value, &err), KELPIE_OK);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* nobody inherits it */
    given_options_fill(&options, &config);
    assert_int_equal(config.secret_count, 1);
    assert_string_equal(config.secrets[0].name, "token");
    assert_int_equal(config.secrets[0].size, 9);
    assert_memory_equal(config.secrets[0].data, "a\0secret\n", 9);
    given_options_deinit(&options);
    assert_null(options.secret_data[0]);
}

static void test_a_secret_comes_from_a_file(void **state) {
    (void)state;
    struct given_options options = {0};
    struct kelpie_error err = {0};
    char path[] = "/tmp/kelpie-given-XXXXXX";
    char value[64];
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "x=y", 3), 3);
    close(fd);
    snprintf(value, sizeof(value), "name=%s", path);
    assert_int_equal(given_add_secret(&options, value, &err), KELPIE_OK);
    assert_int_equal(options.secrets[0].size, 3);
    unlink(path);
    assert_int_equal(given_add_secret(&options, value, &err), KELPIE_NOT_FOUND);
    assert_int_equal(options.secret_count, 1);
    given_options_deinit(&options);
}

static void test_what_is_no_secret(void **state) {
    (void)state;
    static const char *const values[] = {"", "hunter2", "=/x", "a="};
    struct given_options options = {0};
    struct kelpie_error err = {0};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        assert_int_equal(given_add_secret(&options, values[i], &err), KELPIE_BAD_CONFIG);
        assert_null(strstr(err.message, "hunter2")); /* it may be the secret */
    }
    static const char *const descriptors[] = {"a=fd:",     "a=fd:x",  "a=fd:-1",
                                              "a=fd:1024", "a=fd:3x", "a=fd:999"};
    for (size_t i = 0; i < ARRAY_SIZE(descriptors); i++) {
        assert_int_not_equal(given_add_secret(&options, descriptors[i], &err), KELPIE_OK);
        assert_int_equal(err.os_error, EBADF);
    }
    char value[64];
    uint8_t *large = calloc(1, KELPIE_SECRET_BYTES_MAX + 1);
    assert_non_null(large);
    snprintf(value, sizeof(value), "a=fd:%d", fd_with(large, KELPIE_SECRET_BYTES_MAX + 1));
    assert_int_equal(given_add_secret(&options, value, &err), KELPIE_BAD_CONFIG);
    snprintf(value, sizeof(value), "a=fd:%d", fd_with(large, KELPIE_SECRET_BYTES_MAX));
    assert_int_equal(given_add_secret(&options, value, &err), KELPIE_OK);
    assert_int_equal(options.secret_count, 1);
    given_options_deinit(&options);
    free(large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_shares_have_a_limit),
        cmocka_unit_test(test_a_secret_comes_from_a_descriptor),
        cmocka_unit_test(test_a_secret_comes_from_a_file),
        cmocka_unit_test(test_what_is_no_secret),
    };
    return cmocka_run_group_tests_name("given_options", tests, NULL, NULL);
}
