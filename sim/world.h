/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * world.h: a simulated world: machines with clocks, disks and networks, their processes, and the processes' threads, all on one
 * real thread. For the files of sim/ and of sim/run/ only; kelpie_sim.h is what others see.
 *
 * THEORY OF OPERATION
 *
 * Each simulated process has a `struct host` of its own (host_sim*.c). Production code is handed it and blocks in it as in
 * any other; what really happens is that its fiber is put aside, and another that can go on does. A fiber is left only inside
 * a host call: what stands between two host calls is not interrupted.
 *
 * Every host call is an event: it takes a little virtual time, is mixed into the world's hash, may be where a thread
 * loses its turn, and is where faults that hit a process happen (killed, hung, power loss). Then it does its work on the
 * model: files (fs.h), streams (stream.h), events, processes, locks.
 *
 * The scheduler (scheduler.c) picks one of those who can run, by choice. When nobody can, virtual time leaps to the next
 * deadline. When there is none either, the world stands still: that is the end, or a deadlock if somebody still waits.
 *
 * Waiting. What can be waited for has a list of waiters (struct sim_waiters). A fiber that waits hangs one link into each list
 * that concerns it, and is woken when anything there changes; it looks again itself. So a waker never has to know what for.
 *
 * Time. The world has one true time. A machine's clocks run at their own rate and the wall clock may be set; deadlines are
 * the machine's, and are turned into true time when somebody waits.
 *
 * A process that is killed is gone at once: its fibers are dropped in the middle of what they did, its descriptors closed, its
 * locks free. What it had allocated is lost, as it would be: a run in which that happened cannot count memory.
 */
#ifndef KELPIE_SIM_WORLD_H
#define KELPIE_SIM_WORLD_H

#include "host/host.h"
#include "sim/event.h"
#include "sim/fault.h"
#include "sim/fiber.h"
#include "sim/fs.h"
#include "sim/sim_limits.h"

struct sim_world;
struct sim_machine;
struct sim_process;
struct sim_fiber;
struct sim_handle;

/* ---- Waiting ---------------------------------------------------------------------------------- */

struct sim_link {
    struct sim_fiber *fiber;
    struct sim_waiters *waiters; /* NULL: in none */
    struct sim_link *next;
    struct sim_link *previous;
};

struct sim_waiters {
    struct sim_link *first;
};

#define SIM_LINK_COUNT_MAX                                                                         \
    (2 * HOST_POLL_COUNT_MAX + 2) /* two directions each, a cancel, the networks */

enum sim_fiber_state { SIM_FIBER_READY = 0, SIM_FIBER_WAITING, SIM_FIBER_DONE };

struct sim_fiber {
    struct sim_context context;
    struct sim_process *process;
    uint32_t id; /* of the world, from 1 */
    char name[HOST_THREAD_NAME_SIZE_MAX + 1];
    void (*entry)(void *argument);
    void *argument;
    enum sim_fiber_state state;
    size_t index;          /* among the runnable, or in the heap of deadlines */
    bool in_heap;          /* it has a deadline */
    uint64_t wake_ns;      /* true time; of the heap */
    bool woken;            /* by a change, not by its deadline */
    const char *waits_for; /* for a deadlock's report */
    struct sim_link links[SIM_LINK_COUNT_MAX];
    size_t link_count;
    struct sim_waiters ended; /* who joins it */
    struct sim_fiber *next;   /* of its process */
};

/* ---- The world -------------------------------------------------------------------------------- */

/* A process has its turn; process_id 0: nobody has. */
typedef void (*sim_turn)(void *argument, int process_id);

struct sim_options {
    uint64_t seed;
    const uint8_t *bytes; /* choices from bytes; NULL: from the seed */
    size_t byte_count;
    uint64_t event_count_max; /* 0: SIM_EVENT_COUNT_DEFAULT */
    sim_turn turn;            /* NULL: nobody asks */
    void *turn_argument;
    sim_line line; /* takes the timeline; NULL: nobody does */
    void *line_argument;
};

