/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host: `struct host` made of system calls (Linux 5.11 or later).
 *
 * Theory of operation. Every wait is one ppoll() of what is waited for and of the wait's cancel
 * event, with the time that is left; nothing else in the Linux host blocks. Reads and writes are
 * tried first and wait only when they would block. No signal handler, no signal mask and no other
 * property of the embedding program is changed; every descriptor is close-on-exec. Files:
 *
 *     host_linux.c          making it, clocks, random, environment, waiting
 *     host_linux_file.c     open files, memory files, mappings
 *     host_linux_path.c     names: links, folders, renaming; host_linux_tree.c removes whole folders
 *     host_linux_socket.c   UNIX sockets, streams, events
 *     host_linux_process.c  processes; host_linux_spawner.c starts them
 *     host_linux_thread.c   threads, mutexes, conditions
 */
#include "host/host_linux.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"

static void linux_destroy(struct host *host) {
    ASSERT(host);
    struct host_linux *self = host_linux_of(host);
    linux_spawner_deinit(&self->spawner);
    pthread_mutex_destroy(&self->kvm.lock);
    free(self);
}

/* ---- Clocks, random, environment, memory ------------------------------------------------------ */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    int result = clock_gettime(clock, &now);
    ASSERT(result == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * HOST_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t linux_monotonic_ns(struct host *host) {
    ASSERT(host);
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t linux_realtime_ns(struct host *host) {
    ASSERT(host);
    return clock_ns(CLOCK_REALTIME);
}

static uint64_t linux_ticks(struct host *host) {
    ASSERT(host);
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

static enum kelpie_status linux_random(struct host *host, void *buffer, size_t size,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(buffer || size == 0);
    size_t done = 0;
    while (done < size) {
        ssize_t count = RETRY_EINTR(getrandom((uint8_t *)buffer + done, size - done, 0));
        if (count < 0) {
            return error_set_os(err, errno, "cannot get %zu random bytes", size);
        }
        done += (size_t)count;
    }
    ASSERT(done == size);
    return KELPIE_OK;
}

static const char *linux_environment(struct host *host, const char *name) {
    ASSERT(host);
    ASSERT(name);
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

static void *linux_allocate(struct host *host, size_t size) {
    ASSERT(host);
    ASSERT(size > 0);
    return calloc(1, size);
}

static uint32_t linux_user_id(struct host *host) {
    ASSERT(host);
    return geteuid();
}

static int linux_own_process_id(struct host *host) {
    ASSERT(host);
    return getpid();
}

/* getcwd(2) names a folder that was moved out of the process's root "(unreachable)…". */
static enum kelpie_status linux_working_dir(struct host *host, char *buffer, size_t size,
                                            struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 1];
    ASSERT(host);
    ASSERT(buffer && size > 0);
    if (!getcwd(path, sizeof(path))) {
        return error_set_os(err, errno, "cannot find out the working folder");
    }
    size_t length = strlen(path);
    if (path[0] != '/') {
        return error_set_os(err, ENOENT, "the working folder is not reachable");
    }
    if (length >= size) {
        return error_set(err, KELPIE_NO_SPACE, "the working folder's path has %zu bytes", length);
    }
    memcpy(buffer, path, length + 1);
    return KELPIE_OK;
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

struct timespec linux_timespec(uint64_t ns) {
    return (struct timespec){
        .tv_sec = (time_t)(ns / HOST_NS_PER_S),
        .tv_nsec = (long)(ns % HOST_NS_PER_S),
    };
}

/* ppoll() until the deadline, over signals. Returns as ppoll() does. */
static int poll_until(struct host *host, struct pollfd *fds, size_t count, uint64_t deadline_ns) {
    ASSERT(fds);
    ASSERT(count > 0 && count <= HOST_POLL_COUNT_MAX + 1);
    int result = 0;
    do {
        uint64_t now = linux_monotonic_ns(host);
        struct timespec left = linux_timespec(deadline_ns > now ? deadline_ns - now : 0);
        result = ppoll(fds, (nfds_t)count, &left, NULL);
    } while (result < 0 && errno == EINTR);
    return result;
}

enum kelpie_status linux_wait_fd(struct host *host, int fd, short events,
                                 const struct host_wait *wait, const char *what,
                                 struct kelpie_error *err) {
    ASSERT(wait && what);
    ASSERT(fd >= 0);
    struct pollfd fds[2] = {{.fd = fd, .events = events},
                            {.fd = wait->cancel_fd, .events = POLLIN}};
    if (poll_until(host, fds, 2, wait->deadline_ns) < 0) {
        return error_set_os(err, errno, "cannot wait for %s", what);
    }
    if (fds[0].revents) {
        return KELPIE_OK;
    }
    if (fds[1].revents) {
        return error_set(err, KELPIE_CANCELLED, "the wait for %s was cancelled", what);
    }
    return error_set(err, KELPIE_TIMED_OUT, "there was no %s in time", what);
}

enum kelpie_status linux_sleep(struct host *host, const struct host_wait *wait,
                               struct kelpie_error *err) {
    ASSERT(host && wait);
    struct pollfd cancel = {.fd = wait->cancel_fd, .events = POLLIN};
    int count = poll_until(host, &cancel, 1, wait->deadline_ns);
    if (count < 0) {
        return error_set_os(err, errno, "cannot sleep");
    }
    if (count > 0) {
        return error_set(err, KELPIE_CANCELLED, "the sleep was cancelled");
    }
    ASSERT(linux_monotonic_ns(host) >= wait->deadline_ns);
    return KELPIE_OK;
}

static uint32_t ready_of(uint32_t asked, short revents) {
    uint32_t ready = 0;
    if (revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) {
        ready |= HOST_POLL_READ;
    }
    if (revents & (POLLOUT | POLLHUP | POLLERR | POLLNVAL)) {
        ready |= HOST_POLL_WRITE;
    }
    return ready & asked;
}

/* Here cancellation goes first: a loop around a busy descriptor must see it. */
enum kelpie_status linux_poll(struct host *host, struct host_poll_item *items, size_t count,
                              const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(count <= HOST_POLL_COUNT_MAX);
    struct pollfd fds[HOST_POLL_COUNT_MAX + 1] = {0};
    for (size_t i = 0; i < count; i++) {
        short events = (short)(((items[i].asked & HOST_POLL_READ) ? POLLIN : 0) |
                               ((items[i].asked & HOST_POLL_WRITE) ? POLLOUT : 0));
        /* Nothing asked is nothing watched, or an end of file would make the wait spin. */
        fds[i] = (struct pollfd){.fd = events ? items[i].fd : HOST_FD_NONE, .events = events};
        items[i].ready = 0;
    }
    fds[count] = (struct pollfd){.fd = wait->cancel_fd, .events = POLLIN};
    int result = poll_until(host, fds, count + 1, wait->deadline_ns);
    if (result < 0) {
        return error_set_os(err, errno, "cannot wait for %zu descriptors", count);
    }
    if (fds[count].revents) {
        return error_set(err, KELPIE_CANCELLED, "the wait was cancelled");
    }
    if (result == 0) {
        return error_set(err, KELPIE_TIMED_OUT, "nothing was ready in time");
    }
    for (size_t i = 0; i < count; i++) {
        items[i].ready = ready_of(items[i].asked, fds[i].revents);
    }
    return KELPIE_OK;
}

/* ---- The table -------------------------------------------------------------------------------- */

static const struct host_ops linux_ops = {
    .destroy = linux_destroy,
    .monotonic_ns = linux_monotonic_ns,
    .realtime_ns = linux_realtime_ns,
    .ticks = linux_ticks,
    .sleep = linux_sleep,
    .random = linux_random,
    .environment = linux_environment,
    .allocate = linux_allocate,
    .user_id = linux_user_id,
    .own_process_id = linux_own_process_id,
    .working_dir = linux_working_dir,
    .file_open = linux_file_open,
    .file_read_at = linux_file_read_at,
    .file_write_at = linux_file_write_at,
    .file_stat = linux_file_stat,
    .file_truncate = linux_file_truncate,
    .kvm_probe = linux_kvm_probe,
    .krunfw_load = linux_krunfw_load,
    .file_sync = linux_file_sync,
    .file_link = linux_file_link,
    .file_next_data = linux_file_next_data,
    .file_lock = linux_file_lock,
    .file_map = linux_file_map,
    .file_unmap = linux_file_unmap,
    .memory_file = linux_memory_file,
    .path_stat = linux_path_stat,
    .path_rename = linux_path_rename,
    .path_unlink = linux_path_unlink,
    .path_mkdir = linux_path_mkdir,
    .path_rmdir = linux_path_rmdir,
    .below = linux_below,
    .path_remove_tree = linux_path_remove_tree,
    .path_symlink = linux_path_symlink,
    .path_readlink = linux_path_readlink,
    .path_sync = linux_path_sync,
    .dir_list = linux_dir_list,
    .tap_open = linux_tap_open,
    .socket_pair = linux_socket_pair,
    .socket_listen = linux_socket_listen,
    .socket_accept = linux_socket_accept,
    .socket_connect = linux_socket_connect,
    .socket_listen_tcp = linux_socket_listen_tcp,
    .socket_connect_tcp = linux_socket_connect_tcp,
    .socket_peer = linux_socket_peer,
    .socket_send_fd = linux_socket_send_fd,
    .receive = linux_receive,
    .read = linux_read,
    .write = linux_write,
    .poll = linux_poll,
    .event_create = linux_event_create,
    .event_set = linux_event_set,
    .event_clear = linux_event_clear,
    .close = linux_close,
    .process_spawn = linux_process_spawn,
    .process_fd = linux_process_fd,
    .process_id = linux_process_id,
    .process_usage = linux_process_usage,
    .process_signal = linux_process_signal,
    .process_wait = linux_process_wait,
    .process_destroy = linux_process_destroy,
    .thread_start = linux_thread_start,
    .thread_join = linux_thread_join,
    .mutex_create = linux_mutex_create,
    .mutex_destroy = linux_mutex_destroy,
    .mutex_lock = linux_mutex_lock,
    .mutex_unlock = linux_mutex_unlock,
    .condition_create = linux_condition_create,
    .condition_destroy = linux_condition_destroy,
    .condition_wait = linux_condition_wait,
    .condition_broadcast = linux_condition_broadcast,
};

enum kelpie_status host_linux_create(struct host **ret_host, struct kelpie_error *err) {
    ASSERT(ret_host);
    struct host_linux *self = calloc(1, sizeof(*self));
    if (!self) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate a host");
    }
    self->host.ops = &linux_ops;
    linux_spawner_init(&self->spawner);
    int result = pthread_mutex_init(&self->kvm.lock, NULL);
    ASSERT(result == 0);
    *ret_host = &self->host;
    return KELPIE_OK;
}
