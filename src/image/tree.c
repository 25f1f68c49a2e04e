/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Nodes, inodes and texts: arrays that double, a hash table of names, lists of children. See tree.h. */
#include "image/tree_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"

#define CAPACITY_FIRST 1024u
#define FOLDER_MODE_IMPLIED 0755u
#define RECORD_HEAD_SIZE 8u /* of an attribute: two sizes */

static void tree_check(const struct image_tree *tree) {
    ASSERT(tree);
    ASSERT(tree->node_count > 0);
    ASSERT(tree->node_count <= tree->node_capacity);
}

bool tree_is(const struct image_tree *tree, uint32_t node, uint32_t type) {
    tree_check(tree);
    ASSERT(node < tree->node_count);
    return (tree->inodes[tree->nodes[node].inode].mode & S_IFMT) == type;
}

/* ---- Arrays that grow ------------------------------------------------------------------------- */

/* Room for `needed` items; the array moves. */
static enum kelpie_status grow(struct host *host, void **array, uint32_t *capacity,
                               size_t item_size, uint64_t needed, struct kelpie_error *err) {
    ASSERT(array && capacity);
    ASSERT(item_size > 0);
    if (needed <= *capacity) {
        return KELPIE_OK;
    }
    uint64_t wanted = *capacity ? *capacity : CAPACITY_FIRST;
    while (wanted < needed) {
        wanted *= 2;
    }
    ASSERT(wanted <= UINT32_MAX);
    void *larger = host_allocate(host, (size_t)wanted * item_size, err);
    if (!larger) {
        return KELPIE_NO_MEMORY;
    }
    if (*capacity > 0) {
        memcpy(larger, *array, *capacity * item_size);
    }
    free(*array);
    *array = larger;
    *capacity = (uint32_t)wanted;
    return KELPIE_OK;
}

enum kelpie_status tree_add_text(struct image_tree *tree, const void *data, size_t size,
                                 uint32_t *ret_text, struct kelpie_error *err) {
    ASSERT(data || size == 0);
    ASSERT(ret_text);
    if (size > IMAGE_TREE_TEXT_BYTES_MAX - tree->text_size) {
        return error_set(err, KELPIE_NO_SPACE,
                         "the image's names, links and attributes take more than %u bytes",
                         IMAGE_TREE_TEXT_BYTES_MAX);
    }
    void *text = tree->text;
    enum kelpie_status status =
        grow(tree->host, &text, &tree->text_capacity, 1, (uint64_t)tree->text_size + size + 1, err);
    tree->text = text;
    TRY(status);
    if (size > 0) {
        memcpy(tree->text + tree->text_size, data, size);
    }
    *ret_text = tree->text_size;
    tree->text_size += (uint32_t)size;
    return KELPIE_OK;
}

enum kelpie_status tree_add_inode(struct image_tree *tree, const struct image_inode *inode,
                                  uint32_t *ret_inode, struct kelpie_error *err) {
    ASSERT(inode->link_count == 0);
    ASSERT(ret_inode);
    uint32_t number = tree->free_inode;
    if (number != IMAGE_NODE_NONE) {
        tree->free_inode = tree->inodes[number].target;
    } else {
        void *inodes = tree->inodes;
        enum kelpie_status status = grow(tree->host, &inodes, &tree->inode_capacity, sizeof(*inode),
                                         (uint64_t)tree->inode_count + 1, err);
        tree->inodes = inodes;
        TRY(status);
        number = tree->inode_count++;
    }
    tree->inodes[number] = *inode;
    *ret_inode = number;
    return KELPIE_OK;
}

/* ---- The hash table --------------------------------------------------------------------------- */

