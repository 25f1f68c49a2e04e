/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_link.h: the guest's channel over Firecracker's socket device: one stream for src/vm/, whatever connections the guest
 * makes.
 *
 * THEORY OF OPERATION
 *
 * A guest of ours dials the host over vsock; Firecracker then connects to "<uds_path>_<port>", where we listen. That
 * connection is not the channel. It comes when the guest is up, while the channel is there from the start; and Firecracker
 * ends the guest's connections at each snapshot, also of a machine that goes on (it puts a transport reset into the guest's
 * event queue, which the guest reads when it runs again), while the channel goes on. So the channel is a pair of sockets, and a
 * thread carries its bytes to and from the connection there is.
 *
 *     waiting -> connected -> (a snapshot) expecting -> dropped -> waiting -> connected …          ended: for good
 *
 * Waiting, nothing is read from the channel: what is said to the guest stays until there is a connection. Expecting, the
 * end of the connection is no end; dropped, we have closed it ourselves, after what was still in it (a guest that stands still
 * has said its last frame before), because Firecracker does not: until the guest is spoken to, such a connection looks alive and
 * what is written into it is lost. In the connection after that we say PROTOCOL_SYNC first (protocol.h), at which the guest's decoder,
 * which scans for it, takes up frames again; its sessions have not noticed. A connection that ends when nobody
 * expects it is most often the first sign of the machine's end, which is waited for. A guest that calls again instead has lost
 * bytes: the channel ends. One that does neither is lost, too: it may have powered itself off, on a machine that has no switch.
 * The end of the process is that of the channel.
 *
 * A new connection takes the place of one before it only while that is expected; otherwise it is closed at once: the guest has one
 * agent, and whoever else dials is not it (hazard C6).
 *
 * Threads: open and close by the operations; channel_fd is the caller's to guard; expect and drop by an operation, never two at
 * once.
 */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_LINK_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_LINK_H

#include "backend/firecracker/firecracker_limits.h"
#include "host/host.h"

struct firecracker_link;

/* Listens at the path, and carries from then on. *ret_channel_fd is the caller's end of the channel, open until close. */
KELPIE_CHECKED enum kelpie_status firecracker_link_open(struct host *host, const char *path,
                                                        struct firecracker_link **ret_link,
                                                        int *ret_channel_fd,
                                                        struct kelpie_error *err);

/* The process that is at the other end: its end is that of the channel. on_lost is called by the link's thread, once, when the
 * guest is lost. */
void firecracker_link_watch(struct firecracker_link *link, int exit_fd,
                            void (*on_lost)(void *argument), void *argument);

/* The guest's connection is about to be ended by a snapshot. */
void firecracker_link_expect(struct firecracker_link *link);

/* The snapshot was made, or not: the connection is let go of. What is said to the guest from now on waits for the next. */
void firecracker_link_drop(struct firecracker_link *link);

/* Stops, and closes everything but the caller's end of the channel. NULL is allowed. */
void firecracker_link_close(struct firecracker_link *link);

#endif
