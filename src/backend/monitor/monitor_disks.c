/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_disks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

static enum snapshot_part disk_part(size_t index) {
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    return (enum snapshot_part)((size_t)SNAPSHOT_PART_DISK_0 + index);
}

/* Whether fd is the file at path: false for a folder that was turned into an image, and for a link. */
static bool is_file_at(struct host *host, int fd, const char *path) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(path);
    struct host_file_info there = {0};
    struct host_file_info here = {0};
    return host_path_stat(host, path, &there, NULL) == KELPIE_OK &&
           host_file_stat(host, fd, &here, NULL) == KELPIE_OK && there.type == HOST_FILE_REGULAR &&
           there.inode == here.inode && there.device == here.device;
}

void monitor_disks_init(struct monitor_disks *disks, struct host *host,
                        const struct kelpie_config *config) {
    ASSERT(host);
    ASSERT(config && config->disk_count <= KELPIE_DISK_COUNT_MAX);
    *disks = (struct monitor_disks){.host = host, .config = config};
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        disks->disks[i].fd = HOST_FD_NONE;
    }
}

enum kelpie_status monitor_disks_open(struct monitor_disks *disks, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(disks->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < disks->config->disk_count; i++) {
        const struct kelpie_disk *config = &disks->config->disks[i];
        struct monitor_disk *disk = &disks->disks[i];
        ASSERT(disk->fd == HOST_FD_NONE);
        struct image_disk image = {.fd = HOST_FD_NONE};
        TRY(image_disk_open(disks->host, config->path, config->read_only, i, wait, &image, err));
        disk->fd = image.fd;
        disk->size = image.size;
        disk->read_only = config->read_only;
        if (disk->read_only && is_file_at(disks->host, disk->fd, config->path)) {
            disk->outside_path = host_duplicate(disks->host, config->path, err);
            if (!disk->outside_path) {
                return KELPIE_NO_MEMORY;
            }
        }
    }
    return KELPIE_OK;
}

void monitor_disks_close(struct monitor_disks *disks) {
    ASSERT(disks->host && disks->config);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        struct monitor_disk *disk = &disks->disks[i];
        host_close(disks->host, disk->fd);
        free(disk->outside_path);
        *disk = (struct monitor_disk){.fd = HOST_FD_NONE};
    }
}

/* ---- Save ------------------------------------------------------------------------------------- */

static enum kelpie_status disk_save(const struct monitor_disks *disks, size_t index,
                                    enum kelpie_snapshot_kind kind, struct snapshot_writer *writer,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    const struct monitor_disk *disk = &disks->disks[index];
    const struct kelpie_disk *config = &disks->config->disks[index];
    struct snapshot_disk *saved = &snapshot_writer_manifest(writer)->disks[index];
    ASSERT(disk->fd != HOST_FD_NONE);
    ASSERT(disk->read_only || !disk->outside_path);
    const char *path = disk->outside_path ? disk->outside_path : config->path;
    *saved = (struct snapshot_disk){
        .read_only = disk->read_only,
        .in_bundle = !disk->outside_path || kind == KELPIE_SNAPSHOT_TELEPORT,
        .size = disk->size,
    };
    snprintf(saved->path, sizeof(saved->path), "%s", path);
    snprintf(saved->mount, sizeof(saved->mount), "%s", config->mount ? config->mount : "");
    if (saved->in_bundle) {
        return snapshot_writer_copy(writer, disk_part(index), disk->fd, disk->size, wait, err);
    }
    return snapshot_checksum_file(disks->host, disk->fd, disk->size, wait, saved->checksum, err);
}

enum kelpie_status monitor_disks_save(const struct monitor_disks *disks,
                                      enum kelpie_snapshot_kind kind,
                                      struct snapshot_writer *writer, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    size_t count = disks->config->disk_count;
    ASSERT(count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        TRY(disk_save(disks, i, kind, writer, wait, err));
    }
    snapshot_writer_manifest(writer)->disk_count = count;
    return KELPIE_OK;
}

/* ---- Load ------------------------------------------------------------------------------------- */

static enum kelpie_status disk_differs(struct kelpie_error *err, size_t index, const char *what) {
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    ASSERT(what);
    char field[32];
    snprintf(field, sizeof(field), "disks[%zu]", index);
    return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, field, "disk %zu %s", index, what);
}

/* A private copy of the bundle's bytes; a read-only disk is used in place. */
static enum kelpie_status disk_load_part(struct monitor_disks *disks, size_t index,
                                         struct snapshot_reader *reader,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    struct host *host = disks->host;
    struct monitor_disk *disk = &disks->disks[index];
    int part_fd = snapshot_reader_part(reader, disk_part(index));
    if (part_fd == HOST_FD_NONE) {
        return disk_differs(err, index, "is missing in the bundle");
    }
    if (disk->read_only) {
        return snapshot_reader_part_open(reader, disk_part(index), &disk->fd, err);
    }
    TRY(image_scratch_file(host, &disk->fd, err));
    return snapshot_copy_sparse(host, part_fd, disk->fd, disk->size, wait, NULL, err);
}

/* The file outside must be what it was. */
static enum kelpie_status disk_load_outside(struct monitor_disks *disks, size_t index,
                                            const struct snapshot_disk *saved,
                                            const struct host_wait *wait,
                                            struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(!saved->in_bundle);
    struct monitor_disk *disk = &disks->disks[index];
    if (!saved->read_only) {
        return disk_differs(err, index, "is writable and not in the bundle");
    }
    struct image_disk image = {.fd = HOST_FD_NONE};
    struct kelpie_error inner;
    enum kelpie_status status =
        image_disk_open(disks->host, saved->path, true, index, wait, &image, &inner);
    if (status == KELPIE_NOT_FOUND || status == KELPIE_BAD_CONFIG) {
        return disk_differs(err, index, "cannot be opened where the snapshot expects it");
    }
    if (status != KELPIE_OK) {
        if (err) {
            *err = inner;
        }
        return status;
    }
    disk->fd = image.fd;
    if (image.size != saved->size) {
        return disk_differs(err, index, "has another size than when the snapshot was taken");
    }
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    TRY(snapshot_checksum_file(disks->host, disk->fd, image.size, wait, checksum, err));
    if (strcmp(checksum, saved->checksum) != 0) {
        return disk_differs(err, index, "has changed since the snapshot was taken");
    }
    disk->outside_path = host_duplicate(disks->host, saved->path, err);
    return disk->outside_path ? KELPIE_OK : KELPIE_NO_MEMORY;
}

enum kelpie_status monitor_disks_load(struct monitor_disks *disks, struct snapshot_reader *reader,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    const struct kelpie_config *config = disks->config;
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    if (manifest->disk_count != config->disk_count) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "disks",
                               "the snapshot has %zu disks and the config %zu",
                               manifest->disk_count, config->disk_count);
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct snapshot_disk *saved = &manifest->disks[i];
        struct monitor_disk *disk = &disks->disks[i];
        ASSERT(disk->fd == HOST_FD_NONE);
        if (saved->read_only != config->disks[i].read_only) {
            return disk_differs(err, i, "is read-only in one of snapshot and config");
        }
        disk->read_only = saved->read_only;
        disk->size = saved->size;
        TRY(saved->in_bundle ? disk_load_part(disks, i, reader, wait, err)
                             : disk_load_outside(disks, i, saved, wait, err));
    }
    return KELPIE_OK;
}
