/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* snapshot_internal.h: what the files of src/snapshot/ share. */
#ifndef KELPIE_SNAPSHOT_SNAPSHOT_INTERNAL_H
#define KELPIE_SNAPSHOT_SNAPSHOT_INTERNAL_H

#include "snapshot/snapshot.h"

#define SNAPSHOT_MANIFEST_NAME "manifest.json"
#define SNAPSHOT_PARTIAL_MARK ".partial-" /* and an id of KELPIE_ID_SIZE - 1 digits */

struct snapshot_path {
    char text[HOST_PATH_SIZE_MAX + 1];
};

/* BAD_CONFIG when the path is too long. */
KELPIE_CHECKED enum kelpie_status snapshot_path_format(struct snapshot_path *ret_path,
                                                       struct kelpie_error *err, const char *format,
                                                       ...) ERROR_PRINTF(3, 4);

/* Exactly `count` lower-case hexadecimal digits. */
bool snapshot_is_hexadecimal(const char *text, size_t count);

/* The XXH3-128 of bytes, as text. */
void snapshot_checksum_bytes(const void *data, size_t size,
                             char ret_checksum[SNAPSHOT_CHECKSUM_SIZE]);

/* snapshot_copy_sparse() that stops with SNAPSHOT_TOO_LARGE behind bytes_max bytes that are no zeros. */
struct snapshot_copy {
    struct snapshot_source source;
    int target_fd;
    uint64_t size;
    uint64_t bytes_max;                   /* UINT64_MAX: no limit */
    const struct snapshot_layers *layers; /* read from these instead, but for the size; or NULL */
};
KELPIE_CHECKED enum kelpie_status snapshot_copy_limited(struct host *host,
                                                        const struct snapshot_copy *copy,
                                                        const struct host_wait *wait,
                                                        char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                                        struct kelpie_error *err);

/* CANCELLED or TIMED_OUT: work that never waits asks now and then whether its time is over. */
KELPIE_CHECKED enum kelpie_status
snapshot_check_wait(struct host *host, const struct host_wait *wait, struct kelpie_error *err);

/* ---- diff.c: the memory of a chain of bundles --------------------------------------------------- */

/* Whose each page is. Zero: nothing to give back. */
struct snapshot_layers {
    size_t count;                       /* bundles, the newest first; the last one has every page */
    int fds[SNAPSHOT_CHAIN_LENGTH_MAX]; /* the readers' */
    uint64_t *bitmaps[SNAPSHOT_CHAIN_LENGTH_MAX - 1];
    uint64_t page_count;
};

/* Of a memory of that many bytes. The reader must live as long. SNAPSHOT_CORRUPT, field "memory" or "pages". */
KELPIE_CHECKED enum kelpie_status snapshot_layers_init(struct snapshot_layers *layers,
                                                       struct host *host,
                                                       const struct snapshot_reader *reader,
                                                       uint64_t size, struct kelpie_error *err);
void snapshot_layers_deinit(struct snapshot_layers *layers);

/* Where the bytes from `offset` on are, and the end of those that are all there. */
uint64_t snapshot_layers_run(const struct snapshot_layers *layers, uint64_t offset, int *ret_fd);

/* What of a memory is written where as a diff. */
struct snapshot_diff {
    int source_fd;
    uint64_t size;
    const struct snapshot_reader *parent;
    int target_fd; /* the part `memory`, empty */
    int pages_fd;  /* the part `pages`, empty */
    uint64_t bytes_max;
};
KELPIE_CHECKED enum kelpie_status snapshot_diff_write(struct host *host,
                                                      const struct snapshot_diff *diff,
                                                      const struct host_wait *wait,
                                                      struct kelpie_error *err);

/* Where a parent is of the bundle in that folder. */
KELPIE_CHECKED enum kelpie_status snapshot_parent_path(const char *directory, const char *place,
                                                       struct snapshot_path *ret_path,
                                                       struct kelpie_error *err);

/* A reader of parts that are there: takes over manifest and descriptors, also when it fails. */
KELPIE_CHECKED enum kelpie_status snapshot_reader_of_parts(struct host *host,
                                                           struct snapshot_manifest *manifest,
                                                           const int part_fds[SNAPSHOT_PART_COUNT],
                                                           struct snapshot_reader **ret_reader,
                                                           struct kelpie_error *err);

/* partial.c: the folder that a bundle is written in. */
struct snapshot_partial {
    struct snapshot_path folder;
    char id[KELPIE_ID_SIZE];
    int manifest_fd; /* open and locked: its owner lives */
};

/* Makes a new one beside `directory` (which ends in no '/') and locks it. The caller closes manifest_fd. */
KELPIE_CHECKED enum kelpie_status snapshot_partial_create(struct host *host, const char *directory,
                                                          struct snapshot_partial *ret_partial,
                                                          struct kelpie_error *err);

/* Removes a partial folder: the names that a bundle has, then the folder. Others are left alone. */
void snapshot_partial_remove(struct host *host, const char *folder);

/* Removes the partial folders in `parent` whose owner is gone. What cannot be removed stays. */
void snapshot_partial_sweep(struct host *host, const char *parent);

/* The folder that holds `directory`: "." when there is no '/' in it. Both may be the same. */
void snapshot_parent(const struct snapshot_path *directory, struct snapshot_path *ret_parent);

#endif
