/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * tree.h: a root file system as a tree in memory: names, what they name, and where a file's bytes lie in a data file. Layers
 * are merged in it, so that nothing an archive names is ever made on the host's own file system (hazard D4).
 *
 * THEORY OF OPERATION
 *
 * A node is a name in a folder; an inode is what one or more nodes name. Both are numbers, since their arrays grow. A path is walked
 * as the guest's kernel would in a root of its own: links are followed inside the tree, ".." of the root is the root, so
 * that a layer that writes to lib/x below a link lib -> usr/lib reaches usr/lib/x, and one that writes below a link to
 * /../../etc reaches the image's own etc. Missing folders on the way are made (0755, root's).
 *
 * A later entry takes the place of an earlier one; a folder over a folder changes its attributes and keeps its content. Each
 * node remembers the last layer that touched it or something below it, which is what a whiteout needs: it hides
 * what lower layers have, and nothing of its own layer, whichever of the two comes first (OCI image-spec, layer.md, "Whiteouts").
 *
 * Everything is bounded by image_limits.h. What an entry asks for that cannot be is BAD_CONFIG, which names it, and the tree
 * is then good for nothing but to be destroyed.
 *
 * Threads: a tree is used by one.
 */
#ifndef KELPIE_IMAGE_TREE_H
#define KELPIE_IMAGE_TREE_H

#include <sys/stat.h>

#include "host/host.h"
#include "image/image_limits.h"

#define IMAGE_NODE_NONE UINT32_MAX
#define IMAGE_NODE_ROOT 0u

struct image_tree;

/* What a name names. Texts and attributes are numbers of bytes in the tree: image_tree_text(). */
struct image_inode {
    uint32_t mode; /* type (S_IFMT) and permission bits */
    uint32_t uid;
    uint32_t gid;
    uint32_t device_major; /* of a device node */
    uint32_t device_minor;
    uint32_t link_count; /* names; 0: it is not used */
    int64_t modified_s;
    uint32_t modified_ns;
    uint32_t attributes; /* its extended attributes: records of image_attributes_next() */
    uint32_t attributes_size;
    uint32_t target; /* of a symbolic link: its text, of `size` bytes */
    uint64_t size;
    uint64_t data_offset; /* in the data file, of a file of size > 0 */
};

/* Something to add. Strings are the caller's. */
struct image_entry {
    const char *path;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t device_major;
    uint32_t device_minor;
    int64_t modified_s;
    uint32_t modified_ns;
    uint64_t size; /* of a file */
    uint64_t data_offset;
    const char *target;     /* of a symbolic link */
    const void *attributes; /* records, in the order of their names; or NULL */
    size_t attributes_size;
};

KELPIE_CHECKED enum kelpie_status image_tree_create(struct host *host, struct image_tree **ret_tree,
                                                    struct kelpie_error *err);
void image_tree_destroy(struct image_tree *tree); /* NULL is allowed */

void image_tree_cleanup(struct image_tree **tree);
#define AUTO_TREE __attribute__((cleanup(image_tree_cleanup)))

/* What is added from now on is one layer above what there is. `whiteouts`: its names ".wh.*" are orders to hide. */
void image_tree_begin_layer(struct image_tree *tree, bool whiteouts);

KELPIE_CHECKED enum kelpie_status
image_tree_add(struct image_tree *tree, const struct image_entry *entry, struct kelpie_error *err);

/* One more name for what `target` names, which must be there and be no folder. */
KELPIE_CHECKED enum kelpie_status image_tree_link(struct image_tree *tree, const char *path,
                                                  const char *target, struct kelpie_error *err);

/* BAD_CONFIG, field "path": the image's entry of that path, with control characters made visible, and why it cannot be. */
enum kelpie_status image_entry_wrong(struct kelpie_error *err, const char *path, const char *why);

/* ---- Looking at it ---------------------------------------------------------------------------- */

/* The node at a path, following links, the last one too. False: there is none. */
bool image_tree_find(const struct image_tree *tree, const char *path, uint32_t *ret_node);

/* Those of a folder, in the order of their bytes; each once. *ret_children is for free(), and NULL when there are none. */
KELPIE_CHECKED enum kelpie_status image_tree_children(const struct image_tree *tree, uint32_t node,
                                                      uint32_t **ret_children, size_t *ret_count,
                                                      struct kelpie_error *err);

uint32_t image_tree_inode_of(const struct image_tree *tree, uint32_t node);
uint32_t image_tree_parent_of(const struct image_tree *tree, uint32_t node); /* the root's: root */
const struct image_inode *image_tree_inode(const struct image_tree *tree, uint32_t inode);

/* A node's name, not zero-terminated. Valid until something is added. */
const char *image_tree_name(const struct image_tree *tree, uint32_t node, size_t *ret_size);
const char *image_tree_text(const struct image_tree *tree, uint32_t text);

/* Nodes and inodes have numbers below these. */
uint32_t image_tree_node_count(const struct image_tree *tree);
uint32_t image_tree_inode_count(const struct image_tree *tree);

/* ---- Extended attributes ---------------------------------------------------------------------- */

/* A record of attributes: sizes, name, value, one behind the other. */
struct image_attribute {
    const char *name; /* not zero-terminated */
    size_t name_size;
    const void *value;
    size_t value_size;
};

/* Adds a record at the end. False: it does not fit the limits, or the buffer (IMAGE_ATTRIBUTES_SIZE_MAX bytes). */
bool image_attributes_append(void *records, size_t *size, const struct image_attribute *attribute);

/* The record at *offset, which goes on behind it. False: there is none. */
bool image_attributes_next(const void *records, size_t size, size_t *offset,
                           struct image_attribute *ret_attribute);

#endif
