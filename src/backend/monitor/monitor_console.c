/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_console.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/monitor/monitor_limits.h"
#include "base/assert.h"
#include "base/checked.h"

static const char log_full_notice[] = "\n[kelpie: the console log is full]\n";

static void console_check(const struct monitor_console *console) {
    ASSERT(console->host && console->tail_data);
    ASSERT(console->tail.size <= console->tail.capacity);
    ASSERT(console->log_size <= console->log_size_max);
}

enum kelpie_status monitor_console_init(struct monitor_console *console, struct host *host,
                                        const char *log_path, uint64_t log_size_max,
                                        struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(!console->tail_data);
    *console = (struct monitor_console){.host = host, .log_fd = HOST_FD_NONE};
    console->log_size_max = log_size_max;
    console->tail_data = host_allocate(host, BACKEND_CONSOLE_TAIL_SIZE, err);
    if (!console->tail_data) {
        return KELPIE_NO_MEMORY;
    }
    ring_init(&console->tail, console->tail_data, BACKEND_CONSOLE_TAIL_SIZE);
    if (log_path &&
        host_file_open(host, log_path, HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE,
                       0600, &console->log_fd, err) != KELPIE_OK) {
        if (err) {
            snprintf(err->field, sizeof(err->field), "console_log");
        }
        return error_wrap(err, KELPIE_BAD_CONFIG, "cannot open the console log");
    }
    return KELPIE_OK;
}

void monitor_console_deinit(struct monitor_console *console) {
    ASSERT(console);
    if (console->host) {
        host_close(console->host, console->log_fd);
        free(console->tail_data);
    }
    *console = (struct monitor_console){.log_fd = HOST_FD_NONE};
}

/* A log that cannot be written is given up: the guest and the tail go on. */
static void log_append(struct monitor_console *console, const void *data, size_t size) {
    console_check(console);
    ASSERT(size > 0);
    ASSERT(console->log_fd != HOST_FD_NONE);
    if (host_file_write_at(console->host, console->log_fd, data, size, console->log_size, NULL) !=
        KELPIE_OK) {
        host_close(console->host, console->log_fd);
        console->log_fd = HOST_FD_NONE;
        return;
    }
    console->log_size += size;
}

static void log_write(struct monitor_console *console, const void *data, size_t size) {
    console_check(console);
    ASSERT(console->log_fd != HOST_FD_NONE);
    ASSERT(size > 0);
    const size_t notice_size = sizeof(log_full_notice) - 1;
    uint64_t room = console->log_size_max > console->log_size + notice_size
                        ? console->log_size_max - console->log_size - notice_size
                        : 0;
    size_t count = (size_t)min_u64(size, room);
    if (count > 0) {
        log_append(console, data, count);
    }
    if (count < size && console->log_fd != HOST_FD_NONE) {
        log_append(console, log_full_notice,
                   (size_t)min_u64(notice_size, console->log_size_max - console->log_size));
        host_close(console->host, console->log_fd);
        console->log_fd = HOST_FD_NONE;
    }
}

void monitor_console_write(struct monitor_console *console, const void *data, size_t size) {
    console_check(console);
    ASSERT(data && size > 0);
    if (console->log_fd != HOST_FD_NONE) {
        log_write(console, data, size);
    }
    size_t kept = min_size(size, console->tail.capacity);
    if (kept > ring_room(&console->tail)) {
        ring_drop(&console->tail, kept - ring_room(&console->tail));
    }
    size_t written = ring_write(&console->tail, (const uint8_t *)data + (size - kept), kept);
    ASSERT(written == kept);
}

bool monitor_console_drain(struct monitor_console *console, int fd) {
    console_check(console);
    ASSERT(fd >= 0);
    const struct host_wait no_wait = host_wait_none();
    for (size_t i = 0; i < MONITOR_CONSOLE_READ_COUNT_MAX; i++) {
        uint8_t chunk[MONITOR_CONSOLE_CHUNK_SIZE];
        size_t count = 0;
        enum kelpie_status status =
            host_read(console->host, fd, chunk, sizeof(chunk), &no_wait, &count, NULL);
        if (status == KELPIE_TIMED_OUT) {
            return true;
        }
        if (status != KELPIE_OK || count == 0) {
            return false;
        }
        monitor_console_write(console, chunk, count);
    }
    return true;
}

size_t monitor_console_tail(const struct monitor_console *console, void *buffer, size_t size) {
    console_check(console);
    ASSERT(buffer || size == 0);
    size_t count = min_size(size, console->tail.size);
    return ring_peek(&console->tail, console->tail.size - count, buffer, count);
}

void monitor_last_line(const char *text, size_t text_size, char *buffer, size_t size) {
    ASSERT(size > 0);
    ASSERT(text || text_size == 0);
    size_t end = text_size;
    while (end > 0 && isspace((unsigned char)text[end - 1])) {
        end--;
    }
    size_t start = end;
    while (start > 0 && text[start - 1] != '\n') {
        start--;
    }
    size_t count = min_size(end - start, size - 1);
    for (size_t i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)text[start + i];
        buffer[i] = isprint(byte) ? (char)byte : '?';
    }
    buffer[count] = 0;
}

/* Where the last line with a kernel's panic ends; without one, where the text ends. */
static size_t panic_line_end(const char *text, size_t size) {
    static const char words[] = "Kernel panic - not syncing";
    const size_t words_size = sizeof(words) - 1;
    ASSERT(text);
    ASSERT(size <= MONITOR_PANIC_TAIL_SIZE);
    for (size_t at = size >= words_size ? size - words_size + 1 : 0; at > 0; at--) {
        if (memcmp(text + at - 1, words, words_size) == 0) {
            const char *end = memchr(text + at - 1, '\n', size - (at - 1));
            return end ? (size_t)(end - text) : size;
        }
    }
    return size;
}

void monitor_console_last_line(const struct monitor_console *console, char *buffer, size_t size) {
    ASSERT(buffer);
    ASSERT(size > 0);
    char text[MONITOR_PANIC_TAIL_SIZE];
    static_assert(sizeof(text) >= 2 * MONITOR_LAST_WORDS_SIZE_MAX, "room for a line");
    size_t text_size = monitor_console_tail(console, text, sizeof(text));
    monitor_last_line(text, panic_line_end(text, text_size), buffer, size);
}
