/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie.h: microVM sandboxes behind one interface, whichever hypervisor runs them.
 *
 * A VM is created from a config, started, used, paused, snapshotted, restored and destroyed. The library owns the hypervisor's
 * process: it dies with the caller, unless the config asks for an owner of its own (kelpie_store.h: images, folders, secrets, too).
 * Snapshots, restores and forks stand in kelpie_snapshot.h, which this header includes.
 *
 *     struct kelpie_error err;
 *     struct kelpie_vm *vm = NULL;
 *     struct kelpie_output output = {0};
 *     const char *argv[] = {"uname", "-a", NULL};
 *
 *     if (kelpie_vm_create(&(struct kelpie_config){.memory_mib = 256}, &vm, &err) != KELPIE_OK ||
 *         kelpie_vm_start(vm, &err) != KELPIE_OK ||
 *         kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, &err) != KELPIE_OK) {
 *         fprintf(stderr, "%s\n", err.message);
 *     }
 *     kelpie_output_free(&output);
 *     kelpie_vm_destroy(vm);
 *
 * Ownership: every pointer that a caller passes in is copied before the call returns. What a call
 * hands out is freed by the function named beside it.
 * Threads: a VM handle and an exec handle may be used from several threads at once. Only the
 * functions that free a handle (destroy, close, detach) must be its last use.
 * Errors: a fallible function returns a status, takes `err` last (or NULL), and leaves its `ret_` outputs untouched when it fails.
 * Time: every wait is bounded. A timeout of 0 means the default named beside it.
 * Structures that a caller fills end in `reserved`, which must be zero: later versions add fields
 * there, so that a program compiled against 1.0 keeps working.
 */
#ifndef KELPIE_H
#define KELPIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KELPIE_VERSION_MAJOR 1
#define KELPIE_VERSION_MINOR 1
#define KELPIE_VERSION_PATCH 0

#define KELPIE_API __attribute__((visibility("default")))
#define KELPIE_CHECKED __attribute__((warn_unused_result))

/* ---- Limits ---------------------------------------------------------------------------------- */

#define KELPIE_VCPU_COUNT_MIN 1
#define KELPIE_VCPU_COUNT_MAX 32
#define KELPIE_VCPU_COUNT_DEFAULT 1
#define KELPIE_MEMORY_MIB_MIN 64
#define KELPIE_MEMORY_MIB_MAX 65536
#define KELPIE_MEMORY_MIB_DEFAULT 256
#define KELPIE_NAME_SIZE_MAX 64   /* characters, without the closing zero */
#define KELPIE_PATH_SIZE_MAX 4095 /* bytes, without the closing zero */
#define KELPIE_DISK_COUNT_MAX 8
#define KELPIE_FORWARD_COUNT_MAX 32
#define KELPIE_TAP_NAME_SIZE_MAX 15 /* characters, as Linux has it */
#define KELPIE_ENV_COUNT_MAX 1024
#define KELPIE_ARGV_COUNT_MAX 16384
#define KELPIE_COMMAND_BYTES_MAX 262144 /* argv, env and working_dir of one command, with zeros */
#define KELPIE_KERNEL_ARGS_SIZE_MAX 1024
#define KELPIE_RLIMIT_COUNT_MAX 16
#define KELPIE_EXEC_COUNT_MAX 256      /* sessions of one VM that are not yet closed */
#define KELPIE_TIMEOUT_MS_MAX 86400000 /* one day */
#define KELPIE_STOP_AT_ONCE UINT32_MAX /* of kelpie_vm_stop() */
#define KELPIE_BOOT_TIMEOUT_MS_DEFAULT 60000
#define KELPIE_STOP_TIMEOUT_MS_DEFAULT 10000
#define KELPIE_OPERATION_TIMEOUT_MS_DEFAULT 30000
#define KELPIE_OUTPUT_BYTES_DEFAULT 16777216 /* of each stream that kelpie_vm_exec collects */
#define KELPIE_OUTPUT_BYTES_MAX 1073741824
#define KELPIE_TREE_BYTES_DEFAULT                                                                  \
    17179869184ull                        /* of a folder that is copied, its files together */
