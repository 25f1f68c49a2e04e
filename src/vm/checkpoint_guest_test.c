/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Checkpoints of a guest that does not know how, or cannot, or is given up: the VM goes on as it was, and no bundle is left. */
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
#include "vm/checkpoint.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define TYPE_OFFSET 5 /* of a frame's header */
#define TYPE_UNKNOWN 200

static struct host *here;
static struct host_ops host_ops; /* the host's, but for what follows */
static const struct host_ops *own_ops;
static struct kelpie_vm *vm;
static char folder[64];
static char bundle[96];
static bool is_old;       /* the guest does not know HOLD */
static int freeze_error;  /* it cannot stop its commands */
static int cancel_at;     /* the n-th write of a file cancels */
static bool resume_fails; /* the backend's */
static bool pause_fails;

static enum kelpie_status write_some(struct host *host, int fd, const void *data, size_t size,
                                     const struct host_wait *wait, size_t *ret_size,
                                     struct kelpie_error *err) {
    static const uint8_t hold[] = {0, 0, 0, 0, PROTOCOL_VERSION, PROTOCOL_HOLD, 0, 0};
    uint8_t *changed = is_old ? memmem(data, size, hold, sizeof(hold)) : NULL;
    if (changed) {
        changed[TYPE_OFFSET] = TYPE_UNKNOWN;
    }
    return own_ops->write(host, fd, data, size, wait, ret_size, err);
}

static enum kelpie_status read_some(struct host *host, int fd, void *buffer, size_t size,
                                    const struct host_wait *wait, size_t *ret_size,
                                    struct kelpie_error *err) {
    static const uint8_t frozen[] = {4, 0, 0, 0, PROTOCOL_VERSION, PROTOCOL_FROZEN, 0, 0};
    TRY(own_ops->read(host, fd, buffer, size, wait, ret_size, err));
    uint8_t *found = freeze_error ? memmem(buffer, *ret_size, frozen, sizeof(frozen)) : NULL;
    if (found) {
        found[PROTOCOL_HEADER_SIZE] = (uint8_t)freeze_error;
    }
    return KELPIE_OK;
}

static enum kelpie_status file_write_at(struct host *host, int fd, const void *data, size_t size,
                                        uint64_t offset, struct kelpie_error *err) {
    if (cancel_at > 0 && --cancel_at == 0) {
        kelpie_vm_cancel(vm);
    }
    return own_ops->file_write_at(host, fd, data, size, offset, err);
}

static enum kelpie_status pause_machine(struct backend_instance *instance,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    return pause_fails ? error_set(err, KELPIE_IO_FAILED, "it does not pause")
                       : backend_find("mock")->pause(instance, wait, err);
}

static enum kelpie_status resume_machine(struct backend_instance *instance,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    return resume_fails ? error_set(err, KELPIE_IO_FAILED, "it does not resume")
                        : backend_find("mock")->resume(instance, wait, err);
}

static int set_up(void **state) {
    (void)state;
    static struct backend_ops ops;
    OK(host_linux_create(&here, NULL));
    own_ops = here->ops;
    host_ops = *here->ops;
    host_ops.write = write_some;
    host_ops.read = read_some;
    host_ops.file_write_at = file_write_at;
    here->ops = &host_ops;
    is_old = false;
    freeze_error = 0;
    cancel_at = 0;
    resume_fails = false;
    pause_fails = false;
    strcpy(folder, "/tmp/kelpie-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(bundle, sizeof(bundle), "%s/bundle", folder);
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .host = here};
    ops = *backend_find("mock");
    ops.pause = pause_machine;
    ops.resume = resume_machine;
    vm = NULL;
    OK(vm_create(&(struct vm_origin){.config = &config, .ops = &ops}, &vm, NULL));
    OK(kelpie_vm_start(vm, NULL));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    kelpie_vm_destroy(vm);
    host_destroy(here);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void expect_works(void) {
    struct kelpie_output output = {0};
    struct kelpie_error err = {0};
    if (kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("echo", "hello")}, &output,
                       &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_string_equal(output.stdout_data, "hello\n");
    kelpie_output_free(&output);
}

static void expect_fails(enum kelpie_status wanted, const char *field, enum kelpie_state after) {
    static const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                           .workspace = "/tmp"};
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_error err = {0};
    enum kelpie_status status = kelpie_vm_snapshot(vm, bundle, &options, &snapshot, &err);
    if (status != wanted || strcmp(err.field, field) != 0) {
        fail_msg("%s, field %s: %s", kelpie_status_name(status), err.field, err.message);
    }
    assert_int_equal(kelpie_vm_state(vm), after);
    assert_int_equal(rmdir(folder), 0); /* nothing is in it */
    assert_int_equal(mkdir(folder, 0700), 0);
}

