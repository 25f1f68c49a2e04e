/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks over save and load, on real bundles. In the monitor's place this file writes through the monitor's own store. */
#include "backend/monitor/monitor_disks.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/overlay.h"
#include "support/fault_host.h"
#include "vmm/device/blk_store.h"

#define DISK_SIZE                                                                                  \
    ((130ull << 20) + 1536) /* more than one piece of the bitmap; the last block is cut */
#define PLACES 1000

static struct host *host;
static struct host_wait forever;
static char folder[64];
static char disk_path[96];
static struct kelpie_disk disk_config = {.path = disk_path};
static struct kelpie_config config = {
    .vcpu_count = 1, .memory_mib = 64, .disks = &disk_config, .disk_count = 1};

/* Of a machine whose own disks have no names, by its host. */
static const struct backend_launch *launch_on(struct host *through) {
    static struct backend_launch launches[2];
    struct backend_launch *launch = &launches[through == host];
    *launch = (struct backend_launch){
        .host = through, .config = &config, .id = "disks", .cancel_fd = HOST_FD_NONE};
    return launch;
}

static void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-disks-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    snprintf(disk_path, sizeof(disk_path), "%s/disk", folder);
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return setenv("XDG_CACHE_HOME", folder, 1);
}

static int tear_down(void **state) {
    (void)state;
    char cache[2][96];
    snprintf(cache[0], sizeof(cache[0]), "%s/kelpie/tmp", folder); /* a scratch file stays when */
    snprintf(cache[1], sizeof(cache[1]), "%s/kelpie", folder);     /* its removal fails */
    (void)!host_path_remove_folder(host, cache[0], NULL);
    (void)!host_path_remove_folder(host, cache[1], NULL);
    (void)!unlink(disk_path);
    int result = rmdir(folder); /* fails, and with it the group, when something is left */
    host_destroy(host);
    return result;
}

