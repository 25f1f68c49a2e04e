/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * outbox.h: the bytes that wait for the channel. Frames are encoded straight into it:
 *
 *     struct cursor_writer writer = outbox_writer(outbox);
 *     protocol_encode_ping(&writer, PROTOCOL_PONG, &ping);
 *     outbox_commit(outbox, &writer, true);
 *
 * An urgent frame goes out before the loop waits again. The others (STARTED, the mere end of a stream) wait a
 * few milliseconds for company, so that a short command's whole answer is one write.
 */
#ifndef KELPIE_GUEST_OUTBOX_H
#define KELPIE_GUEST_OUTBOX_H

#include "base/cursor.h"
#include "guest_limits.h"

struct outbox {
    size_t start;
    size_t end;
    bool urgent;
    bool blocked; /* the channel took no more: wait until it is writable */
    uint32_t lazy_rounds;
    uint8_t bytes[GUEST_OUTBOX_SIZE];
};

void outbox_clear(struct outbox *outbox);
size_t outbox_room(const struct outbox *outbox);
bool outbox_is_empty(const struct outbox *outbox);

/* There are bytes in it that may wait a little. */
bool outbox_is_lazy(const struct outbox *outbox);
struct cursor_writer outbox_writer(struct outbox *outbox);
void outbox_commit(struct outbox *outbox, const struct cursor_writer *writer, bool urgent);

/* Writes what the descriptor takes. False: the channel is broken. */
bool outbox_flush(struct outbox *outbox, int fd);

#endif