static void checkpoint_works(void) {
    static const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                           .workspace = "/tmp"};
    struct kelpie_snapshot snapshot = {0};
    OK(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, NULL));
}

static void a_guest_of_before_is_told(void **state) {
    (void)state;
    is_old = true;
    expect_fails(KELPIE_UNSUPPORTED, "guest", KELPIE_STATE_RUNNING);
    expect_works();
    OK(kelpie_vm_pause(vm, NULL));
    expect_fails(KELPIE_UNSUPPORTED, "guest", KELPIE_STATE_PAUSED);
    is_old = false;
    OK(kelpie_vm_resume(vm, NULL));
    checkpoint_works();
    expect_works();
}

static void commands_that_cannot_stop_make_none(void **state) {
    (void)state;
    freeze_error = ETIMEDOUT;
    expect_fails(KELPIE_SNAPSHOT_FAILED, "", KELPIE_STATE_RUNNING);
    expect_works();
    /* It is paused although its commands do not stand still; and then they would run while files are read. */
    OK(kelpie_vm_pause(vm, NULL));
    freeze_error = 0;
    expect_fails(KELPIE_SNAPSHOT_FAILED, "quiesced", KELPIE_STATE_PAUSED);
    OK(kelpie_vm_resume(vm, NULL));
    checkpoint_works();
}

static void a_cancel_ends_it(void **state) {
    (void)state;
    cancel_at = 1;
    const uint8_t zeros[8192] = {1};
    char path[128];
    snprintf(path, sizeof(path), "%s-source", bundle);
    int fd = creat(path, 0600);
    assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
    close(fd);
    OK(kelpie_copy_in(vm, path, "/tmp/file", NULL, NULL));
    assert_int_equal(unlink(path), 0);
    expect_fails(KELPIE_CANCELLED, "", KELPIE_STATE_RUNNING);
    expect_works();
    checkpoint_works();
}

static void a_paused_machine_that_does_not_go_on_stays_paused(void **state) {
    (void)state;
    OK(kelpie_vm_pause(vm, NULL));
    resume_fails = true;
    expect_fails(KELPIE_SNAPSHOT_FAILED, "", KELPIE_STATE_PAUSED);
    resume_fails = false;
    /* And one that does not stand still again is said to be paused, and will be before its bytes are taken. */
    pause_fails = true;
    expect_fails(KELPIE_SNAPSHOT_FAILED, "", KELPIE_STATE_PAUSED);
    assert_true(vm->may_run);
    pause_fails = false;
    checkpoint_works();
    assert_false(vm->may_run);
    OK(kelpie_vm_resume(vm, NULL));
    expect_works();
}

