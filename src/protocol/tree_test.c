/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Trees: what is written is read, in whatever pieces, and nothing else is. */
#include "protocol/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BUFFER_SIZE 65536

struct stream {
    uint8_t bytes[BUFFER_SIZE];
    struct cursor_writer writer;
};

static void stream_init(struct stream *stream) {
    stream->writer = cursor_writer_init(stream->bytes, sizeof(stream->bytes));
}

static void add(struct stream *stream, struct protocol_tree_entry entry, const char *content) {
    protocol_encode_tree_entry(&stream->writer, &entry);
    cursor_write_bytes(&stream->writer, content, strlen(content));
    assert_false(stream->writer.failed);
}

/* All events as a text. */
static void transcribe(const struct stream *stream, size_t piece, char *text, size_t text_size) {
    static struct protocol_tree_reader reader;
    protocol_tree_reader_init(&reader);
    size_t used = 0;
    text[0] = '\0';
    for (size_t at = 0; at <= stream->writer.size; at += piece) {
        const uint8_t *bytes = stream->bytes + at;
        size_t size = stream->writer.size - at < piece ? stream->writer.size - at : piece;
        struct protocol_tree_event event;
        do {
            protocol_tree_read(&reader, &bytes, &size, &event);
            int length = 0;
            if (event.kind == PROTOCOL_TREE_EVENT_ENTRY || event.kind == PROTOCOL_TREE_EVENT_END) {
                length = snprintf(text + used, text_size - used, "%d:%s:%o:%llu:%llu:%s ",
                                  (int)event.entry->kind, event.entry->name, event.entry->mode,
                                  (unsigned long long)event.entry->size,
                                  (unsigned long long)event.entry->modified_ns,
                                  event.entry->target ? event.entry->target : "");
            } else if (event.kind == PROTOCOL_TREE_EVENT_CONTENT) {
                length = snprintf(text + used, text_size - used, "%.*s", (int)event.size,
                                  (const char *)event.bytes);
            } else if (event.kind == PROTOCOL_TREE_EVENT_FILE_END) {
                length = snprintf(text + used, text_size - used, "$ ");
            } else if (event.kind == PROTOCOL_TREE_EVENT_MALFORMED) {
                snprintf(text, text_size, "malformed");
                return;
            }
            used += (size_t)length;
        } while (event.kind != PROTOCOL_TREE_EVENT_NONE);
    }
}

static void what_is_written_is_read(void **state) {
    (void)state;
    static struct stream stream;
    char text[1024];
    stream_init(&stream);
    add(&stream,
        (struct protocol_tree_entry){
            .kind = PROTOCOL_TREE_FOLDER, .name = "a", .mode = 0755, .modified_ns = 7},
        "");
    add(&stream,
        (struct protocol_tree_entry){
            .kind = PROTOCOL_TREE_FILE, .name = "a/b", .mode = 04644, .size = 5},
        "hello");
    add(&stream, (struct protocol_tree_entry){.kind = PROTOCOL_TREE_FILE, .name = "empty"}, "");
    add(&stream,
        (struct protocol_tree_entry){.kind = PROTOCOL_TREE_LINK, .name = "l", .target = "a/b"}, "");
    add(&stream, (struct protocol_tree_entry){.kind = PROTOCOL_TREE_END, .name = "s", .size = 2},
        "");
    static const char expected[] =
        "2:a:755:0:7: 1:a/b:4644:5:0: hello$ 1:empty:0:0:0: $ 3:l:0:0:0:a/b 4:s:0:2:0: ";
    for (size_t piece = 1; piece <= stream.writer.size; piece++) {
        transcribe(&stream, piece, text, sizeof(text));
        assert_string_equal(text, expected);
    }
    cursor_write_u8(&stream.writer, 0);
    transcribe(&stream, 1000, text, sizeof(text));
    assert_string_equal(text, "malformed");
}

/* Writes a head without the encoder's checks. */
static void add_raw(struct stream *stream, unsigned kind, const char *name, uint32_t mode,
                    uint64_t size) {
    size_t name_size = strlen(name);
    stream_init(stream);
    cursor_write_u8(&stream->writer, (uint8_t)kind);
    cursor_write_u8(&stream->writer, 0);
    cursor_write_u16(&stream->writer, (uint16_t)name_size);
    cursor_write_u32(&stream->writer, mode);
    cursor_write_u64(&stream->writer, size);
    cursor_write_u64(&stream->writer, 0);
    cursor_write_bytes(&stream->writer, name, name_size);
}

