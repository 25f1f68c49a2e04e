/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted monitor's memory: the image at its beginning, and what of it has changed. */
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "sim/peer/vmm.h"

#define PAGES_IN_WORD 64u
#define PAGES_FILE_UNIT ((uint64_t)PEER_VMM_PAGE_SIZE * 8) /* bytes of memory to one of PAGES_x */

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a file's bitmap is one of words");
static_assert(PEER_VMM_IMAGE_WORD_COUNT * PAGES_IN_WORD * PEER_VMM_PAGE_SIZE ==
                  PEER_VMM_IMAGE_SIZE_MAX,
              "a bit for each page");

static void memory_check(const struct peer_vmm_memory *memory) {
    ASSERT(memory->host);
    ASSERT(memory->size % PAGES_FILE_UNIT == 0);
    ASSERT(!memory->tracked || memory->complete);
}

void peer_vmm_memory_init(struct peer_vmm_memory *memory, struct host *host) {
    ASSERT(memory && host);
    memory->host = host;
    memory->shared_fd = HOST_FD_NONE;
    memory->layer_fd = HOST_FD_NONE;
    memory->seen = mock_bytes_init(host);
    memory_check(memory);
}

void peer_vmm_memory_deinit(struct peer_vmm_memory *memory) {
    memory_check(memory);
    host_close(memory->host, memory->shared_fd);
    host_close(memory->host, memory->layer_fd);
    memory->shared_fd = memory->layer_fd = HOST_FD_NONE;
    mock_bytes_deinit(&memory->seen);
    ASSERT(memory->seen.size == 0);
}

/* ---- Pages ------------------------------------------------------------------------------------ */

static bool bit_get(const uint64_t *bitmap, size_t page) {
    ASSERT(bitmap);
    ASSERT(page < PEER_VMM_IMAGE_PAGE_COUNT_MAX);
    return (bitmap[page / PAGES_IN_WORD] >> (page % PAGES_IN_WORD) & 1) != 0;
}

static void bit_set(uint64_t *bitmap, size_t page) {
    ASSERT(bitmap);
    ASSERT(page < PEER_VMM_IMAGE_PAGE_COUNT_MAX);
    bitmap[page / PAGES_IN_WORD] |= 1ull << (page % PAGES_IN_WORD);
}

static size_t page_count(const struct mock_bytes *image) {
    mock_bytes_check(image);
    ASSERT(image->size <= PEER_VMM_IMAGE_SIZE_MAX);
    return (image->size + PEER_VMM_PAGE_SIZE - 1) / PEER_VMM_PAGE_SIZE;
}

/* A page of memory: of the image, or of the zeros behind it. */
static void page_get(const struct mock_bytes *image, size_t page, uint8_t *ret_page) {
    mock_bytes_check(image);
    ASSERT(ret_page);
    size_t offset = page * PEER_VMM_PAGE_SIZE;
    size_t size = offset < image->size ? min_size(PEER_VMM_PAGE_SIZE, image->size - offset) : 0;
    memset(ret_page, 0, PEER_VMM_PAGE_SIZE);
    if (size > 0) {
        memcpy(ret_page, image->data + offset, size);
    }
}

static bool page_differs(const struct mock_bytes *a, const struct mock_bytes *b, size_t page) {
    uint8_t page_a[PEER_VMM_PAGE_SIZE];
    uint8_t page_b[PEER_VMM_PAGE_SIZE];
    ASSERT(a && b);
    ASSERT(a != b);
    page_get(a, page, page_a);
    page_get(b, page, page_b);
    return memcmp(page_a, page_b, sizeof(page_a)) != 0;
}

static enum kelpie_status keep_seen(struct peer_vmm_memory *memory, const struct mock_bytes *image,
                                    struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(image != &memory->seen);
    mock_bytes_deinit(&memory->seen);
    if (!mock_bytes_append(&memory->seen, image->data, image->size)) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no room for another image");
    }
    return KELPIE_OK;
}

/* Adds what has changed since the last look. */
static enum kelpie_status look(struct peer_vmm_memory *memory, const struct mock_bytes *image,
                               struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(memory->tracked);
    size_t count = page_count(image);
    size_t seen_count = page_count(&memory->seen);
    count = count > seen_count ? count : seen_count;
    for (size_t page = 0; page < count; page++) {
        if (page_differs(image, &memory->seen, page)) {
            bit_set(memory->changed, page);
            bit_set(memory->pending, page);
        }
    }
    return keep_seen(memory, image, err);
}

static void end_layer(struct peer_vmm_memory *memory) {
    memory_check(memory);
    host_close(memory->host, memory->layer_fd);
    memory->layer_fd = HOST_FD_NONE;
    ASSERT(memory->layer_fd == HOST_FD_NONE);
}

enum kelpie_status peer_vmm_memory_reset(struct peer_vmm_memory *memory,
                                         const struct mock_bytes *image, struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(memory->size > 0);
    end_layer(memory);
    memset(memory->changed, 0, sizeof(memory->changed));
    memset(memory->pending, 0, sizeof(memory->pending));
    TRY(keep_seen(memory, image, err));
    memory->complete = true;
    return KELPIE_OK;
}

