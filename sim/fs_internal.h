/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fs_internal.h: what the files of the simulated file system share. fs.h has its contract.
 *
 * THEORY OF OPERATION
 *
 * Bytes. A file is a directory of chunks of 64 pages; a page that nobody wrote is a hole and takes no memory. The first
 * write to a page after a sync puts its old bytes aside (sim_chunk.old), and a sync throws them away. A failed sync keeps
 * them and forgets that the page is dirty: only another write to that page makes it dirty again. A mapped file has its
 * pages in one piece of memory (the arena), which does not move as long as it is mapped.
 *
 * Names. Folders show what is seen. The file system has one log of the changes that are not on the disk, each with what
 * its names led to before. A sync of a folder takes that folder's changes out of the log. A change that touches a second
 * folder (a rename between two, the removal of one) takes everything before it along, as a journal does, so that what is
 * on the disk is a state that could have been seen. A crash undoes the whole log, and then does a part of it again.
 *
 * Inodes. A file has at most one name, so its folder is its count of links. An inode lives as long as it has a name, is
 * open, or stands in the log: the latter alone is a ghost, which takes no room on the disk and is not counted, but which
 * a crash may bring back.
 */
#ifndef KELPIE_SIM_FS_INTERNAL_H
#define KELPIE_SIM_FS_INTERNAL_H

#include "sim/fs.h"

#define SIM_CHUNK_PAGE_COUNT 64u /* the bits of a mask */

/* 64 pages; bit n of a mask is about page n. */
struct sim_chunk {
    uint64_t data;    /* it is no hole */
    uint64_t saved;   /* it may differ from what is on the disk, which is in `old` (NULL: a hole) */
    uint64_t dirty;   /* the next sync writes it; some of `saved` */
    uint64_t bad;     /* it cannot be read */
    uint64_t old_bad; /* what is on the disk cannot be read; some of `saved` */
    uint8_t *pages[SIM_CHUNK_PAGE_COUNT];
    uint8_t *old[SIM_CHUNK_PAGE_COUNT];
};

/* A name, shared by a folder and the log. */
struct sim_name {
    uint32_t owner_count;
    uint32_t size;
    char text[];
};

struct sim_entry {
    struct sim_name *name;
    struct sim_inode *inode;
};

struct sim_lock {
    const void *owner;
    bool exclusive;
};

/* What one name of one folder led to, and leads to: NULL is nothing. */
struct sim_half {
    struct sim_inode *folder;
    struct sim_name *name;
    struct sim_inode *before;
    struct sim_inode *after;
};

/* A change of names, which happens as a whole. A rename has two halves: the old name, then the new one. */
struct sim_change {
    struct sim_half halves[2];
    size_t half_count;
    bool wide; /* a second folder is in it: what came before it must be on the disk first */
};

struct sim_inode {
    struct sim_fs *fs;
    struct sim_inode *previous; /* all of the file system, in the order of their making */
    struct sim_inode *next;
    struct sim_inode
        *parent; /* the folder that has its name; NULL: it has none. The root is its own. */
    uint64_t number;
    uint64_t modified_ns;
    enum host_file_type type;
    uint32_t mode;
    uint32_t open_count; /* references from outside */
    uint32_t pin_count;  /* references from the log */
    bool in_memory;      /* it is not on the disk */
    bool was_named;
    bool counted; /* in the file system's counts: it has a name or is open */
    bool cut;     /* crash: a change of this folder was lost */
    bool doomed;  /* crash: nothing leads here */
    char *target; /* of a symbolic link */

    struct sim_entry *entries; /* of a folder, sorted by name */
    size_t entry_count;
    size_t entry_capacity;

    uint64_t size; /* of a file, from here on */
    uint64_t durable_size;
    uint64_t size_min; /* since the sync */
    uint64_t size_max;
    bool size_dirty; /* the next sync writes it */
    struct sim_chunk **chunks;
    size_t chunk_count; /* places in `chunks`, which may be NULL */
    uint64_t page_count;
    uint64_t saved_count;
    size_t dirty_start; /* the chunks in which something is dirty */
    size_t dirty_end;
    uint8_t *arena; /* the first pages in one piece, or NULL */
    size_t arena_size;
    size_t exposed_size; /* what of it was mapped for writing: pages may change unseen */
    uint32_t map_count;  /* of the arena */

    struct sim_lock *locks;
    size_t lock_count;
    size_t lock_capacity;
};

