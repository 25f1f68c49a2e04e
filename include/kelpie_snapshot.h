/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie_snapshot.h: what a VM was at one moment, and VMs made of it: snapshots, restores, working sets, forks, pools. A part of
 * kelpie.h, which includes it: a program includes that.
 *
 *     struct kelpie_snapshot snapshot;
 *     const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_CHECKPOINT, .workspace = "/job"};
 *
 *     if (kelpie_vm_snapshot(vm, "/var/tmp/one", &options, &snapshot, &err) == KELPIE_OK &&
 *         kelpie_vm_create_from_snapshot("/var/tmp/one", NULL, NULL, &other, &err) == KELPIE_OK) { … }
 *
 * Ownership, threads, errors and time are as in kelpie.h.
 */
#ifndef KELPIE_SNAPSHOT_H
#define KELPIE_SNAPSHOT_H

#ifndef KELPIE_H
#error "include kelpie.h, of which this is a part"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Snapshots -------------------------------------------------------------------------------- */

enum kelpie_snapshot_kind {
    KELPIE_SNAPSHOT_SUSPEND = 0, /* memory, devices and writable disks; read-only disks by digest */
    KELPIE_SNAPSHOT_TELEPORT,    /* memory, devices and every disk: for another host */
    KELPIE_SNAPSHOT_CHECKPOINT, /* the files of one folder, the workspace: for any backend and architecture */
    KELPIE_SNAPSHOT_KIND_COUNT
};

struct kelpie_snapshot_options {
    enum kelpie_snapshot_kind kind;
    uint64_t bytes_max;  /* refuse a bundle that takes more on disk; 0: no limit */
    uint32_t timeout_ms; /* 0: KELPIE_BOOT_TIMEOUT_MS_DEFAULT */
    bool track;          /* note from now on what is written, for diffs to this snapshot */
    const char *parent;  /* a diff: only what was written since this bundle; NULL: all of it */
    const char *
        workspace; /* CHECKPOINT: the folder, an absolute guest path; NULL: the config's working_dir */
    uint64_t reserved[6];
};

/* What a bundle is, from its manifest. */
struct kelpie_snapshot {
    char id[KELPIE_ID_SIZE];
    char parent_id[KELPIE_ID_SIZE]; /* of the bundle that it is a diff to, or that its VM was
                                       restored from; or empty */
    char backend[16];
    char backend_version[64];
    char architecture[16];
    enum kelpie_snapshot_kind kind;
    bool quiesced; /* user code stood still in the guest, so that a restore can fix it up first */
    uint64_t created_unix_ms;
    uint64_t bytes; /* on disk, all parts */
    uint64_t reserved[8];
};

struct kelpie_restore_options {
    bool paused; /* leave the VM paused; the report is complete after kelpie_vm_resume() */
    bool allow_incomplete; /* go on although a line of the report failed */
    bool verify_memory;    /* check checksums of memory and disks too: not lazy; for bundles from
                            * elsewhere */
    bool track;            /* note from now on what is written, for diffs to this bundle */
    uint32_t timeout_ms;   /* 0: KELPIE_BOOT_TIMEOUT_MS_DEFAULT */
    bool no_prefetch; /* read nothing ahead, also where kelpie_vm_record_working_set() noted what */
    bool note_working_set; /* kelpie_vm_record_working_set() will be called: be exact */
    uint64_t reserved[7];
};

enum kelpie_outcome {
    KELPIE_OUTCOME_PENDING = 0, /* the guest has not run yet */
    KELPIE_OUTCOME_DONE,
    KELPIE_OUTCOME_FAILED,
    KELPIE_OUTCOME_UNSUPPORTED, /* the backend or the guest has no such thing */
    KELPIE_OUTCOME_COUNT
};

/* What was made fresh before any user code ran in the restored guest. */
struct kelpie_restore_report {
    enum kelpie_outcome entropy;    /* new random bytes credited, the kernel's generator reseeded */
    enum kelpie_outcome generation; /* the guest was told that it is another machine now */
    enum kelpie_outcome clock;
    enum kelpie_outcome network; /* MAC and IP address */
    enum kelpie_outcome hostname;
    enum kelpie_outcome machine_id;
    int64_t clock_skew_ns; /* how far the guest's clock was off before it was set */
    uint64_t reserved[4];
};

