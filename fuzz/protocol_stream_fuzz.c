/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A sender and a receiver, driven by the input's bytes: two bytes are one operation and its argument. Each byte of the
 * stream is a function of its offset, so that a lost, repeated or changed one is seen. */
#include "base/assert.h"
#include "protocol/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset * 167 + (offset >> 7));
}

static void do_write(struct protocol_sender *sender, size_t count) {
    uint8_t bytes[256];
    uint64_t offset = protocol_sender_written(sender);
    for (size_t i = 0; i < count; i++) {
        bytes[i] = byte_at(offset + i);
    }
    if (!sender->ended) {
        (void)protocol_sender_write(sender, bytes, count);
    }
}

static void do_next(struct protocol_sender *sender, struct protocol_receiver *receiver,
                    size_t size_max) {
    uint8_t buffer[256];
    struct protocol_data message;
    if (!protocol_sender_next(sender, buffer, size_max, &message)) {
        return;
    }
    for (size_t i = 0; i < message.size; i++) {
        ASSERT(message.bytes[i] == byte_at(message.offset + i));
    }
    uint64_t before = receiver->received;
    if (protocol_receiver_accept(receiver, &message)) {
        ASSERT(message.offset == before);
        ASSERT(receiver->received == before + message.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t ring_data[300];
    struct protocol_sender sender;
    struct protocol_receiver receiver;
    protocol_sender_init(&sender, ring_data, sizeof(ring_data));
    protocol_receiver_init(&receiver, 0);
    for (size_t i = 0; i + 1 < size; i += 2) {
        uint8_t argument = data[i + 1];
        uint64_t waiting = receiver.received - receiver.consumed;
        switch (data[i] % 8) {
        case 0:
        case 1:
            do_write(&sender, argument);
            break;
        case 2:
        case 3:
            do_next(&sender, &receiver, (size_t)argument + 1);
            break;
        case 4:
            protocol_receiver_consumed(&receiver, argument < waiting ? argument : (size_t)waiting);
            break;
        case 5:
            if (protocol_receiver_due(&receiver, argument % 2 == 0)) {
                (void)!protocol_sender_ack(&sender, receiver.acked);
            }
            break;
        case 6:
            (void)!protocol_sender_rewind(&sender, sender.acked + argument);
            break;
        default:
            if (argument == 255) {
                protocol_sender_end(&sender);
            } else if (argument > 200) {
                protocol_sender_pause(&sender);
            } else {
                (void)!protocol_sender_ack(&sender, sender.acked + argument - 100);
            }
            break;
        }
    }
    return 0;
}
