/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted QEMU's migration from a file: a machine that was written down goes on in this one, if it is the same. */
#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "sim/peer/qemu_stream.h"

/* ---- In --------------------------------------------------------------------------------------- */

void sim_qemu_migrate_incoming(struct sim_qemu *qemu, const char *uri,
                               struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(uri && answer);
    struct sim_qemu_migration *migration = &qemu->migration;
    if (!qemu->options.incoming) {
        sim_qemu_refuse(answer, "'-incoming' was not specified on the command line");
    } else if (migration->status != SIM_QEMU_MIGRATION_NONE) {
        sim_qemu_refuse(answer, "The incoming migration has already been started");
    } else if (strncmp(uri, "fd:", 3) != 0) {
        sim_qemu_refuse(answer, "unknown migration protocol: %.64s", uri);
    } else {
        migration->fd = sim_qemu_named_fd_take(qemu, uri + 3);
        if (migration->fd == HOST_FD_NONE) {
            sim_qemu_refuse(answer, "File descriptor named '%.64s' has not been found", uri + 3);
        }
    }
    if (answer->class) {
        return;
    }
    migration->status = SIM_QEMU_MIGRATION_ACTIVE;
    migration->steps_left = 1;
    migration->next_ns =
        host_monotonic_ns(qemu->host) +
        (1 + sim_peer_choose(qemu->peer, SIM_QEMU_MIGRATION_MS_MAX)) * HOST_NS_PER_MS;
    sim_qemu_event(qemu, "MIGRATION", json_pack("{s:s}", "status", "setup"));
}

/* Reads [offset, offset + size) of a file to the end of bytes. False: it is not there. */
static bool file_take(struct sim_qemu *qemu, int fd, uint64_t offset, uint64_t size,
                      struct mock_bytes *bytes) {
    sim_qemu_check(qemu);
    ASSERT(fd != HOST_FD_NONE);
    struct kelpie_error ignored;
    uint8_t page[SIM_QEMU_PAGE_SIZE];
    for (uint64_t done = 0; done < size;) {
        size_t count = 0;
        if (host_file_read_at(qemu->host, fd, page, (size_t)min_u64(sizeof(page), size - done),
                              offset + done, &count, &ignored) != KELPIE_OK ||
            count == 0 || !mock_bytes_append(bytes, page, count)) {
            return false;
        }
        done += count;
    }
    return true;
}

/* What the stream says of its machine. */
struct stream_header {
    uint32_t flags;
    uint64_t size;
    uint64_t sum;
};

static bool differs(struct sim_qemu *qemu, const char *what, uint64_t there, uint64_t here) {
    sim_qemu_check(qemu);
    ASSERT(what);
    if (there != here) {
        sim_qemu_words(qemu,
                       "qemu-system-x86_64: Size mismatch: %s: 0x%" PRIx64 " != 0x%" PRIx64
                       ": Invalid argument\n",
                       what, there, here);
    }
    return there != here;
}

