/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "supervise/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define SIZE_SIZE 4 /* of the number in front */
#define READ_SIZE 65536

void control_message_clear(struct host *host, struct control_message *message) {
    ASSERT(host);
    ASSERT(message);
    json_decref(message->json);
    host_close(host, message->fd);
    *message = (struct control_message){.fd = HOST_FD_NONE};
}

static void put_size(uint8_t bytes[SIZE_SIZE], size_t size) {
    ASSERT(bytes);
    ASSERT(size <= CONTROL_MESSAGE_SIZE_MAX);
    for (size_t i = 0; i < SIZE_SIZE; i++) {
        bytes[i] = (uint8_t)(size >> (8 * i));
    }
}

static size_t get_size(const uint8_t bytes[SIZE_SIZE]) {
    ASSERT(bytes);
    size_t size = 0;
    for (size_t i = 0; i < SIZE_SIZE; i++) {
        size |= (size_t)bytes[i] << (8 * i);
    }
    return size;
}

enum kelpie_status control_send(struct host *host, int fd, const json_t *json, int passed_fd,
                                const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(json_is_object(json));
    ASSERT(fd != HOST_FD_NONE);
    size_t size = json_dumpb(json, NULL, 0, JSON_COMPACT);
    if (size == 0 || size > CONTROL_MESSAGE_SIZE_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "a message of %zu bytes is too large", size);
    }
    AUTO_MEM uint8_t *bytes = host_allocate(host, SIZE_SIZE + size, err);
    if (!bytes) {
        return KELPIE_NO_MEMORY;
    }
    put_size(bytes, size);
    enum kelpie_status status = KELPIE_OK;
    size_t sent = 0;
    if (json_dumpb(json, (char *)bytes + SIZE_SIZE, size, JSON_COMPACT) != size) {
        status = error_set(err, KELPIE_NO_MEMORY, "no memory for a message");
    } else if (passed_fd != HOST_FD_NONE) {
        status = host_socket_send_fd(host, fd, bytes, SIZE_SIZE, passed_fd, err);
        sent = SIZE_SIZE;
    }
    if (status == KELPIE_OK) {
        status = host_write_all(host, fd, bytes + sent, SIZE_SIZE + size - sent, wait, err);
    }
    explicit_bzero(bytes, SIZE_SIZE + size); /* there may be secrets in it */
    return status;
}

void control_reader_init(struct control_reader *reader, struct host *host, int fd) {
    ASSERT(host);
    ASSERT(fd != HOST_FD_NONE);
    *reader = (struct control_reader){.host = host, .fd = fd};
}

void control_reader_deinit(struct control_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->fd_count <= CONTROL_FD_COUNT_MAX);
    for (size_t i = 0; i < reader->fd_count; i++) {
        host_close(reader->host, reader->fds[i]);
    }
    free(reader->buffer);
    reader->buffer = NULL;
    reader->fd_count = 0;
    reader->size = 0;
    reader->capacity = 0;
}

/* The buffer grows to what a message says that it needs, and a piece more. */
static enum kelpie_status make_room(struct control_reader *reader, struct kelpie_error *err) {
    ASSERT(reader->size <= reader->capacity);
    ASSERT(reader->size <= SIZE_SIZE + CONTROL_MESSAGE_SIZE_MAX);
    if (reader->size + READ_SIZE <= reader->capacity) {
        return KELPIE_OK;
    }
    size_t wanted = 2 * reader->size + READ_SIZE;
    uint8_t *bytes = host_allocate(reader->host, wanted, err);
    if (!bytes) {
        return KELPIE_NO_MEMORY;
    }
    if (reader->size > 0) {
        memcpy(bytes, reader->buffer, reader->size);
        explicit_bzero(reader->buffer, reader->size);
    }
    free(reader->buffer);
    reader->buffer = bytes;
    reader->capacity = wanted;
    return KELPIE_OK;
}

