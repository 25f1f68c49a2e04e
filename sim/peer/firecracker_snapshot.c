/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted Firecracker's snapshot files. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "sim/peer/firecracker.h"

#define STATE_MAGIC 0x5453524352494646ull /* "FFIRCRST" */
#define STATE_VERSION 1
#define STATE_HEADER_SIZE 56
#define FILE_MODE 0600u

uint64_t firecracker_checksum(const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint64_t sum = 0xcbf29ce484222325ull;
    ASSERT(data || size == 0);
    for (size_t i = 0; i < size; i++) {
        sum = (sum ^ bytes[i]) * 0x100000001b3ull;
    }
    ASSERT(size > 0 || sum == 0xcbf29ce484222325ull);
    return sum;
}

/* ---- The state file --------------------------------------------------------------------------- */

static enum kelpie_status write_synced(struct host *host, int fd, const void *data, size_t size,
                                       struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(data && size > 0);
    TRY(host_file_write_at(host, fd, data, size, 0, err));
    return host_file_sync(host, fd, err);
}

enum kelpie_status firecracker_state_write(struct host *host, const char *path,
                                           const struct firecracker_saved *saved,
                                           struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(saved->config);
    AUTO_MEM char *text = json_dumps(saved->config, JSON_COMPACT);
    size_t size = text ? strlen(text) : 0;
    AUTO_MEM uint8_t *bytes = text ? host_allocate(host, STATE_HEADER_SIZE + size, err) : NULL;
    if (!bytes) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no room for a state");
    }
    struct cursor_writer writer = cursor_writer_init(bytes, STATE_HEADER_SIZE + size);
    cursor_write_u64(&writer, STATE_MAGIC);
    cursor_write_u64(&writer, STATE_VERSION);
    cursor_write_u64(&writer, size);
    cursor_write_u64(&writer, saved->memory_bytes);
    cursor_write_u64(&writer, saved->image_size);
    cursor_write_u64(&writer, saved->image_checksum);
    cursor_write_u64(&writer, firecracker_checksum(text, size));
    cursor_write_bytes(&writer, text, size);
    ASSERT(!writer.failed && writer.size == STATE_HEADER_SIZE + size);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(host_file_open(host, path, HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE,
                       FILE_MODE, &fd.fd, err));
    return write_synced(host, fd.fd, bytes, writer.size, err);
}

static enum kelpie_status corrupt(struct kelpie_error *err, const char *what) {
    ASSERT(what);
    ASSERT(what[0]);
    return error_set(err, KELPIE_SNAPSHOT_CORRUPT, "%s", what);
}

enum kelpie_status firecracker_state_read(struct host *host, const char *path,
                                          struct firecracker_saved *ret_saved,
                                          struct kelpie_error *err) {
    AUTO_MEM char *data = NULL;
    size_t size = 0;
    ASSERT(path);
    ASSERT(ret_saved);
    TRY(host_file_load(host, path, FIRECRACKER_STATE_SIZE_MAX, &data, &size, err));
    struct cursor_reader reader = cursor_reader_init(data, size);
    struct firecracker_saved saved = {0};
    uint64_t magic = cursor_read_u64(&reader);
    uint64_t version = cursor_read_u64(&reader);
    uint64_t text_size = cursor_read_u64(&reader);
    saved.memory_bytes = cursor_read_u64(&reader);
    saved.image_size = cursor_read_u64(&reader);
    saved.image_checksum = cursor_read_u64(&reader);
    uint64_t checksum = cursor_read_u64(&reader);
    if (reader.failed || magic != STATE_MAGIC || version != STATE_VERSION) {
        return corrupt(err, "the state file is none, or of another version");
    }
    if (text_size != cursor_reader_left(&reader)) {
        return corrupt(err, "the state file is cut, or too long");
    }
    const uint8_t *text = cursor_read_bytes(&reader, (size_t)text_size);
    if (firecracker_checksum(text, (size_t)text_size) != checksum) {
        return corrupt(err, "CRC64 validation failed");
    }
    if (saved.memory_bytes > (uint64_t)SIZE_MAX / 2 ||
        saved.image_size > min_u64(saved.memory_bytes, FIRECRACKER_IMAGE_SIZE_MAX)) {
        return corrupt(err, "the state file's sizes cannot be");
    }
    saved.config = json_loadb((const char *)text, (size_t)text_size, 0, NULL);
    if (!saved.config) {
        return corrupt(err, "the state file has no config");
    }
    *ret_saved = saved;
    return KELPIE_OK;
}