enum sim_end {
    SIM_END_QUIET = 0, /* no fiber is left */
    SIM_END_STUCK,     /* somebody waits for what cannot come */
    SIM_END_LIMIT,     /* too many events */
};

struct sim_world {
    struct sim_choices choices;
    struct sim_faults faults;
    struct sim_log log;
    uint64_t now_ns;
    uint64_t event_count;
    uint64_t event_count_max;
    uint64_t next_step_ns;
    uint32_t yield_ppm; /* how often a host call ends a turn */
    bool in_order;      /* turns go round instead of by choice */

    struct sim_context thread; /* of sim_world_run()'s caller */
    struct sim_fiber *current; /* NULL: none runs */
    struct sim_fiber *zombie;  /* ended, and still on its stack */
    struct sim_fiber **runnable;
    size_t runnable_count;
    struct sim_fiber **heap; /* by wake_ns, then id */
    size_t heap_count;
    size_t fiber_count;
    uint32_t fiber_id_last;
    void *stacks[SIM_STACK_CACHE_COUNT_MAX];
    size_t stack_count;

    struct sim_machine *machines[SIM_MACHINE_COUNT_MAX];
    size_t machine_count;
    struct sim_process *processes; /* newest first */
    bool collect_wanted;
    int process_id_last;
    uint64_t cut_until_ns[SIM_MACHINE_COUNT_MAX][SIM_MACHINE_COUNT_MAX]; /* from, to */
    struct sim_waiters cut_changed;
    sim_turn turn; /* told whose turn it is; NULL: nobody asks */
    void *turn_argument;
    char failure[SIM_REASON_SIZE_MAX + 1]; /* the first that was noted; or empty */
};

/* NULL: no memory. */
struct sim_world *sim_world_create(const struct sim_options *options);
void sim_world_destroy(struct sim_world *world);

/* Runs until nobody can. */
enum sim_end sim_world_run(struct sim_world *world);

