/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vm/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "host/host_below.h"

void vm_tree_skip(struct kelpie_tree_report *report, const char *name) {
    ASSERT(report);
    ASSERT(name);
    if (report->skipped_count == 0) {
        snprintf(report->skipped, sizeof(report->skipped), "%s", name);
    }
    report->skipped_count++;
}

enum kelpie_status vm_tree_count(struct kelpie_tree_report *report,
                                 const struct vm_tree_limits *limits,
                                 const struct protocol_tree_entry *entry,
                                 struct kelpie_error *err) {
    uint64_t count = report->file_count + report->folder_count + report->link_count;
    ASSERT(count <= limits->count_max);
    ASSERT(report->bytes <= limits->bytes_max);
    if (count == limits->count_max) {
        return error_set_field(err, KELPIE_COPY_FAILED, "count_max",
                               "the folder has more than the %llu entries allowed",
                               (unsigned long long)limits->count_max);
    }
    if (entry->size > limits->bytes_max - report->bytes) {
        return error_set_field(err, KELPIE_COPY_FAILED, "bytes_max",
                               "the folder's files have more than the %llu bytes allowed: %.300s "
                               "has %llu",
                               (unsigned long long)limits->bytes_max, entry->name,
                               (unsigned long long)entry->size);
    }
    report->file_count += entry->kind == PROTOCOL_TREE_FILE;
    report->folder_count += entry->kind == PROTOCOL_TREE_FOLDER;
    report->link_count += entry->kind == PROTOCOL_TREE_LINK;
    report->bytes += entry->size;
    return KELPIE_OK;
}

/* ---- Out -------------------------------------------------------------------------------------- */

struct tree_out {
    const struct vm_tree_source *source;
    struct host *host;
    const struct vm_tree_limits *limits;
    struct kelpie_tree_report *report;
    int root_fd;
    int file_fd; /* of the file under way; HOST_FD_NONE: none */
    uint64_t file_offset;
    bool ended;
    struct protocol_tree_reader reader;
    uint8_t bytes[VM_COPY_CHUNK_SIZE];
};

static enum kelpie_status make_entry(struct tree_out *out, const struct protocol_tree_entry *entry,
                                     struct kelpie_error *err) {
    ASSERT(out->file_fd == HOST_FD_NONE);
    ASSERT(protocol_tree_name_is_plain(entry->name));
    if (entry->kind == PROTOCOL_TREE_LINK &&
        !protocol_tree_link_stays(entry->name, entry->target)) {
        vm_tree_skip(out->report, entry->name);
        return KELPIE_OK;
    }
    TRY(vm_tree_count(out->report, out->limits, entry, err));
    if (entry->kind == PROTOCOL_TREE_FOLDER) {
        return host_below_mkdir(out->host, out->root_fd, entry->name, (entry->mode & 0777) | 0700,
                                err);
    }
    if (entry->kind == PROTOCOL_TREE_LINK) {
        return host_below_symlink(out->host, out->root_fd, entry->target, entry->name, err);
    }
    out->file_offset = 0;
    return host_below_open(out->host, out->root_fd, entry->name,
                           HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                           (entry->mode & 0777) | 0600, &out->file_fd, err);
}

static enum kelpie_status take_event(struct tree_out *out, const struct protocol_tree_event *event,
                                     struct kelpie_error *err) {
    ASSERT(out->root_fd >= 0);
    switch (event->kind) {
    case PROTOCOL_TREE_EVENT_NONE:
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_ENTRY:
        return make_entry(out, event->entry, err);
    case PROTOCOL_TREE_EVENT_CONTENT:
        TRY(host_file_write_at(out->host, out->file_fd, event->bytes, event->size, out->file_offset,
                               err));
        out->file_offset += event->size;
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_FILE_END:
        host_close(out->host, out->file_fd);
        out->file_fd = HOST_FD_NONE;
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_END:
        if (event->entry->size > 0) {
            vm_tree_skip(out->report, event->entry->name);
            out->report->skipped_count += event->entry->size - 1;
        }
        out->ended = true;
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_MALFORMED:
        return error_set(err, KELPIE_COPY_FAILED, "the guest sent what is no folder");
    }
    UNREACHABLE();
}

