/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Checkpoints of mocks: what is in one comes back, into any VM, and nothing else changes, whatever goes wrong. */
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
#include "kelpie_store.h"

#define OK(call)                                                                                   \
    do {                                                                                           \
        struct kelpie_error place = {0};                                                           \
        struct kelpie_error *err = &place;                                                         \
        if ((call) != KELPIE_OK) {                                                                 \
            fail_msg("%s: %s", #call, place.message);                                              \
        }                                                                                          \
    } while (0)

#define FAILS(call, wanted, of_field)                                                              \
    do {                                                                                           \
        struct kelpie_error place = {0};                                                           \
        struct kelpie_error *err = &place;                                                         \
        enum kelpie_status got = (call);                                                           \
        if (got != (wanted) || strcmp(place.field, of_field) != 0) {                               \
            fail_msg("%s: %s, field %s: %s", #call, kelpie_status_name(got), place.field,          \
                     place.message);                                                               \
        }                                                                                          \
    } while (0)

static char folder[64];
static char bundle[96];
static const struct kelpie_snapshot_options work = {.kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                    .workspace = "/job"};

static int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(bundle, sizeof(bundle), "%s/bundle", folder);
    return setenv("XDG_STATE_HOME", folder, 1) | setenv("XDG_DATA_HOME", folder, 1) |
           setenv("XDG_RUNTIME_DIR", folder, 1) | setenv("XDG_CACHE_HOME", folder, 1);
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static struct kelpie_vm *make(const struct kelpie_config *config) {
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create(config, &vm, err));
    return vm;
}

static struct kelpie_vm *start(void) {
    static const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    struct kelpie_vm *vm = make(&config);
    OK(kelpie_vm_start(vm, err));
    return vm;
}

/* What the shell says, which succeeds. */
static const char *sh(struct kelpie_vm *vm, const char *line) {
    static char text[512];
    struct kelpie_output output = {0};
    const char *argv[] = {"sh", "-c", line, NULL};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, err));
    if (output.exit.code != 0) {
        fail_msg("%s: %d: %s", line, output.exit.code, output.stderr_data);
    }
    snprintf(text, sizeof(text), "%s", output.stdout_data);
    kelpie_output_free(&output);
    return text;
}

static bool has(struct kelpie_vm *vm, const char *path) {
    struct kelpie_output output = {0};
    const char *argv[] = {"cat", path, NULL};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, err));
    bool found = output.exit.code == 0;
    kelpie_output_free(&output);
    return found;
}

static void fill(struct kelpie_vm *vm) {
    (void)sh(
        vm, "mkdir /job; mkdir /job/a; echo one >/job/a/file; echo two >/job/b; echo out >/root/o");
}

static void what_was_there_comes_back(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    assert_int_equal(snapshot.kind, KELPIE_SNAPSHOT_CHECKPOINT);
    assert_string_equal(snapshot.architecture, "any");
    assert_string_equal(snapshot.backend, "mock");
    assert_true(snapshot.quiesced);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    OK(kelpie_snapshot_inspect(bundle, &snapshot, err));
    OK(kelpie_snapshot_verify(bundle, err));
    (void)sh(vm, "echo three >/job/b; echo new >/job/new");
    OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err));

    OK(kelpie_vm_restore(vm, bundle, NULL, err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    assert_string_equal(sh(vm, "cat /job/a/file /job/b"), "one\ntwo\n");
    assert_false(has(vm, "/job/new"));
    assert_false(has(vm, "/root/o")); /* what is not of the workspace is not in it */
    struct kelpie_restore_report report = {0};
    OK(kelpie_vm_restore_report(vm, &report, err));
    assert_int_equal(report.entropy, KELPIE_OUTCOME_DONE);
    assert_int_equal(report.machine_id, KELPIE_OUTCOME_DONE);
    assert_int_equal(report.network, KELPIE_OUTCOME_UNSUPPORTED);
    /* The next one says where this VM came from. */
    char other[128];
    snprintf(other, sizeof(other), "%s-other", bundle);
    struct kelpie_snapshot next = {0};
    OK(kelpie_vm_snapshot(vm, other, &work, &next, err));
    assert_string_equal(next.parent_id, snapshot.id);
    /* A VM that is started, and not restored, is not. */
    OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err));
    OK(kelpie_vm_start(vm, err));
    assert_false(has(vm, "/job/b"));
    FAILS(kelpie_vm_restore_report(vm, &report, err), KELPIE_WRONG_STATE, "");
    kelpie_vm_destroy(vm);
}

