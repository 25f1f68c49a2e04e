/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

#define ID_MAX 4294967294u /* -1 is nobody */
#define DEVICE_MAJOR_MAX 4095
#define DEVICE_MINOR_MAX 1048575

/* An archive on its way. */
struct reader {
    struct image_unpack *unpack;
    struct image_stream *stream;
    struct archive *archive;
    locale_t plain;              /* names are bytes, whatever the program's language */
    struct kelpie_error failure; /* of the stream, inside libarchive */
    uint8_t attributes[IMAGE_ATTRIBUTES_SIZE_MAX];
};

static void reader_destroy(struct reader *reader) {
    if (reader) {
        archive_read_free(reader->archive);
        image_stream_close(reader->stream);
        if (reader->plain) {
            freelocale(reader->plain);
        }
        free(reader);
    }
}

static void reader_cleanup(struct reader **reader) {
    ASSERT(reader);
    reader_destroy(*reader);
}
#define AUTO_READER __attribute__((cleanup(reader_cleanup)))

static la_ssize_t read_callback(struct archive *archive, void *context, const void **ret_data) {
    struct reader *reader = context;
    size_t size = 0;
    ASSERT(archive == reader->archive);
    ASSERT(ret_data);
    if (image_stream_read(reader->stream, ret_data, &size, &reader->failure) != KELPIE_OK) {
        archive_set_error(archive, reader->failure.os_error, "%s", reader->failure.message);
        return ARCHIVE_FATAL;
    }
    return (la_ssize_t)size;
}

static enum kelpie_status reader_failed(const struct reader *reader, struct kelpie_error *err) {
    ASSERT(reader->archive);
    ASSERT(reader->stream);
    if (reader->failure.status != KELPIE_OK) {
        if (err) {
            *err = reader->failure;
        }
        return reader->failure.status;
    }
    const char *text = archive_error_string(reader->archive);
    return error_set_field(err, KELPIE_BAD_CONFIG, "path", "a tar archive is malformed: %s",
                           text ? text : "it cannot be read");
}

static enum kelpie_status entry_wrong(struct archive_entry *entry, struct kelpie_error *err,
                                      const char *why) {
    const char *path = archive_entry_pathname(entry);
    ASSERT(why);
    ASSERT(why[0] != '\0');
    return image_entry_wrong(err, path ? path : "", why);
}

/* ---- One entry -------------------------------------------------------------------------------- */

static enum kelpie_status fill_entry(struct reader *reader, struct archive_entry *from,
                                     struct image_entry *to, struct kelpie_error *err) {
    ASSERT(to->path);
    int64_t uid = archive_entry_uid(from);
    int64_t gid = archive_entry_gid(from);
    if (uid < 0 || uid > ID_MAX || gid < 0 || gid > ID_MAX) {
        return entry_wrong(from, err, "has an owner that Linux does not have");
    }
    to->mode = image_unpack_mode(from);
    to->uid = (uint32_t)uid;
    to->gid = (uint32_t)gid;
    to->modified_s = archive_entry_mtime(from);
    to->modified_ns = (uint32_t)archive_entry_mtime_nsec(from);
    to->target = archive_entry_symlink(from);
    if (to->modified_ns >= HOST_NS_PER_S) {
        to->modified_ns = 0;
    }
    if ((to->mode & S_IFMT) == S_IFCHR || (to->mode & S_IFMT) == S_IFBLK) {
        uint64_t device_major = (uint64_t)archive_entry_rdevmajor(from);
        uint64_t device_minor = (uint64_t)archive_entry_rdevminor(from);
        if (device_major > DEVICE_MAJOR_MAX || device_minor > DEVICE_MINOR_MAX) {
            return entry_wrong(from, err, "is a device that Linux does not have");
        }
        to->device_major = (uint32_t)device_major;
        to->device_minor = (uint32_t)device_minor;
    }
    to->attributes = reader->attributes;
    if (!image_unpack_attributes(from, reader->attributes, &to->attributes_size)) {
        return entry_wrong(from, err, "has extended attributes that are too large");
    }
    ASSERT((to->mode & ~(uint32_t)(S_IFMT | 07777)) == 0);
    return KELPIE_OK;
}

/* Reserves room for a file in the data file. */
static enum kelpie_status reserve(struct image_unpack *unpack, struct archive_entry *from,
                                  struct image_entry *to, struct kelpie_error *err) {
    int64_t size = archive_entry_size(from);
    ASSERT(unpack->file_bytes <= unpack->bytes_max);
    ASSERT(unpack->data_size % IMAGE_DATA_ALIGNMENT == 0);
    if (!archive_entry_size_is_set(from) || size < 0) {
        return entry_wrong(from, err, "is a file without a size");
    }
    if ((uint64_t)size > unpack->bytes_max - unpack->file_bytes) {
        return error_set_field(err, KELPIE_NO_SPACE, "bytes_max",
                               "the image's files are more than %llu bytes",
                               (unsigned long long)unpack->bytes_max);
    }
    unpack->file_bytes += (uint64_t)size;
    to->size = (uint64_t)size;
    to->data_offset = unpack->data_size;
    uint64_t blocks = (to->size + IMAGE_DATA_ALIGNMENT - 1) / IMAGE_DATA_ALIGNMENT;
    unpack->data_size += blocks * IMAGE_DATA_ALIGNMENT;
    return KELPIE_OK;
}

