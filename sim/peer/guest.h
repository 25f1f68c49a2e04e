/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * guest.h: the guest in every scripted monitor: the mock backend's, which speaks the real protocol, over two
 * descriptors of the monitor, with the faults of a guest.
 *
 * THEORY OF OPERATION
 *
 * The monitor's loop owns it: it asks what to wait for, waits, and lets the guest do its work. Nothing here waits.
 *
 *     struct host_poll_item items[PEER_GUEST_ITEM_COUNT];
 *     peer_guest_items(guest, items);
 *     struct host_wait wait = {peer_guest_deadline_ns(guest), HOST_FD_NONE};
 *     status = host_poll(host, items, PEER_GUEST_ITEM_COUNT, &wait, &err);    (with the monitor's own)
 *     peer_guest_service(guest, items);
 *     if (peer_guest_outcome(guest) != PEER_GUEST_RUNS) { the machine has ended }
 *
 * Whether a fault happens is asked once for each turn in which the guest has something to do. A guest that was silenced
 * stays so as long as its process lives; one that is restored from what it saved speaks again.
 *
 * What it saves is all that a real machine has in its memory. With a channel over vsock the connection is not in it: the
 * restored guest connects anew. A virtio-serial port has no connection: the frame that the guest was in the middle of reading, and
 * what it had not yet written, are there again after a load (PEER_GUEST_SERIAL).
 *
 * Not for several threads. The descriptors stay the monitor's.
 */
#ifndef KELPIE_SIM_PEER_GUEST_H
#define KELPIE_SIM_PEER_GUEST_H

#include "backend/mock/mock_guest.h"
#include "sim/peer/guest_limits.h"
#include "sim/peer/peer.h"

enum peer_guest_link {
    PEER_GUEST_VSOCK = 0, /* kelpie-vmm, Firecracker */
    PEER_GUEST_SERIAL,    /* QEMU */
};

enum peer_guest_outcome {
    PEER_GUEST_RUNS = 0,
    PEER_GUEST_POWERED_OFF,
    PEER_GUEST_RESET,    /* a fault, without a word on the console */
    PEER_GUEST_PANICKED, /* with panic=-1 a kernel then resets at once */
};

enum peer_guest_item { PEER_GUEST_CHANNEL = 0, PEER_GUEST_CONSOLE, PEER_GUEST_ITEM_COUNT };

struct peer_guest_config {
    const struct sim_peer *peer; /* outlives the guest */
    enum peer_guest_link link;
    int channel_fd; /* a stream, both ways */
    int console_fd; /* a stream, out; HOST_FD_NONE: none */
    uint64_t memory_bytes;
};

struct peer_guest;

/* A machine without a guest in it: peer_guest_boot() or peer_guest_load() comes next. */
KELPIE_CHECKED enum kelpie_status peer_guest_create(const struct peer_guest_config *config,
                                                    struct peer_guest **ret_guest,
                                                    struct kelpie_error *err);
void peer_guest_destroy(struct peer_guest *guest); /* NULL is allowed */

/* Runs from now on; it answers after PEER_GUEST_BOOT_MS_MIN to _MAX. */
KELPIE_CHECKED enum kelpie_status peer_guest_boot(struct peer_guest *guest,
                                                  struct kelpie_error *err);

/* FNV-1a (Fowler, Noll, Vo), 64 bits: a lost or wrong page does not go unnoticed. */
uint64_t peer_guest_checksum(const void *data, size_t size);

/* Stands still afterwards. SNAPSHOT_CORRUPT: these are not the bytes of peer_guest_save(). NO_MEMORY: they are, and do not fit.
 * It is then only good for destroy. */
KELPIE_CHECKED enum kelpie_status peer_guest_load(struct peer_guest *guest, const void *data,
                                                  size_t size, struct kelpie_error *err);

/* Appends the guest as it is now to bytes, which are empty. The same guest gives the same bytes. */
KELPIE_CHECKED enum kelpie_status
peer_guest_save(struct peer_guest *guest, struct mock_bytes *bytes, struct kelpie_error *err);

/* Both may come twice. */
void peer_guest_pause(struct peer_guest *guest);
void peer_guest_resume(struct peer_guest *guest);
bool peer_guest_is_paused(const struct peer_guest *guest);

/* What to wait for, and until when on the monotonic clock (UINT64_MAX: no matter how long). */
void peer_guest_items(const struct peer_guest *guest,
                      struct host_poll_item items[PEER_GUEST_ITEM_COUNT]);
uint64_t peer_guest_deadline_ns(const struct peer_guest *guest);

/* Does what can be done at once. items: as host_poll() left them; after a timeout nothing is ready. */
void peer_guest_service(struct peer_guest *guest,
                        const struct host_poll_item items[PEER_GUEST_ITEM_COUNT]);

enum peer_guest_outcome peer_guest_outcome(const struct peer_guest *guest);

/* ---- guest_hostile.c -------------------------------------------------------------------------- */

/* Says something that an honest guest does not say. The last `fresh_size` bytes of what is to be sent are whole frames that no one
 * has seen yet. */
void peer_guest_hostile(const struct sim_peer *peer, struct mock_guest *mock, size_t fresh_size);

#endif
