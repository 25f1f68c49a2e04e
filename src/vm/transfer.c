/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vm/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

enum kelpie_status vm_transfer_create(struct kelpie_vm *vm, const char *host_path,
                                      const char *guest_path, struct vm_transfer **ret_transfer,
                                      struct kelpie_error *err) {
    ASSERT(ret_transfer);
    ASSERT(vm->config);
    TRY(vm_check_path("host_path", host_path ? host_path : "", false, err));
    TRY(vm_check_path("guest_path", guest_path ? guest_path : "", true, err));
    if (!(vm_capabilities(vm) & KELPIE_CAN_COPY)) {
        return error_set(err, KELPIE_UNSUPPORTED, "backend %s cannot copy files",
                         vm_backend_name(vm));
    }
    struct vm_transfer *transfer = host_allocate(vm->host, sizeof(*transfer), err);
    if (!transfer) {
        return KELPIE_NO_MEMORY;
    }
    transfer->vm = vm;
    transfer->host_path = host_path;
    transfer->guest_path = guest_path;
    *ret_transfer = transfer;
    return KELPIE_OK;
}

void vm_transfer_destroy(struct vm_transfer *transfer) {
    if (!transfer) {
        return;
    }
    ASSERT(transfer->vm);
    if (transfer->exec) {
        vm_session_close(transfer->exec, true);
    }
    explicit_bzero(transfer->chunk, sizeof(transfer->chunk)); /* it may have been a secret */
    free(transfer);
}

enum kelpie_status vm_transfer_status(const struct vm_transfer *transfer, enum kelpie_status status,
                                      struct kelpie_error *err) {
    ASSERT(transfer);
    ASSERT(status != KELPIE_OK);
    if (status == KELPIE_IO_FAILED || status == KELPIE_INTERNAL || status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_COPY_FAILED,
                          "cannot copy between %.300s here and %.300s in the guest",
                          transfer->host_path, transfer->guest_path);
    }
    return status;
}

/* ---- The session: mutex held ------------------------------------------------------------------ */

static struct vm_wait transfer_wait(const struct vm_transfer *transfer) {
    ASSERT(transfer->vm->locked);
    ASSERT(transfer->exec);
    struct vm_wait wait =
        vm_session_wait_start(transfer->exec, transfer->vm->config->operation_timeout_ms);
    if (transfer->still) {
        wait.deadline_ns = min_u64(wait.deadline_ns, transfer->deadline_ns);
    }
    return wait;
}

