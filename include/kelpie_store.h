/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie_store.h: what outlives a process: VMs with an owner of their own, their logs, images, snapshots by name,
 * templates. kelpie.h has the VMs themselves.
 *
 *     struct kelpie_owner owner = {.idle_ms = 3600000};
 *     struct kelpie_config config = {.name = "web", .image = "debian", .owner = &owner};
 *     if (kelpie_vm_create(&config, &vm, &err) == KELPIE_OK && kelpie_vm_start(vm, &err) == KELPIE_OK) {
 *         kelpie_vm_close(vm);       // it runs on; later, in any process of the same user:
 *     }
 *     if (kelpie_vm_open(NULL, "web", &vm, &err) == KELPIE_OK) { … kelpie_vm_destroy(vm); }
 *
 * Where: $XDG_STATE_HOME/kelpie (else ~/.local/state/kelpie) has VMs, logs, snapshots and templates, $XDG_DATA_HOME/kelpie
 * (else ~/.local/share/kelpie) has images, $XDG_RUNTIME_DIR/kelpie (else /run/user/UID/kelpie, else /tmp/kelpie-UID) the
 * owners' sockets. All are the user's alone (0700); a folder that is another's, a link, or open to others is an error.
 * What is there is written by rename and safe to read after a kill at any moment.
 *
 * `host` is a config's `host` (kelpie_sim.h); NULL: this machine. Lists are for kelpie_list_free().
 */
#ifndef KELPIE_STORE_H
#define KELPIE_STORE_H

#include "kelpie.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Limits ---------------------------------------------------------------------------------- */

#define KELPIE_VM_COUNT_MAX 4096
#define KELPIE_LABEL_COUNT_MAX 32
#define KELPIE_LOG_BYTES_DEFAULT 16777216 /* of a VM's log; the oldest goes when more comes */
#define KELPIE_LOG_BYTES_MAX 1073741824
#define KELPIE_SHARE_COUNT_MAX 8
#define KELPIE_SECRET_COUNT_MAX 32
#define KELPIE_SECRET_BYTES_MAX 65536
#define KELPIE_IMAGE_COUNT_MAX 1024
#define KELPIE_IMAGE_DISK_MIB_DEFAULT 8192
#define KELPIE_IMAGE_DISK_MIB_MAX 1048576
#define KELPIE_SNAPSHOT_COUNT_MAX 4096
#define KELPIE_TEMPLATE_BYTES_DEFAULT 8589934592ull /* all templates together, on disk */
#define KELPIE_DIGEST_SIZE 72                       /* "sha256:", 64 digits and the closing zero */

/* ---- VMs with an owner of their own ----------------------------------------------------------- */

/*
 * Asks for a process of its own that owns the VM, serves it on a socket to any process of the same user, and outlives
 * them all. It ends with the VM, or KELPIE_OWNER_LINGER_MS after the last handle was closed on a VM that does not run.
 * A handle that has lost its owner (INTERNAL, CRASHED) cannot destroy the VM: kelpie_vm_remove() can.
 */
#define KELPIE_OWNER_LINGER_MS 10000

struct kelpie_owner {
    const char *
        program; /* run as `program supervise`: kelpie_supervise(). NULL: $KELPIE_PROGRAM, or kelpie in PATH */
    uint64_t lifetime_ms; /* the VM is stopped so long after it was created; 0: never */
    uint64_t idle_ms; /* stopped after so long without a command, a copy and a handle; 0: never */
    uint64_t log_bytes_max;    /* 0: KELPIE_LOG_BYTES_DEFAULT */
    bool remove;               /* removed with all it has when it has ended */
    bool ends_with_command;    /* stopped when the command of kelpie_vm_run_detached() has ended */
    const char *const *labels; /* "KEY=VALUE", NULL-terminated; may be NULL */
    uint64_t reserved[8];
};

/* What an owner's process does: called by `kelpie supervise`, or by a program that is its own owner, with the descriptor 3 that
 * it was started with. When stop_fd is readable (a signalfd; -1: none) the VM is stopped in order. Returns the exit code. host
 * NULL: this machine. */
KELPIE_API int kelpie_supervise(void *host, int fd, int stop_fd);

