/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The archive's format is newc (Linux documentation, "initramfs buffer format"). It is our own, but what it says is
 * checked as if it were not.
 */
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "guest_limits.h"
#include "system.h"

#define ARCHIVE "/kelpie.cpio"
#define NEW_ROOT "/new"
#define INIT "/init"

#define MAGIC "070701"
#define MAGIC_SIZE 6
#define HEADER_SIZE 110
#define FIELD_SIZE 8
#define FIELD_MODE 1
#define FIELD_FILE_SIZE 6
#define FIELD_NAME_SIZE 11
#define TRAILER "TRAILER!!!"

struct entry {
    const char *name; /* zero-terminated */
    uint32_t mode;
    const uint8_t *data;
    size_t size;
};

/* ---- The archive -------------------------------------------------------------------------------- */

static bool field(const uint8_t *header, unsigned index, uint32_t *ret) {
    uint32_t value = 0;
    ASSERT(ret);
    ASSERT(MAGIC_SIZE + (index + 1) * FIELD_SIZE <= HEADER_SIZE);
    for (unsigned i = 0; i < FIELD_SIZE; i++) {
        static const char digits[] = "0123456789abcdef";
        uint8_t c = header[MAGIC_SIZE + index * FIELD_SIZE + i];
        const char *digit = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + ('a' - 'A') : c) : NULL;
        if (!digit) {
            return false;
        }
        value = value << 4 | (uint32_t)(digit - digits);
    }
    *ret = value;
    return true;
}

static size_t padded(size_t offset) {
    ASSERT(offset <= SIZE_MAX - 3);
    static_assert(HEADER_SIZE % 4 == 2, "header and name are padded together");
    return (offset + 3) & ~(size_t)3;
}

/* The entry at *offset, which goes on behind it. */
static bool next_entry(const uint8_t *archive, size_t size, size_t *offset, struct entry *ret) {
    uint32_t name_size = 0;
    uint32_t file_size = 0;
    ASSERT(*offset <= size);
    ASSERT(ret);
    const uint8_t *header = archive + *offset;
    size_t left = size - *offset;
    if (left < HEADER_SIZE || memcmp(header, MAGIC, MAGIC_SIZE) != 0 ||
        !field(header, FIELD_MODE, &ret->mode) || !field(header, FIELD_FILE_SIZE, &file_size) ||
        !field(header, FIELD_NAME_SIZE, &name_size)) {
        return false;
    }
    if (name_size == 0 || name_size > GUEST_ARCHIVE_NAME_SIZE_MAX ||
        left - HEADER_SIZE < name_size || header[HEADER_SIZE + name_size - 1] != 0) {
        return false;
    }
    size_t start = padded(*offset + HEADER_SIZE + name_size);
    if (start > size || size - start < file_size) {
        return false;
    }
    ret->name = (const char *)header + HEADER_SIZE;
    ret->data = archive + start;
    ret->size = file_size;
    size_t end = padded(start + file_size);
    *offset = end < size ? end : size;
    return true;
}

/* ---- Making what it names ----------------------------------------------------------------------- */

/* A relative name without empty parts, "." and "..". */
static bool name_is_plain(const char *name) {
    ASSERT(name);
    const char *part = name;
    for (size_t i = 0; i < GUEST_ARCHIVE_NAME_SIZE_MAX && part; i++) {
        size_t size = strcspn(part, "/");
        bool dots = (size == 1 && part[0] == '.') || (size == 2 && memcmp(part, "..", 2) == 0);
        if (size == 0 || dots) {
            return false;
        }
        part = part[size] ? part + size + 1 : NULL;
    }
    ASSERT(!part);
    return true;
}

