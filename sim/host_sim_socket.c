/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated host's waiting, streams, sockets and events. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"
#include "sim/peer/peer.h"
#include "sim/stream.h"

#define FIRST_FD 3
#define PATH_SIZE (HOST_PATH_SIZE_MAX + 16)

/* ---- Waiting ---------------------------------------------------------------------------------- */

static bool is_set(struct sim_process *process, int cancel_fd) {
    ASSERT(cancel_fd >= 0 || cancel_fd == HOST_FD_NONE);
    if (cancel_fd == HOST_FD_NONE) {
        return false;
    }
    struct sim_handle *handle = sim_fd_get(process, cancel_fd);
    ASSERT(handle->kind == SIM_HANDLE_EVENT);
    return handle->set;
}

static void watch_cancel(struct sim_process *process, int cancel_fd) {
    ASSERT(process->world->current);
    ASSERT(cancel_fd >= 0 || cancel_fd == HOST_FD_NONE);
    if (cancel_fd != HOST_FD_NONE) {
        sim_handle_watch(sim_fd_get(process, cancel_fd), HOST_POLL_READ);
    }
}

static bool is_over(const struct sim_process *process, const struct host_wait *wait) {
    ASSERT(process->machine);
    ASSERT(wait);
    return sim_machine_monotonic_ns(process->machine) >= wait->deadline_ns;
}

enum kelpie_status sim_wait_fd(struct host *host, int fd, uint32_t asked,
                               const struct host_wait *wait, const char *what,
                               struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    ASSERT(wait && what);
    for (;;) {
        struct sim_handle *handle = sim_fd_get(process, fd);
        uint64_t when_ns = sim_machine_true_ns(process->machine, wait->deadline_ns);
        if (sim_handle_ready(handle, asked, &when_ns)) {
            return KELPIE_OK;
        }
        if (is_set(process, wait->cancel_fd)) {
            return error_set(err, KELPIE_CANCELLED, "the wait for %s was cancelled", what);
        }
        if (is_over(process, wait)) {
            return error_set(err, KELPIE_TIMED_OUT, "there was no %s in time", what);
        }
        sim_handle_watch(handle, asked);
        watch_cancel(process, wait->cancel_fd);
        sim_wait_add(world, &world->cut_changed);
        /* Another thread may close it meanwhile: then there is no such descriptor, and that is an assertion above. */
        (void)sim_wait(world, when_ns, what);
    }
}

enum kelpie_status sim_host_sleep(struct host *host, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(wait);
    sim_enter(host, SIM_EVENT_SLEEP, 0);
    enum kelpie_status status = KELPIE_OK;
    /* Cancellation goes first, as the Linux host has it. */
    while (!is_set(process, wait->cancel_fd) && !is_over(process, wait)) {
        watch_cancel(process, wait->cancel_fd);
        (void)sim_wait(process->world, sim_machine_true_ns(process->machine, wait->deadline_ns),
                       "a sleep");
    }
    if (is_set(process, wait->cancel_fd)) {
        status = error_set(err, KELPIE_CANCELLED, "the sleep was cancelled");
    }
    return sim_leave(host, SIM_EVENT_SLEEP, status);
}

/* How many are ready now. */
static size_t look(struct sim_process *process, struct host_poll_item *items, size_t count,
                   uint64_t *ret_when) {
    size_t ready_count = 0;
    ASSERT(items || count == 0);
    ASSERT(ret_when);
    for (size_t i = 0; i < count; i++) {
        items[i].ready = 0;
        if (items[i].fd != HOST_FD_NONE && items[i].asked != 0) {
            items[i].ready =
                sim_handle_ready(sim_fd_get(process, items[i].fd), items[i].asked, ret_when);
        }
        ready_count += items[i].ready != 0;
    }
    return ready_count;
}

