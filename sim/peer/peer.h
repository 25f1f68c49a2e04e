/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * peer.h: programs that a simulated machine can run: QEMU, our own monitor, Firecracker, passt, as far as their owner sees
 * them. Each speaks its protocol honestly until a fault says otherwise; the production code at the other end is
 * the real one.
 *
 * A peer is an ordinary blocking function over the `struct host` of its own simulated process: what it opens, it closes, as
 * the world counts descriptors. It ends by returning its exit code, or by sim_peer_die(). It may start threads of that
 * host. It has no state but its own: no globals.
 */
#ifndef KELPIE_SIM_PEER_PEER_H
#define KELPIE_SIM_PEER_PEER_H

#include "host/host.h"
#include "sim/fault.h"

#define SIM_PEER_RECEIVED_FD_COUNT_MAX 4

/* A running program. */
struct sim_peer {
    struct host
        *host; /* its own process's: descriptors 0, 1, … as its parent's spec numbered them */
    size_t argc;
    const char *const *argv;
};

typedef int (*sim_peer_main)(const struct sim_peer *peer);

struct sim_program {
    const char *name; /* the last part of argv[0] */
    sim_peer_main main;
    bool tidy; /* what it still holds when its main function is done is a leak */
};

/* The programs of sim/peer, by the last part of a path. NULL: there is none. */
const struct sim_program *sim_program_find(const char *name);

/* ---- What only simulated processes can do (the world implements these) ------------------------- */

/* Does this go wrong now? */
bool sim_peer_fault(const struct sim_peer *peer, enum sim_fault fault);

/* 0 … count - 1, for what an honest peer may do either way. */
uint64_t sim_peer_choose(const struct sim_peer *peer, uint64_t count);

/* Ends the process as a signal does, at once: every thread, every descriptor. Does not return. */
_Noreturn void sim_peer_die(const struct sim_peer *peer, int signal_number);

/* Stands still until it is killed. Does not return. */
_Noreturn void sim_peer_hang(const struct sim_peer *peer);

/* As host_read(), and takes up to SIM_PEER_RECEIVED_FD_COUNT_MAX descriptors that came attached to those bytes
 * (host_socket_send_fd): they are the caller's then. */
struct sim_peer_received {
    void *buffer; /* in: where to put the bytes */
    size_t capacity;
    size_t size; /* out: how many came */
    int fds[SIM_PEER_RECEIVED_FD_COUNT_MAX];
    size_t fd_count;
};
KELPIE_CHECKED enum kelpie_status sim_peer_receive(const struct sim_peer *peer, int fd,
                                                   const struct host_wait *wait,
                                                   struct sim_peer_received *received,
                                                   struct kelpie_error *err);

#endif