static uint32_t bucket_of(const struct image_tree *tree, uint32_t folder, struct image_name name) {
    ASSERT(tree->bucket_count > 0);
    ASSERT((tree->bucket_count & (tree->bucket_count - 1)) == 0);
    uint64_t hash = XXH3_64bits_withSeed(name.data, name.size,
                                         tree->seed ^ ((uint64_t)folder * 0x9e3779b97f4a7c15ull));
    return (uint32_t)(hash & (tree->bucket_count - 1));
}

static struct image_name name_of(const struct image_tree *tree, uint32_t node) {
    ASSERT(node < tree->node_count);
    ASSERT(tree->nodes[node].name <= tree->text_size);
    return (struct image_name){tree->text + tree->nodes[node].name, tree->nodes[node].name_size};
}

static void bucket_insert(struct image_tree *tree, uint32_t node) {
    ASSERT(node != IMAGE_NODE_ROOT);
    ASSERT(node < tree->node_count);
    uint32_t bucket = bucket_of(tree, tree->nodes[node].parent, name_of(tree, node));
    tree->nodes[node].next_in_bucket = tree->buckets[bucket];
    tree->buckets[bucket] = node;
}

static void bucket_remove(struct image_tree *tree, uint32_t node) {
    ASSERT(node != IMAGE_NODE_ROOT);
    uint32_t bucket = bucket_of(tree, tree->nodes[node].parent, name_of(tree, node));
    uint32_t *place = &tree->buckets[bucket];
    while (*place != node) {
        ASSERT(*place != IMAGE_NODE_NONE);
        place = &tree->nodes[*place].next_in_bucket;
    }
    *place = tree->nodes[node].next_in_bucket;
}

/* As many buckets as there is room for nodes. */
static enum kelpie_status buckets_grow(struct image_tree *tree, struct kelpie_error *err) {
    ASSERT(tree->node_capacity > 0);
    ASSERT(tree->node_count <= tree->node_capacity);
    if (tree->bucket_count >= tree->node_capacity) {
        return KELPIE_OK;
    }
    uint32_t *buckets = host_allocate(tree->host, tree->node_capacity * sizeof(*buckets), err);
    if (!buckets) {
        return KELPIE_NO_MEMORY;
    }
    free(tree->buckets);
    tree->buckets = buckets;
    tree->bucket_count = tree->node_capacity;
    for (uint32_t i = 0; i < tree->bucket_count; i++) {
        tree->buckets[i] = IMAGE_NODE_NONE;
    }
    for (uint32_t i = 1; i < tree->node_count; i++) {
        if (tree->nodes[i].inode != IMAGE_NODE_NONE) {
            bucket_insert(tree, i);
        }
    }
    return KELPIE_OK;
}

uint32_t tree_child(const struct image_tree *tree, uint32_t folder, struct image_name name) {
    tree_check(tree);
    ASSERT(folder < tree->node_count);
    ASSERT(name.size > 0);
    uint32_t node = tree->buckets[bucket_of(tree, folder, name)];
    while (node != IMAGE_NODE_NONE) {
        const struct node *found = &tree->nodes[node];
        if (found->parent == folder && found->name_size == name.size &&
            memcmp(tree->text + found->name, name.data, name.size) == 0) {
            return node;
        }
        node = found->next_in_bucket;
    }
    return IMAGE_NODE_NONE;
}

/* ---- Nodes ------------------------------------------------------------------------------------ */

static enum kelpie_status take_node(struct image_tree *tree, uint32_t *ret_node,
                                    struct kelpie_error *err) {
    ASSERT(ret_node);
    ASSERT(tree->node_count <= IMAGE_TREE_NODE_COUNT_MAX);
    if (tree->free_node != IMAGE_NODE_NONE) {
        *ret_node = tree->free_node;
        tree->free_node = tree->nodes[*ret_node].next;
        return KELPIE_OK;
    }
    if (tree->node_count == IMAGE_TREE_NODE_COUNT_MAX) {
        return error_set(err, KELPIE_NO_SPACE, "the image has more than %u files",
                         IMAGE_TREE_NODE_COUNT_MAX);
    }
    void *nodes = tree->nodes;
    enum kelpie_status status = grow(tree->host, &nodes, &tree->node_capacity, sizeof(*tree->nodes),
                                     (uint64_t)tree->node_count + 1, err);
    tree->nodes = nodes;
    TRY(status);
    TRY(buckets_grow(tree, err));
    *ret_node = tree->node_count;
    tree->nodes[tree->node_count++].inode = IMAGE_NODE_NONE;
    return KELPIE_OK;
}