static enum kelpie_status take_all(struct tree_out *out, struct kelpie_error *err) {
    size_t count = 1;
    ASSERT(out->file_fd == HOST_FD_NONE);
    ASSERT(!out->ended);
    while (count > 0) {
        TRY(out->source->read(out->source->argument, out->bytes, sizeof(out->bytes), &count, err));
        const uint8_t *bytes = out->bytes;
        size_t left = count;
        struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
        while (event.kind != PROTOCOL_TREE_EVENT_NONE) {
            protocol_tree_read(&out->reader, &bytes, &left, &event);
            TRY(take_event(out, &event, err));
        }
    }
    if (!out->ended) {
        return error_set(err, KELPIE_COPY_FAILED, "the guest sent only a part of the folder");
    }
    return KELPIE_OK;
}

enum kelpie_status vm_tree_unpack(struct host *host, const struct vm_tree_source *source,
                                  const char *folder, const struct vm_tree_limits *limits,
                                  struct kelpie_tree_report *report, struct kelpie_error *err) {
    AUTO_FD struct host_fd root = {host, HOST_FD_NONE};
    ASSERT(folder);
    ASSERT(source->read);
    TRY(host_file_open(host, folder, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &root.fd, err));
    struct tree_out *out = host_allocate(host, sizeof(*out), err);
    if (!out) {
        return KELPIE_NO_MEMORY;
    }
    out->source = source;
    out->host = host;
    out->limits = limits;
    out->report = report;
    out->root_fd = root.fd;
    out->file_fd = HOST_FD_NONE;
    protocol_tree_reader_init(&out->reader);
    enum kelpie_status status = take_all(out, err);
    host_close(host, out->file_fd);
    free(out);
    return status;
}

static enum kelpie_status read_transfer(void *argument, void *buffer, size_t size, size_t *ret_size,
                                        struct kelpie_error *err) {
    ASSERT(argument);
    ASSERT(ret_size);
    return vm_transfer_read(argument, buffer, size, ret_size, err);
}

/* The place without slashes at its end, and one beside it. */
static enum kelpie_status name_places(struct vm_transfer *transfer,
                                      char place[KELPIE_PATH_SIZE_MAX + 1],
                                      char draft[KELPIE_PATH_SIZE_MAX + 1],
                                      struct kelpie_error *err) {
    char digits[VM_TREE_DRAFT_DIGITS + 1];
    size_t size = strlen(transfer->host_path);
    ASSERT(size > 0 && size <= KELPIE_PATH_SIZE_MAX);
    while (size > 1 && transfer->host_path[size - 1] == '/') {
        size--;
    }
    memcpy(place, transfer->host_path, size);
    place[size] = '\0';
    TRY(vm_random_hex(transfer->vm->host, digits, VM_TREE_DRAFT_DIGITS, err));
    int length = snprintf(draft, KELPIE_PATH_SIZE_MAX + 1, "%s.%s.tmp", place, digits);
    ASSERT(length > 0);
    if (length > KELPIE_PATH_SIZE_MAX) {
        return error_set_os(err, ENAMETOOLONG, "cannot make a folder beside %.300s", place);
    }
    ASSERT(strlen(place) > 0);
    return KELPIE_OK;
}

