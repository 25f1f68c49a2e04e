/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_client.h: requests to a Firecracker and its answers, over one connection to its API's socket.
 *
 * THEORY OF OPERATION
 *
 * Requests go one at a time. One whose answer did not come in time, or whose wait was cancelled, is still carried out; its answer
 * is owed, and is read and dropped before that of the next. A connection on which something was said that is no answer, or of
 * which a request went out by half, is of no use any more: every request on it fails.
 *
 * What was refused is INTERNAL, with Firecracker's fault_message, cut and without control characters; the caller says what it
 * was about. NO_SPACE, when the fault says so. CRASHED: the connection has ended.
 *
 * Not for several threads.
 */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_CLIENT_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_CLIENT_H

#include <jansson.h>

#include "backend/firecracker/firecracker_http.h"
#include "host/host.h"

/* Large: not for a stack. */
struct firecracker_client {
    struct host *host;
    int fd; /* HOST_FD_NONE: not connected */
    bool broken;
    size_t answers_owed;
    struct firecracker_http http;
    char in[4096]; /* read, and not looked at yet: from in_start to in_end */
    size_t in_start;
    size_t in_end;
    char out[FIRECRACKER_REQUEST_SIZE_MAX];
};

void firecracker_client_init(struct firecracker_client *client, struct host *host);
void firecracker_client_close(struct firecracker_client *client); /* twice is allowed */

/* Connects to the socket, which a process that has just been started makes soon. CRASHED: that process, whose exit_fd this is,
 * has ended. */
KELPIE_CHECKED enum kelpie_status firecracker_client_connect(struct firecracker_client *client,
                                                             const char *path, int exit_fd,
                                                             const struct host_wait *wait,
                                                             struct kelpie_error *err);

/* "PUT", "PATCH", with a body, which is taken over; NULL: there was no memory for it. */
KELPIE_CHECKED enum kelpie_status firecracker_client_ask(struct firecracker_client *client,
                                                         const char *method, const char *path,
                                                         json_t *body, const struct host_wait *wait,
                                                         struct kelpie_error *err);

#endif
