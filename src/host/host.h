/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * host.h: the seam to the outside world. Everything that the library asks of a machine (clocks,
 * random bytes, files, sockets, processes, threads, memory) goes through a `struct host`, which is
 * handed down from the API. host_linux.c makes it of system calls; a simulator makes it of virtual
 * time; a test wraps one in another and lets the n-th call fail.
 *
 * A descriptor is an int that means something to its host only. Functions that may wait take a
 * `struct host_wait`: until when, and what ends the wait early. No call waits without one, but for
 * mutexes, which are held for short, bounded pieces of work.
 *
 *     struct host_wait wait = host_wait_ms(host, 5000, cancel_event);
 *     size_t count = 0;
 *     TRY(host_read(host, fd, buffer, sizeof(buffer), &wait, &count, err))
 *
 * Threads: a host may be used from several threads at once. Each descriptor, process, thread or
 * mutex belongs to the host that made it and is closed there.
 */
#ifndef KELPIE_HOST_HOST_H
#define KELPIE_HOST_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "host/host_limits.h"

struct host;
struct host_mutex;
struct host_condition;
struct host_thread;
struct host_process;
struct host_krunfw;
struct host_below;
struct host_received;

/* How long to wait. deadline_ns is on host_monotonic_ns()'s clock; a deadline in the past asks
 * without waiting. cancel_fd is a host event (host_event_create) that ends the wait with
 * KELPIE_CANCELLED as long as it is set, or HOST_FD_NONE. */
struct host_wait {
    uint64_t deadline_ns;
    int cancel_fd;
};

#define HOST_FD_NONE (-1)
#define HOST_NS_PER_MS 1000000ull
#define HOST_NS_PER_S 1000000000ull

enum host_open_flag {
    HOST_OPEN_READ = 1 << 0,
    HOST_OPEN_WRITE = 1 << 1,
    HOST_OPEN_CREATE = 1 << 2,    /* with mode; close-on-exec always */
    HOST_OPEN_EXCLUSIVE = 1 << 3, /* with CREATE: it must not exist (EEXIST) */
    HOST_OPEN_TRUNCATE = 1 << 4,
    HOST_OPEN_NO_FOLLOW = 1 << 5, /* refuse a symbolic link as the last part (ELOOP) */
    HOST_OPEN_UNNAMED = 1 << 6,   /* a new file without a name in the folder `path`, with mode:
                                   * host_file_link() gives it one (EOPNOTSUPP, EISDIR: it cannot) */
};

enum host_file_type {
    HOST_FILE_REGULAR = 0,
    HOST_FILE_FOLDER,
    HOST_FILE_LINK,
    HOST_FILE_OTHER,
};

struct host_file_info {
    enum host_file_type type;
    uint32_t mode; /* permission bits */
    uint32_t uid;
    uint64_t size;           /* bytes, by length */
    uint64_t allocated_size; /* bytes, on the disk */
    uint64_t modified_ns;    /* realtime */
    uint64_t inode;
    uint64_t device;
};

struct host_dir_entry {
    char name[HOST_NAME_SIZE_MAX + 1];
};

enum host_poll_event {
    HOST_POLL_READ = 1 << 0, /* readable, or at its end, or broken: a read says which */
    HOST_POLL_WRITE = 1 << 1,
};

struct host_poll_item {
    int fd;         /* HOST_FD_NONE: ignored */
    uint32_t asked; /* bits of enum host_poll_event */
    uint32_t ready; /* out */
};

/* Which of our descriptors the child gets, and under which number. */
struct host_process_fd {
    int child_fd;
    int fd;
};

struct host_process_spec {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH unless it has a '/' */
    const char *const *env;  /* NULL-terminated; NULL: ours */
    const char *working_dir; /* NULL: ours */
    const struct host_process_fd *fds; /* all others are closed; 0, 1, 2 not listed are /dev/null */
    size_t fd_count;
    bool dies_with_owner; /* killed when this process ends, however it ends */
    bool new_session;     /* setsid: no terminal's signals */
    bool
        detached; /* it outlives us: a session of its own, and not our child; without dies_with_owner */
};

