/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What fs.h does with names: each function walks, looks what Linux would refuse, and makes one change of the log. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* The name that a place has in its folder leads to `after`. */
static int change_place(struct sim_fs *fs, const struct sim_place *place, struct sim_inode *after) {
    ASSERT(place->folder);
    ASSERT(place->inode || after);
    if (!place->inode && place->folder->entry_count >= SIM_FS_FOLDER_ENTRY_COUNT_MAX) {
        return ENOSPC;
    }
    struct sim_name *name = sim_name_create(place->name, place->name_size);
    if (!name) {
        return ENOMEM;
    }
    struct sim_half half = {place->folder, name, place->inode, after};
    int error = sim_fs_change(fs, &half, 1);
    sim_name_release(name);
    return error;
}

/* Is there room for an inode, and for `size` bytes of it? */
static int check_room(const struct sim_fs *fs, uint64_t size) {
    ASSERT(fs);
    ASSERT(size <= SIM_FS_PAGE_SIZE);
    bool is_full = fs->used + size > fs->capacity && size > 0;
    return is_full || fs->inode_count >= SIM_FS_INODE_COUNT_MAX ? ENOSPC : 0;
}

/* A new inode at a place, where nothing is, with a reference more if ret_inode. The target is given away. */
static int make(struct sim_fs *fs, const struct sim_place *place, struct sim_inode model,
                struct sim_inode **ret_inode) {
    ASSERT(!place->inode);
    ASSERT((model.type == HOST_FILE_LINK) == (model.target != NULL));
    int error = check_room(fs, model.type == HOST_FILE_FOLDER ? SIM_FS_PAGE_SIZE : 0);
    struct sim_inode *inode = error ? NULL : sim_inode_create(fs, model.type, model.mode);
    if (!inode) {
        free(model.target);
        return error ? error : ENOMEM;
    }
    inode->target = model.target;
    error = change_place(fs, place, inode);
    if (!error && ret_inode) {
        sim_inode_open(inode);
        *ret_inode = inode;
    }
    if (error) {
        sim_inode_settle(inode);
    }
    return error;
}

static int open_unnamed(struct sim_fs *fs, const struct sim_inode *folder, uint32_t mode,
                        struct sim_inode **ret_inode) {
    ASSERT(ret_inode);
    if (!folder || folder->type != HOST_FILE_FOLDER) {
        return folder ? ENOTDIR : ENOENT;
    }
    int error = check_room(fs, 0);
    if (error) {
        return error;
    }
    struct sim_inode *inode = sim_inode_create(fs, HOST_FILE_REGULAR, mode);
    if (!inode) {
        return ENOMEM;
    }
    sim_inode_open(inode);
    ASSERT(!inode->parent && inode->open_count == 1);
    *ret_inode = inode;
    return 0;
}

static int open_existing(struct sim_inode *inode, uint32_t flags, struct sim_inode **ret_inode) {
    ASSERT(inode);
    if ((flags & HOST_OPEN_CREATE) && (flags & HOST_OPEN_EXCLUSIVE)) {
        return EEXIST;
    }
    switch (inode->type) {
    case HOST_FILE_LINK:
        return ELOOP;
    case HOST_FILE_OTHER:
        return ENXIO;
    case HOST_FILE_FOLDER:
        if (flags & (HOST_OPEN_WRITE | HOST_OPEN_TRUNCATE | HOST_OPEN_CREATE)) {
            return EISDIR;
        }
        break;
    case HOST_FILE_REGULAR:
        break;
    }
    int error = flags & HOST_OPEN_TRUNCATE ? sim_inode_truncate(inode, 0) : 0;
    if (error) {
        return error;
    }
    sim_inode_open(inode);
    *ret_inode = inode;
    return 0;
}

int sim_fs_open(struct sim_fs *fs, const char *path, uint32_t flags, uint32_t mode,
                struct sim_inode **ret_inode) {
    ASSERT(fs && path && ret_inode);
    ASSERT(flags & (HOST_OPEN_READ | HOST_OPEN_WRITE));
    bool is_new = (flags & HOST_OPEN_CREATE) && (flags & HOST_OPEN_EXCLUSIVE);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, !is_new && !(flags & HOST_OPEN_NO_FOLLOW), &place);
    if (error) {
        return error;
    }
    if (flags & HOST_OPEN_UNNAMED) {
        return open_unnamed(fs, place.inode, mode, ret_inode);
    }
    if (place.inode) {
        return open_existing(place.inode, flags, ret_inode);
    }
    if (!(flags & HOST_OPEN_CREATE)) {
        return ENOENT;
    }
    if (place.ends_in_slash) {
        return EISDIR;
    }
    return make(fs, &place, (struct sim_inode){.type = HOST_FILE_REGULAR, .mode = mode}, ret_inode);
}

int sim_fs_link(struct sim_fs *fs, struct sim_inode *inode, const char *path) {
    ASSERT(fs && path);
    ASSERT(inode && inode->fs == fs && inode->open_count > 0);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, false, &place);
    if (error) {
        return error;
    }
    if (place.inode) {
        return EEXIST;
    }
    if (inode->in_memory) {
        return EXDEV;
    }
    if (inode->was_named || inode->type != HOST_FILE_REGULAR || place.ends_in_slash) {
        return ENOENT;
    }
    return change_place(fs, &place, inode);
}

