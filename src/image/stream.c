/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

#define PIECE_SIZE 131072

struct image_stream {
    struct host *host;
    struct image_blob blob;
    struct image_stream_limits limits;
    enum image_compression compression;
    struct archive *archive; /* NULL: the bytes are not compressed */
    struct image_hasher *packed;
    struct image_hasher *unpacked;
    uint64_t packed_bytes;
    uint64_t unpacked_bytes;
    bool ended;
    struct kelpie_error failure; /* of reading the blob, inside libarchive */
    uint8_t in[PIECE_SIZE];
    uint8_t out[PIECE_SIZE];
};

static void stream_check(const struct image_stream *stream) {
    ASSERT(stream);
    ASSERT(stream->packed_bytes <= stream->blob.size);
}

/* The next bytes as they lie in the blob. */
static enum kelpie_status read_packed(struct image_stream *stream, size_t *ret_size,
                                      struct kelpie_error *err) {
    stream_check(stream);
    size_t wanted = (size_t)min_u64(PIECE_SIZE, stream->blob.size - stream->packed_bytes);
    size_t size = 0;
    ASSERT(ret_size);
    TRY(image_wait_check(stream->host, stream->limits.wait, err));
    if (wanted > 0) {
        TRY(host_file_read_at(stream->host, stream->blob.fd, stream->in, wanted,
                              stream->blob.offset + stream->packed_bytes, &size, err));
    }
    ASSERT(size <= wanted);
    TRY(image_hasher_update(stream->packed, stream->in, size, err));
    stream->packed_bytes += size;
    *ret_size = size;
    return KELPIE_OK;
}

static la_ssize_t read_callback(struct archive *archive, void *context, const void **ret_data) {
    struct image_stream *stream = context;
    size_t size = 0;
    ASSERT(archive == stream->archive);
    ASSERT(ret_data);
    *ret_data = stream->in;
    if (read_packed(stream, &size, &stream->failure) != KELPIE_OK) {
        archive_set_error(archive, stream->failure.os_error, "%s", stream->failure.message);
        return ARCHIVE_FATAL;
    }
    return (la_ssize_t)size;
}

static enum kelpie_status stream_failed(const struct image_stream *stream,
                                        struct kelpie_error *err) {
    ASSERT(stream->archive);
    const char *text = archive_error_string(stream->archive);
    if (stream->failure.status != KELPIE_OK) {
        if (err) {
            *err = stream->failure;
        }
        return stream->failure.status;
    }
    return error_set_field(err, KELPIE_BAD_CONFIG, "path", "an archive cannot be decompressed: %s",
                           text ? text : "it is malformed");
}

/* Only what libarchive needs no program for. */
static bool support(struct archive *archive, enum image_compression compression) {
    int result = archive_read_support_format_raw(archive);
    result |= archive_read_support_format_empty(archive);
    ASSERT(compression != IMAGE_COMPRESSION_NONE);
    if (compression == IMAGE_COMPRESSION_GZIP || compression == IMAGE_COMPRESSION_ANY) {
        result |= archive_read_support_filter_gzip(archive);
    }
    if (compression == IMAGE_COMPRESSION_ZSTD || compression == IMAGE_COMPRESSION_ANY) {
        result |= archive_read_support_filter_zstd(archive);
    }
    if (compression == IMAGE_COMPRESSION_ANY) {
        result |= archive_read_support_filter_bzip2(archive);
        result |= archive_read_support_filter_xz(archive);
        result |= archive_read_support_filter_lzma(archive);
        result |= archive_read_support_filter_lzip(archive);
        result |= archive_read_support_filter_lz4(archive);
        result |= archive_read_support_filter_compress(archive);
    }
    return result == ARCHIVE_OK;
}

/* One compression at most, and the one that was promised. */
static enum kelpie_status check_filters(const struct image_stream *stream,
                                        struct kelpie_error *err) {
    int code = archive_filter_code(stream->archive, 0);
    stream_check(stream);
    ASSERT(stream->compression != IMAGE_COMPRESSION_NONE);
    ASSERT(stream->unpacked_bytes == 0);
    if (archive_filter_count(stream->archive) > 2) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "an archive is compressed more than once");
    }
    if ((stream->compression == IMAGE_COMPRESSION_GZIP && code != ARCHIVE_FILTER_GZIP) ||
        (stream->compression == IMAGE_COMPRESSION_ZSTD && code != ARCHIVE_FILTER_ZSTD)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "a layer is not compressed as its media type says (%s)",
                               stream->compression == IMAGE_COMPRESSION_GZIP ? "gzip" : "zstd");
    }
    return KELPIE_OK;
}

