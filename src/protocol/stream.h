/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The two ends of one byte stream of a session (protocol.h, "Sessions"): who sends keeps what is not
 * acknowledged, who receives knows which byte comes next. Pure; the host, the guest and the mock use
 * the same code. Memory is the caller's.
 *
 * Sender:   write() queues, next() yields the next DATA message within the window, ack() frees.
 *           acked <= sent <= acked + ring.size; after rewind() bytes are sent again.
 * Receiver: accept() checks a DATA message's offset and size; the caller stores its bytes; the
 *           caller says consumed() when the reader took them, and due() says what to acknowledge.
 */
#ifndef KELPIE_PROTOCOL_STREAM_H
#define KELPIE_PROTOCOL_STREAM_H

#include "base/ring.h"
#include "protocol/protocol.h"

struct protocol_sender {
    struct ring ring; /* the bytes from `acked` on */
    uint64_t acked;   /* all below was taken by the other side */
    uint64_t sent;    /* all below was given to the channel */
    bool ended;       /* no byte will be written any more */
    bool end_sent;
    bool paused; /* detached: next() yields nothing until protocol_sender_rewind() */
};

/* capacity: PROTOCOL_WINDOW_SIZE or less. */
void protocol_sender_init(struct protocol_sender *sender, uint8_t *data, size_t capacity);
size_t protocol_sender_room(const struct protocol_sender *sender);
size_t protocol_sender_write(struct protocol_sender *sender, const void *data, size_t size);
void protocol_sender_end(struct protocol_sender *sender);

/* The offset behind the last byte written. */
uint64_t protocol_sender_written(const struct protocol_sender *sender);

/* Takes the next piece to send, of at most size_max (<= PROTOCOL_DATA_SIZE_MAX) bytes; its bytes are copied
 * to `buffer`. False: nothing to send now. ret->stream is left to the caller. */
bool protocol_sender_next(struct protocol_sender *sender, uint8_t *buffer, size_t size_max,
                          struct protocol_data *ret);

/* True when next() would yield something. */
bool protocol_sender_waits(const struct protocol_sender *sender);

/* Everything below offset was taken. False: offset lies outside [acked, sent]: the peer is wrong. */
PROTOCOL_CHECKED bool protocol_sender_ack(struct protocol_sender *sender, uint64_t offset);

/* A new connection goes on at offset: what lies below is as acknowledged, the rest is sent again.
 * False: offset lies outside [acked, written]. */
PROTOCOL_CHECKED bool protocol_sender_rewind(struct protocol_sender *sender, uint64_t offset);

/* The connection is gone: nothing is sent until rewind. */
void protocol_sender_pause(struct protocol_sender *sender);

/* True when the end and every byte were sent. */
bool protocol_sender_finished(const struct protocol_sender *sender);

struct protocol_receiver {
    uint64_t received; /* the offset of the next byte */
    uint64_t consumed; /* all below was taken by the reader */
    uint64_t acked;    /* all below was acknowledged */
    bool ended;        /* `received` is the stream's length */
};

void protocol_receiver_init(struct protocol_receiver *receiver, uint64_t offset);

/* False: the message breaks the rules (wrong offset, beyond the window, behind the end). */
PROTOCOL_CHECKED bool protocol_receiver_accept(struct protocol_receiver *receiver,
                                               const struct protocol_data *message);
void protocol_receiver_consumed(struct protocol_receiver *receiver, size_t size);

/* True when an ACK of receiver->consumed is worth sending: a quarter of the window is waiting for it, or
 * `flush` is set and anything is. The caller sends it; the receiver counts it as sent. */
bool protocol_receiver_due(struct protocol_receiver *receiver, bool flush);

#endif