/* ---- Writing ---------------------------------------------------------------------------------- */

static enum kelpie_status check_fits(const struct peer_vmm_memory *memory,
                                     const struct mock_bytes *image, struct kelpie_error *err) {
    memory_check(memory);
    mock_bytes_check(image);
    if (image->size > memory->size) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "the guest is larger than its memory");
    }
    return KELPIE_OK;
}

/* Pages that are all zero stay holes. */
enum kelpie_status peer_vmm_memory_save(struct peer_vmm_memory *memory, int fd,
                                        const struct mock_bytes *image, struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(fd != HOST_FD_NONE);
    static const uint8_t zeros[PEER_VMM_PAGE_SIZE];
    uint8_t page[PEER_VMM_PAGE_SIZE];
    memory->was_read = true;
    TRY(check_fits(memory, image, err));
    TRY(host_file_truncate(memory->host, fd, memory->size, err));
    for (size_t i = 0; i < page_count(image); i++) {
        page_get(image, i, page);
        if (memcmp(page, zeros, sizeof(page)) != 0) {
            TRY(host_file_write_at(memory->host, fd, page, sizeof(page),
                                   (uint64_t)i * PEER_VMM_PAGE_SIZE, err));
        }
    }
    return KELPIE_OK;
}

enum kelpie_status peer_vmm_memory_track(struct peer_vmm_memory *memory, struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(memory->size > 0);
    if (!memory->complete) {
        return error_set(err, KELPIE_WRONG_STATE, "the guest ran since it was saved");
    }
    memory->tracked = true;
    return KELPIE_OK;
}

/* The diff's file: a new one, which lacks everything, or the one that is being written. */
static enum kelpie_status begin_layer(struct peer_vmm_memory *memory, struct peer_vmm_files *files,
                                      struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(files);
    if (!memory->tracked) {
        return error_set(err, KELPIE_WRONG_STATE, "nobody notes what the guest writes");
    }
    if (files->fds[CONTROL_ROLE_MEMORY] == HOST_FD_NONE && memory->layer_fd != HOST_FD_NONE) {
        return KELPIE_OK;
    }
    TRY(peer_vmm_files_check(files, CONTROL_ROLE_MEMORY, err));
    end_layer(memory);
    memory->layer_fd = peer_vmm_files_take(files, CONTROL_ROLE_MEMORY);
    memcpy(memory->pending, memory->changed, sizeof(memory->pending));
    return host_file_truncate(memory->host, memory->layer_fd, memory->size, err);
}

enum kelpie_status peer_vmm_memory_presave(struct peer_vmm_memory *memory,
                                           struct peer_vmm_files *files,
                                           const struct mock_bytes *image,
                                           struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(files && image);
    uint8_t page[PEER_VMM_PAGE_SIZE];
    TRY(check_fits(memory, image, err));
    TRY(begin_layer(memory, files, err));
    TRY(look(memory, image, err));
    for (size_t i = 0; i < PEER_VMM_IMAGE_PAGE_COUNT_MAX; i++) {
        if (bit_get(memory->pending, i)) {
            page_get(image, i, page);
            TRY(host_file_write_at(memory->host, memory->layer_fd, page, sizeof(page),
                                   (uint64_t)i * PEER_VMM_PAGE_SIZE, err));
        }
    }
    memset(memory->pending, 0, sizeof(memory->pending));
    return KELPIE_OK;
}

/* The bitmap's bytes for all of memory, of which the image is the beginning. */
static enum kelpie_status write_bitmap(const struct peer_vmm_memory *memory, int fd,
                                       uint64_t offset, const uint64_t *bitmap,
                                       struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(fd != HOST_FD_NONE);
    uint64_t size = memory->size / PAGES_FILE_UNIT;
    TRY(host_file_truncate(memory->host, fd, offset + size, err));
    size = min_u64(size, PEER_VMM_IMAGE_WORD_COUNT * sizeof(*bitmap));
    return host_file_write_at(memory->host, fd, bitmap, (size_t)size, offset, err);
}

enum kelpie_status peer_vmm_memory_save_diff(struct peer_vmm_memory *memory,
                                             struct peer_vmm_files *files,
                                             const struct mock_bytes *image,
                                             struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(files->fds[CONTROL_ROLE_PAGES_0] != HOST_FD_NONE);
    TRY(peer_vmm_memory_presave(memory, files, image, err));
    TRY(write_bitmap(memory, files->fds[CONTROL_ROLE_PAGES_0], 0, memory->changed, err));
    return peer_vmm_memory_reset(memory, image, err);
}

enum kelpie_status peer_vmm_memory_seal(struct peer_vmm_memory *memory,
                                        struct peer_vmm_files *files,
                                        const struct mock_bytes *image, struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(files && image);
    int fd = files->fds[CONTROL_ROLE_MEMORY];
    if (fd == HOST_FD_NONE && memory->shared_fd == HOST_FD_NONE) {
        return error_set(err, KELPIE_INTERNAL, "the machine's memory is private already");
    }
    fd = fd == HOST_FD_NONE ? memory->shared_fd : fd;
    TRY(peer_vmm_memory_save(memory, fd, image, err));
    host_close(memory->host, memory->shared_fd);
    memory->shared_fd = HOST_FD_NONE;
    return KELPIE_OK;
}

