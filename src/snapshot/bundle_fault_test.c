/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Failures and deaths while a bundle is written: it is whole, or it is not there. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "snapshot/bundle_harness_test.h"
#include "support/fault_host.h"

static void hazard_B4_every_host_call_fails(void **state) {
    (void)state;
    struct host *faulty = NULL;
    struct kelpie_snapshot snapshot;
    char path[128];
    char leaks[512];
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    for (uint64_t nth = 1;; nth++) {
        struct kelpie_error err = {0};
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .os_error = EIO});
        enum kelpie_status status = write_bundle(faulty, path, memory_fd, &snapshot, &err);
        const char *fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_int_equal(fault_host_leaks(faulty, leaks, sizeof(leaks)), 0);
        if (status == KELPIE_OK) {
            assert_int_equal(check_bundle(path, &err), KELPIE_OK);
            remove_bundle(path);
        } else {
            assert_non_null(fired);
            assert_true(err.message[0] != '\0');
        }
        assert_int_equal(entry_count(folder), 0);
        if (!fired) {
            assert_true(nth > 40);
            break;
        }
    }
    host_destroy(faulty);
    host_close(host, memory_fd);
}

static uint64_t count_calls(struct host *faulty, const char *operation, int memory_fd,
                            const char *path) {
    struct kelpie_snapshot snapshot;
    fault_host_arm(faulty, &(struct fault_plan){.only = operation});
    assert_int_equal(write_bundle(faulty, path, memory_fd, &snapshot, NULL), KELPIE_OK);
    remove_bundle(path);
    return fault_host_calls(faulty);
}

/* A power failure is not seen by a test; that everything was synced, and that a sync that fails leaves no bundle, is. */
static void hazard_B4_a_sync_that_fails_is_no_bundle(void **state) {
    static const struct {
        const char *operation;
        uint64_t count;
    } syncs[] = {
        {"file_sync", 4}, /* state, memory, disk-0, the manifest */
        {"path_sync", 2}, /* the bundle's folder, and the one that has its name */
    };
    (void)state;
    struct host *faulty = NULL;
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    char path[128];
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(syncs); i++) {
        assert_int_equal(count_calls(faulty, syncs[i].operation, memory_fd, path), syncs[i].count);
        for (uint64_t nth = 1; nth <= syncs[i].count; nth++) {
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .only = syncs[i].operation});
            assert_int_equal(write_bundle(faulty, path, memory_fd, &snapshot, &err),
                             KELPIE_SNAPSHOT_FAILED);
            assert_int_equal(check_bundle(path, &err), KELPIE_NOT_FOUND);
            assert_int_equal(entry_count(folder), 0);
        }
    }
    host_destroy(faulty);
    host_close(host, memory_fd);
}

static void hazard_B4_full_disk(void **state) {
    (void)state;
    char mount_point[96];
    char path[128];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    int memory_fd = make_memory();
    path_of("small", mount_point, sizeof(mount_point));
    assert_int_equal(mkdir(mount_point, 0700), 0);
    snprintf(path, sizeof(path), "%s/bundle", mount_point);
    if (mount("none", mount_point, "tmpfs", 0, "size=16k") != 0) {
        print_message("skipped: a full disk (mounting a tmpfs takes root)\n");
        assert_int_equal(rmdir(mount_point), 0);
        host_close(host, memory_fd);
        skip();
    }
    assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_NO_SPACE);
    assert_int_equal(entry_count(mount_point), 0);
    assert_int_equal(umount(mount_point), 0);
    assert_int_equal(rmdir(mount_point), 0);
    host_close(host, memory_fd);
}

/* The child is killed after a growing time; the next writer finds the old bundle or none, and cleans up. */
static void hazard_B4_killed_at_any_moment(void **state) {
    (void)state;
    char path[128];
    char other[128];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    unsigned whole = 0;
    unsigned partial = 0;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    path_of("other", other, sizeof(other));
    for (unsigned i = 0; i < 150; i += 3) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            enum kelpie_status status = write_bundle(host, path, memory_fd, &snapshot, NULL);
            _exit(status == KELPIE_OK ? 0 : 1);
        }
        usleep(i * i);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        enum kelpie_status status = check_bundle(path, &err);
        assert_true(status == KELPIE_OK || status == KELPIE_NOT_FOUND);
        whole += status == KELPIE_OK;
        partial += status != KELPIE_OK && entry_count(folder) > 0;
        if (status == KELPIE_OK) {
            remove_bundle(path);
        }
        assert_int_equal(write_bundle(host, other, memory_fd, &snapshot, &err), KELPIE_OK);
        assert_int_equal(check_bundle(other, &err), KELPIE_OK);
        remove_bundle(other);
        assert_int_equal(entry_count(folder), 0);
    }
    print_message("killed: %u bundles whole, %u partial folders left and cleaned\n", whole,
                  partial);
    assert_true(partial > 0);
    host_close(host, memory_fd);
}

