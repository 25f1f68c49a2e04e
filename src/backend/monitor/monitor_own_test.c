/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks that are a VM's own: over an image, and what a restore brought, from one start to the next. */
#include "backend/monitor/monitor_own_harness_test.h"
#include "support/fault_host.h"

/* Stopped and started again, it has its own disk and not the one that the bundle's config names. */
static void hazard_c7_a_restored_vm_starts_on_its_own_disk(void **state) {
    (void)state;
    make_bundle();
    for (int named = 0; named < 2; named++) {
        struct vm vm;
        vm_init(&vm, named ? own_folder : NULL, false);
        restore(&vm);
        expect(vm.of.disks[0].fd, "saved");
        put(vm.of.disks[0].fd, "written");
        monitor_disks_close(&vm.of);
        assert_true(monitor_disks_are_kept(&vm.of));
        start(&vm);
        expect(vm.of.disks[0].fd, "written");
        put(vm.of.disks[0].fd, "written again");
        monitor_disks_deinit(&vm.of);
        expect_file(disk_path, "the caller's");
    }
}

/* Base, overlay and bitmap stay together; the bundle may be gone. */
static void hazard_c7_an_overlay_stays_the_vms(void **state) {
    (void)state;
    struct vm vm;
    char command[3 * PATH_SIZE];
    make_bundle();
    vm_init(&vm, NULL, true);
    restore(&vm);
    const struct monitor_disk disk = vm.of.disks[0];
    assert_int_not_equal(disk.overlay_fd, HOST_FD_NONE);
    snprintf(command, sizeof(command), "rm -rf %s", bundle);
    assert_int_equal(system(command), 0);
    monitor_disks_close(&vm.of);
    start(&vm);
    assert_int_equal(vm.of.disks[0].fd, disk.fd);
    assert_int_equal(vm.of.disks[0].overlay_fd, disk.overlay_fd);
    assert_int_equal(vm.of.disks[0].bitmap_fd, disk.bitmap_fd);
    expect(vm.of.disks[0].fd, "saved");
    monitor_disks_deinit(&vm.of);
}

/* What is kept in a folder is whole by itself, and another process's start finds it. */
static void a_named_disk_outlives_the_process(void **state) {
    (void)state;
    struct vm vm;
    make_bundle();
    vm_init(&vm, own_folder, true);
    restore(&vm);
    assert_int_equal(vm.of.disks[0].overlay_fd, HOST_FD_NONE);
    put(vm.of.disks[0].fd, "written");
    monitor_disks_deinit(&vm.of);
    assert_true(exists(own_folder, "disk-0"));
    assert_false(exists(own_folder, "disk-0.new"));
    vm_init(&vm, own_folder, true);
    assert_true(monitor_disks_are_kept(&vm.of));
    start(&vm);
    expect(vm.of.disks[0].fd, "written");
    monitor_disks_deinit(&vm.of);
    expect_file(disk_path, "the caller's");
}

/* A load that does not come to an end leaves the VM what it had. */
static void hazard_c7_a_failed_restore_keeps_the_old_disk(void **state) {
    (void)state;
    make_bundle();
    for (int named = 0; named < 2; named++) {
        struct kelpie_error err;
        struct vm vm;
        vm_init(&vm, named ? own_folder : NULL, false);
        restore(&vm);
        put(vm.of.disks[0].fd, "precious");
        monitor_disks_close(&vm.of);
        ok(load(&vm, &err), &err); /* and the machine does not come up */
        expect(vm.of.disks[0].fd, "saved");
        assert_int_equal(exists(own_folder, "disk-0.new"), named);
        monitor_disks_close(&vm.of);
        assert_false(exists(own_folder, "disk-0.new"));
        start(&vm);
        expect(vm.of.disks[0].fd, "precious");
        monitor_disks_close(&vm.of);
        restore(&vm); /* this one does: the old disk goes */
        monitor_disks_close(&vm.of);
        start(&vm);
        expect(vm.of.disks[0].fd, "saved");
        monitor_disks_deinit(&vm.of);
    }
}

static void hazard_c7_two_vms_cannot_share_a_folder(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm first;
    struct vm second;
    image_vm_init(&first, own_folder);
    image_vm_init(&second, own_folder);
    start(&first);
    assert_int_equal(monitor_disks_open(&second.of, &forever, &err), KELPIE_BUSY);
    monitor_disks_close(&second.of);
    monitor_disks_deinit(&first.of);
    start(&second);
    monitor_disks_deinit(&second.of);
}

/* A link, or a file that is no disk, where ours should be. */
static void what_is_no_disk_of_ours_is_refused(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    char path[PATH_SIZE];
    path_of(path, own_folder, "disk-1");
    image_vm_init(&vm, own_folder);
    assert_int_equal(symlink(disk_path, path), 0);
    assert_int_not_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_OK);
    monitor_disks_close(&vm.of);
    expect_file(disk_path, "the caller's");
    assert_int_equal(unlink(path), 0);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* of no bytes */
    assert_int_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_IO_FAILED);
    monitor_disks_deinit(&vm.of);
}

