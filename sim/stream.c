/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"

static void pipe_check(const struct sim_pipe *pipe) {
    ASSERT(pipe->read <= pipe->written);
    ASSERT(pipe->written - pipe->read <= pipe->capacity);
    ASSERT(pipe->segment_count <= SIM_STREAM_SEGMENT_COUNT_MAX);
}

static struct sim_pipe *pipe_create(struct sim_process *from, struct sim_process *to,
                                    size_t capacity) {
    ASSERT(from->world == to->world);
    ASSERT(capacity >= SIM_STREAM_CAPACITY_MIN);
    struct sim_pipe *pipe = calloc(1, sizeof(*pipe));
    uint8_t *data = malloc(capacity);
    if (!pipe || !data) {
        free(pipe);
        free(data);
        return NULL;
    }
    pipe->world = from->world;
    pipe->from = from->machine;
    pipe->to = to->machine;
    ASSERT(!pipe->segment_count && !pipe->passed_count);
    pipe->data = data;
    pipe->capacity = capacity;
    return pipe;
}

static void pipe_free(struct sim_pipe *pipe) {
    pipe_check(pipe);
    ASSERT(!pipe->changed.first);
    ASSERT(pipe->writer_closed == pipe->reader_closed);
    for (size_t i = 0; i < pipe->passed_count; i++) {
        sim_handle_release(pipe->passed[i].handle);
    }
    free(pipe->data);
    free(pipe);
}

bool sim_stream_pair(struct sim_process *near, struct sim_process *far,
                     struct sim_handle *ret_handles[2]) {
    struct sim_world *world = near->world;
    ASSERT(world == far->world);
    ASSERT(ret_handles);
    size_t capacity = SIM_STREAM_CAPACITY_MIN << sim_choose(&world->choices, 4);
    capacity = min_size(capacity * 2, SIM_STREAM_CAPACITY_MAX);
    struct sim_pipe *there = pipe_create(near, far, capacity);
    struct sim_pipe *back = pipe_create(far, near, capacity);
    struct sim_handle *handles[2] = {sim_handle_create(world, SIM_HANDLE_STREAM),
                                     sim_handle_create(world, SIM_HANDLE_STREAM)};
    if (!there || !back || !handles[0] || !handles[1]) {
        free(handles[0]);
        free(handles[1]);
        for (size_t i = 0; i < 2; i++) {
            struct sim_pipe *pipe = i == 0 ? there : back;
            if (pipe) {
                pipe_free(pipe);
            }
        }
        return false;
    }
    handles[0]->out = handles[1]->in = there;
    handles[0]->in = handles[1]->out = back;
    handles[0]->peer_uid = far->uid;
    handles[1]->peer_uid = near->uid;
    ret_handles[0] = handles[0];
    ret_handles[1] = handles[1];
    return true;
}

void sim_stream_close(struct sim_handle *handle) {
    struct sim_pipe *in = handle->in;
    struct sim_pipe *out = handle->out;
    ASSERT(handle->kind == SIM_HANDLE_STREAM);
    ASSERT(in && out);
    ASSERT(!in->reader_closed && !out->writer_closed);
    in->reader_closed = true;
    out->writer_closed = true;
    sim_wake(&in->changed);
    sim_wake(&out->changed);
    for (size_t i = 0; i < 2; i++) {
        struct sim_pipe *pipe = i == 0 ? in : out;
        if (pipe->reader_closed && pipe->writer_closed) {
            pipe_free(pipe);
        }
    }
    handle->in = handle->out = NULL;
}

size_t sim_pipe_readable(const struct sim_pipe *pipe, uint64_t *ret_when) {
    pipe_check(pipe);
    ASSERT(ret_when);
    uint64_t cut_ns = sim_cut_until(pipe->world, pipe->from, pipe->to);
    if (cut_ns > 0) {
        *ret_when = min_u64(*ret_when, cut_ns);
        return 0;
    }
    for (size_t i = 0; i < pipe->segment_count; i++) {
        if (pipe->segments[i].arrives_ns > pipe->world->now_ns) {
            *ret_when = min_u64(*ret_when, pipe->segments[i].arrives_ns);
            return (size_t)((i == 0 ? pipe->read : pipe->segments[i - 1].end) - pipe->read);
        }
    }
    return (size_t)(pipe->written - pipe->read);
}

bool sim_pipe_read_ready(const struct sim_pipe *pipe, uint64_t *ret_when) {
    pipe_check(pipe);
    ASSERT(ret_when);
    if (pipe->broken || sim_pipe_readable(pipe, ret_when) > 0) {
        return true;
    }
    return pipe->writer_closed && pipe->read == pipe->written &&
           sim_cut_until(pipe->world, pipe->from, pipe->to) == 0;
}

