/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * Each source has a slot. What epoll gives back is the slot and its generation, not a pointer: a handler may remove
 * another source, whose memory may be gone or whose slot may be taken again before the turn comes to the event that was
 * fetched for it. Each removal makes a new generation, so such an event meets a slot that it is not for.
 *
 * Sources are level-triggered: an owner that does not take what there is, is called again in the next turn. An owner
 * that cannot take it changes what it waits for, and one whose peer has hung up removes its source (epoll tells that
 * always, whatever is waited for).
 */
#include "vmm/device/io.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"

static uint64_t io_token(const struct io *io, uint32_t slot) {
    ASSERT(io);
    ASSERT(slot < VMM_IO_SOURCE_COUNT_MAX);
    return (uint64_t)io->generations[slot] << 32 | slot;
}

static bool io_holds(const struct io *io, const struct io_source *source) {
    ASSERT(io);
    ASSERT(source);
    return source->slot < VMM_IO_SOURCE_COUNT_MAX && io->sources[source->slot] == source;
}

enum kelpie_status io_init(struct io *io, struct kelpie_error *err) {
    ASSERT(io);
    memset(io, 0, sizeof(*io));
    io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (io->epoll_fd < 0) {
        return error_set_os(err, errno, "cannot make the I/O loop (epoll_create1)");
    }
    if (io->epoll_fd ==
        0) { /* what a zeroed struct says: io_deinit() could not tell the two apart */
        close(0);
        return error_set(err, KELPIE_IO_FAILED,
                         "cannot make the I/O loop: descriptor 0 is closed; open it on /dev/null");
    }
    ASSERT(io->epoll_fd > 0);
    return KELPIE_OK;
}

void io_deinit(struct io *io) {
    ASSERT(io);
    if (io->epoll_fd > 0) {
        close(io->epoll_fd);
    }
    memset(io, 0, sizeof(*io));
}

enum kelpie_status io_add(struct io *io, struct io_source *source, uint32_t events,
                          struct kelpie_error *err) {
    ASSERT(io);
    ASSERT(io->epoll_fd > 0);
    ASSERT(source);
    ASSERT(source->fd >= 0);
    ASSERT(source->handler);
    ASSERT(!io_holds(io, source));

    uint32_t slot = 0;
    while (slot < VMM_IO_SOURCE_COUNT_MAX && io->sources[slot]) {
        slot++;
    }
    if (slot == VMM_IO_SOURCE_COUNT_MAX) {
        return error_set(err, KELPIE_NO_SPACE, "the I/O loop waits for %d descriptors already",
                         VMM_IO_SOURCE_COUNT_MAX);
    }
    struct epoll_event event = {.events = events, .data.u64 = io_token(io, slot)};
    if (epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) != 0) {
        return error_set_os(err, errno, "cannot wait for descriptor %d in the I/O loop",
                            source->fd);
    }
    source->slot = slot;
    io->sources[slot] = source;
    return KELPIE_OK;
}

void io_change(struct io *io, struct io_source *source, uint32_t events) {
    ASSERT(io);
    ASSERT(io_holds(io, source));
    struct epoll_event event = {.events = events, .data.u64 = io_token(io, source->slot)};
    int result = epoll_ctl(io->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
    ASSERT(result == 0); /* it fails only for a descriptor that is not there: the owner's fault */
}

void io_remove(struct io *io, struct io_source *source) {
    ASSERT(io);
    ASSERT(source);
    if (!io_holds(io, source)) {
        return;
    }
    int result = epoll_ctl(io->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    ASSERT(result == 0);
    io->sources[source->slot] = NULL;
    io->generations[source->slot]++;
}

static void io_dispatch(struct io *io, const struct epoll_event *event) {
    ASSERT(io);
    ASSERT(event);
    uint32_t slot = (uint32_t)event->data.u64;
    ASSERT(slot < VMM_IO_SOURCE_COUNT_MAX);
    if (io->lock) {
        io->lock(io->lock_context);
    }
    /* Looked at under the lock: a vCPU's thread may have removed it since the wait. */
    struct io_source *source = io->sources[slot];
    if (source && event->data.u64 == io_token(io, slot)) {
        source->handler(source->context, event->events);
    }
    if (io->unlock) {
        io->unlock(io->lock_context);
    }
}

int io_turn(struct io *io, int timeout_ms) {
    ASSERT(io);
    ASSERT(io->epoll_fd > 0);
    ASSERT(!io->lock == !io->unlock);
    struct epoll_event events[VMM_IO_EVENT_COUNT_MAX];
    int count = epoll_wait(io->epoll_fd, events, VMM_IO_EVENT_COUNT_MAX, timeout_ms);
    if (count < 0) {
        ASSERT(errno == EINTR);
        return 0;
    }
    for (int index = 0; index < count; index++) {
        io_dispatch(io, &events[index]);
    }
    return count;
}

void io_run(struct io *io) {
    ASSERT(io);
    ASSERT(io->epoll_fd > 0);
    while (!io->stopping) {
        io_turn(io, -1);
    }
}

void io_stop(struct io *io) {
    ASSERT(io);
    ASSERT(io->epoll_fd > 0);
    io->stopping = true;
}