static enum kelpie_status open_session(struct vm_transfer *transfer, struct kelpie_error *err) {
    struct kelpie_vm *vm = transfer->vm;
    ASSERT(vm->locked);
    ASSERT(!transfer->exec);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (transfer->still) {
        TRY(vm_check_alive(vm, "talk to the guest", err));
        TRY(vm_session_create(vm, VM_SESSION_FILE, 0, &transfer->exec, err));
        transfer->exec->still = true;
        transfer->exec->cancel_count = vm->begun_cancel_count;
        return KELPIE_OK;
    }
    if (!transfer->at_start && !vm_state_allows(VM_OPERATION_COPY, vm->state)) {
        return vm_state_error(VM_OPERATION_COPY, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    return vm_session_create(vm, VM_SESSION_FILE, 0, &transfer->exec, err);
}

/* ENDED tells how it went in the guest. */
static enum kelpie_status await_end(struct vm_transfer *transfer, struct kelpie_error *err) {
    struct kelpie_exec *exec = transfer->exec;
    ASSERT(exec);
    ASSERT(transfer->vm->locked);
    struct vm_wait wait = transfer_wait(transfer);
    while (!exec->ended) {
        TRY(vm_session_wait_step(exec, &wait, "the guest to finish the file", err));
    }
    if (exec->ended_info.end == PROTOCOL_END_EXITED && exec->ended_info.value == 0) {
        return KELPIE_OK;
    }
    bool failed = exec->ended_info.end == PROTOCOL_END_FAILED; /* else the value is no errno */
    ASSERT(!failed || exec->ended_info.value > 0);
    return error_set_os(err, failed ? (int)exec->ended_info.value : EIO, "%s",
                        failed ? exec->ended_message
                               : "the guest ended the file as if it were a command");
}

static enum kelpie_status say_put(struct vm_transfer *transfer, uint32_t mode, uint64_t size,
                                  struct kelpie_error *err) {
    const struct protocol_file_put put = {.path = transfer->guest_path, .mode = mode, .size = size};
    struct cursor_writer writer;
    TRY(open_session(transfer, err));
    struct vm_wait wait = transfer_wait(transfer);
    ASSERT(transfer->vm->locked);
    ASSERT(transfer->exec);
    TRY(vm_channel_reserve(transfer->vm, KELPIE_PATH_SIZE_MAX + 256, &wait, &writer, err));
    protocol_encode_file_put(&writer, transfer->exec->id, &put);
    vm_channel_commit(transfer->vm, &writer);
    return vm_session_await_start(transfer->exec, &wait, err);
}

static enum kelpie_status write_all(struct vm_transfer *transfer, const uint8_t *data, size_t size,
                                    struct kelpie_error *err) {
    size_t done = 0;
    ASSERT(transfer->vm->locked);
    ASSERT(transfer->exec);
    while (done < size) {
        size_t written = 0;
        struct vm_wait wait = transfer_wait(transfer);
        if (wait.cancel_count != transfer->vm->cancel_count) {
            return error_set(err, KELPIE_CANCELLED, "copying in was cancelled");
        }
        enum kelpie_status status =
            vm_session_write(transfer->exec, data + done, size - done, &wait, &written, err);
        if (status == KELPIE_EXEC_FAILED && transfer->exec->ended) {
            return await_end(transfer, err); /* the guest gave up, and says why */
        }
        TRY(status);
        done += written;
    }
    return KELPIE_OK;
}

static enum kelpie_status say_get(struct vm_transfer *transfer, struct kelpie_error *err) {
    const struct protocol_file_get get = {.path = transfer->guest_path};
    struct cursor_writer writer;
    TRY(open_session(transfer, err));
    transfer->exec->input_refused = true;
    struct vm_wait wait = transfer_wait(transfer);
    ASSERT(transfer->vm->locked);
    ASSERT(transfer->exec);
    TRY(vm_channel_reserve(transfer->vm, KELPIE_PATH_SIZE_MAX + 256, &wait, &writer, err));
    protocol_encode_file_get(&writer, transfer->exec->id, &get);
    vm_channel_commit(transfer->vm, &writer);
    return vm_session_await_start(transfer->exec, &wait, err);
}

static enum kelpie_status read_some(struct vm_transfer *transfer, void *buffer, size_t size,
                                    size_t *ret_size, struct kelpie_error *err) {
    struct vm_wait wait = transfer_wait(transfer);
    ASSERT(ret_size);
    ASSERT(size > 0);
    for (;;) {
        size_t count = vm_session_take(transfer->exec, 0, buffer, size);
        if (count == 0 && vm_session_drained(transfer->exec, 0)) {
            TRY(await_end(transfer, err));
            *ret_size = 0;
            return KELPIE_OK;
        }
        if (count > 0) {
            *ret_size = count;
            return KELPIE_OK;
        }
        TRY(vm_session_wait_step(transfer->exec, &wait, "the guest to send the file", err));
    }
}

/* ---- For callers ------------------------------------------------------------------------------ */

enum kelpie_status vm_transfer_put(struct vm_transfer *transfer, uint32_t mode, uint64_t size,
                                   struct kelpie_error *err) {
    ASSERT(transfer->vm);
    ASSERT(!transfer->exec);
    vm_lock(transfer->vm);
    enum kelpie_status status = say_put(transfer, mode, size, err);
    vm_unlock(transfer->vm);
    return status;
}

enum kelpie_status vm_transfer_write(struct vm_transfer *transfer, const void *data, size_t size,
                                     struct kelpie_error *err) {
    ASSERT(transfer->exec);
    ASSERT(data || size == 0);
    vm_lock(transfer->vm);
    enum kelpie_status status = write_all(transfer, data, size, err);
    vm_unlock(transfer->vm);
    return status;
}

enum kelpie_status vm_transfer_finish(struct vm_transfer *transfer, struct kelpie_error *err) {
    ASSERT(transfer->exec);
    ASSERT(transfer->vm);
    vm_lock(transfer->vm);
    protocol_sender_end(&transfer->exec->input);
    vm_channel_flush(transfer->vm);
    enum kelpie_status status = await_end(transfer, err);
    vm_unlock(transfer->vm);
    return status;
}

enum kelpie_status vm_transfer_get(struct vm_transfer *transfer, uint32_t *ret_mode,
                                   uint64_t *ret_size, struct kelpie_error *err) {
    ASSERT(ret_mode && ret_size);
    ASSERT(!transfer->exec);
    vm_lock(transfer->vm);
    enum kelpie_status status = say_get(transfer, err);
    if (status == KELPIE_OK) {
        *ret_mode = transfer->exec->started_info.mode;
        *ret_size = transfer->exec->started_info.size;
    }
    vm_unlock(transfer->vm);
    return status;
}

enum kelpie_status vm_transfer_read(struct vm_transfer *transfer, void *buffer, size_t size,
                                    size_t *ret_size, struct kelpie_error *err) {
    ASSERT(transfer->exec);
    ASSERT(buffer && ret_size);
    vm_lock(transfer->vm);
    enum kelpie_status status = read_some(transfer, buffer, size, ret_size, err);
    vm_unlock(transfer->vm);
    return status;
}
