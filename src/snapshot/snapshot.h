/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * snapshot.h: bundles, the folders that snapshots are on disk. Knows files and checksums, no device and no
 * hypervisor. docs/SNAPSHOT_FORMAT.md describes every byte.
 *
 * THEORY OF OPERATION
 *
 * Writing: snapshot_writer_create() makes a folder "<directory>.partial-<id>" beside the place; the
 * backend fills parts in it (`state`, `memory`, `disk-N`); publish() computes what is missing of sizes and
 * XXH3-128 checksums, writes manifest.json, syncs every file and the folder, and renames it to its place, which must
 * not exist. destroy() before publish removes everything. A crash leaves a *.partial-* folder, never a
 * bundle; the next writer beside it removes those whose owner (a lock on their manifest file) is gone.
 *
 * In memory: a writer without a directory makes its parts as memory files, has no checksums, and becomes a reader
 * instead of being published: snapshot_writer_read(). So a fork is a snapshot that is restored several times and never
 * was on disk.
 *
 * Reading: open() reads manifest.json (bounded), checks its version, every field and each part's presence,
 * type and size; verify() checks a checksum. Everything in a bundle is untrusted input: file names in the
 * manifest are not used as paths unless they are exactly the part's own name.
 *
 * A checkpoint holds no machine: its one part, `files`, is an archive of a folder, of which this module knows no more than that
 * it is a file.
 *
 * A diff holds what changed since another bundle, its parent: the pages of memory whose bit is set in the part `pages`.
 * Its manifest has the parent's id and where it is. open() opens the parents too, up to SNAPSHOT_CHAIN_LENGTH_MAX
 * bundles, and checks that each is the one that was meant; nothing else is done with the path.
 */
#ifndef KELPIE_SNAPSHOT_SNAPSHOT_H
#define KELPIE_SNAPSHOT_SNAPSHOT_H

#include "host/host.h"
#include "snapshot/snapshot_limits.h"

enum snapshot_part {
    SNAPSHOT_PART_STATE = 0,
    SNAPSHOT_PART_MEMORY, /* optional: a backend's state may carry the memory (`memory_in_state`) */
    SNAPSHOT_PART_PAGES,  /* of a diff: a bit for each page, set: it is in this bundle's memory */
    SNAPSHOT_PART_FILES, /* of a checkpoint, whose only part it is: a pax archive of the workspace */
    SNAPSHOT_PART_DISK_0, /* … DISK_0 + KELPIE_DISK_COUNT_MAX - 1 */
    SNAPSHOT_PART_COUNT = SNAPSHOT_PART_DISK_0 + KELPIE_DISK_COUNT_MAX
};

/* "state", "memory", "disk-0", … */
const char *snapshot_part_name(enum snapshot_part part);

struct snapshot_part_info {
    bool present;
    uint64_t size;                         /* bytes, by length */
    char checksum[SNAPSHOT_CHECKSUM_SIZE]; /* XXH3-128, 32 hexadecimal digits, canonical order */
};

/* A read-only disk that a suspend bundle refers to and does not hold. */
struct snapshot_disk {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char mount[KELPIE_PATH_SIZE_MAX + 1]; /* or empty */
    bool read_only;
    bool in_bundle; /* the part disk-N holds its bytes */
    uint64_t size;
    char checksum[SNAPSHOT_CHECKSUM_SIZE]; /* of the outside file when it is not in the bundle */
};

/* An exec session that was open: where its reader goes on. */
struct snapshot_session {
    uint32_t id;
    bool tty;
    uint64_t stdin_offset;
    uint64_t stdout_offset;
    uint64_t stderr_offset;
};

struct snapshot_feature { /* a name and value that must be equal at restore: machine, cpu, … */
    char name[SNAPSHOT_NAME_SIZE_MAX + 1];
    char value[SNAPSHOT_VALUE_SIZE_MAX + 1];
};

/* The feature that says what kind of network interface the machine has; without it, it has none. */
#define SNAPSHOT_FEATURE_NETWORK "network"

/* The feature that says which image, by digest, the last two disks are of. */
#define SNAPSHOT_FEATURE_IMAGE "image"

/* What manifest.json says. Big (paths): allocate it. */
struct snapshot_manifest {
    struct kelpie_snapshot
        info; /* id, parent, kind, backend and its version, architecture, time, quiesced */
    char vm_id[KELPIE_ID_SIZE];
    char vm_name[KELPIE_NAME_SIZE_MAX + 1];
    char kernel_digest[SNAPSHOT_DIGEST_SIZE];    /* SHA-256, hexadecimal; or empty (mock) */
    char initramfs_digest[SNAPSHOT_DIGEST_SIZE]; /* the same */
    uint32_t vcpu_count;
    uint32_t memory_mib;
    char kernel_args[KELPIE_KERNEL_ARGS_SIZE_MAX + 1];
    char hostname[KELPIE_NAME_SIZE_MAX + 1];
    char working_dir[KELPIE_PATH_SIZE_MAX + 1];
    char **env; /* env_count strings, owned by the manifest */
    size_t env_count;
    bool memory_in_state;
    char workspace[KELPIE_PATH_SIZE_MAX + 1]; /* of a checkpoint: the guest's folder; else empty */
    char parent_path[KELPIE_PATH_SIZE_MAX + 1]; /* this is a diff to it; empty: it is none */
    struct snapshot_part_info parts[SNAPSHOT_PART_COUNT];
    struct snapshot_disk disks[KELPIE_DISK_COUNT_MAX];
    size_t disk_count;
    struct snapshot_session sessions[KELPIE_EXEC_COUNT_MAX];
    size_t session_count;
    struct snapshot_feature features[SNAPSHOT_FEATURE_COUNT_MAX];
    size_t feature_count;
};