struct host_process_exit {
    int code;   /* exit code; 0 when a signal ended it */
    int signal; /* 0: it exited by itself */
};

/* What a process has used. */
struct host_process_usage {
    uint64_t cpu_ns;         /* all its threads, since it started; not its children */
    uint64_t resident_bytes; /* of memory, now; what is shared with others counts in each */
};

struct host_memory_map {
    void *data;
    size_t size;
};

enum host_map_flag {
    HOST_MAP_READ = 0,
    HOST_MAP_PRIVATE_WRITE, /* writes stay in this mapping */
    HOST_MAP_SHARED_WRITE,
};

typedef void (*host_thread_entry)(void *argument);

/* What a host must be able to do. The wrappers below document each; they assert the arguments and
 * then call these. Every int descriptor handed out is >= 0. */
struct host_ops {
    void (*destroy)(struct host *host);

    uint64_t (*monotonic_ns)(struct host *host);
    uint64_t (*realtime_ns)(struct host *host);
    uint64_t (*ticks)(struct host *host);
    enum kelpie_status (*sleep)(struct host *host, const struct host_wait *wait,
                                struct kelpie_error *err);
    enum kelpie_status (*random)(struct host *host, void *buffer, size_t size,
                                 struct kelpie_error *err);
    const char *(*environment)(struct host *host, const char *name);
    void *(*allocate)(struct host *host, size_t size);
    uint32_t (*user_id)(struct host *host);
    int (*own_process_id)(struct host *host);
    enum kelpie_status (*working_dir)(struct host *host, char *buffer, size_t size,
                                      struct kelpie_error *err);

    enum kelpie_status (*file_open)(struct host *host, const char *path, uint32_t flags,
                                    uint32_t mode, int *ret_fd, struct kelpie_error *err);
    enum kelpie_status (*file_read_at)(struct host *host, int fd, void *buffer, size_t size,
                                       uint64_t offset, size_t *ret_size, struct kelpie_error *err);
    enum kelpie_status (*file_write_at)(struct host *host, int fd, const void *data, size_t size,
                                        uint64_t offset, struct kelpie_error *err);
    enum kelpie_status (*file_stat)(struct host *host, int fd, struct host_file_info *ret_info,
                                    struct kelpie_error *err);
    enum kelpie_status (*file_truncate)(struct host *host, int fd, uint64_t size,
                                        struct kelpie_error *err);
    enum kelpie_status (*file_sync)(struct host *host, int fd, struct kelpie_error *err);
    enum kelpie_status (*file_link)(struct host *host, int fd, const char *path,
                                    struct kelpie_error *err);
    enum kelpie_status (*file_next_data)(struct host *host, int fd, uint64_t offset,
                                         uint64_t *ret_start, uint64_t *ret_end,
                                         struct kelpie_error *err);
    enum kelpie_status (*file_lock)(struct host *host, int fd, bool exclusive,
                                    struct kelpie_error *err);
    enum kelpie_status (*file_map)(struct host *host, int fd, size_t size, enum host_map_flag flag,
                                   struct host_memory_map *ret_map, struct kelpie_error *err);
    void (*file_unmap)(struct host *host, struct host_memory_map *map);
    enum kelpie_status (*memory_file)(struct host *host, const char *name, uint64_t size,
                                      int *ret_fd, struct kelpie_error *err);

    enum kelpie_status (*path_stat)(struct host *host, const char *path,
                                    struct host_file_info *ret_info, struct kelpie_error *err);
    enum kelpie_status (*path_rename)(struct host *host, const char *from, const char *to,
                                      bool replace, struct kelpie_error *err);
    enum kelpie_status (*path_unlink)(struct host *host, const char *path,
                                      struct kelpie_error *err);
    enum kelpie_status (*path_mkdir)(struct host *host, const char *path, uint32_t mode,
                                     struct kelpie_error *err);
    enum kelpie_status (*path_rmdir)(struct host *host, const char *path, struct kelpie_error *err);
    enum kelpie_status (*below)(struct host *host, struct host_below *call,
                                struct kelpie_error *err); /* host_below.h */
    enum kelpie_status (*path_remove_tree)(struct host *host, const char *path,
                                           struct kelpie_error *err);
    enum kelpie_status (*path_symlink)(struct host *host, const char *target, const char *path,
                                       struct kelpie_error *err);
    enum kelpie_status (*path_readlink)(struct host *host, const char *path, char *buffer,
                                        size_t size, struct kelpie_error *err);
    enum kelpie_status (*path_sync)(struct host *host, const char *path, struct kelpie_error *err);
    enum kelpie_status (*dir_list)(struct host *host, const char *path,
                                   struct host_dir_entry *entries, size_t capacity,
                                   size_t *ret_count, struct kelpie_error *err);