#define KELPIE_TREE_COUNT_DEFAULT 1000000 /* of its files, folders and links */
#define KELPIE_TREE_DEPTH_MAX 60          /* of folders in each other */
#define KELPIE_CONSOLE_BYTES_DEFAULT 1048576
#define KELPIE_ID_SIZE 33 /* 32 lower-case hexadecimal digits and the closing zero */

/* ---- Statuses and errors ---------------------------------------------------------------------- */

enum kelpie_status {
    KELPIE_OK = 0,
    KELPIE_BAD_CONFIG,         /* a config, command or option is wrong: err->field names it */
    KELPIE_BACKEND_MISSING,    /* the hypervisor is not here: the message says what to install */
    KELPIE_UNSUPPORTED,        /* this backend cannot do that: see kelpie_vm_capabilities() */
    KELPIE_WRONG_STATE,        /* the VM's state does not allow it: the message names the state */
    KELPIE_BOOT_FAILED,        /* the guest or its monitor ended before it was ready */
    KELPIE_BOOT_TIMED_OUT,     /* the guest was not ready in time */
    KELPIE_EXEC_FAILED,        /* the command could not be started: os_error says why */
    KELPIE_EXEC_TIMED_OUT,     /* the command ran longer than its timeout and was killed */
    KELPIE_CRASHED,            /* the VM's process died: destroy it, or restore it */
    KELPIE_SNAPSHOT_FAILED,    /* writing a bundle failed; none was left behind */
    KELPIE_SNAPSHOT_TOO_LARGE, /* the bundle would exceed the caller's limit */
    KELPIE_SNAPSHOT_CORRUPT,   /* a bundle's part is damaged: err->field names the part */
    KELPIE_SNAPSHOT_INCOMPATIBLE, /* made for something else: err->field names what differs */
    KELPIE_RESTORE_FAILED,        /* the restore did not complete, or its report had a failure */
    KELPIE_NO_SPACE,              /* a disk or a quota is full */
    KELPIE_BUSY,      /* another operation holds the VM, or a limit of count is reached */
    KELPIE_INTERNAL,  /* a peer broke its protocol, or a bug of ours */
    KELPIE_NOT_FOUND, /* a file, a session or a backend of that name does not exist */
    KELPIE_COPY_FAILED, /* a file was not copied, as far as is known: the target is never half of it */
    KELPIE_TIMED_OUT, /* a wait ended at its deadline */
    KELPIE_CANCELLED, /* kelpie_vm_cancel() ended the wait */
    KELPIE_NO_MEMORY,
    KELPIE_IO_FAILED, /* a system call failed: os_error says how */
    KELPIE_STATUS_COUNT
};

struct kelpie_error {
    enum kelpie_status status;
    int os_error;           /* errno of the system call, on the host or in the guest; 0: none */
    bool retriable;         /* the same call may succeed later */
    bool requires_recreate; /* the VM is of no more use: destroy it and create another */
    char field[64];         /* the config field, bundle part or feature that is wrong; or empty */
    char message[1024];     /* one sentence: what was tried, on what, what came of it, what to do */
};

/* The status's name without its prefix, such as "wrong-state". Never NULL. */
KELPIE_API const char *kelpie_status_name(enum kelpie_status status);

/* The library's version, "major.minor.patch". */
KELPIE_API const char *kelpie_version(void);

/* ---- Config ----------------------------------------------------------------------------------- */

/* A disk that the guest sees as a virtio block device, in order /dev/vda, /dev/vdb, … */
struct kelpie_disk {
    const char *path; /* a raw image, or a folder, which is turned into an ext4 image first */
    const char
        *mount;     /* absolute guest path to mount it at; "/" makes it the root; NULL: nowhere */
    bool read_only; /* enforced by the monitor, not by the guest */
    uint64_t reserved[4];
};

