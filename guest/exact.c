/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "exact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "names.h"
#include "protocol/protocol_limits.h"

#define NS_PER_S 1000000000ull
#define LIST_SIZE 2048
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* ---- Owners and attributes ---------------------------------------------------------------------- */

void exact_meta_clear(struct exact_meta *meta) {
    ASSERT(meta);
    meta->uid = 0;
    meta->gid = 0;
    meta->attributes_size = 0;
    ASSERT(sizeof(meta->attributes) > 0);
}

enum kelpie_status exact_add_attribute(struct exact_meta *meta, const char *name, const void *value,
                                       size_t size, struct kelpie_error *err) {
    size_t name_size = strlen(name) + 1;
    ASSERT(name_size > 1 && name_size <= PROTOCOL_NAME_SIZE_MAX + 1);
    ASSERT(size <= UINT16_MAX);
    if (sizeof(meta->attributes) - meta->attributes_size < 4 + name_size + size) {
        return error_set_os(err, E2BIG, "keep the attribute %.100s", name);
    }
    uint8_t *at = meta->attributes + meta->attributes_size;
    const uint16_t sizes[2] = {(uint16_t)name_size, (uint16_t)size};
    memcpy(at, sizes, sizeof(sizes));
    memcpy(at + 4, name, name_size);
    memcpy(at + 4 + name_size, value, size);
    meta->attributes_size += 4 + name_size + size;
    return KELPIE_OK;
}

static int apply_attributes(int fd, const struct exact_meta *meta) {
    size_t offset = 0;
    ASSERT(fd >= 0);
    ASSERT(meta->attributes_size <= sizeof(meta->attributes));
    while (offset < meta->attributes_size) {
        uint16_t sizes[2];
        const uint8_t *at = meta->attributes + offset;
        memcpy(sizes, at, sizeof(sizes));
        const char *name = (const char *)at + 4;
        if (fsetxattr(fd, name, at + 4 + sizes[0], sizes[1], 0) != 0 && errno != EOPNOTSUPP) {
            return errno;
        }
        offset += 4u + sizes[0] + sizes[1];
    }
    ASSERT(offset == meta->attributes_size);
    return 0;
}

int exact_apply(int fd, const struct exact_meta *meta, uint32_t mode, uint64_t modified_ns) {
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_NOW},
        {.tv_sec = (time_t)(modified_ns / NS_PER_S), .tv_nsec = (long)(modified_ns % NS_PER_S)},
    };
    ASSERT(fd >= 0);
    ASSERT(mode <= 07777);
    /* A new owner takes set-user-id bits and capabilities away. */
    if (fchown(fd, meta->uid, meta->gid) != 0 || fchmod(fd, mode) != 0) {
        return errno;
    }
    int os_error = apply_attributes(fd, meta);
    if (os_error == 0 && modified_ns != 0 && futimens(fd, times) != 0) {
        os_error = errno;
    }
    return os_error;
}

uint64_t exact_link_number(const struct stat *info) {
    /* In a file system of layers two files may have one number, but then they are of two devices. */
    uint64_t number = (uint64_t)info->st_ino ^ (uint64_t)info->st_dev * 0x9e3779b97f4a7c15ull;
    ASSERT(S_ISREG(info->st_mode));
    ASSERT(info->st_nlink > 0);
    if (info->st_nlink < 2) {
        return 0;
    }
    return number != 0 ? number : 1;
}

/* ---- Emptying a folder -------------------------------------------------------------------------- */

