/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_link.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/ring.h"
#include "protocol/protocol.h"

enum item { ITEM_WAKE = 0, ITEM_EXIT, ITEM_LISTEN, ITEM_STREAM, ITEM_CHANNEL, ITEM_COUNT };

struct firecracker_link {
    struct host *host;
    struct host_thread *thread;
    struct host_mutex *lock; /* guards what is below, up to the rings */
    struct host_condition *changed;
    int wake_event;
    int exit_fd; /* the process's; HOST_FD_NONE: not known yet */
    void (*on_lost)(void *argument);
    void *argument;
    bool stop;
    bool expecting;
    bool drop_wanted;

    /* The thread's alone. */
    int listen_fd;
    int stream_fd;  /* the connection; HOST_FD_NONE: waiting */
    int channel_fd; /* our end of the channel; HOST_FD_NONE: it has ended */
    bool was_connected;
    uint64_t
        lost_ns; /* the connection ended, and nobody expected it: until then it is waited for an end; 0: it did not */
    bool heard;  /* something came of the connection */
    struct ring to_guest;
    struct ring to_host;
    uint8_t to_guest_bytes[FIRECRACKER_RING_SIZE];
    uint8_t to_host_bytes[FIRECRACKER_RING_SIZE];
};

static void link_check(const struct firecracker_link *link) {
    ASSERT(link);
    ASSERT(link->host);
    ASSERT(link->stream_fd == HOST_FD_NONE || link->was_connected);
}

