/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/http.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"

#define LENGTH_DIGITS_MAX 9 /* no body is that long; and it fits any integer */

/* Bytes of a line; not terminated. */
struct span {
    const char *data;
    size_t size;
};

static const char *const method_names[] = {
    [HTTP_GET] = "GET", [HTTP_PUT] = "PUT", [HTTP_PATCH] = "PATCH"};
static_assert(ARRAY_SIZE(method_names) == HTTP_METHOD_COUNT, "each method has a name");

static bool span_is(struct span span, const char *text) {
    ASSERT(span.data);
    ASSERT(text);
    return span.size == strlen(text) && memcmp(span.data, text, span.size) == 0;
}

static bool span_is_nocase(struct span span, const char *text) {
    ASSERT(span.data);
    ASSERT(text);
    return span.size == strlen(text) && strncasecmp(span.data, text, span.size) == 0;
}

static struct span span_trim(struct span span) {
    ASSERT(span.data);
    while (span.size > 0 && (span.data[0] == ' ' || span.data[0] == '\t')) {
        span.data++;
        span.size--;
    }
    while (span.size > 0 && (span.data[span.size - 1] == ' ' || span.data[span.size - 1] == '\t')) {
        span.size--;
    }
    return span;
}

/* What stands before the first `separator`, which is taken off `rest` with it. False: there is none. */
static bool span_split(struct span *rest, char separator, struct span *ret_first) {
    ASSERT(rest->data);
    const char *found = memchr(rest->data, separator, rest->size);
    if (!found) {
        return false;
    }
    *ret_first = (struct span){.data = rest->data, .size = (size_t)(found - rest->data)};
    rest->data = found + 1;
    rest->size -= ret_first->size + 1;
    ASSERT(ret_first->data + ret_first->size + 1 == rest->data);
    return true;
}

static enum http_event bad(struct http_parser *parser, const char *reason) {
    ASSERT(parser->state != HTTP_STATE_BAD);
    ASSERT(strlen(reason) < HTTP_REASON_SIZE);
    parser->state = HTTP_STATE_BAD;
    snprintf(parser->reason, sizeof(parser->reason), "%s", reason);
    return HTTP_EVENT_BAD;
}

static void start_request(struct http_parser *parser) {
    ASSERT(parser->state != HTTP_STATE_BAD);
    parser->state = HTTP_STATE_LINE;
    parser->line_size = 0;
    parser->header_count = 0;
    parser->has_length = false;
    parser->expects_continue = false;
    parser->length = 0;
    ASSERT(http_parser_is_idle(parser));
}

void http_parser_init(struct http_parser *parser) {
    ASSERT(parser);
    memset(parser, 0, sizeof(*parser));
    start_request(parser);
    ASSERT(parser->state == HTTP_STATE_LINE);
}

bool http_parser_is_idle(const struct http_parser *parser) {
    ASSERT(parser);
    ASSERT(parser->line_size <= HTTP_LINE_SIZE_MAX);
    return parser->state == HTTP_STATE_LINE && parser->line_size == 0;
}

const char *http_method_name(enum http_method method) {
    ASSERT((unsigned)method < HTTP_METHOD_COUNT);
    ASSERT(method_names[method]);
    return method_names[method];
}

/* ---- The request line ------------------------------------------------------------------------- */

static bool is_path(struct span path) {
    ASSERT(path.data);
    for (size_t i = 0; i < path.size; i++) {
        if (path.data[i] < '!' || path.data[i] > '~') {
            return false;
        }
    }
    ASSERT(path.size <= HTTP_LINE_SIZE_MAX);
    return path.size > 0 && path.data[0] == '/';
}

