/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Where everything lies, and what a folder and a list of attributes look like. See erofs.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "base/error.h"
#include "image/erofs_internal.h"

#define ATTRIBUTE_HEAD_SIZE 4u
#define ATTRIBUTE_ALIGNMENT 4u

/* An entry of a folder: "." and ".." too. */
struct listed {
    const char *name;
    size_t name_size;
    uint32_t place;
};

static uint64_t round_up(uint64_t value, uint64_t unit) {
    ASSERT(unit > 0);
    ASSERT(value <= UINT64_MAX - unit);
    return (value + unit - 1) / unit * unit;
}

/* ---- Attributes ------------------------------------------------------------------------------- */

static const struct {
    const char *prefix;
    uint8_t index;
} namespaces[] = {
    {"user.", 1},
    {"system.posix_acl_access", 2},
    {"system.posix_acl_default", 3},
    {"trusted.", 4},
    {"security.", 6},
};

/* How much of the name its number stands for. */
static size_t split_name(const struct image_attribute *attribute, uint8_t *ret_index) {
    ASSERT(attribute->name_size > 0);
    ASSERT(ret_index);
    for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
        size_t size = strlen(namespaces[i].prefix);
        if (attribute->name_size >= size &&
            memcmp(attribute->name, namespaces[i].prefix, size) == 0) {
            *ret_index = namespaces[i].index;
            return size;
        }
    }
    *ret_index = 0; /* No namespace: the whole name. */
    return 0;
}

size_t erofs_attributes_encode(const struct image_tree *tree, const struct image_inode *inode,
                               uint8_t *buffer, size_t size) {
    static const uint8_t zeros[EROFS_ATTRIBUTES_HEAD_SIZE];
    struct image_attribute attribute;
    size_t offset = 0;
    size_t needed = EROFS_ATTRIBUTES_HEAD_SIZE;
    struct cursor_writer out = cursor_writer_init(buffer, size);
    ASSERT(buffer || size == 0);
    if (inode->attributes_size == 0) {
        return 0;
    }
    cursor_write_bytes(&out, zeros, EROFS_ATTRIBUTES_HEAD_SIZE); /* none is shared */
    const char *records = image_tree_text(tree, inode->attributes);
    while (image_attributes_next(records, inode->attributes_size, &offset, &attribute)) {
        uint8_t index = 0;
        size_t prefix = split_name(&attribute, &index);
        size_t used = ATTRIBUTE_HEAD_SIZE + attribute.name_size - prefix + attribute.value_size;
        size_t padding = (size_t)round_up(used, ATTRIBUTE_ALIGNMENT) - used;
        cursor_write_u8(&out, (uint8_t)(attribute.name_size - prefix));
        cursor_write_u8(&out, index);
        cursor_write_u16(&out, (uint16_t)attribute.value_size);
        cursor_write_bytes(&out, attribute.name + prefix, attribute.name_size - prefix);
        cursor_write_bytes(&out, attribute.value, attribute.value_size);
        cursor_write_bytes(&out, zeros, padding);
        needed += used + padding;
    }
    ASSERT(!buffer || (!out.failed && out.size == needed));
    return needed;
}

/* ---- Folders ---------------------------------------------------------------------------------- */

static int compare_listed(const struct listed *a, const struct listed *b) {
    ASSERT(a->name_size > 0);
    ASSERT(b->name_size > 0);
    size_t common = a->name_size < b->name_size ? a->name_size : b->name_size;
    int order = memcmp(a->name, b->name, common);
    return order != 0 ? order : a->name_size < b->name_size ? -1 : a->name_size > b->name_size;
}

/* The folder's children with "." and ".." where they belong; for free(). */
static enum kelpie_status list_folder(const struct erofs_plan *plan,
                                      const struct erofs_place *place, struct listed **ret_entries,
                                      struct kelpie_error *err) {
    const struct image_tree *tree = plan->tree;
    uint32_t self = image_tree_inode_of(tree, place->node);
    uint32_t above = image_tree_inode_of(tree, image_tree_parent_of(tree, place->node));
    const struct listed dots[] = {{".", 1, plan->place_of[self]}, {"..", 2, plan->place_of[above]}};
    struct listed *entries =
        host_allocate(plan->host, (place->child_count + 2) * sizeof(*entries), err);
    size_t dot = 0;
    size_t count = 0;
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    ASSERT(self == place->inode);
    for (size_t i = 0; i < place->child_count; i++) {
        struct listed child = {.place =
                                   plan->place_of[image_tree_inode_of(tree, place->children[i])]};
        child.name = image_tree_name(tree, place->children[i], &child.name_size);
        while (dot < ARRAY_SIZE(dots) && compare_listed(&dots[dot], &child) < 0) {
            entries[count++] = dots[dot++];
        }
        entries[count++] = child;
    }
    while (dot < ARRAY_SIZE(dots)) {
        entries[count++] = dots[dot++];
    }
    ASSERT(count == place->child_count + 2);
    *ret_entries = entries;
    return KELPIE_OK;
}