/* ---- The memory file -------------------------------------------------------------------------- */

/* A page of memory: of the image, or of the zeros behind it. */
static void page_get(const struct mock_bytes *image, size_t page, uint8_t *ret_page) {
    size_t offset = page * FIRECRACKER_PAGE_SIZE;
    ASSERT(image);
    ASSERT(ret_page);
    size_t size = offset < image->size ? min_size(FIRECRACKER_PAGE_SIZE, image->size - offset) : 0;
    memset(ret_page, 0, FIRECRACKER_PAGE_SIZE);
    if (size > 0) {
        memcpy(ret_page, image->data + offset, size);
    }
}

static bool is_zero(const uint8_t *page) {
    ASSERT(page);
    size_t i = 0;
    while (i < FIRECRACKER_PAGE_SIZE && page[i] == 0) {
        i++;
    }
    ASSERT(i <= FIRECRACKER_PAGE_SIZE);
    return i == FIRECRACKER_PAGE_SIZE;
}

static size_t page_count(const struct mock_bytes *image) {
    ASSERT(image);
    ASSERT(image->size <= FIRECRACKER_IMAGE_SIZE_MAX);
    return (image->size + FIRECRACKER_PAGE_SIZE - 1) / FIRECRACKER_PAGE_SIZE;
}

enum kelpie_status firecracker_memory_write(struct host *host, const char *path,
                                            uint64_t memory_bytes, const struct mock_bytes *image,
                                            const struct mock_bytes *seen,
                                            struct kelpie_error *err) {
    uint8_t page[FIRECRACKER_PAGE_SIZE];
    uint8_t old[FIRECRACKER_PAGE_SIZE];
    ASSERT(path);
    ASSERT(memory_bytes % FIRECRACKER_PAGE_SIZE == 0);
    if (image->size > FIRECRACKER_IMAGE_SIZE_MAX || image->size > memory_bytes) {
        return error_set(err, KELPIE_NO_SPACE, "the guest is larger than its memory");
    }
    uint32_t flags = HOST_OPEN_WRITE | HOST_OPEN_CREATE | (seen ? 0u : HOST_OPEN_TRUNCATE);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(host_file_open(host, path, flags, FILE_MODE, &fd.fd, err));
    TRY(host_file_truncate(host, fd.fd, memory_bytes, err));
    size_t count = page_count(image);
    if (seen && page_count(seen) > count) {
        count = page_count(seen); /* what is zero again has changed, too */
    }
    for (size_t i = 0; i < count; i++) {
        page_get(image, i, page);
        if (seen) {
            page_get(seen, i, old);
        }
        if (seen ? memcmp(page, old, sizeof(page)) != 0 : !is_zero(page)) {
            TRY(host_file_write_at(host, fd.fd, page, sizeof(page),
                                   (uint64_t)i * FIRECRACKER_PAGE_SIZE, err));
        }
    }
    return host_file_sync(host, fd.fd, err);
}

enum kelpie_status firecracker_memory_read(struct host *host, const char *path,
                                           const struct firecracker_saved *saved,
                                           struct mock_bytes *image, struct kelpie_error *err) {
    struct host_file_info info = {0};
    size_t size = (size_t)saved->image_size;
    size_t read_size = 0;
    ASSERT(image->size == 0);
    ASSERT(size <= FIRECRACKER_IMAGE_SIZE_MAX);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err));
    TRY(host_file_stat(host, fd.fd, &info, err));
    if (info.size != saved->memory_bytes) {
        return corrupt(err, "the memory file has another size than the microVM's memory");
    }
    AUTO_MEM uint8_t *data = host_allocate(host, size + 1, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    TRY(host_file_read_at(host, fd.fd, data, size, 0, &read_size, err));
    if (read_size != size || firecracker_checksum(data, size) != saved->image_checksum) {
        return corrupt(err, "the memory file is not what was saved");
    }
    if (!mock_bytes_append(image, data, size)) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no room for an image");
    }
    return KELPIE_OK;
}
