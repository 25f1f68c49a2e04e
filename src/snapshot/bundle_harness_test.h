/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A folder of the test's own, and bundles with a state, a memory and a disk in it, for the tests of this folder. */
#ifndef KELPIE_SNAPSHOT_BUNDLE_HARNESS_TEST_H
#define KELPIE_SNAPSHOT_BUNDLE_HARNESS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "snapshot/snapshot_internal.h"

#define MEMORY_SIZE (3u * 1048576u + 100u)

static struct host *host;
static struct host_wait forever;
static char folder[64];

static inline int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-bundle-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return 0;
}

static inline size_t entry_count(const char *path) {
    struct host_dir_entry entries[64];
    size_t count = 0;
    assert_int_equal(host_dir_list(host, path, entries, ARRAY_SIZE(entries), &count, NULL),
                     KELPIE_OK);
    return count;
}

static inline int tear_down(void **state) {
    (void)state;
    int result = rmdir(folder); /* Fails, and with it the group, when a test leaves something. */
    host_destroy(host);
    return result;
}

static inline void path_of(const char *name, char *buffer, size_t size) {
    snprintf(buffer, size, "%s/%s", folder, name);
}

/* A memory file with data at its start, in its middle and in its last byte, and with zeros that are no hole between
 * data. */
static inline int make_memory(void) {
    int fd = HOST_FD_NONE;
    char data[10000];
    memset(data, 'm', sizeof(data));
    assert_int_equal(host_memory_file(host, "memory", MEMORY_SIZE, &fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, data, sizeof(data), 0, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, data, sizeof(data), 2000000, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, "!", 1, MEMORY_SIZE - 1, NULL), KELPIE_OK);
    memset(data, 0, sizeof(data));
    assert_int_equal(host_file_write_at(host, fd, data, sizeof(data), 2010000, NULL), KELPIE_OK);
    assert_int_equal(host_file_write_at(host, fd, "tail", 4, 2025000, NULL), KELPIE_OK);
    return fd;
}

static inline void fill_manifest(struct snapshot_manifest *manifest) {
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "qemu");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    manifest->disk_count = 1;
    snprintf(manifest->disks[0].path, sizeof(manifest->disks[0].path), "/disk");
    manifest->disks[0].in_bundle = true;
    manifest->disks[0].size = 4096;
}

/* Writes a bundle with a state, a memory and a disk through any host. */
static inline enum kelpie_status write_bundle(struct host *through, const char *path, int memory_fd,
                                              struct kelpie_snapshot *ret_snapshot,
                                              struct kelpie_error *err) {
    static const char text[4096] = "four thousand and ninety-six bytes of state";
    struct snapshot_writer *writer = NULL;
    int fd = HOST_FD_NONE;
    enum kelpie_status status = snapshot_writer_create(through, path, 0, &writer, err);
    if (status == KELPIE_OK) {
        fill_manifest(snapshot_writer_manifest(writer));
        status = snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, err);
    }
    if (status == KELPIE_OK) {
        status = host_file_write_at(through, fd, text, sizeof(text), 0, err);
    }
    if (status == KELPIE_OK) {
        status =
            snapshot_writer_copy(writer, SNAPSHOT_PART_DISK_0, fd, sizeof(text), &forever, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, memory_fd, MEMORY_SIZE,
                                      &forever, err);
    }
    if (status == KELPIE_OK) {
        status = snapshot_writer_publish(writer, &forever, ret_snapshot, err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

/* Opens the bundle and checks every part. */
static inline enum kelpie_status check_bundle_on(struct host *reading_host, const char *path,
                                                 struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    enum kelpie_status status = snapshot_reader_open(reading_host, path, &reader, err);
    for (unsigned i = 0; status == KELPIE_OK && i < SNAPSHOT_PART_COUNT; i++) {
        status = snapshot_reader_verify(reader, i, &forever, err);
    }
    snapshot_reader_close(reader);
    return status;
}

static inline enum kelpie_status check_bundle(const char *path, struct kelpie_error *err) {
    return check_bundle_on(host, path, err);
}

static inline void remove_bundle(const char *path) {
    assert_int_equal(host_path_remove_folder(host, path, NULL), KELPIE_OK);
}

#endif
