/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * child.h: a piece of work in a process of its own, so that it may abort, crash or hang. What it writes to stderr is kept,
 * and it has one more pipe for whatever it wants to say. It dies with its parent.
 *
 *     struct child child;
 *     if (child_start(&child, body, context)) {
 *         … poll child.data_fd and child.words_fd …
 *         int wait_status = child_end(&child);
 *     }
 */
#ifndef KELPIE_SIM_RUN_CHILD_H
#define KELPIE_SIM_RUN_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TAIL_SIZE 65536 /* of a text, that are kept at least half of */

/* The end of a text. */
struct tail {
    char text[TAIL_SIZE + 1];
    size_t size;
};

void tail_add(struct tail *tail, const char *text, size_t size);

struct child {
    pid_t pid;    /* 0: none */
    int data_fd;  /* what it says; -1: its end was seen */
    int words_fd; /* its stderr; -1: its end was seen */
    struct tail words;
};

/* In the child. Its process ends with code 0 when it returns. */
typedef void child_body(void *context, int data_fd);

/* False: errno says why. */
bool child_start(struct child *child, child_body *body, void *context);

/* Reads once from a descriptor that is ready, and closes it at its end (then it is -1). */
void child_read_tail(int *fd, struct tail *tail);

/* Kills it at once; its descriptors come to their end. */
void child_kill(struct child *child);

/* Waits for its end, reads its last words, and lets go of it. Returns what waitpid() says. */
int child_end(struct child *child);

/* The monotonic clock: limits of time are real time here. */
uint64_t child_clock_ns(void);

#endif
