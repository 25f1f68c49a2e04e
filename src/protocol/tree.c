/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "protocol/tree.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "protocol/message.h"

/* ---- Names ------------------------------------------------------------------------------------ */

static bool part_is_up(const char *part, size_t size) {
    ASSERT(part);
    ASSERT(size <= PROTOCOL_PATH_SIZE_MAX);
    return size == 2 && memcmp(part, "..", 2) == 0;
}

static bool part_is_plain(const char *part, size_t size) {
    ASSERT(part);
    bool is_here = size == 1 && part[0] == '.';
    return size > 0 && size <= PROTOCOL_NAME_SIZE_MAX && !is_here && !part_is_up(part, size);
}

bool protocol_tree_name_is_plain(const char *name) {
    ASSERT(name);
    if (strnlen(name, PROTOCOL_PATH_SIZE_MAX + 1) > PROTOCOL_PATH_SIZE_MAX) {
        return false;
    }
    const char *part = name;
    for (size_t depth = 1; depth <= PROTOCOL_TREE_DEPTH_MAX; depth++) {
        size_t size = strcspn(part, "/");
        if (!part_is_plain(part, size)) {
            return false;
        }
        if (part[size] == '\0') {
            return true;
        }
        part += size + 1;
    }
    return false;
}

/* By induction: a link that is followed stands in a folder of the tree, as deep as its name says; the parts that go up
 * reach no higher than the tree's folder, and what follows goes down from there, or is a link of the same kind. A ".." behind
 * another part would go up from wherever that part leads. */
bool protocol_tree_link_stays(const char *name, const char *target) {
    ASSERT(protocol_tree_name_is_plain(name));
    ASSERT(target);
    size_t depth = 0;
    for (const char *c = name; *c; c++) {
        depth += *c == '/';
    }
    if (target[0] == '/' || target[0] == '\0') {
        return false;
    }
    bool is_down = false;
    const char *part = target;
    while (*part) {
        size_t size = strcspn(part, "/");
        if (part_is_up(part, size)) {
            if (is_down || depth == 0) {
                return false;
            }
            depth--;
        } else if (size > 0 && !(size == 1 && part[0] == '.')) {
            is_down = true;
        }
        part += size;
        part += *part == '/';
    }
    return true;
}

/* ---- Writing ---------------------------------------------------------------------------------- */

static bool target_is_path(const struct protocol_tree_entry *entry) {
    ASSERT(entry);
    ASSERT(entry->name);
    return entry->target && entry->target[0] != '\0' &&
           strnlen(entry->target, PROTOCOL_PATH_SIZE_MAX + 1) <= PROTOCOL_PATH_SIZE_MAX;
}

/* What only an exact tree has. */
static bool exact_entry_is_valid(const struct protocol_tree_entry *entry) {
    bool named = protocol_tree_name_is_plain(entry->name);
    bool bare = entry->name[0] == '\0' && !entry->target;
    ASSERT(entry->kind > PROTOCOL_TREE_END);
    ASSERT(entry->mode <= MESSAGE_FILE_MODE_MAX);
    switch ((int)entry->kind) {
    case PROTOCOL_TREE_OWNER:
        return bare && entry->mode == 0;
    case PROTOCOL_TREE_ATTRIBUTE:
        return entry->name[0] != '\0' && entry->mode == 0 && entry->size == 0 &&
               entry->modified_ns == 0 && entry->target &&
               strnlen(entry->name, PROTOCOL_NAME_SIZE_MAX + 1) <= PROTOCOL_NAME_SIZE_MAX &&
               entry->target_size <= PROTOCOL_TREE_ATTRIBUTE_SIZE_MAX;
    case PROTOCOL_TREE_SPARSE:
        return named && !entry->target;
    case PROTOCOL_TREE_EXTENT:
        return bare && entry->mode == 0 && entry->modified_ns <= MESSAGE_FILE_SIZE_MAX;
    case PROTOCOL_TREE_HARD_LINK:
        return named && entry->mode == 0 && entry->size == 0 && entry->modified_ns == 0 &&
               target_is_path(entry) && protocol_tree_name_is_plain(entry->target);
    case PROTOCOL_TREE_ROOT:
        return bare && entry->size == 0;
    default:
        return false;
    }
}