void tree_touch(struct image_tree *tree, uint32_t node) {
    ASSERT(node < tree->node_count);
    ASSERT(tree->nodes[node].layer <= tree->layer);
    while (tree->nodes[node].layer != tree->layer) {
        tree->nodes[node].layer = tree->layer;
        node = tree->nodes[node].parent;
    }
}

enum kelpie_status tree_insert(struct image_tree *tree, uint32_t folder, struct image_name name,
                               uint32_t inode, struct kelpie_error *err) {
    ASSERT(tree_is(tree, folder, S_IFDIR));
    ASSERT(inode < tree->inode_count);
    ASSERT(name.size > 0 && name.size <= HOST_NAME_SIZE_MAX);
    uint32_t text = 0;
    uint32_t number = 0;
    if (tree->nodes[folder].depth + 1 > IMAGE_TREE_DEPTH_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "the image has folders more than %u deep",
                         IMAGE_TREE_DEPTH_MAX);
    }
    TRY(tree_add_text(tree, name.data, name.size, &text, err));
    TRY(take_node(tree, &number, err));
    struct node *node = &tree->nodes[number];
    uint32_t sibling = tree->nodes[folder].first_child;
    *node = (struct node){
        .name = text,
        .name_size = (uint32_t)name.size,
        .parent = folder,
        .inode = inode,
        .first_child = IMAGE_NODE_NONE,
        .next = sibling,
        .previous = IMAGE_NODE_NONE,
        .layer = tree->layer,
        .depth = tree->nodes[folder].depth + 1,
    };
    if (sibling != IMAGE_NODE_NONE) {
        tree->nodes[sibling].previous = number;
    }
    tree->nodes[folder].first_child = number;
    tree->inodes[inode].link_count++;
    tree_touch(tree, folder);
    bucket_insert(tree, number);
    return KELPIE_OK;
}

/* Of a node without children. */
static void remove_leaf(struct image_tree *tree, uint32_t number) {
    struct node *node = &tree->nodes[number];
    struct image_inode *inode = &tree->inodes[node->inode];
    ASSERT(node->first_child == IMAGE_NODE_NONE);
    ASSERT(inode->link_count > 0);
    bucket_remove(tree, number);
    if (node->previous != IMAGE_NODE_NONE) {
        tree->nodes[node->previous].next = node->next;
    } else {
        tree->nodes[node->parent].first_child = node->next;
    }
    if (node->next != IMAGE_NODE_NONE) {
        tree->nodes[node->next].previous = node->previous;
    }
    if (--inode->link_count == 0) {
        inode->target = tree->free_inode;
        tree->free_inode = node->inode;
    }
    node->inode = IMAGE_NODE_NONE;
    node->next = tree->free_node;
    tree->free_node = number;
}

void tree_remove(struct image_tree *tree, uint32_t top) {
    tree_check(tree);
    ASSERT(top != IMAGE_NODE_ROOT && top < tree->node_count);
    uint32_t node = top;
    for (bool done = false; !done;) {
        if (tree->nodes[node].first_child != IMAGE_NODE_NONE) {
            node = tree->nodes[node].first_child;
            continue;
        }
        uint32_t parent = tree->nodes[node].parent;
        done = node == top;
        remove_leaf(tree, node);
        node = parent;
    }
}

