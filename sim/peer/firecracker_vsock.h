/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_vsock.h: the socket device of the scripted Firecracker: the host's side of it is UNIX sockets, the guest's is a
 * pair of sockets, one end of which is the guest's channel.
 *
 * THEORY OF OPERATION
 *
 * The guest's agent dials: the device connects to "<uds_path>_<PROTOCOL_VSOCK_PORT>", where the host listens, and tries again
 * every FIRECRACKER_DIAL_MS while nobody does. A client of the host may also connect to uds_path itself and write
 * "CONNECT <port>\n": the simulated agent listens on the same port, gets the connection, and "OK <host's port>\n" is the
 * answer; another port has no listener, and the client's connection is closed. There is one connection at a time: a new one
 * takes the place of the one before.
 *
 *     idle -> connected (dialled, or asked for) -> idle (the host's end closed) -> …
 *
 * A guest has no memory of half a frame of a connection that broke: so a guest that had one needs a new channel with each later one.
 * `changed` says so; firecracker_vsock_plug() makes the channel. Bytes of the old one are dropped.
 *
 * Nothing here waits. While the machine stands still, so does the device: clients wait in the queue of the listening socket.
 */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_VSOCK_H
#define KELPIE_SIM_PEER_FIRECRACKER_VSOCK_H

#include "base/ring.h"
#include "host/host.h"
#include "sim/peer/firecracker_limits.h"

enum firecracker_vsock_item {
    FIRECRACKER_VSOCK_LISTEN = 0,
    FIRECRACKER_VSOCK_CLIENT,
    FIRECRACKER_VSOCK_STREAM,
    FIRECRACKER_VSOCK_GUEST,
    FIRECRACKER_VSOCK_ITEM_COUNT
};

/* Large: not for a stack. */
struct firecracker_vsock {
    struct host *host;
    char path[FIRECRACKER_PATH_SIZE_MAX + 1]; /* empty: there is no such device */
    int listen_fd;
    int client_fd; /* has not said yet what it wants */
    char line[FIRECRACKER_VSOCK_LINE_SIZE_MAX + 1];
    size_t line_size;
    int stream_fd;  /* the connection's host side */
    int guest_fd;   /* our end of the pair */
    int channel_fd; /* the guest's */
    bool used;      /* the channel has had a connection */
    bool changed;   /* it has another one now: plug */
    uint32_t next_port;
    uint64_t dial_ns; /* not before */
    struct ring to_guest;
    struct ring to_host;
    uint8_t to_guest_bytes[FIRECRACKER_VSOCK_RING_SIZE];
    uint8_t to_host_bytes[FIRECRACKER_VSOCK_RING_SIZE];
};

void firecracker_vsock_init(struct firecracker_vsock *vsock, struct host *host);
void firecracker_vsock_deinit(struct firecracker_vsock *vsock);

/* Listens on uds_path; an older socket of this device is removed. */
KELPIE_CHECKED enum kelpie_status firecracker_vsock_listen(struct firecracker_vsock *vsock,
                                                           const char *path,
                                                           struct kelpie_error *err);

/* A new channel; the guest of the old one is gone. */
KELPIE_CHECKED enum kelpie_status firecracker_vsock_plug(struct firecracker_vsock *vsock,
                                                         struct kelpie_error *err);

/* The transport was reset (a restore): no connection. */
void firecracker_vsock_reset(struct firecracker_vsock *vsock);

/* As peer_guest_items() and so on, for a machine that runs. */
void firecracker_vsock_items(const struct firecracker_vsock *vsock,
                             struct host_poll_item items[FIRECRACKER_VSOCK_ITEM_COUNT]);
uint64_t firecracker_vsock_deadline_ns(const struct firecracker_vsock *vsock);
void firecracker_vsock_service(struct firecracker_vsock *vsock,
                               const struct host_poll_item items[FIRECRACKER_VSOCK_ITEM_COUNT]);

#endif
