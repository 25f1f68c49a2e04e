/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_words.h: the last words of a child: the end of what it said on stderr.
 *
 * A child may say as much as it likes, and as fast: a drain is a bounded number of reads, and only the tail is kept.
 *
 *     struct monitor_words words;
 *     monitor_words_init(&words);
 *     monitor_words_open(&words, fd);
 *     monitor_words_drain(&words, host);   whenever the descriptor is readable
 *     monitor_last_line(words.text, words.size, line, sizeof(line));
 *     monitor_words_close(&words, host);
 *
 * Ownership: the descriptor is theirs until it is closed. Threads: whoever has words guards them.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_WORDS_H
#define KELPIE_BACKEND_MONITOR_MONITOR_WORDS_H

#include <stddef.h>

#include "backend/monitor/monitor_limits.h"
#include "host/host.h"

struct monitor_words {
    int fd;     /* HOST_FD_NONE: there is no child */
    bool ended; /* it has said its last: there is nothing more to read */
    size_t size;
    char text[MONITOR_STDERR_TAIL_SIZE]; /* the last bytes; no zero ends them */
};

void monitor_words_init(struct monitor_words *words);

/* Those of another child: what was kept is forgotten. Takes the descriptor over. */
void monitor_words_open(struct monitor_words *words, int fd);

/* Reads what is there, MONITOR_STDERR_READ_COUNT_MAX times at most. The descriptor stays open, also at its end: another
 * thread may be waiting on it. */
void monitor_words_drain(struct monitor_words *words, struct host *host);

/* To be polled for reading; HOST_FD_NONE: there is nothing to come. */
int monitor_words_fd(const struct monitor_words *words);

/* What was kept stays. */
void monitor_words_close(struct monitor_words *words, struct host *host);

#endif
