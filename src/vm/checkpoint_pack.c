/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* An exact tree on its way into an archive. Zeros become holes of the file, as in every part of a bundle. */
#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/checkpoint.h"

#define NS_PER_S 1000000000ull

struct pack {
    struct host *host;
    const struct vm_tree_source *source;
    const struct vm_checkpoint_limits *limits;
    struct archive *archive;
    struct archive_entry *entry; /* what is known of the next one */
    struct archive_entry_linkresolver *links;
    struct kelpie_tree_report report;

    /* the file under way */
    bool dropped; /* it is another name of one that came: its bytes are not written */
    bool in_pieces;
    uint64_t size;
    uint64_t done;

    /* the archive's file */
    int fd;
    uint64_t offset;
    uint64_t stored;
    enum kelpie_status status; /* of the write that failed, or of all: what follows is dropped */
    struct kelpie_error err;

    bool ended;
    struct protocol_tree_reader reader;
    uint8_t bytes[VM_COPY_CHUNK_SIZE];
};

static const uint8_t zeros[VM_CHECKPOINT_BLOCK_SIZE];

/* ---- The file --------------------------------------------------------------------------------- */

static enum kelpie_status store(struct pack *pack, const uint8_t *data, size_t size) {
    ASSERT(size > 0);
    ASSERT(pack->status == KELPIE_OK);
    pack->stored += size;
    if (pack->stored > pack->limits->stored_max) {
        return error_set_field(&pack->err, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max",
                               "the workspace takes more than the %llu bytes allowed",
                               (unsigned long long)pack->limits->stored_max);
    }
    return host_file_write_at(pack->host, pack->fd, data, size, pack->offset, &pack->err);
}

/* Runs of zeros that fill a block of the file are left out. libarchive is never told that a write failed: it would forget what it
 * has allocated for its output. */
static la_ssize_t write_callback(struct archive *archive, void *context, const void *buffer,
                                 size_t size) {
    struct pack *pack = context;
    const uint8_t *data = buffer;
    size_t done = 0;
    ASSERT(pack->fd != HOST_FD_NONE);
    ASSERT(archive);
    while (done < size && pack->status == KELPIE_OK) {
        size_t room = sizeof(zeros) - (size_t)(pack->offset % sizeof(zeros));
        size_t piece = min_size(room, size - done);
        bool hole = piece == sizeof(zeros) && memcmp(data + done, zeros, piece) == 0;
        if (!hole) {
            pack->status = store(pack, data + done, piece);
        }
        pack->offset += piece;
        done += piece;
    }
    return (la_ssize_t)size;
}

/* What libarchive said no to: most often our own write. */
static enum kelpie_status failed(struct pack *pack, struct kelpie_error *err) {
    ASSERT(pack->archive);
    if (pack->status != KELPIE_OK) {
        if (err) {
            *err = pack->err;
        }
        return pack->status;
    }
    const char *text = archive_error_string(pack->archive);
    ASSERT(pack->err.status == KELPIE_OK);
    return error_set(err, KELPIE_SNAPSHOT_FAILED, "cannot write the archive: %.200s",
                     text ? text : "no memory");
}

/* What came of a call of libarchive. */
static enum kelpie_status result_of(struct pack *pack, bool done, struct kelpie_error *err) {
    ASSERT(pack->archive);
    ASSERT(pack->fd != HOST_FD_NONE);
    return done && pack->status == KELPIE_OK ? KELPIE_OK : failed(pack, err);
}

/* ---- Entries ---------------------------------------------------------------------------------- */

static enum kelpie_status malformed(struct kelpie_error *err) {
    return error_set(err, KELPIE_COPY_FAILED, "the guest sent what is no folder");
}

/* A new one, of which nothing is known. */
static enum kelpie_status entry_renew(struct pack *pack, struct kelpie_error *err) {
    archive_entry_free(pack->entry); /* NULL is fine */
    pack->entry = archive_entry_new();
    ASSERT(pack->links);
    if (!pack->entry) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an archive's entry");
    }
    archive_entry_set_uid(pack->entry, 0);
    archive_entry_set_gid(pack->entry, 0);
    archive_entry_set_nlink(pack->entry, 1);
    return KELPIE_OK;
}

static enum kelpie_status too_large(struct kelpie_error *inner, struct kelpie_error *err) {
    ASSERT(inner->field[0] != '\0');
    ASSERT(inner->status != KELPIE_OK);
    inner->status = KELPIE_SNAPSHOT_TOO_LARGE;
    if (err) {
        *err = *inner;
    }
    return KELPIE_SNAPSHOT_TOO_LARGE;
}