/* The entry's bytes; holes stay holes. */
static enum kelpie_status copy_data(struct reader *reader, const struct image_entry *to,
                                    struct kelpie_error *err) {
    struct image_unpack *unpack = reader->unpack;
    const void *data = NULL;
    size_t size = 0;
    la_int64_t offset = 0;
    int result = ARCHIVE_OK;
    ASSERT(to->data_offset + to->size <= unpack->data_size);
    while ((result = archive_read_data_block(reader->archive, &data, &size, &offset)) ==
           ARCHIVE_OK) {
        if (offset < 0 || (uint64_t)offset > to->size || size > to->size - (uint64_t)offset) {
            return image_entry_wrong(err, to->path, "has more bytes than it says");
        }
        if (size > 0) {
            TRY(host_file_write_at(unpack->host, unpack->data_fd, data, size,
                                   to->data_offset + (uint64_t)offset, err));
        }
    }
    ASSERT(result != ARCHIVE_OK);
    return result == ARCHIVE_EOF ? KELPIE_OK : reader_failed(reader, err);
}

static enum kelpie_status take_entry(struct reader *reader, struct archive_entry *from,
                                     struct kelpie_error *err) {
    struct image_unpack *unpack = reader->unpack;
    const char *path = archive_entry_pathname(from);
    const char *link = archive_entry_hardlink(from);
    struct image_entry to = {.path = path};
    ASSERT(unpack->tree);
    ASSERT(from);
    if (!path) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path", "an entry has no name");
    }
    if (link) {
        return image_tree_link(unpack->tree, path, link, err);
    }
    TRY(fill_entry(reader, from, &to, err));
    if ((to.mode & S_IFMT) == S_IFREG) {
        TRY(reserve(unpack, from, &to, err));
        TRY(copy_data(reader, &to, err));
    }
    return image_tree_add(unpack->tree, &to, err);
}

/* ---- All of them ------------------------------------------------------------------------------ */

/* A warning is about a text that libarchive could not bring into the program's character set, in which case it is left as it is, or
 * about something that it leaves out, which is an error. */
static bool is_about_text(const struct reader *reader) {
    ASSERT(reader->archive);
    const char *text = archive_error_string(reader->archive);
    return text && strstr(text, "convert");
}

static enum kelpie_status take_all(struct reader *reader, struct kelpie_error *err) {
    ASSERT(reader->stream);
    for (;;) {
        struct archive_entry *entry = NULL;
        int result = archive_read_next_header(reader->archive, &entry);
        if (result == ARCHIVE_EOF) {
            return KELPIE_OK;
        }
        if (result != ARCHIVE_OK && !(result == ARCHIVE_WARN && is_about_text(reader))) {
            return reader_failed(reader, err);
        }
        ASSERT(entry);
        TRY(take_entry(reader, entry, err));
        TRY(image_wait_check(reader->unpack->host, reader->unpack->wait, err));
    }
}

static enum kelpie_status reader_open(struct reader *reader, struct kelpie_error *err) {
    ASSERT(!reader->archive);
    ASSERT(reader->stream);
    reader->plain = newlocale(LC_ALL_MASK, "C", NULL);
    reader->archive = archive_read_new();
    if (!reader->archive || !reader->plain) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for reading an archive");
    }
    /* An empty archive is one, as tar makes it: blocks of zeros, or nothing at all. */
    if (archive_read_support_format_tar(reader->archive) != ARCHIVE_OK ||
        archive_read_support_format_empty(reader->archive) != ARCHIVE_OK ||
        archive_read_open(reader->archive, reader, NULL, read_callback, NULL) != ARCHIVE_OK) {
        return reader_failed(reader, err);
    }
    return KELPIE_OK;
}

enum kelpie_status image_unpack_tar(struct image_unpack *unpack, const struct image_blob *blob,
                                    enum image_compression compression, bool whiteouts,
                                    struct image_stream_digests *ret_digests,
                                    struct kelpie_error *err) {
    ASSERT(unpack->archive_bytes <= unpack->bytes_max);
    ASSERT(ret_digests);
    AUTO_READER struct reader *reader = host_allocate(unpack->host, sizeof(*reader), err);
    if (!reader) {
        return KELPIE_NO_MEMORY;
    }
    const struct image_stream_limits limits = {unpack->bytes_max - unpack->archive_bytes,
                                               unpack->wait};
    reader->unpack = unpack;
    TRY(image_stream_open(unpack->host, blob, compression, &limits, &reader->stream, err));
    image_tree_begin_layer(unpack->tree, whiteouts);
    TRY(reader_open(reader, err));
    locale_t before = uselocale(reader->plain);
    enum kelpie_status status = take_all(reader, err);
    (void)uselocale(before);
    TRY(status);
    TRY(image_stream_finish(reader->stream, ret_digests, err));
    unpack->archive_bytes += ret_digests->unpacked_bytes;
    return KELPIE_OK;
}