/*
 * Writes the VM to a new folder `directory`, which must not exist: the bundle is there whole or not at
 * all. A running VM stands still meanwhile and then goes on; a paused one stays paused.
 *
 * A diff (`parent`) is small and quick, and is restored like any other bundle, as long as its parent, and the parent's
 * own, are where they were: beside it, if they are now, or at the same absolute path. The parent is the VM's last
 * snapshot, or the bundle that it was restored from, and was made (or restored) with `track`; another is BAD_CONFIG, field
 * "parent", as is one that has seven parents already. Tracking costs the guest a little, and ends with the machine. After a
 * snapshot that failed, and after one without `track` of a VM that did not track, the next is a full one.
 *
 * A checkpoint has no machine in it, only the workspace: its files, folders, symbolic and hard links with modes, owners, times and
 * extended attributes. Sockets, FIFOs and devices are left out. Commands stand still while it is read, so that it is of one
 * moment; the kernel of a paused VM runs meanwhile. BAD_CONFIG, field "workspace": none is named (config nor options), or it is
 * "/", or in /dev, /proc, /run or /sys (where secrets are), or something is mounted in it, or a link leads there. NOT_FOUND: there
 * is no such folder. SNAPSHOT_TOO_LARGE: more than KELPIE_TREE_BYTES_DEFAULT or KELPIE_TREE_COUNT_DEFAULT, too. UNSUPPORTED, field "guest":
 * the guest is of a bundle made before there were checkpoints.
 * Errors: BAD_CONFIG, WRONG_STATE, UNSUPPORTED, SNAPSHOT_FAILED, SNAPSHOT_TOO_LARGE, NO_SPACE, CRASHED.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_snapshot(struct kelpie_vm *vm, const char *directory,
                   const struct kelpie_snapshot_options *options,
                   struct kelpie_snapshot *ret_snapshot, struct kelpie_error *err);

/* created|stopped -> running (or paused): the bundle must fit this VM's config and this host.
 * Of a diff, the parents too: field "parent" for one that is missing, damaged (CORRUPT) or another (INCOMPATIBLE).
 * CORRUPT is what the bundle's bytes say; a bundle that could not be read is RESTORE_FAILED (os_error), and may be a good one.
 * A checkpoint fits any VM: it boots (warm, if its config says so), and before any command runs the workspace, the folder of
 * that name here, is made to have just the bundle's content. What a boot makes fresh is DONE in the report. An attribute that the
 * file system there does not know is left out.
 * Errors: SNAPSHOT_CORRUPT, SNAPSHOT_INCOMPATIBLE, RESTORE_FAILED, NOT_FOUND, BACKEND_MISSING, NO_MEMORY, CANCELLED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_restore(struct kelpie_vm *vm, const char *directory,
                  const struct kelpie_restore_options *options, struct kelpie_error *err);

/* Creates a VM with the bundle's config and restores it. Of `config` (may be NULL) only name, hostname,
 * backend (if it names another than the bundle's: an error), hypervisor, console, timeouts and, if the bundle's VM has a
 * network, network are taken. Of a checkpoint: all of `config`, of any backend; without it the bundle's (the image by its digest), on
 * the bundle's backend if that is usable here, else "auto". */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_create_from_snapshot(const char *directory, const struct kelpie_config *config,
                               const struct kelpie_restore_options *options,
                               struct kelpie_vm **ret_vm, struct kelpie_error *err);

/* The report of this VM's last restore, which a warm start may be. WRONG_STATE: its last start was no restore. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_restore_report(struct kelpie_vm *vm, struct kelpie_restore_report *ret_report,
                         struct kelpie_error *err);

/*
 * Notes beside the bundle that this VM was restored from which of its pages of memory the guest has touched so far. The next
 * restores ask the disk for them all at once before the guest runs, when the bundle is not in this host's page cache;
 * when it is, that would not pay and is not done. What was noted before is replaced. It is a hint: the bundle stays what it
 * is, and a note that is damaged is ignored. Of a VM that was restored with note_working_set, not from a pool, on Linux 6.7
 * or later, just those pages are noted; else up to 15 neighbours of each too, and the disk has the more to read. To be
 * done when the guest is where restores usually become useful, and before a snapshot or fork of this VM, which touch
 * everything.
 * Errors: WRONG_STATE (not running or paused, not restored from a bundle on disk, or a snapshot came before), UNSUPPORTED
 * (another backend than kvm), NOT_FOUND and SNAPSHOT_INCOMPATIBLE (the bundle is gone, or another is in its place),
 * SNAPSHOT_CORRUPT, SNAPSHOT_FAILED, NO_SPACE, IO_FAILED, CRASHED.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_record_working_set(struct kelpie_vm *vm,
                                                                          struct kelpie_error *err);

/* Reads a bundle's manifest and checks it, its parts' presence and sizes. Errors: NOT_FOUND, SNAPSHOT_CORRUPT,
 * SNAPSHOT_INCOMPATIBLE, NO_MEMORY, IO_FAILED (it could not be read, and may be a good one). */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_snapshot_inspect(const char *directory, struct kelpie_snapshot *ret_snapshot,
                        struct kelpie_error *err);

