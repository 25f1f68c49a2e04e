/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "protocol/stream.h"

#include "base/assert.h"

/* ---- Sender ----------------------------------------------------------------------------------- */

static void sender_check(const struct protocol_sender *sender) {
    ASSERT(sender->acked <= sender->sent);
    ASSERT(sender->sent - sender->acked <= sender->ring.size);
    ASSERT(!sender->end_sent || sender->ended);
}

void protocol_sender_init(struct protocol_sender *sender, uint8_t *data, size_t capacity) {
    ASSERT(capacity > 0);
    ASSERT(capacity <= PROTOCOL_WINDOW_SIZE); /* so all that is held lies within the window */
    *sender = (struct protocol_sender){0};
    ring_init(&sender->ring, data, capacity);
}

size_t protocol_sender_room(const struct protocol_sender *sender) {
    sender_check(sender);
    return sender->ended ? 0 : ring_room(&sender->ring);
}

size_t protocol_sender_write(struct protocol_sender *sender, const void *data, size_t size) {
    ASSERT(!sender->ended);
    sender_check(sender);
    return ring_write(&sender->ring, data, size);
}

void protocol_sender_end(struct protocol_sender *sender) {
    ASSERT(sender);
    sender_check(sender);
    sender->ended = true;
}

uint64_t protocol_sender_written(const struct protocol_sender *sender) {
    sender_check(sender);
    return sender->acked + sender->ring.size;
}

bool protocol_sender_waits(const struct protocol_sender *sender) {
    sender_check(sender);
    ASSERT(sender->sent <= protocol_sender_written(sender));
    bool is_something = sender->ended || sender->sent < protocol_sender_written(sender);
    return is_something && !sender->paused && !sender->end_sent;
}

bool protocol_sender_next(struct protocol_sender *sender, uint8_t *buffer, size_t size_max,
                          struct protocol_data *ret) {
    ASSERT(size_max > 0);
    ASSERT(size_max <= PROTOCOL_DATA_SIZE_MAX);
    if (!protocol_sender_waits(sender)) {
        return false;
    }
    size_t size =
        ring_peek(&sender->ring, (size_t)(sender->sent - sender->acked), buffer, size_max);
    bool is_last = sender->ended && sender->sent + size == protocol_sender_written(sender);
    ASSERT(size > 0 || is_last);
    *ret = (struct protocol_data){
        .flags = is_last ? PROTOCOL_DATA_END : 0,
        .offset = sender->sent,
        .bytes = buffer,
        .size = size,
    };
    sender->sent += size;
    sender->end_sent = is_last;
    return true;
}

/* Forgets the bytes below offset. */
static void sender_free(struct protocol_sender *sender, uint64_t offset) {
    ASSERT(offset >= sender->acked);
    ASSERT(offset - sender->acked <= sender->ring.size);
    ring_drop(&sender->ring, (size_t)(offset - sender->acked));
    sender->acked = offset;
}

bool protocol_sender_ack(struct protocol_sender *sender, uint64_t offset) {
    ASSERT(sender);
    sender_check(sender);
    if (offset < sender->acked || offset > sender->sent) {
        return false;
    }
    sender_free(sender, offset);
    return true;
}

bool protocol_sender_rewind(struct protocol_sender *sender, uint64_t offset) {
    ASSERT(sender);
    sender_check(sender);
    if (offset < sender->acked || offset > protocol_sender_written(sender)) {
        return false;
    }
    sender_free(sender, offset);
    sender->sent = offset;
    sender->end_sent = false;
    sender->paused = false;
    return true;
}

void protocol_sender_pause(struct protocol_sender *sender) {
    ASSERT(sender);
    sender_check(sender);
    sender->paused = true;
}

bool protocol_sender_finished(const struct protocol_sender *sender) {
    sender_check(sender);
    ASSERT(!sender->end_sent || sender->sent == protocol_sender_written(sender));
    return sender->end_sent;
}

/* ---- Receiver --------------------------------------------------------------------------------- */

static void receiver_check(const struct protocol_receiver *receiver) {
    ASSERT(receiver->acked <= receiver->consumed);
    ASSERT(receiver->consumed <= receiver->received);
    ASSERT(receiver->received - receiver->acked <= PROTOCOL_WINDOW_SIZE);
}

void protocol_receiver_init(struct protocol_receiver *receiver, uint64_t offset) {
    ASSERT(receiver);
    *receiver = (struct protocol_receiver){
        .received = offset,
        .consumed = offset,
        .acked = offset,
    };
    receiver_check(receiver);
}

bool protocol_receiver_accept(struct protocol_receiver *receiver,
                              const struct protocol_data *message) {
    ASSERT(message->size <= PROTOCOL_DATA_SIZE_MAX);
    receiver_check(receiver);
    size_t window_left = PROTOCOL_WINDOW_SIZE - (size_t)(receiver->received - receiver->acked);
    if (receiver->ended || message->offset != receiver->received || message->size > window_left) {
        return false;
    }
    receiver->received += message->size;
    receiver->ended = (message->flags & PROTOCOL_DATA_END) != 0;
    return true;
}

void protocol_receiver_consumed(struct protocol_receiver *receiver, size_t size) {
    receiver_check(receiver);
    ASSERT(size <= receiver->received - receiver->consumed);
    receiver->consumed += size;
}

bool protocol_receiver_due(struct protocol_receiver *receiver, bool flush) {
    receiver_check(receiver);
    uint64_t waiting = receiver->consumed - receiver->acked;
    if (waiting < PROTOCOL_WINDOW_SIZE / 4 && !(flush && waiting > 0)) {
        return false;
    }
    receiver->acked = receiver->consumed;
    return true;
}