/* One more entry, with its bytes; those of a file with holes count piece by piece. */
static enum kelpie_status count(struct pack *pack, const struct protocol_tree_entry *entry,
                                struct kelpie_error *err) {
    struct protocol_tree_entry counted = *entry;
    struct kelpie_error inner = {0};
    ASSERT(entry->kind != PROTOCOL_TREE_EXTENT);
    ASSERT(entry->name);
    if (entry->kind == PROTOCOL_TREE_SPARSE) {
        counted.kind = PROTOCOL_TREE_FILE;
        counted.size = 0;
    }
    if (vm_tree_count(&pack->report, &pack->limits->tree, &counted, &inner) != KELPIE_OK) {
        return too_large(&inner, err);
    }
    if (entry->size > SNAPSHOT_PART_SIZE_MAX) {
        error_set_field(&inner, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max", "%.300s is too long",
                        entry->name);
        return too_large(&inner, err);
    }
    return KELPIE_OK;
}

static enum kelpie_status count_piece(struct pack *pack, uint64_t size, struct kelpie_error *err) {
    uint64_t max = pack->limits->tree.bytes_max;
    struct kelpie_error inner = {0};
    ASSERT(pack->in_pieces);
    ASSERT(pack->report.bytes <= max);
    if (size > max - pack->report.bytes) {
        error_set_field(&inner, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max",
                        "the folder's files have more than the %llu bytes allowed",
                        (unsigned long long)max);
        return too_large(&inner, err);
    }
    pack->report.bytes += size;
    return KELPIE_OK;
}

static unsigned type_of(enum protocol_tree_kind kind) {
    ASSERT(kind != PROTOCOL_TREE_END);
    ASSERT(kind < PROTOCOL_TREE_KIND_COUNT);
    switch ((int)kind) {
    case PROTOCOL_TREE_FILE:
    case PROTOCOL_TREE_SPARSE:
        return AE_IFREG;
    case PROTOCOL_TREE_LINK:
        return AE_IFLNK;
    default:
        return AE_IFDIR;
    }
}

/* The head of a file, folder or link. */
static enum kelpie_status put_head(struct pack *pack, const struct protocol_tree_entry *entry,
                                   struct kelpie_error *err) {
    struct archive_entry *head = pack->entry;
    unsigned type = type_of(entry->kind);
    ASSERT(!pack->in_pieces);
    TRY(count(pack, entry, err));
    archive_entry_set_filetype(head, type);
    archive_entry_set_perm(head, type == AE_IFLNK ? 0777 : (mode_t)entry->mode);
    archive_entry_set_pathname(head, entry->kind == PROTOCOL_TREE_ROOT ? "./" : entry->name);
    if (entry->modified_ns != 0) {
        archive_entry_set_mtime(head, (time_t)(entry->modified_ns / NS_PER_S),
                                (long)(entry->modified_ns % NS_PER_S));
    }
    if (type == AE_IFLNK) {
        archive_entry_set_symlink(head, entry->target);
    }
    archive_entry_set_size(head, type == AE_IFREG ? (la_int64_t)entry->size : 0);
    pack->size = type == AE_IFREG ? entry->size : 0;
    pack->done = 0;
    pack->in_pieces = entry->kind == PROTOCOL_TREE_SPARSE;
    if (type == AE_IFREG && archive_entry_nlink(head) > 1) {
        struct archive_entry *spare = NULL;
        archive_entry_linkify(pack->links, &pack->entry, &spare);
        ASSERT(!spare); /* that is cpio's */
        head = pack->entry;
    }
    pack->dropped = archive_entry_hardlink(head) != NULL;
    TRY(result_of(pack, archive_write_header(pack->archive, head) == ARCHIVE_OK, err));
    return entry_renew(pack, err);
}

/* Bytes of the file under way. */
static enum kelpie_status put_bytes(struct pack *pack, const uint8_t *bytes, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(size <= pack->size - pack->done);
    ASSERT(pack->archive);
    pack->done += size;
    if (pack->dropped) {
        return KELPIE_OK;
    }
    bool written = archive_write_data(pack->archive, bytes, size) == (la_ssize_t)size;
    return result_of(pack, written, err);
}

/* The next piece of a file: a hole up to it. The last one is empty, and at the end. */
static enum kelpie_status take_extent(struct pack *pack, const struct protocol_tree_entry *entry,
                                      struct kelpie_error *err) {
    uint64_t offset = entry->modified_ns;
    ASSERT(pack->done <= pack->size);
    if (!pack->in_pieces || offset < pack->done || offset > pack->size ||
        entry->size > pack->size - offset) {
        return malformed(err);
    }
    TRY(count_piece(pack, entry->size, err));
    if (pack->dropped) {
        pack->done = offset;
    }
    while (pack->done < offset) {
        TRY(put_bytes(pack, zeros, (size_t)min_u64(sizeof(zeros), offset - pack->done), err));
    }
    ASSERT(pack->done == offset);
    pack->in_pieces = entry->size > 0 || offset < pack->size;
    return KELPIE_OK;
}

