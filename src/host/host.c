/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The wrappers of host.h. Each asserts what its caller must have right and calls the host's
 * implementation, so that implementations (this machine, a simulator, a fault injector) need not.
 * Processes, threads, mutexes and conditions begin with the host that made them.
 */
#include "host/host.h"

#include "base/assert.h"
#include "base/error.h"
#include "host/host_krunfw.h"
#include "host/host_kvm.h"

/* Each object's first member is its host. */
static struct host *host_of(const void *object) {
    ASSERT(object);
    struct host *host = *(struct host *const *)object;
    ASSERT(host);
    return host;
}

/* A descriptor that was handed out is one. */
static enum kelpie_status check_fd(enum kelpie_status status, const int *ret_fd) {
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    ASSERT(status != KELPIE_OK || *ret_fd >= 0);
    return status;
}

/* No more was read or written than was asked for. */
static enum kelpie_status check_size(enum kelpie_status status, const size_t *ret_size,
                                     size_t size) {
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    ASSERT(status != KELPIE_OK || *ret_size <= size);
    return status;
}

void host_share(struct host *host) {
    ASSERT(host);
    uint32_t before = __atomic_fetch_add(&host->more_owners, 1, __ATOMIC_RELAXED);
    ASSERT(before < UINT32_MAX);
}

void host_destroy(struct host *host) {
    if (!host) {
        return;
    }
    ASSERT(host->ops);
    if (__atomic_fetch_sub(&host->more_owners, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    if (host->constant_fd_plus_one > 0) {
        host_close(host, host->constant_fd_plus_one - 1);
    }
    host->ops->destroy(host);
}

/* ---- Time ------------------------------------------------------------------------------------- */

uint64_t host_monotonic_ns(struct host *host) {
    ASSERT(host);
    return host->ops->monotonic_ns(host);
}

uint64_t host_realtime_ns(struct host *host) {
    ASSERT(host);
    return host->ops->realtime_ns(host);
}

uint64_t host_ticks(struct host *host) {
    ASSERT(host);
    ASSERT(host->ops->ticks);
    return host->ops->ticks(host);
}

enum kelpie_status host_sleep(struct host *host, const struct host_wait *wait,
                              struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(wait);
    return host->ops->sleep(host, wait, err);
}

/* ---- Random bytes, environment ---------------------------------------------------------------- */

enum kelpie_status host_random(struct host *host, void *buffer, size_t size,
                               struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(buffer || size == 0);
    ASSERT(size <= HOST_RANDOM_SIZE_MAX);
    return host->ops->random(host, buffer, size, err);
}

const char *host_environment(struct host *host, const char *name) {
    ASSERT(host);
    ASSERT(name);
    return host->ops->environment(host, name);
}

uint32_t host_user_id(struct host *host) {
    ASSERT(host);
    ASSERT(host->ops->user_id);
    return host->ops->user_id(host);
}

int host_own_process_id(struct host *host) {
    ASSERT(host);
    ASSERT(host->ops->own_process_id);
    return host->ops->own_process_id(host);
}

enum kelpie_status host_working_dir(struct host *host, char *buffer, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(buffer && size > 1);
    enum kelpie_status status = host->ops->working_dir(host, buffer, size, err);
    ASSERT(status != KELPIE_OK || buffer[0] == '/');
    return status;
}

/* ---- KVM -------------------------------------------------------------------------------------- */

enum kelpie_status host_kvm_probe(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                  struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(budget_ns > 0);
    ASSERT(ret_ns);
    return host->ops->kvm_probe(host, budget_ns, ret_ns, err);
}

enum kelpie_status host_krunfw_load(struct host *host, const char *path,
                                    struct host_krunfw *ret_kernel, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path && path[0] != '\0');
    ASSERT(ret_kernel);
    enum kelpie_status status = host->ops->krunfw_load(host, path, ret_kernel, err);
    ASSERT(status != KELPIE_OK || (ret_kernel->fd >= 0 && ret_kernel->size > 0));
    return status;
}

/* ---- Files ------------------------------------------------------------------------------------ */

enum kelpie_status host_file_open(struct host *host, const char *path, uint32_t flags,
                                  uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(ret_fd);
    ASSERT(flags & (HOST_OPEN_READ | HOST_OPEN_WRITE));
    ASSERT((flags & HOST_OPEN_CREATE) || !(flags & HOST_OPEN_EXCLUSIVE));
    ASSERT(!(flags & HOST_OPEN_UNNAMED) || !(flags & HOST_OPEN_CREATE));
    return check_fd(host->ops->file_open(host, path, flags, mode, ret_fd, err), ret_fd);
}

enum kelpie_status host_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                     uint64_t offset, size_t *ret_size, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(buffer || size == 0);
    ASSERT(ret_size);
    return check_size(host->ops->file_read_at(host, fd, buffer, size, offset, ret_size, err),
                      ret_size, size);
}