static bool entry_is_valid(const struct protocol_tree_entry *entry) {
    ASSERT(entry);
    ASSERT(entry->name);
    bool named = protocol_tree_name_is_plain(entry->name);
    bool is_number = entry->kind == PROTOCOL_TREE_OWNER; /* and no size */
    if (entry->mode > MESSAGE_FILE_MODE_MAX ||
        (entry->size > MESSAGE_FILE_SIZE_MAX && !is_number)) {
        return false;
    }
    switch ((int)entry->kind) {
    case PROTOCOL_TREE_FILE:
        return named && !entry->target;
    case PROTOCOL_TREE_FOLDER:
        return named && !entry->target && entry->size == 0;
    case PROTOCOL_TREE_LINK:
        return named && entry->size == 0 && entry->mode == 0 && target_is_path(entry);
    case PROTOCOL_TREE_END:
        return (named || entry->name[0] == '\0') && !entry->target && entry->mode == 0 &&
               entry->modified_ns == 0;
    default:
        return entry->kind > PROTOCOL_TREE_END && exact_entry_is_valid(entry);
    }
}

static bool has_target(enum protocol_tree_kind kind) {
    ASSERT((unsigned)kind < 256);
    static_assert(PROTOCOL_TREE_KIND_COUNT < 256, "a kind is a byte");
    return kind == PROTOCOL_TREE_LINK || kind == PROTOCOL_TREE_ATTRIBUTE ||
           kind == PROTOCOL_TREE_HARD_LINK;
}

void protocol_encode_tree_entry(struct cursor_writer *writer,
                                const struct protocol_tree_entry *entry) {
    ASSERT(writer);
    ASSERT(entry);
    size_t start = writer->size;
    message_require(writer, entry_is_valid(entry));
    if (writer->failed) {
        return;
    }
    ASSERT(entry->name);
    bool is_value = entry->kind == PROTOCOL_TREE_ATTRIBUTE;
    size_t target_size = is_value ? entry->target_size : entry->target ? strlen(entry->target) : 0;
    cursor_write_u8(writer, (uint8_t)entry->kind);
    cursor_write_u8(writer, 0);
    cursor_write_u16(writer, (uint16_t)strlen(entry->name));
    cursor_write_u32(writer, entry->mode);
    cursor_write_u64(writer, entry->target ? target_size : entry->size);
    cursor_write_u64(writer, entry->modified_ns);
    cursor_write_bytes(writer, entry->name, strlen(entry->name));
    cursor_write_bytes(writer, entry->target, target_size);
    if (writer->failed) {
        writer->size = start;
    }
}

/* ---- Reading ---------------------------------------------------------------------------------- */

void protocol_tree_reader_init(struct protocol_tree_reader *reader) {
    ASSERT(reader);
    static_assert(PROTOCOL_TREE_HEADER_SIZE == 1 + 1 + 2 + 4 + 8 + 8, "as it is written");
    reader->entry = (struct protocol_tree_entry){0};
    reader->content_left = 0;
    reader->used = 0;
    reader->head_size = 0;
    reader->in_file = false;
    reader->ended = false;
    reader->malformed = false;
    reader->exact = false;
}

static size_t name_size_of(const struct protocol_tree_reader *reader) {
    ASSERT(reader->used >= PROTOCOL_TREE_HEADER_SIZE);
    ASSERT(!reader->in_file);
    return (size_t)reader->head[2] | (size_t)reader->head[3] << 8;
}

/* The header is there: how much follows of name and target. */
static bool take_header(struct protocol_tree_reader *reader) {
    struct cursor_reader cursor = cursor_reader_init(reader->head, sizeof(reader->head));
    struct protocol_tree_entry *entry = &reader->entry;
    ASSERT(reader->used == PROTOCOL_TREE_HEADER_SIZE);
    ASSERT(reader->head_size == 0);
    *entry = (struct protocol_tree_entry){.kind = (enum protocol_tree_kind)cursor_read_u8(&cursor)};
    bool zero = cursor_read_u8(&cursor) == 0;
    size_t name_size = cursor_read_u16(&cursor);
    entry->mode = cursor_read_u32(&cursor);
    entry->size = cursor_read_u64(&cursor);
    entry->modified_ns = cursor_read_u64(&cursor);
    bool is_known = entry->kind <= PROTOCOL_TREE_END || reader->exact;
    bool is_link = has_target(entry->kind);
    if (!zero || !is_known || !cursor_reader_finished(&cursor) ||
        name_size > PROTOCOL_PATH_SIZE_MAX || (is_link && entry->size > PROTOCOL_PATH_SIZE_MAX)) {
        return false;
    }
    reader->head_size = PROTOCOL_TREE_HEADER_SIZE + name_size + (is_link ? (size_t)entry->size : 0);
    return true;
}

