/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Paths, links and layers. See tree.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "image/tree_internal.h"

#define WHITEOUT ".wh."
#define WHITEOUT_SIZE 4u
#define WHITEOUT_OTHERS ".wh..wh." /* a builder's own notes, which are nothing of the image's */
#define WHITEOUT_OPAQUE ".wh..wh..opq"

/* A path on its way: what of it is left. Links' texts take its place as they are met. */
struct walk {
    struct image_tree *tree;
    const char *path; /* as it was given, for messages */
    char text[IMAGE_TREE_PATH_SIZE_MAX + 1];
    size_t offset;
    uint32_t node; /* a folder */
    uint32_t link_count;
};

static bool name_is(struct image_name name, const char *text) {
    ASSERT(name.data);
    ASSERT(text);
    return name.size == strlen(text) && memcmp(name.data, text, name.size) == 0;
}

static bool name_begins(struct image_name name, const char *text) {
    ASSERT(name.data);
    ASSERT(text);
    return name.size >= strlen(text) && memcmp(name.data, text, strlen(text)) == 0;
}

enum kelpie_status image_entry_wrong(struct kelpie_error *err, const char *path, const char *why) {
    char shown[128];
    size_t size = 0;
    ASSERT(path);
    ASSERT(why);
    for (; path[size] != '\0' && size < sizeof(shown) - 1; size++) {
        unsigned char c = (unsigned char)path[size];
        shown[size] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    shown[size] = '\0';
    return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the image's entry '%s'%s %s", shown,
                           path[size] == '\0' ? "" : " (and so on)", why);
}

/* The next piece between slashes; false at the end. */
static bool next_name(const char *text, size_t *offset, struct image_name *ret_name) {
    ASSERT(text);
    ASSERT(ret_name);
    while (text[*offset] == '/') {
        (*offset)++;
    }
    size_t size = strcspn(text + *offset, "/");
    *ret_name = (struct image_name){text + *offset, size};
    *offset += size;
    return size > 0;
}

/* An entry's own path: no "..", no name that no file can have. *ret_last: its last part; size 0: it is the root's. */
static enum kelpie_status check_path(const struct image_tree *tree, const char *path,
                                     struct image_name *ret_last, struct kelpie_error *err) {
    struct image_name last = {path, 0};
    struct image_name name;
    size_t offset = 0;
    ASSERT(ret_last);
    if (strnlen(path, IMAGE_TREE_PATH_SIZE_MAX + 1) > IMAGE_TREE_PATH_SIZE_MAX) {
        return image_entry_wrong(err, path, "is longer than a path can be");
    }
    while (next_name(path, &offset, &name)) {
        ASSERT(name.size > 0);
        if (name_is(name, "..")) {
            return image_entry_wrong(err, path, "has a part \"..\"");
        }
        if (name.size > HOST_NAME_SIZE_MAX) {
            return image_entry_wrong(err, path, "has a part that is longer than a name can be");
        }
        if (tree->whiteouts && last.size > 0 && name_begins(last, WHITEOUT)) {
            return image_entry_wrong(err, path, "has a whiteout for a folder");
        }
        if (!name_is(name, ".")) {
            last = name;
        }
    }
    *ret_last = last;
    return KELPIE_OK;
}

/* The link's text, and what was left behind it, is what is left now. */
static enum kelpie_status follow(struct walk *walk, uint32_t link, struct kelpie_error *err) {
    const struct image_tree *tree = walk->tree;
    const struct image_inode *inode = &tree->inodes[tree->nodes[link].inode];
    size_t left = strlen(walk->text + walk->offset);
    ASSERT((inode->mode & S_IFMT) == S_IFLNK);
    if (walk->link_count++ == IMAGE_TREE_LINK_DEPTH_MAX) {
        return image_entry_wrong(err, walk->path, "leads through too many links, or in a circle");
    }
    if (inode->size + left > IMAGE_TREE_PATH_SIZE_MAX) {
        return image_entry_wrong(err, walk->path, "leads through links to a path that is too long");
    }
    const char *target = tree->text + inode->target;
    ASSERT(inode->size > 0);
    memmove(walk->text + inode->size, walk->text + walk->offset, left + 1);
    memcpy(walk->text, target, (size_t)inode->size);
    walk->offset = 0;
    if (target[0] == '/') {
        walk->node = IMAGE_NODE_ROOT;
    }
    return KELPIE_OK;
}

