/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_http.h: the client's side of HTTP/1.1 (RFC 9112), as much of it as Firecracker's server speaks: a response has a
 * status, headers, and a body of a known length; the next one follows on the same connection. Pure: bytes in, a response
 * out; it knows no socket.
 *
 * It is our own, and not libcurl, because every byte goes through struct host: under the simulator there are no
 * sockets of the system's that a library could use.
 *
 * The peer may have been taken over by its guest, so nothing is tolerated: each line ends with CR LF and is of printable ASCII,
 * Content-Length is digits and comes once, a Transfer-Encoding is an error, and so is an interim response, which nobody asked for.
 *
 *     status line -> headers -> body -> whole -> status line …          any of them -> bad
 *
 *     firecracker_http_init(http);
 *     while (used < size) {
 *         size_t taken = 0;
 *         switch (firecracker_http_feed(http, bytes + used, size - used, &taken)) { … }
 *         used += taken;
 *     }
 */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_HTTP_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "backend/firecracker/firecracker_limits.h"

enum firecracker_http_result {
    FIRECRACKER_HTTP_MORE = 0, /* everything was taken; feed more */
    FIRECRACKER_HTTP_RESPONSE, /* status and body stand until the next call; bytes may be left */
    FIRECRACKER_HTTP_BAD, /* this is no response (reason), and nothing that follows means anything */
};

enum firecracker_http_state {
    FIRECRACKER_HTTP_STATUS = 0,
    FIRECRACKER_HTTP_HEADERS,
    FIRECRACKER_HTTP_BODY,
    FIRECRACKER_HTTP_BROKEN,
};

/* Large: not for a stack. */
struct firecracker_http {
    enum firecracker_http_state state;
    unsigned status; /* 200 … 599 */
    size_t body_size;
    char body[FIRECRACKER_BODY_SIZE_MAX + 1]; /* zero-terminated beyond its size */
    const char *reason;                       /* BAD: why */

    char line[FIRECRACKER_LINE_SIZE_MAX];
    size_t line_size;
    size_t header_count;
    bool has_length;
    size_t length;
};

void firecracker_http_init(struct firecracker_http *http);

/* Takes up to size bytes and stops behind the first response. *ret_taken says how many. */
enum firecracker_http_result firecracker_http_feed(struct firecracker_http *http, const char *data,
                                                   size_t size, size_t *ret_taken);

#endif