/* Something did not hold. The first is kept. */
void sim_world_fail(struct sim_world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* No fault happens any more, networks are whole. */
void sim_world_quiet(struct sim_world *world);

/* ---- Machines (machine.c) --------------------------------------------------------------------- */

struct sim_listener {
    struct sim_listener *next;
    struct sim_machine *machine;
    struct sim_process *process;
    char address[SIM_PROGRAM_SIZE_MAX + 1]; /* a path, or "tcp:port" */
    bool open;
    uint32_t uid;
    size_t count; /* that wait to be accepted */
    struct sim_handle *backlog[SIM_BACKLOG_COUNT_MAX];
    struct sim_waiters changed;
};

struct sim_machine {
    struct sim_world *world;
    size_t index;
    char name[SIM_NAME_SIZE_MAX + 1];
    struct sim_fs *fs;
    bool up;
    uint64_t origin_ns; /* true time of its start */
    int32_t skew_ppm;
    int64_t realtime_offset_ns;
    bool unnamed_files; /* its file system has them */
    struct sim_listener *listeners;
};

/* A machine that is up. NULL: no memory, or too many. */
struct sim_machine *sim_machine_create(struct sim_world *world, const char *name);
void sim_machine_destroy(struct sim_machine *machine);

/* furnish.c: what the library looks for on a machine. False: no memory. */
#define SIM_KERNEL_PATH "/boot/vmlinuz-sim"
#define SIM_KRUNFW_PATH "/boot/libkrunfw.so.5" /* a library with a kernel */
bool sim_machine_furnish(struct sim_machine *machine);

#define SIM_TAP_NAME "tap0" /* every machine has it */

/* Its files that have become unreadable are written again. */
bool sim_machine_repair(struct sim_machine *machine);

/* Power loss: every process is gone, the disk keeps what it kept. Then it is up again. Called by a process of that
 * machine, it does not return. */
void sim_machine_crash(struct sim_machine *machine);

uint64_t sim_machine_monotonic_ns(const struct sim_machine *machine);
uint64_t sim_machine_realtime_ns(const struct sim_machine *machine);

/* A deadline of its monotonic clock as true time. */
uint64_t sim_machine_true_ns(const struct sim_machine *machine, uint64_t monotonic_ns);

/* What happens to a world by itself, at intervals. */
void sim_world_step(struct sim_world *world);

/* From what true time on bytes get from one to the other; 0: now. */
uint64_t sim_cut_until(const struct sim_world *world, const struct sim_machine *from,
                       const struct sim_machine *to);

/* ---- Processes (process.c) -------------------------------------------------------------------- */

/* What belongs to a process until it is given back: locks, threads, handles of children. */
struct sim_object {
    struct sim_process *process;                /* whose it is */
    void (*release)(struct sim_object *object); /* frees it when the process has gone */
    struct sim_object *next;
    struct sim_object *previous;
};

struct sim_process {
    struct host host; /* first: a host is its process */
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *next;   /* of the world */
    struct sim_process *parent; /* NULL: none, or gone */
    int id;
    uint32_t uid;
    char program[SIM_NAME_SIZE_MAX + 1];
    bool immune;          /* no fault hits it or its host calls */
    bool owner;           /* a user of the library: faults of owners hit it */
    enum sim_fault death; /* of another: what ends it by a signal */
    bool dies_with_parent;
    bool doomed; /* its parent is gone, and it dies of that */
    bool hung;
    bool ended;
    bool killed; /* it did not end by itself */
    struct host_process_exit exit;
    struct sim_waiters exited;
    uint64_t cpu_ns;     /* that its host calls took */
    size_t holder_count; /* handles of it */
    char **argv;         /* of a program */
    size_t argc;
    char *working_dir;           /* NULL: that of every process */
    int (*main)(void *argument); /* of one that is no program */
    void *main_argument;
    struct sim_fiber *fibers;
    size_t fiber_count;
    struct sim_handle **handles;
    size_t handle_count;       /* open ones */
    struct sim_object objects; /* head of a ring */
    size_t object_count;
};

struct sim_process_options {
    const char *name;
    int (*main)(void *argument);
    void *argument;
    bool immune;
    bool owner;
    bool client; /* a user beside the owner, whose death is a fault of its own */
};

/* A process without parent. It stays known until sim_process_forget(), also after its end. NULL: no memory. */
struct sim_process *sim_process_start(struct sim_machine *machine,
                                      const struct sim_process_options *options);
void sim_process_forget(struct sim_process *process);

/* Ends it now. By its own fiber: does not return. */
void sim_process_kill(struct sim_process *process, int signal_number);

/* The same, but returns to the fiber of a process that has ended: which must leave (sim_fiber_leave). */
void sim_process_end(struct sim_process *process, int signal_number);

/* The current fiber waits until it has ended. */
void sim_process_await(struct sim_process *process);

static inline struct sim_process *sim_process_of(struct host *host) {
    return (struct sim_process *)(void *)host;
}

void sim_object_add(struct sim_process *process, struct sim_object *object);
void sim_object_remove(struct sim_object *object);

/* Frees those that have ended and that nobody knows any more. */
void sim_processes_collect(struct sim_world *world);

/* process.c's part of the host: the operations. */
enum kelpie_status sim_host_process_spawn(struct host *host, const struct host_process_spec *spec,
                                          struct host_process **ret_process,
                                          struct kelpie_error *err);
int sim_host_process_fd(struct host_process *process);
int sim_host_process_id(struct host_process *process);
enum kelpie_status sim_host_process_usage(struct host *host, int process_id,
                                          struct host_process_usage *ret_usage,
                                          struct kelpie_error *err);
enum kelpie_status sim_host_process_signal(struct host_process *process, int signal_number,
                                           struct kelpie_error *err);
enum kelpie_status sim_host_process_wait(struct host_process *process, const struct host_wait *wait,
                                         struct host_process_exit *ret_exit,
                                         struct kelpie_error *err);
void sim_host_process_destroy(struct host_process *process);

/* ---- The scheduler (scheduler.c) -------------------------------------------------------------- */

/* A thread of the process. NULL: no memory. */
struct sim_fiber *sim_fiber_create(struct sim_process *process, const char *name,
                                   void (*entry)(void *argument), void *argument);

/* Drops it, wherever it is. Of the current one, the stack stays until the scheduler has left it. */
void sim_fiber_drop(struct sim_fiber *fiber);

/* The current fiber hangs itself into a list, before sim_wait(). */
void sim_wait_add(struct sim_world *world, struct sim_waiters *waiters);

/* The current fiber waits for a change in those lists, or for a true time (UINT64_MAX: no time). True: a change. */
bool sim_wait(struct sim_world *world, uint64_t wake_ns, const char *what);

/* Everybody in the list looks again. */
void sim_wake(struct sim_waiters *waiters);

/* The current fiber lets another have its turn. */
void sim_yield(struct sim_world *world);

/* The current fiber is over, dropped or not: never returns. */
_Noreturn void sim_fiber_leave(struct sim_world *world);

/* ---- Events ----------------------------------------------------------------------------------- */

/* A host call of a process begins: it is counted, and what hits the process happens. May switch. */
void sim_enter(struct host *host, enum sim_event event, uint64_t value);

/* … and ends, with this status, which is returned. */
enum kelpie_status sim_leave(struct host *host, enum sim_event event, enum kelpie_status status);

/* Does it happen to this process now? An immune process has no faults. Noted in the log. */
bool sim_fault(struct sim_process *process, enum sim_fault fault);

/* ---- Descriptors (handle.c) ------------------------------------------------------------------- */

enum sim_handle_kind {
    SIM_HANDLE_FILE = 0,
    SIM_HANDLE_STREAM,
    SIM_HANDLE_LISTENER,
    SIM_HANDLE_EVENT,
    SIM_HANDLE_PROCESS,
    SIM_HANDLE_NULL, /* /dev/null */
};

struct sim_pipe; /* stream.h */

/* An open file: what descriptors lead to. */
struct sim_handle {
    enum sim_handle_kind kind;
    size_t reference_count;
    struct sim_world *world;
    char name[SIM_NAME_SIZE_MAX + 1]; /* of a memory file */
    struct sim_inode *inode;          /* FILE */
    uint32_t flags;                   /* FILE: as it was opened */
    struct sim_pipe *in;              /* STREAM */
    struct sim_pipe *out;
    uint32_t peer_uid;
    struct sim_listener *listener;
    bool set; /* EVENT */
    struct sim_waiters changed;
    struct sim_process *target; /* PROCESS */
};

/* NULL: no memory. One reference, the caller's. */
struct sim_handle *sim_handle_create(struct sim_world *world, enum sim_handle_kind kind);
void sim_handle_release(struct sim_handle *handle);

/* The lowest free descriptor from `least` on leads to it, and has its reference; -1: there is none. */
int sim_fd_add(struct sim_process *process, struct sim_handle *handle, int least);

/* Never NULL: a descriptor that is not open is a mistake of production code, and an assertion. */
struct sim_handle *sim_fd_get(struct sim_process *process, int fd);
void sim_fd_close(struct sim_process *process, int fd);

/* What is ready of what is asked (enum host_poll_event); *ret_when: at what true time that may change without anybody's doing. */
uint32_t sim_handle_ready(struct sim_handle *handle, uint32_t asked, uint64_t *ret_when);

/* The current fiber's links for what may make it ready. */
void sim_handle_watch(struct sim_handle *handle, uint32_t asked);

/* Waits until something asked is ready: as a read or write of the Linux host waits. TIMED_OUT, CANCELLED. */
enum kelpie_status sim_wait_fd(struct host *host, int fd, uint32_t asked,
                               const struct host_wait *wait, const char *what,
                               struct kelpie_error *err);

/* The error of a simulated system call. */
enum kelpie_status sim_error(struct kelpie_error *err, int os_error, const char *what);

/* host_sim.c: what a simulated process's host does. */
extern const struct host_ops sim_host_ops;

/* ---- The operations, as in host.h ------------------------------------------------------------- */

/* host_sim_file.c */
enum kelpie_status sim_host_file_open(struct host *host, const char *path, uint32_t flags,
                                      uint32_t mode, int *ret_fd, struct kelpie_error *err);
enum kelpie_status sim_host_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                         uint64_t offset, size_t *ret_size,
                                         struct kelpie_error *err);
