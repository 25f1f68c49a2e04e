/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Theory of operation. Each operation first asks fault_enter(), which counts and may fail, then calls
 * the inner host. Descriptors are the inner host's. Processes, threads, mutexes and conditions are
 * wrapped, because host.h finds an object's host in its first member and would go past us otherwise.
 * The books are kept under one mutex, which is never held while the inner host is called.
 */
#include "fault_host_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "host/host_below.h"
#include "host/host_krunfw.h"
#include "host/host_kvm.h"

/* ---- The books ------------------------------------------------------------------------------- */

/* Counts a call. True: it fails, and *ret_plan says how. */
static bool fault_strikes(struct fault_host *self, const char *name, struct fault_plan *ret_plan) {
    pthread_mutex_lock(&self->lock);
    const struct fault_plan *plan = &self->plan;
    bool strikes = false;
    if (!plan->only || strcmp(plan->only, name) == 0) {
        self->calls++;
        strikes = self->calls == plan->nth;
        strikes = strikes || (plan->sticky && plan->nth != 0 && self->calls > plan->nth);
    }
    if (strikes && !self->fired) {
        self->fired = name;
    }
    *ret_plan = *plan;
    pthread_mutex_unlock(&self->lock);
    return strikes;
}

enum kelpie_status fault_enter(struct host *host, const char *name, struct kelpie_error *err) {
    struct fault_plan plan = {0};
    if (!fault_strikes(fault_of(host), name, &plan)) {
        return KELPIE_OK;
    }
    if (plan.kills) {
        (void)kill(getpid(), SIGKILL);
    }
    if (plan.status == KELPIE_OK) {
        return error_set_os(err, plan.os_error ? plan.os_error : EIO, "injected failure of %s",
                            name);
    }
    error_set(err, plan.status, "injected failure of %s", name);
    if (err) {
        err->os_error = plan.os_error;
    }
    return plan.status;
}

static void note_fd(struct host *host, const char *kind, int fd) {
    struct fault_host *self = fault_of(host);
    ASSERT(fd >= 0 && fd < FAULT_HOST_FD_MAX);
    pthread_mutex_lock(&self->lock);
    ASSERT(!self->fd_kinds[fd]);
    self->fd_kinds[fd] = kind;
    self->fd_calls[fd] = self->calls;
    pthread_mutex_unlock(&self->lock);
}

/* The place of `thing`, or of nothing (a free one). With the lock held. */
static struct open_thing *place_of(struct fault_host *self, const void *thing) {
    size_t place = 0;
    while (place < FAULT_HOST_OBJECT_MAX && self->things[place].thing != thing) {
        place++;
    }
    ASSERT(place < FAULT_HOST_OBJECT_MAX);
    return &self->things[place];
}

void fault_note_thing(struct host *host, const char *kind, const void *thing) {
    struct fault_host *self = fault_of(host);
    ASSERT(thing);
    pthread_mutex_lock(&self->lock);
    *place_of(self, NULL) = (struct open_thing){.thing = thing, .kind = kind, .call = self->calls};
    pthread_mutex_unlock(&self->lock);
}

void fault_forget_thing(struct host *host, const void *thing) {
    struct fault_host *self = fault_of(host);
    ASSERT(thing);
    pthread_mutex_lock(&self->lock);
    *place_of(self, thing) = (struct open_thing){0};
    pthread_mutex_unlock(&self->lock);
}

/* ---- For tests ------------------------------------------------------------------------------- */

void fault_host_arm(struct host *host, const struct fault_plan *plan) {
    struct fault_host *self = fault_of(host);
    ASSERT(plan);
    pthread_mutex_lock(&self->lock);
    self->plan = *plan;
    self->calls = 0;
    self->fired = NULL;
    pthread_mutex_unlock(&self->lock);
}

void fault_host_disarm(struct host *host) {
    struct fault_host *self = fault_of(host);
    pthread_mutex_lock(&self->lock);
    self->plan.nth = 0;
    pthread_mutex_unlock(&self->lock);
}

const char *fault_host_fired(struct host *host) {
    struct fault_host *self = fault_of(host);
    pthread_mutex_lock(&self->lock);
    const char *fired = self->fired;
    pthread_mutex_unlock(&self->lock);
    return fired;
}

uint64_t fault_host_calls(struct host *host) {
    struct fault_host *self = fault_of(host);
    pthread_mutex_lock(&self->lock);
    uint64_t calls = self->calls;
    pthread_mutex_unlock(&self->lock);
    return calls;
}

/* A text that is cut when it is full. */
struct report {
    char *text;
    size_t size;
    size_t used;
};

