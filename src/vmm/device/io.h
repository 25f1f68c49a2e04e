/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The I/O loop: one thread waits (epoll) for everything that is not a vCPU: kicks (ioeventfd), sockets, taps, the
 * control channel. A source is a part of its owner's struct, added and removed by the owner.
 *
 * Threads: add, change and remove are called with the machine's lock held, or before the loop runs. The loop takes the
 * lock (a pair of functions) around each handler. A source that is removed gets no event any more, even one that
 * was fetched in the same turn. Handlers never wait.
 */
#ifndef KELPIE_VMM_DEVICE_IO_H
#define KELPIE_VMM_DEVICE_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/vmm_limits.h"

struct io_source {
    int fd; /* the owner's; it outlives the source, and removing leaves it as it is */
    void (*handler)(void *context,
                    uint32_t events); /* events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */
    void *context;
    uint32_t slot; /* the loop's */
};

struct io {
    int epoll_fd;
    void (*lock)(void *context); /* may be NULL, with unlock */
    void (*unlock)(void *context);
    void *lock_context;
    bool stopping;
    struct io_source *sources[VMM_IO_SOURCE_COUNT_MAX]; /* NULL: free */
    uint32_t
        generations[VMM_IO_SOURCE_COUNT_MAX]; /* of a slot: tells an old event from a new one */
};

KELPIE_CHECKED enum kelpie_status io_init(struct io *io, struct kelpie_error *err);
void io_deinit(
    struct io *io); /* a zeroed or half-made one too; its sources need not be removed before */

/* fd, handler and context are set by the owner. NO_SPACE, IO_FAILED. */
KELPIE_CHECKED enum kelpie_status io_add(struct io *io, struct io_source *source, uint32_t events,
                                         struct kelpie_error *err);
void io_change(struct io *io, struct io_source *source, uint32_t events);
void io_remove(struct io *io, struct io_source *source); /* one that was not added: fine */

/* One turn: waits at most timeout_ms (-1: for ever) and calls the handlers. Returns how many events there were. */
int io_turn(struct io *io, int timeout_ms);

/* Turns until io_stop(), which a handler calls. */
void io_run(struct io *io);
void io_stop(struct io *io);

#endif
