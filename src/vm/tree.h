/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * tree.h: folders in and out (protocol/tree.h).
 *
 * THEORY OF OPERATION
 *
 * In. The folder is opened once, and everything in it is found below that descriptor (host_below.h): whoever can write to
 * it, a guest that shares it too, may change what is copied but not lead us elsewhere. Folders wait in a queue of
 * names; each is listed when its turn comes, so that a folder comes before what is in it and nothing recurs. Small
 * things are gathered into pieces of VM_COPY_CHUNK_SIZE.
 *
 * Out. The guest is not believed (hazard D4). A folder of our own is made beside the place, which nobody else knows, and each
 * entry that comes is made below its descriptor: a name is new (a file is made, never opened), a link is made but
 * never followed, and only if it stays inside. What is announced is counted before it is taken. When the END has come, the
 * folder is renamed to its place, which must be free; else all of it is removed.
 */
#ifndef KELPIE_VM_TREE_H
#define KELPIE_VM_TREE_H

#include "protocol/tree.h"
#include "vm/transfer.h"

struct vm_tree_limits {
    uint64_t bytes_max;
    uint64_t count_max;
};

/* Sends the folder transfer->host_path into the guest's transfer->guest_path. *report counts, also of one that failed. */
KELPIE_CHECKED enum kelpie_status vm_tree_in(struct vm_transfer *transfer,
                                             const struct vm_tree_limits *limits,
                                             struct kelpie_tree_report *report,
                                             struct kelpie_error *err);

/* Where a tree's bytes come from: at least one, or none at its end. */
struct vm_tree_source {
    enum kelpie_status (*read)(void *argument, void *buffer, size_t size, size_t *ret_size,
                               struct kelpie_error *err);
    void *argument;
};

/* Makes what is in a tree in `folder`, an empty one of our own. What was made when it failed is the caller's to remove. */
KELPIE_CHECKED enum kelpie_status
vm_tree_unpack(struct host *host, const struct vm_tree_source *source, const char *folder,
               const struct vm_tree_limits *limits, struct kelpie_tree_report *report,
               struct kelpie_error *err);

/* Counts an entry and its bytes: COPY_FAILED when there are too many. */
KELPIE_CHECKED enum kelpie_status vm_tree_count(struct kelpie_tree_report *report,
                                                const struct vm_tree_limits *limits,
                                                const struct protocol_tree_entry *entry,
                                                struct kelpie_error *err);

/* Something of that name was left out. */
void vm_tree_skip(struct kelpie_tree_report *report, const char *name);

#endif