uint32_t tree_after(const struct image_tree *tree, uint32_t node, uint32_t top) {
    tree_check(tree);
    ASSERT(node < tree->node_count);
    ASSERT(top < tree->node_count);
    while (node != top) {
        if (tree->nodes[node].next != IMAGE_NODE_NONE) {
            return tree->nodes[node].next;
        }
        node = tree->nodes[node].parent;
    }
    return IMAGE_NODE_NONE;
}

/* ---- Making one, and looking at it ------------------------------------------------------------ */

static enum kelpie_status make_root(struct image_tree *tree, struct kelpie_error *err) {
    const struct image_inode folder = {.mode = S_IFDIR | FOLDER_MODE_IMPLIED};
    uint32_t inode = 0;
    uint32_t root = 0;
    ASSERT(tree->node_count == 0);
    TRY(tree_add_inode(tree, &folder, &inode, err));
    TRY(take_node(tree, &root, err));
    ASSERT(root == IMAGE_NODE_ROOT);
    tree->nodes[root] = (struct node){
        .parent = IMAGE_NODE_ROOT,
        .inode = inode,
        .first_child = IMAGE_NODE_NONE,
        .next = IMAGE_NODE_NONE,
        .previous = IMAGE_NODE_NONE,
    };
    tree->inodes[inode].link_count = 1;
    return KELPIE_OK;
}

enum kelpie_status image_tree_create(struct host *host, struct image_tree **ret_tree,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_tree);
    AUTO_TREE struct image_tree *tree = host_allocate(host, sizeof(*tree), err);
    if (!tree) {
        return KELPIE_NO_MEMORY;
    }
    tree->host = host;
    tree->free_node = IMAGE_NODE_NONE;
    tree->free_inode = IMAGE_NODE_NONE;
    TRY(host_random(host, &tree->seed, sizeof(tree->seed), err));
    TRY(make_root(tree, err));
    *ret_tree = TAKE(tree);
    return KELPIE_OK;
}

void image_tree_destroy(struct image_tree *tree) {
    if (tree) {
        free(tree->nodes);
        free(tree->inodes);
        free(tree->text);
        free(tree->buckets);
        free(tree);
    }
}

void image_tree_cleanup(struct image_tree **tree) {
    ASSERT(tree);
    image_tree_destroy(*tree);
}

void image_tree_begin_layer(struct image_tree *tree, bool whiteouts) {
    tree_check(tree);
    ASSERT(tree->layer < UINT32_MAX);
    ASSERT(tree->nodes[IMAGE_NODE_ROOT].layer <= tree->layer);
    tree->layer++;
    tree->whiteouts = whiteouts;
}

uint32_t image_tree_inode_of(const struct image_tree *tree, uint32_t node) {
    tree_check(tree);
    ASSERT(node < tree->node_count && tree->nodes[node].inode != IMAGE_NODE_NONE);
    return tree->nodes[node].inode;
}

uint32_t image_tree_parent_of(const struct image_tree *tree, uint32_t node) {
    tree_check(tree);
    ASSERT(node < tree->node_count);
    return tree->nodes[node].parent;
}

const struct image_inode *image_tree_inode(const struct image_tree *tree, uint32_t inode) {
    tree_check(tree);
    ASSERT(inode < tree->inode_count);
    ASSERT(tree->inodes);
    return &tree->inodes[inode];
}

const char *image_tree_name(const struct image_tree *tree, uint32_t node, size_t *ret_size) {
    tree_check(tree);
    ASSERT(ret_size);
    ASSERT(node != IMAGE_NODE_ROOT && node < tree->node_count);
    struct image_name name = name_of(tree, node);
    *ret_size = name.size;
    return name.data;
}

const char *image_tree_text(const struct image_tree *tree, uint32_t text) {
    tree_check(tree);
    ASSERT(text <= tree->text_size);
    return tree->text + text;
}

uint32_t image_tree_node_count(const struct image_tree *tree) {
    tree_check(tree);
    return tree->node_count;
}

