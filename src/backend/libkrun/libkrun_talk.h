/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * libkrun_talk.h: the owner's side of krun/control.h: the program, and the lines that it says. What it says is not trusted: a
 * library that is broken runs in that process.
 *
 *     struct libkrun_talk talk;
 *     libkrun_talk_init(&talk, host, ours);
 *     TRY(libkrun_talk_read(&talk, &wait, &message, err));    its strings are good until the next call
 *     libkrun_talk_close(&talk);
 *
 * Threads: one at a time.
 */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_TALK_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_TALK_H

#include "backend/libkrun/libkrun_limits.h"
#include "host/host.h"
#include "krun/control.h"

struct libkrun_talk {
    struct host *host;
    int fd;          /* HOST_FD_NONE: closed */
    int received_fd; /* that came, and that no line has announced yet */
    size_t size;     /* of what was read */
    size_t used;     /* of it, by the last line */
    char bytes[KRUN_LINE_SIZE_MAX + 1];
};

/* Takes the descriptor over. */
void libkrun_talk_init(struct libkrun_talk *talk, struct host *host, int fd);
void libkrun_talk_close(struct libkrun_talk *talk); /* a zeroed one is allowed */

/* The next message. CRASHED: the program is gone. INTERNAL: it says what is none. */
KELPIE_CHECKED enum kelpie_status libkrun_talk_read(struct libkrun_talk *talk,
                                                    const struct host_wait *wait,
                                                    struct krun_message *ret_message,
                                                    struct kelpie_error *err);

/* The descriptor that came with the last messages; HOST_FD_NONE: none. It is the caller's then. */
int libkrun_talk_take_fd(struct libkrun_talk *talk);

/* The error that a FAILED message is. Returns its status. */
enum kelpie_status libkrun_talk_failed(const struct krun_message *message,
                                       struct kelpie_error *err);

/* The program as a file, to be run as KRUN_CHILD_PROGRAM under libkrun_program_path. */
extern const char libkrun_program_path[];
KELPIE_CHECKED enum kelpie_status libkrun_program_open(struct host *host, int *ret_fd,
                                                       struct kelpie_error *err);

#endif
