/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders, and the log of their changes that are not on the disk. fs_internal.h says how it works. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

#define ENTRY_CAPACITY_FIRST 8u
#define CHANGE_CAPACITY_FIRST 16u

struct sim_name *sim_name_create(const char *text, size_t size) {
    ASSERT(text);
    ASSERT(size > 0 && size <= HOST_NAME_SIZE_MAX);
    struct sim_name *name = malloc(sizeof(*name) + size);
    if (!name) {
        return NULL;
    }
    *name = (struct sim_name){.owner_count = 1, .size = (uint32_t)size};
    memcpy(name->text, text, size);
    return name;
}

static struct sim_name *name_share(struct sim_name *name) {
    ASSERT(name->owner_count > 0);
    ASSERT(name->owner_count < UINT32_MAX);
    name->owner_count++;
    return name;
}

void sim_name_release(struct sim_name *name) {
    ASSERT(name);
    ASSERT(name->owner_count > 0);
    if (--name->owner_count == 0) {
        free(name);
    }
}

/* ---- Folders ---------------------------------------------------------------------------------- */

static int compare(const struct sim_name *name, const char *text, size_t size) {
    int order = memcmp(name->text, text, min_size(name->size, size));
    return order ? order : (name->size > size) - (name->size < size);
}

/* Where the name is or would be. */
static size_t find(const struct sim_inode *folder, const char *name, size_t size, bool *ret_found) {
    ASSERT(folder->type == HOST_FILE_FOLDER);
    ASSERT(size > 0);
    size_t start = 0;
    size_t end = folder->entry_count;
    *ret_found = false;
    while (start < end && !*ret_found) {
        size_t middle = start + (end - start) / 2;
        int order = compare(folder->entries[middle].name, name, size);
        *ret_found = order == 0;
        start = order < 0 ? middle + 1 : start;
        end = order < 0 ? end : middle;
    }
    return *ret_found ? end : start;
}

struct sim_inode *sim_folder_get(const struct sim_inode *folder, const char *name, size_t size) {
    ASSERT(folder && name);
    bool found = false;
    size_t index = find(folder, name, size, &found);
    ASSERT(index <= folder->entry_count);
    return found ? folder->entries[index].inode : NULL;
}

int sim_folder_reserve(struct sim_inode *folder) {
    ASSERT(folder->type == HOST_FILE_FOLDER);
    ASSERT(folder->entry_count <= folder->entry_capacity);
    if (folder->entry_count < folder->entry_capacity) {
        return 0;
    }
    size_t capacity = folder->entry_capacity ? folder->entry_capacity * 2 : ENTRY_CAPACITY_FIRST;
    struct sim_entry *entries = realloc(folder->entries, capacity * sizeof(*entries));
    if (!entries) {
        return ENOMEM;
    }
    folder->entries = entries;
    folder->entry_capacity = capacity;
    return 0;
}

void sim_folder_set(struct sim_inode *folder, struct sim_name *name, struct sim_inode *inode) {
    ASSERT(folder && name);
    ASSERT(!inode || !inode->parent);
    bool found = false;
    size_t index = find(folder, name->text, name->size, &found);
    struct sim_entry *entry = folder->entries + index;
    size_t behind = (folder->entry_count - index) * sizeof(*entry);
    if (found) {
        ASSERT(entry->inode->parent == folder);
        entry->inode->parent = NULL;
    }
    if (found && inode) {
        entry->inode = inode;
    } else if (found) {
        sim_name_release(entry->name);
        memmove(entry, entry + 1, behind - sizeof(*entry));
        folder->entry_count--;
    } else if (inode) {
        ASSERT(folder->entry_count < folder->entry_capacity);
        memmove(entry + 1, entry, behind);
        *entry = (struct sim_entry){name_share(name), inode};
        folder->entry_count++;
    }
    if (inode) {
        inode->parent = folder;
    }
}

bool sim_folder_is_within(const struct sim_inode *inner, const struct sim_inode *outer) {
    ASSERT(inner && outer);
    /* No folder is in itself, so the way up ends: at the root, or where there is no name. */
    while (inner && inner != outer) {
        inner = inner == inner->fs->root ? NULL : inner->parent;
    }
    ASSERT(!inner || inner == outer);
    return inner;
}

/* ---- The log ---------------------------------------------------------------------------------- */

static bool touches(const struct sim_change *change, const struct sim_inode *folder) {
    ASSERT(change->half_count == 1 || change->half_count == 2);
    ASSERT(folder->type == HOST_FILE_FOLDER);
    return change->halves[0].folder == folder ||
           change->halves[change->half_count - 1].folder == folder;
}