static void assert_malformed(struct stream *stream) {
    char text[8192];
    transcribe(stream, 7, text, sizeof(text));
    assert_string_equal(text, "malformed");
}

static void hazard_D4_names_that_lead_out_are_malformed(void **state) {
    (void)state;
    static struct stream stream;
    static char deep[512];
    static char wide[300];
    for (size_t i = 0; i < PROTOCOL_TREE_DEPTH_MAX; i++) {
        strcat(deep, "d/");
    }
    strcat(deep, "d");
    memset(wide, 'w', PROTOCOL_NAME_SIZE_MAX + 1);
    const char *const names[] = {"",    "/",   "/a",   ".",  "..",      "../a", "a/..", "a/../b",
                                 "a/.", "./a", "a//b", "a/", "a/../..", deep,   wide};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (unsigned kind = PROTOCOL_TREE_FILE; kind <= PROTOCOL_TREE_FOLDER; kind++) {
            add_raw(&stream, kind, names[i], 0, 0);
            assert_malformed(&stream);
        }
        const struct protocol_tree_entry entry = {.kind = PROTOCOL_TREE_FILE, .name = names[i]};
        stream_init(&stream);
        protocol_encode_tree_entry(&stream.writer, &entry);
        assert_true(stream.writer.failed);
    }
    add_raw(&stream, PROTOCOL_TREE_FILE, "a/b", 0, 0);
    stream.bytes[PROTOCOL_TREE_HEADER_SIZE + 1] = 0;
    assert_malformed(&stream);
    assert_true(protocol_tree_name_is_plain(deep + 2));
    assert_true(protocol_tree_name_is_plain(wide + 1));
    assert_true(protocol_tree_name_is_plain("..a/b..")); /* dots in a name are a name */
}

static void what_no_tree_has_is_malformed(void **state) {
    (void)state;
    static struct stream stream;
    for (unsigned kind = 0; kind < 256; kind++) {
        if (kind < PROTOCOL_TREE_FILE || kind > PROTOCOL_TREE_END) {
            add_raw(&stream, kind, "a", 0, 0);
            assert_malformed(&stream);
        }
    }
    add_raw(&stream, PROTOCOL_TREE_FILE, "a", 010000, 0);
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_FILE, "a", 0, UINT64_MAX);
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_FOLDER, "a", 0, 1);
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_LINK, "a", 0, 0); /* no target */
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_LINK, "a", 0, PROTOCOL_PATH_SIZE_MAX + 1);
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_LINK, "a", 0, 3); /* a zero in the target */
    cursor_write_bytes(&stream.writer, "x\0y", 3);
    assert_malformed(&stream);
    add_raw(&stream, PROTOCOL_TREE_FILE, "a", 0, 0);
    stream.bytes[1] = 1;
    assert_malformed(&stream);
}

static void hazard_D4_links_that_may_lead_out_are_told(void **state) {
    (void)state;
    static const struct {
        const char *name;
        const char *target;
        bool stays;
    } links[] = {
        {"l", "a", true},           {"l", "a/b", true},      {"l", ".", true},
        {"l", "./a", true},         {"d/l", "../a", true},   {"d/e/l", "../../a/b", true},
        {"d/l", "..", true},        {"d/l", ".././a", true}, {"l", "/etc/passwd", false},
        {"l", "..", false},         {"l", "../a", false},    {"d/l", "../../a", false},
        {"d/l", "..//../a", false}, {"l", "a/..", false},    {"d/l", "a/../..", false},
        {"d/l", "../a/..", false},  {"l", "./..", false},    {"l", "", false},
    };
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
        assert_int_equal(protocol_tree_link_stays(links[i].name, links[i].target), links[i].stays);
    }
}

/* ---- Exact trees ------------------------------------------------------------------------------ */

/* Reads one head of an exact tree, or of one that is not. */
static enum protocol_tree_event_kind read_one(struct stream *stream, bool exact,
                                              struct protocol_tree_reader *reader) {
    const uint8_t *bytes = stream->bytes;
    size_t size = stream->writer.size;
    struct protocol_tree_event event;
    protocol_tree_reader_init(reader);
    reader->exact = exact;
    protocol_tree_read(reader, &bytes, &size, &event);
    return event.kind;
}

