/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Files in and out: a session whose stdin or stdout is the file (protocol.h, FILE_PUT and FILE_GET).
 * On either side the target is written out of sight and is at its place when it is whole.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "vm/vm.h"

struct copy {
    struct kelpie_vm *vm;
    const char *host_path;
    const char *guest_path;
    struct kelpie_copy_options options;
    struct kelpie_exec *exec;
    uint64_t size;
    uint32_t mode;
    uint8_t chunk[VM_COPY_CHUNK_SIZE];
};

static enum kelpie_status copy_create(struct kelpie_vm *vm, const char *host_path,
                                      const char *guest_path,
                                      const struct kelpie_copy_options *options,
                                      struct copy **ret_copy, struct kelpie_error *err) {
    ASSERT(ret_copy);
    ASSERT(vm->config);
    TRY(vm_check_path("host_path", host_path ? host_path : "", false, err));
    TRY(vm_check_path("guest_path", guest_path ? guest_path : "", true, err));
    if (options) {
        TRY(vm_check_reserved("reserved", options->reserved, ARRAY_SIZE(options->reserved), err));
        if (options->mode > 07777) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "mode", "mode is 0%o", options->mode);
        }
    }
    if (!(vm_capabilities(vm) & KELPIE_CAN_COPY)) {
        return error_set(err, KELPIE_UNSUPPORTED, "backend %s cannot copy files",
                         vm_backend_name(vm));
    }
    struct copy *copy = host_allocate(vm->host, sizeof(*copy), err);
    if (!copy) {
        return KELPIE_NO_MEMORY;
    }
    copy->vm = vm;
    copy->host_path = host_path;
    copy->guest_path = guest_path;
    if (options) {
        copy->options = *options;
    }
    *ret_copy = copy;
    return KELPIE_OK;
}

/* Opens the session; mutex held. */
static enum kelpie_status copy_open(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm->locked);
    ASSERT(!copy->exec);
    struct kelpie_vm *vm = copy->vm;
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (!vm_state_allows(VM_OPERATION_COPY, vm->state)) {
        return vm_state_error(VM_OPERATION_COPY, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    TRY(vm_session_create(vm, VM_SESSION_FILE, 0, &copy->exec, err));
    return KELPIE_OK;
}

/* ENDED tells how it went in the guest. mutex held. */
static enum kelpie_status copy_await_end(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm->locked);
    ASSERT(copy->exec);
    struct kelpie_exec *exec = copy->exec;
    struct vm_wait wait = vm_session_wait_start(exec, copy->vm->config->operation_timeout_ms);
    while (!exec->ended) {
        TRY(vm_session_wait_step(exec, &wait, "the guest to finish the file", err));
    }
    if (exec->ended_info.end == PROTOCOL_END_EXITED && exec->ended_info.value == 0) {
        return KELPIE_OK;
    }
    int os_error = (int)(exec->ended_info.value & 0xfff);
    return error_set_os(err, os_error != 0 ? os_error : EIO, "%s", exec->ended_message);
}

/* What the caller treats differently stays; anything else is COPY_FAILED. */
static enum kelpie_status copy_status(const struct copy *copy, enum kelpie_status status,
                                      struct kelpie_error *err) {
    ASSERT(copy);
    ASSERT(status != KELPIE_OK);
    if (status == KELPIE_IO_FAILED || status == KELPIE_INTERNAL || status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_COPY_FAILED,
                          "cannot copy between %.300s here and %.300s in "
                          "the guest",
                          copy->host_path, copy->guest_path);
    }
    return status;
}

static void copy_destroy(struct copy *copy) {
    ASSERT(copy);
    ASSERT(copy->vm);
    if (copy->exec) {
        vm_session_close(copy->exec, true);
    }
    free(copy);
}

/* ---- In --------------------------------------------------------------------------------------- */

static enum kelpie_status put_open(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm->locked);
    ASSERT(copy->guest_path);
    struct kelpie_vm *vm = copy->vm;
    TRY(copy_open(copy, err));
    struct vm_wait wait = vm_session_wait_start(copy->exec, vm->config->operation_timeout_ms);
    struct protocol_file_put put = {
        .path = copy->guest_path, .mode = copy->mode, .size = copy->size};
    struct cursor_writer writer;
    vm_guest_sessions_make_room(vm);
    TRY(vm_channel_reserve(vm, KELPIE_PATH_SIZE_MAX + 256, &wait, &writer, err));
    protocol_encode_file_put(&writer, copy->exec->id, &put);
    vm_guest_session_opened(vm, copy->exec->id);
    vm_channel_commit(vm, &writer);
    return vm_session_await_start(copy->exec, &wait, err);
}

