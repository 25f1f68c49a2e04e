/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * archive.h: libarchive over the host seam: reading a file, or the current entry of another archive (a .deb is
 * an ar archive with a compressed tar archive in it), without a system call of our own.
 */
#ifndef KELPIE_IMAGE_ARCHIVE_H
#define KELPIE_IMAGE_ARCHIVE_H

#include <archive.h>
#include <archive_entry.h>

#include "image/image_internal.h"

enum image_archive_kind {
    IMAGE_ARCHIVE_AR = 0,
    IMAGE_ARCHIVE_TAR, /* compressed or not */
    IMAGE_ARCHIVE_RAW, /* one compressed file */
};

struct image_archive;

struct image_archive_source {
    int fd;
    struct archive *parent;
};

/* The descriptor, or the parent, must outlive the reader. */
KELPIE_CHECKED enum kelpie_status image_archive_open_file(struct host *host, int fd,
                                                          enum image_archive_kind kind,
                                                          struct image_archive **ret_reader,
                                                          struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_archive_open_entry(struct image_archive *parent,
                                                           enum image_archive_kind kind,
                                                           struct image_archive **ret_reader,
                                                           struct kelpie_error *err);
struct archive *image_archive_handle(struct image_archive *reader);
void image_archive_close(struct image_archive *reader); /* NULL is allowed */

void image_archive_cleanup(struct image_archive **reader);
#define AUTO_ARCHIVE __attribute__((cleanup(image_archive_cleanup)))

/* Sets an error from what libarchive says: "<what>: <its text>". */
enum kelpie_status image_archive_failed(struct archive *archive, const char *what,
                                        struct kelpie_error *err);

#endif