static void what_an_exact_tree_has_beside(void **state) {
    (void)state;
    static struct stream stream;
    static struct protocol_tree_reader reader;
    static const struct protocol_tree_entry entries[] = {
        {.kind = PROTOCOL_TREE_OWNER, .name = "", .size = UINT64_MAX, .modified_ns = UINT64_MAX},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "user./..", .target = "a\0b", .target_size = 3},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "x", .target = "", .target_size = 0},
        {.kind = PROTOCOL_TREE_SPARSE, .name = "a/b", .mode = 07777, .size = 1, .modified_ns = 2},
        {.kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 0, .modified_ns = INT64_MAX},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "b/c"},
        {.kind = PROTOCOL_TREE_ROOT, .name = "", .mode = 01777, .modified_ns = 7},
    };
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        stream_init(&stream);
        protocol_encode_tree_entry(&stream.writer, &entries[i]);
        assert_false(stream.writer.failed);
        assert_int_equal(read_one(&stream, true, &reader), PROTOCOL_TREE_EVENT_ENTRY);
        assert_int_equal(reader.entry.kind, entries[i].kind);
        assert_string_equal(reader.entry.name, entries[i].name);
        assert_int_equal(reader.entry.mode, entries[i].mode);
        assert_true(reader.entry.size == entries[i].size);
        assert_true(reader.entry.modified_ns == entries[i].modified_ns);
        if (entries[i].target_size > 0) {
            assert_int_equal(reader.entry.target_size, entries[i].target_size);
            assert_memory_equal(reader.entry.target, entries[i].target, entries[i].target_size);
        }
        assert_int_equal(read_one(&stream, false, &reader), PROTOCOL_TREE_EVENT_MALFORMED);
    }
}

static void what_an_exact_tree_may_not_have(void **state) {
    (void)state;
    static struct stream stream;
    static char wide[PROTOCOL_NAME_SIZE_MAX + 2];
    static char long_value[PROTOCOL_PATH_SIZE_MAX + 2];
    memset(wide, 'w', sizeof(wide) - 1);
    memset(long_value, 'v', sizeof(long_value) - 1);
    const struct protocol_tree_entry entries[] = {
        {.kind = PROTOCOL_TREE_OWNER, .name = "a"},
        {.kind = PROTOCOL_TREE_OWNER, .name = "", .mode = 1},
        {.kind = PROTOCOL_TREE_OWNER, .name = "", .target = "x"},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "", .target = "x", .target_size = 1},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "a", .target = "x", .mode = 1},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "a", .target = "x", .size = 1},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "a", .target = "x", .modified_ns = 1},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = "a"},
        {.kind = PROTOCOL_TREE_ATTRIBUTE, .name = wide, .target = "x", .target_size = 1},
        {.kind = PROTOCOL_TREE_ATTRIBUTE,
         .name = "a",
         .target = long_value,
         .target_size = sizeof(long_value) - 1},
        {.kind = PROTOCOL_TREE_SPARSE, .name = ""},
        {.kind = PROTOCOL_TREE_SPARSE, .name = "a", .target = "x"},
        {.kind = PROTOCOL_TREE_SPARSE, .name = "a", .size = UINT64_MAX},
        {.kind = PROTOCOL_TREE_EXTENT, .name = "a"},
        {.kind = PROTOCOL_TREE_EXTENT, .name = "", .mode = 1},
        {.kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = UINT64_MAX},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "../a", .target = "b"},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "b", .mode = 1},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "b", .size = 1},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "b", .modified_ns = 1},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "/b"},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = "../b"},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = ""},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a"},
        {.kind = PROTOCOL_TREE_HARD_LINK, .name = "a", .target = long_value},
        {.kind = PROTOCOL_TREE_LINK, .name = "a", .target = long_value},
        {.kind = PROTOCOL_TREE_ROOT, .name = "a"},
        {.kind = PROTOCOL_TREE_ROOT, .name = "", .size = 1},
        {.kind = PROTOCOL_TREE_KIND_COUNT, .name = "a"},
    };
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        stream_init(&stream);
        protocol_encode_tree_entry(&stream.writer, &entries[i]);
        if (!stream.writer.failed) {
            fail_msg("entry %zu was written", i);
        }
    }
    assert_false(protocol_tree_name_is_plain(long_value));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(hazard_D4_names_that_lead_out_are_malformed),
        cmocka_unit_test(what_no_tree_has_is_malformed),
        cmocka_unit_test(hazard_D4_links_that_may_lead_out_are_told),
        cmocka_unit_test(what_an_exact_tree_has_beside),
        cmocka_unit_test(what_an_exact_tree_may_not_have),
    };
    return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
