/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Shared by the files of the Linux host only: its state, its operations, and waiting.
 */
#ifndef KELPIE_HOST_HOST_LINUX_H
#define KELPIE_HOST_HOST_LINUX_H

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "host/host.h"

struct linux_launch;

/* The thread that starts processes, and the one launch that it is asked for. All by `lock`. */
struct linux_spawner {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool running;
    bool stopping;
    struct linux_launch *launch; /* NULL: idle */
};

/* What the last look at /dev/kvm found. By `lock`. */
struct linux_kvm {
    pthread_mutex_t lock;
    uint64_t budget_ns; /* 0: nobody looked yet */
    uint64_t taken_ns;
};

struct host_linux {
    struct host host;
    struct linux_spawner spawner;
    struct linux_kvm kvm;
};

static inline struct host_linux *host_linux_of(struct host *host) {
    return (struct host_linux *)host;
}

/* The value of a system call, made again as long as a signal interrupts it. */
#define RETRY_EINTR(expression)                                                                    \
    __extension__({                                                                                \
        __typeof__(expression) retried_ = 0;                                                       \
        do {                                                                                       \
            retried_ = (expression);                                                               \
        } while (retried_ < 0 && errno == EINTR);                                                  \
        retried_;                                                                                  \
    })

uint64_t linux_monotonic_ns(struct host *host);

/* host_linux_kvm.c */
enum kelpie_status linux_kvm_probe(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                   struct kelpie_error *err);

/* host_linux_krunfw.c */
enum kelpie_status linux_krunfw_load(struct host *host, const char *path,
                                     struct host_krunfw *ret_kernel, struct kelpie_error *err);

struct timespec linux_timespec(uint64_t ns);

/* Waits until fd has one of the poll(2) events (or is broken, or at its end). Readiness goes before
 * cancellation: what needs no wait is done. TIMED_OUT, CANCELLED; `what` is for the message. */
enum kelpie_status linux_wait_fd(struct host *host, int fd, short events,
                                 const struct host_wait *wait, const char *what,
                                 struct kelpie_error *err);

enum kelpie_status linux_sleep(struct host *host, const struct host_wait *wait,
                               struct kelpie_error *err);
enum kelpie_status linux_poll(struct host *host, struct host_poll_item *items, size_t count,
                              const struct host_wait *wait, struct kelpie_error *err);

/* host_linux_file.c */
enum kelpie_status linux_file_open(struct host *host, const char *path, uint32_t flags,
                                   uint32_t mode, int *ret_fd, struct kelpie_error *err);
enum kelpie_status linux_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                      uint64_t offset, size_t *ret_size, struct kelpie_error *err);
enum kelpie_status linux_file_write_at(struct host *host, int fd, const void *data, size_t size,
                                       uint64_t offset, struct kelpie_error *err);
enum kelpie_status linux_file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                   struct kelpie_error *err);
enum kelpie_status linux_file_truncate(struct host *host, int fd, uint64_t size,
                                       struct kelpie_error *err);
enum kelpie_status linux_file_link(struct host *host, int fd, const char *path,
                                   struct kelpie_error *err);
enum kelpie_status linux_file_sync(struct host *host, int fd, struct kelpie_error *err);
enum kelpie_status linux_file_next_data(struct host *host, int fd, uint64_t offset,
                                        uint64_t *ret_start, uint64_t *ret_end,
                                        struct kelpie_error *err);
enum kelpie_status linux_file_lock(struct host *host, int fd, bool exclusive,
                                   struct kelpie_error *err);
enum kelpie_status linux_file_map(struct host *host, int fd, size_t size, enum host_map_flag flag,
                                  struct host_memory_map *ret_map, struct kelpie_error *err);
void linux_file_unmap(struct host *host, struct host_memory_map *map);
enum kelpie_status linux_memory_file(struct host *host, const char *name, uint64_t size,
                                     int *ret_fd, struct kelpie_error *err);
void linux_close(struct host *host, int fd);

/* host_linux_path.c */
struct stat;
void linux_file_info(const struct stat *stat, struct host_file_info *ret_info);
enum kelpie_status linux_path_stat(struct host *host, const char *path,
                                   struct host_file_info *ret_info, struct kelpie_error *err);
enum kelpie_status linux_path_rename(struct host *host, const char *from, const char *to,
                                     bool replace, struct kelpie_error *err);
enum kelpie_status linux_path_unlink(struct host *host, const char *path, struct kelpie_error *err);
enum kelpie_status linux_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                    struct kelpie_error *err);
enum kelpie_status linux_path_rmdir(struct host *host, const char *path, struct kelpie_error *err);
enum kelpie_status linux_path_symlink(struct host *host, const char *target, const char *path,
                                      struct kelpie_error *err);
enum kelpie_status linux_path_readlink(struct host *host, const char *path, char *buffer,
                                       size_t size, struct kelpie_error *err);
