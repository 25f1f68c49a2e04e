/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * http.h: the server's side of HTTP/1.1 (RFC 9112) as Firecracker speaks it: a request line, headers, a body of a known
 * length, the next request on the same connection. Pure: bytes in, events out; it knows no socket.
 *
 * THEORY OF OPERATION
 *
 * A parser is fed whatever was read, in pieces of any size, and says what it has found:
 *
 *     request line -> headers -> body -> whole -> request line -> …        any of them -> bad
 *
 *     HTTP_EVENT_MORE      everything was taken; feed more
 *     HTTP_EVENT_CONTINUE  the client waits for "100 Continue" before it sends its body: send it, then go on
 *     HTTP_EVENT_REQUEST   a whole request stands in parser->request until the next call; there may be bytes left
 *     HTTP_EVENT_BAD       these are no request (parser->reason); nothing that follows has a meaning: answer 400 and close
 *
 * It takes GET, PUT and PATCH, HTTP/1.0 and 1.1, and ignores headers that it does not know, as Firecracker's server does; every
 * connection stays open until the client closes it. It is stricter where a lenient server hides a client's mistake: a line ends
 * with CR LF, holds no control characters, and has no blanks around a header's name; Content-Length is digits alone, and
 * two different ones are an error; a Transfer-Encoding is one too, for a body of unknown length would be taken for the next request.
 *
 *     http_parser_init(parser);
 *     while (used < size) {
 *         size_t taken = 0;
 *         switch (http_parser_feed(parser, bytes + used, size - used, &taken)) { … }
 *         used += taken;
 *     }
 */
#ifndef KELPIE_SIM_PEER_HTTP_H
#define KELPIE_SIM_PEER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define HTTP_LINE_SIZE_MAX 1024  /* bytes of one line, with its CR LF: Firecracker's buffer */
#define HTTP_HEADER_COUNT_MAX 64 /* lines of one request */
#define HTTP_PATH_SIZE_MAX 512
#define HTTP_BODY_SIZE_MAX                                                                         \
    51200 /* Firecracker's --http-api-max-payload-size, if nobody changes it */
#define HTTP_REASON_SIZE 128
#define HTTP_HEAD_SIZE_MAX 256 /* bytes of a response before its body */

enum http_method { HTTP_GET = 0, HTTP_PUT, HTTP_PATCH, HTTP_METHOD_COUNT };

enum http_event { HTTP_EVENT_MORE = 0, HTTP_EVENT_CONTINUE, HTTP_EVENT_REQUEST, HTTP_EVENT_BAD };

struct http_request {
    enum http_method method;
    uint32_t minor_version; /* HTTP/1.<this> */
    char path[HTTP_PATH_SIZE_MAX + 1];
    size_t body_size;
    char body[HTTP_BODY_SIZE_MAX + 1]; /* zero-terminated beyond its size */
};

enum http_state { HTTP_STATE_LINE = 0, HTTP_STATE_HEADERS, HTTP_STATE_BODY, HTTP_STATE_BAD };

/* Large: not for a stack. */
struct http_parser {
    enum http_state state;
    char line[HTTP_LINE_SIZE_MAX];
    size_t line_size;
    uint32_t header_count;
    bool has_length;
    bool expects_continue;
    size_t length; /* of the body */
    struct http_request request;
    char reason[HTTP_REASON_SIZE];
};

void http_parser_init(struct http_parser *parser);

/* Takes up to size bytes and stops behind the first event. *ret_taken says how many; 0 only for size 0, or a parser that
 * was BAD before. */
enum http_event http_parser_feed(struct http_parser *parser, const void *data, size_t size,
                                 size_t *ret_taken);

/* Between two requests: a client may close here. */
bool http_parser_is_idle(const struct http_parser *parser);

/* "GET". Never NULL. */
const char *http_method_name(enum http_method method);

struct http_response {
    uint32_t status;  /* 100 … 599; 100 and 204 have neither body nor Content-Length */
    bool deprecated;  /* what was asked for will be removed */
    const char *body; /* JSON; NULL: none */
    size_t body_size;
};

/* The response as bytes. NO_SPACE: they do not fit; HTTP_HEAD_SIZE_MAX + body_size always do. */
KELPIE_CHECKED enum kelpie_status http_response_encode(const struct http_response *response,
                                                       char *buffer, size_t capacity,
                                                       size_t *ret_size, struct kelpie_error *err);

#endif