static enum http_event take_request_line(struct http_parser *parser, struct span line) {
    struct http_request *request = &parser->request;
    struct span method;
    struct span path;
    size_t found = 0;
    ASSERT(parser->state == HTTP_STATE_LINE);
    if (!span_split(&line, ' ', &method) || !span_split(&line, ' ', &path)) {
        return bad(parser, "The request line is not a method, a path and a version.");
    }
    while (found < HTTP_METHOD_COUNT && !span_is(method, method_names[found])) {
        found++;
    }
    if (found == HTTP_METHOD_COUNT) {
        return bad(parser, "Unsupported HTTP method.");
    }
    if (!is_path(path)) {
        return bad(parser, "The path is empty, not absolute, or not printable.");
    }
    if (path.size > HTTP_PATH_SIZE_MAX) {
        return bad(parser, "The path is too long.");
    }
    if (!span_is(line, "HTTP/1.1") && !span_is(line, "HTTP/1.0")) {
        return bad(parser, "Unsupported HTTP version.");
    }
    request->method = (enum http_method)found;
    request->minor_version = line.data[line.size - 1] == '1' ? 1 : 0;
    memcpy(request->path, path.data, path.size);
    request->path[path.size] = '\0';
    request->body_size = 0;
    request->body[0] = '\0';
    parser->state = HTTP_STATE_HEADERS;
    ASSERT(strlen(request->path) == path.size);
    return HTTP_EVENT_MORE;
}

/* ---- Headers ---------------------------------------------------------------------------------- */

static enum http_event take_length(struct http_parser *parser, struct span value) {
    size_t length = 0;
    ASSERT(parser->state == HTTP_STATE_HEADERS);
    if (value.size == 0 || value.size > LENGTH_DIGITS_MAX) {
        return bad(parser, "Content-Length is no number, or too large.");
    }
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] < '0' || value.data[i] > '9') {
            return bad(parser, "Content-Length is no number.");
        }
        length = length * 10 + (size_t)(value.data[i] - '0');
    }
    if (length > HTTP_BODY_SIZE_MAX) {
        return bad(parser, "The body is longer than this server takes.");
    }
    if (parser->has_length && parser->length != length) {
        return bad(parser, "There are two different Content-Lengths.");
    }
    parser->has_length = true;
    parser->length = length;
    ASSERT(parser->length <= HTTP_BODY_SIZE_MAX);
    return HTTP_EVENT_MORE;
}

static bool is_token(struct span name) {
    static const char others[] = "!#$%&'*+-.^_`|~"; /* RFC 9110, section 5.6.2 */
    ASSERT(name.data);
    for (size_t i = 0; i < name.size; i++) {
        char c = name.data[i];
        bool good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    memchr(others, c, sizeof(others) - 1);
        if (!good) {
            return false;
        }
    }
    ASSERT(name.size <= HTTP_LINE_SIZE_MAX);
    return name.size > 0;
}

static enum http_event take_header(struct http_parser *parser, struct span line) {
    struct span name;
    ASSERT(parser->state == HTTP_STATE_HEADERS);
    ASSERT(line.size > 0);
    if (++parser->header_count > HTTP_HEADER_COUNT_MAX) {
        return bad(parser, "There are too many headers.");
    }
    if (!span_split(&line, ':', &name) || !is_token(name)) {
        return bad(parser, "A header is not a name, a colon and a value.");
    }
    struct span value = span_trim(line);
    if (span_is_nocase(name, "Content-Length")) {
        return take_length(parser, value);
    }
    if (span_is_nocase(name, "Transfer-Encoding")) {
        return bad(parser, "Transfer-Encoding is not supported: send a Content-Length.");
    }
    if (span_is_nocase(name, "Expect") && span_is_nocase(value, "100-continue")) {
        parser->expects_continue = true;
    }
    return HTTP_EVENT_MORE;
}

static enum http_event end_headers(struct http_parser *parser) {
    ASSERT(parser->state == HTTP_STATE_HEADERS);
    ASSERT(parser->length <= HTTP_BODY_SIZE_MAX);
    if (parser->length == 0) {
        start_request(parser);
        return HTTP_EVENT_REQUEST;
    }
    parser->state = HTTP_STATE_BODY;
    return parser->expects_continue ? HTTP_EVENT_CONTINUE : HTTP_EVENT_MORE;
}

/* ---- Feeding ---------------------------------------------------------------------------------- */

static bool has_control_characters(struct span line) {
    ASSERT(line.data);
    ASSERT(line.size <= HTTP_LINE_SIZE_MAX);
    for (size_t i = 0; i < line.size; i++) {
        unsigned char c = (unsigned char)line.data[i];
        if ((c < ' ' && c != '\t') || c > '~') {
            return true;
        }
    }
    return false;
}

