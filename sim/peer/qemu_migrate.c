/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted QEMU's migration to a file. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cursor.h"
#include "sim/peer/qemu_stream.h"

/* ---- Out -------------------------------------------------------------------------------------- */

static void migration_event(struct sim_qemu *qemu, const char *status) {
    sim_qemu_check(qemu);
    ASSERT(status);
    /* Versions differ in whether they send it unasked. */
    if (qemu->migration.events || sim_peer_choose(qemu->peer, 4) == 0) {
        sim_qemu_event(qemu, "MIGRATION", json_pack("{s:s}", "status", status));
    }
}

void sim_qemu_migration_end(struct sim_qemu *qemu, enum sim_qemu_migration_status status,
                            const char *reason) {
    sim_qemu_check(qemu);
    ASSERT(status != SIM_QEMU_MIGRATION_ACTIVE);
    struct sim_qemu_migration *migration = &qemu->migration;
    snprintf(migration->error, sizeof(migration->error), "%s", reason);
    migration->status = status;
    host_close(qemu->host, migration->fd);
    migration->fd = HOST_FD_NONE;
    mock_bytes_deinit(&migration->stream);
    migration_event(qemu, status == SIM_QEMU_MIGRATION_COMPLETED   ? "completed"
                          : status == SIM_QEMU_MIGRATION_CANCELLED ? "cancelled"
                                                                   : "failed");
}

void sim_qemu_migrate_close(struct sim_qemu *qemu) {
    ASSERT(qemu->host);
    ASSERT(qemu->migration.fd >= HOST_FD_NONE);
    host_close(qemu->host, qemu->migration.fd);
    qemu->migration.fd = HOST_FD_NONE;
    mock_bytes_deinit(&qemu->migration.stream);
}

/* The whole stream, of a machine that stands still. False: no memory. */
static bool stream_make(struct sim_qemu *qemu, struct mock_bytes *stream) {
    sim_qemu_check(qemu);
    ASSERT(qemu->state != SIM_QEMU_RUNNING);
    const struct sim_qemu_options *options = &qemu->options;
    struct mock_bytes bytes = mock_bytes_init(qemu->host);
    bool ignore_shared = qemu->migration.ignore_shared;
    bool inside = !(ignore_shared && options->memory_shared);
    bool made = sim_qemu_guest_bytes(qemu, &bytes);
    uint8_t header[SIM_QEMU_STREAM_SIZE];
    struct cursor_writer writer = cursor_writer_init(header, sizeof(header));
    cursor_write_u64(&writer, SIM_QEMU_STREAM_MAGIC);
    cursor_write_u32(&writer, (ignore_shared ? SIM_QEMU_STREAM_IGNORE_SHARED : 0u) |
                                  (inside ? SIM_QEMU_STREAM_HAS_MEMORY : 0u) |
                                  (qemu->booted ? SIM_QEMU_STREAM_BOOTED : 0u));
    cursor_write_u32(&writer, options->machine);
    cursor_write_u32(&writer, options->vcpu_count);
    cursor_write_u32(&writer, (uint32_t)options->disk_count);
    cursor_write_u32(&writer, options->has_network);
    cursor_write_u32(&writer, 0);
    cursor_write_u64(&writer, options->memory_size);
    cursor_write_u64(&writer, bytes.size);
    cursor_write_u64(&writer, sim_qemu_checksum(bytes.data, bytes.size));
    cursor_write_u64(&writer, sim_qemu_checksum(header, writer.size));
    ASSERT(!writer.failed && writer.size == SIM_QEMU_STREAM_SIZE);
    mock_bytes_deinit(stream);
    made = made && mock_bytes_append(stream, header, sizeof(header)) &&
           (!inside || bytes.size == 0 || mock_bytes_append(stream, bytes.data, bytes.size));
    mock_bytes_deinit(&bytes);
    return made;
}

void sim_qemu_migrate(struct sim_qemu *qemu, const char *uri, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(uri && answer);
    struct sim_qemu_migration *migration = &qemu->migration;
    if (migration->status == SIM_QEMU_MIGRATION_ACTIVE && qemu->state != SIM_QEMU_INMIGRATE) {
        sim_qemu_refuse(answer, "There's a migration process in progress");
    } else if (qemu->state == SIM_QEMU_INMIGRATE) {
        sim_qemu_refuse(answer, "Guest is waiting for an incoming migration");
    } else if (qemu->state == SIM_QEMU_POSTMIGRATE) {
        sim_qemu_refuse(answer, "Can't migrate the vm that was paused due to previous migration");
    } else if (strncmp(uri, "fd:", 3) != 0) {
        sim_qemu_refuse(answer, "Parameter 'uri' expects a valid migration protocol");
    } else {
        migration->fd = sim_qemu_named_fd_take(qemu, uri + 3);
        if (migration->fd == HOST_FD_NONE) {
            sim_qemu_refuse(answer, "File descriptor named '%.64s' has not been found", uri + 3);
            sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_FAILED, answer->desc);
        }
    }
    if (answer->class) {
        return;
    }
    migration->live = qemu->state == SIM_QEMU_RUNNING;
    if (!migration->live && !stream_make(qemu, &migration->stream)) {
        sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_FAILED, "Unable to allocate memory");
        return;
    }
    migration->status = SIM_QEMU_MIGRATION_ACTIVE;
    migration->written = 0;
    migration->steps_left =
        1 + (uint32_t)sim_peer_choose(qemu->peer, SIM_QEMU_MIGRATION_STEP_COUNT_MAX);
    migration->step_ns = (1 + sim_peer_choose(qemu->peer, SIM_QEMU_MIGRATION_MS_MAX)) *
                         HOST_NS_PER_MS / migration->steps_left;
    migration->next_ns = host_monotonic_ns(qemu->host) + migration->step_ns;
    migration_event(qemu, "active");
}

