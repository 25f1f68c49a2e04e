/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host removes a whole folder.
 *
 * Theory of operation. Somebody else may change the tree meanwhile: a guest's share, another command. So no name is used twice as a
 * path: each folder is opened below its parent's descriptor, never through a link and never into another file system
 * (openat2(2)), and what is in it is removed relative to that descriptor. A folder that was swapped for a link
 * is refused; one that was moved away is emptied of what was in our tree, wherever it is now. The folders that are open
 * form a stack, whose height is bounded.
 */
#include "host/host_linux.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"

/* A folder that is being emptied. */
struct tree_level {
    DIR *folder;
    char name[HOST_NAME_SIZE_MAX + 1]; /* in the folder above */
    unsigned pass_count;
};

struct tree {
    const char *path;
    struct tree_level levels[HOST_TREE_DEPTH_MAX];
    size_t depth; /* those that are open */
};

static enum kelpie_status tree_error(const struct tree *tree, int os_error, const char *name,
                                     struct kelpie_error *err) {
    ASSERT(tree && name);
    ASSERT(os_error != 0);
    return error_set_os(err, os_error, "cannot remove '%s' of '%s'", name, tree->path);
}

/* openat2(2), or what comes near it where a sandbox knows no such call. Returns a descriptor or a negative errno. */
static int open_folder(int parent_fd, const char *path, uint64_t resolve) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    struct open_how how = {.flags = (unsigned)flags, .resolve = resolve};
    ASSERT(path);
    ASSERT(flags >= 0);
    long fd = RETRY_EINTR(syscall(SYS_openat2, parent_fd, path, &how, sizeof(how)));
    if (fd < 0 && errno == ENOSYS) {
        fd = RETRY_EINTR(openat(parent_fd, path, flags));
    }
    return fd < 0 ? -errno : (int)fd;
}

/* What was unpacked from an archive may deny its owner to write. Its mode is of no more use: it is about to go. */
static void make_writable(int fd) {
    struct stat stat = {0};
    ASSERT(fd >= 0);
    if (fstat(fd, &stat) == 0 && (stat.st_mode & 0700) != 0700) {
        (void)fchmod(fd, 0700);
    }
    ASSERT(S_ISDIR(stat.st_mode) || stat.st_mode == 0);
}

/* Puts a folder that was opened on the stack. fd is taken over. */
static enum kelpie_status tree_push(struct tree *tree, int fd, const char *name,
                                    struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(strlen(name) <= HOST_NAME_SIZE_MAX || tree->depth == 0);
    if (tree->depth == HOST_TREE_DEPTH_MAX) {
        close(fd);
        return error_set_os(err, ELOOP, "'%s' has more than %d folders in each other", tree->path,
                            HOST_TREE_DEPTH_MAX);
    }
    make_writable(fd);
    struct tree_level *level = &tree->levels[tree->depth];
    *level = (struct tree_level){.folder = fdopendir(fd)};
    if (!level->folder) {
        int os_error = errno;
        close(fd);
        return tree_error(tree, os_error, name, err);
    }
    snprintf(level->name, sizeof(level->name), "%s", tree->depth == 0 ? "" : name);
    tree->depth++;
    return KELPIE_OK;
}

/* Removes an entry that is no folder; of a folder, goes into it. */
static enum kelpie_status tree_remove_entry(struct tree *tree, const char *name,
                                            struct kelpie_error *err) {
    int parent_fd = dirfd(tree->levels[tree->depth - 1].folder);
    ASSERT(parent_fd >= 0);
    ASSERT(tree->depth > 0);
    if (strlen(name) > HOST_NAME_SIZE_MAX) {
        return tree_error(tree, ENAMETOOLONG, name, err);
    }
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT) {
        return KELPIE_OK;
    }
    int os_error = errno;
    if (os_error != EISDIR && os_error != EPERM) {
        return tree_error(tree, os_error, name, err);
    }
    int fd = open_folder(parent_fd, name, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (fd == -ENOENT) {
        return KELPIE_OK;
    }
    if (fd < 0) {
        return tree_error(tree, fd == -ENOTDIR && os_error == EPERM ? EPERM : -fd, name, err);
    }
    return tree_push(tree, fd, name, err);
}

/* The top folder has no entries any more, or seems to: it goes too. Entries that came meanwhile give it another pass. */
static enum kelpie_status tree_pop(struct tree *tree, struct kelpie_error *err) {
    struct tree_level *level = &tree->levels[tree->depth - 1];
    ASSERT(tree->depth > 0 && level->folder);
    int parent_fd = tree->depth > 1 ? dirfd(tree->levels[tree->depth - 2].folder) : AT_FDCWD;
    const char *name = tree->depth > 1 ? level->name : tree->path;
    int os_error = unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 ? errno : 0;
    if (os_error == ENOTEMPTY && level->pass_count < HOST_TREE_PASS_COUNT_MAX) {
        level->pass_count++;
        rewinddir(level->folder);
        return KELPIE_OK;
    }
    if (os_error != 0 && os_error != ENOENT) {
        return tree_error(tree, os_error, name, err);
    }
    closedir(level->folder);
    tree->depth--;
    return KELPIE_OK;
}

static bool is_dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* One entry, or the end of one folder. */
static enum kelpie_status tree_step(struct tree *tree, struct kelpie_error *err) {
    ASSERT(tree->depth > 0);
    ASSERT(tree->depth <= HOST_TREE_DEPTH_MAX);
    errno = 0;
    const struct dirent *entry = readdir(tree->levels[tree->depth - 1].folder);
    if (entry) {
        return is_dots(entry->d_name) ? KELPIE_OK : tree_remove_entry(tree, entry->d_name, err);
    }
    if (errno != 0) {
        return tree_error(tree, errno, tree->levels[tree->depth - 1].name, err);
    }
    return tree_pop(tree, err);
}

enum kelpie_status linux_path_remove_tree(struct host *host, const char *path,
                                          struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path && path[0] != '\0');
    AUTO_MEM struct tree *tree = calloc(1, sizeof(*tree));
    if (!tree) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot remove '%s'", path);
    }
    tree->path = path;
    int fd = open_folder(AT_FDCWD, path, 0);
    if (fd == -ENOENT) {
        return KELPIE_OK;
    }
    if (fd < 0) {
        return error_set_os(err, fd == -ELOOP ? ENOTDIR : -fd, "cannot remove the folder '%s'",
                            path);
    }
    enum kelpie_status status = tree_push(tree, fd, path, err);
    while (status == KELPIE_OK && tree->depth > 0) {
        status = tree_step(tree, err);
    }
    while (tree->depth > 0) {
        closedir(tree->levels[--tree->depth].folder);
    }
    return status;
}
