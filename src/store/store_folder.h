/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * store_folder.h: folders of a room that appear and go whole, and the lock in each.
 *
 * THEORY OF OPERATION
 *
 * A folder is made as ".new-<something>" with a file "lock" in it, which its maker holds (flock, exclusive) from the first moment; it
 * is filled, synced, and renamed to its name, which must not exist: so a name has one folder, whole, and the lock is
 * held already. It goes the other way: to ".old-<digits>", synced, and then it is emptied. No name of ours begins with a dot: what
 * does is in the making, or a leftover of a process that was killed. Which of the two, its lock tells: the kernel lets
 * go of it when its holder ends.
 *
 * A lock is of a file, and the name may mean another file by the time it is held: whoever takes one looks again afterwards.
 */
#ifndef KELPIE_STORE_STORE_FOLDER_H
#define KELPIE_STORE_STORE_FOLDER_H

#include "store/store_internal.h"

#define STORE_FOLDER_NEW ".new-"
#define STORE_FOLDER_OLD ".old-"
#define STORE_LOCK_NAME "lock"

/* "<room's folder>/<name>" for any name, and "<folder>/<name>". BAD_CONFIG: too long. */
KELPIE_CHECKED enum kelpie_status store_folder_path(const struct store *store, enum store_room room,
                                                    const char *name,
                                                    char path[KELPIE_PATH_SIZE_MAX + 1],
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_folder_file(const char *folder, const char *name,
                                                    char path[KELPIE_PATH_SIZE_MAX + 1],
                                                    struct kelpie_error *err);

/* A new folder, and its lock, held. `path` must begin with STORE_FOLDER_NEW. IO_FAILED with EEXIST: there is one; BUSY: somebody took it
 * for a leftover, and the next try is another. */
KELPIE_CHECKED enum kelpie_status store_folder_make(struct store *store, const char *path,
                                                    int *ret_lock, struct kelpie_error *err);

/* Renames it to its name in the room, through to the disk. IO_FAILED with EEXIST (whatever the file system says): the name is
 * taken. After any failure the folder is where it was, if it is anywhere. */
KELPIE_CHECKED enum kelpie_status store_folder_publish(struct store *store, enum store_room room,
                                                       const char *path, const char *name,
                                                       struct kelpie_error *err);

/* Takes the lock of a folder that is there. BUSY: another holds it, and still does after wait_ms. NOT_FOUND: there is no such folder. */
KELPIE_CHECKED enum kelpie_status store_folder_lock(struct store *store, const char *path,
                                                    bool exclusive, uint64_t wait_ms, int *ret_lock,
                                                    struct kelpie_error *err);

/* Whether the lock is of the folder that has this path now. */
bool store_folder_is(struct store *store, const char *path, int lock_fd);

/* Removes a folder of the room, through to the disk. From the moment when it is renamed it is gone; what cannot be removed of it
 * then is a leftover, and an error. The caller holds the lock, where there is one. NOT_FOUND: there is none. */
KELPIE_CHECKED enum kelpie_status store_folder_remove(struct store *store, enum store_room room,
                                                      const char *path, struct kelpie_error *err);

/* Removes one that was being made, if its maker is gone. True: it did. */
bool store_folder_reclaim(struct store *store, enum store_room room, const char *path);

/* What a folder with all in it takes on the disk. What cannot be looked at counts nothing. */
uint64_t store_folder_bytes(struct store *store, const char *path);

/* Removes the room's leftovers, and adds to the report how many and how much. What cannot be removed stays. */
KELPIE_CHECKED enum kelpie_status store_folder_sweep(struct store *store, enum store_room room,
                                                     bool dry_run,
                                                     struct kelpie_prune_report *report,
                                                     struct kelpie_error *err);

/* Makes or checks a folder of ours (hazard E4): the last part of the path is a folder and no link, this user's, and closed to
 * others. IO_FAILED, field "folder". */
KELPIE_CHECKED enum kelpie_status store_folder_check(struct host *host, const char *path,
                                                     struct kelpie_error *err);

/* ret_digits: size - 1 hexadecimal digits, drawn at random. */
KELPIE_CHECKED enum kelpie_status store_draw_digits(struct host *host, char *ret_digits,
                                                    size_t size, struct kelpie_error *err);

#endif
