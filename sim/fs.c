/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated file system as a whole, and the life of its inodes. fs_internal.h says how it works. */
#include "sim/fs_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define ROOT_MODE 0755u
#define DISK_DEVICE 1u
#define MEMORY_DEVICE 2u

struct sim_fs *sim_fs_create(uint64_t capacity) {
    struct sim_fs *fs = calloc(1, sizeof(*fs));
    if (!fs) {
        return NULL;
    }
    fs->capacity = capacity;
    fs->next_number = 1;
    fs->root = sim_inode_create(fs, HOST_FILE_FOLDER, ROOT_MODE);
    if (!fs->root) {
        free(fs);
        return NULL;
    }
    fs->root->parent = fs->root;
    sim_inode_settle(fs->root);
    ASSERT(fs->inode_count == 1);
    ASSERT(fs->used == 0);
    return fs;
}

static void inode_free(struct sim_inode *inode) {
    ASSERT(inode);
    for (size_t i = 0; i < inode->entry_count; i++) {
        sim_name_release(inode->entries[i].name);
    }
    free(inode->entries);
    free(inode->target);
    free(inode->locks);
    sim_pages_free(inode);
    ASSERT(!inode->chunks && !inode->arena);
    free(inode);
}

void sim_fs_destroy(struct sim_fs *fs) {
    if (!fs) {
        return;
    }
    ASSERT(fs->root);
    sim_fs_forget_changes(fs);
    struct sim_inode *inode = fs->first;
    while (inode) {
        struct sim_inode *next = inode->next;
        inode_free(inode);
        inode = next;
    }
    ASSERT(fs->change_count == 0);
    free(fs->changes);
    free(fs);
}

void sim_fs_set_time(struct sim_fs *fs, uint64_t realtime_ns) {
    ASSERT(fs);
    ASSERT(fs->root);
    fs->now_ns = realtime_ns;
}

uint64_t sim_fs_used(const struct sim_fs *fs) {
    ASSERT(fs);
    ASSERT(fs->used % SIM_FS_PAGE_SIZE == 0);
    return fs->used;
}

void sim_fs_set_capacity(struct sim_fs *fs, uint64_t capacity) {
    ASSERT(fs);
    ASSERT(fs->root);
    fs->capacity = capacity;
}

size_t sim_fs_inode_count(const struct sim_fs *fs) {
    ASSERT(fs);
    ASSERT(fs->inode_count > 0);
    return fs->inode_count;
}

size_t sim_fs_open_count(const struct sim_fs *fs) {
    ASSERT(fs);
    ASSERT(fs->root);
    return fs->open_count;
}

/* ---- Inodes ----------------------------------------------------------------------------------- */

struct sim_inode *sim_inode_create(struct sim_fs *fs, enum host_file_type type, uint32_t mode) {
    ASSERT(fs);
    ASSERT(fs->next_number > 0);
    struct sim_inode *inode = calloc(1, sizeof(*inode));
    if (!inode) {
        return NULL;
    }
    inode->fs = fs;
    inode->number = fs->next_number++;
    inode->modified_ns = fs->now_ns;
    inode->type = type;
    inode->mode = mode & 07777u;
    inode->previous = fs->last;
    if (fs->last) {
        fs->last->next = inode;
    } else {
        fs->first = inode;
    }
    fs->last = inode;
    return inode;
}

struct sim_inode *sim_inode_create_memory(struct sim_fs *fs, uint64_t size) {
    ASSERT(fs);
    ASSERT(fs->root);
    bool fits = size <= SIM_FS_FILE_SIZE_MAX;
    struct sim_inode *inode = fits ? sim_inode_create(fs, HOST_FILE_REGULAR, 0777) : NULL;
    if (!inode) {
        return NULL;
    }
    inode->in_memory = true;
    inode->size = size;
    sim_inode_open(inode);
    return inode;
}

static void unlist(struct sim_inode *inode) {
    struct sim_fs *fs = inode->fs;
    ASSERT(inode != fs->root);
    ASSERT(fs->first && fs->last);
    if (inode->previous) {
        inode->previous->next = inode->next;
    } else {
        fs->first = inode->next;
    }
    if (inode->next) {
        inode->next->previous = inode->previous;
    } else {
        fs->last = inode->previous;
    }
}

/* The root is there before anything is: it takes no room. */
uint64_t sim_inode_used(const struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->type == HOST_FILE_REGULAR || inode->page_count == 0);
    if (inode->in_memory || inode == inode->fs->root) {
        return 0;
    }
    return inode->type == HOST_FILE_FOLDER ? SIM_FS_PAGE_SIZE
                                           : inode->page_count * SIM_FS_PAGE_SIZE;
}

