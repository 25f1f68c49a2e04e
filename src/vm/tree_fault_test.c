/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders, shares, secrets and figures on a host whose 1st, 2nd, 3rd … call fails: said clearly, and nothing is left. */
#include <errno.h>
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
#include "support/fault_host.h"
#include "vm/tree.h"

#define OK(call) assert_int_equal(call, KELPIE_OK)
#define OPERATION_MS 300
#define NTH_MAX 1000

struct fixture {
    struct host *real;
    struct host *host;
    char folder[64];
    char source[96];
    char target[96];
};

static struct kelpie_vm *make(struct fixture *fixture, const struct kelpie_share *share,
                              const struct kelpie_secret *secret) {
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {
        .backend = "mock",
        .memory_mib = 64,
        .shares = share,
        .share_count = share ? 1 : 0,
        .secrets = secret,
        .secret_count = secret ? 1 : 0,
        .operation_timeout_ms = OPERATION_MS,
        .host = fixture->host,
    };
    OK(kelpie_vm_create(&config, &vm, NULL));
    return vm;
}

typedef enum kelpie_status work(struct fixture *fixture, struct kelpie_vm *vm,
                                struct kelpie_error *err);

static enum kelpie_status tree_in(struct fixture *fixture, struct kelpie_vm *vm,
                                  struct kelpie_error *err) {
    return kelpie_copy_tree_in(vm, fixture->source, "/tmp/tree", NULL, NULL, err);
}

static enum kelpie_status tree_out(struct fixture *fixture, struct kelpie_vm *vm,
                                   struct kelpie_error *err) {
    return kelpie_copy_tree_out(vm, "/tmp/tree", fixture->target, NULL, NULL, err);
}

static enum kelpie_status start(struct fixture *fixture, struct kelpie_vm *vm,
                                struct kelpie_error *err) {
    (void)fixture;
    return kelpie_vm_start(vm, err);
}

static enum kelpie_status stats(struct fixture *fixture, struct kelpie_vm *vm,
                                struct kelpie_error *err) {
    struct kelpie_stats stats = {0};
    (void)fixture;
    enum kelpie_status status = kelpie_vm_stats(vm, &stats, err);
    assert_true(status != KELPIE_OK || stats.guest_memory_bytes > 0);
    return status;
}

/* What an operation left in the folder: nothing but what it was to make, whole. */
static void expect_folder(struct fixture *fixture, work *does, enum kelpie_status status) {
    struct host_dir_entry entries[8];
    size_t count = 0;
    bool made = does == tree_out && status == KELPIE_OK;
    OK(host_dir_list(fixture->real, fixture->folder, entries, ARRAY_SIZE(entries), &count, NULL));
    assert_int_equal(count, made ? 2 : 1);
    (void)!host_path_remove_tree(fixture->real, fixture->target, NULL);
}

