/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's names: links, folders, renaming. */
#include "host/host_linux.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"

#define DISK_BLOCK_SIZE 512 /* stat(2): the unit of st_blocks */

static enum host_file_type type_of_mode(mode_t mode) {
    if (S_ISREG(mode)) {
        return HOST_FILE_REGULAR;
    }
    if (S_ISDIR(mode)) {
        return HOST_FILE_FOLDER;
    }
    return S_ISLNK(mode) ? HOST_FILE_LINK : HOST_FILE_OTHER;
}

void linux_file_info(const struct stat *stat, struct host_file_info *ret_info) {
    ASSERT(stat && ret_info);
    ASSERT(stat->st_size >= 0 && stat->st_blocks >= 0);
    *ret_info = (struct host_file_info){
        .type = type_of_mode(stat->st_mode),
        .mode = stat->st_mode & 07777,
        .uid = stat->st_uid,
        .size = (uint64_t)stat->st_size,
        .allocated_size = (uint64_t)stat->st_blocks * DISK_BLOCK_SIZE,
        .modified_ns =
            (uint64_t)stat->st_mtim.tv_sec * HOST_NS_PER_S + (uint64_t)stat->st_mtim.tv_nsec,
        .inode = stat->st_ino,
        .device = stat->st_dev,
    };
}

enum kelpie_status linux_path_stat(struct host *host, const char *path,
                                   struct host_file_info *ret_info, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path && ret_info);
    struct stat stat = {0};
    if (lstat(path, &stat) < 0) {
        return error_set_os(err, errno, "cannot look at '%s'", path);
    }
    linux_file_info(&stat, ret_info);
    return KELPIE_OK;
}

/* For file systems without RENAME_NOREPLACE. Whoever makes the new name first has it: a link for a
 * file, an empty folder (which rename(2) then replaces) for a folder. Returns an errno or 0. */
static int rename_by_claim(const char *from, const char *to) {
    ASSERT(from && to);
    struct stat stat = {0};
    if (lstat(from, &stat) < 0) {
        return errno;
    }
    if (!S_ISDIR(stat.st_mode)) {
        if (linkat(AT_FDCWD, from, AT_FDCWD, to, 0) < 0) {
            return errno;
        }
        return unlink(from) < 0 ? errno : 0;
    }
    if (mkdir(to, 0700) < 0) {
        return errno;
    }
    if (rename(from, to) < 0) {
        int os_error = errno;
        (void)rmdir(to);
        return os_error;
    }
    return 0;
}

enum kelpie_status linux_path_rename(struct host *host, const char *from, const char *to,
                                     bool replace, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(from && to);
    unsigned flags = replace ? 0 : RENAME_NOREPLACE;
    int os_error = renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) < 0 ? errno : 0;
    if (!replace && (os_error == EINVAL || os_error == ENOSYS)) {
        os_error = rename_by_claim(from, to);
    }
    if (os_error != 0) {
        return error_set_os(err, os_error, "cannot rename '%s' to '%s'", from, to);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_path_unlink(struct host *host, const char *path,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    if (unlink(path) < 0) {
        return error_set_os(err, errno, "cannot remove '%s'", path);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_path_mkdir(struct host *host, const char *path, uint32_t mode,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    if (mkdir(path, (mode_t)mode) < 0) {
        return error_set_os(err, errno, "cannot make the folder '%s'", path);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_path_rmdir(struct host *host, const char *path, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    if (rmdir(path) < 0) {
        return error_set_os(err, errno, "cannot remove the folder '%s'", path);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_path_symlink(struct host *host, const char *target, const char *path,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(target && path);
    if (symlink(target, path) < 0) {
        return error_set_os(err, errno, "cannot make the link '%s' to '%s'", path, target);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_path_readlink(struct host *host, const char *path, char *buffer,
                                       size_t size, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(buffer && size > 0);
    char text[HOST_PATH_SIZE_MAX + 1];
    ssize_t count = readlink(path, text, sizeof(text));
    if (count < 0) {
        return error_set_os(err, errno, "cannot read the link '%s'", path);
    }
    if ((size_t)count >= size || (size_t)count >= sizeof(text)) {
        return error_set(err, KELPIE_NO_SPACE, "the link '%s' is longer than %zu bytes", path,
                         size - 1);
    }
    memcpy(buffer, text, (size_t)count);
    buffer[count] = '\0';
    return KELPIE_OK;
}

enum kelpie_status linux_path_sync(struct host *host, const char *path, struct kelpie_error *err) {
    ASSERT(path);
    AUTO_FD struct host_fd folder = {host,
                                     RETRY_EINTR(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC))};
    if (folder.fd < 0) {
        return error_set_os(err, errno, "cannot open the folder '%s'", path);
    }
    if (RETRY_EINTR(fsync(folder.fd)) < 0) {
        return error_set_os(err, errno, "cannot sync the folder '%s' to its disk", path);
    }
    return KELPIE_OK;
}

/* ---- Listing ---------------------------------------------------------------------------------- */

static int compare_entries(const void *a, const void *b) {
    ASSERT(a && b);
    const struct host_dir_entry *first = a;
    const struct host_dir_entry *second = b;
    return strcmp(first->name, second->name);
}

static bool is_dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static enum kelpie_status read_entries(DIR *folder, const char *path,
                                       struct host_dir_entry *entries, size_t capacity,
                                       size_t *ret_count, struct kelpie_error *err) {
    ASSERT(folder);
    ASSERT(ret_count);
    size_t count = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (!entry && errno != 0) {
            return error_set_os(err, errno, "cannot list the folder '%s'", path);
        }
        if (!entry) {
            break;
        }
        if (is_dots(entry->d_name)) {
            continue;
        }
        if (count == capacity) {
            return error_set(err, KELPIE_NO_SPACE, "the folder '%s' has more than %zu entries",
                             path, capacity);
        }
        snprintf(entries[count].name, sizeof(entries[count].name), "%s", entry->d_name);
        count++;
    }
    ASSERT(count <= capacity);
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status linux_dir_read(DIR *folder, const char *path, struct host_dir_entry *entries,
                                  size_t capacity, size_t *ret_count, struct kelpie_error *err) {
    size_t count = 0;
    ASSERT(folder && path);
    ASSERT(entries || capacity == 0);
    TRY(read_entries(folder, path, entries, capacity, &count, err));
    if (count > 1) {
        qsort(entries, count, sizeof(entries[0]), compare_entries);
    }
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status linux_dir_list(struct host *host, const char *path,
                                  struct host_dir_entry *entries, size_t capacity,
                                  size_t *ret_count, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    DIR *folder = opendir(path);
    if (!folder) {
        return error_set_os(err, errno, "cannot open the folder '%s'", path);
    }
    enum kelpie_status status = linux_dir_read(folder, path, entries, capacity, ret_count, err);
    closedir(folder);
    return status;
}
