/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/snapshot_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define FILE_MODE 0600

enum writer_state {
    WRITER_OPEN = 0,
    WRITER_FAILED,    /* publish failed: only destroy is left */
    WRITER_PUBLISHED, /* the bundle is in its place, or a reader's */
};

struct snapshot_writer {
    struct host *host;
    enum writer_state state;
    struct snapshot_path directory; /* empty: in memory */
    struct snapshot_path parent;
    struct snapshot_partial partial;
    struct snapshot_manifest *manifest;
    uint64_t bytes_max; /* UINT64_MAX: no limit */
    int part_fds[SNAPSHOT_PART_COUNT];
    int memory_fd; /* to become parts when it is published; HOST_FD_NONE: there is none */
    uint64_t memory_size;
};

/* Failures that a caller treats differently keep their kind; the others become SNAPSHOT_FAILED. */
static enum kelpie_status writer_failed(const struct snapshot_writer *writer,
                                        enum kelpie_status status, struct kelpie_error *err) {
    ASSERT(status != KELPIE_OK);
    ASSERT(writer->host);
    bool kept = status == KELPIE_NO_SPACE || status == KELPIE_SNAPSHOT_TOO_LARGE ||
                status == KELPIE_TIMED_OUT || status == KELPIE_CANCELLED ||
                status == KELPIE_NO_MEMORY || status == KELPIE_BAD_CONFIG;
    return error_wrap(err, kept ? status : KELPIE_SNAPSHOT_FAILED, "writing the bundle %.256s",
                      snapshot_writer_is_in_memory(writer) ? "in memory" : writer->directory.text);
}

/* Takes the directory's name without slashes at its end. */
static enum kelpie_status set_directory(struct snapshot_writer *writer, const char *directory,
                                        struct kelpie_error *err) {
    size_t size = strlen(directory);
    struct host_file_info info;
    ASSERT(directory);
    ASSERT(writer->directory.text[0] == '\0');
    while (size > 1 && directory[size - 1] == '/') {
        size--;
    }
    if (size == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "directory", "the bundle's path is empty");
    }
    TRY(snapshot_path_format(&writer->directory, err, "%.*s", (int)size, directory));
    snapshot_parent(&writer->directory, &writer->parent);
    enum kelpie_status status = host_path_stat(writer->host, writer->parent.text, &info, err);
    if (status != KELPIE_OK || info.type == HOST_FILE_REGULAR) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "directory",
                               "the folder %.512s, which is to hold the bundle, does not exist",
                               writer->parent.text);
    }
    status = host_path_stat(writer->host, writer->directory.text, &info, err);
    if (status == KELPIE_NOT_FOUND) {
        error_clear(err);
        return KELPIE_OK;
    }
    if (status == KELPIE_OK) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "directory", "%.512s exists already",
                               writer->directory.text);
    }
    return status;
}

static enum kelpie_status make_folder(struct snapshot_writer *writer, const char *directory,
                                      struct kelpie_error *err) {
    ASSERT(writer->host);
    ASSERT(directory);
    TRY(set_directory(writer, directory, err));
    snapshot_partial_sweep(writer->host, writer->parent.text);
    enum kelpie_status status =
        snapshot_partial_create(writer->host, writer->directory.text, &writer->partial, err);
    if (status != KELPIE_OK) {
        writer->partial.manifest_fd = HOST_FD_NONE;
        return writer_failed(writer, status, err);
    }
    return KELPIE_OK;
}

enum kelpie_status snapshot_writer_create(struct host *host, const char *directory,
                                          uint64_t bytes_max, struct snapshot_writer **ret_writer,
                                          struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_writer);
    struct snapshot_writer *writer = host_allocate(host, sizeof(*writer), err);
    if (!writer) {
        return KELPIE_NO_MEMORY;
    }
    writer->host = host;
    writer->bytes_max = bytes_max ? bytes_max : UINT64_MAX;
    writer->partial.manifest_fd = HOST_FD_NONE;
    writer->memory_fd = HOST_FD_NONE;
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        writer->part_fds[i] = HOST_FD_NONE;
    }
    enum kelpie_status status = snapshot_manifest_create(host, &writer->manifest, err);
    if (status == KELPIE_OK && directory) {
        status = make_folder(writer, directory, err);
    }
    if (status != KELPIE_OK) {
        snapshot_writer_destroy(writer);
        return status;
    }
    memcpy(writer->manifest->info.id, writer->partial.id, sizeof(writer->partial.id));
    *ret_writer = writer;
    return KELPIE_OK;
}