static void report_add(struct report *report, const char *kind, int number, uint64_t call) {
    ASSERT(report->used < report->size);
    int length =
        snprintf(report->text + report->used, report->size - report->used, "%s%s %d (call %llu)",
                 report->used ? ", " : "", kind, number, (unsigned long long)call);
    ASSERT(length > 0);
    report->used += (size_t)length;
    if (report->used >= report->size) {
        report->used = report->size - 1;
    }
}

size_t fault_host_leaks(struct host *host, char *text, size_t size) {
    struct fault_host *self = fault_of(host);
    ASSERT(text && size > 0);
    struct report report = {.text = text, .size = size};
    text[0] = '\0';
    pthread_mutex_lock(&self->lock);
    size_t count = self->wrong_closes;
    if (self->wrong_closes > 0) {
        report_add(&report, "wrong close of descriptor", self->wrong_fd, self->calls);
    }
    for (int fd = 0; fd < FAULT_HOST_FD_MAX; fd++) {
        if (self->fd_kinds[fd]) {
            report_add(&report, self->fd_kinds[fd], fd, self->fd_calls[fd]);
            count++;
        }
    }
    for (int i = 0; i < FAULT_HOST_OBJECT_MAX; i++) {
        if (self->things[i].thing) {
            report_add(&report, self->things[i].kind, i, self->things[i].call);
            count++;
        }
    }
    pthread_mutex_unlock(&self->lock);
    return count;
}

/* ---- What never fails, and what is more than a call ------------------------------------------ */

static void fault_destroy(struct host *host) {
    struct fault_host *self = fault_of(host);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static uint64_t fault_monotonic_ns(struct host *host) {
    return host_monotonic_ns(inner_of(host));
}

static uint64_t fault_realtime_ns(struct host *host) {
    return host_realtime_ns(inner_of(host));
}

static uint64_t fault_ticks(struct host *host) {
    return host_ticks(inner_of(host));
}

static const char *fault_environment(struct host *host, const char *name) {
    return host_environment(inner_of(host), name);
}

static uint32_t fault_user_id(struct host *host) {
    return host_user_id(inner_of(host));
}

static int fault_own_process_id(struct host *host) {
    return host_own_process_id(inner_of(host));
}

static enum kelpie_status fault_working_dir(struct host *host, char *buffer, size_t size,
                                            struct kelpie_error *err) {
    TRY(fault_enter(host, "working_dir", err));
    return host_working_dir(inner_of(host), buffer, size, err);
}

static void *fault_allocate(struct host *host, size_t size) {
    if (fault_enter(host, "allocate", NULL) != KELPIE_OK) {
        return NULL;
    }
    return host_allocate(inner_of(host), size, NULL);
}

static enum kelpie_status fault_file_map(struct host *host, int fd, size_t size,
                                         enum host_map_flag flag, struct host_memory_map *ret_map,
                                         struct kelpie_error *err) {
    TRY(fault_enter(host, "file_map", err));
    TRY(host_file_map(inner_of(host), fd, size, flag, ret_map, err));
    fault_note_thing(host, "file_map", ret_map->data);
    return KELPIE_OK;
}

static void fault_file_unmap(struct host *host, struct host_memory_map *map) {
    fault_forget_thing(host, map->data);
    host_file_unmap(inner_of(host), map);
}

static enum kelpie_status fault_socket_pair(struct host *host, int ret_fds[2],
                                            struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_pair", err));
    TRY(host_socket_pair(inner_of(host), ret_fds, err));
    note_fd(host, "socket_pair", ret_fds[0]);
    note_fd(host, "socket_pair", ret_fds[1]);
    return KELPIE_OK;
}

static void fault_event_set(struct host *host, int fd) {
    host_event_set(inner_of(host), fd);
}

static void fault_event_clear(struct host *host, int fd) {
    host_event_clear(inner_of(host), fd);
}

/* Out of the books first: once it is closed, another thread may get the same number. */
static void fault_close(struct host *host, int fd) {
    struct fault_host *self = fault_of(host);
    ASSERT(fd < FAULT_HOST_FD_MAX);
    pthread_mutex_lock(&self->lock);
    bool is_open = self->fd_kinds[fd] != NULL;
    self->fd_kinds[fd] = NULL;
    if (!is_open) {
        self->wrong_closes++;
        self->wrong_fd = fd;
    }
    pthread_mutex_unlock(&self->lock);
    if (is_open) {
        host_close(self->inner, fd);
    }
}

/* ---- Time, random ---------------------------------------------------------------------------- */

static enum kelpie_status fault_sleep(struct host *host, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    TRY(fault_enter(host, "sleep", err));
    return host_sleep(inner_of(host), wait, err);
}

static enum kelpie_status fault_random(struct host *host, void *buffer, size_t size,
                                       struct kelpie_error *err) {
    TRY(fault_enter(host, "random", err));
    return host_random(inner_of(host), buffer, size, err);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static enum kelpie_status fault_file_open(struct host *host, const char *path, uint32_t flags,
                                          uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    TRY(fault_enter(host, "file_open", err));
    TRY(host_file_open(inner_of(host), path, flags, mode, ret_fd, err));
    note_fd(host, "file_open", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                             uint64_t offset, size_t *ret_size,
                                             struct kelpie_error *err) {
    TRY(fault_enter(host, "file_read_at", err));
    return host_file_read_at(inner_of(host), fd, buffer, size, offset, ret_size, err);
}

static enum kelpie_status fault_file_write_at(struct host *host, int fd, const void *data,
                                              size_t size, uint64_t offset,
                                              struct kelpie_error *err) {
    TRY(fault_enter(host, "file_write_at", err));
    return host_file_write_at(inner_of(host), fd, data, size, offset, err);
}

static enum kelpie_status fault_file_stat(struct host *host, int fd,
                                          struct host_file_info *ret_info,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "file_stat", err));
    return host_file_stat(inner_of(host), fd, ret_info, err);
}

static enum kelpie_status fault_file_truncate(struct host *host, int fd, uint64_t size,
                                              struct kelpie_error *err) {
    TRY(fault_enter(host, "file_truncate", err));
    return host_file_truncate(inner_of(host), fd, size, err);
}

static enum kelpie_status fault_tap_open(struct host *host, const char *name, int *ret_fd,
                                         struct kelpie_error *err) {
    TRY(fault_enter(host, "tap_open", err));
    return host_tap_open(inner_of(host), name, ret_fd, err);
}

static enum kelpie_status fault_kvm_probe(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "kvm_probe", err));
    return host_kvm_probe(inner_of(host), budget_ns, ret_ns, err);
}