static enum kelpie_status put_piece(struct copy *copy, size_t size, struct kelpie_error *err) {
    ASSERT(copy->vm->locked);
    ASSERT(size <= sizeof(copy->chunk));
    size_t done = 0;
    while (done < size) {
        size_t written = 0;
        struct vm_wait wait =
            vm_session_wait_start(copy->exec, copy->vm->config->operation_timeout_ms);
        if (wait.cancel_count != copy->vm->cancel_count) {
            return error_set(err, KELPIE_CANCELLED, "copying in was cancelled");
        }
        enum kelpie_status status =
            vm_session_write(copy->exec, copy->chunk + done, size - done, &wait, &written, err);
        if (status == KELPIE_EXEC_FAILED && copy->exec->ended) {
            return copy_await_end(copy, err); /* the guest gave up, and says why */
        }
        TRY(status);
        done += written;
    }
    return KELPIE_OK;
}

static enum kelpie_status put_content(struct copy *copy, int fd, struct kelpie_error *err) {
    ASSERT(copy->exec);
    ASSERT(fd != HOST_FD_NONE);
    struct kelpie_vm *vm = copy->vm;
    uint64_t offset = 0;
    while (offset < copy->size) {
        size_t want = (size_t)min_u64(sizeof(copy->chunk), copy->size - offset);
        size_t count = 0;
        TRY(host_file_read_at(vm->host, fd, copy->chunk, want, offset, &count, err));
        if (count < want) {
            return error_set(err, KELPIE_COPY_FAILED, "%.300s became shorter while it was copied",
                             copy->host_path);
        }
        vm_lock(vm);
        enum kelpie_status status = put_piece(copy, count, err);
        vm_unlock(vm);
        TRY(status);
        offset += count;
    }
    vm_lock(vm);
    protocol_sender_end(&copy->exec->input);
    vm_channel_flush(vm);
    enum kelpie_status status = copy_await_end(copy, err);
    vm_unlock(vm);
    return status;
}

static enum kelpie_status copy_in(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm);
    ASSERT(!copy->exec);
    struct host *host = copy->vm->host;
    AUTO_FD struct host_fd source = {host, HOST_FD_NONE};
    struct host_file_info info;
    TRY(host_file_open(host, copy->host_path, HOST_OPEN_READ, 0, &source.fd, err));
    TRY(host_file_stat(host, source.fd, &info, err));
    if (info.type != HOST_FILE_REGULAR) {
        return error_set(err, KELPIE_COPY_FAILED, "%.300s is not a regular file", copy->host_path);
    }
    if (copy->options.bytes_max != 0 && info.size > copy->options.bytes_max) {
        return error_set_field(err, KELPIE_COPY_FAILED, "bytes_max",
                               "%.300s has %llu bytes, more than the %llu allowed", copy->host_path,
                               (unsigned long long)info.size,
                               (unsigned long long)copy->options.bytes_max);
    }
    copy->size = info.size;
    copy->mode = copy->options.mode != 0 ? copy->options.mode : info.mode;
    vm_lock(copy->vm);
    enum kelpie_status status = put_open(copy, err);
    vm_unlock(copy->vm);
    TRY(status);
    return put_content(copy, source.fd, err);
}

enum kelpie_status kelpie_copy_in(struct kelpie_vm *vm, const char *host_path,
                                  const char *guest_path, const struct kelpie_copy_options *options,
                                  struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->ops);
    struct copy *copy = NULL;
    TRY(copy_create(vm, host_path, guest_path, options, &copy, err));
    enum kelpie_status status = copy_in(copy, err);
    if (status != KELPIE_OK) {
        status = copy_status(copy, status, err);
    }
    copy_destroy(copy);
    return status;
}

/* ---- Out -------------------------------------------------------------------------------------- */

