/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The sender and the receiver against a model that keeps every byte ever written. */
#include "protocol/stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MODEL_SIZE_MAX 65536

static uint64_t random_next(uint64_t *seed) {
    uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

struct model {
    struct protocol_sender sender;
    uint8_t ring_data[PROTOCOL_WINDOW_SIZE];
    uint8_t written[MODEL_SIZE_MAX];
    size_t written_size;
    size_t sent;
    size_t acked;
    bool ended;
    bool end_sent;
    bool paused;
    size_t capacity;
    uint64_t seed;
};

static void model_write(struct model *model) {
    uint8_t bytes[600];
    size_t size = random_next(&model->seed) % sizeof(bytes);
    if (model->ended || model->written_size + size > MODEL_SIZE_MAX) {
        return;
    }
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)random_next(&model->seed);
    }
    size_t room = model->capacity - (model->written_size - model->acked);
    assert_int_equal(protocol_sender_room(&model->sender), room);
    size_t taken = protocol_sender_write(&model->sender, bytes, size);
    assert_int_equal(taken, size < room ? size : room);
    memcpy(model->written + model->written_size, bytes, taken);
    model->written_size += taken;
}

static void model_next(struct model *model) {
    uint8_t buffer[512];
    size_t size_max = 1 + random_next(&model->seed) % sizeof(buffer);
    struct protocol_data data;
    bool any = protocol_sender_next(&model->sender, buffer, size_max, &data);
    size_t left = model->written_size - model->sent;
    bool expected = !model->paused && !model->end_sent && (left > 0 || model->ended);
    assert_int_equal(any, expected);
    if (!any) {
        return;
    }
    size_t size = left < size_max ? left : size_max;
    bool is_last = model->ended && size == left;
    assert_int_equal(data.offset, model->sent);
    assert_int_equal(data.size, size);
    assert_int_equal(data.flags, is_last ? PROTOCOL_DATA_END : 0);
    assert_memory_equal(data.bytes, model->written + model->sent, size);
    model->sent += size;
    model->end_sent = is_last;
}

static void model_ack(struct model *model) {
    uint64_t span = model->sent - model->acked + 4;
    uint64_t offset = model->acked + random_next(&model->seed) % span;
    offset -= random_next(&model->seed) % 8 == 0 ? 1 : 0;
    bool fits = offset >= model->acked && offset <= model->sent;
    assert_int_equal(protocol_sender_ack(&model->sender, offset), fits);
    model->acked = fits ? (size_t)offset : model->acked;
}

static void model_rewind(struct model *model) {
    uint64_t span = model->written_size - model->acked + 4;
    uint64_t offset = model->acked + random_next(&model->seed) % span;
    offset -= random_next(&model->seed) % 8 == 0 ? 1 : 0;
    bool fits = offset >= model->acked && offset <= model->written_size;
    assert_int_equal(protocol_sender_rewind(&model->sender, offset), fits);
    if (fits) {
        model->acked = (size_t)offset;
        model->sent = (size_t)offset;
        model->end_sent = false;
        model->paused = false;
    }
}

static void model_step(struct model *model) {
    uint64_t choice = random_next(&model->seed) % 100;
    if (choice < 40) {
        model_write(model);
    } else if (choice < 70) {
        model_next(model);
    } else if (choice < 92) {
        model_ack(model);
    } else if (choice < 96) {
        model_rewind(model);
    } else if (choice < 98) {
        protocol_sender_pause(&model->sender);
        model->paused = true;
    } else if (random_next(&model->seed) % 50 == 0) {
        protocol_sender_end(&model->sender);
        model->ended = true;
    }
    assert_int_equal(protocol_sender_written(&model->sender), model->written_size);
    assert_int_equal(protocol_sender_finished(&model->sender), model->end_sent);
}

static void test_sender_against_a_model(void **state) {
    (void)state;
    static struct model model;
    static const size_t capacities[] = {1, 7, 64, 1000, PROTOCOL_WINDOW_SIZE};
    size_t ends_seen = 0;
    for (uint64_t round = 0; round < 100; round++) {
        memset(&model, 0, sizeof(model));
        model.seed = round;
        model.capacity = capacities[round % 5];
        protocol_sender_init(&model.sender, model.ring_data, model.capacity);
        for (size_t step = 0; step < 1500; step++) {
            model_step(&model);
        }
        ends_seen += model.end_sent;
    }
    assert_true(ends_seen > 10); /* the walk reached the end often enough to mean something */
}

