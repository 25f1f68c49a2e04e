/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * exact.h: what an exact tree (protocol/tree.h) has beyond names and bytes: owners, extended attributes, and how the content of
 * a folder is exchanged for that of a tree.
 *
 * The new content is made in `.kelpie-XXXXXXXX` in the folder itself, which may be where something is mounted, and so cannot be
 * renamed. When all of it has come, what was there is removed and what is new is moved up. Nothing that is mounted in
 * the folder is followed, listed or emptied: it is an error.
 */
#ifndef KELPIE_GUEST_EXACT_H
#define KELPIE_GUEST_EXACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "guest_limits.h"

/* Of one entry. */
struct exact_meta {
    uint32_t uid;
    uint32_t gid;
    size_t attributes_size; /* records: size of the name, of the value (16 bits each), both */
    uint8_t attributes[GUEST_ATTRIBUTES_SIZE_MAX];
};

struct exact {
    struct exact_meta next; /* in: of the entry that follows */

    /* in: the folder itself */
    int place_fd; /* -1: none */
    char staging[32];
    bool root_given;
    uint32_t root_mode;
    uint64_t root_modified_ns;
    struct exact_meta root;

    /* in: a file that comes in pieces */
    bool in_pieces;
    uint64_t modified_ns;

    /* out */
    dev_t device;
    bool root_due;
    bool sparse; /* the file under way is told in pieces */
    uint64_t extent_end;
};

/* Nothing is known of the next entry. */
void exact_meta_clear(struct exact_meta *meta);

/* In: adds to what is known of the next entry. E2BIG. */
KELPIE_CHECKED enum kelpie_status exact_add_attribute(struct exact_meta *meta, const char *name,
                                                      const void *value, size_t size,
                                                      struct kelpie_error *err);

/* Gives an open file or folder owner, mode, attributes and time, in the order in which none undoes another. An attribute that the
 * file system does not know is left out. Returns an errno or 0. */
int exact_apply(int fd, const struct exact_meta *meta, uint32_t mode, uint64_t modified_ns);

/* Makes the folder for the new content, whose descriptor comes back. */
KELPIE_CHECKED enum kelpie_status exact_begin(struct exact *exact, int place_fd, int *ret_fd,
                                              struct kelpie_error *err);

/* Exchanges the content. new_fd: of the folder that exact_begin() made. */
KELPIE_CHECKED enum kelpie_status exact_finish(struct exact *exact, int new_fd,
                                               struct kelpie_error *err);

/* Removes what was begun and not finished; closes. */
void exact_close(struct exact *exact);

/* Everything in the folder but `keep` (NULL: nothing is kept) goes. Returns an errno or 0. */
int exact_clear(int folder_fd, const char *keep);

/* A number that only the names of one file share, and 0 for a file with one name. */
uint64_t exact_link_number(const struct stat *info);

#endif
