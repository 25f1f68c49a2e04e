/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A real VM's bundle, damaged: each part flipped and cut at many places. And full disks under a real VM. The error
 * names the part, the VM goes on, nothing is left behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie.h"

#define PLACE_COUNT 1000
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_FLIP_COUNT 100 /* each reads the whole memory, slowly */
#else
#define MEMORY_FLIP_COUNT PLACE_COUNT
#endif
#define RESTORE_PERIOD 100 /* each such place is restored from, too */
#define DISK_SIZE 1048576
#define SMALL_DISK "size=4m"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

struct fixture {
    char folder[64];
    char bundle[96];
    char disk[96];
    char small[96];
    struct kelpie_disk disks[1];
    struct kelpie_config config;
    struct kelpie_vm *vm; /* running */
};

static void ok(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s: %s", what, kelpie_status_name(status), err->message);
    }
}

static void expect_alive(struct fixture *fixture) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("echo", "alive")};
    assert_int_equal(kelpie_vm_state(fixture->vm), KELPIE_STATE_RUNNING);
    ok(kelpie_vm_exec(fixture->vm, &command, &output, &err), "exec", &err);
    assert_string_equal(output.stdout_data, "alive\n");
    kelpie_output_free(&output);
}

static size_t entry_count(const char *path) {
    DIR *folder = opendir(path);
    assert_non_null(folder);
    size_t count = 0;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

/* ---- Damage ----------------------------------------------------------------------------------- */

static const char *const parts[] = {"manifest.json", "state", "memory", "disk-0"};

/* What an error calls a part's file. */
static const char *field_of(const char *part) {
    return strcmp(part, "manifest.json") == 0 ? "manifest" : part;
}

static void expect_corrupt(enum kelpie_status status, const char *part, uint64_t place,
                           const struct kelpie_error *err) {
    /* A version that we do not know comes before any checksum. */
    bool other_version = status == KELPIE_SNAPSHOT_INCOMPATIBLE &&
                         strcmp(err->field, "format_version") == 0 &&
                         strcmp(part, "manifest.json") == 0;
    bool corrupt = status == KELPIE_SNAPSHOT_CORRUPT && strcmp(err->field, field_of(part)) == 0;
    if (!corrupt && !other_version) {
        fail_msg("%s at %llu: %s, field '%s': %s", part, (unsigned long long)place,
                 kelpie_status_name(status), err->field, err->message);
    }
}

static void expect_refused(const struct fixture *fixture, const char *part, uint64_t place) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_restore_options options = {.verify_memory = true};
    expect_corrupt(kelpie_vm_create_from_snapshot(fixture->bundle, NULL, &options, &vm, &err), part,
                   place, &err);
    assert_null(vm);
}

static int open_part(const struct fixture *fixture, const char *part, uint64_t *ret_size) {
    char path[128];
    struct stat info;
    snprintf(path, sizeof(path), "%s/%s", fixture->bundle, part);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    assert_true(info.st_size > 0);
    *ret_size = (uint64_t)info.st_size;
    return fd;
}

/* Spread over the part, and never twice the same while it is long enough. */
static uint64_t place_of(uint64_t index, uint64_t count, uint64_t size) {
    return size <= count ? index % size : index * (size / count) + index % 7 % (size / count);
}

static void flip(int fd, uint64_t place) {
    uint8_t byte = 0;
    assert_int_equal(pread(fd, &byte, 1, (off_t)place), 1);
    byte ^= (uint8_t)(1u << (place % 8));
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)place), 1);
}

static void flip_part(const struct fixture *fixture, const char *part) {
    uint64_t size = 0;
    uint64_t count = strcmp(part, "memory") == 0 ? MEMORY_FLIP_COUNT : PLACE_COUNT;
    int fd = open_part(fixture, part, &size);
    for (uint64_t i = 0; i < count; i++) {
        struct kelpie_error err = {0};
        uint64_t place = place_of(i, count, size);
        flip(fd, place);
        expect_corrupt(kelpie_snapshot_verify(fixture->bundle, &err), part, place, &err);
        if (i % RESTORE_PERIOD == 0) {
            expect_refused(fixture, part, place);
        }
        flip(fd, place);
    }
    close(fd);
    print_message("%s: %llu bytes, flipped at %llu places\n", part, (unsigned long long)size,
                  (unsigned long long)count);
}

/* Shorter and shorter, and then as it was. */
static void cut_part(const struct fixture *fixture, const char *part) {
    uint64_t size = 0;
    int fd = open_part(fixture, part, &size);
    char path[128];
    char copy_path[128];
    snprintf(path, sizeof(path), "%s/%s", fixture->bundle, part);
    snprintf(copy_path, sizeof(copy_path), "%s/copy", fixture->folder);
    close(fd);
    assert_int_equal(rename(path, copy_path), 0);
    int copy = open(copy_path, O_RDONLY | O_CLOEXEC);
    int target = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(copy >= 0 && target >= 0);
    for (off_t done = 0; done < (off_t)size;) {
        ssize_t count = copy_file_range(copy, &done, target, NULL, (size_t)size, 0);
        assert_true(count > 0);
    }
    for (uint64_t i = 0; i < PLACE_COUNT; i++) {
        struct kelpie_error err = {0};
        struct kelpie_snapshot snapshot;
        uint64_t length = place_of(PLACE_COUNT - 1 - i, PLACE_COUNT, size);
        assert_int_equal(ftruncate(target, (off_t)length), 0);
        expect_corrupt(kelpie_snapshot_inspect(fixture->bundle, &snapshot, &err), part, length,
                       &err);
        if (i % RESTORE_PERIOD == 0) {
            expect_refused(fixture, part, length);
        }
    }
    close(copy);
    close(target);
    assert_int_equal(rename(copy_path, path), 0);
}

