/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fs.h: a simulated machine's file system, which knows what of it has reached the disk.
 *
 * THEORY OF OPERATION
 *
 * What is written is seen at once, and is on the disk only after a sync: of the file for its bytes and its length, of the
 * folder for its names. sim_fs_crash() is what a power loss leaves: what was synced, and of what was not, as chance
 * has it, all, some or nothing: a page with its new bytes, its old ones, or some sectors of either; a name that was
 * made, renamed or removed, or not; and, if asked, later changes of a folder without the earlier ones. A rename is atomic: after
 * a crash one of both names leads to the file, or the file that was replaced is still there.
 *
 * As on ext4 and xfs, the sync of a new file does not put its name on the disk, nor the sync of a folder the bytes of its
 * files, nor that of a new folder its own name in the one above. A change that touches two folders (a rename between
 * them, the removal of a folder) is on the disk with the first of their syncs, and everything that came before with
 * it, as in a journal. sim/fs_crash.c says what is not modelled.
 *
 * Files have holes and are counted by pages of SIM_FS_PAGE_SIZE, folders as one. The disk has a capacity. Functions return 0 or
 * an errno (ENOMEM if the simulator itself has no memory); none of them waits, makes a choice (but for the crash), or
 * makes a system call. Nobody is refused anything by modes or users: all belongs to the one user.
 *
 * Inodes are counted: by their names, by whoever opened them, by mappings. A file without a name lives as long as it
 * is open; a crash closes everything.
 */
#ifndef KELPIE_SIM_FS_H
#define KELPIE_SIM_FS_H

#include "host/host.h"
#include "sim/choices.h"
#include "sim/fs_limits.h"

#define SIM_USER_ID 1000u /* whose all files and processes are */
#define SIM_FS_PAGE_SIZE 4096u
#define SIM_FS_SECTOR_SIZE 512u
#define SIM_FS_CAPACITY_DEFAULT (64ull << 30)
#define SIM_FS_LINK_DEPTH_MAX 16 /* symbolic links followed in one path */

struct sim_fs;
struct sim_inode;

/* An empty root folder of mode 0755, owned by SIM_USER_ID. NULL: no memory. */
struct sim_fs *sim_fs_create(uint64_t capacity);
void sim_fs_destroy(struct sim_fs *fs);

/* What new and changed files are stamped with. */
void sim_fs_set_time(struct sim_fs *fs, uint64_t realtime_ns);

/* Bytes in use, and what of them; a lower capacity than is in use makes every write that needs a page fail (ENOSPC). */
uint64_t sim_fs_used(const struct sim_fs *fs);
void sim_fs_set_capacity(struct sim_fs *fs, uint64_t capacity);

/* The number of inodes that exist and of references that are held to them from outside: for leaks. */
size_t sim_fs_inode_count(const struct sim_fs *fs);
size_t sim_fs_open_count(const struct sim_fs *fs);

/* ---- Names (paths are absolute) --------------------------------------------------------------- */

/* flags: enum host_open_flag, mode: for a created file, as host_file_open(). With HOST_OPEN_UNNAMED `path` is the
 * folder, and the file has no name. Folders can be opened for reading (their inode). *ret_inode has a reference more.
 * ENOENT, EEXIST, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG, ENOSPC. */
int sim_fs_open(struct sim_fs *fs, const char *path, uint32_t flags, uint32_t mode,
                struct sim_inode **ret_inode);

/* Gives a file that was opened UNNAMED (and has no name yet) its name. EEXIST, ENOENT (it had a name once), EXDEV (it is a
 * memory file), … */
int sim_fs_link(struct sim_fs *fs, struct sim_inode *inode, const char *path);

/* As rename(2), and RENAME_NOREPLACE without replace. EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into itself). */
int sim_fs_rename(struct sim_fs *fs, const char *from, const char *to, bool replace);
int sim_fs_unlink(struct sim_fs *fs, const char *path);
int sim_fs_mkdir(struct sim_fs *fs, const char *path, uint32_t mode);
int sim_fs_rmdir(struct sim_fs *fs, const char *path);
int sim_fs_symlink(struct sim_fs *fs, const char *target, const char *path);

/* The name of a socket (HOST_FILE_OTHER), which cannot be opened (ENXIO). Who listens there is found by the inode that
 * sim_fs_stat() has. */
int sim_fs_socket(struct sim_fs *fs, const char *path, uint32_t mode);

/* As readlink, zero-terminated. ERANGE: it does not fit. EINVAL: it is no link. */
int sim_fs_readlink(struct sim_fs *fs, const char *path, char *buffer, size_t size);

