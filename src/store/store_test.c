/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Where things are kept, and who else could get at them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "store/store_folder.h"
#include "support/store_fixture.h"

static struct store_fixture fixture;
static struct kelpie_error err;

static int set_up(void **state) {
    (void)state;
    return store_fixture_set_up(&fixture) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

static const char *in_folder(const char *name) {
    static char path[256];
    store_fixture_path(&fixture, name, path, sizeof(path));
    return path;
}

static uint32_t mode_of(const char *path) {
    struct stat stat_of;
    assert_int_equal(lstat(path, &stat_of), 0);
    return stat_of.st_mode & 07777u;
}

/* Opens the store once more. */
static enum kelpie_status reopen(void) {
    struct store *store = NULL;
    memset(&err, 0, sizeof(err));
    enum kelpie_status status = store_open(fixture.host, &store, &err);
    if (status == KELPIE_OK) {
        store_close(store);
    }
    return status;
}

static void folders_are_the_users_alone(void **state) {
    (void)state;
    static const char *const folders[] = {"state/kelpie",           "state/kelpie/vms",
                                          "state/kelpie/snapshots", "state/kelpie/templates",
                                          "data/kelpie/images",     "run/kelpie"};
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        assert_int_equal(mode_of(in_folder(folders[i])), 0700);
    }
    struct store_vm vm;
    assert_int_equal(
        store_fixture_vm(fixture.store, fixture.host, "web", KELPIE_STATE_CREATED, &vm), KELPIE_OK);
    assert_int_equal(mode_of(in_folder("state/kelpie/vms/web")), 0700);
    assert_int_equal(mode_of(in_folder("state/kelpie/vms/web/record.json")), 0600);
    assert_int_equal(mode_of(in_folder("state/kelpie/vms/web/lock")), 0600);
    store_vm_release(&vm);
}

static void hazard_E4_a_folder_that_others_may_enter_is_refused(void **state) {
    (void)state;
    static const char *const folders[] = {"state/kelpie", "state/kelpie/vms", "data/kelpie",
                                          "data/kelpie/images", "run/kelpie"};
    static const mode_t modes[] = {0770, 0707, 0750, 0701, 0720};
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(modes); j++) {
            assert_int_equal(chmod(in_folder(folders[i]), modes[j]), 0);
            assert_int_equal(reopen(), KELPIE_IO_FAILED);
            assert_non_null(strstr(err.message, folders[i]));
            assert_string_equal(err.field, "folder");
            assert_int_equal(mode_of(in_folder(folders[i])), modes[j]); /* not "repaired" */
        }
        assert_int_equal(chmod(in_folder(folders[i]), 0700), 0);
        assert_int_equal(reopen(), KELPIE_OK);
    }
}

static void hazard_E4_a_link_in_a_folders_place_is_refused(void **state) {
    (void)state;
    static const char *const folders[] = {"state/kelpie", "state/kelpie/vms", "run/kelpie"};
    assert_int_equal(mkdir(in_folder("trap"), 0700), 0);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        char path[256];
        char aside[256];
        snprintf(path, sizeof(path), "%s", in_folder(folders[i]));
        snprintf(aside, sizeof(aside), "%s", in_folder("aside"));
        assert_int_equal(rename(path, aside), 0);
        assert_int_equal(symlink(in_folder("trap"), path), 0);
        assert_int_equal(reopen(), KELPIE_IO_FAILED);
        assert_non_null(strstr(err.message, folders[i]));
        assert_int_equal(rmdir(in_folder("trap")), 0); /* nothing was made in it */
        assert_int_equal(mkdir(in_folder("trap"), 0700), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(aside, path), 0);
    }
    assert_int_equal(reopen(), KELPIE_OK);
}

static void hazard_E4_another_users_folder_is_refused(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    assert_int_equal(chown(in_folder("run/kelpie"), 12345, 12345), 0);
    assert_int_equal(reopen(), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "run/kelpie"));
    assert_non_null(strstr(err.message, "another user"));
    assert_int_equal(chown(in_folder("run/kelpie"), 0, 0), 0);
    assert_int_equal(reopen(), KELPIE_OK);
}

static void hazard_E4_a_file_in_a_folders_place_is_refused(void **state) {
    (void)state;
    assert_int_equal(rmdir(in_folder("run/kelpie")), 0);
    FILE *file = fopen(in_folder("run/kelpie"), "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(reopen(), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "no folder"));
    assert_int_equal(unlink(in_folder("run/kelpie")), 0);
}

/* Whoever may write to the folder that ours is in could put another in its place; but not in one like /tmp. */
static void hazard_E4_a_parent_that_all_may_write_to_is_refused(void **state) {
    (void)state;
    assert_int_equal(chmod(in_folder("run"), 0777), 0);
    assert_int_equal(reopen(), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "everybody"));
    assert_int_equal(chmod(in_folder("run"), 01777), 0);
    assert_int_equal(reopen(), KELPIE_OK);
}

static void hazard_E4_a_vms_lock_that_is_a_link_is_not_followed(void **state) {
    (void)state;
    struct store_vm vm;
    struct store_record *record = NULL;
    bool owned = false;
    assert_int_equal(
        store_fixture_vm(fixture.store, fixture.host, "web", KELPIE_STATE_CREATED, &vm), KELPIE_OK);
    store_vm_release(&vm);
    assert_int_equal(unlink(in_folder("state/kelpie/vms/web/lock")), 0);
    assert_int_equal(symlink("/dev/null", in_folder("state/kelpie/vms/web/lock")), 0);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &vm, &err), KELPIE_IO_FAILED);
    assert_int_equal(store_vm_read(fixture.store, "web", &record, &owned, &err), KELPIE_IO_FAILED);
}