enum kelpie_network_kind {
    KELPIE_NETWORK_NONE = 0,
    KELPIE_NETWORK_USER, /* through the program passt, without root: connections to anywhere; from this
                            host to the guest only where a port is forwarded */
    KELPIE_NETWORK_TAP, /* an existing tap interface. The guest's end has no address */
    KELPIE_NETWORK_KIND_COUNT
};

/* What comes to a port of this host's loopback address goes to a port of the guest. */
struct kelpie_forward {
    uint16_t host_port;
    uint16_t guest_port;
    bool udp; /* else TCP */
    uint64_t reserved[2];
};

/*
 * The guest's network interface. With USER it has the address 10.0.2.15/24, the gateway 10.0.2.2, and a name server
 * when this host has one. A restored VM has a MAC address of its own, and none of the connections that were open.
 */
struct kelpie_network {
    enum kelpie_network_kind kind;
    const char *tap; /* TAP: the interface's name */
    const char *
        mac; /* "02:…", six bytes in hexadecimal; NULL: random, locally administered, drawn for each VM */
    const struct kelpie_forward *forwards; /* USER */
    size_t forward_count;
    bool
        host_loopback; /* USER: the gateway's address is this host's 127.0.0.1: what listens there for local
                           programs only is then open to the guest */
    uint64_t reserved[8];
};

/* What the mock backend pretends. Ignored by every other backend. */
struct kelpie_mock_config {
    uint32_t boot_delay_ms;
    const char *architecture; /* such as "aarch64"; NULL: the host's */
    bool fail_boot;           /* the first start fails */
    uint64_t reserved[8];
};

struct kelpie_config {
    const char *name; /* [A-Za-z0-9][A-Za-z0-9_.-]*, up to KELPIE_NAME_SIZE_MAX; NULL: the id */
    const char
        *backend; /* NULL or "auto": the first that can really run a guest here, never mock */
    uint32_t vcpu_count; /* 0: KELPIE_VCPU_COUNT_DEFAULT */
    uint32_t memory_mib; /* 0: KELPIE_MEMORY_MIB_DEFAULT */
    /* A bzImage, or libkrunfw (a shared library with a kernel, told by its content; kvm, which loads it and so
     * runs its code in this process, and libkrun). NULL: $KELPIE_KERNEL, the cache, a download, /boot */
    const char *kernel;
    const char *kernel_args; /* appended to the kernel's command line; NULL: none */
    const struct kelpie_disk *disks;
    size_t disk_count;
    const char *const *env;     /* "KEY=VALUE" for every command, NULL-terminated; may be NULL */
    const char *working_dir;    /* absolute guest path for every command; NULL: "/" */
    const char *hostname;       /* NULL: the VM's name */
    const char *console_log;    /* host file for the guest's console; NULL: only the tail is kept */
    uint64_t console_bytes_max; /* of that file; 0: KELPIE_CONSOLE_BYTES_DEFAULT */
    uint32_t boot_timeout_ms;   /* 0: KELPIE_BOOT_TIMEOUT_MS_DEFAULT */
    uint32_t stop_timeout_ms;   /* 0: KELPIE_STOP_TIMEOUT_MS_DEFAULT; then the VM is killed */
    uint32_t operation_timeout_ms; /* of every other call; 0: KELPIE_OPERATION_TIMEOUT_MS_DEFAULT */
    const struct kelpie_mock_config *mock;
    void *host; /* kelpie_sim_host() of a simulator (kelpie_sim.h); NULL: this machine */
    const struct kelpie_network *network; /* NULL: none */
    const struct kelpie_owner
        *owner; /* kelpie_store.h: the VM outlives this process; NULL: it dies with it */
    const char *
        image; /* of the store, by name or digest: the root, with a writable disk of the VM's own over it;
                          env and working_dir are the image's where the config's are NULL. NULL: none */
    uint32_t image_disk_mib; /* of that disk, sparse; 0: KELPIE_IMAGE_DISK_MIB_DEFAULT */
    bool
        warm; /* a start may restore a template of this very machine, or make one (kelpie_store.h) */
    const struct kelpie_share *shares; /* folders of this host in the guest (kelpie_store.h) */
    size_t share_count;
    const struct kelpie_secret
        *secrets; /* files that only the guest's memory has (kelpie_store.h) */
    size_t secret_count;
    const char *
        disk_folder; /* absolute: keeps the VM's own disks (over an image, or of a restore) for later starts,
                        also by other processes, as disk-N, and which image. NULL: they go with the VM */
    const char *hypervisor; /* the program or library, by path or name, of the backend that is named
                               (qemu, firecracker, libkrun). NULL: the environment's; else as installed */
    uint64_t reserved[6];
};

