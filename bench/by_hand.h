/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The peer of a backend: the same kernel, initramfs and agent on a QEMU that is driven as one would by hand: no
 * library, a plain migration file, the least QMP that does it. What Kelpie's figures are compared with.
 */
#ifndef KELPIE_BENCH_BY_HAND_H
#define KELPIE_BENCH_BY_HAND_H

#include "host/host.h"
#include "image/image.h"
#include "protocol/protocol.h"

#define BY_HAND_LINE_SIZE_MAX 65536

/* A machine of the type microvm. */
struct by_hand_machine {
    const struct image_boot *boot;
    uint32_t memory_mib;
    bool kvm;            /* else it is emulated */
    uint32_t timeout_ms; /* of each wait for it */
    const char *memory;  /* a file that is its memory; NULL: QEMU's own, a part of its state */
};

struct by_hand {
    struct host *host;
    struct host_process *process;
    bool memory_in_file;
    uint32_t timeout_ms;
    int qmp; /* our ends */
    int channel;
    struct protocol_decoder decoder;
    uint32_t session_last; /* the id used last, by the machine that was saved too */
    uint8_t *frames;       /* PROTOCOL_FRAME_SIZE_MAX */
    char line[BY_HAND_LINE_SIZE_MAX];
    size_t line_size;
    char answer[BY_HAND_LINE_SIZE_MAX]; /* the line that was awaited last */
};

/* Boots; or with `state`, a migration file, takes that up, and does not write to the memory's file. Ends when the agent
 * has answered and is ready for commands. */
KELPIE_CHECKED enum kelpie_status by_hand_start(struct by_hand *vm, struct host *host,
                                                const struct by_hand_machine *machine,
                                                const char *state, struct kelpie_error *err);

/* Runs /bin/true to its end. */
KELPIE_CHECKED enum kelpie_status by_hand_exec_true(struct by_hand *vm, struct kelpie_error *err);

/* QEMU's, to look it up in /proc. */
int by_hand_process_id(struct by_hand *vm);

/* Freezes, stops, and writes the migration file. */
KELPIE_CHECKED enum kelpie_status by_hand_save(struct by_hand *vm, const char *state,
                                               struct kelpie_error *err);

/* Kills it, whatever was made of it. */
void by_hand_end(struct by_hand *vm);

#endif