static bool file_make(int folder_fd, const struct entry *entry) {
    ASSERT(folder_fd >= 0);
    ASSERT(S_ISREG(entry->mode));
    int fd = openat(folder_fd, entry->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    entry->mode & 07777);
    size_t done = 0;
    while (fd >= 0 && done < entry->size) {
        ssize_t count = write(fd, entry->data + done, entry->size - done);
        if (count <= 0) {
            break;
        }
        done += (size_t)count;
    }
    bool made = fd >= 0 && done == entry->size && fchmod(fd, entry->mode & 07777) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return made;
}

static bool link_make(int folder_fd, const struct entry *entry) {
    char target[GUEST_ARCHIVE_NAME_SIZE_MAX + 1];
    ASSERT(folder_fd >= 0);
    ASSERT(S_ISLNK(entry->mode));
    ASSERT(entry->name);
    if (entry->size == 0 || entry->size >= sizeof(target)) {
        return false;
    }
    memcpy(target, entry->data, entry->size);
    target[entry->size] = 0;
    return symlinkat(target, folder_fd, entry->name) == 0;
}

static bool entry_make(int folder_fd, const struct entry *entry) {
    ASSERT(folder_fd >= 0);
    ASSERT(entry->name);
    if (!name_is_plain(entry->name)) {
        errno = EINVAL;
        return false;
    }
    if (S_ISDIR(entry->mode)) {
        return mkdirat(folder_fd, entry->name, 0700) == 0 &&
               fchmodat(folder_fd, entry->name, entry->mode & 07777, 0) == 0;
    }
    if (S_ISREG(entry->mode)) {
        return file_make(folder_fd, entry);
    }
    errno = EINVAL;
    return S_ISLNK(entry->mode) && link_make(folder_fd, entry);
}

bool root_unpack(const void *archive, size_t size, int folder_fd) {
    size_t offset = 0;
    ASSERT(archive);
    ASSERT(folder_fd >= 0);
    for (size_t i = 0; i < GUEST_ARCHIVE_ENTRY_COUNT_MAX; i++) {
        struct entry entry = {.name = NULL};
        errno = EINVAL;
        if (!next_entry(archive, size, &offset, &entry)) {
            return false;
        }
        if (strcmp(entry.name, TRAILER) == 0) {
            return true;
        }
        if (!entry_make(folder_fd, &entry)) {
            return false;
        }
    }
    errno = E2BIG;
    return false;
}

/* ---- The move ----------------------------------------------------------------------------------- */

bool root_is_medium(void) {
    ASSERT(getpid() == 1);
    static_assert(sizeof(ARCHIVE) > 1, "a path");
    return access(ARCHIVE, R_OK) == 0;
}

static bool unpack_file(int folder_fd) {
    struct stat info;
    ASSERT(folder_fd >= 0);
    int fd = open(ARCHIVE, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0 || info.st_size <= 0) {
        return false; /* of process 1: the end is near, and takes the descriptor along */
    }
    void *archive = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (archive == MAP_FAILED) {
        return false;
    }
    ASSERT(archive);
    bool done = root_unpack(archive, (size_t)info.st_size, folder_fd);
    int kept = errno;
    munmap(archive, (size_t)info.st_size);
    errno = kept;
    return done;
}

void root_leave_medium(void) {
    ASSERT(getpid() == 1);
    const char *step = "mount " NEW_ROOT;
    bool done = mount("tmpfs", NEW_ROOT, "tmpfs", 0, "mode=0755") == 0;
    int folder_fd = done ? open(NEW_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (folder_fd >= 0) {
        step = "unpack " ARCHIVE;
        done = unpack_file(folder_fd);
    }
    if (done) {
        /* The new root is put over the old one, which is then taken away from below it: pivot_root(2), "Notes". */
        step = "change the root";
        done = fchdir(folder_fd) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 &&
               umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
    }
    if (done) {
        system_log("the root is a tmpfs with what " ARCHIVE " has");
        step = "start " INIT;
        char *const argv[] = {INIT, NULL};
        (void)execv(INIT, argv);
    }
    system_log("%s: %s", step, strerror(errno));
    ASSERT(step);
}