static void sweep(struct fixture *fixture, work *does, const struct kelpie_share *share,
                  const struct kelpie_secret *secret) {
    const char *fired = "";
    uint64_t nth = 1;
    for (; fired; nth++) {
        struct kelpie_error err = {0};
        char text[256];
        struct kelpie_vm *vm = make(fixture, share, secret);
        if (does != start) {
            OK(kelpie_vm_start(vm, NULL));
            OK(kelpie_copy_tree_in(vm, fixture->source, "/tmp/tree", NULL, NULL, NULL));
        }
        fault_host_arm(fixture->host, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = does(fixture, vm, &err);
        fired = fault_host_fired(fixture->host);
        fault_host_disarm(fixture->host);
        kelpie_vm_destroy(vm);
        if (status != KELPIE_OK && !fired) {
            fail_msg("it failed without a fault: %s", err.message);
        }
        assert_int_equal(err.status, status);
        assert_true(status == KELPIE_OK || strlen(err.message) > 10);
        if (strcmp(fired ? fired : "", "path_remove_tree") != 0) {
            expect_folder(fixture, does, status);
        }
        if (fault_host_leaks(fixture->host, text, sizeof(text)) != 0) {
            fail_msg("%s left open: %s", fired ? fired : "nothing", text);
        }
        assert_true(nth < NTH_MAX);
    }
    assert_true(nth > 5);
}

static void hazard_d2_a_folder_goes_in(void **state) {
    sweep(*state, tree_in, NULL, NULL);
}

static void hazard_d2_a_folder_comes_out(void **state) {
    sweep(*state, tree_out, NULL, NULL);
}

static void hazard_d2_a_share_and_a_secret(void **state) {
    struct fixture *fixture = *state;
    const struct kelpie_share share = {.path = fixture->source, .mount = "/mnt", .copy = true};
    const struct kelpie_secret secret = {.name = "token", .data = "secret", .size = 6};
    sweep(fixture, start, &share, &secret);
}

static void hazard_d2_figures(void **state) {
    sweep(*state, stats, NULL, NULL);
}

static void test_a_share_that_is_no_folder(void **state) {
    struct fixture *fixture = *state;
    static const char *const names[] = {"nothing", "source/file"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[160];
        struct kelpie_error err = {0};
        snprintf(path, sizeof(path), "%s/%s", fixture->folder, names[i]);
        const struct kelpie_share share = {.path = path, .mount = "/mnt", .copy = true};
        struct kelpie_vm *vm = make(fixture, &share, NULL);
        assert_int_equal(kelpie_vm_start(vm, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "shares[0].path");
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
        kelpie_vm_destroy(vm);
    }
}

/* What cannot be copied says why; what is no file, folder or link is left out and told. */
static void test_odd_folders(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    char path[160];
    struct kelpie_vm *vm = make(fixture, NULL, NULL);
    OK(kelpie_vm_start(vm, NULL));
    snprintf(path, sizeof(path), "%s/source/file", fixture->folder);
    assert_int_equal(kelpie_copy_tree_in(vm, path, "/tmp/t", NULL, NULL, &err), KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    const struct kelpie_tree_options few = {.count_max = 2};
    assert_int_equal(kelpie_copy_tree_in(vm, fixture->source, "/tmp/t", &few, NULL, &err),
                     KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "count_max");
    const struct kelpie_tree_options small = {.bytes_max = 2};
    assert_int_equal(kelpie_copy_tree_in(vm, fixture->source, "/tmp/t", &small, NULL, &err),
                     KELPIE_COPY_FAILED);
    assert_string_equal(err.field, "bytes_max");
    const struct kelpie_tree_options wrong = {.reserved = {1}};
    assert_int_equal(kelpie_copy_tree_out(vm, "/tmp/t", fixture->target, &wrong, NULL, &err),
                     KELPIE_BAD_CONFIG);
    snprintf(path, sizeof(path), "%s/source/pipe", fixture->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    OK(kelpie_copy_tree_in(vm, fixture->source, "/tmp/whole", NULL, &report, &err));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(report.skipped_count, 1);
    assert_string_equal(report.skipped, "pipe");
    assert_int_equal(report.file_count, 2);
    snprintf(path, sizeof(path), "%s///", fixture->target);
    OK(kelpie_copy_tree_out(vm, "/tmp/whole", path, NULL, NULL, &err));
    assert_int_equal(kelpie_copy_tree_out(vm, "/tmp/whole", fixture->target, NULL, NULL, &err),
                     KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, EEXIST);
    OK(host_path_remove_tree(fixture->real, fixture->target, NULL));
    assert_int_equal(kelpie_copy_tree_out(vm, "/tmp/whole/file", fixture->target, NULL, NULL, &err),
                     KELPIE_COPY_FAILED);
    assert_int_equal(err.os_error, ENOTDIR);
    kelpie_vm_destroy(vm);
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    char path[160];
    assert_non_null(fixture);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-tree-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->source, sizeof(fixture->source), "%s/source", fixture->folder);
    snprintf(fixture->target, sizeof(fixture->target), "%s/target", fixture->folder);
    OK(host_linux_create(&fixture->real, NULL));
    OK(fault_host_create(fixture->real, &fixture->host, NULL));
    OK(host_path_mkdir(fixture->real, fixture->source, 0700, NULL));
    snprintf(path, sizeof(path), "%s/file", fixture->source);
    OK(host_file_store(fixture->real, path, "xxx", 3, 0600, NULL));
    snprintf(path, sizeof(path), "%s/link", fixture->source);
    OK(host_path_symlink(fixture->real, "file", path, NULL));
    snprintf(path, sizeof(path), "%s/below", fixture->source);
    OK(host_path_mkdir(fixture->real, path, 0700, NULL));
    snprintf(path, sizeof(path), "%s/below/file", fixture->source);
    OK(host_file_store(fixture->real, path, "yyy", 3, 0600, NULL));
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    OK(host_path_remove_tree(fixture->real, fixture->folder, NULL));
    host_destroy(fixture->host);
    host_destroy(fixture->real);
    free(fixture);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_d2_a_folder_goes_in),
        cmocka_unit_test(hazard_d2_a_folder_comes_out),
        cmocka_unit_test(hazard_d2_a_share_and_a_secret),
        cmocka_unit_test(hazard_d2_figures),
        cmocka_unit_test(test_a_share_that_is_no_folder),
        cmocka_unit_test(test_odd_folders),
    };
    return cmocka_run_group_tests_name("vm tree faults", tests, setup, teardown);
}