enum kelpie_status host_file_write_at(struct host *host, int fd, const void *data, size_t size,
                                      uint64_t offset, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(data || size == 0);
    return host->ops->file_write_at(host, fd, data, size, offset, err);
}

enum kelpie_status host_file_stat(struct host *host, int fd, struct host_file_info *ret_info,
                                  struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(ret_info);
    return host->ops->file_stat(host, fd, ret_info, err);
}

enum kelpie_status host_file_truncate(struct host *host, int fd, uint64_t size,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    return host->ops->file_truncate(host, fd, size, err);
}

enum kelpie_status host_file_sync(struct host *host, int fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    return host->ops->file_sync(host, fd, err);
}

enum kelpie_status host_file_link(struct host *host, int fd, const char *path,
                                  struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(path);
    return host->ops->file_link(host, fd, path, err);
}

enum kelpie_status host_file_next_data(struct host *host, int fd, uint64_t offset,
                                       uint64_t *ret_start, uint64_t *ret_end,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(ret_start && ret_end);
    enum kelpie_status status =
        host->ops->file_next_data(host, fd, offset, ret_start, ret_end, err);
    ASSERT(status != KELPIE_OK || *ret_start <= *ret_end);
    return status;
}

enum kelpie_status host_file_lock(struct host *host, int fd, bool exclusive,
                                  struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    return host->ops->file_lock(host, fd, exclusive, err);
}

enum kelpie_status host_file_map(struct host *host, int fd, size_t size, enum host_map_flag flag,
                                 struct host_memory_map *ret_map, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(size > 0);
    ASSERT(ret_map);
    return host->ops->file_map(host, fd, size, flag, ret_map, err);
}

void host_file_unmap(struct host *host, struct host_memory_map *map) {
    ASSERT(host);
    ASSERT(map);
    ASSERT(!map->data == (map->size == 0));
    if (map->data) {
        host->ops->file_unmap(host, map);
        *map = (struct host_memory_map){0};
    }
}

enum kelpie_status host_memory_file(struct host *host, const char *name, uint64_t size, int *ret_fd,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(name);
    ASSERT(ret_fd);
    return check_fd(host->ops->memory_file(host, name, size, ret_fd, err), ret_fd);
}

/* ---- Paths ------------------------------------------------------------------------------------ */

enum kelpie_status host_path_stat(struct host *host, const char *path,
                                  struct host_file_info *ret_info, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(ret_info);
    return host->ops->path_stat(host, path, ret_info, err);
}

enum kelpie_status host_path_rename(struct host *host, const char *from, const char *to,
                                    bool replace, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(from);
    ASSERT(to);
    return host->ops->path_rename(host, from, to, replace, err);
}

enum kelpie_status host_path_unlink(struct host *host, const char *path, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    return host->ops->path_unlink(host, path, err);
}

enum kelpie_status host_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                   struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(mode <= 07777);
    return host->ops->path_mkdir(host, path, mode, err);
}

enum kelpie_status host_path_rmdir(struct host *host, const char *path, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    return host->ops->path_rmdir(host, path, err);
}

enum kelpie_status host_path_remove_tree(struct host *host, const char *path,
                                         struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path && path[0] != '\0');
    return host->ops->path_remove_tree(host, path, err);
}

enum kelpie_status host_path_symlink(struct host *host, const char *target, const char *path,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(target);
    ASSERT(path);
    return host->ops->path_symlink(host, target, path, err);
}

enum kelpie_status host_path_readlink(struct host *host, const char *path, char *buffer,
                                      size_t size, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(buffer && size > 0);
    return host->ops->path_readlink(host, path, buffer, size, err);
}

enum kelpie_status host_path_sync(struct host *host, const char *path, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    return host->ops->path_sync(host, path, err);
}

enum kelpie_status host_dir_list(struct host *host, const char *path,
                                 struct host_dir_entry *entries, size_t capacity, size_t *ret_count,
                                 struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(entries || capacity == 0);
    ASSERT(ret_count);
    return check_size(host->ops->dir_list(host, path, entries, capacity, ret_count, err), ret_count,
                      capacity);
}