uint32_t image_tree_inode_count(const struct image_tree *tree) {
    tree_check(tree);
    return tree->inode_count;
}

static int compare_names(const void *a, const void *b, void *context) {
    const struct image_tree *tree = context;
    struct image_name left = name_of(tree, *(const uint32_t *)a);
    struct image_name right = name_of(tree, *(const uint32_t *)b);
    size_t common = left.size < right.size ? left.size : right.size;
    ASSERT(common > 0);
    ASSERT(left.data && right.data);
    int order = memcmp(left.data, right.data, common);
    return order != 0 ? order : left.size < right.size ? -1 : left.size > right.size;
}

enum kelpie_status image_tree_children(const struct image_tree *tree, uint32_t node,
                                       uint32_t **ret_children, size_t *ret_count,
                                       struct kelpie_error *err) {
    tree_check(tree);
    ASSERT(tree_is(tree, node, S_IFDIR));
    size_t count = 0;
    uint32_t *children = NULL;
    for (uint32_t i = tree->nodes[node].first_child; i != IMAGE_NODE_NONE;
         i = tree->nodes[i].next) {
        count++;
    }
    if (count > 0) {
        children = host_allocate(tree->host, count * sizeof(*children), err);
        if (!children) {
            return KELPIE_NO_MEMORY;
        }
        size_t index = 0;
        for (uint32_t i = tree->nodes[node].first_child; i != IMAGE_NODE_NONE;
             i = tree->nodes[i].next) {
            children[index++] = i;
        }
        ASSERT(index == count);
        qsort_r(children, count, sizeof(*children), compare_names, (void *)(uintptr_t)tree);
    }
    *ret_children = children;
    *ret_count = count;
    return KELPIE_OK;
}

/* ---- Extended attributes ---------------------------------------------------------------------- */

bool image_attributes_append(void *records, size_t *size, const struct image_attribute *attribute) {
    ASSERT(records);
    ASSERT(*size <= IMAGE_ATTRIBUTES_SIZE_MAX);
    size_t room = IMAGE_ATTRIBUTES_SIZE_MAX - *size;
    if (attribute->name_size == 0 || attribute->name_size > IMAGE_ATTRIBUTE_NAME_SIZE_MAX ||
        attribute->value_size > IMAGE_ATTRIBUTES_SIZE_MAX ||
        RECORD_HEAD_SIZE + attribute->name_size + attribute->value_size > room) {
        return false;
    }
    uint32_t head[2] = {(uint32_t)attribute->name_size, (uint32_t)attribute->value_size};
    char *record = (char *)records + *size;
    memcpy(record, head, RECORD_HEAD_SIZE);
    memcpy(record + RECORD_HEAD_SIZE, attribute->name, attribute->name_size);
    if (attribute->value_size > 0) {
        memcpy(record + RECORD_HEAD_SIZE + attribute->name_size, attribute->value,
               attribute->value_size);
    }
    *size += RECORD_HEAD_SIZE + attribute->name_size + attribute->value_size;
    return true;
}

bool image_attributes_next(const void *records, size_t size, size_t *offset,
                           struct image_attribute *ret_attribute) {
    ASSERT(*offset <= size);
    ASSERT(ret_attribute);
    uint32_t head[2];
    if (*offset == size) {
        return false;
    }
    ASSERT(size - *offset > RECORD_HEAD_SIZE);
    const char *record = (const char *)records + *offset;
    memcpy(head, record, RECORD_HEAD_SIZE);
    ASSERT((size_t)head[0] + head[1] <= size - *offset - RECORD_HEAD_SIZE);
    *ret_attribute = (struct image_attribute){
        .name = record + RECORD_HEAD_SIZE,
        .name_size = head[0],
        .value = record + RECORD_HEAD_SIZE + head[0],
        .value_size = head[1],
    };
    *offset += RECORD_HEAD_SIZE + head[0] + head[1];
    return true;
}