struct sim_fs {
    uint64_t capacity;
    uint64_t used;
    uint64_t now_ns;
    uint64_t next_number;
    size_t inode_count;
    size_t open_count;
    struct sim_inode *first;
    struct sim_inode *last;
    struct sim_inode *root;
    struct sim_change *changes;
    size_t change_count;
    size_t change_capacity;
    char paths[2][HOST_PATH_SIZE_MAX + 1]; /* a walk's, with links replaced by their targets */
};

/* ---- Inodes (fs.c) ---------------------------------------------------------------------------- */

/* Without a name and not open: sim_inode_settle() frees it unless it gets one. NULL: no memory. */
struct sim_inode *sim_inode_create(struct sim_fs *fs, enum host_file_type type, uint32_t mode);

/* After a name, a reference or a pin came or went: counts it, or frees it. */
void sim_inode_settle(struct sim_inode *inode);
void sim_inode_open(struct sim_inode *inode);

/* Bytes on the disk. */
uint64_t sim_inode_used(const struct sim_inode *inode);

/* Everything that must hold of the whole: counts, names, parents, no ghost without a pin. */
void sim_fs_assert_valid(const struct sim_fs *fs);

/* ---- Paths (fs_walk.c) ------------------------------------------------------------------------ */

/* Where a path leads. */
struct sim_place {
    struct sim_inode *inode;  /* what is there; NULL: nothing */
    struct sim_inode *folder; /* which has the name; NULL: the path ends in "/", "." or ".." */
    const char *name;         /* until the next walk; not zero-terminated */
    size_t name_size;
    bool ends_in_slash; /* a folder is meant */
};

/* follow: a symbolic link as the last part, too. ENOENT: a part before the last is missing. */
int sim_walk(struct sim_fs *fs, const char *path, bool follow, struct sim_place *ret_place);

/* ---- Folders and the log (fs_folder.c) -------------------------------------------------------- */

struct sim_name *sim_name_create(const char *text, size_t size);
void sim_name_release(struct sim_name *name);

/* What a name leads to; NULL: nothing. */
struct sim_inode *sim_folder_get(const struct sim_inode *folder, const char *name, size_t size);

/* Room for one name more, which sim_folder_set() may need. ENOMEM. */
int sim_folder_reserve(struct sim_inode *folder);

/* The name leads to the inode (NULL: is gone) from now on. Nothing is counted, noted or freed. */
void sim_folder_set(struct sim_inode *folder, struct sim_name *name, struct sim_inode *inode);

/* Is the folder `inner` in `outer`, or the same? */
bool sim_folder_is_within(const struct sim_inode *inner, const struct sim_inode *outer);

/* Makes a change and notes it. The inodes that it leaves without a name may be gone afterwards. ENOMEM. */
int sim_fs_change(struct sim_fs *fs, const struct sim_half *halves, size_t half_count);

/* The folder's changes are on the disk. */
void sim_folder_sync(struct sim_inode *folder);

/* Forgets the whole log, without freeing an inode. */
void sim_fs_forget_changes(struct sim_fs *fs);

/* ---- Pages (fs_page.c) ------------------------------------------------------------------------ */

/* The chunk that has the page; NULL: there is none. */
struct sim_chunk *sim_chunk_find(const struct sim_inode *inode, uint64_t page);

/* The same, made if it is missing. NULL: no memory. */
struct sim_chunk *sim_chunk_need(struct sim_inode *inode, uint64_t page);

/* What is seen of a page; NULL: zeros. */
const uint8_t *sim_page_look(const struct sim_inode *inode, uint64_t page);

/* The page to be written, what is on the disk put aside. ENOSPC, ENOMEM. */
int sim_page_touch(struct sim_inode *inode, uint64_t page, uint8_t **ret_bytes);

/* The page has these bytes from now on, which are given away; NULL: it is a hole. `chunk` is the page's. */
void sim_page_put(struct sim_inode *inode, struct sim_chunk *chunk, uint64_t page, uint8_t *bytes);

/* The pages from here on are holes, what is on the disk put aside. ENOMEM, and then some are not. */
int sim_pages_drop(struct sim_inode *inode, uint64_t page);

/* Is the page no hole? */
bool sim_page_has_data(const struct sim_inode *inode, uint64_t page);
bool sim_page_is_zero(const uint8_t *bytes);

/* All of them, when the inode goes. */
void sim_pages_free(struct sim_inode *inode);

/* ---- Mappings (fs_map.c) ---------------------------------------------------------------------- */

/* Zeroed memory that begins at a page. NULL: there is none. */
void *sim_arena_create(size_t size);
void sim_arena_destroy(void *arena);

/* What was written through a mapping counts as written from now on. */
void sim_inode_notice(struct sim_inode *inode);

/* What may be written through a mapping is put aside. */
void sim_inode_expose(struct sim_inode *inode);

#endif