enum kelpie_status peer_vmm_memory_touched(const struct peer_vmm_memory *memory,
                                           const struct peer_vmm_files *files,
                                           const struct mock_bytes *image,
                                           struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(image);
    uint64_t touched[PEER_VMM_IMAGE_WORD_COUNT] = {0};
    TRY(peer_vmm_files_check(files, CONTROL_ROLE_WORKING_SET, err));
    if (memory->shared_fd != HOST_FD_NONE) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "this machine does not know which pages its guest touched");
    }
    if (memory->was_read) {
        return error_set(err, KELPIE_WRONG_STATE, "a snapshot has read all of the memory");
    }
    for (size_t i = 0; i < page_count(image); i++) {
        bit_set(touched, i);
    }
    return write_bitmap(memory, files->fds[CONTROL_ROLE_WORKING_SET],
                        PEER_VMM_WORKING_SET_HEADER_SIZE, touched, err);
}

/* ---- Loading ---------------------------------------------------------------------------------- */

static enum kelpie_status check_size(struct host *host, int fd, uint64_t size, const char *field,
                                     struct kelpie_error *err) {
    struct host_file_info info = {0};
    ASSERT(host && field);
    ASSERT(fd != HOST_FD_NONE);
    TRY(host_file_stat(host, fd, &info, err));
    if (info.size != size) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, field,
                               "the %s has %llu bytes and not %llu", field,
                               (unsigned long long)info.size, (unsigned long long)size);
    }
    return KELPIE_OK;
}

static enum kelpie_status read_all(struct host *host, int fd, void *buffer, size_t size,
                                   uint64_t offset, struct kelpie_error *err) {
    size_t count = 0;
    ASSERT(host && buffer);
    ASSERT(size > 0);
    TRY(host_file_read_at(host, fd, buffer, size, offset, &count, err));
    return count == size ? KELPIE_OK
                         : error_set(err, KELPIE_IO_FAILED, "the bundle's memory is cut off");
}

static enum kelpie_status load_layer(const struct peer_vmm_memory *memory, int layer_fd,
                                     int pages_fd, struct mock_bytes *image,
                                     struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(image->size > 0);
    uint64_t bitmap[PEER_VMM_IMAGE_WORD_COUNT] = {0};
    uint64_t size = memory->size / PAGES_FILE_UNIT;
    TRY(check_size(memory->host, layer_fd, memory->size, "memory", err));
    TRY(check_size(memory->host, pages_fd, size, "pages", err));
    TRY(read_all(memory->host, pages_fd, bitmap, (size_t)min_u64(size, sizeof(bitmap)), 0, err));
    for (size_t i = 0; i < page_count(image); i++) {
        size_t offset = i * PEER_VMM_PAGE_SIZE;
        if (bit_get(bitmap, i)) {
            TRY(read_all(memory->host, layer_fd, image->data + offset,
                         min_size(PEER_VMM_PAGE_SIZE, image->size - offset), offset, err));
        }
    }
    return KELPIE_OK;
}

/* Room for the image, of zeros. */
static enum kelpie_status make_room(struct mock_bytes *image, uint64_t size,
                                    struct kelpie_error *err) {
    static const uint8_t zeros[PEER_VMM_PAGE_SIZE];
    mock_bytes_check(image);
    ASSERT(image->size == 0);
    while (image->size < size) {
        if (!mock_bytes_append(image, zeros, (size_t)min_u64(sizeof(zeros), size - image->size))) {
            return error_set(err, KELPIE_NO_MEMORY, "there is no room for the image");
        }
    }
    return KELPIE_OK;
}

enum kelpie_status peer_vmm_memory_load(const struct peer_vmm_memory *memory,
                                        const struct peer_vmm_files *files, uint64_t image_size,
                                        struct mock_bytes *image, struct kelpie_error *err) {
    memory_check(memory);
    ASSERT(image_size > 0 && image_size <= PEER_VMM_IMAGE_SIZE_MAX);
    TRY(peer_vmm_files_check(files, CONTROL_ROLE_MEMORY, err));
    int fd = files->fds[CONTROL_ROLE_MEMORY];
    TRY(check_size(memory->host, fd, memory->size, "memory", err));
    TRY(make_room(image, image_size, err));
    TRY(read_all(memory->host, fd, image->data, image->size, 0, err));
    for (unsigned i = 0; i < CONTROL_LAYER_COUNT_MAX; i++) {
        int layer_fd = files->fds[CONTROL_ROLE_LAYER_0 + i];
        if (layer_fd == HOST_FD_NONE) {
            break;
        }
        TRY(peer_vmm_files_check(files, CONTROL_ROLE_PAGES_0 + i, err));
        TRY(load_layer(memory, layer_fd, files->fds[CONTROL_ROLE_PAGES_0 + i], image, err));
    }
    return KELPIE_OK;
}