static void without_a_home_there_is_no_place(void **state) {
    (void)state;
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    assert_int_equal(unsetenv("XDG_STATE_HOME"), 0);
    assert_int_equal(unsetenv("HOME"), 0);
    assert_int_equal(reopen(), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "HOME");
    /* A variable that is no absolute path counts nothing, as the XDG specification has it. */
    assert_int_equal(setenv("XDG_STATE_HOME", "relative", 1), 0);
    assert_int_equal(reopen(), KELPIE_BAD_CONFIG);
    assert_int_equal(setenv("HOME", in_folder("home"), 1), 0);
    assert_int_equal(reopen(), KELPIE_OK);
    assert_int_equal(mode_of(in_folder("home/.local/state/kelpie/vms")), 0700);
    assert_int_equal(home ? setenv("HOME", home, 1) : unsetenv("HOME"), 0);
    free(home);
}

static void names_are_names(void **state) {
    (void)state;
    static const char *const good[] = {"a", "0", "Web-1.x_y", "a..", "sixty-four"};
    static const char *const bad[] = {"",   ".",   "..",  ".new-1", "-a",
                                      "_a", "a/b", "a b", "ä",      "a\n"};
    char long_name[KELPIE_NAME_SIZE_MAX + 2];
    char path[KELPIE_PATH_SIZE_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(store_path(fixture.store, STORE_VMS, good[i], path, sizeof(path), &err),
                         KELPIE_OK);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(store_path(fixture.store, STORE_VMS, bad[i], path, sizeof(path), &err),
                         KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "name");
    }
    memset(long_name, 'a', sizeof(long_name));
    long_name[KELPIE_NAME_SIZE_MAX + 1] = '\0';
    assert_int_equal(store_path(fixture.store, STORE_VMS, long_name, path, sizeof(path), &err),
                     KELPIE_BAD_CONFIG);
    long_name[KELPIE_NAME_SIZE_MAX] = '\0';
    assert_int_equal(store_path(fixture.store, STORE_VMS, long_name, path, sizeof(path), &err),
                     KELPIE_OK);
    assert_int_equal(store_path(fixture.store, STORE_VMS, long_name, path, 8, &err),
                     KELPIE_BAD_CONFIG);
}

/* The name of a UNIX socket has 107 bytes at most: the message says what to do. */
static void a_socket_whose_name_is_too_long_is_refused_clearly(void **state) {
    (void)state;
    static const char id[] = "0123456789abcdef0123456789abcdef";
    char base[256];
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store *store = NULL;
    assert_int_equal(store_socket_path(fixture.store, id, path, sizeof(path), &err), KELPIE_OK);
    assert_true(strlen(path) <= 107);
    store_fixture_path(&fixture, "run/", base, sizeof(base));
    size_t size = strlen(base);
    memset(base + size, 'x', 107 - size);
    base[107] = '\0';
    assert_int_equal(setenv("XDG_RUNTIME_DIR", base, 1), 0);
    assert_int_equal(store_open(fixture.host, &store, &err), KELPIE_OK); /* the rest works */
    assert_int_equal(store_socket_path(store, id, path, sizeof(path), &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "XDG_RUNTIME_DIR");
    assert_non_null(strstr(err.message, "107"));
    store_close(store);
}

static void a_path_beyond_4095_bytes_is_refused(void **state) {
    (void)state;
    static char base[2 * KELPIE_PATH_SIZE_MAX];
    store_fixture_path(&fixture, "state/", base, sizeof(base));
    for (size_t i = strlen(base); i < KELPIE_PATH_SIZE_MAX; i++) {
        base[i] = i % 100 == 0 ? '/' : 'x';
    }
    assert_int_equal(setenv("XDG_STATE_HOME", base, 1), 0);
    assert_int_equal(reopen(), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "folder");
}

/* Sizes are what files take on the disk, not how long they are. */
static void sizes_are_by_allocated_blocks(void **state) {
    (void)state;
    struct store_vm vm;
    struct kelpie_vm_info info;
    assert_int_equal(
        store_fixture_vm(fixture.store, fixture.host, "web", KELPIE_STATE_CREATED, &vm), KELPIE_OK);
    store_vm_release(&vm);
    assert_int_equal(kelpie_vm_find(fixture.host, "web", &info, &err), KELPIE_OK);
    uint64_t before = info.disk_bytes;
    FILE *file = fopen(in_folder("state/kelpie/vms/web/disk"), "w");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 1 << 30), 0); /* one hole */
    assert_int_equal(fclose(file), 0);
    assert_int_equal(kelpie_vm_find(fixture.host, "web", &info, &err), KELPIE_OK);
    assert_true(info.disk_bytes < before + 65536);
    assert_int_equal(mkdir(in_folder("state/kelpie/vms/web/deeper"), 0700), 0);
    file = fopen(in_folder("state/kelpie/vms/web/deeper/file"), "w");
    assert_non_null(file);
    for (size_t i = 0; i < 65536; i++) {
        assert_int_equal(fputc('x', file), 'x');
    }
    assert_int_equal(fclose(file), 0);
    assert_int_equal(kelpie_vm_find(fixture.host, "web", &info, &err), KELPIE_OK);
    assert_true(info.disk_bytes >= before + 65536);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(folders_are_the_users_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_a_folder_that_others_may_enter_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_a_link_in_a_folders_place_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_another_users_folder_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_a_file_in_a_folders_place_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_a_parent_that_all_may_write_to_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E4_a_vms_lock_that_is_a_link_is_not_followed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(without_a_home_there_is_no_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_are_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_socket_whose_name_is_too_long_is_refused_clearly, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_path_beyond_4095_bytes_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sizes_are_by_allocated_blocks, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
