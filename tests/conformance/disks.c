/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks of restored and forked VMs. A guest reads and writes its disk, and the host looks at the files. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"

#define DISK_SIZE (1024u * 1024u + 512u) /* the last block is cut */
#define TEXT_SIZE 5
#define CHILD_COUNT 2

/* What a guest writes, and where: within a block, over two, and the disk's last bytes. */
static const size_t places[] = {100000, 409598, DISK_SIZE - TEXT_SIZE};

static struct kelpie_vm *start_vm_with_disk(const char *path, const uint8_t *bytes) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_disk disk = {.path = path};
    const struct kelpie_config config = {.backend = suite()->backend,
                                         .vcpu_count = suite()->vcpu_count,
                                         .disks = &disk,
                                         .disk_count = 1};
    host_file_write(path, bytes, DISK_SIZE, 0600);
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    /* The guest loads them only when it has something to mount. */
    expect_shell(vm,
                 "while read -r module && ! test -b /dev/vda; do insmod $module; done "
                 "</etc/kelpie/modules.disk; test -b /dev/vda",
                 0, "");
    return vm;
}

/* The text has TEXT_SIZE characters. The truth follows. */
static void guest_write(struct kelpie_vm *vm, const char *text, uint8_t *truth) {
    char line[128];
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(line, sizeof(line),
                 "printf %s | dd of=/dev/vda bs=1 seek=%zu conv=notrunc 2>/dev/null && sync", text,
                 places[i]);
        expect_shell(vm, line, 0, "");
        memcpy(truth + places[i], text, TEXT_SIZE);
    }
}

/* From the disk, and not from the guest's memory. */
static void expect_guest_reads(struct kelpie_vm *vm, const char *text) {
    char line[128];
    expect_shell(vm, "echo 3 >/proc/sys/vm/drop_caches", 0, "");
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(line, sizeof(line), "dd if=/dev/vda bs=1 skip=%zu count=%d 2>/dev/null", places[i],
                 TEXT_SIZE);
        expect_shell(vm, line, 0, text);
    }
}

static void expect_file(const char *path, const uint8_t *truth) {
    size_t size = 0;
    char *data = host_file_read(path, &size);
    assert_int_equal(size, DISK_SIZE);
    assert_memory_equal(data, truth, DISK_SIZE);
    free(data);
}

static void snapshot(struct kelpie_vm *vm, const char *path, const uint8_t *truth) {
    struct kelpie_error err = {0};
    char part[600];
    OK(kelpie_vm_snapshot(vm, path, NULL, NULL, &err));
    OK(kelpie_snapshot_verify(path, &err));
    snprintf(part, sizeof(part), "%s/disk-0", path);
    expect_file(part, truth);
}

static struct kelpie_vm *restore(const char *path) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create_from_snapshot(path, NULL, NULL, &vm, &err));
    return vm;
}

static uint8_t *copy_of(const uint8_t *bytes) {
    uint8_t *copy = malloc(DISK_SIZE);
    assert_non_null(copy);
    memcpy(copy, bytes, DISK_SIZE);
    return copy;
}

static uint8_t *make_truth(void) {
    uint8_t *truth = malloc(DISK_SIZE);
    assert_non_null(truth);
    pattern_fill(truth, DISK_SIZE, 7);
    return truth;
}

static void hazard_c7_restored_disks_are_apart(void **state) {
    (void)state;
    need(KELPIE_CAN_DISKS, "restored disks: it has no disks");
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restored disks: it has no snapshots");
    uint8_t *truth = make_truth();
    const char *disk = host_path("disk");
    const char *bundle = host_path("bundle");
    const char *child = host_path("second");
    struct kelpie_vm *vm = start_vm_with_disk(disk, truth);
    guest_write(vm, "past1", truth);
    snapshot(vm, bundle, truth);
    expect_file(disk, truth);
    kelpie_vm_destroy(vm);
    struct kelpie_vm *a = restore(bundle);
    struct kelpie_vm *b = restore(bundle);
    uint8_t *truth_a = copy_of(truth);
    uint8_t *truth_b = copy_of(truth);
    expect_guest_reads(a, "past1");
    guest_write(a, "aaaaa", truth_a);
    expect_guest_reads(b, "past1");
    guest_write(b, "bbbbb", truth_b);
    expect_guest_reads(a, "aaaaa");
    expect_guest_reads(b, "bbbbb");
    /* Neither the bundle nor the disk of long ago has changed. */
    char part[600];
    snprintf(part, sizeof(part), "%s/disk-0", bundle);
    expect_file(part, truth);
    expect_file(disk, truth);
    assert_int_equal(unlink(part), 0); /* they go on without it */
    snapshot(a, child, truth_a);
    snapshot(b, host_path("third"), truth_b);
    kelpie_vm_destroy(a);
    expect_guest_reads(b, "bbbbb");
    kelpie_vm_destroy(b);
    a = restore(child);
    expect_guest_reads(a, "aaaaa");
    kelpie_vm_destroy(a);
    free(truth);
    free(truth_a);
    free(truth_b);
}

static void hazard_c7_forked_disks_are_apart(void **state) {
    (void)state;
    need(KELPIE_CAN_DISKS, "forked disks: it has no disks");
    need(KELPIE_CAN_FORK, "forked disks: it cannot fork");
    struct kelpie_error err = {0};
    static const char *const texts[CHILD_COUNT] = {"kid01", "kid02"};
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    uint8_t *truth = make_truth();
    struct kelpie_vm *vm = start_vm_with_disk(host_path("disk"), truth);
    guest_write(vm, "past1", truth);
    OK(kelpie_vm_fork(vm, NULL, CHILD_COUNT, children, &err));
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        uint8_t *truth_child = copy_of(truth);
        assert_non_null(children[i].vm);
        expect_guest_reads(children[i].vm, "past1");
        guest_write(children[i].vm, texts[i], truth_child);
        snapshot(children[i].vm, host_path(i == 0 ? "second" : "third"), truth_child);
        free(truth_child);
    }
    expect_guest_reads(vm, "past1");
    expect_file(host_path("disk"), truth);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        expect_guest_reads(children[i].vm, texts[i]);
        kelpie_vm_destroy(children[i].vm);
    }
    kelpie_vm_destroy(vm);
    free(truth);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(hazard_c7_restored_disks_are_apart),
    cmocka_unit_test(hazard_c7_forked_disks_are_apart),
};
const struct group group_disks = {"disks", tests, sizeof(tests) / sizeof(tests[0]), 0};
