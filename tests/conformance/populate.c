/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a guest has as it starts: shared folders, secrets. Each case has VMs of its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"
#include "kelpie_store.h"

#define TOKEN "correct-horse-battery-staple"

static struct kelpie_vm *start_with(const struct kelpie_config *more) {
    struct kelpie_config config = *more;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    config.backend = suite()->backend;
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static void expect_secret(struct kelpie_vm *vm, const char *name, const void *data, size_t size) {
    struct kelpie_error err = {0};
    struct stat info;
    char path[128];
    size_t found_size = 0;
    snprintf(path, sizeof(path), "/run/secrets/%s", name);
    OK(kelpie_copy_out(vm, path, host_path("secret"), NULL, &err));
    assert_int_equal(stat(host_path("secret"), &info), 0);
    assert_int_equal(info.st_mode & 07777, 0400);
    char *found = host_file_read(host_path("secret"), &found_size);
    assert_int_equal(found_size, size);
    assert_true(size == 0 || memcmp(found, data, size) == 0);
    free(found);
    unlink(host_path("secret"));
}

static void test_secrets_are_files_of_the_guest(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    uint8_t binary[5000];
    pattern_fill(binary, sizeof(binary), 3);
    char given[] = TOKEN;
    const struct kelpie_secret secrets[] = {
        {.name = "token", .data = given, .size = strlen(given)},
        {.name = "key.bin", .data = binary, .size = sizeof(binary)},
        {.name = "empty"},
    };
    struct kelpie_vm *vm =
        start_with(&(struct kelpie_config){.secrets = secrets, .secret_count = 3});
    memset(given, 'x', sizeof(given)); /* the VM has a copy of its own */
    expect_shell(vm, "cat /run/secrets/token", 0, TOKEN);
    expect_secret(vm, "token", TOKEN, strlen(TOKEN));
    expect_secret(vm, "key.bin", binary, sizeof(binary));
    expect_secret(vm, "empty", NULL, 0);
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_vm_start(vm, &err)); /* a new machine has them too */
    expect_secret(vm, "token", TOKEN, strlen(TOKEN));
    kelpie_vm_destroy(vm);
}

static void test_no_manifest_has_a_secret(void **state) {
    (void)state;
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "snapshots");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot;
    size_t size = 0;
    const struct kelpie_secret secret = {.name = "token", .data = TOKEN, .size = strlen(TOKEN)};
    struct kelpie_vm *vm =
        start_with(&(struct kelpie_config){.secrets = &secret, .secret_count = 1});
    OK(kelpie_vm_snapshot(vm, host_path("bundle"), NULL, &snapshot, &err));
    char *manifest = host_file_read(host_path("bundle/manifest.json"), &size);
    assert_true(size > 0);
    assert_null(memmem(manifest, size, TOKEN, strlen(TOKEN)));
    free(manifest);
    kelpie_vm_destroy(vm);

    /* What is restored has its memory's. */
    struct kelpie_vm *restored = NULL;
    OK(kelpie_vm_create_from_snapshot(host_path("bundle"), NULL, NULL, &restored, &err));
    expect_secret(restored, "token", TOKEN, strlen(TOKEN));
    kelpie_vm_destroy(restored);
    bundle_remove(host_path("bundle"));
}

static void test_a_copied_folder_is_the_guests_own(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    size_t size = 0;
    assert_int_equal(mkdir(host_path("tree"), 0755), 0);
    assert_int_equal(mkdir(host_path("tree/a"), 0755), 0);
    host_file_write(host_path("tree/a/file"), "from the host\n", 14, 0644);
    const struct kelpie_share share = {
        .path = host_path("tree"), .mount = "/srv/work", .copy = true};
    struct kelpie_vm *vm = start_with(&(struct kelpie_config){.shares = &share, .share_count = 1});
    expect_shell(vm, "cat /srv/work/a/file && echo mine > /srv/work/a/file", 0, "from the host\n");
    char *found = host_file_read(host_path("tree/a/file"), &size);
    assert_int_equal(size, 14);
    free(found);

    /* A new machine gets what is there then. */
    host_file_write(host_path("tree/a/file"), "later\n", 6, 0644);
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_vm_start(vm, &err));
    expect_shell(vm, "cat /srv/work/a/file", 0, "later\n");
    kelpie_vm_destroy(vm);
    unlink(host_path("tree/a/file"));
    rmdir(host_path("tree/a"));
    rmdir(host_path("tree"));
}

