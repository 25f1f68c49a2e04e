/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the kvm backend refuses of a bundle before it starts its monitor: here no process can be started. */
#include "backend/kvm/kvm_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "snapshot/snapshot.h"
#include "support/backend_vm.h"
#include "support/fault_host.h"

#define MEMORY_MIB 64u
#define MEMORY_SIZE ((uint64_t)MEMORY_MIB << 20)

struct fixture {
    struct host *inner;
    struct host *host;
    struct backend_vm vm;
    char folder[64];
    char bundle[96];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-kvm-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->bundle, sizeof(fixture->bundle), "%s/bundle", fixture->folder);
    backend_vm_init(&fixture->vm, fixture->host, &backend_kvm_ops);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    backend_vm_destroy(&fixture->vm);
    assert_int_equal(rmdir(fixture->folder), 0);
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    free(fixture);
    return 0;
}

/* A bundle as the backend would write it, but for these. */
struct bundle {
    const char *architecture;
    uint64_t memory_size;
    bool memory_in_state; /* and no part for it */
    const char *medium;   /* what it says of the medium's size; NULL: nothing */
    bool damaged;         /* its state is not what was sealed */
};

static void write_bundle(struct fixture *fixture, const struct bundle *bundle) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_snapshot snapshot;
    const struct host_wait wait = host_wait_ms(fixture->host, 60000, HOST_FD_NONE);
    int fd = HOST_FD_NONE;
    assert_int_equal(snapshot_writer_create(fixture->host, fixture->bundle, 0, &writer, NULL),
                     KELPIE_OK);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "%s",
             bundle->architecture);
    manifest->vcpu_count = 1;
    manifest->memory_mib = MEMORY_MIB;
    manifest->memory_in_state = bundle->memory_in_state;
    if (bundle->medium) {
        assert_int_equal(
            snapshot_manifest_add_feature(manifest, "medium_bytes", bundle->medium, NULL),
            KELPIE_OK);
    }
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(fixture->host, fd, "state", 5, 0, NULL), KELPIE_OK);
    if (!bundle->memory_in_state) {
        assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &fd, NULL), KELPIE_OK);
        assert_int_equal(host_file_truncate(fixture->host, fd, bundle->memory_size, NULL),
                         KELPIE_OK);
    }
    assert_int_equal(snapshot_writer_publish(writer, &wait, &snapshot, NULL), KELPIE_OK);
    snapshot_writer_destroy(writer);
    if (bundle->damaged) {
        char path[128];
        snprintf(path, sizeof(path), "%s/state", fixture->bundle);
        assert_int_equal(host_file_open(fixture->host, path, HOST_OPEN_WRITE, 0, &fd, NULL),
                         KELPIE_OK);
        assert_int_equal(host_file_write_at(fixture->host, fd, "STATE", 5, 0, NULL), KELPIE_OK);
        host_close(fixture->host, fd);
    }
}

static enum kelpie_status prepare(struct fixture *fixture, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    assert_int_equal(snapshot_reader_open(fixture->host, fixture->bundle, &reader, NULL),
                     KELPIE_OK);
    enum kelpie_status status = fixture->vm.ops->prepare(fixture->vm.instance, reader, wait, err);
    snapshot_reader_close(reader);
    return status;
}

static void expect_refused(struct fixture *fixture, const struct bundle *bundle,
                           enum kelpie_status expected, const char *field) {
    struct kelpie_error err = {0};
    write_bundle(fixture, bundle);
    fault_host_arm(fixture->host,
                   &(struct fault_plan){.nth = 1, .sticky = true, .only = "process_spawn"});
    enum kelpie_status status = backend_vm_load(&fixture->vm, fixture->bundle, &err);
    if (!bundle->medium) { /* a load ahead sees the same, but for disks */
        const struct host_wait wait = host_wait_ms(fixture->host, 60000, HOST_FD_NONE);
        assert_int_equal(prepare(fixture, &wait, NULL), expected);
    }
    assert_int_equal(host_path_remove_folder(fixture->host, fixture->bundle, NULL), KELPIE_OK);
    if (status != expected || strcmp(err.field, field) != 0) {
        fail_msg("%llu bytes: %s, field '%s': %s", (unsigned long long)bundle->memory_size,
                 kelpie_status_name(status), err.field, err.message);
    }
    assert_null(fault_host_fired(fixture->host)); /* nobody tried */
    fault_host_disarm(fixture->host);
}

static void create(struct fixture *fixture) {
    struct kelpie_error err = {0};
    enum kelpie_status status = backend_vm_create(&fixture->vm, &err);
    if (status == KELPIE_NOT_FOUND) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    if (status != KELPIE_OK) {
        fail_msg("create: %s", err.message);
    }
}