struct kelpie_owner;
struct kelpie_share;
struct kelpie_secret;

/* ---- VMs -------------------------------------------------------------------------------------- */

enum kelpie_state {
    KELPIE_STATE_CREATED = 0,
    KELPIE_STATE_STARTING,
    KELPIE_STATE_RUNNING,
    KELPIE_STATE_PAUSED, /* frozen in memory: nothing in the guest runs */
    KELPIE_STATE_STOPPED,
    KELPIE_STATE_CRASHED, /* its process died; entered at once, not at the next call */
    KELPIE_STATE_COUNT
};

/* Bits of kelpie_vm_capabilities(). An operation whose bit is missing is KELPIE_UNSUPPORTED. */
enum kelpie_capability {
    KELPIE_CAN_EXEC = 1 << 0,
    KELPIE_CAN_COPY = 1 << 1,
    KELPIE_CAN_PAUSE = 1 << 2,
    KELPIE_CAN_SUSPEND_SNAPSHOT = 1 << 3,
    KELPIE_CAN_TELEPORT_SNAPSHOT = 1 << 4,
    KELPIE_CAN_CHECKPOINT = 1 << 5,
    KELPIE_CAN_FORK = 1 << 6,
    KELPIE_CAN_DISKS = 1 << 7,
    KELPIE_CAN_TTY = 1 << 8,
    KELPIE_CAN_NETWORK = 1 << 9,
    KELPIE_CAN_DIFF_SNAPSHOT = 1 << 10,
    KELPIE_CAN_NETWORK_TAP = 1 << 11, /* without CAN_NETWORK: a network of kind TAP, and no other */
};

struct kelpie_vm;

/* "created", "starting", … Never NULL. */
KELPIE_API const char *kelpie_state_name(enum kelpie_state state);

/*
 * Checks the config, chooses the backend and makes sure that it can be used. Nothing runs yet.
 * Errors: BAD_CONFIG (field), BACKEND_MISSING, NOT_FOUND, NO_MEMORY, IO_FAILED.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_create(const struct kelpie_config *config,
                                                              struct kelpie_vm **ret_vm,
                                                              struct kelpie_error *err);

/*
 * Ends the VM whatever its state, at once and without asking the guest, and frees the handle and
 * everything that the VM left on this host. Exec handles must be closed before. NULL is allowed.
 */
KELPIE_API void kelpie_vm_destroy(struct kelpie_vm *vm);

/*
 * A handle of the VM of that name, or whose id begins so, which has an owner of its own: the same as a handle of a VM of this
 * process. Any number of processes may have one. If its owner is gone, another is started, and finds the VM crashed (or created, or
 * stopped, if that is what it was). host as in kelpie_config.
 * Errors: NOT_FOUND (no such VM), BAD_CONFIG (several ids begin so), BUSY (it is being removed), INTERNAL (an owner of another
 * version), IO_FAILED, NO_MEMORY.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_open(void *host, const char *name, struct kelpie_vm **ret_vm, struct kelpie_error *err);

/* Frees the handle; a VM with an owner of its own goes on. Exec handles must be closed or detached before. Any other
 * VM is destroyed. NULL is allowed. */