static enum kelpie_status tree_out(struct vm_transfer *transfer,
                                   const struct vm_tree_limits *limits,
                                   struct kelpie_tree_report *report, struct kelpie_error *err) {
    struct host *host = transfer->vm->host;
    char place[KELPIE_PATH_SIZE_MAX + 1];
    char draft[KELPIE_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    uint32_t mode = 0;
    uint64_t size = 0;
    ASSERT(!transfer->exec);
    TRY(name_places(transfer, place, draft, err));
    if (host_path_stat(host, place, &info, NULL) == KELPIE_OK) {
        return error_set_os(err, EEXIST, "cannot make the folder %.300s", place);
    }
    TRY(vm_transfer_get(transfer, &mode, &size, err));
    if (!(mode & PROTOCOL_MODE_FOLDER)) {
        return error_set_os(err, ENOTDIR, "cannot list %.300s in the guest", transfer->guest_path);
    }
    TRY(host_path_mkdir(host, draft, (mode & 0777) | 0700, err));
    const struct vm_tree_source source = {read_transfer, transfer};
    enum kelpie_status status = vm_tree_unpack(host, &source, draft, limits, report, err);
    if (status == KELPIE_OK) {
        status = host_path_rename(host, draft, place, false, err);
    }
    if (status != KELPIE_OK) {
        struct kelpie_error ignored;
        (void)!host_path_remove_tree(host, draft, &ignored); /* a folder more is all that stays */
    }
    ASSERT(report->bytes <= limits->bytes_max);
    return status;
}

/* ---- The calls -------------------------------------------------------------------------------- */

static enum kelpie_status read_options(const struct kelpie_tree_options *options,
                                       struct vm_tree_limits *ret_limits,
                                       struct kelpie_error *err) {
    struct vm_tree_limits limits = {KELPIE_TREE_BYTES_DEFAULT, KELPIE_TREE_COUNT_DEFAULT};
    ASSERT(ret_limits);
    static_assert(KELPIE_TREE_DEPTH_MAX == PROTOCOL_TREE_DEPTH_MAX, "the same");
    static_assert(KELPIE_TREE_DEPTH_MAX < HOST_TREE_DEPTH_MAX, "what was made can be removed");
    if (options) {
        TRY(vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err));
        limits.bytes_max = options->bytes_max ? options->bytes_max : limits.bytes_max;
        limits.count_max = options->count_max ? options->count_max : limits.count_max;
    }
    ASSERT(limits.count_max > 0);
    *ret_limits = limits;
    return KELPIE_OK;
}

static enum kelpie_status done(struct vm_transfer *transfer, enum kelpie_status status,
                               const struct kelpie_tree_report *report,
                               struct kelpie_tree_report *ret_report, struct kelpie_error *err) {
    ASSERT(transfer);
    ASSERT(report);
    if (status != KELPIE_OK) {
        status = vm_transfer_status(transfer, status, err);
    } else if (ret_report) {
        *ret_report = *report;
    }
    vm_transfer_destroy(transfer);
    return status;
}

enum kelpie_status kelpie_copy_tree_in(struct kelpie_vm *vm, const char *host_path,
                                       const char *guest_path,
                                       const struct kelpie_tree_options *options,
                                       struct kelpie_tree_report *ret_report,
                                       struct kelpie_error *err) {
    struct vm_transfer *transfer = NULL;
    struct vm_tree_limits limits;
    struct kelpie_tree_report report = {0};
    vm_check(vm);
    ASSERT(vm->ops);
    TRY(read_options(options, &limits, err));
    TRY(vm_transfer_create(vm, host_path, guest_path, &transfer, err));
    enum kelpie_status status = vm_tree_in(transfer, &limits, &report, err);
    return done(transfer, status, &report, ret_report, err);
}

enum kelpie_status kelpie_copy_tree_out(struct kelpie_vm *vm, const char *guest_path,
                                        const char *host_path,
                                        const struct kelpie_tree_options *options,
                                        struct kelpie_tree_report *ret_report,
                                        struct kelpie_error *err) {
    struct vm_transfer *transfer = NULL;
    struct vm_tree_limits limits;
    struct kelpie_tree_report report = {0};
    vm_check(vm);
    ASSERT(vm->ops);
    TRY(read_options(options, &limits, err));
    TRY(vm_transfer_create(vm, host_path, guest_path, &transfer, err));
    enum kelpie_status status = tree_out(transfer, &limits, &report, err);
    return done(transfer, status, &report, ret_report, err);
}