/* How a VM's detached command ended, and why a VM is not there any more. */
struct kelpie_vm_info {
    char id[KELPIE_ID_SIZE];
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char backend[16];
    char image[KELPIE_NAME_SIZE_MAX + 1];  /* its name when the VM was made; or empty */
    char image_digest[KELPIE_DIGEST_SIZE]; /* which file system that was; or empty */
    enum kelpie_state state;               /* of a VM whose owner died while it ran: crashed */
    uint32_t vcpu_count;
    uint32_t memory_mib;
    uint64_t created_unix_ms;
    uint64_t started_unix_ms; /* the last time; 0: never */
    uint64_t ended_unix_ms;   /* 0: it runs, or never ran */
    int owner_pid;            /* 0: no owner runs */
    bool command_known;       /* there is, or was, a detached command */
    bool command_ended;
    uint32_t command_exec_id;
    struct kelpie_exit command_exit;
    char reason[256];    /* why it crashed, or was stopped by its owner; or empty */
    char labels[1024];   /* "KEY=VALUE" lines */
    uint64_t disk_bytes; /* what its folder takes on disk */
    enum kelpie_status
        status; /* KELPIE_OK, or why its record cannot be read: then only name, reason and disk_bytes are known */
    uint64_t reserved[7];
};

/* Frees what a function of this header handed out as a list, an image or an array. NULL is allowed. */
KELPIE_API void kelpie_list_free(void *list);

/* Every VM of this user with an owner of its own, the oldest first; one whose record cannot be read is there too, and says why.
 * What a dead owner left in sockets is cleaned on the way. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_list(void *host,
                                                            struct kelpie_vm_info **ret_list,
                                                            size_t *ret_count,
                                                            struct kelpie_error *err);

/* One of them, by name or the beginning of its id. Errors: NOT_FOUND, BAD_CONFIG (several ids begin so). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_find(void *host, const char *name,
                                                            struct kelpie_vm_info *ret_info,
                                                            struct kelpie_error *err);

/* Ends it if it runs and force is set (else WRONG_STATE), and removes all that it has: log, disk. Snapshots stay. A record that
 * cannot be read is no hindrance, unless an owner lives that nobody can then ask: BUSY. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_remove(void *host, const char *name,
                                                              bool force, struct kelpie_error *err);

/*
 * Its owner starts the command and writes its output to the VM's log; *ret_exec_id can be attached to, and what an
 * attached reader takes goes to the log too. One for each start of the VM. stdin is closed unless stdin_open or tty.
 * Errors: as kelpie_exec_start(); UNSUPPORTED (a VM of this process), BUSY (there is one already).
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_run_detached(struct kelpie_vm *vm, const struct kelpie_command *command,
                       uint32_t *ret_exec_id, struct kelpie_error *err);

/* Waits for the detached command's end, in whichever process. timeout_ms 0: as long as it runs. Errors: NOT_FOUND (there
 * was none), TIMED_OUT, CRASHED, CANCELLED, WRONG_STATE (the VM was stopped before it ended), UNSUPPORTED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_wait_detached(struct kelpie_vm *vm,
                                                                     uint32_t timeout_ms,
                                                                     struct kelpie_exit *ret_exit,
                                                                     struct kelpie_error *err);

/* What the VM uses now. */
struct kelpie_stats {
    uint64_t cpu_ns;                /* of its monitor's process, since it started */
    uint64_t memory_bytes;          /* resident, of the monitor */
    uint64_t guest_memory_bytes;    /* that the guest has; the config's when it has not said */
    uint64_t guest_available_bytes; /* of it, what the guest says it has left; 0: not known */
    uint64_t disk_bytes;            /* its writable disks, on disk */
    uint64_t uptime_ns;             /* since it was started or restored */
    uint32_t exec_count;            /* sessions in the guest */
    uint64_t reserved[8];
};

/* Of a paused VM the guest is not asked, and cpu_ns and memory_bytes are 0 of a mock, which is no process. Errors: WRONG_STATE
 * (not running or paused), BUSY, CRASHED, IO_FAILED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats, struct kelpie_error *err);

/* ---- Logs ------------------------------------------------------------------------------------- */

/* A piece of the detached command's output, as it came. */
struct kelpie_log_entry {
    uint64_t unix_ms;
    enum kelpie_stream stream;
    uint64_t offset;  /* of its first byte in its stream */
    const char *data; /* valid until the next read of the same log */
    size_t size;
};

