/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/working_set.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "snapshot/snapshot_internal.h"

#define MAGIC "KLPWSET1"
#define MAGIC_SIZE 8
#define ID_DIGITS (KELPIE_ID_SIZE - 1)
#define CHECKSUM_OFFSET (SNAPSHOT_WORKING_SET_HEADER_SIZE - 8)
#define FILE_MODE 0600

static_assert(MAGIC_SIZE + ID_DIGITS + 8 + 8 + 8 == SNAPSHOT_WORKING_SET_HEADER_SIZE, "the header");

uint64_t snapshot_working_set_size(uint64_t memory_size) {
    ASSERT(memory_size <= SNAPSHOT_PART_SIZE_MAX);
    uint64_t pages = (memory_size + SNAPSHOT_PAGE_SIZE - 1) / SNAPSHOT_PAGE_SIZE;
    uint64_t size = SNAPSHOT_WORKING_SET_HEADER_SIZE + (pages + 7) / 8;
    ASSERT(size >= SNAPSHOT_WORKING_SET_HEADER_SIZE);
    return size;
}

/* Magic, the bundle's id, pages, zero; then the XXH3-64 of header and bitmap, in which its own place is zero. */
static void make_header(const struct snapshot_manifest *manifest, uint8_t *bytes, size_t size) {
    const uint64_t memory_size = manifest->parts[SNAPSHOT_PART_MEMORY].size;
    ASSERT(size == snapshot_working_set_size(memory_size));
    ASSERT(strlen(manifest->info.id) == ID_DIGITS);
    struct cursor_writer header = cursor_writer_init(bytes, SNAPSHOT_WORKING_SET_HEADER_SIZE);
    cursor_write_bytes(&header, MAGIC, MAGIC_SIZE);
    cursor_write_bytes(&header, manifest->info.id, ID_DIGITS);
    cursor_write_u64(&header, (memory_size + SNAPSHOT_PAGE_SIZE - 1) / SNAPSHOT_PAGE_SIZE);
    cursor_write_u64(&header, 0);
    cursor_write_u64(&header, 0);
    ASSERT(!header.failed && header.size == SNAPSHOT_WORKING_SET_HEADER_SIZE);
    struct cursor_writer checksum = cursor_writer_init(bytes + CHECKSUM_OFFSET, 8);
    cursor_write_u64(&checksum, XXH3_64bits(bytes, size));
}

/* A bundle on disk with a memory of its own. */
static bool may_have(const struct snapshot_reader *reader) {
    ASSERT(reader);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    ASSERT(manifest);
    return snapshot_reader_directory(reader)[0] != '\0' &&
           manifest->parts[SNAPSHOT_PART_MEMORY].present &&
           manifest->parts[SNAPSHOT_PART_MEMORY].size <= SNAPSHOT_WORKING_SET_MEMORY_MAX;
}

/* The whole file, if it has the right size; the caller frees it. */
static uint8_t *read_whole(struct host *host, int fd, size_t size) {
    struct host_file_info info;
    size_t count = 0;
    ASSERT(host);
    ASSERT(size > SNAPSHOT_WORKING_SET_HEADER_SIZE);
    if (host_file_stat(host, fd, &info, NULL) != KELPIE_OK || info.type != HOST_FILE_REGULAR ||
        info.size != size) {
        return NULL;
    }
    uint8_t *bytes = host_allocate(host, size, NULL);
    if (bytes &&
        (host_file_read_at(host, fd, bytes, size, 0, &count, NULL) != KELPIE_OK || count != size)) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

int snapshot_working_set_open(struct host *host, const struct snapshot_reader *reader) {
    struct snapshot_path path;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(host);
    ASSERT(reader);
    if (!may_have(reader) ||
        snapshot_path_format(&path, NULL, "%s/" SNAPSHOT_WORKING_SET_NAME,
                             snapshot_reader_directory(reader)) != KELPIE_OK ||
        host_file_open(host, path.text, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, NULL) !=
            KELPIE_OK) {
        return HOST_FD_NONE;
    }
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    size_t size = (size_t)snapshot_working_set_size(manifest->parts[SNAPSHOT_PART_MEMORY].size);
    AUTO_MEM uint8_t *bytes = read_whole(host, fd.fd, size);
    if (!bytes) {
        return HOST_FD_NONE;
    }
    /* The header that belongs to this bundle and this bitmap is the only one that counts. */
    uint8_t header[SNAPSHOT_WORKING_SET_HEADER_SIZE];
    memcpy(header, bytes, sizeof(header));
    make_header(manifest, bytes, size);
    return memcmp(header, bytes, sizeof(header)) == 0 ? host_fd_take(&fd) : HOST_FD_NONE;
}

enum kelpie_status snapshot_working_set_store(struct host *host,
                                              const struct snapshot_reader *reader, int bitmap_fd,
                                              struct kelpie_error *err) {
    struct snapshot_path path;
    ASSERT(host && reader);
    ASSERT(bitmap_fd != HOST_FD_NONE);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    if (!may_have(reader)) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "the bundle has no memory on a disk");
    }
    size_t size = (size_t)snapshot_working_set_size(manifest->parts[SNAPSHOT_PART_MEMORY].size);
    TRY(snapshot_path_format(&path, err, "%s/" SNAPSHOT_WORKING_SET_NAME,
                             snapshot_reader_directory(reader)));
    AUTO_MEM uint8_t *bytes = read_whole(host, bitmap_fd, size);
    if (!bytes) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED,
                         "the list of touched pages cannot be read, or has not %zu bytes", size);
    }
    make_header(manifest, bytes, size);
    return host_file_store(host, path.text, bytes, size, FILE_MODE, err);
}