void snapshot_writer_destroy(struct snapshot_writer *writer) {
    if (!writer) {
        return;
    }
    ASSERT((unsigned)writer->state <= WRITER_PUBLISHED);
    ASSERT(writer->host);
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        host_close(writer->host, writer->part_fds[i]);
    }
    host_close(writer->host, writer->memory_fd);
    if (writer->partial.manifest_fd != HOST_FD_NONE && writer->state != WRITER_PUBLISHED) {
        snapshot_partial_remove(writer->host, writer->partial.folder.text);
    }
    host_close(writer->host, writer->partial.manifest_fd);
    snapshot_manifest_destroy(writer->manifest);
    free(writer);
}

struct snapshot_manifest *snapshot_writer_manifest(struct snapshot_writer *writer) {
    ASSERT(writer);
    ASSERT(writer->manifest);
    return writer->manifest;
}

/* The last part of a path, and its size without slashes at its end. */
static const char *last_name(const char *path, size_t *ret_size) {
    size_t end = strlen(path);
    ASSERT(ret_size);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    ASSERT(start <= end);
    *ret_size = end - start;
    return path + start;
}

enum kelpie_status snapshot_writer_set_parent(struct snapshot_writer *writer, const char *directory,
                                              const struct snapshot_reader *parent,
                                              struct kelpie_error *err) {
    struct snapshot_manifest *manifest = writer->manifest;
    struct snapshot_path folder;
    size_t name_size = 0;
    ASSERT(parent);
    ASSERT(manifest->parent_path[0] == '\0');
    if (snapshot_reader_chain_length(parent) >= SNAPSHOT_CHAIN_LENGTH_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                               "%.512s is the last of %d bundles, and a chain has no more: make a "
                               "full snapshot",
                               directory, SNAPSHOT_CHAIN_LENGTH_MAX);
    }
    const char *name = last_name(directory, &name_size);
    TRY(snapshot_path_format(&folder, err, "%.*s", (int)(name + name_size - directory), directory));
    snapshot_parent(&folder, &folder);
    int size = 0;
    bool beside = strcmp(folder.text, writer->parent.text) == 0 && strspn(name, "./") < name_size;
    if (beside) {
        size = snprintf(manifest->parent_path, sizeof(manifest->parent_path), "../%.*s",
                        (int)name_size, name);
    } else if (directory[0] == '/') {
        size = snprintf(manifest->parent_path, sizeof(manifest->parent_path), "%s", directory);
    }
    if (size <= 0 || (size_t)size >= sizeof(manifest->parent_path)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                               "the parent is not beside the new bundle: give an absolute path of "
                               "at most %d bytes",
                               KELPIE_PATH_SIZE_MAX);
    }
    const struct kelpie_snapshot *info = &snapshot_reader_manifest(parent)->info;
    snprintf(manifest->info.parent_id, sizeof(manifest->info.parent_id), "%s", info->id);
    return KELPIE_OK;
}

bool snapshot_writer_is_in_memory(const struct snapshot_writer *writer) {
    ASSERT(writer);
    ASSERT(writer->host);
    return writer->directory.text[0] == '\0';
}

void snapshot_writer_adopt(struct snapshot_writer *writer, enum snapshot_part part, int fd) {
    ASSERT(snapshot_writer_is_in_memory(writer));
    ASSERT(writer->part_fds[part] == HOST_FD_NONE);
    ASSERT(fd != HOST_FD_NONE);
    writer->part_fds[part] = fd;
}

