/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted QEMU's memory, and the file that it lies in. */
#include <signal.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "sim/peer/qemu_stream.h"

uint64_t sim_qemu_checksum(const void *data, size_t size) {
    ASSERT(data || size == 0);
    uint64_t sum = sim_mix(size, 0, 0);
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        sum = (sum ^ bytes[i]) * 0x100000001b3ull;
    }
    ASSERT(size <= MOCK_BYTES_SIZE_MAX);
    return sum;
}

/* ---- Memory ----------------------------------------------------------------------------------- */

/* False: no memory. */
bool sim_qemu_guest_bytes(struct sim_qemu *qemu, struct mock_bytes *bytes) {
    sim_qemu_check(qemu);
    ASSERT(bytes->size == 0);
    return !qemu->booted || peer_guest_save(qemu->guest, bytes, NULL) == KELPIE_OK;
}

/* What a page of memory that cannot be had does to a process. */
static void memory_write(struct sim_qemu *qemu, const void *data, size_t size, uint64_t offset) {
    sim_qemu_check(qemu);
    ASSERT(size <= SIM_QEMU_PAGE_SIZE);
    struct kelpie_error ignored;
    if (host_file_write_at(qemu->host, qemu->options.memory_fd, data, size, offset, &ignored) !=
        KELPIE_OK) {
        sim_peer_die(qemu->peer, SIGBUS);
    }
}

static void memory_describe(struct sim_qemu *qemu, uint64_t magic, const struct mock_bytes *bytes) {
    sim_qemu_check(qemu);
    uint8_t header[SIM_QEMU_MEMORY_SIZE];
    struct cursor_writer writer = cursor_writer_init(header, sizeof(header));
    cursor_write_u64(&writer, magic);
    cursor_write_u64(&writer, bytes->size);
    cursor_write_u64(&writer, sim_qemu_checksum(bytes->data, bytes->size));
    ASSERT(!writer.failed && writer.size == sizeof(header));
    memory_write(qemu, header, sizeof(header), 0);
}

void sim_qemu_memory_store(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->state != SIM_QEMU_RUNNING);
    struct mock_bytes bytes = mock_bytes_init(qemu->host);
    if (!qemu->options.memory_shared) {
        return;
    }
    if (!sim_qemu_guest_bytes(qemu, &bytes) ||
        bytes.size > qemu->options.memory_size - SIM_QEMU_PAGE_SIZE) {
        sim_peer_die(qemu->peer, SIGBUS);
    }
    for (size_t offset = 0; offset < bytes.size; offset += SIM_QEMU_PAGE_SIZE) {
        memory_write(qemu, bytes.data + offset,
                     (size_t)min_u64(SIM_QEMU_PAGE_SIZE, bytes.size - offset),
                     SIM_QEMU_PAGE_SIZE + offset);
    }
    memory_describe(qemu, SIM_QEMU_MEMORY_MAGIC, &bytes);
    mock_bytes_deinit(&bytes);
}

void sim_qemu_memory_wipe(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->state == SIM_QEMU_RUNNING);
    const struct mock_bytes nothing = mock_bytes_init(qemu->host);
    if (qemu->options.memory_shared) {
        memory_describe(qemu, 0, &nothing);
    }
}