void sim_inode_settle(struct sim_inode *inode) {
    ASSERT(inode);
    struct sim_fs *fs = inode->fs;
    bool counts = inode->parent || inode->open_count > 0;
    if (counts && !inode->counted) {
        fs->inode_count++;
        fs->used += sim_inode_used(inode);
    }
    if (!counts && inode->counted) {
        ASSERT(fs->inode_count > 0);
        ASSERT(fs->used >= sim_inode_used(inode));
        fs->inode_count--;
        fs->used -= sim_inode_used(inode);
    }
    inode->counted = counts;
    if (!counts && inode->pin_count == 0) {
        unlist(inode);
        inode_free(inode);
    }
}

void sim_inode_open(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->open_count < UINT32_MAX);
    inode->open_count++;
    inode->fs->open_count++;
    sim_inode_settle(inode);
}

void sim_inode_share(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->open_count > 0);
    sim_inode_open(inode);
}

void sim_inode_release(struct sim_inode *inode) {
    ASSERT(inode);
    ASSERT(inode->open_count > 0 && inode->fs->open_count > 0);
    inode->open_count--;
    inode->fs->open_count--;
    sim_inode_settle(inode);
}

static uint64_t size_shown(const struct sim_inode *inode) {
    ASSERT(inode);
    switch (inode->type) {
    case HOST_FILE_FOLDER:
        return SIM_FS_PAGE_SIZE;
    case HOST_FILE_LINK:
        ASSERT(inode->target);
        return strlen(inode->target);
    case HOST_FILE_REGULAR:
    case HOST_FILE_OTHER:
        break;
    }
    return inode->size;
}

void sim_inode_stat(const struct sim_inode *inode, struct host_file_info *ret_info) {
    ASSERT(inode);
    ASSERT(ret_info);
    *ret_info = (struct host_file_info){
        .type = inode->type,
        .mode = inode->mode,
        .uid = SIM_USER_ID,
        .size = size_shown(inode),
        .allocated_size =
            inode->in_memory ? inode->page_count * SIM_FS_PAGE_SIZE : sim_inode_used(inode),
        .modified_ns = inode->modified_ns,
        .inode = inode->number,
        .device = inode->in_memory ? MEMORY_DEVICE : DISK_DEVICE,
    };
}

/* ---- What must hold --------------------------------------------------------------------------- */

static void assert_folder_valid(const struct sim_inode *folder) {
    ASSERT(folder->type == HOST_FILE_FOLDER || folder->entry_count == 0);
    ASSERT(folder->entry_count <= folder->entry_capacity);
    for (size_t i = 0; i < folder->entry_count; i++) {
        const struct sim_entry *entry = &folder->entries[i];
        ASSERT(entry->inode && entry->inode->parent == folder);
        ASSERT(sim_folder_get(folder, entry->name->text, entry->name->size) == entry->inode);
    }
}

static void assert_pages_valid(const struct sim_inode *inode) {
    uint64_t page_count = 0;
    uint64_t saved_count = 0;
    for (size_t i = 0; i < inode->chunk_count; i++) {
        const struct sim_chunk *chunk = inode->chunks[i];
        if (!chunk) {
            continue;
        }
        ASSERT((chunk->dirty & ~chunk->saved) == 0);
        ASSERT((chunk->old_bad & ~chunk->saved) == 0);
        page_count += (uint64_t)__builtin_popcountll(chunk->data);
        saved_count += (uint64_t)__builtin_popcountll(chunk->saved);
        for (size_t j = 0; j < SIM_CHUNK_PAGE_COUNT; j++) {
            ASSERT(!chunk->pages[j] == !(chunk->data >> j & 1));
            ASSERT(!chunk->old[j] || (chunk->saved >> j & 1));
        }
    }
    ASSERT(page_count == inode->page_count);
    ASSERT(saved_count == inode->saved_count);
}

void sim_fs_assert_valid(const struct sim_fs *fs) {
    ASSERT(fs);
    uint64_t used = 0;
    size_t counted = 0;
    size_t open_count = 0;
    size_t named = 1; /* the root */
    size_t entries = 0;
    for (const struct sim_inode *inode = fs->first; inode; inode = inode->next) {
        ASSERT(inode->fs == fs);
        ASSERT(inode->counted == (inode->parent || inode->open_count > 0));
        ASSERT(inode->counted || inode->pin_count > 0);
        ASSERT(!inode->parent || sim_folder_is_within(inode->parent, fs->root));
        used += inode->counted ? sim_inode_used(inode) : 0;
        counted += inode->counted;
        open_count += inode->open_count;
        named += inode->parent && inode != fs->root;
        entries += inode->entry_count;
        assert_folder_valid(inode);
        assert_pages_valid(inode);
    }
    ASSERT(used == fs->used);
    ASSERT(counted == fs->inode_count);
    ASSERT(open_count == fs->open_count);
    ASSERT(named == entries + 1);
}