static void the_disk_over_an_image_stays(void **state) {
    (void)state;
    for (int named = 0; named < 2; named++) {
        struct vm vm;
        image_vm_init(&vm, named ? own_folder : NULL);
        assert_false(monitor_disks_are_kept(&vm.of));
        start(&vm);
        assert_true(vm.of.disks[0].read_only);
        assert_int_equal(fcntl(vm.of.disks[0].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        assert_int_equal(vm.of.disks[1].size, (uint64_t)DISK_MIB << 20);
        put(vm.of.disks[1].fd, "mine");
        monitor_disks_close(&vm.of);
        assert_true(monitor_disks_are_kept(&vm.of));
        start(&vm);
        expect(vm.of.disks[1].fd, "mine");
        monitor_disks_deinit(&vm.of);
        assert_int_equal(exists(own_folder, "disk-1"), named);
    }
    expect_file(image_path, "the image's");
}

/* A bundle of a VM of an image names the file and does not hold it; wherever that is now, it must be the same. */
static void an_image_is_found_where_it_is_now(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    char moved[PATH_SIZE];
    path_of(moved, folder, "moved");
    image_vm_init(&vm, NULL);
    start(&vm);
    put(vm.of.disks[1].fd, "over it");
    save(&vm);
    monitor_disks_deinit(&vm.of);
    assert_int_equal(rename(image_path, moved), 0);
    image_vm_init(&vm, NULL);
    assert_int_equal(load(&vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "disks[0]");
    monitor_disks_close(&vm.of);
    vm.disks[0].path = moved;
    restore(&vm);
    expect(vm.of.disks[0].fd, "the image's");
    expect(vm.of.disks[1].fd, "over it");
    monitor_disks_deinit(&vm.of);
    make_file(moved, "another");
    image_vm_init(&vm, NULL);
    vm.disks[0].path = moved;
    assert_int_equal(load(&vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    monitor_disks_deinit(&vm.of);
    assert_int_equal(unlink(moved), 0);
}

/* An image that is not here can be restored, if the bundle has it, and not booted. */
static void a_missing_image_is_said(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    image_vm_init(&vm, NULL);
    vm.disks[0].path = "";
    assert_int_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_NOT_FOUND);
    assert_string_equal(err.field, "image");
    monitor_disks_deinit(&vm.of);
}

/* Reading all of an image is done once, for as long as it is the same file. */
static void an_images_checksum_is_noted(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *counting = NULL;
    struct vm vm;
    const struct timespec long_ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, image_path, long_ago, 0), 0);
    image_vm_init(&vm, NULL);
    start(&vm);
    save(&vm);
    monitor_disks_deinit(&vm.of);
    ok(fault_host_create(host, &counting, &err), &err);
    uint64_t reads[2];
    for (int changed = 0; changed < 2; changed++) {
        image_vm_init(&vm, NULL);
        vm.launch.host = counting;
        monitor_disks_init(&vm.of, &vm.launch, false);
        if (changed) {
            const struct timespec later[2] = {{.tv_sec = 1100000000}, {.tv_sec = 1100000000}};
            assert_int_equal(utimensat(AT_FDCWD, image_path, later, 0), 0);
        }
        /* Every read of more than a note would fail: of the other disk nothing is read but its data. */
        fault_host_arm(counting, &(struct fault_plan){.only = "file_read_at"});
        ok(load(&vm, &err), &err);
        reads[changed] = fault_host_calls(counting);
        monitor_disks_deinit(&vm.of);
    }
    assert_true(reads[1] > reads[0]); /* the file was read again, whose content is the same */
    host_destroy(counting);
}

/* The nth host call of a first start fails: an error, and the next start works. */
static void any_call_of_a_first_start_may_fail(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *faulty = NULL;
    char text[256];
    uint64_t nth = 1;
    ok(fault_host_create(host, &faulty, &err), &err);
    for (const char *fired = ""; fired; nth++) {
        struct vm vm;
        image_vm_init(&vm, own_folder);
        vm.launch.host = faulty;
        monitor_disks_init(&vm.of, &vm.launch, false);
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = monitor_disks_open(&vm.of, &forever, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_true(fired || status == KELPIE_OK);
        monitor_disks_close(&vm.of);
        start(&vm);
        assert_int_equal(vm.of.disks[1].size, (uint64_t)DISK_MIB << 20);
        monitor_disks_deinit(&vm.of);
        assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
        assert_int_equal(fresh(NULL), 0);
    }
    assert_true(nth > 10);
    host_destroy(faulty);
}

#define TEST(name) cmocka_unit_test_setup(name, fresh)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(hazard_c7_a_restored_vm_starts_on_its_own_disk),
        TEST(hazard_c7_an_overlay_stays_the_vms),
        TEST(a_named_disk_outlives_the_process),
        TEST(hazard_c7_a_failed_restore_keeps_the_old_disk),
        TEST(hazard_c7_two_vms_cannot_share_a_folder),
        TEST(what_is_no_disk_of_ours_is_refused),
        TEST(the_disk_over_an_image_stays),
        TEST(an_image_is_found_where_it_is_now),
        TEST(a_missing_image_is_said),
        TEST(an_images_checksum_is_noted),
        TEST(any_call_of_a_first_start_may_fail),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