static enum kelpie_status fault_krunfw_load(struct host *host, const char *path,
                                            struct host_krunfw *ret_kernel,
                                            struct kelpie_error *err) {
    TRY(fault_enter(host, "krunfw_load", err));
    return host_krunfw_load(inner_of(host), path, ret_kernel, err);
}

static enum kelpie_status fault_file_link(struct host *host, int fd, const char *path,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "file_link", err));
    return host_file_link(inner_of(host), fd, path, err);
}

static enum kelpie_status fault_file_sync(struct host *host, int fd, struct kelpie_error *err) {
    TRY(fault_enter(host, "file_sync", err));
    return host_file_sync(inner_of(host), fd, err);
}

static enum kelpie_status fault_file_next_data(struct host *host, int fd, uint64_t offset,
                                               uint64_t *ret_start, uint64_t *ret_end,
                                               struct kelpie_error *err) {
    TRY(fault_enter(host, "file_next_data", err));
    return host_file_next_data(inner_of(host), fd, offset, ret_start, ret_end, err);
}

static enum kelpie_status fault_file_lock(struct host *host, int fd, bool exclusive,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "file_lock", err));
    return host_file_lock(inner_of(host), fd, exclusive, err);
}

static enum kelpie_status fault_memory_file(struct host *host, const char *name, uint64_t size,
                                            int *ret_fd, struct kelpie_error *err) {
    TRY(fault_enter(host, "memory_file", err));
    TRY(host_memory_file(inner_of(host), name, size, ret_fd, err));
    note_fd(host, "memory_file", *ret_fd);
    return KELPIE_OK;
}

/* ---- Paths ----------------------------------------------------------------------------------- */

static enum kelpie_status fault_path_stat(struct host *host, const char *path,
                                          struct host_file_info *ret_info,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "path_stat", err));
    return host_path_stat(inner_of(host), path, ret_info, err);
}

static enum kelpie_status fault_path_rename(struct host *host, const char *from, const char *to,
                                            bool replace, struct kelpie_error *err) {
    TRY(fault_enter(host, "path_rename", err));
    return host_path_rename(inner_of(host), from, to, replace, err);
}

static enum kelpie_status fault_path_unlink(struct host *host, const char *path,
                                            struct kelpie_error *err) {
    TRY(fault_enter(host, "path_unlink", err));
    return host_path_unlink(inner_of(host), path, err);
}

static enum kelpie_status fault_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                           struct kelpie_error *err) {
    TRY(fault_enter(host, "path_mkdir", err));
    return host_path_mkdir(inner_of(host), path, mode, err);
}