static bool is_dots(const char *name) {
    ASSERT(name[0] != 0);
    ASSERT(strlen(name) <= PROTOCOL_NAME_SIZE_MAX);
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Removes the entry, if it is no folder that holds something: that is opened. Returns an errno or 0. */
static int remove_entry(int fd, const char *name, dev_t device, int *ret_child_fd) {
    struct stat info;
    ASSERT(fd >= 0);
    *ret_child_fd = -1;
    if (unlinkat(fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR && errno != EPERM) {
        return errno;
    }
    if (unlinkat(fd, name, AT_REMOVEDIR) == 0) {
        return 0;
    }
    if (errno != ENOTEMPTY && errno != EEXIST) {
        return errno;
    }
    int child_fd = openat(fd, name, FOLDER_FLAGS);
    if (child_fd < 0 || fstat(child_fd, &info) != 0 || info.st_dev != device) {
        int os_error = child_fd < 0 ? errno : EBUSY; /* something is mounted there */
        if (child_fd >= 0) {
            close(child_fd);
        }
        return os_error;
    }
    ASSERT(S_ISDIR(info.st_mode));
    *ret_child_fd = child_fd;
    return 0;
}

/* One pass over a folder, up to the first of its folders that holds something: that comes back, open; -1: there is none. */
static int clear_level(int fd, const char *keep, dev_t device, int *ret_child_fd) {
    uint8_t names[LIST_SIZE] __attribute__((aligned(8)));
    long size = 0;
    ASSERT(fd >= 0);
    *ret_child_fd = -1;
    while ((size = syscall(SYS_getdents64, fd, names, sizeof(names))) > 0) {
        for (long at = 0; at < size;) {
            const struct dirent64 *entry = (const void *)(names + at);
            at += entry->size;
            if (is_dots(entry->name) || (keep && strcmp(entry->name, keep) == 0)) {
                continue;
            }
            int os_error = remove_entry(fd, entry->name, device, ret_child_fd);
            if (os_error != 0 || *ret_child_fd >= 0) {
                return os_error;
            }
        }
    }
    ASSERT(size <= 0);
    return size < 0 ? errno : 0;
}

/* Goes down into the first folder that holds something, and up again when it is empty, where it is then removed: whatever the
 * depth, two descriptors are open. */
int exact_clear(int folder_fd, const char *keep) {
    struct stat info;
    uint64_t depth = 0;
    int os_error = 0;
    ASSERT(!keep || keep[0] != 0);
    int fd = openat(folder_fd, ".", FOLDER_FLAGS);
    ASSERT(folder_fd >= 0);
    if (fd < 0 || fstat(fd, &info) != 0) {
        os_error = errno;
    }
    for (uint64_t step = 0; os_error == 0 && step < GUEST_CLEAR_STEP_COUNT_MAX; step++) {
        int next_fd = -1;
        os_error = clear_level(fd, depth == 0 ? keep : NULL, info.st_dev, &next_fd);
        if (os_error != 0 || (next_fd < 0 && depth == 0)) {
            break;
        }
        bool is_down = next_fd >= 0;
        next_fd = is_down ? next_fd : openat(fd, "..", FOLDER_FLAGS);
        os_error = next_fd < 0 ? errno : 0;
        depth = is_down ? depth + 1 : depth - 1;
        close(fd);
        fd = next_fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return os_error;
}

/* ---- Exchanging the content --------------------------------------------------------------------- */

enum kelpie_status exact_begin(struct exact *exact, int place_fd, int *ret_fd,
                               struct kelpie_error *err) {
    ASSERT(place_fd >= 0);
    ASSERT(exact->place_fd == -1);
    exact->place_fd = place_fd;
    for (uint32_t i = 0; i < GUEST_TEMP_TRY_COUNT_MAX; i++) {
        uint32_t number = i;
        (void)!getrandom(&number, sizeof(number), GRND_NONBLOCK); /* or it is i */
        snprintf(exact->staging, sizeof(exact->staging), ".kelpie-%08x", number);
        if (mkdirat(place_fd, exact->staging, 0700) == 0) {
            int fd = openat(place_fd, exact->staging, FOLDER_FLAGS);
            if (fd < 0) {
                return error_set_os(err, errno, "open a folder for what comes");
            }
            *ret_fd = fd;
            return KELPIE_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    exact->staging[0] = 0;
    return error_set_os(err, errno, "make a folder for what comes");
}

/* Moves all that is in one folder into another, a folder without such names. */
static int move_all(int from_fd, int to_fd) {
    uint8_t names[LIST_SIZE] __attribute__((aligned(8)));
    long size = 1;
    ASSERT(from_fd >= 0);
    ASSERT(to_fd >= 0);
    while (size > 0) {
        bool moved = false;
        size = lseek(from_fd, 0, SEEK_SET) < 0
                   ? -1
                   : syscall(SYS_getdents64, from_fd, names, sizeof(names));
        for (long at = 0; at < size;) {
            const struct dirent64 *entry = (const void *)(names + at);
            at += entry->size;
            if (is_dots(entry->name)) {
                continue;
            }
            if (renameat(from_fd, entry->name, to_fd, entry->name) != 0) {
                return errno;
            }
            moved = true;
        }
        if (size > 0 && !moved) {
            return 0; /* what is left is "." and ".." */
        }
    }
    return size < 0 ? errno : 0;
}

enum kelpie_status exact_finish(struct exact *exact, int new_fd, struct kelpie_error *err) {
    ASSERT(exact->place_fd >= 0);
    ASSERT(exact->staging[0] != 0);
    int os_error = exact_clear(exact->place_fd, exact->staging);
    if (os_error != 0) {
        return error_set_os(err, os_error, "remove what was in the folder%s",
                            os_error == EBUSY ? ": something is mounted in it" : "");
    }
    os_error = move_all(new_fd, exact->place_fd);
    if (os_error == 0 && unlinkat(exact->place_fd, exact->staging, AT_REMOVEDIR) != 0) {
        os_error = errno;
    }
    if (os_error != 0) {
        return error_set_os(err, os_error, "put what came in its place");
    }
    exact->staging[0] = 0;
    if (exact->root_given) {
        os_error =
            exact_apply(exact->place_fd, &exact->root, exact->root_mode, exact->root_modified_ns);
    }
    return os_error == 0 ? KELPIE_OK : error_set_os(err, os_error, "set the folder's attributes");
}

void exact_close(struct exact *exact) {
    ASSERT(exact);
    ASSERT(exact->staging[0] == 0 || exact->place_fd >= 0);
    if (exact->staging[0] != 0) {
        int fd = openat(exact->place_fd, exact->staging, FOLDER_FLAGS);
        if (fd >= 0) {
            (void)exact_clear(fd, NULL); /* all that can be done about it */
            close(fd);
        }
        (void)unlinkat(exact->place_fd, exact->staging, AT_REMOVEDIR);
        exact->staging[0] = 0;
    }
    if (exact->place_fd >= 0) {
        close(exact->place_fd);
        exact->place_fd = -1;
    }
}
