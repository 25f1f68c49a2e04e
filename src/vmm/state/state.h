/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The monitor's state on disk: tagged, versioned, bounded sections.
 *
 *     "KLPVMM01"                                    8 bytes
 *     section*: tag u32, version u16, instance u16, payload size u32, zero u32; payload
 *     end:      tag "END\0", version 0, instance 0, payload 8: XXH3-64 of all before the section
 *
 * All numbers are little-endian. A section is found by tag and instance; its version is at most the one that the
 * reader knows; each is there at most once, and all are read: one that nobody asked for is an error. A load
 * checks every value against what the device could have (hazard B1) and then that its payload is used up.
 *
 * Writing, in a device's save:
 *     struct cursor_writer *writer = state_begin(state, STATE_TAG('S', 'E', 'R', 'L'), 1, 0);
 *     cursor_write_u8(writer, device->interrupt_enable);
 *     state_end(state);
 * Reading, in its load:
 *     struct cursor_reader reader;
 *     TRY(state_find(state, STATE_TAG('S', 'E', 'R', 'L'), 1, 0, &reader, err));
 *     device->interrupt_enable = cursor_read_u8(&reader);
 *     return state_check(&reader, <all values in range>, "serial", err);
 */
#ifndef KELPIE_VMM_STATE_STATE_H
#define KELPIE_VMM_STATE_STATE_H

#include "base/cursor.h"
#include "base/error.h"
#include "vmm/vmm_limits.h"

#define STATE_TAG(a, b, c, d)                                                                      \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

struct state_writer {
    struct cursor_writer cursor;
    size_t section_start; /* of the one that is open; 0: none is */
    size_t section_count;
};

/* Into buffer[capacity]; capacity at most VMM_STATE_SIZE_MAX. */
void state_writer_init(struct state_writer *state, void *buffer, size_t capacity);

/* Opens a section; the same tag and instance only once. What does not fit fails at finish. */
struct cursor_writer *state_begin(struct state_writer *state, uint32_t tag, uint16_t version,
                                  uint16_t instance);
void state_end(struct state_writer *state);

/* The end section. *ret_size: all bytes. SNAPSHOT_FAILED when something did not fit. */
KELPIE_CHECKED enum kelpie_status state_writer_finish(struct state_writer *state, size_t *ret_size,
                                                      struct kelpie_error *err);

struct state_section {
    uint32_t tag;
    uint16_t version;
    uint16_t instance;
    const uint8_t *payload;
    size_t size;
    bool used;
};

struct state_reader {
    struct state_section sections[VMM_SECTION_COUNT_MAX];
    size_t section_count;
};

/* Checks the frame: magic, bounds, duplicates, end, checksum. The bytes stay the caller's and must live as long.
 * Errors: SNAPSHOT_CORRUPT, field "state". */
KELPIE_CHECKED enum kelpie_status state_reader_init(struct state_reader *state, const void *data,
                                                    size_t size, struct kelpie_error *err);

/* Finds a section and marks it used. SNAPSHOT_CORRUPT: missing, or used before; SNAPSHOT_INCOMPATIBLE: a version
 * above version_max or 0. */
KELPIE_CHECKED enum kelpie_status state_find(struct state_reader *state, uint32_t tag,
                                             uint16_t version_max, uint16_t instance,
                                             struct cursor_reader *ret_reader,
                                             struct kelpie_error *err);

/* OK when the payload was read exactly and `valid`; else SNAPSHOT_CORRUPT, field "state", naming `what`. */
KELPIE_CHECKED enum kelpie_status state_check(const struct cursor_reader *reader, bool valid,
                                              const char *what, struct kelpie_error *err);

/* SNAPSHOT_CORRUPT when a section was not used. */
KELPIE_CHECKED enum kelpie_status state_reader_finish(const struct state_reader *state,
                                                      struct kelpie_error *err);

#endif
