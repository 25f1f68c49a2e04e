/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Layers as anybody may make them, merged: lines of an order's letter, a path and, behind a tab, another. Whatever they are, the tree
 * that comes of them holds together: names are names, each once in its folder; what is counted as names is as many; and a file
 * system can be written of it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "image/erofs.h"
#include "image/tree.h"

#define LINE_SIZE_MAX 5000
#define LINE_COUNT_MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum kelpie_status add(struct image_tree *tree, uint32_t mode, const char *path,
                              const char *target) {
    const struct image_entry entry = {.path = path, .mode = mode, .target = target};
    return image_tree_add(tree, &entry, NULL);
}

/* One order. What is refused ends the image. */
static enum kelpie_status obey(struct image_tree *tree, char *line) {
    char order = line[0];
    char *path = line + 1;
    char *target = strchr(path, '\t');
    if (target) {
        *target++ = '\0';
    }
    switch (order) {
    case 'L':
        image_tree_begin_layer(tree, path[0] != '-');
        return KELPIE_OK;
    case 'd':
        return add(tree, S_IFDIR | 0755, path, NULL);
    case 's':
        return add(tree, S_IFLNK | 0777, path, target);
    case 'h':
        return target ? image_tree_link(tree, path, target, NULL) : KELPIE_OK;
    case 'c':
        return add(tree, S_IFCHR | 0600, path, NULL);
    default:
        return add(tree, S_IFREG | 0644, path, NULL);
    }
}

static void check_name(const char *name, size_t size) {
    ASSERT(size > 0 && size <= HOST_NAME_SIZE_MAX);
    ASSERT(!memchr(name, '/', size));
    ASSERT(!(size == 1 && name[0] == '.'));
    ASSERT(!(size == 2 && name[0] == '.' && name[1] == '.'));
}

/* Walks all that the root leads to, and counts how often each inode is named. */
static void check_tree(const struct image_tree *tree) {
    uint32_t *names = calloc(image_tree_inode_count(tree), sizeof(*names));
    uint32_t *queue = calloc(image_tree_node_count(tree), sizeof(*queue));
    size_t count = 1; /* the root is the first of the queue */
    ASSERT(names && queue);
    names[image_tree_inode_of(tree, IMAGE_NODE_ROOT)] = 1;
    for (size_t i = 0; i < count; i++) {
        uint32_t *children = NULL;
        size_t child_count = 0;
        uint32_t inode = image_tree_inode_of(tree, queue[i]);
        if ((image_tree_inode(tree, inode)->mode & S_IFMT) != S_IFDIR) {
            continue;
        }
        ASSERT(names[inode] == 1);
        enum kelpie_status status =
            image_tree_children(tree, queue[i], &children, &child_count, NULL);
        ASSERT(status == KELPIE_OK);
        for (size_t j = 0; j < child_count; j++) {
            size_t size = 0;
            size_t last_size = 0;
            const char *name = image_tree_name(tree, children[j], &size);
            const char *last = j > 0 ? image_tree_name(tree, children[j - 1], &last_size) : NULL;
            check_name(name, size);
            ASSERT(!last || last_size != size || memcmp(last, name, size) != 0);
            ASSERT(image_tree_parent_of(tree, children[j]) == queue[i]);
            ASSERT(count < image_tree_node_count(tree));
            names[image_tree_inode_of(tree, children[j])]++;
            queue[count++] = children[j];
        }
        free(children);
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t inode = image_tree_inode_of(tree, queue[i]);
        ASSERT(image_tree_inode(tree, inode)->link_count == names[inode]);
    }
    free(names);
    free(queue);
}

static void check_file_system(struct host *host, const struct image_tree *tree) {
    struct host_wait wait = host_wait_ms(host, 60000, HOST_FD_NONE);
    const struct image_erofs erofs = {tree, HOST_FD_NONE, &wait};
    char digest[IMAGE_DIGEST_SIZE];
    uint64_t size = 0;
    int fd = HOST_FD_NONE;
    if (host_memory_file(host, "fuzz", 0, &fd, NULL) == KELPIE_OK) {
        enum kelpie_status status = image_erofs_write(host, &erofs, fd, &size, digest, NULL);
        ASSERT(status == KELPIE_OK);
        ASSERT(size > 0 && size % 4096 == 0);
        host_close(host, fd);
    }
}

static bool merge(struct image_tree *tree, const uint8_t *data, size_t size) {
    static char line[LINE_SIZE_MAX + 1];
    size_t offset = 0;
    image_tree_begin_layer(tree, true);
    for (size_t i = 0; i < LINE_COUNT_MAX && offset < size; i++) {
        const uint8_t *end = memchr(data + offset, '\n', size - offset);
        size_t length = end ? (size_t)(end - data) - offset : size - offset;
        size_t kept = length < LINE_SIZE_MAX ? length : LINE_SIZE_MAX;
        memcpy(line, data + offset, kept);
        line[kept] = '\0';
        offset += length + 1;
        if (line[0] != '\0' && obey(tree, line) != KELPIE_OK) {
            return false;
        }
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct host *host = NULL;
    struct image_tree *tree = NULL;
    if (host_linux_create(&host, NULL) != KELPIE_OK) {
        return 0;
    }
    if (image_tree_create(host, &tree, NULL) == KELPIE_OK) {
        bool whole = merge(tree, data, size);
        check_tree(tree);
        if (whole) {
            check_file_system(host, tree);
        }
        image_tree_destroy(tree);
    }
    host_destroy(host);
    return 0;
}
