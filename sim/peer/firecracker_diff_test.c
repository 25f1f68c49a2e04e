/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Diffs and their chains with the firecracker backend, over the scripted Firecracker, on hosts with swap and without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "sim/world_harness_test.h"

#define FOLDER "/root/"
#define SWAPS "/proc/swaps"
#define TITLES "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
#define SPACE "/dev/sda2                               partition\t1048572\t\t0\t\t-2\n"
#define WAIT_MS 20000
#define BALLAST_SIZE 100000

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, int line) {
    if (status != expected) {
        fail_msg("line %d: is %s, should be %s: %s", line, kelpie_status_name(status),
                 kelpie_status_name(expected), status != KELPIE_OK ? err->message : "");
    }
}
#define OK(call) expect((call), KELPIE_OK, &err, __LINE__)
#define FAILS(call, status) expect((call), status, &err, __LINE__)

static void put_swaps(const char *text) {
    struct kelpie_error err = {0};
    OK(host_path_mkdir_all(host, "/proc", 0755, &err));
    OK(host_file_store(host, SWAPS, text, strlen(text), 0600, &err));
}

static struct kelpie_vm *boot(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "firecracker",
                                         .kernel = SIM_KERNEL_PATH,
                                         .memory_mib = 64,
                                         .operation_timeout_ms = WAIT_MS,
                                         .boot_timeout_ms = WAIT_MS,
                                         .host = host};
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static struct kelpie_vm *restore(const char *bundle) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.host = host};
    const struct kelpie_restore_options options = {.track = true, .verify_memory = true};
    OK(kelpie_vm_create_from_snapshot(bundle, &config, &options, &vm, &err));
    return vm;
}

static void sh(struct kelpie_vm *vm, const char *script, const char *expected) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    const struct kelpie_command command = {.argv = argv};
    OK(kelpie_vm_exec(vm, &command, &output, &err));
    assert_string_equal(output.stdout_data, expected);
    kelpie_output_free(&output);
}

static struct kelpie_snapshot take(struct kelpie_vm *vm, const char *bundle, const char *parent) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    const struct kelpie_snapshot_options options = {.parent = parent, .track = true};
    OK(kelpie_vm_snapshot(vm, bundle, &options, &snapshot, &err));
    OK(kelpie_snapshot_verify_on(host, bundle, &err));
    return snapshot;
}

/* Pages of the guest's memory that stay as they are: they are in a bundle although nobody writes to them again. */
static void put_ballast(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    static uint8_t bytes[BALLAST_SIZE];
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i % 251 + 1);
    }
    OK(host_file_store(host, FOLDER "ballast", bytes, sizeof(bytes), 0600, &err));
    OK(kelpie_copy_in(vm, FOLDER "ballast", "/tmp/ballast", NULL, &err));
}

static void expect_ballast(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    char *there = NULL;
    char *here = NULL;
    size_t size = 0;
    OK(kelpie_copy_out(vm, "/tmp/ballast", FOLDER "back", NULL, &err));
    OK(host_file_load(host, FOLDER "back", BALLAST_SIZE + 1, &there, &size, &err));
    assert_int_equal(size, BALLAST_SIZE);
    OK(host_file_load(host, FOLDER "ballast", BALLAST_SIZE + 1, &here, &size, &err));
    assert_memory_equal(there, here, BALLAST_SIZE);
    free(there);
    free(here);
}

static void expect_restored(const char *bundle, const char *text) {
    struct kelpie_vm *vm = restore(bundle);
    sh(vm, "cat /tmp/file", text);
    expect_ballast(vm);
    kelpie_vm_destroy(vm);
}

/* A base, diffs of the VM that booted, diffs of one that was restored from a chain, and a whole one of that. */
static void live_in_a_chain(void) {
    struct kelpie_vm *vm = boot();
    put_ballast(vm);
    sh(vm, "echo base > /tmp/file", "");
    struct kelpie_snapshot base = take(vm, FOLDER "base", NULL);
    sh(vm, "echo one >> /tmp/file", "");
    struct kelpie_snapshot one = take(vm, FOLDER "one", FOLDER "base");
    assert_string_equal(one.parent_id, base.id);
    sh(vm, "echo two >> /tmp/file", "");
    take(vm, FOLDER "two", FOLDER "one");
    kelpie_vm_destroy(vm);

    vm = restore(FOLDER "two");
    sh(vm, "cat /tmp/file; echo three >> /tmp/file", "base\none\ntwo\n");
    take(vm, FOLDER "three", FOLDER "two");
    take(vm, FOLDER "whole", NULL);
    sh(vm, "echo four >> /tmp/file", "");
    take(vm, FOLDER "four", FOLDER "whole");
    kelpie_vm_destroy(vm);
    expect_restored(FOLDER "base", "base\n");
    expect_restored(FOLDER "one", "base\none\n");
    expect_restored(FOLDER "three", "base\none\ntwo\nthree\n");
    expect_restored(FOLDER "whole", "base\none\ntwo\nthree\n");
    expect_restored(FOLDER "four", "base\none\ntwo\nthree\nfour\n");
}