    enum kelpie_status (*kvm_probe)(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                    struct kelpie_error *err); /* host_kvm.h */
    enum kelpie_status (*krunfw_load)(struct host *host, const char *path,
                                      struct host_krunfw *ret_kernel,
                                      struct kelpie_error *err); /* host_krunfw.h */

    enum kelpie_status (*tap_open)(struct host *host, const char *name, int *ret_fd,
                                   struct kelpie_error *err);
    enum kelpie_status (*socket_pair)(struct host *host, int ret_fds[2], struct kelpie_error *err);
    enum kelpie_status (*socket_listen)(struct host *host, const char *path, int *ret_fd,
                                        struct kelpie_error *err);
    enum kelpie_status (*socket_accept)(struct host *host, int fd, const struct host_wait *wait,
                                        int *ret_fd, struct kelpie_error *err);
    enum kelpie_status (*socket_connect)(struct host *host, const char *path,
                                         const struct host_wait *wait, int *ret_fd,
                                         struct kelpie_error *err);
    enum kelpie_status (*socket_listen_tcp)(struct host *host, const char *address, uint16_t port,
                                            int *ret_fd, uint16_t *ret_port,
                                            struct kelpie_error *err);
    enum kelpie_status (*socket_connect_tcp)(struct host *host, const char *address, uint16_t port,
                                             const struct host_wait *wait, int *ret_fd,
                                             struct kelpie_error *err);
    enum kelpie_status (*socket_peer)(struct host *host, int fd, uint32_t *ret_uid,
                                      struct kelpie_error *err);
    enum kelpie_status (*socket_send_fd)(struct host *host, int fd, const void *data, size_t size,
                                         int passed_fd, struct kelpie_error *err);
    enum kelpie_status (*receive)(struct host *host, int fd, void *buffer, size_t size,
                                  const struct host_wait *wait, struct host_received *ret_received,
                                  struct kelpie_error *err);
    enum kelpie_status (*read)(struct host *host, int fd, void *buffer, size_t size,
                               const struct host_wait *wait, size_t *ret_size,
                               struct kelpie_error *err);
    enum kelpie_status (*write)(struct host *host, int fd, const void *data, size_t size,
                                const struct host_wait *wait, size_t *ret_size,
                                struct kelpie_error *err);
    enum kelpie_status (*poll)(struct host *host, struct host_poll_item *items, size_t count,
                               const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*event_create)(struct host *host, int *ret_fd, struct kelpie_error *err);
    void (*event_set)(struct host *host, int fd);
    void (*event_clear)(struct host *host, int fd);
    void (*close)(struct host *host, int fd);

    enum kelpie_status (*process_spawn)(struct host *host, const struct host_process_spec *spec,
                                        struct host_process **ret_process,
                                        struct kelpie_error *err);
    int (*process_fd)(struct host_process *process);
    int (*process_id)(struct host_process *process);
    enum kelpie_status (*process_usage)(struct host *host, int process_id,
                                        struct host_process_usage *ret_usage,
                                        struct kelpie_error *err);
    enum kelpie_status (*process_signal)(struct host_process *process, int signal_number,
                                         struct kelpie_error *err);
    enum kelpie_status (*process_wait)(struct host_process *process, const struct host_wait *wait,
                                       struct host_process_exit *ret_exit,
                                       struct kelpie_error *err);
    void (*process_destroy)(struct host_process *process);