struct kelpie_log;

/* A VM's log, which may be written meanwhile; there for a VM that has ended too. Errors: NOT_FOUND. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_log_open(void *host, const char *name,
                                                             struct kelpie_log **ret_log,
                                                             struct kelpie_error *err);

/* The next piece, oldest first. timeout_ms: how long to wait for more when all was read (0: not at all). Errors:
 * TIMED_OUT (no more for now), NOT_FOUND (no more for ever: the command has ended, or the VM is removed). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_log_read(struct kelpie_log *log,
                                                             uint32_t timeout_ms,
                                                             struct kelpie_log_entry *ret_entry,
                                                             struct kelpie_error *err);
KELPIE_API void kelpie_log_close(struct kelpie_log *log);

/* ---- Shared folders and secrets --------------------------------------------------------------- */

/*
 * A folder of this host in the guest, from each start on, in one of two ways:
 *     - live: the guest sees the folder itself, by virtio-fs, and what either side writes the other reads at once. The backend qemu
 *       can, where this machine has a virtiofsd that does what is asked of it (KELPIE_VIRTIOFSD names another program): the one in
 *       Rust for every user, and read-only folders since its 1.11; QEMU's own, in C, for root and writable folders only. The guest's
 *       kernel must have virtio-fs. What the guest's root makes there belongs to this process's user. Such a VM cannot be saved or
 *       forked: UNSUPPORTED, field "shares".
 *     - copied: its content is copied into the guest (kelpie_copy_tree_in(), with its default bounds), and nothing comes back but
 *       by kelpie_copy_tree_out(). A restored or forked VM has what its memory and disks have.
 * Unless one of the two is asked for, it is live where it can be, but copied with config.warm. kelpie_vm_live_shares() says which
 * it is. A restored or forked VM has no live ones until it is started anew.
 */
struct kelpie_share {
    const char *path;  /* of the host; a folder */
    const char *mount; /* absolute, of the guest */
    bool read_only;    /* what the guest writes never reaches the host: true of each copy */
    bool copy;         /* never live */
    bool live;         /* never copied: UNSUPPORTED, field "shares[i].live", where it cannot be */
    uint64_t reserved[4];
};

/* Which shared folders the guest sees live now: bit i is that of config.shares[i]. 0 of a VM that does not run. */
KELPIE_API uint32_t kelpie_vm_live_shares(struct kelpie_vm *vm);

/* A file under /run/secrets in the guest, mode 0400, root's, in memory only. Its bytes are in no argument, no environment of
 * any process of the host, no log, no manifest; a snapshot's memory has them, as it has all of the guest. */
struct kelpie_secret {
    const char *name; /* as a VM's name */
    const void *data;
    size_t size; /* up to KELPIE_SECRET_BYTES_MAX */
    uint64_t reserved[4];
};

/* ---- Images ----------------------------------------------------------------------------------- */

enum kelpie_image_source {
    KELPIE_IMAGE_FOLDER =
        0, /* a root file system, as it lies there, without what is mounted below it, and sockets */
    KELPIE_IMAGE_TAR, /* one; compressed or not */
    KELPIE_IMAGE_OCI, /* an OCI image layout: a folder with index.json (OCI image-layout 1.0), or a tar of one */
};

struct kelpie_image_options {
    enum kelpie_image_source source;
    const char *path;
    const char *
        reference; /* OCI: which manifest of several, by org.opencontainers.image.ref.name; NULL: the only one */
    const char
        *architecture; /* OCI: "amd64" or "x86_64", "arm64" or "aarch64", …; NULL: this machine's */
    uint64_t
        bytes_max; /* refuse archives that unpack to more, and files that are longer together; 0: 16 GiB */
    uint64_t reserved[8];
};

/* What an image is, and what its maker wants run (OCI image-spec, config). */
struct kelpie_image {
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char digest[KELPIE_DIGEST_SIZE];     /* of the file system's bytes */
    char format[16];                     /* "erofs" */
    char architecture[16];               /* in OCI's words: "amd64"; or empty */
    char path[KELPIE_PATH_SIZE_MAX + 1]; /* of the file system */
    uint64_t bytes;                      /* on disk */
    uint64_t created_unix_ms;
    uint32_t uid; /* of the image's user */
    uint32_t gid;
    char working_dir[KELPIE_PATH_SIZE_MAX + 1]; /* or empty */
    const char *const *argv; /* entrypoint and command; NULL-terminated, may be empty */
    const char *const *env;
    size_t entrypoint_count; /* how many of argv stay when a user gives words of their own */
    uint64_t reserved[8];
};