static enum kelpie_status poll_wait(struct sim_process *process, struct host_poll_item *items,
                                    size_t count, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    struct sim_world *world = process->world;
    ASSERT(count <= HOST_POLL_COUNT_MAX);
    for (;;) {
        uint64_t when_ns = sim_machine_true_ns(process->machine, wait->deadline_ns);
        if (is_set(process, wait->cancel_fd)) {
            return error_set(err, KELPIE_CANCELLED, "the wait was cancelled");
        }
        if (look(process, items, count, &when_ns) > 0) {
            return KELPIE_OK;
        }
        if (is_over(process, wait)) {
            return error_set(err, KELPIE_TIMED_OUT, "nothing was ready in time");
        }
        for (size_t i = 0; i < count; i++) {
            if (items[i].fd != HOST_FD_NONE && items[i].asked != 0) {
                sim_handle_watch(sim_fd_get(process, items[i].fd), items[i].asked);
            }
        }
        watch_cancel(process, wait->cancel_fd);
        sim_wait_add(world, &world->cut_changed);
        (void)sim_wait(world, when_ns, "descriptors");
    }
}

enum kelpie_status sim_host_poll(struct host *host, struct host_poll_item *items, size_t count,
                                 const struct host_wait *wait, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(wait);
    ASSERT(items || count == 0);
    sim_enter(host, SIM_EVENT_POLL, count);
    enum kelpie_status status = sim_fault(process, SIM_FAULT_POLL_FAILS)
                                    ? sim_error(err, ENOMEM, "wait for descriptors")
                                    : poll_wait(process, items, count, wait, err);
    return sim_leave(host, SIM_EVENT_POLL, status);
}

/* ---- Streams ---------------------------------------------------------------------------------- */

/* Takes what there is, or less; 0: its end. */
static size_t take_some(struct sim_process *process, struct sim_pipe *pipe, void *buffer,
                        size_t size, struct sim_pipe_taken *taken) {
    uint64_t ignored = UINT64_MAX;
    size_t count = min_size(size, pipe->broken ? 0 : sim_pipe_readable(pipe, &ignored));
    count = taken ? min_size(count, sim_pipe_fds_size(pipe, taken->capacity)) : count;
    ASSERT(size > 0);
    if (count == 0) {
        return 0;
    }
    if (count > 1 && sim_fault(process, SIM_FAULT_STREAM_SHORT_READ)) {
        count = 1 + (size_t)sim_choose(&process->world->choices, count - 1);
    }
    sim_pipe_take(pipe, buffer, count, taken);
    ASSERT(count <= size);
    return count;
}

/* Where bytes go, and how many came; and, for a peer, descriptors. */
struct reading {
    void *buffer;
    size_t capacity;
    size_t size;
    struct sim_pipe_taken *taken;
};

static enum kelpie_status read_some(struct host *host, int fd, const struct host_wait *wait,
                                    struct reading *reading, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_handle *handle = sim_fd_get(process, fd);
    ASSERT(reading->capacity > 0);
    ASSERT(reading->size == 0);
    if (handle->kind == SIM_HANDLE_NULL) {
        return KELPIE_OK;
    }
    ASSERT(handle->kind == SIM_HANDLE_STREAM);
    if (sim_fault(process, SIM_FAULT_STREAM_READ_FAILS)) {
        return sim_error(err, EIO, "read");
    }
    TRY(sim_wait_fd(host, fd, HOST_POLL_READ, wait, "data to read", err));
    reading->size =
        take_some(process, handle->in, reading->buffer, reading->capacity, reading->taken);
    return KELPIE_OK;
}

enum kelpie_status sim_host_read(struct host *host, int fd, void *buffer, size_t size,
                                 const struct host_wait *wait, size_t *ret_size,
                                 struct kelpie_error *err) {
    struct reading reading = {.buffer = buffer, .capacity = size};
    ASSERT(buffer && size > 0);
    ASSERT(ret_size);
    sim_enter(host, SIM_EVENT_READ, size);
    enum kelpie_status status = read_some(host, fd, wait, &reading, err);
    if (status == KELPIE_OK) {
        *ret_size = reading.size;
    }
    return sim_leave(host, SIM_EVENT_READ, status);
}