static void what_is_there_is_replaced(void **state) {
    (void)state;
    char host_folder[96];
    char path[160];
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    kelpie_vm_destroy(vm);
    /* A shared folder is copied to the place first, and then gives way. */
    snprintf(host_folder, sizeof(host_folder), "%s/share", folder);
    assert_int_equal(mkdir(host_folder, 0700), 0);
    snprintf(path, sizeof(path), "%s/shared", host_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    const struct kelpie_share share = {.path = host_folder, .mount = "/job", .copy = true};
    const struct kelpie_secret secret = {.name = "key", .data = "s", .size = 1};
    const struct kelpie_config config = {.backend = "mock",
                                         .memory_mib = 128,
                                         .shares = &share,
                                         .share_count = 1,
                                         .secrets = &secret,
                                         .secret_count = 1};
    vm = make(&config); /* with other memory: it does not matter */
    OK(kelpie_vm_restore(vm, bundle, NULL, err));
    assert_false(has(vm, "/job/shared"));
    assert_string_equal(sh(vm, "cat /job/b /run/secrets/key"), "two\ns");
    kelpie_vm_destroy(vm);
}

static void a_paused_one_stays_paused(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_pause(vm, err));
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, err));
    assert_string_equal(sh(vm, "cat /job/b"), "two\n");
    kelpie_vm_destroy(vm);
    struct kelpie_vm *other = NULL;
    const struct kelpie_restore_options paused = {.paused = true};
    OK(kelpie_vm_create_from_snapshot(bundle, NULL, &paused, &other, err));
    assert_int_equal(kelpie_vm_state(other), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(other, err));
    assert_string_equal(sh(other, "cat /job/a/file"), "one\n");
    kelpie_vm_destroy(other);
}

/* A paused VM that was restored, and whose guest nobody has met yet. */
static void one_that_was_restored_paused_can_be_kept(void **state) {
    (void)state;
    char memory[128];
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    snprintf(memory, sizeof(memory), "%s-memory", bundle);
    OK(kelpie_vm_snapshot(vm, memory, NULL, &snapshot, err));
    kelpie_vm_destroy(vm);
    const struct kelpie_restore_options paused = {.paused = true};
    OK(kelpie_vm_create_from_snapshot(memory, NULL, &paused, &vm, err));
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, err));
    struct kelpie_restore_report report = {0};
    OK(kelpie_vm_restore_report(vm, &report, err));
    assert_int_equal(report.entropy, KELPIE_OUTCOME_DONE); /* it is made fresh all the same */
    kelpie_vm_destroy(vm);
    OK(kelpie_vm_create_from_snapshot(bundle, NULL, NULL, &vm, err));
    assert_string_equal(sh(vm, "cat /job/a/file"), "one\n");
    kelpie_vm_destroy(vm);
}

static void commands_stand_still_and_go_on(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_vm *vm = start();
    fill(vm);
    const char *argv[] = {"cat", NULL};
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = argv, .stdin_open = true}, &exec,
                         err));
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    size_t written = 0;
    char text[16] = {0};
    struct kelpie_chunk chunk = {.buffer = text, .size = sizeof(text)};
    OK(kelpie_exec_write(exec, "still", 5, &written, err));
    OK(kelpie_exec_read(exec, &chunk, 5000, err));
    assert_string_equal(text, "still");
    kelpie_exec_close(exec);
    uint32_t ids[4];
    size_t count = 0;
    OK(kelpie_exec_list(vm, ids, 4, &count, err));
    assert_int_equal(count, 0); /* the one that read the folder is gone too */
    kelpie_vm_destroy(vm);
}

static void a_warm_start_will_do(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    kelpie_vm_destroy(vm);
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .warm = true};
    for (int i = 0; i < 2; i++) { /* the first makes the template, the second has it */
        vm = make(&config);
        OK(kelpie_vm_restore(vm, bundle, NULL, err));
        assert_string_equal(sh(vm, "cat /job/b"), "two\n");
        kelpie_vm_destroy(vm);
    }
}