/* A path at which nothing is yet. */
static int walk_to_new(struct sim_fs *fs, const char *path, struct sim_place *ret_place) {
    ASSERT(fs && path);
    ASSERT(ret_place);
    int error = sim_walk(fs, path, false, ret_place);
    if (error == ENOTDIR) {
        return error;
    }
    return !error && ret_place->inode ? EEXIST : error;
}

int sim_fs_mkdir(struct sim_fs *fs, const char *path, uint32_t mode) {
    ASSERT(fs && path);
    struct sim_place place = {0};
    int error = walk_to_new(fs, path, &place);
    if (error) {
        return error;
    }
    ASSERT(place.folder);
    return make(fs, &place, (struct sim_inode){.type = HOST_FILE_FOLDER, .mode = mode}, NULL);
}

int sim_fs_socket(struct sim_fs *fs, const char *path, uint32_t mode) {
    ASSERT(fs && path);
    struct sim_place place = {0};
    int error = walk_to_new(fs, path, &place);
    if (error || place.ends_in_slash) {
        return error ? error : ENOENT;
    }
    ASSERT(place.folder);
    return make(fs, &place, (struct sim_inode){.type = HOST_FILE_OTHER, .mode = mode}, NULL);
}

int sim_fs_symlink(struct sim_fs *fs, const char *target, const char *path) {
    ASSERT(fs && path);
    ASSERT(target);
    size_t size = strnlen(target, HOST_PATH_SIZE_MAX + 1);
    if (size == 0 || size > HOST_PATH_SIZE_MAX) {
        return size ? ENAMETOOLONG : ENOENT;
    }
    struct sim_place place = {0};
    int error = walk_to_new(fs, path, &place);
    if (error || place.ends_in_slash) {
        return error ? error : ENOENT;
    }
    struct sim_inode model = {.type = HOST_FILE_LINK, .mode = 0777, .target = strdup(target)};
    return model.target ? make(fs, &place, model, NULL) : ENOMEM;
}

int sim_fs_unlink(struct sim_fs *fs, const char *path) {
    ASSERT(fs && path);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, false, &place);
    if (error) {
        return error;
    }
    if (!place.inode) {
        return ENOENT;
    }
    if (place.inode->type == HOST_FILE_FOLDER) {
        return EISDIR;
    }
    ASSERT(place.folder && !place.ends_in_slash);
    return change_place(fs, &place, NULL);
}

int sim_fs_rmdir(struct sim_fs *fs, const char *path) {
    ASSERT(fs && path);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, false, &place);
    if (error) {
        return error;
    }
    if (!place.inode) {
        return ENOENT;
    }
    if (place.inode->type != HOST_FILE_FOLDER) {
        return ENOTDIR;
    }
    if (!place.folder) {
        return place.inode == fs->root ? EBUSY : EINVAL;
    }
    ASSERT(place.inode != fs->root);
    return place.inode->entry_count > 0 ? ENOTEMPTY : change_place(fs, &place, NULL);
}

/* What rename(2) refuses. *ret_same: both are the same already. */
static int check_rename(const struct sim_place *from, const struct sim_place *to, bool replace) {
    ASSERT(from->inode && from->folder);
    if (!to->folder) {
        return replace ? EBUSY : EEXIST;
    }
    if (to->inode && !replace) {
        return EEXIST;
    }
    bool is_folder = from->inode->type == HOST_FILE_FOLDER;
    if (!is_folder && (from->ends_in_slash || to->ends_in_slash)) {
        return ENOTDIR;
    }
    if (is_folder && sim_folder_is_within(to->folder, from->inode)) {
        return EINVAL;
    }
    if (!to->inode || to->inode == from->inode) {
        bool is_full = to->folder->entry_count >= SIM_FS_FOLDER_ENTRY_COUNT_MAX;
        return !to->inode && is_full ? ENOSPC : 0;
    }
    bool onto_folder = to->inode->type == HOST_FILE_FOLDER;
    if (onto_folder && sim_folder_is_within(from->folder, to->inode)) {
        return ENOTEMPTY;
    }
    if (is_folder != onto_folder) {
        return is_folder ? ENOTDIR : EISDIR;
    }
    ASSERT(!onto_folder || to->inode != to->inode->fs->root);
    return onto_folder && to->inode->entry_count > 0 ? ENOTEMPTY : 0;
}

