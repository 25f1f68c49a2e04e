/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* tree_internal.h: a tree's arrays, shared by tree.c (nodes and their relations) and tree_walk.c (paths and layers). */
#ifndef KELPIE_IMAGE_TREE_INTERNAL_H
#define KELPIE_IMAGE_TREE_INTERNAL_H

#include "image/tree.h"

struct node {
    uint32_t name; /* text */
    uint32_t name_size;
    uint32_t parent;
    uint32_t inode;
    uint32_t first_child;
    uint32_t next; /* of the same folder; of a node that is not used: the next such */
    uint32_t previous;
    uint32_t next_in_bucket;
    uint32_t layer; /* the last one that touched it or something below it */
    uint32_t depth; /* the root's is 0 */
};

struct image_tree {
    struct host *host;
    struct node *nodes;
    uint32_t node_count;
    uint32_t node_capacity;
    uint32_t free_node; /* chained by `next` */
    struct image_inode *inodes;
    uint32_t inode_count;
    uint32_t inode_capacity;
    uint32_t free_inode; /* chained by `target` */
    char *text;
    uint32_t text_size;
    uint32_t text_capacity;
    uint32_t *buckets; /* heads of chains of nodes, by folder and name */
    uint32_t bucket_count;
    uint64_t seed; /* of the hash, so that nobody chooses names that fall into one bucket */
    uint32_t layer;
    bool whiteouts;
};

/* A piece of a path. */
struct image_name {
    const char *data;
    size_t size;
};

/* The child of that name, or NONE. */
uint32_t tree_child(const struct image_tree *tree, uint32_t folder, struct image_name name);

/* This layer has touched the node, and so those above it. */
void tree_touch(struct image_tree *tree, uint32_t node);

/* A name in a folder that has none such, for an inode, which gets one more name by it. The folder is touched. */
KELPIE_CHECKED enum kelpie_status tree_insert(struct image_tree *tree, uint32_t folder,
                                              struct image_name name, uint32_t inode,
                                              struct kelpie_error *err);

/* An inode like this, without a name yet; its texts are the tree's already. */
KELPIE_CHECKED enum kelpie_status tree_add_inode(struct image_tree *tree,
                                                 const struct image_inode *inode,
                                                 uint32_t *ret_inode, struct kelpie_error *err);

KELPIE_CHECKED enum kelpie_status tree_add_text(struct image_tree *tree, const void *data,
                                                size_t size, uint32_t *ret_text,
                                                struct kelpie_error *err);

/* Removes a node and all below it. */
void tree_remove(struct image_tree *tree, uint32_t node);

/* The node after `node` and all below it, of what is below `top`; or NONE. */
uint32_t tree_after(const struct image_tree *tree, uint32_t node, uint32_t top);

bool tree_is(const struct image_tree *tree, uint32_t node, uint32_t type);

#endif