/* False: QEMU has said what does not fit. */
static bool header_read(struct sim_qemu *qemu, const struct mock_bytes *bytes,
                        struct stream_header *ret_header) {
    sim_qemu_check(qemu);
    ASSERT(ret_header);
    const struct sim_qemu_options *options = &qemu->options;
    struct cursor_reader reader = cursor_reader_init(bytes->data, bytes->size);
    uint64_t magic = cursor_read_u64(&reader);
    ret_header->flags = cursor_read_u32(&reader);
    uint32_t machine = cursor_read_u32(&reader);
    uint32_t vcpu_count = cursor_read_u32(&reader);
    uint32_t disk_count = cursor_read_u32(&reader);
    uint32_t network = cursor_read_u32(&reader);
    uint32_t zero = cursor_read_u32(&reader);
    uint64_t memory_size = cursor_read_u64(&reader);
    ret_header->size = cursor_read_u64(&reader);
    ret_header->sum = cursor_read_u64(&reader);
    size_t summed = reader.offset;
    uint64_t sum = cursor_read_u64(&reader);
    if (reader.failed || magic != SIM_QEMU_STREAM_MAGIC || zero != 0 ||
        sum != sim_qemu_checksum(bytes->data, summed)) {
        sim_qemu_words(qemu, "qemu-system-x86_64: Not a migration stream\n");
        return false;
    }
    bool ignore_shared = (ret_header->flags & SIM_QEMU_STREAM_IGNORE_SHARED) != 0;
    if (ignore_shared != qemu->migration.ignore_shared) {
        sim_qemu_words(qemu,
                       "qemu-system-x86_64: Capability x-ignore-shared is %s, but received "
                       "capability is %s\n",
                       ignore_shared ? "off" : "on", ignore_shared ? "on" : "off");
        return false;
    }
    if (machine != options->machine) {
        sim_qemu_words(
            qemu, "qemu-system-x86_64: Machine type received is '%s' and local is '%s'\n",
            machine < SIM_QEMU_MACHINE_COUNT ? sim_qemu_machine_name((enum sim_qemu_machine)machine)
                                             : "unknown",
            sim_qemu_machine_name(options->machine));
        return false;
    }
    return !differs(qemu, "ram", memory_size, options->memory_size) &&
           !differs(qemu, "cpu", vcpu_count, options->vcpu_count) &&
           !differs(qemu, "virtio-blk", disk_count, options->disk_count) &&
           !differs(qemu, "virtio-net", network, options->has_network) &&
           !differs(qemu, "ram in use", ret_header->size > memory_size, 0);
}

/* The guest's bytes, from where the stream says that they are. */
static bool memory_read(struct sim_qemu *qemu, const struct stream_header *header,
                        struct mock_bytes *bytes) {
    sim_qemu_check(qemu);
    ASSERT(bytes->size == 0);
    if (header->flags & SIM_QEMU_STREAM_HAS_MEMORY) {
        return file_take(qemu, qemu->migration.fd, SIM_QEMU_STREAM_SIZE, header->size, bytes) &&
               sim_qemu_checksum(bytes->data, bytes->size) == header->sum;
    }
    struct mock_bytes first = mock_bytes_init(qemu->host);
    int fd = qemu->options.memory_fd;
    bool read = file_take(qemu, fd, 0, SIM_QEMU_MEMORY_SIZE, &first);
    struct cursor_reader reader = cursor_reader_init(first.data, first.size);
    bool same = read && cursor_read_u64(&reader) == SIM_QEMU_MEMORY_MAGIC &&
                cursor_read_u64(&reader) == header->size && cursor_read_u64(&reader) == header->sum;
    mock_bytes_deinit(&first);
    return same && file_take(qemu, fd, SIM_QEMU_PAGE_SIZE, header->size, bytes) &&
           sim_qemu_checksum(bytes->data, bytes->size) == header->sum;
}

void sim_qemu_incoming_finish(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->state == SIM_QEMU_INMIGRATE);
    struct mock_bytes bytes = mock_bytes_init(qemu->host);
    struct stream_header header = {0};
    bool good = file_take(qemu, qemu->migration.fd, 0, SIM_QEMU_STREAM_SIZE, &bytes);
    good = good && header_read(qemu, &bytes, &header);
    mock_bytes_deinit(&bytes);
    if (good && !memory_read(qemu, &header, &bytes)) {
        sim_qemu_words(qemu, "qemu-system-x86_64: error while loading state for instance 0x0 of "
                             "device 'ram'\n");
        good = false;
    }
    bool booted = (header.flags & SIM_QEMU_STREAM_BOOTED) != 0;
    if (good && booted) {
        good = peer_guest_load(qemu->guest, bytes.data, bytes.size, NULL) == KELPIE_OK;
    }
    mock_bytes_deinit(&bytes);
    if (!good) {
        sim_qemu_words(qemu, "qemu-system-x86_64: load of migration failed: Invalid argument\n");
        sim_qemu_exit(qemu, 1);
        return;
    }
    qemu->booted = booted;
    qemu->state = booted ? SIM_QEMU_PAUSED : SIM_QEMU_PRELAUNCH;
    sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_COMPLETED, "");
    sim_qemu_memory_store(qemu);
    if (qemu->autostart) {
        sim_qemu_run(qemu);
    }
}
