/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The folders that bundles are written in: whose they are, who takes them away, and what happens when somebody does. */
#include "snapshot/snapshot_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define ID "0123456789abcdef0123456789abcdef"
#define NAME_SIZE 200 /* of one folder on the way to a long path */

static struct host *host;
static struct host *faulty;
static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-partial-XXXXXX");
    return host_linux_create(&host, NULL) == KELPIE_OK &&
                   fault_host_create(host, &faulty, NULL) == KELPIE_OK && mkdtemp(folder)
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    char text[256];
    assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
    int result = rmdir(folder); /* fails, and with it the test, when something is left */
    host_destroy(faulty);
    host_destroy(host);
    return result;
}

/* "<folder>/<name>.partial-<id>", made; with a manifest that nobody holds. */
static struct snapshot_path make_partial(const char *name, bool with_manifest) {
    struct snapshot_path path;
    struct snapshot_path file;
    assert_int_equal(
        snapshot_path_format(&path, NULL, "%s/%s" SNAPSHOT_PARTIAL_MARK ID, folder, name),
        KELPIE_OK);
    assert_int_equal(mkdir(path.text, 0700), 0);
    if (with_manifest) {
        assert_int_equal(snapshot_path_format(&file, NULL, "%s/manifest.json", path.text),
                         KELPIE_OK);
        assert_int_equal(host_file_store(host, file.text, "{}", 2, 0600, NULL), KELPIE_OK);
    }
    return path;
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* ---- Taking away ------------------------------------------------------------------------------ */

static void who_only_looks_takes_nothing_away(void **state) {
    (void)state;
    for (int with_manifest = 0; with_manifest < 2; with_manifest++) {
        struct snapshot_path path = make_partial("a", with_manifest);
        assert_true(snapshot_partial_sweep_one(host, path.text, true));
        assert_true(exists(path.text));
        assert_true(snapshot_partial_sweep_one(host, path.text, false));
        assert_false(exists(path.text));
    }
}

/* Its writer lives; or what lies in its manifest's place is no file of a writer's. */
static void what_is_somebodys_is_left(void **state) {
    (void)state;
    struct snapshot_path path = make_partial("a", true);
    struct snapshot_path file;
    int fd = HOST_FD_NONE;
    assert_int_equal(snapshot_path_format(&file, NULL, "%s/manifest.json", path.text), KELPIE_OK);
    assert_int_equal(
        host_file_open(host, file.text, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_lock(host, fd, true, NULL), KELPIE_OK);
    assert_false(snapshot_partial_sweep_one(host, path.text, false));
    host_close(host, fd);
    assert_int_equal(unlink(file.text), 0);
    assert_int_equal(symlink("/etc/hostname", file.text), 0);
    assert_false(snapshot_partial_sweep_one(host, path.text, false));
    assert_true(exists(path.text));
    assert_int_equal(unlink(file.text), 0);
    assert_true(snapshot_partial_sweep_one(host, path.text, false));
}

/* A folder with very many is not the next writer's to clean alone. */
static void one_sweep_takes_so_many(void **state) {
    (void)state;
    struct snapshot_path last;
    for (unsigned i = 0; i < SNAPSHOT_STALE_COUNT_MAX + 1; i++) {
        char name[16];
        snprintf(name, sizeof(name), "%u", i);
        last = make_partial(name, false);
    }
    snapshot_partial_sweep(host, folder);
    assert_int_equal(rmdir(folder), -1);
    snapshot_partial_sweep(host, folder);
    assert_false(exists(last.text));
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(mkdir(folder, 0700), 0);
}

/* A path that has room for the folder and not for what lies in it. */
static void a_path_at_its_limit_is_refused_and_leaves_nothing(void **state) {
    (void)state;
    struct kelpie_error err;
    struct snapshot_partial partial;
    char path[HOST_PATH_SIZE_MAX + 1];
    size_t size = (size_t)snprintf(path, sizeof(path), "%s", folder);
    const size_t wanted = HOST_PATH_SIZE_MAX - strlen(SNAPSHOT_PARTIAL_MARK ID) - 4;
    while (size + NAME_SIZE + 20 < wanted) {
        path[size++] = '/';
        memset(path + size, 'a', NAME_SIZE);
        size += NAME_SIZE;
        path[size] = '\0';
        assert_int_equal(mkdir(path, 0700), 0);
    }
    const size_t parent_size = size;
    path[size++] = '/';
    memset(path + size, 'b', wanted - size);
    path[wanted] = '\0';
    assert_int_equal(snapshot_partial_create(host, path, &partial, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "directory");
    /* The same of one that somebody left: nothing can be said of it. */
    struct snapshot_path left;
    assert_int_equal(snapshot_path_format(&left, NULL, "%s" SNAPSHOT_PARTIAL_MARK ID, path),
                     KELPIE_OK);
    assert_int_equal(mkdir(left.text, 0700), 0);
    assert_false(snapshot_partial_sweep_one(host, left.text, false));
    assert_int_equal(rmdir(left.text), 0);
    for (size = parent_size; size > strlen(folder); size -= NAME_SIZE + 1) {
        path[size] = '\0';
        assert_int_equal(rmdir(path), 0); /* and nothing was left in it */
    }
}

/* ---- Somebody takes ours away ----------------------------------------------------------------- */

/* Between its making and its lock a folder looks like one of a dead writer: who loses it makes another. */
static void a_folder_that_was_swept_is_made_again(void **state) {
    static const struct fault_plan plans[] = {
        {.nth = 1, .only = "file_open", .status = KELPIE_NOT_FOUND}, /* the folder is gone */
        {.nth = 1, .only = "file_lock", .status = KELPIE_BUSY},      /* it is being looked at */
        {.nth = 1, .only = "path_stat", .status = KELPIE_NOT_FOUND}, /* the file is gone */
    };
    (void)state;
    char path[96];
    snprintf(path, sizeof(path), "%s/bundle", folder);
    for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
        struct snapshot_partial partial = {0};
        struct kelpie_error err;
        struct fault_plan plan = plans[i];
        fault_host_arm(faulty, &plan);
        assert_int_equal(snapshot_partial_create(faulty, path, &partial, &err), KELPIE_OK);
        assert_non_null(fault_host_fired(faulty));
        fault_host_disarm(faulty);
        assert_true(exists(partial.folder.text));
        host_close(faulty, partial.manifest_fd);
        assert_true(snapshot_partial_sweep_one(host, partial.folder.text, false));
        assert_int_equal(rmdir(folder), 0); /* the first one is gone too */
        assert_int_equal(mkdir(folder, 0700), 0);
        plan.sticky = true; /* always: there is an end to it */
        fault_host_arm(faulty, &plan);
        assert_int_equal(snapshot_partial_create(faulty, path, &partial, &err), plan.status);
        fault_host_disarm(faulty);
    }
}

/* ---- The writer ------------------------------------------------------------------------------- */

static void what_is_not_text_is_not_published(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_snapshot snapshot;
    struct snapshot_writer *writer = NULL;
    char path[96];
    int fd = HOST_FD_NONE;
    const struct host_wait wait = host_wait_ms(host, 60000, HOST_FD_NONE);
    snprintf(path, sizeof(path), "%s/bundle", folder);
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, &err), KELPIE_OK);
    snprintf(snapshot_writer_manifest(writer)->hostname, KELPIE_NAME_SIZE_MAX, "\xff\xfe");
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_publish(writer, &wait, &snapshot, &err),
                     KELPIE_SNAPSHOT_FAILED);
    assert_non_null(strstr(err.message, "not UTF-8"));
    snapshot_writer_destroy(writer);
    assert_false(exists(path));
}

#define PARTIAL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        PARTIAL_TEST(who_only_looks_takes_nothing_away),
        PARTIAL_TEST(what_is_somebodys_is_left),
        PARTIAL_TEST(one_sweep_takes_so_many),
        PARTIAL_TEST(a_path_at_its_limit_is_refused_and_leaves_nothing),
        PARTIAL_TEST(a_folder_that_was_swept_is_made_again),
        PARTIAL_TEST(what_is_not_text_is_not_published),
    };
    return cmocka_run_group_tests_name("partial", tests, NULL, NULL);
}
