/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A device that stops after a bounded piece of work, and wants to go on: it asks, and the next turn of the I/O loop
 * calls it once. So a driver that adds requests as fast as they are done holds the machine's lock for one
 * piece of work at a time, and nothing that stands in a queue waits for a kick that never comes.
 */
#ifndef KELPIE_VMM_DEVICE_IO_AGAIN_H
#define KELPIE_VMM_DEVICE_IO_AGAIN_H

#include "vmm/device/io.h"

struct io_again {
    struct io *io;
    struct io_source source; /* its eventfd is ours */
    void (*handler)(void *context);
    void *context;
    bool asked;
};

/* The io outlives it. IO_FAILED, NO_SPACE. */
KELPIE_CHECKED enum kelpie_status io_again_init(struct io_again *again, struct io *io,
                                                void (*handler)(void *context), void *context,
                                                struct kelpie_error *err);
void io_again_deinit(struct io_again *again); /* a zeroed one too */

/* Calls the handler in the next turn, once however often it is asked. */
void io_again_ask(struct io_again *again);

#endif
