/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/snapshot_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

struct snapshot_reader {
    struct host *host;
    struct snapshot_path directory; /* empty: in memory */
    struct snapshot_manifest *manifest;
    struct snapshot_reader *parent; /* owned; NULL: this is no diff */
    int part_fds[SNAPSHOT_PART_COUNT];
    bool verified[SNAPSHOT_PART_COUNT]; /* atomically: several threads may verify at once */
};

/* Whether a file could not be opened because of what the bundle is, and not because of this host. */
static bool is_the_bundles(enum kelpie_status status, int os_error) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    bool missing = status == KELPIE_NOT_FOUND || os_error == ENOTDIR;
    return missing || os_error == ELOOP || os_error == ENXIO; /* a link; a socket */
}

/* Opens one of the bundle's files: a regular file, not a link to one elsewhere. */
static enum kelpie_status open_file(const struct snapshot_reader *reader, const char *name,
                                    const char *field, int *ret_fd, struct host_file_info *ret_info,
                                    struct kelpie_error *err) {
    struct snapshot_path path;
    AUTO_FD struct host_fd fd = {reader->host, HOST_FD_NONE};
    struct kelpie_error failure = {0};
    ASSERT(!strchr(name, '/'));
    ASSERT(ret_fd && ret_info);
    TRY(snapshot_path_format(&path, err, "%s/%s", reader->directory.text, name));
    enum kelpie_status status = host_file_open(
        reader->host, path.text, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, &failure);
    if (status != KELPIE_OK) {
        if (is_the_bundles(status, failure.os_error)) {
            snprintf(failure.field, sizeof(failure.field), "%s", field);
            status = KELPIE_SNAPSHOT_CORRUPT;
        }
        (void)error_wrap(&failure, status, "the bundle's %s cannot be opened", field);
        if (err) {
            *err = failure;
        }
        return status;
    }
    TRY(host_file_stat(reader->host, fd.fd, ret_info, err));
    if (ret_info->type != HOST_FILE_REGULAR) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, field, "%.512s is not a regular file",
                               path.text);
    }
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

static enum kelpie_status read_manifest(struct snapshot_reader *reader, struct kelpie_error *err) {
    struct host *host = reader->host;
    struct host_file_info info;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    ASSERT(!reader->manifest);
    TRY(open_file(reader, SNAPSHOT_MANIFEST_NAME, "manifest", &fd.fd, &info, err));
    if (info.size == 0 || info.size > SNAPSHOT_MANIFEST_SIZE_MAX) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "manifest",
                               "manifest.json of %.512s is empty or longer than %d bytes",
                               reader->directory.text, SNAPSHOT_MANIFEST_SIZE_MAX);
    }
    text = host_allocate(host, info.size, err);
    if (!text) {
        return KELPIE_NO_MEMORY;
    }
    TRY(host_file_read_at(host, fd.fd, text, info.size, 0, &size, err));
    ASSERT(size <= info.size);
    enum kelpie_status status = snapshot_manifest_decode(host, text, size, &reader->manifest, err);
    if (status != KELPIE_OK) {
        return error_wrap(err, status, "the bundle %.512s", reader->directory.text);
    }
    return KELPIE_OK;
}

static enum kelpie_status open_parts(struct snapshot_reader *reader, struct kelpie_error *err) {
    struct snapshot_manifest *manifest = reader->manifest;
    ASSERT(manifest->info.bytes == 0);
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        const char *name = snapshot_part_name(i);
        struct host_file_info info;
        if (!manifest->parts[i].present) {
            continue;
        }
        ASSERT(reader->part_fds[i] == HOST_FD_NONE);
        TRY(open_file(reader, name, name, &reader->part_fds[i], &info, err));
        if (info.size != manifest->parts[i].size) {
            return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, name,
                                   "%s of the bundle %.512s has %llu bytes where its manifest "
                                   "tells of %llu",
                                   name, reader->directory.text, (unsigned long long)info.size,
                                   (unsigned long long)manifest->parts[i].size);
        }
        manifest->info.bytes += info.allocated_size;
    }
    return KELPIE_OK;
}