static void test_chains_without_swap(void **state) {
    (void)state;
    run_world(1, live_in_a_chain);
}

static void with_swap(void) {
    put_swaps(TITLES SPACE);
    live_in_a_chain();
}

static void test_chains_with_swap(void **state) {
    (void)state;
    run_world(2, with_swap);
}

/* ---- The contract of kelpie_vm_snapshot() ------------------------------------------------------ */

static void refuse(struct kelpie_vm *vm, const char *parent) {
    struct kelpie_error err = {0};
    const struct kelpie_snapshot_options options = {.parent = parent, .track = true};
    FAILS(kelpie_vm_snapshot(vm, FOLDER "never", &options, NULL, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "parent");
}

static void parents_that_are_none(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = boot();
    OK(kelpie_vm_snapshot(vm, FOLDER "untracked", NULL, NULL, &err));
    refuse(vm, FOLDER "untracked");
    take(vm, FOLDER "first", NULL);
    refuse(vm, FOLDER "untracked"); /* not the last */
    take(vm, FOLDER "second", FOLDER "first");
    refuse(vm, FOLDER "first");
    OK(kelpie_vm_pause(vm, &err)); /* nothing is asked ahead then */
    refuse(vm, FOLDER "first");
    OK(kelpie_vm_resume(vm, &err));
    struct kelpie_fork_child child = {0};
    OK(kelpie_vm_fork(vm, NULL, 1, &child, &err)); /* is no snapshot */
    assert_non_null(child.vm);
    refuse(child.vm, FOLDER "second");
    kelpie_vm_destroy(child.vm);
    take(vm, FOLDER "third", FOLDER "second");
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_vm_start(vm, &err));
    refuse(vm, FOLDER "third"); /* of another machine */
    take(vm, FOLDER "fourth", NULL);
    const struct kelpie_snapshot_options small = {.parent = FOLDER "fourth", .bytes_max = 1};
    FAILS(kelpie_vm_snapshot(vm, FOLDER "never", &small, NULL, &err), KELPIE_SNAPSHOT_TOO_LARGE);
    refuse(vm, FOLDER "fourth"); /* one has failed since */
    take(vm, FOLDER "fifth", NULL);
    OK(kelpie_vm_pause(vm, &err));
    const struct kelpie_snapshot_options next = {.parent = FOLDER "fifth", .track = true};
    world->faults.ppm[SIM_FAULT_PEER_REFUSES] = SIM_PPM;
    FAILS(kelpie_vm_snapshot(vm, FOLDER "never", &next, NULL, &err), KELPIE_SNAPSHOT_FAILED);
    world->faults.ppm[SIM_FAULT_PEER_REFUSES] = 0;
    refuse(vm, FOLDER "fifth"); /* it may have written, and counted from there */
    kelpie_vm_destroy(vm);
}

static void test_a_diff_is_to_the_last_tracked_bundle_alone(void **state) {
    (void)state;
    run_world(3, parents_that_are_none);
}

/* ---- When Firecracker's own diffs can be trusted ------------------------------------------------- */

static void look_at_swaps(void) {
    assert_true(firecracker_swap_is_off(host)); /* a kernel without swap */
    put_swaps(TITLES);
    assert_true(firecracker_swap_is_off(host));
    put_swaps(TITLES SPACE);
    assert_false(firecracker_swap_is_off(host));
    put_swaps("");
    assert_false(firecracker_swap_is_off(host)); /* says nothing */
    world->faults.ppm[SIM_FAULT_FILE_OPEN_FAILS] = SIM_PPM;
    assert_false(firecracker_swap_is_off(host)); /* cannot be read */
    world->faults.ppm[SIM_FAULT_FILE_OPEN_FAILS] = 0;
}

static void test_swap_is_seen(void **state) {
    (void)state;
    run_world(4, look_at_swaps);
}

/* firecracker#5705: with more than one slot of memory, that is above 3 GiB, diffs were wrong before 1.15; firecracker#5274: there
 * are none of machines that are not tracked before 1.13. */
static void hazard_c8_diffs_of_versions_that_mix_up_pages(void **state) {
    (void)state;
    static const struct {
        unsigned minor;
        uint32_t memory_mib;
        bool right;
    } rows[] = {{12, 64, false},   {13, 64, true},    {13, 3072, true}, {13, 3073, false},
                {14, 4096, false}, {15, 65536, true}, {17, 3073, true}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct firecracker_probe probe = {.major = 1, .minor = rows[i].minor};
        assert_int_equal(firecracker_diffs_are_right(&probe, rows[i].memory_mib), rows[i].right);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chains_without_swap),
        cmocka_unit_test(test_chains_with_swap),
        cmocka_unit_test(test_a_diff_is_to_the_last_tracked_bundle_alone),
        cmocka_unit_test(test_swap_is_seen),
        cmocka_unit_test(hazard_c8_diffs_of_versions_that_mix_up_pages),
    };
    return cmocka_run_group_tests_name("sim/peer/firecracker_diff", tests, NULL, NULL);
}
