/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Checkpoints: the files of a folder, kept while commands stand still, and restored into a VM that boots, of whichever backend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

static const struct kelpie_snapshot_options checkpoint = {.kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                          .workspace = "/tmp/space"};

/* A workspace with a file of each kind that a copy can bring, and a large one. */
static void fill_workspace(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    static uint8_t large[300000];
    pattern_fill(large, sizeof(large), 11);
    assert_int_equal(mkdir(host_path("tree"), 0755), 0);
    assert_int_equal(mkdir(host_path("tree/a"), 0700), 0);
    assert_int_equal(mkdir(host_path("tree/empty"), 0755), 0);
    host_file_write(host_path("tree/script"), "#!/bin/sh\necho ran\n", 19, 0755);
    host_file_write(host_path("tree/a/large"), large, sizeof(large), 0640);
    host_file_write(host_path("tree/nothing"), "", 0, 0600);
    assert_int_equal(symlink("/nowhere/../x", host_path("tree/a/link")), 0);
    OK(kelpie_copy_tree_in(vm, host_path("tree"), "/tmp/space", NULL, NULL, &err));
}

/* What fill_workspace() made is there, and nothing else. */
static void expect_workspace(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_tree_report report = {0};
    char compare[1100];
    expect_shell(vm, "/tmp/space/script", 0, "ran\n");
    OK(kelpie_copy_tree_out(vm, "/tmp/space", host_path("back"), NULL, &report, &err));
    assert_int_equal(report.file_count, 3);
    assert_int_equal(report.folder_count, 2);
    assert_int_equal(report.skipped_count, 1); /* the link, which leads out */
    assert_string_equal(report.skipped, "a/link");
    snprintf(compare, sizeof(compare), "cmp '%s' '%s' && rm -r '%s'", host_path("tree/a/large"),
             host_path("back/a/large"), host_path("back"));
    assert_int_equal(system(compare), 0);
}

static void remove_tree(void) {
    char command[600];
    snprintf(command, sizeof(command), "rm -r '%s'", host_path("tree"));
    assert_int_equal(system(command), 0);
}

static void test_files_come_back_and_commands_go_on(void **state) {
    (void)state;
    need(KELPIE_CAN_CHECKPOINT, "a checkpoint");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start_vm();
    fill_workspace(vm);
    struct kelpie_exec *counter = counter_start(vm);
    uint64_t offset = counter_check(counter, 0, 50);
    OK(kelpie_vm_snapshot(vm, host_path("bundle"), &checkpoint, &snapshot, &err));
    assert_int_equal(snapshot.kind, KELPIE_SNAPSHOT_CHECKPOINT);
    assert_string_equal(snapshot.backend, suite()->backend);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    (void)counter_check(counter, offset, 200); /* not a byte is missing */
    kelpie_exec_close(counter);
    OK(kelpie_snapshot_verify(host_path("bundle"), &err));
    expect_shell(vm, "rm /tmp/space/script; echo new > /tmp/space/new; echo out > /tmp/out", 0, "");
    OK(kelpie_vm_stop(vm, 0, &err));

    OK(kelpie_vm_restore(vm, host_path("bundle"), NULL, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_fresh(vm);
    expect_workspace(vm);
    expect_shell(vm, "cat /tmp/out", 1, NULL); /* the rest of the machine is new */
    kelpie_vm_destroy(vm);
    remove_tree();
    bundle_remove(host_path("bundle"));
}

static void test_a_paused_one_stays_paused(void **state) {
    (void)state;
    need(KELPIE_CAN_PAUSE, "a checkpoint of a paused VM: it cannot pause");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start_vm();
    fill_workspace(vm);
    struct kelpie_exec *counter = counter_start(vm);
    uint64_t offset = counter_check(counter, 0, 50);
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_snapshot(vm, host_path("bundle"), &checkpoint, &snapshot, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, &err));
    (void)counter_check(counter, offset, 200);
    kelpie_exec_close(counter);
    kelpie_vm_destroy(vm);
    const struct kelpie_restore_options paused = {.paused = true};
    vm = make_vm();
    OK(kelpie_vm_restore(vm, host_path("bundle"), &paused, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, &err));
    expect_workspace(vm);
    kelpie_vm_destroy(vm);
    remove_tree();
    bundle_remove(host_path("bundle"));
}

/* What a mock kept, with memory of another size. */
static void test_one_of_another_backend_fits(void **state) {
    (void)state;
    need(KELPIE_CAN_CHECKPOINT, "a checkpoint");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *mock = NULL;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .vcpu_count = 2};
    if (strcmp(suite()->backend, "mock") == 0) {
        skip_aloud("a checkpoint of another backend: there is none to make it");
    }
    OK(kelpie_vm_create(&config, &mock, &err));
    OK(kelpie_vm_start(mock, &err));
    fill_workspace(mock);
    OK(kelpie_vm_snapshot(mock, host_path("bundle"), &checkpoint, &snapshot, &err));
    kelpie_vm_destroy(mock);
    struct kelpie_vm *vm = make_vm();
    OK(kelpie_vm_restore(vm, host_path("bundle"), NULL, &err));
    expect_workspace(vm);
    kelpie_vm_destroy(vm);
    remove_tree();
    bundle_remove(host_path("bundle"));
}

