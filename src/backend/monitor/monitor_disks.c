/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_disks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/overlay.h"

#define OWN_MODE 0600
#define CHECKSUM_NOTE "xxh3"

static const struct monitor_disk disk_none = {
    .fd = HOST_FD_NONE, .overlay_fd = HOST_FD_NONE, .bitmap_fd = HOST_FD_NONE};

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

void monitor_disks_init(struct monitor_disks *disks, const struct backend_launch *launch,
                        bool overlays) {
    ASSERT(launch->host);
    ASSERT(launch->config && launch->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(!launch->has_image || launch->config->disk_count >= 2);
    *disks = (struct monitor_disks){
        .host = launch->host,
        .config = launch->config,
        .launch = launch,
        .overlays = overlays && !launch->disk_folder,
    };
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        disks->disks[i] = disk_none;
        disks->kept[i] = disk_none;
    }
}

static void disk_close(struct host *host, struct monitor_disk *disk) {
    ASSERT(host);
    ASSERT(disk);
    host_close(host, disk->fd);
    host_close(host, disk->overlay_fd);
    host_close(host, disk->bitmap_fd);
    free(disk->outside_path);
    *disk = disk_none;
}

static bool is_image(const struct monitor_disks *disks, size_t index) {
    ASSERT(index < disks->config->disk_count);
    ASSERT(disks->launch);
    return disks->launch->has_image && index + 2 == disks->config->disk_count;
}

static bool is_over_image(const struct monitor_disks *disks, size_t index) {
    ASSERT(index < disks->config->disk_count);
    ASSERT(disks->launch);
    return disks->launch->has_image && index + 1 == disks->config->disk_count;
}

/* ---- Disks of the VM's own -------------------------------------------------------------------- */

/* Where a disk is kept in the folder, or, with fresh, where it is until it is settled. */
static enum kelpie_status own_path(const struct monitor_disks *disks, size_t index, bool fresh,
                                   char ret_path[HOST_PATH_SIZE_MAX + 1],
                                   struct kelpie_error *err) {
    ASSERT(disks->launch->disk_folder);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    int size = snprintf(ret_path, HOST_PATH_SIZE_MAX + 1, "%s/disk-%zu%s",
                        disks->launch->disk_folder, index, fresh ? ".new" : "");
    ASSERT(size > 0);
    if (size > HOST_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk_folder",
                               "the path of a disk in %.256s is too long",
                               disks->launch->disk_folder);
    }
    return KELPIE_OK;
}