/* A backend that says it cannot refuses; one that says it can shows what the host has, both ways. */
static void test_a_live_folder_is_the_hosts_own(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_probe probe = {0};
    struct kelpie_snapshot snapshot;
    struct kelpie_vm *vm = NULL;
    size_t size = 0;
    OK(kelpie_backend_probe(suite()->backend, &probe, &err));
    assert_int_equal(mkdir(host_path("tree"), 0755), 0);
    host_file_write(host_path("tree/file"), "from the host\n", 14, 0644);
    const struct kelpie_share share = {
        .path = host_path("tree"), .mount = "/srv/work", .live = true};
    const struct kelpie_config config = {
        .backend = suite()->backend, .shares = &share, .share_count = 1};
    if (strncmp(probe.shares, "live", 4) != 0) {
        OK(kelpie_vm_create(&config, &vm, &err));
        FAILS(kelpie_vm_start(vm, &err), KELPIE_UNSUPPORTED);
        assert_string_equal(err.field, "shares[0].live");
        kelpie_vm_destroy(vm);
        unlink(host_path("tree/file"));
        rmdir(host_path("tree"));
        skip_aloud("no folder is shown live here");
    }
    vm = start_with(&config);
    assert_int_equal(kelpie_vm_live_shares(vm), 1);
    expect_shell(vm, "cat /srv/work/file && echo from the guest > /srv/work/answer", 0,
                 "from the host\n");
    char *found = host_file_read(host_path("tree/answer"), &size);
    assert_int_equal(size, 15);
    free(found);
    host_file_write(host_path("tree/later"), "later\n", 6, 0644);
    expect_shell(vm, "cat /srv/work/later && rm /srv/work/later", 0, "later\n");
    assert_int_equal(access(host_path("tree/later"), F_OK), -1);

    FAILS(kelpie_vm_snapshot(vm, host_path("bundle"), NULL, &snapshot, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "shares");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    OK(kelpie_vm_stop(vm, 0, &err));
    assert_int_equal(kelpie_vm_live_shares(vm), 0);
    OK(kelpie_vm_start(vm, &err)); /* a new machine, and a new connection to the folder */
    expect_shell(vm, "cat /srv/work/answer", 0, "from the guest\n");
    kelpie_vm_destroy(vm);
    unlink(host_path("tree/answer"));
    unlink(host_path("tree/file"));
    rmdir(host_path("tree"));
}

static void test_a_folder_that_is_not_there(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_share share = {.path = host_path("missing"), .mount = "/x", .copy = true};
    const struct kelpie_config config = {
        .backend = suite()->backend, .shares = &share, .share_count = 1};
    OK(kelpie_vm_create(&config, &vm, &err));
    FAILS(kelpie_vm_start(vm, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "shares[0].path");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    assert_int_equal(kelpie_vm_process_id(vm), 0);
    kelpie_vm_destroy(vm);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_secrets_are_files_of_the_guest),
    cmocka_unit_test(test_no_manifest_has_a_secret),
    cmocka_unit_test(test_a_copied_folder_is_the_guests_own),
    cmocka_unit_test(test_a_live_folder_is_the_hosts_own),
    cmocka_unit_test(test_a_folder_that_is_not_there),
};
const struct group group_populate = {
    .name = "populate", .tests = tests, .count = sizeof(tests) / sizeof(tests[0])};
