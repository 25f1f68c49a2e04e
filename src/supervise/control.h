/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * control.h: what a VM's owner and its handles say to each other.
 *
 * THEORY OF OPERATION
 *
 * A message is a u32, little-endian, and so many bytes of JSON: an object. One that has "fd": true comes with a descriptor,
 * attached to its first byte. There are three kinds (docs/CONTROL.md has the members):
 *
 *     {"id": 7, "op": "snapshot", ...}     a request, from a handle; several may be under way
 *     {"id": 7, "error": {...}}            its answer: the status of the library's call, OK too, and what came of it
 *     {"event": "state", ...}              from the owner, at any time: the VM's state; a channel to its guest
 *
 * The first request of a connection greets: "hello"; or, of who has started the owner, "create" or "adopt". It names the
 * version, and another version is an error that says which.
 *
 * Both sides are the same user's, and neither believes the other: sizes are bounded, members are checked.
 */
#ifndef KELPIE_SUPERVISE_CONTROL_H
#define KELPIE_SUPERVISE_CONTROL_H

#include <jansson.h>

#include "host/host.h"
#include "store/store_json.h"
#include "supervise/supervise_limits.h"

#define CONTROL_VERSION 1

struct control_message {
    json_t *json; /* an object */
    int fd;       /* HOST_FD_NONE: none came with it */
};

/* Lets go of what it holds. */
void control_message_clear(struct host *host, struct control_message *message);

/* One whole message, and a descriptor with it (HOST_FD_NONE: none), which stays the caller's. One caller at a time. */
KELPIE_CHECKED enum kelpie_status control_send(struct host *host, int fd, const json_t *json,
                                               int passed_fd, const struct host_wait *wait,
                                               struct kelpie_error *err);

/* Finds messages in what comes. */
struct control_reader {
    struct host *host;
    int fd; /* not its own */
    uint8_t *buffer;
    size_t capacity;
    size_t size;
    int fds[CONTROL_FD_COUNT_MAX];
    size_t fd_count;
};

void control_reader_init(struct control_reader *reader, struct host *host, int fd);
void control_reader_deinit(struct control_reader *reader);

/* Reads what there is, once. *ret_ended: the other side has closed. TIMED_OUT, CANCELLED, INTERNAL (too many descriptors). */
KELPIE_CHECKED enum kelpie_status control_reader_fill(struct control_reader *reader,
                                                      const struct host_wait *wait, bool *ret_ended,
                                                      struct kelpie_error *err);

/* Takes the next message out; *ret_found: there was a whole one, which is the caller's. INTERNAL: the bytes are none. */
KELPIE_CHECKED enum kelpie_status control_reader_next(struct control_reader *reader,
                                                      struct control_message *ret_message,
                                                      bool *ret_found, struct kelpie_error *err);

/* The two together: the next message. INTERNAL when the other side has closed. */
KELPIE_CHECKED enum kelpie_status control_receive(struct control_reader *reader,
                                                  const struct host_wait *wait,
                                                  struct control_message *ret_message,
                                                  struct kelpie_error *err);

/* Members: what the object has, or what stands for it when it is missing or of another type. */
uint64_t control_number(const json_t *json, const char *name);
const char *control_text(const json_t *json, const char *name); /* ""; lives as long as the JSON */

#endif