static void hazard_b2_a_memory_that_is_not_the_machines_is_refused(void **state) {
    static const uint64_t sizes[] = {0,
                                     1,
                                     4096,
                                     MEMORY_SIZE - 4096,
                                     MEMORY_SIZE - 1,
                                     MEMORY_SIZE + 1,
                                     MEMORY_SIZE + 4096,
                                     2 * MEMORY_SIZE};
    struct fixture *fixture = *state;
    create(fixture);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct bundle bundle = {.architecture = "x86_64", .memory_size = sizes[i]};
        expect_refused(fixture, &bundle, KELPIE_SNAPSHOT_CORRUPT, "memory");
    }
    const struct bundle in_state = {.architecture = "x86_64", .memory_in_state = true};
    expect_refused(fixture, &in_state, KELPIE_SNAPSHOT_CORRUPT, "memory");
    const struct bundle other = {.architecture = "riscv64", .memory_size = MEMORY_SIZE};
    expect_refused(fixture, &other, KELPIE_SNAPSHOT_INCOMPATIBLE, "architecture");
}

static void a_bundle_that_is_damaged_is_refused(void **state) {
    static const char *const sizes[] = {"0", "511", "x", "536871424", "-512"};
    struct fixture *fixture = *state;
    fixture->vm.launch.for_bundle = true;
    create(fixture);
    const struct bundle damaged = {
        .architecture = "x86_64", .memory_size = MEMORY_SIZE, .damaged = true};
    expect_refused(fixture, &damaged, KELPIE_SNAPSHOT_CORRUPT, "state");
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct bundle bundle = {
            .architecture = "x86_64", .memory_size = MEMORY_SIZE, .medium = sizes[i]};
        expect_refused(fixture, &bundle, KELPIE_SNAPSHOT_CORRUPT, "medium_bytes");
    }
}

/* ---- A VM that was made for a bundle ---------------------------------------------------------- */

static char *kernel_path(struct fixture *fixture) {
    static char path[96];
    snprintf(path, sizeof(path), "%s/vmlinuz", fixture->folder);
    return path;
}

/* The header of a bzImage is all that is looked at. */
static void make_kernel(struct fixture *fixture) {
    uint8_t data[8192] = {0};
    data[0x1f1] = 3;
    data[0x1f4] = (sizeof(data) - 2048) / 16 & 0xff;
    data[0x1f5] = (sizeof(data) - 2048) / 16 >> 8;
    memcpy(data + 0x1fe, "\x55\xaaxxHdrS\x0f\x02", 10);
    data[0x20f] = 1;
    data[0x211] = 1;
    memcpy(data + 0x300, "6.1.0 (test)", 13);
    assert_int_equal(
        host_file_store(fixture->host, kernel_path(fixture), data, sizeof(data), 0600, NULL),
        KELPIE_OK);
}

/* What only a boot needs is looked for when it boots, or is asked what it would boot. */
static void its_kernel_is_looked_for_when_it_is_needed(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct snapshot_manifest *manifest = NULL;
    struct kelpie_error err;
    char command[256];
    setenv("XDG_CACHE_HOME", fixture->folder, 1);
    vm->launch.for_bundle = true;
    vm->config.kernel = kernel_path(fixture);
    assert_int_equal(snapshot_manifest_create(fixture->host, &manifest, &err), KELPIE_OK);
    create(fixture); /* there is no such kernel */
    assert_int_equal(vm->ops->identify(vm->instance, manifest, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
    assert_int_equal(backend_vm_start(vm, 60000, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
    make_kernel(fixture);
    fault_host_arm(fixture->host,
                   &(struct fault_plan){.nth = 1, .sticky = true, .only = "process_spawn"});
    assert_int_not_equal(backend_vm_start(vm, 60000, &err), KELPIE_OK);
    assert_string_not_equal(err.field, "kernel"); /* it got further: to /dev/kvm, or the monitor */
    fault_host_disarm(fixture->host);
    assert_int_equal(vm->ops->identify(vm->instance, manifest, &err), KELPIE_OK);
    assert_int_equal(strlen(manifest->kernel_digest), SNAPSHOT_DIGEST_SIZE - 1);
    assert_int_equal(manifest->memory_mib, vm->config.memory_mib);
    snapshot_manifest_destroy(manifest);
    snprintf(command, sizeof(command), "rm -rf %s/*", fixture->folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_b2_a_memory_that_is_not_the_machines_is_refused,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_bundle_that_is_damaged_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(its_kernel_is_looked_for_when_it_is_needed, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("kvm snapshot", tests, NULL, NULL);
}