enum kelpie_status sim_host_file_write_at(struct host *host, int fd, const void *data, size_t size,
                                          uint64_t offset, struct kelpie_error *err);
enum kelpie_status sim_host_file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                      struct kelpie_error *err);
enum kelpie_status sim_host_file_truncate(struct host *host, int fd, uint64_t size,
                                          struct kelpie_error *err);
enum kelpie_status sim_host_file_sync(struct host *host, int fd, struct kelpie_error *err);
enum kelpie_status sim_host_file_link(struct host *host, int fd, const char *path,
                                      struct kelpie_error *err);
enum kelpie_status sim_host_file_next_data(struct host *host, int fd, uint64_t offset,
                                           uint64_t *ret_start, uint64_t *ret_end,
                                           struct kelpie_error *err);
enum kelpie_status sim_host_file_lock(struct host *host, int fd, bool exclusive,
                                      struct kelpie_error *err);
enum kelpie_status sim_host_file_map(struct host *host, int fd, size_t size,
                                     enum host_map_flag flag, struct host_memory_map *ret_map,
                                     struct kelpie_error *err);
void sim_host_file_unmap(struct host *host, struct host_memory_map *map);
enum kelpie_status sim_host_memory_file(struct host *host, const char *name, uint64_t size,
                                        int *ret_fd, struct kelpie_error *err);