static enum kelpie_status write_some(struct host *host, int fd, const void *data, size_t size,
                                     const struct host_wait *wait, size_t *ret_size,
                                     struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_choices *choices = &process->world->choices;
    struct sim_handle *handle = sim_fd_get(process, fd);
    ASSERT(handle->kind == SIM_HANDLE_STREAM || handle->kind == SIM_HANDLE_NULL);
    if (handle->kind == SIM_HANDLE_NULL) {
        *ret_size = size;
        return KELPIE_OK;
    }
    if (sim_fault(process, SIM_FAULT_STREAM_WRITE_FAILS)) {
        return sim_error(err, EIO, "write");
    }
    if (sim_fault(process, SIM_FAULT_STREAM_RESET)) {
        sim_stream_reset(handle);
    }
    TRY(sim_wait_fd(host, fd, HOST_POLL_WRITE, wait, "room to write", err));
    if (handle->out->broken || handle->out->reader_closed) {
        return sim_error(err, EPIPE, "write");
    }
    size_t count = min_size(size, sim_pipe_room(handle->out));
    if (count > 1 && sim_fault(process, SIM_FAULT_STREAM_SHORT_WRITE)) {
        count = 1 + (size_t)sim_choose(choices, count - 1);
    }
    uint64_t delay_ns = sim_fault(process, SIM_FAULT_STREAM_DELAYED)
                            ? 1 + sim_choose(choices, SIM_DELAY_NS_MAX)
                            : 0;
    sim_pipe_put(handle->out, data, count, delay_ns);
    *ret_size = count;
    ASSERT(count > 0);
    return KELPIE_OK;
}

enum kelpie_status sim_host_write(struct host *host, int fd, const void *data, size_t size,
                                  const struct host_wait *wait, size_t *ret_size,
                                  struct kelpie_error *err) {
    ASSERT(data && size > 0);
    ASSERT(ret_size);
    sim_enter(host, SIM_EVENT_WRITE, size);
    return sim_leave(host, SIM_EVENT_WRITE, write_some(host, fd, data, size, wait, ret_size, err));
}

/* ---- Sockets ---------------------------------------------------------------------------------- */

/* Both handles get descriptors, or neither does. */
static int add_pair(struct sim_process *process, struct sim_handle *handles[2], int ret_fds[2]) {
    int first = sim_fd_add(process, handles[0], FIRST_FD);
    int second = first < 0 ? -1 : sim_fd_add(process, handles[1], FIRST_FD);
    ASSERT(first != second || first < 0);
    if (second >= 0) {
        ret_fds[0] = first;
        ret_fds[1] = second;
        return 0;
    }
    if (first >= 0) {
        sim_fd_close(process, first);
    } else {
        sim_handle_release(handles[0]);
    }
    sim_handle_release(handles[1]);
    ASSERT(process->handle_count > 0);
    return EMFILE;
}

enum kelpie_status sim_host_socket_pair(struct host *host, int ret_fds[2],
                                        struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_handle *handles[2] = {NULL, NULL};
    ASSERT(ret_fds);
    sim_enter(host, SIM_EVENT_SOCKET_PAIR, 0);
    int os_error = sim_fault(process, SIM_FAULT_SOCKET_PAIR_FAILS) ? EMFILE : 0;
    if (os_error == 0) {
        os_error = sim_stream_pair(process, process, handles) ? add_pair(process, handles, ret_fds)
                                                              : ENOMEM;
    }
    ASSERT(os_error >= 0);
    return sim_leave(host, SIM_EVENT_SOCKET_PAIR,
                     os_error == 0 ? KELPIE_OK : sim_error(err, os_error, "make two sockets"));
}

struct sim_listener *sim_listener_find(struct sim_machine *machine, const char *address) {
    struct sim_listener *listener = machine->listeners;
    ASSERT(address);
    while (listener && strcmp(listener->address, address) != 0) {
        listener = listener->next;
    }
    ASSERT(!listener || listener->open);
    return listener;
}

/* A UNIX socket's name is a file, which stays when the listener has gone. */
static int make_name(struct sim_process *process, const char *path) {
    ASSERT(path[0] == '/');
    int os_error = sim_fs_socket(process->machine->fs, path, 0600);
    ASSERT(os_error >= 0);
    return os_error == EEXIST ? EADDRINUSE : os_error;
}

