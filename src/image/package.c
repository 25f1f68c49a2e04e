/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * package.c: takes a kernel, its modules or a busybox out of a Debian package (deb(5): an ar archive whose
 * member data.tar.* holds the files). Only regular files whose names are known are written, below the
 * target folder; links, devices, owners and modes are left behind. Counts and sizes are bounded.
 */
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "image/archive.h"

#define FILE_MODE 0600
#define PROGRAM_MODE 0700
#define FOLDER_MODE 0700

static bool starts_with(const char *text, const char *start) {
    ASSERT(text);
    ASSERT(start);
    return strncmp(text, start, strlen(start)) == 0;
}

const char *image_package_kept_name(const char *entry_name) {
    ASSERT(entry_name);
    const char *name = entry_name;
    if (starts_with(name, "./")) {
        name += 2;
    }
    if (!image_path_is_plain(name)) {
        return NULL;
    }
    /* Distributions are moving everything below /usr. */
    if (starts_with(name, "usr/")) {
        name += 4;
    }
    bool kernel = starts_with(name, "boot/vmlinuz-") && !strchr(name + strlen("boot/"), '/');
    bool kept = kernel || starts_with(name, "lib/modules/") || strcmp(name, "bin/busybox") == 0;
    return kept ? name : NULL;
}

struct unpacking {
    struct host *host;
    const char *folder;
    const struct host_wait *wait;
    uint64_t bytes;
    size_t files;
};

/* The entry's data to the file. libarchive hands out pieces with their offsets. */
static enum kelpie_status write_data(struct unpacking *work, struct archive *archive, int fd,
                                     struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(work->bytes <= IMAGE_PACKAGE_BYTES_MAX);
    for (;;) { /* Bounded by IMAGE_PACKAGE_BYTES_MAX: each piece counts. */
        const void *data = NULL;
        size_t size = 0;
        la_int64_t offset = 0;
        int result = archive_read_data_block(archive, &data, &size, &offset);
        if (result == ARCHIVE_EOF) {
            return KELPIE_OK;
        }
        if (result != ARCHIVE_OK || offset < 0) {
            return image_archive_failed(archive, "a package is damaged", err);
        }
        if (size > IMAGE_PACKAGE_BYTES_MAX - work->bytes ||
            (uint64_t)offset > IMAGE_PACKAGE_BYTES_MAX) {
            return error_set(err, KELPIE_NO_SPACE, "a package unpacks to more than %llu bytes",
                             (unsigned long long)IMAGE_PACKAGE_BYTES_MAX);
        }
        work->bytes += size > 0 ? size : 1;
        TRY(image_wait_check(work->host, work->wait, err));
        TRY(host_file_write_at(work->host, fd, data, size, (uint64_t)offset, err));
    }
}

static enum kelpie_status write_entry(struct unpacking *work, struct archive *archive,
                                      const char *name, struct kelpie_error *err) {
    ASSERT(image_path_is_plain(name));
    struct image_path path;
    AUTO_FD struct host_fd fd = {work->host, HOST_FD_NONE};
    TRY(image_path_format(&path, err, "%s/%s", work->folder, name));
    char *slash = strrchr(path.text, '/');
    ASSERT(slash);
    *slash = '\0';
    TRY(host_path_mkdir_all(work->host, path.text, FOLDER_MODE, err));
    *slash = '/';
    uint32_t mode = starts_with(name, "bin/") ? PROGRAM_MODE : FILE_MODE;
    TRY(host_file_open(work->host, path.text,
                       HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE |
                           HOST_OPEN_NO_FOLLOW,
                       mode, &fd.fd, err));
    TRY(write_data(work, archive, fd.fd, err));
    work->files++;
    return host_file_sync(work->host, fd.fd, err);
}

static enum kelpie_status unpack_tar(struct unpacking *work, struct archive *archive,
                                     struct kelpie_error *err) {
    ASSERT(archive);
    ASSERT(work->files == 0);
    for (size_t i = 0; i < IMAGE_PACKAGE_ENTRY_COUNT_MAX; i++) {
        struct archive_entry *entry = NULL;
        int result = archive_read_next_header(archive, &entry);
        if (result == ARCHIVE_EOF) {
            return KELPIE_OK;
        }
        if (result != ARCHIVE_OK) {
            return image_archive_failed(archive, "a package is damaged", err);
        }
        const char *entry_name = archive_entry_pathname(entry);
        bool regular = archive_entry_filetype(entry) == AE_IFREG && !archive_entry_hardlink(entry);
        const char *name = regular && entry_name ? image_package_kept_name(entry_name) : NULL;
        if (name) {
            TRY(write_entry(work, archive, name, err));
        }
    }
    return error_set(err, KELPIE_NO_SPACE, "a package has more than %d entries",
                     IMAGE_PACKAGE_ENTRY_COUNT_MAX);
}

enum kelpie_status image_package_unpack(struct host *host, const char *package_path,
                                        const char *folder, const struct host_wait *wait,
                                        struct kelpie_error *err) {
    ASSERT(package_path);
    ASSERT(folder);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    AUTO_ARCHIVE struct image_archive *outer = NULL;
    struct unpacking work = {.host = host, .folder = folder, .wait = wait};
    TRY(host_file_open(host, package_path, HOST_OPEN_READ, 0, &fd.fd, err));
    TRY(image_archive_open_file(host, fd.fd, IMAGE_ARCHIVE_AR, &outer, err));
    struct archive *members = image_archive_handle(outer);
    for (size_t i = 0; i < IMAGE_PACKAGE_MEMBER_COUNT_MAX; i++) {
        struct archive_entry *entry = NULL;
        if (archive_read_next_header(members, &entry) != ARCHIVE_OK) {
            break;
        }
        const char *name = archive_entry_pathname(entry);
        if (!name || !starts_with(name, "data.tar")) {
            continue;
        }
        AUTO_ARCHIVE struct image_archive *inner = NULL;
        TRY(image_archive_open_entry(outer, IMAGE_ARCHIVE_TAR, &inner, err));
        return unpack_tar(&work, image_archive_handle(inner), err);
    }
    return error_set(err, KELPIE_IO_FAILED, "%s is no Debian package: it has no data.tar",
                     package_path);
}
