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
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(fixture->host, fd, "state", 5, 0, NULL), KELPIE_OK);
    if (!bundle->memory_in_state) {
        assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &fd, NULL), KELPIE_OK);
        assert_int_equal(host_file_truncate(fixture->host, fd, bundle->memory_size, NULL),
                         KELPIE_OK);
    }
    assert_int_equal(snapshot_writer_publish(writer, &wait, &snapshot, NULL), KELPIE_OK);
    snapshot_writer_destroy(writer);
}

static void expect_refused(struct fixture *fixture, const struct bundle *bundle,
                           enum kelpie_status expected, const char *field) {
    struct kelpie_error err = {0};
    write_bundle(fixture, bundle);
    fault_host_arm(fixture->host,
                   &(struct fault_plan){.nth = 1, .sticky = true, .only = "process_spawn"});
    enum kelpie_status status = backend_vm_load(&fixture->vm, fixture->bundle, &err);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_b2_a_memory_that_is_not_the_machines_is_refused,
                                        setup, teardown),
    };
    return cmocka_run_group_tests_name("kvm snapshot", tests, NULL, NULL);
}