static void the_workspace_must_be_one(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    static const struct {
        const char *workspace;
        enum kelpie_status status;
    } cases[] = {
        {NULL, KELPIE_BAD_CONFIG},       {"", KELPIE_BAD_CONFIG},
        {"/", KELPIE_BAD_CONFIG},        {"//", KELPIE_BAD_CONFIG},
        {"job", KELPIE_BAD_CONFIG},      {"/job/..", KELPIE_BAD_CONFIG},
        {"/job/./a", KELPIE_BAD_CONFIG}, {"/run", KELPIE_BAD_CONFIG},
        {"/run/x", KELPIE_BAD_CONFIG},   {"//proc/", KELPIE_BAD_CONFIG},
        {"/sys/x", KELPIE_BAD_CONFIG},   {"/dev", KELPIE_BAD_CONFIG},
        {"/none", KELPIE_BAD_CONFIG},    {"/job/b", KELPIE_BAD_CONFIG},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_snapshot_options options = work;
        options.workspace = cases[i].workspace;
        FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), cases[i].status,
              "workspace");
        assert_int_equal(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, NULL),
                         cases[i].status);
        assert_int_equal(access(bundle, F_OK), -1);
        assert_string_equal(sh(vm, "cat /job/b"), "two\n"); /* it goes on */
    }
    struct kelpie_snapshot_options options = work;
    options.kind = KELPIE_SNAPSHOT_SUSPEND;
    FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), KELPIE_BAD_CONFIG, "workspace");
    options = work;
    options.track = true;
    FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), KELPIE_BAD_CONFIG, "track");
    options = work;
    options.parent = "/x";
    FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), KELPIE_BAD_CONFIG, "parent");
    options = work;
    options.bytes_max = 100;
    FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), KELPIE_SNAPSHOT_TOO_LARGE,
          "bytes_max");
    assert_int_equal(access(bundle, F_OK), -1);
    /* Slashes say nothing; "/runner" is not "/run". */
    (void)sh(vm, "mkdir /runner; echo r >/runner/r");
    options = work;
    options.workspace = "//runner//";
    OK(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err));
    kelpie_vm_destroy(vm);
    OK(kelpie_vm_create_from_snapshot(bundle, NULL, NULL, &vm, err));
    assert_string_equal(sh(vm, "cat /runner/r"), "r\n");
    kelpie_vm_destroy(vm);
}

static void the_working_dir_is_the_workspace(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    const struct kelpie_config config = {
        .backend = "mock", .memory_mib = 64, .working_dir = "/root"};
    const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_CHECKPOINT};
    struct kelpie_vm *vm = make(&config);
    FAILS(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err), KELPIE_WRONG_STATE, "created");
    OK(kelpie_vm_start(vm, err));
    (void)sh(vm, "echo here >file");
    OK(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, err));
    kelpie_vm_destroy(vm);
    OK(kelpie_vm_create_from_snapshot(bundle, NULL, NULL, &vm, err));
    assert_string_equal(kelpie_vm_config(vm)->working_dir, "/root");
    assert_int_equal(kelpie_vm_config(vm)->memory_mib, 64);
    assert_string_equal(sh(vm, "cat file"), "here\n");
    kelpie_vm_destroy(vm);
    /* What the caller says goes before what the bundle says. */
    const struct kelpie_config other = {.backend = "mock", .memory_mib = 96, .name = "n"};
    OK(kelpie_vm_create_from_snapshot(bundle, &other, NULL, &vm, err));
    assert_int_equal(kelpie_vm_config(vm)->memory_mib, 96);
    assert_string_equal(kelpie_vm_config(vm)->name, "n");
    kelpie_vm_destroy(vm);
}