int sim_listen_at(struct sim_process *process, const char *address, int *ret_fd) {
    struct sim_handle *handle = sim_handle_create(process->world, SIM_HANDLE_LISTENER);
    struct sim_listener *listener = calloc(1, sizeof(*listener));
    ASSERT(strlen(address) <= SIM_PROGRAM_SIZE_MAX);
    if (!handle || !listener) {
        free(handle);
        free(listener);
        return ENOMEM;
    }
    listener->machine = process->machine;
    listener->process = process;
    listener->uid = process->uid;
    listener->open = true;
    memcpy(listener->address, address, strlen(address) + 1);
    listener->next = process->machine->listeners;
    process->machine->listeners = listener;
    handle->listener = listener;
    int fd = sim_fd_add(process, handle, FIRST_FD);
    if (fd < 0) {
        sim_handle_release(handle);
        return EMFILE;
    }
    *ret_fd = fd;
    return 0;
}

enum kelpie_status sim_host_socket_listen(struct host *host, const char *path, int *ret_fd,
                                          struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char full[PATH_SIZE];
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_SOCKET_LISTEN, strlen(path));
    int os_error = sim_fault(process, SIM_FAULT_SOCKET_LISTEN_FAILS) ? EADDRINUSE : 0;
    if (os_error == 0 &&
        (!sim_path_absolute(process, path, full, sizeof(full)) || strlen(full) > 107)) {
        os_error = ENAMETOOLONG;
    }
    os_error = os_error == 0 ? make_name(process, full) : os_error;
    os_error = os_error == 0 ? sim_listen_at(process, full, ret_fd) : os_error;
    ASSERT(os_error >= 0);
    return sim_leave(host, SIM_EVENT_SOCKET_LISTEN,
                     os_error == 0 ? KELPIE_OK
                                   : error_set_os(err, os_error, "cannot listen on '%s'", path));
}

static enum kelpie_status accept_one(struct host *host, int fd, const struct host_wait *wait,
                                     int *ret_fd, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(sim_fd_get(process, fd)->kind == SIM_HANDLE_LISTENER);
    struct sim_listener *listener = sim_fd_get(process, fd)->listener;
    if (sim_fault(process, SIM_FAULT_SOCKET_ACCEPT_FAILS)) {
        return sim_error(err, EMFILE, "accept a connection");
    }
    TRY(sim_wait_fd(host, fd, HOST_POLL_READ, wait, "connection", err));
    ASSERT(listener->count > 0);
    struct sim_handle *handle = listener->backlog[0];
    listener->count--;
    memmove(listener->backlog, listener->backlog + 1,
            listener->count * sizeof(listener->backlog[0]));
    int added = sim_fd_add(process, handle, FIRST_FD);
    if (added < 0) {
        sim_handle_release(handle);
        return sim_error(err, EMFILE, "accept a connection");
    }
    *ret_fd = added;
    return KELPIE_OK;
}

enum kelpie_status sim_host_socket_accept(struct host *host, int fd, const struct host_wait *wait,
                                          int *ret_fd, struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_SOCKET_ACCEPT, 0);
    return sim_leave(host, SIM_EVENT_SOCKET_ACCEPT, accept_one(host, fd, wait, ret_fd, err));
}

int sim_connect_to(struct sim_process *process, struct sim_listener *listener, int *ret_fd) {
    struct sim_handle *handles[2] = {NULL, NULL};
    ASSERT(listener->open);
    ASSERT(ret_fd);
    if (listener->count == SIM_BACKLOG_COUNT_MAX) {
        return EAGAIN;
    }
    if (!sim_stream_pair(process, listener->process, handles)) {
        return ENOMEM;
    }
    int fd = sim_fd_add(process, handles[0], FIRST_FD);
    if (fd < 0) {
        sim_handle_release(handles[0]);
        sim_handle_release(handles[1]);
        return EMFILE;
    }
    listener->backlog[listener->count++] = handles[1];
    sim_wake(&listener->changed);
    *ret_fd = fd;
    return 0;
}

static int connect_path(struct sim_process *process, const char *path, int *ret_fd) {
    char full[PATH_SIZE];
    struct host_file_info info;
    ASSERT(path);
    ASSERT(ret_fd);
    if (!sim_path_absolute(process, path, full, sizeof(full))) {
        return ENAMETOOLONG;
    }
    int os_error = sim_fs_stat(process->machine->fs, full, &info);
    if (os_error != 0) {
        return os_error;
    }
    struct sim_listener *listener = sim_listener_find(process->machine, full);
    return listener ? sim_connect_to(process, listener, ret_fd) : ECONNREFUSED;
}

