/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* An archive on its way into a guest, as an exact tree. It is untrusted: whatever is not as we write it is SNAPSHOT_CORRUPT. */
#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/checkpoint.h"

#define NS_PER_S 1000000000ull

/* Which entries a pass sends. */
enum pass {
    PASS_ALL = 0,
    PASS_FOLDERS, /* again, when all that is in them is there */
    PASS_COUNT
};

struct unpack {
    struct host *host;
    int fd;
    uint64_t size;
    uint64_t offset;
    struct vm_transfer *transfer; /* NULL: nothing is sent */
    const struct host_wait *wait;
    enum pass pass;
    bool root_seen;
    struct kelpie_tree_report report;
    struct archive *archive;
    enum kelpie_status status; /* of the read that failed */
    struct kelpie_error err;
    uint8_t head[PROTOCOL_TREE_ENTRY_SIZE_MAX];
    uint8_t bytes[VM_COPY_CHUNK_SIZE];
};

static const uint8_t zeros[VM_CHECKPOINT_BLOCK_SIZE];

static enum kelpie_status corrupt(struct kelpie_error *err, const char *what) {
    ASSERT(what);
    ASSERT(what[0] != '\0');
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "files",
                           "files of the bundle is no archive of a workspace: %s", what);
}

static la_ssize_t read_callback(struct archive *archive, void *context, const void **ret_data) {
    struct unpack *unpack = context;
    size_t size = 0;
    ASSERT(unpack->offset <= unpack->size);
    *ret_data = unpack->bytes;
    size_t wanted = (size_t)min_u64(sizeof(unpack->bytes), unpack->size - unpack->offset);
    if (wanted == 0) {
        return 0;
    }
    unpack->status = host_file_read_at(unpack->host, unpack->fd, unpack->bytes, wanted,
                                       unpack->offset, &size, &unpack->err);
    if (unpack->status != KELPIE_OK) {
        archive_set_error(archive, -1, "%s", unpack->err.message);
        return ARCHIVE_FATAL;
    }
    unpack->offset += size;
    return (la_ssize_t)size;
}

static la_int64_t skip_callback(struct archive *archive, void *context, la_int64_t request) {
    struct unpack *unpack = context;
    ASSERT(archive);
    ASSERT(unpack->offset <= unpack->size);
    uint64_t left = unpack->size - unpack->offset;
    uint64_t step = request < 0 ? 0 : min_u64((uint64_t)request, left);
    unpack->offset += step;
    return (la_int64_t)step;
}

static enum kelpie_status failed(struct unpack *unpack, struct kelpie_error *err) {
    ASSERT(unpack->archive);
    if (unpack->status != KELPIE_OK) {
        if (err) {
            *err = unpack->err;
        }
        return unpack->status;
    }
    const char *text = archive_error_string(unpack->archive);
    ASSERT(unpack->size >= unpack->offset);
    char what[256];
    snprintf(what, sizeof(what), "%.200s", text ? text : "it cannot be read");
    return corrupt(err, what);
}

/* ---- What is sent ----------------------------------------------------------------------------- */

static enum kelpie_status send(struct unpack *unpack, const struct protocol_tree_entry *entry,
                               struct kelpie_error *err) {
    struct cursor_writer writer = cursor_writer_init(unpack->head, sizeof(unpack->head));
    protocol_encode_tree_entry(&writer, entry);
    ASSERT(entry->name);
    if (writer.failed) {
        return corrupt(err, "it has an entry that cannot be");
    }
    return unpack->transfer ? vm_transfer_write(unpack->transfer, unpack->head, writer.size, err)
                            : KELPIE_OK;
}

static enum kelpie_status send_extent(struct unpack *unpack, const uint8_t *bytes, uint64_t offset,
                                      size_t size, struct kelpie_error *err) {
    const struct protocol_tree_entry extent = {
        .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = size, .modified_ns = offset};
    ASSERT(bytes || size == 0);
    ASSERT(unpack->report.bytes <= KELPIE_TREE_BYTES_DEFAULT);
    if (size > KELPIE_TREE_BYTES_DEFAULT - unpack->report.bytes) {
        return corrupt(err, "its files have more bytes than a workspace can");
    }
    unpack->report.bytes += size;
    TRY(send(unpack, &extent, err));
    return unpack->transfer && size > 0 ? vm_transfer_write(unpack->transfer, bytes, size, err)
                                        : KELPIE_OK;
}