static void a_restore_that_fails_leaves_nothing(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    FAILS(kelpie_vm_restore(vm, bundle, NULL, err), KELPIE_WRONG_STATE, "running");
    OK(kelpie_vm_stop(vm, KELPIE_STOP_AT_ONCE, err));
    const struct kelpie_restore_options track = {.track = true};
    FAILS(kelpie_vm_restore(vm, bundle, &track, err), KELPIE_BAD_CONFIG, "track");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    /* A byte of the archive is another. */
    char path[128];
    snprintf(path, sizeof(path), "%s/files", bundle);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, 600, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, 600, SEEK_SET), 0);
    fputc(byte ^ 1, file);
    fclose(file);
    FAILS(kelpie_vm_restore(vm, bundle, NULL, err), KELPIE_SNAPSHOT_CORRUPT, "files");
    FAILS(kelpie_snapshot_verify(bundle, err), KELPIE_SNAPSHOT_CORRUPT, "files");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_STOPPED);
    struct kelpie_vm *other = NULL;
    FAILS(kelpie_vm_create_from_snapshot(bundle, NULL, NULL, &other, err), KELPIE_SNAPSHOT_CORRUPT,
          "files");
    assert_null(other);
    kelpie_vm_destroy(vm);
    const struct kelpie_mock_config mock = {.fail_boot = true};
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .mock = &mock};
    vm = make(&config);
    FAILS(kelpie_vm_restore(vm, bundle, NULL, err), KELPIE_SNAPSHOT_CORRUPT, "files");
    file = fopen(path, "r+");
    assert_int_equal(fseek(file, 600, SEEK_SET), 0);
    fputc(byte, file);
    fclose(file);
    FAILS(kelpie_vm_restore(vm, bundle, NULL, err), KELPIE_RESTORE_FAILED, "");
    assert_int_not_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    kelpie_vm_destroy(vm);
}

static void what_needs_a_machine_is_refused(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    OK(kelpie_vm_snapshot(vm, bundle, &work, &snapshot, err));
    struct kelpie_fork_child child = {0};
    struct kelpie_pool *pool = NULL;
    FAILS(kelpie_snapshot_fork(bundle, NULL, 1, &child, err), KELPIE_UNSUPPORTED, "kind");
    FAILS(kelpie_pool_create(bundle, NULL, &pool, err), KELPIE_UNSUPPORTED, "kind");
    OK(kelpie_vm_fork(vm, NULL, 1, &child, err)); /* and a fork knows nothing of checkpoints */
    assert_non_null(child.vm);
    assert_string_equal(sh(child.vm, "cat /job/b"), "two\n");
    kelpie_vm_destroy(child.vm);
    kelpie_vm_destroy(vm);
}

static void every_backend_says_that_it_can(void **state) {
    (void)state;
    struct kelpie_backend backends[KELPIE_BACKEND_COUNT_MAX];
    size_t count = kelpie_backend_list(backends, ARRAY_SIZE(backends));
    assert_true(count >= 3);
    for (size_t i = 0; i < count; i++) {
        assert_true(backends[i].capabilities & KELPIE_CAN_CHECKPOINT);
    }
}

static void cancelled_at_once_it_leaves_nothing(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_vm *vm = start();
    fill(vm);
    assert_int_equal(kelpie_mock_crash(vm, NULL), KELPIE_OK);
    struct kelpie_error err = {0};
    enum kelpie_status status = kelpie_vm_snapshot(vm, bundle, &work, &snapshot, &err);
    assert_true(status == KELPIE_CRASHED || status == KELPIE_WRONG_STATE);
    assert_int_equal(access(bundle, F_OK), -1);
    kelpie_vm_destroy(vm);
}

#define CHECKPOINT_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        CHECKPOINT_TEST(what_was_there_comes_back),
        CHECKPOINT_TEST(what_is_there_is_replaced),
        CHECKPOINT_TEST(a_paused_one_stays_paused),
        CHECKPOINT_TEST(one_that_was_restored_paused_can_be_kept),
        CHECKPOINT_TEST(commands_stand_still_and_go_on),
        CHECKPOINT_TEST(a_warm_start_will_do),
        CHECKPOINT_TEST(the_workspace_must_be_one),
        CHECKPOINT_TEST(the_working_dir_is_the_workspace),
        CHECKPOINT_TEST(a_restore_that_fails_leaves_nothing),
        CHECKPOINT_TEST(what_needs_a_machine_is_refused),
        CHECKPOINT_TEST(every_backend_says_that_it_can),
        CHECKPOINT_TEST(cancelled_at_once_it_leaves_nothing),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