/* A file with data here and there; and the same again, as the truth. */
static int make_disk(uint64_t size) {
    struct kelpie_error err;
    int truth_fd = HOST_FD_NONE;
    ok(host_memory_file(host, "truth", size, &truth_fd, &err), &err);
    int fd = open(disk_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    for (uint64_t at = 1000; at + 20000 < size; at += size / 5) {
        char data[20000];
        memset(data, (int)(at % 251) + 1, sizeof(data));
        assert_int_equal(pwrite(fd, data, sizeof(data), (off_t)at), sizeof(data));
        assert_int_equal(pwrite(truth_fd, data, sizeof(data), (off_t)at), sizeof(data));
    }
    close(fd);
    return truth_fd;
}

static enum kelpie_status save(struct host *through, const struct monitor_disks *disks,
                               const char *path, struct kelpie_error *err) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_snapshot snapshot;
    int fd = HOST_FD_NONE;
    enum kelpie_status status = snapshot_writer_create(through, path, 0, &writer, err);
    if (status == KELPIE_OK) {
        struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
        snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
        snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
        manifest->vcpu_count = 1;
        manifest->memory_mib = 64;
        manifest->memory_in_state = true;
        status = snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, err);
    }
    if (status == KELPIE_OK) {
        status = host_file_write_at(through, fd, "state", 5, 0, err);
    }
    if (status == KELPIE_OK) {
        status = monitor_disks_save(disks, KELPIE_SNAPSHOT_SUSPEND, writer, &forever, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_writer_publish(writer, &forever, &snapshot, err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

static enum kelpie_status load(struct host *through, struct monitor_disks *disks, bool overlays,
                               const char *path, const struct host_wait *wait,
                               struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    monitor_disks_init(disks, launch_on(through), overlays);
    enum kelpie_status status = snapshot_reader_open(through, path, &reader, err);
    if (status == KELPIE_OK) {
        status = monitor_disks_load(disks, reader, wait, err);
    }
    snapshot_reader_close(reader);
    return status;
}

/* A bundle of a disk that was opened as it is. */
static void make_bundle(const char *path) {
    struct kelpie_error err;
    struct monitor_disks disks;
    monitor_disks_init(&disks, launch_on(host), true);
    ok(monitor_disks_open(&disks, &forever, &err), &err);
    assert_int_equal(disks.disks[0].overlay_fd, HOST_FD_NONE);
    ok(save(host, &disks, path, &err), &err);
    monitor_disks_deinit(&disks);
}

static void path_of(const char *name, char *buffer, size_t size) {
    snprintf(buffer, size, "%s/%s", folder, name);
}

static void remove_bundle(const char *path) {
    assert_int_equal(host_path_remove_folder(host, path, NULL), KELPIE_OK);
}

static void expect_same(int fd, int truth_fd, uint64_t size) {
    struct kelpie_error err;
    char found[SNAPSHOT_CHECKSUM_SIZE];
    char expected[SNAPSHOT_CHECKSUM_SIZE];
    ok(snapshot_checksum_file(host, fd, size, &forever, found, &err), &err);
    ok(snapshot_checksum_file(host, truth_fd, size, &forever, expected, &err), &err);
    assert_string_equal(found, expected);
}

/* The bundle's disk is the truth, and its checksum is right. */
static void expect_bundle(const char *path, int truth_fd, uint64_t size) {
    struct kelpie_error err;
    struct snapshot_reader *reader = NULL;
    ok(snapshot_reader_open(host, path, &reader, &err), &err);
    ok(snapshot_reader_verify(reader, SNAPSHOT_PART_DISK_0, &forever, &err), &err);
    int fd = snapshot_reader_part(reader, SNAPSHOT_PART_DISK_0);
    expect_same(fd, truth_fd, size);
    snapshot_reader_close(reader);
}

static void guest_open(struct blk_store *store, const struct monitor_disk *disk) {
    const struct blk_store_files files = {disk->fd, disk->overlay_fd != HOST_FD_NONE,
                                          disk->overlay_fd, disk->bitmap_fd};
    assert_int_equal(blk_store_init(store, &files, NULL), KELPIE_OK);
}

static void guest_write(const struct monitor_disk *disk, int truth_fd, uint64_t at, char text) {
    static char bytes[10000];
    struct blk_store store;
    struct blk_transfer transfer = {.position = at, .size = sizeof(bytes), .part_count = 1};
    guest_open(&store, disk);
    memset(bytes, text, sizeof(bytes));
    transfer.parts[0] = (struct iovec){bytes, sizeof(bytes)};
    assert_int_equal(blk_store_write(&store, &transfer), BLK_STORE_DONE);
    assert_int_equal(pwrite(truth_fd, bytes, sizeof(bytes), (off_t)at), sizeof(bytes));
    blk_store_deinit(&store);
}

/* At the same places of every disk, over data, over a hole, over the border of two pieces of the bitmap and at the end. */
static void guest_acts(const struct monitor_disk *disk, int truth_fd, char text) {
    static char zeros[8192];
    struct blk_store store;
    guest_write(disk, truth_fd, 1500, text);
    guest_write(disk, truth_fd, 2u << 20, text);
    guest_write(disk, truth_fd, (128u << 20) - 5000, text);
    guest_write(disk, truth_fd, DISK_SIZE - 10000, text);
    guest_open(&store, disk);
    uint64_t data = 1000 + DISK_SIZE / 5;
    assert_int_equal(blk_store_discard(&store, data + 3000, sizeof(zeros)), BLK_STORE_DONE);
    assert_int_equal(pwrite(truth_fd, zeros, sizeof(zeros), (off_t)data + 3000), sizeof(zeros));
    blk_store_deinit(&store);
}

/* ---- tests ------------------------------------------------------------------------------------ */

static void hazard_c7_restored_disks_are_apart(void **state) {
    (void)state;
    struct kelpie_error err;
    struct monitor_disks disks[2];
    char path[96];
    char child[2][96];
    int truth[3] = {make_disk(DISK_SIZE), make_disk(DISK_SIZE), make_disk(DISK_SIZE)};
    path_of("bundle", path, sizeof(path));
    make_bundle(path);
    for (int i = 0; i < 2; i++) {
        ok(load(host, &disks[i], true, path, &forever, &err), &err);
        assert_int_not_equal(disks[i].disks[0].overlay_fd, HOST_FD_NONE);
        assert_int_equal(fcntl(disks[i].disks[0].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    }
    guest_acts(&disks[0].disks[0], truth[0], 'a');
    guest_acts(&disks[1].disks[0], truth[1], 'b');
    expect_bundle(path, truth[2], DISK_SIZE);
    remove_bundle(path); /* they go on without it */
    for (int i = 0; i < 2; i++) {
        path_of(i == 0 ? "a" : "b", child[i], sizeof(child[i]));
        ok(save(host, &disks[i], child[i], &err), &err);
        guest_write(&disks[i].disks[0], truth[2], 0, 'x'); /* after it: not in it */
        expect_bundle(child[i], truth[i], DISK_SIZE);
        monitor_disks_deinit(&disks[i]);
    }
    /* And a generation more; with a copy this time, which is the same. */
    ok(load(host, &disks[0], true, child[0], &forever, &err), &err);
    ok(load(host, &disks[1], false, child[0], &forever, &err), &err);
    assert_int_equal(disks[1].disks[0].overlay_fd, HOST_FD_NONE);
    expect_same(disks[1].disks[0].fd, truth[0], DISK_SIZE);
    guest_write(&disks[0].disks[0], truth[0], 3000, 'c');
    path_of("c", path, sizeof(path));
    ok(save(host, &disks[0], path, &err), &err);
    expect_bundle(path, truth[0], DISK_SIZE);
    for (int i = 0; i < 3; i++) {
        close(truth[i]);
    }
    for (int i = 0; i < 2; i++) {
        monitor_disks_deinit(&disks[i]);
        remove_bundle(child[i]);
    }
    remove_bundle(path);
}

static void test_a_copy_for_others_is_whole(void **state) {
    (void)state;
    struct kelpie_error err;
    struct monitor_disks disks;
    char path[96];
    int copy_fd = HOST_FD_NONE;
    int truth = make_disk(DISK_SIZE);
    path_of("bundle", path, sizeof(path));
    make_bundle(path);
    ok(load(host, &disks, true, path, &forever, &err), &err);
    guest_acts(&disks.disks[0], truth, 'a');
    ok(image_scratch_file(host, &copy_fd, &err), &err);
    ok(monitor_disks_copy(&disks, 0, copy_fd, &forever, &err), &err);
    expect_same(copy_fd, truth, DISK_SIZE);
    struct host_file_info info;
    ok(host_file_stat(host, copy_fd, &info, &err), &err);
    assert_int_equal(info.size, DISK_SIZE);
    assert_true(info.allocated_size < 1u << 20); /* as sparse as it was */
    close(copy_fd);
    close(truth);
    monitor_disks_deinit(&disks);
    remove_bundle(path);
}

/* A bundle in memory, of a VM that has an overlay itself: its disk is a file on the disk, and the children are apart. */
static void hazard_c7_forked_disks_are_apart(void **state) {
    (void)state;
    struct kelpie_error err;
    struct monitor_disks disks[3]; /* the parent, and two children */
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    char path[96];
    int truth[3] = {make_disk(DISK_SIZE), make_disk(DISK_SIZE), make_disk(DISK_SIZE)};
    path_of("bundle", path, sizeof(path));
    make_bundle(path);
    ok(load(host, &disks[0], true, path, &forever, &err), &err);
    remove_bundle(path);
    for (int i = 0; i < 3; i++) {
        guest_write(&disks[0].disks[0], truth[i], 7777, 'p');
    }
    ok(snapshot_writer_create(host, NULL, 0, &writer, &err), &err);
    ok(monitor_disks_save(&disks[0], KELPIE_SNAPSHOT_SUSPEND, writer, &forever, &err), &err);
    ok(snapshot_writer_read(writer, &reader, &err), &err);
    snapshot_writer_destroy(writer);
    for (int i = 1; i < 3; i++) {
        monitor_disks_init(&disks[i], launch_on(host), i == 1); /* the second gets a copy */
        ok(monitor_disks_load(&disks[i], reader, &forever, &err), &err);
        assert_int_equal(disks[i].disks[0].overlay_fd != HOST_FD_NONE, i == 1);
    }
    assert_int_equal(fcntl(disks[1].disks[0].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    snapshot_reader_close(reader);
    for (int i = 0; i < 3; i++) {
        guest_acts(&disks[i].disks[0], truth[i], (char)('a' + i));
    }
    for (int i = 0; i < 3; i++) {
        ok(save(host, &disks[i], path, &err), &err);
        expect_bundle(path, truth[i], DISK_SIZE);
        remove_bundle(path);
        monitor_disks_deinit(&disks[i]);
        close(truth[i]);
    }
}

/* A load over overlays reads no byte of the disk, however large; a copy finds what is damaged. */
static void test_a_load_is_lazy_or_checks(void **state) {
    (void)state;
    struct kelpie_error err;
    struct monitor_disks disks;
    struct host *counting = NULL;
    char path[96];
    char part[128];
    struct snapshot_reader *reader = NULL;
    close(make_disk(DISK_SIZE));
    path_of("bundle", path, sizeof(path));
    make_bundle(path);
    ok(fault_host_create(host, &counting, &err), &err);
    ok(snapshot_reader_open(counting, path, &reader, &err), &err);
    for (int overlays = 0; overlays < 2; overlays++) {
        monitor_disks_init(&disks, launch_on(counting), overlays == 1);
        fault_host_arm(counting, &(struct fault_plan){.only = "file_read_at"});
        ok(monitor_disks_load(&disks, reader, &forever, &err), &err);
        assert_int_equal(fault_host_calls(counting) == 0, overlays == 1);
        monitor_disks_deinit(&disks);
    }
    snprintf(part, sizeof(part), "%s/disk-0", path);
    int fd = open(part, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "!", 1, 5000), 1);
    close(fd);
    monitor_disks_init(&disks, launch_on(counting), false);
    assert_int_equal(monitor_disks_load(&disks, reader, &forever, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "disk-0");
    monitor_disks_deinit(&disks);
    snapshot_reader_close(reader);
    host_destroy(counting);
    remove_bundle(path);
}

static void test_the_limit_of_overlays(void **state) {
    (void)state;
    struct kelpie_error err;
    const struct host_wait past = host_wait_none();
    for (uint64_t more = 0; more <= 512; more += 512) {
        struct monitor_disks disks;
        struct snapshot_writer *writer = NULL;
        struct kelpie_snapshot snapshot;
        char path[96];
        int fd = HOST_FD_NONE;
        path_of("huge", path, sizeof(path));
        ok(snapshot_writer_create(host, path, 0, &writer, &err), &err);
        struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
        snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
        snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
        manifest->vcpu_count = 1;
        manifest->memory_mib = 64;
        manifest->memory_in_state = true;
        manifest->disk_count = 1;
        manifest->disks[0] = (struct snapshot_disk){
            .path = "/disk", .in_bundle = true, .size = OVERLAY_DISK_SIZE_MAX + more};
        /* Its checksum takes minutes, and nobody looks at it here. */
        manifest->parts[SNAPSHOT_PART_DISK_0] = (struct snapshot_part_info){
            true, OVERLAY_DISK_SIZE_MAX + more, "99aa06d3014798d86001c324468d497f"};
        ok(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), &err);
        ok(snapshot_writer_part(writer, SNAPSHOT_PART_DISK_0, &fd, &err), &err);
        ok(host_file_truncate(host, fd, OVERLAY_DISK_SIZE_MAX + more, &err), &err);
        ok(snapshot_writer_publish(writer, &forever, &snapshot, &err), &err);
        snapshot_writer_destroy(writer);
        enum kelpie_status status = load(host, &disks, true, path, &past, &err);
        assert_int_equal(status, more == 0 ? KELPIE_OK : KELPIE_TIMED_OUT); /* of the copy */
        monitor_disks_deinit(&disks);
        remove_bundle(path);
    }
}

/* What a monitor that was taken over can do to the files that it has: a save fails, or says what is there. */
static void hazard_a_hostile_monitor_makes_a_save_fail(void **state) {
    (void)state;
    struct kelpie_error err;
    struct monitor_disks disks;
    char path[96];
    char child[96];
    close(make_disk(DISK_SIZE));
    path_of("bundle", path, sizeof(path));
    path_of("child", child, sizeof(child));
    make_bundle(path);
    ok(load(host, &disks, true, path, &forever, &err), &err);
    const struct monitor_disk *disk = &disks.disks[0];
    const size_t bitmap_size = overlay_bitmap_size(DISK_SIZE);
    static uint8_t ones[8192];
    memset(ones, 0xff, sizeof(ones));
    assert_true(bitmap_size < sizeof(ones));
    /* Bits behind the disk's end. */
    assert_int_equal(pwrite(disk->bitmap_fd, ones, bitmap_size, 0), bitmap_size);
    ok(save(host, &disks, child, &err), &err);
    remove_bundle(child);
    assert_int_equal(ftruncate(disk->overlay_fd, (off_t)DISK_SIZE - 1), 0);
    assert_int_equal(save(host, &disks, child, &err), KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(ftruncate(disk->overlay_fd, (off_t)DISK_SIZE), 0);
    assert_int_equal(ftruncate(disk->bitmap_fd, (off_t)bitmap_size - 1), 0);
    assert_int_equal(save(host, &disks, child, &err), KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(ftruncate(disk->bitmap_fd, 0), 0);
    assert_int_equal(save(host, &disks, child, &err), KELPIE_SNAPSHOT_FAILED);
    monitor_disks_deinit(&disks);
    remove_bundle(path);
}

/* The n-th host call fails: an error, and nothing stays open. */
static void test_any_call_may_fail(void **state) {
    (void)state;
    struct kelpie_error err;
    struct host *faulty = NULL;
    char path[96];
    char child[96];
    char text[256];
    const uint64_t size = 100 * OVERLAY_BLOCK_SIZE;
    int truth = make_disk(size);
    uint64_t nth = 1;
    path_of("bundle", path, sizeof(path));
    path_of("child", child, sizeof(child));
    make_bundle(path);
    ok(fault_host_create(host, &faulty, &err), &err);
    for (; nth < PLACES; nth++) {
        struct monitor_disks disks;
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = load(faulty, &disks, true, path, &forever, &err);
        if (status == KELPIE_OK) {
            guest_write(&disks.disks[0], truth, 5000, 'a');
            status = save(faulty, &disks, child, &err);
        }
        const char *fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        monitor_disks_deinit(&disks);
        assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
        if (status == KELPIE_OK) {
            expect_bundle(child, truth, size);
            remove_bundle(child);
        }
        if (!fired) {
            assert_int_equal(status, KELPIE_OK);
            break;
        }
    }
    assert_true(nth > 30 && nth < PLACES);
    close(truth);
    host_destroy(faulty);
    remove_bundle(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c7_restored_disks_are_apart),
        cmocka_unit_test(hazard_c7_forked_disks_are_apart),
        cmocka_unit_test(test_a_copy_for_others_is_whole),
        cmocka_unit_test(test_a_load_is_lazy_or_checks),
        cmocka_unit_test(test_the_limit_of_overlays),
        cmocka_unit_test(hazard_a_hostile_monitor_makes_a_save_fail),
        cmocka_unit_test(test_any_call_may_fail),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
