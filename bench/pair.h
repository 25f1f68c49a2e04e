/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A backend of ours and its peer, a QEMU by hand, with the same guest: measured in turn, so that a machine whose
 * speed drifts drifts for both. Whatever fails ends the program, but for one thing: with KVM the peer may be started anew,
 * which is said, and only the attempt that came up counts: an emulated machine with an old QEMU stood still in many of the
 * peer's boots.
 */
#ifndef KELPIE_BENCH_PAIR_H
#define KELPIE_BENCH_PAIR_H

#include "by_hand.h"
#include "kelpie.h"
#include "series.h"

#define PAIR_MEMORY_MIB 256

struct pair {
    struct host *host;
    struct image_boot boot;
    const char *backend;         /* ours */
    struct by_hand_machine peer; /* boots with memory of QEMU's own */
    size_t peer_attempts_max;    /* of a boot or restore */
    size_t peer_failures;        /* attempts that did not come up */
    char dir[256];               /* a folder to work in */
    char bundle[300];            /* what is restored: ours */
    char peer_state[300];        /* the peer's, and … */
    char peer_memory[300];       /* … its memory, unless that is in its state */
};

/* Where a figure of both goes. */
struct pair_series {
    struct series *ours;
    struct series *theirs;
};

/* Adds both. name and peer_name live as long as the report. */
struct pair_series pair_add(struct report *report, const char *name, const char *peer_name,
                            const char *unit, double ratio_limit);

void pair_check(enum kelpie_status status, const char *what, const struct kelpie_error *err);

/* kvm: both on /dev/kvm, and the peer is restored the way that is the fastest for QEMU, with its memory in a file. */
void pair_open(struct pair *pair, const char *backend, bool kvm);
void pair_close(struct pair *pair);

double pair_ms_since(struct pair *pair, uint64_t start_ns);
void pair_exec_true(struct kelpie_vm *vm);
struct kelpie_vm *pair_boot_ours(const char *backend);

/* Writes what pair_restore() takes. snapshot: how long ours took, `runs` times; may be NULL. */
void pair_save(struct pair *pair, struct series *snapshot, size_t runs);

/* What a monitor takes without its guest's memory, when all is still, in KiB (monitor_memory.h). False, said
 * on stderr: it cannot be told. */
bool pair_put_memory(struct pair *pair, struct series *series, int process_id,
                     const char *guest_file);

/* One run each, in ms from the call until a command has ended. memory: what pair_put_memory() says of both. */
void pair_boot(struct pair *pair, const struct pair_series *time, const struct pair_series *memory);
void pair_restore(struct pair *pair, const struct pair_series *time);

#endif
