/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void every_status_has_its_own_name(void **state) {
    (void)state;
    for (int i = 0; i < KELPIE_STATUS_COUNT; i++) {
        const char *name = kelpie_status_name((enum kelpie_status)i);
        assert_non_null(name);
        assert_true(strlen(name) > 0);
        assert_string_not_equal(name, "unknown");
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(name, kelpie_status_name((enum kelpie_status)j));
        }
    }
    assert_string_equal(kelpie_status_name(KELPIE_WRONG_STATE), "wrong-state");
    assert_string_equal(kelpie_status_name(KELPIE_STATUS_COUNT), "unknown");
    assert_string_equal(kelpie_status_name((enum kelpie_status) - 1), "unknown");
}

static void set_fills_everything(void **state) {
    (void)state;
    struct kelpie_error err;
    memset(&err, 0xff, sizeof(err));
    assert_int_equal(error_set(&err, KELPIE_NOT_FOUND, "no session %d", 7), KELPIE_NOT_FOUND);
    assert_int_equal(err.status, KELPIE_NOT_FOUND);
    assert_int_equal(err.os_error, 0);
    assert_false(err.retriable);
    assert_false(err.requires_recreate);
    assert_string_equal(err.field, "");
    assert_string_equal(err.message, "no session 7");
}

static void no_error_is_wanted(void **state) {
    (void)state;
    assert_int_equal(error_set(NULL, KELPIE_BUSY, "x"), KELPIE_BUSY);
    assert_int_equal(error_set_field(NULL, KELPIE_BAD_CONFIG, "f", "x"), KELPIE_BAD_CONFIG);
    assert_int_equal(error_set_os(NULL, ENOENT, "x"), KELPIE_NOT_FOUND);
    assert_int_equal(error_wrap(NULL, KELPIE_CRASHED, "x"), KELPIE_CRASHED);
    error_clear(NULL);
}

static void kinds_that_may_be_tried_again(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const enum kelpie_status retriable[] = {KELPIE_BUSY,      KELPIE_TIMED_OUT,
                                            KELPIE_NO_SPACE,  KELPIE_NO_MEMORY,
                                            KELPIE_CANCELLED, KELPIE_BOOT_TIMED_OUT};
    for (size_t i = 0; i < ARRAY_SIZE(retriable); i++) {
        error_set(&err, retriable[i], "x");
        assert_true(err.retriable);
    }
    const enum kelpie_status final[] = {KELPIE_BAD_CONFIG, KELPIE_UNSUPPORTED, KELPIE_CRASHED,
                                        KELPIE_WRONG_STATE, KELPIE_SNAPSHOT_CORRUPT};
    for (size_t i = 0; i < ARRAY_SIZE(final); i++) {
        error_set(&err, final[i], "x");
        assert_false(err.retriable);
        assert_int_equal(err.requires_recreate, final[i] == KELPIE_CRASHED);
    }
}

static void a_field_is_named(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    assert_int_equal(error_set_field(&err, KELPIE_BAD_CONFIG, "vcpus", "too many: %u", 99u),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "vcpus");
    assert_string_equal(err.message, "too many: 99");

    char longer[2 * sizeof(err.field)];
    memset(longer, 'f', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    error_set_field(&err, KELPIE_BAD_CONFIG, longer, "x");
    assert_int_equal(strlen(err.field), sizeof(err.field) - 1);
}

static void an_errno_decides_the_status(void **state) {
    (void)state;
    static const struct {
        int os_error;
        enum kelpie_status status;
    } table[] = {
        {ENOENT, KELPIE_NOT_FOUND}, {ENOSPC, KELPIE_NO_SPACE},     {EDQUOT, KELPIE_NO_SPACE},
        {EFBIG, KELPIE_NO_SPACE},   {ENOMEM, KELPIE_NO_MEMORY},    {ETIMEDOUT, KELPIE_TIMED_OUT},
        {EIO, KELPIE_IO_FAILED},    {ECANCELED, KELPIE_CANCELLED}, {EACCES, KELPIE_IO_FAILED},
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct kelpie_error err = {0};
        assert_int_equal(error_set_os(&err, table[i].os_error, "cannot open '%s'", "f"),
                         table[i].status);
        assert_int_equal(err.os_error, table[i].os_error);
        assert_int_equal(strncmp(err.message, "cannot open 'f': ", 17), 0);
        assert_string_equal(err.message + 17, strerror(table[i].os_error));
    }
}

static void wrap_keeps_the_cause(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    error_set_field(&err, KELPIE_IO_FAILED, "memory", "cannot read");
    err.os_error = EIO;
    assert_int_equal(error_wrap(&err, KELPIE_SNAPSHOT_CORRUPT, "bundle '%s'", "b"),
                     KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(err.status, KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(err.os_error, EIO);
    assert_string_equal(err.field, "memory");
    assert_string_equal(err.message, "bundle 'b': cannot read");
    error_clear(&err);
    assert_int_equal(err.status, KELPIE_OK);
    assert_string_equal(err.message, "");
}

/* Messages that are too long are cut, at every place that adds to one. */
static void long_messages_are_cut(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    char longer[2 * sizeof(err.message)];
    memset(longer, 'm', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    error_set(&err, KELPIE_INTERNAL, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    error_set_os(&err, EIO, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    error_wrap(&err, KELPIE_INTERNAL, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    error_set(&err, KELPIE_INTERNAL, "%s", longer);
    error_wrap(&err, KELPIE_INTERNAL, "short");
    assert_int_equal(strncmp(err.message, "short: mmm", 10), 0);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
}

static enum kelpie_status fails(int *calls) {
    (*calls)++;
    return KELPIE_BUSY;
}

static enum kelpie_status tries(enum kelpie_status first, int *calls) {
    TRY(first);
    TRY(fails(calls));
    (*calls) += 100;
    return KELPIE_OK;
}

static void try_returns_the_first_failure(void **state) {
    (void)state;
    int calls = 0;
    assert_int_equal(tries(KELPIE_NOT_FOUND, &calls), KELPIE_NOT_FOUND);
    assert_int_equal(calls, 0);
    assert_int_equal(tries(KELPIE_OK, &calls), KELPIE_BUSY);
    assert_int_equal(calls, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_own_name),
        cmocka_unit_test(set_fills_everything),
        cmocka_unit_test(no_error_is_wanted),
        cmocka_unit_test(kinds_that_may_be_tried_again),
        cmocka_unit_test(a_field_is_named),
        cmocka_unit_test(an_errno_decides_the_status),
        cmocka_unit_test(wrap_keeps_the_cause),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(try_returns_the_first_failure),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
