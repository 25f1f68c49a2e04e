/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * layout.h: an OCI image layout (image-spec, image-layout.md): a folder, or a tar archive of one. Whatever lies there is untrusted: only
 * regular files are opened, no link is followed, and what is read is checked against size and digest (hazard D4). A tar archive
 * is unpacked into a tree (tree.h), never into a folder.
 */
#ifndef KELPIE_IMAGE_LAYOUT_H
#define KELPIE_IMAGE_LAYOUT_H

#include "image/oci.h"
#include "image/unpack.h"

struct image_layout {
    struct host *host;
    const struct host_wait *wait;
    const char *path;            /* of the folder; the caller's */
    struct image_unpack *unpack; /* of the archive, or NULL */
};

/* An image chosen from a layout. */
struct image_layout_image {
    struct image_oci_manifest manifest;
    struct image_oci_config config;
};

/* Chooses by name and architecture, and reads manifest and config. *ret_image is for image_layout_free(). */
KELPIE_CHECKED enum kelpie_status image_layout_read(const struct image_layout *layout,
                                                    const char *reference, const char *architecture,
                                                    struct image_layout_image **ret_image,
                                                    struct kelpie_error *err);
void image_layout_free(struct image_layout_image *image); /* NULL is allowed */

/* Opens a blob for reading; the caller closes ret_blob->fd unless it is the archive's data file. Its digest is not checked. */
KELPIE_CHECKED enum kelpie_status image_layout_open(const struct image_layout *layout,
                                                    const struct image_oci_descriptor *descriptor,
                                                    struct image_blob *ret_blob,
                                                    struct kelpie_error *err);
void image_layout_close(const struct image_layout *layout, const struct image_blob *blob);

#endif
