/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/state/state.h"

#include <string.h>

#include <xxhash.h>

#include "base/assert.h"

#define MAGIC "KLPVMM01"
#define MAGIC_SIZE 8
#define HEADER_SIZE 16
#define SIZE_OFFSET 8 /* of the payload's size, in a section's header */
#define TAG_END STATE_TAG('E', 'N', 'D', 0)

/* ---- Writing ---------------------------------------------------------------------------------- */

void state_writer_init(struct state_writer *state, void *buffer, size_t capacity) {
    ASSERT(state && buffer);
    ASSERT(capacity <= VMM_STATE_SIZE_MAX);
    *state = (struct state_writer){.cursor = cursor_writer_init(buffer, capacity)};
    cursor_write_bytes(&state->cursor, MAGIC, MAGIC_SIZE);
}

struct cursor_writer *state_begin(struct state_writer *state, uint32_t tag, uint16_t version,
                                  uint16_t instance) {
    ASSERT(state->section_start == 0);
    ASSERT(version > 0 || tag == TAG_END);
    state->section_start = state->cursor.size;
    state->section_count++;
    cursor_write_u32(&state->cursor, tag);
    cursor_write_u16(&state->cursor, version);
    cursor_write_u16(&state->cursor, instance);
    cursor_write_u64(&state->cursor, 0); /* the size, when it is known, and the reserved zero */
    return &state->cursor;
}

void state_end(struct state_writer *state) {
    ASSERT(state->section_start != 0);
    ASSERT(state->section_start <= state->cursor.size);
    size_t header = state->section_start;
    state->section_start = 0;
    if (state->cursor.failed) {
        return;
    }
    size_t size = state->cursor.size - header - HEADER_SIZE;
    if (size > VMM_SECTION_SIZE_MAX) {
        state->cursor.failed = true;
        return;
    }
    struct cursor_writer patch =
        cursor_writer_init(state->cursor.data + header + SIZE_OFFSET, sizeof(uint32_t));
    cursor_write_u32(&patch, (uint32_t)size);
}

enum kelpie_status state_writer_finish(struct state_writer *state, size_t *ret_size,
                                       struct kelpie_error *err) {
    ASSERT(state->section_start == 0);
    ASSERT(ret_size);
    uint64_t checksum = XXH3_64bits(state->cursor.data, state->cursor.size);
    cursor_write_u64(state_begin(state, TAG_END, 0, 0), checksum);
    state_end(state);
    if (state->cursor.failed || state->section_count > VMM_SECTION_COUNT_MAX) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED,
                         "the monitor's state does not fit its limits: %zu sections, %zu bytes",
                         state->section_count, state->cursor.size);
    }
    *ret_size = state->cursor.size;
    return KELPIE_OK;
}

/* ---- Reading ---------------------------------------------------------------------------------- */

static enum kelpie_status corrupt(struct kelpie_error *err, const char *why) {
    ASSERT(why);
    ASSERT(why[0]);
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state", "the monitor's state %s", why);
}

static struct state_section *find(struct state_reader *state, uint32_t tag, uint16_t instance) {
    ASSERT(state->section_count <= VMM_SECTION_COUNT_MAX);
    for (size_t i = 0; i < state->section_count; i++) {
        ASSERT(state->sections[i].payload);
        if (state->sections[i].tag == tag && state->sections[i].instance == instance) {
            return &state->sections[i];
        }
    }
    return NULL;
}

/* The next section. False: it is not whole. */
static bool read_section(struct cursor_reader *reader, struct state_section *ret) {
    ASSERT(reader);
    ASSERT(ret);
    ret->tag = cursor_read_u32(reader);
    ret->version = cursor_read_u16(reader);
    ret->instance = cursor_read_u16(reader);
    ret->size = cursor_read_u32(reader);
    ret->used = false;
    uint32_t zero = cursor_read_u32(reader);
    ret->payload = ret->size <= VMM_SECTION_SIZE_MAX ? cursor_read_bytes(reader, ret->size) : NULL;
    return ret->payload && zero == 0 && !reader->failed;
}

