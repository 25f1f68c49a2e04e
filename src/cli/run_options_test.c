/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/run_options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

/* What each way to write a disk means; a NULL path: refused. */
static void test_disks(void **state) {
    (void)state;
    static const struct {
        const char *value;
        const char *path;
        bool read_only;
        const char *mount;
    } rows[] = {
        {"a.img", "a.img", false, NULL},  {"/d/a.img:ro", "/d/a.img", true, NULL},
        {"a:rw", "a", false, NULL},       {"a:/mnt", "a", false, "/mnt"},
        {"a:ro:/mnt", "a", true, "/mnt"}, {"a:/mnt:ro", "a", true, "/mnt"},
        {"a:/", "a", false, "/"},         {"a:b", "a:b", false, NULL},
        {"a:b:ro", "a:b", true, NULL},    {"a:", "a:", false, NULL},
        {"a::ro", "a:", true, NULL},      {"a:ro:", "a:ro:", false, NULL},
        {"", NULL, false, NULL},          {":ro", NULL, false, NULL},
        {":/mnt", NULL, false, NULL},     {"a:ro:ro", NULL, false, NULL},
        {"a:/x:/y", NULL, false, NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct run_options *options = calloc(1, sizeof(*options));
        assert_non_null(options);
        struct kelpie_error err;
        enum kelpie_status status = machine_add_disk(&options->machine.disks, rows[i].value, &err);
        assert_int_equal(status, rows[i].path ? KELPIE_OK : KELPIE_BAD_CONFIG);
        assert_int_equal(options->machine.disks.count, rows[i].path ? 1 : 0);
        if (rows[i].path) {
            const struct kelpie_disk *disk = &options->machine.disks.disks[0];
            assert_string_equal(disk->path, rows[i].path);
            assert_int_equal(disk->read_only, rows[i].read_only);
            assert_string_equal(disk->mount ? disk->mount : "none",
                                rows[i].mount ? rows[i].mount : "none");
        }
        run_options_deinit(options);
        free(options);
    }
}

static void test_users(void **state) {
    (void)state;
    struct run_user user = {0};
    struct kelpie_error err;
    assert_int_equal(run_set_user(&user, "1000", &err), KELPIE_OK);
    assert_int_equal(user.uid, 1000);
    assert_int_equal(user.gid, 1000);
    assert_int_equal(run_set_user(&user, "0:4294967294", &err), KELPIE_OK);
    assert_int_equal(user.uid, 0);
    assert_int_equal(user.gid, 4294967294);
    static const char *const bad[] = {"", ":", "1:", ":1", "a", "1:a", "1:2:3", "-1", "4294967295"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(run_set_user(&user, bad[i], &err), KELPIE_BAD_CONFIG);
    }
    assert_int_equal(user.gid, 4294967294); /* untouched */
}

/* The whole way from words to options. */
static enum kelpie_status complete(struct run_options *options, const char *const *argv,
                                   struct kelpie_error *err) {
    struct option_words words = {.words = argv};
    while (argv[words.count]) {
        words.count++;
    }
    TRY(options_parse(&run_option_table, &words, options, err));
    return run_options_complete(options, &words, err);
}

static void test_the_command_is_what_follows(void **state) {
    (void)state;
    struct run_options *options = calloc(1, sizeof(*options));
    assert_non_null(options);
    struct kelpie_error err;
    const char *const argv[] = {"-it", "-eA=1", "--timeout=2m", "--", "ls", "-l", NULL};
    assert_int_equal(complete(options, argv, &err), KELPIE_OK);
    assert_true(options->interactive);
    assert_true(options->tty);
    assert_int_equal(options->timeout_ms, 120000);
    assert_string_equal(options->machine.env.values[0], "A=1");
    assert_string_equal(options->command[0], "ls");
    assert_string_equal(options->command[1], "-l");
    assert_null(options->command[2]);
    run_options_deinit(options);
    free(options);
}

static void test_from_needs_no_command(void **state) {
    (void)state;
    struct run_options *options = calloc(1, sizeof(*options));
    assert_non_null(options);
    struct kelpie_error err;
    const char *const argv[] = {"--from",           "b",  "-i", "--snapshot", "c",
                                "--snapshot-after", "1s", NULL};
    assert_int_equal(complete(options, argv, &err), KELPIE_OK);
    assert_null(options->command);
    assert_int_equal(options->snapshot_after_ms, 1000);
    run_options_deinit(options);
    free(options);
}

/* Every option of the table that fills a field of kelpie.h is found by that field. */
static void test_the_librarys_fields_are_named(void **state) {
    (void)state;
    static const char *const fields[] = {"backend", "vcpu_count", "memory_mib",  "disks[0].path",
                                         "kernel",  "env[3]",     "working_dir", "timeout_ms",
                                         "name",    "hostname",   "console_log"};
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        assert_non_null(options_by_field(&run_option_table, fields[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disks),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_the_command_is_what_follows),
        cmocka_unit_test(test_from_needs_no_command),
        cmocka_unit_test(test_the_librarys_fields_are_named),
    };
    return cmocka_run_group_tests_name("cli/run_options", tests, NULL, NULL);
}