/* The same, and every part's checksum; of a diff, those of its parents' memory too. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_snapshot_verify(const char *directory,
                                                                    struct kelpie_error *err);

/* The same where a config's `host` lets VMs run (kelpie_sim.h); NULL: on this machine. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_snapshot_inspect_on(void *host, const char *directory, struct kelpie_snapshot *ret_snapshot,
                           struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_snapshot_verify_on(void *host, const char *directory, struct kelpie_error *err);

/* ---- Forks and pools -------------------------------------------------------------------------- */

#define KELPIE_FORK_COUNT_MAX 1024
#define KELPIE_POOL_SIZE_MAX 256
#define KELPIE_POOL_SIZE_DEFAULT 4

struct kelpie_fork_options {
    const char *name_prefix; /* children are <prefix>-1, <prefix>-2, …; NULL: the parent's name */
    const struct kelpie_config
        *config;           /* as for kelpie_vm_create_from_snapshot(), but for the name; NULL: the
                                         * parent's timeouts */
    bool paused;           /* leave the children paused */
    bool allow_incomplete; /* as in kelpie_restore_options */
    uint32_t timeout_ms;   /* of the parent's part, and of each child's;
                                         * 0: KELPIE_BOOT_TIMEOUT_MS_DEFAULT */
    uint64_t reserved[8];
};

/* What became of one child. */
struct kelpie_fork_child {
    struct kelpie_vm
        *vm; /* running, or paused; the caller's. NULL: it failed, and `error` says why */
    struct kelpie_error error;
};

/*
 * Makes `count` (1 to KELPIE_FORK_COUNT_MAX) VMs that go on from where this one is. A running parent stands still for
 * the moment that it takes to write down its devices, and then goes on; a paused one stays paused. Children share
 * the parent's memory until one of them writes to it. Each is a process of its own, with an id, disks and a restore
 * report of its own, and with fresh entropy, clock, hostname and machine-id before any user code runs in it.
 * OK: every element of children[count] is filled in; look at each. On failure none is.
 * Errors: BAD_CONFIG, WRONG_STATE, UNSUPPORTED, SNAPSHOT_FAILED, CRASHED, NO_MEMORY.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_fork(struct kelpie_vm *vm, const struct kelpie_fork_options *options, size_t count,
               struct kelpie_fork_child *children, struct kelpie_error *err);

/* The same from a bundle: `count` VMs restored from it, which share its memory file's pages. Errors: BAD_CONFIG, NOT_FOUND,
 * SNAPSHOT_CORRUPT, SNAPSHOT_INCOMPATIBLE, NO_MEMORY. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_snapshot_fork(const char *directory, const struct kelpie_fork_options *options, size_t count,
                     struct kelpie_fork_child *children, struct kelpie_error *err);

/*
 * A pool keeps a bundle open and machines prepared for it: processes with their processors made and their memory's
 * place reserved, so that taking a VM costs little more than loading its state. A thread of the pool prepares another
 * when one is taken. What cannot be prepared ahead (a backend without such a thing) is done when a VM is taken.
 */
struct kelpie_pool;

struct kelpie_pool_options {
    const char *name_prefix; /* VMs are <prefix>-1, <prefix>-2, …; NULL: the bundle's VM's name */
    const struct kelpie_config
        *config; /* as for kelpie_vm_create_from_snapshot(), but for the name */
    size_t size; /* machines kept prepared; 0: KELPIE_POOL_SIZE_DEFAULT */
    uint64_t reserved[8];
};

/* Returns when the first machine is prepared. Errors: as kelpie_vm_create_from_snapshot(). */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_pool_create(const char *directory, const struct kelpie_pool_options *options,
                   struct kelpie_pool **ret_pool, struct kelpie_error *err);

/* A VM restored from the pool's bundle, the caller's to destroy; it may outlive the pool. From several threads at once.
 * Errors: as kelpie_vm_restore(). */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_pool_take(struct kelpie_pool *pool, const struct kelpie_restore_options *options,
                 struct kelpie_vm **ret_vm, struct kelpie_error *err);

/* Ends the prepared machines; VMs that were taken go on. NULL is allowed. */
KELPIE_API void kelpie_pool_destroy(struct kelpie_pool *pool);

#ifdef __cplusplus
}
#endif

#endif
