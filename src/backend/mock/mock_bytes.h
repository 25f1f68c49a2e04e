/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Growing byte buffers and lists of strings for the simulated guest. A buffer that cannot grow (no
 * memory, or its limit) stays as it is and says `failed` from then on, so that its owner checks once.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_BYTES_H
#define KELPIE_BACKEND_MOCK_MOCK_BYTES_H

#include "backend/mock/mock_limits.h"
#include "host/host.h"

struct mock_bytes {
    struct host *host;
    uint8_t *data;
    size_t size;
    size_t capacity;
    bool failed;
};

/* What always holds. */
void mock_bytes_check(const struct mock_bytes *bytes);

struct mock_bytes mock_bytes_init(struct host *host);
void mock_bytes_deinit(struct mock_bytes *bytes); /* empty afterwards, and usable again */
bool mock_bytes_append(struct mock_bytes *bytes, const void *data, size_t size);
bool mock_bytes_append_byte(struct mock_bytes *bytes, char byte);
bool mock_bytes_print(struct mock_bytes *bytes, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void mock_bytes_drop(struct mock_bytes *bytes, size_t size); /* at the front */

/* Strings one behind the other, each with its zero. */
struct mock_strings {
    struct mock_bytes bytes;
    uint32_t count;
};

void mock_strings_check(const struct mock_strings *strings);
struct mock_strings mock_strings_init(struct host *host);
void mock_strings_deinit(struct mock_strings *strings);
bool mock_strings_add(struct mock_strings *strings, const char *text);
bool mock_strings_copy(struct mock_strings *strings, const struct mock_strings *source);

/* The string of that index, or NULL. */
const char *mock_strings_at(const struct mock_strings *strings, uint32_t index);

/* The next one, or NULL behind the last: start with *cursor = 0. */
const char *mock_strings_next(const struct mock_strings *strings, size_t *cursor);

/* For lists of "NAME=value": the value, or NULL; sets "NAME=value" in place of the old one; removes. */
const char *mock_strings_value(const struct mock_strings *strings, const char *name,
                               size_t name_size);
bool mock_strings_put(struct mock_strings *strings, const char *variable);
void mock_strings_remove(struct mock_strings *strings, const char *name, size_t name_size);

/* A whole decimal number that fits, and nothing else. */
bool mock_number_parse(const char *text, int64_t *ret_number);

/* Seconds with an optional fraction, such as "0.25", in nanoseconds. */
bool mock_seconds_parse(const char *text, uint64_t *ret_ns);

#endif