static void hazard_b3_a_damaged_bundle_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    ok(kelpie_vm_snapshot(fixture->vm, fixture->bundle, NULL, NULL, &err), "snapshot", &err);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        flip_part(fixture, parts[i]);
        cut_part(fixture, parts[i]);
    }
    /* All is as it was. */
    ok(kelpie_snapshot_verify(fixture->bundle, &err), "verify", &err);
    ok(kelpie_vm_create_from_snapshot(fixture->bundle, NULL, NULL, &vm, &err), "restore", &err);
    kelpie_vm_destroy(vm);
    expect_alive(fixture);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", fixture->bundle, parts[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(fixture->bundle), 0);
}

/* ---- Full disks ------------------------------------------------------------------------------- */

static void hazard_b4_a_full_disk_under_a_running_vm(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    char path[128];
    assert_int_equal(mkdir(fixture->small, 0700), 0);
    if (mount("none", fixture->small, "tmpfs", 0, SMALL_DISK) != 0) {
        print_message("skipped: mounting a tmpfs takes root\n");
        assert_int_equal(rmdir(fixture->small), 0);
        skip();
    }
    snprintf(path, sizeof(path), "%s/bundle", fixture->small);
    assert_int_equal(kelpie_vm_snapshot(fixture->vm, path, NULL, &snapshot, &err), KELPIE_NO_SPACE);
    assert_true(strlen(err.message) > 0);
    assert_int_equal(entry_count(fixture->small), 0);
    expect_alive(fixture);

    struct kelpie_output output = {0};
    const struct kelpie_command make = {
        .argv = ARGV("dd", "if=/dev/zero", "of=/tmp/large", "bs=1M", "count=8")};
    ok(kelpie_vm_exec(fixture->vm, &make, &output, &err), "dd", &err);
    assert_int_equal(output.exit.code, 0);
    kelpie_output_free(&output);
    assert_int_equal(kelpie_copy_out(fixture->vm, "/tmp/large", path, NULL, &err), KELPIE_NO_SPACE);
    assert_int_equal(entry_count(fixture->small), 0);
    expect_alive(fixture);
    assert_int_equal(umount(fixture->small), 0);
    assert_int_equal(rmdir(fixture->small), 0);
}

/* The disk's file system in the guest is full: the file that was there stays, and the guest lives. */
static void hazard_d5_a_full_disk_in_the_guest(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    char large[128];
    snprintf(large, sizeof(large), "%s/large", fixture->folder);
    int fd = open(large, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4 * DISK_SIZE), 0);
    close(fd);
    const struct kelpie_command mount_command = {
        .argv = ARGV("sh", "-c",
                     "mkdir -p /tmp/small && mount -t tmpfs -o size=1m none /tmp/small && "
                     "echo old > /tmp/small/file")};
    ok(kelpie_vm_exec(fixture->vm, &mount_command, &output, &err), "mount", &err);
    assert_int_equal(output.exit.code, 0);
    kelpie_output_free(&output);
    assert_int_equal(kelpie_copy_in(fixture->vm, large, "/tmp/small/file", NULL, &err),
                     KELPIE_NO_SPACE);
    const struct kelpie_command look = {
        .argv = ARGV("sh", "-c", "ls -A /tmp/small; cat /tmp/small/file")};
    ok(kelpie_vm_exec(fixture->vm, &look, &output, &err), "look", &err);
    assert_string_equal(output.stdout_data, "file\nold\n");
    kelpie_output_free(&output);
    expect_alive(fixture);
    unlink(large);
}

/* ---- Set-up ----------------------------------------------------------------------------------- */

static int setup(void **state) {
    static struct fixture fixture;
    struct kelpie_error err = {0};
    struct kelpie_probe probe = {0};
    ok(kelpie_backend_probe("qemu", &probe, &err), "probe", &err);
    if (!probe.usable) {
        print_error("QEMU cannot be used here: %s\n", probe.reason);
        return 1;
    }
    snprintf(fixture.folder, sizeof(fixture.folder), "/tmp/kelpie-damage-XXXXXX");
    assert_non_null(mkdtemp(fixture.folder));
    snprintf(fixture.bundle, sizeof(fixture.bundle), "%s/bundle", fixture.folder);
    snprintf(fixture.disk, sizeof(fixture.disk), "%s/disk", fixture.folder);
    snprintf(fixture.small, sizeof(fixture.small), "%s/small", fixture.folder);
    int fd = open(fixture.disk, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
    close(fd);
    fixture.disks[0] = (struct kelpie_disk){.path = fixture.disk};
    fixture.config = (struct kelpie_config){
        .backend = "qemu", .memory_mib = 96, .disks = fixture.disks, .disk_count = 1};
    ok(kelpie_vm_create(&fixture.config, &fixture.vm, &err), "create", &err);
    ok(kelpie_vm_start(fixture.vm, &err), "start", &err);
    *state = &fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    kelpie_vm_destroy(fixture->vm);
    unlink(fixture->disk);
    assert_int_equal(rmdir(fixture->folder), 0);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_b3_a_damaged_bundle_is_refused),
        cmocka_unit_test(hazard_b4_a_full_disk_under_a_running_vm),
        cmocka_unit_test(hazard_d5_a_full_disk_in_the_guest),
    };
    return cmocka_run_group_tests_name("damage", tests, setup, teardown);
}