/* What lies in the folder beside the bundles, after a kill: none of it passes for a bundle that it is not. */
static size_t check_leftovers(void) {
    static struct host_dir_entry entries[64];
    size_t count = 0;
    size_t partial = 0;
    assert_int_equal(host_dir_list(host, folder, entries, ARRAY_SIZE(entries), &count, NULL),
                     KELPIE_OK);
    for (size_t i = 0; i < count; i++) {
        char path[HOST_PATH_SIZE_MAX];
        struct kelpie_error err = {0};
        if (!strstr(entries[i].name, SNAPSHOT_PARTIAL_MARK)) {
            assert_true(strcmp(entries[i].name, "old") == 0 ||
                        strcmp(entries[i].name, "bundle") == 0);
            continue;
        }
        path_of(entries[i].name, path, sizeof(path));
        enum kelpie_status status = check_bundle(path, &err);
        assert_true(status == KELPIE_OK || status == KELPIE_SNAPSHOT_CORRUPT);
        partial++;
    }
    return partial;
}

/* The child is killed at its first host call, its second, … until it comes through. An older bundle lies beside, and
 * is whole throughout, as the new one is if it is there at all. The next writer leaves nothing of what was left. */
static void hazard_B4_killed_at_each_host_call(void **state) {
    (void)state;
    char path[128];
    char old[128];
    struct kelpie_snapshot snapshot;
    struct kelpie_error err;
    struct host *faulty = NULL;
    size_t partial = 0;
    bool killed = true;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    path_of("old", old, sizeof(old));
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    assert_int_equal(write_bundle(host, old, memory_fd, &snapshot, &err), KELPIE_OK);
    uint64_t nth = 1;
    for (; killed; nth++) {
        pid_t child = fork();
        int ending = 0;
        assert_true(child >= 0);
        if (child == 0) {
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .kills = true});
            enum kelpie_status status = write_bundle(faulty, path, memory_fd, &snapshot, NULL);
            _exit(status == KELPIE_OK ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &ending, 0), child);
        killed = WIFSIGNALED(ending);
        assert_true(killed || WEXITSTATUS(ending) == 0);
        enum kelpie_status status = check_bundle(path, &err);
        assert_true(status == KELPIE_OK || (killed && status == KELPIE_NOT_FOUND));
        assert_int_equal(check_bundle(old, &err), KELPIE_OK);
        partial += check_leftovers();
        if (status == KELPIE_OK) {
            remove_bundle(path);
        }
        assert_int_equal(write_bundle(host, path, memory_fd, &snapshot, &err), KELPIE_OK);
        assert_int_equal(entry_count(folder), 2);
        remove_bundle(path);
    }
    print_message("killed at %llu calls, %zu partial folders left and cleaned\n",
                  (unsigned long long)nth - 2, partial);
    assert_true(nth > 40);
    assert_true(partial > 20);
    remove_bundle(old);
    host_destroy(faulty);
    host_close(host, memory_fd);
}

/* A bundle that is there is not written over, whenever the writer ends. */
static void hazard_B4_an_old_bundle_stays(void **state) {
    (void)state;
    char path[128];
    struct kelpie_snapshot first;
    struct kelpie_snapshot second;
    struct kelpie_error err;
    struct snapshot_writer *writer = NULL;
    int fd = HOST_FD_NONE;
    int memory_fd = make_memory();
    path_of("bundle", path, sizeof(path));
    /* Begun when there was none, and overtaken. */
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, &err), KELPIE_OK);
    fill_manifest(snapshot_writer_manifest(writer));
    snapshot_writer_manifest(writer)->disk_count = 0;
    snapshot_writer_manifest(writer)->disks[0] = (struct snapshot_disk){0};
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), KELPIE_OK);
    assert_int_equal(write_bundle(host, path, memory_fd, &first, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_publish(writer, &forever, &second, &err),
                     KELPIE_SNAPSHOT_FAILED);
    snapshot_writer_destroy(writer);
    assert_int_equal(write_bundle(host, path, memory_fd, &second, &err), KELPIE_BAD_CONFIG);
    struct snapshot_reader *reader = NULL;
    assert_int_equal(check_bundle(path, &err), KELPIE_OK);
    assert_int_equal(snapshot_reader_open(host, path, &reader, &err), KELPIE_OK);
    assert_string_equal(snapshot_reader_manifest(reader)->info.id, first.id);
    snapshot_reader_close(reader);
    assert_int_equal(entry_count(folder), 1);
    remove_bundle(path);
    /* Nor an empty folder, which a rename would replace without a word. */
    assert_int_equal(snapshot_writer_create(host, path, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, &err), KELPIE_OK);
    fill_manifest(snapshot_writer_manifest(writer));
    snapshot_writer_manifest(writer)->disk_count = 0;
    snapshot_writer_manifest(writer)->disks[0] = (struct snapshot_disk){0};
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(snapshot_writer_publish(writer, &forever, &second, &err),
                     KELPIE_SNAPSHOT_FAILED);
    snapshot_writer_destroy(writer);
    assert_int_equal(rmdir(path), 0);
    host_close(host, memory_fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_B4_every_host_call_fails),
        cmocka_unit_test(hazard_B4_a_sync_that_fails_is_no_bundle),
        cmocka_unit_test(hazard_B4_full_disk),
        cmocka_unit_test(hazard_B4_killed_at_any_moment),
        cmocka_unit_test(hazard_B4_killed_at_each_host_call),
        cmocka_unit_test(hazard_B4_an_old_bundle_stays),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
