/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "host/host_below.h"
#include "vm/tree.h"

/* Names of folders that are still to be listed, one behind the other, each with its zero. */
struct queue {
    char *names;
    size_t start;
    size_t end;
    size_t capacity;
};

struct tree_in {
    struct vm_transfer *transfer;
    struct host *host;
    const struct vm_tree_limits *limits;
    struct kelpie_tree_report *report;
    int root_fd;
    struct queue queue;
    struct host_dir_entry *entries;
    size_t capacity;
    size_t chunk_size; /* of transfer->chunk, what waits to be written */
};

/* ---- The queue -------------------------------------------------------------------------------- */

static enum kelpie_status queue_push(struct host *host, struct queue *queue, const char *name,
                                     struct kelpie_error *err) {
    size_t size = strlen(name) + 1;
    ASSERT(size <= KELPIE_PATH_SIZE_MAX + 1);
    ASSERT(queue->start <= queue->end && queue->end <= queue->capacity);
    if (size > queue->capacity - queue->end) {
        size_t waiting = queue->end - queue->start;
        size_t capacity = 2 * waiting + VM_TREE_QUEUE_SIZE_MIN;
        char *names = host_allocate(host, capacity, err);
        if (!names) {
            return KELPIE_NO_MEMORY;
        }
        if (waiting > 0) {
            memcpy(names, queue->names + queue->start, waiting);
        }
        free(queue->names);
        *queue = (struct queue){.names = names, .end = waiting, .capacity = capacity};
    }
    memcpy(queue->names + queue->end, name, size);
    queue->end += size;
    return KELPIE_OK;
}

/* False: it is empty. */
static bool queue_pop(struct queue *queue, char name[KELPIE_PATH_SIZE_MAX + 1]) {
    ASSERT(queue->start <= queue->end);
    if (queue->start == queue->end) {
        return false;
    }
    size_t size = strlen(queue->names + queue->start) + 1;
    ASSERT(size <= queue->end - queue->start);
    memcpy(name, queue->names + queue->start, size);
    queue->start += size;
    return true;
}

/* ---- Sending ---------------------------------------------------------------------------------- */

static enum kelpie_status flush(struct tree_in *in, struct kelpie_error *err) {
    size_t size = in->chunk_size;
    ASSERT(size > 0 && size <= sizeof(in->transfer->chunk));
    in->chunk_size = 0;
    ASSERT(in->transfer->exec);
    return vm_transfer_write(in->transfer, in->transfer->chunk, size, err);
}

static enum kelpie_status send_entry(struct tree_in *in, const struct protocol_tree_entry *entry,
                                     struct kelpie_error *err) {
    static_assert(VM_COPY_CHUNK_SIZE >= PROTOCOL_TREE_ENTRY_SIZE_MAX, "an entry fits");
    ASSERT(entry->name);
    if (sizeof(in->transfer->chunk) - in->chunk_size < PROTOCOL_TREE_ENTRY_SIZE_MAX) {
        TRY(flush(in, err));
    }
    struct cursor_writer writer = cursor_writer_init(in->transfer->chunk + in->chunk_size,
                                                     sizeof(in->transfer->chunk) - in->chunk_size);
    protocol_encode_tree_entry(&writer, entry);
    if (writer.failed) {
        return error_set(err, KELPIE_COPY_FAILED,
                         "%.300s of %.300s cannot be copied: its name is too long, or lies in more "
                         "than %d folders",
                         entry->name, in->transfer->host_path, PROTOCOL_TREE_DEPTH_MAX);
    }
    in->chunk_size += writer.size;
    ASSERT(in->chunk_size <= sizeof(in->transfer->chunk));
    return KELPIE_OK;
}

static enum kelpie_status send_content(struct tree_in *in, int fd, const char *name, uint64_t size,
                                       struct kelpie_error *err) {
    uint64_t offset = 0;
    ASSERT(fd >= 0);
    ASSERT(name);
    while (offset < size) {
        if (in->chunk_size == sizeof(in->transfer->chunk)) {
            TRY(flush(in, err));
        }
        size_t want = (size_t)min_u64(sizeof(in->transfer->chunk) - in->chunk_size, size - offset);
        size_t count = 0;
        TRY(host_file_read_at(in->host, fd, in->transfer->chunk + in->chunk_size, want, offset,
                              &count, err));
        if (count < want) {
            return error_set(err, KELPIE_COPY_FAILED, "%.300s became shorter while it was copied",
                             name);
        }
        in->chunk_size += count;
        offset += count;
    }
    return KELPIE_OK;
}

/* ---- Looking ---------------------------------------------------------------------------------- */

static enum kelpie_status visit_file(struct tree_in *in, const char *name,
                                     struct kelpie_error *err) {
    AUTO_FD struct host_fd file = {in->host, HOST_FD_NONE};
    struct host_file_info info;
    ASSERT(name[0] != '/');
    TRY(host_below_open(in->host, in->root_fd, name, HOST_OPEN_READ, 0, &file.fd, err));
    TRY(host_file_stat(in->host, file.fd, &info, err));
    if (info.type != HOST_FILE_REGULAR) {
        return error_set(err, KELPIE_COPY_FAILED, "%.300s was exchanged while it was copied", name);
    }
    const struct protocol_tree_entry entry = {.kind = PROTOCOL_TREE_FILE,
                                              .name = name,
                                              .mode = info.mode & 07777,
                                              .size = info.size,
                                              .modified_ns = info.modified_ns};
    TRY(vm_tree_count(in->report, in->limits, &entry, err));
    TRY(send_entry(in, &entry, err));
    return send_content(in, file.fd, name, info.size, err);
}

