/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * vmm.h: the scripted kelpie-vmm, for the files vmm*.c: every order of vmm/control.h, over a simulated guest.
 *
 * THEORY OF OPERATION
 *
 * The guest as bytes (peer_guest_save) is the image: it lies at the beginning of the machine's memory, and zeros lie behind it. So
 * whatever is done with memory files, full saves, diffs, chains of them and forks, moves the guest or loses it. STATE holds
 * no more than the image's size and checksum: a load whose memory is not what the save saw fails, SNAPSHOT_CORRUPT.
 *
 * A diff is found by comparing, page by page, the image with the one that was last looked at, where the real
 * monitor asks KVM. Otherwise the changes are kept as there: `changed` is what the diff has, `pending` what its file
 * lacks.
 *
 * One thread: while an order is carried out, or delayed by a fault, the guest does not run.
 */
#ifndef KELPIE_SIM_PEER_VMM_H
#define KELPIE_SIM_PEER_VMM_H

#include "sim/peer/guest.h"
#include "sim/peer/vmm_limits.h"
#include "vmm/control.h"

#define PEER_VMM_PROGRAM "kelpie-vmm"

/* The descriptors that came for an order, by role; HOST_FD_NONE: none. Whoever takes one owns it. */
struct peer_vmm_files {
    struct host *host;
    int fds[CONTROL_ROLE_COUNT];
};

void peer_vmm_files_init(struct peer_vmm_files *files, struct host *host);

/* Closes those that nobody took. */
void peer_vmm_files_close(struct peer_vmm_files *files);
int peer_vmm_files_take(struct peer_vmm_files *files, enum control_role role);

/* INTERNAL, with the role's name: there is none. */
KELPIE_CHECKED enum kelpie_status peer_vmm_files_check(const struct peer_vmm_files *files,
                                                       enum control_role role,
                                                       struct kelpie_error *err);

/* ---- vmm_memory.c ----------------------------------------------------------------------------- */

struct peer_vmm_memory {
    struct host *host;
    uint64_t size;          /* bytes; 0: there is no machine */
    int shared_fd;          /* the file that is memory, owned; HOST_FD_NONE: memory is private */
    struct mock_bytes seen; /* the image, when it was last looked at */
    uint64_t changed[PEER_VMM_IMAGE_WORD_COUNT];
    uint64_t pending[PEER_VMM_IMAGE_WORD_COUNT];
    bool complete; /* the guest did not run since the last save or load, or is tracked */
    bool tracked;
    bool was_read; /* whole: which pages the guest touched is not known any more */
    int layer_fd;  /* the diff's memory, owned; HOST_FD_NONE: none is being written */
};

void peer_vmm_memory_init(struct peer_vmm_memory *memory, struct host *host);
void peer_vmm_memory_deinit(struct peer_vmm_memory *memory);

/* The image of that size out of MEMORY, and of LAYER_x where PAGES_x says so; appended to `image`, which is empty.
 * SNAPSHOT_CORRUPT, field "memory" or "pages": a file has another size. */
KELPIE_CHECKED enum kelpie_status
peer_vmm_memory_load(const struct peer_vmm_memory *memory, const struct peer_vmm_files *files,
                     uint64_t image_size, struct mock_bytes *image, struct kelpie_error *err);

/* From here on, changes are changes to this image. */
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_reset(struct peer_vmm_memory *memory,
                                                        const struct mock_bytes *image,
                                                        struct kelpie_error *err);

/* All of memory into a file that holds nothing but zeros. */
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_save(struct peer_vmm_memory *memory, int fd,
                                                       const struct mock_bytes *image,
                                                       struct kelpie_error *err);

/* The orders TRACK, PRESAVE, SAVE with PAGES_0, SEAL and TOUCHED (vmm/control.h). */
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_track(struct peer_vmm_memory *memory,
                                                        struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_presave(struct peer_vmm_memory *memory,
                                                          struct peer_vmm_files *files,
                                                          const struct mock_bytes *image,
                                                          struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_save_diff(struct peer_vmm_memory *memory,
                                                            struct peer_vmm_files *files,
                                                            const struct mock_bytes *image,
                                                            struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_seal(struct peer_vmm_memory *memory,
                                                       struct peer_vmm_files *files,
                                                       const struct mock_bytes *image,
                                                       struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status peer_vmm_memory_touched(const struct peer_vmm_memory *memory,
                                                          const struct peer_vmm_files *files,
                                                          const struct mock_bytes *image,
                                                          struct kelpie_error *err);

/* ---- vmm_order.c ------------------------------------------------------------------------------ */

struct peer_vmm {
    const struct sim_peer *peer;
    struct host *host;
    struct peer_vmm_files files; /* that came, for the next order */
    struct control_machine config;
    bool prepared;
    struct peer_guest *guest; /* NULL: there is no machine yet */
    struct peer_vmm_memory memory;
    int kept_fds[CONTROL_ROLE_COUNT]; /* disks and network, of the machine */
    struct control_stamps stamps;
    bool deaf; /* a fault: it does not listen to orders any more */
    uint8_t payload[CONTROL_MESSAGE_SIZE_MAX];
    uint8_t answer[CONTROL_MESSAGE_SIZE_MAX];
};

/* Does what an order says; its payload is in vmm->payload. Not FD, not TELL. */
KELPIE_CHECKED enum kelpie_status
peer_vmm_obey(struct peer_vmm *vmm, const struct control_header *header, struct kelpie_error *err);

/* ---- vmm.c ------------------------------------------------------------------------------------ */

int peer_vmm_main(const struct sim_peer *peer);

#endif
