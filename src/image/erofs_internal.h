/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* erofs_internal.h: where everything of an EROFS file system lies: erofs_plan.c decides it, erofs.c writes it. */
#ifndef KELPIE_IMAGE_EROFS_INTERNAL_H
#define KELPIE_IMAGE_EROFS_INTERNAL_H

#include "image/erofs.h"

#define EROFS_BLOCK_SIZE_LOG2 12
#define EROFS_BLOCK_SIZE 4096u
#define EROFS_SUPER_OFFSET 1024u
#define EROFS_SUPER_SIZE 128u
#define EROFS_SUPER_MAGIC 0xe0f5e1e2u
#define EROFS_SLOT_SIZE 32u  /* what inodes are counted in */
#define EROFS_INODE_SIZE 64u /* "extended": with a time, and 32-bit owners */
#define EROFS_ENTRY_SIZE 12u /* of a folder, without its name */
#define EROFS_ATTRIBUTES_HEAD_SIZE 12u

/* Where an inode lies, and its content. */
struct erofs_place {
    uint32_t inode;
    uint32_t node;      /* its first name */
    uint32_t *children; /* of a folder, sorted */
    size_t child_count;
    uint64_t size;            /* of its content */
    uint64_t offset;          /* of the inode */
    uint32_t attributes_size; /* behind it, encoded; 0: none */
    uint32_t tail_size;       /* of the content behind those; 0: all of it lies in blocks */
    uint32_t block;           /* of the rest */
};

struct erofs_plan {
    struct host *host;
    const struct image_tree *tree;
    struct erofs_place *places; /* in the order of the inodes */
    uint32_t place_count;
    uint32_t *place_of; /* by inode */
    uint64_t inodes_end;
    uint64_t block_count;
};

KELPIE_CHECKED enum kelpie_status erofs_plan_init(struct erofs_plan *ret_plan, struct host *host,
                                                  const struct image_tree *tree,
                                                  struct kelpie_error *err);
void erofs_plan_deinit(struct erofs_plan *plan);

/* The content of a folder, for free(). */
KELPIE_CHECKED enum kelpie_status erofs_folder_encode(const struct erofs_plan *plan,
                                                      const struct erofs_place *place,
                                                      uint8_t **ret_data, struct kelpie_error *err);

/* The encoded attributes of an inode into a buffer of that many bytes; NULL: only their size. */
size_t erofs_attributes_encode(const struct image_tree *tree, const struct image_inode *inode,
                               uint8_t *buffer, size_t size);

#endif
