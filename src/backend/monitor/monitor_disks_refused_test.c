/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks that are refused, disks outside the bundle, and what disks take. */
#include "backend/monitor/monitor_own_harness_test.h"
#include "support/fault_host.h"

#define IMAGE_INDEX 1 /* of beside_vm_init() */

/* A VM of an image with a disk of the caller's beside it, which nobody writes. */
static void beside_vm_init(struct vm *vm, const char *kept_in) {
    image_vm_init(vm, kept_in);
    vm->disks[2] = vm->disks[1];
    vm->disks[1] = vm->disks[0];
    vm->disks[0] = (struct kelpie_disk){.path = disk_path, .mount = "/data", .read_only = true};
    vm->config.disk_count = 3;
    monitor_disks_init(&vm->of, &vm->launch, false);
}

static void vm_use_host(struct vm *vm, struct host *other) {
    vm->launch.host = other;
    monitor_disks_init(&vm->of, &vm->launch, false);
}

/* A bundle in memory that says what the caller put into the manifest, and holds nothing. */
static enum kelpie_status load_empty(struct vm *vm, const struct snapshot_disk *saved,
                                     struct kelpie_error *err) {
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    struct kelpie_error inner;
    ok(snapshot_writer_create(host, NULL, 0, &writer, &inner), &inner);
    snapshot_writer_manifest(writer)->disk_count = 1;
    snapshot_writer_manifest(writer)->disks[0] = *saved;
    ok(snapshot_writer_read(writer, &reader, &inner), &inner);
    snapshot_writer_destroy(writer);
    enum kelpie_status status = monitor_disks_load(&vm->of, reader, &forever, err);
    snapshot_reader_close(reader);
    return status;
}

/* ---- Refused ---------------------------------------------------------------------------------- */

static void a_folder_with_too_long_a_path_is_said(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    char path[HOST_PATH_SIZE_MAX + 1];
    memset(path, 'f', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    path[0] = '/';
    make_bundle();
    vm_init(&vm, path, false);
    assert_int_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "disk_folder");
    monitor_disks_close(&vm.of);
    assert_int_equal(load(&vm, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "disk_folder");
    monitor_disks_close(&vm.of);
    assert_false(monitor_disks_are_kept(&vm.of));
    monitor_disks_deinit(&vm.of);
}

/* In the place of a disk that is kept: a pipe, and a file that is not of whole sectors. */
static void what_has_no_sectors_is_no_disk(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    char path[PATH_SIZE];
    path_of(path, own_folder, "disk-0");
    vm_init(&vm, own_folder, false);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "is no disk"));
    monitor_disks_close(&vm.of);
    assert_int_equal(unlink(path), 0);
    make_file(path, "mine");
    assert_int_equal(truncate(path, DISK_SIZE - 1), 0);
    assert_int_equal(monitor_disks_open(&vm.of, &forever, &err), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "is no disk"));
    monitor_disks_close(&vm.of);
    assert_int_equal(truncate(path, DISK_SIZE), 0);
    start(&vm);
    expect(vm.of.disks[0].fd, "mine");
    monitor_disks_deinit(&vm.of);
}

/* The nth host call of a start on a disk that is kept: an error, and the disk is what it was. */
static void any_call_of_a_later_start_may_fail(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *faulty = NULL;
    char text[256];
    char path[PATH_SIZE];
    uint64_t nth = 1;
    path_of(path, own_folder, "disk-0");
    make_file(path, "mine");
    ok(fault_host_create(host, &faulty, &err), &err);
    for (const char *fired = ""; fired; nth++) {
        struct vm vm;
        vm_init(&vm, own_folder, false);
        vm_use_host(&vm, faulty);
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = monitor_disks_open(&vm.of, &forever, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_int_equal(status, fired ? KELPIE_IO_FAILED : KELPIE_OK);
        monitor_disks_deinit(&vm.of);
        assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
        expect_file(path, "mine");
    }
    assert_true(nth > 3);
    host_destroy(faulty);
}

/* The VM came up, and the disk cannot get its name: an error, and what it had before stays. */
static void a_disk_that_cannot_be_named_is_said(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *faulty = NULL;
    struct vm vm;
    char path[PATH_SIZE];
    path_of(path, own_folder, "disk-0");
    make_bundle();
    make_file(path, "precious");
    ok(fault_host_create(host, &faulty, &err), &err);
    vm_init(&vm, own_folder, false);
    vm_use_host(&vm, faulty);
    ok(load(&vm, &err), &err);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .only = "path_rename"});
    assert_int_equal(monitor_disks_settle(&vm.of, &err), KELPIE_IO_FAILED);
    expect_file(path, "precious");
    ok(monitor_disks_settle(&vm.of, &err), &err); /* the fault is over */
    expect_file(path, "saved");
    monitor_disks_deinit(&vm.of);
    host_destroy(faulty);
}