/* All of the head is there. */
static bool take_entry(struct protocol_tree_reader *reader) {
    struct protocol_tree_entry *entry = &reader->entry;
    size_t name_size = name_size_of(reader);
    char *target = reader->texts + name_size + 1;
    ASSERT(reader->used == reader->head_size);
    ASSERT(name_size <= PROTOCOL_PATH_SIZE_MAX);
    entry->name = reader->texts;
    reader->texts[name_size] = '\0';
    if (strlen(entry->name) != name_size) {
        return false;
    }
    if (has_target(entry->kind)) {
        entry->target_size = (size_t)entry->size;
        target[entry->target_size] = '\0';
        if (entry->kind != PROTOCOL_TREE_ATTRIBUTE && strlen(target) != entry->target_size) {
            return false;
        }
        entry->target = target;
        entry->size = 0;
    }
    return entry_is_valid(entry);
}

/* Bytes of the head: first the header, then the texts, with a place for a zero behind the name. */
static void take_head_bytes(struct protocol_tree_reader *reader, const uint8_t **bytes,
                            size_t *size) {
    ASSERT(*size > 0);
    ASSERT(reader->head_size == 0 || reader->used < reader->head_size);
    uint8_t *to = NULL;
    size_t room = 0;
    if (reader->head_size == 0) {
        to = reader->head + reader->used;
        room = PROTOCOL_TREE_HEADER_SIZE - reader->used;
    } else {
        size_t done = reader->used - PROTOCOL_TREE_HEADER_SIZE;
        size_t name_size = name_size_of(reader);
        bool in_name = done < name_size;
        to = (uint8_t *)reader->texts + done + (in_name ? 0 : 1);
        room = in_name ? name_size - done : reader->head_size - reader->used;
    }
    size_t count = min_size(*size, room);
    ASSERT(count > 0);
    memcpy(to, *bytes, count);
    reader->used += count;
    *bytes += count;
    *size -= count;
}

static bool head_is_complete(const struct protocol_tree_reader *reader) {
    ASSERT(reader->head_size == 0 || reader->used <= reader->head_size);
    return reader->head_size > 0 && reader->used == reader->head_size;
}

static enum protocol_tree_event_kind head_done(struct protocol_tree_reader *reader) {
    ASSERT(head_is_complete(reader));
    ASSERT(!reader->in_file);
    if (!take_entry(reader)) {
        reader->malformed = true;
        return PROTOCOL_TREE_EVENT_MALFORMED;
    }
    reader->used = 0;
    reader->head_size = 0;
    reader->ended = reader->entry.kind == PROTOCOL_TREE_END;
    reader->in_file =
        reader->entry.kind == PROTOCOL_TREE_FILE || reader->entry.kind == PROTOCOL_TREE_EXTENT;
    reader->content_left = reader->in_file ? reader->entry.size : 0;
    return reader->ended ? PROTOCOL_TREE_EVENT_END : PROTOCOL_TREE_EVENT_ENTRY;
}

static enum protocol_tree_event_kind read_head(struct protocol_tree_reader *reader,
                                               const uint8_t **bytes, size_t *size) {
    ASSERT(!reader->in_file);
    ASSERT(!reader->ended);
    while (*size > 0) {
        take_head_bytes(reader, bytes, size);
        if (reader->head_size == 0 && reader->used == PROTOCOL_TREE_HEADER_SIZE &&
            !take_header(reader)) {
            reader->malformed = true;
            return PROTOCOL_TREE_EVENT_MALFORMED;
        }
        if (head_is_complete(reader)) {
            return head_done(reader);
        }
    }
    return PROTOCOL_TREE_EVENT_NONE;
}

void protocol_tree_read(struct protocol_tree_reader *reader, const uint8_t **bytes, size_t *size,
                        struct protocol_tree_event *ret_event) {
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_NONE};
    ASSERT(bytes && size);
    ASSERT(*bytes || *size == 0);
    reader->malformed = reader->malformed || (reader->ended && *size > 0);
    if (reader->malformed) {
        event.kind = PROTOCOL_TREE_EVENT_MALFORMED;
    } else if (reader->in_file && reader->content_left == 0) {
        reader->in_file = false;
        event.kind = PROTOCOL_TREE_EVENT_FILE_END;
    } else if (reader->in_file && *size > 0) {
        event.kind = PROTOCOL_TREE_EVENT_CONTENT;
        event.bytes = *bytes;
        event.size = (size_t)min_u64(*size, reader->content_left);
        reader->content_left -= event.size;
        *bytes += event.size;
        *size -= event.size;
    } else if (!reader->in_file && !reader->ended) {
        event.kind = read_head(reader, bytes, size);
        event.entry = &reader->entry;
    }
    *ret_event = event;
}