static enum kelpie_status reader_fill(struct snapshot_reader *reader, const char *directory,
                                      struct kelpie_error *err) {
    struct host_file_info info;
    ASSERT(reader->host);
    ASSERT(directory);
    TRY(snapshot_path_format(&reader->directory, err, "%s", directory));
    enum kelpie_status status = host_path_stat(reader->host, directory, &info, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no bundle %.512s", directory);
    }
    TRY(status);
    TRY(read_manifest(reader, err));
    return open_parts(reader, err);
}

static struct snapshot_reader *allocate(struct host *host, struct kelpie_error *err) {
    ASSERT(host);
    struct snapshot_reader *reader = host_allocate(host, sizeof(*reader), err);
    if (reader) {
        reader->host = host;
        for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
            reader->part_fds[i] = HOST_FD_NONE;
        }
    }
    ASSERT(!reader || !reader->manifest);
    return reader;
}

enum kelpie_status snapshot_reader_of_parts(struct host *host, struct snapshot_manifest *manifest,
                                            const int part_fds[SNAPSHOT_PART_COUNT],
                                            struct snapshot_reader **ret_reader,
                                            struct kelpie_error *err) {
    ASSERT(manifest);
    ASSERT(ret_reader);
    struct snapshot_reader *reader = allocate(host, err);
    if (!reader) {
        for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
            host_close(host, part_fds[i]);
        }
        snapshot_manifest_destroy(manifest);
        return KELPIE_NO_MEMORY;
    }
    memcpy(reader->part_fds, part_fds, sizeof(reader->part_fds));
    reader->manifest = manifest;
    *ret_reader = reader;
    return KELPIE_OK;
}

/* One bundle, without its parents. */
static enum kelpie_status open_one(struct host *host, const char *directory,
                                   struct snapshot_reader **ret_reader, struct kelpie_error *err) {
    ASSERT(directory);
    ASSERT(ret_reader);
    struct snapshot_reader *reader = allocate(host, err);
    if (!reader) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status = reader_fill(reader, directory, err);
    if (status != KELPIE_OK) {
        snapshot_reader_close(reader);
        return status;
    }
    *ret_reader = reader;
    return KELPIE_OK;
}

/* The parent is the bundle that the diff was made to, of the same machine. */
static enum kelpie_status check_parent(const struct snapshot_reader *child,
                                       const struct snapshot_reader *parent,
                                       struct kelpie_error *err) {
    const struct snapshot_manifest *is = parent->manifest;
    const struct snapshot_manifest *wanted = child->manifest;
    ASSERT(wanted->parent_path[0] != '\0');
    ASSERT(wanted->parts[SNAPSHOT_PART_MEMORY].present);
    if (strcmp(is->info.id, wanted->info.parent_id) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "parent",
                               "%.512s is the bundle %s, and the diff in %.512s is to %s",
                               parent->directory.text, is->info.id, child->directory.text,
                               wanted->info.parent_id);
    }
    if (!is->parts[SNAPSHOT_PART_MEMORY].present ||
        is->parts[SNAPSHOT_PART_MEMORY].size != wanted->parts[SNAPSHOT_PART_MEMORY].size ||
        strcmp(is->info.backend, wanted->info.backend) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "parent",
                               "%.512s is of another machine than its diff in %.512s",
                               parent->directory.text, child->directory.text);
    }
    return KELPIE_OK;
}

enum kelpie_status snapshot_parent_path(const char *directory, const char *place,
                                        struct snapshot_path *ret_path, struct kelpie_error *err) {
    ASSERT(directory[0] != '\0');
    ASSERT(place[0] != '\0');
    return place[0] == '/' ? snapshot_path_format(ret_path, err, "%s", place)
                           : snapshot_path_format(ret_path, err, "%s/%s", directory, place);
}

static enum kelpie_status open_parent(struct snapshot_reader *child, struct kelpie_error *err) {
    struct snapshot_path path;
    ASSERT(!child->parent);
    TRY(snapshot_parent_path(child->directory.text, child->manifest->parent_path, &path, err));
    enum kelpie_status status = open_one(child->host, path.text, &child->parent, err);
    if (status == KELPIE_NOT_FOUND || status == KELPIE_SNAPSHOT_CORRUPT) {
        status =
            error_wrap(err, KELPIE_SNAPSHOT_CORRUPT, "the parent of %.256s", child->directory.text);
        if (err) {
            snprintf(err->field, sizeof(err->field), "parent");
        }
    }
    TRY(status);
    return check_parent(child, child->parent, err);
}

