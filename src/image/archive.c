/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/archive.h"

#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define READ_SIZE 65536

struct image_archive {
    struct archive *archive;
    struct host *host;
    int fd;                 /* of the file, or HOST_FD_NONE */
    struct archive *parent; /* whose current entry is read, or NULL */
    uint64_t offset;
    uint8_t buffer[READ_SIZE];
};

static la_ssize_t read_callback(struct archive *archive, void *context, const void **ret_data) {
    struct image_archive *reader = context;
    ASSERT(reader);
    struct kelpie_error err;
    size_t size = 0;
    *ret_data = reader->buffer;
    if (reader->parent) {
        la_ssize_t count = archive_read_data(reader->parent, reader->buffer, READ_SIZE);
        if (count < 0) {
            archive_set_error(archive, archive_errno(reader->parent), "%s",
                              archive_error_string(reader->parent));
            return ARCHIVE_FATAL;
        }
        return count;
    }
    ASSERT(reader->fd != HOST_FD_NONE);
    if (host_file_read_at(reader->host, reader->fd, reader->buffer, READ_SIZE, reader->offset,
                          &size, &err) != KELPIE_OK) {
        archive_set_error(archive, err.os_error, "%s", err.message);
        return ARCHIVE_FATAL;
    }
    reader->offset += size;
    return (la_ssize_t)size;
}

enum kelpie_status image_archive_failed(struct archive *archive, const char *what,
                                        struct kelpie_error *err) {
    ASSERT(archive);
    ASSERT(what);
    const char *text = archive_error_string(archive);
    return error_set(err, KELPIE_IO_FAILED, "%s: %s", what, text ? text : "malformed");
}

static int archive_support(struct archive *archive, enum image_archive_kind kind) {
    ASSERT((unsigned)kind <= IMAGE_ARCHIVE_RAW);
    ASSERT(archive);
    int result = ARCHIVE_OK;
    switch (kind) {
    case IMAGE_ARCHIVE_AR:
        return archive_read_support_format_ar(archive);
    case IMAGE_ARCHIVE_TAR:
        result = archive_read_support_format_tar(archive);
        break;
    case IMAGE_ARCHIVE_RAW:
        result = archive_read_support_format_raw(archive);
        break;
    default:
        UNREACHABLE();
    }
    /* Only what distributions use, and nothing that libarchive would start a program for. */
    int filters[] = {
        result,
        archive_read_support_filter_gzip(archive),
        archive_read_support_filter_xz(archive),
        archive_read_support_filter_zstd(archive),
    };
    for (size_t i = 0; i < ARRAY_SIZE(filters); i++) {
        if (filters[i] != ARCHIVE_OK) {
            return filters[i];
        }
    }
    return ARCHIVE_OK;
}

static enum kelpie_status archive_open(struct image_archive *reader, enum image_archive_kind kind,
                                       struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(!reader->archive);
    reader->archive = archive_read_new();
    if (!reader->archive) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for reading an archive");
    }
    if (archive_support(reader->archive, kind) != ARCHIVE_OK) {
        return image_archive_failed(reader->archive, "libarchive lacks a format or a filter", err);
    }
    if (archive_read_open(reader->archive, reader, NULL, read_callback, NULL) != ARCHIVE_OK) {
        return image_archive_failed(reader->archive, "an archive cannot be opened", err);
    }
    return KELPIE_OK;
}

static enum kelpie_status archive_create(struct host *host, struct image_archive_source source,
                                         enum image_archive_kind kind,
                                         struct image_archive **ret_reader,
                                         struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_reader);
    AUTO_ARCHIVE struct image_archive *reader = host_allocate(host, sizeof(*reader), err);
    if (!reader) {
        return KELPIE_NO_MEMORY;
    }
    reader->host = host;
    reader->fd = source.fd;
    reader->parent = source.parent;
    TRY(archive_open(reader, kind, err));
    *ret_reader = TAKE(reader);
    return KELPIE_OK;
}

enum kelpie_status image_archive_open_file(struct host *host, int fd, enum image_archive_kind kind,
                                           struct image_archive **ret_reader,
                                           struct kelpie_error *err) {
    ASSERT(ret_reader);
    ASSERT(fd != HOST_FD_NONE);
    return archive_create(host, (struct image_archive_source){.fd = fd}, kind, ret_reader, err);
}

enum kelpie_status image_archive_open_entry(struct image_archive *parent,
                                            enum image_archive_kind kind,
                                            struct image_archive **ret_reader,
                                            struct kelpie_error *err) {
    ASSERT(ret_reader);
    ASSERT(parent->archive);
    ASSERT(parent);
    struct image_archive_source source = {.fd = HOST_FD_NONE, .parent = parent->archive};
    return archive_create(parent->host, source, kind, ret_reader, err);
}

struct archive *image_archive_handle(struct image_archive *reader) {
    ASSERT(reader);
    ASSERT(reader->archive);
    return reader->archive;
}

void image_archive_close(struct image_archive *reader) {
    if (reader) {
        archive_read_free(reader->archive); /* NULL is fine */
        free(reader);
    }
}

void image_archive_cleanup(struct image_archive **reader) {
    ASSERT(reader);
    image_archive_close(*reader);
}

static bool name_is_compressed(const char *path) {
    static const char *const endings[] = {".xz", ".zst", ".gz"};
    ASSERT(path[0] != '\0');
    ASSERT(path);
    size_t size = strlen(path);
    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        size_t ending = strlen(endings[i]);
        if (size > ending && strcmp(path + size - ending, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* All the data of the archive's one raw entry. */
static enum kelpie_status load_compressed(struct image_archive *reader, const char *path,
                                          char *buffer, size_t size_max, size_t *ret_size,
                                          struct kelpie_error *err) {
    struct archive *archive = image_archive_handle(reader);
    struct archive_entry *entry = NULL;
    size_t size = 0;
    ASSERT(buffer);
    if (archive_read_next_header(archive, &entry) != ARCHIVE_OK) {
        return image_archive_failed(archive, path, err);
    }
    for (la_ssize_t count = 1; count > 0; size += (size_t)count) {
        count = archive_read_data(archive, buffer + size, size_max + 1 - size);
        if (count < 0) {
            return image_archive_failed(archive, path, err);
        }
    }
    ASSERT(size <= size_max + 1);
    if (size > size_max) {
        return error_set(err, KELPIE_NO_SPACE, "%s is larger than %zu bytes when decompressed",
                         path, size_max);
    }
    *ret_size = size;
    return KELPIE_OK;
}

enum kelpie_status image_file_load(struct host *host, const char *path, size_t size_max,
                                   char **ret_data, size_t *ret_size, struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_data);
    if (!name_is_compressed(path)) {
        return host_file_load(host, path, size_max, ret_data, ret_size, err);
    }
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    AUTO_ARCHIVE struct image_archive *reader = NULL;
    AUTO_MEM char *buffer = NULL;
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err));
    TRY(image_archive_open_file(host, fd.fd, IMAGE_ARCHIVE_RAW, &reader, err));
    buffer = host_allocate(host, size_max + 1, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    TRY(load_compressed(reader, path, buffer, size_max, ret_size, err));
    *ret_data = TAKE(buffer);
    return KELPIE_OK;
}