static enum kelpie_status visit_link(struct tree_in *in, const char *name,
                                     struct kelpie_error *err) {
    char target[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(name[0] != '/');
    ASSERT(in->root_fd >= 0);
    TRY(host_below_readlink(in->host, in->root_fd, name, target, sizeof(target), err));
    const struct protocol_tree_entry entry = {
        .kind = PROTOCOL_TREE_LINK, .name = name, .target = target};
    TRY(vm_tree_count(in->report, in->limits, &entry, err));
    return send_entry(in, &entry, err);
}

static enum kelpie_status visit_folder(struct tree_in *in, const char *name,
                                       const struct host_file_info *info,
                                       struct kelpie_error *err) {
    const struct protocol_tree_entry entry = {.kind = PROTOCOL_TREE_FOLDER,
                                              .name = name,
                                              .mode = info->mode & 07777,
                                              .modified_ns = info->modified_ns};
    ASSERT(info->type == HOST_FILE_FOLDER);
    TRY(vm_tree_count(in->report, in->limits, &entry, err));
    TRY(send_entry(in, &entry, err));
    return queue_push(in->host, &in->queue, name, err);
}

/* What is gone again is left out. */
static enum kelpie_status visit(struct tree_in *in, const char *name, struct kelpie_error *err) {
    struct host_file_info info;
    enum kelpie_status status = host_below_stat(in->host, in->root_fd, name, &info, err);
    ASSERT(in->root_fd >= 0);
    ASSERT(in->queue.start <= in->queue.end);
    if (status == KELPIE_OK) {
        switch (info.type) {
        case HOST_FILE_REGULAR:
            status = visit_file(in, name, err);
            break;
        case HOST_FILE_FOLDER:
            status = visit_folder(in, name, &info, err);
            break;
        case HOST_FILE_LINK:
            status = visit_link(in, name, err);
            break;
        case HOST_FILE_OTHER:
            vm_tree_skip(in->report, name);
            break;
        }
    }
    return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
}

/* Lists a folder, into as much memory as it takes. */
static enum kelpie_status list(struct tree_in *in, const char *folder, size_t *ret_count,
                               struct kelpie_error *err) {
    ASSERT(in->entries || in->capacity == 0);
    ASSERT(ret_count);
    for (;;) {
        struct kelpie_error failure = {0};
        enum kelpie_status status = KELPIE_NO_SPACE;
        if (in->capacity > 0) {
            status = host_below_list(in->host, in->root_fd, folder, in->entries, in->capacity,
                                     ret_count, &failure);
        }
        if (status != KELPIE_NO_SPACE || in->capacity >= VM_TREE_LIST_COUNT_MAX) {
            if (status != KELPIE_OK && err) {
                *err = failure;
            }
            return status;
        }
        size_t capacity = in->capacity > 0 ? 4 * in->capacity : VM_TREE_LIST_COUNT_MIN;
        free(in->entries);
        in->capacity = 0;
        in->entries = host_allocate(in->host, capacity * sizeof(*in->entries), err);
        if (!in->entries) {
            return KELPIE_NO_MEMORY;
        }
        in->capacity = capacity;
    }
}

static enum kelpie_status visit_all(struct tree_in *in, const char *folder,
                                    struct kelpie_error *err) {
    bool is_root = strcmp(folder, ".") == 0;
    size_t count = 0;
    enum kelpie_status status = list(in, folder, &count, err);
    ASSERT(folder[0] != '/');
    if (status != KELPIE_OK) {
        return status == KELPIE_NOT_FOUND && !is_root ? KELPIE_OK : status;
    }
    ASSERT(count <= in->capacity);
    for (size_t i = 0; i < count; i++) {
        char name[KELPIE_PATH_SIZE_MAX + HOST_NAME_SIZE_MAX + 2];
        snprintf(name, sizeof(name), "%s%s%s", is_root ? "" : folder, is_root ? "" : "/",
                 in->entries[i].name);
        if (strlen(name) > KELPIE_PATH_SIZE_MAX) {
            return error_set_os(err, ENAMETOOLONG, "cannot copy %.300s", name);
        }
        TRY(visit(in, name, err));
    }
    return KELPIE_OK;
}

static enum kelpie_status walk(struct tree_in *in, struct kelpie_error *err) {
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(in->root_fd >= 0);
    TRY(queue_push(in->host, &in->queue, ".", err));
    while (queue_pop(&in->queue, folder)) {
        TRY(visit_all(in, folder, err));
    }
    TRY(send_entry(in,
                   &(struct protocol_tree_entry){
                       .kind = PROTOCOL_TREE_END, .name = "", .size = in->report->skipped_count},
                   err));
    TRY(flush(in, err));
    ASSERT(in->chunk_size == 0);
    return vm_transfer_finish(in->transfer, err);
}

enum kelpie_status vm_tree_in(struct vm_transfer *transfer, const struct vm_tree_limits *limits,
                              struct kelpie_tree_report *report, struct kelpie_error *err) {
    struct host *host = transfer->vm->host;
    AUTO_FD struct host_fd root = {host, HOST_FD_NONE};
    struct host_file_info info;
    ASSERT(limits && report);
    ASSERT(!transfer->exec);
    TRY(host_file_open(host, transfer->host_path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &root.fd,
                       err));
    TRY(host_file_stat(host, root.fd, &info, err));
    if (info.type != HOST_FILE_FOLDER) {
        return error_set_os(err, ENOTDIR, "cannot list %.300s", transfer->host_path);
    }
    TRY(vm_transfer_put(transfer, (info.mode & 07777) | PROTOCOL_MODE_FOLDER, 0, err));
    struct tree_in in = {
        .transfer = transfer, .host = host, .limits = limits, .report = report, .root_fd = root.fd};
    enum kelpie_status status = walk(&in, err);
    free(in.queue.names);
    free(in.entries);
    return status;
}
