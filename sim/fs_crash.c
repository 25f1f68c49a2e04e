/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fs_crash.c: what a power loss leaves.
 *
 * THEORY OF OPERATION
 *
 * Names: the log is undone from its end to its start, which gives the folders as they are on the disk. Then each change,
 * in order, is made again or lost, as chance has it. A change is only made if it finds what it found when it was new
 * (its names lead where they led, a folder that goes is empty, a folder into which a file moves can be reached), for no
 * journal writes the one without the other; otherwise it is lost too. So at any time each file has one name at most, and
 * what was on the disk and has only been moved is still there.
 *
 * Bytes: each page that was not synced is the new one, the old one, or made of sectors of both. The length is the new
 * one, the old one, or one between the shortest and the longest since the sync.
 *
 * What is modelled: a name on the disk says nothing about its file's bytes; a file's sync says nothing about its name;
 * a new folder's own name must be synced in the folder above. The disk writes names by itself only when the log is full,
 * the oldest first. Not modelled: what a page held between the last sync and the last write; a sector that is
 * itself torn; a file system that must be repaired; times and modes, which are always on the disk.
 */
#include "sim/fs_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

#define SECTOR_COUNT (SIM_FS_PAGE_SIZE / SIM_FS_SECTOR_SIZE)

struct crashing {
    struct sim_fs *fs;
    struct sim_choices *choices;
    struct sim_fs_crash rates;
    struct sim_fs_crash_counts counts;
};

/* ---- Names ------------------------------------------------------------------------------------ */

static void set_name(const struct sim_half *half, struct sim_inode *inode) {
    ASSERT(half->folder->type == HOST_FILE_FOLDER);
    int error = sim_folder_reserve(half->folder);
    ASSERT(error == 0);
    sim_folder_set(half->folder, half->name, inode);
}

static void undo(struct sim_fs *fs) {
    ASSERT(fs->change_count <= fs->change_capacity);
    for (size_t i = fs->change_count; i-- > 0;) {
        const struct sim_change *change = &fs->changes[i];
        ASSERT(change->half_count > 0);
        for (size_t j = change->half_count; j-- > 0;) {
            set_name(&change->halves[j], change->halves[j].before);
        }
    }
}

/* Does the change find what it found when it was new? */
static bool fits(const struct sim_fs *fs, const struct sim_change *change) {
    ASSERT(change->half_count == 1 || change->half_count == 2);
    for (size_t i = 0; i < change->half_count; i++) {
        const struct sim_half *half = &change->halves[i];
        if (sim_folder_get(half->folder, half->name->text, half->name->size) != half->before) {
            return false;
        }
    }
    const struct sim_half *last = &change->halves[change->half_count - 1];
    if (last->before && last->before->entry_count > 0) {
        return false;
    }
    if (change->half_count == 1) {
        return !last->after || !last->after->parent;
    }
    bool moves = change->halves[0].folder != last->folder;
    ASSERT(last->after && last->after->parent == change->halves[0].folder);
    return !moves || (sim_folder_is_within(last->folder, fs->root) &&
                      !sim_folder_is_within(last->folder, last->after));
}

static void redo(struct crashing *crashing, const struct sim_change *change) {
    struct sim_inode *first = change->halves[0].folder;
    struct sim_inode *second = change->halves[change->half_count - 1].folder;
    bool cut = first->cut || second->cut;
    uint32_t ppm = crashing->rates.lose_name_ppm;
    ASSERT(crashing->rates.reorder_ppm <= SIM_PPM);
    bool happens = cut ? sim_chance(crashing->choices, crashing->rates.reorder_ppm)
                       : !sim_chance(crashing->choices, ppm);
    if (!happens || !fits(crashing->fs, change)) {
        first->cut = true;
        second->cut = true;
        crashing->counts.lost_names++;
        return;
    }
    for (size_t i = 0; i < change->half_count; i++) {
        set_name(&change->halves[i], change->halves[i].after);
    }
    crashing->counts.reordered_names += cut;
    ASSERT(crashing->counts.reordered_names <= crashing->fs->change_count);
}