static enum kelpie_status open_archive(struct image_stream *stream, struct kelpie_error *err) {
    struct archive_entry *entry = NULL;
    ASSERT(!stream->archive);
    ASSERT(stream->packed_bytes == 0);
    stream->archive = archive_read_new();
    if (!stream->archive) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for reading an archive");
    }
    if (!support(stream->archive, stream->compression)) {
        return stream_failed(stream, err);
    }
    if (archive_read_open(stream->archive, stream, NULL, read_callback, NULL) != ARCHIVE_OK) {
        return stream_failed(stream, err);
    }
    TRY(check_filters(stream, err));
    int result = archive_read_next_header(stream->archive, &entry);
    if (result != ARCHIVE_OK && result != ARCHIVE_EOF) {
        return stream_failed(stream, err);
    }
    stream->ended = result == ARCHIVE_EOF;
    return KELPIE_OK;
}

enum kelpie_status image_stream_open(struct host *host, const struct image_blob *blob,
                                     enum image_compression compression,
                                     const struct image_stream_limits *limits,
                                     struct image_stream **ret_stream, struct kelpie_error *err) {
    ASSERT(blob->fd != HOST_FD_NONE);
    ASSERT(limits->wait);
    ASSERT(ret_stream);
    AUTO_STREAM struct image_stream *stream = host_allocate(host, sizeof(*stream), err);
    if (!stream) {
        return KELPIE_NO_MEMORY;
    }
    stream->host = host;
    stream->blob = *blob;
    stream->limits = *limits;
    stream->compression = compression;
    TRY(image_hasher_create(host, &stream->packed, err));
    TRY(image_hasher_create(host, &stream->unpacked, err));
    if (compression != IMAGE_COMPRESSION_NONE) {
        TRY(open_archive(stream, err));
    }
    *ret_stream = TAKE(stream);
    return KELPIE_OK;
}

void image_stream_close(struct image_stream *stream) {
    if (stream) {
        archive_read_free(stream->archive); /* NULL is fine */
        image_hasher_destroy(stream->packed);
        image_hasher_destroy(stream->unpacked);
        free(stream);
    }
}

void image_stream_cleanup(struct image_stream **stream) {
    ASSERT(stream);
    image_stream_close(*stream);
}

static enum kelpie_status check_budget(const struct image_stream *stream,
                                       struct kelpie_error *err) {
    stream_check(stream);
    ASSERT(stream->limits.wait);
    ASSERT(stream->blob.fd != HOST_FD_NONE);
    if (stream->unpacked_bytes > stream->limits.bytes_max) {
        return error_set_field(err, KELPIE_NO_SPACE, "bytes_max",
                               "the image unpacks to more than %llu bytes",
                               (unsigned long long)stream->limits.bytes_max);
    }
    if (stream->unpacked_bytes > IMAGE_RATIO_FREE_BYTES &&
        stream->unpacked_bytes / IMAGE_RATIO_MAX > stream->packed_bytes) {
        return error_set_field(err, KELPIE_NO_SPACE, "path",
                               "an archive unpacks to more than %u times its size",
                               IMAGE_RATIO_MAX);
    }
    return KELPIE_OK;
}

enum kelpie_status image_stream_read(struct image_stream *stream, const void **ret_data,
                                     size_t *ret_size, struct kelpie_error *err) {
    stream_check(stream);
    ASSERT(ret_data && ret_size);
    size_t size = 0;
    const uint8_t *data = stream->out;
    if (!stream->archive) {
        TRY(read_packed(stream, &size, err));
        data = stream->in;
    } else if (!stream->ended) {
        la_ssize_t count = archive_read_data(stream->archive, stream->out, PIECE_SIZE);
        if (count < 0) {
            return stream_failed(stream, err);
        }
        size = (size_t)count;
        TRY(image_wait_check(stream->host, stream->limits.wait, err));
    }
    stream->ended = size == 0;
    stream->unpacked_bytes += size;
    TRY(check_budget(stream, err));
    TRY(image_hasher_update(stream->unpacked, data, size, err));
    *ret_data = data;
    *ret_size = size;
    return KELPIE_OK;
}

enum kelpie_status image_stream_finish(struct image_stream *stream,
                                       struct image_stream_digests *ret_digests,
                                       struct kelpie_error *err) {
    const void *data = NULL;
    size_t size = 1;
    stream_check(stream);
    ASSERT(ret_digests);
    while (size > 0 && !stream->ended) {
        TRY(image_stream_read(stream, &data, &size, err));
    }
    /* What stands behind the compressed stream is the blob's too. */
    for (size = 1; size > 0;) {
        TRY(read_packed(stream, &size, err));
    }
    if (stream->packed_bytes != stream->blob.size) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, "path", "a file ends after %llu of its %llu bytes",
            (unsigned long long)stream->packed_bytes, (unsigned long long)stream->blob.size);
    }
    ret_digests->unpacked_bytes = stream->unpacked_bytes;
    TRY(image_hasher_finish(stream->packed, ret_digests->packed, err));
    return image_hasher_finish(stream->unpacked, ret_digests->unpacked, err);
}
