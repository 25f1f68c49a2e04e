/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * tree.h: folders in and out, as trees (protocol/tree.h). The files of a tree are written like any other (file.h). Below the folder no
 * symbolic link is followed: each entry's folder is looked up anew below the descriptor of the first (openat2(2)), and what is read
 * is opened below the descriptor of the folder that has it.
 */
#ifndef KELPIE_GUEST_TREE_H
#define KELPIE_GUEST_TREE_H

#include "exact.h"
#include "protocol/tree.h"
#include "session.h"

#define TREE_NAMES_SIZE 2048 /* bytes of a folder's list that are read at once */

/* A folder whose entries are being sent. */
struct tree_level {
    int fd;
    size_t path_size; /* of the folder's own name, in tree.path */
    size_t names_size;
    size_t names_at;
    uint8_t names[TREE_NAMES_SIZE] __attribute__((aligned(8)));
};

struct tree {
    int root_fd; /* FILE_PUT: the folder */
    bool ended;
    struct protocol_tree_reader reader; /* FILE_PUT */

    size_t depth; /* FILE_GET: the levels that are open */
    struct tree_level levels[PROTOCOL_TREE_DEPTH_MAX + 1];
    char path[PROTOCOL_PATH_SIZE_MAX + 1]; /* of the entry in hand */
    char target[PROTOCOL_PATH_SIZE_MAX + 1];
    char skipped[PROTOCOL_PATH_SIZE_MAX + 1];
    uint64_t skipped_count;
    struct exact exact; /* of a session that is exact */
};

/* For the files of tree.h: an empty one in the session; whether the folder is no folder of files (procfs and the like). */
KELPIE_CHECKED enum kelpie_status tree_create(struct session *session, struct kelpie_error *err);
bool tree_is_pseudo(int fd);

/* FILE_PUT of a folder: makes it; takes bytes of its tree; at the tree's last byte sees that it was whole. */
KELPIE_CHECKED enum kelpie_status tree_put_prepare(struct agent *agent, struct session *session,
                                                   const struct protocol_file_put *put,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
tree_put_bytes(struct session *session, const struct protocol_data *data, struct kelpie_error *err);

/* FILE_GET of a folder, whose descriptor becomes the tree's; then fills the sender's ring as far as there is room. *ret_done: the
 * END was written. */
KELPIE_CHECKED enum kelpie_status tree_get_prepare(struct session *session, int folder_fd,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status tree_get_fill(struct agent *agent, struct session *session,
                                                bool *ret_done, struct kelpie_error *err);

/* Closes what is open. Without a tree nothing happens. */
void tree_close(struct session *session);

#endif
