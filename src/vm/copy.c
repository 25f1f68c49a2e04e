/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Files in and out. On either side the target is written out of sight and is at its place when it is whole.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/transfer.h"

static enum kelpie_status check_options(const struct kelpie_copy_options *options,
                                        struct kelpie_error *err) {
    ASSERT(options);
    TRY(vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err));
    if (options->mode > 07777) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "mode", "mode is 0%o", options->mode);
    }
    ASSERT(options->mode <= 07777);
    return KELPIE_OK;
}

static enum kelpie_status check_size(const char *what, const char *path, uint64_t size,
                                     uint64_t limit, struct kelpie_error *err) {
    ASSERT(what && path);
    ASSERT(limit > 0);
    if (size > limit) {
        return error_set_field(err, KELPIE_COPY_FAILED, "bytes_max",
                               "%.300s%s has %llu bytes, more than the %llu allowed", path, what,
                               (unsigned long long)size, (unsigned long long)limit);
    }
    return KELPIE_OK;
}

/* ---- In --------------------------------------------------------------------------------------- */

static enum kelpie_status put_content(struct vm_transfer *transfer, int fd, uint64_t size,
                                      struct kelpie_error *err) {
    uint64_t offset = 0;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(transfer->exec);
    while (offset < size) {
        size_t want = (size_t)min_u64(sizeof(transfer->chunk), size - offset);
        size_t count = 0;
        TRY(host_file_read_at(transfer->vm->host, fd, transfer->chunk, want, offset, &count, err));
        if (count < want) {
            return error_set(err, KELPIE_COPY_FAILED, "%.300s became shorter while it was copied",
                             transfer->host_path);
        }
        TRY(vm_transfer_write(transfer, transfer->chunk, count, err));
        offset += count;
    }
    return vm_transfer_finish(transfer, err);
}

static enum kelpie_status copy_in(struct vm_transfer *transfer,
                                  const struct kelpie_copy_options *options,
                                  struct kelpie_error *err) {
    struct host *host = transfer->vm->host;
    AUTO_FD struct host_fd source = {host, HOST_FD_NONE};
    struct host_file_info info;
    ASSERT(options);
    ASSERT(!transfer->exec);
    TRY(host_file_open(host, transfer->host_path, HOST_OPEN_READ, 0, &source.fd, err));
    TRY(host_file_stat(host, source.fd, &info, err));
    if (info.type != HOST_FILE_REGULAR) {
        return error_set(err, KELPIE_COPY_FAILED, "%.300s is not a regular file",
                         transfer->host_path);
    }
    if (options->bytes_max != 0) {
        TRY(check_size("", transfer->host_path, info.size, options->bytes_max, err));
    }
    uint32_t mode = options->mode != 0 ? options->mode : info.mode;
    TRY(vm_transfer_put(transfer, mode, info.size, err));
    return put_content(transfer, source.fd, info.size, err);
}

enum kelpie_status kelpie_copy_in(struct kelpie_vm *vm, const char *host_path,
                                  const char *guest_path, const struct kelpie_copy_options *options,
                                  struct kelpie_error *err) {
    static const struct kelpie_copy_options defaults = {0};
    struct vm_transfer *transfer = NULL;
    vm_check(vm);
    ASSERT(vm->ops);
    TRY(check_options(options ? options : &defaults, err));
    TRY(vm_transfer_create(vm, host_path, guest_path, &transfer, err));
    enum kelpie_status status = copy_in(transfer, options ? options : &defaults, err);
    if (status != KELPIE_OK) {
        status = vm_transfer_status(transfer, status, err);
    }
    vm_transfer_destroy(transfer);
    return status;
}

/* ---- Out -------------------------------------------------------------------------------------- */

static enum kelpie_status get_content(struct vm_transfer *transfer, int fd, uint64_t size,
                                      struct kelpie_error *err) {
    uint64_t offset = 0;
    size_t count = 1;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(transfer->exec);
    while (count > 0) {
        TRY(vm_transfer_read(transfer, transfer->chunk, sizeof(transfer->chunk), &count, err));
        if (count > size - offset) {
            return error_set(err, KELPIE_COPY_FAILED,
                             "the guest sent more than the %llu bytes it announced",
                             (unsigned long long)size);
        }
        TRY(host_file_write_at(transfer->vm->host, fd, transfer->chunk, count, offset, err));
        offset += count;
    }
    if (offset != size) {
        return error_set(err, KELPIE_COPY_FAILED, "the guest sent %llu of %llu bytes",
                         (unsigned long long)offset, (unsigned long long)size);
    }
    return KELPIE_OK;
}

static enum kelpie_status copy_out(struct vm_transfer *transfer,
                                   const struct kelpie_copy_options *options,
                                   struct kelpie_error *err) {
    uint32_t mode = 0;
    uint64_t size = 0;
    ASSERT(options);
    ASSERT(!transfer->exec);
    TRY(vm_transfer_get(transfer, &mode, &size, err));
    if (mode & PROTOCOL_MODE_FOLDER) {
        return error_set_os(err, EISDIR, "cannot read %.300s in the guest", transfer->guest_path);
    }
    uint64_t limit = options->bytes_max != 0 ? options->bytes_max : VM_COPY_OUT_BYTES_DEFAULT;
    TRY(check_size(" in the guest", transfer->guest_path, size, limit, err));
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    TRY(host_draft_open(transfer->vm->host, transfer->host_path,
                        options->mode != 0 ? options->mode : mode & 0777, &draft, err));
    TRY(get_content(transfer, draft.fd, size, err));
    return host_draft_publish(&draft, err);
}

enum kelpie_status kelpie_copy_out(struct kelpie_vm *vm, const char *guest_path,
                                   const char *host_path, const struct kelpie_copy_options *options,
                                   struct kelpie_error *err) {
    static const struct kelpie_copy_options defaults = {0};
    struct vm_transfer *transfer = NULL;
    vm_check(vm);
    ASSERT(vm->ops);
    TRY(check_options(options ? options : &defaults, err));
    TRY(vm_transfer_create(vm, host_path, guest_path, &transfer, err));
    enum kelpie_status status = copy_out(transfer, options ? options : &defaults, err);
    if (status != KELPIE_OK) {
        status = vm_transfer_status(transfer, status, err);
    }
    vm_transfer_destroy(transfer);
    return status;
}