static enum kelpie_status make_part(struct snapshot_writer *writer, const char *name, int *ret_fd,
                                    struct kelpie_error *err) {
    struct snapshot_path path;
    ASSERT(name);
    ASSERT(ret_fd);
    if (snapshot_writer_is_in_memory(writer)) {
        return host_memory_file(writer->host, name, 0, ret_fd, err);
    }
    TRY(snapshot_path_format(&path, err, "%s/%s", writer->partial.folder.text, name));
    return host_file_open(writer->host, path.text,
                          HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                          FILE_MODE, ret_fd, err);
}

enum kelpie_status snapshot_writer_part(struct snapshot_writer *writer, enum snapshot_part part,
                                        int *ret_fd, struct kelpie_error *err) {
    int fd = HOST_FD_NONE;
    ASSERT(writer->state == WRITER_OPEN);
    ASSERT((unsigned)part < SNAPSHOT_PART_COUNT);
    ASSERT(writer->part_fds[part] == HOST_FD_NONE);
    enum kelpie_status status = make_part(writer, snapshot_part_name(part), &fd, err);
    if (status != KELPIE_OK) {
        return writer_failed(writer, status, err);
    }
    writer->part_fds[part] = fd;
    *ret_fd = fd;
    return KELPIE_OK;
}

/* What all parts take on disk. */
static enum kelpie_status count_bytes(const struct snapshot_writer *writer, uint64_t *ret_bytes,
                                      struct kelpie_error *err) {
    uint64_t bytes = 0;
    ASSERT(ret_bytes);
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        struct host_file_info info;
        if (writer->part_fds[i] != HOST_FD_NONE) {
            TRY(host_file_stat(writer->host, writer->part_fds[i], &info, err));
            bytes += info.allocated_size;
        }
    }
    if (bytes > writer->bytes_max) {
        return error_set(err, KELPIE_SNAPSHOT_TOO_LARGE,
                         "it takes %llu bytes on disk where %llu are allowed",
                         (unsigned long long)bytes, (unsigned long long)writer->bytes_max);
    }
    ASSERT(bytes <= writer->bytes_max);
    *ret_bytes = bytes;
    return KELPIE_OK;
}

enum kelpie_status snapshot_writer_merge(struct snapshot_writer *writer, enum snapshot_part part,
                                         const struct snapshot_source *source, uint64_t size,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    struct snapshot_part_info *info = &writer->manifest->parts[part];
    uint64_t used = 0;
    int fd = HOST_FD_NONE;
    ASSERT(wait);
    ASSERT(source->fd != HOST_FD_NONE);
    ASSERT(!info->present);
    enum kelpie_status status = count_bytes(writer, &used, err);
    if (status != KELPIE_OK) {
        return writer_failed(writer, status, err);
    }
    TRY(snapshot_writer_part(writer, part, &fd, err));
    const struct snapshot_copy copy = {*source, fd, size, writer->bytes_max - used, NULL};
    /* The VM may stand still now: publish has the time to hash what is mostly holes. */
    bool later = snapshot_is_mostly_holes(writer->host, source->fd, size);
    status = snapshot_copy_limited(writer->host, &copy, wait, later ? NULL : info->checksum, err);
    if (status != KELPIE_OK) {
        return writer_failed(writer, status, err);
    }
    info->size = size;
    info->present = !later;
    return KELPIE_OK;
}

enum kelpie_status snapshot_writer_copy(struct snapshot_writer *writer, enum snapshot_part part,
                                        int source_fd, uint64_t size, const struct host_wait *wait,
                                        struct kelpie_error *err) {
    const struct snapshot_source source = {source_fd, HOST_FD_NONE, HOST_FD_NONE};
    ASSERT(writer);
    ASSERT(source_fd != HOST_FD_NONE);
    return snapshot_writer_merge(writer, part, &source, size, wait, err);
}