static void pin(struct sim_inode *inode) {
    if (inode) {
        ASSERT(inode->pin_count < UINT32_MAX);
        inode->pin_count++;
    }
}

static void unpin(struct sim_inode *inode) {
    if (inode) {
        ASSERT(inode->pin_count > 0);
        inode->pin_count--;
    }
}

static void change_forget(struct sim_change *change, bool settles) {
    for (size_t i = 0; i < change->half_count; i++) {
        struct sim_half *half = &change->halves[i];
        struct sim_inode *inodes[] = {half->folder, half->before, half->after};
        sim_name_release(half->name);
        for (size_t j = 0; j < ARRAY_SIZE(inodes); j++) {
            unpin(inodes[j]);
            if (inodes[j] && settles) {
                sim_inode_settle(inodes[j]);
            }
        }
    }
}

void sim_fs_forget_changes(struct sim_fs *fs) {
    ASSERT(fs);
    ASSERT(fs->change_count <= fs->change_capacity);
    for (size_t i = 0; i < fs->change_count; i++) {
        change_forget(&fs->changes[i], false);
    }
    fs->change_count = 0;
}

/* The first `count` changes, and those of the folder (NULL: none), are on the disk. */
static void commit(struct sim_fs *fs, size_t count, const struct sim_inode *folder) {
    ASSERT(count <= fs->change_count);
    size_t kept = 0;
    for (size_t i = 0; i < fs->change_count; i++) {
        struct sim_change change = fs->changes[i];
        if (i < count || (folder && touches(&change, folder))) {
            change_forget(&change, true);
        } else {
            fs->changes[kept++] = change;
        }
    }
    ASSERT(kept <= fs->change_count - count);
    fs->change_count = kept;
}

void sim_folder_sync(struct sim_inode *folder) {
    ASSERT(folder->type == HOST_FILE_FOLDER);
    ASSERT(folder->counted);
    struct sim_fs *fs = folder->fs;
    size_t first_count = 0;
    for (size_t i = 0; i < fs->change_count; i++) {
        if (fs->changes[i].wide && touches(&fs->changes[i], folder)) {
            first_count = i + 1;
        }
    }
    commit(fs, first_count, folder);
}

static int changes_reserve(struct sim_fs *fs) {
    ASSERT(fs->change_count <= SIM_FS_CHANGE_COUNT_MAX);
    ASSERT(fs->change_count <= fs->change_capacity);
    if (fs->change_count == SIM_FS_CHANGE_COUNT_MAX) {
        commit(fs, SIM_FS_CHANGE_COUNT_MAX / 2, NULL);
    }
    if (fs->change_count < fs->change_capacity) {
        return 0;
    }
    size_t capacity = fs->change_capacity ? fs->change_capacity * 2 : CHANGE_CAPACITY_FIRST;
    struct sim_change *changes = realloc(fs->changes, capacity * sizeof(*changes));
    if (!changes) {
        return ENOMEM;
    }
    fs->changes = changes;
    fs->change_capacity = capacity;
    return 0;
}

int sim_fs_change(struct sim_fs *fs, const struct sim_half *halves, size_t half_count) {
    ASSERT(fs && halves);
    ASSERT(half_count == 1 || half_count == 2);
    const struct sim_half *last = &halves[half_count - 1];
    int error = sim_folder_reserve(last->folder);
    error = error ? error : changes_reserve(fs);
    if (error) {
        return error;
    }
    struct sim_change *change = &fs->changes[fs->change_count++];
    *change = (struct sim_change){.half_count = half_count};
    change->wide = halves[0].folder != last->folder ||
                   (last->before && last->before->type == HOST_FILE_FOLDER);
    for (size_t i = 0; i < half_count; i++) {
        struct sim_half half = halves[i];
        ASSERT(sim_folder_get(half.folder, half.name->text, half.name->size) == half.before);
        change->halves[i] = half;
        name_share(half.name);
        pin(half.folder);
        pin(half.before);
        pin(half.after);
        sim_folder_set(half.folder, half.name, half.after);
        half.folder->modified_ns = fs->now_ns;
    }
    for (size_t i = 0; i < half_count; i++) {
        if (halves[i].after) {
            halves[i].after->was_named = true;
            sim_inode_settle(halves[i].after);
        }
        if (halves[i].before) {
            sim_inode_settle(halves[i].before);
        }
    }
    return 0;
}