static enum kelpie_status take_entry(struct pack *pack, const struct protocol_tree_entry *entry,
                                     struct kelpie_error *err) {
    ASSERT(entry->name);
    if (pack->in_pieces != (entry->kind == PROTOCOL_TREE_EXTENT)) {
        return malformed(err);
    }
    switch ((int)entry->kind) {
    case PROTOCOL_TREE_EXTENT:
        return take_extent(pack, entry, err);
    case PROTOCOL_TREE_OWNER:
        archive_entry_set_uid(pack->entry, (la_int64_t)(uint32_t)entry->size);
        archive_entry_set_gid(pack->entry, (la_int64_t)(entry->size >> 32));
        if (entry->modified_ns != 0) {
            archive_entry_set_ino64(pack->entry, (la_int64_t)entry->modified_ns);
            archive_entry_set_nlink(pack->entry, UINT32_MAX); /* how many is not known */
        }
        return KELPIE_OK;
    case PROTOCOL_TREE_ATTRIBUTE:
        if (archive_entry_xattr_count(pack->entry) >= VM_CHECKPOINT_ATTRIBUTE_COUNT_MAX) {
            return malformed(err);
        }
        archive_entry_xattr_add_entry(pack->entry, entry->name, entry->target, entry->target_size);
        return KELPIE_OK;
    case PROTOCOL_TREE_HARD_LINK:
        return malformed(err); /* a guest tells names of one file by their number */
    default:
        return put_head(pack, entry, err);
    }
}

static enum kelpie_status take_event(struct pack *pack, const struct protocol_tree_event *event,
                                     struct kelpie_error *err) {
    ASSERT(pack->entry);
    switch (event->kind) {
    case PROTOCOL_TREE_EVENT_NONE:
    case PROTOCOL_TREE_EVENT_FILE_END:
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_ENTRY:
        return take_entry(pack, event->entry, err);
    case PROTOCOL_TREE_EVENT_CONTENT:
        return put_bytes(pack, event->bytes, event->size, err);
    case PROTOCOL_TREE_EVENT_END:
        pack->ended = true;
        return pack->in_pieces ? malformed(err) : KELPIE_OK;
    case PROTOCOL_TREE_EVENT_MALFORMED:
        return malformed(err);
    }
    UNREACHABLE();
}

static enum kelpie_status take_all(struct pack *pack, struct kelpie_error *err) {
    size_t count_read = 1;
    ASSERT(!pack->ended);
    while (count_read > 0) {
        TRY(pack->source->read(pack->source->argument, pack->bytes, sizeof(pack->bytes),
                               &count_read, err));
        const uint8_t *bytes = pack->bytes;
        size_t left = count_read;
        struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
        while (event.kind != PROTOCOL_TREE_EVENT_NONE) {
            protocol_tree_read(&pack->reader, &bytes, &left, &event);
            TRY(take_event(pack, &event, err));
        }
    }
    if (!pack->ended) {
        return error_set(err, KELPIE_COPY_FAILED, "the guest sent only a part of the folder");
    }
    TRY(result_of(pack, archive_write_close(pack->archive) == ARCHIVE_OK, err));
    return host_file_truncate(pack->host, pack->fd, pack->offset, err); /* its end may be a hole */
}

static enum kelpie_status begin(struct pack *pack, struct kelpie_error *err) {
    pack->archive = archive_write_new();
    pack->links = archive_entry_linkresolver_new();
    ASSERT(pack->fd != HOST_FD_NONE);
    if (!pack->archive || !pack->links) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an archive");
    }
    archive_entry_linkresolver_set_strategy(pack->links, ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE);
    /* Names are bytes, whatever this process's language is. */
    int result = archive_write_set_format_pax(pack->archive);
    result |= archive_write_set_options(pack->archive, "hdrcharset=BINARY,xattrheader=SCHILY");
    result |= archive_write_set_bytes_per_block(pack->archive, VM_COPY_CHUNK_SIZE);
    result |= archive_write_set_bytes_in_last_block(pack->archive, 1);
    result |= archive_write_open(pack->archive, pack, NULL, write_callback, NULL);
    ASSERT(!pack->entry);
    static_assert(ARCHIVE_OK == 0, "one that is not is seen in all together");
    TRY(result_of(pack, result == ARCHIVE_OK, err));
    return entry_renew(pack, err);
}

enum kelpie_status vm_checkpoint_pack(struct host *host, const struct vm_tree_source *source,
                                      int fd, const struct vm_checkpoint_limits *limits,
                                      struct kelpie_error *err) {
    ASSERT(source->read);
    ASSERT(limits);
    struct pack *pack = host_allocate(host, sizeof(*pack), err);
    if (!pack) {
        return KELPIE_NO_MEMORY;
    }
    pack->host = host;
    pack->source = source;
    pack->limits = limits;
    pack->fd = fd;
    protocol_tree_reader_init(&pack->reader);
    pack->reader.exact = true;
    enum kelpie_status status = begin(pack, err);
    if (status == KELPIE_OK) {
        status = take_all(pack, err);
    }
    pack->status = status; /* what the archive's end would be goes nowhere */
    archive_write_free(pack->archive);
    archive_entry_free(pack->entry);
    archive_entry_linkresolver_free(pack->links);
    free(pack);
    return status;
}