enum kelpie_status snapshot_reader_open(struct host *host, const char *directory,
                                        struct snapshot_reader **ret_reader,
                                        struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    ASSERT(directory);
    ASSERT(ret_reader);
    TRY(open_one(host, directory, &reader, err));
    enum kelpie_status status = KELPIE_OK;
    size_t length = 1;
    struct snapshot_reader *last = reader;
    while (status == KELPIE_OK && last->manifest->parent_path[0] != '\0') {
        if (length++ == SNAPSHOT_CHAIN_LENGTH_MAX) {
            status = error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "parent",
                                     "the bundle %.512s has more than %d parents", directory,
                                     SNAPSHOT_CHAIN_LENGTH_MAX - 1);
        } else {
            status = open_parent(last, err);
            last = status == KELPIE_OK ? last->parent : last;
        }
    }
    if (status != KELPIE_OK) {
        snapshot_reader_close(reader);
        return status;
    }
    *ret_reader = reader;
    return KELPIE_OK;
}

void snapshot_reader_close(struct snapshot_reader *reader) {
    for (size_t length = 0; reader; length++) {
        struct snapshot_reader *parent = reader->parent;
        ASSERT(length < SNAPSHOT_CHAIN_LENGTH_MAX);
        ASSERT(reader->directory.text[HOST_PATH_SIZE_MAX] == '\0');
        for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
            host_close(reader->host, reader->part_fds[i]);
        }
        snapshot_manifest_destroy(reader->manifest);
        free(reader);
        reader = parent;
    }
}

struct snapshot_reader *snapshot_reader_parent(const struct snapshot_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->manifest);
    return reader->parent;
}

const char *snapshot_reader_directory(const struct snapshot_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->directory.text[HOST_PATH_SIZE_MAX] == '\0');
    return reader->directory.text;
}

size_t snapshot_reader_chain_length(const struct snapshot_reader *reader) {
    size_t length = 0;
    ASSERT(reader);
    for (; reader; reader = reader->parent) {
        length++;
    }
    ASSERT(length <= SNAPSHOT_CHAIN_LENGTH_MAX);
    return length;
}

const struct snapshot_manifest *snapshot_reader_manifest(const struct snapshot_reader *reader) {
    ASSERT(reader);
    ASSERT(reader->manifest);
    return reader->manifest;
}

int snapshot_reader_part(const struct snapshot_reader *reader, enum snapshot_part part) {
    ASSERT(reader);
    ASSERT((unsigned)part < SNAPSHOT_PART_COUNT);
    return reader->part_fds[part];
}

enum kelpie_status snapshot_reader_part_open(const struct snapshot_reader *reader,
                                             enum snapshot_part part, int *ret_fd,
                                             struct kelpie_error *err) {
    ASSERT(reader);
    ASSERT((unsigned)part < SNAPSHOT_PART_COUNT);
    ASSERT(ret_fd);
    if (reader->part_fds[part] == HOST_FD_NONE) {
        return error_set_field(err, KELPIE_NOT_FOUND, snapshot_part_name(part),
                               "the bundle has no %s", snapshot_part_name(part));
    }
    return host_file_reopen(reader->host, reader->part_fds[part], ret_fd, err);
}

enum kelpie_status snapshot_reader_verify(struct snapshot_reader *reader, enum snapshot_part part,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    ASSERT((unsigned)part < SNAPSHOT_PART_COUNT);
    const struct snapshot_part_info *info = &reader->manifest->parts[part];
    const char *name = snapshot_part_name(part);
    if (!info->present || reader->directory.text[0] == '\0' ||
        __atomic_load_n(&reader->verified[part], __ATOMIC_RELAXED)) {
        return KELPIE_OK;
    }
    ASSERT(reader->part_fds[part] != HOST_FD_NONE);
    TRY(snapshot_checksum_file(reader->host, reader->part_fds[part], info->size, wait, checksum,
                               err));
    if (strcmp(checksum, info->checksum) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, name,
                               "%s of the bundle %.512s is damaged: its checksum is %s, not %s",
                               name, reader->directory.text, checksum, info->checksum);
    }
    __atomic_store_n(&reader->verified[part], true, __ATOMIC_RELAXED);
    return KELPIE_OK;
}