static enum kelpie_status make_folder(struct walk *walk, struct image_name name,
                                      struct kelpie_error *err) {
    const struct image_inode folder = {.mode = S_IFDIR | 0755};
    uint32_t inode = 0;
    ASSERT(name.size > 0);
    if (name.size > HOST_NAME_SIZE_MAX) {
        return image_entry_wrong(err, walk->path,
                                 "leads through a link to a name that is too long");
    }
    TRY(tree_add_inode(walk->tree, &folder, &inode, err));
    return tree_insert(walk->tree, walk->node, name, inode, err);
}

/* One part further. NOT_FOUND, without a message: there is none of that name, and none is to be made. */
static enum kelpie_status step(struct walk *walk, struct image_name name, bool create,
                               struct kelpie_error *err) {
    struct image_tree *tree = walk->tree;
    ASSERT(tree_is(tree, walk->node, S_IFDIR));
    if (name_is(name, ".")) {
        return KELPIE_OK;
    }
    if (name_is(name, "..")) {
        walk->node = tree->nodes[walk->node].parent;
        return KELPIE_OK;
    }
    uint32_t child = tree_child(tree, walk->node, name);
    if (child == IMAGE_NODE_NONE && !create) {
        return KELPIE_NOT_FOUND;
    }
    if (child == IMAGE_NODE_NONE) {
        TRY(make_folder(walk, name, err));
        child = tree_child(tree, walk->node, name);
        ASSERT(child != IMAGE_NODE_NONE);
    }
    if (tree_is(tree, child, S_IFLNK)) {
        return follow(walk, child, err);
    }
    if (!tree_is(tree, child, S_IFDIR)) {
        return image_entry_wrong(err, walk->path, "lies below something that is no folder");
    }
    walk->node = child;
    return KELPIE_OK;
}

/* Goes to the folder that the first `size` bytes of the path name. */
static enum kelpie_status walk_to(struct walk *walk, struct image_tree *tree, const char *path,
                                  size_t size, bool create, struct kelpie_error *err) {
    struct image_name name;
    ASSERT(size <= IMAGE_TREE_PATH_SIZE_MAX);
    walk->tree = tree;
    walk->path = path;
    walk->offset = 0;
    walk->node = IMAGE_NODE_ROOT;
    walk->link_count = 0;
    memcpy(walk->text, path, size);
    walk->text[size] = '\0';
    while (next_name(walk->text, &walk->offset, &name)) {
        /* The name lies in the text, which a link replaces; only step() reads it. */
        TRY(step(walk, name, create, err));
    }
    ASSERT(tree_is(tree, walk->node, S_IFDIR));
    return KELPIE_OK;
}

/* ---- Whiteouts -------------------------------------------------------------------------------- */

/* Takes from below the folder what no entry of this layer has touched. */
static void hide_below(struct image_tree *tree, uint32_t folder) {
    uint32_t node = tree->nodes[folder].first_child;
    ASSERT(folder < tree->node_count);
    while (node != IMAGE_NODE_NONE) {
        ASSERT(tree->nodes[node].layer <= tree->layer);
        if (tree->nodes[node].layer < tree->layer) {
            uint32_t next = tree_after(tree, node, folder);
            tree_remove(tree, node);
            node = next;
        } else if (tree->nodes[node].first_child != IMAGE_NODE_NONE) {
            node = tree->nodes[node].first_child;
        } else {
            node = tree_after(tree, node, folder);
        }
    }
}

static enum kelpie_status hide(struct image_tree *tree, const char *path, struct image_name name,
                               struct kelpie_error *err) {
    struct walk walk;
    struct image_name hidden = {name.data + WHITEOUT_SIZE, name.size - WHITEOUT_SIZE};
    ASSERT(name_begins(name, WHITEOUT));
    ASSERT(name.data >= path);
    if (name_begins(name, WHITEOUT_OTHERS) && !name_is(name, WHITEOUT_OPAQUE)) {
        return KELPIE_OK;
    }
    if (hidden.size == 0 || name_is(hidden, ".") || name_is(hidden, "..")) {
        return image_entry_wrong(err, path, "is a whiteout of no name");
    }
    enum kelpie_status status = walk_to(&walk, tree, path, (size_t)(name.data - path), false, err);
    if (status == KELPIE_NOT_FOUND) {
        return KELPIE_OK; /* Nothing is there to be hidden. */
    }
    TRY(status);
    if (name_is(name, WHITEOUT_OPAQUE)) {
        hide_below(tree, walk.node);
        return KELPIE_OK;
    }
    uint32_t node = tree_child(tree, walk.node, hidden);
    if (node != IMAGE_NODE_NONE && tree->nodes[node].layer < tree->layer) {
        tree_remove(tree, node);
    } else if (node != IMAGE_NODE_NONE) {
        hide_below(tree, node);
    }
    return KELPIE_OK;
}

