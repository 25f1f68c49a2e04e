/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_state_fields.h"

#include <string.h>

#include "backend/mock/mock_files.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

void mock_visitor_check(const struct mock_state_visitor *visitor) {
    ASSERT(visitor);
    ASSERT(!visitor->saves || visitor->bytes);
    ASSERT(visitor->reader.offset <= visitor->reader.size);
}

void mock_visitor_starve(struct mock_state_visitor *visitor) {
    mock_visitor_check(visitor);
    ASSERT(!visitor->saves);
    visitor->failed = true;
    visitor->no_memory = true;
}

static void put_little_endian(struct mock_state_visitor *visitor, uint64_t value, size_t size) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(visitor->saves);
    ASSERT(size <= 8);
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    mock_bytes_append(visitor->bytes, bytes, size);
}

void mock_state_u32(struct mock_state_visitor *visitor, uint32_t *value, uint32_t max) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(value);
    if (visitor->saves) {
        put_little_endian(visitor, *value, 4);
        return;
    }
    *value = cursor_read_u32(&visitor->reader);
    visitor->failed = visitor->failed || visitor->reader.failed || *value > max;
}

void mock_state_u64(struct mock_state_visitor *visitor, uint64_t *value, uint64_t max) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(value);
    if (visitor->saves) {
        put_little_endian(visitor, *value, 8);
        return;
    }
    *value = cursor_read_u64(&visitor->reader);
    visitor->failed = visitor->failed || visitor->reader.failed || *value > max;
}

void mock_state_bool(struct mock_state_visitor *visitor, bool *value) {
    mock_visitor_check(visitor);
    ASSERT(value);
    uint32_t number = *value;
    mock_state_u32(visitor, &number, 1);
    *value = number == 1;
}

void mock_state_array(struct mock_state_visitor *visitor, uint8_t *data, size_t size) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(data);
    if (visitor->saves) {
        mock_bytes_append(visitor->bytes, data, size);
        return;
    }
    const uint8_t *bytes = cursor_read_bytes(&visitor->reader, size);
    if (!bytes) {
        visitor->failed = true;
        return;
    }
    memcpy(data, bytes, size);
}

/* A size and as many bytes; NULL and failed when loading finds more than max. */
static const uint8_t *read_sized(struct mock_state_visitor *visitor, size_t max, size_t *ret_size) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(ret_size);
    uint32_t size = cursor_read_u32(&visitor->reader);
    const uint8_t *data = size <= max ? cursor_read_bytes(&visitor->reader, size) : NULL;
    if (!data) {
        visitor->failed = true;
        return NULL;
    }
    *ret_size = size;
    return data;
}

static void put_sized(struct mock_state_visitor *visitor, const void *data, size_t size) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(size <= UINT32_MAX);
    put_little_endian(visitor, size, 4);
    mock_bytes_append(visitor->bytes, data, size);
}

void mock_state_chars(struct mock_state_visitor *visitor, char *text, size_t capacity) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(text);
    ASSERT(capacity > 0);
    if (visitor->saves) {
        put_sized(visitor, text, strlen(text));
        return;
    }
    size_t size = 0;
    const uint8_t *data = read_sized(visitor, capacity - 1, &size);
    if (!data || memchr(data, 0, size)) {
        visitor->failed = true;
        return;
    }
    memcpy(text, data, size);
    text[size] = '\0';
}

void mock_state_path(struct mock_state_visitor *visitor, char **path, bool required) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    char text[MOCK_PATH_SIZE_MAX + 1] = "";
    char resolved[MOCK_PATH_SIZE_MAX + 1];
    if (visitor->saves) {
        put_sized(visitor, *path ? *path : "", *path ? strlen(*path) : 0);
        return;
    }
    ASSERT(!*path);
    mock_state_chars(visitor, text, sizeof(text));
    bool is_missing = text[0] == '\0';
    bool is_normal = is_missing
                         ? !required
                         : mock_path_resolve("/", text, resolved) && strcmp(text, resolved) == 0;
    if (visitor->failed || !is_normal) {
        visitor->failed = true;
        return;
    }
    if (!is_missing) {
        *path = host_duplicate(visitor->host, text, NULL);
        if (!*path) {
            mock_visitor_starve(visitor);
        }
    }
}

void mock_state_blob(struct mock_state_visitor *visitor, struct mock_bytes *bytes, size_t max) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_bytes_check(bytes);
    if (visitor->saves) {
        put_sized(visitor, bytes->data, bytes->size);
        return;
    }
    ASSERT(bytes->size == 0);
    ASSERT(max <= MOCK_BYTES_SIZE_MAX);
    size_t size = 0;
    const uint8_t *data = read_sized(visitor, max, &size);
    if (data && !mock_bytes_append(bytes, data, size)) {
        mock_visitor_starve(visitor);
    }
}

void mock_state_strings(struct mock_state_visitor *visitor, struct mock_strings *strings) {
    ASSERT(visitor);
    ASSERT(strings);
    mock_visitor_check(visitor);
    mock_strings_check(strings);
    mock_state_blob(visitor, &strings->bytes, MOCK_SCRIPT_SIZE_MAX);
    if (visitor->saves) {
        return;
    }
    const struct mock_bytes *bytes = &strings->bytes;
    if (bytes->size > 0 && bytes->data[bytes->size - 1] != '\0') {
        visitor->failed = true;
        mock_strings_deinit(strings);
        return;
    }
    strings->count = 0;
    for (size_t i = 0; i < bytes->size; i++) {
        strings->count += bytes->data[i] == '\0';
    }
}

void mock_state_ring(struct mock_state_visitor *visitor, struct ring *ring) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(ring);
    if (visitor->saves) {
        put_little_endian(visitor, ring->size, 4);
        const uint8_t *data = NULL;
        size_t front = ring_front(ring, &data);
        mock_bytes_append(visitor->bytes, data, front);
        mock_bytes_append(visitor->bytes, ring->data, ring->size - front);
        return;
    }
    ASSERT(ring->size == 0);
    size_t size = 0;
    const uint8_t *data = read_sized(visitor, ring->capacity, &size);
    if (data) {
        size_t written = ring_write(ring, data, size);
        ASSERT(written == size);
    }
}