/* The path itself, not what a link points at; "/x/." is what it leads to. */
int sim_fs_stat(struct sim_fs *fs, const char *path, struct host_file_info *ret_info);

/* Names but "." and ".." of a folder, or of the one that a link leads to, sorted by bytes. ERANGE: more than capacity. */
int sim_fs_list(struct sim_fs *fs, const char *path, struct host_dir_entry *entries,
                size_t capacity, size_t *ret_count);

/* The absolute path of a folder that has a name, by which it is found. ENOENT: it has none any more; ENAMETOOLONG. */
int sim_fs_path_of(const struct sim_inode *folder, char *buffer, size_t size);

/* The first of those names. ENODATA: there is none. */
int sim_fs_first(struct sim_fs *fs, const char *path, struct host_dir_entry *ret_entry);

/* The folder's names are on the disk from now on. */
int sim_fs_sync_folder(struct sim_fs *fs, const char *path);

/* ---- Files ------------------------------------------------------------------------------------ */

/* A file without a name and not on the disk: a memory file of `size` zero bytes. NULL: no memory, or too
 * large. */
struct sim_inode *sim_inode_create_memory(struct sim_fs *fs, uint64_t size);

void sim_inode_share(struct sim_inode *inode);
void sim_inode_release(struct sim_inode *inode);

void sim_inode_stat(const struct sim_inode *inode, struct host_file_info *ret_info);

/* Reads up to size bytes; *ret_size is less only at the file's end. EIO: a bad sector. */
int sim_inode_read(struct sim_inode *inode, void *buffer, size_t size, uint64_t offset,
                   size_t *ret_size);

/* Writes all of them. ENOSPC: the disk is full; the pages that still had room are written. EFBIG. EIO: a bad sector, of
 * which only a part would be written. */
int sim_inode_write(struct sim_inode *inode, const void *data, size_t size, uint64_t offset);
int sim_inode_truncate(struct sim_inode *inode, uint64_t size);

/* As host_file_next_data(). */
void sim_inode_next_data(const struct sim_inode *inode, uint64_t offset, uint64_t *ret_start,
                         uint64_t *ret_end);

/* Bytes and length are on the disk from now on; of a folder that is open, its names. */
void sim_inode_sync(struct sim_inode *inode);

/* A sync that failed, as Linux has it: what was not synced counts as clean, may be lost at a crash, and no later sync
 * brings it back. */
void sim_inode_sync_failed(struct sim_inode *inode);

/* The page at offset cannot be read (EIO) until it is written again as a whole, as far as the file reaches. Behind the
 * file's end nothing happens. */
void sim_inode_spoil(struct sim_inode *inode, uint64_t offset);

/* The first `size` bytes as memory, with a reference more. READ and SHARED_WRITE show the file's own bytes, also those written
 * later, and SHARED_WRITE's writes are the file's; PRIVATE_WRITE is a copy. It begins at a page. NULL: no memory, it is a folder, or the
 * file is mapped already, and shorter than this and its length were then. */
void *sim_inode_map(struct sim_inode *inode, size_t size, enum host_map_flag flag);
void sim_inode_unmap(struct sim_inode *inode, void *data, size_t size);

/* flock: owner is any pointer that names an open file. EWOULDBLOCK: another has it. Released by sim_inode_unlock() with the
 * same owner; without a lock of that owner nothing happens. Who asks for another kind in vain has lost what it had. */
int sim_inode_lock(struct sim_inode *inode, const void *owner, bool exclusive);
void sim_inode_unlock(struct sim_inode *inode, const void *owner);

/* ---- Power loss ------------------------------------------------------------------------------- */

/* Rates in a million, of each page or name that was not synced. */
struct sim_fs_crash {
    uint32_t lose_data_ppm; /* the page has its old bytes */
    uint32_t tear_data_ppm; /* it has some sectors of either */
    uint32_t
        lose_name_ppm; /* a change of a folder, and all later ones of that folder, did not happen */
    uint32_t reorder_ppm; /* … but some later ones of that folder did */
};

/* How often each really happened. */
struct sim_fs_crash_counts {
    uint64_t lost_data;
    uint64_t torn_data;
    uint64_t lost_names;
    uint64_t reordered_names;
};

/* Nothing is open or mapped or locked afterwards: every reference from outside was released before. Files that
 * nothing leads to are gone. */
void sim_fs_crash(struct sim_fs *fs, struct sim_choices *choices, const struct sim_fs_crash *crash,
                  struct sim_fs_crash_counts *ret_counts);

#endif