/* ---- Sockets, events, waiting ----------------------------------------------------------------- */

enum kelpie_status host_tap_open(struct host *host, const char *name, int *ret_fd,
                                 struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(name && name[0]);
    ASSERT(ret_fd);
    return host->ops->tap_open(host, name, ret_fd, err);
}

enum kelpie_status host_socket_pair(struct host *host, int ret_fds[2], struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_fds);
    enum kelpie_status status = host->ops->socket_pair(host, ret_fds, err);
    ASSERT(status != KELPIE_OK || ret_fds[0] != ret_fds[1]);
    return check_fd(status, ret_fds);
}

enum kelpie_status host_socket_listen(struct host *host, const char *path, int *ret_fd,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(ret_fd);
    return check_fd(host->ops->socket_listen(host, path, ret_fd, err), ret_fd);
}

enum kelpie_status host_socket_accept(struct host *host, int fd, const struct host_wait *wait,
                                      int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(wait);
    ASSERT(ret_fd);
    return check_fd(host->ops->socket_accept(host, fd, wait, ret_fd, err), ret_fd);
}

enum kelpie_status host_socket_connect(struct host *host, const char *path,
                                       const struct host_wait *wait, int *ret_fd,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    ASSERT(wait);
    ASSERT(ret_fd);
    return check_fd(host->ops->socket_connect(host, path, wait, ret_fd, err), ret_fd);
}

enum kelpie_status host_socket_listen_tcp(struct host *host, const char *address, uint16_t port,
                                          int *ret_fd, uint16_t *ret_port,
                                          struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(address);
    ASSERT(ret_fd);
    ASSERT(ret_port);
    enum kelpie_status status =
        host->ops->socket_listen_tcp(host, address, port, ret_fd, ret_port, err);
    ASSERT(status != KELPIE_OK || *ret_port != 0);
    ASSERT(status != KELPIE_OK || port == 0 || *ret_port == port);
    return check_fd(status, ret_fd);
}

enum kelpie_status host_socket_connect_tcp(struct host *host, const char *address, uint16_t port,
                                           const struct host_wait *wait, int *ret_fd,
                                           struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(address);
    ASSERT(wait);
    ASSERT(ret_fd);
    return check_fd(host->ops->socket_connect_tcp(host, address, port, wait, ret_fd, err), ret_fd);
}

enum kelpie_status host_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(ret_uid);
    return host->ops->socket_peer(host, fd, ret_uid, err);
}

enum kelpie_status host_socket_send_fd(struct host *host, int fd, const void *data, size_t size,
                                       int passed_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0 && passed_fd >= 0);
    ASSERT(data);
    ASSERT(size > 0 && size <= HOST_SEND_FD_SIZE_MAX);
    return host->ops->socket_send_fd(host, fd, data, size, passed_fd, err);
}

enum kelpie_status host_receive(struct host *host, int fd, void *buffer, size_t size,
                                const struct host_wait *wait, struct host_received *ret_received,
                                struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(buffer && size > 0);
    ASSERT(wait && ret_received);
    enum kelpie_status status = host->ops->receive(host, fd, buffer, size, wait, ret_received, err);
    ASSERT(status != KELPIE_OK || ret_received->size <= size);
    return status;
}

enum kelpie_status host_read(struct host *host, int fd, void *buffer, size_t size,
                             const struct host_wait *wait, size_t *ret_size,
                             struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(buffer && size > 0);
    ASSERT(wait && ret_size);
    return check_size(host->ops->read(host, fd, buffer, size, wait, ret_size, err), ret_size, size);
}

enum kelpie_status host_write(struct host *host, int fd, const void *data, size_t size,
                              const struct host_wait *wait, size_t *ret_size,
                              struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    ASSERT(data && size > 0);
    ASSERT(wait && ret_size);
    return check_size(host->ops->write(host, fd, data, size, wait, ret_size, err), ret_size, size);
}

enum kelpie_status host_poll(struct host *host, struct host_poll_item *items, size_t count,
                             const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(items || count == 0);
    ASSERT(count <= HOST_POLL_COUNT_MAX);
    ASSERT(wait);
    return host->ops->poll(host, items, count, wait, err);
}