/* Builds a read-only file system of the source, without root, and gives it the name; an image of that name is replaced, and
 * stays for the VMs that use it. *ret_image is for kelpie_list_free(). Errors: BAD_CONFIG (the source is wrong: field and message say
 * what), NOT_FOUND, NO_SPACE (bytes_max, or the disk), BACKEND_MISSING (a folder as the source takes GNU tar), BUSY, IO_FAILED,
 * NO_MEMORY. The same source gives the same digest on every machine. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_image_build(void *host, const char *name, const struct kelpie_image_options *options,
                   struct kelpie_image **ret_image, struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_image_list(void *host,
                                                               struct kelpie_image **ret_list,
                                                               size_t *ret_count,
                                                               struct kelpie_error *err);

/* By name, or by digest or the beginning of one (four digits and more). A file system whose name went to a later build is found by
 * its whole digest, with no more than that known of it. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_image_find(void *host, const char *name,
                                                               struct kelpie_image **ret_image,
                                                               struct kelpie_error *err);

/* Errors: NOT_FOUND; BUSY: a VM, running or not, or a snapshot in the store needs it; with force it is removed all the same, and
 * they cannot be started or restored any more. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_image_remove(void *host, const char *name, bool force, struct kelpie_error *err);

/* ---- Snapshots by name ------------------------------------------------------------------------ */

/* Where the bundle of that name is, or would be, for kelpie_vm_snapshot(), kelpie_vm_restore(). A name with a '/' is a path and
 * stays one. Errors: BAD_CONFIG. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_snapshot_path(void *host, const char *name,
                                                                  char *path, size_t size,
                                                                  struct kelpie_error *err);

struct kelpie_snapshot_info {
    char name[KELPIE_NAME_SIZE_MAX + 1];
    struct kelpie_snapshot snapshot;
    char vm_name[KELPIE_NAME_SIZE_MAX + 1]; /* of the VM that it was made of */
    enum kelpie_status status;              /* KELPIE_OK, or why the bundle cannot be used */
    uint64_t reserved[4];
};

/* Every snapshot that has a name in the store; one that cannot be used is there too, and says why. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_snapshot_list(void *host, struct kelpie_snapshot_info **ret_list, size_t *ret_count,
                     struct kelpie_error *err);

/* Errors: NOT_FOUND; BUSY: a diff in the store has it as its parent (the message names it). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_snapshot_remove(void *host, const char *name,
                                                                    struct kelpie_error *err);

/* ---- Templates and pruning -------------------------------------------------------------------- */

/*
 * A template is a bundle of a machine that has just started, for VMs with `warm`: it is found by everything that made it
 * (kernel, guest, image, backend and its version, processors, memory, disks). It is verified when it is made, and thrown away when
 * a restore from it fails, which then is a boot.
 */
struct kelpie_prune_options {
    bool dry_run;   /* only say what would go */
    bool vms;       /* those that have ended: created, stopped or crashed, with no owner */
    bool images;    /* those that no VM uses */
    bool templates; /* all of them; else only those beyond template_bytes_max */
    uint64_t template_bytes_max; /* 0: KELPIE_TEMPLATE_BYTES_DEFAULT */
    uint64_t reserved[4];
};

/* What is always removed: leftovers of processes that were killed. */
struct kelpie_prune_report {
    uint32_t vms;
    uint32_t images;
    uint32_t templates;
    uint32_t leftovers;
    uint64_t bytes; /* on disk, all of them */
    uint64_t reserved[4];
};

/* Removes what the options say, and always what killed processes left. *ret_report says what went or, with dry_run, what
 * would. Errors: IO_FAILED, NO_MEMORY. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_prune(void *host, const struct kelpie_prune_options *options,
             struct kelpie_prune_report *ret_report, struct kelpie_error *err);

#ifdef __cplusplus
}
#endif

#endif
