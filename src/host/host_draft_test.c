/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "host/host.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

struct fixture {
    struct host *inner;
    struct host *host;
    char folder[64];
    char path[80];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-draft-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->path, sizeof(fixture->path), "%s/file", fixture->folder);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(host_path_remove_folder(fixture->inner, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

/* As on a file system without files that have no name. */
static void without_unnamed_files(struct fixture *fixture) {
    static const struct fault_plan plan = {.nth = 1, .only = "file_open", .os_error = EOPNOTSUPP};
    fault_host_arm(fixture->host, &plan);
}

static size_t entry_count(struct fixture *fixture) {
    struct host_dir_entry entries[4];
    size_t count = 0;
    assert_int_equal(
        host_dir_list(fixture->inner, fixture->folder, entries, ARRAY_SIZE(entries), &count, NULL),
        KELPIE_OK);
    return count;
}

static void expect_content(struct fixture *fixture, const char *text) {
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(host_file_load(fixture->inner, fixture->path, 100, &data, &size, NULL),
                     KELPIE_OK);
    assert_string_equal(data, text);
    free(data);
}

static void write_draft(struct fixture *fixture, const char *text, size_t entries_meanwhile,
                        bool publishes) {
    size_t before = entry_count(fixture);
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    assert_int_equal(host_draft_open(fixture->host, fixture->path, 0600, &draft, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(fixture->host, draft.fd, text, strlen(text), 0, NULL),
                     KELPIE_OK);
    assert_int_equal(entry_count(fixture), before + entries_meanwhile);
    if (publishes) {
        assert_int_equal(host_draft_publish(&draft, NULL), KELPIE_OK);
    }
}

static void draft_is_unseen_until_published(void **state) {
    struct fixture *fixture = *state;
    write_draft(fixture, "never", 0, false);
    assert_int_equal(entry_count(fixture), 0);
    write_draft(fixture, "first", 0, true);
    expect_content(fixture, "first");
    write_draft(fixture, "second", 0, true); /* in its place already: replaced */
    expect_content(fixture, "second");
    write_draft(fixture, "never", 0, false);
    expect_content(fixture, "second");
    assert_int_equal(entry_count(fixture), 1);
}

static void draft_lies_beside_its_place_where_it_must(void **state) {
    struct fixture *fixture = *state;
    without_unnamed_files(fixture);
    write_draft(fixture, "never", 1, false);
    assert_int_equal(entry_count(fixture), 0);
    without_unnamed_files(fixture);
    write_draft(fixture, "first", 1, true);
    without_unnamed_files(fixture);
    write_draft(fixture, "second", 1, true);
    expect_content(fixture, "second");
    assert_int_equal(entry_count(fixture), 1);
}

static void draft_that_cannot_be_made_says_why(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    char path[128];
    snprintf(path, sizeof(path), "%s/no/such/file", fixture->folder);
    assert_int_equal(host_draft_open(fixture->host, path, 0600, &draft, &err), KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, "/no/such"));
    assert_int_equal(host_draft_open(fixture->host, "", 0600, &draft, &err), KELPIE_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(draft_is_unseen_until_published, setup, teardown),
        cmocka_unit_test_setup_teardown(draft_lies_beside_its_place_where_it_must, setup, teardown),
        cmocka_unit_test_setup_teardown(draft_that_cannot_be_made_says_why, setup, teardown),
    };
    return cmocka_run_group_tests_name("draft", tests, NULL, NULL);
}