enum kelpie_status snapshot_writer_scratch(struct snapshot_writer *writer, int *ret_fd,
                                           struct kelpie_error *err) {
    ASSERT(writer->state == WRITER_OPEN);
    ASSERT(ret_fd);
    const uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_UNNAMED;
    if (!snapshot_writer_is_in_memory(writer) &&
        host_file_open(writer->host, writer->partial.folder.text, flags, FILE_MODE, ret_fd, NULL) ==
            KELPIE_OK) {
        return KELPIE_OK;
    }
    return host_memory_file(writer->host, "kelpie-scratch", 0, ret_fd, err);
}

/* The bundle that this one is to be a diff to; by now, another may be in its place. */
static enum kelpie_status open_parent(struct snapshot_writer *writer,
                                      struct snapshot_reader **ret_reader,
                                      struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = writer->manifest;
    struct snapshot_reader *reader = NULL;
    struct snapshot_path path;
    ASSERT(manifest->parent_path[0] != '\0');
    ASSERT(!snapshot_writer_is_in_memory(writer));
    TRY(snapshot_parent_path(writer->partial.folder.text, manifest->parent_path, &path, err));
    TRY(snapshot_reader_open(writer->host, path.text, &reader, err));
    if (strcmp(snapshot_reader_manifest(reader)->info.id, manifest->info.parent_id) != 0) {
        snapshot_reader_close(reader);
        return error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                               "another bundle has taken the place of %.512s", path.text);
    }
    *ret_reader = reader;
    return KELPIE_OK;
}

void snapshot_writer_take_memory(struct snapshot_writer *writer, int memory_fd, uint64_t size) {
    ASSERT(writer->state == WRITER_OPEN);
    ASSERT(writer->memory_fd == HOST_FD_NONE);
    ASSERT(memory_fd != HOST_FD_NONE);
    ASSERT(!snapshot_writer_is_in_memory(writer));
    writer->memory_fd = memory_fd;
    writer->memory_size = size;
}

static enum kelpie_status write_diff(struct snapshot_writer *writer,
                                     const struct snapshot_reader *parent,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    struct snapshot_diff diff = {
        .source_fd = writer->memory_fd, .size = writer->memory_size, .parent = parent};
    uint64_t used = 0;
    ASSERT(parent);
    ASSERT(writer->state == WRITER_OPEN);
    TRY(count_bytes(writer, &used, err));
    diff.bytes_max = writer->bytes_max - used;
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &diff.target_fd, err));
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_PAGES, &diff.pages_fd, err));
    return snapshot_diff_write(writer->host, &diff, wait, err);
}

/* What was taken becomes a part, or two. */
static enum kelpie_status write_memory(struct snapshot_writer *writer, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    struct snapshot_reader *parent = NULL;
    ASSERT(writer->state == WRITER_OPEN);
    ASSERT(wait);
    if (writer->memory_fd == HOST_FD_NONE) {
        return KELPIE_OK;
    }
    if (writer->manifest->parent_path[0] == '\0') {
        return snapshot_writer_copy(writer, SNAPSHOT_PART_MEMORY, writer->memory_fd,
                                    writer->memory_size, wait, err);
    }
    enum kelpie_status status = open_parent(writer, &parent, err);
    if (status == KELPIE_OK) {
        status = write_diff(writer, parent, wait, err);
    }
    snapshot_reader_close(parent);
    return status == KELPIE_OK ? status : writer_failed(writer, status, err);
}

/* Size, checksum unless the copy made it, and everything on the disk. */
static enum kelpie_status finish_part(struct snapshot_writer *writer, size_t part,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    struct snapshot_part_info *info = &writer->manifest->parts[part];
    struct host_file_info file;
    int fd = writer->part_fds[part];
    ASSERT(fd != HOST_FD_NONE);
    if (!info->present) {
        TRY(host_file_stat(writer->host, fd, &file, err));
        if (file.size > SNAPSHOT_PART_SIZE_MAX) {
            return error_set(err, KELPIE_SNAPSHOT_TOO_LARGE, "the part %s is too long",
                             snapshot_part_name((enum snapshot_part)part));
        }
        TRY(snapshot_checksum_file(writer->host, fd, file.size, wait, info->checksum, err));
        info->size = file.size;
        info->present = true;
    }
    ASSERT(info->size <= SNAPSHOT_PART_SIZE_MAX);
    return host_file_sync(writer->host, fd, err);
}