KELPIE_API void kelpie_vm_close(struct kelpie_vm *vm);

/* Boots the guest and waits until it runs commands. created|stopped -> starting -> running. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_start(struct kelpie_vm *vm,
                                                             struct kelpie_error *err);

/* Asks the guest to power off, waits `timeout_ms` (0: the config's stop_timeout_ms), then kills. A paused VM is not asked.
 * KELPIE_STOP_AT_ONCE: kills; the guest is neither asked nor awaited, and an operation of another thread ends (CANCELLED, or
 * WRONG_STATE). starting|running|paused -> stopped. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_vm_stop(struct kelpie_vm *vm, uint32_t timeout_ms, struct kelpie_error *err);

/* running -> paused: commands are frozen first, then the vCPUs. Exec sessions stay. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_pause(struct kelpie_vm *vm,
                                                             struct kelpie_error *err);

/* paused -> running: the guest's clock is set before its commands go on. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_resume(struct kelpie_vm *vm,
                                                              struct kelpie_error *err);

/* Ends every wait of other threads on this VM now, with KELPIE_CANCELLED. May be called anywhere
 * but in a signal handler. */
KELPIE_API void kelpie_vm_cancel(struct kelpie_vm *vm);

/* Waits until the state is one of `states` (bits: 1u << enum kelpie_state) and returns it.
 * timeout_ms 0: the config's operation_timeout_ms. Errors: TIMED_OUT, CANCELLED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_wait(struct kelpie_vm *vm, uint32_t states,
                                                            uint32_t timeout_ms,
                                                            enum kelpie_state *ret_state,
                                                            struct kelpie_error *err);

/* Asks the guest for a sign of life: running only. The round trip in nanoseconds. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_ping(struct kelpie_vm *vm, uint64_t *ret_ns,
                                                            struct kelpie_error *err);

/* The state now; a crash is seen at once. */
KELPIE_API enum kelpie_state kelpie_vm_state(struct kelpie_vm *vm);
/* The VM's id, 32 hexadecimal digits. Lives as long as the handle. */
KELPIE_API const char *kelpie_vm_id(const struct kelpie_vm *vm);
/* The name of the backend that was chosen. Lives as long as the library. */
KELPIE_API const char *kelpie_vm_backend(const struct kelpie_vm *vm);
/* Bits of enum kelpie_capability. */
KELPIE_API uint32_t kelpie_vm_capabilities(const struct kelpie_vm *vm);

/* The config in force, defaults filled in. Lives as long as the handle. */
KELPIE_API const struct kelpie_config *kelpie_vm_config(const struct kelpie_vm *vm);

/* The tail of the guest's console: up to `size` bytes, not zero-terminated. Returns how many. */
KELPIE_API size_t kelpie_vm_console(struct kelpie_vm *vm, void *buffer, size_t size);

/* What the VM's own process is: 0 when none runs or the backend has none. For observers only. */
KELPIE_API int kelpie_vm_process_id(struct kelpie_vm *vm);

/* ---- Commands --------------------------------------------------------------------------------- */

struct kelpie_rlimit {
    uint32_t resource; /* Linux's number, such as 7 for RLIMIT_NOFILE */
    uint64_t soft;
    uint64_t hard;
};