/* What the root does not lead to is gone, whole folders too. */
static void sweep(struct sim_fs *fs) {
    ASSERT(fs->open_count == 0);
    ASSERT(fs->change_count == 0);
    for (struct sim_inode *inode = fs->first; inode; inode = inode->next) {
        inode->doomed = !sim_folder_is_within(inode, fs->root);
    }
    for (struct sim_inode *inode = fs->first; inode; inode = inode->next) {
        if (!inode->doomed) {
            continue;
        }
        /* A file has one name at most: what a lost folder leads to is lost. */
        for (size_t i = 0; i < inode->entry_count; i++) {
            sim_name_release(inode->entries[i].name);
        }
        inode->entry_count = 0;
        inode->parent = NULL;
    }
    struct sim_inode *inode = fs->first;
    while (inode) {
        struct sim_inode *next = inode->next;
        sim_inode_settle(inode);
        inode = next;
    }
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

static const uint8_t zeros[SIM_FS_PAGE_SIZE];

/* Sectors of either. *ret_bytes: a page of its own. Returns whether it is neither. */
static bool tear(struct crashing *crashing, const uint8_t *old, const uint8_t *new,
                 uint8_t **ret_bytes) {
    uint8_t *bytes = malloc(SIM_FS_PAGE_SIZE);
    ASSERT(bytes);
    ASSERT(old && new);
    uint64_t mask = 1 + sim_choose(crashing->choices, (1u << SECTOR_COUNT) - 2);
    for (size_t i = 0; i < SECTOR_COUNT; i++) {
        size_t start = i * SIM_FS_SECTOR_SIZE;
        memcpy(bytes + start, (mask >> i & 1 ? old : new) + start, SIM_FS_SECTOR_SIZE);
    }
    *ret_bytes = bytes;
    return memcmp(bytes, old, SIM_FS_PAGE_SIZE) != 0 && memcmp(bytes, new, SIM_FS_PAGE_SIZE) != 0;
}

static void crash_page(struct crashing *crashing, struct sim_inode *inode, struct sim_chunk *chunk,
                       uint64_t page) {
    size_t index = (size_t)(page % SIM_CHUNK_PAGE_COUNT);
    uint64_t bit = 1ull << index;
    uint8_t *old = chunk->old[index];
    const uint8_t *new = chunk->pages[index];
    ASSERT(chunk->saved & bit);
    bool loses = sim_chance(crashing->choices, crashing->rates.lose_data_ppm);
    bool tears = !loses && sim_chance(crashing->choices, crashing->rates.tear_data_ppm);
    if (loses) {
        bool differs = memcmp(old ? old : zeros, new ? new : zeros, SIM_FS_PAGE_SIZE) != 0;
        crashing->counts.lost_data += differs;
        sim_page_put(inode, chunk, page, old);
        old = NULL;
    } else if (tears) {
        uint8_t *bytes = NULL;
        crashing->counts.torn_data += tear(crashing, old ? old : zeros, new ? new : zeros, &bytes);
        sim_page_put(inode, chunk, page, bytes);
    }
    if (loses || tears) {
        chunk->bad = (chunk->bad & ~bit) | (chunk->old_bad & bit);
    }
    free(old);
    chunk->old[index] = NULL;
    chunk->saved &= ~bit;
    chunk->dirty &= ~bit;
    chunk->old_bad &= ~bit;
    ASSERT(inode->saved_count > 0);
    inode->saved_count--;
}

static uint64_t crash_size(struct crashing *crashing, const struct sim_inode *inode) {
    ASSERT(inode->size_min <= inode->size && inode->size <= inode->size_max);
    ASSERT(inode->size_min <= inode->durable_size && inode->durable_size <= inode->size_max);
    if (inode->size_min == inode->size_max) {
        return inode->size;
    }
    if (sim_chance(crashing->choices, crashing->rates.lose_data_ppm)) {
        crashing->counts.lost_data += inode->size != inode->durable_size;
        return inode->durable_size;
    }
    if (!sim_chance(crashing->choices, crashing->rates.tear_data_ppm)) {
        return inode->size;
    }
    uint64_t range = inode->size_max - inode->size_min + 1;
    uint64_t size = inode->size_min + sim_choose(crashing->choices, range);
    crashing->counts.torn_data += size != inode->size && size != inode->durable_size;
    return size;
}

/* What lies behind the length that was left is no part of the file: old pages of a longer one. */
static void cut_tail(struct sim_inode *inode) {
    uint64_t page = inode->size / SIM_FS_PAGE_SIZE;
    size_t start = (size_t)(inode->size % SIM_FS_PAGE_SIZE);
    const struct sim_chunk *chunk = sim_chunk_find(inode, page);
    uint8_t *bytes = chunk ? chunk->pages[page % SIM_CHUNK_PAGE_COUNT] : NULL;
    ASSERT(inode->saved_count == 0);
    if (start > 0 && bytes) {
        memset(bytes + start, 0, SIM_FS_PAGE_SIZE - start);
    }
    for (uint64_t i = page + (start > 0); i < inode->chunk_count * SIM_CHUNK_PAGE_COUNT; i++) {
        struct sim_chunk *behind = sim_chunk_find(inode, i);
        if (behind && (behind->data >> (i % SIM_CHUNK_PAGE_COUNT) & 1)) {
            sim_page_put(inode, behind, i, NULL);
        }
        if (behind) {
            behind->bad &= ~(1ull << (i % SIM_CHUNK_PAGE_COUNT));
        }
    }
}

static void crash_file(struct crashing *crashing, struct sim_inode *inode) {
    ASSERT(inode->map_count == 0 && inode->exposed_size == 0);
    ASSERT(!inode->in_memory);
    inode->lock_count = 0;
    if (inode->saved_count == 0 && inode->size_min == inode->size_max) {
        return;
    }
    for (size_t i = 0; i < inode->chunk_count; i++) {
        struct sim_chunk *chunk = inode->chunks[i];
        for (uint64_t left = chunk ? chunk->saved : 0; left != 0; left &= left - 1) {
            crash_page(crashing, inode, chunk,
                       i * SIM_CHUNK_PAGE_COUNT + (uint64_t)__builtin_ctzll(left));
        }
    }
    inode->size = crash_size(crashing, inode);
    cut_tail(inode);
    inode->durable_size = inode->size;
    inode->size_min = inode->size;
    inode->size_max = inode->size;
    inode->size_dirty = false;
    inode->dirty_start = 0;
    inode->dirty_end = 0;
}

void sim_fs_crash(struct sim_fs *fs, struct sim_choices *choices, const struct sim_fs_crash *crash,
                  struct sim_fs_crash_counts *ret_counts) {
    ASSERT(fs && choices && crash && ret_counts);
    ASSERT(fs->open_count == 0);
    struct crashing crashing = {.fs = fs, .choices = choices, .rates = *crash};
    for (struct sim_inode *inode = fs->first; inode; inode = inode->next) {
        inode->cut = false;
    }
    undo(fs);
    for (size_t i = 0; i < fs->change_count; i++) {
        redo(&crashing, &fs->changes[i]);
    }
    sim_fs_forget_changes(fs);
    sweep(fs);
    for (struct sim_inode *inode = fs->first; inode; inode = inode->next) {
        if (inode->type == HOST_FILE_REGULAR) {
            crash_file(&crashing, inode);
        }
    }
    sim_fs_assert_valid(fs);
    *ret_counts = crashing.counts;
}
