/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A tree, whole and in pieces (the first byte says how large, and whether the tree is exact): both tell the same. What is told can be written again. */
#include <string.h>

#include "base/assert.h"
#include "protocol/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct told {
    uint64_t hash;
    uint64_t content;
    bool malformed;
};

static void mix(struct told *told, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        told->hash = (told->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3ull;
    }
}

static void take_entry(struct told *told, const struct protocol_tree_entry *entry) {
    static uint8_t bytes[PROTOCOL_TREE_ENTRY_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_tree_entry(&writer, entry);
    ASSERT(!writer.failed);
    mix(told, bytes, writer.size);
    if (entry->kind != PROTOCOL_TREE_END && entry->name[0] != '\0' &&
        entry->kind != PROTOCOL_TREE_ATTRIBUTE) {
        ASSERT(protocol_tree_name_is_plain(entry->name));
    }
    if (entry->kind == PROTOCOL_TREE_LINK) {
        ASSERT(!protocol_tree_link_stays(entry->name, entry->target) || entry->target[0] != '/');
    }
}

static struct told tell(const uint8_t *data, size_t size, size_t piece, bool exact) {
    static struct protocol_tree_reader reader;
    struct told told = {0};
    protocol_tree_reader_init(&reader);
    reader.exact = exact;
    for (size_t done = 0; done < size && !told.malformed; done += piece) {
        const uint8_t *bytes = data + done;
        size_t left = size - done < piece ? size - done : piece;
        struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
        while (event.kind != PROTOCOL_TREE_EVENT_NONE && !told.malformed) {
            protocol_tree_read(&reader, &bytes, &left, &event);
            if (event.kind == PROTOCOL_TREE_EVENT_ENTRY || event.kind == PROTOCOL_TREE_EVENT_END) {
                take_entry(&told, event.entry);
            }
            if (event.kind == PROTOCOL_TREE_EVENT_CONTENT) {
                mix(&told, event.bytes, event.size);
                told.content += event.size;
            }
            told.malformed = event.kind == PROTOCOL_TREE_EVENT_MALFORMED;
        }
        ASSERT(left == 0 || told.malformed);
    }
    return told;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    bool exact = (data[0] & 1) != 0;
    struct told whole = tell(data + 1, size - 1, size - 1, exact);
    struct told pieces = tell(data + 1, size - 1, (size_t)data[0] + 1, exact);
    ASSERT(whole.hash == pieces.hash);
    ASSERT(whole.content == pieces.content);
    ASSERT(whole.malformed == pieces.malformed);
    return 0;
}