    enum kelpie_status (*thread_start)(struct host *host, const char *name, host_thread_entry entry,
                                       void *argument, struct host_thread **ret_thread,
                                       struct kelpie_error *err);
    void (*thread_join)(struct host_thread *thread);
    enum kelpie_status (*mutex_create)(struct host *host, struct host_mutex **ret_mutex,
                                       struct kelpie_error *err);
    void (*mutex_destroy)(struct host_mutex *mutex);
    void (*mutex_lock)(struct host_mutex *mutex);
    void (*mutex_unlock)(struct host_mutex *mutex);
    enum kelpie_status (*condition_create)(struct host *host, struct host_condition **ret_condition,
                                           struct kelpie_error *err);
    void (*condition_destroy)(struct host_condition *condition);
    bool (*condition_wait)(struct host_condition *condition, struct host_mutex *mutex,
                           uint64_t deadline_ns);
    void (*condition_broadcast)(struct host_condition *condition);
};

/* An implementation embeds this as its first member. Processes, threads, mutexes and conditions of
 * an implementation begin with a `struct host *` so that the wrappers find their way back. */
struct host {
    const struct host_ops *ops;
    uint32_t more_owners;      /* beside the first */
    const void *constant_data; /* of host_constant_file() */
    int constant_fd_plus_one;  /* 0: there is none */
};

/* ---- Making one ------------------------------------------------------------------------------- */

/* This machine. Destroyed by host_destroy(), after everything that came of it. */
KELPIE_CHECKED enum kelpie_status host_linux_create(struct host **ret_host,
                                                    struct kelpie_error *err);

/* One more owner: the last host_destroy() destroys. From any thread. */
void host_share(struct host *host);
void host_destroy(struct host *host);

/* ---- Time ------------------------------------------------------------------------------------- */

uint64_t host_monotonic_ns(struct host *host); /* never goes back; not counted from anything */
uint64_t host_realtime_ns(struct host *host);  /* since 1970-01-01 UTC */

/* The processor's time stamp counter; 0: there is none. */
uint64_t host_ticks(struct host *host);

/* A wait that ends timeout_ms from now (saturating), or when cancel_fd is set. */
struct host_wait host_wait_ms(struct host *host, uint64_t timeout_ms, int cancel_fd);

/* A wait that is over already: ask, do not wait. */
struct host_wait host_wait_none(void);

/* Returns OK at the deadline, CANCELLED before it. */
KELPIE_CHECKED enum kelpie_status host_sleep(struct host *host, const struct host_wait *wait,
                                             struct kelpie_error *err);

/* ---- Random bytes, environment, memory -------------------------------------------------------- */

/* Fills the buffer from the system's cryptographic generator. size <= HOST_RANDOM_SIZE_MAX. */
KELPIE_CHECKED enum kelpie_status host_random(struct host *host, void *buffer, size_t size,
                                              struct kelpie_error *err);

/* An environment variable's value, or NULL when it is unset or empty. */
const char *host_environment(struct host *host, const char *name);

/* The user that this process acts as (the effective one), as host_socket_peer() names it to others. */
uint32_t host_user_id(struct host *host);

/* This process's. */
int host_own_process_id(struct host *host);

/* The absolute path of this process's working folder. NO_SPACE: it does not fit; NOT_FOUND: it was removed. */
KELPIE_CHECKED enum kelpie_status host_working_dir(struct host *host, char *buffer, size_t size,
                                                   struct kelpie_error *err);

/* Zeroed memory for free(); NULL and NO_MEMORY when there is none. size > 0. */
void *host_allocate(struct host *host, size_t size, struct kelpie_error *err);

/* A copy of a string for free(); NULL and NO_MEMORY when there is no room. */
char *host_duplicate(struct host *host, const char *text, struct kelpie_error *err);

/* ---- Files ------------------------------------------------------------------------------------ */

/* flags: enum host_open_flag. mode: permission bits for a created file. Errors by errno. */
KELPIE_CHECKED enum kelpie_status host_file_open(struct host *host, const char *path,
                                                 uint32_t flags, uint32_t mode, int *ret_fd,
                                                 struct kelpie_error *err);

/* Reads up to size bytes at offset; fewer only at the end of the file. */
KELPIE_CHECKED enum kelpie_status host_file_read_at(struct host *host, int fd, void *buffer,
                                                    size_t size, uint64_t offset, size_t *ret_size,
                                                    struct kelpie_error *err);

