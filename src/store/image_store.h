/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * image_store.h: images by name.
 *
 * THEORY OF OPERATION
 *
 *     $XDG_DATA_HOME/kelpie/images/   <name>.json      what the image is; written by rename
 *                                     <digest>.erofs   a file system, by the digest of its bytes; several names may share one
 *                                     lock             held (flock) while a name or a file system comes or goes
 *
 * A build writes its file system to a draft (host.h), which has no name until it is whole, so that a build that is killed leaves
 * nothing, or a "*.tmp" where the disk has no nameless files. Then, with the lock, the file system gets its name, and the
 * description after it. A file system that no description names is what a kill between the two has left, or a later build of the
 * same name, or a removal: VMs and bundles that name it by its digest still find it, until prune takes it.
 *
 * An image is in use when a VM in the store, running or not, has its name, its digest or a digest's beginning as its image, and when
 * a snapshot there says that its VM's disk is over it. A template needs one too, but is only a cache: it holds nothing back.
 *
 * Threads: all functions may be called from several at once.
 */
#ifndef KELPIE_STORE_IMAGE_STORE_H
#define KELPIE_STORE_IMAGE_STORE_H

#include <jansson.h>

#include "image/rootfs.h"
#include "store/store_internal.h"

/* What is left over: drafts of builds that were killed, file systems that neither name nor VM has; with `images` also images that no VM
 * uses. Their number and bytes are added to the report; with dry_run nothing is removed. Errors: IO_FAILED, NO_MEMORY, BUSY (a build
 * publishes just now). */
KELPIE_CHECKED enum kelpie_status store_image_prune(struct store *store, bool images, bool dry_run,
                                                    struct kelpie_prune_report *report,
                                                    struct kelpie_error *err);

/* ---- Between the files of the image store ------------------------------------------------------ */

#define IMAGE_STORE_DRAFT_NAME "build" /* of a draft on the way, with a suffix */
#define IMAGE_STORE_FORMAT "erofs"

/* As the public functions of these names. */
KELPIE_CHECKED enum kelpie_status image_store_find(struct store *store, const char *name,
                                                   struct kelpie_image **ret_image,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_store_list(struct store *store,
                                                   struct kelpie_image **ret_list,
                                                   size_t *ret_count, struct kelpie_error *err);

/* Waits for the lock, which goes with the descriptor. BUSY: somebody has it for too long. */
KELPIE_CHECKED enum kelpie_status image_store_lock(struct store *store, int *ret_fd,
                                                   struct kelpie_error *err);

/* "<stem><ending>" -> the stem's size; 0: it does not end so. */
size_t image_store_stem(const char *name, const char *ending);

/* ---- image_record.c: descriptions --------------------------------------------------------------- */

/* NULL: no memory. */
json_t *image_record_encode(const char *name, const struct image_rootfs *rootfs,
                            uint64_t created_unix_ms);

/* A description as an image; folder: the store's. Path and bytes are filled too. *ret_image is one block of memory, for free(). BAD_CONFIG: it is damaged. */
KELPIE_CHECKED enum kelpie_status image_record_decode(struct host *host, const json_t *record,
                                                      const char *folder,
                                                      struct kelpie_image **ret_image,
                                                      struct kelpie_error *err);

/* Several images in one block of memory, for free(). */
KELPIE_CHECKED enum kelpie_status image_record_gather(struct host *host,
                                                      struct kelpie_image *const *images,
                                                      size_t count, struct kelpie_image **ret_list,
                                                      struct kelpie_error *err);

/* ---- image_use.c -------------------------------------------------------------------------------- */

/* The VMs and snapshots of the store, each with its image. */
struct image_users {
    struct kelpie_vm_info *vms;
    size_t count;
    struct store_snapshot_image *snapshots;
    size_t snapshot_count;
};

/* After a failure too, deinit gives everything back. */
KELPIE_CHECKED enum kelpie_status
image_users_read(struct store *store, struct image_users *ret_users, struct kelpie_error *err);
void image_users_deinit(struct image_users *users);
#define AUTO_USERS __attribute__((cleanup(image_users_deinit)))

/* Who has an image of that name (may be empty) or digest ("sha256:…"). */
struct image_user {
    const char *kind; /* "VM" or "snapshot"; NULL: nobody */
    const char *name; /* as long as the users */
};
struct image_user image_users_find(const struct image_users *users, const char *name,
                                   const char *digest);

#endif
