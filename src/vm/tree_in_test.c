/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders that go in: ones that others change while they are read, ones that are too deep, too long or too many, and a cancel
 * at each kind of entry. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "host/host_below.h"
#include "vm/vm.h"

#define OK(call) assert_int_equal(call, KELPIE_OK)
#define PATH_SIZE 256
#define BIG_SIZE                                                                                   \
    62000 /* of a file: with its entry, what is sent at once has no room for another entry */
#define HUGE_SIZE 200000

static struct host *here;
static struct host_ops
    ops; /* the host's, but for what follows; used by the test's own thread only */
static const struct host_ops *own_ops;
static struct kelpie_vm *vm;
static char source[64];
static bool reads_half;
static bool cancels;
static bool is_exchanged;
static const char *vanishes;   /* a name that is gone when it is looked at, or listed */
static bool vanishes_unlisted; /* listed */

static enum kelpie_status file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                       uint64_t offset, size_t *ret_size,
                                       struct kelpie_error *err) {
    TRY(own_ops->file_read_at(host, fd, buffer, size, offset, ret_size, err));
    *ret_size = reads_half ? *ret_size / 2 : *ret_size;
    if (cancels) {
        kelpie_vm_cancel(vm);
    }
    return KELPIE_OK;
}

static enum kelpie_status file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                    struct kelpie_error *err) {
    TRY(own_ops->file_stat(host, fd, ret_info, err));
    if (is_exchanged && ret_info->type == HOST_FILE_REGULAR) {
        ret_info->type = HOST_FILE_OTHER;
    }
    return KELPIE_OK;
}

static enum kelpie_status below(struct host *host, struct host_below *call,
                                struct kelpie_error *err) {
    const enum host_below_action gone = vanishes_unlisted ? HOST_BELOW_LIST : HOST_BELOW_STAT;
    if (vanishes && call->action == gone && strcmp(call->name, vanishes) == 0) {
        return error_set_os(err, ENOENT, "%s is gone", vanishes);
    }
    return own_ops->below(host, call, err);
}

static void make_file(const char *name, size_t size) {
    char path[PATH_SIZE];
    static char bytes[HUGE_SIZE];
    assert_true(size <= sizeof(bytes));
    snprintf(path, sizeof(path), "%s/%.180s", source, name);
    OK(host_file_store(here, path, bytes, size, 0600, NULL));
}

static void make_folder(const char *name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%.180s", source, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void make_link(const char *name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%.180s", source, name);
    assert_int_equal(symlink("target", path), 0);
}

/* Folders one in the other. */
static void make_deep(const char *name, size_t depth) {
    int fd = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < depth; i++) {
        assert_int_equal(mkdirat(fd, name, 0700), 0);
        int below_fd = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(below_fd >= 0);
        close(fd);
        fd = below_fd;
    }
    close(fd);
}

static void remove_source(void) {
    char command[PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", source);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state) {
    (void)state;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    OK(host_linux_create(&here, NULL));
    own_ops = here->ops;
    ops = *here->ops;
    ops.file_read_at = file_read_at;
    ops.file_stat = file_stat;
    ops.below = below;
    here->ops = &ops;
    struct kelpie_config at_host = config;
    at_host.host = here;
    OK(kelpie_vm_create(&at_host, &vm, NULL));
    OK(kelpie_vm_start(vm, NULL));
    snprintf(source, sizeof(source), "/tmp/kelpie-in-XXXXXX");
    assert_non_null(mkdtemp(source));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    kelpie_vm_destroy(vm);
    remove_source();
    host_destroy(here);
    reads_half = cancels = is_exchanged = vanishes_unlisted = false;
    vanishes = NULL;
    return 0;
}

static enum kelpie_status copy(struct kelpie_tree_report *report, struct kelpie_error *err) {
    return kelpie_copy_tree_in(vm, source, "/tmp/tree", NULL, report, err);
}

/* A file is whole or not at all; and the guest is of use as before. */
static void expect_not_in_the_guest(const char *name) {
    char command[PATH_SIZE];
    struct kelpie_output output = {0};
    snprintf(command, sizeof(command), "test -e /tmp/tree/%s || echo none", name);
    const char *argv[] = {"sh", "-c", command, NULL};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, NULL));
    assert_string_equal(output.stdout_data, "none\n");
    kelpie_output_free(&output);
}

/* ---- Somebody changes it ------------------------------------------------------------------------ */

static void hazard_d4_a_file_that_becomes_shorter(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    make_file("file", 100);
    reads_half = true;
    assert_int_equal(copy(NULL, &err), KELPIE_COPY_FAILED);
    assert_non_null(strstr(err.message, "shorter"));
    expect_not_in_the_guest("file");
}

static void hazard_d4_a_file_that_is_exchanged(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    make_file("file", 100);
    is_exchanged =
        true; /* it was a file when its name was looked at, and is none when it is open */
    assert_int_equal(copy(NULL, &err), KELPIE_COPY_FAILED);
    assert_non_null(strstr(err.message, "exchanged"));
    expect_not_in_the_guest("file");
}

