/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The peer of the qemu backend: the same kernel, initramfs and agent on a QEMU that is driven as one would by hand: no
 * library, a plain migration file, the least QMP that does it. What Kelpie's figures are compared with.
 */
#ifndef KELPIE_BENCH_BY_HAND_H
#define KELPIE_BENCH_BY_HAND_H

#include "host/host.h"
#include "image/image.h"
#include "protocol/protocol.h"

#define BY_HAND_TIMEOUT_MS 60000
#define BY_HAND_LINE_SIZE_MAX 65536

struct by_hand {
    struct host *host;
    struct host_process *process;
    int qmp; /* our ends */
    int channel;
    struct protocol_decoder decoder;
    uint32_t session_last; /* the id used last, by the machine that was saved too */
    uint8_t *frames;       /* PROTOCOL_FRAME_SIZE_MAX */
    char line[BY_HAND_LINE_SIZE_MAX];
    size_t line_size;
    char answer[BY_HAND_LINE_SIZE_MAX]; /* the line that was awaited last */
};

/* Boots; or with `state`, a migration file, takes that up. Ends when the agent has answered and is ready for commands. */
KELPIE_CHECKED enum kelpie_status by_hand_start(struct by_hand *vm, struct host *host,
                                                const struct image_boot *boot, uint32_t memory_mib,
                                                const char *state, struct kelpie_error *err);

/* Runs /bin/true to its end. */
KELPIE_CHECKED enum kelpie_status by_hand_exec_true(struct by_hand *vm, struct kelpie_error *err);

/* Freezes, stops, and writes the migration file. */
KELPIE_CHECKED enum kelpie_status by_hand_save(struct by_hand *vm, const char *state,
                                               struct kelpie_error *err);

/* Kills it, whatever was made of it. */
void by_hand_end(struct by_hand *vm);

#endif