/* ---- Adding ----------------------------------------------------------------------------------- */

static enum kelpie_status check_entry(const struct image_entry *entry, struct kelpie_error *err) {
    uint32_t type = entry->mode & S_IFMT;
    ASSERT((entry->mode & ~(uint32_t)(S_IFMT | 07777)) == 0);
    ASSERT(entry->attributes_size <= IMAGE_ATTRIBUTES_SIZE_MAX);
    if (type == S_IFLNK) {
        size_t size = entry->target ? strnlen(entry->target, IMAGE_TREE_PATH_SIZE_MAX + 1) : 0;
        if (size == 0 || size > IMAGE_TREE_PATH_SIZE_MAX) {
            return image_entry_wrong(err, entry->path, "is a link that leads nowhere, or too far");
        }
        return KELPIE_OK;
    }
    if (type != S_IFREG && type != S_IFDIR && type != S_IFCHR && type != S_IFBLK &&
        type != S_IFIFO && type != S_IFSOCK) {
        return image_entry_wrong(err, entry->path, "is of a kind that a file system does not have");
    }
    return KELPIE_OK;
}

static enum kelpie_status make_inode(struct image_tree *tree, const struct image_entry *entry,
                                     struct image_inode *ret_inode, struct kelpie_error *err) {
    uint32_t type = entry->mode & S_IFMT;
    bool is_device = type == S_IFCHR || type == S_IFBLK;
    ASSERT(entry->attributes || entry->attributes_size == 0);
    ASSERT(ret_inode);
    *ret_inode = (struct image_inode){
        .mode = entry->mode,
        .uid = entry->uid,
        .gid = entry->gid,
        .device_major = is_device ? entry->device_major : 0,
        .device_minor = is_device ? entry->device_minor : 0,
        .modified_s = entry->modified_s,
        .modified_ns = entry->modified_ns,
        .attributes_size = (uint32_t)entry->attributes_size,
        .size = type == S_IFREG ? entry->size : 0,
        .data_offset = type == S_IFREG ? entry->data_offset : 0,
    };
    if (type == S_IFLNK) {
        ret_inode->size = strlen(entry->target);
        TRY(tree_add_text(tree, entry->target, (size_t)ret_inode->size, &ret_inode->target, err));
    }
    return tree_add_text(tree, entry->attributes, entry->attributes_size, &ret_inode->attributes,
                         err);
}

/* A folder that is there takes the attributes of the entry. */
static enum kelpie_status change_folder(struct image_tree *tree, uint32_t node,
                                        const struct image_entry *entry, struct kelpie_error *err) {
    struct image_inode inode;
    ASSERT(tree_is(tree, node, S_IFDIR));
    ASSERT((entry->mode & S_IFMT) == S_IFDIR);
    TRY(make_inode(tree, entry, &inode, err));
    inode.link_count = 1;
    tree->inodes[tree->nodes[node].inode] = inode;
    tree_touch(tree, node);
    return KELPIE_OK;
}

/* Gives an inode that name, in place of what has it. */
static enum kelpie_status put(struct image_tree *tree, uint32_t folder, struct image_name name,
                              uint32_t inode, struct kelpie_error *err) {
    uint32_t old = tree_child(tree, folder, name);
    ASSERT(inode < tree->inode_count);
    ASSERT(name.size > 0);
    /* Held meanwhile: what goes may have its only other name, as b/a when b becomes a link to b/a. */
    tree->inodes[inode].link_count++;
    if (old != IMAGE_NODE_NONE) {
        tree_remove(tree, old);
    }
    enum kelpie_status status = tree_insert(tree, folder, name, inode, err);
    tree->inodes[inode].link_count--;
    return status;
}