enum kelpie_status snapshot_writer_read(struct snapshot_writer *writer,
                                        struct snapshot_reader **ret_reader,
                                        struct kelpie_error *err) {
    ASSERT(snapshot_writer_is_in_memory(writer));
    ASSERT(writer->state == WRITER_OPEN);
    writer->state = WRITER_FAILED;
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        struct snapshot_part_info *info = &writer->manifest->parts[i];
        struct host_file_info file;
        if (writer->part_fds[i] != HOST_FD_NONE) {
            TRY(host_file_stat(writer->host, writer->part_fds[i], &file, err));
            info->size = file.size;
            info->present = true;
        }
    }
    struct snapshot_manifest *manifest = writer->manifest;
    int part_fds[SNAPSHOT_PART_COUNT];
    memcpy(part_fds, writer->part_fds, sizeof(part_fds));
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        writer->part_fds[i] = HOST_FD_NONE;
    }
    writer->manifest = NULL;
    writer->state = WRITER_PUBLISHED;
    return snapshot_reader_of_parts(writer->host, manifest, part_fds, ret_reader, err);
}

/* The manifest as it will be read: what a reader would refuse is not written. */
static enum kelpie_status write_manifest(struct snapshot_writer *writer, struct kelpie_error *err) {
    AUTO_MEM char *text = NULL;
    struct snapshot_manifest *decoded = NULL;
    int fd = writer->partial.manifest_fd;
    ASSERT(writer->manifest);
    ASSERT(fd != HOST_FD_NONE);
    TRY(snapshot_manifest_encode(writer->manifest, &text, err));
    size_t size = strlen(text);
    ASSERT(size > 0);
    TRY(snapshot_manifest_decode(writer->host, text, size, &decoded, err));
    snapshot_manifest_destroy(decoded);
    TRY(host_file_write_at(writer->host, fd, text, size, 0, err));
    return host_file_sync(writer->host, fd, err);
}

static enum kelpie_status publish(struct snapshot_writer *writer, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    struct kelpie_snapshot *info = &writer->manifest->info;
    ASSERT(writer->state == WRITER_FAILED);
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        if (writer->part_fds[i] != HOST_FD_NONE) {
            TRY(finish_part(writer, i, wait, err));
        }
    }
    TRY(count_bytes(writer, &info->bytes, err));
    ASSERT(strcmp(info->id, writer->partial.id) == 0);
    TRY(write_manifest(writer, err));
    TRY(host_path_sync(writer->host, writer->partial.folder.text, err));
    TRY(host_path_rename(writer->host, writer->partial.folder.text, writer->directory.text, false,
                         err));
    /* From here on the bundle is there, whole. If its name cannot be made to last, it is taken back. */
    enum kelpie_status status = host_path_sync(writer->host, writer->parent.text, err);
    if (status != KELPIE_OK) {
        enum kelpie_status undone = host_path_rename(writer->host, writer->directory.text,
                                                     writer->partial.folder.text, false, NULL);
        (void)undone;
    }
    ASSERT(info->id[0] != '\0');
    return status;
}

enum kelpie_status snapshot_writer_publish(struct snapshot_writer *writer,
                                           const struct host_wait *wait,
                                           struct kelpie_snapshot *ret_snapshot,
                                           struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(writer->state == WRITER_OPEN);
    ASSERT(ret_snapshot);
    enum kelpie_status status = write_memory(writer, wait, err);
    writer->state = WRITER_FAILED;
    TRY(status);
    status = publish(writer, wait, err);
    if (status != KELPIE_OK) {
        return writer_failed(writer, status, err);
    }
    writer->state = WRITER_PUBLISHED;
    *ret_snapshot = writer->manifest->info;
    return KELPIE_OK;
}
