/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_console.h: what the guest writes to its console. Its last bytes stay in memory; a log file, if one is
 * asked for, takes bytes up to its limit and then one line that says so. A guest that writes without end
 * costs a bounded amount of work for each call, of memory and of disk.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_CONSOLE_H
#define KELPIE_BACKEND_MONITOR_MONITOR_CONSOLE_H

#include "base/ring.h"
#include "host/host.h"

struct monitor_console {
    struct host *host;
    struct ring tail;
    uint8_t *tail_data;
    int log_fd; /* HOST_FD_NONE: no log, or it is full */
    uint64_t log_size;
    uint64_t log_size_max;
};

/* log_path NULL: no log. An existing file is emptied. */
KELPIE_CHECKED enum kelpie_status monitor_console_init(struct monitor_console *console,
                                                       struct host *host, const char *log_path,
                                                       uint64_t log_size_max,
                                                       struct kelpie_error *err);
void monitor_console_deinit(struct monitor_console *console); /* a zeroed one is allowed */

void monitor_console_write(struct monitor_console *console, const void *data, size_t size);

/* Reads what fd has, within bounds and without waiting. False: its other end is closed. */
bool monitor_console_drain(struct monitor_console *console, int fd);

/* The last bytes, up to size. */
size_t monitor_console_tail(const struct monitor_console *console, void *buffer, size_t size);

/* The last line that holds more than spaces, zero-terminated, control characters replaced. When a kernel's panic is
 * among the last MONITOR_PANIC_TAIL_SIZE bytes, its line instead: what follows it is a stack trace. */
void monitor_console_last_line(const struct monitor_console *console, char *buffer, size_t size);

/* The same for any text. */
void monitor_last_line(const char *text, size_t text_size, char *buffer, size_t size);

#endif