struct kelpie_command {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in the guest's PATH */
    const char *const *env;  /* "KEY=VALUE" beside the config's, NULL-terminated; may be NULL */
    const char *working_dir; /* absolute; NULL: the config's */
    uint32_t uid;
    uint32_t gid;
    bool tty; /* run on a terminal: stdout carries both streams */
    uint16_t rows;
    uint16_t columns; /* of the terminal; 0: 24 x 80 */
    bool stdin_open;  /* kelpie_exec_start only: stdin stays open for kelpie_exec_write */
    const void *stdin_data;
    size_t stdin_size;       /* kelpie_vm_exec only: written to stdin, which is then closed */
    uint32_t timeout_ms;     /* then everything the command started is killed; 0: none */
    size_t output_bytes_max; /* kelpie_vm_exec only, each stream; 0: KELPIE_OUTPUT_BYTES_DEFAULT */
    const struct kelpie_rlimit *rlimits;
    size_t rlimit_count;
    uint64_t reserved[8];
};

/* How a command ended. */
struct kelpie_exit {
    int code;   /* its exit code, or 128 + signal */
    int signal; /* 0: it was not ended by one */
    bool timed_out;
    uint64_t stdout_bytes; /* all that it wrote */
    uint64_t stderr_bytes;
    uint64_t reserved[4];
};

/* What kelpie_vm_exec collects. Freed by kelpie_output_free(). */
struct kelpie_output {
    struct kelpie_exit exit;
    char *stdout_data; /* zero-terminated beyond stdout_size */
    size_t stdout_size;
    char *stderr_data;
    size_t stderr_size;
    bool stdout_truncated; /* more came than output_bytes_max; the rest was read and dropped */
    bool stderr_truncated;
    uint64_t duration_ns;
    uint64_t reserved[4];
};

/*
 * Runs a command to its end and collects its output. Without a timeout of its own the call waits
 * as long as the command runs.
 * Errors: BAD_CONFIG, WRONG_STATE, EXEC_FAILED (os_error ENOENT: not found; EACCES: not executable),
 * EXEC_TIMED_OUT, CRASHED, CANCELLED, BUSY (too many sessions), NO_MEMORY.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_vm_exec(struct kelpie_vm *vm,
                                                            const struct kelpie_command *command,
                                                            struct kelpie_output *ret_output,
                                                            struct kelpie_error *err);
KELPIE_API void kelpie_output_free(struct kelpie_output *output);

/* A command that runs while its output is read: an exec session. It outlives pause, snapshot and
 * restore: after a restore elsewhere, kelpie_exec_attach() goes on at the next byte. */
struct kelpie_exec;
enum kelpie_stream {
    KELPIE_STREAM_NONE = 0, /* both streams have ended */
    KELPIE_STREAM_STDOUT = 1,
    KELPIE_STREAM_STDERR = 2,
};

/* One piece of output. */
struct kelpie_chunk {
    void *buffer;              /* in: where to put it */
    size_t size;               /* in: its room; out: how many bytes came */
    uint64_t offset;           /* out: the first byte's place in its stream */
    enum kelpie_stream stream; /* out: which stream; NONE: both have ended, size is 0 */
};

/* Starts a command whose output is read while it runs. Errors: as kelpie_vm_exec(), without EXEC_TIMED_OUT. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_start(struct kelpie_vm *vm,
                                                               const struct kelpie_command *command,
                                                               struct kelpie_exec **ret_exec,
                                                               struct kelpie_error *err);

/* The sessions that the guest holds, by id: up to `capacity` of them; their whole number comes back.
 * `ids` may be NULL when capacity is 0. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_list(struct kelpie_vm *vm, uint32_t *ids,
                                                              size_t capacity, size_t *ret_count,
                                                              struct kelpie_error *err);

/* Takes up a session that no handle of this VM holds, at the first byte that was never read. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_attach(struct kelpie_vm *vm,
                                                                uint32_t exec_id,
                                                                struct kelpie_exec **ret_exec,
                                                                struct kelpie_error *err);
KELPIE_API uint32_t kelpie_exec_id(const struct kelpie_exec *exec);
KELPIE_API bool kelpie_exec_has_tty(const struct kelpie_exec *exec); /* whoever started it */