enum kelpie_status host_event_create(struct host *host, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_fd);
    return check_fd(host->ops->event_create(host, ret_fd, err), ret_fd);
}

void host_event_set(struct host *host, int fd) {
    ASSERT(host);
    ASSERT(fd >= 0);
    host->ops->event_set(host, fd);
}

void host_event_clear(struct host *host, int fd) {
    ASSERT(host);
    ASSERT(fd >= 0);
    host->ops->event_clear(host, fd);
}

void host_close(struct host *host, int fd) {
    ASSERT(fd >= 0 || fd == HOST_FD_NONE);
    if (fd != HOST_FD_NONE) {
        ASSERT(host);
        host->ops->close(host, fd);
    }
}

/* ---- Processes -------------------------------------------------------------------------------- */

enum kelpie_status host_process_spawn(struct host *host, const struct host_process_spec *spec,
                                      struct host_process **ret_process, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(spec && ret_process);
    ASSERT(spec->argv && spec->argv[0]);
    ASSERT(spec->fds || spec->fd_count == 0);
    ASSERT(spec->fd_count <= HOST_PROCESS_FD_COUNT_MAX);
    ASSERT(!spec->detached || !spec->dies_with_owner);
    for (size_t i = 0; i < spec->fd_count; i++) {
        ASSERT(spec->fds[i].fd >= 0 && spec->fds[i].child_fd >= 0);
    }
    return host->ops->process_spawn(host, spec, ret_process, err);
}

int host_process_fd(struct host_process *process) {
    int fd = host_of(process)->ops->process_fd(process);
    ASSERT(fd >= 0);
    return fd;
}

int host_process_id(struct host_process *process) {
    int id = host_of(process)->ops->process_id(process);
    ASSERT(id > 0);
    return id;
}

enum kelpie_status host_process_usage(struct host *host, int process_id,
                                      struct host_process_usage *ret_usage,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(process_id > 0);
    ASSERT(ret_usage);
    return host->ops->process_usage(host, process_id, ret_usage, err);
}

enum kelpie_status host_process_signal(struct host_process *process, int signal_number,
                                       struct kelpie_error *err) {
    ASSERT(signal_number > 0 && signal_number <= HOST_SIGNAL_MAX);
    return host_of(process)->ops->process_signal(process, signal_number, err);
}

enum kelpie_status host_process_wait(struct host_process *process, const struct host_wait *wait,
                                     struct host_process_exit *ret_exit, struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(ret_exit);
    return host_of(process)->ops->process_wait(process, wait, ret_exit, err);
}

void host_process_destroy(struct host_process *process) {
    if (process) {
        host_of(process)->ops->process_destroy(process);
    }
}

/* ---- Threads ---------------------------------------------------------------------------------- */

enum kelpie_status host_thread_start(struct host *host, const char *name, host_thread_entry entry,
                                     void *argument, struct host_thread **ret_thread,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(name);
    ASSERT(entry);
    ASSERT(ret_thread);
    return host->ops->thread_start(host, name, entry, argument, ret_thread, err);
}

void host_thread_join(struct host_thread *thread) {
    if (thread) {
        host_of(thread)->ops->thread_join(thread);
    }
}

enum kelpie_status host_mutex_create(struct host *host, struct host_mutex **ret_mutex,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_mutex);
    return host->ops->mutex_create(host, ret_mutex, err);
}

void host_mutex_destroy(struct host_mutex *mutex) {
    if (mutex) {
        host_of(mutex)->ops->mutex_destroy(mutex);
    }
}

void host_mutex_lock(struct host_mutex *mutex) {
    host_of(mutex)->ops->mutex_lock(mutex);
}

void host_mutex_unlock(struct host_mutex *mutex) {
    host_of(mutex)->ops->mutex_unlock(mutex);
}

enum kelpie_status host_condition_create(struct host *host, struct host_condition **ret_condition,
                                         struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_condition);
    return host->ops->condition_create(host, ret_condition, err);
}

void host_condition_destroy(struct host_condition *condition) {
    if (condition) {
        host_of(condition)->ops->condition_destroy(condition);
    }
}

bool host_condition_wait(struct host_condition *condition, struct host_mutex *mutex,
                         uint64_t deadline_ns) {
    ASSERT(host_of(condition) == host_of(mutex));
    return host_of(condition)->ops->condition_wait(condition, mutex, deadline_ns);
}

void host_condition_broadcast(struct host_condition *condition) {
    host_of(condition)->ops->condition_broadcast(condition);
}