static bool stream_write(struct sim_qemu *qemu, size_t size) {
    sim_qemu_check(qemu);
    struct sim_qemu_migration *migration = &qemu->migration;
    ASSERT(migration->written + size <= migration->stream.size);
    struct kelpie_error error;
    if (host_file_write_at(qemu->host, migration->fd, migration->stream.data + migration->written,
                           size, migration->written, &error) != KELPIE_OK) {
        char reason[SIM_QEMU_NAME_SIZE_MAX + 128];
        snprintf(reason, sizeof(reason), "Unable to write to file: %.100s",
                 strerror(error.os_error));
        sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_FAILED, reason);
        return false;
    }
    migration->written += size;
    return true;
}

/* The last step: what ran meanwhile stops, and is taken as it is then. */
static void migrate_finish(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    struct sim_qemu_migration *migration = &qemu->migration;
    ASSERT(migration->status == SIM_QEMU_MIGRATION_ACTIVE);
    bool ran = qemu->state == SIM_QEMU_RUNNING;
    if (ran) {
        sim_qemu_stop(qemu, SIM_QEMU_PAUSED);
    }
    bool made = true;
    if (migration->live) {
        made = stream_make(qemu, &migration->stream);
        migration->written = 0;
    }
    if (!made) {
        sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_FAILED, "Unable to allocate memory");
    } else if (stream_write(qemu, migration->stream.size - (size_t)migration->written)) {
        qemu->state = SIM_QEMU_POSTMIGRATE;
        sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_COMPLETED, "");
        return;
    }
    if (ran) {
        sim_qemu_run(qemu);
    }
}

/* ---- Both ------------------------------------------------------------------------------------- */

void sim_qemu_migrate_cancel(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->migration.fd >= HOST_FD_NONE);
    if (qemu->migration.status == SIM_QEMU_MIGRATION_ACTIVE && qemu->state != SIM_QEMU_INMIGRATE) {
        sim_qemu_migration_end(qemu, SIM_QEMU_MIGRATION_CANCELLED, "");
    }
}

json_t *sim_qemu_migrate_query(const struct sim_qemu *qemu) {
    static const char *const names[] = {
        [SIM_QEMU_MIGRATION_NONE] = "none",           [SIM_QEMU_MIGRATION_ACTIVE] = "active",
        [SIM_QEMU_MIGRATION_COMPLETED] = "completed", [SIM_QEMU_MIGRATION_FAILED] = "failed",
        [SIM_QEMU_MIGRATION_CANCELLED] = "cancelled",
    };
    static_assert(ARRAY_SIZE(names) == SIM_QEMU_MIGRATION_STATUS_COUNT, "each has a name");
    sim_qemu_check(qemu);
    const struct sim_qemu_migration *migration = &qemu->migration;
    ASSERT((size_t)migration->status < ARRAY_SIZE(names));
    if (migration->status == SIM_QEMU_MIGRATION_NONE) {
        return json_object();
    }
    if (migration->status == SIM_QEMU_MIGRATION_FAILED) {
        return json_pack("{s:s, s:s}", "status", "failed", "error-desc", migration->error);
    }
    return json_pack("{s:s, s:{s:I}}", "status", names[migration->status], "ram", "transferred",
                     (json_int_t)migration->written);
}

uint64_t sim_qemu_migrate_deadline_ns(const struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT((unsigned)qemu->migration.status < SIM_QEMU_MIGRATION_STATUS_COUNT);
    return qemu->migration.status == SIM_QEMU_MIGRATION_ACTIVE ? qemu->migration.next_ns
                                                               : UINT64_MAX;
}

void sim_qemu_migrate_service(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    struct sim_qemu_migration *migration = &qemu->migration;
    uint64_t now_ns = host_monotonic_ns(qemu->host);
    if (migration->status != SIM_QEMU_MIGRATION_ACTIVE || now_ns < migration->next_ns) {
        return;
    }
    ASSERT(migration->steps_left > 0);
    migration->steps_left--;
    migration->next_ns = now_ns + migration->step_ns;
    if (qemu->state == SIM_QEMU_INMIGRATE) {
        sim_qemu_incoming_finish(qemu);
    } else if (migration->steps_left == 0) {
        migrate_finish(qemu);
    } else if (!migration->live) {
        size_t left = migration->stream.size - (size_t)migration->written;
        (void)stream_write(qemu, left / (migration->steps_left + 1));
    }
}
