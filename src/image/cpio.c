/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define LINK_MODE 0777

struct image_cpio {
    struct host *host;
    int fd;
    uint64_t offset;
    struct archive *archive;
    struct image_hasher *hasher;
    struct kelpie_error err; /* of the callback, since libarchive keeps only a text */
};

/* libarchive is never told that a write failed: it would forget what it has allocated for its output. What follows is
 * dropped. */
static la_ssize_t write_callback(struct archive *archive, void *context, const void *data,
                                 size_t size) {
    struct image_cpio *cpio = context;
    ASSERT(archive);
    ASSERT(data || size == 0);
    ASSERT(cpio->hasher);
    ASSERT(cpio->offset <= IMAGE_INITRAMFS_SIZE_MAX);
    if (cpio->err.status != KELPIE_OK) {
        return (la_ssize_t)size;
    }
    if (size > IMAGE_INITRAMFS_SIZE_MAX - cpio->offset) {
        error_set(&cpio->err, KELPIE_NO_SPACE, "the initramfs would exceed %d bytes",
                  IMAGE_INITRAMFS_SIZE_MAX);
    } else if (host_file_write_at(cpio->host, cpio->fd, data, size, cpio->offset, &cpio->err) ==
                   KELPIE_OK &&
               image_hasher_update(cpio->hasher, data, size, &cpio->err) == KELPIE_OK) {
        cpio->offset += size;
    }
    return (la_ssize_t)size;
}

/* Why libarchive failed: our own callback's error, or its own. */
static enum kelpie_status cpio_failed(struct image_cpio *cpio, struct kelpie_error *err) {
    ASSERT(cpio->hasher);
    ASSERT(cpio->archive);
    if (cpio->err.status != KELPIE_OK) {
        if (err) {
            *err = cpio->err;
        }
        return cpio->err.status;
    }
    const char *text = archive_error_string(cpio->archive);
    return error_set(err, KELPIE_INTERNAL, "the initramfs cannot be written: %s",
                     text ? text : "no reason given");
}

enum kelpie_status image_cpio_create(struct host *host, int fd, struct image_cpio **ret_cpio,
                                     struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(ret_cpio);
    struct image_cpio *cpio = host_allocate(host, sizeof(*cpio), err);
    enum kelpie_status status = KELPIE_NO_MEMORY;
    if (!cpio) {
        return status;
    }
    cpio->host = host;
    cpio->fd = fd;
    status = image_hasher_create(host, &cpio->hasher, err);
    if (status != KELPIE_OK) {
        goto fail;
    }
    cpio->archive = archive_write_new();
    if (!cpio->archive) {
        status = error_set(err, KELPIE_NO_MEMORY, "no memory for writing an archive");
        goto fail;
    }
    if (archive_write_set_format_cpio_newc(cpio->archive) != ARCHIVE_OK ||
        archive_write_open(cpio->archive, cpio, NULL, write_callback, NULL) != ARCHIVE_OK) {
        status = cpio_failed(cpio, err);
        goto fail;
    }
    *ret_cpio = cpio;
    return KELPIE_OK;
fail:
    image_cpio_destroy(cpio);
    return status;
}

void image_cpio_destroy(struct image_cpio *cpio) {
    if (cpio) {
        archive_write_free(cpio->archive); /* NULL is fine */
        image_hasher_destroy(cpio->hasher);
        free(cpio);
    }
}

struct cpio_entry {
    const char *path;
    unsigned type; /* AE_IFREG, AE_IFDIR, AE_IFLNK */
    uint32_t mode;
    const void *data;
    size_t size;
    const char *target; /* of a link */
};

static enum kelpie_status cpio_write(struct image_cpio *cpio, const struct cpio_entry *what,
                                     struct kelpie_error *err) {
    ASSERT(what->path[0] != '/');
    ASSERT(what->data || what->size == 0);
    struct archive_entry *entry = archive_entry_new();
    if (!entry) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an archive's entry");
    }
    archive_entry_set_pathname(entry, what->path);
    archive_entry_set_filetype(entry, what->type);
    archive_entry_set_perm(entry, what->mode);
    archive_entry_set_size(entry, (la_int64_t)what->size);
    archive_entry_set_mtime(entry, 0, 0);
    archive_entry_set_nlink(entry, what->type == AE_IFDIR ? 2 : 1);
    if (what->target) {
        archive_entry_set_symlink(entry, what->target);
    }
    bool written = archive_write_header(cpio->archive, entry) == ARCHIVE_OK;
    archive_entry_free(entry);
    for (size_t done = 0; written && done < what->size;) {
        la_ssize_t count =
            archive_write_data(cpio->archive, (const char *)what->data + done, what->size - done);
        written = count > 0;
        done += written ? (size_t)count : 0;
    }
    return written && cpio->err.status == KELPIE_OK ? KELPIE_OK : cpio_failed(cpio, err);
}

enum kelpie_status image_cpio_folder(struct image_cpio *cpio, const char *path, uint32_t mode,
                                     struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(cpio);
    return cpio_write(cpio, &(struct cpio_entry){.path = path, .type = AE_IFDIR, .mode = mode},
                      err);
}

enum kelpie_status image_cpio_link(struct image_cpio *cpio, const char *path, const char *target,
                                   struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(cpio);
    ASSERT(target);
    const struct cpio_entry entry = {
        .path = path, .type = AE_IFLNK, .mode = LINK_MODE, .target = target};
    return cpio_write(cpio, &entry, err);
}

enum kelpie_status image_cpio_file(struct image_cpio *cpio, const struct image_cpio_file *file,
                                   struct kelpie_error *err) {
    ASSERT(cpio);
    ASSERT(file);
    ASSERT(file->path);
    const struct cpio_entry entry = {.path = file->path,
                                     .type = AE_IFREG,
                                     .mode = file->mode,
                                     .data = file->data,
                                     .size = file->size};
    return cpio_write(cpio, &entry, err);
}

enum kelpie_status image_cpio_finish(struct image_cpio *cpio, char ret_digest[IMAGE_DIGEST_SIZE],
                                     struct kelpie_error *err) {
    ASSERT(cpio);
    ASSERT(ret_digest);
    if (archive_write_close(cpio->archive) != ARCHIVE_OK || cpio->err.status != KELPIE_OK) {
        return cpio_failed(cpio, err);
    }
    return image_hasher_finish(cpio->hasher, ret_digest, err);
}
