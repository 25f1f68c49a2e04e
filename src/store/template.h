/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * template.h: a place for templates, bundles of machines that have just started, by key.
 *
 *     $XDG_STATE_HOME/kelpie/templates/<key>/     lock (which has the time of the last use), bundle/ (snapshot.h)
 *     $XDG_STATE_HOME/kelpie/templates/.new-<key>/     the same, in the making
 *
 * Whoever uses a template holds its lock, shared, so that it is not evicted meanwhile; whoever makes one holds the lock of the folder
 * that it is made in, so that there is one maker for each key, in all processes, and what a killed one leaves is known as such.
 *
 *     if (store_template_open(store, key, &template, err) == KELPIE_OK) {
 *         ... restore from store_template_bundle(template); if that failed, store_template_discard(template), and boot; else
 *         store_template_close(template);
 *     } else if (store_template_begin(store, key, &template, err) == KELPIE_OK) {
 *         ... boot, write a bundle to store_template_bundle(template) and verify it there;
 *         store_template_publish(template, err);            // or store_template_discard(template)
 *     } else {
 *         ... boot: somebody else is making it (BUSY), or there is no place for it
 *     }
 *
 * The store must live longer than what it handed out. Threads: a template may be opened in one and closed in another.
 */
#ifndef KELPIE_STORE_TEMPLATE_H
#define KELPIE_STORE_TEMPLATE_H

#include "store/store.h"

struct store_template;

/* key: as a VM's name, such as 64 hexadecimal digits. It counts as used now. Errors: NOT_FOUND, also while it is thrown away;
 * BAD_CONFIG, IO_FAILED, NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status store_template_open(struct store *store, const char *key,
                                                      struct store_template **ret_template,
                                                      struct kelpie_error *err);

/* The caller makes it from now on. Errors: BUSY (somebody makes it, or there is one), and as above. */
KELPIE_CHECKED enum kelpie_status store_template_begin(struct store *store, const char *key,
                                                       struct store_template **ret_template,
                                                       struct kelpie_error *err);

/* Where the bundle is; of one that is being made, where it is to be written (there is nothing yet). */
const char *store_template_bundle(const struct store_template *template);

/* Of one that was made: others find it from now on, and those that were not used for the longest time go, until all together take
 * KELPIE_TEMPLATE_BYTES_DEFAULT at most. The template is closed, also when it fails. */
KELPIE_CHECKED enum kelpie_status store_template_publish(struct store_template *template,
                                                         struct kelpie_error *err);

/* Throws it away, for everybody, and closes it: one that a restore failed from, or one whose making failed. NULL is allowed. */
void store_template_discard(struct store_template *template);

/* Lets go of it; of one that is being made: throws it away. NULL is allowed. */
void store_template_close(struct store_template *template);

struct store_evicted {
    uint32_t count;
    uint64_t bytes; /* on disk */
};

/* Throws away those that were not used for the longest time, until the others take bytes_max at most; those in use stay.
 * dry_run: only says what would go. */
KELPIE_CHECKED enum kelpie_status store_template_evict(struct store *store, uint64_t bytes_max,
                                                       bool dry_run,
                                                       struct store_evicted *ret_evicted,
                                                       struct kelpie_error *err);

#endif