static void shut(struct firecracker_link *link, int *fd) {
    link_check(link);
    ASSERT(fd);
    host_close(link->host, *fd);
    *fd = HOST_FD_NONE;
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

enum flow { FLOW_MOVED, FLOW_NONE, FLOW_ENDED };

static enum flow pull(struct firecracker_link *link, int fd, struct ring *ring) {
    uint8_t chunk[FIRECRACKER_CHUNK_SIZE];
    const struct host_wait no_wait = host_wait_none();
    size_t room = ring_room(ring);
    size_t count = 0;
    link_check(link);
    if (room == 0) {
        return FLOW_NONE;
    }
    room = room < sizeof(chunk) ? room : sizeof(chunk);
    enum kelpie_status status = host_read(link->host, fd, chunk, room, &no_wait, &count, NULL);
    if (status != KELPIE_OK || count == 0) {
        return status == KELPIE_TIMED_OUT ? FLOW_NONE : FLOW_ENDED;
    }
    size_t written = ring_write(ring, chunk, count);
    ASSERT(written == count);
    return FLOW_MOVED;
}

static enum flow push(struct firecracker_link *link, int fd, struct ring *ring) {
    const struct host_wait no_wait = host_wait_none();
    const uint8_t *data = NULL;
    size_t count = 0;
    link_check(link);
    size_t front = ring_front(ring, &data);
    if (front == 0) {
        return FLOW_NONE;
    }
    enum kelpie_status status = host_write(link->host, fd, data, front, &no_wait, &count, NULL);
    if (status != KELPIE_OK) {
        return status == KELPIE_TIMED_OUT ? FLOW_NONE : FLOW_ENDED;
    }
    ASSERT(count <= front);
    ring_drop(ring, count);
    return FLOW_MOVED;
}

/* ---- Connections ------------------------------------------------------------------------------ */

static void end_channel(struct firecracker_link *link) {
    link_check(link);
    /* What the guest said before is still passed on, as far as it goes without waiting. */
    while (link->channel_fd != HOST_FD_NONE &&
           push(link, link->channel_fd, &link->to_host) == FLOW_MOVED) {
    }
    shut(link, &link->channel_fd);
    shut(link, &link->stream_fd);
    link->lost_ns = 0;
    ASSERT(link->channel_fd == HOST_FD_NONE);
}

/* Takes what the connection has left, up to what the ring holds, and lets go of it. */
static void disconnect(struct firecracker_link *link) {
    link_check(link);
    enum flow flow = link->stream_fd == HOST_FD_NONE ? FLOW_ENDED : FLOW_MOVED;
    while (flow == FLOW_MOVED) {
        flow = pull(link, link->stream_fd, &link->to_host);
    }
    shut(link, &link->stream_fd);
    ring_drop(&link->to_guest, link->to_guest.size);
    ASSERT(link->stream_fd == HOST_FD_NONE);
}

static void connected(struct firecracker_link *link, int fd) {
    link_check(link);
    ASSERT(link->to_guest.size == 0);
    if (link->was_connected) {
        size_t written = ring_write(&link->to_guest, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
        ASSERT(written == PROTOCOL_SYNC_SIZE);
    }
    link->was_connected = true;
    link->heard = false;
    link->stream_fd = fd;
}

static void accept_one(struct firecracker_link *link) {
    const struct host_wait no_wait = host_wait_none();
    int fd = HOST_FD_NONE;
    link_check(link);
    enum kelpie_status status =
        host_socket_accept(link->host, link->listen_fd, &no_wait, &fd, NULL);
    if (status != KELPIE_OK) {
        /* It is gone, or there are no descriptors now: it is tried again, and not without end at once. */
        const struct host_wait nap = host_wait_ms(link->host, FIRECRACKER_NAP_MS, HOST_FD_NONE);
        (void)!host_sleep(link->host, &nap, NULL);
        return;
    }
    ASSERT(fd != HOST_FD_NONE);
    host_mutex_lock(link->lock);
    bool expecting = link->expecting;
    link->expecting = false;
    host_mutex_unlock(link->lock);
    if (link->stream_fd != HOST_FD_NONE && expecting) {
        disconnect(link);
    }
    if (link->lost_ns != 0) {
        end_channel(link); /* the guest is back, and does not know what is lost */
    }
    if (link->stream_fd != HOST_FD_NONE || link->channel_fd == HOST_FD_NONE) {
        host_close(link->host, fd);
        return;
    }
    connected(link, fd);
}

static void stream_ended(struct firecracker_link *link) {
    link_check(link);
    ASSERT(link->stream_fd != HOST_FD_NONE);
    host_mutex_lock(link->lock);
    bool expecting = link->expecting;
    host_mutex_unlock(link->lock);
    bool lost = !expecting && link->heard; /* else: a call that the guest gave up; it calls again */
    disconnect(link);
    if (lost) {
        link->lost_ns = host_monotonic_ns(link->host) + FIRECRACKER_LOST_MS * HOST_NS_PER_MS;
    }
}

/* The guest did not come back, and its machine did not end. */
static void give_up(struct firecracker_link *link) {
    link_check(link);
    ASSERT(link->lost_ns != 0);
    host_mutex_lock(link->lock);
    void (*on_lost)(void *argument) = link->on_lost;
    host_mutex_unlock(link->lock);
    ASSERT(link->stream_fd == HOST_FD_NONE);
    if (on_lost) {
        on_lost(link->argument);
    }
    end_channel(link);
}

/* ---- The thread ------------------------------------------------------------------------------- */

static uint32_t asked_of(bool read, bool write) {
    static_assert(HOST_POLL_READ != HOST_POLL_WRITE, "two bits");
    return (read ? (uint32_t)HOST_POLL_READ : 0u) | (write ? (uint32_t)HOST_POLL_WRITE : 0u);
}

/* Does what operations want. False: the thread is to end. */
static bool obey(struct firecracker_link *link, struct host_poll_item items[ITEM_COUNT]) {
    link_check(link);
    ASSERT(items);
    host_mutex_lock(link->lock);
    host_event_clear(link->host, link->wake_event);
    bool stop = link->stop;
    bool drop = link->drop_wanted;
    int exit_fd = link->channel_fd != HOST_FD_NONE ? link->exit_fd : HOST_FD_NONE;
    host_mutex_unlock(link->lock);
    if (drop) {
        disconnect(link);
        host_mutex_lock(link->lock);
        link->drop_wanted = false;
        link->expecting = false;
        host_condition_broadcast(link->changed);
        host_mutex_unlock(link->lock);
    }
    items[ITEM_WAKE] = (struct host_poll_item){.fd = link->wake_event, .asked = HOST_POLL_READ};
    items[ITEM_EXIT] = (struct host_poll_item){.fd = exit_fd, .asked = HOST_POLL_READ};
    items[ITEM_LISTEN] = (struct host_poll_item){.fd = link->listen_fd, .asked = HOST_POLL_READ};
    bool streams = link->stream_fd != HOST_FD_NONE;
    items[ITEM_STREAM].fd = HOST_FD_NONE;
    items[ITEM_CHANNEL].fd = HOST_FD_NONE;
    uint32_t stream = asked_of(ring_room(&link->to_host) > 0, link->to_guest.size > 0);
    uint32_t channel = asked_of(streams && ring_room(&link->to_guest) > 0, link->to_host.size > 0);
    if (streams && stream) {
        items[ITEM_STREAM] = (struct host_poll_item){.fd = link->stream_fd, .asked = stream};
    }
    if (channel) {
        items[ITEM_CHANNEL] = (struct host_poll_item){.fd = link->channel_fd, .asked = channel};
    }
    return !stop;
}

/* Moves what there is. A channel that breaks has ended; its other end does not close before the link does. */
static void carry(struct firecracker_link *link, const struct host_poll_item items[ITEM_COUNT]) {
    link_check(link);
    ASSERT(items);
    enum flow flow = FLOW_NONE;
    bool broken = false;
    if (link->stream_fd != HOST_FD_NONE && (items[ITEM_STREAM].ready & HOST_POLL_READ)) {
        flow = pull(link, link->stream_fd, &link->to_host);
        link->heard |= flow == FLOW_MOVED;
    }
    if (link->channel_fd != HOST_FD_NONE && link->stream_fd != HOST_FD_NONE &&
        (items[ITEM_CHANNEL].ready & HOST_POLL_READ)) {
        broken = pull(link, link->channel_fd, &link->to_guest) == FLOW_ENDED;
    }
    if (link->channel_fd != HOST_FD_NONE) {
        broken = push(link, link->channel_fd, &link->to_host) == FLOW_ENDED || broken;
    }
    if (broken) {
        end_channel(link);
    }
    if (link->stream_fd != HOST_FD_NONE && flow != FLOW_ENDED &&
        push(link, link->stream_fd, &link->to_guest) == FLOW_ENDED) {
        flow = FLOW_ENDED;
    }
    if (flow == FLOW_ENDED && link->stream_fd != HOST_FD_NONE) {
        stream_ended(link);
    }
}

static void link_main(void *argument) {
    struct firecracker_link *link = argument;
    struct host_poll_item items[ITEM_COUNT] = {0};
    link_check(link);
    ASSERT(link->listen_fd != HOST_FD_NONE);
    while (obey(link, items)) {
        const struct host_wait wait = {.deadline_ns = link->lost_ns ? link->lost_ns : UINT64_MAX,
                                       .cancel_fd = HOST_FD_NONE};
        enum kelpie_status status = host_poll(link->host, items, ITEM_COUNT, &wait, NULL);
        if (status == KELPIE_TIMED_OUT && link->lost_ns != 0) {
            give_up(link);
            continue;
        }
        if (status != KELPIE_OK) {
            end_channel(link); /* blind: nothing can be carried any more */
            break;
        }
        carry(link, items);
        if (items[ITEM_LISTEN].ready) {
            accept_one(link);
        }
        if (items[ITEM_EXIT].ready && link->channel_fd != HOST_FD_NONE) {
            disconnect(link);
            end_channel(link);
        }
    }
    host_mutex_lock(link->lock);
    link->stop = true; /* nobody waits for a drop any more */
    host_condition_broadcast(link->changed);
    host_mutex_unlock(link->lock);
}

/* ---- Operations ------------------------------------------------------------------------------- */

static enum kelpie_status start(struct firecracker_link *link, const char *path,
                                int *ret_channel_fd, struct kelpie_error *err) {
    struct host *host = link->host;
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    ASSERT(host);
    ASSERT(ret_channel_fd);
    TRY(host_mutex_create(host, &link->lock, err));
    TRY(host_condition_create(host, &link->changed, err));
    TRY(host_event_create(host, &link->wake_event, err));
    TRY(host_socket_listen(host, path, &link->listen_fd, err));
    TRY(host_socket_pair(host, fds, err));
    AUTO_FD struct host_fd ours = {host, fds[0]};
    link->channel_fd = fds[1];
    TRY(host_thread_start(host, "kelpie-link", link_main, link, &link->thread, err));
    *ret_channel_fd = host_fd_take(&ours);
    return KELPIE_OK;
}

enum kelpie_status firecracker_link_open(struct host *host, const char *path,
                                         struct firecracker_link **ret_link, int *ret_channel_fd,
                                         struct kelpie_error *err) {
    ASSERT(host && path);
    ASSERT(ret_link);
    struct firecracker_link *link = host_allocate(host, sizeof(*link), err);
    if (!link) {
        return KELPIE_NO_MEMORY;
    }
    link->host = host;
    link->wake_event = link->exit_fd = link->listen_fd = HOST_FD_NONE;
    link->stream_fd = link->channel_fd = HOST_FD_NONE;
    ring_init(&link->to_guest, link->to_guest_bytes, sizeof(link->to_guest_bytes));
    ring_init(&link->to_host, link->to_host_bytes, sizeof(link->to_host_bytes));
    enum kelpie_status status = start(link, path, ret_channel_fd, err);
    if (status != KELPIE_OK) {
        firecracker_link_close(link);
        return status;
    }
    *ret_link = link;
    return KELPIE_OK;
}

void firecracker_link_watch(struct firecracker_link *link, int exit_fd,
                            void (*on_lost)(void *argument), void *argument) {
    ASSERT(link);
    ASSERT(exit_fd != HOST_FD_NONE);
    host_mutex_lock(link->lock);
    link->exit_fd = exit_fd;
    link->on_lost = on_lost;
    link->argument = argument;
    host_event_set(link->host, link->wake_event);
    host_mutex_unlock(link->lock);
}

void firecracker_link_expect(struct firecracker_link *link) {
    ASSERT(link);
    ASSERT(link->thread);
    host_mutex_lock(link->lock);
    link->expecting = true;
    host_mutex_unlock(link->lock);
}

void firecracker_link_drop(struct firecracker_link *link) {
    ASSERT(link);
    ASSERT(link->thread);
    host_mutex_lock(link->lock);
    link->drop_wanted = true; /* expected until it is done */
    host_event_set(link->host, link->wake_event);
    while (link->drop_wanted && !link->stop) {
        (void)host_condition_wait(link->changed, link->lock, UINT64_MAX);
    }
    host_mutex_unlock(link->lock);
}

void firecracker_link_close(struct firecracker_link *link) {
    if (!link) {
        return;
    }
    ASSERT(link->host);
    if (link->thread) {
        host_mutex_lock(link->lock);
        link->stop = true;
        host_event_set(link->host, link->wake_event);
        host_mutex_unlock(link->lock);
        host_thread_join(link->thread);
    }
    const int fds[] = {link->wake_event, link->listen_fd, link->stream_fd, link->channel_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        host_close(link->host, fds[i]);
    }
    host_condition_destroy(link->changed);
    host_mutex_destroy(link->lock);
    free(link);
}
