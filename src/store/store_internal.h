/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the files of src/store/ share. */
#ifndef KELPIE_STORE_STORE_INTERNAL_H
#define KELPIE_STORE_STORE_INTERNAL_H

#include <errno.h>
#include <stdarg.h>

#include "base/assert.h"
#include "store/store.h"

struct store {
    struct host *host;
    char folders[STORE_ROOM_COUNT][KELPIE_PATH_SIZE_MAX + 1];
};

/* Whether a file is at fault, and not this process, which may be more lucky in a moment. */
static inline bool store_error_is_of_file(const struct kelpie_error *why) {
    ASSERT(why);
    ASSERT(why->status != KELPIE_OK);
    return why->status == KELPIE_IO_FAILED && why->os_error != EMFILE && why->os_error != ENFILE &&
           why->os_error != ENOMEM;
}

/* Hands on an error that was looked at before. */
static inline enum kelpie_status store_error_pass(struct kelpie_error *err,
                                                  const struct kelpie_error *why) {
    ASSERT(why);
    ASSERT(why->status != KELPIE_OK);
    if (err) {
        *err = *why;
    }
    return why->status;
}

/* As a VM's name. */
bool store_name_is_good(const char *name);

/* Writes a VM's record into a folder, in the place of the one before, through to the disk. BAD_CONFIG: it is too long. */
KELPIE_CHECKED enum kelpie_status store_record_write(struct store *store, const char *folder,
                                                     const struct store_record *record,
                                                     struct kelpie_error *err);

/* As it was written. NOT_FOUND; INTERNAL: it is damaged. */
KELPIE_CHECKED enum kelpie_status store_record_read(struct store *store, const char *name,
                                                    struct store_record **ret_record,
                                                    struct kelpie_error *err);

/* Whether a VM in this state has a process. */
bool store_state_is_live(enum kelpie_state state);

/* The name of the VM that a user means: the name itself, or the beginning of its id. NOT_FOUND, BAD_CONFIG. */
KELPIE_CHECKED enum kelpie_status store_vm_resolve(struct store *store, const char *name,
                                                   char ret_name[KELPIE_NAME_SIZE_MAX + 1],
                                                   struct kelpie_error *err);

/* store_vm_read() of a name that is one. */
KELPIE_CHECKED enum kelpie_status store_vm_read_named(struct store *store, const char *name,
                                                      struct store_record **ret_record,
                                                      bool *ret_owned, struct kelpie_error *err);

/* store_vm_adopt() of a VM that is only to be removed: its record may be damaged, and says still what it said. The id is empty.
 * BUSY: an owner lives, still after wait_ms. */
KELPIE_CHECKED enum kelpie_status store_vm_lock(struct store *store, const char *name,
                                                uint64_t wait_ms, struct store_vm *ret_vm,
                                                struct kelpie_error *err);

/* The socket that a dead owner left, if it did. The caller holds the VM's lock. */
void store_socket_remove(struct store *store, const char *id);

/* Every VM's, the oldest first; for free(). */
KELPIE_CHECKED enum kelpie_status store_vm_list(struct store *store,
                                                struct kelpie_vm_info **ret_list, size_t *ret_count,
                                                struct kelpie_error *err);

/* A store on the host that a public function was given (NULL: this machine). Given back by store_session_close(). */
struct store_session {
    struct host *host;
    bool host_owned;
    struct store *store;
};
KELPIE_CHECKED enum kelpie_status store_session_open(void *host, struct store_session *ret_session,
                                                     struct kelpie_error *err);
void store_session_close(struct store_session *session);
#define AUTO_SESSION __attribute__((cleanup(store_session_close)))

/* ---- store_snapshots.c -------------------------------------------------------------------------- */

/* A snapshot whose VM has a disk over an image. */
struct store_snapshot_image {
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char digest[KELPIE_DIGEST_SIZE];
};

/* All of them, one block of memory, for free(). One that cannot be used says nothing. */
KELPIE_CHECKED enum kelpie_status store_snapshot_images(struct store *store,
                                                        struct store_snapshot_image **ret_list,
                                                        size_t *ret_count,
                                                        struct kelpie_error *err);

#endif