/* A new, empty file for it. */
static enum kelpie_status own_create(const struct monitor_disks *disks, size_t index, int *ret_fd,
                                     struct kelpie_error *err) {
    ASSERT(disks->host);
    ASSERT(ret_fd);
    if (!disks->launch->disk_folder) {
        return image_scratch_file(disks->host, ret_fd, err);
    }
    char path[HOST_PATH_SIZE_MAX + 1];
    AUTO_FD struct host_fd fd = {disks->host, HOST_FD_NONE};
    TRY(own_path(disks, index, true, path, err));
    (void)!host_path_unlink(disks->host, path, NULL); /* of somebody who was killed */
    TRY(host_file_open(disks->host, path,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE |
                           HOST_OPEN_NO_FOLLOW,
                       OWN_MODE, &fd.fd, err));
    TRY(host_file_lock(disks->host, fd.fd, true, err));
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

static enum kelpie_status own_settle(struct monitor_disks *disks, size_t index,
                                     struct kelpie_error *err) {
    ASSERT(disks->disks[index].own);
    ASSERT(disks->disks[index].fresh);
    if (disks->launch->disk_folder) {
        char from[HOST_PATH_SIZE_MAX + 1];
        char to[HOST_PATH_SIZE_MAX + 1];
        enum kelpie_status status = own_path(disks, index, true, from, NULL);
        ASSERT(status == KELPIE_OK); /* it was made there, and the other is shorter */
        status = own_path(disks, index, false, to, NULL);
        ASSERT(status == KELPIE_OK);
        TRY(host_path_rename(disks->host, from, to, true, err));
    }
    disk_close(disks->host, &disks->kept[index]);
    disks->disks[index].fresh = false;
    return KELPIE_OK;
}

enum kelpie_status monitor_disks_settle(struct monitor_disks *disks, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(disks->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < disks->config->disk_count; i++) {
        if (disks->disks[i].fresh) {
            TRY(own_settle(disks, i, err));
        }
    }
    return KELPIE_OK;
}

uint64_t monitor_disks_bytes(const struct monitor_disks *disks) {
    uint64_t bytes = 0;
    ASSERT(disks->host && disks->config);
    ASSERT(disks->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < disks->config->disk_count; i++) {
        const struct monitor_disk *disk = &disks->disks[i];
        const int fd = disk->overlay_fd != HOST_FD_NONE ? disk->overlay_fd : disk->fd;
        struct host_file_info info;
        if (!disk->read_only && fd != HOST_FD_NONE &&
            host_file_stat(disks->host, fd, &info, NULL) == KELPIE_OK) {
            bytes += info.allocated_size;
        }
    }
    return bytes;
}

bool monitor_disks_are_kept(const struct monitor_disks *disks) {
    ASSERT(disks->host && disks->config);
    ASSERT(disks->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < disks->config->disk_count; i++) {
        char path[HOST_PATH_SIZE_MAX + 1];
        struct host_file_info info;
        if (disks->kept[i].fd != HOST_FD_NONE) {
            return true;
        }
        if (disks->launch->disk_folder && own_path(disks, i, false, path, NULL) == KELPIE_OK &&
            host_path_stat(disks->host, path, &info, NULL) == KELPIE_OK) {
            return true;
        }
    }
    return false;
}

/* Opens a disk that is kept in the folder. *ret_found: there is one. */
static enum kelpie_status own_open(struct monitor_disks *disks, size_t index, bool *ret_found,
                                   struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    struct monitor_disk *disk = &disks->disks[index];
    ASSERT(disk->fd == HOST_FD_NONE);
    ASSERT(disks->launch->disk_folder);
    TRY(own_path(disks, index, false, path, err));
    enum kelpie_status status =
        host_file_open(disks->host, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW, 0,
                       &disk->fd, err);
    *ret_found = status == KELPIE_OK;
    if (status == KELPIE_NOT_FOUND) {
        return KELPIE_OK;
    }
    TRY(status);
    TRY(host_file_stat(disks->host, disk->fd, &info, err));
    if (info.type != HOST_FILE_REGULAR || info.size == 0 ||
        info.size % IMAGE_DISK_SECTOR_SIZE != 0) {
        return error_set(err, KELPIE_IO_FAILED, "%s is no disk", path);
    }
    status = host_file_lock(disks->host, disk->fd, true, err);
    if (status == KELPIE_BUSY) {
        return error_wrap(err, status, "another VM uses the disk %s", path);
    }
    TRY(status);
    disk->size = info.size;
    disk->own = true;
    return KELPIE_OK;
}

/* The disk over an image, empty. It is whole when it gets its name. */
static enum kelpie_status own_format(struct monitor_disks *disks, size_t index,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    struct monitor_disk *disk = &disks->disks[index];
    ASSERT(is_over_image(disks, index));
    ASSERT(disks->config->image_disk_mib > 0);
    disk->size = (uint64_t)disks->config->image_disk_mib << 20;
    TRY(own_create(disks, index, &disk->fd, err));
    disk->own = true;
    disk->fresh = true;
    TRY(image_disk_format(disks->host, disk->fd, disk->size, wait, err));
    return own_settle(disks, index, err);
}

/* ---- Open and close --------------------------------------------------------------------------- */

static enum kelpie_status config_open(struct monitor_disks *disks, size_t index,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    const struct kelpie_disk *config = &disks->config->disks[index];
    struct monitor_disk *disk = &disks->disks[index];
    struct image_disk image = {.fd = HOST_FD_NONE};
    ASSERT(disk->fd == HOST_FD_NONE);
    ASSERT(config->path);
    if (is_image(disks, index) && config->path[0] == '\0') {
        return error_set_field(err, KELPIE_NOT_FOUND, "image",
                               "the image %.128s is not in this store", disks->config->image);
    }
    TRY(image_disk_open(disks->host, config->path, config->read_only, index, wait, &image, err));
    disk->fd = image.fd;
    disk->size = image.size;
    if (config->read_only && is_file_at(disks->host, disk->fd, config->path)) {
        disk->outside_path = host_duplicate(disks->host, config->path, err);
        if (!disk->outside_path) {
            return KELPIE_NO_MEMORY;
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status disk_open(struct monitor_disks *disks, size_t index,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    struct monitor_disk *disk = &disks->disks[index];
    ASSERT(disk->fd == HOST_FD_NONE);
    ASSERT(index < disks->config->disk_count);
    if (disks->kept[index].fd != HOST_FD_NONE) {
        *disk = disks->kept[index];
        disks->kept[index] = disk_none;
        return KELPIE_OK;
    }
    disk->read_only = disks->config->disks[index].read_only;
    bool found = false;
    if (disks->launch->disk_folder) {
        TRY(own_open(disks, index, &found, err));
    }
    if (found) {
        return KELPIE_OK;
    }
    return is_over_image(disks, index) ? own_format(disks, index, wait, err)
                                       : config_open(disks, index, wait, err);
}

enum kelpie_status monitor_disks_open(struct monitor_disks *disks, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(disks->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < disks->config->disk_count; i++) {
        TRY(disk_open(disks, i, wait, err));
    }
    return KELPIE_OK;
}

void monitor_disks_close(struct monitor_disks *disks) {
    ASSERT(disks->host && disks->config);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        struct monitor_disk *disk = &disks->disks[i];
        char path[HOST_PATH_SIZE_MAX + 1];
        if (disk->own && !disk->fresh) {
            ASSERT(disks->kept[i].fd == HOST_FD_NONE);
            disks->kept[i] = *disk;
            *disk = disk_none;
        } else if (disk->fresh && disks->launch->disk_folder &&
                   own_path(disks, i, true, path, NULL) == KELPIE_OK) {
            (void)!host_path_unlink(disks->host, path, NULL);
        }
        disk_close(disks->host, disk);
    }
}

void monitor_disks_deinit(struct monitor_disks *disks) {
    ASSERT(disks->host && disks->config);
    monitor_disks_close(disks);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        disk_close(disks->host, &disks->kept[i]);
    }
}

/* ---- Save ------------------------------------------------------------------------------------- */

static struct snapshot_source source_of(const struct monitor_disk *disk) {
    ASSERT(disk->fd != HOST_FD_NONE);
    ASSERT((disk->overlay_fd == HOST_FD_NONE) == (disk->bitmap_fd == HOST_FD_NONE));
    return (struct snapshot_source){disk->fd, disk->overlay_fd, disk->bitmap_fd};
}

enum kelpie_status monitor_disks_copy(const struct monitor_disks *disks, size_t index,
                                      int target_fd, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(index < disks->config->disk_count);
    const struct monitor_disk *disk = &disks->disks[index];
    const struct snapshot_source source = source_of(disk);
    return snapshot_copy_merged(disks->host, &source, target_fd, disk->size, wait, err);
}

/* A copy for a bundle in memory lies on the disk all the same: disks are larger than memory. */
static enum kelpie_status disk_hand_over(const struct monitor_disks *disks, size_t index,
                                         struct snapshot_writer *writer,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(snapshot_writer_is_in_memory(writer));
    AUTO_FD struct host_fd copy = {disks->host, HOST_FD_NONE};
    TRY(image_scratch_file(disks->host, &copy.fd, err));
    TRY(monitor_disks_copy(disks, index, copy.fd, wait, err));
    snapshot_writer_adopt(writer, disk_part(index), host_fd_take(&copy));
    return KELPIE_OK;
}

/* The checksum of a file outside. An image's is noted: computing it is reading all of it. */
static enum kelpie_status outside_checksum(const struct monitor_disks *disks, size_t index,
                                           const char *path, const struct host_wait *wait,
                                           char ret_checksum[SNAPSHOT_CHECKSUM_SIZE],
                                           struct kelpie_error *err) {
    const struct monitor_disk *disk = &disks->disks[index];
    char note[IMAGE_DIGEST_SIZE];
    ASSERT(path[0] != '\0');
    static_assert(IMAGE_DIGEST_SIZE - 1 == 2 * (SNAPSHOT_CHECKSUM_SIZE - 1), "it fits twice");
    bool noted = is_image(disks, index) && is_file_at(disks->host, disk->fd, path);
    if (noted && image_note_find(disks->host, CHECKSUM_NOTE, path, note)) {
        snprintf(ret_checksum, SNAPSHOT_CHECKSUM_SIZE, "%.*s", SNAPSHOT_CHECKSUM_SIZE - 1, note);
        return KELPIE_OK;
    }
    TRY(snapshot_checksum_file(disks->host, disk->fd, disk->size, wait, ret_checksum, err));
    if (noted) {
        snprintf(note, sizeof(note), "%s%s", ret_checksum, ret_checksum);
        (void)!image_note_store(disks->host, CHECKSUM_NOTE, path, note, NULL); /* then not */
    }
    return KELPIE_OK;
}

static enum kelpie_status disk_save(const struct monitor_disks *disks, size_t index,
                                    enum kelpie_snapshot_kind kind, struct snapshot_writer *writer,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    const struct monitor_disk *disk = &disks->disks[index];
    const struct kelpie_disk *config = &disks->config->disks[index];
    struct snapshot_disk *saved = &snapshot_writer_manifest(writer)->disks[index];
    ASSERT(disk->fd != HOST_FD_NONE);
    ASSERT(disk->read_only || !disk->outside_path);
    const char *path = disk->outside_path ? disk->outside_path
                       : config->path[0]  ? config->path
                                          : snapshot_part_name(disk_part(index));
    *saved = (struct snapshot_disk){
        .read_only = disk->read_only,
        .in_bundle = !disk->outside_path || kind == KELPIE_SNAPSHOT_TELEPORT,
        .size = disk->size,
    };
    snprintf(saved->path, sizeof(saved->path), "%s", path);
    snprintf(saved->mount, sizeof(saved->mount), "%s", config->mount ? config->mount : "");
    if (saved->in_bundle && snapshot_writer_is_in_memory(writer)) {
        return disk_hand_over(disks, index, writer, wait, err);
    }
    if (saved->in_bundle) {
        const struct snapshot_source source = source_of(disk);
        return snapshot_writer_merge(writer, disk_part(index), &source, disk->size, wait, err);
    }
    ASSERT(disk->overlay_fd == HOST_FD_NONE);
    return outside_checksum(disks, index, path, wait, saved->checksum, err);
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

static enum kelpie_status disk_lay_over(struct monitor_disks *disks, size_t index,
                                        const struct snapshot_reader *reader,
                                        struct kelpie_error *err) {
    ASSERT(disks->overlays);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    struct host *host = disks->host;
    struct monitor_disk *disk = &disks->disks[index];
    TRY(snapshot_reader_part_open(reader, disk_part(index), &disk->fd, err));
    TRY(image_scratch_file(host, &disk->overlay_fd, err));
    TRY(host_file_truncate(host, disk->overlay_fd, disk->size, err));
    return host_memory_file(host, "kelpie-bitmap", overlay_bitmap_size(disk->size),
                            &disk->bitmap_fd, err);
}

/* Reads all of it, and so finds damage, unless it is mostly holes: then only who asks for it has it verified. A
 * bundle in memory has no checksum. */
static enum kelpie_status disk_copy(struct monitor_disks *disks, size_t index,
                                    struct snapshot_reader *reader, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    struct monitor_disk *disk = &disks->disks[index];
    enum snapshot_part part = disk_part(index);
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    TRY(own_create(disks, index, &disk->fd, err));
    int source_fd = snapshot_reader_part(reader, part);
    const char *expected = snapshot_reader_manifest(reader)->parts[part].checksum;
    bool checked =
        expected[0] != '\0' && !snapshot_is_mostly_holes(disks->host, source_fd, disk->size);
    TRY(snapshot_copy_sparse(disks->host, source_fd, disk->fd, disk->size, wait,
                             checked ? checksum : NULL, err));
    if (checked && strcmp(checksum, expected) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, snapshot_part_name(part),
                               "disk %zu of the bundle is damaged", index);
    }
    return KELPIE_OK;
}

/* The bundle's bytes, and a place of their own for what changes; a read-only disk is used in place. */
static enum kelpie_status disk_load_part(struct monitor_disks *disks, size_t index,
                                         struct snapshot_reader *reader,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(disks->host && disks->config);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    struct monitor_disk *disk = &disks->disks[index];
    if (snapshot_reader_part(reader, disk_part(index)) == HOST_FD_NONE) {
        return disk_differs(err, index, "is missing in the bundle");
    }
    disk->own = true;
    disk->fresh = true;
    if (disk->read_only && !disks->launch->disk_folder) {
        return snapshot_reader_part_open(reader, disk_part(index), &disk->fd, err);
    }
    bool overlay = disks->overlays && disk->size > 0 && disk->size <= OVERLAY_DISK_SIZE_MAX;
    return overlay ? disk_lay_over(disks, index, reader, err)
                   : disk_copy(disks, index, reader, wait, err);
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
    /* The image of that digest, wherever this store has it. */
    const char *here = disks->config->disks[index].path;
    const char *path = is_image(disks, index) && here[0] ? here : saved->path;
    struct image_disk image = {.fd = HOST_FD_NONE};
    struct kelpie_error inner;
    enum kelpie_status status =
        image_disk_open(disks->host, path, true, index, wait, &image, &inner);
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
    TRY(outside_checksum(disks, index, path, wait, checksum, err));
    if (strcmp(checksum, saved->checksum) != 0) {
        return disk_differs(err, index, "has changed since the snapshot was taken");
    }
    disk->outside_path = host_duplicate(disks->host, path, err);
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
