/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * store.h: what Kelpie keeps on this host's disks for one user, by name: VMs with an owner of their own, their logs,
 * images, snapshots, templates.
 *
 * THEORY OF OPERATION
 *
 *     $XDG_STATE_HOME/kelpie/vms/<name>/    record.json, lock, log, log.1, console, owner.log, disk-N, image
 *     $XDG_STATE_HOME/kelpie/snapshots/<name>/     bundles (snapshot.h)
 *     $XDG_STATE_HOME/kelpie/templates/<key>/      bundles, and when each was last used
 *     $XDG_DATA_HOME/kelpie/images/         <name>.json, and file systems by digest
 *     $XDG_RUNTIME_DIR/kelpie/<id>.sock     where a VM's owner listens
 *
 * Folders are the user's alone (hazard E4): 0700, not a link, not another's, each component of ours checked when it is opened;
 * what does not fit is an error that names it, and is never repaired.
 *
 * Whether an owner lives is told by a lock, not by a number: the owner holds `lock` (flock) as long as it lives, and the kernel
 * lets go of it when it dies, however that happens (hazards E1, E2). A record says what the owner last knew; with the
 * lock free, "running" in it means that its owner died. A VM's folder is made under a temporary name and renamed to its place, so
 * that a name has one VM; removing goes the other way.
 *
 * Threads: a store may be used from several at once; a store_vm by one.
 */
#ifndef KELPIE_STORE_STORE_H
#define KELPIE_STORE_STORE_H

#include "host/host.h"
#include "kelpie_store.h"
#include "store/store_json.h"
#include "store/store_limits.h"

struct store;

enum store_room {
    STORE_VMS = 0,
    STORE_SNAPSHOTS,
    STORE_TEMPLATES,
    STORE_IMAGES,
    STORE_SOCKETS,
    STORE_ROOM_COUNT
};

/* Finds and checks the folders, and makes those that are missing. The host must live longer. Errors: IO_FAILED (field: the
 * folder), BAD_CONFIG (no HOME). */
KELPIE_CHECKED enum kelpie_status store_open(struct host *host, struct store **ret_store,
                                             struct kelpie_error *err);
void store_close(struct store *store); /* NULL is allowed */

/* "<room's folder>/<name>"; name NULL: the folder. BAD_CONFIG: no name for a file (as a VM's name), or too long. */
KELPIE_CHECKED enum kelpie_status store_path(const struct store *store, enum store_room room,
                                             const char *name, char *path, size_t size,
                                             struct kelpie_error *err);

/* The folder of a room has these entries; for free(). Names that begin with a dot are leftovers, or still in the making. */
KELPIE_CHECKED enum kelpie_status store_list(struct store *store, enum store_room room,
                                             struct host_dir_entry **ret_entries, size_t *ret_count,
                                             struct kelpie_error *err);

/* ---- VMs -------------------------------------------------------------------------------------- */

/* Everything about a VM that is on disk. */
struct store_record {
    struct kelpie_vm_info info;
    struct store_config *config;                  /* no secrets, no host */
    char restored_from[KELPIE_PATH_SIZE_MAX + 1]; /* the bundle that it was made of; or empty */
    bool had_secrets; /* its config has some, which only its first owner knows */
};

void store_record_destroy(
    struct store_record *record); /* frees it and what it holds; NULL is allowed */

/* What is true of a VM whose owner is gone: what ran is crashed. True: the record said something else. */
bool store_info_bury(struct kelpie_vm_info *info);

/* A VM whose owner is this process: it holds the lock until release. */
struct store_vm {
    struct store *store;
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char id[KELPIE_ID_SIZE];
    int lock_fd;
};

/* A folder for a new VM, with its record; the caller is its owner. BAD_CONFIG, field "name": it is taken. */
KELPIE_CHECKED enum kelpie_status store_vm_create(struct store *store,
                                                  const struct store_record *record,
                                                  struct store_vm *ret_vm,
                                                  struct kelpie_error *err);

/* Becomes the owner of a VM that has none. What its record says is true afterwards: if its owner died, that it crashed. NOT_FOUND;
 * BUSY: an owner lives; INTERNAL: the record is damaged. */
KELPIE_CHECKED enum kelpie_status store_vm_adopt(struct store *store, const char *name,
                                                 struct store_vm *ret_vm, struct kelpie_error *err);

/* Replaces the record, through to the disk. BAD_CONFIG: it is longer than STORE_RECORD_SIZE_MAX. */
KELPIE_CHECKED enum kelpie_status
store_vm_write(struct store_vm *vm, const struct store_record *record, struct kelpie_error *err);

/* Removes the folder and all in it, and its owner's socket, and lets go of it. After a failure the lock is still held, and the VM may
 * be gone; what is left of it then goes with the next kelpie_prune(). */
KELPIE_CHECKED enum kelpie_status store_vm_remove(struct store_vm *vm, struct kelpie_error *err);

/* Lets go of the lock; the VM stays on disk. Of one that was never taken: nothing. */
void store_vm_release(struct store_vm *vm);

/* A file of the VM's folder, and its owner's socket. */
KELPIE_CHECKED enum kelpie_status store_vm_path(const struct store *store, const char *name,
                                                const char *file, char *path, size_t size,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_socket_path(const struct store *store, const char *id,
                                                    char *path, size_t size,
                                                    struct kelpie_error *err);

/* Reads a VM's record, by name or by the beginning of its id. *ret_owned: an owner lives; if none does, the record says so: what ran is
 * crashed. NOT_FOUND, BAD_CONFIG (several ids begin so). */
KELPIE_CHECKED enum kelpie_status store_vm_read(struct store *store, const char *name,
                                                struct store_record **ret_record, bool *ret_owned,
                                                struct kelpie_error *err);

/* ---- Logs: written by the owner, read by anyone ------------------------------------------------ */

struct store_log;

KELPIE_CHECKED enum kelpie_status store_log_create(struct store_vm *vm, uint64_t bytes_max,
                                                   struct store_log **ret_log,
                                                   struct kelpie_error *err);

/* Bytes that were there already (by offset) are left out: a piece may come twice. */
KELPIE_CHECKED enum kelpie_status store_log_append(struct store_log *log, enum kelpie_stream stream,
                                                   uint64_t offset, const void *data, size_t size,
                                                   struct kelpie_error *err);
void store_log_close(struct store_log *log);

#endif
