/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * An EROFS file system read as Linux reads it (fs/erofs/erofs_fs.h), by a reader that shares nothing with our writer. Uncompressed
 * only. What is inconsistent fails the test.
 */
#ifndef KELPIE_TESTS_SUPPORT_EROFS_VIEW_H
#define KELPIE_TESTS_SUPPORT_EROFS_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct erofs_view {
    uint8_t *data;
    size_t size;
};

struct erofs_view_inode {
    uint64_t offset;
    uint32_t mode, uid, gid, link_count;
    uint64_t size;
    int64_t modified;
    uint32_t raw; /* block, or device number */
    bool is_inline;
    uint32_t attributes_size;
};

/* The whole file; freed by erofs_view_close(). */
struct erofs_view erofs_view_open(int fd);
void erofs_view_close(struct erofs_view *view);

/* The inode at a path of plain names ("" is the root), no link followed. False: there is none. */
bool erofs_view_find(const struct erofs_view *view, const char *path,
                     struct erofs_view_inode *ret_inode);

/* All its content, zero-terminated, for free(). */
char *erofs_view_read(const struct erofs_view *view, const struct erofs_view_inode *inode);

/* The value of an attribute by namespace and the rest of its name; NULL: it has none. */
const uint8_t *erofs_view_attribute(const struct erofs_view *view,
                                    const struct erofs_view_inode *inode, unsigned space,
                                    const char *name, size_t *ret_size);

/* The number of entries of a folder with "." and "..", whose order is checked. */
size_t erofs_view_count(const struct erofs_view *view, const struct erofs_view_inode *folder);

#endif