enum kelpie_status sim_host_socket_connect(struct host *host, const char *path,
                                           const struct host_wait *wait, int *ret_fd,
                                           struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(wait);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_SOCKET_CONNECT, strlen(path));
    int os_error = sim_fault(process, SIM_FAULT_SOCKET_CONNECT_FAILS)
                       ? ECONNREFUSED
                       : connect_path(process, path, ret_fd);
    return sim_leave(host, SIM_EVENT_SOCKET_CONNECT,
                     os_error == 0 ? KELPIE_OK
                                   : error_set_os(err, os_error, "cannot connect to '%s'", path));
}

enum kelpie_status sim_host_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                        struct kelpie_error *err) {
    struct sim_handle *handle = sim_fd_get(sim_process_of(host), fd);
    ASSERT(ret_uid);
    ASSERT(handle->kind == SIM_HANDLE_STREAM);
    (void)err;
    sim_enter(host, SIM_EVENT_SOCKET_PEER, 0);
    ASSERT(handle->world);
    *ret_uid = handle->peer_uid;
    return sim_leave(host, SIM_EVENT_SOCKET_PEER, KELPIE_OK);
}

/* ---- Descriptors over a stream ---------------------------------------------------------------- */

static enum kelpie_status send_fd(struct host *host, int fd, const void *data, size_t size,
                                  int passed_fd, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_handle *handle = sim_fd_get(process, fd);
    ASSERT(handle->kind == SIM_HANDLE_STREAM);
    if (sim_fault(process, SIM_FAULT_SOCKET_SEND_FD_FAILS)) {
        return sim_error(err, EIO, "pass a descriptor");
    }
    struct host_wait wait = host_wait_ms(host, HOST_SEND_FD_TIMEOUT_MS, HOST_FD_NONE);
    TRY(sim_wait_fd(host, fd, HOST_POLL_WRITE, &wait, "room to pass a descriptor", err));
    if (handle->out->broken || handle->out->reader_closed) {
        return sim_error(err, EPIPE, "pass a descriptor");
    }
    if (!sim_pipe_attach(handle->out, sim_fd_get(process, passed_fd))) {
        return sim_error(err, ETOOMANYREFS, "pass a descriptor");
    }
    ASSERT(sim_pipe_room(handle->out) > 0);
    sim_pipe_put(handle->out, data, 1, 0);
    return size == 1 ? KELPIE_OK
                     : host_write_all(host, fd, (const uint8_t *)data + 1, size - 1, &wait, err);
}

enum kelpie_status sim_host_socket_send_fd(struct host *host, int fd, const void *data, size_t size,
                                           int passed_fd, struct kelpie_error *err) {
    ASSERT(data && size > 0);
    ASSERT(passed_fd >= 0);
    sim_enter(host, SIM_EVENT_SOCKET_SEND_FD, size);
    return sim_leave(host, SIM_EVENT_SOCKET_SEND_FD, send_fd(host, fd, data, size, passed_fd, err));
}

enum kelpie_status sim_peer_receive(const struct sim_peer *peer, int fd,
                                    const struct host_wait *wait,
                                    struct sim_peer_received *received, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(peer->host);
    struct sim_handle *handles[SIM_PEER_RECEIVED_FD_COUNT_MAX];
    struct sim_pipe_taken taken = {.handles = handles, .capacity = ARRAY_SIZE(handles)};
    struct reading reading = {
        .buffer = received->buffer, .capacity = received->capacity, .taken = &taken};
    ASSERT(received->buffer);
    sim_enter(peer->host, SIM_EVENT_READ, reading.capacity);
    enum kelpie_status status = read_some(peer->host, fd, wait, &reading, err);
    received->size = reading.size;
    received->fd_count = 0;
    for (size_t i = 0; i < taken.count; i++) {
        int added = sim_fd_add(process, handles[i], FIRST_FD);
        ASSERT(added >= 0);
        received->fds[received->fd_count++] = added;
    }
    return sim_leave(peer->host, SIM_EVENT_READ, status);
}