int sim_fs_rename(struct sim_fs *fs, const char *from, const char *to, bool replace) {
    ASSERT(fs);
    ASSERT(from && to);
    struct sim_place places[2] = {0};
    int error = sim_walk(fs, from, false, &places[0]);
    if (error) {
        return error;
    }
    if (!places[0].folder || !places[0].inode) {
        return places[0].folder ? ENOENT : EBUSY;
    }
    struct sim_name *names[2] = {sim_name_create(places[0].name, places[0].name_size)};
    if (!names[0]) {
        return ENOMEM;
    }
    /* The first place's name lay in the text of its walk: from here on it is the copy's. */
    error = sim_walk(fs, to, false, &places[1]);
    error = error ? error : check_rename(&places[0], &places[1], replace);
    if (!error && places[0].inode != places[1].inode) {
        names[1] = sim_name_create(places[1].name, places[1].name_size);
        struct sim_half halves[2] = {
            {places[0].folder, names[0], places[0].inode, NULL},
            {places[1].folder, names[1], places[1].inode, places[0].inode}};
        error = names[1] ? sim_fs_change(fs, halves, 2) : ENOMEM;
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (names[i]) {
            sim_name_release(names[i]);
        }
    }
    return error;
}

int sim_fs_readlink(struct sim_fs *fs, const char *path, char *buffer, size_t size) {
    ASSERT(fs && path);
    ASSERT(buffer && size > 0);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, false, &place);
    if (error) {
        return error;
    }
    if (!place.inode || place.inode->type != HOST_FILE_LINK) {
        return place.inode ? EINVAL : ENOENT;
    }
    size_t target_size = strlen(place.inode->target);
    if (target_size >= size) {
        return ERANGE;
    }
    memcpy(buffer, place.inode->target, target_size + 1);
    return 0;
}

int sim_fs_stat(struct sim_fs *fs, const char *path, struct host_file_info *ret_info) {
    ASSERT(fs && path);
    ASSERT(ret_info);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, false, &place);
    if (error) {
        return error;
    }
    if (!place.inode) {
        return ENOENT;
    }
    sim_inode_stat(place.inode, ret_info);
    return 0;
}

/* A folder that is there, also by a link. */
static int walk_to_folder(struct sim_fs *fs, const char *path, struct sim_inode **ret_folder) {
    ASSERT(fs && path);
    ASSERT(ret_folder);
    struct sim_place place = {0};
    int error = sim_walk(fs, path, true, &place);
    if (error) {
        return error;
    }
    if (!place.inode || place.inode->type != HOST_FILE_FOLDER) {
        return place.inode ? ENOTDIR : ENOENT;
    }
    *ret_folder = place.inode;
    return 0;
}

static void entry_copy(const struct sim_name *name, struct host_dir_entry *ret_entry) {
    ASSERT(name);
    ASSERT(name->size < sizeof(ret_entry->name));
    memcpy(ret_entry->name, name->text, name->size);
    ret_entry->name[name->size] = '\0';
}

int sim_fs_list(struct sim_fs *fs, const char *path, struct host_dir_entry *entries,
                size_t capacity, size_t *ret_count) {
    ASSERT(fs && path);
    ASSERT(ret_count && (entries || capacity == 0));
    struct sim_inode *folder = NULL;
    int error = walk_to_folder(fs, path, &folder);
    if (error) {
        return error;
    }
    if (folder->entry_count > capacity) {
        return ERANGE;
    }
    for (size_t i = 0; i < folder->entry_count; i++) {
        entry_copy(folder->entries[i].name, &entries[i]);
    }
    *ret_count = folder->entry_count;
    return 0;
}

int sim_fs_first(struct sim_fs *fs, const char *path, struct host_dir_entry *ret_entry) {
    ASSERT(fs && path);
    ASSERT(ret_entry);
    struct sim_inode *folder = NULL;
    int error = walk_to_folder(fs, path, &folder);
    if (error) {
        return error;
    }
    if (folder->entry_count == 0) {
        return ENODATA;
    }
    entry_copy(folder->entries[0].name, ret_entry);
    return 0;
}

/* The name by which its parent leads to it. */
static const struct sim_name *name_of(const struct sim_inode *folder) {
    const struct sim_inode *parent = folder->parent;
    ASSERT(parent && parent != folder);
    for (size_t i = 0; i < parent->entry_count; i++) {
        if (parent->entries[i].inode == folder) {
            return parent->entries[i].name;
        }
    }
    UNREACHABLE();
}

/* From its end to its beginning. */
int sim_fs_path_of(const struct sim_inode *folder, char *buffer, size_t size) {
    ASSERT(folder->type == HOST_FILE_FOLDER);
    ASSERT(buffer && size > 1);
    size_t start = size - 1;
    buffer[start] = '\0';
    while (folder->parent && folder->parent != folder) {
        const struct sim_name *name = name_of(folder);
        if (name->size + 1 > start) {
            return ENAMETOOLONG;
        }
        start -= name->size;
        memcpy(buffer + start, name->text, name->size);
        buffer[--start] = '/';
        folder = folder->parent;
    }
    if (!folder->parent) {
        return ENOENT;
    }
    if (buffer[start] == '\0') {
        buffer[--start] = '/';
    }
    memmove(buffer, buffer + start, size - start);
    return 0;
}

int sim_fs_sync_folder(struct sim_fs *fs, const char *path) {
    ASSERT(fs && path);
    struct sim_inode *folder = NULL;
    int error = walk_to_folder(fs, path, &folder);
    if (error) {
        return error;
    }
    ASSERT(folder->parent);
    sim_folder_sync(folder);
    return 0;
}
