/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu_stream.h: how the scripted QEMU writes a machine down. For qemu_memory.c, qemu_migrate.c and qemu_incoming.c only.
 *
 * The stream: a header (numbers are little-endian), then the memory, unless it is shared and left out.
 *
 *     u64 magic | u32 flags | u32 machine | u32 vCPUs | u32 disks | u32 network | u32 0
 *     u64 memory_size | u64 size of the guest's bytes | u64 their checksum | u64 checksum of all before
 *
 * The memory file's first page: u64 magic | u64 size of the guest's bytes | u64 their checksum.
 */
#ifndef KELPIE_SIM_PEER_QEMU_STREAM_H
#define KELPIE_SIM_PEER_QEMU_STREAM_H

#include "sim/peer/qemu.h"

#define SIM_QEMU_STREAM_MAGIC 0x3145544154534d51ull /* "QMSTATE1" */
#define SIM_QEMU_STREAM_SIZE 64u
#define SIM_QEMU_MEMORY_MAGIC 0x3159524f4d454d51ull /* "QMEMORY1" */
#define SIM_QEMU_MEMORY_SIZE 24u

enum sim_qemu_stream_flag {
    SIM_QEMU_STREAM_IGNORE_SHARED = 1 << 0, /* the capability was on */
    SIM_QEMU_STREAM_HAS_MEMORY = 1 << 1,
    SIM_QEMU_STREAM_BOOTED = 1 << 2,
};

uint64_t sim_qemu_checksum(const void *data, size_t size);

/* The guest as it is now; empty bytes before its boot. False: no memory. */
bool sim_qemu_guest_bytes(struct sim_qemu *qemu, struct mock_bytes *bytes);

/* A migration is over: it gives back its descriptor, and says what became of it. */
void sim_qemu_migration_end(struct sim_qemu *qemu, enum sim_qemu_migration_status status,
                            const char *reason);

/* The last step of one that comes in: the machine is there, or QEMU ends. */
void sim_qemu_incoming_finish(struct sim_qemu *qemu);

#endif