enum kelpie_status image_tree_add(struct image_tree *tree, const struct image_entry *entry,
                                  struct kelpie_error *err) {
    struct walk walk;
    struct image_name name;
    struct image_inode inode;
    uint32_t number = 0;
    bool is_folder = (entry->mode & S_IFMT) == S_IFDIR;
    ASSERT(tree);
    ASSERT(entry->path);
    TRY(check_path(tree, entry->path, &name, err));
    if (tree->whiteouts && name_begins(name, WHITEOUT)) {
        return hide(tree, entry->path, name, err);
    }
    TRY(check_entry(entry, err));
    if (name.size == 0) {
        return is_folder ? change_folder(tree, IMAGE_NODE_ROOT, entry, err)
                         : image_entry_wrong(err, entry->path, "is the root and no folder");
    }
    TRY(walk_to(&walk, tree, entry->path, (size_t)(name.data - entry->path), true, err));
    uint32_t old = tree_child(tree, walk.node, name);
    if (is_folder && old != IMAGE_NODE_NONE && tree_is(tree, old, S_IFDIR)) {
        return change_folder(tree, old, entry, err);
    }
    TRY(make_inode(tree, entry, &inode, err));
    TRY(tree_add_inode(tree, &inode, &number, err));
    return put(tree, walk.node, name, number, err);
}

/* The node that a path names, its last part not followed. */
static enum kelpie_status find_target(struct image_tree *tree, const char *path, const char *target,
                                      uint32_t *ret_node, struct kelpie_error *err) {
    struct walk walk;
    struct image_name name;
    ASSERT(ret_node);
    ASSERT(target);
    TRY(check_path(tree, target, &name, err));
    enum kelpie_status status =
        walk_to(&walk, tree, target, (size_t)(name.data - target), false, err);
    if (status != KELPIE_OK && status != KELPIE_NOT_FOUND) {
        return status;
    }
    uint32_t node = IMAGE_NODE_NONE;
    if (status == KELPIE_OK && name.size > 0) {
        node = tree_child(tree, walk.node, name);
    }
    if (node == IMAGE_NODE_NONE) {
        return image_entry_wrong(err, path, "is a hard link to something that is not there");
    }
    if (tree_is(tree, node, S_IFDIR)) {
        return image_entry_wrong(err, path, "is a hard link to a folder");
    }
    *ret_node = node;
    return KELPIE_OK;
}

enum kelpie_status image_tree_link(struct image_tree *tree, const char *path, const char *target,
                                   struct kelpie_error *err) {
    struct walk walk;
    struct image_name name;
    uint32_t node = 0;
    ASSERT(tree);
    ASSERT(path && target);
    TRY(check_path(tree, path, &name, err));
    if (tree->whiteouts && name_begins(name, WHITEOUT)) {
        return hide(tree, path, name, err);
    }
    if (name.size == 0) {
        return image_entry_wrong(err, path, "is the root and no folder");
    }
    TRY(find_target(tree, path, target, &node, err));
    uint32_t inode = tree->nodes[node].inode;
    TRY(walk_to(&walk, tree, path, (size_t)(name.data - path), true, err));
    if (tree_child(tree, walk.node, name) == node) {
        tree_touch(tree, node);
        return KELPIE_OK; /* A link to itself. */
    }
    ASSERT(tree->inodes[inode].link_count > 0);
    return put(tree, walk.node, name, inode, err);
}

bool image_tree_find(const struct image_tree *tree, const char *path, uint32_t *ret_node) {
    struct walk walk;
    ASSERT(tree);
    ASSERT(ret_node);
    size_t size = strnlen(path, IMAGE_TREE_PATH_SIZE_MAX + 1);
    if (size > IMAGE_TREE_PATH_SIZE_MAX) {
        return false;
    }
    /* Nothing is created, so the tree stays as it is. */
    struct image_tree *walked = (struct image_tree *)(uintptr_t)tree;
    struct image_name name = {path, 0};
    walk = (struct walk){.tree = walked, .path = path};
    memcpy(walk.text, path, size + 1);
    while (next_name(walk.text, &walk.offset, &name)) {
        uint32_t child = name_is(name, ".") || name_is(name, "..")
                             ? IMAGE_NODE_NONE
                             : tree_child(tree, walk.node, name);
        bool is_last = walk.text[walk.offset + strspn(walk.text + walk.offset, "/")] == '\0';
        if (is_last && child != IMAGE_NODE_NONE && !tree_is(tree, child, S_IFLNK)) {
            *ret_node = child;
            return true;
        }
        if (step(&walk, name, false, NULL) != KELPIE_OK) {
            return false;
        }
    }
    *ret_node = walk.node;
    return true;
}