static enum kelpie_status check_end(const struct cursor_reader *reader,
                                    const struct state_section *end, struct kelpie_error *err) {
    ASSERT(end->tag == TAG_END);
    ASSERT(end->payload);
    if (end->version != 0 || end->instance != 0 || end->size != sizeof(uint64_t)) {
        return corrupt(err, "has an end that is none");
    }
    if (cursor_reader_left(reader) != 0) {
        return corrupt(err, "has bytes behind its end");
    }
    size_t checked_size = (size_t)(end->payload - reader->data) - HEADER_SIZE;
    struct cursor_reader checksum = cursor_reader_init(end->payload, end->size);
    if (cursor_read_u64(&checksum) != XXH3_64bits(reader->data, checked_size)) {
        return corrupt(err, "does not fit its checksum");
    }
    return KELPIE_OK;
}

enum kelpie_status state_reader_init(struct state_reader *state, const void *data, size_t size,
                                     struct kelpie_error *err) {
    ASSERT(state);
    ASSERT(data || size == 0);
    state->section_count = 0;
    struct cursor_reader reader = cursor_reader_init(data, size);
    const uint8_t *magic = cursor_read_bytes(&reader, MAGIC_SIZE);
    if (!magic || memcmp(magic, MAGIC, MAGIC_SIZE) != 0 || size > VMM_STATE_SIZE_MAX) {
        return corrupt(err, "does not begin as one does");
    }
    /* Each round takes at least a header off, and keeps at most so many. */
    for (;;) {
        struct state_section section;
        if (!read_section(&reader, &section)) {
            return corrupt(err, "ends within a section, or has one that is too large");
        }
        if (section.tag == TAG_END) {
            return check_end(&reader, &section, err);
        }
        if (state->section_count == VMM_SECTION_COUNT_MAX) {
            return corrupt(err, "has too many sections");
        }
        if (find(state, section.tag, section.instance)) {
            return corrupt(err, "has a section twice");
        }
        state->sections[state->section_count++] = section;
    }
}

/* A tag as text, for messages. */
static void tag_text(uint32_t tag, char text[5]) {
    ASSERT(text);
    for (size_t i = 0; i < 4; i++) {
        char c = (char)(tag >> (8 * i) & 0xff);
        text[i] = c >= 0x20 && c <= 0x7e ? c : '?';
    }
    text[4] = '\0';
    ASSERT(strlen(text) == 4);
}

enum kelpie_status state_find(struct state_reader *state, uint32_t tag, uint16_t version_max,
                              uint16_t instance, struct cursor_reader *ret_reader,
                              struct kelpie_error *err) {
    ASSERT(ret_reader);
    ASSERT(version_max > 0);
    char text[5];
    tag_text(tag, text);
    struct state_section *section = find(state, tag, instance);
    if (!section || section->used) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                               "the monitor's state lacks its section %s %u", text, instance);
    }
    if (section->version == 0 || section->version > version_max) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "state",
                               "section %s has version %u; this monitor reads up to %u", text,
                               section->version, version_max);
    }
    section->used = true;
    *ret_reader = cursor_reader_init(section->payload, section->size);
    return KELPIE_OK;
}

enum kelpie_status state_check(const struct cursor_reader *reader, bool valid, const char *what,
                               struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT(what);
    if (!cursor_reader_finished(reader)) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                               "the state of %s is too short or too long", what);
    }
    if (!valid) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                               "the state of %s has a value that cannot be", what);
    }
    return KELPIE_OK;
}

enum kelpie_status state_reader_finish(const struct state_reader *state, struct kelpie_error *err) {
    ASSERT(state);
    ASSERT(state->section_count <= VMM_SECTION_COUNT_MAX);
    for (size_t i = 0; i < state->section_count; i++) {
        if (!state->sections[i].used) {
            char text[5];
            tag_text(state->sections[i].tag, text);
            return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                                   "the monitor's state has a section %s %u that nothing here has",
                                   text, state->sections[i].instance);
        }
    }
    return KELPIE_OK;
}