size_t sim_pipe_room(const struct sim_pipe *pipe) {
    pipe_check(pipe);
    ASSERT(pipe->data);
    if (pipe->segment_count == SIM_STREAM_SEGMENT_COUNT_MAX) {
        return 0;
    }
    return pipe->capacity - (size_t)(pipe->written - pipe->read);
}

static void segments_trim(struct sim_pipe *pipe) {
    size_t gone = 0;
    pipe_check(pipe);
    while (gone < pipe->segment_count && pipe->segments[gone].end <= pipe->read) {
        gone++;
    }
    pipe->segment_count -= gone;
    ASSERT(gone <= SIM_STREAM_SEGMENT_COUNT_MAX);
    memmove(pipe->segments, pipe->segments + gone, pipe->segment_count * sizeof(pipe->segments[0]));
}

static void passed_take(struct sim_pipe *pipe, struct sim_pipe_taken *taken) {
    size_t gone = 0;
    pipe_check(pipe);
    while (gone < pipe->passed_count && pipe->passed[gone].offset < pipe->read) {
        struct sim_handle *handle = pipe->passed[gone++].handle;
        if (taken && taken->count < taken->capacity) {
            taken->handles[taken->count++] = handle;
        } else {
            sim_handle_release(handle);
        }
    }
    ASSERT(gone <= pipe->passed_count);
    pipe->passed_count -= gone;
    memmove(pipe->passed, pipe->passed + gone, pipe->passed_count * sizeof(pipe->passed[0]));
}

void sim_pipe_take(struct sim_pipe *pipe, void *buffer, size_t size, struct sim_pipe_taken *taken) {
    pipe_check(pipe);
    ASSERT(size > 0 && size <= pipe->written - pipe->read);
    size_t start = (size_t)(pipe->read % pipe->capacity);
    size_t first = min_size(size, pipe->capacity - start);
    ASSERT(buffer);
    memcpy(buffer, pipe->data + start, first);
    memcpy((uint8_t *)buffer + first, pipe->data, size - first);
    pipe->read += size;
    segments_trim(pipe);
    passed_take(pipe, taken);
    sim_wake(&pipe->changed);
}

size_t sim_pipe_fds_size(const struct sim_pipe *pipe, size_t count) {
    pipe_check(pipe);
    ASSERT(count > 0);
    return count < pipe->passed_count ? (size_t)(pipe->passed[count].offset - pipe->read)
                                      : SIZE_MAX;
}

void sim_pipe_put(struct sim_pipe *pipe, const void *data, size_t size, uint64_t delay_ns) {
    pipe_check(pipe);
    ASSERT(size > 0 && size <= sim_pipe_room(pipe));
    size_t start = (size_t)(pipe->written % pipe->capacity);
    size_t first = min_size(size, pipe->capacity - start);
    ASSERT(data);
    memcpy(pipe->data + start, data, first);
    memcpy(pipe->data, (const uint8_t *)data + first, size - first);
    pipe->written += size;
    uint64_t arrives_ns = pipe->world->now_ns + delay_ns;
    struct sim_segment *last =
        pipe->segment_count > 0 ? &pipe->segments[pipe->segment_count - 1] : NULL;
    bool both_arrived = last && last->arrives_ns <= pipe->world->now_ns && delay_ns == 0;
    if (last && (both_arrived || last->arrives_ns >= arrives_ns)) {
        last->end = pipe->written; /* in order: not before what is under way */
    } else {
        pipe->segments[pipe->segment_count++] =
            (struct sim_segment){.end = pipe->written, .arrives_ns = arrives_ns};
    }
    sim_wake(&pipe->changed);
}

bool sim_pipe_attach(struct sim_pipe *pipe, struct sim_handle *handle) {
    pipe_check(pipe);
    ASSERT(handle->reference_count > 0);
    if (pipe->passed_count == SIM_STREAM_FD_COUNT_MAX) {
        return false;
    }
    ASSERT(pipe->passed_count < SIM_STREAM_FD_COUNT_MAX);
    handle->reference_count++;
    pipe->passed[pipe->passed_count++] =
        (struct sim_passed){.offset = pipe->written, .handle = handle};
    return true;
}

void sim_stream_reset(struct sim_handle *handle) {
    ASSERT(handle->kind == SIM_HANDLE_STREAM);
    ASSERT(handle->in && handle->out);
    for (size_t i = 0; i < 2; i++) {
        struct sim_pipe *pipe = i == 0 ? handle->in : handle->out;
        pipe->broken = true;
        pipe->read = pipe->written;
        pipe->segment_count = 0;
        passed_take(pipe, NULL);
        sim_wake(&pipe->changed);
    }
}