/* What is gone again is left out; its folder goes in with what is left. */
static void hazard_d4_what_vanishes_is_left_out(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    make_file("kept", 3);
    make_file("gone", 3);
    vanishes = "gone";
    OK(copy(&report, &err));
    assert_int_equal(report.file_count, 1);
    make_folder("folder");
    make_file("folder/file", 3);
    vanishes = "folder";
    vanishes_unlisted = true;
    OK(kelpie_copy_tree_in(vm, source, "/tmp/another", NULL, &report, &err));
    assert_int_equal(report.file_count, 2);
    assert_int_equal(report.folder_count, 1);
    vanishes = "."; /* not the folder itself: that was asked for */
    assert_int_equal(kelpie_copy_tree_in(vm, source, "/tmp/third", NULL, NULL, NULL),
                     KELPIE_NOT_FOUND);
}

/* As with one file alone. */
static void hazard_d4_one_file_that_becomes_shorter(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    char path[PATH_SIZE];
    make_file("file", 100);
    snprintf(path, sizeof(path), "%s/file", source);
    reads_half = true;
    assert_int_equal(kelpie_copy_in(vm, path, "/tmp/file", NULL, &err), KELPIE_COPY_FAILED);
    assert_non_null(strstr(err.message, "shorter"));
    expect_not_in_the_guest("../file");
}

/* ---- Arguments ---------------------------------------------------------------------------------- */

static void test_where_a_folder_cannot_come_out(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    char path[KELPIE_PATH_SIZE_MAX + 1];
    const struct kelpie_tree_options wrong = {.reserved = {1}};
    assert_int_equal(kelpie_copy_tree_in(vm, source, "/tmp/tree", &wrong, NULL, &err),
                     KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_copy_tree_out(vm, "/tmp", "/", NULL, NULL, &err), KELPIE_COPY_FAILED);
    memset(path, 'x', sizeof(path) - 1); /* there is no name for the draft beside it */
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    assert_int_not_equal(kelpie_copy_tree_out(vm, "/tmp", path, NULL, NULL, &err), KELPIE_OK);
    assert_true(strlen(err.message) > 10);
}

/* ---- Its size ----------------------------------------------------------------------------------- */

static void test_more_entries_than_are_listed_at_first(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    const uint32_t count = VM_TREE_LIST_COUNT_MIN + 10;
    for (size_t i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "link-%zu", (size_t)i);
        make_link(name);
    }
    const struct kelpie_tree_options few = {.count_max = count - 1};
    assert_int_equal(kelpie_copy_tree_in(vm, source, "/tmp/tree", &few, &report, &err),
                     KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "count_max"); /* the last one was seen */
}

static void test_folders_count_too(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    make_folder("a");
    make_folder("b");
    const struct kelpie_tree_options one = {.count_max = 1};
    assert_int_equal(kelpie_copy_tree_in(vm, source, "/tmp/tree", &one, NULL, &err),
                     KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "count_max");
}

static void test_many_folders_wait_to_be_listed(void **state) {
    (void)state;
    struct kelpie_tree_report report = {0};
    struct kelpie_error err = {0};
    const size_t count = 400; /* of names whose sum is more than the queue holds at first */
    for (size_t i = 0; i < count; i++) {
        char name[PATH_SIZE];
        snprintf(name, sizeof(name), "%0180zu", i);
        make_folder(name);
    }
    OK(copy(&report, &err));
    assert_int_equal(report.folder_count, count);
}

static void test_too_deep(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    make_deep("d", PROTOCOL_TREE_DEPTH_MAX + 1);
    assert_int_equal(copy(NULL, &err), KELPIE_COPY_FAILED);
    assert_non_null(strstr(err.message, "folders"));
}

static void test_too_long(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    char name[251];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    make_deep(name, KELPIE_PATH_SIZE_MAX / sizeof(name) + 1);
    assert_int_equal(copy(NULL, &err), KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENAMETOOLONG);
}

static void test_a_file_of_many_pieces(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    make_file("huge", HUGE_SIZE);
    make_file("zero", 0);
    OK(copy(&report, &err));
    assert_int_equal(report.bytes, HUGE_SIZE);
}

/* ---- A cancel ----------------------------------------------------------------------------------- */

static void add_nothing(void) {
}
static void add_file(void) {
    make_file("z", 1);
}
static void add_folder(void) {
    make_folder("z");
}
static void add_link(void) {
    make_link("z");
}
static void add_big(void) {
    make_file("z", HUGE_SIZE);
}

/* While the first file is read; what comes next, whatever it is, is not sent any more. */
static void hazard_e1_a_cancel_while_a_folder_goes_in(void **state) {
    (void)state;
    static void (*const next[])(void) = {add_nothing, add_file, add_folder, add_link, add_big};
    for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
        struct kelpie_error err = {0};
        cancels = false;
        remove_source();
        assert_int_equal(mkdir(source, 0700), 0);
        make_file("a", BIG_SIZE);
        next[i]();
        cancels = true;
        assert_int_equal(copy(NULL, &err), KELPIE_CANCELLED);
        expect_not_in_the_guest("z");
    }
    cancels = false;
    OK(copy(NULL, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_d4_a_file_that_becomes_shorter, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_d4_a_file_that_is_exchanged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_d4_what_vanishes_is_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_entries_than_are_listed_at_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_d4_one_file_that_becomes_shorter, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_where_a_folder_cannot_come_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_folders_count_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_folders_wait_to_be_listed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_deep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_of_many_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_e1_a_cancel_while_a_folder_goes_in, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests_name("vm tree in", tests, NULL, NULL);
}