enum kelpie_status linux_path_sync(struct host *host, const char *path, struct kelpie_error *err);
enum kelpie_status linux_dir_list(struct host *host, const char *path,
                                  struct host_dir_entry *entries, size_t capacity,
                                  size_t *ret_count, struct kelpie_error *err);

enum kelpie_status linux_dir_read(DIR *folder, const char *path, struct host_dir_entry *entries,
                                  size_t capacity, size_t *ret_count, struct kelpie_error *err);

/* host_linux_below.c */
enum kelpie_status linux_below(struct host *host, struct host_below *call,
                               struct kelpie_error *err);

/* host_linux_tree.c */
enum kelpie_status linux_path_remove_tree(struct host *host, const char *path,
                                          struct kelpie_error *err);

/* host_linux_socket.c */
enum kelpie_status linux_tap_open(struct host *host, const char *name, int *ret_fd,
                                  struct kelpie_error *err);
enum kelpie_status linux_socket_pair(struct host *host, int ret_fds[2], struct kelpie_error *err);
enum kelpie_status linux_socket_listen(struct host *host, const char *path, int *ret_fd,
                                       struct kelpie_error *err);
enum kelpie_status linux_socket_accept(struct host *host, int fd, const struct host_wait *wait,
                                       int *ret_fd, struct kelpie_error *err);
enum kelpie_status linux_socket_connect(struct host *host, const char *path,
                                        const struct host_wait *wait, int *ret_fd,
                                        struct kelpie_error *err);
enum kelpie_status linux_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                     struct kelpie_error *err);
enum kelpie_status linux_socket_send_fd(struct host *host, int fd, const void *data, size_t size,
                                        int passed_fd, struct kelpie_error *err);
enum kelpie_status linux_receive(struct host *host, int fd, void *buffer, size_t size,
                                 const struct host_wait *wait, struct host_received *ret_received,
                                 struct kelpie_error *err);
enum kelpie_status linux_read(struct host *host, int fd, void *buffer, size_t size,
                              const struct host_wait *wait, size_t *ret_size,
                              struct kelpie_error *err);
enum kelpie_status linux_write(struct host *host, int fd, const void *data, size_t size,
                               const struct host_wait *wait, size_t *ret_size,
                               struct kelpie_error *err);
enum kelpie_status linux_event_create(struct host *host, int *ret_fd, struct kelpie_error *err);
void linux_event_set(struct host *host, int fd);
void linux_event_clear(struct host *host, int fd);

/* host_linux_tcp.c */
enum kelpie_status linux_socket_listen_tcp(struct host *host, const char *address, uint16_t port,
                                           int *ret_fd, uint16_t *ret_port,
                                           struct kelpie_error *err);
enum kelpie_status linux_socket_connect_tcp(struct host *host, const char *address, uint16_t port,
                                            const struct host_wait *wait, int *ret_fd,
                                            struct kelpie_error *err);

/* host_linux_process.c */
enum kelpie_status linux_process_spawn(struct host *host, const struct host_process_spec *spec,
                                       struct host_process **ret_process, struct kelpie_error *err);
int linux_process_fd(struct host_process *process);
int linux_process_id(struct host_process *process);
enum kelpie_status linux_process_usage(struct host *host, int process_id,
                                       struct host_process_usage *ret_usage,
                                       struct kelpie_error *err);
enum kelpie_status linux_process_signal(struct host_process *process, int signal_number,
                                        struct kelpie_error *err);
enum kelpie_status linux_process_wait(struct host_process *process, const struct host_wait *wait,
                                      struct host_process_exit *ret_exit, struct kelpie_error *err);
void linux_process_destroy(struct host_process *process);

/* host_linux_spawner.c: asks the host's spawner thread for a launch and waits for its answer. */
void linux_spawner_init(struct linux_spawner *spawner);
void linux_spawner_deinit(struct linux_spawner *spawner);
enum kelpie_status linux_spawner_run(struct linux_spawner *spawner, struct linux_launch *launch,
                                     struct kelpie_error *err);

/* host_linux_thread.c */

/* pthread_create with all signals blocked in the new thread. Returns an errno. */
int linux_thread_create(pthread_t *ret_thread, void *(*entry)(void *), void *argument);

enum kelpie_status linux_thread_start(struct host *host, const char *name, host_thread_entry entry,
                                      void *argument, struct host_thread **ret_thread,
                                      struct kelpie_error *err);
void linux_thread_join(struct host_thread *thread);
enum kelpie_status linux_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                      struct kelpie_error *err);
void linux_mutex_destroy(struct host_mutex *mutex);
void linux_mutex_lock(struct host_mutex *mutex);
void linux_mutex_unlock(struct host_mutex *mutex);
enum kelpie_status linux_condition_create(struct host *host, struct host_condition **ret_condition,
                                          struct kelpie_error *err);
void linux_condition_destroy(struct host_condition *condition);
bool linux_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                          uint64_t deadline_ns);
void linux_condition_broadcast(struct host_condition *condition);

#endif