static void a_bundle_without_the_disk_it_names_is_refused(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    vm_init(&vm, NULL, false);
    assert_int_equal(
        load_empty(&vm, &(struct snapshot_disk){.in_bundle = true, .size = DISK_SIZE}, &err),
        KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "disks[0]");
    assert_non_null(strstr(err.message, "missing in the bundle"));
    monitor_disks_close(&vm.of);
    assert_int_equal(load_empty(&vm, &(struct snapshot_disk){.size = DISK_SIZE}, &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(err.message, "writable and not in the bundle"));
    monitor_disks_deinit(&vm.of);
}

/* ---- Outside the bundle ----------------------------------------------------------------------- */

static void a_disk_beside_an_image_stays_where_it_is(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    struct snapshot_reader *reader = NULL;
    beside_vm_init(&vm, NULL);
    start(&vm);
    save(&vm);
    monitor_disks_deinit(&vm.of);
    ok(snapshot_reader_open(host, bundle, &reader, &err), &err);
    const struct snapshot_disk *saved = snapshot_reader_manifest(reader)->disks;
    assert_string_equal(saved[0].path, disk_path);
    assert_string_equal(saved[0].mount, "/data");
    assert_string_equal(saved[IMAGE_INDEX].path, image_path);
    assert_string_equal(saved[IMAGE_INDEX].mount, "");
    assert_false(saved[0].in_bundle || saved[IMAGE_INDEX].in_bundle);
    assert_true(saved[2].in_bundle);
    snapshot_reader_close(reader);
    beside_vm_init(&vm, NULL);
    vm.disks[0].path = "/nowhere"; /* only an image is looked for where the config says */
    restore(&vm);
    expect(vm.of.disks[0].fd, "the caller's");
    expect(vm.of.disks[IMAGE_INDEX].fd, "the image's");
    monitor_disks_deinit(&vm.of);
    assert_int_equal(truncate(disk_path, 100), 0); /* no disk any more */
    assert_int_equal(load(&vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(err.message, "cannot be opened where the snapshot expects it"));
    monitor_disks_deinit(&vm.of);
}

/* Moved to another host, a disk that is only read goes along, and is the VM's own from then on. */
static void a_read_only_disk_that_travelled_is_kept(void **state) {
    (void)state;
    struct vm vm;
    vm_init(&vm, NULL, false);
    vm.disks[0].read_only = true;
    start(&vm);
    save_as(&vm, KELPIE_SNAPSHOT_TELEPORT);
    monitor_disks_deinit(&vm.of);
    assert_int_equal(unlink(disk_path), 0);
    for (int named = 0; named < 2; named++) {
        vm_init(&vm, named ? own_folder : NULL, false);
        vm.disks[0].read_only = true;
        restore(&vm);
        expect(vm.of.disks[0].fd, "the caller's");
        assert_true(vm.of.disks[0].read_only);
        assert_int_equal(exists(own_folder, "disk-0"), named);
        monitor_disks_deinit(&vm.of);
    }
}

/* The file that the VM has open is what its bundle means, whatever bears that name now; and no note is taken of it. */
static void a_file_in_an_images_place_is_not_noted(void **state) {
    (void)state;
    struct kelpie_error err;
    struct vm vm;
    char moved[PATH_SIZE];
    path_of(moved, folder, "moved");
    const struct timespec long_ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    image_vm_init(&vm, NULL);
    start(&vm);
    assert_int_equal(rename(image_path, moved), 0);
    make_file(image_path, "another");
    assert_int_equal(utimensat(AT_FDCWD, image_path, long_ago, 0), 0);
    save(&vm);
    monitor_disks_deinit(&vm.of);
    image_vm_init(&vm, NULL);
    assert_int_equal(load(&vm, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(err.message, "disk 0 has changed"));
    monitor_disks_close(&vm.of);
    assert_int_equal(rename(moved, image_path), 0);
    restore(&vm);
    expect(vm.of.disks[0].fd, "the image's");
    monitor_disks_deinit(&vm.of);
}

/* The nth host call of a save and a load with disks outside: the error is told, to whoever asks for it. */
static void any_call_of_a_load_from_outside_may_fail(void **state) {
    (void)state;
    struct host *faulty = NULL;
    struct kelpie_error err;
    char text[256];
    struct vm vm;
    uint64_t nth = 1;
    beside_vm_init(&vm, NULL);
    start(&vm);
    save(&vm);
    monitor_disks_deinit(&vm.of);
    ok(fault_host_create(host, &faulty, &err), &err);
    for (const char *fired = ""; fired; nth++) {
        for (int told = 0; told < 2; told++) {
            beside_vm_init(&vm, NULL);
            vm_use_host(&vm, faulty);
            struct snapshot_reader *reader = NULL;
            ok(snapshot_reader_open(host, bundle, &reader, &err), &err);
            err = (struct kelpie_error){0};
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
            enum kelpie_status status =
                monitor_disks_load(&vm.of, reader, &forever, told ? &err : NULL);
            fired = fault_host_fired(faulty);
            fault_host_disarm(faulty);
            assert_true(fired || status == KELPIE_OK);
            assert_int_equal(err.status, told ? status : KELPIE_OK);
            snapshot_reader_close(reader);
            monitor_disks_deinit(&vm.of);
            assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
        }
    }
    assert_true(nth > 10);
    host_destroy(faulty);
}

/* ---- What they take --------------------------------------------------------------------------- */

static uint64_t allocated(int fd) {
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

/* Of what is written: the disk itself, or what is over the bundle's file. Not the files that are only read. */
static void disks_take_what_their_writable_files_do(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *faulty = NULL;
    struct vm vm;
    static char bytes[256 << 10];
    memset(bytes, 'b', sizeof(bytes));
    beside_vm_init(&vm, NULL);
    assert_int_equal(monitor_disks_bytes(&vm.of), 0); /* none is open */
    start(&vm);
    const int own_fd = vm.of.disks[2].fd;
    const uint64_t before = monitor_disks_bytes(&vm.of);
    assert_int_equal(before, allocated(own_fd));
    assert_int_equal(pwrite(own_fd, bytes, sizeof(bytes), 8 << 20), sizeof(bytes));
    assert_int_equal(fsync(own_fd), 0); /* allocated only then */
    assert_true(monitor_disks_bytes(&vm.of) > before);
    assert_int_equal(monitor_disks_bytes(&vm.of), allocated(own_fd));
    monitor_disks_deinit(&vm.of);
    make_bundle();
    vm_init(&vm, NULL, true);
    restore(&vm);
    assert_int_equal(monitor_disks_bytes(&vm.of), allocated(vm.of.disks[0].overlay_fd));
    monitor_disks_deinit(&vm.of);
    ok(fault_host_create(host, &faulty, &err), &err);
    vm_init(&vm, NULL, false);
    vm_use_host(&vm, faulty);
    start(&vm);
    assert_true(monitor_disks_bytes(&vm.of) > 0);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 1, .only = "file_stat"});
    assert_int_equal(monitor_disks_bytes(&vm.of), 0); /* unknown: not counted */
    monitor_disks_deinit(&vm.of);
    host_destroy(faulty);
}

#define TEST(name) cmocka_unit_test_setup(name, fresh)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_folder_with_too_long_a_path_is_said),
        TEST(what_has_no_sectors_is_no_disk),
        TEST(any_call_of_a_later_start_may_fail),
        TEST(a_disk_that_cannot_be_named_is_said),
        TEST(a_bundle_without_the_disk_it_names_is_refused),
        TEST(a_disk_beside_an_image_stays_where_it_is),
        TEST(a_read_only_disk_that_travelled_is_kept),
        TEST(a_file_in_an_images_place_is_not_noted),
        TEST(any_call_of_a_load_from_outside_may_fail),
        TEST(disks_take_what_their_writable_files_do),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