/* Writes all of them at offset. */
KELPIE_CHECKED enum kelpie_status host_file_write_at(struct host *host, int fd, const void *data,
                                                     size_t size, uint64_t offset,
                                                     struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_file_stat(struct host *host, int fd,
                                                 struct host_file_info *ret_info,
                                                 struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_file_truncate(struct host *host, int fd, uint64_t size,
                                                     struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_file_sync(struct host *host, int fd,
                                                 struct kelpie_error *err);

/* Gives a file that was opened UNNAMED the name `path`, which must not exist (IO_FAILED with EEXIST). */
KELPIE_CHECKED enum kelpie_status host_file_link(struct host *host, int fd, const char *path,
                                                 struct kelpie_error *err);

/* The next run of bytes that are not a hole, at or behind offset: [start, end). At the end of the
 * file both are the file's size. A file system without holes has one run. */
KELPIE_CHECKED enum kelpie_status host_file_next_data(struct host *host, int fd, uint64_t offset,
                                                      uint64_t *ret_start, uint64_t *ret_end,
                                                      struct kelpie_error *err);

/* An advisory lock of the open file (flock), without waiting: BUSY when another has it. Children do
 * not inherit it. */
KELPIE_CHECKED enum kelpie_status host_file_lock(struct host *host, int fd, bool exclusive,
                                                 struct kelpie_error *err);

/* Maps the file's first size (> 0) bytes. Unmapped by host_file_unmap(), which takes a zero map too. */
KELPIE_CHECKED enum kelpie_status host_file_map(struct host *host, int fd, size_t size,
                                                enum host_map_flag flag,
                                                struct host_memory_map *ret_map,
                                                struct kelpie_error *err);
void host_file_unmap(struct host *host, struct host_memory_map *map);

/* A memory file with these bytes, which never change (one constant for each host). It is made once; the host closes it. */
KELPIE_CHECKED enum kelpie_status host_constant_file(struct host *host, const char *name,
                                                     const void *data, size_t size, int *ret_fd,
                                                     struct kelpie_error *err);

/* Another descriptor of the same file, for reading, with a position of its own. */
KELPIE_CHECKED enum kelpie_status host_file_reopen(struct host *host, int fd, int *ret_fd,
                                                   struct kelpie_error *err);

/* A file of size zero bytes that lives in memory only (memfd). */
KELPIE_CHECKED enum kelpie_status host_memory_file(struct host *host, const char *name,
                                                   uint64_t size, int *ret_fd,
                                                   struct kelpie_error *err);

/* Reads a whole file of at most size_max bytes (NO_SPACE when longer). *ret_data is zero-terminated
 * beyond its size and for free(). */
KELPIE_CHECKED enum kelpie_status host_file_load(struct host *host, const char *path,
                                                 size_t size_max, char **ret_data, size_t *ret_size,
                                                 struct kelpie_error *err);

/* A file in the making: written out of sight, and at its place whole or not at all. It has no name until it
 * is published, where the file system can do that, so that a maker who is killed leaves nothing behind;
 * elsewhere it lies beside its place as "<path>.<digits>.tmp" meanwhile.
 *     AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE; */
struct host_draft {
    struct host *host;
    const char *path;                  /* its place; the caller's */
    int fd;                            /* to write to; the draft's */
    char name[HOST_PATH_SIZE_MAX + 1]; /* that it has meanwhile; or empty */
};
#define HOST_DRAFT_NONE ((struct host_draft){.fd = HOST_FD_NONE})
KELPIE_CHECKED enum kelpie_status host_draft_open(struct host *host, const char *path,
                                                  uint32_t mode, struct host_draft *ret_draft,
                                                  struct kelpie_error *err);

/* Puts it in its place, where it replaces what is there. Syncing is the caller's business. */
KELPIE_CHECKED enum kelpie_status host_draft_publish(struct host_draft *draft,
                                                     struct kelpie_error *err);
void host_draft_close(struct host_draft *draft); /* forgets it, unless it was published */
#define AUTO_DRAFT __attribute__((cleanup(host_draft_close)))

/* Writes a whole file and syncs it: a draft, published. */
KELPIE_CHECKED enum kelpie_status host_file_store(struct host *host, const char *path,
                                                  const void *data, size_t size, uint32_t mode,
                                                  struct kelpie_error *err);

/* The path itself, not what a link points at. */
KELPIE_CHECKED enum kelpie_status host_path_stat(struct host *host, const char *path,
                                                 struct host_file_info *ret_info,
                                                 struct kelpie_error *err);

/* Without replace, an existing target is an error (IO_FAILED with EEXIST), atomically. */
KELPIE_CHECKED enum kelpie_status host_path_rename(struct host *host, const char *from,
                                                   const char *to, bool replace,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_path_unlink(struct host *host, const char *path,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_path_mkdir(struct host *host, const char *path,
                                                  uint32_t mode, struct kelpie_error *err);

/* The folder and those above it, as far as they are missing; an existing one is fine. */
KELPIE_CHECKED enum kelpie_status host_path_mkdir_all(struct host *host, const char *path,
                                                      uint32_t mode, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_path_rmdir(struct host *host, const char *path,
                                                  struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_path_symlink(struct host *host, const char *target,
                                                    const char *path, struct kelpie_error *err);

/* The link's text, zero-terminated; NO_SPACE when it does not fit. */
KELPIE_CHECKED enum kelpie_status host_path_readlink(struct host *host, const char *path,
                                                     char *buffer, size_t size,
                                                     struct kelpie_error *err);

/* fsync of a folder: what was created, renamed or removed in it is on the disk. */
KELPIE_CHECKED enum kelpie_status host_path_sync(struct host *host, const char *path,
                                                 struct kelpie_error *err);

/* The folder's entries but "." and "..", sorted by name. More than capacity: NO_SPACE. */
KELPIE_CHECKED enum kelpie_status host_dir_list(struct host *host, const char *path,
                                                struct host_dir_entry *entries, size_t capacity,
                                                size_t *ret_count, struct kelpie_error *err);

/* Removes the files in a folder and the folder itself; folders inside it are not entered (an error).
 * What is gone already is fine. */
KELPIE_CHECKED enum kelpie_status host_path_remove_folder(struct host *host, const char *path,
                                                          struct kelpie_error *err);

/* Removes a folder with all that is in it, folders too. Links are removed, never followed, also one that somebody puts in a folder's
 * place meanwhile; other file systems mounted in it are not entered (IO_FAILED with EXDEV). Folders that are ours and that we
 * may not write to are made writable first. Deeper than HOST_TREE_DEPTH_MAX folders: IO_FAILED with ELOOP. What is gone
 * already is fine; path itself must be no link and no file (ENOTDIR). An error leaves what was not removed yet. */
KELPIE_CHECKED enum kelpie_status host_path_remove_tree(struct host *host, const char *path,
                                                        struct kelpie_error *err);

/* ---- Sockets, events, waiting ----------------------------------------------------------------- */

/* An existing tap interface: one read or write is one Ethernet frame, with nothing before it; never blocks. NOT_FOUND,
 * field "network.tap": there is none of that name. */
KELPIE_CHECKED enum kelpie_status host_tap_open(struct host *host, const char *name, int *ret_fd,
                                                struct kelpie_error *err);

/* Two connected UNIX stream sockets, close-on-exec. */
KELPIE_CHECKED enum kelpie_status host_socket_pair(struct host *host, int ret_fds[2],
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_socket_listen(struct host *host, const char *path,
                                                     int *ret_fd, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_socket_accept(struct host *host, int fd,
                                                     const struct host_wait *wait, int *ret_fd,
                                                     struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status host_socket_connect(struct host *host, const char *path,
                                                      const struct host_wait *wait, int *ret_fd,
                                                      struct kelpie_error *err);

/* Listens for TCP connections at an address in numbers, IPv4 ("127.0.0.1") or IPv6 ("::1"; no zone). "::" takes
 * IPv6 only. Port 0: the system chooses one; *ret_port says which. Accepting is host_socket_accept(). Close-on-exec,
 * like what it accepts; small writes go out at once (TCP_NODELAY) at both ends. BAD_CONFIG: no such address. IO_FAILED
 * with EADDRINUSE: the port is taken; EADDRNOTAVAIL: not an address of this machine; EACCES: not a port for this user;
 * EAFNOSUPPORT: no IPv6 here. */
KELPIE_CHECKED enum kelpie_status host_socket_listen_tcp(struct host *host, const char *address,
                                                         uint16_t port, int *ret_fd,
                                                         uint16_t *ret_port,
                                                         struct kelpie_error *err);

/* Connects to such a listener. BAD_CONFIG: no such address, or port 0. IO_FAILED with ECONNREFUSED: nobody listens there;
 * ENETUNREACH, EHOSTUNREACH: no way there. A listener whose backlog is full says nothing, nor does a machine that is
 * off: TIMED_OUT at the deadline (or with ETIMEDOUT, when the system gives up before), CANCELLED.
 * Reading from a connection that a peer reset is its end (host_read()); writing to it is IO_FAILED with ECONNRESET or
 * EPIPE. A peer that is gone without a word is noticed only by who waits for it no longer than a deadline. */
KELPIE_CHECKED enum kelpie_status host_socket_connect_tcp(struct host *host, const char *address,
                                                          uint16_t port,
                                                          const struct host_wait *wait, int *ret_fd,
                                                          struct kelpie_error *err);

/* The user id of the process at the other end (SO_PEERCRED). */
KELPIE_CHECKED enum kelpie_status host_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                                   struct kelpie_error *err);

/* Sends all the bytes (size > 0, small) with a descriptor attached to the first (SCM_RIGHTS). IO_FAILED: none was sent, unless
 * the peer is gone (EPIPE, ECONNRESET). */
KELPIE_CHECKED enum kelpie_status host_socket_send_fd(struct host *host, int fd, const void *data,
                                                      size_t size, int passed_fd,
                                                      struct kelpie_error *err);

/* What host_receive() got. */
struct host_received {
    size_t size; /* bytes; 0: the other end closed */
    int fd;      /* close-on-exec, the caller's; HOST_FD_NONE: none came with them */
};

/* As host_read(), of a socket, with the descriptor that came attached to one of these bytes.
 * A read never takes the bytes of two messages that both have one, but bytes sent before may come with it: whoever
 * frames messages keeps the descriptor until it has read the message that announces it. Of several in one message,
 * the first is handed out and the others are closed. What is read with host_read() instead loses its descriptor, which is closed. */
KELPIE_CHECKED enum kelpie_status host_receive(struct host *host, int fd, void *buffer, size_t size,
                                               const struct host_wait *wait,
                                               struct host_received *ret_received,
                                               struct kelpie_error *err);

/* Waits until something can be read and reads up to size bytes. 0 bytes: the other end closed.
 * TIMED_OUT, CANCELLED, IO_FAILED. A reset by the peer counts as its end. */
KELPIE_CHECKED enum kelpie_status host_read(struct host *host, int fd, void *buffer, size_t size,
                                            const struct host_wait *wait, size_t *ret_size,
                                            struct kelpie_error *err);

/* Waits until something can be written and writes at least one byte. EPIPE never becomes a signal. */
KELPIE_CHECKED enum kelpie_status host_write(struct host *host, int fd, const void *data,
                                             size_t size, const struct host_wait *wait,
                                             size_t *ret_size, struct kelpie_error *err);

/* The same until all is written. */
KELPIE_CHECKED enum kelpie_status host_write_all(struct host *host, int fd, const void *data,
                                                 size_t size, const struct host_wait *wait,
                                                 struct kelpie_error *err);

/* Waits until one of the items is ready; TIMED_OUT when none was. count <= HOST_POLL_COUNT_MAX. */
KELPIE_CHECKED enum kelpie_status host_poll(struct host *host, struct host_poll_item *items,
                                            size_t count, const struct host_wait *wait,
                                            struct kelpie_error *err);

/* An event: readable (HOST_POLL_READ) from host_event_set() to host_event_clear(). */
KELPIE_CHECKED enum kelpie_status host_event_create(struct host *host, int *ret_fd,
                                                    struct kelpie_error *err);
void host_event_set(struct host *host, int fd);
void host_event_clear(struct host *host, int fd);

/* Closes any descriptor of this host; HOST_FD_NONE is allowed. */
void host_close(struct host *host, int fd);

/* A descriptor that is closed when its scope ends: AUTO_FD struct host_fd fd = {host, HOST_FD_NONE}; */
struct host_fd {
    struct host *host;
    int fd;
};
void host_fd_cleanup(struct host_fd *fd);
#define AUTO_FD __attribute__((cleanup(host_fd_cleanup)))

/* The descriptor; the guard no longer closes it. */
int host_fd_take(struct host_fd *fd);

/* A mapping that is undone when its scope ends: AUTO_MAP struct host_map map = {.host = host}; */
struct host_map {
    struct host *host;
    struct host_memory_map map;
};
void host_map_cleanup(struct host_map *map);
#define AUTO_MAP __attribute__((cleanup(host_map_cleanup)))

/* ---- Processes -------------------------------------------------------------------------------- */

/* Starts a program. NOT_FOUND when there is none of that name, IO_FAILED when it cannot be run. With
 * dies_with_owner it ends with this process, whichever thread called and however the process ends.
 * The child is invisible to the caller's own wait(). Freed by host_process_destroy().
 * A detached one is a child of the system's first process (or of the nearest subreaper) from the moment it runs: it is
 * left alone when we end, by host_process_destroy() too. It can be named, signalled and waited for; how it ended
 * is not known here. */
KELPIE_CHECKED enum kelpie_status host_process_spawn(struct host *host,
                                                     const struct host_process_spec *spec,
                                                     struct host_process **ret_process,
                                                     struct kelpie_error *err);

/* A descriptor that is HOST_POLL_READ once the process has ended. It belongs to the process. */
int host_process_fd(struct host_process *process);
int host_process_id(struct host_process *process);

/* Of any process of ours, by its id: the caller knows by other means (it is its child, or holds a lock) that the id still means that
 * process. NOT_FOUND: there is none. */
KELPIE_CHECKED enum kelpie_status host_process_usage(struct host *host, int process_id,
                                                     struct host_process_usage *ret_usage,
                                                     struct kelpie_error *err);

/* By pidfd: never reaches another process. One that has ended already is no error. */
KELPIE_CHECKED enum kelpie_status host_process_signal(struct host_process *process,
                                                      int signal_number, struct kelpie_error *err);

/* Waits for its end; may be called again and then says the same. UNSUPPORTED: it has ended, and how is not known, because it
 * was detached. */
KELPIE_CHECKED enum kelpie_status host_process_wait(struct host_process *process,
                                                    const struct host_wait *wait,
                                                    struct host_process_exit *ret_exit,
                                                    struct kelpie_error *err);

/* Kills it if it still runs, reaps it, frees the handle. Of a detached one, only frees the handle. NULL is allowed. */
void host_process_destroy(struct host_process *process);

/* ---- Threads ---------------------------------------------------------------------------------- */

/* name: up to 15 characters. All signals are blocked in the new thread. */
KELPIE_CHECKED enum kelpie_status host_thread_start(struct host *host, const char *name,
                                                    host_thread_entry entry, void *argument,
                                                    struct host_thread **ret_thread,
                                                    struct kelpie_error *err);

/* Waits for its end and frees the handle. NULL is allowed. */
void host_thread_join(struct host_thread *thread);

KELPIE_CHECKED enum kelpie_status
host_mutex_create(struct host *host, struct host_mutex **ret_mutex, struct kelpie_error *err);
void host_mutex_destroy(struct host_mutex *mutex); /* NULL is allowed */
void host_mutex_lock(struct host_mutex *mutex);
void host_mutex_unlock(struct host_mutex *mutex);

KELPIE_CHECKED enum kelpie_status host_condition_create(struct host *host,
                                                        struct host_condition **ret_condition,
                                                        struct kelpie_error *err);
void host_condition_destroy(struct host_condition *condition); /* NULL is allowed */

/* Unlocks, waits for a broadcast or the deadline (monotonic), locks again. False: the deadline came. */
bool host_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                         uint64_t deadline_ns);
void host_condition_broadcast(struct host_condition *condition);

#endif
