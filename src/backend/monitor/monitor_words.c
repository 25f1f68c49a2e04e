/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_words.h"

#include <string.h>

#include "base/assert.h"

#define CHUNK_SIZE 1024

static void words_check(const struct monitor_words *words) {
    ASSERT(words);
    ASSERT(words->size <= sizeof(words->text));
}

void monitor_words_init(struct monitor_words *words) {
    words->fd = HOST_FD_NONE;
    words->ended = false;
    words->size = 0;
    words_check(words);
}

void monitor_words_open(struct monitor_words *words, int fd) {
    words_check(words);
    ASSERT(words->fd == HOST_FD_NONE);
    words->fd = fd;
    words->ended = false;
    words->size = 0;
}

/* Keeps the last bytes. */
static void keep(struct monitor_words *words, const char *data, size_t size) {
    words_check(words);
    const size_t capacity = sizeof(words->text);
    ASSERT(size <= capacity);
    if (words->size + size > capacity) {
        size_t kept = capacity - size;
        memmove(words->text, words->text + (words->size - kept), kept);
        words->size = kept;
    }
    memcpy(words->text + words->size, data, size);
    words->size += size;
}

void monitor_words_drain(struct monitor_words *words, struct host *host) {
    words_check(words);
    ASSERT(host);
    const struct host_wait no_wait = host_wait_none();
    char chunk[CHUNK_SIZE];
    static_assert(sizeof(chunk) <= sizeof(words->text), "a chunk fits");
    for (size_t i = 0; i < MONITOR_STDERR_READ_COUNT_MAX && monitor_words_fd(words) != HOST_FD_NONE;
         i++) {
        size_t count = 0;
        enum kelpie_status status =
            host_read(host, words->fd, chunk, sizeof(chunk), &no_wait, &count, NULL);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        if (status == KELPIE_OK && count > 0) {
            keep(words, chunk, count);
        } else {
            words->ended = true;
        }
    }
}

int monitor_words_fd(const struct monitor_words *words) {
    words_check(words);
    ASSERT(words->fd >= HOST_FD_NONE);
    return words->ended ? HOST_FD_NONE : words->fd;
}

void monitor_words_close(struct monitor_words *words, struct host *host) {
    words_check(words);
    ASSERT(host);
    host_close(host, words->fd);
    words->fd = HOST_FD_NONE;
}
