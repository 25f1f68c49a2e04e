/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_bytes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define BYTES_CAPACITY_MIN 64

void mock_bytes_check(const struct mock_bytes *bytes) {
    ASSERT(bytes);
    ASSERT(bytes->host);
    ASSERT(bytes->size <= bytes->capacity);
    ASSERT(bytes->data || bytes->capacity == 0);
}

struct mock_bytes mock_bytes_init(struct host *host) {
    ASSERT(host);
    return (struct mock_bytes){.host = host};
}

void mock_bytes_deinit(struct mock_bytes *bytes) {
    mock_bytes_check(bytes);
    free(bytes->data);
    *bytes = (struct mock_bytes){.host = bytes->host};
}

static bool bytes_grow(struct mock_bytes *bytes, size_t needed) {
    mock_bytes_check(bytes);
    ASSERT(needed > bytes->capacity);
    size_t capacity = bytes->capacity > 0 ? bytes->capacity : BYTES_CAPACITY_MIN;
    while (capacity < needed && capacity <= MOCK_BYTES_SIZE_MAX) {
        capacity *= 2;
    }
    uint8_t *data =
        needed > MOCK_BYTES_SIZE_MAX ? NULL : host_allocate(bytes->host, capacity, NULL);
    if (!data) {
        bytes->failed = true;
        return false;
    }
    if (bytes->size > 0) {
        memcpy(data, bytes->data, bytes->size);
    }
    free(bytes->data);
    bytes->data = data;
    bytes->capacity = capacity;
    return true;
}

bool mock_bytes_append(struct mock_bytes *bytes, const void *data, size_t size) {
    mock_bytes_check(bytes);
    ASSERT(data || size == 0);
    ASSERT(bytes->size <= bytes->capacity);
    size_t needed = 0;
    if (bytes->failed || !checked_add_size(bytes->size, size, &needed)) {
        bytes->failed = true;
        return false;
    }
    if (needed > bytes->capacity && !bytes_grow(bytes, needed)) {
        return false;
    }
    if (size > 0) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size = needed;
    }
    return true;
}

bool mock_bytes_append_byte(struct mock_bytes *bytes, char byte) {
    mock_bytes_check(bytes);
    return mock_bytes_append(bytes, &byte, 1);
}

bool mock_bytes_print(struct mock_bytes *bytes, const char *format, ...) {
    mock_bytes_check(bytes);
    ASSERT(format);
    char text[MOCK_PRINT_SIZE_MAX];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ASSERT(size >= 0);
    return mock_bytes_append(bytes, text, min_size((size_t)size, sizeof(text) - 1));
}

void mock_bytes_drop(struct mock_bytes *bytes, size_t size) {
    mock_bytes_check(bytes);
    ASSERT(size <= bytes->size);
    if (size == bytes->size) {
        bytes->size = 0;
        return;
    }
    memmove(bytes->data, bytes->data + size, bytes->size - size);
    bytes->size -= size;
}

void mock_strings_check(const struct mock_strings *strings) {
    ASSERT(strings);
    ASSERT(strings->count <= strings->bytes.size);
    ASSERT(strings->bytes.size <= strings->bytes.capacity);
}

struct mock_strings mock_strings_init(struct host *host) {
    ASSERT(host);
    return (struct mock_strings){.bytes = mock_bytes_init(host)};
}

void mock_strings_deinit(struct mock_strings *strings) {
    ASSERT(strings);
    mock_strings_check(strings);
    mock_bytes_deinit(&strings->bytes);
    strings->count = 0;
}

bool mock_strings_add(struct mock_strings *strings, const char *text) {
    ASSERT(strings);
    mock_strings_check(strings);
    ASSERT(text);
    if (!mock_bytes_append(&strings->bytes, text, strlen(text) + 1)) {
        return false;
    }
    strings->count++;
    return true;
}

bool mock_strings_copy(struct mock_strings *strings, const struct mock_strings *source) {
    ASSERT(strings);
    mock_strings_check(strings);
    mock_strings_check(source);
    ASSERT(strings->count == 0);
    if (!mock_bytes_append(&strings->bytes, source->bytes.data, source->bytes.size)) {
        return false;
    }
    strings->count = source->count;
    return true;
}

const char *mock_strings_next(const struct mock_strings *strings, size_t *cursor) {
    ASSERT(strings);
    mock_strings_check(strings);
    ASSERT(cursor);
    ASSERT(*cursor <= strings->bytes.size);
    if (*cursor == strings->bytes.size) {
        return NULL;
    }
    const char *text = (const char *)strings->bytes.data + *cursor;
    *cursor += strlen(text) + 1;
    ASSERT(*cursor <= strings->bytes.size);
    return text;
}

const char *mock_strings_at(const struct mock_strings *strings, uint32_t index) {
    mock_strings_check(strings);
    size_t cursor = 0;
    const char *text = mock_strings_next(strings, &cursor);
    for (uint32_t i = 0; text && i < index; i++) {
        text = mock_strings_next(strings, &cursor);
    }
    return text;
}

const char *mock_strings_value(const struct mock_strings *strings, const char *name,
                               size_t name_size) {
    mock_strings_check(strings);
    ASSERT(name);
    size_t cursor = 0;
    const char *text = mock_strings_next(strings, &cursor);
    while (text) {
        if (strncmp(text, name, name_size) == 0 && text[name_size] == '=') {
            return text + name_size + 1;
        }
        text = mock_strings_next(strings, &cursor);
    }
    return NULL;
}

void mock_strings_remove(struct mock_strings *strings, const char *name, size_t name_size) {
    ASSERT(strings);
    mock_strings_check(strings);
    ASSERT(name);
    const char *value = mock_strings_value(strings, name, name_size);
    if (!value) {
        return;
    }
    ASSERT(strings->count > 0);
    size_t start = (size_t)((const uint8_t *)value - strings->bytes.data) - name_size - 1;
    size_t end = start + name_size + 1 + strlen(value) + 1;
    ASSERT(end <= strings->bytes.size);
    memmove(strings->bytes.data + start, strings->bytes.data + end, strings->bytes.size - end);
    strings->bytes.size -= end - start;
    strings->count--;
}

bool mock_strings_put(struct mock_strings *strings, const char *variable) {
    mock_strings_check(strings);
    ASSERT(variable);
    const char *equals = strchr(variable, '=');
    ASSERT(equals);
    mock_strings_remove(strings, variable, (size_t)(equals - variable));
    return mock_strings_add(strings, variable);
}

bool mock_number_parse(const char *text, int64_t *ret_number) {
    ASSERT(ret_number);
    ASSERT(text);
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == ' ') {
        return false;
    }
    *ret_number = number;
    return true;
}

bool mock_seconds_parse(const char *text, uint64_t *ret_ns) {
    ASSERT(ret_ns);
    ASSERT(text);
    char *end = NULL;
    errno = 0;
    double seconds = strtod(text, &end);
    bool plain = strspn(text, "0123456789.") == strlen(text);
    if (errno != 0 || end == text || *end != '\0' || !plain || seconds > 1e9) {
        return false;
    }
    *ret_ns = (uint64_t)(seconds * 1e9);
    return true;
}
