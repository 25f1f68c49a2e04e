/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks that are a VM's own: over an image, and what a restore brought, from one start to the next. */
#include "backend/monitor/monitor_disks.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define PATH_SIZE 256
#define DISK_SIZE (4u << 20)
#define DISK_MIB 16

static struct host *host;
static struct host_wait forever;
static char folder[64];
static char disk_path[PATH_SIZE]; /* the caller's */
static char image_path[PATH_SIZE];
static char own_folder[PATH_SIZE];
static char bundle[PATH_SIZE];

static void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static void path_of(char path[PATH_SIZE], const char *base, const char *name) {
    int size = snprintf(path, PATH_SIZE, "%s/%s", base, name);
    assert_in_range(size, 1, PATH_SIZE - 1);
}

static void put(int fd, const char *text) {
    assert_int_equal(pwrite(fd, text, strlen(text) + 1, 4096), strlen(text) + 1);
}

static void expect(int fd, const char *text) {
    char found[64] = "";
    assert_true(pread(fd, found, sizeof(found) - 1, 4096) > 0);
    assert_string_equal(found, text);
}

static void make_file(const char *path, const char *text) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
    put(fd, text);
    close(fd);
}

static void expect_file(const char *path, const char *text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    expect(fd, text);
    close(fd);
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-own-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    path_of(disk_path, folder, "disk");
    path_of(image_path, folder, "image");
    path_of(own_folder, folder, "own");
    path_of(bundle, folder, "bundle");
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return setenv("XDG_CACHE_HOME", folder, 1);
}

static int tear_down(void **state) {
    (void)state;
    char command[PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    host_destroy(host);
    return system(command);
}

static int fresh(void **state) {
    (void)state;
    char command[3 * PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s %s", bundle, own_folder);
    make_file(disk_path, "the caller's");
    make_file(image_path, "the image's");
    return system(command) | mkdir(own_folder, 0700);
}

/* A VM of a caller's writable disk, or of an image; in both cases its disk 0 is what is looked at. */
struct vm {
    struct kelpie_disk disks[2];
    struct kelpie_config config;
    struct backend_launch launch;
    struct monitor_disks of;
};

static void vm_init(struct vm *vm, const char *kept_in, bool overlays) {
    memset(vm, 0, sizeof(*vm));
    vm->disks[0].path = disk_path;
    vm->config = (struct kelpie_config){.vcpu_count = 1,
                                        .memory_mib = 64,
                                        .disks = vm->disks,
                                        .disk_count = 1,
                                        .image_disk_mib = DISK_MIB};
    vm->launch = (struct backend_launch){.host = host,
                                         .config = &vm->config,
                                         .id = "own",
                                         .cancel_fd = HOST_FD_NONE,
                                         .disk_folder = kept_in};
    monitor_disks_init(&vm->of, &vm->launch, overlays);
}

static void image_vm_init(struct vm *vm, const char *kept_in) {
    vm_init(vm, kept_in, false);
    vm->disks[0] = (struct kelpie_disk){.path = image_path, .read_only = true};
    vm->disks[1].path = "";
    vm->config.disk_count = 2;
    vm->config.image = "image";
    vm->launch.has_image = true;
    monitor_disks_init(&vm->of, &vm->launch, false);
}

static void start(struct vm *vm) {
    struct kelpie_error err;
    ok(monitor_disks_open(&vm->of, &forever, &err), &err);
}

static void save(struct vm *vm) {
    struct kelpie_error err;
    struct snapshot_writer *writer = NULL;
    struct kelpie_snapshot snapshot;
    int fd = HOST_FD_NONE;
    ok(snapshot_writer_create(host, bundle, 0, &writer, &err), &err);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    manifest->memory_in_state = true;
    ok(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), &err);
    put(fd, "state");
    ok(monitor_disks_save(&vm->of, KELPIE_SNAPSHOT_SUSPEND, writer, &forever, &err), &err);
    ok(snapshot_writer_publish(writer, &forever, &snapshot, &err), &err);
    snapshot_writer_destroy(writer);
}

static enum kelpie_status load(struct vm *vm, struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    ok(snapshot_reader_open(host, bundle, &reader, err), err);
    enum kelpie_status status = monitor_disks_load(&vm->of, reader, &forever, err);
    snapshot_reader_close(reader);
    return status;
}

static void restore(struct vm *vm) {
    struct kelpie_error err;
    ok(load(vm, &err), &err);
    ok(monitor_disks_settle(&vm->of, &err), &err);
}

/* The bundle of a VM that wrote "saved" on the caller's disk. */
static void make_bundle(void) {
    struct vm vm;
    vm_init(&vm, NULL, false);
    start(&vm);
    put(vm.of.disks[0].fd, "saved");
    save(&vm);
    monitor_disks_deinit(&vm.of);
    make_file(disk_path, "the caller's");
}

static bool exists(const char *base, const char *name) {
    char path[PATH_SIZE];
    path_of(path, base, name);
    return access(path, F_OK) == 0;
}

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
