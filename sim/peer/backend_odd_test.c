/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What seldom happens to the real backends over the scripted monitors: things that were moved, changed or never there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "sim/world_harness_test.h"

#define ODD_COUNT 5
#define FOLDER "/root/"
#define DISK FOLDER "disk"
#define BUNDLE FOLDER "bundle"
#define OTHER FOLDER "other"
#define DISK_SIZE 65536
#define SEED_COUNT 6

static const char *backend;

static void run_on(uint64_t seed, const char *name, void (*body)(void)) {
    backend = name;
    run_world(seed, body);
}

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, int line) {
    if (status != expected) {
        print_error("line %d: %s: is %s, should be %s: %s\n", line, backend,
                    kelpie_status_name(status), kelpie_status_name(expected),
                    status != KELPIE_OK ? err->message : "");
        fail();
    }
}
#define OK(call) expect((call), KELPIE_OK, &err, __LINE__)
#define FAILS(call, status) expect((call), status, &err, __LINE__)

static void write_file(const char *path, char byte, size_t size) {
    struct kelpie_error err = {0};
    static char bytes[2 * DISK_SIZE];
    assert_true(size <= sizeof(bytes));
    memset(bytes, byte, sizeof(bytes));
    OK(host_file_store(host, path, bytes, size, 0600, &err));
}

static struct kelpie_config config_make(void) {
    return (struct kelpie_config){
        .backend = backend, .kernel = SIM_KERNEL_PATH, .host = host, .memory_mib = 64};
}

static struct kelpie_vm *vm_start(const struct kelpie_config *config) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create(config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static void save(const struct kelpie_config *config, const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = vm_start(config);
    OK(kelpie_vm_snapshot(vm, path, NULL, NULL, &err));
    kelpie_vm_destroy(vm);
}

/* ---- No backend ------------------------------------------------------------------------------- */

static void no_backend(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_config config = config_make();
    world->faults.ppm[SIM_FAULT_KVM_PROBE_FAILS] = SIM_PPM;
    world->faults.ppm[SIM_FAULT_PROCESS_SPAWN_FAILS] = SIM_PPM;
    config.backend = "auto";
    FAILS(kelpie_vm_create(&config, &vm, &err), KELPIE_BACKEND_MISSING);
    assert_string_equal(err.field, "backend");
    assert_non_null(strstr(err.message, "kvm: "));
    assert_non_null(strstr(err.message, "qemu: "));
    assert_null(vm);
    world->faults.ppm[SIM_FAULT_PROCESS_SPAWN_FAILS] = 0;
    OK(kelpie_vm_create(&config, &vm, &err));
    kelpie_vm_destroy(vm);
}

static void test_each_backend_says_why_it_is_of_no_use(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        run_on(seed, "auto", no_backend);
    }
}

/* ---- A disk outside of the bundle ------------------------------------------------------------- */

static void restore_refused(const char *text) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.host = host};
    FAILS(kelpie_vm_create_from_snapshot(BUNDLE, &config, NULL, &vm, &err),
          KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(err.message, text));
    assert_int_not_equal(kelpie_vm_create_from_snapshot(BUNDLE, &config, NULL, &vm, NULL),
                         KELPIE_OK);
}

static void disk_outside(void) {
    struct kelpie_error err = {0};
    const struct kelpie_disk disk = {.path = DISK, .read_only = true};
    struct kelpie_config config = config_make();
    config.disks = &disk;
    config.disk_count = 1;
    write_file(DISK, 'a', DISK_SIZE);
    save(&config, BUNDLE);
    write_file(DISK, 'b', DISK_SIZE);
    restore_refused("has changed");
    write_file(DISK, 'a', 2 * DISK_SIZE);
    restore_refused("has another size");
    OK(host_path_unlink(host, DISK, &err));
    restore_refused("cannot be opened");
    write_file(DISK, 'a', DISK_SIZE);
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config again = {.host = host};
    OK(kelpie_vm_create_from_snapshot(BUNDLE, &again, NULL, &vm, &err));
    kelpie_vm_destroy(vm);
}

static void test_a_disk_outside_must_be_what_it_was(void **state) {
    (void)state;
    run_on(1, "kvm", disk_outside);
    run_on(1, "qemu", disk_outside);
}

/* ---- A bundle that is not what it was --------------------------------------------------------- */

static void bundle_is_another(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config again = {.host = host};
    const struct kelpie_config config = config_make();
    save(&config, BUNDLE);
    save(&config, OTHER);
    OK(kelpie_vm_create_from_snapshot(BUNDLE, &again, NULL, &vm, &err));
    OK(host_path_remove_folder(host, BUNDLE, &err));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_NOT_FOUND);
    OK(host_path_rename(host, OTHER, BUNDLE, true, &err));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "id");
    kelpie_vm_destroy(vm);
    vm = vm_start(&config);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
}

static void parent_is_damaged(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *other = NULL;
    const struct kelpie_config again = {.host = host};
    const struct kelpie_config config = config_make();
    const struct kelpie_snapshot_options full = {.track = true};
    const struct kelpie_snapshot_options diff = {.track = true, .parent = BUNDLE "///"};
    struct kelpie_vm *vm = vm_start(&config);
    OK(kelpie_vm_snapshot(vm, BUNDLE, &full, NULL, &err));
    OK(kelpie_vm_snapshot(vm, OTHER, &diff, NULL, &err));
    kelpie_vm_destroy(vm);
    int fd = HOST_FD_NONE;
    OK(host_file_open(host, BUNDLE "/memory", HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd, &err));
    OK(host_file_write_at(host, fd, "x", 1, 200, &err));
    host_close(host, fd);
    const struct kelpie_restore_options options = {.verify_memory = true};
    FAILS(kelpie_vm_create_from_snapshot(OTHER, &again, &options, &other, &err),
          KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "parent");
    FAILS(kelpie_vm_create_from_snapshot(OTHER, &again, &options, &other, NULL),
          KELPIE_SNAPSHOT_CORRUPT);
}