/* Waits for output of either stream. timeout_ms 0: until there is some, or the VM ends. Of a VM with an owner,
 * a chunk counts as read once this is called again, or the session is detached: what a process that died may not have
 * passed on comes again to whoever attaches.
 * Errors: TIMED_OUT (retriable), CRASHED, CANCELLED, WRONG_STATE (the VM was stopped). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_read(struct kelpie_exec *exec,
                                                              struct kelpie_chunk *chunk,
                                                              uint32_t timeout_ms,
                                                              struct kelpie_error *err);

/* Writes to stdin: at least one byte, unless the command takes none within operation_timeout_ms.
 * Errors: TIMED_OUT (retriable), EXEC_FAILED with os_error EPIPE (it closed its stdin or ended). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_write(struct kelpie_exec *exec,
                                                               const void *data, size_t size,
                                                               size_t *ret_size,
                                                               struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_close_stdin(struct kelpie_exec *exec,
                                                                     struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_resize(struct kelpie_exec *exec,
                                                                uint16_t rows, uint16_t columns,
                                                                struct kelpie_error *err);

/* Sends a signal (1..64) to the command's process group. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_exec_signal(struct kelpie_exec *exec, int signal_number, struct kelpie_error *err);

/* Waits for the command's end; its unread output stays readable. timeout_ms 0: as long as it runs. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_exec_wait(struct kelpie_exec *exec,
                                                              uint32_t timeout_ms,
                                                              struct kelpie_exit *ret_exit,
                                                              struct kelpie_error *err);

/* Kills everything that the command started, forgets the session, frees the handle. NULL is fine. */
KELPIE_API void kelpie_exec_close(struct kelpie_exec *exec);

/* Frees the handle and leaves the session in the guest, for kelpie_exec_attach(). What was written to its
 * stdin still reaches it. NULL is fine. */
KELPIE_API void kelpie_exec_detach(struct kelpie_exec *exec);

/* ---- Files ------------------------------------------------------------------------------------ */

struct kelpie_copy_options {
    uint64_t bytes_max; /* refuse a larger file; 0: no limit for copy_in, 16 GiB for copy_out */
    uint32_t mode;      /* permission bits of the target; 0: as the source's */
    uint64_t reserved[4];
};

/* Copies one regular file into the guest, or out of it. The target appears whole or not at all: it
 * is written beside its place and renamed. After a failure the target is as it was; but of a copy into the guest whose last
 * answer did not come (COPY_FAILED after a timeout or a broken channel, CRASHED, CANCELLED) nobody knows: there it is as it
 * was or the whole new file, now or a little later. `options` may be NULL.
 * Errors: NOT_FOUND, COPY_FAILED (os_error), NO_SPACE, WRONG_STATE, CRASHED, CANCELLED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_copy_in(struct kelpie_vm *vm, const char *host_path, const char *guest_path,
               const struct kelpie_copy_options *options, struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_copy_out(struct kelpie_vm *vm, const char *guest_path, const char *host_path,
                const struct kelpie_copy_options *options, struct kelpie_error *err);

/* Bounds of a folder that is copied. */
struct kelpie_tree_options {
    uint64_t bytes_max; /* refuse more, all files together; 0: KELPIE_TREE_BYTES_DEFAULT */
    uint32_t count_max; /* of files, folders and links; 0: KELPIE_TREE_COUNT_DEFAULT */
    uint64_t reserved[6];
};

/* What was copied of it. */
struct kelpie_tree_report {
    uint64_t file_count;
    uint64_t folder_count; /* below the folder itself */
    uint64_t link_count;
    uint64_t bytes;
    uint64_t
        skipped_count; /* neither file, folder nor link; or, on the way out, a link that leads out of the folder */
    char skipped[256]; /* the first of them, below the folder; cut if longer; or empty */
    uint64_t reserved[4];
};