enum kelpie_status sim_host_receive(struct host *host, int fd, void *buffer, size_t size,
                                    const struct host_wait *wait,
                                    struct host_received *ret_received, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_handle *handle = NULL;
    struct sim_pipe_taken taken = {.handles = &handle, .capacity = 1};
    struct reading reading = {.buffer = buffer, .capacity = size, .taken = &taken};
    ASSERT(ret_received);
    sim_enter(host, SIM_EVENT_RECEIVE, size);
    enum kelpie_status status = read_some(host, fd, wait, &reading, err);
    if (status == KELPIE_OK) {
        /* Without a free descriptor the bytes come alone, as on Linux (MSG_CTRUNC). */
        int added = taken.count > 0 ? sim_fd_add(process, handle, FIRST_FD) : HOST_FD_NONE;
        if (taken.count > 0 && added < 0) {
            sim_handle_release(handle);
        }
        *ret_received =
            (struct host_received){.size = reading.size, .fd = added < 0 ? HOST_FD_NONE : added};
    }
    ASSERT(taken.count <= 1);
    return sim_leave(host, SIM_EVENT_RECEIVE, status);
}

/* ---- Events ----------------------------------------------------------------------------------- */

enum kelpie_status sim_host_event_create(struct host *host, int *ret_fd, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_EVENT_CREATE, 0);
    struct sim_handle *handle = sim_fault(process, SIM_FAULT_EVENT_FAILS)
                                    ? NULL
                                    : sim_handle_create(process->world, SIM_HANDLE_EVENT);
    int fd = handle ? sim_fd_add(process, handle, FIRST_FD) : -1;
    if (fd < 0) {
        free(handle);
        return sim_leave(host, SIM_EVENT_EVENT_CREATE, sim_error(err, EMFILE, "make an event"));
    }
    *ret_fd = fd;
    ASSERT(!handle->set);
    return sim_leave(host, SIM_EVENT_EVENT_CREATE, KELPIE_OK);
}

void sim_host_event_set(struct host *host, int fd) {
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_EVENT_SET, 0);
    struct sim_handle *handle = sim_fd_get(sim_process_of(host), fd);
    ASSERT(handle->kind == SIM_HANDLE_EVENT);
    handle->set = true;
    sim_wake(&handle->changed);
    (void)sim_leave(host, SIM_EVENT_EVENT_SET, KELPIE_OK);
}

void sim_host_event_clear(struct host *host, int fd) {
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_EVENT_CLEAR, 0);
    struct sim_handle *handle = sim_fd_get(sim_process_of(host), fd);
    ASSERT(handle->kind == SIM_HANDLE_EVENT);
    ASSERT(handle->reference_count > 0);
    handle->set = false;
    (void)sim_leave(host, SIM_EVENT_EVENT_CLEAR, KELPIE_OK);
}

void sim_host_close(struct host *host, int fd) {
    ASSERT(fd >= 0);
    sim_enter(host, SIM_EVENT_CLOSE, 0);
    ASSERT(fd < (int)SIM_FD_COUNT_MAX);
    sim_fd_close(sim_process_of(host), fd);
    (void)sim_leave(host, SIM_EVENT_CLOSE, KELPIE_OK);
}

/* ---- What a peer can do ----------------------------------------------------------------------- */

bool sim_peer_fault(const struct sim_peer *peer, enum sim_fault fault) {
    ASSERT(peer->host);
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    return sim_fault(sim_process_of(peer->host), fault);
}

uint64_t sim_peer_choose(const struct sim_peer *peer, uint64_t count) {
    ASSERT(peer->host);
    ASSERT(count > 0);
    return sim_choose(&sim_process_of(peer->host)->world->choices, count);
}

_Noreturn void sim_peer_die(const struct sim_peer *peer, int signal_number) {
    ASSERT(peer->host);
    ASSERT(signal_number > 0);
    sim_process_kill(sim_process_of(peer->host), signal_number);
    UNREACHABLE();
}

_Noreturn void sim_peer_hang(const struct sim_peer *peer) {
    struct sim_process *process = sim_process_of(peer->host);
    ASSERT(process->world->current->process == process);
    process->hung = true;
    (void)sim_wait(process->world, UINT64_MAX, "nothing any more: it hangs");
    UNREACHABLE();
}