static enum kelpie_status get_open(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm->locked);
    ASSERT(copy->guest_path);
    struct kelpie_vm *vm = copy->vm;
    TRY(copy_open(copy, err));
    copy->exec->input_refused = true;
    struct vm_wait wait = vm_session_wait_start(copy->exec, vm->config->operation_timeout_ms);
    struct protocol_file_get get = {.path = copy->guest_path};
    struct cursor_writer writer;
    vm_guest_sessions_make_room(vm);
    TRY(vm_channel_reserve(vm, KELPIE_PATH_SIZE_MAX + 256, &wait, &writer, err));
    protocol_encode_file_get(&writer, copy->exec->id, &get);
    vm_guest_session_opened(vm, copy->exec->id);
    vm_channel_commit(vm, &writer);
    TRY(vm_session_await_start(copy->exec, &wait, err));
    copy->size = copy->exec->started_info.size;
    copy->mode =
        copy->options.mode != 0 ? copy->options.mode : copy->exec->started_info.mode & 0777;
    uint64_t limit =
        copy->options.bytes_max != 0 ? copy->options.bytes_max : VM_COPY_OUT_BYTES_DEFAULT;
    if (copy->size > limit) {
        return error_set_field(err, KELPIE_COPY_FAILED, "bytes_max",
                               "%.300s in the guest has %llu bytes, more than the %llu allowed",
                               copy->guest_path, (unsigned long long)copy->size,
                               (unsigned long long)limit);
    }
    return KELPIE_OK;
}

/* The next piece of the file; *ret_size 0 at its end. mutex held. */
static enum kelpie_status get_piece(struct copy *copy, size_t *ret_size, struct kelpie_error *err) {
    ASSERT(ret_size);
    ASSERT(copy->vm->locked);
    ASSERT(copy->exec);
    struct vm_wait wait = vm_session_wait_start(copy->exec, copy->vm->config->operation_timeout_ms);
    for (;;) {
        size_t count = vm_session_take(copy->exec, 0, copy->chunk, sizeof(copy->chunk));
        if (count > 0 || vm_session_drained(copy->exec, 0)) {
            *ret_size = count;
            return KELPIE_OK;
        }
        TRY(vm_session_wait_step(copy->exec, &wait, "the guest to send the file", err));
    }
}

static enum kelpie_status get_content(struct copy *copy, int fd, struct kelpie_error *err) {
    ASSERT(copy->exec);
    ASSERT(fd != HOST_FD_NONE);
    struct kelpie_vm *vm = copy->vm;
    uint64_t offset = 0;
    size_t count = 1;
    while (count > 0) {
        vm_lock(vm);
        enum kelpie_status status = get_piece(copy, &count, err);
        vm_unlock(vm);
        TRY(status);
        if (count > copy->size - offset) {
            return error_set(err, KELPIE_COPY_FAILED,
                             "the guest sent more than the %llu bytes it "
                             "announced",
                             (unsigned long long)copy->size);
        }
        TRY(host_file_write_at(vm->host, fd, copy->chunk, count, offset, err));
        offset += count;
    }
    vm_lock(vm);
    enum kelpie_status status = copy_await_end(copy, err);
    vm_unlock(vm);
    TRY(status);
    if (offset != copy->size) {
        return error_set(err, KELPIE_COPY_FAILED, "the guest sent %llu of %llu bytes",
                         (unsigned long long)offset, (unsigned long long)copy->size);
    }
    return KELPIE_OK;
}

static enum kelpie_status copy_out(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->vm);
    ASSERT(!copy->exec);
    struct host *host = copy->vm->host;
    vm_lock(copy->vm);
    enum kelpie_status status = get_open(copy, err);
    vm_unlock(copy->vm);
    TRY(status);

    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    TRY(host_draft_open(host, copy->host_path, copy->mode, &draft, err));
    TRY(get_content(copy, draft.fd, err));
    return host_draft_publish(&draft, err);
}

enum kelpie_status kelpie_copy_out(struct kelpie_vm *vm, const char *guest_path,
                                   const char *host_path, const struct kelpie_copy_options *options,
                                   struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->ops);
    struct copy *copy = NULL;
    TRY(copy_create(vm, host_path, guest_path, options, &copy, err));
    enum kelpie_status status = copy_out(copy, err);
    if (status != KELPIE_OK) {
        status = copy_status(copy, status, err);
    }
    copy_destroy(copy);
    return status;
}