/* How many entries fit one block, and their bytes. */
static size_t fill_block(const struct listed *entries, size_t count, size_t *ret_size) {
    size_t taken = 0;
    size_t size = 0;
    ASSERT(count > 0);
    while (taken < count &&
           size + EROFS_ENTRY_SIZE + entries[taken].name_size <= EROFS_BLOCK_SIZE) {
        size += EROFS_ENTRY_SIZE + entries[taken].name_size;
        taken++;
    }
    ASSERT(taken > 0);
    *ret_size = size;
    return taken;
}

static uint64_t folder_size(const struct listed *entries, size_t count) {
    uint64_t size = 0;
    size_t used = 0;
    ASSERT(count >= 2);
    for (size_t taken = 0; taken < count;) {
        size = round_up(size, EROFS_BLOCK_SIZE);
        taken += fill_block(entries + taken, count - taken, &used);
        size += used;
    }
    ASSERT(size > 0);
    return size;
}

static uint8_t type_of(uint32_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 1;
    case S_IFDIR:
        return 2;
    case S_IFCHR:
        return 3;
    case S_IFBLK:
        return 4;
    case S_IFIFO:
        return 5;
    case S_IFSOCK:
        return 6;
    case S_IFLNK:
        return 7;
    default:
        UNREACHABLE();
    }
}

/* All entries of a block, then all their names. */
static void encode_block(const struct erofs_plan *plan, const struct listed *entries, size_t count,
                         uint8_t *block) {
    struct cursor_writer out = cursor_writer_init(block, EROFS_BLOCK_SIZE);
    size_t name_offset = count * EROFS_ENTRY_SIZE;
    ASSERT(count > 0);
    for (size_t i = 0; i < count; i++) {
        const struct erofs_place *place = &plan->places[entries[i].place];
        cursor_write_u64(&out, place->offset / EROFS_SLOT_SIZE);
        cursor_write_u16(&out, (uint16_t)name_offset);
        cursor_write_u8(&out, type_of(image_tree_inode(plan->tree, place->inode)->mode));
        cursor_write_u8(&out, 0);
        name_offset += entries[i].name_size;
    }
    for (size_t i = 0; i < count; i++) {
        cursor_write_bytes(&out, entries[i].name, entries[i].name_size);
    }
    ASSERT(!out.failed);
}

