/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kernel_unpack.c: the ELF file within a bzImage, for monitors that load nothing else. Where it is: the Linux documentation, "The
 * Linux/x86 Boot Protocol", payload_offset and payload_length. It is compressed, as the kernel was configured, and its last
 * four bytes are its size unpacked; or it is the ELF file itself. It is kept in the cache by the bzImage's digest.
 */
#include <elf.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "image/stream.h"

#define SHELF "vmlinux"
#define FILE_MODE 0600
#define SIZE_SUFFIX 4

static enum kelpie_status wrong(struct kelpie_error *err, const char *path, const char *why) {
    ASSERT(path);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                           "the kernel %.512s has no ELF file in it: %s", path, why);
}

/* The payload as it lies in the image. */
static enum kelpie_status find_payload(struct host *host, const char *path, int fd,
                                       struct image_blob *ret_blob, struct kelpie_error *err) {
    struct host_file_info info = {0};
    size_t size = 0;
    uint64_t offset = 0;
    uint64_t length = 0;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(ret_blob);
    AUTO_MEM uint8_t *header = host_allocate(host, IMAGE_KERNEL_HEADER_SIZE, err);
    if (!header) {
        return KELPIE_NO_MEMORY;
    }
    TRY(host_file_stat(host, fd, &info, err));
    TRY(host_file_read_at(host, fd, header, IMAGE_KERNEL_HEADER_SIZE, 0, &size, err));
    if (!image_kernel_payload(header, size, info.size, &offset, &length)) {
        return wrong(err, path, "its header does not say where");
    }
    *ret_blob = (struct image_blob){.fd = fd, .offset = offset, .size = length};
    return KELPIE_OK;
}

static bool is_elf(const uint8_t *data, size_t size) {
    ASSERT(data || size == 0);
    static_assert(EI_CLASS == SELFMAG, "the class is behind the magic");
    return size > EI_CLASS && memcmp(data, ELFMAG, SELFMAG) == 0 && data[EI_CLASS] == ELFCLASS64;
}

static enum kelpie_status write_all(struct host *host, struct image_stream *stream, int fd,
                                    const char *path, struct kelpie_error *err) {
    uint64_t offset = 0;
    ASSERT(stream);
    ASSERT(fd != HOST_FD_NONE);
    for (;;) {
        const void *data = NULL;
        size_t size = 0;
        TRY(image_stream_read(stream, &data, &size, err));
        if (offset == 0 && !is_elf(data, size)) {
            return wrong(err, path, "what is in it is something else");
        }
        if (size == 0) {
            return host_file_sync(host, fd, err);
        }
        TRY(host_file_write_at(host, fd, data, size, offset, err));
        offset += size;
    }
}

static enum kelpie_status unpack(struct host *host, const char *path, int target_fd,
                                 const struct host_wait *wait, struct kelpie_error *err) {
    struct image_blob blob = {.fd = HOST_FD_NONE};
    uint8_t magic[EI_NIDENT] = {0};
    size_t size = 0;
    const struct image_stream_limits limits = {.bytes_max = IMAGE_KERNEL_SIZE_MAX, .wait = wait};
    ASSERT(path[0] != '\0');
    ASSERT(wait);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err));
    TRY(find_payload(host, path, fd.fd, &blob, err));
    TRY(host_file_read_at(host, fd.fd, magic, sizeof(magic), blob.offset, &size, err));
    bool plain = is_elf(magic, size);
    blob.size -= plain ? 0 : SIZE_SUFFIX;
    AUTO_STREAM struct image_stream *stream = NULL;
    TRY(image_stream_open(host, &blob, plain ? IMAGE_COMPRESSION_NONE : IMAGE_COMPRESSION_ANY,
                          &limits, &stream, err));
    return write_all(host, stream, target_fd, path, err);
}

enum kelpie_status image_kernel_unpack(struct host *host, const struct image_kernel *kernel,
                                       const struct host_wait *wait, char *ret_path,
                                       size_t path_size, struct kelpie_error *err) {
    struct image_path folder;
    struct image_path path;
    ASSERT(kernel->form == IMAGE_KERNEL_BZIMAGE);
    ASSERT(ret_path && path_size > 0);
    TRY(image_cache_folder(host, SHELF, &folder, err));
    TRY(image_path_format(&path, err, "%s/%s", folder.text, kernel->digest));
    if (strlen(path.text) >= path_size) {
        return error_set(err, KELPIE_BAD_CONFIG, "the cache's path %s is too long", folder.text);
    }
    if (!image_path_exists(host, path.text)) {
        AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
        TRY(host_draft_open(host, path.text, FILE_MODE, &draft, err));
        enum kelpie_status status = unpack(host, kernel->path, draft.fd, wait, err);
        if (status == KELPIE_BAD_CONFIG && err) {
            memcpy(err->field, "kernel", sizeof("kernel"));
        }
        TRY(status);
        TRY(host_draft_publish(&draft, err));
    }
    memcpy(ret_path, path.text, strlen(path.text) + 1);
    return KELPIE_OK;
}