/*
 * Copies a folder with all that is in it: files, folders and symbolic links (as links, which nobody follows), with their
 * permission bits. Hard links become files of their own. Owners are not copied. What somebody changes, or exchanges for a link,
 * while it is copied leads nowhere else: to an error, or to an older or newer file of the same folder.
 *
 * In: what is there already stays, and files that are in the way are replaced, each whole or not at all; guest_path and the
 * folders above it are made. Out: host_path must not exist, and appears whole or not at all. What the guest sends is not
 * trusted: names that lead out of the folder, a name twice, more than the bounds, more than KELPIE_TREE_DEPTH_MAX folders in
 * each other are COPY_FAILED; links that are absolute or lead out are skipped; set-user-id bits are dropped, and the
 * owner may always read and write.
 * options and ret_report may be NULL. host_path and guest_path are folders; a link is COPY_FAILED with ENOTDIR.
 * Errors: as kelpie_copy_in(). COPY_FAILED with EEXIST: host_path exists.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_copy_tree_in(struct kelpie_vm *vm, const char *host_path, const char *guest_path,
                    const struct kelpie_tree_options *options,
                    struct kelpie_tree_report *ret_report, struct kelpie_error *err);
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_copy_tree_out(struct kelpie_vm *vm, const char *guest_path, const char *host_path,
                     const struct kelpie_tree_options *options,
                     struct kelpie_tree_report *ret_report, struct kelpie_error *err);

/* ---- Backends --------------------------------------------------------------------------------- */

#define KELPIE_BACKEND_COUNT_MAX 16

struct kelpie_backend {
    char name[16];
    char description[128];
    uint32_t capabilities;
};

/* What a look at this machine found. */
struct kelpie_probe {
    bool usable;          /* it can really run a guest here */
    char reason[512];     /* why, or why not */
    char install[256];    /* what to install or do to make it usable; or empty */
    char version[64];     /* of the hypervisor; or empty */
    char accelerator[16]; /* "kvm", "hvf", "tcg", "none"; or empty */
    uint64_t ring0_ns;    /* how long a short kernel-mode payload took on /dev/kvm; 0: not run */
    char shares[512];     /* how guests get shared folders: "live, …" or "copied: …" */
    uint64_t reserved[4];
};

/* Every backend that this library was built with: up to `capacity` of them. Returns their number. */
KELPIE_API size_t kelpie_backend_list(struct kelpie_backend *backends, size_t capacity);

/* Errors: NOT_FOUND (no such backend). A backend that cannot be used is no error: see `usable`. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_backend_probe(const char *name, struct kelpie_probe *ret_probe, struct kelpie_error *err);

/* The same where a config's `host` lets VMs run (kelpie_sim.h); NULL: on this machine. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_backend_probe_on(void *host, const char *name,
                                                                     struct kelpie_probe *ret_probe,
                                                                     struct kelpie_error *err);

/* ---- The mock backend's levers ---------------------------------------------------------------- */

enum kelpie_mock_operation {
    KELPIE_MOCK_START = 0,
    KELPIE_MOCK_EXEC,
    KELPIE_MOCK_PAUSE,
    KELPIE_MOCK_RESUME,
    KELPIE_MOCK_SNAPSHOT,
    KELPIE_MOCK_RESTORE,
    KELPIE_MOCK_OPERATION_COUNT
};

/* The next `count` operations of that kind fail. Errors: UNSUPPORTED (the VM is not a mock). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_mock_fail(struct kelpie_vm *vm,
                                                              enum kelpie_mock_operation operation,
                                                              uint32_t count,
                                                              struct kelpie_error *err);

/* The VM dies now, as if its process had been killed. Errors: UNSUPPORTED, WRONG_STATE. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_mock_crash(struct kelpie_vm *vm,
                                                               struct kelpie_error *err);

#ifdef __cplusplus
}
#endif

#include "kelpie_snapshot.h"

#endif
