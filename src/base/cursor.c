/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/cursor.h"

#include <string.h>

#include "base/assert.h"

struct cursor_reader cursor_reader_init(const void *data, size_t size) {
    ASSERT(data || size == 0);
    /* Nothing to read still lies somewhere, so that a place in it can be computed. */
    struct cursor_reader reader = {.data = data ? data : (const uint8_t *)"", .size = size};
    ASSERT(reader.data);
    return reader;
}

const uint8_t *cursor_read_bytes(struct cursor_reader *reader, size_t size) {
    ASSERT(reader);
    ASSERT(reader->offset <= reader->size);
    if (reader->failed || size > reader->size - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *bytes = reader->data + reader->offset;
    reader->offset += size;
    ASSERT(reader->offset <= reader->size);
    return bytes;
}

static uint64_t read_little_endian(struct cursor_reader *reader, size_t size) {
    ASSERT(size >= 1);
    ASSERT(size <= sizeof(uint64_t));
    const uint8_t *bytes = cursor_read_bytes(reader, size);
    ASSERT(bytes || reader->failed);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < size; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

uint8_t cursor_read_u8(struct cursor_reader *reader) {
    ASSERT(reader);
    return (uint8_t)read_little_endian(reader, 1);
}

uint16_t cursor_read_u16(struct cursor_reader *reader) {
    ASSERT(reader);
    return (uint16_t)read_little_endian(reader, 2);
}

uint32_t cursor_read_u32(struct cursor_reader *reader) {
    ASSERT(reader);
    return (uint32_t)read_little_endian(reader, 4);
}

uint64_t cursor_read_u64(struct cursor_reader *reader) {
    ASSERT(reader);
    return read_little_endian(reader, 8);
}

const char *cursor_read_string(struct cursor_reader *reader, size_t size_max) {
    ASSERT(reader);
    ASSERT(reader->offset <= reader->size);
    size_t left = cursor_reader_left(reader);
    if (left == 0) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *start = reader->data + reader->offset;
    const uint8_t *end = memchr(start, 0, left <= size_max ? left : size_max + 1);
    if (!end) {
        reader->failed = true;
        return NULL;
    }
    reader->offset += (size_t)(end - start) + 1;
    ASSERT(reader->offset <= reader->size);
    return (const char *)start;
}

size_t cursor_reader_left(const struct cursor_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->offset <= reader->size);
    ASSERT(reader->data);
    return reader->failed ? 0 : reader->size - reader->offset;
}

bool cursor_reader_finished(const struct cursor_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->offset <= reader->size);
    ASSERT(reader->data);
    return !reader->failed && reader->offset == reader->size;
}

struct cursor_writer cursor_writer_init(void *data, size_t capacity) {
    ASSERT(data || capacity == 0);
    return (struct cursor_writer){.data = data, .capacity = capacity};
}

void cursor_write_bytes(struct cursor_writer *writer, const void *data, size_t size) {
    ASSERT(writer);
    ASSERT(writer->size <= writer->capacity);
    ASSERT(data || size == 0);
    if (writer->failed || size > writer->capacity - writer->size) {
        writer->failed = true;
        return;
    }
    if (size > 0) {
        memcpy(writer->data + writer->size, data, size);
        writer->size += size;
        ASSERT(writer->size <= writer->capacity);
    }
}

static void write_little_endian(struct cursor_writer *writer, uint64_t value, size_t size) {
    ASSERT(size >= 1);
    ASSERT(size <= sizeof(value));
    uint8_t bytes[sizeof(value)];
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    size_t size_before = writer->size;
    cursor_write_bytes(writer, bytes, size);
    ASSERT(writer->failed || writer->size == size_before + size);
}

void cursor_write_u8(struct cursor_writer *writer, uint8_t value) {
    ASSERT(writer);
    write_little_endian(writer, value, 1);
}

void cursor_write_u16(struct cursor_writer *writer, uint16_t value) {
    ASSERT(writer);
    write_little_endian(writer, value, 2);
}

void cursor_write_u32(struct cursor_writer *writer, uint32_t value) {
    ASSERT(writer);
    write_little_endian(writer, value, 4);
}

void cursor_write_u64(struct cursor_writer *writer, uint64_t value) {
    ASSERT(writer);
    write_little_endian(writer, value, 8);
}

void cursor_write_string(struct cursor_writer *writer, const char *text) {
    ASSERT(writer);
    ASSERT(text);
    cursor_write_bytes(writer, text, strlen(text) + 1);
}