/* host_sim_path.c */
enum kelpie_status sim_host_path_stat(struct host *host, const char *path,
                                      struct host_file_info *ret_info, struct kelpie_error *err);
enum kelpie_status sim_host_path_rename(struct host *host, const char *from, const char *to,
                                        bool replace, struct kelpie_error *err);
enum kelpie_status sim_host_path_unlink(struct host *host, const char *path,
                                        struct kelpie_error *err);
enum kelpie_status sim_host_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                       struct kelpie_error *err);
enum kelpie_status sim_host_path_rmdir(struct host *host, const char *path,
                                       struct kelpie_error *err);
enum kelpie_status sim_host_working_dir(struct host *host, char *buffer, size_t size,
                                        struct kelpie_error *err);
enum kelpie_status sim_host_below(struct host *host, struct host_below *call,
                                  struct kelpie_error *err);
enum kelpie_status sim_host_path_remove_tree(struct host *host, const char *path,
                                             struct kelpie_error *err);
enum kelpie_status sim_host_path_symlink(struct host *host, const char *target, const char *path,
                                         struct kelpie_error *err);
enum kelpie_status sim_host_path_readlink(struct host *host, const char *path, char *buffer,
                                          size_t size, struct kelpie_error *err);
enum kelpie_status sim_host_path_sync(struct host *host, const char *path,
                                      struct kelpie_error *err);
enum kelpie_status sim_host_dir_list(struct host *host, const char *path,
                                     struct host_dir_entry *entries, size_t capacity,
                                     size_t *ret_count, struct kelpie_error *err);

