/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * unpack.h: archives into a tree (tree.h), and their files' bytes into one data file, each from a multiple of 4096 on. Nothing else is
 * written, whatever an archive says (hazard D4).
 */
#ifndef KELPIE_IMAGE_UNPACK_H
#define KELPIE_IMAGE_UNPACK_H

#include "image/stream.h"
#include "image/tree.h"

#define IMAGE_DATA_ALIGNMENT 4096u

struct image_unpack {
    struct host *host;
    const struct host_wait *wait;
    struct image_tree *tree;
    int data_fd;
    uint64_t data_size;  /* of the data file */
    uint64_t bytes_max;  /* of all archives unpacked, and of all files by their length */
    uint64_t file_bytes; /* so far */
    uint64_t archive_bytes;
};

/* Unpacks a tar archive over what is there. What is read is checked by its digests only at the end: the tree is not to be used
 * before. Errors: BAD_CONFIG field "path" (malformed, or an entry that cannot be), NO_SPACE (a budget), TIMED_OUT, CANCELLED. */
KELPIE_CHECKED enum kelpie_status
image_unpack_tar(struct image_unpack *unpack, const struct image_blob *blob,
                 enum image_compression compression, bool whiteouts,
                 struct image_stream_digests *ret_digests, struct kelpie_error *err);

/* ---- unpack_attributes.c ---------------------------------------------------------------------- */

struct archive_entry;

/* Type and permission bits. With an access list that has a mask, the group's bits are the mask, and not, as libarchive says, what
 * the list grants the group. */
uint32_t image_unpack_mode(struct archive_entry *entry);

/* The entry's extended attributes and access lists as records (tree.h), in an order that only they decide. Left out: what Linux has no
 * namespace for, and what an overlay of the guest would take for its own. `buffer` has IMAGE_ATTRIBUTES_SIZE_MAX bytes. False: they are
 * too large. */
bool image_unpack_attributes(struct archive_entry *entry, void *buffer, size_t *ret_size);

#endif