/* What is mounted in a workspace, or whose it is, is nothing to be kept, or replaced. */
static void mounts_are_refused(void **state) {
    (void)state;
    const struct kelpie_disk disks[] = {
        {.path = "a"}, {.path = "b", .mount = "/"}, {.path = "c", .mount = "/disk//in/"}};
    const struct kelpie_share shares[] = {{.path = "a", .mount = "/copied"},
                                          {.path = "b", .mount = "/live/folder"}};
    static const struct {
        const char *workspace;
        enum kelpie_status status;
    } cases[] = {
        {"/disk/in", KELPIE_OK},   /* the disk is the workspace */
        {"/disk/in/x", KELPIE_OK}, /* or has it */
        {"/disk/i", KELPIE_OK},
        {"/disk", KELPIE_BAD_CONFIG},
        {"/copied", KELPIE_OK},
        {"/live", KELPIE_BAD_CONFIG},
        {"/live/folder", KELPIE_BAD_CONFIG},
        {"/live/folder/x", KELPIE_BAD_CONFIG},
        {"/live/folders", KELPIE_OK},
    };
    const struct kelpie_config *own = vm->config;
    struct kelpie_config config = *own;
    config.disks = disks;
    config.disk_count = ARRAY_SIZE(disks);
    config.shares = shares;
    config.share_count = ARRAY_SIZE(shares);
    vm->config = &config;
    vm->live_shares = 2;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        assert_int_equal(vm_checkpoint_check_mounts(vm, cases[i].workspace, &err), cases[i].status);
        assert_string_equal(err.field, cases[i].status == KELPIE_OK ? "" : "workspace");
    }
    vm->config = own;
    vm->live_shares = 0;
}

/* What the caller says goes first; what nobody says is as it was. */
static void a_config_is_made_of_both(void **state) {
    (void)state;
    struct snapshot_manifest *manifest = NULL;
    struct kelpie_network network = {0};
    struct kelpie_config config = {0};
    struct kelpie_error err = {0};
    OK(snapshot_manifest_create(here, &manifest, NULL));
    manifest->info.kind = KELPIE_SNAPSHOT_CHECKPOINT;
    strcpy(manifest->info.backend, "mock");
    manifest->vcpu_count = 3;
    manifest->memory_mib = 99;
    OK(vm_checkpoint_config(here, manifest, NULL, &network, &config, &err));
    assert_string_equal(config.backend, "mock");
    assert_int_equal(config.vcpu_count, 3);
    assert_null(config.working_dir);
    assert_null(config.image);
    assert_null(config.network);
    strcpy(manifest->info.backend, "remote");
    OK(vm_checkpoint_config(here, manifest, NULL, &network, &config, &err));
    assert_string_equal(config.backend, "auto");
    strcpy(manifest->info.backend, "gone");
    strcpy(manifest->working_dir, "/w");
    OK(snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_NETWORK, "user", NULL));
    OK(snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_IMAGE, "sha256:0", NULL));
    OK(vm_checkpoint_config(here, manifest, NULL, &network, &config, &err));
    assert_string_equal(config.backend, "auto");
    assert_string_equal(config.working_dir, "/w");
    assert_string_equal(config.image, "sha256:0");
    assert_ptr_equal(config.network, &network);
    const struct kelpie_network tap = {.kind = KELPIE_NETWORK_TAP, .tap = "t"};
    const char *const env[] = {"A=1", NULL};
    const struct kelpie_config wanted = {.backend = "auto",
                                         .vcpu_count = 2,
                                         .memory_mib = 64,
                                         .kernel_args = "quiet",
                                         .working_dir = "/x",
                                         .env = env,
                                         .image = "other",
                                         .network = &tap};
    OK(vm_checkpoint_config(here, manifest, &wanted, &network, &config, &err));
    assert_memory_equal(&config, &wanted, sizeof(config));
    manifest->feature_count = 0;
    OK(snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_NETWORK, "tap", NULL));
    assert_int_equal(vm_checkpoint_config(here, manifest, NULL, &network, &config, &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE); /* which one, nobody knows */
    assert_string_equal(err.field, "network");
    snapshot_manifest_destroy(manifest);
}

#define GUEST_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        GUEST_TEST(a_guest_of_before_is_told),
        GUEST_TEST(commands_that_cannot_stop_make_none),
        GUEST_TEST(a_cancel_ends_it),
        GUEST_TEST(mounts_are_refused),
        GUEST_TEST(a_config_is_made_of_both),
        GUEST_TEST(a_paused_machine_that_does_not_go_on_stays_paused),
    };
    return cmocka_run_group_tests_name("checkpoint guest", tests, NULL, NULL);
}