static enum kelpie_status fault_path_rmdir(struct host *host, const char *path,
                                           struct kelpie_error *err) {
    TRY(fault_enter(host, "path_rmdir", err));
    return host_path_rmdir(inner_of(host), path, err);
}

static enum kelpie_status fault_below(struct host *host, struct host_below *call,
                                      struct kelpie_error *err) {
    TRY(fault_enter(host, "below", err));
    struct host *inner = inner_of(host);
    TRY(inner->ops->below(inner, call, err));
    if (call->action == HOST_BELOW_OPEN) {
        note_fd(host, "below", call->fd);
    }
    return KELPIE_OK;
}

static enum kelpie_status fault_path_remove_tree(struct host *host, const char *path,
                                                 struct kelpie_error *err) {
    TRY(fault_enter(host, "path_remove_tree", err));
    return host_path_remove_tree(inner_of(host), path, err);
}

static enum kelpie_status fault_path_symlink(struct host *host, const char *target,
                                             const char *path, struct kelpie_error *err) {
    TRY(fault_enter(host, "path_symlink", err));
    return host_path_symlink(inner_of(host), target, path, err);
}

static enum kelpie_status fault_path_readlink(struct host *host, const char *path, char *buffer,
                                              size_t size, struct kelpie_error *err) {
    TRY(fault_enter(host, "path_readlink", err));
    return host_path_readlink(inner_of(host), path, buffer, size, err);
}

static enum kelpie_status fault_path_sync(struct host *host, const char *path,
                                          struct kelpie_error *err) {
    TRY(fault_enter(host, "path_sync", err));
    return host_path_sync(inner_of(host), path, err);
}

static enum kelpie_status fault_dir_list(struct host *host, const char *path,
                                         struct host_dir_entry *entries, size_t capacity,
                                         size_t *ret_count, struct kelpie_error *err) {
    TRY(fault_enter(host, "dir_list", err));
    return host_dir_list(inner_of(host), path, entries, capacity, ret_count, err);
}

/* ---- Sockets, events, waiting ---------------------------------------------------------------- */

