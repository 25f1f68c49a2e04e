/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host's names below a folder. The part before the last is resolved by openat2(2), which refuses to leave the
 * folder and to follow a link, whatever changes meanwhile; the last part is then a single name in an open folder, to
 * which the calls that follow no link are applied.
 */
#include "host/host_linux.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "host/host_below.h"

static int open_below(int root_fd, const char *name, unsigned flags, unsigned mode) {
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .mode = mode,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    ASSERT(root_fd >= 0);
    ASSERT(name[0] != '/');
    return (int)RETRY_EINTR(syscall(SYS_openat2, root_fd, name, &how, sizeof(how)));
}

static int open_file(const struct host_below *call) {
    unsigned flags = O_NOCTTY | O_NONBLOCK | O_NOFOLLOW;
    ASSERT(call->action == HOST_BELOW_OPEN);
    ASSERT(call->mode <= 07777);
    if (call->flags & HOST_OPEN_WRITE) {
        flags |= (call->flags & HOST_OPEN_READ) ? O_RDWR : O_WRONLY;
    }
    flags |= (call->flags & HOST_OPEN_CREATE) ? O_CREAT : 0;
    flags |= (call->flags & HOST_OPEN_EXCLUSIVE) ? O_EXCL : 0;
    flags |= (call->flags & HOST_OPEN_TRUNCATE) ? O_TRUNC : 0;
    /* A mode without O_CREAT is an error of openat2's. */
    return open_below(call->root_fd, call->name, flags,
                      (call->flags & HOST_OPEN_CREATE) ? call->mode : 0);
}

/* The folder of the name's last part, which *ret_last is. Returns a descriptor or -1. */
static int open_parent(const struct host_below *call, const char **ret_last) {
    char parent[HOST_PATH_SIZE_MAX + 1];
    const char *slash = strrchr(call->name, '/');
    size_t size = slash ? (size_t)(slash - call->name) : 1;
    ASSERT(ret_last);
    ASSERT(size > 0);
    if (size >= sizeof(parent)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, slash ? call->name : ".", size);
    parent[size] = '\0';
    *ret_last = slash ? slash + 1 : call->name;
    return open_below(call->root_fd, parent, O_PATH | O_DIRECTORY, 0);
}

/* Each returns 0 or an errno. */
static int read_link(int folder_fd, const char *last, struct host_below *call) {
    char text[HOST_PATH_SIZE_MAX + 1];
    ASSERT(call->buffer && call->size > 0);
    ssize_t count = readlinkat(folder_fd, last, text, sizeof(text));
    if (count < 0) {
        return errno;
    }
    if ((size_t)count >= call->size || (size_t)count >= sizeof(text)) {
        return EFBIG;
    }
    ASSERT(count > 0);
    memcpy(call->buffer, text, (size_t)count);
    call->buffer[count] = '\0';
    return 0;
}

static int look_at(int folder_fd, const char *last, struct host_below *call) {
    struct stat stat = {0};
    ASSERT(folder_fd >= 0);
    ASSERT(call->action == HOST_BELOW_STAT);
    if (fstatat(folder_fd, last, &stat, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno;
    }
    linux_file_info(&stat, &call->info);
    return 0;
}

static int act_on_last(struct host_below *call) {
    const char *last = NULL;
    int folder_fd = open_parent(call, &last);
    int os_error = 0;
    if (folder_fd < 0) {
        return errno;
    }
    ASSERT(last && last[0] != '\0');
    ASSERT(!strchr(last, '/'));
    if (call->action == HOST_BELOW_STAT) {
        os_error = look_at(folder_fd, last, call);
    } else if (call->action == HOST_BELOW_READLINK) {
        os_error = read_link(folder_fd, last, call);
    } else if (call->action == HOST_BELOW_MKDIR) {
        os_error = mkdirat(folder_fd, last, (mode_t)call->mode) < 0 ? errno : 0;
    } else {
        os_error = symlinkat(call->target, folder_fd, last) < 0 ? errno : 0;
    }
    close(folder_fd);
    return os_error;
}

static enum kelpie_status list(struct host_below *call, struct kelpie_error *err) {
    int fd = open_below(call->root_fd, call->name, O_RDONLY | O_DIRECTORY, 0);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        int os_error = errno;
        if (fd >= 0) {
            close(fd);
        }
        return error_set_os(err, os_error, "cannot open the folder '%s'", call->name);
    }
    ASSERT(call->action == HOST_BELOW_LIST);
    ASSERT(call->entries || call->capacity == 0);
    enum kelpie_status status =
        linux_dir_read(folder, call->name, call->entries, call->capacity, &call->count, err);
    closedir(folder);
    return status;
}

enum kelpie_status linux_below(struct host *host, struct host_below *call,
                               struct kelpie_error *err) {
    static const char *const whats[] = {
        [HOST_BELOW_OPEN] = "open",         [HOST_BELOW_STAT] = "look at",
        [HOST_BELOW_LIST] = "list",         [HOST_BELOW_READLINK] = "read the link",
        [HOST_BELOW_MKDIR] = "make folder", [HOST_BELOW_SYMLINK] = "make the link",
    };
    ASSERT(host);
    ASSERT((size_t)call->action < ARRAY_SIZE(whats));
    int os_error = 0;
    if (call->action == HOST_BELOW_LIST) {
        return list(call, err);
    }
    if (call->action == HOST_BELOW_OPEN) {
        call->fd = open_file(call);
        os_error = call->fd < 0 ? errno : 0;
    } else {
        os_error = act_on_last(call);
    }
    return os_error == 0
               ? KELPIE_OK
               : error_set_os(err, os_error, "cannot %s '%s'", whats[call->action], call->name);
}
