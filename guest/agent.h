/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * agent.h: the guest's side of the protocol: one thread, one loop.
 *
 * THEORY OF OPERATION
 *
 * The loop waits (epoll) for the channel, for ended children (signalfd) and for the commands' pipes. What
 * comes from the channel is decoded and dispatched in one switch; its direct answers go to the outbox at
 * once, what sessions have to say is fetched from them in turn (session_pump) as long as the outbox has room.
 * When the outbox is nearly full the channel is not read, so that a host which asks without reading the
 * answers only stops itself.
 *
 * Memory is allocated when the agent and when a session is made; nothing grows.
 *
 * The same agent runs as process 1 of a machine and, in tests, as an ordinary process over a
 * socketpair: without control groups, and without the right to set clocks.
 */
#ifndef KELPIE_GUEST_AGENT_H
#define KELPIE_GUEST_AGENT_H

#include "guest_limits.h"
#include "outbox.h"
#include "session.h"

struct agent {
    int channel_fd; /* -1: none, while the channel is gone and is dialled again */
    int (*channel_dial)(
        void); /* begins to make another channel (channel.h); NULL: this one comes back by itself */
    int epoll_fd;
    int signal_fd;
    int null_fd;
    int root_fd;  /* what commands see as "/" */
    bool is_init; /* process 1: the machine is ours */
    bool root_is_disk;
    bool frozen;
    bool holding; /* frozen, but for sessions that are exact */
    bool set_up;
    bool finished; /* the loop ends */
    bool powering_off;
    bool channel_gone; /* nobody listens now: looked at again soon */
    uint32_t channel_events;
    uint64_t frozen_at_ns;
    uint8_t generation[PROTOCOL_GENERATION_SIZE];
    bool network_given; /* NETWORK came */
    struct protocol_network network;
    uint8_t network_dns[PROTOCOL_IPV4_SIZE]; /* what the resolver's file was written for */
    struct cgroup_set cgroups;
    struct protocol_decoder decoder;
    struct session *sessions[PROTOCOL_SESSION_COUNT_MAX];
    uint32_t session_count;
    uint32_t next_turn; /* whose turn it is to send */
    struct session *spare_sessions[GUEST_SPARE_SESSION_COUNT_MAX];
    uint32_t spare_count;
    struct outbox outbox;
    uint8_t scratch[GUEST_READ_SIZE_MAX];
    char *argv[PROTOCOL_ARGV_COUNT_MAX + 1];
    char *env[PROTOCOL_ENV_COUNT_MAX + 4]; /* and our defaults, and NULL */
    uint8_t spawn_stack[GUEST_SPAWN_STACK_SIZE] __attribute__((aligned(16)));
    uint8_t input[PROTOCOL_FRAME_SIZE_MAX];
};

/* Where a mounted root disk lies in our own view. */
#define AGENT_ROOT_DIR "/newroot"

/* The channel's descriptor is non-blocking; it is closed by destroy. */
KELPIE_CHECKED enum kelpie_status agent_create(int channel_fd, bool is_init,
                                               struct agent **ret_agent, struct kelpie_error *err);
void agent_destroy(struct agent *agent);

/* Returns when the host asked to power off, or when the channel ended and neither comes back (a port of process 1
 * does) nor can be dialled. */
void agent_run(struct agent *agent);

/* epoll_ctl for a session's descriptor. */
void agent_watch(struct agent *agent, int fd, uint64_t data, uint32_t events);
void agent_unwatch(struct agent *agent, int fd);

uint64_t agent_now_ns(void);

#endif
