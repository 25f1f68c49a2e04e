/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What an owner or a handle reads on its socket: any bytes, in pieces, with and without descriptors, are refused or make
 * objects; and an object that is sent again is read as the same. The first byte of an input says how.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "supervise/control.h"

#define INPUT_SIZE_MAX                                                                             \
    16384             /* what a socket takes of it at once, also when numbers are written longer */
#define PIECE_SIZES 4 /* the low bits of the first byte; the next says that a descriptor comes */
#define WITH_FD 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct ends {
    struct host *host;
    int fds[2];
    struct control_reader reader; /* of fds[1] */
};

static bool ends_open(struct ends *ends) {
    if (host_socket_pair(ends->host, ends->fds, NULL) != KELPIE_OK) {
        return false;
    }
    control_reader_init(&ends->reader, ends->host, ends->fds[1]);
    return true;
}

static void ends_close(struct ends *ends) {
    control_reader_deinit(&ends->reader);
    host_close(ends->host, ends->fds[0]);
    host_close(ends->host, ends->fds[1]);
}

/* Sent on a connection of its own, it is what it was. */
static void expect_the_same_again(struct host *host, const struct control_message *message) {
    struct ends again = {.host = host};
    struct control_message copy = {.fd = HOST_FD_NONE};
    struct host_wait wait = host_wait_ms(host, 1000, HOST_FD_NONE);
    if (!ends_open(&again)) {
        return;
    }
    enum kelpie_status status =
        control_send(host, again.fds[0], message->json, message->fd, &wait, NULL);
    ASSERT(status == KELPIE_OK);
    status = control_receive(&again.reader, &wait, &copy, NULL);
    ASSERT(status == KELPIE_OK);
    ASSERT(json_equal(message->json, copy.json));
    ASSERT((message->fd == HOST_FD_NONE) == (copy.fd == HOST_FD_NONE));
    control_message_clear(host, &copy);
    ends_close(&again);
}

/* Takes out what is whole. False: the bytes are no message, and the connection is over. */
static bool take_all(struct ends *ends) {
    bool found = true;
    while (found) {
        struct control_message message = {.fd = HOST_FD_NONE};
        if (control_reader_next(&ends->reader, &message, &found, NULL) != KELPIE_OK) {
            ASSERT(!message.json);
            ASSERT(message.fd == HOST_FD_NONE);
            return false;
        }
        if (found) {
            ASSERT(json_is_object(message.json));
            ASSERT(control_text(message.json, "op"));
            ASSERT(control_number(message.json, "id") <= INT64_MAX);
            expect_the_same_again(ends->host, &message);
        }
        control_message_clear(ends->host, &message);
    }
    return true;
}

static bool send_piece(struct ends *ends, const uint8_t *data, size_t size, bool with_fd) {
    struct host_wait wait = host_wait_ms(ends->host, 1000, HOST_FD_NONE);
    int passed = HOST_FD_NONE;
    if (!with_fd) {
        return host_write_all(ends->host, ends->fds[0], data, size, &wait, NULL) == KELPIE_OK;
    }
    if (host_event_create(ends->host, &passed, NULL) != KELPIE_OK) {
        return false;
    }
    enum kelpie_status status =
        host_socket_send_fd(ends->host, ends->fds[0], data, size, passed, NULL);
    host_close(ends->host, passed);
    return status == KELPIE_OK;
}

static void read_pieces(struct ends *ends, const uint8_t *data, size_t size, unsigned how) {
    static const size_t piece_sizes[PIECE_SIZES] = {INPUT_SIZE_MAX, 1024, 64, 5};
    size_t piece_size = piece_sizes[how % PIECE_SIZES];
    bool goes_on = true;
    for (size_t at = 0; at < size && goes_on; at += piece_size) {
        size_t count = size - at < piece_size ? size - at : piece_size;
        struct host_wait none = host_wait_none();
        bool ended = false;
        goes_on = send_piece(ends, data + at, count, how & WITH_FD) &&
                  control_reader_fill(&ends->reader, &none, &ended, NULL) == KELPIE_OK &&
                  take_all(ends);
        ASSERT(!ended);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ends ends = {0};
    if (size < 2 || size > INPUT_SIZE_MAX || host_linux_create(&ends.host, NULL) != KELPIE_OK) {
        return 0;
    }
    if (ends_open(&ends)) {
        read_pieces(&ends, data + 1, size - 1, data[0]);
        ends_close(&ends);
    }
    host_destroy(ends.host);
    return 0;
}