KELPIE_CHECKED enum kelpie_status snapshot_manifest_create(struct host *host,
                                                           struct snapshot_manifest **ret_manifest,
                                                           struct kelpie_error *err);
void snapshot_manifest_destroy(struct snapshot_manifest *manifest); /* NULL is allowed */

/* Adds "KEY=VALUE" (copied). */
KELPIE_CHECKED enum kelpie_status snapshot_manifest_add_env(struct host *host,
                                                            struct snapshot_manifest *manifest,
                                                            const char *variable,
                                                            struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status snapshot_manifest_add_feature(struct snapshot_manifest *manifest,
                                                                const char *name, const char *value,
                                                                struct kelpie_error *err);

/* What a manifest may have as its workspace: absolute, not "/", and without parts that are empty, "." or "..". */
bool snapshot_workspace_is_plain(const char *path);

/* The feature's value, or NULL. */
const char *snapshot_manifest_feature(const struct snapshot_manifest *manifest, const char *name);

/* manifest <-> JSON text. Decoding checks every field: SNAPSHOT_CORRUPT with field "manifest" (or the
 * JSON field's name in the message), SNAPSHOT_INCOMPATIBLE field "format_version". Pure but for allocation. */
KELPIE_CHECKED enum kelpie_status snapshot_manifest_encode(const struct snapshot_manifest *manifest,
                                                           char **ret_text,
                                                           struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status snapshot_manifest_decode(struct host *host, const char *text,
                                                           size_t size,
                                                           struct snapshot_manifest **ret_manifest,
                                                           struct kelpie_error *err);

/* ---- Writing ---------------------------------------------------------------------------------- */

struct snapshot_writer;
struct snapshot_reader;

/* The parent folder must exist, `directory` must not; NULL: in memory. bytes_max 0: no limit on disk use. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_create(struct host *host, const char *directory,
                                                         uint64_t bytes_max,
                                                         struct snapshot_writer **ret_writer,
                                                         struct kelpie_error *err);

/* The manifest that publish() will write: the caller fills it, but for parts, id (which it has) and bytes. */
struct snapshot_manifest *snapshot_writer_manifest(struct snapshot_writer *writer);

struct snapshot_reader;

/* Makes the bundle a diff to `parent`, which was opened as `directory`: its id and place in the manifest. BAD_CONFIG, field
 * "parent": the chain is too long, or the path is relative and of another folder than the new bundle's. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_set_parent(struct snapshot_writer *writer,
                                                             const char *directory,
                                                             const struct snapshot_reader *parent,
                                                             struct kelpie_error *err);

/* A new empty file for the part, open for reading and writing; the writer closes it. Once for each part. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_part(struct snapshot_writer *writer,
                                                       enum snapshot_part part, int *ret_fd,
                                                       struct kelpie_error *err);

bool snapshot_writer_is_in_memory(const struct snapshot_writer *writer);

/* In memory: fd becomes the part, and the writer's to close. */
void snapshot_writer_adopt(struct snapshot_writer *writer, enum snapshot_part part, int fd);

/* Copies a file of `size` bytes into the part, sparsely: holes and runs of zeros take no room. Reports
 * SNAPSHOT_TOO_LARGE past bytes_max. The checksum is computed on the way. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_copy(struct snapshot_writer *writer,
                                                       enum snapshot_part part, int source_fd,
                                                       uint64_t size, const struct host_wait *wait,
                                                       struct kelpie_error *err);

/* Where the bytes of a disk are: in a file, or in a base and an overlay over it, of whose blocks a bitmap tells
 * (base/overlay.h). Overlay and bitmap are a monitor's to write: that they become shorter is an error, and no more. */
struct snapshot_source {
    int fd;
    int overlay_fd; /* HOST_FD_NONE: all is in fd */
    int bitmap_fd;
};

/* The same from such a source, in one pass. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_merge(struct snapshot_writer *writer,
                                                        enum snapshot_part part,
                                                        const struct snapshot_source *source,
                                                        uint64_t size, const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* For backends whose monitor only hands over all of memory, in a file of `size` bytes that becomes the writer's, and that nobody
 * writes to any more: publish() makes the part `memory` of it, without its zeros, when the machine goes on already. Of a diff
 * (set_parent), `memory` and `pages`: what differs from the parent's memory, whatever was written meanwhile. */
void snapshot_writer_take_memory(struct snapshot_writer *writer, int memory_fd, uint64_t size);

/* A file without a name on the disk that the bundle is written to, or, where that cannot be, in memory; the caller's to
 * close. For what is to become a part, but is not yet in its form. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_scratch(struct snapshot_writer *writer,
                                                          int *ret_fd, struct kelpie_error *err);

/* Publishes the bundle and fills ret_snapshot. NO_SPACE, SNAPSHOT_FAILED, SNAPSHOT_TOO_LARGE. After a failure only
 * snapshot_writer_destroy() is left. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_publish(struct snapshot_writer *writer,
                                                          const struct host_wait *wait,
                                                          struct kelpie_snapshot *ret_snapshot,
                                                          struct kelpie_error *err);

/* In memory: hands everything over to a reader. Afterwards only snapshot_writer_destroy() is left. */
KELPIE_CHECKED enum kelpie_status snapshot_writer_read(struct snapshot_writer *writer,
                                                       struct snapshot_reader **ret_reader,
                                                       struct kelpie_error *err);

/* Whether this is the name of a folder that a bundle is written in. */
bool snapshot_is_partial(const char *name);

/* Removes such a folder if its writer is gone (dry_run: only looks). True: it is, or would be, gone. */
bool snapshot_partial_sweep_one(struct host *host, const char *folder, bool dry_run);

/* Removes what is not published. NULL is allowed. */
void snapshot_writer_destroy(struct snapshot_writer *writer);

/* Copies size bytes of one file to another, sparsely; used for private copies of a bundle's disks too. The
 * target must be empty. ret_checksum may be NULL. */
KELPIE_CHECKED enum kelpie_status snapshot_copy_sparse(struct host *host, int source_fd,
                                                       int target_fd, uint64_t size,
                                                       const struct host_wait *wait,
                                                       char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                                       struct kelpie_error *err);

KELPIE_CHECKED enum kelpie_status
snapshot_copy_merged(struct host *host, const struct snapshot_source *source, int target_fd,
                     uint64_t size, const struct host_wait *wait, struct kelpie_error *err);

/* Whether hashing the file takes much longer than copying it does: a hole is copied in no time, and hashed as zeros. */
bool snapshot_is_mostly_holes(struct host *host, int fd, uint64_t size);

/* The XXH3-128 of a file's first `size` bytes. */
KELPIE_CHECKED enum kelpie_status snapshot_checksum_file(struct host *host, int fd, uint64_t size,
                                                         const struct host_wait *wait,
                                                         char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                                         struct kelpie_error *err);

/* ---- Reading: from several threads at once, but for open and close ---------------------------- */

/* Opens and checks everything but checksums. NOT_FOUND, SNAPSHOT_CORRUPT (field: the part, "manifest"),
 * SNAPSHOT_INCOMPATIBLE (field "format_version"). A parent that is missing or damaged: SNAPSHOT_CORRUPT, field "parent";
 * one that is another bundle, or of another machine: SNAPSHOT_INCOMPATIBLE, field "parent". A bundle is corrupt for what it
 * is, and never because it could not be read: that is IO_FAILED, or NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status snapshot_reader_open(struct host *host, const char *directory,
                                                       struct snapshot_reader **ret_reader,
                                                       struct kelpie_error *err);
const struct snapshot_manifest *snapshot_reader_manifest(const struct snapshot_reader *reader);

/* Where it was opened; empty: in memory. */
const char *snapshot_reader_directory(const struct snapshot_reader *reader);

/* The bundle that this one is a diff to, owned by the reader; NULL: it is none. */
struct snapshot_reader *snapshot_reader_parent(const struct snapshot_reader *reader);

/* How many bundles the reader's chain has, itself among them. */
size_t snapshot_reader_chain_length(const struct snapshot_reader *reader);

/* Copies the memory of the reader's bundle, and of those that it is a diff to, into one file, which is empty, sparsely. */
KELPIE_CHECKED enum kelpie_status snapshot_reader_merge(struct host *host,
                                                        const struct snapshot_reader *reader,
                                                        int target_fd, const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* The part's descriptor, open for reading, owned by the reader; HOST_FD_NONE when the bundle has no such part. */
int snapshot_reader_part(const struct snapshot_reader *reader, enum snapshot_part part);

/* A descriptor of the part with a position of its own, for reading; the caller's to close. NOT_FOUND: there is no such
 * part. */
KELPIE_CHECKED enum kelpie_status snapshot_reader_part_open(const struct snapshot_reader *reader,
                                                            enum snapshot_part part, int *ret_fd,
                                                            struct kelpie_error *err);

/* Checks a part's checksum, once for each reader; a bundle in memory has none. SNAPSHOT_CORRUPT with the part's name as field. */
KELPIE_CHECKED enum kelpie_status snapshot_reader_verify(struct snapshot_reader *reader,
                                                         enum snapshot_part part,
                                                         const struct host_wait *wait,
                                                         struct kelpie_error *err);
void snapshot_reader_close(struct snapshot_reader *reader); /* NULL is allowed */

#endif