enum kelpie_status erofs_folder_encode(const struct erofs_plan *plan,
                                       const struct erofs_place *place, uint8_t **ret_data,
                                       struct kelpie_error *err) {
    AUTO_MEM struct listed *entries = NULL;
    size_t count = place->child_count + 2;
    size_t size = 0;
    ASSERT(ret_data);
    TRY(list_folder(plan, place, &entries, err));
    uint64_t rounded = round_up(place->size, EROFS_BLOCK_SIZE);
    uint8_t *data = host_allocate(plan->host, (size_t)rounded, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    uint64_t offset = 0;
    for (size_t done = 0; done < count; offset += EROFS_BLOCK_SIZE) {
        size_t taken = fill_block(entries + done, count - done, &size);
        ASSERT(offset < rounded);
        encode_block(plan, entries + done, taken, data + offset);
        done += taken;
    }
    ASSERT(offset == rounded);
    *ret_data = data;
    return KELPIE_OK;
}

/* ---- The plan --------------------------------------------------------------------------------- */

static void add_place(struct erofs_plan *plan, uint32_t node) {
    uint32_t inode = image_tree_inode_of(plan->tree, node);
    ASSERT(inode < image_tree_inode_count(plan->tree));
    ASSERT(plan->place_count <= image_tree_inode_count(plan->tree));
    if (plan->place_of[inode] == UINT32_MAX) {
        plan->place_of[inode] = plan->place_count;
        plan->places[plan->place_count++] = (struct erofs_place){
            .inode = inode,
            .node = node,
            .size = image_tree_inode(plan->tree, inode)->size,
        };
    }
}

/* The list of places is also the queue of those whose children come next. */
static enum kelpie_status order_inodes(struct erofs_plan *plan, struct kelpie_error *err) {
    const struct image_tree *tree = plan->tree;
    uint32_t inode_count = image_tree_inode_count(tree);
    ASSERT(inode_count > 0);
    plan->places = host_allocate(plan->host, inode_count * sizeof(*plan->places), err);
    plan->place_of = host_allocate(plan->host, inode_count * sizeof(*plan->place_of), err);
    if (!plan->places || !plan->place_of) {
        return KELPIE_NO_MEMORY;
    }
    memset(plan->place_of, 0xff, inode_count * sizeof(*plan->place_of));
    add_place(plan, IMAGE_NODE_ROOT);
    for (uint32_t i = 0; i < plan->place_count; i++) {
        struct erofs_place *place = &plan->places[i];
        if ((image_tree_inode(tree, place->inode)->mode & S_IFMT) != S_IFDIR) {
            continue;
        }
        TRY(image_tree_children(tree, place->node, &place->children, &place->child_count, err));
        for (size_t j = 0; j < place->child_count; j++) {
            add_place(plan, place->children[j]);
        }
    }
    ASSERT(plan->place_count <= inode_count);
    return KELPIE_OK;
}

static enum kelpie_status measure_folders(struct erofs_plan *plan, struct kelpie_error *err) {
    ASSERT(plan->place_count > 0);
    for (uint32_t i = 0; i < plan->place_count; i++) {
        struct erofs_place *place = &plan->places[i];
        AUTO_MEM struct listed *entries = NULL;
        if ((image_tree_inode(plan->tree, place->inode)->mode & S_IFMT) == S_IFDIR) {
            TRY(list_folder(plan, place, &entries, err));
            place->size = folder_size(entries, place->child_count + 2);
            ASSERT(place->size > 0);
        }
    }
    return KELPIE_OK;
}

/* An inode lies in one block, with its tail if it has one; attributes may go over several. */
static uint64_t place_inode(const struct erofs_plan *plan, struct erofs_place *place,
                            uint64_t offset) {
    uint32_t head = 0;
    uint32_t tail = (uint32_t)(place->size % EROFS_BLOCK_SIZE);
    const struct image_inode *inode = image_tree_inode(plan->tree, place->inode);
    ASSERT(offset % EROFS_SLOT_SIZE == 0);
    place->attributes_size = (uint32_t)erofs_attributes_encode(plan->tree, inode, NULL, 0);
    head = EROFS_INODE_SIZE + place->attributes_size;
    place->tail_size = head + tail <= EROFS_BLOCK_SIZE ? tail : 0;
    uint32_t together = place->tail_size > 0 ? head + tail : EROFS_INODE_SIZE;
    if (offset % EROFS_BLOCK_SIZE + together > EROFS_BLOCK_SIZE) {
        offset = round_up(offset, EROFS_BLOCK_SIZE);
    }
    ASSERT(together <= EROFS_BLOCK_SIZE);
    place->offset = offset;
    return round_up(offset + head + place->tail_size, EROFS_SLOT_SIZE);
}

static enum kelpie_status place_all(struct erofs_plan *plan, struct kelpie_error *err) {
    uint64_t offset = EROFS_SUPER_OFFSET + EROFS_SUPER_SIZE;
    static_assert((EROFS_SUPER_OFFSET + EROFS_SUPER_SIZE) % EROFS_SLOT_SIZE == 0, "a whole slot");
    for (uint32_t i = 0; i < plan->place_count; i++) {
        offset = place_inode(plan, &plan->places[i], offset);
    }
    plan->inodes_end = offset;
    uint64_t block = round_up(offset, EROFS_BLOCK_SIZE) / EROFS_BLOCK_SIZE;
    for (uint32_t i = 0; i < plan->place_count; i++) {
        struct erofs_place *place = &plan->places[i];
        uint64_t blocks =
            round_up(place->size - place->tail_size, EROFS_BLOCK_SIZE) / EROFS_BLOCK_SIZE;
        place->block = blocks > 0 ? (uint32_t)block : 0;
        block += blocks;
        if (block >= UINT32_MAX) {
            return error_set(err, KELPIE_NO_SPACE, "the image is too large for a file system");
        }
    }
    ASSERT(block > 0);
    plan->block_count = block;
    return KELPIE_OK;
}

enum kelpie_status erofs_plan_init(struct erofs_plan *ret_plan, struct host *host,
                                   const struct image_tree *tree, struct kelpie_error *err) {
    ASSERT(ret_plan);
    ASSERT(tree);
    *ret_plan = (struct erofs_plan){.host = host, .tree = tree};
    enum kelpie_status status = order_inodes(ret_plan, err);
    if (status == KELPIE_OK) {
        status = measure_folders(ret_plan, err);
    }
    if (status == KELPIE_OK) {
        status = place_all(ret_plan, err);
    }
    if (status != KELPIE_OK) {
        erofs_plan_deinit(ret_plan);
    }
    return status;
}

void erofs_plan_deinit(struct erofs_plan *plan) {
    ASSERT(plan);
    for (uint32_t i = 0; i < plan->place_count; i++) {
        free(plan->places[i].children);
    }
    free(plan->places);
    free(plan->place_of);
    *plan = (struct erofs_plan){0};
    ASSERT(plan->place_count == 0);
}
