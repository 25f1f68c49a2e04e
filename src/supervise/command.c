/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The detached command: started by the owner, read into the VM's log, lent to whoever attaches. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "supervise/owner.h"

#define READ_SIZE 65536

/* exec_id 0: the owner's own reader, of the command that there is. */
static void log_append(struct owner *owner, uint32_t exec_id, const struct vm_relay_piece *piece) {
    struct detached *detached = &owner->detached;
    struct kelpie_error ignored;
    ASSERT(piece->size > 0);
    ASSERT(detached->log_mutex);
    host_mutex_lock(detached->log_mutex);
    if (detached->log && (exec_id == 0 || exec_id == detached->exec_id)) {
        /* A disk that is full costs the log, not the command. */
        (void)!store_log_append(detached->log, piece->stream, piece->offset, piece->data,
                                piece->size, &ignored);
    }
    host_mutex_unlock(detached->log_mutex);
}

void detached_output(void *context, const struct vm_relay_piece *piece) {
    struct owner *owner = context;
    ASSERT(owner);
    ASSERT(piece->exec_id != 0);
    if (piece->size > 0) {
        log_append(owner, piece->exec_id, piece);
    }
}

/* Reads it to its end. Another's cancel of another's operation ends no read for long. */
static enum kelpie_status read_all(struct owner *owner, struct kelpie_exit *ret_exit,
                                   struct kelpie_error *err) {
    struct kelpie_exec *exec = owner->detached.exec;
    ASSERT(exec);
    ASSERT(ret_exit);
    AUTO_MEM char *buffer = host_allocate(owner->host, READ_SIZE, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_stream stream = KELPIE_STREAM_STDOUT;
    while (stream != KELPIE_STREAM_NONE) {
        struct kelpie_chunk chunk = {.buffer = buffer, .size = READ_SIZE};
        enum kelpie_status status = kelpie_exec_read(exec, &chunk, 0, err);
        if (status == KELPIE_CANCELLED) {
            continue;
        }
        TRY(status);
        stream = chunk.stream;
        if (chunk.size > 0) {
            log_append(owner, 0,
                       &(struct vm_relay_piece){.stream = chunk.stream,
                                                .offset = chunk.offset,
                                                .data = buffer,
                                                .size = chunk.size});
        }
    }
    enum kelpie_status status = KELPIE_CANCELLED;
    while (status == KELPIE_CANCELLED) {
        status = kelpie_exec_wait(exec, 0, ret_exit, err);
    }
    return status;
}

static void note_end(struct owner *owner, bool ended, const struct kelpie_exit *ended_so) {
    struct kelpie_vm_info *info = &owner->record->info;
    ASSERT(info->command_known);
    ASSERT(ended_so);
    owner_lock(owner);
    owner->detached.exec = NULL;
    info->command_ended = ended;
    if (ended) {
        info->command_exit = *ended_so;
    }
    owner->quiet_since_ns = host_monotonic_ns(owner->host);
    owner_write_record(owner);
    host_condition_broadcast(owner->changed);
    owner_unlock(owner);
}

static void detached_main(void *argument) {
    struct owner *owner = argument;
    struct kelpie_exec *exec = owner->detached.exec;
    ASSERT(exec);
    ASSERT(owner->vm);
    struct kelpie_exit ended_so = {0};
    struct kelpie_error err;
    bool ended = read_all(owner, &ended_so, &err) == KELPIE_OK;
    note_end(owner, ended, &ended_so);
    const struct kelpie_owner *wanted = owner->record->config->config.owner;
    bool ends = ended && wanted && wanted->ends_with_command;
    if (ends) {
        (void)vm_relay_reclaim(exec,
                               SUPERVISE_READ_MS); /* who does not read so long is not waited for */
    }
    kelpie_exec_close(exec);
    if (ends) {
        (void)!kelpie_vm_stop(owner->vm, 0, &err);
        owner_note_state(owner);
    }
}

static enum kelpie_status open_log(struct owner *owner, struct kelpie_error *err) {
    ASSERT(owner->record->config->config.owner);
    ASSERT(owner->place.lock_fd != HOST_FD_NONE);
    struct store_log *log = NULL;
    uint64_t bytes_max = owner->record->config->config.owner->log_bytes_max;
    TRY(store_log_create(&owner->place, bytes_max ? bytes_max : KELPIE_LOG_BYTES_DEFAULT, &log,
                         err));
    host_mutex_lock(owner->detached.log_mutex);
    store_log_close(owner->detached.log);
    owner->detached.log = log;
    host_mutex_unlock(owner->detached.log_mutex);
    return KELPIE_OK;
}

static void note_start(struct owner *owner, struct kelpie_exec *exec) {
    struct kelpie_vm_info *info = &owner->record->info;
    ASSERT(exec);
    ASSERT(!owner->detached.exec);
    owner_lock(owner);
    owner->detached.exec = exec;
    host_mutex_lock(owner->detached.log_mutex);
    owner->detached.exec_id = kelpie_exec_id(exec);
    host_mutex_unlock(owner->detached.log_mutex);
    info->command_known = true;
    info->command_ended = false;
    info->command_exec_id = kelpie_exec_id(exec);
    info->command_exit = (struct kelpie_exit){0};
    owner_write_record(owner);
    owner_unlock(owner);
}

enum kelpie_status detached_start(struct owner *owner, const struct kelpie_command *command,
                                  uint32_t *ret_exec_id, struct kelpie_error *err) {
    struct detached *detached = &owner->detached;
    ASSERT(command);
    ASSERT(ret_exec_id);
    owner_lock(owner);
    bool busy = detached->exec != NULL;
    owner_unlock(owner);
    if (busy) {
        return error_set(err, KELPIE_BUSY, "the VM runs a detached command already");
    }
    host_thread_join(detached->thread); /* of the one before */
    detached->thread = NULL;
    TRY(open_log(owner, err));
    struct kelpie_exec *exec = NULL;
    TRY(kelpie_exec_start(owner->vm, command, &exec, err));
    note_start(owner, exec);
    vm_relay_yield(exec);
    uint32_t exec_id = kelpie_exec_id(exec);
    enum kelpie_status status = host_thread_start(owner->host, "kelpie-command", detached_main,
                                                  owner, &detached->thread, err);
    if (status != KELPIE_OK) {
        note_end(owner, false, &(struct kelpie_exit){0});
        kelpie_exec_close(exec);
        return status;
    }
    *ret_exec_id = exec_id;
    return KELPIE_OK;
}

void detached_join(struct owner *owner) {
    ASSERT(owner);
    ASSERT(owner->detached.log_mutex || !owner->detached.thread);
    host_thread_join(owner->detached.thread);
    owner->detached.thread = NULL;
    store_log_close(owner->detached.log);
    owner->detached.log = NULL;
}
