/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/io_again.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"

static void on_event(void *context, uint32_t events) {
    struct io_again *again = context;
    eventfd_t count = 0;
    ASSERT(again->handler);
    ASSERT(events != 0);
    (void)!eventfd_read(again->source.fd, &count);
    again->asked = false;
    again->handler(again->context);
}

enum kelpie_status io_again_init(struct io_again *again, struct io *io,
                                 void (*handler)(void *context), void *context,
                                 struct kelpie_error *err) {
    ASSERT(again && io);
    ASSERT(handler);
    *again = (struct io_again){
        .handler = handler, .context = context, .source = {.fd = -1, .handler = on_event}};
    again->source.context = again;
    again->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (again->source.fd < 0) {
        return error_set_os(err, errno, "making an eventfd for a device");
    }
    enum kelpie_status status = io_add(io, &again->source, EPOLLIN, err);
    if (status != KELPIE_OK) {
        (void)close(again->source.fd);
        again->source.fd = -1;
        return status;
    }
    again->io = io;
    ASSERT(!again->asked);
    return KELPIE_OK;
}

void io_again_deinit(struct io_again *again) {
    ASSERT(again);
    if (!again->io) {
        return;
    }
    ASSERT(again->handler);
    int fd = again->source.fd;
    io_remove(again->io, &again->source);
    (void)close(fd);
    *again = (struct io_again){0};
}

void io_again_ask(struct io_again *again) {
    ASSERT(again);
    ASSERT(again->io);
    if (again->asked) {
        return;
    }
    again->asked = eventfd_write(again->source.fd, 1) == 0;
}