static void test_a_bundle_must_be_what_it_was(void **state) {
    (void)state;
    run_on(1, "kvm", bundle_is_another);
    run_on(1, "kvm", parent_is_damaged);
}

/* ---- A guest that does not come up ------------------------------------------------------------ */

static void no_guest(void) {
    struct kelpie_error err = {0};
    static const uint32_t sizes[] = {64, 1024};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct kelpie_config config = config_make();
        struct kelpie_vm *vm = NULL;
        config.memory_mib = sizes[i];
        config.kernel_args = "an.argument=1";
        OK(kelpie_vm_create(&config, &vm, &err));
        world->faults.ppm[SIM_FAULT_GUEST_DIES] = SIM_PPM;
        FAILS(kelpie_vm_start(vm, &err), KELPIE_BOOT_FAILED);
        assert_true((strstr(err.message, "MiB") != NULL) == (sizes[i] == 64));
        kelpie_vm_destroy(vm);
        OK(kelpie_vm_create(&config, &vm, &err));
        FAILS(kelpie_vm_start(vm, NULL), KELPIE_BOOT_FAILED);
        world->faults.ppm[SIM_FAULT_GUEST_DIES] = 0;
        kelpie_vm_destroy(vm);
        vm = vm_start(&config);
        kelpie_vm_destroy(vm);
    }
}

static void test_little_memory_is_named_where_it_is_little(void **state) {
    (void)state;
    run_on(1, "kvm", no_guest);
    run_on(1, "qemu", no_guest);
}

/* ---- libkrun -------------------------------------------------------------------------------------- */

static void only_its_own_kernel(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_config config = config_make();
    FAILS(kelpie_vm_create(&config, &vm, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
    assert_non_null(strstr(err.message, "no bzImage"));
    config.kernel = NULL; /* $KELPIE_KERNEL is for those that boot any */
    vm = vm_start(&config);
    struct kelpie_snapshot snapshot;
    FAILS(kelpie_vm_snapshot(vm, BUNDLE, NULL, &snapshot, &err), KELPIE_UNSUPPORTED);
    kelpie_vm_destroy(vm);
}

/* Whatever its process says when it starts: an error, and then a VM that works. */
static void a_process_out_of_its_mind(void) {
    struct kelpie_error err = {0};
    struct kelpie_config config = config_make();
    config.kernel = SIM_KRUNFW_PATH;
    kelpie_vm_destroy(vm_start(&config)); /* the initramfs is made: busybox has had its say */
    for (int i = 0; i < ODD_COUNT; i++) {
        struct kelpie_vm *vm = NULL;
        world->faults.ppm[SIM_FAULT_PEER_GARBAGE] = SIM_PPM;
        enum kelpie_status status = kelpie_vm_create(&config, &vm, &err);
        if (status != KELPIE_INTERNAL && status != KELPIE_BACKEND_MISSING) {
            fail_msg("create: %s: %s", kelpie_status_name(status), err.message);
        }
        assert_true(strlen(err.message) > 10);
        world->faults.ppm[SIM_FAULT_PEER_GARBAGE] = 0;
        OK(kelpie_vm_create(&config, &vm, &err));
        world->faults.ppm[SIM_FAULT_PEER_GARBAGE] = SIM_PPM;
        status = kelpie_vm_start(vm, &err);
        if (status != KELPIE_INTERNAL && status != KELPIE_BOOT_TIMED_OUT) {
            fail_msg("start: %s: %s", kelpie_status_name(status), err.message);
        }
        world->faults.ppm[SIM_FAULT_PEER_GARBAGE] = 0;
        OK(kelpie_vm_start(vm, &err));
        kelpie_vm_destroy(vm);
    }
}

/* It is loaded, and that does not end: create says so, and what to install, and so does the probe. */
static void a_process_that_hangs(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_probe probe = {0};
    struct kelpie_config config = config_make();
    config.kernel = NULL;
    world->faults.ppm[SIM_FAULT_PEER_SILENT] = SIM_PPM;
    FAILS(kelpie_vm_create(&config, &vm, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "did not come up within 10000 ms"));
    assert_non_null(strstr(err.message, "install libkrun 1.17"));
    OK(kelpie_backend_probe_on(config.host, "libkrun", &probe, &err));
    assert_false(probe.usable);
    assert_non_null(strstr(probe.reason, "did not come up within 10000 ms"));
    assert_non_null(strstr(probe.install, "install libkrun 1.17"));
    world->faults.ppm[SIM_FAULT_PEER_SILENT] = 0;
}

static void test_libkrun_is_not_trusted(void **state) {
    (void)state;
    run_on(1, "libkrun", a_process_that_hangs);
    run_on(1, "libkrun", only_its_own_kernel);
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        run_on(seed, "libkrun", a_process_out_of_its_mind);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_libkrun_is_not_trusted),
        cmocka_unit_test(test_each_backend_says_why_it_is_of_no_use),
        cmocka_unit_test(test_a_disk_outside_must_be_what_it_was),
        cmocka_unit_test(test_a_bundle_must_be_what_it_was),
        cmocka_unit_test(test_little_memory_is_named_where_it_is_little),
    };
    return cmocka_run_group_tests_name("sim/peer/backend_odd", tests, NULL, NULL);
}
