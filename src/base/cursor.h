/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Byte cursors: bounded little-endian reading and writing. An overrun sets `failed` once and for
 * all; later calls read zeros or write nothing, so that a decoder checks once, at its end:
 *
 *     struct cursor_reader reader = cursor_reader_init(bytes, size);
 *     uint32_t count = cursor_read_u32(&reader);
 *     const uint8_t *name = cursor_read_bytes(&reader, 16);
 *     if (!cursor_reader_finished(&reader)) { malformed }
 */
#ifndef KELPIE_BASE_CURSOR_H
#define KELPIE_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor_reader {
    const uint8_t *data;
    size_t size;
    size_t offset;
    bool failed;
};

struct cursor_reader cursor_reader_init(const void *data, size_t size);
uint8_t cursor_read_u8(struct cursor_reader *reader);
uint16_t cursor_read_u16(struct cursor_reader *reader);
uint32_t cursor_read_u32(struct cursor_reader *reader);
uint64_t cursor_read_u64(struct cursor_reader *reader);

/* `size` bytes in place, or NULL (and failed) when there are not so many. */
const uint8_t *cursor_read_bytes(struct cursor_reader *reader, size_t size);

/* A zero-terminated string in place, of at most size_max bytes without the zero; NULL and failed
 * when no zero comes so soon. */
const char *cursor_read_string(struct cursor_reader *reader, size_t size_max);

size_t cursor_reader_left(const struct cursor_reader *reader);

/* True when every byte was read and none was missing. */
bool cursor_reader_finished(const struct cursor_reader *reader);

struct cursor_writer {
    uint8_t *data;
    size_t capacity;
    size_t size; /* bytes written so far */
    bool failed; /* something did not fit */
};

struct cursor_writer cursor_writer_init(void *data, size_t capacity);
void cursor_write_u8(struct cursor_writer *writer, uint8_t value);
void cursor_write_u16(struct cursor_writer *writer, uint16_t value);
void cursor_write_u32(struct cursor_writer *writer, uint32_t value);
void cursor_write_u64(struct cursor_writer *writer, uint64_t value);

/* `data` may be NULL when size is 0. */
void cursor_write_bytes(struct cursor_writer *writer, const void *data, size_t size);

/* The string and its zero. */
void cursor_write_string(struct cursor_writer *writer, const char *text);

#endif
