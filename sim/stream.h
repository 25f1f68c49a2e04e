/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * stream.h: one direction of a connection: bytes under way, with descriptors attached to some of them.
 *
 * Bytes come out in the order in which they went in, each piece not before its time (delay), and none while the network
 * between both machines is cut. A pipe has two ends; each is closed by its handle, the last to close frees it. Bytes that were
 * written before the writer closed are still read; those whose reader is gone are lost.
 */
#ifndef KELPIE_SIM_STREAM_H
#define KELPIE_SIM_STREAM_H

#include "sim/world.h"

struct sim_segment {
    uint64_t end; /* offset behind its last byte, of all bytes ever written */
    uint64_t arrives_ns;
};

struct sim_passed {
    uint64_t offset; /* of the byte that it is attached to */
    struct sim_handle *handle;
};

struct sim_pipe {
    struct sim_world *world;
    const struct sim_machine *from;
    const struct sim_machine *to;
    uint8_t *data; /* a ring of `capacity` bytes */
    size_t capacity;
    uint64_t written; /* bytes, ever */
    uint64_t read;
    struct sim_segment segments[SIM_STREAM_SEGMENT_COUNT_MAX];
    size_t segment_count;
    struct sim_passed passed[SIM_STREAM_FD_COUNT_MAX];
    size_t passed_count;
    bool writer_closed;
    bool reader_closed;
    bool broken; /* reset: nothing comes any more, and nothing is taken */
    struct sim_waiters changed;
};

/* Two handles of streams, each with one reference. False: no memory. */
bool sim_stream_pair(struct sim_process *near, struct sim_process *far,
                     struct sim_handle *ret_handles[2]);

/* A handle's ends are closed. */
void sim_stream_close(struct sim_handle *handle);

/* How many bytes can be read now; *ret_when: when more arrive by themselves, true time. */
size_t sim_pipe_readable(const struct sim_pipe *pipe, uint64_t *ret_when);

/* Whether a read gives something now, if only the end. */
bool sim_pipe_read_ready(const struct sim_pipe *pipe, uint64_t *ret_when);

/* How many bytes it takes now. */
size_t sim_pipe_room(const struct sim_pipe *pipe);

/* Takes `size` readable bytes out. Descriptors attached to them go to handles[] up to capacity, and are closed beyond. */
struct sim_pipe_taken {
    struct sim_handle **handles;
    size_t capacity;
    size_t count;
};
void sim_pipe_take(struct sim_pipe *pipe, void *buffer, size_t size, struct sim_pipe_taken *taken);

/* How many bytes can be taken without more than `count` (> 0) attached descriptors coming with them. */
size_t sim_pipe_fds_size(const struct sim_pipe *pipe, size_t count);

/* Puts bytes in, for which there is room. delay_ns: how much later than now they arrive. */
void sim_pipe_put(struct sim_pipe *pipe, const void *data, size_t size, uint64_t delay_ns);

/* Attaches a descriptor to the byte that is put next. False: too many are under way. */
bool sim_pipe_attach(struct sim_pipe *pipe, struct sim_handle *handle);

/* The connection is reset: both directions. */
void sim_stream_reset(struct sim_handle *handle);

#endif