enum kelpie_status control_reader_fill(struct control_reader *reader, const struct host_wait *wait,
                                       bool *ret_ended, struct kelpie_error *err) {
    ASSERT(reader->host);
    ASSERT(ret_ended);
    TRY(make_room(reader, err));
    struct host_received received = {.fd = HOST_FD_NONE};
    TRY(host_receive(reader->host, reader->fd, reader->buffer + reader->size, READ_SIZE, wait,
                     &received, err));
    reader->size += received.size;
    if (received.fd != HOST_FD_NONE && reader->fd_count == CONTROL_FD_COUNT_MAX) {
        host_close(reader->host, received.fd);
        return error_set(err, KELPIE_INTERNAL, "more descriptors came than messages");
    }
    if (received.fd != HOST_FD_NONE) {
        reader->fds[reader->fd_count++] = received.fd;
    }
    *ret_ended = received.size == 0;
    return KELPIE_OK;
}

/* The descriptor that was announced: the oldest. */
static enum kelpie_status take_fd(struct control_reader *reader, int *ret_fd,
                                  struct kelpie_error *err) {
    ASSERT(reader->fd_count <= CONTROL_FD_COUNT_MAX);
    ASSERT(ret_fd);
    if (reader->fd_count == 0) {
        return error_set(err, KELPIE_INTERNAL, "a message came without its descriptor");
    }
    *ret_fd = reader->fds[0];
    reader->fd_count--;
    memmove(reader->fds, reader->fds + 1, reader->fd_count * sizeof(reader->fds[0]));
    return KELPIE_OK;
}

enum kelpie_status control_reader_next(struct control_reader *reader,
                                       struct control_message *ret_message, bool *ret_found,
                                       struct kelpie_error *err) {
    ASSERT(ret_message);
    ASSERT(ret_found);
    *ret_found = false;
    if (reader->size < SIZE_SIZE) {
        return KELPIE_OK;
    }
    size_t size = get_size(reader->buffer);
    if (size == 0 || size > CONTROL_MESSAGE_SIZE_MAX) {
        return error_set(err, KELPIE_INTERNAL, "a message says that it has %zu bytes", size);
    }
    if (reader->size < SIZE_SIZE + size) {
        return KELPIE_OK;
    }
    json_t *json = NULL;
    enum kelpie_status status = store_json_parse((const char *)reader->buffer + SIZE_SIZE, size,
                                                 CONTROL_MESSAGE_SIZE_MAX, &json, err);
    reader->size -= SIZE_SIZE + size;
    memmove(reader->buffer, reader->buffer + SIZE_SIZE + size, reader->size);
    explicit_bzero(reader->buffer + reader->size,
                   SIZE_SIZE + size); /* there may be secrets in it */
    struct control_message message = {.json = json, .fd = HOST_FD_NONE};
    if (status == KELPIE_BAD_CONFIG) {
        status = error_wrap(err, KELPIE_INTERNAL, "a message is none");
    } else if (status == KELPIE_OK && json_is_true(json_object_get(json, "fd"))) {
        status = take_fd(reader, &message.fd, err);
    }
    if (status != KELPIE_OK) {
        json_decref(json);
        return status;
    }
    *ret_message = message;
    *ret_found = true;
    return KELPIE_OK;
}

enum kelpie_status control_receive(struct control_reader *reader, const struct host_wait *wait,
                                   struct control_message *ret_message, struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(ret_message);
    bool found = false;
    TRY(control_reader_next(reader, ret_message, &found, err));
    while (!found) {
        bool ended = false;
        TRY(control_reader_fill(reader, wait, &ended, err));
        if (ended) {
            return error_set(err, KELPIE_INTERNAL, "the other side has closed the connection");
        }
        TRY(control_reader_next(reader, ret_message, &found, err));
    }
    return KELPIE_OK;
}

uint64_t control_number(const json_t *json, const char *name) {
    ASSERT(json);
    ASSERT(name);
    const json_t *value = json_object_get(json, name);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    return number > 0 ? (uint64_t)number : 0;
}

const char *control_text(const json_t *json, const char *name) {
    ASSERT(json);
    ASSERT(name);
    const char *text = json_string_value(json_object_get(json, name));
    return text ? text : "";
}