static enum http_event take_line(struct http_parser *parser) {
    ASSERT(parser->line_size > 0);
    ASSERT(parser->line[parser->line_size - 1] == '\n');
    size_t size = parser->line_size;
    parser->line_size = 0;
    if (size < 2 || parser->line[size - 2] != '\r') {
        return bad(parser, "A line does not end with CR LF.");
    }
    const struct span line = {.data = parser->line, .size = size - 2};
    if (has_control_characters(line)) {
        return bad(parser, "A line has bytes that are no printable ASCII.");
    }
    if (parser->state == HTTP_STATE_LINE) {
        return take_request_line(parser, line);
    }
    return line.size == 0 ? end_headers(parser) : take_header(parser, line);
}

/* Up to the end of a line. */
static enum http_event feed_line(struct http_parser *parser, struct span data, size_t *ret_taken) {
    ASSERT(data.size > 0);
    ASSERT(parser->line_size < HTTP_LINE_SIZE_MAX);
    const char *end = memchr(data.data, '\n', data.size);
    size_t size = end ? (size_t)(end - data.data) + 1 : data.size;
    size_t room = HTTP_LINE_SIZE_MAX - parser->line_size;
    size_t taken = size < room ? size : room;
    memcpy(parser->line + parser->line_size, data.data, taken);
    parser->line_size += taken;
    *ret_taken = taken;
    if (end && taken == size) {
        return take_line(parser);
    }
    if (parser->line_size == HTTP_LINE_SIZE_MAX) {
        return bad(parser, "A line is too long.");
    }
    return HTTP_EVENT_MORE;
}

static enum http_event feed_body(struct http_parser *parser, struct span data, size_t *ret_taken) {
    struct http_request *request = &parser->request;
    ASSERT(request->body_size < parser->length);
    ASSERT(parser->length <= HTTP_BODY_SIZE_MAX);
    size_t missing = parser->length - request->body_size;
    size_t taken = data.size < missing ? data.size : missing;
    memcpy(request->body + request->body_size, data.data, taken);
    request->body_size += taken;
    request->body[request->body_size] = '\0';
    *ret_taken = taken;
    if (request->body_size < parser->length) {
        return HTTP_EVENT_MORE;
    }
    start_request(parser);
    return HTTP_EVENT_REQUEST;
}

enum http_event http_parser_feed(struct http_parser *parser, const void *data, size_t size,
                                 size_t *ret_taken) {
    enum http_event event = HTTP_EVENT_MORE;
    size_t used = 0;
    ASSERT(parser);
    ASSERT(data || size == 0);
    if (parser->state == HTTP_STATE_BAD) {
        *ret_taken = 0;
        return HTTP_EVENT_BAD;
    }
    while (used < size && event == HTTP_EVENT_MORE) {
        const struct span rest = {.data = (const char *)data + used, .size = size - used};
        size_t taken = 0;
        event = parser->state == HTTP_STATE_BODY ? feed_body(parser, rest, &taken)
                                                 : feed_line(parser, rest, &taken);
        ASSERT(taken > 0 && taken <= rest.size);
        used += taken;
    }
    *ret_taken = used;
    return event;
}

/* ---- Responses -------------------------------------------------------------------------------- */

enum kelpie_status http_response_encode(const struct http_response *response, char *buffer,
                                        size_t capacity, size_t *ret_size,
                                        struct kelpie_error *err) {
    char length[64] = "";
    ASSERT(response->status >= 100 && response->status <= 599);
    bool bodiless = response->status == 100 || response->status == 204;
    ASSERT(!bodiless || !response->body);
    ASSERT(response->body || response->body_size == 0);
    if (!bodiless) {
        snprintf(length, sizeof(length),
                 "Content-Type: application/json\r\nContent-Length: %zu\r\n", response->body_size);
    }
    char head[HTTP_HEAD_SIZE_MAX];
    int head_size =
        snprintf(head, sizeof(head),
                 "HTTP/1.1 %u \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n%s%s\r\n",
                 response->status, response->deprecated ? "Deprecation: true\r\n" : "", length);
    ASSERT(head_size > 0 && (size_t)head_size < sizeof(head));
    if (capacity < (size_t)head_size || capacity - (size_t)head_size < response->body_size) {
        return error_set(err, KELPIE_NO_SPACE, "an HTTP response does not fit into %zu bytes",
                         capacity);
    }
    memcpy(buffer, head, (size_t)head_size);
    if (response->body_size > 0) {
        memcpy(buffer + head_size, response->body, response->body_size);
    }
    *ret_size = (size_t)head_size + response->body_size;
    return KELPIE_OK;
}