/* A run of bytes of a file, in pieces between blocks of zeros. */
static enum kelpie_status send_run(struct unpack *unpack, const uint8_t *bytes, uint64_t offset,
                                   size_t size, struct kelpie_error *err) {
    size_t start = 0; /* of the piece that is not sent yet */
    size_t at = 0;
    ASSERT(bytes || size == 0);
    while (at < size) {
        size_t block = sizeof(zeros) - (size_t)((offset + at) % sizeof(zeros));
        block = min_size(block, size - at);
        bool hole = memcmp(bytes + at, zeros, block) ==
                    0; /* also a part of a block: its rest is in the next run */
        if (hole && at > start) {
            TRY(send_extent(unpack, bytes + start, offset + start, at - start, err));
        }
        at += block;
        start = hole ? at : start;
    }
    ASSERT(start <= size);
    return size > start ? send_extent(unpack, bytes + start, offset + start, size - start, err)
                        : KELPIE_OK;
}

static enum kelpie_status check_time(const struct unpack *unpack, struct kelpie_error *err) {
    ASSERT(unpack->wait);
    ASSERT(unpack->host);
    if (host_monotonic_ns(unpack->host) > unpack->wait->deadline_ns) {
        return error_set(err, KELPIE_TIMED_OUT, "reading the bundle's files took too long");
    }
    return KELPIE_OK;
}

/* The file's bytes. What libarchive leaves out is a hole of a sparse file of some other tar. */
static enum kelpie_status send_content(struct unpack *unpack, uint64_t size,
                                       struct kelpie_error *err) {
    uint64_t done = 0;
    int result = ARCHIVE_OK;
    ASSERT(unpack->archive);
    while (result == ARCHIVE_OK) {
        const void *bytes = NULL;
        size_t count = 0;
        la_int64_t offset = 0;
        TRY(check_time(unpack, err));
        result = archive_read_data_block(unpack->archive, &bytes, &count, &offset);
        if (result == ARCHIVE_EOF) {
            break;
        }
        if (result != ARCHIVE_OK) {
            return failed(unpack, err);
        }
        uint64_t start = (uint64_t)offset;
        if (start < done || start > size || count > size - start) {
            return corrupt(err, "a file has more bytes than its size");
        }
        TRY(send_run(unpack, bytes, start, count, err));
        done = start + count;
    }
    ASSERT(done <= size);
    return send_extent(unpack, NULL, size, 0, err);
}

/* ---- Entries ---------------------------------------------------------------------------------- */

/* The name without what says nothing: "./" before it, slashes behind. Empty: the folder itself. NULL: it is not plain. */
static const char *plain_name(const char *name, char buffer[KELPIE_PATH_SIZE_MAX + 1]) {
    if (!name) {
        return NULL;
    }
    while (name[0] == '.' && name[1] == '/') {
        name += 2;
    }
    size_t size = strnlen(name, KELPIE_PATH_SIZE_MAX + 1);
    while (size > 0 && size <= KELPIE_PATH_SIZE_MAX && name[size - 1] == '/') {
        size--;
    }
    if (size > KELPIE_PATH_SIZE_MAX) {
        return NULL;
    }
    memcpy(buffer, name, size);
    buffer[size] = '\0';
    if (strcmp(buffer, ".") == 0) {
        buffer[0] = '\0';
    }
    ASSERT(strlen(buffer) <= size);
    return buffer[0] == '\0' || protocol_tree_name_is_plain(buffer) ? buffer : NULL;
}

