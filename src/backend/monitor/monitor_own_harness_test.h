/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's disks without its machine, in a folder of the test's own, for the tests of this folder. */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_OWN_HARNESS_TEST_H
#define KELPIE_BACKEND_MONITOR_MONITOR_OWN_HARNESS_TEST_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/monitor/monitor_disks.h"
#include "base/assert.h"

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

static inline void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static inline void path_of(char path[PATH_SIZE], const char *base, const char *name) {
    int size = snprintf(path, PATH_SIZE, "%s/%s", base, name);
    assert_in_range(size, 1, PATH_SIZE - 1);
}

static inline void put(int fd, const char *text) {
    assert_int_equal(pwrite(fd, text, strlen(text) + 1, 4096), strlen(text) + 1);
}

static inline void expect(int fd, const char *text) {
    char found[64] = "";
    assert_true(pread(fd, found, sizeof(found) - 1, 4096) > 0);
    assert_string_equal(found, text);
}

static inline void make_file(const char *path, const char *text) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
    put(fd, text);
    close(fd);
}

static inline void expect_file(const char *path, const char *text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    expect(fd, text);
    close(fd);
}

static inline int set_up(void **state) {
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

static inline int tear_down(void **state) {
    (void)state;
    char command[PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    host_destroy(host);
    return system(command);
}

static inline int fresh(void **state) {
    (void)state;
    char command[3 * PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s %s", bundle, own_folder);
    make_file(disk_path, "the caller's");
    make_file(image_path, "the image's");
    return system(command) | mkdir(own_folder, 0700);
}

/* A VM of a caller's writable disk, or of an image; in both cases its disk 0 is what is looked at. */
struct vm {
    struct kelpie_disk disks[3];
    struct kelpie_config config;
    struct backend_launch launch;
    struct monitor_disks of;
};

static inline void vm_init(struct vm *vm, const char *kept_in, bool overlays) {
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

static inline void image_vm_init(struct vm *vm, const char *kept_in) {
    vm_init(vm, kept_in, false);
    vm->disks[0] = (struct kelpie_disk){.path = image_path, .read_only = true};
    vm->disks[1].path = "";
    vm->config.disk_count = 2;
    vm->config.image = "image";
    vm->launch.has_image = true;
    monitor_disks_init(&vm->of, &vm->launch, false);
}

static inline void start(struct vm *vm) {
    struct kelpie_error err;
    ok(monitor_disks_open(&vm->of, &forever, &err), &err);
}

static inline void save_as(struct vm *vm, enum kelpie_snapshot_kind kind) {
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
    ok(monitor_disks_save(&vm->of, kind, writer, &forever, &err), &err);
    ok(snapshot_writer_publish(writer, &forever, &snapshot, &err), &err);
    snapshot_writer_destroy(writer);
}

static inline void save(struct vm *vm) {
    save_as(vm, KELPIE_SNAPSHOT_SUSPEND);
}

static inline enum kelpie_status load(struct vm *vm, struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    ok(snapshot_reader_open(host, bundle, &reader, err), err);
    enum kelpie_status status = monitor_disks_load(&vm->of, reader, &forever, err);
    snapshot_reader_close(reader);
    return status;
}

static inline void restore(struct vm *vm) {
    struct kelpie_error err;
    ok(load(vm, &err), &err);
    ok(monitor_disks_settle(&vm->of, &err), &err);
}

/* The bundle of a VM that wrote "saved" on the caller's disk. */
static inline void make_bundle(void) {
    struct vm vm;
    vm_init(&vm, NULL, false);
    start(&vm);
    put(vm.of.disks[0].fd, "saved");
    save(&vm);
    monitor_disks_deinit(&vm.of);
    make_file(disk_path, "the caller's");
}

static inline bool exists(const char *base, const char *name) {
    char path[PATH_SIZE];
    path_of(path, base, name);
    return access(path, F_OK) == 0;
}

#endif