/* The path as an absolute one of its machine; false: too long. */
bool sim_path_absolute(const struct sim_process *process, const char *path, char *buffer,
                       size_t size);

/* host_sim_socket.c */
enum kelpie_status sim_host_sleep(struct host *host, const struct host_wait *wait,
                                  struct kelpie_error *err);
enum kelpie_status sim_host_socket_pair(struct host *host, int ret_fds[2],
                                        struct kelpie_error *err);
enum kelpie_status sim_host_socket_listen(struct host *host, const char *path, int *ret_fd,
                                          struct kelpie_error *err);
enum kelpie_status sim_host_socket_accept(struct host *host, int fd, const struct host_wait *wait,
                                          int *ret_fd, struct kelpie_error *err);
enum kelpie_status sim_host_socket_connect(struct host *host, const char *path,
                                           const struct host_wait *wait, int *ret_fd,
                                           struct kelpie_error *err);
/* By its address on that machine, a path or "tcp:port"; NULL: none. */
struct sim_listener *sim_listener_find(struct sim_machine *machine, const char *address);

/* Return 0 or an errno. */
int sim_listen_at(struct sim_process *process, const char *address, int *ret_fd);

/* A stream to the listener, one end of which waits to be accepted. */
int sim_connect_to(struct sim_process *process, struct sim_listener *listener, int *ret_fd);

/* host_sim_tcp.c */
enum kelpie_status sim_host_socket_listen_tcp(struct host *host, const char *address, uint16_t port,
                                              int *ret_fd, uint16_t *ret_port,
                                              struct kelpie_error *err);
enum kelpie_status sim_host_socket_connect_tcp(struct host *host, const char *address,
                                               uint16_t port, const struct host_wait *wait,
                                               int *ret_fd, struct kelpie_error *err);
enum kelpie_status sim_host_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                        struct kelpie_error *err);
enum kelpie_status sim_host_socket_send_fd(struct host *host, int fd, const void *data, size_t size,
                                           int passed_fd, struct kelpie_error *err);
enum kelpie_status sim_host_receive(struct host *host, int fd, void *buffer, size_t size,
                                    const struct host_wait *wait,
                                    struct host_received *ret_received, struct kelpie_error *err);
enum kelpie_status sim_host_read(struct host *host, int fd, void *buffer, size_t size,
                                 const struct host_wait *wait, size_t *ret_size,
                                 struct kelpie_error *err);
enum kelpie_status sim_host_write(struct host *host, int fd, const void *data, size_t size,
                                  const struct host_wait *wait, size_t *ret_size,
                                  struct kelpie_error *err);
enum kelpie_status sim_host_poll(struct host *host, struct host_poll_item *items, size_t count,
                                 const struct host_wait *wait, struct kelpie_error *err);
enum kelpie_status sim_host_event_create(struct host *host, int *ret_fd, struct kelpie_error *err);
void sim_host_event_set(struct host *host, int fd);
void sim_host_event_clear(struct host *host, int fd);
void sim_host_close(struct host *host, int fd);

/* host_sim_thread.c */
enum kelpie_status sim_host_thread_start(struct host *host, const char *name,
                                         host_thread_entry entry, void *argument,
                                         struct host_thread **ret_thread, struct kelpie_error *err);
void sim_host_thread_join(struct host_thread *thread);
enum kelpie_status sim_host_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                         struct kelpie_error *err);
void sim_host_mutex_destroy(struct host_mutex *mutex);
void sim_host_mutex_lock(struct host_mutex *mutex);
void sim_host_mutex_unlock(struct host_mutex *mutex);
enum kelpie_status sim_host_condition_create(struct host *host,
                                             struct host_condition **ret_condition,
                                             struct kelpie_error *err);
void sim_host_condition_destroy(struct host_condition *condition);
bool sim_host_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                             uint64_t deadline_ns);
void sim_host_condition_broadcast(struct host_condition *condition);

#endif
