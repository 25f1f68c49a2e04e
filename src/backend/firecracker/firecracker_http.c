/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_http.h"

#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/checked.h"

#define LENGTH_DIGITS_MAX 6     /* no body is that long; and it fits any integer */
#define STATUS_LINE_SIZE_MIN 13 /* "HTTP/1.1 204 ": what stands behind is a reason for people */

static void check(const struct firecracker_http *http) {
    ASSERT(http->line_size <= FIRECRACKER_LINE_SIZE_MAX);
    ASSERT(http->body_size <= FIRECRACKER_BODY_SIZE_MAX);
}

static enum firecracker_http_result bad(struct firecracker_http *http, const char *reason) {
    check(http);
    ASSERT(reason);
    http->state = FIRECRACKER_HTTP_BROKEN;
    http->reason = reason;
    return FIRECRACKER_HTTP_BAD;
}

void firecracker_http_init(struct firecracker_http *http) {
    ASSERT(http);
    memset(http, 0, sizeof(*http));
    static_assert(FIRECRACKER_HTTP_STATUS == 0, "a response begins with its status");
    check(http);
}

/* The next response's turn; status and body of this one stay. */
static enum firecracker_http_result whole(struct firecracker_http *http) {
    check(http);
    ASSERT(http->body_size == http->length);
    http->state = FIRECRACKER_HTTP_STATUS;
    http->body[http->body_size] = '\0';
    http->line_size = 0;
    return FIRECRACKER_HTTP_RESPONSE;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static enum firecracker_http_result take_status(struct firecracker_http *http, const char *line,
                                                size_t size) {
    static const char version[] = "HTTP/1.1 ";
    const char *digits = line + sizeof(version) - 1;
    check(http);
    ASSERT(http->state == FIRECRACKER_HTTP_STATUS);
    if (size < STATUS_LINE_SIZE_MIN || memcmp(line, version, sizeof(version) - 1) != 0 ||
        !is_digit(digits[0]) || !is_digit(digits[1]) || !is_digit(digits[2]) || digits[3] != ' ') {
        return bad(http, "the status line is none");
    }
    http->status = (unsigned)((digits[0] - '0') * 100 + (digits[1] - '0') * 10 + digits[2] - '0');
    if (http->status < 200 || http->status > 599) {
        return bad(http, "the status is none that ends a request");
    }
    http->state = FIRECRACKER_HTTP_HEADERS;
    http->header_count = 0;
    http->has_length = false;
    http->length = 0;
    http->body_size = 0;
    return FIRECRACKER_HTTP_MORE;
}

static enum firecracker_http_result take_length(struct firecracker_http *http, const char *value,
                                                size_t size) {
    size_t length = 0;
    check(http);
    ASSERT(value);
    if (http->has_length || size == 0 || size > LENGTH_DIGITS_MAX) {
        return bad(http, "its Content-Length comes twice, or is no length");
    }
    for (size_t i = 0; i < size; i++) {
        if (!is_digit(value[i])) {
            return bad(http, "its Content-Length is no number");
        }
        length = length * 10 + (size_t)(value[i] - '0');
    }
    if (length > FIRECRACKER_BODY_SIZE_MAX) {
        return bad(http, "its body is longer than any answer");
    }
    http->has_length = true;
    http->length = length;
    return FIRECRACKER_HTTP_MORE;
}

/* The size of a header's name: letters, digits and '-', as far as Firecracker's go. 0: this is no header. */
static size_t name_size(const char *line, size_t size) {
    size_t count = 0;
    ASSERT(line);
    while (count < size && (is_digit(line[count]) || line[count] == '-' ||
                            ((line[count] | 0x20) >= 'a' && (line[count] | 0x20) <= 'z'))) {
        count++;
    }
    ASSERT(count <= size);
    return count < size && line[count] == ':' ? count : 0;
}

static bool name_is(const char *line, size_t size, const char *name) {
    ASSERT(line && name);
    ASSERT(size > 0);
    return size == strlen(name) && strncasecmp(line, name, size) == 0;
}

static enum firecracker_http_result take_header(struct firecracker_http *http, const char *line,
                                                size_t size) {
    check(http);
    ASSERT(http->state == FIRECRACKER_HTTP_HEADERS);
    size_t named = name_size(line, size);
    if (named == 0 || ++http->header_count > FIRECRACKER_HEADER_COUNT_MAX) {
        return bad(http, "a header is none, or one too many");
    }
    const char *value = line + named + 1;
    size_t value_size = size - named - 1;
    while (value_size > 0 && value[0] == ' ') {
        value++;
        value_size--;
    }
    while (value_size > 0 && value[value_size - 1] == ' ') {
        value_size--;
    }
    if (name_is(line, named, "Transfer-Encoding")) {
        return bad(http, "its body has no known length");
    }
    return name_is(line, named, "Content-Length") ? take_length(http, value, value_size)
                                                  : FIRECRACKER_HTTP_MORE;
}

static enum firecracker_http_result end_headers(struct firecracker_http *http) {
    check(http);
    ASSERT(http->body_size == 0);
    bool bodiless = http->status == 204;
    if (bodiless ? http->length > 0 : !http->has_length) {
        return bad(http, "it has no length, or a body where there is none");
    }
    http->state = FIRECRACKER_HTTP_BODY;
    return http->length == 0 ? whole(http) : FIRECRACKER_HTTP_MORE;
}

static bool is_printable(const char *line, size_t size) {
    ASSERT(line);
    ASSERT(size <= FIRECRACKER_LINE_SIZE_MAX);
    for (size_t i = 0; i < size; i++) {
        if (line[i] < ' ' || line[i] > '~') {
            return false;
        }
    }
    return true;
}

static enum firecracker_http_result take_line(struct firecracker_http *http) {
    size_t size = http->line_size;
    check(http);
    ASSERT(size > 0 && http->line[size - 1] == '\n');
    http->line_size = 0;
    if (size < 2 || http->line[size - 2] != '\r' || !is_printable(http->line, size - 2)) {
        return bad(http, "a line is not of printable characters with CR LF behind");
    }
    if (http->state == FIRECRACKER_HTTP_STATUS) {
        return take_status(http, http->line, size - 2);
    }
    return size == 2 ? end_headers(http) : take_header(http, http->line, size - 2);
}

/* Up to the end of a line. */
static enum firecracker_http_result feed_line(struct firecracker_http *http, const char *data,
                                              size_t size, size_t *ret_taken) {
    check(http);
    ASSERT(size > 0);
    const char *end = memchr(data, '\n', size);
    size_t wanted = end ? (size_t)(end - data) + 1 : size;
    if (wanted > FIRECRACKER_LINE_SIZE_MAX - http->line_size) {
        return bad(http, "a line is too long");
    }
    memcpy(http->line + http->line_size, data, wanted);
    http->line_size += wanted;
    *ret_taken = wanted;
    return end ? take_line(http) : FIRECRACKER_HTTP_MORE;
}

static enum firecracker_http_result feed_body(struct firecracker_http *http, const char *data,
                                              size_t size, size_t *ret_taken) {
    check(http);
    ASSERT(http->body_size < http->length);
    size_t taken = min_size(size, http->length - http->body_size);
    memcpy(http->body + http->body_size, data, taken);
    http->body_size += taken;
    *ret_taken = taken;
    return http->body_size == http->length ? whole(http) : FIRECRACKER_HTTP_MORE;
}

enum firecracker_http_result firecracker_http_feed(struct firecracker_http *http, const char *data,
                                                   size_t size, size_t *ret_taken) {
    enum firecracker_http_result result = FIRECRACKER_HTTP_MORE;
    size_t used = 0;
    check(http);
    ASSERT(data || size == 0);
    while (used < size && result == FIRECRACKER_HTTP_MORE) {
        size_t taken = 0;
        if (http->state == FIRECRACKER_HTTP_BROKEN) {
            result = FIRECRACKER_HTTP_BAD;
        } else if (http->state == FIRECRACKER_HTTP_BODY) {
            result = feed_body(http, data + used, size - used, &taken);
        } else {
            result = feed_line(http, data + used, size - used, &taken);
        }
        ASSERT(taken <= size - used);
        used += taken;
    }
    *ret_taken = used;
    return result;
}