static enum kelpie_status fault_socket_listen(struct host *host, const char *path, int *ret_fd,
                                              struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_listen", err));
    TRY(host_socket_listen(inner_of(host), path, ret_fd, err));
    note_fd(host, "socket_listen", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_socket_accept(struct host *host, int fd,
                                              const struct host_wait *wait, int *ret_fd,
                                              struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_accept", err));
    TRY(host_socket_accept(inner_of(host), fd, wait, ret_fd, err));
    note_fd(host, "socket_accept", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_socket_connect(struct host *host, const char *path,
                                               const struct host_wait *wait, int *ret_fd,
                                               struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_connect", err));
    TRY(host_socket_connect(inner_of(host), path, wait, ret_fd, err));
    note_fd(host, "socket_connect", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_socket_listen_tcp(struct host *host, const char *address,
                                                  uint16_t port, int *ret_fd, uint16_t *ret_port,
                                                  struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_listen_tcp", err));
    TRY(host_socket_listen_tcp(inner_of(host), address, port, ret_fd, ret_port, err));
    note_fd(host, "socket_listen_tcp", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_socket_connect_tcp(struct host *host, const char *address,
                                                   uint16_t port, const struct host_wait *wait,
                                                   int *ret_fd, struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_connect_tcp", err));
    TRY(host_socket_connect_tcp(inner_of(host), address, port, wait, ret_fd, err));
    note_fd(host, "socket_connect_tcp", *ret_fd);
    return KELPIE_OK;
}

static enum kelpie_status fault_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                            struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_peer", err));
    return host_socket_peer(inner_of(host), fd, ret_uid, err);
}

static enum kelpie_status fault_socket_send_fd(struct host *host, int fd, const void *data,
                                               size_t size, int passed_fd,
                                               struct kelpie_error *err) {
    TRY(fault_enter(host, "socket_send_fd", err));
    return host_socket_send_fd(inner_of(host), fd, data, size, passed_fd, err);
}

static enum kelpie_status fault_receive(struct host *host, int fd, void *buffer, size_t size,
                                        const struct host_wait *wait,
                                        struct host_received *ret_received,
                                        struct kelpie_error *err) {
    TRY(fault_enter(host, "receive", err));
    TRY(host_receive(inner_of(host), fd, buffer, size, wait, ret_received, err));
    if (ret_received->fd != HOST_FD_NONE) {
        note_fd(host, "receive", ret_received->fd);
    }
    return KELPIE_OK;
}

static enum kelpie_status fault_read(struct host *host, int fd, void *buffer, size_t size,
                                     const struct host_wait *wait, size_t *ret_size,
                                     struct kelpie_error *err) {
    TRY(fault_enter(host, "read", err));
    return host_read(inner_of(host), fd, buffer, size, wait, ret_size, err);
}

static enum kelpie_status fault_write(struct host *host, int fd, const void *data, size_t size,
                                      const struct host_wait *wait, size_t *ret_size,
                                      struct kelpie_error *err) {
    TRY(fault_enter(host, "write", err));
    return host_write(inner_of(host), fd, data, size, wait, ret_size, err);
}

static enum kelpie_status fault_poll(struct host *host, struct host_poll_item *items, size_t count,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    TRY(fault_enter(host, "poll", err));
    return host_poll(inner_of(host), items, count, wait, err);
}

static enum kelpie_status fault_event_create(struct host *host, int *ret_fd,
                                             struct kelpie_error *err) {
    TRY(fault_enter(host, "event_create", err));
    TRY(host_event_create(inner_of(host), ret_fd, err));
    note_fd(host, "event_create", *ret_fd);
    return KELPIE_OK;
}

/* ---- The table ------------------------------------------------------------------------------- */

static const struct host_ops fault_ops = {
    .destroy = fault_destroy,
    .monotonic_ns = fault_monotonic_ns,
    .realtime_ns = fault_realtime_ns,
    .ticks = fault_ticks,
    .sleep = fault_sleep,
    .random = fault_random,
    .environment = fault_environment,
    .allocate = fault_allocate,
    .user_id = fault_user_id,
    .own_process_id = fault_own_process_id,
    .working_dir = fault_working_dir,
    .file_open = fault_file_open,
    .file_read_at = fault_file_read_at,
    .file_write_at = fault_file_write_at,
    .file_stat = fault_file_stat,
    .file_truncate = fault_file_truncate,
    .file_sync = fault_file_sync,
    .file_link = fault_file_link,
    .kvm_probe = fault_kvm_probe,
    .tap_open = fault_tap_open,
    .krunfw_load = fault_krunfw_load,
    .file_next_data = fault_file_next_data,
    .file_lock = fault_file_lock,
    .file_map = fault_file_map,
    .file_unmap = fault_file_unmap,
    .memory_file = fault_memory_file,
    .path_stat = fault_path_stat,
    .path_rename = fault_path_rename,
    .path_unlink = fault_path_unlink,
    .path_mkdir = fault_path_mkdir,
    .path_rmdir = fault_path_rmdir,
    .below = fault_below,
    .path_remove_tree = fault_path_remove_tree,
    .path_symlink = fault_path_symlink,
    .path_readlink = fault_path_readlink,
    .path_sync = fault_path_sync,
    .dir_list = fault_dir_list,
    .socket_pair = fault_socket_pair,
    .socket_listen = fault_socket_listen,
    .socket_accept = fault_socket_accept,
    .socket_connect = fault_socket_connect,
    .socket_listen_tcp = fault_socket_listen_tcp,
    .socket_connect_tcp = fault_socket_connect_tcp,
    .socket_peer = fault_socket_peer,
    .socket_send_fd = fault_socket_send_fd,
    .receive = fault_receive,
    .read = fault_read,
    .write = fault_write,
    .poll = fault_poll,
    .event_create = fault_event_create,
    .event_set = fault_event_set,
    .event_clear = fault_event_clear,
    .close = fault_close,
    .process_spawn = fault_process_spawn,
    .process_fd = fault_process_fd,
    .process_id = fault_process_id,
    .process_usage = fault_process_usage,
    .process_signal = fault_process_signal,
    .process_wait = fault_process_wait,
    .process_destroy = fault_process_destroy,
    .thread_start = fault_thread_start,
    .thread_join = fault_thread_join,
    .mutex_create = fault_mutex_create,
    .mutex_destroy = fault_mutex_destroy,
    .mutex_lock = fault_mutex_lock,
    .mutex_unlock = fault_mutex_unlock,
    .condition_create = fault_condition_create,
    .condition_destroy = fault_condition_destroy,
    .condition_wait = fault_condition_wait,
    .condition_broadcast = fault_condition_broadcast,
};

enum kelpie_status fault_host_create(struct host *inner, struct host **ret_host,
                                     struct kelpie_error *err) {
    ASSERT(inner);
    ASSERT(ret_host);
    struct fault_host *self = calloc(1, sizeof(*self));
    if (!self) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate a fault host");
    }
    self->host.ops = &fault_ops;
    self->inner = inner;
    int result = pthread_mutex_init(&self->lock, NULL);
    ASSERT(result == 0);
    *ret_host = &self->host;
    return KELPIE_OK;
}