static enum kelpie_status send_meta(struct unpack *unpack, struct archive_entry *head,
                                    struct kelpie_error *err) {
    la_int64_t uid = archive_entry_uid(head);
    la_int64_t gid = archive_entry_gid(head);
    ASSERT(unpack->archive);
    if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX ||
        archive_entry_xattr_count(head) > VM_CHECKPOINT_ATTRIBUTE_COUNT_MAX) {
        return corrupt(err, "an entry has an owner or attributes that cannot be");
    }
    TRY(send(unpack,
             &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_OWNER,
                                           .name = "",
                                           .size = (uint64_t)uid | (uint64_t)gid << 32},
             err));
    const char *name = NULL;
    const void *value = NULL;
    size_t size = 0;
    archive_entry_xattr_reset(head);
    while (archive_entry_xattr_next(head, &name, &value, &size) == ARCHIVE_OK) {
        TRY(send(unpack,
                 &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_ATTRIBUTE,
                                               .name = name ? name : "",
                                               .target = value ? value : "",
                                               .target_size = size},
                 err));
    }
    ASSERT(uid <= UINT32_MAX);
    return KELPIE_OK;
}

static uint64_t modified_ns(struct archive_entry *head) {
    time_t seconds = archive_entry_mtime_is_set(head) ? archive_entry_mtime(head) : 0;
    long ns = archive_entry_mtime_is_set(head) ? archive_entry_mtime_nsec(head) : 0;
    ASSERT(head);
    bool told = seconds > 0 && (uint64_t)seconds < INT64_MAX / NS_PER_S && ns >= 0 &&
                (uint64_t)ns < NS_PER_S;
    return told ? (uint64_t)seconds * NS_PER_S + (uint64_t)ns : 0;
}

/* One of the kinds that a workspace has, and its budget. */
static enum kelpie_status describe(struct unpack *unpack, struct archive_entry *head,
                                   struct protocol_tree_entry *entry, struct kelpie_error *err) {
    static const struct vm_tree_limits limits = {KELPIE_TREE_BYTES_DEFAULT,
                                                 KELPIE_TREE_COUNT_DEFAULT};
    la_int64_t size = archive_entry_size_is_set(head) ? archive_entry_size(head) : 0;
    ASSERT(entry->name);
    entry->modified_ns = modified_ns(head);
    entry->mode = archive_entry_perm(head) & 07777;
    ASSERT(entry->mode <= 07777);
    switch (archive_entry_filetype(head)) {
    case AE_IFREG:
        if (size < 0 || (uint64_t)size > SNAPSHOT_PART_SIZE_MAX || entry->name[0] == '\0') {
            return corrupt(err, "a file has a size or a name that cannot be");
        }
        entry->kind = PROTOCOL_TREE_SPARSE;
        entry->size = (uint64_t)size;
        break;
    case AE_IFDIR:
        entry->kind = entry->name[0] == '\0' ? PROTOCOL_TREE_ROOT : PROTOCOL_TREE_FOLDER;
        unpack->root_seen = unpack->root_seen || entry->kind == PROTOCOL_TREE_ROOT;
        break;
    case AE_IFLNK:
        entry->kind = PROTOCOL_TREE_LINK;
        entry->mode = 0;
        entry->target = archive_entry_symlink(head) ? archive_entry_symlink(head) : "";
        break;
    default:
        return corrupt(err, "it has something that is no file, folder or link");
    }
    struct protocol_tree_entry counted = *entry;
    counted.kind = counted.kind == PROTOCOL_TREE_SPARSE ? PROTOCOL_TREE_FILE : counted.kind;
    counted.size = 0; /* a file's bytes count as they come: holes are free */
    if (unpack->pass == PASS_ALL &&
        vm_tree_count(&unpack->report, &limits, &counted, NULL) != KELPIE_OK) {
        return corrupt(err, "it has more entries than a workspace can");
    }
    return KELPIE_OK;
}

static enum kelpie_status take_hard_link(struct unpack *unpack, const char *name,
                                         const char *target, struct kelpie_error *err) {
    char buffer[KELPIE_PATH_SIZE_MAX + 1];
    const char *plain = plain_name(target, buffer);
    ASSERT(name);
    ASSERT(target);
    if (!plain || plain[0] == '\0' || name[0] == '\0') {
        return corrupt(err, "a link leads out of the workspace");
    }
    if (unpack->pass == PASS_FOLDERS) {
        return KELPIE_OK;
    }
    return send(unpack,
                &(struct protocol_tree_entry){
                    .kind = PROTOCOL_TREE_HARD_LINK, .name = name, .target = plain},
                err);
}