/* Owners, all bits of modes, times, hard links and holes: what a copy does not have. */
static void test_files_are_kept_exactly(void **state) {
    (void)state;
    need(KELPIE_CAN_CHECKPOINT, "a checkpoint");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    static const char look[] = "cd /tmp/space && stat -c '%n %u %g %a %Y %h %s' . a a/b a/c s l && "
                               "readlink l && test $(stat -c %i a/b) = $(stat -c %i a/c) && "
                               "test $(stat -c %b s) -lt 999";
    struct kelpie_output before = {0};
    struct kelpie_output after = {0};
    if (strcmp(suite()->backend, "mock") == 0) {
        skip_aloud("owners, times, hard links and holes: its guest has none");
    }
    struct kelpie_vm *vm = start_vm();
    expect_shell(
        vm,
        "mkdir -p /tmp/space/a && cd /tmp/space && echo x > a/b && ln a/b a/c && "
        "ln -s /nowhere l && dd if=/dev/zero of=s bs=1 count=1 seek=20000000 2>/dev/null && "
        "chown 12:34 a/b && chown -h 7:8 l && chown 5 a && chmod 4711 a/b && "
        "chmod 2750 a && chmod 1777 . && touch -d '2001-02-03 04:05:06' a/b a .",
        0, "");
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = SHELL(look)}, &before, &err));
    if (before.exit.code != 0) {
        fail_msg("%s%s", before.stdout_data, before.stderr_data);
    }
    OK(kelpie_vm_snapshot(vm, host_path("bundle"), &checkpoint, &snapshot, &err));
    kelpie_vm_destroy(vm);
    vm = make_vm();
    OK(kelpie_vm_restore(vm, host_path("bundle"), NULL, &err));
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = SHELL(look)}, &after, &err));
    if (after.exit.code != 0) {
        fail_msg("%s%s, and was %s", after.stdout_data, after.stderr_data, before.stdout_data);
    }
    assert_string_equal(after.stdout_data, before.stdout_data);
    kelpie_output_free(&before);
    kelpie_output_free(&after);
    /* What is mounted in a workspace is not of it. */
    expect_shell(vm, "mkdir /tmp/space/m && mount -t tmpfs none /tmp/space/m", 0, "");
    FAILS(kelpie_vm_snapshot(vm, host_path("other"), &checkpoint, &snapshot, &err),
          KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "workspace");
    expect_shell(vm, "umount /tmp/space/m && echo on", 0, "on\n");
    kelpie_vm_destroy(vm);
    bundle_remove(host_path("bundle"));
}

static void test_what_is_no_workspace(void **state) {
    (void)state;
    need(KELPIE_CAN_CHECKPOINT, "a checkpoint");
    static const char *const workspaces[] = {NULL, "/", "/run/secrets", "/proc", "/tmp/missing"};
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start_vm();
    for (size_t i = 0; i < sizeof(workspaces) / sizeof(workspaces[0]); i++) {
        struct kelpie_snapshot_options options = checkpoint;
        options.workspace = workspaces[i];
        FAILS(kelpie_vm_snapshot(vm, host_path("bundle"), &options, &snapshot, &err),
              KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "workspace");
    }
    assert_int_equal(rmdir(suite()->folder), 0); /* it is empty */
    assert_int_equal(mkdir(suite()->folder, 0700), 0);
    expect_shell(vm, "echo on", 0, "on\n");
    kelpie_vm_destroy(vm);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_files_come_back_and_commands_go_on),
    cmocka_unit_test(test_a_paused_one_stays_paused),
    cmocka_unit_test(test_one_of_another_backend_fits),
    cmocka_unit_test(test_files_are_kept_exactly),
    cmocka_unit_test(test_what_is_no_workspace),
};
const struct group group_checkpoint = {
    .name = "checkpoint", .tests = tests, .count = sizeof(tests) / sizeof(tests[0]), .has_vm = 0};
