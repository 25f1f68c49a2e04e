/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Open files and the descriptors that lead to them. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/stream.h"

struct sim_handle *sim_handle_create(struct sim_world *world, enum sim_handle_kind kind) {
    ASSERT(world);
    ASSERT((unsigned)kind <= SIM_HANDLE_NULL);
    struct sim_handle *handle = calloc(1, sizeof(*handle));
    if (handle) {
        handle->world = world;
        handle->kind = kind;
        handle->reference_count = 1;
    }
    return handle;
}

static void listener_close(struct sim_handle *handle) {
    struct sim_listener *listener = handle->listener;
    struct sim_listener **place = &listener->machine->listeners;
    ASSERT(listener->open);
    while (*place != listener) {
        ASSERT(*place);
        place = &(*place)->next;
    }
    ASSERT(listener->count <= SIM_BACKLOG_COUNT_MAX);
    *place = listener->next;
    for (size_t i = 0; i < listener->count; i++) {
        sim_handle_release(listener->backlog[i]);
    }
    sim_wake(&listener->changed);
    free(listener);
}

void sim_handle_release(struct sim_handle *handle) {
    ASSERT(handle);
    ASSERT(handle->reference_count > 0);
    if (--handle->reference_count > 0) {
        return;
    }
    switch (handle->kind) {
    case SIM_HANDLE_FILE:
        sim_inode_unlock(handle->inode, handle);
        sim_inode_release(handle->inode);
        break;
    case SIM_HANDLE_STREAM:
        sim_stream_close(handle);
        break;
    case SIM_HANDLE_LISTENER:
        listener_close(handle);
        break;
    case SIM_HANDLE_EVENT:
    case SIM_HANDLE_PROCESS:
    case SIM_HANDLE_NULL:
        break;
    }
    sim_wake(&handle->changed);
    free(handle);
}

/* ---- Descriptors ------------------------------------------------------------------------------ */

int sim_fd_add(struct sim_process *process, struct sim_handle *handle, int least) {
    ASSERT(handle->reference_count > 0);
    ASSERT(least >= 0);
    for (int fd = least; fd < (int)SIM_FD_COUNT_MAX; fd++) {
        if (!process->handles[fd]) {
            process->handles[fd] = handle;
            process->handle_count++;
            return fd;
        }
    }
    return -1;
}

struct sim_handle *sim_fd_get(struct sim_process *process, int fd) {
    ASSERT(fd >= 0 && fd < (int)SIM_FD_COUNT_MAX);
    ASSERT(process->handles[fd]);
    return process->handles[fd];
}

void sim_fd_close(struct sim_process *process, int fd) {
    struct sim_handle *handle = sim_fd_get(process, fd);
    ASSERT(process->handle_count > 0);
    process->handles[fd] = NULL;
    process->handle_count--;
    sim_handle_release(handle);
}

/* ---- Readiness -------------------------------------------------------------------------------- */

static uint32_t stream_ready(struct sim_handle *handle, uint32_t asked, uint64_t *ret_when) {
    uint32_t ready = 0;
    ASSERT(handle->in && handle->out);
    ASSERT(ret_when);
    if ((asked & HOST_POLL_READ) && sim_pipe_read_ready(handle->in, ret_when)) {
        ready |= HOST_POLL_READ;
    }
    if ((asked & HOST_POLL_WRITE) &&
        (handle->out->broken || handle->out->reader_closed || sim_pipe_room(handle->out) > 0)) {
        ready |= HOST_POLL_WRITE;
    }
    return ready;
}

uint32_t sim_handle_ready(struct sim_handle *handle, uint32_t asked, uint64_t *ret_when) {
    ASSERT(handle->reference_count > 0);
    ASSERT(ret_when);
    switch (handle->kind) {
    case SIM_HANDLE_STREAM:
        return stream_ready(handle, asked, ret_when);
    case SIM_HANDLE_LISTENER:
        return handle->listener->count > 0 ? asked & HOST_POLL_READ : 0;
    case SIM_HANDLE_EVENT:
        return handle->set ? asked & HOST_POLL_READ : 0;
    case SIM_HANDLE_PROCESS:
        return handle->target->ended ? asked & HOST_POLL_READ : 0;
    case SIM_HANDLE_FILE:
    case SIM_HANDLE_NULL:
        break;
    }
    return asked;
}

void sim_handle_watch(struct sim_handle *handle, uint32_t asked) {
    struct sim_world *world = handle->world;
    ASSERT(world->current);
    ASSERT(handle->reference_count > 0);
    switch (handle->kind) {
    case SIM_HANDLE_STREAM:
        if (asked & HOST_POLL_READ) {
            sim_wait_add(world, &handle->in->changed);
        }
        if (asked & HOST_POLL_WRITE) {
            sim_wait_add(world, &handle->out->changed);
        }
        break;
    case SIM_HANDLE_LISTENER:
        sim_wait_add(world, &handle->listener->changed);
        break;
    case SIM_HANDLE_EVENT:
        sim_wait_add(world, &handle->changed);
        break;
    case SIM_HANDLE_PROCESS:
        sim_wait_add(world, &handle->target->exited);
        break;
    case SIM_HANDLE_FILE:
    case SIM_HANDLE_NULL:
        break;
    }
}
