/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Where a path leads. A symbolic link is replaced by its target in the text that is left, so nothing recurs. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"

struct walk {
    struct sim_fs *fs;
    const char *rest;         /* of the path */
    struct sim_inode *folder; /* from which it goes on */
    uint32_t link_count;      /* followed */
    struct sim_place place;
};

/* One part of a path. */
struct part {
    const char *name;
    size_t size;
    const char *behind; /* from its end on */
    bool is_last;
};

static struct part next_part(const char *rest) {
    ASSERT(rest);
    ASSERT(*rest != '\0' && *rest != '/');
    struct part part = {.name = rest, .size = strcspn(rest, "/")};
    part.behind = rest + part.size;
    part.is_last = part.behind[strspn(part.behind, "/")] == '\0';
    return part;
}

static int follow_link(struct walk *walk, const struct sim_inode *link, const char *behind) {
    ASSERT(link->type == HOST_FILE_LINK);
    ASSERT(link->target);
    if (++walk->link_count > SIM_FS_LINK_DEPTH_MAX) {
        return ELOOP;
    }
    size_t target_size = strlen(link->target);
    size_t behind_size = strlen(behind);
    if (target_size + behind_size > HOST_PATH_SIZE_MAX) {
        return ENAMETOOLONG;
    }
    /* The buffer that the text behind the link does not lie in. */
    char *text = walk->fs->paths[walk->link_count % 2];
    memcpy(text, link->target, target_size);
    memcpy(text + target_size, behind, behind_size + 1);
    walk->rest = text;
    if (text[0] == '/') {
        walk->folder = walk->fs->root;
        walk->place = (struct sim_place){.inode = walk->folder};
    }
    return 0;
}

/* Takes one part. *ret_done: it was the last, and the place is found. */
static int step(struct walk *walk, bool follow, bool *ret_done) {
    ASSERT(walk->folder->type == HOST_FILE_FOLDER);
    ASSERT(walk->folder->parent);
    struct part part = next_part(walk->rest);
    if (part.size > HOST_NAME_SIZE_MAX) {
        return ENAMETOOLONG;
    }
    bool is_dots = part.size == 2 && part.name[0] == '.' && part.name[1] == '.';
    if (is_dots || (part.size == 1 && part.name[0] == '.')) {
        walk->folder = is_dots ? walk->folder->parent : walk->folder;
        walk->place = (struct sim_place){.inode = walk->folder};
        walk->rest = part.behind;
        return 0;
    }
    struct sim_inode *inode = sim_folder_get(walk->folder, part.name, part.size);
    bool ends_in_slash = part.is_last && *part.behind == '/';
    if (inode && inode->type == HOST_FILE_LINK && (follow || !part.is_last || ends_in_slash)) {
        return follow_link(walk, inode, part.behind);
    }
    if (part.is_last) {
        walk->place = (struct sim_place){inode, walk->folder, part.name, part.size, ends_in_slash};
        *ret_done = true;
        return ends_in_slash && inode && inode->type != HOST_FILE_FOLDER ? ENOTDIR : 0;
    }
    if (!inode || inode->type != HOST_FILE_FOLDER) {
        return inode ? ENOTDIR : ENOENT;
    }
    walk->folder = inode;
    walk->rest = part.behind;
    return 0;
}

int sim_walk(struct sim_fs *fs, const char *path, bool follow, struct sim_place *ret_place) {
    ASSERT(fs && path);
    ASSERT(ret_place);
    if (*path == '\0') {
        return ENOENT;
    }
    if (strnlen(path, HOST_PATH_SIZE_MAX + 1) > HOST_PATH_SIZE_MAX) {
        return ENAMETOOLONG;
    }
    struct walk walk = {.fs = fs, .rest = path, .folder = fs->root, .place.inode = fs->root};
    bool done = false;
    /* Each step makes the text shorter or follows one of a few links. */
    while (!done) {
        walk.rest += strspn(walk.rest, "/");
        if (*walk.rest == '\0') {
            break;
        }
        int error = step(&walk, follow, &done);
        if (error) {
            return error;
        }
    }
    ASSERT(walk.place.folder || walk.place.inode);
    *ret_place = walk.place;
    return 0;
}
