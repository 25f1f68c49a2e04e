/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * rootfs.h: an image of a guest's root: a folder, a tar archive or an OCI image becomes a read-only file system (erofs.h) and
 * what its maker wants run. Equal sources give equal bytes. Nothing is written but the file and temporary files without a name.
 */
#ifndef KELPIE_IMAGE_ROOTFS_H
#define KELPIE_IMAGE_ROOTFS_H

#include <jansson.h>

#include "image/image_internal.h"
#include "image/unpack.h"

enum image_rootfs_source {
    IMAGE_ROOTFS_FOLDER = 0, /* what lies on its file system; sockets are left out */
    IMAGE_ROOTFS_TAR,
    IMAGE_ROOTFS_OCI,
};

struct image_rootfs_options {
    enum image_rootfs_source source;
    const char *path;
    const char *reference;    /* OCI; NULL: the only one */
    const char *architecture; /* in OCI's words */
    uint64_t bytes_max;
};

struct image_rootfs {
    uint64_t size;                  /* of the file system */
    char digest[IMAGE_DIGEST_SIZE]; /* of its bytes */
    char architecture[16];          /* in OCI's words; or empty */
    uint32_t uid;
    uint32_t gid;
    char working_dir[HOST_PATH_SIZE_MAX + 1]; /* or empty */
    json_t *argv;                             /* lists of strings */
    json_t *env;
    size_t entrypoint_count;
};

/* Writes the file system to an empty file. Errors: BAD_CONFIG (field), NOT_FOUND, NO_SPACE, TIMED_OUT, CANCELLED. */
KELPIE_CHECKED enum kelpie_status image_rootfs_build(struct host *host,
                                                     const struct image_rootfs_options *options,
                                                     const struct host_wait *wait, int fd,
                                                     struct image_rootfs *ret_rootfs,
                                                     struct kelpie_error *err);
void image_rootfs_deinit(struct image_rootfs *rootfs);

/* ---- accounts.c ------------------------------------------------------------------------------- */

/* "NAME", "UID", either with ":GROUP" or ":GID", or "" (root), by the image's own files. BAD_CONFIG, field "user". */
KELPIE_CHECKED enum kelpie_status image_rootfs_user(const struct image_unpack *unpack,
                                                    const char *user, uint32_t *ret_uid,
                                                    uint32_t *ret_gid, struct kelpie_error *err);

#endif
