/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * working_set.h: the file `working-set` beside a bundle's parts: which pages of its memory a machine touched after an
 * earlier restore. docs/SNAPSHOT_FORMAT.md describes every byte.
 *
 * It is a hint: nothing depends on it, the manifest does not know it, and it may be written and removed while the bundle
 * stays what it is. A file that is damaged, of another bundle or of another size is as good as none.
 */
#ifndef KELPIE_SNAPSHOT_WORKING_SET_H
#define KELPIE_SNAPSHOT_WORKING_SET_H

#include "snapshot/snapshot.h"

#define SNAPSHOT_WORKING_SET_NAME "working-set"

/* The file's size for a bundle with `memory_size` bytes of memory: a header, and a bit for each page behind it. */
uint64_t snapshot_working_set_size(uint64_t memory_size);

/* The file, checked, open for reading; the caller's to close. HOST_FD_NONE: there is none that fits the bundle. */
int snapshot_working_set_open(struct host *host, const struct snapshot_reader *reader);

/* Puts a file beside the bundle in place of the one that may be there. bitmap_fd: a file of the size above, whose header's
 * place is not looked at; whoever wrote it may still write. SNAPSHOT_FAILED: it has another size. NO_SPACE, IO_FAILED. */
KELPIE_CHECKED enum kelpie_status snapshot_working_set_store(struct host *host,
                                                             const struct snapshot_reader *reader,
                                                             int bitmap_fd,
                                                             struct kelpie_error *err);

#endif
