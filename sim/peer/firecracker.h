/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker.h: the scripted Firecracker, for the files firecracker*.c: its API on a UNIX socket, over a simulated guest.
 *
 *     firecracker --api-sock PATH [--id ID] …        firecracker --version
 *
 * THEORY OF OPERATION
 *
 * One thread and one loop: the API's socket, one connection of it at a time, the socket device (firecracker_vsock.h) and the
 * guest (guest.h). A request is parsed (http.h), understood (firecracker_api.h) and carried out (firecracker_machine.c). Then
 * its answer is sent; the next request of the connection is read after that. A slow answer does not stop the guest.
 *
 *     reading -> held (a slow one, not carried out yet) -> sending (maybe late) -> reading -> …      closing: after the last answer
 *
 * A snapshot is two files, as Firecracker's. The state file: a header with sizes and checksums, and the config as JSON. The
 * memory file is as long as the machine's memory; the guest as bytes (peer_guest_save), the image, lies at its beginning, page
 * by page, and everything that is zero is a hole. A diff writes the pages that have changed since the last snapshot or load
 * into the memory file that it is given, and leaves the others alone: into a new file, which a client merges, or over the
 * one before. Without track_dirty_pages every page of the image counts as changed, but for those of a loaded machine that are as in
 * the file that it maps: they need not be in core. A load reads the image and
 * fails if it is not the one that was saved; Firecracker itself would not notice.
 *
 * As Firecracker: after a load that failed the process answers, and ends; a guest that resets or powers off ends it with
 * 0; sockets stay behind.
 *
 * Not simulated, and refused aloud: --config-file, a UFFD memory backend, a file for the serial console. The console is stdout, as
 * are log lines until PUT /logger names a file.
 */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_H
#define KELPIE_SIM_PEER_FIRECRACKER_H

#include "sim/peer/firecracker_api.h"
#include "sim/peer/firecracker_vsock.h"
#include "sim/peer/guest.h"
#include "sim/peer/http.h"

#define PEER_FIRECRACKER_PROGRAM "firecracker"

/* ---- firecracker_machine.c -------------------------------------------------------------------- */

struct firecracker_machine {
    const struct sim_peer *peer;
    struct host *host;
    struct peer_guest *guest; /* NULL: not started */
    struct firecracker_vsock vsock;
    uint64_t memory_bytes;
    struct mock_bytes seen; /* the image at the last snapshot or load: what diffs compare with */
    bool has_seen;
    struct mock_bytes mapped; /* the image at the load; empty: it booted */
    bool ends;                /* Ctrl-Alt-Del, or a load that failed */
    int exit_code;
};

void firecracker_machine_init(struct firecracker_machine *machine, const struct sim_peer *peer);
void firecracker_machine_deinit(struct firecracker_machine *machine);

/* Carries an order out. NULL, or why it could not be, in fault. */
const char *firecracker_machine_obey(struct firecracker_machine *machine,
                                     struct firecracker_api *api,
                                     const struct firecracker_order *order,
                                     char fault[FIRECRACKER_FAULT_SIZE]);

/* A guest whose connection is another one gets a channel of its own. */
KELPIE_CHECKED enum kelpie_status firecracker_machine_replug(struct firecracker_machine *machine,
                                                             struct kelpie_error *err);
bool firecracker_machine_runs(const struct firecracker_machine *machine);

/* ---- firecracker_snapshot.c ------------------------------------------------------------------- */

/* Of a state's config: false, that it was saved where KVM does not know the real time of its clock. */
#define FIRECRACKER_CLOCK_MEMBER "kvm_clock_realtime"

/* What a state file has, beside the checksum of its JSON. */
struct firecracker_saved {
    uint64_t memory_bytes;
    uint64_t image_size;
    uint64_t image_checksum;
    json_t *config;
};

/* FNV-1a, 64 bits. */
uint64_t firecracker_checksum(const void *data, size_t size);

KELPIE_CHECKED enum kelpie_status firecracker_state_write(struct host *host, const char *path,
                                                          const struct firecracker_saved *saved,
                                                          struct kelpie_error *err);

/* SNAPSHOT_CORRUPT: this is no state file. The config is the caller's to release. */
KELPIE_CHECKED enum kelpie_status firecracker_state_read(struct host *host, const char *path,
                                                         struct firecracker_saved *ret_saved,
                                                         struct kelpie_error *err);

/* A memory file of that many bytes with the image's pages; seen: NULL (all of them), or only those that differ from it. */
KELPIE_CHECKED enum kelpie_status firecracker_memory_write(struct host *host, const char *path,
                                                           uint64_t memory_bytes,
                                                           const struct mock_bytes *image,
                                                           const struct mock_bytes *seen,
                                                           struct kelpie_error *err);

/* Appends the image to `image`, which is empty. SNAPSHOT_CORRUPT: the file, or the image, is another. */
KELPIE_CHECKED enum kelpie_status firecracker_memory_read(struct host *host, const char *path,
                                                          const struct firecracker_saved *saved,
                                                          struct mock_bytes *image,
                                                          struct kelpie_error *err);

/* ---- firecracker.c ---------------------------------------------------------------------------- */

int peer_firecracker_main(const struct sim_peer *peer);

#endif