static void test_sender_end_without_bytes(void **state) {
    (void)state;
    uint8_t ring_data[8];
    uint8_t buffer[8];
    struct protocol_sender sender;
    struct protocol_data data;
    protocol_sender_init(&sender, ring_data, sizeof(ring_data));
    assert_false(protocol_sender_next(&sender, buffer, sizeof(buffer), &data));
    protocol_sender_end(&sender);
    assert_false(protocol_sender_finished(&sender));
    assert_true(protocol_sender_next(&sender, buffer, sizeof(buffer), &data));
    assert_int_equal(data.size, 0);
    assert_int_equal(data.flags, PROTOCOL_DATA_END);
    assert_true(protocol_sender_finished(&sender));
    assert_false(protocol_sender_next(&sender, buffer, sizeof(buffer), &data));
}

/* C6: after a reconnect the reader goes on at the byte where it was: none lost, none twice. */
static void hazard_C6_no_byte_lost_or_repeated_over_reconnects(void **state) {
    (void)state;
    static uint8_t ring_data[997];
    uint8_t buffer[100];
    struct protocol_sender sender;
    struct protocol_receiver receiver;
    uint64_t seed = 7;
    uint64_t written = 0;
    protocol_sender_init(&sender, ring_data, sizeof(ring_data));
    protocol_receiver_init(&receiver, 0);
    for (size_t step = 0; step < 50000; step++) {
        uint64_t choice = random_next(&seed) % 100;
        uint8_t byte = (uint8_t)(written * 31 + (written >> 8));
        struct protocol_data data;
        if (choice < 60) {
            written += protocol_sender_write(&sender, &byte, 1);
        } else if (choice < 90 && protocol_sender_next(&sender, buffer, sizeof(buffer), &data)) {
            if (choice == 61) {
                continue; /* lost on the way: the connection breaks below at some time */
            }
            if (!protocol_receiver_accept(&receiver, &data)) {
                continue; /* behind a lost one */
            }
            for (size_t i = 0; i < data.size; i++) {
                uint64_t at = data.offset + i;
                assert_int_equal(data.bytes[i], (uint8_t)(at * 31 + (at >> 8)));
            }
            protocol_receiver_consumed(&receiver, data.size);
        } else if (choice < 97 && protocol_receiver_due(&receiver, true)) {
            assert_true(protocol_sender_ack(&sender, receiver.acked));
        } else if (choice == 99) {
            protocol_sender_pause(&sender);
            assert_true(protocol_sender_rewind(&sender, receiver.received));
        }
    }
    assert_true(receiver.received > 10000);
}

static void test_receiver_refuses(void **state) {
    (void)state;
    struct protocol_receiver receiver;
    protocol_receiver_init(&receiver, 100);
    assert_false(protocol_receiver_accept(&receiver, &(struct protocol_data){.offset = 99}));
    assert_false(protocol_receiver_accept(&receiver, &(struct protocol_data){.offset = 101}));
    for (uint64_t i = 0; i < PROTOCOL_WINDOW_SIZE / PROTOCOL_DATA_SIZE_MAX; i++) {
        struct protocol_data data = {.offset = 100 + i * PROTOCOL_DATA_SIZE_MAX,
                                     .size = PROTOCOL_DATA_SIZE_MAX};
        assert_true(protocol_receiver_accept(&receiver, &data));
    }
    struct protocol_data beyond = {.offset = 100 + PROTOCOL_WINDOW_SIZE, .size = 1};
    assert_false(protocol_receiver_accept(&receiver, &beyond));
    assert_int_equal(receiver.received, 100 + PROTOCOL_WINDOW_SIZE);
    protocol_receiver_consumed(&receiver, 1);
    assert_false(protocol_receiver_accept(&receiver, &beyond)); /* consumed, not acknowledged */
    assert_false(protocol_receiver_due(&receiver, false));
    assert_true(protocol_receiver_due(&receiver, true));
    assert_false(protocol_receiver_due(&receiver, true));
    beyond.flags = PROTOCOL_DATA_END;
    assert_true(protocol_receiver_accept(&receiver, &beyond));
    beyond.offset++;
    beyond.size = 0;
    assert_false(protocol_receiver_accept(&receiver, &beyond)); /* behind the end */
    protocol_receiver_consumed(&receiver, PROTOCOL_WINDOW_SIZE / 4);
    assert_true(protocol_receiver_due(&receiver, false));
    assert_int_equal(receiver.acked, receiver.consumed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sender_against_a_model),
        cmocka_unit_test(test_sender_end_without_bytes),
        cmocka_unit_test(hazard_C6_no_byte_lost_or_repeated_over_reconnects),
        cmocka_unit_test(test_receiver_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
