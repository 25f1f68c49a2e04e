/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/libkrun/libkrun_talk.h"

#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

extern const uint8_t libkrun_program_data[]; /* krun_embed.S */
extern const uint8_t libkrun_program_end[];

static_assert(KRUN_CHILD_PROGRAM == 6, "libkrun_program_path has it");
const char libkrun_program_path[] = "/proc/self/fd/6";

enum kelpie_status libkrun_program_open(struct host *host, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_fd);
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    size_t size = (size_t)(libkrun_program_end - libkrun_program_data);
    TRY(host_memory_file(host, "kelpie-krun", size, &file.fd, err));
    TRY(host_file_write_at(host, file.fd, libkrun_program_data, size, 0, err));
    *ret_fd = host_fd_take(&file);
    return KELPIE_OK;
}

static void talk_check(const struct libkrun_talk *talk) {
    ASSERT(talk->host);
    ASSERT(talk->used <= talk->size);
    ASSERT(talk->size <= KRUN_LINE_SIZE_MAX);
}

void libkrun_talk_init(struct libkrun_talk *talk, struct host *host, int fd) {
    ASSERT(host);
    ASSERT(fd != HOST_FD_NONE);
    talk->host = host;
    talk->fd = fd;
    talk->received_fd = HOST_FD_NONE;
    talk->size = 0;
    talk->used = 0;
}

void libkrun_talk_close(struct libkrun_talk *talk) {
    ASSERT(talk);
    if (!talk->host) {
        return;
    }
    talk_check(talk);
    host_close(talk->host, libkrun_talk_take_fd(talk));
    host_close(talk->host, talk->fd);
    talk->fd = HOST_FD_NONE;
}

int libkrun_talk_take_fd(struct libkrun_talk *talk) {
    talk_check(talk);
    ASSERT(talk->fd != HOST_FD_NONE || talk->received_fd == HOST_FD_NONE);
    int fd = talk->received_fd;
    talk->received_fd = HOST_FD_NONE;
    return fd;
}

/* Reads more behind what is there. */
static enum kelpie_status fill(struct libkrun_talk *talk, const struct host_wait *wait,
                               struct kelpie_error *err) {
    struct host_received received = {.fd = HOST_FD_NONE};
    talk_check(talk);
    ASSERT(talk->used == 0);
    if (talk->size == KRUN_LINE_SIZE_MAX) {
        return error_set(err, KELPIE_INTERNAL, "kelpie-krun says a line that is too long");
    }
    TRY(host_receive(talk->host, talk->fd, talk->bytes + talk->size,
                     KRUN_LINE_SIZE_MAX - talk->size, wait, &received, err));
    if (received.fd != HOST_FD_NONE) {
        host_close(talk->host, talk->received_fd);
        talk->received_fd = received.fd;
    }
    if (received.size == 0) {
        return error_set(err, KELPIE_CRASHED, "the process of libkrun is gone");
    }
    talk->size += received.size;
    return KELPIE_OK;
}

enum kelpie_status libkrun_talk_read(struct libkrun_talk *talk, const struct host_wait *wait,
                                     struct krun_message *ret_message, struct kelpie_error *err) {
    talk_check(talk);
    ASSERT(wait && ret_message);
    if (talk->fd == HOST_FD_NONE) {
        return error_set(err, KELPIE_CRASHED, "the process of libkrun is gone");
    }
    memmove(talk->bytes, talk->bytes + talk->used, talk->size - talk->used);
    talk->size -= talk->used;
    talk->used = 0;
    char *end = NULL;
    while (!(end = memchr(talk->bytes, '\n', talk->size))) {
        TRY(fill(talk, wait, err));
    }
    *end = '\0';
    talk->used = (size_t)(end - talk->bytes) + 1;
    if (!krun_message_decode(talk->bytes, ret_message)) {
        return error_set(err, KELPIE_INTERNAL, "kelpie-krun says what is no message");
    }
    return KELPIE_OK;
}

/* What it may say of itself. The VM's state, a cancel or a time limit are not its business, whatever it has become. */
static enum kelpie_status own_status(enum kelpie_status told) {
    static const enum kelpie_status own[] = {
        KELPIE_BAD_CONFIG, KELPIE_BACKEND_MISSING, KELPIE_UNSUPPORTED,
        KELPIE_NO_MEMORY,  KELPIE_IO_FAILED,       KELPIE_BOOT_FAILED,
    };
    ASSERT(told != KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
        if (own[i] == told) {
            return told;
        }
    }
    return KELPIE_INTERNAL;
}

enum kelpie_status libkrun_talk_failed(const struct krun_message *message,
                                       struct kelpie_error *err) {
    ASSERT(message->word == KRUN_WORD_FAILED);
    ASSERT(message->text);
    const char *field = message->status == KELPIE_BAD_CONFIG ? "kernel" : "";
    return error_set_field(err, own_status(message->status), field, "%.*s", KRUN_TEXT_SIZE_MAX,
                           message->text);
}