static enum kelpie_status take_entry(struct unpack *unpack, struct archive_entry *head,
                                     struct kelpie_error *err) {
    char buffer[KELPIE_PATH_SIZE_MAX + 1];
    struct protocol_tree_entry entry = {0};
    ASSERT(unpack->archive);
    entry.name = plain_name(archive_entry_pathname(head), buffer);
    if (!entry.name) {
        return corrupt(err, "a name leads out of the workspace, or is too long");
    }
    if (archive_entry_hardlink(head)) {
        return take_hard_link(unpack, entry.name, archive_entry_hardlink(head), err);
    }
    TRY(describe(unpack, head, &entry, err));
    bool is_folder = entry.kind == PROTOCOL_TREE_FOLDER || entry.kind == PROTOCOL_TREE_ROOT;
    if (unpack->pass == PASS_FOLDERS && !is_folder) {
        return KELPIE_OK;
    }
    if (is_folder) {
        entry.name = entry.kind == PROTOCOL_TREE_ROOT ? "" : entry.name;
    }
    TRY(send_meta(unpack, head, err));
    TRY(send(unpack, &entry, err));
    return entry.kind == PROTOCOL_TREE_SPARSE ? send_content(unpack, entry.size, err) : KELPIE_OK;
}

static enum kelpie_status take_all(struct unpack *unpack, struct kelpie_error *err) {
    struct archive_entry *head = NULL;
    int result = ARCHIVE_OK;
    ASSERT(unpack->archive);
    while (result != ARCHIVE_EOF) {
        TRY(check_time(unpack, err));
        result = archive_read_next_header(unpack->archive, &head);
        if (result != ARCHIVE_OK && result != ARCHIVE_WARN && result != ARCHIVE_EOF) {
            return failed(unpack, err);
        }
        if (result != ARCHIVE_EOF) {
            TRY(take_entry(unpack, head, err));
        }
    }
    ASSERT(unpack->status == KELPIE_OK);
    return unpack->root_seen ? KELPIE_OK : corrupt(err, "it does not tell of the folder itself");
}

static enum kelpie_status run_pass(struct unpack *unpack, enum pass pass,
                                   struct kelpie_error *err) {
    ASSERT(!unpack->archive);
    ASSERT((unsigned)pass < PASS_COUNT);
    unpack->pass = pass;
    unpack->offset = 0;
    unpack->archive = archive_read_new();
    if (!unpack->archive) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an archive");
    }
    int result = archive_read_support_format_tar(unpack->archive);
    result |= archive_read_open2(unpack->archive, unpack, NULL, read_callback, skip_callback, NULL);
    enum kelpie_status status = result == ARCHIVE_OK ? take_all(unpack, err) : failed(unpack, err);
    archive_read_free(unpack->archive);
    unpack->archive = NULL;
    return status;
}

enum kelpie_status vm_checkpoint_unpack(struct host *host, int fd, uint64_t size,
                                        struct vm_transfer *transfer, const struct host_wait *wait,
                                        struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(fd != HOST_FD_NONE);
    struct unpack *unpack = host_allocate(host, sizeof(*unpack), err);
    if (!unpack) {
        return KELPIE_NO_MEMORY;
    }
    unpack->host = host;
    unpack->fd = fd;
    unpack->size = size;
    unpack->transfer = transfer;
    unpack->wait = wait;
    enum kelpie_status status = run_pass(unpack, PASS_ALL, err);
    if (status == KELPIE_OK && transfer) {
        status = run_pass(unpack, PASS_FOLDERS, err);
    }
    if (status == KELPIE_OK && transfer) {
        status =
            send(unpack, &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_END, .name = ""}, err);
    }
    free(unpack);
    return status;
}
