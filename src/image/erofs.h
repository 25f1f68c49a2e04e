/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * erofs.h: a tree (tree.h) as a read-only EROFS file system (Linux documentation, "EROFS - Enhanced Read-Only File System";
 * fs/erofs/erofs_fs.h for the layout), uncompressed, in blocks of 4 KiB.
 *
 * THEORY OF OPERATION
 *
 * Why not by mkfs: an image is made by a user without root, and has to keep owners, device nodes, attributes and
 * hard links exactly. mkfs.erofs takes a tar archive from version 1.7 on, mke2fs from 1.47.1 on; before, both only take a folder, and no
 * folder that such a user can make has those in it. And their bytes change from version to version, while an image's
 * name is the digest of its bytes: here equal trees give equal bytes on every machine. The format is small when it is not compressed,
 * and then all VMs of an image share its pages in the host's page cache. tests/images/ has fsck.erofs and Linux read what
 * is written here.
 *
 * First come superblock and inodes, root first, then by breadth, each with its attributes and, where it fits into the block, the
 * last piece of its content, less than a block: most folders, links and small files need nothing else. Then come whole blocks,
 * in the same order. A folder's entries are sorted by their bytes over all its blocks, "." and ".." among them.
 */
#ifndef KELPIE_IMAGE_EROFS_H
#define KELPIE_IMAGE_EROFS_H

#include "image/image_internal.h"
#include "image/tree.h"

struct image_erofs {
    const struct image_tree *tree;
    int data_fd; /* where the files' bytes lie; HOST_FD_NONE when none has any */
    const struct host_wait *wait;
};

/* Writes it to an empty file: whole blocks, with holes where there are zeros. */
KELPIE_CHECKED enum kelpie_status
image_erofs_write(struct host *host, const struct image_erofs *erofs, int fd, uint64_t *ret_size,
                  char ret_digest[IMAGE_DIGEST_SIZE], struct kelpie_error *err);

#endif
