/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * stream.h: an archive's bytes, decompressed as they are read, counted and hashed on both sides of the decompression. What
 * is read is not yet to be believed: image_stream_finish() tells the digests.
 *
 * Budgets (hazard: decompression bombs): so many bytes unpacked, and a ratio once they are many. A compression other than
 * the one that was promised, or one within another, is an error.
 */
#ifndef KELPIE_IMAGE_STREAM_H
#define KELPIE_IMAGE_STREAM_H

#include "image/image_internal.h"

enum image_compression {
    IMAGE_COMPRESSION_NONE = 0,
    IMAGE_COMPRESSION_GZIP,
    IMAGE_COMPRESSION_ZSTD,
    IMAGE_COMPRESSION_ANY, /* whichever the content shows */
};

/* A piece of a file. */
struct image_blob {
    int fd;
    uint64_t offset;
    uint64_t size;
};

struct image_stream;

struct image_stream_limits {
    uint64_t bytes_max; /* unpacked */
    const struct host_wait *wait;
};

/* The descriptor and the wait must outlive it. */
KELPIE_CHECKED enum kelpie_status
image_stream_open(struct host *host, const struct image_blob *blob,
                  enum image_compression compression, const struct image_stream_limits *limits,
                  struct image_stream **ret_stream, struct kelpie_error *err);
void image_stream_close(struct image_stream *stream); /* NULL is allowed */

void image_stream_cleanup(struct image_stream **stream);
#define AUTO_STREAM __attribute__((cleanup(image_stream_cleanup)))

/* The next bytes, which are the stream's until the next call; size 0: the end. BAD_CONFIG: what is there is no such stream;
 * NO_SPACE: a budget is exceeded. */
KELPIE_CHECKED enum kelpie_status image_stream_read(struct image_stream *stream,
                                                    const void **ret_data, size_t *ret_size,
                                                    struct kelpie_error *err);

/* Reads what is left. Digests of the bytes as they lie there, and unpacked. */
struct image_stream_digests {
    char packed[IMAGE_DIGEST_SIZE];
    char unpacked[IMAGE_DIGEST_SIZE];
    uint64_t unpacked_bytes;
};
KELPIE_CHECKED enum kelpie_status image_stream_finish(struct image_stream *stream,
                                                      struct image_stream_digests *ret_digests,
                                                      struct kelpie_error *err);

#endif
