/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kernel_header.c: the setup header of a bzImage. Offsets and meanings are those of the Linux documentation, "The
 * Linux/x86 Boot Protocol", section "Details of Header Fields". The image is untrusted: nothing is
 * followed that was not checked to lie within it, and the release becomes part of a path only when
 * every character of it is harmless.
 */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/cursor.h"

#define HEADER_END 0x250 /* behind payload_length */
#define SECTOR_SIZE 512
#define SETUP_SECTS_DEFAULT 4
#define BOOT_FLAG 0xaa55
#define HEADER_MAGIC 0x53726448 /* "HdrS" */
#define VERSION_MIN 0x0206      /* 2.6.22: cmdline_size; syssize has 32 bits from 2.04 on */
#define VERSION_PAYLOAD 0x0208  /* 2.6.26: where the packed kernel is */
#define PAYLOAD_SIZE_MIN 64     /* an ELF header; none is packed into less */
#define LOADED_HIGH 0x01
#define SYSSIZE_UNIT 16

/* A field at its documented offset. The caller checked that the header is there. */
static uint32_t header_field(const uint8_t *data, size_t offset, size_t width) {
    ASSERT(offset + width <= HEADER_END);
    ASSERT(width <= sizeof(uint32_t));
    uint32_t value = 0;
    for (size_t i = 0; i < width; i++) {
        value |= (uint32_t)data[offset + i] << (8 * i);
    }
    return value;
}

static enum kelpie_status header_wrong(struct kelpie_error *err, const char *why) {
    ASSERT(why);
    ASSERT(why[0] != '\0');
    return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "this is no usable bzImage: %s", why);
}

static bool release_is_harmless(const char *release, size_t size) {
    static const char valid[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "+.-_~";
    ASSERT(size <= IMAGE_RELEASE_SIZE_MAX);
    ASSERT(release);
    for (size_t i = 0; i < size; i++) {
        if (release[i] == '\0' || !strchr(valid, release[i])) {
            return false;
        }
    }
    return size > 0 && release[0] != '.';
}

/* kernel_version: the offset, less 0x200, of a zero-terminated text that begins with the release. */
static enum kelpie_status parse_release(const uint8_t *data, size_t size, size_t setup_size,
                                        char ret_release[IMAGE_RELEASE_SIZE_MAX + 1],
                                        struct kelpie_error *err) {
    ASSERT(size >= HEADER_END);
    ASSERT(ret_release);
    size_t offset = header_field(data, 0x20e, 2);
    if (offset == 0) {
        return header_wrong(err, "it does not say its version");
    }
    offset += 0x200;
    size_t end = setup_size < size ? setup_size : size;
    if (offset >= end) {
        return header_wrong(err, "its version lies outside its setup part");
    }
    const char *text = (const char *)data + offset;
    size_t room = end - offset;
    size_t length = strnlen(text, room);
    if (length == room) {
        return header_wrong(err, "its version has no end");
    }
    length = strcspn(text, " ");
    if (length > IMAGE_RELEASE_SIZE_MAX || !release_is_harmless(text, length)) {
        return header_wrong(err, "its version is too long or has characters that none has");
    }
    memcpy(ret_release, text, length);
    ret_release[length] = '\0';
    return KELPIE_OK;
}

enum kelpie_status image_kernel_header_parse(const void *data, size_t size, uint64_t file_size,
                                             char ret_release[IMAGE_RELEASE_SIZE_MAX + 1],
                                             struct kelpie_error *err) {
    ASSERT(data || size == 0);
    ASSERT(size <= file_size);
    const uint8_t *bytes = data;
    if (size < HEADER_END) {
        return header_wrong(err, "it is shorter than a setup header");
    }
    if (header_field(bytes, 0x1fe, 2) != BOOT_FLAG ||
        header_field(bytes, 0x202, 4) != HEADER_MAGIC) {
        return header_wrong(err, "the marks 0xaa55 at 0x1fe and HdrS at 0x202 are missing");
    }
    if (header_field(bytes, 0x206, 2) < VERSION_MIN) {
        return header_wrong(err, "its boot protocol is older than 2.06");
    }
    if (!(header_field(bytes, 0x211, 1) & LOADED_HIGH)) {
        return header_wrong(err, "it is a zImage");
    }
    uint64_t sectors = header_field(bytes, 0x1f1, 1);
    uint64_t setup_size = ((sectors ? sectors : SETUP_SECTS_DEFAULT) + 1) * SECTOR_SIZE;
    uint64_t system_size = (uint64_t)header_field(bytes, 0x1f4, 4) * SYSSIZE_UNIT;
    if (system_size == 0 || setup_size + system_size > file_size) {
        return header_wrong(err, "it is cut off: its header tells of more bytes than it has");
    }
    return parse_release(bytes, size, (size_t)setup_size, ret_release, err);
}

bool image_kernel_payload(const void *data, size_t size, uint64_t file_size, uint64_t *ret_offset,
                          uint64_t *ret_length) {
    const uint8_t *bytes = data;
    ASSERT(data || size == 0);
    ASSERT(ret_offset && ret_length);
    if (size < HEADER_END || header_field(bytes, 0x206, 2) < VERSION_PAYLOAD) {
        return false;
    }
    uint64_t sectors = header_field(bytes, 0x1f1, 1);
    uint64_t setup_size = ((sectors ? sectors : SETUP_SECTS_DEFAULT) + 1) * SECTOR_SIZE;
    uint64_t offset = setup_size + header_field(bytes, 0x248, 4);
    uint64_t length = header_field(bytes, 0x24c, 4);
    if (length < PAYLOAD_SIZE_MIN || length > file_size || offset > file_size - length) {
        return false;
    }
    *ret_offset = offset;
    *ret_length = length;
    return true;
}
