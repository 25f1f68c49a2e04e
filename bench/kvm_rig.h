/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A kelpie-vmm to measure: started and given orders by the backend's own code, with a guest of a few instructions in
 * place of Linux, so that it works on any /dev/kvm. Whatever fails ends the program.
 *
 *     struct rig rig;
 *     if (rig_open(&rig, host, 256)) {
 *         rig_boot(&rig, &payload);                     returns when the guest has written to its console
 *         rig_order(&rig, CONTROL_PAUSE);
 *         kvm_process_take_down(rig.instance);          and the next
 *         rig_close(&rig);
 *     }
 */
#ifndef KELPIE_BENCH_KVM_RIG_H
#define KELPIE_BENCH_KVM_RIG_H

#include "backend/kvm/kvm_instance.h"

#define RIG_PAYLOAD_SIZE_MAX 1024

struct rig {
    struct host *host;
    struct kelpie_config config;
    struct backend_launch launch; /* of each instance */
    struct backend_instance *instance;
};

/* Code for long mode, at privilege level 0 and 1 MiB. */
struct rig_payload {
    const uint8_t *code;
    size_t size;
};

/* False, said on stderr: there is no /dev/kvm. */
bool rig_open(struct rig *rig, struct host *host, uint32_t memory_mib);

/* An instance of the rig's machine, which was zeroed. */
void rig_init(struct rig *rig, struct backend_instance *instance);
void rig_close(struct rig *rig);

void rig_check(enum kelpie_status status, const char *what, const struct kelpie_error *err);
struct host_wait rig_wait(struct rig *rig);
double rig_ms_since(struct rig *rig, uint64_t start_ns);

/* Files in memory: with these bytes; of zeros, as long as the machine's memory. The caller closes them. */
int rig_file(struct rig *rig, const void *data, size_t size);
int rig_empty_memory(struct rig *rig);

/* For the next order. give: the monitor's alone from now on. */
void rig_pass(struct rig *rig, enum control_role role, int fd);
void rig_give(struct rig *rig, enum control_role role, int fd);

void rig_order(struct rig *rig, enum control_type type);
void rig_boot(struct rig *rig, const struct rig_payload *payload); /* in instance->memory_fd */

/* The machine, paused for it, as a bundle: in a folder that does not exist; in memory, for a fork. It stays paused. */
void rig_save_bundle(struct rig *rig, const char *directory);
struct snapshot_reader *rig_save_in_memory(struct rig *rig);

void rig_await_console(struct rig *rig); /* takes one byte */

/* What the floor program says of itself: moments on the monotonic clock. */
struct rig_floor_stamps {
    uint64_t started_ns;
    uint64_t ready_ns;
    uint64_t first_exit_ns;
};

/* Starts it as the monitor's child: it gets /dev/kvm and the memory's file, and says when its guest has made an exit. */
void rig_floor_start(struct rig *rig, struct monitor *monitor, int memory_fd, const char *program,
                     struct rig_floor_stamps *ret_stamps);

#endif
