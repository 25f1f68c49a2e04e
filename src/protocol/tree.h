/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * tree.h: a folder with all that is in it, as a stream of bytes: what FILE_PUT and FILE_GET carry for a folder. Pure encoding
 * and decoding. docs/PROTOCOL.md has the bytes.
 *
 * A tree is a row of entries and an END. Each has a header, then its name, then what it holds: a file's bytes, a
 * link's target. A name is relative to the folder that is copied. A folder comes before what is in it; an entry whose folder did
 * not come, or a name that came already, is the receiver's to refuse. There are no hard links, devices or owners in it.
 *
 * An exact tree, which FILE_GET and FILE_PUT carry while HOLD has user processes stand still, has those too, but for devices. OWNER and
 * ATTRIBUTE are of the entry that follows. A file may come with holes: SPARSE, then an EXTENT with each piece of it, by ascending
 * offset, the last one empty and at the file's end. ROOT is the folder itself. What refers to another entry that did not come
 * is the receiver's to refuse, as is an EXTENT without a SPARSE.
 *
 * The reader takes bytes in whatever pieces they come and tells one event after the other:
 *
 *     while (protocol_tree_read(reader, &bytes, &size, &event)) {
 *         switch (event.kind) …  ENTRY, then CONTENT as often as there is some, then FILE_END
 *     }
 *
 * Nothing that a sender says is believed: see protocol_tree_read().
 */
#ifndef KELPIE_PROTOCOL_TREE_H
#define KELPIE_PROTOCOL_TREE_H

#include "protocol/protocol.h"

enum protocol_tree_kind {
    PROTOCOL_TREE_FILE = 1,
    PROTOCOL_TREE_FOLDER = 2,
    PROTOCOL_TREE_LINK = 3,
    PROTOCOL_TREE_END = 4, /* size: how many were left out; name: the first of them, or empty */
    /* of an exact tree */
    PROTOCOL_TREE_OWNER =
        5, /* size: uid, and gid << 32; modified_ns: a number that only names of one file
                                    share, or 0: it has no other name */
    PROTOCOL_TREE_ATTRIBUTE =
        6, /* name: as listxattr(2) has it; target: its value, of target_size bytes */
    PROTOCOL_TREE_SPARSE = 7,    /* a file of `size` bytes, whose pieces follow */
    PROTOCOL_TREE_EXTENT = 8,    /* modified_ns: its offset; size: how many bytes follow */
    PROTOCOL_TREE_HARD_LINK = 9, /* target: the name of a file that came before */
    PROTOCOL_TREE_ROOT = 10,     /* mode and time of the folder itself */
    PROTOCOL_TREE_KIND_COUNT
};

struct protocol_tree_entry {
    enum protocol_tree_kind kind;
    uint32_t mode;        /* permission bits, of a file or folder */
    uint64_t size;        /* of a file */
    uint64_t modified_ns; /* since 1970; 0: not known */
    const char *name;     /* relative, of plain parts */
    const char *target;   /* of a link */
    size_t target_size;   /* of an ATTRIBUTE; else the target ends with its zero */
};

/* Header, name and target; a file's bytes follow. What may not be sent fails the writer. */
void protocol_encode_tree_entry(struct cursor_writer *writer,
                                const struct protocol_tree_entry *entry);

/* The largest that it takes. */
#define PROTOCOL_TREE_ENTRY_SIZE_MAX (PROTOCOL_TREE_HEADER_SIZE + 2 * PROTOCOL_PATH_SIZE_MAX)

/* Of an ATTRIBUTE: what is longer cannot be told. */
#define PROTOCOL_TREE_ATTRIBUTE_SIZE_MAX PROTOCOL_PATH_SIZE_MAX

enum protocol_tree_event_kind {
    PROTOCOL_TREE_EVENT_NONE = 0, /* all bytes were taken: more are needed */
    PROTOCOL_TREE_EVENT_ENTRY,
    PROTOCOL_TREE_EVENT_CONTENT,
    PROTOCOL_TREE_EVENT_FILE_END, /* of the file or extent that is under way; of an empty one, too */
    PROTOCOL_TREE_EVENT_END,      /* entry has what the END says; nothing may follow */
    PROTOCOL_TREE_EVENT_MALFORMED,
};

struct protocol_tree_event {
    enum protocol_tree_event_kind kind;
    const struct protocol_tree_entry
        *entry;           /* ENTRY, END: the reader's, until the next ENTRY or END */
    const uint8_t *bytes; /* CONTENT: of what was given to the reader */
    size_t size;
};

struct protocol_tree_reader {
    struct protocol_tree_entry entry;
    uint64_t content_left; /* of the file that is under way */
    size_t used;           /* bytes of the head */
    size_t head_size;      /* of header, name and target; 0: the header is not there yet */
    bool in_file;
    bool ended;
    bool malformed;
    bool exact; /* set by who reads an exact tree, after init */
    uint8_t head[PROTOCOL_TREE_HEADER_SIZE];
    char texts[2 * (PROTOCOL_PATH_SIZE_MAX + 1)]; /* the name, a zero, the target, a zero */
};

void protocol_tree_reader_init(struct protocol_tree_reader *reader);

/* Takes bytes off *bytes until there is an event, which *ret_event is. Malformed, once and for all: an unknown kind, or one
 * that only an exact tree has, a
 * mode with other than permission bits, a size beyond 2^63, a name that is absolute, empty, too long or too deep, or has a part that
 * is empty, ".", ".." or longer than PROTOCOL_NAME_SIZE_MAX, a target that is empty or too long, a zero in either, bytes
 * behind the END. */
void protocol_tree_read(struct protocol_tree_reader *reader, const uint8_t **bytes, size_t *size,
                        struct protocol_tree_event *ret_event);

/* A name that may be in a tree. */
bool protocol_tree_name_is_plain(const char *name);

/* Whether a link of that name and target, both in the tree, leads to nowhere outside of it, also when others do the same:
 * its target is relative, and goes up only at its beginning, and no further than the name is deep. */
bool protocol_tree_link_stays(const char *name, const char *target);

#endif
